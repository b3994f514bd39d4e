#include "apply/merge_adapter.h"

#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

#include "apply/merge_config.h"
#include "apply/merge_files.h"
#include "apply/merge_layout.h"

enum { BASE, OURS, THEIRS, SIDES };

/* A module in the three versions, NULL where one does not adapt it. */
struct module_trio {
    const char *name;
    const struct adapter_module *modules[SIDES];
    enum three_way way; /* settled */
};

struct merging {
    const struct merge_request *request;
    const struct merge_version *versions[SIDES];
    struct layout layouts[SIDES];
    struct module_trio *modules; /* in byte order of name */
    size_t module_count;
    struct adapter_merge *out;
    struct pieces pieces;
};

static void merging_release(struct merging *merging)
{
    free(merging->modules);
    pieces_release(&merging->pieces);
}

#define AUTO_MERGING(name) __attribute__((cleanup(merging_release))) struct merging name = {0}

static const struct adapter *adapter_of(const struct merging *merging, size_t side)
{
    return &merging->versions[side]->loaded->adapter;
}

static struct bytes file_of(const struct merge_version *version, const char *path)
{
    const struct adapter_file *file = adapter_files_find(version->files, path);

    return file ? buf_bytes(&file->data) : (struct bytes){0};
}

static enum three_way file_way(const struct merge_request *request, const char *path)
{
    struct bytes base = file_of(&request->base, path), ours = file_of(&request->ours, path);
    struct bytes theirs = file_of(&request->theirs, path);

    return three_way(bytes_equal(ours, base), bytes_equal(theirs, base), bytes_equal(ours, theirs));
}

bool merge_is_two_sided(const struct merge_request *request)
{
    return file_way(request, PEFT_MODEL) == WAY_CONFLICT;
}

/* Modules */

static struct bytes vector(const struct merging *merging, size_t side, const struct tensor *tensor)
{
    return layout_bytes(&merging->layouts[side], tensor);
}

static bool
vectors_equal(const struct merging *merging, const struct module_trio *trio, size_t a, size_t b)
{
    const struct adapter_module *x = trio->modules[a], *y = trio->modules[b];

    if (!x || !y)
        return x == y;
    return x->d->dtype == y->d->dtype && x->b->dtype == y->b->dtype &&
           bytes_equal(vector(merging, a, x->d), vector(merging, b, y->d)) &&
           bytes_equal(vector(merging, a, x->b), vector(merging, b, y->b));
}

static void module_classify(const struct merging *merging, struct module_trio *trio)
{
    enum three_way way = three_way(
        vectors_equal(merging, trio, OURS, BASE), vectors_equal(merging, trio, THEIRS, BASE),
        vectors_equal(merging, trio, OURS, THEIRS)
    );

    trio->way = three_way_settle(way, merging->request->prefer);
}

/* The next name in byte order among those that `at` has not passed, or NULL. */
static const char *module_next(const struct merging *merging, const size_t at[SIDES])
{
    const char *name = NULL;

    for (size_t i = 0; i < SIDES; i++) {
        const struct adapter *adapter = adapter_of(merging, i);
        if (at[i] == adapter->module_count)
            continue;
        const char *other = adapter->modules[at[i]].name;
        if (!name || strcmp(other, name) < 0)
            name = other;
    }
    return name;
}

static int modules_find(struct merging *merging)
{
    size_t room = 0, at[SIDES] = {0};
    const char *name;

    for (size_t i = 0; i < SIDES; i++)
        room += adapter_of(merging, i)->module_count;
    if (!(merging->modules = array_new(room, sizeof(*merging->modules))))
        return error_wrap(E_NOMEM, "merge");
    while ((name = module_next(merging, at))) {
        struct module_trio *trio = &merging->modules[merging->module_count++];
        trio->name = name;
        for (size_t i = 0; i < SIDES; i++) {
            const struct adapter *adapter = adapter_of(merging, i);
            if (at[i] < adapter->module_count && strcmp(adapter->modules[at[i]].name, name) == 0)
                trio->modules[i] = &adapter->modules[at[i]++];
        }
        module_classify(merging, trio);
    }
    return 0;
}

/* Why nothing can be fitted where both sides changed a module, or NULL. */
static const char *module_conflict(const struct module_trio *trio)
{
    const struct adapter_module *ours = trio->modules[OURS], *theirs = trio->modules[THEIRS];

    if (!ours)
        return "we removed it, they changed it";
    if (!theirs)
        return "we changed it, they removed it";
    if (ours->d->dtype != theirs->d->dtype || ours->b->dtype != theirs->b->dtype)
        return "both changed it, and store it in different types";
    if (ours->out != theirs->out)
        return "both changed it, and it has another size";
    return NULL;
}

static int modules_check(struct merging *merging)
{
    int err = 0;

    for (size_t i = 0; err == 0 && i < merging->module_count; i++) {
        const struct module_trio *trio = &merging->modules[i];
        const char *why = trio->way == WAY_CONFLICT ? module_conflict(trio) : NULL;
        if (why)
            err = conflicts_add(&merging->out->conflicts, trio->name, why);
    }
    return err;
}

static bool modules_need_fit(const struct merging *merging)
{
    for (size_t i = 0; i < merging->module_count; i++) {
        if (merging->modules[i].way == WAY_CONFLICT)
            return true;
    }
    return merging->request->options.ranks && merging->request->prefer == PREFER_NONE;
}

static int input_compare(const void *key, const void *element)
{
    return strcmp(key, ((const struct merge_inputs *)element)->module);
}

static struct merge_side
side_of(const struct merging *merging, const struct module_trio *trio, size_t side)
{
    const struct adapter_module *module = trio->modules[side];

    if (!module)
        return (struct merge_side){0};
    return (struct merge_side){
        .d = vector(merging, side, module->d),
        .b = vector(merging, side, module->b),
        .dtype_d = module->d->dtype,
        .dtype_b = module->b->dtype,
    };
}

static int module_describe(
    struct merge_module *out, const struct merging *merging, const struct module_trio *trio
)
{
    const struct merge_request *request = merging->request;
    const struct merge_inputs *input = NULL;

    if (request->input_count)
        input = bsearch(
            trio->name, request->inputs, request->input_count, sizeof(*input), input_compare
        );
    if (!input)
        return error_set(E_INVALID, "module '%s': how many inputs it has is not known", trio->name);
    *out = (struct merge_module){
        .name = trio->name,
        .in = input->in,
        .base = side_of(merging, trio, BASE),
        .ours = side_of(merging, trio, OURS),
        .theirs = side_of(merging, trio, THEIRS),
    };
    for (size_t i = 0; i < SIDES; i++) {
        if (trio->modules[i])
            out->out = trio->modules[i]->out;
    }
    return 0;
}

static int modules_fit(struct merging *merging)
{
    AUTO_FREE(struct merge_module, modules);
    struct adapter_merge *out = merging->out;
    int err = 0;

    if (!(modules = array_new(merging->module_count, sizeof(*modules))))
        return error_wrap(E_NOMEM, "merge");
    for (size_t i = 0; err == 0 && i < merging->module_count; i++)
        err = module_describe(&modules[i], merging, &merging->modules[i]);
    if (err < 0)
        return err;
    out->measured = true;
    return merge_modules(
        &out->modules, merging->request->basis, modules, merging->module_count,
        &merging->request->options
    );
}

static enum merge_taken taken_of(enum three_way way)
{
    switch (way) {
    case WAY_BASE:
        return MERGE_BASE;
    case WAY_OURS:
        return MERGE_OURS;
    case WAY_THEIRS:
        return MERGE_THEIRS;
    case WAY_BOTH:
        return MERGE_BOTH;
    case WAY_CONFLICT:
        break;
    }
    return MERGE_FITTED;
}

/* Nothing to be fitted: who is taken. */
static int modules_take(struct merging *merging)
{
    struct merge *merge = &merging->out->modules;

    merge->modules = array_new(merging->module_count, sizeof(*merge->modules));
    if (!merge->modules)
        return error_wrap(E_NOMEM, "merge");
    merge->count = merging->module_count;
    for (size_t i = 0; i < merge->count; i++)
        merge->modules[i].taken = taken_of(merging->modules[i].way);
    return 0;
}

static int names_copy(struct merging *merging)
{
    struct adapter_merge *out = merging->out;

    if (!(out->names = array_new(merging->module_count + 1, sizeof(*out->names))))
        return error_wrap(E_NOMEM, "merge");
    for (size_t i = 0; i < merging->module_count; i++) {
        if (!(out->names[i] = bytes_dup(text_bytes(merging->modules[i].name))))
            return error_wrap(E_NOMEM, "merge");
    }
    return 0;
}

/* Whose module it is in the end: of one that was fitted, the side whose types its bits have. */
static size_t module_side(const struct module_trio *trio, enum merge_taken taken)
{
    if (trio->way == WAY_CONFLICT && taken == MERGE_BASE)
        return BASE;
    return trio->way == WAY_THEIRS || taken == MERGE_THEIRS ? THEIRS : OURS;
}

/* Append the two tensors of a module, where the merge has it: what had to be fitted as it came out,
   everything else from the file that it is in. */
static int module_add(struct merging *merging, size_t index)
{
    const struct module_trio *trio = &merging->modules[index];
    struct merged_module *merged = &merging->out->modules.modules[index];
    size_t side = module_side(trio, merged->taken);
    const struct adapter_module *module = trio->modules[side];
    bool is_fitted = trio->way == WAY_CONFLICT;
    int err;

    if (!module)
        return 0;
    if ((err = pieces_add(
             &merging->pieces, module->d, vector(merging, side, module->d),
             is_fitted ? &merged->d : NULL
         )) < 0)
        return err;
    return pieces_add(
        &merging->pieces, module->b, vector(merging, side, module->b), is_fitted ? &merged->b : NULL
    );
}

/* All other tensors: A and B, biases, whole modules */

/* A tensor in the three versions, NULL where one does not have it. */
struct tensor_trio {
    const struct tensor *tensors[SIDES];
};

static bool
tensors_equal(const struct merging *merging, const struct tensor_trio *trio, size_t a, size_t b)
{
    const struct tensor *x = trio->tensors[a], *y = trio->tensors[b];

    if (!x || !y)
        return x == y;
    return tensor_is_alike(x, y) && bytes_equal(vector(merging, a, x), vector(merging, b, y));
}

static bool can_merge(enum dtype dtype)
{
    return dtype == DTYPE_F32 || dtype == DTYPE_BF16 || dtype == DTYPE_F16 || dtype == DTYPE_F64;
}

static const char *tensor_conflict(const struct tensor_trio *trio)
{
    const struct tensor *base = trio->tensors[BASE], *ours = trio->tensors[OURS];
    const struct tensor *theirs = trio->tensors[THEIRS];

    if (!ours)
        return "we removed it, they changed it";
    if (!theirs)
        return "we changed it, they removed it";
    if (!tensor_is_alike(ours, theirs) || (base && !tensor_is_alike(base, ours)))
        return "both changed it, and it has another type or shape";
    if (!can_merge(ours->dtype))
        return "both changed it, and its type is none that can be merged";
    return NULL;
}

static int tensor_fit(struct merging *merging, const struct tensor_trio *trio)
{
    const struct tensor *base = trio->tensors[BASE], *ours = trio->tensors[OURS];
    const char *why = tensor_conflict(trio);
    AUTO_BUF(merged);

    if (why)
        return conflicts_add(
            &merging->out->conflicts, (ours ? ours : trio->tensors[THEIRS])->name, why
        );
    int err = buf_resize(&merged, (size_t)tensor_bytes(ours));
    if (err == 0)
        err = merge_elements(
            merged.data, base ? vector(merging, BASE, base) : (struct bytes){0},
            vector(merging, OURS, ours), vector(merging, THEIRS, trio->tensors[THEIRS]),
            ours->dtype, &merging->request->options
        );
    if (err < 0)
        return error_wrap(err, "%s", ours->name);
    return pieces_add(&merging->pieces, ours, (struct bytes){0}, &merged);
}

static int tensor_add(struct merging *merging, const struct tensor_trio *trio)
{
    enum three_way way = three_way(
        tensors_equal(merging, trio, OURS, BASE), tensors_equal(merging, trio, THEIRS, BASE),
        tensors_equal(merging, trio, OURS, THEIRS)
    );

    way = three_way_settle(way, merging->request->prefer);
    if (way == WAY_CONFLICT)
        return tensor_fit(merging, trio);
    size_t side = way == WAY_THEIRS ? THEIRS : OURS;
    const struct tensor *tensor = trio->tensors[side];
    return tensor ? pieces_add(&merging->pieces, tensor, vector(merging, side, tensor), NULL) : 0;
}

/* Which of a version's tensors are vectors of modules: [tensors of the layout]. */
static bool *vectors_mark(const struct adapter *adapter)
{
    const struct tensor *tensors = adapter->layout.tensors;
    bool *marks = array_new(adapter->layout.count, sizeof(*marks));

    for (size_t i = 0; marks && i < adapter->module_count; i++) {
        marks[adapter->modules[i].b - tensors] = true;
        marks[adapter->modules[i].d - tensors] = true;
    }
    return marks;
}

/* Go through a version's tensors by name, vectors of modules left out. */
struct cursor {
    const struct safetensors *table;
    bool *vectors;
    size_t at;
};

static const struct tensor *cursor_tensor(struct cursor *cursor)
{
    const struct safetensors *table = cursor->table;

    while (cursor->at < table->count && cursor->vectors[table->by_name[cursor->at]])
        cursor->at++;
    return cursor->at < table->count ? &table->tensors[table->by_name[cursor->at]] : NULL;
}

static int others_walk(struct merging *merging, struct cursor cursors[SIDES])
{
    int err = 0;

    while (err == 0) {
        struct tensor_trio trio = {{0}};
        const struct tensor *first = NULL;
        for (size_t i = 0; i < SIDES; i++) {
            const struct tensor *tensor = cursor_tensor(&cursors[i]);
            if (tensor && (!first || tensor_order(tensor, first) < 0))
                first = tensor;
        }
        if (!first)
            break;
        for (size_t i = 0; i < SIDES; i++) {
            const struct tensor *tensor = cursor_tensor(&cursors[i]);
            if (tensor && tensor_order(tensor, first) == 0) {
                trio.tensors[i] = tensor;
                cursors[i].at++;
            }
        }
        err = tensor_add(merging, &trio);
    }
    return err;
}

static int others_add(struct merging *merging)
{
    struct cursor cursors[SIDES] = {{0}};
    int err = 0;

    for (size_t i = 0; err == 0 && i < SIDES; i++) {
        cursors[i].table = &adapter_of(merging, i)->layout;
        if (!(cursors[i].vectors = vectors_mark(adapter_of(merging, i))))
            err = error_wrap(E_NOMEM, "merge");
    }
    if (err == 0)
        err = others_walk(merging, cursors);
    for (size_t i = 0; i < SIDES; i++)
        free(cursors[i].vectors);
    return err;
}

/* The model file */

static int side_copy(struct buf *out, const struct merge_version *side, const char *path)
{
    struct bytes data = file_of(side, path);

    return buf_append(out, data.data, data.len);
}

static int model_build(struct buf *out, struct merging *merging)
{
    struct conflicts *conflicts = &merging->out->conflicts;
    int err = 0;

    for (size_t i = 0; err == 0 && i < merging->module_count; i++)
        err = module_add(merging, i);
    if (err < 0 || (err = others_add(merging)) < 0 || conflicts->count)
        return err;
    return layout_merge(
        out, &merging->pieces, &merging->layouts[BASE], &merging->layouts[OURS],
        &merging->layouts[THEIRS]
    );
}

static int bases_differ(void)
{
    int err = error_set(
        E_UNSUPPORTED, "both sides changed their vectors, and these stand on different random "
                       "bases, ranks or base models: nothing can be fitted"
    );

    return error_hint(
        err, "--strategy ours or theirs takes the whole adapter of one side; 'vera apply A B' puts "
             "both onto a model, and as LoRA (vera export --as lora) PEFT can add them; where it "
             "is one base model under two names, --base MODEL"
    );
}

/* With another basis on each side it is the whole adapter of one of them. */
static bool is_whole_side(const struct merge_request *request)
{
    return request->prefer != PREFER_NONE && !request->is_one_basis && merge_is_two_sided(request);
}

static void modules_settle(struct merging *merging, enum three_way way)
{
    for (size_t i = 0; i < merging->module_count; i++) {
        struct module_trio *trio = &merging->modules[i];
        if (trio->way != WAY_BASE && trio->way != WAY_BOTH)
            trio->way = way;
    }
}

static int model_merge(struct buf *out, struct merging *merging)
{
    const struct merge_request *request = merging->request;
    enum three_way way = file_way(request, PEFT_MODEL);
    int err = 0;

    if (!request->is_one_basis)
        way = three_way_settle(way, request->prefer);
    if (!request->is_one_basis && way == WAY_CONFLICT)
        return bases_differ();
    if ((err = modules_find(merging)) < 0 || (err = names_copy(merging)) < 0)
        return err;
    if (is_whole_side(request))
        modules_settle(merging, way);
    if (way == WAY_CONFLICT && (err = modules_check(merging)) < 0)
        return err;
    bool fit = request->is_one_basis && !merging->out->conflicts.count && modules_need_fit(merging);
    if ((err = fit ? modules_fit(merging) : modules_take(merging)) < 0)
        return err;
    if (way == WAY_CONFLICT)
        return model_build(out, merging);
    return side_copy(out, way == WAY_THEIRS ? &request->theirs : &request->ours, PEFT_MODEL);
}

static int file_add(struct adapter_merge *out, const char *path, struct buf *data)
{
    return out->conflicts.count ? 0 : adapter_files_add(&out->files, path, data);
}

static int file_compare(const void *a, const void *b)
{
    return strcmp(((const struct adapter_file *)a)->path, ((const struct adapter_file *)b)->path);
}

static int config_merge(struct buf *out, struct merging *merging)
{
    const struct merge_request *request = merging->request;

    if (is_whole_side(request))
        return side_copy(
            out, request->prefer == PREFER_OURS ? &request->ours : &request->theirs, PEFT_CONFIG
        );
    return merge_config(
        out, &merging->out->conflicts, file_of(&request->base, PEFT_CONFIG),
        file_of(&request->ours, PEFT_CONFIG), file_of(&request->theirs, PEFT_CONFIG),
        request->prefer
    );
}

static int files_make(struct merging *merging)
{
    const struct merge_request *request = merging->request;
    struct adapter_merge *out = merging->out;
    AUTO_BUF(config);
    AUTO_BUF(model);
    int err;

    if ((err = config_merge(&config, merging)) < 0 ||
        (err = merge_files(
             &out->files, &out->conflicts, request->base.files, request->ours.files,
             request->theirs.files, request->prefer
         )) < 0 ||
        (err = model_merge(&model, merging)) < 0 ||
        (err = file_add(out, PEFT_CONFIG, &config)) < 0 ||
        (err = file_add(out, PEFT_MODEL, &model)) < 0)
        return err;
    if (out->conflicts.count)
        adapter_files_release(&out->files);
    else
        qsort(out->files.files, out->files.count, sizeof(*out->files.files), file_compare);
    return 0;
}

static void merging_init(
    struct merging *merging, struct adapter_merge *out, const struct merge_request *request
)
{
    merging->request = request;
    merging->out = out;
    merging->versions[BASE] = &request->base;
    merging->versions[OURS] = &request->ours;
    merging->versions[THEIRS] = &request->theirs;
    for (size_t i = 0; i < SIDES; i++)
        merging->layouts[i] = (struct layout
        ){file_of(merging->versions[i], PEFT_MODEL), &adapter_of(merging, i)->layout};
}

int merge_needs_basis(bool *out, const struct merge_request *request)
{
    AUTO_MERGING(merging);

    merging_init(&merging, NULL, request);
    if (!merge_is_two_sided(request) && !request->options.ranks) {
        *out = false;
        return 0;
    }
    int err = modules_find(&merging);
    if (err == 0)
        *out = modules_need_fit(&merging);
    return err;
}

int merge_adapter(struct adapter_merge *out, const struct merge_request *request)
{
    AUTO_ADAPTER_MERGE(merge);
    AUTO_MERGING(merging);

    merging_init(&merging, &merge, request);
    int err = files_make(&merging);
    if (err < 0)
        return err;
    *out = merge;
    merge = (struct adapter_merge){0};
    return 0;
}

void adapter_merge_release(struct adapter_merge *merge)
{
    for (size_t i = 0; merge->names && merge->names[i]; i++)
        free(merge->names[i]);
    free(merge->names);
    adapter_files_release(&merge->files);
    merge_release(&merge->modules);
    conflicts_release(&merge->conflicts);
    *merge = (struct adapter_merge){0};
}
