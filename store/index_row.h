/*
 * What the index knows of a version, made from git, and as the columns of a row.
 *
 * A row is a list of values; its checksum is the first 8 bytes of the SHA-256 of all of them, each
 * with its type and length before it. What many versions share (configuration, layout, basis) is
 * one row of its own, whose id is its checksum.
 */
#ifndef STORE_INDEX_ROW_H
#define STORE_INDEX_ROW_H

#include "store/internal.h"

/* Columns of table `adapters`, behind its id; docs/format.md has their meaning. */
enum {
    ADAPTER_KIND,
    ADAPTER_RANK,
    ADAPTER_BASE,
    ADAPTER_D_INITIAL,
    ADAPTER_TARGETS,
    ADAPTER_MODULES,
    ADAPTER_LAYERS,
    ADAPTER_PARAMS,
    ADAPTER_SEED,
    ADAPTER_STATE,
    ADAPTER_VARIANT,
    ADAPTER_ROUNDING,
    ADAPTER_BASIS_IN,
    ADAPTER_BASIS_OUT,
    ADAPTER_DTYPE_A,
    ADAPTER_DTYPE_B,
    ADAPTER_SHA256_A,
    ADAPTER_SHA256_B,
    ADAPTER_COLUMNS,
};

/* Columns of table `versions`, between its id and its checksum. */
enum {
    VERSION_COMMIT,
    VERSION_PARENTS,
    VERSION_TIME,
    VERSION_SNAPSHOT,
    VERSION_ADAPTER,
    VERSION_PAYLOAD,
    VERSION_PAYLOAD_BYTES,
    VERSION_LAYOUT,
    VERSION_VECTORS,
    VERSION_CODEC,
    VERSION_DEPTH,
    VERSION_FRAME_BYTES,
    VERSION_METRICS,
    VERSION_COLUMNS,
};

/* One column of one row; borrows its bytes. */
enum value_type { VALUE_NULL, VALUE_INTEGER, VALUE_REAL, VALUE_TEXT, VALUE_BLOB };
struct index_value {
    enum value_type type;
    int64_t integer;
    double real;
    struct bytes bytes;
};

/* What checksums are made with, one after the other. */
struct checksummer {
    struct buf text;
    struct hash hash;
};
#define AUTO_CHECKSUMMER(name)                                                                     \
    __attribute__((cleanup(checksummer_release))) struct checksummer name = {0}
void checksummer_release(struct checksummer *checksummer);
MUST_CHECK int index_checksum(
    int64_t *out, struct checksummer *checksummer, const struct index_value *values, size_t count
);

/* What a configuration, a layout and a basis say: the same for most versions of a run. */
struct index_adapter {
    int64_t id;
    char *base;    /* NULL where the configuration names none */
    char *targets; /* last parts of the modules' names, sorted, commas between: "key,query" */
    double d_initial;
    uint64_t modules, layers, params; /* layers: distinct ones; params: trained values */
    uint64_t rank;                    /* the configuration's */
    struct recipe recipe; /* its payload apart; of what was decoded from a row, only the seed */
};

struct index_row {
    struct commit_id commit;
    struct commit_id *parents; /* as the commit names them, a shallow clone's missing ones too */
    size_t parent_count;
    int64_t time;    /* the committer's */
    bool is_damaged; /* the commit could be read, its version not: never in the index */
    bool is_version; /* else a commit that git made, and nothing of the following is there */
    struct digest snapshot, payload;
    git_oid layout, vectors; /* blob, tree */
    uint64_t payload_bytes, frame_bytes;
    unsigned depth;
    char codec[16];
    char *metrics;   /* a JSON object: name to number, each name once */
    int64_t adapter; /* index_adapter.id */
};
void index_row_release(struct index_row *row);
void index_adapter_release(struct index_adapter *adapter);

/* Columns, borrowed from the row. */
void index_row_values(struct index_value out[VERSION_COLUMNS], const struct index_row *row);
/* `seed` holds one of the columns' text. */
#define SEED_SIZE 24
void index_adapter_values(
    struct index_value out[ADAPTER_COLUMNS],
    const struct index_adapter *adapter,
    char seed[SEED_SIZE]
);

/* Back again. E_CORRUPT for columns of another type or size. */
MUST_CHECK int
index_row_decode(struct index_row *out, const struct index_value values[VERSION_COLUMNS]);
MUST_CHECK int index_adapter_decode(
    struct index_adapter *out, int64_t id, const struct index_value values[ADAPTER_COLUMNS]
);

/*
 * From git. E_CORRUPT where the commit itself cannot be read; where its version cannot, the row
 * says so. What two versions in a row have in common is read once: `reader` is all-zero at first,
 * and reader->adapter is then what row->adapter names, until its next use.
 */
struct index_reader {
    git_oid config, layout; /* of what `adapter` was made */
    bool has_adapter;
    struct index_adapter adapter;
};
void index_reader_release(struct index_reader *reader);
MUST_CHECK int index_row_read(
    struct index_row *out, struct index_reader *reader, struct store *store, const git_oid *commit
);

#endif
