/* A repository made of another one, and one version of another one by itself. See fetch.h. */
#include <stdlib.h>
#include <string.h>

#include "format/file.h"
#include "store/fetch_refs.h"
#include "store/oci_name.h"
#include "store/refs.h"

void clone_release(struct clone_result *result)
{
    transfer_release(&result->transfer);
    free(result->path);
    free(result->branch);
    *result = (struct clone_result){0};
}

static const char *branch_of(const char *ref)
{
    return ref && strncmp(ref, REF_HEADS, strlen(REF_HEADS)) == 0 ? ref + strlen(REF_HEADS) : NULL;
}

static const struct arrived_ref *arrived_find(const struct arrival *arrival, const char *name)
{
    for (size_t i = 0; name && i < arrival->count; i++) {
        if (strcmp(arrival->refs[i].name, name) == 0)
            return &arrival->refs[i];
    }
    return NULL;
}

/* Cloning: all of it happens where nobody looks yet */

struct cloning {
    const struct clone_request *request;
    const char *url;
    struct clone_result *result;
};

/* HEAD is where it is there, be it unborn, and that branch comes from there. A detached one says
   nothing. */
static int head_follow(struct cloning *cloning, struct store *store, const struct arrival *arrival)
{
    const struct arrived_ref *tip = arrived_find(arrival, arrival->head);
    const char *branch = branch_of(arrival->head);
    int err;

    if (!branch || branch_name_check(branch) < 0)
        return 0;
    struct ref_change change = {.name = arrival->head, .has_new = true};
    if (tip) {
        change.new = tip->id;
        if ((err = refs_move(store, &change, 1, "clone")) < 0)
            return err;
    }
    if ((cloning->request->shallow && !arrival->is_whole &&
         (err = remote_narrow(store, REMOTE_DEFAULT, branch)) < 0) ||
        (err = head_move(store, arrival->head, "clone")) < 0 ||
        (err = upstream_set(store, branch, REMOTE_DEFAULT, branch)) < 0)
        return err;
    if (tip && !(cloning->result->branch = bytes_dup(text_bytes(branch))))
        return error_wrap(E_NOMEM, "%s", branch);
    return 0;
}

static int refs_follow(struct cloning *cloning, struct store *store, const struct arrival *arrival)
{
    AUTO_LOCK(lock);
    AUTO_REMOTE(remote);
    AUTO_REFSPECS(specs);
    AUTO_REF_PLAN(plan);
    struct transfer_result *result = &cloning->result->transfer;
    int err;

    if ((err = remote_find(&remote, store, REMOTE_DEFAULT)) < 0 ||
        (err = refspecs_make(&specs, &remote)) < 0 || (err = lock_write(&lock, store)) < 0 ||
        (err = ref_plan_init(&plan, store)) < 0 ||
        (err = ref_plan_add(&plan, &specs, arrival)) < 0 ||
        (err = ref_plan_move(result, &plan, "clone")) < 0)
        return err;
    result->bytes = arrival->bytes;
    result->objects = arrival->objects;
    result->versions = arrival->versions;
    return head_follow(cloning, store, arrival);
}

static int clone_fill(void *context, const char *path)
{
    struct cloning *cloning = context;
    const struct clone_request *request = cloning->request;
    const struct arrival_request wanted = {
        .url = cloning->url,
        .head_only = request->shallow,
        .shallow = request->shallow,
        .may_end = true,
        .max_bytes = request->max_bytes,
        .stall_seconds = request->stall_seconds,
        .progress = request->progress,
    };
    AUTO_STORE(store);
    AUTO_ARRIVAL(arrival);
    int err;

    if ((err = store_open(&store, path, path)) < 0 ||
        (err = store_remote_add(store, REMOTE_DEFAULT, cloning->url)) < 0 ||
        (err = arrival_fetch(&arrival, store, &wanted)) < 0 ||
        (err = refs_follow(cloning, store, &arrival)) < 0)
        return err;
    cloning->result->is_shallow = request->shallow && !arrival.is_whole;
    return 0;
}

static int place_check(const char *dir)
{
    AUTO_BUF(names);

    if (!path_exists(dir))
        return 0;
    int err = dir_names(&names, dir);
    if (err < 0)
        return err;
    return names.len ? error_set(E_EXISTS, "%s: is there, and not empty", dir) : 0;
}

int store_clone(struct clone_result *out, const struct clone_request *request)
{
    AUTO_FREE(char, url);
    AUTO_CLONE(result);
    struct cloning cloning = {.request = request, .result = &result};
    int err;

    if ((err = remote_url_make(&url, request->url)) < 0 || (err = place_check(request->dir)) < 0)
        return err;
    cloning.url = url;
    if ((err = store_init_filled(&result.path, request->dir, clone_fill, &cloning)) < 0)
        return err;
    *out = result;
    result = (struct clone_result){0};
    return 0;
}

/* One version */

struct loading {
    const char *url, *revision;
    struct progress *progress;
    struct snapshot *snapshot;
    struct commit_id *commit;
};

/* As a branch, else as a tag, by itself. *found false where it is neither. */
static int newest_fetch(bool *found, struct loading *loading, struct store *store, bool head_only)
{
    AUTO_BUF(branch);
    AUTO_BUF(tag);
    AUTO_ARRIVAL(arrival);
    git_oid id;
    int err;

    if ((err = buf_printf(&branch, REF_HEADS "%s", loading->revision)) < 0 ||
        (err = buf_printf(&tag, REF_TAGS "%s", loading->revision)) < 0)
        return err;
    const char *const specs[] = {(const char *)branch.data, (const char *)tag.data};
    const struct arrival_request wanted = {
        .url = loading->url,
        .specs = specs,
        .spec_count = 2,
        .head_only = head_only,
        .shallow = true,
        .progress = loading->progress,
    };
    if ((err = arrival_fetch(&arrival, store, &wanted)) < 0)
        return err;
    *found = arrival.count > 0;
    if (!*found)
        return 0;
    err = commit_peel(&id, store, &arrival.refs[0].id); /* the branch, as in any revision */
    if (err == 0)
        *loading->commit = commit_id_of(&id);
    return err;
}

/* Whatever else names a version: all of it comes, and is asked. */
static int any_fetch(struct loading *loading, struct store *store)
{
    const struct arrival_request wanted = {
        .url = loading->url, .may_end = true, .progress = loading->progress};
    AUTO_ARRIVAL(arrival);
    AUTO_LOCK(lock);
    int err;

    if ((err = arrival_fetch(&arrival, store, &wanted)) < 0 || (err = lock_write(&lock, store)) < 0)
        return err;
    for (size_t i = 0; err == 0 && i < arrival.count; i++) {
        const struct ref_change change = {
            .name = arrival.refs[i].name, .has_new = true, .new = arrival.refs[i].id};
        err = refs_move(store, &change, 1, "fetch");
    }
    return err < 0 ? err : store_resolve(loading->commit, store, loading->revision);
}

/* In a registry a digest may be that of a version's manifest, as push prints it. */
static int pinned_fetch(bool *found, struct loading *loading, struct store *store)
{
    AUTO_ARRIVAL(arrival);
    AUTO_BUF(url);

    int err = buf_printf(&url, "%s@%s", loading->url, loading->revision);
    if (err < 0)
        return err;
    const struct arrival_request wanted = {
        .url = buf_text(&url), .shallow = true, .progress = loading->progress};
    err = wanted.url ? arrival_fetch(&arrival, store, &wanted) : error_wrap(E_NOMEM, "address");
    *found = err == 0 && arrival.count == 1;
    if (*found)
        *loading->commit = commit_id_of(&arrival.refs[0].id);
    return err == E_NOTFOUND ? 0 : err;
}

static bool may_be_ref(const char *revision)
{
    return branch_name_check(revision) == 0 && !strchr(revision, '@');
}

static int version_load(void *context, const char *path)
{
    struct loading *loading = context;
    bool is_head = strcmp(loading->revision, "HEAD") == 0, found = false;
    AUTO_STORE(store);

    int err = store_open(&store, path, path);
    if (err == 0 && oci_is_url(loading->url) && oci_is_digest(loading->revision))
        err = pinned_fetch(&found, loading, store);
    else if (err == 0 && (is_head || may_be_ref(loading->revision)))
        err = newest_fetch(&found, loading, store, is_head);
    if (err == 0 && !found)
        err = any_fetch(loading, store);
    return err < 0 ? err : store_load(loading->snapshot, store, loading->commit);
}

int store_load_from(
    struct snapshot *out,
    struct commit_id *commit,
    const char *url,
    const char *revision,
    struct progress *progress
)
{
    struct loading loading = {NULL, revision, progress, out, commit};
    const char *folder = getenv("TMPDIR");
    AUTO_FREE(char, whole);
    AUTO_FREE(char, place);
    AUTO_FREE(char, path);
    int err;

    if ((err = remote_url_make(&whole, url)) < 0 ||
        (err = path_random(&place, folder && *folder ? folder : "/tmp", "vera-export-")) < 0)
        return err;
    loading.url = whole;
    err = store_init_filled(&path, place, version_load, &loading);
    error_keep();
    (void)!tree_remove(place);
    return err < 0 ? error_restore(err) : 0;
}
