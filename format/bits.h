/* Bits in a row, the first one lowest: what cannot be compressed is packed this way. */
#ifndef FORMAT_BITS_H
#define FORMAT_BITS_H

#include <string.h>

#include "format/buf.h"

struct bit_writer {
    struct buf *out;
    uint64_t held;
    unsigned count; /* bits in `held` */
    int err;        /* the first failure; later calls do nothing */
};

/* The lowest `n` <= 32 bits of `bits`; the others are zero. */
static inline void bits_write(struct bit_writer *writer, uint32_t bits, unsigned n)
{
    writer->held |= (uint64_t)bits << writer->count;
    writer->count += n;
    if (writer->count >= 32) {
        uint8_t bytes[4];
        for (unsigned i = 0; i < sizeof(bytes); i++)
            bytes[i] = (uint8_t)(writer->held >> (8 * i));
        if (writer->err == 0)
            writer->err = buf_append(writer->out, bytes, sizeof(bytes));
        writer->held >>= 32;
        writer->count -= 32;
    }
}

MUST_CHECK static inline int bits_write_end(struct bit_writer *writer)
{
    for (; writer->err == 0 && writer->count > 0;
         writer->count -= writer->count < 8 ? writer->count : 8) {
        writer->err = buf_append_byte(writer->out, (uint8_t)writer->held);
        writer->held >>= 8;
    }
    return writer->err;
}

struct bit_reader {
    const uint8_t *at, *end;
    uint64_t held, left; /* bits from `at` - 0 on: in `held`, and in all */
    unsigned count;
    bool overrun; /* more was asked for than there is: zeros were given */
};

static inline void bits_read_init(struct bit_reader *reader, struct bytes input)
{
    *reader = (struct bit_reader
    ){.at = input.data, .end = input.data + input.len, .left = (uint64_t)input.len * 8};
}

static inline void bits_refill(struct bit_reader *reader)
{
    if (reader->end - reader->at >= 8) {
        uint64_t next = 0;
        for (unsigned i = 0; i < 8; i++)
            next |= (uint64_t)reader->at[i] << (8 * i);
        reader->held |= next << reader->count;
        reader->at += (63 - reader->count) / 8;
        reader->count |= 56;
        return;
    }
    for (; reader->count <= 56 && reader->at < reader->end; reader->count += 8)
        reader->held |= (uint64_t)*reader->at++ << reader->count;
}

/* The next `n` <= 32 bits. */
static inline uint32_t bits_read(struct bit_reader *reader, unsigned n)
{
    if (n > reader->left) {
        reader->overrun = true;
        return 0;
    }
    if (n > reader->count)
        bits_refill(reader);
    uint32_t bits = (uint32_t)(reader->held & ((UINT64_C(1) << n) - 1));
    reader->held >>= n;
    reader->count -= n;
    reader->left -= n;
    return bits;
}

/* Was all of it read, but for the zeros that fill the last byte? */
static inline bool bits_are_done(struct bit_reader *reader)
{
    unsigned left = (unsigned)reader->left;

    return !reader->overrun && reader->left < 8 && bits_read(reader, left) == 0;
}

#endif
