/*
 * Tests of format/snapshot.c and format/loaded.c over all real adapters: byte for byte there and
 * back, the basis proved where it came with its projections, and nothing that was changed passes
 * for what it was.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "format/file.h"
#include "format/limits.h"
#include "tests/fault.h"

/* Every adapter directory of the fixtures, by its path below adapter/. */
static char adapters[128][64];
static size_t adapter_count;

static void adapters_find(const char *below)
{
    AUTO_FREE(char, dir);
    const char *name = NULL;

    assert_int_equal(path_join(&dir, FIXTURES "/adapter", below), 0);
    if (dir_has(dir, PEFT_CONFIG)) {
        assert_true(adapter_count < 128 && strlen(below) < 64);
        memcpy(adapters[adapter_count++], below, strlen(below) + 1);
        return;
    }
    DIR *entries = opendir(dir);
    assert_non_null(entries);
    while (dir_next(&name, entries, dir) == 0 && name) {
        char next[256];
        snprintf(next, sizeof(next), "%s%s%s", below, *below ? "/" : "", name);
        adapters_find(next);
    }
    closedir(entries);
}

static int adapters_setup(void **state)
{
    (void)state;
    adapters_find("");
    return adapter_count == 83 ? 0 : 1;
}

static void read_adapter(struct adapter_files *files, const char *name)
{
    AUTO_FREE(char, dir);

    assert_int_equal(path_join(&dir, FIXTURES "/adapter", name), 0);
    assert_int_equal(adapter_files_read(files, dir, false, NULL), 0);
    assert_int_equal(files->count, 3);
    assert_int_equal(files->left_out_count, 0);
}

/* expected.json: ["basis"][adapter][key], false where there is none. */
static bool
expected_digest(struct digest *out, const char *section, const char *name, const char *key)
{
    static struct buf text;
    const char *const path[] = {section, name, key};
    AUTO_JSON(json);
    enum json_event event = JSON_NULL;
    size_t level = 0;

    if (!text.len)
        assert_int_equal(file_read(&text, FIXTURES "/expected/expected.json", MIB), 0);
    json_init(&json, buf_bytes(&text));
    assert_int_equal(json_expect(&json, JSON_OBJECT_BEGIN), 0);
    for (;;) {
        assert_int_equal(json_next(&event, &json), 0);
        if (event == JSON_OBJECT_END)
            return false;
        assert_int_equal(event, JSON_KEY);
        bool on_path = json_text_is(&json, path[level]);
        assert_int_equal(json_next(&event, &json), 0);
        if (!on_path) {
            assert_int_equal(json_skip(&json, event), 0);
        } else if (++level == 3) {
            assert_int_equal(event, JSON_STRING);
            assert_int_equal(digest_parse(out, json.text), 0);
            return true;
        }
    }
}

static bool contains(const char *text, const char *part)
{
    return strstr(text, part) != NULL;
}

static struct recipe recipe_of(const struct snapshot *snapshot)
{
    struct recipe recipe = {0};

    assert_int_equal(recipe_decode(&recipe, buf_bytes(&snapshot->recipe)), 0);
    return recipe;
}

static void assert_files_equal(const struct adapter_files *a, const struct adapter_files *b)
{
    assert_int_equal(a->count, b->count);
    for (size_t i = 0; i < a->count; i++) {
        assert_string_equal(a->files[i].path, b->files[i].path);
        assert_true(bytes_equal(buf_bytes(&a->files[i].data), buf_bytes(&b->files[i].data)));
    }
}

static void assert_recipe_expected(const struct recipe *recipe, const char *name)
{
    struct digest a, b;

    if (!expected_digest(&a, "basis", name, "sha256_a")) {
        assert_int_equal(recipe->state, BASIS_DECLARED);
        assert_true(contains(name, "vectors-only") || contains(name, "minilm"));
        assert_false(recipe->has_variant || recipe->has_matrices);
        return;
    }
    assert_true(expected_digest(&b, "basis", name, "sha256_b"));
    assert_int_equal(recipe->state, BASIS_PROVED);
    assert_int_equal(recipe->variant, BASIS_FMA);
    assert_int_equal(
        recipe->rounding, contains(name, "llama-half/") ? BASIS_ROUND_BF16 : BASIS_ROUND_NONE
    );
    assert_int_equal(
        recipe->dtype_a, strcmp(name, "llama-half-vectors") == 0 ? DTYPE_BF16 : DTYPE_F32
    );
    assert_true(digest_equal(&recipe->sha256_a, &a));
    assert_true(digest_equal(&recipe->sha256_b, &b));
}

static void test_every_adapter_comes_back_and_its_basis_is_known(void **state)
{
    (void)state;
    for (size_t i = 0; i < adapter_count; i++) {
        AUTO_ADAPTER_FILES(files);
        AUTO_ADAPTER_FILES(restored);
        AUTO_SNAPSHOT(snapshot);
        struct digest id;
        read_adapter(&files, adapters[i]);
        assert_int_equal(snapshot_encode(&snapshot, &files, NULL), 0);
        struct recipe recipe = recipe_of(&snapshot);
        assert_recipe_expected(&recipe, adapters[i]);
        assert_int_equal(snapshot.a.len + snapshot.b.len, 0);
        assert_int_equal(digest_of(&id, buf_bytes(&snapshot.manifest)), 0);
        assert_true(digest_equal(&id, &snapshot.id));
        assert_int_equal(snapshot_check(&snapshot), 0);
        assert_int_equal(snapshot_restore(&restored, &snapshot), 0);
        assert_files_equal(&files, &restored);
    }
}

/* What a base model of these shapes would say, for whatever modules the adapter has. */
static void base_make(
    struct base_facts *base,
    const struct adapter_files *files,
    uint64_t in,
    uint64_t out,
    enum dtype dtype
)
{
    const struct adapter_file *config = adapter_files_find(files, PEFT_CONFIG);
    const struct adapter_file *model = adapter_files_find(files, PEFT_MODEL);
    AUTO_ADAPTER(adapter);

    assert_int_equal(
        adapter_decode(
            &adapter, buf_bytes(&config->data), buf_bytes(&model->data), model->data.len
        ),
        0
    );
    base->in_max = in;
    base->out_max = out;
    base->dtype = dtype;
    assert_int_equal(buf_append_text(&base->config, "{\"model_type\":\"x\"}"), 0);
    base->pin.name = bytes_dup(text_bytes("org/base"));
    base->pin.modules = array_new(adapter.module_count, sizeof(*base->pin.modules));
    assert_non_null(base->pin.modules);
    for (size_t i = 0; i < adapter.module_count; i++) {
        base->pin.modules[i] = (struct pin_module){
            .name = bytes_dup(text_bytes(adapter.modules[i].name)),
            .dtype = dtype == DTYPE_COUNT ? DTYPE_F32 : dtype,
            .rows = adapter.modules[i].out,
            .columns = in,
        };
        base->pin.count++;
    }
}

static const struct {
    const char *name, *section, *like; /* like: the adapter that came with the same A and B */
    uint64_t in, out;
    enum dtype dtype;
    enum basis_rounding rounding;
} declared[] = {
    {"minilm/step-320", "minilm_basis", NULL, 1536, 1536, DTYPE_F32, BASIS_ROUND_NONE},
    {"llama-vectors-only", "basis", "llama/step-120", 176, 176, DTYPE_F32, BASIS_ROUND_NONE},
    {"llama-half-vectors-only", "basis", "llama-half/step-000", 176, 176, DTYPE_BF16,
     BASIS_ROUND_BF16},
};

static void expected_of_declared(struct digest *a, struct digest *b, size_t i)
{
    bool minilm = !declared[i].like;

    assert_true(expected_digest(
        a, declared[i].section, minilm ? "A" : declared[i].like, minilm ? "sha256" : "sha256_a"
    ));
    assert_true(expected_digest(
        b, declared[i].section, minilm ? "B" : declared[i].like, minilm ? "sha256" : "sha256_b"
    ));
}

static void test_a_base_model_completes_a_declared_basis(void **state)
{
    (void)state;
    for (size_t i = 0; i < sizeof(declared) / sizeof(declared[0]); i++) {
        AUTO_ADAPTER_FILES(files);
        AUTO_SNAPSHOT(bare);
        AUTO_SNAPSHOT(with_base);
        AUTO_SNAPSHOT(mixed);
        AUTO_BASE_FACTS(base);
        struct digest a, b;
        read_adapter(&files, declared[i].name);
        base_make(&base, &files, declared[i].in, declared[i].out, declared[i].dtype);
        assert_int_equal(snapshot_encode(&bare, &files, NULL), 0);
        assert_int_equal(snapshot_encode(&with_base, &files, &base), 0);
        struct recipe recipe = recipe_of(&with_base);
        expected_of_declared(&a, &b, i);
        assert_int_equal(recipe.state, BASIS_DECLARED);
        assert_int_equal(recipe.variant, BASIS_FMA);
        assert_int_equal(recipe.rounding, declared[i].rounding);
        assert_int_equal(recipe.in, declared[i].in);
        assert_int_equal(recipe.dtype_b, DTYPE_F32);
        assert_true(digest_equal(&recipe.sha256_a, &a));
        assert_true(digest_equal(&recipe.sha256_b, &b));
        assert_true(digest_equal(&bare.id, &with_base.id));
        assert_int_equal(bare.pin.len, 0);
        assert_true(with_base.pin.len && with_base.model_config.len);
        assert_int_equal(snapshot_check(&with_base), 0);
        base.dtype = DTYPE_COUNT;
        assert_int_equal(snapshot_encode(&mixed, &files, &base), 0);
        assert_false(recipe_of(&mixed).has_variant);
        assert_true(digest_equal(&bare.id, &mixed.id));
        AUTO_SNAPSHOT(narrow);
        base.dtype = DTYPE_F32;
        base.out_max = 1;
        assert_int_equal(snapshot_encode(&narrow, &files, &base), E_CONFLICT);
        assert_null(narrow.manifest.data);
    }
}

static void test_a_basis_is_loaded_with_its_recorded_bits(void **state)
{
    static const struct {
        const char *name;
        enum dtype dtype; /* of the base at hand */
    } cases[] = {
        {"llama/step-120", DTYPE_F32},      {"llama-half/step-030", DTYPE_BF16},
        {"llama-half-vectors", DTYPE_BF16}, {"gpt2/step-040", DTYPE_F32},
        {"llama-vectors-only", DTYPE_F32},  {"llama-half-vectors-only", DTYPE_BF16},
    };

    (void)state;
    for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
        AUTO_ADAPTER_FILES(files);
        AUTO_SNAPSHOT(snapshot);
        AUTO_LOADED_ADAPTER(loaded);
        AUTO_BASIS(basis);
        struct digest a;
        read_adapter(&files, cases[i].name);
        assert_int_equal(snapshot_encode(&snapshot, &files, NULL), 0);
        assert_int_equal(adapter_load(&loaded, &snapshot), 0);
        assert_int_equal(basis_load(&basis, &loaded, 176, 176, cases[i].dtype), 0);
        size_t count = (size_t)(basis.rank * basis.in);
        AUTO_BUF(bytes);
        enum dtype dtype = strcmp(cases[i].name, "llama-half-vectors") ? DTYPE_F32 : DTYPE_BF16;
        assert_int_equal(buf_resize(&bytes, count * dtype_bits(dtype) / 8), 0);
        dtype_narrow(bytes.data, basis.a, count, dtype);
        assert_int_equal(digest_of(&a, buf_bytes(&bytes)), 0);
        assert_true(digest_equal(&a, &basis.sha256_a));
    }
}

static void test_a_declared_basis_is_bound_to_its_base(void **state)
{
    AUTO_ADAPTER_FILES(files);
    AUTO_SNAPSHOT(snapshot);
    AUTO_LOADED_ADAPTER(loaded);
    AUTO_BASE_FACTS(base);
    AUTO_BASIS(basis);

    (void)state;
    read_adapter(&files, "llama-vectors-only");
    base_make(&base, &files, 176, 176, DTYPE_F32);
    assert_int_equal(snapshot_encode(&snapshot, &files, &base), 0);
    assert_int_equal(adapter_load(&loaded, &snapshot), 0);
    assert_int_equal(basis_load(&basis, &loaded, 177, 176, DTYPE_F32), E_CONFLICT);
    assert_int_equal(basis_load(&basis, &loaded, 176, 177, DTYPE_F32), E_CONFLICT);
    assert_int_equal(basis_load(&basis, &loaded, 176, 176, DTYPE_BF16), E_CONFLICT);
    assert_int_equal(basis_load(&basis, &loaded, 176, 176, DTYPE_COUNT), E_UNSUPPORTED);
    assert_int_equal(basis_load(&basis, &loaded, 176, 175, DTYPE_F32), E_CONFLICT);
    assert_null(basis.a);
    assert_int_equal(basis_load(&basis, &loaded, 176, 176, DTYPE_F32), 0);
}

static struct adapter_file *file_of(struct adapter_files *files, const char *path)
{
    size_t i = 0;

    while (i < files->count && strcmp(files->files[i].path, path) != 0)
        i++;
    if (i == files->count)
        fail_msg("no %s", path);
    return &files->files[i];
}

/* Where the bytes of A and B begin and end in the model file. */
static void matrix_range(size_t range[2], const struct adapter_files *files, bool of_b)
{
    const struct adapter_file *config = adapter_files_find(files, PEFT_CONFIG);
    const struct adapter_file *model = adapter_files_find(files, PEFT_MODEL);
    AUTO_ADAPTER(adapter);

    assert_int_equal(
        adapter_decode(
            &adapter, buf_bytes(&config->data), buf_bytes(&model->data), model->data.len
        ),
        0
    );
    const struct tensor *tensor = of_b ? adapter.basis_b : adapter.a;
    range[0] = (size_t)(adapter.layout.header_bytes + tensor->begin);
    range[1] = (size_t)(adapter.layout.header_bytes + tensor->end);
}

static void stored_case(const char *name, bool of_b, bool at_end)
{
    AUTO_ADAPTER_FILES(files);
    AUTO_ADAPTER_FILES(restored);
    AUTO_SNAPSHOT(proved);
    AUTO_SNAPSHOT(stored);
    AUTO_LOADED_ADAPTER(loaded);
    AUTO_BASIS(basis);
    size_t range[2];

    read_adapter(&files, name);
    assert_int_equal(snapshot_encode(&proved, &files, NULL), 0);
    matrix_range(range, &files, of_b);
    file_of(&files, PEFT_MODEL)->data.data[at_end ? range[1] - 1 : range[0]] ^= 1;
    assert_int_equal(snapshot_encode(&stored, &files, NULL), 0);
    struct recipe recipe = recipe_of(&stored);
    assert_int_equal(recipe.state, BASIS_STORED);
    assert_int_equal((of_b ? stored.b : stored.a).len, range[1] - range[0]);
    assert_false(digest_equal(&proved.id, &stored.id));
    assert_true(bytes_equal(buf_bytes(&proved.payload), buf_bytes(&stored.payload)));
    assert_int_equal(snapshot_restore(&restored, &stored), 0);
    assert_files_equal(&files, &restored);
    assert_int_equal(snapshot_check(&stored), 0);
    assert_int_equal(adapter_load(&loaded, &stored), 0);
    assert_int_equal(basis_load(&basis, &loaded, 1, 1, DTYPE_COUNT), 0);
    basis_release(&basis);
    stored.b.data[0] ^= 1;
    assert_int_equal(basis_load(&basis, &loaded, 1, 1, DTYPE_COUNT), E_CORRUPT);
    assert_int_equal(snapshot_check(&stored), E_CORRUPT);
}

static void test_a_basis_with_a_flipped_bit_is_stored_and_comes_back(void **state)
{
    static const char *const names[] = {
        "llama/step-060", "llama-half/step-010", "llama-half-vectors", "bert/step-040"};

    (void)state;
    for (size_t i = 0; i < 4 * sizeof(names) / sizeof(names[0]); i++)
        stored_case(names[i / 4], i & 1, i & 2);
}

static void replace_text(struct buf *data, const char *old, const char *new)
{
    AUTO_BUF(changed);
    const char *found = strstr(buf_text(data), old);

    assert_non_null(found);
    size_t at = (size_t)(found - (const char *)data->data);
    assert_int_equal(buf_append(&changed, data->data, at), 0);
    assert_int_equal(buf_append_text(&changed, new), 0);
    at += strlen(old);
    assert_int_equal(buf_append(&changed, data->data + at, data->len - at), 0);
    buf_release(data);
    *data = buf_take(&changed);
}

static void test_only_the_low_half_of_a_seed_counts_and_none_proves_nothing(void **state)
{
    static const struct {
        const char *seed;
        enum basis_state state;
    } cases[] = {
        {"0", BASIS_PROVED}, {"4294967296", BASIS_PROVED}, {"-9223372036854775808", BASIS_PROVED},
        {"1", BASIS_STORED}, {"-1", BASIS_STORED},         {"null", BASIS_STORED},
    };

    (void)state;
    for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
        AUTO_ADAPTER_FILES(files);
        AUTO_SNAPSHOT(snapshot);
        char text[80];
        read_adapter(&files, "llama/step-000");
        snprintf(text, sizeof(text), "\"projection_prng_key\": %s", cases[i].seed);
        replace_text(&file_of(&files, PEFT_CONFIG)->data, "\"projection_prng_key\": 0", text);
        assert_int_equal(snapshot_encode(&snapshot, &files, NULL), 0);
        struct recipe recipe = recipe_of(&snapshot);
        assert_int_equal(recipe.state, cases[i].state);
        assert_int_equal(recipe.has_seed, strcmp(cases[i].seed, "null") != 0);
        assert_int_equal(snapshot_check(&snapshot), 0);
    }
}

static void test_a_declared_adapter_without_seed_is_stored_and_not_applied(void **state)
{
    AUTO_ADAPTER_FILES(files);
    AUTO_SNAPSHOT(snapshot);
    AUTO_LOADED_ADAPTER(loaded);
    AUTO_BASE_FACTS(base);
    AUTO_BASIS(basis);

    (void)state;
    read_adapter(&files, "llama-vectors-only");
    replace_text(
        &file_of(&files, PEFT_CONFIG)->data, "\"projection_prng_key\": 0",
        "\"projection_prng_key\": null"
    );
    base_make(&base, &files, 176, 176, DTYPE_F32);
    assert_int_equal(snapshot_encode(&snapshot, &files, &base), 0);
    assert_false(recipe_of(&snapshot).has_seed);
    assert_int_equal(adapter_load(&loaded, &snapshot), 0);
    assert_int_equal(basis_load(&basis, &loaded, 176, 176, DTYPE_F32), E_UNSUPPORTED);
}

/* An adapter of one module, all of `dtype`: rank 4, A, B and the vectors in the order of `order`,
   tensors without values around them; every byte is `fill`, or another where that is 0. */
static void
adapter_make(struct adapter_files *files, enum dtype dtype, const unsigned order[4], uint8_t fill)
{
    static const uint64_t shape[] = {4, 4}, empty[] = {0};
    static const struct tensor kinds[] = {
        {.name = "base_model.vera_A", .dims = 2},
        {.name = "base_model.vera_B", .dims = 2},
        {.name = "base_model.model.q.vera_lambda_b", .dims = 1},
        {.name = "base_model.model.q.vera_lambda_d", .dims = 1},
        {.name = "base_model.model.q.bias", .dims = 1, .shape = empty},
        {.name = "a.bias", .dims = 1, .shape = empty},
    };
    struct tensor tensors[6];
    AUTO_BUF(config);
    AUTO_BUF(model);
    uint64_t at = 0;

    for (size_t i = 0; i < 6; i++) {
        struct tensor *tensor = &tensors[i];
        *tensor = kinds[i < 4 ? order[i] : i];
        tensor->name_len = strlen(tensor->name);
        tensor->dtype = dtype;
        tensor->begin = i < 4 ? at : i == 4 ? 0 : tensors[order[0] % 3].end;
        uint64_t values = i >= 4 ? 0 : tensor->dims == 2 ? 16 : 4;
        tensor->shape = i >= 4 ? empty : shape;
        tensor->end = tensor->begin + values * dtype_bits(dtype) / 8;
        at = i < 4 ? tensor->end : at;
    }
    assert_int_equal(safetensors_encode(&model, tensors, 6), 0);
    for (uint64_t i = 0; i < at; i++)
        assert_int_equal(buf_append_byte(&model, fill ? fill : (uint8_t)(i * 37 + 5)), 0);
    assert_int_equal(
        buf_append_text(
            &config, "{\"peft_type\":\"VERA\",\"r\":4,\"modules_to_save\":[\"classifier\"]}"
        ),
        0
    );
    assert_int_equal(adapter_files_add(files, PEFT_CONFIG, &config), 0);
    assert_int_equal(adapter_files_add(files, PEFT_MODEL, &model), 0);
}

static void made_case(enum dtype dtype, const unsigned order[4], uint8_t fill)
{
    AUTO_ADAPTER_FILES(files);
    AUTO_ADAPTER_FILES(restored);
    AUTO_SNAPSHOT(snapshot);
    AUTO_LOADED_ADAPTER(loaded);
    AUTO_BASIS(basis);

    adapter_make(&files, dtype, order, fill);
    assert_int_equal(snapshot_encode(&snapshot, &files, NULL), 0);
    assert_int_equal(recipe_of(&snapshot).state, BASIS_STORED);
    assert_int_equal(snapshot.payload.len, 8 * dtype_bits(dtype) / 8);
    assert_int_equal(snapshot_check(&snapshot), 0);
    assert_int_equal(snapshot_restore(&restored, &snapshot), 0);
    assert_files_equal(&files, &restored);
    assert_int_equal(adapter_load(&loaded, &snapshot), 0);
    const struct buf *model = &file_of(&files, PEFT_MODEL)->data;
    const struct adapter_module *module = &loaded.adapter.modules[0];
    struct bytes wanted = {
        model->data + snapshot.layout.len + module->d->begin, (size_t)tensor_bytes(module->d)};
    assert_true(bytes_equal(loaded_tensor(&loaded, module->d), wanted));
    assert_int_equal(
        basis_load(&basis, &loaded, 4, 4, DTYPE_F32), dtype_is_applicable(dtype) ? 0 : E_UNSUPPORTED
    );
}

static void test_every_dtype_and_value_is_stored_and_comes_back(void **state)
{
    static const unsigned order[] = {0, 1, 2, 3};

    (void)state;
    for (unsigned dtype = 0; dtype < DTYPE_COUNT; dtype++) {
        made_case((enum dtype)dtype, order, 0);
        /* NaN in every float type that has one. */
        made_case((enum dtype)dtype, order, 0xff);
    }
}

static void test_tensors_in_any_order_come_back(void **state)
{
    (void)state;
    for (unsigned i = 0; i < 256; i++) {
        const unsigned order[] = {i & 3, i >> 2 & 3, i >> 4 & 3, i >> 6};
        unsigned seen = 1u << order[0] | 1u << order[1] | 1u << order[2] | 1u << order[3];
        if (seen == 15)
            made_case(DTYPE_BF16, order, 0);
    }
}

static void test_every_flipped_bit_changes_the_id_or_is_refused(void **state)
{
    AUTO_ADAPTER_FILES(files);
    AUTO_SNAPSHOT(original);

    (void)state;
    read_adapter(&files, "bert/step-040");
    assert_int_equal(snapshot_encode(&original, &files, NULL), 0);
    for (size_t i = 0; i < files.count; i++) {
        struct buf *data = &files.files[i].data;
        bool model = strcmp(files.files[i].path, PEFT_MODEL) == 0;
        /* Each bit of the texts and of the model's header, a sample of its data. */
        for (size_t at = 0; at < data->len; at += model && at > original.layout.len ? 97 : 1) {
            AUTO_SNAPSHOT(changed);
            uint8_t bit = (uint8_t)(1u << (at % 8));
            data->data[at] ^= bit;
            int err = snapshot_encode(&changed, &files, NULL);
            if (err == 0)
                assert_false(digest_equal(&changed.id, &original.id));
            else if (err != E_INVALID && err != E_UNSUPPORTED && err != E_LIMIT)
                fail_msg("byte %zu of %s: %s", at, files.files[i].path, error_message());
            data->data[at] ^= bit;
        }
    }
}

static void test_every_truncation_of_the_model_is_refused(void **state)
{
    AUTO_ADAPTER_FILES(files);

    (void)state;
    read_adapter(&files, "llama-vectors-only");
    struct buf *data = &file_of(&files, PEFT_MODEL)->data;
    size_t whole = data->len;
    for (size_t len = 0; len < whole; len += len < 200 ? 1 : 37) {
        AUTO_SNAPSHOT(snapshot);
        data->len = len;
        assert_int_equal(snapshot_encode(&snapshot, &files, NULL), E_INVALID);
        assert_non_null(strstr(error_message(), PEFT_MODEL));
        assert_null(snapshot.manifest.data);
    }
    data->len = whole;
}

/* Any byte of any part: found by the check, or by the way back where it belongs to a proof. */
static void damage_case(const char *name)
{
    AUTO_ADAPTER_FILES(files);
    AUTO_SNAPSHOT(snapshot);
    AUTO_BASE_FACTS(base);

    read_adapter(&files, name);
    base_make(&base, &files, 176, 176, DTYPE_F32);
    assert_int_equal(snapshot_encode(&snapshot, &files, &base), 0);
    bool is_declared = recipe_of(&snapshot).state == BASIS_DECLARED;
    struct buf *parts[] = {&snapshot.manifest, &snapshot.config,  &snapshot.layout,
                           &snapshot.recipe,   &snapshot.payload, &snapshot.files[0].data};
    for (size_t i = 0; i < sizeof(parts) / sizeof(parts[0]); i++) {
        size_t step = parts[i]->len > 20000 ? 499 : parts[i]->len > 500 ? 7 : 1;
        for (size_t at = 0; at < parts[i]->len; at += step) {
            AUTO_ADAPTER_FILES(restored);
            parts[i]->data[at] ^= 1;
            int err = snapshot_check(&snapshot);
            bool recipe = parts[i] == &snapshot.recipe;
            if (err == 0)
                err = snapshot_restore(&restored, &snapshot);
            /* What a declared basis will be is checked when a base model is there. */
            if (err != E_CORRUPT && err != E_LIMIT && !(recipe && err == 0 && is_declared))
                fail_msg("%s: part %zu, byte %zu: %d", name, i, at, err);
            assert_true(err == 0 || !restored.files);
            parts[i]->data[at] ^= 1;
        }
    }
    assert_int_equal(snapshot_check(&snapshot), 0);
}

static void test_damaged_parts_are_corrupt(void **state)
{
    (void)state;
    damage_case("llama/step-010");
    damage_case("llama-vectors-only");
}

static void test_parts_that_do_not_fit_are_corrupt(void **state)
{
    (void)state;
    for (int i = 0; i < 9; i++) {
        AUTO_ADAPTER_FILES(files);
        AUTO_ADAPTER_FILES(other_files);
        AUTO_ADAPTER_FILES(restored);
        AUTO_SNAPSHOT(one);
        AUTO_SNAPSHOT(other);
        AUTO_BASE_FACTS(base);
        read_adapter(&files, "llama/step-010");
        read_adapter(&other_files, "gpt2/step-010");
        base_make(&base, &other_files, 192, 192, DTYPE_F32);
        assert_int_equal(snapshot_encode(&one, &files, NULL), 0);
        assert_int_equal(snapshot_encode(&other, &other_files, &base), 0);
        struct buf *mine[] = {&one.manifest, &one.config, &one.layout, &one.recipe,
                              &one.payload,  &one.pin,    &one.a,      &one.b};
        struct buf *theirs[] = {&other.manifest, &other.config, &other.layout, &other.recipe,
                                &other.payload,  &other.pin,    &other.config, &other.config};
        if (i < 8) {
            struct buf swap = *mine[i];
            *mine[i] = *theirs[i];
            *theirs[i] = swap;
        } else {
            free(one.files[0].path);
            one.files[0].path = bytes_dup(text_bytes("other.md"));
        }
        assert_int_equal(snapshot_check(&one), E_CORRUPT);
        if (i != 5)
            assert_int_equal(snapshot_restore(&restored, &one), E_CORRUPT);
    }
}

static void test_what_is_missing_is_said(void **state)
{
    static const struct {
        const char *path, *text;
        int err;
    } cases[] = {
        {"README.md", "x", E_NOTFOUND},
        {PEFT_CONFIG, "{\"peft_type\":\"VERA\",\"r\":4}", E_NOTFOUND},
        {PEFT_CONFIG, "{\"peft_type\":\"LORA\",\"r\":4}", E_UNSUPPORTED},
        {"adapter_model.bin", "x", E_UNSUPPORTED},
    };

    (void)state;
    for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
        AUTO_ADAPTER_FILES(alone);
        AUTO_SNAPSHOT(snapshot);
        AUTO_BUF(data);
        if (i == 3) {
            AUTO_BUF(config);
            assert_int_equal(buf_append_text(&config, cases[1].text), 0);
            assert_int_equal(adapter_files_add(&alone, PEFT_CONFIG, &config), 0);
        }
        assert_int_equal(buf_append_text(&data, cases[i].text), 0);
        assert_int_equal(adapter_files_add(&alone, cases[i].path, &data), 0);
        assert_int_equal(snapshot_encode(&snapshot, &alone, NULL), cases[i].err);
        assert_null(snapshot.manifest.data);
    }
}

static void test_a_configuration_that_is_not_veras_is_said(void **state)
{
    static const struct {
        const char *from, *to, *says;
        int err;
    } cases[] = {
        {"\"VERA\"", "\"LORA\"", "this is a LORA adapter", E_UNSUPPORTED},
        {"\"VERA\"", "\"IA3\"", "this is an IA3 adapter", E_UNSUPPORTED},
        {"\"VERA\"", "VERA", "adapter_config.json: JSON, byte", E_INVALID},
        {"\"r\": 32", "\"r\": 31", "r is 31", E_INVALID},
        {"{", "[", "not a JSON object", E_INVALID},
    };

    (void)state;
    for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
        AUTO_ADAPTER_FILES(files);
        AUTO_SNAPSHOT(snapshot);
        read_adapter(&files, "llama/step-000");
        replace_text(&file_of(&files, PEFT_CONFIG)->data, cases[i].from, cases[i].to);
        assert_int_equal(snapshot_encode(&snapshot, &files, NULL), cases[i].err);
        assert_true(contains(error_message(), cases[i].says));
        assert_int_equal(error_hint_text() != NULL, cases[i].err == E_UNSUPPORTED);
        assert_null(snapshot.manifest.data);
    }
}

static void test_other_files_come_back_in_any_order(void **state)
{
    static const char *const paths[] = {"z.json", "a/b.txt", "a-b.txt", "empty.txt"};
    AUTO_ADAPTER_FILES(files);
    AUTO_ADAPTER_FILES(restored);
    AUTO_SNAPSHOT(snapshot);

    (void)state;
    read_adapter(&files, "bert/step-000");
    for (size_t i = 0; i < 4; i++) {
        AUTO_BUF(data);
        assert_int_equal(buf_append_text(&data, i < 3 ? paths[i] : ""), 0);
        assert_int_equal(adapter_files_add(&files, paths[i], &data), 0);
    }
    assert_int_equal(snapshot_encode(&snapshot, &files, NULL), 0);
    assert_int_equal(snapshot.file_count, 5);
    assert_string_equal(snapshot.files[1].path, "a-b.txt");
    assert_int_equal(snapshot_restore(&restored, &snapshot), 0);
    assert_int_equal(restored.count, files.count);
    for (size_t i = 0; i < files.count; i++) {
        const struct adapter_file *back = adapter_files_find(&restored, files.files[i].path);
        assert_non_null(back);
        assert_true(bytes_equal(buf_bytes(&back->data), buf_bytes(&files.files[i].data)));
    }
    assert_int_equal(snapshot_check(&snapshot), 0);
}

static void test_vectors_are_the_bytes_of_the_file(void **state)
{
    AUTO_ADAPTER_FILES(files);
    AUTO_SNAPSHOT(snapshot);
    AUTO_LOADED_ADAPTER(loaded);

    (void)state;
    read_adapter(&files, "bert/step-040");
    assert_int_equal(snapshot_encode(&snapshot, &files, NULL), 0);
    assert_int_equal(adapter_load(&loaded, &snapshot), 0);
    const struct buf *model = &file_of(&files, PEFT_MODEL)->data;
    for (size_t i = 0; i < loaded.adapter.layout.count; i++) {
        const struct tensor *tensor = &loaded.adapter.layout.tensors[i];
        if (tensor == loaded.adapter.a || tensor == loaded.adapter.basis_b)
            continue;
        struct bytes wanted = {
            model->data + loaded.adapter.layout.header_bytes + tensor->begin,
            (size_t)tensor_bytes(tensor)};
        assert_true(bytes_equal(loaded_tensor(&loaded, tensor), wanted));
    }
}

static void fault_case(const char *name, bool with_base)
{
    AUTO_ADAPTER_FILES(files);
    AUTO_BASE_FACTS(base);
    int err, n = 0;

    read_adapter(&files, name);
    base_make(&base, &files, 176, 176, DTYPE_F32);
    do {
        AUTO_SNAPSHOT(snapshot);
        fault_after = n++;
        err = snapshot_encode(&snapshot, &files, with_base ? &base : NULL);
        if (err == 0)
            err = snapshot_check(&snapshot);
        else
            assert_null(snapshot.manifest.data);
        fault_after = -1;
        assert_int_equal(err, err ? E_NOMEM : 0);
    } while (err < 0);
    assert_true(n > 50);
}

static void test_every_allocation_failure_is_reported(void **state)
{
    (void)state;
    fault_case("llama/step-000", false);
    fault_case("llama-vectors-only", true);
}

static void test_an_interrupt_stops(void **state)
{
    AUTO_ADAPTER_FILES(files);
    AUTO_SNAPSHOT(snapshot);

    (void)state;
    read_adapter(&files, "llama/step-000");
    interrupt_flag = 1;
    assert_int_equal(snapshot_encode(&snapshot, &files, NULL), E_INTERRUPTED);
    interrupt_flag = 0;
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_every_adapter_comes_back_and_its_basis_is_known),
        cmocka_unit_test(test_a_base_model_completes_a_declared_basis),
        cmocka_unit_test(test_a_basis_is_loaded_with_its_recorded_bits),
        cmocka_unit_test(test_a_declared_basis_is_bound_to_its_base),
        cmocka_unit_test(test_a_basis_with_a_flipped_bit_is_stored_and_comes_back),
        cmocka_unit_test(test_only_the_low_half_of_a_seed_counts_and_none_proves_nothing),
        cmocka_unit_test(test_a_declared_adapter_without_seed_is_stored_and_not_applied),
        cmocka_unit_test(test_every_dtype_and_value_is_stored_and_comes_back),
        cmocka_unit_test(test_tensors_in_any_order_come_back),
        cmocka_unit_test(test_every_flipped_bit_changes_the_id_or_is_refused),
        cmocka_unit_test(test_every_truncation_of_the_model_is_refused),
        cmocka_unit_test(test_damaged_parts_are_corrupt),
        cmocka_unit_test(test_parts_that_do_not_fit_are_corrupt),
        cmocka_unit_test(test_what_is_missing_is_said),
        cmocka_unit_test(test_a_configuration_that_is_not_veras_is_said),
        cmocka_unit_test(test_other_files_come_back_in_any_order),
        cmocka_unit_test(test_vectors_are_the_bytes_of_the_file),
        cmocka_unit_test(test_every_allocation_failure_is_reported),
        cmocka_unit_test(test_an_interrupt_stops),
    };
    return cmocka_run_group_tests(tests, adapters_setup, NULL);
}
