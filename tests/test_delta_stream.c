/*
 * Tests of format/delta_stream.c, delta_tokens.c and delta_range.c: every pattern of a 16-bit float
 * against others, what float32 has at its edges, both methods; and streams that no encoder writes.
 * F13 to F15 are of docs/format.md.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "format/delta_stream.h"
#include "format/predict.h"

static void must(int err)
{
    if (err < 0)
        fail_msg("%s", error_message());
}

static uint64_t values_of(const struct segment *segments, size_t count)
{
    uint64_t values = 0;

    for (size_t i = 0; i < count; i++)
        values += segments[i].values;
    return values;
}

/* There and back, in bytes. */
static size_t trip(enum stream_method method, const struct segment *segments, size_t count)
{
    struct segment decoded[8];
    AUTO_PLANE_CODER(planes);
    AUTO_BUF(stream);
    uint64_t values = values_of(segments, count);

    assert_true(count <= 8);
    must(stream_encode(&stream, method, segments, count, values, &planes));
    for (size_t i = 0; i < count; i++) {
        decoded[i] = segments[i];
        decoded[i].x = malloc(segments[i].values * dtype_bits(segments[i].dtype) / 8);
        assert_non_null(decoded[i].x);
    }
    struct bytes rest = buf_bytes(&stream);
    must(stream_decode(decoded, count, values, &planes, &rest));
    assert_int_equal(rest.len, 0);
    for (size_t i = 0; i < count; i++) {
        size_t bytes = segments[i].values * dtype_bits(segments[i].dtype) / 8;
        assert_memory_equal(decoded[i].x, segments[i].x, bytes);
        free(decoded[i].x);
    }
    return stream.len;
}

/* By both methods, and with every fit where there are two ancestors. */
static void trip_all(struct segment segment)
{
    for (int method = 0; method < STREAM_METHODS; method++) {
        trip((enum stream_method)method, &segment, 1);
        for (segment.i = PREDICT_MIN; segment.x0 && segment.i <= PREDICT_MAX; segment.i += 8)
            trip((enum stream_method)method, &segment, 1);
        segment.i = 0;
    }
}

/* 16 bits */

#define PATTERNS 65536
static uint16_t x[PATTERNS], x1[PATTERNS], x0[PATTERNS];

static void every_pattern_of_16_bits_comes_back_from_every_other(void **state)
{
    static const enum dtype dtypes[] = {DTYPE_BF16, DTYPE_F16};
    /* x1 = x * factor + term, in patterns: the same, near, anywhere, and of the other sign. */
    static const struct {
        unsigned factor, term;
    } others[] = {{1, 0}, {1, 1}, {1, 0xfffd}, {40503, 0}, {1, 0x8000}, {0, 0x3f80}, {0, 0x7f81}};

    (void)state;
    for (size_t i = 0; i < sizeof(others) / sizeof(others[0]); i++) {
        for (unsigned k = 0; k < PATTERNS; k++) {
            x[k] = (uint16_t)(k * 25173 + 13849); /* each once, in no order */
            x1[k] = (uint16_t)(x[k] * others[i].factor + others[i].term);
            x0[k] = (uint16_t)(x1[k] * 3 + k % 5);
        }
        for (size_t k = 0; k < 2; k++)
            trip_all((struct segment
            ){.x = (uint8_t *)x,
              .x1 = (uint8_t *)x1,
              .x0 = (uint8_t *)x0,
              .values = PATTERNS,
              .dtype = dtypes[k]});
    }
}

static void every_pattern_of_16_bits_comes_back_held_in_float32(void **state)
{
    static const unsigned shifts[] = {8, 13, 16};
    AUTO_BUF(wide);
    AUTO_BUF(base);

    (void)state;
    for (size_t i = 0; i < sizeof(shifts) / sizeof(shifts[0]); i++) {
        wide.len = base.len = 0;
        for (uint32_t k = 0; k < PATTERNS; k++) {
            uint32_t pattern = k * 25173 % PATTERNS << shifts[i] | (k & 0xff) << 24;
            uint32_t other = pattern * 5 + (k << 9); /* with bits below the shift, too */
            must(buf_append(&wide, &pattern, sizeof(pattern)));
            must(buf_append(&base, &other, sizeof(other)));
        }
        trip_all((struct segment
        ){.x = wide.data,
          .x1 = base.data,
          .x0 = wide.data,
          .values = PATTERNS,
          .dtype = DTYPE_F32,
          .shift = shifts[i]});
    }
}

/* float32 */

static const uint32_t edges[] = {
    0x00000000, 0x80000000, 0x00000001, 0x80000001, 0x007fffff, 0x807fffff, 0x00800000, 0x80800000,
    0x3f800000, 0xbf800000, 0x3f800001, 0x3f7fffff, 0x3dcccccd, 0xbdcccccd, 0x4b800000, 0x33800000,
    0x7f7fffff, 0xff7fffff, 0x7f800000, 0xff800000, 0x7fc00000, 0xffc00000, 0x7f800001, 0xffffffff,
};
#define EDGES (sizeof(edges) / sizeof(edges[0]))

static void the_edges_of_float32_come_back_from_each_other(void **state)
{
    static uint32_t now[EDGES * EDGES * EDGES], last[EDGES * EDGES * EDGES];
    static uint32_t before[EDGES * EDGES * EDGES];
    size_t n = 0;

    (void)state;
    for (size_t i = 0; i < EDGES; i++) {
        for (size_t k = 0; k < EDGES; k++) {
            for (size_t m = 0; m < EDGES; m++, n++) {
                now[n] = edges[i];
                last[n] = edges[k];
                before[n] = edges[m];
            }
        }
    }
    trip_all((struct segment
    ){.x = (uint8_t *)now,
      .x1 = (uint8_t *)last,
      .x0 = (uint8_t *)before,
      .values = n,
      .dtype = DTYPE_F32});
}

static void a_distance_of_every_length_comes_back(void **state)
{
    static uint32_t now[32 * 8 * 4], last[32 * 8 * 4];
    size_t n = 0;

    (void)state;
    /* From 1 to where the sign begins, up and down, its first bits all of the eight. */
    for (unsigned length = 1; length < 32; length++) {
        for (uint32_t first = 0; first < 8; first++) {
            uint32_t distance = (uint32_t)((uint64_t)(first | 8) << length >> 4);
            last[n] = 0, now[n++] = distance;
            last[n] = 0x7fffffff, now[n++] = 0x7fffffff - distance;
            last[n] = 0x80000000, now[n++] = 0x80000000 + distance;
            last[n] = 0xffffffff, now[n++] = 0xffffffff - distance;
        }
    }
    const struct segment all = {
        .x = (uint8_t *)now, .x1 = (uint8_t *)last, .values = n, .dtype = DTYPE_F32};
    trip_all(all);
    for (size_t i = 0; i < n; i++) { /* each one alone: it is the highest class then */
        struct segment one = all;
        one.x = (uint8_t *)(now + i);
        one.x1 = (uint8_t *)(last + i);
        one.values = 1;
        trip_all(one);
    }
}

static void segments_of_all_types_share_a_stream(void **state)
{
    static uint32_t wide[3][5000];
    uint32_t seed = 7;

    (void)state;
    for (size_t i = 0; i < 5000; i++) {
        seed = seed * 1664525 + 1013904223;
        wide[0][i] = 0x3dcccccd + (seed >> 12);
        wide[1][i] = wide[0][i] + (seed >> 14 & 0xffff);
        wide[2][i] = (wide[1][i] + (seed >> 13 & 0xffff)) & 0xffff0000;
    }
    for (size_t i = 3000; i < 5000; i++) /* as pairs of 16-bit values */
        wide[2][i] = wide[1][i] + (seed >> 20) + 0x10001;
#define SEGMENT(from, n, type, low, fit)                                                           \
    {                                                                                              \
        .x = (uint8_t *)(wide[2] + (from)), .x1 = (uint8_t *)(wide[1] + (from)),                   \
        .x0 = (uint8_t *)(wide[0] + (from)), .values = (n), .dtype = (type), .shift = (low),       \
        .i = (fit),                                                                                \
    }
    const struct segment segments[] = {
        SEGMENT(0, 1024, DTYPE_F32, 16, 0),    SEGMENT(1024, 0, DTYPE_F32, 0, 0),
        SEGMENT(1024, 1, DTYPE_F32, 8, 24),    SEGMENT(1025, 1975, DTYPE_F32, 0, -16),
        SEGMENT(3000, 2049, DTYPE_BF16, 0, 7), SEGMENT(4100, 1023, DTYPE_F16, 0, 16),
        SEGMENT(4700, 1, DTYPE_F16, 0, 0),
    };
    trip(STREAM_TOKENS, segments, 7);
    trip(STREAM_RANGE, segments, 7);
}

static void many_values_are_sampled_and_come_back(void **state)
{
    size_t n = 400000;
    AUTO_FREE(uint32_t, now);
    AUTO_FREE(uint32_t, last);

    (void)state;
    now = malloc(n * sizeof(*now));
    last = malloc(n * sizeof(*last));
    assert_true(now && last);
    for (size_t i = 0; i < n; i++) {
        last[i] = 0x3e000000 + (uint32_t)i * 77777 % 0x1000000;
        /* What the sample sees is small, what it does not see is far. */
        now[i] = i / 1024 % 7 == 0 ? last[i] + (uint32_t)i % 50
                                   : last[i] ^ (uint32_t)i * 2654435761U;
    }
    const struct segment segment = {
        .x = (uint8_t *)now, .x1 = (uint8_t *)last, .values = n, .dtype = DTYPE_F32};
    trip(STREAM_TOKENS, &segment, 1);
    trip(STREAM_RANGE, &segment, 1);
}

/* Golden bytes of the tokens; those of the range coder are in tests/test_delta.c. */
static void tokens_written_once_are_read_for_ever(void **state)
{
    static const uint32_t base[] = {0x3dcccccd, 0x3dcccccd, 0xbdcccccd,
                                    0x3dcccccd, 0x3f000000, 0x3dcccccd};
    static const uint32_t wanted[] = {0x3dcccccd, 0x3dcccd21, 0xbdcccc00,
                                      0xbdcccccd, 0x3f000001, 0x3dccca00};
    static const uint8_t golden[] = {
        0x00, 0x85, 0x00, 0x06, 0x00, 0x00, 0x00, 0x68, 0xdb, 0xcc, 0xcc,
        0xb4, 0x09, 0x00, 0x00, 0x0f, 0x0c, 0x01, 0x1a, 0x03, 0x02, 0x7b,
    };
    AUTO_PLANE_CODER(planes);
    AUTO_BUF(stream);
    uint32_t decoded[6];
    struct segment segment = {
        .x = (uint8_t *)decoded, .x1 = (const uint8_t *)base, .values = 6, .dtype = DTYPE_F32};

    (void)state;
    memcpy(decoded, wanted, sizeof(wanted));
    must(stream_encode(&stream, STREAM_TOKENS, &segment, 1, 6, &planes));
    assert_int_equal(stream.len, sizeof(golden));
    assert_memory_equal(stream.data, golden, sizeof(golden));
    memset(decoded, 0, sizeof(decoded));
    struct bytes rest = {golden, sizeof(golden)};
    must(stream_decode(&segment, 1, 6, &planes, &rest));
    assert_memory_equal(decoded, wanted, sizeof(wanted));
}

/* Forged streams */

/* Decode one float32, or one value of another type, that is predicted as 1. */
static int decode(uint32_t *out, enum dtype dtype, unsigned shift, const char *stream, size_t len)
{
    static const uint32_t one[] = {0x3f800000};
    static const uint16_t narrow_one[] = {0x3c00};
    struct segment segment = {
        .x = (uint8_t *)out,
        .values = 1,
        .dtype = dtype,
        .shift = shift,
        .x1 = dtype == DTYPE_F16 ? (const uint8_t *)narrow_one : (const uint8_t *)one};
    AUTO_PLANE_CODER(planes);
    struct bytes rest = {(const uint8_t *)stream, len};

    *out = 0;
    int err = stream_decode(&segment, 1, 1, &planes, &rest);
    assert_true(err < 0 || rest.len == 0);
    return err;
}

/* A token stream of one value: highest class, raw bits, the token, exponents. 1 has the floor 127.
 */
#define TOKEN(high, low, raw_len, raw, token) "\0" high low raw_len "\0\0\0" raw "\2" token
static void tokens_that_no_encoder_writes_are_refused_F13_F14(void **state)
{
    static const struct {
        size_t len;
        const char *stream;
        uint32_t value; /* 0: refused */
    } cases[] = {
#define CASE(stream, value) {sizeof(stream) - 1, stream, value}
        /* Equal, with no bits, with a bit too many, with a byte too many. */
        CASE(TOKEN("\x80", "\0", "\0", "", "\0"), 0x3f800000),
        CASE(TOKEN("\x80", "\0", "\1", "\0", "\0"), 0),
        /* Class 128, length 1: one bit, which says where; the others are zero. */
        CASE(TOKEN("\x80", "\0", "\1", "\0", "\2"), 0x3f800001),
        CASE(TOKEN("\x80", "\0", "\1", "\1", "\2"), 0x3f7fffff),
        CASE(TOKEN("\x80", "\0", "\1", "\2", "\2"), 0),
        CASE(TOKEN("\x80", "\0", "\1", "\x80", "\2"), 0),
        CASE(TOKEN("\x80", "\0", "\0", "", "\2"), 0),
        CASE(TOKEN("\x80", "\0", "\2", "\0\0", "\2"), 0),
        /* What a length has no place for: any of the two bits in 1, the lower one in 2. */
        CASE(TOKEN("\x80", "\0", "\1", "\0", "\3"), 0),
        CASE(TOKEN("\x80", "\0", "\1", "\0", "\4"), 0),
        CASE(TOKEN("\x81", "\0", "\1", "\0", "\2"), 0x3f800002),
        CASE(TOKEN("\x81", "\0", "\1", "\0", "\3"), 0),
        CASE(TOKEN("\x81", "\0", "\1", "\0", "\4"), 0x3f800003),
        CASE(TOKEN("\x82", "\0", "\1", "\0", "\5"), 0x3f800007),
        CASE(TOKEN("\x83", "\0", "\1", "\2", "\2"), 0x3f800009),
        /* No length at all, a negative one, one that reaches the sign. */
        CASE(TOKEN("\x7f", "\0", "\1", "\0", "\2"), 0),
        CASE(TOKEN("\0", "\0", "\1", "\0", "\2"), 0),
        CASE(TOKEN("\x80", "\0", "\1", "\0", "\6"), 0),
        CASE(TOKEN("\x9d", "\0", "\4", "\0\0\0\0", "\2"), 0x5f800000),
        CASE(TOKEN("\x9e", "\0", "\4", "\0\0\0\0", "\2"), 0x7f800000),
        CASE(TOKEN("\x9f", "\0", "\4", "\0\0\0\0", "\2"), 0),
        CASE(TOKEN("\x3f", "\1", "\4", "\0\0\0\0", "\2"), 0),
        CASE(TOKEN("\x9e", "\0", "\4", "\1\0\0\0", "\2"), 0), /* below zero */
        CASE(TOKEN("\x9e", "\0", "\4", "\0\0\0\0", "\3"), 0), /* above what 31 bits hold */
        CASE(TOKEN("\x9e", "\0", "\4", "\0\0\0\x20", "\2"), 0),
        /* Far: the sign's bit, 23 of mantissa, an exponent. */
        CASE(TOKEN("\x80", "\0", "\3", "\0\0\0", "\1") "\2\x80", 0x40000000),
        CASE(TOKEN("\x80", "\0", "\3", "\x03\0\0", "\1") "\2\xff", 0xff800001),
        CASE(TOKEN("\x80", "\0", "\2", "\0\0", "\1") "\2\x80", 0),
        CASE(TOKEN("\x80", "\0", "\4", "\0\0\0\0", "\1") "\2\x80", 0),
        CASE(TOKEN("\x80", "\0", "\3", "\0\0\0", "\1"), 0),
        /* The head: a method, a class, a length that are too large. */
        CASE("\2\x80\0\0\0\0\0\2\0", 0),
        CASE("\xff\x80\0\0\0\0\0\2\0", 0),
        CASE("\0\x40\1\0\0\0\0\2\0", 0),
        CASE("\0\xff\xff\0\0\0\0\2\0", 0),
        CASE("\0\x80\0\xff\xff\xff\xff\2\0", 0),
        CASE("\0\x80\0\0\0\0", 0),
        CASE("\0\x80", 0),
        CASE("", 0),
    };

    (void)state;
    for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
        uint32_t value;
        int err = decode(&value, DTYPE_F32, 0, cases[i].stream, cases[i].len);
        if (cases[i].value ? err != 0 || value != cases[i].value : err != E_CORRUPT)
            fail_msg("case %zu: %d, 0x%08x %s", i, err, value, err ? error_message() : "");
    }
}

static void a_narrow_type_has_its_own_bounds_F14(void **state)
{
    uint32_t value;

    (void)state;
    /* float16: 1 has the exponent 15 and so the floor 140. A length of 15, not of 16. */
    const char longest[] = TOKEN("\x9b", "\0", "\2", "\0\0", "\2");
    must(decode(&value, DTYPE_F16, 0, longest, sizeof(longest) - 1));
    assert_int_equal(value, 0x7c00);
    const char longer[] = TOKEN("\x9c", "\0", "\2", "\0\0", "\2");
    assert_int_equal(decode(&value, DTYPE_F16, 0, longer, sizeof(longer) - 1), E_CORRUPT);
    /* 5 bits of exponent, 10 of mantissa. */
    const char far[] = TOKEN("\x80", "\0", "\2", "\2\0", "\1") "\2\x1f";
    must(decode(&value, DTYPE_F16, 0, far, sizeof(far) - 1));
    assert_int_equal(value, 0x7c01);
    const char farther[] = TOKEN("\x80", "\0", "\2", "\2\0", "\1") "\2\x20";
    assert_int_equal(decode(&value, DTYPE_F16, 0, farther, sizeof(farther) - 1), E_CORRUPT);
    /* float32 without its lowest 16 bits: 0x3f80, the floor 127 + 16. */
    const char held[] = TOKEN("\x90", "\0", "\1", "\1", "\2");
    must(decode(&value, DTYPE_F32, 16, held, sizeof(held) - 1));
    assert_int_equal(value, 0x3f7f0000);
}

static void a_range_coders_output_is_read_to_its_end_F15(void **state)
{
    static const uint32_t last[] = {0x3f800000, 0x3f800000}, now[] = {0x3f800123, 0x3f800456};
    struct segment segment = {
        .x = (uint8_t *)(uintptr_t)now,
        .x1 = (const uint8_t *)last,
        .values = 2,
        .dtype = DTYPE_F32};
    AUTO_PLANE_CODER(planes);
    AUTO_BUF(stream);
    uint32_t decoded[2];

    (void)state;
    must(stream_encode(&stream, STREAM_RANGE, &segment, 1, 2, &planes));
    segment.x = (uint8_t *)decoded;
    size_t raw = 7 + stream.data[3], length = stream.data[raw];
    assert_int_equal(stream.len, raw + 4 + length);
    for (size_t n = 0; n < 2 * length; n++) {
        AUTO_BUF(forged);
        must(buf_append(&forged, stream.data, stream.len));
        must(buf_resize(&forged, raw + 4 + n)); /* cut, or zeros behind it */
        forged.data[raw] = (uint8_t)n;
        struct bytes rest = buf_bytes(&forged);
        int err = stream_decode(&segment, 1, 2, &planes, &rest);
        assert_int_equal(err, n == length ? 0 : E_CORRUPT);
    }
}

/* Streams without any sense end, and write only where they may. */
static void any_bytes_are_decoded_or_refused(void **state)
{
    uint32_t seed = 99, good = 0;

    (void)state;
    for (unsigned turn = 0; turn < 20000; turn++) {
        uint8_t bytes[256];
        uint32_t values[40], base[40];
        for (size_t i = 0; i < sizeof(bytes); i++) {
            seed = seed * 1664525 + 1013904223;
            bytes[i] = (uint8_t)(seed >> 24);
        }
        memcpy(base, bytes + 64, sizeof(base));
        bytes[0] = turn % 2;
        bytes[2] = turn / 2 % 2;
        memcpy(bytes + 3, (const uint8_t[]){(uint8_t)(turn % 90), 0, 0, 0}, 4);
        memcpy(bytes + 7 + turn % 90, (const uint8_t[]){turn % 2 ? 90 : 0, 0, 0, 0}, 4);
        const struct segment segments[] = {
            {.x = (uint8_t *)values,
             .x1 = (uint8_t *)base,
             .x0 = bytes,
             .values = 20,
             .i = 3,
             .dtype = DTYPE_F32,
             .shift = turn % 3 ? 0 : 16},
            {.x = (uint8_t *)(values + 20),
             .x1 = (uint8_t *)(base + 20),
             .values = 40,
             .dtype = turn % 5 ? DTYPE_F16 : DTYPE_BF16},
        };
        AUTO_PLANE_CODER(planes);
        struct bytes rest = {bytes, sizeof(bytes)};
        int err = stream_decode(segments, 2, 60, &planes, &rest);
        assert_true(err == 0 || err == E_CORRUPT);
        good += err == 0;
    }
    assert_true(good < 20000);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(every_pattern_of_16_bits_comes_back_from_every_other),
        cmocka_unit_test(every_pattern_of_16_bits_comes_back_held_in_float32),
        cmocka_unit_test(the_edges_of_float32_come_back_from_each_other),
        cmocka_unit_test(a_distance_of_every_length_comes_back),
        cmocka_unit_test(segments_of_all_types_share_a_stream),
        cmocka_unit_test(many_values_are_sampled_and_come_back),
        cmocka_unit_test(tokens_written_once_are_read_for_ever),
        cmocka_unit_test(tokens_that_no_encoder_writes_are_refused_F13_F14),
        cmocka_unit_test(a_narrow_type_has_its_own_bounds_F14),
        cmocka_unit_test(a_range_coders_output_is_read_to_its_end_F15),
        cmocka_unit_test(any_bytes_are_decoded_or_refused),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
