/* Registries for the adapters of the fixtures, and adapters changed in memory, for tests. */
#ifndef TESTS_REGISTRIES_H
#define TESTS_REGISTRIES_H

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

/* A registry on the basis of `like`, all of whose adapters fit `budget`. */
static inline struct registry *registry_like(
    const struct loaded_adapter *like,
    const struct module_list *list,
    enum dtype vectors,
    uint64_t budget
)
{
    struct registry *registry = NULL;
    uint64_t in = 0, out = 0;
    AUTO_BASIS(basis);

    for (size_t i = 0; i < list->count; i++) {
        in = list->modules[i].in > in ? list->modules[i].in : in;
        out = list->modules[i].out > out ? list->modules[i].out : out;
    }
    assert_int_equal(basis_load(&basis, like, in, out, DTYPE_F32), 0);
    const struct registry_options options = {
        .modules = list->modules,
        .module_count = list->count,
        .basis = &basis,
        .base_dtype = DTYPE_F32,
        .vectors = vectors,
        .budget_bytes = budget,
    };
    if (registry_new(&registry, &options) < 0)
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

#endif
