/* Writing the index. See index.h. */
#include <string.h>

#include "store/index_db.h"

/* Writing */

struct saving {
    sqlite3_stmt *adapter, *look, *version;
    struct index_state state;
    struct checksummer checksummer;
};

static void saving_release(struct saving *saving)
{
    statement_release(&saving->adapter);
    statement_release(&saving->look);
    statement_release(&saving->version);
    checksummer_release(&saving->checksummer);
}

static int saving_begin(struct saving *saving, sqlite3 *db)
{
    int err;

    if ((err = index_state_read(&saving->state, db)) < 0 ||
        (err = statement_prepare(
             &saving->adapter, db,
             "INSERT OR IGNORE INTO adapters VALUES(?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11, "
             "?12, ?13, ?14, ?15, ?16, ?17, ?18, ?19)"
         )) < 0 ||
        (err = statement_prepare(&saving->look, db, "SELECT checksum FROM versions WHERE id = ?1")
        ) < 0)
        return err;
    return statement_prepare(
        &saving->version, db,
        "INSERT OR REPLACE INTO versions VALUES(?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11, "
        "?12, ?13, ?14, ?15)"
    );
}

static int adapter_save(struct saving *saving, const struct index_adapter *adapter)
{
    struct index_value values[ADAPTER_COLUMNS];
    char seed[SEED_SIZE];

    index_adapter_values(values, adapter, seed);
    int err = statement_bind_integer(saving->adapter, 1, adapter->id);
    for (size_t i = 0; err == 0 && i < ADAPTER_COLUMNS; i++)
        err = statement_bind(saving->adapter, 2 + (int)i, &values[i]);
    return err < 0 ? err : statement_finish(saving->adapter);
}

/* The sum, and the number, without a row of this id that is there already. */
static int row_forget(struct index_state *state, struct saving *saving, int64_t id)
{
    bool there = false;

    int err = statement_bind_integer(saving->look, 1, id);
    if (err == 0 && (err = statement_step(&there, saving->look)) == 0 && there) {
        state->versions--;
        state->sum = index_sum(state->sum, -sqlite3_column_int64(saving->look, 0));
    }
    (void)!sqlite3_reset(saving->look);
    return err;
}

static int
row_save(struct saving *saving, const struct index_row *row, const struct index_adapter *adapter)
{
    struct index_value values[VERSION_COLUMNS];
    struct index_state state = saving->state;
    int64_t checksum, id = index_row_id(&row->commit);
    int err;

    if (adapter && (err = adapter_save(saving, adapter)) < 0)
        return err;
    index_row_values(values, row);
    if ((err = index_checksum(&checksum, &saving->checksummer, values, VERSION_COLUMNS)) < 0 ||
        (err = row_forget(&state, saving, id)) < 0 ||
        (err = statement_bind_integer(saving->version, 1, id)) < 0)
        return err;
    for (size_t i = 0; err == 0 && i < VERSION_COLUMNS; i++)
        err = statement_bind(saving->version, 2 + (int)i, &values[i]);
    if (err < 0 ||
        (err = statement_bind_integer(saving->version, 2 + VERSION_COLUMNS, checksum)) < 0 ||
        (err = statement_finish(saving->version)) < 0)
        return err;
    saving->state = (struct index_state){state.versions + 1, index_sum(state.sum, checksum)};
    return 0;
}

static int rows_save(sqlite3 *db, const struct index_rows *rows, const bool *keep)
{
    __attribute__((cleanup(saving_release))) struct saving saving = {0};
    int err = saving_begin(&saving, db);

    for (size_t i = rows->stored; err == 0 && i < rows->ids.count; i++) {
        const struct index_row *row = &rows->rows[i];
        if (row->is_damaged || (keep && !keep[i]))
            continue;
        err = row_save(
            &saving, row, row->is_version ? index_rows_adapter(rows, row->adapter) : NULL
        );
        if (err == E_LIMIT) /* larger than a row may be: read from git each time */
            err = 0;
    }
    return err < 0 ? err : index_state_write(db, &saving.state);
}

int index_save(struct index *index, const struct index_rows *rows, const bool *keep)
{
    int err = db_run(index->db, "BEGIN IMMEDIATE");

    if (err < 0)
        return err;
    if ((err = rows_save(index->db, rows, keep)) == 0)
        err = db_run(index->db, "COMMIT");
    if (err < 0)
        db_rollback(index->db);
    return err;
}

/* One version */

static int version_add(struct store *store, const git_oid *commit)
{
    AUTO_INDEX(index);
    AUTO_INDEX_ROWS(rows);
    __attribute__((cleanup(index_reader_release))) struct index_reader reader = {0};
    struct index_row row = {0};
    int err;

    if ((err = index_row_read(&row, &reader, store, commit)) == 0)
        err = index_rows_add(&rows, &row, row.is_version ? &reader.adapter : NULL);
    index_row_release(&row);
    if (err < 0 || (err = index_open(&index, store, INDEX_UPDATE)) < 0)
        return err;
    return index_save(&index, &rows, NULL);
}

void index_add(struct store *store, const git_oid *commit)
{
    (void)!version_add(store, commit);
}
