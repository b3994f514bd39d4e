#include "format/frame.h"

#include <assert.h>
#include <stdlib.h>
#include <string.h>

#include <zstd.h>

#include "format/interrupt.h"
#include "format/limits.h"

#define HEADER_BYTES  48
#define VERSION       1
#define CODEC_OFFSET  5
#define BASES_MAX     2
#define LENGTH_BYTES  4
#define WIDTH_MAX     8
#define SMALL_PAYLOAD MIB /* below it the slow level costs less than a blink */
#define SMALL_LEVEL   19
#define LARGE_LEVEL   1

enum codec { CODEC_RAW, CODEC_PLANES, CODEC_COUNT };
enum plane_mode { PLANE_RAW, PLANE_ZSTD, PLANE_CONSTANT };

static const uint8_t magic[4] = {'V', 'F', 'R', 'M'};
static const char *const codec_names[CODEC_COUNT] = {"raw", "planes"};

const char *frame_codec_name(unsigned codec)
{
    return codec < CODEC_COUNT ? codec_names[codec] : "unknown";
}

static uint64_t get_le(const uint8_t *p, size_t n)
{
    uint64_t value = 0;

    for (size_t i = 0; i < n; i++)
        value |= (uint64_t)p[i] << (8 * i);
    return value;
}

static void put_le(uint8_t *p, uint64_t value, size_t n)
{
    for (size_t i = 0; i < n; i++)
        p[i] = (uint8_t)(value >> (8 * i));
}

/* What one codec works on. */
struct planes {
    const struct frame_vector *vectors;
    size_t count;
    uint8_t *scratch;      /* one plane */
    const uint8_t *source; /* the encoder's payload */
    ZSTD_CCtx *encoder;
    int level;
    uint8_t *target; /* the decoder's payload */
    ZSTD_DCtx *decoder;
};

struct stream {
    enum frame_group group;
    unsigned width;
    size_t values;
};

static bool is_in(const struct stream *stream, const struct frame_vector *vector)
{
    return vector->group == stream->group && vector->width == stream->width;
}

/* Every (group, width) in the body's order; false behind the last one. */
static bool
stream_at(struct stream *out, const struct frame_vector *vectors, size_t count, unsigned index)
{
    struct stream stream = {
        .group = index < 4 ? FRAME_GROUP_D : FRAME_GROUP_OTHER,
        .width = 1U << index % 4,
    };

    if (index >= 8)
        return false;
    for (size_t i = 0; i < count; i++)
        if (is_in(&stream, &vectors[i]))
            stream.values += (size_t)vectors[i].bytes / stream.width;
    *out = stream;
    return true;
}

static size_t most_values(const struct frame_vector *vectors, size_t count)
{
    struct stream stream;
    size_t most = 0;

    for (unsigned i = 0; stream_at(&stream, vectors, count, i); i++)
        if (stream.values > most)
            most = stream.values;
    return most;
}

/* The vectors' sum in *out_bytes. Whatever they say was read from some file's header. */
static int
check_vectors(uint64_t *out_bytes, const struct frame_vector *vectors, size_t count, int code)
{
    uint64_t bytes = 0;

    for (size_t i = 0; i < count; i++) {
        unsigned width = vectors[i].width;
        if ((width != 1 && width != 2 && width != 4 && width != WIDTH_MAX) ||
            vectors[i].bytes % width || (unsigned)vectors[i].group > FRAME_GROUP_OTHER)
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

/* plane[k] = byte `position` of the stream's k-th value. */
static void gather(const struct planes *planes, const struct stream *stream, unsigned position)
{
    const uint8_t *vector = planes->source;
    uint8_t *plane = planes->scratch;

    for (size_t i = 0; i < planes->count; i++) {
        size_t bytes = (size_t)planes->vectors[i].bytes;
        if (is_in(stream, &planes->vectors[i]))
            for (size_t at = position; at < bytes; at += stream->width)
                *plane++ = vector[at];
        vector += bytes;
    }
}

/* The inverse; `step` 0: all of the plane's bytes are its first. */
static void scatter(
    const struct planes *planes,
    const struct stream *stream,
    unsigned position,
    const uint8_t *plane,
    size_t step
)
{
    uint8_t *vector = planes->target;

    for (size_t i = 0; i < planes->count; i++) {
        size_t bytes = (size_t)planes->vectors[i].bytes;
        if (is_in(stream, &planes->vectors[i]))
            for (size_t at = position; at < bytes; at += stream->width, plane += step)
                vector[at] = *plane;
        vector += bytes;
    }
}

static bool is_constant(const uint8_t *plane, size_t n)
{
    return memcmp(plane, plane + 1, n - 1) == 0;
}

/* The plane in `scratch` as one zstd frame of *len bytes; false where that does not pay. The fast
   level knows noise at once, and most planes are noise: the slow one is for the others. */
static bool compress_plane(uint8_t *out, size_t *len, const struct planes *planes, size_t n)
{
    size_t bound = ZSTD_compressBound(n);

    for (int level = LARGE_LEVEL;; level = planes->level) {
        size_t got = ZSTD_compressCCtx(planes->encoder, out, bound, planes->scratch, n, level);
        if (ZSTD_isError(got) || got + LENGTH_BYTES >= n)
            return false;
        *len = got;
        if (level == planes->level)
            return true;
    }
}

/* Append the plane in `scratch` as the smallest of its forms. */
static int encode_plane(struct buf *out, const struct planes *planes, size_t n)
{
    size_t head = 1 + LENGTH_BYTES, len;
    int err;

    if (is_constant(planes->scratch, n)) {
        const uint8_t stored[] = {PLANE_CONSTANT, planes->scratch[0]};
        return buf_append(out, stored, sizeof(stored));
    }
    if ((err = buf_reserve(out, head + ZSTD_compressBound(n))) < 0)
        return err;
    uint8_t *stored = out->data + out->len;
    if (compress_plane(stored + head, &len, planes, n)) {
        stored[0] = PLANE_ZSTD;
        put_le(stored + 1, len, LENGTH_BYTES);
        out->len += head + len;
    } else {
        stored[0] = PLANE_RAW;
        memcpy(stored + 1, planes->scratch, n);
        out->len += 1 + n;
    }
    return 0;
}

static int encode_planes(struct buf *out, const struct planes *planes)
{
    struct stream stream;
    int err;

    for (unsigned i = 0; stream_at(&stream, planes->vectors, planes->count, i); i++)
        for (unsigned position = 0; stream.values && position < stream.width; position++) {
            gather(planes, &stream, position);
            if ((err = interrupt_check()) < 0 ||
                (err = encode_plane(out, planes, stream.values)) < 0)
                return err;
        }
    return 0;
}

static void free_encoder(ZSTD_CCtx **context)
{
    ZSTD_freeCCtx(*context);
}

static void free_decoder(ZSTD_DCtx **context)
{
    ZSTD_freeDCtx(*context);
}

static int
encode_body(struct buf *out, struct bytes payload, const struct frame_vector *vectors, size_t count)
{
    __attribute__((cleanup(free_encoder))) ZSTD_CCtx *encoder = ZSTD_createCCtx();
    AUTO_FREE(uint8_t, scratch);

    if (!encoder)
        return error_set(E_NOMEM, "frame: out of memory for zstd");
    if (!(scratch = array_new(most_values(vectors, count), 1)))
        return error_wrap(E_NOMEM, "frame");
    const struct planes planes = {
        .vectors = vectors,
        .count = count,
        .scratch = scratch,
        .source = payload.data,
        .encoder = encoder,
        .level = payload.len < SMALL_PAYLOAD ? SMALL_LEVEL : LARGE_LEVEL,
    };
    return encode_planes(out, &planes);
}

static int encode_header(struct buf *out, uint64_t payload_bytes, const struct digest *digest)
{
    uint8_t header[HEADER_BYTES] = {[4] = VERSION, [CODEC_OFFSET] = CODEC_PLANES};

    memcpy(header, magic, sizeof(magic));
    put_le(header + 8, payload_bytes, 8);
    memcpy(header + 16, digest->bytes, DIGEST_SIZE);
    return buf_append(out, header, sizeof(header));
}

/* Where planes do not pay the payload itself is the body. */
static int fall_back_to_raw(struct buf *frame, struct bytes payload)
{
    if (frame->len - HEADER_BYTES < payload.len)
        return 0;
    frame->data[CODEC_OFFSET] = CODEC_RAW;
    frame->len = HEADER_BYTES;
    return buf_append(frame, payload.data, payload.len);
}

/* What an encoder got wrong never reaches the disk. */
static int check_encoded(
    const struct buf *frame, struct bytes payload, const struct frame_vector *vectors, size_t count
)
{
    AUTO_BUF(decoded);
    int err = frame_decode(&decoded, buf_bytes(frame), vectors, count);

    if (err < 0)
        return error_wrap(err, "frame: what was encoded does not decode");
    if (!bytes_equal(buf_bytes(&decoded), payload))
        return error_set(E_CORRUPT, "frame: what was encoded decodes to something else");
    return 0;
}

int frame_encode(
    struct buf *out,
    struct bytes payload,
    const struct digest *digest,
    const struct frame_vector *vectors,
    size_t count
)
{
    AUTO_BUF(frame);
    uint64_t bytes;
    int err;

    if ((err = check_vectors(&bytes, vectors, count, E_INVALID)) < 0)
        return err;
    if (bytes != payload.len)
        return error_set(E_INVALID, "frame: the vectors are not the payload's");
    if ((err = encode_header(&frame, bytes, digest)) < 0 ||
        (err = encode_body(&frame, payload, vectors, count)) < 0 ||
        (err = fall_back_to_raw(&frame, payload)) < 0 ||
        (err = check_encoded(&frame, payload, vectors, count)) < 0)
        return err;
    *out = buf_take(&frame);
    return 0;
}

int frame_inspect(struct frame_info *out, struct bytes frame)
{
    struct frame_info info = {0};

    if (frame.len < HEADER_BYTES || memcmp(frame.data, magic, sizeof(magic)) != 0)
        return error_set(E_CORRUPT, "frame: %zu bytes without a frame's header", frame.len);
    if (frame.data[4] != VERSION)
        return error_set(E_UNSUPPORTED, "frame: version %u", frame.data[4]);
    info.codec = frame.data[5];
    info.depth = frame.data[6];
    info.base_count = frame.data[7];
    if (info.codec >= CODEC_COUNT)
        return error_set(E_UNSUPPORTED, "frame: codec %u", info.codec);
    if (info.depth > LIMIT_FRAME_DEPTH)
        return error_set(E_LIMIT, "frame: depth %u", info.depth);
    if (info.base_count > BASES_MAX || (info.base_count == 0) != (info.depth == 0))
        return error_set(E_CORRUPT, "frame: depth %u, %u bases", info.depth, info.base_count);
    if (frame.len - HEADER_BYTES < info.base_count * (size_t)DIGEST_SIZE)
        return error_set(E_CORRUPT, "frame: ends inside its header");
    info.payload_bytes = get_le(frame.data + 8, 8);
    if (info.payload_bytes > LIMIT_FILE)
        return error_set(E_LIMIT, "frame: payload of %ju bytes", (uintmax_t)info.payload_bytes);
    memcpy(info.payload.bytes, frame.data + 16, DIGEST_SIZE);
    memcpy(info.bases, frame.data + HEADER_BYTES, info.base_count * (size_t)DIGEST_SIZE);
    *out = info;
    return 0;
}

static int need(const struct bytes *rest, size_t n)
{
    if (n > rest->len)
        return error_set(E_CORRUPT, "frame: ends inside its body");
    return 0;
}

/* Cut off the first `n` bytes, which are there. */
static const uint8_t *take(struct bytes *rest, size_t n)
{
    const uint8_t *taken = rest->data;

    rest->data += n;
    rest->len -= n;
    return taken;
}

/* One zstd frame of exactly `n` bytes into the scratch plane. A few stored bytes may claim any
   size, so the claim is checked first; the one-shot call would also take several frames. */
static int decode_zstd(const struct planes *planes, size_t n, struct bytes *rest)
{
    int err;

    if ((err = need(rest, LENGTH_BYTES)) < 0)
        return err;
    size_t len = (size_t)get_le(take(rest, LENGTH_BYTES), LENGTH_BYTES);
    if ((err = need(rest, len)) < 0)
        return err;
    const uint8_t *stored = take(rest, len);
    if (len >= n || ZSTD_getFrameContentSize(stored, len) != n ||
        ZSTD_findFrameCompressedSize(stored, len) != len)
        return error_set(E_CORRUPT, "frame: a zstd plane of another size");
    if (ZSTD_decompressDCtx(planes->decoder, planes->scratch, n, stored, len) != n)
        return error_set(E_CORRUPT, "frame: a zstd plane is damaged");
    return 0;
}

static int decode_plane(
    const struct planes *planes, const struct stream *stream, unsigned position, struct bytes *rest
)
{
    size_t n = stream->values;
    int err;

    if ((err = need(rest, 1)) < 0)
        return err;
    unsigned mode = *take(rest, 1);
    switch (mode) {
    case PLANE_RAW:
        if ((err = need(rest, n)) < 0)
            return err;
        scatter(planes, stream, position, take(rest, n), 1);
        return 0;
    case PLANE_ZSTD:
        if ((err = decode_zstd(planes, n, rest)) < 0)
            return err;
        scatter(planes, stream, position, planes->scratch, 1);
        return 0;
    case PLANE_CONSTANT:
        if ((err = need(rest, 1)) < 0)
            return err;
        scatter(planes, stream, position, take(rest, 1), 0);
        return 0;
    default:
        return error_set(E_CORRUPT, "frame: a plane of mode %u", mode);
    }
}

static int decode_streams(const struct planes *planes, struct bytes body)
{
    struct stream stream;
    int err;

    for (unsigned i = 0; stream_at(&stream, planes->vectors, planes->count, i); i++)
        for (unsigned position = 0; stream.values && position < stream.width; position++)
            if ((err = interrupt_check()) < 0 ||
                (err = decode_plane(planes, &stream, position, &body)) < 0)
                return err;
    if (body.len)
        return error_set(E_CORRUPT, "frame: %zu bytes behind its body", body.len);
    return 0;
}

static int decode_planes(
    struct buf *out,
    uint64_t bytes,
    struct bytes body,
    const struct frame_vector *vectors,
    size_t count
)
{
    __attribute__((cleanup(free_decoder))) ZSTD_DCtx *decoder = ZSTD_createDCtx();
    AUTO_FREE(uint8_t, scratch);
    int err;

    if (!decoder)
        return error_set(E_NOMEM, "frame: out of memory for zstd");
    if (!(scratch = array_new(most_values(vectors, count), 1)))
        return error_wrap(E_NOMEM, "frame");
    if ((err = buf_resize(out, (size_t)bytes)) < 0)
        return err;
    const struct planes planes = {
        .vectors = vectors,
        .count = count,
        .scratch = scratch,
        .target = out->data,
        .decoder = decoder,
    };
    return decode_streams(&planes, body);
}

static int decode_raw(struct buf *out, uint64_t bytes, struct bytes body)
{
    if (body.len != bytes)
        return error_set(
            E_CORRUPT, "frame: body of %zu bytes, not %ju", body.len, (uintmax_t)bytes
        );
    return buf_append(out, body.data, body.len);
}

int frame_decode(
    struct buf *out, struct bytes frame, const struct frame_vector *vectors, size_t count
)
{
    AUTO_BUF(payload);
    struct frame_info info;
    struct digest digest;
    uint64_t bytes;
    int err;

    if ((err = frame_inspect(&info, frame)) < 0 ||
        (err = check_vectors(&bytes, vectors, count, E_CORRUPT)) < 0)
        return err;
    if (info.depth)
        return error_set(E_UNSUPPORTED, "frame: a difference in codec %u", info.codec);
    if (bytes != info.payload_bytes)
        return error_set(E_CORRUPT, "frame: the payload does not fit the layout");
    const struct bytes body = {frame.data + HEADER_BYTES, frame.len - HEADER_BYTES};
    err = info.codec == CODEC_RAW ? decode_raw(&payload, bytes, body)
                                  : decode_planes(&payload, bytes, body, vectors, count);
    if (err < 0 || (err = digest_of(&digest, buf_bytes(&payload))) < 0)
        return err;
    if (!digest_equal(&digest, &info.payload))
        return error_set(E_CORRUPT, "frame: the payload is not the one that it names");
    *out = buf_take(&payload);
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

    assert(part_bytes >= WIDTH_MAX);
    int err = check_vectors(&bytes, vectors, count, E_INVALID);
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

int frame_part_encode(struct buf *out, struct bytes payload, const struct frame_part *part)
{
    struct digest digest;

    if (part->begin > payload.len || part->bytes > payload.len - part->begin)
        return error_set(E_INVALID, "frame: the part is not the payload's");
    struct bytes bytes = {payload.data ? payload.data + part->begin : NULL, (size_t)part->bytes};
    int err = digest_of(&digest, bytes);
    return err < 0 ? err : frame_encode(out, bytes, &digest, part->vectors, part->count);
}

int frame_part_decode(struct buf *payload, struct bytes frame, const struct frame_part *part)
{
    AUTO_BUF(bytes);

    if (payload->len != part->begin)
        return error_set(E_CORRUPT, "frame: a part behind %zu bytes", payload->len);
    int err = frame_decode(&bytes, frame, part->vectors, part->count);
    return err < 0 ? err : buf_append(payload, bytes.data, bytes.len);
}
