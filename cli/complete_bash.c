/* Completion for bash 3.2 and later. See complete.h. */
#include "cli/complete.h"
#include "cli/options.h"

static const char head[] =
    "# bash completion for vera(1), written by: vera completion bash\n"
    "\n"
    "# The repository: $VERA_REPO, else the nearest .vera upwards from directory $1.\n"
    "_vera_repository() {\n"
    "    local path\n"
    "    if [[ ${VERA_REPO-} ]]; then\n"
    "        printf '%s' \"$VERA_REPO\"\n"
    "        return\n"
    "    fi\n"
    "    path=$(cd -- \"$1\" 2>/dev/null && pwd -P) || return\n"
    "    while [[ $path && ! -d $path/.vera ]]; do\n"
    "        path=${path%/*}\n"
    "    done\n"
    "    [[ -d $path/.vera ]] && printf '%s' \"$path/.vera\"\n"
    "}\n"
    "\n"
    "# Offer the lines of standard input that begin with what was typed. They are never expanded:\n"
    "# a branch may be called anything.\n"
    "_vera_offer() {\n"
    "    local line quoted\n"
    "    while IFS= read -r line; do\n"
    "        if [[ $line && $line == \"$current\"* ]]; then\n"
    "            printf -v quoted '%q' \"$line\"\n"
    "            COMPREPLY+=(\"$quoted\")\n"
    "        fi\n"
    "    done\n"
    "}\n"
    "\n"
    "_vera_refs() {\n"
    "    local repository\n"
    "    repository=$(_vera_repository \"$directory\") && [[ $repository ]] || return\n"
    "    _vera_offer <<<\"$(git --git-dir=\"$repository\" for-each-ref \\\n"
    "        --format='%(refname:lstrip=2)' \"$@\" 2>/dev/null)\"\n"
    "}\n"
    "\n"
    "_vera_paths() {\n"
    "    compopt -o filenames 2>/dev/null\n"
    "    local line\n"
    "    while IFS= read -r line; do\n"
    "        [[ $line ]] && COMPREPLY+=(\"$line\")\n"
    "    done <<<\"$(compgen \"$1\" -- \"$current\")\"\n"
    "}\n"
    "\n";

static const char tail[] =
    "_vera() {\n"
    "    local current=${COMP_WORDS[COMP_CWORD]} directory=. command='' option='' kind=''\n"
    "    local ended='' word\n"
    "    local -i i operands=0\n"
    "    COMPREPLY=()\n"
    "    for ((i = 1; i < COMP_CWORD; i++)); do\n"
    "        word=${COMP_WORDS[i]}\n"
    "        if [[ $kind ]]; then\n"
    "            [[ $word == = ]] && continue\n"
    "            [[ $option == -C ]] && directory=$word\n"
    "            kind=''\n"
    "        elif [[ $word == -- ]]; then\n"
    "            ended=1\n"
    "        elif [[ $word == -?* && ! $ended ]]; then\n"
    "            option=$word\n"
    "            _vera_value \"$command\" \"$word\"\n"
    "        elif [[ ! $command ]]; then\n"
    "            command=$word\n"
    "        else\n"
    "            operands+=1\n"
    "        fi\n"
    "    done\n"
    "    if [[ $kind ]]; then\n"
    "        [[ $current == = ]] && current=''\n"
    "    elif [[ $current == -* && ! $ended ]]; then\n"
    "        kind=words:$(_vera_options \"$command\")\n"
    "    elif [[ ! $command ]]; then\n"
    "        kind='command'\n"
    "    else\n"
    "        _vera_operand \"$command\" \"$operands\"\n"
    "    fi\n"
    "    case $kind in\n"
    "    file) _vera_paths -f ;;\n"
    "    directory) _vera_paths -d ;;\n"
    "    revision)\n"
    "        _vera_refs refs/heads refs/tags refs/remotes\n"
    "        [[ $current == */* ]] && _vera_paths -d\n"
    "        ;;\n"
    "    branch) _vera_refs refs/heads ;;\n"
    "    tag) _vera_refs refs/tags ;;\n"
    "    command) _vera_offer <<<\"$_vera_commands\" ;;\n"
    "    words:*) _vera_offer <<<\"${kind#words:}\" ;;\n"
    "    esac\n"
    "}\n"
    "\n"
    "complete -F _vera vera\n";

/* A line "kind=..." of shell: words stand below each other. */
static void print_kind(FILE *file, enum complete complete, const char *words)
{
    if (complete != COMPLETE_WORDS) {
        fprintf(file, "kind='%s'", complete_name(complete));
        return;
    }
    fputs("kind=words:$'", file);
    for (; *words; words++)
        fputs(*words == '|' ? "\\n" : (const char[]){*words, '\0'}, file);
    fputc('\'', file);
}

static void print_names(FILE *file, const struct option *option, const char *separator)
{
    if (option->letter)
        fprintf(file, "-%c%s", option->letter, option->name[0] ? separator : "");
    if (option->name[0])
        fprintf(file, "--%s", option->name);
}

static void print_value(FILE *file, const char *command, const struct option *option)
{
    if (option->kind == OPTION_FLAG)
        return;
    fputs("    ", file);
    if (option->letter)
        fprintf(file, "'%s -%c'%s", command, option->letter, option->name[0] ? " | " : "");
    if (option->name[0])
        fprintf(file, "'%s --%s'", command, option->name);
    fputs(") ", file);
    print_kind(file, option->complete, option->value);
    fputs(" ;;\n", file);
}

static void print_values(FILE *file)
{
    const struct option *option;

    fputs(
        "# $1: command, $2: its option. Sets kind to what its value is, nothing for a flag.\n"
        "_vera_value() {\n"
        "    kind=\n"
        "    case \"$1 $2\" in\n",
        file
    );
    for (option = global_options; option->name; option++)
        print_value(file, "", option);
    for (size_t i = 0; commands[i]; i++)
        for (size_t n = 0; (option = command_option(commands[i], n)); n++)
            print_value(file, commands[i]->name, option);
    fputs("    esac\n}\n\n", file);
}

static void print_options(FILE *file)
{
    const struct option *option;

    fputs("_vera_options() {\n    case $1 in\n    '') printf '%s\\n'", file);
    for (option = global_options; option->name; option++) {
        fputc(' ', file);
        print_names(file, option, " ");
    }
    fputs(" ;;\n", file);
    for (size_t i = 0; commands[i]; i++) {
        fprintf(file, "    %s) printf '%%s\\n'", commands[i]->name);
        for (size_t n = 0; (option = command_option(commands[i], n)); n++) {
            fputc(' ', file);
            print_names(file, option, " ");
        }
        fputs(" ;;\n", file);
    }
    fputs("    esac\n}\n\n", file);
}

static void print_operands(FILE *file)
{
    const struct operand *operand;

    fputs(
        "# $1: command, $2: how many operands stand before. Sets kind.\n"
        "_vera_operand() {\n"
        "    kind=\n"
        "    case \"$1 $2\" in\n",
        file
    );
    for (size_t i = 0; commands[i]; i++) {
        for (size_t n = 0; (operand = command_operand(commands[i], n)); n++) {
            if (operand->repeated)
                fprintf(file, "    '%s '*) ", commands[i]->name);
            else
                fprintf(file, "    '%s %zu') ", commands[i]->name, n);
            print_kind(file, operand->complete, operand->name);
            fputs(" ;;\n", file);
        }
    }
    fputs("    esac\n}\n\n", file);
}

void complete_bash(FILE *file)
{
    fputs(head, file);
    fputs("_vera_commands=$'", file);
    for (size_t i = 0; commands[i]; i++)
        fprintf(file, "%s%s", i ? "\\n" : "", commands[i]->name);
    fputs("'\n\n", file);
    print_values(file);
    print_options(file);
    print_operands(file);
    fputs(tail, file);
}
