/*
 * Fetching killed at every system call that writes, here and in the process that it starts, and one
 * of them failing: each ref is where it was or where it goes, all that it leads to is there, and
 * the next fetch ends what this one did not (docs/format.md, Q1).
 */
#define _GNU_SOURCE
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "tests/syscalls.h"

#include "store/fetch.h"
#include "tests/versions.h"

enum outcome { UNTOUCHED /* by the fault */, DONE, REFUSED, KILLED };

/* "theirs.git" has two versions, a branch and a tag; ours the first of them, and a branch of theirs
   that is gone. */
static int fetch_setup(void **state)
{
    struct commit_id first;

    if (repository_make(state) != 0)
        return 1;
    first = commit_adapter("llama/step-030");
    shell("cp -a .vera ours.vera");
    (void)commit_adapter("llama/step-040");
    if (store_branch_create(store, "side", &first) != 0 ||
        store_tag_create(store, "served", &first, "told") != 0)
        return 1;
    store_release(&store);
    shell("mv .vera theirs.git && mv ours.vera .vera");
    if (store_open(&store, ".", ".vera") != 0 || store_remote_add(store, "origin", "theirs.git"))
        return 1;
    shell("git update-ref refs/remotes/origin/gone main && "
          "git update-ref refs/remotes/origin/main main");
    return 0;
}

static int fetch_it(struct transfer_result *out)
{
    const struct fetch_request request = {.remote = "origin", .prune = true};

    return store_fetch(out, store, &request);
}

static enum outcome fetch_faulted(enum fault_mode mode, int after)
{
    int status = 0;
    pid_t child = fork();

    assert_true(child >= 0);
    if (child == 0) {
        AUTO_TRANSFER(result);
        if (store_open(&store, ".", ".vera") < 0)
            _exit(9);
        syscalls.mode = mode;
        syscalls.countdown = after;
        syscalls.error = ENOSPC;
        int err = fetch_it(&result);
        bool fired = syscalls.fired;
        syscalls.mode = FAULT_NONE;
        if (err != 0 && err != E_IO)
            fprintf(stderr, "%d: %s\n", err, error_message());
        /* It fires in the process that fetches, too: then only the error tells. */
        _exit(err == 0 ? (fired ? DONE : UNTOUCHED) : err == E_IO ? REFUSED : 9);
    }
    assert_int_equal(waitpid(child, &status, 0), child);
    if (WIFSIGNALED(status))
        return KILLED;
    assert_true(WIFEXITED(status));
    if (WEXITSTATUS(status) == 9)
        fail_msg("mode %d, call %d", mode, after);
    return (enum outcome)WEXITSTATUS(status);
}

/* Old or new, and nothing between; everything that refs lead to is there. */
static void assert_old_or_new(int round)
{
    AUTO_BUF(out);

    if (shell_status(
            &out,
            "o=refs/remotes/origin; t() { git --git-dir=theirs.git rev-parse \"$1\"; }\n"
            "is() { got=$(git rev-parse -q --verify $1); shift\n"
            "  for want; do [ \"$got\" = \"$want\" ] && return 0; done; echo $got; return 1; }\n"
            "is refs/heads/main $(t main~1) && is $o/main $(t main~1) $(t main) && "
            "is $o/gone $(t main~1) '' && is $o/side $(t side) '' && "
            "is refs/tags/served $(t served) '' && git rev-list --objects --all >/dev/null"
        ) != 0)
        fail_msg("round %d: %s", round, buf_text(&out));
}

static void fetch_again(enum fault_mode mode, int round)
{
    AUTO_TRANSFER(result);

    assert_int_equal(store_open(&store, ".", ".vera"), 0);
    if (fetch_it(&result) < 0)
        fail_msg("round %d: %s", round, error_message());
    assert_shell(
        "git for-each-ref --format='%(refname)' refs/remotes refs/tags",
        "refs/remotes/origin/main\nrefs/remotes/origin/side\nrefs/tags/served"
    );
    /* Lock files that were left go with the next ref that moves, as after any crash. */
    git_oid main_id;
    assert_int_equal(git_reference_name_to_id(&main_id, store->repo, "refs/heads/main"), 0);
    const struct commit_id main_tip = commit_id_of(&main_id);
    assert_int_equal(store_branch_create(store, "after", &main_tip), 0);
    store_release(&store);
    /* libgit2 does not look whether it could remove one that it no longer needs. */
    if (mode == FAULT_KILL)
        assert_shell("find .vera -name '*.lock' | grep -v vera.lock || true", "");
    if (round % 16 == 0)
        shell("git fsck --strict --no-dangling");
}

/* Those that were killed before there was a lock in them are git's to remove. */
static void assert_no_quarantine(void)
{
    assert_shell("find .vera/objects -path '*tmp_objdir-arriving-*' -name alive", "");
}

static void fetches_fault(enum fault_mode mode)
{
    enum outcome outcome = KILLED;
    int rounds = 0, quiet = 0;

    store_release(&store);
    shell("cp -a .vera whole");
    /* A call may fail that is not missed: only a row of them says that none is left. */
    for (; quiet < 3; rounds++) {
        outcome = fetch_faulted(mode, rounds);
        quiet = outcome == UNTOUCHED ? quiet + 1 : 0;
        assert_old_or_new(rounds);
        fetch_again(mode, rounds);
        assert_no_quarantine();
        shell("rm -rf .vera && cp -a whole .vera");
    }
    assert_true(rounds > 50);
    assert_int_equal(store_open(&store, ".", ".vera"), 0);
}

static void test_killed_at_every_call(void **state)
{
    (void)state;
    fetches_fault(FAULT_KILL);
}

static void test_every_call_fails_once(void **state)
{
    (void)state;
    fetches_fault(FAULT_ONCE);
}

static void test_what_a_fetch_does_is_told(void **state)
{
    static const struct {
        const char *name;
        enum push_status status;
    } expected[] = {
        {"refs/remotes/origin/gone", PUSH_DELETED},
        {"refs/remotes/origin/main", PUSH_MOVED},
        {"refs/remotes/origin/side", PUSH_CREATED},
        {"refs/tags/served", PUSH_CREATED},
    };
    AUTO_TRANSFER(result);
    AUTO_TRANSFER(again);

    (void)state;
    if (fetch_it(&result) != 0)
        fail_msg("%s", error_message());
    assert_int_equal(result.count, 4);
    for (size_t i = 0; i < 4; i++) {
        assert_string_equal(result.refs[i].name, expected[i].name);
        assert_int_equal(result.refs[i].status, expected[i].status);
    }
    assert_int_equal(result.versions, 1);
    assert_int_equal(fetch_it(&again), 0);
    assert_int_equal(again.count + again.objects, 0);
    assert_shell("git reflog refs/remotes/origin/main | head -1 | cut -d: -f2", " fetch origin");
}

/* Each ref is compared once more when it moves. */
static void move_meanwhile(const char *from, const char *to)
{
    (void)from;
    if (strstr(to, "/objects/pack/") && strstr(to, ".idx")) {
        syscalls.on_rename = NULL;
        shell("git update-ref refs/remotes/origin/side main~0 && "
              "git update-ref refs/remotes/origin/main $(git commit-tree -m x main^{tree})");
    }
}

static void test_what_moves_meanwhile_is_seen(void **state)
{
    AUTO_TRANSFER(result);

    (void)state;
    syscalls.on_rename = move_meanwhile;
    int err = fetch_it(&result);
    assert_null(syscalls.on_rename);
    assert_int_equal(err, 0); /* the comparison is with what is there under the lock */
    assert_int_equal(result.count, 3);
    assert_int_equal(result.refs[1].status, PUSH_FORCED);
}

#define FETCH_TEST(name) cmocka_unit_test_setup_teardown(name, fetch_setup, repository_remove)

int main(void)
{
    const struct CMUnitTest tests[] = {
        FETCH_TEST(test_what_a_fetch_does_is_told),
        FETCH_TEST(test_what_moves_meanwhile_is_seen),
        FETCH_TEST(test_killed_at_every_call),
        FETCH_TEST(test_every_call_fails_once),
    };
    return cmocka_run_group_tests(tests, template_make, template_remove);
}
