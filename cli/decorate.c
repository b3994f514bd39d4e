/* Which branches and tags stand at a commit. See decorate.h. */
#include "cli/decorate.h"

#include <stdlib.h>
#include <string.h>

struct decoration {
    const struct ref *ref;
    size_t order;
};

static int commit_compare(const struct commit_id *a, const struct commit_id *b)
{
    return memcmp(a->bytes, b->bytes, sizeof(a->bytes));
}

static int decoration_compare(const void *a_of, const void *b_of)
{
    const struct decoration *a = a_of, *b = b_of;
    int order = commit_compare(&a->ref->commit, &b->ref->commit);

    if (order)
        return order;
    if (a->ref->current != b->ref->current)
        return a->ref->current ? -1 : 1;
    return a->order < b->order ? -1 : a->order > b->order;
}

static int decorations_sort(struct decorations *out)
{
    const struct refs *const kinds[] = {&out->branches, &out->remotes, &out->tags};
    size_t total = out->branches.count + out->remotes.count + out->tags.count;

    if (!(out->sorted = array_new(total, sizeof(*out->sorted))))
        return E_NOMEM;
    for (size_t k = 0; k < 3; k++) {
        for (size_t i = 0; i < kinds[k]->count; i++, out->count++)
            out->sorted[out->count] = (struct decoration){&kinds[k]->refs[i], out->count};
    }
    qsort(out->sorted, out->count, sizeof(*out->sorted), decoration_compare);
    return 0;
}

int decorations_read(struct decorations *out, struct cli *cli)
{
    int err;

    if ((err = store_refs(&out->branches, cli->store, REF_BRANCH)) ||
        (err = store_refs(&out->remotes, cli->store, REF_REMOTE)) ||
        (err = store_refs(&out->tags, cli->store, REF_TAG)))
        return err;
    return decorations_sort(out);
}

int decorations_take(
    struct decorations *out, struct refs *branches, struct refs *tags, struct refs *remotes
)
{
    out->branches = *branches;
    out->tags = *tags;
    out->remotes = *remotes;
    *branches = *tags = *remotes = (struct refs){0};
    return decorations_sort(out);
}

void decorations_release(struct decorations *decorations)
{
    free(decorations->sorted);
    refs_release(&decorations->branches);
    refs_release(&decorations->tags);
    refs_release(&decorations->remotes);
    *decorations = (struct decorations){0};
}

/* The first one of a commit, or `count`. */
static size_t find_first(const struct decorations *decorations, const struct commit_id *commit)
{
    size_t low = 0, high = decorations->count;

    while (low < high) {
        size_t middle = low + (high - low) / 2;
        if (commit_compare(&decorations->sorted[middle].ref->commit, commit) < 0)
            low = middle + 1;
        else
            high = middle;
    }
    return low;
}

static bool
is_at(const struct decorations *decorations, size_t index, const struct commit_id *commit)
{
    return index < decorations->count &&
           commit_equal(&decorations->sorted[index].ref->commit, commit);
}

int decorate(struct buf *out, const struct decorations *decorations, const struct commit_id *commit)
{
    size_t first = find_first(decorations, commit), i;
    int err = 0;

    for (i = first; !err && is_at(decorations, i, commit); i++) {
        const struct ref *ref = decorations->sorted[i].ref;
        err = buf_printf(
            out, "%s%s%s%s", i == first ? " (" : ", ", ref->current ? "HEAD -> " : "",
            ref->kind == REF_TAG ? "tag: " : "", ref->name
        );
    }
    return err || i == first ? err : buf_append_text(out, ")");
}

void decorate_json(
    struct json_writer *writer,
    const struct decorations *decorations,
    const struct commit_id *commit
)
{
    json_write_array_begin(writer);
    for (size_t i = find_first(decorations, commit); is_at(decorations, i, commit); i++) {
        const struct ref *ref = decorations->sorted[i].ref;
        if (ref->kind == REF_BRANCH)
            json_write_text(writer, ref->name);
    }
    json_write_array_end(writer);
}

const char *decorate_branch(const struct decorations *decorations, const struct commit_id *commit)
{
    size_t first = find_first(decorations, commit);

    if (!is_at(decorations, first, commit) || decorations->sorted[first].ref->kind != REF_BRANCH)
        return NULL;
    return decorations->sorted[first].ref->name;
}
