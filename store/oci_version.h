/*
 * One version between this repository and a registry: its manifest and layers
 * (store/oci_document.h).
 */
#ifndef STORE_OCI_VERSION_H
#define STORE_OCI_VERSION_H

#include "store/id_set.h"
#include "store/oci_client.h"

/* Versions that a registry has, by commit. */
struct oci_versions {
    struct id_set commits;
    struct oci_descriptor *descriptors; /* by index in commits */
    size_t capacity;
};
#define AUTO_OCI_VERSIONS(name)                                                                    \
    __attribute__((cleanup(oci_versions_release))) struct oci_versions name = {0}
void oci_versions_release(struct oci_versions *versions);
/* The first one of a commit counts. */
MUST_CHECK int
oci_versions_add(struct oci_versions *versions, const struct oci_descriptor *descriptor);
/* All items of an index that name a commit. */
MUST_CHECK int
oci_versions_add_all(struct oci_versions *versions, const struct oci_document *document);
/* NULL where there is none; valid until one is added. */
const struct oci_descriptor *
oci_versions_find(const struct oci_versions *versions, const struct commit_id *commit);

/* One push: what of it is known to be there. */
struct oci_sender {
    struct store *store;
    struct oci_client *client;
    struct id_set there;           /* digests of blobs of the registry, their first 20 bytes */
    struct id_set blobs;           /* of git, that are layers there */
    struct oci_descriptor *layers; /* by index in blobs */
    size_t layer_capacity;
    uint64_t objects; /* of git, that were sent */
};
#define AUTO_OCI_SENDER(name)                                                                      \
    __attribute__((cleanup(oci_sender_release))) struct oci_sender name = {0}
void oci_sender_release(struct oci_sender *sender);

/* A version that the registry has: nobody asks it for these layers again. */
MUST_CHECK int oci_sender_know(struct oci_sender *sender, const struct oci_descriptor *version);

/* Upload what of a version is not there, then its manifest under a tag of `ref` ("run/1"). */
MUST_CHECK int oci_version_send(
    struct oci_descriptor *out,
    struct oci_sender *sender,
    const struct commit_id *commit,
    const char *ref
);

/* Write the objects of a version that a registry has, and that the repository lacks, into it:
   loose, their ids compared, not synced. `folder`: where files may be put meanwhile. E_CORRUPT
   where it is not the commit that `descriptor` names. */
MUST_CHECK int oci_version_take(
    struct commit_id *out_commit,
    struct store *store,
    struct oci_client *client,
    const struct oci_descriptor *descriptor,
    const char *folder
);

/* Every blob of a tree once, in the order of the layers: `visit` may end the walk. Trees are told
   to `tree`, which may be NULL. */
struct oci_walk {
    int (*blob)(void *context, const git_oid *id, bool is_frame);
    int (*tree)(void *context, const git_oid *id);
    void *context;
    struct id_set seen; /* private, all-zero at first; oci_walk_release() */
};
MUST_CHECK int oci_walk_run(struct oci_walk *walk, struct store *store, const git_oid *tree);
void oci_walk_release(struct oci_walk *walk);

/* Is a blob of so many bytes in the pack of the version itself? */
bool oci_is_small(uint64_t bytes, bool is_frame);

#endif
