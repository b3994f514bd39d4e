/* What the merged model's directory is made of. See output.h. */
#include "apply/output.h"

#include <stdlib.h>
#include <string.h>

#include "format/json.h"

static int name_make(char **out, const struct rewrites *all, size_t number, size_t count)
{
    AUTO_BUF(name);
    int err;

    if (all->added_count)
        err = buf_printf(&name, "model-%05zu-of-%05zu.safetensors", number + 1, count);
    else
        err = buf_printf(&name, "%s", all->model->shards[number].file);
    if (err == 0)
        *out = (char *)buf_take(&name).data;
    return err;
}

static int names_make(struct output *output, const struct rewrites *all)
{
    size_t count = all->model->shard_count + (all->added_count > 0);
    int err = 0;

    if (!(output->shards = array_new(count, sizeof(*output->shards))))
        return error_wrap(E_NOMEM, "apply");
    output->shard_count = count;
    for (size_t i = 0; err == 0 && i < count; i++)
        err = name_make(&output->shards[i], all, i, count);
    return err;
}

static int header_make(struct output *output, const struct rewrites *all)
{
    AUTO_FREE(struct tensor, tensors);
    uint64_t at = 0;

    if (!(tensors = array_new(all->added_count, sizeof(*tensors))))
        return error_wrap(E_NOMEM, "apply");
    for (size_t i = 0; i < all->added_count; i++) {
        tensors[i] = *all->added[i].tensor;
        tensors[i].name = all->added[i].name;
        tensors[i].name_len = strlen(all->added[i].name);
        tensors[i].begin = at;
        tensors[i].end = at += all->added[i].data.len;
    }
    return safetensors_encode(&output->header, tensors, all->added_count);
}

/* A line of the index. */
struct entry {
    struct bytes name;
    const char *file;
};

static int entry_compare(const void *left, const void *right)
{
    const struct entry *a = left, *b = right;
    size_t len = a->name.len < b->name.len ? a->name.len : b->name.len;

    int order = memcmp(a->name.data, b->name.data, len);
    return order ? order : (a->name.len > b->name.len) - (a->name.len < b->name.len);
}

static int
index_write(struct buf *out, const struct entry *entries, size_t count, uint64_t total_bytes)
{
    struct json_writer writer;

    json_write_init(&writer, out);
    json_write_object_begin(&writer);
    json_write_key(&writer, "metadata");
    json_write_object_begin(&writer);
    json_write_key(&writer, "total_size");
    json_write_uint(&writer, total_bytes);
    json_write_object_end(&writer);
    json_write_key(&writer, "weight_map");
    json_write_object_begin(&writer);
    for (size_t i = 0; i < count; i++) {
        json_write_key_bytes(&writer, entries[i].name);
        json_write_text(&writer, entries[i].file);
    }
    json_write_object_end(&writer);
    json_write_object_end(&writer);
    int err = json_write_end(&writer);
    return err < 0 ? err : buf_append_byte(out, '\n');
}

static int index_make(struct output *output, const struct rewrites *all)
{
    AUTO_FREE(struct entry, entries);
    const struct model *model = all->model;
    size_t count = model->tensor_count + all->added_count;
    uint64_t total_bytes = 0;

    if (!(entries = array_new(count, sizeof(*entries))))
        return error_wrap(E_NOMEM, MODEL_INDEX);
    for (size_t i = 0; i < model->tensor_count; i++) {
        const struct tensor *tensor = model->tensors[i].tensor;
        entries[i] = (struct entry
        ){{(const uint8_t *)tensor->name, tensor->name_len},
          output->shards[model->tensors[i].shard]};
        total_bytes += tensor_bytes(tensor);
    }
    for (size_t i = 0; i < all->added_count; i++) {
        entries[model->tensor_count + i] = (struct entry
        ){text_bytes(all->added[i].name), output->shards[model->shard_count]};
        total_bytes += all->added[i].data.len;
    }
    qsort(entries, count, sizeof(*entries), entry_compare);
    return index_write(&output->index, entries, count, total_bytes);
}

int output_plan(struct output *out, const struct rewrites *all)
{
    AUTO_OUTPUT(output);
    int err;

    if ((err = names_make(&output, all)) < 0)
        return err;
    if (all->added_count) {
        if ((err = header_make(&output, all)) < 0 || (err = index_make(&output, all)) < 0)
            return err;
    } else if (all->model->sharded) {
        err = buf_append(&output.index, all->model->index.data, all->model->index.len);
        if (err < 0)
            return err;
    }
    if ((err = model_files_find(&output.files, all->model->dir)) < 0)
        return err;
    *out = output;
    output = (struct output){0};
    return 0;
}

void output_release(struct output *output)
{
    for (size_t i = 0; i < output->shard_count; i++)
        free(output->shards[i]);
    free(output->shards);
    buf_release(&output->header);
    buf_release(&output->index);
    model_files_release(&output->files);
    *output = (struct output){0};
}
