/*
 * Fast mode: y = W + sum over all terms s and all k of (w_s b_s[i] B_s[i,k]) (d_s[k] A_s[k,j]), on
 * tensor cores: float32 and fp16 weights in tf32, bf16 weights in bf16, sums in float32. What exact
 * mode says of rows whose factor is +-0, of NaN and of rounding to W's type holds here too.
 *
 * How far it is off. Let S = sum |w_s b_s[i] B_s[i,k] d_s[k] A_s[k,j]|, u = 2^-11 (tf32) or 2^-8
 * (bf16) and R the sum of the ranks. Before y is rounded to W's type:
 *
 *   |y - true| <= (2.01 u + R 2^-22) S + 2^-24 |y| + R 2^-125
 *
 * Each of a product's two numbers is rounded to float32 (2^-24) and then to the narrow type (u):
 * together (1 + u)^2 (1 + 2^-24)^2 - 1 < 2.01 u for both u. The product is exact in float32. Tensor
 * cores add it with at least 23 bits, in an order of their own, and may cut instead of round: each
 * of at most R + R / 8 additions is off by at most 2^-23 of a sum that is at most S (1 + 2.01 u),
 * together less than R 2^-22 S. Adding W rounds once. Numbers below 2^-126 may count as zero
 * (2^-125 for both of a product, where the other one is at most 1; larger ones scale it). The
 * bounds end where a number reaches 2^127: it may round to infinity.
 *
 * Slabs of DEPTH k come as float32 through asynchronous copies, one on its way while the one before
 * it is used. They are scaled and rounded where a warp takes its fragments, of which B's carry the
 * factor, so that all terms add up in one set of sums. Strides in shared memory are such that a
 * fragment's 32 reads meet 32 banks, but for the right side's, where they meet 16: its columns are
 * dealt out so that a lane's sums are four neighbours in W.
 */
#include "apply/cuda/kernels.h"
#include "apply/cuda/tensor_core.h"
#include "apply/cuda/tile.h"

#define DEPTH 16u

/* A block's shape: warps along rows and columns; each has M x N products of 16 x 8. */
template <unsigned EDGE_> struct layout {
    static constexpr unsigned EDGE = EDGE_;
    static constexpr unsigned WARPS_M = 2, WARPS_N = EDGE / 32, THREADS = WARPS_M * WARPS_N * 32;
    static constexpr unsigned M = EDGE / WARPS_M / 16, N = 4;
    static constexpr unsigned QUADS = EDGE * DEPTH / 4 / THREADS; /* per thread, of either matrix */
};

/* Two slabs of each: a[k][lane], b[lane][k], d[k]. */
template <unsigned EDGE> struct slabs {
    float a[2][DEPTH * (EDGE + 8)];
    float b[2][EDGE * (DEPTH + 8)];
    float d[2][DEPTH];
};

template <bool BF16, unsigned EDGE> struct strides {
    static constexpr unsigned A = EDGE + (BF16 ? 4 : 8), B = DEPTH + (BF16 ? 8 : 4);
};

/* Begin to copy four neighbours of which `count` exist; the rest becomes 0. What a copy of no bytes
   would begin at is not read. */
__device__ static inline void copy_quad(float *to, const float *from, uint32_t count, bool vector)
{
    if (vector) {
        copy_async_quad(to, from, count < 4 ? count : 4);
        return;
    }
#pragma unroll
    for (uint32_t n = 0; n < 4; n++)
        copy_async_one(to + n, from + n, n < count);
}

/* What a thread copies of a term, slab after slab: of QUADS rows of A, and of B, four neighbours.
 */
template <class L, bool BF16> struct source {
    static constexpr unsigned A_ROWS = L::THREADS / (L::EDGE / 4),
                              B_ROWS = L::THREADS / (DEPTH / 4);
    const float *a, *b, *d;
    uint64_t a_stride, rank;
    uint32_t a_count, b_lanes; /* columns of A, rows of B, from this thread's first on */
    uint32_t left;             /* k from the next slab on */
    bool a_vector, b_vector, whole;

    __device__ source(const struct merge_term &term, const struct place &place)
    {
        uint32_t a_k = threadIdx.x / (L::EDGE / 4), a_n = threadIdx.x % (L::EDGE / 4) * 4;
        uint32_t b_n = threadIdx.x / (DEPTH / 4), b_k = threadIdx.x % (DEPTH / 4) * 4;

        a_stride = term.a_stride;
        rank = term.rank;
        a = term.a + place.a_first + a_k * a_stride + a_n;
        b = term.b_matrix + (place.b_first + b_n) * rank + b_k;
        d = term.d + threadIdx.x;
        a_count = place.a_lanes > a_n ? place.a_lanes - a_n : 0;
        b_lanes = place.b_lanes > b_n ? place.b_lanes - b_n : 0;
        left = (uint32_t)rank;
        a_vector = a_is_vector(term, place);
        b_vector = b_is_vector(term);
        whole = a_vector && b_vector && place.a_lanes == L::EDGE && place.b_lanes == L::EDGE;
    }

    __device__ inline void copy(struct slabs<L::EDGE> &slabs, unsigned at)
    {
        const uint32_t a_k = threadIdx.x / (L::EDGE / 4), a_n = threadIdx.x % (L::EDGE / 4) * 4;
        const uint32_t b_n = threadIdx.x / (DEPTH / 4), b_k = threadIdx.x % (DEPTH / 4) * 4;
        float *a_to = &slabs.a[at][a_k * strides<BF16, L::EDGE>::A + a_n];
        float *b_to = &slabs.b[at][b_n * strides<BF16, L::EDGE>::B + b_k];
        const bool easy = whole && left >= DEPTH;

#pragma unroll
        for (unsigned i = 0; i < L::QUADS; i++) {
            float *a_quad = a_to + i * A_ROWS * strides<BF16, L::EDGE>::A;
            float *b_quad = b_to + i * B_ROWS * strides<BF16, L::EDGE>::B;
            if (easy) {
                copy_async_quad(a_quad, a + i * A_ROWS * a_stride, 4);
                copy_async_quad(b_quad, b + i * B_ROWS * rank, 4);
                continue;
            }
            uint32_t a_exist = a_k + i * A_ROWS < left ? a_count : 0;
            uint32_t b_exist = i * B_ROWS < b_lanes && b_k < left ? left - b_k : 0;
            copy_quad(a_quad, a + i * A_ROWS * a_stride, a_exist, a_vector);
            copy_quad(b_quad, b + i * B_ROWS * rank, b_exist, b_vector);
        }
        if (threadIdx.x < DEPTH)
            copy_async_one(&slabs.d[at][threadIdx.x], d, threadIdx.x < left);
        copy_async_group();
        a += DEPTH * a_stride;
        b += DEPTH;
        d += DEPTH;
        left -= left < DEPTH ? left : DEPTH;
    }
};

/* ---- Where a lane's numbers are in the tile ---- */

/* The first of a lane's rows of its warp's m-th product; the other one is 8 below. */
template <class L> __device__ static inline uint32_t row_of(unsigned m)
{
    uint32_t warp = threadIdx.x / 32, lane = threadIdx.x % 32;

    return warp / L::WARPS_N * (16 * L::M) + 16 * m + lane / 4;
}

/* The column of the tile that is column `g` of the n-th product. */
template <class L> __device__ static inline uint32_t col_of(unsigned n, uint32_t g)
{
    uint32_t warp = threadIdx.x / 32;

    return warp % L::WARPS_N * (8 * L::N) + n / 2 * 16 + g / 2 * 4 + n % 2 * 2 + g % 2;
}

/* ---- Fragments ---- */

/* Two k next to each other, or, for tf32, the first of them: d A or w b B of a lane. */
template <bool BF16, bool OF_A, unsigned EDGE>
__device__ static inline uint32_t
operand(const struct slabs<EDGE> &slabs, unsigned at, uint32_t lane, uint32_t k, float factor)
{
    constexpr unsigned A = strides<BF16, EDGE>::A, B = strides<BF16, EDGE>::B;

    if constexpr (BF16 && OF_A)
        return bf16_round_pair(
            __fmul_rn(slabs.d[at][k], slabs.a[at][k * A + lane]),
            __fmul_rn(slabs.d[at][k + 1], slabs.a[at][(k + 1) * A + lane])
        );
    if constexpr (BF16 && !OF_A) {
        float2 pair = *(const float2 *)(const void *)&slabs.b[at][lane * B + k];
        return bf16_round_pair(__fmul_rn(factor, pair.x), __fmul_rn(factor, pair.y));
    }
    if constexpr (!BF16 && OF_A)
        return tf32_round(__fmul_rn(slabs.d[at][k], slabs.a[at][k * A + lane]));
    return tf32_round(__fmul_rn(factor, slabs.b[at][lane * B + k]));
}

/* The factors of a lane's rows, or columns if TRANSPOSED: where B comes in. */
template <class L, bool TRANSPOSED> struct factors {
    float values[TRANSPOSED ? L::N : 2 * L::M];

    __device__ factors(const struct tile &tile, const struct merge_term &term)
    {
        uint32_t g = threadIdx.x % 32 / 4;
#pragma unroll
        for (unsigned i = 0; i < sizeof(values) / sizeof(values[0]); i++) {
            uint32_t at = TRANSPOSED ? col_of<L>(i, g) : row_of<L>(i / 2) + i % 2 * 8;
            values[i] = 0;
            if (at < (TRANSPOSED ? tile.cols : tile.rows))
                values[i] = __ldg(term.factor + (TRANSPOSED ? tile.col : tile.row) + at);
        }
    }
};

/* One slab's share of the sums. */
template <class L, bool BF16, bool TRANSPOSED>
__device__ static inline void slab_multiply(
    float (&sums)[L::M][L::N][4],
    const struct slabs<L::EDGE> &slabs,
    unsigned at,
    const struct factors<L, TRANSPOSED> &factors
)
{
    constexpr unsigned STEP = BF16 ? 16 : 8;
    const uint32_t g = threadIdx.x % 32 / 4, t = threadIdx.x % 4 * (BF16 ? 2 : 1);

#pragma unroll
    for (unsigned k = 0; k < DEPTH; k += STEP) {
        uint32_t left[L::M][4], right[L::N][2];
#pragma unroll
        for (unsigned i = 0; i < 4 * L::M; i++) {
            unsigned below = i % 2, later = i / 2 % 2, m = i / 4;
            left[m][i % 4] = operand<BF16, TRANSPOSED>(
                slabs, at, row_of<L>(m) + 8 * below, k + t + later * (STEP / 2),
                TRANSPOSED ? 0 : factors.values[TRANSPOSED ? 0 : 2 * m + below]
            );
        }
#pragma unroll
        for (unsigned i = 0; i < 2 * L::N; i++)
            right[i / 2][i % 2] = operand<BF16, !TRANSPOSED>(
                slabs, at, col_of<L>(i / 2, g), k + t + i % 2 * (STEP / 2),
                TRANSPOSED ? factors.values[TRANSPOSED ? i / 2 : 0] : 0
            );
        warp_multiply<BF16>(sums, left, right);
    }
}

/* All terms. */
template <class L, bool BF16, bool TRANSPOSED>
__device__ static inline void
tile_multiply(float (&sums)[L::M][L::N][4], struct slabs<L::EDGE> &slabs, const struct tile &tile)
{
    for (uint32_t s = 0; s < tile.tensor->term_count; s++) {
        source<L, BF16> source(tile.terms[s], place_of(tile));
        const struct factors<L, TRANSPOSED> factors(tile, tile.terms[s]);
        unsigned at = 0;
        source.copy(slabs, 0);
        for (bool more = true; more; at ^= 1) {
            more = source.left > 0;
            if (more) {
                source.copy(slabs, at ^ 1);
                copy_async_wait<1>();
            } else {
                copy_async_wait<0>();
            }
            __syncthreads();
            slab_multiply<L, BF16, TRANSPOSED>(sums, slabs, at, factors);
            __syncthreads(); /* before this slab is copied to again */
        }
    }
}

/* W + sums. The sums of a product's two halves go through local memory, so that what is around them
   is a loop. */
template <class L>
__device__ static inline void
result_store(const float (&sums)[L::M][L::N][4], const struct tile &tile)
{
    float values[L::M * 16];
    auto finish = [](float value, float w, uint32_t, uint32_t) { return __fadd_rn(w, value); };

#pragma unroll
    for (unsigned i = 0; i < L::M * 16; i++) {
        /* Of 4 x 4: rows as in the product, columns of two products. */
        unsigned quad = i / 4 % 4, col = i % 4;
        values[i] = sums[i / 16][quad / 2 * 2 + col / 2][quad % 2 * 2 + col % 2];
    }
#pragma unroll 1
    for (unsigned m = 0; m < L::M; m++) {
        uint32_t row = row_of<L>(m), col = col_of<L>(0, threadIdx.x % 4 * 2);
        struct quads quads = {
            {row, row + 8, row, row + 8},
            {col, col, col + 16, col + 16},
        };
        quads_store(&values[m * 16], tile, quads, finish);
    }
}

template <unsigned EDGE>
__global__ void __launch_bounds__(layout<EDGE>::THREADS, 512 / layout<EDGE>::THREADS)
    merge_fast(const struct merge_tensor *tensors, uint32_t count, const struct merge_term *terms)
{
    using L = layout<EDGE>;
    __shared__ __align__(16) struct slabs<EDGE> slabs;
    __shared__ struct tile tile;
    float sums[L::M][L::N][4];

    if (threadIdx.x == 0)
        tile = tile_find(tensors, count, terms, EDGE);
    __syncthreads();
#pragma unroll
    for (unsigned i = 0; i < L::M * L::N * 4; i++)
        sums[i / 4 / L::N][i / 4 % L::N][i % 4] = 0;
    if (tile.tensor->dtype == MERGE_BF16) {
        if (tile.tensor->transposed)
            tile_multiply<L, true, true>(sums, slabs, tile);
        else
            tile_multiply<L, true, false>(sums, slabs, tile);
    } else {
        if (tile.tensor->transposed)
            tile_multiply<L, false, true>(sums, slabs, tile);
        else
            tile_multiply<L, false, false>(sums, slabs, tile);
    }
    result_store<L>(sums, tile);
}

cudaError_t merge_fast_launch(
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
    config.blockDim = dim3(large ? layout<128>::THREADS : layout<64>::THREADS);
    config.stream = stream;
    auto kernel = large ? merge_fast<128> : merge_fast<64>;
    return cudaLaunchKernelEx(&config, kernel, tensors, count, terms);
}
