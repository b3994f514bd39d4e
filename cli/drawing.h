/*
 * The lines beside `log --graph`: a column for each commit that is still to come, a star where one
 * is printed. Commits are given children before parents.
 *
 *   *    merge          before: rows in which lines to this commit come together
 *   |\                  star:   the row of the commit itself
 *   | * theirs          after:  rows in which its parents part, to be printed beside its text
 *   * | ours            rest:   what stands beside further lines of its text
 *   |/
 *   * base
 */
#ifndef CLI_DRAWING_H
#define CLI_DRAWING_H

#include "store/store.h"

struct drawing {
    struct commit_id *columns; /* the commit that each line leads to */
    size_t count, capacity;
};

struct drawing_rows {
    struct buf before, after; /* rows, each ending with '\n' */
    struct buf star, rest;    /* one row, without */
};

#define AUTO_DRAWING(name) __attribute__((cleanup(drawing_release))) struct drawing name = {0}
#define AUTO_DRAWING_ROWS(name)                                                                    \
    __attribute__((cleanup(drawing_rows_release))) struct drawing_rows name = {0}

/* The rows of the next commit, in the place of what `rows` holds. */
MUST_CHECK int
drawing_next(struct drawing_rows *rows, struct drawing *drawing, const struct version *version);
void drawing_release(struct drawing *drawing);
void drawing_rows_release(struct drawing_rows *rows);

#endif
