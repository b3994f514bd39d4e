#include "store/pack_index.h"

#include <stdlib.h>
#include <string.h>

#define HEADER  1032u
#define TRAILER 40u
#define LARGE   0x80000000u

static const uint8_t magic[8] = {0xff, 't', 'O', 'c', 0, 0, 0, 2};

void pack_index_release(struct pack_index *index)
{
    free(index->entries);
    *index = (struct pack_index){0};
}

uint32_t read_be32(const uint8_t *data)
{
    return (uint32_t)data[0] << 24 | (uint32_t)data[1] << 16 | (uint32_t)data[2] << 8 | data[3];
}

int append_be32(struct buf *out, uint32_t value)
{
    const uint8_t bytes[4] = {
        (uint8_t)(value >> 24), (uint8_t)(value >> 16), (uint8_t)(value >> 8), (uint8_t)value};

    return buf_append(out, bytes, sizeof(bytes));
}

/* Reading */

static bool offset_read(uint64_t *out, struct bytes data, size_t count, size_t i)
{
    uint32_t offset = read_be32(data.data + HEADER + 24 * count + 4 * i);

    *out = offset;
    if (!(offset & LARGE))
        return true;
    size_t at = HEADER + 28 * count + 8 * (size_t)(offset & ~LARGE);
    if (at + 8 > data.len - TRAILER)
        return false;
    *out = (uint64_t)read_be32(data.data + at) << 32 | read_be32(data.data + at + 4);
    return true;
}

static bool is_whole(size_t *out_count, struct bytes data)
{
    if (data.len < HEADER + TRAILER || memcmp(data.data, magic, sizeof(magic)) != 0)
        return false;
    *out_count = read_be32(data.data + HEADER - 4);
    return *out_count <= (data.len - HEADER - TRAILER) / 28;
}

int pack_index_decode(struct pack_index *out, struct bytes data, const char *path)
{
    AUTO_PACK_INDEX(index);
    size_t count;

    if (!is_whole(&count, data))
        return error_set(E_CORRUPT, "%s: no pack index of version 2", path);
    if (!(index.entries = array_new(count, sizeof(*index.entries))))
        return error_wrap(E_NOMEM, "%s", path);
    for (size_t i = 0; i < count; i++) {
        struct pack_entry *entry = &index.entries[i];
        git_oid_fromraw(&entry->id, data.data + HEADER + 20 * i);
        entry->crc = read_be32(data.data + HEADER + 20 * count + 4 * i);
        if (!offset_read(&entry->offset, data, count, i))
            return error_set(E_CORRUPT, "%s: an offset behind its end", path);
    }
    index.count = count;
    memcpy(index.pack_sha1, data.data + data.len - TRAILER, SHA1_SIZE);
    *out = index;
    index = (struct pack_index){0};
    return 0;
}

/* Writing */

static int entry_compare(const void *a, const void *b)
{
    return git_oid_cmp(&((const struct pack_entry *)a)->id, &((const struct pack_entry *)b)->id);
}

static int fanout_append(struct buf *out, const struct pack_index *index)
{
    size_t at = 0;
    int err = 0;

    for (unsigned byte = 0; err == 0 && byte < 256; byte++) {
        while (at < index->count && index->entries[at].id.id[0] == byte)
            at++;
        err = append_be32(out, (uint32_t)at);
    }
    return err;
}

static int offsets_append(struct buf *out, const struct pack_index *index)
{
    uint32_t large = 0;
    int err = 0;

    for (size_t i = 0; err == 0 && i < index->count; i++) {
        uint64_t offset = index->entries[i].offset;
        err = append_be32(out, offset < LARGE ? (uint32_t)offset : LARGE | large++);
    }
    for (size_t i = 0; err == 0 && i < index->count; i++) {
        uint64_t offset = index->entries[i].offset;
        if (offset < LARGE)
            continue;
        if ((err = append_be32(out, (uint32_t)(offset >> 32))) == 0)
            err = append_be32(out, (uint32_t)offset);
    }
    return err;
}

int pack_index_encode(struct buf *out, struct pack_index *index)
{
    AUTO_BUF(data);
    uint8_t sha1[SHA1_SIZE];
    int err;

    if (index->count)
        qsort(index->entries, index->count, sizeof(*index->entries), entry_compare);
    if ((err = buf_append(&data, magic, sizeof(magic))) < 0 ||
        (err = fanout_append(&data, index)) < 0)
        return err;
    for (size_t i = 0; err == 0 && i < index->count; i++)
        err = buf_append(&data, index->entries[i].id.id, GIT_OID_RAWSZ);
    for (size_t i = 0; err == 0 && i < index->count; i++)
        err = append_be32(&data, index->entries[i].crc);
    if (err < 0 || (err = offsets_append(&data, index)) < 0 ||
        (err = buf_append(&data, index->pack_sha1, SHA1_SIZE)) < 0 ||
        (err = sha1_of(sha1, buf_bytes(&data))) < 0 ||
        (err = buf_append(&data, sha1, SHA1_SIZE)) < 0)
        return err;
    *out = buf_take(&data);
    return 0;
}
