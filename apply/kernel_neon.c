/*
 * Exact mode on arm64: tiles of 6 x 16, that is 24 of the 32 registers for sums, and for each k six
 * loads (4 of right, 6 numbers of left in two) and 24 fused multiply-adds by lane.
 */
#include <arm_neon.h>

#define LANES    4
#define ROWS     6
#define COLS     (4 * LANES)
#define ROWS_FEW 2

#include "apply/kernel_vector.h"

_Static_assert(ROWS *COLS <= KERNEL_TILE_MAX, "a tile fits");

static inline void
tile_row(float32x4_t sum[COLS / LANES], const float32x4_t right[COLS / LANES], float32x4_t factor)
{
#pragma GCC unroll 4
    for (int n = 0; n < COLS / LANES; n++)
        sum[n] = vfmaq_f32(sum[n], right[n], factor);
}

static void tile(float *acc, const float *left, const float *right, size_t depth, bool first)
{
    float32x4_t sum[ROWS][COLS / LANES];

#pragma GCC unroll 6
    for (int m = 0; m < ROWS; m++) {
#pragma GCC unroll 4
        for (int n = 0; n < COLS / LANES; n++)
            sum[m][n] = first ? vdupq_n_f32(0) : vld1q_f32(acc + m * COLS + n * LANES);
    }
    for (size_t k = 0; k < depth; k++) {
        const float32x4_t four = vld1q_f32(left + k * ROWS);
        const float32x2_t two = vld1_f32(left + k * ROWS + 4);
        float32x4_t lanes[COLS / LANES];
#pragma GCC unroll 4
        for (int n = 0; n < COLS / LANES; n++)
            lanes[n] = vld1q_f32(right + k * COLS + (size_t)n * LANES);
        tile_row(sum[0], lanes, vdupq_laneq_f32(four, 0));
        tile_row(sum[1], lanes, vdupq_laneq_f32(four, 1));
        tile_row(sum[2], lanes, vdupq_laneq_f32(four, 2));
        tile_row(sum[3], lanes, vdupq_laneq_f32(four, 3));
        tile_row(sum[4], lanes, vdupq_lane_f32(two, 0));
        tile_row(sum[5], lanes, vdupq_lane_f32(two, 1));
    }
#pragma GCC unroll 6
    for (int m = 0; m < ROWS; m++) {
#pragma GCC unroll 4
        for (int n = 0; n < COLS / LANES; n++)
            vst1q_f32(acc + m * COLS + n * LANES, sum[m][n]);
    }
}

static void tile_few(float *acc, const float *left, const float *right, size_t depth, bool first)
{
    float32x4_t sum[ROWS_FEW][COLS / LANES];

#pragma GCC unroll 2
    for (int m = 0; m < ROWS_FEW; m++) {
#pragma GCC unroll 4
        for (int n = 0; n < COLS / LANES; n++)
            sum[m][n] = first ? vdupq_n_f32(0) : vld1q_f32(acc + m * COLS + n * LANES);
    }
    for (size_t k = 0; k < depth; k++) {
        const float32x2_t two = vld1_f32(left + k * ROWS_FEW);
        float32x4_t lanes[COLS / LANES];
#pragma GCC unroll 4
        for (int n = 0; n < COLS / LANES; n++)
            lanes[n] = vld1q_f32(right + k * COLS + (size_t)n * LANES);
        tile_row(sum[0], lanes, vdupq_lane_f32(two, 0));
        tile_row(sum[1], lanes, vdupq_lane_f32(two, 1));
    }
#pragma GCC unroll 2
    for (int m = 0; m < ROWS_FEW; m++) {
#pragma GCC unroll 4
        for (int n = 0; n < COLS / LANES; n++)
            vst1q_f32(acc + m * COLS + n * LANES, sum[m][n]);
    }
}

static inline float32x4_t lanes_load(const uint8_t *y, enum kind kind)
{
    uint16x4_t halves;

    if (kind == KIND_F32)
        return vreinterpretq_f32_u8(vld1q_u8(y));
    halves = vreinterpret_u16_u8(vld1_u8(y));
    if (kind == KIND_F16)
        return vcvt_f32_f16(vreinterpret_f16_u16(halves));
    return vreinterpretq_f32_u32(vshll_n_u16(halves, 16));
}

/* bf16: to nearest even, in integers: a NaN of 0x7fc00000 becomes 0x7fc0. Lanes where `keep` is set
   stay as they are. */
static inline void lanes_store(uint8_t *y, uint32x4_t bits, uint32x4_t keep, enum kind kind)
{
    uint16x4_t halves;

    if (kind == KIND_F32) {
        bits = vbslq_u32(keep, vreinterpretq_u32_u8(vld1q_u8(y)), bits);
        vst1q_u8(y, vreinterpretq_u8_u32(bits));
        return;
    }
    if (kind == KIND_F16) {
        halves = vreinterpret_u16_f16(vcvt_f16_f32(vreinterpretq_f32_u32(bits)));
    } else {
        uint32x4_t odd = vandq_u32(vshrq_n_u32(bits, 16), vdupq_n_u32(1));
        bits = vaddq_u32(bits, vaddq_u32(odd, vdupq_n_u32(0x7fff)));
        halves = vshrn_n_u32(bits, 16);
    }
    halves = vbsl_u16(vmovn_u32(keep), vreinterpret_u16_u8(vld1_u8(y)), halves);
    vst1_u8(y, vreinterpret_u8_u16(halves));
}

static inline void update_lanes(uint8_t *y, float32x4_t acc, float32x4_t factor, enum kind kind)
{
    float32x4_t value = vfmaq_f32(lanes_load(y, kind), factor, acc);
    uint32x4_t number = vceqq_f32(value, value), keep = vceqzq_f32(factor);
    uint32x4_t bits = vbslq_u32(number, vreinterpretq_u32_f32(value), vdupq_n_u32(0x7fc00000));

    lanes_store(y, bits, keep, kind);
}

static inline __attribute__((always_inline)) void update(
    uint8_t *y, const float *acc, const float *scale, bool per_column, size_t count, enum kind kind
)
{
    const size_t size = kind_bytes(kind);
    size_t n = 0;

    for (; n + LANES <= count; n += LANES) {
        float32x4_t factor = per_column ? vld1q_f32(scale + n) : vdupq_n_f32(*scale);
        update_lanes(y + size * n, vld1q_f32(acc + n), factor, kind);
    }
    if (n < count)
        update_rest(
            y + size * n, acc + n, scale + (per_column ? n : 0), per_column, count - n, kind
        );
}

const struct kernel_level kernel_level_neon = {
    ROWS, COLS,     ROWS_FEW,   pack_scaled, pack_transposed,
    tile, tile_few, update_f32, update_bf16, update_f16,
};
