/* Tests of apply/lora*.c: factors from known numbers, the order of a head's rows, and what happens
   where memory or a system call fails: nothing is left. What the files hold is compared byte for
   byte in tests/cli/test_exports.py. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <errno.h>
#include <math.h>

#include "apply/lora_gguf.h"
#include "apply/lora_peft.h"
#include "tests/adapters.h"
#include "tests/fault.h"

static int call_after = -1; /* calls until the one that fails; -1: none does */

static bool due(void)
{
    return call_after >= 0 && call_after-- == 0;
}

#define WRAP(type, name, parameters, arguments)                                                    \
    type __real_##name parameters;                                                                 \
    type __wrap_##name parameters;                                                                 \
    type __wrap_##name parameters                                                                  \
    {                                                                                              \
        errno = ENOSPC;                                                                            \
        return due() ? (type)-1 : __real_##name arguments;                                         \
    }

WRAP(int, openat64, (int at, const char *path, int flags, mode_t mode), (at, path, flags, mode))
WRAP(int, mkdir, (const char *path, mode_t mode), (path, mode))
WRAP(int, fsync, (int fd), (fd))
WRAP(int, rename, (const char *from, const char *to), (from, to))
WRAP(ssize_t, write, (int fd, const void *data, size_t len), (fd, data, len))

/* An adapter with two modules on a basis of rank 2: b counts from 1, d is 1 and 2. */
struct scene {
    struct subject subject;
    struct basis basis;
    struct effects effects;
    uint64_t in[2];
    struct lora lora;
    struct gguf_model model;
};

static void scene_release(struct scene *scene)
{
    effects_release(&scene->effects);
    basis_release(&scene->basis);
    subject_release(&scene->subject);
}

#define AUTO_SCENE(name) __attribute__((cleanup(scene_release))) struct scene name = {0}

#define LAYER "model.layers.0.self_attn."
#define LLAMA "{\"model_type\": \"llama\", \"num_attention_heads\": 2}"

static void adapter_write(uint64_t q_rows, uint64_t v_rows, float first)
{
    AUTO_FREE(float, b);
    static const float d[] = {1, 2};

    assert_non_null(b = array_new((size_t)(q_rows + v_rows), sizeof(*b)));
    for (size_t i = 0; i < q_rows + v_rows; i++)
        b[i] = (float)(i + 1);
    b[0] = first;
    const struct given given[] = {
        {PEFT_PREFIX LAYER "q_proj.vera_lambda_b", DTYPE_F32, 1, {q_rows}, b},
        {PEFT_PREFIX LAYER "q_proj.vera_lambda_d", DTYPE_F32, 1, {2}, d},
        {PEFT_PREFIX LAYER "v_proj.vera_lambda_b", DTYPE_F32, 1, {v_rows}, b},
        {PEFT_PREFIX LAYER "v_proj.vera_lambda_d", DTYPE_F32, 1, {2}, d},
        {PEFT_PREFIX "score.weight", DTYPE_F16, 1, {2}, d},
    };
    write_given("a/" PEFT_MODEL, given, 5);
    put("a/" PEFT_CONFIG,
        "{\"peft_type\": \"VERA\", \"r\": 2, \"save_projection\": false, \"bias\": \"none\", "
        "\"modules_to_save\": [\"score\"], \"base_model_name_or_path\": \"n\"}");
}

/* A[k, j] = 10 k + j, B[i, k] = i + k / 2. */
static void scene_open(struct scene *scene, uint64_t q_rows, uint64_t v_rows, uint64_t in, float b)
{
    uint64_t out = q_rows > v_rows ? q_rows : v_rows;

    adapter_write(q_rows, v_rows, b);
    subject_open(&scene->subject, "a", NULL);
    scene->basis = (struct basis){.rank = 2, .in = in + 1, .out = out};
    scene->basis.a = array_new((size_t)(2 * (in + 1)), sizeof(float));
    scene->basis.b = array_new((size_t)(2 * out), sizeof(float));
    for (uint64_t i = 0; i < 2 * (in + 1); i++)
        scene->basis.a[i] = (float)(10 * (i / (in + 1)) + i % (in + 1));
    for (uint64_t i = 0; i < 2 * out; i++)
        scene->basis.b[i] = (float)(i / 2) + (float)(i % 2) / 2;
    assert_int_equal(effects_init(&scene->effects, &scene->subject.loaded, &scene->basis), 0);
    scene->in[0] = scene->in[1] = in;
    scene->lora = (struct lora
    ){&scene->subject.loaded, &scene->basis, &scene->effects, scene->in, DTYPE_F32};
    assert_int_equal(gguf_model_read(&scene->model, text_bytes(LLAMA)), 0);
}

/* A factor as it is written, read back. */
static void factor_read(
    struct buf *out, const struct lora *lora, size_t module, enum lora_factor factor, uint64_t heads
)
{
    AUTO_OUTDIR(dir);
    AUTO_SINK(sink);
    AUTO_MANIFEST(files);
    struct progress_sum sum;
    struct digest digest;

    progress_sum_init(&sum, NULL, lora_bytes(lora, module, factor));
    assert_int_equal(outdir_begin(&dir, "factor", true), 0);
    assert_int_equal(sink_open(&sink, &dir, "f", &sum), 0);
    assert_int_equal(lora_write(&sink, lora, module, factor, heads), 0);
    assert_int_equal(sink_close(&files, &sink), 0);
    assert_int_equal(outdir_commit(&dir), 0);
    assert_int_equal(file_read(out, "factor/f", MIB), 0);
    assert_int_equal(out->len, lora_bytes(lora, module, factor));
    assert_int_equal(files.files[0].bytes, out->len);
    assert_int_equal(digest_of(&digest, buf_bytes(out)), 0);
    assert_true(digest_equal(&digest, &files.files[0].digest));
    progress_sum_release(&sum);
}

static void test_factors_are_the_matrices_times_the_vectors(void **state)
{
    static const float a[] = {0, 1, 2, 20, 22, 24}; /* 1 x, 2 x; the fourth column is not ours */
    static const float b[] = {0, .5F, 2, 3, 6, 7.5F, 12, 14};
    AUTO_SCENE(scene);
    AUTO_BUF(found_a);
    AUTO_BUF(found_b);

    (void)state;
    scene_open(&scene, 4, 2, 3, 1);
    factor_read(&found_a, &scene.lora, 0, LORA_A, 0);
    factor_read(&found_b, &scene.lora, 0, LORA_B, 0);
    assert_int_equal(found_a.len, sizeof(a));
    assert_memory_equal(found_a.data, a, sizeof(a));
    assert_int_equal(found_b.len, sizeof(b));
    assert_memory_equal(found_b.data, b, sizeof(b));
}

/* Heads of four rows: 0 1 2 3 is 0 2 1 3; of two: as they are; one of eight: 0 4 1 5 2 6 3 7. */
static void test_rows_of_a_head_are_reordered(void **state)
{
    static const struct {
        uint64_t heads, order[8];
    } orders[] = {
        {0, {0, 1, 2, 3, 4, 5, 6, 7}},
        {4, {0, 1, 2, 3, 4, 5, 6, 7}},
        {2, {0, 2, 1, 3, 4, 6, 5, 7}},
        {1, {0, 4, 1, 5, 2, 6, 3, 7}},
    };
    AUTO_SCENE(scene);

    (void)state;
    scene_open(&scene, 8, 2, 3, 1);
    for (size_t i = 0; i < sizeof(orders) / sizeof(orders[0]); i++) {
        AUTO_BUF(found);
        factor_read(&found, &scene.lora, 0, LORA_B, orders[i].heads);
        for (size_t row = 0; row < 8; row++) {
            float values[2], from = (float)orders[i].order[row];
            memcpy(values, found.data + row * sizeof(values), sizeof(values));
            assert_float_equal(values[0], (from + 1) * from, 0);
            assert_float_equal(values[1], (from + 1) * (from + .5F), 0);
        }
    }
}

static int write_form(const struct scene *scene, bool gguf)
{
    const struct lora_peft_options options = {0};
    AUTO_OUTDIR(dir);
    AUTO_MANIFEST(files);

    int err = outdir_begin(&dir, "out", false);
    if (err == 0)
        err = gguf ? lora_gguf_write(&files, &dir, &scene->lora, &scene->model, NULL)
                   : lora_peft_write(&files, &dir, &scene->lora, &options, NULL);
    return err < 0 ? err : outdir_commit(&dir);
}

/* What is in the scratch directory, but for the adapter. */
static bool nothing_is_left(void)
{
    AUTO_BUF(names);
    bool nothing = true;

    assert_int_equal(dir_names(&names, "."), 0);
    for (size_t at = 0; at < names.len; at += strlen((const char *)names.data + at) + 1) {
        const char *name = (const char *)names.data + at;
        nothing &= strcmp(name, "a") == 0 || strcmp(name, "factor") == 0;
    }
    return nothing;
}

/* Where only the last sync failed, all of it is there. */
static void check_whole(struct bytes whole, const char *file)
{
    AUTO_BUF(found);

    assert_int_equal(file_read(&found, file, MIB), 0);
    assert_true(bytes_equal(buf_bytes(&found), whole));
    assert_int_equal(tree_remove("out"), 0);
}

static void every_failure_leaves_nothing(int *after, int wanted, bool gguf)
{
    const char *file = gguf ? "out/" LORA_GGUF_FILE : "out/" PEFT_MODEL;
    AUTO_SCENE(scene);
    AUTO_BUF(whole);
    int err = wanted, n = 0, left = 0;

    scene_open(&scene, 8, 4, 3, 1);
    assert_int_equal(write_form(&scene, gguf), 0);
    assert_int_equal(file_read(&whole, file, MIB), 0);
    assert_int_equal(tree_remove("out"), 0);
    for (; err; n++) {
        *after = n;
        err = write_form(&scene, gguf);
        *after = -1;
        assert_true(err == 0 || err == wanted);
        left += err && !nothing_is_left();
        if (!nothing_is_left())
            check_whole(buf_bytes(&whole), file);
    }
    assert_true(n > 5 && left <= 1);
}

static void test_every_failing_allocation_leaves_nothing(void **state)
{
    (void)state;
    every_failure_leaves_nothing(&fault_after, E_NOMEM, false);
    every_failure_leaves_nothing(&fault_after, E_NOMEM, true);
}

static void test_every_failing_call_leaves_nothing(void **state)
{
    (void)state;
    every_failure_leaves_nothing(&call_after, E_IO, false);
    every_failure_leaves_nothing(&call_after, E_IO, true);
}

static void test_an_interrupt_leaves_nothing(void **state)
{
    AUTO_SCENE(scene);

    (void)state;
    scene_open(&scene, 8, 4, 3, 1);
    for (int gguf = 0; gguf < 2; gguf++) {
        interrupt_flag = 1;
        assert_int_equal(write_form(&scene, gguf), E_INTERRUPTED);
        interrupt_flag = 0;
        assert_true(nothing_is_left());
    }
}

/* A factor of 8 MB, of which a block of rows is in memory at a time. */
static void test_memory_is_bounded_whatever_the_size(void **state)
{
    AUTO_SCENE(scene);

    (void)state;
    scene_open(&scene, (uint64_t)1 << 20, 4, (uint64_t)1 << 20, 1);
    for (int gguf = 0; gguf < 2; gguf++) {
        fault_largest = 0;
        assert_int_equal(write_form(&scene, gguf), 0);
        /* A row of A' is 4 MB, as wide as no model is; of B' there are 32,768 rows in a block. */
        assert_true(fault_largest <= (size_t)4 << 20);
        assert_int_equal(tree_remove("out"), 0);
    }
}

static void test_values_that_are_not_finite_are_refused(void **state)
{
    static const struct {
        float b;
        enum dtype dtype;
        int err;
    } values[] = {
        {65504, DTYPE_F16, 0},          /* B[0, 1] is 1/2 */
        {131008, DTYPE_F16, 0},         /* 65504, the largest */
        {131040, DTYPE_F16, E_INVALID}, /* 65520 is rounded up */
        {131040, DTYPE_BF16, 0},
        {3e38F, DTYPE_F32, 0},
        {(float)INFINITY, DTYPE_F32, E_INVALID},
        {(float)NAN, DTYPE_F32, E_INVALID},
        {(float)-INFINITY, DTYPE_BF16, E_INVALID},
    };

    (void)state;
    for (size_t i = 0; i < sizeof(values) / sizeof(values[0]); i++) {
        AUTO_SCENE(scene);
        scene_open(&scene, 8, 4, 3, values[i].b);
        scene.lora.dtype = values[i].dtype;
        for (int gguf = 0; gguf < 2; gguf++) {
            assert_int_equal(write_form(&scene, gguf), values[i].err);
            if (values[i].err) {
                assert_non_null(strstr(error_message(), LAYER "q_proj"));
                assert_true(nothing_is_left());
            } else {
                assert_int_equal(tree_remove("out"), 0);
            }
        }
    }
}

static void test_a_matrix_that_is_not_finite_is_refused(void **state)
{
    AUTO_SCENE(scene);

    (void)state;
    scene_open(&scene, 8, 4, 3, 1);
    scene.basis.a[3] = (float)INFINITY; /* the fourth column: no module reads it */
    assert_int_equal(write_form(&scene, false), 0);
    assert_int_equal(tree_remove("out"), 0);
    scene.basis.a[5] = (float)NAN;
    assert_int_equal(write_form(&scene, false), E_INVALID);
    assert_non_null(strstr(error_message(), "lora_A[1, 1]"));
    assert_true(nothing_is_left());
}

static void test_what_a_gguf_cannot_hold_is_listed_in_order(void **state)
{
    AUTO_SCENE(scene);
    AUTO_LORA_LEFT(left);

    (void)state;
    scene_open(&scene, 8, 4, 3, 1);
    assert_int_equal(lora_gguf_left(&left, &scene.subject.loaded, &scene.model), 0);
    assert_int_equal(left.count, 1);
    assert_string_equal(left.names[0], "score.weight");
    int err = E_NOMEM;
    for (int n = 0; err; n++) {
        AUTO_LORA_LEFT(again);
        fault_after = n;
        err = lora_gguf_left(&again, &scene.subject.loaded, &scene.model);
        fault_after = -1;
        assert_true(err == 0 || (err == E_NOMEM && again.count == 0));
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_factors_are_the_matrices_times_the_vectors),
        cmocka_unit_test(test_rows_of_a_head_are_reordered),
        cmocka_unit_test(test_every_failing_allocation_leaves_nothing),
        cmocka_unit_test(test_every_failing_call_leaves_nothing),
        cmocka_unit_test(test_an_interrupt_leaves_nothing),
        cmocka_unit_test(test_memory_is_bounded_whatever_the_size),
        cmocka_unit_test(test_values_that_are_not_finite_are_refused),
        cmocka_unit_test(test_a_matrix_that_is_not_finite_is_refused),
        cmocka_unit_test(test_what_a_gguf_cannot_hold_is_listed_in_order),
    };
    return cmocka_run_group_tests(tests, scratch_make, scratch_remove);
}
