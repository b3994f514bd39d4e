#include "format/range_coder.h"

#define RANGE_MIN      (UINT32_C(1) << 24)
#define PROBABILITY    12 /* bits of it that divide the range */
#define LEARNING_STEPS 63 /* steps until the rate stays */
#define FLUSH_BYTES    4

/* The model's rates in 2^-16: 65536 / (n + 1.5), the last one for ever. */
static uint32_t rate(const struct bit_model *model)
{
    return 131072U / (2U * model->seen + 3);
}

/* The share of the range that a 1 takes: at least one part in 2^12, at most all but one. */
static uint32_t share(const struct bit_model *model, uint32_t range)
{
    uint32_t p = (uint32_t)(model->lean + 32768) >> (16 - PROBABILITY);
    uint32_t top = (1U << PROBABILITY) - 1;

    return (range >> PROBABILITY) * (p < 1 ? 1 : p > top ? top : p);
}

static void learn(struct bit_model *model, bool bit)
{
    int32_t target = bit ? 32767 : -32768;
    int32_t step = (target - model->lean) * (int32_t)(rate(model) >> 4) / 4096;

    model->lean = (int16_t)(model->lean + step);
    if (model->seen < LEARNING_STEPS)
        model->seen++;
}

void range_encoder_init(struct range_encoder *encoder, struct buf *out)
{
    *encoder = (struct range_encoder){.out = out, .range = UINT32_MAX};
}

static void put(struct range_encoder *encoder, uint8_t byte)
{
    if (encoder->err == 0)
        encoder->err = buf_append_byte(encoder->out, byte);
}

/* Move the top byte of `low` out. Bytes that a carry could still reach are held back; none goes
   beyond the first, since the whole output is a number below 1. */
static void shift(struct range_encoder *encoder)
{
    uint8_t carry = (uint8_t)(encoder->low >> 32), top = (uint8_t)(encoder->low >> 24);

    if (carry || top != 0xff || !encoder->held_count) {
        for (uint8_t byte = encoder->held; encoder->held_count; encoder->held_count--) {
            put(encoder, (uint8_t)(byte + carry));
            byte = 0xff;
        }
        encoder->held = top;
    }
    encoder->held_count++;
    encoder->low = (encoder->low & 0xffffff) << 8;
}

void range_encode(struct range_encoder *encoder, struct bit_model *model, bool bit)
{
    uint32_t ones = share(model, encoder->range);

    if (bit) {
        encoder->range = ones;
    } else {
        encoder->low += ones;
        encoder->range -= ones;
    }
    learn(model, bit);
    while (encoder->range < RANGE_MIN) {
        encoder->range <<= 8;
        shift(encoder);
    }
}

int range_encoder_end(struct range_encoder *encoder)
{
    for (int i = 0; i <= FLUSH_BYTES; i++)
        shift(encoder);
    return encoder->err;
}

static uint8_t take(struct range_decoder *decoder)
{
    if (decoder->at < decoder->end)
        return *decoder->at++;
    decoder->overrun = true;
    return 0;
}

void range_decoder_init(struct range_decoder *decoder, struct bytes input)
{
    *decoder = (struct range_decoder
    ){.at = input.data, .end = input.data + input.len, .range = UINT32_MAX};
    for (int i = 0; i < FLUSH_BYTES; i++)
        decoder->code = decoder->code << 8 | take(decoder);
}

bool range_decode(struct range_decoder *decoder, struct bit_model *model)
{
    uint32_t ones = share(model, decoder->range);
    bool bit = decoder->code < ones;

    if (bit) {
        decoder->range = ones;
    } else {
        decoder->code -= ones;
        decoder->range -= ones;
    }
    learn(model, bit);
    while (decoder->range < RANGE_MIN) {
        decoder->range <<= 8;
        decoder->code = decoder->code << 8 | take(decoder);
    }
    return bit;
}

bool range_decoder_is_done(const struct range_decoder *decoder)
{
    return !decoder->overrun && decoder->at == decoder->end;
}
