/*
 * The header of a safetensors file. See safetensors.h.
 *
 * Read once, straight into the table. The header's own length bounds what that takes: a name is no
 * longer than the bytes that spell it, a dimension is two of them or more and a tensor nineteen. So
 * the arrays grow as tensors are seen, and never beyond what the text could hold.
 *
 * What serde makes of the reference code's structs is accepted with it: an entry as an array, a
 * dtype as {"F32": null}, fields that nobody knows. The latter are read through, since the
 * reference code refuses a number in them that no double can hold, and nesting that is deeper than
 * its own.
 */
#include "format/safetensors.h"

#include <assert.h>
#include <inttypes.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "format/json.h"
#include "format/limits.h"

#define PREFIX_BYTES    8
#define METADATA        "__metadata__"
#define DEPTH_MAX       127 /* serde_json's */
#define TENSOR_TEXT_MIN 19  /* bytes of "":["U8",[],[0,1]], */
#define NAME_SHOWN_MAX  200 /* bytes of a name in a message */

enum field { FIELD_DTYPE, FIELD_SHAPE, FIELD_OFFSETS, FIELD_COUNT };

static const char *const field_names[FIELD_COUNT] = {"dtype", "shape", "data_offsets"};

struct reader {
    struct json *json;
    struct safetensors *table;
    size_t tensor_cap, tensors_max;
    size_t shape_count, shape_cap, shapes_max;
};

static int cut_short(int err)
{
    return error_hint(err, "the file is not whole: copy it or save it again");
}

int safetensors_header_size(uint64_t *out, struct bytes prefix, uint64_t file_bytes)
{
    uint64_t size = 0;

    if (prefix.len < PREFIX_BYTES || file_bytes < PREFIX_BYTES)
        return cut_short(error_set(E_INVALID, "not a safetensors file: it has less than 8 bytes"));
    /* What a clone without git-lfs has in the file's place. */
    if (memcmp(prefix.data, "version ", PREFIX_BYTES) == 0) {
        int err = error_set(E_INVALID, "only a pointer to the file, as git-lfs keeps it");
        return error_hint(err, "fetch the file itself: git lfs pull");
    }
    for (unsigned i = 0; i < PREFIX_BYTES; i++)
        size |= (uint64_t)prefix.data[i] << (8 * i);
    if (size > LIMIT_SAFETENSORS_HEADER)
        return error_set(
            E_LIMIT, "the header claims %" PRIu64 " bytes, at most %" PRIu64 " are allowed", size,
            LIMIT_SAFETENSORS_HEADER
        );
    if (size > file_bytes - PREFIX_BYTES)
        return cut_short(error_set(
            E_INVALID, "the header claims %" PRIu64 " bytes, the file ends after %" PRIu64, size,
            file_bytes - PREFIX_BYTES
        ));
    *out = PREFIX_BYTES + size;
    return 0;
}

/* Reading */

static int malformed(const struct reader *reader, const char *why)
{
    return error_set(E_INVALID, "JSON, byte %zu: %s", reader->json->token, why);
}

/* Room for one more element of an array that holds at most `max`. */
static int capped_grow(void **array, size_t *cap, size_t count, size_t max, size_t size)
{
    if (count < *cap)
        return 0;
    assert(count < max);
    size_t grown = *cap < 16 ? 16 : *cap + *cap / 2;
    if (grown > max)
        grown = max;
    void *moved = realloc(*array, grown * size);
    if (!moved)
        return error_set(E_NOMEM, "out of memory for %zu elements", grown);
    *array = moved;
    *cap = grown;
    return 0;
}

/* Does the number fit a double? A text without an exponent and this short does. */
static int finite_check(const struct reader *reader)
{
    struct bytes text = reader->json->text;
    AUTO_BUF(copy);

    if (text.len <= 300 && !memchr(text.data, 'e', text.len) && !memchr(text.data, 'E', text.len))
        return 0;
    int err = buf_append(&copy, text.data, text.len);
    if (err < 0)
        return err;
    const char *number = buf_text(&copy);
    if (!number)
        return error_wrap(E_NOMEM, "a number");
    return isfinite(strtod(number, NULL)) ? 0 : malformed(reader, "a number out of range");
}

/* Read through a value that means nothing. */
static int value_skip(struct reader *reader)
{
    struct json *json = reader->json;
    unsigned depth = json->depth;
    enum json_event event;
    int err;

    do {
        if ((err = json_next(&event, json)) < 0)
            return err;
        if (json->depth > DEPTH_MAX)
            return error_set(
                E_LIMIT, "JSON, byte %zu: nested deeper than %d", json->token, DEPTH_MAX
            );
        if (event == JSON_NUMBER && (err = finite_check(reader)) < 0)
            return err;
    } while (json->depth > depth);
    return 0;
}

/* The number that `event` is. -0 is a float to the reference code. */
static int number_read(uint64_t *out, const struct reader *reader, enum json_event event)
{
    if (event != JSON_NUMBER || reader->json->text.data[0] == '-' ||
        json_get_uint64(out, reader->json) < 0)
        return malformed(reader, "an integer from 0 to 2^64-1 is expected");
    return 0;
}

static int dtype_name_read(struct tensor *tensor, const struct reader *reader)
{
    int err = dtype_parse(&tensor->dtype, reader->json->text);

    return err < 0 ? error_wrap(err, "JSON, byte %zu", reader->json->token) : 0;
}

/* "F32", or {"F32": null} as serde takes it too. */
static int dtype_read(struct tensor *tensor, struct reader *reader)
{
    enum json_event event;
    int err = json_next(&event, reader->json);

    if (err < 0)
        return err;
    if (event == JSON_STRING)
        return dtype_name_read(tensor, reader);
    if (event != JSON_OBJECT_BEGIN)
        return malformed(reader, "the name of a dtype is expected");
    if ((err = json_expect(reader->json, JSON_KEY)) < 0 ||
        (err = dtype_name_read(tensor, reader)) < 0 ||
        (err = json_expect(reader->json, JSON_NULL)) < 0)
        return err;
    return json_expect(reader->json, JSON_OBJECT_END);
}

/* The dimensions go behind those of the tensors before; where that is, shapes_place() says. */
static int shape_read(struct tensor *tensor, struct reader *reader)
{
    enum json_event event;
    int err = json_expect(reader->json, JSON_ARRAY_BEGIN);

    if (err < 0)
        return err;
    while ((err = json_next(&event, reader->json)) == 0 && event != JSON_ARRAY_END) {
        uint64_t size = 0;
        void *shapes = reader->table->shapes;
        if ((err = number_read(&size, reader, event)) < 0 ||
            (err = capped_grow(
                 &shapes, &reader->shape_cap, reader->shape_count, reader->shapes_max, sizeof(size)
             )) < 0)
            return err;
        reader->table->shapes = shapes;
        reader->table->shapes[reader->shape_count++] = size;
        tensor->dims++;
    }
    return err;
}

static int offsets_read(struct tensor *tensor, struct reader *reader)
{
    uint64_t *ends[] = {&tensor->begin, &tensor->end};
    enum json_event event;
    int err = json_expect(reader->json, JSON_ARRAY_BEGIN);

    for (size_t i = 0; err == 0 && i < 2; i++) {
        if ((err = json_next(&event, reader->json)) == 0)
            err = number_read(ends[i], reader, event);
    }
    return err < 0 ? err : json_expect(reader->json, JSON_ARRAY_END);
}

static int field_read(struct tensor *tensor, struct reader *reader, enum field field)
{
    switch (field) {
    case FIELD_DTYPE:
        return dtype_read(tensor, reader);
    case FIELD_SHAPE:
        return shape_read(tensor, reader);
    case FIELD_OFFSETS:
        return offsets_read(tensor, reader);
    case FIELD_COUNT:
        break;
    }
    return value_skip(reader);
}

/* FIELD_COUNT for one that is not known. */
static enum field field_of(const struct json *json)
{
    enum field field = FIELD_DTYPE;

    while (field < FIELD_COUNT && !json_text_is(json, field_names[field]))
        field++;
    return field;
}

static int object_read(struct tensor *tensor, struct reader *reader)
{
    bool seen[FIELD_COUNT + 1] = {false};
    enum json_event event;
    int err;

    while ((err = json_next(&event, reader->json)) == 0 && event == JSON_KEY) {
        enum field field = field_of(reader->json);
        seen[field] = true;
        if ((err = field_read(tensor, reader, field)) < 0)
            return err;
    }
    for (size_t i = 0; err == 0 && i < FIELD_COUNT; i++) {
        if (!seen[i])
            return error_set(E_INVALID, "it has no %s", field_names[i]);
    }
    return err;
}

static int array_read(struct tensor *tensor, struct reader *reader)
{
    int err;

    for (enum field field = FIELD_DTYPE; field < FIELD_COUNT; field++) {
        if ((err = field_read(tensor, reader, field)) < 0)
            return err;
    }
    return json_expect(reader->json, JSON_ARRAY_END);
}

static int entry_read(struct tensor *tensor, struct reader *reader)
{
    enum json_event event;
    int err = json_next(&event, reader->json);

    if (err < 0)
        return err;
    if (event == JSON_OBJECT_BEGIN)
        return object_read(tensor, reader);
    if (event == JSON_ARRAY_BEGIN)
        return array_read(tensor, reader);
    return malformed(reader, "a tensor's entry is expected");
}

static int tensor_wrap(int err, const struct tensor *tensor)
{
    int shown = tensor->name_len < NAME_SHOWN_MAX ? (int)tensor->name_len : NAME_SHOWN_MAX;

    return err == E_NOMEM ? err : error_wrap(err, "tensor '%.*s'", shown, tensor->name);
}

/* The tensor whose key was just seen. Names never move: there is room for all of the header. */
static int tensor_read(struct reader *reader)
{
    struct safetensors *table = reader->table;
    struct bytes name = reader->json->text;
    void *tensors = table->tensors;
    int err;

    if (table->count >= LIMIT_TENSORS)
        return error_set(E_LIMIT, "more than %" PRIu64 " tensors", LIMIT_TENSORS);
    err = capped_grow(
        &tensors, &reader->tensor_cap, table->count, reader->tensors_max, sizeof(struct tensor)
    );
    if (err < 0)
        return err;
    table->tensors = tensors;
    struct tensor *tensor = &table->tensors[table->count++];
    *tensor = (struct tensor
    ){.name = (const char *)table->names.data + table->names.len, .name_len = name.len};
    if ((err = buf_append(&table->names, name.data, name.len)) < 0 ||
        (err = buf_append_byte(&table->names, 0)) < 0)
        return err;
    return (err = entry_read(tensor, reader)) < 0 ? tensor_wrap(err, tensor) : 0;
}

/* Texts by texts, or null; they are not kept. */
static int metadata_read(struct reader *reader)
{
    enum json_event event;
    int err = json_next(&event, reader->json);

    if (err < 0 || event == JSON_NULL)
        return err;
    if (event != JSON_OBJECT_BEGIN)
        return malformed(reader, METADATA " is no object");
    while ((err = json_next(&event, reader->json)) == 0 && event == JSON_KEY) {
        if ((err = json_expect(reader->json, JSON_STRING)) < 0)
            return error_wrap(err, METADATA);
    }
    return err;
}

static int header_read(struct reader *reader)
{
    enum json_event event;
    int err = json_expect(reader->json, JSON_OBJECT_BEGIN);

    if (err < 0)
        return err;
    while ((err = json_next(&event, reader->json)) == 0 && event == JSON_KEY) {
        bool is_metadata = json_text_is(reader->json, METADATA);
        if ((err = is_metadata ? metadata_read(reader) : tensor_read(reader)) < 0)
            return err;
    }
    return err < 0 ? err : json_expect(reader->json, JSON_END);
}

/* Order */

static int name_compare(const struct tensor *a, const struct tensor *b)
{
    size_t len = a->name_len < b->name_len ? a->name_len : b->name_len;
    int order = memcmp(a->name, b->name, len);

    return order ? order : (a->name_len > b->name_len) - (a->name_len < b->name_len);
}

static int place_compare(const void *left, const void *right)
{
    const struct tensor *a = left, *b = right;

    if (a->begin != b->begin)
        return a->begin < b->begin ? -1 : 1;
    if (a->end != b->end)
        return a->end < b->end ? -1 : 1;
    return name_compare(a, b);
}

static int name_compare_indirect(const void *left, const void *right)
{
    const struct tensor *const *a = left, *const *b = right;

    return name_compare(*a, *b);
}

/* The array of shapes grew while it was filled, in the order of the tensors: it is at rest now. */
static void shapes_place(struct safetensors *table)
{
    size_t at = 0;

    for (size_t i = 0; i < table->count; i++) {
        if (table->shapes)
            table->tensors[i].shape = table->shapes + at;
        at += table->tensors[i].dims;
    }
}

static int names_sort(struct safetensors *table)
{
    AUTO_FREE(const struct tensor *, sorted);

    sorted = array_new(table->count, sizeof(*sorted));
    table->by_name = array_new(table->count, sizeof(*table->by_name));
    if (!sorted || !table->by_name)
        return error_wrap(E_NOMEM, "names");
    for (size_t i = 0; i < table->count; i++)
        sorted[i] = &table->tensors[i];
    qsort(sorted, table->count, sizeof(*sorted), name_compare_indirect);
    for (size_t i = 0; i < table->count; i++)
        table->by_name[i] = (uint32_t)(sorted[i] - table->tensors);
    return 0;
}

/* What the shape takes, in bytes; false where that overflows or is no whole number of them. */
static bool shape_bytes(uint64_t *out, const struct tensor *tensor)
{
    uint64_t bits = 1;

    for (unsigned i = 0; i < tensor->dims; i++) {
        if (__builtin_mul_overflow(bits, tensor->shape[i], &bits))
            return false;
    }
    if (__builtin_mul_overflow(bits, (uint64_t)dtype_bits(tensor->dtype), &bits) || bits % 8)
        return false;
    *out = bits / 8;
    return true;
}

static int tensor_check(const struct tensor *tensor, uint64_t start)
{
    uint64_t bytes;

    if (tensor->begin != start || tensor->end < start)
        return error_set(
            E_INVALID, "it is at %" PRIu64 " to %" PRIu64 ", and %" PRIu64 " is the next byte",
            tensor->begin, tensor->end, start
        );
    if (!shape_bytes(&bytes, tensor))
        return error_set(
            E_INVALID, "its shape in %s overflows or is no whole number of bytes",
            dtype_name(tensor->dtype)
        );
    if (bytes != tensor->end - start)
        return error_set(
            E_INVALID, "%s of its shape takes %" PRIu64 " bytes, it has %" PRIu64,
            dtype_name(tensor->dtype), bytes, tensor->end - start
        );
    return 0;
}

/* The tensors cover what is behind the header, each as long as it says. */
static int cover_check(const struct safetensors *table)
{
    uint64_t start = 0;

    for (size_t i = 0; i < table->count; i++) {
        int err = tensor_check(&table->tensors[i], start);
        if (err < 0)
            return tensor_wrap(err, &table->tensors[i]);
        start = table->tensors[i].end;
    }
    if (start == table->data_bytes)
        return 0;
    int err = error_set(
        E_INVALID, "the tensors take %" PRIu64 " bytes, the file has %" PRIu64 " for them", start,
        table->data_bytes
    );
    return start > table->data_bytes ? cut_short(err) : err;
}

static int table_read(struct safetensors *table, struct bytes text)
{
    AUTO_JSON(json);
    int err;

    json_init(&json, text);
    struct reader reader = {
        .json = &json,
        .table = table,
        .tensors_max = text.len / TENSOR_TEXT_MIN + 1,
        .shapes_max = text.len / 2,
    };
    if ((err = buf_reserve(&table->names, text.len)) == 0)
        err = header_read(&reader);
    if (err < 0)
        return err;
    shapes_place(table);
    if (table->count)
        qsort(table->tensors, table->count, sizeof(*table->tensors), place_compare);
    if ((err = cover_check(table)) < 0)
        return err;
    return names_sort(table);
}

int safetensors_decode(struct safetensors *out, struct bytes header, uint64_t file_bytes)
{
    AUTO_SAFETENSORS(table);
    int err = safetensors_header_size(&table.header_bytes, header, file_bytes);

    if (err < 0)
        return err;
    if (header.len < table.header_bytes)
        return error_set(
            E_INVALID, "the header has %" PRIu64 " bytes, and only %zu are there",
            table.header_bytes, header.len
        );
    table.data_bytes = file_bytes - table.header_bytes;
    struct bytes text = {header.data + PREFIX_BYTES, (size_t)table.header_bytes - PREFIX_BYTES};
    if ((err = table_read(&table, text)) < 0)
        return error_wrap(err, "header");
    *out = table;
    table = (struct safetensors){0};
    return 0;
}

void safetensors_release(struct safetensors *table)
{
    free(table->tensors);
    free(table->by_name);
    free(table->shapes);
    buf_release(&table->names);
    *table = (struct safetensors){0};
}

const struct tensor *safetensors_find(const struct safetensors *table, const char *name)
{
    const struct tensor wanted = {.name = name, .name_len = strlen(name)};

    for (size_t low = 0, high = table->count; low < high;) {
        size_t middle = low + (high - low) / 2;
        const struct tensor *tensor = &table->tensors[table->by_name[middle]];
        int order = name_compare(&wanted, tensor);
        if (order == 0)
            return tensor;
        if (order < 0)
            high = middle;
        else
            low = middle + 1;
    }
    return NULL;
}

uint64_t tensor_values(const struct tensor *tensor)
{
    uint64_t values = 1;

    for (unsigned i = 0; i < tensor->dims; i++)
        values *= tensor->shape[i];
    return values;
}

uint64_t tensor_bytes(const struct tensor *tensor)
{
    return tensor->end - tensor->begin;
}

/* Writing */

static void tensor_write(struct json_writer *writer, const struct tensor *tensor)
{
    json_write_key_bytes(writer, (struct bytes){(const uint8_t *)tensor->name, tensor->name_len});
    json_write_object_begin(writer);
    json_write_key(writer, field_names[FIELD_DTYPE]);
    json_write_text(writer, dtype_name(tensor->dtype));
    json_write_key(writer, field_names[FIELD_SHAPE]);
    json_write_array_begin(writer);
    for (unsigned i = 0; i < tensor->dims; i++)
        json_write_uint(writer, tensor->shape[i]);
    json_write_array_end(writer);
    json_write_key(writer, field_names[FIELD_OFFSETS]);
    json_write_array_begin(writer);
    json_write_uint(writer, tensor->begin);
    json_write_uint(writer, tensor->end);
    json_write_array_end(writer);
    json_write_object_end(writer);
}

static void format_write(struct json_writer *writer)
{
    json_write_key(writer, METADATA);
    json_write_object_begin(writer);
    json_write_key(writer, "format");
    json_write_text(writer, "pt");
    json_write_object_end(writer);
}

/* Copy an object of texts; the parser stands before it. */
static int texts_copy(struct json_writer *writer, struct json *json)
{
    enum json_event event;
    int err = json_next(&event, json);

    if (err < 0 || event != JSON_OBJECT_BEGIN) /* null: none */
        return err;
    json_write_key(writer, METADATA);
    json_write_object_begin(writer);
    while ((err = json_next(&event, json)) == 0 && event == JSON_KEY) {
        json_write_key_bytes(writer, json->text);
        if ((err = json_expect(json, JSON_STRING)) < 0)
            return err;
        json_write_bytes(writer, json->text);
    }
    json_write_object_end(writer);
    return err;
}

static int metadata_copy(struct json_writer *writer, struct bytes header)
{
    AUTO_JSON(json);
    enum json_event event;

    json_init(&json, (struct bytes){header.data + PREFIX_BYTES, header.len - PREFIX_BYTES});
    int err = json_expect(&json, JSON_OBJECT_BEGIN);
    while (err == 0 && (err = json_next(&event, &json)) == 0 && event == JSON_KEY) {
        if (json_text_is(&json, METADATA))
            return texts_copy(writer, &json);
        err = json_skip_value(&json);
    }
    return err;
}

/* `like`: empty, or the header whose metadata is copied. */
static int
text_write(struct buf *out, struct bytes like, const struct tensor *tensors, size_t count)
{
    struct json_writer writer;
    int err = 0;

    json_write_init(&writer, out);
    json_write_object_begin(&writer);
    if (like.len)
        err = metadata_copy(&writer, like);
    else
        format_write(&writer);
    for (size_t i = 0; err == 0 && i < count; i++)
        tensor_write(&writer, &tensors[i]);
    json_write_object_end(&writer);
    return err < 0 ? err : json_write_end(&writer);
}

int safetensors_encode(struct buf *out, const struct tensor *tensors, size_t count)
{
    return safetensors_encode_like(out, (struct bytes){0}, tensors, count);
}

int safetensors_encode_like(
    struct buf *out, struct bytes header, const struct tensor *tensors, size_t count
)
{
    AUTO_BUF(text);
    uint8_t prefix[PREFIX_BYTES];
    int err = text_write(&text, header, tensors, count);

    while (err == 0 && text.len % 8)
        err = buf_append_byte(&text, ' ');
    if (err < 0)
        return err;
    if (text.len > LIMIT_SAFETENSORS_HEADER)
        return error_set(
            E_LIMIT, "a header of %zu bytes, at most %" PRIu64 " are allowed", text.len,
            LIMIT_SAFETENSORS_HEADER
        );
    for (unsigned i = 0; i < PREFIX_BYTES; i++)
        prefix[i] = (uint8_t)((uint64_t)text.len >> (8 * i));
    if ((err = buf_reserve(out, PREFIX_BYTES + text.len)) < 0 ||
        (err = buf_append(out, prefix, sizeof(prefix))) < 0)
        return err;
    return buf_append(out, text.data, text.len);
}
