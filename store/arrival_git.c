/*
 * Fetching by the program git, which can do what libgit2 1.5 cannot: take only the newest version,
 * and fetch into a clone that was taken so. It runs in the quarantine, inside the limits of the
 * process that runs it and until that ends; what it brings is checked as all else is. See
 * arrival_child.h.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <unistd.h>

#include "format/file.h"
#include "format/limits.h"
#include "store/ancestry.h"
#include "store/arrival_child.h"
#include "store/git_options.h"
#include "store/quarantine.h"
#include "store/refs.h"

#define PLACE     "refs/arrived/"
#define WORDS_MAX 1000 /* of what git says, for a message */
#define NO_GIT    127

/* Where nothing comes for so long, what git runs for https gives up too. */
#define SLOW "http.lowSpeedLimit=1"

static const char *const first_arguments[] = {
    "git",
    "-c",
    SLOW,
    "-c",
    "http.lowSpeedTime=60",
    "-c",
    "core.hooksPath=/dev/null",
    "-c",
    "protocol.ext.allow=never",
    "-c",
    "gc.auto=0",
    "-c",
    "maintenance.auto=false",
};
#define FIRST (sizeof(first_arguments) / sizeof(first_arguments[0]))

/* Running it */

struct talk {
    struct child *child;
    struct buf *out;  /* standard output */
    struct buf words; /* the end of standard error */
    int out_fd, words_fd;
};

static void talk_release(struct talk *talk)
{
    fd_release(&talk->out_fd);
    fd_release(&talk->words_fd);
    buf_release(&talk->words);
}

static _Noreturn void
git_become(const struct child *child, const char *const *argv, int out, int words)
{
    static const char *const unwanted[] = {"GIT_DIR",
                                           "GIT_WORK_TREE",
                                           "GIT_OBJECT_DIRECTORY",
                                           "GIT_ALTERNATE_OBJECT_DIRECTORIES",
                                           "GIT_SHALLOW_FILE",
                                           "GIT_NAMESPACE",
                                           "GIT_COMMON_DIR",
                                           "GIT_INDEX_FILE"};
    int nothing = open("/dev/null", O_RDONLY | O_CLOEXEC);

    prctl(PR_SET_PDEATHSIG, SIGKILL);
    alarm(0);
    for (size_t i = 0; i < sizeof(unwanted) / sizeof(unwanted[0]); i++)
        unsetenv(unwanted[i]);
    git_environment(child->credentials);
    setenv("GIT_ALLOW_PROTOCOL", "git:http:https:ssh", 1);
    if (nothing >= 0 && dup2(nothing, 0) >= 0 && dup2(out, 1) >= 0 && dup2(words, 2) >= 0)
        execvp(argv[0], (char *const *)(uintptr_t)argv);
    _exit(NO_GIT);
}

static int words_keep(struct buf *words, const uint8_t *data, size_t length)
{
    int err = buf_append(words, data, length);

    if (err == 0 && words->len > WORDS_MAX) {
        memmove(words->data, words->data + words->len - WORDS_MAX, WORDS_MAX);
        words->len = WORDS_MAX;
    }
    return err;
}

/* *open becomes false at the end of one of the two. */
static int chunk_read(bool *is_open, struct talk *talk, int *fd)
{
    uint8_t data[4096];
    ssize_t n = read(*fd, data, sizeof(data));

    *is_open = n > 0 || (n < 0 && errno == EINTR);
    if (n <= 0) {
        if (!*is_open)
            fd_release(fd);
        return 0;
    }
    worker_alive(talk->child->worker, true);
    if (fd == &talk->words_fd)
        return words_keep(&talk->words, data, (size_t)n);
    if (talk->out->len + (size_t)n > LIMIT_TEXT)
        return error_set(
            E_LIMIT, "more refs there than %llu bytes", (unsigned long long)LIMIT_TEXT
        );
    return buf_append(talk->out, data, (size_t)n);
}

static int both_read(struct talk *talk)
{
    int *fds[] = {&talk->out_fd, &talk->words_fd};
    int err = 0;

    while (err == 0 && (talk->out_fd >= 0 || talk->words_fd >= 0)) {
        struct pollfd wanted[] = {{talk->out_fd, POLLIN, 0}, {talk->words_fd, POLLIN, 0}};
        bool ignored;
        if (poll(wanted, 2, -1) < 0 && errno != EINTR)
            return file_error("git");
        for (size_t i = 0; err == 0 && i < 2; i++) {
            if (wanted[i].revents)
                err = chunk_read(&ignored, talk, fds[i]);
        }
    }
    return err;
}

/* What git says last: its line that begins with "fatal: ", else the last one that says something.
 */
static const char *last_words(struct buf *words)
{
    char *text = (char *)(uintptr_t)buf_text(words), *last = text;

    if (!text)
        return "";
    for (char *line = text, *end; *line; line = end) {
        size_t length = strcspn(line, "\r\n");
        end = line + length + (line[length] != '\0');
        line[length] = '\0';
        if (length)
            last = line;
        if (strncmp(line, "fatal: ", 7) == 0)
            return line + 7;
    }
    return last;
}

static int end_tell(struct talk *talk, int status)
{
    if (WIFEXITED(status) && WEXITSTATUS(status) == 0)
        return 0;
    if (WIFEXITED(status) && WEXITSTATUS(status) == NO_GIT) {
        int err = error_set(E_UNSUPPORTED, "this needs the program git, which is not here");
        return error_hint(err, "apt-get install git, or clone the whole history");
    }
    return error_set(
        E_IO, "%s: git: %s", credentials_shown(talk->child->credentials), last_words(&talk->words)
    );
}

static int pid_wait(int *status, pid_t pid)
{
    while (waitpid(pid, status, 0) < 0) {
        if (errno != EINTR)
            return file_error("git");
    }
    return 0;
}

static int git_run_argv(struct child *child, struct buf *out, const char *const *argv)
{
    __attribute__((cleanup(talk_release))) struct talk talk = {child, out, {0}, -1, -1};
    AUTO_FD(out_end);
    AUTO_FD(words_end);
    int ends[2], status = 0;

    if (pipe2(ends, O_CLOEXEC) != 0)
        return file_error("pipe");
    talk.out_fd = ends[0];
    out_end = ends[1];
    if (pipe2(ends, O_CLOEXEC) != 0)
        return file_error("pipe");
    talk.words_fd = ends[0];
    words_end = ends[1];
    pid_t pid = fork();
    if (pid < 0)
        return file_error("fork");
    if (pid == 0)
        git_become(child, argv, out_end, words_end);
    fd_release(&out_end);
    fd_release(&words_end);
    int err = both_read(&talk);
    if (err < 0)
        kill(pid, SIGKILL);
    int wait_err = pid_wait(&status, pid);
    return err < 0 ? err : wait_err < 0 ? wait_err : end_tell(&talk, status);
}

/* In the quarantine, with these arguments. */
static int git_run(struct child *child, struct buf *out, const char *const *arguments, size_t count)
{
    const char *path = store_path(child->quarantined);
    AUTO_FREE(const char *, argv);
    AUTO_BUF(options);
    size_t option_count, at = FIRST;

    int err = git_options(&options, &option_count, child->credentials);
    if (err < 0)
        return err;
    if (!(argv = array_new(FIRST + option_count + 2 + count + 1, sizeof(*argv))))
        return error_wrap(E_NOMEM, "git");
    memcpy(argv, first_arguments, sizeof(first_arguments));
    const char *option = (const char *)options.data;
    for (size_t i = 0; i < option_count; i++, option += strlen(option) + 1)
        argv[at++] = option;
    argv[at++] = "--git-dir";
    argv[at++] = path;
    for (size_t i = 0; i < count; i++)
        argv[at++] = arguments[i];
    return git_run_argv(child, out, argv);
}

/* What is there */

/* "ref: refs/heads/main\tHEAD". */
static int head_line(struct child *child, char *line)
{
    char *tab = strchr(line, '\t');

    if (strncmp(line, "ref: ", 5) != 0 || !tab || strcmp(tab + 1, "HEAD") != 0)
        return 0;
    *tab = '\0';
    return child_head(child, line + 5);
}

/* Is one of the listed refs ("<id>\t<name>") of this name? */
static bool is_listed(const char *list, const char *name)
{
    size_t length = strlen(name);

    for (const char *at = list; (at = strchr(at, '\t')); at++) {
        if (strncmp(at + 1, name, length) == 0 && (at[1 + length] == '\n' || !at[1 + length]))
            return true;
    }
    return false;
}

/* Append "+<spec>:refs/arrived/<spec>", ended by a NUL, for what is wanted and there; git does not
   pass over a name that is not. */
static int
specs_make(struct buf *out, size_t *out_count, const struct child *child, const char *list)
{
    size_t count;
    const char *const *specs = child_specs(&count, child);
    int err = 0;

    *out_count = 0;
    for (size_t i = 0; err == 0 && i < count; i++) {
        if (!strchr(specs[i], '*') && !is_listed(list, specs[i]))
            continue;
        if ((err = buf_printf(out, "+%s:" PLACE "%s", specs[i], specs[i])) == 0)
            err = buf_append_byte(out, '\0');
        *out_count += err == 0;
    }
    return err;
}

static int heads_list(struct buf *list, struct child *child)
{
    const char *const arguments[] = {
        "ls-remote", "--symref", "--", git_address(child->credentials)};
    AUTO_FREE(char, copy);
    int err = git_run(child, list, arguments, sizeof(arguments) / sizeof(arguments[0]));

    if (err < 0)
        return err;
    if (!buf_text(list) || !(copy = bytes_dup(buf_bytes(list))))
        return error_wrap(E_NOMEM, "refs");
    for (char *line = copy, *end; err == 0 && (end = strchr(line, '\n')); line = end + 1) {
        *end = '\0';
        err = head_line(child, line);
    }
    return err;
}

/* Bringing it */

static int specs_fetch(struct child *child, const struct buf *specs, size_t count)
{
    static const char *const usual[] = {
        "fetch", "--no-tags", "--no-write-fetch-head", "--no-recurse-submodules", "--progress"};
    const size_t usual_count = sizeof(usual) / sizeof(usual[0]);
    AUTO_FREE(const char *, arguments);
    AUTO_BUF(out);
    size_t at = usual_count;

    if (!(arguments = array_new(usual_count + 3 + count, sizeof(*arguments))))
        return error_wrap(E_NOMEM, "git");
    memcpy(arguments, usual, sizeof(usual));
    if (child->request->shallow)
        arguments[at++] = "--depth=1";
    arguments[at++] = "--";
    arguments[at++] = git_address(child->credentials);
    const char *spec = (const char *)specs->data;
    for (size_t i = 0; i < count; i++, spec += strlen(spec) + 1)
        arguments[at++] = spec;
    return git_run(child, &out, arguments, at);
}

static int arrived_ref(void *context, const char *name, const git_oid *target)
{
    return child_ref(context, name + strlen(PLACE), target);
}

static int file_count(void *context, const struct tree_file *file)
{
    uint64_t *bytes = context;
    size_t length = strlen(file->path);

    if (length > 5 && strcmp(file->path + length - 5, ".pack") == 0)
        *bytes += file->bytes;
    return 0;
}

static int arrived_count(struct child *child)
{
    AUTO_ID_SET(arrived);
    AUTO_FREE(char, packs);
    uint64_t bytes = 0;
    int err;

    if ((err = quarantine_objects(&arrived, child->quarantined)) < 0 ||
        (err = path_join(&packs, store_path(child->quarantined), "objects/pack")) < 0 ||
        (err = tree_each(packs, file_count, &bytes)) < 0)
        return err;
    child->counts.objects = arrived.count;
    return child_progress(child, bytes);
}

int git_fetch(struct child *child)
{
    AUTO_BUF(list);
    AUTO_BUF(specs);
    size_t count;
    int err;

    worker_alive(child->worker, true);
    if ((err = heads_list(&list, child)) < 0 ||
        (err = specs_make(&specs, &count, child, (const char *)list.data)) < 0 || !count ||
        (err = specs_fetch(child, &specs, count)) < 0 ||
        (err = refs_each(child->quarantined, PLACE, arrived_ref, child)) < 0 ||
        (err = arrived_count(child)) < 0)
        return err;
    worker_alive(child->worker, false);
    return 0;
}

int git_is_needed(bool *out, struct child *child)
{
    AUTO_ID_SET(shallow);

    int err = shallow_read(&shallow, child->quarantined);
    if (err == 0)
        *out = shallow.count || child->request->shallow;
    return err;
}
