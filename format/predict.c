#include "format/predict.h"

#include <float.h>
#include <math.h>
#include <string.h>

#define BLOCK 512
#define SAMPLE_BLOCKS                                                                              \
    8 /* of a vector that is longer: so many, and up to as many again, are fitted */

#define LANES 4

/* Sums, some side by side so that they are made at once. */
struct sums {
    double product[LANES], square[LANES];
};

/* One odd value (infinite, not a number) spoils nothing. */
static inline void sums_add(struct sums *sums, size_t lane, float x, float x1, float x0)
{
    double before = (double)x1 - (double)x0, now = (double)x - (double)x1;
    double product = before * now, square = before * before;
    bool is_odd = !(fabs(product) <= DBL_MAX);

    sums->product[lane] += is_odd ? 0 : product;
    sums->square[lane] += is_odd ? 0 : square;
}

static struct sums
sums_of(struct sums sums, const float *x, const float *x1, const float *x0, size_t n)
{
    size_t k = 0;

    for (; k + LANES <= n; k += LANES)
        for (size_t lane = 0; lane < LANES; lane++)
            sums_add(&sums, lane, x[k + lane], x1[k + lane], x0[k + lane]);
    for (; k < n; k++)
        sums_add(&sums, 0, x[k], x1[k], x0[k]);
    return sums;
}

static double total(const double lanes[LANES])
{
    return lanes[0] + lanes[1] + lanes[2] + lanes[3];
}

int predict_fit(
    const uint8_t *x, const uint8_t *x1, const uint8_t *x0, size_t count, enum dtype dtype
)
{
    float wide[3][BLOCK];
    struct sums sums = {0};
    size_t width = dtype_bits(dtype) / 8, blocks = count / BLOCK;
    size_t step = BLOCK * (blocks > SAMPLE_BLOCKS ? blocks / SAMPLE_BLOCKS : 1);

    for (size_t at = 0; at < count; at += step) {
        size_t n = count - at < BLOCK ? count - at : BLOCK;
        dtype_widen(wide[0], x + at * width, n, dtype);
        dtype_widen(wide[1], x1 + at * width, n, dtype);
        dtype_widen(wide[2], x0 + at * width, n, dtype);
        sums = sums_of(sums, wide[0], wide[1], wide[2], n);
    }
    double square = total(sums.square), best = 16 * total(sums.product) / square;
    if (!(square > 0) || !isfinite(best))
        return 0;
    return best < PREDICT_MIN ? PREDICT_MIN : best > PREDICT_MAX ? PREDICT_MAX : (int)lrint(best);
}

/* out = x1 + a (x1 - x0), where that is finite, else x1. */
static void extrapolate(
    float *restrict out, const float *restrict x1, const float *restrict x0, double a, size_t n
)
{
    for (size_t k = 0; k < n; k++) {
        double step = (double)x1[k] - (double)x0[k];
        double scaled = a * step;
        float p = (float)((double)x1[k] + scaled);
        out[k] = fabsf(p) <= FLT_MAX ? p : x1[k];
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
    float now[BLOCK], before[BLOCK], p[BLOCK];
    size_t width = dtype_bits(dtype) / 8;

    for (size_t at = 0; at < count; at += BLOCK) {
        size_t n = count - at < BLOCK ? count - at : BLOCK;
        dtype_widen(now, x1 + at * width, n, dtype);
        if (i != 0) {
            dtype_widen(before, x0 + at * width, n, dtype);
            extrapolate(p, now, before, i / 16.0, n);
        }
        narrow(out + at, i != 0 ? p : now, n, dtype, shift);
    }
}
