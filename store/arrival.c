/* Objects from another repository. See arrival.h. */
#define _GNU_SOURCE
#include "store/arrival_child.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <unistd.h>

#include "format/file.h"
#include "format/limits.h"
#include "store/fsck_report.h"
#include "store/quarantine.h"

#define STALL_SECONDS 60u
#define CPU_SECONDS   3600u
#define RECORD_MAX    MIB
#define PAUSE_MS      100

void arrival_release(struct arrival *arrival)
{
    for (size_t i = 0; i < arrival->count; i++)
        free(arrival->refs[i].name);
    free(arrival->refs);
    free(arrival->head);
    *arrival = (struct arrival){0};
}

/* Records: what the two processes tell each other. A type, a length, bytes. */

enum record_type {
    RECORD_PROGRESS, /* uint64_t bytes so far */
    RECORD_REF,      /* git_oid, name */
    RECORD_HEAD,     /* name */
    RECORD_COUNTS,   /* struct counts: the last one where all is well */
    RECORD_ERROR,    /* int code, error_pack()'s text: the last one else */
};

struct record_head {
    uint32_t type, bytes;
};

static int record_write(int fd, enum record_type type, struct bytes first, struct bytes second)
{
    const struct record_head head = {(uint32_t)type, (uint32_t)(first.len + second.len)};
    AUTO_BUF(record);
    int err;

    if ((err = buf_append(&record, &head, sizeof(head))) < 0 ||
        (err = buf_append(&record, first.data, first.len)) < 0 ||
        (err = buf_append(&record, second.data, second.len)) < 0)
        return err;
    return fd_write_all(fd, record.data, record.len, "pipe");
}

static struct bytes bytes_at(const void *data, size_t len)
{
    return (struct bytes){data, len};
}

/* The process that fetches */

/* Only the parent may remove the quarantine; nothing else here outlives the process. */
static void limit_set(int resource, rlim_t value)
{
    struct rlimit limit;

    if (getrlimit(resource, &limit) != 0)
        return;
    if (limit.rlim_max != RLIM_INFINITY && limit.rlim_max < value)
        value = limit.rlim_max;
    limit.rlim_cur = value;
    (void)!setrlimit(resource, &limit);
}

static void limits_set(const struct child *child)
{
#if !defined(__SANITIZE_ADDRESS__) /* it maps terabytes */
    limit_set(RLIMIT_AS, LIMIT_ARRIVING_MEMORY);
#endif
    limit_set(RLIMIT_FSIZE, child->max_bytes + MIB);
    limit_set(RLIMIT_CPU, CPU_SECONDS);
    limit_set(RLIMIT_CORE, 0);
    signal(SIGXFSZ, SIG_IGN);
    signal(SIGINT, SIG_DFL);
    signal(SIGTERM, SIG_DFL);
    signal(SIGHUP, SIG_DFL);
    signal(SIGPIPE, SIG_DFL);
    prctl(PR_SET_PDEATHSIG, SIGKILL);
}

static int transfer_progress(const git_indexer_progress *stats, void *context)
{
    struct child *child = context;

    alarm(child->stall_seconds);
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
    alarm(child->stall_seconds);
    return 0;
}

static int callbacks_set(git_remote_callbacks *out, struct child *child)
{
    const struct arrival_request *request = child->request;

    int code = git_remote_init_callbacks(out, GIT_REMOTE_CALLBACKS_VERSION);
    if (code < 0)
        return git_failed(code, "remote");
    out->payload = child;
    out->transfer_progress = transfer_progress;
    out->sideband_progress = sideband_progress;
    return request->network ? request->network(out, request->network_context) : 0;
}

static int child_failed(struct child *child, int code)
{
    if (child->err < 0)
        return child->err;
    return git_failed(code, "%s", child->request->url);
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

static bool is_wanted(const struct arrival_request *request, const char *name)
{
    const char *const *specs = request->spec_count ? request->specs : everything;
    size_t count = request->spec_count ? request->spec_count : 2;

    for (size_t i = 0; i < count; i++) {
        if (spec_matches(specs[i], name))
            return true;
    }
    return false;
}

int child_head(struct child *child, const char *branch)
{
    return record_write(child->pipe, RECORD_HEAD, text_bytes(branch), (struct bytes){0});
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
    return record_write(
        child->pipe, RECORD_PROGRESS, bytes_at(&bytes, sizeof(bytes)), (struct bytes){0}
    );
}

int child_ref(struct child *child, const char *name, const git_oid *id)
{
    int valid = 0, err;

    if (!is_wanted(child->request, name))
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
    return record_write(child->pipe, RECORD_REF, bytes_at(id, sizeof(*id)), text_bytes(name));
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
        const git_remote_head *head = heads[i];
        if (strcmp(head->name, "HEAD") == 0 && head->symref_target)
            err = child_head(child, head->symref_target);
        else if (!strstr(head->name, "^{}"))
            err = child_ref(child, head->name, &head->oid);
    }
    return err;
}

/* One string that all are in, each ended by a NUL: "+refs/heads/a:refs/arrived/refs/heads/a". */
static int specs_make(struct buf *out, const struct arrival_request *request)
{
    const char *const *specs = request->spec_count ? request->specs : everything;
    size_t count = request->spec_count ? request->spec_count : 2;
    int err = 0;

    for (size_t i = 0; err == 0 && i < count; i++) {
        if ((err = buf_printf(out, "+%s:refs/arrived/%s", specs[i], specs[i])) == 0)
            err = buf_append_byte(out, '\0');
    }
    return err;
}

static int download(struct child *child, const git_remote_callbacks *callbacks)
{
    const struct arrival_request *request = child->request;
    size_t count = request->spec_count ? request->spec_count : 2;
    git_fetch_options options;
    AUTO_FREE(char *, list);
    AUTO_BUF(texts);

    int code = git_fetch_options_init(&options, GIT_FETCH_OPTIONS_VERSION);
    if (code < 0)
        return git_failed(code, "fetch");
    int err = specs_make(&texts, request);
    if (err < 0)
        return err;
    if (!(list = array_new(count, sizeof(*list))))
        return error_wrap(E_NOMEM, "fetch");
    char *at = (char *)texts.data;
    for (size_t i = 0; i < count; i++, at += strlen(at) + 1)
        list[i] = at;
    options.callbacks = *callbacks;
    options.download_tags = GIT_REMOTE_DOWNLOAD_TAGS_NONE;
    const git_strarray specs = {list, count};
    code = git_remote_download(child->remote, &specs, &options);
    return code < 0 ? child_failed(child, code) : 0;
}

static int network_fetch(struct child *child)
{
    git_remote_callbacks callbacks;
    int err = callbacks_set(&callbacks, child);

    if (err < 0)
        return err;
    alarm(child->stall_seconds);
    int code = git_remote_create_anonymous(
        &child->remote, child->quarantined->repo, child->request->url
    );
    if (code == 0)
        code = git_remote_connect(child->remote, GIT_DIRECTION_FETCH, &callbacks, NULL, NULL);
    if (code < 0)
        return child_failed(child, code);
    if ((err = refs_tell(child)) < 0 ||
        (child->tip_count && (err = download(child, &callbacks)) < 0))
        return err;
    git_remote_disconnect(child->remote);
    alarm(0);
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

static int child_work(struct child *child, const char *path)
{
    int err = store_open(&child->quarantined, path, path);

    if (err == 0)
        err = url_is_path(child->request->url) ? path_fetch(child) : network_fetch(child);
    if (err < 0 || (err = check(child, path)) < 0)
        return err;
    return record_write(
        child->pipe, RECORD_COUNTS, bytes_at(&child->counts, sizeof(child->counts)),
        (struct bytes){0}
    );
}

static void error_tell(int pipe, int err)
{
    char *packed = error_pack();
    size_t message = packed ? strlen(packed) + 1 : 0;
    size_t hint = packed ? strlen(packed + message) + 1 : 0;

    (void)!record_write(
        pipe, RECORD_ERROR, bytes_at(&err, sizeof(err)), bytes_at(packed, message + hint)
    );
}

static _Noreturn void child_run(const struct arrival_request *request, const char *path, int pipe)
{
    struct child child = {
        .request = request,
        .pipe = pipe,
        .max_bytes = request->max_bytes ? request->max_bytes : LIMIT_ARRIVING,
        .stall_seconds = request->stall_seconds ? request->stall_seconds : STALL_SECONDS,
    };

    limits_set(&child);
    int err = child_work(&child, path);
    if (err < 0)
        error_tell(pipe, err);
    _exit(err < 0);
}

/* The process that waits */

struct waiting {
    struct arrival *arrival;
    const struct arrival_request *request;
    pid_t pid;
    int pipe;
    struct buf unread;
    bool has_counts;
    int err; /* that the other one told */
};

static int error_take(struct bytes record)
{
    int code;

    if (record.len < sizeof(code))
        return error_set(E_IO, "the process that fetched told nothing");
    memcpy(&code, record.data, sizeof(code));
    char *packed = array_new(record.len - sizeof(code) + 2, 1);
    if (packed)
        memcpy(packed, record.data + sizeof(code), record.len - sizeof(code));
    return error_unpack(code, packed);
}

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

static int record_take(struct waiting *waiting, uint32_t type, struct bytes record)
{
    struct arrival *arrival = waiting->arrival;
    struct counts counts;
    uint64_t bytes;

    if (type == RECORD_PROGRESS && record.len == sizeof(bytes)) {
        memcpy(&bytes, record.data, sizeof(bytes));
        progress_update(waiting->request->progress, bytes, 0);
    } else if (type == RECORD_REF) {
        return ref_take(arrival, record);
    } else if (type == RECORD_HEAD) {
        free(arrival->head);
        if (!(arrival->head = bytes_dup(record)))
            return error_wrap(E_NOMEM, "refs");
    } else if (type == RECORD_COUNTS && record.len == sizeof(counts)) {
        memcpy(&counts, record.data, sizeof(counts));
        arrival->bytes = counts.bytes;
        arrival->objects = counts.objects;
        arrival->versions = counts.versions;
        waiting->has_counts = true;
    } else if (type == RECORD_ERROR) {
        waiting->err = error_take(record);
        return waiting->err;
    }
    return 0;
}

/* What is whole of what was read. */
static int records_take(struct waiting *waiting)
{
    struct buf *unread = &waiting->unread;
    size_t at = 0;
    int err = 0;

    while (err == 0 && unread->len - at >= sizeof(struct record_head)) {
        struct record_head head;
        memcpy(&head, unread->data + at, sizeof(head));
        if (head.bytes > RECORD_MAX)
            return error_set(E_IO, "the process that fetched tells nonsense");
        if (unread->len - at - sizeof(head) < head.bytes)
            break;
        at += sizeof(head);
        err = record_take(waiting, head.type, bytes_at(unread->data + at, head.bytes));
        at += head.bytes;
    }
    if (at)
        memmove(unread->data, unread->data + at, unread->len - at);
    unread->len -= at;
    return err;
}

/* 1 at the end. */
static int pipe_read(struct waiting *waiting)
{
    struct pollfd wanted = {.fd = waiting->pipe, .events = POLLIN};
    uint8_t data[4096];

    int err = interrupt_check();
    if (err < 0 || poll(&wanted, 1, PAUSE_MS) <= 0)
        return err;
    ssize_t n = read(waiting->pipe, data, sizeof(data));
    if (n == 0)
        return 1;
    if (n < 0)
        return errno == EINTR ? 0 : file_error("pipe");
    if ((err = buf_append(&waiting->unread, data, (size_t)n)) < 0)
        return err;
    return records_take(waiting);
}

static int end_tell(const struct waiting *waiting, int status)
{
    const char *url = waiting->request->url;

    if (waiting->has_counts && WIFEXITED(status) && WEXITSTATUS(status) == 0)
        return 0;
    if (WIFSIGNALED(status) && WTERMSIG(status) == SIGALRM)
        return error_set(E_IO, "%s: nothing came from there for too long", url);
    if (WIFSIGNALED(status) && WTERMSIG(status) == SIGXCPU)
        return error_set(E_LIMIT, "%s: what comes from there takes too long to read", url);
    return error_set(E_IO, "%s: the process that fetched has ended", url);
}

static int wait_for(struct waiting *waiting)
{
    int status = 0, err = 0;

    while (err == 0)
        err = pipe_read(waiting);
    if (err < 0)
        kill(waiting->pid, SIGKILL);
    while (waitpid(waiting->pid, &status, 0) < 0 && errno == EINTR)
        continue;
    return err < 0 ? err : end_tell(waiting, status);
}

static int
child_start(struct waiting *waiting, const struct arrival_request *request, const char *path)
{
    int ends[2];

    if (pipe2(ends, O_CLOEXEC) != 0)
        return file_error("pipe");
    waiting->pid = fork();
    if (waiting->pid == 0)
        child_run(request, path, ends[1]);
    close(ends[1]);
    waiting->pipe = ends[0];
    return waiting->pid < 0 ? file_error("fork") : 0;
}

static int ref_compare(const void *a, const void *b)
{
    return strcmp(((const struct arrived_ref *)a)->name, ((const struct arrived_ref *)b)->name);
}

static int fetch_into(
    struct arrival *arrival, struct quarantine *quarantine, const struct arrival_request *request
)
{
    struct waiting waiting = {.arrival = arrival, .request = request, .pipe = -1};

    int err = child_start(&waiting, request, quarantine->path);
    if (err == 0)
        err = wait_for(&waiting);
    fd_release(&waiting.pipe);
    buf_release(&waiting.unread);
    if (err == 0 && arrival->count)
        qsort(arrival->refs, arrival->count, sizeof(*arrival->refs), ref_compare);
    return err;
}

int arrival_fetch(struct arrival *out, struct store *store, const struct arrival_request *request)
{
    AUTO_QUARANTINE(quarantine);
    AUTO_ARRIVAL(arrival);
    AUTO_LOCK(lock);
    int err;

    if ((err = quarantine_make(&quarantine, store)) < 0 ||
        (err = fetch_into(&arrival, &quarantine, request)) < 0 ||
        (err = lock_write(&lock, store)) < 0 || (err = quarantine_admit(&quarantine, store)) < 0)
        return err;
    *out = arrival;
    arrival = (struct arrival){0};
    return 0;
}
