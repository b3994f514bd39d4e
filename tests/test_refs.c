/* Tests of refs: lists, branches, tags, HEAD, what goes to the trash and comes back. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "store/refs.h"
#include "tests/repository.h"

#define T0 1700000000

static struct commit_id row[4]; /* of main, the oldest first */

static int refs_setup(void **state)
{
    if (repository_make(state) != 0)
        return 1;
    branch_grow(row, 4, "main", T0);
    return 0;
}

/* "name=index of commit in row" of a kind, in the order that they are listed. */
static void assert_refs(enum ref_kind kind, const char *expected)
{
    AUTO_REFS(refs);
    AUTO_BUF(text);

    assert_int_equal(store_refs(&refs, store, kind), 0);
    for (size_t i = 0; i < refs.count; i++) {
        size_t at = 0;
        while (at < 4 && !commit_equal(&refs.refs[i].commit, &row[at]))
            at++;
        assert_int_equal(refs.refs[i].kind, kind);
        assert_int_equal(
            buf_printf(
                &text, "%s%s%s=%zu", i ? " " : "", refs.refs[i].current ? "*" : "",
                refs.refs[i].name, at
            ),
            0
        );
    }
    assert_string_equal(buf_text(&text), expected);
}

static void assert_head(const char *branch, const struct commit_id *tip)
{
    AUTO_FREE(char, name);
    struct commit_id at;
    bool has_tip;

    assert_int_equal(store_head(&name, &at, &has_tip, store), 0);
    if (branch)
        assert_string_equal(name, branch);
    else
        assert_null(name);
    assert_int_equal(has_tip, tip != NULL);
    if (tip)
        assert_commit(at, *tip);
}

static void git_at(const char *format, const struct commit_id *commit)
{
    AUTO_BUF(command);
    char hex[COMMIT_HEX_SIZE];

    commit_hex(hex, commit);
    assert_int_equal(buf_printf(&command, "git update-ref %s %s", format, hex), 0);
    shell((char *)command.data);
}

static void assert_reflog(const char *ref, const char *expected)
{
    AUTO_BUF(command);

    assert_int_equal(buf_printf(&command, "git log -g --format=%%gs %s --", ref), 0);
    assert_shell((char *)command.data, expected);
}

static void assert_git_is_content(void)
{
    shell("git fsck --strict --no-dangling");
}

/* Lists */

static void test_branches_are_listed_by_name_as_git_lists_them(void **state)
{
    (void)state;
    assert_int_equal(store_branch_create(store, "run/2", &row[1]), 0);
    assert_int_equal(store_branch_create(store, "a", &row[0]), 0);
    assert_int_equal(store_branch_create(store, "run/10", &row[2]), 0);
    assert_refs(REF_BRANCH, "a=0 *main=3 run/10=2 run/2=1");
    assert_shell("git branch --format='%(refname:short)'", "a\nmain\nrun/10\nrun/2");
    shell("git pack-refs --all");
    assert_refs(REF_BRANCH, "a=0 *main=3 run/10=2 run/2=1");
    assert_git_is_content();
}

static void test_an_upstream_is_told(void **state)
{
    AUTO_REFS(refs);

    (void)state;
    assert_int_equal(store_branch_create(store, "here", &row[0]), 0);
    git_at("refs/remotes/origin/far", &row[1]);
    shell("git remote add origin /nowhere && git branch -q --set-upstream-to=origin/far main &&"
          "git branch -q --set-upstream-to=main here");
    repository_reopen();
    assert_refs(REF_REMOTE, "origin/far=1");
    assert_int_equal(store_refs(&refs, store, REF_BRANCH), 0);
    assert_string_equal(refs.refs[0].upstream, "main");
    assert_string_equal(refs.refs[1].upstream, "origin/far");
}

static void test_a_remote_head_is_no_branch_of_its_own(void **state)
{
    (void)state;
    git_at("refs/remotes/origin/main", &row[1]);
    shell("git symbolic-ref refs/remotes/origin/HEAD refs/remotes/origin/main");
    assert_refs(REF_REMOTE, "origin/main=1");
}

static void test_tags_light_and_annotated(void **state)
{
    AUTO_REFS(refs);

    (void)state;
    assert_int_equal(store_tag_create(store, "light", &row[1], NULL), 0);
    assert_int_equal(store_tag_create(store, "told", &row[2], "best so far\n\nreally"), 0);
    assert_refs(REF_TAG, "light=1 told=2");
    assert_int_equal(store_refs(&refs, store, REF_TAG), 0);
    assert_null(refs.refs[0].message);
    assert_string_equal(refs.refs[1].message, "best so far\n\nreally");
    assert_shell("git cat-file -t told; git cat-file -t light", "tag\ncommit");
    assert_shell(
        "git for-each-ref --format='%(taggername) %(taggeremail)' refs/tags/told",
        "Ada <ada@example.org>"
    );
    assert_git_is_content();
    assert_int_equal(store_tag_create(store, "told", &row[0], NULL), E_EXISTS);
}

static void test_a_tag_of_a_file_is_no_version(void **state)
{
    (void)state;
    shell("git tag file $(git rev-parse main:manifest)");
    assert_refs(REF_TAG, "");
}

/* Names */

static void test_names_that_git_refuses_are_invalid(void **state)
{
    static const char *const names[] = {
        "",      "a b",
        "a..b",  "-a",
        "a~b",   "a^b",
        "a:b",   "a?",
        "a*",    "a[b",
        "/a",    "a/",
        "a//b",  "a.lock",
        ".a",    "a/.b",
        "a@{b",  "a.",
        "HEAD",  "@",
        "a\nb",  "a\tb",
        "a\\b",  "a\x7f",
        "a\xff", "0123456789abcdef0123456789abcdef01234567",
    };
    char component[300], whole[1200];

    (void)state;
    for (size_t i = 0; i < sizeof(names) / sizeof(names[0]); i++) {
        assert_int_equal(store_branch_create(store, names[i], &row[0]), E_INVALID);
        assert_int_equal(store_tag_create(store, names[i], &row[0], NULL), E_INVALID);
        assert_int_equal(store_switch_unborn(store, names[i]), E_INVALID);
        struct commit_id at;
        assert_int_equal(store_branch_rename(&at, store, "main", names[i]), E_INVALID);
    }
    memset(component, 'a', sizeof(component));
    component[251] = '\0';
    assert_int_equal(store_branch_create(store, component, &row[0]), E_INVALID);
    component[250] = '\0';
    assert_int_equal(store_branch_create(store, component, &row[0]), 0);
    snprintf(whole, sizeof(whole), "b%s/%s/%s/%s", component + 1, component, component, component);
    assert_int_equal(store_branch_create(store, whole, &row[0]), E_INVALID);
    whole[901] = '\0';
    assert_int_equal(store_branch_create(store, whole, &row[0]), E_INVALID);
    whole[900] = '\0';
    assert_int_equal(store_branch_create(store, whole, &row[0]), 0);
    struct commit_id was;
    assert_int_equal(store_branch_delete(&was, store, whole), 0);
    assert_git_is_content();
}

static void test_a_name_is_no_folder_of_others(void **state)
{
    struct commit_id was;

    (void)state;
    for (int packed = 0; packed < 2; packed++) {
        assert_int_equal(store_branch_create(store, "a", &row[0]), 0);
        if (packed)
            shell("git pack-refs --all");
        assert_int_equal(store_branch_create(store, "a/b", &row[0]), E_EXISTS);
        assert_message("refs/heads/a");
        assert_int_equal(store_branch_delete(&was, store, "a"), 0);
        assert_int_equal(store_branch_create(store, "a/b/c", &row[0]), 0);
        if (packed)
            shell("git pack-refs --all");
        assert_int_equal(store_branch_create(store, "a", &row[0]), E_EXISTS);
        assert_int_equal(store_branch_create(store, "a/b", &row[0]), E_EXISTS);
        assert_message("refs/heads/a/b/c");
        assert_int_equal(store_branch_rename(&was, store, "main", "a/b/c/d"), E_EXISTS);
        assert_head("main", &row[3]);
        assert_int_equal(store_branch_delete(&was, store, "a/b/c"), 0);
        assert_refs(REF_BRANCH, "*main=3");
    }
    assert_git_is_content();
}

static void test_what_is_there_and_what_is_not(void **state)
{
    struct commit_id was, no_commit = {{1}};
    git_oid tree = plain_tree("x");

    (void)state;
    assert_int_equal(store_branch_create(store, "main", &row[0]), E_EXISTS);
    assert_int_equal(store_branch_delete(&was, store, "mian"), E_NOTFOUND);
    assert_hint("main");
    assert_int_equal(store_branch_rename(&was, store, "nothing", "x"), E_NOTFOUND);
    assert_int_equal(store_tag_delete(&was, store, "main"), E_NOTFOUND);
    assert_int_equal(store_switch(store, "main2"), E_NOTFOUND);
    assert_hint("main");
    assert_int_equal(store_branch_create(store, "x", &no_commit), E_CORRUPT);
    no_commit = commit_id_of(&tree);
    assert_int_equal(store_branch_create(store, "x", &no_commit), E_CORRUPT);
    assert_int_equal(store_tag_create(store, "x", &no_commit, "m"), E_CORRUPT);
    assert_int_equal(store_reset(&was, store, &no_commit), E_CORRUPT);
    assert_refs(REF_BRANCH, "*main=3");
    assert_refs(REF_DELETED, "");
}

/* The trash */

static void test_a_deleted_branch_comes_back_from_the_trash(void **state)
{
    struct commit_id was, found;
    AUTO_REFS(deleted);

    (void)state;
    assert_int_equal(store_branch_create(store, "run/1", &row[2]), 0);
    assert_int_equal(store_branch_delete(&was, store, "run/1"), 0);
    assert_commit(was, row[2]);
    assert_refs(REF_BRANCH, "*main=3");
    assert_int_equal(store_refs(&deleted, store, REF_DELETED), 0);
    assert_int_equal(deleted.count, 1);
    assert_string_equal(deleted.refs[0].name, "run/1");
    assert_commit(deleted.refs[0].commit, row[2]);
    assert_true(time(NULL) - deleted.refs[0].time >= 0 && time(NULL) - deleted.refs[0].time < 100);
    assert_int_equal(store_resolve(&found, store, "run/1"), E_NOTFOUND);
    assert_hint("vera branch run/1 trash/run/1");
    assert_int_equal(store_resolve(&found, store, "trash/run/1"), 0);
    assert_commit(found, row[2]);
    assert_int_equal(store_branch_create(store, "run/1", &found), 0);
    assert_refs(REF_BRANCH, "*main=3 run/1=2");
    /* git can neither see a branch in it nor collect what it reaches. */
    assert_shell("git branch --format='%(refname:short)'", "main\nrun/1");
    assert_git_is_content();
}

static void test_the_newest_of_one_name_comes_first(void **state)
{
    struct commit_id was, found;
    AUTO_REFS(deleted);

    (void)state;
    for (size_t i = 0; i < 3; i++) {
        assert_int_equal(store_branch_create(store, "x", &row[i]), 0);
        assert_int_equal(store_branch_delete(&was, store, "x"), 0);
    }
    assert_refs(REF_DELETED, "x=2 x=1 x=0");
    assert_int_equal(store_resolve(&found, store, "trash/x"), 0);
    assert_commit(found, row[2]);
    /* Any of them, by the whole name. */
    AUTO_BUF(names);
    assert_int_equal(shell_status(&names, "git for-each-ref --format='%(refname)' refs/vera"), 0);
    buf_text(&names);
    const char *name = (char *)names.data;
    for (size_t i = 0; i < 3; i++) {
        AUTO_FREE(char, whole);
        size_t length = strcspn(name, "\n");
        whole = bytes_dup((struct bytes){(const uint8_t *)name, length});
        assert_int_equal(store_resolve(&found, store, whole), 0);
        assert_commit(found, row[i]);
        assert_int_equal(store_resolve(&found, store, whole + strlen("refs/vera/")), 0);
        assert_commit(found, row[i]);
        name += length + 1;
    }
}

static void test_names_in_the_trash_do_not_collide(void **state)
{
    struct commit_id was;

    (void)state;
    assert_int_equal(store_branch_create(store, "a", &row[0]), 0);
    assert_int_equal(store_branch_delete(&was, store, "a"), 0);
    assert_int_equal(store_branch_create(store, "a/b", &row[1]), 0);
    assert_int_equal(store_branch_delete(&was, store, "a/b"), 0);
    assert_refs(REF_DELETED, "a/b=1 a=0");
    /* A name is fresh even within one microsecond. */
    AUTO_FREE(char, first);
    assert_int_equal(trash_name(&first, store, "x"), 0);
    git_at(first, &row[0]);
    for (int i = 0; i < 50; i++) {
        AUTO_FREE(char, next);
        assert_int_equal(trash_name(&next, store, "x"), 0);
        assert_true(strcmp(next, first) > 0);
        git_at(next, &row[0]);
    }
}

static void test_times_of_the_trash_are_read_back(void **state)
{
    static const struct {
        const char *ref;
        time_t time;
    } cases[] = {
        {"refs/vera/trash/19700101T000000.000000Z/x", 0},
        {"refs/vera/trash/20000229T235959.999999Z/x", 951868799},
        {"refs/vera/trash/20260131T235959.123456Z/run/1", 1769903999},
        {"refs/vera/trash/21000301T000000.000000Z/x", 4107542400},
    };
    static const char *const others[] = {
        "refs/heads/x",
        "refs/vera/trash/x",
        "refs/vera/trash/20260131T235959.123456Z",
        "refs/vera/trash/20260131T235959.123456Z/",
        "refs/vera/trash/20260131T235959Z/x.000000000000000",
        "refs/vera/trash/2026-131T235959.123456Z/x",
    };
    time_t time;

    (void)state;
    for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
        assert_non_null(trash_parse(&time, cases[i].ref));
        assert_int_equal(time, cases[i].time);
    }
    assert_string_equal(trash_parse(&time, cases[2].ref), "run/1");
    for (size_t i = 0; i < sizeof(others) / sizeof(others[0]); i++)
        assert_null(trash_parse(&time, others[i]));
}

static void test_a_deleted_tag_keeps_its_message_in_the_trash(void **state)
{
    struct commit_id was;

    (void)state;
    assert_int_equal(store_tag_create(store, "best", &row[1], "the best"), 0);
    assert_int_equal(store_tag_delete(&was, store, "best"), 0);
    assert_commit(was, row[1]);
    assert_refs(REF_TAG, "");
    assert_refs(REF_DELETED, "best=1");
    assert_shell(
        "git cat-file tag $(git for-each-ref --format='%(refname)' refs/vera) | tail -1", "the best"
    );
    assert_int_equal(store_tag_create(store, "best", &row[1], NULL), 0);
    assert_git_is_content();
}

static void test_a_reset_keeps_what_it_leaves(void **state)
{
    struct commit_id previous;

    (void)state;
    assert_int_equal(store_reset(&previous, store, &row[1]), 0);
    assert_commit(previous, row[3]);
    assert_head("main", &row[1]);
    assert_refs(REF_DELETED, "main=3");
    /* Forward again, and to where it is: nothing is left behind. */
    assert_int_equal(store_reset(&previous, store, &row[3]), 0);
    assert_int_equal(store_reset(&previous, store, &row[3]), 0);
    assert_commit(previous, row[3]);
    assert_refs(REF_DELETED, "main=3");
    shell("git reflog expire --expire=now --all && git gc -q --prune=now");
    assert_git_is_content();
    assert_int_equal(store_reset(&previous, store, &row[0]), 0);
    assert_refs(REF_DELETED, "main=3 main=3");
    assert_shell("git log -g --format=%gs main -- | cut -c1-17", "reset: moving to ");
}

/* Whatever git collects, what was deleted stays until the trash drops it. */
static void test_gc_keeps_what_is_in_the_trash(void **state)
{
    struct commit_id was, alone;
    git_oid tree = plain_tree("alone");

    (void)state;
    alone = plain_commit(&tree, NULL, 0, T0, "alone");
    assert_int_equal(store_branch_create(store, "alone", &alone), 0);
    assert_int_equal(store_branch_delete(&was, store, "alone"), 0);
    shell("git reflog expire --expire=now --expire-unreachable=now --all &&"
          "git gc -q --prune=now");
    repository_reopen();
    assert_int_equal(store_resolve(&was, store, "trash/alone"), 0);
    assert_int_equal(store_branch_create(store, "alone", &was), 0);
    assert_git_is_content();
}

/* HEAD */

static void test_the_current_branch_is_not_deleted(void **state)
{
    struct commit_id was;

    (void)state;
    assert_int_equal(store_branch_delete(&was, store, "main"), E_INVALID);
    assert_hint("switch");
    assert_refs(REF_BRANCH, "*main=3");
}

static void test_switching(void **state)
{
    (void)state;
    assert_int_equal(store_branch_create(store, "run/1", &row[1]), 0);
    assert_int_equal(store_switch(store, "run/1"), 0);
    assert_head("run/1", &row[1]);
    assert_refs(REF_BRANCH, "main=3 *run/1=1");
    assert_shell("git symbolic-ref HEAD", "refs/heads/run/1");
    assert_int_equal(store_switch(store, "run/1"), 0);
    assert_reflog("HEAD", "checkout: moving from main to run/1\ntest");
    assert_int_equal(store_switch_unborn(store, "main"), E_EXISTS);
    assert_int_equal(store_switch_unborn(store, "fresh"), 0);
    assert_head("fresh", NULL);
    assert_int_equal(store_switch(store, "main"), 0);
    assert_head("main", &row[3]);
}

static void test_before_the_first_commit(void **state)
{
    struct commit_id at;
    struct commit_id none;

    (void)state;
    assert_int_equal(store_switch_unborn(store, "unborn"), 0);
    assert_refs(REF_BRANCH, "main=3");
    assert_int_equal(store_resolve(&at, store, "HEAD"), E_NOTFOUND);
    assert_message("'unborn' has no version yet");
    assert_int_equal(store_resolve(&at, store, "@{1}"), E_NOTFOUND);
    assert_int_equal(store_reset(&at, store, &row[0]), E_INVALID);
    assert_int_equal(store_branch_rename(&at, store, "unborn", "other"), E_NOTFOUND);
    assert_int_equal(store_branch_delete(&none, store, "unborn"), E_NOTFOUND);
    assert_int_equal(store_switch(store, "unborn"), E_NOTFOUND);
    assert_int_equal(store_switch_unborn(store, "another"), 0);
    assert_head("another", NULL);
}

static void test_a_detached_head_loses_nothing(void **state)
{
    struct commit_id at, alone;
    git_oid tree = plain_tree("alone");

    (void)state;
    alone = plain_commit(&tree, NULL, 0, T0, "alone");
    git_at("--no-deref HEAD", &row[1]);
    repository_reopen();
    assert_head(NULL, &row[1]);
    assert_refs(REF_BRANCH, "main=3");
    assert_int_equal(store_resolve(&at, store, "HEAD~1"), 0);
    assert_commit(at, row[0]);
    assert_int_equal(store_reset(&at, store, &row[0]), E_INVALID);
    assert_hint("vera switch");
    assert_int_equal(store_switch(store, "main"), 0);
    assert_refs(REF_DELETED, ""); /* main has it */
    git_at("--no-deref HEAD", &alone);
    repository_reopen();
    assert_int_equal(store_switch(store, "main"), 0);
    assert_head("main", &row[3]);
    assert_refs(REF_DELETED, "HEAD=4");
    assert_int_equal(store_resolve(&at, store, "trash/HEAD"), 0);
    assert_commit(at, alone);
}

static void test_a_damaged_head_is_corrupt(void **state)
{
    static const char *const commands[] = {
        "echo garbage >.vera/HEAD", ": >.vera/HEAD", "echo 'ref: ' >.vera/HEAD"};
    char *branch = NULL;
    struct commit_id tip;
    bool has_tip;
    AUTO_REFS(refs);

    (void)state;
    for (size_t i = 0; i < sizeof(commands) / sizeof(commands[0]); i++) {
        shell(commands[i]);
        assert_int_equal(store_head(&branch, &tip, &has_tip, store), E_CORRUPT);
        assert_message("HEAD");
        assert_null(branch);
    }
    shell("rm .vera/HEAD");
    assert_int_equal(store_head(&branch, &tip, &has_tip, store), E_CORRUPT);
    assert_int_equal(store_refs(&refs, store, REF_BRANCH), E_CORRUPT);
}

static void test_a_damaged_ref_is_corrupt_by_its_name(void **state)
{
    struct commit_id at;

    (void)state;
    shell("echo garbage >.vera/refs/heads/bad");
    assert_int_equal(store_resolve(&at, store, "bad"), E_CORRUPT);
    assert_message("refs/heads/bad");
    assert_int_equal(store_branch_create(store, "bad", &row[0]), E_CORRUPT);
    assert_refs(REF_BRANCH, "*main=3");
}

/* Renaming */

static void test_a_rename_takes_reflog_head_and_upstream_along(void **state)
{
    struct commit_id at;

    (void)state;
    git_at("refs/remotes/origin/far", &row[1]);
    shell("git remote add origin /nowhere && git branch -q --set-upstream-to=origin/far main &&"
          "git config --add branch.main.merge refs/heads/second && git update-ref "
          "-m before refs/heads/main main~1");
    repository_reopen();
    assert_int_equal(store_branch_rename(&at, store, "main", "trunk/one"), 0);
    assert_commit(at, row[2]);
    assert_head("trunk/one", &row[2]);
    assert_refs(REF_BRANCH, "*trunk/one=2");
    assert_refs(REF_DELETED, "");
    assert_reflog(
        "trunk/one", "branch: renamed refs/heads/main to refs/heads/trunk/one\nbefore\ntest"
    );
    assert_shell("test -e .vera/logs/refs/heads/main || echo gone", "gone");
    assert_shell("git config branch.trunk/one.remote", "origin");
    assert_shell(
        "git config --get-all branch.trunk/one.merge", "refs/heads/far\nrefs/heads/second"
    );
    assert_shell("git config branch.main.remote || echo none", "none");
    assert_git_is_content();
}

static void test_another_branch_is_renamed_and_head_stays(void **state)
{
    struct commit_id at;

    (void)state;
    assert_int_equal(store_branch_create(store, "x", &row[1]), 0);
    shell("git pack-refs --all");
    assert_int_equal(store_branch_rename(&at, store, "x", "y"), 0);
    assert_head("main", &row[3]);
    assert_refs(REF_BRANCH, "*main=3 y=1");
    assert_int_equal(store_branch_rename(&at, store, "y", "main"), E_EXISTS);
    assert_int_equal(store_branch_rename(&at, store, "y", "y"), E_EXISTS);
    assert_refs(REF_BRANCH, "*main=3 y=1");
}

static void test_a_rename_takes_the_place_of_an_old_reflog(void **state)
{
    struct commit_id at;

    (void)state;
    shell("mkdir -p .vera/logs/refs/heads/y/empty");
    assert_int_equal(store_branch_create(store, "x", &row[1]), 0);
    assert_int_equal(store_branch_rename(&at, store, "x", "y"), 0);
    assert_int_equal(store_resolve(&at, store, "y@{1}"), 0);
    assert_commit(at, row[1]);
}

static void test_what_git_named_oddly_can_be_renamed_and_deleted(void **state)
{
    struct commit_id was;

    (void)state;
    shell("git update-ref refs/heads/-x main~1 && git update-ref refs/heads/-y main~1");
    assert_int_equal(store_branch_rename(&was, store, "-x", "x"), 0);
    assert_int_equal(store_branch_delete(&was, store, "-y"), 0);
    assert_commit(was, row[2]);
    assert_refs(REF_BRANCH, "*main=3 x=2");
}

static void test_deleting_a_branch_drops_its_settings(void **state)
{
    struct commit_id was;

    (void)state;
    assert_int_equal(store_branch_create(store, "x", &row[1]), 0);
    shell("git config branch.x.remote origin && git config branch.x.merge refs/heads/x &&"
          "git config branch.x.y.remote other");
    repository_reopen();
    assert_int_equal(store_branch_delete(&was, store, "x"), 0);
    assert_shell("git config --get-regexp '^branch'", "branch.x.y.remote other");
}

/* Races */

static void test_of_two_that_move_one_ref_the_second_gets_conflict(void **state)
{
    AUTO_STORE(other);
    git_oid at = git_id(&row[3]), to = git_id(&row[1]);
    struct ref_change change = {
        .name = "refs/heads/main",
        .has_old = true,
        .has_new = true,
        .old = at,
        .new = to,
    };
    struct commit_id previous;

    (void)state;
    assert_int_equal(store_open(&other, scratch, NULL), 0);
    assert_head("main", &row[3]); /* both have read it */
    assert_int_equal(store_reset(&previous, other, &row[0]), 0);
    assert_int_equal(refs_move(store, &change, 1, "late"), E_CONFLICT);
    assert_head("main", &row[0]);
    change.old = git_id(&row[0]);
    assert_int_equal(refs_move(store, &change, 1, "knowing"), 0);
    /* Two that create one. */
    struct ref_change new = {.name = "refs/heads/new", .has_new = true, .new = to};
    assert_int_equal(refs_move(other, &new, 1, "first"), 0);
    assert_int_equal(refs_move(store, &new, 1, "second"), E_CONFLICT);
    /* Of several changes none is made. */
    struct ref_change both[] = {{.name = "refs/heads/free", .has_new = true, .new = to}, new};
    assert_int_equal(refs_move(store, both, 2, "both"), E_CONFLICT);
    assert_refs(REF_BRANCH, "*main=1 new=1");
}

static void test_a_branch_that_moves_while_it_is_deleted_stays(void **state)
{
    AUTO_STORE(other);
    struct commit_id previous;
    AUTO_FREE(char, trash);

    (void)state;
    assert_int_equal(store_open(&other, scratch, NULL), 0);
    assert_int_equal(trash_name(&trash, store, "main"), 0);
    struct ref_change leave[] = {
        {.name = trash, .has_new = true, .new = git_id(&row[3])},
        {.name = "refs/heads/main", .has_old = true, .old = git_id(&row[3])},
    };
    assert_int_equal(store_reset(&previous, other, &row[2]), 0);
    assert_int_equal(refs_move(store, leave, 2, "delete"), E_CONFLICT);
    assert_refs(REF_BRANCH, "*main=2");
    assert_refs(REF_DELETED, "main=3"); /* the reset's */
}

static void test_a_read_only_repository_can_be_read(void **state)
{
    (void)state;
    assert_int_equal(store_tag_create(store, "t", &row[1], "m"), 0);
    shell("cp -r .vera copy && chmod -R a-w copy");
    store_release(&store);
    assert_int_equal(store_open(&store, scratch, "copy"), 0);
    assert_refs(REF_BRANCH, "*main=3");
    assert_refs(REF_TAG, "t=1");
    shell("chmod -R u+w copy");
}

#define CASE(name) cmocka_unit_test_setup_teardown(name, refs_setup, repository_remove)

int main(void)
{
    const struct CMUnitTest tests[] = {
        CASE(test_branches_are_listed_by_name_as_git_lists_them),
        CASE(test_an_upstream_is_told),
        CASE(test_a_remote_head_is_no_branch_of_its_own),
        CASE(test_tags_light_and_annotated),
        CASE(test_a_tag_of_a_file_is_no_version),
        CASE(test_names_that_git_refuses_are_invalid),
        CASE(test_a_name_is_no_folder_of_others),
        CASE(test_what_is_there_and_what_is_not),
        CASE(test_a_deleted_branch_comes_back_from_the_trash),
        CASE(test_the_newest_of_one_name_comes_first),
        CASE(test_names_in_the_trash_do_not_collide),
        CASE(test_times_of_the_trash_are_read_back),
        CASE(test_a_deleted_tag_keeps_its_message_in_the_trash),
        CASE(test_a_reset_keeps_what_it_leaves),
        CASE(test_gc_keeps_what_is_in_the_trash),
        CASE(test_the_current_branch_is_not_deleted),
        CASE(test_switching),
        CASE(test_before_the_first_commit),
        CASE(test_a_detached_head_loses_nothing),
        CASE(test_a_damaged_head_is_corrupt),
        CASE(test_a_damaged_ref_is_corrupt_by_its_name),
        CASE(test_a_rename_takes_reflog_head_and_upstream_along),
        CASE(test_another_branch_is_renamed_and_head_stays),
        CASE(test_a_rename_takes_the_place_of_an_old_reflog),
        CASE(test_what_git_named_oddly_can_be_renamed_and_deleted),
        CASE(test_deleting_a_branch_drops_its_settings),
        CASE(test_of_two_that_move_one_ref_the_second_gets_conflict),
        CASE(test_a_branch_that_moves_while_it_is_deleted_stays),
        CASE(test_a_read_only_repository_can_be_read),
    };
    return cmocka_run_group_tests(tests, template_make, template_remove);
}
