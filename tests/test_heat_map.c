/* Modules as a map: each set of names with the rows and columns that it must give. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <string.h>

#include <cmocka.h>

#include "cli/heat_map.h"

#include "fault.h"

static struct bytes part(struct bytes text)
{
    return text.data ? text : text_bytes("");
}

/* "stack:layer[column=name column=name]" for each row, then "|" and each module without a layer. */
static void draw(struct buf *out, const char *const *names, size_t count)
{
    AUTO_HEAT_MAP(map);

    assert_int_equal(heat_map_init(&map, names, count), 0);
    for (size_t i = 0; i < map.cell_count; i++) {
        const struct heat_cell *cell = &map.cells[i];
        struct bytes stack = part(cell->stack), type = map.types[cell->column];
        if (i == 0 || !heat_cell_same_row(cell, cell - 1))
            assert_int_equal(
                buf_printf(
                    out, "%s%.*s:%.*s", i ? "; " : "", (int)stack.len, (const char *)stack.data,
                    (int)cell->layer.len, (const char *)cell->layer.data
                ),
                0
            );
        assert_true(bytes_equal(type, cell->type));
        assert_int_equal(
            buf_printf(out, " %zu=%.*s", cell->column, (int)type.len, (const char *)type.data), 0
        );
        const char *end = (const char *)cell->type.data + cell->type.len;
        assert_ptr_equal(end, names[cell->module] + strlen(names[cell->module]));
    }
    for (size_t i = 0; i < map.other_count; i++)
        assert_int_equal(buf_printf(out, " | %s", names[map.others[i]]), 0);
}

struct map_case {
    const char *names[8];
    const char *expected;
};

static const struct map_case maps[] = {
    {{NULL}, ""},
    {{"m.layers.0.a.k", "m.layers.0.a.q", "m.layers.1.a.q"},
     "m.layers:0 0=a.k 1=a.q; m.layers:1 1=a.q"},
    /* layers are numbers */
    {{"m.10.q", "m.2.q", "m.9.q"}, "m:2 0=q; m:9 0=q; m:10 0=q"},
    {{"m.07.q", "m.7.q", "m.8.q"}, "m:07 0=q; m:7 0=q; m:8 0=q"},
    {{"m.99999999999999999999999.q", "m.100000000000000000000000.q"},
     "m:99999999999999999999999 0=q; m:100000000000000000000000 0=q"},
    /* the first number is the layer, another one belongs to the type */
    {{"m.3.experts.12.up", "m.3.experts.2.up"}, "m:3 0=experts.12.up 1=experts.2.up"},
    /* one row for each stack's layer */
    {{"dec.0.q", "enc.0.q", "enc.0.k"}, "dec:0 1=q; enc:0 0=k 1=q"},
    /* nothing before the number */
    {{"0.q", "1.q"}, ":0 0=q; :1 0=q"},
    /* no layer: no number, the number is last, or only a part of a component */
    {{"lm_head", "classifier.0", "h0.q", "0h.q", "7", "", "a..q", "m.0."},
     " | lm_head | classifier.0 | h0.q | 0h.q | 7 |  | a..q | m.0."},
    {{"a", "m.0.q", "b"}, "m:0 0=q | a | b"},
    {{"m.0..q", "..0.q"}, ".:0 1=q; m:0 0=.q"},
};

static void names_become_rows_and_columns(void **state)
{
    (void)state;
    for (size_t i = 0; i < sizeof(maps) / sizeof(maps[0]); i++) {
        size_t count = 0;
        AUTO_BUF(drawn);
        while (count < 8 && maps[i].names[count])
            count++;
        draw(&drawn, maps[i].names, count);
        const char *text = buf_text(&drawn);
        assert_non_null(text);
        assert_string_equal(text, maps[i].expected);
    }
}

static void no_memory_leaves_no_map(void **state)
{
    const char *const names[] = {"m.0.q", "m.1.q", "head"};

    (void)state;
    for (int n = 0; n < 3; n++) {
        AUTO_HEAT_MAP(map);
        fault_after = n;
        assert_int_equal(heat_map_init(&map, names, 3), E_NOMEM);
        assert_null(map.cells);
    }
    fault_after = -1;
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(names_become_rows_and_columns),
        cmocka_unit_test(no_memory_leaves_no_map),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
