/* Branches and HEAD: what creates, moves and deletes them. See target.h for what becomes of tips.
 */
#include <stdlib.h>
#include <string.h>

#include "store/ancestry.h"
#include "store/branch_config.h"
#include "store/refs.h"
#include "store/target.h"

int store_branch_create(struct store *store, const char *name, const struct commit_id *at)
{
    AUTO_LOCK(lock);
    AUTO_TARGET(target);
    AUTO_BUF(why);
    AUTO_GIT(git_commit, commit);
    char hex[COMMIT_HEX_SIZE];
    int err;

    git_oid id = git_id(at);
    commit_hex(hex, at);
    if ((err = lock_write(&lock, store)) < 0 ||
        (err = target_new(&target, store, "branch", name)) < 0 ||
        (err = commit_read(&commit, store, &id)) < 0 ||
        (err = buf_printf(&why, "branch: Created from %s", hex)) < 0)
        return err;
    return target_create(&target, store, &id, (const char *)why.data);
}

/* HEAD */

static int is_current(bool *out, struct store *store, const char *name)
{
    AUTO_FREE(char, branch);
    struct commit_id tip;
    bool has_tip;

    int err = store_head(&branch, &tip, &has_tip, store);
    if (err == 0)
        *out = branch && strcmp(branch, name) == 0;
    return err;
}

/* A detached HEAD (git's doing) may be all that holds its commit: then the trash holds it too. */
static int detached_keep(struct store *store)
{
    AUTO_FREE(char, branch);
    AUTO_TIPS(tips);
    AUTO_ANCESTRY(ancestry);
    AUTO_FREE(char, trash);
    struct commit_id head;
    bool has_head, is_reached = false;
    int err;

    if ((err = store_head(&branch, &head, &has_head, store)) < 0 || branch || !has_head)
        return err;
    if ((err = tips_read(&tips, store, TIPS_REFS | TIPS_DELETED)) < 0 ||
        (err = ancestry_init(&ancestry, store)) < 0 ||
        ((err = ancestry_reaches(&is_reached, &ancestry, tips.commits, tips.count, &head)) < 0 &&
         err != E_CORRUPT) ||
        is_reached || (err = trash_name(&trash, store, "HEAD")) < 0)
        return err; /* what cannot be read keeps nothing */
    struct ref_change change = {.name = trash, .has_new = true, .new = git_id(&head)};
    return refs_move(store, &change, 1, "switch: HEAD was detached");
}

static int head_switch(struct store *store, const struct target *target)
{
    AUTO_FREE(char, branch);
    AUTO_BUF(why);
    struct commit_id tip;
    bool has_tip;

    int err = store_head(&branch, &tip, &has_tip, store);
    if (err == 0 && branch && strcmp(branch, target->name) == 0)
        return 0;
    if (err < 0 || (err = detached_keep(store)) < 0 ||
        (err = buf_printf(
             &why, "checkout: moving from %s to %s", branch ? branch : "HEAD", target->name
         )) < 0)
        return err;
    return head_move(store, target->ref, (const char *)why.data);
}

int store_switch(struct store *store, const char *branch)
{
    AUTO_LOCK(lock);
    AUTO_TARGET(target);
    int err;

    if ((err = lock_write(&lock, store)) < 0 ||
        (err = target_find(&target, store, "branch", branch)) < 0)
        return err;
    return head_switch(store, &target);
}

int store_switch_unborn(struct store *store, const char *branch)
{
    AUTO_LOCK(lock);
    AUTO_TARGET(target);
    int err;

    if ((err = lock_write(&lock, store)) < 0 ||
        (err = target_new(&target, store, "branch", branch)) < 0)
        return err;
    return head_switch(store, &target);
}

/* Deleting, resetting, renaming */

int store_branch_delete(struct commit_id *was, struct store *store, const char *name)
{
    AUTO_LOCK(lock);
    AUTO_TARGET(target);
    bool current = false;
    int err;

    if ((err = lock_write(&lock, store)) < 0 ||
        (err = target_find(&target, store, "branch", name)) < 0 ||
        (err = is_current(&current, store, name)) < 0)
        return err;
    if (current) {
        err = error_set(E_INVALID, "branch '%s' is the current one", name);
        return error_hint(err, "switch to another one before");
    }
    if ((err = target_leave(&target, store, NULL, "branch: deleted")) < 0 ||
        (err = branch_config_delete(store, name)) < 0)
        return err;
    *was = commit_id_of(&target.at);
    return 0;
}

/* Someone moved `from` in the middle: what was made goes again, and the error stays. */
static int
rename_undo(int err, struct store *store, const struct target *from, const struct target *to)
{
    static const char why[] = "branch: not renamed";
    const struct ref_change back = {.name = to->ref, .has_old = true, .old = from->at};

    error_keep();
    if (head_move(store, from->ref, why) < 0 || refs_move(store, &back, 1, why) < 0 ||
        branch_config_delete(store, to->name) < 0)
        return error_wrap(E_IO, "branch '%s' is there beside '%s'", to->name, from->name);
    return error_restore(err);
}

/* A branch that HEAD is not on: both refs move, or none. Nothing is left to be undone that a full
   disk would not take. */
static int rename_together(
    struct store *store,
    const struct target *from,
    const struct target *to,
    const struct ref_change changes[2],
    const char *message
)
{
    int err;

    if ((err = branch_config_copy(store, from->name, to->name)) < 0)
        return err;
    if ((err = refs_move(store, changes, 2, message)) < 0) {
        error_keep();
        (void)!branch_config_delete(store, to->name);
        return error_restore(err);
    }
    return branch_config_delete(store, from->name);
}

/* Make `to` beside `from`, let HEAD follow, delete `from`: at every moment HEAD is on a branch that
   is there. */
static int
rename_steps(struct store *store, const struct target *from, const struct target *to, bool current)
{
    AUTO_BUF(why);
    const struct ref_change changes[] = {
        {.name = to->ref, .has_new = true, .new = from->at, .reflog_of = from->ref},
        {.name = from->ref, .has_old = true, .old = from->at},
    };

    int err = buf_printf(&why, "branch: renamed %s to %s", from->ref, to->ref);
    const char *message = (const char *)why.data;
    if (err == 0 && !current)
        return rename_together(store, from, to, changes, message);
    if (err < 0 || (err = refs_move(store, &changes[0], 1, message)) < 0)
        return err;
    if ((err = branch_config_copy(store, from->name, to->name)) < 0 ||
        (err = head_move(store, to->ref, message)) < 0 ||
        (err = refs_move(store, &changes[1], 1, message)) < 0)
        return rename_undo(err, store, from, to);
    return branch_config_delete(store, from->name);
}

int store_branch_rename(
    struct commit_id *at, struct store *store, const char *old_name, const char *new_name
)
{
    AUTO_LOCK(lock);
    AUTO_TARGET(from);
    AUTO_TARGET(to);
    bool current = false;
    int err;

    if ((err = lock_write(&lock, store)) < 0 ||
        (err = target_find(&from, store, "branch", old_name)) < 0 ||
        (err = target_new(&to, store, "branch", new_name)) < 0 ||
        (err = is_current(&current, store, old_name)) < 0 ||
        (err = rename_steps(store, &from, &to, current)) < 0)
        return err;
    *at = commit_id_of(&from.at);
    return 0;
}

/* What a reset leaves is lost unless the new tip has it among its ancestors. */
static int reset_to(struct store *store, const struct target *target, const struct commit_id *to)
{
    AUTO_ANCESTRY(ancestry);
    AUTO_BUF(why);
    char hex[COMMIT_HEX_SIZE];
    bool is_kept = false;
    struct commit_id from = commit_id_of(&target->at);
    int err;

    commit_hex(hex, to);
    if ((err = buf_printf(&why, "reset: moving to %s", hex)) < 0 ||
        (err = ancestry_init(&ancestry, store)) < 0 ||
        ((err = ancestry_reaches(&is_kept, &ancestry, to, 1, &from)) < 0 && err != E_CORRUPT))
        return err; /* what cannot be read keeps nothing */
    if (!is_kept)
        return target_leave(target, store, to, (const char *)why.data);
    const struct ref_change change = {
        .name = target->ref,
        .has_old = true,
        .old = target->at,
        .has_new = true,
        .new = git_id(to),
    };
    return refs_move(store, &change, 1, (const char *)why.data);
}

/* The branch that HEAD is on; it may be unborn. */
static int head_find(char **out, bool *is_born, struct store *store)
{
    struct commit_id tip;

    int err = store_head(out, &tip, is_born, store);
    if (err < 0 || *out)
        return err;
    err = error_set(E_INVALID, "HEAD is on no branch");
    return error_hint(err, "'vera switch BRANCH' first");
}

static int current_find(char **out, struct store *store)
{
    bool is_born;

    int err = head_find(out, &is_born, store);
    if (err < 0)
        return err;
    if (!is_born) {
        err = error_set(E_INVALID, "branch '%s' has no version yet", *out);
        return error_hint(err, "'vera branch' lists those that have");
    }
    return 0;
}

int store_reset(struct commit_id *previous, struct store *store, const struct commit_id *to)
{
    AUTO_LOCK(lock);
    AUTO_FREE(char, branch);
    AUTO_TARGET(target);
    AUTO_GIT(git_commit, commit);
    const git_oid id = git_id(to);
    int err;

    if ((err = lock_write(&lock, store)) < 0 || (err = current_find(&branch, store)) < 0 ||
        (err = target_find(&target, store, "branch", branch)) < 0 ||
        (err = commit_read(&commit, store, &id)) < 0)
        return err;
    struct commit_id from = commit_id_of(&target.at);
    if (!commit_equal(&from, to) && (err = reset_to(store, &target, to)) < 0)
        return err;
    *previous = from;
    return 0;
}

int store_fast_forward(
    struct store *store, const struct commit_id *from, const struct commit_id *to, const char *what
)
{
    AUTO_LOCK(lock);
    AUTO_FREE(char, branch);
    AUTO_GIT(git_commit, commit);
    AUTO_BUF(ref);
    AUTO_BUF(why);
    const git_oid id = git_id(to);
    bool is_born;
    int err;

    if ((err = lock_write(&lock, store)) < 0 || (err = head_find(&branch, &is_born, store)) < 0 ||
        (err = commit_read(&commit, store, &id)) < 0 ||
        (err = buf_printf(&ref, REF_HEADS "%s", branch)) < 0 ||
        (err = buf_printf(&why, "%s: Fast-forward", what)) < 0)
        return err;
    struct ref_change change = {
        .name = (const char *)ref.data, .has_old = from != NULL, .has_new = true, .new = id};
    if (from)
        change.old = git_id(from);
    return refs_move(store, &change, 1, (const char *)why.data);
}
