/* Whether the server is the right one, and what libgit2's failures mean. See credentials.h. */
#include <string.h>

#include "store/credentials_parts.h"
#include "store/internal.h"
#include "store/known_hosts.h"

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
int certificate_callback(git_cert *cert, int valid, const char *host, void *payload)
{
    struct credentials *credentials = *(struct credentials **)payload;

    (void)host;
    if (cert->cert_type == GIT_CERT_HOSTKEY_LIBSSH2) {
        credentials->err = host_check(credentials, (const git_cert_hostkey *)(const void *)cert);
        return credentials->err < 0 ? GIT_ECERTIFICATE : 0;
    }
    return cert->cert_type == GIT_CERT_X509 && valid ? 0 : GIT_PASSTHROUGH;
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
