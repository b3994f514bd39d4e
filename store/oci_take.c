/* Versions from a registry. See oci_version.h. */
#include <stdlib.h>
#include <string.h>

#include "format/file.h"
#include "format/limits.h"
#include "store/oci_pack.h"
#include "store/oci_version.h"

struct taking {
    struct store *store;
    struct oci_client *client;
    const char *folder;
    struct oci_document manifest;
    size_t next; /* layer */
    struct objects objects;
    struct id_set packed; /* what the version's pack holds */
    bool has_commit;
    git_oid commit;
    const git_oid *wanted; /* the one blob of a pack that is a layer */
};

static void taking_release(struct taking *taking)
{
    oci_document_release(&taking->manifest);
    objects_release(&taking->objects);
    id_set_release(&taking->packed);
}

static int damaged(const struct taking *taking, const char *why)
{
    const struct oci_name *name = &taking->client->name;

    return error_set(
        E_CORRUPT, "%s/%s: a version's manifest: %s", name->host, name->repository, why
    );
}

/* The whole of a layer: on the disk first, so that what is only claimed takes no memory. */
static int layer_read(struct buf *out, struct taking *taking, const struct oci_descriptor *layer)
{
    AUTO_FREE(char, path);
    AUTO_FD(fd);
    int err;

    if ((err = path_random(&path, taking->folder, "layer-")) < 0 ||
        (err = file_create(&fd, path, 0600)) < 0)
        return err;
    err = oci_blob_get(taking->client, fd, layer, LIMIT_FILE + MIB);
    if (err == 0)
        err = file_read(out, path, LIMIT_FILE + MIB);
    error_keep();
    int removed = path_remove(path);
    return err < 0 ? error_restore(err) : removed;
}

static int pack_visit(void *context, git_object_t type, struct bytes data)
{
    struct taking *taking = context;
    size_t ignored;
    git_oid id;

    int err = object_write(&id, &taking->objects, taking->store, type, data);
    if (err < 0)
        return err;
    if (type == GIT_OBJECT_COMMIT) {
        if (taking->has_commit)
            return damaged(taking, "its pack holds two commits");
        taking->has_commit = true;
        taking->commit = id;
    }
    return id_set_add(&ignored, NULL, &taking->packed, &id);
}

static int blob_check(const struct taking *taking, const git_oid *id)
{
    if (git_oid_equal(id, taking->wanted))
        return 0;
    return damaged(taking, "a layer is not the part of its tree that it should be");
}

static int blob_visit(void *context, git_object_t type, struct bytes data)
{
    struct taking *taking = context;
    git_oid id;

    int err = object_write(&id, &taking->objects, taking->store, type, data);
    return err < 0 ? err : blob_check(taking, &id);
}

static int blob_take(void *context, const git_oid *id, bool is_frame)
{
    struct taking *taking = context;
    AUTO_BUF(data);
    size_t ignored;
    git_oid is;

    (void)is_frame;
    if (id_set_find(&ignored, &taking->packed, id))
        return 0;
    if (taking->next == taking->manifest.count)
        return damaged(taking, "lacks layers");
    const struct oci_descriptor *layer = &taking->manifest.items[taking->next++];
    if (git_odb_exists(taking->store->odb, id))
        return 0;
    if (layer->type != OCI_FRAME && layer->type != OCI_BLOB && layer->type != OCI_PACK)
        return error_set(
            E_UNSUPPORTED, "a version with a layer of a type that this program does not know"
        );
    int err = layer_read(&data, taking, layer);
    if (err < 0)
        return err;
    taking->wanted = id;
    if (layer->type == OCI_PACK)
        return oci_pack_decode(buf_bytes(&data), LIMIT_FILE, blob_visit, taking);
    err = object_write(&is, &taking->objects, taking->store, GIT_OBJECT_BLOB, buf_bytes(&data));
    return err < 0 ? err : blob_check(taking, &is);
}

static int manifest_read(struct taking *taking, const struct oci_descriptor *descriptor)
{
    char reference[7 + DIGEST_HEX_SIZE] = "sha256:";
    AUTO_BUF(json);
    struct digest digest;

    digest_hex(reference + 7, &descriptor->digest);
    int err = oci_document_get(&json, &digest, NULL, taking->client, reference);
    if (err == 0)
        err = oci_document_decode(&taking->manifest, buf_bytes(&json));
    if (err < 0)
        return err;
    if (!taking->manifest.is_version || !taking->manifest.count ||
        taking->manifest.items[0].type != OCI_PACK)
        return error_set(
            E_UNSUPPORTED, "%s/%s: %s is no version of an adapter", taking->client->name.host,
            taking->client->name.repository, reference
        );
    return 0;
}

static int tree_take(struct taking *taking)
{
    struct oci_walk walk = {.blob = blob_take, .context = taking};
    AUTO_GIT(git_commit, commit);

    int err = commit_read(&commit, taking->store, &taking->commit);
    if (err == 0)
        err = oci_walk_run(&walk, taking->store, git_commit_tree_id(commit));
    oci_walk_release(&walk);
    if (err < 0)
        return err;
    return taking->next == taking->manifest.count ? 0
                                                  : damaged(taking, "has more layers than parts");
}

int oci_version_take(
    struct commit_id *out_commit,
    struct store *store,
    struct oci_client *client,
    const struct oci_descriptor *descriptor,
    const char *folder
)
{
    __attribute__((cleanup(taking_release))
    ) struct taking taking = {.store = store, .client = client, .folder = folder, .next = 1};
    AUTO_BUF(pack);
    int err;

    if ((err = manifest_read(&taking, descriptor)) < 0 ||
        (err = layer_read(&pack, &taking, &taking.manifest.items[0])) < 0 ||
        (err = oci_pack_decode(buf_bytes(&pack), LIMIT_DIRECTORY, pack_visit, &taking)) < 0)
        return err;
    if (!taking.has_commit)
        return damaged(&taking, "its pack holds no commit");
    const struct commit_id commit = commit_id_of(&taking.commit);
    if ((descriptor->has_commit && !commit_equal(&commit, &descriptor->commit)) ||
        (taking.manifest.has_commit && !commit_equal(&commit, &taking.manifest.commit)))
        return damaged(&taking, "holds another commit than it says");
    if ((err = tree_take(&taking)) < 0)
        return err;
    *out_commit = commit;
    return 0;
}
