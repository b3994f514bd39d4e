/*
 * prune thins one branch and nothing else: "Pruned branches" of docs/format.md. Every version that
 * stays is restored byte for byte; git is asked what the branch is now.
 */
#define _GNU_SOURCE
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "tests/syscalls.h"

#include "store/payload.h"
#include "tests/collected.h"

#define VERSIONS 13 /* of the run: llama/step-000 to step-120, oldest first */

static struct commit_id run[VERSIONS];

/* The first versions of the run on main, with metrics: loss falls and rises again, lowest at 5 and
   7; only 3 has "odd". */
static int versions_of_run_make(void **state, int count)
{
    static const char *const losses[VERSIONS] = {"9", "8e0", "7", "6.5", "4",    "1.0", "2",
                                                 "1", "3",   "4", "10",  "-0.0", "5"};

    if (repository_make(state) != 0)
        return 1;
    remembered_count = 0;
    for (int i = 0; i < count; i++) {
        AUTO_SNAPSHOT(snapshot);
        struct commit_result result = {0};
        char adapter[32], date[32];
        struct trailer trailers[] = {
            {"Metric-loss", losses[i]},
            {"Metric-odd", "1"},
            {"Reviewed-by", "Bob <b@example.org>"}};
        snprintf(adapter, sizeof(adapter), "llama/step-%03d", 10 * i);
        snprintf(date, sizeof(date), "17000000%02d +0130", i);
        setenv("GIT_AUTHOR_DATE", date, 1);
        setenv("GIT_COMMITTER_DATE", date, 1);
        snapshot_read(&snapshot, adapter);
        if (i == 11)
            trailers[0] = (struct trailer){"Metric-other", "0"};
        if (i == 3)
            trailers[2] = trailers[1];
        struct commit_request request = {
            .snapshot = &snapshot,
            .message = adapter,
            .trailers = i == 3 ? trailers : &trailers[0],
            .trailer_count = i == 3 ? 2 : 1,
        };
        if (store_commit(&result, store, &request) < 0)
            fail_msg("%s", error_message());
        free(result.branch);
        run[i] = result.commit;
        remember(&run[i]);
    }
    unsetenv("GIT_AUTHOR_DATE");
    unsetenv("GIT_COMMITTER_DATE");
    return 0;
}

static int run_make(void **state)
{
    return versions_of_run_make(state, VERSIONS);
}

#define FEW 5 /* for tests that prune a hundred times */

static int few_make(void **state)
{
    return versions_of_run_make(state, FEW);
}

static int prune_with(struct prune_result *out, const struct prune_rule *rules, size_t count)
{
    struct prune_request request = {.branch = "main", .rules = rules, .rule_count = count};

    return store_prune(out, store, &request);
}

#define AUTO_RESULT(name)                                                                          \
    __attribute__((cleanup(prune_result_release))) struct prune_result name = {0}

static struct prune_rule last(uint64_t count)
{
    return (struct prune_rule){.kind = PRUNE_LAST, .count = count};
}

static struct prune_rule every(uint64_t count)
{
    return (struct prune_rule){.kind = PRUNE_EVERY, .count = count};
}

/* "012......" for a run of which the first three stay, oldest first. */
static void assert_kept(const struct prune_result *result, const char *expected)
{
    char kept[64] = "";

    assert_true(result->count < sizeof(kept));
    for (size_t i = 0; i < result->count; i++) {
        kept[i] = result->versions[result->count - 1 - i].kept ? 'x' : '.';
        kept[i + 1] = '\0';
    }
    assert_string_equal(kept, expected);
}

/* Only what was kept is there from now on: its new commits with the snapshot ids of the old ones.
 */
static void remember_kept(const struct prune_result *result)
{
    remembered_count = 0;
    for (size_t i = result->count; i-- > 0;) {
        struct digest snapshot = remembered[result->count - 1 - i].snapshot;
        if (!result->versions[i].kept)
            continue;
        remembered[remembered_count].commit = result->versions[i].is;
        remembered[remembered_count++].snapshot = snapshot;
    }
}

static void test_rules_add_up_and_the_tip_stays(void **state)
{
    static const struct {
        struct prune_rule rules[3];
        size_t count;
        const char *kept;
    } cases[] = {
        {{{PRUNE_LAST, 1, NULL, false}}, 1, "............x"},
        {{{PRUNE_LAST, 4, NULL, false}}, 1, ".........xxxx"},
        {{{PRUNE_LAST, 12, NULL, false}}, 1, ".xxxxxxxxxxxx"},
        {{{PRUNE_LAST, 13, NULL, false}}, 1, "xxxxxxxxxxxxx"},
        {{{PRUNE_LAST, UINT64_MAX, NULL, false}}, 1, "xxxxxxxxxxxxx"},
        {{{PRUNE_EVERY, 1, NULL, false}}, 1, "xxxxxxxxxxxxx"},
        {{{PRUNE_EVERY, 5, NULL, false}}, 1, "x....x....x.x"},
        {{{PRUNE_EVERY, 12, NULL, false}}, 1, "x...........x"},
        {{{PRUNE_EVERY, UINT64_MAX, NULL, false}}, 1, "x...........x"},
        {{{PRUNE_BEST, 0, "loss", false}}, 1, "..........x.x"},
        {{{PRUNE_BEST, 0, "loss", true}}, 1, ".......x....x"}, /* 5 has it, too; 7 is newer */
        {{{PRUNE_BEST, 0, "odd", false}}, 1, "...x........x"},
        {{{PRUNE_BEST, 0, "other", true}}, 1, "...........xx"},
        {{{PRUNE_LAST, 2, NULL, false},
          {PRUNE_EVERY, 6, NULL, false},
          {PRUNE_BEST, 0, "loss", true}},
         3,
         "x.....xx...xx"},
    };

    (void)state;
    for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
        AUTO_RESULT(result);
        struct prune_request request = {
            .branch = "main",
            .rules = cases[i].rules,
            .rule_count = cases[i].count,
            .dry_run = true,
        };
        if (store_prune(&result, store, &request) < 0)
            fail_msg("case %zu: %s", i, error_message());
        assert_kept(&result, cases[i].kept);
    }
    assert_commit(tip(), run[VERSIONS - 1]);
}

static void test_what_stays_is_the_same_but_for_its_id(void **state)
{
    const struct prune_rule rules[] = {last(2), every(5)};
    AUTO_RESULT(result);
    AUTO_BUF(before);
    AUTO_BUF(after);
    static const char said[] = "git log --reverse --format='%an %ae %ad %cn %ce %cd %B' main";

    (void)state;
    assert_int_equal(
        shell_status(
            &before, "{ git show -s --format='%an %ae %ad %cn %ce %cd %B' "
                     "main~12 main~7 main~2 main~1 main; }"
        ),
        0
    );
    assert_int_equal(prune_with(&result, rules, 2), 0);
    assert_kept(&result, "x....x....xxx");
    assert_int_equal(shell_status(&after, said), 0);
    assert_string_equal((char *)before.data, (char *)after.data);
    assert_commit(tip(), result.tip);
    assert_commit(result.previous, run[VERSIONS - 1]);
    for (size_t i = 0; i < result.count; i++) {
        const struct prune_version *version = &result.versions[i];
        size_t number = VERSIONS - 1 - i;
        assert_commit(version->was, run[number]);
        assert_int_equal(commit_equal(&version->was, &version->is), !version->kept || number == 0);
    }
    remember_kept(&result);
    assert_int_equal(remembered_count, 5);
    assert_all_restore();
    assert_shell("git rev-list --count main", "5");
    /* Of the trees, only vectors/ is another. */
    shell("for pair in main:12 main~1:11 main~2:10 main~3:5 main~4:0; do "
          "new=${pair%:*} old=main@{1}~$((12 - ${pair#*:})); "
          "git ls-tree $new | grep -v vectors >new; git ls-tree $old | grep -v vectors >old; "
          "test -s new && cmp new old || exit 1; done");
    assert_sound();
}

static void trash_empty(void)
{
    shell("for ref in $(git for-each-ref --format='%(refname)' refs/vera/trash); do "
          "git update-ref -d $ref || exit 1; done; rm -r .vera/logs");
}

static void test_what_was_dropped_is_needed_by_nothing_that_stays(void **state)
{
    const struct prune_rule rules[] = {last(2), every(5)};
    AUTO_RESULT(result);

    (void)state;
    assert_int_equal(prune_with(&result, rules, 2), 0);
    trash_empty();
    assert_true(gc_expire(true, 0) > 30);
    remember_kept(&result);
    assert_all_restore();
    assert_sound();
    /* git takes the commits that say how many were dropped before them. */
    assert_shell("git cat-file commit main~3 | grep vera-dropped", "vera-dropped 4");
    shell("rm -rf clone.git; git -c transfer.fsckObjects=true -c fetch.fsckObjects=true clone -q "
          "--bare --depth 1 file://$PWD/.vera clone.git && GIT_DIR=clone.git git fsck --strict");
}

/* Frames are differences from those of the version before, or whole; never from what was dropped,
   and never too deep. Equal payloads share their frames. */
static void test_frames_are_differences_between_the_versions_that_stay(void **state)
{
    enum { COUNT = 71 };
    const struct prune_rule rule = every(2);
    AUTO_RESULT(result);
    unsigned depth_most = 0;

    (void)state;
    for (int i = VERSIONS; i < COUNT; i++) {
        char adapter[32], note[16];
        snprintf(note, sizeof(note), "%d", i);
        snprintf(adapter, sizeof(adapter), "llama/step-%03d", 110 + i / 2 % 2 * 10);
        version_add("main", adapter, note);
        remembered_count--;
    }
    assert_int_equal(prune_with(&result, &rule, 1), 0);
    for (size_t i = 0; i + 2 < COUNT; i += 2) {
        const struct commit_id *newer = &result.versions[i].is, *older = &result.versions[i + 2].is;
        struct frame_summary frame;
        git_oid base, vectors, before;
        bool has_base, found;
        assert_true(result.versions[i].kept && result.versions[i + 2].kept);
        assert_int_equal(store_frame(&frame, store, newer), 0);
        assert_int_equal(version_entry(&has_base, &base, store, newer, "vectors/base"), 0);
        assert_int_equal(version_entry(&found, &vectors, store, newer, "vectors"), 0);
        assert_int_equal(version_entry(&found, &before, store, older, "vectors"), 0);
        assert_int_equal(has_base, frame.depth > 0);
        bool is_same = git_oid_equal(&vectors, &before);
        assert_int_equal(is_same, i == COUNT - 1 - 14); /* both are step 120 */
        assert_true(is_same || !has_base || git_oid_equal(&base, &before));
        depth_most = frame.depth > depth_most ? frame.depth : depth_most;
    }
    assert_int_equal(depth_most, 32);
}

static void test_the_old_tip_is_in_the_trash_and_everything_restores(void **state)
{
    const struct prune_rule rule = last(3);
    AUTO_RESULT(result);

    (void)state;
    assert_int_equal(prune_with(&result, &rule, 1), 0);
    assert_shell(
        "git for-each-ref --format='%(objectname)' refs/vera/trash | "
        "grep -c $(git rev-parse main@{1})",
        "1"
    );
    assert_shell("git log -g --format=%gs -n 1 main", "prune: dropped 10 of 13 versions");
    assert_shell("git log -g --format=%gs -n 1 HEAD", "prune: dropped 10 of 13 versions");
    gc();
    assert_all_restore();
    assert_sound();
}

/* A second time nothing goes: those that went are counted on. */
static void test_pruning_again_drops_nothing_more(void **state)
{
    const struct prune_rule rules[] = {last(3), every(4)};

    (void)state;
    for (int i = 0; i < 3; i++) {
        AUTO_RESULT(result);
        struct commit_id before = tip();
        assert_int_equal(prune_with(&result, rules, 2), 0);
        if (i == 0) {
            assert_kept(&result, "x...x...x.xxx");
        } else {
            assert_kept(&result, "xxxxxx");
            assert_commit(tip(), before);
            assert_commit(result.tip, before);
        }
    }
    assert_shell("git for-each-ref refs/vera/trash | wc -l", "1");
    AUTO_SNAPSHOT(snapshot);
    snapshot_read(&snapshot, "llama-c/step-040");
    commit_snapshot(&snapshot);
    AUTO_RESULT(result);
    const struct prune_rule rarer = every(8);
    assert_int_equal(prune_with(&result, &rarer, 1), 0);
    assert_kept(&result, "x.x...x"); /* numbers 0, 4, 8, 10, 11, 12, 13 */
    assert_sound();
}

static void test_what_others_reach_stays_as_it_is(void **state)
{
    const struct prune_rule rule = last(2);
    AUTO_RESULT(result);

    (void)state;
    assert_int_equal(store_branch_create(store, "side", &run[2]), 0);
    assert_int_equal(store_tag_create(store, "held", &run[4], "by a tag"), 0);
    shell("git update-ref refs/remotes/origin/main main~1"); /* holds nothing */
    assert_int_equal(prune_with(&result, &rule, 1), 0);
    assert_kept(&result, "......xx");
    assert_commit(result.versions[0].was, run[12]);
    assert_shell("git rev-list --count main", "7");
    assert_shell("git merge-base main held | grep -c $(git rev-parse held^{})", "1");
    assert_shell("git rev-parse main~2 | grep -c $(git rev-parse held^{})", "1");
    assert_all_restore();
    assert_sound();
}

static void test_what_a_detached_head_reaches_stays_as_it_is(void **state)
{
    const struct prune_rule rule = last(2);
    AUTO_RESULT(result);

    (void)state;
    shell("git update-ref --no-deref HEAD main~8");
    repository_reopen();
    assert_int_equal(prune_with(&result, &rule, 1), 0);
    assert_kept(&result, "......xx");
    assert_commit(tip(), run[4]);
    assert_shell("git rev-list --count main", "7");
    assert_all_restore();
    assert_sound();
}

static void test_a_branch_without_versions_of_its_own_stays(void **state)
{
    const struct prune_rule rules[] = {last(1), {PRUNE_BEST, 0, "none", false}};
    AUTO_RESULT(result);

    (void)state;
    assert_int_equal(store_branch_create(store, "same", &run[12]), 0);
    assert_int_equal(prune_with(&result, rules, 2), 0);
    assert_int_equal(result.count, 0);
    assert_commit(tip(), run[12]);
    assert_commit(result.tip, run[12]);
}

static void test_a_branch_that_is_not_current_is_pruned_as_well(void **state)
{
    const struct prune_rule rule = last(1);
    AUTO_RESULT(result);

    (void)state;
    assert_int_equal(store_branch_create(store, "old", &run[1]), 0);
    assert_int_equal(store_switch(store, "old"), 0);
    assert_int_equal(prune_with(&result, &rule, 1), 0);
    assert_commit(tip(), run[1]);
    assert_shell("git rev-list --count main", "3");
    assert_all_restore();
}

static void test_refusals_change_nothing(void **state)
{
    const struct prune_rule none = {PRUNE_BEST, 0, "nope", false}, zero = every(0);
    const struct prune_rule rule = last(1);
    AUTO_STORE(shallow);
    AUTO_RESULT(result);
    AUTO_BUF(before);
    AUTO_BUF(after);

    (void)state;
    git_oid tree;
    bool found;
    assert_int_equal(version_entry(&found, &tree, store, &run[12], "manifest"), 0);
    shell("unset GIT_DIR; git clone -q --bare --depth 1 file://$PWD/.vera shallow.git");
    files_list(&before);
    struct prune_request request = {.branch = "nowhere", .rules = &rule, .rule_count = 1};
    assert_int_equal(store_prune(&result, store, &request), E_NOTFOUND);
    assert_int_equal(prune_with(&result, &none, 1), E_NOTFOUND);
    assert_message("no version of 'main' has the metric 'nope'");
    assert_int_equal(prune_with(&result, &zero, 1), E_INVALID);
    assert_int_equal(prune_with(&result, NULL, 0), E_INVALID);
    assert_int_equal(store_open(&shallow, ".", "shallow.git"), 0);
    request.branch = "main";
    assert_int_equal(store_prune(&result, shallow, &request), E_UNSUPPORTED);
    assert_hint("--unshallow");
    interrupt_flag = 1;
    assert_int_equal(prune_with(&result, &rule, 1), E_INTERRUPTED);
    interrupt_flag = 0;
    files_list(&after);
    assert_string_equal((char *)before.data, (char *)after.data);
}

/* While prune writes */

static void branch_moves(const char *from, const char *to)
{
    (void)from;
    (void)to;
    syscalls.on_rename = NULL;
    shell("git update-ref refs/heads/main main~1");
}

static void test_a_branch_that_moved_meanwhile_stays_where_it_is(void **state)
{
    const struct prune_rule rule = last(3);
    AUTO_RESULT(result);

    (void)state;
    syscalls.on_rename = branch_moves;
    assert_int_equal(prune_with(&result, &rule, 1), E_CONFLICT);
    assert_commit(tip(), run[11]);
    assert_shell("git for-each-ref refs/vera | wc -l", "0");
    assert_null(result.versions);
    assert_all_restore();
}

static bool gc_was_tried;

static void gc_tries(const char *from, const char *to)
{
    AUTO_STORE(other);
    AUTO_LOCK(lock);

    (void)from;
    (void)to;
    syscalls.on_rename = NULL;
    assert_int_equal(store_open(&other, scratch, NULL), 0);
    other->wait_ms = 0;
    assert_int_equal(lock_drop(&lock, other), E_CONFLICT);
    gc_was_tried = true;
}

static void test_nobody_drops_objects_beside_it(void **state)
{
    const struct prune_rule rule = last(3);
    AUTO_RESULT(result);

    (void)state;
    syscalls.on_rename = gc_tries;
    assert_int_equal(prune_with(&result, &rule, 1), 0);
    assert_true(gc_was_tried);
    assert_all_restore();
}

static void test_many_objects_are_packed_at_once(void **state)
{
    const struct prune_rule rule = every(2);
    AUTO_RESULT(result);

    (void)state;
    store->loose_max = 20;
    assert_int_equal(prune_with(&result, &rule, 1), 0);
    assert_packs("1");
    assert_all_restore();
}

static void test_a_merge_is_refused_until_a_tag_holds_it(void **state)
{
    const struct prune_rule rule = last(1);
    AUTO_GIT(git_commit, commit);
    AUTO_RESULT(result);
    git_oid id = git_id(&run[12]);

    (void)state;
    assert_int_equal(commit_read(&commit, store, &id), 0);
    const struct commit_id parents[] = {run[12], run[3]};
    struct commit_id merge = plain_commit(
        git_commit_tree_id(commit), parents, 2, 1800000000, "merge"
    );
    branch_put("main", &merge);
    AUTO_SNAPSHOT(snapshot);
    snapshot_read(&snapshot, "llama-c/step-030");
    commit_snapshot(&snapshot);
    snapshot_release(&snapshot);
    snapshot_read(&snapshot, "llama-c/step-040");
    commit_snapshot(&snapshot);
    assert_int_equal(prune_with(&result, &rule, 1), E_UNSUPPORTED);
    assert_message("is a merge");
    assert_hint("vera tag NAME");
    assert_int_equal(store_tag_create(store, "merged", &merge, NULL), 0);
    assert_int_equal(prune_with(&result, &rule, 1), 0);
    assert_kept(&result, ".x");
    assert_all_restore();
    assert_sound();
}

static void test_damage_in_what_stays_is_named_and_nothing_moves(void **state)
{
    const struct prune_rule rule = last(3);
    AUTO_RESULT(result);

    (void)state;
    shell("f=.vera/objects/$(git rev-parse main~1:vectors/frame | sed 's,^..,&/,'); chmod u+w $f; "
          "truncate -s -3 $f");
    repository_reopen();
    assert_int_equal(prune_with(&result, &rule, 1), E_CORRUPT);
    assert_commit(tip(), run[12]);
    assert_shell("git for-each-ref refs/vera | wc -l", "0");
}

/* Forged numbers are none; signatures, which would be of another text, go; other headers stay. */
static void test_headers_of_commits(void **state)
{
    const struct prune_rule rule = every(2);
    AUTO_RESULT(result);

    (void)state;
    shell("git cat-file commit main | sed '/^committer/a encoding UTF-8\\n"
          "vera-dropped 99999999999999999999\\ngpgsig one\\n two\\nx-other 1' >text && "
          "git update-ref refs/heads/main $(git hash-object -t commit -w text)");
    repository_reopen();
    assert_int_equal(prune_with(&result, &rule, 1), 0);
    assert_kept(&result, "x.x.x.x.x.x.x");
    assert_shell(
        "git cat-file commit main | sed -n '4,/^$/p'",
        "committer Ada <ada@example.org> 1700000012 +0130\nencoding UTF-8\nx-other 1\n"
        "vera-dropped 1\n"
    );
    assert_sound();
}

/* Killed */

static int prune_it(void)
{
    const struct prune_rule rules[] = {last(1), every(3)};
    AUTO_RESULT(result);

    return prune_with(&result, rules, 2);
}

static void prunes_fault(enum fault_mode mode)
{
    int status = 0, rounds = 0, moved = 0;

    store_release(&store);
    shell("cp -a .vera whole");
    for (bool untouched = false; !untouched; rounds += mode == FAULT_KILL ? 1 : 3) {
        pid_t child = fork();
        assert_true(child >= 0);
        if (child == 0) {
            if (store_open(&store, scratch, NULL) < 0)
                _exit(9);
            syscalls.mode = mode;
            syscalls.countdown = rounds;
            syscalls.error = ENOSPC;
            int err = prune_it();
            _exit(err == 0 || err == E_IO ? syscalls.fired : 9);
        }
        assert_int_equal(waitpid(child, &status, 0), child);
        if (!WIFSIGNALED(status))
            assert_true(WEXITSTATUS(status) <= 1);
        untouched = WIFEXITED(status) && WEXITSTATUS(status) == 0;
        assert_all_restore(); /* the old ones: by the branch, or by the trash */
        AUTO_HISTORY(history);
        struct commit_id now = tip();
        assert_int_equal(store_history(&history, store, &now, 1, 0), 0);
        assert_true(history.count == FEW || history.count == 3);
        moved += history.count == 3;
        for (size_t i = 0; i < history.count; i++) {
            AUTO_SNAPSHOT(snapshot);
            assert_int_equal(store_load(&snapshot, store, &history.commits[i]), 0);
        }
        if (rounds % 16 == 0)
            shell("git fsck --strict --no-dangling --no-progress");
        assert_int_equal(prune_it(), 0);
        if (rounds % 8 == 0)
            gc_expire(true, 0);
        assert_all_restore();
        store_release(&store);
        assert_int_equal(tree_remove(".vera"), 0);
        shell("cp -a whole .vera");
        assert_true(rounds < 1000);
    }
    assert_true(rounds > 30 && moved > 1);
    repository_reopen();
}

static void test_a_prune_killed_anywhere_leaves_the_old_branch_or_the_new(void **state)
{
    (void)state;
    prunes_fault(FAULT_KILL);
}

static void test_a_prune_in_which_a_call_fails_leaves_the_old_branch_or_the_new(void **state)
{
    (void)state;
    prunes_fault(FAULT_ONCE);
}

static int model_remove(void **state)
{
    memset(&syscalls, 0, sizeof(syscalls));
    return repository_remove(state);
}

#define PRUNE_TEST(name) cmocka_unit_test_setup_teardown(name, run_make, model_remove)

#define FAULT_TEST(name) cmocka_unit_test_setup_teardown(name, few_make, model_remove)

int main(void)
{
    const struct CMUnitTest tests[] = {
        PRUNE_TEST(test_rules_add_up_and_the_tip_stays),
        PRUNE_TEST(test_what_stays_is_the_same_but_for_its_id),
        PRUNE_TEST(test_what_was_dropped_is_needed_by_nothing_that_stays),
        PRUNE_TEST(test_frames_are_differences_between_the_versions_that_stay),
        PRUNE_TEST(test_the_old_tip_is_in_the_trash_and_everything_restores),
        PRUNE_TEST(test_pruning_again_drops_nothing_more),
        PRUNE_TEST(test_what_others_reach_stays_as_it_is),
        PRUNE_TEST(test_what_a_detached_head_reaches_stays_as_it_is),
        PRUNE_TEST(test_a_branch_without_versions_of_its_own_stays),
        PRUNE_TEST(test_a_branch_that_is_not_current_is_pruned_as_well),
        PRUNE_TEST(test_refusals_change_nothing),
        PRUNE_TEST(test_a_branch_that_moved_meanwhile_stays_where_it_is),
        PRUNE_TEST(test_nobody_drops_objects_beside_it),
        PRUNE_TEST(test_many_objects_are_packed_at_once),
        PRUNE_TEST(test_a_merge_is_refused_until_a_tag_holds_it),
        PRUNE_TEST(test_damage_in_what_stays_is_named_and_nothing_moves),
        PRUNE_TEST(test_headers_of_commits),
        FAULT_TEST(test_a_prune_killed_anywhere_leaves_the_old_branch_or_the_new),
        FAULT_TEST(test_a_prune_in_which_a_call_fails_leaves_the_old_branch_or_the_new),
    };

    return cmocka_run_group_tests(tests, template_make, template_remove);
}
