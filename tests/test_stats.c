/* Tests of store_stats() and store_bases(): sizes as git and find(1) see them, loose and packed. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "tests/versions.h"

#define AUTO_STATS(name) __attribute__((cleanup(store_stats_release))) struct store_stats name = {0}
#define AUTO_BASES(name) __attribute__((cleanup(store_bases_release))) struct store_bases name = {0}

static uint64_t raw_bytes_of(const char *dir)
{
    AUTO_ADAPTER_FILES(files);
    uint64_t bytes = 0;

    adapter_read(&files, dir);
    for (size_t i = 0; i < files.count; i++)
        bytes += files.files[i].data.len;
    return bytes;
}

static uint64_t shell_number(const char *command)
{
    AUTO_BUF(out);

    if (shell_status(&out, command) != 0)
        fail_msg("%s\n%s", command, buf_text(&out));
    return strtoull(buf_text(&out), NULL, 10);
}

/* main: three versions of llama and one of its again; side: from the second on, one of gpt2. */
static int stats_setup(void **state)
{
    AUTO_SNAPSHOT(first);
    struct commit_id second;

    if (repository_make(state) != 0)
        return 1;
    commit_adapter("llama/step-000");
    second = commit_adapter("llama/step-060");
    commit_adapter("llama/step-120");
    commit_adapter("llama/step-000");
    if (store_branch_create(store, "side", &second) != 0 || store_switch(store, "side") != 0)
        return 1;
    commit_adapter("gpt2/step-000");
    return store_switch(store, "main");
}

static void assert_files_measured(const struct store_stats *stats)
{
    assert_int_equal(
        stats->stored_bytes,
        shell_number("find .vera -type f -printf '%s\\n' | awk '{ n += $1 } END { print n }'")
    );
    /* find's %b counts half KiB, as a disk gives them. */
    assert_int_equal(
        stats->allocated_bytes,
        shell_number(
            "find .vera -mindepth 1 -printf '%b\\n' | awk '{ n += $1 } END { print n * 512 }'"
        )
    );
    const struct stats_parts *parts = &stats->parts;
    assert_int_equal(
        parts->vectors + parts->bases + parts->files + parts->trees + parts->commits +
            parts->unreached + parts->index + parts->refs + parts->other,
        stats->stored_bytes
    );
    assert_int_equal(parts->index, shell_number("cat .vera/index.sqlite* 2>/dev/null | wc -c"));
}

static void test_versions_snapshots_and_raw_bytes(void **state)
{
    AUTO_STATS(stats);

    (void)state;
    assert_int_equal(store_stats(&stats, store), 0);
    assert_int_equal(stats.versions, 5);
    assert_int_equal(stats.snapshots, 4);
    assert_int_equal(
        stats.raw_bytes, 2 * raw_bytes_of("llama/step-000") + raw_bytes_of("llama/step-060") +
                             raw_bytes_of("llama/step-120") + raw_bytes_of("gpt2/step-000")
    );
    assert_files_measured(&stats);
}

static void test_a_branch_has_what_git_reaches_from_it(void **state)
{
    static const char loose[] = "for id in $(git rev-list --objects %s | cut -c1-40); do "
                                "stat -c %%s .vera/objects/$(echo $id | sed 's,^..,&/,'); done | "
                                "awk '{ n += $1 } END { print n }'";
    static const char packed[] =
        "git rev-list --objects %s | cut -c1-40 | sort >ids && "
        "git verify-pack -v .vera/objects/pack/*.idx | grep -E '^[0-9a-f]{40} ' | sort | "
        "join - ids | awk '{ n += $4 } END { print n }'";
    static const char *const branches[] = {"main", "side"};
    static const uint64_t versions[] = {4, 3};

    (void)state;
    for (int pack = 0; pack < 2; pack++) {
        AUTO_STATS(stats);
        if (pack)
            shell("git gc -q");
        repository_reopen();
        assert_int_equal(store_stats(&stats, store), 0);
        assert_int_equal(stats.branch_count, 2);
        assert_files_measured(&stats);
        for (size_t i = 0; i < 2; i++) {
            char command[512];
            if (pack)
                snprintf(command, sizeof(command), packed, branches[i]);
            else
                snprintf(command, sizeof(command), loose, branches[i]);
            assert_string_equal(stats.branches[i].name, branches[i]);
            assert_int_equal(stats.branches[i].versions, versions[i]);
            assert_int_equal(stats.branches[i].stored_bytes, shell_number(command));
        }
    }
}

/* Bytes of all loose objects whose line of git's listing matches. */
static uint64_t loose_bytes(const char *pattern)
{
    char command[512];

    snprintf(
        command, sizeof(command),
        "for id in $(git rev-list --objects --all | git cat-file --batch-check='%%(objectname) "
        "%%(objecttype) %%(rest)' | grep -E '%s' | cut -c1-40); do stat -c %%s "
        ".vera/objects/$(echo $id | sed 's,^..,&/,'); done | awk '{ n += $1 } END { print n + 0 }'",
        pattern
    );
    return shell_number(command);
}

static void test_each_part_has_what_git_says_it_holds(void **state)
{
    AUTO_STATS(stats);
    AUTO_SNAPSHOT(stored);
    struct commit_id id;

    (void)state;
    snapshot_read_stored(&stored, "llama/step-010");
    commit_snapshot(&stored);
    assert_int_equal(store_resolve(&id, store, "main"), 0);
    assert_int_equal(store_tag_create(store, "told", &id, "an object of its own"), 0);
    object_put_text(GIT_OBJECT_BLOB, text_bytes("nobody's"));
    assert_int_equal(store_stats(&stats, store), 0);
    assert_files_measured(&stats);
    assert_int_equal(stats.parts.vectors, loose_bytes(" blob vectors/"));
    assert_int_equal(stats.parts.bases, loose_bytes(" blob basis/"));
    assert_int_equal(stats.parts.trees, loose_bytes(" tree "));
    assert_int_equal(stats.parts.commits, loose_bytes(" (commit|tag) "));
    assert_int_equal(
        stats.parts.files, loose_bytes(" blob ") - stats.parts.vectors - stats.parts.bases
    );
    assert_true(stats.parts.vectors > 0 && stats.parts.bases > 0 && stats.parts.files > 0);
    assert_true(stats.parts.unreached > 0 && stats.parts.refs > 0 && stats.parts.other > 0);
}

static void test_what_was_deleted_counts_until_it_is_dropped(void **state)
{
    AUTO_STATS(stats);
    struct commit_id was;

    (void)state;
    assert_int_equal(store_branch_delete(&was, store, "side"), 0);
    assert_int_equal(store_stats(&stats, store), 0);
    assert_int_equal(stats.versions, 5);
    assert_int_equal(stats.branch_count, 1);
}

static void test_an_empty_repository_and_commits_of_git(void **state)
{
    AUTO_STATS(empty);
    AUTO_STATS(stats);
    AUTO_BASES(none);
    struct commit_id row[3];
    git_oid tree;

    (void)state;
    shell("git update-ref -d refs/heads/main; git update-ref -d refs/heads/side");
    assert_int_equal(store_stats(&empty, store), 0);
    assert_int_equal(empty.versions, 0);
    assert_int_equal(empty.branch_count, 0);
    assert_true(empty.stored_bytes > 0);
    tree = object_put_text(GIT_OBJECT_TREE, text_bytes(""));
    row[0] = plain_commit(&tree, NULL, 0, 1700000000, "git's");
    branch_put("main", &row[0]);
    assert_int_equal(store_stats(&stats, store), 0);
    assert_int_equal(stats.versions, 1);
    assert_int_equal(stats.snapshots, 0);
    assert_int_equal(store_bases(&none, store), 0);
    assert_int_equal(none.count, 0);
}

static void test_damage_is_an_error_and_named(void **state)
{
    static const char *const damaged[] = {"main~1^{tree}", "main~1:manifest", "main~1"};
    AUTO_BUF(packs);

    (void)state;
    for (size_t i = 0; i < 3; i++) {
        AUTO_STATS(stats);
        AUTO_BUF(command);
        AUTO_BUF(id);
        assert_int_equal(buf_printf(&command, "git rev-parse '%s'", damaged[i]), 0);
        assert_int_equal(shell_status(&id, (char *)command.data), 0);
        shell("rm -rf copy && cp -r .vera copy");
        assert_int_equal(buf_printf(&command, " | sed 's,^..,.vera/objects/&/,' | xargs rm -f"), 0);
        shell((char *)command.data);
        repository_reopen();
        assert_int_equal(store_stats(&stats, store), E_CORRUPT);
        assert_message(buf_text(&id));
        assert_null(stats.branches);
        shell("rm -rf .vera && cp -r copy .vera");
    }
    shell("git gc -q && chmod u+w .vera/objects/pack/*.idx && "
          "for f in .vera/objects/pack/*.idx; do cp $f keep; head -c 1000 keep >$f; done");
    AUTO_STATS(stats);
    assert_int_equal(store_stats(&stats, store), E_CORRUPT);
}

/* Bases */

static void assert_basis(const struct store_basis *basis, enum basis_state state, size_t versions)
{
    assert_int_equal(basis->recipe.state, state);
    assert_int_equal(basis->versions, versions);
}

static void test_bases_are_listed_once_each_with_their_versions(void **state)
{
    AUTO_BASES(bases);
    struct commit_id was;

    (void)state;
    commit_adapter("llama-vectors-only");
    commit_adapter("minilm/step-000");
    commit_adapter("minilm/step-010");
    assert_int_equal(store_branch_delete(&was, store, "side"), 0); /* still in the trash */
    assert_int_equal(store_bases(&bases, store), 0);
    /* Without a base model only the seed tells, and both declared ones have 0. */
    assert_int_equal(bases.count, 3);
    size_t proved = 0;
    for (size_t i = 0; i < 2; i++)
        proved += bases.bases[i].versions;
    assert_int_equal(proved, 5);
    assert_basis(&bases.bases[0], BASIS_PROVED, proved - bases.bases[1].versions);
    assert_basis(&bases.bases[1], BASIS_PROVED, proved - bases.bases[0].versions);
    assert_true(
        memcmp(
            bases.bases[0].recipe.sha256_a.bytes, bases.bases[1].recipe.sha256_a.bytes, DIGEST_SIZE
        ) < 0
    );
    assert_basis(&bases.bases[2], BASIS_DECLARED, 3);
}

#define CASE(name) cmocka_unit_test_setup_teardown(name, stats_setup, repository_remove)

int main(void)
{
    const struct CMUnitTest tests[] = {
        CASE(test_versions_snapshots_and_raw_bytes),
        CASE(test_a_branch_has_what_git_reaches_from_it),
        CASE(test_each_part_has_what_git_says_it_holds),
        CASE(test_what_was_deleted_counts_until_it_is_dropped),
        CASE(test_an_empty_repository_and_commits_of_git),
        CASE(test_damage_is_an_error_and_named),
        CASE(test_bases_are_listed_once_each_with_their_versions),
    };
    return cmocka_run_group_tests(tests, template_make, template_remove);
}
