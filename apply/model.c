/*
 * A base model on disk. See model.h.
 *
 * The directory may be hostile (a download): the index is read with every size bounded, its file
 * names may not leave the directory, and what it promises is compared with the shards' own headers.
 * Symlinks are followed: the Hub's cache is made of them.
 */
#include "apply/model.h"

#include <inttypes.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "apply/model_index.h"
#include "format/limits.h"

#define CONFIG_FILE "config.json"
#define PORTION     ((size_t)1 << 20) /* read and hashed at once */

/* Shards */

static void shard_release(struct shard *shard)
{
    free(shard->file);
    free(shard->path);
    fd_release(&shard->fd);
    safetensors_release(&shard->table);
    buf_release(&shard->header);
}

void model_release(struct model *model)
{
    for (size_t i = 0; i < model->shard_count; i++)
        shard_release(&model->shards[i]);
    free(model->shards);
    free(model->tensors);
    free(model->dir);
    buf_release(&model->index);
    buf_release(&model->config);
    *model = (struct model){0};
}

/* The header of an open shard. `budget`: bytes that the headers still may take together. */
static int header_read(struct shard *shard, uint64_t *budget)
{
    uint8_t prefix[8] = {0};
    size_t len = shard->bytes < 8 ? (size_t)shard->bytes : 8;
    uint64_t size = 0;
    int err;

    if ((err = file_read_at(shard->fd, prefix, len, 0, shard->path)) < 0)
        return err;
    err = safetensors_header_size(&size, (struct bytes){prefix, len}, shard->bytes);
    if (err < 0)
        return error_wrap(err == E_INVALID ? E_CORRUPT : err, "%s", shard->path);
    if (size > *budget)
        return error_set(
            E_LIMIT, "%s: the headers of all shards are larger than %" PRIu64 " bytes together",
            shard->path, LIMIT_MODEL_HEADERS
        );
    *budget -= size;
    if ((err = buf_resize(&shard->header, (size_t)size)) < 0 ||
        (err = file_read_at(shard->fd, shard->header.data, (size_t)size, 0, shard->path)) < 0)
        return err;
    err = safetensors_decode(&shard->table, buf_bytes(&shard->header), shard->bytes);
    return err < 0 ? error_wrap(err == E_INVALID ? E_CORRUPT : err, "%s", shard->path) : 0;
}

/* How many shards stay open: a quarter of what the process may have, the rest is for others. */
static size_t open_max(void)
{
    long limit = sysconf(_SC_OPEN_MAX);

    return limit < 0 || limit > 4096 ? 1024 : (size_t)limit / 4;
}

/* Append a shard: opened, its header read. */
static int shard_add(struct model *model, const char *file, uint64_t *budget)
{
    struct shard *shard = &model->shards[model->shard_count++];
    int err;

    *shard = (struct shard){.fd = -1};
    if (!(shard->file = bytes_dup(text_bytes(file))))
        return error_set(E_NOMEM, "out of memory for a shard's name");
    if ((err = path_join(&shard->path, model->dir, file)) < 0 ||
        (err = file_open(&shard->fd, &shard->bytes, shard->path)) < 0 ||
        (err = fd_stamp(&shard->stamp, shard->fd, shard->path)) < 0 ||
        (err = header_read(shard, budget)) < 0 || (err = interrupt_check()) < 0)
        return err;
    if (model->shard_count > open_max())
        fd_release(&shard->fd);
    return 0;
}

static int stamp_check(const struct shard *shard, int fd)
{
    struct file_stamp now;

    int err = fd_stamp(&now, fd, shard->path);
    if (err < 0 || file_stamps_equal(&now, &shard->stamp))
        return err;
    err = error_set(E_CONFLICT, "%s: changed while it was read", shard->path);
    return error_hint(err, "run it again when nobody writes to the base model");
}

int model_shard_open(int *out_fd, int *owner, const struct model *model, size_t shard)
{
    const struct shard *known = &model->shards[shard];
    AUTO_FD(fd);
    uint64_t bytes = 0;
    int err;

    if (known->fd >= 0) {
        *out_fd = known->fd;
        return 0;
    }
    if ((err = file_open(&fd, &bytes, known->path)) < 0 || (err = stamp_check(known, fd)) < 0)
        return err;
    *owner = *out_fd = fd;
    fd = -1;
    return 0;
}

int model_check_unchanged(const struct model *model)
{
    int err = 0;

    for (size_t i = 0; err == 0 && i < model->shard_count; i++) {
        AUTO_FD(owner);
        int fd = -1;
        if ((err = model_shard_open(&fd, &owner, model, i)) == 0)
            err = stamp_check(&model->shards[i], fd);
    }
    return err;
}

int model_explain(int err, const struct model *model)
{
    if (err != E_IO)
        return err;
    error_keep();
    int changed = model_check_unchanged(model);
    return changed == E_CONFLICT ? changed : error_restore(err);
}

int model_read_at(
    void *data,
    const struct model *model,
    const struct model_tensor *tensor,
    uint64_t offset,
    size_t len
)
{
    AUTO_FD(owner);
    int fd = -1, err;

    if (model->read)
        return model->read(data, model, tensor, offset, len);
    const struct shard *shard = &model->shards[tensor->shard];
    if ((err = model_shard_open(&fd, &owner, model, tensor->shard)) < 0)
        return err;
    uint64_t at = shard->table.header_bytes + tensor->tensor->begin + offset;
    return file_read_at(fd, data, len, at, shard->path);
}

/* The tensors of all shards, by name */

static bool has_suffix(const char *name, const char *suffix)
{
    size_t len = strlen(name), n = strlen(suffix);

    return len > n && strcmp(name + len - n, suffix) == 0;
}

static int tensor_compare(const struct tensor *a, const struct tensor *b)
{
    size_t len = a->name_len < b->name_len ? a->name_len : b->name_len;
    int order = memcmp(a->name, b->name, len);

    return order ? order : (a->name_len > b->name_len) - (a->name_len < b->name_len);
}

static int model_tensor_compare(const void *a, const void *b)
{
    const struct model_tensor *x = a, *y = b;

    return tensor_compare(x->tensor, y->tensor);
}

bool model_find(struct model_tensor *out, const struct model *model, const char *name)
{
    struct tensor wanted = {.name = name, .name_len = strlen(name)};

    for (size_t low = 0, high = model->tensor_count; low < high;) {
        size_t middle = low + (high - low) / 2;
        int order = tensor_compare(&wanted, model->tensors[middle].tensor);
        if (order == 0) {
            *out = model->tensors[middle];
            return true;
        }
        if (order < 0)
            high = middle;
        else
            low = middle + 1;
    }
    return false;
}

/* Has the model an output layer of its own? */
static bool has_lm_head(const struct model *model)
{
    for (size_t i = 0; i < model->tensor_count; i++) {
        const char *name = model->tensors[i].tensor->name;
        if (strcmp(name, "lm_head.weight") == 0 || has_suffix(name, ".lm_head.weight"))
            return true;
    }
    return false;
}

/* One model.safetensors: all that is in it. */
static int single_open(struct model *model)
{
    uint64_t budget = LIMIT_MODEL_HEADERS;

    if (!(model->shards = array_new(1, sizeof(*model->shards))))
        return error_set(E_NOMEM, "out of memory for the model");
    int err = shard_add(model, MODEL_FILE, &budget);
    if (err < 0)
        return err;
    const struct safetensors *table = &model->shards[0].table;
    if (!(model->tensors = array_new(table->count, sizeof(*model->tensors))))
        return error_set(E_NOMEM, "out of memory for %zu tensors", table->count);
    for (size_t i = 0; i < table->count; i++)
        model->tensors[model->tensor_count++].tensor = &table->tensors[i];
    return 0;
}

/* Begins a list of what the index promises and the directory does not hold, or adds to it. */
#define BROKEN(err, model, ...)                                                                    \
    ((err) = error_detail(                                                                         \
         (err) < 0                                                                                 \
             ? (err)                                                                               \
             : error_set(E_INVALID, "%s: %s does not fit the files", (model)->dir, MODEL_INDEX),   \
         __VA_ARGS__                                                                               \
     ))

/* What of the index' files is missing, all of it. */
static int shards_missing(const struct model *model, const struct index *index, const bool *missing)
{
    int err = 0;

    for (size_t i = 0; i < index_file_count(index); i++) {
        if (missing[i])
            BROKEN(err, model, "%s: no such file", index_files(index)[i]);
    }
    if (err == 0)
        return 0;
    return error_hint(err, "the download is incomplete: fetch the model again");
}

static int shards_open(struct model *model, const struct index *index)
{
    uint64_t budget = LIMIT_MODEL_HEADERS;
    size_t count = index_file_count(index);
    AUTO_FREE(bool, missing);

    missing = array_new(count, sizeof(*missing));
    model->shards = array_new(count, sizeof(*model->shards));
    if (!missing || !model->shards)
        return error_set(E_NOMEM, "out of memory for %zu shards", count);
    for (size_t i = 0; i < count; i++) {
        int err = shard_add(model, index_files(index)[i], &budget);
        if (err < 0 && err != E_NOTFOUND)
            return err;
        missing[i] = err < 0;
    }
    return shards_missing(model, index, missing);
}

static int entries_resolve(struct model *model, const struct index *index)
{
    const struct index_entry *entries = (const struct index_entry *)(const void *)
                                            index->entries.data;
    size_t count = index->entries.len / sizeof(*entries);
    int err = 0;

    if (!(model->tensors = array_new(count, sizeof(*model->tensors))))
        return error_set(E_NOMEM, "out of memory for %zu tensors", count);
    for (size_t i = 0; i < count; i++) {
        const char *name = (const char *)index->names.data + entries[i].name;
        bool found;
        size_t shard = index_place(&found, index, entries[i].file);
        const struct tensor *tensor = safetensors_find(&model->shards[shard].table, name);
        if (tensor)
            model->tensors[model->tensor_count++] = (struct model_tensor
            ){.tensor = tensor, .shard = shard};
        else
            BROKEN(err, model, "%s: is not in %s", name, entries[i].file);
    }
    return err;
}

static int sharded_open(struct model *model)
{
    AUTO_INDEX(index);
    AUTO_FREE(char, path);
    int err;

    if ((err = path_join(&path, model->dir, MODEL_INDEX)) < 0 ||
        (err = file_read(&model->index, path, LIMIT_INDEX)) < 0)
        return err;
    if ((err = index_read(&index, buf_bytes(&model->index))) < 0)
        return error_wrap(err, "%s", path);
    model->sharded = true;
    if ((err = shards_open(model, &index)) < 0)
        return err;
    return entries_resolve(model, &index);
}

/* What the directory holds */

/* The names of a directory, as dir_names() gives them, one by one. */
static const char *names_next(const struct buf *names, const char *last)
{
    const char *begin = (const char *)names->data, *end = begin ? begin + names->len : NULL;
    const char *next = last ? last + strlen(last) + 1 : begin;

    return next < end ? next : NULL;
}

static bool has_any_suffix(const char *name, const char *const *suffixes)
{
    for (; *suffixes; suffixes++) {
        if (has_suffix(name, *suffixes))
            return true;
    }
    return false;
}

/* The first name in byte order with one of the suffixes (NULL-terminated), or NULL. */
static const char *names_find(const struct buf *names, const char *const *suffixes)
{
    const char *found = NULL;

    for (const char *name = NULL; (name = names_next(names, name));) {
        if (has_any_suffix(name, suffixes) && (!found || strcmp(name, found) < 0))
            found = name;
    }
    return found;
}

static bool names_have(const struct buf *names, const char *wanted)
{
    for (const char *name = NULL; (name = names_next(names, name));) {
        if (strcmp(name, wanted) == 0)
            return true;
    }
    return false;
}

static int pickle_error(const char *path)
{
    int err = error_set(
        E_UNSUPPORTED, "%s: not safetensors, the only format of weights that vera applies to", path
    );

    return error_hint(err, "save the model with Transformers: model.save_pretrained(\"DIR\")");
}

static int gguf_error(const char *path)
{
    int err = error_set(
        E_UNSUPPORTED, "%s: GGUF; vera applies to safetensors, which a GGUF is made from", path
    );

    return error_hint(err, "give the directory of the model that it was made from");
}

static const char *const pickles[] = {".bin", ".pth", ".pt", ".ckpt", ".h5", ".msgpack", NULL};
static const char *const ggufs[] = {".gguf", NULL};
static const char *const weights[] = {".safetensors", NULL};

/* The first name in byte order of a file that holds a whole model in another format; NULL. */
static const char *names_find_pickle(const struct buf *names)
{
    static const char *const begins[] = {
        "consolidated", "flax_model", "model", "pytorch_model", "tf_model"};
    const char *found = NULL;

    for (const char *name = NULL; (name = names_next(names, name));) {
        bool model = false;
        for (size_t i = 0; i < sizeof(begins) / sizeof(begins[0]); i++)
            model = model || strncmp(name, begins[i], strlen(begins[i])) == 0;
        if (model && has_any_suffix(name, pickles) && (!found || strcmp(name, found) < 0))
            found = name;
    }
    return found;
}

/* Neither the file nor the index is there: what is? */
static int weights_missing(const char *dir, const struct buf *names)
{
    AUTO_FREE(char, path);
    const char *pickle = names_find_pickle(names), *gguf = names_find(names, ggufs);
    const char *other = names_find(names, weights);

    if (!other && (pickle || gguf)) {
        int err = path_join(&path, dir, gguf ? gguf : pickle);
        if (err < 0)
            return err;
        return gguf ? gguf_error(path) : pickle_error(path);
    }
    int err = error_set(E_NOTFOUND, "%s: neither %s nor %s", dir, MODEL_FILE, MODEL_INDEX);
    if (names_have(names, PEFT_CONFIG))
        return error_hint(err, "this is an adapter: give the model that it was trained on");
    if (other)
        return error_hint(
            err, "%s is there, but without one of these two no program reads it", other
        );
    if (names_have(names, "snapshots"))
        return error_hint(err, "give one of the directories in %s/snapshots", dir);
    return error_hint(err, "give the directory of a model: safetensors and config.json");
}

/* The names in the model's directory; E_NOTFOUND where it is none. */
static int directory_read(struct buf *names, const char *dir)
{
    AUTO_FD(fd);
    uint64_t bytes;

    int err = dir_names(names, dir);
    if (err == E_NOTFOUND)
        return error_hint(
            err, "give a local directory, or a snapshot of the Hub's cache: nothing is downloaded"
        );
    /* A file: perhaps the weights themselves. */
    if (err != E_IO || file_open(&fd, &bytes, dir) < 0)
        return err;
    if (has_any_suffix(dir, ggufs))
        return gguf_error(dir);
    if (has_any_suffix(dir, pickles))
        return pickle_error(dir);
    err = error_set(E_INVALID, "%s: a file; a model is a directory", dir);
    return error_hint(err, "give the directory that it is in");
}

static int config_open(struct model *model)
{
    AUTO_FREE(char, path);
    int err;

    if ((err = path_join(&path, model->dir, CONFIG_FILE)) < 0 ||
        (err = file_read(&model->config, path, LIMIT_CONFIG)) < 0)
        return err;
    err = model_config_read(model, buf_bytes(&model->config), has_lm_head(model));
    return err < 0 ? error_wrap(err, "%s", path) : 0;
}

static int model_read(struct model *model)
{
    AUTO_BUF(names);
    int err;

    if ((err = directory_read(&names, model->dir)) < 0)
        return err;
    if (names_have(&names, MODEL_FILE))
        err = single_open(model);
    else if (names_have(&names, MODEL_INDEX))
        err = sharded_open(model);
    else
        err = weights_missing(model->dir, &names);
    if (err < 0)
        return err;
    qsort(model->tensors, model->tensor_count, sizeof(*model->tensors), model_tensor_compare);
    model->tied_embeddings = !has_lm_head(model);
    return names_have(&names, CONFIG_FILE) ? config_open(model) : 0;
}

int model_open(struct model *out, const char *dir)
{
    AUTO_MODEL(model);

    if (!(model.dir = bytes_dup(text_bytes(dir))))
        return error_set(E_NOMEM, "out of memory for a path");
    int err = model_read(&model);
    if (err < 0)
        return err;
    *out = model;
    model = (struct model){0};
    return 0;
}

/* Digests */

int model_digest(
    struct digest *out,
    const struct model *model,
    const struct model_tensor *tensor,
    struct progress *progress
)
{
    const struct shard *shard = &model->shards[tensor->shard];
    uint64_t total = tensor_bytes(tensor->tensor), done = 0;
    uint64_t begin = shard->table.header_bytes + tensor->tensor->begin;
    AUTO_HASH(hash);
    AUTO_BUF(portion);
    AUTO_FD(owner);
    int fd, err;

    if ((err = model_shard_open(&fd, &owner, model, tensor->shard)) < 0 ||
        (err = hash_init(&hash)) < 0 ||
        (err = buf_reserve(&portion, total < PORTION ? (size_t)total : PORTION)) < 0)
        return err;
    while (done < total) {
        size_t len = total - done < PORTION ? (size_t)(total - done) : PORTION;
        if ((err = file_read_at(fd, portion.data, len, begin + done, shard->path)) < 0 ||
            (err = hash_update(&hash, portion.data, len)) < 0 || (err = interrupt_check()) < 0)
            return err;
        done += len;
        progress_update(progress, done, total);
    }
    return hash_final(out, &hash);
}
