/* Packs of whole objects. See oci_pack.h. */
#include "store/oci_pack.h"

#include <string.h>

#include <zlib.h>

#include "format/limits.h"
#include "store/pack_index.h"
#include "store/sha1.h"

#define HEADER  12u
#define PORTION ((size_t)64 << 10)

void oci_pack_writer_release(struct oci_pack_writer *writer)
{
    buf_release(&writer->pack);
}

/* Writing */

static int header_put(struct buf *out)
{
    int err;

    if ((err = buf_append_text(out, "PACK")) < 0 || (err = append_be32(out, 2)) < 0)
        return err;
    return append_be32(out, 0); /* the number of objects, in the end */
}

/* Three bits of type, then the size in groups of 4, 7, 7 ... bits, the lowest first. */
static int object_header_put(struct buf *out, git_object_t type, uint64_t size)
{
    uint8_t byte = (uint8_t)((unsigned)type << 4 | (size & 15));
    int err = 0;

    for (size >>= 4; err == 0 && size; size >>= 7) {
        err = buf_append_byte(out, byte | 0x80);
        byte = size & 0x7f;
    }
    return err < 0 ? err : buf_append_byte(out, byte);
}

int oci_pack_add(struct oci_pack_writer *writer, git_object_t type, struct bytes data)
{
    struct buf *out = &writer->pack;
    uLong most = compressBound((uLong)data.len);
    int err = out->len ? 0 : header_put(out);

    if (err < 0 || (err = object_header_put(out, type, data.len)) < 0 ||
        (err = buf_reserve(out, most)) < 0)
        return err;
    if (compress2(out->data + out->len, &most, data.data, (uLong)data.len, Z_BEST_COMPRESSION) !=
        Z_OK)
        return error_set(E_NOMEM, "zlib has no memory");
    out->len += most;
    writer->count++;
    return 0;
}

int oci_pack_end(struct buf *out, struct oci_pack_writer *writer)
{
    struct buf *pack = &writer->pack;
    uint8_t sha1[SHA1_SIZE];
    int err = pack->len ? 0 : header_put(pack);

    if (err < 0)
        return err;
    for (unsigned i = 0; i < 4; i++)
        pack->data[8 + i] = (uint8_t)(writer->count >> (24 - 8 * i));
    if ((err = sha1_of(sha1, buf_bytes(pack))) < 0 || (err = buf_append(pack, sha1, SHA1_SIZE)) < 0)
        return err;
    *out = buf_take(pack);
    return 0;
}

/* Reading */

static int damaged(const char *why)
{
    return error_set(E_CORRUPT, "a pack from a registry: %s", why);
}

static int object_header_take(git_object_t *type, uint64_t *size, struct bytes *rest)
{
    unsigned shift = 4;

    if (!rest->len)
        return damaged("ends too early");
    uint8_t byte = rest->data[0];
    size_t at = 1;
    *type = (git_object_t)(byte >> 4 & 7);
    *size = byte & 15;
    for (; byte & 0x80; shift += 7) {
        if (at == rest->len || shift > 32)
            return damaged("an object's header is none");
        byte = rest->data[at++];
        *size |= (uint64_t)(byte & 0x7f) << shift;
    }
    *rest = (struct bytes){rest->data + at, rest->len - at};
    if (*type == GIT_OBJECT_OFS_DELTA || *type == GIT_OBJECT_REF_DELTA)
        return error_set(E_UNSUPPORTED, "a pack from a registry: holds differences");
    if (*type < GIT_OBJECT_COMMIT || *type > GIT_OBJECT_TAG)
        return damaged("an object of no type");
    return *size <= LIMIT_FILE
               ? 0
               : error_set(
                     E_LIMIT, "a pack from a registry: an object of more than %llu bytes",
                     (unsigned long long)LIMIT_FILE
                 );
}

/* Grows as bytes come out, so that a claimed size takes no memory by itself. */
static int object_inflate(struct buf *out, struct bytes *rest, z_stream *stream, uint64_t size)
{
    int code = Z_OK, err = 0;

    stream->next_in = (Bytef *)(uintptr_t)rest->data;
    stream->avail_in = rest->len < UINT32_MAX ? (uInt)rest->len : UINT32_MAX;
    while (code == Z_OK) {
        /* One byte more than there may be, so that too much is seen. */
        uint64_t left = size - out->len + 1;
        uInt room = (uInt)(left < PORTION ? left : PORTION);
        if ((err = buf_reserve(out, room)) < 0 || (err = interrupt_check()) < 0)
            return err;
        stream->next_out = out->data + out->len;
        stream->avail_out = room;
        code = inflate(stream, Z_NO_FLUSH);
        out->len += room - stream->avail_out;
        if (out->len > size)
            break;
    }
    if (code != Z_STREAM_END || out->len != size)
        return damaged("an object does not inflate to what its header says");
    size_t taken = (size_t)(stream->next_in - rest->data);
    *rest = (struct bytes){rest->data + taken, rest->len - taken};
    return 0;
}

static int object_take(git_object_t *type, struct buf *out, struct bytes *rest, uint64_t limit)
{
    z_stream stream = {0};
    uint64_t size = 0;

    int err = object_header_take(type, &size, rest);
    if (err < 0)
        return err;
    if (size > limit)
        return error_set(E_LIMIT, "a pack from a registry: holds more than is taken at once");
    if (inflateInit(&stream) != Z_OK)
        return error_set(E_NOMEM, "zlib has no memory");
    out->len = 0;
    err = object_inflate(out, rest, &stream, size);
    inflateEnd(&stream);
    return err;
}

int oci_pack_decode(
    struct bytes pack,
    uint64_t limit,
    int (*visit)(void *context, git_object_t type, struct bytes data),
    void *context
)
{
    uint8_t sha1[SHA1_SIZE];
    AUTO_BUF(object);

    if (pack.len < HEADER + SHA1_SIZE || memcmp(pack.data, "PACK\0\0\0\2", 8) != 0)
        return damaged("is none");
    size_t end = pack.len - SHA1_SIZE;
    int err = sha1_of(sha1, (struct bytes){pack.data, end});
    if (err < 0)
        return err;
    if (memcmp(sha1, pack.data + end, SHA1_SIZE) != 0)
        return damaged("its SHA-1 is another");
    struct bytes rest = {pack.data + HEADER, end - HEADER};
    for (uint32_t left = read_be32(pack.data + 8); left; left--) {
        git_object_t type = GIT_OBJECT_INVALID;
        if ((err = object_take(&type, &object, &rest, limit)) < 0 ||
            (err = visit(context, type, buf_bytes(&object))) < 0)
            return err;
        limit -= object.len;
    }
    return rest.len ? damaged("more than its objects") : 0;
}
