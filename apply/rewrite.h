/*
 * What the adapters together do to the base's tensors: every plan made, every conflict between them
 * refused, every basis at hand; and one tensor after the other streamed through memory in blocks of
 * rows, changed. Who takes the blocks writes them (materialize.c) or compares them (verify.c).
 *
 * While a targeted weight passes, its SHA-256 is compared with the adapters' pins; the caller asks
 * at the end (stream_check_pins), before what it made counts.
 */
#ifndef APPLY_REWRITE_H
#define APPLY_REWRITE_H

#include <pthread.h>

#include "apply/backend.h"
#include "apply/materialize.h"
#include "apply/report.h"

/* One adapter's share in one tensor: the one or the other. */
struct rewrite_part {
    struct model_tensor base;
    size_t input;
    const struct plan_target *target;
    const struct plan_replacement *replacement;
};

/* One of the base's tensors that changes: by targets of one or more adapters, or by one
   replacement. */
struct rewrite {
    struct model_tensor base;
    const struct rewrite_part *parts; /* in the order of the inputs */
    size_t part_count;
};

/* A tensor that the base has not. */
struct addition {
    const char *name;
    const struct tensor *tensor; /* the adapter's: dtype and shape */
    struct bytes data;
};

struct rewrites {
    const struct model *model;
    const struct apply_input *inputs;
    size_t input_count;
    struct plan *plans;         /* [input_count] */
    struct basis *bases;        /* [input_count]; empty where another input's is used */
    const struct basis **basis; /* [input_count]; NULL for an adapter without targets */
    struct rewrite_part *parts;
    size_t part_count;
    struct rewrite *tensors; /* in order of shard and offset */
    size_t count;
    struct addition *added; /* as the safetensors writer lays them out: dtype down, name up */
    size_t added_count;
};

#define AUTO_REWRITES(name) __attribute__((cleanup(rewrites_release))) struct rewrites name = {0}

/* Inputs and model must outlive it. Errors: materialize()'s, as far as they are known before a
   weight is read. */
MUST_CHECK int rewrites_init(
    struct rewrites *out,
    const struct apply_input *inputs,
    size_t input_count,
    const struct model *model
);
void rewrites_release(struct rewrites *rewrites);

/* The tensors of `shard`: [*begin, *end) of rewrites->tensors. */
void rewrites_of_shard(size_t *begin, size_t *end, const struct rewrites *rewrites, size_t shard);

/* Counts and `pinned`, as far as they do not depend on the streaming. */
void rewrites_count(struct apply_result *out, const struct rewrites *rewrites);

/* Takes the changed bytes [offset, offset + len) of rewrites->tensors[number]. */
typedef int (*block_fn)(void *context, size_t number, struct bytes block, uint64_t offset);

/* What the threads that stream share: what was found on the way, and how far they are. */
struct stream {
    const struct rewrites *rewrites;
    struct device device;
    unsigned threads;
    bool report;
    struct report_sums *sums; /* [rewrites->count] where `report`; each has one thread at a time */
    pthread_mutex_t mutex;    /* of what follows */
    struct buf differing;     /* const char * each: modules whose pin does not match */
    struct progress *progress;
    uint64_t done, total; /* bytes, for the progress */
};

/* What each of them has for itself. */
struct stream_scratch {
    unsigned threads; /* to merge a block with: 1 or more */
    struct lane lane; /* open from its first weight on */
    struct buf values, before;
};

#define AUTO_STREAM_SCRATCH(name)                                                                  \
    __attribute__((cleanup(stream_scratch_release))) struct stream_scratch name = {0}

#define STREAM_EMPTY                                                                               \
    {                                                                                              \
        .mutex = PTHREAD_MUTEX_INITIALIZER                                                         \
    }
#define AUTO_STREAM(name) __attribute__((cleanup(stream_release))) struct stream name = STREAM_EMPTY

/* Into an empty one, the device open and the bases on it. `total`: bytes that stream_tensors() and
   stream_advance() will go through. E_DEVICE. */
MUST_CHECK int stream_init(
    struct stream *out,
    const struct rewrites *rewrites,
    const struct apply_options *options,
    uint64_t total
);
/* After its scratches. */
void stream_release(struct stream *stream);
void stream_scratch_release(struct stream_scratch *scratch);

void stream_advance(struct stream *stream, uint64_t bytes);

/* How many of rewrites->tensors [begin, end), which are of one shard, one call should stream: more
   than one where they are small and the device has more work than is in one. */
size_t stream_group(const struct stream *stream, size_t begin, size_t end);

/* Read, change and hand over rewrites->tensors [begin, begin + count): one, or a stream_group().
   `fd`: the shard, open. `take` NULL: nobody wants the bytes, so only what pins and report need is
   done. Several threads may stream different tensors at once. */
MUST_CHECK int stream_tensors(
    struct stream *stream,
    struct stream_scratch *scratch,
    size_t begin,
    size_t count,
    int fd,
    block_fn take,
    void *context
);

/* Did a module differ from its pin so far? Then the output is lost. */
bool stream_differs(struct stream *stream);

/* E_CONFLICT, naming every module whose digest is not the pin's. */
MUST_CHECK int stream_check_pins(const struct stream *stream);

/* Move the report into `out`. */
MUST_CHECK int stream_report(struct apply_result *out, const struct stream *stream);

#endif
