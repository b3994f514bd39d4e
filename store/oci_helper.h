/* Programs that keep credentials for docker: docker-credential-NAME, asked for a host on standard
   input, answers in JSON. */
#ifndef STORE_OCI_HELPER_H
#define STORE_OCI_HELPER_H

#include "store/oci_auth.h"

/* `name` as oci_config_decode() gives it. No credentials where the program says that it has none;
   E_UNSUPPORTED, with a hint, where there is no such program. */
MUST_CHECK int oci_helper_ask(struct oci_credentials *out, const char *name, const char *host);

#endif
