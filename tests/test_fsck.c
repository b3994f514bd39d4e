/* Tests of store_fsck(): every damage to every object is named, with the versions and branches that
   it touches, and never comes out of store_load() (promise P5). */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <sys/stat.h>

#include "tests/versions.h"

#define AUTO_REPORT(name)                                                                          \
    __attribute__((cleanup(fsck_report_release))) struct fsck_report name = {0}
#define VERSIONS 4

static struct commit_id versions[VERSIONS]; /* main 0-1-2, side 0-3 */
static struct snapshot snapshots[VERSIONS];
static struct buf objects[VERSIONS]; /* git_oid each, all that a version holds */

static int fsck_setup(void **state)
{
    if (repository_make(state) != 0)
        return 1;
    snapshot_read(&snapshots[0], "llama/step-000");
    snapshot_read(&snapshots[1], "llama/step-120");
    snapshot_read(&snapshots[2], "llama-vectors-only");
    snapshot_read_stored(&snapshots[3], "llama/step-010");
    for (size_t i = 0; i < 3; i++)
        versions[i] = commit_snapshot(&snapshots[i]).commit;
    if (store_branch_create(store, "side", &versions[0]) != 0 || store_switch(store, "side") != 0)
        return 1;
    versions[3] = commit_snapshot(&snapshots[3]).commit;
    if (store_tag_create(store, "told", &versions[1], "a message") != 0)
        return 1;
    for (size_t i = 0; i < VERSIONS; i++)
        objects_below(&objects[i], &versions[i]);
    repository_reopen();
    return 0;
}

static int fsck_teardown(void **state)
{
    for (size_t i = 0; i < VERSIONS; i++) {
        snapshot_release(&snapshots[i]);
        buf_release(&objects[i]);
    }
    return repository_remove(state);
}

static bool id_listed(const struct commit_id *ids, size_t count, const struct commit_id *id)
{
    for (size_t i = 0; i < count; i++) {
        if (commit_equal(&ids[i], id))
            return true;
    }
    return false;
}

static bool name_listed(char *const *names, size_t count, const char *name)
{
    for (size_t i = 0; i < count; i++) {
        if (strcmp(names[i], name) == 0)
            return true;
    }
    return false;
}

/* What is safe is what no line touches: each version is one or the other, each branch as well. */
static void assert_safe_is_the_rest(const struct fsck_report *report)
{
    size_t touched = 0;

    for (size_t i = 0; i < report->bad_count; i++) {
        const struct fsck_bad *bad = &report->bad[i];
        for (size_t k = 0; k < bad->version_count; k++) {
            bool again = false;
            for (size_t j = 0; j < i; j++)
                again |= id_listed(
                    report->bad[j].versions, report->bad[j].version_count, &bad->versions[k]
                );
            touched += !again;
            assert_false(
                id_listed(report->safe_versions, report->safe_version_count, &bad->versions[k])
            );
        }
        for (size_t k = 0; k < bad->branch_count; k++)
            assert_false(
                name_listed(report->safe_branches, report->safe_branch_count, bad->branches[k])
            );
    }
    assert_int_equal(report->safe_version_count + touched, report->versions);
}

static void check(struct fsck_report *report)
{
    if (store_fsck(report, store, NULL) != 0)
        fail_msg("%s", error_message());
    assert_safe_is_the_rest(report);
}

static const struct fsck_bad *bad_find(const struct fsck_report *report, const char *object)
{
    size_t i = 0;

    while (i < report->bad_count && strcmp(report->bad[i].object, object) != 0)
        i++;
    if (i == report->bad_count)
        fail_msg("%s is not named", object);
    return &report->bad[i];
}

static void report_print(struct buf *out, const struct fsck_report *report)
{
    for (size_t i = 0; i < report->bad_count; i++)
        assert_int_equal(
            buf_printf(out, "%s: %s\n", report->bad[i].object, report->bad[i].problem), 0
        );
    assert_non_null(buf_text(out));
}

/* Exactly one thing is named. */
static const struct fsck_bad *bad_only(const struct fsck_report *report, const char *object)
{
    AUTO_BUF(text);

    report_print(&text, report);
    if (report->bad_count != 1)
        fail_msg("%s: %zu lines\n%s", object, report->bad_count, (char *)text.data);
    return bad_find(report, object);
}

static bool version_holds(size_t version, const git_oid *id)
{
    const git_oid *ids = (const git_oid *)(void *)objects[version].data;

    for (size_t i = 0; i < objects[version].len / sizeof(git_oid); i++) {
        if (git_oid_equal(&ids[i], id))
            return true;
    }
    return false;
}

static void assert_versions(const struct fsck_bad *bad, const git_oid *id)
{
    size_t expected = 0;

    for (size_t i = 0; i < VERSIONS; i++) {
        bool named = false;
        for (size_t k = 0; k < bad->version_count; k++)
            named |= commit_equal(&bad->versions[k], &versions[i]);
        if (named != version_holds(i, id))
            fail_msg("%s: %s: version %zu", bad->object, bad->problem, i);
        expected += named;
    }
    assert_int_equal(bad->version_count, expected);
}

static void assert_branches(const struct fsck_bad *bad, const char *expected)
{
    AUTO_BUF(text);

    for (size_t i = 0; i < bad->branch_count; i++)
        assert_int_equal(buf_printf(&text, "%s%s", i ? " " : "", bad->branches[i]), 0);
    assert_non_null(buf_text(&text));
    /* Files come in no order: the names are compared, not their order. */
    size_t length = strlen(expected);
    assert_int_equal(text.len, length);
    for (size_t i = 0; i < bad->branch_count; i++)
        assert_non_null(strstr(expected, bad->branches[i]));
}

/* Versions that do not hold it load as they were; the others do not load, or, where `may_load`
   (git sees no damage), load as they were. */
static void assert_loads(const git_oid *id, bool may_load)
{
    AUTO_STORE(fresh);

    assert_int_equal(store_open(&fresh, scratch, NULL), 0);
    for (size_t i = 0; i < VERSIONS; i++) {
        AUTO_SNAPSHOT(loaded);
        int err = store_load(&loaded, fresh, &versions[i]);
        if (err == 0)
            assert_snapshots_equal(&loaded, &snapshots[i]);
        if (!id || !version_holds(i, id) || may_load)
            assert_int_equal(err, 0);
        else
            assert_int_equal(err, E_CORRUPT);
    }
}

/* Loose files */

static void object_path(char out[128], const git_oid *id)
{
    char hex[COMMIT_HEX_SIZE];

    git_oid_tostr(hex, sizeof(hex), id);
    snprintf(out, 128, ".vera/objects/%.2s/%s", hex, hex + 2);
}

static void file_replace(const char *path, struct bytes data)
{
    chmod(path, 0644);
    assert_int_equal(file_write(path, data), 0);
}

struct loose {
    git_oid id;
    struct buf data;
};

static size_t loose_read(struct loose list[64])
{
    size_t count = 0;

    for (size_t version = 0; version < VERSIONS; version++) {
        const git_oid *ids = (const git_oid *)(void *)objects[version].data;
        for (size_t i = 0; i < objects[version].len / sizeof(git_oid); i++) {
            char path[128];
            bool known = false;
            for (size_t k = 0; k < count; k++)
                known |= git_oid_equal(&list[k].id, &ids[i]);
            if (known)
                continue;
            assert_true(count < 64);
            list[count].id = ids[i];
            object_path(path, &ids[i]);
            assert_int_equal(file_read(&list[count++].data, path, 1 << 24), 0);
        }
    }
    return count;
}

static void loose_release(struct loose list[64], size_t count)
{
    for (size_t i = 0; i < count; i++)
        buf_release(&list[i].data);
}

/* `data` NULL: the file is removed. */
static void assert_damage_is_named(const struct loose *loose, const struct bytes *data)
{
    AUTO_REPORT(report);
    char path[128], hex[COMMIT_HEX_SIZE];

    object_path(path, &loose->id);
    git_oid_tostr(hex, sizeof(hex), &loose->id);
    if (data)
        file_replace(path, *data);
    else
        assert_int_equal(unlink(path), 0);
    check(&report);
    assert_versions(bad_only(&report, hex), &loose->id);
    assert_loads(&loose->id, false);
    file_replace(path, buf_bytes(&loose->data));
}

static void test_a_whole_repository_has_nothing_bad(void **state)
{
    AUTO_REPORT(report);

    (void)state;
    check(&report);
    assert_int_equal(report.bad_count, 0);
    assert_int_equal(report.versions, 4);
    assert_int_equal(report.snapshots, 4);
    assert_int_equal(report.refs, 4);  /* main, side, told, HEAD */
    assert_int_equal(report.bases, 3); /* proved, declared, stored */
    assert_true(report.bytes > 0);
    AUTO_BUF(count);
    assert_int_equal(
        shell_status(&count, "git rev-list --all --objects | cut -c1-40 | sort -u | wc -l"), 0
    );
    assert_int_equal(report.objects, strtol(buf_text(&count), NULL, 10));
    shell("git gc -q");
    AUTO_REPORT(packed);
    check(&packed);
    assert_int_equal(packed.bad_count, 0);
    assert_int_equal(packed.objects, report.objects);
    assert_int_equal(packed.bytes, report.bytes);
}

static void test_every_object_truncated_emptied_removed_or_replaced_is_named(void **state)
{
    struct loose list[64] = {0};
    size_t count = loose_read(list);

    (void)state;
    assert_true(count > 25);
    for (size_t i = 0; i < count; i++) {
        struct bytes data = buf_bytes(&list[i].data),
                     other = buf_bytes(&list[(i + 1) % count].data);
        assert_damage_is_named(&list[i], NULL);
        assert_damage_is_named(&list[i], &(struct bytes){data.data, 0});
        assert_damage_is_named(&list[i], &(struct bytes){data.data, data.len / 2});
        assert_damage_is_named(&list[i], &(struct bytes){data.data, data.len - 1});
        assert_damage_is_named(&list[i], &other);
    }
    loose_release(list, count);
}

/* Some bits of a deflate stream mean nothing; then the contents are what they were. */
static void test_every_object_with_a_flipped_bit_is_named_or_still_right(void **state)
{
    struct loose list[64] = {0};
    size_t count = loose_read(list), unseen = 0, seen = 0;

    (void)state;
    for (size_t i = 0; i < count; i++) {
        size_t bits = 8 * list[i].data.len;
        for (size_t k = 0; k < 7; k++) {
            size_t bit = k < 2 ? 5 * k : k < 4 ? bits - 1 - 9 * (k - 2) : bits * (k - 3) / 4;
            AUTO_REPORT(report);
            AUTO_BUF(flipped);
            char path[128], hex[COMMIT_HEX_SIZE];
            object_path(path, &list[i].id);
            git_oid_tostr(hex, sizeof(hex), &list[i].id);
            assert_int_equal(buf_append(&flipped, list[i].data.data, list[i].data.len), 0);
            flipped.data[bit / 8] ^= (uint8_t)(1 << bit % 8);
            file_replace(path, buf_bytes(&flipped));
            check(&report);
            if (report.bad_count)
                assert_versions(bad_only(&report, hex), &list[i].id);
            assert_loads(&list[i].id, report.bad_count == 0);
            file_replace(path, buf_bytes(&list[i].data));
            unseen += report.bad_count == 0;
            seen += report.bad_count != 0;
        }
    }
    assert_true(seen > 10 * unseen);
    loose_release(list, count);
}

static void damage(const char *revision)
{
    AUTO_BUF(command);

    assert_int_equal(
        buf_printf(
            &command,
            "id=$(git rev-parse %s) && f=.vera/objects/$(echo $id | sed 's,^..,&/,') && "
            "chmod u+w $f && printf garbage >$f",
            revision
        ),
        0
    );
    shell((char *)command.data);
}

static void id_of(char out[COMMIT_HEX_SIZE], const char *revision)
{
    AUTO_BUF(command);
    AUTO_BUF(text);

    assert_int_equal(buf_printf(&command, "git rev-parse %s", revision), 0);
    assert_int_equal(shell_status(&text, (char *)command.data), 0);
    assert_int_equal(text.len, 40);
    memcpy(out, buf_text(&text), COMMIT_HEX_SIZE);
}

static void test_a_line_says_what_it_is_and_whom_it_touches(void **state)
{
    static const struct {
        const char *revision, *problem, *branches;
    } cases[] = {
        {"main:vectors/frame", "vectors/frame: ", "main told"}, /* main~1 has the same payload */
        {"main~1:vectors/frame", "vectors/frame: ", "main told"},
        {"main~2:vectors/frame", "vectors/frame: ", "main side told"},
        {"main~2:files/README.md", "files/README.md: ", "main side told"},
        {"main:manifest", "manifest: ", "main"},
        {"side:basis", "basis: ", "side"},
        {"side^{tree}", "tree: ", "side"},
        {"main", "commit: ", "main"},
        {"side~1", "commit: ", "main side told"},
        {"told", "object: ", "told"} /* what a ref leads to has no type until it is read */,
    };

    (void)state;
    for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
        AUTO_REPORT(report);
        char id[COMMIT_HEX_SIZE];
        shell("rm -rf copy && cp -r .vera copy");
        id_of(id, cases[i].revision);
        damage(cases[i].revision);
        check(&report);
        const struct fsck_bad *bad = bad_only(&report, id);
        if (strncmp(bad->problem, cases[i].problem, strlen(cases[i].problem)) != 0)
            fail_msg("%s: %s", cases[i].revision, bad->problem);
        assert_null(strchr(bad->problem, '\n'));
        assert_null(strstr(bad->problem, id)); /* it is said once */
        assert_branches(bad, cases[i].branches);
        static const char *const all[] = {"main", "side", "told"};
        for (size_t k = 0; k < 3; k++)
            assert_int_equal(
                name_listed(report.safe_branches, report.safe_branch_count, all[k]),
                strstr(cases[i].branches, all[k]) == NULL
            );
        shell("rm -rf .vera && cp -r copy .vera");
    }
}

static void test_one_damage_does_not_hide_another(void **state)
{
    AUTO_REPORT(report);
    char ids[4][COMMIT_HEX_SIZE];

    (void)state;
    id_of(ids[0], "main:vectors/frame");
    id_of(ids[1], "main:manifest");
    id_of(ids[2], "main~2:vectors/frame");
    id_of(ids[3], "side^{tree}");
    damage("main:vectors/frame");
    damage("main:manifest");
    damage("main~2:vectors/frame");
    damage("side^{tree}");
    check(&report);
    assert_int_equal(report.bad_count, 4);
    for (size_t i = 0; i < 4; i++)
        bad_find(&report, ids[i]);
}

/* Without reflogs nothing leads to what is behind a commit that cannot be read. */
static void test_what_lies_behind_a_damaged_commit_is_checked(void **state)
{
    AUTO_REPORT(report);
    char commit[COMMIT_HEX_SIZE], frame[COMMIT_HEX_SIZE];
    git_oid id;

    (void)state;
    shell("git symbolic-ref HEAD refs/heads/main && git update-ref -d refs/tags/told && "
          "git update-ref -d refs/heads/side && rm -r .vera/logs");
    id_of(commit, "main~1");
    id_of(frame, "main~2:vectors/frame");
    damage("main~2:vectors/frame");
    damage("main~1");
    check(&report);
    assert_branches(bad_find(&report, commit), "main");
    const struct fsck_bad *bad = bad_find(&report, frame);
    assert_int_equal(git_oid_fromstr(&id, frame), 0);
    assert_versions(bad, &id);
}

/* Packs */

static void test_every_damaged_place_of_a_pack_is_named(void **state)
{
    AUTO_BUF(name);
    AUTO_BUF(pack);
    size_t named = 0;

    (void)state;
    shell("git gc -q && chmod u+w .vera/objects/pack/*.pack");
    assert_int_equal(shell_status(&name, "ls .vera/objects/pack/*.pack"), 0);
    const char *path = buf_text(&name);
    assert_int_equal(file_read(&pack, path, 1 << 24), 0);
    for (size_t at = 12; at < pack.len - 20; at += pack.len / 97) {
        AUTO_REPORT(report);
        AUTO_STORE(fresh);
        pack.data[at] ^= 0x10;
        file_replace(path, buf_bytes(&pack));
        check(&report);
        assert_int_equal(store_open(&fresh, scratch, NULL), 0);
        for (size_t i = 0; i < VERSIONS; i++) {
            AUTO_SNAPSHOT(loaded);
            int err = store_load(&loaded, fresh, &versions[i]);
            if (err == 0)
                assert_snapshots_equal(&loaded, &snapshots[i]);
            else
                assert_true(report.bad_count > 0);
        }
        named += report.bad_count > 0;
        pack.data[at] ^= 0x10;
    }
    assert_true(named > 80);
    file_replace(path, buf_bytes(&pack));
    AUTO_REPORT(whole);
    check(&whole);
    assert_int_equal(whole.bad_count, 0);
}

/* Refs and reflogs */

static void test_damaged_refs_are_named(void **state)
{
    static const struct {
        const char *command, *object, *problem, *branch;
    } cases[] = {
        {"echo garbage >.vera/refs/heads/bad", "refs/heads/bad", "", NULL},
        {": >.vera/refs/heads/bad", "refs/heads/bad", "", NULL},
        {"git rev-parse main | cut -c1-39 >.vera/refs/heads/bad", "refs/heads/bad", "", NULL},
        {"echo 'ref: refs/heads/nowhere' >.vera/refs/heads/bad", "refs/heads/bad", "", NULL},
        {"echo garbage >.vera/HEAD", "HEAD", "", NULL},
        {"git pack-refs --all && echo garbage >>.vera/packed-refs", "packed-refs", "", NULL},
        {"echo 0123456789012345678901234567890123456789 >.vera/refs/heads/bad",
         "0123456789012345678901234567890123456789", "commit: is missing", "bad"},
        {"echo 0123456789012345678901234567890123456789 >.vera/refs/tags/bad",
         "0123456789012345678901234567890123456789", "object: is missing", "bad"},
        {"echo nonsense >>.vera/logs/refs/heads/main", "refs/heads/main", "reflog", NULL},
        {"printf '%040d %040d x <x> 1 +0000\\tx\\n' 1 2 >>.vera/logs/refs/heads/main",
         "0000000000000000000000000000000000000001",
         "commit: is missing (only the reflog of refs/heads/main leads there)", NULL},
    };

    (void)state;
    shell("cp -r .vera copy");
    for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
        AUTO_REPORT(report);
        shell(cases[i].command);
        if (store_fsck(&report, store, NULL) != 0)
            fail_msg("%s: %s", cases[i].command, error_message());
        const struct fsck_bad *bad = bad_find(&report, cases[i].object);
        if (strncmp(bad->problem, cases[i].problem, strlen(cases[i].problem)) != 0)
            fail_msg("%s: %s", cases[i].command, bad->problem);
        if (cases[i].branch)
            assert_branches(bad, cases[i].branch);
        shell("rm -rf .vera && cp -r copy .vera");
    }
}

static void test_what_a_crash_leaves_is_not_damage(void **state)
{
    AUTO_REPORT(report);

    (void)state;
    shell("echo $(git rev-parse main) $(git rev-parse main~1) "
          "'Ada <ada@example.org> 1700000000 +0000\tcommit: lost' >>.vera/logs/refs/heads/main &&"
          "printf 0123456 >>.vera/logs/refs/heads/side && : >.vera/refs/heads/main.lock &&"
          "echo garbage >.vera/objects/tmp_object_git2_abc");
    check(&report);
    assert_int_equal(report.bad_count, 0);
}

static void test_trash_and_reflog_are_checked(void **state)
{
    AUTO_REPORT(report);
    AUTO_REPORT(only_reflog);
    struct commit_id previous;
    char id[COMMIT_HEX_SIZE];

    (void)state;
    assert_int_equal(store_switch(store, "main"), 0);
    id_of(id, "main:manifest");
    assert_int_equal(store_reset(&previous, store, &versions[1]), 0);
    damage("main@{1}:manifest");
    check(&report);
    const struct fsck_bad *bad = bad_only(&report, id);
    assert_int_equal(bad->branch_count, 1);
    assert_int_equal(strncmp(bad->branches[0], "trash/", 6), 0);
    assert_commit(bad->versions[0], versions[2]);
    shell("git update-ref -d $(git for-each-ref --format='%(refname)' refs/vera)");
    check(&only_reflog);
    bad = bad_only(&only_reflog, id);
    assert_int_equal(bad->branch_count, 0);
    assert_commit(bad->versions[0], versions[2]);
}

static void test_empty_unborn_and_detached(void **state)
{
    AUTO_REPORT(report);
    AUTO_REPORT(detached);

    (void)state;
    assert_int_equal(store_switch_unborn(store, "unborn"), 0);
    check(&report);
    assert_int_equal(report.bad_count, 0);
    shell("git update-ref --no-deref HEAD main~1");
    check(&detached);
    assert_int_equal(detached.bad_count, 0);
}

static void test_a_shallow_clone_is_whole(void **state)
{
    AUTO_REPORT(report);
    AUTO_STORE(shallow);

    (void)state;
    shell("mkdir clone && git clone -q --bare --depth 1 -b main file://$PWD/.vera clone/.vera");
    assert_int_equal(store_open(&shallow, "clone", NULL), 0);
    assert_int_equal(store_fsck(&report, shallow, NULL), 0);
    assert_int_equal(report.bad_count, 0);
    assert_int_equal(report.versions, 1);
}

/* Forged versions: whole objects that git is content with, and that are no version. */

/* `splice NAME "MODE TYPE ID"` replaces an entry of main's tree, `blob` stores its input and prints
   what splice takes, `finish` commits the entries in `list` as the branch `forged`. */
static const char forge[] =
    "splice() { git ls-tree main | grep -v \"\t$1$\" >list; printf '%s\\t%s\\n' \"$2\" \"$1\" "
    ">>list; }\n"
    "blob() { echo 100644 blob $(git hash-object -w --stdin); }\n"
    "finish() { git update-ref refs/heads/forged "
    "$(git mktree <list | xargs -I% git commit-tree % -p main -m forged); }\n";

static void forge_run(const char *command)
{
    AUTO_BUF(line);

    assert_int_equal(file_write("forge.sh", text_bytes(forge)), 0);
    assert_int_equal(buf_printf(&line, ". ./forge.sh && %s", command), 0);
    shell((char *)line.data);
}

static void test_forged_versions_are_named(void **state)
{
    static const struct {
        const char *command, *problem;
    } cases[] = {
        {"splice manifest \"$(git cat-file blob main~1:manifest | blob)\" && finish", ""},
        {"splice manifest \"$(git cat-file blob main:manifest | sed s/README/README2/ | blob)\" && "
         "finish",
         "README2"},
        {"splice manifest \"$(echo nonsense | blob)\" && finish", "manifest"},
        {"splice recipe \"$(git cat-file blob main~1:recipe | blob)\" && finish", ""},
        {"splice recipe \"$(echo nonsense | blob)\" && finish", "recipe"},
        {"splice layout \"$(echo nonsense | blob)\" && finish", ""},
        {"splice adapter_config.json \"$(echo '{}' | blob)\" && finish", ""},
        {"splice extra \"$(echo extra | blob)\" && finish", "extra"},
        {"splice vectors \"040000 tree $(git rev-parse main~2:vectors)\" && finish", ""},
        {"splice basis \"040000 tree $(git rev-parse side:basis)\" && finish", "basis"},
        {"git ls-tree main | grep -v manifest >list && finish", "manifest"},
        {"git ls-tree main | grep -v recipe >list && finish", "recipe"},
        {"git ls-tree main | grep -v vectors >list && finish", "vectors"},
        {"git ls-tree main | grep -v files >list && finish", "README.md"},
        {"git ls-tree main | sed 's/100644\\(.*recipe\\)/100755\\1/' >list && finish", "recipe"},
        {": >list && finish", ""},
    };

    (void)state;
    for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
        AUTO_REPORT(report);
        AUTO_SNAPSHOT(loaded);
        struct commit_id forged;
        char tree[COMMIT_HEX_SIZE];
        forge_run(cases[i].command);
        shell("git fsck --strict --no-dangling");
        id_of(tree, "forged^{tree}");
        check(&report);
        const struct fsck_bad *bad = bad_only(&report, tree);
        if (!strstr(bad->problem, cases[i].problem))
            fail_msg("%s: %s", cases[i].command, bad->problem);
        assert_branches(bad, "forged");
        assert_int_equal(bad->version_count, 1);
        assert_int_equal(store_resolve(&forged, store, "forged"), 0);
        assert_commit(bad->versions[0], forged);
        int err = store_load(&loaded, store, &forged);
        assert_true(err == E_CORRUPT || err == E_LIMIT);
        shell("git update-ref -d refs/heads/forged");
    }
}

/* A recipe may be forged so that only drawing its matrices tells. */
static void test_a_basis_that_is_not_what_its_recipe_tells_is_named(void **state)
{
    static const struct {
        const char *source, *command;
    } cases[] = {
        {"main~1", "sed 's/^seed 0$/seed 1/'"},
        {"main~1", "sed 's/^variant fma$/variant mul-add/'"},
        {"main~1", "sed 's/^rounding none$/rounding bf16/'"},
        /* Declared, for some base model: nothing but drawing it can tell. */
        {"main", "{ cat; echo variant fma; echo rounding none; "
                 "printf 'a F32 32 176 %064d\\nb F32 176 32 %064d\\n' 1 2; }"},
    };

    (void)state;
    for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
        AUTO_BUF(command);
        AUTO_REPORT(report);
        assert_int_equal(
            buf_printf(
                &command,
                "recipe=\"$(git cat-file blob %s:recipe | %s | blob)\" && "
                "test \"$recipe\" != \"$(git cat-file blob %s:recipe | blob)\" && "
                "git ls-tree %s | grep -v recipe >list && "
                "printf '%%s\\trecipe\\n' \"$recipe\" >>list && finish",
                cases[i].source, cases[i].command, cases[i].source, cases[i].source
            ),
            0
        );
        forge_run((char *)command.data);
        check(&report);
        assert_int_equal(report.bad_count, 1);
        assert_branches(&report.bad[0], "forged");
        shell("git update-ref -d refs/heads/forged");
    }
}

static void test_trees_that_git_would_not_write_are_named(void **state)
{
    /* Entries out of order, twice, with names and modes that git does not have. */
    static const struct {
        const char *text, *problem;
    } cases[] = {
        {"100644 b|100644 a|", "out of order"}, {"100644 a|100644 a|", "out of order"},
        {"100644 a/b|", "cannot be a name"},    {"100644 .|", "cannot be a name"},
        {"40000 .GIT|", "cannot be a name"},    {"100600 a|", "mode"},
        {"0100644 a|", "begins no entry"},      {"100644 a", "begins no entry"},
        {"nonsense", "begins no entry"},
    };
    git_oid blob = object_put_text(GIT_OBJECT_BLOB, text_bytes("x"));

    (void)state;
    for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
        AUTO_REPORT(report);
        AUTO_BUF(tree);
        char hex[COMMIT_HEX_SIZE];
        for (const char *at = cases[i].text; *at; at++) {
            if (*at != '|') {
                assert_int_equal(buf_append(&tree, at, 1), 0);
                continue;
            }
            assert_int_equal(buf_append_byte(&tree, 0), 0);
            assert_int_equal(buf_append(&tree, blob.id, sizeof(blob.id)), 0);
        }
        git_oid id = object_put_text(GIT_OBJECT_TREE, buf_bytes(&tree));
        struct commit_id commit = plain_commit(&id, NULL, 0, 1700000000, "forged");
        branch_put("forged", &commit);
        check(&report);
        git_oid_tostr(hex, sizeof(hex), &id);
        const struct fsck_bad *bad = bad_only(&report, hex);
        if (!strstr(bad->problem, cases[i].problem))
            fail_msg("%s: %s", cases[i].text, bad->problem);
        shell("git update-ref -d refs/heads/forged && rm -f .vera/logs/refs/heads/forged");
    }
}

/* Progress and interrupt */

struct watch {
    struct progress progress;
    uint64_t done, total;
    size_t calls;
};

static void watch_update(struct progress *progress, uint64_t done, uint64_t total)
{
    struct watch *watch = (struct watch *)(void *)progress;

    assert_true(done >= watch->done && done <= total);
    assert_true(watch->total == 0 || watch->total == total);
    watch->done = done;
    watch->total = total;
    watch->calls++;
}

static void test_progress_goes_to_its_end(void **state)
{
    struct watch watch = {.progress = {watch_update}};
    AUTO_REPORT(report);

    (void)state;
    assert_int_equal(store_fsck(&report, store, &watch.progress), 0);
    assert_true(watch.calls > 20);
    assert_int_equal(watch.done, watch.total);
}

static void interrupt_update(struct progress *progress, uint64_t done, uint64_t total)
{
    (void)progress;
    (void)done;
    (void)total;
    interrupt_flag = 1;
}

static void test_an_interrupt_ends_it(void **state)
{
    struct progress progress = {interrupt_update};
    AUTO_REPORT(report);

    (void)state;
    assert_int_equal(store_fsck(&report, store, &progress), E_INTERRUPTED);
    assert_null(report.bad);
    assert_int_equal(report.objects, 0);
    assert_int_equal(store_fsck(&report, store, NULL), E_INTERRUPTED);
}

#define CASE(name) cmocka_unit_test_setup_teardown(name, fsck_setup, fsck_teardown)

int main(void)
{
    const struct CMUnitTest tests[] = {
        CASE(test_a_whole_repository_has_nothing_bad),
        CASE(test_every_object_truncated_emptied_removed_or_replaced_is_named),
        CASE(test_every_object_with_a_flipped_bit_is_named_or_still_right),
        CASE(test_a_line_says_what_it_is_and_whom_it_touches),
        CASE(test_one_damage_does_not_hide_another),
        CASE(test_what_lies_behind_a_damaged_commit_is_checked),
        CASE(test_every_damaged_place_of_a_pack_is_named),
        CASE(test_damaged_refs_are_named),
        CASE(test_what_a_crash_leaves_is_not_damage),
        CASE(test_trash_and_reflog_are_checked),
        CASE(test_empty_unborn_and_detached),
        CASE(test_a_shallow_clone_is_whole),
        CASE(test_forged_versions_are_named),
        CASE(test_a_basis_that_is_not_what_its_recipe_tells_is_named),
        CASE(test_trees_that_git_would_not_write_are_named),
        CASE(test_progress_goes_to_its_end),
        CASE(test_an_interrupt_ends_it),
    };
    return cmocka_run_group_tests(tests, template_make, template_remove);
}
