/* An owned, growable byte buffer, and bytes borrowed from someone. All-zero is a valid empty one.
 */
#ifndef FORMAT_BUF_H
#define FORMAT_BUF_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "format/error.h"

struct buf {
    uint8_t *data;
    size_t len;
    size_t cap;
};

/* Bytes owned by someone else; valid while the owner is. */
struct bytes {
    const uint8_t *data;
    size_t len;
};

/* Declare an owner that is released when the scope is left, by any path. */
#define AUTO_BUF(name)        __attribute__((cleanup(buf_release))) struct buf name = {0}
#define AUTO_FREE(type, name) __attribute__((cleanup(auto_free))) type *name = NULL

MUST_CHECK int buf_append(struct buf *buf, const void *data, size_t len);
MUST_CHECK int buf_append_byte(struct buf *buf, uint8_t byte);
MUST_CHECK int buf_append_text(struct buf *buf, const char *text);
MUST_CHECK int buf_printf(struct buf *buf, const char *fmt, ...) PRINTF_LIKE(2, 3);

/* Make room for `more` bytes after the last one; `len` does not change. */
MUST_CHECK int buf_reserve(struct buf *buf, size_t more);

/* Exactly `len` bytes: cut, or grown by zero bytes. */
MUST_CHECK int buf_resize(struct buf *buf, size_t len);

/* End the text with a NUL that `len` does not count, and return it: NULL when out of memory (the
   error is set). */
const char *buf_text(struct buf *buf);

void buf_release(struct buf *buf);

/* Move the contents out; `from` becomes empty. */
struct buf buf_take(struct buf *from);

struct bytes buf_bytes(const struct buf *buf);
struct bytes text_bytes(const char *text);
bool bytes_equal(struct bytes a, struct bytes b);

/* A NUL-terminated copy, owned by the caller: NULL when out of memory (the error is set). */
char *bytes_dup(struct bytes bytes);

/* Zeroed array of `count` elements, owned by the caller (free): NULL when out of memory or too
   large (the error is set). Never NULL for count 0. */
void *array_new(size_t count, size_t size);

/* Make room for `count` elements of an array that grows; new ones are zero. `array` points to the
   pointer. E_NOMEM. */
MUST_CHECK int array_grow(void *array, size_t *capacity, size_t count, size_t size);

void auto_free(void *pointer_to_pointer);

#endif
