/* Where an exported file goes: into a directory that is being written, or nowhere, where only its
   digest is asked for. Either way it is hashed on the way. */
#ifndef APPLY_SINK_H
#define APPLY_SINK_H

#include "format/file.h"

struct sink {
    int fd; /* -1: nothing is written */
    const char *path;
    struct hash hash;
    uint64_t bytes;
    struct progress_sum *progress;
};

#define AUTO_SINK(name) __attribute__((cleanup(sink_release))) struct sink name = {.fd = -1}

/* `dir` NULL: only hashed. `path`, below `dir`, must outlive the sink. */
MUST_CHECK int
sink_open(struct sink *out, struct outdir *dir, const char *path, struct progress_sum *progress);
MUST_CHECK int sink_write(struct sink *sink, const void *data, size_t len);
/* Zero bytes, at most 64. */
MUST_CHECK int sink_pad(struct sink *sink, uint64_t len);
/* Append the file to the list, in which it must be the last one by path. */
MUST_CHECK int sink_close(struct manifest *files, struct sink *sink);
void sink_release(struct sink *sink);

#endif
