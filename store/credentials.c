/* Who we are to a server, and whether it is the right one. See credentials.h. */
#include "store/credentials.h"

#include <openssl/crypto.h>
#include <stdlib.h>
#include <string.h>

#include "store/certificates.h"
#include "store/credential_helper.h"
#include "store/credentials_parts.h"
#include "store/internal.h"
#include "store/known_hosts.h"
#include "store/netrc.h"
#include "store/ssh_config.h"
#include "store/ssh_key.h"

enum source { FROM_ADDRESS, FROM_TOKEN, FROM_NETRC, FROM_HELPER, FROM_AGENT, FROM_FILE };

struct attempt {
    enum source source;
    const char *path; /* FROM_FILE */
};

struct credentials {
    struct url url;
    struct ssh_config ssh;
    char *host_name; /* in known_hosts */
    struct buf shown, connected;
    struct attempt *attempts;
    size_t count, capacity, next;
    bool is_out, is_accepted; /* the attempt before `next` is with the server; was taken */
    struct login login;       /* the last that was tried */
    char *authority;          /* a file of certificates, or NULL */
    struct buf tried;         /* what came of each attempt, each ended by a NUL */
    bool refused, refused_rsa, known_rsa;
    const char *locked; /* a key with a passphrase */
    int err;            /* that a callback ended with; its message stays the thread's */
};

void credentials_free(struct credentials *credentials)
{
    if (!credentials)
        return;
    url_release(&credentials->url);
    ssh_config_release(&credentials->ssh);
    login_release(&credentials->login);
    free(credentials->host_name);
    free(credentials->authority);
    free(credentials->attempts);
    buf_release(&credentials->shown);
    buf_release(&credentials->connected);
    buf_release(&credentials->tried);
    free(credentials);
}

void credentials_release(struct credentials **credentials)
{
    credentials_free(*credentials);
}

const char *credentials_url(const struct credentials *credentials)
{
    return (const char *)credentials->connected.data;
}

const char *credentials_shown(const struct credentials *credentials)
{
    return (const char *)credentials->shown.data;
}

const struct url *credentials_parts(const struct credentials *credentials)
{
    return &credentials->url;
}

const struct login *credentials_login(const struct credentials *credentials)
{
    return credentials->login.password ? &credentials->login : NULL;
}

const char *credentials_authority(const struct credentials *credentials)
{
    return credentials->authority;
}

const char *credentials_ssh_command(const struct credentials *credentials)
{
    return credentials->ssh.program;
}

/* Attempts, in order */

static int attempt_add(struct credentials *credentials, enum source source, const char *path)
{
    int err = array_grow(
        &credentials->attempts, &credentials->capacity, credentials->count + 1,
        sizeof(*credentials->attempts)
    );

    if (err == 0)
        credentials->attempts[credentials->count++] = (struct attempt){source, path};
    return err;
}

static int files_add(struct credentials *credentials, const struct buf *paths)
{
    const char *path = (const char *)paths->data, *end = path + paths->len;
    int err = 0;

    for (; err == 0 && path < end; path += strlen(path) + 1)
        err = attempt_add(credentials, FROM_FILE, path);
    return err;
}

static int ssh_attempts(struct credentials *credentials)
{
    const struct ssh_config *ssh = &credentials->ssh;
    int err = 0;

    if (credentials->url.password)
        err = attempt_add(credentials, FROM_ADDRESS, NULL);
    if (err < 0 || (err = files_add(credentials, &ssh->named)) < 0)
        return err;
    if (!ssh->named_only && (err = attempt_add(credentials, FROM_AGENT, NULL)) < 0)
        return err;
    return ssh->named.len ? 0 : files_add(credentials, &ssh->usual);
}

static int http_attempts(struct credentials *credentials)
{
    int err = 0;

    if (credentials->url.password)
        err = attempt_add(credentials, FROM_ADDRESS, NULL);
    for (enum source source = FROM_TOKEN; err == 0 && source <= FROM_HELPER; source++)
        err = attempt_add(credentials, source, NULL);
    return err;
}

/* Preparing */

/* As libgit2 is to connect: the configuration's host and port instead of the address's. */
static int ssh_address(struct credentials *credentials)
{
    const struct ssh_config *ssh = &credentials->ssh;
    const struct url *url = &credentials->url;
    char *user = *ssh->user ? ssh->user : NULL;
    struct url real = {url->scheme, user, NULL, ssh->host, ssh->port, url->path, url->is_short};

    return url_append(&credentials->connected, &real);
}

static int ssh_prepare(struct credentials *credentials)
{
    struct ssh_config *ssh = &credentials->ssh;
    const char *agent = getenv("SSH_AUTH_SOCK");
    int err;

    if ((err = ssh_config_read(ssh, &credentials->url)) < 0)
        return err;
    if (ssh->command) {
        err = error_set(
            E_UNSUPPORTED, "%s: ssh's configuration leads there through '%s'",
            credentials_shown(credentials), ssh->command
        );
        return error_hint(err, "forward a port (ssh -L) and use ssh://localhost:PORT/...");
    }
    if (!ssh->agent && agent && (ssh->agent = bytes_dup(text_bytes(agent))) == NULL)
        return error_wrap(E_NOMEM, "ssh");
    err = known_host_name(&credentials->host_name, ssh->alias ? ssh->alias : ssh->host, ssh->port);
    if (err < 0 ||
        (err = known_host_offer(
             &credentials->known_rsa, buf_bytes(&ssh->known_hosts), credentials->host_name
         )) < 0)
        return err;
    if ((err = ssh_attempts(credentials)) < 0)
        return err;
    return ssh_address(credentials);
}

int authority_find(char **out)
{
    const char *const variables[] = {getenv("GIT_SSL_CAINFO"), getenv("SSL_CERT_FILE")};
    AUTO_GIT(git_config, config);
    git_buf path = {0};
    const char *found = variables[0] && *variables[0] ? variables[0] : NULL;

    if (!found && git_config_open_default(&config) == 0 &&
        git_config_get_path(&path, config, "http.sslcainfo") == 0)
        found = path.ptr;
    if (!found && variables[1] && *variables[1])
        found = variables[1];
    *out = found ? bytes_dup(text_bytes(found)) : NULL;
    int err = found && !*out ? error_wrap(E_NOMEM, "certificates") : 0;
    git_buf_dispose(&path);
    return err;
}

static int http_prepare(struct credentials *credentials)
{
    int err;

    if (strcmp(credentials->url.scheme, "https") == 0 &&
        ((err = authority_find(&credentials->authority)) < 0 ||
         (err = certificates_load(credentials->authority)) < 0))
        return err;
    if ((err = http_attempts(credentials)) < 0)
        return err;
    return url_append(&credentials->connected, &credentials->url);
}

static int prepare(struct credentials *credentials, const char *text)
{
    int err;

    if ((err = url_parse(&credentials->url, text)) < 0)
        return err;
    if (!credentials->url.scheme)
        err = buf_append_text(&credentials->shown, text);
    else
        err = url_append(&credentials->shown, &credentials->url);
    if (err < 0 || !buf_text(&credentials->shown))
        return err < 0 ? err : error_wrap(E_NOMEM, "address");
    if (url_is_ssh(&credentials->url))
        err = ssh_prepare(credentials);
    else if (url_is_http(&credentials->url))
        err = http_prepare(credentials);
    else
        err = buf_append_text(&credentials->connected, credentials_shown(credentials));
    if (err < 0)
        return err;
    return buf_text(&credentials->connected) ? 0 : error_wrap(E_NOMEM, "address");
}

int credentials_new(struct credentials **out, const char *url)
{
    struct credentials *credentials = array_new(1, sizeof(*credentials));

    if (!credentials)
        return error_wrap(E_NOMEM, "credentials");
    int err = prepare(credentials, url);
    if (err < 0) {
        credentials_free(credentials);
        return err;
    }
    *out = credentials;
    return 0;
}

/* Another address that git's configuration gives for this one, or the same. */
static int remote_lead(git_buf *out, git_repository *repo, const char *url)
{
    git_remote *remote = NULL;

    int code = git_remote_create_anonymous(&remote, repo, url);
    if (code == 0)
        code = git_buf_set(out, git_remote_url(remote), strlen(git_remote_url(remote)));
    git_remote_free(remote);
    return code < 0 ? git_failed(code, "the address of the remote") : 0;
}

static int
remote_open(git_remote **out, git_repository *repo, const struct credentials *credentials)
{
    git_remote_create_options options;

    int code = git_remote_create_options_init(&options, GIT_REMOTE_CREATE_OPTIONS_VERSION);
    if (code == 0) {
        options.repository = repo;
        options.flags = GIT_REMOTE_CREATE_SKIP_INSTEADOF;
        code = git_remote_create_with_opts(out, credentials_url(credentials), &options);
    }
    return code < 0 ? git_failed(code, "%s", credentials_shown(credentials)) : 0;
}

int credentials_remote(
    struct credentials **out, git_remote **remote, git_repository *repo, const char *url
)
{
    AUTO_CREDENTIALS(credentials);
    AUTO_URL(parts);
    git_buf lead = {0};
    int err;

    /* First what is wrong with it: libgit2 would repeat its secret. */
    if ((err = url_parse(&parts, url)) == 0 && (err = remote_lead(&lead, repo, url)) == 0)
        err = credentials_new(&credentials, lead.ptr);
    if (lead.ptr)
        OPENSSL_cleanse(lead.ptr, lead.size);
    git_buf_dispose(&lead);
    if (err < 0 || (err = remote_open(remote, repo, credentials)) < 0)
        return err;
    *out = credentials;
    credentials = NULL;
    return 0;
}

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
static int credentials_callback(
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

/* Is the server the right one? */

static int host_unknown(const struct credentials *credentials, struct bytes key)
{
    const struct ssh_config *ssh = &credentials->ssh;
    const char *port = ssh->port ? ssh->port : "22";
    AUTO_BUF(line);

    int err = known_host_line(&line, credentials->host_name, key);
    if (err < 0)
        return err;
    err = error_set(E_CONFLICT, "%s: its host key is not known", credentials_shown(credentials));
    err = error_detail(err, "%.*s", (int)line.len, (const char *)line.data);
    return error_hint(
        err,
        "compare the key with what the server's owner tells (ssh-keyscan -p %s %s | ssh-keygen "
        "-lf -), then add that line to %s",
        port, ssh->host, (const char *)ssh->known_hosts.data
    );
}

static int host_check(struct credentials *credentials, const git_cert_hostkey *shown)
{
    const struct bytes key = {(const uint8_t *)shown->hostkey, shown->hostkey_len};
    const struct buf *files = &credentials->ssh.known_hosts;
    enum known_host result = HOST_UNKNOWN;
    AUTO_BUF(where);
    int err;

    if (!credentials->host_name || !(shown->type & GIT_CERT_SSH_RAW))
        return error_set(E_UNSUPPORTED, "a host key that cannot be compared");
    err = known_host_check(&result, &where, buf_bytes(files), credentials->host_name, key);
    if (err < 0 || result == HOST_MATCHES)
        return err;
    if (result == HOST_UNKNOWN)
        return host_unknown(credentials, key);
    err = error_set(
        E_CONFLICT, "%s: %s", credentials_shown(credentials),
        result == HOST_REVOKED ? "its host key is revoked"
                               : "its host key is another than the known one"
    );
    err = error_detail(err, "%.*s", (int)where.len, (const char *)where.data);
    return error_hint(
        err,
        "somebody may stand between; where the owner says that the key has changed: "
        "ssh-keygen -R '%s', and add the new one",
        credentials->host_name
    );
}

/* Of a certificate libgit2 has the reason, and ends with it. */
static int certificate_callback(git_cert *cert, int valid, const char *host, void *payload)
{
    struct credentials *credentials = *(struct credentials **)payload;

    (void)host;
    if (cert->cert_type == GIT_CERT_HOSTKEY_LIBSSH2) {
        credentials->err = host_check(credentials, (const git_cert_hostkey *)(const void *)cert);
        return credentials->err < 0 ? GIT_ECERTIFICATE : 0;
    }
    return cert->cert_type == GIT_CERT_X509 && valid ? 0 : GIT_PASSTHROUGH;
}

static void callbacks_set(git_remote_callbacks *callbacks)
{
    callbacks->credentials = credentials_callback;
    callbacks->certificate_check = certificate_callback;
}

void credentials_connect(git_remote_connect_options *options)
{
    callbacks_set(&options->callbacks);
    options->follow_redirects = GIT_REMOTE_REDIRECT_NONE;
    options->proxy_opts.type = GIT_PROXY_AUTO;
}

void credentials_fetch(git_fetch_options *options)
{
    callbacks_set(&options->callbacks);
    options->follow_redirects = GIT_REMOTE_REDIRECT_NONE;
    options->proxy_opts.type = GIT_PROXY_AUTO;
}

void credentials_push(git_push_options *options)
{
    callbacks_set(&options->callbacks);
    options->follow_redirects = GIT_REMOTE_REDIRECT_NONE;
    options->proxy_opts.type = GIT_PROXY_AUTO;
}

void credentials_accepted(struct credentials *credentials)
{
    if (!credentials->is_out || credentials->is_accepted)
        return;
    credentials->is_accepted = true;
    if (credentials->attempts[credentials->next - 1].source == FROM_HELPER)
        credential_approve(&credentials->url, &credentials->login);
}

/* What libgit2 says */

static int certificate_failed(const struct credentials *credentials, const char *why)
{
    char line[512] = "";
    size_t len = strlen(why) < sizeof(line) ? strlen(why) : sizeof(line) - 1;

    memcpy(line, why, len);
    for (char *at = line; *at; at++)
        *at = *at == '\n' ? ';' : *at;
    int err = error_set(E_CONFLICT, "%s: %s", credentials_shown(credentials), line);
    return error_hint(
        err, "where the server has a certificate of your own, name the file of its authority: "
             "git config --global http.sslCAInfo FILE"
    );
}

static int ssh_failed(const struct credentials *credentials, const char *why)
{
    int err = error_set(E_IO, "%s: %s", credentials_shown(credentials), why);

    if (!credentials->known_rsa)
        return err;
    return error_hint(
        err,
        "only an RSA host key is known, as which this libssh2 and today's servers cannot "
        "agree: add another one (ssh-keyscan -t ed25519 -p %s %s) to known_hosts",
        credentials->ssh.port ? credentials->ssh.port : "22", credentials->ssh.host
    );
}

int credentials_failed(struct credentials *credentials, int code)
{
    const git_error *error = git_error_last();
    const char *why = error && error->message ? error->message : "";
    const char *shown = credentials_shown(credentials);
    int err;

    if (credentials->err < 0)
        return credentials->err;
    if (code == GIT_ECERTIFICATE)
        return certificate_failed(credentials, why);
    if (strstr(why, "failed to start SSH session"))
        return ssh_failed(credentials, why);
    if (strstr(why, "cannot redirect from")) {
        err = error_set(E_INVALID, "%s: %s", shown, why);
        return error_hint(err, "where that is right, give the new address itself");
    }
    if (strstr(why, "status code: 403")) {
        err = error_set(E_INVALID, "%s: the server forbids it", shown);
        return error_hint(err, "these credentials have no right to it");
    }
    return code == GIT_EAUTH ? error_set(E_INVALID, "%s: %s", shown, why) : 0;
}
