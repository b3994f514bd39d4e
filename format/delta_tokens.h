/*
 * Residuals as one byte each, for zstd to compress: 0 equal, 1 far, else
 * 2 + 4 * (highest class - class) + the two bits below the distance's first. An exponent for each
 * far value apart; the rest are raw bits.
 */
#ifndef FORMAT_DELTA_TOKENS_H
#define FORMAT_DELTA_TOKENS_H

#include "format/bits.h"
#include "format/residual.h"

enum token { TOKEN_EQUAL, TOKEN_FAR, TOKEN_NEAR };

/* There is room for what is written: a token, an exponent and 4 bytes of bits for each value. */
struct token_writer {
    unsigned highest;
    uint8_t *token, *exponent; /* the next ones */
    struct bit_writer bits;
};

void tokens_put(
    struct token_writer *writer,
    const struct pattern *pattern,
    const uint32_t *x,
    const uint32_t *p,
    size_t n
);

/* As many tokens as there are values, as many exponents as tokens that are far. */
struct token_reader {
    unsigned highest;
    const uint8_t *token, *exponent;
    struct bit_reader bits;
};

/* False where there is no such value; x is undefined then. */
MUST_CHECK bool tokens_get(
    uint32_t *x,
    struct token_reader *reader,
    const struct pattern *pattern,
    const uint32_t *p,
    size_t n
);

#endif
