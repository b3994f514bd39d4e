/*
 * Bits in a row, the first one lowest: what cannot be compressed is packed this way. Written and
 * read eight bytes at a time, without a branch that depends on the data.
 */
#ifndef FORMAT_BITS_H
#define FORMAT_BITS_H

#include <string.h>

#include "format/buf.h"

_Static_assert(__BYTE_ORDER__ == __ORDER_LITTLE_ENDIAN__, "the first bit is the lowest");

#define BITS_SLACK 8 /* bytes that a writer touches behind what it writes */

/* The owner of `at` has made room for all that will be written, and BITS_SLACK. */
struct bit_writer {
    uint8_t *at;
    uint64_t held;
    unsigned count; /* bits in `held`, below 8 */
};

/* The lowest `n` <= 32 bits of `bits`; the others are zero. */
static inline void bits_write(struct bit_writer *writer, uint32_t bits, unsigned n)
{
    uint64_t held = writer->held | (uint64_t)bits << writer->count;
    unsigned count = writer->count + n;

    memcpy(writer->at, &held, sizeof(held));
    writer->at += count / 8;
    writer->held = held >> (count & ~7U);
    writer->count = count % 8;
}

/* Where the last byte, filled up with zeros, ends. */
static inline uint8_t *bits_write_end(struct bit_writer *writer)
{
    if (writer->count)
        *writer->at++ = (uint8_t)writer->held;
    writer->count = 0;
    return writer->at;
}

/* Behind its end a reader gives zeros; whether it was there shows at bits_are_done(). */
struct bit_reader {
    const uint8_t *data;
    size_t len;
    uint64_t at; /* in bits */
};

/* The last eight bytes, and the zeros behind them. */
static inline uint64_t bits_tail(const struct bit_reader *reader, uint64_t from)
{
    uint64_t held = 0;

    if (from < reader->len)
        memcpy(&held, reader->data + from, reader->len - from < 8 ? reader->len - from : 8);
    return held;
}

/* The next `n` <= 32 bits. */
static inline uint32_t bits_read(struct bit_reader *reader, unsigned n)
{
    uint64_t from = reader->at / 8, held;

    if (from + sizeof(held) <= reader->len)
        memcpy(&held, reader->data + from, sizeof(held));
    else
        held = bits_tail(reader, from);
    held >>= reader->at % 8;
    reader->at += n;
    return (uint32_t)(held & ((UINT64_C(1) << n) - 1));
}

/* Was all of it read and no more, but for the zeros that fill the last byte? */
static inline bool bits_are_done(struct bit_reader *reader)
{
    uint64_t end = 8 * (uint64_t)reader->len;

    return reader->at <= end && end - reader->at < 8 &&
           bits_read(reader, (unsigned)(end - reader->at)) == 0;
}

#endif
