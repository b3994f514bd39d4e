/* What the files of a lane share: lane.cu takes its memory, wave.cu works in it. */
#ifndef APPLY_CUDA_LANE_H
#define APPLY_CUDA_LANE_H

#include "apply/cuda/job.h"

/* Rows of a job that are worked on at a time. */
struct slice {
    const struct backend_job *job;
    enum route route;
    uint64_t row, rows;
    size_t at; /* in the tile, where it is on that route */
};

/* Rows in the processor's memory and, side by side, in the tile. Those of several slices are one
   span where they lie beside each other in both: one copy. */
struct span {
    uint8_t *host;
    size_t pitch;         /* on the host, from row to row */
    size_t at, row, rows; /* in the tile, and bytes of a row */
    bool up, down;        /* copied to the device, before the kernel; and back, after it */
};

/* A piece of memory on both sides. */
struct mirror {
    uint8_t *host, *device;
    size_t bytes;
};

struct lane_state {
    const struct session *session;
    cudaStream_t stream;
    cudaEvent_t followed;       /* what a stream has been given by now: one after the other */
    uint8_t *slots[LANE_SLOTS]; /* pinned */
    size_t slot_bytes[LANE_SLOTS];
    uint8_t *tile; /* on the device */
    size_t tile_bytes;
    size_t tile_most;         /* no more than this could be had */
    struct mirror parameters; /* of a launch: its tensors, their terms, d and w*b */
    struct slice *slices;     /* [room] */
    struct span *spans;       /* [2 room] */
    size_t room;
    bool is_loaded; /* have the kernels run on the device? */
};

static inline size_t round_up(size_t n, size_t step)
{
    return (n + step - 1) / step * step;
}

static inline size_t min_size(uint64_t a, uint64_t b)
{
    return (size_t)(a < b ? a : b);
}

#endif
