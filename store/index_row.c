/* A row of the index: as columns, and with its checksum. See index_row.h and docs/format.md,
   "Index". */
#include "store/index_row.h"

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "format/text.h"

void index_row_release(struct index_row *row)
{
    free(row->parents);
    free(row->metrics);
    *row = (struct index_row){0};
}

void index_adapter_release(struct index_adapter *adapter)
{
    free(adapter->base);
    free(adapter->targets);
    *adapter = (struct index_adapter){0};
}

/* Checksums */

static void put_le64(uint8_t out[8], uint64_t value)
{
    for (unsigned i = 0; i < 8; i++)
        out[i] = (uint8_t)(value >> 8 * i);
}

static int value_append(struct buf *out, const struct index_value *value)
{
    uint8_t head[9] = {(uint8_t)value->type};
    uint64_t real;

    switch (value->type) {
    case VALUE_NULL:
        break;
    case VALUE_INTEGER:
        put_le64(head + 1, (uint64_t)value->integer);
        break;
    case VALUE_REAL:
        memcpy(&real, &value->real, sizeof(real));
        put_le64(head + 1, real);
        break;
    case VALUE_TEXT:
    case VALUE_BLOB:
        put_le64(head + 1, value->bytes.len);
        break;
    }
    int err = buf_append(out, head, sizeof(head));
    if (err == 0 && (value->type == VALUE_TEXT || value->type == VALUE_BLOB))
        err = buf_append(out, value->bytes.data, value->bytes.len);
    return err;
}

void checksummer_release(struct checksummer *checksummer)
{
    buf_release(&checksummer->text);
    hash_release(&checksummer->hash);
}

int index_checksum(
    int64_t *out, struct checksummer *checksummer, const struct index_value *values, size_t count
)
{
    struct digest digest;
    uint64_t sum = 0;
    int err = 0;

    checksummer->text.len = 0;
    for (size_t i = 0; err == 0 && i < count; i++)
        err = value_append(&checksummer->text, &values[i]);
    if (err < 0 ||
        (err = digest_with(&digest, &checksummer->hash, buf_bytes(&checksummer->text))) < 0)
        return err;
    for (unsigned i = 0; i < 8; i++)
        sum = sum << 8 | digest.bytes[i];
    memcpy(out, &sum, sizeof(sum));
    return 0;
}

/* To columns */

static struct index_value value_none(void)
{
    return (struct index_value){.type = VALUE_NULL};
}

static struct index_value value_integer(uint64_t integer)
{
    return (struct index_value){.type = VALUE_INTEGER, .integer = (int64_t)integer};
}

static struct index_value value_text(const char *text)
{
    if (!text)
        return value_none();
    return (struct index_value){.type = VALUE_TEXT, .bytes = text_bytes(text)};
}

static struct index_value value_blob(const void *data, size_t len)
{
    return (struct index_value){.type = VALUE_BLOB, .bytes = {data, len}};
}

void index_row_values(struct index_value out[VERSION_COLUMNS], const struct index_row *row)
{
    for (size_t i = 0; i < VERSION_COLUMNS; i++)
        out[i] = value_none();
    out[VERSION_COMMIT] = value_blob(&row->commit, sizeof(row->commit));
    out[VERSION_PARENTS] = value_blob(row->parents, row->parent_count * sizeof(*row->parents));
    out[VERSION_TIME] = value_integer((uint64_t)row->time);
    if (!row->is_version)
        return;
    out[VERSION_SNAPSHOT] = value_blob(&row->snapshot, sizeof(row->snapshot));
    out[VERSION_ADAPTER] = value_integer((uint64_t)row->adapter);
    out[VERSION_PAYLOAD] = value_blob(&row->payload, sizeof(row->payload));
    out[VERSION_PAYLOAD_BYTES] = value_integer(row->payload_bytes);
    out[VERSION_LAYOUT] = value_blob(&row->layout, sizeof(row->layout));
    out[VERSION_VECTORS] = value_blob(&row->vectors, sizeof(row->vectors));
    out[VERSION_CODEC] = value_text(row->codec);
    out[VERSION_DEPTH] = value_integer(row->depth);
    out[VERSION_FRAME_BYTES] = value_integer(row->frame_bytes);
    out[VERSION_METRICS] = value_text(row->metrics);
}

void index_adapter_values(
    struct index_value out[ADAPTER_COLUMNS],
    const struct index_adapter *adapter,
    char seed[SEED_SIZE]
)
{
    const struct recipe *recipe = &adapter->recipe;

    for (size_t i = 0; i < ADAPTER_COLUMNS; i++)
        out[i] = value_none();
    out[ADAPTER_KIND] = value_text("vera");
    out[ADAPTER_RANK] = value_integer(adapter->rank);
    out[ADAPTER_BASE] = value_text(adapter->base);
    out[ADAPTER_D_INITIAL] = (struct index_value){.type = VALUE_REAL, .real = adapter->d_initial};
    out[ADAPTER_TARGETS] = value_text(adapter->targets);
    out[ADAPTER_MODULES] = value_integer(adapter->modules);
    out[ADAPTER_LAYERS] = value_integer(adapter->layers);
    out[ADAPTER_PARAMS] = value_integer(adapter->params);
    if (recipe->has_seed) {
        snprintf(
            seed, SEED_SIZE, "%s%" PRIu64, recipe->seed.negative ? "-" : "", recipe->seed.magnitude
        );
        out[ADAPTER_SEED] = value_text(seed);
    }
    out[ADAPTER_STATE] = value_text(basis_state_name(recipe->state));
    if (recipe->has_variant) {
        out[ADAPTER_VARIANT] = value_text(basis_variant_name(recipe->variant));
        out[ADAPTER_ROUNDING] = value_text(basis_rounding_name(recipe->rounding));
    }
    if (!recipe->has_matrices)
        return;
    out[ADAPTER_BASIS_IN] = value_integer(recipe->in);
    out[ADAPTER_BASIS_OUT] = value_integer(recipe->out);
    out[ADAPTER_DTYPE_A] = value_text(dtype_name(recipe->dtype_a));
    out[ADAPTER_DTYPE_B] = value_text(dtype_name(recipe->dtype_b));
    out[ADAPTER_SHA256_A] = value_blob(&recipe->sha256_a, sizeof(recipe->sha256_a));
    out[ADAPTER_SHA256_B] = value_blob(&recipe->sha256_b, sizeof(recipe->sha256_b));
}

/* From columns */

static bool take_blob(void *out, size_t size, const struct index_value *value)
{
    if (value->type != VALUE_BLOB || value->bytes.len != size)
        return false;
    memcpy(out, value->bytes.data, size);
    return true;
}

static bool take_uint(uint64_t *out, const struct index_value *value)
{
    *out = (uint64_t)value->integer;
    return value->type == VALUE_INTEGER && value->integer >= 0;
}

/* NULL out of memory only. */
static int take_text(char **out, const struct index_value *value)
{
    if (value->type != VALUE_TEXT || memchr(value->bytes.data, 0, value->bytes.len))
        return error_set(E_CORRUPT, "a column holds no text");
    if (!(*out = bytes_dup(value->bytes)))
        return error_wrap(E_NOMEM, "index");
    return 0;
}

static int take_parents(struct index_row *row, const struct index_value *value)
{
    size_t count = value->bytes.len / sizeof(*row->parents);

    if (value->type != VALUE_BLOB || value->bytes.len % sizeof(*row->parents))
        return error_set(E_CORRUPT, "a column holds no parents");
    if (!(row->parents = array_new(count, sizeof(*row->parents))))
        return error_wrap(E_NOMEM, "index");
    if (count)
        memcpy(row->parents, value->bytes.data, value->bytes.len);
    row->parent_count = count;
    return 0;
}

static bool take_version(struct index_row *row, const struct index_value *values)
{
    const struct index_value *codec = &values[VERSION_CODEC];
    uint64_t depth;

    if (codec->type != VALUE_TEXT || codec->bytes.len >= sizeof(row->codec) ||
        !take_uint(&depth, &values[VERSION_DEPTH]) || depth > UINT32_MAX)
        return false;
    memcpy(row->codec, codec->bytes.data, codec->bytes.len);
    row->depth = (unsigned)depth;
    row->adapter = values[VERSION_ADAPTER].integer;
    return values[VERSION_ADAPTER].type == VALUE_INTEGER &&
           take_blob(&row->snapshot, sizeof(row->snapshot), &values[VERSION_SNAPSHOT]) &&
           take_blob(&row->payload, sizeof(row->payload), &values[VERSION_PAYLOAD]) &&
           take_blob(&row->layout, sizeof(row->layout), &values[VERSION_LAYOUT]) &&
           take_blob(&row->vectors, sizeof(row->vectors), &values[VERSION_VECTORS]) &&
           take_uint(&row->payload_bytes, &values[VERSION_PAYLOAD_BYTES]) &&
           take_uint(&row->frame_bytes, &values[VERSION_FRAME_BYTES]);
}

static int row_take(struct index_row *row, const struct index_value values[VERSION_COLUMNS])
{
    int err;

    if (!take_blob(&row->commit, sizeof(row->commit), &values[VERSION_COMMIT]) ||
        values[VERSION_TIME].type != VALUE_INTEGER)
        return error_set(E_CORRUPT, "a row is no commit");
    row->time = values[VERSION_TIME].integer;
    if ((err = take_parents(row, &values[VERSION_PARENTS])) < 0)
        return err;
    row->is_version = values[VERSION_SNAPSHOT].type != VALUE_NULL;
    if (!row->is_version)
        return 0;
    if (!take_version(row, values))
        return error_set(E_CORRUPT, "a row is no version");
    return take_text(&row->metrics, &values[VERSION_METRICS]);
}

int index_row_decode(struct index_row *out, const struct index_value values[VERSION_COLUMNS])
{
    struct index_row row = {0};
    int err = row_take(&row, values);

    if (err < 0) {
        index_row_release(&row);
        return err;
    }
    *out = row;
    return 0;
}

static bool take_seed(struct recipe *recipe, const struct index_value *value)
{
    struct bytes digits = value->bytes;

    if (value->type == VALUE_NULL)
        return true;
    if (value->type != VALUE_TEXT || !digits.len)
        return false;
    recipe->has_seed = true;
    recipe->seed.negative = digits.data[0] == '-';
    if (recipe->seed.negative)
        digits = (struct bytes){digits.data + 1, digits.len - 1};
    return text_parse_uint64(&recipe->seed.magnitude, digits);
}

static int adapter_take(struct index_adapter *adapter, const struct index_value *values)
{
    int err = 0;

    adapter->d_initial = values[ADAPTER_D_INITIAL].real;
    if (values[ADAPTER_D_INITIAL].type != VALUE_REAL ||
        !take_uint(&adapter->rank, &values[ADAPTER_RANK]) ||
        !take_uint(&adapter->modules, &values[ADAPTER_MODULES]) ||
        !take_uint(&adapter->layers, &values[ADAPTER_LAYERS]) ||
        !take_uint(&adapter->params, &values[ADAPTER_PARAMS]) ||
        !take_seed(&adapter->recipe, &values[ADAPTER_SEED]))
        return error_set(E_CORRUPT, "a row is no adapter");
    if (values[ADAPTER_BASE].type != VALUE_NULL)
        err = take_text(&adapter->base, &values[ADAPTER_BASE]);
    return err < 0 ? err : take_text(&adapter->targets, &values[ADAPTER_TARGETS]);
}

int index_adapter_decode(
    struct index_adapter *out, int64_t id, const struct index_value values[ADAPTER_COLUMNS]
)
{
    struct index_adapter adapter = {.id = id};
    int err = adapter_take(&adapter, values);

    if (err < 0) {
        index_adapter_release(&adapter);
        return err;
    }
    *out = adapter;
    return 0;
}
