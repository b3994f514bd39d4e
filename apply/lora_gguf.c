/* The adapter file of llama.cpp. See lora_gguf.h. */
#include "apply/lora_gguf.h"

#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

#include "format/gguf.h"

/* llama.cpp's numbers of what most tensors of a file are (gguf-py, LlamaFileType). */
enum { FILE_ALL_F32 = 0, FILE_MOSTLY_F16 = 1, FILE_MOSTLY_BF16 = 32 };

int lora_left_add(struct lora_left *left, const char *name)
{
    int err = array_grow(&left->names, &left->capacity, left->count + 1, sizeof(*left->names));

    if (err < 0)
        return err;
    if (!(left->names[left->count] = bytes_dup(text_bytes(name))))
        return error_wrap(E_NOMEM, "names");
    left->count++;
    return 0;
}

void lora_left_release(struct lora_left *left)
{
    for (size_t i = 0; i < left->count; i++)
        free(left->names[i]);
    free(left->names);
    *left = (struct lora_left){0};
}

static int name_order(const void *a, const void *b)
{
    return strcmp(*(char *const *)a, *(char *const *)b);
}

int lora_gguf_left(
    struct lora_left *out, const struct loaded_adapter *loaded, const struct gguf_model *model
)
{
    const struct adapter *adapter = &loaded->adapter;
    AUTO_LORA_LEFT(left);
    uint64_t heads;
    int err = 0;

    for (size_t i = 0; err == 0 && i < adapter->module_count; i++) {
        AUTO_BUF(name);
        err = gguf_weight_name(&name, &heads, model, adapter->modules[i].name);
        if (err == 0 && name.len == 0)
            err = lora_left_add(&left, adapter->modules[i].name);
    }
    for (size_t i = 0; err == 0 && i < adapter->other_count; i++)
        err = lora_left_add(&left, lora_other_name(adapter->others[i]));
    if (err < 0)
        return err;
    if (left.count)
        qsort(left.names, left.count, sizeof(*left.names), name_order);
    *out = left;
    left = (struct lora_left){0};
    return 0;
}

/* One half of a pair. */
struct half {
    char *name; /* owned */
    size_t module;
    enum lora_factor factor;
    uint64_t heads;
};

struct halves {
    struct half *list;
    struct gguf_tensor *tensors; /* as list, once it is in its order */
    size_t count;
};

static void halves_release(struct halves *halves)
{
    for (size_t i = 0; i < halves->count; i++)
        free(halves->list[i].name);
    free(halves->list);
    free(halves->tensors);
}

static int half_order(const void *a, const void *b)
{
    return strcmp(((const struct half *)a)->name, ((const struct half *)b)->name);
}

static int half_add(
    struct halves *halves,
    struct bytes weight,
    size_t module,
    enum lora_factor factor,
    uint64_t heads
)
{
    AUTO_BUF(name);
    int err;

    if ((err = buf_append(&name, weight.data, weight.len)) < 0 ||
        (err = buf_append_text(&name, factor == LORA_A ? ".lora_a" : ".lora_b")) < 0)
        return err;
    struct half *half = &halves->list[halves->count];
    *half = (struct half){bytes_dup(buf_bytes(&name)), module, factor, heads};
    if (!half->name)
        return error_wrap(E_NOMEM, "names");
    halves->count++;
    return 0;
}

static int module_add(
    struct halves *halves, const struct lora *lora, const struct gguf_model *model, size_t module
)
{
    const struct adapter_module *of = &lora->loaded->adapter.modules[module];
    AUTO_BUF(weight);
    uint64_t heads = 0;

    int err = gguf_weight_name(&weight, &heads, model, of->name);
    if (err < 0 || weight.len == 0)
        return err;
    if (heads && (heads > of->out / 2 || of->out % (2 * heads) != 0))
        return error_set(
            E_INVALID, "module %s: %" PRIu64 " rows do not make %" PRIu64 " heads", of->name,
            of->out, heads
        );
    if ((err = half_add(halves, buf_bytes(&weight), module, LORA_A, 0)) < 0)
        return err;
    return half_add(halves, buf_bytes(&weight), module, LORA_B, heads);
}

/* "model.layers.0.x" and "layers.0.x" are one weight. */
static int names_check(const struct halves *halves, const struct adapter *adapter)
{
    for (size_t i = 1; i < halves->count; i++) {
        const struct half *a = &halves->list[i - 1], *b = &halves->list[i];
        if (strcmp(a->name, b->name) == 0)
            return error_set(
                E_INVALID, "modules %s and %s are one weight to llama.cpp",
                adapter->modules[a->module].name, adapter->modules[b->module].name
            );
    }
    return 0;
}

static int
halves_fill(struct halves *halves, const struct lora *lora, const struct gguf_model *model)
{
    const struct adapter *adapter = &lora->loaded->adapter;
    int err = 0;

    if (!(halves->list = array_new(2 * adapter->module_count, sizeof(*halves->list))) ||
        !(halves->tensors = array_new(2 * adapter->module_count, sizeof(*halves->tensors))))
        return error_wrap(E_NOMEM, "tensors");
    for (size_t i = 0; err == 0 && i < adapter->module_count; i++)
        err = module_add(halves, lora, model, i);
    if (err < 0)
        return err;
    if (halves->count == 0)
        return error_set(E_INVALID, "nothing of this adapter can be written as GGUF");
    qsort(halves->list, halves->count, sizeof(*halves->list), half_order);
    for (size_t i = 0; i < halves->count; i++) {
        const struct half *half = &halves->list[i];
        halves->tensors[i] = (struct gguf_tensor){
            .name = half->name,
            .dtype = lora->dtype,
            .rows = lora_rows(lora, half->module, half->factor),
            .columns = lora_columns(lora, half->module, half->factor),
        };
    }
    return names_check(halves, adapter);
}

static int header_make(
    struct buf *out, struct halves *halves, const struct lora *lora, const struct gguf_model *model
)
{
    const struct peft_config *config = &lora->loaded->adapter.config;
    char hex[DIGEST_HEX_SIZE];
    AUTO_BUF(snapshot);
    size_t count = 6;

    digest_hex(hex, &lora->loaded->snapshot->id);
    int err = buf_printf(&snapshot, "sha256:%s", hex);
    const char *id = err < 0 ? NULL : buf_text(&snapshot);
    if (!id)
        return error_wrap(E_NOMEM, "snapshot id");
    struct gguf_value values[8] = {
        {.key = "general.architecture", .type = GGUF_TEXT, .text = gguf_architecture_name(model)},
        {.key = "general.type", .type = GGUF_TEXT, .text = "adapter"},
        {.key = "adapter.type", .type = GGUF_TEXT, .text = "lora"},
        {.key = "adapter.lora.alpha", .type = GGUF_FLOAT32, .real = (float)config->rank},
        {.key = "general.file_type",
         .type = GGUF_UINT32,
         .number = lora->dtype == DTYPE_F32   ? FILE_ALL_F32
                   : lora->dtype == DTYPE_F16 ? FILE_MOSTLY_F16
                                              : FILE_MOSTLY_BF16},
        {.key = "verastore.snapshot", .type = GGUF_TEXT, .text = id},
    };
    if (config->base_name) {
        values[count++] = (struct gguf_value
        ){.key = "general.base_model.count", .type = GGUF_UINT32, .number = 1};
        values[count++] = (struct gguf_value
        ){.key = "general.base_model.0.name", .type = GGUF_TEXT, .text = config->base_name};
    }
    return gguf_encode(out, values, count, halves->tensors, halves->count);
}

static int half_write(
    struct sink *sink,
    const struct half *half,
    const struct gguf_tensor *tensor,
    const struct lora *lora
)
{
    int err = lora_write(sink, lora, half->module, half->factor, half->heads);

    return err < 0 ? err : sink_pad(sink, gguf_tensor_room(tensor) - gguf_tensor_bytes(tensor));
}

int lora_gguf_write(
    struct manifest *files,
    struct outdir *dir,
    const struct lora *lora,
    const struct gguf_model *model,
    struct progress *progress
)
{
    __attribute__((cleanup(halves_release))) struct halves halves = {0};
    struct progress_sum sum;
    AUTO_SINK(sink);
    AUTO_BUF(header);
    int err;

    if ((err = lora_check(lora)) < 0 || (err = halves_fill(&halves, lora, model)) < 0 ||
        (err = header_make(&header, &halves, lora, model)) < 0)
        return err;
    const struct gguf_tensor *last = &halves.tensors[halves.count - 1];
    progress_sum_init(&sum, progress, header.len + last->offset + gguf_tensor_room(last));
    if ((err = sink_open(&sink, dir, LORA_GGUF_FILE, &sum)) == 0)
        err = sink_write(&sink, header.data, header.len);
    for (size_t i = 0; err == 0 && i < halves.count; i++)
        err = half_write(&sink, &halves.list[i], &halves.tensors[i], lora);
    if (err == 0)
        err = sink_close(files, &sink);
    progress_sum_release(&sum);
    return err;
}
