/*
 * A set of object ids in order of arrival: each has an index, 0, 1, 2 …, by which arrays beside it
 * are looked up. What walks a repository remembers here what it has seen.
 */
#ifndef STORE_ID_SET_H
#define STORE_ID_SET_H

#include "store/internal.h"

struct id_set {
    git_oid *ids;
    size_t count, capacity;
    uint32_t *slots; /* index + 1, 0 where free; linear probing */
    size_t slot_count;
};

#define AUTO_ID_SET(name) __attribute__((cleanup(id_set_release))) struct id_set name = {0}
void id_set_release(struct id_set *set);

/* *out_index: where the id is now; *added tells whether it is new (may be NULL). */
MUST_CHECK int id_set_add(size_t *out_index, bool *added, struct id_set *set, const git_oid *id);
bool id_set_find(size_t *out_index, const struct id_set *set, const git_oid *id);

#endif
