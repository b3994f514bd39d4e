/* How the public functions of libvera_apply take structures, which begin with their size. */
#ifndef APPLY_VERA_STRUCTURE_H
#define APPLY_VERA_STRUCTURE_H

#include <string.h>

#include "format/buf.h"

/* A structure as its caller knows it, perhaps a shorter or a longer one: what we know of it. What
   is longer must be zero there, since we would not do what it asks for. */
MUST_CHECK static inline int
structure_take(void *out, size_t known, const void *given, size_t size_least)
{
    size_t size;

    memcpy(&size, given, sizeof(size));
    if (size < size_least || size > 4096)
        return error_set(E_INVALID, "a structure of %zu bytes: its field 'size' is not set", size);
    for (size_t i = known; i < size; i++) {
        if (((const uint8_t *)given)[i])
            return error_set(E_UNSUPPORTED, "a structure of a later version of the library");
    }
    memset(out, 0, known);
    memcpy(out, given, size < known ? size : known);
    return 0;
}

#endif
