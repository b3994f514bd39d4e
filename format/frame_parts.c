/* The vectors of a payload, and its parts. See frame.h. */
#include "format/frame.h"

#include <assert.h>
#include <stdlib.h>
#include <string.h>

int frame_vectors_check(
    uint64_t *out_bytes, const struct frame_vector *vectors, size_t count, int code
)
{
    uint64_t bytes = 0;

    for (size_t i = 0; i < count; i++) {
        unsigned width = vectors[i].width;
        if ((width != 1 && width != 2 && width != 4 && width != FRAME_WIDTH_MAX) ||
            vectors[i].bytes % width || (unsigned)vectors[i].group > FRAME_GROUP_OTHER ||
            (dtype_is_applicable(vectors[i].dtype) && dtype_bits(vectors[i].dtype) != 8 * width))
            return error_set(
                code, "frame: vector %zu: %ju bytes of width %u", i, (uintmax_t)vectors[i].bytes,
                width
            );
        if (__builtin_add_overflow(bytes, vectors[i].bytes, &bytes) || bytes > LIMIT_FILE)
            return error_set(E_LIMIT, "frame: a payload of more than 2 GiB");
    }
    *out_bytes = bytes;
    return 0;
}

static bool name_ends_with(const struct tensor *tensor, const char *suffix)
{
    size_t n = strlen(suffix);

    return tensor->name_len >= n && memcmp(tensor->name + tensor->name_len - n, suffix, n) == 0;
}

static bool is_basis(const struct tensor *tensor)
{
    struct bytes name = {(const uint8_t *)tensor->name, tensor->name_len};

    return bytes_equal(name, text_bytes("base_model.vera_A")) ||
           bytes_equal(name, text_bytes("base_model.vera_B"));
}

static unsigned value_width(enum dtype dtype)
{
    unsigned bits = dtype_bits(dtype);

    return dtype == DTYPE_C64 ? 4 : bits < 8 ? 1 : bits / 8;
}

int frame_vectors(struct frame_vector **out, size_t *out_count, const struct safetensors *layout)
{
    struct frame_vector *vectors = array_new(layout->count, sizeof(*vectors));
    size_t count = 0;

    if (!vectors)
        return error_wrap(E_NOMEM, "frame");
    for (size_t i = 0; i < layout->count; i++) {
        const struct tensor *tensor = &layout->tensors[i];
        if (is_basis(tensor))
            continue;
        vectors[count++] = (struct frame_vector){
            .bytes = tensor->end - tensor->begin,
            .width = value_width(tensor->dtype),
            .group = name_ends_with(tensor, ".vera_lambda_d") ? FRAME_GROUP_D : FRAME_GROUP_OTHER,
            .dtype = tensor->dtype,
        };
    }
    *out = vectors;
    *out_count = count;
    return 0;
}

/* Parts */

struct cutter {
    struct buf vectors, parts; /* arrays; a part's vectors are pointed to at the end */
    struct frame_part open;
    uint64_t part_bytes;
};

static int part_close(struct cutter *cutter)
{
    int err = buf_append(&cutter->parts, &cutter->open, sizeof(cutter->open));

    cutter->open = (struct frame_part){.begin = cutter->open.begin + cutter->open.bytes};
    return err;
}

static int part_add(struct cutter *cutter, struct frame_vector piece)
{
    cutter->open.count++;
    cutter->open.bytes += piece.bytes;
    return buf_append(&cutter->vectors, &piece, sizeof(piece));
}

/* As much of the vector as fits into the open part, the rest into the next ones. */
static int vector_cut(struct cutter *cutter, struct frame_vector vector)
{
    int err;

    for (;;) {
        struct frame_vector piece = vector;
        uint64_t room = cutter->part_bytes - cutter->open.bytes;
        if (piece.bytes > room)
            piece.bytes = room - room % vector.width;
        if ((piece.bytes || !vector.bytes) && (err = part_add(cutter, piece)) < 0)
            return err;
        vector.bytes -= piece.bytes;
        if (!vector.bytes)
            return 0;
        if ((err = part_close(cutter)) < 0)
            return err;
    }
}

int frame_parts_cut(
    struct frame_parts *out, const struct frame_vector *vectors, size_t count, uint64_t part_bytes
)
{
    struct cutter cutter = {.part_bytes = part_bytes};
    uint64_t bytes;

    assert(part_bytes >= FRAME_WIDTH_MAX);
    int err = frame_vectors_check(&bytes, vectors, count, E_INVALID);
    if (err == 0)
        err = buf_reserve(&cutter.vectors, count * sizeof(*vectors));
    for (size_t i = 0; err == 0 && i < count; i++)
        err = vector_cut(&cutter, vectors[i]);
    if (err < 0 || (err = part_close(&cutter)) < 0) {
        buf_release(&cutter.vectors);
        buf_release(&cutter.parts);
        return err;
    }
    struct frame_parts parts = {.count = cutter.parts.len / sizeof(struct frame_part)};
    parts.parts = (struct frame_part *)(void *)buf_take(&cutter.parts).data;
    parts.vectors = (struct frame_vector *)(void *)buf_take(&cutter.vectors).data;
    const struct frame_vector *at = parts.vectors;
    for (size_t i = 0; i < parts.count; i++) {
        parts.parts[i].vectors = at;
        at += parts.parts[i].count;
    }
    *out = parts;
    return 0;
}

void frame_parts_release(struct frame_parts *parts)
{
    free(parts->parts);
    free(parts->vectors);
    *parts = (struct frame_parts){0};
}

/* The part's slice of a whole payload. */
static int part_slice(struct bytes *out, struct bytes payload, const struct frame_part *part)
{
    if (part->begin > payload.len || part->bytes > payload.len - part->begin)
        return error_set(E_INVALID, "frame: the part is not the payload's");
    *out = (struct bytes){payload.data ? payload.data + part->begin : NULL, (size_t)part->bytes};
    return 0;
}

/* The part's slices of whole bases, with digests of their own. */
static int
bases_slice(struct frame_bases *out, const struct frame_bases *bases, const struct frame_part *part)
{
    int err;

    *out = *bases;
    if (part->begin == 0 && part->bytes == bases->x1.len)
        return 0;
    if ((err = part_slice(&out->x1, bases->x1, part)) < 0 ||
        (err = digest_of(&out->digest1, out->x1)) < 0 || !bases->x0.data)
        return err;
    if ((err = part_slice(&out->x0, bases->x0, part)) < 0)
        return err;
    return digest_of(&out->digest0, out->x0);
}

int frame_part_encode(
    struct buf *out,
    struct bytes payload,
    const struct frame_part *part,
    const struct frame_bases *bases
)
{
    struct frame_bases sliced;
    struct digest digest;
    struct bytes bytes;
    int err;

    if ((err = part_slice(&bytes, payload, part)) < 0 || (err = digest_of(&digest, bytes)) < 0 ||
        (bases && (err = bases_slice(&sliced, bases, part)) < 0))
        return err;
    return frame_encode(out, bytes, &digest, part->vectors, part->count, bases ? &sliced : NULL);
}

int frame_part_decode(
    struct buf *payload,
    struct bytes frame,
    const struct frame_part *part,
    const struct frame_bases *bases
)
{
    struct frame_bases sliced;
    AUTO_BUF(bytes);
    int err;

    if (payload->len != part->begin)
        return error_set(E_CORRUPT, "frame: a part behind %zu bytes", payload->len);
    if ((bases && (err = bases_slice(&sliced, bases, part)) < 0) ||
        (err = frame_decode(&bytes, frame, part->vectors, part->count, bases ? &sliced : NULL)) < 0)
        return err;
    return buf_append(payload, bytes.data, bytes.len);
}
