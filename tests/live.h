/*
 * Running models for tests of apply/live*.c: the weights of a model on disk, in memory in any
 * layout, and what each of many adapters must make of them, which materialize() says.
 */
#ifndef TESTS_LIVE_H
#define TESTS_LIVE_H

#include "apply/live.h"
#include "tests/adapters.h"

#define must(call)                                                                                 \
    do {                                                                                           \
        if ((call) != 0)                                                                           \
            fail_msg("%s: %s", #call, error_message());                                            \
    } while (0)

#define TENSORS_MAX 96
#define PARTS_MAX   4

static uint64_t random_state = 88172645463325252;

static inline uint64_t random_below(uint64_t n)
{
    random_state ^= random_state << 13;
    random_state ^= random_state >> 7;
    random_state ^= random_state << 17;
    return (random_state >> 11) % n;
}

/* Where a part of a tensor lies. */
struct memory_part {
    uint8_t *data;
    size_t row_stride, column_stride; /* bytes */
    uint64_t row, rows, column, columns;
};

struct memory_tensor {
    const char *name;
    enum dtype dtype;
    unsigned dims;
    uint64_t rows, columns;
    size_t element;
    struct memory_part parts[PARTS_MAX];
    size_t part_count;
};

/* All tensors of a model in memory, as a program has them that runs it. */
struct memory {
    struct model model;
    struct memory_tensor tensors[TENSORS_MAX];
    size_t count;
    uint8_t *blocks[TENSORS_MAX * PARTS_MAX];
    size_t block_bytes[TENSORS_MAX * PARTS_MAX];
    size_t block_count;
};

#define AUTO_MEMORY(name) __attribute__((cleanup(memory_release))) struct memory name = {0}

static inline void memory_release(struct memory *memory)
{
    for (size_t i = 0; i < memory->block_count; i++)
        free(memory->blocks[i]);
    model_release(&memory->model);
}

static inline uint8_t *memory_block(struct memory *memory, size_t bytes)
{
    uint8_t *block = malloc(bytes ? bytes : 1);

    assert_non_null(block);
    assert_true(memory->block_count < TENSORS_MAX * PARTS_MAX);
    memset(block, 0xa5, bytes);
    memory->block_bytes[memory->block_count] = bytes;
    memory->blocks[memory->block_count++] = block;
    return block;
}

enum layout { LAYOUT_PLAIN, LAYOUT_PADDED, LAYOUT_TURNED, LAYOUT_QUARTERS, LAYOUTS };

static inline void
part_place(struct memory *memory, struct memory_tensor *tensor, enum layout layout)
{
    struct memory_part *part = &tensor->parts[tensor->part_count++];
    size_t element = tensor->element;
    size_t row = (size_t)part->columns * element + (layout == LAYOUT_PADDED ? 3 * element : 0);

    part->row_stride = row;
    part->column_stride = element;
    if (layout == LAYOUT_TURNED) {
        part->row_stride = element;
        part->column_stride = (size_t)(part->rows + 1) * element;
    }
    size_t bytes = (size_t)part->rows * row;
    if (layout == LAYOUT_TURNED)
        bytes = (size_t)part->columns * part->column_stride;
    part->data = memory_block(memory, bytes);
}

static inline void
tensor_place(struct memory *memory, struct memory_tensor *tensor, enum layout layout)
{
    uint64_t rows = tensor->rows, columns = tensor->columns;

    if (layout != LAYOUT_QUARTERS || rows < 2 || columns < 2) {
        tensor->parts[0] = (struct memory_part){.rows = rows, .columns = columns};
        part_place(memory, tensor, layout == LAYOUT_QUARTERS ? LAYOUT_PLAIN : layout);
        return;
    }
    uint64_t top = 1 + random_below(rows - 1), left = 1 + random_below(columns - 1);
    for (unsigned i = 0; i < 4; i++) {
        tensor->parts[i] = (struct memory_part){
            .row = i & 1 ? top : 0,
            .rows = i & 1 ? rows - top : top,
            .column = i & 2 ? left : 0,
            .columns = i & 2 ? columns - left : left,
        };
        part_place(memory, tensor, random_below(LAYOUT_QUARTERS));
    }
}

/* Each element's place and its number in the tensor as stored. */
#define EACH_ELEMENT(part, r, c)                                                                   \
    for (uint64_t r = 0; r < (part)->rows; r++)                                                    \
        for (uint64_t c = 0; c < (part)->columns; c++)

static inline uint8_t *element_at(const struct memory_part *part, uint64_t r, uint64_t c)
{
    return part->data + r * part->row_stride + c * part->column_stride;
}

static inline size_t element_offset(
    const struct memory_tensor *tensor, const struct memory_part *part, uint64_t r, uint64_t c
)
{
    return (size_t)((part->row + r) * tensor->columns + part->column + c) * tensor->element;
}

static inline void tensor_fill(struct memory_tensor *tensor, const uint8_t *data)
{
    for (size_t i = 0; i < tensor->part_count; i++) {
        const struct memory_part *part = &tensor->parts[i];
        EACH_ELEMENT(part, r, c)
        memcpy(element_at(part, r, c), data + element_offset(tensor, part, r, c), tensor->element);
    }
}

static inline bool tensor_is(const struct memory_tensor *tensor, const uint8_t *data)
{
    for (size_t i = 0; i < tensor->part_count; i++) {
        const struct memory_part *part = &tensor->parts[i];
        size_t row = (size_t)part->columns * tensor->element;
        bool plain = part->column_stride == tensor->element;
        for (uint64_t r = 0; plain && r < part->rows; r++) {
            if (memcmp(element_at(part, r, 0), data + element_offset(tensor, part, r, 0), row) != 0)
                return false;
        }
        if (plain)
            continue;
        EACH_ELEMENT(part, r, c)
        {
            const uint8_t *wanted = data + element_offset(tensor, part, r, c);
            if (memcmp(element_at(part, r, c), wanted, tensor->element) != 0)
                return false;
        }
    }
    return true;
}

/* `layout` LAYOUTS: each tensor in one of its own. Names lose `cut`, where they have it. */
static inline void
memory_open(struct memory *memory, const char *dir, enum layout layout, const char *cut)
{
    must(model_open(&memory->model, dir));
    assert_true(memory->model.tensor_count <= TENSORS_MAX);
    for (size_t i = 0; i < memory->model.tensor_count; i++) {
        const struct tensor *from = memory->model.tensors[i].tensor;
        struct memory_tensor *tensor = &memory->tensors[memory->count];
        AUTO_BUF(data);
        if (!dtype_is_applicable(from->dtype) || from->dims < 1 || from->dims > 2)
            continue;
        memory->count++;
        *tensor = (struct memory_tensor){
            .name = from->name,
            .dtype = from->dtype,
            .dims = from->dims,
            .rows = from->shape[0],
            .columns = from->dims == 2 ? from->shape[1] : 1,
            .element = dtype_bits(from->dtype) / 8,
        };
        if (strncmp(tensor->name, cut, strlen(cut)) == 0)
            tensor->name += strlen(cut);
        tensor_place(memory, tensor, layout < LAYOUTS ? layout : random_below(LAYOUTS));
        read_tensor(&data, &memory->model, from->name);
        tensor_fill(tensor, data.data);
    }
}

static inline struct live_place
place_of(const struct memory_tensor *tensor, const struct memory_part *part)
{
    return (struct live_place){
        .name = tensor->name,
        .dtype = tensor->dtype,
        .dims = tensor->dims,
        .shape = {tensor->rows, tensor->columns},
        .data = part->data,
        .row_stride = (int64_t)(part->row_stride / tensor->element),
        .column_stride = (int64_t)(part->column_stride / tensor->element),
        .row = part->row,
        .rows = part->rows,
        .column = part->column,
        .columns = part->columns,
    };
}

static inline void memory_register(struct live *live, const struct memory *memory)
{
    for (size_t i = 0; i < memory->count; i++) {
        for (size_t k = 0; k < memory->tensors[i].part_count; k++) {
            struct live_place place = place_of(&memory->tensors[i], &memory->tensors[i].parts[k]);
            must(live_register(live, &place));
        }
    }
}

#define AUTO_LIVE(name) __attribute__((cleanup(live_drop))) struct live *name = NULL
static inline void live_drop(struct live **live)
{
    live_free(*live);
}

/* `base`: its directory, or NULL to keep copies. */
static inline struct live *live_of_memory(const struct memory *memory, const char *base)
{
    const struct live_options options = {.base = base, .threads = 2};
    struct live *live = NULL;

    must(live_new(&live, &options));
    memory_register(live, memory);
    must(live_seal(live));
    return live;
}

/* What a model's tensors are with an adapter, or without: as its files have them. */
struct expected {
    struct buf tensors[TENSORS_MAX]; /* as memory->tensors */
    size_t count;
    struct snapshot snapshot; /* of the adapter, if any */
};

static inline void expected_release(struct expected *expected)
{
    for (size_t i = 0; i < expected->count; i++)
        buf_release(&expected->tensors[i]);
    snapshot_release(&expected->snapshot);
}

/* The tensors of the model in `dir`, in the order of `memory`, which has names without `cut`. */
static inline void
expected_read(struct expected *out, const struct memory *memory, const char *dir, const char *cut)
{
    AUTO_MODEL(model);

    must(model_open(&model, dir));
    for (size_t i = 0; i < memory->count; i++) {
        struct model_tensor found;
        const char *name = memory->tensors[i].name;
        char whole[512];
        snprintf(whole, sizeof(whole), "%s%s", cut, name);
        read_tensor(&out->tensors[i], &model, model_find(&found, &model, name) ? name : whole);
        out->count++;
    }
}

/* The adapter at `dir` put onto the model at `base` by materialize(). */
static inline void expected_make(
    struct expected *out,
    const struct memory *memory,
    const char *base,
    const char *dir,
    bool pinned
)
{
    AUTO_SUBJECT(subject);
    AUTO_MODEL(model);
    AUTO_APPLY_RESULT(result);
    struct apply_options options = {.threads = 1, .force = true};

    must(model_open(&model, base));
    subject_open(&subject, dir, pinned ? &model : NULL);
    struct apply_input input = {&subject.loaded, 1};
    must(materialize(&result, &input, 1, &model, "merged", &options));
    expected_read(out, memory, "merged", "");
    out->snapshot = subject.snapshot;
    subject.snapshot = (struct snapshot){0};
}

static inline bool memory_is(const struct memory *memory, const struct expected *expected)
{
    for (size_t i = 0; i < memory->count; i++) {
        if (!tensor_is(&memory->tensors[i], expected->tensors[i].data))
            return false;
    }
    return true;
}

static inline void assert_memory(const struct memory *memory, const struct expected *expected)
{
    for (size_t i = 0; i < memory->count; i++) {
        if (!tensor_is(&memory->tensors[i], expected->tensors[i].data))
            fail_msg("%s differs", memory->tensors[i].name);
    }
}

/* Many adapters of one model, and the model itself. */
struct choir {
    struct memory memory;
    struct expected base;
    struct expected adapters[40];
    size_t count;
    char dirs[40][128];
};

#define AUTO_CHOIR(name) __attribute__((cleanup(choir_release))) struct choir name = {0}

static inline void choir_release(struct choir *choir)
{
    for (size_t i = 0; i < choir->count; i++)
        expected_release(&choir->adapters[i]);
    expected_release(&choir->base);
    memory_release(&choir->memory);
}

/* All adapters below the folders named, "llama llama-c", that were made for `base`. */
static inline void choir_open(
    struct choir *choir, const char *base, const char *folders, enum layout layout, bool pinned
)
{
    memory_open(&choir->memory, base, layout, "");
    expected_read(&choir->base, &choir->memory, base, "");
    for (const char *at = folders; *at; at += strspn(at, " ")) {
        size_t len = strcspn(at, " ");
        char top[128];
        snprintf(top, sizeof(top), FIXTURES "/adapter/%.*s", (int)len, at);
        at += len;
        for (int step = -10; step <= 120; step += 10) {
            char *dir = choir->dirs[choir->count];
            if (step < 0)
                snprintf(dir, sizeof(choir->dirs[0]), "%.120s", top);
            else
                snprintf(dir, sizeof(choir->dirs[0]), "%.100s/step-%03d", top, step);
            if (dir_has(dir, PEFT_CONFIG))
                expected_make(&choir->adapters[choir->count++], &choir->memory, base, dir, pinned);
        }
    }
    assert_true(choir->count > 0 && choir->count < 40);
}

/* A model like the llama of the fixtures, in float16. */
static inline void write_f16(const char *dir)
{
    AUTO_MODEL(base);
    struct tensor tensors[TENSORS_MAX];
    struct bytes data[TENSORS_MAX];
    struct buf narrow[TENSORS_MAX] = {0};
    char path[64];

    must(model_open(&base, FIXTURES "/base/llama"));
    for (size_t i = 0; i < base.tensor_count; i++) {
        AUTO_BUF(wide);
        tensors[i] = *base.tensors[i].tensor;
        read_tensor(&wide, &base, tensors[i].name);
        must(buf_resize(&narrow[i], wide.len / 2));
        dtype_narrow(
            narrow[i].data, (const float *)(const void *)wide.data, wide.len / 4, DTYPE_F16
        );
        tensors[i].dtype = DTYPE_F16;
        data[i] = buf_bytes(&narrow[i]);
    }
    snprintf(path, sizeof(path), "%s/" MODEL_FILE, dir);
    write_tensors(path, tensors, data, base.tensor_count);
    snprintf(path, sizeof(path), "%s/config.json", dir);
    put_bytes(path, buf_bytes(&base.config));
    for (size_t i = 0; i < base.tensor_count; i++)
        buf_release(&narrow[i]);
}

/* The adapter at `from` with another value in one of its tensors. */
static inline void write_changed(const char *from, const char *to, const char *tensor, float value)
{
    AUTO_BUF(file);
    AUTO_SAFETENSORS(table);
    char path[64];

    copy_dir(from, to);
    snprintf(path, sizeof(path), "%s/" PEFT_MODEL, to);
    must(file_read(&file, path, GIB));
    must(safetensors_decode(&table, buf_bytes(&file), file.len));
    const struct tensor *found = safetensors_find(&table, tensor);
    assert_non_null(found);
    memcpy(file.data + table.header_bytes + found->begin + 4, &value, 4);
    must(file_write(path, buf_bytes(&file)));
}

/* q, k and v of layer 1 as rows of one matrix (as vLLM has them), or its columns (as [in, out]). */
static inline void choir_fuse(struct choir *choir, bool by_columns)
{
    static const char *const names[] = {"q_proj", "k_proj", "v_proj"};
    struct memory *memory = &choir->memory;
    struct memory_tensor *parts[3] = {0};
    uint64_t at = 0, all = 0;

    for (size_t i = 0; i < memory->count; i++) {
        for (size_t k = 0; k < 3; k++) {
            if (strstr(memory->tensors[i].name, "layers.1.") &&
                strstr(memory->tensors[i].name, names[k]))
                parts[k] = &memory->tensors[i];
        }
    }
    for (size_t k = 0; k < 3; k++)
        all += parts[k]->rows;
    size_t element = parts[0]->element;
    uint64_t in = parts[0]->columns;
    uint8_t *fused = memory_block(memory, (size_t)(all * in) * element);
    for (size_t k = 0; k < 3; k++) {
        struct memory_part *part = &parts[k]->parts[0];
        part->row_stride = by_columns ? element : (size_t)in * element;
        part->column_stride = by_columns ? (size_t)all * element : element;
        part->data = fused + (by_columns ? at * element : at * in * element);
        at += parts[k]->rows;
        tensor_fill(parts[k], choir->base.tensors[parts[k] - memory->tensors].data);
    }
}

#endif
