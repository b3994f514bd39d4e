#include "format/predict.h"

#include <math.h>
#include <string.h>

#define BLOCK 512

/* The sums of a block: never not-a-number, so that one odd value spoils nothing. */
static void
fit_add(double *product, double *square, const float *x, const float *x1, const float *x0, size_t n)
{
    for (size_t k = 0; k < n; k++) {
        double before = (double)x1[k] - (double)x0[k], now = (double)x[k] - (double)x1[k];
        if (isfinite(before) && isfinite(now)) {
            *product += before * now;
            *square += before * before;
        }
    }
}

int predict_fit(
    const uint8_t *x, const uint8_t *x1, const uint8_t *x0, size_t count, enum dtype dtype
)
{
    float wide[3][BLOCK];
    double product = 0, square = 0;
    size_t width = dtype_bits(dtype) / 8;

    for (size_t at = 0; at < count; at += BLOCK) {
        size_t n = count - at < BLOCK ? count - at : BLOCK;
        dtype_widen(wide[0], x + at * width, n, dtype);
        dtype_widen(wide[1], x1 + at * width, n, dtype);
        dtype_widen(wide[2], x0 + at * width, n, dtype);
        fit_add(&product, &square, wide[0], wide[1], wide[2], n);
    }
    double best = 16 * product / square;
    if (!(square > 0) || !isfinite(best))
        return 0;
    return best < PREDICT_MIN ? PREDICT_MIN : best > PREDICT_MAX ? PREDICT_MAX : (int)lrint(best);
}

/* In place: x1 becomes the prediction. */
static void extrapolate(float *restrict x1, const float *restrict x0, double a, size_t n)
{
    for (size_t k = 0; k < n; k++) {
        double step = (double)x1[k] - (double)x0[k];
        double scaled = a * step;
        float p = (float)((double)x1[k] + scaled);
        x1[k] = fabsf(p) <= 0x1.fffffep127f ? p : x1[k];
    }
}

static void drop_low_bits(uint32_t *patterns, size_t n, unsigned shift)
{
    uint32_t half = UINT32_C(1) << (shift - 1), largest = UINT32_C(0x7fffffff) >> shift;

    for (size_t k = 0; k < n; k++) {
        uint32_t sign = patterns[k] >> 31, size = patterns[k] & 0x7fffffff;
        size = (size + half) >> shift;
        patterns[k] = (size < largest ? size : largest) | sign << (31 - shift);
    }
}

/* float32 to the type's patterns: the same for NaN, whatever it holds. */
static void narrow(uint32_t *out, const float *values, size_t n, enum dtype dtype, unsigned shift)
{
    if (dtype == DTYPE_F16) {
        for (size_t k = 0; k < n; k++)
            out[k] = f16_from_float(values[k]);
        return;
    }
    memcpy(out, values, n * sizeof(*out));
    if (dtype == DTYPE_BF16)
        shift = 16;
    if (shift)
        drop_low_bits(out, n, shift);
}

void predict(
    uint32_t *out,
    const uint8_t *x1,
    const uint8_t *x0,
    int i,
    size_t count,
    enum dtype dtype,
    unsigned shift
)
{
    float now[BLOCK], before[BLOCK];
    size_t width = dtype_bits(dtype) / 8;

    for (size_t at = 0; at < count; at += BLOCK) {
        size_t n = count - at < BLOCK ? count - at : BLOCK;
        dtype_widen(now, x1 + at * width, n, dtype);
        if (i != 0) {
            dtype_widen(before, x0 + at * width, n, dtype);
            extrapolate(now, before, i / 16.0, n);
        }
        narrow(out + at, now, n, dtype, shift);
    }
}
