/*
 * Adapters and models for the tests of plans: opened together, made up, or derived from real ones
 * by rewriting headers.
 */
#ifndef TESTS_PLANS_H
#define TESTS_PLANS_H

#include "apply/plan.h"
#include "format/limits.h"
#include "tests/fault.h"
#include "tests/models.h"

/* An adapter and a model, opened; all of it is released with it. */
struct bench {
    struct adapter_files files;
    struct base_facts facts;
    struct snapshot snapshot;
    struct loaded_adapter loaded;
    struct model model;
    struct plan plan;
};

#define AUTO_BENCH(name) __attribute__((cleanup(bench_release))) struct bench name = {0}

static inline void bench_release(struct bench *bench)
{
    plan_release(&bench->plan);
    model_release(&bench->model);
    loaded_adapter_release(&bench->loaded);
    snapshot_release(&bench->snapshot);
    base_facts_release(&bench->facts);
    adapter_files_release(&bench->files);
}

/* `pin`: the model that the version was committed with, or NULL. */
static inline void
bench_open(struct bench *bench, const char *adapter, const char *pin, const char *model)
{
    AUTO_MODEL(pinned);
    AUTO_SNAPSHOT(bare);
    AUTO_LOADED_ADAPTER(loaded);

    assert_int_equal(adapter_files_read(&bench->files, adapter, false, NULL), 0);
    if (pin) {
        assert_int_equal(model_open(&pinned, pin), 0);
        assert_int_equal(snapshot_encode(&bare, &bench->files, NULL), 0);
        assert_int_equal(adapter_load(&loaded, &bare), 0);
        assert_int_equal(model_describe(&bench->facts, &pinned, &loaded.adapter, NULL), 0);
    }
    assert_int_equal(
        snapshot_encode(&bench->snapshot, &bench->files, pin ? &bench->facts : NULL), 0
    );
    assert_int_equal(adapter_load(&bench->loaded, &bench->snapshot), 0);
    if (model_open(&bench->model, model) < 0)
        fail_msg("%s", error_message());
}

static inline void bench_plan(struct bench *bench)
{
    if (plan_make(&bench->plan, &bench->loaded, &bench->model) < 0)
        fail_msg("%s", error_message());
}

#define BASE(name)    FIXTURES "/base/" name
#define ADAPTER(name) FIXTURES "/adapter/" name

/* Models and adapters that are made up, or derived from real ones */

#define MODEL "m/" MODEL_FILE

/* As weights(), but every byte of the data is 0x3c: all values are finite, and tensors of one shape
   and dtype equal. */
static inline void filled(const char *path, const char *tensors)
{
    AUTO_BUF(file);
    uint64_t header = 0;

    weights(path, tensors);
    assert_int_equal(file_read(&file, path, MIB), 0);
    assert_int_equal(safetensors_header_size(&header, buf_bytes(&file), file.len), 0);
    memset(file.data + header, 0x3c, file.len - header);
    put_bytes(path, buf_bytes(&file));
}

/* Bytes of one tensor of a file are overwritten, from `offset` on. */
static inline void
poke(const char *path, const char *tensor, uint64_t offset, const char *bytes, size_t len)
{
    AUTO_BUF(file);
    AUTO_SAFETENSORS(table);

    assert_int_equal(file_read(&file, path, 16 * MIB), 0);
    assert_int_equal(safetensors_decode(&table, buf_bytes(&file), file.len), 0);
    const struct tensor *found = safetensors_find(&table, tensor);
    assert_non_null(found);
    assert_true(offset + len <= tensor_bytes(found));
    memcpy(file.data + table.header_bytes + found->begin + offset, bytes, len);
    put_bytes(path, buf_bytes(&file));
}

/* The text with `from` replaced by `to`: every one where `all`, else the first. At least one. */
static inline void
replace(struct buf *out, const char *text, const char *from, const char *to, bool all)
{
    const char *at = strstr(text, from);

    assert_non_null(at);
    while (at) {
        assert_int_equal(buf_append(out, text, (size_t)(at - text)), 0);
        assert_int_equal(buf_append_text(out, to), 0);
        text = at + strlen(from);
        at = all ? strstr(text, from) : NULL;
    }
    assert_int_equal(buf_append_text(out, text), 0);
}

/* `target`/`name` is `source`/`name` with the text replaced in the header, all data as it was. */
static inline void derive(
    const char *source,
    const char *target,
    const char *name,
    const char *from,
    const char *to,
    bool all
)
{
    AUTO_FREE(char, in);
    AUTO_FREE(char, out);
    AUTO_BUF(file);
    AUTO_BUF(header);
    AUTO_BUF(derived);
    uint64_t size = 0;

    assert_int_equal(path_join(&in, source, name), 0);
    assert_int_equal(path_join(&out, target, name), 0);
    assert_int_equal(file_read(&file, in, 16 * MIB), 0);
    assert_int_equal(safetensors_header_size(&size, buf_bytes(&file), file.len), 0);
    AUTO_FREE(char, text);
    text = bytes_dup((struct bytes){file.data + 8, (size_t)size - 8});
    assert_non_null(text);
    replace(&header, text, from, to, all);
    for (unsigned i = 0; i < 8; i++)
        assert_int_equal(buf_append_byte(&derived, (uint8_t)(header.len >> 8 * i)), 0);
    assert_int_equal(buf_append(&derived, header.data, header.len), 0);
    assert_int_equal(buf_append(&derived, file.data + size, file.len - size), 0);
    put_bytes(out, buf_bytes(&derived));
}

/* The same for a text file. */
static inline void derive_text(
    const char *source, const char *target, const char *name, const char *from, const char *to
)
{
    AUTO_FREE(char, in);
    AUTO_FREE(char, out);
    AUTO_BUF(file);
    AUTO_BUF(derived);

    assert_int_equal(path_join(&in, source, name), 0);
    assert_int_equal(path_join(&out, target, name), 0);
    assert_int_equal(file_read(&file, in, MIB), 0);
    replace(&derived, buf_text(&file), from, to, true);
    put_bytes(out, buf_bytes(&derived));
}

static inline void copy(const char *source, const char *target, const char *name)
{
    AUTO_FREE(char, in);
    AUTO_FREE(char, out);
    AUTO_BUF(file);

    assert_int_equal(path_join(&in, source, name), 0);
    assert_int_equal(path_join(&out, target, name), 0);
    assert_int_equal(file_read(&file, in, 16 * MIB), 0);
    put_bytes(out, buf_bytes(&file));
}

/* A made-up adapter of rank 2 in a/; `config` begins with a comma or is empty. Names of tensors
   begin with '.', which stands for base_model.model. */
static inline void adapter(const char *config, const char *tensors)
{
    AUTO_BUF(text);
    AUTO_BUF(names);

    assert_int_equal(buf_printf(&text, "{\"peft_type\":\"VERA\",\"r\":2%s}", config), 0);
    put_bytes("a/" PEFT_CONFIG, buf_bytes(&text));
    for (const char *at = tensors; *at; at++) {
        bool begins = *at == '.' && (at == tensors || at[-1] == ' ');
        assert_int_equal(
            begins ? buf_append_text(&names, PEFT_PREFIX) : buf_append_byte(&names, (uint8_t)*at), 0
        );
    }
    filled("a/" PEFT_MODEL, buf_text(&names));
}

/* Configurations of a model whose output layer is its input embedding, and of one where not. */
#define TIED  "{\"tie_word_embeddings\":true}"
#define LOOSE "{\"tie_word_embeddings\":false}"

/* One module named q with 4 outputs. */
#define Q ".q.vera_lambda_b F32 4, .q.vera_lambda_d F32 2"

static inline void assert_plan_refused(
    const char *adapter_dir, const char *model_dir, int code, const char *says, const char *hint
)
{
    AUTO_BENCH(bench);

    bench_open(&bench, adapter_dir, NULL, model_dir);
    int err = plan_make(&bench.plan, &bench.loaded, &bench.model);
    if (err != code || !strstr(error_message(), says))
        fail_msg("%d, %s\nwanted: %s", err, err < 0 ? error_message() : "", says);
    if (hint && (!error_hint_text() || !strstr(error_hint_text(), hint)))
        fail_msg("hint %s", error_hint_text() ? error_hint_text() : "none");
    assert_null(bench.plan.targets); /* out is untouched on failure */
    assert_null(bench.plan.prefix);
}

static inline void assert_replacements(const struct plan *plan, const char *names)
{
    AUTO_BUF(joined);

    for (size_t i = 0; i < plan->replacement_count; i++)
        assert_int_equal(
            buf_printf(
                &joined, "%s%s%s", i ? " " : "", plan->replacements[i].weight.tensor ? "" : "+",
                plan->replacements[i].name
            ),
            0
        );
    assert_string_equal(buf_text(&joined), names);
}

/* Memory */

static inline int plan_or_describe(struct bench *bench, bool describe)
{
    return describe ? model_describe(&bench->facts, &bench->model, &bench->loaded.adapter, NULL)
                    : plan_make(&bench->plan, &bench->loaded, &bench->model);
}

static inline void
assert_every_failed_allocation_is_nomem(const char *adapter_dir, const char *model, bool describe)
{
    AUTO_BENCH(bench);

    bench_open(&bench, adapter_dir, describe ? NULL : model, model);
    base_facts_release(&bench.facts);
    for (int n = 0;; n++) {
        fault_after = n;
        int err = plan_or_describe(&bench, describe);
        bool ran_through = fault_after >= 0;
        fault_after = -1;
        if (err == 0) {
            assert_true(ran_through && n > 5);
            return;
        }
        assert_int_equal(err, E_NOMEM);
        assert_null(bench.plan.targets);
        assert_null(bench.facts.pin.modules);
    }
}

#define TEST(name) cmocka_unit_test_setup_teardown(name, scratch_make, scratch_remove)

#endif
