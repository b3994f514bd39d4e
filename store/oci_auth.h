/*
 * Who we are to a registry: its challenge (RFC 7235), the credentials that docker login, podman
 * login and skopeo login keep, and the tokens that they are exchanged for.
 *
 * Credentials come from $DOCKER_CONFIG/config.json or ~/.docker/config.json alone: its "auths", or
 * the helper program that it names itself ("credHelpers", "credsStore"). They are only ever sent
 * over TLS, or to this machine. Nothing here is printed or kept.
 */
#ifndef STORE_OCI_AUTH_H
#define STORE_OCI_AUTH_H

#include "store/http.h"
#include "store/oci_name.h"

enum challenge_kind { CHALLENGE_NONE, CHALLENGE_BASIC, CHALLENGE_BEARER };

struct challenge {
    enum challenge_kind kind;
    char *realm, *service, *scope; /* owned; NULL where it has none */
};
#define AUTO_CHALLENGE(name) __attribute__((cleanup(challenge_release))) struct challenge name = {0}
void challenge_release(struct challenge *challenge);

/* The value of one WWW-Authenticate header: of several challenges Bearer goes before Basic, others
   are passed over. E_INVALID for what is none, and for a Bearer without a realm. */
MUST_CHECK int challenge_parse(struct challenge *out, struct bytes header);

struct oci_credentials {
    char *user, *secret; /* owned; NULL: none are known */
    bool is_token;       /* an identity token, to be exchanged */
};
#define AUTO_OCI_CREDENTIALS(name)                                                                 \
    __attribute__((cleanup(oci_credentials_release))) struct oci_credentials name = {0}
void oci_credentials_release(struct oci_credentials *credentials);

/* What a config.json says of a host: its credentials, or in `helper` (owned) the name of the
   program that has them, or neither. E_INVALID where it is no such file; nothing that is in it is
   repeated. */
MUST_CHECK int
oci_config_decode(struct oci_credentials *out, char **helper, struct bytes json, const char *host);
/* What such a program answers. */
MUST_CHECK int oci_helper_decode(struct oci_credentials *out, struct bytes json);

/* One registry's. */
struct oci_auth {
    struct http *http;           /* borrowed */
    const struct oci_name *name; /* borrowed */
    bool writes;                 /* ask for leave to push, too */
    bool looked;                 /* for credentials */
    struct oci_credentials credentials;
    char *header; /* the value for Authorization; NULL as long as nothing asked for it */
};
void oci_auth_release(struct oci_auth *auth);

/* Answer the challenge of a 401: auth->header is another one afterwards. E_INVALID, with a hint,
   where we have no answer to it. */
MUST_CHECK int oci_auth_answer(struct oci_auth *auth, const struct http_response *refused);

#endif
