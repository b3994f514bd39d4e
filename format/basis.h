/*
 * The random matrices A [rank, in] and B [out, rank] that PEFT draws from a seed, bit for bit.
 *
 * One generator, MT19937 seeded by the low 32 bits; A is drawn first, row by row, then B. For each
 * value one 32-bit draw: x = (draw & 0xffffff) * 2^-24; value = x * (to - from) + from in float32
 * with to = -from = (float)(sqrt(3) * sqrt(2) / sqrt(fan_in)), fan_in = in for A and rank for B.
 * The last step is one fused multiply-add (`fma`: torch's AVX2, AVX-512 and arm64 kernels) or a
 * product and a sum (`mul-add`: torch's plain x86 kernels). Then rounded through bf16 or fp16 and
 * back where the base model had that type when PEFT moved the matrices to it. Sources:
 * ATen/native/cpu/DistributionTemplates.h, ATen/core/MT19937RNGEngine.h, peft/tuners/vera/model.py
 * (_kaiming_init).
 *
 * Scalar, AVX2 and AVX-512 code give the same bits; the best that the machine has is chosen at run
 * time, VERA_CPU=scalar|avx2|avx512 in the environment asks for less.
 */
#ifndef FORMAT_BASIS_H
#define FORMAT_BASIS_H

#include "format/digest.h"
#include "format/dtype.h"

#define BASIS_GENERATOR "torch-mt19937-kaiming-uniform"

enum basis_variant { BASIS_FMA, BASIS_MUL_ADD };
enum basis_rounding { BASIS_ROUND_NONE, BASIS_ROUND_BF16, BASIS_ROUND_FP16 };

/* "fma" / "mul-add", "none" / "bf16" / "fp16". */
const char *basis_variant_name(enum basis_variant variant);
const char *basis_rounding_name(enum basis_rounding rounding);
MUST_CHECK int basis_variant_parse(enum basis_variant *out, struct bytes name);
MUST_CHECK int basis_rounding_parse(enum basis_rounding *out, struct bytes name);

struct basis_recipe {
    enum basis_variant variant;
    enum basis_rounding rounding;
    uint64_t seed; /* two's complement where negative; only the low 32 bits matter */
    uint64_t rank, in, out;
};

/* A running generator: A's values, then B's, in any portions. */
struct basis_stream {
    uint32_t state[624];
    uint32_t next; /* index of the next word to temper; 624: twist first */
    enum basis_variant variant;
    enum basis_rounding rounding;
};

void basis_stream_init(struct basis_stream *stream, const struct basis_recipe *recipe);

/* The next `count` values for a matrix of that fan_in. */
void basis_stream_fill(struct basis_stream *stream, float *out, size_t count, uint64_t fan_in);

/* Both matrices, float32: a [rank*in], b [out*rank], owned by the caller (already allocated).
   rank*in and out*rank were checked against LIMIT_BASIS_VALUES by the caller. */
void basis_generate(float *a, float *b, const struct basis_recipe *recipe);

/* Rank * in and out * rank as sizes; E_LIMIT above LIMIT_BASIS_VALUES or where one is zero. */
MUST_CHECK int
basis_values(uint64_t *a_values, uint64_t *b_values, uint64_t rank, uint64_t in, uint64_t out);

/* Try fma/none, mul-add/none, fma/bf16, mul-add/bf16, fma/fp16, mul-add/fp16 and set variant and
   rounding of the first whose values, narrowed to `dtype_a`/`dtype_b`, are the given bytes, all of
   them. *found tells. `seed`, `rank`, `in`, `out` of `recipe` are given. Bounded memory (a block at
   a time), and a wrong variant costs one block. E_INTERRUPTED. A dtype that is not F32, BF16 or
   F16: not found. */
MUST_CHECK int basis_prove(
    bool *found,
    struct basis_recipe *recipe,
    struct bytes a,
    enum dtype dtype_a,
    struct bytes b,
    enum dtype dtype_b
);

/* SHA-256 of the bytes of A and of B in their dtypes, generated a block at a time. */
MUST_CHECK int basis_digests(
    struct digest *a,
    struct digest *b,
    const struct basis_recipe *recipe,
    enum dtype dtype_a,
    enum dtype dtype_b
);

/* The bytes of A and of B in their dtypes, appended to the two buffers. */
MUST_CHECK int basis_encode(
    struct buf *a,
    struct buf *b,
    const struct basis_recipe *recipe,
    enum dtype dtype_a,
    enum dtype dtype_b
);

/* "scalar", "avx2" or "avx512": what runs on this machine (and VERA_CPU allows). */
const char *basis_kernel_name(void);

#endif
