/* Tests of store/revision.c and store/find.c: every way to name a version, and what is none. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "tests/repository.h"

#define T0 1700000000

static struct commit_id row[6]; /* of main, the oldest first */
static struct commit_id side[3], merge, octopus;

/*
 * row 0-1-2-3-4-5 main     merge: row 5 and side 2     octopus: merge, row 0, side 0
 * side 0-1-2 run/side
 */
static int revision_setup(void **state)
{
    git_oid tree;

    if (repository_make(state) != 0)
        return 1;
    branch_grow(row, 6, "main", T0);
    branch_grow(side, 3, "run/side", T0 + 100);
    tree = plain_tree("merged");
    merge = plain_commit(&tree, (struct commit_id[]){row[5], side[2]}, 2, T0 + 200, "merge");
    octopus = plain_commit(&tree, (struct commit_id[]){merge, row[0], side[0]}, 3, T0 + 300, "all");
    branch_put("merged", &octopus);
    return 0;
}

static void assert_resolves(const char *revision, struct commit_id expected)
{
    struct commit_id found;

    if (store_resolve(&found, store, revision) != 0)
        fail_msg("%s: %s", revision, error_message());
    assert_commit(found, expected);
}

static void assert_fails(const char *revision, int err, const char *message)
{
    struct commit_id found = {{7}};
    const struct commit_id before = found;

    if (store_resolve(&found, store, revision) != err)
        fail_msg("%s: %s", revision, error_message());
    assert_message(message);
    assert_commit(found, before); /* untouched */
}

static void test_names(void **state)
{
    char hex[COMMIT_HEX_SIZE];
    AUTO_BUF(command);

    (void)state;
    assert_resolves("main", row[5]);
    assert_resolves("run/side", side[2]);
    assert_resolves("HEAD", row[5]);
    assert_resolves("@", row[5]);
    assert_resolves("refs/heads/main", row[5]);
    assert_resolves("heads/main", row[5]);
    assert_int_equal(store_tag_create(store, "light", &row[1], NULL), 0);
    assert_int_equal(store_tag_create(store, "told", &row[2], "a message"), 0);
    assert_resolves("light", row[1]);
    assert_resolves("told", row[2]);
    assert_resolves("told~1", row[1]);
    assert_resolves("tags/told", row[2]);
    commit_hex(hex, &row[3]);
    assert_int_equal(
        buf_printf(
            &command,
            "git update-ref refs/remotes/origin/far %s && "
            "git symbolic-ref refs/remotes/origin/HEAD refs/remotes/origin/far",
            hex
        ),
        0
    );
    shell((char *)command.data);
    assert_resolves("origin/far", row[3]);
    assert_resolves("origin/HEAD", row[3]);
    assert_resolves("remotes/origin/far^", row[2]);
}

static void test_a_branch_goes_before_a_tag_and_a_whole_id_before_both(void **state)
{
    AUTO_BUF(command);
    char hex[COMMIT_HEX_SIZE];

    (void)state;
    assert_int_equal(store_branch_create(store, "same", &row[1]), 0);
    assert_int_equal(store_tag_create(store, "same", &row[2], NULL), 0);
    assert_resolves("same", row[1]);
    assert_resolves("tags/same", row[2]);
    commit_hex(hex, &row[3]);
    assert_int_equal(buf_printf(&command, "git update-ref refs/heads/%s main", hex), 0);
    shell((char *)command.data);
    assert_resolves(hex, row[3]);
    /* Not a prefix: that is a name first. */
    hex[8] = '\0';
    assert_int_equal(store_branch_create(store, hex, &row[4]), 0);
    assert_resolves(hex, row[4]);
}

static void test_steps(void **state)
{
    static const struct {
        const char *revision;
        const struct commit_id *expected;
    } cases[] = {
        {"main~", &row[4]},          {"main~0", &row[5]},
        {"main~1", &row[4]},         {"main~5", &row[0]},
        {"main~2~3", &row[0]},       {"main^", &row[4]},
        {"main^0", &row[5]},         {"main^1^1^1", &row[2]},
        {"main^^^", &row[2]},        {"main~~~~~", &row[0]},
        {"merged", &octopus},        {"merged^", &merge},
        {"merged^2", &row[0]},       {"merged^3", &side[0]},
        {"merged^1^2", &side[2]},    {"merged~1^2~2", &side[0]},
        {"merged^^2^0~1", &side[1]}, {"merged~3", &row[4]},
        {"HEAD~2", &row[3]},         {"@~2", &row[3]},
    };

    (void)state;
    for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
        AUTO_BUF(command);
        char hex[COMMIT_HEX_SIZE];
        assert_resolves(cases[i].revision, *cases[i].expected);
        commit_hex(hex, cases[i].expected);
        assert_int_equal(buf_printf(&command, "git rev-parse '%s'", cases[i].revision), 0);
        assert_shell((char *)command.data, hex);
    }
}

static void test_steps_that_lead_nowhere(void **state)
{
    (void)state;
    assert_fails("main~6", E_NOTFOUND, "has no parent");
    assert_fails("main~18446744073709551615", E_NOTFOUND, "has no parent");
    assert_fails("main^2", E_NOTFOUND, "has 1 parent, not 2");
    assert_fails("merged^4", E_NOTFOUND, "has 3 parents, not 4");
    assert_fails("main@{1}", E_NOTFOUND, "1 entry only");
    assert_fails("main@{7}~1", E_NOTFOUND, "1 entry only");
}

static void test_what_is_no_revision_is_invalid(void **state)
{
    static const char *const bad[] = {
        "",
        "~",
        "^",
        "~1",
        "main~x",
        "main~1x",
        "main^{}",
        "main^{commit}",
        "main@{",
        "main@{}",
        "main@{x}",
        "main@{-1}",
        "main@{1",
        "main~1}",
        "a..b",
        "a b",
        "a:b",
        "main:manifest",
        "/",
        "/tmp/x",
        "../x",
        "x/",
        ".x",
        "main@{01}",
        "main~18446744073709551616",
        "main@{99999999999999999999}",
        "a\nb",
        "sha256:",
        "sha256:12345",
        "sha256:xyzxyz",
        "sha256:ABCDEF",
        "sha256:00000000000000000000000000000000000000000000000000000000000000000",
    };

    (void)state;
    for (size_t i = 0; i < sizeof(bad) / sizeof(bad[0]); i++)
        assert_fails(bad[i], E_INVALID, "");
    assert_fails("main~1@{1}", E_INVALID, "");
}

static void test_what_is_not_found_names_what_is_near(void **state)
{
    (void)state;
    assert_fails("mian", E_NOTFOUND, "'mian'");
    assert_hint("'main'");
    assert_fails("run/sied~3", E_NOTFOUND, "'run/sied'");
    assert_hint("'run/side'");
    assert_fails("zzzzzz", E_NOTFOUND, "'zzzzzz'");
    assert_hint("vera log --all");
    assert_fails("abc", E_NOTFOUND, "'abc'");
    assert_hint("6 digits");
    assert_fails("0123456789012345678901234567890123456789", E_NOTFOUND, "0123456789");
    assert_fails("sha256:0123456789", E_NOTFOUND, "sha256:0123456789");
    assert_fails("trash/main", E_NOTFOUND, "trash/main");
}

/* Ids */

static void test_a_prefix_of_six_digits_is_enough(void **state)
{
    char hex[COMMIT_HEX_SIZE];

    (void)state;
    for (size_t digits = 6; digits <= 40; digits++) {
        commit_hex(hex, &row[2]);
        hex[digits] = '\0';
        assert_resolves(hex, row[2]);
    }
    for (size_t i = 0; hex[i]; i++)
        hex[i] = (char)(hex[i] >= 'a' && hex[i] <= 'f' ? hex[i] - 32 : hex[i]);
    assert_resolves(hex, row[2]);
    hex[5] = '\0';
    assert_fails(hex, E_NOTFOUND, hex);
    shell("git gc -q");
    repository_reopen();
    commit_hex(hex, &row[2]);
    hex[6] = '\0';
    assert_resolves(hex, row[2]);
}

/* Commits until two ids share six digits: 7,000 or so. */
static void test_an_ambiguous_prefix_lists_the_candidates(void **state)
{
    git_oid tree = plain_tree("many");
    char first[COMMIT_HEX_SIZE], second[COMMIT_HEX_SIZE] = "", prefix[COMMIT_HEX_SIZE];
    AUTO_BUF(text);
    static uint8_t seen[1 << 21]; /* a bit for each of 2^24 prefixes */
    git_oid twins[2];
    long number = 0, found = -1;

    (void)state;
    git_oid_tostr(first, sizeof(first), &tree);
    /* Only the two that collide are written. */
    for (int pass = 0; pass < 2; pass++) {
        for (number = 0;; number++) {
            git_oid id;
            text.len = 0;
            assert_int_equal(
                buf_printf(
                    &text, "tree %s\nauthor A <a> %ld +0000\ncommitter A <a> %ld +0000\n\nm\n",
                    first, number, number
                ),
                0
            );
            assert_int_equal(git_odb_hash(&id, text.data, text.len, GIT_OBJECT_COMMIT), 0);
            unsigned at = (unsigned)id.id[0] << 16 | (unsigned)id.id[1] << 8 | id.id[2];
            if (pass == 0 && !(seen[at / 8] & 1 << at % 8)) {
                seen[at / 8] |= (uint8_t)(1 << at % 8);
                continue;
            }
            if (pass == 0) {
                found = number;
                twins[1] = id;
                break;
            }
            if (memcmp(id.id, twins[1].id, 3) == 0) {
                twins[0] = object_put_text(GIT_OBJECT_COMMIT, buf_bytes(&text));
                break;
            }
        }
    }
    assert_true(number < found);
    text.len = 0;
    assert_int_equal(
        buf_printf(
            &text, "tree %s\nauthor A <a> %ld +0000\ncommitter A <a> %ld +0000\n\nm\n", first,
            found, found
        ),
        0
    );
    object_put_text(GIT_OBJECT_COMMIT, buf_bytes(&text));
    git_oid_tostr(first, sizeof(first), &twins[0]);
    git_oid_tostr(second, sizeof(second), &twins[1]);
    memcpy(prefix, first, 7);
    prefix[6] = '\0';
    assert_fails(prefix, E_INVALID, "is ambiguous");
    assert_fails(prefix, E_INVALID, first);
    assert_fails(prefix, E_INVALID, second);
    assert_resolves(first, commit_id_of(&twins[0]));
    assert_resolves(second, commit_id_of(&twins[1]));
}

static void test_an_id_of_no_commit_is_invalid(void **state)
{
    git_oid tree = plain_tree("x");
    char hex[COMMIT_HEX_SIZE];

    (void)state;
    git_oid_tostr(hex, sizeof(hex), &tree);
    assert_fails(hex, E_INVALID, "is a tree, not a version");
    hex[10] = '\0';
    assert_fails(hex, E_INVALID, "is a tree, not a version");
}

/* Snapshots */

static void snapshot_text(char out[80], const char *manifest)
{
    struct digest digest;

    assert_int_equal(digest_of(&digest, text_bytes(manifest)), 0);
    memcpy(out, "sha256:", 7);
    digest_hex(out + 7, &digest);
}

static void test_a_snapshot_is_the_newest_commit_that_has_it(void **state)
{
    char text[80];
    struct commit_id later;
    git_oid tree;

    (void)state;
    snapshot_text(text, "main 2");
    for (size_t digits = 6; digits <= 64; digits++) {
        char prefix[80];
        memcpy(prefix, text, sizeof(prefix));
        prefix[7 + digits] = '\0';
        assert_resolves(prefix, row[2]);
    }
    tree = plain_tree("main 2");
    later = plain_commit(&tree, &side[2], 1, T0 + 500, "as main 2");
    branch_put("run/side", &later);
    assert_resolves(text, later);
    memcpy(text + strlen(text), "~2", 3);
    assert_resolves(text, side[1]);
}

static void test_a_deleted_snapshot_is_found_where_nothing_else_has_it(void **state)
{
    char text[80];
    struct commit_id was, alone;
    git_oid tree = plain_tree("alone");

    (void)state;
    alone = plain_commit(&tree, NULL, 0, T0, "alone");
    assert_int_equal(store_branch_create(store, "alone", &alone), 0);
    assert_int_equal(store_branch_delete(&was, store, "alone"), 0);
    snapshot_text(text, "alone");
    assert_resolves(text, alone);
}

static void test_an_ambiguous_snapshot_lists_the_candidates(void **state)
{
    static uint32_t first_with[1 << 24]; /* number + 1, by the first 24 bits */
    char text[80], other[80], manifest[32], twin[32];
    struct digest digest;
    uint32_t number;

    (void)state;
    for (number = 0;; number++) {
        snprintf(manifest, sizeof(manifest), "manifest %u", number);
        assert_int_equal(digest_of(&digest, text_bytes(manifest)), 0);
        uint32_t at = (uint32_t)digest.bytes[0] << 16 | (uint32_t)digest.bytes[1] << 8 |
                      digest.bytes[2];
        if (first_with[at]) {
            snprintf(twin, sizeof(twin), "manifest %u", first_with[at] - 1);
            break;
        }
        first_with[at] = number + 1;
    }
    git_oid one = plain_tree(manifest), two = plain_tree(twin);
    struct commit_id a = plain_commit(&one, NULL, 0, T0, "a");
    struct commit_id b = plain_commit(&two, &a, 1, T0, "b");
    branch_put("twins", &b);
    snapshot_text(text, manifest);
    snapshot_text(other, twin);
    assert_resolves(text, a);
    assert_resolves(other, b);
    char prefix[80];
    memcpy(prefix, text, sizeof(prefix));
    prefix[13] = '\0';
    assert_fails(prefix, E_INVALID, "is ambiguous");
    assert_fails(prefix, E_INVALID, text);
    assert_fails(prefix, E_INVALID, other);
}

static void test_a_damaged_version_does_not_hide_another(void **state)
{
    char text[80];

    (void)state;
    shell("id=$(git rev-parse main~4:manifest) &&"
          "rm -f .vera/objects/$(echo $id | sed 's,^..,&/,')");
    repository_reopen();
    snapshot_text(text, "main 0");
    assert_resolves(text, row[0]);
    snapshot_text(text, "main 1");
    assert_fails(text, E_NOTFOUND, "no version");
    assert_hint("vera fsck");
}

/* Reflog */

static void test_positions_in_the_reflog(void **state)
{
    struct commit_id previous;

    (void)state;
    assert_int_equal(store_reset(&previous, store, &row[1]), 0);
    assert_int_equal(store_reset(&previous, store, &row[4]), 0);
    assert_int_equal(store_reset(&previous, store, &row[2]), 0);
    assert_resolves("main@{0}", row[2]);
    assert_resolves("main@{1}", row[4]);
    assert_resolves("main@{2}", row[1]);
    assert_resolves("main@{3}", row[5]);
    assert_resolves("@{1}", row[4]);
    assert_resolves("HEAD@{1}", row[4]);
    assert_resolves("main@{1}~2", row[2]);
    assert_resolves("main@{3}^^", row[3]);
    assert_fails("main@{4}", E_NOTFOUND, "4 entries only");
    /* git counts as we do. */
    for (int n = 0; n <= 3; n++) {
        AUTO_BUF(command);
        char hex[COMMIT_HEX_SIZE];
        const struct commit_id *at[] = {&row[2], &row[4], &row[1], &row[5]};
        assert_int_equal(buf_printf(&command, "git rev-parse main@{%d}", n), 0);
        commit_hex(hex, at[n]);
        assert_shell((char *)command.data, hex);
    }
}

static void test_a_last_line_that_the_ref_does_not_confirm_does_not_count(void **state)
{
    struct commit_id previous;

    (void)state;
    assert_int_equal(store_reset(&previous, store, &row[4]), 0);
    /* As a crash leaves it: the line is there, the ref has not moved. */
    shell("echo $(git rev-parse main) $(git rev-parse main~2) "
          "'Ada <ada@example.org> 1700000000 +0000\tcommit: lost' >>.vera/logs/refs/heads/main");
    assert_resolves("main@{0}", row[4]);
    assert_resolves("main@{1}", row[5]);
    /* And a line that was cut off. */
    shell("printf 0123456789 >>.vera/logs/refs/heads/main");
    assert_resolves("main@{1}", row[5]);
}

static void test_a_ref_without_reflog_has_no_positions(void **state)
{
    (void)state;
    assert_int_equal(store_tag_create(store, "light", &row[1], NULL), 0);
    assert_resolves("light@{0}", row[1]);
    assert_fails("light@{1}", E_NOTFOUND, "no reflog");
    shell("rm -r .vera/logs");
    assert_fails("main@{1}", E_NOTFOUND, "no reflog");
}

static void test_a_shallow_clone_says_where_it_ends(void **state)
{
    AUTO_STORE(shallow);
    struct commit_id found;

    (void)state;
    shell("mkdir clone && git clone -q --bare --depth 2 file://$PWD/.vera clone/.vera");
    assert_int_equal(store_open(&shallow, "clone", NULL), 0);
    assert_int_equal(store_resolve(&found, shallow, "main~1"), 0);
    assert_commit(found, row[4]);
    assert_int_equal(store_resolve(&found, shallow, "main~2"), E_NOTFOUND);
    assert_hint("shallow");
}

static void test_a_thousand_versions(void **state)
{
    static struct commit_id thousand[1000];
    git_oid tree = plain_tree("thousand");
    char hex[COMMIT_HEX_SIZE];
    AUTO_REFS(refs);

    (void)state;
    for (size_t i = 0; i < 1000; i++) {
        char name[32];
        thousand[i] = plain_commit(
            &tree, i ? &thousand[i - 1] : NULL, i ? 1 : 0, T0 + (long)i, "one of many"
        );
        if (i % 100 == 99) {
            snprintf(name, sizeof(name), "many/%zu", i);
            branch_put(name, &thousand[i]);
        }
    }
    assert_resolves("many/999~999", thousand[0]);
    commit_hex(hex, &thousand[500]);
    hex[8] = '\0';
    assert_resolves(hex, thousand[500]);
    char text[80];
    snapshot_text(text, "thousand");
    assert_resolves(text, thousand[999]);
    assert_int_equal(store_refs(&refs, store, REF_BRANCH), 0);
    assert_int_equal(refs.count, 13);
}

#define CASE(name) cmocka_unit_test_setup_teardown(name, revision_setup, repository_remove)

int main(void)
{
    const struct CMUnitTest tests[] = {
        CASE(test_names),
        CASE(test_a_branch_goes_before_a_tag_and_a_whole_id_before_both),
        CASE(test_steps),
        CASE(test_steps_that_lead_nowhere),
        CASE(test_what_is_no_revision_is_invalid),
        CASE(test_what_is_not_found_names_what_is_near),
        CASE(test_a_prefix_of_six_digits_is_enough),
        CASE(test_an_ambiguous_prefix_lists_the_candidates),
        CASE(test_an_id_of_no_commit_is_invalid),
        CASE(test_a_snapshot_is_the_newest_commit_that_has_it),
        CASE(test_a_deleted_snapshot_is_found_where_nothing_else_has_it),
        CASE(test_an_ambiguous_snapshot_lists_the_candidates),
        CASE(test_a_damaged_version_does_not_hide_another),
        CASE(test_positions_in_the_reflog),
        CASE(test_a_last_line_that_the_ref_does_not_confirm_does_not_count),
        CASE(test_a_ref_without_reflog_has_no_positions),
        CASE(test_a_shallow_clone_says_where_it_ends),
        CASE(test_a_thousand_versions),
    };
    return cmocka_run_group_tests(tests, template_make, template_remove);
}
