/* What versions have of the query's keys: as numbers to compare, as text to show. */
#include <inttypes.h>
#include <string.h>
#include <time.h>

#include "store/query_rows.h"

static int order_of(uint64_t a, uint64_t b)
{
    return (a > b) - (a < b);
}

static int integers_order(struct json_int a, struct json_int b)
{
    if (a.negative != b.negative)
        return a.negative ? -1 : 1;
    return a.negative ? order_of(b.magnitude, a.magnitude) : order_of(a.magnitude, b.magnitude);
}

static double real_of(const struct number *number)
{
    double magnitude = (double)number->integer.magnitude;

    if (!number->is_integer)
        return number->real;
    return number->integer.negative ? -magnitude : magnitude;
}

/* Where one has a fraction it is below 2^53, so rounding the other cannot turn the order. */
int numbers_order(const struct number *a, const struct number *b)
{
    double left = real_of(a), right = real_of(b);

    if (a->is_integer && b->is_integer)
        return integers_order(a->integer, b->integer);
    return (left > right) - (left < right);
}

static struct number number_of(uint64_t value)
{
    return (struct number
    ){.real = (double)value, .is_integer = true, .integer = {.magnitude = value}};
}

/* A version's metric of this name. */
static int
metric_look(bool *found, struct number *out, const struct index_row *row, const char *name)
{
    AUTO_JSON(json);
    enum json_event event = JSON_NULL;
    int err;

    *found = false;
    json_init(&json, text_bytes(row->metrics));
    if ((err = json_expect(&json, JSON_OBJECT_BEGIN)) < 0)
        return err;
    while (!*found && (err = json_next(&event, &json)) == 0 && event == JSON_KEY) {
        bool is_wanted = json_text_is(&json, name);
        if ((err = json_expect(&json, JSON_NUMBER)) < 0)
            return err;
        *found = is_wanted && number_parse(out, json.text);
    }
    return err;
}

/* Rows have checksums: what is no JSON was put there by somebody. */
static int
metric_find(bool *found, struct number *out, const struct index_row *row, const char *name)
{
    int err = metric_look(found, out, row, name);

    if (err == 0 || err == E_NOMEM)
        return err;
    err = error_set(E_CORRUPT, "index: the metrics of a version are not readable");
    return error_hint(err, "vera reindex");
}

int number_find(
    bool *found,
    struct number *out,
    const struct index_row *row,
    const struct index_adapter *adapter,
    const struct term *term
)
{
    int err = 0;

    *found = true;
    switch (term->key) {
    case KEY_RANK:
        *out = number_of(adapter->rank);
        break;
    case KEY_LAYERS:
        *out = number_of(adapter->layers);
        break;
    case KEY_PARAMS:
        *out = number_of(adapter->params);
        break;
    case KEY_D_INITIAL:
        *out = (struct number){.real = adapter->d_initial};
        break;
    case KEY_SEED:
        *found = adapter->recipe.has_seed;
        *out = (struct number){.is_integer = true, .integer = adapter->recipe.seed};
        break;
    case KEY_METRIC:
        err = metric_find(found, out, row, term->metric);
        break;
    case KEY_KIND:
    case KEY_BASE:
    case KEY_DATE:
    case KEY_BRANCH:
    case KEY_TARGETS:
    case KEY_COUNT:
        *found = false;
    }
    return err;
}

/* To be shown */

static int number_append(struct buf *out, const struct number *number)
{
    if (number->is_integer)
        return buf_printf(
            out, "%s%" PRIu64, number->integer.negative ? "-" : "", number->integer.magnitude
        );
    return buf_printf(out, "%.6g", number->real);
}

static int date_append(struct buf *out, int64_t seconds)
{
    struct tm local;
    time_t time = (time_t)seconds;
    char text[32];

    if (!localtime_r(&time, &local) || !strftime(text, sizeof(text), "%Y-%m-%d %H:%M", &local))
        return buf_printf(out, "%" PRId64, seconds);
    return buf_append_text(out, text);
}

static int
text_append(struct buf *out, const struct query_rows *rows, size_t row, const struct term *term)
{
    const struct index_row *at = &rows->reached.rows.rows[row];
    const struct index_adapter *adapter = index_rows_adapter(&rows->reached.rows, at->adapter);
    struct number number;
    bool found;

    switch (term->key) {
    case KEY_KIND:
        return buf_append_text(out, "vera");
    case KEY_BASE:
        return adapter->base ? buf_append_text(out, adapter->base) : 0;
    case KEY_TARGETS:
        return buf_append_text(out, adapter->targets);
    case KEY_DATE:
        return date_append(out, at->time);
    case KEY_BRANCH:
        return rows->first && rows->first[row] ? buf_append_text(out, rows->first[row]) : 0;
    case KEY_RANK:
    case KEY_SEED:
    case KEY_D_INITIAL:
    case KEY_LAYERS:
    case KEY_PARAMS:
    case KEY_METRIC:
    case KEY_COUNT:
        break;
    }
    int err = number_find(&found, &number, at, adapter, term);
    return err < 0 || !found ? err : number_append(out, &number);
}

int query_value(struct buf *out, const struct query_result *result, size_t i, const char *key)
{
    struct term term = {0};
    struct bytes metric;
    AUTO_FREE(char, name);

    if (!key_parse(&term.key, &metric, text_bytes(key)))
        return error_set(E_INVALID, "query: there is no key '%s'", key);
    if (!(name = bytes_dup(metric)))
        return error_wrap(E_NOMEM, "query");
    term.metric = name;
    return text_append(out, result->rows, result->rows->rows[i], &term);
}
