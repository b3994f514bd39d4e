/*
 * Pushing to a repository on this machine: it takes from us as it would fetch, and then its refs
 * move under its own locks, by compare-and-swap. (libgit2's push to a path has none of this.)
 */
#include <stdlib.h>
#include <string.h>

#include "format/file.h"
#include "store/arrival_child.h"
#include "store/push_plan.h"
#include "store/refs.h"

static int olds_read(struct store *theirs, const struct push_request *request)
{
    int err = 0;

    for (size_t i = 0; err == 0 && i < request->count; i++) {
        struct push_ref *ref = &request->refs[i];
        err = ref_read(&ref->has_old, &ref->old, theirs, ref->name);
    }
    return err;
}

/* Ours may have moved since they were judged: what arrived is what is set. */
static int news_take(const struct arrival *arrival, const struct push_request *request)
{
    for (size_t i = 0; i < request->count; i++) {
        struct push_ref *ref = &request->refs[i];
        bool found = ref->is_deletion || ref->status == PUSH_UP_TO_DATE;
        for (size_t k = 0; k < arrival->count && !found; k++) {
            found = strcmp(arrival->refs[k].name, ref->name) == 0 &&
                    git_oid_equal(&arrival->refs[k].id, &ref->new);
        }
        if (!found)
            return error_set(E_CONFLICT, "%s moved meanwhile", ref->name);
    }
    return 0;
}

static int objects_send(
    struct push_result *out,
    struct store *store,
    struct store *theirs,
    const struct push_request *request
)
{
    AUTO_ARRIVAL(arrival);
    AUTO_FREE(const char *, specs);
    size_t count = 0;

    if (!(specs = array_new(request->count, sizeof(*specs))))
        return error_wrap(E_NOMEM, "push");
    for (size_t i = 0; i < request->count; i++) {
        const struct push_ref *ref = &request->refs[i];
        if (!ref->is_deletion && ref->status != PUSH_UP_TO_DATE)
            specs[count++] = ref->name;
    }
    if (!count)
        return 0;
    const struct arrival_request fetch = {
        .url = store_path(store),
        .specs = specs,
        .spec_count = count,
        .progress = request->progress,
    };
    int err = arrival_fetch(&arrival, theirs, &fetch);
    if (err < 0 || (err = news_take(&arrival, request)) < 0)
        return err;
    out->bytes = arrival.bytes;
    out->objects = arrival.objects;
    return 0;
}

/* What leaves a branch or tag of a vera repository stays in its trash. */
static int trash_add(
    struct ref_change *changes,
    char **name,
    size_t *count,
    struct store *theirs,
    const struct push_ref *ref
)
{
    bool lost = ref->status == PUSH_FORCED || ref->status == PUSH_DELETED;
    const char *kind_end = strchr(ref->name + strlen("refs/"), '/');

    if (!lost || !kind_end || strcmp(path_name(store_path(theirs)), ".vera") != 0)
        return 0;
    int err = trash_name(name, theirs, kind_end + 1);
    if (err == 0)
        changes[(*count)++] = (struct ref_change){.name = *name, .has_new = true, .new = ref->old};
    return err;
}

struct moves {
    struct ref_change *changes;
    char **trash; /* names that the changes point to */
    size_t count, trash_count;
};

static void moves_release(struct moves *moves)
{
    for (size_t i = 0; i < moves->trash_count; i++)
        free(moves->trash[i]);
    free(moves->trash);
    free(moves->changes);
}

static int moves_make(struct moves *moves, struct store *theirs, const struct push_request *request)
{
    int err = 0;

    if (!(moves->changes = array_new(2 * request->count, sizeof(*moves->changes))) ||
        !(moves->trash = array_new(request->count, sizeof(char *))))
        return error_wrap(E_NOMEM, "push");
    moves->trash_count = request->count;
    for (size_t i = 0; err == 0 && i < request->count; i++) {
        const struct push_ref *ref = &request->refs[i];
        if (ref->status == PUSH_UP_TO_DATE)
            continue;
        err = trash_add(moves->changes, &moves->trash[i], &moves->count, theirs, ref);
        moves->changes[moves->count++] = (struct ref_change){
            .name = ref->name,
            .has_old = ref->has_old,
            .has_new = ref->has_new,
            .old = ref->old,
            .new = ref->new,
        };
    }
    return err;
}

static int refs_set(struct store *theirs, const struct push_request *request)
{
    __attribute__((cleanup(moves_release))) struct moves moves = {0};
    AUTO_LOCK(lock);
    int err;

    if ((err = lock_write(&lock, theirs)) < 0 || (err = moves_make(&moves, theirs, request)) < 0)
        return err;
    return moves.count ? refs_move(theirs, moves.changes, moves.count, "push") : 0;
}

/* A repository whose HEAD leads nowhere is one that git calls broken when it clones it. */
static int current_keep(struct store *theirs, const struct push_request *request, size_t *refused)
{
    AUTO_FREE(char, branch);
    struct commit_id tip;
    bool has_tip;

    int err = store_head(&branch, &tip, &has_tip, theirs);
    for (size_t i = 0; err == 0 && branch && i < request->count; i++) {
        struct push_ref *ref = &request->refs[i];
        if (!ref->is_deletion || ref->status == PUSH_REFUSED ||
            strncmp(ref->name, REF_HEADS, strlen(REF_HEADS)) != 0 ||
            strcmp(ref->name + strlen(REF_HEADS), branch) != 0)
            continue;
        err = push_why(ref, "it is the current branch there");
        (*refused)++;
    }
    return err;
}

int push_to_path(struct push_result *out, struct store *store, const struct push_request *request)
{
    AUTO_STORE(theirs);
    size_t refused = 0;
    int err;

    if ((err = path_open(&theirs, request->url)) < 0 || (err = olds_read(theirs, request)) < 0 ||
        (err = push_judge(&refused, store, request->refs, request->count)) < 0 ||
        (err = current_keep(theirs, request, &refused)) < 0)
        return err;
    if (refused)
        return push_refused(request->url, request->refs, request->count);
    if ((err = objects_send(out, store, theirs, request)) < 0)
        return err;
    err = refs_set(theirs, request);
    if (err != E_CONFLICT)
        return err;
    err = error_wrap(err, "%s", request->url);
    return error_hint(err, "somebody else pushed at the same time: vera pull, then push again");
}
