/* git's credential helpers. See credential_helper.h. */
#include "store/credential_helper.h"

#include <openssl/crypto.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "format/limits.h"
#include "store/process.h"

#define TALK_MAX 16384

/* What goes to git: a text of fixed size, since it may hold a secret. */
struct question {
    char text[TALK_MAX];
    size_t len;
};

static int line_add(struct question *question, const char *key, const char *value)
{
    if (!value || !*value)
        return 0;
    int n = snprintf(
        question->text + question->len, TALK_MAX - question->len, "%s=%s\n", key, value
    );
    if (n < 0 || (size_t)n >= TALK_MAX - question->len || strchr(value, '\n'))
        return error_set(E_LIMIT, "what git would be asked is too long, or has several lines");
    question->len += (size_t)n;
    return 0;
}

static int question_make(struct question *out, const struct url *url, const struct login *login)
{
    char host[LIMIT_URL + 16];
    const char *user = login->user ? login->user : url->user, *path = url->path;
    bool many_colons = strchr(url->host, ':') != NULL;
    int err;

    snprintf(
        host, sizeof(host), many_colons ? "[%s]%s%s" : "%s%s%s", url->host, url->port ? ":" : "",
        url->port ? url->port : ""
    );
    out->len = 0;
    if ((err = line_add(out, "protocol", url->scheme)) < 0 ||
        (err = line_add(out, "host", host)) < 0 ||
        (err = line_add(out, "path", *path == '/' ? path + 1 : path)) < 0 ||
        (err = line_add(out, "username", user)) < 0)
        return err;
    return line_add(out, "password", login->password);
}

/* `answer` has TALK_MAX bytes. */
static int
ask(int *status, char *answer, const char *verb, const struct url *url, const struct login *login)
{
    const char *const argv[] = {"git", "credential", verb, NULL};
    const bool may_ask = isatty(STDIN_FILENO) && isatty(STDERR_FILENO);
    const char *const environment[] = {
        TOKEN_VARIABLE,
        "GIT_WORK_TREE",
        "GIT_COMMON_DIR",
        "GIT_DIR=/dev/null",
        may_ask ? NULL : "GIT_TERMINAL_PROMPT=0",
        NULL};
    struct question question;

    int err = question_make(&question, url, login);
    if (err == 0) {
        const struct process process = {argv,     environment,
                                        !may_ask, {(const uint8_t *)question.text, question.len},
                                        answer,   TALK_MAX};
        /* Who types has the time for it. */
        unsigned left = alarm(0);
        err = process_run(status, &process);
        alarm(left);
    }
    OPENSSL_cleanse(&question, sizeof(question));
    return err;
}

/* The value of a line "key=value", ended by a NUL in place. */
static const char *value_of(char *line, const char *key)
{
    size_t len = strlen(key);

    return strncmp(line, key, len) == 0 && line[len] == '=' ? line + len + 1 : NULL;
}

static int answer_read(bool *found, struct login *out, char *answer)
{
    const char *user = NULL, *password = NULL, *value;

    for (char *line = answer, *end; *line; line = end) {
        end = line + strcspn(line, "\n");
        if (*end)
            *end++ = '\0';
        if ((value = value_of(line, "username")))
            user = value;
        else if ((value = value_of(line, "password")))
            password = value;
    }
    if (!user || !password)
        return 0;
    int err = login_set(out, user, password);
    *found = err == 0;
    return err;
}

int credential_fill(bool *found, struct login *out, const struct url *url)
{
    char answer[TALK_MAX];
    int status = 0;

    *found = false;
    int err = ask(&status, answer, "fill", url, &(struct login){0});
    if (err == 0 && status == 0)
        err = answer_read(found, out, answer);
    OPENSSL_cleanse(answer, sizeof(answer));
    return err;
}

static void tell(const char *verb, const struct url *url, const struct login *login)
{
    char answer[TALK_MAX];
    int status;

    error_keep();
    int err = ask(&status, answer, verb, url, login);
    err = error_restore(err);
    (void)err;
}

void credential_approve(const struct url *url, const struct login *login)
{
    tell("approve", url, login);
}

void credential_reject(const struct url *url, const struct login *login)
{
    tell("reject", url, login);
}
