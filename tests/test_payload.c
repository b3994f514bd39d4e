/*
 * Tests of a version's vectors/: V1, V7-V11, F8 and F9 of docs/format.md. Real series as chains of
 * differences, which restart where they are too long; chains with damage and forgeries in them.
 */
#define _GNU_SOURCE
#include <sched.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "format/limits.h"
#include "store/payload.h"
#include "tests/fault.h"
#include "tests/versions.h"

#define STEPS 33 /* checkpoints of minilm, ten steps apart */

/* A checkpoint of a series: "minilm", 3 is minilm/step-030. */
static void step_read(struct snapshot *out, const char *series, unsigned step)
{
    char dir[64];

    snprintf(dir, sizeof(dir), "%s/step-%03u", series, step * 10);
    snapshot_read(out, dir);
}

/* The same, its model file's bytes changed: of adapters without A and B, the end of the payload. */
static void step_edit(
    struct snapshot *out,
    const char *series,
    unsigned step,
    void (*edit)(struct buf *, size_t, uint32_t),
    size_t len,
    uint32_t seed
)
{
    AUTO_ADAPTER_FILES(files);
    char dir[64];

    snprintf(dir, sizeof(dir), "%s/step-%03u", series, step * 10);
    adapter_read(&files, dir);
    for (size_t i = 0; i < files.count; i++) {
        if (strcmp(files.files[i].path, PEFT_MODEL) == 0)
            edit(&files.files[i].data, len, seed);
    }
    assert_int_equal(snapshot_encode(out, &files, NULL), 0);
}

static void noise_put(struct buf *data, size_t len, uint32_t seed)
{
    assert_true(len < data->len);
    for (size_t i = data->len - len; i < data->len; i++) {
        seed = seed * 1664525 + 1013904223;
        data->data[i] = (uint8_t)(seed >> 24);
    }
}

/* The last `len` bytes are noise: another one for each `seed`. */
static void
step_scramble(struct snapshot *out, const char *series, unsigned step, size_t len, uint32_t seed)
{
    step_edit(out, series, step, noise_put, len, seed);
}

/* Every tensor that begins in the last `len` bytes is zeros. */
static void zeros_put(struct buf *data, size_t len, uint32_t seed)
{
    AUTO_SAFETENSORS(table);

    (void)seed;
    assert_int_equal(safetensors_decode(&table, buf_bytes(data), data->len), 0);
    for (size_t i = 0; i < table.count; i++) {
        const struct tensor *tensor = &table.tensors[i];
        uint64_t begin = table.header_bytes + tensor->begin;
        if (begin >= data->len - len)
            memset(data->data + begin, 0, (size_t)tensor_bytes(tensor));
    }
}

static void assert_loads(const struct commit_id *id, const struct snapshot *expected)
{
    AUTO_SNAPSHOT(loaded);

    if (store_load(&loaded, store, id) < 0)
        fail_msg("%s", error_message());
    assert_snapshots_equal(&loaded, expected);
}

static git_oid vectors_of(const struct commit_id *id)
{
    git_oid vectors;
    bool found = false;

    assert_int_equal(version_entry(&found, &vectors, store, id, "vectors"), 0);
    assert_true(found);
    return vectors;
}

/* The depths of the parts of a version with this snapshot. */
static void assert_depths(
    const struct commit_id *id,
    const struct snapshot *snapshot,
    const unsigned *depths,
    size_t count
)
{
    AUTO_LOADED_ADAPTER(loaded);
    AUTO_CHAIN(chain);
    git_oid vectors = vectors_of(id);

    assert_int_equal(adapter_load(&loaded, snapshot), 0);
    assert_int_equal(chain_open(&chain, store, &vectors, &loaded.adapter.layout), 0);
    assert_int_equal(chain_parts(chain)->count, count);
    for (size_t i = 0; i < count; i++) {
        AUTO_PART(part);
        assert_int_equal(chain_read(&part, chain, i, LIMIT_FRAME_DEPTH), 0);
        assert_int_equal(part.depth, depths[i]);
    }
    char hex[COMMIT_HEX_SIZE], command[128], expected[16];
    commit_hex(hex, id);
    snprintf(command, sizeof(command), "git ls-tree --name-only %s:vectors | grep -c frame", hex);
    snprintf(expected, sizeof(expected), "%zu", count);
    assert_shell(command, expected);
}

/* Make the loose file of the object that git names so unreadable. */
static void damage(const char *name)
{
    AUTO_BUF(command);

    assert_int_equal(
        buf_printf(
            &command,
            "h=$(git rev-parse %s) && f=.vera/objects/$(echo $h | cut -c1-2)/$(echo $h | cut -c3-) "
            "&& chmod u+w $f && printf 'garbage' | dd of=$f bs=1 seek=2 conv=notrunc 2>/dev/null",
            name
        ),
        0
    );
    shell((char *)command.data);
    repository_reopen();
}

/* Chains */

static void test_a_series_is_differences_and_begins_anew_behind_depth_32(void **state)
{
    static struct commit_id ids[STEPS + 3];

    (void)state;
    for (unsigned i = 0; i < STEPS + 3; i++) {
        AUTO_SNAPSHOT(snapshot);
        if (i < STEPS)
            step_read(&snapshot, "minilm", i);
        else
            step_scramble(&snapshot, "minilm", STEPS - 1, 40, i);
        struct commit_result result = commit_snapshot(&snapshot);
        ids[i] = result.commit;
        assert_int_equal(result.frame.depth, i % (FRAME_DEPTH_MAX + 1));
        assert_string_equal(result.frame.codec, i % (FRAME_DEPTH_MAX + 1) ? "delta" : "planes");
        struct frame_summary frame;
        assert_int_equal(store_frame(&frame, store, &ids[i]), 0);
        assert_int_equal(frame.depth, result.frame.depth);
        assert_int_equal(frame.bytes, result.frame.bytes);
    }
    repository_reopen();
    for (unsigned i = 0; i < STEPS + 3; i++) {
        AUTO_SNAPSHOT(snapshot);
        if (i < STEPS)
            step_read(&snapshot, "minilm", i);
        else
            step_scramble(&snapshot, "minilm", STEPS - 1, 40, i);
        assert_loads(&ids[i], &snapshot);
    }
    /* A version's base is its parent's tree, and a whole frame has none. */
    shell("test $(git rev-parse HEAD:vectors/base) = $(git rev-parse HEAD^:vectors)");
    shell("test $(git rev-parse HEAD~3:vectors/base/base) = $(git rev-parse HEAD~5:vectors)");
    shell("git rev-parse -q --verify HEAD~2:vectors/frame");
    shell("! git rev-parse -q --verify HEAD~2:vectors/base");
    shell("git fsck --strict --no-dangling");
}

/* Branch `name` at a commit, and the current one. */
static void branch_switch(const char *name, const struct commit_id *at)
{
    if (at)
        assert_int_equal(store_branch_create(store, name, at), 0);
    assert_int_equal(store_switch(store, name), 0);
}

static void test_branches_share_the_chain_that_they_leave(void **state)
{
    static const struct {
        const char *branch;
        unsigned from, first;
    } branches[] = {{"early", 1, 20}, {"late", 5, 24}, {"same", 5, 27}};
    struct commit_id ids[6];

    (void)state;
    for (unsigned i = 0; i < 6; i++) {
        AUTO_SNAPSHOT(snapshot);
        step_read(&snapshot, "minilm", 14 + i);
        ids[i] = commit_snapshot(&snapshot).commit;
    }
    for (size_t b = 0; b < sizeof(branches) / sizeof(branches[0]); b++) {
        branch_switch(branches[b].branch, &ids[branches[b].from]);
        for (unsigned i = 0; i < 3; i++) {
            AUTO_SNAPSHOT(snapshot);
            step_read(&snapshot, "minilm", branches[b].first + i);
            struct commit_result result = commit_snapshot(&snapshot);
            assert_int_equal(result.frame.depth, branches[b].from + i + 1);
            assert_loads(&result.commit, &snapshot);
        }
    }
    shell("test $(git rev-parse early~2:vectors/base) = $(git rev-parse main~4:vectors)");
    shell("test $(git rev-parse late~2:vectors/base) = $(git rev-parse main:vectors)");
    shell("test $(git rev-parse same~2:vectors/base) = $(git rev-parse main:vectors)");
}

static void test_a_clone_of_depth_1_restores_each_branch(void **state)
{
    static const char *const branches[] = {"main", "side"};
    struct commit_id ids[4];
    struct commit_id tips[2];

    (void)state;
    for (unsigned i = 0; i < 4; i++) {
        AUTO_SNAPSHOT(snapshot);
        step_read(&snapshot, "llama", 3 + i);
        ids[i] = commit_snapshot(&snapshot).commit;
    }
    branch_switch("side", &ids[2]);
    tips[0] = ids[3];
    tips[1] = commit_adapter("llama/step-090");
    for (size_t b = 0; b < 2; b++) {
        AUTO_STORE(cloned);
        AUTO_SNAPSHOT(snapshot);
        AUTO_SNAPSHOT(loaded);
        AUTO_BUF(command);
        AUTO_BUF(dir);
        struct frame_summary frame;
        step_read(&snapshot, "llama", b ? 9 : 6);
        assert_int_equal(
            buf_printf(
                &command,
                "unset GIT_DIR; git clone -q --bare --depth 1 --branch %s file://$PWD/.vera "
                "%s/.vera"
                " && git --git-dir=%s/.vera fsck --strict && test -e %s/.vera/shallow",
                branches[b], branches[b], branches[b], branches[b]
            ),
            0
        );
        shell((char *)command.data);
        assert_int_equal(buf_printf(&dir, "%s/%s", scratch, branches[b]), 0);
        assert_int_equal(store_open(&cloned, (char *)dir.data, NULL), 0);
        assert_int_equal(store_load(&loaded, cloned, &tips[b]), 0);
        assert_snapshots_equal(&loaded, &snapshot);
        assert_int_equal(store_frame(&frame, cloned, &tips[b]), 0);
        assert_int_equal(frame.depth, 3);
    }
}

static void test_an_equal_payload_is_the_parents_tree(void **state)
{
    AUTO_SNAPSHOT(first);
    AUTO_SNAPSHOT(second);
    AUTO_SNAPSHOT(third);

    (void)state;
    step_read(&first, "minilm", 3);
    step_read(&second, "minilm", 4);
    snapshot_vary(&third, "minilm/step-040", "evaluated");
    commit_snapshot(&first);
    struct commit_result difference = commit_snapshot(&second);
    struct commit_result same = commit_snapshot(&third);
    assert_int_equal(same.frame.depth, 1);
    assert_int_equal(same.frame.bytes, difference.frame.bytes);
    assert_true(same.stored_bytes < 1000);
    shell("test $(git rev-parse HEAD:vectors) = $(git rev-parse HEAD^:vectors)");
    assert_loads(&same.commit, &third);
    /* A successor is a difference from it, not from its parent. */
    AUTO_SNAPSHOT(fourth);
    step_read(&fourth, "minilm", 5);
    assert_int_equal(commit_snapshot(&fourth).frame.depth, 2);
}

/* Wherever it is: a branch that left before, after the index was made anew, with the chain packed.
 */
static void test_an_equal_payload_of_another_branch_costs_a_kilobyte(void **state)
{
    struct commit_id ids[4];

    (void)state;
    for (unsigned i = 0; i < 4; i++) {
        AUTO_SNAPSHOT(snapshot);
        step_read(&snapshot, "minilm", 4 + i);
        ids[i] = commit_snapshot(&snapshot).commit;
    }
    shell("git repack -q -a -d");
    repository_reopen();
    branch_switch("side", &ids[0]);
    for (unsigned i = 2; i < 4; i++) {
        AUTO_SNAPSHOT(snapshot);
        step_read(&snapshot, "minilm", 4 + i);
        struct commit_result result = commit_snapshot(&snapshot);
        assert_in_range(result.stored_bytes, 1, 999);
        assert_int_equal(result.frame.depth, i);
        assert_loads(&result.commit, &snapshot);
    }
    shell("test $(git rev-parse main:vectors) = $(git rev-parse side:vectors)");
    shell("test $(git rev-parse main^:vectors) = $(git rev-parse side^:vectors)");
    /* Without its index a repository is larger, not wrong. */
    shell("rm -f .vera/index.sqlite*");
    repository_reopen();
    branch_switch("late", &ids[0]);
    AUTO_SNAPSHOT(snapshot);
    step_read(&snapshot, "minilm", 6);
    struct commit_id id = commit_snapshot(&snapshot).commit;
    assert_loads(&id, &snapshot);
}

/* The index may say anything: what it finds is decoded and compared. */
static void test_an_index_that_errs_costs_nothing_but_bytes(void **state)
{
    AUTO_SNAPSHOT(wanted);
    struct commit_id ids[3];

    (void)state;
    for (unsigned i = 0; i < 3; i++) {
        AUTO_SNAPSHOT(snapshot);
        step_read(&snapshot, "llama", 3 + i);
        ids[i] = commit_snapshot(&snapshot).commit;
    }
    damage("HEAD:vectors/frame");
    branch_switch("side", &ids[0]);
    step_read(&wanted, "llama", 5);
    struct commit_result result = commit_snapshot(&wanted);
    assert_int_equal(result.frame.depth, 1);
    assert_loads(&result.commit, &wanted);
}

/* Nor is a recipe believed: this parent's names the payload that comes next, its frames hold the
   one before. */
static void test_a_parent_that_only_says_it_has_the_payload_is_not_taken(void **state)
{
    AUTO_SNAPSHOT(wanted);

    (void)state;
    commit_adapter("llama/step-030");
    commit_adapter("llama/step-040");
    shell("t=$( { git ls-tree HEAD | grep -v 'vectors$'; git ls-tree HEAD^ | grep 'vectors$'; } | "
          "git mktree ) && git update-ref HEAD $(git commit-tree -p HEAD^ -m forged $t)");
    repository_reopen();
    shell("rm -f .vera/index.sqlite*");
    step_read(&wanted, "llama", 4);
    struct commit_result result = commit_snapshot(&wanted);
    assert_int_equal(result.frame.depth, 1);
    assert_loads(&result.commit, &wanted);
}

static void test_equal_and_constant_tensors_cost_two_kilobytes(void **state)
{
    AUTO_SNAPSHOT(first);
    AUTO_SNAPSHOT(second);

    (void)state;
    step_read(&first, "minilm", 20);
    commit_snapshot(&first);
    step_edit(&second, "minilm", 20, zeros_put, 80000, 0);
    struct commit_result result = commit_snapshot(&second);
    assert_int_equal(result.frame.depth, 1);
    assert_in_range(result.stored_bytes, 1, 1999);
    assert_loads(&result.commit, &second);
}

/* Another shape makes another layout: no difference can be taken. */
static void test_another_layout_begins_a_chain(void **state)
{
    (void)state;
    commit_adapter("llama/step-010");
    AUTO_SNAPSHOT(other);
    step_read(&other, "gpt2", 2);
    struct commit_result result = commit_snapshot(&other);
    assert_int_equal(result.frame.depth, 0);
    assert_loads(&result.commit, &other);
}

/* Parts */

/* Noise in the last 30,000 bytes: of four parts the last one is no difference then, the others
   are; part by part the chain goes on. */
static void test_parts_are_whole_or_differences_each_for_itself(void **state)
{
    static const struct {
        size_t noise;
        unsigned depths[4];
    } rounds[] = {
        {0, {0, 0, 0, 0}},     {0, {1, 1, 1, 1}},     {4000, {2, 2, 2, 0}}, {0, {3, 3, 3, 0}},
        {80000, {4, 0, 0, 0}}, {80000, {5, 0, 0, 0}}, {0, {6, 0, 0, 0}},    {0, {7, 1, 1, 1}},
    };
    const size_t count = sizeof(rounds) / sizeof(rounds[0]);
    struct commit_id ids[8];

    (void)state;
    store->part_bytes = 40000;
    for (unsigned again = 0; again < 2; again++) {
        for (unsigned i = 0; i < count; i++) {
            AUTO_SNAPSHOT(snapshot);
            step_scramble(&snapshot, "minilm", i + 5, rounds[i].noise, i);
            if (!again)
                ids[i] = commit_snapshot(&snapshot).commit;
            assert_loads(&ids[i], &snapshot);
            assert_depths(&ids[i], &snapshot, rounds[i].depths, 4);
        }
        repository_reopen();
        store->part_bytes = 40000;
    }
    shell("git fsck --strict --no-dangling");
}

/* The classifier with 5 Mi values: zeros, and a few that tell the versions apart. */
static void weights_put(struct buf *data, size_t len, uint32_t seed)
{
    AUTO_SAFETENSORS(table);
    AUTO_BUF(file);
    uint64_t shape[2], at = 0;

    assert_int_equal(safetensors_decode(&table, buf_bytes(data), data->len), 0);
    for (size_t i = 0; i < table.count; i++) {
        struct tensor *tensor = &table.tensors[i];
        uint64_t bytes = tensor_bytes(tensor);
        if (strcmp(tensor->name, "base_model.model.classifier.weight") == 0) {
            shape[0] = len / 4 / tensor->shape[1];
            shape[1] = tensor->shape[1];
            tensor->shape = shape;
            bytes = shape[0] * shape[1] * 4;
        }
        tensor->begin = at;
        tensor->end = at += bytes;
    }
    assert_int_equal(safetensors_encode(&file, table.tensors, table.count), 0);
    size_t header = file.len;
    assert_int_equal(buf_resize(&file, header + at), 0);
    for (size_t i = 0; i < 10; i++)
        file.data[header + at / 10 * i] = (uint8_t)(seed + i);
    buf_release(data);
    *data = buf_take(&file);
}

/* V11: a chain holds 96 MiB of payloads, here four. Real parts, several at once. */
static void test_the_chain_of_a_large_payload_is_short(void **state)
{
    static const unsigned depths[] = {0, 1, 2, 3, 0, 1};

    (void)state;
    for (unsigned i = 0; i < 6; i++) {
        AUTO_SNAPSHOT(snapshot);
        step_edit(&snapshot, "minilm", 20, weights_put, 22 * MIB, i);
        struct commit_result result = commit_snapshot(&snapshot);
        assert_int_equal(result.frame.depth, depths[i]);
        if (i == 3)
            assert_loads(&result.commit, &snapshot);
    }
    shell("git fsck --strict --no-dangling");
}

static void test_parts_may_be_of_any_size(void **state)
{
    static const uint64_t sizes[] = {8, 100, 1000, 6655, 6656};

    (void)state;
    for (size_t k = 0; k < sizeof(sizes) / sizeof(sizes[0]); k++) {
        repository_remove(NULL);
        repository_make(NULL);
        store->part_bytes = sizes[k];
        for (unsigned i = 0; i < 3; i++) {
            AUTO_SNAPSHOT(snapshot);
            step_read(&snapshot, "llama", i + 1);
            struct commit_id id = commit_snapshot(&snapshot).commit;
            assert_loads(&id, &snapshot);
        }
    }
}

/* Damage */

static void test_damage_behind_a_version_does_not_stop_the_next(void **state)
{
    static const struct {
        const char *name;
        unsigned depth; /* of the next one's frame */
    } table[] = {
        {"HEAD:vectors/frame", 0}, {"HEAD~1:vectors/frame", 0}, {"HEAD~2:vectors/frame", 0},
        {"HEAD:vectors", 0},       {"HEAD~1:vectors", 0},       {"HEAD~2:vectors", 0},
        {"HEAD^{tree}", 0},        {"HEAD:layout", 3}, /* mended, since the next one has it too */
    };

    (void)state;
    for (size_t i = 0; i < sizeof(table) / sizeof(table[0]); i++) {
        AUTO_SNAPSHOT(next);
        repository_remove(NULL);
        repository_make(NULL);
        for (unsigned k = 0; k < 3; k++) {
            AUTO_SNAPSHOT(snapshot);
            step_read(&snapshot, "llama", 2 + k);
            commit_snapshot(&snapshot);
        }
        damage(table[i].name);
        struct commit_id before = tip();
        AUTO_SNAPSHOT(loaded);
        assert_int_equal(store_load(&loaded, store, &before), E_CORRUPT);
        step_read(&next, "llama", 5);
        struct commit_result result = commit_snapshot(&next);
        assert_int_equal(result.frame.depth, table[i].depth);
        repository_reopen();
        assert_loads(&result.commit, &next);
    }
}

/* Forgeries: trees of vectors/ by hand, of payloads of one layout */

#define LINKS 4

struct forging {
    struct snapshot snapshots[LINKS];
    struct loaded_adapter loaded;
    struct buf frames[LINKS]; /* of depth 0, 1, 2, 3 */
    git_oid trees[LINKS];
};

static void forging_release(struct forging *forging)
{
    loaded_adapter_release(&forging->loaded);
    for (size_t i = 0; i < LINKS; i++) {
        snapshot_release(&forging->snapshots[i]);
        buf_release(&forging->frames[i]);
    }
}

#define AUTO_FORGING(name) __attribute__((cleanup(forging_release))) struct forging name = {0}

static git_oid tree_make(const struct bytes *frames, size_t count, const git_oid *base)
{
    AUTO_BUF(tree);

    if (base) {
        assert_int_equal(buf_append(&tree, "40000 base", 11), 0);
        assert_int_equal(buf_append(&tree, base->id, sizeof(base->id)), 0);
    }
    for (size_t i = 0; i < count; i++) {
        char name[FRAME_NAME_SIZE];
        git_oid id = object_put_text(GIT_OBJECT_BLOB, frames[i]);
        frame_name(name, i);
        assert_int_equal(buf_printf(&tree, "100644 %s", name), 0);
        assert_int_equal(buf_append_byte(&tree, 0), 0);
        assert_int_equal(buf_append(&tree, id.id, sizeof(id.id)), 0);
    }
    return object_put_text(GIT_OBJECT_TREE, buf_bytes(&tree));
}

/* A real chain to begin with. */
static void forging_begin(struct forging *forging)
{
    for (unsigned i = 0; i < LINKS; i++) {
        step_read(&forging->snapshots[i], "llama", 3 + i);
        struct commit_result result = commit_snapshot(&forging->snapshots[i]);
        assert_int_equal(result.frame.depth, i);
        git_oid blob;
        bool found = false;
        assert_int_equal(version_entry(&found, &blob, store, &result.commit, "vectors/frame"), 0);
        assert_int_equal(
            object_read(&forging->frames[i], store, &blob, GIT_OBJECT_BLOB, MIB, "frame"), 0
        );
        forging->trees[i] = vectors_of(&result.commit);
    }
    assert_int_equal(adapter_load(&forging->loaded, &forging->snapshots[0]), 0);
}

/* Read a tree that is forged; memory stays within two payloads and their frames. */
static int forged_read(const struct forging *forging, const git_oid *tree)
{
    AUTO_CHAIN(chain);
    AUTO_BUF(payload);

    fault_largest = 0;
    int err = chain_open(&chain, store, tree, &forging->loaded.adapter.layout);
    if (err == 0)
        err = payload_read(&payload, chain);
    assert_true(fault_largest <= 2 * forging->snapshots[0].payload.len);
    assert_int_equal(payload.data == NULL, err < 0);
    return err;
}

static void assert_forged(const struct forging *forging, git_oid tree, int err, const char *message)
{
    int code = forged_read(forging, &tree);

    if (code != err)
        fail_msg("%s: %d %s", message, code, code ? error_message() : "");
    assert_message(message);
}

/* The newest frame with one byte of its header changed, on the chain's third tree. */
static git_oid header_forge(const struct forging *forging, size_t offset, uint8_t value)
{
    AUTO_BUF(frame);
    const struct buf *newest = &forging->frames[LINKS - 1];

    assert_int_equal(buf_append(&frame, newest->data, newest->len), 0);
    frame.data[offset] = value;
    struct bytes bytes = buf_bytes(&frame);
    return tree_make(&bytes, 1, &forging->trees[LINKS - 2]);
}

static void test_a_forged_header_is_refused(void **state)
{
    static const struct {
        size_t offset;
        uint8_t value;
        int err;
        const char *message;
    } table[] = {
        {0, 'X', E_CORRUPT, "header"},
        {4, 2, E_UNSUPPORTED, "version 2"},
        {5, 0, E_CORRUPT, "depth 3"},
        {5, 1, E_CORRUPT, "depth 3"},
        {5, 9, E_UNSUPPORTED, "codec 9"},
        {6, 0, E_CORRUPT, "depth 0"},
        {6, 1, E_CORRUPT, "another payload"},
        {6, 2, E_CORRUPT, "another payload"},
        {6, 4, E_CORRUPT, "'base' is missing"},
        {6, 33, E_CORRUPT, "'base' is missing"},
        {6, 64, E_CORRUPT, "'base' is missing"},
        {6, 65, E_LIMIT, "depth 65"},
        {6, 255, E_LIMIT, "depth 255"},
        {7, 0, E_CORRUPT, "0 bases"},
        {7, 3, E_CORRUPT, "3 bases"},
        {7, 255, E_CORRUPT, "255 bases"},
        {8, 1, E_CORRUPT, "does not fit the layout"},
        {11, 0x7f, E_CORRUPT, "does not fit the layout"},
        {12, 1, E_LIMIT, "payload of"},
        {15, 0xff, E_LIMIT, "payload of"},
        {16, 0, E_CORRUPT, "payload"},
        {48, 0, E_CORRUPT, "another payload"},
        {80, 0, E_CORRUPT, "another second payload"},
    };
    AUTO_FORGING(forging);

    (void)state;
    forging_begin(&forging);
    assert_int_equal(forging.frames[LINKS - 1].data[7], 2);
    assert_int_equal(forged_read(&forging, &forging.trees[LINKS - 1]), 0);
    for (size_t i = 0; i < sizeof(table) / sizeof(table[0]); i++) {
        git_oid tree = header_forge(&forging, table[i].offset, table[i].value);
        assert_forged(&forging, tree, table[i].err, table[i].message);
    }
}

/* A tree of this one frame. */
static git_oid link_make(const struct buf *frame, const git_oid *base)
{
    struct bytes bytes = buf_bytes(frame);

    return tree_make(&bytes, 1, base);
}

static void test_a_forged_base_is_refused(void **state)
{
    AUTO_FORGING(forging);
    const struct buf *frames = forging.frames;
    const git_oid *trees = forging.trees, nothing = {{1, 2, 3}};

    (void)state;
    forging_begin(&forging);
    struct bytes two[2] = {buf_bytes(&frames[0]), buf_bytes(&frames[0])};
    const git_oid empty = tree_make(NULL, 0, NULL), parts = tree_make(two, 2, NULL);
    const git_oid twice = link_make(&frames[1], &trees[1]);
    const git_oid skipped = link_make(&frames[2], &trees[0]);
    const git_oid whole = link_make(&frames[0], &trees[2]);
    const struct {
        git_oid tree;
        int err;
        const char *message;
    } table[] = {
        {trees[3], 0, ""},
        {link_make(&frames[3], NULL), E_CORRUPT, "'base' is missing"},
        {link_make(&frames[0], &trees[0]), E_CORRUPT, "'base' does not belong there"},
        {link_make(&frames[0], &nothing), E_CORRUPT, "'base' does not belong there"},
        {link_make(&frames[3], &nothing), E_CORRUPT, "is missing"},
        {link_make(&frames[3], &empty), E_CORRUPT, "'frame' is missing"},
        {link_make(&frames[3], &parts), E_CORRUPT, "'frame.1' does not belong there"},
        {tree_make(two, 2, NULL), E_CORRUPT, "'frame.1' does not belong there"},
        /* A chain that is too short or too long, or whole where a difference should be. */
        {link_make(&frames[3], &trees[0]), E_CORRUPT, "'base' is missing"},
        {link_make(&frames[3], &trees[1]), E_CORRUPT, "'base' is missing"},
        {link_make(&frames[3], &trees[3]), E_CORRUPT, "another payload"},
        {link_make(&frames[3], &whole), E_CORRUPT, "another"},
        /* Differences from something else. */
        {link_make(&frames[3], &skipped), E_CORRUPT, "'base' is missing"},
        {link_make(&frames[3], &twice), E_CORRUPT, "another"},
        {link_make(&frames[1], &trees[2]), E_CORRUPT, "another payload"},
    };
    for (size_t i = 0; i < sizeof(table) / sizeof(table[0]); i++)
        assert_forged(&forging, table[i].tree, table[i].err, table[i].message);
}

/* Frames of made-up depth: what the payloads are is not asked before the last one. */
static void test_chains_are_read_to_depth_64(void **state)
{
    AUTO_FORGING(forging);
    AUTO_FREE(struct frame_vector, vectors);
    git_oid tree = {{0}};
    size_t count = 0;

    (void)state;
    forging_begin(&forging);
    assert_int_equal(frame_vectors(&vectors, &count, &forging.loaded.adapter.layout), 0);
    for (unsigned depth = 0; depth <= LIMIT_FRAME_DEPTH + 1; depth++) {
        AUTO_BUF(frame);
        const struct snapshot *now = &forging.snapshots[depth % LINKS];
        const struct snapshot *before = &forging.snapshots[(depth + LINKS - 1) % LINKS];
        struct frame_bases bases = {.x1 = buf_bytes(&before->payload)};
        struct digest digest;
        assert_int_equal(digest_of(&bases.digest1, bases.x1), 0);
        assert_int_equal(digest_of(&digest, buf_bytes(&now->payload)), 0);
        assert_int_equal(
            frame_encode(
                &frame, buf_bytes(&now->payload), &digest, vectors, count, depth ? &bases : NULL
            ),
            0
        );
        assert_int_equal(frame.data[6], depth > 0);
        frame.data[6] = (uint8_t)depth;
        git_oid next = link_make(&frame, depth ? &tree : NULL);
        tree = next;
        if (depth > LIMIT_FRAME_DEPTH)
            assert_forged(&forging, tree, E_LIMIT, "depth 65");
        else if (depth % 8 == 0)
            assert_int_equal(forged_read(&forging, &tree), 0);
    }
}

/* More bytes than a frame of this payload can have are not read, in whichever link they are. */
static void test_a_frame_above_its_payload_is_refused_unread(void **state)
{
    AUTO_FORGING(forging);
    AUTO_BUF(bomb);
    git_oid tree;

    (void)state;
    forging_begin(&forging);
    assert_int_equal(buf_append(&bomb, forging.frames[0].data, forging.frames[0].len), 0);
    assert_int_equal(buf_resize(&bomb, 64 * MIB), 0);
    tree = link_make(&bomb, NULL);
    assert_forged(&forging, tree, E_LIMIT, "(frame) has 67108864 bytes");
    for (size_t i = 1; i < LINKS; i++)
        tree = link_make(&forging.frames[i], &tree);
    assert_forged(&forging, tree, E_LIMIT, "(frame) has 67108864 bytes");
}

/* Whatever fails, the old version is there, and what was to be written is not half there. */

static int commit_try(const struct snapshot *snapshot)
{
    struct commit_request request = {.snapshot = snapshot};
    struct commit_result result = {0};

    int err = store_commit(&result, store, &request);
    free(result.branch);
    return err;
}

static void interrupt_now(void)
{
    interrupt_flag = 1;
}

/* Whether the fault of the last round came. */
static bool fault_fired(void)
{
    bool fired = fault_after < 0;

    fault_after = -1;
    interrupt_flag = 0;
    return fired;
}

static void reads_fault(const struct forging *forging, int expected)
{
    bool fired = true;

    for (int n = 0; fired; n++) {
        fault_after = n;
        int err = forged_read(forging, &forging->trees[LINKS - 1]);
        fired = fault_fired();
        assert_int_equal(err, fired ? expected : 0);
        assert_true(fired || n > 20);
    }
}

/* What only the index wants may fail: then it is done without. */
static void commits_fault(int expected)
{
    struct commit_id before = tip();
    unsigned failed = 0;
    bool fired = true;

    for (int n = 0; fired; n++) {
        AUTO_SNAPSHOT(snapshot);
        step_scramble(&snapshot, "minilm", 20, 400, (uint32_t)n);
        fault_after = n;
        int err = commit_try(&snapshot);
        fired = fault_fired();
        failed += err == expected;
        if (err != 0) {
            assert_int_equal(err, expected);
            assert_commit(tip(), before);
            continue;
        }
        struct commit_id after = tip();
        assert_loads(&after, &snapshot);
        branch_put("main", &before);
    }
    assert_true(failed > 100);
}

/* Read and commit, with the n-th allocation failing, or a Ctrl-C at its moment; two parts, one
   after the other. */
static void faults_try(int expected)
{
    AUTO_FORGING(forging);
    cpu_set_t all, one;

    assert_int_equal(sched_getaffinity(0, sizeof(all), &all), 0);
    CPU_ZERO(&one);
    for (size_t cpu = 0; !CPU_COUNT(&one); cpu++) {
        if (CPU_ISSET(cpu, &all))
            CPU_SET(cpu, &one);
    }
    assert_int_equal(sched_setaffinity(0, sizeof(one), &one), 0);
    store->part_bytes = 5000;
    forging_begin(&forging);
    reads_fault(&forging, expected);
    store->part_bytes = 70000;
    commit_adapter("minilm/step-180");
    commit_adapter("minilm/step-190");
    commits_fault(expected);
    shell("git fsck --strict --no-dangling");
    assert_int_equal(sched_setaffinity(0, sizeof(all), &all), 0);
}

static void test_every_allocation_that_fails_is_out_of_memory(void **state)
{
    (void)state;
    faults_try(E_NOMEM);
}

static void test_an_interrupt_at_any_moment_ends_it(void **state)
{
    (void)state;
    fault_instead = interrupt_now;
    faults_try(E_INTERRUPTED);
    fault_instead = NULL;
}

int main(void)
{
    const struct CMUnitTest tests[] = {
#define TEST(name) cmocka_unit_test_setup_teardown(test_##name, repository_make, repository_remove)
        TEST(a_series_is_differences_and_begins_anew_behind_depth_32),
        TEST(branches_share_the_chain_that_they_leave),
        TEST(a_clone_of_depth_1_restores_each_branch),
        TEST(an_equal_payload_is_the_parents_tree),
        TEST(an_equal_payload_of_another_branch_costs_a_kilobyte),
        TEST(an_index_that_errs_costs_nothing_but_bytes),
        TEST(a_parent_that_only_says_it_has_the_payload_is_not_taken),
        TEST(equal_and_constant_tensors_cost_two_kilobytes),
        TEST(another_layout_begins_a_chain),
        TEST(parts_are_whole_or_differences_each_for_itself),
        TEST(parts_may_be_of_any_size),
        TEST(the_chain_of_a_large_payload_is_short),
        TEST(damage_behind_a_version_does_not_stop_the_next),
        TEST(a_forged_header_is_refused),
        TEST(a_forged_base_is_refused),
        TEST(chains_are_read_to_depth_64),
        TEST(a_frame_above_its_payload_is_refused_unread),
        TEST(every_allocation_that_fails_is_out_of_memory),
        TEST(an_interrupt_at_any_moment_ends_it),
    };

    return cmocka_run_group_tests(tests, template_make, template_remove);
}
