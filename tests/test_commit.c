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

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(
            test_every_adapter_comes_back, repository_make, repository_remove
        ),
    };

    return cmocka_run_group_tests(tests, template_make, template_remove);
}
