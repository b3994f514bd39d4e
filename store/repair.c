/*
 * Fetching whole, from another repository, what is damaged or missing in this one. See store.h.
 *
 * An object's id says what it must be, so any repository that has it will do. It is written as a
 * loose object, and what it leads to and is missing here is fetched as well. One that is damaged
 * inside a pack would go before that, so its pack is taken apart: everything in it becomes a loose
 * object, and only when all of them are synced the pack goes.
 */
#include <git2/sys/odb_backend.h>
#include <stdlib.h>
#include <string.h>

#include "format/file.h"
#include "store/loose.h"
#include "store/pack.h"
#include "store/url.h"

struct repair {
    struct store *store, *other;
    struct packs packs;
    struct id_set loose;  /* at the beginning, and what was written since */
    struct id_set wanted; /* to be fetched: what fsck named, and what that leads to */
    struct objects objects;
    struct buf mended; /* struct commit_id, one after the other */
};

static void repair_release(struct repair *repair)
{
    store_free(repair->other);
    packs_release(&repair->packs);
    id_set_release(&repair->loose);
    id_set_release(&repair->wanted);
    objects_release(&repair->objects);
    buf_release(&repair->mended);
}

void repair_result_release(struct repair_result *result)
{
    free(result->ids);
    *result = (struct repair_result){0};
}

/* The other repository */

/* The URL of a remote of that name, or the text itself. (git_remote_lookup() of libgit2 1.5 leaks.)
 */
static int remote_path(char **out, struct store *store, const char *text)
{
    AUTO_GIT(git_config, config);
    AUTO_BUF(key);
    git_buf url = {0};

    int err = buf_printf(&key, "remote.%s.url", text);
    if (err < 0)
        return err;
    if (git_repository_config(&config, store->repo) == 0 &&
        git_config_get_string_buf(&url, config, (const char *)key.data) == 0)
        *out = bytes_dup(text_bytes(url.ptr));
    else
        *out = bytes_dup(text_bytes(text));
    git_buf_dispose(&url);
    if (!*out)
        return error_wrap(E_NOMEM, "%s", text);
    if (strncmp(*out, "file://", 7) == 0)
        memmove(*out, *out + 7, strlen(*out + 7) + 1);
    if (!strstr(*out, "://"))
        return 0;
    AUTO_FREE(char, shown);
    if ((err = url_shown(&shown, *out)) < 0)
        return err;
    err = error_set(E_UNSUPPORTED, "%s: only a repository on this machine will do", shown);
    return error_hint(err, "git clone --mirror %s COPY, then --repair COPY", shown);
}

static int other_open(struct repair *repair, const char *text)
{
    AUTO_FREE(char, path);
    AUTO_FREE(char, inner);
    int err;

    if ((err = remote_path(&path, repair->store, text)) < 0 ||
        (err = path_join(&inner, path, ".vera")) < 0)
        return err;
    err = store_open(&repair->other, ".", dir_has(inner, "HEAD") ? inner : path);
    return err < 0 ? error_hint(err, "give a directory that holds .vera, or a clone of it") : 0;
}

/* Objects */

/* From this repository where it is whole, else from the other. */
static int object_find(git_odb_object **out, struct repair *repair, const git_oid *id)
{
    int code = git_odb_read(out, repair->store->odb, id);

    if (code < 0)
        code = git_odb_read(out, repair->other->odb, id);
    if (code == GIT_ENOTFOUND)
        return error_set(E_NOTFOUND, "object %s", git_oid_tostr_s(id));
    return code < 0 ? git_failed(code, "object %s", git_oid_tostr_s(id)) : 0;
}

static int object_make_loose(struct repair *repair, const git_oid *id, git_odb_object *object)
{
    const struct bytes data = {git_odb_object_data(object), git_odb_object_size(object)};
    struct written written = {.id = *id};
    size_t ignored;

    int err = loose_write(
        &written.bytes, repair->store, id, git_odb_object_type(object), data, LOOSE_DEFLATED
    );
    if (err < 0 || (err = objects_add(&repair->objects, &written)) < 0)
        return err;
    return id_set_add(&ignored, NULL, &repair->loose, id);
}

static int want_if_missing(struct repair *repair, const git_oid *id)
{
    size_t ignored;

    return git_odb_exists(repair->store->odb, id) ? 0
                                                  : id_set_add(&ignored, NULL, &repair->wanted, id);
}

static int tree_follow(struct repair *repair, const git_oid *id)
{
    AUTO_GIT(git_tree, tree);
    int err = 0;

    if (git_tree_lookup(&tree, repair->other->repo, id) < 0)
        return 0;
    for (size_t i = 0; err == 0 && i < git_tree_entrycount(tree); i++)
        err = want_if_missing(repair, git_tree_entry_id(git_tree_entry_byindex(tree, i)));
    return err;
}

static int commit_follow(struct repair *repair, const git_oid *id)
{
    AUTO_GIT(git_commit, commit);
    int err;

    if (git_commit_lookup(&commit, repair->other->repo, id) < 0)
        return 0;
    err = want_if_missing(repair, git_commit_tree_id(commit));
    for (unsigned i = 0; err == 0 && i < git_commit_parentcount(commit); i++)
        err = want_if_missing(repair, git_commit_parent_id(commit, i));
    return err;
}

/* What the other has not, or not whole either, stays as it is. */
static int object_mend(struct repair *repair, const git_oid id)
{
    AUTO_GIT(git_odb_object, object);
    const struct commit_id mended = commit_id_of(&id);

    if (git_odb_read(&object, repair->other->odb, &id) < 0)
        return 0;
    int err = object_make_loose(repair, &id, object);
    if (err < 0 || (err = buf_append(&repair->mended, &mended, sizeof(mended))) < 0)
        return err;
    if (git_odb_object_type(object) == GIT_OBJECT_TREE)
        return tree_follow(repair, &id);
    return git_odb_object_type(object) == GIT_OBJECT_COMMIT ? commit_follow(repair, &id) : 0;
}

/* Packs */

static bool is_mended(const struct repair *repair, const struct pack *pack)
{
    for (size_t at = 0; at < repair->mended.len; at += sizeof(struct commit_id)) {
        struct commit_id mended;
        size_t ignored;
        memcpy(&mended, repair->mended.data + at, sizeof(mended));
        git_oid id = git_id(&mended);
        if (id_set_find(&ignored, &pack->ids, &id))
            return true;
    }
    return false;
}

/* Everything in it as loose objects. *whole false where one of them is nowhere to be had: then the
   pack must stay. */
static int pack_take_apart(bool *whole, struct repair *repair, const struct pack *pack)
{
    *whole = true;
    for (size_t i = 0; i < pack->ids.count; i++) {
        const git_oid *id = &pack->ids.ids[i];
        AUTO_GIT(git_odb_object, object);
        size_t ignored;
        if (id_set_find(&ignored, &repair->loose, id))
            continue;
        int err = object_find(&object, repair, id);
        if (err == E_NOMEM || (err == 0 && (err = object_make_loose(repair, id, object)) < 0))
            return err;
        if (err < 0)
            *whole = false;
        if ((err = interrupt_check()) < 0)
            return err;
    }
    return 0;
}

static int packs_mend(struct repair *repair)
{
    int err = 0;

    for (size_t i = 0; err == 0 && i < repair->packs.count; i++) {
        const struct pack *pack = &repair->packs.packs[i];
        bool whole = false;
        if (!is_mended(repair, pack))
            continue;
        if ((err = pack_take_apart(&whole, repair, pack)) < 0 || !whole ||
            (err = objects_sync(&repair->objects, repair->store)) < 0)
            continue;
        err = pack_remove(repair->store, pack->name);
    }
    return err;
}

static int repair_all(struct repair *repair, const struct fsck_report *report)
{
    int err;

    if ((err = packs_read(&repair->packs, repair->store)) < 0 ||
        (err = loose_read(&repair->loose, repair->store)) < 0)
        return err;
    for (size_t i = 0; i < report->bad_count; i++) {
        size_t ignored;
        git_oid id;
        if (strlen(report->bad[i].object) == GIT_OID_HEXSZ &&
            git_oid_fromstr(&id, report->bad[i].object) == 0 &&
            (err = id_set_add(&ignored, NULL, &repair->wanted, &id)) < 0)
            return err;
    }
    for (size_t i = 0; i < repair->wanted.count; i++) {
        if ((err = object_mend(repair, repair->wanted.ids[i])) < 0 || (err = interrupt_check()) < 0)
            return err;
    }
    if ((err = objects_sync(&repair->objects, repair->store)) < 0)
        return err;
    return packs_mend(repair);
}

int store_repair(
    struct repair_result *out,
    struct store *store,
    const char *remote,
    const struct fsck_report *report
)
{
    __attribute__((cleanup(repair_release))) struct repair repair = {.store = store};
    AUTO_LOCK(lock);
    int err;

    if ((err = other_open(&repair, remote)) < 0 || (err = lock_drop(&lock, store)) < 0 ||
        (err = repair_all(&repair, report)) < 0)
        return err;
    git_odb_refresh(store->odb);
    *out = (struct repair_result){.count = repair.mended.len / sizeof(*out->ids)};
    out->ids = (struct commit_id *)(void *)buf_take(&repair.mended).data;
    return 0;
}
