/*
 * Objects: written loose, compared where they are there already, synced together.
 *
 * An object is written into a temporary file, which is renamed. The syncs that make it durable come
 * later, for all files and folders of an operation at once. The same holds for an object that
 * is there already, since whoever wrote it may not have come so far; but not where the tip of the
 * branch that is written to reaches it: the tip moved there after all of that was done.
 *
 * What is there already is read and compared all the same: a new version does not build on what is
 * damaged, it replaces it. And it is touched, so that a git gc at the same time, which deletes what
 * is old and not reachable, leaves it alone.
 */
#include <git2/sys/odb_backend.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <inttypes.h>
#include <zlib.h>

#include "format/file.h"
#include "format/limits.h"
#include "store/loose.h"

#define DEFLATED_AT_ONCE MIB
#define SAMPLE_BYTES     ((size_t)4096)
#define NOISE_BYTES_MIN  (4 * SAMPLE_BYTES)

/* Lists of ids */

static int ids_add(struct object_ids *list, const git_oid *id)
{
    if (list->count == list->capacity) {
        size_t room = list->capacity ? list->capacity * 2 : 32;
        git_oid *grown = realloc(list->ids, room * sizeof(*grown));
        if (!grown)
            return error_set(E_NOMEM, "out of memory for %zu objects", room);
        list->ids = grown;
        list->capacity = room;
    }
    list->ids[list->count++] = *id;
    return 0;
}

static int id_compare(const void *a, const void *b)
{
    return git_oid_cmp(a, b);
}

static void ids_sort(struct object_ids *list)
{
    if (list->count)
        qsort(list->ids, list->count, sizeof(*list->ids), id_compare);
}

static bool ids_have(const struct object_ids *list, const git_oid *id)
{
    return list->count &&
           bsearch(id, list->ids, list->count, sizeof(*list->ids), id_compare) != NULL;
}

void objects_release(struct objects *objects)
{
    free(objects->written.ids);
    free(objects->settled.ids);
    *objects = (struct objects){0};
}

static int
tree_settle(struct objects *objects, struct store *store, const git_oid *id, unsigned depth)
{
    AUTO_GIT(git_tree, tree);
    int err;

    if (depth > LIMIT_PATH_DEPTH + 1 || objects->settled.count > 2 * LIMIT_FILES)
        return 0;
    if ((err = tree_read(&tree, store, id)) < 0)
        return err == E_NOMEM ? err : 0;
    err = ids_add(&objects->settled, id);
    for (size_t i = 0; err == 0 && i < git_tree_entrycount(tree); i++) {
        const git_tree_entry *entry = git_tree_entry_byindex(tree, i);
        if (git_tree_entry_type(entry) == GIT_OBJECT_TREE)
            err = tree_settle(objects, store, git_tree_entry_id(entry), depth + 1);
        else if (git_tree_entry_type(entry) == GIT_OBJECT_BLOB)
            err = ids_add(&objects->settled, git_tree_entry_id(entry));
    }
    return err;
}

int objects_settle(struct objects *objects, struct store *store, const struct commit_id *commit)
{
    AUTO_GIT(git_commit, tip);
    git_oid id = git_id(commit);

    int err = commit_read(&tip, store, &id);
    if (err < 0)
        return err;
    err = tree_settle(objects, store, git_commit_tree_id(tip), 0);
    ids_sort(&objects->settled);
    return err;
}

/* Writing */

enum presence { OBJECT_MISSING, OBJECT_DAMAGED, OBJECT_WHOLE };

static enum presence
backend_look(git_odb_backend *backend, const git_oid *id, git_object_t type, struct bytes data)
{
    git_object_t found_type = GIT_OBJECT_INVALID;
    enum presence presence = OBJECT_DAMAGED;
    void *found = NULL;
    size_t bytes = 0;

    if (!backend->exists(backend, id))
        return OBJECT_MISSING;
    /* The size first: what a damaged header claims is not allocated. */
    if (backend->read_header(&bytes, &found_type, backend, id) < 0 || bytes != data.len ||
        found_type != type || backend->read(&found, &bytes, &found_type, backend, id) < 0)
        return OBJECT_DAMAGED;
    if (found_type == type && bytes_equal((struct bytes){found, bytes}, data))
        presence = OBJECT_WHOLE;
    git_odb_backend_data_free(backend, found);
    return presence;
}

/* On the disk as it is: libgit2 would find what it has in memory, though it may have been dropped
   since. Without looking for new packs: what another has packed is written once more. */
static enum presence
object_look(struct store *store, const git_oid *id, git_object_t type, struct bytes data)
{
    enum presence presence = OBJECT_MISSING;

    for (size_t i = 0; presence == OBJECT_MISSING && i < git_odb_num_backends(store->odb); i++) {
        git_odb_backend *backend = NULL;
        if (git_odb_get_backend(&backend, store->odb, i) == 0)
            presence = backend_look(backend, id, type, data);
    }
    return presence;
}

static void object_freshen(struct store *store, const git_oid *id)
{
    for (size_t i = 0; i < git_odb_num_backends(store->odb); i++) {
        git_odb_backend *backend = NULL;
        if (git_odb_get_backend(&backend, store->odb, i) == 0 && backend->freshen)
            (void)!backend->freshen(backend, id);
    }
}

bool object_is_noise(struct bytes data)
{
    uint8_t out[2 * SAMPLE_BYTES];
    uLongf len = sizeof(out);

    if (data.len < NOISE_BYTES_MIN)
        return false;
    const uint8_t *sample = data.data + (data.len - SAMPLE_BYTES) / 2;
    return compress2(out, &len, sample, SAMPLE_BYTES, Z_BEST_SPEED) == Z_OK &&
           len > SAMPLE_BYTES - SAMPLE_BYTES / 32;
}

/* Streamed by libgit2, which needs no memory for it. */
static int put_streamed(
    uint64_t *out_bytes,
    struct store *store,
    const git_oid *id,
    git_object_t type,
    struct bytes data
)
{
    AUTO_FREE(char, path);
    AUTO_FD(fd);

    int err = loose_path(&path, store, id);
    if (err < 0)
        return err;
    int code = store->loose->write(store->loose, id, data.data, data.len, type);
    return code < 0 ? git_failed(code, "%s", path) : file_open(&fd, out_bytes, path);
}

static int object_put(
    struct written *written,
    struct store *store,
    git_object_t type,
    struct bytes data,
    enum loose_form form,
    bool replaces
)
{
    int err;

    if (form == LOOSE_DEFLATED && object_is_noise(data))
        form = LOOSE_STORED;
    if (form == LOOSE_DEFLATED && data.len > DEFLATED_AT_ONCE)
        err = put_streamed(&written->bytes, store, &written->id, type, data);
    else
        err = loose_write(&written->bytes, store, &written->id, type, data, form);
    if (err == 0 && replaces && object_look(store, &written->id, type, data) != OBJECT_WHOLE)
        return error_set(
            E_CORRUPT, "object %s is damaged in a pack, and goes before the copy that was written",
            git_oid_tostr_s(&written->id)
        );
    return err;
}

/* Write it under its id, or find it there. */
static int object_keep(
    struct written *written,
    const struct objects *objects,
    struct store *store,
    git_object_t type,
    struct bytes data,
    enum loose_form form
)
{
    enum presence presence = object_look(store, &written->id, type, data);

    if (presence != OBJECT_WHOLE)
        return object_put(written, store, type, data, form, presence == OBJECT_DAMAGED);
    if (!(written->is_settled = ids_have(&objects->settled, &written->id)))
        object_freshen(store, &written->id);
    return 0;
}

int objects_add(struct objects *objects, const struct written *written)
{
    objects->bytes += written->bytes;
    return written->is_settled ? 0 : ids_add(&objects->written, &written->id);
}

int objects_keep(struct objects *objects, struct store *store, const git_oid *id)
{
    if (ids_have(&objects->settled, id))
        return 0;
    object_freshen(store, id);
    return ids_add(&objects->written, id);
}

int object_write(
    git_oid *out, struct objects *objects, struct store *store, git_object_t type, struct bytes data
)
{
    struct written written = {.bytes = 0};
    const void *from = data.len ? (const void *)data.data : "";
    int err;

    int code = git_odb_hash(&written.id, from, data.len, type);
    if (code < 0)
        return git_failed(code, "an object of %zu bytes", data.len);
    if ((err = object_keep(&written, objects, store, type, data, LOOSE_DEFLATED)) == 0 &&
        (err = objects_add(objects, &written)) == 0)
        *out = written.id;
    return err;
}

int frame_write(
    struct written *out, const struct objects *objects, struct store *store, struct bytes frame
)
{
    struct written written = {.bytes = 0};

    int err = loose_id(&written.id, GIT_OBJECT_BLOB, frame);
    if (err == 0)
        err = object_keep(&written, objects, store, GIT_OBJECT_BLOB, frame, LOOSE_STORED);
    if (err == 0)
        *out = written;
    return err;
}

/* Syncing */

/* Add an object's file and, where it is another than the last one's, its folder. */
static int paths_add(struct buf *paths, struct store *store, const git_oid *id, bool new_folder)
{
    AUTO_FREE(char, path);
    AUTO_FREE(char, dir);
    int err;

    if ((err = loose_path(&path, store, id)) < 0 ||
        (err = buf_append(paths, path, strlen(path) + 1)) < 0 || !new_folder ||
        (err = path_parent(&dir, path)) < 0)
        return err;
    return buf_append(paths, dir, strlen(dir) + 1);
}

int objects_paths(struct buf *out, struct objects *objects, struct store *store)
{
    AUTO_FREE(char, folder);
    const struct object_ids *list = &objects->written;
    int err = 0;

    ids_sort(&objects->written);
    for (size_t i = 0; err == 0 && i < list->count; i++) {
        bool new_folder = i == 0 || list->ids[i].id[0] != list->ids[i - 1].id[0];
        err = paths_add(out, store, &list->ids[i], new_folder);
    }
    if (err < 0 || !list->count)
        return err;
    /* init has made these folders, but git's gc removes those that it empties. */
    if ((err = path_join(&folder, store->path, "objects")) < 0)
        return err;
    return buf_append(out, folder, strlen(folder) + 1);
}

int objects_sync(struct objects *objects, struct store *store)
{
    AUTO_BUF(paths);
    int err = objects_paths(&paths, objects, store);

    /* What is only in a pack was synced with it, and is not there as a file. */
    return err < 0 ? err : paths_sync(buf_bytes(&paths));
}

/* Reading */

static int read_failed(int code, const git_oid *id, const char *what)
{
    const char *hex = git_oid_tostr_s(id);

    if (code == GIT_ENOTFOUND)
        return error_set(E_CORRUPT, "object %s (%s) is missing", hex, what);
    return git_failed(code, "object %s (%s)", hex, what);
}

static int header_check(
    struct store *store, const git_oid *id, git_object_t type, uint64_t limit, const char *what
)
{
    git_object_t found = GIT_OBJECT_INVALID;
    size_t bytes = 0;

    int code = git_odb_read_header(&bytes, &found, store->odb, id);
    if (code < 0)
        return read_failed(code, id, what);
    if (found != type)
        return error_set(
            E_CORRUPT, "object %s (%s) is a %s, not a %s", git_oid_tostr_s(id), what,
            git_object_type2string(found), git_object_type2string(type)
        );
    if (bytes > limit)
        return error_set(
            E_LIMIT, "object %s (%s) has %zu bytes, at most %" PRIu64 " are allowed",
            git_oid_tostr_s(id), what, bytes, limit
        );
    return 0;
}

int object_read(
    struct buf *out,
    struct store *store,
    const git_oid *id,
    git_object_t type,
    uint64_t limit,
    const char *what
)
{
    AUTO_GIT(git_odb_object, object);
    AUTO_BUF(data);
    bool found = false;

    int err = loose_find(&found, out, store, id, type, limit);
    if (err < 0 || found || (err = header_check(store, id, type, limit, what)) < 0)
        return err;
    int code = git_odb_read(&object, store->odb, id);
    if (code < 0)
        return read_failed(code, id, what);
    /* libgit2 has compared the id; header and contents are two looks at the disk. */
    if (git_odb_object_type(object) != type || git_odb_object_size(object) > limit)
        return error_set(E_CORRUPT, "object %s (%s) changes", git_oid_tostr_s(id), what);
    err = buf_reserve(&data, git_odb_object_size(object));
    if (err == 0)
        err = buf_append(&data, git_odb_object_data(object), git_odb_object_size(object));
    if (err == 0)
        *out = buf_take(&data);
    return err;
}

int commit_read(git_commit **out, struct store *store, const git_oid *id)
{
    int err = header_check(store, id, GIT_OBJECT_COMMIT, LIMIT_TEXT, "a commit");

    if (err < 0)
        return err;
    int code = git_commit_lookup(out, store->repo, id);
    return code < 0 ? read_failed(code, id, "a commit") : 0;
}

int tree_read(git_tree **out, struct store *store, const git_oid *id)
{
    int err = header_check(store, id, GIT_OBJECT_TREE, LIMIT_TEXT, "a tree");

    if (err < 0)
        return err;
    int code = git_tree_lookup(out, store->repo, id);
    return code < 0 ? read_failed(code, id, "a tree") : 0;
}
