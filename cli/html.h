/*
 * HTML: a writer that escapes whatever comes from outside, and the file that a page becomes.
 *
 * The writer appends to a buffer. As with JSON's, the first failure is kept, later calls do
 * nothing, and html_end() returns it.
 */
#ifndef CLI_HTML_H
#define CLI_HTML_H

#include "format/buf.h"

struct html {
    struct buf *out;
    int err;
};

void html_init(struct html *html, struct buf *out);
MUST_CHECK int html_end(const struct html *html);

/* Markup of our own, as it is; with numbers and words of our own in it. Never a text from outside.
 */
void html_markup(struct html *html, const char *markup);
void html_printf(struct html *html, const char *fmt, ...) PRINTF_LIKE(2, 3);

/* Text from anywhere, for the contents of an element or an attribute in double quotes: what HTML
   would read as markup is escaped, control characters and bytes that are not UTF-8 become \xNN. */
void html_text(struct html *html, struct bytes text);

/* The same for a name in an element, which may be broken after dots and slashes. */
void html_name(struct html *html, struct bytes name);

/* 'sha256-<base64>', by which a page's Content-Security-Policy names the one script or style that
   it lets run. */
void html_policy_source(struct html *html, const char *text);

/* May a page be written there? "-", a new file, an empty one, or an older page, which is replaced;
   E_EXISTS for anything else, be it a symlink. Asked before the work, and again by html_write(). */
MUST_CHECK int html_check_target(const char *path);

/* Write the page whole or not at all; "-": to standard output. */
MUST_CHECK int html_write(const char *path, struct bytes page);

#endif
