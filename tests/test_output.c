/* Tests of cli/output.c: sizes, times, and what a name may show. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <stdlib.h>
#include <string.h>

#include "cli/output.h"

static void sizes_have_at_most_four_digits(void **state)
{
    (void)state;
    static const struct {
        uint64_t bytes;
        const char *text;
    } cases[] = {
        {0, "0 B"},
        {999, "999 B"},
        {1000, "1.0 kB"},
        {1049, "1.0 kB"},
        {1051, "1.1 kB"},
        {999900, "999.9 kB"},
        {999949, "999.9 kB"},
        {999950, "1.0 MB"},
        {33000000, "33.0 MB"},
        {4600000000, "4.6 GB"},
        {UINT64_MAX, "18.4 EB"},
    };

    for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++)
        assert_string_equal(cli_size(cases[i].bytes), cases[i].text);
    const char *first = cli_size(1), *second = cli_size(2), *third = cli_size(3);
    assert_string_equal(cli_size(4), "4 B");
    assert_string_equal(first, "1 B");
    assert_string_equal(second, "2 B");
    assert_string_equal(third, "3 B");
}

static void times_are_local_to_the_author(void **state)
{
    (void)state;
    static const struct {
        time_t time;
        int offset;
        const char *text, *json;
    } cases[] = {
        {0, 0, "1970-01-01 00:00:00 +0000", "1970-01-01T00:00:00+00:00"},
        {1795539791, 60, "2026-11-24 18:03:11 +0100", "2026-11-24T18:03:11+01:00"},
        {1795539791, -570, "2026-11-24 07:33:11 -0930", "2026-11-24T07:33:11-09:30"},
        {253402300799, 0, "9999-12-31 23:59:59 +0000", "9999-12-31T23:59:59+00:00"},
        /* What a commit may claim, and no calendar has. */
        {253402300800, 0, "@253402300800", "@253402300800"},
        {INT64_MAX, 60, "@9223372036854775807", "@9223372036854775807"},
        {INT64_MIN, -60, "@-9223372036854775808", "@-9223372036854775808"},
        {0, 100000, "@0", "@0"},
        {0, INT32_MIN, "@0", "@0"},
    };
    char text[32];

    for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
        cli_time(text, cases[i].time, cases[i].offset, false);
        assert_string_equal(text, cases[i].text);
        cli_time(text, cases[i].time, cases[i].offset, true);
        assert_string_equal(text, cases[i].json);
    }
}

static void nothing_in_a_name_reaches_a_terminal(void **state)
{
    (void)state;
    static const struct {
        const char *text, *shown;
    } cases[] = {
        {"plain", "plain"},
        {"", ""},
        {"gr\xc3\xb6\xc3\x9f"
         "e \xf0\x9f\x8e\x89",
         "gr\xc3\xb6\xc3\x9f"
         "e \xf0\x9f\x8e\x89"},
        {"a\x1b[2Jb", "a\\x1b[2Jb"},
        {"a\nb\rc\td\x7f", "a\\x0ab\\x0dc\\x09d\\x7f"},
        {"\xc2\x9b"
         "31m",
         "\\xc2\\x9b"
         "31m"}, /* U+009B, a control sequence of one byte */
        {"\xc2\xa0", "\xc2\xa0"},
        {"\x9b\xff\xc3", "\\x9b\\xff\\xc3"},
        {"\xe2\x82", "\\xe2\\x82"},
    };

    for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
        char *shown = NULL;
        size_t len;
        FILE *file = open_memstream(&shown, &len);
        assert_non_null(file);
        output_plain(file, text_bytes(cases[i].text));
        fclose(file);
        assert_string_equal(shown, cases[i].shown);
        free(shown);
    }
}

static void what_is_too_long_gives_way_in_the_middle(void **state)
{
    (void)state;
    static const struct {
        const char *text;
        size_t width;
        const char *fitted;
    } cases[] = {
        {"", 4, ""},
        {"abcd", 4, "abcd"},
        {"abcde", 4, "a..e"},
        {"abcdefgh", 7, "ab..fgh"},
        {"abcdefgh", 8, "abcdefgh"},
        {"abcdefgh", SIZE_MAX, "abcdefgh"},
        {"\xc3\xb6\xf0\x9f\x8e\x89\xe2\x82\xac\xc3\x9f", 4,
         "\xc3\xb6\xf0\x9f\x8e\x89\xe2\x82\xac\xc3\x9f"},
        {"\xc3\xb6\xf0\x9f\x8e\x89---\xe2\x82\xac\xc3\x9f", 6,
         "\xc3\xb6\xf0\x9f\x8e\x89..\xe2\x82\xac\xc3\x9f"},
        {"\xff\xfe---\xe2\x82", 6, "\xff\xfe..\xe2\x82"}, /* no UTF-8: each byte is a column */
    };

    for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
        AUTO_BUF(fitted);
        assert_int_equal(cli_fit(&fitted, cases[i].text, cases[i].width), 0);
        assert_string_equal(buf_text(&fitted), cases[i].fitted);
        size_t columns = cli_columns(text_bytes(cases[i].text));
        assert_int_equal(
            cli_columns(buf_bytes(&fitted)), columns < cases[i].width ? columns : cases[i].width
        );
    }
}

static void a_usage_error_is_told_from_bad_data(void **state)
{
    (void)state;
    assert_int_equal(cli_usage_error("no '%s'", "x"), CLI_USAGE);
    assert_string_equal(error_message(), "no 'x'");
    assert_null(error_hint_text());
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(sizes_have_at_most_four_digits),
        cmocka_unit_test(times_are_local_to_the_author),
        cmocka_unit_test(nothing_in_a_name_reaches_a_terminal),
        cmocka_unit_test(what_is_too_long_gives_way_in_the_middle),
        cmocka_unit_test(a_usage_error_is_told_from_bad_data),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
