/* Opening a device and working with it: the side of backend.h that the program sees. */
#include "apply/backend.h"

#include "format/cpu.h"
#include "format/interrupt.h"

/* What a backend told by value becomes this thread's error. */
static int fault_raise(int err, const struct backend_fault *fault)
{
    if (err == 0 || fault->code == 0)
        return err;
    err = error_set(fault->code, "%s", fault->message);
    return fault->hint[0] ? error_hint(err, "%s", fault->hint) : err;
}

static int
open_with(struct device *out, const struct backend *backend, int number, enum math_mode math)
{
    struct backend_fault fault = {0};
    void *session = NULL;
    int err = fault_raise(backend->open(&session, number, math, &fault), &fault);

    if (err == 0)
        *out = (struct device){backend, session, backend->fast_bound ? math : MATH_EXACT};
    return err;
}

int device_open_number(struct device *out, int number, enum math_mode math)
{
    const struct backend *backend;
    int err = backend_cuda(&backend);

    return err < 0 ? err : open_with(out, backend, number, math);
}

int device_open(struct device *out, enum device_kind kind, enum math_mode math)
{
    if (kind == DEVICE_CUDA || (kind == DEVICE_AUTO && backend_cuda_may_work())) {
        int err = device_open_number(out, DEVICE_CURRENT, math);
        if (err == 0 || kind == DEVICE_CUDA)
            return err;
    }
    return open_with(out, &backend_cpu, DEVICE_CURRENT, math);
}

void device_release(struct device *device)
{
    if (device->backend)
        device->backend->close(device->session);
    *device = (struct device){0};
}

int device_add_basis(struct device *device, const struct backend_basis *basis)
{
    struct backend_fault fault = {0};

    return fault_raise(device->backend->basis_add(device->session, basis, &fault), &fault);
}

void device_remove_basis(struct device *device, const float *a)
{
    device->backend->basis_remove(device->session, a);
}

int device_memory_new(uint8_t **out, const struct device *device, size_t bytes)
{
    struct backend_fault fault = {0};

    return fault_raise(device->backend->memory_new(out, device->session, bytes, &fault), &fault);
}

void device_memory_free(const struct device *device, uint8_t *memory)
{
    if (memory)
        device->backend->memory_free(device->session, memory);
}

int device_memory_check(const struct device *device, const void *at, size_t bytes)
{
    struct backend_fault fault = {0};

    return fault_raise(device->backend->memory_check(device->session, at, bytes, &fault), &fault);
}

int device_wait(const struct device *device)
{
    struct backend_fault fault = {0};

    return fault_raise(device->backend->session_wait(device->session, &fault), &fault);
}

int device_batch(const struct device *device, const struct backend_batch *batch)
{
    struct backend_fault fault = {0};

    return fault_raise(device->backend->batch(device->session, batch, &fault), &fault);
}

int lane_open(struct lane *out, const struct device *device, unsigned threads)
{
    struct backend_fault fault = {0};
    void *state = NULL;
    int err = device->backend->lane_open(&state, device->session, threads, &fault);

    if ((err = fault_raise(err, &fault)) == 0)
        *out = (struct lane){device->backend, state};
    return err;
}

void lane_release(struct lane *lane)
{
    if (lane->backend)
        lane->backend->lane_close(lane->state);
    *lane = (struct lane){0};
}

int lane_memory(uint8_t **out, const struct lane *lane, enum lane_slot slot, size_t bytes)
{
    struct backend_fault fault = {0};

    return fault_raise(lane->backend->lane_memory(out, lane->state, slot, bytes, &fault), &fault);
}

int lane_prepare(const struct lane *lane, const struct backend_job *jobs, size_t count)
{
    struct backend_fault fault = {0};

    if (!lane->backend->lane_prepare)
        return 0;
    return fault_raise(lane->backend->lane_prepare(lane->state, jobs, count, &fault), &fault);
}

int lane_follow(const struct lane *lane, void *const *streams, size_t count)
{
    struct backend_fault fault = {0};

    return fault_raise(lane->backend->lane_follow(lane->state, streams, count, &fault), &fault);
}

/* A module multiplies on the processor, too. */
int lane_merge(const struct lane *lane, const struct backend_job *jobs, size_t count)
{
    struct backend_fault fault = {0};
    int err = interrupt_check();

    if (err < 0)
        return err;
    struct cpu_float saved = cpu_float_exact();
    err = lane->backend->merge(lane->state, jobs, count, &fault);
    cpu_float_restore(saved);
    return fault_raise(err, &fault);
}
