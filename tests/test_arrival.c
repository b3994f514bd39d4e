/* What arrives from elsewhere is ours whole and checked, or nothing of it is there. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "store/arrival_child.h"
#include "tests/versions.h"

#define VERSIONS 3

static struct commit_id versions[VERSIONS]; /* main, of the repository that is fetched from */

/* "theirs" has a run on main and a branch; `store` is empty, in ours/. */
static int arrival_setup(void **state)
{
    if (repository_make(state) != 0)
        return 1;
    for (int i = 0; i < VERSIONS; i++) {
        char dir[32];
        snprintf(dir, sizeof(dir), "llama/step-%03d", 10 * i);
        versions[i] = commit_adapter(dir);
    }
    if (store_branch_create(store, "side/one", &versions[1]) != 0 ||
        store_tag_create(store, "served", &versions[2], "told") != 0)
        return 1;
    store_release(&store);
    shell("mv .vera theirs.git && git init -q --bare .vera && git --git-dir=.vera symbolic-ref "
          "HEAD refs/heads/main");
    return store_open(&store, ".", ".vera");
}

static int fetch_from(struct arrival *out, const char *url, uint64_t max_bytes)
{
    struct arrival_request request = {.url = url, .max_bytes = max_bytes};

    return arrival_fetch(out, store, &request);
}

static void assert_nothing_is_left(void)
{
    assert_shell("ls -d .vera/objects/tmp* 2>/dev/null | wc -l", "0");
    assert_shell("find .vera/objects -type f | wc -l", "0");
    assert_shell("git for-each-ref", "");
}

static void test_everything_that_is_wanted_arrives(void **state)
{
    AUTO_ARRIVAL(arrival);

    (void)state;
    if (fetch_from(&arrival, "theirs.git", 0) != 0)
        fail_msg("%s", error_message());
    assert_int_equal(arrival.count, 3);
    assert_string_equal(arrival.refs[0].name, "refs/heads/main");
    assert_string_equal(arrival.refs[1].name, "refs/heads/side/one");
    assert_string_equal(arrival.refs[2].name, "refs/tags/served");
    assert_string_equal(arrival.head, "refs/heads/main");
    assert_int_equal(arrival.versions, VERSIONS);
    assert_true(arrival.objects > 15 && arrival.bytes > 1000);
    for (int i = 0; i < VERSIONS; i++) {
        AUTO_SNAPSHOT(arrived);
        AUTO_SNAPSHOT(expected);
        char dir[32];
        snprintf(dir, sizeof(dir), "llama/step-%03d", 10 * i);
        snapshot_read(&expected, dir);
        assert_int_equal(store_load(&arrived, store, &versions[i]), 0);
        assert_snapshots_equal(&arrived, &expected);
    }
    assert_shell("ls -d .vera/objects/tmp* 2>/dev/null | wc -l", "0");
    shell("git update-ref refs/heads/main $(git --git-dir=theirs.git rev-parse main) && git fsck "
          "--strict");
}

static void test_what_is_here_does_not_come_again(void **state)
{
    AUTO_ARRIVAL(first);
    AUTO_ARRIVAL(second);
    AUTO_ARRIVAL(third);

    (void)state;
    assert_int_equal(fetch_from(&first, "theirs.git", 0), 0);
    shell("git update-ref refs/remotes/origin/main $(git --git-dir=theirs.git rev-parse main) && "
          "git update-ref refs/tags/served $(git --git-dir=theirs.git rev-parse served)");
    assert_int_equal(fetch_from(&second, "theirs.git", 0), 0);
    assert_int_equal(second.count, 3);
    assert_int_equal(second.versions, 0);
    assert_int_equal(second.objects, 0);
    shell("export GIT_DIR=theirs.git && git update-ref refs/heads/main "
          "$(git commit-tree -p main -m again main~2^{tree})");
    assert_int_equal(fetch_from(&third, "theirs.git", 0), 0);
    assert_int_equal(third.versions, 1); /* its tree is here already */
    assert_int_equal(third.objects, 1);
    assert_shell("git cat-file -t $(git --git-dir=theirs.git rev-parse main)", "commit");
}

static void test_an_empty_repository_and_none(void **state)
{
    AUTO_ARRIVAL(arrival);

    (void)state;
    shell("git init -q --bare empty.git");
    assert_int_equal(fetch_from(&arrival, "empty.git", 0), 0);
    assert_int_equal(arrival.count, 0);
    assert_true(fetch_from(&arrival, "nowhere.git", 0) < 0);
    assert_message("nowhere.git");
    assert_nothing_is_left();
}

static void test_more_bytes_than_are_allowed_are_refused(void **state)
{
    AUTO_ARRIVAL(arrival);

    (void)state;
    assert_int_equal(fetch_from(&arrival, "theirs.git", 2000), E_LIMIT);
    assert_hint("--max-bytes");
    assert_nothing_is_left();
}

static void test_an_interruption_leaves_nothing(void **state)
{
    AUTO_ARRIVAL(arrival);

    (void)state;
    interrupt_flag = 1;
    int err = fetch_from(&arrival, "theirs.git", 0);
    interrupt_flag = 0;
    assert_int_equal(err, E_INTERRUPTED);
    assert_nothing_is_left();
}

/* What a version is made of, with one thing changed, on theirs' main. */
static void test_versions_that_fsck_would_reject_are_refused(void **state)
{
    static const struct {
        const char *entry, *how; /* the new line of the tree, of $blob; or sed's */
        const char *says;
    } cases[] = {
        {"manifest", "sed s/^file/fila/", NULL},
        {"recipe", "sed 's/seed 0/seed 1/'", NULL},
        {"manifest", "sed 's,README.md,../README.md,'", NULL},
        {"manifest", "sed 's,README.md,/etc/passwd,'", NULL},
        {"layout", "head -c 100", NULL},
        {"adapter_config.json", "sed 's/\"r\": 32/\"r\": 33/'", NULL},
        {"vectors", NULL, NULL}, /* gone */
        {"manifest", NULL, NULL},
    };

    (void)state;
    shell("cp -a theirs.git whole.git");
    for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
        AUTO_ARRIVAL(arrival);
        AUTO_BUF(command);
        shell("rm -rf theirs.git && cp -a whole.git theirs.git");
        const char *entry = cases[i].entry;
        int err =
            cases[i].how
                ? buf_printf(
                      &command,
                      "export GIT_DIR=theirs.git; blob=$(git cat-file blob main:%s | %s | git "
                      "hash-object -w --stdin) && tree=$(git ls-tree main | sed -E "
                      "\"s/[0-9a-f]{40}\\t%s\\$/$blob\\t%s/\" | git mktree) && ",
                      entry, cases[i].how, entry, entry
                  )
                : buf_printf(
                      &command,
                      "export GIT_DIR=theirs.git; tree=$(git ls-tree main | grep -v "
                      "'\t%s$' | git mktree) && ",
                      entry
                  );
        assert_int_equal(err, 0);
        assert_int_equal(
            buf_printf(
                &command, "test $tree != $(git rev-parse main^{tree}) && git update-ref "
                          "refs/heads/main $(git commit-tree -p main -m lie $tree)"
            ),
            0
        );
        shell((char *)command.data);
        err = fetch_from(&arrival, "theirs.git", 0);
        if (err != E_CORRUPT && err != E_INVALID)
            fail_msg("%s, %s: %d", entry, cases[i].how ? cases[i].how : "gone", err);
        assert_nothing_is_left();
    }
}

static void test_a_ref_to_what_is_missing_is_refused(void **state)
{
    AUTO_ARRIVAL(arrival);

    (void)state;
    shell("id=$(git --git-dir=theirs.git rev-parse main:vectors/frame) && "
          "rm -f theirs.git/objects/$(echo $id | sed 's,^..,&/,')");
    int err = fetch_from(&arrival, "theirs.git", 0);
    assert_true(err < 0);
    assert_nothing_is_left();
}

static void test_a_branch_is_one_of_commits(void **state)
{
    AUTO_ARRIVAL(arrival);

    (void)state;
    shell("git --git-dir=theirs.git rev-parse main^{tree} >theirs.git/refs/heads/tree");
    assert_int_equal(fetch_from(&arrival, "theirs.git", 0), E_CORRUPT);
    assert_nothing_is_left();
}

static void test_only_what_is_wanted_arrives(void **state)
{
    static const char *const side[] = {"refs/heads/side/*"};
    struct arrival_request request = {.url = "theirs.git", .specs = side, .spec_count = 1};
    AUTO_ARRIVAL(arrival);

    (void)state;
    assert_int_equal(arrival_fetch(&arrival, store, &request), 0);
    assert_int_equal(arrival.count, 1);
    assert_int_equal(arrival.versions, 2);
    assert_shell(
        "git cat-file -e $(git --git-dir=theirs.git rev-parse main) 2>/dev/null || echo no", "no"
    );
}

static void test_a_commit_whose_tree_is_here_is_looked_at(void **state)
{
    AUTO_ARRIVAL(first);
    AUTO_ARRIVAL(second);

    (void)state;
    assert_int_equal(fetch_from(&first, "theirs.git", 0), 0);
    shell("export GIT_DIR=theirs.git && git update-ref refs/heads/main "
          "$(git commit-tree -p main -m 'no version' main:vectors)");
    assert_int_equal(fetch_from(&second, "theirs.git", 0), E_CORRUPT);
}

static void test_urls_of_paths(void **state)
{
    static const struct {
        const char *url;
        bool is_path;
    } cases[] = {
        {"theirs.git", true},    {"/srv/a:b/c", true},        {"./host:path", true},
        {"host:path", false},    {"user@host:path/x", false}, {"https://host/x", false},
        {"ssh://host/x", false}, {"file:///srv/x", true},     {"git://host/x", false},
    };
    AUTO_ARRIVAL(arrival);
    AUTO_BUF(url);

    (void)state;
    for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++)
        assert_int_equal(url_is_path(cases[i].url), cases[i].is_path);
    shell("cp -a theirs.git 'a b%41.git' && mkdir 'host:path' && cp -a theirs.git host:path/.vera");
    assert_true(url_is_path("host:path"));
    assert_int_equal(fetch_from(&arrival, "host:path", 0), 0);
    assert_int_equal(arrival.count, 3);
    arrival_release(&arrival);
    assert_int_equal(buf_printf(&url, "file://%s/a%%20b%%2541.git", scratch), 0);
    if (fetch_from(&arrival, (char *)url.data, 0) != 0)
        fail_msg("%s", error_message());
    assert_int_equal(arrival.count, 3);
    arrival_release(&arrival);
    assert_int_equal(fetch_from(&arrival, "file://elsewhere/x", 0), E_INVALID);
    assert_int_equal(fetch_from(&arrival, "file:///no/where", 0), E_NOTFOUND);
}

/* What no ref leads to is looked at as well: one that does may come later, when it is here. */
static void test_nothing_arrives_unchecked(void **state)
{
    static const char *const side[] = {"refs/heads/side/*"};
    struct arrival_request request = {.url = "theirs.git", .specs = side, .spec_count = 1};
    AUTO_ARRIVAL(arrival);

    (void)state;
    shell("export GIT_DIR=theirs.git; tree=$(git ls-tree main | grep -v '\tlayout$' | git mktree) "
          "&& git update-ref refs/heads/main $(git commit-tree -p main -m lie $tree)");
    if (arrival_fetch(&arrival, store, &request) == 0) {
        AUTO_ARRIVAL(later);
        assert_int_equal(fetch_from(&later, "theirs.git", 0), E_CORRUPT);
    }
}

static void test_what_the_dead_left_is_removed(void **state)
{
    AUTO_ARRIVAL(arrival);

    (void)state;
    shell("mkdir -p .vera/objects/tmp_objdir-arriving-abcdef/objects/pack && "
          "touch .vera/objects/tmp_objdir-arriving-abcdef/alive");
    assert_int_equal(fetch_from(&arrival, "theirs.git", 0), 0);
    assert_shell("ls -d .vera/objects/tmp* 2>/dev/null | wc -l", "0");
}

#define ARRIVAL_TEST(name) cmocka_unit_test_setup_teardown(name, arrival_setup, repository_remove)

int main(void)
{
    const struct CMUnitTest tests[] = {
        ARRIVAL_TEST(test_everything_that_is_wanted_arrives),
        ARRIVAL_TEST(test_what_is_here_does_not_come_again),
        ARRIVAL_TEST(test_an_empty_repository_and_none),
        ARRIVAL_TEST(test_more_bytes_than_are_allowed_are_refused),
        ARRIVAL_TEST(test_an_interruption_leaves_nothing),
        ARRIVAL_TEST(test_versions_that_fsck_would_reject_are_refused),
        ARRIVAL_TEST(test_a_ref_to_what_is_missing_is_refused),
        ARRIVAL_TEST(test_a_branch_is_one_of_commits),
        ARRIVAL_TEST(test_nothing_arrives_unchecked),
        ARRIVAL_TEST(test_only_what_is_wanted_arrives),
        ARRIVAL_TEST(test_a_commit_whose_tree_is_here_is_looked_at),
        ARRIVAL_TEST(test_urls_of_paths),
        ARRIVAL_TEST(test_what_the_dead_left_is_removed),
    };

    return cmocka_run_group_tests(tests, template_make, template_remove);
}
