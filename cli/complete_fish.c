/* Completion for fish. See complete.h. */
#include "cli/complete.h"
#include "cli/options.h"

static const char head[] =
    "# fish completion for vera(1), written by: vera completion fish\n"
    "\n"
    "# The words before the cursor without the program and its own options: the command first. "
    "With\n"
    "# --directory what -C said instead.\n"
    "function __vera_words\n"
    "    set -l words (commandline -opc)\n"
    "    set -l directory .\n"
    "    set -e words[1]\n"
    "    while string match -q -- '-*' \"$words[1]\"\n"
    "        if test \"$words[1]\" = -C\n"
    "            set -e words[1]\n"
    "            set directory $words[1]\n"
    "        end\n"
    "        set -e words[1]\n"
    "    end\n"
    "    test \"$argv[1]\" = --directory && set words $directory\n"
    "    printf '%s\\n' $words\n"
    "end\n"
    "\n"
    "# Is $argv[1] the command? Empty: none was typed yet.\n"
    "function __vera_is\n"
    "    set -l words (__vera_words)\n"
    "    test \"$words[1]\" = \"$argv[1]\"\n"
    "end\n"
    "\n"
    "# Names under the folders $argv of refs in the repository: $VERA_REPO, else the nearest "
    ".vera.\n"
    "function __vera_refs\n"
    "    set -l repository $VERA_REPO\n"
    "    if test -z \"$repository\"\n"
    "        set -l dir (realpath -- (__vera_words --directory))\n"
    "        while not test -d $dir/.vera; and test $dir != /\n"
    "            set dir (dirname -- $dir)\n"
    "        end\n"
    "        set repository $dir/.vera\n"
    "    end\n"
    "    git --git-dir=$repository for-each-ref --format='%(refname:lstrip=2)' $argv 2>/dev/null\n"
    "end\n"
    "\n"
    "function __vera_revisions\n"
    "    __vera_refs refs/heads refs/tags refs/remotes\n"
    "    string match -q '*/*' -- (commandline -ct) && __fish_complete_directories\n"
    "end\n"
    "\n"
    "complete -c vera -f\n";

static void print_quoted(FILE *file, const char *text)
{
    fputc('\'', file);
    for (; *text; text++) {
        if (*text == '\'' || *text == '\\')
            fputc('\\', file);
        fputc(*text, file);
    }
    fputc('\'', file);
}

/* " -a '...'": what is offered. */
static void print_action(FILE *file, enum complete complete, const char *words)
{
    switch (complete) {
    case COMPLETE_NOTHING:
        break;
    case COMPLETE_FILE:
        fputs(" -F", file);
        break;
    case COMPLETE_DIRECTORY:
        fputs(" -a '(__fish_complete_directories)'", file);
        break;
    case COMPLETE_WORDS:
        fputs(" -a '", file);
        complete_print_words(file, words);
        fputc('\'', file);
        break;
    case COMPLETE_REVISION:
        fputs(" -a '(__vera_revisions)'", file);
        break;
    case COMPLETE_BRANCH:
        fputs(" -a '(__vera_refs refs/heads)'", file);
        break;
    case COMPLETE_TAG:
        fputs(" -a '(__vera_refs refs/tags)'", file);
        break;
    case COMPLETE_COMMAND:
        fputs(" -a '", file);
        for (size_t i = 0; commands[i]; i++)
            fprintf(file, "%s%s", i ? " " : "", commands[i]->name);
        fputc('\'', file);
        break;
    }
}

static void print_option(FILE *file, const char *command, const struct option *option)
{
    fprintf(file, "complete -c vera -n '__vera_is \"%s\"'", command);
    if (option->letter)
        fprintf(file, " -s %c", option->letter);
    if (option->name[0])
        fprintf(file, " -l %s", option->name);
    if (option->kind != OPTION_FLAG) {
        fputs(" -r", file);
        print_action(file, option->complete, option->value);
    }
    fputs(" -d ", file);
    print_quoted(file, option->help);
    fputc('\n', file);
}

static void print_command(FILE *file, const struct command *command)
{
    const struct operand *operand;
    const struct option *option;

    fprintf(file, "\ncomplete -c vera -n '__vera_is \"\"' -a %s -d ", command->name);
    print_quoted(file, command->summary);
    fputc('\n', file);
    for (size_t i = 0; (operand = command_operand(command, i)); i++) {
        if (operand->complete == COMPLETE_NOTHING)
            continue;
        fprintf(file, "complete -c vera -n '__vera_is \"%s\"'", command->name);
        print_action(file, operand->complete, operand->name);
        fputc('\n', file);
    }
    for (size_t i = 0; (option = command_option(command, i)); i++)
        print_option(file, command->name, option);
}

void complete_fish(FILE *file)
{
    fputs(head, file);
    for (const struct option *option = global_options; option->name; option++)
        print_option(file, "", option);
    for (size_t i = 0; commands[i]; i++)
        print_command(file, commands[i]);
}
