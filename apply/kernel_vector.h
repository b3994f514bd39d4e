/*
 * What the levels of apply/kernel_level.h that have vector registers share, for each level's file
 * to compile with its own flags: it defines LANES and COLS, includes this, and then defines
 * update(). The other names are those of kernel_level's functions.
 */
#ifndef APPLY_KERNEL_VECTOR_H
#define APPLY_KERNEL_VECTOR_H

#include <string.h>

#include "apply/kernel_level.h"
#include "apply/kernel_pack.h"

enum kind { KIND_F32, KIND_BF16, KIND_F16 };

static inline size_t kind_bytes(enum kind kind)
{
    return kind == KIND_F32 ? 4 : 2;
}

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

/* kernel_level.update_* for y of that kind. */
static inline void update(
    uint8_t *y, const float *acc, const float *scale, bool per_column, size_t count, enum kind kind
);

/* Of a level that has no masks: fewer than LANES of them. Lanes beyond the end have the factor 0,
   and are not brought back. */
static __attribute__((noinline, unused)) void update_rest(
    uint8_t *y, const float *acc, const float *scale, bool per_column, size_t count, enum kind kind
)
{
    uint8_t lanes[4 * LANES] = {0};
    float factors[LANES] = {0}, sums[LANES] = {0};

    for (size_t i = 0; i < count; i++)
        factors[i] = scale[per_column ? i : 0];
    memcpy(sums, acc, count * sizeof(*sums));
    memcpy(lanes, y, kind_bytes(kind) * count);
    update(lanes, sums, factors, true, LANES, kind);
    memcpy(y, lanes, kind_bytes(kind) * count);
}

static void
update_f32(uint8_t *y, const float *acc, const float *scale, bool per_column, size_t count)
{
    update(y, acc, scale, per_column, count, KIND_F32);
}

static void
update_bf16(uint8_t *y, const float *acc, const float *scale, bool per_column, size_t count)
{
    update(y, acc, scale, per_column, count, KIND_BF16);
}

static void
update_f16(uint8_t *y, const float *acc, const float *scale, bool per_column, size_t count)
{
    update(y, acc, scale, per_column, count, KIND_F16);
}

#endif
