/* Singular values of dW. See spectrum.h and docs/math.md. */
#include "apply/spectrum.h"

#include <inttypes.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "apply/lapack.h"
#include "format/cpu.h"
#include "format/crew.h"
#include "format/interrupt.h"
#include "format/limits.h"

static size_t min_size(size_t a, size_t b)
{
    return a < b ? a : b;
}

/* Below the first `rank` rows of `columns`: rows of X, transposed. */
static void rows_append(double *columns, size_t ld, const double *x, size_t rows, size_t rank)
{
    for (size_t k = 0; k < rank; k++) {
        for (size_t i = 0; i < rows; i++)
            columns[k * ld + rank + i] = x[i * rank + k];
    }
}

/* The triangle of X = Q1 R1, a block of rows at a time under what the ones before left, row by row
   in r1: [rank, rank]. Reflections that make a column of [R; X] zero below the diagonal touch one
   row of R and those of X, so R stays a triangle, with exact zeros below. */
static int rows_triangle(double *r1, const struct combination *combination)
{
    size_t rank = combination->rank, step = min_size(2 * rank + 64, combination->out);
    size_t ld = rank + step;
    AUTO_FREE(double, columns);
    AUTO_FREE(double, x);
    int err;

    if ((err = doubles_new(&columns, rank, ld)) < 0 || (err = doubles_new(&x, step, rank)) < 0)
        return err;
    for (size_t row = 0; row < combination->out; row += step) {
        size_t rows = min_size(step, combination->out - row);
        if ((err = interrupt_check()) < 0)
            return err;
        if (!combination_block(x, combination, row, rows))
            continue;
        rows_append(columns, ld, x, rows, rank);
        if ((err = lapack_triangle(columns, ld, rank + rows, rank)) < 0)
            return err;
    }
    for (size_t k = 0; k < rank; k++) {
        for (size_t i = 0; i < rank; i++)
            r1[i * rank + k] = columns[k * ld + i];
    }
    return 0;
}

/* From the values of what was scaled by 2^-exponent. */
static int spectrum_scale(struct spectrum *spectrum, int exponent)
{
    double sum = 0;
    int err;

    for (size_t i = 0; i < spectrum->count; i++) {
        if ((err = norm_scaled(&spectrum->values[i], spectrum->values[i], exponent)) < 0)
            return err;
        sum += ldexp(spectrum->values[i], -exponent);
    }
    if ((err = norm_scaled(&spectrum->norm, norm_of(spectrum->values, spectrum->count), 0)) < 0)
        return err;
    double entropy = 0;
    for (size_t i = 0; i < spectrum->count; i++) {
        double share = sum > 0 ? ldexp(spectrum->values[i], -exponent) / sum : 0;
        entropy -= share > 0 ? share * log(share) : 0;
    }
    spectrum->effective_rank = sum > 0 ? exp(entropy) : 0;
    return 0;
}

int spectrum_make(
    struct spectrum *out, const struct combination *combination, const struct triangle *triangle
)
{
    size_t rank = combination->rank, rows = triangle->rows;
    AUTO_FREE(double, r1);
    AUTO_FREE(double, core);
    AUTO_FREE(double, values);
    int err;

    if (rank > LIMIT_DENSE_RANK)
        return error_set(
            E_LIMIT, "rank %zu is more than %" PRIu64 ", the most for singular values", rank,
            LIMIT_DENSE_RANK
        );
    if ((err = doubles_new(&r1, rank, rank)) < 0 || (err = doubles_new(&core, rank, rows)) < 0 ||
        (err = doubles_new(&values, rank, 1)) < 0)
        return err;
    struct spectrum made = {.values = values, .count = min_size(rows, combination->out)};
    if (combination->count > 0 && (err = rows_triangle(r1, combination)) < 0)
        return err;
    /* core = R R1^T. Where `out` is small, rows of R1 are 0, but not always its last ones. */
    triangle_apply(core, triangle, false, r1, rank);
    if ((err = lapack_singular(values, core, rows, rows, rank, false)) < 0 ||
        (err = spectrum_scale(&made, combination->exponent)) < 0)
        return err;
    values = NULL;
    *out = made;
    return 0;
}

struct job {
    const struct effect_pair *modules;
    struct triangles triangles;
    struct spectrum *results;
    struct progress_sum progress;
};

static int module_run(struct spectrum *out, const struct job *job, const struct effect_pair *module)
{
    const struct effect *effect = &module->a;
    struct combination_term term = {effect->d, effect->b, 1};
    AUTO_COMBINATION(sum);
    int err;

    if ((err = combination_init(&sum, effect->basis, module->out, &term, 1)) < 0)
        return err;
    return spectrum_make(
        out, &sum, triangles_find(&job->triangles, effect->basis, NULL, module->in)
    );
}

static uint64_t bytes_of_x(const struct effect_pair *module)
{
    return module->a.basis ? module->out * module->a.basis->rank * sizeof(double) : 0;
}

static int run_piece(void *context, unsigned member, size_t piece)
{
    struct job *job = context;
    const struct effect_pair *module = &job->modules[piece];

    (void)member;
    if (!module->a.basis)
        return 0;
    struct cpu_float saved = cpu_float_exact();
    int err = module_run(&job->results[piece], job, module);
    cpu_float_restore(saved);
    if (!err)
        progress_add(&job->progress, bytes_of_x(module));
    return err < 0 ? error_wrap(err, "module %s", module->name) : 0;
}

static int job_run(struct job *job, size_t count, unsigned threads, struct progress *progress)
{
    uint64_t bytes = 0;
    int err;

    for (size_t i = 0; i < count; i++) {
        const struct effect_pair *module = &job->modules[i];
        if ((err = effect_check(&module->a, module->name, module->in, module->out)) < 0)
            return err;
        if (module->a.basis &&
            (err = triangles_want(&job->triangles, module->a.basis, NULL, module->in, module->out)
            ) < 0)
            return err;
        bytes += bytes_of_x(module);
    }
    if ((err = triangles_make(&job->triangles, threads)) < 0)
        return err;
    progress_sum_init(&job->progress, progress, bytes);
    err = crew_run(run_piece, job, count, threads);
    progress_sum_release(&job->progress);
    return err;
}

int spectra_make(
    struct spectra *out,
    const struct effect_pair *modules,
    size_t count,
    unsigned threads,
    struct progress *progress
)
{
    AUTO_SPECTRA(made);

    made.count = count;
    if (!(made.modules = array_new(count, sizeof(*made.modules))))
        return error_set(E_NOMEM, "out of memory for %zu modules", count);
    struct job job = {.modules = modules, .results = made.modules};
    int err = job_run(&job, count, lapack_crew(count, threads), progress);
    triangles_release(&job.triangles);
    if (err < 0)
        return err;
    *out = made;
    made = (struct spectra){0};
    return 0;
}

void spectra_release(struct spectra *spectra)
{
    for (size_t i = 0; spectra->modules && i < spectra->count; i++)
        free(spectra->modules[i].values);
    free(spectra->modules);
    *spectra = (struct spectra){0};
}

double spectrum_energy(const struct spectrum *spectrum, size_t directions)
{
    double energy = 0;

    if (spectrum->norm == 0)
        return 1;
    for (size_t i = 0; i < min_size(directions, spectrum->count); i++) {
        double part = spectrum->values[i] / spectrum->norm;
        energy += part * part;
    }
    return fmin(energy, 1);
}

/* What all modules have at this place of their spectra, relative to `norm`. */
static double energy_at(const struct spectra *spectra, size_t place, double norm)
{
    double energy = 0;

    for (size_t i = 0; i < spectra->count; i++) {
        const struct spectrum *spectrum = &spectra->modules[i];
        double part = place < spectrum->count ? spectrum->values[place] / norm : 0;
        energy += part * part;
    }
    return energy;
}

size_t spectra_rank(const struct spectra *spectra, double share)
{
    size_t rank = 0;
    double norm = 0, lost = 0, total = 0;

    for (size_t i = 0; i < spectra->count; i++) {
        const struct spectrum *spectrum = &spectra->modules[i];
        rank = spectrum->count > rank ? spectrum->count : rank;
        norm = fmax(norm, spectrum->norm);
    }
    if (norm == 0)
        return 0;
    for (size_t place = 0; place < rank; place++)
        total += energy_at(spectra, place, norm);
    /* What is lost is summed from its small end: shares near 1 depend on it. */
    for (; rank > 0; rank--) {
        lost += energy_at(spectra, rank - 1, norm);
        if (lost > (1 - share) * total)
            break;
    }
    return rank;
}
