/*
 * Command lines: from a command's table of options and operands to its struct of arguments.
 *
 * As in git and getopt_long: options and operands may be mixed, "--" ends the options, flags of one
 * letter may be put together, a value follows its option as the next argument, after "=" or after
 * the letter. Names are never abbreviated, so a new option breaks no script. "-" and what looks
 * like a negative number are operands.
 */
#ifndef CLI_OPTIONS_H
#define CLI_OPTIONS_H

#include "cli/cli.h"

/* What every command takes besides its own. */
struct common_arguments {
    bool help, json, progress, no_progress;
};

struct arguments {
    struct common_arguments common;
    void *own; /* struct of the command, arguments_size bytes */
    const char **operands;
    size_t operand_count;
    const struct command *command;
};
#define AUTO_ARGUMENTS(name) __attribute__((cleanup(arguments_release))) struct arguments name = {0}

/* Parse what follows the command's name; argv must outlive `out`. CLI_USAGE, E_NOMEM. With --help
   the operands are not judged. */
MUST_CHECK int
arguments_parse(struct arguments *out, const struct command *command, int argc, char *const *argv);
void arguments_release(struct arguments *arguments);

/* Was --json among the arguments? Asked where they could not be parsed. */
bool arguments_want_json(int argc, char *const *argv);

/* The i-th option of a command: its own first, then the common ones that it takes; NULL after the
   last. */
const struct option *command_option(const struct command *command, size_t i);

/* The i-th of the options that every command takes (but those without JSON, which take only the
   last, --help); NULL after the last. */
const struct option *common_option(size_t i);

/* The i-th operand of its table; NULL after the last. */
const struct operand *command_operand(const struct command *command, size_t i);

/* What stands before the command: -C, --help, --version; for help, manual page and completion. */
extern const struct option global_options[];

const struct command *command_find(const char *name);

/* CLI_USAGE for a command that does not exist, with the nearest one's name. */
MUST_CHECK int command_unknown(const char *name);

/* CLI_USAGE for an option before the command that does not exist. */
MUST_CHECK int global_option_unknown(const char *argument);

#endif
