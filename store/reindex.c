/* Bringing the index up to date, and making it anew. See reached.h and store.h. */
#include "store/reached.h"

#define SPARE_ROWS                                                                                 \
    1000 /* that no ref reaches: so many more than others are not worth the trouble */

/* What the index holds; nothing where it cannot be used, and it is then closed. */
static int rows_load(struct index_rows *rows, struct index *index, struct store *store)
{
    int err = index_open(index, store, INDEX_UPDATE);

    if (err == 0 && (err = index_load(rows, index)) == E_CORRUPT) {
        index_close(index);
        err = index_open(index, store, INDEX_RENEW);
    }
    if (err < 0)
        index_close(index);
    return err == E_NOMEM || err == E_INTERRUPTED ? err : 0;
}

/* Rows that no ref reaches stay, since a deleted branch may come back, until they are the most. */
static bool has_too_many(const struct reached *reached)
{
    size_t stored = reached->rows.stored;

    return stored > SPARE_ROWS && stored - SPARE_ROWS > 2 * reached->count;
}

static void rows_update(struct reached *reached, struct index *index)
{
    if (!index->db)
        return;
    if (has_too_many(reached)) {
        index_close(index);
        reached->rows.stored = 0;
        if (index_open(index, reached->store, INDEX_RENEW) < 0)
            return;
    }
    if (reached->rows.ids.count > reached->rows.stored)
        (void)!index_save(index, &reached->rows, reached->marks);
}

int reached_find(struct reached *out, struct store *store, const struct tips *tips)
{
    AUTO_INDEX(index);
    AUTO_INDEX_ROWS(rows);

    int err = rows_load(&rows, &index, store);
    if (err < 0 || (err = reached_read(out, store, &rows, tips)) < 0)
        return err;
    rows_update(out, &index);
    return 0;
}

int store_reindex(uint64_t *versions, uint64_t *unreadable, struct store *store)
{
    AUTO_TIPS(tips);
    AUTO_INDEX(index);
    AUTO_INDEX_ROWS(rows);
    AUTO_REACHED(reached);
    int err;

    if ((err = index_open(&index, store, INDEX_RENEW)) < 0 ||
        (err = tips_read(&tips, store, TIPS_REFS | TIPS_HEAD)) < 0 ||
        (err = reached_read(&reached, store, &rows, &tips)) < 0 ||
        (err = index_save(&index, &reached.rows, reached.marks)) < 0)
        return err;
    *versions = 0;
    for (size_t i = 0; i < reached.rows.ids.count; i++)
        *versions += reached.rows.rows[i].is_version;
    *unreadable = reached.unreadable;
    return 0;
}
