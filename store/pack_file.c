#include "store/pack_file.h"

#include <assert.h>
#include <stdlib.h>
#include <string.h>
#include <zlib.h>

#include "format/file.h"
#include "format/limits.h"

#define HEADER        12u
#define PORTION       (256 * KIB)
#define MODE          0444
#define INDEX_AT_MOST (2 * GIB)

void pack_file_release(struct pack_file *file)
{
    fd_release(&file->fd);
    free(file->path);
    buf_release(&file->held);
    sha1_release(&file->sha1);
    pack_index_release(&file->index);
}

static int path_of(char **out, const char *path, const char *suffix)
{
    AUTO_BUF(text);

    int err = buf_printf(&text, "%s%s", path, suffix);
    if (err == 0)
        *out = (char *)buf_take(&text).data;
    return err;
}

static int flush(struct pack_file *file)
{
    int err = fd_write_all(file->fd, file->held.data, file->held.len, file->path);

    file->held.len = 0;
    return err;
}

static int put(struct pack_file *file, const void *data, size_t len)
{
    int err = sha1_update(&file->sha1, data, len);

    if (err == 0 && file->held.len + len > PORTION)
        err = flush(file);
    file->bytes += len;
    return err < 0 ? err : buf_append(&file->held, data, len);
}

int pack_file_begin(struct pack_file *out, const char *path, size_t count)
{
    AUTO_PACK_FILE(file);
    AUTO_FREE(char, pack);
    AUTO_BUF(header);
    int err;

    if (count > UINT32_MAX)
        return error_set(E_LIMIT, "%s: %zu objects are too many for a pack", path, count);
    file.expected = count;
    if (!(file.path = bytes_dup(text_bytes(path))) ||
        !(file.index.entries = array_new(count, sizeof(*file.index.entries))))
        return error_wrap(E_NOMEM, "%s", path);
    if ((err = path_of(&pack, path, ".pack")) < 0 ||
        (err = file_create(&file.fd, pack, MODE)) < 0 || (err = sha1_init(&file.sha1)) < 0 ||
        (err = buf_append_text(&header, "PACK")) < 0 || (err = append_be32(&header, 2)) < 0 ||
        (err = append_be32(&header, (uint32_t)count)) < 0 ||
        (err = put(&file, header.data, header.len)) < 0)
        return err;
    *out = file;
    file = (struct pack_file){.fd = -1};
    return 0;
}

/* One object */

/* Three bits of type, then the size in groups of 4, 7, 7 ... bits, the lowest first. */
static size_t entry_header(uint8_t out[16], git_object_t type, uint64_t size)
{
    uint8_t byte = (uint8_t)((unsigned)type << 4 | (size & 15));
    size_t n = 0;

    for (size >>= 4; size; size >>= 7) {
        out[n++] = byte | 0x80;
        byte = size & 0x7f;
    }
    out[n++] = byte;
    return n;
}

static int entry_put(struct pack_file *file, uint32_t *crc, const uint8_t *data, size_t len)
{
    *crc = (uint32_t)crc32(*crc, data, (uInt)len);
    return put(file, data, len);
}

/* zlib counts its input in 32 bits; objects have at most 2 GiB, but others may have written it. */
static int deflate_all(struct pack_file *file, uint32_t *crc, z_stream *stream, struct bytes data)
{
    AUTO_BUF(out);
    size_t at = 0;
    int code = Z_OK, err = buf_resize(&out, PORTION);

    while (err == 0 && code != Z_STREAM_END) {
        size_t len = data.len - at < GIB ? data.len - at : GIB;
        if (stream->avail_in == 0) {
            stream->next_in = (Bytef *)(uintptr_t)(data.data + at);
            stream->avail_in = (uInt)len;
            at += len;
        }
        stream->next_out = out.data;
        stream->avail_out = PORTION;
        code = deflate(stream, at == data.len ? Z_FINISH : Z_NO_FLUSH);
        if ((err = entry_put(file, crc, out.data, PORTION - stream->avail_out)) == 0)
            err = interrupt_check();
    }
    return err;
}

int pack_file_add(
    struct pack_file *file, const git_oid *id, git_object_t type, struct bytes data, int level
)
{
    struct pack_entry entry = {.id = *id, .offset = file->bytes};
    z_stream stream = {0};
    uint8_t header[16];

    assert(file->index.count < file->expected);
    int err = entry_put(file, &entry.crc, header, entry_header(header, type, data.len));
    if (err < 0)
        return err;
    if (deflateInit(&stream, level) != Z_OK)
        return error_set(E_NOMEM, "zlib has no memory");
    err = deflate_all(file, &entry.crc, &stream, data);
    deflateEnd(&stream);
    if (err == 0)
        file->index.entries[file->index.count++] = entry;
    return err;
}

/* Other packs */

/* What is behind the header, up to the SHA-1, which is compared. */
static int body_copy(struct pack_file *file, int fd, uint64_t bytes, const char *path)
{
    AUTO_SHA1(sha1);
    AUTO_BUF(data);
    uint8_t is[SHA1_SIZE], wanted[SHA1_SIZE];
    uint64_t end = bytes - SHA1_SIZE;
    int err = sha1_init(&sha1);

    if (err < 0 || (err = buf_resize(&data, PORTION)) < 0)
        return err;
    for (uint64_t at = 0; err == 0 && at < end; at += data.len) {
        size_t skip = at ? 0 : HEADER;
        data.len = end - at < PORTION ? (size_t)(end - at) : PORTION;
        if ((err = file_read_at(fd, data.data, data.len, at, path)) == 0 &&
            (err = sha1_update(&sha1, data.data, data.len)) == 0 &&
            (err = put(file, data.data + skip, data.len - skip)) == 0)
            err = interrupt_check();
    }
    if (err < 0 || (err = file_read_at(fd, wanted, SHA1_SIZE, end, path)) < 0 ||
        (err = sha1_final(is, &sha1)) < 0)
        return err;
    if (memcmp(is, wanted, SHA1_SIZE) != 0)
        return error_set(E_CORRUPT, "%s: is damaged: its SHA-1 is another", path);
    return 0;
}

static void entries_copy(struct pack_file *file, const struct pack_index *index, uint64_t shift)
{
    assert(index->count <= file->expected - file->index.count);
    for (size_t i = 0; i < index->count; i++) {
        struct pack_entry *entry = &file->index.entries[file->index.count++];
        *entry = index->entries[i];
        entry->offset += shift - HEADER;
    }
}

int pack_file_add_pack(struct pack_file *file, const char *path)
{
    AUTO_PACK_INDEX(index);
    AUTO_FREE(char, pack_path);
    AUTO_FREE(char, index_path);
    AUTO_BUF(data);
    AUTO_FD(fd);
    uint64_t bytes, begin = file->bytes;
    int err;

    if ((err = path_of(&pack_path, path, ".pack")) < 0 ||
        (err = path_of(&index_path, path, ".idx")) < 0 ||
        (err = file_read(&data, index_path, INDEX_AT_MOST)) < 0 ||
        (err = pack_index_decode(&index, buf_bytes(&data), index_path)) < 0 ||
        (err = file_open(&fd, &bytes, pack_path)) < 0)
        return err;
    if (bytes < HEADER + SHA1_SIZE)
        return error_set(E_CORRUPT, "%s: too short for a pack", pack_path);
    if ((err = body_copy(file, fd, bytes, pack_path)) < 0)
        return err;
    entries_copy(file, &index, begin);
    return 0;
}

int pack_file_end(struct pack_file *file)
{
    AUTO_FREE(char, path);
    AUTO_BUF(index);
    AUTO_FD(fd);
    int err;

    assert(file->index.count == file->expected);
    if ((err = sha1_final(file->index.pack_sha1, &file->sha1)) < 0 ||
        (err = buf_append(&file->held, file->index.pack_sha1, SHA1_SIZE)) < 0 ||
        (err = flush(file)) < 0 || (err = fd_sync(file->fd, file->path)) < 0 ||
        (err = pack_index_encode(&index, &file->index)) < 0 ||
        (err = path_of(&path, file->path, ".idx")) < 0 ||
        (err = file_create(&fd, path, MODE)) < 0 ||
        (err = fd_write_all(fd, index.data, index.len, path)) < 0)
        return err;
    return fd_sync(fd, path);
}
