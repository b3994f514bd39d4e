/* vera reindex: make the index anew. */
#include <inttypes.h>

#include "cli/describe.h"

static int reindex_run(struct cli *cli, const void *arguments)
{
    uint64_t versions = 0, unreadable = 0;
    int err = store_reindex(&versions, &unreadable, cli->store);

    (void)arguments;
    if (err)
        return err;
    cli_say(cli, "%" PRIu64 " versions in the index", versions);
    if (unreadable)
        cli_note(
            "vera: warning: %" PRIu64
            " versions could not be read; 'vera fsck' names what is damaged",
            unreadable
        );
    if (!cli->json)
        return 0;
    struct json_writer writer;
    AUTO_BUF(json);
    cli_json_begin(&writer, &json);
    describe_uint_json(&writer, "versions", versions);
    return cli_json_end(&writer);
}

const struct command command_reindex = {
    .name = "reindex",
    .run = reindex_run,
    .needs = NEEDS_STORE,
    .summary = "Make the index of versions anew",
    .details = "The index makes query fast. It follows the repository by itself, and is made anew "
               "where it is damaged or missing, so this is hardly ever needed.",
    .examples = "vera reindex",
};
