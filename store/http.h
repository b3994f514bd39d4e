/*
 * One HTTP request after the other, by libcurl, which is loaded when the first one is made:
 * linking it costs every start of the program 4 ms.
 *
 * What a server can do to us is bounded here: headers to HTTP_HEADERS_MAX, a refusal's text to
 * HTTP_REFUSAL_MAX, an answer to what its caller allows, all by the byte as they arrive; a server
 * that sends nothing, or next to nothing, is given up after a while. Certificates are those of the
 * system, or what authority_find() and $SSL_CERT_DIR name, and are always checked. Redirects are
 * followed for GET and HEAD alone, never from https to http, and the authorization goes to no other
 * origin.
 */
#ifndef STORE_HTTP_H
#define STORE_HTTP_H

#include "format/buf.h"
#include "format/interrupt.h"

#define HTTP_HEADERS_MAX ((size_t)64 << 10)
#define HTTP_REFUSAL_MAX ((size_t)16 << 10)

struct http;
#define AUTO_HTTP(name) __attribute__((cleanup(http_release))) struct http *name = NULL
/* Connections are kept between requests. E_UNSUPPORTED, with a hint, where there is no libcurl. */
MUST_CHECK int http_new(struct http **out);
void http_release(struct http **http);

struct http_response {
    unsigned status;        /* 0 where there was no answer */
    struct buf headers;     /* of the last answer: lines "Name: value", each ended by LF */
    struct buf refusal;     /* of a status that is no 2xx: the beginning of its body */
    uint64_t taken;         /* bytes of the body that take() got */
    bool is_worth_retrying; /* where it failed: the connection did, not the request */
};
#define AUTO_HTTP_RESPONSE(name)                                                                   \
    __attribute__((cleanup(http_response_release))) struct http_response name = {0}
void http_response_release(struct http_response *response);

struct http_request {
    const char *method; /* GET, HEAD, POST, PUT, PATCH, DELETE */
    const char *url;
    const char *const *headers; /* "Accept: application/json", NULL at the end; or NULL */
    const char *authorization;  /* the header's value, or NULL; for this URL's origin alone */
    bool has_body;
    struct bytes body;
    /* Gets the body of a 2xx answer in pieces; it may end the request by an error. NULL: the body
       is not wanted. */
    int (*take)(void *context, const struct http_response *response, struct bytes piece);
    void *context;
    uint64_t limit;   /* E_LIMIT where the body is longer */
    unsigned seconds; /* for all of it; 0: as long as something comes */
};

/* 0 where there was an answer, whatever its status. E_IO where there was none (or only a part of
   one), E_LIMIT, E_INTERRUPTED, or what take() returned. `out` is filled in any case, as far as it
   got; errors name the URL without its query. */
MUST_CHECK int
http_perform(struct http_response *out, struct http *http, const struct http_request *request);

/* The n-th (from 0) header of this name; *found false where there is none. */
bool http_header(
    struct bytes *out, const struct http_response *response, const char *name, size_t n
);

/* All bytes, headers too, that went over the wire for this handle; TLS and TCP apart. */
uint64_t http_bytes(const struct http *http);

/* An absolute or relative reference, seen from `base`, owned by the caller. E_INVALID for what is
   no URL, is neither http nor https, or holds a user's name. */
MUST_CHECK int http_resolve(char **out, const char *base, const char *reference);
/* Have both URLs the same scheme, host and port? False for what is no URL. */
bool http_same_origin(const char *a, const char *b);

/* Is it localhost, 127.x.x.x or [::1]? `host` without a port. */
bool http_is_loopback(struct bytes host);

/* Append the text so that it can stand in a query: what RFC 3986 does not call unreserved becomes
   %XX. */
MUST_CHECK int http_escape(struct buf *out, struct bytes text);

#endif
