/*
 * The generator with AVX2 and FMA: 8 words at a time. 624 = 78 * 8, so a twist is 78 whole vectors;
 * the two that need words from both ends of the state (the 397th word ahead of 224..231, the next
 * word of 616..623) join two vectors.
 */
#include <immintrin.h>
#include <string.h>

#include "format/basis_kernel.h"

#define LANES 8

static inline __m256i load(const uint32_t *words)
{
    return _mm256_loadu_si256((const void *)words);
}

static inline void store(uint32_t *words, __m256i vector)
{
    _mm256_storeu_si256((void *)words, vector);
}

static inline __m256i all(uint32_t word)
{
    return _mm256_set1_epi32((int)word);
}

static inline __m256i twisted(__m256i word, __m256i next, __m256i far)
{
    __m256i joined = _mm256_or_si256(
        _mm256_and_si256(word, all(MT_UPPER)), _mm256_and_si256(next, all(MT_LOWER))
    );
    /* A lane's lowest bit, as its sign, chooses between 0 and the matrix. */
    __m256i odd = _mm256_srai_epi32(_mm256_slli_epi32(next, 31), 31);
    __m256i mixed = _mm256_xor_si256(far, _mm256_srli_epi32(joined, 1));

    return _mm256_xor_si256(mixed, _mm256_and_si256(odd, all(MT_MATRIX)));
}

static void twist(uint32_t *state)
{
    const size_t wrap = MT_WORDS - MT_SHIFT, joint = wrap / LANES * LANES, last = MT_WORDS - LANES;
    size_t i;

    for (i = 0; i < joint; i += LANES)
        store(state + i, twisted(load(state + i), load(state + i + 1), load(state + i + MT_SHIFT)));
    /* Words 621, 622, 623, then the new 0..4. */
    const __m256i by_5 = _mm256_setr_epi32(5, 6, 7, 0, 1, 2, 3, 4);
    __m256i far = _mm256_blend_epi32(
        _mm256_permutevar8x32_epi32(load(state + last), by_5),
        _mm256_permutevar8x32_epi32(load(state), by_5), 0xf8
    );
    store(state + i, twisted(load(state + i), load(state + i + 1), far));
    for (i += LANES; i < last; i += LANES)
        store(state + i, twisted(load(state + i), load(state + i + 1), load(state + i - wrap)));
    /* Words 617..623, then the new 0. */
    const __m256i by_1 = _mm256_setr_epi32(1, 2, 3, 4, 5, 6, 7, 0);
    __m256i word = load(state + last);
    __m256i next = _mm256_permutevar8x32_epi32(_mm256_blend_epi32(word, load(state), 0x01), by_1);
    store(state + last, twisted(word, next, load(state + last - wrap)));
}

static inline __m256i tempered(__m256i word)
{
    word = _mm256_xor_si256(word, _mm256_srli_epi32(word, 11));
    word = _mm256_xor_si256(word, _mm256_and_si256(_mm256_slli_epi32(word, 7), all(MT_TEMPER_B)));
    word = _mm256_xor_si256(word, _mm256_and_si256(_mm256_slli_epi32(word, 15), all(MT_TEMPER_C)));
    return _mm256_xor_si256(word, _mm256_srli_epi32(word, 18));
}

static inline __m256 round_bf16(__m256 value)
{
    __m256i bits = _mm256_castps_si256(value);
    __m256i even = _mm256_and_si256(_mm256_srli_epi32(bits, 16), all(1));

    bits = _mm256_add_epi32(bits, _mm256_add_epi32(even, all(0x7fff)));
    return _mm256_castsi256_ps(_mm256_and_si256(bits, all(0xffff0000)));
}

/* For |value| < 65504. Below 2^-14, where the steps are 2^-24, adding 0.75 rounds to them: the sum
   lies where float32's own steps are 2^-24. */
static inline __m256 round_fp16(__m256 value)
{
    const __m256 sign = _mm256_set1_ps(-0.0f), shift = _mm256_set1_ps(0.75f);
    __m256i bits = _mm256_castps_si256(value);
    __m256i even = _mm256_and_si256(_mm256_srli_epi32(bits, 13), all(1));
    __m256i rounded = _mm256_add_epi32(bits, _mm256_add_epi32(even, all(0xfff)));
    __m256 normal = _mm256_castsi256_ps(_mm256_and_si256(rounded, all(0xffffe000)));
    __m256 small = _mm256_sub_ps(_mm256_add_ps(value, shift), shift);
    __m256 is_small = _mm256_cmp_ps(
        _mm256_andnot_ps(sign, value), _mm256_set1_ps(0x1p-14f), _CMP_LT_OQ
    );

    small = _mm256_or_ps(small, _mm256_and_ps(value, sign));
    return _mm256_blendv_ps(normal, small, is_small);
}

static inline __m256 mapped(
    __m256i word,
    __m256 scale,
    __m256 from,
    enum basis_variant variant,
    enum basis_rounding rounding
)
{
    __m256 x = _mm256_cvtepi32_ps(_mm256_and_si256(tempered(word), all(DRAW_MASK)));
    __m256 value = variant == BASIS_FMA ? _mm256_fmadd_ps(x, scale, from)
                                        : _mm256_add_ps(_mm256_mul_ps(x, scale), from);

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
    const __m256 scale = _mm256_set1_ps(map->range * 0x1p-24f), from = _mm256_set1_ps(map->from);
    size_t i = 0;

    for (; i + LANES <= count; i += LANES)
        _mm256_storeu_ps(out + i, mapped(load(words + i), scale, from, variant, rounding));
    if (i < count) {
        uint32_t rest[LANES] = {0};
        float last[LANES];
        memcpy(rest, words + i, (count - i) * sizeof(*rest));
        _mm256_storeu_ps(last, mapped(load(rest), scale, from, variant, rounding));
        memcpy(out + i, last, (count - i) * sizeof(*last));
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

const struct basis_kernel basis_kernel_avx2 = {twist, values};
