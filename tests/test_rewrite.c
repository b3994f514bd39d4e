/*
 * Tests of apply/rewrite.c and apply/stream.c: adapters that cannot be applied, or not together,
 * and base models that are not the one that was recorded, are refused by name before anything
 * counts.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <float.h>
#include <math.h>

#include "tests/adapters.h"

static const struct apply_options defaults = {.threads = 1};

static void assert_message_has(const char *part)
{
    if (!strstr(error_message(), part))
        fail_msg("'%s' is not in: %s", part, error_message());
}

/* Writing, checking and verifying refuse alike, and nothing is left. */
static void
assert_refused(const struct apply_input *inputs, size_t count, const struct model *base, int code)
{
    AUTO_APPLY_RESULT(result);
    AUTO_FREE(char, difference);

    assert_int_equal(
        materialize_verify(&difference, inputs, count, base, base->dir, &defaults), code
    );
    assert_null(difference);
    assert_int_equal(materialize_check(&result, inputs, count, base, &defaults), code);
    assert_int_equal(materialize(&result, inputs, count, base, "out", &defaults), code);
    assert_int_equal(access("out", F_OK), -1);
}

/* Conflicts */

static void test_two_adapters_cannot_bring_the_same_tensor(void **state)
{
    AUTO_SUBJECT(first);
    AUTO_SUBJECT(second);
    AUTO_MODEL(whole);
    AUTO_MODEL(bare);

    (void)state;
    fixture_open(&first, "bert/step-030", NULL);
    fixture_open(&second, "bert/step-040", NULL);
    const struct apply_input inputs[] = {{&first.loaded, 1}, {&second.loaded, 1}};
    assert_int_equal(model_open(&whole, FIXTURES "/base/bert"), 0);
    assert_refused(inputs, 2, &whole, E_INVALID);
    assert_message_has("adapters 1 and 2 both change classifier.weight");
    assert_message_has("adapters 1 and 2 both change classifier.bias");
    assert_message_has("adapters 1 and 2 both change bert.encoder.layer.1.attention.self.query.bias"
    );
    assert_null(strstr(error_message(), "query.weight"));
    assert_non_null(error_hint_text());
    /* Likewise where the base has none of that name, so that it would be added twice. */
    write_bare_bert("bare", false);
    assert_int_equal(model_open(&bare, "bare"), 0);
    assert_refused(inputs, 2, &bare, E_INVALID);
    assert_message_has("encoder.layer.1.attention.self.query.bias");
}

static void test_what_is_replaced_is_never_weighted(void **state)
{
    AUTO_SUBJECT(subject);
    AUTO_SUBJECT(vectors_only);
    AUTO_MODEL(bert);
    AUTO_MODEL(llama);
    AUTO_APPLY_RESULT(result);

    (void)state;
    fixture_open(&subject, "bert/step-040", NULL);
    fixture_open(&vectors_only, "llama/step-040", NULL);
    const struct apply_input weighted = {&subject.loaded, 0.5f};
    const struct apply_input fine = {&vectors_only.loaded, 0.5f};
    assert_int_equal(model_open(&bert, FIXTURES "/base/bert"), 0);
    assert_int_equal(model_open(&llama, FIXTURES "/base/llama"), 0);
    assert_refused(&weighted, 1, &bert, E_INVALID);
    assert_message_has("adapter 1 has the weight 0.5 and brings classifier.weight");
    assert_message_has("bert.encoder.layer.1.attention.self.value.bias");
    assert_int_equal(materialize_check(&result, &fine, 1, &llama, &defaults), 0);
}

static void test_two_adapters_cannot_add_the_same_tensor(void **state)
{
    static const float ones[] = {1, 1, 1, 1};
    static const struct given base_weight = {"layer.weight", DTYPE_F32, 2, {2, 2}, ones};
    static const struct given tensors[] = {
        {PEFT_PREFIX "layer.vera_lambda_b", DTYPE_F32, 1, {2}, ones},
        {PEFT_PREFIX "layer.vera_lambda_d", DTYPE_F32, 1, {2}, ones},
        {PEFT_PREFIX "score.bias", DTYPE_F32, 1, {2}, ones},
        {PEFT_PREFIX "score.weight", DTYPE_F32, 2, {2, 2}, ones},
    };
    AUTO_SUBJECT(both);
    AUTO_SUBJECT(one);
    AUTO_MODEL(base);

    (void)state;
    write_given("base/" MODEL_FILE, &base_weight, 1);
    write_given("both/" PEFT_MODEL, tensors, 4);
    write_given("one/" PEFT_MODEL, tensors, 3);
    for (size_t i = 0; i < 2; i++)
        put(i ? "both/" PEFT_CONFIG : "one/" PEFT_CONFIG,
            "{\"peft_type\": \"VERA\", \"r\": 2, \"save_projection\": false, "
            "\"modules_to_save\": [\"score\"]}");
    assert_int_equal(model_open(&base, "base"), 0);
    subject_open(&both, "both", NULL);
    subject_open(&one, "one", NULL);
    const struct apply_input inputs[] = {{&both.loaded, 1}, {&one.loaded, 1}};
    assert_refused(inputs, 2, &base, E_INVALID);
    assert_message_has("two adapters bring score.bias");
    assert_null(strstr(error_message(), "score.weight"));
}

static void test_weights_are_finite_and_leave_the_vectors_finite(void **state)
{
    static const float b[] = {2, 1}, ones[] = {1, 1, 1, 1};
    static const struct given base_weight = {"layer.weight", DTYPE_F32, 2, {2, 2}, ones};
    static const struct given vectors[] = {
        {PEFT_PREFIX "layer.vera_lambda_b", DTYPE_F32, 1, {2}, b},
        {PEFT_PREFIX "layer.vera_lambda_d", DTYPE_F32, 1, {2}, ones},
    };
    AUTO_SUBJECT(subject);
    AUTO_MODEL(base);
    AUTO_APPLY_RESULT(result);

    (void)state;
    write_given("base/" MODEL_FILE, &base_weight, 1);
    write_given("adapter/" PEFT_MODEL, vectors, 2);
    put("adapter/" PEFT_CONFIG, "{\"peft_type\": \"VERA\", \"r\": 2, \"save_projection\": false}");
    assert_int_equal(model_open(&base, "base"), 0);
    subject_open(&subject, "adapter", NULL);
    assert_refused(NULL, 0, &base, E_INVALID);
    const struct apply_input none[] = {{&subject.loaded, 1}, {&subject.loaded, NAN}};
    assert_refused(none, 2, &base, E_INVALID);
    assert_message_has("adapter 2: its weight is not finite");
    const struct apply_input too_large = {&subject.loaded, FLT_MAX};
    assert_refused(&too_large, 1, &base, E_INVALID);
    assert_message_has("layer");
    const struct apply_input large = {&subject.loaded, FLT_MAX / 2};
    assert_int_equal(materialize_check(&result, &large, 1, &base, &defaults), 0);
}

/* The same adapter with other values in one tensor, in directory "changed". */
static void write_changed(const char *name, const char *tensor, size_t at, float value)
{
    char dir[512];
    AUTO_BUF(model);
    AUTO_SAFETENSORS(table);

    snprintf(dir, sizeof(dir), FIXTURES "/adapter/%s", name);
    copy_dir(dir, "changed");
    assert_int_equal(file_read(&model, "changed/" PEFT_MODEL, GIB), 0);
    assert_int_equal(safetensors_decode(&table, buf_bytes(&model), model.len), 0);
    const struct tensor *found = safetensors_find(&table, tensor);
    assert_non_null(found);
    assert_int_equal(found->dtype, DTYPE_F32);
    memcpy(
        model.data + table.header_bytes + found->begin + at * sizeof(value), &value, sizeof(value)
    );
    assert_int_equal(file_write("changed/" PEFT_MODEL, buf_bytes(&model)), 0);
}

static void test_values_that_are_not_finite_are_named(void **state)
{
    static const struct {
        const char *tensor, *named;
        size_t at;
        float value;
    } cases[] = {
        {"base_model.vera_A", "A holds a value that is not finite (row 2, column 5)", 2 * 176 + 5,
         INFINITY},
        {"base_model.vera_B", "B holds a value that is not finite (row 3, column 1)", 3 * 32 + 1,
         NAN},
        {PEFT_PREFIX "model.layers.1.mlp.up_proj.vera_lambda_b", "model.layers.1.mlp.up_proj", 7,
         -INFINITY},
        {PEFT_PREFIX "model.layers.0.self_attn.q_proj.vera_lambda_d",
         "model.layers.0.self_attn.q_proj", 31, NAN},
    };
    AUTO_MODEL(base);

    (void)state;
    assert_int_equal(model_open(&base, FIXTURES "/base/llama"), 0);
    for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
        AUTO_SUBJECT(subject);
        write_changed("llama/step-040", cases[i].tensor, cases[i].at, cases[i].value);
        subject_open(&subject, "changed", NULL);
        const struct apply_input input = {&subject.loaded, 1};
        assert_refused(&input, 1, &base, E_INVALID);
        assert_message_has(cases[i].named);
        assert_int_equal(tree_remove("changed"), 0);
    }
}

/* A stored basis is applied as it is, and it is another one than the proved. */
static void test_a_stored_basis_is_applied_as_it_is(void **state)
{
    AUTO_SUBJECT(proved);
    AUTO_SUBJECT(stored);
    AUTO_MODEL(base);
    AUTO_APPLY_RESULT(result);
    AUTO_APPLY_RESULT(changed);
    AUTO_BUF(left);
    AUTO_BUF(right);

    (void)state;
    assert_int_equal(model_open(&base, FIXTURES "/base/bert"), 0);
    fixture_open(&proved, "bert/step-040", NULL);
    write_changed("bert/step-040", "base_model.vera_A", 0, 1);
    subject_open(&stored, "changed", NULL);
    assert_int_equal(stored.loaded.recipe.state, BASIS_STORED);
    const struct apply_input first = {&proved.loaded, 1}, second = {&stored.loaded, 1};
    assert_int_equal(materialize(&result, &first, 1, &base, "proved", &defaults), 0);
    assert_int_equal(materialize(&changed, &second, 1, &base, "stored", &defaults), 0);
    assert_int_equal(file_read(&left, "proved/" MODEL_FILE, GIB), 0);
    assert_int_equal(file_read(&right, "stored/" MODEL_FILE, GIB), 0);
    assert_false(bytes_equal(buf_bytes(&left), buf_bytes(&right)));
}

static void read_merged(
    struct buf *out, const struct apply_input *inputs, size_t count, const struct model *base
)
{
    AUTO_APPLY_RESULT(result);

    assert_int_equal(materialize(&result, inputs, count, base, "out", &defaults), 0);
    assert_int_equal(file_read(out, "out/" MODEL_FILE, GIB), 0);
    assert_int_equal(tree_remove("out"), 0);
}

/* b of the first is 0, so the two give what the second gives, on its own basis. */
static void
assert_own_basis(const struct subject *zero, const struct subject *other, const struct model *base)
{
    const struct apply_input inputs[] = {{&zero->loaded, 1}, {&other->loaded, 1}};
    AUTO_BUF(alone);
    AUTO_BUF(together);

    read_merged(&alone, inputs + 1, 1, base);
    read_merged(&together, inputs, 2, base);
    assert_true(bytes_equal(buf_bytes(&alone), buf_bytes(&together)));
}

static void test_each_adapter_has_its_own_basis(void **state)
{
    static const float ones[] = {1, 1, 1, 1}, zeros[] = {0, 0};
    static const struct given base_weight = {"layer.weight", DTYPE_F32, 2, {2, 2}, ones};
    struct given tensors[] = {
        {PEFT_PREFIX "layer.vera_lambda_b", DTYPE_F32, 1, {2}, ones},
        {PEFT_PREFIX "layer.vera_lambda_d", DTYPE_F32, 1, {2}, ones},
        {"base_model.vera_A", DTYPE_F32, 2, {2, 2}, ones},
        {"base_model.vera_B", DTYPE_F32, 2, {2, 2}, ones},
    };
    AUTO_MODEL(base);

    (void)state;
    write_given("base/" MODEL_FILE, &base_weight, 1);
    assert_int_equal(model_open(&base, "base"), 0);
    for (size_t stored = 0; stored < 2; stored++) {
        AUTO_SUBJECT(zero);
        AUTO_SUBJECT(other);
        float matrix[] = {1, 2, 3, 4};
        tensors[0].values = ones;
        tensors[2].values = ones;
        write_given("other/" PEFT_MODEL, tensors, stored ? 4 : 2);
        tensors[0].values = zeros;
        tensors[2].values = matrix;
        write_given("zero/" PEFT_MODEL, tensors, stored ? 4 : 2);
        put("other/" PEFT_CONFIG, stored ? "{\"peft_type\": \"VERA\", \"r\": 2}"
                                         : "{\"peft_type\": \"VERA\", \"r\": 2, "
                                           "\"save_projection\": false}");
        put("zero/" PEFT_CONFIG, stored ? "{\"peft_type\": \"VERA\", \"r\": 2}"
                                        : "{\"peft_type\": \"VERA\", \"r\": 2, "
                                          "\"projection_prng_key\": 7, "
                                          "\"save_projection\": false}");
        subject_open(&zero, "zero", NULL);
        subject_open(&other, "other", NULL);
        assert_int_equal(zero.loaded.recipe.state, stored ? BASIS_STORED : BASIS_DECLARED);
        assert_own_basis(&zero, &other, &base);
        assert_own_basis(&zero, &zero, &base);
    }
}

/* Pins */

static void flip_in(const char *dir, const char *tensor)
{
    AUTO_MODEL(model);
    struct model_tensor found;

    assert_int_equal(model_open(&model, dir), 0);
    assert_true(model_find(&found, &model, tensor));
    flip_bit(model.shards[found.shard].path, tensor_offset(&model, tensor));
}

static void test_another_base_is_named_module_by_module(void **state)
{
    static const char *const changed[] = {
        "model.layers.0.mlp.up_proj", "model.layers.1.self_attn.v_proj", NULL};
    AUTO_MODEL(original);
    AUTO_SUBJECT(subject);

    (void)state;
    assert_int_equal(model_open(&original, FIXTURES "/base/llama"), 0);
    fixture_open(&subject, "llama/step-120", &original);
    copy_dir(FIXTURES "/base/llama", "base");
    const struct apply_input input = {&subject.loaded, 1};
    for (size_t i = 0; changed[i]; i++) {
        AUTO_MODEL(base);
        char tensor[64], count[64];
        snprintf(tensor, sizeof(tensor), "%s.weight", changed[i]);
        flip_in("base", tensor);
        assert_int_equal(model_open(&base, "base"), 0);
        assert_refused(&input, 1, &base, E_CONFLICT);
        snprintf(count, sizeof(count), "%zu of 14 modules differ", i + 1);
        assert_message_has(count);
        for (size_t j = 0; j <= i; j++)
            assert_message_has(changed[j]);
        assert_null(strstr(error_message(), "down_proj"));
        assert_non_null(strstr(error_hint_text(), "tiny/llama"));
    }
}

static void test_a_base_that_differs_elsewhere_is_the_pinned_one(void **state)
{
    AUTO_MODEL(original);
    AUTO_MODEL(base);
    AUTO_SUBJECT(subject);
    AUTO_APPLY_RESULT(result);

    (void)state;
    assert_int_equal(model_open(&original, FIXTURES "/base/llama"), 0);
    fixture_open(&subject, "llama/step-120", &original);
    copy_dir(FIXTURES "/base/llama", "base");
    flip_in("base", "model.embed_tokens.weight");
    assert_int_equal(model_open(&base, "base"), 0);
    const struct apply_input input = {&subject.loaded, 1};
    assert_int_equal(materialize(&result, &input, 1, &base, "out", &defaults), 0);
    assert_true(result.pinned);
}

static void test_one_pinned_adapter_of_two_is_checked_too(void **state)
{
    AUTO_MODEL(original);
    AUTO_MODEL(base);
    AUTO_SUBJECT(pinned);
    AUTO_SUBJECT(unpinned);
    AUTO_APPLY_RESULT(result);

    (void)state;
    assert_int_equal(model_open(&original, FIXTURES "/base/llama"), 0);
    fixture_open(&pinned, "llama-c/step-040", &original);
    fixture_open(&unpinned, "llama-perl/step-040", NULL);
    copy_dir(FIXTURES "/base/llama", "base");
    assert_int_equal(model_open(&base, "base"), 0);
    const struct apply_input inputs[] = {{&unpinned.loaded, 0.5f}, {&pinned.loaded, 0.5f}};
    assert_int_equal(materialize_check(&result, inputs, 2, &base, &defaults), 0);
    assert_false(result.pinned);
    model_release(&base);
    flip_in("base", "model.layers.1.self_attn.v_proj.weight");
    assert_int_equal(model_open(&base, "base"), 0);
    assert_refused(inputs, 2, &base, E_CONFLICT);
    assert_message_has("1 of 14 modules differ");
}

int main(void)
{
#define SCRATCH_TEST(name) cmocka_unit_test_setup_teardown(name, scratch_make, scratch_remove)
    const struct CMUnitTest tests[] = {
        SCRATCH_TEST(test_two_adapters_cannot_bring_the_same_tensor),
        SCRATCH_TEST(test_two_adapters_cannot_add_the_same_tensor),
        SCRATCH_TEST(test_what_is_replaced_is_never_weighted),
        SCRATCH_TEST(test_weights_are_finite_and_leave_the_vectors_finite),
        SCRATCH_TEST(test_values_that_are_not_finite_are_named),
        SCRATCH_TEST(test_a_stored_basis_is_applied_as_it_is),
        SCRATCH_TEST(test_each_adapter_has_its_own_basis),
        SCRATCH_TEST(test_another_base_is_named_module_by_module),
        SCRATCH_TEST(test_a_base_that_differs_elsewhere_is_the_pinned_one),
        SCRATCH_TEST(test_one_pinned_adapter_of_two_is_checked_too),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
