/* Another program, run to its end. See process.h. */
#define _GNU_SOURCE
#include "store/process.h"

#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <unistd.h>

#include "format/file.h"

extern char **environ;

#define STATUS_NO_PROGRAM 127
#define STATUS_SIGNAL     128

static bool is_changed(const char *variable, const char *const *changes)
{
    for (; *changes; changes++) {
        size_t name = strcspn(*changes, "=");
        if (strncmp(variable, *changes, name) == 0 && variable[name] == '=')
            return true;
    }
    return false;
}

/* Ours with the changes: pointers to what is there, so nothing is copied. */
static const char **environment_make(const char *const *changes)
{
    size_t count = 1, at = 0;

    for (char **variable = environ; *variable; variable++)
        count++;
    for (const char *const *change = changes; *change; change++)
        count++;
    const char **made = array_new(count, sizeof(*made));
    if (!made)
        return NULL;
    for (char **variable = environ; *variable; variable++) {
        if (!is_changed(*variable, changes))
            made[at++] = *variable;
    }
    for (const char *const *change = changes; *change; change++) {
        if (strchr(*change, '='))
            made[at++] = *change;
    }
    return made;
}

/* A process that fetches has lowered them for itself; helpers may need more. */
static void limits_restore(void)
{
    static const int limits[] = {RLIMIT_AS, RLIMIT_CPU, RLIMIT_FSIZE};

    for (size_t i = 0; i < sizeof(limits) / sizeof(limits[0]); i++) {
        struct rlimit limit;
        if (getrlimit((__rlimit_resource_t)limits[i], &limit) == 0) {
            limit.rlim_cur = limit.rlim_max;
            (void)!setrlimit((__rlimit_resource_t)limits[i], &limit);
        }
    }
}

/* The casts take const away for a declaration that is older than const. */
static _Noreturn void
run(const struct process *process, const char **environment, int input, int output)
{
    limits_restore();
    signal(SIGXFSZ, SIG_DFL);
    signal(SIGPIPE, SIG_DFL);
    if (dup2(input, STDIN_FILENO) < 0 || dup2(output, STDOUT_FILENO) < 0 || chdir("/") != 0)
        _exit(STATUS_NO_PROGRAM);
    if (process->is_quiet) {
        int nowhere = open("/dev/null", O_WRONLY | O_CLOEXEC);
        if (nowhere < 0 || dup2(nowhere, STDERR_FILENO) < 0)
            _exit(STATUS_NO_PROGRAM);
    }
    char **argv, **variables;
    memcpy(&argv, &process->argv, sizeof(argv));
    memcpy(&variables, &environment, sizeof(variables));
    execvpe(argv[0], argv, variables);
    _exit(STATUS_NO_PROGRAM);
}

static int output_read(const struct process *process, int fd)
{
    size_t len = 0;

    for (;;) {
        ssize_t n = read(fd, process->output + len, process->output_size - len);
        if (n == 0) {
            process->output[len] = '\0';
            return 0;
        }
        if (n < 0 && errno != EINTR)
            return file_error(process->argv[0]);
        len += n > 0 ? (size_t)n : 0;
        if (len == process->output_size)
            return error_set(E_LIMIT, "%s: it says too much", process->argv[0]);
    }
}

/* In memory only, and no pipe, so that who does not read it cannot block or kill us. */
static int input_open(int *out, const struct process *process)
{
    AUTO_FD(fd);

    if ((fd = memfd_create("input", MFD_CLOEXEC)) < 0)
        return file_error("memfd");
    int err = fd_write_all(fd, process->input.data, process->input.len, "memfd");
    if (err < 0)
        return err;
    if (lseek(fd, 0, SEEK_SET) < 0)
        return file_error("memfd");
    *out = fd;
    fd = -1;
    return 0;
}

static int status_wait(int *status, pid_t pid)
{
    int ended = 0;

    while (waitpid(pid, &ended, 0) < 0) {
        if (errno != EINTR)
            return file_error("wait");
    }
    *status = WIFSIGNALED(ended) ? STATUS_SIGNAL + WTERMSIG(ended) : WEXITSTATUS(ended);
    return 0;
}

int process_run(int *status, const struct process *process)
{
    AUTO_FREE(const char *, environment);
    AUTO_FD(input);
    AUTO_FD(reading);
    AUTO_FD(writing);
    int ends[2], err, ended = 0;

    if (!(environment = environment_make(process->environment)))
        return error_wrap(E_NOMEM, "%s", process->argv[0]);
    if ((err = input_open(&input, process)) < 0)
        return err;
    if (pipe2(ends, O_CLOEXEC) != 0)
        return file_error("pipe");
    reading = ends[0];
    writing = ends[1];
    pid_t pid = fork();
    if (pid == 0)
        run(process, environment, input, writing);
    if (pid < 0)
        return file_error("fork");
    fd_release(&writing);
    writing = -1;
    err = output_read(process, reading);
    if (err < 0)
        kill(pid, SIGKILL);
    int waited = status_wait(&ended, pid);
    if (err < 0 || (err = waited) < 0)
        return err;
    if (ended == STATUS_NO_PROGRAM)
        return error_set(E_NOTFOUND, "%s: there is no such program", process->argv[0]);
    *status = ended;
    return 0;
}
