#include "format/delta_stream.h"

#include <string.h>

#include "format/delta_range.h"
#include "format/delta_tokens.h"
#include "format/interrupt.h"
#include "format/predict.h"

#define BLOCK        1024  /* values at once */
#define FAR_SHARE    128   /* one value in so many may be above the highest class */
#define SAMPLE       65536 /* values that are looked at, about, before they are encoded */
#define LENGTH_BYTES 4
#define HEAD_BYTES   3 /* method, highest class */

static void patterns_read(uint32_t *out, const struct segment *segment, size_t at, size_t n)
{
    if (segment->dtype == DTYPE_F32) {
        memcpy(out, segment->x + at * 4, n * 4);
        for (size_t k = 0; segment->shift && k < n; k++)
            out[k] >>= segment->shift;
        return;
    }
    for (size_t k = 0; k < n; k++) {
        uint16_t bits;
        memcpy(&bits, segment->x + (at + k) * 2, sizeof(bits));
        out[k] = bits;
    }
}

/* x becomes what is written. */
static void patterns_write(const struct segment *segment, uint32_t *x, size_t at, size_t n)
{
    if (segment->dtype == DTYPE_F32) {
        for (size_t k = 0; segment->shift && k < n; k++)
            x[k] <<= segment->shift;
        memcpy(segment->x + at * 4, x, n * 4);
        return;
    }
    for (size_t k = 0; k < n; k++) {
        const uint16_t bits = (uint16_t)x[k];
        memcpy(segment->x + (at + k) * 2, &bits, sizeof(bits));
    }
}

static void predict_at(uint32_t *p, const struct segment *segment, size_t at, size_t n)
{
    size_t offset = at * (dtype_bits(segment->dtype) / 8);

    predict(
        p, segment->x1 + offset, segment->i ? segment->x0 + offset : NULL, segment->i, n,
        segment->dtype, segment->shift
    );
}

/* Encoding */

/* The class that all but a few values stay at or below; of many values some will tell. */
static unsigned highest_find(const struct segment *segments, size_t count, uint64_t values)
{
    uint64_t histogram[CLASS_MAX] = {0}, above = 0, seen = 0;
    size_t step = 1 + (size_t)(values / SAMPLE), turn = 0;
    uint32_t x[BLOCK], p[BLOCK];

    for (size_t i = 0; i < count; i++) {
        const struct pattern pattern = pattern_of(&segments[i]);
        for (size_t at = 0; at < segments[i].values; at += BLOCK) {
            size_t n = segments[i].values - at < BLOCK ? segments[i].values - at : BLOCK;
            if (turn++ % step)
                continue;
            predict_at(p, &segments[i], at, n);
            patterns_read(x, &segments[i], at, n);
            for (size_t k = 0; k < n; k++) {
                struct residual r = residual_of(&pattern, x[k], p[k]);
                histogram[r.crosses ? 0 : r.floor + r.length]++;
            }
            seen += n;
        }
    }
    unsigned highest = CLASS_MAX;
    while (--highest > 1 && (above += histogram[highest]) * FAR_SHARE <= seen)
        ;
    return highest;
}

/* One stream that is being written. */
struct writer {
    enum stream_method method;
    struct buf tokens, exponents, ranged;
    struct token_writer token;
    struct range_writer range;
};

static void writer_release(struct writer *writer)
{
    buf_release(&writer->tokens);
    buf_release(&writer->exponents);
    buf_release(&writer->ranged);
}
#define AUTO_WRITER(name) __attribute__((cleanup(writer_release))) struct writer name = {0}

static int writer_init(
    struct writer *writer,
    enum stream_method method,
    unsigned highest,
    uint64_t values,
    uint8_t *bits
)
{
    int err;

    writer->method = method;
    if (method == STREAM_RANGE) {
        writer->range.highest = highest;
        writer->range.bits.at = bits;
        range_encoder_init(&writer->range.coder, &writer->ranged);
        return 0;
    }
    if ((err = buf_reserve(&writer->tokens, (size_t)values)) < 0 ||
        (err = buf_reserve(&writer->exponents, (size_t)values)) < 0)
        return err;
    writer->token = (struct token_writer
    ){.highest = highest,
      .token = writer->tokens.data,
      .exponent = writer->exponents.data,
      .bits.at = bits};
    return 0;
}

static int segment_put(struct writer *writer, const struct segment *segment)
{
    const struct pattern pattern = pattern_of(segment);
    uint32_t x[BLOCK], p[BLOCK];
    int err = 0;

    for (size_t at = 0; err == 0 && at < segment->values; at += BLOCK) {
        size_t n = segment->values - at < BLOCK ? segment->values - at : BLOCK;
        predict_at(p, segment, at, n);
        patterns_read(x, segment, at, n);
        if (writer->method == STREAM_RANGE)
            range_put(&writer->range, &pattern, x, p, n);
        else
            tokens_put(&writer->token, &pattern, x, p, n);
        err = interrupt_check();
    }
    return err;
}

static void length_put(uint8_t *out, size_t length)
{
    for (unsigned i = 0; i < LENGTH_BYTES; i++)
        out[i] = (uint8_t)(length >> (8 * i));
}

/* What stands behind the raw bits. */
static int writer_end(struct buf *out, struct writer *writer, struct plane_coder *planes)
{
    uint8_t length[LENGTH_BYTES];
    int err;

    if (writer->method == STREAM_RANGE) {
        if ((err = range_encoder_end(&writer->range.coder)) < 0)
            return err;
        length_put(length, writer->ranged.len);
        if ((err = buf_append(out, length, sizeof(length))) < 0)
            return err;
        return buf_append(out, writer->ranged.data, writer->ranged.len);
    }
    writer->tokens.len = (size_t)(writer->token.token - writer->tokens.data);
    writer->exponents.len = (size_t)(writer->token.exponent - writer->exponents.data);
    if ((err = plane_encode(out, planes, buf_bytes(&writer->tokens))) < 0)
        return err;
    return plane_encode(out, planes, buf_bytes(&writer->exponents));
}

int stream_encode(
    struct buf *out,
    enum stream_method method,
    const struct segment *segments,
    size_t count,
    uint64_t values,
    struct plane_coder *planes
)
{
    const size_t head = HEAD_BYTES + LENGTH_BYTES;
    unsigned highest = highest_find(segments, count, values);
    AUTO_WRITER(writer);
    int err;

    if ((err = buf_reserve(out, head + (size_t)values * sizeof(uint32_t) + BITS_SLACK)) < 0)
        return err;
    uint8_t *begin = out->data + out->len, *raw = begin + head;
    if ((err = writer_init(&writer, method, highest, values, raw)) < 0)
        return err;
    for (size_t i = 0; err == 0 && i < count; i++)
        err = segment_put(&writer, &segments[i]);
    if (err < 0)
        return err;
    begin[0] = (uint8_t)method;
    begin[1] = (uint8_t)highest;
    begin[2] = (uint8_t)(highest >> 8);
    struct bit_writer *bits = method == STREAM_RANGE ? &writer.range.bits : &writer.token.bits;
    size_t length = (size_t)(bits_write_end(bits) - raw);
    length_put(begin + HEAD_BYTES, length);
    out->len += head + length;
    return writer_end(out, &writer, planes);
}

/* Decoding */

static int cut(struct bytes *out, struct bytes *rest, size_t n)
{
    if (n > rest->len)
        return error_set(E_CORRUPT, "frame: ends inside its body");
    *out = (struct bytes){rest->data, n};
    rest->data += n;
    rest->len -= n;
    return 0;
}

static int cut_with_length(struct bytes *out, struct bytes *rest)
{
    size_t n = 0;

    if (rest->len < LENGTH_BYTES)
        return error_set(E_CORRUPT, "frame: ends inside its body");
    for (unsigned i = 0; i < LENGTH_BYTES; i++)
        n |= (size_t)*rest->data++ << (8 * i);
    rest->len -= LENGTH_BYTES;
    return cut(out, rest, n);
}

/* One stream that is being read. */
struct reader {
    enum stream_method method;
    struct buf tokens, exponents;
    struct token_reader token;
    struct range_reader range;
};

static void reader_release(struct reader *reader)
{
    buf_release(&reader->tokens);
    buf_release(&reader->exponents);
}
#define AUTO_READER(name) __attribute__((cleanup(reader_release))) struct reader name = {0}

static int
tokens_read(struct reader *reader, uint64_t values, struct plane_coder *planes, struct bytes *rest)
{
    size_t far = 0;
    int err;

    if ((err = buf_reserve(&reader->tokens, (size_t)values)) < 0 ||
        (err = plane_decode(reader->tokens.data, (size_t)values, planes, rest)) < 0)
        return err;
    for (size_t k = 0; k < values; k++)
        far += reader->tokens.data[k] == TOKEN_FAR;
    if ((err = buf_reserve(&reader->exponents, far)) < 0 ||
        (err = plane_decode(reader->exponents.data, far, planes, rest)) < 0)
        return err;
    reader->token.token = reader->tokens.data;
    reader->token.exponent = reader->exponents.data;
    return 0;
}

static int ranged_read(struct reader *reader, struct bytes *rest)
{
    struct bytes ranged = {0};
    int err = cut_with_length(&ranged, rest);

    if (err == 0)
        range_decoder_init(&reader->range.coder, ranged);
    return err;
}

static int head_read(enum stream_method *method, unsigned *highest, struct bytes *rest)
{
    if (rest->len < HEAD_BYTES)
        return error_set(E_CORRUPT, "frame: ends inside its body");
    *method = (enum stream_method)rest->data[0];
    *highest = (unsigned)(rest->data[1] | rest->data[2] << 8);
    if (*method >= STREAM_METHODS || *highest >= CLASS_MAX)
        return error_set(
            E_CORRUPT, "frame: a stream of method %u, class %u", (unsigned)*method, *highest
        );
    rest->data += HEAD_BYTES;
    rest->len -= HEAD_BYTES;
    return 0;
}

static int
reader_init(struct reader *reader, uint64_t values, struct plane_coder *planes, struct bytes *rest)
{
    struct bytes raw = {0};
    unsigned highest = 0;
    int err;

    if ((err = head_read(&reader->method, &highest, rest)) < 0 ||
        (err = cut_with_length(&raw, rest)) < 0)
        return err;
    reader->token.highest = reader->range.highest = highest;
    reader->token.bits = reader->range.bits = (struct bit_reader){raw.data, raw.len, 0};
    return reader->method == STREAM_RANGE ? ranged_read(reader, rest)
                                          : tokens_read(reader, values, planes, rest);
}

static int segment_get(const struct segment *segment, struct reader *reader)
{
    const struct pattern pattern = pattern_of(segment);
    uint32_t x[BLOCK], p[BLOCK];
    int err = 0;

    for (size_t at = 0; err == 0 && at < segment->values; at += BLOCK) {
        size_t n = segment->values - at < BLOCK ? segment->values - at : BLOCK;
        predict_at(p, segment, at, n);
        bool good = reader->method == STREAM_RANGE ? range_get(x, &reader->range, &pattern, p, n)
                                                   : tokens_get(x, &reader->token, &pattern, p, n);
        if (!good)
            return error_set(E_CORRUPT, "frame: a value that no encoder writes");
        patterns_write(segment, x, at, n);
        err = interrupt_check();
    }
    return err;
}

static bool reader_is_done(struct reader *reader)
{
    if (reader->method == STREAM_RANGE)
        return bits_are_done(&reader->range.bits) && range_decoder_is_done(&reader->range.coder);
    return bits_are_done(&reader->token.bits);
}

int stream_decode(
    const struct segment *segments,
    size_t count,
    uint64_t values,
    struct plane_coder *planes,
    struct bytes *rest
)
{
    AUTO_READER(reader);
    int err = reader_init(&reader, values, planes, rest);

    for (size_t i = 0; err == 0 && i < count; i++)
        err = segment_get(&segments[i], &reader);
    if (err < 0)
        return err;
    if (!reader_is_done(&reader))
        return error_set(E_CORRUPT, "frame: a stream of another length");
    return 0;
}
