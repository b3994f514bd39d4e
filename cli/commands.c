/* All commands, in the order of the help: from the first day's to the seldom ones. */
#include "cli/cli.h"

const struct command *const commands[] = {
    &command_init,
    &command_completion,
    &command_help,
    NULL,
};
