/*
 * safetensors: the header of a file, decoded and checked.
 *
 *   OFFSET  SIZE  FIELD
 *        0     8  N, length of the header, little-endian
 *        8     N  JSON {"__metadata__": {...}, "<name>": {"dtype", "shape", "data_offsets"}, ...}
 *      8+N        data; the tensors cover it without hole or overlap
 *
 * Accepts and rejects what the reference code (safetensors tensor.rs) does, but for two things:
 * a key that appears twice is refused, as the specification says, and a header above
 * LIMIT_SAFETENSORS_HEADER is E_LIMIT. docs/format.md has both as S1 to S5.
 */
#ifndef FORMAT_SAFETENSORS_H
#define FORMAT_SAFETENSORS_H

#include "format/dtype.h"

struct tensor {
    const char *name; /* NUL-terminated, owned by the table; name_len counts NULs inside */
    size_t name_len;
    enum dtype dtype;
    unsigned dims;
    const uint64_t *shape; /* [dims], owned by the table */
    uint64_t begin, end;   /* in the data, bytes */
};

struct safetensors {
    struct tensor *tensors; /* in file order: by begin, then end, then name */
    size_t count;
    uint64_t header_bytes; /* 8 + N: where the data begins */
    uint64_t data_bytes;
    uint32_t *by_name; /* indices of tensors, in byte order of name */
    struct buf names;
    uint64_t *shapes;
};

#define AUTO_SAFETENSORS(name)                                                                     \
    __attribute__((cleanup(safetensors_release))) struct safetensors name = {0}

/* Bytes of the whole header, 8 + N, from a file's first 8 bytes. E_LIMIT above the limit, whatever
   the file's size; else E_INVALID where the file cannot hold it. `prefix.len` may be below 8:
   E_INVALID. */
MUST_CHECK int safetensors_header_size(uint64_t *out, struct bytes prefix, uint64_t file_bytes);

/* `header`: the file's first 8 + N bytes (more is ignored). Errors: E_INVALID (malformed,
   truncated, does not cover the file), E_LIMIT, E_NOMEM. Time: n log n. Memory: about four times
   the header at worst. */
MUST_CHECK int
safetensors_decode(struct safetensors *out, struct bytes header, uint64_t file_bytes);
void safetensors_release(struct safetensors *table);

/* NULL where there is none. */
const struct tensor *safetensors_find(const struct safetensors *table, const char *name);

/* Elements of the tensor; cannot overflow in a decoded table. And its bytes. */
uint64_t tensor_values(const struct tensor *tensor);
uint64_t tensor_bytes(const struct tensor *tensor);

/* A header as safetensors' own writer makes it for these tensors in this order (begin/end are taken
   as given), with {"format":"pt"} metadata, padded with spaces to a multiple of 8. Appends 8 + N
   bytes. */
MUST_CHECK int safetensors_encode(struct buf *out, const struct tensor *tensors, size_t count);

/* The same with the metadata of another header (its first 8 + N bytes, which were decoded), none
   where that has none. */
MUST_CHECK int safetensors_encode_like(
    struct buf *out, struct bytes header, const struct tensor *tensors, size_t count
);

#endif
