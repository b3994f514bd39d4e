/*
 * Dropping what nothing needs, and packing the rest. See store.h and docs/format.md, "Garbage".
 *
 * The long part runs beside writers: what refs, reflogs and HEAD reach is written into one pack,
 * what nothing reaches and is young into another, each read back. Then, while nobody writes: what
 * is old leaves the trash and the reflogs; what is reached now is looked at again, since others
 * went on; and what was packed, or is old and nothing reaches, goes. A process that is killed
 * anywhere leaves every version whole. No object's id changes.
 */
#include <git2/sys/odb_backend.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "format/file.h"
#include "store/ancestry.h"
#include "store/expire.h"
#include "store/graph.h"
#include "store/loose.h"
#include "store/pack.h"
#include "store/packed_refs.h"
#include "store/quarantine.h"
#include "store/refs.h"
#include "store/sizes.h"

#define DAY        86400
#define TRASH_AGE  (90 * DAY) /* of trash refs and of lines in reflogs */
#define OBJECT_AGE (30 * DAY) /* of objects that nothing reaches, unless it is given */
#define LOOSE_AGE  DAY        /* until then somebody may be about to need what nothing reaches */

/* What goes into a pack, and the pack. */
struct bundle {
    struct pack_objects objects;
    size_t name_capacity, time_capacity;
    char *name; /* of the pack */
};

struct gc {
    struct store *store;
    struct progress *progress;
    bool dry_run;
    int64_t now;
    int64_t keep_from;  /* objects that nothing reaches are kept from this time on */
    int64_t trash_from; /* trash refs and reflogs' lines, too */
    struct graph graph;
    struct id_set loose;
    struct packs packs;
    struct bundle needed, young;
    struct id_set dropped;
    bool has_touched;
};

static void bundle_release(struct bundle *bundle)
{
    id_set_release(&bundle->objects.ids);
    free(bundle->objects.names);
    free(bundle->objects.times);
    free(bundle->name);
}

static void gc_release(struct gc *gc)
{
    graph_release(&gc->graph);
    id_set_release(&gc->loose);
    packs_release(&gc->packs);
    bundle_release(&gc->needed);
    bundle_release(&gc->young);
    id_set_release(&gc->dropped);
}

/* What is not for us */

/* Each has a HEAD and an index of its own, which reach objects. */
static int worktrees_refuse(struct store *store)
{
    AUTO_FREE(char, folder);
    AUTO_BUF(names);

    int err = path_join(&folder, store->path, "worktrees");
    if (err < 0 || (err = dir_names(&names, folder)) < 0)
        return err == E_NOTFOUND ? 0 : err;
    if (!names.len)
        return 0;
    err = error_set(E_UNSUPPORTED, "%s: git has worktrees of it", store->path);
    return error_hint(err, "git --git-dir=%s gc", store->path);
}

/* Roots */

static int root_add(struct gc *gc, const git_oid *id, bool must_exist)
{
    size_t node;

    if (git_oid_is_zero(id) || (!must_exist && !git_odb_exists(gc->store->odb, id)))
        return 0;
    return graph_root(&node, &gc->graph, id, GIT_OBJECT_ANY);
}

/* `from`: what is older than this is about to go. */
struct rooting {
    struct gc *gc;
    int64_t from;
};

static int ref_visit(void *context, const char *name, const git_oid *target)
{
    const struct rooting *rooting = context;
    time_t time;

    if (trash_parse(&time, name) && time < rooting->from)
        return 0;
    return root_add(rooting->gc, target, true);
}

/* A reflog may name what is gone: git keeps such lines, too. */
static int reflog_visit(void *context, const git_oid *old, const git_oid *now)
{
    const struct rooting *rooting = context;
    int err = root_add(rooting->gc, old, false);

    return err < 0 ? err : root_add(rooting->gc, now, false);
}

/* libgit2 leaves refs that it cannot read out of its lists; what they reach must not go. */
static int ref_file_visit(void *context, const struct tree_file *file)
{
    const struct rooting *rooting = context;
    size_t len = strlen(file->path);
    AUTO_BUF(name);
    git_oid id;
    bool found;

    if (file->is_directory || (len > 5 && strcmp(file->path + len - 5, ".lock") == 0))
        return 0;
    int err = buf_printf(&name, "refs/%s", file->path);
    if (err < 0 ||
        (err = ref_read(&found, &id, rooting->gc->store, (const char *)name.data)) == E_UNSUPPORTED)
        return err == E_UNSUPPORTED ? 0 : err; /* a symbolic one leads to one of the others */
    return err;
}

static int refs_check(struct rooting *rooting)
{
    AUTO_FREE(char, folder);

    int err = path_join(&folder, rooting->gc->store->path, "refs");
    return err < 0 ? err : tree_each(folder, ref_file_visit, rooting);
}

static int roots_add(struct gc *gc, int64_t from)
{
    struct rooting rooting = {gc, from};
    AUTO_FREE(char, branch);
    struct commit_id head;
    bool has_head = false;
    int err;

    if ((err = refs_check(&rooting)) < 0 ||
        (err = refs_each(gc->store, "refs/", ref_visit, &rooting)) < 0 ||
        (err = store_head(&branch, &head, &has_head, gc->store)) < 0)
        return err;
    if (has_head) {
        git_oid id = git_id(&head);
        err = root_add(gc, &id, true);
    }
    return err < 0 ? err : reflogs_each(gc->store, from, reflog_visit, &rooting);
}

static int reach(struct gc *gc, int64_t from)
{
    int err = roots_add(gc, from);

    return err < 0 ? err : graph_walk(&gc->graph, NULL, NULL);
}

static bool has(const struct id_set *set, const git_oid *id)
{
    size_t ignored;

    return id_set_find(&ignored, set, id);
}

/* Is it in a pack, of those that are ours or of those that are not? */
static bool is_packed(const struct gc *gc, const git_oid *id, bool is_kept)
{
    for (size_t i = 0; i < gc->packs.count; i++) {
        if (gc->packs.packs[i].is_kept == is_kept && has(&gc->packs.packs[i].ids, id))
            return true;
    }
    return false;
}

/* Which objects go where */

static int needed_add(struct gc *gc, size_t node)
{
    struct pack_objects *objects = &gc->needed.objects;
    const git_oid *id = &gc->graph.ids.ids[node];
    size_t at;

    if (is_packed(gc, id, true))
        return 0;
    if (!has(&gc->loose, id) && !is_packed(gc, id, false)) {
        if (git_odb_exists(gc->store->odb, id))
            return 0; /* borrowed from another repository */
        AUTO_BUF(path);
        int err = graph_path(&path, &gc->graph, node);
        if (err < 0)
            return err;
        return error_set(
            E_CORRUPT, "object %s (%s) is missing", git_oid_tostr_s(id), (const char *)path.data
        );
    }
    int err = id_set_add(&at, NULL, &objects->ids, id);
    if (err < 0 ||
        (err = array_grow(
             &objects->names, &gc->needed.name_capacity, objects->ids.count, sizeof(*objects->names)
         )) < 0)
        return err;
    objects->names[at] = graph_name(&gc->graph, gc->graph.nodes[node].name);
    return 0;
}

static int needed_find(struct gc *gc)
{
    int err = 0;

    for (size_t node = 0; err == 0 && node < gc->graph.ids.count; node++)
        err = needed_add(gc, node);
    return err;
}

static int young_add(struct gc *gc, const git_oid *id, int64_t time)
{
    struct pack_objects *objects = &gc->young.objects;
    uint32_t seconds = time < 0 ? 0 : time > UINT32_MAX ? UINT32_MAX : (uint32_t)time;
    size_t at;

    int err = id_set_add(&at, NULL, &objects->ids, id);
    if (err < 0 ||
        (err = array_grow(
             &objects->times, &gc->young.time_capacity, objects->ids.count, sizeof(*objects->times)
         )) < 0)
        return err;
    if (objects->times[at] < seconds)
        objects->times[at] = seconds;
    return 0;
}

/* Loose ones stay where they are while they are very young. */
static int young_find(struct gc *gc)
{
    int err = 0;

    for (size_t i = 0; err == 0 && i < gc->packs.count; i++) {
        const struct pack *pack = &gc->packs.packs[i];
        for (size_t k = 0; err == 0 && !pack->is_kept && k < pack->ids.count; k++) {
            int64_t time = pack_object_time(pack, k);
            if (time >= gc->keep_from && !has(&gc->graph.ids, &pack->ids.ids[k]))
                err = young_add(gc, &pack->ids.ids[k], time);
        }
    }
    for (size_t i = 0; err == 0 && i < gc->loose.count; i++) {
        const git_oid *id = &gc->loose.ids[i];
        AUTO_FREE(char, path);
        int64_t time;
        if (has(&gc->graph.ids, id) || (err = loose_path(&path, gc->store, id)) < 0 ||
            (err = path_time(&time, path)) < 0)
            err = err == E_NOTFOUND ? 0 : err;
        else if (time >= gc->keep_from && time < gc->now - LOOSE_AGE)
            err = young_add(gc, id, time);
    }
    return err;
}

/* Packing */

static bool same_ids(const struct id_set *a, const struct id_set *b)
{
    if (a->count != b->count)
        return false;
    for (size_t i = 0; i < a->count; i++) {
        if (!has(b, &a->ids[i]))
            return false;
    }
    return true;
}

static bool any_loose(const struct gc *gc, const struct id_set *ids)
{
    for (size_t i = 0; i < gc->loose.count; i++) {
        if (has(ids, &gc->loose.ids[i]))
            return true;
    }
    return false;
}

/* The pack that holds exactly this already, nothing of which is loose. */
static const struct pack *bundle_find(const struct gc *gc, const struct bundle *bundle)
{
    if (any_loose(gc, &bundle->objects.ids))
        return NULL;
    for (size_t i = 0; i < gc->packs.count; i++) {
        const struct pack *pack = &gc->packs.packs[i];
        if (!pack->is_kept && pack->is_cruft == (bundle->objects.times != NULL) &&
            same_ids(&pack->ids, &bundle->objects.ids))
            return pack;
    }
    return NULL;
}

static int bundle_pack(struct bundle *bundle, struct gc *gc)
{
    if (!bundle->objects.ids.count)
        return 0;
    const struct pack *there = bundle_find(gc, bundle);
    if (!there)
        return pack_write(&bundle->name, gc->store, &bundle->objects, gc->progress);
    if (!(bundle->name = bytes_dup(text_bytes(there->name))))
        return error_wrap(E_NOMEM, "packs");
    return 0;
}

/* Dropping */

static bool is_safe(const struct gc *gc, const git_oid *id)
{
    return has(&gc->needed.objects.ids, id) || has(&gc->young.objects.ids, id);
}

static int dropped_add(struct gc *gc, const git_oid *id)
{
    size_t ignored;

    return is_packed(gc, id, true) ? 0 : id_set_add(&ignored, NULL, &gc->dropped, id);
}

static bool is_bundle(const struct bundle *bundle, const struct pack *pack)
{
    return bundle->name && strcmp(bundle->name, pack->name) == 0;
}

/* Does the pack hold what somebody has begun to need, or git has touched, since it was looked at?
   Then it stays, until the next time. */
static int is_wanted(bool *out, const struct gc *gc, const struct pack *pack)
{
    AUTO_BUF(path);
    int64_t time;

    int err = buf_printf(&path, "%s/objects/pack/%s.pack", gc->store->path, pack->name);
    if (err < 0 || (err = path_time(&time, (const char *)path.data)) < 0)
        return err == E_NOTFOUND ? 0 : err;
    *out = time != pack->time;
    for (size_t i = 0; !*out && i < pack->ids.count; i++)
        *out = !is_safe(gc, &pack->ids.ids[i]) && has(&gc->graph.ids, &pack->ids.ids[i]);
    return 0;
}

static int pack_drop(struct gc *gc, const struct pack *pack)
{
    bool wanted = false;
    int err = gc->dry_run ? 0 : is_wanted(&wanted, gc, pack);

    for (size_t i = 0; err == 0 && !wanted && i < pack->ids.count; i++) {
        if (!is_safe(gc, &pack->ids.ids[i]))
            err = dropped_add(gc, &pack->ids.ids[i]);
    }
    return err < 0 || wanted || gc->dry_run ? err : pack_remove(gc->store, pack->name);
}

static int packs_drop(struct gc *gc)
{
    int err = 0;

    for (size_t i = 0; err == 0 && i < gc->packs.count; i++) {
        const struct pack *pack = &gc->packs.packs[i];
        if (!pack->is_kept && !is_bundle(&gc->needed, pack) && !is_bundle(&gc->young, pack))
            err = pack_drop(gc, pack);
    }
    return err;
}

/* Who has the repository open sees by its folder of packs that something has gone (store_renew). */
static int packs_touch(struct gc *gc)
{
    AUTO_BUF(path);

    int err = buf_printf(&path, "%s/objects/pack/tmp_vera", gc->store->path);
    if (err < 0 || ((err = file_claim((const char *)path.data)) < 0 && err != E_EXISTS))
        return err;
    gc->has_touched = true;
    return path_remove((const char *)path.data);
}

static int loose_drop(struct gc *gc, const git_oid *id)
{
    AUTO_FREE(char, path);
    int64_t time;
    int err = loose_path(&path, gc->store, id);

    if (err < 0)
        return err;
    if (!is_safe(gc, id)) {
        if (has(&gc->graph.ids, id) || (err = path_time(&time, path)) < 0 || time >= gc->keep_from)
            return err == E_NOTFOUND ? 0 : err;
        if ((err = dropped_add(gc, id)) == 0 && !gc->dry_run && !gc->has_touched)
            err = packs_touch(gc);
    }
    return err < 0 || gc->dry_run ? err : path_remove(path);
}

static int looses_drop(struct gc *gc)
{
    int err = 0;

    for (size_t i = 0; err == 0 && i < gc->loose.count; i++) {
        if ((err = loose_drop(gc, &gc->loose.ids[i])) == 0)
            err = interrupt_check();
    }
    return err;
}

/* What git has made to find objects faster names packs and commits that are about to go; it makes
   it anew. */
static int caches_drop(const struct gc *gc)
{
    static const char *const names[] = {"info/commit-graph", "info/commit-graphs"};
    AUTO_FREE(char, folder);
    AUTO_BUF(entries);
    int err;

    if ((err = path_join(&folder, gc->store->path, "objects/pack")) < 0 ||
        (err = dir_names(&entries, folder)) < 0)
        return err == E_NOTFOUND ? 0 : err;
    for (size_t at = 0; err == 0 && at < entries.len;) {
        const char *name = (const char *)entries.data + at;
        AUTO_FREE(char, path);
        at += strlen(name) + 1;
        if (strncmp(name, "multi-pack-index", 16) == 0 &&
            (err = path_join(&path, folder, name)) == 0)
            err = path_remove(path);
    }
    for (size_t i = 0; err == 0 && i < sizeof(names) / sizeof(names[0]); i++) {
        AUTO_BUF(path);
        if ((err = buf_printf(&path, "%s/objects/%s", gc->store->path, names[i])) == 0)
            err = tree_remove((const char *)path.data);
    }
    return err;
}

/* Files that a crash left: objects that were being written, packs without an index. */
static bool is_scrap(const struct gc *gc, const char *path)
{
    AUTO_BUF(index);
    const char *name = path_name(path);

    if (strncmp(path, "objects/", 8) != 0)
        return false;
    if (strncmp(path, "objects/pack/pack-", 18) == 0 && strrchr(name, '.'))
        return buf_printf(
                   &index, "%s/%.*s.idx", gc->store->path, (int)(strrchr(path, '.') - path), path
               ) == 0 &&
               !path_exists((const char *)index.data);
    return strncmp(name, "tmp_", 4) == 0 || strncmp(name, "pack_git2_", 10) == 0;
}

static int scrap_visit(void *context, const struct tree_file *file)
{
    struct gc *gc = context;
    AUTO_FREE(char, path);
    int64_t time;

    if (file->is_directory || !is_scrap(gc, file->path))
        return 0;
    int err = path_join(&path, gc->store->path, file->path);
    if (err < 0 || (err = path_time(&time, path)) < 0)
        return err == E_NOTFOUND ? 0 : err;
    return time < gc->now - DAY ? path_remove(path) : 0;
}

static int all_drop(struct gc *gc)
{
    int err = gc->dry_run ? 0 : caches_drop(gc);

    if (err < 0 || (err = packs_drop(gc)) < 0)
        return err;
    return looses_drop(gc);
}

/* While nobody writes. A ref that could not be removed, since a git holds it, is a root again. */
static int settle(struct gc *gc)
{
    AUTO_LOCK(lock);
    int err;

    if ((err = lock_drop(&lock, gc->store)) < 0 ||
        (err = refs_pack(gc->store, gc->trash_from)) < 0 ||
        (err = reflogs_expire(gc->store, gc->trash_from)) < 0 || (err = reach(gc, INT64_MIN)) < 0 ||
        (err = all_drop(gc)) < 0)
        return err;
    git_odb_refresh(gc->store->odb);
    return tree_each(gc->store->path, scrap_visit, gc);
}

static int collect(struct gc *gc)
{
    int err;

    if ((err = graph_init(&gc->graph, gc->store)) < 0 || (err = reach(gc, gc->trash_from)) < 0 ||
        (err = loose_read(&gc->loose, gc->store)) < 0 ||
        (err = packs_read(&gc->packs, gc->store)) < 0 || (err = needed_find(gc)) < 0 ||
        (err = young_find(gc)) < 0)
        return err;
    if (gc->dry_run)
        return all_drop(gc);
    if ((err = bundle_pack(&gc->needed, gc)) < 0 || (err = bundle_pack(&gc->young, gc)) < 0)
        return err;
    return settle(gc);
}

static int result_make(struct gc_result *out, const struct gc *gc, const struct sizes *before)
{
    AUTO_SIZES(after);

    out->before_bytes = out->after_bytes = before->bytes;
    out->dropped = gc->dropped.count;
    for (size_t i = 0; gc->dry_run && i < gc->dropped.count; i++)
        out->after_bytes -= sizes_of(before, &gc->dropped.ids[i]);
    if (gc->dry_run)
        return 0;
    int err = sizes_read(&after, gc->store);
    if (err == 0)
        out->after_bytes = after.bytes;
    return err;
}

int store_gc(struct gc_result *out, struct store *store, const struct gc_request *request)
{
    int64_t now = time(NULL);
    __attribute__((cleanup(gc_release))) struct gc gc = {
        .store = store,
        .progress = request->progress,
        .dry_run = request->dry_run,
        .now = now,
        .keep_from = now - (request->has_expire ? (int64_t)request->expire : OBJECT_AGE),
        .trash_from = now - TRASH_AGE,
    };
    AUTO_LOCK(lock);
    AUTO_SIZES(before);
    int err;

    if (request->has_expire && !request->expire)
        gc.keep_from = INT64_MAX; /* even what this very second has brought */
    if ((err = shallow_refuse(store)) < 0 || (err = worktrees_refuse(store)) < 0 ||
        (!gc.dry_run && (err = lock_pack(&lock, store)) < 0) ||
        (!gc.dry_run && (err = pack_clean(store)) < 0) ||
        (!gc.dry_run && (err = quarantine_clean(store)) < 0) ||
        (err = sizes_read(&before, store)) < 0)
        return err;
    err = collect(&gc);
    if (err == E_CORRUPT || err == E_NOTFOUND) {
        err = error_wrap(E_CORRUPT, "nothing was dropped");
        return error_hint(err, "vera fsck names all that is damaged");
    }
    return err < 0 ? err : result_make(out, &gc, &before);
}
