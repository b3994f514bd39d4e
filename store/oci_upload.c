/*
 * Blobs to a registry. See oci_client.h.
 *
 * POST begins an upload and names where it goes on; PATCH adds a chunk there, PUT the last one and
 * the digest. After a cut the upload's state tells how much of it arrived; a registry that has lost
 * it is sent all of it again. Each answer may name another place for the next step.
 */
#include "store/oci_client.h"

#include <stdlib.h>
#include <string.h>

#include "format/limits.h"
#include "format/text.h"
#include "store/oci_request.h"

#define CHUNK      (8 * MIB)
#define ANSWER_MAX (64 * KIB)

static void digest_text(char out[7 + DIGEST_HEX_SIZE], const struct digest *digest)
{
    memcpy(out, "sha256:", 7);
    digest_hex(out + 7, digest);
}

int oci_blob_exists(bool *out, struct oci_client *client, const struct digest *digest)
{
    AUTO_HTTP_RESPONSE(response);
    AUTO_FREE(char, url);
    char what[16 + 7 + DIGEST_HEX_SIZE] = "blobs/";
    struct http_request request = {.method = "HEAD"};

    digest_text(what + strlen(what), digest);
    int err = oci_url(&url, client, what);
    if (err < 0)
        return err;
    request.url = url;
    if ((err = oci_request(&response, client, &request, NULL)) < 0)
        return err;
    if (response.status != 200 && response.status != 404)
        return oci_refused(client, &response, what);
    *out = response.status == 200;
    return 0;
}

struct upload {
    struct oci_client *client;
    const struct digest *digest;
    struct bytes data;
    char *place; /* where it goes on; NULL: not begun, or lost */
    size_t at;   /* so many bytes are there */
    bool done;
};

static int place_keep(struct upload *upload, const char *url, const struct http_response *response)
{
    AUTO_FREE(char, reference);
    struct bytes location;
    char *place = NULL;

    if (!http_header(&location, response, "location", 0))
        return upload->place
                   ? 0
                   : error_set(E_IO, "%s: begins an upload nowhere", upload->client->name.host);
    if (!(reference = bytes_dup(location)))
        return error_wrap(E_NOMEM, "upload");
    int err = http_resolve(&place, url, reference);
    if (err < 0)
        return error_wrap(err, "%s: upload", upload->client->name.host);
    free(upload->place);
    upload->place = place;
    return 0;
}

/* Range: 0-<last byte>. How much the registry has; `otherwise` where it does not say. */
static size_t range_end(const struct http_response *response, size_t otherwise, size_t most)
{
    struct bytes range;
    uint64_t last;

    if (!http_header(&range, response, "range", 0))
        return otherwise;
    if (range.len > 6 && memcmp(range.data, "bytes=", 6) == 0) {
        range.data += 6;
        range.len -= 6;
    }
    if (range.len < 3 || memcmp(range.data, "0-", 2) != 0 ||
        !text_parse_uint64(&last, (struct bytes){range.data + 2, range.len - 2}))
        return otherwise;
    /* "0-0" is what registries say of one byte, and of none. */
    return last == 0 ? 0 : last + 1 > most ? otherwise : (size_t)last + 1;
}

static int ask(struct http_response *out, struct upload *upload, const struct http_request *request)
{
    return oci_request_once(out, upload->client, request);
}

static int begin(struct http_response *out, struct upload *upload)
{
    AUTO_FREE(char, url);
    struct http_request request = {.method = "POST", .has_body = true, .limit = ANSWER_MAX};

    int err = oci_url(&url, upload->client, "blobs/uploads/");
    if (err < 0)
        return err;
    request.url = url;
    if ((err = ask(out, upload, &request)) < 0 || oci_is_transient(0, out))
        return err;
    if (out->status != 202)
        return oci_refused(upload->client, out, "upload");
    upload->at = 0;
    return place_keep(upload, url, out);
}

static int chunk_send(struct http_response *out, struct upload *upload)
{
    AUTO_BUF(range);
    const char *headers[] = {"Content-Type: application/octet-stream", NULL, NULL};
    const struct http_request request = {
        .method = "PATCH",
        .url = upload->place,
        .headers = headers,
        .has_body = true,
        .body = {upload->data.data + upload->at, CHUNK},
        .limit = ANSWER_MAX,
    };

    int err = buf_printf(
        &range, "Content-Range: %zu-%zu", upload->at, upload->at + (size_t)CHUNK - 1
    );
    if (err < 0)
        return err;
    if (!(headers[1] = buf_text(&range)))
        return error_wrap(E_NOMEM, "registry");
    if ((err = ask(out, upload, &request)) < 0 || oci_is_transient(0, out))
        return err;
    if (out->status != 202 && out->status != 204)
        return oci_refused(upload->client, out, "upload");
    upload->at = range_end(out, upload->at + CHUNK, upload->data.len);
    return place_keep(upload, upload->place, out);
}

static int end_send(struct http_response *out, struct upload *upload)
{
    static const char *const headers[] = {"Content-Type: application/octet-stream", NULL};
    char digest[7 + DIGEST_HEX_SIZE];
    AUTO_BUF(url);
    struct http_request request = {
        .method = "PUT",
        .headers = headers,
        .has_body = true,
        .body = {upload->data.data + upload->at, upload->data.len - upload->at},
        .limit = ANSWER_MAX,
    };

    digest_text(digest, upload->digest);
    int err = buf_printf(
        &url, "%s%cdigest=%s", upload->place, strchr(upload->place, '?') ? '&' : '?', digest
    );
    if (err < 0)
        return err;
    if (!(request.url = buf_text(&url)))
        return error_wrap(E_NOMEM, "registry");
    if ((err = ask(out, upload, &request)) < 0 || oci_is_transient(0, out))
        return err;
    if (out->status != 201 && out->status != 204)
        return oci_refused(upload->client, out, "upload");
    upload->done = true;
    return 0;
}

/* How far did it come, before the connection was lost? Where that cannot be told: it is begun anew,
   but for the last step, whose answer may be all that was lost. */
static int state_ask(struct upload *upload)
{
    AUTO_HTTP_RESPONSE(response);
    const struct http_request request = {
        .method = "GET", .url = upload->place, .limit = ANSWER_MAX};

    if (!upload->place)
        return 0;
    int err = oci_request(&response, upload->client, &request, NULL);
    if (err == 0 && (response.status == 204 || response.status == 202)) {
        upload->at = range_end(&response, 0, upload->data.len);
        return place_keep(upload, upload->place, &response);
    }
    if (err < 0 && err != E_IO)
        return err;
    free(upload->place);
    upload->place = NULL;
    return oci_blob_exists(&upload->done, upload->client, upload->digest);
}

static int step(struct http_response *out, struct upload *upload)
{
    if (!upload->place)
        return begin(out, upload);
    return upload->data.len - upload->at > CHUNK ? chunk_send(out, upload) : end_send(out, upload);
}

/* A place that is not known any more (its time is over, or a cut has spoiled it) is no end. */
static bool is_lost(int err, const struct upload *upload, const struct http_response *response)
{
    return err < 0 && upload->place &&
           (response->status == 404 || response->status == 416 || response->status == 400);
}

static int upload_run(struct upload *upload)
{
    unsigned tried = 0;
    size_t furthest = 0;

    while (!upload->done) {
        AUTO_HTTP_RESPONSE(response);
        int err = step(&response, upload);
        if (err == 0 && !oci_is_transient(0, &response)) {
            if (upload->at > furthest)
                tried = 0;
            furthest = upload->at > furthest ? upload->at : furthest;
            continue;
        }
        bool lost = is_lost(err, upload, &response);
        if (!lost && !oci_is_transient(err, &response))
            return err;
        if (++tried == OCI_TRIES && lost)
            return error_set(
                E_IO, "%s: an upload was lost again and again", upload->client->name.host
            );
        if (tried == OCI_TRIES)
            return err < 0 ? err : oci_refused(upload->client, &response, "upload");
        if ((err = oci_pause(tried, &response)) < 0 || (err = state_ask(upload)) < 0)
            return err;
    }
    return 0;
}

int oci_blob_put(
    bool *sent, struct oci_client *client, const struct digest *digest, struct bytes data
)
{
    struct upload upload = {.client = client, .digest = digest, .data = data};
    bool there = false;
    int err = oci_blob_exists(&there, client, digest);

    if (err == 0 && !there)
        err = upload_run(&upload);
    free(upload.place);
    if (err == 0 && sent)
        *sent = !there;
    return err;
}
