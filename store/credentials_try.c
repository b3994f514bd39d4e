/* Trying what may say who we are, one after the other. See credentials.h. */
#include <stdlib.h>
#include <string.h>

#include "store/credential_helper.h"
#include "store/credentials_parts.h"
#include "store/internal.h"
#include "store/netrc.h"
#include "store/ssh_key.h"

/* What came of an attempt */

static const char *attempt_name(const struct attempt *attempt)
{
    static const char *const names[] = {
        [FROM_ADDRESS] = "the address",    [FROM_TOKEN] = TOKEN_VARIABLE,
        [FROM_NETRC] = "~/.netrc",         [FROM_HELPER] = "git credential",
        [FROM_AGENT] = "the agent's keys",
    };

    return attempt->source == FROM_FILE ? attempt->path : names[attempt->source];
}

static int note(struct credentials *credentials, const struct attempt *attempt, const char *what)
{
    int err = buf_printf(&credentials->tried, "%s: %s", attempt_name(attempt), what);

    return err < 0 ? err : buf_append_byte(&credentials->tried, '\0');
}

/* The server did not take the last one. */
static int refused(struct credentials *credentials)
{
    const struct attempt *attempt = &credentials->attempts[credentials->next - 1];

    credentials->is_out = false;
    credentials->refused = true;
    if (attempt->source == FROM_HELPER)
        credential_reject(&credentials->url, &credentials->login);
    return note(credentials, attempt, "refused by the server");
}

static int ssh_hint(const struct credentials *credentials, int err)
{
    if (credentials->refused_rsa)
        return error_hint(
            err,
            "this libssh2 signs with RSA keys only as servers no longer accept: use an ed25519 "
            "key (ssh-keygen -t ed25519)"
        );
    if (credentials->locked)
        return error_hint(err, "ssh-add %s", credentials->locked);
    return error_hint(
        err, "give the server the public part of a key that is in ~/.ssh or in the agent "
             "(ssh-keygen -t ed25519, ssh-copy-id)"
    );
}

/* No attempt is left. */
static int exhausted(struct credentials *credentials)
{
    const char *line = (const char *)credentials->tried.data;
    const char *end = line + credentials->tried.len;

    int err = error_set(
        E_INVALID, "%s: %s", credentials_shown(credentials),
        credentials->refused ? "the server accepts none of the credentials"
                             : "the server wants credentials, and there are none"
    );
    for (; line < end; line += strlen(line) + 1)
        err = error_detail(err, "%s", line);
    if (url_is_ssh(&credentials->url))
        return ssh_hint(credentials, err);
    return error_hint(
        err, "set " TOKEN_VARIABLE ", or add the host to ~/.netrc or to one of git's credential "
             "helpers"
    );
}

/* Trying: *made false where there is nothing to try. */

static int login_make(git_credential **out, const struct login *login)
{
    int code = git_credential_userpass_plaintext_new(out, login->user, login->password);

    return code < 0 ? git_failed(code, "credentials") : 0;
}

static int login_find(bool *found, struct login *login, const struct url *url, enum source source)
{
    int err;

    switch (source) {
    case FROM_ADDRESS:
        err = login_set(login, url->user ? url->user : "", url->password);
        *found = err == 0;
        return err;
    case FROM_TOKEN:
        return token_find(found, login, url);
    case FROM_NETRC:
        return netrc_find(found, login, url->host, url->user);
    case FROM_HELPER:
        return credential_fill(found, login, url);
    case FROM_AGENT:
    case FROM_FILE:
        break;
    }
    *found = false;
    return 0;
}

/* A source that cannot be read is told with the others, and ends nothing. */
static int login_try(
    git_credential **out, bool *made, struct credentials *credentials, const struct attempt *attempt
)
{
    AUTO_LOGIN(login);
    bool found = false;

    int err = login_find(&found, &login, &credentials->url, attempt->source);
    if (err < 0 && err != E_NOMEM && err != E_INTERRUPTED)
        return note(credentials, attempt, error_message());
    if (err < 0)
        return err;
    if (!found)
        return note(
            credentials, attempt,
            attempt->source == FROM_TOKEN ? "not set" : "nothing for this host"
        );
    err = login_make(out, &login);
    *made = err == 0;
    login_release(&credentials->login);
    credentials->login = login;
    login = (struct login){0};
    return err;
}

static int agent_try(
    git_credential **out,
    bool *made,
    struct credentials *credentials,
    const struct attempt *attempt,
    const char *user
)
{
    const char *path = credentials->ssh.agent;
    struct ssh_agent agent;
    bool found = false;

    if (path && *path && strcmp(path, "none") != 0)
        ssh_agent_ask(&found, &agent, path);
    if (!found)
        return note(credentials, attempt, "no agent answers");
    if (agent.keys == 0)
        return note(credentials, attempt, "it holds none");
    /* libssh2 asks the environment. */
    if (setenv("SSH_AUTH_SOCK", path, 1) != 0)
        return error_set(E_NOMEM, "ssh");
    credentials->refused_rsa |= agent.rsa_keys > 0;
    int code = git_credential_ssh_key_from_agent(out, user);
    if (code < 0)
        return git_failed(code, "ssh agent");
    *made = true;
    return 0;
}

static int file_try(
    git_credential **out,
    bool *made,
    struct credentials *credentials,
    const struct attempt *attempt,
    const char *user
)
{
    struct ssh_key key;
    bool found = false;

    int err = ssh_key_read(&found, &key, attempt->path);
    if (err < 0 && err != E_NOMEM)
        return note(credentials, attempt, error_message());
    if (err < 0)
        return err;
    if (!found)
        return note(credentials, attempt, "not there");
    if (key.is_encrypted && !credentials->locked)
        credentials->locked = attempt->path;
    if (!key.is_usable)
        return note(credentials, attempt, key.why);
    credentials->refused_rsa |= key.is_rsa;
    int code = git_credential_ssh_key_new(out, user, NULL, attempt->path, NULL);
    if (code < 0)
        return git_failed(code, "ssh key %s", attempt->path);
    *made = true;
    return 0;
}

static int attempt_try(
    git_credential **out,
    bool *made,
    struct credentials *credentials,
    const struct attempt *attempt,
    unsigned allowed,
    const char *user
)
{
    const bool is_key = attempt->source == FROM_AGENT || attempt->source == FROM_FILE;
    const unsigned needed = is_key ? GIT_CREDENTIAL_SSH_KEY : GIT_CREDENTIAL_USERPASS_PLAINTEXT;

    *made = false;
    if (!(allowed & needed))
        return note(credentials, attempt, "the server does not take this kind");
    if (attempt->source == FROM_AGENT)
        return agent_try(out, made, credentials, attempt, user);
    if (attempt->source == FROM_FILE)
        return file_try(out, made, credentials, attempt, user);
    return login_try(out, made, credentials, attempt);
}

static int
acquire(git_credential **out, struct credentials *credentials, unsigned allowed, const char *user)
{
    bool made = false;
    int err = 0;

    if (credentials->is_out && credentials->is_accepted)
        credentials->next--; /* a new connection: what was taken is taken again */
    else if (credentials->is_out)
        err = refused(credentials);
    credentials->is_out = credentials->is_accepted = false;
    while (err == 0 && !made && credentials->next < credentials->count) {
        const struct attempt *attempt = &credentials->attempts[credentials->next++];
        err = attempt_try(out, &made, credentials, attempt, allowed, user);
    }
    credentials->is_out = made;
    if (err == 0 && !made)
        err = exhausted(credentials);
    return err;
}

/* The user's name that libgit2 gives is the server's after a redirect, so only ssh's counts. */
int credentials_callback(
    git_credential **out, const char *url, const char *user, unsigned allowed, void *payload
)
{
    struct credentials *credentials = *(struct credentials **)payload;

    (void)url;
    if (allowed & GIT_CREDENTIAL_USERNAME)
        return git_credential_username_new(out, credentials->ssh.user);
    credentials->err = acquire(out, credentials, allowed, user);
    return credentials->err < 0 ? GIT_EUSER : 0;
}

void credentials_accepted(struct credentials *credentials)
{
    if (!credentials->is_out || credentials->is_accepted)
        return;
    credentials->is_accepted = true;
    if (credentials->attempts[credentials->next - 1].source == FROM_HELPER)
        credential_approve(&credentials->url, &credentials->login);
}
