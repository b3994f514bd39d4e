/*
 * The manifest: what a snapshot is. Its SHA-256 is the snapshot id.
 *
 *   verastore manifest 1\n
 *   kind vera\n
 *   file <sha256> <size> <path>\n      for each file, in byte order of path
 *
 * Canonical: one meaning, one byte string. Decoding refuses (E_CORRUPT) everything that encoding
 * would not have written: other keys or versions, another order, a path twice, a file that is also
 * a folder, leading zeros, CR, missing last newline.
 */
#ifndef FORMAT_MANIFEST_H
#define FORMAT_MANIFEST_H

#include "format/digest.h"

struct manifest_file {
    struct digest digest;
    uint64_t bytes;
    char *path; /* relative, '/' between; see path_check() */
};

struct manifest {
    struct manifest_file *files; /* in byte order of path, owned */
    size_t count;
};

#define AUTO_MANIFEST(name) __attribute__((cleanup(manifest_release))) struct manifest name = {0}

/* Files in any order; E_INVALID for a path that path_check() refuses or that appears twice. */
MUST_CHECK int manifest_encode(struct buf *out, const struct manifest *manifest);
MUST_CHECK int manifest_decode(struct manifest *out, struct bytes text);
void manifest_release(struct manifest *manifest);
const struct manifest_file *manifest_find(const struct manifest *manifest, const char *path);

/* E_INVALID, naming the path (controls escaped), unless it can be a file of an adapter in every git
   repository and on every file system: UTF-8 without controls or backslash, at most LIMIT_PATH
   bytes, 255 a component, and LIMIT_PATH_DEPTH deep, relative, no empty, "." or ".." component,
   nothing that git reads as
   ".git", ".gitmodules" (any case, NTFS short names, HFS ignorable characters, trailing dots and
   spaces). */
MUST_CHECK int path_check(const char *path);

/* path_check(), and E_INVALID where git fsck refuses this content for the file's name: a
   .gitattributes with a line of more than 2047 bytes or of more than 100 MiB. */
MUST_CHECK int content_check(const char *path, struct bytes data);

#endif
