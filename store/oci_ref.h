/* A ref as a registry has it: an index under a tag. */
#ifndef STORE_OCI_REF_H
#define STORE_OCI_REF_H

#include "store/oci_version.h"

struct oci_ref {
    bool exists;
    bool is_foreign;      /* there is something, and it is no index of ours: nothing else is set */
    struct digest digest; /* of the index */
    char *etag;
    struct oci_document index;
    git_oid target; /* the tip, or an annotated tag's object */
};
#define AUTO_OCI_REF(name) __attribute__((cleanup(oci_ref_release))) struct oci_ref name = {0}
void oci_ref_release(struct oci_ref *ref);

/* "main" of "refs/heads/main", "v1" of "refs/tags/v1". */
const char *oci_ref_short(const char *name);

/* What is under a tag or digest. */
MUST_CHECK int oci_ref_read(struct oci_ref *out, struct oci_client *client, const char *reference);

/* The ref "refs/heads/main"; E_CONFLICT where its tag is another's. */
MUST_CHECK int oci_ref_find(struct oci_ref *out, struct oci_client *client, const char *name);

#endif
