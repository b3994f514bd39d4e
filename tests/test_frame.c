/*
 * Tests of format/frame.c: golden frames, round trips over every real payload and every pattern of
 * a 16-bit value, what a damaged or forged frame may do, and payloads in parts. F1 to F8 are of
 * docs/format.md.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <zstd.h>

#include "format/file.h"
#include "format/frame.h"
#include "format/interrupt.h"
#include "format/peft.h"
#include "tests/fault.h"
#include "tests/payloads.h"

static struct frame_vector vector_of(uint64_t bytes, unsigned width, enum frame_group group)
{
    return (struct frame_vector){.bytes = bytes, .width = width, .group = group};
}

static uint64_t vectors_bytes(const struct frame_vector *vectors, size_t count)
{
    uint64_t bytes = 0;

    for (size_t i = 0; i < count; i++)
        bytes += vectors[i].bytes;
    return bytes;
}

static void
encode(struct buf *out, struct bytes payload, const struct frame_vector *vectors, size_t count)
{
    struct digest digest;

    must(digest_of(&digest, payload));
    must(frame_encode(out, payload, &digest, vectors, count, NULL));
}

/* There and back; the frame's size, and in *codec how it was written. */
static size_t
trip(unsigned *codec, struct bytes payload, const struct frame_vector *vectors, size_t count)
{
    AUTO_BUF(frame);
    AUTO_BUF(decoded);
    struct frame_info info;
    struct digest digest;

    encode(&frame, payload, vectors, count);
    must(frame_inspect(&info, buf_bytes(&frame)));
    must(digest_of(&digest, payload));
    assert_true(digest_equal(&digest, &info.payload));
    assert_int_equal(info.payload_bytes, payload.len);
    assert_int_equal(info.depth + info.base_count, 0);
    must(frame_decode(&decoded, buf_bytes(&frame), vectors, count, NULL));
    assert_true(bytes_equal(buf_bytes(&decoded), payload));
    *codec = info.codec;
    return frame.len;
}

/* Golden bytes */

static void the_documents_example_has_its_bytes(void **state)
{
    static const uint8_t golden[] = {
        0x56, 0x46, 0x52, 0x4d, 0x01, 0x01, 0x00, 0x00, 0x00, 0x1a, 0x00, 0x00, 0x00,
        0x00, 0x00, 0x00, 0x9e, 0x38, 0x41, 0x87, 0x05, 0x14, 0xd0, 0x6f, 0x46, 0x00,
        0xa5, 0x9d, 0x6c, 0xd8, 0xc9, 0xa8, 0xd7, 0xe7, 0x22, 0x35, 0xf6, 0x88, 0x54,
        0xc0, 0xaf, 0xc7, 0x0a, 0x8a, 0x3f, 0x12, 0x48, 0xcc, 0x02, 0xcd, 0x02, 0xcc,
        0x02, 0xcc, 0x02, 0x3d, 0x02, 0x00, 0x02, 0x00, 0x02, 0x00, 0x02, 0x00,
    };
    AUTO_PAYLOAD(real);
    AUTO_BUF(frame);

    (void)state;
    payload_read(&real, "llama/step-000");
    encode(&frame, buf_bytes(&real.bytes), real.vectors, real.count);
    assert_int_equal(frame.len, sizeof(golden));
    assert_memory_equal(frame.data, golden, sizeof(golden));
}

/* A plane of each mode, written once by zstd 1.5.4; whatever zstd is linked, this is read so. */
static const struct frame_vector golden_vectors[] = {
    {4, 2, O, DTYPE_BOOL}, {3, 1, D, DTYPE_BOOL}, {124, 2, O, DTYPE_BOOL}};
static const uint8_t golden_frame[] = {
    0x56, 0x46, 0x52, 0x4d, 0x01, 0x01, 0x00, 0x00, 0x83, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00,
    0x07, 0x1a, 0xb1, 0xca, 0x48, 0x5e, 0x61, 0x6c, 0xc0, 0x6e, 0xed, 0xf1, 0x64, 0x97, 0xb7, 0x69,
    0x10, 0x00, 0xee, 0x8f, 0xff, 0x18, 0x97, 0x43, 0xbd, 0x63, 0x69, 0xe2, 0x3e, 0x6f, 0xd2, 0xb3,
    0x00, 0x01, 0x08, 0x0f, 0x01, 0x14, 0x00, 0x00, 0x00, 0x28, 0xb5, 0x2f, 0xfd, 0x20, 0x40, 0x5d,
    0x00, 0x00, 0x20, 0x00, 0x01, 0x02, 0x03, 0x04, 0x54, 0x01, 0x00, 0x0c, 0x01, 0x02, 0x3f,
};

static void golden_payload(struct buf *out)
{
    for (unsigned i = 0; i < 131; i++) {
        bool is_d = i >= 4 && i < 7;
        unsigned at = is_d ? i - 4 : i < 4 ? i : i - 3;
        must(buf_append_byte(
            out, is_d     ? (uint8_t)(7 * at + 1)
                 : at % 2 ? 0x3f
                          : (uint8_t)(at / 32)
        ));
    }
}

static void a_frame_written_once_is_read_for_ever(void **state)
{
    AUTO_BUF(payload);
    AUTO_BUF(decoded);

    (void)state;
    golden_payload(&payload);
    must(frame_decode(
        &decoded, (struct bytes){golden_frame, sizeof(golden_frame)}, golden_vectors, 3, NULL
    ));
    assert_true(bytes_equal(buf_bytes(&decoded), buf_bytes(&payload)));
}

/* Round trips */

static size_t adapters_tried, payload_total, frame_total;

static void adapters_try(const char *below)
{
    AUTO_FREE(char, dir);
    const char *name = NULL;

    must(path_join(&dir, FIXTURES "/adapter", below));
    if (dir_has(dir, PEFT_MODEL)) {
        AUTO_PAYLOAD(real);
        unsigned codec;
        payload_read(&real, below);
        frame_total += trip(&codec, buf_bytes(&real.bytes), real.vectors, real.count);
        assert_int_equal(codec, 1);
        payload_total += real.bytes.len;
        adapters_tried++;
        return;
    }
    DIR *entries = opendir(dir);
    assert_non_null(entries);
    while (dir_next(&name, entries, dir) == 0 && name) {
        char next[256];
        snprintf(next, sizeof(next), "%s%s%s", below, *below ? "/" : "", name);
        adapters_try(next);
    }
    closedir(entries);
}

static void every_real_payload_comes_back_smaller(void **state)
{
    (void)state;
    adapters_tried = payload_total = frame_total = 0;
    adapters_try("");
    assert_int_equal(adapters_tried, 83);
    assert_true(frame_total < payload_total * 82 / 100);
}

static void every_pattern_of_16_bits_comes_back(void **state)
{
    const struct frame_vector vectors[] = {{65536, 2, D, DTYPE_BOOL}, {65536, 2, O, DTYPE_BOOL}};
    AUTO_BUF(payload);
    unsigned codec;

    (void)state;
    must(buf_resize(&payload, 131072));
    for (unsigned i = 0; i < 65536; i++) {
        unsigned pattern = i * 40503 & 0xffff; /* each once, in no order */
        payload.data[2 * i] = (uint8_t)pattern;
        payload.data[2 * i + 1] = (uint8_t)(pattern >> 8);
    }
    trip(&codec, buf_bytes(&payload), vectors, 2);
    const struct frame_vector whole = vector_of(131072, 2, O);
    trip(&codec, buf_bytes(&payload), &whole, 1);
}

static void floats_that_are_no_numbers_come_back(void **state)
{
    static const uint32_t odd[] = {
        0x80000000, 0x00000000, 0x7f800000, 0xff800000, 0x7fc00000, 0xffc00000,
        0x7f800001, 0xffbfffff, 0x7fedcba9, 0x7fffffff, 0x00000001, 0x80000001,
        0x007fffff, 0x807fffff, 0x00800000, 0x7f7fffff,
    };
    AUTO_BUF(payload);
    unsigned codec;

    (void)state;
    for (size_t times = 0; times < 64; times++) {
        for (size_t i = 0; i < sizeof(odd) / sizeof(odd[0]); i++) {
            for (unsigned byte = 0; byte < 32; byte += 8)
                must(buf_append_byte(&payload, (uint8_t)(odd[i] >> byte)));
        }
        const struct frame_vector vectors[] = {
            {payload.len - 4, 4, O, DTYPE_BOOL}, {4, 4, D, DTYPE_BOOL}};
        trip(&codec, buf_bytes(&payload), vectors, 2);
    }
}

static void payloads_of_every_shape_come_back(void **state)
{
    static const struct {
        size_t count;
        struct frame_vector vectors[6];
    } cases[] = {
        {0, {{0, 1, D, DTYPE_BOOL}}},
        {1, {{0, 4, O, DTYPE_BOOL}}},
        {1, {{1, 1, O, DTYPE_BOOL}}},
        {1, {{2, 2, D, DTYPE_BOOL}}},
        {1, {{8, 8, O, DTYPE_BOOL}}},
        {3, {{0, 8, D, DTYPE_BOOL}, {4, 4, D, DTYPE_BOOL}, {0, 1, O, DTYPE_BOOL}}},
        {6,
         {{4, 4, O, DTYPE_BOOL},
          {4, 4, D, DTYPE_BOOL},
          {9, 1, O, DTYPE_BOOL},
          {16, 8, D, DTYPE_BOOL},
          {6, 2, D, DTYPE_BOOL},
          {400, 4, O, DTYPE_BOOL}}},
        {6,
         {{1, 1, D, DTYPE_BOOL},
          {1, 1, O, DTYPE_BOOL},
          {2, 2, D, DTYPE_BOOL},
          {2, 2, O, DTYPE_BOOL},
          {8, 8, D, DTYPE_BOOL},
          {8, 8, O, DTYPE_BOOL}}},
    };
    AUTO_BUF(random);

    (void)state;
    noise(&random, 1000);
    for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
        AUTO_BUF(even);
        unsigned codec;
        size_t bytes = (size_t)vectors_bytes(cases[i].vectors, cases[i].count);
        trip(&codec, (struct bytes){random.data, bytes}, cases[i].vectors, cases[i].count);
        must(buf_resize(&even, bytes));
        trip(&codec, buf_bytes(&even), cases[i].vectors, cases[i].count);
    }
}

static void each_plane_has_its_smallest_mode_F7(void **state)
{
    const struct frame_vector vector = vector_of(1000, 1, O);
    AUTO_BUF(random);
    AUTO_BUF(payload);
    AUTO_BUF(frame);
    unsigned codec;

    (void)state;
    /* Noise does not pay: the payload itself, and its header. */
    noise(&random, 1000);
    assert_int_equal(trip(&codec, buf_bytes(&random), &vector, 1), 48 + 1000);
    assert_int_equal(codec, 0);
    assert_string_equal(frame_codec_name(codec), "raw");
    assert_string_equal(frame_codec_name(1), "planes");
    assert_string_equal(frame_codec_name(2), "delta");
    assert_string_equal(frame_codec_name(3), "unknown");
    /* One plane of each mode: a constant, a regular one and noise. */
    for (size_t i = 0; i < 1000; i++)
        must(buf_append(&payload, (const uint8_t[]){random.data[i], (uint8_t)(i / 100), 9, 9}, 4));
    const struct frame_vector wide = vector_of(4000, 4, O);
    encode(&frame, buf_bytes(&payload), &wide, 1);
    assert_int_equal(frame.data[5], 1);
    assert_int_equal(frame.data[48], 0);
    assert_memory_equal(frame.data + 49, random.data, 1000);
    assert_int_equal(frame.data[1049], 1);
    size_t stored = frame.data[1050] | (size_t)frame.data[1051] << 8;
    assert_true(stored < 200);
    assert_int_equal(frame.len, 1054 + stored + 4);
    assert_memory_equal(frame.data + frame.len - 4, "\x02\x09\x02\x09", 4);
}

static void a_large_payload_is_compressed_and_stops_when_interrupted(void **state)
{
    const struct frame_vector vector = vector_of(2 * MIB, 4, D);
    AUTO_BUF(payload);
    AUTO_BUF(frame);
    struct digest digest;
    unsigned codec;

    (void)state;
    noise(&payload, 2 * MIB);
    for (size_t i = 3; i < payload.len; i += 4)
        payload.data[i] = 0x3c + payload.data[i] % 3;
    assert_true(trip(&codec, buf_bytes(&payload), &vector, 1) < 2 * MIB * 9 / 10);
    must(digest_of(&digest, buf_bytes(&payload)));
    interrupt_flag = 1;
    assert_int_equal(
        frame_encode(&frame, buf_bytes(&payload), &digest, &vector, 1, NULL), E_INTERRUPTED
    );
    interrupt_flag = 0;
    assert_null(frame.data);
}

static void what_is_not_the_payloads_is_not_encoded(void **state)
{
    static const struct {
        size_t count;
        struct frame_vector vectors[2];
        int err;
    } cases[] = {
        {1, {{12, 4, D, DTYPE_BOOL}}, E_INVALID},
        {1, {{20, 4, D, DTYPE_BOOL}}, E_INVALID},
        {1, {{16, 3, D, DTYPE_BOOL}}, E_INVALID},
        {1, {{16, 0, D, DTYPE_BOOL}}, E_INVALID},
        {1, {{16, 16, D, DTYPE_BOOL}}, E_INVALID},
        {2, {{14, 4, D, DTYPE_BOOL}, {2, 2, D, DTYPE_BOOL}}, E_INVALID},
        {1, {{16, 4, (enum frame_group)2, DTYPE_BOOL}}, E_INVALID},
        {2, {{LIMIT_FILE, 4, D, DTYPE_BOOL}, {4, 4, D, DTYPE_BOOL}}, E_LIMIT},
        {2, {{UINT64_MAX - 15, 4, D, DTYPE_BOOL}, {32, 4, D, DTYPE_BOOL}}, E_LIMIT},
        {1, {{LIMIT_FILE, 4, D, DTYPE_BOOL}}, E_INVALID},
    };
    AUTO_BUF(payload);
    struct digest digest;

    (void)state;
    noise(&payload, 16);
    must(digest_of(&digest, buf_bytes(&payload)));
    for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
        AUTO_BUF(frame);
        int err = frame_encode(
            &frame, buf_bytes(&payload), &digest, cases[i].vectors, cases[i].count, NULL
        );
        assert_int_equal(err, cases[i].err);
        assert_null(frame.data);
    }
    /* What would decode to something else than it names never leaves the encoder. */
    const struct frame_vector vector = vector_of(16, 4, D);
    AUTO_BUF(frame);
    digest.bytes[0] ^= 1;
    assert_int_equal(
        frame_encode(&frame, buf_bytes(&payload), &digest, &vector, 1, NULL), E_CORRUPT
    );
    assert_null(frame.data);
}

/* Damage */

static void every_truncation_is_corrupt_F3(void **state)
{
    AUTO_PAYLOAD(real);
    AUTO_BUF(frame);

    (void)state;
    payload_read(&real, "llama-half/step-010");
    encode(&frame, buf_bytes(&real.bytes), real.vectors, real.count);
    for (size_t len = 0; len < frame.len; len++) {
        AUTO_FREE(uint8_t, copy);
        AUTO_BUF(decoded);
        copy = malloc(len + 1);
        assert_non_null(copy);
        memcpy(copy, frame.data, len);
        assert_int_equal(
            frame_decode(&decoded, (struct bytes){copy, len}, real.vectors, real.count, NULL),
            E_CORRUPT
        );
        assert_null(decoded.data);
    }
    must(buf_append_byte(&frame, 0));
    AUTO_BUF(decoded);
    assert_int_equal(
        frame_decode(&decoded, buf_bytes(&frame), real.vectors, real.count, NULL), E_CORRUPT
    );
}

static void every_flipped_bit_is_refused_or_stands_for_nothing_F4(void **state)
{
    AUTO_PAYLOAD(real);
    AUTO_BUF(frame);
    size_t unused = 0;

    (void)state;
    payload_read(&real, "llama/step-120");
    encode(&frame, buf_bytes(&real.bytes), real.vectors, real.count);
    for (size_t bit = 0; bit < 8 * frame.len; bit++) {
        AUTO_BUF(decoded);
        frame.data[bit / 8] ^= (uint8_t)(1 << bit % 8);
        int err = frame_decode(&decoded, buf_bytes(&frame), real.vectors, real.count, NULL);
        frame.data[bit / 8] ^= (uint8_t)(1 << bit % 8);
        if (err == 0) {
            unused++;
            assert_true(bytes_equal(buf_bytes(&decoded), buf_bytes(&real.bytes)));
            continue;
        }
        assert_null(decoded.data);
        if (err != E_CORRUPT && !(bit / 8 >= 4 && bit / 8 < 16))
            fail_msg("bit %zu: %d, %s", bit, err, error_message());
    }
    assert_true(unused < 100);
}

/* The example's frame with one byte of its header changed, or its eight of the length. */
static void headers_are_refused_for_what_they_say_F5_F6(void **state)
{
    static const struct {
        size_t at, len;
        uint8_t bytes[8];
        int err;
        const char *says;
    } cases[] = {
        {0, 1, {'W'}, E_CORRUPT, "without a frame's header"},
        {4, 1, {0}, E_UNSUPPORTED, "version 0"},
        {4, 1, {2}, E_UNSUPPORTED, "version 2"},
        {5, 1, {3}, E_UNSUPPORTED, "codec 3"},
        {5, 1, {2}, E_CORRUPT, "depth 0 in codec 2"},
        {5, 1, {0}, E_CORRUPT, "body of"},
        {6, 2, {1, 0}, E_CORRUPT, "depth 1, 0 bases"},
        {6, 2, {0, 1}, E_CORRUPT, "depth 0, 1 bases"},
        {6, 2, {1, 3}, E_CORRUPT, "depth 1, 3 bases"},
        {6, 2, {64, 1}, E_CORRUPT, "depth 64 in codec 1"},
        {5, 3, {2, 1, 1}, E_CORRUPT, "a difference from another payload"},
        {5, 3, {2, 65, 1}, E_LIMIT, "depth 65"},
        {6, 2, {65, 1}, E_LIMIT, "depth 65"},
        {8, 8, {0}, E_CORRUPT, "does not fit the layout"},
        {8, 8, {0, 0, 0, 0x80}, E_CORRUPT, "does not fit the layout"},
        {8, 8, {1, 0, 0, 0x80}, E_LIMIT, "payload of 2147483649 bytes"},
        {8, 8, {255, 255, 255, 255, 255, 255, 255, 255}, E_LIMIT, "payload of"},
        {16, 1, {0}, E_CORRUPT, "not the one that it names"},
    };
    AUTO_BUF(payload);
    AUTO_BUF(frame);

    (void)state;
    const struct frame_vector vector = vector_of(400, 4, O);
    noise(&payload, 100);
    must(buf_resize(&payload, 400));
    encode(&frame, buf_bytes(&payload), &vector, 1);
    for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
        AUTO_BUF(forged);
        AUTO_BUF(decoded);
        must(buf_append(&forged, frame.data, frame.len));
        memcpy(forged.data + cases[i].at, cases[i].bytes, cases[i].len);
        fault_largest = 0;
        int err = frame_decode(&decoded, buf_bytes(&forged), &vector, 1, NULL);
        if (err != cases[i].err || !strstr(error_message(), cases[i].says))
            fail_msg("case %zu: %d, %s", i, err, error_message());
        assert_null(decoded.data);
        assert_true(fault_largest <= 400);
    }
    /* The bases' digests must be there too. */
    AUTO_BUF(decoded);
    memcpy(frame.data + 5, (const uint8_t[]){2, 1, 2}, 3);
    assert_int_equal(
        frame_decode(&decoded, (struct bytes){frame.data, 48 + 63}, &vector, 1, NULL), E_CORRUPT
    );
    assert_non_null(strstr(error_message(), "inside its header"));
}

static void a_frame_asks_for_no_more_than_its_layout_F1(void **state)
{
    const struct frame_vector claimed = vector_of(LIMIT_FILE, 4, O);
    const struct frame_vector pairs[][2] = {
        {{200, 4, O, DTYPE_BOOL}, {200, 2, O, DTYPE_BOOL}},
        {{396, 4, O, DTYPE_BOOL}, {4, 4, D, DTYPE_BOOL}},
        {{200, 4, O, DTYPE_BOOL}, {204, 4, O, DTYPE_BOOL}},
        {{200, 4, O, DTYPE_BOOL}, {196, 4, O, DTYPE_BOOL}},
        {{399, 1, O, DTYPE_BOOL}, {1, 1, O, DTYPE_BOOL}},
    };
    AUTO_BUF(payload);
    AUTO_BUF(frame);

    (void)state;
    const struct frame_vector vector = vector_of(400, 4, O);
    noise(&payload, 100);
    must(buf_resize(&payload, 400));
    encode(&frame, buf_bytes(&payload), &vector, 1);
    AUTO_BUF(decoded);
    fault_largest = 0;
    assert_int_equal(frame_decode(&decoded, buf_bytes(&frame), &claimed, 1, NULL), E_CORRUPT);
    assert_int_equal(fault_largest, 0);
    for (size_t i = 0; i < sizeof(pairs) / sizeof(pairs[0]); i++) {
        assert_int_equal(frame_decode(&decoded, buf_bytes(&frame), pairs[i], 2, NULL), E_CORRUPT);
        assert_null(decoded.data);
    }
    /* And of what is good: the payload and one plane. */
    fault_largest = 0;
    must(frame_decode(&decoded, buf_bytes(&frame), &vector, 1, NULL));
    assert_int_equal(fault_largest, 400);
}

/* A frame of one plane of 1000 zeros whose body is `body`. */
static int decode_body(const void *body, size_t len)
{
    static const uint8_t zeros[1000];
    const struct frame_vector vector = vector_of(sizeof(zeros), 1, O);
    AUTO_BUF(frame);
    AUTO_BUF(decoded);

    encode(&frame, (struct bytes){zeros, sizeof(zeros)}, &vector, 1);
    must(buf_resize(&frame, 48));
    must(buf_append(&frame, body, len));
    int err = frame_decode(&decoded, buf_bytes(&frame), &vector, 1, NULL);
    assert_int_equal(decoded.data != NULL, err == 0);
    if (err == 0)
        assert_memory_equal(decoded.data, zeros, sizeof(zeros));
    return err;
}

/* A plane of mode zstd that claims `len` + `lie` bytes of zstd and has `len`. */
static int decode_zstd_plane(const uint8_t *zstd, size_t len, int lie)
{
    AUTO_BUF(body);
    size_t stored = len + (size_t)lie;

    must(buf_append_byte(&body, 1));
    for (unsigned i = 0; i < 4; i++)
        must(buf_append_byte(&body, (uint8_t)(stored >> (8 * i))));
    must(buf_append(&body, zstd, len));
    return decode_body(body.data, body.len);
}

/* The zstd frame of so many zeros, with its content's size in it or not, and `more` behind it. */
static int decode_zeros(size_t zeros, int sized, const char *more, size_t more_len, int lie)
{
    uint8_t zstd[4096], plain[2000] = {0};
    ZSTD_CCtx *context = ZSTD_createCCtx();

    assert_non_null(context);
    assert_false(ZSTD_isError(ZSTD_CCtx_setParameter(context, ZSTD_c_contentSizeFlag, sized)));
    size_t len = ZSTD_compress2(context, zstd, sizeof(zstd), plain, zeros);
    ZSTD_freeCCtx(context);
    assert_false(ZSTD_isError(len));
    if (more_len)
        memcpy(zstd + len, more, more_len);
    return decode_zstd_plane(zstd, len + more_len, lie);
}

static void a_plane_is_one_zstd_frame_of_its_size_F2(void **state)
{
    static const char skippable[] = "\x50\x2a\x4d\x18\x04\0\0\0abcd";
    static const char empty_frame[] = "\x28\xb5\x2f\xfd\x20\0\x01\0\0";
    /* 1000 zeros in a raw block: longer than the plane itself. */
    static const uint8_t raw_block[10 + 1000] = {0x28, 0xb5, 0x2f, 0xfd, 0x60, 0xe8, 2, 0x41, 0x1f};

    (void)state;
    must(decode_zeros(1000, 1, NULL, 0, 0));
    assert_int_equal(decode_zeros(1000, 0, NULL, 0, 0), E_CORRUPT);
    assert_int_equal(decode_zeros(999, 1, NULL, 0, 0), E_CORRUPT);
    assert_int_equal(decode_zeros(1001, 1, NULL, 0, 0), E_CORRUPT);
    assert_int_equal(decode_zeros(2000, 1, NULL, 0, 0), E_CORRUPT);
    assert_int_equal(decode_zeros(0, 1, NULL, 0, 0), E_CORRUPT);
    assert_int_equal(decode_zeros(1000, 1, NULL, 0, 1), E_CORRUPT);
    assert_int_equal(decode_zeros(1000, 1, NULL, 0, -1), E_CORRUPT);
    assert_int_equal(decode_zeros(1000, 1, "", 1, 0), E_CORRUPT);
    assert_int_equal(decode_zeros(1000, 1, "", 1, -1), E_CORRUPT);
    assert_int_equal(decode_zeros(1000, 1, skippable, sizeof(skippable) - 1, 0), E_CORRUPT);
    assert_int_equal(decode_zeros(1000, 1, empty_frame, sizeof(empty_frame) - 1, 0), E_CORRUPT);
    assert_int_equal(decode_zstd_plane(raw_block, sizeof(raw_block), 0), E_CORRUPT);
}

static void a_body_is_its_planes_and_nothing_else_F3(void **state)
{
    static const uint8_t long_raw[1002] = {0}, zstd_of_n[1005] = {1, 0xe8, 0x03};

    (void)state;
    must(decode_body(long_raw, 1001));
    must(decode_body("\x02", 2));
    assert_int_equal(decode_body(long_raw, 1000), E_CORRUPT);
    assert_int_equal(decode_body(long_raw, 1002), E_CORRUPT);
    assert_int_equal(decode_body("\x02\0", 3), E_CORRUPT);
    assert_int_equal(decode_body("\x02", 1), E_CORRUPT);
    assert_int_equal(decode_body("\x02\x01", 2), E_CORRUPT);
    assert_int_equal(decode_body("\x03", 2), E_CORRUPT);
    assert_int_equal(decode_body("\xff", 2), E_CORRUPT);
    assert_int_equal(decode_body("", 0), E_CORRUPT);
    assert_int_equal(decode_body(zstd_of_n, sizeof(zstd_of_n)), E_CORRUPT);
    assert_int_equal(decode_body("\x01\xff\xff\xff\xff\x28", 6), E_CORRUPT);
    assert_int_equal(decode_body("\x01\x04\0", 3), E_CORRUPT);
}

static void vectors_are_the_layouts_tensors_but_a_and_b(void **state)
{
    static const char text[] =
        "{\"base_model.vera_A\":[\"F32\",[1],[0,4]],\"x.vera_lambda_d\":[\"F32\",[2],[4,12]],"
        "\"x.vera_lambda_b\":[\"BF16\",[2],[12,16]],\"c\":[\"C64\",[1],[16,24]],"
        "\"f\":[\"F4\",[6],[24,27]],\"base_model.vera_B\":[\"F32\",[1],[27,31]],"
        "\"l\":[\"I64\",[1],[31,39]],\"t\":[\"BOOL\",[1],[39,40]],\"z\":[\"F8_E4M3\",[0],[40,40]]}";
    static const struct frame_vector wanted[] = {
        {8, 4, D, DTYPE_BOOL}, {4, 2, O, DTYPE_BOOL}, {8, 4, O, DTYPE_BOOL}, {3, 1, O, DTYPE_BOOL},
        {8, 8, O, DTYPE_BOOL}, {1, 1, O, DTYPE_BOOL}, {0, 1, O, DTYPE_BOOL},
    };
    AUTO_SAFETENSORS(table);
    AUTO_BUF(header);
    AUTO_FREE(struct frame_vector, vectors);
    size_t count;

    (void)state;
    for (unsigned i = 0; i < 8; i++)
        must(buf_append_byte(&header, (uint8_t)((sizeof(text) - 1) >> (8 * i))));
    must(buf_append_text(&header, text));
    must(safetensors_decode(&table, buf_bytes(&header), header.len + 40));
    must(frame_vectors(&vectors, &count, &table));
    assert_int_equal(count, sizeof(wanted) / sizeof(wanted[0]));
    for (size_t i = 0; i < count; i++) {
        assert_int_equal(vectors[i].bytes, wanted[i].bytes);
        assert_int_equal(vectors[i].width, wanted[i].width);
        assert_int_equal(vectors[i].group, wanted[i].group);
    }
}

/* Faults */

static void every_allocation_failure_is_reported(void **state)
{
    const struct frame_vector vectors[] = {{800, 4, D, DTYPE_BOOL}, {200, 2, O, DTYPE_BOOL}};
    AUTO_BUF(payload);
    struct digest digest;
    int err, n = 0;

    (void)state;
    noise(&payload, 500);
    must(buf_resize(&payload, 1000));
    must(digest_of(&digest, buf_bytes(&payload)));
    do {
        AUTO_BUF(frame);
        AUTO_BUF(decoded);
        AUTO_FRAME_PARTS(parts);
        fault_after = n++;
        err = frame_encode(&frame, buf_bytes(&payload), &digest, vectors, 2, NULL);
        if (err == 0 && (err = frame_decode(&decoded, buf_bytes(&frame), vectors, 2, NULL)) == 0)
            err = frame_parts_cut(&parts, vectors, 2, 300);
        fault_after = -1;
        assert_true(err == 0 || err == E_NOMEM);
        assert_int_equal(parts.count, err ? 0 : 4);
    } while (err < 0);
    assert_true(n > 8);
}

/* Parts */

/* A part's pieces are written "bytes/width"; parts are separated by " | ". */
static const struct {
    uint64_t part_bytes;
    size_t count;
    struct frame_vector vectors[4];
    const char *parts;
} cuts[] = {
    {8, 0, {{0, 1, D, DTYPE_BOOL}}, ""},
    {8, 1, {{0, 4, D, DTYPE_BOOL}}, "0/4"},
    {8, 1, {{8, 4, D, DTYPE_BOOL}}, "8/4"},
    {8, 1, {{12, 4, D, DTYPE_BOOL}}, "8/4 | 4/4"},
    {8, 1, {{24, 8, D, DTYPE_BOOL}}, "8/8 | 8/8 | 8/8"},
    {8, 2, {{8, 4, D, DTYPE_BOOL}, {8, 2, O, DTYPE_BOOL}}, "8/4 | 8/2"},
    {8, 2, {{4, 4, D, DTYPE_BOOL}, {4, 1, O, DTYPE_BOOL}}, "4/4 4/1"},
    {8, 2, {{3, 1, D, DTYPE_BOOL}, {8, 4, O, DTYPE_BOOL}}, "3/1 4/4 | 4/4"},
    {8, 2, {{1, 1, D, DTYPE_BOOL}, {16, 8, O, DTYPE_BOOL}}, "1/1 | 8/8 | 8/8"},
    {9, 2, {{2, 1, D, DTYPE_BOOL}, {16, 8, O, DTYPE_BOOL}}, "2/1 | 8/8 | 8/8"},
    {10, 2, {{2, 2, D, DTYPE_BOOL}, {16, 8, O, DTYPE_BOOL}}, "2/2 8/8 | 8/8"},
    {8, 3, {{8, 4, D, DTYPE_BOOL}, {0, 4, D, DTYPE_BOOL}, {4, 4, O, DTYPE_BOOL}}, "8/4 0/4 | 4/4"},
    {8,
     4,
     {{0, 8, D, DTYPE_BOOL}, {7, 1, D, DTYPE_BOOL}, {0, 2, O, DTYPE_BOOL}, {2, 2, O, DTYPE_BOOL}},
     "0/8 7/1 0/2 | 2/2"},
    {16,
     3,
     {{20, 4, D, DTYPE_BOOL}, {10, 2, D, DTYPE_BOOL}, {3, 1, O, DTYPE_BOOL}},
     "16/4 | 4/4 10/2 2/1 | 1/1"},
};

static void parts_follow_from_the_vectors_and_cut_between_values_F8(void **state)
{
    (void)state;
    for (size_t i = 0; i < sizeof(cuts) / sizeof(cuts[0]); i++) {
        AUTO_FRAME_PARTS(parts);
        AUTO_BUF(text);
        uint64_t at = 0;
        must(frame_parts_cut(&parts, cuts[i].vectors, cuts[i].count, cuts[i].part_bytes));
        for (size_t k = 0; k < parts.count; k++) {
            const struct frame_part *part = &parts.parts[k];
            assert_int_equal(part->begin, at);
            assert_int_equal(part->bytes, vectors_bytes(part->vectors, part->count));
            at += part->bytes;
            must(buf_append_text(&text, k ? " |" : ""));
            for (size_t p = 0; p < part->count; p++)
                must(buf_printf(
                    &text, "%s%ju/%u", k || p ? " " : "", (uintmax_t)part->vectors[p].bytes,
                    part->vectors[p].width
                ));
        }
        assert_int_equal(at, vectors_bytes(cuts[i].vectors, cuts[i].count));
        assert_string_equal(buf_text(&text), cuts[i].parts);
    }
}

/* The payload in parts of `part_bytes`, each a frame of its own, joined again. */
static void parts_trip(
    struct bytes payload, const struct frame_vector *vectors, size_t count, uint64_t part_bytes
)
{
    AUTO_FRAME_PARTS(parts);
    AUTO_BUF(joined);

    must(frame_parts_cut(&parts, vectors, count, part_bytes));
    for (size_t i = 0; i < parts.count; i++) {
        AUTO_BUF(frame);
        struct frame_info info;
        struct digest digest;
        must(frame_part_encode(&frame, payload, &parts.parts[i], NULL));
        must(frame_inspect(&info, buf_bytes(&frame)));
        assert_int_equal(info.payload_bytes, parts.parts[i].bytes);
        must(digest_of(
            &digest,
            (struct bytes){payload.data + parts.parts[i].begin, (size_t)parts.parts[i].bytes}
        ));
        assert_true(digest_equal(&digest, &info.payload));
        must(frame_part_decode(&joined, buf_bytes(&frame), &parts.parts[i], NULL));
    }
    assert_true(bytes_equal(buf_bytes(&joined), payload));
}

static void parts_joined_are_the_payload_F8(void **state)
{
    const struct frame_vector vectors[] = {
        vector_of(404, 4, D), vector_of(100, 2, O), vector_of(33, 1, O), vector_of(88, 8, D),
        vector_of(0, 4, O)};
    AUTO_BUF(payload);

    (void)state;
    noise(&payload, 625);
    for (uint64_t part_bytes = 8; part_bytes < 640; part_bytes++)
        parts_trip(buf_bytes(&payload), vectors, 5, part_bytes);
}

static void a_payload_above_64_mib_is_two_parts_F8(void **state)
{
    const struct frame_vector vectors[] = {
        vector_of(FRAME_PART_BYTES - 6, 2, D), vector_of(12, 4, O)};
    AUTO_FRAME_PARTS(parts);
    AUTO_BUF(payload);

    (void)state;
    must(frame_parts_cut(&parts, vectors, 2, FRAME_PART_BYTES));
    assert_int_equal(parts.count, 2);
    assert_int_equal(parts.parts[0].bytes, FRAME_PART_BYTES - 2);
    assert_int_equal(parts.parts[1].bytes, 8);
    must(buf_resize(&payload, FRAME_PART_BYTES + 6));
    memset(payload.data + payload.len - 12, 0xa5, 12);
    parts_trip(buf_bytes(&payload), vectors, 2, FRAME_PART_BYTES);
}

static void vectors_that_cannot_be_are_not_cut_F8(void **state)
{
    const struct frame_vector odd = vector_of(16, 3, O), uneven = vector_of(14, 4, O);
    const struct frame_vector large[] = {{LIMIT_FILE, 4, D, DTYPE_BOOL}, {1, 1, D, DTYPE_BOOL}};
    AUTO_FRAME_PARTS(parts);

    (void)state;
    assert_int_equal(frame_parts_cut(&parts, &odd, 1, FRAME_PART_BYTES), E_INVALID);
    assert_int_equal(frame_parts_cut(&parts, &uneven, 1, FRAME_PART_BYTES), E_INVALID);
    assert_int_equal(frame_parts_cut(&parts, large, 2, FRAME_PART_BYTES), E_LIMIT);
    assert_null(parts.parts);
    must(frame_parts_cut(&parts, large, 1, FRAME_PART_BYTES));
    assert_int_equal(parts.count, LIMIT_FILE / FRAME_PART_BYTES);
}

static void a_part_in_the_wrong_place_is_refused_F8(void **state)
{
    const struct frame_vector vector = vector_of(16, 4, O);
    AUTO_FRAME_PARTS(parts);
    AUTO_BUF(payload);
    AUTO_BUF(frame);
    AUTO_BUF(joined);

    (void)state;
    noise(&payload, 16);
    must(frame_parts_cut(&parts, &vector, 1, 8));
    must(frame_part_encode(&frame, buf_bytes(&payload), &parts.parts[1], NULL));
    assert_int_equal(
        frame_part_decode(&joined, buf_bytes(&frame), &parts.parts[1], NULL), E_CORRUPT
    );
    assert_int_equal(joined.len, 0);
    assert_int_equal(
        frame_part_encode(&frame, (struct bytes){payload.data, 15}, &parts.parts[1], NULL),
        E_INVALID
    );
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(the_documents_example_has_its_bytes),
        cmocka_unit_test(a_frame_written_once_is_read_for_ever),
        cmocka_unit_test(every_real_payload_comes_back_smaller),
        cmocka_unit_test(every_pattern_of_16_bits_comes_back),
        cmocka_unit_test(floats_that_are_no_numbers_come_back),
        cmocka_unit_test(payloads_of_every_shape_come_back),
        cmocka_unit_test(each_plane_has_its_smallest_mode_F7),
        cmocka_unit_test(a_large_payload_is_compressed_and_stops_when_interrupted),
        cmocka_unit_test(what_is_not_the_payloads_is_not_encoded),
        cmocka_unit_test(every_truncation_is_corrupt_F3),
        cmocka_unit_test(every_flipped_bit_is_refused_or_stands_for_nothing_F4),
        cmocka_unit_test(headers_are_refused_for_what_they_say_F5_F6),
        cmocka_unit_test(a_frame_asks_for_no_more_than_its_layout_F1),
        cmocka_unit_test(a_plane_is_one_zstd_frame_of_its_size_F2),
        cmocka_unit_test(a_body_is_its_planes_and_nothing_else_F3),
        cmocka_unit_test(vectors_are_the_layouts_tensors_but_a_and_b),
        cmocka_unit_test(every_allocation_failure_is_reported),
        cmocka_unit_test(parts_follow_from_the_vectors_and_cut_between_values_F8),
        cmocka_unit_test(parts_joined_are_the_payload_F8),
        cmocka_unit_test(a_payload_above_64_mib_is_two_parts_F8),
        cmocka_unit_test(vectors_that_cannot_be_are_not_cut_F8),
        cmocka_unit_test(a_part_in_the_wrong_place_is_refused_F8),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
