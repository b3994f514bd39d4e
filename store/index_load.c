/* Reading the index, and comparing it with git. See index.h. */
#include <string.h>

#include "store/index_db.h"

#define LOOK_MAX 8 /* payloads of one digest that are looked at */

/* Reading */

static int adapters_load(struct index_rows *rows, sqlite3 *db)
{
    AUTO_STATEMENT(statement);
    AUTO_CHECKSUMMER(checksummer);
    struct index_value values[ADAPTER_COLUMNS];
    bool more = false;

    int err = statement_prepare(
        &statement, db, "SELECT id, " ADAPTER_FIELDS " FROM adapters ORDER BY id"
    );
    while (err == 0 && (err = statement_step(&more, statement)) == 0 && more) {
        int64_t checksum, id = sqlite3_column_int64(statement, 0);
        statement_columns(values, ADAPTER_COLUMNS, statement, 1);
        if ((err = index_checksum(&checksum, &checksummer, values, ADAPTER_COLUMNS)) < 0)
            return err;
        size_t count = rows->adapter_count;
        if (checksum != id || (count && rows->adapters[count - 1].id >= id))
            return error_set(E_CORRUPT, "an adapter has another checksum");
        err = array_grow(
            &rows->adapters, &rows->adapter_capacity, count + 1, sizeof(*rows->adapters)
        );
        if (err == 0 && (err = index_adapter_decode(&rows->adapters[count], id, values)) == 0)
            rows->adapter_count++;
    }
    return err;
}

int64_t index_row_id(const struct commit_id *commit)
{
    uint64_t id = 0;

    for (unsigned i = 0; i < 8; i++)
        id = id << 8 | commit->bytes[i];
    return (int64_t)id;
}

int index_row_at(
    struct index_row *out, int64_t *checksum, struct checksummer *checksummer, sqlite3_stmt *at
)
{
    struct index_value values[VERSION_COLUMNS];

    statement_columns(values, VERSION_COLUMNS, at, 1);
    int err = index_checksum(checksum, checksummer, values, VERSION_COLUMNS);
    if (err < 0)
        return err;
    if (*checksum != sqlite3_column_int64(at, 1 + VERSION_COLUMNS))
        return error_set(E_CORRUPT, "a version has another checksum");
    if ((err = index_row_decode(out, values)) < 0)
        return err;
    if (index_row_id(&out->commit) == sqlite3_column_int64(at, 0))
        return 0;
    index_row_release(out);
    return error_set(E_CORRUPT, "a version has another number");
}

static int row_load(
    struct index_rows *rows,
    struct index_state *seen,
    struct checksummer *checksummer,
    sqlite3_stmt *at
)
{
    struct index_row row;
    int64_t checksum;
    const size_t count = rows->ids.count;

    int err = index_row_at(&row, &checksum, checksummer, at);
    if (err < 0)
        return err;
    if (row.is_version && !index_rows_adapter(rows, row.adapter))
        err = error_set(E_CORRUPT, "an adapter is missing");
    if (err == 0)
        err = index_rows_add(rows, &row, NULL);
    index_row_release(&row);
    /* A damaged tree of pages may lead to one row again and again. */
    if (err == 0 && rows->ids.count == count)
        err = error_set(E_CORRUPT, "a version is there twice");
    seen->versions++;
    seen->sum = index_sum(seen->sum, checksum);
    return err;
}

static int versions_load(struct index_rows *rows, sqlite3 *db)
{
    AUTO_STATEMENT(statement);
    AUTO_CHECKSUMMER(checksummer);
    struct index_state state, seen = {0};
    bool more = false;

    int err = index_state_read(&state, db);
    if (err == 0)
        err = statement_prepare(
            &statement, db, "SELECT id, " VERSION_FIELDS ", checksum FROM versions ORDER BY id"
        );
    while (err == 0 && (err = statement_step(&more, statement)) == 0 && more)
        err = row_load(rows, &seen, &checksummer, statement);
    if (err == 0 && (seen.versions != state.versions || seen.sum != state.sum))
        err = error_set(E_CORRUPT, "versions are missing");
    return err;
}

int index_load(struct index_rows *out, struct index *index)
{
    AUTO_INDEX_ROWS(rows);
    int err;

    if ((err = db_run(index->db, "BEGIN")) < 0)
        return err;
    if ((err = adapters_load(&rows, index->db)) == 0)
        err = versions_load(&rows, index->db);
    db_rollback(index->db);
    if (err < 0)
        return err;
    rows.stored = rows.ids.count;
    *out = rows;
    rows = (struct index_rows){0};
    return 0;
}

static int payload_look(
    bool *found, git_oid *out, sqlite3 *db, const struct digest *payload, const git_oid *layout
)
{
    AUTO_STATEMENT(statement);
    AUTO_CHECKSUMMER(checksummer);
    const struct index_value wanted = {
        .type = VALUE_BLOB, .bytes = {payload->bytes, sizeof(payload->bytes)}};
    int64_t checksum;
    bool more = false;

    int err = statement_prepare(
        &statement, db, "SELECT id, " VERSION_FIELDS ", checksum FROM versions WHERE payload = ?1"
    );
    if (err == 0)
        err = statement_bind(statement, 1, &wanted);
    for (int i = 0; err == 0 && !*found && i < LOOK_MAX; i++) {
        struct index_row row;
        if ((err = statement_step(&more, statement)) < 0 || !more ||
            (err = index_row_at(&row, &checksum, &checksummer, statement)) < 0)
            break;
        *found = digest_equal(&row.payload, payload) && git_oid_equal(&row.layout, layout);
        if (*found)
            *out = row.vectors;
        index_row_release(&row);
    }
    return err;
}

void index_find_payload(
    bool *found,
    git_oid *out,
    struct store *store,
    const struct digest *payload,
    const git_oid *layout
)
{
    AUTO_INDEX(index);

    *found = false;
    if (index_open(&index, store, INDEX_LOOK) == 0)
        (void)!payload_look(found, out, index.db, payload, layout);
}

/* Checking */

/* Is the row what git has? What git itself cannot tell any more is not the index' fault. */
static int row_check(
    bool *is_right, struct index_reader *reader, struct store *store, const struct index_row *row
)
{
    AUTO_CHECKSUMMER(checksummer);
    struct index_value values[VERSION_COLUMNS];
    struct index_row read = {0};
    int64_t stored, made;
    const git_oid id = git_id(&row->commit);

    *is_right = true;
    int err = git_odb_exists(store->odb, &id) ? index_row_read(&read, reader, store, &id)
                                              : error_set(E_NOTFOUND, "it was dropped");
    if (err < 0)
        return err == E_NOMEM || err == E_INTERRUPTED ? err : 0;
    index_row_values(values, row);
    err = index_checksum(&stored, &checksummer, values, VERSION_COLUMNS);
    index_row_values(values, &read);
    if (err == 0)
        err = index_checksum(&made, &checksummer, values, VERSION_COLUMNS);
    if (err == 0)
        *is_right = read.is_damaged || stored == made;
    index_row_release(&read);
    return err;
}

int index_check(
    struct store *store,
    int (*bad)(void *context, const struct commit_id *commit, const char *problem),
    void *context
)
{
    AUTO_INDEX(index);
    AUTO_INDEX_ROWS(rows);
    __attribute__((cleanup(index_reader_release))) struct index_reader reader = {0};

    int err = index_open(&index, store, INDEX_LOOK);
    if (err == 0)
        err = index_load(&rows, &index);
    if (err == E_CORRUPT) {
        AUTO_FREE(char, problem); /* the message goes when `bad` makes its own */
        if (!(problem = bytes_dup(text_bytes(error_message()))))
            return error_wrap(E_NOMEM, "index");
        return bad(context, NULL, problem);
    }
    if (err < 0)
        return err == E_NOMEM || err == E_INTERRUPTED ? err : 0;
    for (size_t i = 0; err == 0 && i < rows.ids.count; i++) {
        bool is_right;
        if ((err = interrupt_check()) == 0 &&
            (err = row_check(&is_right, &reader, store, &rows.rows[i])) == 0 && !is_right)
            err = bad(context, &rows.rows[i].commit, "its row is not what the commit says");
    }
    return err;
}
