/* Where credentials may come from, and what libgit2 is given. See credentials.h. */
#include "store/credentials_parts.h"

#include <openssl/crypto.h>
#include <stdlib.h>
#include <string.h>

#include "store/certificates.h"
#include "store/internal.h"
#include "store/known_hosts.h"

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
