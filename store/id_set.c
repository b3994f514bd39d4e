#include "store/id_set.h"

#include <stdlib.h>
#include <string.h>

void id_set_release(struct id_set *set)
{
    free(set->ids);
    free(set->slots);
    *set = (struct id_set){0};
}

/* Where the id is, or the free slot where it belongs. An id is a hash already. */
static size_t slot_of(const struct id_set *set, const git_oid *id)
{
    uint64_t hash;

    memcpy(&hash, id->id, sizeof(hash));
    for (size_t slot = hash & (set->slot_count - 1);; slot = (slot + 1) & (set->slot_count - 1)) {
        uint32_t held = set->slots[slot];
        if (held == 0 || git_oid_equal(&set->ids[held - 1], id))
            return slot;
    }
}

static int slots_grow(struct id_set *set)
{
    size_t count = set->slot_count ? 2 * set->slot_count : 64;
    uint32_t *slots = array_new(count, sizeof(*slots));

    if (!slots)
        return error_wrap(E_NOMEM, "object ids");
    free(set->slots);
    set->slots = slots;
    set->slot_count = count;
    for (size_t i = 0; i < set->count; i++)
        set->slots[slot_of(set, &set->ids[i])] = (uint32_t)i + 1;
    return 0;
}

int id_set_add(size_t *out_index, bool *added, struct id_set *set, const git_oid *id)
{
    int err;

    /* At most half full, so that a free slot is near. */
    if (set->count >= set->slot_count / 2 && (err = slots_grow(set)) < 0)
        return err;
    if (set->count >= UINT32_MAX - 1)
        return error_set(E_LIMIT, "more than %u objects", UINT32_MAX - 1);
    size_t slot = slot_of(set, id);
    bool is_new = set->slots[slot] == 0;
    if (is_new) {
        err = array_grow(&set->ids, &set->capacity, set->count + 1, sizeof(*set->ids));
        if (err < 0)
            return err;
        set->ids[set->count++] = *id;
        set->slots[slot] = (uint32_t)set->count;
    }
    *out_index = set->slots[slot] - 1;
    if (added)
        *added = is_new;
    return 0;
}

bool id_set_find(size_t *out_index, const struct id_set *set, const git_oid *id)
{
    if (set->count == 0)
        return false;
    uint32_t held = set->slots[slot_of(set, id)];
    if (held)
        *out_index = held - 1;
    return held != 0;
}
