/*
 * A base model on disk: one model.safetensors, or shards with model.safetensors.index.json (where
 * both are there, the one file, as Transformers has it). Only headers are read into memory; weights
 * are read in ranges. Of a shard's tensors those count which the index lists for it.
 */
#ifndef APPLY_MODEL_H
#define APPLY_MODEL_H

#include "format/file.h"

#define MODEL_FILE  "model.safetensors"
#define MODEL_INDEX "model.safetensors.index.json"

struct shard {
    char *file; /* name inside the model's directory */
    char *path; /* with the directory: for errors, and to open it again */
    int fd;     /* -1 where there are too many shards to keep all open */
    uint64_t bytes;
    struct file_stamp stamp; /* when it was opened first */
    struct safetensors table;
    struct buf header; /* first 8 + N bytes, verbatim */
};

/* How a layer's weight lies, where whoever made the model says so of it. */
enum model_lies {
    MODEL_LIES_UNSAID,
    MODEL_LIES_LINEAR, /* [out, in] */
    MODEL_LIES_CONV1D, /* [in, out] */
};

struct model_tensor {
    const struct tensor *tensor;
    size_t shard;
    enum model_lies lies;
};

/* How config.json says that layers are stored: a square weight does not tell by its shape. */
enum model_layers {
    LAYERS_UNKNOWN, /* no config.json, no model_type, or code of the model's own */
    LAYERS_LINEAR,  /* one of Transformers' own architectures: nn.Linear, [out, in] */
    /* One of those that have Conv1D too, GPT-2's family: those layers are [in, out], and named
       c_attn, c_proj, c_fc or q_attn. */
    LAYERS_CONV1D,
};

struct model;

/* `len` bytes of a tensor from `offset` on. */
typedef int model_reader(
    void *data,
    const struct model *model,
    const struct model_tensor *tensor,
    uint64_t offset,
    size_t len
);

struct model {
    char *dir;
    struct shard *shards; /* in byte order of file */
    size_t shard_count;
    struct model_tensor *tensors; /* in byte order of name */
    size_t tensor_count;
    bool sharded;      /* there is an index */
    struct buf index;  /* its bytes */
    struct buf config; /* config.json, empty where there is none */
    /* config.json's tie_word_embeddings; where it says nothing: no lm_head.weight is there */
    bool tied_embeddings;
    enum model_layers layers;
    bool quantised;      /* config.json has a quantization_config */
    model_reader *read;  /* NULL: weights are in the shards. A live model has none (apply/live.h) */
    const void *reading; /* the reader's own */
};

#define AUTO_MODEL(name) __attribute__((cleanup(model_release))) struct model name = {0}

/* E_NOTFOUND (no directory, no weights in it), E_UNSUPPORTED (weights in another format, with a
   hint), E_INVALID (no directory but a file; an index or config.json that is none; an index that
   names a missing shard, or a tensor that its shard lacks, all of them listed; a file name that
   leaves the directory), E_CORRUPT (a shard that is no whole safetensors file), E_LIMIT. */
MUST_CHECK int model_open(struct model *out, const char *dir);
void model_release(struct model *model);

/* False where no shard has it. */
bool model_find(struct model_tensor *out, const struct model *model, const char *name);

/* A descriptor of a shard's file: the one that is kept open, or a new one, which *owner (an
   AUTO_FD) closes. E_CONFLICT where the file is not the one that model_open() read. */
MUST_CHECK int model_shard_open(int *out_fd, int *owner, const struct model *model, size_t shard);

/* E_CONFLICT, naming the shard, where one was written to since model_open(): what was read of it
   may be half of the one and half of the other. Asked after reading, before what was made counts.
 */
MUST_CHECK int model_check_unchanged(const struct model *model);

/* What `err`, a failure to read the model, is after all: model_check_unchanged()'s where that is
   the cause, as it is where a file ends too early. */
MUST_CHECK int model_explain(int err, const struct model *model);

/* Errors: E_IO, or the model's reader's own. */
MUST_CHECK int model_read_at(
    void *data,
    const struct model *model,
    const struct model_tensor *tensor,
    uint64_t offset,
    size_t len
);

/* The part of model_open() that reads config.json's text: tied_embeddings (which `has_lm_head`
   decides where it says nothing), layers, quantised. E_INVALID where it is no JSON object. */
MUST_CHECK int model_config_read(struct model *model, struct bytes json, bool has_lm_head);

/* SHA-256 of one tensor's bytes, read in portions. */
MUST_CHECK int model_digest(
    struct digest *out,
    const struct model *model,
    const struct model_tensor *tensor,
    struct progress *progress
);

#endif
