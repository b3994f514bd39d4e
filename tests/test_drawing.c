/* The lines beside log --graph: each history with the drawing that it must give. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "cli/drawing.h"

/* A commit is a letter; "a" of "abc" has the parents b and c. */
static struct commit_id commit_of(char letter)
{
    struct commit_id id = {{0}};

    id.bytes[7] = (uint8_t)letter;
    return id;
}

/* All rows of a history, as log --graph --oneline prints them: the commit's letter behind its star
   row. */
static void draw(struct buf *out, const char *const *commits)
{
    AUTO_DRAWING(drawing);
    AUTO_DRAWING_ROWS(rows);

    for (; *commits; commits++) {
        struct commit_id parents[8];
        struct version version = {.id = commit_of((*commits)[0]), .parents = parents};
        for (const char *parent = *commits + 1; *parent; parent++)
            parents[version.parent_count++] = commit_of(*parent);
        assert_int_equal(drawing_next(&rows, &drawing, &version), 0);
        assert_int_equal(buf_append(out, rows.before.data, rows.before.len), 0);
        assert_int_equal(buf_append(out, rows.star.data, rows.star.len), 0);
        assert_int_equal(buf_printf(out, " %c\n", (*commits)[0]), 0);
        assert_int_equal(buf_append(out, rows.after.data, rows.after.len), 0);
    }
}

struct drawing_case {
    const char *commits[10];
    const char *expected;
};

static const struct drawing_case drawings[] = {
    /* one line */
    {{"ab", "bc", "c"}, "* a\n* b\n* c\n"},
    /* two branches */
    {{"ac", "bc", "c"}, "* a\n| * b\n|/\n* c\n"},
    /* a merge */
    {{"abc", "cd", "bd", "d"}, "* a\n|\\\n| * c\n* | b\n|/\n* d\n"},
    /* a merge beside another line, which moves aside and back */
    {{"xd", "abc", "cd", "bd", "d"}, "* x\n| * a\n| |\\\n| | * c\n| * | b\n| |/\n|/\n* d\n"},
    /* lines that come together across one that goes on */
    {{"ad", "be", "cd", "d", "e"}, "* a\n| * b\n| | * c\n| |/\n|/|\n* | d\n /\n* e\n"},
    /* three parents */
    {{"abcd", "de", "ce", "be", "e"},
     "* a\n|\\\n| |\\\n| | * d\n| * | c\n* | | b\n| |/\n|/\n* e\n"},
    /* histories that never meet */
    {{"ab", "b", "cd", "d"}, "* a\n* b\n* c\n* d\n"},
    /* an end beside a line */
    {{"ac", "b", "c"}, "* a\n| * b\n* c\n"},
};

static void histories_are_drawn_as_expected(void **state)
{
    (void)state;
    for (size_t i = 0; i < sizeof(drawings) / sizeof(*drawings); i++) {
        AUTO_BUF(out);
        draw(&out, drawings[i].commits);
        assert_string_equal(buf_text(&out), drawings[i].expected);
    }
}

static void a_thousand_branches_take_a_row_each(void **state)
{
    struct commit_id parents[1] = {commit_of('z')};
    AUTO_DRAWING(drawing);
    AUTO_DRAWING_ROWS(rows);
    size_t lines = 0;

    (void)state;
    for (unsigned i = 0; i < 1000; i++) {
        struct version version = {.parents = parents, .parent_count = 1};
        version.id.bytes[0] = 1;
        version.id.bytes[1] = (uint8_t)(i / 256);
        version.id.bytes[2] = (uint8_t)(i % 256);
        assert_int_equal(drawing_next(&rows, &drawing, &version), 0);
    }
    struct version last = {.id = commit_of('z')};
    assert_int_equal(drawing_next(&rows, &drawing, &last), 0);
    for (size_t i = 0; i < rows.before.len; i++)
        lines += rows.before.data[i] == '\n';
    assert_int_equal(lines, 999);
    assert_string_equal(buf_text(&rows.star), "*");
    assert_int_equal(drawing.count, 0);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(histories_are_drawn_as_expected),
        cmocka_unit_test(a_thousand_branches_take_a_row_each),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
