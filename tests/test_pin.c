/* Tests of format/pin.c: golden bytes, the canonical rule, names, limits. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "format/limits.h"
#include "format/pin.h"
#include "tests/canonical.h"

#define HEX_0 "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855" /* of "" */
#define HEX_1 "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad" /* of "abc" */

#define HEAD "verastore pin 1\n"
#define MODULES                                                                                    \
    "module BF16 64x32 " HEX_0 " layers.0.q\nmodule F32 0x2147483648 " HEX_1 " layers.0.v\n"

static const struct {
    const char *name, *revision, *text;
} cases[] = {
    {"org/model", "main", HEAD "name org/model\nrevision main\n" MODULES},
    {"a name, with spaces ", NULL, HEAD "name a name, with spaces \n" MODULES},
    {NULL, "main", HEAD "revision main\n" MODULES},
    {NULL, NULL, HEAD MODULES},
    {"", "", HEAD "name \nrevision \n" MODULES}, /* empty is not missing */
};
#define CASE_COUNT (sizeof(cases) / sizeof(cases[0]))

static int recode(struct buf *out, struct bytes text)
{
    AUTO_PIN(pin);
    int err = pin_decode(&pin, text);

    return err < 0 ? err : pin_encode(out, &pin);
}

static char *dup_or_null(const char *text)
{
    return text ? strdup(text) : NULL;
}

static struct pin make_pin(const char *name, const char *revision)
{
    struct pin pin = {dup_or_null(name), dup_or_null(revision), calloc(2, sizeof(*pin.modules)), 2};

    assert_non_null(pin.modules);
    pin.modules[0] = (struct pin_module
    ){.name = strdup("layers.0.v"), .dtype = DTYPE_F32, .columns = LIMIT_FEATURES};
    pin.modules[1] = (struct pin_module
    ){.name = strdup("layers.0.q"), .dtype = DTYPE_BF16, .rows = 64, .columns = 32};
    assert_int_equal(digest_of(&pin.modules[0].digest, text_bytes("abc")), 0);
    assert_int_equal(digest_of(&pin.modules[1].digest, text_bytes("")), 0);
    return pin;
}

/* N1, N3 */
static void test_modules_in_any_order_give_the_golden_bytes(void **state)
{
    (void)state;
    for (size_t i = 0; i < CASE_COUNT; i++) {
        AUTO_PIN(pin);
        AUTO_BUF(text);
        pin = make_pin(cases[i].name, cases[i].revision);
        assert_int_equal(pin_encode(&text, &pin), 0);
        assert_text_equal(buf_bytes(&text), cases[i].text);
    }
}

static void test_decoding_finds_each_module(void **state)
{
    (void)state;
    AUTO_PIN(pin);
    assert_int_equal(pin_decode(&pin, text_bytes(cases[0].text)), 0);
    assert_string_equal(pin.name, "org/model");
    assert_string_equal(pin.revision, "main");
    assert_int_equal(pin.count, 2);
    const struct pin_module *q = pin_find(&pin, "layers.0.q"), *v = pin_find(&pin, "layers.0.v");
    assert_ptr_equal(q, &pin.modules[0]);
    assert_ptr_equal(v, &pin.modules[1]);
    assert_int_equal(q->dtype, DTYPE_BF16);
    assert_int_equal(q->rows, 64);
    assert_int_equal(q->columns, 32);
    assert_true(v->columns == LIMIT_FEATURES);
    assert_null(pin_find(&pin, "layers.0"));
    assert_null(pin_find(&pin, "layers.0.z"));
}

/* T1 - T6 */
static void test_only_canonical_text_is_taken(void **state)
{
    (void)state;
    for (size_t i = 0; i < CASE_COUNT; i++)
        assert_canonical(recode, cases[i].text);
    assert_true(is_taken(recode, text_bytes(HEAD)));
}

static const struct {
    const char *name, *text;
    int err;
} refused[] = {
    {"revision first", HEAD "revision a\nname b\n", E_CORRUPT},
    {"name twice", HEAD "name a\nname a\n", E_CORRUPT},
    {"name without field", HEAD "name\n", E_CORRUPT},
    {"a module twice", HEAD "module F32 1x1 " HEX_0 " a\nmodule F32 1x1 " HEX_0 " a\n", E_CORRUPT},
    {"out of order", HEAD "module F32 1x1 " HEX_0 " b\nmodule F32 1x1 " HEX_0 " a\n", E_CORRUPT},
    {"no name", HEAD "module F32 1x1 " HEX_0 "\n", E_CORRUPT},
    {"empty name", HEAD "module F32 1x1 " HEX_0 " \n", E_CORRUPT},
    {"no dtype", HEAD "module F31 1x1 " HEX_0 " a\n", E_CORRUPT},
    {"one dimension", HEAD "module F32 1 " HEX_0 " a\n", E_CORRUPT},
    {"three dimensions", HEAD "module F32 1x1x1 " HEX_0 " a\n", E_CORRUPT},
    {"no rows", HEAD "module F32 x1 " HEX_0 " a\n", E_CORRUPT},
    {"no columns", HEAD "module F32 1x " HEX_0 " a\n", E_CORRUPT},
    {"leading zero", HEAD "module F32 01x1 " HEX_0 " a\n", E_CORRUPT},
    {"too many rows", HEAD "module F32 2147483649x1 " HEX_0 " a\n", E_LIMIT},
    {"too many columns", HEAD "module F32 1x2147483649 " HEX_0 " a\n", E_LIMIT},
};

static void test_every_malformed_text_is_refused(void **state)
{
    (void)state;
    for (size_t i = 0; i < sizeof(refused) / sizeof(refused[0]); i++) {
        struct pin pin = {0};
        int err = pin_decode(&pin, text_bytes(refused[i].text));
        if (err != refused[i].err)
            fail_msg("%s: %d", refused[i].name, err);
        assert_null(pin.modules);
        assert_null(pin.name);
    }
}

static void test_names_that_no_line_can_hold_are_invalid(void **state)
{
    (void)state;
    static const char *const bad[] = {"a\nb", "a\rb", "\x7f", "\xff", "a\xc2\x85", "\x1b[2J"};
    for (size_t i = 0; i < sizeof(bad) / sizeof(bad[0]); i++) {
        AUTO_BUF(text);
        for (size_t place = 0; place < 3; place++) {
            AUTO_PIN(pin);
            pin = make_pin(place == 0 ? bad[i] : "a", place == 1 ? bad[i] : "a");
            if (place == 2) {
                free(pin.modules[1].name);
                pin.modules[1].name = strdup(bad[i]);
            }
            assert_int_equal(pin_encode(&text, &pin), E_INVALID);
        }
        assert_null(text.data);
    }
}

static void test_a_module_twice_or_without_name_is_invalid(void **state)
{
    (void)state;
    static const char *const bad[] = {"", "layers.0.v"};
    for (size_t i = 0; i < sizeof(bad) / sizeof(bad[0]); i++) {
        AUTO_PIN(pin);
        AUTO_BUF(text);
        pin = make_pin(NULL, NULL);
        free(pin.modules[1].name);
        pin.modules[1].name = strdup(bad[i]);
        assert_int_equal(pin_encode(&text, &pin), E_INVALID);
    }
}

static void test_number_of_modules_is_limited_before_memory_is_taken(void **state)
{
    (void)state;
    AUTO_BUF(text);
    AUTO_PIN(pin);
    struct pin too_many = {.count = LIMIT_TENSORS + 1};
    assert_int_equal(pin_encode(&text, &too_many), E_LIMIT);
    assert_int_equal(buf_append_text(&text, HEAD), 0);
    for (size_t i = 0; i <= LIMIT_TENSORS; i++)
        assert_int_equal(buf_append_text(&text, "\n"), 0);
    assert_int_equal(pin_decode(&pin, buf_bytes(&text)), E_LIMIT);
    text.len--;
    assert_int_equal(pin_decode(&pin, buf_bytes(&text)), E_CORRUPT);
}

static void test_text_above_the_limit_is_refused_unread(void **state)
{
    (void)state;
    AUTO_BUF(text);
    AUTO_PIN(pin);
    assert_int_equal(buf_resize(&text, LIMIT_TEXT + 1), 0);
    assert_int_equal(pin_decode(&pin, buf_bytes(&text)), E_LIMIT);
    text.len--;
    assert_int_equal(pin_decode(&pin, buf_bytes(&text)), E_CORRUPT);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_modules_in_any_order_give_the_golden_bytes),
        cmocka_unit_test(test_decoding_finds_each_module),
        cmocka_unit_test(test_only_canonical_text_is_taken),
        cmocka_unit_test(test_every_malformed_text_is_refused),
        cmocka_unit_test(test_names_that_no_line_can_hold_are_invalid),
        cmocka_unit_test(test_a_module_twice_or_without_name_is_invalid),
        cmocka_unit_test(test_number_of_modules_is_limited_before_memory_is_taken),
        cmocka_unit_test(test_text_above_the_limit_is_refused_unread),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
