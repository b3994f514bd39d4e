/*
 * An adaptive binary range coder: bits in, as many bytes out as the bits surprised their models.
 *
 * Carry-propagating, 32-bit range, in the manner of LZMA's (Igor Pavlov, public domain; G. N. N.
 * Martin, "Range encoding", 1979). Integers only, so every machine gives the same bytes. A model
 * learns fast at first (its n-th step is 1/(n + 1.5)) and then with 1/64.
 */
#ifndef FORMAT_RANGE_CODER_H
#define FORMAT_RANGE_CODER_H

#include "format/buf.h"

/* How likely the next bit is a 1. All-zero is a model that has seen nothing. */
struct bit_model {
    int16_t lean; /* probability of 1, less a half, in 2^-16 */
    uint16_t seen;
};

struct range_encoder {
    struct buf *out;
    uint64_t low;
    uint32_t range;
    uint8_t held;      /* the last byte, which a carry may still change */
    size_t held_count; /* it and the 0xff behind it */
    int err;
};

/* Appends to `out`. The first failure is kept and returned by range_encoder_end(). */
void range_encoder_init(struct range_encoder *encoder, struct buf *out);
void range_encode(struct range_encoder *encoder, struct bit_model *model, bool bit);
MUST_CHECK int range_encoder_end(struct range_encoder *encoder);

struct range_decoder {
    const uint8_t *at, *end;
    uint32_t range, code;
    bool overrun; /* more was read than there is: zeros were taken for it */
};

void range_decoder_init(struct range_decoder *decoder, struct bytes input);
bool range_decode(struct range_decoder *decoder, struct bit_model *model);
/* Was exactly the encoder's output read? */
bool range_decoder_is_done(const struct range_decoder *decoder);

#endif
