/* The public face of apply/registry.h. Nothing is decided here. */
#include <stdlib.h>

#include "apply/registry.h"
#include "apply/vera_apply.h"
#include "apply/vera_structure.h"
#include "format/bundle.h"
#include "format/crew.h"
#include "format/file.h"
#include "format/limits.h"

_Static_assert(VERA_PIN == REGISTRY_PIN && VERA_VECTORS_ONLY == REGISTRY_VECTORS_ONLY, "flags");

/* The registry is the project's; the other name belongs to the library's users. */
static struct registry *registry_of(struct vera_registry *registry)
{
    return (struct registry *)(void *)registry;
}

static struct digest digest_from(const uint8_t *snapshot)
{
    struct digest digest;

    memcpy(digest.bytes, snapshot, sizeof(digest.bytes));
    return digest;
}

static int dtype_from(enum dtype *out, int32_t dtype)
{
    static const enum dtype dtypes[] = {
        [VERA_F32] = DTYPE_F32, [VERA_BF16] = DTYPE_BF16, [VERA_F16] = DTYPE_F16};

    if (dtype < VERA_F32 || dtype > VERA_F16)
        return error_set(E_UNSUPPORTED, "dtype %d is none of vera_dtype", dtype);
    *out = dtypes[dtype];
    return 0;
}

static int memory_check(int32_t memory)
{
    if (memory != 0 && memory != VERA_HOST && memory != VERA_CUDA)
        return error_set(E_UNSUPPORTED, "registry: memory %d is none of vera_memory", memory);
    return 0;
}

static int snapshot_open(struct snapshot *out, const struct vera_registry_options *options)
{
    AUTO_ADAPTER_FILES(files);
    int err;

    if (!options->directory && !options->bundle)
        return error_set(E_INVALID, "registry: no adapter whose basis it has");
    if (!options->directory)
        return bundle_decode(
            out, (struct bytes){options->bundle, options->bundle_bytes}, &bundle_room_any
        );
    if ((err = adapter_files_read(&files, options->directory, false, NULL)) == 0)
        err = snapshot_encode(out, &files, NULL);
    return err < 0 ? error_wrap(err, "%s", options->directory) : 0;
}

static int modules_make(
    struct registry_module **out,
    uint64_t *in_max,
    uint64_t *out_max,
    const struct vera_registry_options *options
)
{
    if (options->modules == 0 || !options->names || !options->in || !options->out)
        return error_set(E_INVALID, "registry: no modules");
    if (options->modules > LIMIT_TENSORS)
        return error_set(E_LIMIT, "registry: too many modules");
    struct registry_module *modules = array_new((size_t)options->modules, sizeof(*modules));
    if (!modules)
        return error_wrap(E_NOMEM, "registry");
    *in_max = *out_max = 0;
    for (uint64_t i = 0; i < options->modules; i++) {
        uint64_t in = options->in[i], outputs = options->out[i];
        modules[i] = (struct registry_module){options->names[i], in, outputs};
        *in_max = in > *in_max ? in : *in_max;
        *out_max = outputs > *out_max ? outputs : *out_max;
    }
    *out = modules;
    return 0;
}

static int registry_make(struct registry **out, const struct vera_registry_options *options)
{
    struct registry_options own = {0};
    uint64_t in_max = 0, out_max = 0;
    AUTO_FREE(struct registry_module, modules);
    AUTO_SNAPSHOT(snapshot);
    AUTO_LOADED_ADAPTER(adapter);
    AUTO_BASIS(basis);
    int err;

    if ((err = dtype_from(&own.base_dtype, options->base_dtype)) < 0 ||
        (err = dtype_from(&own.vectors, options->vector_dtype)) < 0 ||
        (err = modules_make(&modules, &in_max, &out_max, options)) < 0 ||
        (err = snapshot_open(&snapshot, options)) < 0 ||
        (err = adapter_load(&adapter, &snapshot)) < 0 ||
        (err = basis_load(&basis, &adapter, in_max, out_max, own.base_dtype)) < 0)
        return err;
    own.modules = modules;
    own.module_count = (size_t)options->modules;
    own.basis = &basis;
    own.budget_bytes = options->budget_bytes;
    own.on_device = options->memory == VERA_CUDA;
    own.device = options->device;
    return registry_new(out, &own);
}

int vera_registry_new(struct vera_registry **out, const struct vera_registry_options *given)
{
    struct vera_registry_options options;
    struct registry *registry = NULL;

    int err = structure_take(&options, sizeof(options), given, sizeof(options));
    if (err < 0)
        return err;
    if (options.memory != VERA_CUDA && options.device != 0)
        return error_set(
            E_INVALID, "registry: device %d, and memory that is not VERA_CUDA", options.device
        );
    if (options.memory == VERA_CUDA && options.device < 0)
        return error_set(E_INVALID, "registry: there is no device %d", options.device);
    if ((err = memory_check(options.memory)) < 0)
        return err;
    options.base_dtype = options.base_dtype ? options.base_dtype : VERA_F32;
    options.vector_dtype = options.vector_dtype ? options.vector_dtype : VERA_F32;
    if ((err = registry_make(&registry, &options)) == 0)
        *out = (struct vera_registry *)(void *)registry;
    return err;
}

void vera_registry_free(struct vera_registry *registry)
{
    registry_free(registry_of(registry));
}

static int flags_check(uint32_t flags)
{
    if (flags & ~(VERA_PIN | VERA_VECTORS_ONLY))
        return error_set(E_UNSUPPORTED, "flags of a later version of the library");
    return 0;
}

int vera_registry_add_directory(
    struct vera_registry *registry,
    const char *directory,
    uint32_t flags,
    uint8_t *snapshot,
    int32_t *held
)
{
    struct digest id;
    int err = flags_check(flags);

    if (err == 0)
        err = registry_add_dir(held, &id, registry_of(registry), directory, flags);
    if (err == 0 && snapshot)
        memcpy(snapshot, id.bytes, sizeof(id.bytes));
    return err;
}

int vera_registry_add_bundle(
    struct vera_registry *registry,
    const void *bundle,
    size_t bytes,
    uint32_t flags,
    uint8_t *snapshot,
    int32_t *held
)
{
    struct digest id;
    int err = flags_check(flags);

    if (err == 0)
        err = registry_add_bundle(
            held, &id, registry_of(registry), (struct bytes){bundle, bytes}, flags
        );
    if (err == 0 && snapshot)
        memcpy(snapshot, id.bytes, sizeof(id.bytes));
    return err;
}

int vera_registry_hold(struct vera_registry *registry, const uint8_t *snapshot, int32_t *slot)
{
    struct digest id = digest_from(snapshot);

    return registry_hold(slot, registry_of(registry), &id);
}

int vera_registry_drop(struct vera_registry *registry, int32_t slot)
{
    return registry_drop(registry_of(registry), slot);
}

int vera_registry_pin(struct vera_registry *registry, const uint8_t *snapshot, int pinned)
{
    struct digest id = digest_from(snapshot);

    return registry_pin(registry_of(registry), &id, pinned != 0);
}

int vera_registry_remove(struct vera_registry *registry, const uint8_t *snapshot)
{
    struct digest id = digest_from(snapshot);

    return registry_remove(registry_of(registry), &id);
}

int vera_registry_status(struct vera_registry *registry, struct vera_registry_state *out)
{
    struct registry_stats stats;
    size_t size = out->size;

    if (size < sizeof(*out) || size > 4096)
        return error_set(E_INVALID, "vera_registry_state: its field 'size' is not set");
    registry_stats(&stats, registry_of(registry));
    memset(out, 0, size);
    *out = (struct vera_registry_state){
        .size = size,
        .adapters = stats.adapters,
        .capacity = stats.capacity,
        .pinned = stats.pinned,
        .held = stats.held,
        .evicted = stats.evicted,
        .bytes = stats.bytes,
        .budget_bytes = stats.budget_bytes,
    };
    return 0;
}

int vera_registry_forward(
    struct vera_registry *registry, uint64_t module, const struct vera_batch *given
)
{
    struct vera_batch batch;
    enum dtype dtype = DTYPE_F32;
    const size_t least = offsetof(struct vera_batch, stream);
    int err;

    if ((err = structure_take(&batch, sizeof(batch), given, least)) < 0 ||
        (err = dtype_from(&dtype, batch.dtype)) < 0 || (err = memory_check(batch.slots_memory)) < 0)
        return err;
    if (batch.reserved)
        return error_set(E_INVALID, "registry: a reserved field is not zero");
    if (batch.rows > 0 && (!batch.slots || !batch.x || !batch.y))
        return error_set(E_INVALID, "registry: a batch without slots, x or y");
    const struct registry_rows rows = {
        .count = (size_t)batch.rows,
        .slots = batch.slots,
        .dtype = dtype,
        .x = batch.x,
        .y = batch.y,
        .x_stride = (size_t)batch.x_stride,
        .y_stride = (size_t)batch.y_stride,
        .slots_on_device = batch.slots_memory == VERA_CUDA,
        .stream = batch.stream,
    };
    unsigned threads = batch.threads ? batch.threads : crew_size(rows.count);
    return registry_forward(registry_of(registry), (size_t)module, &rows, threads);
}
