/* Tests of apply/model_files.c: which files a merged model takes over from its base. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <sys/stat.h>

#include "apply/model_files.h"
#include "tests/models.h"

/* All paths that are found, in their order, one line each. */
static void assert_found(const char *wanted)
{
    AUTO_MODEL_FILES(files);
    AUTO_BUF(lines);

    assert_int_equal(model_files_find(&files, "m"), 0);
    for (size_t i = 0; i < files.count; i++)
        assert_int_equal(buf_printf(&lines, "%s\n", files.paths[i]), 0);
    assert_int_equal(buf_append_text(&lines, ""), 0);
    assert_string_equal(lines.len ? buf_text(&lines) : "", wanted);
}

static void test_what_the_model_needs_is_taken_and_nothing_else(void **state)
{
    static const struct {
        const char *name;
        bool taken;
    } cases[] = {
        {"LICENSE", true},
        {"LICENSE.txt", true},
        {"NOTICE", true},
        {"added_tokens.json", true},
        {"bpe.codes", true},
        {"chat_template.jinja", true},
        {"config.json", true},
        {"configuration_custom.py", true},
        {"generation_config.json", true},
        {"merges.txt", true},
        {"model.tiktoken", true},
        {"preprocessor_config.json", true},
        {"sentencepiece.bpe.model", true},
        {"source.spm", true},
        {"special_tokens_map.json", true},
        {"tokenizer.json", true},
        {"tokenizer.model", true},
        {"tokenizer.model.v3", true},
        {"tokenizer_config.json", true},
        {"vocab.bpe", true},
        {"vocab.txt", true},
        {".gitattributes", false},
        {".hidden.json", false},
        {"README.md", false},
        {"adapter_config.json", false},
        {"consolidated.00.pth", false},
        {"flax_model.msgpack", false},
        {"model-q4.gguf", false},
        {"model.ckpt", false},
        {"model.onnx", false},
        {"model.safetensors", false},
        {"model.safetensors.index.json", false},
        {"optimizer.pt", false},
        {"other.safetensors", false},
        {"pytorch_model.bin", false},
        {"pytorch_model.bin.index.json", false},
        {"rng_state.pth", false},
        {"scheduler.pt", false},
        {"tf_model.h5", false},
        {"trainer_state.json", false},
        {"training_args.bin", false},
        {"onnx/config.json", false},
        {"checkpoint-500/config.json", false},
    };
    AUTO_BUF(wanted);

    (void)state;
    for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
        char path[64];
        snprintf(path, sizeof(path), "m/%s", cases[i].name);
        put(path, "x");
        if (cases[i].taken)
            assert_int_equal(buf_printf(&wanted, "%s\n", cases[i].name), 0);
    }
    assert_int_equal(dir_make("m/folder.json"), 0);
    assert_int_equal(mkfifo("m/fifo.json", 0666), 0);
    assert_int_equal(symlink("nowhere", "m/dangling.json"), 0);
    assert_found(buf_text(&wanted));
}

static void test_the_folders_of_sentence_transformers_come_whole(void **state)
{
    (void)state;
    put("m/modules.json",
        "[{\"idx\": 0, \"path\": \"\", \"type\": \"T\"}, {\"idx\": 1, \"path\": \"1_Pooling\"},"
        " {\"path\": \"2_Dense\", \"more\": [{\"path\": \"3_Other\"}]}, {\"path\": \"4_Missing\"},"
        " {\"path\": \"1_Pooling\"}, {\"path\": null}]");
    put("m/1_Pooling/config.json", "x");
    put("m/1_Pooling/.hidden", "x");
    put("m/2_Dense/model.safetensors", "x");
    put("m/2_Dense/sub/config.json", "x");
    put("m/3_Other/config.json", "x");
    put("m/additional_chat_templates/tool.jinja", "x");
    put("m/additional_chat_templates/model.bin", "x");
    assert_found("1_Pooling/config.json\n2_Dense/model.safetensors\n"
                 "additional_chat_templates/tool.jinja\nmodules.json\n");
}

static void test_a_symlink_to_a_file_is_that_file(void **state)
{
    (void)state;
    put("blobs/0123", "x");
    assert_int_equal(dir_make("m"), 0);
    assert_int_equal(symlink("../blobs/0123", "m/config.json"), 0);
    assert_found("config.json\n");
}

static void test_an_empty_directory_has_none(void **state)
{
    (void)state;
    assert_int_equal(dir_make("m"), 0);
    assert_found("");
}

static void test_a_list_of_modules_that_is_none_is_refused(void **state)
{
    static const char *const cases[] = {
        "",
        "{}",
        "[1]",
        "[{\"path\": \"1_Pooling\"}",
        "[{\"path\": \"1_Pooling\"}] x",
        "[{\"path\": \"../outside\"}]",
        "[{\"path\": \"/etc\"}]",
        "[{\"path\": \".hidden\"}]",
        "[{\"path\": \"a/.hidden\"}]",
        "[{\"path\": \"a\\u0000b\"}]",
    };

    (void)state;
    for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
        AUTO_MODEL_FILES(files);
        put("m/modules.json", cases[i]);
        assert_int_equal(model_files_find(&files, "m"), E_INVALID);
        assert_non_null(strstr(error_message(), "m/modules.json: "));
        assert_null(files.paths);
    }
}

int main(void)
{
#define SCRATCH_TEST(name) cmocka_unit_test_setup_teardown(name, scratch_make, scratch_remove)
    const struct CMUnitTest tests[] = {
        SCRATCH_TEST(test_what_the_model_needs_is_taken_and_nothing_else),
        SCRATCH_TEST(test_the_folders_of_sentence_transformers_come_whole),
        SCRATCH_TEST(test_a_symlink_to_a_file_is_that_file),
        SCRATCH_TEST(test_an_empty_directory_has_none),
        SCRATCH_TEST(test_a_list_of_modules_that_is_none_is_refused),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
