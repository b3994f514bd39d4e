/*
 * Tests of apply/backend.h and of the CUDA module's own side (apply/cuda/module.cu, lane.cu), on
 * the emulated device: the same sources, compiled for the CPU and loaded as a module. Whatever the
 * device does, the bits are the processor's, or there is an error that says what failed and
 * nothing is left. Kernels alone: tests/test_cuda_kernels.cpp.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <fcntl.h>
#include <fenv.h>

#if defined(__x86_64__)
#include <xmmintrin.h>
#endif

#include "tests/adapters.h"
#include "tests/emulated_device.h"

static int device_load(void **state)
{
    (void)state;
    return emulated_load(CUDA_MODULE);
}

static int setup(void **state)
{
    emulated.reset();
    return setenv("VERA_CUDA_MODULE", CUDA_MODULE, 1) == 0 ? scratch_make(state) : -1;
}

/* Whatever a test did, the device's memory is free again. */
static int teardown(void **state)
{
    int err = scratch_remove(state);

    return err == 0 && emulated.leaks() == 0 ? 0 : -1;
}

/* Same files, same bytes */

static size_t entry_count(const char *path)
{
    AUTO_BUF(names);
    size_t count = 0;

    assert_int_equal(dir_names(&names, path), 0);
    for (size_t i = 0; i < names.len; i++)
        count += names.data[i] == 0;
    return count;
}

static void assert_same_files(const char *left, const char *right)
{
    AUTO_BUF(names);

    assert_int_equal(entry_count(left), entry_count(right));
    assert_int_equal(dir_names(&names, left), 0);
    for (size_t at = 0; at < names.len; at += strlen((const char *)names.data + at) + 1) {
        const char *name = (const char *)names.data + at;
        AUTO_FREE(char, left_path);
        AUTO_FREE(char, right_path);
        AUTO_BUF(left_data);
        AUTO_BUF(right_data);
        assert_int_equal(path_join(&left_path, left, name), 0);
        assert_int_equal(path_join(&right_path, right, name), 0);
        assert_int_equal(file_read(&left_data, left_path, GIB), 0);
        assert_int_equal(file_read(&right_data, right_path, GIB), 0);
        if (!bytes_equal(buf_bytes(&left_data), buf_bytes(&right_data)))
            fail_msg("%s and %s differ", left_path, right_path);
    }
}

static void assert_message_has(const char *part)
{
    if (!strstr(error_message(), part))
        fail_msg("'%s' is not in: %s", part, error_message());
}

static size_t descriptor_count(void)
{
    size_t count = 0;

    for (int fd = 0; fd < 1024; fd++)
        count += fcntl(fd, F_GETFD) >= 0;
    return count;
}

/* A base and an adapter, and "cpu", which the processor made of them. */
struct scene {
    struct model base;
    struct subject subject;
    struct apply_result result;
};

static void scene_release(struct scene *scene)
{
    apply_result_release(&scene->result);
    subject_release(&scene->subject);
    model_release(&scene->base);
}

#define AUTO_SCENE(name) __attribute__((cleanup(scene_release))) struct scene name = {0}

static void scene_begin(struct scene *scene)
{
    const struct apply_input input = {&scene->subject.loaded, 1};
    const struct apply_options options = {.threads = 1, .report = true};

    assert_int_equal(materialize(&scene->result, &input, 1, &scene->base, "cpu", &options), 0);
    assert_string_equal(scene->result.device, "cpu");
}

static void scene_make(struct scene *scene, const char *name)
{
    assert_int_equal(model_open(&scene->base, fixture_base(name)), 0);
    fixture_open(&scene->subject, name, &scene->base);
    scene_begin(scene);
}

/* On the device, into "cuda". */
static int scene_run(struct apply_result *out, const struct scene *scene, unsigned threads)
{
    const struct apply_input input = {&scene->subject.loaded, 1};
    const struct apply_options options = {.threads = threads, .device = DEVICE_CUDA};

    return materialize(out, &input, 1, &scene->base, "cuda", &options);
}

/* The run went well, or it failed and left nothing. Removes what it made. */
static void assert_whole_or_nothing(int err)
{
    assert_int_equal(entry_count("."), err == 0 ? 2 : 1);
    if (err < 0)
        return;
    assert_same_files("cpu", "cuda");
    assert_int_equal(tree_remove("cuda"), 0);
}

static void assert_same_reports(const struct apply_result *left, const struct apply_result *right)
{
    assert_int_equal(left->report_count, right->report_count);
    for (size_t i = 0; i < left->report_count; i++) {
        const struct apply_report *a = &left->report[i], *b = &right->report[i];
        assert_string_equal(a->module, b->module);
        assert_memory_equal(&a->unchanged, &b->unchanged, sizeof(a->unchanged));
        assert_memory_equal(&a->kept, &b->kept, sizeof(a->kept));
        assert_memory_equal(&a->max_change, &b->max_change, sizeof(a->max_change));
        assert_int_equal(a->nonfinite, b->nonfinite);
    }
}

/* Bits */

static void test_the_device_gives_the_processors_bits(void **state)
{
    static const char *const names[] = {
        "bert/step-040", "gpt2/step-040", "llama-half/step-030", "llama/step-120"};
    static const char *const merged[] = {"none", "plain", "reported", "checked"};

    (void)state;
    for (size_t i = 0; i < sizeof(names) / sizeof(names[0]); i++) {
        AUTO_SCENE(scene);
        AUTO_FREE(char, difference);
        struct apply_options options = {.threads = 1, .device = DEVICE_CUDA};
        scene_make(&scene, names[i]);
        const struct apply_input input = {&scene.subject.loaded, 1};
        for (size_t run = 1; run < 3; run++) {
            AUTO_APPLY_RESULT(result);
            options.report = run == 2;
            options.threads = (unsigned)run;
            assert_int_equal(
                materialize(&result, &input, 1, &scene.base, merged[run], &options), 0
            );
            assert_string_equal(result.device, "cuda");
            assert_int_equal(result.math, MATH_EXACT);
            assert_true(result.device_name[0] != 0);
            assert_same_files("cpu", merged[run]);
            if (run == 2)
                assert_same_reports(&scene.result, &result);
        }
        AUTO_APPLY_RESULT(checked);
        assert_int_equal(materialize_check(&checked, &input, 1, &scene.base, &options), 0);
        assert_same_reports(&scene.result, &checked);
        assert_int_equal(
            materialize_verify(&difference, &input, 1, &scene.base, "cpu", &options), 0
        );
        assert_null(difference);
        for (size_t run = 1; run < 3; run++)
            assert_int_equal(tree_remove(merged[run]), 0);
        assert_int_equal(tree_remove("cpu"), 0);
    }
    /* A and B, for each time that the device was opened; no weights. */
    assert_int_equal(emulated.pageable_copies(), 2 * 4 * sizeof(names) / sizeof(names[0]));
}

/* A program may have rounding set otherwise, and subnormals flushed, as PyTorch can. */
static void test_the_callers_float_state_reaches_no_bit(void **state)
{
    static const char *const names[] = {"gpt2/step-040", "llama-half/step-030", "llama/step-120"};

    (void)state;
    for (size_t i = 0; i < sizeof(names) / sizeof(names[0]); i++) {
        AUTO_SCENE(scene);
        AUTO_APPLY_RESULT(result);
        AUTO_APPLY_RESULT(again);
        fenv_t normal;
        assert_int_equal(model_open(&scene.base, fixture_base(names[i])), 0);
        fixture_open(&scene.subject, names[i], &scene.base);
        const struct apply_input input = {&scene.subject.loaded, 0.7f}; /* w*b must be rounded */
        struct apply_options options = {.threads = 2};
        assert_int_equal(materialize(&result, &input, 1, &scene.base, "cpu", &options), 0);
        options.device = DEVICE_CUDA;
        fegetenv(&normal);
        fesetround(FE_UPWARD);
#if defined(__x86_64__)
        _mm_setcsr(_mm_getcsr() | 0x8040);
#endif
        int err = materialize(&again, &input, 1, &scene.base, "cuda", &options);
        fesetenv(&normal);
        assert_int_equal(err, 0);
        assert_whole_or_nothing(0);
        assert_int_equal(tree_remove("cpu"), 0);
    }
}

static void test_several_adapters_are_one_merge(void **state)
{
    const struct apply_options on_cpu = {.threads = 2};
    const struct apply_options on_cuda = {.threads = 2, .device = DEVICE_CUDA};
    AUTO_MODEL(base);
    AUTO_SUBJECT(first);
    AUTO_SUBJECT(second);
    AUTO_SUBJECT(third);
    AUTO_APPLY_RESULT(result);

    (void)state;
    assert_int_equal(model_open(&base, FIXTURES "/base/llama"), 0);
    fixture_open(&first, "llama/step-120", NULL);
    fixture_open(&second, "llama-c/step-040", NULL);
    fixture_open(&third, "llama/step-040", NULL);
    const struct apply_input inputs[] = {
        {&first.loaded, 0.5F}, {&second.loaded, -1.25F}, {&third.loaded, 1}};
    assert_int_equal(materialize(&result, inputs, 3, &base, "cpu", &on_cpu), 0);
    assert_int_equal(materialize(&result, inputs, 3, &base, "cuda", &on_cuda), 0);
    assert_same_files("cpu", "cuda");
}

static void test_whatever_the_order_of_its_streams(void **state)
{
    static const unsigned orders[] = {EMULATED_EAGER, EMULATED_OTHERS, 3, 4, 5, 6, 7};
    AUTO_SCENE(scene);

    (void)state;
    scene_make(&scene, "llama/step-120");
    for (size_t i = 0; i < sizeof(orders) / sizeof(orders[0]); i++) {
        AUTO_APPLY_RESULT(result);
        emulated.order(orders[i]);
        int err = scene_run(&result, &scene, 3);
        assert_int_equal(err, 0);
        assert_whole_or_nothing(err);
    }
}

static void test_fast_mode_says_how_far_it_is_off(void **state)
{
    const struct apply_options options = {.threads = 1, .device = DEVICE_CUDA, .math = MATH_FAST};
    const struct apply_options on_cpu = {.threads = 1, .math = MATH_FAST};
    AUTO_SCENE(scene);
    AUTO_APPLY_RESULT(result);
    AUTO_APPLY_RESULT(exact);

    (void)state;
    scene_make(&scene, "llama-half/step-030");
    const struct apply_input input = {&scene.subject.loaded, 1};
    assert_int_equal(materialize(&result, &input, 1, &scene.base, "fast", &options), 0);
    assert_int_equal(result.math, MATH_FAST);
    assert_non_null(result.fast_bound);
    assert_int_equal(materialize(&exact, &input, 1, &scene.base, "exact", &on_cpu), 0);
    assert_int_equal(exact.math, MATH_EXACT);
    assert_null(exact.fast_bound);
    assert_same_files("cpu", "exact");
}

/* Launches */

#define SMALL_COUNT 300
#define SMALL_EDGE  8

/* A base of so many small weights, and an adapter for all of them. */
static void write_small(void)
{
    static char names[2 * SMALL_COUNT][48];
    static struct tensor tensors[2 * SMALL_COUNT];
    static struct bytes data[2 * SMALL_COUNT];
    static const uint64_t shape[] = {SMALL_EDGE};
    float values[SMALL_EDGE];
    AUTO_BUF(text);

    for (size_t i = 0; i < SMALL_EDGE; i++)
        values[i] = 0.125F * (float)(i + 1);
    for (size_t i = 0; i < SMALL_COUNT; i++) {
        assert_int_equal(buf_printf(&text, "%sm%03zu.weight F32 8x8", i ? ", " : "", i), 0);
        for (size_t k = 0; k < 2; k++) {
            char *name = names[2 * i + k];
            snprintf(name, sizeof(names[0]), PEFT_PREFIX "m%03zu.vera_lambda_%c", i, "bd"[k]);
            tensors[2 * i + k] = (struct tensor
            ){.name = name, .dtype = DTYPE_F32, .dims = 1, .shape = shape};
            data[2 * i + k] = (struct bytes){(const uint8_t *)values, sizeof(values)};
        }
    }
    weights("base/" MODEL_FILE, buf_text(&text));
    write_tensors("adapter/" PEFT_MODEL, tensors, data, 2 * SMALL_COUNT);
    put("adapter/" PEFT_CONFIG, "{\"peft_type\": \"VERA\", \"r\": 8, \"save_projection\": false}");
}

static void test_many_small_modules_are_one_launch(void **state)
{
    AUTO_SCENE(scene);
    AUTO_APPLY_RESULT(result);

    (void)state;
    write_small();
    assert_int_equal(model_open(&scene.base, "base"), 0);
    subject_open(&scene.subject, "adapter", &scene.base);
    scene_begin(&scene);
    assert_int_equal(scene_run(&result, &scene, 2), 0);
    assert_same_files("cpu", "cuda");
    assert_int_equal(result.tensors_rewritten, SMALL_COUNT);
    assert_int_equal(emulated.calls("cudaLaunchKernel"), 1);
    /* A and B, vectors in, weights in, weights out. */
    assert_int_equal(emulated.calls("cudaMemcpyAsync"), 5);
}

/* Failures */

static void test_whichever_call_fails_nothing_is_left(void **state)
{
    static const char *const calls[] = {
        "cudaGetDeviceCount",
        "cudaGetDevice",
        "cudaGetDeviceProperties",
        "cudaMalloc",
        "cudaStreamCreateWithFlags",
        "cudaEventCreateWithFlags",
        "cudaHostAlloc",
        "cudaMemcpyAsync",
        "cudaLaunchKernel",
        "cudaStreamSynchronize",
    };
    AUTO_SCENE(scene);

    (void)state;
    scene_make(&scene, "gpt2/step-040");
    for (size_t i = 0; i < sizeof(calls) / sizeof(calls[0]); i++) {
        bool reached = true;
        for (unsigned nth = 1; reached; nth++) {
            AUTO_APPLY_RESULT(result);
            size_t descriptors = descriptor_count();
            emulated.reset();
            emulated.fail_call(calls[i], nth, CUDA_ERROR_ADDRESS);
            int err = scene_run(&result, &scene, 1);
            reached = emulated.calls(calls[i]) >= nth;
            /* Of the device that a thread uses, a close asks, too. */
            if (err == 0 && strcmp(calls[i], "cudaGetDevice") != 0)
                assert_false(reached);
            if (err < 0) {
                assert_int_equal(err, E_DEVICE);
                assert_message_has(calls[i]);
                assert_message_has("an illegal memory access was encountered");
            }
            assert_int_equal(descriptor_count(), descriptors);
            assert_int_equal(emulated.leaks(), 0);
            assert_whole_or_nothing(err);
            assert_true(nth > 1 || reached);
        }
    }
}

/* The context is made by the first one; at the end an error has nothing to spoil. */
static void test_a_free_that_fails_spoils_nothing(void **state)
{
    AUTO_SCENE(scene);
    AUTO_APPLY_RESULT(result);

    (void)state;
    scene_make(&scene, "gpt2/step-040");
    emulated.fail_call("cudaFree", 1, CUDA_ERROR_ADDRESS);
    assert_int_equal(scene_run(&result, &scene, 1), E_DEVICE);
    assert_message_has("cudaFree");
    assert_whole_or_nothing(E_DEVICE);
}

static void test_a_small_memory_takes_smaller_tiles(void **state)
{
    AUTO_SCENE(scene);
    AUTO_APPLY_RESULT(plain);
    bool smaller = false, refused = false;

    (void)state;
    scene_make(&scene, "llama/step-120");
    assert_int_equal(scene_run(&plain, &scene, 1), 0);
    assert_whole_or_nothing(0);
    size_t peak = emulated.memory_peak();
    unsigned launches = emulated.calls("cudaLaunchKernel");
    for (size_t bytes = peak; bytes > 0; bytes = bytes * 7 / 8) {
        AUTO_APPLY_RESULT(result);
        emulated.reset();
        emulated.memory(bytes);
        int err = scene_run(&result, &scene, 1);
        smaller |= err == 0 && emulated.calls("cudaLaunchKernel") > launches;
        if (err < 0) {
            assert_int_equal(err, E_DEVICE);
            assert_message_has("the device's memory is too small");
            assert_message_has("are free");
            assert_non_null(error_hint_text());
            refused = true;
        }
        assert_int_equal(emulated.leaks(), 0);
        assert_whole_or_nothing(err);
    }
    assert_true(smaller);
    assert_true(refused);
}

/* One that fails for once may succeed with half of it. */
static void test_an_allocation_that_fails_once_is_tried_smaller(void **state)
{
    AUTO_SCENE(scene);
    bool reached = true;
    unsigned went_on = 0;

    (void)state;
    scene_make(&scene, "llama/step-120");
    for (unsigned nth = 1; reached; nth++) {
        AUTO_APPLY_RESULT(result);
        emulated.reset();
        emulated.fail_call("cudaMalloc", nth, CUDA_ERROR_MEMORY);
        int err = scene_run(&result, &scene, 1);
        reached = emulated.calls("cudaMalloc") >= nth;
        assert_true(err == 0 || err == E_DEVICE);
        went_on += err == 0 && reached;
        assert_int_equal(emulated.leaks(), 0);
        assert_whole_or_nothing(err);
    }
    assert_true(went_on > 0);
}

/* Which device */

static void test_auto_takes_what_there_is(void **state)
{
    static const struct {
        const char *module;
        int devices;
        const char *device;
    } cases[] = {
        {CUDA_MODULE, 1, "cuda"},     {CUDA_MODULE, 0, "cpu"},
        {CUDA_MODULE, -1, "cpu"},     {"/nowhere/vera_cuda.so", 1, "cpu"},
        {OTHER_ABI_MODULE, 1, "cpu"},
    };

    (void)state;
    for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
        AUTO_DEVICE(device);
        assert_int_equal(setenv("VERA_CUDA_MODULE", cases[i].module, 1), 0);
        emulated.devices(cases[i].devices);
        assert_int_equal(device_open(&device, DEVICE_AUTO, MATH_EXACT), 0);
        assert_string_equal(device.backend->name, cases[i].device);
    }
}

static void test_a_device_that_is_missing_is_named(void **state)
{
    static const struct {
        const char *module;
        int devices;
        const char *says;
    } cases[] = {
        {CUDA_MODULE, 0, "there is a driver, and no device"},
        {CUDA_MODULE, -1, "there is no driver"},
        {"/nowhere/vera_cuda.so", 1, "module /nowhere/vera_cuda.so is not there"},
        {"vera_cuda.so", 1, "./vera_cuda.so is not there"},
        {"build/vera_cuda.so", 1, "./build/vera_cuda.so is not there"},
        {OTHER_ABI_MODULE, 1, "is of another version of vera"},
    };

    (void)state;
    for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
        AUTO_DEVICE(device);
        assert_int_equal(setenv("VERA_CUDA_MODULE", cases[i].module, 1), 0);
        emulated.devices(cases[i].devices);
        assert_int_equal(device_open(&device, DEVICE_CUDA, MATH_EXACT), E_DEVICE);
        assert_message_has(cases[i].says);
        assert_non_null(error_hint_text());
    }
}

int main(void)
{
#define BACKEND_TEST(name) cmocka_unit_test_setup_teardown(name, setup, teardown)
    const struct CMUnitTest tests[] = {
        BACKEND_TEST(test_the_device_gives_the_processors_bits),
        BACKEND_TEST(test_the_callers_float_state_reaches_no_bit),
        BACKEND_TEST(test_several_adapters_are_one_merge),
        BACKEND_TEST(test_whatever_the_order_of_its_streams),
        BACKEND_TEST(test_fast_mode_says_how_far_it_is_off),
        BACKEND_TEST(test_many_small_modules_are_one_launch),
        BACKEND_TEST(test_whichever_call_fails_nothing_is_left),
        BACKEND_TEST(test_a_free_that_fails_spoils_nothing),
        BACKEND_TEST(test_a_small_memory_takes_smaller_tiles),
        BACKEND_TEST(test_an_allocation_that_fails_once_is_tried_smaller),
        BACKEND_TEST(test_auto_takes_what_there_is),
        BACKEND_TEST(test_a_device_that_is_missing_is_named),
    };
    return cmocka_run_group_tests(tests, device_load, NULL);
}
