/* What the program git is told. See git_options.h. */
#include "store/git_options.h"

#include <stdlib.h>
#include <string.h>

#include "store/credentials_parts.h"

#define LENT_USER     "VERA_LENT_USER"
#define LENT_PASSWORD "VERA_LENT_PASSWORD"
/* Of git's helpers only a get is answered. printf is the shell's own: no command line has it. */
#define HELPER                                                                                     \
    "!f() { test \"$1\" != get || printf 'username=%s\\npassword=%s\\n' \"$" LENT_USER             \
    "\" \"$" LENT_PASSWORD "\"; }; f"
#define STRICT "-o StrictHostKeyChecking=yes -o BatchMode=yes -o UpdateHostKeys=no"

static int option_end(struct buf *out, size_t *count)
{
    (*count)++;
    return buf_append_byte(out, '\0');
}

/* "-c" "before" "https://host:port" "after" */
static int host_option(
    struct buf *out, size_t *count, const struct url *url, const char *before, const char *after
)
{
    const struct url host = {
        .scheme = url->scheme, .host = url->host, .port = url->port, .path = (char[]){""}};
    int err;

    if ((err = buf_append_text(out, "-c")) < 0 || (err = option_end(out, count)) < 0 ||
        (err = buf_append_text(out, before)) < 0 || (err = url_append(out, &host)) < 0 ||
        (err = buf_append_text(out, after)) < 0)
        return err;
    return option_end(out, count);
}

/* The most specific one wins in git, so it is given for the whole address. (One with a '=' git
   would take apart there.) */
static int address_option(struct buf *out, size_t *count, const struct credentials *credentials)
{
    const char *address = credentials_shown(credentials);
    int err;

    if (strchr(address, '='))
        return host_option(out, count, credentials_parts(credentials), "http.", ".sslVerify=true");
    if ((err = buf_append_text(out, "-c")) < 0 || (err = option_end(out, count)) < 0 ||
        (err = buf_printf(out, "http.%s.sslVerify=true", address)) < 0)
        return err;
    return option_end(out, count);
}

static int option(struct buf *out, size_t *count, const char *text)
{
    int err;

    if ((err = buf_append_text(out, "-c")) < 0 || (err = option_end(out, count)) < 0 ||
        (err = buf_append_text(out, text)) < 0)
        return err;
    return option_end(out, count);
}

int git_options(struct buf *out, size_t *count, const struct credentials *credentials)
{
    const struct url *url = credentials_parts(credentials);
    int err;

    *count = 0;
    if (!url_is_http(url))
        return 0;
    if ((err = option(out, count, "http.sslVerify=true")) < 0 ||
        (err = address_option(out, count, credentials)) < 0)
        return err;
    if (!credentials_login(credentials))
        return 0;
    if ((err = option(out, count, "credential.helper=")) < 0)
        return err;
    return host_option(out, count, url, "credential.", ".helper=" HELPER);
}

/* ssh reads its own configuration, in which the host may have another name. */
const char *git_address(const struct credentials *credentials)
{
    return url_is_ssh(credentials_parts(credentials)) ? credentials_shown(credentials)
                                                      : credentials_url(credentials);
}

/* What fails here makes git fail, which says so. */
static void ssh_environment(const struct credentials *credentials)
{
    const char *command = credentials_ssh_command(credentials);
    AUTO_BUF(strict);

    if (!command)
        command = getenv("GIT_SSH") && *getenv("GIT_SSH") ? "\"$GIT_SSH\"" : "ssh";
    if (buf_printf(&strict, "%s " STRICT, command) == 0 && buf_text(&strict))
        (void)!setenv("GIT_SSH_COMMAND", (const char *)strict.data, 1);
}

void git_environment(const struct credentials *credentials)
{
    static const char *const unwanted[] = {
        TOKEN_VARIABLE, "GIT_SSL_NO_VERIFY", "GIT_ASKPASS", "SSH_ASKPASS"};
    const struct login *login = credentials_login(credentials);
    const char *authority = credentials_authority(credentials);

    for (size_t i = 0; i < sizeof(unwanted) / sizeof(unwanted[0]); i++)
        unsetenv(unwanted[i]);
    (void)!setenv("GIT_TERMINAL_PROMPT", "0", 1);
    if (login) {
        (void)!setenv(LENT_USER, login->user, 1);
        (void)!setenv(LENT_PASSWORD, login->password, 1);
    }
    if (authority)
        (void)!setenv("GIT_SSL_CAINFO", authority, 1);
    if (url_is_ssh(credentials_parts(credentials)))
        ssh_environment(credentials);
}
