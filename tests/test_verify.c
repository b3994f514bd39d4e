/*
 * Tests of apply/verify.c: what materialize() wrote is exactly that, and whatever is changed in it
 * is named.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "tests/adapters.h"

static const struct apply_options defaults = {.threads = 1};

/* The adapter and its base, and the merged model in "out". */
struct merged {
    struct subject subject;
    struct model base;
    struct apply_input input;
};

static void merged_release(struct merged *merged)
{
    subject_release(&merged->subject);
    model_release(&merged->base);
}

#define AUTO_MERGED(name) __attribute__((cleanup(merged_release))) struct merged name = {0}

static void merged_make(struct merged *out, const char *adapter, const char *base, bool pinned)
{
    AUTO_APPLY_RESULT(result);

    assert_int_equal(model_open(&out->base, base), 0);
    fixture_open(&out->subject, adapter, pinned ? &out->base : NULL);
    out->input = (struct apply_input){&out->subject.loaded, 1};
    assert_int_equal(materialize(&result, &out->input, 1, &out->base, "out", &defaults), 0);
}

/* `wanted` NULL: no difference. */
static void assert_difference(const struct merged *merged, const char *wanted)
{
    AUTO_FREE(char, difference);

    assert_int_equal(
        materialize_verify(&difference, &merged->input, 1, &merged->base, "out", &defaults), 0
    );
    if (wanted)
        assert_string_equal(difference ? difference : "(none)", wanted);
    else
        assert_null(difference);
}

static void test_what_was_written_has_no_difference(void **state)
{
    static const char *const adapters[] = {
        "bert/step-040",       "gpt2/step-040",           "llama-c/step-040",
        "llama-half-vectors",  "llama-half-vectors-only", "llama-half/step-030",
        "llama-perl/step-040", "llama-vectors-only",      "llama/step-120",
    };

    (void)state;
    for (size_t i = 0; i < 2 * sizeof(adapters) / sizeof(adapters[0]); i++) {
        AUTO_MERGED(merged);
        const char *adapter = adapters[i / 2];
        merged_make(&merged, adapter, fixture_base(adapter), i % 2);
        assert_difference(&merged, NULL);
        assert_int_equal(tree_remove("out"), 0);
    }
}

/* Every single change is found, by name, and is none when it is undone. */
static void flip_case(const struct merged *merged, const char *path, uint64_t at, const char *named)
{
    flip_bit(path, at);
    assert_difference(merged, named);
    flip_bit(path, at);
    assert_difference(merged, NULL);
}

static void test_one_bit_of_any_tensor_is_found(void **state)
{
    AUTO_MERGED(merged);
    AUTO_MODEL(written);

    (void)state;
    write_bare_bert("base", false);
    merged_make(&merged, "bert/step-040", "base", true);
    assert_int_equal(model_open(&written, "out"), 0);
    for (size_t i = 0; i < written.tensor_count; i++) {
        const struct model_tensor *tensor = &written.tensors[i];
        const char *name = tensor->tensor->name, *path = written.shards[tensor->shard].path;
        uint64_t at = tensor_offset(&written, name);
        flip_case(&merged, path, at, name);
        flip_case(&merged, path, at + tensor_bytes(tensor->tensor) - 1, name);
    }
}

static void test_the_first_difference_is_the_first_by_name(void **state)
{
    AUTO_MERGED(merged);
    AUTO_MODEL(written);

    (void)state;
    merged_make(&merged, "llama/step-120", FIXTURES "/base/llama", false);
    assert_int_equal(model_open(&written, "out"), 0);
    for (size_t i = written.tensor_count; i-- > 0;) {
        const struct model_tensor *tensor = &written.tensors[i];
        flip_bit(written.shards[tensor->shard].path, tensor_offset(&written, tensor->tensor->name));
        assert_difference(&merged, tensor->tensor->name);
    }
}

static void test_whatever_is_around_the_tensors_counts_too(void **state)
{
    AUTO_MERGED(merged);
    AUTO_BUF(index);

    (void)state;
    copy_dir(FIXTURES "/base/llama", "base");
    put("base/tokenizer.json", "{}");
    put("base/modules.json", "[{\"path\": \"1_Pooling\"}]");
    put("base/1_Pooling/config.json", "{}");
    merged_make(&merged, "llama/step-120", "base", true);
    assert_difference(&merged, NULL);
    /* Files that vera does not write are no difference. */
    put("out/README.md", "mine");
    put("out/notes/x.txt", "mine");
    assert_difference(&merged, NULL);
    flip_case(&merged, "out/config.json", 6, "config.json");
    flip_case(&merged, "out/1_Pooling/config.json", 0, "1_Pooling/config.json");
    put("out/tokenizer.json", "{} ");
    assert_difference(&merged, "tokenizer.json");
    assert_int_equal(unlink("out/tokenizer.json"), 0);
    assert_difference(&merged, "tokenizer.json");
    put("out/tokenizer.json", "{}");
    assert_difference(&merged, NULL);
    /* White space of the index is no tensor, and yet it is another file. */
    assert_int_equal(file_read(&index, "out/" MODEL_INDEX, MIB), 0);
    assert_int_equal(buf_append_byte(&index, '\n'), 0);
    assert_int_equal(file_write("out/" MODEL_INDEX, buf_bytes(&index)), 0);
    assert_difference(&merged, MODEL_INDEX);
}

static void test_an_adapter_beside_the_weights_is_a_difference(void **state)
{
    AUTO_MERGED(merged);

    (void)state;
    merged_make(&merged, "bert/step-040", FIXTURES "/base/bert", false);
    put("out/" PEFT_CONFIG, "{}");
    assert_difference(&merged, PEFT_CONFIG);
}

static void test_missing_and_additional_tensors_are_named(void **state)
{
    AUTO_MERGED(merged);
    AUTO_BUF(file);
    AUTO_SAFETENSORS(table);
    struct tensor tensors[64];
    struct bytes data[64];

    (void)state;
    merged_make(&merged, "bert/step-040", FIXTURES "/base/bert", true);
    assert_int_equal(file_read(&file, "out/" MODEL_FILE, GIB), 0);
    assert_int_equal(safetensors_decode(&table, buf_bytes(&file), file.len), 0);
    size_t count = table.count;
    assert_in_range(count, 2, 62);
    for (size_t i = 0; i < count; i++) {
        tensors[i] = table.tensors[i];
        data[i] = (struct bytes
        ){file.data + table.header_bytes + table.tensors[i].begin,
          (size_t)tensor_bytes(&table.tensors[i])};
    }
    /* The last in the file is gone. */
    write_tensors("out/" MODEL_FILE, tensors, data, count - 1);
    assert_difference(&merged, tensors[count - 1].name);
    /* One more, whose name is behind, between and before all others. */
    static const char *const names[] = {"zzz", "bert.f", "aaa"};
    tensors[count] = tensors[0];
    data[count] = data[0];
    for (size_t i = 0; i < 3; i++) {
        tensors[count].name = names[i];
        write_tensors("out/" MODEL_FILE, tensors, data, count + 1);
        assert_difference(&merged, names[i]);
    }
    /* The same tensors in another order are another file. */
    struct tensor first = tensors[0];
    struct bytes first_data = data[0];
    tensors[0] = tensors[1];
    data[0] = data[1];
    tensors[1] = first;
    data[1] = first_data;
    write_tensors("out/" MODEL_FILE, tensors, data, count);
    assert_difference(&merged, MODEL_FILE);
}

static void test_another_shape_or_type_is_another_tensor(void **state)
{
    AUTO_MERGED(merged);
    AUTO_BUF(file);
    char *place;

    (void)state;
    merged_make(&merged, "bert/step-040", FIXTURES "/base/bert", false);
    assert_int_equal(file_read(&file, "out/" MODEL_FILE, GIB), 0);
    place = strstr(
        (char *)file.data + 8, "\"classifier.weight\":{\"dtype\":\"F32\",\"shape\":[3,32]"
    );
    assert_non_null(place);
    memcpy(strstr(place, "[3,32]"), "[32,3]", 6);
    assert_int_equal(file_write("out/" MODEL_FILE, buf_bytes(&file)), 0);
    assert_difference(&merged, "classifier.weight");
    memcpy(strstr(place, "[32,3]"), "[3,32]", 6);
    memcpy(strstr(place, "F32"), "I32", 3);
    assert_int_equal(file_write("out/" MODEL_FILE, buf_bytes(&file)), 0);
    assert_difference(&merged, "classifier.weight");
}

/* Transformers would read it instead of the shards. */
static void test_one_file_beside_the_shards_is_a_difference(void **state)
{
    AUTO_MERGED(merged);
    AUTO_BUF(data);

    (void)state;
    write_bare_bert("base", false);
    merged_make(&merged, "bert/step-040", "base", false);
    assert_int_equal(file_read(&data, "base/" MODEL_FILE, GIB), 0);
    put_bytes("out/" MODEL_FILE, buf_bytes(&data));
    assert_difference(&merged, "classifier.bias");
}

static void test_what_peft_merged_differs_in_a_tensor(void **state)
{
    AUTO_MERGED(merged);
    AUTO_BUF(data);

    (void)state;
    merged_make(&merged, "bert/step-040", FIXTURES "/base/bert", true);
    assert_int_equal(
        file_read(&data, FIXTURES "/expected/merged/bert-step-040/merged.safetensors", GIB), 0
    );
    put_bytes("out/" MODEL_FILE, buf_bytes(&data));
    assert_difference(&merged, "bert.encoder.layer.1.attention.self.query.weight");
}

static void test_another_adapter_is_a_difference(void **state)
{
    AUTO_MERGED(merged);
    AUTO_SUBJECT(other);

    (void)state;
    merged_make(&merged, "gpt2/step-040", FIXTURES "/base/gpt2", true);
    fixture_open(&other, "gpt2/step-030", NULL);
    merged.input.adapter = &other.loaded;
    assert_difference(&merged, "transformer.h.0.attn.c_attn.weight");
    merged.input = (struct apply_input){&merged.subject.loaded, 0.5f};
    assert_difference(&merged, "transformer.h.0.attn.c_attn.weight");
}

static void test_a_directory_without_a_model_is_an_error(void **state)
{
    AUTO_MERGED(merged);
    AUTO_FREE(char, difference);
    AUTO_BUF(file);

    (void)state;
    merged_make(&merged, "gpt2/step-040", FIXTURES "/base/gpt2", true);
    assert_int_equal(
        materialize_verify(&difference, &merged.input, 1, &merged.base, "nowhere", &defaults),
        E_NOTFOUND
    );
    assert_int_equal(file_read(&file, "out/" MODEL_FILE, GIB), 0);
    put_bytes("out/" MODEL_FILE, (struct bytes){file.data, file.len - 1});
    assert_int_equal(
        materialize_verify(&difference, &merged.input, 1, &merged.base, "out", &defaults), E_CORRUPT
    );
    assert_null(difference);
}

int main(void)
{
#define SCRATCH_TEST(name) cmocka_unit_test_setup_teardown(name, scratch_make, scratch_remove)
    const struct CMUnitTest tests[] = {
        SCRATCH_TEST(test_what_was_written_has_no_difference),
        SCRATCH_TEST(test_one_bit_of_any_tensor_is_found),
        SCRATCH_TEST(test_the_first_difference_is_the_first_by_name),
        SCRATCH_TEST(test_whatever_is_around_the_tensors_counts_too),
        SCRATCH_TEST(test_an_adapter_beside_the_weights_is_a_difference),
        SCRATCH_TEST(test_missing_and_additional_tensors_are_named),
        SCRATCH_TEST(test_another_shape_or_type_is_another_tensor),
        SCRATCH_TEST(test_one_file_beside_the_shards_is_a_difference),
        SCRATCH_TEST(test_what_peft_merged_differs_in_a_tensor),
        SCRATCH_TEST(test_another_adapter_is_a_difference),
        SCRATCH_TEST(test_a_directory_without_a_model_is_an_error),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
