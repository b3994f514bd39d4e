/*
 * The GPUs in whose memory weights of a running model lie: each is opened once, has one lane in
 * which all work of it happens, and a copy of those A and B that swaps have used there.
 *
 * A device is used by one thread at a time; different ones by different threads at once.
 */
#ifndef APPLY_LIVE_DEVICE_H
#define APPLY_LIVE_DEVICE_H

#include "apply/backend.h"
#include "format/snapshot.h"

/* So many bytes at a time, or one row, come from a device to be looked at. */
#define LIVE_BLOCK_BYTES ((size_t)4 << 20)

struct live_device {
    int number;
    struct device device;
    struct lane lane;
    void **streams; /* in which its weights are used, each once; NULL: the default one */
    size_t stream_count, stream_room;
    const float **bases; /* A of each that was added */
    size_t basis_count, basis_room;
    uint64_t kept_bytes; /* of its memory, that hold what a base's files hold as well */
    bool is_full;        /* there was no room for more than what a swap needs */
};

struct live_devices {
    struct live_device **all;
    size_t count, room;
};

/* The device of that number, opened where it is not yet. The set's. E_DEVICE, E_NOMEM. */
MUST_CHECK int live_device_of(struct live_device **out, struct live_devices *devices, int number);

/* After the model's last use of its weights: frees what is theirs on the devices. */
void live_devices_release(struct live_devices *devices);

/* Weights there are used in this CUstream. E_NOMEM. */
MUST_CHECK int live_device_use(struct live_device *device, void *stream);

/* What its lane does from now on comes after all that its streams have been given. E_DEVICE. */
MUST_CHECK int live_device_follow(const struct live_device *device);

/* Have A and B there, until live_devices_forget(). E_DEVICE where its memory is too small. */
MUST_CHECK int live_device_add(struct live_device *device, const struct basis *basis);

/* A, and the B beside it, are about to go: no device needs them. `devices`: struct live_devices. */
void live_devices_forget(void *devices, const float *a);

/* Free all A and B on the device. */
void live_device_clear(struct live_device *device);

/* A job that copies a matrix as it lies, [rows, columns] of `dtype`. */
struct backend_job live_copy_job(
    struct backend_place to,
    struct backend_place from,
    enum dtype dtype,
    uint64_t rows,
    uint64_t columns
);

/* Rows of a matrix on the device, one behind the other: in the lane's memory, until the next call.
   E_DEVICE, E_NOMEM. */
MUST_CHECK int live_device_fetch(
    const uint8_t **out,
    const struct live_device *device,
    struct backend_place from,
    enum dtype dtype,
    uint64_t rows,
    uint64_t columns
);

/* How many rows of so many bytes are fetched at a time. */
uint64_t live_device_rows(uint64_t rows, size_t row_bytes);

#endif
