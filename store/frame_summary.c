/* What the frames of a version are and take, seen without decoding them. See payload.h. */
#include <string.h>

#include "format/limits.h"
#include "store/payload.h"

/* Sizes of `frame.1` and the parts that follow. */
static int parts_measure(struct frame_summary *frame, struct store *store, const git_tree *tree)
{
    int err = 0;

    for (size_t i = 0; err == 0 && i < git_tree_entrycount(tree); i++) {
        const git_tree_entry *entry = git_tree_entry_byindex(tree, i);
        git_object_t type;
        size_t bytes = 0;
        if (strncmp(git_tree_entry_name(entry), "frame.", strlen("frame.")) != 0)
            continue;
        int code = git_odb_read_header(&bytes, &type, store->odb, git_tree_entry_id(entry));
        if (code < 0)
            err = git_failed(code, "vectors/%s", git_tree_entry_name(entry));
        frame->bytes += bytes;
    }
    return err;
}

int vectors_summary(struct frame_summary *out, struct store *store, const git_oid *vectors)
{
    AUTO_GIT(git_tree, tree);
    AUTO_BUF(data);
    struct frame_info info;

    int err = tree_read(&tree, store, vectors);
    if (err < 0)
        return err;
    const git_tree_entry *first = git_tree_entry_byname(tree, "frame");
    if (!first)
        return error_set(E_CORRUPT, "tree %s has no frame", git_oid_tostr_s(vectors));
    if ((err = object_read(
             &data, store, git_tree_entry_id(first), GIT_OBJECT_BLOB, LIMIT_FILE, "frame"
         )) < 0 ||
        (err = frame_inspect(&info, buf_bytes(&data))) < 0)
        return err;
    struct frame_summary frame = {frame_codec_name(info.codec), info.depth, data.len};
    if ((err = parts_measure(&frame, store, tree)) == 0)
        *out = frame;
    return err;
}

int store_frame(struct frame_summary *out, struct store *store, const struct commit_id *id)
{
    bool found = false;
    git_oid vectors;

    int err = version_entry(&found, &vectors, store, id, "vectors");
    if (err < 0)
        return err;
    if (!found)
        return error_set(E_CORRUPT, "the version has no vectors/");
    return vectors_summary(out, store, &vectors);
}
