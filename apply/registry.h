/*
 * Adapters at hand for batches whose rows use different ones (apply/batch.h): b and d of tens of
 * thousands of adapters of one model and one basis.
 *
 * For each module the vectors of neighbouring slots lie side by side, d before b, in pieces of
 * memory that are taken as they are needed, up to a budget; or on a GPU, where A, B and all slots
 * are taken at once, and batches are queued. Where the budget is used up the least recently used
 * adapter goes; pinned ones stay, and those that somebody holds.
 *
 * Any number of threads may call any function but registry_free(), on one registry, at once. What a
 * thread holds does not change or go until it drops it, so that a batch keeps its adapters through
 * all modules while others are added and removed.
 */
#ifndef APPLY_REGISTRY_H
#define APPLY_REGISTRY_H

#include "format/snapshot.h"

struct registry;

/* A layer of the model that the adapters change. */
struct registry_module {
    const char *name; /* as the adapters name it: "model.layers.0.self_attn.q_proj" */
    uint64_t in, out;
};

struct registry_options {
    const struct registry_module *modules; /* their order numbers them */
    size_t module_count;
    const struct basis *basis;
    enum dtype base_dtype; /* of the model's weights: a basis that is only declared depends on it */
    enum dtype vectors;    /* how b and d are kept: F32, or rounded to BF16 or F16 */
    /* Of all that the registry takes: basis, ids, vectors; or of all that it takes of the GPU's
       memory: basis and vectors. */
    uint64_t budget_bytes;
    bool on_device; /* on the GPU of this number; DEVICE_CURRENT: apply/backend.h */
    int device;
};

struct registry_stats {
    uint64_t adapters, capacity, pinned, held; /* held: by anybody, and those removed since */
    uint64_t evicted;                          /* ever */
    uint64_t bytes, budget_bytes;              /* taken, of so many */
};

/* Everything in `options` is copied. E_INVALID, naming it: no modules, two of one name, a shape
   that the basis does not cover, a dtype that is not one of the three, a value of A or B that is
   not finite; E_LIMIT where the budget does not hold one adapter; E_NOMEM; E_DEVICE where the GPU
   is not there, or has less memory left than the budget. */
MUST_CHECK int registry_new(struct registry **out, const struct registry_options *options);

/* Nobody holds anything, or uses it, any more. */
void registry_free(struct registry *registry);

#define REGISTRY_PIN          1u /* it stays until it is unpinned or removed */
#define REGISTRY_VECTORS_ONLY 2u /* leave out biases and whole modules: the caller sees to them */

/* Add an adapter, found by its snapshot's id from now on; where it is there already it is used
   again. `held`: a slot that the caller now holds; NULL: it holds none. Errors, with the registry
   as before: E_INVALID, listing what is wrong: another rank, a module that is missing, unknown or
   of another shape, a value that is not finite (or not in `vectors`), a bias or whole module
   without REGISTRY_VECTORS_ONLY; E_CONFLICT: another basis; E_UNSUPPORTED: the vectors' dtype;
   E_LIMIT: all others are pinned or held; E_NOMEM. But for E_DEVICE, where a GPU failed on the way:
   the adapter that made room may be gone. */
MUST_CHECK int registry_add(
    int32_t *held, struct registry *registry, const struct loaded_adapter *adapter, unsigned flags
);

/* The same of a PEFT directory, and of a bundle (format/bundle.h), whose id is *id (may be NULL).
 */
MUST_CHECK int registry_add_dir(
    int32_t *held, struct digest *id, struct registry *registry, const char *dir, unsigned flags
);
MUST_CHECK int registry_add_bundle(
    int32_t *held, struct digest *id, struct registry *registry, struct bytes bundle, unsigned flags
);

/* Hold an adapter: its slot, until registry_drop(). E_NOTFOUND; E_INVALID: nobody holds it. */
MUST_CHECK int registry_hold(int32_t *out, struct registry *registry, const struct digest *id);
MUST_CHECK int registry_drop(struct registry *registry, int32_t slot);

/* E_NOTFOUND. A removed one that is held goes when it is dropped. */
MUST_CHECK int registry_pin(struct registry *registry, const struct digest *id, bool pinned);
MUST_CHECK int registry_remove(struct registry *registry, const struct digest *id);

void registry_stats(struct registry_stats *out, struct registry *registry);

/* x [rows, in] and y [rows, out] of one module; in the GPU's memory where the registry is there. */
struct registry_rows {
    size_t count;
    const int32_t *slots; /* [count]: held by the caller; -1: the row has no adapter */
    enum dtype dtype;     /* of x and y: F32, BF16 or F16 */
    const void *x;
    void *y;                   /* none of x's memory, no element twice; at any address */
    size_t x_stride, y_stride; /* elements from row to row; 0: in, out */
    bool slots_on_device;      /* slots, too: whether they are held is not asked */
    void *stream;              /* on a GPU: the CUstream in which x is written and y is used */
};

/* y += b o (B (d o (A x))), each row with its adapter's b and d; rows without one keep their bits.
   Numerics: apply/batch.h. Threads: 1 or more, on the processor. On a GPU it is queued, and not
   waited for; slots in host memory are read before it returns. E_INVALID, with y untouched: no such
   module, a slot that nobody holds, a stride that is too small, memory that is not where it should
   be; E_UNSUPPORTED: dtype; E_NOMEM; E_DEVICE. */
MUST_CHECK int registry_forward(
    struct registry *registry, size_t module, const struct registry_rows *rows, unsigned threads
);

#endif
