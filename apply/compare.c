/* Norms, differences and cosines of dW. See compare.h and docs/math.md. */
#include "apply/compare.h"

#include <assert.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "apply/combination.h"
#include "apply/lapack.h"
#include "format/cpu.h"
#include "format/crew.h"

/* A side in one module, as far as it is there. */
struct side {
    struct combination sum; /* of one term */
    bool there, second;     /* second: of the triangle's bases */
};

/* One module at work. */
struct pair {
    const struct effect_pair *input;
    const struct triangle *triangle;
    struct side a, b;
    struct combination delta; /* where both stand on one basis */
    bool one_basis;
    double aa, bb, ab, dd; /* sums over the blocks */
    int delta_exponent;
};

/* A thread's memory: X of a block, and R X of both sides and of their difference. */
struct scratch {
    double *x, *a, *b, *delta;
    size_t room;
};

struct job {
    const struct effect_pair *modules;
    bool *one_basis; /* [count] */
    struct triangles triangles;
    struct comparison *results;
    struct scratch *scratch; /* [threads] */
    struct progress_sum progress;
};

static void pair_release(struct pair *pair)
{
    combination_release(&pair->a.sum);
    combination_release(&pair->b.sum);
    combination_release(&pair->delta);
}

/* Do the two give the same X and the same A where this module reads them? */
static bool bases_equal(const struct effect_pair *pair)
{
    const struct basis *a = pair->a.basis, *b = pair->b.basis;

    if (a == b)
        return true;
    if (a->rank != b->rank ||
        memcmp(a->b, b->b, (size_t)(pair->out * a->rank) * sizeof(*a->b)) != 0)
        return false;
    for (uint64_t k = 0; k < a->rank; k++) {
        if (memcmp(a->a + k * a->in, b->a + k * b->in, (size_t)pair->in * sizeof(*a->a)) != 0)
            return false;
    }
    return true;
}

/* The bases that a pair's triangle is made of. */
static void pair_bases(
    const struct basis **first,
    const struct basis **second,
    const struct effect_pair *pair,
    bool one_basis
)
{
    *first = pair->a.basis ? pair->a.basis : pair->b.basis;
    *second = pair->a.basis && pair->b.basis && !one_basis ? pair->b.basis : NULL;
}

static int job_prepare(struct job *job, size_t count)
{
    int err;

    for (size_t i = 0; i < count; i++) {
        const struct effect_pair *pair = &job->modules[i];
        const struct basis *first, *second;
        if ((err = effect_check(&pair->a, pair->name, pair->in, pair->out)) < 0 ||
            (err = effect_check(&pair->b, pair->name, pair->in, pair->out)) < 0)
            return err;
        job->one_basis[i] = pair->a.basis && pair->b.basis && bases_equal(pair);
        pair_bases(&first, &second, pair, job->one_basis[i]);
        if (first &&
            (err = triangles_want(&job->triangles, first, second, pair->in, pair->out)) < 0)
            return err;
    }
    return 0;
}

static int side_init(struct side *side, const struct effect *effect, uint64_t out, bool second)
{
    struct combination_term term = {effect->d, effect->b, 1};

    side->there = effect->basis != NULL;
    side->second = second;
    return side->there ? combination_init(&side->sum, effect->basis, out, &term, 1) : 0;
}

static int pair_init(struct pair *pair)
{
    const struct effect_pair *in = pair->input;
    struct combination_term terms[] = {{in->a.d, in->a.b, 1}, {in->b.d, in->b.b, -1}};
    int err;

    if ((err = side_init(&pair->a, &in->a, in->out, false)) < 0 ||
        (err = side_init(&pair->b, &in->b, in->out, pair->triangle->second != NULL)) < 0)
        return err;
    if (!pair->one_basis) {
        int a = pair->a.sum.exponent, b = pair->b.sum.exponent;
        pair->delta_exponent = !pair->b.there || (pair->a.there && a > b) ? a : b;
        return 0;
    }
    if ((err = combination_init(&pair->delta, in->a.basis, in->out, terms, 2)) < 0)
        return err;
    pair->delta_exponent = pair->delta.exponent;
    return 0;
}

static int scratch_fit(struct scratch *scratch, size_t room)
{
    int err;

    if (scratch->room >= room)
        return 0;
    free(scratch->x);
    scratch->room = 0;
    if ((err = doubles_new(&scratch->x, 4, room)) < 0)
        return err;
    scratch->a = scratch->x + room;
    scratch->b = scratch->a + room;
    scratch->delta = scratch->b + room;
    scratch->room = room;
    return 0;
}

/* y = R x of a block of a sum; zeros where it is not there. */
static void block_apply(
    double *y,
    double *x,
    const struct combination *sum,
    const struct triangle *triangle,
    bool second,
    size_t begin,
    size_t rows
)
{
    if (sum->count > 0 && combination_block(x, sum, begin, rows))
        triangle_apply(y, triangle, second, x, rows);
    else
        memset(y, 0, rows * triangle->rows * sizeof(*y));
}

/* delta = a - b, each brought to the common exponent. */
static void block_subtract(const struct pair *pair, const struct scratch *scratch, size_t count)
{
    double a = ldexp(1, pair->a.sum.exponent - pair->delta_exponent);
    double b = ldexp(1, pair->b.sum.exponent - pair->delta_exponent);

    for (size_t i = 0; i < count; i++)
        scratch->delta[i] = a * scratch->a[i] - b * scratch->b[i];
}

static void
pair_add_block(struct pair *pair, const struct scratch *scratch, size_t begin, size_t rows)
{
    const struct triangle *triangle = pair->triangle;
    size_t count = rows * triangle->rows;

    block_apply(scratch->a, scratch->x, &pair->a.sum, triangle, false, begin, rows);
    block_apply(scratch->b, scratch->x, &pair->b.sum, triangle, pair->b.second, begin, rows);
    if (pair->one_basis)
        block_apply(scratch->delta, scratch->x, &pair->delta, triangle, false, begin, rows);
    else
        block_subtract(pair, scratch, count);
    pair->aa += dot(scratch->a, scratch->a, count);
    pair->bb += dot(scratch->b, scratch->b, count);
    pair->ab += dot(scratch->a, scratch->b, count);
    pair->dd += dot(scratch->delta, scratch->delta, count);
}

static void ratios_set(struct comparison *result, double cosine)
{
    result->has_relative = result->norm_a != 0;
    result->has_cosine = result->norm_a != 0 && result->norm_b != 0;
    if (result->has_relative)
        result->relative = result->delta_norm / result->norm_a;
    if (result->has_cosine)
        result->cosine = result->delta_norm == 0 ? 1 : fmin(fmax(cosine, -1), 1);
}

static int pair_finish(struct comparison *out, const struct pair *pair)
{
    struct comparison result = {0};
    int err;

    if ((err = norm_scaled(&result.norm_a, sqrt(pair->aa), pair->a.sum.exponent)) < 0 ||
        (err = norm_scaled(&result.norm_b, sqrt(pair->bb), pair->b.sum.exponent)) < 0 ||
        (err = norm_scaled(&result.delta_norm, sqrt(pair->dd), pair->delta_exponent)) < 0)
        return err;
    ratios_set(&result, pair->ab / (sqrt(pair->aa) * sqrt(pair->bb)));
    *out = result;
    return 0;
}

static uint64_t bytes_of_x(const struct triangle *triangle, uint64_t rows)
{
    return rows * triangle->rank * sizeof(double);
}

static int pair_run(
    struct comparison *out,
    struct pair *pair,
    struct scratch *scratch,
    struct progress_sum *progress
)
{
    const struct triangle *triangle = pair->triangle;
    size_t rows = (size_t)pair->input->out, step = block_rows(rows, triangle->rank);
    int err;

    if ((err = pair_init(pair)) < 0 || (err = scratch_fit(scratch, step * triangle->rank)) < 0)
        return err;
    for (size_t row = 0; row < rows; row += step) {
        if ((err = interrupt_check()) < 0)
            return err;
        size_t count = step < rows - row ? step : rows - row;
        pair_add_block(pair, scratch, row, count);
        progress_add(progress, bytes_of_x(triangle, count));
    }
    return pair_finish(out, pair);
}

/* NULL where neither side adapts the module. */
static const struct triangle *triangle_of(const struct job *job, size_t number)
{
    const struct effect_pair *pair = &job->modules[number];
    const struct basis *first, *second;

    pair_bases(&first, &second, pair, job->one_basis[number]);
    return first ? triangles_find(&job->triangles, first, second, pair->in) : NULL;
}

static uint64_t job_bytes(const struct job *job, size_t count)
{
    uint64_t bytes = 0;

    for (size_t i = 0; i < count; i++) {
        const struct triangle *triangle = triangle_of(job, i);
        bytes += triangle ? bytes_of_x(triangle, job->modules[i].out) : 0;
    }
    return bytes;
}

static int run_piece(void *context, unsigned member, size_t piece)
{
    struct job *job = context;
    struct pair pair = {.input = &job->modules[piece], .one_basis = job->one_basis[piece]};

    if (!(pair.triangle = triangle_of(job, piece)))
        return 0;
    struct cpu_float saved = cpu_float_exact();
    int err = pair_run(&job->results[piece], &pair, &job->scratch[member], &job->progress);
    cpu_float_restore(saved);
    pair_release(&pair);
    return err < 0 ? error_wrap(err, "module %s", pair.input->name) : 0;
}

/* As if all modules were one. */
static int total_set(struct comparisons *made)
{
    struct comparison *total = &made->total;
    AUTO_FREE(double, norms);
    double cosine = 0;
    int err;

    if ((err = doubles_new(&norms, 3, made->count)) < 0)
        return err;
    double *b = norms + made->count, *delta = b + made->count;
    for (size_t i = 0; i < made->count; i++) {
        norms[i] = made->modules[i].norm_a;
        b[i] = made->modules[i].norm_b;
        delta[i] = made->modules[i].delta_norm;
    }
    if ((err = norm_scaled(&total->norm_a, norm_of(norms, made->count), 0)) < 0 ||
        (err = norm_scaled(&total->norm_b, norm_of(b, made->count), 0)) < 0 ||
        (err = norm_scaled(&total->delta_norm, norm_of(delta, made->count), 0)) < 0)
        return err;
    for (size_t i = 0; i < made->count && total->norm_a != 0 && total->norm_b != 0; i++)
        cosine += made->modules[i].cosine * (norms[i] / total->norm_a) * (b[i] / total->norm_b);
    ratios_set(total, cosine);
    return 0;
}

static void job_release(struct job *job, unsigned threads)
{
    for (unsigned i = 0; job->scratch && i < threads; i++)
        free(job->scratch[i].x);
    free(job->scratch);
    free(job->one_basis);
    triangles_release(&job->triangles);
}

static int job_run(struct job *job, size_t count, unsigned threads, struct progress *progress)
{
    int err;

    if (!(job->scratch = array_new(threads, sizeof(*job->scratch))) ||
        !(job->one_basis = array_new(count, sizeof(*job->one_basis))))
        return error_set(E_NOMEM, "out of memory for %zu modules", count);
    if ((err = job_prepare(job, count)) < 0 || (err = triangles_make(&job->triangles, threads)) < 0)
        return err;
    progress_sum_init(&job->progress, progress, job_bytes(job, count));
    err = crew_run(run_piece, job, count, threads);
    progress_sum_release(&job->progress);
    return err;
}

int compare_effects(
    struct comparisons *out,
    const struct effect_pair *modules,
    size_t count,
    unsigned threads,
    struct progress *progress
)
{
    AUTO_COMPARISONS(made);
    int err;

    threads = lapack_crew(count, threads);
    made.count = count;
    if (!(made.modules = array_new(count, sizeof(*made.modules))))
        return error_set(E_NOMEM, "out of memory for %zu modules", count);
    struct job job = {.modules = modules, .results = made.modules};
    err = job_run(&job, count, threads, progress);
    job_release(&job, threads);
    if (err < 0 || (err = total_set(&made)) < 0)
        return err;
    *out = made;
    made = (struct comparisons){0};
    return 0;
}

void comparisons_release(struct comparisons *comparisons)
{
    free(comparisons->modules);
    *comparisons = (struct comparisons){0};
}
