/*
 * The generator with AVX-512: 16 words at a time. 624 = 39 * 16, so a twist is 39 whole vectors;
 * the two that need words from both ends of the state (the 397th word ahead of 224..239, the next
 * word of 608..623) join two vectors. A vector's words depend only on vectors at least 224 words
 * away, so the loops run without waiting for each other.
 */
#include <immintrin.h>

#include "format/basis_kernel.h"

#define LANES 16

static inline __m512i load(const uint32_t *words)
{
    return _mm512_loadu_si512(words);
}

static inline __m512i twisted(__m512i word, __m512i next, __m512i far)
{
    const __m512i lower = _mm512_set1_epi32((int)MT_LOWER),
                  matrix = _mm512_set1_epi32((int)MT_MATRIX);
    __m512i joined = _mm512_ternarylogic_epi32(lower, next, word, 0xca); /* lower ? next : word */
    __mmask16 odd = _mm512_test_epi32_mask(next, _mm512_set1_epi32(1));
    __m512i mixed = _mm512_xor_si512(far, _mm512_srli_epi32(joined, 1));

    return _mm512_mask_xor_epi32(mixed, odd, mixed, matrix);
}

static void twist(uint32_t *state)
{
    const size_t wrap = MT_WORDS - MT_SHIFT, joint = wrap / LANES * LANES, last = MT_WORDS - LANES;
    size_t i;

    for (i = 0; i < joint; i += LANES)
        _mm512_storeu_si512(
            state + i, twisted(load(state + i), load(state + i + 1), load(state + i + MT_SHIFT))
        );
    /* Words 621, 622, 623, then the new 0..12. */
    __m512i far = _mm512_alignr_epi32(load(state), load(state + last), 13);
    _mm512_storeu_si512(state + i, twisted(load(state + i), load(state + i + 1), far));
    for (i += LANES; i < last; i += LANES)
        _mm512_storeu_si512(
            state + i, twisted(load(state + i), load(state + i + 1), load(state + i - wrap))
        );
    __m512i word = load(state + last), next = _mm512_alignr_epi32(load(state), word, 1);
    _mm512_storeu_si512(state + last, twisted(word, next, load(state + last - wrap)));
}

/* a ^ (b & c) in one operation. */
static inline __m512i xor_and(__m512i a, __m512i b, uint32_t c)
{
    return _mm512_ternarylogic_epi32(a, b, _mm512_set1_epi32((int)c), 0x78);
}

static inline __m512i tempered(__m512i word)
{
    word = _mm512_xor_si512(word, _mm512_srli_epi32(word, 11));
    word = xor_and(word, _mm512_slli_epi32(word, 7), MT_TEMPER_B);
    word = xor_and(word, _mm512_slli_epi32(word, 15), MT_TEMPER_C);
    return _mm512_xor_si512(word, _mm512_srli_epi32(word, 18));
}

static inline __m512 round_bf16(__m512 value)
{
    __m512i bits = _mm512_castps_si512(value);
    __m512i even = _mm512_and_si512(_mm512_srli_epi32(bits, 16), _mm512_set1_epi32(1));

    bits = _mm512_add_epi32(bits, _mm512_add_epi32(even, _mm512_set1_epi32(0x7fff)));
    return _mm512_castsi512_ps(_mm512_and_si512(bits, _mm512_set1_epi32((int)0xffff0000)));
}

/* For |value| < 65504. Below 2^-14, where the steps are 2^-24, adding 0.75 rounds to them: the sum
   lies where float32's own steps are 2^-24. */
static inline __m512 round_fp16(__m512 value)
{
    const __m512 sign = _mm512_set1_ps(-0.0f), shift = _mm512_set1_ps(0.75f);
    __m512i bits = _mm512_castps_si512(value);
    __m512i even = _mm512_and_si512(_mm512_srli_epi32(bits, 13), _mm512_set1_epi32(1));
    __m512i rounded = _mm512_add_epi32(bits, _mm512_add_epi32(even, _mm512_set1_epi32(0xfff)));
    __m512 normal = _mm512_castsi512_ps(_mm512_and_si512(rounded, _mm512_set1_epi32(-0x2000)));
    __m512 small = _mm512_sub_ps(_mm512_add_ps(value, shift), shift);
    __mmask16 is_small = _mm512_cmp_ps_mask(
        _mm512_abs_ps(value), _mm512_set1_ps(0x1p-14f), _CMP_LT_OQ
    );

    small = _mm512_or_ps(small, _mm512_and_ps(value, sign));
    return _mm512_mask_mov_ps(normal, is_small, small);
}

static inline __m512 mapped(
    __m512i word,
    __m512 scale,
    __m512 from,
    enum basis_variant variant,
    enum basis_rounding rounding
)
{
    __m512i draw = _mm512_and_si512(tempered(word), _mm512_set1_epi32((int)DRAW_MASK));
    __m512 x = _mm512_cvtepi32_ps(draw);
    __m512 value = variant == BASIS_FMA ? _mm512_fmadd_ps(x, scale, from)
                                        : _mm512_add_ps(_mm512_mul_ps(x, scale), from);

    if (rounding == BASIS_ROUND_BF16)
        return round_bf16(value);
    return rounding == BASIS_ROUND_FP16 ? round_fp16(value) : value;
}

static inline __attribute__((always_inline)) void values_as(
    float *out,
    const uint32_t *words,
    size_t count,
    const struct basis_map *map,
    enum basis_variant variant,
    enum basis_rounding rounding
)
{
    /* draw * (2^-24 * range) is (draw * 2^-24) * range: only an exponent moves. */
    const __m512 scale = _mm512_set1_ps(map->range * 0x1p-24f), from = _mm512_set1_ps(map->from);
    size_t i = 0;

    for (; i + LANES <= count; i += LANES)
        _mm512_storeu_ps(out + i, mapped(load(words + i), scale, from, variant, rounding));
    if (i < count) {
        __mmask16 rest = (__mmask16)((1u << (count - i)) - 1);
        __m512i word = _mm512_maskz_loadu_epi32(rest, words + i);
        _mm512_mask_storeu_ps(out + i, rest, mapped(word, scale, from, variant, rounding));
    }
}

static void values(float *out, const uint32_t *words, size_t count, const struct basis_map *map)
{
    switch (map->rounding) {
    case BASIS_ROUND_NONE:
        if (map->variant == BASIS_FMA)
            values_as(out, words, count, map, BASIS_FMA, BASIS_ROUND_NONE);
        else
            values_as(out, words, count, map, BASIS_MUL_ADD, BASIS_ROUND_NONE);
        break;
    case BASIS_ROUND_BF16:
        if (map->variant == BASIS_FMA)
            values_as(out, words, count, map, BASIS_FMA, BASIS_ROUND_BF16);
        else
            values_as(out, words, count, map, BASIS_MUL_ADD, BASIS_ROUND_BF16);
        break;
    case BASIS_ROUND_FP16:
        if (map->variant == BASIS_FMA)
            values_as(out, words, count, map, BASIS_FMA, BASIS_ROUND_FP16);
        else
            values_as(out, words, count, map, BASIS_MUL_ADD, BASIS_ROUND_FP16);
        break;
    }
}

const struct basis_kernel basis_kernel_avx512 = {twist, values};
