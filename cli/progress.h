/*
 * Long work drawn on one line of the terminal: bytes, share, rate and time left.
 *
 * Drawn on stderr where that is a terminal and the work has taken more than half a second; forced,
 * from the first report on and anywhere. The line fits into 80 columns, stays one line where the
 * terminal is narrower, and is wiped once the work is done or somebody has something to say.
 */
#ifndef CLI_PROGRESS_H
#define CLI_PROGRESS_H

#include <stdbool.h>

#include "format/interrupt.h"

struct cli_progress {
    struct progress base;
    bool wanted, forced;
    uint64_t begin;       /* times in nanoseconds: when the program began, */
    uint64_t drawn_at;    /* when the line was last drawn, */
    uint64_t phase;       /* when this piece of work began */
    uint64_t done, total; /* its last report */
    size_t width;         /* columns of the line that stands there; 0: none does */
};

void progress_init(struct cli_progress *out);

/* What --progress and --no-progress ask for; the latter wins. */
void progress_want(struct cli_progress *progress, bool on, bool off);

/* Wipe the line. `progress` was made by progress_init(). */
void progress_clear(struct progress *progress);

#endif
