/* What is pushed to a path is there whole, checked and durable; nothing of theirs is lost. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "store/push.h"
#include "tests/versions.h"

static struct commit_id versions[3]; /* ours: main, and side/one from the first */

/* theirs.git, beside .vera, is empty. */
static int push_setup(void **state)
{
    if (repository_make(state) != 0)
        return 1;
    versions[0] = commit_adapter("llama/step-000");
    versions[1] = commit_adapter("llama/step-010");
    if (store_branch_create(store, "side/one", &versions[0]) != 0 ||
        store_tag_create(store, "served", &versions[1], "told") != 0)
        return 1;
    shell("unset GIT_DIR; git init -q --bare theirs.git && "
          "git --git-dir=theirs.git symbolic-ref HEAD refs/heads/main");
    return 0;
}

static int push(struct push_ref *refs, size_t count)
{
    struct push_request request = {.url = "theirs.git", .refs = refs, .count = count};
    struct push_result result = {0};

    return push_send(&result, store, &request);
}

static void assert_theirs(const char *ref, const char *expected)
{
    char command[256];

    snprintf(
        command, sizeof(command), "git --git-dir=theirs.git rev-parse -q --verify %s || echo none",
        ref
    );
    AUTO_BUF(ours);
    char asked[256];
    snprintf(asked, sizeof(asked), "git rev-parse -q --verify %s || echo none", expected);
    assert_int_equal(shell_status(&ours, asked), 0);
    assert_shell(command, buf_text(&ours));
}

static void test_created_moved_up_to_date_and_deleted(void **state)
{
    struct push_ref all[] = {
        {.name = "refs/heads/main"}, {.name = "refs/heads/side/one"}, {.name = "refs/tags/served"}};
    struct push_ref main_only[] = {{.name = "refs/heads/main"}};
    struct push_ref gone[] = {{.name = "refs/heads/side/one", .is_deletion = true}};

    (void)state;
    if (push(all, 3) != 0)
        fail_msg("%s", error_message());
    for (size_t i = 0; i < 3; i++)
        assert_int_equal(all[i].status, PUSH_CREATED);
    assert_theirs("refs/heads/main", "main");
    assert_theirs("refs/tags/served", "refs/tags/served");
    assert_int_equal(push(main_only, 1), 0);
    assert_int_equal(main_only[0].status, PUSH_UP_TO_DATE);
    commit_adapter("llama/step-020");
    assert_int_equal(push(main_only, 1), 0);
    assert_int_equal(main_only[0].status, PUSH_MOVED);
    assert_theirs("main", "main");
    assert_int_equal(push(gone, 1), 0);
    assert_int_equal(gone[0].status, PUSH_DELETED);
    assert_theirs("refs/heads/side/one", "refs/none");
    assert_int_equal(push(gone, 1), E_CONFLICT);
    push_refs_release(gone, 1);
    shell("git --git-dir=theirs.git fsck --strict");
    assert_shell("git --git-dir=theirs.git reflog main --format=%gs | head -1 || true", "");
}

static void test_only_what_a_ref_leads_to_is_sent(void **state)
{
    struct push_ref side[] = {{.name = "refs/heads/side/one"}};

    (void)state;
    assert_int_equal(push(side, 1), 0);
    assert_shell(
        "git --git-dir=theirs.git cat-file -e $(git rev-parse main) 2>/dev/null || echo no", "no"
    );
    assert_theirs("side/one", "side/one");
}

static void test_what_would_lose_theirs_is_refused_unless_forced(void **state)
{
    struct push_ref both[] = {{.name = "refs/heads/main"}, {.name = "refs/heads/side/one"}};
    struct push_ref forced[] = {{.name = "refs/heads/main", .force = true}};
    struct push_ref tag[] = {{.name = "refs/tags/served"}};
    struct commit_id was;

    (void)state;
    assert_int_equal(push(both, 1), 0);
    assert_int_equal(push(tag, 1), 0);
    assert_int_equal(store_reset(&was, store, &versions[0]), 0);
    commit_adapter("llama/step-030");
    assert_int_equal(push(both, 2), E_CONFLICT);
    assert_message("main: it has versions that are not here");
    assert_hint("vera pull");
    assert_int_equal(both[0].status, PUSH_REFUSED);
    push_refs_release(both, 2);
    assert_theirs("refs/heads/side/one", "refs/none"); /* all or none */
    assert_int_equal(push(forced, 1), 0);
    assert_int_equal(forced[0].status, PUSH_FORCED);
    assert_theirs("main", "main");
    assert_int_equal(store_tag_delete(&was, store, "served"), 0);
    assert_int_equal(store_tag_create(store, "served", &versions[0], "another"), 0);
    assert_int_equal(push(tag, 1), E_CONFLICT);
    push_refs_release(tag, 1);
}

static void test_a_vera_repository_keeps_what_was_lost(void **state)
{
    struct push_ref main_ref[] = {{.name = "refs/heads/main", .force = true}};
    struct push_ref side[] = {{.name = "refs/heads/side/one"}};
    struct push_request request = {.url = "their", .refs = main_ref, .count = 1};
    struct push_result result;
    struct commit_id was;

    (void)state;
    shell("mkdir their && cp -a theirs.git their/.vera");
    assert_int_equal(push_send(&result, store, &request), 0);
    assert_int_equal(store_reset(&was, store, &versions[0]), 0);
    commit_adapter("llama/step-030");
    assert_int_equal(push_send(&result, store, &request), 0);
    assert_shell(
        "git --git-dir=their/.vera for-each-ref --format='%(objectname)' 'refs/vera/trash/*/main' "
        "| grep -c $(git rev-parse main@{2})",
        "1"
    );
    request.refs = side;
    assert_int_equal(push_send(&result, store, &request), 0);
    side[0].is_deletion = true;
    assert_int_equal(push_send(&result, store, &request), 0);
    struct push_ref current[] = {{.name = "refs/heads/main", .is_deletion = true}};
    request.refs = current;
    assert_int_equal(push_send(&result, store, &request), E_CONFLICT);
    assert_message("current branch");
    push_refs_release(current, 1);
}

static void test_what_is_not_there_is_named(void **state)
{
    struct push_ref none[] = {{.name = "refs/heads/none"}};
    struct push_ref main_ref[] = {{.name = "refs/heads/main"}};
    struct push_request request = {.url = "nowhere", .refs = main_ref, .count = 1};
    struct push_result result;

    (void)state;
    assert_int_equal(push(none, 1), E_NOTFOUND);
    assert_message("refs/heads/none");
    assert_int_equal(push_send(&result, store, &request), E_NOTFOUND);
    assert_message("nowhere");
}

/* Damage does not spread. */
static void test_what_is_damaged_is_not_taken(void **state)
{
    struct push_ref main_ref[] = {{.name = "refs/heads/main"}};

    (void)state;
    shell("f=.vera/objects/$(git rev-parse main:vectors/frame | sed 's,^..,&/,'); chmod u+w $f; "
          "truncate -s -3 $f");
    repository_reopen();
    assert_true(push(main_ref, 1) < 0);
    assert_theirs("refs/heads/main", "refs/none");
    assert_shell("ls -d theirs.git/objects/tmp* 2>/dev/null | wc -l", "0");
}

/* Of two who push at once, one is told; no version is lost. */
static void test_two_at_once(void **state)
{
    (void)state;
    shell("mkdir a b && cp -a .vera a/ && cp -a .vera b/");
    for (int round = 0; round < 10; round++) {
        pid_t pids[2];
        int won = 0;
        for (int i = 0; i < 2; i++) {
            fflush(NULL);
            if ((pids[i] = fork()) != 0)
                continue;
            struct push_ref ref = {.name = "refs/heads/main"};
            struct push_request request = {.url = "theirs.git", .refs = &ref, .count = 1};
            struct push_result result;
            struct store *own = NULL;
            AUTO_SNAPSHOT(snapshot);
            char note[32];
            snprintf(note, sizeof(note), "round %d, %d", round, i);
            snapshot_vary(&snapshot, "llama/step-000", note);
            struct commit_request commit = {.snapshot = &snapshot, .message = note};
            struct commit_result made = {0};
            if (store_open(&own, ".", i ? "b" : "a") < 0 || store_commit(&made, own, &commit) < 0)
                _exit(9);
            int err = push_send(&result, own, &request);
            _exit(err == 0 ? 0 : err == E_CONFLICT ? 1 : 8);
        }
        for (int i = 0; i < 2; i++) {
            int status;
            assert_int_equal(waitpid(pids[i], &status, 0), pids[i]);
            assert_true(WIFEXITED(status) && WEXITSTATUS(status) <= 1);
            won += WEXITSTATUS(status) == 0;
        }
        assert_int_equal(won, 1);
        /* Both begin the next round from what is there. */
        shell("for d in a b; do git --git-dir=$d/.vera fetch -q ../theirs.git main 2>/dev/null || "
              "git --git-dir=$d/.vera fetch -q theirs.git main; git --git-dir=$d/.vera update-ref "
              "refs/heads/main FETCH_HEAD; done");
    }
    assert_shell("git --git-dir=theirs.git rev-list --count main", "12");
    shell("git --git-dir=theirs.git fsck --strict");
}

#define PUSH_TEST(name) cmocka_unit_test_setup_teardown(name, push_setup, repository_remove)

int main(void)
{
    const struct CMUnitTest tests[] = {
        PUSH_TEST(test_created_moved_up_to_date_and_deleted),
        PUSH_TEST(test_only_what_a_ref_leads_to_is_sent),
        PUSH_TEST(test_what_would_lose_theirs_is_refused_unless_forced),
        PUSH_TEST(test_a_vera_repository_keeps_what_was_lost),
        PUSH_TEST(test_what_is_not_there_is_named),
        PUSH_TEST(test_what_is_damaged_is_not_taken),
        PUSH_TEST(test_two_at_once),
    };

    return cmocka_run_group_tests(tests, template_make, template_remove);
}
