/*
 * Revisions: a name, then steps.
 *
 *   HEAD or @       where HEAD is
 *   <40 digits>     a commit, before any ref of that name
 *   <name>          refs/heads/, refs/tags/, refs/remotes/<name>, in this order; a name of a ref
 *                   with or without its refs/; trash/<name>: the newest deleted one
 *   <6..39 digits>  the one commit (or tag) whose id begins so
 *   sha256:<6..64>  the newest commit whose snapshot's id begins so; deleted ones are looked at
 *                   where nothing else has it
 *   @{n}            after a name, or alone for the current branch: where it was n moves ago
 *   ~n ^n           as in git, any number of them
 */
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

#include "format/nearest.h"
#include "format/text.h"
#include "store/ancestry.h"
#include "store/find.h"
#include "store/reflog.h"
#include "store/refs.h"

/* Part of what was typed, for messages. */
struct revision {
    struct store *store;
    const char *text;
    char *base; /* up to the first step, owned */
    char *ref;  /* the whole name of the ref that the base is, owned; NULL where it is none */
    const char *rest;
};

static void revision_release(struct revision *revision)
{
    free(revision->base);
    free(revision->ref);
}

static int syntax_error(const struct revision *revision)
{
    return error_set(E_INVALID, "'%s' is not how a version is named", revision->text);
}

/* Refs */

static int ref_try(struct revision *revision, git_oid *out, const char *prefix, const char *name)
{
    AUTO_BUF(whole);
    bool found;

    int err = buf_printf(&whole, "%s%s", prefix, name);
    if (err < 0)
        return err;
    err = ref_read(&found, out, revision->store, (const char *)whole.data);
    if (err == E_UNSUPPORTED) { /* symbolic: a clone's refs/remotes/origin/HEAD */
        err = git_reference_name_to_id(out, revision->store->repo, (const char *)whole.data);
        found = true;
        if (err < 0)
            return git_failed(err, "%s", (const char *)whole.data);
    }
    if (err == 0 && found)
        revision->ref = (char *)buf_take(&whole).data;
    return err;
}

struct newest_deleted {
    const char *name;
    char *ref; /* owned */
    git_oid target;
};

static int deleted_visit(void *context, const char *name, const git_oid *target)
{
    struct newest_deleted *newest = context;
    time_t time;

    const char *deleted = trash_parse(&time, name);
    if (!deleted || strcmp(deleted, newest->name) != 0)
        return 0;
    free(newest->ref);
    newest->target = *target;
    newest->ref = bytes_dup(text_bytes(name));
    return newest->ref ? 0 : error_wrap(E_NOMEM, "trash");
}

/* *out_ref: owned by the caller, NULL where nothing of that name was deleted. */
static int deleted_find(char **out_ref, git_oid *out, struct store *store, const char *name)
{
    struct newest_deleted newest = {.name = name};

    int err = refs_each(store, REF_TRASH, deleted_visit, &newest); /* oldest first */
    if (err < 0) {
        free(newest.ref);
        return err;
    }
    *out_ref = newest.ref;
    *out = newest.target;
    return 0;
}

static int ref_find(struct revision *revision, git_oid *out)
{
    static const char *const prefixes[] = {REF_HEADS, REF_TAGS, REF_REMOTES, "refs/", "refs/vera/"};
    static const char trash[] = "trash/";
    const char *base = revision->base;
    int err = 0;

    if (strncmp(base, "refs/", 5) == 0)
        err = ref_try(revision, out, "", base);
    for (size_t i = 0; err == 0 && !revision->ref && i < 5; i++)
        err = ref_try(revision, out, prefixes[i], base);
    if (err == 0 && !revision->ref && strncmp(base, trash, strlen(trash)) == 0)
        err = deleted_find(&revision->ref, out, revision->store, base + strlen(trash));
    return err;
}

/* Not found */

static int not_found(const struct revision *revision)
{
    AUTO_REFS(branches);
    AUTO_REFS(tags);
    AUTO_REFS(remotes);
    AUTO_FREE(char, deleted);
    const struct refs *lists[] = {&branches, &tags, &remotes};
    const char *base = revision->base;
    struct nearest nearest;
    git_oid ignored;
    int err;

    if ((err = store_refs(&branches, revision->store, REF_BRANCH)) < 0 ||
        (err = store_refs(&tags, revision->store, REF_TAG)) < 0 ||
        (err = store_refs(&remotes, revision->store, REF_REMOTE)) < 0 ||
        (err = deleted_find(&deleted, &ignored, revision->store, base)) < 0)
        return err;
    nearest_init(&nearest, base);
    for (size_t list = 0; list < 3; list++) {
        for (size_t i = 0; i < lists[list]->count; i++)
            nearest_offer(&nearest, lists[list]->refs[i].name);
    }
    err = error_set(E_NOTFOUND, "no branch, tag or commit '%s'", base);
    if (deleted)
        return error_hint(
            err, "it was deleted; 'vera branch %s trash/%s' brings it back", base, base
        );
    if (nearest.name)
        return error_hint(err, "did you mean '%s'?", nearest.name);
    if (is_hex(base) && strlen(base) < ID_DIGITS_MIN)
        return error_hint(err, "a commit's id needs %d digits or more", ID_DIGITS_MIN);
    return error_hint(err, "'vera branch', 'vera tag' and 'vera log --all' list what there is");
}

/* The base */

static int head_find(struct revision *revision, git_oid *out)
{
    AUTO_FREE(char, branch);
    struct commit_id tip;
    bool has_tip;

    int err = store_head(&branch, &tip, &has_tip, revision->store);
    if (err < 0)
        return err;
    if (!has_tip)
        return error_set(E_NOTFOUND, "branch '%s' has no version yet", branch ? branch : "HEAD");
    *out = git_id(&tip);
    revision->ref = bytes_dup(text_bytes("HEAD"));
    return revision->ref ? 0 : error_wrap(E_NOMEM, "HEAD");
}

static int base_find(struct revision *revision, git_oid *out)
{
    const char *base = revision->base;
    AUTO_BUF(whole);
    int valid = 0, err;
    bool found = false;

    if (strcmp(base, "HEAD") == 0 || strcmp(base, "@") == 0)
        return head_find(revision, out);
    if (strncmp(base, SNAPSHOT_MARK, strlen(SNAPSHOT_MARK)) == 0)
        return snapshot_find(out, revision->store, base + strlen(SNAPSHOT_MARK));
    if ((err = buf_printf(&whole, REF_HEADS "%s", base)) < 0)
        return err;
    if (git_reference_name_is_valid(&valid, (const char *)whole.data) < 0 || !valid)
        return syntax_error(revision);
    if (strlen(base) == GIT_OID_HEXSZ &&
        ((err = id_find(&found, out, revision->store, base)) < 0 || found))
        return err;
    if ((err = ref_find(revision, out)) < 0 || revision->ref ||
        (err = id_find(&found, out, revision->store, base)) < 0 || found)
        return err;
    return not_found(revision);
}

/* Steps */

/* Digits after a step; none: 1. */
static int count_read(uint64_t *out, struct revision *revision)
{
    struct bytes digits = {(const uint8_t *)revision->rest, strspn(revision->rest, "0123456789")};

    revision->rest += digits.len;
    *out = 1;
    if (digits.len && !text_parse_uint64(out, digits))
        return syntax_error(revision);
    return 0;
}

/* "@{n}" directly behind the base, which is a ref then. */
static int position_step(git_oid *id, struct revision *revision)
{
    const char *digits = revision->rest + 2;
    size_t length = strspn(digits, "0123456789");
    uint64_t n;

    if (digits[length] != '}' ||
        !text_parse_uint64(&n, (struct bytes){(const uint8_t *)digits, length}))
        return syntax_error(revision);
    if (!revision->ref)
        return error_set(
            E_INVALID, "'%s': @{%" PRIu64 "} is where a branch was, and '%s' is none",
            revision->text, n, revision->base
        );
    revision->rest = digits + length + 1;
    return reflog_find(id, revision->store, revision->ref, id, n);
}

static int no_parent(
    const struct revision *revision, const struct ancestry *ancestry, size_t commit, uint64_t n
)
{
    const struct ancestor *ancestor = &ancestry->commits[commit];
    size_t parents = ancestor->parents_end - ancestor->parents_begin;
    char hex[GIT_OID_HEXSZ + 1];

    git_oid_tostr(hex, sizeof(hex), &ancestry->ids.ids[commit]);
    if (parents)
        return error_set(
            E_NOTFOUND, "'%s': %s has %zu %s, not %" PRIu64, revision->text, hex, parents,
            parents == 1 ? "parent" : "parents", n
        );
    int err = error_set(E_NOTFOUND, "'%s': %s has no parent", revision->text, hex);
    if (ancestor->is_cut)
        err = error_hint(err, "this clone is shallow: its history begins there");
    return err;
}

/* The n-th parent, 1 the first; 0 the commit itself. */
static int
parent_step(git_oid *id, const struct revision *revision, struct ancestry *ancestry, uint64_t n)
{
    size_t commit;

    int err = ancestry_read(&commit, ancestry, id);
    if (err < 0 || n == 0)
        return err;
    const struct ancestor *ancestor = &ancestry->commits[commit];
    if (n > ancestor->parents_end - ancestor->parents_begin)
        return no_parent(revision, ancestry, commit, n);
    *id = ancestry->parents[ancestor->parents_begin + n - 1];
    return 0;
}

static int steps_take(git_oid *id, struct revision *revision)
{
    AUTO_ANCESTRY(ancestry);
    uint64_t n;

    int err = ancestry_init(&ancestry, revision->store);
    while (err == 0 && *revision->rest) {
        char step = *revision->rest++;
        if ((step != '~' && step != '^') || revision->rest[0] == '{')
            return syntax_error(revision);
        if ((err = count_read(&n, revision)) < 0)
            return err;
        if (step == '^')
            err = parent_step(id, revision, &ancestry, n);
        for (; err == 0 && step == '~' && n > 0; n--) {
            if ((err = parent_step(id, revision, &ancestry, 1)) == 0)
                err = interrupt_check();
        }
    }
    return err;
}

/* Cut the text where the first step begins; a step alone counts from the current branch. */
static int revision_init(struct revision *out, struct store *store, const char *text)
{
    size_t length = strcspn(text, "~^");
    const char *at = strstr(text, "@{");

    if (at && (size_t)(at - text) < length)
        length = (size_t)(at - text);
    *out = (struct revision){.store = store, .text = text, .rest = text + length};
    out->base = bytes_dup((struct bytes){(const uint8_t *)text, length});
    if (!out->base)
        return error_wrap(E_NOMEM, "revision");
    return length || at == text ? 0 : syntax_error(out);
}

/* "@{n}" alone: the current branch, or HEAD where it is detached. */
static int current_find(struct revision *revision, git_oid *out)
{
    AUTO_FREE(char, branch);
    AUTO_BUF(whole);
    struct commit_id tip;
    bool has_tip;

    int err = head_find(revision, out);
    if (err < 0 || (err = store_head(&branch, &tip, &has_tip, revision->store)) < 0 || !branch)
        return err;
    if ((err = buf_printf(&whole, REF_HEADS "%s", branch)) < 0)
        return err;
    free(revision->ref);
    revision->ref = (char *)buf_take(&whole).data;
    return 0;
}

static int revision_resolve(git_oid *out, struct revision *revision)
{
    int err = *revision->base ? base_find(revision, out) : current_find(revision, out);

    if (err == 0 && strncmp(revision->rest, "@{", 2) == 0)
        err = position_step(out, revision);
    if (err == 0)
        err = commit_peel(out, revision->store, out);
    return err < 0 ? err : steps_take(out, revision);
}

int store_resolve(struct commit_id *out, struct store *store, const char *text)
{
    __attribute__((cleanup(revision_release))) struct revision revision = {0};
    git_oid id = {{0}};

    int err = revision_init(&revision, store, text);
    if (err < 0 || (err = revision_resolve(&id, &revision)) < 0)
        return err;
    *out = commit_id_of(&id);
    return 0;
}
