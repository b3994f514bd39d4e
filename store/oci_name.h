/*
 * Where a repository of a registry is, and which tags stand for which refs (docs/format.md,
 * "Registries").
 *
 *   oci://HOST[:PORT]/NAME[:TAG | @sha256:<64 hex>]
 *
 * oci:// is https, but http where HOST is this machine; oci+https:// is https there too, and
 * oci+http:// is http everywhere: what goes to another machine that way is seen by whoever is
 * between, so no password and no token does.
 */
#ifndef STORE_OCI_NAME_H
#define STORE_OCI_NAME_H

#include "format/digest.h"

#define OCI_TAG_MAX 128

struct oci_name {
    char *origin;     /* "https://host:port", as HTTP wants it */
    char *host;       /* "host:port", as ~/.docker/config.json has it */
    char *repository; /* "team/adapters" */
    char *reference;  /* a tag, or "sha256:<64 hex>"; NULL where none is given */
    bool is_secret;   /* what goes there cannot be read on the way */
};
#define AUTO_OCI_NAME(name) __attribute__((cleanup(oci_name_release))) struct oci_name name = {0}
void oci_name_release(struct oci_name *name);

/* Does it begin with oci://, oci+http:// or oci+https://? */
bool oci_is_url(const char *url);

/* E_INVALID, saying what is wrong, for what is no such URL. A user's name or password in it is
   refused, and not repeated in the message. */
MUST_CHECK int oci_name_parse(struct oci_name *out, const char *url);

bool oci_is_digest(const char *reference);

/*
 * Tags. A byte that no tag may hold there is written as `_` and two hex digits, and so is `_`
 * itself. A branch that is called like a version of another one ("main-0123456789ab") has its last
 * `-` written so, too: the names of versions and those of refs never meet.
 */

/* Append the tag of a branch or tag ("run/1"), or with `snapshot` that of a version of a branch.
   E_LIMIT where it is longer than OCI_TAG_MAX. */
MUST_CHECK int oci_tag_encode(struct buf *out, const char *ref, const struct digest *snapshot);

enum oci_tag_kind {
    OCI_TAG_FOREIGN, /* none that we wrote */
    OCI_TAG_REF,
    OCI_TAG_VERSION,
    OCI_TAG_CLAIM, /* store/oci_claim.h */
};
enum oci_tag_kind oci_tag_kind(struct bytes tag);

/* The ref that a tag of kind OCI_TAG_REF stands for. */
MUST_CHECK int oci_tag_decode(struct buf *out, struct bytes tag);

#endif
