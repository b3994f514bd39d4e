/* Tests of store/loose_backend.c: what libgit2 reads of loose objects, whatever is in their files,
   and of objects that are borrowed. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <zlib.h>

#include "store/loose_backend.h"
#include "tests/repository.h"

#define ID        "aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa"
#define FILE_PATH ".vera/objects/aa/aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa"

static git_odb *odb;

static int odb_setup(void **state)
{
    if (repository_make(state) != 0)
        return 1;
    return odb_open(&odb, ".vera/objects") == 0 ? 0 : 1;
}

static int odb_teardown(void **state)
{
    git_odb_free(odb);
    return repository_remove(state);
}

/* An object's file: this header, `bytes` of contents, and `behind` the stream. */
static void file_forge(const char *header, size_t header_len, size_t bytes, const char *behind)
{
    AUTO_BUF(raw);
    AUTO_BUF(file);
    uLong len;

    assert_int_equal(buf_append(&raw, header, header_len), 0);
    assert_int_equal(buf_resize(&raw, header_len + bytes), 0);
    memset(raw.data + header_len, 'x', bytes);
    len = compressBound(raw.len);
    assert_int_equal(buf_resize(&file, len), 0);
    assert_int_equal(compress2(file.data, &len, raw.data, raw.len, 6), Z_OK);
    assert_int_equal(buf_resize(&file, len), 0);
    assert_int_equal(buf_append(&file, behind, strlen(behind)), 0);
    assert_int_equal(dir_make(".vera/objects/aa"), 0);
    assert_int_equal(file_write(FILE_PATH, buf_bytes(&file)), 0);
}

static int read_code(void)
{
    AUTO_GIT(git_odb_object, object);
    git_oid id;

    assert_int_equal(git_oid_fromstr(&id, ID), 0);
    return git_odb_read(&object, odb, &id);
}

/* What the header claims decides nothing: libgit2's own reading writes behind its memory here, or
   never ends. */
static void test_a_header_that_lies_is_damage(void **state)
{
    static const struct {
        const char *header;
        size_t header_len, bytes;
        const char *behind;
    } cases[] = {
        {"blob 3\0", 7, 400, ""},
        {"blob 0\0", 7, 400, ""},
        {"blob 399\0", 9, 400, ""},
        {"blob 401\0", 9, 400, ""},
        {"blob 4000\0", 10, 40, ""},
        {"blob 400\0", 9, 400, "more"},
        {"blob 99999999999999999999\0", 26, 40, ""},
        {"blob 2147483648\0", 16, 40, ""},
        {"blob 1000000000\0", 16, 40, ""},
        {"blob 040\0", 9, 40, ""},
        {"blob +40\0", 9, 40, ""},
        {"blob  40\0", 9, 40, ""},
        {"blob 40", 7, 40, ""},
        {"blob\0", 5, 40, ""},
        {"blob \0", 6, 40, ""},
        {"bulb 40\0", 8, 40, ""},
        {"blobs 40\0", 9, 40, ""},
        {"\0", 1, 40, ""},
        {"", 0, 0, ""},
        {"", 0, 400, ""},
    };

    (void)state;
    for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
        file_forge(cases[i].header, cases[i].header_len, cases[i].bytes, cases[i].behind);
        if (read_code() != GIT_ERROR)
            fail_msg("case %zu: %s", i, cases[i].header);
        assert_int_equal(git_failed(GIT_ERROR, "object"), E_CORRUPT);
        assert_message("damaged");
    }
    /* The same without a lie is read, and has another id. */
    file_forge("blob 400\0", 9, 400, "");
    assert_int_equal(read_code(), GIT_EMISMATCH);
}

static void test_every_cut_and_every_flipped_bit_ends(void **state)
{
    AUTO_BUF(whole);

    (void)state;
    file_forge("commit 200\0", 11, 200, "");
    assert_int_equal(file_read(&whole, FILE_PATH, 1 << 20), 0);
    for (size_t len = 0; len < whole.len; len++) {
        assert_int_equal(file_write(FILE_PATH, (struct bytes){whole.data, len}), 0);
        assert_int_equal(read_code(), GIT_ERROR);
    }
    for (size_t bit = 0; bit < 8 * whole.len; bit++) {
        whole.data[bit / 8] ^= (uint8_t)(1 << bit % 8);
        assert_int_equal(file_write(FILE_PATH, buf_bytes(&whole)), 0);
        assert_true(read_code() < 0);
        whole.data[bit / 8] ^= (uint8_t)(1 << bit % 8);
    }
}

static void assert_reads(git_odb *from, const git_oid *id, const char *text)
{
    AUTO_GIT(git_odb_object, object);
    git_object_t type;
    size_t bytes;
    git_oid found;

    assert_int_equal(git_odb_read(&object, from, id), 0);
    assert_int_equal(git_odb_object_size(object), strlen(text));
    assert_memory_equal(git_odb_object_data(object), text, strlen(text));
    assert_int_equal(git_odb_read_header(&bytes, &type, from, id), 0);
    assert_int_equal(bytes, strlen(text));
    assert_int_equal(type, GIT_OBJECT_BLOB);
    assert_int_equal(git_odb_exists(from, id), 1);
    assert_int_equal(git_odb_exists_prefix(&found, from, id, 12), 0);
    assert_true(git_oid_equal(&found, id));
}

static void test_whole_objects_are_read(void **state)
{
    AUTO_GIT(git_odb_object, by_prefix);
    git_oid id = object_put_text(GIT_OBJECT_BLOB, text_bytes("some text")), written, missing = id;
    git_oid empty = object_put_text(GIT_OBJECT_BLOB, text_bytes(""));

    (void)state;
    assert_reads(odb, &id, "some text");
    assert_reads(odb, &empty, "");
    assert_int_equal(git_odb_read_prefix(&by_prefix, odb, &id, 10), 0);
    assert_true(git_oid_equal(git_odb_object_id(by_prefix), &id));
    missing.id[0] ^= 1;
    AUTO_GIT(git_odb_object, none);
    assert_int_equal(git_odb_read(&none, odb, &missing), GIT_ENOTFOUND);
    assert_int_equal(git_odb_write(&written, odb, "libgit2's", 9, GIT_OBJECT_BLOB), 0);
    assert_reads(odb, &written, "libgit2's");
    assert_shell("git cat-file --batch-all-objects --batch-check | wc -l", "3");
}

static void test_borrowed_objects_are_read(void **state)
{
    git_oid id = object_put_text(GIT_OBJECT_BLOB, text_bytes("lent")), packed;
    git_odb *borrower = NULL;
    struct commit_id row[2];

    (void)state;
    branch_grow(row, 2, "main", 1700000000);
    shell("git clone -q --bare --shared .vera second.git && "
          "git clone -q --bare --shared second.git third.git && git gc -q --prune=now && "
          "printf '../../second.git/objects\n# a comment\n\n' >third.git/objects/info/alternates");
    packed = git_id(&row[1]);
    id = object_put_text(GIT_OBJECT_BLOB, text_bytes("lent later"));
    assert_int_equal(odb_open(&borrower, "third.git/objects"), 0);
    assert_reads(borrower, &id, "lent later");
    assert_int_equal(git_odb_exists(borrower, &packed), 1);
    git_odb_free(borrower);
    /* Two that borrow from each other. */
    shell("echo ../../third.git/objects >second.git/objects/info/alternates");
    assert_int_equal(odb_open(&borrower, "third.git/objects"), E_LIMIT);
}

#define CASE(name) cmocka_unit_test_setup_teardown(name, odb_setup, odb_teardown)

int main(void)
{
    const struct CMUnitTest tests[] = {
        CASE(test_a_header_that_lies_is_damage),
        CASE(test_every_cut_and_every_flipped_bit_ends),
        CASE(test_whole_objects_are_read),
        CASE(test_borrowed_objects_are_read),
    };

    return cmocka_run_group_tests(tests, template_make, template_remove);
}
