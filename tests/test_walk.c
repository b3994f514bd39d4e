/* Tests of format/walk.c: which files of a directory are taken, left out and refused. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "format/file.h"
#include "format/limits.h"

static char scratch[64];

static int scratch_make(void **state)
{
    (void)state;
    snprintf(scratch, sizeof(scratch), "/tmp/vera-test-walk.XXXXXX");
    return mkdtemp(scratch) && chdir(scratch) == 0 ? 0 : 1;
}

static int scratch_remove(void **state)
{
    (void)state;
    interrupt_flag = 0;
    return chdir("/") == 0 && tree_remove(scratch) == 0 ? 0 : 1;
}

/* A file and its folders, below ad/. */
static void put(const char *path, const char *text)
{
    AUTO_FREE(char, full);
    AUTO_FREE(char, parent);

    assert_int_equal(path_join(&full, "ad", path), 0);
    assert_int_equal(path_parent(&parent, full), 0);
    assert_int_equal(dir_make(parent), 0);
    assert_int_equal(file_write(full, text_bytes(text)), 0);
}

static void put_adapter(void)
{
    put("adapter_config.json", "{}");
    put("adapter_model.safetensors", "tensors");
}

static void assert_list(char *const *list, size_t count, const char *expected)
{
    AUTO_BUF(joined);

    for (size_t i = 0; i < count; i++)
        assert_int_equal(buf_printf(&joined, "%s%s", i ? " " : "", list[i]), 0);
    assert_string_equal(buf_text(&joined), expected);
}

static void assert_walk(bool all, const char *taken, const char *left_out)
{
    AUTO_ADAPTER_FILES(files);
    char *paths[64];

    assert_int_equal(adapter_files_read(&files, "ad", all, NULL), 0);
    assert_true(files.count <= 64);
    for (size_t i = 0; i < files.count; i++)
        paths[i] = files.files[i].path;
    assert_list(paths, files.count, taken);
    assert_list(files.left_out, files.left_out_count, left_out);
}

#define CORE "adapter_config.json adapter_model.safetensors"

static void put_checkpoint(void)
{
    static const char *const names[] = {
        "README.md",
        "notes.md",
        "vocab.json",
        "merges.txt",
        "chat.jinja",
        "tokenizer.model",
        "optimizer.pt",
        "rng_state.pth",
        "training_args.bin",
        ".hidden.json",
        ".git/config",
        "sub/a.json",
        "sub/model.safetensors",
        "runs/events.out",
    };

    put_adapter();
    for (size_t i = 0; i < sizeof(names) / sizeof(names[0]); i++)
        put(names[i], names[i]);
}

static void test_an_adapter_and_its_small_texts_are_taken(void **state)
{
    (void)state;
    put_checkpoint();
    assert_walk(
        false, "README.md " CORE " chat.jinja merges.txt sub/a.json tokenizer.model vocab.json",
        ".git/ .hidden.json notes.md optimizer.pt rng_state.pth runs/events.out "
        "sub/model.safetensors training_args.bin"
    );
}

static void test_all_takes_everything_that_git_can_hold(void **state)
{
    AUTO_ADAPTER_FILES(files);

    (void)state;
    put_checkpoint();
    assert_int_equal(adapter_files_read(&files, "ad", true, NULL), E_INVALID);
    assert_non_null(strstr(error_message(), ".git"));
    assert_null(strstr(error_message(), ".git/config"));
    assert_non_null(error_hint_text());
    assert_int_equal(tree_remove("ad/.git"), 0);
    put(".veraignore", "runs/\n*.pt\n");
    assert_walk(
        true,
        ".hidden.json .veraignore README.md " CORE " chat.jinja merges.txt notes.md "
        "rng_state.pth sub/a.json sub/model.safetensors tokenizer.model training_args.bin "
        "vocab.json",
        "optimizer.pt runs/"
    );
}

static void test_rules_take_and_leave_out(void **state)
{
    (void)state;
    put_checkpoint();
    put(".veraignore", "*.json\n!adapter_config.json\n!optimizer.pt\n!.hidden.json\nsub/\n");
    assert_walk(
        false, ".hidden.json README.md " CORE " chat.jinja merges.txt optimizer.pt tokenizer.model",
        ".git/ .veraignore notes.md rng_state.pth runs/events.out sub/ training_args.bin vocab.json"
    );
    put(".veraignore", "*\n");
    AUTO_ADAPTER_FILES(files);
    assert_int_equal(adapter_files_read(&files, "ad", false, NULL), E_INVALID);
    assert_non_null(strstr(error_message(), ".veraignore"));
}

static void test_links_to_files_are_read_and_to_folders_are_not_followed(void **state)
{
    (void)state;
    put("blobs/config", "{}");
    put("blobs/model", "tensors");
    assert_int_equal(rename("ad/blobs", "blobs"), 0);
    assert_int_equal(symlink("../blobs/config", "ad/adapter_config.json"), 0);
    assert_int_equal(symlink("../blobs/model", "ad/adapter_model.safetensors"), 0);
    assert_int_equal(symlink("..", "ad/up"), 0);
    assert_int_equal(symlink("nowhere", "ad/optimizer.pt"), 0);
    assert_int_equal(symlink("loop", "ad/loop"), 0);
    assert_walk(false, CORE, "loop optimizer.pt up/");
    AUTO_ADAPTER_FILES(files);
    assert_int_equal(adapter_files_read(&files, "ad", true, NULL), E_INVALID);
    assert_non_null(strstr(error_message(), "\n  loop: "));
    assert_non_null(strstr(error_message(), "\n  optimizer.pt: "));
    assert_int_equal(symlink("nowhere", "ad/vocab.json"), 0);
    assert_int_equal(adapter_files_read(&files, "ad", false, NULL), E_INVALID);
    assert_non_null(strstr(error_message(), "\n  vocab.json: "));
    assert_null(strstr(error_message(), "optimizer.pt"));
}

static void test_everything_that_cannot_be_stored_is_listed(void **state)
{
    AUTO_ADAPTER_FILES(files);

    (void)state;
    put_adapter();
    assert_int_equal(mkfifo("ad/fifo.json", 0666), 0);
    assert_int_equal(mkfifo("ad/pipe", 0666), 0);
    put("new\nline.json", "x");
    put("latin\xe9.txt", "x");
    put("ignored\x01.bin", "x");
    assert_int_equal(adapter_files_read(&files, "ad", false, NULL), E_INVALID);
    assert_non_null(strstr(error_message(), "fifo.json: a FIFO"));
    assert_non_null(strstr(error_message(), "pipe: a FIFO"));
    assert_non_null(strstr(error_message(), "line.json"));
    assert_null(strstr(error_message(), "new\nline"));
    assert_non_null(strstr(error_message(), "latin"));
    assert_null(strstr(error_message(), "ignored"));
    put(".veraignore", "pipe\n*.json\n!adapter*\n*.txt\n");
    assert_walk(
        false, CORE, ".veraignore fifo.json ignored\x01.bin latin\xe9.txt new\nline.json pipe"
    );
}

static void test_empty_folders_are_refused_with_all(void **state)
{
    AUTO_ADAPTER_FILES(files);

    (void)state;
    put_adapter();
    assert_int_equal(dir_make("ad/one/two"), 0);
    assert_walk(false, CORE, "");
    assert_int_equal(adapter_files_read(&files, "ad", true, NULL), E_INVALID);
    assert_non_null(strstr(error_message(), "one/two: an empty folder"));
}

static void test_what_is_no_adapter_is_said_with_a_hint(void **state)
{
    static const struct {
        const char *config, *model, *says, *hint;
        int err;
    } cases[] = {
        {NULL, NULL, "no adapter_config.json", "save_pretrained", E_NOTFOUND},
        {"{\"peft_type\":\"VERA\",\"r\":4}", NULL, "no adapter_model.safetensors", NULL,
         E_NOTFOUND},
        {"{\"peft_type\":\"VERA\",\"r\":4}", "adapter_model.bin", "pickle", "python3 -c",
         E_UNSUPPORTED},
        {"{\"peft_type\":\"LORA\",\"r\":4}", "adapter_model.bin", "LORA", "VeraConfig",
         E_UNSUPPORTED},
        {"[]", "adapter_model.bin", "adapter_config.json", NULL, E_INVALID},
    };
    AUTO_ADAPTER_FILES(files);

    for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
        assert_int_equal(dir_make("ad"), 0);
        if (cases[i].config)
            put("adapter_config.json", cases[i].config);
        if (cases[i].model)
            put(cases[i].model, "x");
        assert_int_equal(adapter_files_read(&files, "ad", false, NULL), cases[i].err);
        assert_non_null(strstr(error_message(), cases[i].says));
        assert_int_equal(error_hint_text() != NULL, cases[i].hint != NULL);
        if (cases[i].hint)
            assert_non_null(strstr(error_hint_text(), cases[i].hint));
        assert_int_equal(scratch_remove(state), 0);
        assert_int_equal(scratch_make(state), 0);
    }
    assert_int_equal(adapter_files_read(&files, "missing", false, NULL), E_NOTFOUND);
    assert_int_equal(file_write("file", text_bytes("x")), 0);
    assert_int_equal(adapter_files_read(&files, "file", false, NULL), E_INVALID);
    put("task/adapter_config.json", "{}");
    assert_int_equal(adapter_files_read(&files, "ad", false, NULL), E_NOTFOUND);
    assert_non_null(strstr(error_hint_text(), "ad/task"));
}

static void test_large_files_and_deep_folders_have_limits(void **state)
{
    AUTO_ADAPTER_FILES(files);
    AUTO_BUF(path);

    (void)state;
    put_adapter();
    put("big.json", "x");
    put("fits.json", "x");
    assert_int_equal(truncate("ad/fits.json", (off_t)MIB), 0);
    assert_int_equal(truncate("ad/big.json", (off_t)LIMIT_SMALL_FILE + 1), 0);
    assert_walk(false, CORE " fits.json", "big.json");
    assert_int_equal(truncate("ad/adapter_model.safetensors", (off_t)LIMIT_FILE + 1), 0);
    assert_int_equal(adapter_files_read(&files, "ad", false, NULL), E_LIMIT);
    assert_non_null(strstr(error_message(), "adapter_model.safetensors"));
    put("adapter_model.safetensors", "x");
    assert_int_equal(buf_append_text(&path, "ad"), 0);
    for (int i = 0; i < LIMIT_PATH_DEPTH; i++)
        assert_int_equal(buf_append_text(&path, "/d"), 0);
    assert_int_equal(dir_make(buf_text(&path)), 0);
    assert_int_equal(unlink("ad/big.json"), 0);
    assert_walk(false, CORE " fits.json", "");
    assert_int_equal(buf_append_text(&path, "/d"), 0);
    assert_int_equal(dir_make(buf_text(&path)), 0);
    assert_int_equal(adapter_files_read(&files, "ad", false, NULL), E_LIMIT);
}

static uint64_t last_done, last_total;

static void note_progress(struct progress *self, uint64_t done, uint64_t total)
{
    (void)self;
    assert_true(done >= last_done);
    last_done = done;
    last_total = total;
}

static void test_progress_ends_at_the_total_and_an_interrupt_stops(void **state)
{
    struct progress progress = {note_progress};
    AUTO_ADAPTER_FILES(files);

    (void)state;
    put_adapter();
    assert_int_equal(adapter_files_read(&files, "ad", false, &progress), 0);
    assert_int_equal(last_done, strlen("{}tensors"));
    assert_int_equal(last_total, last_done);
    adapter_files_release(&files);
    interrupt_flag = 1;
    assert_int_equal(adapter_files_read(&files, "ad", false, NULL), E_INTERRUPTED);
    assert_null(files.files);
}

#define SCRATCH_TEST(name) cmocka_unit_test_setup_teardown(name, scratch_make, scratch_remove)

int main(void)
{
    const struct CMUnitTest tests[] = {
        SCRATCH_TEST(test_an_adapter_and_its_small_texts_are_taken),
        SCRATCH_TEST(test_all_takes_everything_that_git_can_hold),
        SCRATCH_TEST(test_rules_take_and_leave_out),
        SCRATCH_TEST(test_links_to_files_are_read_and_to_folders_are_not_followed),
        SCRATCH_TEST(test_everything_that_cannot_be_stored_is_listed),
        SCRATCH_TEST(test_empty_folders_are_refused_with_all),
        SCRATCH_TEST(test_what_is_no_adapter_is_said_with_a_hint),
        SCRATCH_TEST(test_large_files_and_deep_folders_have_limits),
        SCRATCH_TEST(test_progress_ends_at_the_total_and_an_interrupt_stops),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
