#include "format/delta_tokens.h"

/* float32 is what there is most of: with its pattern known, half of the work is done by the
   compiler. */
#define F32_PATTERN                                                                                \
    (struct pattern)                                                                               \
    {                                                                                              \
        .sign = 31, .mantissa = 23, .exponent = 8                                                  \
    }
#define SPECIALISE static inline __attribute__((always_inline))

static void
far_put(struct token_writer *writer, const struct pattern *pattern, uint32_t x, bool crosses)
{
    *writer->exponent++ = (uint8_t)exponent_of(pattern, x);
    bits_write(&writer->bits, crosses, 1);
    bits_write(&writer->bits, mantissa_of(pattern, x), pattern->mantissa);
}

SPECIALISE void
put(struct token_writer *writer,
    const struct pattern *pattern,
    const uint32_t *x,
    const uint32_t *p,
    size_t n)
{
    struct token_writer to = *writer;

    for (size_t k = 0; k < n; k++) {
        struct residual r = residual_of(pattern, x[k], p[k]);
        unsigned below = classes_below(&r, to.highest);
        if (x[k] == p[k]) {
            *to.token++ = TOKEN_EQUAL;
        } else if (below > SPAN) {
            *to.token++ = TOKEN_FAR;
            far_put(&to, pattern, x[k], r.crosses);
        } else {
            *to.token++ = (uint8_t)(TOKEN_NEAR + 4 * below + top_of(r.distance, r.length));
            bits_write(&to.bits, noise_of(&r), noise_bits(r.length) + 1);
        }
    }
    *writer = to;
}

void tokens_put(
    struct token_writer *writer,
    const struct pattern *pattern,
    const uint32_t *x,
    const uint32_t *p,
    size_t n
)
{
    if (pattern->sign == F32_PATTERN.sign)
        put(writer, &F32_PATTERN, x, p, n);
    else
        put(writer, pattern, x, p, n);
}

static uint32_t
far_get(uint32_t *odd, struct token_reader *reader, const struct pattern *pattern, uint32_t p)
{
    unsigned exponent = *reader->exponent++;
    uint32_t sign = p >> pattern->sign ^ bits_read(&reader->bits, 1);

    *odd |= exponent >> pattern->exponent;
    return far_value(pattern, sign, exponent, bits_read(&reader->bits, pattern->mantissa));
}

SPECIALISE bool
get(uint32_t *x,
    struct token_reader *reader,
    const struct pattern *pattern,
    const uint32_t *p,
    size_t n)
{
    struct token_reader from = *reader;
    uint32_t odd = 0;

    for (size_t k = 0; k < n; k++) {
        unsigned token = *from.token++;
        if (token < TOKEN_NEAR) {
            x[k] = token == TOKEN_EQUAL ? p[k] : far_get(&odd, &from, pattern, p[k]);
            continue;
        }
        unsigned below = (token - TOKEN_NEAR) / 4, top = (token - TOKEN_NEAR) % 4, more;
        unsigned length = from.highest - below - floor_of(pattern, p[k]);
        odd |= length - 1 >= pattern->sign; /* 1 to as many bits as there are below the sign */
        length %= 32;
        uint32_t distance = distance_of(length, top, &more);
        uint32_t noise = bits_read(&from.bits, noise_bits(length) + 1);
        x[k] = near_value(pattern, p[k], distance, noise, &odd);
        odd |= more;
    }
    *reader = from;
    return odd == 0;
}

bool tokens_get(
    uint32_t *x,
    struct token_reader *reader,
    const struct pattern *pattern,
    const uint32_t *p,
    size_t n
)
{
    return pattern->sign == F32_PATTERN.sign ? get(x, reader, &F32_PATTERN, p, n)
                                             : get(x, reader, pattern, p, n);
}
