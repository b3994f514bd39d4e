#include "store/pack.h"

#include <git2/sys/odb_backend.h>
#include <stdlib.h>
#include <string.h>

#include "format/file.h"
#include "format/limits.h"
#include "store/cruft.h"
#include "store/pack_file.h"

#define PACK_FOLDER   "objects/pack"
#define STAGING       "objects/tmp_objdir-vera" /* so called, git's own gc clears it away, too */
#define INDEX_AT_MOST (2 * GIB)
#define LARGE_OBJECT  MIB /* is compared with no other */
#define LEVEL         6   /* of zlib, but for frames */

/* Names */

static int
path_of(char **out, struct store *store, const char *folder, const char *name, const char *suffix)
{
    AUTO_BUF(path);

    int err = buf_printf(&path, "%s/%s/%s%s", store->path, folder, name, suffix);
    if (err == 0)
        *out = (char *)buf_take(&path).data;
    return err;
}

/* Reading */

struct collecting {
    struct id_set *ids;
    int err; /* ours; libgit2 hands on a number only */
};

static int id_collect(const git_oid *id, void *context)
{
    struct collecting *collecting = context;
    size_t ignored;

    collecting->err = id_set_add(&ignored, NULL, collecting->ids, id);
    return collecting->err;
}

int loose_read(struct id_set *out, struct store *store)
{
    struct collecting collecting = {.ids = out};
    int code = store->loose->foreach (store->loose, id_collect, &collecting);

    if (collecting.err < 0)
        return collecting.err;
    return code < 0 ? git_failed(code, "loose objects") : 0;
}

static int ids_read(struct pack *pack, struct store *store)
{
    AUTO_FREE(char, path);
    AUTO_BUF(data);
    AUTO_PACK_INDEX(index);
    size_t at;
    int err;

    if ((err = path_of(&path, store, PACK_FOLDER, pack->name, ".idx")) < 0 ||
        (err = file_read(&data, path, INDEX_AT_MOST)) < 0 ||
        (err = pack_index_decode(&index, buf_bytes(&data), path)) < 0)
        return err;
    for (size_t i = 0; err == 0 && i < index.count; i++) {
        err = id_set_add(&at, NULL, &pack->ids, &index.entries[i].id);
        if (err == 0 && at != i)
            return error_set(E_CORRUPT, "%s: an object is there twice", path);
    }
    return err;
}

static int times_read(struct pack *pack, struct store *store)
{
    AUTO_FREE(char, path);
    AUTO_BUF(data);

    int err = path_of(&path, store, PACK_FOLDER, pack->name, ".mtimes");
    if (err < 0 || (err = file_read(&data, path, INDEX_AT_MOST)) < 0)
        return err == E_NOTFOUND ? 0 : err;
    pack->is_cruft = true;
    return cruft_decode(&pack->times, pack->ids.count, buf_bytes(&data), path);
}

static int has_beside(bool *out, struct store *store, const char *name, const char *suffix)
{
    AUTO_FREE(char, path);

    int err = path_of(&path, store, PACK_FOLDER, name, suffix);
    if (err == 0)
        *out = path_exists(path);
    return err;
}

static int pack_read(struct pack *pack, struct store *store)
{
    AUTO_FREE(char, path);
    AUTO_FD(fd);
    bool is_kept = false, is_promised = false;
    int err;

    if ((err = path_of(&path, store, PACK_FOLDER, pack->name, ".pack")) < 0 ||
        (err = path_time(&pack->time, path)) < 0 ||
        (err = file_open(&fd, &pack->bytes, path)) < 0 || (err = ids_read(pack, store)) < 0 ||
        (err = times_read(pack, store)) < 0 ||
        (err = has_beside(&is_kept, store, pack->name, ".keep")) < 0 ||
        (err = has_beside(&is_promised, store, pack->name, ".promisor")) < 0)
        return err;
    pack->is_kept = is_kept || is_promised;
    return 0;
}

static void pack_release(struct pack *pack)
{
    free(pack->name);
    id_set_release(&pack->ids);
    free(pack->times);
    *pack = (struct pack){0};
}

void packs_release(struct packs *packs)
{
    for (size_t i = 0; i < packs->count; i++)
        pack_release(&packs->packs[i]);
    free(packs->packs);
    *packs = (struct packs){0};
}

int64_t pack_object_time(const struct pack *pack, size_t index)
{
    return pack->times ? (int64_t)pack->times[index] : pack->time;
}

static bool is_index(const char *name, size_t len)
{
    return len > 9 && memcmp(name, "pack-", 5) == 0 && memcmp(name + len - 4, ".idx", 4) == 0;
}

/* An index whose pack is not there is not looked at by git, either. */
static int pack_take(struct packs *packs, struct store *store, const char *name, size_t len)
{
    struct pack *pack = &packs->packs[packs->count];

    if (!(pack->name = bytes_dup((struct bytes){(const uint8_t *)name, len})))
        return error_wrap(E_NOMEM, "packs");
    int err = pack_read(pack, store);
    if (err == 0)
        packs->count++;
    else
        pack_release(pack);
    return err == E_NOTFOUND ? 0 : err;
}

int packs_read(struct packs *out, struct store *store)
{
    AUTO_PACKS(packs);
    AUTO_BUF(names);
    AUTO_FREE(char, folder);
    size_t most = 0;

    int err = path_join(&folder, store->path, PACK_FOLDER);
    if (err < 0 || (err = dir_names(&names, folder)) < 0)
        return err == E_NOTFOUND ? 0 : err;
    for (size_t i = 0; i < names.len; i++)
        most += names.data[i] == 0;
    if (!(packs.packs = array_new(most, sizeof(*packs.packs))))
        return error_wrap(E_NOMEM, "packs");
    for (size_t at = 0; err == 0 && at < names.len;) {
        const char *name = (const char *)names.data + at;
        size_t len = strlen(name);
        at += len + 1;
        if (is_index(name, len))
            err = pack_take(&packs, store, name, len - 4);
    }
    if (err < 0)
        return err;
    *out = packs;
    packs = (struct packs){0};
    return 0;
}

/* The small objects, by libgit2 */

struct packing {
    struct store *store;
    const struct pack_objects *objects;
    bool *whole; /* by index in objects->ids: compared with no other */
    struct progress *progress;
    uint64_t done, total; /* bytes of contents; each is written, then read */
};

static void packing_release(struct packing *packing)
{
    free(packing->whole);
}

/* "frame", "frame.1" ... */
static bool is_frame_name(const char *name)
{
    return strncmp(name, "frame", 5) == 0 && (name[5] == '\0' || name[5] == '.');
}

static int noise_find(bool *out, struct store *store, const git_oid *id)
{
    AUTO_GIT(git_odb_object, object);

    int code = git_odb_read(&object, store->odb, id);
    if (code < 0)
        return git_failed(code, "object %s", git_oid_tostr_s(id));
    *out = object_is_noise((struct bytes){git_odb_object_data(object), git_odb_object_size(object)}
    );
    return 0;
}

static int object_measure(struct packing *packing, size_t i)
{
    const git_oid *id = &packing->objects->ids.ids[i];
    git_object_t type;
    size_t bytes;

    int code = git_odb_read_header(&bytes, &type, packing->store->odb, id);
    if (code == GIT_ENOTFOUND)
        return error_set(E_CORRUPT, "object %s is missing", git_oid_tostr_s(id));
    if (code < 0)
        return git_failed(code, "object %s", git_oid_tostr_s(id));
    packing->total += 2 * (uint64_t)bytes;
    packing->whole[i] = bytes > LARGE_OBJECT;
    if (packing->objects->names)
        packing->whole[i] |= is_frame_name(packing->objects->names[i]);
    else if (type == GIT_OBJECT_BLOB && bytes <= LARGE_OBJECT)
        return noise_find(&packing->whole[i], packing->store, id);
    return 0;
}

static int objects_measure(struct packing *packing)
{
    size_t count = packing->objects->ids.count;
    int err = 0;

    if (!(packing->whole = array_new(count, sizeof(*packing->whole))))
        return error_wrap(E_NOMEM, "a pack");
    for (size_t i = 0; err == 0 && i < count; i++) {
        if ((err = object_measure(packing, i)) == 0)
            err = interrupt_check();
    }
    return err;
}

static void packing_advance(struct packing *packing, uint64_t bytes)
{
    packing->done += bytes;
    if (packing->done > packing->total) /* damaged, which is seen later */
        packing->done = packing->total;
    progress_update(packing->progress, packing->done, packing->total);
}

static int builder_progress(int stage, uint32_t current, uint32_t total, void *context)
{
    (void)stage;
    (void)current;
    (void)total;
    (void)context;
    return interrupt_check() < 0 ? GIT_EUSER : 0;
}

static int writing_progress(const git_indexer_progress *stats, void *context)
{
    (void)stats;
    (void)context;
    return interrupt_check() < 0 ? GIT_EUSER : 0;
}

static void builder_release(git_packbuilder **builder)
{
    git_packbuilder_free(*builder);
}

static int builder_fill(git_packbuilder *builder, const struct packing *packing)
{
    const struct pack_objects *objects = packing->objects;

    for (size_t i = 0; i < objects->ids.count; i++) {
        if (packing->whole[i])
            continue;
        const git_oid *id = &objects->ids.ids[i];
        int code = git_packbuilder_insert(builder, id, objects->names ? objects->names[i] : NULL);
        if (code < 0)
            return git_failed(code, "object %s", git_oid_tostr_s(id));
    }
    return 0;
}

/* *name, empty where there is no small object: the pack in the staging folder. */
static int small_write(struct buf *name, struct packing *packing)
{
    __attribute__((cleanup(builder_release))) git_packbuilder *builder = NULL;
    AUTO_FREE(char, folder);

    int code = git_packbuilder_new(&builder, packing->store->repo);
    if (code < 0)
        return git_failed(code, "a pack");
    git_packbuilder_set_threads(builder, 1);
    git_packbuilder_set_callbacks(builder, builder_progress, NULL);
    int err = builder_fill(builder, packing);
    if (err < 0 || git_packbuilder_object_count(builder) == 0 ||
        (err = path_join(&folder, packing->store->path, STAGING)) < 0)
        return err;
    code = git_packbuilder_write(builder, folder, 0444, writing_progress, NULL);
    if ((err = interrupt_check()) < 0)
        return err;
    if (code < 0)
        return git_failed(code, "a pack");
    return buf_printf(name, "%s/pack-%s", folder, git_packbuilder_name(builder));
}

/* All of them */

static int whole_add(struct pack_file *file, struct packing *packing, const git_oid *id)
{
    AUTO_GIT(git_odb_object, object);

    int code = git_odb_read(&object, packing->store->odb, id);
    if (code < 0)
        return git_failed(code, "object %s", git_oid_tostr_s(id));
    struct bytes data = {git_odb_object_data(object), git_odb_object_size(object)};
    int level = object_is_noise(data) ? 0 : LEVEL;
    packing_advance(packing, data.len);
    return pack_file_add(file, id, git_odb_object_type(object), data, level);
}

static int wholes_add(struct pack_file *file, struct packing *packing)
{
    int err = 0;

    for (size_t i = 0; err == 0 && i < packing->objects->ids.count; i++) {
        if (packing->whole[i])
            err = whole_add(file, packing, &packing->objects->ids.ids[i]);
    }
    return err;
}

static int objects_write(struct pack_file *file, struct packing *packing, const char *path)
{
    AUTO_BUF(small);
    int err;

    if ((err = objects_measure(packing)) < 0 || (err = small_write(&small, packing)) < 0 ||
        (err = pack_file_begin(file, path, packing->objects->ids.count)) < 0 ||
        (small.len && (err = pack_file_add_pack(file, (const char *)small.data)) < 0) ||
        (err = wholes_add(file, packing)) < 0)
        return err;
    packing->done = packing->total / 2;
    return pack_file_end(file);
}

static int pack_open(git_odb **out, const char *path)
{
    AUTO_BUF(index);
    git_odb_backend *backend = NULL;
    git_odb *odb = NULL;

    int err = buf_printf(&index, "%s.idx", path);
    if (err < 0)
        return err;
    int code = git_odb_backend_one_pack(&backend, (const char *)index.data);
    if (code < 0)
        return git_failed(code, "a pack");
    if ((code = git_odb_new(&odb)) < 0 || (code = git_odb_add_backend(odb, backend, 1)) < 0) {
        git_odb_free(odb);
        backend->free(backend);
        return git_failed(code, "a pack");
    }
    *out = odb;
    return 0;
}

/* All of them are in the pack, and have their ids. `packing` may be NULL. */
static int ids_check(const char *path, const struct id_set *ids, struct packing *packing)
{
    git_odb *odb = NULL;
    int err = pack_open(&odb, path);

    for (size_t i = 0; err == 0 && i < ids->count; i++) {
        AUTO_GIT(git_odb_object, object);
        int code = git_odb_read(&object, odb, &ids->ids[i]);
        if (code == GIT_ENOTFOUND)
            err = error_set(E_CORRUPT, "%s: no object %s", path, git_oid_tostr_s(&ids->ids[i]));
        else if (code < 0)
            err = git_failed(code, "%s: object %s", path, git_oid_tostr_s(&ids->ids[i]));
        else
            err = interrupt_check();
        if (err == 0 && packing)
            packing_advance(packing, git_odb_object_size(object));
    }
    git_odb_free(odb);
    return err;
}

int pack_check(struct store *store, const char *name, const struct id_set *ids)
{
    AUTO_FREE(char, path);

    int err = path_of(&path, store, PACK_FOLDER, name, "");
    return err < 0 ? err : ids_check(path, ids, NULL);
}

static int
times_write(const struct pack_file *file, const struct pack_objects *objects, const char *path)
{
    AUTO_FREE(uint32_t, times);
    AUTO_BUF(name);
    AUTO_BUF(data);
    size_t at, count = file->index.count;
    int err;

    if (!(times = array_new(count, sizeof(*times))))
        return error_wrap(E_NOMEM, "a pack");
    for (size_t i = 0; i < count; i++) {
        if (id_set_find(&at, &objects->ids, &file->index.entries[i].id))
            times[i] = objects->times[at];
    }
    if ((err = buf_printf(&name, "%s.mtimes", path)) < 0 ||
        (err = cruft_encode(&data, times, count, file->index.pack_sha1)) < 0)
        return err;
    return file_write((const char *)name.data, buf_bytes(&data));
}

/* Staging */

int pack_clean(struct store *store)
{
    AUTO_FREE(char, folder);

    int err = path_join(&folder, store->path, STAGING);
    return err < 0 ? err : tree_remove(folder);
}

/* Where a pack is made: the path of one there, owned by the caller. */
static int staging_make(char **out, struct store *store)
{
    AUTO_FREE(char, folder);
    int err;

    if ((err = pack_clean(store)) < 0 || (err = path_join(&folder, store->path, STAGING)) < 0 ||
        (err = dir_make(folder)) < 0)
        return err;
    return path_join(out, folder, "new");
}

/* Where an error is under way it stays. */
static int staging_end(int err, struct store *store)
{
    if (err == 0)
        return pack_clean(store);
    error_keep();
    (void)!pack_clean(store);
    return error_restore(err);
}

/* The index comes last: without it nobody sees a pack. */
static int
pack_publish(char **out_name, struct store *store, const char *path, const uint8_t sha1[SHA1_SIZE])
{
    static const char *const suffixes[] = {".mtimes", ".pack", ".idx"};
    AUTO_BUF(name);
    AUTO_FREE(char, folder);
    git_oid id;
    int err;

    git_oid_fromraw(&id, sha1);
    if ((err = buf_printf(&name, "pack-%s", git_oid_tostr_s(&id))) < 0)
        return err;
    for (size_t i = 0; i < sizeof(suffixes) / sizeof(suffixes[0]); i++) {
        AUTO_BUF(from);
        AUTO_FREE(char, to);
        if ((err = buf_printf(&from, "%s%s", path, suffixes[i])) < 0 ||
            (err = path_of(&to, store, PACK_FOLDER, (const char *)name.data, suffixes[i])) < 0)
            return err;
        if (path_exists((const char *)from.data) &&
            (err = path_rename((const char *)from.data, to)) < 0)
            return err;
    }
    if ((err = path_join(&folder, store->path, PACK_FOLDER)) < 0 || (err = path_sync(folder)) < 0)
        return err;
    git_odb_refresh(store->odb);
    *out_name = (char *)buf_take(&name).data;
    return 0;
}

static int pack_make(char **out_name, struct packing *packing, const char *path)
{
    AUTO_PACK_FILE(file);
    int err;

    if ((err = objects_write(&file, packing, path)) < 0 ||
        (packing->objects->times && (err = times_write(&file, packing->objects, path)) < 0) ||
        (err = ids_check(path, &packing->objects->ids, packing)) < 0)
        return err;
    return pack_publish(out_name, packing->store, path, file.index.pack_sha1);
}

int pack_write(
    char **out_name,
    struct store *store,
    const struct pack_objects *objects,
    struct progress *progress
)
{
    __attribute__((cleanup(packing_release))
    ) struct packing packing = {.store = store, .objects = objects, .progress = progress};
    AUTO_FREE(char, path);

    int err = staging_make(&path, store);
    if (err == 0)
        err = pack_make(out_name, &packing, path);
    return staging_end(err, store);
}

/* Joining */

static int join_make(
    char **out_name,
    struct store *store,
    const struct pack *const *packs,
    size_t count,
    const char *path
)
{
    AUTO_PACK_FILE(file);
    size_t objects = 0;

    for (size_t i = 0; i < count; i++)
        objects += packs[i]->ids.count;
    int err = pack_file_begin(&file, path, objects);
    for (size_t i = 0; err == 0 && i < count; i++) {
        AUTO_FREE(char, from);
        if ((err = path_of(&from, store, PACK_FOLDER, packs[i]->name, "")) == 0)
            err = pack_file_add_pack(&file, from);
    }
    if (err < 0 || (err = pack_file_end(&file)) < 0)
        return err;
    return pack_publish(out_name, store, path, file.index.pack_sha1);
}

int pack_join(char **out_name, struct store *store, const struct pack *const *packs, size_t count)
{
    AUTO_FREE(char, path);

    int err = staging_make(&path, store);
    if (err == 0)
        err = join_make(out_name, store, packs, count, path);
    return staging_end(err, store);
}

/* git's index over several packs would still name it. */
int pack_remove(struct store *store, const char *name)
{
    static const char *const suffixes[] = {".idx", ".rev", ".bitmap", ".mtimes", ".pack"};
    AUTO_FREE(char, over_all);
    int err = path_of(&over_all, store, PACK_FOLDER, "multi-pack-index", "");

    if (err == 0)
        err = path_remove(over_all);
    for (size_t i = 0; err == 0 && i < sizeof(suffixes) / sizeof(suffixes[0]); i++) {
        AUTO_FREE(char, path);
        if ((err = path_of(&path, store, PACK_FOLDER, name, suffixes[i])) == 0)
            err = path_remove(path);
    }
    return err;
}
