/* Rows of the index in memory. See index.h. */
#include <stdlib.h>
#include <string.h>

#include "store/index.h"

void index_rows_release(struct index_rows *rows)
{
    for (size_t i = 0; i < rows->ids.count && i < rows->capacity; i++)
        index_row_release(&rows->rows[i]);
    for (size_t i = 0; i < rows->adapter_count; i++)
        index_adapter_release(&rows->adapters[i]);
    id_set_release(&rows->ids);
    free(rows->rows);
    free(rows->adapters);
    *rows = (struct index_rows){0};
}

/* Where the id is, or belongs. */
static size_t adapter_place(const struct index_rows *rows, int64_t id)
{
    size_t low = 0, high = rows->adapter_count;

    while (low < high) {
        size_t middle = low + (high - low) / 2;
        if (rows->adapters[middle].id < id)
            low = middle + 1;
        else
            high = middle;
    }
    return low;
}

const struct index_adapter *index_rows_adapter(const struct index_rows *rows, int64_t id)
{
    size_t place = adapter_place(rows, id);

    return place < rows->adapter_count && rows->adapters[place].id == id ? &rows->adapters[place]
                                                                         : NULL;
}

static int adapter_copy(struct index_adapter *out, const struct index_adapter *adapter)
{
    AUTO_FREE(char, base);
    AUTO_FREE(char, targets);

    if ((adapter->base && !(base = bytes_dup(text_bytes(adapter->base)))) ||
        !(targets = bytes_dup(text_bytes(adapter->targets))))
        return error_wrap(E_NOMEM, "index");
    *out = *adapter;
    out->base = base;
    out->targets = targets;
    base = targets = NULL;
    return 0;
}

static int adapter_keep(struct index_rows *rows, const struct index_adapter *adapter)
{
    struct index_adapter copy;
    size_t place = adapter_place(rows, adapter->id);

    if (place < rows->adapter_count && rows->adapters[place].id == adapter->id)
        return 0;
    int err = array_grow(
        &rows->adapters, &rows->adapter_capacity, rows->adapter_count + 1, sizeof(*rows->adapters)
    );
    if (err < 0 || (err = adapter_copy(&copy, adapter)) < 0)
        return err;
    memmove(
        &rows->adapters[place + 1], &rows->adapters[place],
        (rows->adapter_count - place) * sizeof(*rows->adapters)
    );
    rows->adapters[place] = copy;
    rows->adapter_count++;
    return 0;
}

int index_rows_add(
    struct index_rows *rows, struct index_row *row, const struct index_adapter *adapter
)
{
    const git_oid id = git_id(&row->commit);
    size_t index;
    bool is_new;

    /* The room first, so that every id has its row whatever fails. */
    int err = array_grow(&rows->rows, &rows->capacity, rows->ids.count + 1, sizeof(*rows->rows));
    if (err == 0 && adapter)
        err = adapter_keep(rows, adapter);
    if (err < 0 || (err = id_set_add(&index, &is_new, &rows->ids, &id)) < 0)
        return err;
    index_row_release(&rows->rows[index]);
    rows->rows[index] = *row;
    *row = (struct index_row){0};
    return 0;
}
