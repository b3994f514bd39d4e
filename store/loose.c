/* See loose.h, and gitformat-loose(5). */
#include "store/loose.h"

#include <limits.h>
#include <stdio.h>
#include <string.h>

#include <openssl/evp.h>
#define ZLIB_CONST
#include <zlib.h>

#include "format/digest.h"
#include "format/file.h"
#include "format/limits.h"

#define HEADER_SIZE  32 /* "commit ", 20 digits and a NUL fit */
#define LEVEL        6
#define DEFLATE_MOST 1032u
#define BYTES_MAX    (UINT64_C(1) << 40) /* no size that is read overflows */

int loose_path(char **out, const struct store *store, const git_oid *id)
{
    AUTO_BUF(path);
    char hex[COMMIT_HEX_SIZE];

    git_oid_tostr(hex, sizeof(hex), id);
    int err = buf_printf(&path, "%s/objects/%.2s/%s", store->path, hex, hex + 2);
    if (err == 0)
        *out = (char *)buf_take(&path).data;
    return err;
}

/* "blob 123" and a NUL; returns its length. */
static size_t header_make(char out[HEADER_SIZE], git_object_t type, size_t bytes)
{
    int len = snprintf(out, HEADER_SIZE, "%s %zu", git_object_type2string(type), bytes);

    return (size_t)len + 1;
}

int loose_id(git_oid *out, git_object_t type, struct bytes data)
{
    char header[HEADER_SIZE];
    size_t len = header_make(header, type, data.len);
    uint8_t digest[EVP_MAX_MD_SIZE];

    digest_library_start();
    EVP_MD_CTX *context = EVP_MD_CTX_new();
    bool done = context && EVP_DigestInit_ex(context, EVP_sha1(), NULL) == 1 &&
                EVP_DigestUpdate(context, header, len) == 1 &&
                (!data.len || EVP_DigestUpdate(context, data.data, data.len) == 1) &&
                EVP_DigestFinal_ex(context, digest, NULL) == 1;
    EVP_MD_CTX_free(context);
    if (!done)
        return error_set(E_NOMEM, "SHA-1 is not available");
    memcpy(out->id, digest, sizeof(out->id));
    return 0;
}

/* Writing */

static int encode(
    struct buf *out, const char *header, size_t header_len, struct bytes data, enum loose_form form
)
{
    AUTO_BUF(whole);
    uLong len = compressBound(header_len + data.len);
    int err;

    if ((err = buf_reserve(&whole, header_len + data.len)) < 0 ||
        (err = buf_append(&whole, header, header_len)) < 0 ||
        (err = buf_append(&whole, data.data, data.len)) < 0 || (err = buf_reserve(out, len)) < 0)
        return err;
    int level = form == LOOSE_STORED ? Z_NO_COMPRESSION : LEVEL;
    int code = compress2(out->data, &len, whole.data, whole.len, level);
    if (code != Z_OK)
        return error_set(E_NOMEM, "zlib: %d", code);
    out->len = len;
    return 0;
}

/* git's own gc removes what is called so and was left by a crash; and it removes the folders that
   it empties. */
static int file_keep(const char *path, struct bytes data)
{
    static const char prefix[] = "tmp_obj_";
    AUTO_FREE(char, folder);

    int err = file_put(path, prefix, data);
    if (err != E_NOTFOUND || (err = path_parent(&folder, path)) < 0 || (err = dir_make(folder)) < 0)
        return err;
    return file_put(path, prefix, data);
}

int loose_write(
    uint64_t *out_bytes,
    const struct store *store,
    const git_oid *id,
    git_object_t type,
    struct bytes data,
    enum loose_form form
)
{
    char header[HEADER_SIZE];
    size_t header_len = header_make(header, type, data.len);
    AUTO_FREE(char, path);
    AUTO_BUF(file);
    int err;

    if ((err = encode(&file, header, header_len, data, form)) < 0 ||
        (err = loose_path(&path, store, id)) < 0 || (err = file_keep(path, buf_bytes(&file))) < 0)
        return err;
    *out_bytes = file.len;
    return 0;
}

/* Reading */

/* Inflate exactly `len` bytes. */
static bool inflate_to(z_stream *stream, uint8_t *out, size_t len)
{
    stream->next_out = out;
    stream->avail_out = (uInt)len;
    while (stream->avail_out && stream->avail_in && inflate(stream, Z_SYNC_FLUSH) == Z_OK)
        ;
    return !stream->avail_out;
}

static git_object_t type_read(const char *header)
{
    static const git_object_t types[] = {
        GIT_OBJECT_BLOB, GIT_OBJECT_TREE, GIT_OBJECT_COMMIT, GIT_OBJECT_TAG};

    for (size_t i = 0; i < sizeof(types) / sizeof(types[0]); i++) {
        const char *name = git_object_type2string(types[i]);
        if (strncmp(header, name, strlen(name)) == 0 && header[strlen(name)] == ' ')
            return types[i];
    }
    return GIT_OBJECT_INVALID;
}

/* Exactly as header_make() makes it. */
static bool header_read(struct loose_header *out, z_stream *stream)
{
    char header[HEADER_SIZE], wanted[HEADER_SIZE];
    size_t len = 0;
    uint64_t bytes = 0;

    do {
        if (len == sizeof(header) || !inflate_to(stream, (uint8_t *)header + len, 1))
            return false;
    } while (header[len++]);
    git_object_t type = type_read(header);
    if (type == GIT_OBJECT_INVALID)
        return false;
    for (const char *digits = strchr(header, ' ') + 1; *digits >= '0' && *digits <= '9'; digits++) {
        bytes = bytes * 10 + (uint64_t)(*digits - '0');
        if (bytes > BYTES_MAX)
            return false;
    }
    *out = (struct loose_header){type, (size_t)bytes};
    return header_make(wanted, type, out->bytes) == len && memcmp(wanted, header, len) == 0;
}

/* What is behind the header, and nothing behind that. */
static int contents_read(bool *whole, struct buf *out, z_stream *stream, size_t bytes)
{
    uint8_t none;

    /* deflate makes 1,032 bytes of one at most: what claims more is not given the memory. */
    if (bytes / DEFLATE_MOST > stream->avail_in + (uint64_t)HEADER_SIZE)
        return 0;
    int err = buf_reserve(out, bytes);
    if (err < 0 || !inflate_to(stream, out->data, bytes))
        return err;
    out->len = bytes;
    stream->next_out = &none;
    stream->avail_out = 1;
    *whole = inflate(stream, Z_FINISH) == Z_STREAM_END && stream->avail_out && !stream->avail_in;
    return 0;
}

int loose_decode(
    bool *whole, struct loose_header *header, struct buf *out, struct bytes file, uint64_t limit
)
{
    z_stream stream = {.next_in = file.data, .avail_in = (uInt)file.len};
    AUTO_BUF(contents);
    int err = 0;

    *whole = false;
    if (file.len > UINT_MAX)
        return 0;
    if (inflateInit(&stream) != Z_OK)
        return error_set(E_NOMEM, "zlib has no memory");
    bool is_header = header_read(header, &stream);
    if (is_header && !out)
        *whole = true;
    else if (is_header && header->bytes <= limit)
        err = contents_read(whole, &contents, &stream, header->bytes);
    inflateEnd(&stream);
    if (err == 0 && *whole && out)
        *out = buf_take(&contents);
    return err;
}

int loose_find(
    bool *found,
    struct buf *out,
    const struct store *store,
    const git_oid *id,
    git_object_t type,
    uint64_t limit
)
{
    AUTO_FREE(char, path);
    AUTO_BUF(file);
    AUTO_BUF(data);
    struct loose_header header;
    bool whole = false;
    git_oid actual;

    *found = false;
    int err = loose_path(&path, store, id);
    if (err < 0)
        return err;
    if ((err = file_read(&file, path, compressBound(limit + HEADER_SIZE))) < 0)
        return err == E_NOMEM ? err : 0;
    if ((err = loose_decode(&whole, &header, &data, buf_bytes(&file), limit)) < 0 || !whole ||
        header.type != type || (err = loose_id(&actual, type, buf_bytes(&data))) < 0 ||
        !git_oid_equal(&actual, id))
        return err;
    *out = buf_take(&data);
    *found = true;
    return 0;
}
