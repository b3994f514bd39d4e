/*
 * Memory of the vectors: pieces of PIECE_BYTES or so, each for as many slots, which are taken one
 * after the other and kept. Inside a piece the module comes first, then the slot, so that one
 * module's vectors of neighbouring slots lie side by side.
 *
 * On a GPU they are registry_device.h's, and everything here but the slots is unused.
 *
 * One mutex guards the slots and the list of pieces. An adapter is checked before it is taken and
 * its vectors are written after it is dropped again, into a slot that nobody else finds.
 */
#include "apply/registry.h"

#include <inttypes.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>

#include "apply/batch.h"
#include "apply/registry_device.h"
#include "apply/registry_model.h"
#include "apply/slots.h"
#include "format/bundle.h"
#include "format/file.h"
#include "format/limits.h"

#define PIECE_BYTES (4 * MIB)

struct registry {
    struct registry_model model;
    struct batch_basis basis;
    uint64_t slot_bytes; /* vectors of one adapter */
    uint64_t fixed_bytes, budget_bytes;
    uint32_t piece_slots;
    pthread_mutex_t mutex;
    struct slots slots;
    uint8_t **pieces;               /* [capacity / piece_slots], NULL where none was needed yet */
    uint64_t piece_bytes;           /* taken */
    struct registry_device *device; /* or NULL: all is in host memory */
};

/* ---- Memory ---- */

/* Slots of a piece: the last one has what is left. */
static uint32_t piece_size(const struct registry *registry, uint32_t piece)
{
    uint32_t left = registry->slots.capacity - piece * registry->piece_slots;

    return left < registry->piece_slots ? left : registry->piece_slots;
}

/* Where a slot's vectors of a layer are. */
static uint8_t *
vectors_at(const struct registry *registry, const struct registry_layer *layer, uint32_t slot)
{
    uint32_t piece = slot / registry->piece_slots, at = slot % registry->piece_slots;
    size_t values = layer->values_begin * piece_size(registry, piece) + at * layer->values;

    return registry->pieces[piece] + values * (dtype_bits(registry->model.vectors) / 8);
}

/* Have the memory of a slot. The mutex is held. */
static int piece_need(struct registry *registry, uint32_t slot)
{
    if (registry->device)
        return 0;
    uint32_t piece = slot / registry->piece_slots;
    uint32_t size = piece_size(registry, piece);
    if (registry->pieces[piece])
        return 0;
    if (!(registry->pieces[piece] = array_new(size, (size_t)registry->slot_bytes)))
        return error_wrap(E_NOMEM, "registry");
    registry->piece_bytes += size * registry->slot_bytes;
    return 0;
}

/* How many adapters the budget holds, of which each takes `each` beside what is `fixed`. */
static int capacity_of(uint32_t *out, uint64_t budget, uint64_t fixed, uint64_t each)
{
    if (budget < fixed || budget - fixed < each) {
        int err = error_set(
            E_LIMIT, "registry: a budget of %" PRIu64 " bytes does not hold one adapter", budget
        );
        return error_hint(err, "%" PRIu64 " bytes, and %" PRIu64 " for each adapter", fixed, each);
    }
    uint64_t capacity = (budget - fixed) / each;
    *out = capacity < SLOTS_MAX ? (uint32_t)capacity : SLOTS_MAX;
    return 0;
}

static int host_make(struct registry *registry, const struct basis *basis)
{
    const struct registry_model *model = &registry->model;
    /* A pointer to each piece, too, of which none has less than one slot. */
    uint64_t beside = SLOTS_BYTES + sizeof(*registry->pieces), basis_bytes;
    uint32_t capacity = 0;

    int err = batch_basis_bytes(&basis_bytes, basis->rank, basis->in, basis->out);
    if (err < 0)
        return error_wrap(err, "registry");
    uint64_t fixed = sizeof(*registry) + basis_bytes +
                     model->count * (sizeof(*model->layers) + sizeof(*model->order));
    err = capacity_of(&capacity, registry->budget_bytes, fixed, registry->slot_bytes + beside);
    if (err < 0)
        return err;
    registry->fixed_bytes = fixed + capacity * beside;
    if ((err = batch_basis_pack(&registry->basis, basis)) < 0 ||
        (err = slots_init(&registry->slots, capacity)) < 0)
        return error_wrap(err, "registry");
    uint64_t slots = PIECE_BYTES / registry->slot_bytes;
    registry->piece_slots = slots == 0 ? 1 : slots < capacity ? (uint32_t)slots : capacity;
    size_t pieces = (capacity + registry->piece_slots - 1) / registry->piece_slots;
    if (!(registry->pieces = array_new(pieces, sizeof(*registry->pieces))))
        return error_wrap(E_NOMEM, "registry");
    return 0;
}

/* What it takes of the host's memory is little, and not counted. */
static int device_make(struct registry *registry, const struct registry_options *options)
{
    uint64_t fixed = registry_device_basis_bytes(options->basis);
    uint32_t capacity = 0;

    int err = capacity_of(&capacity, registry->budget_bytes, fixed, registry->slot_bytes);
    if (err < 0)
        return err;
    registry->fixed_bytes = fixed + capacity * registry->slot_bytes;
    if ((err = slots_init(&registry->slots, capacity)) < 0)
        return error_wrap(err, "registry");
    return registry_device_new(
        &registry->device, &registry->model, options->basis, capacity, options->device
    );
}

static int registry_make(struct registry *registry, const struct registry_options *options)
{
    struct registry_model *model = &registry->model;

    int err = registry_model_init(model, options);
    if (err < 0)
        return err;
    registry->budget_bytes = options->budget_bytes;
    registry->slot_bytes = (uint64_t)model->values * (dtype_bits(model->vectors) / 8);
    return options->on_device ? device_make(registry, options)
                              : host_make(registry, options->basis);
}

int registry_new(struct registry **out, const struct registry_options *options)
{
    struct registry *registry = array_new(1, sizeof(*registry));

    if (!registry)
        return error_wrap(E_NOMEM, "registry");
    pthread_mutex_init(&registry->mutex, NULL);
    int err = registry_make(registry, options);
    if (err < 0) {
        registry_free(registry);
        return err;
    }
    *out = registry;
    return 0;
}

void registry_free(struct registry *registry)
{
    if (!registry)
        return;
    for (uint32_t i = 0; registry->pieces && i * registry->piece_slots < registry->slots.capacity;
         i++)
        free(registry->pieces[i]);
    free(registry->pieces);
    registry_device_free(registry->device);
    slots_release(&registry->slots);
    batch_basis_release(&registry->basis);
    registry_model_release(&registry->model);
    pthread_mutex_destroy(&registry->mutex);
    free(registry);
}

/* ---- Adding ---- */

/* The slot is listed; what the caller wanted with it. The mutex is held. */
static void slot_use(struct registry *registry, uint32_t slot, unsigned flags, int32_t *held)
{
    slots_hold(&registry->slots, slot);
    if (flags & REGISTRY_PIN)
        slots_pin(&registry->slots, slot, true);
    if (held)
        *held = (int32_t)slot;
    else
        slots_drop(&registry->slots, slot);
}

/* Use the adapter where it is there already. The mutex is held. */
static bool
use_listed(struct registry *registry, const struct digest *id, unsigned flags, int32_t *held)
{
    uint32_t slot = slots_find(&registry->slots, id);

    if (slot == SLOTS_NONE)
        return false;
    slot_use(registry, slot, flags, held);
    return true;
}

/* A slot to fill, with its memory; *there where the adapter is in one already. */
static int slot_take(
    uint32_t *out,
    bool *there,
    struct registry *registry,
    const struct digest *id,
    unsigned flags,
    int32_t *held
)
{
    int err = 0;

    pthread_mutex_lock(&registry->mutex);
    *there = use_listed(registry, id, flags, held);
    if (!*there) {
        *out = slots_take(&registry->slots);
        if (*out == SLOTS_NONE)
            err = error_set(
                E_LIMIT, "registry: its %" PRIu32 " adapters are all pinned or in use",
                registry->slots.capacity
            );
        else if ((err = piece_need(registry, *out)) < 0)
            slots_return(&registry->slots, *out);
    }
    pthread_mutex_unlock(&registry->mutex);
    return err;
}

/* Somebody else may have added the same one since. */
static void slot_list(
    struct registry *registry, uint32_t slot, const struct digest *id, unsigned flags, int32_t *held
)
{
    pthread_mutex_lock(&registry->mutex);
    if (use_listed(registry, id, flags, held)) {
        slots_return(&registry->slots, slot);
    } else {
        slots_list(&registry->slots, slot, id);
        slot_use(registry, slot, flags, held);
    }
    pthread_mutex_unlock(&registry->mutex);
}

static int slot_fill(
    struct registry *registry, uint32_t slot, float *scratch, const struct loaded_adapter *adapter
)
{
    const struct registry_model *model = &registry->model;

    if (registry->device)
        return registry_device_fill(registry->device, slot, scratch, adapter);
    for (size_t i = 0; i < model->count; i++)
        registry_model_write(
            vectors_at(registry, model->order[i], slot), scratch, model, i, adapter
        );
    return 0;
}

static void slot_return(struct registry *registry, uint32_t slot)
{
    pthread_mutex_lock(&registry->mutex);
    slots_return(&registry->slots, slot);
    pthread_mutex_unlock(&registry->mutex);
}

int registry_add(
    int32_t *held, struct registry *registry, const struct loaded_adapter *adapter, unsigned flags
)
{
    struct registry_model *model = &registry->model;
    const struct digest *id = &adapter->snapshot->id;
    AUTO_FREE(float, scratch);
    uint32_t slot = 0;
    bool there;
    int err;

    if ((err = registry_model_check(model, adapter, flags & REGISTRY_VECTORS_ONLY)) < 0)
        return err;
    if (!(scratch = array_new(model->vector_max, sizeof(*scratch))))
        return error_wrap(E_NOMEM, "registry");
    if ((err = slot_take(&slot, &there, registry, id, flags, held)) < 0 || there)
        return err;
    if ((err = slot_fill(registry, slot, scratch, adapter)) < 0)
        slot_return(registry, slot);
    else
        slot_list(registry, slot, id, flags, held);
    return err;
}

static int add_snapshot(
    int32_t *held,
    struct digest *id,
    struct registry *registry,
    const struct snapshot *snapshot,
    unsigned flags
)
{
    AUTO_LOADED_ADAPTER(adapter);
    int err;

    if ((err = adapter_load(&adapter, snapshot)) < 0 ||
        (err = registry_add(held, registry, &adapter, flags)) < 0)
        return err;
    if (id)
        *id = snapshot->id;
    return 0;
}

int registry_add_dir(
    int32_t *held, struct digest *id, struct registry *registry, const char *dir, unsigned flags
)
{
    AUTO_ADAPTER_FILES(files);
    AUTO_SNAPSHOT(snapshot);
    int err;

    if ((err = adapter_files_read(&files, dir, false, NULL)) == 0 &&
        (err = snapshot_encode(&snapshot, &files, NULL)) == 0)
        err = add_snapshot(held, id, registry, &snapshot, flags);
    return err < 0 ? error_wrap(err, "%s", dir) : 0;
}

int registry_add_bundle(
    int32_t *held, struct digest *id, struct registry *registry, struct bytes bundle, unsigned flags
)
{
    AUTO_SNAPSHOT(snapshot);
    int err;

    if ((err = bundle_decode(&snapshot, bundle, &bundle_room_any)) < 0)
        return err;
    return add_snapshot(held, id, registry, &snapshot, flags);
}

/* ---- Using ---- */

/* The listed slot of an id, the mutex held where it is found. */
static int find_locked(uint32_t *out, struct registry *registry, const struct digest *id)
{
    char hex[DIGEST_HEX_SIZE];

    pthread_mutex_lock(&registry->mutex);
    uint32_t slot = slots_find(&registry->slots, id);
    if (slot == SLOTS_NONE) {
        pthread_mutex_unlock(&registry->mutex);
        digest_hex(hex, id);
        return error_set(E_NOTFOUND, "registry: there is no adapter %s", hex);
    }
    *out = slot;
    return 0;
}

int registry_hold(int32_t *out, struct registry *registry, const struct digest *id)
{
    uint32_t slot = 0;

    int err = find_locked(&slot, registry, id);
    if (err < 0)
        return err;
    slots_hold(&registry->slots, slot);
    pthread_mutex_unlock(&registry->mutex);
    *out = (int32_t)slot;
    return 0;
}

static bool is_held(const struct registry *registry, int32_t slot)
{
    return slot >= 0 && (uint32_t)slot < registry->slots.capacity &&
           slots_is_held(&registry->slots, (uint32_t)slot);
}

int registry_drop(struct registry *registry, int32_t slot)
{
    pthread_mutex_lock(&registry->mutex);
    bool held = is_held(registry, slot);
    if (held)
        slots_drop(&registry->slots, (uint32_t)slot);
    if (held && registry->device && !is_held(registry, slot))
        registry_device_dropped(registry->device, (uint32_t)slot);
    pthread_mutex_unlock(&registry->mutex);
    return held ? 0 : error_set(E_INVALID, "registry: slot %" PRId32 " is not held", slot);
}

int registry_pin(struct registry *registry, const struct digest *id, bool pinned)
{
    uint32_t slot = 0;

    int err = find_locked(&slot, registry, id);
    if (err < 0)
        return err;
    slots_pin(&registry->slots, slot, pinned);
    pthread_mutex_unlock(&registry->mutex);
    return 0;
}

int registry_remove(struct registry *registry, const struct digest *id)
{
    uint32_t slot = 0;

    int err = find_locked(&slot, registry, id);
    if (err < 0)
        return err;
    slots_remove(&registry->slots, slot);
    pthread_mutex_unlock(&registry->mutex);
    return 0;
}

void registry_stats(struct registry_stats *out, struct registry *registry)
{
    const struct slots *slots = &registry->slots;

    pthread_mutex_lock(&registry->mutex);
    *out = (struct registry_stats){
        .adapters = slots->count,
        .capacity = slots->capacity,
        .pinned = slots->pinned,
        .held = slots->held,
        .evicted = slots->evicted,
        .bytes = registry->fixed_bytes + registry->piece_bytes,
        .budget_bytes = registry->budget_bytes,
    };
    pthread_mutex_unlock(&registry->mutex);
}

/* ---- Forward ---- */

/* `used`: how many rows have an adapter. */
static int
slots_check(size_t *used, const struct registry *registry, const struct registry_rows *rows)
{
    *used = 0;
    for (size_t i = 0; i < rows->count; i++) {
        int32_t slot = rows->slots[i];
        if (slot == -1)
            continue;
        if (!is_held(registry, slot))
            return error_set(E_INVALID, "registry: row %zu: slot %" PRId32 " is not held", i, slot);
        ++*used;
    }
    return 0;
}

static int rows_check(
    size_t *used,
    const struct registry *registry,
    const struct registry_layer *layer,
    const struct registry_rows *rows
)
{
    if (!registry->device && (rows->slots_on_device || rows->stream))
        return error_set(E_INVALID, "registry: it is in host memory, and knows no stream");
    if (!dtype_is_applicable(rows->dtype))
        return error_set(
            E_UNSUPPORTED, "registry: x and y in %s: only F32, BF16 and F16",
            dtype_name(rows->dtype)
        );
    size_t x_stride = rows->x_stride ? rows->x_stride : layer->in;
    size_t y_stride = rows->y_stride ? rows->y_stride : layer->out;
    if (x_stride < layer->in || y_stride < layer->out)
        return error_set(
            E_INVALID, "registry: rows of %zu and %zu values, %zu and %zu from one to the next",
            layer->in, layer->out, x_stride, y_stride
        );
    return rows->slots_on_device ? 0 : slots_check(used, registry, rows);
}

static int host_forward(
    struct registry *registry,
    const struct registry_layer *layer,
    const struct registry_rows *rows,
    size_t used,
    unsigned threads
)
{
    AUTO_FREE(struct batch_row, list);
    struct batch batch = {
        .basis = &registry->basis,
        .in = layer->in,
        .out = layer->out,
        .vectors = registry->model.vectors,
        .dtype = rows->dtype,
        .x = rows->x,
        .x_stride = rows->x_stride ? rows->x_stride : layer->in,
        .y = rows->y,
        .y_stride = rows->y_stride ? rows->y_stride : layer->out,
    };

    if (!(list = array_new(used, sizeof(*list))))
        return error_wrap(E_NOMEM, "registry");
    for (size_t i = 0; i < rows->count; i++) {
        if (rows->slots[i] >= 0)
            list[batch.row_count++] = (struct batch_row
            ){i, vectors_at(registry, layer, (uint32_t)rows->slots[i])};
    }
    batch.rows = list;
    return batch_run(&batch, threads > 0 ? threads : 1);
}

int registry_forward(
    struct registry *registry, size_t module, const struct registry_rows *rows, unsigned threads
)
{
    size_t used = 0;

    if (module >= registry->model.count)
        return error_set(E_INVALID, "registry: module %zu of %zu", module, registry->model.count);
    const struct registry_layer *layer = &registry->model.layers[module];
    int err = rows_check(&used, registry, layer, rows);
    if (err < 0)
        return err;
    if (registry->device)
        return registry_device_forward(registry->device, layer, rows);
    return host_forward(registry, layer, rows, used, threads);
}
