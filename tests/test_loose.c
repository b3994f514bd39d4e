/*
 * Tests of loose objects: what is written is git's, in either form, and only what is whole is read.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <zlib.h>

#include "format/limits.h"
#include "store/loose.h"
#include "tests/fault.h"
#include "tests/repository.h"

/* Bytes that no compressor makes smaller. */
static void noise(struct buf *out, size_t len)
{
    uint32_t seed = (uint32_t)len + 1;

    assert_int_equal(buf_resize(out, len), 0);
    for (size_t i = 0; i < len; i++) {
        seed = seed * 1664525 + 1013904223;
        out->data[i] = (uint8_t)(seed >> 24);
    }
}

/* Write it, and look at it as git, libgit2 and we ourselves do. */
static void assert_written(struct bytes data, enum loose_form form)
{
    AUTO_FREE(char, path);
    AUTO_BUF(command);
    AUTO_BUF(found);
    AUTO_BUF(read);
    bool is_found = false;
    uint64_t bytes = 0;
    git_oid id, same;

    assert_int_equal(loose_id(&id, GIT_OBJECT_BLOB, data), 0);
    assert_int_equal(
        git_odb_hash(&same, data.len ? (const void *)data.data : "", data.len, GIT_OBJECT_BLOB), 0
    );
    assert_true(git_oid_equal(&id, &same));
    assert_int_equal(loose_write(&bytes, store, &id, GIT_OBJECT_BLOB, data, form), 0);
    assert_int_equal(loose_path(&path, store, &id), 0);
    assert_int_equal(
        buf_printf(
            &command,
            "test $(stat -c '%%a %%s' %s | tr ' ' -) = 444-%ju && git cat-file blob %s >contents",
            path, (uintmax_t)bytes, git_oid_tostr_s(&id)
        ),
        0
    );
    shell((char *)command.data);
    assert_int_equal(file_read(&read, "contents", GIB), 0);
    assert_true(bytes_equal(buf_bytes(&read), data));
    assert_int_equal(loose_find(&is_found, &found, store, &id, GIT_OBJECT_BLOB, data.len), 0);
    assert_true(is_found);
    assert_true(bytes_equal(buf_bytes(&found), data));
    buf_release(&read);
    assert_int_equal(object_read(&read, store, &id, GIT_OBJECT_BLOB, data.len, "noise"), 0);
    assert_true(bytes_equal(buf_bytes(&read), data));
    git_odb_object *object = NULL;
    assert_int_equal(git_odb_read(&object, store->odb, &id), 0);
    assert_true(
        bytes_equal((struct bytes){git_odb_object_data(object), git_odb_object_size(object)}, data)
    );
    git_odb_object_free(object);
    /* One byte less is too little. */
    buf_release(&read);
    if (data.len) {
        assert_int_equal(
            loose_find(&is_found, &read, store, &id, GIT_OBJECT_BLOB, data.len - 1), 0
        );
        assert_false(is_found);
    }
    assert_int_equal(loose_find(&is_found, &read, store, &id, GIT_OBJECT_TREE, GIB), 0);
    assert_false(is_found);
}

static void test_an_object_is_gits_in_either_form(void **state)
{
    /* With "blob 65524" and its NUL a stored block is full. */
    static const size_t sizes[] = {0,     1,     9,     100,    65523,  65524,
                                   65525, 65535, 65536, 131058, 131059, 1000000};

    (void)state;
    for (size_t i = 0; i < sizeof(sizes) / sizeof(sizes[0]); i++) {
        AUTO_BUF(data);
        noise(&data, sizes[i]);
        assert_written(buf_bytes(&data), i % 2 ? LOOSE_STORED : LOOSE_DEFLATED);
        assert_written(buf_bytes(&data), i % 2 ? LOOSE_DEFLATED : LOOSE_STORED);
    }
    shell("git fsck --strict --no-dangling");
    shell("test -z \"$(find .vera -name 'tmp_*')\"");
}

/* A folder of objects that git's gc has removed is made again. */
static void test_folders_are_made_where_they_are_missing(void **state)
{
    (void)state;
    shell("test -z \"$(ls -d .vera/objects/[0-9a-f][0-9a-f] 2>/dev/null)\"");
    assert_written(text_bytes("in a new folder"), LOOSE_DEFLATED);
}

static void test_what_is_not_whole_is_not_found(void **state)
{
    static const enum loose_form forms[] = {LOOSE_STORED, LOOSE_DEFLATED};

    (void)state;
    for (size_t f = 0; f < 2; f++) {
        AUTO_FREE(char, path);
        AUTO_BUF(data);
        AUTO_BUF(file);
        uint64_t bytes;
        bool found = true;
        unsigned harmless = 0;
        git_oid id;
        noise(&data, 150);
        assert_int_equal(loose_id(&id, GIT_OBJECT_BLOB, buf_bytes(&data)), 0);
        assert_int_equal(
            loose_write(&bytes, store, &id, GIT_OBJECT_BLOB, buf_bytes(&data), forms[f]), 0
        );
        assert_int_equal(loose_path(&path, store, &id), 0);
        assert_int_equal(file_read(&file, path, MIB), 0);
        for (size_t cut = 0; cut <= file.len; cut++) {
            AUTO_BUF(read);
            assert_int_equal(file_write(path, (struct bytes){file.data, cut}), 0);
            assert_int_equal(loose_find(&found, &read, store, &id, GIT_OBJECT_BLOB, MIB), 0);
            assert_int_equal(found, cut == file.len);
        }
        for (size_t bit = 0; bit < 8 * file.len; bit++) {
            AUTO_BUF(read);
            file.data[bit / 8] ^= (uint8_t)(1 << bit % 8);
            assert_int_equal(file_write(path, buf_bytes(&file)), 0);
            assert_int_equal(loose_find(&found, &read, store, &id, GIT_OBJECT_BLOB, MIB), 0);
            /* A few bits of zlib's decide nothing: the window's size, what fills up a byte. */
            harmless += found;
            if (found)
                assert_true(bytes_equal(buf_bytes(&read), buf_bytes(&data)));
            file.data[bit / 8] ^= (uint8_t)(1 << bit % 8);
        }
        assert_true(harmless < 16);
        assert_int_equal(buf_append_byte(&file, 0), 0);
        assert_int_equal(file_write(path, buf_bytes(&file)), 0);
        AUTO_BUF(read);
        assert_int_equal(loose_find(&found, &read, store, &id, GIT_OBJECT_BLOB, MIB), 0);
        assert_false(found);
        assert_int_equal(path_remove(path), 0);
        assert_int_equal(loose_find(&found, &read, store, &id, GIT_OBJECT_BLOB, MIB), 0);
        assert_false(found);
    }
}

static void test_another_object_under_its_name_is_not_found(void **state)
{
    AUTO_FREE(char, path);
    AUTO_FREE(char, other_path);
    AUTO_BUF(file);
    AUTO_BUF(read);
    bool found = true;
    git_oid id, other;

    (void)state;
    assert_written(text_bytes("one"), LOOSE_STORED);
    assert_written(text_bytes("two"), LOOSE_STORED);
    assert_int_equal(loose_id(&id, GIT_OBJECT_BLOB, text_bytes("one")), 0);
    assert_int_equal(loose_id(&other, GIT_OBJECT_BLOB, text_bytes("two")), 0);
    assert_int_equal(loose_path(&path, store, &id), 0);
    assert_int_equal(loose_path(&other_path, store, &other), 0);
    assert_int_equal(file_read(&file, other_path, MIB), 0);
    assert_int_equal(file_write(path, buf_bytes(&file)), 0);
    assert_int_equal(loose_find(&found, &read, store, &id, GIT_OBJECT_BLOB, MIB), 0);
    assert_false(found);
}

/* Headers that another program may have written, and sizes that nobody can have. */
static void test_headers_are_canonical_and_below_the_limit(void **state)
{
    static const char *const headers[] = {
        "blob 03\\0abc",
        "blob  3\\0abc",
        "blob 3 \\0abc",
        "blob 2\\0abc",
        "blob 4\\0abc",
        "blob -3\\0abc",
        "blob\\0abc",
        "blob 99999999999999999999999\\0abc",
        "blob 3",
        "tree 3\\0abc",
        "\\0abc",
        "blob 18446744073709551619\\0abc",
        "blob 300000000000000000000000000000000\\0abc",
    };
    AUTO_FREE(char, path);
    git_oid id;
    bool found = true;

    (void)state;
    assert_written(text_bytes("abc"), LOOSE_DEFLATED);
    assert_int_equal(loose_id(&id, GIT_OBJECT_BLOB, text_bytes("abc")), 0);
    assert_int_equal(loose_path(&path, store, &id), 0);
    for (size_t i = 0; i < sizeof(headers) / sizeof(headers[0]); i++) {
        AUTO_BUF(command);
        AUTO_BUF(read);
        assert_int_equal(
            buf_printf(
                &command,
                "rm -f %s && python3 -c \"import zlib,sys; sys.stdout.buffer.write(zlib.compress("
                "b'%s'))\" >%s",
                path, headers[i], path
            ),
            0
        );
        shell((char *)command.data);
        fault_largest = 0;
        assert_int_equal(loose_find(&found, &read, store, &id, GIT_OBJECT_BLOB, 1000), 0);
        assert_false(found);
        assert_true(fault_largest < 2000);
    }
}

/* What a small file claims to hold is not allocated, whatever the limit. */
static void test_no_file_gets_more_memory_than_deflate_can_fill(void **state)
{
    static const char claim[] = "blob 1000000000\0abc";
    uint8_t file[128];
    uLong len = sizeof(file);
    struct loose_header header;
    bool whole = true;
    AUTO_BUF(contents);

    (void)state;
    assert_int_equal(compress(file, &len, (const Bytef *)claim, sizeof(claim) - 1), Z_OK);
    fault_largest = 0;
    assert_int_equal(
        loose_decode(&whole, &header, &contents, (struct bytes){file, len}, LIMIT_FILE), 0
    );
    assert_false(whole);
    assert_null(contents.data);
    assert_true(fault_largest < 2000);
}

static void test_every_allocation_that_fails_is_out_of_memory(void **state)
{
    AUTO_BUF(data);
    int err = E_NOMEM;
    git_oid id;

    (void)state;
    noise(&data, 70000);
    assert_int_equal(loose_id(&id, GIT_OBJECT_BLOB, buf_bytes(&data)), 0);
    for (enum loose_form form = LOOSE_DEFLATED; form <= LOOSE_STORED; form++, err = E_NOMEM) {
        for (int n = 0; err == E_NOMEM; n++) {
            uint64_t bytes;
            fault_after = n;
            err = loose_write(&bytes, store, &id, GIT_OBJECT_BLOB, buf_bytes(&data), form);
            fault_after = -1;
            assert_true(err == 0 || err == E_NOMEM);
            shell("test -z \"$(find .vera -name 'tmp_*')\"");
        }
        err = E_NOMEM;
        for (int n = 0; err == E_NOMEM; n++) {
            AUTO_BUF(read);
            bool found = false;
            fault_after = n;
            err = loose_find(&found, &read, store, &id, GIT_OBJECT_BLOB, MIB);
            fault_after = -1;
            assert_int_equal(found, err == 0);
            assert_true(err == 0 || err == E_NOMEM);
        }
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
#define TEST(name) cmocka_unit_test_setup_teardown(test_##name, repository_make, repository_remove)
        TEST(an_object_is_gits_in_either_form),
        TEST(folders_are_made_where_they_are_missing),
        TEST(what_is_not_whole_is_not_found),
        TEST(another_object_under_its_name_is_not_found),
        TEST(headers_are_canonical_and_below_the_limit),
        TEST(no_file_gets_more_memory_than_deflate_can_fill),
        TEST(every_allocation_that_fails_is_out_of_memory),
    };

    return cmocka_run_group_tests(tests, template_make, template_remove);
}
