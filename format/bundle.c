/* A snapshot as one stream that checks itself. See bundle.h. */
#include "format/bundle.h"

#include <inttypes.h>
#include <string.h>

#include "format/file.h"
#include "format/limits.h"

#define VERSION       1
#define SIZES_OFFSET  8
#define BODY_OFFSET   88
#define DIGEST_OFFSET 120

static const uint8_t magic[4] = {'V', 'B', 'D', 'L'};

static const char *const part_names[BUNDLE_PARTS] = {
    "manifest", PEFT_CONFIG, "layout", "recipe", "pin", "config.json", "payload", "A", "B", "files",
};

const struct bundle_room bundle_room_any = {{
    [BUNDLE_MANIFEST] = LIMIT_TEXT,
    [BUNDLE_CONFIG] = LIMIT_CONFIG,
    [BUNDLE_LAYOUT] = 8 + LIMIT_SAFETENSORS_HEADER,
    [BUNDLE_RECIPE] = LIMIT_TEXT,
    [BUNDLE_PIN] = LIMIT_TEXT,
    [BUNDLE_MODEL_CONFIG] = LIMIT_CONFIG,
    [BUNDLE_PAYLOAD] = LIMIT_FILE,
    [BUNDLE_A] = LIMIT_FILE,
    [BUNDLE_B] = LIMIT_FILE,
    [BUNDLE_FILES] = LIMIT_DIRECTORY,
}};

/* The header */

static int header_check(const struct bundle_header *header, const struct bundle_room *room)
{
    for (unsigned i = 0; i < BUNDLE_PARTS; i++) {
        uint64_t most = bundle_room_any.part_bytes[i];
        if (room->part_bytes[i] < most)
            most = room->part_bytes[i];
        if (header->part_bytes[i] > most)
            return error_set(
                E_LIMIT, "bundle: %s has %" PRIu64 " bytes, at most %" PRIu64 " are taken",
                part_names[i], header->part_bytes[i], most
            );
    }
    if (!header->whole &&
        (header->part_bytes[BUNDLE_MODEL_CONFIG] || header->part_bytes[BUNDLE_FILES]))
        return error_set(E_CORRUPT, "bundle: it is bare and has other files");
    return 0;
}

static uint64_t number_read(const uint8_t *at)
{
    uint64_t number = 0;

    for (unsigned i = 0; i < 8; i++)
        number |= (uint64_t)at[i] << (8 * i);
    return number;
}

/* Is it a bundle's header, whole and undamaged, whatever its version? */
static int header_verify(struct bytes prefix)
{
    struct digest digest;

    if (prefix.len >= sizeof(magic) && memcmp(prefix.data, magic, sizeof(magic)) != 0)
        return error_set(E_CORRUPT, "bundle: these bytes are none");
    if (prefix.len < BUNDLE_HEADER_BYTES)
        return error_set(
            E_CORRUPT, "bundle: %zu bytes, its header alone has %d", prefix.len, BUNDLE_HEADER_BYTES
        );
    int err = digest_of(&digest, (struct bytes){prefix.data, DIGEST_OFFSET});
    if (err < 0 || memcmp(digest.bytes, prefix.data + DIGEST_OFFSET, DIGEST_SIZE) == 0)
        return err;
    return error_set(E_CORRUPT, "bundle: its header is damaged");
}

int bundle_header_decode(
    struct bundle_header *out, struct bytes prefix, const struct bundle_room *room
)
{
    struct bundle_header header = {.total_bytes = BUNDLE_HEADER_BYTES};

    int err = header_verify(prefix);
    if (err < 0)
        return err;
    const uint8_t *at = prefix.data;
    if (at[4] != VERSION)
        return error_set(
            E_UNSUPPORTED, "bundle: version %u, this program knows version %d", at[4], VERSION
        );
    if (at[5] > 1 || at[6] || at[7])
        return error_set(E_CORRUPT, "bundle: its header is not canonical");
    header.whole = at[5] == 1;
    for (unsigned i = 0; i < BUNDLE_PARTS; i++)
        header.part_bytes[i] = number_read(at + SIZES_OFFSET + 8 * i);
    if ((err = header_check(&header, room)) < 0)
        return err;
    /* Cannot overflow: every part is within its limit. */
    for (unsigned i = 0; i < BUNDLE_PARTS; i++)
        header.total_bytes += header.part_bytes[i];
    memcpy(header.body.bytes, at + BODY_OFFSET, DIGEST_SIZE);
    *out = header;
    return 0;
}

static int header_write(uint8_t *at, const struct bundle_header *header)
{
    struct digest digest;

    memcpy(at, magic, sizeof(magic));
    at[4] = VERSION;
    at[5] = header->whole;
    for (unsigned i = 0; i < 8 * BUNDLE_PARTS; i++)
        at[SIZES_OFFSET + i] = (uint8_t)(header->part_bytes[i / 8] >> (8 * (i % 8)));
    memcpy(at + BODY_OFFSET, header->body.bytes, DIGEST_SIZE);
    int err = digest_of(&digest, (struct bytes){at, DIGEST_OFFSET});
    if (err == 0)
        memcpy(at + DIGEST_OFFSET, digest.bytes, DIGEST_SIZE);
    return err;
}

/* Encoding */

/* Where each part but the files lies in a snapshot. */
static void parts_of(struct buf *parts[BUNDLE_FILES], struct snapshot *snapshot)
{
    parts[BUNDLE_MANIFEST] = &snapshot->manifest;
    parts[BUNDLE_CONFIG] = &snapshot->config;
    parts[BUNDLE_LAYOUT] = &snapshot->layout;
    parts[BUNDLE_RECIPE] = &snapshot->recipe;
    parts[BUNDLE_PIN] = &snapshot->pin;
    parts[BUNDLE_MODEL_CONFIG] = &snapshot->model_config;
    parts[BUNDLE_PAYLOAD] = &snapshot->payload;
    parts[BUNDLE_A] = &snapshot->a;
    parts[BUNDLE_B] = &snapshot->b;
}

int bundle_encode(struct buf *out, const struct snapshot *snapshot, bool whole)
{
    struct bundle_header header = {.whole = whole};
    struct snapshot view = *snapshot; /* not owned */
    struct buf *parts[BUNDLE_FILES];
    uint64_t total = BUNDLE_HEADER_BYTES;
    AUTO_BUF(bundle);
    int err;

    if (!whole)
        view.model_config.len = view.file_count = 0;
    parts_of(parts, &view);
    for (unsigned i = 0; i < BUNDLE_FILES; i++)
        header.part_bytes[i] = parts[i]->len;
    for (size_t i = 0; i < view.file_count; i++)
        header.part_bytes[BUNDLE_FILES] += view.files[i].data.len;
    if ((err = header_check(&header, &bundle_room_any)) < 0)
        return err;
    for (unsigned i = 0; i < BUNDLE_PARTS; i++)
        total += header.part_bytes[i];
    if ((err = buf_reserve(&bundle, (size_t)total)) < 0 ||
        (err = buf_resize(&bundle, BUNDLE_HEADER_BYTES)) < 0)
        return err;
    for (unsigned i = 0; err == 0 && i < BUNDLE_FILES; i++)
        err = buf_append(&bundle, parts[i]->data, parts[i]->len);
    for (size_t i = 0; err == 0 && i < view.file_count; i++)
        err = buf_append(&bundle, view.files[i].data.data, view.files[i].data.len);
    struct bytes body = {bundle.data + BUNDLE_HEADER_BYTES, bundle.len - BUNDLE_HEADER_BYTES};
    if (err < 0 || (err = digest_of(&header.body, body)) < 0 ||
        (err = header_write(bundle.data, &header)) < 0)
        return err;
    *out = buf_take(&bundle);
    return 0;
}

/* Decoding */

/* The bytes that are left of a part or of the body. */
static int take(struct buf *out, struct bytes *left, uint64_t len)
{
    if (len > left->len)
        return error_set(E_CORRUPT, "bundle: the files of its manifest are larger than its files");
    int err = buf_append(out, left->data, (size_t)len);
    left->data += len;
    left->len -= (size_t)len;
    return err;
}

/* The other files, by the manifest's names and sizes. */
static int files_take(struct snapshot *snapshot, struct bytes *left)
{
    AUTO_MANIFEST(manifest);

    int err = manifest_decode(&manifest, buf_bytes(&snapshot->manifest));
    if (err < 0)
        return err;
    if (!(snapshot->files = array_new(manifest.count, sizeof(*snapshot->files))))
        return error_wrap(E_NOMEM, "bundle");
    for (size_t i = 0; i < manifest.count; i++) {
        const struct manifest_file *file = &manifest.files[i];
        if (strcmp(file->path, PEFT_CONFIG) == 0 || strcmp(file->path, PEFT_MODEL) == 0)
            continue;
        struct adapter_file *taken = &snapshot->files[snapshot->file_count++];
        if (!(taken->path = bytes_dup(text_bytes(file->path))))
            return error_wrap(E_NOMEM, "bundle");
        if ((err = take(&taken->data, left, file->bytes)) < 0)
            return err;
    }
    if (left->len)
        return error_set(E_CORRUPT, "bundle: its files are larger than those of its manifest");
    return 0;
}

static int
body_decode(struct snapshot *snapshot, struct bytes body, const struct bundle_header *header)
{
    struct buf *parts[BUNDLE_FILES];
    struct bytes left = body;
    struct digest digest;

    int err = digest_of(&digest, body);
    if (err < 0)
        return err;
    if (!digest_equal(&digest, &header->body))
        return error_set(E_CORRUPT, "bundle: its body is damaged");
    parts_of(parts, snapshot);
    for (unsigned i = 0; err == 0 && i < BUNDLE_FILES; i++)
        err = take(parts[i], &left, header->part_bytes[i]);
    if (err == 0 && header->whole)
        err = files_take(snapshot, &left);
    if (err < 0 || (err = digest_of(&snapshot->id, buf_bytes(&snapshot->manifest))) < 0)
        return err;
    return header->whole ? snapshot_check(snapshot) : snapshot_check_bare(snapshot);
}

static int length_check(const struct bundle_header *header, size_t len)
{
    if (len == header->total_bytes)
        return 0;
    return error_set(
        E_CORRUPT, "bundle: %s: its header says %" PRIu64 " bytes",
        len < header->total_bytes ? "it ends early" : "more follows behind its end",
        header->total_bytes
    );
}

int bundle_decode(struct snapshot *out, struct bytes bundle, const struct bundle_room *room)
{
    struct bundle_header header;
    AUTO_SNAPSHOT(snapshot);
    int err;

    if ((err = bundle_header_decode(&header, bundle, room)) < 0 ||
        (err = length_check(&header, bundle.len)) < 0)
        return err;
    struct bytes body = {bundle.data + BUNDLE_HEADER_BYTES, bundle.len - BUNDLE_HEADER_BYTES};
    if ((err = body_decode(&snapshot, body, &header)) < 0)
        return err == E_NOMEM || err == E_INTERRUPTED ? err : error_wrap(err, "bundle");
    *out = snapshot;
    snapshot = (struct snapshot){0};
    return 0;
}

int bundle_read(struct buf *out, int fd, const struct bundle_room *room, const char *path)
{
    struct bundle_header header;
    AUTO_BUF(bundle);
    int err;

    if ((err = fd_read_more(&bundle, fd, BUNDLE_HEADER_BYTES, path)) < 0)
        return err;
    if ((err = bundle_header_decode(&header, buf_bytes(&bundle), room)) < 0)
        return error_wrap(err, "%s", path);
    /* One byte more than there may be tells whether there is one. */
    if ((err = fd_read_more(&bundle, fd, header.total_bytes - bundle.len + 1, path)) < 0)
        return err;
    if ((err = length_check(&header, bundle.len)) < 0)
        return error_wrap(err, "%s", path);
    *out = buf_take(&bundle);
    return 0;
}
