/*
 * What a float differs from its prediction by, in integers: the two patterns' distance, which
 * counts the floats between them, and its class. A value on the other side of zero, or of a class
 * that few have, is "far" and not coded as a distance.
 */
#ifndef FORMAT_RESIDUAL_H
#define FORMAT_RESIDUAL_H

#include "format/delta_stream.h"

#define CLASS_MAX 320 /* length and floor together stay below it */
#define SPAN      62  /* classes below the highest that are coded as such */
#define TOP_BITS  2   /* of a distance, below its first one, that are modelled */

/* A float's pattern, without the bits that are zero in the whole vector. */
struct pattern {
    unsigned sign; /* its position: bits below it */
    unsigned mantissa, exponent;
    unsigned scale; /* of the last bit; makes classes of one size in all formats */
};

static inline struct pattern pattern_of(const struct segment *segment)
{
    unsigned shift = segment->dtype == DTYPE_BF16 ? 16 : segment->shift;

    if (segment->dtype == DTYPE_F16)
        return (struct pattern){.sign = 15, .mantissa = 10, .exponent = 5, .scale = 112 + 13};
    return (struct pattern
    ){.sign = 31 - shift, .mantissa = 23 - shift, .exponent = 8, .scale = shift};
}

static inline unsigned exponent_of(const struct pattern *pattern, uint32_t x)
{
    return x >> pattern->mantissa & ((1U << pattern->exponent) - 1);
}

static inline uint32_t mantissa_of(const struct pattern *pattern, uint32_t x)
{
    return x & ((UINT32_C(1) << pattern->mantissa) - 1);
}

/* The class of a distance of 0 bits from that prediction: 1 less than the lowest. */
static inline unsigned floor_of(const struct pattern *pattern, uint32_t p)
{
    return exponent_of(pattern, p) + pattern->scale;
}

/* A value beside its prediction. */
struct residual {
    uint32_t distance;
    unsigned length, floor; /* of the distance, in bits; class = floor + length */
    bool below;             /* x is nearer to zero */
    bool crosses;           /* x and p have different signs: distance means nothing */
};

static inline struct residual residual_of(const struct pattern *pattern, uint32_t x, uint32_t p)
{
    uint32_t distance = x < p ? p - x : x - p;

    return (struct residual){
        .distance = distance,
        .length = distance ? 32 - (unsigned)__builtin_clz(distance) : 0,
        .floor = floor_of(pattern, p),
        .below = x < p,
        .crosses = (x ^ p) >> pattern->sign != 0,
    };
}

/* How many classes below the highest; above SPAN for a far one, whichever way. */
static inline unsigned classes_below(const struct residual *residual, unsigned highest)
{
    return residual->crosses ? UINT32_MAX : highest - (residual->floor + residual->length);
}

/* A distance falls into its first bit, two modelled bits below it and the noise. Where it is
   shorter than these three, there is no noise and the last modelled bits are zero. */

static inline unsigned noise_bits(unsigned length)
{
    return length > 1 + TOP_BITS ? length - 1 - TOP_BITS : 0;
}

static inline unsigned top_of(uint32_t distance, unsigned length)
{
    return (unsigned)((uint64_t)distance << (1 + TOP_BITS) >> length) & ((1U << TOP_BITS) - 1);
}

/* The distance with no noise: in *odd, what of `top` has no place in it. */
static inline uint32_t distance_of(unsigned length, unsigned top, unsigned *odd)
{
    uint64_t wide = (uint64_t)(1U << TOP_BITS | top) << length;

    *odd = (unsigned)wide & ((1U << (1 + TOP_BITS)) - 1);
    return (uint32_t)(wide >> (1 + TOP_BITS));
}

/* The noise, and in its lowest bit `below`. */
static inline uint32_t noise_of(const struct residual *residual)
{
    uint32_t noise = residual->distance & ((UINT32_C(1) << noise_bits(residual->length)) - 1);

    return noise << 1 | residual->below;
}

/* From a sign, an exponent and the mantissa's bits. */
static inline uint32_t
far_value(const struct pattern *pattern, uint32_t sign, unsigned exponent, uint32_t mantissa)
{
    return sign << pattern->sign | (uint32_t)exponent << pattern->mantissa | mantissa;
}

/* What is at a distance from p, whose lowest bit says where; `odd` is not 0 where that is beyond
   zero or infinity. */
static inline uint32_t near_value(
    const struct pattern *pattern, uint32_t p, uint32_t distance, uint32_t noise, uint32_t *odd
)
{
    uint32_t below = noise & 1, whole = distance | noise >> 1;
    uint32_t x = p +
                 ((whole ^ (0 - below)) + below); /* p - whole where below: no branch on noise */

    *odd |= (x ^ p) >> pattern->sign;
    return x;
}

#endif
