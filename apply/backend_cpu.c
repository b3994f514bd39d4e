/*
 * The processor as a backend: kernel_merge(), one job after the other, in place. See backend.h.
 */
#include "apply/backend.h"

#include <assert.h>
#include <stdlib.h>

struct cpu_lane {
    unsigned threads;
    struct buf slots[LANE_SLOTS];
};

static int cpu_open(void **session, int number, enum math_mode math, struct backend_fault *fault)
{
    (void)number;
    (void)math;
    (void)fault;
    *session = NULL;
    return 0;
}

static void cpu_close(void *session)
{
    (void)session;
}

/* It is where the kernel wants it. */
static int
cpu_basis_add(void *session, const struct backend_basis *basis, struct backend_fault *fault)
{
    (void)session;
    (void)basis;
    (void)fault;
    return 0;
}

static const char *cpu_device_name(void *session)
{
    (void)session;
    return NULL;
}

static int cpu_lane_open(void **out, void *session, unsigned threads, struct backend_fault *fault)
{
    struct cpu_lane *lane = array_new(1, sizeof(*lane));

    (void)session;
    (void)fault;
    if (!lane)
        return error_wrap(E_NOMEM, "apply");
    lane->threads = threads;
    *out = lane;
    return 0;
}

static void cpu_lane_close(void *state)
{
    struct cpu_lane *lane = state;

    for (size_t i = 0; i < LANE_SLOTS; i++)
        buf_release(&lane->slots[i]);
    free(lane);
}

static int cpu_lane_memory(
    uint8_t **out, void *state, enum lane_slot slot, size_t bytes, struct backend_fault *fault
)
{
    struct cpu_lane *lane = state;
    int err = buf_reserve(&lane->slots[slot], bytes);

    (void)fault;
    if (err == 0)
        *out = lane->slots[slot].data;
    return err;
}

static int
cpu_merge(void *state, const struct backend_job *jobs, size_t count, struct backend_fault *fault)
{
    const struct cpu_lane *lane = state;
    int err = 0;

    (void)fault;
    for (size_t i = 0; err == 0 && i < count; i++) {
        const struct backend_job *job = &jobs[i];
        assert(!job->from.data && !job->to.row_stride && !job->to.on_device);
        err = kernel_merge(
            job->to.data, job->dtype, job->out, job->in, job->transposed, job->row_begin,
            job->row_end, job->terms, job->term_count, lane->threads
        );
    }
    return err;
}

const struct backend backend_cpu = {
    .name = "cpu",
    .lanes_min = 1,
    .open = cpu_open,
    .close = cpu_close,
    .basis_add = cpu_basis_add,
    .device_name = cpu_device_name,
    .lane_open = cpu_lane_open,
    .lane_close = cpu_lane_close,
    .lane_memory = cpu_lane_memory,
    .merge = cpu_merge,
};
