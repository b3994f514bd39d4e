/* sqlite in our words, for the files of the index. See index.h. */
#ifndef STORE_INDEX_DB_H
#define STORE_INDEX_DB_H

#include <sqlite3.h>

#include "store/index.h"

/* Columns in the order of index_row.h. */
#define VERSION_FIELDS                                                                             \
    "commit_id, parents, time, snapshot, adapter, payload, payload_bytes, layout, vectors, "       \
    "codec, depth, frame_bytes, metrics"
#define ADAPTER_FIELDS                                                                             \
    "kind, rank, base, d_initial, targets, modules, layers, params, seed, state, variant, "        \
    "rounding, basis_in, basis_out, dtype_a, dtype_b, sha256_a, sha256_b"

/* error_set() for a code of sqlite: E_CORRUPT, E_CONFLICT (busy), E_LIMIT (a row too large),
   E_NOMEM, else E_IO. */
MUST_CHECK int db_failed(sqlite3 *db, int code);
MUST_CHECK int db_run(sqlite3 *db, const char *sql);
/* As after a failure: nothing of a transaction stays. */
void db_rollback(sqlite3 *db);

#define AUTO_STATEMENT(name) __attribute__((cleanup(statement_release))) sqlite3_stmt *name = NULL
void statement_release(sqlite3_stmt **statement);
MUST_CHECK int statement_prepare(sqlite3_stmt **out, sqlite3 *db, const char *sql);
/* *more: it stands at a row. */
MUST_CHECK int statement_step(bool *more, sqlite3_stmt *statement);
/* Run one that gives no rows; it is then ready for other values. */
MUST_CHECK int statement_finish(sqlite3_stmt *statement);
/* The value is borrowed until the statement is run. Numbers are from 1. */
MUST_CHECK int statement_bind(sqlite3_stmt *statement, int number, const struct index_value *value);
MUST_CHECK int statement_bind_integer(sqlite3_stmt *statement, int number, int64_t integer);
/* Columns `first` and the following, from 0; borrowed until the next step. */
void statement_columns(struct index_value *out, size_t count, sqlite3_stmt *statement, int first);

/* How many versions there are, and the sum of their checksums, modulo 2^64. */
struct index_state {
    int64_t versions, sum;
};
MUST_CHECK int index_state_read(struct index_state *out, sqlite3 *db);
MUST_CHECK int index_state_write(sqlite3 *db, const struct index_state *state);
int64_t index_sum(int64_t a, int64_t b);

/* A commit's id as a row's: its first 8 bytes, the first one the highest. */
int64_t index_row_id(const struct commit_id *commit);
/* The row at which a statement of "id, VERSION_FIELDS, checksum" stands. E_CORRUPT where its
   checksum, or its id, is not right. */
MUST_CHECK int index_row_at(
    struct index_row *out, int64_t *checksum, struct checksummer *checksummer, sqlite3_stmt *at
);

#endif
