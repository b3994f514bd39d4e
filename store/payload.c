/*
 * See payload.h. A frame's depth says how many trees are below it, so the trees are walked first
 * and each frame is read once. All trees of a chain have the parts that the layout makes; a part
 * whose frame is whole needs nothing below it, whatever the other parts do.
 */
#include "store/payload.h"

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>

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
    struct link links[LIMIT_FRAME_DEPTH + 1]; /* the newest first */
    size_t count;
};

static void chain_release(struct chain *chain)
{
    for (size_t i = 0; i < chain->count; i++)
        free(chain->links[i].entries);
    frame_parts_release(&chain->parts);
    free(chain->names);
}

void payload_release(struct payload *payload)
{
    buf_release(&payload->bytes);
    buf_release(&payload->base);
    free(payload->depths);
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

static int chain_begin(
    struct chain *chain,
    struct store *store,
    const git_oid *vectors,
    const struct safetensors *layout
)
{
    AUTO_FREE(struct frame_vector, list);
    size_t count = 0;

    chain->store = store;
    int err = frame_vectors(&list, &count, layout);
    if (err < 0 || (err = frame_parts_cut(&chain->parts, list, count, store->part_bytes)) < 0)
        return err;
    if (!(chain->names = array_new(chain->parts.count, sizeof(*chain->names))))
        return error_wrap(E_NOMEM, "vectors");
    for (size_t i = 0; i < chain->parts.count; i++)
        frame_name(chain->names[i], i);
    return link_add(chain, vectors);
}

/* Walk the trees below the newest one, to this depth. */
static int chain_extend(struct chain *chain, unsigned depth)
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

static int frame_wrap(int err, const struct entry *entry)
{
    return error_wrap(err, "object %s (%s)", git_oid_tostr_s(&entry->id), entry->name);
}

static int
frame_read(struct buf *out, const struct chain *chain, size_t link, const struct frame_part *part)
{
    const struct entry *entry = &chain->links[link].entries[part - chain->parts.parts];

    return entry_read(out, chain->store, entry, part->bytes + FRAME_OVERHEAD);
}

/* Two payloads of one part in a row. */
struct pair {
    struct buf now, before;
    struct digest now_digest, before_digest;
    bool has_before;
    unsigned depth; /* of the frame of `now` */
};

static void pair_release(struct pair *pair)
{
    buf_release(&pair->now);
    buf_release(&pair->before);
}

/* Decode one frame: what was `now` is `before`. `first`: the chain's whole frame. */
static int
pair_advance(struct pair *pair, struct bytes frame, const struct frame_part *part, bool first)
{
    struct frame_bases bases = {
        .x1 = buf_bytes(&pair->now),
        .digest1 = pair->now_digest,
        .x0 = pair->has_before ? buf_bytes(&pair->before) : (struct bytes){0},
        .digest0 = pair->before_digest,
        .depth = pair->depth,
    };
    struct frame_info info;
    AUTO_BUF(next);
    int err;

    if ((err = frame_inspect(&info, frame)) < 0 ||
        (err = frame_decode(&next, frame, part->vectors, part->count, first ? NULL : &bases)) < 0)
        return err;
    buf_release(&pair->before);
    pair->before = buf_take(&pair->now);
    pair->before_digest = pair->now_digest;
    pair->has_before = !first;
    pair->now = buf_take(&next);
    pair->now_digest = info.payload;
    pair->depth = info.depth;
    return 0;
}

/* One part, from its whole frame on. */
static int part_read(struct pair *pair, struct chain *chain, const struct frame_part *part)
{
    size_t index = (size_t)(part - chain->parts.parts);
    struct frame_info info;
    AUTO_BUF(newest);
    int err;

    if ((err = frame_read(&newest, chain, 0, part)) < 0)
        return err;
    if ((err = frame_inspect(&info, buf_bytes(&newest))) < 0)
        return frame_wrap(err, &chain->links[0].entries[index]);
    if ((err = chain_extend(chain, info.depth)) < 0)
        return err;
    for (size_t i = info.depth + 1; i-- > 0;) {
        AUTO_BUF(older);
        if (i && (err = frame_read(&older, chain, i, part)) < 0)
            return err;
        struct bytes frame = buf_bytes(i ? &older : &newest);
        if ((err = pair_advance(pair, frame, part, i == info.depth)) < 0)
            return frame_wrap(err, &chain->links[i].entries[index]);
        if ((err = interrupt_check()) < 0)
            return err;
    }
    return 0;
}

static int part_append(struct payload *payload, struct pair *pair, bool only)
{
    int err;

    if (only) {
        payload->bytes = buf_take(&pair->now);
        payload->digest = pair->now_digest;
        payload->base = buf_take(&pair->before);
        payload->base_digest = pair->before_digest;
        return 0;
    }
    if ((err = buf_append(&payload->bytes, pair->now.data, pair->now.len)) < 0 ||
        (err = buf_append(&payload->base, pair->before.data, pair->before.len)) < 0)
        return err;
    return buf_resize(&payload->base, payload->bytes.len);
}

static int digests_make(struct payload *payload)
{
    int err = digest_of(&payload->digest, buf_bytes(&payload->bytes));

    return err < 0 ? err : digest_of(&payload->base_digest, buf_bytes(&payload->base));
}

int payload_read(
    struct payload *out,
    struct store *store,
    const git_oid *vectors,
    const struct safetensors *layout
)
{
    __attribute__((cleanup(chain_release))) struct chain chain = {0};
    AUTO_PAYLOAD(payload);
    int err = chain_begin(&chain, store, vectors, layout);
    bool only = chain.parts.count == 1;

    if (err == 0 && !(payload.depths = array_new(chain.parts.count, sizeof(*payload.depths))))
        err = error_wrap(E_NOMEM, "vectors");
    for (size_t i = 0; err == 0 && i < chain.parts.count; i++) {
        __attribute__((cleanup(pair_release))) struct pair pair = {0};
        err = part_read(&pair, &chain, &chain.parts.parts[i]);
        payload.depths[i] = pair.depth;
        if (err == 0)
            err = part_append(&payload, &pair, only);
    }
    if (err == 0 && chain.count == 1 && chain.links[0].entries[chain.parts.count].found)
        err = entry_error(vectors, "base", "does not belong there: no frame is a difference");
    if (err == 0 && !only)
        err = digests_make(&payload);
    if (err < 0)
        return err;
    *out = payload;
    payload = (struct payload){0};
    return 0;
}
