/*
 * What llama.cpp calls the weights of a model (gguf-py/gguf/tensor_mapping.py), for the
 * architectures that an adapter is exported for:
 *
 *   model_type       general.architecture   layers
 *   llama, mistral   llama                  model.layers.N.  self_attn.q_proj ... mlp.down_proj
 *   qwen2, qwen3     qwen2, qwen3           the same
 *   gpt2             gpt2                   transformer.h.N. attn.c_attn, attn.c_proj, mlp.c_fc,
 *                                           mlp.c_proj
 *   bert             bert                   bert.encoder.layer.N. attention.self.query ...
 *
 * The leading "model.", "transformer." or "bert." may be missing, as in an adapter of the bare
 * model. An output layer, lm_head, is "output" where the model has one of its own.
 *
 * Llama's converter (conversion/llama.py, LlamaModel.permute) reorders the rows of q_proj and
 * k_proj within each head, Qwen's does not: an adapter whose rows lie otherwise loads without an
 * error, and talks nonsense.
 */
#ifndef APPLY_GGUF_NAMES_H
#define APPLY_GGUF_NAMES_H

#include "format/buf.h"

struct gguf_architecture;

/* A base model as far as names and the order of rows need it. */
struct gguf_model {
    const struct gguf_architecture *architecture;
    uint64_t heads, kv_heads; /* 0 where rows are not reordered */
    bool has_output;          /* lm_head is not the input embedding */
};

/* From the text of the model's config.json. E_UNSUPPORTED, naming it, for another model_type;
   E_INVALID for what is no such file, or lacks num_attention_heads where that is needed. */
MUST_CHECK int gguf_model_read(struct gguf_model *out, struct bytes config);

/* "llama": general.architecture. */
const char *gguf_architecture_name(const struct gguf_model *model);

/* Append the weight's name, "blk.0.attn_q.weight"; nothing where llama.cpp has none for the module.
 *heads: in how many heads its rows are reordered, 0: not. */
MUST_CHECK int gguf_weight_name(
    struct buf *out, uint64_t *heads, const struct gguf_model *model, const char *module
);

#endif
