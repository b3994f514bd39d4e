/* What `vera help` prints, made of the tables: at most HELP_COLUMNS wide. */
#ifndef CLI_HELP_H
#define CLI_HELP_H

#include "cli/cli.h"

#define HELP_COLUMNS   79
#define HELP_NAME_SIZE 128

/* The list of commands. */
void help_overview(FILE *file);

/* Everything about one command. */
void help_command(FILE *file, const struct command *command);

/* "vera branch [OPTION]... [NAME [REV]]", without a newline: optional operands in brackets. */
void help_usage(FILE *file, const struct command *command);

/* "-m, --message TEXT". */
void help_option(char out[HELP_NAME_SIZE], const struct option *option);

/* The next of the paragraphs of a text, which empty lines part: NULL data after the last. One that
   begins with a space is to be shown as it is laid out. */
struct bytes help_paragraph(const char **text);

/* The next line of a text, without its newline: NULL data after the last. */
struct bytes help_line(const char **text);

#endif
