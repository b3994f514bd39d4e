/* Addresses of other repositories. See url.h. */
#include "store/url.h"

#include <ctype.h>
#include <stdlib.h>
#include <string.h>

#include "format/limits.h"
#include "format/text.h"
#include "store/login.h"

void url_release(struct url *url)
{
    free(url->scheme);
    free(url->user);
    secret_free(url->password);
    free(url->host);
    free(url->port);
    free(url->path);
    *url = (struct url){0};
}

static int bad(const char *why)
{
    return error_set(E_INVALID, "the address of the remote: %s", why);
}

static int part_set(char **out, const char *from, size_t len)
{
    *out = bytes_dup((struct bytes){(const uint8_t *)from, len});
    return *out ? 0 : error_wrap(E_NOMEM, "address");
}

static int hex_value(char digit)
{
    if (digit >= '0' && digit <= '9')
        return digit - '0';
    return isxdigit((unsigned char)digit) ? tolower((unsigned char)digit) - 'a' + 10 : -1;
}

/* %40 becomes @, in place. */
static int decode(char *text)
{
    char *to = text;

    for (const char *from = text; *from; from++, to++) {
        *to = *from;
        if (*from != '%')
            continue;
        int high = hex_value(from[1]), low = high < 0 ? -1 : hex_value(from[2]);
        if (low < 0)
            return bad("a '%' with no two hex digits behind it");
        *to = (char)(high << 4 | low);
        if ((unsigned char)*to < 0x20 || *to == 0x7f)
            return bad("it holds a control character");
        from += 2;
    }
    *to = '\0';
    return 0;
}

static int user_parse(struct url *url, const char *from, size_t len)
{
    const char *colon = memchr(from, ':', len);
    size_t user = colon ? (size_t)(colon - from) : len;
    int err;

    if ((err = part_set(&url->user, from, user)) < 0 || (err = decode(url->user)) < 0)
        return err;
    if (!colon)
        return 0;
    if ((err = part_set(&url->password, colon + 1, len - user - 1)) < 0)
        return err;
    return decode(url->password);
}

static int port_check(const char *port)
{
    uint64_t number;

    if (!text_parse_uint64(&number, text_bytes(port)) || number == 0 || number > 65535)
        return bad("its port is no number from 1 to 65535");
    return 0;
}

/* "host", "host:port", "[::1]:port". */
static int host_parse(struct url *url, const char *from, size_t len)
{
    const char *end = from + len, *host_end, *host = from;
    int err;

    if (len && *from == '[') {
        host = from + 1;
        if (!(host_end = memchr(host, ']', len - 1)))
            return bad("a '[' without its ']'");
        from = host_end + 1;
    } else {
        host_end = memchr(from, ':', len);
        from = host_end = host_end ? host_end : end;
    }
    if ((err = part_set(&url->host, host, (size_t)(host_end - host))) < 0)
        return err;
    if (from == end)
        return 0;
    if (*from != ':')
        return bad("there is something behind its host");
    if (from + 1 == end)
        return 0;
    if ((err = part_set(&url->port, from + 1, (size_t)(end - from - 1))) < 0)
        return err;
    return port_check(url->port);
}

static int authority_parse(struct url *url, const char *from, size_t len)
{
    const char *host = from;
    int err = 0;

    for (size_t i = 0; i < len; i++) {
        if (from[i] == '@')
            host = from + i + 1;
    }
    if (host > from)
        err = user_parse(url, from, (size_t)(host - from) - 1);
    return err < 0 ? err : host_parse(url, host, len - (size_t)(host - from));
}

static int long_parse(struct url *url, const char *text, const char *colon)
{
    const char *authority = colon + 3;
    size_t len = strcspn(authority, "/?#");
    int err;

    if ((err = part_set(&url->scheme, text, (size_t)(colon - text))) < 0 ||
        (err = part_set(&url->path, authority + len, strlen(authority + len))) < 0)
        return err;
    for (char *at = url->scheme; *at; at++)
        *at = (char)tolower((unsigned char)*at);
    return authority_parse(url, authority, len);
}

/* "user@host:path", "[host:port]:path", "user@[::1]:path". */
static int short_parse(struct url *url, const char *text, const char *colon)
{
    const char *host = text, *at = memchr(text, '@', (size_t)(colon - text));
    size_t len;
    int err;

    if ((err = part_set(&url->scheme, "ssh", 3)) < 0 ||
        (err = part_set(&url->path, colon + 1, strlen(colon + 1))) < 0)
        return err;
    url->is_short = true;
    if (*text == '[' && (at || memchr(text, ':', (size_t)(colon - text)))) {
        /* The brackets are around all of it, unless it is an address with many colons. */
        const char *first = strchr(text, ':');
        len = (size_t)(colon - text);
        if (first && !memchr(first + 1, ':', (size_t)(colon - first) - 1))
            return authority_parse(url, text + 1, len - 2);
    } else if (at) {
        if ((err = part_set(&url->user, text, (size_t)(at - text))) < 0)
            return err;
        host = at + 1;
    }
    return host_parse(url, host, (size_t)(colon - host));
}

/* The colon before the path of the short form, or NULL. */
static const char *short_colon(const char *text)
{
    const char *bracket = strchr(text, '['), *end = bracket ? strstr(bracket, "]:") : NULL;
    const char *slash = strchr(text, '/'), *colon = end ? end + 1 : strchr(text, ':');

    return colon && colon > text && (!slash || colon < slash) ? colon : NULL;
}

static int parts_check(const struct url *url)
{
    if (url->host && url->host[0] == '-')
        return bad("its host begins with '-'");
    if (url->user && url->user[0] == '-')
        return bad("its user begins with '-'");
    if (!*url->host && strcmp(url->scheme, "file") != 0)
        return bad("it names no host");
    return 0;
}

int url_parse(struct url *out, const char *text)
{
    AUTO_URL(url);
    const char *colon = strstr(text, "://");
    int err = 0;

    if (strlen(text) > LIMIT_URL)
        return bad("it is too long");
    for (const char *at = text; *at; at++) {
        if ((unsigned char)*at < 0x20 || *at == 0x7f)
            return bad("it holds a control character");
    }
    if (colon && colon > text)
        err = long_parse(&url, text, colon);
    else if ((colon = short_colon(text)))
        err = short_parse(&url, text, colon);
    else
        return 0;
    if (err < 0 || (err = parts_check(&url)) < 0)
        return err;
    *out = url;
    url = (struct url){0};
    return 0;
}

bool url_is_ssh(const struct url *url)
{
    const char *scheme = url->scheme ? url->scheme : "";

    return strcmp(scheme, "ssh") == 0 || strcmp(scheme, "git+ssh") == 0 ||
           strcmp(scheme, "ssh+git") == 0;
}

bool url_is_http(const struct url *url)
{
    return url->scheme && (strcmp(url->scheme, "http") == 0 || strcmp(url->scheme, "https") == 0);
}

bool url_is_loopback(const struct url *url)
{
    return url->host && (strcmp(url->host, "localhost") == 0 || strcmp(url->host, "::1") == 0 ||
                         strncmp(url->host, "127.", 4) == 0);
}

static int encoded_append(struct buf *out, const char *text)
{
    int err = 0;

    for (; err == 0 && *text; text++) {
        if (isalnum((unsigned char)*text) || strchr("-._~+", *text))
            err = buf_append_byte(out, (uint8_t)*text);
        else
            err = buf_printf(out, "%%%02X", (unsigned)(unsigned char)*text);
    }
    return err;
}

static int host_append(struct buf *out, const struct url *url)
{
    const bool many_colons = strchr(url->host, ':') != NULL;
    int err = buf_printf(out, many_colons ? "[%s]" : "%s", url->host);

    return err == 0 && url->port ? buf_printf(out, ":%s", url->port) : err;
}

static int short_append(struct buf *out, const struct url *url)
{
    int err = url->port ? buf_append_byte(out, '[') : 0;

    if (err == 0 && url->user)
        err = buf_printf(out, "%s@", url->user);
    if (err < 0 || (err = host_append(out, url)) < 0)
        return err;
    return buf_printf(out, "%s:%s", url->port ? "]" : "", url->path);
}

int url_append(struct buf *out, const struct url *url)
{
    int err;

    if (url->is_short)
        return short_append(out, url);
    if ((err = buf_printf(out, "%s://", url->scheme)) < 0)
        return err;
    if (url->user && url_is_ssh(url) &&
        ((err = encoded_append(out, url->user)) < 0 || (err = buf_append_byte(out, '@')) < 0))
        return err;
    if ((err = host_append(out, url)) < 0)
        return err;
    return buf_append_text(out, url->path);
}

int url_shown(char **out, const char *text)
{
    AUTO_URL(url);
    AUTO_BUF(shown);
    int err = url_parse(&url, text);

    if (err < 0)
        return err;
    err = url.scheme ? url_append(&shown, &url) : buf_append_text(&shown, text);
    if (err < 0)
        return err;
    *out = bytes_dup(buf_bytes(&shown));
    return *out ? 0 : error_wrap(E_NOMEM, "address");
}
