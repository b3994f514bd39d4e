/* sqlite in our words. See index_db.h. */
#include "store/index_db.h"

int db_failed(sqlite3 *db, int code)
{
    const char *why = db ? sqlite3_errmsg(db) : sqlite3_errstr(code);

    switch (code & 0xff) {
    case SQLITE_BUSY:
    case SQLITE_LOCKED:
        return error_set(E_CONFLICT, INDEX_FILE ": %s", why);
    case SQLITE_NOMEM:
        return error_set(E_NOMEM, INDEX_FILE ": %s", why);
    case SQLITE_CORRUPT:
    case SQLITE_NOTADB:
    case SQLITE_ERROR:
    case SQLITE_MISMATCH:
        return error_set(E_CORRUPT, INDEX_FILE ": %s", why);
    case SQLITE_TOOBIG:
        return error_set(E_LIMIT, INDEX_FILE ": %s", why);
    default:
        return error_set(E_IO, INDEX_FILE ": %s", why);
    }
}

int db_run(sqlite3 *db, const char *sql)
{
    int code = sqlite3_exec(db, sql, NULL, NULL, NULL);

    return code == SQLITE_OK ? 0 : db_failed(db, code);
}

void db_rollback(sqlite3 *db)
{
    (void)!sqlite3_exec(db, "ROLLBACK", NULL, NULL, NULL);
}

void statement_release(sqlite3_stmt **statement)
{
    sqlite3_finalize(*statement);
}

int statement_prepare(sqlite3_stmt **out, sqlite3 *db, const char *sql)
{
    int code = sqlite3_prepare_v2(db, sql, -1, out, NULL);

    return code == SQLITE_OK ? 0 : db_failed(db, code);
}

int statement_step(bool *more, sqlite3_stmt *statement)
{
    int code = sqlite3_step(statement);

    *more = code == SQLITE_ROW;
    return code == SQLITE_ROW || code == SQLITE_DONE
               ? 0
               : db_failed(sqlite3_db_handle(statement), code);
}

int statement_finish(sqlite3_stmt *statement)
{
    bool more;
    int err = statement_step(&more, statement);

    (void)!sqlite3_reset(statement);
    return err;
}

int statement_bind(sqlite3_stmt *statement, int column, const struct index_value *value)
{
    int code = SQLITE_OK;

    switch (value->type) {
    case VALUE_NULL:
        code = sqlite3_bind_null(statement, column);
        break;
    case VALUE_INTEGER:
        code = sqlite3_bind_int64(statement, column, value->integer);
        break;
    case VALUE_REAL:
        code = sqlite3_bind_double(statement, column, value->real);
        break;
    case VALUE_TEXT:
        code = sqlite3_bind_text64(
            statement, column, (const char *)value->bytes.data, value->bytes.len, SQLITE_STATIC,
            SQLITE_UTF8
        );
        break;
    case VALUE_BLOB: /* a blob without bytes is not NULL */
        code = value->bytes.len
                   ? sqlite3_bind_blob64(
                         statement, column, value->bytes.data, value->bytes.len, SQLITE_STATIC
                     )
                   : sqlite3_bind_zeroblob(statement, column, 0);
        break;
    }
    return code == SQLITE_OK ? 0 : db_failed(sqlite3_db_handle(statement), code);
}

int statement_bind_integer(sqlite3_stmt *statement, int column, int64_t integer)
{
    struct index_value value = {.type = VALUE_INTEGER, .integer = integer};

    return statement_bind(statement, column, &value);
}

void statement_columns(struct index_value *out, size_t count, sqlite3_stmt *statement, int first)
{
    for (size_t i = 0; i < count; i++) {
        int column = first + (int)i;
        struct index_value value = {0};
        switch (sqlite3_column_type(statement, column)) {
        case SQLITE_INTEGER:
            value.type = VALUE_INTEGER;
            value.integer = sqlite3_column_int64(statement, column);
            break;
        case SQLITE_FLOAT:
            value.type = VALUE_REAL;
            value.real = sqlite3_column_double(statement, column);
            break;
        case SQLITE_TEXT:
            value.type = VALUE_TEXT;
            value.bytes.data = sqlite3_column_text(statement, column);
            break;
        case SQLITE_BLOB:
            value.type = VALUE_BLOB;
            value.bytes.data = sqlite3_column_blob(statement, column);
            break;
        default:
            value.type = VALUE_NULL;
        }
        if (value.type == VALUE_TEXT || value.type == VALUE_BLOB)
            value.bytes.len = (size_t)sqlite3_column_bytes(statement, column);
        out[i] = value;
    }
}

/* State */

static int state_checksum(int64_t *out, const struct index_state *state)
{
    const struct index_value values[] = {
        {.type = VALUE_INTEGER, .integer = state->versions},
        {.type = VALUE_INTEGER, .integer = state->sum},
    };
    AUTO_CHECKSUMMER(checksummer);

    return index_checksum(out, &checksummer, values, 2);
}

int index_state_read(struct index_state *out, sqlite3 *db)
{
    AUTO_STATEMENT(statement);
    int64_t checksum;
    bool more;

    int err = statement_prepare(
        &statement, db, "SELECT versions, sum, checksum FROM state WHERE id = 1"
    );
    if (err < 0 || (err = statement_step(&more, statement)) < 0)
        return err;
    if (!more)
        return error_set(E_CORRUPT, "its state is missing");
    struct index_state state = {
        sqlite3_column_int64(statement, 0), sqlite3_column_int64(statement, 1)};
    if ((err = state_checksum(&checksum, &state)) < 0)
        return err;
    if (checksum != sqlite3_column_int64(statement, 2))
        return error_set(E_CORRUPT, "its state has another checksum");
    *out = state;
    return 0;
}

int index_state_write(sqlite3 *db, const struct index_state *state)
{
    AUTO_STATEMENT(statement);
    int64_t checksum;
    int err;

    if ((err = state_checksum(&checksum, state)) < 0 ||
        (err = statement_prepare(
             &statement, db, "INSERT OR REPLACE INTO state VALUES(1, ?1, ?2, ?3)"
         )) < 0 ||
        (err = statement_bind_integer(statement, 1, state->versions)) < 0 ||
        (err = statement_bind_integer(statement, 2, state->sum)) < 0 ||
        (err = statement_bind_integer(statement, 3, checksum)) < 0)
        return err;
    return statement_finish(statement);
}

/* Sums wrap around. */
int64_t index_sum(int64_t a, int64_t b)
{
    return (int64_t)((uint64_t)a + (uint64_t)b);
}
