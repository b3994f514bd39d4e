/* Vectors and batches on a GPU. See registry_device.h. */
#include "apply/registry_device.h"

#include <stdlib.h>

uint64_t registry_device_basis_bytes(const struct basis *basis)
{
    return basis->rank * (basis->in + basis->out) * sizeof(float);
}

static size_t value_bytes(const struct registry_device *device)
{
    return dtype_bits(device->model->vectors) / 8;
}

/* Where a slot's vectors of a layer are on the device. */
static uint8_t *
vectors_at(const struct registry_device *device, const struct registry_layer *layer, uint32_t slot)
{
    size_t first = layer->values_begin * device->capacity + slot * layer->values;

    return device->vectors + first * value_bytes(device);
}

/* ---- Opening ---- */

/* Of one adapter, from where its vectors are staged to slot 0. */
static int jobs_prepare(struct registry_device *device)
{
    const struct registry_model *model = device->model;

    for (size_t i = 0; i < model->count; i++) {
        const struct registry_layer *layer = &model->layers[i];
        device->jobs[i] = (struct backend_job){
            .to = {.data = vectors_at(device, layer, 0), .on_device = true},
            .from = {.data = device->staged + layer->values_begin * value_bytes(device)},
            .dtype = model->vectors,
            .out = 1,
            .in = layer->values,
            .row_end = 1,
        };
    }
    return lane_prepare(&device->lane, device->jobs, model->count);
}

static int device_make(struct registry_device *device, int number)
{
    const struct backend_batch nothing = {.a = device->basis.a, .b_matrix = device->basis.b};
    size_t adapter_bytes = device->model->values * value_bytes(device);
    int err;

    device->needs = array_new(device->capacity, sizeof(*device->needs));
    device->jobs = array_new(device->model->count, sizeof(*device->jobs));
    if (!device->needs || !device->jobs)
        return error_wrap(E_NOMEM, "registry");
    if ((err = device_open_number(&device->device, number, MATH_EXACT)) < 0 ||
        (err = device_add_basis(&device->device, &device->basis)) < 0 ||
        (err = device_batch(&device->device, &nothing)) < 0 ||
        (err = device_memory_new(
             &device->vectors, &device->device, device->capacity * adapter_bytes
         )) < 0 ||
        (err = lane_open(&device->lane, &device->device, 1)) < 0 ||
        (err = lane_memory(&device->staged, &device->lane, LANE_BLOCK, adapter_bytes)) < 0 ||
        (err = jobs_prepare(device)) < 0)
        return error_wrap(err, "registry");
    return 0;
}

int registry_device_new(
    struct registry_device **out,
    const struct registry_model *model,
    const struct basis *basis,
    uint32_t capacity,
    int number
)
{
    struct registry_device *device = array_new(1, sizeof(*device));

    if (!device)
        return error_wrap(E_NOMEM, "registry");
    pthread_mutex_init(&device->filling, NULL);
    pthread_mutex_init(&device->waiting, NULL);
    device->model = model;
    device->capacity = capacity;
    device->basis = (struct backend_basis
    ){.a = basis->a, .b = basis->b, .rank = basis->rank, .in = basis->in, .out = basis->out};
    int err = device_make(device, number);
    if (err < 0)
        registry_device_free(device);
    else
        *out = device;
    return err;
}

void registry_device_free(struct registry_device *device)
{
    if (!device)
        return;
    /* Batches may be on their way; what cannot be waited for does not come. */
    if (device->device.backend)
        (void)!device_wait(&device->device);
    lane_release(&device->lane);
    if (device->vectors)
        device_memory_free(&device->device, device->vectors);
    device_release(&device->device);
    free(device->jobs);
    free(device->needs);
    pthread_mutex_destroy(&device->waiting);
    pthread_mutex_destroy(&device->filling);
    free(device);
}

/* ---- Slots ---- */

void registry_device_dropped(struct registry_device *device, uint32_t slot)
{
    pthread_mutex_lock(&device->waiting);
    device->needs[slot] = device->waits_begun + 1;
    pthread_mutex_unlock(&device->waiting);
}

/* Return when no batch that was queued while the slot was held is on its way. */
static int slot_wait(struct registry_device *device, uint32_t slot)
{
    uint64_t number = 0;

    pthread_mutex_lock(&device->waiting);
    if (device->needs[slot] > device->waits_ended)
        number = ++device->waits_begun;
    pthread_mutex_unlock(&device->waiting);
    if (number == 0)
        return 0;
    int err = device_wait(&device->device);
    if (err < 0)
        return err;
    pthread_mutex_lock(&device->waiting);
    if (device->waits_ended < number)
        device->waits_ended = number;
    pthread_mutex_unlock(&device->waiting);
    return 0;
}

int registry_device_fill(
    struct registry_device *device,
    uint32_t slot,
    float *scratch,
    const struct loaded_adapter *adapter
)
{
    const struct registry_model *model = device->model;

    int err = slot_wait(device, slot);
    if (err < 0)
        return error_wrap(err, "registry");
    pthread_mutex_lock(&device->filling);
    for (size_t i = 0; i < model->count; i++) {
        const struct registry_layer *layer = model->order[i];
        registry_model_write(
            device->staged + layer->values_begin * value_bytes(device), scratch, model, i, adapter
        );
        device->jobs[i].to.data = vectors_at(device, &model->layers[i], slot);
    }
    err = lane_merge(&device->lane, device->jobs, model->count);
    pthread_mutex_unlock(&device->filling);
    return err < 0 ? error_wrap(err, "registry") : 0;
}

/* ---- Batches ---- */

/* So many rows of a matrix are memory of the device, aligned to their elements. */
static int memory_check(
    const struct registry_device *device,
    const char *name,
    const void *at,
    size_t rows,
    size_t columns,
    size_t stride,
    size_t size
)
{
    size_t bytes;

    if ((uintptr_t)at % size)
        return error_set(E_INVALID, "registry: %s is not aligned to its elements", name);
    if (__builtin_mul_overflow(rows - 1, stride, &bytes) ||
        __builtin_add_overflow(bytes, columns, &bytes) ||
        __builtin_mul_overflow(bytes, size, &bytes))
        return error_set(E_INVALID, "registry: %s is larger than memory", name);
    int err = device_memory_check(&device->device, at, bytes);
    return err < 0 ? error_wrap(err, "registry: %s", name) : 0;
}

int registry_device_forward(
    const struct registry_device *device,
    const struct registry_layer *layer,
    const struct registry_rows *rows
)
{
    size_t size = dtype_bits(rows->dtype) / 8, count = rows->count;
    const struct backend_batch batch = {
        .a = device->basis.a,
        .b_matrix = device->basis.b,
        .in = layer->in,
        .out = layer->out,
        .vectors = vectors_at(device, layer, 0),
        .vector_dtype = device->model->vectors,
        .vector_stride = layer->values,
        .slot_count = device->capacity,
        .slots = rows->slots,
        .slots_on_device = rows->slots_on_device,
        .x = rows->x,
        .y = rows->y,
        .dtype = rows->dtype,
        .rows = count,
        .x_stride = rows->x_stride ? rows->x_stride : layer->in,
        .y_stride = rows->y_stride ? rows->y_stride : layer->out,
        .stream = rows->stream,
    };
    int err;

    if (count == 0)
        return 0;
    if ((err = memory_check(device, "x", rows->x, count, layer->in, (size_t)batch.x_stride, size)) <
            0 ||
        (err = memory_check(device, "y", rows->y, count, layer->out, (size_t)batch.y_stride, size)
        ) < 0)
        return err;
    if (rows->slots_on_device &&
        (err = memory_check(device, "slots", rows->slots, count, 1, 1, sizeof(*rows->slots))) < 0)
        return err;
    err = device_batch(&device->device, &batch);
    return err < 0 ? error_wrap(err, "registry") : 0;
}
