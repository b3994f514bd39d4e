#include "format/frame.h"

#include <string.h>

#include "format/delta.h"
#include "format/frame_planes.h"
#include "format/limits.h"

#define HEADER_BYTES  48
#define VERSION       1
#define CODEC_OFFSET  5
#define BASES_MAX     2
#define LARGE_PAYLOAD MIB /* from here on a whole frame is not tried where a difference is good */
#define GOOD_SHARE    4   /* good: a quarter of the payload's bytes less */

enum codec { CODEC_RAW, CODEC_PLANES, CODEC_DELTA, CODEC_COUNT };

static const uint8_t magic[4] = {'V', 'F', 'R', 'M'};
static const char *const codec_names[CODEC_COUNT] = {"raw", "planes", "delta"};

const char *frame_codec_name(unsigned codec)
{
    return codec < CODEC_COUNT ? codec_names[codec] : "unknown";
}

static int encode_header(
    struct buf *out,
    enum codec codec,
    uint64_t payload_bytes,
    const struct digest *digest,
    const struct frame_bases *bases
)
{
    uint8_t header[HEADER_BYTES] = {[4] = VERSION, [CODEC_OFFSET] = (uint8_t)codec};
    int err;

    memcpy(header, magic, sizeof(magic));
    if (codec == CODEC_DELTA) {
        header[6] = (uint8_t)(bases->depth + 1);
        header[7] = bases->x0.data ? 2 : 1;
    }
    for (unsigned i = 0; i < 8; i++)
        header[8 + i] = (uint8_t)(payload_bytes >> (8 * i));
    memcpy(header + 16, digest->bytes, DIGEST_SIZE);
    err = buf_append(out, header, sizeof(header));
    if (err == 0 && header[7] > 0)
        err = buf_append(out, bases->digest1.bytes, DIGEST_SIZE);
    if (err == 0 && header[7] > 1)
        err = buf_append(out, bases->digest0.bytes, DIGEST_SIZE);
    return err;
}

static int encode_whole(
    struct buf *out,
    struct bytes payload,
    const struct digest *digest,
    const struct frame_vector *vectors,
    size_t count
)
{
    AUTO_BUF(frame);
    int err;

    if ((err = encode_header(&frame, CODEC_PLANES, payload.len, digest, NULL)) < 0 ||
        (err = frame_planes_encode(&frame, payload, vectors, count)) < 0)
        return err;
    if (frame.len - HEADER_BYTES >= payload.len) { /* planes do not pay */
        frame.data[CODEC_OFFSET] = CODEC_RAW;
        frame.len = HEADER_BYTES;
        err = buf_append(&frame, payload.data, payload.len);
    }
    if (err == 0)
        *out = buf_take(&frame);
    return err;
}

static int encode_difference(
    struct buf *out,
    struct bytes payload,
    const struct digest *digest,
    const struct frame_vector *vectors,
    size_t count,
    const struct frame_bases *bases
)
{
    const struct delta_bases from = {bases->x1.data, bases->x0.data};
    int err = encode_header(out, CODEC_DELTA, payload.len, digest, bases);

    return err < 0 ? err : delta_encode(out, payload, &from, vectors, count);
}

/* The smaller of the two; a whole frame where they are equal. */
static int encode_smallest(
    struct buf *out,
    struct bytes payload,
    const struct digest *digest,
    const struct frame_vector *vectors,
    size_t count,
    const struct frame_bases *bases
)
{
    AUTO_BUF(difference);
    int err;

    if (!bases || bases->depth >= FRAME_DEPTH_MAX || !payload.len)
        return encode_whole(out, payload, digest, vectors, count);
    if ((err = encode_difference(&difference, payload, digest, vectors, count, bases)) < 0)
        return err;
    if (payload.len < LARGE_PAYLOAD || difference.len > payload.len - payload.len / GOOD_SHARE) {
        if ((err = encode_whole(out, payload, digest, vectors, count)) < 0 ||
            out->len <= difference.len)
            return err;
        buf_release(out);
    }
    *out = buf_take(&difference);
    return 0;
}

/* What an encoder got wrong never reaches the disk. */
static int check_encoded(
    const struct buf *frame,
    struct bytes payload,
    const struct frame_vector *vectors,
    size_t count,
    const struct frame_bases *bases
)
{
    AUTO_BUF(decoded);
    int err = frame_decode(&decoded, buf_bytes(frame), vectors, count, bases);

    if (err < 0)
        return error_wrap(err, "frame: what was encoded does not decode");
    if (!bytes_equal(buf_bytes(&decoded), payload))
        return error_set(E_CORRUPT, "frame: what was encoded decodes to something else");
    return 0;
}

/* Do the bases have the payload's size? */
static bool bases_fit(const struct frame_bases *bases, uint64_t bytes)
{
    return bases->x1.data && bases->x1.len == bytes && (!bases->x0.data || bases->x0.len == bytes);
}

int frame_encode(
    struct buf *out,
    struct bytes payload,
    const struct digest *digest,
    const struct frame_vector *vectors,
    size_t count,
    const struct frame_bases *bases
)
{
    AUTO_BUF(frame);
    uint64_t bytes;
    int err;

    if ((err = frame_vectors_check(&bytes, vectors, count, E_INVALID)) < 0)
        return err;
    if (bytes != payload.len || (bases && payload.len && !bases_fit(bases, bytes)))
        return error_set(E_INVALID, "frame: the vectors are not the payload's");
    if ((err = encode_smallest(&frame, payload, digest, vectors, count, bases)) < 0 ||
        (err = check_encoded(&frame, payload, vectors, count, bases)) < 0)
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
    info.codec = frame.data[CODEC_OFFSET];
    info.depth = frame.data[6];
    info.base_count = frame.data[7];
    if (info.codec >= CODEC_COUNT)
        return error_set(E_UNSUPPORTED, "frame: codec %u", info.codec);
    if (info.depth > LIMIT_FRAME_DEPTH)
        return error_set(E_LIMIT, "frame: depth %u", info.depth);
    if (info.base_count > BASES_MAX || (info.base_count == 0) != (info.depth == 0))
        return error_set(E_CORRUPT, "frame: depth %u, %u bases", info.depth, info.base_count);
    if ((info.codec == CODEC_DELTA) != (info.depth > 0))
        return error_set(E_CORRUPT, "frame: depth %u in codec %u", info.depth, info.codec);
    if (frame.len - HEADER_BYTES < info.base_count * (size_t)DIGEST_SIZE)
        return error_set(E_CORRUPT, "frame: ends inside its header");
    for (unsigned i = 0; i < 8; i++)
        info.payload_bytes |= (uint64_t)frame.data[8 + i] << (8 * i);
    if (info.payload_bytes > LIMIT_FILE)
        return error_set(E_LIMIT, "frame: payload of %ju bytes", (uintmax_t)info.payload_bytes);
    memcpy(info.payload.bytes, frame.data + 16, DIGEST_SIZE);
    memcpy(info.bases, frame.data + HEADER_BYTES, info.base_count * (size_t)DIGEST_SIZE);
    *out = info;
    return 0;
}

/* A difference from anything else decodes to something, so the bases are compared first. */
static int bases_check(const struct frame_info *info, const struct frame_bases *bases)
{
    if (!info->payload_bytes)
        return error_set(E_CORRUPT, "frame: a difference without a payload");
    if (!bases || !bases_fit(bases, info->payload_bytes) ||
        !digest_equal(&bases->digest1, &info->bases[0]))
        return error_set(E_CORRUPT, "frame: a difference from another payload");
    if (info->base_count > 1 &&
        (!bases->x0.data || !digest_equal(&bases->digest0, &info->bases[1])))
        return error_set(E_CORRUPT, "frame: a difference from another second payload");
    if (info->depth != bases->depth + 1)
        return error_set(
            E_CORRUPT, "frame: depth %u behind one of depth %u", info->depth, bases->depth
        );
    return 0;
}

static int decode_difference(
    struct buf *payload,
    struct bytes body,
    const struct frame_info *info,
    const struct frame_vector *vectors,
    size_t count,
    const struct frame_bases *bases
)
{
    const struct delta_bases from = {bases->x1.data, info->base_count > 1 ? bases->x0.data : NULL};

    return delta_decode(payload->data, body, &from, vectors, count);
}

static int decode_raw(struct buf *payload, struct bytes body)
{
    if (body.len != payload->len)
        return error_set(E_CORRUPT, "frame: body of %zu bytes, not %zu", body.len, payload->len);
    if (body.len)
        memcpy(payload->data, body.data, body.len);
    return 0;
}

int frame_decode(
    struct buf *out,
    struct bytes frame,
    const struct frame_vector *vectors,
    size_t count,
    const struct frame_bases *bases
)
{
    AUTO_BUF(payload);
    struct frame_info info;
    struct digest digest;
    uint64_t bytes;
    int err;

    if ((err = frame_inspect(&info, frame)) < 0 ||
        (err = frame_vectors_check(&bytes, vectors, count, E_CORRUPT)) < 0)
        return err;
    if (bytes != info.payload_bytes)
        return error_set(E_CORRUPT, "frame: the payload does not fit the layout");
    if (info.codec == CODEC_DELTA && (err = bases_check(&info, bases)) < 0)
        return err;
    size_t head = HEADER_BYTES + info.base_count * (size_t)DIGEST_SIZE;
    const struct bytes body = {frame.data + head, frame.len - head};
    if ((err = buf_reserve(&payload, (size_t)bytes)) < 0)
        return err;
    payload.len = (size_t)bytes; /* whichever codec it is, it fills all of them or fails */
    if (info.codec == CODEC_RAW)
        err = decode_raw(&payload, body);
    else if (info.codec == CODEC_PLANES)
        err = frame_planes_decode(&payload, body, vectors, count);
    else
        err = decode_difference(&payload, body, &info, vectors, count, bases);
    if (err < 0 || (err = digest_of(&digest, buf_bytes(&payload))) < 0)
        return err;
    if (!digest_equal(&digest, &info.payload))
        return error_set(E_CORRUPT, "frame: the payload is not the one that it names");
    *out = buf_take(&payload);
    return 0;
}
