/* What refs reach. See reached.h. */
#include "store/reached.h"

#include <stdlib.h>
#include <string.h>

#include "store/ancestry.h"

void reached_release(struct reached *reached)
{
    index_rows_release(&reached->rows);
    index_reader_release(&reached->reader);
    id_set_release(&reached->shallow);
    id_set_release(&reached->lost);
    free(reached->marks);
    free(reached->generations);
    free(reached->order);
    *reached = (struct reached){0};
}

/* Rows that are to be looked at, the next one last. */
struct pile {
    size_t *rows, count, capacity;
};

static void pile_release(struct pile *pile)
{
    free(pile->rows);
}
#define AUTO_PILE(name) __attribute__((cleanup(pile_release))) struct pile name = {0}

static int pile_push(struct pile *pile, size_t row)
{
    int err = array_grow(&pile->rows, &pile->capacity, pile->count + 1, sizeof(*pile->rows));

    if (err == 0)
        pile->rows[pile->count++] = row;
    return err;
}

static bool is_cut(const struct reached *reached, size_t row)
{
    size_t ignored;

    return id_set_find(&ignored, &reached->shallow, &reached->rows.ids.ids[row]);
}

/* Reading */

static int commit_read_row(struct reached *reached, const git_oid *id)
{
    struct index_row row = {0};
    size_t ignored;
    bool is_new;

    int err = interrupt_check();
    if (err < 0)
        return err;
    err = index_row_read(&row, &reached->reader, reached->store, id);
    if (err == E_NOMEM || err == E_INTERRUPTED)
        return err;
    if (err < 0) {
        err = id_set_add(&ignored, &is_new, &reached->lost, id);
        reached->unreadable += err == 0 && is_new;
        return err;
    }
    reached->unreadable += row.is_damaged;
    err = index_rows_add(&reached->rows, &row, row.is_version ? &reached->reader.adapter : NULL);
    index_row_release(&row);
    return err;
}

/* Put a commit on the pile, once. */
static int commit_visit(struct reached *reached, struct pile *pile, const git_oid *id)
{
    size_t row;
    int err = 0;

    if (!id_set_find(&row, &reached->rows.ids, id)) {
        if ((err = commit_read_row(reached, id)) < 0 || !id_set_find(&row, &reached->rows.ids, id))
            return err;
    }
    err = array_grow(
        &reached->marks, &reached->mark_capacity, reached->rows.ids.count, sizeof(*reached->marks)
    );
    if (err < 0 || reached->marks[row])
        return err;
    reached->marks[row] = true;
    reached->count++;
    return pile_push(pile, row);
}

static int walk(struct reached *reached, const struct tips *tips)
{
    AUTO_PILE(pile);
    int err = 0;

    for (size_t i = 0; err == 0 && i < tips->count; i++) {
        const git_oid id = git_id(&tips->commits[i]);
        err = commit_visit(reached, &pile, &id);
        while (err == 0 && pile.count > 0) {
            size_t row = pile.rows[--pile.count];
            if (is_cut(reached, row))
                continue;
            /* Reading a parent may move the rows. */
            for (size_t p = 0; err == 0 && p < reached->rows.rows[row].parent_count; p++) {
                const git_oid parent = git_id(&reached->rows.rows[row].parents[p]);
                err = commit_visit(reached, &pile, &parent);
            }
        }
    }
    return err;
}

/* Order */

/* The generation of a row whose parents all have theirs; else the parents go on the pile. A parent
   that waits there itself, in a circle that only a forged index can have, is passed over. */
static int generation_find(struct reached *reached, struct pile *pile, bool *waits)
{
    size_t row = pile->rows[pile->count - 1], parent;
    const struct index_row *at = &reached->rows.rows[row];
    uint32_t generation = 1;
    size_t count = pile->count;

    waits[row] = true;
    for (size_t p = 0; !is_cut(reached, row) && p < at->parent_count; p++) {
        const git_oid id = git_id(&at->parents[p]);
        if (!id_set_find(&parent, &reached->rows.ids, &id))
            continue;
        uint32_t of_parent = reached->generations[parent];
        if (of_parent >= generation)
            generation = of_parent + 1;
        if (of_parent || waits[parent])
            continue;
        int err = pile_push(pile, parent);
        if (err < 0)
            return err;
    }
    if (pile->count > count)
        return 0;
    reached->generations[row] = generation;
    waits[row] = false;
    pile->count--;
    return 0;
}

static int generations_find(struct reached *reached)
{
    AUTO_PILE(pile);
    AUTO_FREE(bool, waits);
    size_t count = reached->rows.ids.count;
    int err = 0;

    if (!(waits = array_new(count, sizeof(*waits))) ||
        !(reached->generations = array_new(count, sizeof(*reached->generations))))
        return error_wrap(E_NOMEM, "history");
    for (size_t row = 0; err == 0 && row < count; row++) {
        if (row < reached->mark_capacity && reached->marks[row] && !reached->generations[row])
            err = pile_push(&pile, row);
        while (err == 0 && pile.count > 0) {
            if (reached->generations[pile.rows[pile.count - 1]])
                pile.count--; /* another one's parent too */
            else
                err = generation_find(reached, &pile, waits);
        }
    }
    return err;
}

/* A row with what it is sorted by. */
struct sorted {
    int64_t time;
    uint32_t generation;
    size_t row;
    const struct commit_id *commit;
};

static int sorted_compare(const void *left, const void *right)
{
    const struct sorted *a = left, *b = right;

    if (a->time != b->time)
        return a->time > b->time ? -1 : 1;
    if (a->generation != b->generation)
        return a->generation > b->generation ? -1 : 1;
    return memcmp(a->commit->bytes, b->commit->bytes, sizeof(a->commit->bytes));
}

static int order_find(struct reached *reached)
{
    AUTO_FREE(struct sorted, sorted);
    size_t n = 0;

    if (!(sorted = array_new(reached->count, sizeof(*sorted))) ||
        !(reached->order = array_new(reached->count, sizeof(*reached->order))))
        return error_wrap(E_NOMEM, "history");
    for (size_t row = 0; row < reached->rows.ids.count && row < reached->mark_capacity; row++) {
        const struct index_row *at = &reached->rows.rows[row];
        if (reached->marks[row])
            sorted[n++] = (struct sorted){at->time, reached->generations[row], row, &at->commit};
    }
    if (n)
        qsort(sorted, n, sizeof(*sorted), sorted_compare);
    for (size_t i = 0; i < n; i++)
        reached->order[i] = sorted[i].row;
    return 0;
}

int reached_read(
    struct reached *out, struct store *store, struct index_rows *rows, const struct tips *tips
)
{
    AUTO_REACHED(reached);
    int err;

    reached.store = store;
    reached.rows = *rows;
    *rows = (struct index_rows){0};
    if ((err = shallow_read(&reached.shallow, store)) < 0 || (err = walk(&reached, tips)) < 0 ||
        (err = generations_find(&reached)) < 0 || (err = order_find(&reached)) < 0)
        return err;
    *out = reached;
    reached = (struct reached){0};
    return 0;
}

int reached_mark(
    const struct reached *reached,
    bool *marks,
    const git_oid *tip,
    void (*visit)(void *context, size_t row),
    void *context
)
{
    AUTO_PILE(pile);
    size_t row;
    int err = 0;

    if (id_set_find(&row, &reached->rows.ids, tip) && !marks[row])
        err = pile_push(&pile, row);
    while (err == 0 && pile.count > 0) {
        row = pile.rows[--pile.count];
        if (marks[row])
            continue;
        marks[row] = true;
        if (visit)
            visit(context, row);
        if (is_cut(reached, row))
            continue;
        const struct index_row *at = &reached->rows.rows[row];
        for (size_t p = 0; err == 0 && p < at->parent_count; p++) {
            const git_oid id = git_id(&at->parents[p]);
            size_t parent;
            if (id_set_find(&parent, &reached->rows.ids, &id) && !marks[parent])
                err = pile_push(&pile, parent);
        }
    }
    return err;
}
