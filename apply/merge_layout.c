#include "apply/merge_layout.h"

#include <stdlib.h>
#include <string.h>

int pieces_add(
    struct pieces *pieces, const struct tensor *tensor, struct bytes data, struct buf *owned
)
{
    /* The list doubles whenever its length is a power of two. */
    if ((pieces->count & (pieces->count - 1)) == 0) {
        size_t room = pieces->count ? pieces->count * 2 : 1;
        struct piece *grown = realloc(pieces->items, room * sizeof(*grown));
        if (!grown)
            return error_set(E_NOMEM, "out of memory for %zu tensors", room);
        pieces->items = grown;
    }
    struct piece *piece = &pieces->items[pieces->count++];
    *piece = (struct piece){.tensor = tensor, .data = data};
    if (owned) {
        piece->owned = buf_take(owned);
        piece->data = buf_bytes(&piece->owned);
    }
    return 0;
}

void pieces_release(struct pieces *pieces)
{
    for (size_t i = 0; i < pieces->count; i++)
        buf_release(&pieces->items[i].owned);
    free(pieces->items);
    *pieces = (struct pieces){0};
}

struct bytes layout_bytes(const struct layout *layout, const struct tensor *tensor)
{
    const uint8_t *data = layout->file.data + layout->table->header_bytes;

    return (struct bytes){data + tensor->begin, (size_t)tensor_bytes(tensor)};
}

int tensor_order(const struct tensor *a, const struct tensor *b)
{
    size_t shorter = a->name_len < b->name_len ? a->name_len : b->name_len;
    int order = memcmp(a->name, b->name, shorter);

    return order ? order : (a->name_len > b->name_len) - (a->name_len < b->name_len);
}

static int piece_compare(const void *a, const void *b)
{
    return tensor_order(((const struct piece *)a)->tensor, ((const struct piece *)b)->tensor);
}

bool tensor_is_alike(const struct tensor *a, const struct tensor *b)
{
    return a->dtype == b->dtype && a->dims == b->dims &&
           (a->dims == 0 || memcmp(a->shape, b->shape, a->dims * sizeof(*a->shape)) == 0);
}

/* Has the table these tensors, in these types and shapes, and no others? Both are sorted. */
static bool is_layout_of(const struct safetensors *table, const struct pieces *pieces)
{
    if (table->count != pieces->count)
        return false;
    for (size_t i = 0; i < table->count; i++) {
        const struct tensor *tensor = &table->tensors[table->by_name[i]];
        const struct tensor *piece = pieces->items[i].tensor;
        if (tensor_order(tensor, piece) != 0 || !tensor_is_alike(tensor, piece))
            return false;
    }
    return true;
}

static struct bytes header(const struct layout *layout)
{
    return (struct bytes){layout->file.data, (size_t)layout->table->header_bytes};
}

/* Are all pieces this side's, which has these tensors and no others? */
static bool is_whole(const struct layout *side, const struct pieces *pieces)
{
    for (size_t i = 0; i < pieces->count; i++) {
        const struct tensor *tensor = &side->table->tensors[side->table->by_name[i]];
        if (!bytes_equal(layout_bytes(side, tensor), pieces->items[i].data))
            return false;
    }
    return true;
}

/* The side whose header serves as it is, or NULL. */
static const struct layout *side_choose(
    const struct pieces *pieces,
    const struct layout *base,
    const struct layout *ours,
    const struct layout *theirs
)
{
    bool is_ours = is_layout_of(ours->table, pieces),
         is_theirs = is_layout_of(theirs->table, pieces);
    bool is_changed = !bytes_equal(header(ours), header(base));

    if (is_theirs && (!is_changed || (!is_ours && is_whole(theirs, pieces))))
        return theirs;
    return is_ours ? ours : NULL;
}

static int side_write(
    struct buf *out, const struct layout *side, const struct pieces *pieces, const size_t *places
)
{
    struct bytes head = header(side);
    int err = buf_reserve(out, head.len + (size_t)side->table->data_bytes);

    if (err == 0)
        err = buf_append(out, head.data, head.len);
    for (size_t i = 0; err == 0 && i < pieces->count; i++) {
        const struct piece *piece = &pieces->items[places[i]];
        err = buf_append(out, piece->data.data, piece->data.len);
    }
    return err;
}

/* Where each tensor of the table, in file order, is among the pieces. */
static size_t *places_find(const struct safetensors *table)
{
    size_t *places = array_new(table->count, sizeof(*places));

    for (size_t i = 0; places && i < table->count; i++)
        places[table->by_name[i]] = i;
    return places;
}

/* A new header */

/* As safetensors' own writer orders a file: by type, high to low, then by name. */
static bool stands_before(const struct tensor *a, const struct tensor *b)
{
    return a->dtype != b->dtype ? a->dtype > b->dtype : tensor_order(a, b) < 0;
}

static int piece_order(const void *a, const void *b)
{
    const struct tensor *x = (*(const struct piece *const *)a)->tensor;
    const struct tensor *y = (*(const struct piece *const *)b)->tensor;

    return stands_before(y, x) - stands_before(x, y);
}

static const struct piece *piece_find(const struct pieces *pieces, const struct tensor *tensor)
{
    const struct piece wanted = {.tensor = tensor};

    return bsearch(&wanted, pieces->items, pieces->count, sizeof(*pieces->items), piece_compare);
}

/* Ours in their order, and before each of them the new ones that belong there. */
static int
pieces_order(const struct piece **out, const struct pieces *pieces, const struct safetensors *ours)
{
    AUTO_FREE(const struct piece *, fresh);
    AUTO_FREE(bool, is_ours);
    size_t fresh_count = 0, next = 0, count = 0;

    fresh = array_new(pieces->count, sizeof(const struct piece *));
    is_ours = array_new(pieces->count, sizeof(*is_ours));
    if (!fresh || !is_ours)
        return error_wrap(E_NOMEM, "layout");
    for (size_t i = 0; i < ours->count; i++) {
        const struct piece *piece = piece_find(pieces, &ours->tensors[i]);
        if (piece)
            is_ours[piece - pieces->items] = true;
    }
    for (size_t i = 0; i < pieces->count; i++) {
        if (!is_ours[i])
            fresh[fresh_count++] = &pieces->items[i];
    }
    qsort(fresh, fresh_count, sizeof(const struct piece *), piece_order);
    for (size_t i = 0; i < ours->count; i++) {
        const struct piece *piece = piece_find(pieces, &ours->tensors[i]);
        if (!piece)
            continue;
        while (next < fresh_count && stands_before(fresh[next]->tensor, piece->tensor))
            out[count++] = fresh[next++];
        out[count++] = piece;
    }
    while (next < fresh_count)
        out[count++] = fresh[next++];
    return 0;
}

static int new_write(struct buf *out, const struct pieces *pieces, const struct layout *ours)
{
    AUTO_FREE(const struct piece *, order);
    AUTO_FREE(struct tensor, tensors);
    uint64_t at = 0;
    int err;

    order = array_new(pieces->count, sizeof(const struct piece *));
    tensors = array_new(pieces->count, sizeof(*tensors));
    if (!order || !tensors)
        return error_wrap(E_NOMEM, "layout");
    if ((err = pieces_order(order, pieces, ours->table)) < 0)
        return err;
    for (size_t i = 0; i < pieces->count; i++) {
        tensors[i] = *order[i]->tensor;
        tensors[i].begin = at;
        tensors[i].end = at += order[i]->data.len;
    }
    err = safetensors_encode_like(out, header(ours), tensors, pieces->count);
    for (size_t i = 0; err == 0 && i < pieces->count; i++)
        err = buf_append(out, order[i]->data.data, order[i]->data.len);
    return err;
}

int layout_merge(
    struct buf *out,
    struct pieces *pieces,
    const struct layout *base,
    const struct layout *ours,
    const struct layout *theirs
)
{
    AUTO_FREE(size_t, places);

    if (pieces->count)
        qsort(pieces->items, pieces->count, sizeof(*pieces->items), piece_compare);
    const struct layout *side = side_choose(pieces, base, ours, theirs);
    if (!side)
        return new_write(out, pieces, ours);
    if (!(places = places_find(side->table)))
        return error_wrap(E_NOMEM, "layout");
    return side_write(out, side, pieces, places);
}
