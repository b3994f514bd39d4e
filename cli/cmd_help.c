/* vera help: the list of commands, or one of them. */
#include "cli/help.h"
#include "cli/options.h"

static int run(struct cli *cli, const void *arguments)
{
    const struct command *command;

    (void)arguments;
    if (cli->operand_count == 0) {
        help_overview(cli->human);
        return 0;
    }
    command = command_find(cli->operands[0]);
    if (!command)
        return command_unknown(cli->operands[0]);
    help_command(cli->human, command);
    return 0;
}

static const struct operand operands[] = {
    {"COMMAND", true, false, COMPLETE_COMMAND, "The one to describe (a list of all)"},
    {0},
};

const struct command command_help = {
    .name = "help",
    .run = run,
    .no_json = true,
    .summary = "Say what there is, or describe a command",
    .examples = "vera help\n"
                "vera help commit",
    .operands = operands,
};
