/*
 * Reading refs. Lists leave out what git cannot read (as git does); whoever asks for such a ref by
 * its name gets E_CORRUPT, and fsck names it.
 */
#include "store/refs.h"

#include <stdlib.h>
#include <string.h>

#include "store/id_set.h"
#include "store/ref_list.h"
#include "store/remote.h"

/* Reading */

int ref_read(bool *found, git_oid *out, struct store *store, const char *name)
{
    AUTO_GIT(git_reference, reference);

    int err = git_reference_lookup(&reference, store->repo, name);
    if (err == GIT_ENOTFOUND) {
        *found = false;
        return 0;
    }
    if (err < 0)
        return git_failed(err, "%s", name);
    const git_oid *target = git_reference_target(reference);
    if (!target)
        return error_set(E_UNSUPPORTED, "%s: it is a symbolic ref, which only git uses", name);
    *out = *target;
    *found = true;
    return 0;
}

int commit_peel(git_oid *out, struct store *store, const git_oid *id)
{
    AUTO_GIT(git_object, object);
    AUTO_GIT(git_object, commit);
    char hex[GIT_OID_HEXSZ + 1];

    git_oid_tostr(hex, sizeof(hex), id);
    int err = git_object_lookup(&object, store->repo, id, GIT_OBJECT_ANY);
    if (err == GIT_ENOTFOUND)
        return error_set(E_CORRUPT, "object %s is missing", hex);
    if (err < 0)
        return git_failed(err, "object %s", hex);
    err = git_object_peel(&commit, object, GIT_OBJECT_COMMIT);
    if (err == GIT_EPEEL || err == GIT_EINVALIDSPEC)
        return error_set(
            E_INVALID, "%s is a %s, not a version", hex,
            git_object_type2string(git_object_type(object))
        );
    if (err == GIT_ENOTFOUND)
        return error_set(E_CORRUPT, "tag %s: what it names is missing", hex);
    if (err < 0)
        return git_failed(err, "tag %s", hex);
    *out = *git_object_id(commit);
    return 0;
}

int refs_each(
    struct store *store,
    const char *prefix,
    int (*visit)(void *context, const char *name, const git_oid *target),
    void *context
)
{
    AUTO_REF_LIST(list);

    int err = ref_list_read(&list, store, prefix);
    for (size_t i = 0; err == 0 && i < list.count; i++) {
        if (!list.refs[i].is_symbolic)
            err = visit(context, list.refs[i].name, &list.refs[i].target);
    }
    return err;
}

/* HEAD */

/* *out: the ref that HEAD is on, owned by the caller, or NULL and *commit where it is detached. */
static int head_read(char **out, git_oid *commit, struct store *store)
{
    AUTO_GIT(git_reference, head);
    char *ref = NULL;

    int err = git_reference_lookup(&head, store->repo, "HEAD");
    if (err == GIT_ENOTFOUND)
        return error_set(E_CORRUPT, "HEAD is missing");
    if (err < 0)
        return git_failed(err, "HEAD");
    if (git_reference_type(head) == GIT_REFERENCE_DIRECT)
        *commit = *git_reference_target(head);
    else if (!(ref = bytes_dup(text_bytes(git_reference_symbolic_target(head)))))
        return error_wrap(E_NOMEM, "HEAD");
    *out = ref;
    return 0;
}

static bool has_prefix(const char *text, const char *prefix)
{
    return strncmp(text, prefix, strlen(prefix)) == 0;
}

int store_head(char **out_branch, struct commit_id *tip, bool *has_tip, struct store *store)
{
    AUTO_FREE(char, ref);
    git_oid id;
    bool found = true;
    char *branch = NULL;

    int err = head_read(&ref, &id, store);
    if (err < 0 || (ref && (err = ref_read(&found, &id, store, ref)) < 0))
        return err;
    if (ref && has_prefix(ref, REF_HEADS) &&
        !(branch = bytes_dup(text_bytes(ref + strlen(REF_HEADS)))))
        return error_wrap(E_NOMEM, "HEAD");
    *out_branch = branch;
    *has_tip = found;
    if (found)
        *tip = commit_id_of(&id);
    return 0;
}

/* Tips */

void tips_release(struct tips *tips)
{
    free(tips->commits);
    *tips = (struct tips){0};
}

struct tips_visit {
    struct store *store;
    struct tips *tips;
    struct id_set seen;
};

static int tip_add(struct tips_visit *visit, const git_oid *commit)
{
    struct tips *tips = visit->tips;
    size_t index;
    bool is_new;

    int err = id_set_add(&index, &is_new, &visit->seen, commit);
    if (err < 0 || !is_new)
        return err;
    err = array_grow(&tips->commits, &tips->capacity, tips->count + 1, sizeof(*tips->commits));
    if (err == 0)
        tips->commits[tips->count++] = commit_id_of(commit);
    return err;
}

static int tip_visit(void *context, const char *name, const git_oid *target)
{
    struct tips_visit *visit = context;
    git_oid commit = *target;

    /* A branch can only be a commit; what is not peeled here is found out by who reads it. */
    if (has_prefix(name, REF_TAGS) || has_prefix(name, REF_TRASH)) {
        int err = commit_peel(&commit, visit->store, target);
        if (err == E_INVALID)
            return 0;
        if (err < 0)
            return error_wrap(err, "%s", name);
    }
    return tip_add(visit, &commit);
}

static int tips_visit_all(struct tips_visit *visit, unsigned which)
{
    static const struct {
        const char *prefix;
        unsigned which;
    } folders[] = {
        {REF_HEADS, TIPS_REFS},
        {REF_TAGS, TIPS_REFS},
        {REF_REMOTES, TIPS_REFS},
        {REF_TRASH, TIPS_DELETED},
    };
    AUTO_FREE(char, ref);
    git_oid commit;

    int err = head_read(&ref, &commit, visit->store);
    if (err == 0 && !ref && (which & TIPS_HEAD))
        err = tip_add(visit, &commit);
    for (size_t i = 0; err == 0 && i < sizeof(folders) / sizeof(folders[0]); i++) {
        if (which & folders[i].which)
            err = refs_each(visit->store, folders[i].prefix, tip_visit, visit);
    }
    return err;
}

int tips_read(struct tips *out, struct store *store, unsigned which)
{
    AUTO_TIPS(tips);
    struct tips_visit visit = {.store = store, .tips = &tips};

    int err = tips_visit_all(&visit, which);
    id_set_release(&visit.seen);
    if (err < 0)
        return err;
    *out = tips;
    tips = (struct tips){0};
    return 0;
}

/* Lists */

struct list_visit {
    struct store *store;
    enum ref_kind kind;
    struct refs *refs;
    size_t capacity;
    const char *head; /* the ref that HEAD is on, or NULL */
    git_config *config;
};

/* Does the configuration say anything of this branch? Asking libgit2 for its upstream costs a copy
   of all of it. */
static bool has_upstream(const struct list_visit *visit, const char *name)
{
    AUTO_BUF(key);
    const char *merge;

    return buf_printf(&key, "branch.%s.merge", name + strlen(REF_HEADS)) < 0 ||
           git_config_get_string(&merge, visit->config, (const char *)key.data) == 0;
}

static int shown_name(char **out, const char *name)
{
    if (has_prefix(name, REF_REMOTES))
        name += strlen(REF_REMOTES);
    else if (has_prefix(name, REF_HEADS))
        name += strlen(REF_HEADS);
    *out = bytes_dup(text_bytes(name));
    return *out ? 0 : error_wrap(E_NOMEM, "%s", name);
}

/* Where one of a remote's refspecs ("+refs/heads/main:refs/remotes/origin/main", with stars) puts a
   ref of it; *out NULL where it does not. */
static int spec_place(char **out, const char *spec, const char *name)
{
    git_refspec *parsed = NULL;
    git_buf place = {0};
    int err = 0;

    if (git_refspec_parse(&parsed, spec, true) < 0)
        return 0;
    if (git_refspec_src_matches(parsed, name) && git_refspec_transform(&place, parsed, name) == 0 &&
        place.size)
        err = shown_name(out, place.ptr);
    git_buf_dispose(&place);
    git_refspec_free(parsed);
    return err;
}

/* "origin/main", or NULL where the branch has none (or names one that makes no sense).
   git_branch_upstream_name() of libgit2 1.5 leaks, as git_remote_lookup() does. */
static int upstream_read(char **out, struct store *store, const char *ref)
{
    AUTO_FREE(char, from);
    AUTO_FREE(char, merge);
    AUTO_REMOTE(remote);
    AUTO_BUF(theirs);
    int err;

    if ((err = upstream_find(&from, &merge, store, ref + strlen(REF_HEADS))) < 0 || !merge)
        return err;
    if (strcmp(from, ".") == 0)
        return shown_name(out, merge);
    if ((err = remote_find(&remote, store, from)) < 0)
        return err == E_NOMEM ? err : 0;
    if ((err = buf_printf(&theirs, REF_HEADS "%s", merge)) < 0 || !buf_text(&theirs))
        return err;
    for (size_t i = 0; err == 0 && !*out && i < remote.spec_count; i++)
        err = spec_place(out, remote.specs[i], (const char *)theirs.data);
    return err;
}

/* The message of an annotated tag, without newlines at its end. */
static int tag_message_read(char **out, struct store *store, const git_oid *target)
{
    AUTO_GIT(git_tag, tag);

    if (git_tag_lookup(&tag, store->repo, target) < 0)
        return 0; /* a light one; or damaged, which who reads its commit is told */
    struct bytes text = text_bytes(git_tag_message(tag) ? git_tag_message(tag) : "");
    while (text.len && text.data[text.len - 1] == '\n')
        text.len--;
    return (*out = bytes_dup(text)) ? 0 : error_wrap(E_NOMEM, "tag");
}

static int ref_fill(struct ref *ref, struct list_visit *visit, const char *name, git_oid target)
{
    const char *shown = name;
    int err = 0;

    ref->kind = visit->kind;
    switch (visit->kind) {
    case REF_BRANCH:
        shown = name + strlen(REF_HEADS);
        ref->current = visit->head && strcmp(visit->head, name) == 0;
        if (has_upstream(visit, name))
            err = upstream_read(&ref->upstream, visit->store, name);
        break;
    case REF_TAG:
        shown = name + strlen(REF_TAGS);
        err = tag_message_read(&ref->message, visit->store, &target);
        break;
    case REF_REMOTE:
        shown = name + strlen(REF_REMOTES);
        break;
    case REF_DELETED:
        shown = trash_parse(&ref->time, name);
        break;
    }
    if (err == 0 && !(ref->name = bytes_dup(text_bytes(shown))))
        err = error_wrap(E_NOMEM, "refs");
    return err;
}

static int list_visit(void *context, const char *name, const git_oid *target)
{
    struct list_visit *visit = context;
    struct refs *refs = visit->refs;
    git_oid commit = *target;
    time_t ignored;

    if (visit->kind == REF_DELETED && !trash_parse(&ignored, name))
        return 0;
    if (visit->kind == REF_TAG || visit->kind == REF_DELETED) {
        int err = commit_peel(&commit, visit->store, target);
        if (err == E_INVALID)
            return 0; /* git can tag a file; that is no version */
        if (err < 0 && err != E_CORRUPT)
            return err;
    }
    int err = array_grow(&refs->refs, &visit->capacity, refs->count + 1, sizeof(*refs->refs));
    if (err < 0)
        return err;
    struct ref *ref = &refs->refs[refs->count++];
    if ((err = ref_fill(ref, visit, name, *target)) == 0)
        ref->commit = commit_id_of(&commit);
    return err;
}

static void refs_reverse(struct refs *refs)
{
    for (size_t i = 0; i < refs->count / 2; i++) {
        struct ref held = refs->refs[i];
        refs->refs[i] = refs->refs[refs->count - 1 - i];
        refs->refs[refs->count - 1 - i] = held;
    }
}

int store_refs(struct refs *out, struct store *store, enum ref_kind kind)
{
    static const char *const prefixes[] = {
        [REF_BRANCH] = REF_HEADS,
        [REF_TAG] = REF_TAGS,
        [REF_REMOTE] = REF_REMOTES,
        [REF_DELETED] = REF_TRASH,
    };
    AUTO_REFS(refs);
    AUTO_FREE(char, head);
    git_oid ignored;

    AUTO_GIT(git_config, config);
    int err = head_read(&head, &ignored, store);
    if (err < 0)
        return err;
    int code = git_repository_config_snapshot(&config, store->repo);
    if (code < 0)
        return git_failed(code, "config");
    struct list_visit visit = {store, kind, &refs, 0, head, config};
    if ((err = refs_each(store, prefixes[kind], list_visit, &visit)) < 0)
        return err;
    if (kind == REF_DELETED)
        refs_reverse(&refs); /* their names begin with the time */
    *out = refs;
    refs = (struct refs){0};
    return 0;
}

void refs_release(struct refs *refs)
{
    for (size_t i = 0; i < refs->count; i++) {
        free(refs->refs[i].name);
        free(refs->refs[i].upstream);
        free(refs->refs[i].message);
    }
    free(refs->refs);
    *refs = (struct refs){0};
}
