/*
 * Packs and their indexes as git has them, and loose objects that go into packs by themselves:
 * "Garbage" of docs/format.md.
 */
#define _GNU_SOURCE
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "tests/syscalls.h"

#include "store/cruft.h"
#include "store/pack.h"
#include "store/pack_file.h"
#include "store/pack_loose.h"
#include "tests/collected.h"

/* Files */

static void test_an_index_is_git_s_own_byte_for_byte(void **state)
{
    (void)state;
    stray("young", 2 * DAY);
    gc();
    version_add("main", "llama/step-060", "more");
    version_add("main", "llama/step-070", "more still");
    store->loose_max = 0;
    version_add("main", "llama/step-080", "packed by itself");
    shell("for p in .vera/objects/pack/*.pack; do git index-pack --strict -o other.idx $p && "
          "cmp other.idx ${p%pack}idx && chmod u+w other.idx && rm other.idx || exit 1; done");
    assert_packs("3");
}

static void test_offsets_above_2_gib_come_back(void **state)
{
    struct pack_entry entries[] = {
        {.id = {{3}}, .crc = 1, .offset = 12},
        {.id = {{1}}, .crc = 2, .offset = 0x7fffffff},
        {.id = {{2}}, .crc = 3, .offset = 0x80000000},
        {.id = {{0xff}}, .crc = 4, .offset = UINT64_C(0x123456789a)},
    };
    struct pack_index index = {entries, 4, {7}};
    AUTO_PACK_INDEX(back);
    AUTO_BUF(data);

    (void)state;
    assert_int_equal(pack_index_encode(&data, &index), 0);
    assert_int_equal(data.len, 1032 + 28 * 4 + 8 * 2 + 40);
    assert_int_equal(pack_index_decode(&back, buf_bytes(&data), "x"), 0);
    assert_int_equal(back.count, 4);
    assert_memory_equal(back.entries, entries, sizeof(entries)); /* both are sorted by now */
    assert_int_equal(back.entries[0].id.id[0], 1);
    assert_int_equal(back.pack_sha1[0], 7);
}

static void test_every_truncation_of_an_index_is_corrupt(void **state)
{
    struct pack_entry entries[] = {
        {.id = {{1}}, .offset = 12}, {.id = {{2}}, .offset = 1ull << 40}};
    struct pack_index index = {entries, 2, {0}};
    AUTO_BUF(data);

    (void)state;
    assert_int_equal(pack_index_encode(&data, &index), 0);
    for (size_t len = 0; len < data.len; len++) {
        AUTO_PACK_INDEX(back);
        /* Behind the large offsets are two digests, which only a larger claim would miss. */
        int err = pack_index_decode(&back, (struct bytes){data.data, len}, "x");
        assert_int_equal(err, E_CORRUPT);
    }
}

static void test_times_come_back_and_damage_is_seen(void **state)
{
    const uint32_t times[] = {0, 1, 0x12345678, UINT32_MAX};
    const uint8_t sha1[SHA1_SIZE] = {9};
    AUTO_FREE(uint32_t, back);
    AUTO_BUF(data);

    (void)state;
    assert_int_equal(cruft_encode(&data, times, 4, sha1), 0);
    assert_int_equal(cruft_decode(&back, 4, buf_bytes(&data), "x"), 0);
    assert_memory_equal(back, times, sizeof(times));
    for (size_t len = 0; len < data.len; len++) {
        uint32_t *none = NULL;
        assert_int_equal(cruft_decode(&none, 4, (struct bytes){data.data, len}, "x"), E_CORRUPT);
    }
    for (size_t bit = 0; bit < 8 * data.len; bit++) {
        uint32_t *none = NULL;
        data.data[bit / 8] ^= (uint8_t)(1u << bit % 8);
        assert_int_equal(cruft_decode(&none, 4, buf_bytes(&data), "x"), E_CORRUPT);
        data.data[bit / 8] ^= (uint8_t)(1u << bit % 8);
    }
}

static void test_a_pack_that_is_damaged_is_not_joined(void **state)
{
    AUTO_PACKS(packs);
    AUTO_FREE(char, name);
    AUTO_FREE(char, path);
    AUTO_BUF(data);

    (void)state;
    gc();
    version_add("main", "llama/step-060", "more");
    shell("git repack -dq");
    assert_int_equal(packs_read(&packs, store), 0);
    assert_int_equal(packs.count, 2);
    const struct pack *both[] = {&packs.packs[0], &packs.packs[1]};
    assert_int_equal(pack_join(&name, store, both, 2), 0);
    free(name);
    name = NULL;
    assert_int_equal(path_join(&path, ".vera/objects/pack", packs.packs[1].name), 0);
    char file[256];
    snprintf(file, sizeof(file), "%s.pack", path);
    assert_int_equal(file_read(&data, file, 1 << 30), 0);
    for (size_t at = 12; at < data.len; at += data.len / 20) {
        data.data[at] ^= 4;
        assert_int_equal(file_write(file, buf_bytes(&data)), 0);
        assert_int_equal(pack_join(&name, store, both, 2), E_CORRUPT);
        data.data[at] ^= 4;
    }
    assert_int_equal(file_write(file, buf_bytes(&data)), 0);
    assert_shell("ls -d .vera/objects/tmp* 2>/dev/null || true", "");
    assert_all_restore();
}

/* By themselves */

static size_t loose_count(void)
{
    AUTO_ID_SET(loose);

    assert_int_equal(loose_read(&loose, store), 0);
    return loose.count;
}

static size_t pack_count(void)
{
    AUTO_PACKS(packs);

    assert_int_equal(packs_read(&packs, store), 0);
    return packs.count;
}

/* Commits on a few branches, cheap ones. */
static void versions_add(int count)
{
    static int number;

    for (int i = 0; i < count; i++) {
        AUTO_SNAPSHOT(snapshot);
        struct commit_result result = {0};
        char note[32], branch[16];
        snprintf(note, sizeof(note), "note %d", number);
        snprintf(branch, sizeof(branch), "many/%d", number++ % 5);
        snapshot_vary(&snapshot, "llama/step-000", note);
        struct commit_request request = {.snapshot = &snapshot, .branch = branch, .message = note};
        if (store_commit(&result, store, &request) < 0)
            fail_msg("%s", error_message());
        free(result.branch);
        if (number % 16 == 0 && remembered_count < 60)
            remember(&result.commit);
    }
}

static void test_loose_objects_are_packed_when_there_are_many(void **state)
{
    unsigned packs_most = 0;

    (void)state;
    store->loose_max = 60;
    for (int i = 0; i < 300; i++) {
        versions_add(1);
        assert_true(loose_count() <= store->loose_max + 8);
        if (pack_count() > packs_most)
            packs_most = (unsigned)pack_count();
    }
    assert_true(packs_most >= 3 && packs_most <= 7); /* some 1,500 objects, 30 at a time */
    assert_all_restore();
    assert_sound();
    gc();
    assert_packs("1");
    assert_all_restore();
}

/* Of all that are smaller together, each is at least the double. */
static void test_the_number_of_packs_stays_small(void **state)
{
    (void)state;
    store->loose_max = 60;
    for (int i = 0; i < 10; i++) {
        AUTO_PACKS(packs);
        versions_add(12);
        assert_int_equal(packs_read(&packs, store), 0);
        for (size_t a = 0; a < packs.count; a++) {
            uint64_t smaller = 0;
            for (size_t b = 0; b < packs.count; b++)
                smaller += packs.packs[b].bytes < packs.packs[a].bytes ? packs.packs[b].bytes : 0;
            assert_true(packs.packs[a].bytes >= smaller);
        }
    }
    assert_all_restore();
}

static void test_below_the_limit_nothing_is_packed(void **state)
{
    (void)state;
    versions_add(5);
    assert_int_equal(pack_count(), 0);
    store->loose_max = loose_count() + 100;
    versions_add(2);
    assert_int_equal(pack_count(), 0);
}

static void test_what_nothing_reaches_stays_loose_and_as_old_as_it_is(void **state)
{
    (void)state;
    git_oid young = stray("young", 5 * DAY), old = stray("old", 50 * DAY);
    store->loose_max = 40;
    versions_add(20);
    assert_true(pack_count() > 0);
    shell("find .vera/objects/?? -type f -mtime +3 | wc -l | grep -qx 2");
    assert_int_equal(gc(), 1);
    assert_true(is_there(&young));
    assert_false(is_there(&old));
    assert_all_restore();
}

static void test_who_packs_is_not_waited_for(void **state)
{
    AUTO_STORE(other);
    AUTO_LOCK(lock);

    (void)state;
    assert_int_equal(store_open(&other, scratch, NULL), 0);
    assert_int_equal(lock_pack(&lock, other), 0);
    store->loose_max = 10;
    store->wait_ms = 0;
    versions_add(3);
    assert_int_equal(pack_count(), 0);
    lock_release(&lock);
    versions_add(1);
    assert_int_equal(pack_count(), 1);
}

static void test_an_object_that_is_loose_and_packed_stays_once(void **state)
{
    (void)state;
    shell("cp -a .vera/objects before");
    store->loose_max = 10;
    versions_add(1);
    assert_int_equal(pack_count(), 1);
    size_t few = loose_count();
    shell("cp -a before/. .vera/objects/");
    assert_true(loose_count() > few + 40);
    versions_add(1);
    assert_true(loose_count() <= few + 10);
    assert_all_restore();
    /* Where the pack is damaged, the loose ones stay: damage between header and trailer is in
       every object, so in each that has a loose copy, whatever order the pack has. */
    shell("cp -a before/. .vera/objects/");
    size_t many = loose_count();
    shell(
        "for p in .vera/objects/pack/*.pack; do chmod u+w $p; head -c -32 $p | tr '\\0-\\377' X | "
        "dd of=$p bs=64k oflag=seek_bytes seek=12 conv=notrunc status=none || exit 1; done"
    );
    repository_reopen();
    store->loose_max = 10;
    loose_pack(store);
    assert_int_equal(loose_count(), many);
}

static void test_packs_of_others_are_not_joined(void **state)
{
    (void)state;
    git_oid id = stray("young", 2 * DAY);
    gc();
    shell("for p in .vera/objects/pack/*.idx; do test -e ${p%idx}mtimes || touch ${p%idx}keep; done"
    );
    store->loose_max = 20;
    versions_add(30);
    assert_shell("ls .vera/objects/pack | grep -c keep", "1");
    assert_shell("ls .vera/objects/pack | grep -c mtimes", "1");
    shell("p=$(ls .vera/objects/pack/*.keep); test -e ${p%keep}pack -a -e ${p%keep}idx");
    assert_true(is_there(&id));
    assert_all_restore();
    assert_sound();
}

/* An object may be in two packs of git's; one pack must not have it twice. */
static void test_packs_that_overlap_are_left_to_gc(void **state)
{
    (void)state;
    shell("git repack -adq && git rev-list --objects main | cut -d' ' -f1 | "
          "git pack-objects -q .vera/objects/pack/pack");
    repository_reopen();
    store->loose_max = 20;
    versions_add(8);
    assert_sound();
    assert_true(pack_count() >= 3);
    gc();
    assert_packs("1");
    assert_all_restore();
}

static void test_damage_among_loose_objects_stops_no_commit(void **state)
{
    (void)state;
    shell("f=.vera/objects/$(git rev-parse main^{tree} | sed 's,^..,&/,'); chmod u+w $f; echo x >$f"
    );
    repository_reopen();
    store->loose_max = 10;
    size_t before = loose_count();
    versions_add(2);
    assert_true(loose_count() > before);
    assert_int_equal(pack_count(), 0);
    assert_shell("ls -d .vera/objects/tmp* 2>/dev/null || true", "");
}

/* Killed and interrupted */

static struct snapshot next;

static int commit_next(size_t loose_max)
{
    struct commit_request request = {.snapshot = &next, .branch = "next", .message = "next"};
    struct commit_result result = {0};

    store->loose_max = loose_max;
    int err = store_commit(&result, store, &request);
    free(result.branch);
    return err;
}

/* Little, so that each call can be tried, but a pack and objects for another that it is joined to.
 */
static int few_make(void **state)
{
    if (repository_make(state) != 0)
        return 1;
    remembered_count = 0;
    version_add("main", "llama/step-000", "first");
    version_add("main", "llama/step-010", "second");
    store->loose_max = 8;
    loose_pack(store);
    assert_int_equal(pack_count(), 1);
    store->loose_max = LOOSE_MAX;
    version_add("other", "llama/step-010", "third");
    version_add("other", "llama/step-020", "fourth");
    return 0;
}

/* How many calls a commit makes that does not pack: test_crash.c tries these. */
static int calls_before_packing(void)
{
    const int many = 100000;

    repository_reopen();
    syscalls.mode = FAULT_ONCE;
    syscalls.countdown = many;
    assert_int_equal(commit_next(LOOSE_MAX), 0);
    syscalls.mode = FAULT_NONE;
    store_release(&store);
    return many - syscalls.countdown;
}

static void repository_put_back(void)
{
    store_release(&store);
    assert_int_equal(tree_remove(".vera"), 0);
    shell("cp -a whole .vera");
}

static void commits_fault(enum fault_mode mode)
{
    unsigned packs_seen = 0; /* bit n: a round left n packs */
    int status = 0, rounds = 0;

    snapshot_vary(&next, "llama/step-060", "next");
    shell("cp -a .vera whole");
    int before = calls_before_packing();
    repository_put_back();
    for (bool untouched = false; !untouched; rounds++) {
        pid_t child = fork();
        assert_true(child >= 0);
        if (child == 0) {
            if (store_open(&store, scratch, NULL) < 0)
                _exit(9);
            syscalls.mode = mode;
            syscalls.countdown = before + rounds;
            syscalls.error = ENOSPC;
            int err = commit_next(8);
            _exit(err == 0 || err == E_IO ? syscalls.fired : 9);
        }
        assert_int_equal(waitpid(child, &status, 0), child);
        if (!WIFSIGNALED(status))
            assert_true(WEXITSTATUS(status) <= 1);
        untouched = WIFEXITED(status) && WEXITSTATUS(status) == 0;
        assert_all_restore();
        packs_seen |= 1u << pack_count();
        int err = commit_next(8);
        assert_true(err == 0 || err == E_EXISTS);
        if (rounds % 16 == 0)
            shell("git fsck --strict --no-dangling --no-progress");
        repository_put_back();
        assert_true(rounds < 1000);
    }
    assert_true(rounds > 40 && packs_seen == 0xe);
    snapshot_release(&next);
    repository_reopen();
}

static void test_a_commit_killed_while_it_packs_loses_nothing(void **state)
{
    (void)state;
    commits_fault(FAULT_KILL);
}

static void test_a_commit_whose_packing_fails_is_a_commit(void **state)
{
    (void)state;
    commits_fault(FAULT_ONCE);
}

static int model_remove(void **state)
{
    memset(&syscalls, 0, sizeof(syscalls));
    return repository_remove(state);
}

#define PACK_TEST(name)  cmocka_unit_test_setup_teardown(name, collected_make, model_remove)
#define FAULT_TEST(name) cmocka_unit_test_setup_teardown(name, few_make, model_remove)

int main(void)
{
    const struct CMUnitTest tests[] = {
        PACK_TEST(test_an_index_is_git_s_own_byte_for_byte),
        cmocka_unit_test(test_offsets_above_2_gib_come_back),
        cmocka_unit_test(test_every_truncation_of_an_index_is_corrupt),
        cmocka_unit_test(test_times_come_back_and_damage_is_seen),
        PACK_TEST(test_a_pack_that_is_damaged_is_not_joined),
        PACK_TEST(test_loose_objects_are_packed_when_there_are_many),
        PACK_TEST(test_the_number_of_packs_stays_small),
        PACK_TEST(test_below_the_limit_nothing_is_packed),
        PACK_TEST(test_what_nothing_reaches_stays_loose_and_as_old_as_it_is),
        PACK_TEST(test_who_packs_is_not_waited_for),
        PACK_TEST(test_an_object_that_is_loose_and_packed_stays_once),
        PACK_TEST(test_packs_of_others_are_not_joined),
        PACK_TEST(test_packs_that_overlap_are_left_to_gc),
        PACK_TEST(test_damage_among_loose_objects_stops_no_commit),
        FAULT_TEST(test_a_commit_killed_while_it_packs_loses_nothing),
        FAULT_TEST(test_a_commit_whose_packing_fails_is_a_commit),
    };

    return cmocka_run_group_tests(tests, template_make, template_remove);
}
