/*
 * A table of text in aligned columns that fits a line of the terminal, 80 columns where there is
 * none: long cells are cut, what does not fit beside the columns before it is left out, and the
 * last column takes what is left.
 */
#ifndef CLI_TABLE_H
#define CLI_TABLE_H

#include "cli/cli.h"

struct table_column {
    char *title;
    bool is_number; /* so far every cell that is not empty looks like one: aligned to the right */
    size_t width;
};

struct table {
    struct table_column *columns;
    size_t column_count;
    char **cells; /* [rows][columns]; NULL: empty, shown as "-" */
    size_t row_count;
};

#define AUTO_TABLE(name) __attribute__((cleanup(table_release))) struct table name = {0}
/* With room for so many columns and rows. */
MUST_CHECK int table_init(struct table *out, size_t columns, size_t rows);
void table_release(struct table *table);
MUST_CHECK int table_add_column(struct table *table, const char *title);
MUST_CHECK int table_set(struct table *table, size_t row, size_t column, struct bytes text);
/* To cli->human; `width` 0: the terminal's, or 80. */
MUST_CHECK int table_say(struct cli *cli, struct table *table, size_t width);

#endif
