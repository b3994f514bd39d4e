/* HTTP by libcurl. See http.h. */
#include "store/http.h"

#include <stdlib.h>
#include <string.h>
#include <strings.h>

#include "store/credentials.h"
#include "store/http_library.h"

#define REDIRECTS_MAX   5
#define CONNECT_SECONDS 20L
/* Who sends less is not there any more, or wastes our time on purpose. */
#define SLOW_BYTES      100L
#define SLOW_SECONDS    60L

struct http {
    const struct http_library *library;
    CURL *handle;
    char *authority; /* the file of certificates that are trusted; NULL: the system's */
    uint64_t bytes;
    long slow_bytes, slow_seconds;
};

/* git's own limits for its own HTTP, where a person has set them. */
static long limit_of_environment(const char *name, long otherwise)
{
    const char *text = getenv(name);
    char *end = NULL;
    long value = text ? strtol(text, &end, 10) : 0;

    return text && *text && !*end && value > 0 && value < 1000000 ? value : otherwise;
}

int http_new(struct http **out)
{
    struct http *http = calloc(1, sizeof(*http));

    if (!http)
        return error_set(E_NOMEM, "out of memory for a connection");
    int err = http_library_load(&http->library);
    if (err == 0 && !(http->handle = http->library->easy_init()))
        err = error_set(E_NOMEM, "out of memory for a connection");
    if (err == 0)
        err = authority_find(&http->authority);
    http->slow_bytes = limit_of_environment("GIT_HTTP_LOW_SPEED_LIMIT", SLOW_BYTES);
    http->slow_seconds = limit_of_environment("GIT_HTTP_LOW_SPEED_TIME", SLOW_SECONDS);
    *out = http;
    if (err < 0)
        http_release(out);
    return err;
}

void http_release(struct http **http)
{
    if (*http && (*http)->handle)
        (*http)->library->easy_cleanup((*http)->handle);
    if (*http)
        free((*http)->authority);
    free(*http);
    *http = NULL;
}

uint64_t http_bytes(const struct http *http)
{
    return http->bytes;
}

void http_response_release(struct http_response *response)
{
    buf_release(&response->headers);
    buf_release(&response->refusal);
}

/* What arrives */

/* One request on its way. */
struct exchange {
    struct http *http;
    const struct http_request *request;
    struct http_response *response;
    const char *url;  /* after redirects */
    bool has_headers; /* all of them */
    int err;          /* ours, where we ended it */
};

/* A URL without its query, which may hold what is nobody's business. */
static int shown_length(const char *url)
{
    size_t len = strcspn(url, "?#");

    return len < 300 ? (int)len : 300;
}

static size_t
take_header(const char *data, size_t one __attribute__((unused)), size_t len, void *context)
{
    struct exchange *exchange = context;
    struct http_response *response = exchange->response;
    size_t end = len;

    /* "HTTP/1.1 100 Continue" and such came before: only the last answer counts. */
    if (len >= 5 && memcmp(data, "HTTP/", 5) == 0) {
        response->headers.len = 0;
        exchange->has_headers = false;
        return len;
    }
    while (end && (data[end - 1] == '\n' || data[end - 1] == '\r'))
        end--;
    if (end == 0) {
        exchange->has_headers = true;
        return len;
    }
    if (response->headers.len + end + 1 > HTTP_HEADERS_MAX)
        exchange->err = error_set(
            E_LIMIT, "%.*s: answers with more than %zu bytes of headers",
            shown_length(exchange->url), exchange->url, HTTP_HEADERS_MAX
        );
    else if ((exchange->err = buf_append(&response->headers, data, end)) == 0)
        exchange->err = buf_append_byte(&response->headers, '\n');
    return exchange->err < 0 ? 0 : len;
}

static unsigned status_of(const struct http *http)
{
    long status = 0;

    (void)!http->library->easy_getinfo(http->handle, CURLINFO_RESPONSE_CODE, &status);
    return status < 0 || status > 999 ? 0 : (unsigned)status;
}

static void refusal_take(struct exchange *exchange, const char *data, size_t len)
{
    struct buf *refusal = &exchange->response->refusal;
    size_t room = HTTP_REFUSAL_MAX - refusal->len;

    exchange->err = buf_append(refusal, data, len < room ? len : room);
}

static size_t
take_body(const char *data, size_t one __attribute__((unused)), size_t len, void *context)
{
    struct exchange *exchange = context;
    struct http_response *response = exchange->response;
    const struct http_request *request = exchange->request;

    response->status = status_of(exchange->http);
    if (response->status < 200 || response->status > 299) {
        refusal_take(exchange, data, len);
        /* There is no more to be learned from it. */
        return exchange->err < 0 || response->refusal.len == HTTP_REFUSAL_MAX ? 0 : len;
    }
    if (len > request->limit - response->taken) {
        exchange->err = error_set(
            E_LIMIT, "%.*s: answers with more than %llu bytes", shown_length(exchange->url),
            exchange->url, (unsigned long long)request->limit
        );
        return 0;
    }
    if (request->take)
        exchange->err = request->take(
            request->context, response, (struct bytes){(const uint8_t *)data, len}
        );
    response->taken += len;
    return exchange->err < 0 ? 0 : len;
}

static int look_around(
    void *context,
    curl_off_t total __attribute__((unused)),
    curl_off_t done __attribute__((unused)),
    curl_off_t up_total __attribute__((unused)),
    curl_off_t up __attribute__((unused))
)
{
    struct exchange *exchange = context;

    if (exchange->err == 0)
        exchange->err = interrupt_check();
    return exchange->err < 0;
}

/* What is asked */

static int options_set(struct exchange *exchange, const char *url)
{
    const struct http *http = exchange->http;
    const struct http_request *request = exchange->request;
    __typeof__(curl_easy_setopt) *set = http->library->easy_setopt;
    CURL *handle = http->handle;
    const char *folder = getenv("SSL_CERT_DIR");
    int code = 0;

    http->library->easy_reset(handle);
    code |= (int)set(handle, CURLOPT_URL, url);
    code |= (int)set(handle, CURLOPT_PROTOCOLS_STR, "http,https");
    code |= (int)set(handle, CURLOPT_HTTP_VERSION, (long)CURL_HTTP_VERSION_1_1);
    code |= (int)set(handle, CURLOPT_CONNECTTIMEOUT, CONNECT_SECONDS);
    code |= (int)set(handle, CURLOPT_LOW_SPEED_LIMIT, http->slow_bytes);
    code |= (int)set(handle, CURLOPT_LOW_SPEED_TIME, http->slow_seconds);
    code |= (int)set(handle, CURLOPT_TIMEOUT, (long)request->seconds);
    code |= (int)set(handle, CURLOPT_NOPROGRESS, 0L);
    code |= (int)set(handle, CURLOPT_XFERINFOFUNCTION, look_around);
    code |= (int)set(handle, CURLOPT_XFERINFODATA, exchange);
    code |= (int)set(handle, CURLOPT_HEADERFUNCTION, take_header);
    code |= (int)set(handle, CURLOPT_HEADERDATA, exchange);
    code |= (int)set(handle, CURLOPT_WRITEFUNCTION, take_body);
    code |= (int)set(handle, CURLOPT_WRITEDATA, exchange);
    /* A proxy has no business between two programs of one machine. */
    code |= (int)set(handle, CURLOPT_NOPROXY, "localhost,127.0.0.0/8,::1");
    if (http->authority)
        code |= (int)set(handle, CURLOPT_CAINFO, http->authority);
    if (folder && *folder)
        code |= (int)set(handle, CURLOPT_CAPATH, folder);
    if (strcmp(request->method, "HEAD") == 0)
        code |= (int)set(handle, CURLOPT_NOBODY, 1L);
    else
        code |= (int)set(handle, CURLOPT_CUSTOMREQUEST, request->method);
    if (request->has_body) {
        code |= (int
        )set(handle, CURLOPT_POSTFIELDS, request->body.len ? (const char *)request->body.data : "");
        code |= (int)set(handle, CURLOPT_POSTFIELDSIZE_LARGE, (curl_off_t)request->body.len);
    }
    return code == 0 ? 0 : error_set(E_UNSUPPORTED, "this libcurl is too old");
}

static int header_add(struct curl_slist **list, const struct http *http, const char *line)
{
    struct curl_slist *longer = http->library->slist_append(*list, line);

    if (!longer)
        return error_set(E_NOMEM, "out of memory for a request");
    *list = longer;
    return 0;
}

static int headers_make(struct curl_slist **out, const struct exchange *exchange, bool authorized)
{
    const struct http_request *request = exchange->request;
    AUTO_BUF(line);
    int err = 0;

    /* curl's own: it would wait for leave to send a body. */
    if ((err = header_add(out, exchange->http, "Expect:")) < 0 ||
        (err = header_add(out, exchange->http, "User-Agent: verastore")) < 0)
        return err;
    for (size_t i = 0; err == 0 && request->headers && request->headers[i]; i++)
        err = header_add(out, exchange->http, request->headers[i]);
    if (err == 0 && authorized && request->authorization &&
        (err = buf_printf(&line, "Authorization: %s", request->authorization)) == 0 &&
        buf_text(&line))
        err = header_add(out, exchange->http, (const char *)line.data);
    return err;
}

/* One exchange */

/* Not so a server that was silent for long: it would be long again. */
static bool is_transient(CURLcode code)
{
    static const CURLcode codes[] = {
        CURLE_COULDNT_RESOLVE_HOST, CURLE_COULDNT_CONNECT, CURLE_PARTIAL_FILE,
        CURLE_GOT_NOTHING,          CURLE_SEND_ERROR,      CURLE_RECV_ERROR,
        CURLE_SSL_CONNECT_ERROR,
    };

    for (size_t i = 0; i < sizeof(codes) / sizeof(codes[0]); i++) {
        if (codes[i] == code)
            return true;
    }
    return false;
}

static void bytes_count(struct http *http)
{
    curl_off_t body_in = 0, body_out = 0;
    long headers_in = 0, headers_out = 0;

    (void)!http->library->easy_getinfo(http->handle, CURLINFO_SIZE_DOWNLOAD_T, &body_in);
    (void)!http->library->easy_getinfo(http->handle, CURLINFO_SIZE_UPLOAD_T, &body_out);
    (void)!http->library->easy_getinfo(http->handle, CURLINFO_HEADER_SIZE, &headers_in);
    (void)!http->library->easy_getinfo(http->handle, CURLINFO_REQUEST_SIZE, &headers_out);
    http->bytes += (uint64_t)body_in + (uint64_t)body_out + (uint64_t)headers_in +
                   (uint64_t)headers_out;
}

static int failed(struct exchange *exchange, CURLcode code)
{
    const struct http_library *library = exchange->http->library;

    if (code == CURLE_OUT_OF_MEMORY)
        return error_set(E_NOMEM, "out of memory for a request");
    exchange->response->is_worth_retrying = is_transient(code);
    int err = error_set(
        E_IO, "%.*s: %s", shown_length(exchange->url), exchange->url, library->easy_strerror(code)
    );
    if (code == CURLE_PEER_FAILED_VERIFICATION)
        return error_hint(
            err, "a certificate that this system does not know can be added to it, or named by "
                 "SSL_CERT_FILE"
        );
    return err;
}

static int exchange_once(struct exchange *exchange, bool authorized)
{
    struct http *http = exchange->http;
    struct http_response *response = exchange->response;
    struct curl_slist *headers = NULL;

    response->status = 0;
    response->headers.len = response->refusal.len = 0;
    response->is_worth_retrying = exchange->has_headers = false;
    int err = options_set(exchange, exchange->url);
    if (err == 0)
        err = headers_make(&headers, exchange, authorized);
    if (err == 0) {
        (void)!http->library->easy_setopt(http->handle, CURLOPT_HTTPHEADER, headers);
        CURLcode code = http->library->easy_perform(http->handle);
        response->status = status_of(http);
        bytes_count(http);
        if (exchange->err < 0)
            err = exchange->err;
        else if (code != CURLE_OK && !(code == CURLE_WRITE_ERROR && response->refusal.len))
            err = failed(exchange, code);
        /* Cut in its headers, an answer may seem to be one with an empty body. */
        else if (!exchange->has_headers)
            err = failed(exchange, CURLE_GOT_NOTHING);
    }
    http->library->slist_free_all(headers);
    return err;
}

/* Where the answer points, NULL where it is no redirect that we follow. */
static int redirect(char **out, const struct exchange *exchange)
{
    const char *method = exchange->request->method;
    AUTO_FREE(char, reference);
    struct bytes location;
    unsigned status = exchange->response->status;

    if ((status != 301 && status != 302 && status != 303 && status != 307 && status != 308) ||
        (strcmp(method, "GET") != 0 && strcmp(method, "HEAD") != 0) ||
        !http_header(&location, exchange->response, "location", 0))
        return 0;
    if (!(reference = bytes_dup(location)))
        return error_wrap(E_NOMEM, "URL");
    int err = http_resolve(out, exchange->url, reference);
    if (err == 0 && strncasecmp(exchange->url, "https:", 6) == 0 &&
        strncasecmp(*out, "https:", 6) != 0)
        err = error_set(E_INVALID, "leaves https");
    return err < 0 ? error_wrap(err, "%.*s: redirects", shown_length(exchange->url), exchange->url)
                   : 0;
}

int http_perform(struct http_response *out, struct http *http, const struct http_request *request)
{
    AUTO_FREE(char, url);
    struct exchange exchange = {http, request, out, request->url, false, 0};

    for (unsigned redirects = 0;; redirects++) {
        char *next = NULL;
        bool authorized = redirects == 0 || http_same_origin(request->url, exchange.url);
        out->taken = 0;
        int err = exchange_once(&exchange, authorized);
        if (err < 0 || (err = redirect(&next, &exchange)) < 0 || !next)
            return err;
        free(url);
        url = next;
        exchange.url = url;
        if (redirects == REDIRECTS_MAX)
            return error_set(E_IO, "%.*s: redirects too often", shown_length(url), url);
    }
}

bool http_header(
    struct bytes *out, const struct http_response *response, const char *name, size_t n
)
{
    const char *data = (const char *)response->headers.data;
    size_t name_len = strlen(name);

    for (size_t at = 0; at < response->headers.len;) {
        const char *line = data + at;
        size_t len = (size_t)((const char *)memchr(line, '\n', response->headers.len - at) - line);
        at += len + 1;
        if (len <= name_len || line[name_len] != ':' || strncasecmp(line, name, name_len) != 0 ||
            n-- > 0)
            continue;
        size_t from = name_len + 1;
        while (from < len && (line[from] == ' ' || line[from] == '\t'))
            from++;
        while (len > from && (line[len - 1] == ' ' || line[len - 1] == '\t'))
            len--;
        *out = (struct bytes){(const uint8_t *)line + from, len - from};
        return true;
    }
    return false;
}
