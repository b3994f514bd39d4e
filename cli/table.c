/* Text in aligned columns. See table.h. */
#include "cli/table.h"

#include <stdlib.h>
#include <string.h>

#define CELL_MAX 24 /* but for the last column */
#define LAST_MIN 12
#define GAP      2

int table_init(struct table *out, size_t columns, size_t rows)
{
    AUTO_TABLE(table);
    size_t cells;

    if (__builtin_mul_overflow(columns, rows, &cells))
        return error_set(E_NOMEM, "a table of %zu columns and %zu rows", columns, rows);
    if (!(table.columns = array_new(columns, sizeof(*table.columns))) ||
        !(table.cells = array_new(cells, sizeof(*table.cells))))
        return error_wrap(E_NOMEM, "table");
    table.row_count = rows;
    *out = table;
    table = (struct table){0};
    return 0;
}

void table_release(struct table *table)
{
    for (size_t i = 0; table->cells && i < table->column_count * table->row_count; i++)
        free(table->cells[i]);
    for (size_t i = 0; i < table->column_count; i++)
        free(table->columns[i].title);
    free(table->cells);
    free(table->columns);
    *table = (struct table){0};
}

int table_add_column(struct table *table, const char *title)
{
    struct table_column *column = &table->columns[table->column_count];

    if (!(column->title = bytes_dup(text_bytes(title))))
        return error_wrap(E_NOMEM, "table");
    column->is_number = true;
    column->width = cli_columns(text_bytes(title));
    table->column_count++;
    return 0;
}

static char **cell_at(const struct table *table, size_t row, size_t column)
{
    /* By column, so that columns can be added one by one. */
    return &table->cells[column * table->row_count + row];
}

int table_set(struct table *table, size_t row, size_t column, struct bytes text)
{
    struct table_column *of = &table->columns[column];
    char **cell = cell_at(table, row, column);
    size_t width = cli_columns(text);

    if (!text.len)
        return 0;
    if (!(*cell = bytes_dup(text)))
        return error_wrap(E_NOMEM, "table");
    of->is_number = of->is_number && (*cell)[strspn(*cell, "0123456789+-.e")] == '\0';
    if (width > of->width)
        of->width = width;
    return 0;
}

/* How many columns, but for the last one, are shown; *left: the width of the last. */
static size_t columns_choose(size_t *left, struct table *table, size_t width)
{
    size_t used = 0, count = 0;

    for (; count + 1 < table->column_count; count++) {
        struct table_column *column = &table->columns[count];
        if (column->width > CELL_MAX)
            column->width = CELL_MAX;
        if (used + column->width + GAP + LAST_MIN > width)
            break;
        used += column->width + GAP;
    }
    *left = width - used;
    return count;
}

/* The text in exactly `width` columns, cut where it is longer; not padded where it is the last. */
static int cell_append(struct buf *line, const char *text, size_t width, bool right, bool is_last)
{
    struct bytes bytes = text_bytes(text);
    size_t has = cli_columns(bytes), keep = has > width ? width - 3 : has;
    int err = 0;

    if (right && has < width)
        err = buf_printf(line, "%*s", (int)(width - has), "");
    for (size_t at = 0, i = 0; err == 0 && i < keep; i++) {
        size_t n = utf8_length((struct bytes){bytes.data + at, bytes.len - at});
        n = n ? n : 1;
        err = buf_append(line, bytes.data + at, n);
        at += n;
    }
    if (err == 0 && has > width)
        err = buf_append_text(line, "...");
    if (err == 0 && !is_last)
        err = buf_printf(line, "%*s", (int)((right || has > width ? 0 : width - has) + GAP), "");
    return err;
}

/* Row `row`, or the titles. */
static int line_say(
    struct cli *cli, const struct table *table, size_t row, bool titles, size_t shown, size_t left
)
{
    AUTO_BUF(line);
    size_t last = table->column_count - 1;
    int err = 0;

    for (size_t i = 0; err == 0 && i <= shown; i++) {
        size_t at = i == shown ? last : i;
        const struct table_column *column = &table->columns[at];
        const char *text = titles ? column->title : *cell_at(table, row, at);
        bool is_last = at == last;
        err = cell_append(
            &line, text ? text : "-", is_last ? left : column->width, column->is_number && !is_last,
            is_last
        );
    }
    const char *text = err < 0 ? NULL : buf_text(&line);
    if (!text)
        return error_wrap(E_NOMEM, "table");
    cli_say(cli, "%s", text);
    return 0;
}

int table_say(struct cli *cli, struct table *table, size_t width)
{
    size_t left, shown = columns_choose(&left, table, width ? width : cli_width());
    int err = line_say(cli, table, 0, true, shown, left);

    for (size_t row = 0; err == 0 && row < table->row_count; row++)
        err = line_say(cli, table, row, false, shown, left);
    return err;
}
