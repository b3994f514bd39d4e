#include "store/heap.h"

#include <stdlib.h>

void heap_release(struct heap *heap)
{
    free(heap->items);
    *heap = (struct heap){0};
}

static bool is_before(const struct heap_item *a, const struct heap_item *b)
{
    return a->time != b->time ? a->time > b->time : a->arrival < b->arrival;
}

static void items_swap(struct heap_item *a, struct heap_item *b)
{
    struct heap_item held = *a;

    *a = *b;
    *b = held;
}

int heap_push(struct heap *heap, const struct ancestry *ancestry, size_t commit)
{
    int err = array_grow(&heap->items, &heap->capacity, heap->count + 1, sizeof(*heap->items));

    if (err < 0)
        return err;
    size_t at = heap->count++;
    heap->items[at] = (struct heap_item){ancestry->commits[commit].time, heap->arrivals++, commit};
    for (; at > 0 && is_before(&heap->items[at], &heap->items[(at - 1) / 2]); at = (at - 1) / 2)
        items_swap(&heap->items[at], &heap->items[(at - 1) / 2]);
    return 0;
}

size_t heap_pop(struct heap *heap)
{
    size_t top = heap->items[0].commit, at = 0;

    heap->items[0] = heap->items[--heap->count];
    for (;;) {
        size_t best = at;
        for (size_t child = 2 * at + 1; child <= 2 * at + 2 && child < heap->count; child++) {
            if (is_before(&heap->items[child], &heap->items[best]))
                best = child;
        }
        if (best == at)
            return top;
        items_swap(&heap->items[at], &heap->items[best]);
        at = best;
    }
}
