/* Refs of ours to another repository, through libgit2. See push.h; to a path: push_path.c. */
#include "store/push.h"

#include <stdlib.h>
#include <string.h>

#include "format/limits.h"
#include "store/arrival_child.h"
#include "store/oci.h"
#include "store/push_plan.h"

const char *push_status_name(enum push_status status)
{
    static const char *const names[] = {"up-to-date", "created", "fast-forward",
                                        "forced",     "deleted", "refused"};

    return names[status];
}

void push_refs_release(struct push_ref *refs, size_t count)
{
    for (size_t i = 0; i < count; i++) {
        free(refs[i].why);
        refs[i].why = NULL;
    }
}

/* What the two processes tell each other. */
enum {
    RECORD_OLD,    /* size_t index, git_oid: what is there */
    RECORD_WHY,    /* size_t index, the server's words */
    RECORD_COUNTS, /* struct push_result */
};

struct pushing {
    struct credentials *credentials; /* first: credentials.h */
    const struct push_request *request;
    struct store *store;
    struct worker *worker;
    git_remote *remote;
    struct push_result *result;
    int err; /* ours, that a callback ended with */
};

static struct bytes bytes_at(const void *data, size_t len)
{
    return (struct bytes){data, len};
}

static int push_failed(struct pushing *pushing, int code)
{
    if (pushing->err < 0)
        return pushing->err;
    int err = credentials_failed(pushing->credentials, code);
    return err < 0 ? err : git_failed(code, "%s", credentials_shown(pushing->credentials));
}

/* The process that sends */

static int sent(unsigned current, unsigned total, size_t bytes, void *context)
{
    struct pushing *pushing = context;

    (void)total;
    pushing->result->bytes = bytes;
    pushing->result->objects = current;
    pushing->err = worker_progress(pushing->worker, bytes);
    return pushing->err < 0 ? GIT_EUSER : 0;
}

static int packing(int stage, uint32_t current, uint32_t total, void *context)
{
    (void)stage;
    (void)current;
    (void)total;
    worker_alive(((struct pushing *)context)->worker, true);
    return 0;
}

static int said(const char *text, int len, void *context)
{
    (void)text;
    (void)len;
    worker_alive(((struct pushing *)context)->worker, true);
    return 0;
}

static bool ref_find(size_t *out, const struct push_request *request, const char *name)
{
    size_t i = 0;

    while (i < request->count && strcmp(request->refs[i].name, name) != 0)
        i++;
    *out = i;
    return i < request->count;
}

/* What the server made of a ref; NULL: it did what it was asked. */
static int answered(const char *name, const char *status, void *context)
{
    struct pushing *pushing = context;
    size_t index;

    if (!status || !ref_find(&index, pushing->request, name))
        return 0;
    pushing->err = worker_tell(
        pushing->worker, RECORD_WHY, bytes_at(&index, sizeof(index)), text_bytes(status)
    );
    return pushing->err < 0 ? GIT_EUSER : 0;
}

static void callbacks_set(git_remote_callbacks *out, struct pushing *pushing)
{
    out->payload = pushing;
    out->push_transfer_progress = sent;
    out->pack_progress = packing;
    out->sideband_progress = said;
    out->push_update_reference = answered;
}

static int olds_read(struct pushing *pushing)
{
    const git_remote_head **heads = NULL;
    size_t count = 0;
    int err = 0;

    int code = git_remote_ls(&heads, &count, pushing->remote);
    if (code < 0)
        return push_failed(pushing, code);
    for (size_t i = 0; err == 0 && i < count; i++) {
        size_t index;
        if (!ref_find(&index, pushing->request, heads[i]->name))
            continue;
        struct push_ref *ref = &pushing->request->refs[index];
        ref->has_old = true;
        ref->old = heads[i]->oid;
        err = worker_tell(
            pushing->worker, RECORD_OLD, bytes_at(&index, sizeof(index)),
            bytes_at(&ref->old, sizeof(ref->old))
        );
    }
    return err;
}

/* "+refs/heads/main:refs/heads/main", ":refs/heads/gone": those that are to change. (libgit2 1.5
   sends no ids.) */
static int specs_make(struct buf *out, size_t *count, const struct push_request *request)
{
    int err = 0;

    for (size_t i = 0; err == 0 && i < request->count; i++) {
        const struct push_ref *ref = &request->refs[i];
        if (ref->status == PUSH_UP_TO_DATE)
            continue;
        if (ref->is_deletion)
            err = buf_printf(out, ":%s", ref->name);
        else
            err = buf_printf(out, "%s%s:%s", ref->force ? "+" : "", ref->name, ref->name);
        if (err == 0)
            err = buf_append_byte(out, '\0');
        (*count)++;
    }
    return err;
}

static int upload(struct pushing *pushing)
{
    git_push_options options;
    AUTO_FREE(char *, list);
    AUTO_BUF(texts);
    size_t count = 0;

    int code = git_push_options_init(&options, GIT_PUSH_OPTIONS_VERSION);
    if (code < 0)
        return git_failed(code, "push");
    int err = specs_make(&texts, &count, pushing->request);
    if (err < 0 || !count)
        return err;
    if (!(list = array_new(count, sizeof(*list))))
        return error_wrap(E_NOMEM, "push");
    char *at = (char *)texts.data;
    for (size_t i = 0; i < count; i++, at += strlen(at) + 1)
        list[i] = at;
    callbacks_set(&options.callbacks, pushing);
    credentials_push(&options);
    options.pb_parallelism = 1;
    const git_strarray specs = {list, count};
    code = git_remote_upload(pushing->remote, &specs, &options);
    return code < 0 ? push_failed(pushing, code) : 0;
}

static int connect_to(struct pushing *pushing)
{
    git_remote_connect_options options;

    int err = credentials_remote(
        &pushing->credentials, &pushing->remote, pushing->store->repo, pushing->request->url
    );
    if (err < 0)
        return err;
    int code = git_remote_connect_options_init(&options, GIT_REMOTE_CONNECT_OPTIONS_VERSION);
    if (code < 0)
        return push_failed(pushing, code);
    callbacks_set(&options.callbacks, pushing);
    credentials_connect(&options);
    code = git_remote_connect_ext(pushing->remote, GIT_DIRECTION_PUSH, &options);
    if (code < 0)
        return push_failed(pushing, code);
    credentials_accepted(pushing->credentials);
    return 0;
}

static int push_work(void *context, struct worker *worker)
{
    struct pushing *pushing = context;
    const struct push_request *request = pushing->request;
    struct push_result result = {0};
    size_t refused = 0;
    int err;

    pushing->worker = worker;
    pushing->result = &result;
    worker_alive(worker, true);
    if ((err = connect_to(pushing)) < 0 || (err = olds_read(pushing)) < 0 ||
        (err = push_judge(&refused, pushing->store, request->refs, request->count)) < 0)
        return err;
    if (!refused && (err = upload(pushing)) < 0)
        return err;
    return worker_tell(worker, RECORD_COUNTS, bytes_at(&result, sizeof(result)), (struct bytes){0});
}

/* The process that waits */

static int push_take(void *context, uint32_t type, struct bytes record)
{
    struct pushing *pushing = context;
    size_t index = 0;

    if (type == RECORD_COUNTS && record.len == sizeof(*pushing->result)) {
        memcpy(pushing->result, record.data, record.len);
        return 0;
    }
    if (record.len < sizeof(index))
        return error_set(E_IO, "push: half a record");
    memcpy(&index, record.data, sizeof(index));
    if (index >= pushing->request->count)
        return error_set(E_IO, "push: a record of no ref");
    struct push_ref *ref = &pushing->request->refs[index];
    const struct bytes rest = {record.data + sizeof(index), record.len - sizeof(index)};
    if (type == RECORD_OLD && rest.len == sizeof(ref->old)) {
        ref->has_old = true;
        memcpy(&ref->old, rest.data, rest.len);
    } else if (type == RECORD_WHY) {
        free(ref->why);
        if (!(ref->why = bytes_dup(rest)))
            return error_wrap(E_NOMEM, "push");
    }
    return 0;
}

/* A server that refuses a ref says why. */
static void answers_take(size_t *refused, const struct push_request *request)
{
    for (size_t i = 0; i < request->count; i++) {
        struct push_ref *ref = &request->refs[i];
        if (!ref->why || ref->status == PUSH_REFUSED)
            continue;
        ref->status = PUSH_REFUSED;
        (*refused)++;
    }
}

static int
push_over_network(struct push_result *out, struct store *store, const struct push_request *request)
{
    struct pushing pushing = {.request = request, .store = store, .result = out};
    AUTO_FREE(char, name);

    int err = url_name(&name, request->url);
    if (err < 0)
        return err;
    struct worker worker = {
        .name = name,
        .file_bytes = LIMIT_ARRIVING,
        .stall_seconds = request->stall_seconds,
        .context = &pushing,
        .work = push_work,
        .take = push_take,
        .progress = request->progress,
    };
    size_t refused = 0;

    err = worker_run(&worker);
    if (err < 0 || (err = push_judge(&refused, store, request->refs, request->count)) < 0)
        return err;
    answers_take(&refused, request);
    return refused ? push_refused(name, request->refs, request->count) : 0;
}

int push_send(struct push_result *out, struct store *store, const struct push_request *request)
{
    struct push_result result = {0};

    int err = push_ours(store, request->refs, request->count);
    if (err == 0 && oci_is_url(request->url))
        err = oci_push(&result, store, request);
    else if (err == 0)
        err = url_is_path(request->url) ? push_to_path(&result, store, request)
                                        : push_over_network(&result, store, request);
    if (err == 0)
        *out = result;
    return err;
}
