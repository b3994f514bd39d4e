/*
 * Tests of apply/live.c and what it stands on: swaps over all real adapters are, bit for bit, what
 * materialize() writes, in every layout that memory can have; after detaching the weights are the
 * base's; and what fails, for whatever reason, leaves every byte.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <fcntl.h>
#include <math.h>
#include <sys/stat.h>
#include <unistd.h>

#include "tests/fault.h"
#include "tests/live.h"

static void swap_to(struct choir *choir, struct live *live, size_t number, bool bundled)
{
    const struct snapshot *snapshot = &choir->adapters[number].snapshot;
    struct live_state before, after;
    AUTO_BUF(bundle);

    live_status(&before, live);
    bool same = before.attached && digest_equal(&before.snapshot, &snapshot->id);
    if (bundled) {
        must(bundle_encode(&bundle, snapshot, random_below(2)));
        must(live_swap_bundle(&after, live, buf_bytes(&bundle)));
    } else {
        must(live_swap(&after, live, snapshot));
    }
    assert_int_equal(after.epoch, before.epoch + !same);
    assert_true(after.attached && digest_equal(&after.snapshot, &snapshot->id));
    assert_true(same || after.had_previous == before.attached);
    assert_true(same || digest_equal(&after.previous, &before.snapshot));
    assert_true(after.stopped <= after.seconds);
    assert_memory(&choir->memory, &choir->adapters[number]);
}

static void swap_at_random(struct choir *choir, struct live *live, size_t swaps)
{
    struct live_state state;

    for (size_t i = 0; i < swaps; i++) {
        swap_to(choir, live, random_below(choir->count), i % 2);
        if (random_below(20) == 0) {
            must(live_detach(&state, live));
            assert_false(state.attached);
            assert_memory(&choir->memory, &choir->base);
        }
    }
    must(live_detach(&state, live));
    assert_memory(&choir->memory, &choir->base);
    uint64_t epoch = state.epoch;
    must(live_detach(&state, live));
    assert_int_equal(state.epoch, epoch); /* nothing was done */
}

#define LLAMAS "llama llama-c llama-perl llama-vectors-only"

static const struct {
    const char *base, *folders; /* a base without '/' is in the scratch folder */
    bool from_base, pinned;
    enum layout layout;
    size_t swaps;
} cases[] = {
    {FIXTURES "/base/llama", LLAMAS, true, true, LAYOUT_PLAIN, 300},
    {FIXTURES "/base/llama", LLAMAS, false, true, LAYOUTS, 200},
    {FIXTURES "/base/llama-half", "llama-half llama-half-vectors llama-half-vectors-only", true,
     false, LAYOUT_PLAIN, 100},
    {FIXTURES "/base/llama-half", "llama-half llama-half-vectors llama-half-vectors-only", false,
     true, LAYOUTS, 100},
    {"f16", "llama-half llama llama-vectors-only", true, false, LAYOUTS, 100},
    {FIXTURES "/base/gpt2", "gpt2", true, true, LAYOUTS, 100},
    {FIXTURES "/base/bert", "bert", false, true, LAYOUTS, 50},
    {FIXTURES "/base/bert", "bert", true, true, LAYOUT_PLAIN, 50},
};

static void test_a_thousand_random_swaps_never_drift(void **state)
{
    size_t swaps = 0;

    (void)state;
    write_f16("f16");
    for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
        AUTO_CHOIR(choir);
        AUTO_LIVE(live);
        choir_open(&choir, cases[i].base, cases[i].folders, cases[i].layout, cases[i].pinned);
        live = live_of_memory(&choir.memory, cases[i].from_base ? cases[i].base : NULL);
        swap_at_random(&choir, live, cases[i].swaps);
        swaps += cases[i].swaps;
    }
    assert_int_equal(swaps, 1000);
}

static void test_a_directory_is_an_adapter_too(void **state)
{
    AUTO_CHOIR(choir);
    AUTO_LIVE(live);
    struct live_state now;

    (void)state;
    choir_open(&choir, FIXTURES "/base/gpt2", "gpt2", LAYOUT_PLAIN, false);
    live = live_of_memory(&choir.memory, NULL);
    must(live_swap_directory(&now, live, choir.dirs[choir.count - 1]));
    assert_memory(&choir.memory, &choir.adapters[choir.count - 1]);
    assert_true(digest_equal(&now.snapshot, &choir.adapters[choir.count - 1].snapshot.id));
    assert_int_equal(live_swap_directory(&now, live, "no/such"), E_NOTFOUND);
    assert_memory(&choir.memory, &choir.adapters[choir.count - 1]);
}

/* Bare checkpoints lack the head model's prefix; so may the names of a program's modules. */
static void test_names_may_have_a_component_less_in_memory_or_in_the_base(void **state)
{
    AUTO_CHOIR(whole);
    AUTO_MEMORY(bare);
    AUTO_LIVE(live);
    AUTO_LIVE(cut);

    (void)state;
    choir_open(&whole, FIXTURES "/base/llama", "llama", LAYOUT_PLAIN, true);
    memory_open(&bare, FIXTURES "/base/llama", LAYOUT_PLAIN, "model.");
    cut = live_of_memory(&bare, FIXTURES "/base/llama");
    must(live_swap(NULL, cut, &whole.adapters[12].snapshot));
    assert_memory(&bare, &whole.adapters[12]);
    AUTO_CHOIR(bert);
    choir_open(&bert, FIXTURES "/base/bert", "bert", LAYOUT_PLAIN, false);
    write_bare_bert("bare", false); /* has no classifier: that is kept as a copy */
    live = live_of_memory(&bert.memory, "bare");
    must(live_swap(NULL, live, &bert.adapters[4].snapshot));
    assert_memory(&bert.memory, &bert.adapters[4]);
    must(live_detach(NULL, live));
    assert_memory(&bert.memory, &bert.base);
}

static void fused_case(const char *base, const char *folders, bool by_columns)
{
    const struct live_options options = {.threads = 2};
    AUTO_CHOIR(choir);
    AUTO_LIVE(live);

    choir_open(&choir, base, folders, LAYOUT_PLAIN, false);
    must(live_new(&live, &options));
    choir_fuse(&choir, by_columns);
    memory_register(live, &choir.memory);
    must(live_seal(live));
    swap_at_random(&choir, live, 30);
}

static void test_fused_weights_hold_several_modules(void **state)
{
    (void)state;
    fused_case(FIXTURES "/base/llama", "llama-c", false);
    fused_case(FIXTURES "/base/llama", "llama-c", true);
    fused_case(FIXTURES "/base/llama-half", "llama-half", false);
    fused_case(FIXTURES "/base/llama-half", "llama-half", true);
}

/* Two processes that share a model: rows of some weights, columns of others; layer 1 is not in the
   second one at all. */
static void test_shards_are_rows_or_columns_of_a_tensor(void **state)
{
    AUTO_CHOIR(choir);

    (void)state;
    choir_open(&choir, FIXTURES "/base/gpt2", "gpt2", LAYOUT_PLAIN, true);
    for (unsigned rank = 0; rank < 2; rank++) {
        const struct live_options options = {
            .base = rank ? NULL : FIXTURES "/base/gpt2", .threads = 2};
        AUTO_LIVE(live);
        struct live_state now;
        must(live_new(&live, &options));
        for (size_t i = 0; i < choir.memory.count; i++) {
            struct memory_tensor *tensor = &choir.memory.tensors[i];
            struct memory_part *part = &tensor->parts[0];
            bool rows = i / 2 % 2 || tensor->columns < 2,
                 away = rank && strstr(tensor->name, "h.1.");
            uint64_t size = rows ? tensor->rows : tensor->columns, half = size / 3 + 1;
            *(rows ? &part->row : &part->column) = rank ? half : 0;
            *(rows ? &part->rows : &part->columns) = rank ? size - half : half;
            part->row_stride = (size_t)part->columns * tensor->element;
            part->data = memory_block(&choir.memory, (size_t)part->rows * part->row_stride);
            tensor_fill(tensor, choir.base.tensors[i].data);
            struct live_place place = place_of(tensor, part);
            if (away)
                place.data = NULL;
            must(live_register(live, &place));
            if (away)
                tensor->part_count = 0;
        }
        must(live_seal(live));
        swap_at_random(&choir, live, 20);
        must(live_swap(&now, live, &choir.adapters[2].snapshot));
        assert_int_equal(now.pinned, !rank); /* a copy of a part proves nothing */
        for (size_t i = 0; i < choir.memory.count; i++)
            choir.memory.tensors[i].part_count = 1;
    }
}

/* What must not be swapped in: nothing of it may change a byte or the state. */

static void assert_refused(
    struct choir *choir, struct live *live, struct bytes bundle, int code, const char *says
)
{
    struct live_state before, after;

    live_status(&before, live);
    int err = live_swap_bundle(&after, live, bundle);
    if (err != code || !strstr(error_message(), says))
        fail_msg("%d, %s\nwanted: %d, %s", err, err < 0 ? error_message() : "", code, says);
    live_status(&after, live);
    assert_memory_equal(&before, &after, sizeof(before));
    assert_memory(&choir->memory, &choir->adapters[1]);
}

static void bundle_of(struct buf *out, const char *dir, const char *base)
{
    AUTO_SUBJECT(subject);
    AUTO_MODEL(model);

    if (base)
        must(model_open(&model, base));
    subject_open(&subject, dir, base ? &model : NULL);
    buf_release(out);
    must(bundle_encode(out, &subject.snapshot, false));
}

#define B_VECTOR PEFT_PREFIX "model.layers.1.mlp.up_proj.vera_lambda_b"

static void test_what_fails_leaves_every_byte(void **state)
{
    static const char *const llama = FIXTURES "/base/llama";
    AUTO_CHOIR(choir);
    AUTO_LIVE(live);
    AUTO_BUF(bundle);

    (void)state;
    choir_open(&choir, llama, "llama", LAYOUTS, true);
    live = live_of_memory(&choir.memory, llama);
    must(live_swap(NULL, live, &choir.adapters[1].snapshot));
    bundle_of(&bundle, FIXTURES "/adapter/gpt2/step-040", NULL);
    assert_refused(&choir, live, buf_bytes(&bundle), E_INVALID, "matched 0 of 8 modules");
    bundle_of(&bundle, FIXTURES "/adapter/bert/step-040", NULL);
    assert_refused(&choir, live, buf_bytes(&bundle), E_INVALID, "matched 0 of");
    bundle_of(&bundle, FIXTURES "/adapter/minilm/step-320", NULL);
    assert_refused(&choir, live, buf_bytes(&bundle), E_INVALID, "matched 0 of 36 modules");
    bundle_of(&bundle, FIXTURES "/adapter/llama-half/step-030", FIXTURES "/base/llama-half");
    assert_refused(&choir, live, buf_bytes(&bundle), E_CONFLICT, "not the base model");
    write_changed(choir.dirs[12], "nan", B_VECTOR, (float)NAN);
    bundle_of(&bundle, "nan", NULL);
    assert_refused(&choir, live, buf_bytes(&bundle), E_INVALID, "not finite");
    write_changed(choir.dirs[12], "inf", B_VECTOR, INFINITY);
    bundle_of(&bundle, "inf", NULL);
    assert_refused(&choir, live, buf_bytes(&bundle), E_INVALID, "up_proj");
    write_changed(choir.dirs[12], "basis", "base_model.vera_A", (float)NAN);
    bundle_of(&bundle, "basis", NULL);
    assert_refused(&choir, live, buf_bytes(&bundle), E_INVALID, "the basis: A holds");
    bundle_of(&bundle, choir.dirs[12], NULL);
    for (size_t len = 0; len < bundle.len; len += 501)
        assert_refused(&choir, live, (struct bytes){bundle.data, len}, E_CORRUPT, "bundle: ");
    for (size_t at = 0; at < bundle.len; at += 97) {
        bundle.data[at] ^= 1;
        assert_refused(&choir, live, buf_bytes(&bundle), E_CORRUPT, "bundle: ");
        bundle.data[at] ^= 1;
    }
    swap_to(&choir, live, 12, true);
}

/* The same shapes with another value: only the pin's digests tell. */
static void test_an_adapter_for_other_weights_is_refused_by_its_pin(void **state)
{
    AUTO_CHOIR(choir);
    AUTO_LIVE(live);
    AUTO_BUF(bundle);

    (void)state;
    choir_open(&choir, FIXTURES "/base/gpt2", "gpt2", LAYOUT_PLAIN, true);
    copy_dir(FIXTURES "/base/gpt2", "other");
    flip_bit(
        "other/" MODEL_FILE, tensor_offset(&choir.memory.model, "transformer.h.1.mlp.c_fc.weight")
    );
    for (int copied = 0; copied < 2; copied++) {
        live = live_of_memory(&choir.memory, copied ? NULL : FIXTURES "/base/gpt2");
        must(live_swap(NULL, live, &choir.adapters[1].snapshot));
        bundle_of(&bundle, choir.dirs[3], "other");
        assert_refused(
            &choir, live, buf_bytes(&bundle), E_CONFLICT, "\n  transformer.h.1.mlp.c_fc"
        );
        must(live_detach(NULL, live));
        live_free(live);
        live = NULL;
    }
}

static void test_what_an_adapter_brings_must_be_registered(void **state)
{
    const struct live_options options = {.threads = 1};
    AUTO_CHOIR(choir);
    AUTO_LIVE(live);

    (void)state;
    choir_open(&choir, FIXTURES "/base/bert", "bert", LAYOUT_PLAIN, false);
    must(live_new(&live, &options));
    for (size_t i = 0; i < choir.memory.count; i++) {
        const struct memory_tensor *tensor = &choir.memory.tensors[i];
        struct live_place place = place_of(tensor, &tensor->parts[0]);
        if (strncmp(tensor->name, "classifier.", 11) != 0)
            must(live_register(live, &place));
    }
    must(live_seal(live));
    assert_int_equal(live_swap(NULL, live, &choir.adapters[4].snapshot), E_UNSUPPORTED);
    assert_non_null(strstr(error_message(), "\n  classifier.weight"));
    assert_non_null(strstr(error_message(), "\n  classifier.bias"));
    assert_memory(&choir.memory, &choir.base);
}

/* Registering */

static struct live_place four_by_six(void *data, int64_t row_stride)
{
    return (struct live_place){
        .name = "w",
        .dtype = DTYPE_F32,
        .dims = 2,
        .shape = {4, 6},
        .data = data,
        .row_stride = row_stride,
        .column_stride = 1,
    };
}

static void test_parts_and_strides_that_are_none_are_refused(void **state)
{
    static float data[64];
    uint8_t *const odd = (uint8_t *)data + 2;
    const uint64_t huge = UINT64_MAX, wide = LIMIT_FEATURES + 1;
    const int64_t far = INT64_MAX;
    void *const each_threads = (void *)(uintptr_t)2; /* cudaStreamPerThread */
    const struct {
        struct live_place place;
        int code;
    } bad[] = {
        {{"", DTYPE_F32, 0, 2, {4, 6}, data, 6, 1, 0, 0, 0, 0, 0, 0, NULL}, E_INVALID},
        {{"a\nb", DTYPE_F32, 0, 2, {4, 6}, data, 6, 1, 0, 0, 0, 0, 0, 0, NULL}, E_INVALID},
        {{NULL, DTYPE_F32, 0, 2, {4, 6}, data, 6, 1, 0, 0, 0, 0, 0, 0, NULL}, E_INVALID},
        {{"w", DTYPE_F64, 0, 2, {4, 6}, data, 6, 1, 0, 0, 0, 0, 0, 0, NULL}, E_UNSUPPORTED},
        {{"w", DTYPE_I32, 0, 2, {4, 6}, data, 6, 1, 0, 0, 0, 0, 0, 0, NULL}, E_UNSUPPORTED},
        {{"w", DTYPE_F32, 0, 0, {4, 6}, data, 6, 1, 0, 0, 0, 0, 0, 0, NULL}, E_INVALID},
        {{"w", DTYPE_F32, 0, 3, {4, 6}, data, 6, 1, 0, 0, 0, 0, 0, 0, NULL}, E_INVALID},
        {{"w", DTYPE_F32, 0, 2, {0, 6}, data, 6, 1, 0, 0, 0, 0, 0, 0, NULL}, E_INVALID},
        {{"w", DTYPE_F32, 0, 2, {4, 0}, data, 6, 1, 0, 0, 0, 0, 0, 0, NULL}, E_INVALID},
        {{"w", DTYPE_F32, 0, 2, {4, wide}, data, 6, 1, 0, 0, 0, 0, 0, 0, NULL}, E_INVALID},
        {{"w", DTYPE_F32, 0, 2, {4, 6}, odd, 6, 1, 0, 0, 0, 0, 0, 0, NULL}, E_INVALID},
        {{"w", DTYPE_F32, 0, 2, {4, 6}, data, 6, 1, 4, 0, 0, 0, 0, 0, NULL}, E_INVALID},
        {{"w", DTYPE_F32, 0, 2, {4, 6}, data, 6, 1, 0, 5, 0, 0, 0, 0, NULL}, E_INVALID},
        {{"w", DTYPE_F32, 0, 2, {4, 6}, data, 6, 1, 3, 2, 0, 0, 0, 0, NULL}, E_INVALID},
        {{"w", DTYPE_F32, 0, 2, {4, 6}, data, 6, 1, 2, huge, 0, 0, 0, 0, NULL}, E_INVALID},
        {{"w", DTYPE_F32, 0, 2, {4, 6}, data, 6, 1, 0, 0, 6, 0, 0, 0, NULL}, E_INVALID},
        {{"w", DTYPE_F32, 0, 2, {4, 6}, data, 6, 1, 0, 0, 1, 6, 0, 0, NULL}, E_INVALID},
        {{"w", DTYPE_F32, 0, 2, {4, 6}, data, -6, 1, 0, 0, 0, 0, 0, 0, NULL}, E_INVALID},
        {{"w", DTYPE_F32, 0, 2, {4, 6}, data, 5, 1, 0, 0, 0, 0, 0, 0, NULL}, E_INVALID},
        {{"w", DTYPE_F32, 0, 2, {4, 6}, data, 1, 3, 0, 0, 0, 0, 0, 0, NULL}, E_INVALID},
        {{"w", DTYPE_F32, 0, 2, {4, 6}, data, 0, 1, 0, 0, 0, 0, 0, 0, NULL}, E_INVALID},
        {{"w", DTYPE_F32, 0, 2, {4, 6}, data, 6, 0, 0, 0, 0, 0, 0, 0, NULL}, E_INVALID},
        {{"w", DTYPE_F32, 0, 2, {4, 6}, data, far, 1, 0, 0, 0, 0, 0, 0, NULL}, E_INVALID},
        {{"w", DTYPE_F32, 0, 2, {4, 6}, data, 1, far / 4, 0, 0, 0, 0, 0, 0, NULL}, E_INVALID},
        {{"w", DTYPE_F32, 0, 2, {4, 6}, data, far / 16, 1, 0, 0, 0, 0, 0, 0, NULL}, E_INVALID},
        {{"w", DTYPE_F32, 0, 2, {4, 6}, data, 6, 1, 0, 0, 0, 0, 1, -1, NULL}, E_INVALID},
        {{"w", DTYPE_F32, 0, 2, {4, 6}, data, 6, 1, 0, 0, 0, 0, 1, 0, each_threads}, E_INVALID},
    };
    const struct live_options options = {0};
    AUTO_LIVE(live);

    (void)state;
    must(live_new(&live, &options));
    for (size_t i = 0; i < sizeof(bad) / sizeof(bad[0]); i++) {
        int err = live_register(live, &bad[i].place);
        if (err != bad[i].code)
            fail_msg("case %zu: %d", i, err);
    }
    struct live_place place = four_by_six(data, 7);
    assert_int_equal(live_seal(live), E_INVALID); /* nothing was registered */
    must(live_register(live, &place));
    place.shape[0] = 5;
    assert_int_equal(live_register(live, &place), E_INVALID);
    place.shape[0] = 4;
    place.dtype = DTYPE_F16;
    assert_int_equal(live_register(live, &place), E_INVALID);
    assert_int_equal(live_swap_directory(NULL, live, FIXTURES "/adapter/gpt2/step-000"), E_INVALID);
    must(live_seal(live));
    assert_int_equal(live_seal(live), E_INVALID);
    place.dtype = DTYPE_F32;
    assert_int_equal(live_register(live, &place), E_INVALID);
}

static int seal_two(size_t first, size_t second, int64_t stride)
{
    static float data[64];
    const struct live_options options = {0};
    AUTO_LIVE(live);

    must(live_new(&live, &options));
    struct live_place place = four_by_six(data + first, stride);
    must(live_register(live, &place));
    place.name = "x";
    place.data = data + second;
    must(live_register(live, &place));
    return live_seal(live);
}

static void test_weights_that_lie_on_each_other_are_refused(void **state)
{
    (void)state;
    assert_int_equal(seal_two(0, 0, 6), E_INVALID);
    assert_int_equal(seal_two(0, 0, 7), E_INVALID);
    assert_int_equal(seal_two(0, 23, 6), E_INVALID);
    assert_int_equal(seal_two(23, 0, 6), E_INVALID);
    assert_non_null(strstr(error_message(), "\n  x and w"));
    must(seal_two(0, 24, 6));
    must(seal_two(0, 6, 12)); /* beside each other in one matrix */
}

static void test_weights_that_are_not_the_bases_are_refused_by_name(void **state)
{
    static const char *const base = FIXTURES "/base/llama";
    const struct live_options options = {.base = base}, nowhere = {.base = "no/such"};
    AUTO_MEMORY(memory);

    (void)state;
    memory_open(&memory, base, LAYOUTS, "");
    for (size_t i = 0; i < memory.count; i += 3) {
        AUTO_LIVE(live);
        struct memory_part *part = &memory.tensors[i].parts[0];
        uint8_t *last = element_at(part, part->rows - 1, part->columns - 1);
        must(live_new(&live, &options));
        memory_register(live, &memory);
        *last ^= 1;
        assert_int_equal(live_seal(live), E_CONFLICT);
        assert_non_null(strstr(error_message(), memory.tensors[i].name));
        assert_int_equal(live_detach(NULL, live), E_INVALID); /* it is good for nothing */
        *last ^= 1;
    }
    AUTO_LIVE(live);
    must(live_new(&live, &nowhere));
    memory_register(live, &memory);
    assert_int_equal(live_seal(live), E_NOTFOUND);
    AUTO_MEMORY(half);
    AUTO_LIVE(other);
    memory_open(&half, FIXTURES "/base/llama-half", LAYOUT_PLAIN, "");
    must(live_new(&other, &options));
    memory_register(other, &half);
    assert_int_equal(live_seal(other), E_CONFLICT);
    assert_non_null(strstr(error_message(), "another dtype"));
}

static void rewrite_in_place(const char *path, uint64_t len)
{
    AUTO_BUF(data);
    const struct timespec since[2] = {{.tv_nsec = UTIME_OMIT}, {.tv_sec = 1}};

    must(file_read(&data, path, GIB));
    FILE *file = fopen(path, "wb");
    assert_non_null(file);
    assert_int_equal(fwrite(data.data, 1, len < data.len ? (size_t)len : data.len, file), len);
    assert_int_equal(fclose(file), 0);
    assert_int_equal(utimensat(AT_FDCWD, path, since, 0), 0);
}

/* What would be put back is not the base's any more, or not there, which would end the process. */
static void test_a_base_that_was_written_to_is_not_swapped_from(void **state)
{
    static const char *const path = "base/model-00002-of-00003.safetensors";
    AUTO_CHOIR(choir);
    AUTO_LIVE(live);
    struct live_state before, after;
    struct stat status;

    (void)state;
    copy_dir(FIXTURES "/base/llama", "base");
    choir_open(&choir, "base", "llama llama-vectors-only", LAYOUTS, true);
    live = live_of_memory(&choir.memory, "base");
    must(live_swap(&before, live, &choir.adapters[0].snapshot));
    assert_int_equal(chmod(path, 0600), 0); /* neither this nor another name is a change */
    assert_int_equal(link(path, "another"), 0);
    must(live_swap(&before, live, &choir.adapters[1].snapshot));
    assert_int_equal(stat(path, &status), 0);
    for (int shortened = 0; shortened < 2; shortened++) {
        rewrite_in_place(path, shortened ? 4096 : (uint64_t)status.st_size);
        assert_int_equal(live_swap(NULL, live, &choir.adapters[0].snapshot), E_CONFLICT);
        assert_non_null(strstr(error_message(), path));
        assert_int_equal(live_detach(NULL, live), E_CONFLICT);
        live_status(&after, live);
        assert_int_equal(after.epoch, before.epoch);
        assert_memory(&choir.memory, &choir.adapters[1]);
    }
}

static void test_a_base_that_was_replaced_is_mapped_still(void **state)
{
    AUTO_CHOIR(choir);
    AUTO_LIVE(live);

    (void)state;
    copy_dir(FIXTURES "/base/llama", "base");
    choir_open(&choir, "base", "llama llama-vectors-only", LAYOUTS, true);
    live = live_of_memory(&choir.memory, "base");
    assert_int_equal(rename("base/config.json", "base/model-00001-of-00003.safetensors"), 0);
    swap_at_random(&choir, live, 10);
    assert_int_equal(unlink("base/model-00002-of-00003.safetensors"), 0);
    swap_at_random(&choir, live, 10);
}

/* A square weight does not tell how it lies; who registers it may. */
static void test_a_layer_lies_as_it_is_said_to(void **state)
{
    (void)state;
    for (int said = 0; said < 2; said++) {
        AUTO_CHOIR(choir);
        AUTO_LIVE(live);
        const struct live_options options = {.threads = 1};
        choir_open(&choir, FIXTURES "/base/gpt2", "gpt2", LAYOUT_PLAIN, false);
        must(live_new(&live, &options));
        for (size_t i = 0; i < choir.memory.count; i++) {
            struct live_place place = place_of(
                &choir.memory.tensors[i], &choir.memory.tensors[i].parts[0]
            );
            place.lies = said ? MODEL_LIES_LINEAR : MODEL_LIES_CONV1D;
            must(live_register(live, &place));
        }
        must(live_seal(live));
        int err = live_swap(NULL, live, &choir.adapters[4].snapshot);
        assert_int_equal(err, said ? E_INVALID : 0);
        assert_memory(&choir.memory, said ? &choir.base : &choir.adapters[4]);
    }
}

/* What a model can be sent */

static void test_room_is_what_fits_the_model(void **state)
{
    AUTO_CHOIR(choir);
    AUTO_LIVE(live);
    struct bundle_header header;
    struct bundle_room room;

    (void)state;
    choir_open(&choir, FIXTURES "/base/llama", LLAMAS, LAYOUT_PLAIN, true);
    live = live_of_memory(&choir.memory, NULL);
    live_room(&room, live);
    for (size_t i = 0; i < choir.count; i++) {
        AUTO_BUF(bare);
        AUTO_BUF(whole);
        must(bundle_encode(&bare, &choir.adapters[i].snapshot, false));
        must(bundle_header_decode(&header, buf_bytes(&bare), &room));
        must(bundle_encode(&whole, &choir.adapters[i].snapshot, true));
        assert_int_equal(bundle_header_decode(&header, buf_bytes(&whole), &room), E_LIMIT);
    }
    uint64_t weights = 0;
    for (size_t i = 0; i < choir.base.count; i++)
        weights += choir.base.tensors[i].len;
    assert_int_equal(room.part_bytes[BUNDLE_PAYLOAD], weights);
    assert_true(room.part_bytes[BUNDLE_LAYOUT] < MIB);
}

/* Memory */

static void test_every_failed_allocation_leaves_every_byte(void **state)
{
    AUTO_CHOIR(choir);
    AUTO_LIVE(live);
    AUTO_BUF(bundle);
    struct live_state before, after;
    int faults = 0;

    (void)state;
    choir_open(&choir, FIXTURES "/base/bert", "bert", LAYOUTS, true);
    live = live_of_memory(&choir.memory, FIXTURES "/base/bert");
    must(live_swap(NULL, live, &choir.adapters[1].snapshot));
    must(bundle_encode(&bundle, &choir.adapters[4].snapshot, true));
    live_status(&before, live);
    for (;; faults++) {
        fault_after = faults;
        int err = live_swap_bundle(&after, live, buf_bytes(&bundle));
        bool ran_through = fault_after >= 0;
        fault_after = -1;
        if (err == 0) {
            assert_true(ran_through);
            break;
        }
        assert_int_equal(err, E_NOMEM);
        live_status(&after, live);
        assert_memory_equal(&before, &after, sizeof(before));
        assert_memory(&choir.memory, &choir.adapters[1]);
    }
    assert_true(faults > 50);
    assert_memory(&choir.memory, &choir.adapters[4]);
    for (int n = 0;; n++) {
        fault_after = n;
        int err = live_detach(&after, live);
        fault_after = -1;
        assert_memory(&choir.memory, err ? &choir.adapters[4] : &choir.base);
        if (err == 0)
            return;
        assert_int_equal(err, E_NOMEM);
    }
}

static void test_every_failed_allocation_in_sealing_is_nomem(void **state)
{
    AUTO_MEMORY(memory);

    (void)state;
    memory_open(&memory, FIXTURES "/base/bert", LAYOUTS, "");
    for (int n = 0;; n++) {
        const struct live_options options = {.base = n % 2 ? FIXTURES "/base/bert" : NULL};
        AUTO_LIVE(live);
        must(live_new(&live, &options));
        memory_register(live, &memory);
        fault_after = n / 2;
        int err = live_seal(live);
        bool ran_through = fault_after >= 0;
        fault_after = -1;
        if (err == 0 && n % 2) {
            assert_true(ran_through && n > 20);
            return;
        }
        assert_true(err == E_NOMEM || err == 0);
    }
}

/* A and B of one adapter at a time have room: the other's are drawn again. */
static void test_few_bases_are_kept(void **state)
{
    AUTO_CHOIR(choir);
    AUTO_LIVE(live);
    const struct live_options one = {.threads = 1, .basis_max = 2 * 32 * 176 * 4},
                              none = {.threads = 1, .basis_max = 2 * 32 * 176 * 4 - 1};
    AUTO_LIVE(small);

    (void)state;
    choir_open(&choir, FIXTURES "/base/llama", "llama-c llama-vectors-only", LAYOUT_PLAIN, true);
    must(live_new(&live, &one));
    memory_register(live, &choir.memory);
    must(live_seal(live));
    swap_at_random(&choir, live, 30);
    must(live_new(&small, &none));
    memory_register(small, &choir.memory);
    must(live_seal(small));
    assert_int_equal(live_swap(NULL, small, &choir.adapters[1].snapshot), E_LIMIT);
    assert_memory(&choir.memory, &choir.base);
}

int main(void)
{
#define TEST(name) cmocka_unit_test_setup_teardown(name, scratch_make, scratch_remove)
    const struct CMUnitTest tests[] = {
        TEST(test_a_thousand_random_swaps_never_drift),
        TEST(test_a_directory_is_an_adapter_too),
        TEST(test_names_may_have_a_component_less_in_memory_or_in_the_base),
        TEST(test_fused_weights_hold_several_modules),
        TEST(test_shards_are_rows_or_columns_of_a_tensor),
        TEST(test_what_fails_leaves_every_byte),
        TEST(test_an_adapter_for_other_weights_is_refused_by_its_pin),
        TEST(test_what_an_adapter_brings_must_be_registered),
        TEST(test_parts_and_strides_that_are_none_are_refused),
        TEST(test_weights_that_lie_on_each_other_are_refused),
        TEST(test_weights_that_are_not_the_bases_are_refused_by_name),
        TEST(test_a_base_that_was_written_to_is_not_swapped_from),
        TEST(test_a_base_that_was_replaced_is_mapped_still),
        TEST(test_a_layer_lies_as_it_is_said_to),
        TEST(test_room_is_what_fits_the_model),
        TEST(test_every_failed_allocation_leaves_every_byte),
        TEST(test_every_failed_allocation_in_sealing_is_nomem),
        TEST(test_few_bases_are_kept),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
