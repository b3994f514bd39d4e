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
#ifndef CLI_GRAPH_H
#define CLI_GRAPH_H

#include "store/store.h"

struct graph {
    struct commit_id *columns; /* the commit that each line leads to */
    size_t count, capacity;
};

struct graph_rows {
    struct buf before, after; /* rows, each ending with '\n' */
    struct buf star, rest;    /* one row, without */
};

#define AUTO_GRAPH(name) __attribute__((cleanup(graph_release))) struct graph name = {0}
#define AUTO_GRAPH_ROWS(name)                                                                      \
    __attribute__((cleanup(graph_rows_release))) struct graph_rows name = {0}

/* The rows of the next commit, in the place of what `rows` holds. */
MUST_CHECK int
graph_next(struct graph_rows *rows, struct graph *graph, const struct version *version);
void graph_release(struct graph *graph);
void graph_rows_release(struct graph_rows *rows);

#endif
