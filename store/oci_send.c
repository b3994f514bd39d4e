/* Versions to a registry. See oci_version.h. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "format/limits.h"
#include "store/index_row.h"
#include "store/oci_pack.h"
#include "store/oci_version.h"

void oci_sender_release(struct oci_sender *sender)
{
    id_set_release(&sender->blobs);
    id_set_release(&sender->there);
    free(sender->layers);
    sender->layers = NULL;
}

static int
layer_know(struct oci_sender *sender, const git_oid *blob, const struct oci_descriptor *layer)
{
    bool is_new = false;
    size_t index;

    int err = array_grow(
        &sender->layers, &sender->layer_capacity, sender->blobs.count + 1, sizeof(*sender->layers)
    );
    if (err < 0 || (err = id_set_add(&index, &is_new, &sender->blobs, blob)) < 0)
        return err;
    if (is_new)
        sender->layers[index] = *layer;
    return 0;
}

/* Digests are kept by their first bytes. */
static git_oid digest_key(const struct digest *digest)
{
    git_oid key;

    git_oid_fromraw(&key, digest->bytes);
    return key;
}

static int digest_know(struct oci_sender *sender, const struct digest *digest)
{
    git_oid key = digest_key(digest);
    size_t ignored;

    return id_set_add(&ignored, NULL, &sender->there, &key);
}

static int blob_send(
    struct oci_descriptor *out, struct oci_sender *sender, enum oci_type type, struct bytes data
)
{
    bool sent = false;
    size_t ignored;

    *out = (struct oci_descriptor){.type = type, .bytes = data.len};
    int err = digest_of(&out->digest, data);
    if (err < 0)
        return err;
    git_oid key = digest_key(&out->digest);
    if (id_set_find(&ignored, &sender->there, &key))
        return 0;
    if ((err = oci_blob_put(&sent, sender->client, &out->digest, data)) < 0)
        return err;
    sender->objects += sent;
    return digest_know(sender, &out->digest);
}

/* One version */

struct sending {
    struct oci_sender *sender;
    struct oci_pack_writer pack;
    struct oci_document layers; /* the first is the pack's, once that is whole */
};

static void sending_release(struct sending *sending)
{
    oci_pack_writer_release(&sending->pack);
    oci_document_release(&sending->layers);
}

static int pack_object(struct sending *sending, const git_oid *id, git_object_t type)
{
    AUTO_BUF(data);

    int err = object_read(&data, sending->sender->store, id, type, LIMIT_FILE, "part of a version");
    return err < 0 ? err : oci_pack_add(&sending->pack, type, buf_bytes(&data));
}

static int tree_pack(void *context, const git_oid *id)
{
    return pack_object(context, id, GIT_OBJECT_TREE);
}

static int
layer_send(struct oci_descriptor *out, struct oci_sender *sender, const git_oid *id, bool is_frame)
{
    AUTO_OCI_PACK_WRITER(writer);
    AUTO_BUF(data);
    AUTO_BUF(pack);

    int err = object_read(
        &data, sender->store, id, GIT_OBJECT_BLOB, LIMIT_FILE, "part of a version"
    );
    if (err < 0)
        return err;
    if (is_frame || object_is_noise(buf_bytes(&data)))
        return blob_send(out, sender, is_frame ? OCI_FRAME : OCI_BLOB, buf_bytes(&data));
    if ((err = oci_pack_add(&writer, GIT_OBJECT_BLOB, buf_bytes(&data))) < 0 ||
        (err = oci_pack_end(&pack, &writer)) < 0)
        return err;
    return blob_send(out, sender, OCI_PACK, buf_bytes(&pack));
}

static int blob_bytes(uint64_t *out, struct store *store, const git_oid *id)
{
    git_object_t type;
    size_t bytes;

    int code = git_odb_read_header(&bytes, &type, store->odb, id);
    if (code < 0)
        return git_failed(code, "blob %s", git_oid_tostr_s(id));
    *out = bytes;
    return 0;
}

static int blob_pack(void *context, const git_oid *id, bool is_frame)
{
    struct sending *sending = context;
    struct oci_sender *sender = sending->sender;
    struct oci_descriptor layer;
    uint64_t bytes = 0;
    size_t index;

    int err = blob_bytes(&bytes, sender->store, id);
    if (err < 0)
        return err;
    if (oci_is_small(bytes, is_frame))
        return pack_object(sending, id, GIT_OBJECT_BLOB);
    if (id_set_find(&index, &sender->blobs, id))
        return oci_item_add(&sending->layers, &sender->layers[index]);
    if ((err = layer_send(&layer, sender, id, is_frame)) < 0 ||
        (err = layer_know(sender, id, &layer)) < 0)
        return err;
    return oci_item_add(&sending->layers, &layer);
}

static int layers_send(struct sending *sending, const struct commit_id *commit)
{
    struct oci_sender *sender = sending->sender;
    struct oci_walk walk = {.blob = blob_pack, .tree = tree_pack, .context = sending};
    const struct oci_descriptor room = {.type = OCI_PACK};
    git_oid id = git_id(commit);
    AUTO_GIT(git_commit, read);
    AUTO_BUF(pack);
    int err;

    if ((err = commit_read(&read, sender->store, &id)) < 0 ||
        (err = pack_object(sending, &id, GIT_OBJECT_COMMIT)) < 0 ||
        (err = oci_item_add(&sending->layers, &room)) < 0)
        return err;
    err = oci_walk_run(&walk, sender->store, git_commit_tree_id(read));
    oci_walk_release(&walk);
    if (err < 0)
        return err;
    sender->objects += sending->pack.count;
    if ((err = oci_pack_end(&pack, &sending->pack)) < 0)
        return err;
    return blob_send(&sending->layers.items[0], sender, OCI_PACK, buf_bytes(&pack));
}

/* What a person or a registry's page shows of it. */
struct description {
    char created[32], commit[COMMIT_HEX_SIZE], rank[24], snapshot[7 + DIGEST_HEX_SIZE];
    char *title, *base;
    struct digest snapshot_id;
};

static void description_release(struct description *description)
{
    free(description->title);
    free(description->base);
}

static int describe(struct description *out, struct store *store, const struct commit_id *commit)
{
    struct index_reader reader = {0};
    struct index_row row = {0};
    AUTO_VERSION(version);
    git_oid id = git_id(commit);
    struct tm utc;
    int err;

    if ((err = store_version(&version, store, commit)) < 0)
        return err;
    commit_hex(out->commit, commit);
    if (!gmtime_r(&version.time, &utc) ||
        !strftime(out->created, sizeof(out->created), "%Y-%m-%dT%H:%M:%SZ", &utc))
        return error_set(E_CORRUPT, "commit %s: its time is none", out->commit);
    if (!(out->title = bytes_dup((struct bytes
          ){(const uint8_t *)version.message, strcspn(version.message, "\n")})))
        return error_wrap(E_NOMEM, "manifest");
    out->snapshot_id = version.snapshot;
    snprintf(out->snapshot, sizeof(out->snapshot), "sha256:");
    digest_hex(out->snapshot + 7, &version.snapshot);
    err = index_row_read(&row, &reader, store, &id);
    if (err == 0 && row.is_version) {
        snprintf(out->rank, sizeof(out->rank), "%llu", (unsigned long long)reader.adapter.rank);
        if (reader.adapter.base && !(out->base = bytes_dup(text_bytes(reader.adapter.base))))
            err = error_wrap(E_NOMEM, "manifest");
    }
    index_row_release(&row);
    index_reader_release(&reader);
    return err;
}

static int
manifest_make(struct buf *out, const struct oci_document *layers, const struct description *about)
{
    const struct oci_annotation all[] = {
        {"org.opencontainers.image.created", about->created},
        {"org.opencontainers.image.title", about->title},
        {"org.verastore.base", about->base},
        {"org.verastore.commit", about->commit},
        {"org.verastore.rank", about->rank[0] ? about->rank : NULL},
        {"org.verastore.snapshot", about->snapshot},
    };
    struct oci_annotation known[sizeof(all) / sizeof(all[0])];
    size_t count = 0;

    for (size_t i = 0; i < sizeof(all) / sizeof(all[0]); i++) {
        if (all[i].value)
            known[count++] = all[i];
    }
    return oci_manifest_encode(out, layers->items, layers->count, known, count);
}

static int config_send(struct oci_sender *sender)
{
    struct oci_descriptor ignored;

    return blob_send(&ignored, sender, OCI_OTHER, text_bytes(OCI_CONFIG));
}

int oci_version_send(
    struct oci_descriptor *out,
    struct oci_sender *sender,
    const struct commit_id *commit,
    const char *ref
)
{
    __attribute__((cleanup(sending_release))) struct sending sending = {.sender = sender};
    __attribute__((cleanup(description_release))) struct description about = {0};
    AUTO_BUF(manifest);
    AUTO_BUF(tag);
    int err;

    if ((err = describe(&about, sender->store, commit)) < 0 ||
        (err = oci_tag_encode(&tag, ref, &about.snapshot_id)) < 0 ||
        (err = layers_send(&sending, commit)) < 0 || (err = config_send(sender)) < 0 ||
        (err = manifest_make(&manifest, &sending.layers, &about)) < 0)
        return err;
    *out = (struct oci_descriptor
    ){.type = OCI_MANIFEST, .bytes = manifest.len, .has_commit = true, .commit = *commit};
    if (!buf_text(&tag))
        return error_wrap(E_NOMEM, "registry");
    return oci_document_put(
        &out->digest, sender->client, (const char *)tag.data, OCI_MANIFEST, buf_bytes(&manifest),
        NULL
    );
}

/* What is there of an older version */

int oci_sender_know(struct oci_sender *sender, const struct oci_descriptor *version)
{
    char reference[7 + DIGEST_HEX_SIZE] = "sha256:";
    AUTO_OCI_DOCUMENT(document);
    AUTO_BUF(json);
    struct digest digest;

    digest_hex(reference + 7, &version->digest);
    int err = oci_document_get(&json, &digest, NULL, sender->client, reference);
    if (err == 0)
        err = oci_document_decode(&document, buf_bytes(&json));
    for (size_t i = 0; err == 0 && i < document.count; i++)
        err = digest_know(sender, &document.items[i].digest);
    return err == E_CORRUPT || err == E_NOTFOUND ? 0 : err;
}
