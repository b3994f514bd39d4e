/*
 * One repository of a registry (OCI distribution specification 1.0 and 1.1).
 *
 * What is worth it is tried again, after a moment: lost connections, answers of 429 (as long as the
 * server asks for, within reason) and 5xx. Uploads and downloads go on from where they were cut,
 * where the registry can do that. What has a digest is compared with it as it arrives; every size
 * is limited before memory is taken.
 */
#ifndef STORE_OCI_CLIENT_H
#define STORE_OCI_CLIENT_H

#include "store/oci_auth.h"
#include "store/oci_document.h"

struct oci_client {
    struct oci_name name;
    struct http *http;
    struct oci_auth auth;
    unsigned hurry_seconds; /* a request is not tried again, and has so long; 0: patience */
    uint64_t max_bytes;     /* in both directions together: E_LIMIT; 0: no limit */
    /* Told now and then while bytes move; may end the work by an error; or NULL. */
    int (*moved)(void *context, uint64_t bytes);
    void *moved_context;
};
#define AUTO_OCI_CLIENT(name)                                                                      \
    __attribute__((cleanup(oci_client_release))) struct oci_client name = {0}

/* `writes`: leave to push will be asked for, too. Does not connect. In place: it must not move. */
MUST_CHECK int oci_client_init(struct oci_client *out, const char *url, bool writes);
void oci_client_release(struct oci_client *client);

/* Bytes that moved so far. */
uint64_t oci_client_bytes(const struct oci_client *client);

/* All tags, each ended by a NUL. None where the registry does not know the repository. */
MUST_CHECK int oci_tags(struct buf *out, struct oci_client *client);

/* A manifest or index by tag or digest, its digest compared. E_NOTFOUND. `etag` (may be NULL; else
   owned by the caller, NULL where the registry gives none): for oci_document_put(). */
MUST_CHECK int oci_document_get(
    struct buf *out,
    struct digest *out_digest,
    char **etag,
    struct oci_client *client,
    const char *reference
);
/* `etag`: E_CONFLICT where the registry heeds it and has another one by now; or NULL. */
MUST_CHECK int oci_document_put(
    struct digest *out,
    struct oci_client *client,
    const char *reference,
    enum oci_type type,
    struct bytes json,
    const char *etag
);
/* By tag or digest. E_UNSUPPORTED where the registry deletes nothing; nothing there: 0. */
MUST_CHECK int oci_document_delete(struct oci_client *client, const char *reference);

MUST_CHECK int oci_blob_exists(bool *out, struct oci_client *client, const struct digest *digest);
/* Upload what is not there yet. *sent (may be NULL) tells whether it was not. */
MUST_CHECK int
oci_blob_put(bool *sent, struct oci_client *client, const struct digest *digest, struct bytes data);
/* Download into an empty file. E_LIMIT where the descriptor's size is above `limit`; E_CORRUPT
   where what comes is not what the descriptor says; E_NOTFOUND. */
MUST_CHECK int oci_blob_get(
    struct oci_client *client, int fd, const struct oci_descriptor *descriptor, uint64_t limit
);

#endif
