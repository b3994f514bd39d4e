/* Tests of format/recipe.c: golden bytes for each state, the canonical rule, ranges and limits. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "format/limits.h"
#include "format/recipe.h"
#include "tests/canonical.h"

#define HEX_0 "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855" /* of "" */
#define HEX_1 "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad" /* of "abc" */

#define HEAD(state)                "verastore recipe 1\npayload " HEX_1 " 3\nbasis " state "\n"
#define SEED(seed)                 "generator torch-mt19937-kaiming-uniform\nseed " seed "\n"
#define VARIANT(variant, rounding) "variant " variant "\nrounding " rounding "\n"
#define MATRICES                   "a F32 32 64 " HEX_0 "\nb BF16 176 32 " HEX_1 "\n"

static int recode(struct buf *out, struct bytes text)
{
    struct recipe recipe;
    int err = recipe_decode(&recipe, text);

    return err < 0 ? err : recipe_encode(out, &recipe);
}

static struct recipe make_recipe(enum basis_state state, bool seed, bool variant, bool matrices)
{
    struct recipe recipe = {
        .payload_bytes = 3,
        .state = state,
        .has_seed = seed,
        .has_variant = variant,
        .has_matrices = matrices,
        .variant = BASIS_MUL_ADD,
        .rounding = BASIS_ROUND_BF16,
        .rank = 32,
        .in = 64,
        .out = 176,
        .dtype_a = DTYPE_F32,
        .dtype_b = DTYPE_BF16,
    };

    assert_int_equal(digest_of(&recipe.payload, text_bytes("abc")), 0);
    assert_int_equal(digest_of(&recipe.sha256_a, text_bytes("")), 0);
    assert_int_equal(digest_of(&recipe.sha256_b, text_bytes("abc")), 0);
    return recipe;
}

/* Every combination of lines: those without a text are refused. */
static const struct {
    enum basis_state state;
    bool seed, variant, matrices;
    const char *text;
} cases[] = {
    {BASIS_PROVED, 1, 1, 1, HEAD("proved") SEED("0") VARIANT("mul-add", "bf16") MATRICES},
    {BASIS_PROVED, 0, 1, 1, NULL},
    {BASIS_PROVED, 1, 0, 1, NULL},
    {BASIS_PROVED, 1, 1, 0, NULL},
    {BASIS_PROVED, 0, 0, 1, NULL},
    {BASIS_PROVED, 0, 1, 0, NULL},
    {BASIS_PROVED, 1, 0, 0, NULL},
    {BASIS_PROVED, 0, 0, 0, NULL},
    {BASIS_STORED, 1, 0, 1, HEAD("stored") SEED("0") MATRICES},
    {BASIS_STORED, 0, 0, 1, HEAD("stored") MATRICES},
    {BASIS_STORED, 0, 0, 0, NULL},
    {BASIS_STORED, 0, 1, 0, NULL},
    {BASIS_STORED, 0, 1, 1, NULL},
    {BASIS_STORED, 1, 0, 0, NULL},
    {BASIS_STORED, 1, 1, 0, NULL},
    {BASIS_STORED, 1, 1, 1, NULL},
    {BASIS_DECLARED, 0, 0, 0, HEAD("declared")},
    {BASIS_DECLARED, 1, 0, 0, HEAD("declared") SEED("0")},
    {BASIS_DECLARED, 1, 1, 1, HEAD("declared") SEED("0") VARIANT("mul-add", "bf16") MATRICES},
    {BASIS_DECLARED, 0, 0, 1, NULL},
    {BASIS_DECLARED, 0, 1, 0, NULL},
    {BASIS_DECLARED, 0, 1, 1, NULL},
    {BASIS_DECLARED, 1, 0, 1, NULL},
    {BASIS_DECLARED, 1, 1, 0, NULL},
};
#define CASE_COUNT (sizeof(cases) / sizeof(cases[0]))

/* R1 */
static void test_the_state_decides_which_lines_there_are(void **state)
{
    (void)state;
    for (size_t i = 0; i < CASE_COUNT; i++) {
        AUTO_BUF(text);
        struct recipe recipe = make_recipe(
            cases[i].state, cases[i].seed, cases[i].variant, cases[i].matrices
        );
        int err = recipe_encode(&text, &recipe);
        assert_int_equal(err, cases[i].text ? 0 : E_INVALID);
        if (cases[i].text)
            assert_text_equal(buf_bytes(&text), cases[i].text);
    }
}

static void test_decoding_gives_what_was_encoded(void **state)
{
    (void)state;
    struct recipe recipe;
    assert_int_equal(recipe_decode(&recipe, text_bytes(cases[0].text)), 0);
    const struct recipe expected = make_recipe(BASIS_PROVED, true, true, true);
    assert_true(digest_equal(&recipe.payload, &expected.payload));
    assert_int_equal(recipe.payload_bytes, 3);
    assert_int_equal(recipe.state, BASIS_PROVED);
    assert_int_equal(recipe.variant, BASIS_MUL_ADD);
    assert_int_equal(recipe.rounding, BASIS_ROUND_BF16);
    assert_int_equal(recipe.rank, 32);
    assert_int_equal(recipe.in, 64);
    assert_int_equal(recipe.out, 176);
    assert_int_equal(recipe.dtype_a, DTYPE_F32);
    assert_int_equal(recipe.dtype_b, DTYPE_BF16);
    assert_true(digest_equal(&recipe.sha256_a, &expected.sha256_a));
    assert_true(digest_equal(&recipe.sha256_b, &expected.sha256_b));
}

/* T1 - T6 */
static void test_only_canonical_text_is_taken(void **state)
{
    (void)state;
    for (size_t i = 0; i < CASE_COUNT; i++)
        if (cases[i].text)
            assert_canonical(recode, cases[i].text);
}

static const struct {
    const char *seed;
    bool taken;
    uint64_t generator;
} seeds[] = {
    {"0", true, 0},
    {"42", true, 42},
    {"4294967296", true, UINT64_C(1) << 32},
    {"18446744073709551615", true, UINT64_MAX},
    {"18446744073709551616", false, 0},
    {"99999999999999999999", false, 0},
    {"-1", true, UINT64_MAX},
    {"-9223372036854775808", true, UINT64_C(1) << 63},
    {"-9223372036854775809", false, 0},
    {"-0", false, 0},
    {"--1", false, 0},
    {"-", false, 0},
    {"+1", false, 0},
    {"01", false, 0},
    {"1.0", false, 0},
    {"1e3", false, 0},
    {"0x1", false, 0},
    {"1 2", false, 0},
    {"", false, 0},
};

/* R2, T4 */
static void test_a_seed_is_an_exact_integer(void **state)
{
    (void)state;
    for (size_t i = 0; i < sizeof(seeds) / sizeof(seeds[0]); i++) {
        AUTO_BUF(text);
        struct recipe recipe;
        assert_int_equal(
            buf_printf(
                &text, HEAD("proved") SEED("%s") VARIANT("fma", "none") MATRICES, seeds[i].seed
            ),
            0
        );
        bool taken = is_taken(recode, buf_bytes(&text));
        if (taken != seeds[i].taken)
            fail_msg("seed '%s'", seeds[i].seed);
        if (!taken)
            continue;
        assert_int_equal(recipe_decode(&recipe, buf_bytes(&text)), 0);
        struct basis_recipe basis = recipe_basis(&recipe);
        assert_true(basis.seed == seeds[i].generator);
        assert_int_equal(basis.rank, 32);
        assert_int_equal(basis.in, 64);
        assert_int_equal(basis.out, 176);
        assert_int_equal(basis.variant, BASIS_FMA);
        assert_int_equal(basis.rounding, BASIS_ROUND_NONE);
    }
}

static void test_a_negative_zero_cannot_be_encoded(void **state)
{
    (void)state;
    AUTO_BUF(text);
    struct recipe recipe = make_recipe(BASIS_STORED, true, false, true);
    recipe.seed = (struct json_int){true, 0};
    assert_int_equal(recipe_encode(&text, &recipe), E_INVALID);
    recipe.seed.magnitude = (UINT64_C(1) << 63) + 1;
    assert_int_equal(recipe_encode(&text, &recipe), E_INVALID);
    assert_null(text.data);
}

static const struct {
    const char *name, *text;
    int err;
} refused[] = {
    {"another generator", HEAD("stored") "generator philox\nseed 0\n" MATRICES, E_CORRUPT},
    {"generator without seed", HEAD("stored") "generator " BASIS_GENERATOR "\n" MATRICES,
     E_CORRUPT},
    {"seed without generator", HEAD("stored") "seed 0\n" MATRICES, E_CORRUPT},
    {"another state", HEAD("guessed"), E_CORRUPT},
    {"proved without seed", HEAD("proved") VARIANT("fma", "none") MATRICES, E_CORRUPT},
    {"proved without variant", HEAD("proved") SEED("0") MATRICES, E_CORRUPT},
    {"proved without matrices", HEAD("proved") SEED("0") VARIANT("fma", "none"), E_CORRUPT},
    {"stored with variant", HEAD("stored") SEED("0") VARIANT("fma", "none") MATRICES, E_CORRUPT},
    {"declared, no seed", HEAD("declared") VARIANT("fma", "none") MATRICES, E_CORRUPT},
    {"another variant", HEAD("proved") SEED("0") VARIANT("FMA", "none") MATRICES, E_CORRUPT},
    {"another rounding", HEAD("proved") SEED("0") VARIANT("fma", "fp8") MATRICES, E_CORRUPT},
    {"only A", HEAD("stored") "a F32 1 1 " HEX_0 "\n", E_CORRUPT},
    {"B first", HEAD("stored") "b F32 1 1 " HEX_0 "\na F32 1 1 " HEX_0 "\n", E_CORRUPT},
    {"two ranks", HEAD("stored") "a F32 2 1 " HEX_0 "\nb F32 1 1 " HEX_0 "\n", E_CORRUPT},
    {"no dtype", HEAD("stored") "a F99 1 1 " HEX_0 "\nb F32 1 1 " HEX_0 "\n", E_CORRUPT},
    {"empty A", HEAD("stored") "a F32 1 0 " HEX_0 "\nb F32 1 1 " HEX_0 "\n", E_CORRUPT},
    {"payload above 2 GiB", "verastore recipe 1\npayload " HEX_0 " 2147483649\nbasis declared\n",
     E_LIMIT},
    {"something behind", HEAD("declared") SEED("0") "note 1\n", E_CORRUPT},
};

static void test_every_malformed_text_is_refused(void **state)
{
    (void)state;
    for (size_t i = 0; i < sizeof(refused) / sizeof(refused[0]); i++) {
        struct recipe recipe = {.rank = 7};
        int err = recipe_decode(&recipe, text_bytes(refused[i].text));
        if (err != refused[i].err)
            fail_msg("%s: %d", refused[i].name, err);
        assert_int_equal(recipe.rank, 7); /* out is untouched on failure */
    }
}

/* R3 */
static void test_shapes_are_limited(void **state)
{
    (void)state;
    static const struct {
        uint64_t rank, in, out;
        int err;
    } shapes[] = {
        {LIMIT_RANK, 256, 256, 0},
        {LIMIT_RANK + 1, 1, 1, E_LIMIT},
        {1, LIMIT_BASIS_VALUES, LIMIT_BASIS_VALUES, 0},
        {1, LIMIT_BASIS_VALUES + 1, 1, E_LIMIT},
        {1, 1, LIMIT_BASIS_VALUES + 1, E_LIMIT},
        {1, LIMIT_FEATURES + 1, 1, E_LIMIT},
        {LIMIT_RANK, 257, 1, E_LIMIT},
        {LIMIT_RANK, UINT64_MAX, 1, E_LIMIT},
        {UINT64_MAX, UINT64_MAX, UINT64_MAX, E_LIMIT},
    };
    for (size_t i = 0; i < sizeof(shapes) / sizeof(shapes[0]); i++) {
        AUTO_BUF(encoded);
        AUTO_BUF(text);
        struct recipe recipe = make_recipe(BASIS_STORED, false, false, true);
        recipe.rank = shapes[i].rank;
        recipe.in = shapes[i].in;
        recipe.out = shapes[i].out;
        assert_int_equal(recipe_encode(&encoded, &recipe), shapes[i].err);
        assert_int_equal(
            buf_printf(
                &text, HEAD("stored") "a F32 %ju %ju " HEX_0 "\nb F32 %ju %ju " HEX_0 "\n",
                (uintmax_t)recipe.rank, (uintmax_t)recipe.in, (uintmax_t)recipe.out,
                (uintmax_t)recipe.rank
            ),
            0
        );
        assert_int_equal(recipe_decode(&recipe, buf_bytes(&text)), shapes[i].err);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_the_state_decides_which_lines_there_are),
        cmocka_unit_test(test_decoding_gives_what_was_encoded),
        cmocka_unit_test(test_only_canonical_text_is_taken),
        cmocka_unit_test(test_a_seed_is_an_exact_integer),
        cmocka_unit_test(test_a_negative_zero_cannot_be_encoded),
        cmocka_unit_test(test_every_malformed_text_is_refused),
        cmocka_unit_test(test_shapes_are_limited),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
