/*
 * The JSON parser. See json.h.
 *
 * One state says what may come next, a stack of 128 bytes which containers are open; nothing
 * recurses. A call that fails leaves the parser where the fault is, so that the next one fails in
 * the same way. Strings are checked where they lie and only copied where they hold an escape.
 *
 * Duplicates: of each key only its place and a hash are kept. When an object ends, its keys are put
 * in order by hash, and by decoded text where hashes are equal: heapsort, because it takes no
 * memory and has no bad case, and two equal keys are compared with each other on the way. So a file
 * made to collide pays for the comparisons, never for their square.
 */
#include "format/json.h"

#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

#include "format/limits.h"

enum state {
    STATE_VALUE,
    STATE_FIRST_ELEMENT, /* a value, or the end of the array */
    STATE_FIRST_KEY,     /* a key, or the end of the object */
    STATE_KEY,
    STATE_COLON,
    STATE_AFTER, /* a value is complete: a comma or the container's end; at depth 0 nothing */
    STATE_DONE,
};

enum { OBJECT = '}', ARRAY = ']' }; /* in the stack: what ends the container */

_Static_assert(sizeof(((struct json *)0)->stack) == LIMIT_JSON_DEPTH, "one byte per container");
_Static_assert(
    sizeof(((struct json *)0)->first_key) == LIMIT_JSON_DEPTH * sizeof(size_t),
    "one entry per container"
);
_Static_assert(sizeof(struct json_key) == 16, "json.h says so");

void json_init(struct json *json, struct bytes input)
{
    *json = (struct json){.input = input, .state = STATE_VALUE};
}

void json_release(struct json *json)
{
    free(json->keys);
    buf_release(&json->decoded);
    *json = (struct json){0};
}

static int invalid(size_t at, const char *why)
{
    return error_set(E_INVALID, "JSON, byte %zu: %s", at, why);
}

/* The byte at `at`, -1 behind the end. */
static int byte_at(const struct json *json, size_t at)
{
    return at < json->input.len ? json->input.data[at] : -1;
}

static int peek(struct json *json)
{
    int c;

    while ((c = byte_at(json, json->at)) == ' ' || c == '\n' || c == '\r' || c == '\t')
        json->at++;
    return c;
}

static bool is_digit(int c)
{
    return c >= '0' && c <= '9';
}

/* Strings */

enum { NOT_HEX = 0x10000 };

/* The four hex digits at `at`, or NOT_HEX. */
static uint32_t hex_at(const struct json *json, size_t at)
{
    uint32_t value = 0;

    for (size_t i = 0; i < 4; i++) {
        int c = byte_at(json, at + i), letter = c | 0x20;
        if (is_digit(c))
            value = value << 4 | (uint32_t)(c - '0');
        else if (c >= 0 && letter >= 'a' && letter <= 'f')
            value = value << 4 | (uint32_t)(letter - 'a' + 10);
        else
            return NOT_HEX;
    }
    return value;
}

/* Length of the escape that begins at `at`: 2, 6, or 12 for a pair of surrogates. */
static int check_escape(size_t *len, const struct json *json, size_t at)
{
    int c = byte_at(json, at + 1);

    if (c != 'u') {
        if (c <= 0 || !strchr("\"\\/bfnrt", c))
            return invalid(at, "unknown escape");
        *len = 2;
        return 0;
    }
    uint32_t unit = hex_at(json, at + 2);
    if (unit == NOT_HEX)
        return invalid(at, "\\u needs four hexadecimal digits");
    *len = 6;
    if (unit < 0xd800 || unit > 0xdfff)
        return 0;
    bool pair = byte_at(json, at + 6) == '\\' && byte_at(json, at + 7) == 'u';
    uint32_t low = pair ? hex_at(json, at + 8) : NOT_HEX;
    if (unit > 0xdbff || low < 0xdc00 || low > 0xdfff)
        return invalid(at, "a surrogate without its other half");
    *len = 12;
    return 0;
}

/* Check the string whose opening quote is at `at`. *raw: what is between the quotes. */
static int check_string(struct bytes *raw, bool *escaped, const struct json *json, size_t at)
{
    size_t i = at + 1, len;

    *escaped = false;
    for (int c; (c = byte_at(json, i)) != '"'; i += len) {
        len = 1;
        if (c < 0)
            return invalid(i, "the text ends inside a string");
        if (c < 0x20)
            return invalid(i, "a control character inside a string");
        if (c == '\\') {
            int err = check_escape(&len, json, i);
            if (err < 0)
                return err;
            *escaped = true;
        } else if (c >= 0x80) {
            len = utf8_length((struct bytes){json->input.data + i, json->input.len - i});
            if (len == 0)
                return invalid(i, "not UTF-8");
        }
    }
    *raw = (struct bytes){json->input.data + at + 1, i - at - 1};
    return 0;
}

static size_t encode_utf8(uint8_t out[4], uint32_t c)
{
    static const uint8_t lead[5] = {0, 0, 0xc0, 0xe0, 0xf0};
    size_t n = c < 0x80 ? 1 : c < 0x800 ? 2 : c < 0x10000 ? 3 : 4;

    for (size_t i = n - 1; i > 0; i--) {
        out[i] = (uint8_t)(0x80 | (c & 0x3f));
        c >>= 6;
    }
    out[0] = (uint8_t)(lead[n] | c);
    return n;
}

/* Decode the byte or the escape at *at of a string that was checked: 1-4 bytes; *at moves on. */
static size_t decode_unit(uint8_t out[4], const struct json *json, size_t *at)
{
    static const char escapes[] = "b\bf\fn\nr\rt\t";
    const uint8_t *p = json->input.data + *at;

    if (p[0] != '\\') {
        *at += 1;
        out[0] = p[0];
        return 1;
    }
    if (p[1] != 'u') {
        const char *pair = strchr(escapes, p[1]);
        *at += 2;
        out[0] = pair ? (uint8_t)pair[1] : p[1];
        return 1;
    }
    uint32_t c = hex_at(json, *at + 2);
    *at += 6;
    if (c >= 0xd800 && c <= 0xdbff) {
        c = 0x10000 + ((c - 0xd800) << 10) + hex_at(json, *at + 2) - 0xdc00;
        *at += 6;
    }
    return encode_utf8(out, c);
}

static int decode(struct json *json, size_t at, struct bytes raw)
{
    size_t end = at + raw.len;

    json->decoded.len = 0;
    int err = buf_reserve(&json->decoded, raw.len); /* no unit grows by being decoded */
    if (err < 0)
        return err;
    while (at < end) {
        uint8_t unit[4];
        size_t n = decode_unit(unit, json, &at);
        memcpy(json->decoded.data + json->decoded.len, unit, n);
        json->decoded.len += n;
    }
    json->text = buf_bytes(&json->decoded);
    return 0;
}

/* The string at json->at: its text, decoded. */
static int read_string(struct json *json)
{
    bool escaped;
    struct bytes raw;
    int err = check_string(&raw, &escaped, json, json->at);

    if (err == 0 && escaped)
        err = decode(json, json->at + 1, raw);
    else if (err == 0)
        json->text = raw;
    if (err == 0)
        json->at += raw.len + 2;
    return err;
}

/* Keys */

static uint64_t hash_of(struct bytes text)
{
    uint64_t hash = UINT64_C(0xcbf29ce484222325); /* FNV-1a */

    for (size_t i = 0; i < text.len; i++)
        hash = (hash ^ text.data[i]) * UINT64_C(0x100000001b3);
    return hash;
}

static int reserve_key(struct json *json)
{
    if (json->key_count >= LIMIT_JSON_KEYS)
        return error_set(
            E_LIMIT, "JSON, byte %zu: more than %" PRIu64 " keys in open objects", json->at,
            LIMIT_JSON_KEYS
        );
    if (json->key_count < json->key_cap)
        return 0;
    size_t cap = json->key_cap ? 2 * json->key_cap : 16;
    cap = cap < LIMIT_JSON_KEYS ? cap : LIMIT_JSON_KEYS;
    struct json_key *grown = realloc(json->keys, cap * sizeof(*grown));
    if (!grown)
        return error_set(E_NOMEM, "out of memory for %zu keys", cap);
    json->keys = grown;
    json->key_cap = cap;
    return 0;
}

static int compare_texts(const struct json *json, size_t a, size_t b)
{
    uint8_t unit_a[4], unit_b[4];
    size_t len_a = 0, len_b = 0, used_a = 0, used_b = 0;

    for (a++, b++;;) {
        bool more_a = used_a < len_a || json->input.data[a] != '"';
        bool more_b = used_b < len_b || json->input.data[b] != '"';
        if (!more_a || !more_b)
            return more_a - more_b;
        if (used_a == len_a) {
            len_a = decode_unit(unit_a, json, &a);
            used_a = 0;
        }
        if (used_b == len_b) {
            len_b = decode_unit(unit_b, json, &b);
            used_b = 0;
        }
        int difference = unit_a[used_a++] - unit_b[used_b++];
        if (difference)
            return difference;
    }
}

static int compare_keys(const struct json *json, struct json_key a, struct json_key b)
{
    if (a.hash != b.hash)
        return a.hash < b.hash ? -1 : 1;
    return compare_texts(json, a.offset, b.offset);
}

static int duplicate(struct json_key a, struct json_key b)
{
    return invalid(a.offset > b.offset ? a.offset : b.offset, "the object has this key already");
}

static void swap(struct json_key *a, struct json_key *b)
{
    struct json_key taken = *a;

    *a = *b;
    *b = taken;
}

/* Let keys[at] sink until both below it are smaller. Equal keys are an error. */
static int sift(const struct json *json, struct json_key *keys, size_t at, size_t count)
{
    for (size_t child; (child = 2 * at + 1) < count; at = child) {
        if (child + 1 < count) {
            int order = compare_keys(json, keys[child], keys[child + 1]);
            if (order == 0)
                return duplicate(keys[child], keys[child + 1]);
            child += order < 0;
        }
        int order = compare_keys(json, keys[at], keys[child]);
        if (order == 0)
            return duplicate(keys[at], keys[child]);
        if (order > 0)
            break;
        swap(&keys[at], &keys[child]);
    }
    return 0;
}

static int check_duplicates(const struct json *json, struct json_key *keys, size_t count)
{
    int err = 0;

    for (size_t i = count / 2; err == 0 && i > 0; i--)
        err = sift(json, keys, i - 1, count);
    for (size_t left = count; err == 0 && left > 1; left--) {
        swap(&keys[0], &keys[left - 1]);
        err = sift(json, keys, 0, left - 1);
    }
    return err;
}

/* Events */

static int read_key(enum json_event *out, struct json *json)
{
    int err;

    if (byte_at(json, json->at) != '"')
        return invalid(json->at, "a key is expected");
    if ((err = reserve_key(json)) < 0 || (err = read_string(json)) < 0)
        return err;
    json->keys[json->key_count++] = (struct json_key){json->token, hash_of(json->text)};
    json->state = STATE_COLON;
    *out = JSON_KEY;
    return 0;
}

static int read_number(enum json_event *out, struct json *json)
{
    size_t at = json->at + (byte_at(json, json->at) == '-'), digits = at;

    while (is_digit(byte_at(json, at)))
        at++;
    if (at == digits)
        return invalid(at, "a digit is expected");
    if (at - digits > 1 && json->input.data[digits] == '0')
        return invalid(digits, "a number with a leading zero");
    if (byte_at(json, at) == '.') {
        if (!is_digit(byte_at(json, ++at)))
            return invalid(at, "a digit is expected");
        while (is_digit(byte_at(json, at)))
            at++;
    }
    if ((byte_at(json, at) | 0x20) == 'e') {
        at++;
        at += byte_at(json, at) == '+' || byte_at(json, at) == '-';
        if (!is_digit(byte_at(json, at)))
            return invalid(at, "a digit is expected");
        while (is_digit(byte_at(json, at)))
            at++;
    }
    json->text = (struct bytes){json->input.data + json->at, at - json->at};
    json->at = at;
    json->state = STATE_AFTER;
    *out = JSON_NUMBER;
    return 0;
}

static int
read_literal(enum json_event *out, struct json *json, const char *text, enum json_event event)
{
    size_t len = strlen(text);

    if (json->input.len - json->at < len || memcmp(json->input.data + json->at, text, len) != 0)
        return invalid(json->at, "a value is expected");
    json->at += len;
    json->state = STATE_AFTER;
    *out = event;
    return 0;
}

static int open_container(enum json_event *out, struct json *json, bool object)
{
    if (json->depth == LIMIT_JSON_DEPTH)
        return error_set(
            E_LIMIT, "JSON, byte %zu: nested deeper than %d", json->at, LIMIT_JSON_DEPTH
        );
    json->stack[json->depth] = object ? OBJECT : ARRAY;
    json->first_key[json->depth++] = json->key_count;
    json->at++;
    json->state = object ? STATE_FIRST_KEY : STATE_FIRST_ELEMENT;
    *out = object ? JSON_OBJECT_BEGIN : JSON_ARRAY_BEGIN;
    return 0;
}

static int close_container(enum json_event *out, struct json *json)
{
    bool object = json->stack[json->depth - 1] == OBJECT;
    size_t first = json->first_key[json->depth - 1];

    if (object && json->key_count > first) {
        int err = check_duplicates(json, json->keys + first, json->key_count - first);
        if (err < 0)
            return err;
    }
    json->key_count = first;
    json->depth--;
    json->at++;
    json->state = STATE_AFTER;
    *out = object ? JSON_OBJECT_END : JSON_ARRAY_END;
    return 0;
}

static int read_value(enum json_event *out, struct json *json, int c)
{
    int err;

    switch (c) {
    case '{':
    case '[':
        return open_container(out, json, c == '{');
    case '"':
        if ((err = read_string(json)) < 0)
            return err;
        json->state = STATE_AFTER;
        *out = JSON_STRING;
        return 0;
    case 't':
        return read_literal(out, json, "true", JSON_TRUE);
    case 'f':
        return read_literal(out, json, "false", JSON_FALSE);
    case 'n':
        return read_literal(out, json, "null", JSON_NULL);
    default:
        if (c == '-' || is_digit(c))
            return read_number(out, json);
        return invalid(json->at, c < 0 ? "the text ends early" : "a value is expected");
    }
}

/* After a value: the end of its container, or of everything. */
static int read_end(enum json_event *out, struct json *json, int c)
{
    if (json->depth > 0) {
        if (c == json->stack[json->depth - 1])
            return close_container(out, json);
        return invalid(json->at, c < 0 ? "the text ends early" : "a comma or the end is expected");
    }
    if (c >= 0)
        return invalid(json->at, "something follows the value");
    json->state = STATE_DONE;
    *out = JSON_END;
    return 0;
}

/* The comma or the colon that may come before the next event. */
static int read_separator(struct json *json)
{
    int c = peek(json);

    if (json->state == STATE_COLON) {
        if (c != ':')
            return invalid(json->at, "a colon is expected");
        json->at++;
        json->state = STATE_VALUE;
    } else if (json->state == STATE_AFTER && json->depth > 0 && c == ',') {
        json->at++;
        json->state = json->stack[json->depth - 1] == OBJECT ? STATE_KEY : STATE_VALUE;
    }
    return 0;
}

int json_next(enum json_event *out, struct json *json)
{
    int err = read_separator(json);

    if (err < 0)
        return err;
    int c = peek(json);
    json->token = json->at;
    switch ((enum state)json->state) {
    case STATE_FIRST_KEY:
        return c == OBJECT ? close_container(out, json) : read_key(out, json);
    case STATE_KEY:
        return read_key(out, json);
    case STATE_FIRST_ELEMENT:
        return c == ARRAY ? close_container(out, json) : read_value(out, json, c);
    case STATE_AFTER:
        return read_end(out, json, c);
    case STATE_DONE:
        *out = JSON_END;
        return 0;
    case STATE_COLON:
    case STATE_VALUE:
        break;
    }
    return read_value(out, json, c);
}

int json_expect(struct json *json, enum json_event wanted)
{
    static const char *const names[] = {
        [JSON_OBJECT_BEGIN] = "an object is expected",
        [JSON_OBJECT_END] = "the end of the object is expected",
        [JSON_ARRAY_BEGIN] = "an array is expected",
        [JSON_ARRAY_END] = "the end of the array is expected",
        [JSON_KEY] = "a key is expected",
        [JSON_STRING] = "a string is expected",
        [JSON_NUMBER] = "a number is expected",
        [JSON_TRUE] = "true is expected",
        [JSON_FALSE] = "false is expected",
        [JSON_NULL] = "null is expected",
        [JSON_END] = "the end is expected",
    };
    enum json_event event;
    int err = json_next(&event, json);

    if (err < 0)
        return err;
    return event == wanted ? 0 : invalid(json->token, names[wanted]);
}

int json_skip(struct json *json, enum json_event event)
{
    if (event != JSON_OBJECT_BEGIN && event != JSON_ARRAY_BEGIN)
        return 0;
    unsigned depth = json->depth;
    while (json->depth >= depth) {
        int err = json_next(&event, json);
        if (err < 0)
            return err;
    }
    return 0;
}

int json_skip_value(struct json *json)
{
    enum json_event event;
    int err = json_next(&event, json);

    return err < 0 ? err : json_skip(json, event);
}

int json_get_int(struct json_int *out, const struct json *json)
{
    struct bytes text = json->text;
    size_t i = text.len && text.data[0] == '-';
    bool negative = i > 0, fits = i < text.len;
    uint64_t value = 0;

    for (; fits && i < text.len; i++)
        fits = is_digit(text.data[i]) && !__builtin_mul_overflow(value, 10, &value) &&
               !__builtin_add_overflow(value, (uint64_t)(text.data[i] - '0'), &value);
    if (!fits || (negative && value > UINT64_C(1) << 63))
        return invalid(json->token, "an integer from -2^63 to 2^64-1 is expected");
    *out = (struct json_int){negative && value > 0, value};
    return 0;
}

int json_get_uint64(uint64_t *out, const struct json *json)
{
    struct json_int value;
    int err = json_get_int(&value, json);

    if (err < 0)
        return err;
    if (value.negative)
        return invalid(json->token, "an integer from 0 to 2^64-1 is expected");
    *out = value.magnitude;
    return 0;
}

bool json_text_is(const struct json *json, const char *text)
{
    return bytes_equal(json->text, text_bytes(text));
}
