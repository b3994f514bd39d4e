/*
 * Exact mode in plain C. fmaf() is one instruction where the machine has it (arm64), and correct,
 * though slow, where it has not.
 */
#include <math.h>
#include <string.h>

#include "apply/kernel_level.h"
#include "apply/kernel_pack.h"

#define ROWS     4
#define COLS     16
#define ROWS_FEW 1

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
    panel_scaled(panel, width, a, stride, d, count, depth);
}

static void pack_transposed(
    float *panel, unsigned width, const float *b, size_t stride, size_t count, size_t depth
)
{
    panel_transposed(panel, width, b, stride, count, depth);
}

static inline __attribute__((always_inline)) void tile_of(
    float *acc, const float *left, const float *right, size_t depth, bool first, const unsigned rows
)
{
    float sum[ROWS][COLS] = {{0}};

    if (!first)
        memcpy(sum, acc, rows * sizeof(sum[0]));
    for (size_t k = 0; k < depth; k++) {
        for (unsigned m = 0; m < rows; m++) {
            for (unsigned n = 0; n < COLS; n++)
                sum[m][n] = fmaf(left[k * rows + m], right[k * COLS + n], sum[m][n]);
        }
    }
    memcpy(acc, sum, rows * sizeof(sum[0]));
}

static void tile(float *acc, const float *left, const float *right, size_t depth, bool first)
{
    tile_of(acc, left, right, depth, first, ROWS);
}

static void tile_few(float *acc, const float *left, const float *right, size_t depth, bool first)
{
    tile_of(acc, left, right, depth, first, ROWS_FEW);
}

static void
update_f32(uint8_t *y, const float *acc, const float *scale, bool per_column, size_t count)
{
    const uint32_t nan = 0x7fc00000;

    for (size_t n = 0; n < count; n++) {
        float value, factor = scale[per_column ? n : 0];
        if (factor == 0)
            continue;
        memcpy(&value, y + 4 * n, sizeof(value));
        value = fmaf(factor, acc[n], value);
        if (isnan(value))
            memcpy(&value, &nan, sizeof(value));
        memcpy(y + 4 * n, &value, sizeof(value));
    }
}

/* Widened, and rounded by format/dtype.h, which writes every NaN alike. */
static inline void update_16(
    uint8_t *y,
    const float *acc,
    const float *scale,
    bool per_column,
    size_t count,
    float (*widen)(uint16_t),
    uint16_t (*narrow)(float)
)
{
    for (size_t n = 0; n < count; n++) {
        float factor = scale[per_column ? n : 0];
        uint16_t bits;
        if (factor == 0)
            continue;
        memcpy(&bits, y + 2 * n, sizeof(bits));
        bits = narrow(fmaf(factor, acc[n], widen(bits)));
        memcpy(y + 2 * n, &bits, sizeof(bits));
    }
}

static void
update_bf16(uint8_t *y, const float *acc, const float *scale, bool per_column, size_t count)
{
    update_16(y, acc, scale, per_column, count, bf16_to_float, bf16_from_float);
}

static void
update_f16(uint8_t *y, const float *acc, const float *scale, bool per_column, size_t count)
{
    update_16(y, acc, scale, per_column, count, f16_to_float, f16_from_float);
}

const struct kernel_level kernel_level_scalar = {
    ROWS, COLS,     ROWS_FEW,   pack_scaled, pack_transposed,
    tile, tile_few, update_f32, update_bf16, update_f16,
};
