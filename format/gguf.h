/*
 * GGUF version 3, the file of llama.cpp (ggml, docs/gguf.md): its header, encoded. Little-endian.
 *
 *   OFFSET  SIZE  FIELD
 *        0     4  "GGUF"
 *        4     4  version, 3
 *        8     8  number of tensors
 *       16     8  number of values
 *       24     .  values: key (text), type (4 bytes), value
 *        .     .  tensors: name (text), number of dimensions (4), dimensions (8 each, the one whose
 *                 elements lie side by side first), type (4), offset in the data (8)
 *        .     .  zero bytes up to a multiple of GGUF_ALIGNMENT
 *        .     .  data; each tensor begins at a multiple of GGUF_ALIGNMENT, zero bytes between
 *
 * A text is its length (8 bytes) and its bytes. vera writes such files and reads none.
 */
#ifndef FORMAT_GGUF_H
#define FORMAT_GGUF_H

#include "format/dtype.h"

#define GGUF_ALIGNMENT 32 /* what a file has that does not say otherwise */
#define GGUF_NAME_MAX  63 /* bytes of a tensor's name, ggml's GGML_MAX_NAME less its NUL */

/* The types of values that vera writes, by their numbers in the file. */
enum gguf_type {
    GGUF_UINT32 = 4,
    GGUF_FLOAT32 = 6,
    GGUF_TEXT = 8,
};

struct gguf_value {
    const char *key;
    enum gguf_type type;
    uint32_t number; /* GGUF_UINT32 */
    float real;      /* GGUF_FLOAT32 */
    const char *text;
};

/* A matrix, row-major. All borrowed. */
struct gguf_tensor {
    const char *name;
    enum dtype dtype; /* F32, F16 or BF16 */
    uint64_t rows, columns;
    uint64_t offset; /* in the data; set by gguf_encode() */
};

/* Bytes of a tensor's values, and with the zero bytes that follow them. */
uint64_t gguf_tensor_bytes(const struct gguf_tensor *tensor);
uint64_t gguf_tensor_room(const struct gguf_tensor *tensor);

/* Append all that comes before the data, and lay the tensors out in this order. E_LIMIT for a name
   of more than GGUF_NAME_MAX bytes, and where the data were larger than 2^63 bytes; E_UNSUPPORTED
   for another dtype. */
MUST_CHECK int gguf_encode(
    struct buf *out,
    const struct gguf_value *values,
    size_t value_count,
    struct gguf_tensor *tensors,
    size_t tensor_count
);

#endif
