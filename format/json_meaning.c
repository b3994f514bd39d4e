/*
 * The meaning of a value is the sorted list of its leaves: one line for each string, number, true,
 * false, null and empty container, with the way that leads there. So nothing recurses, and an
 * object's keys need not be brought in order.
 */
#include "format/json_meaning.h"

#include <inttypes.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "format/limits.h"

/* The containers around a value. */
struct place {
    struct buf path; /* the way to the value that comes next */
    struct level {
        size_t path_len; /* of the container's own way */
        uint64_t count;  /* of what was in it so far */
        bool is_array, is_set;
    } levels[LIMIT_JSON_DEPTH];
    unsigned depth;
};

struct leaves {
    struct json json;
    struct place place;
    struct buf lines;
    struct buf starts; /* size_t each: where a line begins */
    bool is_set;
};

static void leaves_release(struct leaves *leaves)
{
    json_release(&leaves->json);
    buf_release(&leaves->place.path);
    buf_release(&leaves->lines);
    buf_release(&leaves->starts);
}

static int text_append(struct buf *out, struct bytes text)
{
    struct json_writer writer;

    json_write_init(&writer, out);
    json_write_bytes(&writer, text);
    return json_write_end(&writer);
}

static int number_append(struct buf *out, const struct json *json)
{
    struct json_writer writer;
    struct json_int integer;
    AUTO_BUF(text);

    json_write_init(&writer, out);
    int err = buf_append(&text, json->text.data, json->text.len);
    const char *digits = err < 0 ? NULL : buf_text(&text);
    if (!digits)
        return error_wrap(E_NOMEM, "JSON");
    double value = strtod(digits, NULL);
    if (json_get_int(&integer, json) == 0)
        json_write_int(&writer, integer);
    else if (!strpbrk(digits, ".eE") || !isfinite(value))
        return buf_append(out, json->text.data, json->text.len);
    else
        json_write_double(&writer, value);
    return json_write_end(&writer);
}

static int scalar_append(struct buf *out, const struct json *json, enum json_event event)
{
    switch (event) {
    case JSON_STRING:
        return text_append(out, json->text);
    case JSON_NUMBER:
        return number_append(out, json);
    case JSON_TRUE:
        return buf_append_text(out, "true");
    case JSON_FALSE:
        return buf_append_text(out, "false");
    case JSON_NULL:
        return buf_append_text(out, "null");
    case JSON_OBJECT_END:
        return buf_append_text(out, "{}");
    case JSON_ARRAY_END:
        return buf_append_text(out, "[]");
    case JSON_OBJECT_BEGIN:
    case JSON_ARRAY_BEGIN:
    case JSON_KEY:
    case JSON_END:
        break;
    }
    return error_set(E_INVALID, "JSON: a value is expected");
}

static int line_begin(struct leaves *leaves)
{
    int err = buf_append(&leaves->starts, &leaves->lines.len, sizeof(leaves->lines.len));

    if (leaves->lines.len + leaves->place.path.len > LIMIT_TEXT)
        return error_set(
            E_LIMIT, "JSON: compared it would take more than %" PRIu64 " bytes", LIMIT_TEXT
        );
    if (err == 0)
        err = buf_append(&leaves->lines, leaves->place.path.data, leaves->place.path.len);
    return err < 0 ? err : buf_append_byte(&leaves->lines, ' ');
}

static int leaf_add(struct leaves *leaves, enum json_event event)
{
    int err = line_begin(leaves);

    if (err < 0 || (err = scalar_append(&leaves->lines, &leaves->json, event)) < 0)
        return err;
    return buf_append_byte(&leaves->lines, '\n');
}

/* The step to the next element of an array. */
static int element_begin(struct place *place)
{
    struct level *level = place->depth ? &place->levels[place->depth - 1] : NULL;

    if (!level || !level->is_array)
        return 0;
    place->path.len = level->path_len;
    return level->is_set ? buf_append_text(&place->path, "[]")
                         : buf_printf(&place->path, "[%" PRIu64 "]", level->count);
}

static int key_begin(struct place *place, struct bytes key)
{
    place->path.len = place->levels[place->depth - 1].path_len;
    int err = buf_append_byte(&place->path, '.');
    return err < 0 ? err : text_append(&place->path, key);
}

static void value_end(struct place *place)
{
    if (place->depth)
        place->levels[place->depth - 1].count++;
}

static int event_take(struct leaves *leaves, enum json_event event)
{
    struct place *place = &leaves->place;
    bool begins = event == JSON_OBJECT_BEGIN || event == JSON_ARRAY_BEGIN;
    int err = 0;

    if (event == JSON_KEY)
        return key_begin(place, leaves->json.text);
    if (event == JSON_OBJECT_END || event == JSON_ARRAY_END) {
        const struct level *level = &place->levels[--place->depth];
        place->path.len = level->path_len;
        if (level->count == 0)
            err = leaf_add(leaves, event);
        value_end(place);
        return err;
    }
    if ((err = element_begin(place)) < 0)
        return err;
    if (begins) {
        bool is_array = event == JSON_ARRAY_BEGIN, is_set = is_array && leaves->is_set;
        place->levels[place->depth] = (struct level
        ){place->path.len, 0, is_array, is_set && place->depth == 0};
        place->depth++;
        return 0;
    }
    err = leaf_add(leaves, event);
    value_end(place);
    return err;
}

static int line_compare(const void *a, const void *b)
{
    const struct bytes *x = a, *y = b;
    int order = memcmp(x->data, y->data, x->len < y->len ? x->len : y->len);

    return order ? order : (x->len > y->len) - (x->len < y->len);
}

static int lines_join(struct buf *out, const struct leaves *leaves)
{
    size_t count = leaves->starts.len / sizeof(size_t);
    AUTO_FREE(struct bytes, lines);
    int err = buf_reserve(out, leaves->lines.len);

    if (err < 0)
        return err;
    if (!(lines = array_new(count, sizeof(*lines))))
        return error_wrap(E_NOMEM, "JSON");
    for (size_t i = 0; i < count; i++) {
        size_t begin, end = leaves->lines.len;
        memcpy(&begin, leaves->starts.data + i * sizeof(begin), sizeof(begin));
        if (i + 1 < count)
            memcpy(&end, leaves->starts.data + (i + 1) * sizeof(end), sizeof(end));
        lines[i] = (struct bytes){leaves->lines.data + begin, end - begin};
    }
    qsort(lines, count, sizeof(*lines), line_compare);
    for (size_t i = 0; err == 0 && i < count; i++)
        err = buf_append(out, lines[i].data, lines[i].len);
    return err;
}

int json_meaning(struct buf *out, struct bytes value, bool is_set)
{
    __attribute__((cleanup(leaves_release))) struct leaves leaves = {.is_set = is_set};
    enum json_event event;
    int err;

    json_init(&leaves.json, value);
    while ((err = json_next(&event, &leaves.json)) == 0 && event != JSON_END) {
        if ((err = event_take(&leaves, event)) < 0)
            return err;
    }
    return err < 0 ? err : lines_join(out, &leaves);
}

/* Printing */

int json_indent_line(struct buf *out, unsigned depth)
{
    int err = buf_append_byte(out, '\n');

    for (unsigned i = 0; err == 0 && i < depth; i++)
        err = buf_append_text(out, "  ");
    return err;
}

struct printer {
    struct json json;
    struct buf *out;
    unsigned depth;
    bool begun; /* the container has something in it */
    bool keyed; /* a key stands on this line already */
};

static void printer_release(struct printer *printer)
{
    json_release(&printer->json);
}

static int raw_print(struct printer *printer)
{
    const struct json *json = &printer->json;

    return buf_append(printer->out, json->input.data + json->token, json->at - json->token);
}

/* What stands before a key, or before a value that has none. */
static int item_begin(struct printer *printer, bool is_root)
{
    int err = 0;

    if (!printer->keyed && !is_root) {
        if (printer->begun)
            err = buf_append_byte(printer->out, ',');
        if (err == 0)
            err = json_indent_line(printer->out, printer->depth);
    }
    printer->keyed = false;
    return err;
}

static int event_print(struct printer *printer, enum json_event event, bool is_root)
{
    bool ends = event == JSON_OBJECT_END || event == JSON_ARRAY_END;
    int err;

    if (ends) {
        printer->depth--;
        err = printer->begun ? json_indent_line(printer->out, printer->depth) : 0;
    } else {
        err = item_begin(printer, is_root);
    }
    if (err < 0 || (err = raw_print(printer)) < 0)
        return err;
    printer->begun = true;
    if (event == JSON_OBJECT_BEGIN || event == JSON_ARRAY_BEGIN) {
        printer->depth++;
        printer->begun = false;
    }
    printer->keyed = event == JSON_KEY;
    return printer->keyed ? buf_append_text(printer->out, ": ") : 0;
}

int json_indent(struct buf *out, struct bytes value, unsigned depth)
{
    __attribute__((cleanup(printer_release))) struct printer printer = {.out = out, .depth = depth};
    enum json_event event;
    bool is_root = true;
    int err;

    json_init(&printer.json, value);
    while ((err = json_next(&event, &printer.json)) == 0 && event != JSON_END) {
        if ((err = event_print(&printer, event, is_root)) < 0)
            return err;
        is_root = false;
    }
    return err;
}
