/*
 * What both kernels do around their products: find the tile that a block is for, and take elements
 * of W to float32 and back. Elements travel as raw bits, so that what no factor touches keeps every
 * bit, also a NaN's.
 */
#ifndef APPLY_CUDA_TILE_H
#define APPLY_CUDA_TILE_H

#include "apply/cuda/kernels.h"

/* Rows [row, row + rows) and columns [col, col + cols) of a tensor's range. */
struct tile {
    const struct merge_tensor *tensor;
    const struct merge_term *terms; /* the tensor's own */
    uint64_t row, col;
    uint32_t rows, cols;
};

/* On the emulated device: that what the host passed is memory of the device. */
#ifndef __CUDACC__
inline void tile_check(const struct tile &tile)
{
    emulated_device_check(tile.tensor);
    emulated_device_check(tile.tensor->from);
    emulated_device_check(tile.tensor->to);
    for (uint32_t s = 0; s < tile.tensor->term_count; s++) {
        emulated_device_check(&tile.terms[s]);
        emulated_device_check(tile.terms[s].a);
        emulated_device_check(tile.terms[s].b_matrix);
        emulated_device_check(tile.terms[s].d);
        emulated_device_check(tile.terms[s].factor);
    }
}
#endif

/* The last tensor that begins at or before the block's tile; those without tiles begin where the
   next one does. */
__device__ inline struct tile tile_find(
    const struct merge_tensor *tensors,
    uint32_t count,
    const struct merge_term *terms,
    uint32_t edge
)
{
    uint32_t low = 0, high = count;

    while (high - low > 1) {
        uint32_t middle = low + (high - low) / 2;
        if (tensors[middle].tile_begin <= blockIdx.x)
            low = middle;
        else
            high = middle;
    }
    const struct merge_tensor *tensor = &tensors[low];
    uint32_t number = blockIdx.x - tensor->tile_begin;
    uint32_t across = (uint32_t)((tensor->cols + edge - 1) / edge);
    struct tile tile = {tensor, terms + tensor->term_begin, 0, 0, edge, edge};
    tile.row = (uint64_t)(number / across) * edge;
    tile.col = (uint64_t)(number % across) * edge;
    if (tensor->rows - tile.row < edge)
        tile.rows = (uint32_t)(tensor->rows - tile.row);
    if (tensor->cols - tile.col < edge)
        tile.cols = (uint32_t)(tensor->cols - tile.col);
#ifndef __CUDACC__
    tile_check(tile);
#endif
    return tile;
}

/* ---- Elements ---- */

__device__ inline float f16_widen(uint32_t half)
{
    uint32_t bits = (half & 0x7fff) << 13;
    float value = __fmul_rn(__uint_as_float(bits), 0x1p112f); /* exact, subnormals too */

    if ((half & 0x7c00) == 0x7c00)
        value = __uint_as_float(bits | 0x7f800000);
    return __uint_as_float(__float_as_uint(value) | (half & 0x8000) << 16);
}

__device__ inline uint32_t f16_narrow(uint32_t bits)
{
    uint32_t sign = bits >> 16 & 0x8000, abs = bits & 0x7fffffff;

    if (abs >= 0x477ff000) /* rounds to 65536 or above */
        return sign | 0x7c00;
    if (abs >= 0x38800000) /* 2^-14 */
        return sign | (abs - 0x38000000 + 0xfff + (abs >> 13 & 1)) >> 13;
    /* The step of numbers from 1/2 on is that of the subnormals, 2^-24. */
    return sign | (__float_as_uint(__fadd_rn(__uint_as_float(abs), 0.5f)) - 0x3f000000);
}

__device__ inline float element_widen(uint32_t raw, enum merge_dtype dtype)
{
    if (dtype == MERGE_F16)
        return f16_widen(raw);
    return __uint_as_float(dtype == MERGE_BF16 ? raw << 16 : raw);
}

/* Rounded to nearest even; the one NaN of each type. */
__device__ inline uint32_t element_narrow(float value, enum merge_dtype dtype)
{
    uint32_t bits = __float_as_uint(value);
    bool nan = (bits & 0x7fffffff) > 0x7f800000;

    if (dtype == MERGE_F32)
        return nan ? 0x7fc00000 : bits;
    if (dtype == MERGE_BF16)
        return nan ? 0x7fc0 : (bits + 0x7fff + (bits >> 16 & 1)) >> 16;
    return nan ? 0x7e00 : f16_narrow(bits);
}

/* Whether four neighbours can be moved at once, where the first one's column is a multiple of 4. */
__device__ inline bool
is_vector(const uint8_t *base, uint64_t stride, enum merge_dtype dtype, uint32_t step = 1)
{
    return ((uintptr_t)base & (dtype == MERGE_F32 ? 15 : 7)) == 0 && stride % 4 == 0 && step == 1;
}

/* The first `count` of four neighbours, raw; `at` counts elements, and `step` those from one to the
   next. */
__device__ inline void quad_load(
    uint32_t (&raw)[4],
    const uint8_t *base,
    uint64_t at,
    uint32_t count,
    enum merge_dtype dtype,
    bool vector,
    uint32_t step = 1
)
{
    if (vector && count == 4) {
        if (dtype == MERGE_F32) {
            uint4 quad = __ldcs((const uint4 *)(const void *)(base + 4 * at));
            raw[0] = quad.x, raw[1] = quad.y, raw[2] = quad.z, raw[3] = quad.w;
        } else {
            uint2 quad = __ldcs((const uint2 *)(const void *)(base + 2 * at));
            raw[0] = quad.x & 0xffff, raw[1] = quad.x >> 16;
            raw[2] = quad.y & 0xffff, raw[3] = quad.y >> 16;
        }
        return;
    }
    for (uint32_t n = 0; n < 4; n++) {
        if (n >= count)
            raw[n] = 0;
        else if (dtype == MERGE_F32)
            raw[n] = __ldcs((const uint32_t *)(const void *)base + at + n * (uint64_t)step);
        else
            raw[n] = __ldcs((const uint16_t *)(const void *)base + at + n * (uint64_t)step);
    }
}

__device__ inline void quad_store(
    uint8_t *base,
    uint64_t at,
    const uint32_t (&raw)[4],
    uint32_t count,
    enum merge_dtype dtype,
    bool vector,
    uint32_t step = 1
)
{
    if (vector && count == 4) {
        if (dtype == MERGE_F32)
            __stcs((uint4 *)(void *)(base + 4 * at), {raw[0], raw[1], raw[2], raw[3]});
        else
            __stcs(
                (uint2 *)(void *)(base + 2 * at), {raw[0] | raw[1] << 16, raw[2] | raw[3] << 16}
            );
        return;
    }
    for (uint32_t n = 0; n < 4; n++) {
        if (n >= count)
            break;
        if (dtype == MERGE_F32)
            __stcs((uint32_t *)(void *)base + at + n * (uint64_t)step, raw[n]);
        else
            __stcs((uint16_t *)(void *)base + at + n * (uint64_t)step, (uint16_t)raw[n]);
    }
}

/* ---- Which elements a tensor's terms change ---- */

/* Whether any term has a factor other than +-0 for a row (a column, if transposed) of the range. */
__device__ inline bool is_touched(const struct tile &tile, uint64_t index)
{
    for (uint32_t s = 0; s < tile.tensor->term_count; s++) {
        if (tile.terms[s].factor[index] != 0)
            return true;
    }
    return false;
}

/* Which of the four columns from `col` on are changed in row `row` (both inside the tile), as
   bits. */
__device__ inline uint32_t quad_touched(const struct tile &tile, uint32_t row, uint32_t col)
{
    uint32_t mask = 0;

    if (!tile.tensor->transposed)
        return is_touched(tile, tile.row + row) ? 15 : 0;
    for (uint32_t n = 0; n < 4; n++) {
        if (col + n < tile.cols && is_touched(tile, tile.col + col + n))
            mask |= 1u << n;
    }
    return mask;
}

/* Where four neighbours of a tile are in W, and in the result. */
struct quad {
    uint64_t from, to; /* elements from the tensor's first */
    uint32_t count;
};

__device__ inline struct quad quad_at(const struct tile &tile, uint32_t row, uint32_t col)
{
    const struct merge_tensor *tensor = tile.tensor;
    uint64_t at_row = tile.row + row, at_col = tile.col + col;
    uint32_t count = tile.cols - col < 4 ? tile.cols - col : 4;

    return {
        at_row * tensor->from_stride + at_col * tensor->from_step,
        at_row * tensor->to_stride + at_col * tensor->to_step, count};
}

/* ---- What a thread writes ---- */

/* Four times four neighbours: quad i begins at rows[i], cols[i], which may lie outside the tile. */
struct quads {
    uint32_t rows[4], cols[4];
};

__device__ inline bool quad_exists(const struct tile &tile, const struct quads &quads, unsigned i)
{
    return quads.rows[i] < tile.rows && quads.cols[i] < tile.cols;
}

/* W's elements there, raw; 0 outside. */
__device__ inline void
quads_load(uint32_t (&raw)[4][4], const struct tile &tile, const struct quads &quads)
{
    const struct merge_tensor *tensor = tile.tensor;
    bool vector = is_vector(tensor->from, tensor->from_stride, tensor->dtype, tensor->from_step);

#pragma unroll
    for (unsigned i = 0; i < 4; i++) {
        raw[i][0] = raw[i][1] = raw[i][2] = raw[i][3] = 0;
        if (!quad_exists(tile, quads, i))
            continue;
        struct quad at = quad_at(tile, quads.rows[i], quads.cols[i]);
        quad_load(
            raw[i], tensor->from, at.from, at.count, tensor->dtype, vector, tensor->from_step
        );
    }
}

/* The result there: finish(values[4 * i + j], w, row, col) is y, for what is touched; the rest is
   copied. w: W, widened; row and col count from the tile's first. */
template <typename Finish>
__device__ inline void
quads_store(const float *values, const struct tile &tile, const struct quads &quads, Finish finish)
{
    const struct merge_tensor *tensor = tile.tensor;
    bool vector = is_vector(tensor->to, tensor->to_stride, tensor->dtype, tensor->to_step);
    uint32_t raw[4][4];

    quads_load(raw, tile, quads);
#pragma unroll
    for (unsigned i = 0; i < 4; i++) {
        if (!quad_exists(tile, quads, i))
            continue;
        uint32_t touched = quad_touched(tile, quads.rows[i], quads.cols[i]);
        if (touched == 0 && tensor->from == tensor->to)
            continue;
#pragma unroll
        for (unsigned j = 0; j < 4; j++) {
            if (!(touched >> j & 1))
                continue;
            float w = element_widen(raw[i][j], tensor->dtype);
            float y = finish(values[4 * i + j], w, quads.rows[i], quads.cols[i] + j);
            raw[i][j] = element_narrow(y, tensor->dtype);
        }
        struct quad at = quad_at(tile, quads.rows[i], quads.cols[i]);
        quad_store(tensor->to, at.to, raw[i], at.count, tensor->dtype, vector, tensor->to_step);
    }
}

/* ---- What a thread reads of A and B ---- */

/* Where a term's numbers for a tile begin. */
struct place {
    uint64_t a_first, b_first; /* columns of A, rows of B */
    uint32_t a_lanes, b_lanes; /* how many */
    bool transposed;
};

__device__ inline struct place place_of(const struct tile &tile)
{
    uint64_t row = tile.tensor->first_row + tile.row;

    if (tile.tensor->transposed)
        return {row, tile.col, tile.rows, tile.cols, true};
    return {tile.col, row, tile.cols, tile.rows, false};
}

/* Whether four neighbours can be read at once. */
__device__ inline bool a_is_vector(const struct merge_term &term, const struct place &place)
{
    return ((uintptr_t)(term.a + place.a_first) & 15) == 0 && term.a_stride % 4 == 0;
}

__device__ inline bool b_is_vector(const struct merge_term &term)
{
    return ((uintptr_t)term.b_matrix & 15) == 0 && term.rank % 4 == 0;
}

#endif
