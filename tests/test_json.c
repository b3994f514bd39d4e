/* Tests of format/json.c, json_write.c and utf8.c. Events are written down as one line of text. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>
#include <math.h>

#include "format/file.h"
#include "format/json.h"
#include "format/limits.h"
#include "tests/fault.h"

#define COUNT_OF(array) (sizeof(array) / sizeof((array)[0]))
#define BYTES(text)     ((struct bytes){(const uint8_t *)(text), sizeof(text) - 1})

static void must(int err)
{
    if (err < 0)
        fail_msg("%s", error_message());
}

/* {"a":[1,"b"]} is "{ a: [ 1 'b' ] } ." */
static int events_of(struct buf *out, struct bytes input)
{
    static const char *const fixed[] = {
        [JSON_OBJECT_BEGIN] = "{ ", [JSON_OBJECT_END] = "} ", [JSON_ARRAY_BEGIN] = "[ ",
        [JSON_ARRAY_END] = "] ",    [JSON_TRUE] = "true ",    [JSON_FALSE] = "false ",
        [JSON_NULL] = "null ",      [JSON_END] = ".",
    };
    AUTO_JSON(json);
    enum json_event event;
    int err;

    json_init(&json, input);
    do {
        if ((err = json_next(&event, &json)) < 0) {
            assert_int_equal(json_next(&event, &json), err);
            return err;
        }
        bool scalar = event == JSON_KEY || event == JSON_STRING || event == JSON_NUMBER;
        if (event == JSON_STRING)
            must(buf_append_byte(out, '\''));
        if (scalar)
            must(buf_append(out, json.text.data, json.text.len));
        must(buf_append_text(
            out, event == JSON_KEY      ? ": "
                 : event == JSON_STRING ? "' "
                 : scalar               ? " "
                                        : fixed[event]
        ));
    } while (event != JSON_END);
    must(json_next(&event, &json));
    assert_int_equal(event, JSON_END);
    return 0;
}

/* Only whether it is JSON. */
static int check(struct bytes input)
{
    AUTO_JSON(json);
    int err;

    json_init(&json, input);
    return (err = json_skip_value(&json)) < 0 ? err : json_expect(&json, JSON_END);
}

/* A copy of exact size on the heap: a read behind the end is seen by the sanitizer. */
static int check_exact(struct bytes input)
{
    AUTO_BUF(copy);
    must(buf_append(&copy, input.data, input.len));
    return check((struct bytes){copy.data, input.len});
}

static void every_form_gives_its_events(void **state)
{
    (void)state;
    static const struct {
        const char *input, *events;
    } cases[] = {
        {"{}", "{ } ."},
        {"[]", "[ ] ."},
        {" \t\r\n{ } \n", "{ } ."},
        {"{\"a\":[1,\"b\"]}", "{ a: [ 1 'b' ] } ."},
        {"[true,false,null]", "[ true false null ] ."},
        {"true", "true ."},
        {"\"\"", "'' ."},
        {"0", "0 ."},
        {"-0", "-0 ."},
        {"[ 1 , 2 ]", "[ 1 2 ] ."},
        {"[0.5,-1.25e+10,3E-2,1e5,10]", "[ 0.5 -1.25e+10 3E-2 1e5 10 ] ."},
        {"123456789012345678901234567890", "123456789012345678901234567890 ."},
        {"1e400", "1e400 ."},
        {"{\"a\":{},\"b\":[[]]}", "{ a: { } b: [ [ ] ] } ."},
        {"{\"a\" : {\"a\":1} , \"b\":{\"a\":2}}", "{ a: { a: 1 } b: { a: 2 } } ."},
        {"[{\"a\":1},{\"a\":1}]", "[ { a: 1 } { a: 1 } ] ."},
        {"{\"\":1}", "{ : 1 } ."},
        {"\"\\\"\\\\\\/\\b\\f\\n\\r\\t\"", "'\"\\/\b\f\n\r\t' ."},
        {"\"\\u0041\\u00e9\\u20AC\\ud83d\\uDE00\"", "'A\xc3\xa9\xe2\x82\xac\xf0\x9f\x98\x80' ."},
        {"\"\\uFFFF\\uD7ff\\ue000\"", "'\xef\xbf\xbf\xed\x9f\xbf\xee\x80\x80' ."},
        {"\"\xc3\xa9\xe2\x82\xac\xf0\x9f\x98\x80\x7f\"",
         "'\xc3\xa9\xe2\x82\xac\xf0\x9f\x98\x80\x7f' ."},
        {"{\"\\u0061\":1,\"b\\n\":\"c\"}", "{ a: 1 b\n: 'c' } ."},
    };
    for (size_t i = 0; i < COUNT_OF(cases); i++) {
        AUTO_BUF(events);
        must(events_of(&events, text_bytes(cases[i].input)));
        assert_string_equal(buf_text(&events), cases[i].events);
    }
}

static void a_nul_in_a_string_is_text(void **state)
{
    (void)state;
    AUTO_BUF(events);
    must(events_of(&events, text_bytes("{\"a\\u0000b\":\"\\u0000\"}")));
    assert_true(bytes_equal(buf_bytes(&events), BYTES("{ a\0b: '\0' } .")));
}

/* What is not JSON, and the byte that says so. */
static const struct {
    struct bytes input;
    size_t at;
} not_json[] = {
    {{(const uint8_t *)"", 0}, 0},
    {{NULL, 0}, 0},
    {{(const uint8_t *)"  ", 2}, 2},
    {{(const uint8_t *)"{}\0", 3}, 2},
    {{(const uint8_t *)"\0{}", 3}, 0},
    {{(const uint8_t *)"\xef\xbb\xbf{}", 5}, 0},
    {{(const uint8_t *)"\"a\0\"", 4}, 2},
#define CASE(text, at)                                                                             \
    {                                                                                              \
        {(const uint8_t *)(text), sizeof(text) - 1}, at                                            \
    }
    CASE("{}{}", 2),
    CASE("1 2", 2),
    CASE("[1]]", 3),
    CASE("{", 1),
    CASE("[", 1),
    CASE("[1", 2),
    CASE("[1,", 3),
    CASE("[,1]", 1),
    CASE("[1,]", 3),
    CASE("[1 2]", 3),
    CASE("[1}", 2),
    CASE("{\"a\":1]", 6),
    CASE("]", 0),
    CASE("}", 0),
    CASE(",", 0),
    CASE(":", 0),
    CASE("{,}", 1),
    CASE("{\"a\"}", 4),
    CASE("{\"a\",1}", 4),
    CASE("{\"a\":}", 5),
    CASE("{\"a\"::1}", 5),
    CASE("{\"a\":1,}", 7),
    CASE("{\"a\":1 \"b\":2}", 7),
    CASE("{a:1}", 1),
    CASE("{1:1}", 1),
    CASE("{'a':1}", 1),
    CASE("{null:1}", 1),
    CASE("[\"a\":1]", 4),
    CASE("nul", 0),
    CASE("nulL", 0),
    CASE("True", 0),
    CASE("truex", 4),
    CASE("NaN", 0),
    CASE("[Infinity]", 1),
    CASE("-Infinity", 1),
    CASE("-", 1),
    CASE("+1", 0),
    CASE(".5", 0),
    CASE("5.", 2),
    CASE("5.e1", 2),
    CASE("1e", 2),
    CASE("1e+", 3),
    CASE("1E-x", 3),
    CASE("01", 0),
    CASE("-01", 1),
    CASE("00", 0),
    CASE("[0x10]", 2),
    CASE("1_000", 1),
    CASE("/**/1", 0),
    CASE("\v1", 0),
    CASE(
        "\xc2\xa0"
        "1",
        0
    ),
    CASE("\"", 1),
    CASE("\"a", 2),
    CASE("\"\n\"", 1),
    CASE("\"\x1f\"", 1),
    CASE("\"\\x\"", 1),
    CASE("\"\\'\"", 1),
    CASE("\"\\", 1),
    CASE("\"\\\"", 3),
    CASE("\"\\u12\"", 1),
    CASE("\"\\u12g4\"", 1),
    CASE("\"\\U0041\"", 1),
    CASE("\"\\u+041\"", 1),
    CASE("\"\\ud800\"", 1),
    CASE("\"\\udc00\"", 1),
    CASE("\"\\ud800\\ud800\"", 1),
    CASE("\"\\ud800\\u0041\"", 1),
    CASE("\"\\ud800x\"", 1),
    CASE("\"\\ud800\\n\"", 1),
    CASE("\"\\udbff\\udbff\"", 1),
    CASE("\"\\ud83d\\ude0\"", 1),
    CASE("\"\x80\"", 1),
    CASE("\"\xc0\xaf\"", 1),
    CASE("\"\xe0\x80\x80\"", 1),
    CASE("\"\xed\xa0\x80\"", 1),
    CASE("\"\xf4\x90\x80\x80\"", 1),
    CASE("\"a\xff\"", 2),
    CASE("\"\xc3", 1),
    CASE("\"\xc3\"", 1),
    CASE("{\"\xe2\x82\":1}", 2),
#undef CASE
};

static void what_is_not_json_is_invalid_at_its_byte(void **state)
{
    (void)state;
    for (size_t i = 0; i < COUNT_OF(not_json); i++) {
        char where[32];
        AUTO_BUF(events);
        snprintf(where, sizeof(where), "byte %zu:", not_json[i].at);
        assert_int_equal(events_of(&events, not_json[i].input), E_INVALID);
        if (!strstr(error_message(), where))
            fail_msg("case %zu: '%s' does not name %s", i, error_message(), where);
        assert_int_equal(check_exact(not_json[i].input), E_INVALID);
    }
}

static void nested(struct buf *out, const char *open, const char *close, size_t depth)
{
    out->len = 0;
    for (size_t i = 0; i < depth; i++)
        must(buf_append_text(out, open));
    must(buf_append_text(out, "0"));
    for (size_t i = 0; i < depth; i++)
        must(buf_append_text(out, close));
}

static void nesting_ends_at_its_limit(void **state)
{
    (void)state;
    static const char *const forms[][2] = {{"[", "]"}, {"{\"a\":", "}"}, {"[{\"a\":", "}]"}};
    for (size_t i = 0; i < COUNT_OF(forms); i++) {
        size_t per_turn = i == 2 ? 2 : 1, turns = LIMIT_JSON_DEPTH / per_turn;
        AUTO_BUF(text);
        nested(&text, forms[i][0], forms[i][1], turns);
        must(check(buf_bytes(&text)));
        nested(&text, forms[i][0], forms[i][1], turns + 1);
        assert_int_equal(check(buf_bytes(&text)), E_LIMIT);
        nested(&text, forms[i][0], forms[i][1], 200000);
        assert_int_equal(check(buf_bytes(&text)), E_LIMIT);
    }
}

static void a_key_appears_once_in_its_object(void **state)
{
    (void)state;
    static const struct {
        const char *input;
        size_t at; /* of the second key; 0: there is none */
    } cases[] = {
        {"{\"a\":1,\"a\":1}", 7},
        {"{\"a\":1,\"b\":2,\"c\":3,\"a\":4}", 19},
        {"{\"a\":1,\"\\u0061\":1}", 7},
        {"{\"\\u0061\":1,\"a\":1}", 12},
        {"{\"/\":1,\"\\/\":1}", 7},
        {"{\"\xf0\x9f\x98\x80\":1,\"\\ud83d\\ude00\":1}", 10},
        {"{\"\":1,\"\":1}", 6},
        {"{\"a\":{\"b\":1,\"b\":2}}", 12},
        {"{\"a\":{\"a\":1},\"a\":2}", 13},
        {"[{\"a\":[],\"a\":[]}]", 9},
        {"{\"a\":{\"b\":1},\"b\":2}", 0},
        {"{\"a\":1,\"A\":2,\"\\u0000\":3,\"a\\u0000\":4,\"\\u0000a\":5}", 0},
        {"{\"ab\":1,\"a\":2,\"b\":3,\"\":4}", 0},
        /* Two keys that FNV-1a does not tell apart. */
        {"{\"^hu{p_]xq_w{e\":1,\"q`jenrbog^ahf\":2}", 0},
        {"{\"^hu{p_]xq_w{e\":1,\"q`jenrbog^ahf\":2,\"^hu{p_]xq_w{e\":3}", 37},
        {"{\"^hu{p_]xq_w{e\":1,\"q`jenrbog^ahf\":2,\"q`jenrbog^ahf\":3}", 37},
    };
    for (size_t i = 0; i < COUNT_OF(cases); i++) {
        char where[32];
        int err = check(text_bytes(cases[i].input));
        if (cases[i].at == 0)
            must(err);
        else
            assert_int_equal(err, E_INVALID);
        snprintf(where, sizeof(where), "byte %zu:", cases[i].at);
        if (err < 0 && !strstr(error_message(), where))
            fail_msg("case %zu: '%s' does not name %s", i, error_message(), where);
    }
}

/* {"aaaa":0,"aaab":0, ...}, in an order that is not sorted; one key twice where `twin` says. */
static void many_keys(struct buf *out, size_t count, bool twin)
{
    must(buf_append_text(out, "{"));
    for (size_t i = 0; i < count; i++) {
        size_t n = twin && i == count - 1 ? count / 3 : i;
        char key[] = "\"aaaa\":0,";
        for (size_t k = 1; k <= 4; k++, n /= 60)
            key[k] = (char)('A' + n % 60 + (n % 60 >= 27)); /* without the backslash */
        must(buf_append(out, key, 9));
    }
    out->data[out->len - 1] = '}';
}

static void any_number_of_keys_is_searched_for_twins(void **state)
{
    (void)state;
    for (size_t count = 2; count < 300; count++) {
        AUTO_BUF(unique);
        AUTO_BUF(twins);
        many_keys(&unique, count, false);
        many_keys(&twins, count, true);
        must(check(buf_bytes(&unique)));
        assert_int_equal(check(buf_bytes(&twins)), E_INVALID);
    }
}

/* The most that a header may be, of keys as short as different keys can be. */
static void the_largest_header_takes_what_the_documentation_says(void **state)
{
    (void)state;
    AUTO_BUF(unique);
    AUTO_BUF(twins);
    size_t count = (LIMIT_SAFETENSORS_HEADER - 1) / 9;
    many_keys(&unique, count, false);
    many_keys(&twins, count, true);
    fault_largest = 0;
    must(check(buf_bytes(&unique)));
    assert_int_equal(fault_largest, 16 * LIMIT_JSON_KEYS);
    assert_int_equal(check(buf_bytes(&twins)), E_INVALID);
}

static void keys_end_at_their_limit(void **state)
{
    (void)state;
    AUTO_BUF(text);
    many_keys(&text, LIMIT_JSON_KEYS, false);
    must(check(buf_bytes(&text)));
    text.data[text.len - 1] = ',';
    must(buf_append_text(&text, "\"last\":0}"));
    fault_largest = 0;
    assert_int_equal(check(buf_bytes(&text)), E_LIMIT);
    assert_int_equal(fault_largest, 16 * LIMIT_JSON_KEYS);
}

/* Keys of objects that have ended count no more. */
static void closed_objects_give_their_keys_back(void **state)
{
    (void)state;
    AUTO_BUF(text);
    must(buf_append_text(&text, "["));
    for (size_t i = 0; i < 100000; i++)
        must(buf_append_text(&text, "{\"a\":0,\"b\":{\"c\":0}},"));
    text.data[text.len - 1] = ']';
    fault_largest = 0;
    must(check(buf_bytes(&text)));
    assert_true(fault_largest <= 16 * sizeof(struct json_key));
}

static void integers_are_exact(void **state)
{
    (void)state;
    static const struct {
        const char *text;
        bool negative;
        uint64_t magnitude;
    } cases[] = {
        {"0", false, 0},
        {"-0", false, 0},
        {"1", false, 1},
        {"-1", true, 1},
        {"9007199254740993", false, UINT64_C(9007199254740993)},
        {"9223372036854775807", false, INT64_MAX},
        {"9223372036854775808", false, UINT64_C(1) << 63},
        {"-9223372036854775807", true, INT64_MAX},
        {"-9223372036854775808", true, UINT64_C(1) << 63},
        {"18446744073709551615", false, UINT64_MAX},
    };
    for (size_t i = 0; i < COUNT_OF(cases); i++) {
        AUTO_JSON(json);
        struct json_int value;
        uint64_t unsigned_value = 42;
        json_init(&json, text_bytes(cases[i].text));
        must(json_expect(&json, JSON_NUMBER));
        must(json_get_int(&value, &json));
        assert_int_equal(value.negative, cases[i].negative);
        assert_int_equal(value.magnitude, cases[i].magnitude);
        int err = json_get_uint64(&unsigned_value, &json);
        assert_int_equal(err, value.negative ? E_INVALID : 0);
        assert_int_equal(unsigned_value, value.negative ? 42 : value.magnitude);
    }
}

static void other_numbers_are_no_integers(void **state)
{
    (void)state;
    static const char *const cases[] = {
        "-9223372036854775809",
        "18446744073709551616",
        "18446744073709551620",
        "99999999999999999999",
        "184467440737095516150",
        "-18446744073709551615",
        "1.0",
        "1e3",
        "0.0",
        "1E0",
        "-1.5",
        "340282366920938463463374607431768211457",
    };
    for (size_t i = 0; i < COUNT_OF(cases); i++) {
        AUTO_JSON(json);
        struct json_int value = {true, 42};
        json_init(&json, text_bytes(cases[i]));
        must(json_expect(&json, JSON_NUMBER));
        assert_int_equal(json_get_int(&value, &json), E_INVALID);
        assert_true(value.negative && value.magnitude == 42);
    }
    AUTO_JSON(json);
    struct json_int value;
    json_init(&json, text_bytes("\"-\""));
    must(json_expect(&json, JSON_STRING));
    assert_int_equal(json_get_int(&value, &json), E_INVALID);
}

static void skipping_stands_behind_the_value(void **state)
{
    (void)state;
    AUTO_JSON(json);
    enum json_event event;
    json_init(&json, text_bytes("[{\"a\":[1,{\"b\":2}],\"c\":3},[[]],4,{}]"));
    must(json_expect(&json, JSON_ARRAY_BEGIN));
    must(json_next(&event, &json));
    must(json_skip(&json, event));
    must(json_skip_value(&json));
    must(json_expect(&json, JSON_NUMBER));
    assert_true(json_text_is(&json, "4"));
    assert_false(json_text_is(&json, "44"));
    assert_int_equal(json.token, 30);
    must(json_skip(&json, JSON_NUMBER));
    must(json_skip_value(&json));
    must(json_expect(&json, JSON_ARRAY_END));
    must(json_expect(&json, JSON_END));
    json_release(&json);
    json_init(&json, text_bytes("  []"));
    assert_int_equal(json_expect(&json, JSON_OBJECT_BEGIN), E_INVALID);
    assert_string_equal(error_message(), "JSON, byte 2: an object is expected");
}

/* Files that other programs made: a configuration and a header. */
static void real_text(struct buf *out, size_t i)
{
    static const char *const paths[] = {
        FIXTURES "/adapter/minilm/step-000/adapter_config.json",
        FIXTURES "/base/llama/model.safetensors.index.json",
        FIXTURES "/expected/expected.json",
    };
    must(file_read(out, paths[i], LIMIT_CONFIG));
}
enum { REAL_TEXTS = 3, SMALL_REAL_TEXTS = 2 };

static void real_files_are_read(void **state)
{
    (void)state;
    for (size_t i = 0; i < REAL_TEXTS; i++) {
        AUTO_BUF(text);
        real_text(&text, i);
        must(check(buf_bytes(&text)));
    }
}

static void every_truncation_is_invalid(void **state)
{
    (void)state;
    for (size_t i = 0; i < SMALL_REAL_TEXTS; i++) {
        AUTO_BUF(text);
        real_text(&text, i);
        while (text.len && text.data[text.len - 1] != '}')
            text.len--;
        for (size_t len = 0; len < text.len; len++)
            assert_int_equal(check_exact((struct bytes){text.data, len}), E_INVALID);
    }
}

static void every_flipped_bit_is_invalid_or_read(void **state)
{
    (void)state;
    size_t refused = 0, taken = 0;
    for (size_t i = 0; i < SMALL_REAL_TEXTS; i++) {
        AUTO_BUF(text);
        real_text(&text, i);
        for (size_t bit = 0; bit < 8 * text.len; bit++) {
            text.data[bit / 8] ^= (uint8_t)(1 << bit % 8);
            int err = check_exact(buf_bytes(&text));
            assert_true(err == 0 || err == E_INVALID);
            *(err ? &refused : &taken) += 1;
            text.data[bit / 8] ^= (uint8_t)(1 << bit % 8);
        }
    }
    assert_true(refused > 1000 && taken > 1000);
}

/* Unicode has 128, 1920, 61440 (without surrogates) and 1048576 characters of 1 to 4 bytes. */
static void utf8_has_as_many_characters_as_unicode(void **state)
{
    (void)state;
    size_t found[5] = {0};
    uint8_t text[4];
    for (uint32_t bits = 0; bits < 0x1000000; bits++) {
        for (size_t k = 0; k < 3; k++)
            text[k] = (uint8_t)(bits >> (16 - 8 * k));
        size_t n = utf8_length((struct bytes){text, 3});
        found[n] += n == 3 || (n == 2 && text[2] == 0) || (n == 1 && text[1] == 0 && text[2] == 0);
        if (text[0] < 0xf0)
            continue;
        /* Third and fourth byte count alike, so 64 of each that is taken makes all. */
        text[3] = 0x80;
        found[4] += utf8_length((struct bytes){text, 4}) == 4 ? 64 : 0;
        static const uint8_t outside[] = {0x00, 0x7f, 0xc0, 0xff};
        for (size_t k = 0; k < COUNT_OF(outside); k++) {
            text[3] = outside[k];
            assert_int_equal(utf8_length((struct bytes){text, 4}), 0);
        }
    }
    assert_int_equal(found[1], 128);
    assert_int_equal(found[2], 1920);
    assert_int_equal(found[3], 61440);
    assert_int_equal(found[4], 1048576);
}

static void a_cut_character_is_not_utf8(void **state)
{
    (void)state;
    static const char text[] = "\xf0\x9f\x98\x80";
    for (size_t len = 1; len < 4; len++)
        assert_false(utf8_valid((struct bytes){(const uint8_t *)text, len}));
    assert_true(utf8_valid(BYTES(text)));
    assert_true(utf8_valid((struct bytes){NULL, 0}));
    assert_int_equal(utf8_length((struct bytes){NULL, 0}), 0);
    assert_true(utf8_valid(BYTES("a\0b\xc3\xa9")));
    assert_false(utf8_valid(BYTES("a\xc3")));
}

static void write_everything(struct json_writer *writer)
{
    json_write_object_begin(writer);
    json_write_key(writer, "empty");
    json_write_object_begin(writer);
    json_write_object_end(writer);
    json_write_key(writer, "list");
    json_write_array_begin(writer);
    json_write_text(writer, "a\"\\\b\f\n\r\t\x01\x1f\x7f/\xc3\xa9");
    json_write_text(writer, NULL);
    json_write_bytes(writer, BYTES("nul\0"));
    json_write_bytes(writer, BYTES("bad\xff\xed\xa0\x80\xc3"));
    json_write_uint(writer, UINT64_MAX);
    json_write_int(writer, (struct json_int){true, UINT64_C(1) << 63});
    json_write_int(writer, (struct json_int){false, 0});
    json_write_double(writer, 0.1);
    json_write_double(writer, (double)NAN);
    json_write_double(writer, -(double)INFINITY);
    json_write_bool(writer, true);
    json_write_bool(writer, false);
    json_write_null(writer);
    json_write_array_begin(writer);
    json_write_array_end(writer);
    json_write_array_end(writer);
    json_write_key_bytes(writer, BYTES("k\n"));
    json_write_text(writer, "");
    json_write_object_end(writer);
}

static const char everything[] =
    "{\"empty\":{},\"list\":[\"a\\\"\\\\\\b\\f\\n\\r\\t\\u0001\\u001f\x7f/\xc3\xa9\",null,"
    "\"nul\\u0000\",\"bad\xef\xbf\xbd\xef\xbf\xbd\xef\xbf\xbd\xef\xbf\xbd\xef\xbf\xbd\","
    "18446744073709551615,-9223372036854775808,0,0.1,null,null,true,false,null,[]],\"k\\n\":\"\"}";

static void the_writer_writes_golden_text(void **state)
{
    (void)state;
    AUTO_BUF(out);
    struct json_writer writer;
    must(buf_append_text(&out, "> "));
    json_write_init(&writer, &out);
    write_everything(&writer);
    must(json_write_end(&writer));
    assert_string_equal(buf_text(&out) + 2, everything);
    must(check(text_bytes(everything)));
}

/* Every byte, and every character around the ends of a length, comes back from the parser. */
static void every_string_round_trips(void **state)
{
    (void)state;
    static const char *const ends[] = {
        "\xc2\x80",     "\xdf\xbf",     "\xe0\xa0\x80",     "\xed\x9f\xbf",
        "\xee\x80\x80", "\xef\xbf\xbf", "\xf0\x90\x80\x80", "\xf4\x8f\xbf\xbf",
    };
    for (size_t i = 0; i < 128 + COUNT_OF(ends); i++) {
        uint8_t byte = (uint8_t)i;
        struct bytes text = i < 128 ? (struct bytes){&byte, 1} : text_bytes(ends[i - 128]);
        AUTO_BUF(out);
        AUTO_JSON(json);
        struct json_writer writer;
        json_write_init(&writer, &out);
        json_write_bytes(&writer, text);
        must(json_write_end(&writer));
        json_init(&json, buf_bytes(&out));
        must(json_expect(&json, JSON_STRING));
        assert_true(bytes_equal(json.text, text));
        must(json_expect(&json, JSON_END));
    }
}

static void a_double_is_short_and_round_trips(void **state)
{
    (void)state;
    static const struct {
        double value;
        const char *text;
    } cases[] = {
        {0, "0"},
        {-0.0, "-0"},
        {1, "1"},
        {0.1, "0.1"},
        {0.1 + 0.2, "0.30000000000000004"},
        {1.0 / 3, "0.3333333333333333"},
        {100000, "100000"},
        {1e300, "1e+300"},
        {-2.5e-7, "-2.5e-07"},
        {1.7976931348623157e308, "1.7976931348623157e+308"},
        {4.9406564584124654e-324, "4.94065645841247e-324"},
    };
    for (size_t i = 0; i < COUNT_OF(cases); i++) {
        AUTO_BUF(out);
        struct json_writer writer;
        json_write_init(&writer, &out);
        json_write_double(&writer, cases[i].value);
        must(json_write_end(&writer));
        assert_string_equal(buf_text(&out), cases[i].text);
        must(check(buf_bytes(&out)));
    }
    for (uint64_t i = 0; i < 20000; i++) {
        uint64_t bits = i * UINT64_C(0x9e3779b97f4a7c15);
        double value;
        memcpy(&value, &bits, sizeof(value));
        if (!isfinite(value))
            continue;
        AUTO_BUF(out);
        struct json_writer writer;
        json_write_init(&writer, &out);
        json_write_double(&writer, value);
        must(json_write_end(&writer));
        assert_true(strtod(buf_text(&out), NULL) == value);
    }
}

static void every_allocation_failure_of_the_parser_is_reported(void **state)
{
    (void)state;
    AUTO_BUF(text);
    many_keys(&text, 100, false);
    text.data[text.len - 1] = ',';
    must(buf_append_text(&text, "\"\\u0041\":\"\\n\\n\\n\\n\\n\\n\\n\\n\\n\\n\\n\\n\\n\"}"));
    int err, n = 0;
    do {
        fault_after = n++;
        err = check(buf_bytes(&text));
        fault_after = -1;
        assert_true(err == 0 || err == E_NOMEM);
    } while (err != 0);
    assert_true(n > 5);
}

static void the_first_failure_of_the_writer_is_kept(void **state)
{
    (void)state;
    int err, n = 0;
    do {
        AUTO_BUF(out);
        struct json_writer writer;
        json_write_init(&writer, &out);
        fault_after = n++;
        write_everything(&writer);
        fault_after = -1;
        err = json_write_end(&writer);
        assert_true(err == 0 || err == E_NOMEM);
        assert_true(out.len == 0 || memcmp(out.data, everything, out.len) == 0);
    } while (err != 0);
    assert_true(n > 5);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(every_form_gives_its_events),
        cmocka_unit_test(a_nul_in_a_string_is_text),
        cmocka_unit_test(what_is_not_json_is_invalid_at_its_byte),
        cmocka_unit_test(nesting_ends_at_its_limit),
        cmocka_unit_test(a_key_appears_once_in_its_object),
        cmocka_unit_test(any_number_of_keys_is_searched_for_twins),
        cmocka_unit_test(the_largest_header_takes_what_the_documentation_says),
        cmocka_unit_test(keys_end_at_their_limit),
        cmocka_unit_test(closed_objects_give_their_keys_back),
        cmocka_unit_test(integers_are_exact),
        cmocka_unit_test(other_numbers_are_no_integers),
        cmocka_unit_test(skipping_stands_behind_the_value),
        cmocka_unit_test(real_files_are_read),
        cmocka_unit_test(every_truncation_is_invalid),
        cmocka_unit_test(every_flipped_bit_is_invalid_or_read),
        cmocka_unit_test(utf8_has_as_many_characters_as_unicode),
        cmocka_unit_test(a_cut_character_is_not_utf8),
        cmocka_unit_test(the_writer_writes_golden_text),
        cmocka_unit_test(every_string_round_trips),
        cmocka_unit_test(a_double_is_short_and_round_trips),
        cmocka_unit_test(every_allocation_failure_of_the_parser_is_reported),
        cmocka_unit_test(the_first_failure_of_the_writer_is_kept),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
