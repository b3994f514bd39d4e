/* Manifests and indexes. See oci_document.h. */
#include "store/oci_document.h"

#include <stdlib.h>
#include <string.h>

#include "format/json.h"
#include "format/limits.h"

#define ANNOTATION_COMMIT "org.verastore.commit"
#define ANNOTATION_REF    "org.verastore.ref"
#define ANNOTATION_TAG    "org.verastore.tag"

static const char *const types[] = {
    [OCI_OTHER] = "",           [OCI_MANIFEST] = OCI_TYPE_MANIFEST, [OCI_INDEX] = OCI_TYPE_INDEX,
    [OCI_PACK] = OCI_TYPE_PACK, [OCI_FRAME] = OCI_TYPE_FRAME,       [OCI_BLOB] = OCI_TYPE_BLOB,
};

void oci_document_release(struct oci_document *document)
{
    free(document->items);
    free(document->ref);
    free(document->tag);
    *document = (struct oci_document){0};
}

int oci_item_add(struct oci_document *document, const struct oci_descriptor *item)
{
    if (document->count == LIMIT_OCI_ITEMS)
        return error_set(
            E_LIMIT, "more than %llu parts in one manifest", (unsigned long long)LIMIT_OCI_ITEMS
        );
    int err = array_grow(
        &document->items, &document->capacity, document->count + 1, sizeof(*document->items)
    );
    if (err == 0)
        document->items[document->count++] = *item;
    return err;
}

const struct oci_descriptor *
oci_item_find(const struct oci_document *document, const struct commit_id *commit)
{
    for (size_t i = 0; i < document->count; i++) {
        const struct oci_descriptor *item = &document->items[i];
        if (item->has_commit && commit_equal(&item->commit, commit))
            return item;
    }
    return NULL;
}

/* Reading */

static enum oci_type type_of(const struct json *json)
{
    for (size_t i = 1; i < sizeof(types) / sizeof(types[0]); i++) {
        if (json_text_is(json, types[i]))
            return (enum oci_type)i;
    }
    return OCI_OTHER;
}

static int damaged(const char *why)
{
    return error_set(E_CORRUPT, "a registry's manifest: %s", why);
}

static int commit_decode(struct commit_id *out, struct bytes hex)
{
    git_oid id;

    if (hex.len != GIT_OID_HEXSZ || git_oid_fromstrn(&id, (const char *)hex.data, hex.len) < 0)
        return damaged("a commit's id is none");
    *out = commit_id_of(&id);
    return 0;
}

static int digest_decode(struct digest *out, struct json *json)
{
    int err = json_expect(json, JSON_STRING);

    if (err < 0)
        return err;
    if (json->text.len != 71 || memcmp(json->text.data, "sha256:", 7) != 0 ||
        digest_parse(out, (struct bytes){json->text.data + 7, 64}) < 0)
        return damaged("a digest is none of SHA-256");
    return 0;
}

static int text_decode(char **out, struct json *json)
{
    int err = json_expect(json, JSON_STRING);

    if (err < 0)
        return err;
    if (memchr(json->text.data, '\0', json->text.len))
        return damaged("a NUL in a name");
    free(*out);
    *out = bytes_dup(json->text);
    return *out ? 0 : error_wrap(E_NOMEM, "manifest");
}

/* Annotations: of the document, or, with `item`, of one of its items. */
static int
annotations_decode(struct oci_document *document, struct oci_descriptor *item, struct json *json)
{
    bool *has = item ? &item->has_commit : &document->has_commit;
    struct commit_id *commit = item ? &item->commit : &document->commit;
    enum json_event event;
    int err = json_expect(json, JSON_OBJECT_BEGIN);

    while (err == 0 && (err = json_next(&event, json)) == 0 && event == JSON_KEY) {
        if (json_text_is(json, ANNOTATION_COMMIT)) {
            if ((err = json_expect(json, JSON_STRING)) == 0 &&
                (err = commit_decode(commit, json->text)) == 0)
                *has = true;
        } else if (!item && json_text_is(json, ANNOTATION_REF))
            err = text_decode(&document->ref, json);
        else if (!item && json_text_is(json, ANNOTATION_TAG))
            err = text_decode(&document->tag, json);
        else
            err = json_skip_value(json);
    }
    return err;
}

/* What follows its brace. `is_version` (may be NULL): is it a configuration of our type? */
static int descriptor_decode(struct oci_descriptor *out, bool *is_version, struct json *json)
{
    bool has_digest = false, has_size = false;
    enum json_event event;
    int err = 0;

    while (err == 0 && (err = json_next(&event, json)) == 0 && event == JSON_KEY) {
        if (json_text_is(json, "mediaType")) {
            if ((err = json_expect(json, JSON_STRING)) == 0)
                out->type = type_of(json);
            if (err == 0 && is_version)
                *is_version = json_text_is(json, OCI_TYPE_VERSION);
        } else if (json_text_is(json, "digest")) {
            err = digest_decode(&out->digest, json);
            has_digest = true;
        } else if (json_text_is(json, "size")) {
            if ((err = json_expect(json, JSON_NUMBER)) == 0)
                err = json_get_uint64(&out->bytes, json);
            has_size = true;
        } else if (json_text_is(json, "annotations"))
            err = annotations_decode(NULL, out, json);
        else
            err = json_skip_value(json);
    }
    if (err < 0)
        return err;
    return has_digest && has_size ? 0 : damaged("a part without digest or size");
}

static int items_decode(struct oci_document *document, struct json *json)
{
    enum json_event event;
    int err = json_expect(json, JSON_ARRAY_BEGIN);

    while (err == 0) {
        struct oci_descriptor item = {0};
        if ((err = json_next(&event, json)) < 0 || event == JSON_ARRAY_END)
            return err;
        if (event != JSON_OBJECT_BEGIN)
            return damaged("a part that is none");
        if ((err = descriptor_decode(&item, NULL, json)) == 0)
            err = oci_item_add(document, &item);
    }
    return err;
}

static int config_decode(struct oci_document *document, struct json *json)
{
    struct oci_descriptor ignored = {0};
    int err = json_expect(json, JSON_OBJECT_BEGIN);

    return err < 0 ? err : descriptor_decode(&ignored, &document->is_version, json);
}

static int document_decode(struct oci_document *out, struct json *json)
{
    bool has_layers = false, has_manifests = false;
    enum json_event event;
    int err = json_expect(json, JSON_OBJECT_BEGIN);

    while (err == 0 && (err = json_next(&event, json)) == 0 && event == JSON_KEY) {
        bool layers = json_text_is(json, "layers"), manifests = json_text_is(json, "manifests");
        if (layers || manifests) {
            has_layers |= layers;
            has_manifests |= manifests;
            err = has_layers && has_manifests ? damaged("layers and manifests in one")
                                              : items_decode(out, json);
        } else if (json_text_is(json, "config"))
            err = config_decode(out, json);
        else if (json_text_is(json, "annotations"))
            err = annotations_decode(out, NULL, json);
        else
            err = json_skip_value(json);
    }
    if (err < 0 || (err = json_expect(json, JSON_END)) < 0)
        return err;
    if (!has_layers && !has_manifests)
        return damaged("neither layers nor manifests");
    out->type = has_layers ? OCI_MANIFEST : OCI_INDEX;
    return 0;
}

int oci_document_decode(struct oci_document *out, struct bytes input)
{
    AUTO_OCI_DOCUMENT(document);
    AUTO_JSON(json);

    json_init(&json, input);
    int err = document_decode(&document, &json);
    if (err == E_INVALID)
        err = error_wrap(E_CORRUPT, "a registry's manifest");
    if (err < 0)
        return err;
    *out = document;
    document = (struct oci_document){0};
    return 0;
}

/* Writing */

static void digest_write(struct json_writer *writer, const struct digest *digest)
{
    char text[7 + DIGEST_HEX_SIZE] = "sha256:";

    digest_hex(text + 7, digest);
    json_write_text(writer, text);
}

static void
descriptor_write(struct json_writer *writer, const char *type, const struct oci_descriptor *item)
{
    char hex[COMMIT_HEX_SIZE];

    json_write_object_begin(writer);
    json_write_key(writer, "mediaType");
    json_write_text(writer, type);
    json_write_key(writer, "digest");
    digest_write(writer, &item->digest);
    json_write_key(writer, "size");
    json_write_uint(writer, item->bytes);
    if (item->has_commit) {
        commit_hex(hex, &item->commit);
        json_write_key(writer, "annotations");
        json_write_object_begin(writer);
        json_write_key(writer, ANNOTATION_COMMIT);
        json_write_text(writer, hex);
        json_write_object_end(writer);
    }
    json_write_object_end(writer);
}

static void begin(struct json_writer *writer, struct buf *out, const char *type)
{
    json_write_init(writer, out);
    json_write_object_begin(writer);
    json_write_key(writer, "schemaVersion");
    json_write_uint(writer, 2);
    json_write_key(writer, "mediaType");
    json_write_text(writer, type);
}

static void items_write(
    struct json_writer *writer, const char *key, const struct oci_descriptor *items, size_t count
)
{
    json_write_key(writer, key);
    json_write_array_begin(writer);
    for (size_t i = 0; i < count; i++)
        descriptor_write(writer, types[items[i].type], &items[i]);
    json_write_array_end(writer);
}

static int end(struct json_writer *writer)
{
    json_write_object_end(writer);
    return json_write_end(writer);
}

int oci_manifest_encode(
    struct buf *out,
    const struct oci_descriptor *layers,
    size_t count,
    const struct oci_annotation *annotations,
    size_t annotation_count
)
{
    struct oci_descriptor config = {.bytes = sizeof(OCI_CONFIG) - 1};
    struct json_writer writer;

    int err = digest_of(&config.digest, text_bytes(OCI_CONFIG));
    if (err < 0)
        return err;
    begin(&writer, out, OCI_TYPE_MANIFEST);
    json_write_key(&writer, "config");
    descriptor_write(&writer, OCI_TYPE_VERSION, &config);
    items_write(&writer, "layers", layers, count);
    json_write_key(&writer, "annotations");
    json_write_object_begin(&writer);
    for (size_t i = 0; i < annotation_count; i++) {
        json_write_key(&writer, annotations[i].key);
        json_write_text(&writer, annotations[i].value);
    }
    json_write_object_end(&writer);
    return end(&writer);
}

int oci_index_encode(struct buf *out, const struct oci_document *document)
{
    struct json_writer writer;

    begin(&writer, out, OCI_TYPE_INDEX);
    items_write(&writer, "manifests", document->items, document->count);
    json_write_key(&writer, "annotations");
    json_write_object_begin(&writer);
    json_write_key(&writer, ANNOTATION_REF);
    json_write_text(&writer, document->ref);
    if (document->tag) {
        json_write_key(&writer, ANNOTATION_TAG);
        json_write_text(&writer, document->tag);
    }
    json_write_object_end(&writer);
    return end(&writer);
}
