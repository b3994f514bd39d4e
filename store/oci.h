/*
 * Registries as remotes (docs/format.md, "Registries"): what arrival.h and push.h do with a URL
 * that begins with oci://.
 */
#ifndef STORE_OCI_H
#define STORE_OCI_H

#include "store/arrival_child.h"
#include "store/oci_name.h"
#include "store/push.h"

/* Into the quarantine, in the process of the arrival. */
MUST_CHECK int oci_fetch(struct child *child);

/* push_send() to a registry, once each ref's `new` is known. Two that push one ref at once: a claim
   (oci_claim.h) lets one write after the other, who then sees that what is there is no longer what
   it was, and is refused where ours does not contain it. */
MUST_CHECK int
oci_push(struct push_result *out, struct store *store, const struct push_request *request);

#endif
