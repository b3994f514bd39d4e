/*
 * A plane: bytes of known number, kept in the smallest of three forms.
 *
 *   SIZE  FIELD
 *      1  mode: 0 raw, 1 zstd, 2 constant
 *         raw:      the bytes
 *         zstd:     4 bytes, the stored length (less than the plane's), and one zstd frame
 *         constant: the byte that all of them are
 *
 * A plane without bytes takes none, not even a mode.
 */
#ifndef FORMAT_PLANE_H
#define FORMAT_PLANE_H

#include "format/buf.h"

/* zstd's contexts, made at the first use. */
struct plane_coder {
    void *encoder, *decoder;
};

#define AUTO_PLANE_CODER(name)                                                                     \
    __attribute__((cleanup(plane_coder_release))) struct plane_coder name = {0}

void plane_coder_release(struct plane_coder *coder);

/* Append. E_NOMEM. */
MUST_CHECK int plane_encode(struct buf *out, struct plane_coder *coder, struct bytes plane);

/* Read a plane of `n` bytes to `out`, and move `rest` behind it. E_CORRUPT, E_NOMEM. */
MUST_CHECK int plane_decode(uint8_t *out, size_t n, struct plane_coder *coder, struct bytes *rest);

#endif
