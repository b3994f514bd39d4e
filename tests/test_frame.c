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

#include "format/file.h"
#include "format/frame.h"
#include "format/peft.h"
#include "tests/fault.h"

static void must(int err)
{
    if (err < 0)
        fail_msg("%s", error_message());
}

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

/* Bytes without a pattern, the same in every run. */
static void noise(struct buf *out, size_t len)
{
    uint32_t state = 1;

    for (size_t i = 0; i < len; i++) {
        state = state * 1664525 + 1013904223;
        must(buf_append_byte(out, (uint8_t)(state >> 24)));
    }
}

/* Parts */

#define D FRAME_GROUP_D
#define O FRAME_GROUP_OTHER

/* A part's pieces are written "bytes/width"; parts are separated by " | ". */
static const struct {
    uint64_t part_bytes;
    size_t count;
    struct frame_vector vectors[4];
    const char *parts;
} cuts[] = {
    {8, 0, {{0, 1, D}}, ""},
    {8, 1, {{0, 4, D}}, "0/4"},
    {8, 1, {{8, 4, D}}, "8/4"},
    {8, 1, {{12, 4, D}}, "8/4 | 4/4"},
    {8, 1, {{24, 8, D}}, "8/8 | 8/8 | 8/8"},
    {8, 2, {{8, 4, D}, {8, 2, O}}, "8/4 | 8/2"},
    {8, 2, {{4, 4, D}, {4, 1, O}}, "4/4 4/1"},
    {8, 2, {{3, 1, D}, {8, 4, O}}, "3/1 4/4 | 4/4"},
    {8, 2, {{1, 1, D}, {16, 8, O}}, "1/1 | 8/8 | 8/8"},
    {9, 2, {{2, 1, D}, {16, 8, O}}, "2/1 | 8/8 | 8/8"},
    {10, 2, {{2, 2, D}, {16, 8, O}}, "2/2 8/8 | 8/8"},
    {8, 3, {{8, 4, D}, {0, 4, D}, {4, 4, O}}, "8/4 0/4 | 4/4"},
    {8, 4, {{0, 8, D}, {7, 1, D}, {0, 2, O}, {2, 2, O}}, "0/8 7/1 0/2 | 2/2"},
    {16, 3, {{20, 4, D}, {10, 2, D}, {3, 1, O}}, "16/4 | 4/4 10/2 2/1 | 1/1"},
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
        must(frame_part_encode(&frame, payload, &parts.parts[i]));
        must(frame_inspect(&info, buf_bytes(&frame)));
        assert_int_equal(info.payload_bytes, parts.parts[i].bytes);
        must(digest_of(
            &digest,
            (struct bytes){payload.data + parts.parts[i].begin, (size_t)parts.parts[i].bytes}
        ));
        assert_true(digest_equal(&digest, &info.payload));
        must(frame_part_decode(&joined, buf_bytes(&frame), &parts.parts[i]));
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
    must(frame_part_encode(&frame, buf_bytes(&payload), &parts.parts[1]));
    assert_int_equal(frame_part_decode(&joined, buf_bytes(&frame), &parts.parts[1]), E_CORRUPT);
    assert_int_equal(joined.len, 0);
    assert_int_equal(
        frame_part_encode(&frame, (struct bytes){payload.data, 15}, &parts.parts[1]), E_INVALID
    );
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(parts_follow_from_the_vectors_and_cut_between_values_F8),
        cmocka_unit_test(parts_joined_are_the_payload_F8),
        cmocka_unit_test(a_payload_above_64_mib_is_two_parts_F8),
        cmocka_unit_test(a_part_in_the_wrong_place_is_refused_F8),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
