/*
 * Tests of apply/batch.c: every row against float64 within the bound of docs/math.md, and the same
 * bits for a row whatever stands beside it, by how many threads and on which level of vector code.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include <errno.h>
#include <float.h>
#include <math.h>
#include <pthread.h>

#if defined(__SSE__)
#include <xmmintrin.h>
#endif

#include "apply/batch.h"
#include "format/cpu.h"
#include "tests/fault.h"

static unsigned threads_left = UINT32_MAX;

int __real_pthread_create(pthread_t *, const pthread_attr_t *, void *(*)(void *), void *);
int __wrap_pthread_create(pthread_t *, const pthread_attr_t *, void *(*)(void *), void *);

int __wrap_pthread_create(
    pthread_t *thread, const pthread_attr_t *attributes, void *(*start)(void *), void *argument
)
{
    if (threads_left == 0)
        return EAGAIN;
    return __real_pthread_create(thread, attributes, start, argument);
}

static uint64_t random_state = 1;

static uint32_t random_bits(void)
{
    random_state = random_state * UINT64_C(6364136223846793005) + UINT64_C(1442695040888963407);
    return (uint32_t)(random_state >> 33);
}

static float random_float(void)
{
    return (float)random_bits() * 0x1p-30f - 1;
}

static float *random_values(size_t count)
{
    float *values = malloc((count ? count : 1) * sizeof(*values));

    assert_non_null(values);
    for (size_t i = 0; i < count; i++)
        values[i] = random_float();
    return values;
}

static uint8_t *narrowed(const float *values, size_t count, enum dtype dtype)
{
    uint8_t *bytes = malloc(4 * (count ? count : 1));

    assert_non_null(bytes);
    dtype_narrow(bytes, values, count, dtype);
    return bytes;
}

static float value_at(const uint8_t *bytes, size_t at, enum dtype dtype)
{
    float value;

    dtype_widen(&value, bytes + at * (dtype_bits(dtype) / 8), 1, dtype);
    return value;
}

/* A module, `adapters` adapters, and a batch of `rows` rows. */
struct trial {
    size_t rank, in, out, in_max, out_max, adapters, rows, x_stride, y_stride;
    enum dtype dtype, vectors;
    struct basis basis;
    struct batch_basis packed;
    uint8_t *x, *y, *d_b; /* d_b: [adapters, rank + out] */
    struct batch_row *list;
    size_t *adapter; /* [rows] */
};

static void trial_make(struct trial *t)
{
    float *x = random_values(t->rows * t->x_stride), *y = random_values(t->rows * t->y_stride);
    float *d_b = random_values(t->adapters * (t->rank + t->out));

    t->basis = (struct basis
    ){.a = random_values(t->rank * t->in_max),
      .b = random_values(t->out_max * t->rank),
      .rank = t->rank,
      .in = t->in_max,
      .out = t->out_max};
    assert_int_equal(batch_basis_pack(&t->packed, &t->basis), 0);
    for (size_t i = 0; i < t->adapters * (t->rank + t->out); i++) {
        if (random_bits() % 9 == 0)
            d_b[i] = random_bits() % 2 ? 0.0f : -0.0f;
    }
    t->x = narrowed(x, t->rows * t->x_stride, t->dtype);
    t->y = narrowed(y, t->rows * t->y_stride, t->dtype);
    t->d_b = narrowed(d_b, t->adapters * (t->rank + t->out), t->vectors);
    t->list = calloc(t->rows + 1, sizeof(*t->list));
    t->adapter = calloc(t->rows + 1, sizeof(*t->adapter));
    for (size_t i = 0; i < t->rows; i++) {
        t->adapter[i] = random_bits() % t->adapters;
        t->list[i] = (struct batch_row
        ){i, t->d_b + t->adapter[i] * (t->rank + t->out) * (dtype_bits(t->vectors) / 8)};
    }
    free(x);
    free(y);
    free(d_b);
}

static void trial_release(struct trial *t)
{
    batch_basis_release(&t->packed);
    basis_release(&t->basis);
    free(t->x);
    free(t->y);
    free(t->d_b);
    free(t->list);
    free(t->adapter);
}

static size_t y_bytes(const struct trial *t)
{
    return t->rows * t->y_stride * (dtype_bits(t->dtype) / 8);
}

/* Run some rows of it into a copy of y. */
static uint8_t *
run(const struct trial *t, const struct batch_row *list, size_t count, unsigned threads)
{
    uint8_t *y = malloc(y_bytes(t) + 1);

    assert_non_null(y);
    memcpy(y, t->y, y_bytes(t));
    const struct batch batch = {
        .basis = &t->packed,
        .in = t->in,
        .out = t->out,
        .vectors = t->vectors,
        .rows = list,
        .row_count = count,
        .dtype = t->dtype,
        .x = t->x,
        .x_stride = t->x_stride,
        .y = y,
        .y_stride = t->y_stride,
    };
    assert_int_equal(batch_run(&batch, threads), 0);
    return y;
}

static double gamma_of(size_t n)
{
    double nu = (double)n * 0x1p-24;

    return nu / (1 - nu);
}

/* Half a unit in the last place of `dtype` at that value, for 16 bits: the last rounding. */
static double half_unit(enum dtype dtype, double value)
{
    double bits = dtype == DTYPE_BF16 ? 0x1p-8 : 0x1p-11;

    if (dtype == DTYPE_F32)
        return 0;
    return fabs(value) * bits + (dtype == DTYPE_F16 ? 0x1p-25 : 0);
}

/* One row in double: the bound of docs/math.md, chapter 6. */
static void check_row(const struct trial *t, const uint8_t *y, size_t row)
{
    size_t first = t->adapter[row] * (t->rank + t->out);
    double *h = calloc(t->rank, sizeof(*h)), *abs_h = calloc(t->rank, sizeof(*abs_h));

    for (size_t k = 0; k < t->rank; k++) {
        double d = (double)value_at(t->d_b, first + k, t->vectors);
        for (size_t j = 0; j < t->in; j++) {
            double product = (double)t->basis.a[k * t->in_max + j] *
                             (double)value_at(t->x, row * t->x_stride + j, t->dtype);
            h[k] += d * product;
            abs_h[k] += fabs(d * product);
        }
    }
    for (size_t i = 0; i < t->out; i++) {
        double b = (double)value_at(t->d_b, first + t->rank + i, t->vectors), z = 0, sum = 0;
        for (size_t k = 0; k < t->rank; k++) {
            z += (double)t->basis.b[i * t->rank + k] * h[k];
            sum += fabs((double)t->basis.b[i * t->rank + k]) * abs_h[k];
        }
        double wanted = (double)value_at(t->y, row * t->y_stride + i, t->dtype) + b * z;
        double bound = gamma_of(t->in + t->rank + 2) * fabs(b) * sum + 0x1p-24 * fabs(wanted);
        double got = (double)value_at(y, row * t->y_stride + i, t->dtype);
        bound += half_unit(t->dtype, fabs(wanted) + bound) + 1e-13 * (sum + fabs(wanted));
        assert_true(fabs(got - wanted) <= bound);
    }
    free(h);
    free(abs_h);
}

static size_t random_size(void)
{
    static const size_t sizes[] = {1, 2, 3, 7, 16, 17, 31, 32, 33, 48, 65, 130, 257, 300};

    return sizes[random_bits() % (sizeof(sizes) / sizeof(sizes[0]))];
}

static enum dtype random_dtype(void)
{
    static const enum dtype dtypes[] = {DTYPE_F32, DTYPE_BF16, DTYPE_F16};

    return dtypes[random_bits() % 3];
}

static void random_trial(struct trial *t)
{
    t->rank = random_size();
    t->in = random_size();
    t->out = random_size();
    t->in_max = t->in + random_bits() % 5;
    t->out_max = t->out + random_bits() % 40;
    t->adapters = 1 + random_bits() % 20;
    t->rows = random_bits() % 4 ? 1 + random_bits() % 20 : random_bits() % 120;
    t->x_stride = t->in + random_bits() % 3;
    t->y_stride = t->out + random_bits() % 3;
    t->dtype = random_dtype();
    t->vectors = random_dtype();
    trial_make(t);
}

static void every_shape_is_within_the_bound(void **state)
{
    (void)state;
    random_state = 11;
    for (unsigned n = 0; n < 150; n++) {
        struct trial t = {0};
        random_trial(&t);
        uint8_t *y = run(&t, t.list, t.rows, 1 + n % 3);
        for (size_t i = 0; i < t.rows; i++)
            check_row(&t, y, i);
        /* What lies between the rows stays. */
        size_t size = dtype_bits(t.dtype) / 8, tail = (t.y_stride - t.out) * size;
        for (size_t i = 0; i < t.rows; i++) {
            size_t at = (i * t.y_stride + t.out) * size;
            assert_memory_equal(y + at, t.y + at, tail);
        }
        free(y);
        trial_release(&t);
    }
}

/* The definition of batch.h, word for word. */
static void plain_row(uint8_t *out, const struct trial *t, size_t row)
{
    size_t first = t->adapter[row] * (t->rank + t->out), size = dtype_bits(t->dtype) / 8;
    float *h = calloc(t->rank, sizeof(*h));

    for (size_t k = 0; k < t->rank; k++) {
        for (size_t j = 0; j < t->in; j++)
            h[k] = fmaf(
                t->basis.a[k * t->in_max + j], value_at(t->x, row * t->x_stride + j, t->dtype), h[k]
            );
        h[k] = value_at(t->d_b, first + k, t->vectors) * h[k];
    }
    memcpy(out, t->y + row * t->y_stride * size, t->out * size);
    for (size_t i = 0; i < t->out; i++) {
        float z = 0, b = value_at(t->d_b, first + t->rank + i, t->vectors);
        for (size_t k = 0; k < t->rank; k++)
            z = fmaf(t->basis.b[i * t->rank + k], h[k], z);
        if (b == 0)
            continue;
        float y = fmaf(b, z, value_at(t->y, row * t->y_stride + i, t->dtype));
        if (isnan(y))
            memcpy(&y, &(uint32_t){0x7fc00000}, sizeof(y));
        dtype_narrow(out + i * size, &y, 1, t->dtype);
    }
    free(h);
}

static void a_row_has_the_bits_of_its_definition_whatever_stands_beside_it(void **state)
{
    static const enum cpu_level levels[] = {CPU_SCALAR, CPU_NEON, CPU_AVX2, CPU_AVX512};

    (void)state;
    for (size_t l = 0; l < sizeof(levels) / sizeof(levels[0]); l++) {
        if (!cpu_level_is_here(levels[l]))
            continue;
        cpu_level_set(levels[l]);
        random_state = 5;
        for (unsigned n = 0; n < 40; n++) {
            struct trial t = {0};
            random_trial(&t);
            size_t size = dtype_bits(t.dtype) / 8;
            uint8_t *all = run(&t, t.list, t.rows, 1);
            uint8_t *wanted = malloc(t.out * size);
            for (size_t i = 0; i < t.rows; i++) {
                size_t at = i * t.y_stride * size;
                plain_row(wanted, &t, i);
                assert_memory_equal(all + at, wanted, t.out * size);
            }
            /* Some of them, in another order, and one alone. */
            for (size_t i = t.rows; i-- > 1;) {
                size_t other = random_bits() % (i + 1);
                struct batch_row swap = t.list[i];
                t.list[i] = t.list[other];
                t.list[other] = swap;
            }
            size_t some = t.rows ? 1 + random_bits() % t.rows : 0;
            for (size_t count = some; count > 0; count = count > 1 ? 1 : 0) {
                uint8_t *part = run(&t, t.list, count, 2);
                for (size_t i = 0; i < count; i++) {
                    size_t at = t.list[i].row * t.y_stride * size;
                    assert_memory_equal(part + at, all + at, t.out * size);
                    memcpy(part + at, t.y + at, t.out * size);
                }
                assert_memory_equal(part, t.y, y_bytes(&t)); /* nobody else's row */
                free(part);
            }
            free(wanted);
            free(all);
            trial_release(&t);
        }
    }
    cpu_level_set(cpu_level_machine());
}

static void large_trial(struct trial *t)
{
    *t = (struct trial){
        .rank = 256,
        .in = 600,
        .out = 500,
        .in_max = 600,
        .out_max = 500,
        .adapters = 50,
        .rows = 131,
        .x_stride = 600,
        .y_stride = 500,
        .dtype = DTYPE_F32,
        .vectors = DTYPE_F32,
    };
    trial_make(t);
}

static void threads_change_no_bit_nor_does_their_lack(void **state)
{
    struct trial t;

    (void)state;
    large_trial(&t);
    uint8_t *one = run(&t, t.list, t.rows, 1);
    for (unsigned threads = 2; threads < 40; threads += 5) {
        for (unsigned have = 0; have < 2; have++) {
            threads_left = have ? UINT32_MAX : 0;
            uint8_t *many = run(&t, t.list, t.rows, threads);
            assert_memory_equal(one, many, y_bytes(&t));
            free(many);
        }
    }
    threads_left = UINT32_MAX;
    free(one);
    trial_release(&t);
}

/* A row that is not a number, or too large, stays one row's affair. */
static void what_is_not_finite_stays_in_its_row(void **state)
{
    static const float values[] = {NAN, INFINITY, -INFINITY, FLT_MAX};
    struct trial t = {
        .rank = 20,
        .in = 40,
        .out = 37,
        .in_max = 40,
        .out_max = 37,
        .adapters = 3,
        .rows = 13,
        .x_stride = 40,
        .y_stride = 37,
        .dtype = DTYPE_F32,
        .vectors = DTYPE_F32,
    };
    uint8_t wanted[4 * 37];

    (void)state;
    random_state = 3;
    trial_make(&t);
    for (size_t bad = 0; bad < t.rows; bad++) {
        memcpy(t.x + 4 * (bad * t.in + bad), &values[bad % 4], 4);
        uint8_t *y = run(&t, t.list, t.rows, 1);
        for (size_t i = 0; i < t.rows; i++) {
            plain_row(wanted, &t, i);
            assert_memory_equal(y + 4 * i * t.out, wanted, sizeof(wanted));
        }
        if (bad % 4 == 0) {
            uint32_t bits;
            size_t at = 0;
            while (value_at(t.d_b, t.adapter[bad] * (t.rank + t.out) + t.rank + at, DTYPE_F32) == 0)
                at++;
            memcpy(&bits, y + 4 * (bad * t.out + at), 4);
            assert_int_equal(bits, 0x7fc00000);
        }
        free(y);
    }
    trial_release(&t);
}

#if defined(__SSE__)
/* Subnormal results, in a caller that has them flushed and rounds upwards. */
static void the_callers_rounding_changes_no_bit(void **state)
{
    struct trial t;
    unsigned saved = _mm_getcsr();

    (void)state;
    large_trial(&t);
    for (size_t i = 0; i < t.rows * t.in; i++) {
        float value = value_at(t.x, i, DTYPE_F32) * 0x1p-130f;
        memcpy(t.x + 4 * i, &value, 4);
    }
    memset(t.y, 0, y_bytes(&t));
    uint8_t *plain = run(&t, t.list, t.rows, 2);
    _mm_setcsr(saved | 0x8040 | 0x4000); /* FTZ, DAZ, upwards */
    uint8_t *odd = run(&t, t.list, t.rows, 2);
    assert_int_equal(_mm_getcsr() & 0xe040, 0xc040);
    _mm_setcsr(saved);
    assert_memory_equal(plain, odd, y_bytes(&t));
    free(plain);
    free(odd);
    trial_release(&t);
}
#endif

static void without_memory_nothing_is_written(void **state)
{
    struct trial t;
    int err;

    (void)state;
    large_trial(&t);
    uint8_t *wanted = run(&t, t.list, t.rows, 2), *y = malloc(y_bytes(&t));
    memcpy(y, t.y, y_bytes(&t));
    const struct batch batch = {
        .basis = &t.packed,
        .in = t.in,
        .out = t.out,
        .vectors = t.vectors,
        .rows = t.list,
        .row_count = t.rows,
        .dtype = t.dtype,
        .x = t.x,
        .x_stride = t.in,
        .y = y,
        .y_stride = t.out,
    };
    int n = 0;
    for (;; n++) {
        fault_after = n;
        err = batch_run(&batch, 2);
        fault_after = -1;
        if (err == 0)
            break;
        assert_int_equal(err, E_NOMEM);
        assert_memory_equal(y, t.y, y_bytes(&t));
    }
    assert_true(n >= 2);
    assert_memory_equal(y, wanted, y_bytes(&t));
    free(wanted);
    free(y);
    trial_release(&t);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(every_shape_is_within_the_bound),
        cmocka_unit_test(a_row_has_the_bits_of_its_definition_whatever_stands_beside_it),
        cmocka_unit_test(threads_change_no_bit_nor_does_their_lack),
        cmocka_unit_test(what_is_not_finite_stays_in_its_row),
#if defined(__SSE__)
        cmocka_unit_test(the_callers_rounding_changes_no_bit),
#endif
        cmocka_unit_test(without_memory_nothing_is_written),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
