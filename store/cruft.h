/*
 * When each object of a cruft pack was last of use: "<pack>.mtimes" beside it, as git has it
 * (gitformat-pack(5), all integers big-endian). Such a pack holds what nothing reaches and is too
 * young to be dropped.
 *
 *   OFFSET   SIZE   FIELD
 *   0        4      "MTME"
 *   4        4      version, 1
 *   8        4      1, for SHA-1
 *   12       4 n    seconds since the epoch, in order of id
 *            20     SHA-1 of the pack, its last 20 bytes
 *            20     SHA-1 of all this
 */
#ifndef STORE_CRUFT_H
#define STORE_CRUFT_H

#include "store/pack_index.h"

/* `times`: [count]. */
MUST_CHECK int cruft_encode(
    struct buf *out, const uint32_t *times, size_t count, const uint8_t pack_sha1[SHA1_SIZE]
);

/* *out is owned by the caller. E_CORRUPT. */
MUST_CHECK int cruft_decode(uint32_t **out, size_t count, struct bytes data, const char *path);

#endif
