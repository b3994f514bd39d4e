/* Which branches and tags stand at a commit: "(HEAD -> main, tag: v1)" behind its id. */
#ifndef CLI_DECORATE_H
#define CLI_DECORATE_H

#include "cli/cli.h"

struct decorations {
    struct refs branches, tags, remotes;
    struct decoration *sorted; /* by commit; the current branch, branches, remotes, tags, by name */
    size_t count;
};

#define AUTO_DECORATIONS(name)                                                                     \
    __attribute__((cleanup(decorations_release))) struct decorations name = {0}

MUST_CHECK int decorations_read(struct decorations *out, struct cli *cli);
/* Of refs that were read already, which are taken over. */
MUST_CHECK int decorations_take(
    struct decorations *out, struct refs *branches, struct refs *tags, struct refs *remotes
);
void decorations_release(struct decorations *decorations);

/* " (HEAD -> main, tag: v1)", or nothing. */
MUST_CHECK int
decorate(struct buf *out, const struct decorations *decorations, const struct commit_id *commit);

/* The branches whose tip this is, as a JSON array. */
void decorate_json(
    struct json_writer *writer,
    const struct decorations *decorations,
    const struct commit_id *commit
);

/* The first of them, the current one before others; NULL where there is none. */
const char *decorate_branch(const struct decorations *decorations, const struct commit_id *commit);

#endif
