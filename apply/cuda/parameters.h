/* What a launch reads beside the weights: its tensors, their terms, and the vectors of these. */
#ifndef APPLY_CUDA_PARAMETERS_H
#define APPLY_CUDA_PARAMETERS_H

#include "apply/cuda/kernels.h"
#include "apply/cuda/lane.h"
#include "format/limits.h"

/* Of vectors and descriptions of one launch, unless one block has more. */
#define PARAMETER_BYTES (8 * MIB)

/* Of so many rows of a job: d and w*b of all its terms. */
size_t slice_floats(const struct backend_job *job, uint64_t rows);

size_t parameter_bytes(size_t tensors, size_t terms, size_t floats);

/* What no launch of these jobs exceeds, however they are cut. */
size_t parameters_most(const struct backend_job *jobs, size_t count);

/* Write them all into the host's side of the lane's parameters, for those of its `count` slices
   that a kernel works on, of which there are `tensors` with `terms`. Returns the tensors, which are
   at the beginning; the terms follow, and then the vectors. */
struct merge_tensor *
parameters_write(const struct lane_state *lane, size_t count, size_t tensors, size_t terms);

#endif
