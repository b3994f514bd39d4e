/*
 * Loose objects, which git keeps as a zlib stream of "<type> <size>", a NUL and the contents.
 * libgit2 writes and reads them too; this is for what is large, and compressed already.
 */
#ifndef STORE_LOOSE_H
#define STORE_LOOSE_H

#include "store/internal.h"

/* "<store>/objects/<2>/<38>", owned by the caller. */
MUST_CHECK int loose_path(char **out, const struct store *store, const git_oid *id);

enum loose_form {
    LOOSE_DEFLATED,
    LOOSE_STORED, /* in zlib's blocks that are not compressed */
};

/* The id, by SHA-1 without libgit2's detection of collisions, at eight times its speed: for
   contents that begin with a better digest of the rest, so that nobody can make two of one id. */
MUST_CHECK int loose_id(git_oid *out, git_object_t type, struct bytes data);

/* Write the object, or replace it, not yet synced. *out_bytes: what the file takes. */
MUST_CHECK int loose_write(
    uint64_t *out_bytes,
    const struct store *store,
    const git_oid *id,
    git_object_t type,
    struct bytes data,
    enum loose_form form
);

struct loose_header {
    git_object_t type;
    size_t bytes;
};

/* Take a loose object's file apart: its header and, where `out` is not NULL, its contents; for the
   header the file's first 4 KiB are enough. *whole false where it is no loose object, or its
   contents are of another size than the header says, or above `limit`; what it claims is not
   allocated. */
MUST_CHECK int loose_decode(
    bool *whole, struct loose_header *header, struct buf *out, struct bytes file, uint64_t limit
);

/* The contents of a loose object of this type and of at most `limit` bytes, its id compared (as by
   loose_id()). *found false where there is no such file, or it is not right in any way: libgit2 may
   know better, or what is wrong. Memory: the file and the contents. May be called from several
   threads. */
MUST_CHECK int loose_find(
    bool *found,
    struct buf *out,
    const struct store *store,
    const git_oid *id,
    git_object_t type,
    uint64_t limit
);

#endif
