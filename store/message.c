/*
 * Messages of commits: cleaned as git cleans them, and their trailers.
 *
 * Trailers are the lines of the last paragraph, where it is not the first one and each of its lines
 * is "Key: value". git knows keys of letters, digits and dashes; names of metrics may hold more
 * ("Metric-eval_loss"), which git shows as text.
 */
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "format/json.h"
#include "store/internal.h"

#define METRIC "Metric-"

static struct bytes line_take(struct bytes *rest)
{
    const uint8_t *end = rest->len ? memchr(rest->data, '\n', rest->len) : NULL;
    struct bytes line = {rest->data, end ? (size_t)(end - rest->data) : rest->len};
    size_t taken = line.len + (end ? 1 : 0);

    *rest = (struct bytes){rest->data + taken, rest->len - taken};
    return line;
}

static struct bytes trimmed(struct bytes line)
{
    while (line.len && strchr(" \t\r\v\f", line.data[line.len - 1]))
        line.len--;
    return line;
}

/* Lines without spaces at their ends, no empty one at begin and end, never two of them. */
static int message_clean(struct buf *out, struct bytes message)
{
    bool gap = false;
    int err = 0;

    while (err == 0 && message.len) {
        struct bytes line = trimmed(line_take(&message));
        if (line.len && gap && out->len)
            err = buf_append_byte(out, '\n');
        gap = !line.len;
        if (err == 0 && line.len && (err = buf_append(out, line.data, line.len)) == 0)
            err = buf_append_byte(out, '\n');
    }
    return err;
}

/* "Key: value"; the key is printable ASCII without spaces. */
static bool trailer_parse(struct bytes *key, struct bytes *value, struct bytes line)
{
    const uint8_t *colon = line.len ? memchr(line.data, ':', line.len) : NULL;
    size_t n = colon ? (size_t)(colon - line.data) : 0;

    for (size_t i = 0; i < n; i++) {
        if (line.data[i] <= ' ' || line.data[i] >= 0x7f)
            return false;
    }
    if (!n || (line.len > n + 1 && line.data[n + 1] != ' '))
        return false;
    size_t skip = n + 1;
    while (skip < line.len && line.data[skip] == ' ')
        skip++;
    *key = (struct bytes){line.data, n};
    *value = trimmed((struct bytes){line.data + skip, line.len - skip});
    return true;
}

/* The trailers of a clean message: its last paragraph, or nothing. */
static struct bytes trailers_find(struct bytes message)
{
    struct bytes rest = message, last = {0}, key, value;
    bool after_gap = false;

    while (rest.len) {
        struct bytes line = line_take(&rest);
        if (!line.len)
            last = rest;
        after_gap |= !line.len;
    }
    for (rest = last; rest.len;) {
        if (!trailer_parse(&key, &value, line_take(&rest)))
            return (struct bytes){0};
    }
    return after_gap ? last : (struct bytes){0};
}

static int trailer_append(struct buf *out, const struct trailer *trailer)
{
    AUTO_BUF(line);
    struct bytes key, value;

    int err = buf_printf(&line, "%s: %s", trailer->key, trailer->value);
    if (err < 0)
        return err;
    if (strpbrk((const char *)line.data, "\r\n") || !utf8_valid(buf_bytes(&line)) ||
        !trailer_parse(&key, &value, buf_bytes(&line)) || key.len != strlen(trailer->key))
        return error_set(E_INVALID, "'%s' and its value make no trailer of one line", trailer->key);
    if ((err = buf_append(out, line.data, line.len)) == 0)
        err = buf_append_byte(out, '\n');
    return err;
}

int message_make(
    struct buf *out,
    const char *message,
    const char *fallback,
    const struct trailer *trailers,
    size_t count
)
{
    AUTO_BUF(made);
    int err;

    if (message && !utf8_valid(text_bytes(message)))
        return error_set(E_INVALID, "the message is not UTF-8");
    if ((err = message_clean(&made, text_bytes(message ? message : ""))) < 0)
        return err;
    if (!made.len && (err = buf_printf(&made, "%s\n", fallback)) < 0)
        return err;
    if (count && !trailers_find(buf_bytes(&made)).len)
        err = buf_append_byte(&made, '\n');
    for (size_t i = 0; err == 0 && i < count; i++)
        err = trailer_append(&made, &trailers[i]);
    if (err == 0)
        *out = buf_take(&made);
    return err;
}

/* A finite decimal number, and nothing else. */
static bool number_parse(double *out, struct bytes text)
{
    char digits[64], *end = NULL;

    if (!text.len || text.len >= sizeof(digits))
        return false;
    memcpy(digits, text.data, text.len);
    digits[text.len] = '\0';
    *out = strtod(digits, &end);
    return strspn(digits, "0123456789+-.eE") == text.len && !*end && isfinite(*out);
}

static int metric_add(struct version *version, struct bytes key, double value)
{
    size_t room = version->metric_count + 1, prefix = strlen(METRIC);
    struct version_metric *grown = realloc(version->metrics, room * sizeof(*grown));

    if (!grown)
        return error_set(E_NOMEM, "out of memory for %zu metrics", room);
    version->metrics = grown;
    char *name = bytes_dup((struct bytes){key.data + prefix, key.len - prefix});
    if (!name)
        return error_wrap(E_NOMEM, "metrics");
    version->metrics[version->metric_count++] = (struct version_metric){name, value};
    return 0;
}

int message_metrics(struct version *version, const char *message)
{
    AUTO_BUF(clean);
    struct bytes rest, key, value;
    double number;

    int err = message_clean(&clean, text_bytes(message));
    if (err < 0)
        return err;
    for (rest = trailers_find(buf_bytes(&clean)); err == 0 && rest.len;) {
        if (trailer_parse(&key, &value, line_take(&rest)) && key.len > strlen(METRIC) &&
            memcmp(key.data, METRIC, strlen(METRIC)) == 0 && number_parse(&number, value))
            err = metric_add(version, key, number);
    }
    return err;
}
