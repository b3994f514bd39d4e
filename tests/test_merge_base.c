/* Tests of store/merge_base.c, and of the two ways in which a merge moves a branch: where two
   histories parted (random ones, compared with a plain search and with git), fast-forward, and the
   commit with two parents (P3, G8). */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "tests/versions.h"

#define T0      1700000000
#define COMMITS 24

static git_oid tree;

static int merge_setup(void **state)
{
    if (repository_make(state) != 0)
        return 1;
    tree = plain_tree("merge");
    return 0;
}

/* Random histories */

static uint64_t random_state;

static unsigned random_below(unsigned n)
{
    random_state = random_state * UINT64_C(6364136223846793005) + UINT64_C(1442695040888963407);
    return (unsigned)(random_state >> 33) % n;
}

/* reaches[a][b]: b is a or one of its ancestors. */
struct graph {
    struct commit_id commits[COMMITS];
    long times[COMMITS];
    bool reaches[COMMITS][COMMITS];
};

/* Every commit has none, one or two parents among those before it. `skew`: seconds by which clocks
   may be wrong. */
static void graph_make(struct graph *out, unsigned seed, unsigned skew)
{
    *out = (struct graph){0};
    random_state = seed;
    for (size_t i = 0; i < COMMITS; i++) {
        size_t count = i == 0 || random_below(12) == 0 ? 0 : i > 1 && random_below(3) == 0 ? 2 : 1;
        struct commit_id parents[2];
        char message[32];
        out->reaches[i][i] = true;
        for (size_t p = 0; p < count; p++) {
            size_t back = 1 + random_below(i < 4 ? (unsigned)i : 4);
            parents[p] = out->commits[i - back];
            for (size_t k = 0; k < i; k++)
                out->reaches[i][k] |= out->reaches[i - back][k];
        }
        snprintf(message, sizeof(message), "%u %zu", seed, i);
        out->times[i] = T0 + (long)i / 2 - (skew ? (long)random_below(skew) : 0);
        out->commits[i] = plain_commit(&tree, parents, count, out->times[i], message);
    }
}

static bool is_base(const struct graph *graph, size_t a, size_t b, size_t base)
{
    if (!graph->reaches[a][base] || !graph->reaches[b][base])
        return false;
    for (size_t i = 0; i < COMMITS; i++) {
        if (i != base && graph->reaches[a][i] && graph->reaches[b][i] && graph->reaches[i][base])
            return false;
    }
    return true;
}

static bool is_preferred(const struct graph *graph, size_t a, size_t b)
{
    if (graph->times[a] != graph->times[b])
        return graph->times[a] > graph->times[b];
    return memcmp(graph->commits[a].bytes, graph->commits[b].bytes, 20) < 0;
}

static void assert_base(const struct graph *graph, size_t a, size_t b, unsigned seed)
{
    struct merge_base found;
    size_t count = 0, best = COMMITS;

    for (size_t i = 0; i < COMMITS; i++) {
        if (!is_base(graph, a, b, i))
            continue;
        count++;
        if (best == COMMITS || is_preferred(graph, i, best))
            best = i;
    }
    if (store_merge_base(&found, store, &graph->commits[a], &graph->commits[b]) < 0)
        fail_msg("seed %u, %zu and %zu: %s", seed, a, b, error_message());
    if (found.count != count)
        fail_msg("seed %u, %zu and %zu: %zu bases, not %zu", seed, a, b, found.count, count);
    if (count)
        assert_commit(found.commit, graph->commits[best]);
}

static void test_the_base_is_that_of_a_plain_search(void **state)
{
    static struct graph graph;
    size_t several = 0;

    (void)state;
    for (unsigned seed = 0; seed < 40; seed++) {
        graph_make(&graph, seed, seed % 4 * 8);
        for (size_t a = 0; a < COMMITS; a++) {
            for (size_t b = 0; b < COMMITS; b++)
                assert_base(&graph, a, b, seed);
        }
        for (size_t a = 0; a < COMMITS; a++) {
            struct merge_base found;
            assert_int_equal(
                store_merge_base(&found, store, &graph.commits[a], &graph.commits[COMMITS - 1]), 0
            );
            several += found.count > 1;
        }
    }
    assert_true(several > 0);
}

static void test_git_finds_the_same(void **state)
{
    static struct graph graph;
    char hex[2][COMMIT_HEX_SIZE], command[256], count[16];
    struct merge_base found;

    (void)state;
    graph_make(&graph, 7, 0);
    for (size_t a = COMMITS - 6; a < COMMITS; a++) {
        for (size_t b = COMMITS - 6; b < a; b++) {
            commit_hex(hex[0], &graph.commits[a]);
            commit_hex(hex[1], &graph.commits[b]);
            assert_int_equal(
                store_merge_base(&found, store, &graph.commits[a], &graph.commits[b]), 0
            );
            snprintf(
                command, sizeof(command), "git merge-base --all %s %s | wc -l", hex[0], hex[1]
            );
            snprintf(count, sizeof(count), "%zu", found.count);
            assert_shell(command, count);
            if (found.count != 1)
                continue;
            snprintf(command, sizeof(command), "git merge-base %s %s", hex[0], hex[1]);
            commit_hex(hex[0], &found.commit);
            assert_shell(command, hex[0]);
        }
    }
}

/* Shallow clones */

static void shallow_at(const struct commit_id *const *commits, size_t count)
{
    AUTO_BUF(text);
    char hex[COMMIT_HEX_SIZE];

    for (size_t i = 0; i < count; i++) {
        commit_hex(hex, commits[i]);
        assert_int_equal(buf_printf(&text, "%s\n", hex), 0);
    }
    assert_int_equal(file_write(".vera/shallow", buf_bytes(&text)), 0);
    repository_reopen();
}

static void test_a_shallow_clone_answers_what_it_can_know(void **state)
{
    struct commit_id row[4], side;
    struct merge_base found;

    (void)state;
    branch_grow(row, 4, "main", T0);
    side = plain_commit(&tree, &row[1], 1, T0 + 60, "side");
    /* Cut where both come from: nothing behind it can be a better base. */
    shallow_at((const struct commit_id *[]){&row[1]}, 1);
    assert_int_equal(store_merge_base(&found, store, &row[3], &side), 0);
    assert_int_equal(found.count, 1);
    assert_commit(found.commit, row[1]);
    /* Cut on one side only: the base may be anything behind it. */
    shallow_at((const struct commit_id *[]){&row[2]}, 1);
    assert_int_equal(store_merge_base(&found, store, &row[3], &side), E_UNSUPPORTED);
    assert_message("shallow");
    assert_hint("fetch --unshallow");
    assert_int_equal(store_merge_base(&found, store, &side, &row[3]), E_UNSUPPORTED);
    /* One is the other's ancestor, and that is there. */
    assert_int_equal(store_merge_base(&found, store, &row[3], &row[2]), 0);
    assert_commit(found.commit, row[2]);
    shallow_at((const struct commit_id *[]){&row[2], &side}, 2);
    assert_int_equal(store_merge_base(&found, store, &row[3], &side), E_UNSUPPORTED);
}

static void test_a_commit_that_is_missing_is_damage(void **state)
{
    struct commit_id row[4], side;
    struct merge_base found;
    char command[128], hex[COMMIT_HEX_SIZE];

    (void)state;
    branch_grow(row, 4, "main", T0);
    side = plain_commit(&tree, &row[0], 1, T0 + 60, "side");
    commit_hex(hex, &row[1]);
    snprintf(command, sizeof(command), "rm -f .vera/objects/%.2s/%s", hex, hex + 2);
    shell(command);
    repository_reopen();
    assert_int_equal(store_merge_base(&found, store, &row[3], &side), E_CORRUPT);
    assert_message(hex);
}

/* A version's own change */

static void test_a_change_is_that_to_the_one_parent(void **state)
{
    struct commit_id row[3], merge, parent;

    (void)state;
    branch_grow(row, 3, "main", T0);
    merge = plain_commit(&tree, (struct commit_id[]){row[2], row[0]}, 2, T0 + 9, "merge");
    assert_int_equal(store_parent(&parent, store, &row[2]), 0);
    assert_commit(parent, row[1]);
    assert_int_equal(store_parent(&parent, store, &row[0]), E_INVALID);
    assert_message("first version");
    assert_int_equal(store_parent(&parent, store, &merge), E_INVALID);
    assert_message("is a merge");
    assert_hint("^2");
    shallow_at((const struct commit_id *[]){&row[2]}, 1);
    assert_int_equal(store_parent(&parent, store, &row[2]), E_UNSUPPORTED);
    assert_hint("fetch --unshallow");
}

/* Moving the branch */

static int commit_try(struct commit_result *out, struct commit_request request)
{
    int err = store_commit(out, store, &request);

    free(out->branch);
    out->branch = NULL;
    return err;
}

static void test_a_merge_has_two_parents_and_git_reads_it(void **state)
{
    AUTO_SNAPSHOT(merged);
    struct commit_result result = {0};

    (void)state;
    struct commit_id first = commit_adapter("llama/step-060");
    assert_int_equal(store_branch_create(store, "side", &first), 0);
    struct commit_id ours = commit_adapter("llama/step-070");
    AUTO_SNAPSHOT(other);
    snapshot_read(&other, "llama-c/step-010");
    assert_int_equal(
        commit_try(&result, (struct commit_request){.snapshot = &other, .branch = "side"}), 0
    );
    struct commit_id theirs = result.commit;
    snapshot_read(&merged, "llama-perl/step-010");
    struct commit_request request = {
        .snapshot = &merged,
        .message = "Merge branch 'side'",
        .onto = &ours,
        .merged = &theirs,
        .action = "merge side",
    };
    assert_int_equal(commit_try(&result, request), 0);
    AUTO_VERSION(version);
    assert_int_equal(store_version(&version, store, &result.commit), 0);
    assert_int_equal(version.parent_count, 2);
    assert_commit(version.parents[0], ours);
    assert_commit(version.parents[1], theirs);
    AUTO_SNAPSHOT(back);
    repository_reopen();
    assert_int_equal(store_load(&back, store, &result.commit), 0);
    assert_snapshots_equal(&back, &merged);
    shell("git fsck --strict --no-dangling && test $(git rev-parse HEAD^2) = $(git rev-parse side)"
    );
    assert_shell("git log -g -1 --format=%gs main", "merge side: Merge branch 'side'");
}

static void test_a_tip_that_moved_meanwhile_is_a_conflict_that_changes_nothing(void **state)
{
    AUTO_SNAPSHOT(snapshot);
    AUTO_BUF(before);
    AUTO_BUF(after);
    struct commit_result result = {0};
    static const char everything[] =
        "find .vera -type f ! -name 'index.sqlite*' -exec sha1sum {} + "
        "| sort";

    (void)state;
    struct commit_id old = commit_adapter("llama/step-060");
    struct commit_id now = commit_adapter("llama/step-070");
    snapshot_read(&snapshot, "llama/step-080");
    shell_status(&before, everything);
    const struct commit_id *const onto[] = {&old, &now};
    struct commit_request request = {.snapshot = &snapshot, .onto = onto[0], .merged = &old};
    assert_int_equal(commit_try(&result, request), E_CONFLICT);
    assert_message("moved meanwhile");
    assert_int_equal(store_fast_forward(store, &old, &now, "merge x"), E_CONFLICT);
    assert_int_equal(store_fast_forward(store, NULL, &now, "merge x"), E_CONFLICT);
    request.branch = "new";
    request.onto = onto[1];
    assert_int_equal(commit_try(&result, request), E_CONFLICT);
    shell_status(&after, everything);
    assert_string_equal(buf_text(&before), buf_text(&after));
    request.branch = NULL;
    assert_int_equal(commit_try(&result, request), 0);
}

static void test_a_branch_moves_forward_and_says_why(void **state)
{
    struct commit_id row[4];

    (void)state;
    branch_grow(row, 4, "side", T0);
    assert_int_equal(store_fast_forward(store, NULL, &row[1], "merge side"), 0);
    assert_commit(tip(), row[1]);
    assert_int_equal(store_fast_forward(store, &row[1], &row[3], "merge side"), 0);
    assert_commit(tip(), row[3]);
    assert_shell(
        "git log -g --format=%gs main", "merge side: Fast-forward\nmerge side: Fast-forward"
    );
    shell("git symbolic-ref HEAD | grep -qx refs/heads/main && ! test -e .vera/refs/vera/trash");
    shell("git update-ref --no-deref HEAD main");
    repository_reopen();
    assert_int_equal(store_fast_forward(store, &row[3], &row[3], "merge side"), E_INVALID);
    assert_hint("vera switch");
}

int main(void)
{
#define TEST(name) cmocka_unit_test_setup_teardown(name, merge_setup, repository_remove)
    const struct CMUnitTest tests[] = {
        TEST(test_the_base_is_that_of_a_plain_search),
        TEST(test_git_finds_the_same),
        TEST(test_a_shallow_clone_answers_what_it_can_know),
        TEST(test_a_commit_that_is_missing_is_damage),
        TEST(test_a_change_is_that_to_the_one_parent),
        TEST(test_a_merge_has_two_parents_and_git_reads_it),
        TEST(test_a_tip_that_moved_meanwhile_is_a_conflict_that_changes_nothing),
        TEST(test_a_branch_moves_forward_and_says_why),
    };

    return cmocka_run_group_tests(tests, template_make, template_remove);
}
