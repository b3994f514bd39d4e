/*
 * The generator in plain C. The fused multiply-add needs no fma: from = -to and range = 2*to hold
 * exactly, so for a draw n
 *
 *   x * range + from = n * 2^-24 * 2*to - to = (n - 2^23) * (to * 2^-23),
 *
 * where n - 2^23 has at most 24 bits and to * 2^-23 is `to` with another exponent: both factors are
 * float32 numbers, and one product rounds once, which is what the fused operation gives. The sign
 * of zero agrees: both are +0 at n = 2^23.
 */
#include "format/basis_kernel.h"

static inline uint32_t twisted(uint32_t word, uint32_t next, uint32_t far)
{
    uint32_t joined = (word & MT_UPPER) | (next & MT_LOWER);

    return far ^ joined >> 1 ^ (-(next & 1) & MT_MATRIX);
}

static void twist(uint32_t *state)
{
    const size_t wrap = MT_WORDS - MT_SHIFT;

    for (size_t i = 0; i < wrap; i++)
        state[i] = twisted(state[i], state[i + 1], state[i + MT_SHIFT]);
    for (size_t i = wrap; i < MT_WORDS - 1; i++)
        state[i] = twisted(state[i], state[i + 1], state[i - wrap]);
    state[MT_WORDS - 1] = twisted(state[MT_WORDS - 1], state[0], state[MT_SHIFT - 1]);
}

static inline uint32_t tempered(uint32_t word)
{
    word ^= word >> 11;
    word ^= word << 7 & MT_TEMPER_B;
    word ^= word << 15 & MT_TEMPER_C;
    return word ^ word >> 18;
}

static void values_fma(float *out, const uint32_t *words, size_t count, float step)
{
    for (size_t i = 0; i < count; i++)
        out[i] = (float)((int32_t)(tempered(words[i]) & DRAW_MASK) - (1 << 23)) * step;
}

static void values_mul_add(float *out, const uint32_t *words, size_t count, float range, float from)
{
    for (size_t i = 0; i < count; i++) {
        float product = (float)(int32_t)(tempered(words[i]) & DRAW_MASK) * 0x1p-24f * range;
        out[i] = product + from;
    }
}

/* Through the narrow type and back. */
static void values_round(float *values, size_t count, enum dtype dtype)
{
    uint8_t narrow[2 * 256];

    for (size_t done = 0, n; done < count; done += n) {
        n = count - done < 256 ? count - done : 256;
        dtype_narrow(narrow, values + done, n, dtype);
        dtype_widen(values + done, narrow, n, dtype);
    }
}

static void values(float *out, const uint32_t *words, size_t count, const struct basis_map *map)
{
    if (map->variant == BASIS_FMA)
        values_fma(out, words, count, map->range * 0x1p-24f);
    else
        values_mul_add(out, words, count, map->range, map->from);
    if (map->rounding != BASIS_ROUND_NONE)
        values_round(out, count, map->rounding == BASIS_ROUND_BF16 ? DTYPE_BF16 : DTYPE_F16);
}

const struct basis_kernel basis_kernel_scalar = {twist, values};
