/*
 * A strict JSON (RFC 8259) pull parser, and a writer.
 *
 * The parser builds no tree: json_next() gives one event after the other. It refuses what is not
 * JSON, invalid UTF-8, lone surrogates, nesting deeper than LIMIT_JSON_DEPTH, anything after the
 * value, and a key that its object has already (found when the object ends). Memory: 16 bytes per
 * key of the objects that are open, at most LIMIT_JSON_KEYS (the array doubles: at most 64 MB, 96
 * MB where growing it means a copy), and as many bytes as the longest string with an escape takes
 * in the input. Time: n log n for n keys; keys made to have one hash cost their length times log n.
 */
#ifndef FORMAT_JSON_H
#define FORMAT_JSON_H

#include "format/buf.h"

enum json_event {
    JSON_OBJECT_BEGIN,
    JSON_OBJECT_END,
    JSON_ARRAY_BEGIN,
    JSON_ARRAY_END,
    JSON_KEY,    /* json->text */
    JSON_STRING, /* json->text */
    JSON_NUMBER, /* json->text: as written */
    JSON_TRUE,
    JSON_FALSE,
    JSON_NULL,
    JSON_END, /* the value is complete and nothing follows */
};

/* An exact integer, -2^63 .. 2^64-1. Zero is never negative. */
struct json_int {
    bool negative;
    uint64_t magnitude;
};

struct json_key {
    size_t offset; /* of the key's opening quote in the input */
    uint64_t hash; /* of the decoded key */
};

struct json {
    struct bytes input;
    size_t at;
    size_t token;      /* where in the input the last event began */
    struct bytes text; /* decoded; valid until the next json_next() */
    /* private */
    int state;
    unsigned depth;
    uint8_t stack[128];    /* per open container: object or array */
    size_t first_key[128]; /* per open container: its first entry in `keys` */
    struct json_key *keys;
    size_t key_count, key_cap;
    struct buf decoded;
};

#define AUTO_JSON(name) __attribute__((cleanup(json_release))) struct json name = {0}

void json_init(struct json *json, struct bytes input);
void json_release(struct json *json);

/* Errors: E_INVALID with the byte offset, E_LIMIT, E_NOMEM; called again, it fails again. After
   JSON_END: JSON_END again. */
MUST_CHECK int json_next(enum json_event *out, struct json *json);

/* json_next(), and E_INVALID unless the event is `wanted`. */
MUST_CHECK int json_expect(struct json *json, enum json_event wanted);

/* Skip the value that `event` began (nothing to do for a scalar). */
MUST_CHECK int json_skip(struct json *json, enum json_event event);

/* Skip the next value, whatever it is. */
MUST_CHECK int json_skip_value(struct json *json);

/* The number just seen, E_INVALID where it is no integer of that range ("1.0" and "1e3" are none;
   "-0" is 0). */
MUST_CHECK int json_get_int(struct json_int *out, const struct json *json);
MUST_CHECK int json_get_uint64(uint64_t *out, const struct json *json);

bool json_text_is(const struct json *json, const char *text);

/*
 * The writer appends to a buffer and puts the commas itself. The first failure is kept, later calls
 * do nothing, json_write_end() returns it: callers need not check every call.
 */
struct json_writer {
    struct buf *out;
    int err;
    unsigned depth;
    bool need_comma;
};

void json_write_init(struct json_writer *writer, struct buf *out);
void json_write_object_begin(struct json_writer *writer);
void json_write_object_end(struct json_writer *writer);
void json_write_array_begin(struct json_writer *writer);
void json_write_array_end(struct json_writer *writer);
void json_write_key(struct json_writer *writer, const char *key);
void json_write_key_bytes(struct json_writer *writer, struct bytes key);

/* Escaped as serde_json does: \" \\ \b \f \n \r \t, other controls \u00xx, DEL and the rest raw.
   Bytes that are not UTF-8 become U+FFFD. NULL text: null. */
void json_write_text(struct json_writer *writer, const char *text);
void json_write_bytes(struct json_writer *writer, struct bytes text);
void json_write_uint(struct json_writer *writer, uint64_t value);
void json_write_int(struct json_writer *writer, struct json_int value);
/* Shortest form that reads back the same double; null where it is not finite. */
void json_write_double(struct json_writer *writer, double value);
void json_write_bool(struct json_writer *writer, bool value);
void json_write_null(struct json_writer *writer);
/* A value that is JSON already, as it is. */
void json_write_raw(struct json_writer *writer, struct bytes json);
MUST_CHECK int json_write_end(struct json_writer *writer);

/* Length of the well-formed UTF-8 character (no surrogate, no overlong form) that the text begins
   with; 0 where it begins with none. */
size_t utf8_length(struct bytes text);

/* True where the bytes are well-formed UTF-8. */
bool utf8_valid(struct bytes text);

#endif
