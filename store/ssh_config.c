/* What OpenSSH would do for a host. See ssh_config.h. */
#include "store/ssh_config.h"

#include <pwd.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "store/internal.h"
#include "store/process.h"

#define ANSWER_MAX   65536
#define ARGUMENT_MAX 10

void ssh_config_release(struct ssh_config *config)
{
    free(config->host);
    free(config->port);
    free(config->user);
    free(config->program);
    free(config->alias);
    free(config->agent);
    free(config->command);
    buf_release(&config->named);
    buf_release(&config->usual);
    buf_release(&config->known_hosts);
    *config = (struct ssh_config){0};
}

/* Asking */

/* core.sshCommand, but never a repository's: it names a program. NULL where there is none. */
static char *configured_command(void)
{
    AUTO_GIT(git_config, config);
    git_buf command = {0};
    char *copy = NULL;

    if (git_config_open_default(&config) == 0 &&
        git_config_get_string_buf(&command, config, "core.sshcommand") == 0)
        copy = bytes_dup(text_bytes(command.ptr));
    git_buf_dispose(&command);
    return copy;
}

/* The program and its first arguments; a command is a line for the shell, as in git. */
static size_t
program_make(const char *argv[ARGUMENT_MAX], struct buf *line, struct ssh_config *config)
{
    const char *command = getenv("GIT_SSH_COMMAND"), *program = getenv("GIT_SSH");

    free(config->program);
    config->program = command && *command ? bytes_dup(text_bytes(command)) : configured_command();
    command = config->program;
    if (command && buf_printf(line, "%s \"$@\"", command) == 0 && buf_text(line)) {
        argv[0] = "sh";
        argv[1] = "-c";
        argv[2] = (const char *)line->data;
        argv[3] = "ssh";
        return 4;
    }
    argv[0] = program && *program ? program : "ssh";
    return 1;
}

/* `answer` has ANSWER_MAX bytes. */
static int ask(bool *answered, char *answer, struct ssh_config *config, const struct url *url)
{
    static const char *const environment[] = {"VERA_TOKEN", NULL};
    const char *argv[ARGUMENT_MAX] = {0};
    AUTO_BUF(line);
    int status = 0;

    size_t count = program_make(argv, &line, config);
    argv[count++] = "-G";
    if (url->port) {
        argv[count++] = "-p";
        argv[count++] = url->port;
    }
    if (url->user) {
        argv[count++] = "-l";
        argv[count++] = url->user;
    }
    argv[count] = url->host;
    const struct process process = {argv, environment, true, {0}, answer, ANSWER_MAX};
    int err = process_run(&status, &process);
    *answered = err == 0 && status == 0;
    return err == E_NOTFOUND || err == E_LIMIT ? 0 : err;
}

/* The answer: lines "key value" */

static int text_set(char **out, const char *value)
{
    free(*out);
    *out = bytes_dup(text_bytes(value));
    return *out ? 0 : error_wrap(E_NOMEM, "ssh");
}

/* ~ and the tokens that make sense in a path: %d (home), %h, %r, %u, %%. */
static int path_expand(struct buf *out, const struct ssh_config *config, const char *path)
{
    const char *home = getenv("HOME"), *user = getenv("USER");
    int err = 0;

    home = home ? home : "";
    if (path[0] == '~' && (path[1] == '/' || !path[1])) {
        err = buf_append_text(out, home);
        path++;
    }
    for (; err == 0 && *path; path++) {
        const char *text = NULL;
        if (*path == '%' && path[1]) {
            text = path[1] == 'd'   ? home
                   : path[1] == 'h' ? config->host
                   : path[1] == 'r' ? config->user
                   : path[1] == 'u' ? user
                                    : NULL;
            if (text || path[1] == '%')
                path++;
        }
        err = text ? buf_append_text(out, text) : buf_append_byte(out, (uint8_t)*path);
    }
    return err < 0 ? err : buf_append_byte(out, '\0');
}

static const char *const usual_keys[] = {
    "~/.ssh/id_ed25519",    "~/.ssh/id_ecdsa", "~/.ssh/id_rsa", "~/.ssh/id_ecdsa_sk",
    "~/.ssh/id_ed25519_sk", "~/.ssh/id_xmss",  "~/.ssh/id_dsa"};
#define TRIED_KEYS 3 /* of the usual ones: what libssh2 can read */
#define USUAL_KEYS (sizeof(usual_keys) / sizeof(usual_keys[0]))

static int key_add(struct ssh_config *config, const char *path)
{
    for (size_t i = 0; i < USUAL_KEYS; i++) {
        if (strcmp(path, usual_keys[i]) == 0)
            return 0;
    }
    return path_expand(&config->named, config, path);
}

/* Paths with spaces between. */
static int known_hosts_add(struct ssh_config *config, char *paths)
{
    int err = 0;

    for (char *end; err == 0 && *paths; paths = end) {
        end = paths + strcspn(paths, " ");
        if (*end)
            *end++ = '\0';
        err = path_expand(&config->known_hosts, config, paths);
    }
    return err;
}

static int agent_set(struct ssh_config *config, const char *value)
{
    const char *path = *value == '$' ? getenv(value + 1) : value;
    AUTO_BUF(expanded);

    if (strcmp(value, "SSH_AUTH_SOCK") == 0 || !path)
        return 0;
    int err = path_expand(&expanded, config, path);
    return err < 0 ? err : text_set(&config->agent, (const char *)expanded.data);
}

static int value_apply(struct ssh_config *config, const char *key, char *value)
{
    if (strcmp(key, "hostname") == 0)
        return text_set(&config->host, value);
    if (strcmp(key, "port") == 0)
        return text_set(&config->port, value);
    if (strcmp(key, "user") == 0)
        return text_set(&config->user, value);
    if (strcmp(key, "hostkeyalias") == 0)
        return text_set(&config->alias, value);
    if (strcmp(key, "identityfile") == 0)
        return key_add(config, value);
    if (strcmp(key, "identityagent") == 0)
        return agent_set(config, value);
    if (strcmp(key, "userknownhostsfile") == 0 || strcmp(key, "globalknownhostsfile") == 0)
        return known_hosts_add(config, value);
    if ((strcmp(key, "proxyjump") == 0 || strcmp(key, "proxycommand") == 0) &&
        strcmp(value, "none") != 0)
        return text_set(&config->command, value);
    if (strcmp(key, "identitiesonly") == 0)
        config->named_only = strcmp(value, "yes") == 0;
    return 0;
}

static int answer_read(struct ssh_config *config, char *answer)
{
    int err = 0;

    for (char *line = answer, *end; err == 0 && *line; line = end) {
        end = line + strcspn(line, "\n");
        if (*end)
            *end++ = '\0';
        char *value = line + strcspn(line, " ");
        if (*value) {
            *value++ = '\0';
            err = value_apply(config, line, value);
        }
    }
    return err;
}

static int defaults_set(struct ssh_config *config, const struct url *url)
{
    const struct passwd *entry = url->user ? NULL : getpwuid(geteuid());
    const char *user = url->user ? url->user : entry ? entry->pw_name : "";
    int err;

    if ((err = text_set(&config->host, url->host)) < 0 ||
        (err = text_set(&config->user, user)) < 0 ||
        (err = url->port ? text_set(&config->port, url->port) : 0) < 0)
        return err;
    for (size_t i = 0; i < TRIED_KEYS; i++) {
        if ((err = path_expand(&config->usual, config, usual_keys[i])) < 0)
            return err;
    }
    return 0;
}

/* Where ssh told nothing. */
static int known_hosts_default(struct ssh_config *config)
{
    int err;

    if (config->known_hosts.len)
        return 0;
    if ((err = path_expand(&config->known_hosts, config, "~/.ssh/known_hosts")) < 0)
        return err;
    return path_expand(&config->known_hosts, config, "/etc/ssh/ssh_known_hosts");
}

int ssh_config_read(struct ssh_config *out, const struct url *url)
{
    AUTO_SSH_CONFIG(config);
    bool answered = false;
    int err;

    AUTO_FREE(char, answer);
    if (!(answer = array_new(ANSWER_MAX, 1)))
        return error_wrap(E_NOMEM, "ssh");
    if ((err = defaults_set(&config, url)) < 0 ||
        (err = ask(&answered, answer, &config, url)) < 0 ||
        (answered && (err = answer_read(&config, answer)) < 0) ||
        (err = known_hosts_default(&config)) < 0)
        return err;
    *out = config;
    config = (struct ssh_config){0};
    return 0;
}
