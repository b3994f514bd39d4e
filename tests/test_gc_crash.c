/*
 * gc killed at every system call that writes, one of them failing, the power cut, and gc beside
 * writers and readers: "Garbage" and "What may exist after a crash" of docs/format.md.
 */
#define _GNU_SOURCE
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "tests/syscalls.h"

#include "tests/collected.h"

enum outcome { UNTOUCHED /* by the fault */, DONE, REFUSED, KILLED };

static int gc_it(void)
{
    struct gc_request request = {.has_expire = true, .expire = 3 * DAY};
    struct gc_result result;

    return store_gc(&result, store, &request);
}

/* gc in a process of its own, with the fault armed. */
static enum outcome gc_faulted(enum fault_mode mode, int after)
{
    int status = 0;
    pid_t child = fork();

    assert_true(child >= 0);
    if (child == 0) {
        if (store_open(&store, scratch, NULL) < 0)
            _exit(9);
        syscalls.mode = mode;
        syscalls.countdown = after;
        syscalls.error = ENOSPC;
        int err = gc_it();
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

/* All kinds of work for one gc: loose and packed, reached and not, old trash and old lines. */
static git_oid work_make(void)
{
    const struct commit_id first = remembered[0].commit;
    char command[256], hex[COMMIT_HEX_SIZE];

    gc();
    version_add("main", "llama/step-060", "loose");
    version_add("run/1", "llama/step-070", "loose too");
    commit_hex(hex, &first);
    snprintf(
        command, sizeof(command), "git update-ref refs/vera/trash/20200101T000000.000000Z/old %s",
        hex
    );
    shell(command);
    shell("sed -i '1s/> [0-9]* /> 1000000000 /' .vera/logs/refs/heads/main .vera/logs/HEAD");
    git_oid packed = stray("packed and old", 0), young = stray("packed and young", 0);
    stray_pack(&packed, 10 * DAY);
    stray_pack(&young, 2 * DAY);
    stray("loose and old", 10 * DAY);
    stray("loose and young", 2 * DAY);
    return young;
}

static bool ends_with(const char *text, const char *end)
{
    size_t n = strlen(end), len = strlen(text);

    return len >= n && strcmp(text + len - n, end) == 0;
}

static bool is_held(const git_oid *id)
{
    repository_reopen();
    return git_odb_exists(store->odb, id);
}

static size_t count_ending(const char *folder, const char *end)
{
    AUTO_BUF(names);
    size_t count = 0;

    assert_int_equal(dir_names(&names, folder), 0);
    for (size_t at = 0; at < names.len; at += strlen((char *)names.data + at) + 1)
        count += ends_with((char *)names.data + at, end);
    return count;
}

static int lock_visit(void *context, const struct tree_file *file)
{
    *(bool *)context |= ends_with(file->path, ".lock") && strcmp(file->path, "vera.lock") != 0;
    return 0;
}

/* The next gc ends what this one did not, and nothing is left of it. A pack without its index goes
   a day later. */
static void gc_again(int round)
{
    bool has_locks = false;

    if (gc_it() < 0)
        fail_msg("round %d: %s", round, error_message());
    assert_all_restore();
    assert_int_equal(count_ending(".vera/objects/pack", ".idx"), 2);
    assert_int_equal(count_ending(".vera/objects", "tmp_objdir-vera"), 0);
    assert_int_equal(count_ending(".vera/refs/vera/trash", ""), 0);
    assert_int_equal(tree_each(".vera", lock_visit, &has_locks), 0);
    assert_false(has_locks);
    if (round % 16 == 0) {
        assert_shell("git for-each-ref refs/vera/trash | wc -l", "2");
        assert_sound();
    }
}

/* Killed at every call; each third one fails, which takes the same way out as its neighbours. */
static void gcs_fault(enum fault_mode mode)
{
    enum outcome outcome = KILLED;
    int rounds = 0, step = mode == FAULT_KILL ? 1 : 3;
    git_oid young = work_make();

    store_release(&store);
    shell("cp -a .vera whole");
    for (; outcome != UNTOUCHED; rounds += step) {
        outcome = gc_faulted(mode, rounds);
        assert_all_restore();
        assert_true(is_held(&young));
        if (rounds % (16 * step) == 0)
            shell("git fsck --strict --no-dangling --no-progress");
        gc_again(rounds);
        assert_true(is_held(&young));
        store_release(&store);
        assert_int_equal(tree_remove(".vera"), 0);
        shell("cp -a whole .vera");
        assert_true(rounds < 1000);
    }
    assert_true(rounds > 60);
    repository_reopen();
}

static void test_a_gc_killed_anywhere_loses_nothing(void **state)
{
    (void)state;
    gcs_fault(FAULT_KILL);
}

static void test_a_gc_in_which_a_call_fails_loses_nothing(void **state)
{
    (void)state;
    gcs_fault(FAULT_ONCE);
}

static void test_a_full_disk_loses_nothing(void **state)
{
    (void)state;
    gcs_fault(FAULT_FOREVER);
}

/* Power cuts, by the model of the disk in tests/syscalls.h */

static unsigned removals;

static bool is_staged(const char *path)
{
    return strstr(path, "/objects/tmp_objdir-vera") != NULL;
}

/* Which unsynced changes do no harm while objects go: those that only remove something. */
static bool may_be_lost(const char *dirty)
{
    bool is_pack = ends_with(dirty, ".pack") || ends_with(dirty, ".idx") ||
                   ends_with(dirty, ".mtimes");

    return (strstr(dirty, "/objects") && !is_pack) || is_staged(dirty) || strstr(dirty, "/refs") ||
           ends_with(dirty, "/vera.lock") || ends_with(dirty, "/.vera");
}

/* What replaces an object must be on the disk before it goes, and so must refs and reflogs that led
   to it no longer; packed-refs before the file of a ref goes. */
static void before_something_goes_its_successor_is_durable(const char *path)
{
    bool is_ref = strstr(path, "/.vera/refs/") && !ends_with(path, ".lock");

    if ((!strstr(path, "/objects/") && !is_ref) || is_staged(path))
        return;
    removals++;
    for (size_t i = 0; i < syscalls.dirty_count; i++) {
        const char *dirty = syscalls.dirty[i];
        if (!may_be_lost(dirty) || (is_ref && ends_with(dirty, "/.vera")))
            fail_msg("%s goes before %s is synced", path, dirty);
    }
}

static unsigned published;

static void before_a_pack_appears_it_is_durable(const char *from, const char *to)
{
    if (!strstr(to, "/objects/pack/pack-"))
        return;
    published++;
    if (is_dirty(from))
        fail_msg("%s appears before it is synced", to);
}

static void test_what_replaces_an_object_is_durable_before_it_goes(void **state)
{
    (void)state;
    if (!model_works())
        return;
    work_make();
    removals = published = 0;
    syscalls.dirty_count = 0;
    syscalls.model = true;
    syscalls.on_rename = before_a_pack_appears_it_is_durable;
    syscalls.on_unlink = before_something_goes_its_successor_is_durable;
    int err = gc_it();
    syscalls.model = false;
    syscalls.on_rename = NULL;
    syscalls.on_unlink = NULL;
    assert_int_equal(err, 0);
    assert_true(removals > 20);
    assert_int_equal(published, 5); /* two packs, their indexes, and the times of one */
    assert_all_restore();
}

/* Beside others */

#define WRITERS        2
#define VERSIONS       12
#define CHILD_FAILED   9
#define CHECK_HERE(ok) check_here(ok, __LINE__)

static void check_here(bool ok, int line)
{
    if (ok)
        return;
    fprintf(stderr, "line %d: %s\n", line, error_message());
    _exit(CHILD_FAILED);
}

static void write_versions(int writer)
{
    char branch[16];

    snprintf(branch, sizeof(branch), "writer/%d", writer);
    store->loose_max = 30; /* they pack, too */
    for (int i = 0; i < VERSIONS; i++) {
        AUTO_SNAPSHOT(snapshot);
        struct commit_result result = {0};
        char note[32];
        snprintf(note, sizeof(note), "%s %d", branch, i);
        snapshot_vary(&snapshot, i % 2 ? "llama/step-080" : "llama/step-090", note);
        struct commit_request request = {.snapshot = &snapshot, .branch = branch, .message = note};
        CHECK_HERE(store_commit(&result, store, &request) == 0);
        free(result.branch);
    }
}

static void read_versions(void)
{
    for (int i = 0; i < 40; i++) {
        AUTO_HISTORY(history);
        struct store_stats stats = {0};
        if (i % 3 == 0) {
            store_release(&store);
            CHECK_HERE(store_open(&store, scratch, NULL) == 0);
        }
        CHECK_HERE(store_history(&history, store, NULL, 0, 0) == 0);
        CHECK_HERE(history.count >= 6);
        for (size_t k = 0; k < history.count; k += 3) {
            AUTO_SNAPSHOT(snapshot);
            AUTO_VERSION(version);
            CHECK_HERE(store_load(&snapshot, store, &history.commits[k]) == 0);
            CHECK_HERE(store_version(&version, store, &history.commits[k]) == 0);
        }
        if (i % 8 == 0) {
            CHECK_HERE(store_stats(&stats, store) == 0);
            store_stats_release(&stats);
        }
    }
}

static void collect_again_and_again(void)
{
    for (int i = 0; i < 25; i++) {
        struct gc_request request = {.has_expire = i % 2 == 0};
        struct gc_result result;
        CHECK_HERE(store_gc(&result, store, &request) == 0);
    }
}

static pid_t child_begin(void (*work)(int), int argument)
{
    pid_t child = fork();

    assert_true(child >= 0);
    if (child == 0) {
        store_release(&store);
        git_libgit2_shutdown(); /* its own random names for temporary files */
        git_libgit2_init();
        CHECK_HERE(store_open(&store, scratch, NULL) == 0);
        store->wait_ms = 60000;
        work(argument);
        _exit(0);
    }
    return child;
}

static void child_end(pid_t child)
{
    int status = 0;

    assert_int_equal(waitpid(child, &status, 0), child);
    assert_true(WIFEXITED(status));
    assert_int_equal(WEXITSTATUS(status), 0);
}

static void other_work(int which)
{
    if (which == 0)
        collect_again_and_again();
    else
        read_versions();
}

/* What they wrote is all there. */
static void remember_writers(void)
{
    for (int i = 0; i < WRITERS; i++) {
        AUTO_HISTORY(history);
        char ref[32];
        git_oid id;
        snprintf(ref, sizeof(ref), REF_HEADS "writer/%d", i);
        assert_int_equal(git_reference_name_to_id(&id, store->repo, ref), 0);
        struct commit_id branch = commit_id_of(&id);
        assert_int_equal(store_history(&history, store, &branch, 1, 0), 0);
        assert_int_equal(history.count, VERSIONS + 5);
        for (size_t k = 0; k < VERSIONS; k++)
            remember(&history.commits[k]);
    }
}

static void test_writers_readers_and_gcs_are_not_in_each_other_s_way(void **state)
{
    pid_t children[WRITERS + 4];
    size_t count = 0;

    (void)state;
    for (int i = 0; i < WRITERS; i++)
        children[count++] = child_begin(write_versions, i);
    for (int i = 0; i < 4; i++)
        children[count++] = child_begin(other_work, i / 2);
    for (size_t i = 0; i < count; i++)
        child_end(children[i]);
    remember_writers();
    gc_expire(true, 0);
    assert_all_restore();
    assert_sound();
}

/* Killed beside others */

enum { GC, PRUNE, FSCK, KINDS };

static void killable_work(int kind)
{
    const struct prune_rule rule = {.kind = PRUNE_LAST, .count = 1};
    struct prune_request prune = {.branch = "thin", .rules = &rule, .rule_count = 1};
    struct prune_result pruned = {0};
    struct gc_request gc_now = {.has_expire = true};
    struct gc_result collected;
    struct fsck_report report = {0};

    if (kind == GC)
        CHECK_HERE(store_gc(&collected, store, &gc_now) == 0);
    else if (kind == PRUNE)
        CHECK_HERE(store_prune(&pruned, store, &prune) == 0);
    else
        CHECK_HERE(store_fsck(&report, store, NULL) == 0 && report.bad_count == 0);
    prune_result_release(&pruned);
    fsck_report_release(&report);
}

/* Ends it after so many nanoseconds, or when another child ends, unless it is done by then. */
static bool kill_after(pid_t child, long nanoseconds)
{
    const struct timespec limit = {.tv_nsec = nanoseconds}, at_once = {0};
    sigset_t set;
    int status = 0;

    sigemptyset(&set);
    sigaddset(&set, SIGCHLD);
    while (sigtimedwait(&set, NULL, &at_once) > 0)
        ; /* those that ended before */
    (void)sigtimedwait(&set, NULL, &limit);
    kill(child, SIGKILL);
    assert_int_equal(waitpid(child, &status, 0), child);
    assert_true(WIFSIGNALED(status) || WEXITSTATUS(status) == 0);
    return WIFSIGNALED(status);
}

/* The last of three is what a prune leaves; the old three are in the trash then. */
static void thin_make(unsigned round)
{
    for (int i = 0; i < 3; i++) {
        char adapter[32], note[32];
        snprintf(adapter, sizeof(adapter), "llama/step-%03d", 70 + 10 * i);
        snprintf(note, sizeof(note), "thin %u %d", round, i);
        version_add("thin", adapter, note);
    }
}

static long nanoseconds_of(int kind)
{
    struct timespec begin, end;

    clock_gettime(CLOCK_MONOTONIC, &begin);
    child_end(child_begin(killable_work, kind));
    clock_gettime(CLOCK_MONOTONIC, &end);
    long taken = (end.tv_sec - begin.tv_sec) * 1000000000L + end.tv_nsec - begin.tv_nsec;
    return taken < 999999999L ? taken : 999999999L;
}

static void test_gc_prune_and_fsck_killed_beside_commits_lose_nothing(void **state)
{
    unsigned seed = (unsigned)time(NULL), killed[KINDS] = {0};
    long taken[KINDS];
    pid_t writers[WRITERS];
    sigset_t set, before;

    (void)state;
    print_message("random from %u\n", seed);
    sigemptyset(&set);
    sigaddset(&set, SIGCHLD);
    sigprocmask(SIG_BLOCK, &set, &before);
    thin_make(0);
    for (int kind = 0; kind < KINDS; kind++)
        taken[kind] = nanoseconds_of(kind);
    for (int i = 0; i < WRITERS; i++)
        writers[i] = child_begin(write_versions, i);
    for (unsigned round = 1; round < 8; round++) {
        thin_make(round);
        for (int kind = 0; kind < KINDS; kind++)
            killed[kind] += kill_after(
                child_begin(killable_work, kind), rand_r(&seed) % taken[kind]
            );
        assert_all_restore();
    }
    for (int i = 0; i < WRITERS; i++)
        child_end(writers[i]);
    sigprocmask(SIG_SETMASK, &before, NULL);
    assert_true(killed[GC] && killed[PRUNE] && killed[FSCK]);
    remember_writers();
    gc_expire(true, 0);
    assert_all_restore();
    assert_sound();
}

/* A writer that is at it is waited for, and not for ever; what was packed meanwhile stays. */
static void test_a_writer_that_does_not_end_is_named(void **state)
{
    AUTO_STORE(other);
    AUTO_LOCK(lock);

    (void)state;
    assert_int_equal(store_open(&other, scratch, NULL), 0);
    assert_int_equal(lock_write(&lock, other), 0);
    store->wait_ms = 20;
    assert_int_equal(gc_it(), E_CONFLICT);
    assert_message("is writing");
    assert_all_restore();
    lock_release(&lock);
    assert_int_equal(gc_it(), 0);
    assert_int_equal(lock_pack(&lock, other), 0);
    store->wait_ms = 20;
    assert_int_equal(gc_it(), E_CONFLICT);
    assert_message("is packing");
    lock_release(&lock);
    assert_all_restore();
    assert_sound();
}

/* While one waits to drop objects, writers that come later wait behind it. */
static void test_who_waits_to_drop_is_not_passed(void **state)
{
    AUTO_STORE(first);
    AUTO_STORE(later);
    AUTO_LOCK(writing);
    AUTO_LOCK(behind);

    (void)state;
    assert_int_equal(store_open(&first, scratch, NULL), 0);
    assert_int_equal(store_open(&later, scratch, NULL), 0);
    assert_int_equal(lock_write(&writing, first), 0);
    later->wait_ms = 0;
    assert_int_equal(lock_write(&behind, later), 0); /* beside the first */
    lock_release(&behind);
    pid_t child = fork();
    assert_true(child >= 0);
    if (child == 0) {
        AUTO_LOCK(dropping);
        lock_release(&writing); /* this process's hold of it */
        store->wait_ms = 60000;
        _exit(lock_drop(&dropping, store) == 0 ? 0 : 1);
    }
    while (lock_write(&behind, later) == 0)
        lock_release(&behind);
    assert_message("is dropping objects");
    lock_release(&writing);
    int status = 0;
    assert_int_equal(waitpid(child, &status, 0), child);
    assert_true(WIFEXITED(status) && WEXITSTATUS(status) == 0);
    assert_int_equal(lock_write(&behind, later), 0);
}

static int model_remove(void **state)
{
    memset(&syscalls, 0, sizeof(syscalls));
    return repository_remove(state);
}

#define CRASH_TEST(name) cmocka_unit_test_setup_teardown(name, collected_make, model_remove)

int main(void)
{
    const struct CMUnitTest tests[] = {
        CRASH_TEST(test_a_gc_killed_anywhere_loses_nothing),
        CRASH_TEST(test_a_gc_in_which_a_call_fails_loses_nothing),
        CRASH_TEST(test_a_full_disk_loses_nothing),
        CRASH_TEST(test_what_replaces_an_object_is_durable_before_it_goes),
        CRASH_TEST(test_writers_readers_and_gcs_are_not_in_each_other_s_way),
        CRASH_TEST(test_gc_prune_and_fsck_killed_beside_commits_lose_nothing),
        CRASH_TEST(test_a_writer_that_does_not_end_is_named),
        CRASH_TEST(test_who_waits_to_drop_is_not_passed),
    };

    return cmocka_run_group_tests(tests, template_make, template_remove);
}
