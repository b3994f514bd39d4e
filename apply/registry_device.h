/*
 * A registry's vectors in a GPU's memory: one piece for all slots, module by module, taken when the
 * registry is made, with A and B beside it.
 *
 * A batch is queued, and its adapters may be dropped before it has run. So a slot is filled anew
 * only after the device has done all that it was given before the slot was last dropped. One wait
 * serves all slots that were dropped before it began, and the slot that goes is the one dropped
 * longest ago: who adds rarely waits.
 */
#ifndef APPLY_REGISTRY_DEVICE_H
#define APPLY_REGISTRY_DEVICE_H

#include <pthread.h>

#include "apply/backend.h"
#include "apply/registry_model.h"

struct registry_device {
    struct device device;
    const struct registry_model *model;
    struct backend_basis basis; /* by whose addresses the device knows it */
    uint8_t *vectors;           /* the device's */
    uint32_t capacity;
    pthread_mutex_t filling; /* holds for these three */
    struct lane lane;
    uint8_t *staged;          /* the lane's: one adapter's vectors */
    struct backend_job *jobs; /* [model->count]: from there into a slot */
    pthread_mutex_t waiting;  /* and for these */
    uint64_t *needs;          /* [capacity]: a slot may be filled when so many waits have ended */
    uint64_t waits_begun, waits_ended;
};

/* Bytes of the device's memory: of A and B, and of one slot. */
uint64_t registry_device_basis_bytes(const struct basis *basis);

/* On the device of that number; the model must outlive it. E_DEVICE, saying how much is free where
   its memory is too small; E_NOMEM. */
MUST_CHECK int registry_device_new(
    struct registry_device **out,
    const struct registry_model *model,
    const struct basis *basis,
    uint32_t capacity,
    int number
);
/* Waits for the device. NULL: nothing. */
void registry_device_free(struct registry_device *device);

/* The vectors of an adapter that was checked, into a slot that nobody holds. `scratch`: as for
   registry_model_write(). E_DEVICE: the slot holds no adapter then. */
MUST_CHECK int registry_device_fill(
    struct registry_device *device,
    uint32_t slot,
    float *scratch,
    const struct loaded_adapter *adapter
);

/* Nobody holds the slot any more. */
void registry_device_dropped(struct registry_device *device, uint32_t slot);

/* registry_forward() of rows that were checked, but for where they are in memory. */
MUST_CHECK int registry_device_forward(
    const struct registry_device *device,
    const struct registry_layer *layer,
    const struct registry_rows *rows
);

#endif
