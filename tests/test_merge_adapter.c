/*
 * Tests of apply/merge_adapter.c and merge_layout.c: whole adapters, those of the fixtures and
 * those that a seed makes up. Of the latter every part has a number, so that what a merge must be
 * follows from numbers alone, and is compared file by file.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "apply/merge_adapter.h"
#include "tests/effects.h"
#include "tests/fault.h"

#define SEEDS 300

static const struct merge_options task = {MERGE_TASK, 1, false, 2};
static const struct merge_options average = {MERGE_AVERAGE, 0.5, false, 2};

static struct merge_version version_of(const struct subject *subject)
{
    return (struct merge_version){&subject->loaded, &subject->files};
}

static struct bytes file_of(const struct adapter_files *files, const char *path)
{
    const struct adapter_file *file = adapter_files_find(files, path);

    assert_non_null(file);
    return buf_bytes(&file->data);
}

static void
assert_files_equal(const struct adapter_files *a, const struct adapter_files *b, const char *what)
{
    assert_int_equal(a->count, b->count);
    for (size_t i = 0; i < a->count; i++) {
        assert_string_equal(a->files[i].path, b->files[i].path);
        if (!bytes_equal(buf_bytes(&a->files[i].data), buf_bytes(&b->files[i].data)))
            fail_msg("%s: %s differs", what, a->files[i].path);
    }
}

/* Adapters that are made up */

enum { MODULES = 4, OTHERS = 4, RANK = 3, OUT = 5, IN = 4, ABSENT = -1 };

/* What each part holds, by number. */
struct spec {
    int modules[MODULES];
    int others[OTHERS]; /* the last one holds integers */
    int key;            /* of adapter_config.json */
    int note;           /* of note.txt */
};

static void values_put(struct buf *out, int number, size_t part, size_t count, enum dtype dtype)
{
    for (size_t i = 0; i < count; i++) {
        float value = (float)number + (float)part / 8 + (float)i / 64 + 1;
        int64_t integer = number * 100 + (int64_t)i;
        if (dtype == DTYPE_F32)
            assert_int_equal(buf_append(out, &value, sizeof(value)), 0);
        else
            assert_int_equal(buf_append(out, &integer, sizeof(integer)), 0);
    }
}

struct drawn {
    struct tensor tensors[2 * MODULES + OTHERS];
    uint64_t shapes[2 * MODULES + OTHERS];
    char names[2 * MODULES + OTHERS][96];
    struct buf data;
    size_t count;
};

static void tensor_draw(
    struct drawn *drawn, const char *name, int number, size_t part, size_t n, enum dtype type
)
{
    size_t at = drawn->count++;

    snprintf(drawn->names[at], sizeof(drawn->names[at]), "base_model.model.%s", name);
    drawn->shapes[at] = n;
    drawn->tensors[at] = (struct tensor){
        .name = drawn->names[at],
        .name_len = strlen(drawn->names[at]),
        .dtype = type,
        .dims = 1,
        .shape = &drawn->shapes[at],
        .begin = drawn->data.len,
    };
    values_put(&drawn->data, number, part, n, type);
    drawn->tensors[at].end = drawn->data.len;
}

/* In the order in which safetensors writes them: I64 before F32, then by name. */
static void model_draw(struct buf *out, const struct spec *spec)
{
    struct drawn drawn = {.count = 0};
    char name[48];

    if (spec->others[OTHERS - 1] != ABSENT)
        tensor_draw(&drawn, "head.ids", spec->others[OTHERS - 1], 9, 2, DTYPE_I64);
    for (size_t i = 0; i + 1 < OTHERS; i++) {
        snprintf(name, sizeof(name), "head%zu.weight", i);
        if (spec->others[i] != ABSENT)
            tensor_draw(&drawn, name, spec->others[i], 20 + i, 3, DTYPE_F32);
    }
    for (size_t i = 0; i < MODULES; i++) {
        if (spec->modules[i] == ABSENT)
            continue;
        snprintf(name, sizeof(name), "layer%zu.q.vera_lambda_b", i);
        tensor_draw(&drawn, name, spec->modules[i], 2 * i, OUT, DTYPE_F32);
        snprintf(name, sizeof(name), "layer%zu.q.vera_lambda_d", i);
        tensor_draw(&drawn, name, spec->modules[i], 2 * i + 1, RANK, DTYPE_F32);
    }
    must(safetensors_encode(out, drawn.tensors, drawn.count));
    must(buf_append(out, drawn.data.data, drawn.data.len));
    buf_release(&drawn.data);
}

static void adapter_put(struct adapter_files *files, const char *path, struct buf *data)
{
    must(adapter_files_add(files, path, data));
}

static void subject_take(struct subject *out)
{
    must(snapshot_encode(&out->snapshot, &out->files, NULL));
    must(adapter_load(&out->loaded, &out->snapshot));
}

static void subject_draw(struct subject *out, const struct spec *spec)
{
    AUTO_BUF(config);
    AUTO_BUF(model);
    AUTO_BUF(note);

    must(buf_printf(&config, "{\n  \"peft_type\": \"VERA\",\n  \"projection_prng_key\": 1,\n"));
    must(buf_printf(&config, "  \"r\": %d,\n  \"save_projection\": false", RANK));
    if (spec->key != ABSENT)
        must(buf_printf(&config, ",\n  \"vera_dropout\": %d", spec->key));
    must(buf_append_text(&config, "\n}"));
    model_draw(&model, spec);
    adapter_put(&out->files, PEFT_CONFIG, &config);
    adapter_put(&out->files, PEFT_MODEL, &model);
    if (spec->note != ABSENT) {
        must(buf_printf(&note, "note %d", spec->note));
        adapter_put(&out->files, "note.txt", &note);
    }
    subject_take(out);
}

/* What the merge of three numbers is; *conflict tells that there is none. */
static int
number_merge(bool *conflict, int base, int ours, int theirs, enum three_way_prefer prefer)
{
    if (ours == theirs || theirs == base)
        return ours;
    if (ours == base)
        return theirs;
    *conflict |= prefer == PREFER_NONE;
    return prefer == PREFER_THEIRS ? theirs : ours;
}

static size_t numbers_of(int *out[MODULES + OTHERS + 2], struct spec *spec)
{
    size_t count = 0;

    for (size_t i = 0; i < MODULES; i++)
        out[count++] = &spec->modules[i];
    for (size_t i = 0; i < OTHERS; i++)
        out[count++] = &spec->others[i];
    out[count++] = &spec->key;
    out[count++] = &spec->note;
    return count;
}

/* At least one module everywhere, or it is no adapter. */
static void specs_draw(struct spec specs[3], uint64_t seed, bool both)
{
    int *numbers[3][MODULES + OTHERS + 2];
    size_t count = 0;

    random_state = seed * 977 + 1;
    for (size_t v = 0; v < 3; v++)
        count = numbers_of(numbers[v], &specs[v]);
    for (size_t i = 0; i < count; i++) {
        int base = (int)random_below(4) - 1;
        for (size_t v = 0; v < 3; v++)
            *numbers[v][i] = base;
        /* one side, or both in their ways */
        uint64_t who = random_below(both ? 4 : 3);
        if (who & 1)
            *numbers[1][i] = (int)random_below(5) - 1;
        if (who & 2)
            *numbers[2][i] = (int)random_below(5) - 1;
    }
    for (size_t v = 0; v < 3; v++)
        specs[v].modules[0] = specs[v].modules[0] == ABSENT ? 3 : specs[v].modules[0];
}

static struct merge_request request_of(
    const struct subject *base,
    const struct subject *ours,
    const struct subject *theirs,
    enum three_way_prefer prefer
)
{
    return (struct merge_request){
        .base = version_of(base),
        .ours = version_of(ours),
        .theirs = version_of(theirs),
        .prefer = prefer,
        .options = task,
        .is_one_basis = true,
    };
}

static void specs_try(struct spec specs[3], uint64_t seed, enum three_way_prefer prefer)
{
    int *numbers[4][MODULES + OTHERS + 2];
    struct spec expected;
    struct subject subjects[4] = {0};
    AUTO_ADAPTER_MERGE(merge);
    bool conflict = false, needs = true;
    char what[64];

    size_t count = numbers_of(numbers[3], &expected);
    for (size_t v = 0; v < 3; v++)
        numbers_of(numbers[v], &specs[v]);
    for (size_t i = 0; i < count; i++)
        *numbers[3][i] = number_merge(
            &conflict, *numbers[0][i], *numbers[1][i], *numbers[2][i], prefer
        );
    assert_false(conflict);
    snprintf(what, sizeof(what), "seed %ju, preference %d", (uintmax_t)seed, prefer);
    for (size_t v = 0; v < 3; v++)
        subject_draw(&subjects[v], &specs[v]);
    subject_draw(&subjects[3], &expected);
    struct merge_request request = request_of(&subjects[0], &subjects[1], &subjects[2], prefer);
    must(merge_needs_basis(&needs, &request));
    assert_false(needs);
    if (merge_adapter(&merge, &request) < 0)
        fail_msg("%s: %s", what, error_message());
    assert_int_equal(merge.conflicts.count, 0);
    assert_files_equal(&merge.files, &subjects[3].files, what);
    for (size_t v = 0; v < 4; v++)
        subject_release(&subjects[v]);
}

static void test_what_one_side_changed_added_or_removed_is_taken(void **state)
{
    (void)state;
    for (uint64_t seed = 0; seed < SEEDS; seed++) {
        struct spec specs[3];
        specs_draw(specs, seed, false);
        specs_try(specs, seed, PREFER_NONE);
    }
}

static void test_who_takes_sides_gets_that_side_where_both_changed(void **state)
{
    (void)state;
    for (uint64_t seed = 0; seed < SEEDS; seed++) {
        struct spec specs[3];
        specs_draw(specs, seed, true);
        specs_try(specs, seed, PREFER_OURS);
        specs_try(specs, seed, PREFER_THEIRS);
    }
}

static void test_equal_versions_are_that_version_byte_for_byte(void **state)
{
    struct spec specs[3];
    AUTO_SUBJECT(base);
    AUTO_SUBJECT(other);

    (void)state;
    specs_draw(specs, 4, true);
    subject_draw(&base, &specs[0]);
    subject_draw(&other, &specs[1]);
    const struct subject *const cases[][4] = {
        {&base, &base, &base, &base},
        {&base, &other, &base, &other},
        {&base, &base, &other, &other},
        {&base, &other, &other, &other},
    };
    for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
        AUTO_ADAPTER_MERGE(merge);
        const struct merge_request request = request_of(
            cases[i][0], cases[i][1], cases[i][2], PREFER_NONE
        );
        must(merge_adapter(&merge, &request));
        assert_files_equal(&merge.files, &cases[i][3]->files, "equal versions");
    }
}

/* What each conflict is called, and that nothing comes out beside it. */
static void test_every_conflict_is_named(void **state)
{
    const struct spec base = {{1, 1, 1, 1}, {1, 1, 1, 1}, 1, 1};
    const struct spec ours = {{ABSENT, 2, 1, 1}, {ABSENT, 2, 1, 2}, 2, 2};
    const struct spec theirs = {{2, 2, 1, 1}, {2, ABSENT, 1, 3}, 3, 3};
    static const char *const names[] = {
        "adapter_config.json: vera_dropout",
        "note.txt",
        "layer0.q",
        "base_model.model.head.ids",
        "base_model.model.head0.weight",
        "base_model.model.head1.weight"};
    AUTO_SUBJECT(of_base);
    AUTO_SUBJECT(of_ours);
    AUTO_SUBJECT(of_theirs);
    AUTO_ADAPTER_MERGE(merge);

    (void)state;
    subject_draw(&of_base, &base);
    subject_draw(&of_ours, &ours);
    subject_draw(&of_theirs, &theirs);
    const struct merge_request request = request_of(&of_base, &of_ours, &of_theirs, PREFER_NONE);
    must(merge_adapter(&merge, &request));
    /* Tensors of a conflict among modules are not looked at. */
    assert_in_range(merge.conflicts.count, 3, sizeof(names) / sizeof(names[0]));
    for (size_t i = 0; i < merge.conflicts.count; i++)
        assert_string_equal(merge.conflicts.items[i].name, names[i]);
    assert_int_equal(merge.files.count, 0);
}

/* Fitted ones */

static void inputs_list(struct merge_inputs out[MODULES])
{
    static const char *const names[] = {"layer0.q", "layer1.q", "layer2.q", "layer3.q"};

    for (size_t i = 0; i < MODULES; i++)
        out[i] = (struct merge_inputs){names[i], IN};
}

static void basis_draw(struct basis *out, float *a, float *b)
{
    random_state = 77;
    for (size_t i = 0; i < RANK * IN; i++)
        a[i] = random_float();
    for (size_t i = 0; i < OUT * RANK; i++)
        b[i] = random_float();
    *out = (struct basis){.a = a, .b = b, .rank = RANK, .in = IN, .out = OUT};
}

static void test_a_module_that_both_changed_is_fitted_and_the_rest_is_taken(void **state)
{
    const struct spec base = {{1, 1, 1, ABSENT}, {1, 1, 1, 1}, 1, 1};
    const struct spec ours = {{2, 2, 1, ABSENT}, {2, 2, 1, 1}, 1, 1};
    const struct spec theirs = {{3, 1, ABSENT, 2}, {5, 1, 3, 1}, 2, 1};
    float a[RANK * IN], b[OUT * RANK], values[3];
    struct merge_inputs inputs[MODULES];
    struct basis basis;
    AUTO_SUBJECT(of_base);
    AUTO_SUBJECT(of_ours);
    AUTO_SUBJECT(of_theirs);
    AUTO_SUBJECT(merged);
    AUTO_ADAPTER_MERGE(merge);
    bool needs = false;

    (void)state;
    subject_draw(&of_base, &base);
    subject_draw(&of_ours, &ours);
    subject_draw(&of_theirs, &theirs);
    basis_draw(&basis, a, b);
    inputs_list(inputs);
    struct merge_request request = request_of(&of_base, &of_ours, &of_theirs, PREFER_NONE);
    must(merge_needs_basis(&needs, &request));
    assert_true(needs);
    request.basis = &basis;
    request.inputs = inputs;
    request.input_count = MODULES;
    must(merge_adapter(&merge, &request));
    assert_int_equal(merge.modules.count, 4);
    assert_true(merge.measured);
    assert_int_equal(merge.modules.modules[0].taken, MERGE_FITTED);
    assert_int_equal(merge.modules.modules[1].taken, MERGE_OURS);
    assert_int_equal(merge.modules.modules[2].taken, MERGE_THEIRS);
    assert_int_equal(merge.modules.modules[3].taken, MERGE_THEIRS);
    assert_string_equal(merge.names[3], "layer3.q");
    merged.files = merge.files;
    merge.files = (struct adapter_files){0};
    subject_take(&merged);
    const struct adapter *adapter = &merged.loaded.adapter;
    assert_int_equal(adapter->module_count, 3);
    assert_string_equal(adapter->modules[2].name, "layer3.q");
    /* ours + theirs - base of whole modules: 2 + 5 - 1 */
    const struct tensor *head = safetensors_find(&adapter->layout, "base_model.model.head0.weight");
    assert_non_null(head);
    memcpy(values, loaded_tensor(&merged.loaded, head).data, sizeof(values));
    for (size_t i = 0; i < 3; i++)
        assert_true(values[i] == 6 + 20.0f / 8 + (float)i / 64 + 1);
}

static void test_a_module_of_unknown_size_is_named(void **state)
{
    const struct spec base = {{1, 1, 1, 1}, {1, 1, 1, 1}, 1, 1};
    const struct spec ours = {{2, 1, 1, 1}, {1, 1, 1, 1}, 1, 1};
    const struct spec theirs = {{3, 1, 1, 1}, {1, 1, 1, 1}, 1, 1};
    float a[RANK * IN], b[OUT * RANK];
    struct merge_inputs inputs[MODULES];
    struct basis basis;
    AUTO_SUBJECT(of_base);
    AUTO_SUBJECT(of_ours);
    AUTO_SUBJECT(of_theirs);
    AUTO_ADAPTER_MERGE(merge);

    (void)state;
    subject_draw(&of_base, &base);
    subject_draw(&of_ours, &ours);
    subject_draw(&of_theirs, &theirs);
    basis_draw(&basis, a, b);
    inputs_list(inputs);
    struct merge_request request = request_of(&of_base, &of_ours, &of_theirs, PREFER_NONE);
    request.basis = &basis;
    request.inputs = inputs;
    request.input_count = MODULES - 1;
    assert_int_equal(merge_adapter(&merge, &request), E_INVALID);
    assert_non_null(strstr(error_message(), "layer3.q"));
}

static void test_different_bases_are_refused_or_one_side_is_taken_whole(void **state)
{
    struct spec specs[3];
    struct subject subjects[3] = {0};

    (void)state;
    specs_draw(specs, 9, true);
    specs[1].modules[0] = 7;
    specs[2].modules[0] = 8;
    specs[1].note = specs[0].note;
    specs[2].note = 9;
    for (size_t v = 0; v < 3; v++)
        subject_draw(&subjects[v], &specs[v]);
    for (int prefer = PREFER_NONE; prefer <= PREFER_THEIRS; prefer++) {
        AUTO_ADAPTER_MERGE(merge);
        struct merge_request request = request_of(
            &subjects[0], &subjects[1], &subjects[2], (enum three_way_prefer)prefer
        );
        request.is_one_basis = false;
        int err = merge_adapter(&merge, &request);
        if (prefer == PREFER_NONE) {
            assert_int_equal(err, E_UNSUPPORTED);
            assert_non_null(strstr(error_hint_text(), "LoRA"));
            continue;
        }
        must(err);
        const struct adapter_files *side = &subjects[prefer == PREFER_OURS ? 1 : 2].files;
        for (size_t i = 0; i < 2; i++) {
            const char *path = i ? PEFT_MODEL : PEFT_CONFIG;
            assert_true(bytes_equal(file_of(&merge.files, path), file_of(side, path)));
        }
        assert_true(bytes_equal(file_of(&merge.files, "note.txt"), text_bytes("note 9")));
    }
    for (size_t v = 0; v < 3; v++)
        subject_release(&subjects[v]);
}

/* Layout */

/* The same tensors in another order and with other metadata. */
static void subject_rewrite(struct subject *out, const struct subject *from, const char *header)
{
    AUTO_BUF(config);
    AUTO_BUF(model);
    struct bytes text = file_of(&from->files, PEFT_CONFIG),
                 data = file_of(&from->files, PEFT_MODEL);
    uint64_t len = strlen(header);

    must(buf_append(&config, text.data, text.len));
    for (unsigned i = 0; i < 8; i++)
        must(buf_append_byte(&model, (uint8_t)(len >> 8 * i)));
    must(buf_append_text(&model, header));
    size_t skip = (size_t)from->loaded.adapter.layout.header_bytes;
    must(buf_append(&model, data.data + skip, data.len - skip));
    adapter_put(&out->files, PEFT_CONFIG, &config);
    adapter_put(&out->files, PEFT_MODEL, &model);
    subject_take(out);
}

static void test_metadata_and_order_are_ours(void **state)
{
    const struct spec base = {
        {1, 2, ABSENT, ABSENT}, {ABSENT, ABSENT, ABSENT, ABSENT}, ABSENT, ABSENT};
    const struct spec more = {{1, 2, 1, ABSENT}, {3, ABSENT, ABSENT, ABSENT}, ABSENT, ABSENT};
    const struct spec other = {
        {3, 2, ABSENT, ABSENT}, {ABSENT, ABSENT, ABSENT, ABSENT}, ABSENT, ABSENT};
    AUTO_SUBJECT(plain);
    AUTO_SUBJECT(changed);
    AUTO_SUBJECT(ours);
    AUTO_SUBJECT(theirs);
    AUTO_ADAPTER_MERGE(merge);
    /* Another order: layer1 first. The two modules' tensors have the same sizes. */
    static const char header[] =
        "{\"__metadata__\":{\"who\":\"\\u0061da\",\"format\":\"pt\"},"
        "\"base_model.model.layer1.q.vera_lambda_b\":{\"dtype\":\"F32\",\"shape\":[5],"
        "\"data_offsets\":[0,20]},\"base_model.model.layer1.q.vera_lambda_d\":{\"dtype\":\"F32\","
        "\"shape\":[3],\"data_offsets\":[20,32]},\"base_model.model.layer0.q.vera_lambda_b\":{"
        "\"dtype\":\"F32\",\"shape\":[5],\"data_offsets\":[32,52]},"
        "\"base_model.model.layer0.q.vera_lambda_d\":{\"dtype\":\"F32\",\"shape\":[3],"
        "\"data_offsets\":[52,64]}}";

    (void)state;
    subject_draw(&plain, &base);
    subject_draw(&theirs, &more);
    subject_draw(&changed, &other);
    subject_rewrite(&ours, &changed, header);
    const struct merge_request request = request_of(&plain, &ours, &theirs, PREFER_OURS);
    must(merge_adapter(&merge, &request));
    struct bytes model = file_of(&merge.files, PEFT_MODEL);
    AUTO_SAFETENSORS(table);
    must(safetensors_decode(&table, model, model.len));
    static const char *const order[] = {"head0.weight",           "layer1.q.vera_lambda_b",
                                        "layer1.q.vera_lambda_d", "layer0.q.vera_lambda_b",
                                        "layer0.q.vera_lambda_d", "layer2.q.vera_lambda_b",
                                        "layer2.q.vera_lambda_d"};
    assert_int_equal(table.count, sizeof(order) / sizeof(order[0]));
    for (size_t i = 0; i < table.count; i++)
        assert_string_equal(table.tensors[i].name + strlen(PEFT_PREFIX), order[i]);
    AUTO_BUF(text);
    must(buf_append(&text, model.data + 8, (size_t)table.header_bytes - 8));
    assert_non_null(strstr(buf_text(&text), "{\"__metadata__\":{\"who\":\"ada\",\"format\":\"pt\"}")
    );
}

/* Real ones */

static struct merge_inputs *actor_inputs(const struct actor *actor)
{
    const struct adapter *adapter = &actor->subject.loaded.adapter;
    struct merge_inputs *inputs = array_new(adapter->module_count, sizeof(*inputs));

    assert_non_null(inputs);
    for (size_t i = 0; i < adapter->module_count; i++)
        inputs[i] = (struct merge_inputs){adapter->modules[i].name, actor->in[i]};
    return inputs;
}

static void actors_try(
    const char *base,
    const char *ours,
    const char *theirs,
    const struct merge_options *options,
    double lost_most
)
{
    AUTO_ACTOR(of_base);
    AUTO_ACTOR(of_ours);
    AUTO_ACTOR(of_theirs);
    AUTO_ADAPTER_MERGE(merge);
    AUTO_ADAPTER_MERGE(exchanged);

    actor_open(&of_base, base);
    actor_open(&of_ours, ours);
    actor_open(&of_theirs, theirs);
    struct merge_inputs *inputs = actor_inputs(&of_base);
    struct merge_request request = request_of(
        &of_base.subject, &of_ours.subject, &of_theirs.subject, PREFER_NONE
    );
    request.options = *options;
    request.basis = &of_base.basis;
    request.inputs = inputs;
    request.input_count = of_base.subject.loaded.adapter.module_count;
    must(merge_adapter(&merge, &request));
    assert_int_equal(merge.conflicts.count, 0);
    if (merge.modules.lost > lost_most)
        fail_msg("%s and %s: %g is lost", ours, theirs, merge.modules.lost);
    const struct merge_version held = request.ours;
    request.ours = request.theirs;
    request.theirs = held;
    must(merge_adapter(&exchanged, &request));
    assert_files_equal(&merge.files, &exchanged.files, ours);
    AUTO_SUBJECT(merged);
    merged.files = merge.files;
    merge.files = (struct adapter_files){0};
    subject_take(&merged);
    free(inputs);
}

static void test_exchanging_the_sides_gives_the_same_files(void **state)
{
    (void)state;
    actors_try("llama/step-060", "llama-c/step-040", "llama-perl/step-040", &task, 0.0655);
    actors_try("llama/step-060", "llama-c/step-040", "llama-perl/step-040", &average, 0.0338);
    actors_try("bert/step-010", "bert/step-030", "bert/step-020", &task, 1);
}

static int merge_drawn(const struct merge_request *request)
{
    AUTO_ADAPTER_MERGE(merge);
    int err = merge_adapter(&merge, request);

    assert_int_equal(merge.files.count, err == 0 ? 3 : 0);
    return err;
}

static void test_memory_that_ends_is_an_error(void **state)
{
    const struct spec base = {{1, 1, 1, ABSENT}, {1, 1, 1, 1}, 1, 1};
    const struct spec ours = {{2, 2, 1, ABSENT}, {2, 2, 1, 1}, 1, 1};
    const struct spec theirs = {{3, 1, ABSENT, 2}, {5, 1, 3, 1}, 2, 1};
    float a[RANK * IN], b[OUT * RANK];
    struct merge_inputs inputs[MODULES];
    struct basis basis;
    AUTO_SUBJECT(of_base);
    AUTO_SUBJECT(of_ours);
    AUTO_SUBJECT(of_theirs);

    (void)state;
    subject_draw(&of_base, &base);
    subject_draw(&of_ours, &ours);
    subject_draw(&of_theirs, &theirs);
    basis_draw(&basis, a, b);
    inputs_list(inputs);
    struct merge_request request = request_of(&of_base, &of_ours, &of_theirs, PREFER_NONE);
    request.options.threads = 1;
    request.basis = &basis;
    request.inputs = inputs;
    request.input_count = MODULES;
    for (int n = 0;; n++) {
        fault_after = n;
        int err = merge_drawn(&request);
        bool is_through = fault_after >= 0;
        fault_after = -1;
        if (is_through) {
            assert_int_equal(err, 0);
            assert_true(n > 20);
            return;
        }
        if (err != E_NOMEM)
            fail_msg("allocation %d: %s", n, err ? error_message() : "no error");
    }
}

int main(void)
{
#define TEST(name) cmocka_unit_test_setup_teardown(name, scratch_make, scratch_remove)
    const struct CMUnitTest tests[] = {
        TEST(test_what_one_side_changed_added_or_removed_is_taken),
        TEST(test_who_takes_sides_gets_that_side_where_both_changed),
        TEST(test_equal_versions_are_that_version_byte_for_byte),
        TEST(test_every_conflict_is_named),
        TEST(test_a_module_that_both_changed_is_fitted_and_the_rest_is_taken),
        TEST(test_a_module_of_unknown_size_is_named),
        TEST(test_different_bases_are_refused_or_one_side_is_taken_whole),
        TEST(test_metadata_and_order_are_ours),
        TEST(test_exchanging_the_sides_gives_the_same_files),
        TEST(test_memory_that_ends_is_an_error),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
