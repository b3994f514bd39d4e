/* Payloads for tests of frames: the real ones of the fixtures, in any of the three float types, and
   bytes without a pattern. */
#ifndef TESTS_PAYLOADS_H
#define TESTS_PAYLOADS_H

#include <stdlib.h>
#include <string.h>

#include "format/file.h"
#include "format/frame.h"
#include "format/peft.h"

#define D FRAME_GROUP_D
#define O FRAME_GROUP_OTHER

static inline void must(int err)
{
    if (err < 0)
        fail_msg("%s", error_message());
}

/* Bytes without a pattern, the same in every run. */
static inline void noise(struct buf *out, size_t len)
{
    uint32_t state = 1;

    for (size_t i = 0; i < len; i++) {
        state = state * 1664525 + 1013904223;
        must(buf_append_byte(out, (uint8_t)(state >> 24)));
    }
}

struct payload {
    struct buf bytes;
    struct frame_vector *vectors;
    size_t count;
};

static inline void payload_release(struct payload *payload)
{
    buf_release(&payload->bytes);
    free(payload->vectors);
    *payload = (struct payload){0};
}

#define AUTO_PAYLOAD(name) __attribute__((cleanup(payload_release))) struct payload name = {0}

/* The payload of a real adapter and how it divides. `name`: "llama/step-120". */
static inline void payload_read(struct payload *out, const char *name)
{
    AUTO_FREE(char, dir);
    AUTO_FREE(char, path);
    AUTO_BUF(file);
    AUTO_SAFETENSORS(table);

    must(path_join(&dir, FIXTURES "/adapter", name));
    must(path_join(&path, dir, PEFT_MODEL));
    must(file_read(&file, path, LIMIT_FILE));
    must(safetensors_decode(&table, buf_bytes(&file), file.len));
    for (size_t i = 0; i < table.count; i++) {
        const struct tensor *tensor = &table.tensors[i];
        if (strncmp(tensor->name, "base_model.vera_", 16) != 0)
            must(buf_append(
                &out->bytes, file.data + table.header_bytes + tensor->begin,
                (size_t)tensor_bytes(tensor)
            ));
    }
    must(frame_vectors(&out->vectors, &out->count, &table));
}

/* What the payload of a training run would be in another type: its float32 rounded. With `held`,
   the rounded values in float32. */
static inline void
payload_convert(struct payload *out, const struct payload *from, enum dtype dtype, bool held)
{
    size_t values = from->bytes.len / sizeof(float);
    AUTO_FREE(float, wide);

    wide = malloc(from->bytes.len);
    assert_non_null(wide);
    dtype_widen(wide, from->bytes.data, values, DTYPE_F32);
    must(buf_resize(&out->bytes, values * dtype_bits(dtype) / 8));
    dtype_narrow(out->bytes.data, wide, values, dtype);
    if (held) {
        dtype_widen(wide, out->bytes.data, values, dtype);
        out->bytes.len = 0;
        must(buf_append(&out->bytes, wide, values * sizeof(*wide)));
    }
    out->count = from->count;
    out->vectors = array_new(out->count, sizeof(*out->vectors));
    assert_non_null(out->vectors);
    for (size_t i = 0; i < out->count; i++) {
        unsigned width = held ? 4 : dtype_bits(dtype) / 8;
        out->vectors[i] = (struct frame_vector){
            .bytes = from->vectors[i].bytes / 4 * width,
            .width = width,
            .group = from->vectors[i].group,
            .dtype = held ? DTYPE_F32 : dtype,
        };
    }
}

#endif
