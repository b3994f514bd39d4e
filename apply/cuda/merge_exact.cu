/*
 * Exact mode: the bits of apply/kernel.h.
 *
 * A block computes a tile of chains, acc[m][n] = fma(left[k][m], right[k][n], acc[m][n]) for all k
 * in order, 64 of them in the registers of each thread. The two factors come through shared memory
 * in slabs of SLAB k, A times d once on its way there; while one slab is used, the next one is on
 * its way in registers, and one barrier parts them.
 *
 *   W [out, in]: left = B, right = diag(d) A       W [in, out]: left = diag(d) A, right = B
 *
 * A product does not depend on the order of its factors, so both give the same chains. Beyond the
 * rank, k is filled with +0 times -0: adding -0 changes no sum, not even -0, which adding +0 would.
 *
 * A warp has 32 x 64 chains; a thread's are two groups of four rows by two of four columns, so that
 * its reads from shared memory are 16 bytes wide, without bank conflicts, and its four neighbours
 * in W move at once. y is touched once per term, so it waits in local memory (which is the first
 * cache's) and leaves the registers to the chains.
 */
#include "apply/cuda/kernels.h"
#include "apply/cuda/tile.h"

#define SLAB   8u
#define WARP_M 32u
#define WARP_N 64u

/* Four neighbours of which `count` exist. */
__device__ static inline float4 four(const float *from, uint32_t count, bool vector, float rest)
{
    if (vector && count >= 4)
        return __ldg((const float4 *)(const void *)from);
    return {
        count > 0 ? __ldg(from) : rest,
        count > 1 ? __ldg(from + 1) : rest,
        count > 2 ? __ldg(from + 2) : rest,
        count > 3 ? __ldg(from + 3) : rest,
    };
}

/* What a thread brings of d A, slab after slab: of LOADS rows, four neighbours. WHOLE: all of them
   exist and can be read at once. */
template <unsigned EDGE, unsigned THREADS, bool WHOLE> struct source_a {
    static constexpr unsigned LOADS = EDGE * SLAB / 4 / THREADS, ROWS = THREADS / (EDGE / 4);
    const float *at, *d; /* A[k, first + n] and d[k], k and n of the first load */
    uint64_t stride;
    uint32_t count; /* of the four, those that exist */
    bool vector;
    float4 values[LOADS];

    __device__ source_a(const struct merge_term &term, const struct place &place)
    {
        uint32_t k = threadIdx.x / (EDGE / 4), n = threadIdx.x % (EDGE / 4) * 4;

        stride = term.a_stride;
        at = term.a + place.a_first + k * stride + n;
        d = term.d + k;
        count = place.a_lanes > n ? place.a_lanes - n : 0;
        vector = a_is_vector(term, place);
    }

    /* The next slab, from which `left` k are left. */
    __device__ inline void load(uint32_t left)
    {
#pragma unroll
        for (unsigned i = 0; i < LOADS; i++) {
            values[i] = {-0.0f, -0.0f, -0.0f, -0.0f};
            if (!WHOLE && threadIdx.x / (EDGE / 4) + i * ROWS >= left)
                continue;
            float4 a = WHOLE ? four(at + i * ROWS * stride, 4, true, 0)
                             : four(at + i * ROWS * stride, count, vector, 0);
            float scale = __ldg(d + i * ROWS);
            values[i].x = __fmul_rn(scale, a.x);
            values[i].y = __fmul_rn(scale, a.y);
            values[i].z = __fmul_rn(scale, a.z);
            values[i].w = __fmul_rn(scale, a.w);
        }
        at += SLAB * stride;
        d += SLAB;
    }

    __device__ inline void store(float (&slab)[SLAB][EDGE + 4]) const
    {
#pragma unroll
        for (unsigned i = 0; i < LOADS; i++) {
            uint32_t number = threadIdx.x + i * THREADS;
            *(float4 *)(void *)&slab[number / (EDGE / 4)][number % (EDGE / 4) * 4] = values[i];
        }
    }
};

/* The same of B: of LOADS rows, four k. */
template <unsigned EDGE, unsigned THREADS, bool WHOLE> struct source_b {
    static constexpr unsigned LOADS = EDGE * SLAB / 4 / THREADS, ROWS = THREADS / (SLAB / 4);
    const float *at; /* B[first + n, k] */
    uint64_t rank;
    uint32_t lanes; /* from n on, those that exist */
    bool vector;
    float4 values[LOADS];

    __device__ source_b(const struct merge_term &term, const struct place &place)
    {
        uint32_t n = threadIdx.x / (SLAB / 4), k = threadIdx.x % (SLAB / 4) * 4;

        rank = term.rank;
        at = term.b_matrix + (place.b_first + n) * rank + k;
        lanes = place.b_lanes > n ? place.b_lanes - n : 0;
        vector = b_is_vector(term);
    }

    __device__ inline void load(uint32_t left)
    {
        uint32_t k = threadIdx.x % (SLAB / 4) * 4;

#pragma unroll
        for (unsigned i = 0; i < LOADS; i++) {
            uint32_t count = i * ROWS < lanes && k < left ? left - k : 0;
            values[i] = WHOLE ? four(at + i * ROWS * rank, 4, true, 0)
                              : four(at + i * ROWS * rank, count, vector, 0);
        }
        at += SLAB;
    }

    __device__ inline void store(float (&slab)[SLAB][EDGE + 4]) const
    {
#pragma unroll
        for (unsigned i = 0; i < LOADS; i++) {
            uint32_t number = threadIdx.x + i * THREADS;
            uint32_t n = number / (SLAB / 4), k = number % (SLAB / 4) * 4;
            slab[k][n] = values[i].x;
            slab[k + 1][n] = values[i].y;
            slab[k + 2][n] = values[i].z;
            slab[k + 3][n] = values[i].w;
        }
    }
};

/* Where a thread's i-th of eight rows, or columns, is in the tile. */
template <unsigned WARPS_N> __device__ static inline uint32_t row_of(unsigned i)
{
    uint32_t warp = threadIdx.x / 32, lane = threadIdx.x % 32;

    return warp / WARPS_N * WARP_M + i / 4 * (WARP_M / 2) + lane / 8 * 4 + i % 4;
}

template <unsigned WARPS_N> __device__ static inline uint32_t col_of(unsigned i)
{
    uint32_t warp = threadIdx.x / 32, lane = threadIdx.x % 32;

    return warp % WARPS_N * WARP_N + i / 4 * (WARP_N / 2) + lane % 8 * 4 + i % 4;
}

template <unsigned EDGE>
__device__ static inline void multiply(
    float (&acc)[8][8],
    const float (&left)[SLAB][EDGE + 4],
    const float (&right)[SLAB][EDGE + 4],
    uint32_t row,
    uint32_t col
)
{
#pragma unroll
    for (unsigned k = 0; k < SLAB; k++) {
        float m[8], n[8];
        *(float4 *)(void *)&m[0] = *(const float4 *)(const void *)&left[k][row];
        *(float4 *)(void *)&m[4] = *(const float4 *)(const void *)&left[k][row + WARP_M / 2];
        *(float4 *)(void *)&n[0] = *(const float4 *)(const void *)&right[k][col];
        *(float4 *)(void *)&n[4] = *(const float4 *)(const void *)&right[k][col + WARP_N / 2];
#pragma unroll
        for (unsigned i = 0; i < 8; i++) {
#pragma unroll
            for (unsigned j = 0; j < 8; j++)
                acc[i][j] = __fmaf_rn(m[i], n[j], acc[i][j]);
        }
    }
}

/* A thread's 64 elements as four parts of 4 x 4, each with neighbours in W. They are in local
   memory, so that the work around the chains is a loop instead of 64 copies of its code. */
__device__ static constexpr unsigned part_index(unsigned i, unsigned j)
{
    return (i / 4 * 2 + j / 4) * 16 + i % 4 * 4 + j % 4;
}

template <unsigned WARPS_N> __device__ static inline struct quads part_at(unsigned part)
{
    uint32_t row = row_of<WARPS_N>(part / 2 * 4), col = col_of<WARPS_N>(part % 2 * 4);

    return {{row, row + 1, row + 2, row + 3}, {col, col, col, col}};
}

template <unsigned WARPS_N> __device__ static inline void y_load(float *y, const struct tile &tile)
{
#pragma unroll 1
    for (unsigned part = 0; part < 4; part++) {
        uint32_t raw[4][4];
        quads_load(raw, tile, part_at<WARPS_N>(part));
#pragma unroll
        for (unsigned n = 0; n < 16; n++)
            y[part * 16 + n] = element_widen(raw[n / 4][n % 4], tile.tensor->dtype);
    }
}

/* y = fma(factor, acc, y) where the factor is not +-0. */
template <unsigned WARPS_N>
__device__ static inline void
y_update(float *y, const float (&acc)[8][8], const struct tile &tile, const struct merge_term &term)
{
    bool transposed = tile.tensor->transposed != 0;
    float factors[8];

#pragma unroll
    for (unsigned i = 0; i < 8; i++) {
        uint32_t at = transposed ? col_of<WARPS_N>(i) : row_of<WARPS_N>(i);
        factors[i] = 0;
        if (at < (transposed ? tile.cols : tile.rows))
            factors[i] = term.factor[(transposed ? tile.col : tile.row) + at];
    }
#pragma unroll
    for (unsigned i = 0; i < 8; i++) {
#pragma unroll
        for (unsigned j = 0; j < 8; j++) {
            float factor = transposed ? factors[j] : factors[i];
            float *at = &y[part_index(i, j)];
            if (factor != 0)
                *at = __fmaf_rn(factor, acc[i][j], *at);
        }
    }
}

/* The result of a tensor that has several terms, whose y is complete, or one, whose y is acc. */
template <unsigned WARPS_N>
__device__ static __attribute__((noinline)) void
result_store(const float *y, const struct tile &tile)
{
    bool several = tile.tensor->term_count > 1, transposed = tile.tensor->transposed != 0;
    auto finish = [&](float value, float w, uint32_t row, uint32_t col) {
        if (several)
            return value;
        uint64_t at = transposed ? tile.col + col : tile.row + row;
        return __fmaf_rn(tile.terms[0].factor[at], value, w);
    };

#pragma unroll 1
    for (unsigned part = 0; part < 4; part++)
        quads_store(&y[part * 16], tile, part_at<WARPS_N>(part), finish);
}

/* The chains of a term. */
template <unsigned EDGE, unsigned THREADS, bool WHOLE>
__device__ static inline void chains(
    float (&acc)[8][8],
    float (&slab_a)[2][SLAB][EDGE + 4],
    float (&slab_b)[2][SLAB][EDGE + 4],
    const struct place &place,
    const struct merge_term &term
)
{
    constexpr unsigned WARPS_N = EDGE / WARP_N;
    source_a<EDGE, THREADS, WHOLE> a(term, place);
    source_b<EDGE, THREADS, WHOLE> b(term, place);
    uint32_t left = (uint32_t)term.rank;
    unsigned at = 0;

    a.load(left);
    b.load(left);
    for (bool more = true; more; at ^= 1) {
        a.store(slab_a[at]);
        b.store(slab_b[at]);
        __syncthreads();
        more = left > SLAB;
        if (more) {
            left -= SLAB;
            a.load(left);
            b.load(left);
        }
        multiply<EDGE>(
            acc, place.transposed ? slab_a[at] : slab_b[at],
            place.transposed ? slab_b[at] : slab_a[at], row_of<WARPS_N>(0), col_of<WARPS_N>(0)
        );
    }
    __syncthreads(); /* the next term begins in a slab that may be in use */
}

/* One term's share of the thread's elements, in y. */
template <unsigned EDGE, unsigned THREADS>
__device__ static inline void term_add(
    float *y,
    float (&slab_a)[2][SLAB][EDGE + 4],
    float (&slab_b)[2][SLAB][EDGE + 4],
    const struct tile &tile,
    uint32_t number
)
{
    const struct merge_term &term = tile.terms[number];
    const struct place place = place_of(tile);
    float acc[8][8];

#pragma unroll
    for (unsigned n = 0; n < 64; n++)
        acc[n / 8][n % 8] = 0;
    if (a_is_vector(term, place) && b_is_vector(term) && place.a_lanes == EDGE &&
        place.b_lanes == EDGE && term.rank % SLAB == 0)
        chains<EDGE, THREADS, true>(acc, slab_a, slab_b, place, term);
    else
        chains<EDGE, THREADS, false>(acc, slab_a, slab_b, place, term);
    if (tile.tensor->term_count > 1) {
        y_update<EDGE / WARP_N>(y, acc, tile, term);
        return;
    }
#pragma unroll
    for (unsigned n = 0; n < 64; n++)
        y[part_index(n / 8, n % 8)] = acc[n / 8][n % 8];
}

template <unsigned EDGE, unsigned THREADS>
__global__ void __launch_bounds__(THREADS, EDGE == 128 ? 2 : 6)
    merge_exact(const struct merge_tensor *tensors, uint32_t count, const struct merge_term *terms)
{
    constexpr unsigned WARPS_N = EDGE / WARP_N;
    static_assert(EDGE / WARP_M * WARPS_N * 32 == THREADS, "warps cover a tile");
    __shared__ __align__(16) float slab_a[2][SLAB][EDGE + 4], slab_b[2][SLAB][EDGE + 4];
    __shared__ struct tile tile; /* not in registers, which the chains need */
    float y[64];

    if (threadIdx.x == 0)
        tile = tile_find(tensors, count, terms, EDGE);
    __syncthreads();
    const uint32_t term_count = tile.tensor->term_count;
    if (term_count > 1)
        y_load<WARPS_N>(y, tile);
    for (uint32_t s = 0; s < term_count; s++)
        term_add<EDGE, THREADS>(y, slab_a, slab_b, tile, s);
    result_store<WARPS_N>(y, tile);
}

cudaError_t merge_exact_launch(
    const struct merge_grid *grid,
    const struct merge_tensor *tensors,
    uint32_t count,
    const struct merge_term *terms,
    cudaStream_t stream
)
{
    cudaLaunchConfig_t config = {};
    bool large = grid->edge == 128;

    if (grid->tiles == 0)
        return cudaSuccess;
    config.gridDim = dim3(grid->tiles);
    config.blockDim = dim3(large ? 256 : 64);
    config.stream = stream;
    auto kernel = large ? merge_exact<128, 256> : merge_exact<64, 64>;
    return cudaLaunchKernelEx(&config, kernel, tensors, count, terms);
}
