/* Completion for zsh: _arguments does the work. See complete.h. */
#include <string.h>

#include "cli/complete.h"
#include "cli/options.h"

static const char head[] =
    "#compdef vera\n"
    "# zsh completion for vera(1), written by: vera completion zsh\n"
    "\n"
    "# Names under the folders $@ of refs in the repository: $VERA_REPO, else the nearest .vera.\n"
    "_vera_refs() {\n"
    "  local repository=$VERA_REPO dir=${vera_directory:-.}\n"
    "  local -a refs\n"
    "  if [[ -z $repository ]]; then\n"
    "    dir=${dir:A}\n"
    "    while [[ $dir != / && ! -d $dir/.vera ]]; do dir=${dir:h}; done\n"
    "    repository=$dir/.vera\n"
    "  fi\n"
    "  refs=(${(f)\"$(git --git-dir=$repository for-each-ref \\\n"
    "    --format='%(refname:lstrip=2)' $@ 2>/dev/null)\"})\n"
    "  compadd -a refs\n"
    "}\n"
    "_vera_revision() {\n"
    "  _vera_refs refs/heads refs/tags refs/remotes\n"
    "  [[ $PREFIX == */* ]] && _directories\n"
    "}\n"
    "_vera_branch() { _vera_refs refs/heads }\n"
    "_vera_tag() { _vera_refs refs/tags }\n"
    "\n";

static const char tail[] = "_vera() {\n"
                           "  local curcontext=$curcontext state vera_directory\n"
                           "  typeset -A opt_args\n"
                           "  _arguments -C -S \\\n";

static const char end[] = "    '1:command:_vera_command' '*::argument:->command'\n"
                          "  [[ $state == command ]] || return\n"
                          "  vera_directory=${(Q)opt_args[-C]}\n"
                          "  (( $+functions[_vera-$words[1]] )) && _vera-$words[1]\n"
                          "}\n"
                          "\n"
                          "if [[ $funcstack[1] == _vera ]]; then\n"
                          "  _vera \"$@\"\n"
                          "else\n"
                          "  compdef _vera vera\n"
                          "fi\n";

/* Inside single quotes, for _arguments: a backslash before what means something to it. */
static void print_escaped(FILE *file, const char *text)
{
    for (; *text; text++) {
        if (*text == '\'')
            fputs("'\\''", file);
        else if (strchr("[]:\\", *text))
            fprintf(file, "\\%c", *text);
        else
            fputc(*text, file);
    }
}

/* ":DIR:_directories" */
static void print_action(FILE *file, const char *name, enum complete complete)
{
    fputc(':', file);
    print_escaped(file, name);
    fputc(':', file);
    switch (complete) {
    case COMPLETE_NOTHING:
        fputc(' ', file);
        break;
    case COMPLETE_FILE:
        fputs("_files", file);
        break;
    case COMPLETE_DIRECTORY:
        fputs("_directories", file);
        break;
    case COMPLETE_WORDS:
        fputc('(', file);
        complete_print_words(file, name);
        fputc(')', file);
        break;
    case COMPLETE_REVISION:
    case COMPLETE_BRANCH:
    case COMPLETE_TAG:
    case COMPLETE_COMMAND:
        fprintf(file, "_vera_%s", complete_name(complete));
        break;
    }
}

/* One specification for each of its names; one of them excludes the other unless it is a list. */
static void print_option(FILE *file, const struct option *option)
{
    bool has_value = option->kind != OPTION_FLAG, both = option->letter && option->name[0];

    for (int is_long = 0; is_long <= 1; is_long++) {
        if (is_long ? !option->name[0] : !option->letter)
            continue;
        fputs("    '", file);
        if (option->kind == OPTION_LIST)
            fputc('*', file);
        else if (both)
            fprintf(file, "(-%c --%s)", option->letter, option->name);
        if (is_long)
            fprintf(file, "--%s%s[", option->name, has_value ? "=" : "");
        else
            fprintf(file, "-%c%s[", option->letter, has_value ? "+" : "");
        print_escaped(file, option->help);
        fputc(']', file);
        if (has_value)
            print_action(file, option->value, option->complete);
        fputs("' \\\n", file);
    }
}

static void print_command(FILE *file, const struct command *command)
{
    const struct operand *operand;
    const struct option *option;

    fprintf(file, "_vera-%s() {\n  _arguments -s -S \\\n", command->name);
    for (size_t i = 0; (option = command_option(command, i)); i++)
        print_option(file, option);
    for (size_t i = 0; (operand = command_operand(command, i)); i++) {
        if (operand->repeated)
            fputs("    '*", file);
        else
            fprintf(file, "    '%zu%s", i + 1, operand->optional ? ":" : "");
        print_action(file, operand->name, operand->complete);
        fputs("' \\\n", file);
    }
    fputs("    && return\n}\n\n", file);
}

void complete_zsh(FILE *file)
{
    fputs(head, file);
    fputs("_vera_command() {\n  local -a commands=(\n", file);
    for (size_t i = 0; commands[i]; i++) {
        fprintf(file, "    '%s:", commands[i]->name);
        print_escaped(file, commands[i]->summary);
        fputs("'\n", file);
    }
    fputs("  )\n  _describe command commands\n}\n\n", file);
    for (size_t i = 0; commands[i]; i++)
        print_command(file, commands[i]);
    fputs(tail, file);
    for (const struct option *option = global_options; option->name; option++)
        print_option(file, option);
    fputs(end, file);
}
