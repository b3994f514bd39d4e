/*
 * The lines beside `log --graph`. See drawing.h.
 *
 * Column c is the character 2c of a row, the gap to its left 2c-1. Two columns that lead to one
 * commit are kept apart until that commit comes; then the right one goes left, one column a row.
 */
#include "cli/drawing.h"

#include <stdlib.h>
#include <string.h>

/* A row of blanks for `columns` columns and one more. */
static int row_begin(struct buf *row, size_t columns)
{
    int err;

    row->len = 0;
    if ((err = buf_resize(row, 2 * columns + 2)) == 0)
        memset(row->data, ' ', row->len);
    return err;
}

static void row_straight(struct buf *row, size_t from, size_t to)
{
    for (size_t c = from; c < to; c++)
        row->data[2 * c] = '|';
}

/* Append without the blanks at its end; `end` may be "\n". */
static int row_finish(struct buf *out, const struct buf *row, const char *end)
{
    size_t len = row->len;
    int err;

    while (len && row->data[len - 1] == ' ')
        len--;
    if ((err = buf_append(out, row->data, len)))
        return err;
    return buf_append_text(out, end);
}

static int column_insert(struct drawing *drawing, size_t at, const struct commit_id *id)
{
    if (drawing->count == drawing->capacity) {
        size_t capacity = drawing->capacity ? 2 * drawing->capacity : 16;
        struct commit_id *grown = array_new(capacity, sizeof(*grown));
        if (!grown)
            return E_NOMEM;
        if (drawing->count)
            memcpy(grown, drawing->columns, drawing->count * sizeof(*grown));
        free(drawing->columns);
        drawing->columns = grown;
        drawing->capacity = capacity;
    }
    memmove(
        drawing->columns + at + 1, drawing->columns + at,
        (drawing->count - at) * sizeof(*drawing->columns)
    );
    drawing->columns[at] = *id;
    drawing->count++;
    return 0;
}

static void column_remove(struct drawing *drawing, size_t at)
{
    drawing->count--;
    memmove(
        drawing->columns + at, drawing->columns + at + 1,
        (drawing->count - at) * sizeof(*drawing->columns)
    );
}

/* The row in which column `at` ends, and those to its right come one nearer. */
static int row_close(struct buf *out, const struct drawing *drawing, size_t at, bool joins)
{
    AUTO_BUF(row);
    int err = row_begin(&row, drawing->count);

    if (err)
        return err;
    row_straight(&row, 0, at);
    for (size_t c = joins ? at : at + 1; c < drawing->count; c++)
        row.data[2 * c - 1] = '/';
    return row_finish(out, &row, "\n");
}

/* Lead column `from` to column `to`, which is further left and leads to the same commit. */
static int columns_join(struct buf *out, struct drawing *drawing, size_t to, size_t from)
{
    int err = row_close(out, drawing, from, true);

    column_remove(drawing, from);
    for (size_t c = from - 1; !err && c > to; c--) {
        AUTO_BUF(row);
        if ((err = row_begin(&row, drawing->count)))
            return err;
        row_straight(&row, 0, drawing->count);
        row.data[2 * c - 1] = '/';
        err = row_finish(out, &row, "\n");
    }
    return err;
}

/* The commit's only column: a new one where no child was printed. */
static int column_of(
    struct drawing_rows *rows, struct drawing *drawing, size_t *out, const struct commit_id *id
)
{
    size_t first = 0, c = drawing->count;
    int err = 0;

    while (first < drawing->count && !commit_equal(&drawing->columns[first], id))
        first++;
    *out = first;
    if (first == drawing->count)
        return column_insert(drawing, first, id);
    while (!err && c-- > first + 1) {
        size_t left = c - 1;
        if (!commit_equal(&drawing->columns[c], id))
            continue;
        while (!commit_equal(&drawing->columns[left], id))
            left--;
        err = columns_join(&rows->before, drawing, left, c);
    }
    return err;
}

/* A further parent: a new column at `at`, parting from the one to its left. */
static int column_part(
    struct drawing_rows *rows, struct drawing *drawing, size_t at, const struct commit_id *id
)
{
    AUTO_BUF(row);
    int err = row_begin(&row, drawing->count + 1);

    if (err)
        return err;
    row_straight(&row, 0, at);
    row.data[2 * at - 1] = '\\';
    for (size_t c = at; c < drawing->count; c++)
        row.data[2 * c + 1] = '\\';
    if ((err = row_finish(&rows->after, &row, "\n")))
        return err;
    return column_insert(drawing, at, id);
}

int drawing_next(struct drawing_rows *rows, struct drawing *drawing, const struct version *version)
{
    AUTO_BUF(row);
    size_t column;
    int err;

    rows->before.len = rows->after.len = rows->star.len = rows->rest.len = 0;
    if ((err = column_of(rows, drawing, &column, &version->id)) ||
        (err = row_begin(&row, drawing->count)))
        return err;
    row_straight(&row, 0, drawing->count);
    row.data[2 * column] = '*';
    if ((err = row_finish(&rows->star, &row, "")))
        return err;
    if (version->parent_count == 0) {
        if (column + 1 < drawing->count && (err = row_close(&rows->after, drawing, column, false)))
            return err;
        column_remove(drawing, column);
    } else {
        drawing->columns[column] = version->parents[0];
    }
    for (size_t p = 1; !err && p < version->parent_count; p++)
        err = column_part(rows, drawing, column + p, &version->parents[p]);
    if (err || (err = row_begin(&row, drawing->count)))
        return err;
    row_straight(&row, 0, drawing->count);
    return row_finish(&rows->rest, &row, "");
}

void drawing_release(struct drawing *drawing)
{
    free(drawing->columns);
    *drawing = (struct drawing){0};
}

void drawing_rows_release(struct drawing_rows *rows)
{
    buf_release(&rows->before);
    buf_release(&rows->after);
    buf_release(&rows->star);
    buf_release(&rows->rest);
}
