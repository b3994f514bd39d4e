/*
 * One pusher of a ref at a time. A registry has no compare-and-swap, so whoever is about to write a
 * ref's index says so first, by a tag of its own (`__` and what is in oci_claim_tag()), and goes on
 * only if it sees no claim of another; of two that claim at once at least one sees the other, since
 * each writes before it reads. Who sees one takes its own back, and tries again after a moment.
 *
 * A claim that stays the same for OCI_CLAIM_DEAD_SECONDS is a dead one's; for a living one's
 * writing OCI_CLAIM_SECONDS are left, so no clock is compared with another's. Registries that
 * delete nothing keep one tag for each repository that ever pushed a ref; it says that nobody
 * claims.
 */
#ifndef STORE_OCI_CLAIM_H
#define STORE_OCI_CLAIM_H

#include "store/oci_client.h"

#define OCI_CLAIM_SECONDS      8
#define OCI_CLAIM_DEAD_SECONDS 20

struct oci_claim {
    struct oci_client *client; /* NULL: none is held */
    char *tag;
    char nonce[17];
    struct digest digest;
    int64_t since_ms; /* monotonic */
    int fd;           /* of the file that keeps other processes of this repository apart */
};
#define AUTO_OCI_CLAIM(name)                                                                       \
    __attribute__((cleanup(oci_claim_release))) struct oci_claim name = {.fd = -1}

/* Waits for others. E_CONFLICT where they do not end. */
MUST_CHECK int oci_claim_take(
    struct oci_claim *out, struct store *store, struct oci_client *client, const char *ref
);
/* Is there time left to write? */
bool oci_claim_holds(const struct oci_claim *claim);
void oci_claim_release(struct oci_claim *claim);

#endif
