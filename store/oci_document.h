/*
 * What a registry keeps under a digest or a tag: the manifest of a version and the index of a ref
 * (OCI image specification; docs/format.md, "Registries").
 *
 * A version's manifest names, after a configuration that says by its type what this is, a pack with
 * its commit, its trees and its small blobs; then every other blob of its tree, in the order in
 * which a walk of the tree meets them first: frames, and what cannot be compressed, as they are,
 * others as a pack of one object.
 * A ref's index names the manifests of all versions that it reaches, newest first: the first is its
 * tip.
 */
#ifndef STORE_OCI_DOCUMENT_H
#define STORE_OCI_DOCUMENT_H

#include "store/internal.h"

#define OCI_TYPE_MANIFEST "application/vnd.oci.image.manifest.v1+json"
#define OCI_TYPE_INDEX    "application/vnd.oci.image.index.v1+json"
#define OCI_TYPE_VERSION  "application/vnd.verastore.version.v1+json"
#define OCI_TYPE_PACK     "application/vnd.verastore.pack.v1"
#define OCI_TYPE_FRAME    "application/vnd.verastore.frame.v1"
#define OCI_TYPE_BLOB     "application/vnd.verastore.blob.v1"

/* The configuration of every version: its type is all that it says. */
#define OCI_CONFIG "{}"

enum oci_type { OCI_OTHER, OCI_MANIFEST, OCI_INDEX, OCI_PACK, OCI_FRAME, OCI_BLOB };

struct oci_descriptor {
    enum oci_type type;
    struct digest digest;
    uint64_t bytes;
    bool has_commit; /* of a version in an index */
    struct commit_id commit;
};

struct oci_document {
    enum oci_type type;           /* OCI_MANIFEST or OCI_INDEX */
    bool is_version;              /* a manifest whose configuration is of our type */
    struct oci_descriptor *items; /* layers, or manifests */
    size_t count, capacity;
    bool has_commit;
    struct commit_id commit; /* a version's */
    char *ref;               /* an index: "refs/heads/main"; owned, NULL where it is not ours */
    char *tag;               /* an index: the annotated tag's object, as git has it; owned */
};
#define AUTO_OCI_DOCUMENT(name)                                                                    \
    __attribute__((cleanup(oci_document_release))) struct oci_document name = {0}
void oci_document_release(struct oci_document *document);

/* E_CORRUPT for what is neither, E_LIMIT. What others may add is passed over. */
MUST_CHECK int oci_document_decode(struct oci_document *out, struct bytes json);

MUST_CHECK int oci_item_add(struct oci_document *document, const struct oci_descriptor *item);

struct oci_annotation {
    const char *key, *value;
};

/* `annotations` in byte order of key. */
MUST_CHECK int oci_manifest_encode(
    struct buf *out,
    const struct oci_descriptor *layers,
    size_t count,
    const struct oci_annotation *annotations,
    size_t annotation_count
);

/* Of document->items, ->ref and ->tag. */
MUST_CHECK int oci_index_encode(struct buf *out, const struct oci_document *document);

/* The item of this commit; NULL where there is none. */
const struct oci_descriptor *
oci_item_find(const struct oci_document *document, const struct commit_id *commit);

#endif
