/* The order of a version's layers. See oci_version.h. */
#include <string.h>

#include "format/limits.h"
#include "store/oci_version.h"

/* Below, a layer of its own costs more, in manifests and requests, than it saves. */
#define SMALL_BYTES 1024

#define DEPTH_MAX (LIMIT_FRAME_DEPTH + LIMIT_PATH_DEPTH + 4)

bool oci_is_small(uint64_t bytes, bool is_frame)
{
    return bytes < SMALL_BYTES && !is_frame;
}

void oci_walk_release(struct oci_walk *walk)
{
    id_set_release(&walk->seen);
}

/* vectors/frame, vectors/frame.1, vectors/base/frame ... */
static bool is_frame_name(const char *name)
{
    return strcmp(name, "frame") == 0 || strncmp(name, "frame.", 6) == 0;
}

static int walk_tree(
    struct oci_walk *walk, struct store *store, const git_oid *id, bool is_vectors, unsigned depth
);

static int walk_entry(
    struct oci_walk *walk,
    struct store *store,
    const git_tree_entry *entry,
    bool is_vectors,
    unsigned depth
)
{
    const git_oid *id = git_tree_entry_id(entry);
    const char *name = git_tree_entry_name(entry);
    bool is_new = false;
    size_t ignored;

    if (git_tree_entry_type(entry) == GIT_OBJECT_TREE) {
        bool below = is_vectors || (depth == 0 && strcmp(name, "vectors") == 0);
        return walk_tree(walk, store, id, below, depth + 1);
    }
    if (git_tree_entry_type(entry) != GIT_OBJECT_BLOB)
        return error_set(E_UNSUPPORTED, "'%s' is another repository's commit", name);
    int err = id_set_add(&ignored, &is_new, &walk->seen, id);
    return err < 0 || !is_new ? err
                              : walk->blob(walk->context, id, is_vectors && is_frame_name(name));
}

static int walk_tree(
    struct oci_walk *walk, struct store *store, const git_oid *id, bool is_vectors, unsigned depth
)
{
    AUTO_GIT(git_tree, tree);
    bool is_new = false;
    size_t ignored;
    int err;

    if (depth > DEPTH_MAX)
        return error_set(
            E_LIMIT, "tree %s: folders deeper than %u", git_oid_tostr_s(id), (unsigned)DEPTH_MAX
        );
    if ((err = id_set_add(&ignored, &is_new, &walk->seen, id)) < 0 || !is_new)
        return err;
    if (walk->seen.count > LIMIT_OCI_ITEMS)
        return error_set(
            E_LIMIT, "more than %llu files in one version", (unsigned long long)LIMIT_OCI_ITEMS
        );
    if ((err = tree_read(&tree, store, id)) < 0 ||
        (walk->tree && (err = walk->tree(walk->context, id)) < 0))
        return err;
    for (size_t i = 0; err == 0 && i < git_tree_entrycount(tree); i++)
        err = walk_entry(walk, store, git_tree_entry_byindex(tree, i), is_vectors, depth);
    return err;
}

int oci_walk_run(struct oci_walk *walk, struct store *store, const git_oid *tree)
{
    return walk_tree(walk, store, tree, false, 0);
}
