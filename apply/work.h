/*
 * The work of writing a merged model, cut into pieces: what one thread does at a time, and what is
 * dealt out between processes (--part). A tensor that changes is one piece, so its SHA-256 is taken
 * by one process; what lies between is cut every few megabytes.
 *
 * Pieces are in the order of the files, which is kindest to a disk, and a process takes a run of
 * them: where its share of the work begins and ends follows from the model, the adapters and the
 * number of parts alone.
 */
#ifndef APPLY_WORK_H
#define APPLY_WORK_H

#include "apply/output.h"

/* `number` of a piece of one of the base's shards is an index of rewrites->tensors, or one of
   these; of a piece of the added tensors' file an index of rewrites->added, or the header. */
#define PIECE_STAYS  SIZE_MAX /* bytes that are the base's */
#define PIECE_HEADER (SIZE_MAX - 1)

struct piece {
    uint64_t begin, end; /* in the file */
    size_t shard;        /* of output->shards */
    size_t number;
    uint64_t middle; /* of all work that comes before it and half of its own */
};

struct work {
    const struct rewrites *rewrites;
    const struct output *output;
    struct piece *pieces;
    size_t count;
    uint64_t total;
};

#define AUTO_WORK(name) __attribute__((cleanup(work_release))) struct work name = {0}

MUST_CHECK int
work_init(struct work *out, const struct rewrites *rewrites, const struct output *output);
void work_release(struct work *work);

/* Pieces [*begin, *end) are part `part` of `parts`, 1 or more. Some have none where there are more
   parts than pieces; every piece belongs to one. */
void work_share(size_t *begin, size_t *end, const struct work *work, uint64_t part, uint64_t parts);

/* Where the pieces of the shard that `begin` belongs to end: `end` at the latest. */
size_t work_shard_end(const struct work *work, size_t begin, size_t end);

/* Bytes of pieces [begin, end). */
uint64_t work_bytes(const struct work *work, size_t begin, size_t end);

/* What counts of pieces [begin, end): matched, tensors_rewritten, tensors_added. */
void work_count(struct apply_result *out, const struct work *work, size_t begin, size_t end);

/* Of all pieces and of whose they are: two processes that agree on it leave nothing out. */
MUST_CHECK int work_digest(struct digest *out, const struct work *work, uint64_t parts);

#endif
