#include "format/text.h"

#include <stdio.h>
#include <string.h>

#include "format/json.h"
#include "format/limits.h"

static bool is_control(uint8_t byte)
{
    return byte < 0x20 || byte == 0x7f;
}

/* U+0080..9F are the two bytes c2 80..9f; in valid UTF-8 c2 begins nothing else. */
static bool has_control(struct bytes text, bool lines)
{
    for (size_t i = 0; i < text.len; i++) {
        uint8_t byte = text.data[i];
        if (is_control(byte) && !(lines && byte == '\n'))
            return true;
        if (byte == 0xc2 && i + 1 < text.len && text.data[i + 1] < 0xa0)
            return true;
    }
    return false;
}

bool text_is_plain(struct bytes text)
{
    return utf8_valid(text) && !has_control(text, false);
}

void text_quote(char out[TEXT_QUOTE_SIZE], struct bytes text)
{
    bool plain = text_is_plain(text);
    size_t n = 0, i = 0;

    for (; i < text.len && n < TEXT_QUOTE_SIZE - 8; i++) {
        uint8_t byte = text.data[i];
        if (plain || (byte >= 0x20 && byte < 0x7f))
            out[n++] = (char)byte;
        else
            n += (size_t)snprintf(out + n, TEXT_QUOTE_SIZE - n, "\\x%02x", byte);
    }
    if (i < text.len) {
        while (plain && n && (text.data[i] & 0xc0) == 0x80) { /* do not cut inside a character */
            i--;
            n--;
        }
        memcpy(out + n, "...", 3);
        n += 3;
    }
    out[n] = '\0';
}

int text_error(const struct text *text, const char *why)
{
    return error_set(E_CORRUPT, "%s: line %zu: %s", text->noun, text->number, why);
}

/* Is `prefix` at the beginning of `text`, alone or with a space after it? */
static bool begins_with_word(struct bytes text, const char *prefix)
{
    size_t n = strlen(prefix);

    return text.len >= n && memcmp(text.data, prefix, n) == 0 &&
           (text.len == n || text.data[n] == ' ' || text.data[n] == '\n');
}

static void skip(struct bytes *text, size_t n)
{
    text->data += n;
    text->len -= n;
}

/* Move to the next line; there is one, and it ends with a newline. */
static void next_line(struct text *text)
{
    const uint8_t *end = memchr(text->rest.data, '\n', text->rest.len);
    size_t n = (size_t)(end - text->rest.data);

    text->line = (struct bytes){text->rest.data, n};
    skip(&text->rest, n + 1);
    text->number++;
}

int text_init(struct text *out, const char *noun, struct bytes input)
{
    struct text text = {.noun = noun, .rest = input};
    struct bytes version;
    int err;

    if (input.len > LIMIT_TEXT)
        return error_set(E_LIMIT, "%s: %zu bytes of text", noun, input.len);
    if (input.len == 0 || input.data[input.len - 1] != '\n')
        return error_set(E_CORRUPT, "%s: does not end with a newline", noun);
    if (!utf8_valid(input) || has_control(input, true))
        return error_set(E_CORRUPT, "%s: is not UTF-8 without control characters", noun);
    if ((err = text_line(&text, "verastore")) < 0)
        return err;
    if ((err = text_word(&version, &text)) < 0)
        return err;
    if (!bytes_equal(version, text_bytes(noun)))
        return text_error(&text, "is another kind of text");
    if ((err = text_rest(&version, &text)) < 0)
        return err;
    if (!bytes_equal(version, text_bytes("1")))
        return text_error(&text, "is of a version that this program does not know");
    *out = text;
    return 0;
}

bool text_more(const struct text *text)
{
    return text->rest.len > 0;
}

size_t text_lines_left(const struct text *text)
{
    size_t lines = 0;

    for (size_t i = 0; i < text->rest.len; i++)
        lines += text->rest.data[i] == '\n';
    return lines;
}

bool text_next_is(const struct text *text, const char *key)
{
    return begins_with_word(text->rest, key);
}

int text_line(struct text *text, const char *key)
{
    if (!text_more(text))
        return error_set(E_CORRUPT, "%s: ends before a line '%s'", text->noun, key);
    next_line(text);
    if (!begins_with_word(text->line, key))
        return error_set(
            E_CORRUPT, "%s: line %zu: '%s' is expected here", text->noun, text->number, key
        );
    skip(&text->line, strlen(key));
    return 0;
}

int text_word(struct bytes *out, struct text *text)
{
    if (text->line.len < 2 || text->line.data[0] != ' ' || text->line.data[1] == ' ')
        return text_error(text, "a field is missing or empty");
    skip(&text->line, 1);
    const uint8_t *space = memchr(text->line.data, ' ', text->line.len);
    size_t n = space ? (size_t)(space - text->line.data) : text->line.len;
    *out = (struct bytes){text->line.data, n};
    skip(&text->line, n);
    return 0;
}

bool text_parse_uint64(uint64_t *out, struct bytes digits)
{
    uint64_t value = 0;

    if (digits.len == 0 || (digits.len > 1 && digits.data[0] == '0'))
        return false;
    for (size_t i = 0; i < digits.len; i++) {
        uint8_t byte = digits.data[i];
        if (byte < '0' || byte > '9' || __builtin_mul_overflow(value, 10, &value) ||
            __builtin_add_overflow(value, (uint64_t)(byte - '0'), &value))
            return false;
    }
    *out = value;
    return true;
}

int text_uint64(uint64_t *out, struct text *text)
{
    struct bytes word = {0};
    int err = text_word(&word, text);

    if (err < 0)
        return err;
    if (!text_parse_uint64(out, word))
        return text_error(text, "is no decimal number without leading zeros");
    return 0;
}

int text_digest(struct digest *out, struct text *text)
{
    struct bytes word = {0};
    int err = text_word(&word, text);

    if (err < 0)
        return err;
    if (digest_parse(out, word) < 0)
        return text_error(text, "is no SHA-256 in lower-case hex digits");
    return 0;
}

int text_rest(struct bytes *out, struct text *text)
{
    if (text->line.len == 0 || text->line.data[0] != ' ')
        return text_error(text, "a field is missing");
    skip(&text->line, 1);
    *out = text->line;
    skip(&text->line, text->line.len);
    return 0;
}

int text_line_end(const struct text *text)
{
    if (text->line.len)
        return text_error(text, "has something after its last field");
    return 0;
}

int text_end(const struct text *text)
{
    if (text_more(text))
        return error_set(
            E_CORRUPT, "%s: line %zu: no such line belongs here", text->noun, text->number + 1
        );
    return 0;
}
