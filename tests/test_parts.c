/*
 * Tests of writing a model in parts (apply/materialize_parts.c, format/partdir.c): whichever call
 * or allocation of a part fails, what others did stays, and the part that is run again completes
 * it; how the work is divided (apply/work.c); what the parts tell each other (apply/parts.c). The
 * program's own processes are in cli/test_parts.py.
 */
#define _GNU_SOURCE
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <sys/stat.h>

#include "apply/parts.h"
#include "format/partdir.h"
#include "tests/adapters.h"
#include "tests/fault.h"

static int call_after = -1; /* calls until the one that fails; negative: none does */

static bool call_due(void)
{
    errno = ENOSPC;
    return call_after >= 0 && call_after-- == 0;
}

#define WRAP(type, name, parameters, arguments)                                                    \
    type __real_##name parameters;                                                                 \
    type __wrap_##name parameters;                                                                 \
    type __wrap_##name parameters                                                                  \
    {                                                                                              \
        return call_due() ? (type)-1 : __real_##name arguments;                                    \
    }

WRAP(int, open64, (const char *path, int flags, mode_t mode), (path, flags, mode))
WRAP(int, openat64, (int at, const char *path, int flags, mode_t mode), (at, path, flags, mode))
WRAP(int, mkdir, (const char *path, mode_t mode), (path, mode))
WRAP(int, mkdirat, (int at, const char *path, mode_t mode), (at, path, mode))
WRAP(int, ftruncate64, (int fd, off_t len), (fd, len))
/* Nothing is synced: no power is cut here, and a disk would make the tests ten times as slow. */
int __wrap_fsync(int fd);
int __wrap_fsync(int fd)
{
    return call_due() || fcntl(fd, F_GETFD) < 0 ? -1 : 0;
}
WRAP(int, rename, (const char *from, const char *to), (from, to))
/* What another process does just before a name within the parts is given. */
static void (*before_renameat)(const char *from);

int __real_renameat(int a, const char *from, int b, const char *to);
int __wrap_renameat(int a, const char *from, int b, const char *to);
int __wrap_renameat(int a, const char *from, int b, const char *to)
{
    void (*instead)(const char *from) = before_renameat;

    before_renameat = NULL;
    if (instead)
        instead(from);
    return call_due() ? -1 : __real_renameat(a, from, b, to);
}

WRAP(
    int,
    renameat2,
    (int a, const char *from, int b, const char *to, unsigned flags),
    (a, from, b, to, flags)
)
WRAP(int, fchmodat, (int at, const char *path, mode_t mode, int flags), (at, path, mode, flags))
WRAP(int, unlinkat, (int at, const char *path, int flags), (at, path, flags))
WRAP(ssize_t, write, (int fd, const void *data, size_t len), (fd, data, len))
WRAP(ssize_t, pread64, (int fd, void *data, size_t len, off_t at), (fd, data, len, at))
WRAP(ssize_t, pwrite64, (int fd, const void *data, size_t len, off_t at), (fd, data, len, at))

#define PARTS 2

/* Two shards, replaced and added tensors, an index, other files: every kind of piece. */
struct scene {
    struct model base;
    struct subject subject;
    bool force;
};

static void scene_release(struct scene *scene)
{
    model_release(&scene->base);
    subject_release(&scene->subject);
}

#define AUTO_SCENE(name)                                                                           \
    __attribute__((cleanup(scene_release))) struct scene name = {.force = false}

static void scene_make(struct scene *out)
{
    write_bare_bert("base", true);
    put("base/tokenizer.json", "{}");
    assert_int_equal(model_open(&out->base, "base"), 0);
    fixture_open(&out->subject, "bert/step-040", &out->base);
}

static int part_run(struct apply_result *result, const struct scene *scene, uint64_t part)
{
    const struct apply_options options = {.threads = 1, .report = true, .force = scene->force};
    const struct apply_input input = {&scene->subject.loaded, 1};

    return materialize_part(result, &input, 1, &scene->base, "out", &options, part, PARTS);
}

static bool out_is_whole(const struct scene *scene)
{
    const struct apply_options options = {.threads = 1};
    const struct apply_input input = {&scene->subject.loaded, 1};
    AUTO_FREE(char, difference);

    int err = materialize_verify(&difference, &input, 1, &scene->base, "out", &options);
    return err == 0 && !difference;
}

static size_t descriptor_count(void)
{
    size_t count = 0;

    for (int fd = 0; fd < 1024; fd++)
        count += fcntl(fd, F_GETFD) >= 0;
    return count;
}

/* Nothing but the base, and a removed directory of which something could not be removed. */
static void clear(void)
{
    AUTO_BUF(names);

    assert_int_equal(dir_names(&names, "."), 0);
    for (size_t at = 0; at < names.len; at += strlen((const char *)names.data + at) + 1) {
        if (strcmp((const char *)names.data + at, "base") != 0)
            assert_int_equal(tree_remove((const char *)names.data + at), 0);
    }
}

/* Something of another kind where the output goes. */
static void old_put(const struct scene *scene)
{
    if (scene->force)
        put("out/old", "old");
}

static void fails_at_every_call(struct scene *scene, uint64_t first)
{
    bool ran_through = false;
    size_t failed = 0;

    for (int n = 0; n < 1000 && !ran_through; n++) {
        AUTO_APPLY_RESULT(other);
        AUTO_APPLY_RESULT(faulty);
        AUTO_APPLY_RESULT(again);
        old_put(scene);
        if (first == 2)
            assert_int_equal(part_run(&other, scene, 1), 0);
        size_t descriptors = descriptor_count();
        call_after = n;
        int err = part_run(&faulty, scene, first);
        ran_through = call_after >= 0;
        call_after = -1;
        assert_int_equal(err, err ? E_IO : 0);
        assert_true(err == 0 || !ran_through);
        failed += err < 0;
        assert_int_equal(descriptor_count(), descriptors);
        assert_true(out_is_whole(scene) || scene->force == path_exists("out"));
        for (uint64_t part = 1; part <= PARTS; part++) {
            apply_result_release(&again);
            if (!out_is_whole(scene))
                assert_int_equal(part_run(&again, scene, part), 0);
        }
        assert_true(out_is_whole(scene));
        clear();
    }
    assert_true(ran_through);
    assert_true(failed > 30);
}

static void test_whichever_call_fails_the_part_is_run_again(void **state)
{
    AUTO_SCENE(scene);

    (void)state;
    scene_make(&scene);
    fails_at_every_call(&scene, 1);
    fails_at_every_call(&scene, 2);
    scene.force = true;
    fails_at_every_call(&scene, 2);
}

static void test_whichever_allocation_fails_the_part_is_run_again(void **state)
{
    AUTO_SCENE(scene);

    (void)state;
    scene_make(&scene);
    for (uint64_t part = 1; part <= PARTS; part++) {
        int err, n = 0;
        do {
            AUTO_APPLY_RESULT(result);
            AUTO_APPLY_RESULT(again);
            if (part == 2)
                assert_int_equal(part_run(&again, &scene, 1), 0);
            fault_after = n++;
            err = part_run(&result, &scene, part);
            fault_after = -1;
            assert_int_equal(err, err ? E_NOMEM : 0);
            for (uint64_t i = 1; i <= PARTS; i++) {
                apply_result_release(&again);
                if (!out_is_whole(&scene))
                    assert_int_equal(part_run(&again, &scene, i), 0);
            }
            assert_true(out_is_whole(&scene));
            clear();
        } while (err < 0);
        assert_true(n > 50);
    }
}

/* Races, of two that finish */

#define STAGING ".out.vera-parts"
#define TAKEN   STAGING "/finishing-aaaaaa"

static int small_fill(void *context, struct buf *plan, struct outdir *tree)
{
    (void)context;
    int err = outdir_write(tree, "new", text_bytes("new"));
    return err < 0 ? err : buf_append_text(plan, "a plan");
}

/* Parts of a directory that holds "new", as a process has them open that is about to finish. */
static void small_open(struct partdir *out, bool force)
{
    AUTO_PARTDIR(first);

    assert_int_equal(partdir_open(&first, "out", force), 0);
    assert_int_equal(first.fd, -1);
    assert_int_equal(partdir_begin(&first, small_fill, NULL), 0);
    assert_int_equal(partdir_open(out, "out", force), 0);
    assert_true(out->fd >= 0);
}

static void another_takes_the_tree(void)
{
    assert_int_equal(rename(STAGING "/tree", TAKEN), 0);
}

static void another_puts_it_in_its_place(const char *from)
{
    (void)from;
    assert_int_equal(renameat2(AT_FDCWD, TAKEN, AT_FDCWD, "out", RENAME_EXCHANGE), 0);
}

static void another_output_appears(const char *from)
{
    (void)from;
    put("out/mine", "mine");
}

static void test_what_was_replaced_is_never_put_back(void **state)
{
    (void)state;
    for (int raced = 0; raced < 2; raced++) {
        AUTO_PARTDIR(dir);
        put("out/old", "old");
        small_open(&dir, true);
        another_takes_the_tree();
        if (raced)
            before_renameat = another_puts_it_in_its_place; /* when the tree is taken from it */
        else
            another_puts_it_in_its_place(NULL);
        assert_int_equal(partdir_finish(&dir, true), 0);
        assert_null(before_renameat);
        before_renameat = NULL;
        assert_true(dir_has("out", "new"));
        assert_false(dir_has("out", "old"));
        assert_false(path_exists(STAGING));
        assert_int_equal(tree_remove("out"), 0);
    }
}

static void test_the_tree_is_taken_over_from_one_that_died(void **state)
{
    AUTO_PARTDIR(dir);

    (void)state;
    small_open(&dir, false);
    another_takes_the_tree();
    assert_int_equal(partdir_finish(&dir, false), 0);
    assert_true(dir_has("out", "new"));
    assert_false(path_exists(STAGING));
}

static void test_an_output_that_appears_in_the_last_moment_stays(void **state)
{
    AUTO_PARTDIR(dir);

    (void)state;
    small_open(&dir, false);
    before_renameat = another_output_appears;
    assert_int_equal(partdir_finish(&dir, false), E_EXISTS);
    assert_null(before_renameat);
    assert_true(dir_has("out", "mine"));
    assert_false(dir_has("out", "new"));
    assert_true(path_exists(STAGING));
    assert_int_equal(tree_remove("out"), 0);
    assert_int_equal(partdir_finish(&dir, false), 0);
    assert_true(dir_has("out", "new"));
}

static void test_parts_that_were_removed_take_no_record(void **state)
{
    AUTO_PARTDIR(old);
    AUTO_PARTDIR(next);
    bool there[2] = {true, true};

    (void)state;
    small_open(&old, false);
    assert_int_equal(tree_remove(STAGING), 0);
    small_open(&next, false);
    assert_int_equal(partdir_mark(&old, 1, text_bytes("record")), E_NOTFOUND);
    assert_int_equal(partdir_marked(there, &next, 2), 0);
    assert_false(there[0] || there[1]);
    assert_int_equal(partdir_mark(&next, 2, text_bytes("record")), 0);
    assert_int_equal(partdir_marked(there, &next, 2), 0);
    assert_true(!there[0] && there[1]);
}

/* The work */

struct division {
    struct rewrites rewrites;
    struct output output;
    struct work work;
};

static void division_release(struct division *division)
{
    work_release(&division->work);
    output_release(&division->output);
    rewrites_release(&division->rewrites);
}

static void
division_make(struct division *out, const struct scene *scene, struct apply_input *input)
{
    *input = (struct apply_input){&scene->subject.loaded, 1};
    assert_int_equal(rewrites_init(&out->rewrites, input, 1, &scene->base), 0);
    assert_int_equal(output_plan(&out->output, &out->rewrites), 0);
    assert_int_equal(work_init(&out->work, &out->rewrites, &out->output), 0);
}

static void test_pieces_are_all_of_every_file(void **state)
{
    __attribute__((cleanup(division_release))) struct division division = {0};
    struct apply_input input;
    AUTO_SCENE(scene);
    uint64_t at = 0;

    (void)state;
    scene_make(&scene);
    division_make(&division, &scene, &input);
    const struct work *work = &division.work;
    for (size_t i = 0; i < work->count; i++) {
        const struct piece *piece = &work->pieces[i];
        if (i && piece->shard != work->pieces[i - 1].shard) {
            assert_int_equal(at, scene.base.shards[work->pieces[i - 1].shard].bytes);
            assert_int_equal(piece->shard, work->pieces[i - 1].shard + 1);
            at = 0;
        }
        assert_int_equal(piece->begin, at);
        assert_true(piece->end >= at);
        at = piece->end;
    }
    assert_int_equal(work->pieces[work->count - 1].shard, scene.base.shard_count);
}

static void test_every_piece_is_one_parts(void **state)
{
    __attribute__((cleanup(division_release))) struct division division = {0};
    struct apply_input input;
    AUTO_SCENE(scene);

    (void)state;
    scene_make(&scene);
    division_make(&division, &scene, &input);
    const struct work *work = &division.work;
    for (uint64_t parts = 1; parts <= PARTS_MAX; parts = parts < 40 ? parts + 1 : parts * 3) {
        AUTO_APPLY_RESULT(counted);
        AUTO_APPLY_RESULT(whole);
        size_t next = 0;
        for (uint64_t part = 1; part <= parts; part++) {
            size_t begin, end;
            work_share(&begin, &end, work, part, parts);
            assert_int_equal(begin, next);
            assert_true(end >= begin);
            work_count(&counted, work, begin, end);
            next = end;
        }
        assert_int_equal(next, work->count);
        rewrites_count(&whole, &division.rewrites);
        assert_int_equal(counted.matched, whole.matched);
        assert_int_equal(counted.tensors_rewritten, whole.tensors_rewritten);
        assert_int_equal(counted.tensors_added, whole.tensors_added);
    }
}

/* What they tell each other */

static const struct apply_options plain = {.threads = 1};

static void test_a_plan_is_read_as_it_was_written(void **state)
{
    __attribute__((cleanup(division_release))) struct division division = {0};
    __attribute__((cleanup(parts_made_release))) struct parts_made read = {0};
    struct apply_input input;
    uint64_t shared[2] = {4096, 0};
    const struct parts_made made = {shared, 12, 34};
    AUTO_SCENE(scene);
    AUTO_BUF(own);
    AUTO_BUF(plan);
    uint64_t parts = 0;
    bool report = true;

    (void)state;
    scene_make(&scene);
    division_make(&division, &scene, &input);
    assert_int_equal(parts_plan_encode(&own, &division.work, &plain, 7), 0);
    assert_int_equal(parts_plan_encode(&plan, &division.work, &plain, 7), 0);
    assert_int_equal(parts_made_encode(&plan, &made, 2), 0);
    assert_int_equal(parts_plan_peek(&parts, &report, buf_bytes(&plan)), 0);
    assert_int_equal(parts, 7);
    assert_false(report);
    assert_int_equal(parts_plan_decode(&read, buf_bytes(&plan), buf_bytes(&own), 2), 0);
    assert_int_equal(read.shared[0], 4096);
    assert_int_equal(read.shared[1], 0);
    assert_int_equal(read.written, 12);
    assert_int_equal(read.cloned, 34);
    for (size_t len = 0; len < plan.len; len++) {
        __attribute__((cleanup(parts_made_release))) struct parts_made cut = {0};
        int err = parts_plan_decode(&cut, (struct bytes){plan.data, len}, buf_bytes(&own), 2);
        assert_true(err == E_CORRUPT || err == E_CONFLICT);
    }
}

static void test_a_plan_of_another_version_of_the_program_is_refused(void **state)
{
    __attribute__((cleanup(division_release))) struct division division = {0};
    __attribute__((cleanup(parts_made_release))) struct parts_made read = {0};
    struct apply_input input;
    AUTO_SCENE(scene);
    AUTO_BUF(own);
    AUTO_BUF(plan);

    (void)state;
    scene_make(&scene);
    division_make(&division, &scene, &input);
    assert_int_equal(parts_plan_encode(&own, &division.work, &plain, 3), 0);
    division.work.pieces[1].end--; /* it cuts elsewhere */
    assert_int_equal(parts_plan_encode(&plan, &division.work, &plain, 3), 0);
    assert_int_equal(parts_plan_decode(&read, buf_bytes(&plan), buf_bytes(&own), 2), E_CONFLICT);
    assert_non_null(strstr(error_message(), "another version of vera"));
}

int main(void)
{
#define SCRATCH_TEST(name) cmocka_unit_test_setup_teardown(name, scratch_make, scratch_remove)
    const struct CMUnitTest tests[] = {
        SCRATCH_TEST(test_whichever_call_fails_the_part_is_run_again),
        SCRATCH_TEST(test_whichever_allocation_fails_the_part_is_run_again),
        SCRATCH_TEST(test_what_was_replaced_is_never_put_back),
        SCRATCH_TEST(test_the_tree_is_taken_over_from_one_that_died),
        SCRATCH_TEST(test_an_output_that_appears_in_the_last_moment_stays),
        SCRATCH_TEST(test_parts_that_were_removed_take_no_record),
        SCRATCH_TEST(test_pieces_are_all_of_every_file),
        SCRATCH_TEST(test_every_piece_is_one_parts),
        SCRATCH_TEST(test_a_plan_is_read_as_it_was_written),
        SCRATCH_TEST(test_a_plan_of_another_version_of_the_program_is_refused),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
