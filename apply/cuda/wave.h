/* What a lane launches together: rows of some jobs, as many as its tile and parameters hold. */
#ifndef APPLY_CUDA_WAVE_H
#define APPLY_CUDA_WAVE_H

#include "apply/cuda/lane.h"

/* What is launched together, and how far a merge is. */
struct wave {
    const struct backend_job *jobs;
    size_t job_count;
    size_t job;   /* the first one that is not done, */
    uint64_t row; /* from here on */
    size_t slice_count, span_count;
    size_t bytes;                  /* of the tile */
    size_t tensors, terms, floats; /* of the launch; floats: of vectors */
};

/* The next ones: one row at least, unless nothing is left to do. Its slices and spans are the
   lane's. */
void wave_fill(struct lane_state *lane, struct wave *wave);

/* Copy them in, launch, copy them out, and wait. E_DEVICE, E_LIMIT. */
int wave_run(const struct lane_state *lane, const struct wave *wave, struct backend_fault *fault);

/* A kernel's code, and local memory for its threads, come to the device when it runs first: let
   each run on a matrix of no rows. The lane has room for parameters. */
int kernels_load(struct lane_state *lane, struct backend_fault *fault);

#endif
