/*
 * Exact mode with AVX2 and FMA: tiles of 6 x 16, that is 12 of the 16 registers for sums, and for
 * each k two loads, 6 broadcasts and 12 fused multiply-adds.
 */
#include <immintrin.h>

#define LANES    8
#define ROWS     6
#define COLS     (2 * LANES)
#define ROWS_FEW 2

#include "apply/kernel_vector.h"

_Static_assert(ROWS *COLS <= KERNEL_TILE_MAX, "a tile fits");

static inline __attribute__((always_inline)) void
tile_of(float *acc, const float *left, const float *right, size_t depth, bool first, const int rows)
{
    __m256 sum[ROWS][2];

#pragma GCC unroll 6
    for (int m = 0; m < rows; m++) {
        sum[m][0] = first ? _mm256_setzero_ps() : _mm256_loadu_ps(acc + m * COLS);
        sum[m][1] = first ? _mm256_setzero_ps() : _mm256_loadu_ps(acc + m * COLS + LANES);
    }
    for (size_t k = 0; k < depth; k++) {
        __m256 low = _mm256_loadu_ps(right + k * COLS);
        __m256 high = _mm256_loadu_ps(right + k * COLS + LANES);
#pragma GCC unroll 6
        for (int m = 0; m < rows; m++) {
            __m256 factor = _mm256_set1_ps(left[k * (size_t)rows + (size_t)m]);
            sum[m][0] = _mm256_fmadd_ps(factor, low, sum[m][0]);
            sum[m][1] = _mm256_fmadd_ps(factor, high, sum[m][1]);
        }
    }
#pragma GCC unroll 6
    for (int m = 0; m < rows; m++) {
        _mm256_storeu_ps(acc + m * COLS, sum[m][0]);
        _mm256_storeu_ps(acc + m * COLS + LANES, sum[m][1]);
    }
}

static void tile(float *acc, const float *left, const float *right, size_t depth, bool first)
{
    tile_of(acc, left, right, depth, first, ROWS);
}

static void tile_few(float *acc, const float *left, const float *right, size_t depth, bool first)
{
    tile_of(acc, left, right, depth, first, ROWS_FEW);
}

static inline __m256 lanes_load(const uint8_t *y, enum kind kind)
{
    if (kind == KIND_F32)
        return _mm256_castsi256_ps(_mm256_loadu_si256((const void *)y));
    __m128i halves = _mm_loadu_si128((const void *)y);
    if (kind == KIND_F16)
        return _mm256_cvtph_ps(halves);
    return _mm256_castsi256_ps(_mm256_slli_epi32(_mm256_cvtepu16_epi32(halves), 16));
}

/* 8 x 32 bits to 8 x 16, saturating. */
static inline __m128i lanes_halve(__m256i wide, bool is_signed)
{
    __m128i low = _mm256_castsi256_si128(wide), high = _mm256_extracti128_si256(wide, 1);

    return is_signed ? _mm_packs_epi32(low, high) : _mm_packus_epi32(low, high);
}

/* To nearest even, in integers: a NaN of 0x7fc00000 becomes 0x7fc0. */
static inline __m128i bf16_lanes(__m256 value)
{
    __m256i bits = _mm256_castps_si256(value);
    __m256i odd = _mm256_and_si256(_mm256_srli_epi32(bits, 16), _mm256_set1_epi32(1));

    bits = _mm256_add_epi32(bits, _mm256_add_epi32(odd, _mm256_set1_epi32(0x7fff)));
    return lanes_halve(_mm256_srli_epi32(bits, 16), false);
}

/* Lanes where `keep` is set stay as they are. */
static inline void lanes_store(uint8_t *y, __m256 value, __m256 keep, enum kind kind)
{
    if (kind == KIND_F32) {
        __m256 before = lanes_load(y, kind);
        value = _mm256_blendv_ps(value, before, keep);
        _mm256_storeu_si256((void *)y, _mm256_castps_si256(value));
        return;
    }
    __m128i before = _mm_loadu_si128((const void *)y);
    __m128i after = kind == KIND_BF16 ? bf16_lanes(value)
                                      : _mm256_cvtps_ph(value, _MM_FROUND_TO_NEAREST_INT);
    __m128i mask = lanes_halve(_mm256_castps_si256(keep), true);
    _mm_storeu_si128((void *)y, _mm_blendv_epi8(after, before, mask));
}

static inline void update_lanes(uint8_t *y, __m256 acc, __m256 factor, enum kind kind)
{
    const __m256 nan = _mm256_castsi256_ps(_mm256_set1_epi32(0x7fc00000));
    __m256 value = _mm256_fmadd_ps(factor, acc, lanes_load(y, kind));
    __m256 bad = _mm256_cmp_ps(value, value, _CMP_UNORD_Q);
    __m256 keep = _mm256_cmp_ps(factor, _mm256_setzero_ps(), _CMP_EQ_OQ);

    lanes_store(y, _mm256_blendv_ps(value, nan, bad), keep, kind);
}

static inline __attribute__((always_inline)) void update(
    uint8_t *y, const float *acc, const float *scale, bool per_column, size_t count, enum kind kind
)
{
    const size_t size = kind_bytes(kind);
    size_t n = 0;

    for (; n + LANES <= count; n += LANES) {
        __m256 factor = per_column ? _mm256_loadu_ps(scale + n) : _mm256_set1_ps(*scale);
        update_lanes(y + size * n, _mm256_loadu_ps(acc + n), factor, kind);
    }
    if (n < count)
        update_rest(
            y + size * n, acc + n, scale + (per_column ? n : 0), per_column, count - n, kind
        );
}

const struct kernel_level kernel_level_avx2 = {
    ROWS, COLS,     ROWS_FEW,   pack_scaled, pack_transposed,
    tile, tile_few, update_f32, update_bf16, update_f16,
};
