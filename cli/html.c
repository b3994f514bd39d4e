/* HTML. See html.h. */
#include "cli/html.h"

#include <openssl/evp.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>

#include "cli/output.h"
#include "format/digest.h"
#include "format/file.h"

#define PAGE_BEGIN "<!DOCTYPE html>\n"

void html_init(struct html *html, struct buf *out)
{
    *html = (struct html){.out = out};
    html_markup(html, PAGE_BEGIN);
}

int html_end(const struct html *html)
{
    return html->err;
}

static void append(struct html *html, const void *data, size_t len)
{
    if (!html->err)
        html->err = buf_append(html->out, data, len);
}

void html_markup(struct html *html, const char *markup)
{
    append(html, markup, strlen(markup));
}

void html_printf(struct html *html, const char *fmt, ...)
{
    char text[512];
    va_list ap;

    va_start(ap, fmt);
    int len = vsnprintf(text, sizeof(text), fmt, ap);
    va_end(ap);
    if (len < 0 || (size_t)len >= sizeof(text)) {
        if (!html->err)
            html->err = error_set(E_LIMIT, "page: a piece of %d bytes is too long", len);
        return;
    }
    append(html, text, (size_t)len);
}

static const char *entity(uint8_t character)
{
    switch (character) {
    case '&':
        return "&amp;";
    case '<':
        return "&lt;";
    case '>':
        return "&gt;";
    case '"':
        return "&quot;";
    case '\'':
        return "&#39;";
    default:
        return NULL;
    }
}

void html_text(struct html *html, struct bytes text)
{
    for (size_t i = 0; i < text.len;) {
        size_t n = output_plain_length((struct bytes){text.data + i, text.len - i});
        const char *escaped = n == 1 ? entity(text.data[i]) : NULL;
        if (escaped)
            html_markup(html, escaped);
        else if (n)
            append(html, text.data + i, n);
        else
            html_printf(html, "\\x%02x", text.data[i]);
        i += n ? n : 1;
    }
}

void html_name(struct html *html, struct bytes name)
{
    size_t done = 0;

    for (size_t i = 0; i + 1 < name.len; i++) {
        if (name.data[i] != '.' && name.data[i] != '/')
            continue;
        html_text(html, (struct bytes){name.data + done, i + 1 - done});
        html_markup(html, "<wbr>");
        done = i + 1;
    }
    html_text(html, (struct bytes){name.data + done, name.len - done});
}

void html_policy_source(struct html *html, const char *text)
{
    unsigned char base64[DIGEST_SIZE * 2];
    struct digest digest;
    int err = digest_of(&digest, text_bytes(text));

    if (err && !html->err)
        html->err = err;
    if (html->err)
        return;
    EVP_EncodeBlock(base64, digest.bytes, DIGEST_SIZE);
    html_printf(html, "'sha256-%s'", (const char *)base64);
}

/* A page that vera wrote, or nothing at all. */
static int read_is_page(bool *out, const char *path)
{
    char begin[sizeof(PAGE_BEGIN) - 1];
    AUTO_FD(fd);
    uint64_t bytes;
    int err = file_open(&fd, &bytes, path);

    if (err)
        return err;
    *out = bytes == 0;
    if (bytes < sizeof(begin))
        return 0;
    if ((err = file_read_at(fd, begin, sizeof(begin), 0, path)))
        return err;
    *out = memcmp(begin, PAGE_BEGIN, sizeof(begin)) == 0;
    return 0;
}

int html_check_target(const char *path)
{
    bool is_page = false;
    int err;

    if (strcmp(path, "-") == 0 || !path_exists(path))
        return 0;
    if (path_is_file(path) && (err = read_is_page(&is_page, path)))
        return err;
    if (is_page)
        return 0;
    err = error_set(E_EXISTS, "%s: there is something that is no page", path);
    return error_hint(
        err, "only a page is replaced; choose another name, or '-' for standard output"
    );
}

int html_write(const char *path, struct bytes page)
{
    int err;

    if (strcmp(path, "-") == 0)
        return output_write(page);
    if ((err = html_check_target(path)))
        return err;
    return file_write(path, page);
}
