/*
 * An adapter as the one file that llama.cpp takes by --lora: GGUF with A' and B' of each module
 * under the names of llama.cpp's weights, "blk.0.attn_q.weight.lora_a" and ".lora_b", the rows of
 * B' reordered as that architecture's converter reorders the weight's. Source: llama.cpp
 * src/llama-adapter.cpp, which refuses any other tensor.
 *
 * GPT-2's weights are stored transposed by its converter; A' [r, in] and B' [out, r] fit them as
 * they are.
 */
#ifndef APPLY_LORA_GGUF_H
#define APPLY_LORA_GGUF_H

#include "apply/gguf_names.h"
#include "apply/lora.h"

#define LORA_GGUF_FILE "adapter.gguf"

/* What the file cannot hold: names without "base_model.model.", in byte order. Owned. */
struct lora_left {
    char **names;
    size_t count, capacity;
};

#define AUTO_LORA_LEFT(name) __attribute__((cleanup(lora_left_release))) struct lora_left name = {0}
MUST_CHECK int lora_left_add(struct lora_left *left, const char *name);
void lora_left_release(struct lora_left *left);

/* Biases, whole modules, and modules for which llama.cpp has no weight. */
MUST_CHECK int lora_gguf_left(
    struct lora_left *out, const struct loaded_adapter *loaded, const struct gguf_model *model
);

/* Write adapter.gguf, without what it cannot hold, into `dir` (NULL: write nothing), and append it
   to `files`. E_INVALID where nothing is left to write, two modules have one name, or rows are not
   a multiple of the heads; lora_check()'s and lora_write()'s errors. */
MUST_CHECK int lora_gguf_write(
    struct manifest *files,
    struct outdir *dir,
    const struct lora *lora,
    const struct gguf_model *model,
    struct progress *progress
);

#endif
