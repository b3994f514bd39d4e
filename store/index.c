/*
 * The index as an sqlite database. See index.h.
 *
 * Nothing in it is synced: after a power cut it may be damaged, and is then made anew. What is read
 * has its checksum compared; a schema that is not ours to the letter is not used at all, so neither
 * views nor triggers of others run. Two processes never replace the file under each other: byte 3
 * of vera.lock is shared while it is open, exclusive while it is replaced.
 */
#include "store/index.h"

#include <sqlite3.h>
#include <stdlib.h>
#include <string.h>

#include "format/file.h"
#include "format/limits.h"

#define NAME     "index.sqlite"
#define WAIT_MS  50
#define LOOK_MAX 8 /* payloads of one digest that are looked at */

#define VERSION_FIELDS                                                                             \
    "commit_id, parents, time, snapshot, adapter, payload, payload_bytes, layout, vectors, "       \
    "codec, depth, frame_bytes, metrics"
#define ADAPTER_FIELDS                                                                             \
    "kind, rank, base, d_initial, targets, modules, layers, params, seed, state, variant, "        \
    "rounding, basis_in, basis_out, dtype_a, dtype_b, sha256_a, sha256_b"

/* As sqlite keeps their text, in this order. */
static const char *const schema[] = {
    "CREATE TABLE state(id INTEGER PRIMARY KEY, versions INTEGER, sum INTEGER, checksum INTEGER)",
    "CREATE TABLE adapters(id INTEGER PRIMARY KEY, kind TEXT, rank INTEGER, base TEXT, "
    "d_initial REAL, targets TEXT, modules INTEGER, layers INTEGER, params INTEGER, seed TEXT, "
    "state TEXT, variant TEXT, rounding TEXT, basis_in INTEGER, basis_out INTEGER, dtype_a TEXT, "
    "dtype_b TEXT, sha256_a BLOB, sha256_b BLOB)",
    "CREATE TABLE versions(id INTEGER PRIMARY KEY, commit_id BLOB, parents BLOB, time INTEGER, "
    "snapshot BLOB, adapter INTEGER, payload BLOB, payload_bytes INTEGER, layout BLOB, "
    "vectors BLOB, codec TEXT, depth INTEGER, frame_bytes INTEGER, metrics TEXT, "
    "checksum INTEGER)",
    "CREATE INDEX payloads ON versions(payload)",
};
#define SCHEMA_COUNT (sizeof(schema) / sizeof(schema[0]))

/* sqlite */

static int failed(sqlite3 *db, int code)
{
    const char *why = db ? sqlite3_errmsg(db) : sqlite3_errstr(code);

    switch (code & 0xff) {
    case SQLITE_BUSY:
    case SQLITE_LOCKED:
        return error_set(E_CONFLICT, "%s: %s", NAME, why);
    case SQLITE_NOMEM:
        return error_set(E_NOMEM, "%s: %s", NAME, why);
    case SQLITE_CORRUPT:
    case SQLITE_NOTADB:
    case SQLITE_ERROR:
    case SQLITE_MISMATCH:
        return error_set(E_CORRUPT, "%s: %s", NAME, why);
    case SQLITE_TOOBIG:
        return error_set(E_LIMIT, "%s: %s", NAME, why);
    default:
        return error_set(E_IO, "%s: %s", NAME, why);
    }
}

static int run(sqlite3 *db, const char *sql)
{
    int code = sqlite3_exec(db, sql, NULL, NULL, NULL);

    return code == SQLITE_OK ? 0 : failed(db, code);
}

#define AUTO_STATEMENT(name) __attribute__((cleanup(statement_release))) sqlite3_stmt *name = NULL
static void statement_release(sqlite3_stmt **statement)
{
    sqlite3_finalize(*statement);
}

static int prepare(sqlite3_stmt **out, sqlite3 *db, const char *sql)
{
    int code = sqlite3_prepare_v2(db, sql, -1, out, NULL);

    return code == SQLITE_OK ? 0 : failed(db, code);
}

/* *more: there is a row. */
static int step(bool *more, sqlite3_stmt *statement)
{
    int code = sqlite3_step(statement);

    *more = code == SQLITE_ROW;
    return code == SQLITE_ROW || code == SQLITE_DONE ? 0
                                                     : failed(sqlite3_db_handle(statement), code);
}

/* A statement that gives no rows, ready for the next values. */
static int finish(sqlite3_stmt *statement)
{
    bool more;
    int err = step(&more, statement);

    (void)!sqlite3_reset(statement);
    return err;
}

static int bind(sqlite3_stmt *statement, int column, const struct index_value *value)
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
    return code == SQLITE_OK ? 0 : failed(sqlite3_db_handle(statement), code);
}

static int bind_integer(sqlite3_stmt *statement, int column, int64_t integer)
{
    struct index_value value = {.type = VALUE_INTEGER, .integer = integer};

    return bind(statement, column, &value);
}

/* Columns `first` and the following; borrowed until the next step. */
static void columns_read(struct index_value *out, size_t count, sqlite3_stmt *statement, int first)
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

/* State: how many versions there are, and the sum of their checksums, modulo 2^64 */

struct state {
    int64_t versions, sum;
};

static int state_checksum(int64_t *out, const struct state *state)
{
    const struct index_value values[] = {
        {.type = VALUE_INTEGER, .integer = state->versions},
        {.type = VALUE_INTEGER, .integer = state->sum},
    };
    AUTO_BUF(scratch);

    return index_checksum(out, &scratch, values, 2);
}

static int state_read(struct state *out, sqlite3 *db)
{
    AUTO_STATEMENT(statement);
    int64_t checksum;
    bool more;

    int err = prepare(&statement, db, "SELECT versions, sum, checksum FROM state WHERE id = 1");
    if (err < 0 || (err = step(&more, statement)) < 0)
        return err;
    if (!more)
        return error_set(E_CORRUPT, "%s: its state is missing", NAME);
    struct state state = {sqlite3_column_int64(statement, 0), sqlite3_column_int64(statement, 1)};
    if ((err = state_checksum(&checksum, &state)) < 0)
        return err;
    if (checksum != sqlite3_column_int64(statement, 2))
        return error_set(E_CORRUPT, "%s: its state has another checksum", NAME);
    *out = state;
    return 0;
}

static int state_write(sqlite3 *db, const struct state *state)
{
    AUTO_STATEMENT(statement);
    int64_t checksum;
    int err;

    if ((err = state_checksum(&checksum, state)) < 0 ||
        (err = prepare(&statement, db, "INSERT OR REPLACE INTO state VALUES(1, ?1, ?2, ?3)")) < 0 ||
        (err = bind_integer(statement, 1, state->versions)) < 0 ||
        (err = bind_integer(statement, 2, state->sum)) < 0 ||
        (err = bind_integer(statement, 3, checksum)) < 0)
        return err;
    return finish(statement);
}

/* Sums wrap around. */
static int64_t sum_of(int64_t a, int64_t b)
{
    return (int64_t)((uint64_t)a + (uint64_t)b);
}

/* Opening */

void index_close(struct index *index)
{
    sqlite3_close(index->db);
    index->db = NULL;
    lock_release(&index->lock);
}

/* *out: there are no tables at all. E_CORRUPT for others than ours. */
static int schema_check(bool *is_empty, sqlite3 *db)
{
    AUTO_STATEMENT(statement);
    bool more = false;
    size_t count = 0;

    int err = prepare(&statement, db, "SELECT sql FROM sqlite_schema ORDER BY rowid");
    while (err == 0 && (err = step(&more, statement)) == 0 && more) {
        const char *sql = (const char *)sqlite3_column_text(statement, 0);
        if (count == SCHEMA_COUNT || !sql || strcmp(sql, schema[count]) != 0)
            return error_set(E_CORRUPT, "%s: it is not an index of this program", NAME);
        count++;
    }
    if (err == 0 && count != 0 && count != SCHEMA_COUNT)
        return error_set(E_CORRUPT, "%s: a table is missing", NAME);
    *is_empty = count == 0;
    return err;
}

static int schema_make(sqlite3 *db)
{
    bool is_empty = false;
    int err;

    if ((err = run(db, "BEGIN IMMEDIATE")) < 0 || (err = schema_check(&is_empty, db)) < 0)
        return err;
    if (is_empty) {
        for (size_t i = 0; err == 0 && i < SCHEMA_COUNT; i++)
            err = run(db, schema[i]);
        if (err == 0)
            err = state_write(db, &(struct state){0});
    }
    return err < 0 ? err : run(db, "COMMIT");
}

static int database_prepare(sqlite3 *db, bool may_write)
{
    bool is_empty = false;
    int err;

    (void)!sqlite3_db_config(db, SQLITE_DBCONFIG_DEFENSIVE, 1, NULL);
    (void)!sqlite3_db_config(db, SQLITE_DBCONFIG_TRUSTED_SCHEMA, 0, NULL);
    (void)!sqlite3_limit(db, SQLITE_LIMIT_LENGTH, LIMIT_INDEX_ROW);
    (void)!sqlite3_busy_timeout(db, WAIT_MS);
    if ((err = run(db, "PRAGMA cell_size_check = ON")) < 0)
        return err;
    if (may_write && (err = run(
                          db, "PRAGMA page_size = 1024; PRAGMA journal_mode = WAL; "
                              "PRAGMA synchronous = OFF"
                      )) < 0)
        return err;
    if ((err = schema_check(&is_empty, db)) < 0 || !is_empty)
        return err;
    return may_write ? schema_make(db) : error_set(E_CORRUPT, "%s: it is empty", NAME);
}

/* A closed handle leaves nothing behind. */
static int database_open(sqlite3 **out, const char *path, int flags, bool may_write)
{
    sqlite3 *db = NULL;

    int code = sqlite3_open_v2(path, &db, flags | SQLITE_OPEN_NOMUTEX, NULL);
    int err = code == SQLITE_OK ? database_prepare(db, may_write) : failed(db, code);
    if (err < 0)
        sqlite3_close(db);
    else
        *out = db;
    return err;
}

static int files_remove(const char *path)
{
    static const char *const ends[] = {"", "-wal", "-shm", "-journal"};
    int err = 0;

    for (size_t i = 0; err == 0 && i < sizeof(ends) / sizeof(ends[0]); i++) {
        AUTO_BUF(name);
        if ((err = buf_printf(&name, "%s%s", path, ends[i])) == 0)
            err = path_remove((const char *)name.data);
    }
    return err;
}

/* What is not a file cannot be the index, nor do we remove it. */
static int file_check(const char *path)
{
    if (path_exists(path) && !path_is_file(path))
        return error_set(E_IO, "%s: it is no regular file", path);
    return 0;
}

static int
open_for_writing(struct index *index, struct store *store, const char *path, bool is_fresh)
{
    const int flags = SQLITE_OPEN_READWRITE | SQLITE_OPEN_CREATE;
    bool got = false;
    int err = file_check(path);

    if (err < 0)
        return err;
    if (!is_fresh) {
        if ((err = lock_index(&got, &index->lock, store, false)) < 0)
            return err;
        err = got ? database_open(&index->db, path, flags, true)
                  : error_set(E_CONFLICT, "%s: it is being replaced", path);
        if (err != E_CORRUPT)
            return err;
    }
    if ((err = lock_index(&got, &index->lock, store, true)) < 0)
        return err;
    if (!got)
        return error_set(E_CONFLICT, "%s: another process uses it", path);
    if ((err = files_remove(path)) < 0 || (err = database_open(&index->db, path, flags, true)) < 0)
        return err;
    return lock_index(&got, &index->lock, store, false);
}

/* As a file that nobody changes: sqlite would have to write beside it otherwise. If somebody does,
   checksums tell. */
static int open_for_reading(struct index *index, const char *path)
{
    AUTO_BUF(uri);
    int err = file_check(path);

    if (err == 0)
        err = buf_append_text(&uri, "file:");
    for (const char *at = path; err == 0 && *at; at++)
        err = strchr("?#%", *at) ? buf_printf(&uri, "%%%02x", (unsigned)*at)
                                 : buf_append_byte(&uri, (uint8_t)*at);
    if (err == 0)
        err = buf_append_text(&uri, "?immutable=1");
    const char *name = err < 0 ? NULL : buf_text(&uri);
    if (!name)
        return err < 0 ? err : error_wrap(E_NOMEM, "index");
    return database_open(&index->db, name, SQLITE_OPEN_READONLY | SQLITE_OPEN_URI, false);
}

int index_open(struct index *out, struct store *store, bool is_fresh)
{
    AUTO_INDEX(index);
    AUTO_FREE(char, path);

    int err = path_join(&path, store_path(store), NAME);
    if (err < 0)
        return err;
    err = open_for_writing(&index, store, path, is_fresh);
    if (err == E_IO && !is_fresh) {
        index_close(&index);
        err = open_for_reading(&index, path);
    }
    if (err < 0)
        return err;
    *out = index;
    index = (struct index){.lock = {-1}};
    return 0;
}

/* Reading */

static int adapters_load(struct index_rows *rows, sqlite3 *db)
{
    AUTO_STATEMENT(statement);
    AUTO_BUF(scratch);
    struct index_value values[ADAPTER_COLUMNS];
    bool more = false;

    int err = prepare(&statement, db, "SELECT id, " ADAPTER_FIELDS " FROM adapters ORDER BY id");
    while (err == 0 && (err = step(&more, statement)) == 0 && more) {
        int64_t checksum, id = sqlite3_column_int64(statement, 0);
        columns_read(values, ADAPTER_COLUMNS, statement, 1);
        if ((err = index_checksum(&checksum, &scratch, values, ADAPTER_COLUMNS)) < 0)
            return err;
        size_t count = rows->adapter_count;
        if (checksum != id || (count && rows->adapters[count - 1].id >= id))
            return error_set(E_CORRUPT, "%s: an adapter has another checksum", NAME);
        err = array_grow(
            &rows->adapters, &rows->adapter_capacity, count + 1, sizeof(*rows->adapters)
        );
        if (err == 0 && (err = index_adapter_decode(&rows->adapters[count], id, values)) == 0)
            rows->adapter_count++;
    }
    return err;
}

/* A commit's id as a number: its first 8 bytes, the first one the highest. */
static int64_t row_id(const struct commit_id *commit)
{
    uint64_t id = 0;

    for (unsigned i = 0; i < 8; i++)
        id = id << 8 | commit->bytes[i];
    return (int64_t)id;
}

/* The row that a statement "id, fields, checksum" stands at. */
static int row_read(struct index_row *out, int64_t *checksum, struct buf *scratch, sqlite3_stmt *at)
{
    struct index_value values[VERSION_COLUMNS];

    columns_read(values, VERSION_COLUMNS, at, 1);
    int err = index_checksum(checksum, scratch, values, VERSION_COLUMNS);
    if (err < 0)
        return err;
    if (*checksum != sqlite3_column_int64(at, 1 + VERSION_COLUMNS))
        return error_set(E_CORRUPT, "%s: a version has another checksum", NAME);
    if ((err = index_row_decode(out, values)) < 0)
        return err;
    if (row_id(&out->commit) == sqlite3_column_int64(at, 0))
        return 0;
    index_row_release(out);
    return error_set(E_CORRUPT, "%s: a version has another number", NAME);
}

static int
row_load(struct index_rows *rows, struct state *seen, struct buf *scratch, sqlite3_stmt *at)
{
    struct index_row row;
    int64_t checksum;
    const size_t count = rows->ids.count;

    int err = row_read(&row, &checksum, scratch, at);
    if (err < 0)
        return err;
    if (row.is_version && !index_rows_adapter(rows, row.adapter))
        err = error_set(E_CORRUPT, "%s: an adapter is missing", NAME);
    if (err == 0)
        err = index_rows_add(rows, &row, NULL);
    index_row_release(&row);
    /* A damaged tree of pages may lead to one row again and again. */
    if (err == 0 && rows->ids.count == count)
        err = error_set(E_CORRUPT, "%s: a version is there twice", NAME);
    seen->versions++;
    seen->sum = sum_of(seen->sum, checksum);
    return err;
}

static int versions_load(struct index_rows *rows, sqlite3 *db)
{
    AUTO_STATEMENT(statement);
    AUTO_BUF(scratch);
    struct state state, seen = {0};
    bool more = false;

    int err = state_read(&state, db);
    if (err == 0)
        err = prepare(
            &statement, db, "SELECT id, " VERSION_FIELDS ", checksum FROM versions ORDER BY id"
        );
    while (err == 0 && (err = step(&more, statement)) == 0 && more)
        err = row_load(rows, &seen, &scratch, statement);
    if (err == 0 && (seen.versions != state.versions || seen.sum != state.sum))
        err = error_set(E_CORRUPT, "%s: versions are missing", NAME);
    return err;
}

int index_load(struct index_rows *out, struct index *index)
{
    AUTO_INDEX_ROWS(rows);
    int err;

    if ((err = run(index->db, "BEGIN")) < 0)
        return err;
    if ((err = adapters_load(&rows, index->db)) == 0)
        err = versions_load(&rows, index->db);
    (void)!sqlite3_exec(index->db, "ROLLBACK", NULL, NULL, NULL);
    if (err < 0)
        return err;
    rows.stored = rows.ids.count;
    *out = rows;
    rows = (struct index_rows){0};
    return 0;
}

/* Writing */

struct saving {
    sqlite3_stmt *adapter, *look, *version;
    struct state state;
    struct buf scratch;
};

static void saving_release(struct saving *saving)
{
    statement_release(&saving->adapter);
    statement_release(&saving->look);
    statement_release(&saving->version);
    buf_release(&saving->scratch);
}

static int saving_begin(struct saving *saving, sqlite3 *db)
{
    int err;

    if ((err = state_read(&saving->state, db)) < 0 ||
        (err = prepare(
             &saving->adapter, db,
             "INSERT OR IGNORE INTO adapters VALUES(?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11, "
             "?12, ?13, ?14, ?15, ?16, ?17, ?18, ?19)"
         )) < 0 ||
        (err = prepare(&saving->look, db, "SELECT checksum FROM versions WHERE id = ?1")) < 0)
        return err;
    return prepare(
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
    int err = bind_integer(saving->adapter, 1, adapter->id);
    for (size_t i = 0; err == 0 && i < ADAPTER_COLUMNS; i++)
        err = bind(saving->adapter, 2 + (int)i, &values[i]);
    return err < 0 ? err : finish(saving->adapter);
}

/* The sum, and the number, without a row of this id that is there already. */
static int row_forget(struct state *state, struct saving *saving, int64_t id)
{
    bool there = false;

    int err = bind_integer(saving->look, 1, id);
    if (err == 0 && (err = step(&there, saving->look)) == 0 && there) {
        state->versions--;
        state->sum = sum_of(state->sum, -sqlite3_column_int64(saving->look, 0));
    }
    (void)!sqlite3_reset(saving->look);
    return err;
}

static int
row_save(struct saving *saving, const struct index_row *row, const struct index_adapter *adapter)
{
    struct index_value values[VERSION_COLUMNS];
    struct state state = saving->state;
    int64_t checksum, id = row_id(&row->commit);
    int err;

    if (adapter && (err = adapter_save(saving, adapter)) < 0)
        return err;
    index_row_values(values, row);
    if ((err = index_checksum(&checksum, &saving->scratch, values, VERSION_COLUMNS)) < 0 ||
        (err = row_forget(&state, saving, id)) < 0 ||
        (err = bind_integer(saving->version, 1, id)) < 0)
        return err;
    for (size_t i = 0; err == 0 && i < VERSION_COLUMNS; i++)
        err = bind(saving->version, 2 + (int)i, &values[i]);
    if (err < 0 || (err = bind_integer(saving->version, 2 + VERSION_COLUMNS, checksum)) < 0 ||
        (err = finish(saving->version)) < 0)
        return err;
    saving->state = (struct state){state.versions + 1, sum_of(state.sum, checksum)};
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
    return err < 0 ? err : state_write(db, &saving.state);
}

int index_save(struct index *index, const struct index_rows *rows, const bool *keep)
{
    int err = run(index->db, "BEGIN IMMEDIATE");

    if (err < 0)
        return err;
    if ((err = rows_save(index->db, rows, keep)) == 0)
        err = run(index->db, "COMMIT");
    if (err < 0)
        (void)!sqlite3_exec(index->db, "ROLLBACK", NULL, NULL, NULL);
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
    if (err < 0 || (err = index_open(&index, store, false)) < 0)
        return err;
    return index_save(&index, &rows, NULL);
}

void index_add(struct store *store, const git_oid *commit)
{
    (void)!version_add(store, commit);
}

static int payload_look(
    bool *found, git_oid *out, sqlite3 *db, const struct digest *payload, const git_oid *layout
)
{
    AUTO_STATEMENT(statement);
    AUTO_BUF(scratch);
    const struct index_value wanted = {
        .type = VALUE_BLOB, .bytes = {payload->bytes, sizeof(payload->bytes)}};
    int64_t checksum;
    bool more = false;

    int err = prepare(
        &statement, db, "SELECT id, " VERSION_FIELDS ", checksum FROM versions WHERE payload = ?1"
    );
    if (err == 0)
        err = bind(statement, 1, &wanted);
    for (int i = 0; err == 0 && !*found && i < LOOK_MAX; i++) {
        struct index_row row;
        if ((err = step(&more, statement)) < 0 || !more ||
            (err = row_read(&row, &checksum, &scratch, statement)) < 0)
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
    if (index_open(&index, store, false) == 0)
        (void)!payload_look(found, out, index.db, payload, layout);
}
