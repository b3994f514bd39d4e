/* The GPUs of a running model. See live_device.h. */
#include "apply/live_device.h"

#include <stdlib.h>

static void device_close(struct live_device *device)
{
    lane_release(&device->lane);
    device_release(&device->device);
    free(device->streams);
    free(device->bases);
    free(device);
}

static int device_begin(struct live_device *device, int number)
{
    device->number = number;
    int err = device_open_number(&device->device, number, MATH_EXACT);
    return err < 0 ? err : lane_open(&device->lane, &device->device, 1);
}

int live_device_of(struct live_device **out, struct live_devices *devices, int number)
{
    for (size_t i = 0; i < devices->count; i++) {
        if (devices->all[i]->number == number) {
            *out = devices->all[i];
            return 0;
        }
    }
    int err = array_grow(
        &devices->all, &devices->room, devices->count + 1, sizeof(struct live_device *)
    );
    if (err < 0)
        return err;
    struct live_device *device = array_new(1, sizeof(*device));
    if (!device)
        return error_wrap(E_NOMEM, "device %d", number);
    if ((err = device_begin(device, number)) < 0) {
        device_close(device);
        return err;
    }
    *out = devices->all[devices->count++] = device;
    return 0;
}

void live_devices_release(struct live_devices *devices)
{
    for (size_t i = 0; i < devices->count; i++)
        device_close(devices->all[i]);
    free(devices->all);
    *devices = (struct live_devices){0};
}

int live_device_use(struct live_device *device, void *stream)
{
    for (size_t i = 0; i < device->stream_count; i++) {
        if (device->streams[i] == stream)
            return 0;
    }
    int err = array_grow(
        &device->streams, &device->stream_room, device->stream_count + 1, sizeof(void *)
    );
    if (err == 0)
        device->streams[device->stream_count++] = stream;
    return err;
}

int live_device_follow(const struct live_device *device)
{
    return lane_follow(&device->lane, device->streams, device->stream_count);
}

/* A and B */

int live_device_add(struct live_device *device, const struct basis *basis)
{
    const struct backend_basis added = {basis->a, basis->b, basis->rank, basis->in, basis->out};

    for (size_t i = 0; i < device->basis_count; i++) {
        if (device->bases[i] == basis->a)
            return 0;
    }
    int err = array_grow(
        &device->bases, &device->basis_room, device->basis_count + 1, sizeof(const float *)
    );
    if (err == 0 && (err = device_add_basis(&device->device, &added)) == 0)
        device->bases[device->basis_count++] = basis->a;
    return err;
}

void live_devices_forget(void *context, const float *a)
{
    struct live_devices *devices = context;

    for (size_t i = 0; i < devices->count; i++) {
        struct live_device *device = devices->all[i];
        for (size_t k = 0; k < device->basis_count; k++) {
            if (device->bases[k] != a)
                continue;
            device_remove_basis(&device->device, a);
            device->bases[k] = device->bases[--device->basis_count];
            break;
        }
    }
}

void live_device_clear(struct live_device *device)
{
    while (device->basis_count)
        device_remove_basis(&device->device, device->bases[--device->basis_count]);
}

/* Copies */

/* A vector is one row: a copy of rows of one element each would be slow. */
struct backend_job live_copy_job(
    struct backend_place to,
    struct backend_place from,
    enum dtype dtype,
    uint64_t rows,
    uint64_t columns
)
{
    if (columns == 1 && to.row_stride <= 1 && from.row_stride <= 1) {
        to.row_stride = from.row_stride = to.column_stride = from.column_stride = 0;
        columns = rows;
        rows = 1;
    }
    return (struct backend_job
    ){.to = to, .from = from, .dtype = dtype, .out = rows, .in = columns, .row_end = rows};
}

int live_device_fetch(
    const uint8_t **out,
    const struct live_device *device,
    struct backend_place from,
    enum dtype dtype,
    uint64_t rows,
    uint64_t columns
)
{
    size_t bytes = (size_t)(rows * columns) * (dtype_bits(dtype) / 8);
    struct backend_place to = {0};
    int err = lane_memory(&to.data, &device->lane, LANE_BLOCK, bytes);

    if (err < 0)
        return err;
    const struct backend_job job = live_copy_job(to, from, dtype, rows, columns);
    if ((err = lane_merge(&device->lane, &job, 1)) == 0)
        *out = to.data;
    return err;
}

uint64_t live_device_rows(uint64_t rows, size_t row_bytes)
{
    uint64_t fit = LIVE_BLOCK_BYTES / row_bytes;

    if (fit == 0)
        fit = 1;
    return fit < rows ? fit : rows;
}
