/*
 * What is left of a repository when a commit ends anywhere: P3, G1, G8 and "What may exist after a
 * crash" of docs/format.md. Every system call that writes, libgit2's own too, is one at which the
 * process is killed, or which fails, alone or with all that follow.
 */
#define _GNU_SOURCE
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "tests/syscalls.h"
#include "tests/versions.h"

#define ADAPTER "llama/step-000"

enum outcome { UNTOUCHED /* by the fault */, DONE, REFUSED, KILLED };

/* In a process of its own, with the fault armed: what `work` does to the repository. */
static enum outcome
run_faulted(enum fault_mode mode, int after, int (*work)(void *), void *argument)
{
    int status = 0;
    pid_t child = fork();

    assert_true(child >= 0);
    if (child == 0) {
        store_release(&store);
        /* Its own random names for temporary files, not the parent's next ones. */
        git_libgit2_shutdown();
        git_libgit2_init();
        if (store_open(&store, scratch, NULL) < 0)
            _exit(9);
        syscalls.mode = mode;
        syscalls.countdown = after;
        syscalls.error = ENOSPC;
        int err = work(argument);
        bool fired = syscalls.fired;
        syscalls.mode = FAULT_NONE;
        if (err != 0 && err != E_IO)
            fprintf(stderr, "%d: %s\n", err, error_message());
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

static int commit_it(void *argument)
{
    struct commit_request request = {.snapshot = argument};
    struct commit_result result = {0};

    int err = store_commit(&result, store, &request);
    free(result.branch);
    return err;
}

/* The branch is where it was, or at a new version with this snapshot; everything loads. */
static void repository_check(
    enum outcome outcome, const struct commit_id *before, const struct snapshot *wanted
)
{
    AUTO_SNAPSHOT(loaded);

    repository_reopen();
    struct commit_id now = tip();
    bool moved = !commit_equal(&now, before);
    if (outcome == DONE || outcome == UNTOUCHED)
        assert_true(moved);
    if (store_load(&loaded, store, &now) < 0)
        fail_msg("%s", error_message());
    if (moved)
        assert_snapshots_equal(&loaded, wanted);
    shell("git fsck --strict --no-dangling --no-progress");
    shell("test ! -e .vera/objects/maintenance.lock");
}

static void commits_fault(enum fault_mode mode)
{
    enum outcome outcome = KILLED;
    int rounds = 0;

    for (; outcome != UNTOUCHED; rounds++) {
        AUTO_SNAPSHOT(snapshot);
        char note[32];
        snprintf(note, sizeof(note), "%d %d", mode, rounds);
        snapshot_vary(&snapshot, ADAPTER, note);
        struct commit_id before = tip();
        outcome = run_faulted(mode, rounds, commit_it, &snapshot);
        repository_check(outcome, &before, &snapshot);
        /* Whatever was left, the next one works, and clears lock files away. */
        commit_snapshot(&snapshot);
        shell("test -z \"$(find .vera -name '*.lock' ! -path .vera/vera.lock)\"");
        assert_true(rounds < 500);
    }
    assert_true(rounds > 30);
}

static void test_a_commit_killed_anywhere_leaves_the_old_version_or_the_new(void **state)
{
    (void)state;
    commit_adapter(ADAPTER);
    commits_fault(FAULT_KILL);
}

static void test_a_commit_in_which_a_call_fails_leaves_the_old_version_or_the_new(void **state)
{
    (void)state;
    commit_adapter(ADAPTER);
    commits_fault(FAULT_ONCE);
}

static void test_a_full_disk_leaves_the_old_version_or_the_new(void **state)
{
    (void)state;
    commit_adapter(ADAPTER);
    commits_fault(FAULT_FOREVER);
}

/* Power cuts, by the model of the disk in tests/syscalls.h */

static unsigned renames_seen;

static int model_remove(void **state)
{
    memset(&syscalls, 0, sizeof(syscalls));
    return repository_remove(state);
}

static bool ends_with(const char *text, const char *end)
{
    size_t n = strlen(text), len = strlen(end);

    return n >= len && strcmp(text + n - len, end) == 0;
}

/* What a power cut may take: which refs were being moved. */
static bool may_be_lost(const char *path)
{
    return ends_with(path, "/vera.lock");
}

static void before_a_ref_moves_objects_are_durable(const char *from, const char *to)
{
    if (!strstr(to, "/refs/heads/") || strstr(to, "/logs/"))
        return;
    renames_seen++;
    for (size_t i = 0; i < syscalls.dirty_count; i++) {
        const char *path = syscalls.dirty[i];
        if (strcmp(path, from) == 0 || strstr(path, "/objects"))
            fail_msg("%s moves before %s is synced", to, path);
    }
}

static void model_begin(void (*on_rename)(const char *from, const char *to))
{
    syscalls.dirty_count = 0;
    syscalls.model = true;
    syscalls.on_rename = on_rename;
    renames_seen = 0;
}

static void model_end(void)
{
    syscalls.model = false;
    syscalls.on_rename = NULL;
    assert_int_equal(renames_seen, 1);
    for (size_t i = 0; i < syscalls.dirty_count; i++) {
        if (!may_be_lost(syscalls.dirty[i]))
            fail_msg("%s is not synced at the end", syscalls.dirty[i]);
    }
}

static void test_a_version_survives_a_power_cut(void **state)
{
    static const char *const branches[] = {"main", "a", "deep/er/and/deeper", NULL};

    (void)state;
    for (size_t i = 0; branches[i] && model_works(); i++) {
        AUTO_SNAPSHOT(snapshot);
        snapshot_vary(&snapshot, ADAPTER, branches[i]);
        for (int again = 0; again < 2; again++) {
            struct commit_request request = {
                .snapshot = &snapshot, .branch = branches[i], .allow_empty = true};
            struct commit_result result = {0};
            model_begin(before_a_ref_moves_objects_are_durable);
            assert_int_equal(store_commit(&result, store, &request), 0);
            model_end();
            free(result.branch);
        }
    }
}

/* An object that is there and unreachable may not be synced: whoever wrote it may have crashed. */
static void test_what_another_left_is_synced_too(void **state)
{
    AUTO_SNAPSHOT(snapshot);
    AUTO_BUF(ids);
    size_t synced = 0;

    (void)state;
    if (!model_works())
        return;
    snapshot_vary(&snapshot, ADAPTER, "left");
    struct commit_id left = commit_snapshot(&snapshot).commit;
    objects_below(&ids, &left);
    shell("rm .vera/refs/heads/main");
    repository_reopen();
    model_begin(before_a_ref_moves_objects_are_durable);
    for (size_t i = 0; i < ids.len / sizeof(git_oid); i++) {
        char path[PATH_MAX];
        const char *hex = git_oid_tostr_s((const git_oid *)(void *)ids.data + i);
        snprintf(path, sizeof(path), "%s/objects/%.2s/%s", store_path(store), hex, hex + 2);
        dirty_add(path);
    }
    commit_snapshot(&snapshot);
    for (size_t i = 0; i < syscalls.dirty_count; i++)
        synced += strstr(syscalls.dirty[i], "/objects/") != NULL;
    /* The commit of another second is another object, and the old one is nobody's. */
    assert_true(synced <= 1);
    syscalls.dirty_count = 0;
    model_end();
}

static void before_it_appears_it_is_durable(const char *from, const char *to)
{
    if (!ends_with(to, "/new/.vera"))
        return;
    renames_seen++;
    for (size_t i = 0; i < syscalls.dirty_count; i++) {
        if (strncmp(syscalls.dirty[i], from, strlen(from)) == 0)
            fail_msg("it appears before %s is synced", syscalls.dirty[i]);
    }
}

static void test_a_new_repository_survives_a_power_cut(void **state)
{
    AUTO_FREE(char, path);

    (void)state;
    if (!model_works())
        return;
    model_begin(before_it_appears_it_is_durable);
    assert_int_equal(store_init(&path, "new"), 0);
    model_end();
}

static int init_it(void *argument)
{
    AUTO_FREE(char, path);

    return store_init(&path, argument);
}

static char new_name[] = "new";

static void inits_fault(enum fault_mode mode)
{
    enum outcome outcome = KILLED;
    int rounds = 0;

    for (; outcome != UNTOUCHED; rounds += rounds < 12 ? 1 : 97) {
        AUTO_FREE(char, path);
        outcome = run_faulted(mode, rounds, init_it, new_name);
        AUTO_STORE(opened);
        if (path_exists("new/.vera"))
            assert_int_equal(store_open(&opened, "new", NULL), 0);
        else
            assert_true(outcome == REFUSED || outcome == KILLED);
        if (outcome == REFUSED)
            assert_shell("ls -A new 2>/dev/null | grep -v '^.vera$' || true", "");
        if (!opened)
            assert_int_equal(store_init(&path, "new"), 0);
        shell("git --git-dir=new/.vera fsck --strict");
        assert_int_equal(tree_remove("new"), 0);
        assert_true(rounds < 3000);
    }
}

static void test_an_init_that_fails_anywhere_leaves_a_repository_or_nothing(void **state)
{
    (void)state;
    inits_fault(FAULT_ONCE);
    inits_fault(FAULT_KILL);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(
            test_a_commit_killed_anywhere_leaves_the_old_version_or_the_new, repository_make,
            model_remove
        ),
        cmocka_unit_test_setup_teardown(
            test_a_commit_in_which_a_call_fails_leaves_the_old_version_or_the_new, repository_make,
            model_remove
        ),
        cmocka_unit_test_setup_teardown(
            test_a_full_disk_leaves_the_old_version_or_the_new, repository_make, model_remove
        ),
        cmocka_unit_test_setup_teardown(
            test_a_version_survives_a_power_cut, repository_make, model_remove
        ),
        cmocka_unit_test_setup_teardown(
            test_what_another_left_is_synced_too, repository_make, model_remove
        ),
        cmocka_unit_test_setup_teardown(
            test_a_new_repository_survives_a_power_cut, repository_make, model_remove
        ),
        cmocka_unit_test_setup_teardown(
            test_an_init_that_fails_anywhere_leaves_a_repository_or_nothing, repository_make,
            model_remove
        ),
    };

    return cmocka_run_group_tests(tests, template_make, template_remove);
}
