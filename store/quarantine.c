/* Where objects from elsewhere arrive. See quarantine.h. */
#include "store/quarantine.h"

#include <stdlib.h>
#include <string.h>

#include "format/file.h"
#include "format/limits.h"
#include "store/pack.h"
#include "store/refs.h"

/* So called, git's own gc clears it away, too. */
#define PREFIX  "tmp_objdir-arriving-"
#define LOCK    "alive"
#define OBJECTS "objects"
#define PACKS   "objects/pack"
#define SHALLOW "shallow"

/* Every fetch of git's own becomes a pack, and none runs a gc. */
#define CONFIG                                                                                     \
    "[core]\n\trepositoryformatversion = 0\n\tbare = true\n"                                       \
    "[fetch]\n\tunpackLimit = 1\n[transfer]\n\tunpackLimit = 1\n[gc]\n\tauto = 0\n"

/* Those of the dead */

/* Is its process alive? What cannot be told is not ours to remove. */
static bool is_dead(const char *path)
{
    AUTO_FREE(char, lock);
    AUTO_FD(fd);
    bool got = false;

    if (path_join(&lock, path, LOCK) < 0 || !path_exists(lock))
        return false; /* in the making, or git's to remove */
    return lock_file_open(&fd, lock) == 0 && lock_byte(&got, fd, 0, true, lock) == 0 && got;
}

static int dead_remove(const char *objects)
{
    AUTO_BUF(names);
    int err = dir_names(&names, objects);

    for (size_t at = 0; err == 0 && at < names.len;) {
        const char *name = (const char *)names.data + at;
        AUTO_FREE(char, path);
        at += strlen(name) + 1;
        if (strncmp(name, PREFIX, strlen(PREFIX)) != 0)
            continue;
        if ((err = path_join(&path, objects, name)) == 0 && is_dead(path))
            err = tree_remove(path);
    }
    return err;
}

int quarantine_clean(struct store *store)
{
    AUTO_FREE(char, objects);

    int err = path_join(&objects, store->path, OBJECTS);
    return err < 0 ? err : dead_remove(objects);
}

/* Making one */

struct naming {
    struct buf refs;
    size_t number;
};

static int ref_name(void *context, const char *name, const git_oid *target)
{
    struct naming *naming = context;

    (void)name;
    return buf_printf(
        &naming->refs, "%s refs/ours/%zu\n", git_oid_tostr_s(target), naming->number++
    );
}

/* What we have is told by these: a server sends what they do not reach. */
static int refs_copy(const char *path, struct store *store)
{
    struct naming naming = {0};
    AUTO_FREE(char, file);

    int err = path_join(&file, path, "packed-refs");
    if (err == 0)
        err = refs_each(store, "refs/", ref_name, &naming);
    if (err == 0)
        err = file_write(file, buf_bytes(&naming.refs));
    buf_release(&naming.refs);
    return err;
}

static int text_write(const char *path, const char *name, const char *text)
{
    AUTO_FREE(char, file);

    int err = path_join(&file, path, name);
    return err < 0 ? err : file_make(file, text_bytes(text));
}

static int folder_make(const char *path, const char *name)
{
    AUTO_FREE(char, folder);

    int err = path_join(&folder, path, name);
    return err < 0 ? err : dir_make(folder);
}

/* Where the histories that `from` has end. Nothing there: 0. */
static int shallow_copy(const char *from, const char *to)
{
    AUTO_FREE(char, source);
    AUTO_FREE(char, target);
    AUTO_BUF(text);
    int err;

    if ((err = path_join(&source, from, SHALLOW)) < 0 ||
        (err = path_join(&target, to, SHALLOW)) < 0 || !path_exists(source) ||
        (err = file_read(&text, source, LIMIT_TEXT)) < 0)
        return err;
    return file_write(target, buf_bytes(&text));
}

static int lock_hold(struct quarantine *quarantine)
{
    AUTO_FREE(char, lock);
    bool got = false;
    int err;

    if ((err = path_join(&lock, quarantine->path, LOCK)) < 0 ||
        (err = lock_file_open(&quarantine->lock, lock)) < 0 ||
        (err = lock_byte(&got, quarantine->lock, 0, true, lock)) < 0)
        return err;
    return got ? 0 : error_set(E_CONFLICT, "%s: is somebody else's", quarantine->path);
}

static int quarantine_fill(struct quarantine *quarantine, struct store *store)
{
    const char *path = quarantine->path;
    int err;

    if ((err = dir_make(path)) < 0 || (err = lock_hold(quarantine)) < 0 ||
        (err = folder_make(path, "refs/heads")) < 0 || (err = folder_make(path, PACKS)) < 0 ||
        (err = folder_make(path, "objects/info")) < 0 ||
        (err = text_write(path, "objects/info/alternates", "../../\n")) < 0 ||
        (err = text_write(path, "config", CONFIG)) < 0 ||
        (err = text_write(path, "HEAD", "ref: refs/heads/arriving\n")) < 0)
        return err;
    if ((err = shallow_copy(store->path, path)) < 0)
        return err;
    return refs_copy(path, store);
}

int quarantine_make(struct quarantine *out, struct store *store)
{
    AUTO_FREE(char, objects);
    int err;

    if ((err = path_join(&objects, store->path, OBJECTS)) < 0 || (err = dead_remove(objects)) < 0 ||
        (err = path_random(&out->path, objects, PREFIX)) < 0)
        return err;
    if ((err = quarantine_fill(out, store)) < 0) {
        error_keep();
        quarantine_release(out);
        err = error_restore(err);
    }
    return err;
}

void quarantine_release(struct quarantine *quarantine)
{
    if (quarantine->path)
        (void)!tree_remove(quarantine->path);
    free(quarantine->path);
    quarantine->path = NULL;
    fd_release(&quarantine->lock);
}

/* What arrived */

int quarantine_objects(struct id_set *out, struct store *quarantined)
{
    AUTO_PACKS(packs);
    size_t ignored;
    int err = packs_read(&packs, quarantined);

    if (err == 0)
        err = loose_read(out, quarantined);
    for (size_t i = 0; err == 0 && i < packs.count; i++) {
        const struct id_set *ids = &packs.packs[i].ids;
        for (size_t k = 0; err == 0 && k < ids->count; k++)
            err = id_set_add(&ignored, NULL, out, &ids->ids[k]);
    }
    return err;
}

static int file_admit(const char *from_folder, const char *to_folder, const char *name)
{
    AUTO_FREE(char, from);
    AUTO_FREE(char, to);
    int err;

    if ((err = path_join(&from, from_folder, name)) < 0 ||
        (err = path_join(&to, to_folder, name)) < 0 || path_exists(to))
        return err; /* the same pack is here already */
    return path_rename(from, to);
}

static bool has_suffix(const char *name, const char *suffix)
{
    size_t length = strlen(name), end = strlen(suffix);

    return length > end && strcmp(name + length - end, suffix) == 0;
}

static int
suffix_admit(const struct buf *names, const char *from, const char *to, const char *suffix)
{
    int err = 0;

    for (size_t at = 0; err == 0 && at < names->len;) {
        const char *name = (const char *)names->data + at;
        at += strlen(name) + 1;
        if (strncmp(name, "pack-", 5) == 0 && has_suffix(name, suffix))
            err = file_admit(from, to, name);
    }
    return err;
}

int quarantine_admit(struct quarantine *quarantine, struct store *store)
{
    AUTO_FREE(char, from);
    AUTO_FREE(char, to);
    AUTO_BUF(names);
    int err;

    if ((err = path_join(&from, quarantine->path, PACKS)) < 0 ||
        (err = path_join(&to, store->path, PACKS)) < 0 || (err = dir_make(to)) < 0 ||
        (err = dir_names(&names, from)) < 0 || (err = tree_sync(from)) < 0 ||
        (err = suffix_admit(&names, from, to, ".pack")) < 0 || (err = path_sync(to)) < 0 ||
        (err = suffix_admit(&names, from, to, ".idx")) < 0 || (err = path_sync(to)) < 0 ||
        (err = shallow_copy(quarantine->path, store->path)) < 0)
        return err;
    return store_renew(store);
}
