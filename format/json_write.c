/* The JSON writer. See json.h. */
#include "format/json.h"

#include <assert.h>
#include <inttypes.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static void append(struct json_writer *writer, const void *data, size_t len)
{
    if (writer->err == 0)
        writer->err = buf_append(writer->out, data, len);
}

/* What comes before a value or a key; after a key it is nothing. */
static void separate(struct json_writer *writer)
{
    if (writer->need_comma)
        append(writer, ",", 1);
    writer->need_comma = true;
}

static void write_literal(struct json_writer *writer, const char *text)
{
    separate(writer);
    append(writer, text, strlen(text));
}

static void begin(struct json_writer *writer, const char *bracket)
{
    write_literal(writer, bracket);
    writer->need_comma = false;
    writer->depth++;
}

static void end(struct json_writer *writer, const char *bracket)
{
    assert(writer->depth > 0);
    append(writer, bracket, 1);
    writer->need_comma = true;
    writer->depth--;
}

static void append_escaped(struct json_writer *writer, uint8_t byte)
{
    static const char letters[] = "\"\"\\\\\bb\ff\nn\rr\tt"; /* byte, letter */
    char escape[8];

    for (const char *pair = letters; *pair; pair += 2) {
        if ((uint8_t)pair[0] == byte) {
            append(writer, (const char[]){'\\', pair[1]}, 2);
            return;
        }
    }
    snprintf(escape, sizeof(escape), "\\u%04x", byte);
    append(writer, escape, 6);
}

static bool is_plain(uint8_t byte)
{
    return byte >= 0x20 && byte != '"' && byte != '\\';
}

static void append_string(struct json_writer *writer, struct bytes text)
{
    size_t done = 0;

    append(writer, "\"", 1);
    for (size_t i = 0; i < text.len;) {
        size_t n = utf8_length((struct bytes){text.data + i, text.len - i});
        if (n && is_plain(text.data[i])) {
            i += n;
            continue;
        }
        append(writer, text.data + done, i - done);
        if (n)
            append_escaped(writer, text.data[i]);
        else
            append(writer, "\xef\xbf\xbd", 3); /* U+FFFD */
        done = ++i;
    }
    if (text.len > done)
        append(writer, text.data + done, text.len - done);
    append(writer, "\"", 1);
}

void json_write_init(struct json_writer *writer, struct buf *out)
{
    *writer = (struct json_writer){.out = out};
}

void json_write_object_begin(struct json_writer *writer)
{
    begin(writer, "{");
}

void json_write_object_end(struct json_writer *writer)
{
    end(writer, "}");
}

void json_write_array_begin(struct json_writer *writer)
{
    begin(writer, "[");
}

void json_write_array_end(struct json_writer *writer)
{
    end(writer, "]");
}

void json_write_key(struct json_writer *writer, const char *key)
{
    json_write_key_bytes(writer, text_bytes(key));
}

void json_write_key_bytes(struct json_writer *writer, struct bytes key)
{
    assert(writer->depth > 0);
    separate(writer);
    append_string(writer, key);
    append(writer, ":", 1);
    writer->need_comma = false;
}

void json_write_text(struct json_writer *writer, const char *text)
{
    if (text)
        json_write_bytes(writer, text_bytes(text));
    else
        json_write_null(writer);
}

void json_write_bytes(struct json_writer *writer, struct bytes text)
{
    separate(writer);
    append_string(writer, text);
}

void json_write_uint(struct json_writer *writer, uint64_t value)
{
    json_write_int(writer, (struct json_int){false, value});
}

void json_write_int(struct json_writer *writer, struct json_int value)
{
    char text[24];

    snprintf(text, sizeof(text), "%s%" PRIu64, value.negative ? "-" : "", value.magnitude);
    write_literal(writer, text);
}

void json_write_double(struct json_writer *writer, double value)
{
    char text[40];

    if (!isfinite(value)) {
        json_write_null(writer);
        return;
    }
    for (int digits = 15; digits <= 17; digits++) {
        snprintf(text, sizeof(text), "%.*g", digits, value);
        if (strtod(text, NULL) == value)
            break;
    }
    write_literal(writer, text);
}

void json_write_bool(struct json_writer *writer, bool value)
{
    write_literal(writer, value ? "true" : "false");
}

void json_write_null(struct json_writer *writer)
{
    write_literal(writer, "null");
}

void json_write_raw(struct json_writer *writer, struct bytes json)
{
    separate(writer);
    append(writer, (const char *)json.data, json.len);
}

int json_write_end(struct json_writer *writer)
{
    assert(writer->depth == 0);
    return writer->err;
}
