/*
 * A snapshot into the tree of a version. See internal.h and docs/format.md, "The tree of a
 * version".
 *
 * Equal parts are equal blobs, so they cost nothing a second time. Where the parent has this very
 * payload its vectors/ is taken as it is, once it was decoded and compared: frames of another zstd
 * would hold the same in other bytes.
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "store/payload.h"

struct tree_entry {
    const char *name;
    bool is_tree;
    git_oid id;
};

/* git's order: a tree's name counts as if it ended in a slash. */
static int entry_compare(const void *left, const void *right)
{
    const struct tree_entry *a = left, *b = right;
    size_t len_a = strlen(a->name), len_b = strlen(b->name), len = len_a < len_b ? len_a : len_b;
    int order = memcmp(a->name, b->name, len);
    int end_a = len_a > len ? (uint8_t)a->name[len] : a->is_tree ? '/' : 0;
    int end_b = len_b > len ? (uint8_t)b->name[len] : b->is_tree ? '/' : 0;

    return order ? order : end_a - end_b;
}

static int tree_write(
    git_oid *out,
    struct objects *objects,
    struct store *store,
    struct tree_entry *entries,
    size_t count
)
{
    AUTO_BUF(text);
    int err = 0;

    qsort(entries, count, sizeof(*entries), entry_compare);
    for (size_t i = 0; err == 0 && i < count; i++) {
        const char *mode = entries[i].is_tree ? "40000" : "100644";
        if ((err = buf_printf(&text, "%s %s", mode, entries[i].name)) == 0 &&
            (err = buf_append_byte(&text, 0)) == 0)
            err = buf_append(&text, entries[i].id.id, sizeof(entries[i].id.id));
    }
    return err < 0 ? err : object_write(out, objects, store, GIT_OBJECT_TREE, buf_bytes(&text));
}

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

/* vectors/ */

/* What the new frames may be differences from: the parent's payload, or nothing. */
struct ancestor {
    git_oid vectors; /* the parent's tree */
    struct payload payload;
    bool is_there; /* and divided by the same vectors */
};

static void ancestor_release(struct ancestor *ancestor)
{
    payload_release(&ancestor->payload);
}

/* Does the parent have this very layout? Then the same vectors divide its payload. */
static int same_layout(bool *out, struct writing *writing, const struct commit_id *parent)
{
    const struct buf *layout = &writing->snapshot->layout;
    git_oid theirs, ours;
    bool found = false;

    int err = version_entry(&found, &theirs, writing->store, parent, "layout");
    if (err < 0)
        return err;
    int code = git_odb_hash(&ours, layout->data, layout->len, GIT_OBJECT_BLOB);
    if (code < 0)
        return git_failed(code, "layout");
    *out = found && git_oid_equal(&theirs, &ours);
    return 0;
}

/* A parent that cannot be read is none: its successor is what may mend it. */
static int ancestor_read(
    struct ancestor *ancestor,
    struct writing *writing,
    const struct loaded_adapter *loaded,
    const struct commit_id *parent
)
{
    struct store *store = writing->store;
    bool same = false, found = false;

    int err = same_layout(&same, writing, parent);
    if (err == 0 && same)
        err = version_entry(&found, &ancestor->vectors, store, parent, "vectors");
    if (err == 0 && found)
        err = payload_read(&ancestor->payload, store, &ancestor->vectors, &loaded->adapter.layout);
    ancestor->is_there = err == 0 && found;
    return err == E_NOMEM || err == E_INTERRUPTED ? err : 0;
}

/* The bases of one part; its base's base where that frame is a difference, too. */
static struct frame_bases bases_of(const struct payload *payload, size_t part)
{
    unsigned depth = payload->depths[part];

    return (struct frame_bases){
        .x1 = buf_bytes(&payload->bytes),
        .digest1 = payload->digest,
        .x0 = depth ? buf_bytes(&payload->base) : (struct bytes){0},
        .digest0 = payload->base_digest,
        .depth = depth,
    };
}

static int frames_write(
    struct frame_summary *frame,
    struct writing *writing,
    const struct frame_parts *parts,
    const struct ancestor *ancestor
)
{
    AUTO_FREE(struct tree_entry, entries);
    AUTO_FREE(char, names);
    bool is_difference = false;
    size_t count = 0;
    int err = 0;

    if (!(entries = array_new(parts->count + 1, sizeof(*entries))) ||
        !(names = array_new(parts->count, FRAME_NAME_SIZE)))
        return error_wrap(E_NOMEM, "vectors");
    for (size_t i = 0; err == 0 && i < parts->count; i++) {
        AUTO_BUF(data);
        struct frame_bases bases = {0};
        struct frame_info info;
        struct written written;
        char *name = names + i * FRAME_NAME_SIZE;
        frame_name(name, i);
        if (ancestor->is_there)
            bases = bases_of(&ancestor->payload, i);
        if ((err = frame_part_encode(
                 &data, buf_bytes(&writing->snapshot->payload), &parts->parts[i],
                 ancestor->is_there ? &bases : NULL
             )) < 0 ||
            (err = frame_inspect(&info, buf_bytes(&data))) < 0 ||
            (err = frame_write(&written, writing->objects, writing->store, buf_bytes(&data))) < 0 ||
            (err = objects_add(writing->objects, &written)) < 0)
            return err;
        entries[count++] = (struct tree_entry){.name = name, .id = written.id};
        if (i == 0)
            *frame = (struct frame_summary){frame_codec_name(info.codec), info.depth, 0};
        frame->bytes += data.len;
        is_difference = is_difference || info.depth > 0;
        err = interrupt_check();
    }
    if (is_difference)
        entries[count++] = (struct tree_entry
        ){.name = "base", .is_tree = true, .id = ancestor->vectors};
    return err < 0 ? err : tree_add(writing, "vectors", entries, count);
}

/* The parent's vectors/ as it is, where it holds this very payload. */
static int vectors_reuse(
    struct frame_summary *frame,
    struct writing *writing,
    const struct ancestor *ancestor,
    const struct commit_id *parent
)
{
    int err = store_frame(frame, writing->store, parent);

    if (err == 0)
        writing->root[writing->count++] = (struct tree_entry
        ){.name = "vectors", .is_tree = true, .id = ancestor->vectors};
    return err;
}

static int vectors_add(
    struct frame_summary *frame,
    struct writing *writing,
    const struct loaded_adapter *loaded,
    const struct commit_id *parent
)
{
    __attribute__((cleanup(ancestor_release))) struct ancestor ancestor = {0};
    AUTO_FREE(struct frame_vector, vectors);
    AUTO_FRAME_PARTS(parts);
    size_t count = 0;
    int err;

    if ((err = frame_vectors(&vectors, &count, &loaded->adapter.layout)) < 0 ||
        (parent && (err = ancestor_read(&ancestor, writing, loaded, parent)) < 0))
        return err;
    if (ancestor.is_there &&
        bytes_equal(buf_bytes(&ancestor.payload.bytes), buf_bytes(&writing->snapshot->payload)))
        return vectors_reuse(frame, writing, &ancestor, parent);
    if ((err = frame_parts_cut(&parts, vectors, count, writing->store->part_bytes)) < 0)
        return err;
    return frames_write(frame, writing, &parts, &ancestor);
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
