/* Tests of store_commit() and store_load(), on every adapter of tests/fixtures, with git as the
   second opinion (docs/format.md, V1-V4, G5, G8; promises P1, P3, P4, P5). */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "tests/repository.h"

/* An adapter directory of the fixtures, as a snapshot. */
static void snapshot_read(struct snapshot *out, const char *dir)
{
    AUTO_ADAPTER_FILES(files);
    AUTO_BUF(path);

    assert_int_equal(buf_printf(&path, "%s/adapter/%s", FIXTURES, dir), 0);
    assert_int_equal(adapter_files_read(&files, (char *)path.data, true, NULL), 0);
    assert_int_equal(snapshot_encode(out, &files, NULL), 0);
}

static void assert_snapshots_equal(const struct snapshot *a, const struct snapshot *b)
{
    const struct buf *of_a[] = {&a->manifest, &a->config, &a->layout, &a->recipe,      &a->payload,
                                &a->a,        &a->b,      &a->pin,    &a->model_config};
    const struct buf *of_b[] = {&b->manifest, &b->config, &b->layout, &b->recipe,      &b->payload,
                                &b->a,        &b->b,      &b->pin,    &b->model_config};

    for (size_t i = 0; i < sizeof(of_a) / sizeof(of_a[0]); i++)
        assert_true(bytes_equal(buf_bytes(of_a[i]), buf_bytes(of_b[i])));
    assert_true(digest_equal(&a->id, &b->id));
    assert_int_equal(a->file_count, b->file_count);
    for (size_t i = 0; i < a->file_count; i++) {
        assert_string_equal(a->files[i].path, b->files[i].path);
        assert_true(bytes_equal(buf_bytes(&a->files[i].data), buf_bytes(&b->files[i].data)));
    }
}

static struct commit_id commit(const struct snapshot *snapshot)
{
    struct commit_request request = {.snapshot = snapshot, .allow_empty = true};
    struct commit_result result = {0};

    int err = store_commit(&result, store, &request);
    if (err < 0)
        fail_msg("%s", error_message());
    free(result.branch);
    return result.commit;
}

/* Call `visit` for every adapter of the fixtures: its path below adapter/. */
static size_t adapters_visit(void (*visit)(const char *dir))
{
    AUTO_BUF(list);
    size_t count = 0;

    assert_int_equal(
        shell_status(
            &list,
            "cd " FIXTURES "/adapter && find . -name adapter_config.json -printf '%h\\n' | sort"
        ),
        0
    );
    for (char *at = (char *)list.data, *end; *at; at = end, count++) {
        end = at + strcspn(at, "\n");
        if (*end)
            *end++ = '\0';
        visit(at + 2);
    }
    return count;
}

static void commit_and_load(const char *dir)
{
    AUTO_SNAPSHOT(snapshot);
    AUTO_SNAPSHOT(loaded);

    snapshot_read(&snapshot, dir);
    struct commit_id id = commit(&snapshot);
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

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(
            test_every_adapter_comes_back, repository_make, repository_remove
        ),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
