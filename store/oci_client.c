/* Tags, manifests and indexes of a registry. See oci_client.h. */
#include "store/oci_client.h"

#include <stdlib.h>
#include <string.h>

#include "format/json.h"
#include "format/limits.h"
#include "store/oci_request.h"

/* An answer of a few MiB at most, from a server that may be slow. */
#define DOCUMENT_SECONDS 300
#define TAG_PAGES_MAX    1000
#define ANSWER_MAX       (64 * KIB)

int oci_client_init(struct oci_client *out, const char *url, bool writes)
{
    int err = oci_name_parse(&out->name, url);

    if (err < 0 || (err = http_new(&out->http)) < 0)
        return err;
    out->auth = (struct oci_auth){.http = out->http, .name = &out->name, .writes = writes};
    return 0;
}

void oci_client_release(struct oci_client *client)
{
    oci_auth_release(&client->auth);
    http_release(&client->http);
    oci_name_release(&client->name);
}

uint64_t oci_client_bytes(const struct oci_client *client)
{
    return http_bytes(client->http);
}

static int keep(void *context, const struct http_response *response, struct bytes piece)
{
    (void)response;
    return buf_append(context, piece.data, piece.len);
}

static void keep_again(void *context)
{
    ((struct buf *)context)->len = 0;
}

/* Tags */

/* {"name": ..., "tags": [...]}; where there is none, registries write null. */
static int tags_decode(struct buf *out, struct bytes answer)
{
    AUTO_JSON(json);
    enum json_event event;

    json_init(&json, answer);
    int err = json_expect(&json, JSON_OBJECT_BEGIN);
    while (err == 0 && (err = json_next(&event, &json)) == 0 && event == JSON_KEY) {
        if (!json_text_is(&json, "tags")) {
            err = json_skip_value(&json);
            continue;
        }
        if ((err = json_next(&event, &json)) < 0 || event == JSON_NULL)
            continue;
        if (event != JSON_ARRAY_BEGIN)
            return error_set(E_CORRUPT, "the list of tags is none");
        while ((err = json_next(&event, &json)) == 0 && event == JSON_STRING) {
            if (memchr(json.text.data, '\0', json.text.len))
                return error_set(E_CORRUPT, "a tag with a NUL");
            if ((err = buf_append(out, json.text.data, json.text.len)) < 0 ||
                (err = buf_append_byte(out, '\0')) < 0)
                break;
        }
        if (err == 0 && event != JSON_ARRAY_END)
            return error_set(E_CORRUPT, "the list of tags is none");
    }
    if (err == 0)
        err = json_expect(&json, JSON_END);
    return err == E_INVALID ? error_wrap(E_CORRUPT, "the list of tags") : err;
}

/* Link: </v2/…?n=…&last=…>; rel="next". NULL where there is no further page. */
static int page_next(char **out, const char *url, const struct http_response *response)
{
    AUTO_FREE(char, reference);
    struct bytes link;

    *out = NULL;
    if (!http_header(&link, response, "link", 0) || !link.len || link.data[0] != '<')
        return 0;
    const uint8_t *end = memchr(link.data, '>', link.len);
    if (!end)
        return 0;
    if (!(reference = bytes_dup((struct bytes){link.data + 1, (size_t)(end - link.data) - 1})))
        return error_wrap(E_NOMEM, "tags");
    return http_resolve(out, url, reference);
}

static int tags_page(char **out_next, struct buf *out, struct oci_client *client, const char *url)
{
    AUTO_HTTP_RESPONSE(response);
    AUTO_BUF(answer);
    const struct http_request request = {
        .method = "GET",
        .url = url,
        .take = keep,
        .context = &answer,
        .limit = LIMIT_OCI_TAGS,
        .seconds = DOCUMENT_SECONDS,
    };

    *out_next = NULL;
    int err = oci_request(&response, client, &request, keep_again);
    if (err < 0)
        return err;
    if (response.status == 404)
        return 0;
    if (response.status != 200)
        return oci_refused(client, &response, "tags");
    if ((err = tags_decode(out, buf_bytes(&answer))) < 0)
        return error_wrap(err, "%s/%s", client->name.host, client->name.repository);
    if (out->len > LIMIT_OCI_TAGS)
        return error_set(
            E_LIMIT, "%s/%s: too many tags", client->name.host, client->name.repository
        );
    return page_next(out_next, url, &response);
}

int oci_tags(struct buf *out, struct oci_client *client)
{
    AUTO_FREE(char, url);
    int err = oci_url(&url, client, "tags/list");

    for (size_t pages = 0; err == 0 && url; pages++) {
        char *next = NULL;
        if (pages == TAG_PAGES_MAX)
            return error_set(
                E_LIMIT, "%s/%s: too many tags", client->name.host, client->name.repository
            );
        err = tags_page(&next, out, client, url);
        free(url);
        url = next;
    }
    return err;
}

/* Documents */

static int document_url(char **out, const struct oci_client *client, const char *reference)
{
    AUTO_BUF(what);

    int err = buf_printf(&what, "manifests/%s", reference);
    if (err < 0)
        return err;
    return buf_text(&what) ? oci_url(out, client, (const char *)what.data) : E_NOMEM;
}

static void digest_text(char out[7 + DIGEST_HEX_SIZE], const struct digest *digest)
{
    memcpy(out, "sha256:", 7);
    digest_hex(out + 7, digest);
}

/* What was asked for by its digest, or what the registry says that it is. */
static int digest_check(
    const struct digest *digest,
    const struct oci_client *client,
    const char *reference,
    const struct http_response *response
)
{
    char is[7 + DIGEST_HEX_SIZE];
    struct bytes told;

    digest_text(is, digest);
    bool wrong = oci_is_digest(reference) && strcmp(is, reference) != 0;
    if (!wrong && http_header(&told, response, "docker-content-digest", 0))
        wrong = told.len > 7 && memcmp(told.data, "sha256:", 7) == 0 &&
                !bytes_equal(told, text_bytes(is));
    if (!wrong)
        return 0;
    return error_set(
        E_CORRUPT, "%s/%s: manifest %s does not have the digest that it should", client->name.host,
        client->name.repository, reference
    );
}

static int etag_keep(char **out, const struct http_response *response)
{
    struct bytes text;

    *out = NULL;
    if (!http_header(&text, response, "etag", 0) || text.len > 256)
        return 0;
    *out = bytes_dup(text);
    return *out ? 0 : error_wrap(E_NOMEM, "manifest");
}

int oci_document_get(
    struct buf *out,
    struct digest *out_digest,
    char **etag,
    struct oci_client *client,
    const char *reference
)
{
    static const char *const headers[] = {"Accept: " OCI_TYPE_INDEX ", " OCI_TYPE_MANIFEST, NULL};
    AUTO_HTTP_RESPONSE(response);
    AUTO_FREE(char, url);
    AUTO_BUF(answer);
    struct http_request request = {
        .method = "GET",
        .headers = headers,
        .take = keep,
        .context = &answer,
        .limit = LIMIT_OCI_DOCUMENT,
        .seconds = DOCUMENT_SECONDS,
    };
    int err;

    if ((err = document_url(&url, client, reference)) < 0)
        return err;
    request.url = url;
    if ((err = oci_request(&response, client, &request, keep_again)) < 0)
        return err;
    if (response.status != 200)
        return oci_refused(client, &response, reference);
    if ((err = digest_of(out_digest, buf_bytes(&answer))) < 0 ||
        (err = digest_check(out_digest, client, reference, &response)) < 0 ||
        (etag && (err = etag_keep(etag, &response)) < 0))
        return err;
    *out = buf_take(&answer);
    return 0;
}

int oci_document_put(
    struct digest *out,
    struct oci_client *client,
    const char *reference,
    enum oci_type type,
    struct bytes json,
    const char *etag
)
{
    AUTO_HTTP_RESPONSE(response);
    AUTO_FREE(char, url);
    AUTO_BUF(condition);
    const char *headers[] = {
        type == OCI_INDEX ? "Content-Type: " OCI_TYPE_INDEX : "Content-Type: " OCI_TYPE_MANIFEST,
        NULL, NULL};
    struct http_request request = {
        .method = "PUT",
        .headers = headers,
        .has_body = true,
        .body = json,
        .limit = ANSWER_MAX,
        .seconds = DOCUMENT_SECONDS,
    };
    int err;

    if (json.len > LIMIT_OCI_DOCUMENT)
        return error_set(
            E_LIMIT, "%s: %zu bytes are too many for a manifest of a registry", reference, json.len
        );
    if ((err = digest_of(out, json)) < 0 || (err = document_url(&url, client, reference)) < 0 ||
        (etag && (err = buf_printf(&condition, "If-Match: %s", etag)) < 0))
        return err;
    if (etag && !(headers[1] = buf_text(&condition)))
        return error_wrap(E_NOMEM, "registry");
    request.url = url;
    if ((err = oci_request(&response, client, &request, NULL)) < 0)
        return err;
    if (response.status < 200 || response.status > 299)
        return oci_refused(client, &response, reference);
    return digest_check(out, client, reference, &response);
}

int oci_document_delete(struct oci_client *client, const char *reference)
{
    AUTO_HTTP_RESPONSE(response);
    AUTO_FREE(char, url);
    struct http_request request = {
        .method = "DELETE", .limit = ANSWER_MAX, .seconds = DOCUMENT_SECONDS};

    int err = document_url(&url, client, reference);
    if (err < 0)
        return err;
    request.url = url;
    if ((err = oci_request(&response, client, &request, NULL)) < 0)
        return err;
    if (response.status == 404 || (response.status >= 200 && response.status <= 299))
        return 0;
    /* What registries that do not delete (by tag) answer. */
    if (response.status == 400)
        response.status = 405;
    return oci_refused(client, &response, reference);
}
