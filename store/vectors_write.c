/*
 * The vectors/ of a new version. See payload.h and docs/format.md, "Vectors".
 *
 * A payload that the repository has already is taken as it is, once it was decoded and compared:
 * frames of another zstd would hold the same in other bytes. Else each part is encoded by itself,
 * several at once: what it is a difference from is decoded, the frame encoded, decoded again and
 * compared, and written, all by one thread, so that memory is the payload and a few parts.
 */
#include <stdlib.h>
#include <string.h>

#include "format/crew.h"
#include "format/limits.h"
#include "store/entries.h"
#include "store/index.h"
#include "store/payload.h"

/* A large payload's chain is shorter than a reader could bear, since every commit decodes its
   parent: 96 MiB of payloads, and two differences where that is more. */
#define CHAIN_BYTES     (96 * MIB)
#define CHAIN_DEPTH_MIN 2

struct vectors {
    struct store *store;
    struct objects *objects;
    const struct loaded_adapter *loaded;
    git_oid layout;
    bool parent_only;
};

static struct bytes payload_of(const struct vectors *vectors)
{
    return buf_bytes(&vectors->loaded->snapshot->payload);
}

/* The vectors/ of the parent where it has this very layout: then the same vectors divide its
   payload. What cannot be read is not there: its successor is what may mend it. */
static int parent_find(
    bool *found, git_oid *out, const struct vectors *vectors, const struct commit_id *parent
)
{
    git_oid layout;

    *found = false;
    if (!parent)
        return 0;
    int err = version_entry(found, &layout, vectors->store, parent, "layout");
    *found = err == 0 && *found && git_oid_equal(&layout, &vectors->layout);
    if (*found)
        err = version_entry(found, out, vectors->store, parent, "vectors");
    *found = *found && err == 0;
    return err == E_NOMEM ? err : 0;
}

/* Equal payloads */

/* Is this tree the same payload? It was only said to be. */
static int tree_try(
    bool *equal, struct frame_summary *frame, const struct vectors *vectors, const git_oid *tree
)
{
    AUTO_CHAIN(chain);
    AUTO_BUF(payload);
    int err;

    *equal = false;
    if ((err = chain_open(&chain, vectors->store, tree, &vectors->loaded->adapter.layout)) == 0 &&
        (err = payload_read(&payload, chain)) == 0)
        *equal = bytes_equal(buf_bytes(&payload), payload_of(vectors));
    if (*equal && (err = vectors_summary(frame, vectors->store, tree)) == 0)
        err = chain_keep(chain, vectors->objects);
    if (err < 0)
        *equal = false;
    return err == E_NOMEM || err == E_INTERRUPTED ? err : 0;
}

static int
parent_payload(bool *equal, const struct vectors *vectors, const struct commit_id *parent)
{
    struct recipe recipe;

    int err = version_recipe(&recipe, vectors->store, parent);
    *equal = err == 0 && digest_equal(&recipe.payload, &vectors->loaded->recipe.payload);
    return err == E_NOMEM ? err : 0;
}

/* The parent's tree where that is equal, else another's. */
static int equal_find(
    bool *found,
    git_oid *out,
    struct frame_summary *frame,
    const struct vectors *vectors,
    const struct commit_id *parent,
    const git_oid *parent_tree
)
{
    bool equal = false;
    int err = 0;

    *found = false;
    if (parent_tree && (err = parent_payload(&equal, vectors, parent)) == 0 && equal) {
        *out = *parent_tree;
        err = tree_try(found, frame, vectors, out);
    }
    if (err < 0 || *found || vectors->parent_only)
        return err;
    const struct digest *payload = &vectors->loaded->recipe.payload;
    index_find_payload(&equal, out, vectors->store, payload, &vectors->layout);
    return equal ? tree_try(found, frame, vectors, out) : 0;
}

/* New frames */

struct part_written {
    struct written object;
    struct frame_info info;
    uint64_t bytes;
    bool base_failed; /* what it would have been a difference from cannot be read */
};

struct encoding {
    const struct vectors *vectors;
    const struct frame_parts *parts;
    struct chain *base;           /* or NULL */
    unsigned depth_max;           /* of a frame that another one may be a difference from */
    struct part_written *written; /* of each part */
};

static unsigned base_depth_max(const struct frame_parts *parts)
{
    const struct frame_part *last = &parts->parts[parts->count - 1];
    uint64_t bytes = last->begin + last->bytes, frames = bytes ? CHAIN_BYTES / bytes : UINT64_MAX;

    if (frames > FRAME_DEPTH_MAX + 1)
        frames = FRAME_DEPTH_MAX + 1;
    unsigned depth = frames > CHAIN_DEPTH_MIN + 1 ? (unsigned)frames - 1 : CHAIN_DEPTH_MIN;
    return depth - 1;
}

static int part_encode(struct buf *out, const struct encoding *encoding, size_t part)
{
    const struct frame_part *piece = &encoding->parts->parts[part];
    struct bytes payload = payload_of(encoding->vectors), bytes = payload;
    struct digest digest = encoding->vectors->loaded->recipe.payload;
    struct frame_bases bases;
    AUTO_PART(base);
    int err;

    if (encoding->parts->count > 1) {
        bytes = (struct bytes){payload.data + piece->begin, (size_t)piece->bytes};
        if ((err = digest_of(&digest, bytes)) < 0)
            return err;
    }
    if (encoding->base &&
        (err = chain_read(&base, encoding->base, part, encoding->depth_max)) < 0) {
        encoding->written[part].base_failed = err != E_NOMEM && err != E_INTERRUPTED;
        return err;
    }
    bases = (struct frame_bases){
        .x1 = buf_bytes(&base.bytes),
        .digest1 = base.digest,
        .x0 = base.depth ? buf_bytes(&base.base) : (struct bytes){0},
        .digest0 = base.base_digest,
        .depth = base.depth,
    };
    bool has_base = encoding->base && base.depth <= encoding->depth_max;
    return frame_encode(
        out, bytes, &digest, piece->vectors, piece->count, has_base ? &bases : NULL
    );
}

static int part_work(void *context, unsigned member, size_t part)
{
    const struct encoding *encoding = context;
    const struct vectors *vectors = encoding->vectors;
    struct part_written *written = &encoding->written[part];
    AUTO_BUF(frame);
    int err;

    (void)member;
    if ((err = part_encode(&frame, encoding, part)) < 0 ||
        (err = frame_inspect(&written->info, buf_bytes(&frame))) < 0 ||
        (err = frame_write(&written->object, vectors->objects, vectors->store, buf_bytes(&frame))) <
            0)
        return err;
    written->bytes = frame.len;
    return interrupt_check();
}

/* All parts; and all of them whole where a base cannot be read, since a version that stands on it
   in any part could not be restored alone. */
static int parts_encode(struct encoding *encoding)
{
    size_t count = encoding->parts->count;
    bool base_failed = false;

    int err = crew_run(part_work, encoding, count, crew_size(count));
    for (size_t i = 0; i < count; i++)
        base_failed = base_failed || encoding->written[i].base_failed;
    if (err == 0 && encoding->base && (err = chain_check(encoding->base)) < 0)
        base_failed = true;
    if (err == 0 || !base_failed)
        return err;
    encoding->base = NULL;
    return crew_run(part_work, encoding, count, crew_size(count));
}

static int frames_add(
    git_oid *out, struct frame_summary *frame, const struct encoding *encoding, const git_oid *base
)
{
    const struct vectors *vectors = encoding->vectors;
    size_t count = encoding->parts->count;
    AUTO_FREE(struct tree_entry, entries);
    AUTO_FREE(char, names);
    bool is_difference = false;
    int err = 0;

    if (!(entries = array_new(count + 1, sizeof(*entries))) ||
        !(names = array_new(count, FRAME_NAME_SIZE)))
        return error_wrap(E_NOMEM, "vectors");
    frame->codec = frame_codec_name(encoding->written[0].info.codec);
    frame->depth = encoding->written[0].info.depth;
    for (size_t i = 0; err == 0 && i < count; i++) {
        const struct part_written *written = &encoding->written[i];
        char *name = names + i * FRAME_NAME_SIZE;
        frame_name(name, i);
        entries[i] = (struct tree_entry){.name = name, .id = written->object.id};
        frame->bytes += written->bytes;
        is_difference = is_difference || written->info.depth > 0;
        err = objects_add(vectors->objects, &written->object);
    }
    entries[count] = (struct tree_entry){.name = "base", .is_tree = true};
    if (is_difference)
        entries[count++].id = *base;
    return err < 0 ? err : tree_write(out, vectors->objects, vectors->store, entries, count);
}

/* `base`: the tree that frames may be differences from, or NULL. */
static int frames_write(
    git_oid *out, struct frame_summary *frame, const struct vectors *vectors, const git_oid *base
)
{
    const struct safetensors *layout = &vectors->loaded->adapter.layout;
    struct encoding encoding = {.vectors = vectors};
    AUTO_FREE(struct part_written, written);
    AUTO_FREE(struct frame_vector, list);
    AUTO_FRAME_PARTS(parts);
    AUTO_CHAIN(chain);
    size_t count = 0;
    int err;

    if ((err = frame_vectors(&list, &count, layout)) < 0 ||
        (err = frame_parts_cut(&parts, list, count, vectors->store->part_bytes)) < 0)
        return err;
    if (!(written = array_new(parts.count, sizeof(*written))))
        return error_wrap(E_NOMEM, "vectors");
    if (base && (err = chain_open(&chain, vectors->store, base, layout)) < 0 &&
        (err == E_NOMEM || err == E_INTERRUPTED))
        return err;
    encoding.parts = &parts;
    encoding.base = chain;
    encoding.depth_max = base_depth_max(&parts);
    encoding.written = written;
    if ((err = parts_encode(&encoding)) < 0)
        return err;
    return frames_add(out, frame, &encoding, base);
}

int vectors_write(
    git_oid *out,
    struct frame_summary *frame,
    struct objects *objects,
    struct store *store,
    const struct loaded_adapter *loaded,
    const struct commit_id *parent,
    bool parent_only
)
{
    const struct buf *layout = &loaded->snapshot->layout;
    struct vectors vectors = {
        .store = store, .objects = objects, .loaded = loaded, .parent_only = parent_only};
    struct frame_summary written = {0};
    bool has_parent = false, found = false;
    git_oid parent_tree;
    int err;

    int code = git_odb_hash(&vectors.layout, layout->data, layout->len, GIT_OBJECT_BLOB);
    if (code < 0)
        return git_failed(code, "layout");
    if ((err = parent_find(&has_parent, &parent_tree, &vectors, parent)) < 0)
        return err;
    const git_oid *base = has_parent ? &parent_tree : NULL;
    if ((err = equal_find(&found, out, &written, &vectors, parent, base)) == 0 && !found)
        err = frames_write(out, &written, &vectors, base);
    if (err == 0)
        *frame = written;
    return err;
}
