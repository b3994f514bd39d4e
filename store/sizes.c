/*
 * An object is a file of its own (objects/<2>/<38>), or a part of a pack. libgit2 does not tell
 * where in a pack, so its index is read here (version 2, gitformat-pack(5), all integers
 * big-endian):
 *
 *   OFFSET          SIZE   FIELD
 *   0               8      ff 't' 'O' 'c', 2
 *   8               1024   for each first byte of an id, the number of ids up to it; the last: n
 *   1032            20 n   ids in order
 *   1032 + 20 n     4 n    checksums
 *   1032 + 24 n     4 n    offsets in the pack; where the top bit is set, an index into
 *   1032 + 28 n     8 m    large offsets
 *                   40     SHA-1 of the pack, SHA-1 of this file
 *
 * An object's part ends where the next one's begins; the last one's where the pack's SHA-1 does.
 */
#include "store/sizes.h"

#include <stdlib.h>
#include <string.h>

#include "format/file.h"
#include "format/limits.h"

#define INDEX_HEADER  1032u
#define INDEX_TRAILER 40u
#define PACK_TRAILER  20u

void sizes_release(struct sizes *sizes)
{
    id_set_release(&sizes->ids);
    free(sizes->object_bytes);
    *sizes = (struct sizes){0};
}

uint64_t sizes_of(const struct sizes *sizes, const git_oid *id)
{
    size_t index;

    return id_set_find(&index, &sizes->ids, id) ? sizes->object_bytes[index] : 0;
}

static int size_add(struct sizes *sizes, const git_oid *id, uint64_t bytes)
{
    size_t index;

    int err = id_set_add(&index, NULL, &sizes->ids, id);
    if (err < 0)
        return err;
    err = array_grow(
        &sizes->object_bytes, &sizes->capacity, sizes->ids.count, sizeof(*sizes->object_bytes)
    );
    if (err == 0)
        sizes->object_bytes[index] += bytes; /* loose and packed: it takes both */
    return err;
}

/* Packs */

static uint32_t read_be32(const uint8_t *data)
{
    return (uint32_t)data[0] << 24 | (uint32_t)data[1] << 16 | (uint32_t)data[2] << 8 | data[3];
}

struct packed {
    uint64_t offset;
    uint32_t index; /* of its id */
};

static int packed_compare(const void *a, const void *b)
{
    const struct packed *left = a, *right = b;

    return (left->offset > right->offset) - (left->offset < right->offset);
}

static bool offset_read(uint64_t *out, struct bytes index, size_t count, size_t i)
{
    size_t large = INDEX_HEADER + 28 * count;
    uint32_t offset = read_be32(index.data + INDEX_HEADER + 24 * count + 4 * i);

    *out = offset;
    if (!(offset & 0x80000000u))
        return true;
    size_t at = large + 8 * (size_t)(offset & 0x7fffffffu);
    if (at + 8 > index.len - INDEX_TRAILER)
        return false;
    *out = (uint64_t)read_be32(index.data + at) << 32 | read_be32(index.data + at + 4);
    return true;
}

static bool index_is_whole(size_t *out_count, struct bytes index)
{
    static const uint8_t magic[8] = {0xff, 't', 'O', 'c', 0, 0, 0, 2};

    if (index.len < INDEX_HEADER + INDEX_TRAILER || memcmp(index.data, magic, 8) != 0)
        return false;
    *out_count = read_be32(index.data + INDEX_HEADER - 4);
    return *out_count <= (index.len - INDEX_HEADER - INDEX_TRAILER) / 28;
}

static int
index_take(struct sizes *sizes, struct bytes index, uint64_t pack_bytes, const char *path)
{
    size_t count;

    if (!index_is_whole(&count, index))
        return error_set(E_CORRUPT, "%s: no pack index of version 2", path);
    AUTO_FREE(struct packed, list);
    if (!(list = array_new(count, sizeof(*list))))
        return error_wrap(E_NOMEM, "%s", path);
    for (size_t i = 0; i < count; i++) {
        list[i].index = (uint32_t)i;
        if (!offset_read(&list[i].offset, index, count, i))
            return error_set(E_CORRUPT, "%s: an offset behind its end", path);
    }
    qsort(list, count, sizeof(*list), packed_compare);
    uint64_t end = pack_bytes > PACK_TRAILER ? pack_bytes - PACK_TRAILER : 0;
    for (size_t i = count; i-- > 0; end = list[i].offset) {
        git_oid id;
        git_oid_fromraw(&id, index.data + INDEX_HEADER + 20 * (size_t)list[i].index);
        if (list[i].offset > end)
            return error_set(E_CORRUPT, "%s: an offset behind its pack's end", path);
        int err = size_add(sizes, &id, end - list[i].offset);
        if (err < 0)
            return err;
    }
    return 0;
}

static int pack_read(struct sizes *sizes, struct store *store, const char *index_path)
{
    AUTO_FREE(char, index_full);
    AUTO_FREE(char, pack_full);
    AUTO_BUF(index);
    AUTO_FD(fd);
    uint64_t pack_bytes;

    int err = path_join(&index_full, store_path(store), index_path);
    if (err < 0 || (err = path_join(&pack_full, store_path(store), index_path)) < 0)
        return err;
    memcpy(strrchr(pack_full, '.'), ".pack", strlen(".pack") + 1);
    if ((err = file_open(&fd, &pack_bytes, pack_full)) < 0)
        return err == E_NOTFOUND ? 0 : err;
    if ((err = file_read(&index, index_full, LIMIT_FILE)) < 0)
        return err;
    return index_take(sizes, buf_bytes(&index), pack_bytes, index_path);
}

/* Files */

struct sizes_walk {
    struct sizes *sizes;
    struct store *store;
};

static bool ends_with(const char *text, const char *end)
{
    size_t length = strlen(text), end_length = strlen(end);

    return length >= end_length && strcmp(text + length - end_length, end) == 0;
}

/* "objects/<2>/<38>" */
static bool loose_parse(git_oid *out, const char *path)
{
    char hex[GIT_OID_HEXSZ + 1];

    if (strlen(path) != 8 + 2 + 1 + 38 || memcmp(path, "objects/", 8) != 0 || path[10] != '/')
        return false;
    memcpy(hex, path + 8, 2);
    memcpy(hex + 2, path + 11, 39);
    return git_oid_fromstr(out, hex) == 0;
}

static int file_visit(void *context, const struct tree_file *file)
{
    struct sizes_walk *walk = context;
    git_oid id;

    walk->sizes->bytes += file->bytes;
    walk->sizes->allocated_bytes += file->allocated_bytes;
    if (file->is_directory)
        return 0;
    if (loose_parse(&id, file->path))
        return size_add(walk->sizes, &id, file->bytes);
    if (strncmp(file->path, "objects/pack/", 13) == 0 && ends_with(file->path, ".idx"))
        return pack_read(walk->sizes, walk->store, file->path);
    return 0;
}

int sizes_read(struct sizes *out, struct store *store)
{
    AUTO_SIZES(sizes);
    struct sizes_walk walk = {&sizes, store};

    int err = tree_each(store_path(store), file_visit, &walk);
    if (err < 0)
        return err;
    *out = sizes;
    sizes = (struct sizes){0};
    return 0;
}
