/*
 * One change of a running model's weights: everything that is to be written is known, checked and
 * has its memory before the first byte is, so the writing itself cannot fail.
 *
 * Each part of a tensor goes from its pristine bytes straight to what it shall be. What the adapter
 * before has changed and this one does not becomes pristine again.
 */
#ifndef APPLY_LIVE_WRITE_H
#define APPLY_LIVE_WRITE_H

#include "apply/live_weights.h"
#include "apply/plan.h"

/* Rows [row, row + rows) of a part, counted in the part. With a target they are merged, with `from`
   replaced, else pristine. */
struct live_job {
    const struct live_tensor *tensor;
    const struct live_part *part;
    uint64_t row, rows;
    const struct plan_target *target;
    const struct tensor *from; /* the adapter's; its values are `data` */
    struct bytes data;
};

struct live_write {
    struct live_weights *weights;
    const struct basis *basis; /* NULL where nothing is merged */
    struct live_job *jobs;
    size_t count, room;
    bool *changes; /* by tensor: is not pristine afterwards */
    unsigned threads;
    struct buf memory; /* `share` bytes for each thread */
    size_t share;
};

#define AUTO_LIVE_WRITE(name)                                                                      \
    __attribute__((cleanup(live_write_release))) struct live_write name = {0}

/* `plan` and `basis` NULL: all becomes pristine. They must outlive it. `threads`: 1 or more.
   E_UNSUPPORTED, naming each, where the adapter brings tensors that were not registered; E_NOMEM.
 */
MUST_CHECK int live_write_init(
    struct live_write *out,
    struct live_weights *weights,
    const struct plan *plan,
    const struct basis *basis,
    unsigned threads
);
void live_write_release(struct live_write *write);

/* E_NOMEM, before anything was written; else all is. */
MUST_CHECK int live_write_run(struct live_write *write);

#endif
