/* Tests of apply/model.c: base models as they are on disk, whole, damaged and hostile. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <sys/resource.h>

#include "apply/model.h"
#include "apply/model_index.h"
#include "format/limits.h"
#include "tests/fault.h"
#include "tests/models.h"

#define SINGLE "m/" MODEL_FILE
#define INDEX  "m/" MODEL_INDEX

static void assert_refused(const char *dir, int code, const char *says, const char *hint)
{
    struct model model = {0};

    int err = model_open(&model, dir);
    if (err != code || !strstr(error_message(), says))
        fail_msg("%s: %d, %s", dir, err, error_message());
    if (hint && (!error_hint_text() || !strstr(error_hint_text(), hint)))
        fail_msg("%s: hint %s", dir, error_hint_text() ? error_hint_text() : "none");
    assert_null(model.dir); /* out is untouched on failure */
    assert_null(model.shards);
}

static void assert_opens(const char *dir, size_t shards, size_t tensors)
{
    AUTO_MODEL(model);

    if (model_open(&model, dir) < 0)
        fail_msg("%s", error_message());
    assert_int_equal(model.shard_count, shards);
    assert_int_equal(model.tensor_count, tensors);
    for (size_t i = 1; i < tensors; i++)
        assert_true(strcmp(model.tensors[i - 1].tensor->name, model.tensors[i].tensor->name) < 0);
}

static void test_real_models_open(void **state)
{
    (void)state;
    assert_opens(FIXTURES "/base/llama", 3, 21);
    assert_opens(FIXTURES "/base/llama-half", 1, 21);
    assert_opens(FIXTURES "/base/gpt2", 1, 28);
    assert_opens(FIXTURES "/base/bert", 1, 41);
}

static void test_tensors_are_found_in_the_shard_that_the_index_names(void **state)
{
    AUTO_MODEL(model);
    struct model_tensor tensor = {0};

    (void)state;
    assert_int_equal(model_open(&model, FIXTURES "/base/llama"), 0);
    assert_true(model.sharded && model.index.len > 0 && model.config.len > 0);
    assert_true(model_find(&tensor, &model, "lm_head.weight"));
    assert_string_equal(model.shards[tensor.shard].file, "model-00003-of-00003.safetensors");
    assert_int_equal(tensor_bytes(tensor.tensor), 256 * 64 * 4);
    assert_false(model_find(&tensor, &model, "lm_head"));
    assert_false(model_find(&tensor, &model, ""));
    assert_false(model_find(&tensor, &model, "zzz"));
}

static void test_one_file_goes_before_an_index(void **state)
{
    AUTO_MODEL(model);

    (void)state;
    weights(SINGLE, "a.weight F32 2x2");
    put(INDEX, "not read");
    assert_int_equal(model_open(&model, "m"), 0);
    assert_false(model.sharded);
    assert_int_equal(model.index.len, 0);
    assert_int_equal(model.config.len, 0);
    assert_int_equal(model.tensor_count, 1);
}

static void test_of_a_shard_those_tensors_count_that_the_index_lists_for_it(void **state)
{
    AUTO_MODEL(model);
    struct model_tensor tensor;

    (void)state;
    weights("m/1.safetensors", "a F32 2, b F32 2");
    weights("m/sub/2.safetensors", "a F32 3, c F32 1");
    put(INDEX, "{\"weight_map\":{\"c\":\"sub/2.safetensors\",\"a\":\"sub/2.safetensors\","
               "\"b\":\"1.safetensors\"},\"metadata\":{\"weight_map\":7}}");
    assert_int_equal(model_open(&model, "m"), 0);
    assert_int_equal(model.tensor_count, 3);
    assert_true(model_find(&tensor, &model, "a"));
    assert_int_equal(tensor.tensor->shape[0], 3);
    assert_string_equal(model.shards[tensor.shard].file, "sub/2.safetensors");
}

static void test_a_snapshot_of_the_hubs_cache_is_a_model(void **state)
{
    (void)state;
    weights("hub/blobs/aaaa", "a F32 2");
    put("hub/snapshots/main/README.md", "");
    assert_int_equal(symlink("../../blobs/aaaa", "hub/snapshots/main/" MODEL_FILE), 0);
    assert_opens("hub/snapshots/main", 1, 1);
    assert_refused("hub", E_NOTFOUND, "neither model.safetensors nor", "hub/snapshots");
    assert_int_equal(unlink("hub/blobs/aaaa"), 0);
    assert_refused("hub/snapshots/main", E_NOTFOUND, MODEL_FILE, NULL);
}

static void test_a_directory_without_weights_is_named_with_what_it_holds(void **state)
{
    static const struct {
        const char *path, *dir;
        int err;
        const char *says, *hint;
    } cases[] = {
        {"1/x", "no", E_NOTFOUND, "no: ", "nothing is downloaded"},
        {"2/config.json", "2", E_NOTFOUND, "2: neither model.safetensors nor", "give the dir"},
        {"3/pytorch_model.bin", "3", E_UNSUPPORTED, "3/pytorch_model.bin: not safetensors",
         "save_pretrained"},
        {"4/consolidated.00.pth", "4", E_UNSUPPORTED, "consolidated.00.pth", "save_pretrained"},
        {"5/q4.gguf", "5", E_UNSUPPORTED, "5/q4.gguf: GGUF", "made from"},
        {"5/q4.gguf", "5/q4.gguf", E_UNSUPPORTED, "5/q4.gguf: GGUF", "made from"},
        {"6/m.bin", "6/m.bin", E_UNSUPPORTED, "6/m.bin: not safetensors", "save_pretrained"},
        {"7/model.safetensors", "7/model.safetensors", E_INVALID, "a file", "the directory"},
        {"8/consolidated.safetensors", "8", E_NOTFOUND, "neither", "consolidated.safetensors"},
        {"11/training_args.bin", "11", E_NOTFOUND, "11: neither", "give the directory of a model"},
        {"12/adapter_config.json", "12", E_NOTFOUND, "12: neither", "this is an adapter"},
        {"9/model.safetensors/x", "9", E_INVALID, "not a regular file", NULL},
        {"10/model.safetensors.index.json/x", "10", E_INVALID, "not a regular file", NULL},
    };

    (void)state;
    for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
        put(cases[i].path, "x");
        assert_refused(cases[i].dir, cases[i].err, cases[i].says, cases[i].hint);
    }
}

static void test_an_index_that_is_none_is_refused(void **state)
{
    static const struct {
        const char *index, *says;
    } cases[] = {
        {"", "index.json: "},
        {"[]", "index.json: "},
        {"{\"weight_map\":", "index.json: "},
        {"{}", "no weight_map that names tensors"},
        {"{\"weight_map\":{}}", "no weight_map that names tensors"},
        {"{\"weight_map\":[]}", "index.json: weight_map: "},
        {"{\"weight_map\":null}", "index.json: weight_map: "},
        {"{\"weight_map\":{\"a\":1}}", "index.json: weight_map: "},
        {"{\"weight_map\":{\"a\":\"w\",\"a\":\"w\"}}", "index.json: weight_map: "},
        {"{\"weight_map\":{\"a\":\"w\"}} x", "index.json: "},
        {"{\"weight_map\":{\"a\":\"w\"},\"weight_map\":{\"b\":\"w\"}}", "index.json: "},
        {"{\"weight_map\":{\"a\":\"../w\"}}", "path '../w'"},
        {"{\"weight_map\":{\"a\":\"s/../../w\"}}", "index.json: weight_map: path '"},
        {"{\"weight_map\":{\"a\":\"/etc/passwd\"}}", "path '/etc/passwd'"},
        {"{\"weight_map\":{\"a\":\"\"}}", "index.json: weight_map: path '"},
        {"{\"weight_map\":{\"a\":\".\"}}", "index.json: weight_map: path '"},
        {"{\"weight_map\":{\"a\":\"w\\u0000\"}}", "holds a NUL"},
        {"{\"weight_map\":{\"a\\u0000\":\"w\"}}", "holds a NUL"},
        {"{\"weight_map\":{\"a\":\"w\\u001b[2J\"}}", "index.json: weight_map: path '"},
    };

    (void)state;
    weights("w", "a F32 2");
    weights("m/w", "a F32 2");
    for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
        put(INDEX, cases[i].index);
        assert_refused("m", E_INVALID, cases[i].says, NULL);
    }
}

/* An index of `tensors` tensors, each in one of `shards` files. */
static int read_index_of(uint64_t tensors, uint64_t shards)
{
    AUTO_INDEX(index);
    AUTO_BUF(text);

    assert_int_equal(buf_append_text(&text, "{\"weight_map\":{"), 0);
    for (uint64_t i = 0; i < tensors; i++)
        assert_int_equal(
            buf_printf(
                &text, "%s\"%ju\":\"%ju\"", i ? "," : "", (uintmax_t)i,
                (uintmax_t)(i * shards / tensors)
            ),
            0
        );
    assert_int_equal(buf_append_text(&text, "}}"), 0);
    int err = index_read(&index, buf_bytes(&text));
    if (err == 0)
        assert_int_equal(index_file_count(&index), shards);
    return err;
}

static void test_an_index_has_limits(void **state)
{
    (void)state;
    assert_int_equal(read_index_of(LIMIT_SHARDS, LIMIT_SHARDS), 0);
    assert_int_equal(read_index_of(LIMIT_SHARDS + 1, LIMIT_SHARDS + 1), E_LIMIT);
    assert_non_null(strstr(error_message(), "weight_map: more than 10000 shards"));
    assert_int_equal(read_index_of(LIMIT_TENSORS, 2), 0);
    assert_int_equal(read_index_of(LIMIT_TENSORS + 1, 2), E_LIMIT);
    assert_non_null(strstr(error_message(), "weight_map: more than 1000000 tensors"));
}

static void test_every_missing_shard_is_listed(void **state)
{
    (void)state;
    weights("m/2", "b F32 2");
    put(INDEX, "{\"weight_map\":{\"a\":\"1\",\"b\":\"2\",\"c\":\"3\"}}");
    assert_refused("m", E_INVALID, "m: model.safetensors.index.json does not fit", "incomplete");
    assert_non_null(strstr(error_message(), "\n  1: no such file\n  3: no such file"));
}

static void test_every_tensor_that_its_shard_lacks_is_listed(void **state)
{
    (void)state;
    weights("m/1", "a F32 2");
    weights("m/2", "b F32 2");
    put(INDEX, "{\"weight_map\":{\"a\":\"2\",\"b\":\"2\",\"c\":\"1\"}}");
    assert_refused("m", E_INVALID, "does not fit the files", NULL);
    assert_non_null(strstr(error_message(), "\n  a: is not in 2\n  c: is not in 1"));
    assert_null(strstr(error_message(), "b: is not"));
}

static void test_thousands_of_offences_make_one_message_of_bounded_length(void **state)
{
    AUTO_BUF(index);

    (void)state;
    weights("m/1", "a F32 2");
    assert_int_equal(buf_append_text(&index, "{\"weight_map\":{\"a\":\"1\""), 0);
    for (int i = 0; i < 5000; i++)
        assert_int_equal(buf_printf(&index, ",\"layers.%d.weight\":\"1\"", i), 0);
    assert_int_equal(buf_append_text(&index, "}}"), 0);
    put_bytes(INDEX, buf_bytes(&index));
    assert_refused("m", E_INVALID, "layers.0.weight: is not in 1", NULL);
    assert_non_null(strstr(error_message(), " more"));
    assert_true(strlen(error_message()) < 70000);
}

static void test_a_shard_that_is_not_whole_is_corrupt_by_name(void **state)
{
    static const struct {
        const char *header;
        uint64_t data_bytes;
        const char *says;
    } cases[] = {
        {"{\"a\":{\"dtype\":\"F32\",\"shape\":[2],\"data_offsets\":[0,8]}}", 7, "m/2: "},
        {"{\"a\":{\"dtype\":\"F32\",\"shape\":[2],\"data_offsets\":[0,8]}}", 9, "m/2: "},
        {"{\"a\":{\"dtype\":\"F32\",\"shape\":[2],\"data_offsets\":[0,8]}", 8, "m/2: "},
        {"{\"a\":{\"dtype\":\"F33\",\"shape\":[2],\"data_offsets\":[0,8]}}", 8, "m/2: "},
        {"{\"a\":{\"dtype\":\"F32\",\"shape\":[2],\"data_offsets\":[0,8]},"
         "\"a\":{\"dtype\":\"F32\",\"shape\":[2],\"data_offsets\":[0,8]}}",
         8, "m/2: "},
    };

    (void)state;
    weights("m/1", "b F32 2");
    put(INDEX, "{\"weight_map\":{\"b\":\"1\",\"a\":\"2\"}}");
    for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
        put_weights("m/2", cases[i].header, cases[i].data_bytes);
        assert_refused("m", E_CORRUPT, cases[i].says, NULL);
    }
    put("m/2", "");
    assert_refused("m", E_CORRUPT, "m/2: ", NULL);
    put("m/2", "\xff\xff\xff\xff\xff\xff\xff\xff{}");
    assert_refused("m", E_LIMIT, "m/2: ", NULL);
    put("m/2", "version https://git-lfs.github.com/spec/v1\noid sha256:00\n");
    assert_refused("m", E_CORRUPT, "m/2: only a pointer", "git lfs pull");
}

static void test_every_truncation_of_a_model_is_refused(void **state)
{
    AUTO_BUF(whole);

    (void)state;
    weights(SINGLE, "a.weight F32 2x2, b BF16 3");
    assert_int_equal(file_read(&whole, SINGLE, 1000), 0);
    for (size_t len = 0; len < whole.len; len++) {
        put_bytes(SINGLE, (struct bytes){whole.data, len});
        assert_refused("m", E_CORRUPT, SINGLE, NULL);
    }
}

/* A file of `bytes` bytes that says its header takes all of them; sparse. */
static void put_huge_header(const char *path, uint64_t bytes)
{
    AUTO_FREE(char, full);
    uint8_t prefix[8];

    for (unsigned i = 0; i < 8; i++)
        prefix[i] = (uint8_t)((bytes - 8) >> 8 * i);
    put_bytes(path, (struct bytes){prefix, 8});
    assert_int_equal(truncate(path, (off_t)bytes), 0);
}

static void test_a_header_above_the_limit_takes_no_memory(void **state)
{
    (void)state;
    put_huge_header(SINGLE, LIMIT_SAFETENSORS_HEADER + 9);
    fault_largest = 0;
    assert_refused("m", E_LIMIT, SINGLE, NULL);
    assert_true(fault_largest < 65536);
}

static void test_an_index_above_the_limit_takes_no_memory(void **state)
{
    (void)state;
    put(INDEX, "{");
    assert_int_equal(truncate(INDEX, LIMIT_INDEX + 1), 0);
    fault_largest = 0;
    assert_refused("m", E_LIMIT, INDEX, NULL);
    assert_true(fault_largest < 65536);
}

static void test_headers_are_limited_all_together(void **state)
{
    AUTO_BUF(index);
    AUTO_BUF(header);

    /* One shard of 24 MB of spaces, under many names. */
    (void)state;
    assert_int_equal(
        buf_append_text(
            &header, "{\"a\":{\"dtype\":\"F32\",\"shape\":[1],\"data_offsets\":[0,4]}}"
        ),
        0
    );
    while (header.len < 24000000)
        assert_int_equal(buf_append_text(&header, "                                "), 0);
    put_weights("m/0", buf_text(&header), 4);
    assert_int_equal(buf_append_text(&index, "{\"weight_map\":{\"a\":\"0\""), 0);
    for (int i = 1; i < 12; i++) {
        char name[32];
        snprintf(name, sizeof(name), "m/%d", i);
        assert_int_equal(link("m/0", name), 0);
        assert_int_equal(buf_printf(&index, ",\"%d\":\"%d\"", i, i), 0);
    }
    assert_int_equal(buf_append_text(&index, "}}"), 0);
    put_bytes(INDEX, buf_bytes(&index));
    assert_refused("m", E_LIMIT, "the headers of all shards are larger", NULL);
}

static void put_shards(int count)
{
    AUTO_BUF(index);

    for (int i = 0; i < count; i++) {
        char path[32], tensor[32];
        snprintf(path, sizeof(path), "m/%04d", i);
        snprintf(tensor, sizeof(tensor), "t%d F32 2", i);
        weights(path, tensor);
        assert_int_equal(
            buf_printf(&index, "%s\"t%d\":\"%04d\"", i ? "," : "{\"weight_map\":{", i, i), 0
        );
    }
    assert_int_equal(buf_append_text(&index, "}}"), 0);
    put_bytes(INDEX, buf_bytes(&index));
}

static void test_more_shards_than_descriptors_are_opened_again_one_by_one(void **state)
{
    struct rlimit limit, low;
    AUTO_MODEL(model);
    size_t closed = 0;

    (void)state;
    put_shards(80);
    assert_int_equal(getrlimit(RLIMIT_NOFILE, &limit), 0);
    low = limit;
    low.rlim_cur = 64;
    assert_int_equal(setrlimit(RLIMIT_NOFILE, &low), 0);
    int err = model_open(&model, "m");
    for (size_t i = 0; i < model.shard_count && err == 0; i++) {
        AUTO_FD(owner);
        int fd = -1;
        uint8_t value = 7;
        closed += model.shards[i].fd < 0;
        err = model_shard_open(&fd, &owner, &model, i);
        assert_int_equal(owner >= 0, model.shards[i].fd < 0);
        if (err == 0)
            err = file_read_at(fd, &value, 1, model.shards[i].table.header_bytes, "shard");
        assert_int_equal(value, 0);
    }
    assert_int_equal(setrlimit(RLIMIT_NOFILE, &limit), 0);
    assert_int_equal(err, 0);
    assert_int_equal(model.shard_count, 80);
    assert_int_equal(closed, 64);
}

static void test_a_shard_that_changed_since_is_refused(void **state)
{
    struct rlimit limit, low;
    AUTO_MODEL(model);
    AUTO_FD(owner);
    int fd = -1;

    (void)state;
    put_shards(20);
    assert_int_equal(getrlimit(RLIMIT_NOFILE, &limit), 0);
    low = limit;
    low.rlim_cur = 64;
    assert_int_equal(setrlimit(RLIMIT_NOFILE, &low), 0);
    assert_int_equal(model_open(&model, "m"), 0);
    assert_int_equal(setrlimit(RLIMIT_NOFILE, &limit), 0);
    assert_int_equal(model.shards[19].fd, -1);
    weights("m/0019", "u19 F32 2"); /* of the same size */
    assert_int_equal(model_shard_open(&fd, &owner, &model, 19), E_CONFLICT);
    assert_non_null(strstr(error_message(), "m/0019: changed while it was read"));
    weights("m/0018", "t18 F32 3");
    assert_int_equal(model_shard_open(&fd, &owner, &model, 18), E_CONFLICT);
    assert_int_equal(unlink("m/0017"), 0);
    assert_int_equal(model_shard_open(&fd, &owner, &model, 17), E_NOTFOUND);
    assert_int_equal(fd, -1);
    assert_int_equal(owner, -1);
}

static void test_the_configuration_says_how_layers_are_stored(void **state)
{
    static const struct {
        const char *config;
        enum model_layers layers;
        bool tied, quantised;
    } cases[] = {
        {"{}", LAYERS_UNKNOWN, true, false},
        {"{\"model_type\":\"llama\",\"tie_word_embeddings\":false}", LAYERS_LINEAR, false, false},
        {"{\"model_type\":\"gpt2\",\"tie_word_embeddings\":true}", LAYERS_CONV1D, true, false},
        {"{\"model_type\":\"openai-gpt\"}", LAYERS_CONV1D, true, false},
        {"{\"model_type\":\"gpt2\",\"auto_map\":{\"AutoModel\":\"x\"}}", LAYERS_UNKNOWN, true,
         false},
        {"{\"model_type\":\"llama\",\"auto_map\":{}}", LAYERS_UNKNOWN, true, false},
        {"{\"model_type\":\"encoder-decoder\",\"decoder\":{\"model_type\":\"gpt2\"}}",
         LAYERS_CONV1D, true, false},
        {"{\"decoder\":{\"model_type\":\"gpt2\"}}", LAYERS_UNKNOWN, true, false},
        {"{\"model_type\":null,\"tie_word_embeddings\":null}", LAYERS_UNKNOWN, true, false},
        {"{\"text_config\":{\"tie_word_embeddings\":false}}", LAYERS_UNKNOWN, false, false},
        {"{\"text_config\":{\"tie_word_embeddings\":false},\"tie_word_embeddings\":true}",
         LAYERS_UNKNOWN, true, false},
        {"{\"list\":[{\"tie_word_embeddings\":true}],\"tie_word_embeddings\":false}",
         LAYERS_UNKNOWN, false, false},
        {"{\"quantization_config\":{\"quant_method\":\"gptq\"}}", LAYERS_UNKNOWN, true, true},
        {"{\"quantization_config\":null}", LAYERS_UNKNOWN, true, false},
    };

    (void)state;
    weights(SINGLE, "model.embed_tokens.weight F32 2x2");
    for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
        AUTO_MODEL(model);
        put("m/config.json", cases[i].config);
        assert_int_equal(model_open(&model, "m"), 0);
        if (model.layers != cases[i].layers || model.tied_embeddings != cases[i].tied ||
            model.quantised != cases[i].quantised)
            fail_msg("%s", cases[i].config);
        assert_true(bytes_equal(buf_bytes(&model.config), text_bytes(cases[i].config)));
    }
}

static void
test_without_a_word_of_it_embeddings_are_tied_where_there_is_no_output_layer(void **state)
{
    static const struct {
        const char *tensors;
        bool tied;
    } cases[] = {
        {"model.embed_tokens.weight F32 2x2", true},
        {"lm_head.weight F32 2x2, model.embed_tokens.weight F32 2x2", false},
        {"language_model.lm_head.weight F32 2x2", false},
        {"my_lm_head.weight F32 2x2", true},
    };

    (void)state;
    for (size_t i = 0; i < 2 * sizeof(cases) / sizeof(cases[0]); i++) {
        AUTO_MODEL(model);
        weights(SINGLE, cases[i / 2].tensors);
        if (i % 2)
            put("m/config.json", "{}");
        assert_int_equal(model_open(&model, "m"), 0);
        assert_int_equal(model.tied_embeddings, cases[i / 2].tied);
        (void)unlink("m/config.json");
    }
}

static void test_a_configuration_that_is_no_json_object_is_refused(void **state)
{
    static const char *const cases[] = {"", "[]", "{", "{}x", "{\"a\":NaN}", "{\"a\":1,\"a\":1}"};

    (void)state;
    weights(SINGLE, "a F32 2");
    for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
        put("m/config.json", cases[i]);
        assert_refused("m", E_INVALID, "m/config.json: ", NULL);
    }
    assert_int_equal(truncate("m/config.json", LIMIT_CONFIG + 1), 0);
    assert_refused("m", E_LIMIT, "m/config.json: ", NULL);
}

struct watch {
    struct progress progress;
    uint64_t done, total, calls;
};

static void watch_update(struct progress *progress, uint64_t done, uint64_t total)
{
    struct watch *watch = (struct watch *)progress;

    assert_true(done >= watch->done);
    watch->done = done;
    watch->total = total;
    watch->calls++;
}

static void test_a_digest_is_that_of_the_tensors_bytes(void **state)
{
    AUTO_MODEL(model);
    AUTO_BUF(data);
    struct watch watch = {.progress = {watch_update}};
    struct model_tensor tensor = {0};
    struct digest digest, expected;

    (void)state;
    weights(SINGLE, "z F32 3, a BF16 1200x1000, none F32 0");
    assert_int_equal(model_open(&model, "m"), 0);
    assert_int_equal(file_read(&data, SINGLE, 8 * MIB), 0);
    assert_true(model_find(&tensor, &model, "a"));
    assert_int_equal(model_digest(&digest, &model, &tensor, &watch.progress), 0);
    assert_int_equal(watch.done, 2400000);
    assert_int_equal(watch.total, 2400000);
    assert_true(watch.calls > 1);
    assert_int_equal(
        digest_of(&expected, (struct bytes){data.data + data.len - 2400000, 2400000}), 0
    );
    assert_true(digest_equal(&digest, &expected));
    assert_true(model_find(&tensor, &model, "none"));
    assert_int_equal(model_digest(&digest, &model, &tensor, NULL), 0);
    assert_int_equal(digest_of(&expected, (struct bytes){NULL, 0}), 0);
    assert_true(digest_equal(&digest, &expected));
}

static void test_an_interrupt_ends_reading(void **state)
{
    AUTO_MODEL(model);
    struct model_tensor tensor = {0};
    struct digest digest;

    (void)state;
    weights(SINGLE, "a F32 4");
    assert_int_equal(model_open(&model, "m"), 0);
    assert_true(model_find(&tensor, &model, "a"));
    interrupt_flag = 1;
    assert_int_equal(model_digest(&digest, &model, &tensor, NULL), E_INTERRUPTED);
    assert_refused("m", E_INTERRUPTED, "interrupted", NULL);
}

static void assert_every_failed_allocation_is_nomem(const char *dir)
{
    for (int n = 0;; n++) {
        struct model model = {0};
        fault_after = n;
        int err = model_open(&model, dir);
        bool ran_through = fault_after >= 0;
        fault_after = -1;
        if (err == 0) {
            model_release(&model);
            assert_true(ran_through && n > 5);
            return;
        }
        assert_int_equal(err, E_NOMEM);
        assert_null(model.dir);
    }
}

static void test_every_failed_allocation_is_nomem_and_leaves_nothing(void **state)
{
    (void)state;
    assert_every_failed_allocation_is_nomem(FIXTURES "/base/llama");
    assert_every_failed_allocation_is_nomem(FIXTURES "/base/gpt2");
}

#define TEST(name) cmocka_unit_test_setup_teardown(name, scratch_make, scratch_remove)

int main(void)
{
    const struct CMUnitTest tests[] = {
        TEST(test_real_models_open),
        TEST(test_tensors_are_found_in_the_shard_that_the_index_names),
        TEST(test_one_file_goes_before_an_index),
        TEST(test_of_a_shard_those_tensors_count_that_the_index_lists_for_it),
        TEST(test_a_snapshot_of_the_hubs_cache_is_a_model),
        TEST(test_a_directory_without_weights_is_named_with_what_it_holds),
        TEST(test_an_index_that_is_none_is_refused),
        TEST(test_an_index_has_limits),
        TEST(test_every_missing_shard_is_listed),
        TEST(test_every_tensor_that_its_shard_lacks_is_listed),
        TEST(test_thousands_of_offences_make_one_message_of_bounded_length),
        TEST(test_a_shard_that_is_not_whole_is_corrupt_by_name),
        TEST(test_every_truncation_of_a_model_is_refused),
        TEST(test_a_header_above_the_limit_takes_no_memory),
        TEST(test_an_index_above_the_limit_takes_no_memory),
        TEST(test_headers_are_limited_all_together),
        TEST(test_more_shards_than_descriptors_are_opened_again_one_by_one),
        TEST(test_a_shard_that_changed_since_is_refused),
        TEST(test_the_configuration_says_how_layers_are_stored),
        TEST(test_without_a_word_of_it_embeddings_are_tied_where_there_is_no_output_layer),
        TEST(test_a_configuration_that_is_no_json_object_is_refused),
        TEST(test_a_digest_is_that_of_the_tensors_bytes),
        TEST(test_an_interrupt_ends_reading),
        TEST(test_every_failed_allocation_is_nomem_and_leaves_nothing),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
