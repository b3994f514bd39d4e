/*
 * What the scalar, AVX2 and AVX-512 code of the generator each bring. Words and values are the same
 * in all of them, at any split into calls. They run with the floating-point state of
 * cpu_float_exact().
 */
#ifndef FORMAT_BASIS_KERNEL_H
#define FORMAT_BASIS_KERNEL_H

#include "format/basis.h"

/* MT19937's constants (Matsumoto and Nishimura, 1998). */
#define MT_WORDS    624
#define MT_SHIFT    397
#define MT_UPPER    0x80000000u
#define MT_LOWER    0x7fffffffu
#define MT_MATRIX   0x9908b0dfu
#define MT_TEMPER_B 0x9d2c5680u
#define MT_TEMPER_C 0xefc60000u

#define DRAW_MASK 0xffffffu /* the 24 bits of a word that make a value */

/* From a word to a value: x * range + from. */
struct basis_map {
    float range, from;
    enum basis_variant variant;
    enum basis_rounding rounding;
};

struct basis_kernel {
    /* The next 624 words of the state, in place. */
    void (*twist)(uint32_t *state);

    /* Temper `count` words and map each to a value. */
    void (*values)(float *out, const uint32_t *words, size_t count, const struct basis_map *map);
};

extern const struct basis_kernel basis_kernel_scalar;
#if defined(__x86_64__)
extern const struct basis_kernel basis_kernel_avx2, basis_kernel_avx512;
#endif

#endif
