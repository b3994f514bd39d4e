/* The nearest adapter. See rank_one.h and docs/math.md. */
#include "apply/rank_one.h"

#include <inttypes.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "apply/lapack.h"
#include "format/interrupt.h"
#include "format/limits.h"

#define ROUNDS_MAX   64
/* Of the square of what is left: a round that gains less is the last one. */
#define GAIN_MIN     1e-9
/* Of ||T||^2: what rounding makes of the square of what is left. */
#define NOISE        1e-15
/* A second start is tried where the second direction of C has this share of the first. */
#define SECOND_START 0.5
/* Of the square that a row of B o d would have with a basis of no rank deficiency: below it the
   row's effect is rounding. */
#define ROW_NOISE    1e-24

static size_t min_size(size_t a, size_t b)
{
    return a < b ? a : b;
}

/* pull and wanted_square, a block of rows at a time. */
static int pull_set(struct rank_one *fit)
{
    const struct combination *wanted = fit->wanted;
    const struct triangle *triangle = fit->triangle;
    size_t rank = wanted->rank, step = block_rows(wanted->out, rank);
    int err;

    for (size_t row = 0; row < wanted->out; row += step) {
        size_t rows = min_size(step, wanted->out - row);
        double *pull = fit->pull + row * rank;
        const float *basis = wanted->basis->b + row * rank;
        if ((err = interrupt_check()) < 0)
            return err;
        if (!combination_block(fit->scratch.x, wanted, row, rows))
            continue;
        triangle_apply(fit->scratch.y, triangle, false, fit->scratch.x, rows);
        fit->wanted_square += dot(fit->scratch.y, fit->scratch.y, rows * triangle->rows);
        triangle_apply_transposed(pull, triangle, fit->scratch.y, rows);
        for (size_t i = 0; i < rows * rank; i++)
            pull[i] *= (double)basis[i];
    }
    return 0;
}

int rank_one_init(
    struct rank_one *out, const struct combination *wanted, const struct triangle *triangle
)
{
    size_t rank = wanted->rank, step = block_rows(wanted->out, rank);
    AUTO_RANK_ONE(made);
    int err;

    if (rank > LIMIT_DENSE_RANK)
        return error_set(
            E_LIMIT, "rank %zu is more than %" PRIu64 ", the most that can be fitted", rank,
            LIMIT_DENSE_RANK
        );
    made.wanted = wanted;
    made.triangle = triangle;
    if ((err = doubles_new(&made.pull, wanted->out, rank)) < 0 ||
        (err = doubles_new(&made.gram, rank, rank)) < 0 ||
        (err = doubles_new(&made.system, rank, rank)) < 0 ||
        (err = doubles_new(&made.spare, rank, rank)) < 0 ||
        (err = doubles_new(&made.weights, wanted->out, 1)) < 0 ||
        (err = block_scratch_fit(&made.scratch, step * rank, step * triangle->rows)) < 0)
        return err;
    triangle_add_gram(made.gram, triangle);
    if (wanted->count > 0 && (err = pull_set(&made)) < 0)
        return err;
    *out = made;
    made = (struct rank_one){0};
    return 0;
}

void rank_one_release(struct rank_one *fit)
{
    free(fit->pull);
    free(fit->gram);
    free(fit->system);
    free(fit->spare);
    free(fit->weights);
    block_scratch_release(&fit->scratch);
    *fit = (struct rank_one){0};
}

/* ||R (B_i o d)||^2 for rows [begin, begin + rows); 0 where that is nothing but rounding. */
static void weights_set(struct rank_one *fit, const double *d, size_t begin, size_t rows)
{
    const struct triangle *triangle = fit->triangle;
    size_t rank = fit->wanted->rank;
    double trace = 0;

    for (size_t k = 0; k < rank; k++)
        trace += fit->gram[k * rank + k];
    for (size_t i = 0; i < rows; i++) {
        const float *basis = fit->wanted->basis->b + (begin + i) * rank;
        for (size_t k = 0; k < rank; k++)
            fit->scratch.x[i * rank + k] = (double)basis[k] * d[k];
    }
    triangle_apply(fit->scratch.y, triangle, false, fit->scratch.x, rows);
    for (size_t i = 0; i < rows; i++) {
        const double *x = fit->scratch.x + i * rank, *y = fit->scratch.y + i * triangle->rows;
        double weight = dot(y, y, triangle->rows);
        double noise = ROW_NOISE * trace * dot(x, x, rank);
        fit->weights[begin + i] = weight > noise ? weight : 0;
    }
}

int rank_one_rows(double *b, struct rank_one *fit, const double *d)
{
    size_t rank = fit->wanted->rank, out = fit->wanted->out, step = block_rows(out, rank);
    double explained = 0;
    int err;

    for (size_t row = 0; row < out; row += step) {
        if ((err = interrupt_check()) < 0)
            return err;
        weights_set(fit, d, row, min_size(step, out - row));
    }
    lapack_apply(b, LAPACK_TRANSPOSED, fit->pull, rank, d, rank, out);
    for (size_t i = 0; i < out; i++) {
        double along = b[i];
        b[i] = fit->weights[i] > 0 ? along / fit->weights[i] : 0;
        explained += b[i] * along;
    }
    fit->left_square = fmax(fit->wanted_square - explained, 0);
    return 0;
}

/* The system of d: G o M, M = sum_i b_i^2 B_i B_i^T, whole. */
static int system_set(struct rank_one *fit, const double *b)
{
    size_t rank = fit->wanted->rank, out = fit->wanted->out, step = block_rows(out, rank);
    double *system = fit->system;
    int err;

    memset(system, 0, rank * rank * sizeof(*system));
    for (size_t row = 0; row < out; row += step) {
        size_t rows = min_size(step, out - row);
        const float *basis = fit->wanted->basis->b + row * rank;
        if ((err = interrupt_check()) < 0)
            return err;
        for (size_t i = 0; i < rows; i++) {
            for (size_t k = 0; k < rank; k++)
                fit->scratch.x[i * rank + k] = b[row + i] * (double)basis[i * rank + k];
        }
        lapack_add_square(system, rank, LAPACK_PLAIN, fit->scratch.x, rank, rank, rows);
    }
    for (size_t k = 0; k < rank; k++) {
        for (size_t i = 0; i <= k; i++) {
            system[k * rank + i] *= fit->gram[k * rank + i];
            system[i * rank + k] = system[k * rank + i];
        }
    }
    return 0;
}

static bool make_unit(double *values, size_t count)
{
    double norm = norm_of(values, count);

    for (size_t i = 0; i < count && norm > 0; i++)
        values[i] /= norm;
    return norm > 0;
}

/* The best d for b, as a correction of d. `step`: [rank] */
static int columns_solve(double *d, double *step, struct rank_one *fit, const double *b)
{
    size_t rank = fit->wanted->rank;
    AUTO_FREE(double, already);
    int err;

    if ((err = system_set(fit, b)) < 0 || (err = doubles_new(&already, rank, 1)) < 0)
        return err;
    lapack_apply(step, LAPACK_PLAIN, fit->pull, rank, b, rank, fit->wanted->out);
    lapack_apply(already, LAPACK_PLAIN, fit->system, rank, d, rank, rank);
    for (size_t k = 0; k < rank; k++)
        step[k] -= already[k];
    if ((err = lapack_solve(step, fit->system, fit->spare, rank)) < 0)
        return err;
    for (size_t k = 0; k < rank; k++)
        d[k] += step[k];
    return 0;
}

/* Alternate from d, ||d|| = 1, which is improved. */
static int improve(double *b, double *d, struct rank_one *fit)
{
    size_t rank = fit->wanted->rank;
    AUTO_FREE(double, work);
    double before = 0;
    int err;

    if ((err = doubles_new(&work, 2, rank)) < 0 || (err = rank_one_rows(b, fit, d)) < 0)
        return err;
    double *kept = work + rank;
    for (int round = 0; round < ROUNDS_MAX; round++) {
        double gain = before - fit->left_square;
        if (round > 0 && gain <= GAIN_MIN * before + NOISE * fit->wanted_square)
            return 0;
        before = fit->left_square;
        memcpy(kept, d, rank * sizeof(*d));
        if ((err = columns_solve(d, work, fit, b)) < 0)
            return err;
        if (!make_unit(d, rank))
            memcpy(d, kept, rank * sizeof(*d));
        if ((err = rank_one_rows(b, fit, d)) < 0)
            return err;
    }
    return 0;
}

/* The right singular vectors of C in the first columns of `starts` [rank, terms], and its singular
   values. C = L D^T, L = Q R: those of C are those of R D^T. */
static int starts_set(double *starts, double *values, const struct combination *wanted)
{
    size_t rank = wanted->rank, out = wanted->out, count = wanted->count;
    size_t ld = out > count ? out : count;
    AUTO_FREE(double, left);
    int err;

    if ((err = doubles_new(&left, count, ld)) < 0)
        return err;
    for (size_t s = 0; s < count; s++) {
        for (size_t i = 0; i < out; i++)
            left[s * ld + i] = wanted->terms[s].weight * wanted->terms[s].b[i];
    }
    if ((err = lapack_triangle(left, ld, ld, count)) < 0)
        return err;
    for (size_t row = 0; row < count; row++) {
        for (size_t k = 0; k < rank; k++) {
            double sum = 0;
            for (size_t s = row; s < count; s++)
                sum += wanted->terms[s].d[k] * left[s * ld + row];
            starts[row * rank + k] = sum;
        }
    }
    return lapack_singular(values, starts, rank, rank, count, true);
}

/* Try the second direction too, and keep what is nearer. */
static int try_second(double *b, double *d, struct rank_one *fit, double *start)
{
    size_t rank = fit->wanted->rank, out = fit->wanted->out;
    AUTO_FREE(double, other);
    double left = fit->left_square;
    int err;

    if ((err = doubles_new(&other, out, 1)) < 0 || (err = improve(other, start, fit)) < 0)
        return err;
    if (fit->left_square < left) {
        memcpy(b, other, out * sizeof(*b));
        memcpy(d, start, rank * sizeof(*d));
    } else
        fit->left_square = left;
    return 0;
}

int rank_one_fit(double *b, double *d, struct rank_one *fit)
{
    size_t rank = fit->wanted->rank, count = fit->wanted->count;
    double values[COMBINATION_TERMS] = {0};
    AUTO_FREE(double, starts);
    int err;

    memset(b, 0, fit->wanted->out * sizeof(*b));
    memset(d, 0, rank * sizeof(*d));
    fit->left_square = fit->wanted_square;
    if (count == 0 || fit->wanted_square == 0)
        return 0;
    if ((err = doubles_new(&starts, count, rank)) < 0 ||
        (err = starts_set(starts, values, fit->wanted)) < 0)
        return err;
    memcpy(d, starts, rank * sizeof(*d));
    if ((err = improve(b, d, fit)) < 0)
        return err;
    if (rank > 1 && count > 1 && values[1] > SECOND_START * values[0])
        return try_second(b, d, fit, starts + rank);
    return 0;
}
