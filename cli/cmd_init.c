/* vera init: create a repository. */
#include "cli/cli.h"

static int run(struct cli *cli, const void *arguments)
{
    const char *dir = cli->operand_count ? cli->operands[0] : ".";
    struct json_writer writer;
    AUTO_FREE(char, path);
    AUTO_BUF(buf);

    (void)arguments;
    int err = store_init(&path, dir);
    if (err < 0)
        return err;
    cli_say(cli, "created %s", path);
    if (!cli->json)
        return 0;
    cli_json_begin(&writer, &buf);
    json_write_key(&writer, "repository");
    json_write_text(&writer, path);
    return cli_json_end(&writer);
}

static const struct operand operands[] = {
    {"DIR", true, false, COMPLETE_DIRECTORY, "Where to create it (the current directory)"},
    {0},
};

const struct command command_init = {
    .name = "init",
    .run = run,
    .summary = "Create a repository",
    .details =
        "The repository is the folder .vera in DIR: a bare git repository, which git clone, git "
        "fsck and every git host understand. DIR is created where it does not exist.",
    .examples = "vera init\n"
                "vera init ~/adapters",
    .operands = operands,
};
