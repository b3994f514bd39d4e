/* What one version's tree holds, by path. See internal.h and docs/format.md, "The tree of a
   version". */
#include <stdlib.h>
#include <string.h>

#include "format/limits.h"
#include "store/internal.h"

/* The entry of this name in a tree; `*is_tree` tells whether it is one itself. */
static int entry_find(
    bool *found,
    git_oid *out,
    bool *is_tree,
    struct store *store,
    const git_oid *tree_id,
    const char *name
)
{
    AUTO_GIT(git_tree, tree);

    int err = tree_read(&tree, store, tree_id);
    if (err < 0)
        return err;
    const git_tree_entry *entry = git_tree_entry_byname(tree, name);
    *found = entry != NULL;
    if (entry) {
        *out = *git_tree_entry_id(entry);
        *is_tree = git_tree_entry_type(entry) == GIT_OBJECT_TREE;
    }
    return 0;
}

int version_entry(
    bool *found, git_oid *out, struct store *store, const struct commit_id *commit, const char *path
)
{
    AUTO_GIT(git_commit, read);
    AUTO_FREE(char, names);
    git_oid at = git_id(commit), next = at;
    bool there = true, is_tree = true;

    int err = commit_read(&read, store, &at);
    if (err < 0)
        return err;
    if (!(names = bytes_dup(text_bytes(path))))
        return error_wrap(E_NOMEM, "%s", path);
    at = *git_commit_tree_id(read);
    for (char *name = names; name && there;) {
        char *slash = strchr(name, '/');
        if (slash)
            *slash = '\0';
        there = is_tree;
        if (there && (err = entry_find(&there, &next, &is_tree, store, &at, name)) < 0)
            return err;
        at = next;
        name = slash ? slash + 1 : NULL;
    }
    *found = there;
    if (there)
        *out = at;
    return 0;
}

static int
blob_read(struct buf *out, struct store *store, const struct commit_id *commit, const char *path)
{
    char hex[COMMIT_HEX_SIZE];
    bool found = false;
    git_oid id;

    int err = version_entry(&found, &id, store, commit, path);
    if (err < 0)
        return err;
    if (!found) {
        commit_hex(hex, commit);
        return error_set(E_CORRUPT, "commit %s is no version of an adapter: no %s", hex, path);
    }
    return object_read(out, store, &id, GIT_OBJECT_BLOB, LIMIT_TEXT, path);
}

int version_snapshot(struct digest *out, struct store *store, const struct commit_id *commit)
{
    AUTO_BUF(manifest);

    int err = blob_read(&manifest, store, commit, "manifest");
    return err < 0 ? err : digest_of(out, buf_bytes(&manifest));
}

int version_recipe(struct recipe *out, struct store *store, const struct commit_id *commit)
{
    AUTO_BUF(text);

    int err = blob_read(&text, store, commit, "recipe");
    return err < 0 ? err : recipe_decode(out, buf_bytes(&text));
}
