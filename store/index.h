/*
 * .vera/index.sqlite: what query, and whoever looks for an equal payload, would otherwise read from
 * every commit (docs/format.md, "Index").
 *
 * Never needed for truth. A row is used only where its checksum is right, and all rows only where
 * their number and the sum of their checksums are; else the file is dropped and made anew. What
 * cannot be opened, locked or written is done without. So no failure of the index is anybody's but
 * that it took longer; only E_NOMEM, E_INTERRUPTED and damage of the repository itself pass up.
 */
#ifndef STORE_INDEX_H
#define STORE_INDEX_H

#include "store/id_set.h"
#include "store/index_row.h"

#define INDEX_FILE "index.sqlite" /* in .vera */

/* Every row, in memory. */
struct index_rows {
    struct id_set ids;      /* of commits */
    struct index_row *rows; /* by index in ids */
    size_t capacity;
    struct index_adapter *adapters; /* in order of id */
    size_t adapter_count, adapter_capacity;
    size_t stored; /* the first rows, which are in the file already */
};
#define AUTO_INDEX_ROWS(name)                                                                      \
    __attribute__((cleanup(index_rows_release))) struct index_rows name = {0}
void index_rows_release(struct index_rows *rows);
/* Takes the row over; a copy of `adapter` is kept where it is new (NULL where the row has none). */
MUST_CHECK int
index_rows_add(struct index_rows *rows, struct index_row *row, const struct index_adapter *adapter);
const struct index_adapter *index_rows_adapter(const struct index_rows *rows, int64_t id);

/* The file, open. All-zero: closed. */
struct index {
    struct sqlite3 *db;
    struct store_lock lock;
};
#define AUTO_INDEX(name) __attribute__((cleanup(index_close))) struct index name = {.lock = {-1}}
void index_close(struct index *index);

enum index_use {
    INDEX_UPDATE, /* to read and write; made where it is missing, made anew where it is damaged or
                     another program's; only to read where the repository cannot be written */
    INDEX_RENEW,  /* dropped first, whatever is there */
    INDEX_LOOK,   /* as it is: E_NOTFOUND where it is missing, E_CORRUPT where it is damaged */
};
/* E_IO, E_CONFLICT: it cannot be used now. */
MUST_CHECK int index_open(struct index *out, struct store *store, enum index_use use);

/* All rows, checked. E_CORRUPT: the index is damaged. */
MUST_CHECK int index_load(struct index_rows *out, struct index *index);
/* Write the rows that are new, in one transaction; `keep` (by row, may be NULL) chooses among them.
 */
MUST_CHECK int index_save(struct index *index, const struct index_rows *rows, const bool *keep);

/* A version that was just committed, best effort. */
void index_add(struct store *store, const git_oid *commit);

/* The vectors/ of a version that has this payload in this layout, anywhere in the repository;
 *found false where none is known. It may be gone or damaged: the caller decodes and compares. */
void index_find_payload(
    bool *found,
    git_oid *out,
    struct store *store,
    const struct digest *payload,
    const git_oid *layout
);

/* For fsck: each row that is not what git has, or a word on the file itself where it is damaged;
   `bad` may end the walk with an error. A missing index is none. */
MUST_CHECK int index_check(
    struct store *store,
    int (*bad)(void *context, const struct commit_id *commit, const char *problem),
    void *context
);

#endif
