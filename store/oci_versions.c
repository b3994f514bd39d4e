/* Versions that a registry has. See oci_version.h. */
#include <stdlib.h>

#include "store/oci_version.h"

void oci_versions_release(struct oci_versions *versions)
{
    id_set_release(&versions->commits);
    free(versions->descriptors);
    versions->descriptors = NULL;
}

int oci_versions_add(struct oci_versions *versions, const struct oci_descriptor *descriptor)
{
    git_oid id = git_id(&descriptor->commit);
    bool is_new = false;
    size_t index;

    int err = array_grow(
        &versions->descriptors, &versions->capacity, versions->commits.count + 1,
        sizeof(*versions->descriptors)
    );
    if (err < 0 || (err = id_set_add(&index, &is_new, &versions->commits, &id)) < 0)
        return err;
    if (is_new)
        versions->descriptors[index] = *descriptor;
    return 0;
}

int oci_versions_add_all(struct oci_versions *versions, const struct oci_document *document)
{
    int err = 0;

    for (size_t i = 0; err == 0 && i < document->count; i++) {
        if (document->items[i].has_commit && document->items[i].type == OCI_MANIFEST)
            err = oci_versions_add(versions, &document->items[i]);
    }
    return err;
}

const struct oci_descriptor *
oci_versions_find(const struct oci_versions *versions, const struct commit_id *commit)
{
    git_oid id = git_id(commit);
    size_t index;

    return id_set_find(&index, &versions->commits, &id) ? &versions->descriptors[index] : NULL;
}
