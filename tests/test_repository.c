/*
 * Tests of store_init() and store_open(), of locks, of writers at the same time, and of
 * repositories that cannot be written: G1-G3, G7, G8 of docs/format.md.
 */
#define _GNU_SOURCE
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <fcntl.h>
#include <signal.h>
#include <sys/mount.h>
#include <sys/resource.h>
#include <sys/stat.h>

#include "tests/versions.h"

#define NOBODY 65534

static void test_a_new_repository_is_gits_own(void **state)
{
    AUTO_FREE(char, path);
    AUTO_FREE(char, again);
    AUTO_BUF(expected);

    (void)state;
    assert_int_equal(store_init(&path, "deep/er"), 0);
    assert_int_equal(buf_printf(&expected, "%s/deep/er/.vera", scratch), 0);
    assert_string_equal(path, (char *)expected.data);
    assert_shell("ls -A deep/er", ".vera");
    assert_shell("ls -d deep/er/.vera/objects/?? | wc -l", "256");
    shell("export GIT_DIR=deep/er/.vera; git fsck --strict");
    assert_shell("GIT_DIR=deep/er/.vera git symbolic-ref HEAD", "refs/heads/main");
    assert_shell("GIT_DIR=deep/er/.vera git config core.bare", "true");
    assert_shell("GIT_DIR=deep/er/.vera git config core.logAllRefUpdates", "true");
    assert_shell("GIT_DIR=deep/er/.vera git config core.fsync", "all");
    assert_shell("GIT_DIR=deep/er/.vera git config core.bigFileThreshold", "32k");
    assert_shell("stat -c %a deep/er/.vera", "755");
    assert_int_equal(store_init(&again, "deep/er"), E_EXISTS);
    assert_null(again);
    assert_message("deep/er/.vera");
}

static void test_a_person_s_templates_and_default_branch_stay_out(void **state)
{
    AUTO_FREE(char, path);

    (void)state;
    shell("mkdir t && touch t/surprise && printf '[init]\\n defaultBranch = trunk\\n templateDir = "
          "%s/t\\n' $PWD >$HOME/.gitconfig");
    assert_int_equal(store_init(&path, "new"), 0);
    shell("rm $HOME/.gitconfig; test ! -e new/.vera/surprise");
    assert_shell("GIT_DIR=new/.vera git symbolic-ref HEAD", "refs/heads/main");
}

static void test_the_nearest_repository_is_found(void **state)
{
    static const struct {
        const char *dir, *named, *path; /* path below scratch, or NULL */
        int err;
    } cases[] = {
        {".", NULL, ".vera", 0},
        {"a/b", NULL, ".vera", 0},
        {"a/b", "", ".vera", 0},
        {"inner/x", NULL, "inner/.vera", 0},
        {"inner/.vera/objects", NULL, "inner/.vera", 0},
        {"link", NULL, "inner/.vera", 0},
        {"/", "inner/.vera", "inner/.vera", 0},
        {"/", "inner", "inner/.vera", 0},
        {"inner", ".vera", ".vera", 0},
        {"/", "bare", "bare", 0},
        {"/", NULL, NULL, E_NOTFOUND},
        {"nowhere", NULL, NULL, E_NOTFOUND},
        {".", "nowhere", NULL, E_NOTFOUND},
    };
    AUTO_FREE(char, path);

    (void)state;
    assert_int_equal(store_init(&path, "inner"), 0);
    shell("mkdir -p a/b inner/x && ln -s inner/x link && git clone -q --bare .vera bare");
    for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
        AUTO_STORE(opened);
        AUTO_BUF(expected);
        int err = store_open(&opened, cases[i].dir, cases[i].named);
        if (err != cases[i].err)
            fail_msg("case %zu: %d %s", i, err, err < 0 ? error_message() : "");
        if (err < 0) {
            assert_null(opened);
            continue;
        }
        assert_int_equal(buf_printf(&expected, "%s/%s", scratch, cases[i].path), 0);
        assert_string_equal(store_path(opened), (char *)expected.data);
    }
    AUTO_STORE(none);
    assert_int_equal(store_open(&none, "/", NULL), E_NOTFOUND);
    assert_hint("vera init");
}

static void test_what_is_no_repository_is_said_to_be_none(void **state)
{
    static const struct {
        const char *command;
        int err;
        const char *message;
    } cases[] = {
        {"touch x/.vera", E_CORRUPT, "not a directory"},
        {"ln -s nothing x/.vera", E_CORRUPT, "not a directory"},
        {"mkdir x/.vera", E_CORRUPT, "has no HEAD"},
        {"mkdir -p x/.vera/HEAD", E_CORRUPT, "has no HEAD"},
        {"mkdir x/.vera && echo ref: refs/heads/main >x/.vera/HEAD", E_CORRUPT, "is no repository"},
        {"cp -r .vera x && rm -r x/.vera/objects", E_CORRUPT, "is no repository"},
        {"cp -r .vera x && rm -r x/.vera/refs", E_CORRUPT, "is no repository"},
        {"cp -r .vera x && echo '[core' >x/.vera/config", E_INVALID, "config"},
        {"cp -r .vera x && git --git-dir=x/.vera config core.repositoryFormatVersion 9",
         E_UNSUPPORTED, "version 9"},
        {"cp -r .vera x && git --git-dir=x/.vera config core.repositoryFormatVersion 1 && git "
         "--git-dir=x/.vera config extensions.objectFormat sha256",
         E_UNSUPPORTED, "objectformat"},
    };

    (void)state;
    for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
        AUTO_STORE(opened);
        shell("rm -rf x && mkdir x");
        shell(cases[i].command);
        int err = store_open(&opened, "x", NULL);
        if (err != cases[i].err)
            fail_msg("%s: %d %s", cases[i].command, err, err < 0 ? error_message() : "");
        assert_message("x/.vera");
        assert_message(cases[i].message);
        assert_null(opened);
    }
}

/* Run a check in a process of its own that has no rights beyond those of nobody, and this home. */
static int as_nobody(int (*check)(void), const char *home)
{
    int status = 0;
    pid_t child = fork();

    assert_true(child >= 0);
    if (child == 0) {
        /* libgit2 looks for its settings when it starts. */
        store_release(&store);
        git_libgit2_shutdown();
        if (geteuid() == 0 && (setgid(NOBODY) != 0 || setuid(NOBODY) != 0))
            _exit(99);
        if (setenv("HOME", home, 1) != 0 || git_libgit2_init() < 0)
            _exit(98);
        _exit(check());
    }
    assert_int_equal(waitpid(child, &status, 0), child);
    assert_true(WIFEXITED(status));
    return WEXITSTATUS(status);
}

#define CHECK(condition)                                                                           \
    do {                                                                                           \
        if (!(condition)) {                                                                        \
            fprintf(stderr, "line %d: %s\n", __LINE__, error_message());                           \
            return __LINE__ % 90 + 1;                                                              \
        }                                                                                          \
    } while (0)

static struct commit_id only;

static int read_but_not_write(void)
{
    AUTO_STORE(opened);
    AUTO_SNAPSHOT(snapshot);
    struct version version = {0};
    struct commit_result result = {0};

    CHECK(store_open(&opened, scratch, NULL) == 0);
    CHECK(store_load(&snapshot, opened, &only) == 0);
    CHECK(store_version(&version, opened, &only) == 0);
    version_release(&version);
    struct commit_request request = {.snapshot = &snapshot, .allow_empty = true};
    CHECK(store_commit(&result, opened, &request) == E_IO);
    CHECK(strstr(error_message(), "cannot be written"));
    CHECK(result.branch == NULL);
    struct ref_change change = {.name = "refs/heads/x", .has_new = true, .new = git_id(&only)};
    CHECK(refs_move(opened, &change, 1, "x") == E_IO);
    CHECK(head_move(opened, "refs/heads/x", "x") == E_IO);
    return 0;
}

/* G7 */
static void test_a_repository_that_cannot_be_written_can_be_read(void **state)
{
    (void)state;
    only = commit_adapter("llama/step-000");
    shell("printf '[safe]\\n\\tdirectory = %s/.vera\\n' $PWD >.gitconfig && chmod -R a-w,a+rX . && "
          "chmod a+rx .");
    int failed = as_nobody(read_but_not_write, scratch);
    shell("chmod -R u+w . && rm .gitconfig");
    assert_int_equal(failed, 0);
    assert_commit(tip(), only);
}

static int refused_for_its_owner(void)
{
    AUTO_STORE(opened);
    AUTO_BUF(hint);

    CHECK(buf_printf(&hint, "git config --global --add safe.directory '%s/.vera'", scratch) == 0);
    CHECK(store_open(&opened, scratch, NULL) == E_IO);
    CHECK(strstr(error_message(), "belongs to another user"));
    CHECK(error_hint_text() && strstr(error_hint_text(), (char *)hint.data));
    return 0;
}

static void test_another_owner_s_repository_is_refused_until_it_is_trusted(void **state)
{
    (void)state;
    if (geteuid() != 0) {
        print_message("another owner: not tried here, only root can make that\n");
        return;
    }
    shell("chmod -R a+rX . && chmod a+rx .");
    assert_int_equal(as_nobody(refused_for_its_owner, "/"), 0);
    /* A home that may not be looked into is none, as to git. */
    assert_int_equal(as_nobody(refused_for_its_owner, template), 0);
    /* To root as well, and what the hint says helps. */
    shell("chown -R 65534 .vera");
    assert_int_equal(refused_for_its_owner(), 0);
    shell("git config --global --add safe.directory $PWD/.vera");
    AUTO_STORE(opened);
    assert_int_equal(store_open(&opened, scratch, NULL), 0);
    shell("rm $HOME/.gitconfig");
}

/* A disk that is full, for every file that grows above a size. */
static void test_a_full_disk_loses_nothing(void **state)
{
    AUTO_SNAPSHOT(snapshot);
    struct rlimit before;

    (void)state;
    struct commit_id first = commit_adapter("bert/step-000");
    snapshot_read(&snapshot, "bert/step-040");
    assert_int_equal(getrlimit(RLIMIT_FSIZE, &before), 0);
    assert_true(signal(SIGXFSZ, SIG_IGN) != SIG_ERR);
    for (rlim_t limit = 0; limit < 800; limit += 90) {
        struct rlimit full = {limit, before.rlim_max};
        struct commit_request request = {.snapshot = &snapshot};
        struct commit_result result = {0};
        assert_int_equal(setrlimit(RLIMIT_FSIZE, &full), 0);
        int err = store_commit(&result, store, &request);
        assert_int_equal(setrlimit(RLIMIT_FSIZE, &before), 0);
        assert_int_equal(err, E_IO);
        assert_message("File too large");
        assert_commit(tip(), first);
        shell("git fsck --strict --no-dangling");
        shell("test -z \"$(find .vera -name 'tmp_*' -o -name '*.lock' ! -path .vera/vera.lock)\"");
    }
    commit_snapshot(&snapshot);
}

static void test_a_disk_that_is_really_full_loses_nothing(void **state)
{
    AUTO_FREE(char, path);
    AUTO_SNAPSHOT(snapshot);
    AUTO_SNAPSHOT(loaded);
    AUTO_BUF(out);
    AUTO_STORE(full);
    struct commit_result result = {0};

    (void)state;
    if (shell_status(&out, "mkdir small && mount -t tmpfs -o size=4m vera-test small") != 0) {
        print_message("a really full disk: not tried here, nothing can be mounted\n");
        return;
    }
    assert_int_equal(store_init(&path, "small"), 0);
    assert_int_equal(store_open(&full, "small", NULL), 0);
    snapshot_read(&snapshot, "bert/step-000");
    struct commit_request request = {.snapshot = &snapshot, .allow_empty = true};
    assert_int_equal(store_commit(&result, full, &request), 0);
    free(result.branch);
    struct commit_id first = result.commit;
    result = (struct commit_result){0};
    shell("cat /dev/zero >small/ballast 2>/dev/null || true");
    int err = store_commit(&result, full, &request);
    int loaded_err = store_load(&loaded, full, &first);
    const char *hint = err < 0 ? error_hint_text() : NULL;
    bool hinted = hint != NULL || loaded_err < 0;
    shell("GIT_DIR=small/.vera git fsck --strict; rm small/ballast");
    int again = store_commit(&result, full, &request);
    free(result.branch);
    store_release(&full);
    assert_int_equal(umount2("small", 0), 0);
    assert_int_equal(err, E_IO);
    assert_int_equal(loaded_err, 0);
    assert_true(hinted);
    assert_int_equal(again, 0);
}

/* Writers at the same time */

#define WRITERS  4
#define VERSIONS 5

/* Commit VERSIONS snapshots of its own to the branch; a lost race is tried again. Exits with the
   number of races lost, above 100 for anything else. */
static void writer_run(int writer)
{
    AUTO_STORE(mine);
    int lost = 0;

    if (store_open(&mine, scratch, NULL) < 0)
        _exit(101);
    for (int i = 0; i < VERSIONS; i++) {
        AUTO_SNAPSHOT(snapshot);
        char note[32];
        snprintf(note, sizeof(note), "%d %d", writer, i);
        snapshot_vary(&snapshot, "llama/step-000", note);
        struct commit_request request = {.snapshot = &snapshot};
        struct commit_result result = {0};
        int err;
        while ((err = store_commit(&result, mine, &request)) == E_CONFLICT)
            lost += lost < 99;
        if (err < 0) {
            fprintf(stderr, "writer %d: %s\n", writer, error_message());
            _exit(102);
        }
        free(result.branch);
    }
    _exit(lost);
}

static void test_writers_at_the_same_time_lose_no_version(void **state)
{
    pid_t writers[WRITERS];
    AUTO_BUF(out);
    int lost = 0;

    (void)state;
    for (int i = 0; i < WRITERS; i++) {
        writers[i] = fork();
        assert_true(writers[i] >= 0);
        if (writers[i] == 0) {
            git_libgit2_shutdown();
            git_libgit2_init();
            writer_run(i);
        }
    }
    for (int i = 0; i < WRITERS; i++) {
        int status = 0;
        assert_int_equal(waitpid(writers[i], &status, 0), writers[i]);
        assert_true(WIFEXITED(status) && WEXITSTATUS(status) < 100);
        lost += WEXITSTATUS(status);
    }
    assert_shell("git rev-list --count main", "20");
    assert_shell("git log --format=%T main | sort -u | wc -l", "20");
    assert_shell("git rev-list --max-parents=0 main | wc -l", "1");
    shell("git fsck --strict --no-dangling");
    /* Each lost race has left a commit that nothing reaches, and each of these is a lost race. */
    assert_int_equal(
        shell_status(&out, "git fsck --unreachable --no-reflogs | grep -c commit || true"), 0
    );
    assert_true(strtol((char *)out.data, NULL, 10) <= lost);
}

/* Locks */

/* Hold a byte of vera.lock in another process until its pipe is closed. */
static pid_t lock_hold(int *out_release, uint64_t byte, bool exclusive)
{
    int ready[2], release[2];
    char c = 0;

    assert_int_equal(pipe(ready), 0);
    assert_int_equal(pipe(release), 0);
    pid_t child = fork();
    assert_true(child >= 0);
    if (child == 0) {
        AUTO_FD(fd);
        bool got = false;
        close(release[1]);
        if (lock_file_open(&fd, ".vera/vera.lock") < 0 ||
            lock_byte(&got, fd, byte, exclusive, "x") < 0 || !got)
            _exit(1);
        lock_tell(fd, 2);
        if (write(ready[1], "r", 1) != 1 || read(release[0], &c, 1) != 0)
            _exit(1);
        _exit(0);
    }
    assert_int_equal(read(ready[0], &c, 1), 1);
    close(ready[0]);
    close(ready[1]);
    close(release[0]);
    *out_release = release[1];
    return child;
}

static void test_a_lock_that_is_not_free_in_time_names_who_holds_it(void **state)
{
    static const struct {
        uint64_t byte;
        const char *message;
    } cases[] = {{0, "is dropping objects"}, {1, "is moving refs"}};
    AUTO_SNAPSHOT(snapshot);

    (void)state;
    struct commit_id before = commit_adapter("llama/step-000");
    snapshot_read(&snapshot, "llama/step-010");
    store->wait_ms = 20;
    for (size_t i = 0; i < 2; i++) {
        struct commit_request request = {.snapshot = &snapshot};
        struct commit_result result = {0};
        char who[32];
        int release, status = 0;
        pid_t holder = lock_hold(&release, cases[i].byte, true);
        assert_int_equal(store_commit(&result, store, &request), E_CONFLICT);
        assert_message(cases[i].message);
        snprintf(who, sizeof(who), "process %d", holder);
        assert_message(who);
        assert_commit(tip(), before);
        close(release);
        assert_int_equal(waitpid(holder, &status, 0), holder);
        assert_int_equal(status, 0);
    }
    commit_snapshot(&snapshot);
    /* Writers share the first byte. */
    int release, status = 0;
    pid_t holder = lock_hold(&release, 0, false);
    commit_adapter("llama/step-020");
    close(release);
    assert_int_equal(waitpid(holder, &status, 0), holder);
}

static void test_a_lock_ends_with_its_process(void **state)
{
    int release, status = 0;

    (void)state;
    pid_t holder = lock_hold(&release, 1, true);
    kill(holder, SIGKILL);
    assert_int_equal(waitpid(holder, &status, 0), holder);
    close(release);
    store->wait_ms = 0;
    commit_adapter("llama/step-000");
}

/* docs/format.md, "Locks": whoever finds the names of a crash removes the lock files. */
static void test_lock_files_of_a_crash_are_removed_and_no_others(void **state)
{
    static const char *const kept[] = {
        ".vera/config.lock", "outside.lock", ".vera/refs/heads/b.lock"};

    (void)state;
    commit_adapter("llama/step-000");
    for (size_t i = 0; i < 3; i++)
        assert_int_equal(file_write(kept[i], text_bytes("kept")), 0);
    shell(
        "touch .vera/refs/heads/main.lock .vera/packed-refs.lock .vera/HEAD.lock && "
        "printf 'refs/heads/main\\nHEAD\\npacked-refs\\nconfig\\n../outside\\nrefs/../../outside\\n"
        "refs/heads/b' >.vera/vera.lock"
    );
    commit_adapter("llama/step-010");
    for (size_t i = 0; i < 3; i++)
        assert_true(path_exists(kept[i]));
    shell("! ls .vera/refs/heads/main.lock .vera/packed-refs.lock .vera/HEAD.lock");
    assert_shell("stat -c %s .vera/vera.lock", "0");
}

static void test_a_lock_of_git_s_own_is_respected(void **state)
{
    AUTO_SNAPSHOT(snapshot);
    struct commit_result result = {0};

    (void)state;
    struct commit_id before = commit_adapter("llama/step-000");
    snapshot_read(&snapshot, "llama/step-010");
    shell("touch .vera/refs/heads/main.lock");
    store->wait_ms = 20;
    struct commit_request request = {.snapshot = &snapshot};
    assert_int_equal(store_commit(&result, store, &request), E_CONFLICT);
    assert_message("refs/heads/main");
    assert_hint("main.lock");
    assert_commit(tip(), before);
    shell("rm .vera/refs/heads/main.lock");
    commit_snapshot(&snapshot);
}

/* All or none, and what is in the way is said. */
static void test_refs_move_together_or_not_at_all(void **state)
{
    struct commit_id commits[3];

    (void)state;
    branch_grow(commits, 3, "main", 1700000000);
    git_oid a = git_id(&commits[0]), b = git_id(&commits[1]), c = git_id(&commits[2]);
    const struct {
        struct ref_change changes[2];
        int err;
    } cases[] = {
        {{{"refs/heads/x", false, true, a, a, NULL}, {"refs/heads/main", true, true, b, a, NULL}},
         E_CONFLICT},
        {{{"refs/heads/main", true, true, c, a, NULL}, {"refs/heads/y", true, true, a, b, NULL}},
         E_CONFLICT},
        {{{"refs/heads/x", false, true, a, a, NULL}, {"refs/heads/main", false, true, a, a, NULL}},
         E_CONFLICT},
        {{{"refs/heads/x", false, true, a, a, NULL},
          {"refs/heads/main/z", false, true, a, a, NULL}},
         E_EXISTS},
        {{{"refs/heads/x", false, true, a, a, NULL}, {"refs/heads/a..b", false, true, a, a, NULL}},
         E_INVALID},
        {{{"refs/heads/x", false, true, a, a, NULL}, {"refs/heads/gone", true, false, a, a, NULL}},
         E_CONFLICT},
    };
    for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
        assert_int_equal(refs_move(store, cases[i].changes, 2, "x"), cases[i].err);
        assert_shell("git for-each-ref --format='%(refname)'", "refs/heads/main");
        assert_commit(tip(), commits[2]);
    }
    struct ref_change both[2] = {
        {"refs/heads/x", false, true, a, a, NULL}, {"refs/heads/main", true, false, c, a, NULL}};
    assert_int_equal(refs_move(store, both, 2, "both"), 0);
    assert_shell("git for-each-ref --format='%(refname)'", "refs/heads/x");
    shell("test ! -e .vera/logs/refs/heads/main && test -e .vera/logs/refs/heads/x");
}

int main(void)
{
    const struct CMUnitTest tests[] = {
#define TEST(name) cmocka_unit_test_setup_teardown(test_##name, repository_make, repository_remove)
        TEST(a_new_repository_is_gits_own),
        TEST(a_person_s_templates_and_default_branch_stay_out),
        TEST(the_nearest_repository_is_found),
        TEST(what_is_no_repository_is_said_to_be_none),
        TEST(a_repository_that_cannot_be_written_can_be_read),
        TEST(another_owner_s_repository_is_refused_until_it_is_trusted),
        TEST(a_full_disk_loses_nothing),
        TEST(a_disk_that_is_really_full_loses_nothing),
        TEST(writers_at_the_same_time_lose_no_version),
        TEST(a_lock_that_is_not_free_in_time_names_who_holds_it),
        TEST(a_lock_ends_with_its_process),
        TEST(lock_files_of_a_crash_are_removed_and_no_others),
        TEST(a_lock_of_git_s_own_is_respected),
        TEST(refs_move_together_or_not_at_all),
    };

    return cmocka_run_group_tests(tests, template_make, template_remove);
}
