/*
 * Models made up by a test, in the current directory: weights("m/model.safetensors",
 * "a.weight F32 2x3, a.bias F32 2") writes a file with these tensors, byte k of the data being k.
 */
#ifndef TESTS_MODELS_H
#define TESTS_MODELS_H

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "format/file.h"

static char scratch[64];

static inline int scratch_make(void **state)
{
    (void)state;
    snprintf(scratch, sizeof(scratch), "/tmp/vera-test-model.XXXXXX");
    return mkdtemp(scratch) && chdir(scratch) == 0 ? 0 : 1;
}

static inline int scratch_remove(void **state)
{
    (void)state;
    interrupt_flag = 0;
    return chdir("/") == 0 && tree_remove(scratch) == 0 ? 0 : 1;
}

/* A file and its folders. */
static inline void put_bytes(const char *path, struct bytes data)
{
    AUTO_FREE(char, parent);

    assert_int_equal(path_parent(&parent, path), 0);
    assert_int_equal(dir_make(parent), 0);
    assert_int_equal(file_write(path, data), 0);
}

static inline void put(const char *path, const char *text)
{
    put_bytes(path, text_bytes(text));
}

/* Length, header and `data_bytes` bytes of data. */
static inline void put_weights(const char *path, const char *header, uint64_t data_bytes)
{
    AUTO_BUF(file);
    uint64_t len = strlen(header);

    for (unsigned i = 0; i < 8; i++)
        assert_int_equal(buf_append_byte(&file, (uint8_t)(len >> 8 * i)), 0);
    assert_int_equal(buf_append_text(&file, header), 0);
    for (uint64_t k = 0; k < data_bytes; k++)
        assert_int_equal(buf_append_byte(&file, (uint8_t)k), 0);
    put_bytes(path, buf_bytes(&file));
}

static inline void weights(const char *path, const char *tensors)
{
    AUTO_BUF(header);
    uint64_t at = 0;

    assert_int_equal(buf_append_byte(&header, '{'), 0);
    for (const char *next = tensors; *next; next += strspn(next, ", ")) {
        char name[128] = "", dtype[16] = "", shape[64] = "";
        size_t part = strcspn(next, " ");
        snprintf(name, sizeof(name), "%.*s", (int)part, next);
        next += part + 1;
        part = strcspn(next, " ");
        snprintf(dtype, sizeof(dtype), "%.*s", (int)part, next);
        next += part + 1;
        part = strcspn(next, ",");
        uint64_t values = 1;
        for (size_t i = 0; i < part;) {
            char *end = NULL;
            values *= strtoull(next + i, &end, 10);
            snprintf(
                shape + strlen(shape), sizeof(shape) - strlen(shape), "%s%.*s", i ? "," : "",
                (int)(end - next - (ptrdiff_t)i), next + i
            );
            i = (size_t)(end - next) + 1;
        }
        next += part;
        enum dtype type = DTYPE_COUNT;
        assert_int_equal(dtype_parse(&type, text_bytes(dtype)), 0);
        uint64_t end = at + values * dtype_bits(type) / 8;
        assert_int_equal(
            buf_printf(
                &header, "%s\"%s\":{\"dtype\":\"%s\",\"shape\":[%s],\"data_offsets\":[%ju,%ju]}",
                at || header.len > 1 ? "," : "", name, dtype, shape, (uintmax_t)at, (uintmax_t)end
            ),
            0
        );
        at = end;
    }
    assert_int_equal(buf_append_byte(&header, '}'), 0);
    put_weights(path, buf_text(&header), at);
}

#endif
