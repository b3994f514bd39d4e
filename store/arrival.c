/* Objects from another repository. See arrival.h. */
#include "store/arrival_child.h"

#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "format/file.h"
#include "format/limits.h"
#include "store/ancestry.h"
#include "store/fsck_report.h"
#include "store/oci.h"
#include "store/quarantine.h"

#define RETRIES  3
#define PAUSE_MS 500u
#define STEP_MS  50u

void arrival_release(struct arrival *arrival)
{
    for (size_t i = 0; i < arrival->count; i++)
        free(arrival->refs[i].name);
    free(arrival->refs);
    free(arrival->head);
    *arrival = (struct arrival){0};
}

/* What the two processes tell each other. */
enum {
    RECORD_REF,    /* git_oid, name */
    RECORD_HEAD,   /* name */
    RECORD_COUNTS, /* struct counts */
    RECORD_WHOLE,  /* nothing: it is no shallow one */
    RECORD_LOST,   /* nothing: what ends it is worth another try */
};

static struct bytes bytes_at(const void *data, size_t len)
{
    return (struct bytes){data, len};
}

/* The process that fetches */

static int transfer_progress(const git_indexer_progress *stats, void *context)
{
    struct child *child = context;

    child->counts.objects = stats->received_objects;
    child->err = child_progress(child, stats->received_bytes);
    return child->err < 0 ? GIT_EUSER : 0;
}

/* What a server says while it packs tells that it lives. */
static int sideband_progress(const char *text, int len, void *context)
{
    struct child *child = context;

    (void)text;
    (void)len;
    worker_alive(child->worker, true);
    return 0;
}

static void callbacks_set(git_remote_callbacks *out, struct child *child)
{
    out->payload = child;
    out->transfer_progress = transfer_progress;
    out->sideband_progress = sideband_progress;
}

/* libgit2 has no codes for these. */
static bool is_lost(void)
{
    static const char *const signs[] = {"failed to connect", "refused",       "reset",
                                        "timed out",         "EOF",           "closed",
                                        "hang up",           "status code: 5"};
    const git_error *error = git_error_last();

    for (size_t i = 0; error && i < sizeof(signs) / sizeof(signs[0]); i++) {
        if (strstr(error->message, signs[i]))
            return true;
    }
    return false;
}

static int child_failed(struct child *child, int code)
{
    if (child->err < 0)
        return child->err;
    int err = credentials_failed(child->credentials, code);
    if (err == 0 && is_lost())
        (void)!worker_tell(child->worker, RECORD_LOST, (struct bytes){0}, (struct bytes){0});
    return err < 0 ? err : git_failed(code, "%s", credentials_shown(child->credentials));
}

/* "refs/heads/main" by "refs/heads/main" or "refs/heads/m*". */
static bool spec_matches(const char *spec, const char *name)
{
    const char *star = strchr(spec, '*');

    if (!star)
        return strcmp(spec, name) == 0;
    size_t before = (size_t)(star - spec), after = strlen(star + 1), length = strlen(name);
    return length >= before + after && strncmp(spec, name, before) == 0 &&
           strcmp(name + length - after, star + 1) == 0;
}

static const char *const everything[] = {"refs/heads/*", "refs/tags/*"};

const char *const *child_specs(size_t *count, const struct child *child)
{
    const struct arrival_request *request = child->request;

    if (request->head_only) {
        *count = child->only ? 1 : 0;
        return (const char *const *)&child->only;
    }
    *count = request->spec_count ? request->spec_count : 2;
    return request->spec_count ? request->specs : everything;
}

bool child_wants(const struct child *child, const char *name)
{
    size_t count;
    const char *const *specs = child_specs(&count, child);

    for (size_t i = 0; i < count; i++) {
        if (spec_matches(specs[i], name))
            return true;
    }
    return false;
}

int child_head(struct child *child, const char *branch)
{
    free(child->only);
    if (!(child->only = bytes_dup(text_bytes(branch))))
        return error_wrap(E_NOMEM, "refs");
    return worker_tell(child->worker, RECORD_HEAD, text_bytes(branch), (struct bytes){0});
}

int child_progress(struct child *child, uint64_t bytes)
{
    child->counts.bytes = bytes;
    if (bytes > child->max_bytes) {
        int err = error_set(
            E_LIMIT, "more than %llu bytes come from there", (unsigned long long)child->max_bytes
        );
        return error_hint(err, "--max-bytes N allows more");
    }
    return worker_progress(child->worker, bytes);
}

int child_ref(struct child *child, const char *name, const git_oid *id)
{
    int valid = 0, err;

    if (!child_wants(child, name))
        return 0;
    if (git_reference_name_is_valid(&valid, name) < 0 || !valid)
        return error_set(E_CORRUPT, "a ref's name is none: '%s'", name);
    if (child->tip_count >= LIMIT_ARRIVING_REFS)
        return error_set(E_LIMIT, "more than %zu refs there", child->tip_count);
    if ((err = array_grow(
             &child->tips, &child->tip_capacity, child->tip_count + 1, sizeof(*child->tips)
         )) < 0 ||
        (err = array_grow(
             &child->is_branch, &child->branch_capacity, child->tip_count + 1,
             sizeof(*child->is_branch)
         )) < 0)
        return err;
    child->is_branch[child->tip_count] = strncmp(name, REF_HEADS, strlen(REF_HEADS)) == 0;
    child->tips[child->tip_count++] = *id;
    return worker_tell(child->worker, RECORD_REF, bytes_at(id, sizeof(*id)), text_bytes(name));
}

int child_ends(struct child *child, const struct id_set *ends)
{
    AUTO_FREE(char, path);
    AUTO_ID_SET(all);
    AUTO_BUF(text);
    size_t ignored;

    int err = ends->count ? shallow_read(&all, child->quarantined) : 0;
    if (err < 0 || !ends->count)
        return err;
    if (!child->request->shallow && !child->request->may_end) {
        err = error_set(E_UNSUPPORTED, "the repository there is a shallow clone");
        return error_hint(err, "git --git-dir=DIR fetch --unshallow, there, makes it whole");
    }
    for (size_t i = 0; err == 0 && i < ends->count; i++)
        err = id_set_add(&ignored, NULL, &all, &ends->ids[i]);
    for (size_t i = 0; err == 0 && i < all.count; i++)
        err = buf_printf(&text, "%s\n", git_oid_tostr_s(&all.ids[i]));
    if (err < 0 || (err = path_join(&path, store_path(child->quarantined), "shallow")) < 0)
        return err;
    return file_write(path, buf_bytes(&text));
}

static int refs_tell(struct child *child)
{
    const git_remote_head **heads = NULL;
    size_t count = 0;
    int err = 0;

    int code = git_remote_ls(&heads, &count, child->remote);
    if (code < 0)
        return child_failed(child, code);
    for (size_t i = 0; err == 0 && i < count; i++) {
        if (strcmp(heads[i]->name, "HEAD") == 0 && heads[i]->symref_target)
            err = child_head(child, heads[i]->symref_target);
    }
    for (size_t i = 0; err == 0 && i < count; i++) {
        if (strcmp(heads[i]->name, "HEAD") != 0 && !strstr(heads[i]->name, "^{}"))
            err = child_ref(child, heads[i]->name, &heads[i]->oid);
    }
    return err;
}

/* One string that all are in, each ended by a NUL: "+refs/heads/a:refs/arrived/refs/heads/a". */
static int specs_make(struct buf *out, const struct child *child)
{
    size_t count;
    const char *const *specs = child_specs(&count, child);
    int err = 0;

    for (size_t i = 0; err == 0 && i < count; i++) {
        if ((err = buf_printf(out, "+%s:refs/arrived/%s", specs[i], specs[i])) == 0)
            err = buf_append_byte(out, '\0');
    }
    return err;
}

static int download(struct child *child)
{
    size_t count;
    git_fetch_options options;
    AUTO_FREE(char *, list);
    AUTO_BUF(texts);

    int code = git_fetch_options_init(&options, GIT_FETCH_OPTIONS_VERSION);
    if (code < 0)
        return git_failed(code, "fetch");
    (void)child_specs(&count, child);
    int err = specs_make(&texts, child);
    if (err < 0)
        return err;
    if (!(list = array_new(count, sizeof(*list))))
        return error_wrap(E_NOMEM, "fetch");
    char *at = (char *)texts.data;
    for (size_t i = 0; i < count; i++, at += strlen(at) + 1)
        list[i] = at;
    callbacks_set(&options.callbacks, child);
    credentials_fetch(&options);
    options.download_tags = GIT_REMOTE_DOWNLOAD_TAGS_NONE;
    const git_strarray specs = {list, count};
    code = git_remote_download(child->remote, &specs, &options);
    return code < 0 ? child_failed(child, code) : 0;
}

static int connect_to(struct child *child)
{
    git_remote_connect_options options;

    int err = credentials_remote(
        &child->credentials, &child->remote, child->quarantined->repo, child->request->url
    );
    if (err < 0)
        return err;
    int code = git_remote_connect_options_init(&options, GIT_REMOTE_CONNECT_OPTIONS_VERSION);
    if (code < 0)
        return child_failed(child, code);
    callbacks_set(&options.callbacks, child);
    credentials_connect(&options);
    code = git_remote_connect_ext(child->remote, GIT_DIRECTION_FETCH, &options);
    if (code < 0)
        return child_failed(child, code);
    credentials_accepted(child->credentials);
    return 0;
}

/* A pack is looked at through windows, which would else be larger than all the memory there is. */
static void memory_bound(void)
{
    git_libgit2_opts(GIT_OPT_SET_MWINDOW_SIZE, (size_t)(16 * MIB));
    git_libgit2_opts(GIT_OPT_SET_MWINDOW_MAPPED_LIMIT, (size_t)(256 * MIB));
    worker_memory(LIMIT_RECEIVING_MEMORY);
}

static int network_fetch(struct child *child)
{
    int err;

    memory_bound();
    worker_alive(child->worker, true);
    if ((err = connect_to(child)) < 0 || (err = refs_tell(child)) < 0 ||
        (child->tip_count && (err = download(child)) < 0))
        return err;
    git_remote_disconnect(child->remote);
    worker_alive(child->worker, false);
    worker_memory(LIMIT_ARRIVING_MEMORY);
    return 0;
}

/* A ref may lead to what we have; then it is not among what arrived. A branch is one of commits. */
static int tip_check(const struct child *child, struct store *quarantined, size_t tip)
{
    const git_oid *id = &child->tips[tip];
    git_object_t type;
    size_t bytes;

    int code = git_odb_read_header(&bytes, &type, quarantined->odb, id);
    if (code == GIT_ENOTFOUND)
        return error_set(
            E_CORRUPT, "a ref there leads to object %s, which is missing", git_oid_tostr_s(id)
        );
    if (code < 0)
        return git_failed(code, "object %s", git_oid_tostr_s(id));
    if (type == GIT_OBJECT_COMMIT || (type == GIT_OBJECT_TAG && !child->is_branch[tip]))
        return 0;
    return error_set(
        E_CORRUPT, "a ref there leads to object %s, a %s", git_oid_tostr_s(id),
        git_object_type2string(type)
    );
}

static int tips_check(const struct child *child, struct store *quarantined)
{
    int err = 0;

    for (size_t i = 0; err == 0 && i < child->tip_count; i++)
        err = tip_check(child, quarantined, i);
    return err;
}

/* Over a network, with git where only that can do it. */
static int remote_fetch(struct child *child)
{
    bool is_needed;

    int err = git_is_needed(&is_needed, child);
    if (err < 0 || !is_needed)
        return err < 0 ? err : network_fetch(child);
    /* Whether the server is the right one, and who we are to it, is for us to find out. */
    worker_alive(child->worker, true);
    if ((err = connect_to(child)) < 0)
        return err;
    git_remote_disconnect(child->remote);
    if ((err = git_fetch(child)) != E_UNSUPPORTED || !child->request->shallow)
        return err;
    git_remote_free(child->remote);
    credentials_free(child->credentials);
    if ((err = worker_tell(child->worker, RECORD_WHOLE, (struct bytes){0}, (struct bytes){0})) < 0)
        return err;
    return network_fetch(child);
}

static int check(struct child *child, const char *path)
{
    AUTO_STORE(quarantined);
    AUTO_ID_SET(arrived);
    int err;

    if ((err = store_open(&quarantined, path, path)) < 0 ||
        (err = quarantine_objects(&arrived, quarantined)) < 0 ||
        (err = tips_check(child, quarantined)) < 0)
        return err;
    return fsck_arrived(&child->counts.versions, quarantined, &arrived);
}

/* The two sides of one transfer. */
struct transfer {
    const struct arrival_request *request;
    const char *path; /* of the quarantine */
    struct arrival *arrival;
    bool is_lost; /* another try may do */
};

static int transfer_work(void *context, struct worker *worker)
{
    const struct transfer *transfer = context;
    const struct arrival_request *request = transfer->request;
    struct child child = {
        .request = request,
        .worker = worker,
        .max_bytes = request->max_bytes ? request->max_bytes : LIMIT_ARRIVING,
    };

    int err = store_open(&child.quarantined, transfer->path, transfer->path);
    if (err == 0 && oci_is_url(request->url))
        err = oci_fetch(&child);
    else if (err == 0)
        err = url_is_path(request->url) ? path_fetch(&child) : remote_fetch(&child);
    if (err < 0 || (err = check(&child, transfer->path)) < 0)
        return err;
    return worker_tell(
        worker, RECORD_COUNTS, bytes_at(&child.counts, sizeof(child.counts)), (struct bytes){0}
    );
}

/* The process that waits */

static int ref_take(struct arrival *arrival, struct bytes record)
{
    int err = array_grow(
        &arrival->refs, &arrival->capacity, arrival->count + 1, sizeof(*arrival->refs)
    );

    if (err < 0)
        return err;
    struct arrived_ref *ref = &arrival->refs[arrival->count];
    if (record.len <= sizeof(ref->id))
        return error_set(E_IO, "the process that fetched told half a ref");
    memcpy(&ref->id, record.data, sizeof(ref->id));
    ref->name = bytes_dup((struct bytes
    ){record.data + sizeof(ref->id), record.len - sizeof(ref->id)});
    if (!ref->name)
        return error_wrap(E_NOMEM, "refs");
    arrival->count++;
    return 0;
}

static int transfer_take(void *context, uint32_t type, struct bytes record)
{
    struct transfer *transfer = context;
    struct arrival *arrival = transfer->arrival;
    struct counts counts;

    transfer->is_lost |= type == RECORD_LOST;
    arrival->is_whole |= type == RECORD_WHOLE;
    if (type == RECORD_REF)
        return ref_take(arrival, record);
    if (type == RECORD_COUNTS && record.len == sizeof(counts)) {
        memcpy(&counts, record.data, sizeof(counts));
        arrival->bytes = counts.bytes;
        arrival->objects = counts.objects;
        arrival->versions = counts.versions;
    } else if (type == RECORD_HEAD) {
        free(arrival->head);
        if (!(arrival->head = bytes_dup(record)))
            return error_wrap(E_NOMEM, "refs");
    }
    return 0;
}

static int ref_compare(const void *a, const void *b)
{
    return strcmp(((const struct arrived_ref *)a)->name, ((const struct arrived_ref *)b)->name);
}

static int fetch_into(
    bool *is_lost,
    struct arrival *arrival,
    struct quarantine *quarantine,
    const struct arrival_request *request
)
{
    struct transfer transfer = {request, quarantine->path, arrival, false};
    struct worker worker = {
        .name = request->url,
        .file_bytes = (request->max_bytes ? request->max_bytes : LIMIT_ARRIVING) + MIB,
        .stall_seconds = request->stall_seconds,
        .context = &transfer,
        .work = transfer_work,
        .take = transfer_take,
        .progress = request->progress,
    };

    int err = worker_run(&worker);
    if (err == 0 && arrival->count)
        qsort(arrival->refs, arrival->count, sizeof(*arrival->refs), ref_compare);
    *is_lost = err == E_IO && transfer.is_lost;
    return err;
}

/* A second, two, four: less in a test. */
static int pause_before(unsigned try, const struct arrival_request *request)
{
    uint64_t ms = (uint64_t)(request->pause_ms ? request->pause_ms : PAUSE_MS) << try;

    for (uint64_t waited = 0; waited < ms; waited += STEP_MS) {
        const struct timespec step = {.tv_nsec = STEP_MS * 1000000};
        int err = interrupt_check();
        if (err < 0)
            return err;
        nanosleep(&step, NULL);
    }
    return 0;
}

/* How long nothing may come: what vera.timeout says, where the caller says nothing. */
static unsigned stall_find(struct store *store, const struct arrival_request *request)
{
    AUTO_GIT(git_config, config);
    int32_t seconds = 0;

    if (!request->stall_seconds && git_repository_config_snapshot(&config, store->repo) == 0 &&
        git_config_get_int32(&seconds, config, "vera.timeout") == 0 && seconds > 0)
        return (unsigned)seconds;
    return request->stall_seconds;
}

/* Nothing is left of a try that failed. */
static int fetch_once(
    bool *is_lost, struct arrival *out, struct store *store, const struct arrival_request *request
)
{
    AUTO_QUARANTINE(quarantine);
    AUTO_ARRIVAL(arrival);
    AUTO_LOCK(lock);
    int err;

    if ((err = quarantine_make(&quarantine, store)) < 0 ||
        (err = fetch_into(is_lost, &arrival, &quarantine, request)) < 0 ||
        (err = lock_write(&lock, store)) < 0 || (err = quarantine_admit(&quarantine, store)) < 0)
        return err;
    *out = arrival;
    arrival = (struct arrival){0};
    return 0;
}

/* How often a lost connection is tried again: the person may say. */
static unsigned retries_wanted(void)
{
    const char *text = getenv("VERA_RETRIES");

    if (!text || *text < '0' || *text > '9' || text[1])
        return RETRIES;
    return (unsigned)(*text - '0');
}

int arrival_fetch(struct arrival *out, struct store *store, const struct arrival_request *wanted)
{
    struct arrival_request bounded = *wanted, *request = &bounded;
    bool is_lost = false;

    bounded.stall_seconds = stall_find(store, wanted);
    int err = fetch_once(&is_lost, out, store, request);
    unsigned retries = retries_wanted();

    for (unsigned try = 0; err < 0 && is_lost && try < retries; try++) {
        is_lost = false;
        if ((err = pause_before(try, request)) == 0)
            err = fetch_once(&is_lost, out, store, request);
    }
    return err;
}
