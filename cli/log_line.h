/* One version in one line, or as one JSON object: what log and query print. */
#ifndef CLI_LOG_LINE_H
#define CLI_LOG_LINE_H

#include "cli/decorate.h"

MUST_CHECK int
log_version_json(const struct decorations *decorations, const struct version *version);

/* Append the commit, the snapshot, what stands there, the message's first line and the metrics. */
MUST_CHECK int log_version_line(
    struct buf *out, const struct decorations *decorations, const struct version *version
);

#endif
