/* What branch, switch, tag and reset share: revisions, and the lines that they print. */
#ifndef CLI_REFS_H
#define CLI_REFS_H

#include "cli/describe.h"

/* The commit of a revision, NULL for HEAD. */
MUST_CHECK int ref_resolve(struct commit_id *out, struct cli *cli, const char *revision);

/* "name", "commit", "previous" of switch, tag and reset: what the ref is now, and what it was;
   commits may be NULL. `previous_branch` where switch left a branch. */
MUST_CHECK int ref_json(
    const char *name,
    const struct commit_id *commit,
    const struct commit_id *previous,
    const char *previous_branch
);

/* "3f2a9c1 title" of a commit. */
MUST_CHECK int ref_title(struct buf *out, struct cli *cli, const struct commit_id *commit);

/* The operand at `index`, or NULL. */
const char *operand_at(const struct cli *cli, size_t index);
/* E_INVALID (usage) where there are more than `max` operands. */
MUST_CHECK int operands_at_most(const struct cli *cli, size_t max);

#endif
