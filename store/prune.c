/*
 * Thinning a branch. See store.h and docs/format.md, "Pruned branches".
 *
 * Every new commit is written, synced, and loaded again to the last byte, before the branch moves
 * by compare-and-swap: killed anywhere, it is at its old tip or at the new one. A commit tells how
 * many versions were dropped before it, so that who thins again counts as before.
 */
#include <assert.h>
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

#include "format/limits.h"
#include "store/ancestry.h"
#include "store/entries.h"
#include "store/pack_loose.h"
#include "store/payload.h"
#include "store/refs.h"
#include "store/target.h"

#define DROPPED_HEADER "vera-dropped "
#define DROPPED_MAX    UINT64_C(1000000000000)
#define ROOT_MAX       8 /* entries of a version's tree */

/* One of the branch's own versions. */
struct own {
    git_oid id;
    uint64_t dropped; /* before it, as its commit says */
    uint64_t number;  /* from the oldest one, 0 on, those that were dropped counted too */
    bool kept;
};

struct prune {
    struct store *store;
    const struct prune_request *request;
    struct ancestry ancestry;
    struct id_set held; /* what others reach */
    struct own *own;    /* the newest first */
    size_t count, capacity;
    bool has_base; /* the version before the oldest one */
    git_oid base;
    struct objects objects;
};

static void prune_release(struct prune *prune)
{
    ancestry_release(&prune->ancestry);
    id_set_release(&prune->held);
    objects_release(&prune->objects);
    free(prune->own);
}

void prune_result_release(struct prune_result *result)
{
    free(result->versions);
    *result = (struct prune_result){0};
}

/* What is the branch's own */

static int held_add(struct prune *prune, const git_oid *commit)
{
    size_t ignored;

    return id_set_add(&ignored, NULL, &prune->held, commit);
}

/* Other branches, tags, and HEAD where it is on none. What a remote had is its own affair, and what
   is in the trash was left there to go. */
static int holders_add(struct prune *prune)
{
    static const enum ref_kind kinds[] = {REF_BRANCH, REF_TAG};
    AUTO_TIPS(detached);
    int err = tips_read(&detached, prune->store, TIPS_HEAD);

    for (size_t i = 0; err == 0 && i < detached.count; i++) {
        git_oid id = git_id(&detached.commits[i]);
        err = held_add(prune, &id);
    }
    for (size_t i = 0; err == 0 && i < sizeof(kinds) / sizeof(kinds[0]); i++) {
        AUTO_REFS(refs);
        err = store_refs(&refs, prune->store, kinds[i]);
        for (size_t k = 0; err == 0 && k < refs.count; k++) {
            git_oid id = git_id(&refs.refs[k].commit);
            if (kinds[i] == REF_TAG || strcmp(refs.refs[k].name, prune->request->branch) != 0)
                err = held_add(prune, &id);
        }
    }
    return err;
}

static int held_find(struct prune *prune)
{
    size_t index;
    int err = holders_add(prune);

    for (size_t next = 0; err == 0 && next < prune->held.count; next++) {
        git_oid id = prune->held.ids[next];
        if ((err = interrupt_check()) < 0 ||
            (err = ancestry_read(&index, &prune->ancestry, &id)) < 0)
            return err;
        const struct ancestor commit = prune->ancestry.commits[index];
        for (size_t p = commit.parents_begin; err == 0 && p < commit.parents_end; p++)
            err = held_add(prune, &prune->ancestry.parents[p]);
    }
    return err;
}

static int merge_refuse(const git_oid *id)
{
    char hex[COMMIT_HEX_SIZE];

    git_oid_tostr(hex, sizeof(hex), id);
    int err = error_set(
        E_UNSUPPORTED, "%.7s is a merge, and only versions in a row are thinned", hex
    );
    return error_hint(
        err, "vera tag NAME %.7s: what a tag reaches stays, the rest is thinned", hex
    );
}

static int own_find(struct prune *prune, const git_oid *tip)
{
    size_t index, ignored;
    git_oid id = *tip;
    int err = 0;

    while (!id_set_find(&ignored, &prune->held, &id)) {
        if ((err = interrupt_check()) < 0 ||
            (err = ancestry_read(&index, &prune->ancestry, &id)) < 0 ||
            (err = array_grow(&prune->own, &prune->capacity, prune->count + 1, sizeof(*prune->own))
            ) < 0)
            return err;
        const struct ancestor *commit = &prune->ancestry.commits[index];
        size_t parents = commit->parents_end - commit->parents_begin;
        if (parents > 1)
            return merge_refuse(&id);
        prune->own[prune->count++] = (struct own){.id = id};
        if (!parents)
            return 0;
        id = prune->ancestry.parents[commit->parents_begin];
    }
    prune->has_base = true;
    prune->base = id;
    return 0;
}

/* Commits as they are written */

/* The next line of a commit's head, with its end; empty behind the last one. */
static struct bytes head_line(struct bytes *rest)
{
    const uint8_t *end = rest->len ? memchr(rest->data, '\n', rest->len) : NULL;
    struct bytes line = {rest->data, end ? (size_t)(end - rest->data) + 1 : rest->len};

    if (line.len <= 1)
        return (struct bytes){0};
    *rest = (struct bytes){rest->data + line.len, rest->len - line.len};
    return line;
}

static bool begins(struct bytes line, const char *key)
{
    return line.len >= strlen(key) && memcmp(line.data, key, strlen(key)) == 0;
}

static int commit_text(struct buf *out, struct store *store, const git_oid *id)
{
    return object_read(out, store, id, GIT_OBJECT_COMMIT, LIMIT_TEXT, "a commit");
}

/* 0 where it does not say, or says nonsense: anyone may have written it. */
static uint64_t dropped_read(struct bytes commit)
{
    struct bytes line;

    while ((line = head_line(&commit)).len) {
        uint64_t number = 0;
        if (!begins(line, DROPPED_HEADER))
            continue;
        for (size_t i = strlen(DROPPED_HEADER); i + 1 < line.len; i++) {
            if (line.data[i] < '0' || line.data[i] > '9' || number > DROPPED_MAX)
                return 0;
            number = number * 10 + (uint64_t)(line.data[i] - '0');
        }
        return number;
    }
    return 0;
}

static int own_count(struct prune *prune)
{
    uint64_t number = 0;

    for (size_t i = prune->count; i-- > 0;) {
        struct own *own = &prune->own[i];
        AUTO_BUF(text);
        int err = commit_text(&text, prune->store, &own->id);
        if (err < 0)
            return err;
        own->dropped = dropped_read(buf_bytes(&text));
        number += own->dropped;
        own->number = number++;
    }
    return 0;
}

/* Rules */

static int
metric_read(bool *has, double *out, struct store *store, const git_oid *id, const char *name)
{
    const struct commit_id commit = commit_id_of(id);
    AUTO_FREE(char, message);
    AUTO_VERSION(version);
    int err;

    if ((err = store_message(&message, store, &commit)) < 0 ||
        (err = message_metrics(&version, message)) < 0)
        return err;
    *has = false;
    for (size_t i = 0; i < version.metric_count; i++) {
        if (strcmp(version.metrics[i].name, name) != 0)
            continue;
        *has = true;
        *out = version.metrics[i].value; /* the last one, as elsewhere */
    }
    return 0;
}

/* The newest of equal ones. */
static int best_keep(struct prune *prune, const struct prune_rule *rule)
{
    struct own *best = NULL;
    double best_value = 0;

    for (size_t i = 0; i < prune->count; i++) {
        bool has;
        double value = 0;
        int err = metric_read(&has, &value, prune->store, &prune->own[i].id, rule->metric);
        if (err < 0 || (err = interrupt_check()) < 0)
            return err;
        if (!has || (best && (rule->lowest ? value >= best_value : value <= best_value)))
            continue;
        best = &prune->own[i];
        best_value = value;
    }
    if (!best)
        return error_set(
            E_NOTFOUND, "no version of '%s' has the metric '%s'", prune->request->branch,
            rule->metric
        );
    best->kept = true;
    return 0;
}

static int rule_apply(struct prune *prune, const struct prune_rule *rule)
{
    if (rule->kind == PRUNE_BEST)
        return prune->count ? best_keep(prune, rule) : 0;
    if (rule->count == 0)
        return error_set(E_INVALID, "a rule that keeps each of 0 versions is none");
    for (size_t i = 0; i < prune->count; i++) {
        if (rule->kind == PRUNE_LAST)
            prune->own[i].kept |= i < rule->count;
        else
            prune->own[i].kept |= prune->own[i].number % rule->count == 0;
    }
    return 0;
}

static int rules_apply(struct prune *prune)
{
    int err = 0;

    if (!prune->request->rule_count)
        return error_set(E_INVALID, "no rule says which versions are kept");
    for (size_t i = 0; err == 0 && i < prune->request->rule_count; i++)
        err = rule_apply(prune, &prune->request->rules[i]);
    if (prune->count)
        prune->own[0].kept = true;
    return err;
}

/* New commits */

/* The same but for tree, parent and what was dropped; a signature would be of another text. */
static int commit_rewrite(
    struct buf *out, struct bytes text, const git_oid *tree, const git_oid *parent, uint64_t dropped
)
{
    bool is_signature = false;
    struct bytes line;
    int err = buf_printf(out, "tree %s\n", git_oid_tostr_s(tree));

    if (err == 0 && parent)
        err = buf_printf(out, "parent %s\n", git_oid_tostr_s(parent));
    while (err == 0 && (line = head_line(&text)).len) {
        if (line.data[0] != ' ')
            is_signature = begins(line, "gpgsig");
        if (!is_signature && !begins(line, "tree ") && !begins(line, "parent ") &&
            !begins(line, DROPPED_HEADER))
            err = buf_append(out, line.data, line.len);
    }
    if (err == 0 && dropped)
        err = buf_printf(out, DROPPED_HEADER "%" PRIu64 "\n", dropped);
    return err < 0 ? err : buf_append(out, text.data, text.len);
}

/* The same tree but for its vectors/. */
static int tree_rewrite(
    git_oid *out,
    struct prune *prune,
    const git_oid *commit,
    const struct snapshot *snapshot,
    const git_oid *parent
)
{
    struct commit_id parent_id = {0};
    struct tree_entry entries[ROOT_MAX];
    struct frame_summary ignored;
    AUTO_LOADED_ADAPTER(loaded);
    AUTO_GIT(git_tree, tree);
    size_t index, count = 0;
    int err;

    if (parent)
        parent_id = commit_id_of(parent);
    if ((err = adapter_load(&loaded, snapshot)) < 0 ||
        (err = ancestry_read(&index, &prune->ancestry, commit)) < 0 ||
        (err = tree_read(&tree, prune->store, &prune->ancestry.commits[index].tree)) < 0)
        return err;
    assert(git_tree_entrycount(tree) <= ROOT_MAX); /* store_load() has looked */
    for (; err == 0 && count < git_tree_entrycount(tree); count++) {
        const git_tree_entry *entry = git_tree_entry_byindex(tree, count);
        entries[count] = (struct tree_entry){
            .name = git_tree_entry_name(entry),
            .is_tree = git_tree_entry_type(entry) == GIT_OBJECT_TREE,
            .id = *git_tree_entry_id(entry),
        };
        if (strcmp(entries[count].name, "vectors") == 0)
            err = vectors_write(
                &entries[count].id, &ignored, &prune->objects, prune->store, &loaded,
                parent ? &parent_id : NULL, true
            );
    }
    return err < 0 ? err : tree_write(out, &prune->objects, prune->store, entries, count);
}

/* Is every byte of it what the old one has? */
static int version_compare(struct store *store, const struct snapshot *old, const git_oid *id)
{
    AUTO_SNAPSHOT(made);
    const struct commit_id commit = commit_id_of(id);

    int err = store_load(&made, store, &commit);
    if (err == 0 && !digest_equal(&made.id, &old->id))
        err = error_set(E_CORRUPT, "commit %s is another snapshot", git_oid_tostr_s(id));
    return err;
}

static int version_rewrite(
    git_oid *out, struct prune *prune, const git_oid *id, const git_oid *parent, uint64_t dropped
)
{
    struct store *store = prune->store;
    const struct commit_id old = commit_id_of(id);
    AUTO_SNAPSHOT(snapshot);
    AUTO_BUF(text);
    AUTO_BUF(commit);
    git_oid tree;
    int err;

    if ((err = store_load(&snapshot, store, &old)) < 0 ||
        (err = tree_rewrite(&tree, prune, id, &snapshot, parent)) < 0 ||
        (err = commit_text(&text, store, id)) < 0 ||
        (err = commit_rewrite(&commit, buf_bytes(&text), &tree, parent, dropped)) < 0 ||
        (err = object_write(out, &prune->objects, store, GIT_OBJECT_COMMIT, buf_bytes(&commit))) <
            0)
        return err;
    return version_compare(store, &snapshot, out);
}

/* From the oldest one on; result->versions is in order of own. */
static int versions_rewrite(struct prune_result *result, struct prune *prune)
{
    uint64_t dropped = 0;
    bool has_parent = prune->has_base, has_gap = false;
    git_oid parent = prune->base;

    for (size_t i = prune->count; i-- > 0;) {
        const struct own *own = &prune->own[i];
        git_oid is = own->id;
        int err = interrupt_check();
        if (err < 0)
            return err;
        progress_update(prune->request->progress, prune->count - 1 - i, prune->count);
        dropped += own->dropped;
        if (!own->kept) {
            dropped++;
            has_gap = true;
            continue;
        }
        if (has_gap &&
            (err = version_rewrite(&is, prune, &own->id, has_parent ? &parent : NULL, dropped)) < 0)
            return err;
        result->versions[i].is = commit_id_of(&is);
        dropped = 0;
        parent = is;
        has_parent = true;
    }
    return 0;
}

static int
branch_move(struct prune *prune, const struct target *target, struct prune_result *result)
{
    AUTO_BUF(why);
    size_t dropped = 0;
    int err;

    for (size_t i = 0; i < result->count; i++)
        dropped += !result->versions[i].kept;
    if ((err = objects_sync(&prune->objects, prune->store)) < 0 || (err = interrupt_check()) < 0 ||
        (err = buf_printf(&why, "prune: dropped %zu of %zu versions", dropped, result->count)) < 0)
        return err;
    return target_leave(target, prune->store, &result->tip, (const char *)why.data);
}

static int result_begin(struct prune_result *result, const struct prune *prune)
{
    if (!(result->versions = array_new(prune->count, sizeof(*result->versions))))
        return error_wrap(E_NOMEM, "versions");
    result->count = prune->count;
    for (size_t i = 0; i < prune->count; i++) {
        struct prune_version *version = &result->versions[i];
        version->was = version->is = commit_id_of(&prune->own[i].id);
        version->kept = prune->own[i].kept;
    }
    return 0;
}

static int
branch_prune(struct prune_result *result, struct prune *prune, const struct target *target)
{
    int err;

    if ((err = ancestry_init(&prune->ancestry, prune->store)) < 0 || (err = held_find(prune)) < 0 ||
        (err = own_find(prune, &target->at)) < 0 || (err = own_count(prune)) < 0 ||
        (err = rules_apply(prune)) < 0 || (err = result_begin(result, prune)) < 0)
        return err;
    result->previous = result->tip = commit_id_of(&target->at);
    if (prune->request->dry_run)
        return 0;
    if ((err = versions_rewrite(result, prune)) < 0 || !prune->count)
        return err;
    result->tip = result->versions[0].is;
    if (commit_equal(&result->tip, &result->previous))
        return 0;
    return branch_move(prune, target, result);
}

static int
prune_locked(struct prune_result *out, struct store *store, const struct prune_request *request)
{
    __attribute__((cleanup(prune_release))
    ) struct prune prune = {.store = store, .request = request};
    __attribute__((cleanup(prune_result_release))) struct prune_result result = {0};
    AUTO_TARGET(target);
    AUTO_LOCK(lock);
    int err;

    if ((err = shallow_refuse(store)) < 0 ||
        (!request->dry_run && (err = lock_write(&lock, store)) < 0) ||
        (err = target_find(&target, store, "branch", request->branch)) < 0 ||
        (err = branch_prune(&result, &prune, &target)) < 0)
        return err;
    *out = result;
    result = (struct prune_result){0};
    return 0;
}

int store_prune(struct prune_result *out, struct store *store, const struct prune_request *request)
{
    int err = prune_locked(out, store, request);

    if (err == 0 && !request->dry_run)
        loose_pack(store);
    return err;
}
