/*
 * JSON values compared by what they mean, and printed as Python prints them.
 *
 * White space, the order of an object's keys, escapes, and how a number is written (1e-1, 0.1) mean
 * nothing. The order of an array does, unless the caller knows that it is a set.
 */
#ifndef FORMAT_JSON_MEANING_H
#define FORMAT_JSON_MEANING_H

#include "format/json.h"

/* Append bytes that are equal for two values exactly where these mean the same. `is_set`: where the
   value is an array, the order of its elements does not count. `value`: one JSON value, alone.
   E_INVALID where it is none, E_LIMIT where the bytes are more than LIMIT_TEXT, E_NOMEM. */
MUST_CHECK int json_meaning(struct buf *out, struct bytes value, bool is_set);

/* Append the value as json.dumps(indent=2) lays it out, `depth` levels deep in another one;
   strings, numbers and the order of keys stay as they are written. */
MUST_CHECK int json_indent(struct buf *out, struct bytes value, unsigned depth);

/* A newline and the white space that begins a line at this depth. */
MUST_CHECK int json_indent_line(struct buf *out, unsigned depth);

#endif
