/*
 * One change of a running model's weights: everything that is to be written is known, checked and
 * has its memory before the first byte is, so the writing itself cannot fail; but for a GPU that
 * breaks down. The host's parts are a list of jobs for some threads; each GPU's are one launch, for
 * which a thread waits meanwhile.
 *
 * Each part of a tensor goes from its pristine bytes straight to what it shall be. What the adapter
 * before has changed and this one does not becomes pristine again.
 */
#ifndef APPLY_LIVE_WRITE_H
#define APPLY_LIVE_WRITE_H

#include <stdatomic.h>

#include "apply/live_launch.h"

struct live_write {
    struct live_weights *weights;
    const struct basis *basis; /* NULL where nothing is merged */
    struct live_job *jobs;     /* of the host's parts */
    size_t count, room;
    struct live_launch *launches; /* of the devices that have others */
    size_t launch_count;
    bool *changes; /* by tensor: is not pristine afterwards */
    atomic_bool host_written;
    bool torn;         /* it failed when some was written, and some not */
    unsigned threads;  /* one for each device among them */
    struct buf memory; /* `share` bytes for each thread */
    size_t share;
};

#define AUTO_LIVE_WRITE(name)                                                                      \
    __attribute__((cleanup(live_write_release))) struct live_write name = {0}

struct live_write_options {
    unsigned threads;   /* for the host's parts: 1 or more */
    uint64_t kept_most; /* bytes of each device that may hold copies of the base's files */
};

/* `plan` and `basis` NULL: all becomes pristine. They must outlive it. E_UNSUPPORTED, naming each,
   where the adapter brings tensors that were not registered; E_DEVICE; E_NOMEM. */
MUST_CHECK int live_write_init(
    struct live_write *out,
    struct live_weights *weights,
    const struct plan *plan,
    const struct basis *basis,
    const struct live_write_options *options
);
void live_write_release(struct live_write *write);

/* Nobody uses the weights any more but what was queued on their devices: what is written comes
   after that. E_DEVICE. */
MUST_CHECK int live_write_follow(const struct live_write *write);

/* E_NOMEM, E_INTERRUPTED, before anything was written; E_DEVICE where a device failed: with `torn`
   some is written, and every tensor of this change and of the one before it counts as changed. */
MUST_CHECK int live_write_run(struct live_write *write);

#endif
