/*
 * Both products are left [rows, depth] times right^T [cols, depth], depth side by side in both:
 *
 *   first    left = x, right = A    scaled[m][n] = d[n] * sum
 *   second   left = scaled, right = B    y[m][n] = fma(b[n], sum, y[m][n])
 *
 * with d and b those of the adapter of row m, read when the sums are complete. A sum is one chain
 * in the order of the depth, so a product is not divided along it: few rows keep few processors
 * busy, each with 64 columns. A block has 32 rows by 64 columns, a thread 4 by 4; slabs of SLAB
 * numbers of depth come through shared memory, the next one on its way in registers while one is
 * used. Beyond the depth stand +0 on the left and -0 on the right: their product, -0, changes no
 * sum.
 */
#include "apply/cuda/batch.h"

#include <string.h>

#include "apply/cuda/tile.h"

#define SLAB    16u
#define ROWS    32u
#define COLS    64u
#define THREADS 128u

/* Slots that are one kernel's arguments, of which every device takes 4 KiB. */
#define SLOTS 1000u

static_assert(ROWS / 4 * (COLS / 4) == THREADS, "a thread for each 4 by 4");
static_assert(ROWS * SLAB / 4 == THREADS && COLS * SLAB / 4 == 2 * THREADS, "loads of four");

/* One of the two products. */
struct product {
    const uint8_t *left;
    const float *right;
    uint64_t left_stride, right_stride;
    uint64_t rows, cols, depth;
    enum merge_dtype left_dtype;
};

__device__ static inline struct product product_of(const struct batch_job &job, bool second)
{
    if (second)
        return {
            (const uint8_t *)(const void *)job.scaled,
            job.b_matrix,
            job.rank,
            job.rank,
            job.rows,
            job.out,
            job.rank,
            MERGE_F32};
    return {job.x, job.a, job.x_stride, job.a_stride, job.rows, job.rank, job.in, job.dtype};
}

/* What a thread brings of a slab: four numbers of one row of left, and of two of right. */
struct load {
    float left[4], right[2][4];
};

__device__ static inline uint32_t load_row()
{
    return threadIdx.x / (SLAB / 4);
}

__device__ static inline uint32_t load_depth()
{
    return threadIdx.x % (SLAB / 4) * 4;
}

/* How many of the four numbers from `at` on exist. */
__device__ static inline uint32_t count_of(uint64_t at, uint64_t depth)
{
    return at >= depth ? 0 : depth - at < 4 ? (uint32_t)(depth - at) : 4;
}

__device__ static inline void
load_left(float (&out)[4], const struct product &product, uint64_t row, uint64_t at)
{
    uint32_t raw[4] = {}, count = row < product.rows ? count_of(at, product.depth) : 0;

    quad_load(
        raw, product.left, row * product.left_stride + at, count, product.left_dtype,
        is_vector(product.left, product.left_stride, product.left_dtype)
    );
#pragma unroll
    for (unsigned i = 0; i < 4; i++)
        out[i] = i < count ? element_widen(raw[i], product.left_dtype) : 0.0f;
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

__device__ static inline struct load
load_slab(const struct product &product, uint64_t row, uint64_t col, uint64_t depth)
{
    struct load loaded;
    uint64_t at = depth + load_depth();

    load_left(loaded.left, product, row + load_row(), at);
    load_right(loaded.right[0], product, col + load_row(), at);
    load_right(loaded.right[1], product, col + COLS / 2 + load_row(), at);
    return loaded;
}

__device__ static inline void
store_slab(float (&left)[SLAB][ROWS + 4], float (&right)[SLAB][COLS + 4], const struct load &load)
{
#pragma unroll
    for (unsigned i = 0; i < 4; i++) {
        left[load_depth() + i][load_row()] = load.left[i];
        right[load_depth() + i][load_row()] = load.right[0][i];
        right[load_depth() + i][load_row() + COLS / 2] = load.right[1][i];
    }
}

__device__ static inline void multiply(
    float (&sums)[4][4],
    const float (&left)[SLAB][ROWS + 4],
    const float (&right)[SLAB][COLS + 4],
    uint32_t row,
    uint32_t col
)
{
#pragma unroll
    for (unsigned k = 0; k < SLAB; k++) {
        float m[4], n[4];
        *(float4 *)(void *)m = *(const float4 *)(const void *)&left[k][row];
        *(float4 *)(void *)n = *(const float4 *)(const void *)&right[k][col];
#pragma unroll
        for (unsigned i = 0; i < 4; i++) {
#pragma unroll
            for (unsigned j = 0; j < 4; j++)
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

/* d o (A x) of four columns of a row; zeros where the row has no adapter. */
__device__ static inline void
scale_row(const struct batch_job &job, const float (&sums)[4], uint64_t row, uint64_t col)
{
    struct gather d = gather_of(job, row);

#pragma unroll
    for (unsigned j = 0; j < 4; j++) {
        if (col + j >= job.rank)
            break;
        job.scaled[row * job.rank + col + j] = d.found
                                                   ? __fmul_rn(
                                                         vector_load(job, d.at + col + j), sums[j]
                                                     )
                                                   : 0.0f;
    }
}

/* y += b o z of four columns of a row. */
__device__ static inline void
add_row(const struct batch_job &job, const float (&sums)[4], uint64_t row, uint64_t col)
{
    uint32_t count = count_of(col, job.out), raw[4];
    uint64_t at = row * job.y_stride + col;
    bool vector = is_vector(job.y, job.y_stride, job.dtype);
    struct gather b = gather_of(job, row);

    if (!b.found)
        return;
    quad_load(raw, job.y, at, count, job.dtype, vector);
#pragma unroll
    for (unsigned j = 0; j < 4; j++) {
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

template <bool SECOND> __global__ void __launch_bounds__(THREADS) batch_exact(struct batch_job job)
{
    __shared__ __align__(16) float left[2][SLAB][ROWS + 4], right[2][SLAB][COLS + 4];
    const struct product product = product_of(job, SECOND);
    uint32_t across = (uint32_t)((product.cols + COLS - 1) / COLS);
    uint64_t row = (uint64_t)(blockIdx.x / across) * ROWS;
    uint64_t col = (uint64_t)(blockIdx.x % across) * COLS;
    uint32_t own_row = threadIdx.x / (COLS / 4) * 4, own_col = threadIdx.x % (COLS / 4) * 4;
    float sums[4][4] = {};
    unsigned at = 0;

#ifndef __CUDACC__
    if (threadIdx.x == 0)
        job_check(job);
#endif
    struct load next = load_slab(product, row, col, 0);
    for (uint64_t depth = 0; depth < product.depth; depth += SLAB, at ^= 1) {
        store_slab(left[at], right[at], next);
        __syncthreads();
        if (depth + SLAB < product.depth)
            next = load_slab(product, row, col, depth + SLAB);
        multiply(sums, left[at], right[at], own_row, own_col);
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

/* Rows of tiles that are one launch's, of so many columns. */
static uint64_t tiles_down(uint64_t cols)
{
    return INT32_MAX / (cols / COLS + (cols % COLS != 0));
}

uint64_t batch_launch_rows(const struct batch_job *job)
{
    return ROWS * tiles_down(job->rank > job->out ? job->rank : job->out);
}

static uint32_t blocks_of(uint64_t rows, uint64_t cols)
{
    return (uint32_t)((rows + ROWS - 1) / ROWS * ((cols + COLS - 1) / COLS));
}

/* Both products of rows that one launch takes. */
static cudaError_t launch_both(const struct batch_job *job, cudaStream_t stream)
{
    cudaLaunchConfig_t config = {};

    config.blockDim = dim3(THREADS);
    config.stream = stream;
    config.gridDim = dim3(blocks_of(job->rows, job->rank));
    cudaError_t error = cudaLaunchKernelEx(&config, batch_exact<false>, *job);
    if (error != cudaSuccess)
        return error;
    config.gridDim = dim3(blocks_of(job->rows, job->out));
    return cudaLaunchKernelEx(&config, batch_exact<true>, *job);
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
