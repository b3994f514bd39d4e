/* Tests of the query language: what it means, where its errors point, and that nothing it is given
   can do harm. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "format/limits.h"
#include "store/expression.h"
#include "tests/repository.h"

#define AUTO_EXPRESSION(name)                                                                      \
    __attribute__((cleanup(expression_release))) struct expression name = {0}

/* In postfix order: "rank<=256 seed=0 and". */
static void render(struct buf *out, const struct expression *expression)
{
    static const char *const marks[] = {"=", "!=", "<", "<=", ">", ">="};
    static const char *const words[] = {[STEP_NOT] = "not", [STEP_AND] = "and", [STEP_OR] = "or"};

    for (size_t i = 0; i < expression->step_count; i++) {
        const struct expression_step *step = &expression->steps[i];
        const struct term *term = &expression->terms[step->term];
        if (i)
            assert_int_equal(buf_append_byte(out, ' '), 0);
        if (step->step != STEP_TERM) {
            assert_int_equal(buf_append_text(out, words[step->step]), 0);
            continue;
        }
        assert_int_equal(
            buf_printf(
                out, "%s%s%s", term->metric ? "metric." : key_name(term->key),
                term->metric ? term->metric : "", marks[term->comparison]
            ),
            0
        );
        if (key_type(term->key) == TYPE_TEXT)
            assert_int_equal(buf_printf(out, "[%s]", term->text), 0);
        else if (key_type(term->key) == TYPE_NUMBER)
            assert_int_equal(buf_printf(out, "%.17g", term->number.real), 0);
        else
            assert_int_equal(
                buf_printf(
                    out, "%lld+%lld", (long long)term->begin, (long long)(term->end - term->begin)
                ),
                0
            );
    }
    assert_non_null(buf_text(out));
}

static void test_expressions_mean_what_they_say(void **state)
{
    static const struct {
        const char *text, *steps;
    } cases[] = {
        {"rank=256", "rank=256"},
        {"rank==256", "rank=256"},
        {" rank <=\t256 ", "rank<=256"},
        {"rank<=256 and metric.rte>0.78", "rank<=256 metric.rte>0.78000000000000003 and"},
        {"rank=1 or rank=2 and rank=3", "rank=1 rank=2 rank=3 and or"},
        {"rank=1 and rank=2 or rank=3", "rank=1 rank=2 and rank=3 or"},
        {"(rank=1 or rank=2) and rank=3", "rank=1 rank=2 or rank=3 and"},
        {"not rank=1 and rank=2", "rank=1 not rank=2 and"},
        {"not (rank=1 and rank=2)", "rank=1 rank=2 and not"},
        {"not not rank=1", "rank=1 not not"},
        {"NOT rank=1 AND rank=2 Or rank=3", "rank=1 not rank=2 and rank=3 or"},
        {"rank=1 and rank=2 and rank=3", "rank=1 rank=2 and rank=3 and"},
        {"((((rank=1))))", "rank=1"},
        {"rank=1and", NULL},
        {"base=org/model-7b_x", "base=[org/model-7b_x]"},
        {"base='a b'", "base=[a b]"},
        {"base=\"it's\"", "base=[it's]"},
        {"base='it\\'s \\\\ \\x'", "base=[it's \\ x]"},
        {"base=''", "base=[]"},
        {"base='and'and kind='or'", "base=[and] kind=[or] and"},
        {"branch!=run/1", "branch!=[run/1]"},
        {"targets='key,query'", "targets=[key,query]"},
        {"seed=-5", "seed=-5"},
        {"d_initial=1e-1", "d_initial=0.10000000000000001"},
        {"d_initial>=.5", "d_initial>=0.5"},
        {"metric.a.b-c_d=+1.e2", "metric.a.b-c_d=100"},
        {"metric.and=1", "metric.and=1"},
        {"layers>2", "layers>2"},
        {"params<1000000", "params<1000000"},
        {"date=1970-01-02T00:00Z", "date=86400+60"},
        {"date>='2026-11-01T12:00:30+01:00'", "date>=1793530830+1"},
        {"date<2024-02-29T00:00-0130", "date<1709170200+60"},
    };

    (void)state;
    for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
        AUTO_EXPRESSION(expression);
        AUTO_BUF(steps);
        int err = expression_parse(&expression, cases[i].text);
        if (!cases[i].steps) {
            assert_int_equal(err, E_INVALID);
            continue;
        }
        if (err < 0)
            fail_msg("%s: %s", cases[i].text, error_message());
        render(&steps, &expression);
        assert_string_equal((char *)steps.data, cases[i].steps);
    }
}

/* The place that the mark points to, from the two lines below the message. */
static size_t mark_column(void)
{
    const char *line = strchr(error_message(), '\n');
    const char *mark = line ? strchr(line + 1, '\n') : NULL;

    assert_non_null(mark);
    const char *caret = strchr(mark + 1, '^');
    assert_non_null(caret);
    assert_int_equal(caret[1], '\0');
    assert_true(caret - mark >= 3); /* both lines are indented by two */
    return (size_t)(caret - mark) - 3;
}

static const struct {
    const char *text;
    size_t column;
    const char *says, *hint;
} wrong[] = {
    {"", 0, "ends too early: expected a comparison", NULL},
    {"   ", 3, "ends too early", NULL},
    {"rnak=1", 0, "no key 'rnak'", "did you mean 'rank'?"},
    {"rank=1 and sed=1", 11, "no key 'sed'", "did you mean 'seed'?"},
    {"xyzzy=1", 0, "no key 'xyzzy'", "metric.NAME"},
    {"metric=1", 0, "no key 'metric'", "metric.NAME"},
    {"metric.=1", 0, "no key 'metric.'", "metric.NAME"},
    {"rank", 4, "expected =, !=, <, <=, > or >= behind the key", NULL},
    {"rank 256", 5, "behind the key, not '256'", NULL},
    {"rank=<256", 4, "not '=<'", NULL},
    {"rank<>256", 4, "not '<>'", NULL},
    {"rank!256", 4, "not '!'", NULL},
    {"rank=", 5, "ends too early: expected a number", NULL},
    {"rank=many", 5, "expected a number, not 'many'", NULL},
    {"rank='256'", 5, "expected a number", NULL},
    {"rank=0x10", 5, "expected a number", NULL},
    {"rank=nan", 5, "expected a number", NULL},
    {"rank=inf", 5, "expected a number", NULL},
    {"rank=1e999", 5, "expected a number", NULL},
    {"rank=1e", 5, "expected a number", NULL},
    {"rank=--1", 5, "expected a number", NULL},
    {"rank=1 rank=2", 7, "expected 'and' or 'or', not 'rank'", NULL},
    {"rank=1 && rank=2", 7, "expected 'and' or 'or', not '&&'", NULL},
    {"rank=1 and", 10, "ends too early: expected a comparison", NULL},
    {"rank=1 and and rank=2", 11, "no key 'and'", NULL},
    {"and rank=1", 0, "no key 'and'", NULL},
    {"not", 3, "ends too early", NULL},
    {"(rank=1", 0, "is not closed", NULL},
    {"rank=1 and (seed=2 or (layers=1)", 11, "is not closed", NULL},
    {"rank=1)", 6, "closes nothing", NULL},
    {"()", 1, "expected a comparison", NULL},
    {"(rank=1 rank=2)", 8, "expected 'and', 'or' or ')'", NULL},
    {"base='abc", 5, "this quote has no end", NULL},
    {"base='abc\\'", 5, "this quote has no end", NULL},
    {"base=", 5, "expected a text", NULL},
    {"base=(", 5, "expected a text", NULL},
    {"base<a", 4, "'base' can be compared by = and != only", NULL},
    {"branch>=main", 6, "'branch' can be compared by = and != only", NULL},
    {"date=yesterday", 5, "expected a date, as in 2026-11-01", NULL},
    {"date=2026-02-29", 5, "expected a date", NULL},
    {"date=2026-13-01", 5, "expected a date", NULL},
    {"date=2026-1-1", 5, "expected a date", NULL},
    {"date=2026-01-01T24:00", 5, "expected a date", NULL},
    {"date=2026-01-01T12", 5, "expected a date", NULL},
    {"date=2026-01-01T12:00+25:00", 5, "expected a date", NULL},
    {"date=2026-01-01Z", 5, "expected a date", NULL},
    {"date=20261101", 5, "expected a date", NULL},
    {"'rank'=1", 0, "expected a comparison", NULL},
    {"rank=1 or \x01", 10, "control character", NULL},
    {"base='\xc3\xa4\xc3\xb6' or x=1", 13, "no key 'x'", NULL}, /* two characters, four bytes */
    {"base='\t' or x=1", 12, "no key 'x'", NULL},
    {"base='\xff' or x=1", 12, "no key 'x'", NULL},
};

static void test_errors_point_to_the_place_and_say_what_is_right(void **state)
{
    (void)state;
    for (size_t i = 0; i < sizeof(wrong) / sizeof(wrong[0]); i++) {
        AUTO_EXPRESSION(expression);
        int err = expression_parse(&expression, wrong[i].text);
        if (err != E_INVALID)
            fail_msg("%s: %d", wrong[i].text, err);
        assert_message(wrong[i].says);
        if (mark_column() != wrong[i].column)
            fail_msg("%s: the mark is at %zu\n%s", wrong[i].text, mark_column(), error_message());
        if (wrong[i].hint)
            assert_hint(wrong[i].hint);
        assert_null(expression.steps);
    }
}

static void test_the_place_in_a_long_text_is_shown_with_what_is_around_it(void **state)
{
    AUTO_BUF(text);
    AUTO_EXPRESSION(expression);

    (void)state;
    for (int i = 0; i < 100; i++)
        assert_int_equal(buf_printf(&text, "rank=%d or ", i), 0);
    assert_int_equal(buf_append_text(&text, "wrong=1 or "), 0);
    for (int i = 0; i < 100; i++)
        assert_int_equal(buf_printf(&text, "rank=%d%s", i, i < 99 ? " or " : ""), 0);
    assert_int_equal(expression_parse(&expression, buf_text(&text)), E_INVALID);
    const char *line = strchr(error_message(), '\n') + 1, *mark = strchr(line, '\n') + 1;
    assert_true(mark - line < 84);
    assert_memory_equal(line + (strchr(mark, '^') - mark), "wrong=1", 7);
    assert_memory_equal(line, "  ...", 5);
    assert_memory_equal(mark - 4, "...", 3);
}

static void nested(struct buf *out, int depth, const char *open, const char *close)
{
    out->len = 0;
    for (int i = 0; i < depth; i++)
        assert_int_equal(buf_append_text(out, open), 0);
    assert_int_equal(buf_append_text(out, "rank=1"), 0);
    for (int i = 0; i < depth; i++)
        assert_int_equal(buf_append_text(out, close), 0);
    assert_non_null(buf_text(out));
}

static void test_depth_and_length_are_bounded(void **state)
{
    static const char *const pairs[][2] = {{"(", ")"}, {"not ", ""}, {"not (", ")"}};
    AUTO_BUF(text);

    (void)state;
    for (size_t i = 0; i < 3; i++) {
        int levels = i == 2 ? 2 : 1;
        AUTO_EXPRESSION(expression);
        nested(&text, LIMIT_QUERY_DEPTH / levels, pairs[i][0], pairs[i][1]);
        assert_int_equal(expression_parse(&expression, (char *)text.data), 0);
        expression_release(&expression);
        nested(&text, LIMIT_QUERY_DEPTH / levels + 1, pairs[i][0], pairs[i][1]);
        assert_int_equal(expression_parse(&expression, (char *)text.data), E_LIMIT);
        assert_true(mark_column() > 0);
        nested(&text, 20000 / levels, pairs[i][0], pairs[i][1]);
        if (text.len > LIMIT_QUERY)
            continue;
        assert_int_equal(expression_parse(&expression, (char *)text.data), E_LIMIT);
    }
    for (int more = 0; more < 2; more++) {
        AUTO_EXPRESSION(expression);
        text.len = 0;
        while (text.len + 9 <= LIMIT_QUERY - 6)
            assert_int_equal(buf_append_text(&text, "rank=1 or"), 0);
        assert_int_equal(buf_append_text(&text, "          "), 0);
        text.len = LIMIT_QUERY - 6 + (size_t)more;
        /* "rank=1 orrank=1" is a long word: as long as it may be, it is only wrong. */
        assert_int_equal(buf_append_text(&text, "rank=1"), 0);
        int err = expression_parse(&expression, buf_text(&text));
        assert_int_equal(err, more ? E_LIMIT : E_INVALID);
    }
}

static void test_ten_thousand_comparisons_are_no_matter(void **state)
{
    AUTO_BUF(text);
    AUTO_EXPRESSION(expression);
    size_t count = 0;

    (void)state;
    for (; text.len + 20 < LIMIT_QUERY; count++)
        assert_int_equal(buf_printf(&text, "%srank=1", count ? " or " : ""), 0);
    assert_int_equal(expression_parse(&expression, buf_text(&text)), 0);
    assert_int_equal(expression.term_count, count);
    assert_int_equal(expression.step_count, 2 * count - 1);
}

/* Whatever it is given, it says yes, or no with a place. */
static void parse_any(const char *text)
{
    AUTO_EXPRESSION(expression);
    int err = expression_parse(&expression, text);

    if (err == 0) {
        assert_true(expression.step_count > 0);
        return;
    }
    assert_true(err == E_INVALID || err == E_LIMIT);
    (void)mark_column();
}

static void test_no_text_does_harm(void **state)
{
    static const char whole[] = "not (rank<=256 and metric.rte>0.78 or base='a\\'b') "
                                "and date>=2026-11-01T12:00Z and targets!=\"q,k\"";
    static const char *const pieces[] = {
        "(",           ")",      "and ",       "or ",
        "not ",        "rank",   "metric.x",   "date",
        "base",        "=",      "!=",         "<",
        ">=",          "'",      "\"",         "\\",
        "1",           "-2.5e3", "2026-11-01", "T12:00",
        " ",           "\t",     "\x7f",       "\xc3",
        "\xa4",        ";",      "--",         "%s%n",
        "' or 1=1 --", "branch", "seed",       "18446744073709551616",
    };
    char text[sizeof(whole)];
    uint32_t random = 1;

    (void)state;
    for (size_t len = 0; len < sizeof(whole); len++) {
        memcpy(text, whole, len);
        text[len] = '\0';
        parse_any(text);
    }
    for (int round = 0; round < 20000; round++) {
        AUTO_BUF(made);
        for (int i = 0; i < 12; i++) {
            random = random * 1664525 + 1013904223;
            const char *piece = pieces[(random >> 16) % (sizeof(pieces) / sizeof(pieces[0]))];
            assert_int_equal(buf_append_text(&made, piece), 0);
        }
        parse_any(buf_text(&made));
    }
}

static void test_numbers_are_exact(void **state)
{
    static const struct {
        const char *text;
        bool valid, is_integer, negative;
        uint64_t magnitude;
    } cases[] = {
        {"0", true, true, false, 0},
        {"-0", true, true, false, 0},
        {"007", true, true, false, 7},
        {"18446744073709551615", true, true, false, UINT64_MAX},
        {"18446744073709551616", true, false, false, 0},
        {"-9223372036854775808", true, true, true, UINT64_C(1) << 63},
        {"9007199254740993", true, true, false, UINT64_C(9007199254740993)},
        {"1e3", true, true, false, 1000},
        {"2.0", true, true, false, 2},
        {"2.5", true, false, false, 0},
        {"1e300", true, false, false, 0},
        {"", false, false, false, 0},
        {".", false, false, false, 0},
        {"-", false, false, false, 0},
        {"1.2.3", false, false, false, 0},
        {"1_000", false, false, false, 0},
        {"0x1", false, false, false, 0},
        {"1e400", false, false, false, 0},
    };

    (void)state;
    for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
        struct number number = {0};
        bool valid = number_parse(&number, text_bytes(cases[i].text));
        if (valid != cases[i].valid || (valid && number.is_integer != cases[i].is_integer))
            fail_msg("'%s'", cases[i].text);
        if (!valid || !number.is_integer)
            continue;
        assert_true(number.integer.magnitude == cases[i].magnitude);
        assert_int_equal(number.integer.negative, cases[i].negative);
    }
}

static void test_dates_are_local_unless_they_say_their_zone(void **state)
{
    int64_t begin, end;

    (void)state;
    assert_int_equal(setenv("TZ", "CET-1CEST,M3.5.0,M10.5.0/3", 1), 0);
    assert_true(date_parse(&begin, &end, text_bytes("2026-11-01")));
    assert_int_equal(begin, 1793487600); /* 23:00 UTC the day before */
    assert_int_equal(end - begin, 86400);
    assert_true(date_parse(&begin, &end, text_bytes("2026-10-25"))); /* summer time ends */
    assert_int_equal(end - begin, 25 * 3600);
    assert_true(date_parse(&begin, &end, text_bytes("2026-07-01T12:00")));
    assert_int_equal(begin, 1782900000); /* 10:00 UTC */
    assert_true(date_parse(&begin, &end, text_bytes("2026-07-01T12:00Z")));
    assert_int_equal(begin, 1782907200);
    assert_int_equal(setenv("TZ", "UTC", 1), 0);
    for (int year = 1970; year < 2400; year += 1) {
        char zoned[32], local[32];
        int64_t other, ignored;
        snprintf(zoned, sizeof(zoned), "%d-03-01T00:00Z", year);
        snprintf(local, sizeof(local), "%d-03-01T00:00", year);
        assert_true(date_parse(&begin, &ignored, text_bytes(zoned)));
        assert_true(date_parse(&other, &ignored, text_bytes(local)));
        assert_int_equal(begin, other);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_expressions_mean_what_they_say),
        cmocka_unit_test(test_errors_point_to_the_place_and_say_what_is_right),
        cmocka_unit_test(test_the_place_in_a_long_text_is_shown_with_what_is_around_it),
        cmocka_unit_test(test_depth_and_length_are_bounded),
        cmocka_unit_test(test_ten_thousand_comparisons_are_no_matter),
        cmocka_unit_test(test_no_text_does_harm),
        cmocka_unit_test(test_numbers_are_exact),
        cmocka_unit_test(test_dates_are_local_unless_they_say_their_zone),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
