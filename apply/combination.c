/* A weighted sum of effects. See combination.h. */
#include "apply/combination.h"

#include <assert.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "apply/lapack.h"
#include "format/interrupt.h"

#define BLOCK_VALUES   ((size_t)1 << 18) /* 2 MiB: what a core's own cache holds */
#define BLOCK_ROWS_MIN 4
#define LANES          8

/* The exponent that brings the largest of the values to between 1/2 and 1; 0 where all are 0. */
static int exponent_of(const double *values, size_t count)
{
    double largest = 0;
    int exponent = 0;

    for (size_t i = 0; i < count; i++)
        largest = fmax(largest, fabs(values[i]));
    (void)frexp(largest, &exponent);
    return exponent;
}

static bool scale_copy(double *to, const double *from, size_t count, int exponent)
{
    bool wide = false;

    for (size_t i = 0; i < count; i++) {
        to[i] = ldexp(from[i], -exponent);
        wide |= (double)(float)from[i] != from[i];
    }
    return wide;
}

int combination_init(
    struct combination *out,
    const struct basis *basis,
    uint64_t out_rows,
    const struct combination_term *terms,
    size_t count
)
{
    struct combination made = {
        .basis = basis, .rank = (size_t)basis->rank, .out = (size_t)out_rows};
    size_t size = made.rank + made.out;
    int exponents[COMBINATION_TERMS], err;

    assert(count <= COMBINATION_TERMS);
    if ((err = doubles_new(&made.values, count + 1, size)) < 0)
        return err;
    made.lost = made.values + count * size;
    made.exponent = INT32_MIN;
    for (size_t s = 0; s < count; s++) {
        int d_exponent = exponent_of(terms[s].d, made.rank);
        int b_exponent = exponent_of(terms[s].b, made.out);
        double *values = made.values + made.count * size;
        if (terms[s].weight == 0)
            continue;
        made.wide |= scale_copy(values, terms[s].d, made.rank, d_exponent);
        made.wide |= scale_copy(values + made.rank, terms[s].b, made.out, b_exponent);
        exponents[made.count] = d_exponent + b_exponent;
        if (exponents[made.count] > made.exponent)
            made.exponent = exponents[made.count];
        made.terms[made.count++] = (struct combination_term
        ){values, values + made.rank, terms[s].weight};
    }
    for (size_t s = 0; s < made.count; s++)
        made.terms[s].weight = ldexp(made.terms[s].weight, exponents[s] - made.exponent);
    if (made.count == 0)
        made.exponent = 0;
    *out = made;
    return 0;
}

void combination_release(struct combination *combination)
{
    free(combination->values);
    *combination = (struct combination){0};
}

/* c += factor * d */
static void add_row(double *restrict c, const double *restrict d, double factor, size_t rank)
{
    for (size_t k = 0; k < rank; k++)
        c[k] += factor * d[k];
}

/* What rounding the products of add_row() lost. */
static void add_lost(double *restrict lost, const double *restrict d, double factor, size_t rank)
{
    for (size_t k = 0; k < rank; k++)
        lost[k] += fma(factor, d[k], -(factor * d[k]));
}

/* A row of C. */
static void set_row(double *c, const struct combination *combination, size_t row)
{
    size_t rank = combination->rank;

    memset(c, 0, rank * sizeof(*c));
    if (combination->wide)
        memset(combination->lost, 0, rank * sizeof(*c));
    for (size_t s = 0; s < combination->count; s++) {
        const struct combination_term *term = &combination->terms[s];
        double factor = term->weight * term->b[row];
        add_row(c, term->d, factor, rank);
        if (combination->wide)
            add_lost(combination->lost, term->d, factor, rank);
    }
    if (combination->wide)
        add_row(c, combination->lost, 1, rank);
}

bool combination_block(double *x, const struct combination *combination, size_t begin, size_t rows)
{
    size_t rank = combination->rank;
    bool any = false;

    for (size_t i = 0; i < rows; i++) {
        const float *basis = combination->basis->b + (begin + i) * rank;
        double *row = x + i * rank;
        set_row(row, combination, begin + i);
        for (size_t k = 0; k < rank; k++) {
            row[k] *= (double)basis[k];
            any |= row[k] != 0;
        }
    }
    return any;
}

size_t block_rows(size_t rows, size_t columns)
{
    size_t most = BLOCK_VALUES / columns;

    if (most < BLOCK_ROWS_MIN)
        most = BLOCK_ROWS_MIN;
    return rows < most ? rows : most;
}

int block_scratch_fit(struct block_scratch *scratch, size_t x_count, size_t y_count)
{
    int err;

    if (scratch->x_room >= x_count && scratch->y_room >= y_count)
        return 0;
    block_scratch_release(scratch);
    if ((err = doubles_new(&scratch->x, x_count, 1)) < 0 ||
        (err = doubles_new(&scratch->y, y_count, 1)) < 0)
        return err;
    scratch->x_room = x_count;
    scratch->y_room = y_count;
    return 0;
}

void block_scratch_release(struct block_scratch *scratch)
{
    free(scratch->x);
    free(scratch->y);
    *scratch = (struct block_scratch){0};
}

int combination_norm(
    double *out,
    const struct combination *combination,
    const struct triangle *triangle,
    struct block_scratch *scratch
)
{
    size_t rank = combination->rank, step = block_rows(combination->out, triangle->rank);
    double sum = 0;
    int err;

    if ((err = block_scratch_fit(scratch, step * rank, step * triangle->rows)) < 0)
        return err;
    for (size_t row = 0; row < combination->out && combination->count > 0; row += step) {
        size_t rows = step < combination->out - row ? step : combination->out - row;
        if ((err = interrupt_check()) < 0)
            return err;
        if (!combination_block(scratch->x, combination, row, rows))
            continue;
        triangle_apply(scratch->y, triangle, false, scratch->x, rows);
        sum += dot(scratch->y, scratch->y, rows * triangle->rows);
    }
    return norm_scaled(out, sqrt(sum), combination->exponent);
}

double dot(const double *x, const double *y, size_t count)
{
    double sums[LANES] = {0}, rest = 0;
    size_t i = 0;

    for (; i + LANES <= count; i += LANES) {
        for (size_t lane = 0; lane < LANES; lane++)
            sums[lane] += x[i + lane] * y[i + lane];
    }
    for (; i < count; i++)
        rest += x[i] * y[i];
    return ((sums[0] + sums[4]) + (sums[1] + sums[5])) +
           ((sums[2] + sums[6]) + (sums[3] + sums[7])) + rest;
}

double norm_of(const double *values, size_t count)
{
    int exponent = exponent_of(values, count);
    double sum = 0;

    for (size_t i = 0; i < count; i++) {
        double scaled = ldexp(values[i], -exponent);
        sum += scaled * scaled;
    }
    return ldexp(sqrt(sum), exponent);
}

int norm_scaled(double *out, double value, int exponent)
{
    double norm = ldexp(value, exponent);

    if (!isfinite(norm))
        return error_set(E_INVALID, "a norm is beyond what a double holds");
    *out = norm;
    return 0;
}
