/* What main(), and who prints an error among other fields, needs of cli/output.c besides cli.h. */
#ifndef CLI_OUTPUT_H
#define CLI_OUTPUT_H

#include "cli/cli.h"

/* How many bytes the text begins with that are one character fit to be shown; 0: the first is not.
 */
size_t output_plain_length(struct bytes text);

/* The text with control characters (U+0000..1F, U+7F..9F) and bytes that are not UTF-8 as \xNN. */
void output_plain(FILE *file, struct bytes text);

/* The error that was set, to stderr: "vera: <message>", its details as lines of their own, then
   "hint: ..."; with `json` as an object on stdout too. */
void output_error(int err, bool json);

/* Key "error" of the object that is begun: the error that was set. For a command that prints fields
   of its own beside it, and returns CLI_DIFFERENT. */
void output_error_json(struct json_writer *writer, int err);

/* A result, whole, to standard output: E_IO where it did not arrive. */
MUST_CHECK int output_write(struct bytes result);

/* Flush and close standard output: E_IO where what was printed did not arrive. */
MUST_CHECK int output_finish(void);

#endif
