/* What docker login keeps. See oci_auth.h. */
#include <stdlib.h>
#include <string.h>

#include <openssl/crypto.h>
#include <openssl/evp.h>

#include "format/json.h"
#include "store/oci_auth.h"

#define SECRET_MAX ((size_t)64 << 10)

static void forget(char **secret)
{
    if (*secret)
        OPENSSL_cleanse(*secret, strlen(*secret));
    free(*secret);
    *secret = NULL;
}

void oci_credentials_release(struct oci_credentials *credentials)
{
    forget(&credentials->user);
    forget(&credentials->secret);
    *credentials = (struct oci_credentials){0};
}

static int text_keep(char **out, struct bytes text)
{
    if (memchr(text.data, '\0', text.len))
        return error_set(E_INVALID, "credentials with a NUL in them");
    if (!(*out = bytes_dup(text)))
        return error_wrap(E_NOMEM, "credentials");
    return 0;
}

/* The next value, which must be a string. */
static int string_next(char **out, struct json *json)
{
    int err = json_expect(json, JSON_STRING);

    if (err < 0)
        return err;
    forget(out);
    return text_keep(out, json->text);
}

/* base64 of "user:secret" */
static int auth_decode(struct oci_credentials *out, const char *text)
{
    size_t len = strlen(text);
    AUTO_BUF(plain);
    int err;

    if (len == 0 || len > SECRET_MAX || len % 4 != 0)
        return error_set(E_INVALID, "'auth' is no base64");
    if ((err = buf_resize(&plain, len)) < 0)
        return err;
    int decoded = EVP_DecodeBlock(plain.data, (const uint8_t *)text, (int)len);
    if (decoded < 0)
        err = error_set(E_INVALID, "'auth' is no base64");
    else {
        plain.len = (size_t)decoded - (text[len - 1] == '=') - (text[len - 2] == '=');
        const uint8_t *colon = memchr(plain.data, ':', plain.len);
        size_t user = colon ? (size_t)(colon - plain.data) : 0;
        if (!colon)
            err = error_set(E_INVALID, "'auth' names no user");
        else if ((err = text_keep(&out->user, (struct bytes){plain.data, user})) == 0)
            err = text_keep(&out->secret, (struct bytes){colon + 1, plain.len - user - 1});
    }
    OPENSSL_cleanse(plain.data, plain.cap);
    return err;
}

/* {"auth": ..., "username": ..., "password": ..., "identitytoken": ...} */
static int entry_decode(struct oci_credentials *out, struct json *json)
{
    AUTO_OCI_CREDENTIALS(plain);
    AUTO_OCI_CREDENTIALS(coded); /* user: auth, secret: identitytoken */
    enum json_event event;
    int err = json_expect(json, JSON_OBJECT_BEGIN);

    while (err == 0 && (err = json_next(&event, json)) == 0 && event == JSON_KEY) {
        if (json_text_is(json, "auth"))
            err = string_next(&coded.user, json);
        else if (json_text_is(json, "identitytoken"))
            err = string_next(&coded.secret, json);
        else if (json_text_is(json, "username"))
            err = string_next(&plain.user, json);
        else if (json_text_is(json, "password"))
            err = string_next(&plain.secret, json);
        else
            err = json_skip_value(json);
    }
    if (err == 0 && coded.user && *coded.user) {
        oci_credentials_release(&plain);
        err = auth_decode(&plain, coded.user);
    }
    if (err == 0 && coded.secret && *coded.secret) {
        forget(&plain.secret);
        plain.secret = coded.secret;
        coded.secret = NULL;
        plain.is_token = true;
    }
    if (err == 0 && plain.secret && (plain.is_token || (plain.user && *plain.user))) {
        oci_credentials_release(out);
        *out = plain;
        plain = (struct oci_credentials){0};
    }
    return err;
}

/* "https://host:port/v1/" and "host:port" name the same one. */
static bool names_host(struct bytes key, const char *host)
{
    static const char *const prefixes[] = {"https://", "http://"};

    for (size_t i = 0; i < 2; i++) {
        size_t len = strlen(prefixes[i]);
        if (key.len > len && memcmp(key.data, prefixes[i], len) == 0) {
            key.data += len;
            key.len -= len;
        }
    }
    const uint8_t *slash = memchr(key.data, '/', key.len);
    if (slash)
        key.len = (size_t)(slash - key.data);
    /* The Hub's registry has another name than what it is logged in to. */
    return bytes_equal(key, text_bytes(host)) ||
           (strcmp(host, "registry-1.docker.io") == 0 &&
            (bytes_equal(key, text_bytes("index.docker.io")) ||
             bytes_equal(key, text_bytes("docker.io"))));
}

static int auths_decode(struct oci_credentials *out, struct json *json, const char *host)
{
    enum json_event event;
    int err = json_expect(json, JSON_OBJECT_BEGIN);

    while (err == 0 && (err = json_next(&event, json)) == 0 && event == JSON_KEY)
        err = names_host(json->text, host) ? entry_decode(out, json) : json_skip_value(json);
    return err;
}

static int helpers_decode(char **helper, struct json *json, const char *host)
{
    enum json_event event;
    int err = json_expect(json, JSON_OBJECT_BEGIN);

    while (err == 0 && (err = json_next(&event, json)) == 0 && event == JSON_KEY)
        err = names_host(json->text, host) ? string_next(helper, json) : json_skip_value(json);
    return err;
}

/* It becomes the end of a program's name. */
static int helper_check(const char *helper)
{
    for (const char *c = helper; *c; c++) {
        bool plain = (*c >= 'a' && *c <= 'z') || (*c >= 'A' && *c <= 'Z') ||
                     (*c >= '0' && *c <= '9') || *c == '-' || *c == '_' ||
                     (*c == '.' && c > helper);
        if (!plain)
            return error_set(E_INVALID, "a credential helper's name is none");
    }
    return 0;
}

int oci_config_decode(
    struct oci_credentials *out, char **helper, struct bytes input, const char *host
)
{
    AUTO_OCI_CREDENTIALS(credentials);
    AUTO_FREE(char, own);
    AUTO_FREE(char, common);
    AUTO_JSON(json);
    enum json_event event;

    json_init(&json, input);
    int err = json_expect(&json, JSON_OBJECT_BEGIN);
    while (err == 0 && (err = json_next(&event, &json)) == 0 && event == JSON_KEY) {
        if (json_text_is(&json, "auths"))
            err = auths_decode(&credentials, &json, host);
        else if (json_text_is(&json, "credHelpers"))
            err = helpers_decode(&own, &json, host);
        else if (json_text_is(&json, "credsStore"))
            err = string_next(&common, &json);
        else
            err = json_skip_value(&json);
    }
    if (err < 0 || (err = json_expect(&json, JSON_END)) < 0)
        return err;
    /* A host's own helper, then what is written there, then the helper of all. */
    char **chosen = own ? &own : !credentials.secret ? &common : NULL;
    if (chosen && *chosen && **chosen && (err = helper_check(*chosen)) < 0)
        return err;
    *helper = NULL;
    if (chosen && *chosen && **chosen) {
        *helper = *chosen;
        *chosen = NULL;
    } else {
        *out = credentials;
        credentials = (struct oci_credentials){0};
    }
    return 0;
}

int oci_helper_decode(struct oci_credentials *out, struct bytes input)
{
    AUTO_OCI_CREDENTIALS(credentials);
    AUTO_JSON(json);
    enum json_event event;

    json_init(&json, input);
    int err = json_expect(&json, JSON_OBJECT_BEGIN);
    while (err == 0 && (err = json_next(&event, &json)) == 0 && event == JSON_KEY) {
        if (json_text_is(&json, "Username"))
            err = string_next(&credentials.user, &json);
        else if (json_text_is(&json, "Secret"))
            err = string_next(&credentials.secret, &json);
        else
            err = json_skip_value(&json);
    }
    if (err < 0 || (err = json_expect(&json, JSON_END)) < 0)
        return err;
    if (!credentials.user || !credentials.secret)
        return error_set(E_INVALID, "the credential helper's answer names no user or no secret");
    credentials.is_token = strcmp(credentials.user, "<token>") == 0;
    *out = credentials;
    credentials = (struct oci_credentials){0};
    return 0;
}
