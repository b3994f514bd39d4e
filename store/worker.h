/*
 * Work that another machine has a say in, done in a process of its own: with limits on memory, on
 * the size of files and on time, so that whatever comes from there, this process goes on. The two
 * talk in records over a pipe. The other one is killed when this one dies.
 */
#ifndef STORE_WORKER_H
#define STORE_WORKER_H

#include "format/buf.h"
#include "format/interrupt.h"

struct worker {
    const char *name;       /* the URL, for errors */
    uint64_t file_bytes;    /* a file that grows larger is an error of writing */
    unsigned stall_seconds; /* no sign of life for so long ends it; 0: 60 */
    void *context;          /* of both functions */
    int (*work)(void *context, struct worker *worker); /* in the other process */
    /* In this one: a record. Returns an error, which ends the other one, or 0. */
    int (*take)(void *context, uint32_t type, struct bytes record);
    struct progress *progress;
    /* private */
    int pipe;
};

/* 0 where work() returned 0. Its error, message and hint, else; E_IO where it stalled or died,
   E_LIMIT, E_INTERRUPTED. */
MUST_CHECK int worker_run(struct worker *worker);

/* In the other process: a record for take(), its type below 2^31; so many bytes are done; a sign of
   life, and, with alive false, that none is due (nothing is waited for any more). */
MUST_CHECK int
worker_tell(struct worker *worker, uint32_t type, struct bytes first, struct bytes second);
MUST_CHECK int worker_progress(struct worker *worker, uint64_t bytes);
void worker_alive(struct worker *worker, bool is_waiting);
/* From now on it has no more memory than this, of LIMIT_ARRIVING_MEMORY at most. */
void worker_memory(uint64_t bytes);

#endif
