/*
 * The panels of apply/kernel_level.h, for each level's file to compile with its own flags and with
 * `width` a constant.
 */
#ifndef APPLY_KERNEL_PACK_H
#define APPLY_KERNEL_PACK_H

#include <stddef.h>
#include <string.h>

#if defined(__SSE__)
#include <xmmintrin.h>
#endif

static inline __attribute__((always_inline)) void panel_scaled(
    float *restrict panel,
    unsigned width,
    const float *restrict a,
    size_t stride,
    const float *restrict d,
    size_t count,
    size_t depth
)
{
    for (size_t k = 0; k < depth; k++) {
        float *row = panel + k * width;
        const float *from = a + k * stride, scale = d[k];
        if (count == width) {
            for (size_t n = 0; n < width; n++)
                row[n] = scale * from[n];
        } else {
            for (size_t n = 0; n < width; n++)
                row[n] = n < count ? scale * from[n] : 0;
        }
    }
}

static inline void panel_transposed(
    float *restrict panel,
    unsigned width,
    const float *restrict b,
    size_t stride,
    size_t count,
    size_t depth
)
{
    size_t whole_n = 0, whole_k = 0;

    if (count < width)
        memset(panel, 0, depth * width * sizeof(*panel));
#if defined(__SSE__)
    whole_n = count / 4 * 4;
    whole_k = depth / 4 * 4;
    for (size_t n = 0; n < whole_n; n += 4) {
        const float *from = b + n * stride;
        for (size_t k = 0; k < whole_k; k += 4) {
            __m128 r0 = _mm_loadu_ps(from + k), r1 = _mm_loadu_ps(from + stride + k);
            __m128 r2 = _mm_loadu_ps(from + 2 * stride + k),
                   r3 = _mm_loadu_ps(from + 3 * stride + k);
            _MM_TRANSPOSE4_PS(r0, r1, r2, r3);
            float *to = panel + k * width + n;
            _mm_storeu_ps(to, r0);
            _mm_storeu_ps(to + width, r1);
            _mm_storeu_ps(to + 2 * width, r2);
            _mm_storeu_ps(to + 3 * width, r3);
        }
    }
#endif
    for (size_t n = 0; n < count; n++) {
        for (size_t k = n < whole_n ? whole_k : 0; k < depth; k++)
            panel[k * width + n] = b[n * stride + k];
    }
}

#endif
