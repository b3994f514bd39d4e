/*
 * The file of the index: opened, made, replaced. See index.h.
 *
 * Nothing in it is synced: after a power cut it may be damaged, and is then made anew. What is read
 * has its checksum compared; a schema that is not ours to the letter is not used at all, so neither
 * views nor triggers of others run. Two processes never replace the file under each other: byte 3
 * of vera.lock is shared while it is open, exclusive while it is replaced.
 */
#include <stdlib.h>
#include <string.h>

#include "format/file.h"
#include "format/limits.h"
#include "store/index_db.h"

#define WAIT_MS 50

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

    int err = statement_prepare(&statement, db, "SELECT sql FROM sqlite_schema ORDER BY rowid");
    while (err == 0 && (err = statement_step(&more, statement)) == 0 && more) {
        const char *sql = (const char *)sqlite3_column_text(statement, 0);
        if (count == SCHEMA_COUNT || !sql || strcmp(sql, schema[count]) != 0)
            return error_set(E_CORRUPT, "it is not an index of this program");
        count++;
    }
    if (err == 0 && count != 0 && count != SCHEMA_COUNT)
        return error_set(E_CORRUPT, "a table is missing");
    *is_empty = count == 0;
    return err;
}

static int schema_make(sqlite3 *db)
{
    bool is_empty = false;
    int err;

    if ((err = db_run(db, "PRAGMA page_size = 4096")) < 0 ||
        (err = db_run(db, "PRAGMA journal_mode = WAL")) < 0 ||
        (err = db_run(db, "BEGIN IMMEDIATE")) < 0 || (err = schema_check(&is_empty, db)) < 0)
        return err;
    if (is_empty) {
        for (size_t i = 0; err == 0 && i < SCHEMA_COUNT; i++)
            err = db_run(db, schema[i]);
        if (err == 0)
            err = index_state_write(db, &(struct index_state){0});
    }
    return err < 0 ? err : db_run(db, "COMMIT");
}

static int database_prepare(sqlite3 *db, bool may_make)
{
    bool is_empty = false;
    int err;

    (void)!sqlite3_db_config(db, SQLITE_DBCONFIG_DEFENSIVE, 1, NULL);
    (void)!sqlite3_db_config(db, SQLITE_DBCONFIG_TRUSTED_SCHEMA, 0, NULL);
    (void)!sqlite3_limit(db, SQLITE_LIMIT_LENGTH, LIMIT_INDEX_ROW);
    (void)!sqlite3_busy_timeout(db, WAIT_MS);
    if ((err = db_run(db, "PRAGMA cell_size_check = ON; PRAGMA synchronous = OFF")) < 0 ||
        (err = schema_check(&is_empty, db)) < 0 || !is_empty)
        return err;
    return may_make ? schema_make(db) : error_set(E_CORRUPT, "it is empty");
}

/* A closed handle leaves nothing behind. */
static int database_open(sqlite3 **out, const char *path, int flags)
{
    sqlite3 *db = NULL;

    int code = sqlite3_open_v2(path, &db, flags | SQLITE_OPEN_NOMUTEX, NULL);
    int err = code == SQLITE_OK ? database_prepare(db, (flags & SQLITE_OPEN_CREATE) != 0)
                                : db_failed(db, code);
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
static int file_check(const char *path, bool must_exist)
{
    if (!path_exists(path))
        return must_exist ? error_set(E_NOTFOUND, "%s: is missing", path) : 0;
    return path_is_file(path) ? 0 : error_set(E_IO, "%s: it is no regular file", path);
}

static int open_shared(struct index *index, struct store *store, const char *path, int flags)
{
    bool got = false;

    int err = lock_index(&got, &index->lock, store, false);
    if (err == 0 && !got)
        err = error_set(E_CONFLICT, "%s: it is being replaced", path);
    return err < 0 ? err : database_open(&index->db, path, flags);
}

static int open_renewed(struct index *index, struct store *store, const char *path, int flags)
{
    bool got = false;

    int err = lock_index(&got, &index->lock, store, true);
    if (err == 0 && !got)
        err = error_set(E_CONFLICT, "%s: another process uses it", path);
    if (err < 0 || (err = files_remove(path)) < 0 ||
        (err = database_open(&index->db, path, flags)) < 0)
        return err;
    return lock_index(&got, &index->lock, store, false);
}

static int
open_for_writing(struct index *index, struct store *store, const char *path, enum index_use use)
{
    int flags = SQLITE_OPEN_READWRITE | (use == INDEX_LOOK ? 0 : SQLITE_OPEN_CREATE);
    int err = file_check(path, use == INDEX_LOOK);

    if (err < 0)
        return err;
    if (use != INDEX_RENEW) {
        err = open_shared(index, store, path, flags);
        if (err != E_CORRUPT || use == INDEX_LOOK)
            return err;
    }
    return open_renewed(index, store, path, flags);
}

/* As a file that nobody changes: sqlite would have to write beside it otherwise. If somebody does,
   checksums tell. */
static int open_for_reading(struct index *index, const char *path)
{
    AUTO_BUF(uri);
    int err = file_check(path, true);

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
    return database_open(&index->db, name, SQLITE_OPEN_READONLY | SQLITE_OPEN_URI);
}

int index_open(struct index *out, struct store *store, enum index_use use)
{
    AUTO_INDEX(index);
    AUTO_FREE(char, path);

    int err = path_join(&path, store_path(store), INDEX_FILE);
    if (err < 0)
        return err;
    err = open_for_writing(&index, store, path, use);
    if (err == E_IO && use != INDEX_RENEW) {
        index_close(&index);
        err = open_for_reading(&index, path);
    }
    if (err < 0)
        return err;
    *out = index;
    index = (struct index){.lock = {-1}};
    return 0;
}
