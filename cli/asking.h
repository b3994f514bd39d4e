/* Ask a running model over its socket (format/control.h), and wait for its answer. */
#ifndef CLI_ASKING_H
#define CLI_ASKING_H

#include "format/control.h"
#include "format/interrupt.h"

struct asking {
    const char *path; /* of the socket */
    enum control_verb verb;
    struct bytes bundle; /* of a swap */
    uint64_t timeout;    /* seconds, for all of it */
    struct progress *progress;
};

/* What the model computes with afterwards. Its errors become ours, with their hints. E_NOTFOUND
   where nobody listens; E_CONFLICT where there is no answer in time, or the connection ends
   without one; E_INTERRUPTED. */
MUST_CHECK int ask(struct control_state *out, const struct asking *asking);

#endif
