/*
 * As git does it: packed-refs.lock is made, written, synced and renamed; then each file of a ref is
 * removed under that ref's own lock, if it still says what was packed. A ref's file goes before
 * packed-refs, so at no moment a ref is missing.
 */
#include "store/packed_refs.h"

#include <time.h>

#include "format/file.h"
#include "store/refs.h"

#define PACKED_REFS "packed-refs"
#define HEAD_LINE   "# pack-refs with: peeled fully-peeled sorted \n"
#define REF_BYTES   256 /* of a ref's file: 41, or a symbolic one's name */
#define PAUSE_MS    10u

struct packing {
    struct store *store;
    struct buf lines; /* of packed-refs */
    struct buf names; /* "refs/heads/main\n" ... */
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

static int line_add(void *context, const char *name, const git_oid *target)
{
    struct packing *packing = context;
    git_oid peeled;

    int err = buf_printf(&packing->lines, "%s %s\n", git_oid_tostr_s(target), name);
    if (err < 0 || (err = buf_printf(&packing->names, "%s\n", name)) < 0 ||
        (err = tag_peel(&peeled, packing->store, target)) < 0 || git_oid_equal(&peeled, target))
        return err;
    return buf_printf(&packing->lines, "^%s\n", git_oid_tostr_s(&peeled));
}

/* Replace packed-refs, waiting for a git that is at it. */
static int packed_write(struct store *store, struct bytes lines)
{
    AUTO_FREE(char, path);
    unsigned waited = 0;
    int err = path_join(&path, store->path, PACKED_REFS);

    if (err < 0)
        return err;
    while ((err = file_write_locked(path, lines)) == E_EXISTS && waited < store->wait_ms) {
        struct timespec pause = {.tv_nsec = PAUSE_MS * 1000000};
        nanosleep(&pause, NULL);
        waited += PAUSE_MS;
        if ((err = interrupt_check()) < 0)
            return err;
    }
    if (err == E_EXISTS)
        return error_set(E_CONFLICT, "%s: is locked by a git that is at work", path);
    return err;
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

int refs_pack(struct store *store)
{
    __attribute__((cleanup(refs_moving_end))) struct store_lock lock = {.fd = -1};
    __attribute__((cleanup(packing_release))) struct packing packing = {.store = store};
    int err;

    if ((err = buf_append_text(&packing.lines, HEAD_LINE)) < 0 ||
        (err = refs_each(store, "refs/", line_add, &packing)) < 0)
        return err;
    /* The names are needed before there is a lock; a git may move refs in between, so all is
       listed again. */
    if ((err = buf_append_text(&packing.names, PACKED_REFS "\n")) < 0 ||
        (err = refs_moving_begin(&lock, store, buf_bytes(&packing.names))) < 0)
        return err;
    packing.lines.len = packing.names.len = 0;
    if ((err = buf_append_text(&packing.lines, HEAD_LINE)) < 0 ||
        (err = refs_each(store, "refs/", line_add, &packing)) < 0 ||
        (err = packed_write(store, buf_bytes(&packing.lines))) < 0)
        return err;
    return refs_each(store, "refs/", file_drop, &packing);
}
