#include "store/loose_backend.h"

#include <git2/sys/odb_backend.h>
#include <stdlib.h>
#include <string.h>

#include "format/file.h"
#include "format/limits.h"
#include "store/loose.h"

#define HEADER_PART      4096u
#define PRIORITY_LOOSE   1 /* libgit2's own */
#define PRIORITY_PACKED  2
#define ALTERNATES_DEPTH 5 /* git's own */

struct loose_backend {
    git_odb_backend parent;
    git_odb_backend *inner; /* libgit2's, for all but reading */
    char *objects;          /* path of the folder */
};

static struct loose_backend *backend_of(git_odb_backend *backend)
{
    return (struct loose_backend *)(void *)backend;
}

/* Our error in libgit2's words; what is not there is not an error yet. */
static int told(int err)
{
    if (err == E_NOTFOUND)
        return GIT_ENOTFOUND;
    int class = err == E_NOMEM ? GIT_ERROR_NOMEMORY : err == E_IO ? GIT_ERROR_OS : GIT_ERROR_ODB;
    git_error_set_str(class, error_message());
    return GIT_ERROR;
}

static int damaged(void)
{
    git_error_set_str(GIT_ERROR_ODB, "its file is damaged");
    return GIT_ERROR;
}

static int object_open(
    int *out_fd, uint64_t *out_bytes, char **out_path, git_odb_backend *backend, const git_oid *id
)
{
    AUTO_BUF(path);
    char hex[GIT_OID_HEXSZ + 1];

    git_oid_tostr(hex, sizeof(hex), id);
    int err = buf_printf(&path, "%s/%.2s/%s", backend_of(backend)->objects, hex, hex + 2);
    if (err < 0 || (err = file_open(out_fd, out_bytes, (const char *)path.data)) < 0)
        return err;
    *out_path = (char *)buf_take(&path).data;
    return 0;
}

/* The first `most` bytes of an object's file, or all. */
static int file_begin(struct buf *out, git_odb_backend *backend, const git_oid *id, uint64_t most)
{
    AUTO_FREE(char, path);
    AUTO_BUF(file);
    AUTO_FD(fd);
    uint64_t bytes = 0;

    int err = object_open(&fd, &bytes, &path, backend, id);
    if (err < 0)
        return err;
    if (bytes > most)
        bytes = most;
    if ((err = buf_resize(&file, (size_t)bytes)) < 0 ||
        (err = file_read_at(fd, file.data, file.len, 0, path)) < 0)
        return err;
    *out = buf_take(&file);
    return 0;
}

static int backend_read_header(
    size_t *out_bytes, git_object_t *out_type, git_odb_backend *backend, const git_oid *id
)
{
    AUTO_BUF(file);
    struct loose_header header;
    bool whole;

    int err = file_begin(&file, backend, id, HEADER_PART);
    if (err < 0 || (err = loose_decode(&whole, &header, NULL, buf_bytes(&file), 0)) < 0)
        return told(err);
    if (!whole)
        return damaged();
    *out_bytes = header.bytes;
    *out_type = header.type;
    return 0;
}

static int backend_read(
    void **out,
    size_t *out_bytes,
    git_object_t *out_type,
    git_odb_backend *backend,
    const git_oid *id
)
{
    AUTO_BUF(file);
    AUTO_BUF(contents);
    struct loose_header header;
    bool whole;

    /* A file above the limit is cut here and so not whole. */
    int err = file_begin(&file, backend, id, LIMIT_FILE + LIMIT_SMALL_FILE);
    if (err < 0 ||
        (err = loose_decode(&whole, &header, &contents, buf_bytes(&file), LIMIT_FILE)) < 0)
        return told(err);
    if (!whole)
        return damaged();
    void *data = git_odb_backend_data_alloc(backend, contents.len + 1);
    if (!data)
        return GIT_ERROR;
    memcpy(data, contents.data, contents.len);
    ((char *)data)[contents.len] = '\0'; /* libgit2 parses some objects as text */
    *out = data;
    *out_bytes = contents.len;
    *out_type = header.type;
    return 0;
}

static int backend_read_prefix(
    git_oid *out_id,
    void **out,
    size_t *out_bytes,
    git_object_t *out_type,
    git_odb_backend *backend,
    const git_oid *prefix,
    size_t digits
)
{
    git_odb_backend *inner = backend_of(backend)->inner;

    int code = inner->exists_prefix(out_id, inner, prefix, digits);
    return code < 0 ? code : backend_read(out, out_bytes, out_type, backend, out_id);
}

/* The rest is libgit2's */

static int backend_exists(git_odb_backend *backend, const git_oid *id)
{
    git_odb_backend *inner = backend_of(backend)->inner;

    return inner->exists(inner, id);
}

static int
backend_exists_prefix(git_oid *out, git_odb_backend *backend, const git_oid *prefix, size_t digits)
{
    git_odb_backend *inner = backend_of(backend)->inner;

    return inner->exists_prefix(out, inner, prefix, digits);
}

static int backend_foreach(git_odb_backend *backend, git_odb_foreach_cb visit, void *context)
{
    git_odb_backend *inner = backend_of(backend)->inner;

    return inner->foreach (inner, visit, context);
}

static int backend_write(
    git_odb_backend *backend, const git_oid *id, const void *data, size_t bytes, git_object_t type
)
{
    git_odb_backend *inner = backend_of(backend)->inner;

    return inner->write(inner, id, data, bytes, type);
}

static int backend_freshen(git_odb_backend *backend, const git_oid *id)
{
    git_odb_backend *inner = backend_of(backend)->inner;

    return inner->freshen(inner, id);
}

static void backend_free(git_odb_backend *backend)
{
    struct loose_backend *loose = backend_of(backend);

    if (loose->inner)
        loose->inner->free(loose->inner);
    free(loose->objects);
    free(loose);
}

static int backend_new(git_odb_backend **out, const char *objects)
{
    struct loose_backend *loose = array_new(1, sizeof(*loose));

    if (!loose)
        return error_wrap(E_NOMEM, "%s", objects);
    git_odb_backend *backend = &loose->parent;
    int code = git_odb_init_backend(backend, GIT_ODB_BACKEND_VERSION);
    if (code == 0)
        code = git_odb_backend_loose(&loose->inner, objects, -1, 0, 0, 0);
    int err = code < 0 ? git_failed(code, "%s", objects) : 0;
    if (err == 0 && !(loose->objects = bytes_dup(text_bytes(objects))))
        err = error_wrap(E_NOMEM, "%s", objects);
    if (err < 0) {
        backend_free(backend);
        return err;
    }
    backend->read = backend_read;
    backend->read_prefix = backend_read_prefix;
    backend->read_header = backend_read_header;
    backend->write = backend_write;
    backend->exists = backend_exists;
    backend->exists_prefix = backend_exists_prefix;
    backend->foreach = backend_foreach;
    backend->freshen = backend_freshen;
    backend->free = backend_free;
    *out = backend;
    return 0;
}

/* Opening */

static int backend_add(git_odb *odb, git_odb_backend *backend, int priority, bool borrowed)
{
    int code = borrowed ? git_odb_add_alternate(odb, backend, priority)
                        : git_odb_add_backend(odb, backend, priority);

    if (code == 0)
        return 0;
    int err = git_failed(code, "objects");
    backend->free(backend);
    return err;
}

static int folder_add(git_odb *odb, const char *objects, unsigned depth);

/* A line of info/alternates: a folder `objects`, from this one where it is relative. */
static int alternate_add(git_odb *odb, const char *objects, const char *line, unsigned depth)
{
    AUTO_FREE(char, path);

    if (*line == '\0' || *line == '#')
        return 0;
    int err = *line == '/' ? path_join(&path, line, "") : path_join(&path, objects, line);
    return err < 0 ? err : folder_add(odb, path, depth + 1);
}

static int alternates_add(git_odb *odb, const char *objects, unsigned depth)
{
    AUTO_FREE(char, path);
    AUTO_BUF(text);

    int err = path_join(&path, objects, "info/alternates");
    if (err < 0)
        return err;
    if ((err = file_read(&text, path, LIMIT_IGNORE)) < 0)
        return err == E_NOTFOUND ? 0 : err;
    if (!buf_text(&text))
        return error_wrap(E_NOMEM, "%s", path);
    for (char *line = (char *)text.data, *end; err == 0 && *line; line = end) {
        end = line + strcspn(line, "\n");
        if (*end)
            *end++ = '\0';
        err = alternate_add(odb, objects, line, depth);
    }
    return err;
}

static int folder_add(git_odb *odb, const char *objects, unsigned depth)
{
    git_odb_backend *loose = NULL, *packed = NULL;
    int err;

    if (depth > ALTERNATES_DEPTH)
        return error_set(
            E_LIMIT, "%s: borrows over more than %d repositories", objects, ALTERNATES_DEPTH
        );
    if ((err = backend_new(&loose, objects)) < 0 ||
        (err = backend_add(odb, loose, PRIORITY_LOOSE, depth > 0)) < 0)
        return err;
    int code = git_odb_backend_pack(&packed, objects);
    if (code < 0)
        return git_failed(code, "%s", objects);
    err = backend_add(odb, packed, PRIORITY_PACKED, depth > 0);
    return err < 0 ? err : alternates_add(odb, objects, depth);
}

int odb_open(git_odb **out, const char *path)
{
    git_odb *odb = NULL;

    int code = git_odb_new(&odb);
    if (code < 0)
        return git_failed(code, "%s", path);
    int err = folder_add(odb, path, 0);
    if (err < 0) {
        git_odb_free(odb);
        return err;
    }
    *out = odb;
    return 0;
}
