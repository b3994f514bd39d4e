/*
 * An adapter as the LoRA directory that PEFT writes, and vLLM, SGLang and others read:
 * adapter_config.json and adapter_model.safetensors, in PEFT's order of keys and safetensors' order
 * of tensors.
 *
 *   base_model.model.<module>.lora_A.weight   A' [r, in]
 *   base_model.model.<module>.lora_B.weight   B' [out, r]
 *
 * also where the layer is Conv1D. Biases and whole modules have the same names in PEFT's VeRA and
 * in its LoRA (peft/utils/save_and_load.py), and keep their bytes; engines hold none of them.
 */
#ifndef APPLY_LORA_PEFT_H
#define APPLY_LORA_PEFT_H

#include "apply/lora.h"

struct lora_peft_options {
    bool bare;             /* without biases and whole modules */
    const char *base_name; /* base_model_name_or_path; NULL: the adapter's */
};

/* Write the two files into `dir` (NULL: write nothing, tell only what they would be) and append
   them to `files`. E_INVALID for a tensor that PEFT would take for a part of LoRA; lora_check()'s
   and lora_write()'s errors. */
MUST_CHECK int lora_peft_write(
    struct manifest *files,
    struct outdir *dir,
    const struct lora *lora,
    const struct lora_peft_options *options,
    struct progress *progress
);

/* The adapter_config.json of it, appended to `out`. */
MUST_CHECK int lora_peft_config(
    struct buf *out, const struct loaded_adapter *loaded, const struct lora_peft_options *options
);

#endif
