/*
 * The weights of a running model: where each lies in memory, and what it is without an adapter.
 *
 * A tensor has the name, dtype and shape that the model's checkpoint gives it, and any number of
 * parts in memory, each a rectangle of it: one part for most; a q, k or v whose rows lie in one
 * fused matrix; a tensor-parallel shard, rows or columns; none, for a layer that another process
 * has. To the plan it is a tensor like any other (live_weights.table). Parts lie in the host's
 * memory or in a GPU's, those of one tensor too.
 *
 * Pristine is what a part holds without an adapter: mapped from the base model's files, or a copy
 * that is taken when the weights are sealed, in the memory where the part is. Of a part on a GPU
 * whose pristine is mapped, a copy may be kept there besides.
 */
#ifndef APPLY_LIVE_WEIGHTS_H
#define APPLY_LIVE_WEIGHTS_H

#include "apply/live_device.h"
#include "apply/model.h"

/* Rows [row, row + rows) and columns [column, column + columns) of a tensor as it is stored. A
   tensor of one dimension has one column. */
struct live_part {
    uint8_t *data;
    size_t row_stride, column_stride; /* bytes */
    uint64_t row, rows, column, columns;
    struct live_device *device; /* in whose memory `data` is; NULL: the host's */
    const uint8_t *pristine;    /* on the host: its first element; columns lie side by side */
    size_t pristine_stride;     /* bytes from row to row */
    struct buf kept;            /* what `pristine` points to, where that is a copy */
    uint8_t *resident;          /* pristine in the device's memory, rows side by side, or NULL */
};

struct live_tensor {
    char *name;
    struct tensor tensor; /* as in the checkpoint; points to the fields around it */
    uint64_t shape[2];
    enum model_lies lies;
    struct live_part *parts;
    size_t part_count, part_room;
    struct bytes whole; /* pristine, all of the tensor, where it is at hand on the host */
    const struct live_part *whole_resident; /* likewise, on a device */
    bool has_digest;                        /* the SHA-256 of it was asked for before */
    struct digest digest;
    bool changed; /* its parts are not pristine */
};

/* A shard of the base model, mapped. */
struct live_map {
    struct bytes data;
    int fd; /* open, to look after it */
    char *path;
    struct file_stamp stamp; /* when it was mapped */
};

struct live_weights {
    struct live_tensor *tensors; /* sealed: in byte order of name */
    size_t count, room;
    struct model table;    /* the tensors as a model, `shard` being the index of the tensor */
    struct live_map *maps; /* of the base model's shards */
    size_t map_count;
    size_t from_base; /* tensors whose pristine is the base model's */
    struct live_devices devices;
    bool sealed;
};

#define AUTO_LIVE_WEIGHTS(name)                                                                    \
    __attribute__((cleanup(live_weights_release))) struct live_weights name = {0}

/* One part of one tensor. Strides in elements, both 0: rows one behind the other. */
struct live_place {
    const char *name;
    enum dtype dtype; /* F32, BF16 or F16 */
    enum model_lies lies;
    unsigned dims; /* 1 or 2 */
    uint64_t shape[2];
    void *data; /* NULL: the tensor is another process' altogether */
    int64_t row_stride, column_stride;
    uint64_t row, rows, column, columns; /* rows, columns 0: to the end */
    bool on_device;                      /* `data` is in a GPU's memory: */
    int device;                          /* its number, */
    void *stream;                        /* and the CUstream in which it is used */
};

/* E_INVALID, naming the tensor: a name that is none, no or too large a shape, another shape or
   dtype than before, a part outside the tensor, strides that let elements lie on each other, a
   pointer that is not aligned, memory that is not the device's, weights that are sealed.
   E_UNSUPPORTED: dtype. E_DEVICE: no such device. E_LIMIT, E_NOMEM. */
MUST_CHECK int live_weights_add(struct live_weights *weights, const struct live_place *place);

/* No more is added. `base`: the model's directory, compared with what is in memory, byte for byte;
   names may have one leading component more or less there, the same for all; what it lacks, or all
   where it is NULL, is copied. E_INVALID: no tensors, two that lie on each other, none of them in
   the base; E_CONFLICT, listing what differs from the base; E_DEVICE; model_open()'s errors. */
MUST_CHECK int live_weights_seal(struct live_weights *weights, const char *base);
void live_weights_release(struct live_weights *weights);

/* E_CONFLICT where a file of the base was written to since: what is mapped is no longer pristine,
   or is no longer there. One that was replaced, or removed, is there still. */
MUST_CHECK int live_weights_unchanged(const struct live_weights *weights);

/* The tensor behind one of the table's. */
struct live_tensor *live_tensor_of(struct live_weights *weights, const struct model_tensor *place);

/* SHA-256 of the pristine bytes; *has false where they are not at hand whole. E_DEVICE. */
MUST_CHECK int live_tensor_digest(struct digest *out, bool *has, struct live_tensor *tensor);

/* Of a part on the host: rows [row, row + rows), counted in the part, from contiguous rows `stride`
   bytes apart. */
void live_part_put(
    const struct live_part *part,
    size_t element,
    uint64_t row,
    uint64_t rows,
    const uint8_t *from,
    size_t stride
);

/* Are a part's columns side by side, so that rows can be worked on where they lie? */
bool live_part_is_plain(const struct live_part *part, size_t element);

/* From a part's row `row` on, to a device: where it lies, and what it is without an adapter. */
struct backend_place live_part_place(const struct live_part *part, enum dtype dtype, uint64_t row);
struct backend_place
live_part_pristine(const struct live_part *part, enum dtype dtype, uint64_t row);

#endif
