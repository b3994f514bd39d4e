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
#include "apply/cuda/tile.h"

#define SLAB    16u
#define ROWS    32u
#define COLS    64u
#define THREADS 128u

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

/* d o (A x) of four columns of a row; zeros where the row has no adapter. */
__device__ static inline void
scale_row(const struct batch_job &job, const float (&sums)[4], uint64_t row, uint64_t col)
{
    int32_t slot = job.slots[row];

#pragma unroll
    for (unsigned j = 0; j < 4; j++) {
        float scaled = 0;
        if (col + j >= job.rank)
            break;
        if (slot >= 0)
            scaled = __fmul_rn(
                __ldg(job.vectors + (uint64_t)slot * job.vector_stride + col + j), sums[j]
            );
        job.scaled[row * job.rank + col + j] = scaled;
    }
}

/* y += b o z of four columns of a row. */
__device__ static inline void
add_row(const struct batch_job &job, const float (&sums)[4], uint64_t row, uint64_t col)
{
    uint32_t count = count_of(col, job.out), raw[4];
    uint64_t at = row * job.y_stride + col;
    bool vector = is_vector(job.y, job.y_stride, job.dtype);
    int32_t slot = job.slots[row];

    if (slot < 0)
        return;
    const float *b = job.vectors + (uint64_t)slot * job.vector_stride + job.rank + col;
    quad_load(raw, job.y, at, count, job.dtype, vector);
#pragma unroll
    for (unsigned j = 0; j < 4; j++) {
        float factor = j < count ? __ldg(b + j) : 0;
        if (factor != 0)
            raw[j] = element_narrow(
                __fmaf_rn(factor, sums[j], element_widen(raw[j], job.dtype)), job.dtype
            );
    }
    quad_store(job.y, at, raw, count, job.dtype, vector);
}

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

/* Blocks of a product; 0 where there are too many. */
static uint32_t blocks_of(uint64_t rows, uint64_t cols)
{
    uint64_t down = (rows + ROWS - 1) / ROWS, across = (cols + COLS - 1) / COLS, blocks;

    if (__builtin_mul_overflow(down, across, &blocks) || blocks > INT32_MAX)
        return 0;
    return (uint32_t)blocks;
}

cudaError_t batch_exact_launch(const struct batch_job *job, cudaStream_t stream)
{
    cudaLaunchConfig_t config = {};

    if (job->rows == 0 || job->out == 0 || job->rank == 0)
        return cudaSuccess;
    uint32_t first = blocks_of(job->rows, job->rank), second = blocks_of(job->rows, job->out);
    if (first == 0 || second == 0)
        return cudaErrorInvalidConfiguration;
    config.blockDim = dim3(THREADS);
    config.stream = stream;
    config.gridDim = dim3(first);
    cudaError_t error = cudaLaunchKernelEx(&config, batch_exact<false>, *job);
    if (error != cudaSuccess)
        return error;
    config.gridDim = dim3(second);
    return cudaLaunchKernelEx(&config, batch_exact<true>, *job);
}
