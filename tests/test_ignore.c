/*
 * Tests of format/ignore.c. The table was compared, row by row, with `git check-ignore` of git
 * 2.39: each row is one .gitignore, a path, and what git says of it.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <string.h>
#include <time.h>

#include "format/ignore.h"
#include "format/limits.h"

#define SILENT IGNORE_SILENT
#define OUT    IGNORE_OUT
#define IN     IGNORE_IN

static const struct {
    const char *rules, *path; /* a path that ends in '/' is a folder */
    enum ignore_verdict verdict;
} cases[] = {
    {"*.pt", "a.pt", OUT},
    {"*.pt", "sub/a.pt", OUT},
    {"*.pt", "a.ptx", SILENT},
    {"*.pt", ".pt", OUT},
    {"foo", "foo", OUT},
    {"foo", "foo/", OUT},
    {"foo", "a/foo", OUT},
    {"foo", "foobar", SILENT},
    {"foo/", "foo", SILENT},
    {"foo/", "foo/", OUT},
    {"foo/", "a/foo/", OUT},
    {"/foo", "foo", OUT},
    {"/foo", "a/foo", SILENT},
    {"/foo/", "foo/", OUT},
    {"a/foo", "a/foo", OUT},
    {"a/foo", "b/a/foo", SILENT},
    {"a/foo/", "a/foo/", OUT},
    {"a/", "a/", OUT},
    {"a/", "b/a/", OUT},
    {"doc/*.txt", "doc/a.txt", OUT},
    {"doc/*.txt", "doc/x/a.txt", SILENT},
    {"doc/*.txt", "x/doc/a.txt", SILENT},
    {"**/foo", "foo", OUT},
    {"**/foo", "a/foo", OUT},
    {"**/foo", "a/b/foo", OUT},
    {"**/foo", "xfoo", SILENT},
    {"**/foo", "a/xfoo", SILENT},
    {"**/foo/bar", "foo/bar", OUT},
    {"**/foo/bar", "a/foo/bar", OUT},
    {"**/foo/bar", "a/foo/x/bar", SILENT},
    {"abc/**", "abc/x", OUT},
    {"abc/**", "abc/", SILENT},
    {"abc/**", "x/abc/y", SILENT},
    {"a/**/b", "a/b", OUT},
    {"a/**/b", "a/x/b", OUT},
    {"a/**/b", "a/x/y/b", OUT},
    {"a/**/b", "a/xb", SILENT},
    {"a/**/b", "ab", SILENT},
    {"a/**b", "a/xb", OUT},
    {"a/**b", "a/x/b", SILENT},
    {"a**/b", "ax/b", OUT},
    {"a**/b", "ab", OUT},
    {"/a**/b", "a/x/b", OUT},
    {"[a]**/b", "a/x/b", SILENT},
    {"\\a**/b", "a/x/b", SILENT},
    {"a\?**/b", "ax/y/b", SILENT},
    {"a/b**/c", "a/bx/y/c", OUT},
    {"a/b**/c", "a/bc", OUT},
    {"a*/x**/c", "ab/x/y/c", SILENT},
    {"a**b/c", "a/xb/c", SILENT},
    {"ab**", "ab/", OUT},
    {"x/a**", "x/ab", OUT},
    {"x/a**", "x/a/", OUT},
    {"a**/b", "a/x/b", OUT},
    {"a/***/b", "a/x/y/b", OUT},
    {"a/***/b", "a/b", OUT},
    {"**", "a", OUT},
    {"**/", "a/", OUT},
    {"**/", "a", SILENT},
    {"/**", "a", OUT},
    {"*", ".hidden", OUT},
    {"/*", "a", OUT},
    {"*/", "a/", OUT},
    {"*/", "a", SILENT},
    {"!foo", "foo", IN},
    {"foo\n!foo", "foo", IN},
    {"!foo\nfoo", "foo", OUT},
    {"*.json\n!keep.json", "keep.json", IN},
    {"*.json\n!keep.json", "x.json", OUT},
    {"*.json\n!/keep.json", "sub/keep.json", OUT},
    {"\\!foo", "x/!foo", OUT},
    {"\\!foo", "foo", SILENT},
    {"\\#foo", "#foo", OUT},
    {"#foo", "#foo", SILENT},
    {"foo#", "foo#", OUT},
    {"foo ", "foo", OUT},
    {"foo\\ ", "foo ", OUT},
    {"foo\\ ", "foo", SILENT},
    {"foo\\  ", "foo ", OUT},
    {"foo  ", "foo", OUT},
    {" foo", " foo", OUT},
    {" foo", "foo", SILENT},
    {"foo\t", "foo", SILENT},
    {"foo\r\nbar", "foo", OUT},
    {"\\\\n", "\\\\n", SILENT},
    {"a\\\\b", "a\\b", OUT},
    {"a\\b", "ab", OUT},
    {"a\\*b", "a*b", OUT},
    {"a\\*b", "axb", SILENT},
    {"\\**", "*x", OUT},
    {"\\**", "x", SILENT},
    {"foo\\", "foo", SILENT},
    {"foo\\", "foo\\", SILENT},
    {"[abc]", "b", OUT},
    {"[abc]", "d", SILENT},
    {"[a-c]x", "bx", OUT},
    {"[a-c]x", "dx", SILENT},
    {"[!a-c]x", "dx", OUT},
    {"[!a-c]x", "bx", SILENT},
    {"[^a-c]x", "dx", OUT},
    {"[^a-c]x", "bx", SILENT},
    {"[]]", "]", OUT},
    {"[]-]", "-", OUT},
    {"[]-a]", "^", OUT},
    {"[!]]", "]", SILENT},
    {"[!]]", "a", OUT},
    {"[a-]", "-", OUT},
    {"[-a]", "-", OUT},
    {"[a-c-e]", "d", SILENT},
    {"[a-c-e]", "-", OUT},
    {"[[:alpha:]]", "b", OUT},
    {"[[:alpha:]]", "1", SILENT},
    {"[[:digit:]x]", "x", OUT},
    {"[[:digit:]x]", "7", OUT},
    {"[![:digit:]]", "7", SILENT},
    {"[[:bad:]]", "b", SILENT},
    {"[[:bad:]a]", "a", SILENT},
    {"[a[:bad:]]", "a", SILENT},
    {"[[:]", "x/:", OUT},
    {"[[:a]", "[", OUT},
    {"[[:a]", "x/:", OUT},
    {"[[::]]", "x/:", SILENT},
    {"[a-[:digit:]]", "b]", SILENT},
    {"[[:upper:]]", "a", SILENT},
    {"[[:upper:]]", "A", OUT},
    {"[[:space:]]x", " x", OUT},
    {"[[:punct:]]", "x/!", OUT},
    {"[[:xdigit:]]", "F", OUT},
    {"[[:xdigit:]]", "g", SILENT},
    {"[[:blank:]]x", " x", OUT},
    {"[[:cntrl:]]", "a", SILENT},
    {"[[:graph:]]", "~", OUT},
    {"[[:print:]]x", " x", OUT},
    {"[[:alnum:]]", "_", SILENT},
    {"[[:lower:]]", "z", OUT},
    {"[\\]]", "]", OUT},
    {"[\\\\]", "\\", OUT},
    {"[\\a-\\c]", "b", OUT},
    {"[a-\\c]", "b", OUT},
    {"[", "[", SILENT},
    {"[a", "[a", SILENT},
    {"[a", "a", SILENT},
    {"a[/]b", "a/b", SILENT},
    {"a[!x]b", "a/b", SILENT},
    {"a\?b", "a/b", SILENT},
    {"a\?b", "axb", OUT},
    {"\?", "a", OUT},
    {"\?", "ab", SILENT},
    {"a*b/c", "axb/c", OUT},
    {"a*b/c", "a/b/c", SILENT},
    {"*/foo", "a/foo", OUT},
    {"*/foo", "foo", SILENT},
    {"*/foo", "a/b/foo", SILENT},
    {"foo/*", "foo/bar", OUT},
    {"foo/**/", "foo/a/", OUT},
    {"foo/**/", "foo/a", SILENT},
    {"/", "a", SILENT},
    {"//", "a", SILENT},
    {"//a", "a", SILENT},
    {"!", "a", SILENT},
    {"\n\nfoo", "foo", OUT},
    {"foo*", "foobar", OUT},
    {"*foo*", "xfoox", OUT},
    {"*a*b*c*", "xxaxxbxxcxx", OUT},
    {"*a*b*c*", "xxaxxcxxbxx", SILENT},
    {"a//b", "a/b", SILENT},
    {"a/./b", "a/b", SILENT},
    {"FOO", "foo", SILENT},
    {"optimizer.pt\n*.bin\n!special.bin", "special.bin", IN},
    {"*.md\n!README.md\nREADME.md", "README.md", OUT},
    {"**/a/**", "x/a/y", OUT},
    {"**/a/**", "a/y", OUT},
    {"**/a/**", "x/a/", SILENT},
    {"**/a/**/b", "a/b", OUT},
    {"**/a/**/b", "x/a/y/z/b", OUT},
    {"**/**/b", "x/b", OUT},
    {"**/**/b", "b", OUT},
    {"a/**/**/b", "a/b", OUT},
    {"a/**/*", "a/b", OUT},
    {"a/**/*.x", "a/b/c.x", OUT},
    {"**a", "ba", OUT},
    {"**a", "c/ba", OUT},
    {"a**", "ab", OUT},
    {"*.*", "a.b", OUT},
    {"*.*", "ab", SILENT},
    {"\\a", "a", OUT},
    {"[a-z]*.pt", "run.pt", OUT},
    {"rng_state*", "rng_state_0.pth", OUT},
    {"\303\251", "\303\251", OUT},
    {"[\303\251]", "\303\251", SILENT},
    {"\?\?", "\303\251", OUT},
    {"x\\\\", "x\\", OUT},
};

static void test_verdicts_are_gits(void **state)
{
    (void)state;
    for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
        AUTO_IGNORE(ignore);
        AUTO_BUF(path);
        assert_int_equal(ignore_decode(&ignore, text_bytes(cases[i].rules)), 0);
        assert_int_equal(buf_append_text(&path, cases[i].path), 0);
        bool folder = path.data[path.len - 1] == '/';
        path.len -= folder;
        enum ignore_verdict verdict = ignore_match(&ignore, buf_text(&path), folder);
        if (verdict != cases[i].verdict)
            fail_msg("'%s' on '%s': %d", cases[i].rules, cases[i].path, (int)verdict);
    }
}

/* "*a*a*a…" on "aaaa…b" takes a matcher that tries again longer than anybody waits. */
static void test_stars_take_no_more_than_pattern_times_path(void **state)
{
    AUTO_IGNORE(ignore);
    AUTO_BUF(rules);
    AUTO_BUF(path);

    (void)state;
    for (size_t i = 0; i < LIMIT_PATH / 4; i++) {
        assert_int_equal(buf_append_text(&rules, i % 2 ? "**/a" : "a*[a]"), 0);
        assert_int_equal(buf_append_text(&path, "a/aa"), 0);
    }
    assert_int_equal(buf_resize(&rules, LIMIT_PATH - 1), 0);
    rules.data[LIMIT_PATH - 2] = 'c';
    clock_t begun = clock();
    assert_int_equal(ignore_decode(&ignore, buf_bytes(&rules)), 0);
    assert_int_equal(ignore_match(&ignore, buf_text(&path), false), IGNORE_SILENT);
    assert_true(clock() - begun < 20 * CLOCKS_PER_SEC);
}

static void test_patterns_have_limits(void **state)
{
    AUTO_BUF(rules);

    (void)state;
    assert_int_equal(buf_resize(&rules, LIMIT_PATH + 1), 0);
    memset(rules.data, 'a', rules.len);
    for (size_t extra = 0; extra < 2; extra++) {
        AUTO_IGNORE(ignore);
        struct bytes text = {rules.data, LIMIT_PATH + extra};
        assert_int_equal(ignore_decode(&ignore, text), extra ? E_LIMIT : 0);
        assert_int_equal(ignore.count, extra ? 0 : 1);
    }
    assert_int_equal(buf_resize(&rules, LIMIT_IGNORE + 1), 0);
    memset(rules.data, '\n', rules.len);
    for (size_t extra = 0; extra < 2; extra++) {
        AUTO_IGNORE(ignore);
        struct bytes text = {rules.data, LIMIT_IGNORE + extra};
        assert_int_equal(ignore_decode(&ignore, text), extra ? E_LIMIT : 0);
    }
    AUTO_IGNORE(ignore);
    assert_int_equal(ignore_decode(&ignore, (struct bytes){(const uint8_t *)"a\0b", 3}), E_INVALID);
}

/* No pattern of these bytes reads past its end or the machine's (the sanitizers watch). */
static void test_any_bytes_are_a_pattern(void **state)
{
    static const char alphabet[] = "a*?[]!^-\\/:#al \r";
    uint64_t random = 42;

    (void)state;
    for (int i = 0; i < 20000; i++) {
        AUTO_IGNORE(ignore);
        uint8_t text[24];
        for (size_t k = 0; k < sizeof(text); k++) {
            random = random * 6364136223846793005u + 1442695040888963407u;
            text[k] = (uint8_t)alphabet[(random >> 40) % (sizeof(alphabet) - 1)];
        }
        assert_int_equal(ignore_decode(&ignore, (struct bytes){text, sizeof(text)}), 0);
        enum ignore_verdict verdict = ignore_match(&ignore, "a/al/[a", i % 2);
        assert_in_range(verdict, IGNORE_SILENT, IGNORE_IN);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_verdicts_are_gits),
        cmocka_unit_test(test_stars_take_no_more_than_pattern_times_path),
        cmocka_unit_test(test_patterns_have_limits),
        cmocka_unit_test(test_any_bytes_are_a_pattern),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
