#include "store/pack_loose.h"

#include <stdlib.h>
#include <string.h>

#include "format/file.h"
#include "store/graph.h"
#include "store/loose.h"
#include "store/pack.h"
#include "store/refs.h"

#define FOLDERS 256u
#define SAMPLES 16u /* of the folders: ids are spread evenly */

struct packing {
    struct store *store;
    struct id_set loose;
    struct packs packs;
    struct graph graph;
    struct pack_objects objects;
    size_t name_capacity;
};

static void packing_release(struct packing *packing)
{
    id_set_release(&packing->loose);
    packs_release(&packing->packs);
    graph_release(&packing->graph);
    id_set_release(&packing->objects.ids);
    free(packing->objects.names);
}

/* Are there many, as far as a few folders tell? Each commit asks. */
static bool is_crowded(struct store *store)
{
    unsigned samples = store->loose_max < LOOSE_MAX ? FOLDERS : SAMPLES;
    size_t count = 0;

    for (unsigned i = 0; i < samples; i++) {
        AUTO_BUF(folder);
        AUTO_BUF(names);
        if (buf_printf(
                &folder, "%s/objects/%02x", store->path,
                i * (FOLDERS / samples) + FOLDERS / samples - 1
            ) < 0 ||
            dir_names(&names, (const char *)folder.data) < 0)
            continue; /* git's gc removes what it empties */
        for (size_t at = 0; at < names.len; at++)
            count += names.data[at] == '\0';
    }
    return count * (FOLDERS / samples) > store->loose_max;
}

static bool has(const struct id_set *set, const git_oid *id)
{
    size_t ignored;

    return id_set_find(&ignored, set, id);
}

static int loose_remove(struct store *store, const struct id_set *ids)
{
    int err = 0;

    for (size_t i = 0; err == 0 && i < ids->count; i++) {
        AUTO_FREE(char, path);
        if ((err = loose_path(&path, store, &ids->ids[i])) == 0)
            err = path_remove(path);
    }
    return err;
}

/* What is loose though a pack has it: somebody was killed before it went, or did not know. */
static int twice_remove(struct packing *packing)
{
    int err = 0;

    for (size_t i = 0; err == 0 && i < packing->packs.count; i++) {
        const struct pack *pack = &packing->packs.packs[i];
        AUTO_ID_SET(both);
        size_t ignored;
        for (size_t k = 0; err == 0 && !pack->is_cruft && k < packing->loose.count; k++) {
            if (has(&pack->ids, &packing->loose.ids[k]))
                err = id_set_add(&ignored, NULL, &both, &packing->loose.ids[k]);
        }
        if (err == 0 && both.count && (err = pack_check(packing->store, pack->name, &both)) == 0)
            err = loose_remove(packing->store, &both);
    }
    return err;
}

static bool is_packed(const struct packing *packing, const git_oid *id)
{
    for (size_t i = 0; i < packing->packs.count; i++) {
        if (!packing->packs.packs[i].is_cruft && has(&packing->packs.packs[i].ids, id))
            return true;
    }
    return false;
}

static int tip_visit(void *context, const char *name, const git_oid *target)
{
    struct packing *packing = context;
    size_t node;

    (void)name;
    if (!has(&packing->loose, target))
        return 0;
    return graph_root(&node, &packing->graph, target, GIT_OBJECT_ANY);
}

/* Those that refs reach through loose ones. */
static int objects_find(struct packing *packing)
{
    struct pack_objects *objects = &packing->objects;
    struct graph *graph = &packing->graph;
    size_t at;
    int err;

    if ((err = graph_init(graph, packing->store)) < 0)
        return err;
    graph->within = &packing->loose;
    if ((err = refs_each(packing->store, "refs/", tip_visit, packing)) < 0 ||
        (err = graph_walk(graph, NULL, NULL)) < 0)
        return err;
    for (size_t node = 0; err == 0 && node < graph->ids.count; node++) {
        if (is_packed(packing, &graph->ids.ids[node]))
            continue;
        if ((err = id_set_add(&at, NULL, &objects->ids, &graph->ids.ids[node])) == 0 &&
            (err = array_grow(
                 &objects->names, &packing->name_capacity, at + 1, sizeof(*objects->names)
             )) == 0)
            objects->names[at] = graph_name(graph, graph->nodes[node].name);
    }
    return err;
}

/* Joining */

static int pack_compare(const void *a, const void *b)
{
    const struct pack *left = *(const struct pack *const *)a;
    const struct pack *right = *(const struct pack *const *)b;

    return (left->bytes > right->bytes) - (left->bytes < right->bytes);
}

/* How many of the smallest packs become one, so that each of the others is at least twice as large
   as all that are smaller; `packs` in order of size. */
static size_t packs_choose(const struct pack *const *packs, size_t count)
{
    size_t split = count;
    uint64_t sum = 0;

    while (split > 1 && packs[split - 1]->bytes / 2 >= packs[split - 2]->bytes)
        split--;
    if (split < 2)
        return 0;
    for (size_t i = 0; i < split; i++)
        sum += packs[i]->bytes;
    for (; split < count && packs[split]->bytes / 2 < sum; split++)
        sum += packs[split]->bytes;
    return split;
}

/* An object that is in two of them could not be in one twice. */
static int are_apart(bool *out, const struct pack *const *packs, size_t count)
{
    AUTO_ID_SET(seen);
    size_t ignored, objects = 0;
    int err = 0;

    for (size_t i = 0; err == 0 && i < count; i++) {
        objects += packs[i]->ids.count;
        for (size_t k = 0; err == 0 && k < packs[i]->ids.count; k++)
            err = id_set_add(&ignored, NULL, &seen, &packs[i]->ids.ids[k]);
    }
    *out = seen.count == objects;
    return err;
}

static int some_join(struct store *store, const struct pack *const *packs, size_t count)
{
    AUTO_FREE(char, name);
    bool apart = false;

    int err = are_apart(&apart, packs, count);
    if (err < 0 || !apart || (err = pack_join(&name, store, packs, count)) < 0)
        return err;
    for (size_t i = 0; err == 0 && i < count; i++) {
        if (strcmp(packs[i]->name, name) != 0)
            err = pack_remove(store, packs[i]->name);
    }
    return err;
}

static int packs_join(struct store *store)
{
    AUTO_PACKS(packs);
    AUTO_FREE(const struct pack *, ours);
    size_t count = 0;

    int err = packs_read(&packs, store);
    if (err < 0)
        return err;
    if (!(ours = array_new(packs.count, sizeof(*ours))))
        return error_wrap(E_NOMEM, "packs");
    for (size_t i = 0; i < packs.count; i++) {
        if (!packs.packs[i].is_kept && !packs.packs[i].is_cruft)
            ours[count++] = &packs.packs[i];
    }
    if (count)
        qsort(ours, count, sizeof(const struct pack *), pack_compare);
    size_t joined = packs_choose(ours, count);
    return joined ? some_join(store, ours, joined) : 0;
}

static int pack_them(struct packing *packing)
{
    struct store *store = packing->store;
    AUTO_FREE(char, name);
    int err;

    if ((err = loose_read(&packing->loose, store)) < 0 ||
        packing->loose.count <= store->loose_max ||
        (err = packs_read(&packing->packs, store)) < 0 || (err = twice_remove(packing)) < 0 ||
        (err = objects_find(packing)) < 0 || packing->objects.ids.count < store->loose_max / 2)
        return err;
    if ((err = pack_write(&name, store, &packing->objects, NULL)) < 0 ||
        (err = loose_remove(store, &packing->objects.ids)) < 0)
        return err;
    return packs_join(store);
}

void loose_pack(struct store *store)
{
    __attribute__((cleanup(packing_release))) struct packing packing = {.store = store};
    AUTO_LOCK(lock);
    bool got = false;

    if (!is_crowded(store) || lock_pack_try(&got, &lock, store) < 0 || !got ||
        pack_clean(store) < 0)
        return;
    /* The version that was committed is there, whatever becomes of this. */
    (void)!pack_them(&packing);
}
