#include "format/plane.h"

#include <string.h>

#include <zstd.h>

#define LENGTH_BYTES 4

/* Of zstd. Level 19 takes off 1% of a first version and nothing of a difference (real adapters),
   for a hundred times the time: half of what a commit takes. */
#define LEVEL 1

enum plane_mode { PLANE_RAW, PLANE_ZSTD, PLANE_CONSTANT };

void plane_coder_release(struct plane_coder *coder)
{
    ZSTD_freeCCtx(coder->encoder);
    ZSTD_freeDCtx(coder->decoder);
    *coder = (struct plane_coder){0};
}

static bool is_constant(struct bytes plane)
{
    return memcmp(plane.data, plane.data + 1, plane.len - 1) == 0;
}

/* As one zstd frame of *len bytes; false where that does not pay. */
static bool compress(uint8_t *out, size_t *len, const struct plane_coder *coder, struct bytes plane)
{
    size_t bound = ZSTD_compressBound(plane.len);
    size_t got = ZSTD_compressCCtx(coder->encoder, out, bound, plane.data, plane.len, LEVEL);

    if (ZSTD_isError(got) || got + LENGTH_BYTES >= plane.len)
        return false;
    *len = got;
    return true;
}

int plane_encode(struct buf *out, struct plane_coder *coder, struct bytes plane)
{
    size_t head = 1 + LENGTH_BYTES, len;
    int err;

    if (!plane.len)
        return 0;
    if (is_constant(plane)) {
        const uint8_t stored[] = {PLANE_CONSTANT, plane.data[0]};
        return buf_append(out, stored, sizeof(stored));
    }
    if (!coder->encoder && !(coder->encoder = ZSTD_createCCtx()))
        return error_set(E_NOMEM, "out of memory for zstd");
    if ((err = buf_reserve(out, head + ZSTD_compressBound(plane.len))) < 0)
        return err;
    uint8_t *stored = out->data + out->len;
    if (compress(stored + head, &len, coder, plane)) {
        stored[0] = PLANE_ZSTD;
        for (unsigned i = 0; i < LENGTH_BYTES; i++)
            stored[1 + i] = (uint8_t)(len >> (8 * i));
        out->len += head + len;
    } else {
        stored[0] = PLANE_RAW;
        memcpy(stored + 1, plane.data, plane.len);
        out->len += 1 + plane.len;
    }
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

/* One zstd frame of exactly `n` bytes. A few stored bytes may claim any size, so the claim is
   checked first; the one-shot call would also take several frames. */
static int decompress(uint8_t *out, size_t n, struct plane_coder *coder, struct bytes *rest)
{
    size_t len = 0;
    int err;

    if ((err = need(rest, LENGTH_BYTES)) < 0)
        return err;
    for (unsigned i = 0; i < LENGTH_BYTES; i++)
        len |= (size_t)*take(rest, 1) << (8 * i);
    if ((err = need(rest, len)) < 0)
        return err;
    const uint8_t *stored = take(rest, len);
    if (len >= n || ZSTD_getFrameContentSize(stored, len) != n ||
        ZSTD_findFrameCompressedSize(stored, len) != len)
        return error_set(E_CORRUPT, "frame: a zstd plane of another size");
    if (!coder->decoder && !(coder->decoder = ZSTD_createDCtx()))
        return error_set(E_NOMEM, "frame: out of memory for zstd");
    if (ZSTD_decompressDCtx(coder->decoder, out, n, stored, len) != n)
        return error_set(E_CORRUPT, "frame: a zstd plane is damaged");
    return 0;
}

int plane_decode(uint8_t *out, size_t n, struct plane_coder *coder, struct bytes *rest)
{
    int err;

    if (!n)
        return 0;
    if ((err = need(rest, 1)) < 0)
        return err;
    unsigned mode = *take(rest, 1);
    switch (mode) {
    case PLANE_RAW:
        if ((err = need(rest, n)) == 0)
            memcpy(out, take(rest, n), n);
        return err;
    case PLANE_ZSTD:
        return decompress(out, n, coder, rest);
    case PLANE_CONSTANT:
        if ((err = need(rest, 1)) == 0)
            memset(out, *take(rest, 1), n);
        return err;
    default:
        return error_set(E_CORRUPT, "frame: a plane of mode %u", mode);
    }
}
