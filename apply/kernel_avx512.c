/*
 * Exact mode with AVX-512: tiles of 12 x 32, that is 24 of the 32 registers for sums, and for each
 * k two loads, 12 broadcasts and 24 fused multiply-adds.
 */
#include <immintrin.h>

#define LANES    16
#define ROWS     12
#define COLS     (2 * LANES)
#define ROWS_FEW 4

#include "apply/kernel_vector.h"

_Static_assert(ROWS *COLS <= KERNEL_TILE_MAX, "a tile fits");

static inline __attribute__((always_inline)) void
tile_of(float *acc, const float *left, const float *right, size_t depth, bool first, const int rows)
{
    __m512 sum[ROWS][2];

#pragma GCC unroll 12
    for (int m = 0; m < rows; m++) {
        sum[m][0] = first ? _mm512_setzero_ps() : _mm512_loadu_ps(acc + m * COLS);
        sum[m][1] = first ? _mm512_setzero_ps() : _mm512_loadu_ps(acc + m * COLS + LANES);
    }
    for (size_t k = 0; k < depth; k++) {
        __m512 low = _mm512_loadu_ps(right + k * COLS);
        __m512 high = _mm512_loadu_ps(right + k * COLS + LANES);
#pragma GCC unroll 12
        for (int m = 0; m < rows; m++) {
            __m512 factor = _mm512_set1_ps(left[k * (size_t)rows + (size_t)m]);
            sum[m][0] = _mm512_fmadd_ps(factor, low, sum[m][0]);
            sum[m][1] = _mm512_fmadd_ps(factor, high, sum[m][1]);
        }
    }
#pragma GCC unroll 12
    for (int m = 0; m < rows; m++) {
        _mm512_storeu_ps(acc + m * COLS, sum[m][0]);
        _mm512_storeu_ps(acc + m * COLS + LANES, sum[m][1]);
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

static inline __m512 lanes_load(const uint8_t *y, __mmask16 lanes, enum kind kind)
{
    if (kind == KIND_F32)
        return _mm512_castsi512_ps(_mm512_maskz_loadu_epi32(lanes, y));
    __m256i halves = _mm256_maskz_loadu_epi16(lanes, y);
    if (kind == KIND_F16)
        return _mm512_cvtph_ps(halves);
    return _mm512_castsi512_ps(_mm512_slli_epi32(_mm512_cvtepu16_epi32(halves), 16));
}

/* bf16: to nearest even, in integers, so that subnormals are kept; a NaN of 0x7fc00000 becomes
   0x7fc0. */
static inline void lanes_store(uint8_t *y, __mmask16 lanes, __m512i bits, enum kind kind)
{
    if (kind == KIND_F32) {
        _mm512_mask_storeu_epi32(y, lanes, bits);
        return;
    }
    if (kind == KIND_F16) {
        __m256i halves = _mm512_cvtps_ph(_mm512_castsi512_ps(bits), _MM_FROUND_TO_NEAREST_INT);
        _mm256_mask_storeu_epi16(y, lanes, halves);
        return;
    }
    __m512i odd = _mm512_and_epi32(_mm512_srli_epi32(bits, 16), _mm512_set1_epi32(1));
    bits = _mm512_add_epi32(bits, _mm512_add_epi32(odd, _mm512_set1_epi32(0x7fff)));
    _mm256_mask_storeu_epi16(y, lanes, _mm512_cvtepi32_epi16(_mm512_srli_epi32(bits, 16)));
}

static inline __attribute__((always_inline)) void update(
    uint8_t *y, const float *acc, const float *scale, bool per_column, size_t count, enum kind kind
)
{
    const size_t size = kind_bytes(kind);
    const __m512 zero = _mm512_setzero_ps();
    const __m512i nan = _mm512_set1_epi32(0x7fc00000);

    for (size_t n = 0; n < count; n += LANES) {
        size_t left = count - n;
        __mmask16 lanes = (__mmask16)(left < LANES ? (1u << left) - 1 : 0xffffu);
        __m512 factor = per_column ? _mm512_maskz_loadu_ps(lanes, scale + n)
                                   : _mm512_set1_ps(*scale);
        /* Lanes whose factor is +-0 are not written. */
        lanes = _mm512_mask_cmp_ps_mask(lanes, factor, zero, _CMP_NEQ_UQ);
        __m512 value = lanes_load(y + size * n, lanes, kind);
        value = _mm512_fmadd_ps(factor, _mm512_maskz_loadu_ps(lanes, acc + n), value);
        __mmask16 bad = _mm512_cmp_ps_mask(value, value, _CMP_UNORD_Q);
        __m512i bits = _mm512_mask_mov_epi32(_mm512_castps_si512(value), bad, nan);
        lanes_store(y + size * n, lanes, bits, kind);
    }
}

const struct kernel_level kernel_level_avx512 = {
    ROWS, COLS,     ROWS_FEW,   pack_scaled, pack_transposed,
    tile, tile_few, update_f32, update_bf16, update_f16,
};
