/* What fetch, pull, clone and push share: what moved, in words and in JSON. */
#ifndef CLI_TRANSFER_H
#define CLI_TRANSFER_H

#include "cli/cli.h"
#include "store/fetch.h"

/* A line for each ref, and one for what came. What was refused is told on stderr. */
void transfer_say(struct cli *cli, const char *from, const struct transfer_result *result);

/* An entry of "updated": a ref's whole name, where it was and where it is; NULL: it was, or is,
   nowhere. */
void transfer_ref_json(
    struct json_writer *writer,
    const char *name,
    const git_oid *old,
    const git_oid *new,
    enum push_status status
);

/* "updated", "bytes", "objects", "digest" of the object that is begun. */
void transfer_json(struct json_writer *writer, const struct transfer_result *result);
/* The whole object, where --json asks for one. */
MUST_CHECK int transfer_print_json(struct cli *cli, const struct transfer_result *result);

/* The remote that is meant: `given`, else that of the current branch's upstream, else origin. Both
   owned by the caller. `merge` (may be NULL): the upstream's branch where it is of this remote,
   else NULL. */
MUST_CHECK int transfer_remote(char **out, char **merge, struct cli *cli, const char *given);

/* The value of --max-bytes, 0 where it was not given. */
MUST_CHECK int transfer_limit(uint64_t *out, const struct cli_count *given);

#define TRANSFER_LIMIT_HELP "Refuse more than N bytes (16 GiB)"

#endif
