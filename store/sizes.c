/*
 * An object is a file of its own (objects/<2>/<38>), or a part of a pack, whose index tells where.
 * An object's part ends where the next one's begins; the last one's where the pack's SHA-1 does.
 */
#include "store/sizes.h"

#include <stdlib.h>
#include <string.h>

#include "format/file.h"
#include "format/limits.h"
#include "store/index.h"
#include "store/pack_index.h"

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
    if (err < 0)
        return err;
    sizes->object_bytes[index] += bytes; /* loose and packed: it takes both */
    sizes->objects_bytes += bytes;
    return 0;
}

/* Packs */

struct packed {
    uint64_t offset;
    uint32_t index; /* of its id */
};

static int packed_compare(const void *a, const void *b)
{
    const struct packed *left = a, *right = b;

    return (left->offset > right->offset) - (left->offset < right->offset);
}

static int index_take(
    struct sizes *sizes, const struct pack_index *index, uint64_t pack_bytes, const char *path
)
{
    AUTO_FREE(struct packed, list);
    size_t count = index->count;

    if (!(list = array_new(count, sizeof(*list))))
        return error_wrap(E_NOMEM, "%s", path);
    for (size_t i = 0; i < count; i++)
        list[i] = (struct packed){index->entries[i].offset, (uint32_t)i};
    if (count)
        qsort(list, count, sizeof(*list), packed_compare);
    uint64_t end = pack_bytes > SHA1_SIZE ? pack_bytes - SHA1_SIZE : 0;
    for (size_t i = count; i-- > 0; end = list[i].offset) {
        if (list[i].offset > end)
            return error_set(E_CORRUPT, "%s: an offset behind its pack's end", path);
        int err = size_add(sizes, &index->entries[list[i].index].id, end - list[i].offset);
        if (err < 0)
            return err;
    }
    return 0;
}

static int pack_read(struct sizes *sizes, struct store *store, const char *index_path)
{
    AUTO_FREE(char, index_full);
    AUTO_BUF(pack_full);
    AUTO_PACK_INDEX(index);
    AUTO_BUF(data);
    AUTO_FD(fd);
    uint64_t pack_bytes;

    int err = path_join(&index_full, store_path(store), index_path);
    if (err < 0)
        return err;
    int stem = (int)(strlen(index_full) - strlen(".idx"));
    if ((err = buf_printf(&pack_full, "%.*s.pack", stem, index_full)) < 0)
        return err;
    /* Either may be removed at this moment, since what is in it was packed anew. */
    if ((err = file_open(&fd, &pack_bytes, (const char *)pack_full.data)) < 0 ||
        (err = file_read(&data, index_full, LIMIT_FILE)) < 0)
        return err == E_NOTFOUND ? 0 : err;
    if ((err = pack_index_decode(&index, buf_bytes(&data), index_path)) < 0)
        return err;
    return index_take(sizes, &index, pack_bytes, index_path);
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

static bool begins_with(const char *text, const char *start)
{
    return strncmp(text, start, strlen(start)) == 0;
}

static bool is_of_refs(const char *path)
{
    return begins_with(path, "refs/") || begins_with(path, "logs/") ||
           strcmp(path, "packed-refs") == 0 || strcmp(path, "HEAD") == 0;
}

static int file_visit(void *context, const struct tree_file *file)
{
    struct sizes_walk *walk = context;
    git_oid id;

    walk->sizes->bytes += file->bytes;
    walk->sizes->allocated_bytes += file->allocated_bytes;
    if (file->is_directory)
        return 0;
    if (begins_with(file->path, INDEX_FILE)) /* and what sqlite has beside it */
        walk->sizes->index_bytes += file->bytes;
    if (is_of_refs(file->path))
        walk->sizes->refs_bytes += file->bytes;
    if (loose_parse(&id, file->path))
        return size_add(walk->sizes, &id, file->bytes);
    if (begins_with(file->path, "objects/pack/") && ends_with(file->path, ".idx"))
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
