/*
 * Tests of format/control.c: golden bytes of requests and replies, every flipped bit, requests that
 * arrive in pieces, and what is asked for before memory is taken.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <string.h>

#include "format/control.h"
#include "format/file.h"
#include "format/limits.h"
#include "tests/fault.h"

static const uint8_t golden_swap[CONTROL_REQUEST_BYTES] = {'V',  'S',  'R',  'Q',  1, 2, 0, 0,
                                                           0x78, 0x56, 0x34, 0x12, 0, 0, 0, 0};

static const struct control_state golden_state = {
    .epoch = 3,
    .modules = 36,
    .attached = true,
    .had_previous = true,
    .pinned = true,
    .snapshot = {{1, 2, 3}},
    .previous = {{9}},
    .nanoseconds = 0x0102030405,
    .stopped_nanoseconds = 7,
};

/* A bare bundle of a fixture, and the request that carries it. */
static void bundle_make(struct buf *bundle, struct buf *request)
{
    AUTO_ADAPTER_FILES(files);
    AUTO_SNAPSHOT(snapshot);
    uint8_t head[CONTROL_REQUEST_BYTES];

    assert_int_equal(
        adapter_files_read(&files, FIXTURES "/adapter/llama/step-120", false, NULL), 0
    );
    assert_int_equal(snapshot_encode(&snapshot, &files, NULL), 0);
    assert_int_equal(bundle_encode(bundle, &snapshot, false), 0);
    const struct control_request made = {.verb = CONTROL_SWAP, .body_bytes = bundle->len};
    control_request_encode(head, &made);
    assert_int_equal(buf_append(request, head, sizeof(head)), 0);
    assert_int_equal(buf_append(request, bundle->data, bundle->len), 0);
}

/* Give the intake all of `data`, at most `piece` bytes at a time. */
static int take(
    struct control_intake *intake,
    struct bytes data,
    size_t piece,
    const struct bundle_room *room,
    uint64_t body_max
)
{
    size_t len;
    uint8_t *at;
    int err;

    while ((err = control_intake_space(&at, &len, intake, room, body_max)) == 0 &&
           !intake->complete && data.len) {
        assert_true(len > 0);
        if (len > piece)
            len = piece;
        if (len > data.len)
            len = data.len;
        memcpy(at, data.data, len);
        control_intake_add(intake, len);
        data.data += len;
        data.len -= len;
    }
    return err;
}

#define AUTO_INTAKE(name)                                                                          \
    __attribute__((cleanup(control_intake_release))) struct control_intake name = {0}

static void test_requests_have_these_bytes(void **state)
{
    const struct control_request swap = {.verb = CONTROL_SWAP, .body_bytes = 0x12345678};
    uint8_t made[CONTROL_REQUEST_BYTES];
    struct control_request read;

    (void)state;
    control_request_encode(made, &swap);
    assert_memory_equal(made, golden_swap, sizeof(made));
    assert_int_equal(control_request_decode(&read, (struct bytes){made, sizeof(made)}), 0);
    assert_int_equal(read.verb, CONTROL_SWAP);
    assert_int_equal(read.body_bytes, 0x12345678);
}

static void test_what_is_no_request_is_refused(void **state)
{
    static const struct {
        uint8_t at, byte;
        int code;
    } cases[] = {
        {0, 'v', E_CORRUPT},     {3, 0, E_CORRUPT},     {4, 0, E_UNSUPPORTED},
        {4, 2, E_UNSUPPORTED},   {5, 0, E_UNSUPPORTED}, {5, 4, E_UNSUPPORTED},
        {5, 255, E_UNSUPPORTED}, {5, 1, E_CORRUPT},     {5, 3, E_CORRUPT},
        {6, 1, E_CORRUPT},       {7, 1, E_CORRUPT},
    };
    struct control_request read = {.body_bytes = 77};

    (void)state;
    for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
        uint8_t bytes[CONTROL_REQUEST_BYTES];
        memcpy(bytes, golden_swap, sizeof(bytes));
        bytes[cases[i].at] = cases[i].byte;
        int err = control_request_decode(&read, (struct bytes){bytes, sizeof(bytes)});
        assert_int_equal(err, cases[i].code);
    }
    for (size_t len = 0; len < CONTROL_REQUEST_BYTES; len++) {
        int err = control_request_decode(&read, (struct bytes){golden_swap, len});
        assert_int_equal(err, E_CORRUPT);
    }
    assert_int_equal(read.body_bytes, 77);
}

static void test_a_request_is_taken_whatever_its_pieces(void **state)
{
    static const size_t pieces[] = {1, 7, 16, 17, 151, 152, 153, 168, 4096, SIZE_MAX};
    AUTO_BUF(bundle);
    AUTO_BUF(request);

    (void)state;
    bundle_make(&bundle, &request);
    for (size_t i = 0; i < sizeof(pieces) / sizeof(pieces[0]); i++) {
        AUTO_INTAKE(intake);
        int err = take(&intake, buf_bytes(&request), pieces[i], &bundle_room_any, UINT64_MAX);
        assert_int_equal(err, 0);
        assert_true(intake.complete);
        assert_true(bytes_equal(buf_bytes(&intake.body), buf_bytes(&bundle)));
        assert_int_equal(control_intake_bytes(&intake), request.len);
        assert_int_equal(control_intake_total(&intake), request.len);
    }
}

static void test_a_request_without_a_body_ends_with_its_head(void **state)
{
    static const enum control_verb verbs[] = {CONTROL_STATUS, CONTROL_DETACH};
    uint8_t bytes[CONTROL_REQUEST_BYTES + 5] = {0};

    (void)state;
    for (size_t i = 0; i < 2; i++) {
        AUTO_INTAKE(intake);
        const struct control_request request = {.verb = verbs[i]};
        control_request_encode(bytes, &request);
        const struct bytes data = {bytes, sizeof(bytes)};
        assert_int_equal(take(&intake, data, SIZE_MAX, &bundle_room_any, 0), 0);
        assert_true(intake.complete);
        assert_int_equal(control_intake_bytes(&intake), CONTROL_REQUEST_BYTES);
    }
}

static void test_what_cannot_be_taken_is_refused_before_memory_is(void **state)
{
    AUTO_BUF(bundle);
    AUTO_BUF(request);
    struct bundle_header header;

    (void)state;
    bundle_make(&bundle, &request);
    assert_int_equal(bundle_header_decode(&header, buf_bytes(&bundle), &bundle_room_any), 0);
    for (unsigned part = 0; part < BUNDLE_PARTS; part++) {
        AUTO_INTAKE(intake);
        struct bundle_room room = bundle_room_any;
        if (!header.part_bytes[part])
            continue;
        room.part_bytes[part] = header.part_bytes[part] - 1;
        fault_largest = 0;
        int err = take(&intake, buf_bytes(&request), SIZE_MAX, &room, UINT64_MAX);
        assert_int_equal(err, E_LIMIT);
        assert_int_equal(fault_largest, 0);
        assert_null(intake.body.data);
    }
    AUTO_INTAKE(other);
    assert_int_equal(take(&other, buf_bytes(&request), 100, &bundle_room_any, 1000), E_LIMIT);
    assert_true(other.body.len < 1000 + 100);
    /* Both say how long it is. */
    request.data[8]++;
    AUTO_INTAKE(longer);
    fault_largest = 0;
    int err = take(&longer, buf_bytes(&request), SIZE_MAX, &bundle_room_any, UINT64_MAX);
    assert_int_equal(err, E_CORRUPT);
    assert_int_equal(fault_largest, 0);
}

static void test_memory_grows_with_what_arrives(void **state)
{
    AUTO_BUF(bundle);
    AUTO_BUF(request);
    AUTO_INTAKE(intake);
    struct digest digest;
    uint64_t length = GIB;

    (void)state;
    bundle_make(&bundle, &request);
    /* A head that says that A has a GiB. */
    uint8_t *head = request.data + CONTROL_REQUEST_BYTES;
    memcpy(head + 8 + 8 * (size_t)BUNDLE_A, &length, 8);
    length += bundle.len;
    memcpy(request.data + 8, &length, 8);
    assert_int_equal(digest_of(&digest, (struct bytes){head, 120}), 0);
    memcpy(head + 120, digest.bytes, DIGEST_SIZE);
    fault_largest = 0;
    assert_int_equal(take(&intake, buf_bytes(&request), 5, &bundle_room_any, UINT64_MAX), 0);
    assert_false(intake.complete);
    assert_true(fault_largest > 0 && fault_largest < MIB);
}

static void test_replies_have_these_bytes(void **state)
{
    AUTO_BUF(made);
    struct control_reply read;
    struct bytes head;

    (void)state;
    assert_int_equal(control_reply_encode(&made, 0, &golden_state), 0);
    assert_int_equal(made.len, CONTROL_REPLY_BYTES);
    const uint8_t begin[16] = {'V', 'S', 'R', 'P', 1, 0, 7, 0, 3, 0, 0, 0, 0, 0, 0, 0};
    assert_memory_equal(made.data, begin, sizeof(begin));
    assert_memory_equal(made.data + 16, golden_state.snapshot.bytes, 32);
    assert_memory_equal(made.data + 48, golden_state.previous.bytes, 32);
    const uint8_t end[32] = {36, 0, 0, 0, 0, 0, 0, 0, 5, 4, 3, 2, 1, 0, 0, 0, 7};
    assert_memory_equal(made.data + 80, end, sizeof(end));
    head = buf_bytes(&made);
    assert_int_equal(control_reply_decode(&read, head), 0);
    assert_int_equal(read.code, 0);
    assert_memory_equal(&read.state.snapshot, &golden_state.snapshot, 32);
    assert_memory_equal(&read.state.previous, &golden_state.previous, 32);
    assert_int_equal(read.state.epoch, 3);
    assert_int_equal(read.state.modules, 36);
    assert_int_equal(read.state.nanoseconds, golden_state.nanoseconds);
    assert_int_equal(read.state.stopped_nanoseconds, 7);
    assert_true(read.state.attached && read.state.had_previous && read.state.pinned);
    for (head.len = 0; head.len < CONTROL_REPLY_BYTES; head.len++)
        assert_int_equal(control_reply_decode(&read, head), E_CORRUPT);
}

static void test_a_mixture_is_a_flag_and_no_adapter(void **state)
{
    const struct control_state torn = {
        .epoch = 4, .had_previous = true, .torn = true, .previous = {{9}}};
    struct control_state both = golden_state;
    AUTO_BUF(made);
    struct control_reply read;

    (void)state;
    assert_int_equal(control_reply_encode(&made, 0, &torn), 0);
    assert_int_equal(made.data[6], 2 + 8);
    assert_int_equal(control_reply_decode(&read, buf_bytes(&made)), 0);
    assert_true(read.state.torn && read.state.had_previous && !read.state.attached);
    both.torn = true;
    made.len = 0;
    assert_int_equal(control_reply_encode(&made, 0, &both), 0);
    assert_int_equal(control_reply_decode(&read, buf_bytes(&made)), E_CORRUPT);
}

static void test_an_error_comes_out_as_it_went_in(void **state)
{
    static const struct control_state none;
    AUTO_BUF(made);
    struct control_reply read;

    (void)state;
    int err = error_set(E_CONFLICT, "x: y\nz");
    err = error_detail(err, "first");
    err = error_detail(err, "  second");
    err = error_hint(err, "do this");
    assert_int_equal(control_reply_encode(&made, err, &none), 0);
    AUTO_FREE(char, message);
    message = bytes_dup(text_bytes(error_message()));
    (void)!error_set(E_IO, "another");
    assert_int_equal(control_reply_decode(&read, buf_bytes(&made)), 0);
    const struct bytes texts = {made.data + CONTROL_REPLY_BYTES, made.len - CONTROL_REPLY_BYTES};
    assert_int_equal(texts.len, read.message_bytes + read.hint_bytes);
    assert_int_equal(control_reply_error(&read, texts), E_CONFLICT);
    assert_string_equal(error_message(), "x: y\\x0az\n  first\n  second");
    assert_string_equal(error_hint_text(), "do this");
    assert_int_equal(strncmp(message, "x: y\\x0az\n  first\n", 17), 0);
}

static void test_replies_that_are_none_are_refused(void **state)
{
    static const struct {
        size_t at;
        uint8_t byte;
        int code;
    } cases[] = {
        {0, 'X', E_CORRUPT}, {4, 2, E_UNSUPPORTED}, {5, 4, E_CORRUPT}, {5, 11, E_CORRUPT},
        {6, 15, E_CORRUPT},  {6, 0, E_CORRUPT},     {6, 1, E_CORRUPT}, {6, 6, E_CORRUPT},
        {7, 1, E_CORRUPT},   {104, 1, E_CORRUPT},   {107, 1, E_LIMIT}, {110, 1, E_LIMIT},
        {108, 1, E_CORRUPT}, {109, 5, E_LIMIT},
    };
    AUTO_BUF(made);
    struct control_reply read;

    (void)state;
    assert_int_equal(control_reply_encode(&made, 0, &golden_state), 0);
    for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
        uint8_t before = made.data[cases[i].at];
        made.data[cases[i].at] = cases[i].byte;
        assert_int_equal(control_reply_decode(&read, buf_bytes(&made)), cases[i].code);
        made.data[cases[i].at] = before;
    }
    assert_int_equal(control_reply_decode(&read, buf_bytes(&made)), 0);
}

static void test_every_failed_allocation_is_told(void **state)
{
    AUTO_BUF(bundle);
    AUTO_BUF(request);
    int err = E_NOMEM;

    (void)state;
    bundle_make(&bundle, &request);
    for (int n = 0; err == E_NOMEM; n++) {
        AUTO_INTAKE(intake);
        AUTO_BUF(reply);
        fault_after = n;
        err = take(&intake, buf_bytes(&request), 999, &bundle_room_any, UINT64_MAX);
        if (err == 0)
            err = control_reply_encode(&reply, 0, &golden_state);
        assert_int_equal(err, fault_after < 0 ? E_NOMEM : 0);
    }
    fault_after = -1;
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_requests_have_these_bytes),
        cmocka_unit_test(test_what_is_no_request_is_refused),
        cmocka_unit_test(test_a_request_is_taken_whatever_its_pieces),
        cmocka_unit_test(test_a_request_without_a_body_ends_with_its_head),
        cmocka_unit_test(test_what_cannot_be_taken_is_refused_before_memory_is),
        cmocka_unit_test(test_memory_grows_with_what_arrives),
        cmocka_unit_test(test_replies_have_these_bytes),
        cmocka_unit_test(test_a_mixture_is_a_flag_and_no_adapter),
        cmocka_unit_test(test_an_error_comes_out_as_it_went_in),
        cmocka_unit_test(test_replies_that_are_none_are_refused),
        cmocka_unit_test(test_every_failed_allocation_is_told),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
