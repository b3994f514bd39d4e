/*
 * Recording a version. See store.h and docs/format.md, G8.
 *
 * The tip is read first; everything is written and synced; then the branch moves from that tip, or
 * not at all. What was written before a failure is reachable from nothing, and git's gc drops it.
 */
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

#include "format/limits.h"
#include "store/index.h"
#include "store/pack_loose.h"

#define LITTLE_BYTES (16 * MIB)

/* Where the version goes. */
struct target {
    char *ref;   /* "refs/heads/main" */
    bool exists; /* the branch does, at `parent` */
    bool has_parent;
    struct commit_id parent;
};

static void target_release(struct target *target)
{
    free(target->ref);
}

/* The branch that HEAD is on. */
static int head_branch(char **out, struct store *store)
{
    AUTO_GIT(git_reference, head);

    int code = git_reference_lookup(&head, store->repo, "HEAD");
    if (code < 0)
        return git_failed(code, "HEAD");
    const char *ref = git_reference_symbolic_target(head);
    if (!ref || strncmp(ref, REF_HEADS, strlen(REF_HEADS)) != 0) {
        int err = error_set(E_INVALID, "HEAD is not on a branch");
        return error_hint(err, "vera switch BRANCH, or name one: --branch BRANCH");
    }
    if (!(*out = bytes_dup(text_bytes(ref))))
        return error_wrap(E_NOMEM, "HEAD");
    return 0;
}

static int named_branch(char **out, const char *name)
{
    AUTO_BUF(ref);
    int err;

    if ((err = branch_name_check(name)) == 0 && (err = buf_printf(&ref, REF_HEADS "%s", name)) == 0)
        *out = (char *)buf_take(&ref).data;
    return err;
}

/* The commit that a ref leads to, if it leads anywhere. */
static int ref_commit(bool *found, struct commit_id *out, struct store *store, const char *ref)
{
    git_oid id;

    int code = git_reference_name_to_id(&id, store->repo, ref);
    if (code < 0 && code != GIT_ENOTFOUND)
        return git_failed(code, "%s", ref);
    *found = code == 0;
    if (*found)
        *out = commit_id_of(&id);
    return 0;
}

static int target_find(struct target *target, struct store *store, const char *branch)
{
    int err = branch ? named_branch(&target->ref, branch) : head_branch(&target->ref, store);

    if (err < 0 || (err = ref_commit(&target->exists, &target->parent, store, target->ref)) < 0)
        return err;
    target->has_parent = target->exists;
    if (!target->exists && branch)
        err = ref_commit(&target->has_parent, &target->parent, store, "HEAD");
    return err;
}

/* What was computed from a tip is for that tip. */
static int
tip_confirm(struct store *store, const struct target *target, const struct commit_request *request)
{
    AUTO_GIT(git_commit, merged);
    int err;

    if (request->onto && (!target->exists || !commit_equal(request->onto, &target->parent))) {
        err = error_set(
            E_CONFLICT, "%s has moved meanwhile: nothing was changed",
            target->ref + strlen(REF_HEADS)
        );
        return error_hint(err, "look at what is there now, and try again");
    }
    if (!request->merged)
        return 0;
    const git_oid id = git_id(request->merged);
    return commit_read(&merged, store, &id);
}

/* E_EXISTS where the tip has this snapshot. A tip that cannot be read has not: its successor is
   what may mend it. */
static int
tip_compare(struct store *store, const struct target *target, const struct commit_request *request)
{
    struct digest tip;
    char hex[COMMIT_HEX_SIZE];

    if (!target->has_parent || request->allow_empty)
        return 0;
    int err = version_snapshot(&tip, store, &target->parent);
    if (err < 0)
        return err == E_CORRUPT ? 0 : err;
    if (!digest_equal(&tip, &request->snapshot->id))
        return 0;
    commit_hex(hex, &target->parent);
    err = error_set(
        E_EXISTS, "nothing has changed: %.12s, the tip of %s, is this snapshot", hex,
        target->ref + strlen(REF_HEADS)
    );
    return error_hint(err, "--allow-empty records it again");
}

/* The commit */

static int signatures_append(struct buf *out, struct store *store, const char *author)
{
    __attribute__((cleanup(identity_release))) struct identity identity = {0};
    AUTO_GIT(git_signature, by);
    AUTO_GIT(git_signature, committer);
    int err;

    if ((err = store_identity(&identity, store, author)) < 0 ||
        (err = signature_make(&by, &identity, true)) < 0 ||
        (err = signature_now(&committer, store)) < 0 ||
        (err = buf_append_text(out, "author ")) < 0 || (err = signature_append(out, by)) < 0 ||
        (err = buf_append_text(out, "\ncommitter ")) < 0 ||
        (err = signature_append(out, committer)) < 0)
        return err;
    return buf_append_byte(out, '\n');
}

/* The message, with a line of our own where none was given. */
static int message_append(
    struct buf *out, const struct commit_request *request, const struct loaded_adapter *loaded
)
{
    AUTO_BUF(fallback);
    AUTO_BUF(message);

    int err = buf_printf(
        &fallback, "VeRA adapter of rank %" PRIu64 ", %zu modules", loaded->adapter.config.rank,
        loaded->adapter.module_count
    );
    if (err == 0)
        err = message_make(
            &message, request->message, (const char *)fallback.data, request->trailers,
            request->trailer_count
        );
    return err < 0 ? err : buf_append(out, message.data, message.len);
}

static int commit_write(
    git_oid *out,
    struct buf *text,
    struct objects *objects,
    struct store *store,
    const struct commit_id *parents[2],
    const git_oid *tree
)
{
    AUTO_BUF(commit);
    char hex[COMMIT_HEX_SIZE];

    int err = buf_printf(&commit, "tree %s\n", git_oid_tostr_s(tree));
    for (size_t i = 0; err == 0 && i < 2 && parents[i]; i++) {
        commit_hex(hex, parents[i]);
        err = buf_printf(&commit, "parent %s\n", hex);
    }
    if (err == 0)
        err = buf_append(&commit, text->data, text->len);
    return err < 0 ? err : object_write(out, objects, store, GIT_OBJECT_COMMIT, buf_bytes(&commit));
}

static int branch_move(
    struct bytes first,
    struct store *store,
    const struct target *target,
    const git_oid *commit,
    const char *action,
    struct buf *message
)
{
    struct ref_change change = {
        .name = target->ref, .has_old = target->exists, .has_new = true, .new = *commit};
    AUTO_BUF(line);
    const char *text = buf_text(message);

    if (!text)
        return error_wrap(E_NOMEM, "commit");
    if (target->exists)
        change.old = git_id(&target->parent);
    int err = buf_printf(
        &line, "%s%s: %.*s", action ? action : "commit", target->has_parent ? "" : " (initial)",
        (int)strcspn(text, "\n"), text
    );
    return err < 0 ? err : refs_move_after(first, store, &change, 1, (const char *)line.data);
}

/* What is little is synced while the refs are locked, at once with what moves the branch. */
static int commit_point(
    struct store *store,
    struct objects *objects,
    const struct target *target,
    const git_oid *commit,
    const char *action,
    struct buf *message
)
{
    AUTO_BUF(paths);

    int err = objects->bytes > LITTLE_BYTES ? objects_sync(objects, store)
                                            : objects_paths(&paths, objects, store);
    if (err < 0 || (err = interrupt_check()) < 0)
        return err;
    return branch_move(buf_bytes(&paths), store, target, commit, action, message);
}

static int version_write(
    struct commit_result *result,
    struct store *store,
    const struct target *target,
    const struct commit_request *request
)
{
    AUTO_LOADED_ADAPTER(loaded);
    AUTO_OBJECTS(objects);
    AUTO_BUF(text);
    AUTO_BUF(message);
    const struct commit_id *parent = target->has_parent ? &target->parent : NULL;
    const struct commit_id *parents[2] = {parent, request->merged};
    git_oid tree, commit;
    int err;

    if ((err = adapter_load(&loaded, request->snapshot)) < 0 ||
        (err = signatures_append(&text, store, request->author)) < 0 ||
        (err = message_append(&message, request, &loaded)) < 0 ||
        (err = buf_append_byte(&text, '\n')) < 0 ||
        (err = buf_append(&text, message.data, message.len)) < 0)
        return err;
    /* On a commit that cannot be read nothing more is built; parts of it may be missing. */
    if (parent && (err = objects_settle(&objects, store, parent)) < 0)
        return error_hint(
            err, "vera fsck --repair REMOTE fetches it; vera reset REV goes back to a whole version"
        );
    if ((err = snapshot_write(&tree, &result->frame, &objects, store, &loaded, parent)) < 0 ||
        (err = commit_write(&commit, &text, &objects, store, parents, &tree)) < 0 ||
        (err = commit_point(store, &objects, target, &commit, request->action, &message)) < 0)
        return err;
    index_add(store, &commit);
    result->commit = commit_id_of(&commit);
    result->stored_bytes = objects.bytes;
    return 0;
}

static int
commit_locked(struct commit_result *out, struct store *store, const struct commit_request *request)
{
    __attribute__((cleanup(target_release))) struct target target = {0};
    struct commit_result result = {0};
    AUTO_FREE(char, branch);
    AUTO_LOCK(lock);
    int err;

    if ((err = lock_write(&lock, store)) < 0 ||
        (err = target_find(&target, store, request->branch)) < 0 ||
        (err = tip_confirm(store, &target, request)) < 0)
        return err;
    if (!(branch = bytes_dup(text_bytes(target.ref + strlen(REF_HEADS)))))
        return error_wrap(E_NOMEM, "commit");
    if ((err = tip_compare(store, &target, request)) == 0)
        err = version_write(&result, store, &target, request);
    else if (err == E_EXISTS)
        result.commit = target.parent;
    if (err < 0 && err != E_EXISTS)
        return err;
    result.branch = branch;
    branch = NULL;
    *out = result;
    return err;
}

int store_commit(
    struct commit_result *out, struct store *store, const struct commit_request *request
)
{
    int err = commit_locked(out, store, request);

    if (err == 0)
        loose_pack(store);
    return err;
}
