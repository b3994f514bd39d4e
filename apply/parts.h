/*
 * What the processes that make one merged model together (--part) tell each other: the plan, by
 * which each sees that it is about the same thing, and what each part was. Canonical text
 * (format/text.h).
 *
 *   verastore parts 1
 *   parts <N>
 *   math exact|fast
 *   report yes|no
 *   adapter sha256:<snapshot> weight <w> pin <sha256>|none       for each, in order
 *   index <sha256>                               of model.safetensors.index.json, empty if none
 *   config <sha256>
 *   shard <bytes> <modified, ns> <sha256 of its header> <file>     for each, in order
 *   work <sha256>                                which piece is whose
 *   shared <bytes>                               for each shard: what is the base's blocks already
 *   others <bytes written> <bytes cloned>        what the first one wrote beside the shards
 *
 *   verastore part 1
 *   math exact|fast                              as it was computed: a processor has no fast mode
 *   counts <matched> <rewritten> <added> <bytes written> <bytes cloned> <nanoseconds>
 *   sums <tensor> <count> <unchanged> <nonfinite> <changed> <wanted> <lost> <max>   with a report
 *
 * The times of change stand for the weights, which nobody hashes as a whole: a base that is another
 * one, or was written to between two parts, is another plan. Doubles are their bits.
 */
#ifndef APPLY_PARTS_H
#define APPLY_PARTS_H

#include "apply/work.h"

/* What was made before any part. */
struct parts_made {
    uint64_t *shared; /* [model->shard_count], owned */
    uint64_t written, cloned;
};

void parts_made_release(struct parts_made *made);

/* The lines up to `work`. */
MUST_CHECK int parts_plan_encode(
    struct buf *out, const struct work *work, const struct apply_options *options, uint64_t parts
);

/* And the rest, behind them. */
MUST_CHECK int
parts_made_encode(struct buf *out, const struct parts_made *made, size_t shard_count);

/* Only what a process that finishes needs to be told: how many parts, and whether they report. */
MUST_CHECK int parts_plan_peek(uint64_t *parts, bool *report, struct bytes plan);

/* Compare `plan`, which was found, with `own`, made by parts_plan_encode(). E_CONFLICT, telling
   each line that differs; E_CORRUPT. */
MUST_CHECK int
parts_plan_decode(struct parts_made *out, struct bytes plan, struct bytes own, size_t shard_count);

/* Part of the result that stream and result hold: the sums of tensors [begin, end). */
MUST_CHECK int parts_record_encode(
    struct buf *out, const struct apply_result *result, const struct stream *stream
);

/* Add what a part was to result and stream->sums. E_CORRUPT: not written by the above. */
MUST_CHECK int
parts_record_decode(struct apply_result *result, struct stream *stream, struct bytes record);

#endif
