/*
 * Tests of apply/kernel.c: every level of the processor, any number of threads and any rows give
 * the bits of the formula in apply/kernel.h, written out below as three plain loops.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include <errno.h>
#include <fenv.h>
#include <math.h>
#include <pthread.h>

#if defined(__x86_64__)
#include <xmmintrin.h>
#endif

#include "apply/kernel.h"
#include "format/cpu.h"
#include "format/interrupt.h"
#include "tests/fault.h"

#define TERMS_MAX 3
#define SEED      20240711u

static uint64_t random_state = SEED;

static uint32_t random_u32(void)
{
    random_state = random_state * UINT64_C(6364136223846793005) + UINT64_C(1442695040888963407);
    return (uint32_t)(random_state >> 33) ^ (uint32_t)(random_state >> 13);
}

static uint64_t random_below(uint64_t n)
{
    return random_u32() % n;
}

static float float_of(uint32_t bits)
{
    float value;

    memcpy(&value, &bits, sizeof(value));
    return value;
}

static uint32_t bits_of(float value)
{
    uint32_t bits;

    memcpy(&bits, &value, sizeof(bits));
    return bits;
}

/* Finite: mostly about 1, sometimes a zero, a subnormal or very large. */
static float random_finite(unsigned zeros_of_64)
{
    static const float extreme[] = {0x1p-149f,       -0x1.8p-130f, 0x1p-126f,
                                    0x1.fffffep127f, -0x1p100f,    0x1p-80f};
    uint64_t kind = random_below(64);

    if (kind < zeros_of_64)
        return kind % 2 ? 0.0f : -0.0f;
    if (kind == 63)
        return extreme[random_below(6)];
    return ((float)(int32_t)random_u32()) * 0x1p-31f;
}

/* Any bits a weight may have. */
static uint32_t random_weight_bits(void)
{
    static const uint32_t special[] = {0x80000000, 0,          0x7f800000, 0xff800000,
                                       0x7fc00000, 0xffc00001, 0x7f800001, 0xffabcdef,
                                       0x00000001, 0x807fffff, 0x7f7fffff};
    uint64_t kind = random_below(16);

    if (kind == 0)
        return special[random_below(sizeof(special) / sizeof(special[0]))];
    if (kind == 1)
        return random_u32();
    return bits_of(((float)(int32_t)random_u32()) * 0x1p-31f);
}

struct module {
    enum dtype dtype;
    bool transposed;
    uint64_t out, in;
    size_t bytes;
    uint8_t *weights, *expected;
    struct kernel_term terms[TERMS_MAX];
    size_t term_count;
    float *numbers[4 * TERMS_MAX];
};

static float *random_numbers(uint64_t count, unsigned zeros_of_64)
{
    float *numbers = test_malloc(count * sizeof(*numbers));

    for (uint64_t i = 0; i < count; i++)
        numbers[i] = random_finite(zeros_of_64);
    return numbers;
}

static float load(const struct module *module, uint64_t index)
{
    float value;

    dtype_widen(
        &value, module->weights + index * (module->bytes / (module->in * module->out)), 1,
        module->dtype
    );
    return value;
}

static void store_expected(struct module *module, uint64_t index, float value)
{
    uint32_t f32 = isnan(value) ? 0x7fc00000 : bits_of(value);
    uint16_t half = module->dtype == DTYPE_BF16 ? bf16_from_float(value) : f16_from_float(value);

    if (module->dtype == DTYPE_F32)
        memcpy(module->expected + 4 * index, &f32, 4);
    else
        memcpy(module->expected + 2 * index, &half, 2);
}

static void oracle(struct module *module)
{
    memcpy(module->expected, module->weights, module->bytes);
    for (uint64_t i = 0; i < module->out; i++) {
        for (uint64_t j = 0; j < module->in; j++) {
            uint64_t index = module->transposed ? j * module->out + i : i * module->in + j;
            float y = load(module, index);
            bool touched = false;
            for (size_t s = 0; s < module->term_count; s++) {
                const struct kernel_term *term = &module->terms[s];
                volatile float factor = term->weight * term->b[i];
                float acc = 0;
                if (factor == 0)
                    continue;
                for (uint64_t k = 0; k < term->rank; k++) {
                    volatile float t = term->d[k] * term->a[k * term->a_stride + j];
                    acc = fmaf(term->b_matrix[i * term->rank + k], t, acc);
                }
                y = fmaf(factor, acc, y);
                touched = true;
            }
            if (touched)
                store_expected(module, index, y);
        }
    }
}

static void module_make(
    struct module *module,
    enum dtype dtype,
    bool transposed,
    uint64_t out,
    uint64_t in,
    uint64_t rank,
    size_t term_count
)
{
    static const float weights[] = {1, 1, 1, 0.5f, -0.3f, 1e-30f, 0};

    *module = (struct module){.dtype = dtype, .transposed = transposed, .out = out, .in = in};
    module->bytes = out * in * dtype_bits(dtype) / 8;
    module->weights = test_malloc(module->bytes);
    module->expected = test_malloc(module->bytes);
    module->term_count = term_count;
    for (uint64_t i = 0; i < out * in; i++) {
        uint32_t bits = random_weight_bits();
        float value = float_of(bits);
        uint16_t half = (uint16_t)(bits >> 16);
        if (dtype == DTYPE_F16 && random_below(16))
            half = f16_from_float(value);
        memcpy(
            module->weights + i * (dtype_bits(dtype) / 8),
            dtype == DTYPE_F32 ? (void *)&bits : (void *)&half, dtype_bits(dtype) / 8
        );
    }
    for (size_t s = 0; s < term_count; s++) {
        uint64_t r = s ? 1 + random_below(rank) : rank, stride = in + random_below(3);
        float **numbers = &module->numbers[4 * s];
        numbers[0] = random_numbers(r * stride, 1);
        numbers[1] = random_numbers((out + random_below(3)) * r, 1);
        numbers[2] = random_numbers(r, 4);
        numbers[3] = random_numbers(out, s ? 30 : 12);
        module->terms[s] = (struct kernel_term){
            .a = numbers[0],
            .b_matrix = numbers[1],
            .d = numbers[2],
            .b = numbers[3],
            .a_stride = stride,
            .rank = r,
            .weight = term_count == 1 ? weights[random_below(3)] : weights[random_below(7)],
        };
    }
}

static void module_release(struct module *module)
{
    for (size_t i = 0; i < 4 * module->term_count; i++)
        test_free(module->numbers[i]);
    test_free(module->weights);
    test_free(module->expected);
}

/* Merge rows [begin, end), from an odd address, and compare; nothing beyond the rows is written. */
static void check_rows(const struct module *module, uint64_t begin, uint64_t end, unsigned threads)
{
    size_t row_bytes = module->bytes / (module->transposed ? module->in : module->out);
    size_t bytes = (size_t)(end - begin) * row_bytes, guard = 67;
    uint8_t *copy = test_malloc(bytes + 2 * guard);

    memset(copy, 0xa5, bytes + 2 * guard);
    memcpy(copy + guard, module->weights + begin * row_bytes, bytes);
    assert_int_equal(
        kernel_merge(
            copy + guard, module->dtype, module->out, module->in, module->transposed, begin, end,
            module->terms, module->term_count, threads
        ),
        0
    );
    if (memcmp(copy + guard, module->expected + begin * row_bytes, bytes) != 0) {
        size_t at = 0;
        while (copy[guard + at] == module->expected[begin * row_bytes + at])
            at++;
        fail_msg(
            "%s, %u threads, %s, %s, out %u, in %u, rank %u, %zu terms, rows %u..%u: byte %zu",
            kernel_name(), threads, dtype_name(module->dtype),
            module->transposed ? "transposed" : "by rows", (unsigned)module->out,
            (unsigned)module->in, (unsigned)module->terms[0].rank, module->term_count,
            (unsigned)begin, (unsigned)end, at
        );
    }
    for (size_t i = 0; i < guard; i++)
        assert_true(copy[i] == 0xa5 && copy[guard + bytes + i] == 0xa5);
    test_free(copy);
}

/* The same of a window of W, from a place with gaps between its rows to another one. */
static void check_window(const struct module *module)
{
    uint64_t rows = module->transposed ? module->in : module->out;
    uint64_t cols = module->transposed ? module->out : module->in;
    uint64_t row = random_below(rows), col = random_below(cols);
    uint64_t end = row + 1 + random_below(rows - row), width = 1 + random_below(cols - col);
    size_t size = dtype_bits(module->dtype) / 8, gap = 1 + random_below(40);
    size_t line = (size_t)width * size + gap;
    struct kernel_term term = module->terms[0];
    uint8_t *to = test_malloc((size_t)(end - row) * line);
    void *memory = test_malloc(kernel_memory(end - row, width, term.rank));
    const struct kernel_place place = {
        .weights = to,
        .stride = line,
        .source = module->weights + (row * cols + col) * size,
        .source_stride = (size_t)cols * size,
    };

    memset(to, 0xa5, (size_t)(end - row) * line);
    if (module->transposed) {
        term.b_matrix += col * term.rank;
        term.b += col;
    } else {
        term.a += col;
    }
    kernel_merge_from(
        &place, module->dtype, module->transposed ? width : module->out,
        module->transposed ? module->in : width, module->transposed, row, end, &term, memory
    );
    for (uint64_t m = row; m < end; m++) {
        const uint8_t *line_at = to + (m - row) * line;
        const uint8_t *expected = module->expected + (m * cols + col) * size;
        if (memcmp(line_at, expected, (size_t)width * size) != 0)
            fail_msg(
                "%s, %s, out %u, in %u, rank %u, row %u of %u..%u, columns %u + %u", kernel_name(),
                module->transposed ? "transposed" : "by rows", (unsigned)module->out,
                (unsigned)module->in, (unsigned)term.rank, (unsigned)m, (unsigned)row,
                (unsigned)end, (unsigned)col, (unsigned)width
            );
        for (size_t i = 0; i < gap; i++)
            assert_int_equal(line_at[(size_t)width * size + i], 0xa5);
    }
    test_free(memory);
    test_free(to);
}

static void check_everywhere(const struct module *module)
{
    uint64_t rows = module->transposed ? module->in : module->out;

    for (int level = CPU_SCALAR; level <= (int)cpu_level_machine(); level++) {
        if (!cpu_level_is_here((enum cpu_level)level))
            continue;
        cpu_level_set((enum cpu_level)level);
        assert_string_equal(kernel_name(), cpu_level_name((enum cpu_level)level));
        for (unsigned threads = 1; threads <= 3; threads++)
            check_rows(module, 0, rows, threads);
        uint64_t cut = random_below(rows + 1);
        check_rows(module, 0, cut, 2);
        check_rows(module, cut, rows, 1);
        if (module->term_count == 1)
            check_window(module);
    }
}

static const enum dtype dtypes[] = {DTYPE_F32, DTYPE_BF16, DTYPE_F16};

static void check_shape(uint64_t out, uint64_t in, uint64_t rank, size_t term_count)
{
    for (int kind = 0; kind < 6; kind++) {
        struct module module;
        module_make(&module, dtypes[kind % 3], kind / 3, out, in, rank, term_count);
        oracle(&module);
        check_everywhere(&module);
        module_release(&module);
    }
}

static void test_two_hundred_shapes_give_the_bits_of_the_formula(void **state)
{
    static const uint64_t primes[] = {2, 3, 5, 7, 11, 13, 17, 31, 37, 61, 67};

    (void)state;
    print_message("seed %u\n", SEED);
    check_shape(1, 1, 1, 1);
    check_shape(1, 40, 9, 1);
    check_shape(40, 1, 9, 1);
    check_shape(33, 35, 1, 2);
    check_shape(5, 3, 64, 1);
    for (int i = 0; i < 40; i++)
        check_shape(
            primes[random_below(11)], primes[random_below(11)], primes[random_below(11)], 1
        );
    for (int i = 0; i < 155; i++)
        check_shape(
            1 + random_below(50), 1 + random_below(80), 1 + random_below(24),
            1 + random_below(TERMS_MAX)
        );
}

/* Beyond one block of rows, columns and k, and enough work for the threads. */
static void test_large_shapes_give_the_bits_of_the_formula(void **state)
{
    (void)state;
    check_shape(397, 521, 70, 1);
    check_shape(521, 193, 257, 1);
    check_shape(197, 130, 600, 2);
    check_shape(213, 540, 300, 1);
}

static void test_rows_whose_factor_is_zero_keep_their_bytes(void **state)
{
    (void)state;
    for (int kind = 0; kind < 6; kind++) {
        struct module module;
        module_make(&module, dtypes[kind % 3], kind / 3, 50, 60, 10, 2);
        for (uint64_t i = 0; i < 50; i++) {
            module.numbers[3][i] = i % 3 ? 0.0f : -0.0f;
            module.numbers[7][i] = 1e-30f; /* times 1e-30 is 0 */
        }
        module.terms[1].weight = 1e-30f;
        memcpy(module.expected, module.weights, module.bytes);
        check_everywhere(&module);
        module_release(&module);
    }
}

static void test_nan_results_have_one_pattern(void **state)
{
    static const uint32_t nans[] = {0x7fc00000, 0x7fc0, 0x7e00};
    const float a[] = {1}, b[] = {1}, d[] = {1};
    const struct kernel_term term = {
        .a = a, .b_matrix = b, .d = d, .b = b, .a_stride = 1, .rank = 1, .weight = 1};

    (void)state;
    for (int level = CPU_SCALAR; level <= (int)cpu_level_machine(); level++) {
        if (!cpu_level_is_here((enum cpu_level)level))
            continue;
        cpu_level_set((enum cpu_level)level);
        for (int i = 0; i < 3; i++) {
            uint32_t weight = i == 0 ? 0xffabcdef : i == 1 ? 0xffab : 0xfdab, result = 0;
            assert_int_equal(
                kernel_merge((uint8_t *)&weight, dtypes[i], 1, 1, false, 0, 1, &term, 1, 1), 0
            );
            memcpy(&result, &weight, i == 0 ? 4 : 2);
            assert_int_equal(result, nans[i]);
        }
    }
}

static void test_no_rows_or_no_terms_change_nothing(void **state)
{
    struct module module;

    (void)state;
    module_make(&module, DTYPE_F32, false, 8, 8, 2, 1);
    memcpy(module.expected, module.weights, module.bytes);
    module.term_count = 0;
    check_rows(&module, 0, 8, 2);
    module.term_count = 1;
    check_rows(&module, 3, 3, 2);
    module_release(&module);
}

/* Rounding up, and where there is such a thing, flushing subnormals: as PyTorch may have set it. */
static void set_odd_float_state(void)
{
    fesetround(FE_UPWARD);
#if defined(__x86_64__)
    _mm_setcsr(_mm_getcsr() | 0x8040);
#endif
}

static void test_the_callers_float_state_changes_nothing_and_is_given_back(void **state)
{
    (void)state;
    for (int kind = 0; kind < 6; kind++) {
        struct module module;
        fenv_t normal;
        module_make(&module, dtypes[kind % 3], kind / 3, 397, 300, 80, 1);
        oracle(&module);
        uint8_t *copy = test_malloc(module.bytes);
        for (int level = CPU_SCALAR; level <= (int)cpu_level_machine(); level++) {
            if (!cpu_level_is_here((enum cpu_level)level))
                continue;
            cpu_level_set((enum cpu_level)level);
            memcpy(copy, module.weights, module.bytes);
            fegetenv(&normal);
            set_odd_float_state();
            int err = kernel_merge(
                copy, module.dtype, module.out, module.in, module.transposed, 0,
                module.transposed ? module.in : module.out, module.terms, 1, 2
            );
            volatile float one = 1, tiny = 0x1p-30f, small = 0x1p-126f;
            volatile float above = one + tiny, half = small * 0.5f;
            fesetenv(&normal);
            assert_int_equal(err, 0);
            assert_true(above > 1);
#if defined(__x86_64__)
            assert_true(half == 0);
#else
            (void)half;
#endif
            assert_memory_equal(copy, module.expected, module.bytes);
        }
        test_free(copy);
        module_release(&module);
    }
}

static void test_an_interrupt_ends_the_work(void **state)
{
    struct module module;

    (void)state;
    module_make(&module, DTYPE_F32, false, 400, 300, 200, 1);
    for (unsigned threads = 1; threads <= 3; threads++) {
        interrupt_flag = 1;
        int err = kernel_merge(
            module.weights, DTYPE_F32, 400, 300, false, 0, 400, module.terms, 1, threads
        );
        interrupt_flag = 0;
        assert_int_equal(err, E_INTERRUPTED);
        assert_string_equal(error_message(), "interrupted");
    }
    module_release(&module);
}

static bool refuse_threads;
static unsigned threads_started;

int __real_pthread_create(pthread_t *, const pthread_attr_t *, void *(*)(void *), void *);
int __wrap_pthread_create(pthread_t *, const pthread_attr_t *, void *(*)(void *), void *);

int __wrap_pthread_create(
    pthread_t *thread, const pthread_attr_t *attributes, void *(*run)(void *), void *argument
)
{
    if (refuse_threads)
        return EAGAIN;
    threads_started++;
    return __real_pthread_create(thread, attributes, run, argument);
}

static void test_work_is_done_where_no_thread_can_be_had(void **state)
{
    struct module module;

    (void)state;
    module_make(&module, DTYPE_F32, false, 400, 300, 200, 1);
    oracle(&module);
    threads_started = 0;
    check_rows(&module, 0, 400, 3);
    assert_int_equal(threads_started, 2);
    refuse_threads = true;
    check_rows(&module, 0, 400, 3);
    refuse_threads = false;
    assert_int_equal(threads_started, 2);
    module_release(&module);
}

static void test_small_work_starts_no_thread(void **state)
{
    struct module module;

    (void)state;
    module_make(&module, DTYPE_F32, false, 64, 64, 32, 1);
    oracle(&module);
    threads_started = 0;
    check_rows(&module, 0, 64, 8);
    assert_int_equal(threads_started, 0);
    module_release(&module);
}

static void test_every_allocation_failure_leaves_the_weights(void **state)
{
    struct module module;
    int err, n = 0;

    (void)state;
    module_make(&module, DTYPE_BF16, true, 40, 30, 20, 2);
    memcpy(module.expected, module.weights, module.bytes);
    do {
        fault_after = n++;
        err = kernel_merge(module.weights, DTYPE_BF16, 40, 30, true, 0, 30, module.terms, 2, 2);
        fault_after = -1;
        assert_true(err == 0 || err == E_NOMEM);
        if (err < 0)
            assert_memory_equal(module.weights, module.expected, module.bytes);
    } while (err != 0);
    assert_true(n > 3); /* the loop did inject faults */
    module_release(&module);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_two_hundred_shapes_give_the_bits_of_the_formula),
        cmocka_unit_test(test_large_shapes_give_the_bits_of_the_formula),
        cmocka_unit_test(test_rows_whose_factor_is_zero_keep_their_bytes),
        cmocka_unit_test(test_nan_results_have_one_pattern),
        cmocka_unit_test(test_no_rows_or_no_terms_change_nothing),
        cmocka_unit_test(test_the_callers_float_state_changes_nothing_and_is_given_back),
        cmocka_unit_test(test_an_interrupt_ends_the_work),
        cmocka_unit_test(test_work_is_done_where_no_thread_can_be_had),
        cmocka_unit_test(test_small_work_starts_no_thread),
        cmocka_unit_test(test_every_allocation_failure_leaves_the_weights),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
