/*
 * Exact mode with AVX2 and FMA: tiles of 6 x 16, that is 12 of the 16 registers for sums, and for
 * each k two loads, 6 broadcasts and 12 fused multiply-adds.
 */
#include <immintrin.h>
#include <string.h>

#include "apply/kernel_level.h"
#include "apply/kernel_pack.h"

#define LANES 8
#define ROWS  6
#define COLS  (2 * LANES)

_Static_assert(ROWS *COLS <= KERNEL_TILE_MAX, "a tile fits");

static void pack_scaled(
    float *panel,
    unsigned width,
    const float *a,
    size_t stride,
    const float *d,
    size_t count,
    size_t depth
)
{
    if (width == COLS)
        panel_scaled(panel, COLS, a, stride, d, count, depth);
    else
        panel_scaled(panel, width, a, stride, d, count, depth);
}

static void pack_transposed(
    float *panel, unsigned width, const float *b, size_t stride, size_t count, size_t depth
)
{
    panel_transposed(panel, width, b, stride, count, depth);
}

static void tile(float *acc, const float *left, const float *right, size_t depth, bool first)
{
    __m256 sum[ROWS][2];

#pragma GCC unroll 6
    for (int m = 0; m < ROWS; m++) {
        sum[m][0] = first ? _mm256_setzero_ps() : _mm256_loadu_ps(acc + m * COLS);
        sum[m][1] = first ? _mm256_setzero_ps() : _mm256_loadu_ps(acc + m * COLS + LANES);
    }
    for (size_t k = 0; k < depth; k++) {
        __m256 low = _mm256_loadu_ps(right + k * COLS);
        __m256 high = _mm256_loadu_ps(right + k * COLS + LANES);
#pragma GCC unroll 6
        for (int m = 0; m < ROWS; m++) {
            __m256 factor = _mm256_set1_ps(left[k * ROWS + (size_t)m]);
            sum[m][0] = _mm256_fmadd_ps(factor, low, sum[m][0]);
            sum[m][1] = _mm256_fmadd_ps(factor, high, sum[m][1]);
        }
    }
#pragma GCC unroll 6
    for (int m = 0; m < ROWS; m++) {
        _mm256_storeu_ps(acc + m * COLS, sum[m][0]);
        _mm256_storeu_ps(acc + m * COLS + LANES, sum[m][1]);
    }
}

static inline void update_lanes(uint8_t *y, __m256 acc, __m256 factor)
{
    const __m256 nan = _mm256_castsi256_ps(_mm256_set1_epi32(0x7fc00000));
    __m256 before = _mm256_castsi256_ps(_mm256_loadu_si256((const void *)y));
    __m256 value = _mm256_fmadd_ps(factor, acc, before);
    __m256 bad = _mm256_cmp_ps(value, value, _CMP_UNORD_Q);
    __m256 keep = _mm256_cmp_ps(factor, _mm256_setzero_ps(), _CMP_EQ_OQ);

    value = _mm256_blendv_ps(_mm256_blendv_ps(value, nan, bad), before, keep);
    _mm256_storeu_si256((void *)y, _mm256_castps_si256(value));
}

static void update(uint8_t *y, const float *acc, const float *scale, bool per_column, size_t count)
{
    size_t n = 0;

    for (; n + LANES <= count; n += LANES) {
        __m256 factor = per_column ? _mm256_loadu_ps(scale + n) : _mm256_set1_ps(*scale);
        update_lanes(y + 4 * n, _mm256_loadu_ps(acc + n), factor);
    }
    if (n < count) {
        /* Lanes beyond the end have the factor 0 and stay here. */
        size_t left = count - n;
        uint8_t bytes[4 * LANES] = {0};
        float factors[LANES] = {0}, sums[LANES] = {0};
        for (size_t i = 0; i < left; i++)
            factors[i] = scale[per_column ? n + i : 0];
        memcpy(sums, acc + n, left * sizeof(*sums));
        memcpy(bytes, y + 4 * n, 4 * left);
        update_lanes(bytes, _mm256_loadu_ps(sums), _mm256_loadu_ps(factors));
        memcpy(y + 4 * n, bytes, 4 * left);
    }
}

const struct kernel_level kernel_level_avx2 = {
    ROWS, COLS, pack_scaled, pack_transposed, tile, update,
};
