/* See sink.h. */
#include "apply/sink.h"

#include <assert.h>
#include <stdlib.h>

int sink_open(struct sink *out, struct outdir *dir, const char *path, struct progress_sum *progress)
{
    AUTO_SINK(opened);
    int err;

    opened.path = path;
    opened.progress = progress;
    if ((err = hash_init(&opened.hash)) < 0 ||
        (dir && (err = outdir_create(&opened.fd, dir, path)) < 0))
        return err;
    *out = opened;
    opened = (struct sink){.fd = -1};
    return 0;
}

int sink_write(struct sink *sink, const void *data, size_t len)
{
    int err;

    if ((err = interrupt_check()) < 0 || (err = hash_update(&sink->hash, data, len)) < 0 ||
        (sink->fd >= 0 && (err = fd_write_all(sink->fd, data, len, sink->path)) < 0))
        return err;
    sink->bytes += len;
    progress_add(sink->progress, len);
    return 0;
}

int sink_pad(struct sink *sink, uint64_t len)
{
    static const uint8_t zeros[64];

    assert(len <= sizeof(zeros));
    return len ? sink_write(sink, zeros, (size_t)len) : 0;
}

int sink_close(struct manifest *files, struct sink *sink)
{
    struct manifest_file file = {.bytes = sink->bytes};
    struct manifest_file *grown;

    int err = hash_final(&file.digest, &sink->hash);
    if (err < 0)
        return err;
    if (!(grown = realloc(files->files, (files->count + 1) * sizeof(file))))
        return error_set(E_NOMEM, "out of memory for a list of files");
    files->files = grown;
    if (!(file.path = bytes_dup(text_bytes(sink->path))))
        return error_wrap(E_NOMEM, "%s", sink->path);
    files->files[files->count++] = file;
    return 0;
}

void sink_release(struct sink *sink)
{
    fd_release(&sink->fd);
    hash_release(&sink->hash);
    *sink = (struct sink){.fd = -1};
}
