/*
 * Tests of frames that are differences (format/delta.c and what chooses them in format/frame.c):
 * golden bytes, round trips over every run of the fixtures, what may stand where, and what they
 * cost. F9 and on are of docs/format.md; F1 to F8 have tests/test_frame.c.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <fenv.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#if defined(__x86_64__)
#include <immintrin.h>
#endif

#include "format/delta.h"
#include "format/frame.h"
#include "format/interrupt.h"
#include "tests/fault.h"
#include "tests/payloads.h"

#define HEADER 48
#define DELTA  2 /* the codec */

static struct frame_bases bases_of(struct bytes x1, struct bytes x0)
{
    struct frame_bases bases = {.x1 = x1, .x0 = x0, .depth = x0.data ? 1 : 0};

    must(digest_of(&bases.digest1, x1));
    if (x0.data)
        must(digest_of(&bases.digest0, x0));
    return bases;
}

static int encode(
    struct buf *out,
    struct bytes payload,
    const struct frame_vector *vectors,
    size_t count,
    const struct frame_bases *bases
)
{
    struct digest digest;

    must(digest_of(&digest, payload));
    return frame_encode(out, payload, &digest, vectors, count, bases);
}

/* There and back; the frame's size, and in *codec how it was written. */
static size_t
trip(unsigned *codec, const struct payload *x, const struct payload *x1, const struct payload *x0)
{
    struct frame_bases bases = bases_of(
        buf_bytes(&x1->bytes), x0 ? buf_bytes(&x0->bytes) : (struct bytes){0}
    );
    struct frame_info info;
    AUTO_BUF(frame);
    AUTO_BUF(decoded);

    must(encode(&frame, buf_bytes(&x->bytes), x->vectors, x->count, &bases));
    must(frame_inspect(&info, buf_bytes(&frame)));
    if (info.codec == DELTA) {
        assert_int_equal(info.depth, x0 ? 2 : 1);
        assert_int_equal(info.base_count, x0 ? 2 : 1);
        assert_true(digest_equal(&info.bases[0], &bases.digest1));
        assert_true(!x0 || digest_equal(&info.bases[1], &bases.digest0));
    }
    must(frame_decode(&decoded, buf_bytes(&frame), x->vectors, x->count, &bases));
    assert_true(bytes_equal(buf_bytes(&decoded), buf_bytes(&x->bytes)));
    *codec = info.codec;
    return frame.len;
}

/* Golden bytes: a vector of each kind. */

static const struct frame_vector golden_vectors[] = {
    {256, 4, O, DTYPE_F32}, /* equals the base's: 64 values that nothing else makes small */
    {16, 4, O, DTYPE_F32},  /* all equal */
    {6, 1, O, DTYPE_U8},    {24, 8, D, DTYPE_I64}, /* integers */
    {40, 4, D, DTYPE_F32},                         /* floats */
    {16, 4, O, DTYPE_F32},                         /* that hold bfloat16 */
    {8, 2, O, DTYPE_BF16},  {8, 2, D, DTYPE_F16},  {0, 4, D, DTYPE_F32},
};
#define GOLDEN_VECTORS (sizeof(golden_vectors) / sizeof(golden_vectors[0]))

static const uint32_t golden_f32[][10] = {
    {0x3dcccccd, 0x3dd1b717, 0x3dc28f5c, 0x3db851ec, 0x3e051eb8, 0xbd3851ec, 0x3a83126f, 0x00000010,
     0x3dcccccd, 0x3e19999a},
    {0x3dcd5000, 0x3dd22000, 0x3dc31000, 0x3db80000, 0x3e056000, 0xbd37c000, 0x3aa3d70a, 0x00000018,
     0x3dcccccd, 0x3e1a0000},
    {0x3dcdd35a, 0x3dd29c00, 0x3dc38abc, 0x3db7aabb, 0x3e059f00, 0xbd374321, 0xba83126f, 0x00000021,
     0x3dcccccd, 0x3e1a61a9},
};
static const uint16_t golden_held[][4] = {
    {0x3f80, 0xbf80, 0x4000, 0x3e00},
    {0x3f82, 0xbf83, 0x4002, 0x3e01},
    {0x3f84, 0xbf86, 0x4003, 0x3e02}};
static const uint16_t golden_bf16[][4] = {
    {0x3dcc, 0x3dcd, 0xbdcc, 0x3e00},
    {0x3dcd, 0x3dcf, 0xbdcd, 0x3e01},
    {0x3dce, 0x3dd1, 0xbdce, 0x3e01}};
static const uint16_t golden_f16[][4] = {
    {0x2e66, 0x2e70, 0xae66, 0x0001},
    {0x2e6a, 0x2e78, 0xae60, 0x0002},
    {0x2e6f, 0x2e7f, 0xae5b, 0x0003}};
static const uint8_t golden_u8[][6] = {{0}, {0, 1, 2, 253, 254, 255}, {0, 2, 1, 0, 254, 127}};
static const int64_t golden_i64[][3] = {{0}, {7, -1, 1LL << 40}, {8, 0, -(1LL << 40)}};

/* Generation 0, 1 and 2: x0, x1 and x. */
static void golden_payload(struct buf *out, unsigned generation)
{
    const uint32_t constant[4] = {0, 0, 0, 0},
                   half[4] = {0x3f000000, 0x3f000000, 0x3f000000, 0x3f000000};

    out->len = 0;
    noise(out, 256);
    must(buf_append(out, generation == 2 ? half : constant, sizeof(half)));
    must(buf_append(out, golden_u8[generation], sizeof(golden_u8[0])));
    must(buf_append(out, golden_i64[generation], sizeof(golden_i64[0])));
    must(buf_append(out, golden_f32[generation], sizeof(golden_f32[0])));
    for (unsigned i = 0; i < 4; i++) {
        uint32_t bits = (uint32_t)golden_held[generation][i] << 16;
        must(buf_append(out, &bits, sizeof(bits)));
    }
    must(buf_append(out, golden_bf16[generation], sizeof(golden_bf16[0])));
    must(buf_append(out, golden_f16[generation], sizeof(golden_f16[0])));
}

struct golden {
    struct buf x, x1, x0;
    struct frame_bases bases;
};

static void golden_release(struct golden *golden)
{
    buf_release(&golden->x);
    buf_release(&golden->x1);
    buf_release(&golden->x0);
}
#define AUTO_GOLDEN(name) __attribute__((cleanup(golden_release))) struct golden name = golden_new()

static struct golden golden_new(void)
{
    struct golden golden = {0};

    golden_payload(&golden.x, 2);
    golden_payload(&golden.x1, 1);
    golden_payload(&golden.x0, 0);
    golden.bases = bases_of(buf_bytes(&golden.x1), buf_bytes(&golden.x0));
    return golden;
}

static const uint8_t golden_frame[] = {
    0x56, 0x46, 0x52, 0x4d, 0x01, 0x02, 0x02, 0x02, 0x76, 0x01, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00,
    0x91, 0xab, 0x56, 0xa6, 0x9a, 0xf6, 0xa2, 0xeb, 0x68, 0xcc, 0x2e, 0x7d, 0xb2, 0x8b, 0x99, 0xf6,
    0x95, 0xd7, 0x70, 0x48, 0x8e, 0x8e, 0x6f, 0xd6, 0x43, 0x2d, 0x71, 0x4d, 0xbd, 0x62, 0x76, 0x30,
    0x10, 0x83, 0xa9, 0x9d, 0xc2, 0x51, 0xce, 0xbb, 0x7e, 0x3f, 0x8b, 0xa3, 0xa9, 0x3f, 0x54, 0x22,
    0xad, 0x64, 0x13, 0xf5, 0xca, 0xc8, 0x97, 0x22, 0xca, 0x55, 0xa2, 0xa5, 0xe6, 0x73, 0x7b, 0xfd,
    0x47, 0xa6, 0x03, 0x07, 0xcc, 0x15, 0xef, 0xe3, 0xcb, 0xe8, 0x08, 0x55, 0x85, 0x8e, 0xa3, 0xd0,
    0xe8, 0x8d, 0x79, 0x60, 0x20, 0x92, 0x5b, 0x2f, 0xd5, 0xef, 0x64, 0xe1, 0x74, 0x40, 0x41, 0x4b,
    0x00, 0x00, 0x01, 0x02, 0x02, 0x0e, 0x1f, 0x1d, 0x22, 0x00, 0x00, 0x00, 0x10, 0x00, 0x00, 0x00,
    0x00, 0x3f, 0x00, 0x02, 0x02, 0xff, 0x00, 0x00, 0x00, 0xff, 0x00, 0x00, 0x00, 0xff, 0x00, 0x00,
    0x00, 0xff, 0x00, 0x00, 0x00, 0xff, 0x00, 0x00, 0x00, 0x03, 0x02, 0x00, 0x02, 0x00, 0x00, 0x00,
    0x02, 0x01, 0x06, 0x00, 0xff, 0x01, 0x8c, 0x00, 0x13, 0x00, 0x00, 0x00, 0xb4, 0x98, 0x64, 0xee,
    0x5d, 0xfc, 0x76, 0x66, 0x33, 0x4f, 0xbd, 0x49, 0x0c, 0x42, 0x00, 0x00, 0x52, 0x83, 0x00, 0x0f,
    0x00, 0x00, 0x00, 0xd6, 0xcc, 0x6d, 0xc5, 0xf2, 0x45, 0xff, 0xff, 0xf3, 0x4d, 0x1a, 0xa9, 0x82,
    0x5b, 0xb5, 0x01, 0x91, 0x00, 0x01, 0x00, 0x00, 0x00, 0x0a, 0x07, 0x00, 0x00, 0x00, 0xeb, 0xd1,
    0xb5, 0x8f, 0x2d, 0x83, 0x6a,
};

static void the_documents_example_has_its_bytes(void **state)
{
    AUTO_GOLDEN(golden);
    AUTO_BUF(frame);

    (void)state;
    must(encode(&frame, buf_bytes(&golden.x), golden_vectors, GOLDEN_VECTORS, &golden.bases));
    assert_int_equal(frame.len, sizeof(golden_frame));
    assert_memory_equal(frame.data, golden_frame, sizeof(golden_frame));
}

static void a_difference_written_once_is_read_for_ever(void **state)
{
    const struct bytes frame = {golden_frame, sizeof(golden_frame)};
    AUTO_GOLDEN(golden);
    AUTO_BUF(decoded);

    (void)state;
    must(frame_decode(&decoded, frame, golden_vectors, GOLDEN_VECTORS, &golden.bases));
    assert_true(bytes_equal(buf_bytes(&decoded), buf_bytes(&golden.x)));
}

/* Every run of the fixtures, in every form that its values may have. */

/* `fp32`, `bf16`: bits a value that the mean over consecutive checkpoints, from the third one on,
   may cost, every byte of the frames counted; 0: none is promised. */
static const struct {
    const char *name, *before, *first; /* what it was branched from, and that one's own base */
    unsigned checkpoints;
    double fp32, bf16;
} runs[] = {
    {"minilm", NULL, NULL, 33, 21.3, 5.5},
    {"minilm-tenant-0", "minilm/step-160", "minilm/step-150", 5, 19.9, 4.1},
    {"minilm-tenant-1", "minilm/step-160", "minilm/step-150", 5, 19.9, 4.1},
    {"llama", NULL, NULL, 13, 22.4, 0},
    {"llama-c", "llama/step-060", "llama/step-050", 5, 0, 0},
    {"llama-perl", "llama/step-060", "llama/step-050", 5, 0, 0},
    {"llama-half", NULL, NULL, 4, 0, 0},
    {"gpt2", NULL, NULL, 5, 0, 0},
    {"bert", NULL, NULL, 5, 0, 0},
};
#define RUNS (sizeof(runs) / sizeof(runs[0]))

static const struct {
    enum dtype dtype;
    bool held;
} forms[] = {
    {DTYPE_F32, false},
    {DTYPE_BF16, false},
    {DTYPE_F16, false},
    {DTYPE_BF16, true},
    {DTYPE_F16, true}};
#define FORMS (sizeof(forms) / sizeof(forms[0]))

static void checkpoint_read(struct payload *out, unsigned run, unsigned index, unsigned form)
{
    AUTO_PAYLOAD(real);
    char name[64];

    snprintf(name, sizeof(name), "%s/step-%03u", runs[run].name, 10 * index);
    payload_read(&real, name);
    payload_convert(out, &real, forms[form].dtype, forms[form].held);
}

/* Mean bits a value over the run's triples; none of them is written whole. */
static double run_trip(unsigned run, unsigned form)
{
    struct payload last[3] = {0};
    double bits = 0;
    unsigned codec;

    for (unsigned i = 0; i < runs[run].checkpoints; i++) {
        struct payload *x = &last[i % 3], *x1 = &last[(i + 2) % 3], *x0 = &last[(i + 1) % 3];
        payload_release(x);
        checkpoint_read(x, run, i, form);
        double values = (double)(x->bytes.len / x->vectors[0].width);
        if (i > 0)
            trip(&codec, x, x1, NULL);
        if (i < 2)
            continue;
        bits += 8 * (double)trip(&codec, x, x1, x0) / values;
        assert_int_equal(codec, DELTA);
    }
    for (unsigned i = 0; i < 3; i++)
        payload_release(&last[i]);
    return bits / (runs[run].checkpoints - 2);
}

static void every_run_comes_back_at_its_price(void **state)
{
    (void)state;
    for (unsigned run = 0; run < RUNS; run++) {
        double bits[FORMS];
        for (unsigned form = 0; form < FORMS; form++)
            bits[form] = run_trip(run, form);
        printf(
            "%-16s float32 %.3f, bfloat16 %.3f, held in float32 %.3f; float16 %.3f, held %.3f\n",
            runs[run].name, bits[0], bits[1], bits[3], bits[2], bits[4]
        );
        assert_true(runs[run].fp32 == 0 || bits[0] <= runs[run].fp32);
        assert_true(runs[run].bf16 == 0 || bits[1] <= runs[run].bf16);
        /* A byte for each vector says which bits were left out. */
        assert_true(bits[3] <= bits[1] * 1.01 + 0.2);
        assert_true(bits[4] <= bits[2] * 1.01 + 0.2);
    }
}

static void a_branch_is_a_difference_from_where_it_began(void **state)
{
    (void)state;
    for (unsigned run = 0; run < RUNS; run++) {
        AUTO_PAYLOAD(x1);
        AUTO_PAYLOAD(x0);
        unsigned codec;
        if (!runs[run].before)
            continue;
        payload_read(&x1, runs[run].before);
        payload_read(&x0, runs[run].first);
        for (unsigned i = 0; i < runs[run].checkpoints; i++) {
            AUTO_PAYLOAD(x);
            checkpoint_read(&x, run, i, 0);
            size_t bytes = trip(&codec, &x, &x1, &x0);
            assert_int_equal(codec, DELTA);
            /* The first one is the same vectors; a tenant also has a classifier of its own. */
            assert_true(bytes < (i == 0 ? x.bytes.len / 20 + 200 : x.bytes.len * 85 / 100));
        }
    }
}

/* What has no bits of its own costs none. */

static void what_equals_the_base_or_is_constant_costs_a_few_bytes(void **state)
{
    AUTO_PAYLOAD(x1);
    AUTO_PAYLOAD(x);
    unsigned codec;

    (void)state;
    payload_read(&x1, "minilm/step-310");
    payload_read(&x, "minilm/step-310");
    assert_true(trip(&codec, &x, &x1, NULL) <= HEADER + DIGEST_SIZE + 2);
    assert_int_equal(codec, DELTA);
    /* Every second vector becomes a constant of its own. */
    uint8_t *at = x.bytes.data;
    for (size_t i = 0; i < x.count; at += x.vectors[i++].bytes) {
        float value = 0.01F * (float)i;
        for (size_t k = 0; i % 2 && k < x.vectors[i].bytes; k += sizeof(value))
            memcpy(at + k, &value, sizeof(value));
    }
    assert_true(trip(&codec, &x, &x1, NULL) <= HEADER + DIGEST_SIZE + 5 * x.count);
    assert_int_equal(codec, DELTA);
    /* One value of one vector: that vector and nothing else. */
    payload_release(&x);
    payload_read(&x, "minilm/step-310");
    x.bytes.data[4] ^= 0x10;
    size_t bytes = trip(&codec, &x, &x1, NULL);
    assert_int_equal(codec, DELTA);
    assert_true(bytes <= HEADER + DIGEST_SIZE + x.vectors[0].bytes / 8 + 64);
}

static void what_a_difference_does_not_make_smaller_is_whole(void **state)
{
    const struct frame_vector vector = {8000, 4, O, DTYPE_F32};
    AUTO_PAYLOAD(initial);
    AUTO_PAYLOAD(trained);
    AUTO_BUF(random);
    AUTO_BUF(frame);
    AUTO_BUF(zeros);
    struct frame_info info;
    unsigned codec;

    (void)state;
    noise(&random, 8000);
    must(buf_resize(&zeros, 8000));
    struct frame_bases bases = bases_of(buf_bytes(&zeros), (struct bytes){0});
    must(encode(&frame, buf_bytes(&random), &vector, 1, &bases));
    must(frame_inspect(&info, buf_bytes(&frame)));
    assert_int_equal(info.codec, 0);
    assert_int_equal(frame.len, HEADER + 8000);
    /* Values that were just zeros: planes know as much. */
    payload_read(&initial, "minilm/step-000");
    payload_read(&trained, "minilm/step-320");
    size_t whole = trip(&codec, &trained, &initial, NULL);
    buf_release(&frame);
    must(encode(&frame, buf_bytes(&trained.bytes), trained.vectors, trained.count, NULL));
    assert_true(whole <= frame.len);
}

static void a_base_of_any_content_will_do(void **state)
{
    AUTO_PAYLOAD(x);
    AUTO_PAYLOAD(other);
    AUTO_PAYLOAD(third);
    unsigned codec;

    (void)state;
    payload_read(&x, "llama/step-120");
    payload_read(&other, "llama-half/step-030");
    payload_read(&third, "llama-c/step-010");
    trip(&codec, &x, &other, &third);
    trip(&codec, &other, &x, NULL);
    for (size_t i = 0; i + 4 <= other.bytes.len; i += 4) /* no numbers at all */
        memcpy(other.bytes.data + i, (const uint8_t[]){1, 0, i % 8 ? 0x80 : 0xc0, 0xff}, 4);
    trip(&codec, &x, &other, &third);
    trip(&codec, &x, &third, &other);
    trip(&codec, &other, &x, &third);
}

/* Depth */

static void a_33rd_difference_is_written_whole_F9(void **state)
{
    AUTO_GOLDEN(golden);

    (void)state;
    for (unsigned depth = 0; depth < 40; depth++) {
        AUTO_BUF(frame);
        AUTO_BUF(decoded);
        struct frame_info info;
        golden.bases.depth = depth;
        must(encode(&frame, buf_bytes(&golden.x), golden_vectors, GOLDEN_VECTORS, &golden.bases));
        must(frame_inspect(&info, buf_bytes(&frame)));
        assert_int_equal(info.depth, depth < FRAME_DEPTH_MAX ? depth + 1 : 0);
        assert_int_equal(info.codec == DELTA, depth < FRAME_DEPTH_MAX);
        must(
            frame_decode(&decoded, buf_bytes(&frame), golden_vectors, GOLDEN_VECTORS, &golden.bases)
        );
    }
}

static void depth_64_is_read_and_65_is_not_F6(void **state)
{
    static const struct {
        unsigned base, frame;
        int err;
    } cases[] = {
        {0, 1, 0},         {63, 64, 0},       {64, 65, E_LIMIT},   {254, 255, E_LIMIT},
        {0, 2, E_CORRUPT}, {1, 1, E_CORRUPT}, {63, 63, E_CORRUPT}, {0, 0, E_CORRUPT},
    };
    AUTO_GOLDEN(golden);

    (void)state;
    for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
        uint8_t frame[sizeof(golden_frame)];
        AUTO_BUF(decoded);
        memcpy(frame, golden_frame, sizeof(frame));
        frame[6] = (uint8_t)cases[i].frame;
        golden.bases.depth = cases[i].base;
        assert_int_equal(
            frame_decode(
                &decoded, (struct bytes){frame, sizeof(frame)}, golden_vectors, GOLDEN_VECTORS,
                &golden.bases
            ),
            cases[i].err
        );
        assert_int_equal(decoded.data != NULL, cases[i].err == 0);
    }
}

/* Bases */

static int decode_from(const struct frame_bases *bases)
{
    const struct bytes frame = {golden_frame, sizeof(golden_frame)};
    AUTO_BUF(decoded);

    fault_largest = 0;
    int err = frame_decode(&decoded, frame, golden_vectors, GOLDEN_VECTORS, bases);
    assert_int_equal(decoded.data != NULL, err == 0);
    return err;
}

static void any_other_base_is_refused_before_memory_is_taken_F10(void **state)
{
    AUTO_GOLDEN(golden);

    (void)state;
    const struct frame_bases right = golden.bases;
    struct frame_bases wrong[9];
    for (size_t i = 0; i < sizeof(wrong) / sizeof(wrong[0]); i++)
        wrong[i] = right;
    wrong[0].digest1.bytes[31] ^= 1;
    wrong[1].digest0.bytes[0] ^= 1;
    wrong[2].x0 = (struct bytes){0};
    wrong[3].x1 = (struct bytes){0};
    wrong[4].x1.len--;
    wrong[5].x0.len--;
    wrong[6] = (struct frame_bases){right.x0, right.x1, right.digest0, right.digest1, 1};
    wrong[7].depth = 0;
    wrong[8] = (struct frame_bases){0};
    must(decode_from(&right));
    for (size_t i = 0; i < sizeof(wrong) / sizeof(wrong[0]); i++) {
        assert_int_equal(decode_from(&wrong[i]), E_CORRUPT);
        assert_int_equal(fault_largest, 0);
    }
    assert_int_equal(decode_from(NULL), E_CORRUPT);
    /* Bytes that are not what their digest says: the payload's tells. */
    golden.x1.data[300] ^= 1;
    assert_int_equal(decode_from(&golden.bases), E_CORRUPT);
    assert_non_null(strstr(error_message(), "not the one that it names"));
}

static void the_encoder_takes_no_base_of_another_size(void **state)
{
    AUTO_GOLDEN(golden);
    AUTO_BUF(frame);

    (void)state;
    struct frame_bases shorter = golden.bases, one_shorter = golden.bases, none = {0};
    shorter.x1.len--;
    one_shorter.x0.len--;
    const struct frame_bases *const wrong[] = {&shorter, &one_shorter, &none};
    for (size_t i = 0; i < sizeof(wrong) / sizeof(wrong[0]); i++) {
        assert_int_equal(
            encode(&frame, buf_bytes(&golden.x), golden_vectors, GOLDEN_VECTORS, wrong[i]),
            E_INVALID
        );
        assert_null(frame.data);
    }
    /* An empty payload has no difference, whatever the bases are. */
    const struct frame_vector empty = {0, 4, D, DTYPE_F32};
    struct frame_info info;
    must(encode(&frame, (struct bytes){0}, &empty, 1, &none));
    must(frame_inspect(&info, buf_bytes(&frame)));
    assert_int_equal(info.depth, 0);
}

static void an_empty_difference_is_refused_F10(void **state)
{
    const struct frame_vector empty = {0, 4, D, DTYPE_F32};
    const struct frame_bases bases = bases_of(
        (struct bytes){(const uint8_t *)"", 0}, (struct bytes){0}
    );
    AUTO_BUF(frame);
    AUTO_BUF(decoded);

    (void)state;
    must(encode(&frame, (struct bytes){0}, &empty, 1, NULL));
    memcpy(frame.data + 5, (const uint8_t[]){DELTA, 1, 1}, 3);
    must(buf_append(&frame, bases.digest1.bytes, DIGEST_SIZE));
    must(buf_append(&frame, "\x02\x00", 2));
    assert_int_equal(frame_decode(&decoded, buf_bytes(&frame), &empty, 1, &bases), E_CORRUPT);
}

/* Damage */

/* A frame and what it decodes from and to. */
struct victim {
    struct bytes frame, payload;
    const struct frame_vector *vectors;
    size_t count;
    const struct frame_bases *bases;
};

static int victim_decode(const struct victim *victim, const uint8_t *frame, size_t len)
{
    AUTO_BUF(decoded);

    fault_largest = 0;
    int err = frame_decode(
        &decoded, (struct bytes){frame, len}, victim->vectors, victim->count, victim->bases
    );
    assert_int_equal(decoded.data != NULL, err == 0);
    assert_true(err < 0 || bytes_equal(buf_bytes(&decoded), victim->payload));
    /* The payload and as much again; the vectors' table. */
    assert_true(fault_largest <= victim->payload.len + 100 * victim->count);
    return err;
}

static void victim_cut(const struct victim *victim)
{
    for (size_t len = 0; len < victim->frame.len; len++) {
        AUTO_FREE(uint8_t, copy);
        copy = malloc(len + 1);
        assert_non_null(copy);
        memcpy(copy, victim->frame.data, len);
        assert_int_equal(victim_decode(victim, copy, len), E_CORRUPT);
    }
    AUTO_BUF(longer);
    must(buf_append(&longer, victim->frame.data, victim->frame.len));
    must(buf_append_byte(&longer, 0));
    assert_int_equal(victim_decode(victim, longer.data, longer.len), E_CORRUPT);
}

/* How many bits can be flipped without any effect. */
static unsigned victim_flip(const struct victim *victim)
{
    AUTO_BUF(flipped);
    unsigned unused = 0;

    must(buf_append(&flipped, victim->frame.data, victim->frame.len));
    for (size_t bit = 0; bit < 8 * flipped.len; bit++) {
        flipped.data[bit / 8] ^= (uint8_t)(1 << bit % 8);
        int err = victim_decode(victim, flipped.data, flipped.len);
        flipped.data[bit / 8] ^= (uint8_t)(1 << bit % 8);
        assert_true(err == 0 || err == E_CORRUPT || err == E_UNSUPPORTED || err == E_LIMIT);
        unused += err == 0;
    }
    return unused;
}

static void each_victim(unsigned (*harm)(const struct victim *), unsigned most)
{
    const struct bytes frame = {golden_frame, sizeof(golden_frame)};
    AUTO_GOLDEN(golden);
    const struct victim victim = {
        frame, buf_bytes(&golden.x), golden_vectors, GOLDEN_VECTORS, &golden.bases};
    assert_true(harm(&victim) <= most);

    /* A real one, by the range coder. */
    AUTO_PAYLOAD(x);
    AUTO_PAYLOAD(x1);
    AUTO_BUF(ranged);
    payload_read(&x, "bert/step-020");
    payload_read(&x1, "bert/step-010");
    struct frame_bases bases = bases_of(buf_bytes(&x1.bytes), (struct bytes){0});
    must(encode(&ranged, buf_bytes(&x.bytes), x.vectors, x.count, &bases));
    assert_int_equal(ranged.data[5], DELTA);
    const struct victim real = {
        buf_bytes(&ranged), buf_bytes(&x.bytes), x.vectors, x.count, &bases};
    assert_true(harm(&real) <= most);

    /* The same behind so many values that do not change that it is done by tokens. */
    AUTO_BUF(long_x);
    AUTO_BUF(long_x1);
    AUTO_BUF(tokens);
    struct frame_vector vectors[2] = {{20000, 4, O, DTYPE_F32}, {x.bytes.len, 4, O, DTYPE_F32}};
    noise(&long_x, 20000);
    noise(&long_x1, 20000);
    must(buf_append(&long_x, x.bytes.data, x.bytes.len));
    must(buf_append(&long_x1, x1.bytes.data, x1.bytes.len));
    struct frame_bases long_bases = bases_of(buf_bytes(&long_x1), (struct bytes){0});
    must(encode(&tokens, buf_bytes(&long_x), vectors, 2, &long_bases));
    assert_int_equal(tokens.data[5], DELTA);
    const struct victim token = {buf_bytes(&tokens), buf_bytes(&long_x), vectors, 2, &long_bases};
    assert_true(harm(&token) <= most);
}

static unsigned cut_harm(const struct victim *victim)
{
    victim_cut(victim);
    return 0;
}

static void every_truncation_is_corrupt_F3(void **state)
{
    (void)state;
    each_victim(cut_harm, 0);
}

static void every_flipped_bit_is_refused_or_stands_for_nothing_F4(void **state)
{
    (void)state;
    each_victim(victim_flip, 40);
}

/* The table and the integers of a body */

/* Decode a body that was made by hand, of vectors of which each has one or more 4-byte values. */
static int decode_body(
    const char *body, size_t len, const struct frame_vector *vectors, size_t count, bool two_bases
)
{
    uint8_t x[64], x1[64] = {1, 2, 3}, x0[64] = {3, 2, 1};
    const struct delta_bases bases = {x1, two_bases ? x0 : NULL};

    return delta_decode(x, (struct bytes){(const uint8_t *)body, len}, &bases, vectors, count);
}

static void the_table_says_only_what_the_vectors_may_be_F11(void **state)
{
    static const struct frame_vector f32[] = {{16, 4, D, DTYPE_F32}};
    static const struct frame_vector i32[] = {{16, 4, D, DTYPE_I32}};
    static const struct frame_vector bf16[] = {{16, 2, D, DTYPE_BF16}};
/* 16 bits of range coder that give four equal values: a far share of none, and no class. */
#define EQUAL "\1\0\0\0\0\0\0\4\0\0\0\xff\xff\xff\xff"
    static const struct {
        const struct frame_vector *vector;
        bool two_bases;
        size_t len;
        const char *body, *says; /* NULL: it is good */
    } cases[] = {
        {f32, true, 2, "\2\0", NULL},
        {f32, true, 7, "\2\1\0abcd", NULL},
        {i32, true, 10, "\2\2\2\1\2\2\2\3\2\4", NULL},
        {f32, true, 4, "\2\x13\2\0", "ends inside its body"},
        {f32, true, 4 + 15, "\2\x13\2\0" EQUAL, NULL},
        {f32, false, 4 + 15, "\2\x13\2\0" EQUAL, NULL},
        {f32, false, 4 + 15, "\2\x14\2\0" EQUAL, "vector 0 has tag 20"},
        {f32, true, 4 + 15, "\2\x14\2\0" EQUAL, NULL},
        {f32, true, 4 + 15, "\2\x03\2\0" EQUAL, NULL},
        {f32, true, 4 + 15, "\2\x2b\2\0" EQUAL, NULL},
        {f32, true, 4 + 15, "\2\x2c\2\0" EQUAL, "vector 0 has tag 44"},
        {f32, true, 4 + 15, "\2\xff\2\0" EQUAL, "vector 0 has tag 255"},
        {i32, true, 2 + 15, "\2\x13" EQUAL, "vector 0 has tag 19"},
        {bf16, true, 2 + 15, "\2\x13" EQUAL, NULL},
        {f32, true, 4 + 15, "\2\x13\2\x08" EQUAL, NULL},
        {f32, true, 4 + 15, "\2\x13\2\x10" EQUAL, NULL},
        {f32, true, 4 + 15, "\2\x13\2\x01" EQUAL, "vector 0 has shift 1"},
        {f32, true, 4 + 15, "\2\x13\2\x07" EQUAL, "vector 0 has shift 7"},
        {f32, true, 4 + 15, "\2\x13\2\x11" EQUAL, "vector 0 has shift 17"},
        {f32, true, 3, "\2\0\0", "1 bytes behind its body"},
        {f32, true, 0, "", "ends inside its body"},
        {i32, true, 8, "\2\2\2\1\2\2\2\3", "ends inside its body"},
        {f32, true, 2, "\3\0", "a plane of mode 3"},
    };

    (void)state;
    for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
        int err = decode_body(cases[i].body, cases[i].len, cases[i].vector, 1, cases[i].two_bases);
        if (cases[i].says ? err != E_CORRUPT || !strstr(error_message(), cases[i].says) : err != 0)
            fail_msg("case %zu: %d, %s", i, err, error_message());
    }
}

static void integers_of_every_width_come_back(void **state)
{
    static const struct frame_vector vectors[] = {
        {256, 1, O, DTYPE_I8},  {256, 1, D, DTYPE_F8_E4M3}, {512, 2, O, DTYPE_U16},
        {512, 4, D, DTYPE_U32}, {512, 8, O, DTYPE_F64},     {512, 4, O, DTYPE_C64},
        {512, 8, D, DTYPE_U64}, {3, 1, O, DTYPE_F4},
    };
    AUTO_BUF(x);
    AUTO_BUF(x1);

    (void)state;
    noise(&x1, 3075);
    for (unsigned step = 1; step < 8; step++) {
        AUTO_BUF(body);
        uint8_t decoded[3075];
        x.len = 0;
        must(buf_append(&x, x1.data, x1.len));
        for (size_t i = 0; i < x.len; i += step) /* carries and borrows of every length */
            x.data[i] = (uint8_t)(x.data[i] + (i % 3 ? step : 0 - step));
        const struct delta_bases bases = {x1.data, NULL};
        must(delta_encode(&body, buf_bytes(&x), &bases, vectors, 8));
        must(delta_decode(decoded, buf_bytes(&body), &bases, vectors, 8));
        assert_memory_equal(decoded, x.data, x.len);
        assert_true(step < 4 || body.len < x.len);
    }
}

/* Surroundings */

static void the_callers_floating_point_state_changes_nothing_F12(void **state)
{
    const int modes[] = {FE_UPWARD, FE_DOWNWARD, FE_TOWARDZERO};
    AUTO_GOLDEN(golden);

    (void)state;
    for (size_t i = 0; i < sizeof(modes) / sizeof(modes[0]); i++) {
        AUTO_BUF(frame);
        AUTO_BUF(decoded);
        fesetround(modes[i]);
#if defined(__x86_64__)
        _mm_setcsr(_mm_getcsr() | 0x8040); /* FTZ and DAZ */
        unsigned before = _mm_getcsr() & 0xffc0;
#endif
        int err = encode(
            &frame, buf_bytes(&golden.x), golden_vectors, GOLDEN_VECTORS, &golden.bases
        );
        if (err == 0)
            err = frame_decode(
                &decoded, (struct bytes){golden_frame, sizeof(golden_frame)}, golden_vectors,
                GOLDEN_VECTORS, &golden.bases
            );
        bool kept = fegetround() == modes[i];
#if defined(__x86_64__)
        kept = kept && (_mm_getcsr() & 0xffc0) == before;
        _mm_setcsr(0x1f80);
#endif
        fesetround(FE_TONEAREST);
        must(err);
        assert_true(kept);
        assert_memory_equal(frame.data, golden_frame, sizeof(golden_frame));
    }
}

static void every_allocation_failure_is_reported(void **state)
{
    AUTO_GOLDEN(golden);
    struct digest digest;
    int err, n = 0;

    (void)state;
    must(digest_of(&digest, buf_bytes(&golden.x)));
    do {
        AUTO_BUF(frame);
        AUTO_BUF(decoded);
        fault_after = n++;
        err = frame_encode(
            &frame, buf_bytes(&golden.x), &digest, golden_vectors, GOLDEN_VECTORS, &golden.bases
        );
        if (err == 0)
            err = frame_decode(
                &decoded, buf_bytes(&frame), golden_vectors, GOLDEN_VECTORS, &golden.bases
            );
        fault_after = -1;
        assert_true(err == 0 || err == E_NOMEM);
        assert_int_equal(decoded.data != NULL, err == 0);
    } while (err < 0);
    assert_true(n > 20);
}

static void an_interrupt_is_seen_in_both_directions(void **state)
{
    const struct bytes frame = {golden_frame, sizeof(golden_frame)};
    AUTO_GOLDEN(golden);
    AUTO_BUF(out);

    (void)state;
    interrupt_flag = 1;
    int encoded = encode(&out, buf_bytes(&golden.x), golden_vectors, GOLDEN_VECTORS, &golden.bases);
    int decoded = frame_decode(&out, frame, golden_vectors, GOLDEN_VECTORS, &golden.bases);
    interrupt_flag = 0;
    assert_int_equal(encoded, E_INTERRUPTED);
    assert_int_equal(decoded, E_INTERRUPTED);
    assert_null(out.data);
}

static void parts_are_differences_from_the_bases_same_parts_F8(void **state)
{
    AUTO_PAYLOAD(x);
    AUTO_PAYLOAD(x1);
    AUTO_PAYLOAD(x0);
    const size_t sizes[] = {256, 1000, 1024, 4096, 6656, 10000};

    (void)state;
    payload_read(&x, "llama/step-120");
    payload_read(&x1, "llama/step-110");
    payload_read(&x0, "llama/step-100");
    const struct frame_bases bases = bases_of(buf_bytes(&x1.bytes), buf_bytes(&x0.bytes));
    for (size_t i = 0; i < sizeof(sizes) / sizeof(sizes[0]); i++) {
        AUTO_FRAME_PARTS(parts);
        AUTO_BUF(joined);
        unsigned differences = 0;
        must(frame_parts_cut(&parts, x.vectors, x.count, sizes[i]));
        for (size_t k = 0; k < parts.count; k++) {
            AUTO_BUF(frame);
            must(frame_part_encode(&frame, buf_bytes(&x.bytes), &parts.parts[k], &bases));
            differences += frame.data[5] == DELTA;
            must(frame_part_decode(&joined, buf_bytes(&frame), &parts.parts[k], &bases));
        }
        assert_true(bytes_equal(buf_bytes(&joined), buf_bytes(&x.bytes)));
        assert_true(sizes[i] < 1024 || differences > 0);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(the_documents_example_has_its_bytes),
        cmocka_unit_test(a_difference_written_once_is_read_for_ever),
        cmocka_unit_test(every_run_comes_back_at_its_price),
        cmocka_unit_test(a_branch_is_a_difference_from_where_it_began),
        cmocka_unit_test(what_equals_the_base_or_is_constant_costs_a_few_bytes),
        cmocka_unit_test(what_a_difference_does_not_make_smaller_is_whole),
        cmocka_unit_test(a_base_of_any_content_will_do),
        cmocka_unit_test(a_33rd_difference_is_written_whole_F9),
        cmocka_unit_test(depth_64_is_read_and_65_is_not_F6),
        cmocka_unit_test(any_other_base_is_refused_before_memory_is_taken_F10),
        cmocka_unit_test(the_encoder_takes_no_base_of_another_size),
        cmocka_unit_test(an_empty_difference_is_refused_F10),
        cmocka_unit_test(every_truncation_is_corrupt_F3),
        cmocka_unit_test(every_flipped_bit_is_refused_or_stands_for_nothing_F4),
        cmocka_unit_test(the_table_says_only_what_the_vectors_may_be_F11),
        cmocka_unit_test(integers_of_every_width_come_back),
        cmocka_unit_test(the_callers_floating_point_state_changes_nothing_F12),
        cmocka_unit_test(every_allocation_failure_is_reported),
        cmocka_unit_test(an_interrupt_is_seen_in_both_directions),
        cmocka_unit_test(parts_are_differences_from_the_bases_same_parts_F8),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
