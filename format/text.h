/*
 * Canonical text: what manifest, recipe and pin are written in.
 *
 *   verastore <noun> 1\n        the first line: what this is, and the version of its rules
 *   <key> <field> ... \n        further lines: one space between, none at the end
 *
 * One meaning, one byte string: a reader takes only what the writer would have written, so there is
 * nothing to normalise. Every byte belongs to UTF-8 without control characters, every line ends
 * with one LF, numbers are decimal without leading zeros, digests are 64 lower-case hex digits.
 * Which keys there are, in which order, and how often, is the noun's to say. Every function that
 * returns int fails with E_CORRUPT, naming the line, unless it says otherwise.
 */
#ifndef FORMAT_TEXT_H
#define FORMAT_TEXT_H

#include "format/digest.h"

/* A text that is read line by line, field by field. Borrows its input. */
struct text {
    const char *noun;
    struct bytes rest; /* lines that were not begun */
    struct bytes line; /* fields of this line that were not read, each with its space before it */
    size_t number;     /* of this line, from 1 */
};

/* Check the whole input (bytes, last newline, first line) and stand before the second line. E_LIMIT
   above LIMIT_TEXT. `noun` must outlive the reader. */
MUST_CHECK int text_init(struct text *out, const char *noun, struct bytes input);

bool text_more(const struct text *text);
size_t text_lines_left(const struct text *text);

/* Does the next line begin with this key? */
bool text_next_is(const struct text *text, const char *key);

/* Begin the next line, which must have this key. */
MUST_CHECK int text_line(struct text *text, const char *key);

/* The next field of the line: never empty, without spaces. */
MUST_CHECK int text_word(struct bytes *out, struct text *text);
MUST_CHECK int text_uint64(uint64_t *out, struct text *text);
MUST_CHECK int text_digest(struct digest *out, struct text *text);

/* All that is left of the line, spaces included, maybe empty. */
MUST_CHECK int text_rest(struct bytes *out, struct text *text);

/* The line has no further field. */
MUST_CHECK int text_line_end(const struct text *text);

/* There is no further line. */
MUST_CHECK int text_end(const struct text *text);

/* "<noun>: line <n>: <why>". */
MUST_CHECK int text_error(const struct text *text, const char *why);

/* Digits only, no leading zero, at most 2^64-1. */
bool text_parse_uint64(uint64_t *out, struct bytes digits);

/* UTF-8 without control characters (U+0000..1F, U+7F..9F): what may stand in a canonical text. */
bool text_is_plain(struct bytes text);

/* The text, cut where it is long, for a message: bytes that are not printable ASCII become \xNN
   where the text is not plain. */
#define TEXT_QUOTE_SIZE 256
void text_quote(char out[TEXT_QUOTE_SIZE], struct bytes text);

#endif
