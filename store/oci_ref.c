/* Refs in a registry. See oci_ref.h. */
#include "store/oci_ref.h"

#include <stdlib.h>
#include <string.h>

#include "store/internal.h"

void oci_ref_release(struct oci_ref *ref)
{
    free(ref->etag);
    oci_document_release(&ref->index);
    *ref = (struct oci_ref){0};
}

const char *oci_ref_short(const char *name)
{
    if (strncmp(name, REF_HEADS, strlen(REF_HEADS)) == 0)
        return name + strlen(REF_HEADS);
    return strncmp(name, REF_TAGS, strlen(REF_TAGS)) == 0 ? name + strlen(REF_TAGS) : name;
}

static int target_find(git_oid *out, const struct oci_document *index)
{
    if (!index->count || !index->items[0].has_commit)
        return error_set(E_CORRUPT, "an index that names no version");
    *out = git_id(&index->items[0].commit);
    if (!index->tag)
        return 0;
    int code = git_odb_hash(out, index->tag, strlen(index->tag), GIT_OBJECT_TAG);
    return code < 0 ? git_failed(code, "tag") : 0;
}

int oci_ref_read(struct oci_ref *out, struct oci_client *client, const char *reference)
{
    AUTO_OCI_REF(ref);
    AUTO_BUF(json);

    int err = oci_document_get(&json, &ref.digest, &ref.etag, client, reference);
    if (err == E_NOTFOUND)
        return 0;
    if (err < 0)
        return err;
    err = oci_document_decode(&ref.index, buf_bytes(&json));
    if (err == 0 && (ref.index.type != OCI_INDEX || !ref.index.ref)) {
        out->is_foreign = true;
        return 0;
    }
    if (err < 0 || (err = target_find(&ref.target, &ref.index)) < 0)
        return error_wrap(err, "%s/%s:%s", client->name.host, client->name.repository, reference);
    ref.exists = true;
    *out = ref;
    ref = (struct oci_ref){0};
    return 0;
}

int oci_ref_find(struct oci_ref *out, struct oci_client *client, const char *name)
{
    AUTO_OCI_REF(ref);
    AUTO_BUF(tag);
    int err;

    if ((err = oci_tag_encode(&tag, oci_ref_short(name), NULL)) < 0)
        return err;
    if (!buf_text(&tag))
        return error_wrap(E_NOMEM, "registry");
    err = oci_ref_read(&ref, client, (const char *)tag.data);
    if (err == 0 && (ref.is_foreign || (ref.exists && strcmp(ref.index.ref, name) != 0))) {
        err = error_set(
            E_CONFLICT, "%s/%s: its tag '%s' is something else than %s", client->name.host,
            client->name.repository, (const char *)tag.data, name
        );
        return error_hint(err, "a registry has one tag for a branch and a tag of the same name");
    }
    if (err < 0)
        return err;
    *out = ref;
    ref = (struct oci_ref){0};
    return 0;
}
