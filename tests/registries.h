/* Registries for the adapters of the fixtures, and adapters changed in memory, for tests. */
#ifndef TESTS_REGISTRIES_H
#define TESTS_REGISTRIES_H

#include <math.h>

#include "apply/registry.h"
#include "tests/adapters.h"

#define MODULES_MAX 64

/* The modules of an adapter, for a registry. `names` are the adapter's. */
struct module_list {
    struct registry_module modules[MODULES_MAX];
    size_t count;
};

/* MiniLM's, whose base is not among the fixtures. */
static inline void minilm_modules(struct module_list *out, const struct adapter *adapter)
{
    assert_true(adapter->module_count <= MODULES_MAX);
    out->count = adapter->module_count;
    for (size_t i = 0; i < out->count; i++) {
        const struct adapter_module *module = &adapter->modules[i];
        bool down = strstr(module->name, ".output.dense") && !strstr(module->name, "attention.");
        out->modules[i] = (struct registry_module){module->name, down ? 1536 : 384, module->out};
    }
}

/* From the shapes of its base. */
static inline void
base_modules(struct module_list *out, const struct adapter *adapter, const struct model *base)
{
    assert_true(adapter->module_count <= MODULES_MAX);
    out->count = adapter->module_count;
    for (size_t i = 0; i < out->count; i++) {
        const struct adapter_module *module = &adapter->modules[i];
        struct model_tensor weight;
        char name[256];
        snprintf(name, sizeof(name), "%s.weight", module->name);
        assert_true(model_find(&weight, base, name));
        const uint64_t *shape = weight.tensor->shape;
        uint64_t in = adapter->config.fan_in_fan_out ? shape[0] : shape[1];
        out->modules[i] = (struct registry_module){module->name, in, module->out};
    }
}

static inline size_t module_find(const struct module_list *list, const char *name)
{
    size_t i = 0;

    while (i < list->count && strcmp(list->modules[i].name, name) != 0)
        i++;
    assert_true(i < list->count);
    return i;
}

/* Make a registry on the basis of `like`, in host memory or on a GPU. */
static inline int registry_try(
    struct registry **out_registry,
    const struct loaded_adapter *like,
    const struct module_list *list,
    enum dtype vectors,
    uint64_t budget,
    bool on_device,
    int device
)
{
    uint64_t in = 0, out = 0;
    AUTO_BASIS(basis);

    for (size_t i = 0; i < list->count; i++) {
        in = list->modules[i].in > in ? list->modules[i].in : in;
        out = list->modules[i].out > out ? list->modules[i].out : out;
    }
    int err = basis_load(&basis, like, in, out, DTYPE_F32);
    if (err < 0)
        return err;
    const struct registry_options options = {
        .modules = list->modules,
        .module_count = list->count,
        .basis = &basis,
        .base_dtype = DTYPE_F32,
        .vectors = vectors,
        .budget_bytes = budget,
        .on_device = on_device,
        .device = device,
    };
    return registry_new(out_registry, &options);
}

/* A registry on the basis of `like`, all of whose adapters fit `budget`. */
static inline struct registry *registry_like(
    const struct loaded_adapter *like,
    const struct module_list *list,
    enum dtype vectors,
    uint64_t budget
)
{
    struct registry *registry = NULL;

    if (registry_try(&registry, like, list, vectors, budget, false, 0) < 0)
        fail_msg("%s", error_message());
    return registry;
}

/* An adapter of the fixtures with one byte sequence of one file replaced by another as long, all of
   them; or, without `from`, with `number` in the first value of its vectors. */
static inline void changed_open(
    struct subject *out,
    const char *name,
    const char *file,
    const char *from,
    const char *to,
    uint32_t number
)
{
    char dir[512];
    size_t len = from ? strlen(from) : 0, changes = 0;

    snprintf(dir, sizeof(dir), FIXTURES "/adapter/%s", name);
    assert_int_equal(adapter_files_read(&out->files, dir, false, NULL), 0);
    for (size_t i = 0; i < out->files.count; i++) {
        struct buf *data = &out->files.files[i].data;
        if (strcmp(out->files.files[i].path, file) != 0)
            continue;
        if (!from) {
            uint64_t header;
            memcpy(&header, data->data, 8);
            memcpy(data->data + 8 + header, &number, sizeof(number));
            changes = 1;
        }
        for (size_t at = 0; from && at + len <= data->len; at++) {
            if (memcmp(data->data + at, from, len) == 0) {
                memcpy(data->data + at, to, len);
                changes++;
            }
        }
    }
    assert_true(changes > 0);
    if (snapshot_encode(&out->snapshot, &out->files, NULL) < 0)
        fail_msg("%s", error_message());
    assert_int_equal(adapter_load(&out->loaded, &out->snapshot), 0);
}

/* Add adapter number n: those of llama-vectors-only with another first value. */
static inline void numbered_add(
    struct digest *id, struct registry *registry, uint32_t number, unsigned flags, int wanted
)
{
    AUTO_SUBJECT(subject);

    changed_open(&subject, "llama-vectors-only", PEFT_MODEL, NULL, NULL, number);
    assert_int_equal(registry_add(NULL, registry, &subject.loaded, flags), wanted);
    *id = subject.snapshot.id;
}

/* What PEFT gave for a batch of four adapters, of EXPECTED_ADAPTERS by number, in module DOWN. */
#define DOWN "model.layers.1.mlp.down_proj"
#define EXPECTED_ADAPTERS                                                                          \
    "llama/step-060", "llama/step-120", "llama-c/step-040", "llama-perl/step-040"

struct expected {
    struct buf file;
    struct safetensors table;
    const float *x, *y;
    const int64_t *adapter;
    size_t rows, in, out;
};

static inline const void *expected_tensor(const struct expected *expected, const char *name)
{
    const struct tensor *tensor = safetensors_find(&expected->table, name);

    assert_non_null(tensor);
    return expected->file.data + expected->table.header_bytes + tensor->begin;
}

static inline void expected_open(struct expected *out)
{
    assert_int_equal(
        file_read(&out->file, FIXTURES "/expected/forward/down_proj.safetensors", GIB), 0
    );
    assert_int_equal(safetensors_decode(&out->table, buf_bytes(&out->file), out->file.len), 0);
    out->x = expected_tensor(out, "x");
    out->y = expected_tensor(out, "y");
    out->adapter = expected_tensor(out, "adapter");
    out->rows = (size_t)safetensors_find(&out->table, "x")->shape[0];
    out->in = (size_t)safetensors_find(&out->table, "x")->shape[1];
    out->out = (size_t)safetensors_find(&out->table, "y")->shape[1];
}

static inline void expected_release(struct expected *expected)
{
    safetensors_release(&expected->table);
    buf_release(&expected->file);
}

#define AUTO_EXPECTED(name) __attribute__((cleanup(expected_release))) struct expected name = {0}

/* x W^T. */
static inline void base_forward(float *y, const struct expected *expected, const struct model *base)
{
    AUTO_BUF(data);

    read_tensor(&data, base, DOWN ".weight");
    const float *w = (const float *)(const void *)data.data;
    for (size_t n = 0; n < expected->rows; n++) {
        for (size_t i = 0; i < expected->out; i++) {
            double sum = 0;
            for (size_t j = 0; j < expected->in; j++)
                sum += (double)w[i * expected->in + j] * (double)expected->x[n * expected->in + j];
            y[n * expected->out + i] = (float)sum;
        }
    }
}

static inline double largest_difference(const float *a, const float *b, size_t count)
{
    double largest = 0;

    for (size_t i = 0; i < count; i++)
        largest = fmax(largest, fabs((double)a[i] - (double)b[i]));
    return largest;
}

#endif
