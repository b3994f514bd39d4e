/*
 * Tests of apply/materialize.c on real adapters and bases: the bits of expected/exact.json, the
 * distance from what PEFT wrote, every other byte the base's, and a directory that Transformers
 * reads as what it is.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <math.h>
#include <sys/stat.h>

#include "format/cpu.h"
#include "format/json.h"
#include "tests/adapters.h"

static const char *const exact_adapters[] = {
    "bert/step-040",       "gpt2/step-040",           "llama-c/step-040",
    "llama-half-vectors",  "llama-half-vectors-only", "llama-half/step-030",
    "llama-perl/step-040", "llama-vectors-only",      "llama/step-120",
};
#define EXACT_COUNT (sizeof(exact_adapters) / sizeof(exact_adapters[0]))

static const struct apply_options defaults = {.threads = 1};

/* Apply one adapter with weight 1. */
static int apply_one(
    struct apply_result *result,
    const struct subject *subject,
    const struct model *base,
    const char *target,
    const struct apply_options *options
)
{
    const struct apply_input input = {&subject->loaded, 1};

    return materialize(result, &input, 1, base, target, options);
}

/* expected/exact.json */

static struct buf exact_text;

static int exact_setup(void **state)
{
    (void)state;
    return file_read(&exact_text, FIXTURES "/expected/exact.json", MIB);
}

static int exact_teardown(void **state)
{
    (void)state;
    buf_release(&exact_text);
    return 0;
}

/* Call `check` for each tensor of an adapter; returns how many there are. */
static size_t exact_each(
    const char *adapter,
    void (*check)(void *context, const char *tensor, const struct digest *digest),
    void *context
)
{
    AUTO_JSON(json);
    enum json_event event = JSON_NULL;
    size_t count = 0;

    json_init(&json, buf_bytes(&exact_text));
    assert_int_equal(json_expect(&json, JSON_OBJECT_BEGIN), 0);
    while (json_next(&event, &json) == 0 && event == JSON_KEY) {
        if (!json_text_is(&json, adapter)) {
            assert_int_equal(json_skip_value(&json), 0);
            continue;
        }
        assert_int_equal(json_expect(&json, JSON_OBJECT_BEGIN), 0);
        while (json_next(&event, &json) == 0 && event == JSON_KEY) {
            AUTO_FREE(char, name);
            struct digest digest;
            assert_non_null(name = bytes_dup(json.text));
            assert_int_equal(json_expect(&json, JSON_STRING), 0);
            assert_int_equal(digest_parse(&digest, json.text), 0);
            check(context, name, &digest);
            count++;
        }
    }
    return count;
}

static void check_digest(void *context, const char *tensor, const struct digest *digest)
{
    const struct model *model = context;
    struct model_tensor found;
    struct digest actual;

    assert_true(model_find(&found, model, tensor));
    assert_int_equal(model_digest(&actual, model, &found, NULL), 0);
    if (!digest_equal(&actual, digest))
        fail_msg("%s: other bits", tensor);
}

static void exact_case(const char *name)
{
    AUTO_SUBJECT(subject);
    AUTO_MODEL(base);
    AUTO_MODEL(merged);
    AUTO_APPLY_RESULT(result);

    assert_int_equal(model_open(&base, fixture_base(name)), 0);
    fixture_open(&subject, name, NULL);
    assert_int_equal(apply_one(&result, &subject, &base, "out", &defaults), 0);
    assert_int_equal(model_open(&merged, "out"), 0);
    size_t count = exact_each(name, check_digest, &merged);
    assert_int_equal(result.matched, count);
    assert_int_equal(result.modules, count);
    assert_int_equal(result.tensors_rewritten, count + subject.loaded.adapter.other_count);
    assert_int_equal(result.tensors_added, 0);
    assert_false(result.pinned);
    assert_null(result.report);
    assert_int_equal(tree_remove("out"), 0);
}

static void test_every_targeted_tensor_has_the_exact_bits_on_every_processor(void **state)
{
    static const enum cpu_level levels[] = {CPU_SCALAR, CPU_NEON, CPU_AVX2, CPU_AVX512};

    (void)state;
    for (size_t l = 0; l < 4; l++) {
        cpu_level_set(levels[l]);
        for (size_t i = 0; i < EXACT_COUNT; i++)
            exact_case(exact_adapters[i]);
    }
    cpu_level_set(cpu_level_machine());
}

/* Every byte of every shard that no part of the adapter changes is the base's. */

struct ranges {
    const struct model *model;
    struct buf data[8]; /* of the shards; changed bytes are set to 0 */
};

static void blank_tensor(void *context, const char *tensor, const struct digest *digest)
{
    struct ranges *ranges = context;
    struct model_tensor found;

    (void)digest;
    assert_true(model_find(&found, ranges->model, tensor));
    uint64_t at = tensor_offset(ranges->model, tensor);
    memset(ranges->data[found.shard].data + at, 0, (size_t)tensor_bytes(found.tensor));
}

static void ranges_read(
    struct ranges *out, const struct model *model, const struct subject *subject, const char *name
)
{
    const struct adapter *adapter = &subject->loaded.adapter;

    out->model = model;
    for (size_t i = 0; i < model->shard_count; i++)
        assert_int_equal(file_read(&out->data[i], model->shards[i].path, GIB), 0);
    exact_each(name, blank_tensor, out);
    for (size_t i = 0; i < adapter->other_count; i++) {
        char tensor[256], *part;
        snprintf(tensor, sizeof(tensor), "%s", adapter->others[i]->name + strlen(PEFT_PREFIX));
        if ((part = strstr(tensor, ".base_layer.")))
            memmove(part, part + strlen(".base_layer"), strlen(part) - strlen(".base_layer") + 1);
        blank_tensor(out, tensor, NULL);
    }
}

static void ranges_release(struct ranges *ranges)
{
    for (size_t i = 0; i < 8; i++)
        buf_release(&ranges->data[i]);
}

static void test_all_other_bytes_are_the_bases(void **state)
{
    (void)state;
    for (size_t i = 0; i < EXACT_COUNT; i++) {
        __attribute__((cleanup(ranges_release))) struct ranges before = {0};
        __attribute__((cleanup(ranges_release))) struct ranges after = {0};
        AUTO_SUBJECT(subject);
        AUTO_MODEL(base);
        AUTO_MODEL(merged);
        AUTO_APPLY_RESULT(result);
        uint64_t bytes = 0;
        assert_int_equal(model_open(&base, fixture_base(exact_adapters[i])), 0);
        fixture_open(&subject, exact_adapters[i], NULL);
        assert_int_equal(apply_one(&result, &subject, &base, "out", &defaults), 0);
        assert_int_equal(model_open(&merged, "out"), 0);
        assert_int_equal(merged.shard_count, base.shard_count);
        ranges_read(&before, &base, &subject, exact_adapters[i]);
        ranges_read(&after, &merged, &subject, exact_adapters[i]);
        for (size_t s = 0; s < base.shard_count; s++) {
            assert_string_equal(merged.shards[s].file, base.shards[s].file);
            assert_int_equal(after.data[s].len, before.data[s].len);
            assert_memory_equal(after.data[s].data, before.data[s].data, before.data[s].len);
            bytes += before.data[s].len;
        }
        assert_true(bytes_equal(buf_bytes(&merged.index), buf_bytes(&base.index)));
        assert_true(bytes_equal(buf_bytes(&merged.config), buf_bytes(&base.config)));
        bytes += base.config.len + base.index.len;
        assert_int_equal(result.bytes_written + result.bytes_cloned, bytes);
        assert_int_equal(tree_remove("out"), 0);
    }
}

/* PEFT */

/* One targeted weight, as all sides have it. Row-major [out, in], whatever the file's order. */
struct weights_of {
    const struct plan_target *target;
    const struct basis *basis;
    enum dtype dtype;
    float *base, *ours, *theirs; /* as stored */
};

static size_t stored_at(const struct plan_target *target, size_t i, size_t j)
{
    return (size_t)(target->transposed ? j * target->out + i : i * target->in + j);
}

/* The true value of an element, and S: what the rounding errors are measured by. */
static double element(double *out_s, const struct weights_of *w, size_t i, size_t j)
{
    double base = (double)w->base[stored_at(w->target, i, j)], sum = 0, s = 0;

    for (size_t k = 0; k < w->basis->rank; k++) {
        double product = (double)w->target->b[i] * (double)w->basis->b[i * w->basis->rank + k] *
                         (double)w->target->d[k] * (double)w->basis->a[k * w->basis->in + j];
        sum += product;
        s += fabs(product);
    }
    *out_s = fabs(base) + s;
    return base + sum;
}

/* Float32: element by element, the tensor as a whole, and against the truth. */
static void agree_float32(const struct weights_of *w)
{
    double apart = 0, norm = 0, ours = 0, theirs = 0, s;

    for (size_t i = 0; i < w->target->out; i++) {
        for (size_t j = 0; j < w->target->in; j++) {
            size_t at = stored_at(w->target, i, j);
            double truth = element(&s, w, i, j);
            double a = (double)w->ours[at], b = (double)w->theirs[at];
            if (!(fabs(a - b) <= 8 * 0x1p-24 * s))
                fail_msg("%s [%zu, %zu]: %.9g, PEFT %.9g", w->target->module, i, j, a, b);
            apart += (a - b) * (a - b);
            norm += b * b;
            ours += (a - truth) * (a - truth);
            theirs += (b - truth) * (b - truth);
        }
    }
    assert_true(norm > 0);
    assert_true(sqrt(apart / norm) <= 1e-7);
    assert_true(sqrt(ours) <= 1.2 * sqrt(theirs));
}

/* The distance of two neighbours in the 16-bit type around `value`. */
static double step16(enum dtype dtype, double value)
{
    int exponent = 0, bits = dtype == DTYPE_BF16 ? 8 : 11, least = dtype == DTYPE_BF16 ? -126 : -14;

    frexp(value, &exponent);
    exponent = exponent - 1 < least ? least : exponent - 1;
    return ldexp(1, exponent - bits + 1);
}

/* 16-bit: equal but for one element in a thousand, and those one step apart. */
static void agree_float16(const struct weights_of *w, size_t *differ)
{
    size_t count = (size_t)(w->target->out * w->target->in);

    for (size_t at = 0; at < count; at++) {
        double a = (double)w->ours[at], b = (double)w->theirs[at], base = (double)w->base[at];
        double largest = fmax(fabs(base), fmax(fabs(a), fabs(b)));
        assert_true(fabs(a - b) <= step16(w->dtype, largest));
        *differ += a != b;
    }
}

static float *widened(const struct buf *data, enum dtype dtype)
{
    size_t count = data->len / (dtype_bits(dtype) / 8);
    float *values = array_new(count, sizeof(*values));

    assert_non_null(values);
    dtype_widen(values, data->data, count, dtype);
    return values;
}

/* A model in one file of any name, put where model_open() finds it. */
static void open_merged_by_peft(struct model *out, const char *name)
{
    char path[512];
    AUTO_BUF(data);

    snprintf(path, sizeof(path), FIXTURES "/expected/merged/%s/merged.safetensors", name);
    assert_int_equal(file_read(&data, path, GIB), 0);
    put_bytes("peft/" MODEL_FILE, buf_bytes(&data));
    assert_int_equal(model_open(out, "peft"), 0);
}

static size_t compare_target(
    const struct plan_target *target,
    const struct basis *basis,
    const struct model *base,
    const struct model *ours,
    const struct model *theirs
)
{
    const char *name = target->weight.tensor->name;
    struct weights_of w = {target, basis, target->weight.tensor->dtype, NULL, NULL, NULL};
    AUTO_BUF(base_bytes);
    AUTO_BUF(our_bytes);
    AUTO_BUF(their_bytes);
    AUTO_FREE(float, base_values);
    AUTO_FREE(float, our_values);
    AUTO_FREE(float, their_values);
    size_t differ = 0;

    read_tensor(&base_bytes, base, name);
    read_tensor(&our_bytes, ours, name);
    read_tensor(&their_bytes, theirs, name);
    assert_int_equal(our_bytes.len, their_bytes.len);
    w.base = base_values = widened(&base_bytes, w.dtype);
    w.ours = our_values = widened(&our_bytes, w.dtype);
    w.theirs = their_values = widened(&their_bytes, w.dtype);
    if (w.dtype == DTYPE_F32)
        agree_float32(&w);
    else
        agree_float16(&w, &differ);
    return differ;
}

static bool is_target(const struct plan *plan, const char *name)
{
    for (size_t i = 0; i < plan->target_count; i++) {
        if (strcmp(plan->targets[i].weight.tensor->name, name) == 0)
            return true;
    }
    return false;
}

static void peft_case(const char *adapter, const char *merged)
{
    AUTO_SUBJECT(subject);
    AUTO_MODEL(base);
    AUTO_MODEL(ours);
    AUTO_MODEL(theirs);
    AUTO_APPLY_RESULT(result);
    AUTO_PLAN(plan);
    AUTO_BASIS(basis);
    size_t differ = 0, count = 0;

    assert_int_equal(model_open(&base, fixture_base(adapter)), 0);
    fixture_open(&subject, adapter, NULL);
    assert_int_equal(plan_make(&plan, &subject.loaded, &base), 0);
    assert_int_equal(basis_load(&basis, &subject.loaded, plan.in_max, plan.out_max, plan.dtype), 0);
    assert_int_equal(apply_one(&result, &subject, &base, "out", &defaults), 0);
    assert_int_equal(model_open(&ours, "out"), 0);
    open_merged_by_peft(&theirs, merged);
    for (size_t i = 0; i < plan.target_count; i++) {
        differ += compare_target(&plan.targets[i], &basis, &base, &ours, &theirs);
        count += (size_t)(plan.targets[i].in * plan.targets[i].out);
    }
    assert_true(differ * 1000 <= count);
    assert_int_equal(ours.tensor_count, theirs.tensor_count);
    for (size_t i = 0; i < ours.tensor_count; i++) {
        const char *name = ours.tensors[i].tensor->name;
        AUTO_BUF(a);
        AUTO_BUF(b);
        if (is_target(&plan, name))
            continue;
        read_tensor(&a, &ours, name);
        read_tensor(&b, &theirs, name);
        if (!bytes_equal(buf_bytes(&a), buf_bytes(&b)))
            fail_msg("%s: not PEFT's", name);
    }
    assert_int_equal(tree_remove("out"), 0);
    assert_int_equal(tree_remove("peft"), 0);
}

static void test_the_result_agrees_with_peft(void **state)
{
    static const char *const pairs[][2] = {
        {"bert/step-040", "bert-step-040"},
        {"gpt2/step-040", "gpt2-step-040"},
        {"llama-c/step-040", "llama-c-step-040"},
        {"llama-half/step-030", "llama-half-step-030"},
        {"llama-half-vectors", "llama-half-vectors"},
        {"llama-half-vectors-only", "llama-half-vectors-only"},
        {"llama/step-120", "llama-step-120"},
        {"llama-vectors-only", "llama-vectors-only"},
    };

    (void)state;
    for (size_t i = 0; i < sizeof(pairs) / sizeof(pairs[0]); i++)
        peft_case(pairs[i][0], pairs[i][1]);
}

/* Added tensors */

static void assert_text_file(const char *path, const char *text)
{
    AUTO_BUF(data);

    assert_int_equal(file_read(&data, path, MIB), 0);
    assert_string_equal(buf_text(&data), text);
}

/* The adapter's own bytes of a whole module. */
static void
assert_added(const struct model *merged, const struct subject *subject, const char *name)
{
    char full[256];
    AUTO_BUF(data);

    snprintf(full, sizeof(full), PEFT_PREFIX "%s", name);
    const struct tensor *tensor = safetensors_find(&subject->loaded.adapter.layout, full);
    assert_non_null(tensor);
    read_tensor(&data, merged, name);
    assert_true(bytes_equal(buf_bytes(&data), loaded_tensor(&subject->loaded, tensor)));
}

/* The index names every tensor once, with its file, and the bytes of all of them. */
static void assert_index_is_right(const struct model *merged)
{
    AUTO_JSON(json);
    AUTO_BUF(wanted);
    uint64_t total = 0;

    for (size_t i = 0; i < merged->tensor_count; i++)
        total += tensor_bytes(merged->tensors[i].tensor);
    assert_int_equal(
        buf_printf(
            &wanted, "{\"metadata\":{\"total_size\":%ju},\"weight_map\":{", (uintmax_t)total
        ),
        0
    );
    for (size_t i = 0; i < merged->tensor_count; i++)
        assert_int_equal(
            buf_printf(
                &wanted, "%s\"%s\":\"%s\"", i ? "," : "", merged->tensors[i].tensor->name,
                merged->shards[merged->tensors[i].shard].file
            ),
            0
        );
    assert_int_equal(buf_append_text(&wanted, "}}\n"), 0);
    assert_text_file("out/" MODEL_INDEX, buf_text(&wanted));
}

static void added_case(bool sharded)
{
    AUTO_SUBJECT(subject);
    AUTO_MODEL(base);
    AUTO_MODEL(merged);
    AUTO_MODEL(whole);
    AUTO_APPLY_RESULT(result);
    AUTO_APPLY_RESULT(unused);
    size_t shards = sharded ? 3 : 2;
    char name[64];

    write_bare_bert("bare", sharded);
    assert_int_equal(model_open(&base, "bare"), 0);
    fixture_open(&subject, "bert/step-040", &base);
    assert_int_equal(apply_one(&result, &subject, &base, "out", &defaults), 0);
    assert_int_equal(result.tensors_added, 2);
    assert_int_equal(result.tensors_rewritten, 4);
    assert_int_equal(result.matched, 2);
    assert_true(result.pinned);
    assert_false(dir_has("out", MODEL_FILE));
    assert_int_equal(model_open(&merged, "out"), 0);
    assert_true(merged.sharded);
    assert_int_equal(merged.shard_count, shards);
    for (size_t i = 0; i < shards; i++) {
        snprintf(name, sizeof(name), "model-%05zu-of-%05zu.safetensors", i + 1, shards);
        assert_string_equal(merged.shards[i].file, name);
        if (i + 1 < shards)
            assert_true(
                bytes_equal(buf_bytes(&merged.shards[i].header), buf_bytes(&base.shards[i].header))
            );
    }
    assert_int_equal(merged.tensor_count, base.tensor_count + 2);
    assert_added(&merged, &subject, "classifier.weight");
    assert_added(&merged, &subject, "classifier.bias");
    assert_index_is_right(&merged);
    /* What the model with its head gives, the bare one gives too. */
    assert_int_equal(model_open(&whole, FIXTURES "/base/bert"), 0);
    assert_int_equal(apply_one(&unused, &subject, &whole, "whole", &defaults), 0);
    model_release(&whole);
    assert_int_equal(model_open(&whole, "whole"), 0);
    for (size_t i = 0; i < base.tensor_count; i++) {
        AUTO_BUF(bare_bytes);
        AUTO_BUF(whole_bytes);
        snprintf(name, sizeof(name), "bert.%s", base.tensors[i].tensor->name);
        read_tensor(&bare_bytes, &merged, name + strlen("bert."));
        read_tensor(&whole_bytes, &whole, name);
        assert_true(bytes_equal(buf_bytes(&bare_bytes), buf_bytes(&whole_bytes)));
    }
}

static void test_what_one_file_lacks_becomes_a_second_one(void **state)
{
    (void)state;
    added_case(false);
}

static void test_what_shards_lack_becomes_one_more(void **state)
{
    (void)state;
    added_case(true);
}

static void test_every_adapter_directory_fits_its_base(void **state)
{
    static const char *const names[] = {
        "bert/step-000",
        "gpt2/step-000",
        "llama/step-000",
        "llama-half/step-000",
    };

    (void)state;
    for (size_t i = 0; i < sizeof(names) / sizeof(names[0]); i++) {
        AUTO_SUBJECT(subject);
        AUTO_MODEL(base);
        AUTO_APPLY_RESULT(result);
        const struct apply_options options = {.report = true};
        assert_int_equal(model_open(&base, fixture_base(names[i])), 0);
        fixture_open(&subject, names[i], &base);
        const struct apply_input input = {&subject.loaded, 1};
        assert_int_equal(materialize_check(&result, &input, 1, &base, &options), 0);
        assert_true(result.pinned);
        assert_int_equal(result.matched, result.modules);
        assert_int_equal(result.bytes_written, 0);
        /* b is 0 before the first step: every weight stays. */
        assert_int_equal(result.report_count, result.matched);
        for (size_t m = 0; m < result.report_count; m++) {
            assert_true(result.report[m].unchanged == 1);
            assert_true(isnan(result.report[m].kept));
            assert_true(result.report[m].max_change == 0);
        }
    }
}

/* Several adapters, in order, each with its weight. */
static void test_adapters_add_up_in_their_order(void **state)
{
    AUTO_SUBJECT(first);
    AUTO_SUBJECT(second);
    AUTO_MODEL(base);
    AUTO_MODEL(merged);
    AUTO_APPLY_RESULT(result);
    AUTO_PLAN(plan_first);
    AUTO_PLAN(plan_second);
    AUTO_BASIS(basis);
    AUTO_BUF(before);
    AUTO_BUF(after);
    AUTO_FREE(float, w);

    (void)state;
    assert_int_equal(model_open(&base, FIXTURES "/base/llama"), 0);
    fixture_open(&first, "llama-c/step-040", NULL);
    fixture_open(&second, "llama-perl/step-040", NULL);
    const struct apply_input inputs[] = {{&first.loaded, 0.7f}, {&second.loaded, -1.3f}};
    assert_int_equal(materialize(&result, inputs, 2, &base, "out", &defaults), 0);
    assert_int_equal(result.matched, 28);
    assert_int_equal(result.tensors_rewritten, 14);
    assert_int_equal(model_open(&merged, "out"), 0);
    assert_int_equal(plan_make(&plan_first, &first.loaded, &base), 0);
    assert_int_equal(plan_make(&plan_second, &second.loaded, &base), 0);
    assert_int_equal(basis_load(&basis, &first.loaded, 0, 0, DTYPE_F32), 0);
    for (size_t m = 0; m < plan_first.target_count; m++) {
        const struct plan_target *targets[] = {&plan_first.targets[m], &plan_second.targets[m]};
        assert_string_equal(targets[0]->module, targets[1]->module);
        read_tensor(&before, &base, targets[0]->weight.tensor->name);
        read_tensor(&after, &merged, targets[0]->weight.tensor->name);
        free(w);
        w = widened(&before, DTYPE_F32);
        for (size_t at = 0; at < before.len / sizeof(float); at++) {
            size_t i = at / (size_t)targets[0]->in, j = at % (size_t)targets[0]->in;
            for (size_t s = 0; s < 2; s++) {
                float sum = 0;
                for (size_t k = 0; k < basis.rank; k++)
                    sum = fmaf(
                        basis.b[i * basis.rank + k], targets[s]->d[k] * basis.a[k * basis.in + j],
                        sum
                    );
                w[at] = fmaf(inputs[s].weight * targets[s]->b[i], sum, w[at]);
            }
        }
        assert_memory_equal(after.data, w, after.len);
    }
}

/* A larger module, so that two threads have something to do and blocks more than one. */
#define LARGE_OUT  3000
#define LARGE_IN   1024
#define LARGE_RANK 16

static void write_large(enum dtype dtype)
{
    AUTO_FREE(float, values);
    size_t count = (size_t)LARGE_OUT * LARGE_IN;
    float b[LARGE_OUT], d[LARGE_RANK];

    assert_non_null(values = array_new(count, sizeof(*values)));
    for (size_t i = 0; i < count; i++)
        values[i] = (float)(int32_t)((uint32_t)i * 2654435761u) * 0x1p-36f;
    for (size_t i = 0; i < LARGE_OUT; i++)
        b[i] = (float)(int32_t)((uint32_t)i * 2246822519u) * 0x1p-31f;
    for (size_t i = 0; i < LARGE_RANK; i++)
        d[i] = (float)(i + 1) * 0.125f;
    const struct given base = {"layer.weight", dtype, 2, {LARGE_OUT, LARGE_IN}, values};
    const struct given vectors[] = {
        {PEFT_PREFIX "layer.vera_lambda_b", DTYPE_F32, 1, {LARGE_OUT}, b},
        {PEFT_PREFIX "layer.vera_lambda_d", DTYPE_F32, 1, {LARGE_RANK}, d},
    };
    write_given("large/" MODEL_FILE, &base, 1);
    write_given("adapter/" PEFT_MODEL, vectors, 2);
    put("adapter/" PEFT_CONFIG, "{\"peft_type\": \"VERA\", \"r\": 16, \"projection_prng_key\": 5, "
                                "\"save_projection\": false}");
}

static void test_threads_and_processors_do_not_change_a_bit(void **state)
{
    static const enum dtype dtypes[] = {DTYPE_F32, DTYPE_BF16, DTYPE_F16};
    static const enum cpu_level levels[] = {CPU_SCALAR, CPU_NEON, CPU_AVX2, CPU_AVX512};

    (void)state;
    for (size_t t = 0; t < 3; t++) {
        AUTO_SUBJECT(subject);
        AUTO_MODEL(base);
        AUTO_BUF(wanted);
        write_large(dtypes[t]);
        assert_int_equal(model_open(&base, "large"), 0);
        subject_open(&subject, "adapter", NULL);
        for (unsigned run = 0; run < 8; run++) {
            const struct apply_options options = {.threads = 1 + run % 2};
            AUTO_APPLY_RESULT(result);
            AUTO_BUF(written);
            cpu_level_set(levels[run / 2]);
            assert_int_equal(apply_one(&result, &subject, &base, "out", &options), 0);
            assert_int_equal(file_read(&written, "out/" MODEL_FILE, GIB), 0);
            if (run == 0)
                wanted = buf_take(&written);
            else
                assert_true(bytes_equal(buf_bytes(&written), buf_bytes(&wanted)));
            assert_int_equal(tree_remove("out"), 0);
        }
        cpu_level_set(cpu_level_machine());
    }
}

/* Report */

static void test_the_report_says_what_the_rounding_kept(void **state)
{
    AUTO_SUBJECT(subject);
    AUTO_MODEL(base);
    AUTO_MODEL(merged);
    AUTO_APPLY_RESULT(result);
    AUTO_PLAN(plan);
    AUTO_BASIS(basis);
    const struct apply_options options = {.report = true, .threads = 1};

    (void)state;
    assert_int_equal(model_open(&base, FIXTURES "/base/llama-half"), 0);
    fixture_open(&subject, "llama-half/step-030", NULL);
    assert_int_equal(apply_one(&result, &subject, &base, "out", &options), 0);
    assert_int_equal(model_open(&merged, "out"), 0);
    assert_int_equal(plan_make(&plan, &subject.loaded, &base), 0);
    assert_int_equal(basis_load(&basis, &subject.loaded, 0, 0, DTYPE_BF16), 0);
    assert_int_equal(result.report_count, plan.target_count);
    for (size_t m = 0; m < plan.target_count; m++) {
        const struct plan_target *target = &plan.targets[m];
        const struct apply_report *report = &result.report[m];
        AUTO_BUF(before);
        AUTO_BUF(after);
        AUTO_FREE(float, w);
        AUTO_FREE(float, y);
        double changed = 0, wanted = 0, largest = 0, s;
        size_t same = 0, count = (size_t)(target->in * target->out);
        assert_string_equal(report->module, target->module);
        read_tensor(&before, &base, target->weight.tensor->name);
        read_tensor(&after, &merged, target->weight.tensor->name);
        w = widened(&before, DTYPE_BF16);
        y = widened(&after, DTYPE_BF16);
        struct weights_of all = {target, &basis, DTYPE_BF16, w, y, y};
        for (size_t at = 0; at < count; at++) {
            size_t i = at / (size_t)target->in, j = at % (size_t)target->in;
            double moved = (double)y[at] - (double)w[at];
            double truth = element(&s, &all, i, j) - (double)w[at];
            same += memcmp(before.data + 2 * at, after.data + 2 * at, 2) == 0;
            changed += moved * moved;
            wanted += truth * truth;
            largest = fmax(largest, fabs(moved));
        }
        assert_true(report->unchanged == (double)same / (double)count);
        assert_true(report->unchanged > 0 && report->unchanged < 1);
        assert_true(report->max_change == largest);
        assert_true(fabs(report->kept - sqrt(changed / wanted)) < 1e-5);
        assert_int_equal(report->nonfinite, 0);
    }
}

static void test_weights_that_overflow_are_counted(void **state)
{
    static const float w[] = {60000, 1, 1, 1, 1, -60000, 1, 1}, b[] = {1, 1e9f, 0, 1};
    static const float d[] = {1, 1};
    static const struct given weight = {"layer.weight", DTYPE_F16, 2, {4, 2}, w};
    static const struct given vectors[] = {
        {PEFT_PREFIX "layer.vera_lambda_b", DTYPE_F32, 1, {4}, b},
        {PEFT_PREFIX "layer.vera_lambda_d", DTYPE_F32, 1, {2}, d},
    };
    const struct apply_options options = {.report = true, .threads = 1};
    AUTO_SUBJECT(subject);
    AUTO_MODEL(base);
    AUTO_APPLY_RESULT(result);

    (void)state;
    write_given("base/" MODEL_FILE, &weight, 1);
    write_given("adapter/" PEFT_MODEL, vectors, 2);
    put("adapter/" PEFT_CONFIG, "{\"peft_type\": \"VERA\", \"r\": 2, \"save_projection\": false}");
    assert_int_equal(model_open(&base, "base"), 0);
    subject_open(&subject, "adapter", NULL);
    assert_int_equal(apply_one(&result, &subject, &base, "out", &options), 0);
    assert_int_equal(result.report_count, 1);
    assert_int_equal(result.report[0].nonfinite, 2); /* the second row */
    assert_true(result.report[0].unchanged >= 0.25);
    assert_true(isfinite(result.report[0].kept) && isfinite(result.report[0].max_change));
}

/* Types */

#define HEAD_ROWS 100
#define HEAD_COLS 99

static void write_typed(void)
{
    static float values[HEAD_ROWS * HEAD_COLS];
    static const float ones[4] = {1, 1, 1, 1};
    const struct given base[] = {
        {"head.weight", DTYPE_BF16, 2, {HEAD_ROWS, HEAD_COLS}, values},
        {"layer.weight", DTYPE_F16, 2, {2, 2}, ones},
    };
    const struct given adapter[] = {
        {PEFT_PREFIX "head.weight", DTYPE_F32, 2, {HEAD_ROWS, HEAD_COLS}, values},
        {PEFT_PREFIX "layer.vera_lambda_b", DTYPE_F32, 1, {2}, ones},
        {PEFT_PREFIX "layer.vera_lambda_d", DTYPE_BF16, 1, {2}, ones},
        {PEFT_PREFIX "score.a", DTYPE_BF16, 1, {3}, values},
        {PEFT_PREFIX "score.b", DTYPE_F32, 1, {3}, values},
        {PEFT_PREFIX "score.c", DTYPE_F16, 1, {3}, values},
    };

    write_given("base/" MODEL_FILE, base, 2);
    for (size_t i = 0; i < HEAD_ROWS * HEAD_COLS; i++)
        values[i] = 1 + (float)i * 0x1p-20f;
    write_given("adapter/" PEFT_MODEL, adapter, 6);
    put("adapter/" PEFT_CONFIG, "{\"peft_type\": \"VERA\", \"r\": 2, \"save_projection\": false, "
                                "\"modules_to_save\": [\"head\", \"score\"]}");
}

static void test_replaced_tensors_take_the_bases_type_and_added_ones_keep_theirs(void **state)
{
    static const char *const order[] = {"score.b", "score.a", "score.c"};
    static const enum dtype dtypes[] = {DTYPE_F32, DTYPE_BF16, DTYPE_F16};
    AUTO_SUBJECT(subject);
    AUTO_MODEL(base);
    AUTO_MODEL(merged);
    AUTO_APPLY_RESULT(result);
    AUTO_BUF(head);

    (void)state;
    write_typed();
    assert_int_equal(model_open(&base, "base"), 0);
    subject_open(&subject, "adapter", NULL);
    assert_int_equal(apply_one(&result, &subject, &base, "out", &defaults), 0);
    assert_int_equal(model_open(&merged, "out"), 0);
    read_tensor(&head, &merged, "head.weight");
    assert_int_equal(head.len, 2 * HEAD_ROWS * HEAD_COLS);
    for (size_t i = 0; i < HEAD_ROWS * HEAD_COLS; i++) {
        uint16_t wanted = bf16_from_float(1 + (float)i * 0x1p-20f);
        assert_int_equal(head.data[2 * i] | head.data[2 * i + 1] << 8, wanted);
    }
    /* As the safetensors writer lays them out: by type, then by name. */
    const struct safetensors *added = &merged.shards[1].table;
    assert_int_equal(added->count, 3);
    for (size_t i = 0; i < 3; i++) {
        assert_string_equal(added->tensors[i].name, order[i]);
        assert_int_equal(added->tensors[i].dtype, dtypes[i]);
        assert_added(&merged, &subject, order[i]);
    }
}

int main(void)
{
#define SCRATCH_TEST(name) cmocka_unit_test_setup_teardown(name, scratch_make, scratch_remove)
    const struct CMUnitTest tests[] = {
        SCRATCH_TEST(test_every_targeted_tensor_has_the_exact_bits_on_every_processor),
        SCRATCH_TEST(test_all_other_bytes_are_the_bases),
        SCRATCH_TEST(test_the_result_agrees_with_peft),
        SCRATCH_TEST(test_what_one_file_lacks_becomes_a_second_one),
        SCRATCH_TEST(test_what_shards_lack_becomes_one_more),
        SCRATCH_TEST(test_every_adapter_directory_fits_its_base),
        SCRATCH_TEST(test_adapters_add_up_in_their_order),
        SCRATCH_TEST(test_threads_and_processors_do_not_change_a_bit),
        SCRATCH_TEST(test_the_report_says_what_the_rounding_kept),
        SCRATCH_TEST(test_weights_that_overflow_are_counted),
        SCRATCH_TEST(test_replaced_tensors_take_the_bases_type_and_added_ones_keep_theirs),
    };
    return cmocka_run_group_tests(tests, exact_setup, exact_teardown);
}
