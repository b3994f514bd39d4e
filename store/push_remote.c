/* What `vera push` asks for. See push_remote.h. */
#include "store/push_remote.h"

#include <stdlib.h>
#include <string.h>

#include "store/refs.h"
#include "store/remote.h"
#include "store/url.h"

void pushed_release(struct pushed *pushed)
{
    push_refs_release(pushed->refs, pushed->count);
    for (size_t i = 0; i < pushed->count; i++)
        free((void *)(uintptr_t)pushed->refs[i].name);
    free(pushed->refs);
    free(pushed->url);
    *pushed = (struct pushed){0};
}

/* Which refs */

static int ref_add(struct pushed *pushed, const struct push_wish *wish, const char *name)
{
    int err = array_grow(
        &pushed->refs, &pushed->capacity, pushed->count + 1, sizeof(*pushed->refs)
    );

    for (size_t i = 0; err == 0 && i < pushed->count; i++) {
        if (strcmp(pushed->refs[i].name, name) == 0)
            return 0;
    }
    if (err < 0)
        return err;
    struct push_ref *ref = &pushed->refs[pushed->count];
    *ref = (struct push_ref
    ){.name = bytes_dup(text_bytes(name)), .force = wish->force, .is_deletion = wish->is_deletion};
    if (!ref->name)
        return error_wrap(E_NOMEM, "push");
    pushed->count++;
    return 0;
}

static int
name_try(bool *found, struct store *store, struct buf *ref, const char *kind, const char *name)
{
    git_oid id;

    ref->len = 0;
    int err = buf_printf(ref, "%s%s", kind, name);
    return err < 0 ? err : ref_read(found, &id, store, (const char *)ref->data);
}

/* A branch before a tag of that name. What is to go there need not be here: then it is a branch. */
static int
name_add(struct pushed *pushed, struct store *store, const struct push_wish *wish, const char *name)
{
    AUTO_BUF(ref);
    bool found = false;
    int err;

    if (strncmp(name, "refs/", 5) == 0)
        return ref_add(pushed, wish, name);
    if ((err = name_try(&found, store, &ref, REF_HEADS, name)) < 0 ||
        (!found && (err = name_try(&found, store, &ref, REF_TAGS, name)) < 0))
        return err;
    if (!found && !wish->is_deletion) {
        err = error_set(E_NOTFOUND, "no branch or tag '%s'", name);
        return error_hint(err, "'vera branch' and 'vera tag' list what there is");
    }
    if (!found) {
        ref.len = 0;
        if ((err = buf_printf(&ref, REF_HEADS "%s", name)) < 0)
            return err;
    }
    return ref_add(pushed, wish, (const char *)ref.data);
}

struct adding {
    struct pushed *pushed;
    const struct push_wish *wish;
};

static int every_visit(void *context, const char *name, const git_oid *target)
{
    struct adding *adding = context;

    (void)target;
    return ref_add(adding->pushed, adding->wish, name);
}

static int current_add(struct pushed *pushed, struct store *store, const struct push_wish *wish)
{
    AUTO_FREE(char, branch);
    struct commit_id tip;
    bool has_tip = false;

    int err = store_head(&branch, &tip, &has_tip, store);
    if (err < 0)
        return err;
    if (!branch || !has_tip) {
        err = error_set(E_INVALID, "there is no current branch with a version");
        return error_hint(err, "name what is to be pushed: vera push REMOTE BRANCH");
    }
    return name_add(pushed, store, wish, branch);
}

static int refs_choose(struct pushed *pushed, struct store *store, const struct push_wish *wish)
{
    struct adding adding = {pushed, wish};
    int err = 0;

    for (size_t i = 0; err == 0 && i < wish->name_count; i++)
        err = name_add(pushed, store, wish, wish->names[i]);
    if (err == 0 && wish->branches)
        err = refs_each(store, REF_HEADS, every_visit, &adding);
    if (err == 0 && wish->tags)
        err = refs_each(store, REF_TAGS, every_visit, &adding);
    if (err == 0 && !wish->name_count && !wish->branches && !wish->tags)
        err = current_add(pushed, store, wish);
    return err;
}

/* Where to */

static int remote_default(char **out, struct store *store)
{
    AUTO_FREE(char, branch);
    AUTO_FREE(char, merge);
    struct commit_id tip;
    bool has_tip;

    int err = store_head(&branch, &tip, &has_tip, store);
    if (err == 0 && branch)
        err = upstream_find(out, &merge, store, branch);
    if (err == 0 && !*out && !(*out = bytes_dup(text_bytes(REMOTE_DEFAULT))))
        err = error_wrap(E_NOMEM, "push");
    return err;
}

/* A name that is none may be a URL or a path. */
static int
remote_choose(struct remote *out, bool *is_configured, struct store *store, const char *text)
{
    int err = remote_find(out, store, text);

    *is_configured = err == 0;
    if (err != E_NOTFOUND || (!strchr(text, '/') && !strchr(text, ':') && text[0] != '.'))
        return err;
    return remote_url_make(&out->url, text);
}

/* Afterwards */

/* What we know of the branch there. Another process may have seen more meanwhile: then its word
   stays. */
static void
tracking_note(struct store *store, const struct remote *remote, const struct push_ref *ref)
{
    AUTO_BUF(name);
    AUTO_LOCK(lock);
    struct ref_change change = {.has_new = ref->has_new, .new = ref->new};

    if (buf_printf(&name, REF_REMOTES "%s/%s", remote->name, ref->name + strlen(REF_HEADS)) < 0)
        return;
    change.name = (const char *)name.data;
    if (lock_write(&lock, store) < 0 ||
        ref_read(&change.has_old, &change.old, store, change.name) < 0 ||
        (change.has_old && change.has_new && git_oid_equal(&change.old, &change.new)) ||
        (!change.has_old && !change.has_new))
        return;
    (void)!refs_move(store, &change, 1, "push");
}

static void upstream_note(struct store *store, const struct remote *remote, const char *branch)
{
    AUTO_FREE(char, known);
    AUTO_FREE(char, merge);

    if (upstream_find(&known, &merge, store, branch) == 0 && !known)
        (void)!upstream_set(store, branch, remote->name, branch);
}

static void refs_note(struct store *store, const struct remote *remote, const struct pushed *pushed)
{
    for (size_t i = 0; i < pushed->count; i++) {
        const struct push_ref *ref = &pushed->refs[i];
        if (ref->status == PUSH_REFUSED || strncmp(ref->name, REF_HEADS, strlen(REF_HEADS)) != 0)
            continue;
        tracking_note(store, remote, ref);
        if (ref->has_new)
            upstream_note(store, remote, ref->name + strlen(REF_HEADS));
    }
}

int store_push(struct pushed *out, struct store *store, const struct push_wish *wish)
{
    AUTO_REMOTE(remote);
    AUTO_FREE(char, chosen);
    bool is_configured = false;
    int err = 0;

    if (!wish->remote && (err = remote_default(&chosen, store)) < 0)
        return err;
    if ((err = remote_choose(&remote, &is_configured, store, wish->remote ? wish->remote : chosen)
        ) < 0 ||
        (err = url_shown(&out->url, remote.url)) < 0 || (err = refs_choose(out, store, wish)) < 0)
        return err;
    const struct push_request request = {
        .url = remote.url,
        .refs = out->refs,
        .count = out->count,
        .progress = wish->progress,
    };
    if ((err = push_send(&out->sent, store, &request)) < 0)
        return err;
    if (is_configured)
        refs_note(store, &remote, out);
    return 0;
}
