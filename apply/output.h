/*
 * What the merged model's directory is made of, beside the weights themselves: file names, the
 * index, the header of the added tensors, and the files that are taken over.
 *
 * Where nothing is added, shards and index are the base's, byte for byte. Where something is, every
 * shard gets the name model-0000I-of-0000N.safetensors, N one more than the base has, in the order
 * of the base's names, and the added tensors are the last one: no name can clash, and there is no
 * file called model.safetensors, which Transformers would read instead, in silence, and leave the
 * added tensors random.
 */
#ifndef APPLY_OUTPUT_H
#define APPLY_OUTPUT_H

#include "apply/model_files.h"
#include "apply/rewrite.h"

struct output {
    char **shards;      /* names, the base's shards in order, then that of the added tensors */
    size_t shard_count; /* one more than the base's where something is added */
    struct buf header;  /* of the added tensors' file, 8 + N bytes; empty where nothing is added */
    struct buf index;   /* empty where there is none */
    struct model_files files;
};

#define AUTO_OUTPUT(name) __attribute__((cleanup(output_release))) struct output name = {0}

MUST_CHECK int output_plan(struct output *out, const struct rewrites *rewrites);
void output_release(struct output *output);

#endif
