/* Commits that wait for their turn: the newest is on top, of those of one second the first that
 * came.
 */
#ifndef STORE_HEAP_H
#define STORE_HEAP_H

#include "store/ancestry.h"

struct heap {
    struct heap_item {
        int64_t time;
        size_t arrival, commit; /* commit: its index in the ancestry */
    } * items;
    size_t count, capacity, arrivals;
};

#define AUTO_HEAP(name) __attribute__((cleanup(heap_release))) struct heap name = {0}
void heap_release(struct heap *heap);

MUST_CHECK int heap_push(struct heap *heap, const struct ancestry *ancestry, size_t commit);
/* The heap is not empty. */
size_t heap_pop(struct heap *heap);

#endif
