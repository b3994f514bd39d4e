/*
 * A snapshot into the tree of a version. See internal.h and docs/format.md, "The tree of a
 * version".
 *
 * Equal parts are equal blobs, so they cost nothing a second time.
 */
#include <string.h>

#include "store/entries.h"
#include "store/payload.h"

/* A growing tree, and what is needed to write below it. */
struct writing {
    struct store *store;
    struct objects *objects;
    const struct snapshot *snapshot;
    struct tree_entry root[8];
    size_t count;
};

static int blob_add(
    struct tree_entry *entries,
    size_t *count,
    struct writing *writing,
    const char *name,
    const struct buf *data
)
{
    struct tree_entry entry = {.name = name};

    int err = object_write(
        &entry.id, writing->objects, writing->store, GIT_OBJECT_BLOB, buf_bytes(data)
    );
    if (err == 0)
        entries[(*count)++] = entry;
    return err;
}

static int
tree_add(struct writing *writing, const char *name, struct tree_entry *entries, size_t count)
{
    struct tree_entry entry = {.name = name, .is_tree = true};

    if (!count)
        return 0;
    int err = tree_write(&entry.id, writing->objects, writing->store, entries, count);
    if (err == 0)
        writing->root[writing->count++] = entry;
    return err;
}

/* files/ */

/* The folder of the files [begin, end), whose paths have the first `prefix` bytes in common. */
static int
folder_write(git_oid *out, struct writing *writing, size_t begin, size_t end, size_t prefix)
{
    const struct adapter_file *files = writing->snapshot->files;
    AUTO_FREE(struct tree_entry, entries);
    AUTO_FREE(char, names);
    size_t count = 0, room = 0;
    int err = 0;

    for (size_t i = begin; i < end; i++)
        room += strlen(files[i].path) + 1;
    if (!(entries = array_new(end - begin, sizeof(*entries))) || !(names = array_new(room, 1)))
        return error_wrap(E_NOMEM, "files");
    char *name = names;
    for (size_t i = begin, next; err == 0 && i < end; i = next) {
        const char *rest = files[i].path + prefix;
        size_t len = strcspn(rest, "/");
        memcpy(name, rest, len);
        next = i + 1;
        if (!rest[len]) {
            err = blob_add(entries, &count, writing, name, &files[i].data);
        } else {
            /* Those of one folder stand together: paths are in byte order. */
            while (next < end && strncmp(files[next].path + prefix, rest, len + 1) == 0)
                next++;
            entries[count] = (struct tree_entry){.name = name, .is_tree = true};
            err = folder_write(&entries[count++].id, writing, i, next, prefix + len + 1);
        }
        name += len + 1;
        if (err == 0)
            err = interrupt_check();
    }
    return err < 0 ? err : tree_write(out, writing->objects, writing->store, entries, count);
}

static int files_add(struct writing *writing)
{
    struct tree_entry entry = {.name = "files", .is_tree = true};

    if (!writing->snapshot->file_count)
        return 0;
    int err = folder_write(&entry.id, writing, 0, writing->snapshot->file_count, 0);
    if (err == 0)
        writing->root[writing->count++] = entry;
    return err;
}

/* basis/ and model/ */

static int basis_add(struct writing *writing, const struct recipe *recipe)
{
    struct tree_entry entries[2];
    char names[2][DIGEST_HEX_SIZE];
    size_t count = 0;
    int err;

    if (recipe->state != BASIS_STORED)
        return 0;
    digest_hex(names[0], &recipe->sha256_a);
    digest_hex(names[1], &recipe->sha256_b);
    err = blob_add(entries, &count, writing, names[0], &writing->snapshot->a);
    if (err == 0 && !digest_equal(&recipe->sha256_a, &recipe->sha256_b))
        err = blob_add(entries, &count, writing, names[1], &writing->snapshot->b);
    return err < 0 ? err : tree_add(writing, "basis", entries, count);
}

static int model_add(struct writing *writing)
{
    struct tree_entry entries[2];
    size_t count = 0;
    int err = 0;

    if (!writing->snapshot->pin.len)
        return 0;
    if (writing->snapshot->model_config.len)
        err = blob_add(entries, &count, writing, "config.json", &writing->snapshot->model_config);
    if (err == 0)
        err = blob_add(entries, &count, writing, "pin", &writing->snapshot->pin);
    return err < 0 ? err : tree_add(writing, "model", entries, count);
}

static int vectors_add(
    struct frame_summary *frame,
    struct writing *writing,
    const struct loaded_adapter *loaded,
    const struct commit_id *parent
)
{
    struct tree_entry entry = {.name = "vectors", .is_tree = true};

    int err = vectors_write(
        &entry.id, frame, writing->objects, writing->store, loaded, parent, false
    );
    if (err == 0)
        writing->root[writing->count++] = entry;
    return err;
}

int snapshot_write(
    git_oid *out,
    struct frame_summary *frame,
    struct objects *objects,
    struct store *store,
    const struct loaded_adapter *loaded,
    const struct commit_id *parent
)
{
    const struct snapshot *snapshot = loaded->snapshot;
    struct writing writing = {.store = store, .objects = objects, .snapshot = snapshot};
    struct tree_entry *root = writing.root;
    int err;

    if ((err = blob_add(root, &writing.count, &writing, PEFT_CONFIG, &snapshot->config)) < 0 ||
        (err = blob_add(root, &writing.count, &writing, "layout", &snapshot->layout)) < 0 ||
        (err = blob_add(root, &writing.count, &writing, "manifest", &snapshot->manifest)) < 0 ||
        (err = blob_add(root, &writing.count, &writing, "recipe", &snapshot->recipe)) < 0 ||
        (err = vectors_add(frame, &writing, loaded, parent)) < 0 ||
        (err = basis_add(&writing, &loaded->recipe)) < 0 || (err = model_add(&writing)) < 0 ||
        (err = files_add(&writing)) < 0)
        return err;
    return tree_write(out, objects, store, root, writing.count);
}
