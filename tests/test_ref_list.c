/* Tests of the list of refs: that it is git's, and what it leaves out. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "store/ref_list.h"
#include "tests/fault.h"
#include "tests/repository.h"

#define ID    "1111111111111111111111111111111111111111"
#define OTHER "2222222222222222222222222222222222222222"

/* "<id> <name>", one a line, as git for-each-ref prints them; "-" for a symbolic one's id. */
static void list_print(struct buf *out, const char *prefix)
{
    AUTO_REF_LIST(list);

    assert_int_equal(ref_list_read(&list, store, prefix), 0);
    for (size_t i = 0; i < list.count; i++) {
        char hex[COMMIT_HEX_SIZE] = "-";
        if (!list.refs[i].is_symbolic)
            git_oid_tostr(hex, sizeof(hex), &list.refs[i].target);
        assert_int_equal(buf_printf(out, "%s%s %s", i ? "\n" : "", hex, list.refs[i].name), 0);
    }
    assert_non_null(buf_text(out));
}

static void assert_list(const char *prefix, const char *expected)
{
    AUTO_BUF(text);

    list_print(&text, prefix);
    assert_string_equal(text.len ? buf_text(&text) : "", expected);
}

static void loose_put(const char *name, const char *text)
{
    AUTO_BUF(path);
    AUTO_FREE(char, folder);

    assert_int_equal(buf_printf(&path, ".vera/%s", name), 0);
    assert_int_equal(path_parent(&folder, (char *)path.data), 0);
    assert_int_equal(dir_make(folder), 0);
    assert_int_equal(file_write((char *)path.data, text_bytes(text)), 0);
}

static void test_the_list_is_that_of_git(void **state)
{
    static const char *const names[] = {
        "refs/heads/a",          "refs/heads/a-b",
        "refs/heads/run/10",     "refs/heads/run/2",
        "refs/heads/x/y/z/deep", "refs/remotes/origin/main",
        "refs/tags/light",       "refs/vera/trash/20260131T235959.123456Z/run/1"};
    struct commit_id row[2];

    (void)state;
    branch_grow(row, 2, "main", 1700000000);
    for (int round = 0; round < 3; round++) {
        for (size_t i = 0; i < sizeof(names) / sizeof(names[0]); i++) {
            AUTO_BUF(command);
            /* In files, then in packed-refs, then some of them moved on in files again. */
            if (round == 1 || (round == 2 && i % 2))
                continue;
            assert_int_equal(
                buf_printf(&command, "git update-ref %s main~%d", names[i], round == 0), 0
            );
            shell((char *)command.data);
        }
        if (round == 1)
            shell("git tag -a -m told told main && git pack-refs --all && ! ls .vera/refs/heads/a");
        for (size_t i = 0; i < 3; i++) {
            static const char *const prefixes[] = {"refs/", "refs/heads/", "refs/vera/trash/"};
            AUTO_BUF(command);
            AUTO_BUF(ours);
            assert_int_equal(
                buf_printf(
                    &command, "git for-each-ref --format='%%(objectname) %%(refname)' %s",
                    prefixes[i]
                ),
                0
            );
            list_print(&ours, prefixes[i]);
            assert_shell((char *)command.data, buf_text(&ours));
        }
    }
}

static void test_a_file_goes_before_a_line_and_a_symbolic_ref_before_both(void **state)
{
    (void)state;
    loose_put(
        "packed-refs", "# pack-refs with: peeled fully-peeled sorted \n" ID " refs/heads/file\n" ID
                       " refs/heads/line\n" ID " refs/heads/symbolic\n" ID " refs/tags/t\n^" OTHER
                       "\n" ID " refs/tags/u\r\n"
    );
    loose_put("refs/heads/file", OTHER "\n");
    loose_put("refs/heads/symbolic", "ref: refs/heads/file\n");
    assert_list(
        "refs/heads/", OTHER " refs/heads/file\n" ID " refs/heads/line\n- refs/heads/symbolic"
    );
    assert_list("refs/tags/", ID " refs/tags/t\n" ID " refs/tags/u");
    assert_list("refs/none/", "");
}

static void test_what_git_reads_as_an_id_is_one(void **state)
{
    static const char *const contents[] = {ID, ID "\n", ID "\r\n", ID " and more\n", ID "\t"};

    (void)state;
    for (size_t i = 0; i < sizeof(contents) / sizeof(contents[0]); i++) {
        loose_put("refs/heads/x", contents[i]);
        assert_list("refs/heads/", ID " refs/heads/x");
        assert_shell("git rev-parse refs/heads/x", ID);
    }
}

static void test_what_is_no_ref_is_left_out(void **state)
{
    static const struct {
        const char *name, *contents;
    } cases[] = {
        {"x", ""},
        {"x", "\n"},
        {"x", "1111\n"},
        {"x", ID "1\n"},
        {"x", ID "x"},
        {"x", " " ID "\n"},
        {"x", "no digits"},
        {"x.lock", ID "\n"},
        {"a..b", ID "\n"},
        {"a b", ID "\n"},
        {".x", ID "\n"},
        {"x.", ID "\n"},
        {"a\x01"
         "b",
         ID "\n"},
        {"a@{b", ID "\n"},
        {"f.lock/x", ID "\n"},
    };

    (void)state;
    for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
        AUTO_BUF(name);
        assert_int_equal(buf_printf(&name, "refs/heads/%s", cases[i].name), 0);
        loose_put((char *)name.data, cases[i].contents);
        assert_list("refs/heads/", "");
        shell("rm -r .vera/refs/heads && mkdir .vera/refs/heads");
    }
    shell("mkfifo .vera/refs/heads/fifo && ln -s /nowhere .vera/refs/heads/link && "
          "head -c 5000 /dev/zero | tr '\\0' 1 > .vera/refs/heads/long");
    assert_list("refs/heads/", "");
}

/* Who packs refs may have come as far as this: what the file says no more, the line does. */
static void test_a_file_that_says_nothing_leaves_the_line(void **state)
{
    (void)state;
    loose_put("packed-refs", ID " refs/heads/x\n");
    loose_put("refs/heads/x", "");
    assert_list("refs/heads/", ID " refs/heads/x");
}

static void test_damaged_packed_refs_are_corrupt(void **state)
{
    static const char *const damaged[] = {
        "x\n",
        "\n",
        ID "\n",
        ID " \n",
        ID "refs/heads/x\n",
        "1111 refs/heads/x\n",
        ID " refs/heads/x",
        ID " refs/heads/x\n# a comment is no end",
        " " ID " refs/heads/x\n",
    };

    (void)state;
    for (size_t i = 0; i < sizeof(damaged) / sizeof(damaged[0]); i++) {
        struct ref_list list = {0};
        loose_put("packed-refs", damaged[i]);
        assert_int_equal(ref_list_read(&list, store, "refs/heads/"), E_CORRUPT);
        assert_message("packed-refs: line ");
        assert_null(list.refs);
    }
}

static void test_without_memory_nothing_is_left_out(void **state)
{
    int err;

    (void)state;
    loose_put("packed-refs", ID " refs/heads/line\n");
    loose_put("refs/heads/run/file", OTHER "\n");
    for (int n = 0;; n++) {
        struct ref_list list = {0};
        fault_after = n;
        err = ref_list_read(&list, store, "refs/");
        bool failed = fault_after < 0;
        fault_after = -1;
        if (failed) {
            assert_int_equal(err, E_NOMEM);
            assert_null(list.refs);
            continue;
        }
        assert_int_equal(err, 0);
        assert_int_equal(list.count, 2);
        ref_list_release(&list);
        break;
    }
}

#define CASE(name) cmocka_unit_test_setup_teardown(name, repository_make, repository_remove)

int main(void)
{
    const struct CMUnitTest tests[] = {
        CASE(test_the_list_is_that_of_git),
        CASE(test_a_file_goes_before_a_line_and_a_symbolic_ref_before_both),
        CASE(test_what_git_reads_as_an_id_is_one),
        CASE(test_what_is_no_ref_is_left_out),
        CASE(test_a_file_that_says_nothing_leaves_the_line),
        CASE(test_damaged_packed_refs_are_corrupt),
        CASE(test_without_memory_nothing_is_left_out),
    };
    return cmocka_run_group_tests(tests, template_make, template_remove);
}
