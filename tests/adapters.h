/*
 * Adapters and base models for tests of apply/: the real ones of the fixtures, and small ones that
 * a test makes up. Paths are relative to the scratch directory of tests/models.h.
 */
#ifndef TESTS_ADAPTERS_H
#define TESTS_ADAPTERS_H

#include "apply/materialize.h"
#include "format/limits.h"
#include "tests/models.h"

/* An adapter directory, ready to be applied. */
struct subject {
    struct adapter_files files;
    struct snapshot snapshot;
    struct loaded_adapter loaded;
};

static inline void subject_release(struct subject *subject)
{
    loaded_adapter_release(&subject->loaded);
    snapshot_release(&subject->snapshot);
    adapter_files_release(&subject->files);
}

#define AUTO_SUBJECT(name) __attribute__((cleanup(subject_release))) struct subject name = {0}

/* `base`: pinned to it, as commit --base does; or NULL. */
static inline void subject_open(struct subject *out, const char *dir, const struct model *base)
{
    AUTO_BASE_FACTS(facts);
    AUTO_ADAPTER(adapter);

    assert_int_equal(adapter_files_read(&out->files, dir, false, NULL), 0);
    if (base) {
        const struct adapter_file *config = adapter_files_find(&out->files, PEFT_CONFIG);
        const struct adapter_file *model = adapter_files_find(&out->files, PEFT_MODEL);
        assert_int_equal(
            adapter_decode(
                &adapter, buf_bytes(&config->data), buf_bytes(&model->data), model->data.len
            ),
            0
        );
        assert_int_equal(model_describe(&facts, base, &adapter, NULL), 0);
    }
    assert_int_equal(snapshot_encode(&out->snapshot, &out->files, base ? &facts : NULL), 0);
    assert_int_equal(adapter_load(&out->loaded, &out->snapshot), 0);
}

/* An adapter of the fixtures by its name there, "llama/step-120". */
static inline void fixture_open(struct subject *out, const char *name, const struct model *base)
{
    char dir[512];

    snprintf(dir, sizeof(dir), FIXTURES "/adapter/%s", name);
    subject_open(out, dir, base);
}

/* The base that an adapter of the fixtures belongs to. */
static inline const char *fixture_base(const char *name)
{
    static const char *const bases[] = {"bert", "gpt2", "llama-half", "llama"};
    static char path[512];

    for (size_t i = 0; i < sizeof(bases) / sizeof(bases[0]); i++) {
        if (strncmp(name, bases[i], strlen(bases[i])) == 0) {
            snprintf(path, sizeof(path), FIXTURES "/base/%s", bases[i]);
            return path;
        }
    }
    return NULL;
}

/* Copy the files of a folder that has no folders, into a new one. */
static inline void copy_dir(const char *from, const char *to)
{
    AUTO_BUF(names);

    assert_int_equal(dir_make(to), 0);
    assert_int_equal(dir_names(&names, from), 0);
    for (size_t at = 0; at < names.len; at += strlen((const char *)names.data + at) + 1) {
        AUTO_FREE(char, source);
        AUTO_FREE(char, target);
        AUTO_BUF(data);
        const char *name = (const char *)names.data + at;
        assert_int_equal(path_join(&source, from, name), 0);
        assert_int_equal(path_join(&target, to, name), 0);
        assert_int_equal(file_read(&data, source, GIB), 0);
        assert_int_equal(file_write(target, buf_bytes(&data)), 0);
    }
}

static inline void flip_bit(const char *path, uint64_t offset)
{
    AUTO_BUF(data);

    assert_int_equal(file_read(&data, path, GIB), 0);
    assert_true(offset < data.len);
    data.data[offset] ^= 1;
    assert_int_equal(file_write(path, buf_bytes(&data)), 0);
}

/* Where a tensor's first byte lies in its file. */
static inline uint64_t tensor_offset(const struct model *model, const char *name)
{
    struct model_tensor found;

    assert_true(model_find(&found, model, name));
    return model->shards[found.shard].table.header_bytes + found.tensor->begin;
}

/* The bytes of a tensor. */
static inline void read_tensor(struct buf *out, const struct model *model, const char *name)
{
    AUTO_FD(owner);
    struct model_tensor found;
    int fd = -1;

    assert_true(model_find(&found, model, name));
    assert_int_equal(model_shard_open(&fd, &owner, model, found.shard), 0);
    assert_int_equal(buf_resize(out, (size_t)tensor_bytes(found.tensor)), 0);
    assert_int_equal(file_read_at(fd, out->data, out->len, tensor_offset(model, name), name), 0);
}

/* Write tensors, whose begin and end are set here, and their data one after the other. */
static inline void
write_tensors(const char *path, struct tensor *tensors, const struct bytes *data, size_t count)
{
    AUTO_BUF(file);
    uint64_t at = 0;

    for (size_t i = 0; i < count; i++) {
        tensors[i].begin = at;
        tensors[i].end = at += data[i].len;
        tensors[i].name_len = strlen(tensors[i].name);
    }
    assert_int_equal(safetensors_encode(&file, tensors, count), 0);
    for (size_t i = 0; i < count; i++)
        assert_int_equal(buf_append(&file, data[i].data, data[i].len), 0);
    put_bytes(path, buf_bytes(&file));
}

/* A tensor that a test makes up: `values` rounded to `dtype`. */
struct given {
    const char *name;
    enum dtype dtype;
    unsigned dims;
    uint64_t shape[2];
    const float *values;
};

static inline void write_given(const char *path, const struct given *given, size_t count)
{
    struct tensor tensors[8];
    struct bytes data[8];
    struct buf owned[8] = {0};

    assert_true(count <= 8);
    for (size_t i = 0; i < count; i++) {
        size_t values = 1;
        for (unsigned k = 0; k < given[i].dims; k++)
            values *= (size_t)given[i].shape[k];
        assert_int_equal(buf_resize(&owned[i], values * dtype_bits(given[i].dtype) / 8), 0);
        dtype_narrow(owned[i].data, given[i].values, values, given[i].dtype);
        tensors[i] = (struct tensor
        ){.name = given[i].name,
          .dtype = given[i].dtype,
          .dims = given[i].dims,
          .shape = given[i].shape};
        data[i] = buf_bytes(&owned[i]);
    }
    write_tensors(path, tensors, data, count);
    for (size_t i = 0; i < count; i++)
        buf_release(&owned[i]);
}

/* The bert base as a bare checkpoint: without the head model's prefix, without its classifier, the
   shape in which real MiniLM files come. In one file, or in two and an index where `index`. */
static inline void write_bare_bert(const char *dir, bool sharded)
{
    AUTO_MODEL(base);
    struct tensor tensors[2][64];
    struct bytes data[2][64];
    struct buf owned[64] = {0};
    size_t count[2] = {0};
    AUTO_BUF(map);
    char path[256];

    assert_int_equal(model_open(&base, FIXTURES "/base/bert"), 0);
    assert_true(base.tensor_count < 64);
    for (size_t i = 0; i < base.tensor_count; i++) {
        const struct tensor *tensor = base.tensors[i].tensor;
        if (strncmp(tensor->name, "bert.", 5) != 0)
            continue;
        size_t to = sharded && i % 2;
        read_tensor(&owned[i], &base, tensor->name);
        tensors[to][count[to]] = *tensor;
        tensors[to][count[to]].name += 5;
        data[to][count[to]++] = buf_bytes(&owned[i]);
        assert_int_equal(
            buf_printf(
                &map, "%s\"%s\": \"%s.safetensors\"", map.len ? ", " : "", tensor->name + 5,
                to ? "b" : "a"
            ),
            0
        );
    }
    snprintf(path, sizeof(path), "%s/%s.safetensors", dir, sharded ? "a" : "model");
    write_tensors(path, tensors[0], data[0], count[0]);
    if (sharded) {
        AUTO_BUF(index);
        snprintf(path, sizeof(path), "%s/b.safetensors", dir);
        write_tensors(path, tensors[1], data[1], count[1]);
        snprintf(path, sizeof(path), "%s/" MODEL_INDEX, dir);
        assert_int_equal(
            buf_printf(
                &index, "{\"metadata\": {\"total_size\": 1}, \"weight_map\": {%s}}", buf_text(&map)
            ),
            0
        );
        put_bytes(path, buf_bytes(&index));
    }
    snprintf(path, sizeof(path), "%s/config.json", dir);
    put_bytes(path, buf_bytes(&base.config));
    for (size_t i = 0; i < 64; i++)
        buf_release(&owned[i]);
}

#endif
