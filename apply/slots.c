/*
 * The table by id is open addressing with linear probing, at most half full; what is taken out
 * moves the ones behind it up, so there are no tombstones and it never has to be made again.
 */
#include "apply/slots.h"

#include <assert.h>
#include <stdlib.h>
#include <string.h>

int slots_init(struct slots *out, uint32_t capacity)
{
    struct slots slots = {
        .capacity = capacity,
        .table_mask = 1,
        .newest = SLOTS_NONE,
        .oldest = SLOTS_NONE,
        .unused = SLOTS_NONE,
    };

    assert(capacity > 0 && capacity <= SLOTS_MAX);
    while (slots.table_mask < 2 * capacity)
        slots.table_mask *= 2;
    slots.slots = array_new(capacity, sizeof(*slots.slots));
    slots.table = array_new(slots.table_mask, sizeof(*slots.table));
    slots.table_mask--;
    if (!slots.slots || !slots.table) {
        slots_release(&slots);
        return error_wrap(E_NOMEM, "%u adapters", capacity);
    }
    *out = slots;
    return 0;
}

void slots_release(struct slots *slots)
{
    free(slots->slots);
    free(slots->table);
    *slots = (struct slots){0};
}

/* ---- By id ---- */

/* Where the search for an id begins; any part of a digest is as good as another. */
static uint32_t place_of(const struct slots *slots, const struct digest *id)
{
    uint32_t word;

    memcpy(&word, id->bytes, sizeof(word));
    return word & slots->table_mask;
}

/* Where an id is in the table, or where it would be. */
static uint32_t table_find(const struct slots *slots, const struct digest *id)
{
    uint32_t at = place_of(slots, id);

    while (slots->table[at] && !digest_equal(&slots->slots[slots->table[at] - 1].id, id))
        at = (at + 1) & slots->table_mask;
    return at;
}

uint32_t slots_find(const struct slots *slots, const struct digest *id)
{
    uint32_t entry = slots->table[table_find(slots, id)];

    return entry ? entry - 1 : SLOTS_NONE;
}

/* Take an entry out, and move up those behind it that may stand there: whose search begins no later
   than the hole. */
static void table_remove(struct slots *slots, const struct digest *id)
{
    uint32_t mask = slots->table_mask, hole = table_find(slots, id);

    assert(slots->table[hole]);
    for (uint32_t at = (hole + 1) & mask; slots->table[at]; at = (at + 1) & mask) {
        uint32_t home = place_of(slots, &slots->slots[slots->table[at] - 1].id);
        if (((at - home) & mask) >= ((at - hole) & mask)) {
            slots->table[hole] = slots->table[at];
            hole = at;
        }
    }
    slots->table[hole] = 0;
}

/* ---- The order of use ---- */

static bool may_go(const struct slot *slot)
{
    return slot->listed && !slot->pinned &&
           atomic_load_explicit(&slot->holds, memory_order_relaxed) == 0;
}

static void order_add(struct slots *slots, uint32_t number)
{
    struct slot *slot = &slots->slots[number];

    slot->newer = SLOTS_NONE;
    slot->older = slots->newest;
    if (slots->newest != SLOTS_NONE)
        slots->slots[slots->newest].newer = number;
    else
        slots->oldest = number;
    slots->newest = number;
}

static void order_remove(struct slots *slots, uint32_t number)
{
    struct slot *slot = &slots->slots[number];

    if (slot->newer != SLOTS_NONE)
        slots->slots[slot->newer].older = slot->older;
    else
        slots->newest = slot->older;
    if (slot->older != SLOTS_NONE)
        slots->slots[slot->older].newer = slot->newer;
    else
        slots->oldest = slot->newer;
}

/* ---- Slots ---- */

static void unlist(struct slots *slots, uint32_t number)
{
    table_remove(slots, &slots->slots[number].id);
    slots->slots[number].listed = false;
    slots->count--;
}

void slots_return(struct slots *slots, uint32_t slot)
{
    slots->slots[slot].older = slots->unused;
    slots->unused = slot;
}

uint32_t slots_take(struct slots *slots)
{
    uint32_t slot = slots->unused;

    if (slot != SLOTS_NONE) {
        slots->unused = slots->slots[slot].older;
        return slot;
    }
    if (slots->fresh < slots->capacity)
        return slots->fresh++;
    slot = slots->oldest;
    if (slot != SLOTS_NONE) {
        order_remove(slots, slot);
        unlist(slots, slot);
        slots->evicted++;
    }
    return slot;
}

void slots_list(struct slots *slots, uint32_t number, const struct digest *id)
{
    struct slot *slot = &slots->slots[number];
    uint32_t at = table_find(slots, id);

    assert(!slot->listed && slots->table[at] == 0);
    slot->id = *id;
    slot->listed = true;
    slots->table[at] = number + 1;
    slots->count++;
    order_add(slots, number);
}

void slots_hold(struct slots *slots, uint32_t number)
{
    struct slot *slot = &slots->slots[number];

    assert(slot->listed);
    if (may_go(slot))
        order_remove(slots, number);
    if (atomic_fetch_add_explicit(&slot->holds, 1, memory_order_relaxed) == 0)
        slots->held++;
}

void slots_drop(struct slots *slots, uint32_t number)
{
    struct slot *slot = &slots->slots[number];

    assert(slots_is_held(slots, number));
    if (atomic_fetch_sub_explicit(&slot->holds, 1, memory_order_relaxed) > 1)
        return;
    slots->held--;
    if (may_go(slot))
        order_add(slots, number);
    else if (!slot->listed)
        slots_return(slots, number);
}

void slots_pin(struct slots *slots, uint32_t number, bool pinned)
{
    struct slot *slot = &slots->slots[number];
    bool could_go = may_go(slot);

    assert(slot->listed);
    if (slot->pinned == pinned)
        return;
    slot->pinned = pinned;
    slots->pinned += pinned ? 1 : UINT32_MAX;
    if (could_go)
        order_remove(slots, number);
    else if (may_go(slot))
        order_add(slots, number);
}

void slots_remove(struct slots *slots, uint32_t number)
{
    struct slot *slot = &slots->slots[number];
    bool could_go = may_go(slot);

    assert(slot->listed);
    if (slot->pinned)
        slots->pinned--;
    slot->pinned = false;
    if (could_go)
        order_remove(slots, number);
    unlist(slots, number);
    if (!slots_is_held(slots, number))
        slots_return(slots, number);
}

bool slots_is_held(const struct slots *slots, uint32_t slot)
{
    return atomic_load_explicit(&slots->slots[slot].holds, memory_order_relaxed) > 0;
}
