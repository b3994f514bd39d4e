/*
 * The index of a pack: which objects are in it, and where. Version 2, gitformat-pack(5), all
 * integers big-endian:
 *
 *   OFFSET          SIZE   FIELD
 *   0               8      ff 't' 'O' 'c', 2
 *   8               1024   for each first byte of an id, the number of ids up to it; the last: n
 *   1032            20 n   ids in order
 *   1032 + 20 n     4 n    CRC-32 of each object's part of the pack
 *   1032 + 24 n     4 n    offsets in the pack; where the top bit is set, an index into
 *   1032 + 28 n     8 m    large offsets
 *                   20     SHA-1 of the pack, its last 20 bytes
 *                   20     SHA-1 of all this
 */
#ifndef STORE_PACK_INDEX_H
#define STORE_PACK_INDEX_H

#include "store/internal.h"
#include "store/sha1.h"

struct pack_entry {
    git_oid id;
    uint32_t crc;
    uint64_t offset;
};

struct pack_index {
    struct pack_entry *entries; /* in order of id */
    size_t count;
    uint8_t pack_sha1[SHA1_SIZE];
};

#define AUTO_PACK_INDEX(name)                                                                      \
    __attribute__((cleanup(pack_index_release))) struct pack_index name = {0}
void pack_index_release(struct pack_index *index);

/* E_CORRUPT for what is none; its own SHA-1 is not compared. `path` words the error. */
MUST_CHECK int pack_index_decode(struct pack_index *out, struct bytes data, const char *path);

/* Sorts the entries. */
MUST_CHECK int pack_index_encode(struct buf *out, struct pack_index *index);

/* How all of git's binary files begin, and their integers. */
uint32_t read_be32(const uint8_t *data);
MUST_CHECK int append_be32(struct buf *out, uint32_t value);

#endif
