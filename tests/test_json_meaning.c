/* Tests of format/json_meaning.c: what means the same, and how values are laid out (Python's own
   output beside it). */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "format/json_meaning.h"
#include "tests/fault.h"

static bool is_same(const char *a, const char *b, bool is_set)
{
    AUTO_BUF(of_a);
    AUTO_BUF(of_b);

    assert_int_equal(json_meaning(&of_a, text_bytes(a), is_set), 0);
    assert_int_equal(json_meaning(&of_b, text_bytes(b), is_set), 0);
    assert_true(of_a.len > 0);
    return bytes_equal(buf_bytes(&of_a), buf_bytes(&of_b));
}

static void test_what_means_the_same_is_equal(void **state)
{
    static const struct {
        const char *a, *b;
        bool same;
    } cases[] = {
        {"1", " 1 ", true},
        {"0.1", "1e-1", true},
        {"-0", "0", true},
        {"1", "2", false},
        {"1", "true", false},
        {"1", "\"1\"", false},
        {"null", "\"null\"", false},
        {"123456789012345678901234567890", "123456789012345678901234567891", false},
        {"\"a\"", "\"\\u0061\"", true},
        {"\"a\"", "\"b\"", false},
        {"\"\"", "null", false},
        {"[]", "{}", false},
        {"[]", "null", false},
        {"[]", "[[]]", false},
        {"[1, 2]", "[1,2]", true},
        {"[1, 2]", "[2, 1]", false},
        {"[1]", "[1, 1]", false},
        {"[[1], [2]]", "[[1, 2]]", false},
        {"{\"a\": 1, \"b\": [2]}", "{\"b\":[2],\"a\":1}", true},
        {"{\"a\": 1}", "{\"a\": 1, \"b\": null}", false},
        {"{\"a\": {\"b\": 1}}", "{\"a.b\": 1}", false},
        {"{\"a\": {\"b\": 1}}", "{\"a\\\".\\\"b\": 1}", false},
        {"{\"a\\n\": 1}", "{\"a\\u000a\": 1}", true},
        {"{\"a\": {}, \"b\": []}", "{\"b\": [], \"a\": {}}", true},
        {"{\"a\": {}}", "{\"a\": []}", false},
    };

    (void)state;
    for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
        if (is_same(cases[i].a, cases[i].b, false) != cases[i].same)
            fail_msg("%s and %s", cases[i].a, cases[i].b);
    }
}

static void test_the_order_of_a_set_does_not_count(void **state)
{
    (void)state;
    assert_true(is_same("[\"q\", \"v\"]", "[\"v\",\"q\"]", true));
    assert_true(is_same("[{\"a\": 1, \"b\": 2}]", "[{\"b\": 2, \"a\": 1}]", true));
    assert_false(is_same("[\"q\", \"v\"]", "[\"q\"]", true));
    assert_false(is_same("[\"q\", \"q\"]", "[\"q\"]", true));
    assert_false(is_same("[]", "[\"q\"]", true));
    assert_false(is_same("\"q\"", "[\"q\"]", true));
    /* Of the outermost list alone. */
    assert_false(is_same("[[1, 2]]", "[[2, 1]]", true));
}

static void test_what_is_no_value_is_refused(void **state)
{
    static const char *const cases[] = {"", "[1", "{\"a\"}", "1 2", "{\"a\": 1, \"a\": 2}", "nul"};
    AUTO_BUF(out);

    (void)state;
    for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
        assert_int_equal(json_meaning(&out, text_bytes(cases[i]), false), E_INVALID);
        assert_int_equal(out.len, 0);
    }
}

/* A long key around many leaves would be written again with each of them. */
static void test_a_hostile_value_takes_bounded_memory(void **state)
{
    enum { KEY = 1 << 20, LEAVES = 100000 };
    AUTO_BUF(text);
    AUTO_BUF(out);

    (void)state;
    assert_int_equal(buf_append_text(&text, "{\""), 0);
    assert_int_equal(buf_resize(&text, KEY), 0);
    memset(text.data + 2, 'k', KEY - 2);
    assert_int_equal(buf_append_text(&text, "\": ["), 0);
    for (int i = 0; i < LEAVES; i++)
        assert_int_equal(buf_append_text(&text, i ? ",1" : "1"), 0);
    assert_int_equal(buf_append_text(&text, "]}"), 0);
    fault_largest = 0;
    assert_int_equal(json_meaning(&out, buf_bytes(&text), false), E_LIMIT);
    assert_true(fault_largest <= 256 << 20);
}

static void test_values_are_laid_out_as_python_does(void **state)
{
    static const struct {
        const char *value;
        unsigned depth;
        const char *laid_out;
    } cases[] = {
        {" 1e3 ", 0, "1e3"},
        {"\"a\\u00e4\"", 3, "\"a\\u00e4\""},
        {"[]", 1, "[]"},
        {"{ }", 1, "{}"},
        {"[1,2]", 1, "[\n    1,\n    2\n  ]"},
        {"{\"b\":[{}, []],\"a\":{\"c\":null}}", 0,
         "{\n  \"b\": [\n    {},\n    []\n  ],\n  \"a\": {\n    \"c\": null\n  }\n}"},
    };

    (void)state;
    for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
        AUTO_BUF(out);
        assert_int_equal(json_indent(&out, text_bytes(cases[i].value), cases[i].depth), 0);
        assert_string_equal(buf_text(&out), cases[i].laid_out);
    }
}

static void test_memory_that_ends_is_an_error(void **state)
{
    static const char value[] = "{\"a\": [1, \"x\", {\"b\": 0.5}], \"c\": {}}";

    (void)state;
    for (int n = 0;; n++) {
        AUTO_BUF(meaning);
        AUTO_BUF(text);
        fault_after = n;
        int err = json_meaning(&meaning, text_bytes(value), false);
        if (err == 0)
            err = json_indent(&text, text_bytes(value), 0);
        bool is_through = fault_after >= 0;
        fault_after = -1;
        if (is_through) {
            assert_int_equal(err, 0);
            assert_true(n > 5);
            return;
        }
        assert_int_equal(err, E_NOMEM);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_what_means_the_same_is_equal),
        cmocka_unit_test(test_the_order_of_a_set_does_not_count),
        cmocka_unit_test(test_what_is_no_value_is_refused),
        cmocka_unit_test(test_a_hostile_value_takes_bounded_memory),
        cmocka_unit_test(test_values_are_laid_out_as_python_does),
        cmocka_unit_test(test_memory_that_ends_is_an_error),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
