/* See exporting.h. */
#include "cli/exporting.h"

#include <string.h>

#include "cli/describe.h"
#include "format/limits.h"

#define CONFIG_FILE "config.json"
#define PORTION     ((size_t)1 << 20)

static enum dtype dtype_of(const char *name)
{
    if (!name || strcmp(name, "fp32") == 0)
        return DTYPE_F32;
    return strcmp(name, "bf16") == 0 ? DTYPE_BF16 : DTYPE_F16;
}

int exporting_load(
    struct exporting *out,
    struct source *source,
    const char *text,
    const char *base,
    const char *dtype,
    struct progress *progress
)
{
    int err = company_load(&out->company, &source, &text, 1, base, progress);

    if (err)
        return err;
    const struct acting *acting = &out->company.members[0];
    out->lora = (struct lora){
        .loaded = &source->loaded,
        .basis = acting->basis,
        .effects = &acting->effects,
        .in = acting->in,
        .dtype = dtype_of(dtype),
    };
    return 0;
}

void exporting_release(struct exporting *exporting)
{
    company_release(&exporting->company);
    manifest_release(&exporting->files);
    lora_left_release(&exporting->left);
}

int exporting_leave_others(struct exporting *exporting)
{
    const struct adapter *adapter = &exporting->lora.loaded->adapter;
    int err = 0;

    for (size_t i = 0; !err && i < adapter->other_count; i++)
        err = lora_left_add(&exporting->left, lora_other_name(adapter->others[i]));
    return err;
}

int exporting_check_left(const struct exporting *exporting, const char *form, bool drop)
{
    const struct lora_left *left = &exporting->left;

    if (drop || left->count == 0)
        return 0;
    int err = error_set(
        E_UNSUPPORTED, "%s cannot hold %zu %s of this adapter", form, left->count,
        left->count == 1 ? "part" : "parts"
    );
    for (size_t i = 0; i < left->count; i++)
        err = error_detail(err, "%s", left->names[i]);
    return error_hint(
        err, "--drop leaves them out, which is another adapter; vera apply has room for all of it"
    );
}

/* config.json of the directory; empty where it has none. */
static int config_read(struct buf *out, const char *base)
{
    AUTO_FREE(char, path);

    int err = path_join(&path, base, CONFIG_FILE);
    if (err)
        return err;
    return dir_has(base, CONFIG_FILE) ? file_read(out, path, LIMIT_CONFIG) : 0;
}

int exporting_model(struct gguf_model *out, const struct exporting *exporting, const char *base)
{
    const struct snapshot *snapshot = exporting->lora.loaded->snapshot;
    AUTO_BUF(config);
    int err;

    if (base && (err = config_read(&config, base)))
        return err;
    struct bytes text = buf_bytes(base ? &config : &snapshot->model_config);
    if (text.len)
        return gguf_model_read(out, text);
    err = error_set(
        E_INVALID, "nothing tells the base model's architecture: %s",
        base ? "its directory has no " CONFIG_FILE : "no " CONFIG_FILE " was recorded"
    );
    return error_hint(err, "--base MODEL: the directory of its base model, with " CONFIG_FILE);
}

/* SHA-256 of a file, read in portions. */
static int file_digest(struct digest *out, const char *path, uint64_t bytes, int fd)
{
    AUTO_HASH(hash);
    AUTO_BUF(portion);
    int err;

    if ((err = hash_init(&hash)) || (err = buf_resize(&portion, PORTION)))
        return err;
    for (uint64_t at = 0; at < bytes;) {
        size_t len = bytes - at < PORTION ? (size_t)(bytes - at) : PORTION;
        if ((err = file_read_at(fd, portion.data, len, at, path)) ||
            (err = hash_update(&hash, portion.data, len)) || (err = interrupt_check()))
            return err;
        at += len;
    }
    return hash_final(out, &hash);
}

static int file_is_there(bool *out, const struct manifest_file *file, const char *dir)
{
    AUTO_FREE(char, path);
    AUTO_FD(fd);
    struct digest digest;
    uint64_t bytes;
    int err;

    *out = false;
    if (!dir_has(dir, file->path))
        return 0;
    if ((err = path_join(&path, dir, file->path)) || (err = file_open(&fd, &bytes, path)))
        return err;
    if (bytes != file->bytes)
        return 0;
    if (!(err = file_digest(&digest, path, bytes, fd)))
        *out = digest_equal(&digest, &file->digest);
    return err;
}

int exporting_is_there(bool *out, const struct manifest *files, const char *dir)
{
    bool all = true;
    int err = 0;

    for (size_t i = 0; !err && all && i < files->count; i++)
        err = file_is_there(&all, &files->files[i], dir);
    if (!err)
        *out = all;
    return err;
}

uint64_t exporting_bytes(const struct manifest *files)
{
    uint64_t bytes = 0;

    for (size_t i = 0; i < files->count; i++)
        bytes += files->files[i].bytes;
    return bytes;
}

int exporting_say_left(struct cli *cli, const struct exporting *exporting)
{
    AUTO_BUF(names);

    if (exporting->left.count == 0)
        return 0;
    int err = describe_names(&names, exporting->left.names, exporting->left.count);
    return err ? err : describe_say(cli, "dropped", &names);
}

void exporting_json(struct json_writer *writer, const struct exporting *exporting)
{
    describe_files_json(writer, &exporting->files);
    json_write_key(writer, "dropped");
    json_write_array_begin(writer);
    for (size_t i = 0; i < exporting->left.count; i++)
        json_write_text(writer, exporting->left.names[i]);
    json_write_array_end(writer);
}
