/*
 * Tests of format/basis.c: the bits that torch draws, at every level of the processor and any split
 * of the stream, and what counts as proof. Golden digests are of matrices that torch 1.13.1, 2.6.0
 * (both variants) and PEFT 0.21.2 on torch 2.15.0 (the fixtures) drew.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include <fenv.h>
#include <math.h>

#include "format/basis.h"
#include "format/cpu.h"
#include "format/interrupt.h"
#include "format/limits.h"

#define VARIANTS 6

static struct basis_recipe
recipe_of(int number, uint64_t seed, uint64_t rank, uint64_t in, uint64_t out)
{
    return (struct basis_recipe){
        .variant = (enum basis_variant)(number % 2),
        .rounding = (enum basis_rounding)(number / 2),
        .seed = seed,
        .rank = rank,
        .in = in,
        .out = out,
    };
}

/* What the documentation says, in as plain a form: MT19937 word by word, fmaf. */
struct oracle {
    uint32_t state[624];
    unsigned next;
};

static void oracle_init(struct oracle *oracle, uint64_t seed)
{
    oracle->state[0] = (uint32_t)seed;
    for (uint32_t i = 1; i < 624; i++) {
        uint32_t before = oracle->state[i - 1];
        oracle->state[i] = 1812433253u * (before ^ before >> 30) + i;
    }
    oracle->next = 0;
}

static uint32_t oracle_word(struct oracle *oracle)
{
    uint32_t *s = oracle->state;
    unsigned i = oracle->next, j = (i + 1) % 624;
    uint32_t y = (s[i] & 0x80000000u) | (s[j] & 0x7fffffffu);

    s[i] = s[(i + 397) % 624] ^ y >> 1 ^ (y & 1 ? 0x9908b0dfu : 0);
    y = s[i];
    oracle->next = j;
    y ^= y >> 11;
    y ^= y << 7 & 0x9d2c5680u;
    y ^= y << 15 & 0xefc60000u;
    return y ^ y >> 18;
}

static float oracle_value(struct oracle *oracle, int number, uint64_t fan_in)
{
    double bound = sqrt(3.0) * (sqrt(2.0) / sqrt((double)fan_in));
    volatile float from = (float)-bound, to = (float)bound, range = to - from;
    volatile float x = (float)(oracle_word(oracle) & 0xffffff) * 0x1p-24f, product = x * range;
    float value = number % 2 ? product + from : fmaf(x, range, from);

    if (number / 2 == BASIS_ROUND_BF16)
        return bf16_to_float(bf16_from_float(value));
    return number / 2 == BASIS_ROUND_FP16 ? f16_to_float(f16_from_float(value)) : value;
}

static const uint64_t fans[] = {1, 2, 3, 7, 64, 176, 4096, 11008, UINT64_C(1) << 31};
#define FANS (sizeof(fans) / sizeof(fans[0]))

static void test_every_level_gives_the_values_of_the_formula(void **state)
{
    enum { COUNT = 70001 };
    float *values = test_malloc(COUNT * sizeof(*values));

    (void)state;
    for (int level = CPU_SCALAR; level <= (int)cpu_level_machine(); level++) {
        if (!cpu_level_is_here((enum cpu_level)level))
            continue;
        cpu_level_set((enum cpu_level)level);
        assert_string_equal(basis_kernel_name(), cpu_level_name((enum cpu_level)level));
        for (size_t f = 0; f < FANS; f++) {
            for (int number = 0; number < VARIANTS; number++) {
                struct basis_recipe recipe = recipe_of(number, f * 7919, 1, 1, 1);
                struct basis_stream stream;
                struct oracle oracle;
                basis_stream_init(&stream, &recipe);
                basis_stream_fill(&stream, values, COUNT, fans[f]);
                oracle_init(&oracle, f * 7919);
                for (size_t i = 0; i < COUNT; i++) {
                    float expected = oracle_value(&oracle, number, fans[f]);
                    if (memcmp(&expected, &values[i], sizeof(expected)) != 0)
                        fail_msg(
                            "level %d, fan %u, recipe %d, value %zu: %a, not %a", level,
                            (unsigned)fans[f], number, i, (double)values[i], (double)expected
                        );
                }
            }
        }
    }
    test_free(values);
}

static uint32_t random_next(uint32_t *seed)
{
    return *seed = *seed * 1664525u + 1013904223u;
}

static void test_any_split_at_any_level_is_one_stream(void **state)
{
    enum { COUNT = 20000 };
    float *whole = test_malloc(COUNT * sizeof(*whole)),
          *parts = test_malloc(COUNT * sizeof(*parts));
    uint32_t seed = 20240707;

    (void)state;
    print_message("seed %u\n", seed);
    for (int number = 0; number < VARIANTS; number++) {
        for (int round = 0; round < 20; round++) {
            struct basis_recipe recipe = recipe_of(number, random_next(&seed), 1, 1, 1);
            struct basis_stream stream;
            cpu_level_set(CPU_SCALAR);
            basis_stream_init(&stream, &recipe);
            basis_stream_fill(&stream, whole, COUNT, 176);
            basis_stream_init(&stream, &recipe);
            for (size_t done = 0, n; done < COUNT; done += n) {
                /* Each part at another level. */
                cpu_level_set((enum cpu_level)(random_next(&seed) >> 8) % 3);
                n = (random_next(&seed) >> 8) % (round % 2 ? 40 : 2000);
                n = n < COUNT - done ? n : COUNT - done;
                basis_stream_fill(&stream, parts + done, n, 176);
            }
            assert_memory_equal(whole, parts, COUNT * sizeof(*whole));
        }
    }
    test_free(whole);
    test_free(parts);
}

static void test_a_fill_writes_no_value_more(void **state)
{
    (void)state;
    for (int level = CPU_SCALAR; level <= (int)cpu_level_machine(); level++) {
        if (!cpu_level_is_here((enum cpu_level)level))
            continue;
        cpu_level_set((enum cpu_level)level);
        for (size_t count = 0; count < 70; count++) {
            struct basis_recipe recipe = recipe_of(0, 1, 1, 1, 1);
            struct basis_stream stream;
            float values[71];
            for (size_t i = 0; i < 71; i++)
                values[i] = 99;
            basis_stream_init(&stream, &recipe);
            basis_stream_fill(&stream, values, count, 10);
            for (size_t i = 0; i < 71; i++)
                assert_true(i < count ? values[i] < 1 : values[i] == 99);
        }
    }
}

/* First hex digits of SHA-256 of A and of B. */
static const struct golden {
    const char *name;
    struct basis_recipe recipe;
    enum dtype dtype;
    const char *a, *b;
} golden[] = {
    {"torch, mul-add",
     {BASIS_MUL_ADD, BASIS_ROUND_NONE, 0, 4, 8, 8},
     DTYPE_F32,
     "03f9d42d9c31a384",
     "c21699fbb55ff6e8"},
    {"torch, fma",
     {BASIS_FMA, BASIS_ROUND_NONE, 0, 4, 8, 8},
     DTYPE_F32,
     "f2e900ed05c69970",
     "bbbcea002c3acefa"},
    {"torch, mul-add, 256x4096",
     {BASIS_MUL_ADD, BASIS_ROUND_NONE, 0, 256, 4096, 4096},
     DTYPE_F32,
     "c0b45f682454c38d",
     "03bdd89ebaf4ebe5"},
    {"torch, fma, 256x4096",
     {BASIS_FMA, BASIS_ROUND_NONE, 0, 256, 4096, 4096},
     DTYPE_F32,
     "555fe05a681a8036",
     "46f7be51254474e7"},
    {"torch, mul-add, 1024x4096",
     {BASIS_MUL_ADD, BASIS_ROUND_NONE, 42, 1024, 4096, 11008},
     DTYPE_F32,
     "77010c8fe7b4b8e8",
     "691d6522e22c9193"},
    {"torch, fma, 1024x4096",
     {BASIS_FMA, BASIS_ROUND_NONE, 42, 1024, 4096, 11008},
     DTYPE_F32,
     "b0a21ce4654c0a85",
     "27c4eacd1c3a4148"},
    {"torch, mul-add, seed above 32 bits",
     {BASIS_MUL_ADD, BASIS_ROUND_NONE, (UINT64_C(1) << 32) + 5, 16, 64, 48},
     DTYPE_F32,
     "1e5a42e1bff28501",
     "c1c415016f00cdbb"},
    {"torch, fma, seed above 32 bits",
     {BASIS_FMA, BASIS_ROUND_NONE, (UINT64_C(1) << 32) + 5, 16, 64, 48},
     DTYPE_F32,
     "d33bcc52c6b1661a",
     "e3237c23d25c4c9f"},
    {"llama",
     {BASIS_FMA, BASIS_ROUND_NONE, 0, 32, 176, 176},
     DTYPE_F32,
     "875bf821280f22d63476b0fff5cd526d56f20875f582ab308c609ecf4d7c86b4",
     "41f9210773cb4a88018e0f5cba8e4602b0008f430b9534ae90f9ef7785b9bd69"},
    {"llama-half",
     {BASIS_FMA, BASIS_ROUND_BF16, 0, 32, 176, 176},
     DTYPE_F32,
     "167f64ee1a5f82f699f379ef14d2285b16f498a4af585e04850f14049f6d40d2",
     "23f7b8dc3af54bd767123a384c7c6eb47a896e4c854bbfc4e14523f2881b45c3"},
    {"llama-half-vectors",
     {BASIS_FMA, BASIS_ROUND_NONE, 0, 32, 176, 176},
     DTYPE_BF16,
     "615a11747f57a354ca51418c2bee80601b48d86001d947d51eef580f70f6bbca",
     "fddf064454538b4e5852c564d9a92d52264f0d941ccb9723d9a280e9ff758077"},
    {"gpt2",
     {BASIS_FMA, BASIS_ROUND_NONE, 42, 20, 192, 192},
     DTYPE_F32,
     "d18232b655c3ae394719bb5d509d3c293ccd09c51e4e8755a49888232f83b166",
     "624ecd165f855a52be594354d4445b1a7a14507d01ae900caf4ce8f25408da68"},
    {"bert",
     {BASIS_FMA, BASIS_ROUND_NONE, 7, 8, 32, 32},
     DTYPE_F32,
     "baa93d8cd1c44aabfd96d61c9635571ca5657f39d095a1da379abb9ce51d28c2",
     "29ab2b44d23b3825a524360cd39c4d798749fede1926462f754d08e936d598b3"},
    {"minilm",
     {BASIS_FMA, BASIS_ROUND_NONE, 0, 256, 1536, 1536},
     DTYPE_F32,
     "f79f8abb0b6d97c7b3e943b895659c4bc79dae052716cf1f0cf954b422121798",
     "0aa48e3dfbf8f46d4b563567d1e27527ea68612c79ed0997676e737e81b6b893"},
};
#define GOLDEN (sizeof(golden) / sizeof(golden[0]))

static void assert_digest(const char *name, const struct digest *digest, const char *expected)
{
    char hex[DIGEST_HEX_SIZE];

    digest_hex(hex, digest);
    if (strncmp(hex, expected, strlen(expected)) != 0)
        fail_msg("%s: %s, not %s", name, hex, expected);
}

static void test_digests_are_those_of_torch_and_peft(void **state)
{
    (void)state;
    for (int level = CPU_SCALAR; level <= (int)cpu_level_machine(); level++) {
        if (!cpu_level_is_here((enum cpu_level)level))
            continue;
        cpu_level_set((enum cpu_level)level);
        for (size_t i = 0; i < GOLDEN; i++) {
            const struct golden *g = &golden[i];
            struct digest a, b;
            assert_int_equal(basis_digests(&a, &b, &g->recipe, g->dtype, g->dtype), 0);
            assert_digest(g->name, &a, g->a);
            assert_digest(g->name, &b, g->b);
        }
    }
}

static void test_generate_encode_and_digests_agree(void **state)
{
    static const enum dtype dtypes[] = {DTYPE_F32, DTYPE_BF16, DTYPE_F16};
    struct basis_recipe recipe = recipe_of(1, 3, 17, 1001, 33);
    float *a = test_malloc(17 * 1001 * sizeof(*a)), *b = test_malloc(33 * 17 * sizeof(*b));

    (void)state;
    basis_generate(a, b, &recipe);
    for (size_t i = 0; i < 3; i++) {
        AUTO_BUF(bytes_a);
        AUTO_BUF(bytes_b);
        AUTO_BUF(narrow);
        struct digest digest_a, digest_b, expected;
        assert_int_equal(buf_append_text(&bytes_a, "kept"), 0);
        assert_int_equal(basis_encode(&bytes_a, &bytes_b, &recipe, dtypes[i], DTYPE_F32), 0);
        assert_int_equal(basis_digests(&digest_a, &digest_b, &recipe, dtypes[i], DTYPE_F32), 0);
        assert_int_equal(buf_resize(&narrow, 17 * 1001 * dtype_bits(dtypes[i]) / 8), 0);
        dtype_narrow(narrow.data, a, 17 * 1001, dtypes[i]);
        assert_int_equal(bytes_a.len, narrow.len + 4);
        assert_memory_equal(bytes_a.data, "kept", 4);
        assert_memory_equal(bytes_a.data + 4, narrow.data, narrow.len);
        assert_int_equal(bytes_b.len, 33 * 17 * sizeof(*b));
        assert_memory_equal(bytes_b.data, b, bytes_b.len);
        assert_int_equal(digest_of(&expected, buf_bytes(&narrow)), 0);
        assert_true(digest_equal(&expected, &digest_a));
        assert_int_equal(digest_of(&expected, buf_bytes(&bytes_b)), 0);
        assert_true(digest_equal(&expected, &digest_b));
    }
    test_free(a);
    test_free(b);
}

/* Prove bytes made by recipe `number`; the recipe that was asked and what it became. */
static bool
prove(struct basis_recipe *recipe, const struct buf *a, const struct buf *b, enum dtype dtype)
{
    bool found;

    assert_int_equal(basis_prove(&found, recipe, buf_bytes(a), dtype, buf_bytes(b), dtype), 0);
    return found;
}

static void test_prove_finds_the_recipe_and_no_other(void **state)
{
    (void)state;
    for (int number = 0; number < VARIANTS; number++) {
        AUTO_BUF(a);
        AUTO_BUF(b);
        struct basis_recipe made = recipe_of(number, 5, 64, 300, 200),
                            asked = recipe_of(0, 5, 64, 300, 200);
        assert_int_equal(basis_encode(&a, &b, &made, DTYPE_F32, DTYPE_F32), 0);
        assert_true(prove(&asked, &a, &b, DTYPE_F32));
        assert_int_equal(asked.variant, made.variant);
        assert_int_equal(asked.rounding, made.rounding);
    }
}

static void test_prove_takes_the_first_of_equal_recipes(void **state)
{
    AUTO_BUF(a);
    AUTO_BUF(b);
    struct basis_recipe made = recipe_of(2, 5, 64, 300, 200), asked = recipe_of(5, 5, 64, 300, 200);

    (void)state;
    /* Stored in BF16, fma/none and fma/bf16 are the same bytes. */
    assert_int_equal(basis_encode(&a, &b, &made, DTYPE_BF16, DTYPE_BF16), 0);
    assert_true(prove(&asked, &a, &b, DTYPE_BF16));
    assert_int_equal(asked.variant, BASIS_FMA);
    assert_int_equal(asked.rounding, BASIS_ROUND_NONE);
}

static void test_one_flipped_bit_or_missing_byte_is_no_proof(void **state)
{
    AUTO_BUF(a);
    AUTO_BUF(b);
    struct basis_recipe recipe = recipe_of(0, 9, 13, 31, 29), before = recipe_of(3, 9, 13, 31, 29);
    struct basis_recipe asked = before;

    (void)state;
    assert_int_equal(basis_encode(&a, &b, &recipe, DTYPE_F32, DTYPE_F32), 0);
    for (size_t bit = 0; bit < 8 * (a.len + b.len); bit++) {
        uint8_t *byte = bit / 8 < a.len ? a.data + bit / 8 : b.data + (bit / 8 - a.len);
        *byte ^= (uint8_t)(1u << bit % 8);
        assert_false(prove(&asked, &a, &b, DTYPE_F32));
        *byte ^= (uint8_t)(1u << bit % 8);
    }
    assert_memory_equal(&asked, &before, sizeof(asked)); /* untouched where nothing was found */
    a.len--;
    assert_false(prove(&asked, &a, &b, DTYPE_F32));
    a.len++;
    b.len -= 4;
    assert_false(prove(&asked, &a, &b, DTYPE_F32));
    b.len += 4;
    assert_true(prove(&asked, &a, &b, DTYPE_F32));
    asked.seed = 10;
    assert_false(prove(&asked, &a, &b, DTYPE_F32));
}

static void test_other_dtypes_and_sizes_are_no_proof(void **state)
{
    struct bytes none = {(const uint8_t *)"", 0};
    struct basis_recipe recipe = recipe_of(0, 0, 0, 0, 0);
    bool found = true;

    (void)state;
    assert_int_equal(basis_prove(&found, &recipe, none, DTYPE_F32, none, DTYPE_F32), 0);
    assert_false(found);
    recipe = recipe_of(0, 0, UINT64_MAX, UINT64_MAX, 1);
    found = true;
    assert_int_equal(basis_prove(&found, &recipe, none, DTYPE_F32, none, DTYPE_F32), 0);
    assert_false(found);
    recipe = recipe_of(0, 0, 1, 1, 1);
    struct bytes eight = {(const uint8_t *)"12345678", 8};
    found = true;
    assert_int_equal(basis_prove(&found, &recipe, eight, DTYPE_F64, eight, DTYPE_F64), 0);
    assert_false(found);
    struct digest a, b;
    assert_int_equal(basis_digests(&a, &b, &recipe, DTYPE_F32, DTYPE_F64), E_UNSUPPORTED);
}

static void test_values_are_limited(void **state)
{
    static const struct {
        uint64_t rank, in, out;
        int err;
    } cases[] = {
        {1, 1, 1, 0},
        {1, LIMIT_BASIS_VALUES, 1, 0},
        {1, 1, LIMIT_BASIS_VALUES, 0},
        {1, LIMIT_BASIS_VALUES + 1, 1, E_LIMIT},
        {1, 1, LIMIT_BASIS_VALUES + 1, E_LIMIT},
        {2, LIMIT_BASIS_VALUES / 2, 1, 0},
        {0, 1, 1, E_LIMIT},
        {1, 0, 1, E_LIMIT},
        {1, 1, 0, E_LIMIT},
        {UINT64_C(1) << 32, UINT64_C(1) << 32, 1, E_LIMIT},
        {UINT64_C(1) << 32, 1, UINT64_C(1) << 32, E_LIMIT},
    };

    (void)state;
    for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
        uint64_t a = 77, b = 77;
        assert_int_equal(
            basis_values(&a, &b, cases[i].rank, cases[i].in, cases[i].out), cases[i].err
        );
        assert_true(a == (cases[i].err ? 77 : cases[i].rank * cases[i].in));
        assert_true(b == (cases[i].err ? 77 : cases[i].rank * cases[i].out));
    }
}

static void test_names_and_values_are_inverse(void **state)
{
    (void)state;
    for (int i = 0; i < VARIANTS; i++) {
        enum basis_variant variant;
        enum basis_rounding rounding;
        const char *name = basis_variant_name((enum basis_variant)(i % 2));
        assert_int_equal(basis_variant_parse(&variant, text_bytes(name)), 0);
        assert_int_equal(variant, i % 2);
        name = basis_rounding_name((enum basis_rounding)(i / 2));
        assert_int_equal(basis_rounding_parse(&rounding, text_bytes(name)), 0);
        assert_int_equal(rounding, i / 2);
        assert_int_equal(basis_variant_parse(&variant, text_bytes("FMA")), E_INVALID);
        assert_int_equal(basis_rounding_parse(&rounding, text_bytes("bf16 ")), E_INVALID);
    }
}

static void test_the_callers_rounding_mode_changes_nothing(void **state)
{
    struct basis_recipe recipe = recipe_of(1, 3, 1, 1, 1);
    struct basis_stream stream;
    float nearest[2000], upward[2000];

    (void)state;
    for (int level = CPU_SCALAR; level <= (int)cpu_level_machine(); level++) {
        if (!cpu_level_is_here((enum cpu_level)level))
            continue;
        cpu_level_set((enum cpu_level)level);
        basis_stream_init(&stream, &recipe);
        basis_stream_fill(&stream, nearest, 2000, 1000);
        fesetround(FE_UPWARD);
        basis_stream_init(&stream, &recipe);
        basis_stream_fill(&stream, upward, 2000, 1000);
        int mode = fegetround();
        fesetround(FE_TONEAREST);
        assert_int_equal(mode, FE_UPWARD);
        assert_memory_equal(nearest, upward, sizeof(nearest));
    }
}

static void test_an_interrupt_ends_the_work_and_changes_nothing(void **state)
{
    AUTO_BUF(a);
    AUTO_BUF(b);
    struct basis_recipe recipe = recipe_of(0, 3, 16, 100, 100);
    struct digest digest_a, digest_b;
    bool found;

    (void)state;
    assert_int_equal(basis_encode(&a, &b, &recipe, DTYPE_F32, DTYPE_F32), 0);
    size_t len = a.len;
    interrupt_flag = 1;
    int err_prove = basis_prove(
        &found, &recipe, buf_bytes(&a), DTYPE_F32, buf_bytes(&b), DTYPE_F32
    );
    int err_digests = basis_digests(&digest_a, &digest_b, &recipe, DTYPE_F32, DTYPE_F32);
    int err_encode = basis_encode(&a, &b, &recipe, DTYPE_F32, DTYPE_F32);
    interrupt_flag = 0;
    assert_int_equal(err_prove, E_INTERRUPTED);
    assert_int_equal(err_digests, E_INTERRUPTED);
    assert_int_equal(err_encode, E_INTERRUPTED);
    assert_int_equal(a.len, len);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_every_level_gives_the_values_of_the_formula),
        cmocka_unit_test(test_any_split_at_any_level_is_one_stream),
        cmocka_unit_test(test_a_fill_writes_no_value_more),
        cmocka_unit_test(test_digests_are_those_of_torch_and_peft),
        cmocka_unit_test(test_generate_encode_and_digests_agree),
        cmocka_unit_test(test_prove_finds_the_recipe_and_no_other),
        cmocka_unit_test(test_prove_takes_the_first_of_equal_recipes),
        cmocka_unit_test(test_one_flipped_bit_or_missing_byte_is_no_proof),
        cmocka_unit_test(test_other_dtypes_and_sizes_are_no_proof),
        cmocka_unit_test(test_values_are_limited),
        cmocka_unit_test(test_names_and_values_are_inverse),
        cmocka_unit_test(test_the_callers_rounding_mode_changes_nothing),
        cmocka_unit_test(test_an_interrupt_ends_the_work_and_changes_nothing),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
