/* Requests to a registry: with credentials, tried again where that is worth it. Private to
   store/oci_*.c. */
#ifndef STORE_OCI_REQUEST_H
#define STORE_OCI_REQUEST_H

#include "store/oci_client.h"

/* How often something is tried that gets no further. */
#define OCI_TRIES 5

/* "/v2/<name>/<what>" at the registry's origin, owned by the caller. */
MUST_CHECK int oci_url(char **out, const struct oci_client *client, const char *what);

/* One request, credentials added where it goes to the registry itself and 401 answered; not tried
   again otherwise. As http_perform(). */
MUST_CHECK int oci_request_once(
    struct http_response *out, struct oci_client *client, const struct http_request *request
);

/* Is it worth trying again? `err` and the response as oci_request_once() left them. */
bool oci_is_transient(int err, const struct http_response *response);

/* Wait before the n-th try (1: the first one again), as long as the server wants, or longer each
   time. E_INTERRUPTED. */
MUST_CHECK int oci_pause(unsigned tried, const struct http_response *response);

/* oci_request_once(), tried again. For requests without take(), or whose take() can begin anew: it
   is told so by `again`. An answer, or the last error. */
MUST_CHECK int oci_request(
    struct http_response *out,
    struct oci_client *client,
    const struct http_request *request,
    void (*again)(void *context)
);

/* The error for an answer that is not what we hoped for: by its status, with what the registry says
   of it. */
MUST_CHECK int oci_refused(
    const struct oci_client *client, const struct http_response *response, const char *what
);

#endif
