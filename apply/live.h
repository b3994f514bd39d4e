/*
 * A running model: its adapter is changed between two requests, in place, so that pointers held
 * elsewhere stay good.
 *
 * A swap goes from pristine weights and the new vectors straight to the live ones: nothing is ever
 * subtracted, so after any number of swaps the bits are those of a fresh merge (P6), and without an
 * adapter the base model's. Everything is checked, and has its memory, before the first write; what
 * fails leaves every byte as it was. Only a GPU that fails while it writes leaves a mixture: the
 * state then says so, and the next change writes all that may be wrong anew.
 *
 * Threads: any may call anything but live_free() at any time. One swap runs at a time. Those who
 * compute with the weights hold the model for reading (live_read_begin), or are stopped by the
 * caller's own functions around the writing; checks, and the drawing of A and B, happen before.
 */
#ifndef APPLY_LIVE_H
#define APPLY_LIVE_H

#include "apply/live_weights.h"
#include "format/bundle.h"

struct live;

struct live_options {
    const char *base;   /* the model's directory; NULL: a copy of the weights is kept */
    unsigned threads;   /* 0: one per core */
    uint64_t basis_max; /* bytes of A and B that are kept; 0: LIVE_BASIS_MAX */
    uint64_t kept_max;  /* of each GPU's memory, for copies of the base's weights */
    /* Called in the thread that swaps, before the first write and after the last. What `pause`
       returns, if not 0, ends the swap with E_CONFLICT, and nothing is written. May be NULL. */
    int (*pause)(void *context);
    void (*resume)(void *context);
    void *context;
};

#define LIVE_BASIS_MAX (UINT64_C(1) << 30)

/* What the model computes with. */
struct live_state {
    uint64_t epoch;         /* grows by one whenever the weights change; 0 at first */
    bool attached;          /* there is an adapter */
    struct digest snapshot; /* its id; zero where there is none */
    bool pinned;            /* its pin's digests were compared, all of them */
    uint64_t modules;       /* of the adapter */
    bool had_previous;      /* an adapter was there before the last change */
    struct digest previous;
    bool torn; /* a device failed in the last change: the weights are a mixture, and no adapter's */
    double seconds; /* that the last change took */
    double stopped; /* of these, while nobody could read */
};

/* Owned by the caller: live_free(). `base` is copied. E_NOMEM. */
MUST_CHECK int live_new(struct live **out, const struct live_options *options);
/* Memory of the model stays as it is. */
void live_free(struct live *live);

/* live_weights_add() and, once, live_weights_seal(). */
MUST_CHECK int live_register(struct live *live, const struct live_place *place);
MUST_CHECK int live_seal(struct live *live);

/* Put the snapshot's adapter (a bare one will do) onto the weights. The adapter that is there
   already: nothing is done, and the epoch stays. `out` may be NULL. Errors: adapter_load()'s,
   plan_make()'s; E_CONFLICT, naming the modules, where a digest of the pin is not that of the
   pristine weight; E_UNSUPPORTED where the adapter brings tensors that were not registered;
   E_INVALID before live_seal(); basis_cache_get()'s; E_DEVICE; E_NOMEM. */
MUST_CHECK int
live_swap(struct live_state *out, struct live *live, const struct snapshot *snapshot);

/* The same of a bundle, whole or bare, and of a PEFT directory. */
MUST_CHECK int live_swap_bundle(struct live_state *out, struct live *live, struct bytes bundle);
MUST_CHECK int live_swap_directory(struct live_state *out, struct live *live, const char *dir);

/* The base model's own weights again. Without an adapter, and not torn: nothing is done. */
MUST_CHECK int live_detach(struct live_state *out, struct live *live);

/* Never waits for a swap. */
void live_status(struct live_state *out, struct live *live);

/* Between the two, in one thread, no weight changes. Not to be nested: a swap that waits goes
   first. */
void live_read_begin(struct live *live);
void live_read_end(struct live *live);

/* What a sealed model can be sent: bare bundles whose parts are no larger than what fits it. */
void live_room(struct bundle_room *out, const struct live *live);

#endif
