/*
 * Several threads that work off a list: pieces 0, 1, 2 … each go to whoever is free, so that
 * unequal pieces keep every core busy to the end, and reading, arithmetic and writing overlap.
 */
#ifndef FORMAT_CREW_H
#define FORMAT_CREW_H

#include <stddef.h>

#include "format/error.h"

/* Do one piece. A member is used by one thread at a time; 0 is the calling thread. */
typedef int crew_work(void *context, unsigned member, size_t piece);

/* Do pieces [0, count) with members [0, members), at least one. After a failure no piece is begun,
   and of those that failed the first one's code, message and hint are returned. Where a thread
   cannot be had the others do its work. */
MUST_CHECK int crew_run(crew_work *work, void *context, size_t count, unsigned members);

/* How many members suit so many pieces: one for each core that this process may use, but no more
   than there are pieces, and at least one. */
unsigned crew_size(size_t count);

#endif
