/* libcurl's functions, looked up when they are first wanted. Private to store/http*.c. */
#ifndef STORE_HTTP_LIBRARY_H
#define STORE_HTTP_LIBRARY_H

#define CURL_DISABLE_TYPECHECK
#include <curl/curl.h>

#include "format/error.h"

struct http_library {
    __typeof__(curl_global_init) *global_init;
    __typeof__(curl_easy_init) *easy_init;
    __typeof__(curl_easy_reset) *easy_reset;
    __typeof__(curl_easy_cleanup) *easy_cleanup;
    __typeof__(curl_easy_setopt) *easy_setopt;
    __typeof__(curl_easy_getinfo) *easy_getinfo;
    __typeof__(curl_easy_perform) *easy_perform;
    __typeof__(curl_easy_strerror) *easy_strerror;
    __typeof__(curl_slist_append) *slist_append;
    __typeof__(curl_slist_free_all) *slist_free_all;
    __typeof__(curl_url) *url;
    __typeof__(curl_url_set) *url_set;
    __typeof__(curl_url_get) *url_get;
    __typeof__(curl_url_cleanup) *url_cleanup;
    __typeof__(curl_free) *release;
};

/* NULL where this system has none. The same one for the whole process, never unloaded. */
const struct http_library *http_library(void);

/* http_library(), or E_UNSUPPORTED with a hint. */
MUST_CHECK int http_library_load(const struct http_library **out);

#endif
