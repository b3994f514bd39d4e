/*
 * What the shells ask: scripts made of the option tables. Branches and tags are asked of git when
 * the person asks for them, so a script needs no vera that runs; their names are foreign text, so
 * no script lets its shell expand them.
 */
#ifndef CLI_COMPLETE_H
#define CLI_COMPLETE_H

#include "cli/cli.h"

void complete_bash(FILE *file);
void complete_zsh(FILE *file);
void complete_fish(FILE *file);

/* "directory" for COMPLETE_DIRECTORY. */
const char *complete_name(enum complete complete);

/* "a|b|c" with spaces between. */
void complete_print_words(FILE *file, const char *words);

#endif
