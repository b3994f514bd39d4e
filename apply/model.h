/*
 * A base model on disk: one model.safetensors, or shards with model.safetensors.index.json. Only
 * headers are read into memory; weights are read in ranges.
 */
#ifndef APPLY_MODEL_H
#define APPLY_MODEL_H

#include "format/file.h"

struct shard {
    char *file; /* name inside the model's directory */
    int fd;
    uint64_t bytes;
    struct safetensors table;
    struct buf header; /* first 8 + N bytes, verbatim */
};

struct model_tensor {
    const struct tensor *tensor;
    size_t shard;
};

struct model {
    char *dir;
    struct shard *shards;
    size_t shard_count;
    bool sharded;         /* there is an index */
    struct buf index;     /* its bytes */
    struct buf config;    /* config.json, empty where there is none */
    bool tied_embeddings; /* config.json: tie_word_embeddings */
};

#define AUTO_MODEL(name) __attribute__((cleanup(model_release))) struct model name = {0}

/* E_NOTFOUND (no directory, no safetensors in it; hint where there is pytorch_model.bin), E_INVALID
   (an index that names a missing shard, or a tensor that its shard lacks; a file name that leaves
   the directory), E_CORRUPT (a shard that is no whole safetensors file), E_LIMIT. */
MUST_CHECK int model_open(struct model *out, const char *dir);
void model_release(struct model *model);

/* False where no shard has it. */
bool model_find(struct model_tensor *out, const struct model *model, const char *name);

/* SHA-256 of one tensor's bytes, read in portions. */
MUST_CHECK int model_digest(
    struct digest *out,
    const struct model *model,
    const struct model_tensor *tensor,
    struct progress *progress
);

#endif
