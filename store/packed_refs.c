/*
 * As git does it: packed-refs.lock is made, so that no git removes a ref that is about to be
 * packed; all refs are listed into it; it is synced and renamed. Then each file of a ref is removed
 * under that ref's own lock, if it still says what was packed. A ref's file goes before
 * packed-refs, so at no moment a ref is missing, and one that is to go is there until its file has
 * gone, too.
 */
#include "store/packed_refs.h"

#include <string.h>
#include <time.h>

#include "format/file.h"
#include "store/refs.h"

#define PACKED_REFS "packed-refs"
#define HEAD_LINE   "# pack-refs with: peeled fully-peeled sorted \n"
#define REF_BYTES   256 /* of a ref's file: 41, or a symbolic one's name */
#define PAUSE_MS    10u

struct packing {
    struct store *store;
    int64_t before;
    struct buf lines;  /* of packed-refs */
    struct buf names;  /* "refs/heads/main\n" ... */
    const char *noted; /* the part of them that is still to come */
};

static void packing_release(struct packing *packing)
{
    buf_release(&packing->lines);
    buf_release(&packing->names);
}

/* What a chain of annotated tags leads to; the object itself where it is no tag. */
static int tag_peel(git_oid *out, struct store *store, const git_oid *id)
{
    AUTO_GIT(git_object, object);
    AUTO_GIT(git_object, peeled);
    git_object_t type;
    size_t bytes;

    *out = *id;
    int code = git_odb_read_header(&bytes, &type, store->odb, id);
    if (code == 0 && type != GIT_OBJECT_TAG)
        return 0;
    if (code == 0 && (code = git_object_lookup(&object, store->repo, id, type)) == 0 &&
        (code = git_object_peel(&peeled, object, GIT_OBJECT_ANY)) == 0)
        *out = *git_object_id(peeled);
    return code < 0 ? git_failed(code, "object %s", git_oid_tostr_s(id)) : 0;
}

static int name_add(void *context, const char *name, const git_oid *target)
{
    struct packing *packing = context;

    (void)target;
    return buf_printf(&packing->names, "%s\n", name);
}

static bool is_old(const struct packing *packing, const char *name)
{
    time_t time;

    return trash_parse(&time, name) && time < packing->before;
}

static int line_add(void *context, const char *name, const git_oid *target)
{
    struct packing *packing = context;
    git_oid peeled;
    int err;

    if (is_old(packing, name))
        return 0;
    if ((err = buf_printf(&packing->lines, "%s %s\n", git_oid_tostr_s(target), name)) < 0 ||
        (err = tag_peel(&peeled, packing->store, target)) < 0 || git_oid_equal(&peeled, target))
        return err;
    return buf_printf(&packing->lines, "^%s\n", git_oid_tostr_s(&peeled));
}

/* Take packed-refs.lock, waiting for a git that is at it. */
static int packed_lock(const char *path, struct store *store)
{
    AUTO_BUF(lock);
    unsigned waited = 0;
    int err = buf_printf(&lock, "%s.lock", path);

    if (err < 0)
        return err;
    while ((err = file_claim((const char *)lock.data)) == E_EXISTS && waited < store->wait_ms) {
        struct timespec pause = {.tv_nsec = PAUSE_MS * 1000000};
        nanosleep(&pause, NULL);
        waited += PAUSE_MS;
        if ((err = interrupt_check()) < 0)
            return err;
    }
    if (err == E_EXISTS) {
        err = error_set(E_CONFLICT, "%s: is locked by a git that is at work", path);
        return error_hint(err, "if there is none: rm -- '%s'", (const char *)lock.data);
    }
    return err;
}

static int packed_unlock(int err, const char *path)
{
    AUTO_BUF(lock);

    if (err == 0)
        return 0; /* it was renamed */
    error_keep();
    if (buf_printf(&lock, "%s.lock", path) == 0)
        (void)!path_remove((const char *)lock.data);
    return error_restore(err);
}

static int packed_write(struct packing *packing)
{
    AUTO_FREE(char, path);
    struct store *store = packing->store;
    int err;

    if ((err = path_join(&path, store->path, PACKED_REFS)) < 0 ||
        (err = packed_lock(path, store)) < 0)
        return err;
    if ((err = buf_append_text(&packing->lines, HEAD_LINE)) == 0 &&
        (err = refs_each(store, "refs/", line_add, packing)) == 0)
        err = file_write_locked(path, buf_bytes(&packing->lines));
    return packed_unlock(err, path);
}

/* Does the ref's own file say this? One that is symbolic, or not there, does not. */
static int file_says(bool *out, const char *path, const git_oid *target)
{
    AUTO_BUF(text);
    git_oid id;

    int err = file_read(&text, path, REF_BYTES);
    if (err == E_NOTFOUND || err == E_LIMIT || err == E_INVALID)
        return 0;
    if (err == 0)
        *out = text.len >= GIT_OID_HEXSZ &&
               git_oid_fromstrn(&id, (const char *)text.data, GIT_OID_HEXSZ) == 0 &&
               git_oid_equal(&id, target);
    return err;
}

/* Remove the file of a ref that packed-refs has now. Whoever holds its lock changes it: let be. */
static int file_drop(void *context, const char *name, const git_oid *target)
{
    struct packing *packing = context;
    AUTO_BUF(path);
    AUTO_BUF(lock);
    bool says = false;
    int err, unlocked;

    if ((err = buf_printf(&path, "%s/%s", packing->store->path, name)) < 0 ||
        (err = buf_printf(&lock, "%s.lock", (const char *)path.data)) < 0 ||
        (err = file_says(&says, (const char *)path.data, target)) < 0 || !says)
        return err;
    if ((err = file_claim((const char *)lock.data)) < 0)
        return err == E_EXISTS || err == E_NOTFOUND ? 0 : err;
    says = false;
    err = file_says(&says, (const char *)path.data, target);
    if (err == 0 && says)
        err = path_remove((const char *)path.data);
    unlocked = path_remove((const char *)lock.data);
    return err < 0 ? err : unlocked;
}

static int log_drop(struct store *store, const char *name)
{
    AUTO_BUF(path);

    int err = buf_printf(&path, "%s/logs/%s", store->path, name);
    return err < 0 ? err : path_remove((const char *)path.data);
}

/* Was it noted before there was a lock? They come in the same order as then. */
static bool is_noted(struct packing *packing, const char *name)
{
    for (; *packing->noted; packing->noted += strcspn(packing->noted, "\n") + 1) {
        size_t len = strcspn(packing->noted, "\n");
        int order = strncmp(packing->noted, name, len);
        if (order == 0 && name[len] == '\0')
            return true;
        if (order > 0)
            break;
    }
    return false;
}

/* A ref that is in packed-refs now, or old. */
static int ref_visit(void *context, const char *name, const git_oid *target)
{
    struct packing *packing = context;
    int err = interrupt_check();

    if (err < 0 || !is_noted(packing, name) || (err = file_drop(packing, name, target)) < 0)
        return err;
    return is_old(packing, name) ? log_drop(packing->store, name) : 0;
}

static int folder_add(void *context, const struct tree_file *file)
{
    return file->is_directory ? buf_append(context, file->path, strlen(file->path) + 1) : 0;
}

/* Each ref of the trash has folders of its own, which nobody else will use. */
static int trash_sweep(struct store *store, const char *root)
{
    AUTO_BUF(trash);
    AUTO_BUF(folders);
    int err;

    if ((err = buf_printf(&trash, "%s/%s" REF_TRASH, store->path, root)) < 0 ||
        (err = tree_each((const char *)trash.data, folder_add, &folders)) < 0)
        return err == E_NOTFOUND ? 0 : err;
    /* A folder comes before what is in it, so backwards. */
    for (size_t end = folders.len; err == 0 && end > 0;) {
        AUTO_BUF(path);
        size_t begin = end - 1;
        while (begin > 0 && folders.data[begin - 1])
            begin--;
        const char *folder = (const char *)folders.data + begin;
        if ((err = buf_printf(&path, "%s%s", (const char *)trash.data, folder)) == 0)
            err = dir_remove_empty((const char *)path.data);
        end = begin;
    }
    return err;
}

static int files_drop(struct packing *packing)
{
    int err = refs_each(packing->store, "refs/", ref_visit, packing);

    if (err == 0 && (err = trash_sweep(packing->store, "")) == 0)
        err = trash_sweep(packing->store, "logs/");
    return err;
}

int refs_pack(struct store *store, int64_t before)
{
    __attribute__((cleanup(refs_moving_end))) struct store_lock lock = {.fd = -1};
    __attribute__((cleanup(packing_release))
    ) struct packing packing = {.store = store, .before = before};
    int err;

    /* The names are needed before there is a lock; refs that a git makes in between stay files. */
    if ((err = refs_each(store, "refs/", name_add, &packing)) < 0)
        return err;
    size_t refs = packing.names.len;
    if ((err = buf_append_text(&packing.names, PACKED_REFS "\n")) < 0 ||
        (err = refs_moving_begin(&lock, store, buf_bytes(&packing.names))) < 0)
        return err;
    packing.names.len = refs;
    if (!(packing.noted = buf_text(&packing.names)))
        return error_wrap(E_NOMEM, "refs");
    if ((err = packed_write(&packing)) < 0)
        return err;
    if ((err = files_drop(&packing)) < 0)
        lock_release(&lock); /* a lock file may still be there: the names stay */
    return err;
}
