/* Help is laid out here and nowhere else; its words are in the tables. See help.h. */
#include "cli/help.h"

#include <assert.h>
#include <string.h>

#include "cli/options.h"

#define COMMAND_INDENT 15 /* columns where what is said of a command, */
#define OPTION_INDENT  26 /* and of an option or operand begins */

/* Columns of a text: bytes that continue a UTF-8 character take none. */
static size_t columns(struct bytes text)
{
    size_t n = 0;

    for (size_t i = 0; i < text.len; i++)
        n += (text.data[i] & 0xc0) != 0x80;
    return n;
}

static void print_bytes(FILE *file, struct bytes text)
{
    fwrite(text.data, 1, text.len, file);
}

/* The next word; the rest of the text in *text. Empty at its end. */
static struct bytes next_word(struct bytes *text)
{
    size_t begin = 0, end;

    while (begin < text->len && (text->data[begin] == ' ' || text->data[begin] == '\n'))
        begin++;
    end = begin;
    while (end < text->len && text->data[end] != ' ' && text->data[end] != '\n')
        end++;
    struct bytes word = {text->data + begin, end - begin};
    *text = (struct bytes){text->data + end, text->len - end};
    return word;
}

/* Filled lines, all but the first indented: the cursor stands at `indent` already. */
static void print_wrapped(FILE *file, struct bytes text, size_t indent)
{
    size_t at = indent;
    struct bytes word;

    while ((word = next_word(&text)).len > 0) {
        size_t width = columns(word);
        if (at > indent && at + 1 + width > HELP_COLUMNS) {
            fprintf(file, "\n%*s", (int)indent, "");
            at = indent;
        } else if (at > indent) {
            fputc(' ', file);
            at++;
        }
        print_bytes(file, word);
        at += width;
    }
    fputc('\n', file);
}

/* "  name    text", the text on a line of its own where the name is long. */
static void print_row(FILE *file, const char *name, size_t indent, const char *text)
{
    size_t at = 2 + columns(text_bytes(name));

    fprintf(file, "  %s", name);
    if (at + 2 > indent) {
        fputc('\n', file);
        at = 0;
    }
    fprintf(file, "%*s", (int)(indent - at), "");
    print_wrapped(file, text_bytes(text), indent);
}

struct bytes help_paragraph(const char **text)
{
    const char *begin = *text, *end = strstr(begin, "\n\n");
    size_t len = end ? (size_t)(end - begin) : strlen(begin);

    *text = begin + len + (end ? 2 : 0);
    return (struct bytes){len ? (const uint8_t *)begin : NULL, len};
}

struct bytes help_line(const char **text)
{
    const char *begin = *text;
    size_t len = strcspn(begin, "\n");

    *text = begin + len + (begin[len] == '\n');
    return (struct bytes){begin[0] ? (const uint8_t *)begin : NULL, len};
}

void help_usage(FILE *file, const struct command *command)
{
    const struct operand *operand;

    fprintf(file, "vera %s [OPTION]...", command->name);
    for (size_t i = 0; (operand = command_operand(command, i)); i++)
        fprintf(
            file, " %s%s%s", operand->optional ? "[" : "", operand->name,
            operand->repeated ? "..." : ""
        );
    for (size_t i = 0; (operand = command_operand(command, i)); i++)
        if (operand->optional)
            fputc(']', file);
}

void help_option(char out[HELP_NAME_SIZE], const struct option *option)
{
    const char letter[] = {'-', option->letter, '\0'};

    int n = snprintf(
        out, HELP_NAME_SIZE, "%s%s%s%s%s%s", option->letter ? letter : "",
        option->letter && option->name[0] ? ", " : "", option->name[0] ? "--" : "", option->name,
        option->value ? " " : "", option->value ? option->value : ""
    );
    assert(n > 0 && n < HELP_NAME_SIZE);
}

static void print_option(FILE *file, const struct option *option)
{
    char name[4 + HELP_NAME_SIZE] = "    "; /* long names stand below each other */

    help_option(name + (option->letter ? 0 : 4), option);
    print_row(file, name, OPTION_INDENT, option->help);
}

static void print_details(FILE *file, const char *details)
{
    struct bytes paragraph;

    while ((paragraph = help_paragraph(&details)).data) {
        fputc('\n', file);
        if (paragraph.data[0] != ' ') {
            print_wrapped(file, paragraph, 0);
            continue;
        }
        print_bytes(file, paragraph);
        fputc('\n', file);
    }
}

static void print_examples(FILE *file, const char *examples)
{
    struct bytes line;

    fputs("\nExamples:\n", file);
    while ((line = help_line(&examples)).data) {
        fputs("  ", file);
        print_bytes(file, line);
        fputc('\n', file);
    }
}

void help_command(FILE *file, const struct command *command)
{
    const struct operand *operand;
    const struct option *option;

    fprintf(file, "%s\n\nUsage: ", command->summary);
    help_usage(file, command);
    fputs("\n", file);
    if (command_operand(command, 0))
        fputc('\n', file);
    for (size_t i = 0; (operand = command_operand(command, i)); i++)
        print_row(file, operand->name, OPTION_INDENT, operand->help);
    fputs("\nOptions:\n", file);
    for (size_t i = 0; (option = command_option(command, i)); i++)
        print_option(file, option);
    if (command->details)
        print_details(file, command->details);
    if (command->examples)
        print_examples(file, command->examples);
}

void help_overview(FILE *file)
{
    fputs("Usage: vera [-C DIR] COMMAND [OPTION]... [OPERAND]...\n\n", file);
    for (size_t i = 0; commands[i]; i++)
        print_row(file, commands[i]->name, COMMAND_INDENT, commands[i]->summary);
    fputs("\nOptions:\n", file);
    for (const struct option *option = global_options; option->name; option++)
        print_option(file, option);
    fputs(
        "\n'vera help COMMAND' describes a command; the manual page vera(1) all of them.\n", file
    );
}
