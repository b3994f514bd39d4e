/* Write pieces of one of the output's shards into a file that is open (apply/work.h). */
#ifndef APPLY_SHARD_WRITE_H
#define APPLY_SHARD_WRITE_H

#include "apply/work.h"

struct shard_file {
    int fd;
    uint64_t shared;  /* this many bytes at its beginning are the base's already */
    const char *path; /* for errors */
};

/* Pieces [begin, end), all of one shard, with the stream's threads. Grows result->bytes_written and
   bytes_cloned, as does the progress. Once a pin does not match, nothing more is written, and what
   is left is only hashed, so that all modules that differ are known (stream_check_pins). */
MUST_CHECK int shard_write(
    struct apply_result *result,
    struct stream *stream,
    const struct work *work,
    size_t begin,
    size_t end,
    const struct shard_file *file
);

#endif
