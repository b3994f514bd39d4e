/*
 * For tests of gc and of what packs: a repository with versions that branches, tags, the trash and
 * reflogs reach, each remembered, so that nothing can get lost unseen.
 */
#ifndef TESTS_COLLECTED_H
#define TESTS_COLLECTED_H

#include <fcntl.h>
#include <sys/stat.h>
#include <time.h>

#include "tests/versions.h"

#define DAY 86400

static struct {
    struct commit_id commit;
    struct digest snapshot;
} remembered[64];
static size_t remembered_count;

static UNUSED void remember(const struct commit_id *commit)
{
    assert_true(remembered_count < sizeof(remembered) / sizeof(remembered[0]));
    remembered[remembered_count].commit = *commit;
    assert_int_equal(version_snapshot(&remembered[remembered_count].snapshot, store, commit), 0);
    remembered_count++;
}

/* Every byte of every version is hashed and compared on the way. */
static UNUSED void assert_all_restore(void)
{
    repository_reopen();
    for (size_t i = 0; i < remembered_count; i++) {
        AUTO_SNAPSHOT(snapshot);
        if (store_load(&snapshot, store, &remembered[i].commit) < 0)
            fail_msg("version %zu: %s", i, error_message());
        assert_true(digest_equal(&snapshot.id, &remembered[i].snapshot));
    }
}

static UNUSED struct commit_id
version_add(const char *branch, const char *adapter, const char *note)
{
    AUTO_SNAPSHOT(snapshot);
    struct commit_result result = {0};

    snapshot_vary(&snapshot, adapter, note);
    struct commit_request request = {.snapshot = &snapshot, .branch = branch, .message = note};
    if (store_commit(&result, store, &request) < 0)
        fail_msg("%s", error_message());
    free(result.branch);
    remember(&result.commit);
    return result.commit;
}

/* main with five versions and one that was reset away, `run/1` from the middle of it, `gone`, which
   was deleted, and tags of both kinds. */
static UNUSED void versions_make(void)
{
    struct commit_id commits[6], previous;

    remembered_count = 0;
    for (size_t i = 0; i < 6; i++) {
        char adapter[32];
        snprintf(adapter, sizeof(adapter), "llama/step-%03zu", 10 * i);
        commits[i] = version_add("main", adapter, adapter);
    }
    assert_int_equal(store_reset(&previous, store, &commits[4]), 0);
    assert_int_equal(store_branch_create(store, "run/1", &commits[2]), 0);
    version_add("run/1", "llama-c/step-040", "other data");
    assert_int_equal(store_branch_create(store, "gone", &commits[1]), 0);
    version_add("gone", "llama-perl/step-040", "deleted");
    assert_int_equal(store_branch_delete(&previous, store, "gone"), 0);
    assert_int_equal(store_tag_create(store, "light", &commits[0], NULL), 0);
    assert_int_equal(store_tag_create(store, "heavy", &commits[3], "a tag of its own"), 0);
}

static UNUSED int collected_make(void **state)
{
    if (repository_make(state) != 0)
        return 1;
    versions_make();
    return 0;
}

/* gc with nothing special, or with this --expire in seconds; what it dropped. */
static UNUSED uint64_t gc_expire(bool has_expire, uint64_t seconds)
{
    struct gc_request request = {.has_expire = has_expire, .expire = seconds};
    struct gc_result result;

    if (store_gc(&result, store, &request) < 0)
        fail_msg("%s", error_message());
    return result.dropped;
}

static UNUSED uint64_t gc(void)
{
    return gc_expire(false, 0);
}

static UNUSED void set_age(const char *path, int64_t seconds)
{
    struct timespec times[2] = {{.tv_sec = time(NULL) - seconds}, {.tv_sec = time(NULL) - seconds}};

    assert_int_equal(utimensat(AT_FDCWD, path, times, 0), 0);
}

/* A blob that nothing reaches. */
static UNUSED git_oid stray(const char *text, int64_t age)
{
    char path[128];
    git_oid id = object_put_text(GIT_OBJECT_BLOB, text_bytes(text));
    const char *hex = git_oid_tostr_s(&id);

    snprintf(path, sizeof(path), ".vera/objects/%.2s/%s", hex, hex + 2);
    set_age(path, age);
    return id;
}

/* Move an object into a pack of its own, by git. */
static UNUSED void stray_pack(const git_oid *id, int64_t age)
{
    char command[512], path[128];
    AUTO_BUF(name);
    const char *hex = git_oid_tostr_s(id);

    snprintf(
        command, sizeof(command),
        "echo %s | git pack-objects -q .vera/objects/pack/pack && rm -f .vera/objects/%.2s/%s", hex,
        hex, hex + 2
    );
    assert_int_equal(shell_status(&name, command), 0);
    snprintf(path, sizeof(path), ".vera/objects/pack/pack-%s.pack", (char *)name.data);
    set_age(path, age);
}

static UNUSED bool is_there(const git_oid *id)
{
    char command[128];
    AUTO_BUF(out);

    snprintf(command, sizeof(command), "git cat-file -e %s", git_oid_tostr_s(id));
    return shell_status(&out, command) == 0;
}

static UNUSED void assert_packs(const char *count)
{
    assert_shell("ls .vera/objects/pack | grep -c '[.]pack$'", count);
    assert_shell("ls .vera/objects/pack | grep -c '[.]idx$'", count);
}

static UNUSED void assert_sound(void)
{
    AUTO_BUF(out);

    assert_int_equal(shell_status(&out, "git fsck --strict --no-dangling --no-progress"), 0);
    if (strstr((char *)out.data, "error") || strstr((char *)out.data, "missing"))
        fail_msg("%s", (char *)out.data);
    assert_shell("find .vera -name '*.lock' ! -path .vera/vera.lock", "");
    assert_shell("ls -d .vera/objects/tmp* 2>/dev/null || true", "");
}

/* Every file with its contents, but for the lock and the index, which is never needed. */
static UNUSED void files_list(struct buf *out)
{
    assert_int_equal(
        shell_status(
            out, "find .vera -type f ! -name vera.lock ! -name 'index.sqlite*' | sort | "
                 "xargs sha1sum"
        ),
        0
    );
}

#endif
