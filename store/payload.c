/*
 * See payload.h. A frame's depth says how many trees are below it, so the trees are walked first
 * and each frame is read once. All trees of a chain have the parts that the layout makes; a part
 * whose frame is whole needs nothing below it, whatever the other parts do.
 */
#include "store/payload.h"

#include <assert.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "format/crew.h"
#include "format/limits.h"
#include "store/entries.h"

#define FRAME_OVERHEAD 4096u /* of a frame over its payload, generously */

/* One vectors/ tree: its frames, then its base. */
struct link {
    struct entry *entries; /* [parts + 1] */
    git_oid tree;
};

struct chain {
    struct store *store;
    struct frame_parts parts;
    char (*names)[FRAME_NAME_SIZE];
    pthread_mutex_t mutex; /* of what follows; a link that is there does not change */
    struct link links[LIMIT_FRAME_DEPTH + 1]; /* the newest first */
    size_t count;
    bool needs_base; /* one of the newest frames is a difference */
};

static void chain_free(struct chain *chain)
{
    for (size_t i = 0; i < chain->count; i++)
        free(chain->links[i].entries);
    frame_parts_release(&chain->parts);
    free(chain->names);
    pthread_mutex_destroy(&chain->mutex);
    free(chain);
}

void chain_release(struct chain **chain)
{
    if (*chain)
        chain_free(*chain);
    *chain = NULL;
}

void payload_part_release(struct payload_part *part)
{
    buf_release(&part->bytes);
    buf_release(&part->base);
}

void frame_name(char out[FRAME_NAME_SIZE], size_t part)
{
    if (part)
        snprintf(out, FRAME_NAME_SIZE, "frame.%zu", part);
    else
        snprintf(out, FRAME_NAME_SIZE, "frame");
}

static int link_add(struct chain *chain, const git_oid *tree)
{
    size_t parts = chain->parts.count;
    struct link *link = &chain->links[chain->count];

    if (!(link->entries = array_new(parts + 1, sizeof(*link->entries))))
        return error_wrap(E_NOMEM, "vectors");
    for (size_t i = 0; i < parts; i++)
        link->entries[i] = (struct entry){.name = chain->names[i], .required = true};
    link->entries[parts] = (struct entry){.name = "base", .is_tree = true};
    link->tree = *tree;
    chain->count++;
    return entries_read(link->entries, parts + 1, chain->store, tree);
}

static int
chain_begin(struct chain *chain, const git_oid *vectors, const struct safetensors *layout)
{
    AUTO_FREE(struct frame_vector, list);
    size_t count = 0;

    int err = frame_vectors(&list, &count, layout);
    if (err == 0)
        err = frame_parts_cut(&chain->parts, list, count, chain->store->part_bytes);
    if (err < 0)
        return err;
    if (!(chain->names = array_new(chain->parts.count, sizeof(*chain->names))))
        return error_wrap(E_NOMEM, "vectors");
    for (size_t i = 0; i < chain->parts.count; i++)
        frame_name(chain->names[i], i);
    return link_add(chain, vectors);
}

int chain_open(
    struct chain **out,
    struct store *store,
    const git_oid *vectors,
    const struct safetensors *layout
)
{
    AUTO_CHAIN(chain);

    struct chain *made = array_new(1, sizeof(*made));
    if (!made)
        return error_wrap(E_NOMEM, "vectors");
    if (pthread_mutex_init(&made->mutex, NULL) != 0) {
        free(made);
        return error_set(E_NOMEM, "out of memory for a lock");
    }
    chain = made;
    chain->store = store;
    int err = chain_begin(chain, vectors, layout);
    if (err < 0)
        return err;
    *out = chain;
    chain = NULL;
    return 0;
}

const struct frame_parts *chain_parts(const struct chain *chain)
{
    return &chain->parts;
}

/* Walk the trees below the newest one, to this depth. */
static int chain_walk(struct chain *chain, unsigned depth)
{
    while (chain->count <= depth) {
        const struct link *last = &chain->links[chain->count - 1];
        const struct entry *base = &last->entries[chain->parts.count];
        if (!base->found)
            return entry_error(&last->tree, base->name, "is missing");
        int err = link_add(chain, &base->id);
        if (err < 0)
            return err;
    }
    return 0;
}

static int chain_extend(struct chain *chain, unsigned depth)
{
    pthread_mutex_lock(&chain->mutex);
    int err = chain_walk(chain, depth);
    pthread_mutex_unlock(&chain->mutex);
    return err;
}

static void base_needed(struct chain *chain)
{
    pthread_mutex_lock(&chain->mutex);
    chain->needs_base = true;
    pthread_mutex_unlock(&chain->mutex);
}

static int frame_wrap(int err, const struct entry *entry)
{
    return error_wrap(err, "object %s (%s)", git_oid_tostr_s(&entry->id), entry->name);
}

static int frame_read(struct buf *out, const struct chain *chain, size_t link, size_t part)
{
    const struct entry *entry = &chain->links[link].entries[part];

    return entry_read(out, chain->store, entry, chain->parts.parts[part].bytes + FRAME_OVERHEAD);
}

/* Decode the next frame of a chain: `read` is of the one before, or nothing before the `first`. */
static int part_advance(
    struct payload_part *read, struct bytes frame, const struct frame_part *part, bool first
)
{
    struct frame_bases bases = {
        .x1 = buf_bytes(&read->bytes),
        .digest1 = read->digest,
        .x0 = read->depth ? buf_bytes(&read->base) : (struct bytes){0},
        .digest0 = read->base_digest,
        .depth = read->depth,
    };
    struct frame_info info;
    AUTO_BUF(next);
    int err;

    if ((err = frame_inspect(&info, frame)) < 0 ||
        (err = frame_decode(&next, frame, part->vectors, part->count, first ? NULL : &bases)) < 0)
        return err;
    buf_release(&read->base);
    read->base = buf_take(&read->bytes);
    read->base_digest = read->digest;
    read->bytes = buf_take(&next);
    read->digest = info.payload;
    read->depth = info.depth;
    return 0;
}

/* Decode `depth` + 1 frames; the newest one was read already. */
static int part_decode(
    struct payload_part *read, struct chain *chain, size_t part, struct bytes newest, unsigned depth
)
{
    int err;

    if ((err = chain_extend(chain, depth)) < 0)
        return err;
    for (size_t i = depth + 1; i-- > 0;) {
        AUTO_BUF(older);
        if (i && (err = frame_read(&older, chain, i, part)) < 0)
            return err;
        struct bytes frame = i ? buf_bytes(&older) : newest;
        if ((err = part_advance(read, frame, &chain->parts.parts[part], i == depth)) < 0)
            return frame_wrap(err, &chain->links[i].entries[part]);
        if ((err = interrupt_check()) < 0)
            return err;
    }
    return 0;
}

int chain_read(struct payload_part *out, struct chain *chain, size_t part, unsigned depth_max)
{
    struct frame_info info;
    AUTO_PART(read);
    AUTO_BUF(newest);
    int err;

    if ((err = frame_read(&newest, chain, 0, part)) < 0)
        return err;
    if ((err = frame_inspect(&info, buf_bytes(&newest))) < 0)
        return frame_wrap(err, &chain->links[0].entries[part]);
    if (info.depth)
        base_needed(chain);
    if (info.depth > depth_max)
        read.depth = info.depth;
    else if ((err = part_decode(&read, chain, part, buf_bytes(&newest), info.depth)) < 0)
        return err;
    *out = read;
    read = (struct payload_part){0};
    return 0;
}

int chain_check(const struct chain *chain)
{
    const struct link *newest = &chain->links[0];
    const struct entry *base = &newest->entries[chain->parts.count];

    if (chain->needs_base || !base->found)
        return 0;
    return entry_error(
        &newest->tree, base->name, "does not belong there: no frame is a difference"
    );
}

int chain_keep(const struct chain *chain, struct objects *objects)
{
    int err = 0;

    for (size_t i = 0; err == 0 && i < chain->count; i++) {
        err = objects_keep(objects, chain->store, &chain->links[i].tree);
        for (size_t k = 0; err == 0 && k < chain->parts.count; k++)
            err = objects_keep(objects, chain->store, &chain->links[i].entries[k].id);
    }
    return err;
}

/* The whole payload */

struct reading {
    struct chain *chain;
    struct buf *payload;
};

static int part_work(void *context, unsigned member, size_t piece)
{
    struct reading *reading = context;
    const struct frame_part *part = &reading->chain->parts.parts[piece];
    AUTO_PART(read);

    (void)member;
    int err = chain_read(&read, reading->chain, piece, LIMIT_FRAME_DEPTH);
    if (err < 0)
        return err;
    assert(read.bytes.len == part->bytes);
    if (reading->chain->parts.count == 1)
        *reading->payload = buf_take(&read.bytes);
    else
        memcpy(reading->payload->data + part->begin, read.bytes.data, read.bytes.len);
    return 0;
}

int payload_read(struct buf *out, struct chain *chain)
{
    AUTO_BUF(payload);
    struct reading reading = {chain, &payload};
    const struct frame_parts *parts = &chain->parts;
    const struct frame_part *last = &parts->parts[parts->count - 1];
    int err = 0;

    if (parts->count > 1 && (err = buf_reserve(&payload, last->begin + last->bytes)) < 0)
        return err;
    if ((err = crew_run(part_work, &reading, parts->count, crew_size(parts->count))) < 0 ||
        (err = chain_check(chain)) < 0)
        return err;
    payload.len = last->begin + last->bytes;
    *out = buf_take(&payload);
    return 0;
}
