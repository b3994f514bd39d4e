/* The parser of command lines. See options.h. */
#include "cli/options.h"

#include <stdlib.h>
#include <string.h>

#include "format/nearest.h"
#include "format/text.h"

struct parser {
    struct arguments *out;
    int argc, at; /* the next argument */
    char *const *argv;
};

static const struct option common_options[] = {
    {"json", 0, OPTION_FLAG, offsetof(struct common_arguments, json), NULL, COMPLETE_NOTHING,
     "Print the result as JSON"},
    {"progress", 0, OPTION_FLAG, offsetof(struct common_arguments, progress), NULL,
     COMPLETE_NOTHING, "Show progress even where stderr is no terminal"},
    {"no-progress", 0, OPTION_FLAG, offsetof(struct common_arguments, no_progress), NULL,
     COMPLETE_NOTHING, "Show no progress"},
    {"help", 'h', OPTION_FLAG, offsetof(struct common_arguments, help), NULL, COMPLETE_NOTHING,
     "Print this help"},
};
#define COMMON_COUNT (sizeof(common_options) / sizeof(common_options[0]))

/* main() reads these itself, so they have no target. */
const struct option global_options[] = {
    {"", 'C', OPTION_TEXT, 0, "DIR", COMPLETE_DIRECTORY, "Run as if started in DIR"},
    {"help", 'h', OPTION_FLAG, 0, NULL, COMPLETE_NOTHING, "List the commands"},
    {"version", 0, OPTION_FLAG, 0, NULL, COMPLETE_NOTHING, "Print the program's version"},
    {0},
};

const struct option *common_option(size_t i)
{
    return i < COMMON_COUNT ? &common_options[i] : NULL;
}

const struct option *command_option(const struct command *command, size_t i)
{
    size_t own = 0, first = command->no_json ? COMMON_COUNT - 1 : 0; /* --help is the last */

    while (command->options && command->options[own].name) {
        if (own == i)
            return &command->options[i];
        own++;
    }
    return common_option(first + i - own);
}

const struct operand *command_operand(const struct command *command, size_t i)
{
    const struct operand *operand = command->operands;

    while (operand && operand->name && i-- > 0)
        operand++;
    return operand && operand->name ? operand : NULL;
}

/* The operand that the i-th one given is: the last may be repeated. NULL: one too many. */
static const struct operand *operand_at(const struct command *command, size_t i)
{
    const struct operand *operand, *last = NULL;

    for (size_t n = 0; (operand = command_operand(command, n)); n++) {
        if (n == i)
            return operand;
        last = operand;
    }
    return last && last->repeated ? last : NULL;
}

const struct command *command_find(const char *name)
{
    for (size_t i = 0; commands[i]; i++)
        if (strcmp(commands[i]->name, name) == 0)
            return commands[i];
    return NULL;
}

int command_unknown(const char *name)
{
    struct nearest nearest;

    nearest_init(&nearest, name);
    for (size_t i = 0; commands[i]; i++)
        nearest_offer(&nearest, commands[i]->name);
    int err = cli_usage_error("'%s' is no command of vera", name);
    if (nearest.name)
        return error_hint(err, "did you mean 'vera %s'?", nearest.name);
    return error_hint(err, "'vera help' lists the commands");
}

int global_option_unknown(const char *argument)
{
    struct nearest nearest;

    nearest_init(&nearest, argument + strspn(argument, "-"));
    for (const struct option *option = global_options; option->name; option++)
        nearest_offer(&nearest, option->name);
    int err = cli_usage_error("unknown option '%s' before the command", argument);
    if (nearest.name)
        return error_hint(err, "did you mean '--%s'?", nearest.name);
    return error_hint(err, "a command's own options follow its name: vera COMMAND %s", argument);
}

static bool is_common(const struct option *option)
{
    for (size_t i = 0; i < COMMON_COUNT; i++)
        if (option == &common_options[i])
            return true;
    return false;
}

static void *target_of(struct arguments *arguments, const struct option *option)
{
    return (char *)(is_common(option) ? (void *)&arguments->common : arguments->own) +
           option->target;
}

/* `name` has `len` bytes: an option may be followed by "=". */
static const struct option *find_long(const struct command *command, const char *name, size_t len)
{
    const struct option *option;

    for (size_t i = 0; (option = command_option(command, i)); i++)
        if (len > 0 && strlen(option->name) == len && memcmp(option->name, name, len) == 0)
            return option;
    return NULL;
}

static const struct option *find_letter(const struct command *command, char letter)
{
    const struct option *option;

    for (size_t i = 0; (option = command_option(command, i)); i++)
        if (option->letter == letter)
            return option;
    return NULL;
}

/* Is `word` one of "a|b|c"? */
static bool is_word_of(const char *words, const char *word)
{
    size_t len = strlen(word);

    for (const char *at = words; *at; at += *at == '|') {
        size_t n = strcspn(at, "|");
        if (n == len && memcmp(at, word, n) == 0)
            return true;
        at += n;
    }
    return false;
}

static int add_to_list(struct parser *parser, struct cli_list *list, const char *value)
{
    if (!list->values) {
        list->values = array_new((size_t)parser->argc, sizeof(*list->values));
        if (!list->values)
            return E_NOMEM;
    }
    list->values[list->count++] = value;
    return 0;
}

/* `spelled`: the option as it was given, for messages. `value` is NULL for a flag. */
static int put_value(
    struct parser *parser, const struct option *option, const char *spelled, const char *value
)
{
    void *target = target_of(parser->out, option);
    struct cli_count *number = target;

    if (option->complete == COMPLETE_WORDS && !is_word_of(option->value, value))
        return cli_usage_error("option '%s' takes %s, not '%s'", spelled, option->value, value);
    switch (option->kind) {
    case OPTION_FLAG:
        *(bool *)target = true;
        break;
    case OPTION_TEXT:
        *(const char **)target = value;
        break;
    case OPTION_LIST:
        return add_to_list(parser, target, value);
    case OPTION_COUNT:
        if (!text_parse_uint64(&number->value, text_bytes(value)))
            return cli_usage_error("option '%s' takes a number, not '%s'", spelled, value);
        number->given = true;
        break;
    }
    return 0;
}

/* The value is `attached`, or else the next argument. */
static int take_value(
    struct parser *parser, const struct option *option, const char *spelled, const char *attached
)
{
    if (!attached) {
        if (parser->at == parser->argc)
            return cli_usage_error("option '%s' needs a value, %s", spelled, option->value);
        attached = parser->argv[parser->at++];
    }
    return put_value(parser, option, spelled, attached);
}

static int unknown_option(const struct command *command, const char *spelled)
{
    const struct option *option;
    struct nearest nearest;

    nearest_init(&nearest, spelled + strspn(spelled, "-"));
    for (size_t i = 0; (option = command_option(command, i)); i++)
        nearest_offer(&nearest, option->name);
    int err = cli_usage_error("unknown option '%s'", spelled);
    if (nearest.name)
        return error_hint(err, "did you mean '--%s'?", nearest.name);
    return err;
}

static int parse_long(struct parser *parser, const char *argument)
{
    const struct command *command = parser->out->command;
    size_t len = strcspn(argument, "=");
    const char *attached = argument[len] ? argument + len + 1 : NULL;
    const struct option *option = find_long(command, argument + 2, len - 2);
    AUTO_BUF(name);

    int err = buf_append(&name, argument, len);
    const char *spelled = err < 0 ? NULL : buf_text(&name);
    if (!spelled)
        return E_NOMEM;
    if (!option)
        return unknown_option(command, spelled);
    if (option->kind != OPTION_FLAG)
        return take_value(parser, option, spelled, attached);
    if (attached)
        return cli_usage_error("option '%s' takes no value", spelled);
    return put_value(parser, option, spelled, NULL);
}

static int parse_letters(struct parser *parser, const char *argument)
{
    const struct command *command = parser->out->command;

    for (const char *at = argument + 1; *at; at++) {
        const struct option *option = find_letter(command, *at);
        const char spelled[] = {'-', *at, '\0'};
        if (!option)
            return unknown_option(command, argument[2] ? argument : spelled);
        if (option->kind != OPTION_FLAG)
            return take_value(parser, option, spelled, at[1] ? at + 1 : NULL);
        int err = put_value(parser, option, spelled, NULL);
        if (err < 0)
            return err;
    }
    return 0;
}

static bool is_operand(const char *argument)
{
    return argument[0] != '-' || argument[1] == '\0' || argument[1] == '.' ||
           (argument[1] >= '0' && argument[1] <= '9');
}

static int add_operand(struct arguments *out, const char *text)
{
    const struct operand *operand = operand_at(out->command, out->operand_count);

    if (!operand)
        return cli_usage_error("one operand too many: '%s'", text);
    if (operand->complete == COMPLETE_WORDS && !is_word_of(operand->name, text))
        return cli_usage_error("'%s' is none of %s", text, operand->name);
    out->operands[out->operand_count++] = text;
    return 0;
}

static int parse_all(struct parser *parser)
{
    bool only_operands = false;
    int err = 0;

    while (err == 0 && parser->at < parser->argc) {
        const char *argument = parser->argv[parser->at++];
        if (only_operands || is_operand(argument))
            err = add_operand(parser->out, argument);
        else if (strcmp(argument, "--") == 0)
            only_operands = true;
        else if (argument[1] == '-')
            err = parse_long(parser, argument);
        else
            err = parse_letters(parser, argument);
        if (parser->out->common.help)
            return 0;
    }
    return err;
}

static int check_operands(const struct arguments *arguments)
{
    size_t given = arguments->operand_count;
    const struct operand *next = operand_at(arguments->command, given);

    if (!next || next->optional)
        return 0;
    if (next->repeated && given > 0 && operand_at(arguments->command, given - 1) == next)
        return 0;
    return cli_usage_error("%s is missing", next->name);
}

int arguments_parse(
    struct arguments *out, const struct command *command, int argc, char *const *argv
)
{
    struct parser parser = {.out = out, .argc = argc, .argv = argv};

    *out = (struct arguments){.command = command};
    out->own = array_new(1, command->arguments_size);
    out->operands = array_new((size_t)argc, sizeof(*out->operands));
    if (!out->own || !out->operands)
        return E_NOMEM;
    int err = parse_all(&parser);
    if (err == 0 && !out->common.help)
        err = check_operands(out);
    return err < 0 ? error_wrap(err, "%s", command->name) : 0;
}

void arguments_release(struct arguments *arguments)
{
    const struct option *options = arguments->command ? arguments->command->options : NULL;

    for (size_t i = 0; arguments->own && options && options[i].name; i++)
        if (options[i].kind == OPTION_LIST)
            free(((struct cli_list *)target_of(arguments, &options[i]))->values);
    free(arguments->own);
    free(arguments->operands);
    *arguments = (struct arguments){0};
}

bool arguments_want_json(int argc, char *const *argv)
{
    for (int i = 0; i < argc && strcmp(argv[i], "--") != 0; i++)
        if (strcmp(argv[i], "--json") == 0)
            return true;
    return false;
}
