/*
 * Another program, run to its end: git for its credential helpers, ssh for its configuration. What
 * it reads and writes may be a secret, so neither is ever in a file or in memory that grows.
 */
#ifndef STORE_PROCESS_H
#define STORE_PROCESS_H

#include "format/buf.h"

struct process {
    const char *const *argv; /* argv[0] is looked for in PATH; NULL behind the last */
    const char *const
        *environment; /* changes, NULL behind the last: "NAME=value", "NAME" removes */
    bool is_quiet;    /* its standard error goes nowhere */
    struct bytes input;
    char *output; /* the caller's, `output_size` bytes, ended by a NUL */
    size_t output_size;
};

/* Its exit status, 128 and more for a signal. It works in "/", and has back
   the limits on memory, processor time and files that this process was given. E_NOTFOUND (no such
   program), E_LIMIT (more output than there is room for), E_IO, E_NOMEM. */
MUST_CHECK int process_run(int *status, const struct process *process);

#endif
