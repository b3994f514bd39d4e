/*
 * Which adapter is in which slot: found by id, kept in the order of use, so that the one that was
 * used longest ago makes room for a new one. Slots that are pinned, or held by whoever works with
 * them, stay. Takes all its memory at first; every call but slots_init() takes a time that does not
 * depend on the number of slots.
 *
 * A slot is unused, taken (somebody fills it), or listed (it is found by its id). One that is
 * removed while it is held is found no more, and unused when the last holder drops it. Its owner
 * locks; only slots_is_held() may be asked without.
 */
#ifndef APPLY_SLOTS_H
#define APPLY_SLOTS_H

#include <stdatomic.h>

#include "format/digest.h"

#define SLOTS_MAX  (UINT32_C(1) << 24)
#define SLOTS_NONE UINT32_MAX

struct slot {
    struct digest id;
    uint32_t newer, older; /* among those that may go; `older` also chains the unused ones */
    atomic_uint holds;
    bool listed, pinned;
};

struct slots {
    struct slot *slots;
    uint32_t capacity;
    uint32_t *table; /* by id: slot + 1, or 0 */
    uint32_t table_mask;
    uint32_t newest, oldest; /* of those that may go: listed, neither pinned nor held */
    uint32_t unused;         /* the first one of the chain */
    uint32_t fresh;          /* from here on slots were never used */
    uint32_t count, pinned, held;
    uint64_t evicted;
};

/* Bytes for each slot, at most. */
#define SLOTS_BYTES (sizeof(struct slot) + 4 * sizeof(uint32_t))

/* 1 <= capacity <= SLOTS_MAX. E_NOMEM. */
MUST_CHECK int slots_init(struct slots *out, uint32_t capacity);
void slots_release(struct slots *slots);

/* The listed slot of that id, or SLOTS_NONE. */
uint32_t slots_find(const struct slots *slots, const struct digest *id);

/* A slot to fill: unused, or that of the least recently used adapter, which is listed no more;
   SLOTS_NONE where none may go. The next is slots_list() or slots_return(). */
uint32_t slots_take(struct slots *slots);
void slots_return(struct slots *slots, uint32_t slot);

/* A taken slot is now that of `id`, which no other one is, and the most recently used. */
void slots_list(struct slots *slots, uint32_t slot, const struct digest *id);

/* Listed slots: it stays as long as somebody holds it. Any number of holds. */
void slots_hold(struct slots *slots, uint32_t slot);
void slots_drop(struct slots *slots, uint32_t slot);
void slots_pin(struct slots *slots, uint32_t slot, bool pinned);
void slots_remove(struct slots *slots, uint32_t slot);

/* Does anybody hold it? Without the lock: the answer stays right as long as the asker holds it. */
bool slots_is_held(const struct slots *slots, uint32_t slot);

#endif
