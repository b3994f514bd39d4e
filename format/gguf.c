/* The header of a GGUF file. See gguf.h. */
#include "format/gguf.h"

#include <inttypes.h>
#include <string.h>

#define VERSION    3
#define DIMENSIONS 2

/* ggml's numbers of its types (ggml.h, enum ggml_type). */
enum { GGML_F32 = 0, GGML_F16 = 1, GGML_BF16 = 30 };

static uint32_t ggml_type(enum dtype dtype)
{
    return dtype == DTYPE_F32 ? GGML_F32 : dtype == DTYPE_F16 ? GGML_F16 : GGML_BF16;
}

uint64_t gguf_tensor_bytes(const struct gguf_tensor *tensor)
{
    return tensor->rows * tensor->columns * (dtype_bits(tensor->dtype) / 8);
}

static uint64_t aligned(uint64_t bytes)
{
    return (bytes + GGUF_ALIGNMENT - 1) / GGUF_ALIGNMENT * GGUF_ALIGNMENT;
}

uint64_t gguf_tensor_room(const struct gguf_tensor *tensor)
{
    return aligned(gguf_tensor_bytes(tensor));
}

static int append_number(struct buf *out, uint64_t value, unsigned bytes)
{
    uint8_t data[8];

    for (unsigned i = 0; i < bytes; i++)
        data[i] = (uint8_t)(value >> (8 * i));
    return buf_append(out, data, bytes);
}

static int append_text(struct buf *out, const char *text)
{
    size_t len = strlen(text);

    int err = append_number(out, len, 8);
    return err < 0 ? err : buf_append(out, text, len);
}

static int append_value(struct buf *out, const struct gguf_value *value)
{
    uint32_t bits;
    int err;

    if ((err = append_text(out, value->key)) < 0 || (err = append_number(out, value->type, 4)) < 0)
        return err;
    switch (value->type) {
    case GGUF_UINT32:
        return append_number(out, value->number, 4);
    case GGUF_FLOAT32:
        memcpy(&bits, &value->real, sizeof(bits));
        return append_number(out, bits, 4);
    case GGUF_TEXT:
        break;
    }
    return append_text(out, value->text);
}

static int append_tensor(struct buf *out, const struct gguf_tensor *tensor)
{
    int err;

    if ((err = append_text(out, tensor->name)) < 0 ||
        (err = append_number(out, DIMENSIONS, 4)) < 0 ||
        (err = append_number(out, tensor->columns, 8)) < 0 ||
        (err = append_number(out, tensor->rows, 8)) < 0 ||
        (err = append_number(out, ggml_type(tensor->dtype), 4)) < 0)
        return err;
    return append_number(out, tensor->offset, 8);
}

/* Give the tensor its place behind `end`, and move `end` behind it. */
static int tensor_place(struct gguf_tensor *tensor, uint64_t *end)
{
    uint64_t values, bytes, next;

    if (strlen(tensor->name) > GGUF_NAME_MAX)
        return error_set(
            E_LIMIT, "GGUF: tensor '%.200s' has a name of %zu bytes, at most %d are allowed",
            tensor->name, strlen(tensor->name), GGUF_NAME_MAX
        );
    if (!dtype_is_applicable(tensor->dtype))
        return error_set(
            E_UNSUPPORTED, "GGUF: tensor '%s' is %s", tensor->name, dtype_name(tensor->dtype)
        );
    if (__builtin_mul_overflow(tensor->rows, tensor->columns, &values) ||
        __builtin_mul_overflow(values, dtype_bits(tensor->dtype) / 8, &bytes) ||
        __builtin_add_overflow(bytes, *end + GGUF_ALIGNMENT, &next) || next > INT64_MAX)
        return error_set(E_LIMIT, "GGUF: tensor '%s' is too large", tensor->name);
    tensor->offset = *end;
    *end += gguf_tensor_room(tensor);
    return 0;
}

int gguf_encode(
    struct buf *out,
    const struct gguf_value *values,
    size_t value_count,
    struct gguf_tensor *tensors,
    size_t tensor_count
)
{
    AUTO_BUF(header);
    uint64_t end = 0;
    int err;

    if ((err = buf_append_text(&header, "GGUF")) < 0 ||
        (err = append_number(&header, VERSION, 4)) < 0 ||
        (err = append_number(&header, tensor_count, 8)) < 0 ||
        (err = append_number(&header, value_count, 8)) < 0)
        return err;
    for (size_t i = 0; err == 0 && i < value_count; i++)
        err = append_value(&header, &values[i]);
    for (size_t i = 0; err == 0 && i < tensor_count; i++) {
        if ((err = tensor_place(&tensors[i], &end)) == 0)
            err = append_tensor(&header, &tensors[i]);
    }
    if (err < 0 || (err = buf_resize(&header, (size_t)aligned(header.len))) < 0)
        return err;
    return buf_append(out, header.data, header.len);
}
