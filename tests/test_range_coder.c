/* Tests of format/range_coder.c: bits come back, cost what they should, and end where they end. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "format/range_coder.h"
#include "tests/fault.h"

#define MODELS 4

static void must(int err)
{
    if (err < 0)
        fail_msg("%s", error_message());
}

/* Encode `count` bits, decode them, and return how many bytes they took. */
static size_t trip(const uint8_t *bits, size_t count, size_t models)
{
    struct bit_model write[MODELS] = {{0}}, read[MODELS] = {{0}};
    struct range_encoder encoder;
    struct range_decoder decoder;
    AUTO_BUF(out);

    range_encoder_init(&encoder, &out);
    for (size_t i = 0; i < count; i++)
        range_encode(&encoder, &write[i % models], bits[i]);
    must(range_encoder_end(&encoder));
    range_decoder_init(&decoder, buf_bytes(&out));
    for (size_t i = 0; i < count; i++) {
        if (range_decode(&decoder, &read[i % models]) != bits[i])
            fail_msg("bit %zu of %zu", i, count);
    }
    assert_true(range_decoder_is_done(&decoder));
    assert_memory_equal(write, read, sizeof(write));
    return out.len;
}

static void every_short_row_of_bits_comes_back(void **state)
{
    (void)state;
    for (unsigned count = 0; count <= 14; count++) {
        for (unsigned row = 0; row < 1U << count; row++) {
            uint8_t bits[14];
            for (unsigned i = 0; i < count; i++)
                bits[i] = row >> i & 1;
            trip(bits, count, 1);
        }
    }
}

/* Bits of which so many in 1024 are 1. */
static void bits_make(uint8_t *bits, size_t count, unsigned share, uint32_t seed)
{
    for (size_t i = 0; i < count; i++) {
        seed = seed * 1664525 + 1013904223;
        bits[i] = (seed >> 22) < share;
    }
}

static void bits_cost_what_they_surprise(void **state)
{
    enum { COUNT = 200000 };
    static const unsigned shares[] = {1, 10, 100, 300, 512, 900, 1020};
    static const double most[] = {0.15, 0.15, 0.02, 0.01, 0.01, 0.02, 0.15}; /* above the entropy */
    static uint8_t bits[COUNT];

    (void)state;
    for (size_t i = 0; i < sizeof(shares) / sizeof(shares[0]); i++) {
        double p = shares[i] / 1024.0, entropy = -p * log2(p) - (1 - p) * log2(1 - p);
        bits_make(bits, COUNT, shares[i], (uint32_t)i);
        size_t bytes = trip(bits, COUNT, 1);
        assert_true((double)bytes <= entropy * COUNT / 8 * (1 + most[i]));
    }
    memset(bits, 0, sizeof(bits));
    assert_true(trip(bits, COUNT, 1) < 64);
    memset(bits, 1, sizeof(bits));
    assert_true(trip(bits, COUNT, 1) < 64);
}

/* What a model expects least, again and again: carries run through long rows of 0xff. */
static void carries_run_as_far_as_they_must(void **state)
{
    static uint8_t bits[5000];

    (void)state;
    for (uint32_t seed = 0; seed < 300; seed++) {
        size_t calm = 200 + seed * 7;
        bits_make(bits, sizeof(bits), 512, seed);
        for (size_t i = 0; i < calm; i++)
            bits[i] = seed % 2;
        for (size_t i = calm; i < sizeof(bits) && seed % 3; i += 2 + seed % 61)
            bits[i] = !(seed % 2);
        trip(bits, sizeof(bits), 1);
        trip(bits, sizeof(bits), MODELS);
    }
}

static void the_same_bits_are_the_same_bytes_for_ever(void **state)
{
    static const uint8_t golden[] = {
        0x53, 0x21, 0xba, 0x66, 0xf9, 0xb5, 0x79, 0x51, 0x01, 0xc7, 0xba, 0x15, 0xd9,
        0x0b, 0xbc, 0x8f, 0xdb, 0xaa, 0x1a, 0x52, 0x08, 0x3b, 0x1f, 0x19, 0xe6,
    };
    struct bit_model models[2] = {{0}};
    struct range_encoder encoder;
    uint8_t bits[200];
    AUTO_BUF(out);

    (void)state;
    bits_make(bits, sizeof(bits), 300, 1);
    range_encoder_init(&encoder, &out);
    for (size_t i = 0; i < sizeof(bits); i++)
        range_encode(&encoder, &models[i % 5 == 0], bits[i]);
    must(range_encoder_end(&encoder));
    assert_int_equal(out.len, sizeof(golden));
    assert_memory_equal(out.data, golden, sizeof(golden));
}

/* Decode as many bits as were written from `len` bytes of the output. */
static bool is_done(const struct buf *out, size_t len, size_t count)
{
    struct bit_model model = {0};
    struct range_decoder decoder;

    range_decoder_init(&decoder, (struct bytes){out->data, len});
    for (size_t i = 0; i < count; i++)
        (void)range_decode(&decoder, &model);
    return range_decoder_is_done(&decoder);
}

static void an_end_elsewhere_is_noticed_F15(void **state)
{
    struct bit_model model = {0};
    struct range_encoder encoder;
    uint8_t bits[400];
    AUTO_BUF(out);

    (void)state;
    bits_make(bits, sizeof(bits), 512, 3);
    range_encoder_init(&encoder, &out);
    for (size_t i = 0; i < sizeof(bits); i++)
        range_encode(&encoder, &model, bits[i]);
    must(range_encoder_end(&encoder));
    for (size_t len = 0; len < out.len; len++)
        assert_false(is_done(&out, len, sizeof(bits)));
    assert_true(is_done(&out, out.len, sizeof(bits)));
    assert_false(is_done(&out, out.len, sizeof(bits) / 2));
    must(buf_append_byte(&out, 0));
    assert_false(is_done(&out, out.len, sizeof(bits)));
}

static void the_first_failure_is_returned_at_the_end(void **state)
{
    (void)state;
    for (int n = 0; n < 3; n++) {
        struct bit_model model = {0};
        struct range_encoder encoder;
        AUTO_BUF(out);
        range_encoder_init(&encoder, &out);
        fault_after = n;
        for (size_t i = 0; i < 1000; i++)
            range_encode(&encoder, &model, i * i % 3 == 1);
        fault_after = -1;
        assert_int_equal(range_encoder_end(&encoder), E_NOMEM);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(every_short_row_of_bits_comes_back),
        cmocka_unit_test(bits_cost_what_they_surprise),
        cmocka_unit_test(carries_run_as_far_as_they_must),
        cmocka_unit_test(the_same_bits_are_the_same_bytes_for_ever),
        cmocka_unit_test(an_end_elsewhere_is_noticed_F15),
        cmocka_unit_test(the_first_failure_is_returned_at_the_end),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
