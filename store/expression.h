/*
 * The language of `vera query`.
 *
 *   or         = and { "or" and }
 *   and        = not { "and" not }
 *   not        = "not" not | "(" or ")" | comparison
 *   comparison = KEY ( "=" | "!=" | "<" | "<=" | ">" | ">=" ) VALUE
 *
 * A parsed expression is a list of steps in postfix order, so that whoever evaluates it needs no
 * recursion, and a stack that its parentheses bound.
 */
#ifndef STORE_EXPRESSION_H
#define STORE_EXPRESSION_H

#include "store/internal.h"

enum query_key {
    KEY_RANK,
    KEY_KIND,
    KEY_BASE,
    KEY_SEED,
    KEY_DATE,
    KEY_BRANCH,
    KEY_D_INITIAL,
    KEY_TARGETS,
    KEY_LAYERS,
    KEY_PARAMS,
    KEY_METRIC, /* "metric." and a name */
    KEY_COUNT,
};

/* What a key is compared with. */
enum key_type { TYPE_NUMBER, TYPE_TEXT, TYPE_DATE };
enum key_type key_type(enum query_key key);
/* "rank"; of KEY_METRIC "metric.NAME". */
const char *key_name(enum query_key key);

/* *metric: the name behind "metric.", in `name`. False where there is no such key. */
bool key_parse(enum query_key *out, struct bytes *metric, struct bytes name);

/* A number as it was written, exact where it is an integer of json_int's range. */
struct number {
    double real;
    bool is_integer;
    struct json_int integer;
};
/* Decimal, with fraction and exponent; finite. */
bool number_parse(struct number *out, struct bytes text);

/* "2026-11-01", "2026-11-01T12:00" or "...:30", local time unless "Z" or "+01:00" follows: the
   seconds [begin, end) that are meant, a day, a minute or one. */
bool date_parse(int64_t *begin, int64_t *end, struct bytes text);

enum comparison { IS_EQUAL, IS_NOT_EQUAL, IS_LESS, IS_AT_MOST, IS_GREATER, IS_AT_LEAST };

struct term {
    enum query_key key;
    char *metric; /* of KEY_METRIC, else NULL */
    enum comparison comparison;
    struct number number;
    char *text;
    int64_t begin, end; /* of a date */
};
/* Is the comparison true where the order of left and right is this (<0, 0, >0)? */
bool comparison_holds(enum comparison comparison, int order);

enum step { STEP_TERM, STEP_NOT, STEP_AND, STEP_OR };

struct expression {
    struct term *terms;
    size_t term_count, term_capacity;
    struct expression_step {
        enum step step;
        size_t term; /* of STEP_TERM */
    } * steps;       /* none: everything matches */
    size_t step_count, step_capacity;
};
/* E_INVALID (E_LIMIT: too long, too deep), with the text as a line, a mark below the place, and
   what would be right there. */
MUST_CHECK int expression_parse(struct expression *out, const char *text);
void expression_release(struct expression *expression);

/* A hint for a key that is none: the nearest one, or all. */
MUST_CHECK int key_hint(int err, struct bytes name);

#endif
