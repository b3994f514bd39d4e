#include "format/buf.h"

#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

int buf_reserve(struct buf *buf, size_t more)
{
    size_t need;

    if (__builtin_add_overflow(buf->len, more, &need))
        return error_set(E_NOMEM, "buffer larger than memory");
    if (need > buf->cap || !buf->data) {
        size_t cap = buf->len && need <= SIZE_MAX / 2 ? need * 2 : need;
        uint8_t *grown = realloc(buf->data, cap ? cap : 1);
        if (!grown)
            return error_set(E_NOMEM, "out of memory growing a buffer to %zu bytes", cap);
        buf->data = grown;
        buf->cap = cap ? cap : 1;
    }
    return 0;
}

int buf_append(struct buf *buf, const void *data, size_t len)
{
    int err = buf_reserve(buf, len);

    if (err < 0)
        return err;
    if (len)
        memcpy(buf->data + buf->len, data, len);
    buf->len += len;
    return 0;
}

int buf_append_byte(struct buf *buf, uint8_t byte)
{
    return buf_append(buf, &byte, 1);
}

int buf_append_text(struct buf *buf, const char *text)
{
    return buf_append(buf, text, strlen(text));
}

int buf_printf(struct buf *buf, const char *fmt, ...)
{
    va_list ap;

    va_start(ap, fmt);
    int n = vsnprintf(NULL, 0, fmt, ap);
    va_end(ap);
    if (n < 0)
        return error_set(E_INVALID, "text cannot be formatted");
    int err = buf_reserve(buf, (size_t)n + 1);
    if (err < 0)
        return err;
    va_start(ap, fmt);
    vsnprintf((char *)buf->data + buf->len, (size_t)n + 1, fmt, ap);
    va_end(ap);
    buf->len += (size_t)n;
    return 0;
}

int buf_resize(struct buf *buf, size_t len)
{
    if (len > buf->len) {
        int err = buf_reserve(buf, len - buf->len);
        if (err < 0)
            return err;
        memset(buf->data + buf->len, 0, len - buf->len);
    }
    buf->len = len;
    return 0;
}

const char *buf_text(struct buf *buf)
{
    if (buf_reserve(buf, 1) < 0)
        return NULL;
    buf->data[buf->len] = 0;
    return (const char *)buf->data;
}

void buf_release(struct buf *buf)
{
    free(buf->data);
    *buf = (struct buf){0};
}

struct buf buf_take(struct buf *from)
{
    struct buf taken = *from;
    *from = (struct buf){0};
    return taken;
}

struct bytes buf_bytes(const struct buf *buf)
{
    return (struct bytes){buf->data, buf->len};
}

struct bytes text_bytes(const char *text)
{
    return (struct bytes){(const uint8_t *)text, strlen(text)};
}

bool bytes_equal(struct bytes a, struct bytes b)
{
    return a.len == b.len && (a.len == 0 || memcmp(a.data, b.data, a.len) == 0);
}

char *bytes_dup(struct bytes bytes)
{
    char *text = array_new(bytes.len + 1, 1);

    if (text && bytes.len)
        memcpy(text, bytes.data, bytes.len);
    return text;
}

void *array_new(size_t count, size_t size)
{
    void *array = calloc(count ? count : 1, size);

    if (!array)
        (void)!error_set(E_NOMEM, "out of memory for %zu elements of %zu bytes", count, size);
    return array;
}

int array_grow(void *array, size_t *capacity, size_t count, size_t size)
{
    size_t wanted, bytes;
    void *old, *grown;

    if (count <= *capacity)
        return 0;
    memcpy(&old, array, sizeof(old));
    wanted = count < 16 ? 16 : count;
    if (__builtin_mul_overflow(wanted, 2, &wanted) || __builtin_mul_overflow(wanted, size, &bytes))
        return error_set(E_NOMEM, "%zu elements of %zu bytes are larger than memory", count, size);
    if (!(grown = realloc(old, bytes)))
        return error_set(E_NOMEM, "out of memory for %zu elements of %zu bytes", wanted, size);
    memset((char *)grown + *capacity * size, 0, bytes - *capacity * size);
    memcpy(array, &grown, sizeof(grown));
    *capacity = wanted;
    return 0;
}

void auto_free(void *pointer_to_pointer)
{
    free(*(void **)pointer_to_pointer);
}
