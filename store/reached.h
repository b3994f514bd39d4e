/*
 * The commits that refs reach, as rows of the index: what the index lacks is read from git on the
 * way, so the answer never depends on how much of it there was.
 */
#ifndef STORE_REACHED_H
#define STORE_REACHED_H

#include "store/index.h"
#include "store/refs.h"

struct reached {
    struct store *store;
    struct index_rows rows;
    struct index_reader reader;
    struct id_set shallow;
    struct id_set lost;    /* commits that could not be read */
    bool *marks;           /* by row: refs reach it */
    uint32_t *generations; /* by row: above those of its parents */
    size_t mark_capacity, generation_capacity;
    size_t *order; /* rows that are reached, newest first, children before parents */
    size_t count;
    size_t unreadable; /* commits, and versions of those, that are damaged */
};
#define AUTO_REACHED(name) __attribute__((cleanup(reached_release))) struct reached name = {0}
void reached_release(struct reached *reached);

/* All-zero `out`. `rows`: what the index holds, taken over. */
MUST_CHECK int reached_read(
    struct reached *out, struct store *store, struct index_rows *rows, const struct tips *tips
);

/* By the index, as far as it goes; what it lacked is written to it where that is possible. */
MUST_CHECK int reached_find(struct reached *out, struct store *store, const struct tips *tips);

/* Mark, in marks[rows.ids.count], what one commit reaches, where that is not marked yet; `visit`
   (may be NULL) is told each one. */
MUST_CHECK int reached_mark(
    const struct reached *reached,
    bool *marks,
    const git_oid *tip,
    void (*visit)(void *context, size_t row),
    void *context
);

#endif
