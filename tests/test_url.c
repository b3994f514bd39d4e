/* An address is taken apart as libgit2 will take it, and put together again without its secret. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "format/limits.h"
#include "store/url.h"
#include "tests/fault.h"

static const char *given(const char *text)
{
    return text ? text : "(none)";
}

static void the_parts_of_an_address(void **state)
{
    static const struct {
        const char *text, *scheme, *user, *password, *host, *port, *path, *shown;
    } cases[] = {
        {"https://h.example/a/b", "https", NULL, NULL, "h.example", NULL, "/a/b",
         "https://h.example/a/b"},
        {"HTTPS://u:p%40%3a@h:8443/a?q#f", "https", "u", "p@:", "h", "8443", "/a?q#f",
         "https://h:8443/a?q#f"},
        {"https://:tok@h/a", "https", "", "tok", "h", NULL, "/a", "https://h/a"},
        {"https://a@b:c@h/", "https", "a@b", "c", "h", NULL, "/", "https://h/"},
        {"http://[::1]:80/x", "http", NULL, NULL, "::1", "80", "/x", "http://[::1]:80/x"},
        {"http://h:/x", "http", NULL, NULL, "h", NULL, "/x", "http://h/x"},
        {"http://h", "http", NULL, NULL, "h", NULL, "", "http://h"},
        {"ssh://git:pw@h:22/~/x", "ssh", "git", "pw", "h", "22", "/~/x", "ssh://git@h:22/~/x"},
        {"ssh://a%20b@h/x", "ssh", "a b", NULL, "h", NULL, "/x", "ssh://a%20b@h/x"},
        {"git@h:a/b:c", "ssh", "git", NULL, "h", NULL, "a/b:c", "git@h:a/b:c"},
        {"h:/a", "ssh", NULL, NULL, "h", NULL, "/a", "h:/a"},
        {"[git@h:2222]:a", "ssh", "git", NULL, "h", "2222", "a", "[git@h:2222]:a"},
        {"git@[::1]:a", "ssh", "git", NULL, "::1", NULL, "a", "git@[::1]:a"},
        {"[::1]:a", "ssh", NULL, NULL, "::1", NULL, "a", "[::1]:a"},
        {"file:///a/b", "file", NULL, NULL, "", NULL, "/a/b", "file:///a/b"},
        {"oci://r.example:5000/n", "oci", NULL, NULL, "r.example", "5000", "/n",
         "oci://r.example:5000/n"},
        {"../a", NULL, NULL, NULL, NULL, NULL, NULL, "../a"},
        {"/a:b", NULL, NULL, NULL, NULL, NULL, NULL, "/a:b"},
        {"./a:b", NULL, NULL, NULL, NULL, NULL, NULL, "./a:b"},
        {"", NULL, NULL, NULL, NULL, NULL, NULL, ""},
    };

    (void)state;
    for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
        AUTO_URL(url);
        AUTO_FREE(char, shown);
        assert_int_equal(url_parse(&url, cases[i].text), 0);
        assert_string_equal(given(url.scheme), given(cases[i].scheme));
        assert_string_equal(given(url.user), given(cases[i].user));
        assert_string_equal(given(url.password), given(cases[i].password));
        assert_string_equal(given(url.host), given(cases[i].host));
        assert_string_equal(given(url.port), given(cases[i].port));
        assert_string_equal(given(url.path), given(cases[i].path));
        assert_int_equal(url_shown(&shown, cases[i].text), 0);
        assert_string_equal(shown, cases[i].shown);
    }
}

static void what_is_no_address_is_refused_and_not_repeated(void **state)
{
    static const char *const cases[] = {
        "https://u:s3cret@h:0/",
        "https://u:s3cret@h:65536/",
        "https://u:s3cret@h:x/",
        "https://u:s3cret@h:+1/",
        "https://u:s3cret@/x",
        "https://u:s3cret@[::1/x",
        "https://u:s3cret@[::1]x/",
        "https://u:s3cret%0a@h/",
        "https://u:s3cret%00@h/",
        "https://u:s3cret%2@h/",
        "https://u:s3cret%zz@h/",
        "https://u:s3cret@h/\n",
        "https://u:s3cret@h\t/",
        "ssh://-u:s3cret@h/",
        "ssh://u:s3cret@-h/",
        "-oProxyCommand=s3cret:x",
        "-u@s3cret:x",
        "u@-s3cret:x",
        "https://u%0d:s3cret@h.de/x",
        "https://u:s3cret@h:80:80/",
    };

    (void)state;
    for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
        struct url url = {0};
        AUTO_FREE(char, shown);
        assert_int_equal(url_parse(&url, cases[i]), E_INVALID);
        assert_null(strstr(error_message(), "s3cret"));
        assert_null(url.scheme);
        assert_int_equal(url_shown(&shown, cases[i]), E_INVALID);
    }
}

static void an_address_has_a_longest_length(void **state)
{
    char text[LIMIT_URL + 2] = "https://h/";

    (void)state;
    memset(text + strlen(text), 'a', LIMIT_URL - strlen(text));
    for (int more = 0; more < 2; more++) {
        AUTO_URL(url);
        text[LIMIT_URL] = more ? 'a' : '\0';
        assert_int_equal(url_parse(&url, text), more ? E_INVALID : 0);
    }
}

static void which_addresses_are_of_what(void **state)
{
    static const struct {
        const char *text;
        bool is_ssh, is_http, is_loopback;
    } cases[] = {
        {"git@h:x", true, false, false},
        {"git+ssh://h/x", true, false, false},
        {"ssh+git://h/x", true, false, false},
        {"http://localhost/", false, true, true},
        {"https://127.1.2.3/", false, true, true},
        {"https://[::1]/", false, true, true},
        {"https://localhost.example/", false, true, false},
        {"git://h/x", false, false, false},
        {"/path", false, false, false},
    };

    (void)state;
    for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
        AUTO_URL(url);
        assert_int_equal(url_parse(&url, cases[i].text), 0);
        assert_int_equal(url_is_ssh(&url), cases[i].is_ssh);
        assert_int_equal(url_is_http(&url), cases[i].is_http);
        assert_int_equal(url_is_loopback(&url), cases[i].is_loopback);
    }
}

static void an_address_is_whole_or_there_is_no_memory(void **state)
{
    static const char *const cases[] = {
        "https://u:p@h:1/x", "[u@h:1]:x", "ssh://u%20v@[::1]:1/x", "/path"};

    (void)state;
    for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
        int err = E_NOMEM;
        for (int n = 0; err < 0; n++) {
            struct url url = {0};
            AUTO_FREE(char, shown);
            fault_after = n;
            if ((err = url_parse(&url, cases[i])) == 0)
                err = url_shown(&shown, cases[i]);
            fault_after = -1;
            assert_true(err == 0 || err == E_NOMEM);
            assert_int_equal(shown != NULL, err == 0);
            url_release(&url);
        }
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(the_parts_of_an_address),
        cmocka_unit_test(what_is_no_address_is_refused_and_not_repeated),
        cmocka_unit_test(an_address_has_a_longest_length),
        cmocka_unit_test(which_addresses_are_of_what),
        cmocka_unit_test(an_address_is_whole_or_there_is_no_memory),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
