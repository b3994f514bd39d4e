/* How large the repository's files are, and each object among them. */
#ifndef STORE_SIZES_H
#define STORE_SIZES_H

#include "store/id_set.h"

struct sizes {
    uint64_t bytes, allocated_bytes;  /* of all files below .vera; with their folders' blocks */
    uint64_t index_bytes, refs_bytes; /* of `bytes`: the index; refs and reflogs */
    uint64_t objects_bytes;           /* of `bytes`: what object_bytes adds up to */
    struct id_set ids;
    uint64_t *object_bytes; /* by index in ids: of its file, or of its part of a pack */
    size_t capacity;
};

#define AUTO_SIZES(name) __attribute__((cleanup(sizes_release))) struct sizes name = {0}
/* E_CORRUPT for a pack's index that cannot be read. */
MUST_CHECK int sizes_read(struct sizes *out, struct store *store);
void sizes_release(struct sizes *sizes);

/* 0 for an object that is not among them (borrowed from another repository). */
uint64_t sizes_of(const struct sizes *sizes, const git_oid *id);

#endif
