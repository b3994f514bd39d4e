/* Tests of store_commit() and store_load(), on every adapter of tests/fixtures, with git as the
   second opinion (docs/format.md, V1-V4, G5, G8; promises P1, P3, P4, P5). */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "tests/versions.h"

static void commit_and_load(const char *dir)
{
    AUTO_SNAPSHOT(snapshot);
    AUTO_SNAPSHOT(loaded);

    snapshot_read(&snapshot, dir);
    struct commit_id id = commit_snapshot(&snapshot).commit;
    repository_reopen();
    if (store_load(&loaded, store, &id) < 0)
        fail_msg("%s: %s", dir, error_message());
    assert_snapshots_equal(&snapshot, &loaded);
}

static void test_every_adapter_comes_back(void **state)
{
    (void)state;
    assert_int_equal(adapters_visit(commit_and_load), 83);
    shell("git fsck --strict --no-dangling");
    assert_shell("git rev-list --count main", "83");
}

static int commit_try(struct commit_result *out, struct commit_request request)
{
    int err = store_commit(out, store, &request);

    free(out->branch);
    out->branch = NULL;
    return err;
}

static void test_the_tip_again_is_refused_and_named(void **state)
{
    AUTO_SNAPSHOT(snapshot);
    AUTO_SNAPSHOT(other);
    struct commit_result result = {0};
    char hex[COMMIT_HEX_SIZE];

    (void)state;
    snapshot_read(&snapshot, "llama/step-000");
    snapshot_read(&other, "llama/step-010");
    struct commit_id first = commit_snapshot(&snapshot).commit;
    struct commit_request request = {.snapshot = &snapshot};
    assert_int_equal(store_commit(&result, store, &request), E_EXISTS);
    assert_commit(result.commit, first);
    assert_string_equal(result.branch, "main");
    free(result.branch);
    commit_hex(hex, &first);
    hex[12] = '\0';
    assert_message(hex);
    assert_hint("--allow-empty");
    assert_commit(tip(), first);
    /* Not the tip's any more: it may be committed again. */
    commit_snapshot(&other);
    assert_int_equal(commit_try(&result, request), 0);
    request.allow_empty = true;
    assert_int_equal(commit_try(&result, request), 0);
    assert_shell("git rev-list --count HEAD", "4");
}

static void test_a_new_branch_begins_at_the_current_tip(void **state)
{
    AUTO_SNAPSHOT(first);
    AUTO_SNAPSHOT(second);
    struct commit_result result = {0};

    (void)state;
    snapshot_read(&first, "llama/step-000");
    snapshot_read(&second, "llama/step-010");
    /* Before there is any commit, and not on the current branch. */
    assert_int_equal(
        commit_try(&result, (struct commit_request){.snapshot = &first, .branch = "side"}), 0
    );
    assert_shell("git rev-list --count side", "1");
    commit_snapshot(&first);
    assert_int_equal(
        commit_try(&result, (struct commit_request){.snapshot = &second, .branch = "run/1"}), 0
    );
    shell("test $(git rev-parse run/1^) = $(git rev-parse main)");
    assert_shell("git symbolic-ref HEAD", "refs/heads/main");
    assert_shell("git rev-list --count main", "1");
    /* The identical tip is HEAD's, where the branch would begin. */
    assert_int_equal(
        commit_try(&result, (struct commit_request){.snapshot = &first, .branch = "new"}), E_EXISTS
    );
}

static void test_a_branch_that_cannot_be_is_refused(void **state)
{
    static const struct {
        const char *branch;
        int err;
    } cases[] = {
        {"", E_INVALID},     {"a..b", E_INVALID},      {"-x", E_INVALID},
        {"a b", E_INVALID},  {"x.lock", E_INVALID},    {"../../config", E_INVALID},
        {"HEAD", E_INVALID}, {"main/below", E_EXISTS}, {"run", E_EXISTS},
    };
    AUTO_SNAPSHOT(snapshot);
    AUTO_SNAPSHOT(other);
    struct commit_result result = {0};

    (void)state;
    snapshot_read(&snapshot, "llama/step-000");
    snapshot_read(&other, "llama/step-010");
    commit_snapshot(&snapshot);
    assert_int_equal(
        commit_try(&result, (struct commit_request){.snapshot = &other, .branch = "run/1"}), 0
    );
    for (int packed = 0; packed < 2; packed++) {
        for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
            struct commit_request request = {
                .snapshot = &other, .branch = cases[i].branch, .allow_empty = true};
            assert_int_equal(commit_try(&result, request), cases[i].err);
            assert_message(cases[i].branch);
        }
        assert_shell("git for-each-ref --format='%(refname)'", "refs/heads/main\nrefs/heads/run/1");
        shell("git pack-refs --all && ! test -e .vera/refs/heads/main");
        repository_reopen();
    }
    shell("git checkout -q --detach 2>/dev/null || git update-ref --no-deref HEAD main");
    repository_reopen();
    assert_int_equal(commit_try(&result, (struct commit_request){.snapshot = &other}), E_INVALID);
    assert_hint("vera switch");
}

static void test_what_is_equal_is_stored_once(void **state)
{
    AUTO_SNAPSHOT(first);
    AUTO_SNAPSHOT(second);
    struct commit_result result;

    (void)state;
    /* Another README: other files, the same payload. */
    snapshot_read(&first, "llama/step-060");
    snapshot_vary(&second, "llama/step-060", "note");
    result = commit_snapshot(&first);
    assert_string_equal(result.frame.codec, "planes");
    assert_int_equal(result.frame.depth, 0);
    uint64_t bytes = result.frame.bytes;
    result = commit_snapshot(&second);
    assert_int_equal(result.frame.bytes, bytes);
    shell("test $(git rev-parse HEAD:vectors) = $(git rev-parse HEAD^:vectors)");
    shell("test $(git rev-parse HEAD:layout) = $(git rev-parse HEAD^:layout)");
    shell("test $(git rev-parse HEAD:manifest) != $(git rev-parse HEAD^:manifest)");
    /* Once more adds a commit and nothing else. */
    result = commit_snapshot(&second);
    assert_in_range(result.stored_bytes, 1, 400);
}

static void test_stored_bytes_are_those_of_the_new_files(void **state)
{
    AUTO_BUF(before);
    AUTO_BUF(after);
    static const char measure[] =
        "find .vera/objects -type f -printf '%s\\n' | awk '{s+=$1} END{print s+0}'";

    (void)state;
    for (int i = 0; i < 2; i++) {
        AUTO_SNAPSHOT(snapshot);
        before.len = after.len = 0;
        snapshot_read(&snapshot, i ? "bert/step-010" : "bert/step-000");
        assert_int_equal(shell_status(&before, measure), 0);
        struct commit_result result = commit_snapshot(&snapshot);
        assert_int_equal(shell_status(&after, measure), 0);
        assert_int_equal(
            strtoull((char *)after.data, NULL, 10) - strtoull((char *)before.data, NULL, 10),
            result.stored_bytes
        );
    }
}

/* One bit of A is wrong, so no seed gives it (P2). */
static void snapshot_spoil(struct snapshot *out, const char *dir)
{
    AUTO_ADAPTER_FILES(files);
    AUTO_SAFETENSORS(layout);

    adapter_read(&files, dir);
    for (size_t i = 0; i < files.count; i++) {
        struct buf *data = &files.files[i].data;
        if (strcmp(files.files[i].path, PEFT_MODEL) != 0)
            continue;
        assert_int_equal(safetensors_decode(&layout, buf_bytes(data), data->len), 0);
        const struct tensor *a = safetensors_find(&layout, "base_model.vera_A");
        data->data[layout.header_bytes + a->begin + 5] ^= 1;
    }
    assert_int_equal(snapshot_encode(out, &files, NULL), 0);
}

static void test_a_basis_that_no_seed_gives_is_stored_once(void **state)
{
    (void)state;
    for (int i = 0; i <= 12; i++) {
        AUTO_SNAPSHOT(snapshot);
        AUTO_SNAPSHOT(loaded);
        char dir[32];
        snprintf(dir, sizeof(dir), "llama/step-%03d", i * 10);
        snapshot_spoil(&snapshot, dir);
        assert_true(snapshot.a.len > 0);
        struct commit_id id = commit_snapshot(&snapshot).commit;
        assert_int_equal(store_load(&loaded, store, &id), 0);
        assert_snapshots_equal(&snapshot, &loaded);
    }
    assert_shell("git rev-list --count main", "13");
    assert_shell("git rev-list --objects main | grep -c ' basis/'", "2");
    assert_shell("git ls-tree --name-only HEAD basis/ | wc -c", "142");
}

static void test_a_base_model_is_recorded_and_no_identity(void **state)
{
    AUTO_ADAPTER_FILES(files);
    AUTO_SNAPSHOT(snapshot);
    AUTO_SNAPSHOT(pinned);
    AUTO_SNAPSHOT(loaded);
    AUTO_LOADED_ADAPTER(adapter);
    AUTO_BASE_FACTS(base);

    (void)state;
    adapter_read(&files, "llama/step-000");
    assert_int_equal(snapshot_encode(&snapshot, &files, NULL), 0);
    assert_int_equal(adapter_load(&adapter, &snapshot), 0);
    base.pin.count = adapter.adapter.module_count;
    base.pin.modules = array_new(base.pin.count, sizeof(*base.pin.modules));
    for (size_t i = 0; i < base.pin.count; i++)
        base.pin.modules[i] = (struct pin_module
        ){bytes_dup(text_bytes(adapter.adapter.modules[i].name)),
          DTYPE_F32,
          adapter.adapter.modules[i].out,
          64,
          {{0}}};
    assert_int_equal(buf_append_text(&base.config, "{}"), 0);
    assert_int_equal(snapshot_encode(&pinned, &files, &base), 0);
    assert_true(digest_equal(&snapshot.id, &pinned.id));
    struct commit_id id = commit_snapshot(&pinned).commit;
    assert_int_equal(store_load(&loaded, store, &id), 0);
    assert_snapshots_equal(&pinned, &loaded);
    assert_shell("git cat-file blob HEAD:model/config.json", "{}");
    assert_shell("git ls-tree --name-only HEAD:model", "config.json\npin");
}

static void test_a_large_payload_is_cut_into_parts(void **state)
{
    AUTO_SNAPSHOT(snapshot);
    AUTO_SNAPSHOT(loaded);
    struct frame_summary frame;

    (void)state;
    snapshot_read(&snapshot, "llama/step-120");
    store->part_bytes = 600;
    struct commit_result result = commit_snapshot(&snapshot);
    assert_shell("git ls-tree --name-only HEAD:vectors | wc -l", "12");
    assert_shell(
        "git ls-tree --name-only HEAD:vectors | head -n 4", "frame\nframe.1\nframe.10\nframe.11"
    );
    assert_int_equal(store_load(&loaded, store, &result.commit), 0);
    assert_snapshots_equal(&snapshot, &loaded);
    assert_int_equal(store_frame(&frame, store, &result.commit), 0);
    assert_int_equal(frame.bytes, result.frame.bytes);
    shell("git fsck --strict");
}

/* Folders whose order among files is not that of their names. */
static void test_files_in_folders_come_back(void **state)
{
    static const char *const paths[] = {"a-b.txt", "a.txt",        "a/x.txt",     "a/b/c/deep.json",
                                        "a0.txt",  "\xc3\xa4.txt", "z/README.md", "a b/c d.txt"};
    AUTO_ADAPTER_FILES(files);
    AUTO_SNAPSHOT(snapshot);
    AUTO_SNAPSHOT(loaded);

    (void)state;
    adapter_read(&files, "llama/step-000");
    for (size_t i = 0; i < sizeof(paths) / sizeof(paths[0]); i++) {
        AUTO_BUF(data);
        assert_int_equal(buf_append_text(&data, i % 3 ? paths[i] : ""), 0);
        assert_int_equal(adapter_files_add(&files, paths[i], &data), 0);
    }
    assert_int_equal(snapshot_encode(&snapshot, &files, NULL), 0);
    struct commit_id id = commit_snapshot(&snapshot).commit;
    assert_int_equal(store_load(&loaded, store, &id), 0);
    assert_snapshots_equal(&snapshot, &loaded);
    shell("git fsck --strict");
}

/* V1, P4: what git makes of the repository is enough, and so is a clone of depth 1. */
static void test_every_clone_restores_its_versions(void **state)
{
    static const char *const clones[] = {
        "git clone -q --bare --no-local .vera c/.vera",
        "git clone -q --bare --depth 1 file://$PWD/.vera c/.vera",
        "git clone -q --mirror .vera c/.vera && git --git-dir=c/.vera gc -q --prune=now",
        "cp -r .vera c/.vera && git --git-dir=c/.vera repack -q -a -d && git --git-dir=c/.vera "
        "pack-refs --all"};
    AUTO_SNAPSHOT(snapshot);

    (void)state;
    for (int i = 0; i < 4; i++) {
        char dir[32];
        snprintf(dir, sizeof(dir), "bert/step-%03d", i * 10);
        commit_adapter(dir);
    }
    snapshot_spoil(&snapshot, "llama/step-120");
    struct commit_id id = commit_snapshot(&snapshot).commit;
    shell("git fsck --strict && git log --stat >log && grep -q 'vectors/frame' log");
    for (size_t i = 0; i < sizeof(clones) / sizeof(clones[0]); i++) {
        AUTO_SNAPSHOT(loaded);
        AUTO_STORE(clone);
        shell("rm -rf c && mkdir c");
        shell(clones[i]);
        assert_int_equal(store_open(&clone, "c", NULL), 0);
        assert_int_equal(store_load(&loaded, clone, &id), 0);
        assert_snapshots_equal(&snapshot, &loaded);
        shell("git --git-dir=c/.vera fsck --strict");
        /* And goes on: git has taken the empty folders of objects/ away. */
        struct commit_result result = {0};
        struct commit_request request = {.snapshot = &snapshot, .allow_empty = true};
        assert_int_equal(store_commit(&result, clone, &request), 0);
        free(result.branch);
        shell("git --git-dir=c/.vera fsck --strict");
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
#define TEST(name) cmocka_unit_test_setup_teardown(test_##name, repository_make, repository_remove)
        TEST(every_adapter_comes_back),
        TEST(the_tip_again_is_refused_and_named),
        TEST(a_new_branch_begins_at_the_current_tip),
        TEST(a_branch_that_cannot_be_is_refused),
        TEST(what_is_equal_is_stored_once),
        TEST(stored_bytes_are_those_of_the_new_files),
        TEST(a_basis_that_no_seed_gives_is_stored_once),
        TEST(a_base_model_is_recorded_and_no_identity),
        TEST(a_large_payload_is_cut_into_parts),
        TEST(files_in_folders_come_back),
        TEST(every_clone_restores_its_versions),
    };

    return cmocka_run_group_tests(tests, template_make, template_remove);
}
