#include "apply/three_way.h"

#include <stdlib.h>

bool content_equal(const struct content *a, const struct content *b)
{
    return a->there == b->there && (!a->there || bytes_equal(a->bytes, b->bytes));
}

enum three_way three_way(bool ours_is_base, bool theirs_is_base, bool ours_is_theirs)
{
    if (ours_is_theirs)
        return ours_is_base ? WAY_BASE : WAY_BOTH;
    if (theirs_is_base)
        return WAY_OURS;
    return ours_is_base ? WAY_THEIRS : WAY_CONFLICT;
}

enum three_way three_way_contents(
    const struct content *base, const struct content *ours, const struct content *theirs
)
{
    return three_way(
        content_equal(ours, base), content_equal(theirs, base), content_equal(ours, theirs)
    );
}

enum three_way three_way_settle(enum three_way way, enum three_way_prefer prefer)
{
    if (way != WAY_CONFLICT || prefer == PREFER_NONE)
        return way;
    return prefer == PREFER_OURS ? WAY_OURS : WAY_THEIRS;
}

int conflicts_add(struct conflicts *conflicts, const char *name, const char *why)
{
    /* The list doubles whenever its length is a power of two. */
    if ((conflicts->count & (conflicts->count - 1)) == 0) {
        size_t room = conflicts->count ? conflicts->count * 2 : 1;
        struct conflict *grown = realloc(conflicts->items, room * sizeof(*grown));
        if (!grown)
            return error_set(E_NOMEM, "out of memory for %zu conflicts", room);
        conflicts->items = grown;
    }
    struct conflict conflict = {bytes_dup(text_bytes(name)), bytes_dup(text_bytes(why))};
    if (!conflict.name || !conflict.why) {
        free(conflict.name);
        free(conflict.why);
        return error_wrap(E_NOMEM, "conflicts");
    }
    conflicts->items[conflicts->count++] = conflict;
    return 0;
}

void conflicts_release(struct conflicts *conflicts)
{
    for (size_t i = 0; i < conflicts->count; i++) {
        free(conflicts->items[i].name);
        free(conflicts->items[i].why);
    }
    free(conflicts->items);
    *conflicts = (struct conflicts){0};
}
