/* What the files of the query share. See query.c. */
#ifndef STORE_QUERY_ROWS_H
#define STORE_QUERY_ROWS_H

#include "store/expression.h"
#include "store/reached.h"

struct query {
    struct expression expression;
    bool is_sorted, is_reversed;
    struct term sort; /* key and metric only */
    char **keys;      /* that both name, each once */
    size_t key_count;
};

/* What a query was answered from. */
struct query_rows {
    struct reached reached;
    size_t *rows; /* of the result */
    const struct refs *branches, *remotes;
    const char **first; /* by row: the first branch, by name, that reaches it, or NULL; NULL until
                           it is asked for */
};

/* What a version has of a key that is a number. */
MUST_CHECK int number_find(
    bool *found,
    struct number *out,
    const struct index_row *row,
    const struct index_adapter *adapter,
    const struct term *term
);
/* <0, 0, >0, exact where both are integers. */
int numbers_order(const struct number *a, const struct number *b);

#endif
