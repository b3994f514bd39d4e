/* Refs of ours to a registry. See oci.h. */
#include <stdlib.h>
#include <string.h>

#include "format/json.h"
#include "format/limits.h"
#include "store/oci.h"
#include "store/oci_claim.h"
#include "store/oci_ref.h"
#include "store/push_plan.h"
#include "store/refs.h"

/* How often others may come first. */
#define ROUNDS_MAX 16

struct pushing {
    struct store *store;
    const struct push_request *request;
    struct oci_client client;
    struct oci_sender sender;
    struct oci_versions known;
    bool knows_all;       /* what any ref there names */
    struct digest digest; /* of the last tip's manifest */
    bool has_digest;
};

static void pushing_release(struct pushing *pushing)
{
    oci_sender_release(&pushing->sender);
    oci_versions_release(&pushing->known);
    oci_client_release(&pushing->client);
}

/* What is there */

static void old_set(struct push_ref *ref, const struct oci_ref *there)
{
    ref->has_old = there->exists;
    if (there->exists)
        ref->old = there->target;
}

/* Versions that other refs there name: a new branch has most of its versions from one. */
static int all_know(struct pushing *pushing)
{
    AUTO_BUF(tags);
    int err = pushing->knows_all ? 0 : oci_tags(&tags, &pushing->client);

    pushing->knows_all = true;
    for (size_t at = 0; err == 0 && at < tags.len;) {
        const char *tag = (const char *)tags.data + at;
        AUTO_OCI_REF(ref);
        at += strlen(tag) + 1;
        if (oci_tag_kind(text_bytes(tag)) != OCI_TAG_REF)
            continue;
        err = oci_ref_read(&ref, &pushing->client, tag);
        if (err == 0)
            err = oci_versions_add_all(&pushing->known, &ref.index);
        else if (err == E_CORRUPT)
            err = 0;
    }
    return err;
}

/* Versions */

/* In a shallow clone: what lies behind must be in the registry. */
static int boundary_check(
    const struct pushing *pushing, const struct history *history, const struct oci_ref *there
)
{
    AUTO_OCI_VERSIONS(whole);
    int err = oci_versions_add_all(&whole, &there->index);

    for (size_t i = 0; err == 0 && i < history->count; i++) {
        const struct oci_descriptor one = {.commit = history->commits[i]};
        err = oci_versions_add(&whole, &one);
    }
    for (size_t i = 0; err == 0 && i < history->count; i++) {
        AUTO_GIT(git_commit, commit);
        git_oid id = git_id(&history->commits[i]);
        if ((err = commit_read(&commit, pushing->store, &id)) < 0)
            break;
        for (unsigned k = 0; err == 0 && k < git_commit_parentcount(commit); k++) {
            const struct commit_id parent = commit_id_of(git_commit_parent_id(commit, k));
            if (oci_versions_find(&whole, &parent))
                continue;
            err = error_set(
                E_UNSUPPORTED, "this clone is shallow, and the registry has not what lies behind"
            );
            return error_hint(err, "push from a whole clone");
        }
    }
    return err;
}

/* The tip gets its tag on this branch, though another one has brought it. */
static int tip_tag(struct pushing *pushing, const struct oci_descriptor *tip, const char *name)
{
    char reference[7 + DIGEST_HEX_SIZE] = "sha256:";
    struct digest snapshot, ignored;
    AUTO_BUF(json);
    AUTO_BUF(tag);
    int err;

    digest_hex(reference + 7, &tip->digest);
    if ((err = version_snapshot(&snapshot, pushing->store, &tip->commit)) < 0 ||
        (err = oci_tag_encode(&tag, name, &snapshot)) < 0 ||
        (err = oci_document_get(&json, &ignored, NULL, &pushing->client, reference)) < 0)
        return err;
    if (!buf_text(&tag))
        return error_wrap(E_NOMEM, "registry");
    return oci_document_put(
        &ignored, &pushing->client, (const char *)tag.data, OCI_MANIFEST, buf_bytes(&json), NULL
    );
}

/* Send what is not there, the oldest first. */
static int versions_send(struct pushing *pushing, const struct history *history, const char *name)
{
    const struct oci_descriptor *nearest = NULL;
    size_t missing = 0;
    int err = 0;

    for (size_t i = 0; i < history->count; i++) {
        const struct oci_descriptor *one = oci_versions_find(&pushing->known, &history->commits[i]);
        missing += !one;
        nearest = nearest ? nearest : one;
    }
    if (missing && nearest)
        err = oci_sender_know(&pushing->sender, nearest);
    for (size_t i = history->count; err == 0 && i-- > 0;) {
        struct oci_descriptor sent;
        if (oci_versions_find(&pushing->known, &history->commits[i]))
            continue;
        if ((err = oci_version_send(&sent, &pushing->sender, &history->commits[i], name)) == 0)
            err = oci_versions_add(&pushing->known, &sent);
        if (err == 0)
            err = interrupt_check();
    }
    return err;
}

/* The index */

static int tag_text(char **out, struct store *store, const git_oid *id)
{
    AUTO_BUF(data);
    git_object_t type;
    size_t bytes;

    int code = git_odb_read_header(&bytes, &type, store->odb, id);
    if (code < 0)
        return git_failed(code, "object %s", git_oid_tostr_s(id));
    if (type != GIT_OBJECT_TAG)
        return 0;
    int err = object_read(&data, store, id, GIT_OBJECT_TAG, LIMIT_TEXT, "a tag");
    if (err < 0)
        return err;
    if (!utf8_valid(buf_bytes(&data)) || memchr(data.data, '\0', data.len))
        return error_set(
            E_UNSUPPORTED, "a tag with a message that is not UTF-8 has no place in a registry"
        );
    *out = bytes_dup(buf_bytes(&data));
    return *out ? 0 : error_wrap(E_NOMEM, "tag");
}

static int index_make(
    struct buf *out,
    struct pushing *pushing,
    const struct history *history,
    const struct push_ref *ref,
    const struct oci_ref *there
)
{
    AUTO_OCI_DOCUMENT(index);
    int err = 0;

    if (!(index.ref = bytes_dup(text_bytes(ref->name))))
        return error_wrap(E_NOMEM, "index");
    for (size_t i = 0; err == 0 && i < history->count; i++)
        err = oci_item_add(&index, oci_versions_find(&pushing->known, &history->commits[i]));
    /* Behind the boundary of a shallow clone. */
    for (size_t i = 0; err == 0 && history->is_cut && i < there->index.count; i++) {
        const struct oci_descriptor *item = &there->index.items[i];
        if (item->has_commit && !oci_item_find(&index, &item->commit))
            err = oci_item_add(&index, item);
    }
    if (err < 0 || (err = tag_text(&index.tag, pushing->store, &ref->new)) < 0)
        return err;
    return oci_index_encode(out, &index);
}

static int
index_put(struct pushing *pushing, const char *name, struct bytes json, const struct oci_ref *there)
{
    struct digest digest;
    AUTO_BUF(tag);

    int err = oci_tag_encode(&tag, oci_ref_short(name), NULL);
    if (err < 0)
        return err;
    if (!buf_text(&tag))
        return error_wrap(E_NOMEM, "registry");
    pushing->client.hurry_seconds = OCI_CLAIM_SECONDS;
    err = oci_document_put(
        &digest, &pushing->client, (const char *)tag.data, OCI_INDEX, json, there->etag
    );
    pushing->client.hurry_seconds = 0;
    return err;
}

static bool is_same(const struct oci_ref *a, const struct oci_ref *b)
{
    return a->exists == b->exists && (!a->exists || digest_equal(&a->digest, &b->digest));
}

/* *done where the index is there; not where another came first, and `there` is what it has put. */
static int index_write(
    bool *done, struct pushing *pushing, const char *name, struct bytes json, struct oci_ref *there
)
{
    AUTO_OCI_CLAIM(claim);
    AUTO_OCI_REF(before);
    AUTO_OCI_REF(after);
    struct digest wanted;
    int err;

    if ((err = digest_of(&wanted, json)) < 0 ||
        (err = oci_claim_take(&claim, pushing->store, &pushing->client, name)) < 0 ||
        (err = oci_ref_find(&before, &pushing->client, name)) < 0)
        return err;
    if (is_same(&before, there) && oci_claim_holds(&claim)) {
        err = index_put(pushing, name, json, there);
        /* What became of it is seen below. */
        if (err < 0 && err != E_CONFLICT && err != E_IO)
            return err;
        error_keep();
        int read = oci_ref_find(&after, &pushing->client, name);
        if (read < 0)
            return read;
        *done = after.exists && digest_equal(&after.digest, &wanted);
        if (!*done && err == E_IO && is_same(&after, there))
            return error_restore(err);
    } else {
        after = before;
        before = (struct oci_ref){0};
    }
    oci_ref_release(there);
    *there = after;
    after = (struct oci_ref){0};
    return 0;
}

/* One ref */

static int again_judge(struct pushing *pushing, struct push_ref *ref, const struct oci_ref *there)
{
    size_t refused = 0;

    old_set(ref, there);
    int err = push_judge(&refused, pushing->store, ref, 1);
    return err < 0 || !refused ? err : push_refused(pushing->request->url, ref, 1);
}

static int ref_write(struct pushing *pushing, struct push_ref *ref, struct oci_ref *there)
{
    const char *name = oci_ref_short(ref->name);
    struct commit_id tip;
    AUTO_HISTORY(history);
    AUTO_BUF(json);
    bool done = false;
    git_oid peeled;
    int err;

    if ((err = commit_peel(&peeled, pushing->store, &ref->new)) < 0)
        return err;
    tip = commit_id_of(&peeled);
    if ((err = store_history(&history, pushing->store, &tip, 1, 0)) < 0 ||
        (err = oci_versions_add_all(&pushing->known, &there->index)) < 0)
        return err;
    for (unsigned round = 0; !done && ref->status != PUSH_UP_TO_DATE; round++) {
        if (round == ROUNDS_MAX)
            return error_set(E_CONFLICT, "%s: others push there all the time", name);
        if ((err = oci_versions_add_all(&pushing->known, &there->index)) < 0 ||
            (ref->status != PUSH_MOVED && (err = all_know(pushing)) < 0) ||
            (history.is_cut && (err = boundary_check(pushing, &history, there)) < 0))
            return err;
        bool was_known = oci_versions_find(&pushing->known, &tip) != NULL;
        if ((err = versions_send(pushing, &history, name)) < 0 ||
            (round == 0 && was_known &&
             (err = tip_tag(pushing, oci_versions_find(&pushing->known, &tip), name)) < 0))
            return err;
        json.len = 0;
        if ((err = index_make(&json, pushing, &history, ref, there)) < 0 ||
            (err = index_write(&done, pushing, ref->name, buf_bytes(&json), there)) < 0 ||
            (!done && (err = again_judge(pushing, ref, there)) < 0))
            return err;
    }
    const struct oci_descriptor *descriptor = oci_versions_find(&pushing->known, &tip);
    if (descriptor) {
        pushing->digest = descriptor->digest;
        pushing->has_digest = true;
    }
    return 0;
}

/* By digest, so that what another has put there meanwhile stays. */
static int ref_delete(struct pushing *pushing, const struct oci_ref *there)
{
    char reference[7 + DIGEST_HEX_SIZE] = "sha256:";

    digest_hex(reference + 7, &there->digest);
    int err = oci_document_delete(&pushing->client, reference);
    return err == E_UNSUPPORTED
               ? error_hint(err, "the registry's administrator can allow it to delete")
               : err;
}

static int refs_write(struct pushing *pushing, struct oci_ref *there)
{
    const struct push_request *request = pushing->request;
    size_t refused = 0;
    int err = 0;

    for (size_t i = 0; err == 0 && i < request->count; i++) {
        if ((err = oci_ref_find(&there[i], &pushing->client, request->refs[i].name)) == 0)
            old_set(&request->refs[i], &there[i]);
    }
    if (err < 0 || (err = push_judge(&refused, pushing->store, request->refs, request->count)) < 0)
        return err;
    if (refused)
        return push_refused(request->url, request->refs, request->count);
    for (size_t i = 0; err == 0 && i < request->count; i++)
        err = request->refs[i].is_deletion ? ref_delete(pushing, &there[i])
                                           : ref_write(pushing, &request->refs[i], &there[i]);
    return err;
}

static int moved(void *context, uint64_t bytes)
{
    progress_update(context, bytes, 0);
    return interrupt_check();
}

int oci_push(struct push_result *out, struct store *store, const struct push_request *request)
{
    __attribute__((cleanup(pushing_release))
    ) struct pushing pushing = {.store = store, .request = request};
    AUTO_FREE(struct oci_ref, there);
    int err;

    if ((err = oci_client_init(&pushing.client, request->url, true)) < 0)
        return err;
    if (pushing.client.name.reference) {
        err = error_set(
            E_INVALID, "%s: names a tag or digest, and a push goes to a repository", request->url
        );
        return error_hint(err, "leave away what follows its name");
    }
    if (!(there = array_new(request->count, sizeof(*there))))
        return error_wrap(E_NOMEM, "push");
    pushing.client.moved = moved;
    pushing.client.moved_context = request->progress;
    pushing.sender.store = store;
    pushing.sender.client = &pushing.client;
    err = refs_write(&pushing, there);
    for (size_t i = 0; i < request->count; i++)
        oci_ref_release(&there[i]);
    if (err < 0)
        return err;
    out->bytes = oci_client_bytes(&pushing.client);
    out->objects = pushing.sender.objects;
    out->has_digest = pushing.has_digest;
    out->digest = pushing.digest;
    return 0;
}
