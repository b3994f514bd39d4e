/*
 * Every ref and reflog, read. libgit2 leaves damaged refs out of its lists, so the files below
 * refs/ are looked up one by one; packed-refs has the others. A reflog's commits are kept by git as
 * those of refs are, so one that is missing is damage.
 */
#include <stdlib.h>
#include <string.h>

#include "format/file.h"
#include "store/fsck_report.h"
#include "store/reflog.h"
#include "store/refs.h"

static bool has_prefix(const char *text, const char *prefix)
{
    return strncmp(text, prefix, strlen(prefix)) == 0;
}

/* "main", "v1", "origin/main", "trash/<time>/x", "HEAD". */
static const char *short_name(const char *ref)
{
    static const char *const prefixes[] = {REF_HEADS, REF_TAGS, REF_REMOTES, "refs/vera/", "refs/"};

    for (size_t i = 0; i < sizeof(prefixes) / sizeof(prefixes[0]); i++) {
        if (has_prefix(ref, prefixes[i]))
            return ref + strlen(prefixes[i]);
    }
    return ref;
}

static int root_add(struct fsck *fsck, const char *ref, const git_oid *id, bool is_reflog)
{
    /* Only these may lead to a tag first. */
    bool may_be_tag = !is_reflog && !has_prefix(ref, REF_HEADS) && !has_prefix(ref, REF_REMOTES);
    size_t node;
    int err = array_grow(
        &fsck->roots, &fsck->root_capacity, fsck->root_count + 1, sizeof(*fsck->roots)
    );

    if (err < 0 ||
        (err = graph_root(&node, &fsck->graph, id, may_be_tag ? GIT_OBJECT_ANY : GIT_OBJECT_COMMIT)
        ) < 0)
        return err;
    struct fsck_root *root = &fsck->roots[fsck->root_count++];
    *root = (struct fsck_root){.node = node, .is_reflog = is_reflog};
    root->ref = bytes_dup(text_bytes(ref));
    root->name = bytes_dup(text_bytes(short_name(ref)));
    return root->ref && root->name ? 0 : error_wrap(E_NOMEM, "refs");
}

/* Reflogs */

struct reflog_visit {
    struct fsck *fsck;
    const char *ref;
};

static int move_visit(void *context, const git_oid *old, const git_oid *now)
{
    struct reflog_visit *visit = context;
    const git_oid *ids[] = {old, now};
    size_t ignored;
    int err = 0;

    for (size_t i = 0; err == 0 && i < 2; i++) {
        if (!git_oid_is_zero(ids[i]) && !id_set_find(&ignored, &visit->fsck->graph.ids, ids[i]))
            err = root_add(visit->fsck, visit->ref, ids[i], true);
    }
    return err;
}

static int reflog_check(struct fsck *fsck, const char *ref)
{
    struct reflog_visit visit = {fsck, ref};
    int err = reflog_each(fsck->store, ref, move_visit, &visit);

    return err < 0 ? fsck_bad_ref(fsck, ref, err) : 0;
}

/* Refs */

/* What a symbolic ref leads to: not a root of its own, but it must be there. */
static int symbolic_check(struct fsck *fsck, const char *ref)
{
    git_oid id;

    int code = git_reference_name_to_id(&id, fsck->store->repo, ref);
    return code < 0 ? fsck_bad_ref(fsck, ref, git_failed(code, "%s", ref)) : 0;
}

static int ref_check(struct fsck *fsck, const char *ref)
{
    git_oid id;
    bool found = false;

    int err = ref_read(&found, &id, fsck->store, ref);
    fsck->report->refs++;
    if (err == E_UNSUPPORTED)
        return symbolic_check(fsck, ref);
    if (err < 0)
        return fsck_bad_ref(fsck, ref, err);
    if (!found)
        return 0; /* deleted meanwhile */
    return root_add(fsck, ref, &id, false);
}

/* An unborn branch is no damage. */
static int head_check(struct fsck *fsck)
{
    AUTO_FREE(char, branch);
    struct commit_id tip;
    bool has_tip = false;

    int err = store_head(&branch, &tip, &has_tip, fsck->store);
    fsck->report->refs++;
    if (err < 0) /* where it is the branch that cannot be read, that is said of the branch */
        return strncmp(error_message(), "HEAD", 4) == 0 ? fsck_bad_ref(fsck, "HEAD", err) : 0;
    if (branch || !has_tip)
        return 0;
    git_oid id = git_id(&tip);
    return root_add(fsck, "HEAD", &id, false);
}

static int loose_visit(void *context, const struct tree_file *file)
{
    struct fsck *fsck = context;
    AUTO_BUF(ref);
    size_t length = strlen(file->path);
    int err;

    if (file->is_directory || (length > 5 && strcmp(file->path + length - 5, ".lock") == 0))
        return 0;
    if ((err = buf_printf(&ref, "refs/%s", file->path)) < 0)
        return err;
    return ref_check(fsck, (const char *)ref.data);
}

/* Those that are in packed-refs only. */
static int packed_visit(void *context, const char *name, const git_oid *target)
{
    struct fsck *fsck = context;
    AUTO_FREE(char, path);

    (void)target;
    int err = path_join(&path, store_path(fsck->store), name);
    if (err < 0 || path_exists(path))
        return err;
    return ref_check(fsck, name);
}

static int refs_files_check(struct fsck *fsck)
{
    AUTO_FREE(char, path);

    int err = path_join(&path, store_path(fsck->store), "refs");
    if (err < 0 || (err = tree_each(path, loose_visit, fsck)) < 0)
        return err;
    err = refs_each(fsck->store, "refs/", packed_visit, fsck);
    return err < 0 ? fsck_bad_ref(fsck, "packed-refs", err) : 0;
}

/* Reflogs outlive nothing: a file below logs/ that is no ref's is read all the same. */
static int log_visit(void *context, const struct tree_file *file)
{
    size_t length = strlen(file->path);

    if (file->is_directory || (length > 5 && strcmp(file->path + length - 5, ".lock") == 0))
        return 0;
    return reflog_check(context, file->path);
}

int fsck_refs(struct fsck *fsck)
{
    AUTO_FREE(char, path);

    int err = head_check(fsck);
    if (err < 0 || (err = refs_files_check(fsck)) < 0 ||
        (err = path_join(&path, store_path(fsck->store), "logs")) < 0)
        return err;
    err = tree_each(path, log_visit, fsck);
    return err == E_NOTFOUND ? 0 : err;
}
