/* Refs of a registry into a quarantine. See oci.h. */
#include <stdlib.h>
#include <string.h>

#include "format/file.h"
#include "store/oci.h"
#include "store/oci_ref.h"
#include "store/pack.h"

struct fetching {
    struct child *child;
    struct oci_client client;
    struct objects objects;
    struct id_set taken; /* commits that came, or are here */
};

static void fetching_release(struct fetching *fetching)
{
    oci_client_release(&fetching->client);
    objects_release(&fetching->objects);
    id_set_release(&fetching->taken);
}

static int moved(void *context, uint64_t bytes)
{
    struct fetching *fetching = context;
    int err = child_progress(fetching->child, bytes);

    return err < 0 ? err : interrupt_check();
}

static int version_take(struct fetching *fetching, const struct oci_descriptor *item)
{
    struct store *store = fetching->child->quarantined;
    const git_oid id = git_id(&item->commit);
    struct commit_id commit;
    bool is_new = false;
    size_t ignored;

    int err = id_set_add(&ignored, &is_new, &fetching->taken, &id);
    if (err < 0 || !is_new || git_odb_exists(store->odb, &id))
        return err;
    return oci_version_take(&commit, store, &fetching->client, item, store_path(store));
}

/* A history ends at this commit, where it has parents. */
static int end_tell(struct fetching *fetching, const git_oid *id)
{
    AUTO_GIT(git_commit, commit);
    AUTO_ID_SET(ends);
    size_t ignored;
    int err;

    if ((err = commit_read(&commit, fetching->child->quarantined, id)) < 0 ||
        !git_commit_parentcount(commit) || (err = id_set_add(&ignored, NULL, &ends, id)) < 0)
        return err;
    return child_ends(fetching->child, &ends);
}

/* The newest one, which the index names first. */
static int newest_take(struct fetching *fetching, const struct oci_document *index)
{
    const struct oci_descriptor *item = &index->items[0];

    if (!index->count || !item->has_commit || item->type != OCI_MANIFEST)
        return error_set(E_CORRUPT, "%s: an index that names no version", index->ref);
    const git_oid id = git_id(&item->commit);
    int err = version_take(fetching, item);
    return err < 0 ? err : end_tell(fetching, &id);
}

static int versions_take(struct fetching *fetching, const struct oci_document *index)
{
    int err = 0;

    if (fetching->child->request->shallow)
        return newest_take(fetching, index);

    for (size_t i = 0; err == 0 && i < index->count; i++) {
        const struct oci_descriptor *item = &index->items[i];
        if (item->has_commit && item->type == OCI_MANIFEST)
            err = version_take(fetching, item);
    }
    return err;
}

static int tag_take(struct fetching *fetching, const struct oci_ref *ref)
{
    struct store *store = fetching->child->quarantined;
    git_oid id;

    if (!ref->index.tag || git_odb_exists(store->odb, &ref->target))
        return 0;
    return object_write(&id, &fetching->objects, store, GIT_OBJECT_TAG, text_bytes(ref->index.tag));
}

static int ref_take(struct fetching *fetching, const struct oci_ref *ref)
{
    struct child *child = fetching->child;
    const char *name = ref->index.ref;
    size_t before = child->tip_count;

    if (oci_ref_short(name) == name)
        return error_set(
            E_CORRUPT, "%s/%s: an index of neither branch nor tag", fetching->client.name.host,
            fetching->client.name.repository
        );
    int err = child_ref(child, name, &ref->target);
    if (err < 0 || child->tip_count == before)
        return err;
    if ((err = versions_take(fetching, &ref->index)) < 0)
        return err;
    return tag_take(fetching, ref);
}

/* The registry's tag and what is under it must tell of one ref. */
static int tag_check(const struct oci_ref *ref, struct bytes tag)
{
    AUTO_BUF(name);

    int err = oci_tag_decode(&name, tag);
    if (err == 0 && !bytes_equal(buf_bytes(&name), text_bytes(oci_ref_short(ref->index.ref))))
        err = error_set(
            E_CORRUPT, "tag '%.*s' is that of another ref", (int)tag.len, (const char *)tag.data
        );
    return err;
}

/* Is it the tag of a branch or tag that is wanted? What is in the way is not even looked at. */
static int tag_is_wanted(bool *out, const struct child *child, const char *tag)
{
    static const char *const kinds[] = {REF_HEADS, REF_TAGS};
    int err = 0;

    for (size_t i = 0; err == 0 && !*out && i < 2; i++) {
        AUTO_BUF(name);
        if ((err = buf_append_text(&name, kinds[i])) == 0 &&
            (err = oci_tag_decode(&name, text_bytes(tag))) == 0 && buf_text(&name))
            *out = child_wants(child, (const char *)name.data);
    }
    return err;
}

/* What others keep in the same repository is not ours. */
static int tag_fetch(struct fetching *fetching, const char *tag)
{
    AUTO_OCI_REF(ref);

    bool is_wanted = false;

    if (oci_tag_kind(text_bytes(tag)) != OCI_TAG_REF)
        return 0;
    int err = tag_is_wanted(&is_wanted, fetching->child, tag);
    if (err < 0 || !is_wanted)
        return err;
    err = oci_ref_read(&ref, &fetching->client, tag);
    if (err < 0 || !ref.exists)
        return err;
    if ((err = tag_check(&ref, text_bytes(tag))) < 0)
        return err;
    return ref_take(fetching, &ref);
}

/* A registry has no HEAD: what would be it in a new repository, else the first branch. */
static int head_tell(struct fetching *fetching, const struct buf *tags)
{
    static const char *const usual[] = {"main", "master"};

    for (size_t i = 0; i < 2; i++) {
        for (size_t at = 0; at < tags->len;) {
            const char *tag = (const char *)tags->data + at;
            at += strlen(tag) + 1;
            if (strcmp(tag, usual[i]) == 0)
                return child_head(fetching->child, i == 0 ? REF_HEADS "main" : REF_HEADS "master");
        }
    }
    return 0;
}

static int all_fetch(struct fetching *fetching)
{
    AUTO_BUF(tags);
    int err = oci_tags(&tags, &fetching->client);

    if (err < 0)
        return err;
    if (!tags.len)
        return error_set(
            E_NOTFOUND, "%s: there is no such repository, or it is empty",
            fetching->child->request->url
        );
    if ((err = head_tell(fetching, &tags)) < 0)
        return err;
    for (size_t at = 0; err == 0 && at < tags.len;) {
        const char *tag = (const char *)tags.data + at;
        at += strlen(tag) + 1;
        err = tag_fetch(fetching, tag);
    }
    return err;
}

/* A URL with a tag or digest */

/* "refs/heads/main" of the tag "main-0123456789ab"; of a digest "refs/heads/main" too, as a new
   repository has it. */
static int pin_name(struct buf *out, const char *reference)
{
    struct bytes tag = text_bytes(reference);
    int err = buf_append_text(out, REF_HEADS);

    if (err < 0)
        return err;
    if (oci_is_digest(reference) || oci_tag_kind(tag) != OCI_TAG_VERSION)
        return buf_append_text(out, "main");
    return oci_tag_decode(out, (struct bytes){tag.data, tag.len - strlen("-0123456789ab")});
}

/* One version, which becomes a branch whose history ends there: who names it wants no more. */
static int pin_take(struct fetching *fetching, const struct digest *digest, const char *reference)
{
    const struct oci_descriptor item = {.type = OCI_MANIFEST, .digest = *digest};
    struct child *child = fetching->child;
    struct arrival_request request = *child->request;
    const struct arrival_request *given = child->request;
    struct commit_id commit;
    AUTO_BUF(name);

    int err = pin_name(&name, reference);
    if (err < 0 || !buf_text(&name) || (err = child_head(child, (const char *)name.data)) < 0 ||
        (err = oci_version_take(
             &commit, child->quarantined, &fetching->client, &item, store_path(child->quarantined)
         )) < 0)
        return err;
    const git_oid id = git_id(&commit);
    if ((err = child_ref(child, (const char *)name.data, &id)) < 0)
        return err;
    request.may_end = true;
    child->request = &request;
    err = end_tell(fetching, &id);
    child->request = given;
    return err;
}

static int reference_fetch(struct fetching *fetching, const char *reference)
{
    AUTO_OCI_DOCUMENT(document);
    AUTO_OCI_REF(ref);
    AUTO_BUF(json);
    struct digest digest;

    int err = oci_document_get(&json, &digest, NULL, &fetching->client, reference);
    if (err == 0)
        err = oci_document_decode(&document, buf_bytes(&json));
    if (err < 0)
        return err;
    if (document.type == OCI_MANIFEST)
        return pin_take(fetching, &digest, reference);
    if ((err = oci_ref_read(&ref, &fetching->client, reference)) < 0)
        return err;
    if (!ref.exists)
        return error_set(
            E_UNSUPPORTED, "%s: is no branch, tag or version of adapters",
            fetching->child->request->url
        );
    if (strncmp(ref.index.ref, REF_HEADS, strlen(REF_HEADS)) == 0 &&
        (err = child_head(fetching->child, ref.index.ref)) < 0)
        return err;
    return ref_take(fetching, &ref);
}

/* What arrived becomes one pack, as after any other fetch. */
static int objects_pack(struct fetching *fetching)
{
    const char *path = store_path(fetching->child->quarantined);
    struct pack_objects objects = {0};
    AUTO_STORE(arrived);
    AUTO_FREE(char, name);

    int err = store_open(&arrived, path, path);
    if (err == 0)
        err = loose_read(&objects.ids, arrived);
    if (err == 0 && objects.ids.count)
        err = pack_write(&name, arrived, &objects, NULL);
    fetching->child->counts.objects = objects.ids.count;
    id_set_release(&objects.ids);
    return err;
}

int oci_fetch(struct child *child)
{
    __attribute__((cleanup(fetching_release))) struct fetching fetching = {.child = child};
    int err;

    if ((err = oci_client_init(&fetching.client, child->request->url, false)) < 0)
        return err;
    fetching.client.max_bytes = child->max_bytes;
    fetching.client.moved = moved;
    fetching.client.moved_context = &fetching;
    worker_alive(child->worker, true);
    const char *reference = fetching.client.name.reference;
    err = reference ? reference_fetch(&fetching, reference) : all_fetch(&fetching);
    if (err < 0)
        return err;
    worker_alive(child->worker, false);
    return objects_pack(&fetching);
}
