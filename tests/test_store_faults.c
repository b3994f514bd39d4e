/* What reads a repository fails with NOMEM at whichever allocation memory ends, leaves nothing
   behind, and works when there is memory again. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "tests/fault.h"
#include "tests/versions.h"

static int faults_setup(void **state)
{
    struct commit_id at;

    if (repository_make(state) != 0)
        return 1;
    at = commit_adapter("llama/step-000");
    commit_adapter("llama/step-010");
    if (store_branch_create(store, "gone", &at) != 0 ||
        store_branch_delete(&at, store, "gone") != 0 ||
        store_tag_create(store, "told", &at, "a message") != 0)
        return 1;
    shell("git update-ref refs/remotes/origin/far main && git remote add origin /nowhere && "
          "git branch -q --set-upstream-to=origin/far main");
    return 0;
}

static int list_refs(void)
{
    int err = 0;

    for (enum ref_kind kind = REF_BRANCH; err == 0 && kind <= REF_DELETED; kind++) {
        AUTO_REFS(refs);
        err = store_refs(&refs, store, kind);
        assert_int_equal(refs.count, err == 0 ? 1 : 0);
    }
    return err;
}

static int find_head(void)
{
    AUTO_FREE(char, branch);
    struct commit_id tip;
    bool has_tip;

    return store_head(&branch, &tip, &has_tip, store);
}

static int walk_history(void)
{
    AUTO_HISTORY(history);
    int err = store_history(&history, store, NULL, 0, 0);

    assert_int_equal(history.count, err == 0 ? 2 : 0);
    return err;
}

static int resolve(const char *revision)
{
    struct commit_id found;

    return store_resolve(&found, store, revision);
}

static int resolve_steps(void)
{
    return resolve("told^0~0");
}

static int resolve_position(void)
{
    return resolve("main@{1}");
}

static int resolve_trash(void)
{
    return resolve("trash/gone");
}

static int resolve_snapshot(void)
{
    return resolve("sha256:2e6aef0a7578");
}

static int resolve_nothing(void)
{
    int err = resolve("mian");

    return err == E_NOTFOUND ? 0 : err;
}

static int measure(void)
{
    struct store_stats stats = {0};
    int err = store_stats(&stats, store);

    assert_int_equal(stats.versions, err == 0 ? 2 : 0);
    store_stats_release(&stats);
    return err;
}

static int list_bases(void)
{
    struct store_bases bases = {0};
    int err = store_bases(&bases, store);

    assert_int_equal(bases.count, err == 0 ? 1 : 0);
    store_bases_release(&bases);
    return err;
}

static int check_all(void)
{
    struct fsck_report report = {0};
    int err = store_fsck(&report, store, NULL);

    /* Memory that is short is never taken for damage. */
    assert_int_equal(report.bad_count, 0);
    assert_int_equal(report.versions, err == 0 ? 2 : 0);
    fsck_report_release(&report);
    return err;
}

static int find_base(void)
{
    struct merge_base base;
    struct commit_id at[2];
    int err;

    if ((err = store_resolve(&at[0], store, "told")) < 0 ||
        (err = store_resolve(&at[1], store, "HEAD")) < 0)
        return err;
    return store_merge_base(&base, store, &at[0], &at[1]);
}

static void test_every_allocation_that_fails_is_out_of_memory(void **state)
{
    static int (*const operations[])(void) = {
        list_refs,        find_head,     walk_history,     resolve_steps,
        resolve_position, resolve_trash, resolve_snapshot, resolve_nothing,
        measure,          list_bases,    check_all,        find_base,
    };

    (void)state;
    for (size_t i = 0; i < sizeof(operations) / sizeof(operations[0]); i++) {
        int err, faults = 0;
        do {
            fault_after = faults++;
            err = operations[i]();
            fault_after = -1;
            if (err != 0 && err != E_NOMEM)
                fail_msg("operation %zu, allocation %d: %s", i, faults, error_message());
        } while (err != 0);
        assert_true(faults > 1);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(
            test_every_allocation_that_fails_is_out_of_memory, faults_setup, repository_remove
        ),
    };

    return cmocka_run_group_tests(tests, template_make, template_remove);
}
