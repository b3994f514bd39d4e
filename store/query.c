/*
 * Which versions an expression matches, and their order. See store.h.
 *
 * Every row that refs reach is looked at, in memory: what an index leaves out by its own search
 * could not be checked, and ten thousand rows take a few milliseconds.
 */
#include <stdlib.h>
#include <string.h>

#include "store/query_rows.h"

/* A branch, and what it reaches. */
struct reach {
    const char *name; /* borrowed from a term */
    bool *marks;      /* by row */
};

static void query_rows_free(struct query_rows *rows)
{
    if (!rows)
        return;
    reached_release(&rows->reached);
    free(rows->rows);
    free(rows->first);
    free(rows);
}

static void query_rows_release(struct query_rows **rows)
{
    query_rows_free(*rows);
}

/* Queries */

static int sort_parse(struct query *query, const char *sort)
{
    struct bytes metric, name = text_bytes(sort);

    query->is_reversed = sort[0] == '-';
    if (query->is_reversed)
        name = text_bytes(sort + 1);
    if (!key_parse(&query->sort.key, &metric, name)) {
        int err = error_set(E_INVALID, "query: there is no key '%s' to sort by", sort);
        return key_hint(err, name);
    }
    if (query->sort.key == KEY_METRIC && !(query->sort.metric = bytes_dup(metric)))
        return error_wrap(E_NOMEM, "query");
    query->is_sorted = true;
    return 0;
}

void query_free(struct query *query)
{
    if (!query)
        return;
    expression_release(&query->expression);
    for (size_t i = 0; i < query->key_count; i++)
        free(query->keys[i]);
    free(query->keys);
    free(query->sort.metric);
    free(query);
}

void query_release(struct query **query)
{
    query_free(*query);
    *query = NULL;
}

const char *query_key_at(const struct query *query, size_t i)
{
    return i < query->key_count ? query->keys[i] : NULL;
}

/* "rank", "metric.rte" */
static int key_add(struct query *query, const struct term *term)
{
    AUTO_BUF(name);
    int err = term->metric ? buf_printf(&name, "metric.%s", term->metric)
                           : buf_append_text(&name, key_name(term->key));

    if (err < 0 || !buf_text(&name))
        return error_wrap(E_NOMEM, "query");
    for (size_t i = 0; i < query->key_count; i++) {
        if (strcmp(query->keys[i], (const char *)name.data) == 0)
            return 0;
    }
    query->keys[query->key_count++] = (char *)buf_take(&name).data;
    return 0;
}

static int keys_collect(struct query *query)
{
    const struct expression *expression = &query->expression;
    int err = 0;

    if (!(query->keys = array_new(expression->term_count + 1, sizeof(*query->keys))))
        return error_wrap(E_NOMEM, "query");
    for (size_t i = 0; err == 0 && i < expression->term_count; i++)
        err = key_add(query, &expression->terms[i]);
    if (err == 0 && query->is_sorted)
        err = key_add(query, &query->sort);
    return err;
}

int query_parse(struct query **out, const char *expression, const char *sort)
{
    __attribute__((cleanup(query_release))) struct query *query = array_new(1, sizeof(*query));
    int err = 0;

    if (!query)
        return error_wrap(E_NOMEM, "query");
    if (expression)
        err = expression_parse(&query->expression, expression);
    if (err == 0 && sort)
        err = sort_parse(query, sort);
    if (err == 0)
        err = keys_collect(query);
    if (err < 0)
        return err;
    *out = query;
    query = NULL;
    return 0;
}

/* Matching */

/* Is the text one of the list's parts, or all of it? */
static bool list_has(const char *list, const char *text)
{
    size_t len = strlen(text);

    if (strcmp(list, text) == 0)
        return true;
    for (const char *part = list;; part++) {
        size_t part_len = strcspn(part, ",");
        if (part_len == len && memcmp(part, text, len) == 0)
            return true;
        part += part_len;
        if (!*part)
            return false;
    }
}

struct matching {
    struct query_rows *rows;
    const struct query *query;
    struct reach *reaches; /* by term; marks NULL where it is no branch */
    bool *stack;           /* [steps] */
};

static void matching_release(struct matching *matching)
{
    for (size_t i = 0; matching->reaches && i < matching->query->expression.term_count; i++)
        free(matching->reaches[i].marks);
    free(matching->reaches);
    free(matching->stack);
}

static bool text_matches(const struct matching *matching, size_t index, size_t row)
{
    const struct term *term = &matching->query->expression.terms[index];
    const struct index_rows *rows = &matching->rows->reached.rows;
    const struct index_adapter *adapter = index_rows_adapter(rows, rows->rows[row].adapter);
    bool equal = false, has_any = true;

    switch (term->key) {
    case KEY_KIND:
        equal = strcmp(term->text, "vera") == 0;
        break;
    case KEY_BASE:
        has_any = adapter->base != NULL;
        equal = has_any && strcmp(term->text, adapter->base) == 0;
        break;
    case KEY_TARGETS:
        equal = list_has(adapter->targets, term->text);
        break;
    case KEY_BRANCH:
        equal = matching->reaches[index].marks[row];
        break;
    case KEY_RANK:
    case KEY_SEED:
    case KEY_DATE:
    case KEY_D_INITIAL:
    case KEY_LAYERS:
    case KEY_PARAMS:
    case KEY_METRIC:
    case KEY_COUNT:
        has_any = false;
    }
    return has_any && comparison_holds(term->comparison, equal ? 0 : 1);
}

/* A date means all of its seconds: "<" is before the first, ">" behind the last. */
static bool date_matches(const struct term *term, int64_t time)
{
    int order = time < term->begin ? -1 : time >= term->end ? 1 : 0;

    return comparison_holds(term->comparison, order);
}

static int term_matches(bool *out, const struct matching *matching, size_t index, size_t at)
{
    const struct term *term = &matching->query->expression.terms[index];
    const struct index_rows *rows = &matching->rows->reached.rows;
    const struct index_row *row = &rows->rows[at];
    struct number number;
    bool found;

    *out = false;
    switch (key_type(term->key)) {
    case TYPE_TEXT:
        *out = text_matches(matching, index, at);
        return 0;
    case TYPE_DATE:
        *out = date_matches(term, row->time);
        return 0;
    case TYPE_NUMBER:
        break;
    }
    int err = number_find(&found, &number, row, index_rows_adapter(rows, row->adapter), term);
    if (err == 0 && found)
        *out = comparison_holds(term->comparison, numbers_order(&number, &term->number));
    return err;
}

static int row_matches(bool *out, struct matching *matching, size_t row)
{
    const struct expression *expression = &matching->query->expression;
    bool *stack = matching->stack;
    size_t depth = 0;
    int err = 0;

    for (size_t i = 0; err == 0 && i < expression->step_count; i++) {
        switch (expression->steps[i].step) {
        case STEP_TERM:
            err = term_matches(&stack[depth++], matching, expression->steps[i].term, row);
            break;
        case STEP_NOT:
            stack[depth - 1] = !stack[depth - 1];
            break;
        case STEP_AND:
            depth--;
            stack[depth - 1] = stack[depth - 1] && stack[depth];
            break;
        case STEP_OR:
            depth--;
            stack[depth - 1] = stack[depth - 1] || stack[depth];
            break;
        }
    }
    *out = expression->step_count == 0 || stack[0];
    return err;
}

/* Branches */

static const struct ref *ref_find(const struct refs *refs, const char *name)
{
    for (size_t i = 0; i < refs->count; i++) {
        if (strcmp(refs->refs[i].name, name) == 0)
            return &refs->refs[i];
    }
    return NULL;
}

/* What a branch of this name reaches; nothing where there is none. */
static int reach_find(struct matching *matching, size_t index)
{
    struct query_rows *rows = matching->rows;
    struct reach *reach = &matching->reaches[index];
    const char *name = matching->query->expression.terms[index].text;
    int err = 0;

    if (!(reach->marks = array_new(rows->reached.rows.ids.count, sizeof(*reach->marks))))
        return error_wrap(E_NOMEM, "query");
    const struct ref *refs[] = {ref_find(rows->branches, name), ref_find(rows->remotes, name)};
    for (size_t i = 0; err == 0 && i < 2; i++) {
        if (!refs[i])
            continue;
        const git_oid tip = git_id(&refs[i]->commit);
        err = reached_mark(&rows->reached, reach->marks, &tip, NULL, NULL);
    }
    return err;
}

struct labelling {
    struct query_rows *rows;
    const char *name;
};

static void label_visit(void *context, size_t row)
{
    struct labelling *labelling = context;

    labelling->rows->first[row] = labelling->name;
}

/* The first branch, by name, that reaches each row: each row is walked over once. */
static int first_find(struct query_rows *rows)
{
    AUTO_FREE(bool, marks);
    size_t count = rows->reached.rows.ids.count;
    int err = 0;

    if (!(marks = array_new(count, sizeof(*marks))) ||
        !(rows->first = array_new(count, sizeof(*rows->first))))
        return error_wrap(E_NOMEM, "query");
    const struct refs *const lists[] = {rows->branches, rows->remotes};
    for (size_t k = 0; k < 2; k++) {
        for (size_t i = 0; err == 0 && i < lists[k]->count; i++) {
            struct labelling labelling = {rows, lists[k]->refs[i].name};
            const git_oid tip = git_id(&lists[k]->refs[i].commit);
            err = reached_mark(&rows->reached, marks, &tip, label_visit, &labelling);
        }
    }
    return err;
}

/* Sorting */

struct sort_item {
    size_t row, place; /* place: newest first */
    bool has, is_reversed;
    struct number number;
    const char *text;
};

static int item_compare(const void *left, const void *right)
{
    const struct sort_item *a = left, *b = right;
    int order;

    if (a->has != b->has)
        return a->has ? -1 : 1;
    order = a->text && b->text ? strcmp(a->text, b->text) : numbers_order(&a->number, &b->number);
    if (a->has && order)
        return a->is_reversed ? -order : order;
    return a->place < b->place ? -1 : 1;
}

static int item_fill(struct sort_item *item, const struct query *query, struct query_rows *rows)
{
    const struct index_rows *all = &rows->reached.rows;
    const struct index_row *row = &all->rows[item->row];
    const struct index_adapter *adapter = index_rows_adapter(all, row->adapter);
    int err = 0;

    item->is_reversed = query->is_reversed;
    switch (query->sort.key) {
    case KEY_KIND:
        item->text = "vera";
        break;
    case KEY_BASE:
        item->text = adapter->base;
        break;
    case KEY_TARGETS:
        item->text = adapter->targets;
        break;
    case KEY_BRANCH:
        item->text = rows->first[item->row];
        break;
    case KEY_DATE:
        item->has = true;
        item->number.is_integer = true;
        item->number.integer.negative = row->time < 0;
        item->number.integer.magnitude = row->time < 0 ? -(uint64_t)row->time : (uint64_t)row->time;
        break;
    case KEY_RANK:
    case KEY_SEED:
    case KEY_D_INITIAL:
    case KEY_LAYERS:
    case KEY_PARAMS:
    case KEY_METRIC:
    case KEY_COUNT:
        err = number_find(&item->has, &item->number, row, adapter, &query->sort);
    }
    item->has = item->has || item->text;
    return err;
}

static int rows_sort(struct query_rows *rows, size_t count, const struct query *query)
{
    AUTO_FREE(struct sort_item, items);
    int err = 0;

    if (!(items = array_new(count, sizeof(*items))))
        return error_wrap(E_NOMEM, "query");
    for (size_t i = 0; err == 0 && i < count; i++) {
        items[i].row = rows->rows[i];
        items[i].place = i;
        err = item_fill(&items[i], query, rows);
    }
    if (err == 0 && count)
        qsort(items, count, sizeof(*items), item_compare);
    for (size_t i = 0; err == 0 && i < count; i++)
        rows->rows[i] = items[i].row;
    return err;
}

/* The whole */

static int matching_begin(struct matching *matching)
{
    const struct expression *expression = &matching->query->expression;
    int err = 0;

    if (!(matching->reaches = array_new(expression->term_count, sizeof(*matching->reaches))) ||
        !(matching->stack = array_new(expression->step_count, sizeof(*matching->stack))))
        return error_wrap(E_NOMEM, "query");
    for (size_t i = 0; err == 0 && i < expression->term_count; i++) {
        if (expression->terms[i].key == KEY_BRANCH)
            err = reach_find(matching, i);
    }
    return err;
}

static int rows_match(size_t *out_count, struct query_rows *rows, const struct query *query)
{
    __attribute__((cleanup(matching_release))
    ) struct matching matching = {.rows = rows, .query = query};
    const struct reached *reached = &rows->reached;
    size_t count = 0;

    int err = matching_begin(&matching);
    if (err == 0 && !(rows->rows = array_new(reached->count, sizeof(*rows->rows))))
        err = error_wrap(E_NOMEM, "query");
    for (size_t i = 0; err == 0 && i < reached->count; i++) {
        size_t row = reached->order[i];
        bool matches = false;
        if (!reached->rows.rows[row].is_version)
            continue;
        if ((err = row_matches(&matches, &matching, row)) == 0 && matches)
            rows->rows[count++] = row;
        if (err == 0)
            err = interrupt_check();
    }
    *out_count = count;
    return err;
}

static bool names_branch(const struct query *query)
{
    for (size_t i = 0; i < query->key_count; i++) {
        if (strcmp(query->keys[i], key_name(KEY_BRANCH)) == 0)
            return true;
    }
    return false;
}

static int result_fill(
    struct query_result *out, struct query_rows *rows, const struct query *query, size_t limit
)
{
    size_t count = 0;
    int err = rows_match(&count, rows, query);

    if (err == 0 && names_branch(query))
        err = first_find(rows);
    if (err == 0 && query->is_sorted)
        err = rows_sort(rows, count, query);
    if (err < 0)
        return err;
    if (limit && limit < count)
        count = limit;
    if (!(out->commits = array_new(count, sizeof(*out->commits))))
        return error_wrap(E_NOMEM, "query");
    for (size_t i = 0; i < count; i++)
        out->commits[i] = rows->reached.rows.rows[rows->rows[i]].commit;
    out->count = count;
    out->unreadable = rows->reached.unreadable;
    return 0;
}

static int tips_add(struct tips *tips, const struct refs *refs)
{
    for (size_t i = 0; i < refs->count; i++) {
        int err = array_grow(
            &tips->commits, &tips->capacity, tips->count + 1, sizeof(*tips->commits)
        );
        if (err < 0)
            return err;
        tips->commits[tips->count++] = refs->refs[i].commit;
    }
    return 0;
}

/* Refs may be a thousand files: they are read once for all that needs them. */
static int refs_read(struct query_result *result, struct tips *tips, struct store *store)
{
    int err;

    if ((err = tips_read(tips, store, TIPS_HEAD)) < 0 ||
        (err = store_refs(&result->branches, store, REF_BRANCH)) < 0 ||
        (err = store_refs(&result->tags, store, REF_TAG)) < 0 ||
        (err = store_refs(&result->remotes, store, REF_REMOTE)) < 0 ||
        (err = tips_add(tips, &result->branches)) < 0 || (err = tips_add(tips, &result->tags)) < 0)
        return err;
    return tips_add(tips, &result->remotes);
}

int store_query(
    struct query_result *out, struct store *store, const struct query *query, size_t limit
)
{
    __attribute__((cleanup(query_rows_release))) struct query_rows *rows = NULL;
    AUTO_QUERY_RESULT(result);
    AUTO_TIPS(tips);
    int err;

    if (!(rows = array_new(1, sizeof(*rows))))
        return error_wrap(E_NOMEM, "query");
    if ((err = refs_read(&result, &tips, store)) < 0 ||
        (err = reached_find(&rows->reached, store, &tips)) < 0)
        return err;
    rows->branches = &result.branches;
    rows->remotes = &result.remotes;
    if ((err = result_fill(&result, rows, query, limit)) < 0)
        return err;
    rows->branches = rows->remotes = NULL;
    result.rows = rows;
    rows = NULL;
    *out = result;
    result = (struct query_result){0};
    return 0;
}

void query_result_release(struct query_result *result)
{
    refs_release(&result->branches);
    refs_release(&result->tags);
    refs_release(&result->remotes);
    free(result->commits);
    query_rows_free(result->rows);
    *result = (struct query_result){0};
}
