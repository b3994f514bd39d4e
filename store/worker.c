/* Work in a process of its own. See worker.h. */
#define _GNU_SOURCE
#include "store/worker.h"

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

#define STALL_SECONDS 60u
#define CPU_SECONDS   3600u
#define RECORD_MAX    MIB
#define PAUSE_MS      100

/* Types of our own: bytes done; an int code and error_pack()'s text; all is well. */
#define TYPE_PROGRESS 0x80000000u
#define TYPE_ERROR    0x80000001u
#define TYPE_DONE     0x80000002u

struct record_head {
    uint32_t type, bytes;
};

/* The process that works */

int worker_tell(struct worker *worker, uint32_t type, struct bytes first, struct bytes second)
{
    const struct record_head head = {type, (uint32_t)(first.len + second.len)};
    AUTO_BUF(record);
    int err;

    if (first.len + second.len > RECORD_MAX)
        return error_set(E_LIMIT, "%s: a name there is too long", worker->name);
    if ((err = buf_append(&record, &head, sizeof(head))) < 0 ||
        (err = buf_append(&record, first.data, first.len)) < 0 ||
        (err = buf_append(&record, second.data, second.len)) < 0)
        return err;
    return fd_write_all(worker->pipe, record.data, record.len, "pipe");
}

int worker_progress(struct worker *worker, uint64_t bytes)
{
    const struct bytes number = {(const uint8_t *)&bytes, sizeof(bytes)};

    worker_alive(worker, true);
    return worker_tell(worker, TYPE_PROGRESS, number, (struct bytes){0});
}

void worker_alive(struct worker *worker, bool is_waiting)
{
    alarm(is_waiting ? worker->stall_seconds : 0);
}

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

void worker_memory(uint64_t bytes)
{
#if !defined(__SANITIZE_ADDRESS__) /* it maps terabytes */
    limit_set(RLIMIT_AS, bytes);
#else
    (void)bytes;
#endif
}

/* A signal ends it at once: what it leaves is for the other one to remove. */
static void limits_set(const struct worker *worker)
{
    static const int signals[] = {SIGINT, SIGTERM, SIGHUP, SIGPIPE, SIGALRM};

    worker_memory(LIMIT_ARRIVING_MEMORY);
    limit_set(RLIMIT_FSIZE, worker->file_bytes);
    limit_set(RLIMIT_CPU, CPU_SECONDS);
    limit_set(RLIMIT_CORE, 0);
    signal(SIGXFSZ, SIG_IGN);
    for (size_t i = 0; i < sizeof(signals) / sizeof(*signals); i++)
        signal(signals[i], SIG_DFL);
    prctl(PR_SET_PDEATHSIG, SIGKILL);
}

static int error_tell(struct worker *worker, int err)
{
    const struct bytes code = {(const uint8_t *)&err, sizeof(err)};
    AUTO_FREE(char, packed);
    size_t length = 0;

    packed = error_pack();
    if (packed) {
        length = strlen(packed) + 1;
        length += strlen(packed + length) + 1;
    }
    return worker_tell(worker, TYPE_ERROR, code, (struct bytes){(const uint8_t *)packed, length});
}

static _Noreturn void work(struct worker *worker)
{
    limits_set(worker);
    int err = worker->work(worker->context, worker);
    if (err == E_NOMEM)
        err = error_set(E_LIMIT, "%s: what comes from there takes too much memory", worker->name);
    if (err < 0)
        err = error_tell(worker, err);
    else
        err = worker_tell(worker, TYPE_DONE, (struct bytes){0}, (struct bytes){0});
    _exit(err < 0);
}

/* The process that waits */

struct waiting {
    struct worker *worker;
    pid_t pid;
    struct buf unread;
    bool is_done;
};

static int error_take(struct bytes record)
{
    int code;

    if (record.len < sizeof(code))
        return error_set(E_IO, "the process that worked told nothing");
    memcpy(&code, record.data, sizeof(code));
    char *packed = array_new(record.len - sizeof(code) + 2, 1);
    if (packed)
        memcpy(packed, record.data + sizeof(code), record.len - sizeof(code));
    return error_unpack(code, packed);
}

static int record_take(struct waiting *waiting, uint32_t type, struct bytes record)
{
    struct worker *worker = waiting->worker;
    uint64_t bytes;

    if (type == TYPE_ERROR)
        return error_take(record);
    if (type == TYPE_PROGRESS && record.len == sizeof(bytes)) {
        memcpy(&bytes, record.data, sizeof(bytes));
        progress_update(worker->progress, bytes, 0);
    } else if (type == TYPE_DONE) {
        waiting->is_done = true;
    } else if (type < TYPE_PROGRESS) {
        return worker->take(worker->context, type, record);
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
            return error_set(E_IO, "the process that worked tells nonsense");
        if (unread->len - at - sizeof(head) < head.bytes)
            break;
        at += sizeof(head);
        err = record_take(waiting, head.type, (struct bytes){unread->data + at, head.bytes});
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
    struct pollfd wanted = {.fd = waiting->worker->pipe, .events = POLLIN};
    uint8_t data[4096];

    int err = interrupt_check();
    if (err < 0 || poll(&wanted, 1, PAUSE_MS) <= 0)
        return err;
    ssize_t n = read(wanted.fd, data, sizeof(data));
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
    const char *name = waiting->worker->name;

    if (waiting->is_done && WIFEXITED(status) && WEXITSTATUS(status) == 0)
        return 0;
    if (WIFSIGNALED(status) && WTERMSIG(status) == SIGALRM) {
        int err = error_set(
            E_IO, "%s: nothing came from there for too long, %u seconds", name,
            waiting->worker->stall_seconds
        );
        return error_hint(err, "git config --global vera.timeout SECONDS allows more");
    }
    if (WIFSIGNALED(status) && WTERMSIG(status) == SIGXCPU)
        return error_set(E_LIMIT, "%s: what comes from there takes too long to read", name);
    if (WIFSIGNALED(status))
        return error_set(
            E_IO, "%s: the process that worked for it ended by signal %d", name, WTERMSIG(status)
        );
    return error_set(E_IO, "%s: the process that worked for it has ended", name);
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

int worker_run(struct worker *worker)
{
    struct waiting waiting = {.worker = worker};
    int ends[2], err;

    if (!worker->stall_seconds)
        worker->stall_seconds = STALL_SECONDS;
    if (pipe2(ends, O_CLOEXEC) != 0)
        return file_error("pipe");
    waiting.pid = fork();
    worker->pipe = waiting.pid == 0 ? ends[1] : ends[0];
    if (waiting.pid == 0)
        work(worker);
    close(ends[1]);
    err = waiting.pid < 0 ? file_error("fork") : wait_for(&waiting);
    fd_release(&worker->pipe);
    buf_release(&waiting.unread);
    return err;
}
