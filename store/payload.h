/*
 * The payload of a version: the frames of its vectors/, and, where they are differences, those of
 * vectors/base, vectors/base/base … up to the whole ones.
 */
#ifndef STORE_PAYLOAD_H
#define STORE_PAYLOAD_H

#include "store/internal.h"

/* The trees of one vectors/ and of what it stands on, as far as they were needed so far. */
struct chain;

/* Of a version whose payload has this layout, which must outlive it. Nothing but the first tree is
   read. */
MUST_CHECK int chain_open(
    struct chain **out,
    struct store *store,
    const git_oid *vectors,
    const struct safetensors *layout
);
void chain_release(struct chain **chain);
#define AUTO_CHAIN(name) __attribute__((cleanup(chain_release))) struct chain *name = NULL
const struct frame_parts *chain_parts(const struct chain *chain);

/* One part of a payload, and what the next frame may be a difference from besides. */
struct payload_part {
    struct buf bytes;
    struct digest digest;
    struct buf base; /* what vectors/base holds; empty where the depth is 0 */
    struct digest base_digest;
    unsigned depth; /* of its frame */
};
#define AUTO_PART(name)                                                                            \
    __attribute__((cleanup(payload_part_release))) struct payload_part name = {0}
void payload_part_release(struct payload_part *part);

/* Decode one part's frames from the whole one on: memory is three times the part and two frames,
   whatever the depth. A part whose frame is deeper than `depth_max` is left empty, its depth set.
   E_CORRUPT naming the object; E_LIMIT above LIMIT_FRAME_DEPTH; E_UNSUPPORTED for a newer program's
   frames. May be called from several threads. */
MUST_CHECK int
chain_read(struct payload_part *out, struct chain *chain, size_t part, unsigned depth_max);

/* Once all parts were read: E_CORRUPT where there is a base that no frame needs. */
MUST_CHECK int chain_check(const struct chain *chain);

/* Every object that was read of it belongs to what is written now: it is touched, and synced with
   the rest. */
MUST_CHECK int chain_keep(const struct chain *chain, struct objects *objects);

/* The whole payload, by as many threads as there are cores. */
MUST_CHECK int payload_read(struct buf *out, struct chain *chain);

/* What its frames are and take, without decoding them: codec and depth of the first one. */
MUST_CHECK int
vectors_summary(struct frame_summary *out, struct store *store, const git_oid *vectors);

/* vectors_write.c: the vectors/ of a new version. Where a version anywhere in the repository has
   this payload in this layout, its tree; else new frames, differences from those of `parent` (or
   NULL) where that pays. `parent_only`: no other version's tree is taken. */
MUST_CHECK int vectors_write(
    git_oid *out,
    struct frame_summary *frame,
    struct objects *objects,
    struct store *store,
    const struct loaded_adapter *loaded,
    const struct commit_id *parent,
    bool parent_only
);

/* "frame", "frame.1", ... */
#define FRAME_NAME_SIZE 32
void frame_name(char out[FRAME_NAME_SIZE], size_t part);

#endif
