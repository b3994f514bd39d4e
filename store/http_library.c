/* Loading libcurl. See http_library.h. */
#include "store/http_library.h"

#include <dlfcn.h>
#include <pthread.h>
#include <stdbool.h>
#include <stddef.h>
#include <string.h>

static struct {
    pthread_once_t once;
    bool loaded;
    struct http_library functions;
} curl = {.once = PTHREAD_ONCE_INIT};

/* A function's address into a pointer to a function, which C allows bytewise only. */
static bool find(void *out, void *library, const char *name)
{
    void *symbol = dlsym(library, name);

    memcpy(out, &symbol, sizeof(symbol));
    return symbol != NULL;
}

static bool find_all(struct http_library *out, void *library)
{
    return find(&out->global_init, library, "curl_global_init") &&
           find(&out->easy_init, library, "curl_easy_init") &&
           find(&out->easy_reset, library, "curl_easy_reset") &&
           find(&out->easy_cleanup, library, "curl_easy_cleanup") &&
           find(&out->easy_setopt, library, "curl_easy_setopt") &&
           find(&out->easy_getinfo, library, "curl_easy_getinfo") &&
           find(&out->easy_perform, library, "curl_easy_perform") &&
           find(&out->easy_strerror, library, "curl_easy_strerror") &&
           find(&out->slist_append, library, "curl_slist_append") &&
           find(&out->slist_free_all, library, "curl_slist_free_all") &&
           find(&out->url, library, "curl_url") && find(&out->url_set, library, "curl_url_set") &&
           find(&out->url_get, library, "curl_url_get") &&
           find(&out->url_cleanup, library, "curl_url_cleanup") &&
           find(&out->release, library, "curl_free");
}

static void load_once(void)
{
    static const char *const names[] = {"libcurl.so.4", "libcurl-gnutls.so.4"};

    for (size_t i = 0; i < sizeof(names) / sizeof(names[0]) && !curl.loaded; i++) {
        void *library = dlopen(names[i], RTLD_NOW | RTLD_LOCAL);
        if (!library)
            continue;
        curl.loaded = find_all(&curl.functions, library) &&
                      curl.functions.global_init(CURL_GLOBAL_DEFAULT) == CURLE_OK;
        if (!curl.loaded)
            dlclose(library);
    }
}

const struct http_library *http_library(void)
{
    pthread_once(&curl.once, load_once);
    return curl.loaded ? &curl.functions : NULL;
}

int http_library_load(const struct http_library **out)
{
    const struct http_library *library = http_library();

    if (!library) {
        int err = error_set(E_UNSUPPORTED, "libcurl.so.4 cannot be loaded");
        return error_hint(err, "Install libcurl, which Debian has as libcurl4.");
    }
    *out = library;
    return 0;
}
