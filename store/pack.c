#include "store/pack.h"

#include <git2/sys/odb_backend.h>
#include <stdlib.h>
#include <string.h>

#include "format/file.h"

#define PACK_FOLDER "objects/pack"

/* Names */

static int pack_path(char **out, struct store *store, const char *name, const char *suffix)
{
    AUTO_BUF(path);

    int err = buf_printf(&path, "%s/" PACK_FOLDER "/%s%s", store->path, name, suffix);
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

static int ids_collect(struct id_set *out, git_odb_backend *backend, const char *what)
{
    struct collecting collecting = {.ids = out};
    int code = backend->foreach (backend, id_collect, &collecting);

    if (collecting.err < 0)
        return collecting.err;
    return code < 0 ? git_failed(code, "%s", what) : 0;
}

int loose_read(struct id_set *out, struct store *store)
{
    return ids_collect(out, store->loose, "loose objects");
}

static int pack_open(git_odb_backend **out, struct store *store, const char *name)
{
    AUTO_FREE(char, index);

    int err = pack_path(&index, store, name, ".idx");
    if (err < 0)
        return err;
    int code = git_odb_backend_one_pack(out, index);
    return code < 0 ? git_failed(code, "%s", name) : 0;
}

static int pack_read(struct pack *pack, struct store *store)
{
    git_odb_backend *backend = NULL;
    AUTO_FREE(char, folder);
    AUTO_BUF(keep);

    int err = pack_open(&backend, store, pack->name);
    if (err < 0)
        return err;
    err = ids_collect(&pack->ids, backend, pack->name);
    backend->free(backend);
    if (err < 0 || (err = buf_printf(&keep, "%s.keep", pack->name)) < 0 ||
        (err = path_join(&folder, store->path, PACK_FOLDER)) < 0)
        return err;
    pack->is_kept = dir_has(folder, (const char *)keep.data);
    return 0;
}

void packs_release(struct packs *packs)
{
    for (size_t i = 0; i < packs->count; i++) {
        free(packs->packs[i].name);
        id_set_release(&packs->packs[i].ids);
    }
    free(packs->packs);
    *packs = (struct packs){0};
}

static bool is_index(const char *name, size_t len)
{
    return len > 9 && memcmp(name, "pack-", 5) == 0 && memcmp(name + len - 4, ".idx", 4) == 0;
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
    for (size_t at = 0; at < names.len;) {
        const char *name = (const char *)names.data + at;
        size_t len = strlen(name);
        at += len + 1;
        if (!is_index(name, len))
            continue;
        struct pack *pack = &packs.packs[packs.count++];
        pack->name = bytes_dup((struct bytes){(const uint8_t *)name, len - 4});
        if (!pack->name)
            return error_wrap(E_NOMEM, "packs");
        if ((err = pack_read(pack, store)) < 0)
            return err;
    }
    *out = packs;
    packs = (struct packs){0};
    return 0;
}

int pack_time(int64_t *out, struct store *store, const char *name)
{
    AUTO_FREE(char, path);

    int err = pack_path(&path, store, name, ".pack");
    return err < 0 ? err : path_time(out, path);
}

/* Writing */

static int builder_progress(int stage, uint32_t current, uint32_t total, void *context)
{
    (void)stage;
    (void)current;
    (void)total;
    (void)context;
    return interrupt_check() < 0 ? GIT_EUSER : 0;
}

static void builder_release(git_packbuilder **builder)
{
    git_packbuilder_free(*builder);
}

static int builder_fill(git_packbuilder *builder, const git_oid *ids, size_t count)
{
    for (size_t i = 0; i < count; i++) {
        int code = git_packbuilder_insert(builder, &ids[i], NULL);
        if (code < 0)
            return git_failed(code, "object %s", git_oid_tostr_s(&ids[i]));
    }
    return 0;
}

/* All of them are in the pack, and have their ids. */
static int pack_verify(struct store *store, const char *name, const git_oid *ids, size_t count)
{
    git_odb_backend *backend = NULL;
    git_odb *odb = NULL;
    int err = pack_open(&backend, store, name), code;

    if (err < 0)
        return err;
    if ((code = git_odb_new(&odb)) < 0 || (code = git_odb_add_backend(odb, backend, 1)) < 0) {
        git_odb_free(odb);
        backend->free(backend);
        return git_failed(code, "%s", name);
    }
    for (size_t i = 0; err == 0 && i < count; i++) {
        AUTO_GIT(git_odb_object, object);
        if ((code = git_odb_read(&object, odb, &ids[i])) < 0)
            err = git_failed(code, "%s: object %s", name, git_oid_tostr_s(&ids[i]));
        else
            err = interrupt_check();
    }
    git_odb_free(odb);
    return err;
}

static int pack_sync(struct store *store, const char *name)
{
    AUTO_FREE(char, pack);
    AUTO_FREE(char, index);
    AUTO_FREE(char, folder);
    int err;

    if ((err = pack_path(&pack, store, name, ".pack")) < 0 ||
        (err = pack_path(&index, store, name, ".idx")) < 0 ||
        (err = path_join(&folder, store->path, PACK_FOLDER)) < 0 || (err = path_sync(pack)) < 0 ||
        (err = path_sync(index)) < 0)
        return err;
    return path_sync(folder);
}

int pack_write(char **out_name, struct store *store, const git_oid *ids, size_t count)
{
    __attribute__((cleanup(builder_release))) git_packbuilder *builder = NULL;
    AUTO_BUF(name);

    int code = git_packbuilder_new(&builder, store->repo);
    if (code < 0)
        return git_failed(code, "a pack");
    git_packbuilder_set_threads(builder, 1);
    git_packbuilder_set_callbacks(builder, builder_progress, NULL);
    int err = builder_fill(builder, ids, count);
    if (err < 0)
        return err;
    code = git_packbuilder_write(builder, NULL, 0444, NULL, NULL);
    if ((err = interrupt_check()) < 0)
        return err;
    if (code < 0)
        return git_failed(code, "a pack");
    if ((err = buf_printf(&name, "pack-%s", git_packbuilder_name(builder))) < 0 ||
        (err = pack_sync(store, (const char *)name.data)) < 0 ||
        (err = pack_verify(store, (const char *)name.data, ids, count)) < 0)
        return err;
    git_odb_refresh(store->odb);
    *out_name = (char *)buf_take(&name).data;
    return 0;
}

int pack_remove(struct store *store, const char *name)
{
    static const char *const suffixes[] = {".idx", ".rev", ".bitmap", ".mtimes", ".pack"};
    int err = 0;

    for (size_t i = 0; err == 0 && i < sizeof(suffixes) / sizeof(suffixes[0]); i++) {
        AUTO_FREE(char, path);
        if ((err = pack_path(&path, store, name, suffixes[i])) == 0)
            err = path_remove(path);
    }
    return err;
}
