/*
 * Tests of format/bundle.c: golden bytes, both forms of every real adapter there and back, and that
 * nothing which was cut, changed, forged or is too large passes, or costs memory. U1 to U6 are of
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
#include <unistd.h>

#include "format/bundle.h"
#include "format/file.h"
#include "format/limits.h"
#include "tests/fault.h"

#define must(call) assert_int_equal(call, 0)

static void adapter_open(struct snapshot *out, const char *dir, bool pinned)
{
    AUTO_ADAPTER_FILES(files);
    AUTO_BASE_FACTS(base);
    AUTO_ADAPTER(adapter);

    must(adapter_files_read(&files, dir, false, NULL));
    const struct buf *config = &adapter_files_find(&files, PEFT_CONFIG)->data;
    const struct buf *model = &adapter_files_find(&files, PEFT_MODEL)->data;
    must(adapter_decode(&adapter, buf_bytes(config), buf_bytes(model), model->len));
    if (pinned) {
        base.in_max = base.out_max = 4096;
        base.dtype = DTYPE_F32;
        must(buf_append_text(&base.config, "{\"model_type\":\"x\"}"));
        base.pin.modules = array_new(adapter.module_count, sizeof(*base.pin.modules));
        assert_non_null(base.pin.modules);
        for (size_t i = 0; i < adapter.module_count; i++)
            base.pin.modules[base.pin.count++] = (struct pin_module
            ){bytes_dup(text_bytes(adapter.modules[i].name)),
              DTYPE_F32,
              adapter.modules[i].out,
              8,
              {{0}}};
    }
    must(snapshot_encode(out, &files, pinned ? &base : NULL));
}

static void fixture(struct snapshot *out, const char *name)
{
    char dir[512];

    snprintf(dir, sizeof(dir), FIXTURES "/adapter/%s", name);
    adapter_open(out, dir, false);
}

static void encode(struct buf *out, const struct snapshot *snapshot, bool whole)
{
    must(bundle_encode(out, snapshot, whole));
}

static int decode(struct bytes bundle)
{
    AUTO_SNAPSHOT(snapshot);
    /* A copy of its own, so that the sanitizer sees a read behind its end. */
    AUTO_BUF(copy);

    must(buf_append(&copy, bundle.data, bundle.len));
    int err = bundle_decode(&snapshot, buf_bytes(&copy), &bundle_room_any);
    if (err < 0)
        assert_null(snapshot.manifest.data); /* out is untouched on failure */
    return err;
}

/* Make both digests right again: what a forger would do. */
static void seal(struct buf *bundle)
{
    struct digest digest;

    must(digest_of(&digest, (struct bytes){bundle->data + 152, bundle->len - 152}));
    memcpy(bundle->data + 88, digest.bytes, DIGEST_SIZE);
    must(digest_of(&digest, (struct bytes){bundle->data, 120}));
    memcpy(bundle->data + 120, digest.bytes, DIGEST_SIZE);
}

static void part_set(struct buf *bundle, enum bundle_part part, uint64_t bytes)
{
    for (unsigned i = 0; i < 8; i++)
        bundle->data[8 + 8 * part + i] = (uint8_t)(bytes >> (8 * i));
}

static uint64_t part_get(const struct buf *bundle, enum bundle_part part)
{
    uint64_t bytes = 0;

    for (unsigned i = 0; i < 8; i++)
        bytes |= (uint64_t)bundle->data[8 + 8 * part + i] << (8 * i);
    return bytes;
}

static void assert_equal_bufs(const struct buf *a, const struct buf *b)
{
    assert_true(bytes_equal(buf_bytes(a), buf_bytes(b)));
}

static void assert_equal_snapshots(const struct snapshot *a, const struct snapshot *b, bool whole)
{
    assert_true(digest_equal(&a->id, &b->id));
    assert_equal_bufs(&a->manifest, &b->manifest);
    assert_equal_bufs(&a->config, &b->config);
    assert_equal_bufs(&a->layout, &b->layout);
    assert_equal_bufs(&a->recipe, &b->recipe);
    assert_equal_bufs(&a->payload, &b->payload);
    assert_equal_bufs(&a->a, &b->a);
    assert_equal_bufs(&a->b, &b->b);
    assert_equal_bufs(&a->pin, &b->pin);
    assert_int_equal(b->file_count, whole ? a->file_count : 0);
    assert_int_equal(b->model_config.len, whole ? a->model_config.len : 0);
    for (size_t i = 0; i < b->file_count; i++) {
        assert_string_equal(a->files[i].path, b->files[i].path);
        assert_equal_bufs(&a->files[i].data, &b->files[i].data);
    }
}

static void assert_round_trip(const struct snapshot *snapshot)
{
    for (int whole = 0; whole < 2; whole++) {
        AUTO_BUF(bundle);
        AUTO_BUF(again);
        AUTO_SNAPSHOT(decoded);
        struct bundle_header header;
        encode(&bundle, snapshot, whole);
        must(bundle_header_decode(&header, buf_bytes(&bundle), &bundle_room_any));
        assert_int_equal(header.total_bytes, bundle.len);
        assert_int_equal(header.whole, whole);
        must(bundle_decode(&decoded, buf_bytes(&bundle), &bundle_room_any));
        assert_equal_snapshots(snapshot, &decoded, whole);
        encode(&again, &decoded, whole);
        assert_equal_bufs(&bundle, &again); /* U3 */
    }
}

static size_t each_adapter(const char *dir, void (*visit)(const char *dir))
{
    const char *name = NULL;
    size_t count = 0;

    if (dir_has(dir, PEFT_CONFIG)) {
        visit(dir);
        return 1;
    }
    DIR *entries = opendir(dir);
    assert_non_null(entries);
    while (dir_next(&name, entries, dir) == 0 && name) {
        char next[512];
        snprintf(next, sizeof(next), "%s/%s", dir, name);
        count += each_adapter(next, visit);
    }
    closedir(entries);
    return count;
}

static void round_trip_of(const char *dir)
{
    AUTO_SNAPSHOT(bare);
    AUTO_SNAPSHOT(pinned);

    adapter_open(&bare, dir, false);
    adapter_open(&pinned, dir, true);
    assert_true(pinned.pin.len && pinned.model_config.len);
    assert_round_trip(&bare);
    assert_round_trip(&pinned);
}

static void test_every_adapter_comes_back_in_both_forms(void **state)
{
    (void)state;
    assert_int_equal(each_adapter(FIXTURES "/adapter", round_trip_of), 83);
}

/* One bit of A is another: it must be stored, and travels along. */
static void stored(struct snapshot *out, const char *name)
{
    AUTO_SNAPSHOT(proved);
    AUTO_ADAPTER_FILES(files);
    AUTO_LOADED_ADAPTER(loaded);

    fixture(&proved, name);
    must(snapshot_restore(&files, &proved));
    must(adapter_load(&loaded, &proved));
    for (size_t i = 0; i < files.count; i++) {
        if (strcmp(files.files[i].path, PEFT_MODEL) == 0)
            files.files[i].data.data[proved.layout.len + loaded.adapter.a->begin] ^= 1;
    }
    must(snapshot_encode(out, &files, NULL));
}

static void test_a_stored_basis_travels_along(void **state)
{
    AUTO_SNAPSHOT(snapshot);

    (void)state;
    stored(&snapshot, "llama/step-120");
    assert_int_equal(snapshot.a.len, 32 * 176 * 4);
    assert_round_trip(&snapshot);
}

/* U1, U2 */
static void test_golden_bytes(void **state)
{
    static const char head[] = "VBDL\1\1\0\0"
                               "\x38\1\0\0\0\0\0\0\x4b\2\0\0\0\0\0\0\xd8\x0d\0\0\0\0\0\0"
                               "\x53\1\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0"
                               "\0\x1a\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0"
                               "\x2f\x14\0\0\0\0\0\0";
    static const struct {
        bool whole;
        size_t bytes;
        const char *sha256;
    } golden[] = {
        {true, 16757, "914e7e7ee20fa66020c057c2af5f6b845f6cbfaff7879d0d73d52bf37e112be6"},
        {false, 11590, "d0d4f28f7363e19c9dbb6e06006eb6469d53eee1f378de9f9e8e61e622e852c3"},
    };
    AUTO_SNAPSHOT(snapshot);

    (void)state;
    fixture(&snapshot, "llama/step-000");
    for (size_t i = 0; i < 2; i++) {
        AUTO_BUF(bundle);
        struct digest digest;
        char hex[DIGEST_HEX_SIZE];
        encode(&bundle, &snapshot, golden[i].whole);
        if (golden[i].whole)
            assert_memory_equal(bundle.data, head, 88);
        assert_int_equal(bundle.len, golden[i].bytes);
        must(digest_of(&digest, buf_bytes(&bundle)));
        digest_hex(hex, &digest);
        assert_string_equal(hex, golden[i].sha256);
    }
}

/* U2 */
static void test_every_truncation_is_corrupt(void **state)
{
    AUTO_SNAPSHOT(snapshot);
    AUTO_BUF(bundle);

    (void)state;
    fixture(&snapshot, "llama/step-000");
    encode(&bundle, &snapshot, true);
    for (size_t len = 0; len < bundle.len; len++)
        assert_int_equal(decode((struct bytes){bundle.data, len}), E_CORRUPT);
    must(decode(buf_bytes(&bundle)));
    must(buf_append_byte(&bundle, 0));
    assert_int_equal(decode(buf_bytes(&bundle)), E_CORRUPT);
}

static void test_every_flipped_bit_is_corrupt(void **state)
{
    AUTO_SNAPSHOT(snapshot);
    AUTO_SNAPSHOT(decoded);
    AUTO_BUF(bundle);

    (void)state;
    fixture(&snapshot, "bert/step-000");
    encode(&bundle, &snapshot, false);
    for (size_t bit = 0; bit < 8 * bundle.len; bit++) {
        bundle.data[bit / 8] ^= (uint8_t)(1 << bit % 8);
        int err = bundle_decode(&decoded, buf_bytes(&bundle), &bundle_room_any);
        assert_int_equal(err, E_CORRUPT);
        assert_null(decoded.manifest.data);
        bundle.data[bit / 8] ^= (uint8_t)(1 << bit % 8);
    }
    must(bundle_decode(&decoded, buf_bytes(&bundle), &bundle_room_any));
}

/* U4: only lengths are forged, nothing is behind them. */
static void test_a_part_above_its_limit_is_refused_before_memory_is_taken(void **state)
{
    static const uint64_t limits[BUNDLE_PARTS] = {
        LIMIT_TEXT,     LIMIT_CONFIG, 8 + LIMIT_SAFETENSORS_HEADER,
        LIMIT_TEXT,     LIMIT_TEXT,   LIMIT_CONFIG,
        LIMIT_FILE,     LIMIT_FILE,   LIMIT_FILE,
        LIMIT_DIRECTORY};
    AUTO_SNAPSHOT(snapshot);
    AUTO_BUF(bundle);
    struct bundle_header header;

    (void)state;
    fixture(&snapshot, "llama/step-000");
    encode(&bundle, &snapshot, true);
    for (unsigned i = 0; i < BUNDLE_PARTS; i++) {
        uint64_t real = part_get(&bundle, i);
        part_set(&bundle, i, limits[i]);
        seal(&bundle);
        must(bundle_header_decode(&header, buf_bytes(&bundle), &bundle_room_any));
        fault_largest = 0;
        assert_int_equal(bundle_decode(&snapshot, buf_bytes(&bundle), &bundle_room_any), E_CORRUPT);
        static const uint64_t above[] = {1, UINT64_MAX / 2, UINT64_MAX};
        for (size_t k = 0; k < 3; k++) {
            part_set(&bundle, i, above[k] == 1 ? limits[i] + 1 : above[k]);
            seal(&bundle);
            int err = bundle_header_decode(&header, buf_bytes(&bundle), &bundle_room_any);
            assert_int_equal(err, E_LIMIT);
            assert_int_equal(decode(buf_bytes(&bundle)), E_LIMIT);
        }
        assert_true(fault_largest <= bundle.len + KIB); /* decode()'s own copy */
        part_set(&bundle, i, real);
        seal(&bundle);
    }
    must(decode(buf_bytes(&bundle)));
}

/* U4 */
static void test_a_part_above_the_readers_room_is_refused(void **state)
{
    AUTO_SNAPSHOT(snapshot);
    AUTO_BUF(bundle);
    struct bundle_header header;

    (void)state;
    fixture(&snapshot, "llama/step-120");
    encode(&bundle, &snapshot, true);
    for (unsigned i = 0; i < BUNDLE_PARTS; i++) {
        struct bundle_room room = bundle_room_any;
        room.part_bytes[i] = part_get(&bundle, i);
        must(bundle_header_decode(&header, buf_bytes(&bundle), &room));
        if (!room.part_bytes[i]--)
            continue;
        assert_int_equal(bundle_header_decode(&header, buf_bytes(&bundle), &room), E_LIMIT);
        assert_int_equal(bundle_decode(&snapshot, buf_bytes(&bundle), &room), E_LIMIT);
    }
}

/* A change to a bundle, digests made right again behind it. */
struct forgery {
    void (*change)(struct buf *bundle);
    int code;
};

static void version_2(struct buf *bundle)
{
    bundle->data[4] = 2;
}

static void form_2(struct buf *bundle)
{
    bundle->data[5] = 2;
}

static void bare_with_files(struct buf *bundle)
{
    bundle->data[5] = 0;
}

static void reserved_6(struct buf *bundle)
{
    bundle->data[6] = 1;
}

static void reserved_7(struct buf *bundle)
{
    bundle->data[7] = 0x80;
}

static void moved_border(struct buf *bundle)
{
    part_set(bundle, BUNDLE_CONFIG, part_get(bundle, BUNDLE_CONFIG) + 1);
    part_set(bundle, BUNDLE_LAYOUT, part_get(bundle, BUNDLE_LAYOUT) - 1);
}

static void file_as_basis(struct buf *bundle)
{
    part_set(bundle, BUNDLE_B, 1);
    part_set(bundle, BUNDLE_FILES, part_get(bundle, BUNDLE_FILES) - 1);
}

static void more_files(struct buf *bundle)
{
    part_set(bundle, BUNDLE_FILES, part_get(bundle, BUNDLE_FILES) + 1);
    must(buf_append_byte(bundle, 0));
}

static void fewer_files(struct buf *bundle)
{
    part_set(bundle, BUNDLE_FILES, part_get(bundle, BUNDLE_FILES) - 1);
    bundle->len--;
}

static void other_payload(struct buf *bundle)
{
    bundle->data[bundle->len - part_get(bundle, BUNDLE_FILES) - 1] ^= 1;
}

static void other_file(struct buf *bundle)
{
    bundle->data[bundle->len - 1] ^= 1;
}

static void other_config(struct buf *bundle)
{
    bundle->data[152 + part_get(bundle, BUNDLE_MANIFEST)] = ' ';
}

static void manifest_with_cr(struct buf *bundle)
{
    bundle->data[152 + strlen("verastore manifest 1")] = '\r';
}

/* U5 */
static void test_a_forged_bundle_is_no_snapshot(void **state)
{
    static const struct forgery forgeries[] = {
        {version_2, E_UNSUPPORTED},    {form_2, E_CORRUPT},     {bare_with_files, E_CORRUPT},
        {reserved_6, E_CORRUPT},       {reserved_7, E_CORRUPT}, {moved_border, E_CORRUPT},
        {file_as_basis, E_CORRUPT},    {more_files, E_CORRUPT}, {fewer_files, E_CORRUPT},
        {other_payload, E_CORRUPT},    {other_file, E_CORRUPT}, {other_config, E_CORRUPT},
        {manifest_with_cr, E_CORRUPT},
    };
    AUTO_SNAPSHOT(snapshot);

    (void)state;
    fixture(&snapshot, "llama/step-120");
    for (size_t i = 0; i < sizeof(forgeries) / sizeof(forgeries[0]); i++) {
        AUTO_BUF(bundle);
        encode(&bundle, &snapshot, true);
        forgeries[i].change(&bundle);
        seal(&bundle);
        int err = decode(buf_bytes(&bundle));
        if (err != forgeries[i].code)
            fail_msg("forgery %zu: %d", i, err);
    }
}

static void test_other_bytes_are_called_so(void **state)
{
    (void)state;
    assert_int_equal(decode(text_bytes("hello, this is no bundle at all")), E_CORRUPT);
    assert_non_null(strstr(error_message(), "these bytes are none"));
    assert_int_equal(decode((struct bytes){(const uint8_t *)"", 0}), E_CORRUPT);
}

static void test_every_failed_allocation_is_nomem(void **state)
{
    AUTO_SNAPSHOT(snapshot);
    AUTO_BUF(whole);

    (void)state;
    fixture(&snapshot, "bert/step-040");
    encode(&whole, &snapshot, true);
    for (int n = 0;; n++) {
        AUTO_BUF(bundle);
        AUTO_SNAPSHOT(decoded);
        fault_after = n;
        int err = bundle_encode(&bundle, &snapshot, true);
        if (err == 0)
            err = bundle_decode(&decoded, buf_bytes(&whole), &bundle_room_any);
        bool ran_through = fault_after >= 0;
        fault_after = -1;
        if (err == 0) {
            assert_true(ran_through && n > 10);
            return;
        }
        assert_int_equal(err, E_NOMEM);
        assert_null(decoded.manifest.data);
    }
}

/* The read end of a pipe with these bytes; they must fit into it. */
static int pipe_of(struct bytes data)
{
    int ends[2];

    must(pipe(ends));
    assert_int_equal(write(ends[1], data.data, data.len), data.len);
    close(ends[1]);
    return ends[0];
}

static int read_from_pipe(struct bytes data, const struct bundle_room *room)
{
    AUTO_FD(fd);
    AUTO_BUF(bundle);

    fd = pipe_of(data);
    int err = bundle_read(&bundle, fd, room, "the pipe");
    if (err == 0)
        assert_true(bytes_equal(buf_bytes(&bundle), data));
    else
        assert_null(bundle.data);
    return err;
}

static void test_a_pipe_gives_one_bundle_and_its_header_is_judged_first(void **state)
{
    AUTO_SNAPSHOT(snapshot);
    AUTO_BUF(bundle);
    struct bundle_room room = bundle_room_any;

    (void)state;
    fixture(&snapshot, "llama/step-120");
    encode(&bundle, &snapshot, true);
    must(read_from_pipe(buf_bytes(&bundle), &bundle_room_any));
    for (size_t len = 0; len < bundle.len; len += 97)
        assert_int_equal(
            read_from_pipe((struct bytes){bundle.data, len}, &bundle_room_any), E_CORRUPT
        );
    room.part_bytes[BUNDLE_PAYLOAD] = 1000;
    fault_largest = 0;
    assert_int_equal(read_from_pipe(buf_bytes(&bundle), &room), E_LIMIT);
    assert_true(fault_largest < KIB); /* no more than the header was read */
    must(buf_append_byte(&bundle, 0));
    assert_int_equal(read_from_pipe(buf_bytes(&bundle), &bundle_room_any), E_CORRUPT);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_every_adapter_comes_back_in_both_forms),
        cmocka_unit_test(test_a_stored_basis_travels_along),
        cmocka_unit_test(test_golden_bytes),
        cmocka_unit_test(test_every_truncation_is_corrupt),
        cmocka_unit_test(test_every_flipped_bit_is_corrupt),
        cmocka_unit_test(test_a_part_above_its_limit_is_refused_before_memory_is_taken),
        cmocka_unit_test(test_a_part_above_the_readers_room_is_refused),
        cmocka_unit_test(test_a_forged_bundle_is_no_snapshot),
        cmocka_unit_test(test_other_bytes_are_called_so),
        cmocka_unit_test(test_every_failed_allocation_is_nomem),
        cmocka_unit_test(test_a_pipe_gives_one_bundle_and_its_header_is_judged_first),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
