/* The writer of pages: what comes from outside stays text, and no failure is lost. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <string.h>

#include <cmocka.h>

#include "cli/html.h"

#include "fault.h"

#define BEGIN "<!DOCTYPE html>\n"

struct text_case {
    const char *text, *expected;
};

static const struct text_case texts[] = {
    {"", ""},
    {"plain, ünïcödé", "plain, ünïcödé"},
    {"</script><b a=\"1\" b='2'>&amp;",
     "&lt;/script&gt;&lt;b a=&quot;1&quot; b=&#39;2&#39;&gt;&amp;amp;"},
    {"a\tb\nc\x1b[31m\x7f", "a\\x09b\\x0ac\\x1b[31m\\x7f"},
    /* not UTF-8: a lone byte, an overlong "<", a cut character, a C1 control */
    {"\xff\xc0\xbc\xe2\x82\xc2\x85", "\\xff\\xc0\\xbc\\xe2\\x82\\xc2\\x85"},
};

static void text_stays_text(void **state)
{
    (void)state;
    for (size_t i = 0; i < sizeof(texts) / sizeof(texts[0]); i++) {
        struct html html;
        AUTO_BUF(out);
        html_init(&html, &out);
        html_text(&html, text_bytes(texts[i].text));
        assert_int_equal(html_end(&html), 0);
        const char *text = buf_text(&out);
        assert_non_null(text);
        assert_string_equal(text + strlen(BEGIN), texts[i].expected);
    }
}

static void names_break_after_dots_and_slashes(void **state)
{
    struct html html;
    AUTO_BUF(out);

    (void)state;
    html_init(&html, &out);
    html_name(&html, text_bytes("a.<b/c."));
    html_name(&html, text_bytes(""));
    html_name(&html, text_bytes("."));
    assert_int_equal(html_end(&html), 0);
    const char *text = buf_text(&out);
    assert_non_null(text);
    assert_string_equal(text, BEGIN "a.<wbr>&lt;b/<wbr>c..");
}

/* The digest of nothing is the one that every description of SHA-256 has. */
static void a_policy_names_the_digest(void **state)
{
    struct html html;
    AUTO_BUF(out);

    (void)state;
    html_init(&html, &out);
    html_policy_source(&html, "");
    assert_int_equal(html_end(&html), 0);
    const char *text = buf_text(&out);
    assert_non_null(text);
    assert_string_equal(text, BEGIN "'sha256-47DEQpj8HBSa+/TImW+5JCeuQeRkm5NMpJWZG3hSuFU='");
}

static void a_piece_that_is_too_long_is_no_shorter_piece(void **state)
{
    char digits[600];
    struct html html;
    AUTO_BUF(out);

    (void)state;
    memset(digits, '7', sizeof(digits) - 1);
    digits[sizeof(digits) - 1] = 0;
    html_init(&html, &out);
    html_printf(&html, "%.511s", digits);
    assert_int_equal(html_end(&html), 0);
    html_printf(&html, "%.512s", digits);
    html_markup(&html, "more");
    assert_int_equal(html_end(&html), E_LIMIT);
    assert_int_equal(out.len, strlen(BEGIN) + 511);
}

/* Every allocation fails once: that is told at the end, whatever was written after it. */
static void no_failure_is_lost(void **state)
{
    bool is_through = false;

    (void)state;
    for (int n = 0; !is_through; n++) {
        struct html html;
        AUTO_BUF(out);
        fault_after = n;
        html_init(&html, &out);
        for (size_t i = 0; i < 100; i++) {
            html_printf(&html, "<p id=\"p%zu\">", i);
            html_name(&html, text_bytes("model.layers.0.<q>"));
            html_policy_source(&html, "x");
        }
        int err = html_end(&html);
        is_through = fault_after >= 0;
        fault_after = -1;
        assert_int_equal(err, is_through ? 0 : E_NOMEM);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(text_stays_text),
        cmocka_unit_test(names_break_after_dots_and_slashes),
        cmocka_unit_test(a_policy_names_the_digest),
        cmocka_unit_test(a_piece_that_is_too_long_is_no_shorter_piece),
        cmocka_unit_test(no_failure_is_lost),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
