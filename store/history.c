/*
 * History, newest first, children before parents.
 *
 * Two steps. Collect: from the starts, always the newest commit that is known and not yet taken;
 * with a limit this ends after so many, so the rest is never read. Commits of one second cannot be
 * told apart by time, and one may turn out to be the other's child, so where there was more than
 * one to choose from, the whole last second is taken. Order: among those that were collected, a
 * commit comes when all its children have come, the newest of these first. (Where clocks ran
 * backwards between branches, a limit may cut elsewhere than the same number of lines of the whole
 * history would; the order of what is returned holds all the same.)
 */
#include <stdlib.h>

#include "store/heap.h"
#include "store/refs.h"

struct collection {
    struct ancestry ancestry;
    struct id_set seen; /* pushed once */
    struct heap heap;
    size_t *commits; /* in the order they were taken */
    size_t count, capacity;
    bool had_choice;
};

static void collection_release(struct collection *collection)
{
    ancestry_release(&collection->ancestry);
    id_set_release(&collection->seen);
    heap_release(&collection->heap);
    free(collection->commits);
}

static int collection_push(struct collection *collection, const git_oid *id)
{
    size_t commit;
    bool is_new;

    int err = id_set_add(&commit, &is_new, &collection->seen, id);
    if (err < 0 || !is_new)
        return err;
    if ((err = ancestry_read(&commit, &collection->ancestry, id)) < 0)
        return err;
    return heap_push(&collection->heap, &collection->ancestry, commit);
}

static int collection_take(struct collection *collection)
{
    struct ancestry *ancestry = &collection->ancestry;
    int err = array_grow(
        &collection->commits, &collection->capacity, collection->count + 1,
        sizeof(*collection->commits)
    );

    if (err < 0)
        return err;
    size_t commit = heap_pop(&collection->heap);
    collection->commits[collection->count++] = commit;
    /* Pushing may move the array of commits; the parents' positions stay. */
    const struct ancestor taken = ancestry->commits[commit];
    for (size_t p = taken.parents_begin; err == 0 && p < taken.parents_end; p++) {
        git_oid parent = ancestry->parents[p];
        err = collection_push(collection, &parent);
    }
    if (collection->heap.count > 1)
        collection->had_choice = true;
    return err;
}

static bool is_enough(const struct collection *collection, size_t limit)
{
    if (limit == 0 || collection->count < limit)
        return false;
    const struct ancestor *last = &collection->ancestry
                                       .commits[collection->commits[collection->count - 1]];
    return !collection->had_choice || collection->heap.items[0].time < last->time;
}

static int collect(
    struct collection *collection, const struct commit_id *starts, size_t start_count, size_t limit
)
{
    int err = 0;

    for (size_t i = 0; err == 0 && i < start_count; i++) {
        git_oid id = git_id(&starts[i]);
        err = collection_push(collection, &id);
    }
    collection->had_choice = collection->heap.count > 1;
    while (err == 0 && collection->heap.count && !is_enough(collection, limit)) {
        if ((err = interrupt_check()) == 0)
            err = collection_take(collection);
    }
    return err;
}

/* How many children each commit has among those that were collected; SIZE_MAX: it was not. */
static size_t *children_count(const struct collection *collection)
{
    const struct ancestry *ancestry = &collection->ancestry;
    size_t *children = array_new(ancestry->ids.count, sizeof(*children)), parent;

    if (!children)
        return NULL;
    for (size_t i = 0; i < ancestry->ids.count; i++)
        children[i] = SIZE_MAX;
    for (size_t i = 0; i < collection->count; i++)
        children[collection->commits[i]] = 0;
    for (size_t i = 0; i < collection->count; i++) {
        const struct ancestor *commit = &ancestry->commits[collection->commits[i]];
        for (size_t p = commit->parents_begin; p < commit->parents_end; p++) {
            if (id_set_find(&parent, &ancestry->ids, &ancestry->parents[p]) &&
                children[parent] != SIZE_MAX)
                children[parent]++;
        }
    }
    return children;
}

/* A parent whose last child has come may come now. A parent that is named twice counts twice. */
static int
parents_free(struct heap *heap, const struct ancestry *ancestry, size_t *children, size_t commit)
{
    const struct ancestor *child = &ancestry->commits[commit];
    size_t parent;
    int err = 0;

    for (size_t p = child->parents_begin; err == 0 && p < child->parents_end; p++) {
        if (id_set_find(&parent, &ancestry->ids, &ancestry->parents[p]) &&
            children[parent] != SIZE_MAX && --children[parent] == 0)
            err = heap_push(heap, ancestry, parent);
    }
    return err;
}

static int order(struct commit_id *out, size_t count, const struct collection *collection)
{
    const struct ancestry *ancestry = &collection->ancestry;
    AUTO_HEAP(heap);
    size_t *children = children_count(collection);
    __attribute__((cleanup(auto_free), unused)) size_t *owned = children;
    int err = 0;

    if (!children)
        return error_wrap(E_NOMEM, "history");
    for (size_t i = 0; err == 0 && i < collection->count; i++) {
        if (children[collection->commits[i]] == 0)
            err = heap_push(&heap, ancestry, collection->commits[i]);
    }
    for (size_t i = 0; err == 0 && i < count; i++) {
        if (heap.count == 0) /* it would take a collision of SHA-1 */
            return error_set(E_CORRUPT, "history: a commit is its own ancestor");
        size_t commit = heap_pop(&heap);
        out[i] = commit_id_of(&ancestry->ids.ids[commit]);
        err = parents_free(&heap, ancestry, children, commit);
    }
    return err;
}

static bool is_cut(const struct ancestry *ancestry, const struct commit_id *commits, size_t count)
{
    for (size_t i = 0; ancestry->shallow.count && i < count; i++) {
        git_oid id = git_id(&commits[i]);
        size_t ignored;
        if (id_set_find(&ignored, &ancestry->shallow, &id))
            return true;
    }
    return false;
}

static int history_make(struct history *out, const struct collection *collection, size_t limit)
{
    size_t count = collection->count;

    if (limit && limit < count)
        count = limit;
    struct commit_id *commits = array_new(count, sizeof(*commits));
    if (!commits)
        return error_wrap(E_NOMEM, "history");
    int err = order(commits, count, collection);
    if (err < 0) {
        free(commits);
        return err;
    }
    *out = (struct history){commits, count, is_cut(&collection->ancestry, commits, count)};
    return 0;
}

static int history_from(
    struct history *out,
    struct store *store,
    const struct commit_id *starts,
    size_t start_count,
    size_t limit
)
{
    __attribute__((cleanup(collection_release))) struct collection collection = {0};

    int err = ancestry_init(&collection.ancestry, store);
    if (err < 0 || (err = collect(&collection, starts, start_count, limit)) < 0)
        return err;
    return history_make(out, &collection, limit);
}

int store_history(
    struct history *out,
    struct store *store,
    const struct commit_id *starts,
    size_t start_count,
    size_t limit
)
{
    AUTO_TIPS(tips);

    if (starts)
        return history_from(out, store, starts, start_count, limit);
    int err = tips_read(&tips, store, TIPS_REFS | TIPS_HEAD);
    return err < 0 ? err : history_from(out, store, tips.commits, tips.count, limit);
}

void history_release(struct history *history)
{
    free(history->commits);
    *history = (struct history){0};
}
