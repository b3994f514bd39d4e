/*
 * gc drops what nothing needs and nothing else: "Garbage" of docs/format.md. What a repository
 * holds is told by git, and every version is restored; times are set, not waited for. Killing and
 * running beside others: tests/test_gc_crash.c.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "tests/collected.h"

static void test_what_is_reached_is_packed_and_stays(void **state)
{
    AUTO_BUF(before);
    AUTO_BUF(after);
    static const char refs[] = "git for-each-ref --format='%(refname) %(objectname) %(objecttype) "
                               "%(*objectname)'; git log --all --format=%H; git symbolic-ref HEAD";

    (void)state;
    assert_int_equal(shell_status(&before, refs), 0);
    assert_int_equal(gc(), 0);
    assert_int_equal(shell_status(&after, refs), 0);
    assert_string_equal((char *)before.data, (char *)after.data);
    assert_all_restore();
    assert_sound();
    assert_packs("1");
    assert_shell("find .vera/objects/?? -type f", "");
    assert_shell("find .vera/refs -type f", "");
    shell("ls -d .vera/objects/??"); /* as init has made them */
}

/* Trees and commits are differences in a pack; frames, which have nothing in common, are as they
   are, and so compressed by nothing. */
static void test_frames_are_no_differences(void **state)
{
    (void)state;
    gc();
    assert_shell(
        "for c in $(git rev-list --all); do git rev-parse $c:vectors/frame; done | "
        "git cat-file --batch-check='%(deltabase)' | sort -u",
        "0000000000000000000000000000000000000000"
    );
    assert_shell(
        "git verify-pack -v .vera/objects/pack/*.idx | grep -c '^chain length' | "
        "grep -qv '^0$' && echo yes",
        "yes"
    );
}

static void test_a_second_gc_changes_nothing(void **state)
{
    AUTO_BUF(before);
    AUTO_BUF(after);
    static const char packs[] = "find .vera/objects -printf '%p %s %T@ %i\\n' | sort";

    (void)state;
    stray("young", 2 * DAY);
    assert_int_equal(gc(), 0);
    assert_int_equal(shell_status(&before, packs), 0);
    assert_int_equal(gc(), 0);
    assert_int_equal(shell_status(&after, packs), 0);
    assert_string_equal((char *)before.data, (char *)after.data);
}

static void test_an_empty_repository_is_no_work(void **state)
{
    (void)state;
    assert_int_equal(gc(), 0);
    assert_shell("ls .vera/objects/pack", "");
    assert_sound();
}

/* What nothing reaches */

static void test_what_nothing_reaches_goes_when_it_is_old(void **state)
{
    static const struct {
        bool packed;
        int64_t age;
        int64_t expire; /* -1: not given */
        bool stays;
    } cases[] = {
        {false, 29 * DAY, -1, true},
        {false, 31 * DAY, -1, false},
        {true, 29 * DAY, -1, true},
        {true, 31 * DAY, -1, false},
        {false, 0, -1, true},
        {false, 0, 0, false},
        {true, 0, 0, false},
        {false, -DAY, 0, false},
        {false, 6 * DAY, 7 * DAY, true},
        {false, 8 * DAY, 7 * DAY, false},
        {true, 6 * DAY, 7 * DAY, true},
        {true, 8 * DAY, 7 * DAY, false},
        {false, 90 * DAY, 99 * DAY, true},
        {true, 90 * DAY, 99 * DAY, true},
    };

    (void)state;
    for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
        char text[32];
        snprintf(text, sizeof(text), "stray %zu", i);
        git_oid id = stray(text, cases[i].age);
        if (cases[i].packed)
            stray_pack(&id, cases[i].age);
        uint64_t dropped = gc_expire(cases[i].expire >= 0, (uint64_t)cases[i].expire);
        if (is_there(&id) != cases[i].stays || dropped != !cases[i].stays)
            fail_msg("case %zu", i);
        gc_expire(true, 0);
        assert_false(is_there(&id));
    }
    assert_all_restore();
    assert_sound();
}

static void test_an_object_keeps_its_age_through_gcs(void **state)
{
    (void)state;
    git_oid older = stray("older", 20 * DAY), newer = stray("newer", 10 * DAY);
    git_oid packed = stray("packed", 0);
    stray_pack(&packed, 15 * DAY);
    for (int i = 0; i < 3; i++)
        assert_int_equal(gc(), 0);
    assert_packs("2"); /* what is reached, and these */
    assert_shell("find .vera/objects/?? -type f", "");
    assert_shell("ls .vera/objects/pack | grep -c mtimes", "1");
    assert_int_equal(gc_expire(true, 18 * DAY), 1);
    assert_false(is_there(&older));
    assert_int_equal(gc_expire(true, 12 * DAY), 1);
    assert_false(is_there(&packed));
    assert_true(is_there(&newer));
    assert_int_equal(gc_expire(true, 5 * DAY), 1);
    assert_packs("1");
    assert_sound();
}

/* Of several copies the youngest one counts. */
static void test_an_object_is_as_young_as_its_youngest_copy(void **state)
{
    char path[128];

    (void)state;
    git_oid id = stray("three times", 0);
    const char *hex = git_oid_tostr_s(&id);
    snprintf(path, sizeof(path), ".vera/objects/%.2s/%s", hex, hex + 2);
    shell("cp -a .vera/objects loose");
    stray_pack(&id, 40 * DAY);
    shell("cp -a loose/. .vera/objects/");
    set_age(path, 20 * DAY);
    assert_int_equal(gc_expire(true, 30 * DAY), 0);
    assert_true(is_there(&id));
    assert_int_equal(gc_expire(true, 10 * DAY), 1);
    assert_false(is_there(&id));
    repository_reopen();
    stray("three times", 0);
    stray_pack(&id, 20 * DAY);
    shell("cp -a loose/. .vera/objects/");
    set_age(path, 40 * DAY);
    assert_int_equal(gc_expire(true, 30 * DAY), 0);
    assert_true(is_there(&id));
}

/* A handle that had them open when they went takes nothing for there that is gone. */
static void test_another_handle_sees_what_went(void **state)
{
    AUTO_STORE(other);
    AUTO_SNAPSHOT(snapshot);
    AUTO_SNAPSHOT(loaded);
    struct commit_result result = {0};

    (void)state;
    struct commit_id commit = version_add("brief", "llama/step-100", "brief");
    remembered_count--;
    for (int packed = 0; packed < 2; packed++) {
        if (packed)
            gc();
        assert_int_equal(store_open(&other, scratch, NULL), 0);
        assert_int_equal(store_load(&snapshot, other, &commit), 0);
        shell("git update-ref -d refs/heads/brief && rm -f .vera/logs/refs/heads/brief");
        assert_true(gc_expire(true, 0) > 0);
        struct commit_request request = {
            .snapshot = &snapshot, .branch = "brief", .message = "brief"};
        assert_int_equal(store_commit(&result, other, &request), 0);
        free(result.branch);
        store_release(&other);
        snapshot_release(&snapshot);
        commit = result.commit;
        repository_reopen();
        assert_int_equal(store_load(&loaded, store, &commit), 0);
        snapshot_release(&loaded);
        assert_sound();
    }
}

/* An old object that a version begins to need is needed. */
static void test_what_a_version_takes_up_again_stays(void **state)
{
    (void)state;
    struct commit_id commit = version_add("again", "llama/step-090", "again");
    char command[256];

    shell("git update-ref -d refs/heads/again && rm -f .vera/logs/refs/heads/again");
    shell("find .vera/objects/?? -type f | xargs touch -d '-40 days'");
    repository_reopen();
    AUTO_SNAPSHOT(snapshot);
    assert_int_equal(store_load(&snapshot, store, &commit), 0);
    struct commit_request request = {.snapshot = &snapshot, .branch = "back", .message = "again"};
    struct commit_result result = {0};
    assert_int_equal(store_commit(&result, store, &request), 0);
    free(result.branch);
    remembered[remembered_count - 1].commit = result.commit;
    gc_expire(true, 0);
    assert_all_restore();
    snprintf(command, sizeof(command), "git fsck --strict --no-dangling");
    shell(command);
}

static void test_a_young_pack_is_good_for_git_too(void **state)
{
    (void)state;
    git_oid id = stray("young", 10 * DAY);
    gc();
    assert_shell("ls .vera/objects/pack | grep -c mtimes", "1");
    shell("git gc -q --cruft --prune=2.weeks.ago");
    assert_true(is_there(&id));
    assert_int_equal(gc(), 0);
    assert_true(is_there(&id));
    shell("git gc -q --cruft --prune=1.week.ago");
    assert_false(is_there(&id));
    assert_all_restore();
    assert_sound();
}

/* Refs and reflogs */

static void trash_put(const char *when, const struct commit_id *commit)
{
    char command[256], hex[COMMIT_HEX_SIZE];

    commit_hex(hex, commit);
    snprintf(command, sizeof(command), "git update-ref refs/vera/trash/%s/old/one %s", when, hex);
    shell(command);
}

/* A version that only the trash reaches: its commit. */
static struct commit_id trashed(const char *note, int days)
{
    char when[32];
    time_t time_of = time(NULL) - days * DAY;
    struct tm utc;
    struct commit_id commit = version_add("brief", "llama/step-100", note);

    shell("git update-ref -d refs/heads/brief && rm -f .vera/logs/refs/heads/brief");
    assert_non_null(gmtime_r(&time_of, &utc));
    assert_true(strftime(when, sizeof(when), "%Y%m%dT%H%M%S.000000Z", &utc) > 0);
    trash_put(when, &commit);
    return commit;
}

static void test_the_trash_is_kept_for_90_days(void **state)
{
    (void)state;
    trashed("young", 89);
    trashed("old", 91);
    remembered_count--;
    git_oid old = git_id(&remembered[remembered_count].commit);
    shell("git pack-refs --all");
    trashed("older, and a file", 200);
    remembered_count--;
    git_oid older = git_id(&remembered[remembered_count].commit);
    repository_reopen();
    assert_int_equal(gc(), 0); /* the objects are young */
    assert_shell("git for-each-ref refs/vera/trash | wc -l", "3");
    assert_shell("find .vera/refs/vera -mindepth 2", "");
    assert_true(gc_expire(true, 0) >= 2);
    assert_false(is_there(&old));
    assert_false(is_there(&older));
    assert_all_restore();
    assert_sound();
}

static void test_lines_of_reflogs_are_kept_for_90_days(void **state)
{
    struct commit_id commit = version_add("brief", "llama/step-100", "by a reflog only");
    char line[256], hex[COMMIT_HEX_SIZE];
    const int ages[] = {200, 91, 89};

    (void)state;
    shell("git update-ref -d refs/heads/brief && rm -f .vera/logs/refs/heads/brief");
    commit_hex(hex, &commit);
    FILE *log = fopen(".vera/logs/refs/heads/main", "r+");
    assert_non_null(log);
    for (size_t i = 0; i < 3; i++) {
        snprintf(
            line, sizeof(line), "%s %s Ada <ada@example.org> %ld +0100\tday %d\n", hex, hex,
            (long)(time(NULL) - ages[i] * DAY), ages[i]
        );
        assert_true(fputs(line, log) >= 0);
    }
    assert_int_equal(fclose(log), 0);
    repository_reopen();
    gc_expire(true, 0);
    assert_shell("grep -c 'day ' .vera/logs/refs/heads/main", "1");
    assert_all_restore(); /* one line still names it */
    shell("sed -i '/day 89/d' .vera/logs/refs/heads/main");
    gc_expire(true, 0);
    git_oid id = git_id(&commit);
    assert_false(is_there(&id));
    remembered_count--;
    assert_all_restore();
    assert_sound();
}

static void test_a_reflog_that_git_is_writing_is_let_be(void **state)
{
    (void)state;
    shell("sed -i 's/> [0-9]* /> 1000000000 /' .vera/logs/refs/heads/main");
    shell("touch .vera/refs/heads/main.lock");
    gc_expire(true, 0);
    assert_all_restore();
    assert_shell("grep -c 1000000000 .vera/logs/refs/heads/main", "7");
    shell("rm .vera/refs/heads/main.lock");
    gc_expire(true, 0);
    assert_shell("wc -c <.vera/logs/refs/heads/main", "0");
    remembered[5] = remembered[0]; /* what was reset away is in the trash, and so restores */
    assert_all_restore();
    assert_sound();
}

static void test_refs_are_what_they_were(void **state)
{
    AUTO_BUF(before);
    AUTO_BUF(after);
    static const char list[] =
        "git for-each-ref --format='%(refname) %(objectname) %(objecttype) %(*objectname) "
        "%(symref)'; cat .vera/HEAD";

    (void)state;
    shell("git rev-parse main | { read c; for i in $(seq 10000); do "
          "echo create refs/heads/many/$((i % 97))/b$i $c; done; } | git update-ref --stdin");
    shell("for i in 1 2 3; do git tag -a -m text$i a$i main~$i; git tag -a -m nested n$i a$i; done"
    );
    shell("git symbolic-ref refs/remotes/origin/HEAD refs/heads/main");
    shell("git symbolic-ref refs/heads/alias refs/heads/main");
    shell("git update-ref refs/heads/-odd main && git update-ref refs/heads/m main");
    shell(
        "git pack-refs --all && git update-ref refs/heads/many/0/b97 main~1 && "
        "git update-ref -d refs/heads/many/1/b1 && git update-ref refs/heads/many/1/b1/deeper main"
    );
    repository_reopen();
    assert_int_equal(shell_status(&before, list), 0);
    gc();
    assert_int_equal(shell_status(&after, list), 0);
    assert_string_equal((char *)before.data, (char *)after.data);
    assert_shell(
        "find .vera/refs -type f | sort", ".vera/refs/heads/alias\n"
                                          ".vera/refs/remotes/origin/HEAD"
    );
    shell("git pack-refs --all && git branch new-one main && git branch -D many/2/b2");
    assert_all_restore();
    assert_sound();
}

static void test_a_git_that_holds_packed_refs_is_waited_for(void **state)
{
    struct gc_request request = {.has_expire = true};
    struct gc_result result;

    (void)state;
    shell("touch .vera/packed-refs.lock");
    store->wait_ms = 20;
    assert_int_equal(store_gc(&result, store, &request), E_CONFLICT);
    assert_message("packed-refs: is locked by a git");
    assert_hint("packed-refs.lock");
    shell("test -e .vera/packed-refs.lock && rm .vera/packed-refs.lock");
    assert_all_restore();
    assert_sound();
}

/* What is not ours */

static void test_kept_packs_stay_as_they_are(void **state)
{
    static const char kept[] = "cd .vera/objects/pack && ls -li $(ls *.keep | sed "
                               "'s/keep$/*/')";
    AUTO_BUF(before);
    AUTO_BUF(after);

    (void)state;
    shell("git rev-list --objects main | cut -d' ' -f1 | "
          "git pack-objects -q .vera/objects/pack/pack | "
          "grep -q .");
    git_oid id = stray("in a kept pack", 400 * DAY);
    stray_pack(&id, 400 * DAY);
    shell("for p in .vera/objects/pack/*.pack; do touch ${p%pack}keep; done");
    assert_int_equal(shell_status(&before, kept), 0);
    assert_int_equal(gc_expire(true, 0), 0);
    assert_int_equal(shell_status(&after, kept), 0);
    assert_string_equal((char *)before.data, (char *)after.data);
    assert_true(is_there(&id));
    assert_packs("3");
    shell("git show-index <$(ls -t .vera/objects/pack/*.idx | head -1) | wc -l | "
          "{ read n; test $n -lt 60; }");
    assert_all_restore();
    assert_sound();
}

static void test_what_another_repository_lends_stays_there(void **state)
{
    (void)state;
    shell("git clone -q --bare -s .vera borrower.git && cd borrower.git && touch vera.lock && "
          "git update-ref refs/heads/own main && ls objects | grep -v pack | grep -v info || true");
    AUTO_STORE(borrower);
    struct gc_request request = {.has_expire = true};
    struct gc_result result;
    assert_int_equal(store_open(&borrower, ".", "borrower.git"), 0);
    if (store_gc(&result, borrower, &request) < 0)
        fail_msg("%s", error_message());
    assert_shell("ls borrower.git/objects/pack", "");
    shell("GIT_DIR=borrower.git git fsck --strict --no-dangling");
}

static void test_gc_refuses_what_it_cannot_see_all_of(void **state)
{
    struct gc_request request = {.has_expire = true};
    struct gc_result result;
    AUTO_STORE(shallow);

    (void)state;
    shell("unset GIT_DIR; git clone -q --bare --depth 1 file://$PWD/.vera shallow.git");
    assert_int_equal(store_open(&shallow, ".", "shallow.git"), 0);
    assert_int_equal(store_gc(&result, shallow, &request), E_UNSUPPORTED);
    assert_message("a shallow clone");
    assert_hint("fetch --unshallow");
    shell("git worktree add -q --no-checkout --detach tree main");
    assert_int_equal(store_gc(&result, store, &request), E_UNSUPPORTED);
    assert_message("worktrees");
    assert_hint("gc");
}

/* Damage */

static void test_damage_lets_nothing_go(void **state)
{
    static const char *const damages[] = {
        /* a blob, a tree and a commit that are gone, or not what they were; refs */
        "p=$(git rev-parse main~1:manifest); rm .vera/objects/$(echo $p | cut -c1-2)/$(echo $p | "
        "cut -c3-)",
        "p=$(git rev-parse main~1:vectors); rm .vera/objects/$(echo $p | cut -c1-2)/$(echo $p | "
        "cut -c3-)",
        "p=$(git rev-parse main~2); rm .vera/objects/$(echo $p | cut -c1-2)/$(echo $p | cut -c3-)",
        "p=$(git rev-parse main:vectors/frame); f=.vera/objects/$(echo $p | cut -c1-2)/$(echo $p | "
        "cut -c3-); chmod u+w $f; truncate -s -9 $f",
        "p=$(git rev-parse run/1^{tree}); f=.vera/objects/$(echo $p | cut -c1-2)/$(echo $p | "
        "cut -c3-); chmod u+w $f; echo x >$f",
        ": >.vera/refs/heads/run/1",
        "echo nonsense >.vera/refs/tags/light",
        "echo 1234567890123456789012345678901234567890 >.vera/refs/heads/run/1",
        "echo nonsense >.vera/packed-refs",
        "echo 1234567890123456789012345678901234567890 >.vera/HEAD",
    };

    (void)state;
    shell("cp -a .vera whole");
    for (size_t i = 0; i < sizeof(damages) / sizeof(damages[0]); i++) {
        struct gc_request request = {.has_expire = true};
        struct gc_result result;
        AUTO_BUF(before);
        AUTO_BUF(after);
        shell("rm -rf .vera && cp -a whole .vera");
        repository_reopen();
        stray("still there", 400 * DAY);
        trashed("old", 200);
        remembered_count--;
        shell(damages[i]);
        repository_reopen();
        files_list(&before);
        int err = store_gc(&result, store, &request);
        if (err != E_CORRUPT)
            fail_msg("damage %zu: %d", i, err);
        assert_message("nothing was dropped");
        files_list(&after);
        assert_string_equal((char *)before.data, (char *)after.data);
    }
    shell("rm -rf .vera && mv whole .vera");
}

/* Dry run */

static void test_a_dry_run_changes_nothing_and_says_what_would_go(void **state)
{
    static const char all[] = "find .vera -printf '%p %s %T@ %i %m %l\\n' | sort; "
                              "find .vera -type f | sort | xargs sha1sum";
    struct gc_request request = {.dry_run = true, .has_expire = true};
    struct gc_result result;
    AUTO_BUF(before);
    AUTO_BUF(after);

    (void)state;
    git_oid packed = stray("packed", 0);
    stray_pack(&packed, 10 * DAY);
    stray("loose", 10 * DAY);
    trashed("old", 200);
    remembered_count--;
    shell("rm .vera/vera.lock");
    repository_reopen();
    assert_int_equal(shell_status(&before, all), 0);
    assert_int_equal(store_gc(&result, store, &request), 0);
    assert_int_equal(shell_status(&after, all), 0);
    assert_string_equal((char *)before.data, (char *)after.data);
    assert_true(result.dropped > 4);
    assert_true(result.after_bytes < result.before_bytes);
    assert_int_equal(gc_expire(true, 0), result.dropped);
}

/* Beside git */

static void test_git_may_gc_before_and_after(void **state)
{
    (void)state;
    shell("git gc -q && git commit-graph write --reachable && git multi-pack-index write");
    version_add("main", "llama/step-080", "after git's");
    repository_reopen();
    gc();
    assert_all_restore();
    assert_sound();
    shell("git commit-graph verify && git multi-pack-index verify");
    assert_packs("1");
    shell("git repack -adq --write-bitmap-index");
    version_add("main", "llama/step-090", "after ours");
    gc();
    shell("git gc -q --prune=now");
    repository_reopen();
    gc();
    assert_all_restore();
    assert_sound();
    assert_packs("1");
}

static void test_what_a_crash_left_goes_after_a_day(void **state)
{
    static const char *const scraps[] = {
        "tmp_obj_abcdef",
        "12/tmp_obj_abcdef",
        "tmp_object_git2_abcdef",
        "pack/pack_git2_abcdef",
        "pack/tmp_pack_abcdef",
        "pack/tmp_idx_abcdef",
        "pack/pack-0123456789012345678901234567890123456789.pack",
        "pack/pack-0123456789012345678901234567890123456789.mtimes",
    };
    char path[128];

    (void)state;
    shell("mkdir -p .vera/objects/12");
    for (int round = 0; round < 2; round++) {
        for (size_t i = 0; i < sizeof(scraps) / sizeof(scraps[0]); i++) {
            snprintf(path, sizeof(path), ".vera/objects/%s", scraps[i]);
            assert_int_equal(file_write(path, text_bytes("scrap")), 0);
            set_age(path, round ? 2 * DAY : 0);
        }
        gc();
        for (size_t i = 0; i < sizeof(scraps) / sizeof(scraps[0]); i++) {
            snprintf(path, sizeof(path), ".vera/objects/%s", scraps[i]);
            assert_int_equal(path_exists(path), round == 0);
        }
    }
    assert_sound();
    shell("touch -d '-2 days' .vera/objects/pack/*");
    gc();
    assert_packs("1");
    assert_all_restore();
}

/* An index that git2's indexer renamed before its pack, when the power went. */
static void test_an_index_without_its_pack_is_no_pack(void **state)
{
    (void)state;
    gc();
    version_add("main", "llama/step-080", "more");
    shell("cd .vera/objects/pack && cp *.idx "
          "pack-0123456789012345678901234567890123456789.idx");
    repository_reopen();
    gc();
    assert_all_restore();
}

struct interrupting {
    struct progress base;
    unsigned calls, until;
    uint64_t last, total;
};

static void progress_count(struct progress *self, uint64_t done, uint64_t total)
{
    struct interrupting *progress = (struct interrupting *)self;

    assert_true(done <= total);
    assert_true(done >= progress->last || progress->total != total);
    progress->last = done;
    progress->total = total;
    if (++progress->calls == progress->until)
        interrupt_flag = 1;
}

static void test_an_interrupt_leaves_all_as_it_was(void **state)
{
    struct gc_request request = {.has_expire = true};
    struct gc_result result;

    (void)state;
    git_oid id = stray("still there", 400 * DAY);
    for (unsigned until = 1; until < 12; until += 5) {
        struct interrupting progress = {.base = {progress_count}, .until = until};
        request.progress = &progress.base;
        assert_int_equal(store_gc(&result, store, &request), E_INTERRUPTED);
        interrupt_flag = 0;
        assert_true(is_there(&id));
        assert_shell("ls .vera/objects/pack", "");
        assert_sound();
    }
    assert_all_restore();
    struct interrupting progress = {.base = {progress_count}};
    request.progress = &progress.base;
    assert_int_equal(store_gc(&result, store, &request), 0);
    assert_int_equal(progress.last, progress.total);
}

#define GC_TEST(name) cmocka_unit_test_setup_teardown(name, collected_make, repository_remove)

int main(void)
{
    const struct CMUnitTest tests[] = {
        GC_TEST(test_what_is_reached_is_packed_and_stays),
        GC_TEST(test_frames_are_no_differences),
        GC_TEST(test_a_second_gc_changes_nothing),
        cmocka_unit_test_setup_teardown(
            test_an_empty_repository_is_no_work, repository_make, repository_remove
        ),
        GC_TEST(test_what_nothing_reaches_goes_when_it_is_old),
        GC_TEST(test_an_object_keeps_its_age_through_gcs),
        GC_TEST(test_an_object_is_as_young_as_its_youngest_copy),
        GC_TEST(test_another_handle_sees_what_went),
        GC_TEST(test_what_a_version_takes_up_again_stays),
        GC_TEST(test_a_young_pack_is_good_for_git_too),
        GC_TEST(test_the_trash_is_kept_for_90_days),
        GC_TEST(test_lines_of_reflogs_are_kept_for_90_days),
        GC_TEST(test_a_reflog_that_git_is_writing_is_let_be),
        GC_TEST(test_refs_are_what_they_were),
        GC_TEST(test_a_git_that_holds_packed_refs_is_waited_for),
        GC_TEST(test_kept_packs_stay_as_they_are),
        GC_TEST(test_what_another_repository_lends_stays_there),
        GC_TEST(test_gc_refuses_what_it_cannot_see_all_of),
        GC_TEST(test_damage_lets_nothing_go),
        GC_TEST(test_a_dry_run_changes_nothing_and_says_what_would_go),
        GC_TEST(test_git_may_gc_before_and_after),
        GC_TEST(test_what_a_crash_left_goes_after_a_day),
        GC_TEST(test_an_index_without_its_pack_is_no_pack),
        GC_TEST(test_an_interrupt_leaves_all_as_it_was),
    };

    return cmocka_run_group_tests(tests, template_make, template_remove);
}
