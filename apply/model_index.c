/* The index of a sharded model. See model_index.h. */
#include "apply/model_index.h"

#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

#include "format/json.h"
#include "format/limits.h"
#include "format/manifest.h"

char **index_files(const struct index *index)
{
    return (char **)(void *)index->files.data;
}

size_t index_file_count(const struct index *index)
{
    return index->files.len / sizeof(char *);
}

void index_release(struct index *index)
{
    for (size_t i = 0; i < index_file_count(index); i++)
        free(index_files(index)[i]);
    buf_release(&index->files);
    buf_release(&index->entries);
    buf_release(&index->names);
}

size_t index_place(bool *found, const struct index *index, const char *file)
{
    size_t low = 0, high = index_file_count(index);

    while (low < high) {
        size_t middle = low + (high - low) / 2;
        int order = strcmp(file, index_files(index)[middle]);
        if (order == 0) {
            *found = true;
            return middle;
        }
        if (order < 0)
            high = middle;
        else
            low = middle + 1;
    }
    *found = false;
    return low;
}

static int index_intern(const char **out, struct index *index, const char *file)
{
    bool found;
    int err;

    size_t at = index_place(&found, index, file), count = index_file_count(index);
    if (!found) {
        if ((err = path_check(file)) < 0)
            return err;
        if (count == LIMIT_SHARDS)
            return error_set(E_LIMIT, "more than %" PRIu64 " shards", LIMIT_SHARDS);
        char *copy = bytes_dup(text_bytes(file));
        if (!copy)
            return error_set(E_NOMEM, "out of memory for the shards' names");
        if ((err = buf_append(&index->files, &copy, sizeof(copy))) < 0) {
            free(copy);
            return err;
        }
        char **files = index_files(index);
        memmove(files + at + 1, files + at, (count - at) * sizeof(*files));
        files[at] = copy;
    }
    *out = index_files(index)[at];
    return 0;
}

static bool has_nul(struct bytes text)
{
    return text.len && memchr(text.data, 0, text.len);
}

/* One member of weight_map: the key has just been read. */
static int entry_read(struct index *index, struct json *json)
{
    struct index_entry entry = {.name = index->names.len};
    AUTO_FREE(char, file);
    int err;

    if (index->entries.len / sizeof(entry) == LIMIT_TENSORS)
        return error_set(E_LIMIT, "more than %" PRIu64 " tensors", LIMIT_TENSORS);
    if (has_nul(json->text))
        return error_set(E_INVALID, "the name of a tensor holds a NUL");
    if ((err = buf_append(&index->names, json->text.data, json->text.len)) < 0 ||
        (err = buf_append_byte(&index->names, 0)) < 0 || (err = json_expect(json, JSON_STRING)) < 0)
        return err;
    if (has_nul(json->text))
        return error_set(E_INVALID, "the name of a shard holds a NUL");
    if (!(file = bytes_dup(json->text)))
        return error_set(E_NOMEM, "out of memory for a shard's name");
    if ((err = index_intern(&entry.file, index, file)) < 0)
        return err;
    return buf_append(&index->entries, &entry, sizeof(entry));
}

static int weight_map_read(struct index *index, struct json *json)
{
    enum json_event event = JSON_NULL;

    int err = json_expect(json, JSON_OBJECT_BEGIN);
    if (err < 0)
        return err;
    while ((err = json_next(&event, json)) == 0 && event == JSON_KEY) {
        if ((err = entry_read(index, json)) < 0)
            return err;
    }
    return err;
}

static int index_fill(struct index *index, struct bytes text)
{
    AUTO_JSON(json);
    enum json_event event = JSON_NULL;
    int err;

    json_init(&json, text);
    if ((err = json_expect(&json, JSON_OBJECT_BEGIN)) < 0)
        return err;
    while ((err = json_next(&event, &json)) == 0 && event == JSON_KEY) {
        bool mapped = json_text_is(&json, "weight_map");
        err = mapped ? weight_map_read(index, &json) : json_skip_value(&json);
        if (err < 0)
            return mapped ? error_wrap(err, "weight_map") : err;
    }
    if (err < 0 || (err = json_expect(&json, JSON_END)) < 0)
        return err;
    if (!index->entries.len)
        return error_set(E_INVALID, "no weight_map that names tensors");
    return 0;
}

int index_read(struct index *out, struct bytes text)
{
    AUTO_INDEX(index);

    int err = index_fill(&index, text);
    if (err < 0)
        return err;
    *out = index;
    index = (struct index){0};
    return 0;
}
