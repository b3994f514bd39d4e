#include "format/basis.h"

#include <assert.h>
#include <math.h>
#include <string.h>

#include "format/basis_kernel.h"
#include "format/cpu.h"
#include "format/interrupt.h"
#include "format/limits.h"

/* Values made, compared or hashed at a time: whole twists, and small enough for the first cache. */
#define PORTION (6 * (size_t)MT_WORDS)

static const struct basis_kernel *kernel_chosen(void)
{
#if defined(__x86_64__)
    switch (cpu_level()) {
    case CPU_AVX512:
        return &basis_kernel_avx512;
    case CPU_AVX2:
        return &basis_kernel_avx2;
    case CPU_SCALAR:
    case CPU_NEON:
        break;
    }
#endif
    return &basis_kernel_scalar;
}

const char *basis_kernel_name(void)
{
    return cpu_level_name(cpu_level());
}

void basis_stream_init(struct basis_stream *stream, const struct basis_recipe *recipe)
{
    uint32_t word = (uint32_t)recipe->seed;

    for (uint32_t i = 0; i < MT_WORDS; i++) {
        stream->state[i] = word;
        word = 1812433253u * (word ^ word >> 30) + i + 1;
    }
    stream->next = MT_WORDS;
    stream->variant = recipe->variant;
    stream->rounding = recipe->rounding;
}

/* Not inlined: the square roots and the conversion must stay behind cpu_float_exact(). */
static __attribute__((noinline)) void
fill(struct basis_stream *stream, float *out, size_t count, uint64_t fan_in)
{
    const struct basis_kernel *kernel = kernel_chosen();
    float to = (float)(sqrt(3.0) * (sqrt(2.0) / sqrt((double)fan_in)));
    struct basis_map map = {to - -to, -to, stream->variant, stream->rounding};

    while (count > 0) {
        if (stream->next == MT_WORDS) {
            kernel->twist(stream->state);
            stream->next = 0;
        }
        size_t left = MT_WORDS - stream->next, n = count < left ? count : left;
        kernel->values(out, stream->state + stream->next, n, &map);
        stream->next += (uint32_t)n;
        out += n;
        count -= n;
    }
}

void basis_stream_fill(struct basis_stream *stream, float *out, size_t count, uint64_t fan_in)
{
    assert(stream->next <= MT_WORDS && fan_in > 0);
    struct cpu_float saved = cpu_float_exact();
    fill(stream, out, count, fan_in);
    cpu_float_restore(saved);
}

void basis_generate(float *a, float *b, const struct basis_recipe *recipe)
{
    struct basis_stream stream;

    basis_stream_init(&stream, recipe);
    basis_stream_fill(&stream, a, recipe->rank * recipe->in, recipe->in);
    basis_stream_fill(&stream, b, recipe->out * recipe->rank, recipe->rank);
}

int basis_values(uint64_t *a_values, uint64_t *b_values, uint64_t rank, uint64_t in, uint64_t out)
{
    uint64_t a, b;

    if (rank == 0 || in == 0 || out == 0)
        return error_set(E_LIMIT, "a basis with a side of length 0");
    if (__builtin_mul_overflow(rank, in, &a) || __builtin_mul_overflow(rank, out, &b) ||
        a > LIMIT_BASIS_VALUES || b > LIMIT_BASIS_VALUES)
        return error_set(
            E_LIMIT,
            "a basis of rank %llu for %llu inputs and %llu outputs: a matrix may have %llu values",
            (unsigned long long)rank, (unsigned long long)in, (unsigned long long)out,
            (unsigned long long)LIMIT_BASIS_VALUES
        );
    *a_values = a;
    *b_values = b;
    return 0;
}

/* What to do with the next bytes of a matrix. 0: go on; else the walk ends and returns it. */
typedef int sink(void *context, const uint8_t *bytes, size_t len);

#define STOP 1

/* Generate `values` values, a portion at a time, and hand on their bytes. */
static int walk_matrix(
    struct basis_stream *stream,
    uint64_t values,
    uint64_t fan_in,
    enum dtype dtype,
    sink *take,
    void *context
)
{
    float portion[PORTION];
    uint8_t narrow[2 * PORTION];
    int err = 0;

    for (uint64_t done = 0; done < values && err == 0;) {
        size_t n = values - done < PORTION ? (size_t)(values - done) : PORTION;
        if ((err = interrupt_check()) < 0)
            return err;
        basis_stream_fill(stream, portion, n, fan_in);
        if (dtype == DTYPE_F32) {
            err = take(context, (const uint8_t *)portion, n * sizeof(*portion));
        } else {
            dtype_narrow(narrow, portion, n, dtype);
            err = take(context, narrow, 2 * n);
        }
        done += n;
    }
    return err;
}

/* A, then B, of checked sizes. */
static int walk(
    const struct basis_recipe *recipe,
    enum dtype dtype_a,
    enum dtype dtype_b,
    sink *take,
    void *context_a,
    void *context_b
)
{
    struct basis_stream stream;

    basis_stream_init(&stream, recipe);
    int err = walk_matrix(&stream, recipe->rank * recipe->in, recipe->in, dtype_a, take, context_a);
    if (err != 0)
        return err;
    return walk_matrix(&stream, recipe->out * recipe->rank, recipe->rank, dtype_b, take, context_b);
}

static int compare(void *context, const uint8_t *bytes, size_t len)
{
    struct bytes *rest = context;

    assert(len <= rest->len);
    if (memcmp(rest->data, bytes, len) != 0)
        return STOP;
    rest->data += len;
    rest->len -= len;
    return 0;
}

static uint64_t dtype_bytes(enum dtype dtype, uint64_t values)
{
    return values * dtype_bits(dtype) / 8;
}

int basis_prove(
    bool *found,
    struct basis_recipe *recipe,
    struct bytes a,
    enum dtype dtype_a,
    struct bytes b,
    enum dtype dtype_b
)
{
    uint64_t a_values = 0, b_values = 0;

    /* What could not be generated again is no proof: stored, then, and no error. */
    if (!dtype_is_applicable(dtype_a) || !dtype_is_applicable(dtype_b) ||
        basis_values(&a_values, &b_values, recipe->rank, recipe->in, recipe->out) < 0 ||
        a.len != dtype_bytes(dtype_a, a_values) || b.len != dtype_bytes(dtype_b, b_values)) {
        *found = false;
        return 0;
    }
    for (int rounding = BASIS_ROUND_NONE; rounding <= BASIS_ROUND_FP16; rounding++) {
        for (int variant = BASIS_FMA; variant <= BASIS_MUL_ADD; variant++) {
            struct basis_recipe attempt = *recipe;
            struct bytes rest_a = a, rest_b = b;
            attempt.variant = (enum basis_variant)variant;
            attempt.rounding = (enum basis_rounding)rounding;
            int err = walk(&attempt, dtype_a, dtype_b, compare, &rest_a, &rest_b);
            if (err < 0)
                return err;
            if (err == 0) {
                *recipe = attempt;
                *found = true;
                return 0;
            }
        }
    }
    *found = false;
    return 0;
}

static int check_request(const struct basis_recipe *recipe, enum dtype dtype_a, enum dtype dtype_b)
{
    uint64_t a_values, b_values;

    if (!dtype_is_applicable(dtype_a) || !dtype_is_applicable(dtype_b))
        return error_set(
            E_UNSUPPORTED, "a basis in %s and %s: only F32, BF16 and F16 can be generated",
            dtype_name(dtype_a), dtype_name(dtype_b)
        );
    return basis_values(&a_values, &b_values, recipe->rank, recipe->in, recipe->out);
}

static int hash_bytes(void *context, const uint8_t *bytes, size_t len)
{
    return hash_update(context, bytes, len);
}

int basis_digests(
    struct digest *a,
    struct digest *b,
    const struct basis_recipe *recipe,
    enum dtype dtype_a,
    enum dtype dtype_b
)
{
    AUTO_HASH(hash_a);
    AUTO_HASH(hash_b);
    struct digest digest_a, digest_b;
    int err;

    if ((err = check_request(recipe, dtype_a, dtype_b)) < 0 || (err = hash_init(&hash_a)) < 0 ||
        (err = hash_init(&hash_b)) < 0 ||
        (err = walk(recipe, dtype_a, dtype_b, hash_bytes, &hash_a, &hash_b)) < 0 ||
        (err = hash_final(&digest_a, &hash_a)) < 0 || (err = hash_final(&digest_b, &hash_b)) < 0)
        return err;
    *a = digest_a;
    *b = digest_b;
    return 0;
}

static int append_bytes(void *context, const uint8_t *bytes, size_t len)
{
    return buf_append(context, bytes, len);
}

int basis_encode(
    struct buf *a,
    struct buf *b,
    const struct basis_recipe *recipe,
    enum dtype dtype_a,
    enum dtype dtype_b
)
{
    size_t a_before = a->len, b_before = b->len;
    int err;

    if ((err = check_request(recipe, dtype_a, dtype_b)) < 0 ||
        (err = buf_reserve(a, dtype_bytes(dtype_a, recipe->rank * recipe->in))) < 0 ||
        (err = buf_reserve(b, dtype_bytes(dtype_b, recipe->out * recipe->rank))) < 0)
        return err;
    if ((err = walk(recipe, dtype_a, dtype_b, append_bytes, a, b)) < 0) {
        a->len = a_before;
        b->len = b_before;
    }
    return err;
}
