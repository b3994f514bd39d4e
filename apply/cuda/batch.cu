/*
 * Both products are left [rows, depth] times right^T [cols, depth], depth side by side in both:
 *
 *   first    left = x, right = A    scaled[m][n] = d[n] * sum
 *   second   left = scaled, right = B    y[m][n] = fma(b[n], sum, y[m][n])
 *
 * with d and b those of the adapter of row m, read when the sums are complete. A sum is one chain
 * in the order of the depth, so a product is not divided along it. A block has ROWS rows by some
 * columns; slabs of depth come through shared memory, the next one on its way in registers while
 * one is used. Beyond the depth stand +0 on the left and -0 on the right: their product, -0,
 * changes no sum.
 *
 * Of few rows there are few blocks, one of which waits for memory longer than it computes. They are
 * narrow: a quarter of the columns each, in slabs four times as deep.
 */
#include "apply/cuda/batch.h"

#include <string.h>

#include "apply/cuda/tile.h"

#define ROWS    32u
#define THREADS 128u

/* What a thread loads at a time is in pieces of so much depth, four numbers of each. */
#define PIECE 16u

/* Blocks that keep the largest device busy: 132 processors, two each. */
#define LARGE_BLOCKS 264u

/* Slots that are one kernel's arguments, of which every device takes 4 KiB. */
#define SLOTS 1000u

/* A thread has four rows by COLS / 16 columns. */
template <unsigned COLS_, unsigned SLAB_> struct shape {
    static const unsigned COLS = COLS_, SLAB = SLAB_, OWN_COLS = COLS / 16;
    static const unsigned LEFT_LOADS = ROWS * SLAB / 4 / THREADS;
    static const unsigned RIGHT_LOADS = COLS * SLAB / 4 / THREADS;

    static_assert(ROWS / 4 * 16 == THREADS && COLS % 16 == 0 && SLAB % PIECE == 0, "");
    static_assert(LEFT_LOADS * 4 * THREADS == ROWS * SLAB, "loads of four");
    static_assert(RIGHT_LOADS * 4 * THREADS == COLS * SLAB, "loads of four");
};

typedef struct shape<64, 16> wide;
typedef struct shape<16, 64> narrow;

/* One of the two products. */
struct product {
    const uint8_t *left;
    const float *right;
    uint64_t left_stride, right_stride;
    uint64_t rows, cols, depth;
};

template <bool SECOND>
__device__ static inline struct product product_of(const struct batch_job &job)
{
    const uint8_t *scaled = (const uint8_t *)(const void *)job.scaled;

    if (SECOND)
        return {scaled, job.b_matrix, job.rank, job.rank, job.rows, job.out, job.rank};
    return {job.x, job.a, job.x_stride, job.a_stride, job.rows, job.rank, job.in};
}

/* What a thread brings of a slab. The left is raw: what is computed from a load waits for it. */
template <typename Shape> struct load {
    uint32_t left[Shape::LEFT_LOADS][4];
    float right[Shape::RIGHT_LOADS][4];
};

/* Where a thread's load number n is in a slab of so many rows of left, or of right. */
struct place_in_slab {
    uint32_t row, depth;
};

__device__ static inline struct place_in_slab load_place(unsigned n, uint32_t rows)
{
    uint32_t four = n * THREADS + threadIdx.x, line = four / (PIECE / 4);

    return {line % rows, line / rows * PIECE + four % (PIECE / 4) * 4};
}

/* How many of the four numbers from `at` on exist. */
__device__ static inline uint32_t count_of(uint64_t at, uint64_t depth)
{
    return at >= depth ? 0 : depth - at < 4 ? (uint32_t)(depth - at) : 4;
}

/* Zeros, which are +0 in any type, beyond rows and depth. */
template <enum merge_dtype LEFT>
__device__ static inline void
load_left(uint32_t (&raw)[4], const struct product &product, uint64_t row, uint64_t at)
{
    uint32_t count = row < product.rows ? count_of(at, product.depth) : 0;
    const uint8_t *from = product.left +
                          (row * product.left_stride + at) * (LEFT == MERGE_F32 ? 4 : 2);

    if (count == 4 && is_vector(product.left, product.left_stride, LEFT)) {
        if (LEFT == MERGE_F32) {
            uint4 four = __ldg((const uint4 *)(const void *)from);
            raw[0] = four.x, raw[1] = four.y, raw[2] = four.z, raw[3] = four.w;
        } else {
            uint2 four = __ldg((const uint2 *)(const void *)from);
            raw[0] = four.x & 0xffff, raw[1] = four.x >> 16;
            raw[2] = four.y & 0xffff, raw[3] = four.y >> 16;
        }
        return;
    }
#pragma unroll
    for (unsigned i = 0; i < 4; i++) {
        if (i >= count)
            raw[i] = 0;
        else if (LEFT == MERGE_F32)
            raw[i] = __ldg((const uint32_t *)(const void *)from + i);
        else
            raw[i] = __ldg((const uint16_t *)(const void *)from + i);
    }
}

__device__ static inline void
load_right(float (&out)[4], const struct product &product, uint64_t col, uint64_t at)
{
    uint32_t count = col < product.cols ? count_of(at, product.depth) : 0;
    const float *from = product.right + col * product.right_stride + at;
    bool vector = ((uintptr_t)product.right & 15) == 0 && product.right_stride % 4 == 0;

    if (vector && count == 4) {
        float4 four = __ldg((const float4 *)(const void *)from);
        out[0] = four.x, out[1] = four.y, out[2] = four.z, out[3] = four.w;
        return;
    }
#pragma unroll
    for (unsigned i = 0; i < 4; i++)
        out[i] = i < count ? __ldg(from + i) : -0.0f;
}

template <typename Shape, enum merge_dtype LEFT>
__device__ static inline void load_slab(
    struct load<Shape> &out,
    const struct product &product,
    uint64_t row,
    uint64_t col,
    uint64_t depth
)
{
#pragma unroll
    for (unsigned n = 0; n < Shape::LEFT_LOADS; n++) {
        struct place_in_slab at = load_place(n, ROWS);
        load_left<LEFT>(out.left[n], product, row + at.row, depth + at.depth);
    }
#pragma unroll
    for (unsigned n = 0; n < Shape::RIGHT_LOADS; n++) {
        struct place_in_slab at = load_place(n, Shape::COLS);
        load_right(out.right[n], product, col + at.row, depth + at.depth);
    }
}

/* A slab in shared memory. */
template <typename Shape> struct slab {
    float left[Shape::SLAB][ROWS + 4], right[Shape::SLAB][Shape::COLS + 4];
};

template <enum merge_dtype LEFT, typename Shape>
__device__ static inline void store_slab(struct slab<Shape> &slab, const struct load<Shape> &load)
{
#pragma unroll
    for (unsigned n = 0; n < Shape::LEFT_LOADS; n++) {
        struct place_in_slab at = load_place(n, ROWS);
#pragma unroll
        for (unsigned i = 0; i < 4; i++)
            slab.left[at.depth + i][at.row] = element_widen(load.left[n][i], LEFT);
    }
#pragma unroll
    for (unsigned n = 0; n < Shape::RIGHT_LOADS; n++) {
        struct place_in_slab at = load_place(n, Shape::COLS);
#pragma unroll
        for (unsigned i = 0; i < 4; i++)
            slab.right[at.depth + i][at.row] = load.right[n][i];
    }
}

/* The thread's own columns of a line of right. */
__device__ static inline void own_cols(float (&out)[4], const float *from)
{
    *(float4 *)(void *)out = *(const float4 *)(const void *)from;
}

__device__ static inline void own_cols(float (&out)[1], const float *from)
{
    out[0] = *from;
}

template <typename Shape>
__device__ static inline void multiply(
    float (&sums)[4][Shape::OWN_COLS], const struct slab<Shape> &slab, uint32_t row, uint32_t col
)
{
#pragma unroll
    for (unsigned k = 0; k < Shape::SLAB; k++) {
        float m[4], n[Shape::OWN_COLS];
        *(float4 *)(void *)m = *(const float4 *)(const void *)&slab.left[k][row];
        own_cols(n, &slab.right[k][col]);
#pragma unroll
        for (unsigned i = 0; i < 4; i++) {
#pragma unroll
            for (unsigned j = 0; j < Shape::OWN_COLS; j++)
                sums[i][j] = __fmaf_rn(m[i], n[j], sums[i][j]);
        }
    }
}

/* Where the vectors of a row's adapter begin, in elements. */
struct gather {
    bool found;
    uint64_t at;
};

__device__ static inline struct gather gather_of(const struct batch_job &job, uint64_t row)
{
    int32_t slot = job.slots[row];

    if (slot < 0 || (uint64_t)slot >= job.slot_count)
        return {false, 0};
    return {true, (uint64_t)slot * job.vector_stride};
}

__device__ static inline float vector_load(const struct batch_job &job, uint64_t at)
{
    if (job.vectors_dtype == MERGE_F32)
        return __ldg((const float *)(const void *)job.vectors + at);
    return element_widen(
        __ldg((const uint16_t *)(const void *)job.vectors + at), job.vectors_dtype
    );
}

/* d o (A x) of some columns of a row; zeros where the row has no adapter. */
template <unsigned COUNT>
__device__ static inline void
scale_row(const struct batch_job &job, const float (&sums)[COUNT], uint64_t row, uint64_t col)
{
    struct gather d = gather_of(job, row);

#pragma unroll
    for (unsigned j = 0; j < COUNT; j++) {
        if (col + j >= job.rank)
            break;
        job.scaled[row * job.rank + col + j] = d.found
                                                   ? __fmul_rn(
                                                         vector_load(job, d.at + col + j), sums[j]
                                                     )
                                                   : 0.0f;
    }
}

/* y += b o z of some columns of a row: one, or four. */
template <unsigned COUNT>
__device__ static inline void
add_row(const struct batch_job &job, const float (&sums)[COUNT], uint64_t row, uint64_t col)
{
    uint32_t count = COUNT == 1 ? 1 : count_of(col, job.out), raw[4];
    uint64_t at = row * job.y_stride + col;
    bool vector = is_vector(job.y, job.y_stride, job.dtype);
    struct gather b = gather_of(job, row);

    if (!b.found)
        return;
    quad_load(raw, job.y, at, count, job.dtype, vector);
#pragma unroll
    for (unsigned j = 0; j < COUNT; j++) {
        float factor = j < count ? vector_load(job, b.at + job.rank + col + j) : 0;
        if (factor != 0)
            raw[j] = element_narrow(
                __fmaf_rn(factor, sums[j], element_widen(raw[j], job.dtype)), job.dtype
            );
    }
    quad_store(job.y, at, raw, count, job.dtype, vector);
}

/* On the emulated device: that what the host passed is memory of the device. */
#ifndef __CUDACC__
static void job_check(const struct batch_job &job)
{
    emulated_device_check(job.a);
    emulated_device_check(job.b_matrix);
    emulated_device_check(job.vectors);
    emulated_device_check(job.slots);
    emulated_device_check(job.x);
    emulated_device_check(job.y);
    emulated_device_check(job.scaled);
}
#endif

template <typename Shape, bool SECOND, enum merge_dtype LEFT>
__global__ void __launch_bounds__(THREADS, 4) batch_exact(struct batch_job job)
{
    __shared__ __align__(16) struct slab<Shape> slabs[2];
    const struct product product = product_of<SECOND>(job);
    uint32_t across = (uint32_t)((product.cols + Shape::COLS - 1) / Shape::COLS);
    uint64_t row = (uint64_t)(blockIdx.x / across) * ROWS;
    uint64_t col = (uint64_t)(blockIdx.x % across) * Shape::COLS;
    uint32_t own_row = threadIdx.x / 16 * 4, own_col = threadIdx.x % 16 * Shape::OWN_COLS;
    float sums[4][Shape::OWN_COLS] = {};
    struct load<Shape> next;
    unsigned at = 0;

#ifndef __CUDACC__
    if (threadIdx.x == 0)
        job_check(job);
#endif
    load_slab<Shape, LEFT>(next, product, row, col, 0);
    for (uint64_t depth = 0; depth < product.depth; depth += Shape::SLAB, at ^= 1) {
        store_slab<LEFT>(slabs[at], next);
        __syncthreads();
        if (depth + Shape::SLAB < product.depth)
            load_slab<Shape, LEFT>(next, product, row, col, depth + Shape::SLAB);
        multiply<Shape>(sums, slabs[at], own_row, own_col);
    }
#pragma unroll
    for (unsigned i = 0; i < 4; i++) {
        if (row + own_row + i >= product.rows || col + own_col >= product.cols)
            continue;
        if (SECOND)
            add_row(job, sums[i], row + own_row + i, col + own_col);
        else
            scale_row(job, sums[i], row + own_row + i, col + own_col);
    }
}

static uint64_t parts_of(uint64_t count, uint64_t part)
{
    return count / part + (count % part != 0);
}

uint64_t batch_launch_rows(const struct batch_job *job)
{
    uint64_t cols = job->rank > job->out ? job->rank : job->out;

    return ROWS * (INT32_MAX / parts_of(cols, wide::COLS));
}

template <bool SECOND, enum merge_dtype LEFT>
static cudaError_t launch(const struct batch_job *job, uint64_t cols, cudaStream_t stream)
{
    uint64_t down = parts_of(job->rows, ROWS), blocks = down * parts_of(cols, wide::COLS);
    cudaLaunchConfig_t config = {};

    config.blockDim = dim3(THREADS);
    config.stream = stream;
    if (blocks >= LARGE_BLOCKS) {
        config.gridDim = dim3((uint32_t)blocks);
        return cudaLaunchKernelEx(&config, batch_exact<wide, SECOND, LEFT>, *job);
    }
    config.gridDim = dim3((uint32_t)(down * parts_of(cols, narrow::COLS)));
    return cudaLaunchKernelEx(&config, batch_exact<narrow, SECOND, LEFT>, *job);
}

static cudaError_t launch_first(const struct batch_job *job, cudaStream_t stream)
{
    if (job->dtype == MERGE_F32)
        return launch<false, MERGE_F32>(job, job->rank, stream);
    if (job->dtype == MERGE_BF16)
        return launch<false, MERGE_BF16>(job, job->rank, stream);
    return launch<false, MERGE_F16>(job, job->rank, stream);
}

template <bool SECOND, enum merge_dtype LEFT> static cudaError_t load_both_shapes()
{
    cudaFuncAttributes unused;
    cudaError_t error = cudaFuncGetAttributes(&unused, batch_exact<wide, SECOND, LEFT>);

    if (error != cudaSuccess)
        return error;
    return cudaFuncGetAttributes(&unused, batch_exact<narrow, SECOND, LEFT>);
}

/* Both products of rows that one launch takes. */
static cudaError_t launch_both(const struct batch_job *job, cudaStream_t stream)
{
    cudaError_t error = launch_first(job, stream);

    return error == cudaSuccess ? launch<true, MERGE_F32>(job, job->out, stream) : error;
}

cudaError_t batch_exact_launch(const struct batch_job *job, cudaStream_t stream)
{
    uint64_t size = job->dtype == MERGE_F32 ? 4 : 2, step = job->scaled_rows;
    struct batch_job part = *job;
    cudaError_t error = cudaSuccess;

    if (job->rows == 0 || job->out == 0 || job->rank == 0)
        return cudaSuccess;
    if (step > batch_launch_rows(job))
        step = batch_launch_rows(job);
    if (step == 0)
        return cudaErrorInvalidConfiguration;
    for (uint64_t left = job->rows; left > 0 && error == cudaSuccess; left -= part.rows) {
        part.rows = left < step ? left : step;
        error = launch_both(&part, stream);
        part.slots += part.rows;
        part.x += part.rows * part.x_stride * size;
        part.y += part.rows * part.y_stride * size;
    }
    return error;
}

/* ---- Slots ---- */

struct slot_list {
    int32_t slots[SLOTS];
};

__global__ void __launch_bounds__(THREADS)
    batch_slots(int32_t *to, uint32_t count, struct slot_list list)
{
    for (uint32_t i = threadIdx.x; i < count; i += THREADS)
        to[i] = list.slots[i];
}

cudaError_t
batch_slots_launch(int32_t *to, const int32_t *slots, uint64_t count, cudaStream_t stream)
{
    cudaLaunchConfig_t config = {};
    cudaError_t error = cudaSuccess;
    struct slot_list list = {};

    config.gridDim = dim3(1);
    config.blockDim = dim3(THREADS);
    config.stream = stream;
    for (uint64_t at = 0; at < count && error == cudaSuccess; at += SLOTS) {
        uint32_t part = count - at < SLOTS ? (uint32_t)(count - at) : SLOTS;
        memcpy(list.slots, slots + at, part * sizeof(*slots));
        error = cudaLaunchKernelEx(&config, batch_slots, to + at, part, list);
    }
    return error;
}

/* ---- Loading ---- */

cudaError_t batch_load(void)
{
    cudaFuncAttributes unused;
    cudaError_t error = cudaFuncGetAttributes(&unused, batch_slots);

    if (error == cudaSuccess)
        error = load_both_shapes<false, MERGE_F32>();
    if (error == cudaSuccess)
        error = load_both_shapes<false, MERGE_BF16>();
    if (error == cudaSuccess)
        error = load_both_shapes<false, MERGE_F16>();
    return error == cudaSuccess ? load_both_shapes<true, MERGE_F32>() : error;
}
