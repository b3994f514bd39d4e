/* Blobs from a registry. See oci_client.h. */
#include <stdlib.h>
#include <string.h>

#include "format/file.h"
#include "format/text.h"
#include "store/oci_client.h"
#include "store/oci_request.h"

struct download {
    struct oci_client *client;
    const struct oci_descriptor *descriptor;
    int fd;
    uint64_t at; /* so much is in the file, and hashed */
    struct hash hash;
    const char *name;
    bool decided; /* what this answer is */
};

/* Content-Range: bytes <from>-<to>/<all> */
static bool goes_on_at(const struct http_response *response, uint64_t at)
{
    struct bytes range;
    uint64_t from;

    if (!http_header(&range, response, "content-range", 0) || range.len < 8 ||
        memcmp(range.data, "bytes ", 6) != 0)
        return false;
    const uint8_t *dash = memchr(range.data, '-', range.len);
    return dash &&
           text_parse_uint64(
               &from, (struct bytes){range.data + 6, (size_t)(dash - range.data) - 6}
           ) &&
           from == at;
}

/* What is in the file is written over; in the end it is exactly as long as it should be. */
static int begin_anew(struct download *download)
{
    download->at = 0;
    return hash_init(&download->hash);
}

static int damaged(const struct download *download, const char *why)
{
    return error_set(
        E_CORRUPT, "%s/%s: %s: %s", download->client->name.host, download->client->name.repository,
        download->name, why
    );
}

static int take(void *context, const struct http_response *response, struct bytes piece)
{
    struct download *download = context;
    struct oci_client *client = download->client;
    int err = 0;

    /* A registry that knows no ranges sends all of it. */
    if (!download->decided && download->at) {
        if (response->status != 206)
            err = begin_anew(download);
        else if (!goes_on_at(response, download->at))
            err = error_set(E_IO, "%s: sends another part of a blob", client->name.host);
    }
    download->decided = true;
    if (err == 0 && piece.len > download->descriptor->bytes - download->at)
        err = damaged(download, "is longer than its manifest says");
    if (err < 0 || (err = hash_update(&download->hash, piece.data, piece.len)) < 0 ||
        (err = file_write_at(download->fd, piece.data, piece.len, download->at, download->name)) <
            0)
        return err;
    download->at += piece.len;
    return client->moved
               ? client->moved(client->moved_context, oci_client_bytes(client) + response->taken)
               : 0;
}

static int try_once(struct http_response *out, struct download *download, const char *url)
{
    char range[64];
    const char *const headers[] = {download->at ? range : NULL, NULL};
    const struct http_request request = {
        .method = "GET",
        .url = url,
        .headers = headers,
        .take = take,
        .context = download,
        .limit = UINT64_MAX, /* take() knows it better */
    };
    AUTO_BUF(text);

    int err = buf_printf(&text, "Range: bytes=%llu-", (unsigned long long)download->at);
    if (err < 0)
        return err;
    memcpy(range, text.data, text.len);
    range[text.len] = '\0';
    download->decided = false;
    return oci_request_once(out, download->client, &request);
}

/* Nothing is left to ask for where only the connection's end was lost. */
static int download_run(struct download *download, const char *url)
{
    unsigned tried = 0;

    while (download->at < download->descriptor->bytes) {
        AUTO_HTTP_RESPONSE(response);
        uint64_t before = download->at;
        int err = try_once(&response, download, url);
        if (!oci_is_transient(err, &response)) {
            if (err < 0)
                return err;
            if (response.status == 416)
                return damaged(download, "is shorter than its manifest says");
            if (response.status != 200 && response.status != 206)
                return oci_refused(download->client, &response, download->name);
            if (download->at < download->descriptor->bytes && download->at == before)
                return damaged(download, "is shorter than its manifest says");
            continue;
        }
        tried = download->at > before ? 1 : tried + 1;
        if (tried == OCI_TRIES)
            return err < 0 ? err : oci_refused(download->client, &response, download->name);
        if ((err = oci_pause(tried, &response)) < 0)
            return err;
    }
    return 0;
}

int oci_blob_get(
    struct oci_client *client, int fd, const struct oci_descriptor *descriptor, uint64_t limit
)
{
    char name[7 + DIGEST_HEX_SIZE] = "sha256:", what[16 + 7 + DIGEST_HEX_SIZE] = "blobs/";
    struct download download = {.client = client, .descriptor = descriptor, .fd = fd, .name = name};
    AUTO_FREE(char, url);
    struct digest is;
    int err;

    digest_hex(name + 7, &descriptor->digest);
    if (descriptor->bytes > limit)
        return error_set(
            E_LIMIT, "%s/%s: %s has %llu bytes, and at most %llu are taken", client->name.host,
            client->name.repository, name, (unsigned long long)descriptor->bytes,
            (unsigned long long)limit
        );
    memcpy(what + 6, name, sizeof(name));
    if ((err = oci_url(&url, client, what)) == 0 && (err = hash_init(&download.hash)) == 0 &&
        (err = download_run(&download, url)) == 0 && (err = hash_final(&is, &download.hash)) == 0 &&
        !digest_equal(&is, &descriptor->digest))
        err = damaged(&download, "does not have the digest that it should");
    hash_release(&download.hash);
    return err;
}
