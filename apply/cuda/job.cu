/* Which way the rows of a job go. See job.h. */
#include "apply/cuda/job.h"

#include <assert.h>

enum route route_of(const struct backend_job *job)
{
    const struct backend_place *from = place_from(job), *to = &job->to;
    bool on_device = from->on_device && to->on_device;

    if (job->row_begin == job->row_end || column_count(job) == 0)
        return ROUTE_NONE;
    if (job->term_count == 0 && !job->from.data)
        return ROUTE_NONE;
    if (on_device)
        return ROUTE_HERE; /* also copies: hundreds of them are one launch */
    if (place_step(from) != 1 || place_step(to) != 1)
        return ROUTE_TILE;
    if (job->term_count == 0)
        return ROUTE_COPY;
    return to->on_device ? ROUTE_OVER : ROUTE_TILE;
}

static int place_check(
    const struct backend_job *job, const struct backend_place *place, struct backend_fault *fault
)
{
    uint64_t step = place_step(place);

    assert(place->on_device || step == 1);
    if (step > UINT32_MAX)
        return fault_set(
            fault, E_LIMIT, "cuda: elements of a row lie %llu apart, and at most 2^32 - 1 can be",
            (unsigned long long)step
        );
    if (place->on_device && (uintptr_t)place->data % element_bytes(job))
        return fault_set(
            fault, E_INVALID, "cuda: weights at %p are not aligned to their type",
            (const void *)place->data
        );
    return 0;
}

int jobs_check(const struct backend_job *jobs, size_t count, struct backend_fault *fault)
{
    int err = 0;

    for (size_t i = 0; err == 0 && i < count; i++) {
        if ((err = place_check(&jobs[i], &jobs[i].to, fault)) == 0)
            err = place_check(&jobs[i], place_from(&jobs[i]), fault);
    }
    return err;
}
