/* vera fetch: what is new in another repository comes here, as NAME/BRANCH. */
#include <stddef.h>

#include "cli/refs.h"
#include "cli/transfer.h"

struct fetch_arguments {
    bool prune;
    struct cli_count max_bytes;
};

static int fetch_run(struct cli *cli, const void *arguments_of)
{
    const struct fetch_arguments *arguments = arguments_of;
    struct fetch_request request = {.prune = arguments->prune, .progress = cli->progress};
    AUTO_FREE(char, remote);
    AUTO_TRANSFER(result);
    int err;

    if ((err = transfer_limit(&request.max_bytes, &arguments->max_bytes)) ||
        (err = transfer_remote(&remote, NULL, cli, operand_at(cli, 0))))
        return err;
    request.remote = remote;
    if ((err = store_fetch(&result, cli->store, &request)))
        return err;
    transfer_say(cli, remote, &result);
    return transfer_print_json(cli, &result);
}

static const struct operand operands[] = {
    {"REMOTE", true, false, COMPLETE_NOTHING,
     "Where from (the current branch's upstream, else origin)"},
    {0},
};

#define FIELD(name) offsetof(struct fetch_arguments, name)
static const struct option options[] = {
    {"prune", 'p', OPTION_FLAG, FIELD(prune), NULL, COMPLETE_NOTHING,
     "Forget branches that are gone there"},
    {"max-bytes", 0, OPTION_COUNT, FIELD(max_bytes), "N", COMPLETE_NOTHING, TRANSFER_LIMIT_HELP},
    {0},
};

const struct command command_fetch = {
    .name = "fetch",
    .run = fetch_run,
    .needs = NEEDS_STORE,
    .summary = "Bring what is new in another repository, without touching branches",
    .details =
        "Its branches are REMOTE/BRANCH here; tags come along. Everything that is new is read and "
        "checked as vera fsck would before it becomes part of this repository; if anything is "
        "wrong with it, nothing has changed. A tag that is here already never moves.",
    .examples = "vera fetch\n"
                "vera fetch origin --prune\n"
                "vera fetch origin --max-bytes 1000000000",
    .operands = operands,
    .options = options,
    .arguments_size = sizeof(struct fetch_arguments),
};
