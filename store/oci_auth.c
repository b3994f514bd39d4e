/* Answers to a registry's challenges. See oci_auth.h. */
#include "store/oci_auth.h"

#include <stdlib.h>
#include <string.h>
#include <strings.h>

#include <openssl/crypto.h>
#include <openssl/evp.h>

#include "format/file.h"
#include "format/json.h"
#include "format/limits.h"
#include "store/oci_helper.h"

#define CONFIG_MAX    MIB
#define TOKEN_MAX     (256 * KIB)
#define TOKEN_SECONDS 60

static void header_forget(struct oci_auth *auth)
{
    if (auth->header)
        OPENSSL_cleanse(auth->header, strlen(auth->header));
    free(auth->header);
    auth->header = NULL;
}

void oci_auth_release(struct oci_auth *auth)
{
    header_forget(auth);
    oci_credentials_release(&auth->credentials);
}

/* Released with its contents wiped. */
static void secret_release(struct buf *buf)
{
    if (buf->data)
        OPENSSL_cleanse(buf->data, buf->cap);
    buf_release(buf);
}
#define AUTO_SECRET(name) __attribute__((cleanup(secret_release))) struct buf name = {0}

/* Credentials */

static int config_path(char **out)
{
    const char *folder = getenv("DOCKER_CONFIG"), *home = getenv("HOME");
    AUTO_FREE(char, path);
    int err;

    *out = NULL;
    if (folder && *folder)
        return path_join(out, folder, "config.json");
    if (!home || !*home)
        return 0;
    if ((err = path_join(&path, home, ".docker")) < 0)
        return err;
    return path_join(out, path, "config.json");
}

/* Once for a registry; none where there is no file. */
static int credentials_find(struct oci_auth *auth)
{
    AUTO_FREE(char, path);
    AUTO_FREE(char, helper);
    AUTO_SECRET(json);
    int err;

    if (auth->looked || !auth->name->is_secret)
        return 0;
    auth->looked = true;
    if ((err = config_path(&path)) < 0 || !path || !path_exists(path))
        return err;
    if ((err = file_read(&json, path, CONFIG_MAX)) < 0)
        return err;
    if ((err = oci_config_decode(&auth->credentials, &helper, buf_bytes(&json), auth->name->host)) <
        0)
        return error_wrap(err, "%s", path);
    return helper ? oci_helper_ask(&auth->credentials, helper, auth->name->host) : 0;
}

static int header_set(struct oci_auth *auth, const char *scheme, struct bytes value)
{
    AUTO_SECRET(header);

    for (size_t i = 0; i < value.len; i++) {
        if (value.data[i] <= ' ' || value.data[i] >= 0x7f)
            return error_set(
                E_INVALID, "%s: a token with characters that none has", auth->name->host
            );
    }
    int err = buf_printf(&header, "%s %.*s", scheme, (int)value.len, (const char *)value.data);
    if (err < 0)
        return err;
    if (!buf_text(&header))
        return error_wrap(E_NOMEM, "credentials");
    header_forget(auth);
    auth->header = (char *)buf_take(&header).data;
    return 0;
}

/* "user:secret" in base64. */
static int basic_make(struct buf *out, const struct oci_credentials *credentials)
{
    AUTO_SECRET(plain);

    int err = buf_printf(&plain, "%s:%s", credentials->user, credentials->secret);
    if (err < 0 || (err = buf_resize(out, (plain.len + 2) / 3 * 4 + 1)) < 0)
        return err;
    out->len = (size_t)EVP_EncodeBlock(out->data, plain.data, (int)plain.len);
    return 0;
}

/* Tokens */

static int keep_answer(void *context, const struct http_response *response, struct bytes piece)
{
    (void)response;
    return buf_append(context, piece.data, piece.len);
}

/* {"token": ...} or {"access_token": ...} */
static int token_decode(struct buf *out, struct bytes answer)
{
    AUTO_JSON(json);
    enum json_event event;

    json_init(&json, answer);
    int err = json_expect(&json, JSON_OBJECT_BEGIN);
    while (err == 0 && (err = json_next(&event, &json)) == 0 && event == JSON_KEY) {
        if (!json_text_is(&json, "token") && !json_text_is(&json, "access_token")) {
            err = json_skip_value(&json);
            continue;
        }
        if ((err = json_expect(&json, JSON_STRING)) == 0 && json.text.len) {
            out->len = 0;
            err = buf_append(out, json.text.data, json.text.len);
        }
    }
    if (err < 0 || (err = json_expect(&json, JSON_END)) < 0)
        return err;
    return out->len ? 0 : error_set(E_INVALID, "an answer without a token");
}

static int parameter_add(struct buf *out, char between, const char *name, const char *value)
{
    if (!value)
        return 0;
    int err = buf_printf(out, "%c%s=", between, name);
    return err < 0 ? err : http_escape(out, text_bytes(value));
}

/* What we may do there, where the challenge does not say so. */
static int scope_make(char **out, const struct oci_auth *auth, const struct challenge *challenge)
{
    AUTO_BUF(scope);

    if (challenge->scope && !auth->writes) {
        *out = bytes_dup(text_bytes(challenge->scope));
        return *out ? 0 : error_wrap(E_NOMEM, "scope");
    }
    int err = buf_printf(
        &scope, "repository:%s:%s", auth->name->repository,
        auth->writes ? "pull,push,delete" : "pull"
    );
    if (err == 0)
        *out = (char *)buf_take(&scope).data;
    return err;
}

/* May our secret go to where a registry says that its tokens come from? */
static bool realm_is_secret(const char *realm)
{
    if (strncasecmp(realm, "https://", 8) == 0)
        return true;
    if (strncasecmp(realm, "http://", 7) != 0)
        return false;
    size_t len = strcspn(realm + 7, "/?#");
    const char *host = realm + 7, *port = memchr(host, ':', len);
    if (host[0] == '[')
        port = memchr(host, ']', len) ? (const char *)memchr(host, ']', len) + 1 : NULL;
    return http_is_loopback((struct bytes
    ){(const uint8_t *)host, port ? (size_t)(port - host) : len});
}

struct token_call {
    struct buf url, body, basic;
    struct http_request request;
};

static void token_call_release(struct token_call *call)
{
    buf_release(&call->url);
    secret_release(&call->body);
    secret_release(&call->basic);
}

/* GET with the password (or nobody's), POST with an identity token. */
static int token_ask(
    struct token_call *call,
    const struct oci_auth *auth,
    const struct challenge *challenge,
    const char *scope
)
{
    static const char *const form[] = {"Content-Type: application/x-www-form-urlencoded", NULL};
    const struct oci_credentials *credentials = &auth->credentials;
    bool is_form = credentials->is_token;
    struct buf *out = is_form ? &call->body : &call->url;
    AUTO_SECRET(coded);
    int err;

    if ((err = buf_append_text(&call->url, challenge->realm)) < 0 ||
        (is_form &&
         ((err = buf_append_text(out, "grant_type=refresh_token&client_id=verastore")) < 0 ||
          (err = parameter_add(out, '&', "refresh_token", credentials->secret)) < 0)) ||
        (err = parameter_add(
             out, is_form || strchr(challenge->realm, '?') ? '&' : '?', "scope", scope
         )) < 0 ||
        (err = parameter_add(out, '&', "service", challenge->service)) < 0)
        return err;
    if (credentials->secret && !is_form &&
        ((err = basic_make(&coded, credentials)) < 0 ||
         (err = buf_printf(&call->basic, "Basic %.*s", (int)coded.len, (const char *)coded.data)) <
             0))
        return err;
    if (!buf_text(&call->url) || (call->basic.len && !buf_text(&call->basic)))
        return error_wrap(E_NOMEM, "credentials");
    call->request.method = is_form ? "POST" : "GET";
    call->request.url = (const char *)call->url.data;
    call->request.headers = is_form ? form : NULL;
    call->request.authorization = call->basic.len ? (const char *)call->basic.data : NULL;
    call->request.has_body = is_form;
    call->request.body = buf_bytes(&call->body);
    return 0;
}

static int refused(const struct oci_auth *auth)
{
    const char *host = auth->name->host;

    if (auth->credentials.secret) {
        int err = error_set(
            E_INVALID, "%s: does not take the credentials that docker login has kept", host
        );
        return error_hint(err, "docker login %s (or podman, skopeo login) renews them", host);
    }
    int err = error_set(E_INVALID, "%s: asks for credentials, and none are known", host);
    if (!auth->name->is_secret)
        return error_hint(err, "none are sent without TLS; use oci:// or oci+https://");
    return error_hint(
        err, "docker login %s (or podman, skopeo login) keeps them in ~/.docker/config.json", host
    );
}

static int bearer_answer(struct oci_auth *auth, const struct challenge *challenge)
{
    __attribute__((cleanup(token_call_release))) struct token_call call = {0};
    AUTO_HTTP_RESPONSE(response);
    AUTO_FREE(char, realm);
    AUTO_FREE(char, scope);
    AUTO_SECRET(answer);
    AUTO_SECRET(token);
    int err;

    if ((err = http_resolve(&realm, auth->name->origin, challenge->realm)) < 0)
        return error_wrap(err, "%s: where tokens come from", auth->name->host);
    /* Over a line that others can read, nothing is asked at all. */
    if (auth->name->is_secret && !realm_is_secret(realm))
        return error_set(
            E_IO, "%s: wants a token fetched without TLS from another machine", auth->name->host
        );
    if ((err = scope_make(&scope, auth, challenge)) < 0 ||
        (err = token_ask(&call, auth, challenge, scope)) < 0)
        return err;
    call.request.take = keep_answer;
    call.request.context = &answer;
    call.request.limit = TOKEN_MAX;
    call.request.seconds = TOKEN_SECONDS;
    if ((err = http_perform(&response, auth->http, &call.request)) < 0)
        return err;
    if (response.status == 401 || response.status == 403)
        return refused(auth);
    if (response.status != 200)
        return error_set(E_IO, "%s: no token, status %u", auth->name->host, response.status);
    if ((err = token_decode(&token, buf_bytes(&answer))) < 0)
        return error_wrap(err, "%s", auth->name->host);
    return header_set(auth, "Bearer", buf_bytes(&token));
}

static int basic_answer(struct oci_auth *auth)
{
    AUTO_SECRET(coded);

    /* It was sent, and is not taken. */
    if (!auth->credentials.secret || auth->credentials.is_token ||
        (auth->header && strncmp(auth->header, "Basic ", 6) == 0))
        return refused(auth);
    int err = basic_make(&coded, &auth->credentials);
    return err < 0 ? err : header_set(auth, "Basic", buf_bytes(&coded));
}

int oci_auth_answer(struct oci_auth *auth, const struct http_response *response)
{
    AUTO_CHALLENGE(best);
    struct bytes header;
    int err = 0;

    for (size_t i = 0; http_header(&header, response, "www-authenticate", i); i++) {
        AUTO_CHALLENGE(challenge);
        if ((err = challenge_parse(&challenge, header)) < 0)
            return error_wrap(err, "%s", auth->name->host);
        if (challenge.kind > best.kind) {
            struct challenge other = best;
            best = challenge;
            challenge = other;
        }
    }
    if ((err = credentials_find(auth)) < 0)
        return err;
    if (best.kind == CHALLENGE_BEARER)
        return bearer_answer(auth, &best);
    return best.kind == CHALLENGE_BASIC ? basic_answer(auth) : refused(auth);
}
