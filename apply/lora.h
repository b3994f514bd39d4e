/*
 * An adapter as LoRA, exactly. VeRA's change of a weight is a product of two matrices of rank r,
 *
 *   dW = diag(b) . B[:out, :] . diag(d) . A[:, :in] = B' . A'
 *   A' = diag(d) . A[:, :in]      A'[k, j] = d[k] * A[k, j]     [r, in]
 *   B' = diag(b) . B[:out, :]     B'[i, k] = b[i] * B[i, k]     [out, r]
 *
 * which is what LoRA adds where its alpha is r. Each value is one product of two float32 numbers,
 * rounded once to float32 and then to the type that is written: engines that know only LoRA get
 * what PEFT computes with, at rank r. Nothing is built in memory but a few rows at a time.
 */
#ifndef APPLY_LORA_H
#define APPLY_LORA_H

#include "apply/effect.h"
#include "apply/sink.h"

/* One adapter on one base model. All borrowed. */
struct lora {
    const struct loaded_adapter *loaded;
    const struct basis *basis;
    const struct effects *effects; /* of `loaded`, on `basis` */
    const uint64_t *in;            /* inputs of each of the adapter's modules */
    enum dtype dtype;              /* of what is written: F32, BF16 or F16 */
};

enum lora_factor { LORA_A, LORA_B };

uint64_t lora_rows(const struct lora *lora, size_t module, enum lora_factor factor);
uint64_t lora_columns(const struct lora *lora, size_t module, enum lora_factor factor);
uint64_t lora_bytes(const struct lora *lora, size_t module, enum lora_factor factor);

/* E_INVALID, naming the module, for a value of a vector that is not finite, and where the basis has
   fewer columns or rows than a module; E_UNSUPPORTED for vectors that are not F32, BF16 or F16. */
MUST_CHECK int lora_check(const struct lora *lora);

/* Write a factor row by row. `heads` not 0: the rows of each head in the order that llama.cpp has
   them for its rotary embedding: of a head's n rows, row 2j + s is here row s * n/2 + j of PEFT's;
   rows must be a multiple of 2 * heads. E_INVALID, naming the module, where a value is not finite
   in the type that is written, with a hint. */
MUST_CHECK int lora_write(
    struct sink *sink,
    const struct lora *lora,
    size_t module,
    enum lora_factor factor,
    uint64_t heads
);

/* A tensor's name as people know it: without "base_model.model.". */
const char *lora_other_name(const struct tensor *tensor);

#endif
