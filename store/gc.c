/*
 * Dropping what nothing needs, and packing the rest. See store.h and docs/format.md, "Garbage".
 *
 * Under the exclusive lock, so no version is being written. In this order, so that a process that
 * is killed anywhere leaves every version whole: what is old leaves the trash and the reflogs; what
 * refs, reflogs and HEAD reach is written into one pack, which is synced and read back; only then
 * the loose objects and the packs that it replaces are removed, and what nothing reaches if it is
 * old enough. No object's id changes.
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
#include "store/refs.h"
#include "store/sizes.h"

#define DAY        86400
#define TRASH_AGE  (90 * DAY) /* of trash refs and of lines in reflogs */
#define OBJECT_AGE (30 * DAY) /* of objects that nothing reaches, unless it is given */
#define SCRAP_AGE  DAY        /* of files that a crash left */

struct gc {
    struct store *store;
    bool dry_run;
    int64_t now, object_age;
    struct graph graph;
    struct id_set loose;
    struct packs packs;
    uint64_t dropped;
};

static void gc_release(struct gc *gc)
{
    graph_release(&gc->graph);
    id_set_release(&gc->loose);
    packs_release(&gc->packs);
}

static int shallow_refuse(struct store *store)
{
    AUTO_ID_SET(shallow);

    int err = shallow_read(&shallow, store);
    if (err < 0 || !shallow.count)
        return err;
    err = error_set(E_UNSUPPORTED, "%s: a shallow clone, whose history is elsewhere", store->path);
    return error_hint(err, "git --git-dir=%s fetch --unshallow", store->path);
}

/* Roots */

static int root_add(struct gc *gc, const git_oid *id, bool must_exist)
{
    size_t node;

    if (git_oid_is_zero(id) || (!must_exist && !git_odb_exists(gc->store->odb, id)))
        return 0;
    return graph_root(&node, &gc->graph, id, GIT_OBJECT_ANY);
}

static int ref_visit(void *context, const char *name, const git_oid *target)
{
    struct gc *gc = context;
    time_t time;

    if (gc->dry_run && trash_parse(&time, name) && time < gc->now - TRASH_AGE)
        return 0;
    return root_add(gc, target, true);
}

/* A reflog may name what is gone: git keeps such lines, too. */
static int reflog_visit(void *context, const git_oid *old, const git_oid *now)
{
    int err = root_add(context, old, false);

    return err < 0 ? err : root_add(context, now, false);
}

static int roots_add(struct gc *gc)
{
    git_oid head;
    int err = refs_each(gc->store, "refs/", ref_visit, gc);

    if (err == 0 && git_reference_name_to_id(&head, gc->store->repo, "HEAD") == 0)
        err = root_add(gc, &head, true);
    if (err == 0)
        err = reflogs_each(gc->store, gc->now - TRASH_AGE, reflog_visit, gc);
    return err;
}

static int reach(struct gc *gc)
{
    int err = graph_init(&gc->graph, gc->store);

    if (err == 0 && (err = roots_add(gc)) == 0)
        err = graph_walk(&gc->graph, NULL, NULL);
    if (err == E_CORRUPT) {
        err = error_wrap(err, "nothing was dropped");
        err = error_hint(err, "vera fsck names all that is damaged");
    }
    return err;
}

static bool is_reached(const struct gc *gc, const git_oid *id)
{
    size_t ignored;

    return id_set_find(&ignored, &gc->graph.ids, id);
}

/* Packing */

/* Is there one pack of exactly what is reached, and nothing of it loose? */
static bool is_packed(const struct gc *gc)
{
    size_t ignored, packs = 0;

    for (size_t i = 0; i < gc->packs.count; i++) {
        const struct pack *pack = &gc->packs.packs[i];
        packs += !pack->is_kept;
        if (pack->is_kept)
            continue;
        if (pack->ids.count != gc->graph.ids.count)
            return false;
        for (size_t k = 0; k < pack->ids.count; k++)
            if (!is_reached(gc, &pack->ids.ids[k]))
                return false;
    }
    for (size_t i = 0; i < gc->loose.count; i++)
        if (id_set_find(&ignored, &gc->graph.ids, &gc->loose.ids[i]))
            return false;
    return packs == 1;
}

/* What nothing reaches and is too young goes on as a loose object, as old as its pack. */
static int keep_loose(struct gc *gc, const git_oid *id, int64_t time)
{
    AUTO_GIT(git_odb_object, object);
    AUTO_FREE(char, path);

    int code = git_odb_read(&object, gc->store->odb, id);
    if (code == 0)
        code = gc->store->loose->write(
            gc->store->loose, id, git_odb_object_data(object), git_odb_object_size(object),
            git_odb_object_type(object)
        );
    if (code < 0)
        return git_failed(code, "object %s", git_oid_tostr_s(id));
    int err = loose_path(&path, gc->store, id);
    if (err < 0 || (err = path_set_time(path, time)) < 0)
        return err;
    return path_sync(path);
}

static int pack_drop(struct gc *gc, const struct pack *pack)
{
    int64_t time;
    size_t ignored;

    int err = pack_time(&time, gc->store, pack->name);
    for (size_t i = 0; err == 0 && i < pack->ids.count; i++) {
        const git_oid *id = &pack->ids.ids[i];
        if (is_reached(gc, id) || id_set_find(&ignored, &gc->loose, id))
            continue;
        if (time < gc->now - gc->object_age)
            gc->dropped++;
        else if (!gc->dry_run)
            err = keep_loose(gc, id, time);
    }
    return err < 0 || gc->dry_run ? err : pack_remove(gc->store, pack->name);
}

static int loose_drop(struct gc *gc)
{
    int err = 0;

    for (size_t i = 0; err == 0 && i < gc->loose.count; i++) {
        AUTO_FREE(char, path);
        int64_t time;
        const git_oid *id = &gc->loose.ids[i];
        bool reached = is_reached(gc, id);
        if ((err = loose_path(&path, gc->store, id)) < 0)
            break;
        if (!reached && ((err = path_time(&time, path)) < 0 || time >= gc->now - gc->object_age))
            continue;
        gc->dropped += !reached;
        if (!gc->dry_run)
            err = path_remove(path);
        if (err == 0)
            err = interrupt_check();
    }
    return err;
}

static int pack_all(struct gc *gc)
{
    AUTO_FREE(char, name);
    int err = 0;

    if (!is_packed(gc)) {
        if (!gc->dry_run && gc->graph.ids.count)
            err = pack_write(&name, gc->store, gc->graph.ids.ids, gc->graph.ids.count);
        for (size_t i = 0; err == 0 && i < gc->packs.count; i++) {
            const struct pack *pack = &gc->packs.packs[i];
            if (!pack->is_kept && (!name || strcmp(pack->name, name) != 0))
                err = pack_drop(gc, pack);
        }
    }
    return err < 0 ? err : loose_drop(gc);
}

/* Files that a crash left: objects that were being written, packs without an index. */
static int scrap_visit(void *context, const struct tree_file *file)
{
    struct gc *gc = context;
    const char *name = path_name(file->path);
    AUTO_FREE(char, path);
    int64_t time;

    if (file->is_directory || strncmp(file->path, "objects/", 8) != 0 ||
        (strncmp(name, "tmp_object_git2_", 16) != 0 && strncmp(name, "pack_git2_", 10) != 0 &&
         strncmp(name, "tmp_", 4) != 0))
        return 0;
    int err = path_join(&path, gc->store->path, file->path);
    if (err < 0 || (err = path_time(&time, path)) < 0)
        return err == E_NOTFOUND ? 0 : err;
    return time < gc->now - SCRAP_AGE ? path_remove(path) : 0;
}

static int clean(struct gc *gc)
{
    int err = reach(gc);

    if (err < 0 || (err = loose_read(&gc->loose, gc->store)) < 0 ||
        (err = packs_read(&gc->packs, gc->store)) < 0 || (err = pack_all(gc)) < 0 || gc->dry_run)
        return err;
    if ((err = refs_pack(gc->store)) < 0)
        return err;
    return tree_each(gc->store->path, scrap_visit, gc);
}

static int size_read(uint64_t *out, struct store *store)
{
    AUTO_SIZES(sizes);

    int err = sizes_read(&sizes, store);
    if (err == 0)
        *out = sizes.bytes;
    return err;
}

int store_gc(struct gc_result *out, struct store *store, const struct gc_request *request)
{
    __attribute__((cleanup(gc_release))) struct gc gc = {
        .store = store,
        .dry_run = request->dry_run,
        .now = time(NULL),
        .object_age = request->has_expire ? (int64_t)request->expire : OBJECT_AGE,
    };
    struct gc_result result = {0};
    AUTO_LOCK(lock);
    int err;

    if ((err = shallow_refuse(store)) < 0 || (err = lock_drop(&lock, store)) < 0 ||
        (err = size_read(&result.before_bytes, store)) < 0)
        return err;
    if (!gc.dry_run && ((err = trash_expire(store, gc.now - TRASH_AGE)) < 0 ||
                        (err = reflogs_expire(store, gc.now - TRASH_AGE)) < 0))
        return err;
    if ((err = clean(&gc)) < 0 || (err = size_read(&result.after_bytes, store)) < 0)
        return err;
    result.dropped = gc.dropped;
    *out = result;
    return 0;
}
