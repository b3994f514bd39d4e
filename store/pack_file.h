/*
 * A pack, written from its first byte to its last (gitformat-pack(5)): "PACK", version 2 and the
 * number of objects, big-endian; for each object its type and size, and a zlib stream; the SHA-1 of
 * all that.
 *
 * libgit2's own builder tries each object as a difference from others; for frames, which have no
 * common bytes, that is lost time and memory, and it cannot be told so. So it gets the small
 * objects, and its pack is a part of ours; so are whole packs that are joined.
 */
#ifndef STORE_PACK_FILE_H
#define STORE_PACK_FILE_H

#include "store/pack_index.h"

struct pack_file {
    char *path; /* without ".pack", owned */
    int fd;
    uint64_t bytes;  /* so far */
    struct buf held; /* the last of them, not yet written */
    struct sha1 sha1;
    struct pack_index index; /* in order of arrival */
    size_t expected;
};

#define AUTO_PACK_FILE(name)                                                                       \
    __attribute__((cleanup(pack_file_release))) struct pack_file name = {.fd = -1}
void pack_file_release(struct pack_file *file);

/* "<path>.pack", which must not be there, of so many objects. */
MUST_CHECK int pack_file_begin(struct pack_file *out, const char *path, size_t count);

/* One object, whole. `level` is zlib's; 0: as it is. */
MUST_CHECK int pack_file_add(
    struct pack_file *file, const git_oid *id, git_object_t type, struct bytes data, int level
);

/* Every object of another pack, "<path>.pack" with its index, as they are there. Its SHA-1 is
   compared on the way: E_CORRUPT. */
MUST_CHECK int pack_file_add_pack(struct pack_file *file, const char *path);

/* Write the SHA-1 and "<path>.idx", and sync both. */
MUST_CHECK int pack_file_end(struct pack_file *file);

#endif
