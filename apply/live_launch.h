/*
 * What one change writes in the memory of one GPU: all of it is one call of its lane, so mostly one
 * launch. Everything that can be had beforehand is: A and B are there, the lane has its memory,
 * values are of the weights' dtype.
 *
 * Where the base's files hold what the weights are without an adapter, it is brought from there, or
 * from a copy on the device. Such copies are made before the weights are written, as far as the
 * caller's budget goes; where the device has no room they are done without.
 */
#ifndef APPLY_LIVE_LAUNCH_H
#define APPLY_LIVE_LAUNCH_H

#include "apply/live_weights.h"
#include "apply/plan.h"

/* Rows [row, row + rows) of a part, counted in the part. With a target they are merged, with `from`
   replaced, else pristine. */
struct live_job {
    const struct live_tensor *tensor;
    struct live_part *part;
    uint64_t row, rows;
    const struct plan_target *target;
    const struct tensor *from; /* the adapter's; its values are `data` */
    struct bytes data;
    bool copied; /* to the device, for this change and those after it */
};

struct live_launch {
    struct live_device *device;
    struct live_job *parts; /* each a whole one */
    size_t count, room;
    struct backend_job *jobs;  /* [count] */
    struct kernel_term *terms; /* [count] */
    struct buf values;         /* of replacements in another dtype than the weight's */
    bool written;              /* the device may have changed weights */
};

/* A part to be written. E_NOMEM. */
MUST_CHECK int live_launch_add(struct live_launch *launch, const struct live_job *job);

/* No more is added. `basis` NULL: nothing is merged. `kept_most`: bytes of each device that may
   hold copies. E_DEVICE; E_NOMEM. */
MUST_CHECK int live_launch_prepare(
    struct live_launch *launch,
    struct live_weights *weights,
    const struct basis *basis,
    uint64_t kept_most
);

/* Write, and return when that is done. E_DEVICE, with `written`; E_NOMEM; E_INTERRUPTED. */
MUST_CHECK int live_launch_run(struct live_launch *launch);

void live_launch_release(struct live_launch *launch);

/* The term of a merge: of the columns of A (or, where W lies [in, out], the rows of B) that the
   part has, as if they were all that there are. */
struct kernel_term live_job_term(const struct live_job *job, const struct basis *basis);

#endif
