/*
 * Where two lines of history parted: the common ancestors that no other one has among its own.
 *
 * Both tips are followed back, the newest commit first, each commit marked with the tips that reach
 * it. What both reach is a candidate, and what lies behind it is old: old commits are followed only
 * as long as others are left, so the walk ends near the place where the lines part. Where clocks
 * ran backwards a candidate may be another one's ancestor all the same; those are sorted out in the
 * end.
 *
 * A commit that a shallow clone is cut at, and that one tip alone reaches, may have anything behind
 * it, the true base too: then there is no answer. One that both reach is as good as whole.
 */
#include <stdlib.h>
#include <string.h>

#include "store/heap.h"

enum { FROM_A = 1, FROM_B = 2, BOTH = 3, OLD = 4 };

struct walk {
    struct ancestry ancestry;
    struct heap heap;
    uint8_t *marks; /* by index in the ancestry */
    bool *waits;    /* in the heap, likewise */
    size_t marks_capacity, waits_capacity;
    size_t fresh;       /* in the heap and not old */
    size_t *candidates; /* old by now, where another one's ancestors */
    size_t count, capacity;
};

static void walk_release(struct walk *walk)
{
    ancestry_release(&walk->ancestry);
    heap_release(&walk->heap);
    free(walk->marks);
    free(walk->waits);
    free(walk->candidates);
}

/* A commit is looked at again whenever it gets a mark that it had not. */
static int walk_mark(struct walk *walk, const git_oid *id, uint8_t marks)
{
    size_t commit;
    int err;

    if ((err = ancestry_read(&commit, &walk->ancestry, id)) < 0 ||
        (err = array_grow(&walk->marks, &walk->marks_capacity, commit + 1, sizeof(*walk->marks))) <
            0 ||
        (err = array_grow(&walk->waits, &walk->waits_capacity, commit + 1, sizeof(*walk->waits))) <
            0)
        return err;
    uint8_t before = walk->marks[commit];
    if ((before | marks) == before)
        return 0;
    walk->marks[commit] |= marks;
    bool was_fresh = walk->waits[commit] && !(before & OLD);
    if (!walk->waits[commit] && (err = heap_push(&walk->heap, &walk->ancestry, commit)) < 0)
        return err;
    walk->waits[commit] = true;
    walk->fresh += !(walk->marks[commit] & OLD);
    walk->fresh -= was_fresh;
    return 0;
}

static int walk_step(struct walk *walk)
{
    size_t commit = heap_pop(&walk->heap);
    uint8_t marks = walk->marks[commit];
    int err = 0;

    walk->waits[commit] = false;
    walk->fresh -= !(marks & OLD);
    if (marks == BOTH) {
        err = array_grow(
            &walk->candidates, &walk->capacity, walk->count + 1, sizeof(*walk->candidates)
        );
        if (err < 0)
            return err;
        walk->candidates[walk->count++] = commit;
        marks |= OLD; /* to its parents; a candidate itself is old only behind another one */
    }
    /* Reading may move the array of commits; the parents' positions stay. */
    const struct ancestor taken = walk->ancestry.commits[commit];
    for (size_t p = taken.parents_begin; err == 0 && p < taken.parents_end; p++) {
        git_oid parent = walk->ancestry.parents[p];
        err = walk_mark(walk, &parent, marks);
    }
    return err;
}

static int unknown(const struct store *store)
{
    int err = error_set(
        E_UNSUPPORTED, "this clone is shallow: where the two histories parted is not in it"
    );

    return error_hint(err, "git --git-dir=%s fetch --unshallow", store->path);
}

/* Of the first `count` commits that were read. */
static int boundary_check(const struct walk *walk, size_t count)
{
    for (size_t i = 0; i < count; i++) {
        if (walk->ancestry.commits[i].is_cut && (walk->marks[i] & BOTH) != BOTH)
            return unknown(walk->ancestry.store);
    }
    return 0;
}

static void candidates_filter(struct walk *walk, const bool *leave_out)
{
    size_t count = 0;

    for (size_t i = 0; i < walk->count; i++) {
        if (!leave_out[i])
            walk->candidates[count++] = walk->candidates[i];
    }
    walk->count = count;
}

/* Which candidates does another one reach? */
static int candidates_reached(bool *out, struct walk *walk)
{
    struct ancestry *ancestry = &walk->ancestry;
    AUTO_FREE(struct commit_id, others);
    int err = 0;

    if (!(others = array_new(walk->count, sizeof(*others))))
        return error_wrap(E_NOMEM, "merge base");
    for (size_t i = 0; err == 0 && i < walk->count; i++) {
        struct commit_id id = commit_id_of(&ancestry->ids.ids[walk->candidates[i]]);
        size_t count = 0;
        for (size_t k = 0; k < walk->count; k++) {
            if (k != i)
                others[count++] = commit_id_of(&ancestry->ids.ids[walk->candidates[k]]);
        }
        err = ancestry_reaches(&out[i], ancestry, others, count, &id);
    }
    return err;
}

static int candidates_sort_out(struct walk *walk)
{
    AUTO_FREE(bool, leave_out);

    if (!(leave_out = array_new(walk->count, sizeof(*leave_out))))
        return error_wrap(E_NOMEM, "merge base");
    for (size_t i = 0; i < walk->count; i++)
        leave_out[i] = walk->marks[walk->candidates[i]] & OLD;
    candidates_filter(walk, leave_out);
    if (walk->count < 2)
        return 0;
    int err = candidates_reached(leave_out, walk);
    if (err == 0)
        candidates_filter(walk, leave_out);
    return err;
}

static bool is_better(const struct ancestry *ancestry, size_t a, size_t b)
{
    int64_t time_a = ancestry->commits[a].time, time_b = ancestry->commits[b].time;

    if (time_a != time_b)
        return time_a > time_b;
    return git_oid_cmp(&ancestry->ids.ids[a], &ancestry->ids.ids[b]) < 0;
}

static struct merge_base candidates_choose(const struct walk *walk)
{
    struct merge_base base = {.count = walk->count};
    size_t best = 0;

    for (size_t i = 1; i < walk->count; i++) {
        if (is_better(&walk->ancestry, walk->candidates[i], walk->candidates[best]))
            best = i;
    }
    if (walk->count)
        base.commit = commit_id_of(&walk->ancestry.ids.ids[walk->candidates[best]]);
    return base;
}

static int walk_to_end(struct walk *walk, const struct commit_id *a, const struct commit_id *b)
{
    const git_oid from_a = git_id(a), from_b = git_id(b);
    int err;

    if ((err = walk_mark(walk, &from_a, FROM_A)) < 0 ||
        (err = walk_mark(walk, &from_b, FROM_B)) < 0)
        return err;
    while (err == 0 && walk->fresh) {
        if ((err = interrupt_check()) == 0)
            err = walk_step(walk);
    }
    return err;
}

int store_merge_base(
    struct merge_base *out,
    struct store *store,
    const struct commit_id *a,
    const struct commit_id *b
)
{
    __attribute__((cleanup(walk_release))) struct walk walk = {0};
    int err;

    if ((err = ancestry_init(&walk.ancestry, store)) < 0 || (err = walk_to_end(&walk, a, b)) < 0)
        return err;
    size_t walked = walk.ancestry.ids.count;
    if ((err = candidates_sort_out(&walk)) < 0)
        return err;
    struct merge_base base = candidates_choose(&walk);
    /* A tip among the other's ancestors is the base, whatever the clone lacks. */
    bool is_tip = base.count && (commit_equal(&base.commit, a) || commit_equal(&base.commit, b));
    if (!is_tip && (err = boundary_check(&walk, walked)) < 0)
        return err;
    *out = base;
    return 0;
}

/* A commit's own change */

static int one_parent(const git_commit *commit, const char *hex)
{
    unsigned parents = git_commit_parentcount(commit);
    int err;

    if (parents == 1)
        return 0;
    if (parents == 0) {
        err = error_set(E_INVALID, "%.12s is the first version: it has no change to speak of", hex);
        return error_hint(err, "vera switch -c NAME %.12s makes a branch of it", hex);
    }
    err = error_set(E_INVALID, "%.12s is a merge: its change is another one for each parent", hex);
    return error_hint(
        err, "name one of the versions that it merged, %.12s^2 say; or vera merge", hex
    );
}

int store_parent(struct commit_id *out, struct store *store, const struct commit_id *commit)
{
    AUTO_ANCESTRY(ancestry);
    AUTO_GIT(git_commit, read);
    const git_oid id = git_id(commit);
    char hex[COMMIT_HEX_SIZE];
    size_t index;
    int err;

    commit_hex(hex, commit);
    if ((err = commit_read(&read, store, &id)) < 0 || (err = one_parent(read, hex)) < 0 ||
        (err = ancestry_init(&ancestry, store)) < 0 ||
        (err = ancestry_read(&index, &ancestry, &id)) < 0)
        return err;
    if (ancestry.commits[index].is_cut) {
        err = error_set(
            E_UNSUPPORTED, "this clone is shallow: what %.12s is a change of is not in it", hex
        );
        return error_hint(err, "git --git-dir=%s fetch --unshallow", store->path);
    }
    *out = commit_id_of(git_commit_parent_id(read, 0));
    return 0;
}
