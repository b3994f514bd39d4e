/*
 * Any bytes as a frame, whole or a difference, beside any vectors; and any payloads through the
 * encoder and back. The digest at the end stops most frames only after all of it was decoded; what
 * is behind it is reached through delta_decode().
 *
 *   byte 0       what to do
 *   byte 1       number of vectors, up to 7
 *   2 a vector   dtype and group; values
 *   the rest     a frame, a body, or payloads
 */
#include <stdlib.h>
#include <string.h>

#include "format/delta.h"

#define VECTORS_MAX 7

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static const enum dtype dtypes[] = {
    DTYPE_F32, DTYPE_BF16, DTYPE_F16, DTYPE_U8, DTYPE_I16, DTYPE_I32, DTYPE_F64, DTYPE_C64,
};

struct input {
    struct frame_vector vectors[VECTORS_MAX];
    size_t count;
    size_t payload_bytes;
    struct bytes rest;
};

static bool vectors_take(struct input *input)
{
    if (input->rest.len < 2)
        return false;
    input->count = input->rest.data[1] % (VECTORS_MAX + 1);
    if (input->rest.len < 2 + 2 * input->count)
        return false;
    for (size_t i = 0; i < input->count; i++) {
        const uint8_t *at = input->rest.data + 2 + 2 * i;
        enum dtype dtype = dtypes[at[0] % 8];
        unsigned width = dtype == DTYPE_C64 ? 4 : dtype_bits(dtype) / 8;
        input->vectors[i] = (struct frame_vector){
            .bytes = (uint64_t)at[1] * width * (dtype == DTYPE_C64 ? 2 : 1),
            .width = width,
            .group = at[0] & 8 ? FRAME_GROUP_D : FRAME_GROUP_OTHER,
            .dtype = dtype,
        };
        input->payload_bytes += (size_t)input->vectors[i].bytes;
    }
    input->rest.data += 2 + 2 * input->count;
    input->rest.len -= 2 + 2 * input->count;
    return true;
}

/* The n-th payload: the input's bytes, over and over, each time a little different. */
static void payload_make(struct buf *out, const struct input *input, size_t n)
{
    if (buf_resize(out, input->payload_bytes + 1) < 0)
        abort();
    for (size_t i = 0; input->rest.len && i < input->payload_bytes; i++)
        out->data[i] = input->rest.data[(i + n * input->payload_bytes) % input->rest.len];
    out->len--;
}

static struct frame_bases bases_make(struct buf payloads[2], uint8_t what)
{
    struct frame_bases bases = {
        .x1 = buf_bytes(&payloads[0]),
        .x0 = what & 4 ? buf_bytes(&payloads[1]) : (struct bytes){0},
        .depth = what >> 3,
    };

    if (digest_of(&bases.digest1, bases.x1) < 0 || digest_of(&bases.digest0, bases.x0) < 0)
        abort();
    return bases;
}

/* There and back. */
static void round_trip(const struct input *input, const struct frame_bases *bases)
{
    AUTO_BUF(payload);
    AUTO_BUF(frame);
    AUTO_BUF(decoded);
    struct digest digest;

    payload_make(&payload, input, 0);
    if (digest_of(&digest, buf_bytes(&payload)) < 0 ||
        frame_encode(&frame, buf_bytes(&payload), &digest, input->vectors, input->count, bases) <
            0 ||
        frame_decode(&decoded, buf_bytes(&frame), input->vectors, input->count, bases) < 0 ||
        !bytes_equal(buf_bytes(&payload), buf_bytes(&decoded)))
        abort();
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct input input = {.rest = {data, size}};
    __attribute__((cleanup(buf_release))) struct buf x1 = {0}, x0 = {0};
    AUTO_BUF(decoded);

    if (!vectors_take(&input))
        return 0;
    payload_make(&x1, &input, 1);
    payload_make(&x0, &input, 2);
    struct buf payloads[2] = {x1, x0};
    const struct frame_bases bases = bases_make(payloads, data[0]);
    const struct delta_bases from = {bases.x1.data, bases.x0.data};
    switch (data[0] & 3) {
    case 0:
        round_trip(&input, input.payload_bytes ? &bases : NULL);
        break;
    case 1:
        if (frame_decode(&decoded, input.rest, input.vectors, input.count, &bases) == 0 &&
            decoded.len != input.payload_bytes)
            abort();
        break;
    default:
        if (buf_resize(&decoded, input.payload_bytes + 1) == 0)
            (void)!delta_decode(decoded.data, input.rest, &from, input.vectors, input.count);
        break;
    }
    return 0;
}
