/* The merged adapter_model.safetensors, put together from tensors. See merge_adapter.h for what its
   header is. */
#ifndef APPLY_MERGE_LAYOUT_H
#define APPLY_MERGE_LAYOUT_H

#include "apply/three_way.h"
#include "format/safetensors.h"

/* By name, in byte order. */
int tensor_order(const struct tensor *a, const struct tensor *b);
/* Of one type and shape. */
bool tensor_is_alike(const struct tensor *a, const struct tensor *b);

/* One tensor of the merge. */
struct piece {
    const struct tensor *tensor; /* its name, type and shape; borrowed, offsets do not count */
    struct bytes data;           /* borrowed, or what `owned` holds */
    struct buf owned;
};

struct pieces {
    struct piece *items;
    size_t count;
};

#define AUTO_PIECES(name) __attribute__((cleanup(pieces_release))) struct pieces name = {0}
/* Takes `owned` over where it is not NULL: then the data is its. */
MUST_CHECK int pieces_add(
    struct pieces *pieces, const struct tensor *tensor, struct bytes data, struct buf *owned
);
void pieces_release(struct pieces *pieces);

/* A version's model file and its header, decoded. */
struct layout {
    struct bytes file;
    const struct safetensors *table;
};

/* Bytes of one of its tensors. */
struct bytes layout_bytes(const struct layout *layout, const struct tensor *tensor);

/* Sorts the pieces. */
MUST_CHECK int layout_merge(
    struct buf *out,
    struct pieces *pieces,
    const struct layout *base,
    const struct layout *ours,
    const struct layout *theirs
);

#endif
