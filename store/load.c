/*
 * A version's tree back into a snapshot. See store.h and docs/format.md, "The tree of a version".
 *
 * The tree may be anyone's. Every entry is one that the format names, once, with its mode; how
 * large it may be is known before it is read: files from the manifest, the layout from the limits,
 * the payload from the layout, A and B from the layout. libgit2 compares each object with its id;
 * what the parts say of each other is compared at the end.
 */
#include <string.h>

#include "format/limits.h"
#include "format/text.h"
#include "store/entries.h"
#include "store/payload.h"

/* What decodes to nonsense was stored so. */
static int stored_error(int err)
{
    if (err == E_INVALID || err == E_NOTFOUND || err == E_EXISTS)
        return error_wrap(E_CORRUPT, "stored data");
    return err;
}

/* The parts */

enum { CONFIG, BASIS, FILES, LAYOUT, MANIFEST, MODEL, RECIPE, VECTORS, ROOT_COUNT };

struct loading {
    struct store *store;
    struct snapshot *snapshot;
    struct entry root[ROOT_COUNT];
    struct manifest manifest;
    struct adapter adapter;
    struct recipe recipe;
    size_t next; /* file of the manifest that comes next below files/ */
};

static void loading_release(struct loading *loading)
{
    manifest_release(&loading->manifest);
    adapter_release(&loading->adapter);
}

static int root_read(struct loading *loading, const struct commit_id *commit)
{
    static const struct entry root[ROOT_COUNT] = {
        [CONFIG] = {.name = PEFT_CONFIG, .required = true},
        [BASIS] = {.name = "basis", .is_tree = true},
        [FILES] = {.name = "files", .is_tree = true},
        [LAYOUT] = {.name = "layout", .required = true},
        [MANIFEST] = {.name = "manifest", .required = true},
        [MODEL] = {.name = "model", .is_tree = true},
        [RECIPE] = {.name = "recipe", .required = true},
        [VECTORS] = {.name = "vectors", .is_tree = true, .required = true},
    };
    AUTO_GIT(git_commit, read);
    git_oid id = git_id(commit);

    memcpy(loading->root, root, sizeof(root));
    int err = commit_read(&read, loading->store, &id);
    if (err < 0)
        return err;
    return entries_read(loading->root, ROOT_COUNT, loading->store, git_commit_tree_id(read));
}

/* Manifest, configuration, layout and recipe: what says how large the rest is. */
static int texts_read(struct loading *loading)
{
    struct snapshot *snapshot = loading->snapshot;
    struct store *store = loading->store;
    struct entry *root = loading->root;
    int err;

    if ((err = entry_read(&snapshot->manifest, store, &root[MANIFEST], LIMIT_TEXT)) < 0 ||
        (err = digest_of(&snapshot->id, buf_bytes(&snapshot->manifest))) < 0 ||
        (err = manifest_decode(&loading->manifest, buf_bytes(&snapshot->manifest))) < 0 ||
        (err = entry_read(&snapshot->config, store, &root[CONFIG], LIMIT_CONFIG)) < 0 ||
        (err = entry_read(&snapshot->layout, store, &root[LAYOUT], 8 + LIMIT_SAFETENSORS_HEADER)) <
            0 ||
        (err = entry_read(&snapshot->recipe, store, &root[RECIPE], LIMIT_TEXT)) < 0 ||
        (err = recipe_decode(&loading->recipe, buf_bytes(&snapshot->recipe))) < 0)
        return err;
    const struct manifest_file *model = manifest_find(&loading->manifest, PEFT_MODEL);
    if (!model)
        return error_set(E_CORRUPT, "manifest: no %s", PEFT_MODEL);
    return adapter_decode(
        &loading->adapter, buf_bytes(&snapshot->config), buf_bytes(&snapshot->layout), model->bytes
    );
}

static int basis_read(struct loading *loading)
{
    const struct adapter *adapter = &loading->adapter;
    const struct recipe *recipe = &loading->recipe;
    char names[2][DIGEST_HEX_SIZE];
    struct entry entries[2] = {
        {.name = names[0], .required = true}, {.name = names[1], .required = true}};
    bool stored = recipe->state == BASIS_STORED && adapter->a;
    int err;

    if (stored != loading->root[BASIS].found)
        return error_set(
            E_CORRUPT, "the recipe's basis is %s, and there is %s basis/",
            basis_state_name(recipe->state), stored ? "no" : "a"
        );
    if (!stored)
        return 0;
    bool equal = digest_equal(&recipe->sha256_a, &recipe->sha256_b);
    digest_hex(names[0], &recipe->sha256_a);
    digest_hex(names[1], &recipe->sha256_b);
    err = entries_read(entries, equal ? 1 : 2, loading->store, &loading->root[BASIS].id);
    if (err < 0)
        return err;
    const struct tensor *a = adapter->a, *b = adapter->basis_b;
    err = entry_read(&loading->snapshot->a, loading->store, &entries[0], tensor_bytes(a));
    if (err < 0)
        return err;
    return entry_read(
        &loading->snapshot->b, loading->store, &entries[equal ? 0 : 1], tensor_bytes(b)
    );
}

static int model_read(struct loading *loading)
{
    struct entry entries[] = {{.name = "config.json"}, {.name = "pin", .required = true}};
    struct snapshot *snapshot = loading->snapshot;

    if (!loading->root[MODEL].found)
        return 0;
    int err = entries_read(entries, 2, loading->store, &loading->root[MODEL].id);
    if (err == 0)
        err = entry_read(&snapshot->pin, loading->store, &entries[1], LIMIT_TEXT);
    if (err == 0 && entries[0].found)
        err = entry_read(&snapshot->model_config, loading->store, &entries[0], LIMIT_CONFIG);
    return err;
}

/* Files */

static const struct manifest_file *file_next(struct loading *loading)
{
    const struct manifest *manifest = &loading->manifest;

    while (loading->next < manifest->count) {
        const struct manifest_file *file = &manifest->files[loading->next];
        if (strcmp(file->path, PEFT_CONFIG) != 0 && strcmp(file->path, PEFT_MODEL) != 0)
            return file;
        loading->next++;
    }
    return NULL;
}

/* The blob at `path`, which must be the next file of the manifest: both are in the same order. */
static int file_read_blob(struct loading *loading, const char *path, const git_oid *id)
{
    struct snapshot *snapshot = loading->snapshot;
    const struct manifest_file *file = file_next(loading);
    AUTO_BUF(data);

    if (!file || strcmp(file->path, path) != 0) {
        char quoted[TEXT_QUOTE_SIZE];
        text_quote(quoted, text_bytes(path));
        return error_set(
            E_CORRUPT, "object %s (files/%s): the manifest has %s at its place",
            git_oid_tostr_s(id), quoted, file ? file->path : "no file"
        );
    }
    int err = object_read(&data, loading->store, id, GIT_OBJECT_BLOB, file->bytes, path);
    if (err == E_LIMIT)
        return error_wrap(E_CORRUPT, "another size than the manifest's");
    if (err < 0)
        return err;
    struct adapter_file *taken = &snapshot->files[snapshot->file_count];
    if (!(taken->path = bytes_dup(text_bytes(path))))
        return error_wrap(E_NOMEM, "files");
    taken->data = buf_take(&data);
    snapshot->file_count++;
    loading->next++;
    return interrupt_check();
}

static int folder_read(struct loading *loading, const git_oid *id, struct buf *path, unsigned depth)
{
    AUTO_GIT(git_tree, tree);
    size_t len = path->len;
    int err;

    if (depth > LIMIT_PATH_DEPTH || len > LIMIT_PATH)
        return error_set(E_CORRUPT, "tree %s: below files/, too deep", git_oid_tostr_s(id));
    err = tree_read(&tree, loading->store, id);
    for (size_t i = 0; err == 0 && i < git_tree_entrycount(tree); i++) {
        const git_tree_entry *entry = git_tree_entry_byindex(tree, i);
        const git_oid *found = git_tree_entry_id(entry);
        int mode = (int)git_tree_entry_filemode_raw(entry);
        path->len = len;
        if ((err = buf_append_text(path, git_tree_entry_name(entry))) < 0)
            break;
        if (mode == GIT_FILEMODE_TREE && (err = buf_append_byte(path, '/')) == 0)
            err = folder_read(loading, found, path, depth + 1);
        else if (mode == GIT_FILEMODE_BLOB && buf_text(path))
            err = file_read_blob(loading, (const char *)path->data, found);
        else if (err == 0)
            err = entry_error(id, git_tree_entry_name(entry), "has a mode that it cannot have");
    }
    return err;
}

static int files_read(struct loading *loading)
{
    AUTO_BUF(path);
    struct snapshot *snapshot = loading->snapshot;

    if (!(snapshot->files = array_new(loading->manifest.count, sizeof(*snapshot->files))))
        return error_wrap(E_NOMEM, "files");
    if (loading->root[FILES].found) {
        int err = folder_read(loading, &loading->root[FILES].id, &path, 0);
        if (err < 0)
            return err;
    }
    const struct manifest_file *left = file_next(loading);
    return left
               ? error_set(E_CORRUPT, "files/%s: the manifest has it, the tree has not", left->path)
               : 0;
}

static int vectors_read(struct loading *loading)
{
    AUTO_CHAIN(chain);

    int err = chain_open(
        &chain, loading->store, &loading->root[VECTORS].id, &loading->adapter.layout
    );
    return err < 0 ? err : payload_read(&loading->snapshot->payload, chain);
}

static int snapshot_load(struct loading *loading, const struct commit_id *commit)
{
    struct snapshot *snapshot = loading->snapshot;
    int err;

    if ((err = root_read(loading, commit)) < 0 || (err = texts_read(loading)) < 0 ||
        (err = vectors_read(loading)) < 0 || (err = basis_read(loading)) < 0 ||
        (err = model_read(loading)) < 0 || (err = files_read(loading)) < 0)
        return err;
    return snapshot_check(snapshot);
}

int store_load(struct snapshot *out, struct store *store, const struct commit_id *id)
{
    AUTO_SNAPSHOT(snapshot);
    __attribute__((cleanup(loading_release))
    ) struct loading loading = {.store = store, .snapshot = &snapshot};

    int err = snapshot_load(&loading, id);
    if (err < 0) {
        char hex[COMMIT_HEX_SIZE];
        commit_hex(hex, id);
        err = error_wrap(stored_error(err), "version %.12s", hex);
        return err == E_CORRUPT ? error_hint(err, "'vera fsck' tells what is damaged") : err;
    }
    *out = snapshot;
    snapshot = (struct snapshot){0};
    return 0;
}
