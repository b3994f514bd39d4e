/* Names and secrets from the environment, from netrc and through another program. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "store/netrc.h"
#include "store/process.h"
#include "tests/fault.h"

/* "user/password" of the entry, "none", or "line N: …". */
static void assert_netrc(const char *text, const char *user, const char *expected)
{
    char answer[4096];
    AUTO_LOGIN(login);
    bool found = false;

    int err = netrc_parse(&found, &login, text_bytes(text), "host", user);
    if (err < 0) {
        assert_int_equal(err, E_INVALID);
        assert_false(found);
        assert_null(login.password);
        snprintf(answer, sizeof(answer), "%s", error_message());
    } else {
        snprintf(
            answer, sizeof(answer), "%s%s%s", found ? login.user : "none", found ? "/" : "",
            found ? login.password : ""
        );
    }
    assert_string_equal(answer, expected);
}

static void netrc_gives_the_first_entry_that_fits(void **state)
{
    static const struct {
        const char *text, *user, *expected;
    } cases[] = {
        {"", NULL, "none"},
        {"machine host login a password b", NULL, "a/b"},
        {"machine HOST\n\tlogin a\r\n\tpassword b\r\n", NULL, "a/b"},
        {"machine other login x password y machine host login a password b", NULL, "a/b"},
        {"machine host login a password b machine host login c password d", NULL, "a/b"},
        {"machine host login a password b machine host login c password d", "c", "c/d"},
        {"machine host login a password b", "c", "none"},
        {"machine host password b", "c", "c/b"},
        {"machine host password b", NULL, "/b"},
        {"machine host login a default login c password d", NULL, "c/d"},
        {"default login c password d", NULL, "c/d"},
        {"machine host login a password \"b c\\\"\\\\\\n\"", NULL, "a/b c\"\\\n"},
        {"machine host login a password b\"c", NULL, "a/b\"c"},
        {"machine host login a password b#c # d", NULL, "a/b#c"},
        {"# x\nmachine host # y\nlogin a password b", NULL, "a/b"},
        {"macdef m\nmachine host\n\nmachine host login a password b", NULL, "a/b"},
        {"machine host login a account x password b", NULL, "a/b"},
        {"machine host login a password \"\"", NULL, "a/"},
        {"machine machine login a password b", NULL, "none"},
    };

    (void)state;
    for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++)
        assert_netrc(cases[i].text, cases[i].user, cases[i].expected);
}

static void netrc_names_the_line_that_is_wrong_and_nothing_that_stands_there(void **state)
{
    static const char no_entry[] = "it must begin with 'machine' or 'default'";
    static const char unknown[] =
        "a word that is none of machine, default, login, password, account, macdef";
    static const struct {
        const char *text;
        unsigned line;
        const char *why;
    } cases[] = {
        {"login a", 1, no_entry},
        {"\n\ns3cret", 3, no_entry},
        {"machine host\nlogin a password s3 cret", 2, unknown},
        {"machine host\nlogin", 2, "the file ends where a value must follow"},
        {"machine", 1, "the file ends where a value must follow"},
        {"machine host password \"s3cret", 1, "a word that does not end"},
        {"machine host password \"s3cret\n\"", 2, "a word that does not end"},
        {"machine host password \"s3cret\\x\"", 1, "an unknown escape in a quoted word"},
        {"machine host password \"s3cret\\", 1, "an unknown escape in a quoted word"},
    };

    (void)state;
    for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
        char expected[256];
        snprintf(expected, sizeof(expected), "line %u: %s", cases[i].line, cases[i].why);
        assert_netrc(cases[i].text, NULL, expected);
    }
}

static void a_token_is_a_password_and_not_sent_in_the_clear(void **state)
{
    static const struct {
        const char *url, *token, *user;
        int err;
    } cases[] = {
        {"https://h.example/x", "t", "x-access-token", 0},
        {"https://u@h.example/x", "t", "u", 0},
        {"http://127.0.0.1/x", "t", "x-access-token", 0},
        {"http://h.example/x", "t", NULL, E_INVALID},
        {"https://h.example/x", "", NULL, 0},
        {"https://h.example/x", NULL, NULL, 0},
        {"https://h.example/x", "a\nb", NULL, E_INVALID},
    };

    (void)state;
    for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
        AUTO_URL(url);
        AUTO_LOGIN(login);
        bool found = true;
        assert_int_equal(url_parse(&url, cases[i].url), 0);
        if (cases[i].token)
            setenv(TOKEN_VARIABLE, cases[i].token, 1);
        else
            unsetenv(TOKEN_VARIABLE);
        assert_int_equal(token_find(&found, &login, &url), cases[i].err);
        assert_int_equal(found, cases[i].user != NULL);
        if (found) {
            assert_string_equal(login.user, cases[i].user);
            assert_string_equal(login.password, cases[i].token);
        }
    }
    unsetenv(TOKEN_VARIABLE);
}

static int run_shell(int *status, char *output, size_t size, const char *script, const char *input)
{
    const char *const argv[] = {"sh", "-c", script, NULL};
    const char *const environment[] = {"GONE", "GIVEN=2", NULL};
    const struct process process = {argv, environment, true, text_bytes(input), output, size};

    setenv("GONE", "1", 1);
    setenv("GIVEN", "1", 1);
    return process_run(status, &process);
}

static void a_program_reads_and_writes_and_ends(void **state)
{
    static const struct {
        const char *script, *input, *output;
        int status;
    } cases[] = {
        {"cat", "a\nb", "a\nb", 0},
        {"exec cat </dev/null", "not read", "", 0},
        {"exit 3", "", "", 3},
        {"kill -9 $$", "", "", 137},
        {"echo ${GONE-gone} $GIVEN; pwd; echo lost >&2", "", "gone 2\n/\n", 0},
    };

    (void)state;
    for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
        char output[64];
        int status = -1;
        assert_int_equal(
            run_shell(&status, output, sizeof(output), cases[i].script, cases[i].input), 0
        );
        assert_int_equal(status, cases[i].status);
        assert_string_equal(output, cases[i].output);
    }
}

static void a_program_that_is_missing_or_says_too_much(void **state)
{
    const char *const argv[] = {"vera-no-such-program", NULL};
    const char *const environment[] = {NULL};
    char output[8];
    const struct process process = {argv, environment, true, {0}, output, sizeof(output)};
    int status;

    (void)state;
    assert_int_equal(process_run(&status, &process), E_NOTFOUND);
    assert_int_equal(run_shell(&status, output, sizeof(output), "printf 1234567", ""), 0);
    assert_int_equal(run_shell(&status, output, sizeof(output), "printf 12345678", ""), E_LIMIT);
    assert_int_equal(run_shell(&status, output, sizeof(output), "exec yes", ""), E_LIMIT);
}

static void without_memory_there_is_no_login(void **state)
{
    static const char text[] = "machine host login a login b password c password d";
    int err = E_NOMEM;

    (void)state;
    for (int n = 0; err < 0; n++) {
        AUTO_LOGIN(login);
        bool found = true;
        fault_after = n;
        err = netrc_parse(&found, &login, text_bytes(text), "host", NULL);
        fault_after = -1;
        assert_true(err == 0 || err == E_NOMEM);
        assert_int_equal(found, err == 0);
        assert_int_equal(login.password != NULL, err == 0);
    }
}

static void without_memory_no_program_is_run(void **state)
{
    char output[8];
    int err = E_NOMEM, status;

    (void)state;
    for (int n = 0; err < 0; n++) {
        fault_after = n;
        err = run_shell(&status, output, sizeof(output), "echo ran", "");
        fault_after = -1;
        assert_true(err == 0 || err == E_NOMEM);
    }
    assert_string_equal(output, "ran\n");
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(netrc_gives_the_first_entry_that_fits),
        cmocka_unit_test(netrc_names_the_line_that_is_wrong_and_nothing_that_stands_there),
        cmocka_unit_test(a_token_is_a_password_and_not_sent_in_the_clear),
        cmocka_unit_test(a_program_reads_and_writes_and_ends),
        cmocka_unit_test(a_program_that_is_missing_or_says_too_much),
        cmocka_unit_test(without_memory_there_is_no_login),
        cmocka_unit_test(without_memory_no_program_is_run),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
