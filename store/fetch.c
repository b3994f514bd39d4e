/* Versions of another repository become ours. See fetch.h. */
#include "store/fetch.h"

#include <stdlib.h>
#include <string.h>

#include "store/ancestry.h"
#include "store/fetch_refs.h"
#include "store/refs.h"

/* What was done */

void transfer_release(struct transfer_result *result)
{
    for (size_t i = 0; i < result->count; i++) {
        free(result->refs[i].name);
        free(result->refs[i].why);
    }
    free(result->refs);
    *result = (struct transfer_result){0};
}

int transfer_add(
    struct transfer_result *result,
    const struct ref_change *change,
    enum push_status status,
    const char *why
)
{
    int err = array_grow(
        &result->refs, &result->capacity, result->count + 1, sizeof(*result->refs)
    );

    if (err < 0)
        return err;
    struct moved_ref *ref = &result->refs[result->count];
    *ref = (struct moved_ref){
        .status = status,
        .has_old = change->has_old,
        .has_new = change->has_new,
        .old = change->old,
        .new = change->new,
    };
    ref->name = bytes_dup(text_bytes(change->name));
    ref->why = why ? bytes_dup(text_bytes(why)) : NULL;
    result->count++;
    return ref->name && (ref->why || !why) ? 0 : error_wrap(E_NOMEM, "refs");
}

/* Which refs are ours for theirs */

void refspecs_release(struct refspecs *specs)
{
    for (size_t i = 0; i < specs->count; i++)
        git_refspec_free(specs->list[i]);
    free(specs->list);
    free(specs->sources);
    *specs = (struct refspecs){0};
}

static int refspec_add(struct refspecs *specs, const char *text)
{
    git_refspec *spec = NULL;

    int code = git_refspec_parse(&spec, text, true);
    if (code < 0 || !git_refspec_dst(spec) || !*git_refspec_dst(spec)) {
        git_refspec_free(spec);
        return error_set(E_INVALID, "'%s' says not where refs of the remote go", text);
    }
    specs->sources[specs->count] = git_refspec_src(spec);
    specs->list[specs->count++] = spec;
    return 0;
}

int refspecs_make(struct refspecs *out, const struct remote *remote)
{
    size_t count = remote->spec_count ? remote->spec_count : 1;
    AUTO_BUF(usual);

    out->list = array_new(count, sizeof(*out->list));
    out->sources = array_new(count + 1, sizeof(*out->sources));
    if (!out->list || !out->sources)
        return error_wrap(E_NOMEM, "refs");
    int err = buf_printf(&usual, "+" REF_HEADS "*:" REF_REMOTES "%s/*", remote->name);
    if (err == 0 && !remote->spec_count)
        err = refspec_add(out, (const char *)usual.data);
    for (size_t i = 0; err == 0 && i < remote->spec_count; i++)
        err = refspec_add(out, remote->specs[i]);
    out->source_count = out->count;
    if (err == 0 && !remote->no_tags)
        out->sources[out->source_count++] = REF_TAGS "*";
    return err < 0 ? error_wrap(err, "remote '%s'", remote->name) : 0;
}

static bool is_tag(const char *name)
{
    return strncmp(name, REF_TAGS, strlen(REF_TAGS)) == 0;
}

/* *out stays NULL where it goes nowhere. A tag goes to its own name. */
static int place_find(char **out, bool *force, const struct refspecs *specs, const char *name)
{
    *force = false;
    for (size_t i = 0; i < specs->count; i++) {
        git_buf place = {0};
        if (!git_refspec_src_matches(specs->list[i], name))
            continue;
        int code = git_refspec_transform(&place, specs->list[i], name);
        if (code < 0)
            return git_failed(code, "%s", name);
        *force = git_refspec_force(specs->list[i]);
        *out = bytes_dup(text_bytes(place.ptr));
        git_buf_dispose(&place);
        return *out ? 0 : error_wrap(E_NOMEM, "refs");
    }
    if (!is_tag(name))
        return 0;
    return (*out = bytes_dup(text_bytes(name))) ? 0 : error_wrap(E_NOMEM, "refs");
}

/* What becomes of each */

void ref_plan_release(struct ref_plan *plan)
{
    for (size_t i = 0; i < plan->count; i++)
        free(plan->names[i]);
    free(plan->names);
    free(plan->changes);
    transfer_release(&plan->result);
    ancestry_release(&plan->ancestry);
    *plan = (struct ref_plan){0};
}

int ref_plan_init(struct ref_plan *out, struct store *store)
{
    out->store = store;
    return ancestry_init(&out->ancestry, store);
}

/* The name is the plan's from now on. */
static int change_add(struct ref_plan *plan, char *name, struct ref_change change)
{
    AUTO_FREE(char, owned);
    int err;

    owned = name;
    if ((err = array_grow(&plan->changes, &plan->capacity, plan->count + 1, sizeof(*plan->changes))
        ) < 0 ||
        (err = array_grow(&plan->names, &plan->name_capacity, plan->count + 1, sizeof(*plan->names))
        ) < 0)
        return err;
    plan->changes[plan->count] = change;
    plan->names[plan->count++] = owned;
    owned = NULL;
    return 0;
}

/* A damaged history tells nothing: then it is not known to go on. */
static int move_judge(
    enum push_status *out, struct ref_plan *plan, const struct ref_change *change, bool force
)
{
    const struct commit_id old = commit_id_of(&change->old), new = commit_id_of(&change->new);
    bool reaches = false;

    if (!change->has_old) {
        *out = PUSH_CREATED;
        return 0;
    }
    int err = ancestry_reaches(&reaches, &plan->ancestry, &new, 1, &old);
    if (err < 0 && err != E_CORRUPT)
        return err;
    *out = err == 0 && reaches ? PUSH_MOVED : force ? PUSH_FORCED : PUSH_REFUSED;
    return 0;
}

/* A name that this program would not give: skipped, so that the others can be had. */
static bool name_is_fit(const char *name)
{
    size_t prefix = is_tag(name) ? strlen(REF_TAGS) : strlen(REF_HEADS);

    return (!is_tag(name) && strncmp(name, REF_HEADS, prefix) != 0) ||
           branch_name_check(name + prefix) == 0;
}

static int
ref_judge(struct ref_plan *plan, const struct arrived_ref *arrived, char **place, bool force)
{
    struct ref_change change = {.name = *place, .has_new = true, .new = arrived->id};
    enum push_status status;

    int err = ref_read(&change.has_old, &change.old, plan->store, *place);
    if (err < 0)
        return err;
    if (change.has_old && git_oid_equal(&change.old, &change.new))
        return 0;
    if (!name_is_fit(arrived->name))
        return transfer_add(&plan->result, &change, PUSH_REFUSED, "not a name that vera allows");
    if (change.has_old && is_tag(*place))
        return transfer_add(&plan->result, &change, PUSH_REFUSED, "the tag is here, and another");
    if ((err = move_judge(&status, plan, &change, force)) < 0)
        return err;
    const char *why = status == PUSH_REFUSED ? "what is there does not go on from what is here"
                                             : NULL;
    if ((err = transfer_add(&plan->result, &change, status, why)) < 0 || why)
        return err;
    char *name = *place;
    *place = NULL;
    return change_add(plan, name, change);
}

int ref_plan_add(struct ref_plan *plan, const struct refspecs *specs, const struct arrival *arrival)
{
    int err = 0;

    for (size_t i = 0; err == 0 && i < arrival->count; i++) {
        AUTO_FREE(char, place);
        bool force;
        if ((err = place_find(&place, &force, specs, arrival->refs[i].name)) == 0 && place)
            err = ref_judge(plan, &arrival->refs[i], &place, force);
    }
    return err;
}

/* What is gone there */

struct pruning {
    struct ref_plan *plan;
    const struct refspecs *specs;
    const struct arrival *arrival;
};

static bool is_there(const struct pruning *pruning, const char *name)
{
    const struct arrival *arrival = pruning->arrival;
    size_t from = 0, to = arrival->count;

    while (from < to) {
        size_t middle = from + (to - from) / 2;
        int order = strcmp(name, arrival->refs[middle].name);
        if (order == 0)
            return true;
        if (order < 0)
            to = middle;
        else
            from = middle + 1;
    }
    return false;
}

static int prune_visit(void *context, const char *name, const git_oid *target)
{
    const struct pruning *pruning = context;
    bool is_seen = false, is_ours = false;

    for (size_t i = 0; i < pruning->specs->count; i++) {
        git_buf source = {0};
        const git_refspec *spec = pruning->specs->list[i];
        if (!git_refspec_dst_matches(spec, name) || git_refspec_rtransform(&source, spec, name) < 0)
            continue;
        is_ours = true;
        is_seen |= is_there(pruning, source.ptr);
        git_buf_dispose(&source);
    }
    if (!is_ours || is_seen)
        return 0;
    struct ref_change change = {.has_old = true, .old = *target};
    char *copy = bytes_dup(text_bytes(name));
    if (!copy)
        return error_wrap(E_NOMEM, "refs");
    change.name = copy;
    int err = change_add(pruning->plan, copy, change);
    return err < 0 ? err : transfer_add(&pruning->plan->result, &change, PUSH_DELETED, NULL);
}

int ref_plan_prune(
    struct ref_plan *plan, const struct refspecs *specs, const struct arrival *arrival
)
{
    struct pruning pruning = {plan, specs, arrival};

    return refs_each(plan->store, "refs/", prune_visit, &pruning);
}

/* Moving */

/* Between its arrival and the lock that is held now a gc may have dropped it. */
static int tips_look(const struct ref_plan *plan)
{
    for (size_t i = 0; i < plan->count; i++) {
        const struct ref_change *change = &plan->changes[i];
        if (change->has_new && !git_odb_exists(plan->store->odb, &change->new))
            return error_set(
                E_CONFLICT, "%s: what was fetched for it was dropped by a gc meanwhile",
                change->name
            );
    }
    return 0;
}

static int result_compare(const void *a, const void *b)
{
    return strcmp(((const struct moved_ref *)a)->name, ((const struct moved_ref *)b)->name);
}

int ref_plan_move(struct transfer_result *out, struct ref_plan *plan, const char *why)
{
    size_t gone = 0;

    while (gone < plan->count && !plan->changes[gone].has_new)
        gone++;
    int err = tips_look(plan);
    if (err == 0)
        err = refs_move_many(plan->store, plan->changes, gone, why);
    if (err == 0)
        err = refs_move_many(plan->store, plan->changes + gone, plan->count - gone, why);
    if (err < 0)
        return err;
    if (plan->result.count)
        qsort(plan->result.refs, plan->result.count, sizeof(*plan->result.refs), result_compare);
    *out = plan->result;
    plan->result = (struct transfer_result){0};
    return 0;
}

static int refs_update(
    struct transfer_result *out,
    struct store *store,
    const struct refspecs *specs,
    const struct arrival *arrival,
    const struct fetch_request *request
)
{
    AUTO_LOCK(lock);
    AUTO_REF_PLAN(plan);
    AUTO_BUF(why);
    int err;

    if ((err = lock_write(&lock, store)) < 0 || (err = ref_plan_init(&plan, store)) < 0 ||
        (request->prune && (err = ref_plan_prune(&plan, specs, arrival)) < 0) ||
        (err = ref_plan_add(&plan, specs, arrival)) < 0 ||
        (err = buf_printf(&why, "fetch %s", request->remote)) < 0)
        return err;
    err = ref_plan_move(out, &plan, (const char *)why.data);
    return err == E_EXISTS && !request->prune
               ? error_hint(
                     err, "'vera fetch %s --prune' drops what is gone there", request->remote
                 )
               : err;
}

int store_fetch(
    struct transfer_result *out, struct store *store, const struct fetch_request *request
)
{
    AUTO_REMOTE(remote);
    AUTO_REFSPECS(specs);
    AUTO_ARRIVAL(arrival);
    AUTO_TRANSFER(result);
    int err;

    if ((err = remote_find(&remote, store, request->remote)) < 0 ||
        (err = refspecs_make(&specs, &remote)) < 0)
        return err;
    const struct arrival_request wanted = {
        .url = remote.url,
        .specs = specs.sources,
        .spec_count = specs.source_count,
        .max_bytes = request->max_bytes,
        .stall_seconds = request->stall_seconds,
        .progress = request->progress,
    };
    if ((err = arrival_fetch(&arrival, store, &wanted)) < 0 ||
        (err = refs_update(&result, store, &specs, &arrival, request)) < 0)
        return err;
    result.bytes = arrival.bytes;
    result.objects = arrival.objects;
    result.versions = arrival.versions;
    *out = result;
    result = (struct transfer_result){0};
    return 0;
}
