/* Tests of store/message.c, identity.c and version.c: messages, trailers, metrics, authors and
   dates, with git as the second opinion. */
#define _GNU_SOURCE
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "tests/versions.h"

static const char *const messages[] = {
    "one line",
    "one line\n",
    "\n\n  \n  indented first\n\n\n\nsecond   \n\t\nthird\n\n\n",
    "title\n\nbody\nbody",
    "title\r\n\r\nbody\r\n",
    "title\n\nSigned-off-by: A <a@b>\nMetric-rte: 1",
    "title\n\nSigned-off-by: A <a@b>\nnot a trailer",
    "title\n\nfirst\n\nKey: value\n  folded",
    "Key: value",
    "Key: value\n\nOther: value",
    "title\n\nhttp://example.org/x",
    "title\n\nKey : value",
    "title\n\nKey:value",
    "\xc3\xa4\xe2\x82\xac \xf0\x9f\x8e\x89",
    "title\n\n# not a comment",
};

static void test_messages_are_cleaned_as_git_cleans_them(void **state)
{
    (void)state;
    for (size_t i = 0; i < sizeof(messages) / sizeof(messages[0]); i++) {
        AUTO_BUF(ours);
        AUTO_BUF(theirs);
        assert_int_equal(message_make(&ours, messages[i], "fallback", NULL, 0), 0);
        assert_int_equal(file_write("message", text_bytes(messages[i])), 0);
        shell("git stripspace <message >clean");
        assert_int_equal(file_read(&theirs, "clean", 10000), 0);
        assert_string_equal(buf_text(&ours), buf_text(&theirs));
    }
}

static void test_an_empty_message_is_replaced(void **state)
{
    static const char *const empty[] = {NULL, "", "\n", " \t\n\r\n  "};
    AUTO_SNAPSHOT(snapshot);

    (void)state;
    for (size_t i = 0; i < 4; i++) {
        AUTO_BUF(made);
        assert_int_equal(message_make(&made, empty[i], "fallback", NULL, 0), 0);
        assert_string_equal(buf_text(&made), "fallback\n");
    }
    snapshot_read(&snapshot, "llama/step-000");
    commit_snapshot(&snapshot);
    assert_shell("git log -1 --format=%B", "VeRA adapter of rank 32, 14 modules\n");
}

/* git finds our trailers, and those that were there: as if it had added them itself. */
static void test_trailers_are_appended_as_git_appends_them(void **state)
{
    static const struct trailer trailers[] = {{"Metric-rte", "0.787"}, {"Reviewed-by", "B <b@c>"}};

    (void)state;
    for (size_t i = 0; i < sizeof(messages) / sizeof(messages[0]); i++) {
        AUTO_BUF(ours);
        AUTO_BUF(parsed);
        assert_int_equal(message_make(&ours, messages[i], "fallback", trailers, 2), 0);
        assert_int_equal(file_write("message", buf_bytes(&ours)), 0);
        assert_int_equal(
            shell_status(&parsed, "git interpret-trailers --parse message | tail -n 2"), 0
        );
        assert_string_equal(buf_text(&parsed), "Metric-rte: 0.787\nReviewed-by: B <b@c>");
    }
    AUTO_BUF(joined);
    assert_int_equal(message_make(&joined, messages[5], "", trailers, 1), 0);
    assert_string_equal(
        buf_text(&joined), "title\n\nSigned-off-by: A <a@b>\nMetric-rte: 1\nMetric-rte: 0.787\n"
    );
}

static void test_what_is_no_trailer_is_refused(void **state)
{
    static const struct trailer bad[] = {
        {"", "x"},     {"a b", "x"},  {"a:b", "x"},      {"a\n", "x"},
        {"a", "x\ny"}, {"a", "x\ry"}, {"\xc3\xa4", "x"}, {"a", "\xff"},
    };

    (void)state;
    for (size_t i = 0; i < sizeof(bad) / sizeof(bad[0]); i++) {
        AUTO_BUF(made);
        assert_int_equal(message_make(&made, "title", "", &bad[i], 1), E_INVALID);
        assert_null(made.data);
    }
    AUTO_BUF(made);
    assert_int_equal(message_make(&made, "\xff", "", NULL, 0), E_INVALID);
}

static void test_metrics_are_read_from_the_trailers(void **state)
{
    static const char message[] =
        "title\n\nMetric-body: 1\n\nbody\n\nMetric-rte: 0.787\nmetric-low: 1\n"
        "Metric-: 2\nMetric-nan: nan\nMetric-hex: 0x10\nMetric-huge: 1e999\n"
        "Metric-eval/loss_2: -1.5e-3 \nMetric-rte: 0.8\nMetric-text: 1 x";
    struct version version = {0};

    (void)state;
    assert_int_equal(message_metrics(&version, message), 0);
    assert_int_equal(version.metric_count, 3);
    assert_string_equal(version.metrics[0].name, "rte");
    assert_true(version.metrics[0].value >= 0.787 && version.metrics[0].value <= 0.787);
    assert_string_equal(version.metrics[1].name, "eval/loss_2");
    assert_true(version.metrics[1].value >= -1.5e-3 && version.metrics[1].value <= -1.5e-3);
    assert_string_equal(version.metrics[2].name, "rte");
    version_release(&version);
    assert_int_equal(message_metrics(&version, "Metric-rte: 1"), 0);
    assert_int_equal(version.metric_count, 0);
}

/* What a commit made in this environment says. */
static int commit_in(const char *author, struct version *version)
{
    AUTO_SNAPSHOT(snapshot);
    static const struct trailer trailers[] = {{"Metric-loss", "0.25"}};
    struct commit_result result = {0};

    snapshot_read(&snapshot, "llama/step-000");
    struct commit_request request = {
        .snapshot = &snapshot,
        .author = author,
        .message = "title\n\nbody",
        .trailers = trailers,
        .trailer_count = 1,
        .allow_empty = true,
    };
    int err = store_commit(&result, store, &request);
    if (err < 0)
        return err;
    free(result.branch);
    assert_int_equal(store_version(version, store, &result.commit), 0);
    assert_true(digest_equal(&version->snapshot, &snapshot.id));
    assert_commit(version->id, result.commit);
    return 0;
}

static void test_a_version_says_what_was_committed(void **state)
{
    AUTO_VERSION(first);
    AUTO_VERSION(second);

    (void)state;
    setenv("GIT_COMMITTER_DATE", "1700000000 -0330", 1);
    assert_int_equal(commit_in(NULL, &first), 0);
    assert_int_equal(commit_in("Bob <bob@example.org>", &second), 0);
    unsetenv("GIT_COMMITTER_DATE");
    assert_int_equal(first.parent_count, 0);
    assert_int_equal(second.parent_count, 1);
    assert_commit(second.parents[0], first.id);
    assert_string_equal(first.author_name, "Ada");
    assert_string_equal(second.author_name, "Bob");
    assert_string_equal(second.author_email, "bob@example.org");
    assert_string_equal(second.message, "title\n\nbody\n\nMetric-loss: 0.25");
    assert_int_equal(second.metric_count, 1);
    assert_int_equal(second.time, 1700000000);
    assert_int_equal(second.time_offset, -210);
    assert_shell(
        "git log -1 --format='%an %ae %cn %ci'", "Bob bob@example.org Ada 2023-11-14 18:43:20 -0330"
    );
}

static void test_authors_are_read_as_git_reads_them(void **state)
{
    static const struct {
        const char *author, *name, *email; /* NULL: refused */
    } cases[] = {
        {"Bob <bob@x>", "Bob", "bob@x"},
        {"  Bob  B.  < bob@x > ", "Bob  B", "bob@x"},
        {"Bob", "Bob", "ada@example.org"},
        {"\xc3\x84nne <\xc3\xa4@x>", "\xc3\x84nne", "\xc3\xa4@x"},
        {"", NULL, NULL},
        {" . ", NULL, NULL},
        {"<bob@x>", NULL, NULL},
        {"Bob <>", NULL, NULL},
        {"Bob <bob@x", NULL, NULL},
        {"Bob bob@x>", NULL, NULL},
        {"Bob <a> <b>", NULL, NULL},
        {"Bob <a> b", NULL, NULL},
        {"Bob <a<b>", NULL, NULL},
        {"Bob\n <a>", NULL, NULL},
        {"\xff <a>", NULL, NULL},
    };

    (void)state;
    for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
        struct identity identity = {0};
        int err = store_identity(&identity, store, cases[i].author);
        if (err != (cases[i].name ? 0 : E_INVALID))
            fail_msg("'%s': %d", cases[i].author, err);
        if (cases[i].name) {
            assert_string_equal(identity.name, cases[i].name);
            assert_string_equal(identity.email, cases[i].email);
        } else {
            assert_hint("--author");
        }
        identity_release(&identity);
    }
}

/* Environment, then the configuration, then the system; something is always found. */
static void test_somebody_is_always_the_author(void **state)
{
    struct identity identity = {0};

    (void)state;
    unsetenv("GIT_AUTHOR_NAME");
    unsetenv("GIT_AUTHOR_EMAIL");
    shell("git config user.name 'Carol <x>.' && git config user.email carol@example.org");
    assert_int_equal(store_identity(&identity, store, NULL), 0);
    assert_string_equal(identity.name, "Carol x");
    assert_string_equal(identity.email, "carol@example.org");
    identity_release(&identity);
    setenv("GIT_AUTHOR_NAME", "Dora", 1);
    assert_int_equal(store_identity(&identity, store, NULL), 0);
    assert_string_equal(identity.name, "Dora");
    assert_string_equal(identity.email, "carol@example.org");
    identity_release(&identity);
    setenv("GIT_AUTHOR_NAME", " <> ", 1);
    shell("git config --unset user.name && git config --unset user.email");
    repository_reopen();
    setenv("EMAIL", "e@example.org", 1);
    assert_int_equal(store_identity(&identity, store, NULL), 0);
    assert_true(*identity.name);
    assert_string_equal(identity.email, "e@example.org");
    identity_release(&identity);
    unsetenv("EMAIL");
    assert_int_equal(store_identity(&identity, store, NULL), 0);
    assert_non_null(strchr(identity.email, '@'));
    identity_release(&identity);
    setenv("GIT_AUTHOR_NAME", "Ada", 1);
    setenv("GIT_AUTHOR_EMAIL", "ada@example.org", 1);
}

static void test_dates_are_read_as_git_reads_them(void **state)
{
    static const char *const dates[] = {
        "1700000000 +0100",
        "@1700000000 -0930",
        "@0 +0000",
        "1700000000",
        "2023-11-14T22:13:20Z",
        "2023-11-14T22:13:20+01:00",
        "2023-11-14 22:13:20 -0500",
        "Tue, 14 Nov 2023 22:13:20 +0200",
        "2023-11-14T22:13:20",
        "Tue Nov 14 22:13:20 2023 +0530",
        "2023-07-01 12:00:00",
    };
    static const char *const bad[] = {"yesterday",          "12", "1700000000 +25",
                                      "1700000000 +2500",   "-5", "2023-13-01T00:00:00Z",
                                      "1700000000 +0100 x", "@",  "@1e9"};
    struct identity identity = {
        .name = bytes_dup(text_bytes("A")), .email = bytes_dup(text_bytes("a@b"))};

    (void)state;
    setenv("TZ", "Europe/Vienna", 1);
    for (size_t i = 0; i < sizeof(dates) / sizeof(dates[0]); i++) {
        AUTO_GIT(git_signature, who);
        AUTO_BUF(theirs);
        char ours[64];
        setenv("GIT_AUTHOR_DATE", dates[i], 1);
        if (signature_make(&who, &identity, true) < 0)
            fail_msg("%s", error_message());
        int offset = abs(who->when.offset);
        snprintf(
            ours, sizeof(ours), "%lld %c%02d%02d", (long long)who->when.time,
            who->when.offset < 0 ? '-' : '+', offset / 60, offset % 60
        );
        assert_int_equal(shell_status(&theirs, "git var GIT_AUTHOR_IDENT | sed 's/.*> //'"), 0);
        if (strcmp(ours, (char *)theirs.data) != 0)
            fail_msg("%s: %s, git says %s", dates[i], ours, (char *)theirs.data);
    }
    for (size_t i = 0; i < sizeof(bad) / sizeof(bad[0]); i++) {
        AUTO_GIT(git_signature, who);
        setenv("GIT_AUTHOR_DATE", bad[i], 1);
        if (signature_make(&who, &identity, true) != E_INVALID)
            fail_msg("%s is taken", bad[i]);
        assert_message("GIT_AUTHOR_DATE");
        assert_null(who);
    }
    unsetenv("GIT_AUTHOR_DATE");
    unsetenv("TZ");
    identity_release(&identity);
}

/* Commits that git or somebody else made. */
static void test_foreign_texts_are_shown_as_utf8(void **state)
{
    AUTO_BUF(hex);
    AUTO_VERSION(version);
    git_oid id;

    (void)state;
    commit_adapter("llama/step-000");
    assert_int_equal(
        shell_status(
            &hex, "printf 'tree %s\\nauthor B\\374b <b@c> 1 +0000\\ncommitter C <c@d> 2 "
                  "+0000\\n\\nt\\374x\\n\\n\\n' "
                  "$(git rev-parse HEAD^{tree}) | git hash-object -t commit -w --literally --stdin"
        ),
        0
    );
    assert_int_equal(git_oid_fromstr(&id, (char *)hex.data), 0);
    struct commit_id commit = commit_id_of(&id);
    assert_int_equal(store_version(&version, store, &commit), 0);
    assert_string_equal(
        version.author_name, "B\xef\xbf\xbd"
                             "b"
    );
    assert_string_equal(version.message, "t\xef\xbf\xbdx");
}

static void test_a_message_alone_is_that_of_the_version(void **state)
{
    /* Behind the committer's line. */
    static const char *const ends[] = {
        "\n\nt\n", "\n\n\n\n t\n\nbody\n\n",   "\n\n",
        "\n",      "\nencoding latin1\n\nt\n", "\ngpgsig a\n b\n \n c\n\nt\n\nb",
    };

    (void)state;
    commit_adapter("llama/step-000");
    for (size_t i = 0; i < sizeof(ends) / sizeof(ends[0]); i++) {
        AUTO_VERSION(version);
        AUTO_FREE(char, message);
        AUTO_BUF(hex);
        AUTO_BUF(text);
        assert_int_equal(shell_status(&hex, "git rev-parse HEAD^{tree}"), 0);
        assert_int_equal(
            buf_printf(
                &text, "tree %s\nauthor A <a@b> 1 +0000\ncommitter C <c@d> 2 +0000%s",
                (char *)hex.data, ends[i]
            ),
            0
        );
        git_oid id = object_put_text(GIT_OBJECT_COMMIT, buf_bytes(&text));
        struct commit_id commit = commit_id_of(&id);
        assert_int_equal(store_version(&version, store, &commit), 0);
        assert_int_equal(store_message(&message, store, &commit), 0);
        assert_string_equal(message, version.message);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
#define TEST(name) cmocka_unit_test_setup_teardown(test_##name, repository_make, repository_remove)
        TEST(messages_are_cleaned_as_git_cleans_them),   TEST(an_empty_message_is_replaced),
        TEST(trailers_are_appended_as_git_appends_them), TEST(what_is_no_trailer_is_refused),
        TEST(metrics_are_read_from_the_trailers),        TEST(a_version_says_what_was_committed),
        TEST(authors_are_read_as_git_reads_them),        TEST(somebody_is_always_the_author),
        TEST(dates_are_read_as_git_reads_them),          TEST(foreign_texts_are_shown_as_utf8),
        TEST(a_message_alone_is_that_of_the_version),
    };

    return cmocka_run_group_tests(tests, template_make, template_remove);
}
