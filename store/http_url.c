/* URLs, by libcurl's parser, so that what is compared here is what it connects to. See http.h. */
#include <stdio.h>
#include <string.h>
#include <strings.h>

#include "store/http.h"
#include "store/http_library.h"

struct url {
    const struct http_library *library;
    CURLU *handle;
};

static void url_release(struct url *url)
{
    if (url->handle)
        url->library->url_cleanup(url->handle);
}
#define AUTO_URL(name) __attribute__((cleanup(url_release))) struct url name = {0}

static int url_parse(struct url *out, const char *text)
{
    int err = http_library_load(&out->library);

    if (err < 0)
        return err;
    if (!(out->handle = out->library->url()))
        return error_set(E_NOMEM, "out of memory for an URL");
    CURLUcode code = out->library->url_set(out->handle, CURLUPART_URL, text, 0);
    if (code == CURLUE_OUT_OF_MEMORY)
        return error_set(E_NOMEM, "out of memory for an URL");
    return code == CURLUE_OK ? 0 : error_set(E_INVALID, "'%.200s' is no URL", text);
}

/* A part, owned by the caller; NULL where it has none. */
static int url_part(char **out, const struct url *url, CURLUPart part, unsigned flags)
{
    char *text = NULL;

    *out = NULL;
    if (url->library->url_get(url->handle, part, &text, flags) != CURLUE_OK)
        return 0;
    *out = bytes_dup(text_bytes(text));
    url->library->release(text);
    return *out ? 0 : error_wrap(E_NOMEM, "URL");
}

static bool is_http(const char *scheme)
{
    return scheme && (strcasecmp(scheme, "http") == 0 || strcasecmp(scheme, "https") == 0);
}

int http_resolve(char **out, const char *base, const char *reference)
{
    AUTO_URL(url);
    AUTO_FREE(char, scheme);
    AUTO_FREE(char, user);
    int err = url_parse(&url, base);

    if (err < 0)
        return err;
    if (url.library->url_set(url.handle, CURLUPART_URL, reference, 0) != CURLUE_OK)
        return error_set(E_INVALID, "'%.200s' is no URL", reference);
    if ((err = url_part(&scheme, &url, CURLUPART_SCHEME, 0)) < 0 ||
        (err = url_part(&user, &url, CURLUPART_USER, 0)) < 0)
        return err;
    if (!is_http(scheme) || user)
        return error_set(E_INVALID, "'%.200s' is no URL for this", reference);
    if ((err = url_part(out, &url, CURLUPART_URL, 0)) == 0 && !*out)
        return error_set(E_INVALID, "'%.200s' is no URL", reference);
    return err;
}

/* "https://host:443" */
static int url_origin(char **out, const char *text)
{
    AUTO_URL(url);
    AUTO_FREE(char, scheme);
    AUTO_FREE(char, host);
    AUTO_FREE(char, port);
    AUTO_BUF(origin);
    int err;

    if ((err = url_parse(&url, text)) < 0 ||
        (err = url_part(&scheme, &url, CURLUPART_SCHEME, 0)) < 0 ||
        (err = url_part(&host, &url, CURLUPART_HOST, 0)) < 0 ||
        (err = url_part(&port, &url, CURLUPART_PORT, CURLU_DEFAULT_PORT)) < 0)
        return err;
    if (!is_http(scheme) || !host || !port)
        return error_set(E_INVALID, "'%.200s' has no origin", text);
    if ((err = buf_printf(&origin, "%s://%s:%s", scheme, host, port)) == 0)
        *out = (char *)buf_take(&origin).data;
    return err;
}

bool http_same_origin(const char *a, const char *b)
{
    AUTO_FREE(char, first);
    AUTO_FREE(char, second);

    return url_origin(&first, a) == 0 && url_origin(&second, b) == 0 &&
           strcasecmp(first, second) == 0;
}

bool http_is_loopback(struct bytes host)
{
    if (bytes_equal(host, text_bytes("[::1]")) || bytes_equal(host, text_bytes("::1")) ||
        (host.len == 9 && strncasecmp((const char *)host.data, "localhost", 9) == 0))
        return true;
    if (host.len < 9 || memcmp(host.data, "127.", 4) != 0)
        return false;
    size_t dots = 0;
    for (size_t i = 0; i < host.len; i++) {
        if (host.data[i] == '.')
            dots++;
        else if (host.data[i] < '0' || host.data[i] > '9')
            return false;
    }
    return dots == 3;
}

int http_escape(struct buf *out, struct bytes text)
{
    int err = 0;

    for (size_t i = 0; err == 0 && i < text.len; i++) {
        uint8_t byte = text.data[i];
        bool plain = (byte >= 'a' && byte <= 'z') || (byte >= 'A' && byte <= 'Z') ||
                     (byte >= '0' && byte <= '9') || (byte && strchr("-._~", byte));
        err = plain ? buf_append_byte(out, byte) : buf_printf(out, "%%%02X", byte);
    }
    return err;
}
