/* vera completion: a script for the shell. */
#include <string.h>

#include "cli/complete.h"

const char *complete_name(enum complete complete)
{
    static const char *const names[] = {
        [COMPLETE_NOTHING] = "nothing",     [COMPLETE_FILE] = "file",
        [COMPLETE_DIRECTORY] = "directory", [COMPLETE_REVISION] = "revision",
        [COMPLETE_BRANCH] = "branch",       [COMPLETE_TAG] = "tag",
        [COMPLETE_COMMAND] = "command",     [COMPLETE_WORDS] = "words",
    };

    return names[complete];
}

void complete_print_words(FILE *file, const char *words)
{
    for (; *words; words++)
        fputc(*words == '|' ? ' ' : *words, file);
}

static int run(struct cli *cli, const void *arguments)
{
    const char *shell = cli->operands[0];

    (void)arguments;
    if (strcmp(shell, "bash") == 0)
        complete_bash(cli->human);
    else if (strcmp(shell, "zsh") == 0)
        complete_zsh(cli->human);
    else
        complete_fish(cli->human);
    return 0;
}

static const struct operand operands[] = {
    {"bash|zsh|fish", false, false, COMPLETE_WORDS, "The shell"},
    {0},
};

const struct command command_completion = {
    .name = "completion",
    .run = run,
    .no_json = true,
    .summary = "Print a script that completes commands, options and names",
    .details = "Where vera was installed by a package or by meson install, the shells find these "
               "scripts by themselves.",
    .examples = "source <(vera completion bash)\n"
                "vera completion zsh > ~/.zfunc/_vera\n"
                "vera completion fish > ~/.config/fish/completions/vera.fish",
    .operands = operands,
};
