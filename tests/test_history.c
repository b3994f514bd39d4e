/* Tests of store/history.c: order, limit, merges, clocks that run backwards, shallow clones. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "tests/repository.h"

#define T0 1700000000

static git_oid tree;

static struct commit_id commit(long time, size_t parents, ...)
{
    static int number;
    struct commit_id list[8];
    char message[32];
    va_list ap;

    va_start(ap, parents);
    for (size_t i = 0; i < parents; i++)
        list[i] = *va_arg(ap, struct commit_id *);
    va_end(ap);
    snprintf(message, sizeof(message), "commit %d", number++);
    return plain_commit(&tree, list, parents, T0 + time, message);
}

static int history_setup(void **state)
{
    if (repository_make(state) != 0)
        return 1;
    tree = plain_tree("history");
    return 0;
}

static void
assert_history(const struct history *history, const struct commit_id *expected, size_t n)
{
    assert_int_equal(history->count, n);
    for (size_t i = 0; i < n; i++)
        assert_commit(history->commits[i], expected[i]);
}

static void assert_children_first(const struct history *history)
{
    for (size_t i = 0; i < history->count; i++) {
        AUTO_GIT(git_commit, read);
        git_oid id = git_id(&history->commits[i]);
        assert_int_equal(git_commit_lookup(&read, store->repo, &id), 0);
        for (unsigned p = 0; p < git_commit_parentcount(read); p++) {
            struct commit_id parent = commit_id_of(git_commit_parent_id(read, p));
            for (size_t k = 0; k < i; k++)
                assert_false(commit_equal(&history->commits[k], &parent));
        }
    }
}

static void test_a_row_comes_newest_first(void **state)
{
    struct commit_id row[20], reversed[20];

    (void)state;
    branch_grow(row, 20, "main", T0);
    for (size_t i = 0; i < 20; i++)
        reversed[i] = row[19 - i];
    for (size_t limit = 0; limit <= 22; limit++) {
        AUTO_HISTORY(history);
        assert_int_equal(store_history(&history, store, &row[19], 1, limit), 0);
        assert_history(&history, reversed, limit && limit < 20 ? limit : 20);
    }
}

static void test_no_starts_is_every_branch_tag_and_remote_branch(void **state)
{
    struct commit_id a = commit(1, 0), b = commit(2, 0), c = commit(3, 0), d = commit(4, 0);
    AUTO_HISTORY(nothing);
    AUTO_HISTORY(history);
    char command[512], hex[3][COMMIT_HEX_SIZE];

    (void)state;
    assert_int_equal(store_history(&nothing, store, NULL, 0, 0), 0);
    assert_int_equal(nothing.count, 0);
    branch_put("main", &a);
    assert_int_equal(store_tag_create(store, "light", &b, NULL), 0);
    assert_int_equal(store_tag_create(store, "told", &c, "a message"), 0);
    commit_hex(hex[0], &d);
    snprintf(command, sizeof(command), "git update-ref refs/remotes/origin/main %s", hex[0]);
    shell(command);
    assert_int_equal(store_history(&history, store, NULL, 0, 0), 0);
    assert_history(&history, (struct commit_id[]){d, c, b, a}, 4);
}

static void test_a_detached_head_is_a_start(void **state)
{
    struct commit_id a = commit(1, 0), b = commit(2, 1, &a);
    char command[256], hex[COMMIT_HEX_SIZE];
    AUTO_HISTORY(history);

    (void)state;
    branch_put("main", &a);
    commit_hex(hex, &b);
    snprintf(command, sizeof(command), "git update-ref --no-deref HEAD %s", hex);
    shell(command);
    repository_reopen();
    assert_int_equal(store_history(&history, store, NULL, 0, 0), 0);
    assert_history(&history, (struct commit_id[]){b, a}, 2);
}

/* Two branches and their merge, in every order of times that seconds allow. */
static void test_children_come_before_parents_whatever_the_clocks_said(void **state)
{
    (void)state;
    for (unsigned times = 0; times < 3 * 3 * 3 * 3 * 3; times++) {
        unsigned t = times;
        struct commit_id root = commit(t % 3, 0);
        struct commit_id left = commit((t /= 3) % 3, 1, &root);
        struct commit_id right = commit((t /= 3) % 3, 1, &root);
        struct commit_id far = commit((t /= 3) % 3, 1, &right);
        struct commit_id merge = commit((t /= 3) % 3, 2, &left, &far);
        for (size_t limit = 0; limit <= 5; limit++) {
            AUTO_HISTORY(history);
            assert_int_equal(store_history(&history, store, &merge, 1, limit), 0);
            assert_int_equal(history.count, limit ? limit : 5);
            assert_children_first(&history);
            assert_commit(history.commits[0], merge);
        }
    }
}

static void test_a_limit_cuts_the_whole_history_where_seconds_are_equal(void **state)
{
    struct commit_id root = commit(0, 0), one = commit(0, 1, &root), two = commit(0, 1, &one);
    struct commit_id starts[] = {root, one, two};
    AUTO_HISTORY(whole);

    (void)state;
    assert_int_equal(store_history(&whole, store, starts, 3, 0), 0);
    assert_history(&whole, (struct commit_id[]){two, one, root}, 3);
    for (size_t limit = 1; limit <= 3; limit++) {
        AUTO_HISTORY(history);
        assert_int_equal(store_history(&history, store, starts, 3, limit), 0);
        assert_history(&history, whole.commits, limit);
    }
}

static void test_order_is_that_of_git_date_order(void **state)
{
    struct commit_id a = commit(0, 0), b = commit(10, 1, &a), c = commit(20, 1, &a);
    struct commit_id d = commit(30, 1, &b), e = commit(40, 1, &c), f = commit(50, 2, &d, &e);
    AUTO_HISTORY(history);
    AUTO_BUF(ours);
    char command[256], hex[COMMIT_HEX_SIZE];

    (void)state;
    assert_int_equal(store_history(&history, store, &f, 1, 0), 0);
    for (size_t i = 0; i < history.count; i++) {
        commit_hex(hex, &history.commits[i]);
        assert_int_equal(buf_printf(&ours, "%s%s", i ? "\n" : "", hex), 0);
    }
    commit_hex(hex, &f);
    snprintf(command, sizeof(command), "git rev-list --date-order %s", hex);
    assert_shell(command, buf_text(&ours));
}

static void test_a_parent_named_twice_and_starts_named_twice_come_once(void **state)
{
    struct commit_id a = commit(0, 0), b = commit(1, 2, &a, &a);
    struct commit_id starts[] = {b, b, a};
    AUTO_HISTORY(history);

    (void)state;
    assert_int_equal(store_history(&history, store, starts, 3, 0), 0);
    assert_history(&history, (struct commit_id[]){b, a}, 2);
}

static void object_remove(const struct commit_id *id)
{
    char path[128], hex[COMMIT_HEX_SIZE];

    commit_hex(hex, id);
    snprintf(path, sizeof(path), ".vera/objects/%.2s/%s", hex, hex + 2);
    assert_int_equal(unlink(path), 0);
}

static void test_a_missing_parent_is_damage_and_named(void **state)
{
    struct commit_id a = commit(0, 0), b = commit(1, 1, &a), c = commit(2, 1, &b);
    AUTO_HISTORY(history);
    AUTO_HISTORY(first);
    char hex[COMMIT_HEX_SIZE];

    (void)state;
    object_remove(&a);
    repository_reopen();
    assert_int_equal(store_history(&history, store, &c, 1, 0), E_CORRUPT);
    commit_hex(hex, &a);
    assert_message(hex);
    assert_null(history.commits);
    /* What lies before it can still be seen. */
    assert_int_equal(store_history(&first, store, &c, 1, 1), 0);
    assert_history(&first, (struct commit_id[]){c}, 1);
}

static void test_a_shallow_clone_ends_at_its_boundary(void **state)
{
    struct commit_id row[5];
    AUTO_STORE(shallow);
    AUTO_HISTORY(history);

    (void)state;
    branch_grow(row, 5, "main", T0);
    shell("mkdir clone && git clone -q --bare --depth 2 file://$PWD/.vera clone/.vera");
    assert_int_equal(store_open(&shallow, "clone", NULL), 0);
    assert_int_equal(store_history(&history, shallow, &row[4], 1, 0), 0);
    assert_history(&history, (struct commit_id[]){row[4], row[3]}, 2);
}

static void test_a_shallow_file_that_is_none_is_corrupt(void **state)
{
    struct commit_id a = commit(0, 0);
    AUTO_HISTORY(history);

    (void)state;
    shell("echo nonsense >.vera/shallow");
    assert_int_equal(store_history(&history, store, &a, 1, 0), E_CORRUPT);
    assert_message("shallow");
}

static void test_what_is_no_commit_is_corrupt(void **state)
{
    struct commit_id no_commit = commit_id_of(&tree);
    AUTO_HISTORY(history);

    (void)state;
    assert_int_equal(store_history(&history, store, &no_commit, 1, 0), E_CORRUPT);
}

/* A thousand commits, and none older than the twentieth is there: so none was read. */
static void test_a_limit_reads_no_more_than_it_gives(void **state)
{
    static struct commit_id row[1000];
    AUTO_HISTORY(history);
    AUTO_HISTORY(whole);

    (void)state;
    for (size_t i = 0; i < 1000; i++)
        row[i] = plain_commit(&tree, i ? &row[i - 1] : NULL, i ? 1 : 0, T0, "of one second");
    assert_int_equal(store_history(&whole, store, &row[999], 1, 0), 0);
    assert_int_equal(whole.count, 1000);
    for (size_t i = 0; i < 979; i++)
        object_remove(&row[i]);
    repository_reopen();
    assert_int_equal(store_history(&history, store, &row[999], 1, 20), 0);
    assert_history(&history, whole.commits, 20);
}

static void test_an_interrupt_ends_the_walk(void **state)
{
    struct commit_id row[3];
    AUTO_HISTORY(history);

    (void)state;
    branch_grow(row, 3, "main", T0);
    interrupt_flag = 1;
    assert_int_equal(store_history(&history, store, &row[2], 1, 0), E_INTERRUPTED);
    assert_null(history.commits);
}

#define CASE(name) cmocka_unit_test_setup_teardown(name, history_setup, repository_remove)

int main(void)
{
    const struct CMUnitTest tests[] = {
        CASE(test_a_row_comes_newest_first),
        CASE(test_no_starts_is_every_branch_tag_and_remote_branch),
        CASE(test_a_detached_head_is_a_start),
        CASE(test_children_come_before_parents_whatever_the_clocks_said),
        CASE(test_a_limit_cuts_the_whole_history_where_seconds_are_equal),
        CASE(test_order_is_that_of_git_date_order),
        CASE(test_a_parent_named_twice_and_starts_named_twice_come_once),
        CASE(test_a_missing_parent_is_damage_and_named),
        CASE(test_a_shallow_clone_ends_at_its_boundary),
        CASE(test_a_shallow_file_that_is_none_is_corrupt),
        CASE(test_what_is_no_commit_is_corrupt),
        CASE(test_a_limit_reads_no_more_than_it_gives),
        CASE(test_an_interrupt_ends_the_walk),
    };
    return cmocka_run_group_tests(tests, template_make, template_remove);
}
