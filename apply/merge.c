/* Three-way merge in dW. See merge.h and docs/math.md. */
#include "apply/merge.h"

#include <inttypes.h>
#include <math.h>
#include <stddef.h>
#include <stdlib.h>
#include <string.h>

#include "apply/lapack.h"
#include "apply/rank_one.h"
#include "apply/spectrum.h"
#include "format/cpu.h"
#include "format/crew.h"

#define VERSIONS 3
enum { BASE, FIRST, SECOND }; /* first and second: the two sides in an order of their own */

const char *merge_taken_name(enum merge_taken taken)
{
    static const char *const names[] = {"base", "ours", "theirs", "both", "fitted"};

    return names[taken];
}

/* One module at work. The two sides are put into the order of their bytes, so that nothing depends
   on which of them is ours. */
struct work {
    const struct merge_module *input;
    const struct basis *basis;
    const struct triangle *triangle;
    size_t rank, out;
    const struct merge_side *sides[VERSIONS]; /* by BASE, FIRST, SECOND */
    enum merge_taken names[VERSIONS];
    double weights[VERSIONS]; /* T = their weighted sum */
    struct effect effects[VERSIONS];
    struct block_scratch scratch;
    double *values; /* of the vectors, widened, and of what is fitted */
    double *d, *b;  /* what is fitted: [rank], [out] */
};

struct job {
    const struct basis *basis;
    const struct merge_module *modules;
    const struct merge_options *options;
    size_t count;
    struct triangles triangles;
    struct merged_module *results;
    struct spectrum *spectra; /* of T - base; NULL where nobody asked */
};

/* Which side a module comes from */

static bool is_there(const struct merge_side *side)
{
    return side->d.data != NULL;
}

static bool sides_equal(const struct merge_side *a, const struct merge_side *b)
{
    if (!is_there(a) || !is_there(b))
        return is_there(a) == is_there(b);
    return a->dtype_d == b->dtype_d && a->dtype_b == b->dtype_b && bytes_equal(a->d, b->d) &&
           bytes_equal(a->b, b->b);
}

/* Where fitted: both sides changed it, each in its way. */
static enum merge_taken taken_of(const struct merge_module *module)
{
    bool ours = !sides_equal(&module->base, &module->ours);
    bool theirs = !sides_equal(&module->base, &module->theirs);

    if (!ours)
        return theirs ? MERGE_THEIRS : MERGE_BASE;
    if (!theirs)
        return MERGE_OURS;
    return sides_equal(&module->ours, &module->theirs) ? MERGE_BOTH : MERGE_FITTED;
}

static const struct merge_side *side_of(const struct merge_module *module, enum merge_taken taken)
{
    return taken == MERGE_BASE     ? &module->base
           : taken == MERGE_THEIRS ? &module->theirs
                                   : &module->ours;
}

/* Checks of what is given */

static int check_vector(
    struct bytes bytes, enum dtype dtype, uint64_t count, const char *module, const char *name
)
{
    if (!dtype_is_float(dtype))
        return error_set(
            E_UNSUPPORTED, "module %s: %s is %s: only F32, BF16, F16 and F64 can be merged", module,
            name, dtype_name(dtype)
        );
    if (bytes.len % (dtype_bits(dtype) / 8) != 0 || bytes.len / (dtype_bits(dtype) / 8) != count)
        return error_set(
            E_INVALID, "module %s: %s has %zu bytes, not %" PRIu64 " values of %s", module, name,
            bytes.len, count, dtype_name(dtype)
        );
    return 0;
}

static int
check_side(const struct merge_side *side, const struct merge_module *module, uint64_t rank)
{
    int err;

    if (!is_there(side))
        return 0;
    if ((err = check_vector(side->d, side->dtype_d, rank, module->name, "lambda_d")) < 0)
        return err;
    return check_vector(side->b, side->dtype_b, module->out, module->name, "lambda_b");
}

static bool is_conflict(const struct merge_module *module)
{
    const struct merge_side *ours = &module->ours, *theirs = &module->theirs;

    return taken_of(module) == MERGE_FITTED &&
           (!is_there(ours) || !is_there(theirs) || ours->dtype_d != theirs->dtype_d ||
            ours->dtype_b != theirs->dtype_b);
}

static int conflict_detail(int err, const struct merge_module *module)
{
    const struct merge_side *ours = &module->ours, *theirs = &module->theirs;

    if (!is_there(ours) || !is_there(theirs))
        return error_detail(
            err, "%s: changed by %s, dropped by %s", module->name,
            is_there(ours) ? "ours" : "theirs", is_there(ours) ? "theirs" : "ours"
        );
    return error_detail(
        err, "%s: d, b are %s, %s in ours and %s, %s in theirs", module->name,
        dtype_name(ours->dtype_d), dtype_name(ours->dtype_b), dtype_name(theirs->dtype_d),
        dtype_name(theirs->dtype_b)
    );
}

static int check_conflicts(const struct job *job)
{
    size_t conflicts = 0;

    for (size_t i = 0; i < job->count; i++)
        conflicts += is_conflict(&job->modules[i]);
    if (conflicts == 0)
        return 0;
    int err = error_set(E_CONFLICT, "%zu of %zu modules cannot be merged", conflicts, job->count);
    for (size_t i = 0; i < job->count; i++) {
        if (is_conflict(&job->modules[i]))
            err = conflict_detail(err, &job->modules[i]);
    }
    return err;
}

/* The versions as numbers */

static int side_compare(struct bytes a, struct bytes b)
{
    size_t len = a.len < b.len ? a.len : b.len;
    int order = len ? memcmp(a.data, b.data, len) : 0;

    return order ? order : (a.len > b.len) - (a.len < b.len);
}

/* Order and weights of the versions. */
static void work_arrange(struct work *work, const struct merge_options *options)
{
    const struct merge_module *input = work->input;
    double w = options->weight;
    bool task = options->strategy == MERGE_TASK;
    int order = side_compare(input->ours.d, input->theirs.d);

    if (order == 0)
        order = side_compare(input->ours.b, input->theirs.b);
    size_t ours = order <= 0 ? FIRST : SECOND, theirs = order <= 0 ? SECOND : FIRST;
    work->sides[BASE] = &input->base;
    work->sides[ours] = &input->ours;
    work->sides[theirs] = &input->theirs;
    work->names[BASE] = MERGE_BASE;
    work->names[ours] = MERGE_OURS;
    work->names[theirs] = MERGE_THEIRS;
    work->weights[BASE] = task ? -w : 0;
    work->weights[ours] = task ? 1 : 1 - w;
    work->weights[theirs] = w;
}

static int work_widen(struct work *work)
{
    static const char *const version_names[] = {"base", "ours", "theirs"};
    double *next = work->values;
    int err;

    for (size_t v = 0; v < VERSIONS; v++) {
        const struct merge_side *side = work->sides[v];
        if (!is_there(side))
            continue;
        dtype_widen_double(next, side->d.data, work->rank, side->dtype_d);
        dtype_widen_double(next + work->rank, side->b.data, work->out, side->dtype_b);
        work->effects[v] = (struct effect){work->basis, next, next + work->rank};
        err = effect_check(&work->effects[v], work->input->name, work->input->in, work->input->out);
        if (err < 0)
            return error_wrap(err, "%s", version_names[work->names[v]]);
        next += work->rank + work->out;
    }
    work->d = next;
    work->b = next + work->rank;
    return 0;
}

static int work_init(struct work *work, const struct job *job, const struct merge_module *module)
{
    int err;

    *work = (struct work){
        .input = module,
        .basis = job->basis,
        .triangle = triangles_find(&job->triangles, job->basis, NULL, module->in),
        .rank = (size_t)job->basis->rank,
        .out = (size_t)module->out,
    };
    work_arrange(work, job->options);
    if ((err = doubles_new(&work->values, VERSIONS + 1, work->rank + work->out)) < 0)
        return err;
    return work_widen(work);
}

static void work_release(struct work *work)
{
    free(work->values);
    block_scratch_release(&work->scratch);
}

#define AUTO_WORK(name) __attribute__((cleanup(work_release))) struct work name = {0}

/* weights . versions + weight * what is fitted */
static int work_combine(
    struct combination *out, const struct work *work, const double weights[VERSIONS], double weight
)
{
    struct combination_term terms[COMBINATION_TERMS];
    size_t count = 0;

    for (size_t v = 0; v < VERSIONS; v++) {
        if (work->effects[v].basis)
            terms[count++] = (struct combination_term
            ){work->effects[v].d, work->effects[v].b, weights[v]};
    }
    terms[count++] = (struct combination_term){work->d, work->b, weight};
    return combination_init(out, work->basis, work->out, terms, count);
}

static int work_norm(double *out, struct work *work, const double weights[VERSIONS], double weight)
{
    AUTO_COMBINATION(sum);
    int err = work_combine(&sum, work, weights, weight);

    return err < 0 ? err : combination_norm(out, &sum, work->triangle, &work->scratch);
}

/* ||version - T|| */
static int version_norm(double *out, struct work *work, size_t version)
{
    double weights[VERSIONS];

    for (size_t v = 0; v < VERSIONS; v++)
        weights[v] = (v == version) - work->weights[v];
    return work_norm(out, work, weights, 0);
}

/* Fitting */

static double side_norm(const struct work *work, size_t version)
{
    return work->effects[version].basis ? norm_of(work->effects[version].d, work->rank) : 0;
}

/* ||d|| that the merge gets: the mean of the sides'; base's where both are 0. */
static double scale_of(const struct work *work)
{
    double scale = side_norm(work, FIRST) / 2 + side_norm(work, SECOND) / 2;

    if (scale == 0)
        scale = side_norm(work, BASE);
    return scale > 0 ? scale : 1;
}

/* What the sides' d have in common is not turned around: <d, d_first + d_second> >= 0, and where it
   is 0, the first value that is not 0 is positive. */
static void sign_set(double *d, const struct work *work)
{
    const double *first = work->effects[FIRST].d, *second = work->effects[SECOND].d;
    double exponent_free = 1 / fmax(scale_of(work), 0x1p-1000), along = 0;

    for (size_t k = 0; k < work->rank; k++)
        along += d[k] * (first[k] * exponent_free + second[k] * exponent_free);
    for (size_t k = 0; k < work->rank && along == 0; k++)
        along = d[k];
    for (size_t k = 0; k < work->rank && along < 0; k++)
        d[k] = -d[k];
}

/* Where T is 0 any d fits; the sides' mean is where training would go on from. */
static void direction_of_sides(double *d, const struct work *work)
{
    for (size_t k = 0; k < work->rank; k++)
        d[k] = work->effects[FIRST].d[k] / 2 + work->effects[SECOND].d[k] / 2;
    if (norm_of(d, work->rank) == 0)
        memcpy(d, work->effects[FIRST].d, work->rank * sizeof(*d));
    double norm = norm_of(d, work->rank);
    for (size_t k = 0; k < work->rank && norm > 0; k++)
        d[k] /= norm;
}

/* Round to the stored type, and take for the value what is stored. False where that is no number.
 */
static bool round_to(double *values, uint8_t *stored, size_t count, enum dtype dtype)
{
    bool finite = true;

    dtype_narrow_double(stored, values, count, dtype);
    dtype_widen_double(values, stored, count, dtype);
    for (size_t i = 0; i < count; i++)
        finite &= isfinite(values[i]) != 0;
    return finite;
}

/* d and b as they would be stored, into work and `module`; *fits: they are numbers. b is fitted
   anew to the rounded d, so that only its own rounding is left. */
static int fit_round(
    bool *fits, struct merged_module *module, struct work *work, struct rank_one *fit, int exponent
)
{
    enum dtype dtype_d = work->input->ours.dtype_d, dtype_b = work->input->ours.dtype_b;
    double scale = scale_of(work);
    AUTO_FREE(double, unit);
    int err, d_exponent = 0;

    sign_set(work->d, work);
    for (size_t k = 0; k < work->rank; k++)
        work->d[k] *= scale;
    if ((err = buf_resize(&module->d, work->rank * dtype_bits(dtype_d) / 8)) < 0 ||
        (err = buf_resize(&module->b, work->out * dtype_bits(dtype_b) / 8)) < 0 ||
        (err = doubles_new(&unit, work->rank, 1)) < 0)
        return err;
    *fits = round_to(work->d, module->d.data, work->rank, dtype_d);
    if (!*fits)
        return 0;
    (void)frexp(norm_of(work->d, work->rank), &d_exponent);
    for (size_t k = 0; k < work->rank; k++)
        unit[k] = ldexp(work->d[k], -d_exponent);
    if ((err = rank_one_rows(work->b, fit, unit)) < 0)
        return err;
    for (size_t i = 0; i < work->out; i++)
        work->b[i] = ldexp(work->b[i], exponent - d_exponent);
    *fits = round_to(work->b, module->b.data, work->out, dtype_b);
    return 0;
}

static int fit_make(bool *fits, struct merged_module *module, struct work *work)
{
    AUTO_COMBINATION(wanted);
    AUTO_RANK_ONE(fit);
    int err;

    if ((err = work_combine(&wanted, work, work->weights, 0)) < 0 ||
        (err = rank_one_init(&fit, &wanted, work->triangle)) < 0 ||
        (err = rank_one_fit(work->b, work->d, &fit)) < 0)
        return err;
    if (norm_of(work->d, work->rank) == 0)
        direction_of_sides(work->d, work);
    return fit_round(fits, module, work, &fit, wanted.exponent);
}

static int module_copy(struct merged_module *module, const struct merge_side *side)
{
    int err;

    module->d.len = module->b.len = 0;
    if ((err = buf_append(&module->d, side->d.data, side->d.len)) < 0)
        return err;
    return buf_append(&module->b, side->b.data, side->b.len);
}

/* The nearest of base, the two sides and what is fitted: stored bits before fitted ones. */
static int module_fit(struct merged_module *module, struct work *work)
{
    double best = INFINITY, norm;
    size_t taken = VERSIONS;
    bool fits = false;
    int err;

    if ((err = fit_make(&fits, module, work)) < 0)
        return err;
    for (size_t v = 0; v < VERSIONS; v++) {
        if (!work->effects[v].basis)
            continue;
        if ((err = version_norm(&norm, work, v)) < 0)
            return err;
        if (norm < best) {
            best = norm;
            taken = v;
        }
    }
    if (fits) {
        const double minus[] = {-work->weights[0], -work->weights[1], -work->weights[2]};
        if ((err = work_norm(&norm, work, minus, 1)) < 0)
            return err;
        if (norm < best) {
            module->residual_norm = norm;
            return 0;
        }
    }
    module->taken = work->names[taken];
    module->residual_norm = best;
    return module_copy(module, work->sides[taken]);
}

/* A module */

static double ratio(double part, double whole)
{
    return part == 0 ? 0 : part / whole;
}

/* T - base: of the side that changed it, or of both. */
static void
wanted_weights(double weights[VERSIONS], const struct work *work, enum merge_taken taken)
{
    for (size_t v = 0; v < VERSIONS; v++) {
        bool side = taken == MERGE_BOTH ? v == FIRST : work->names[v] == taken;
        weights[v] = taken == MERGE_FITTED ? work->weights[v] : side;
    }
    weights[BASE] -= 1;
}

static int norms_set(struct merged_module *module, struct work *work, enum merge_taken taken)
{
    double wanted[VERSIONS], first[VERSIONS] = {-1, 1, 0}, second[VERSIONS] = {-1, 0, 1};
    bool ours_first = work->names[FIRST] == MERGE_OURS;
    int err;

    wanted_weights(wanted, work, taken);
    if ((err = work_norm(&module->wanted_norm, work, wanted, 0)) < 0 ||
        (err = work_norm(&module->ours_norm, work, ours_first ? first : second, 0)) < 0)
        return err;
    return work_norm(&module->theirs_norm, work, ours_first ? second : first, 0);
}

static int spectrum_set(struct spectrum *out, const struct work *work, enum merge_taken taken)
{
    double wanted[VERSIONS];
    AUTO_COMBINATION(sum);
    int err;

    wanted_weights(wanted, work, taken);
    if ((err = work_combine(&sum, work, wanted, 0)) < 0)
        return err;
    return spectrum_make(out, &sum, work->triangle);
}

static int module_run(struct merged_module *module, struct job *job, size_t number)
{
    const struct merge_module *input = &job->modules[number];
    enum merge_taken taken = taken_of(input);
    AUTO_WORK(work);
    int err;

    module->taken = taken;
    if (taken != MERGE_FITTED && (err = module_copy(module, side_of(input, taken))) < 0)
        return err;
    if ((err = work_init(&work, job, input)) < 0)
        return err;
    if (taken == MERGE_BASE)
        return 0;
    if ((err = norms_set(module, &work, taken)) < 0)
        return err;
    if (job->spectra && (err = spectrum_set(&job->spectra[number], &work, taken)) < 0)
        return err;
    if (taken == MERGE_FITTED && (err = module_fit(module, &work)) < 0)
        return err;
    module->residual = ratio(module->residual_norm, fmax(module->ours_norm, module->theirs_norm));
    return 0;
}

static int run_piece(void *context, unsigned member, size_t piece)
{
    struct job *job = context;

    (void)member;
    struct cpu_float saved = cpu_float_exact();
    int err = module_run(&job->results[piece], job, piece);
    cpu_float_restore(saved);
    return err;
}

/* All of them */

static int check_all(struct job *job)
{
    int err;

    for (size_t i = 0; i < job->count; i++) {
        const struct merge_module *module = &job->modules[i];
        const struct merge_side *sides[] = {&module->base, &module->ours, &module->theirs};
        for (size_t v = 0; v < VERSIONS; v++) {
            if ((err = check_side(sides[v], module, job->basis->rank)) < 0)
                return err;
        }
        if ((err = effect_check_size(job->basis, module->name, module->in, module->out)) < 0 ||
            (err = triangles_want(&job->triangles, job->basis, NULL, module->in, module->out)) < 0)
            return err;
    }
    return check_conflicts(job);
}

static double total_norm(double *scratch, const struct merge *merge, size_t offset)
{
    for (size_t i = 0; i < merge->count; i++)
        memcpy(&scratch[i], (const char *)&merge->modules[i] + offset, sizeof(*scratch));
    return norm_of(scratch, merge->count);
}

static int totals_set(struct merge *merge)
{
    AUTO_FREE(double, norms);
    int err;

    if ((err = doubles_new(&norms, merge->count, 1)) < 0)
        return err;
    merge->residual_norm = total_norm(norms, merge, offsetof(struct merged_module, residual_norm));
    merge->wanted_norm = total_norm(norms, merge, offsetof(struct merged_module, wanted_norm));
    merge->ours_norm = total_norm(norms, merge, offsetof(struct merged_module, ours_norm));
    merge->theirs_norm = total_norm(norms, merge, offsetof(struct merged_module, theirs_norm));
    merge->residual = ratio(merge->residual_norm, fmax(merge->ours_norm, merge->theirs_norm));
    merge->lost = ratio(merge->residual_norm, merge->wanted_norm);
    return 0;
}

static int job_run(struct job *job, struct spectra *spectra)
{
    unsigned threads = lapack_crew(job->count, job->options->threads);
    int err;

    if (!(job->results = array_new(job->count, sizeof(*job->results))))
        return error_set(E_NOMEM, "out of memory for %zu modules", job->count);
    if (job->options->ranks) {
        if (!(spectra->modules = array_new(job->count, sizeof(*spectra->modules))))
            return error_set(E_NOMEM, "out of memory for %zu modules", job->count);
        spectra->count = job->count;
        job->spectra = spectra->modules;
    }
    if ((err = check_all(job)) < 0 || (err = triangles_make(&job->triangles, threads)) < 0)
        return err;
    return crew_run(run_piece, job, job->count, threads);
}

int merge_modules(
    struct merge *out,
    const struct basis *basis,
    const struct merge_module *modules,
    size_t count,
    const struct merge_options *options
)
{
    struct job job = {.basis = basis, .modules = modules, .options = options, .count = count};
    AUTO_MERGE(made);
    AUTO_SPECTRA(spectra);

    if (!isfinite(options->weight))
        return error_set(E_INVALID, "a weight of %g is no number to merge with", options->weight);
    int err = job_run(&job, &spectra);
    triangles_release(&job.triangles);
    made.modules = job.results;
    made.count = made.modules ? count : 0;
    if (err < 0 || (err = totals_set(&made)) < 0)
        return err;
    if (options->ranks) {
        made.rank_90 = spectra_rank(&spectra, 0.9);
        made.rank_99 = spectra_rank(&spectra, 0.99);
        made.rank_999 = spectra_rank(&spectra, 0.999);
    }
    *out = made;
    made = (struct merge){0};
    return 0;
}

void merge_release(struct merge *merge)
{
    for (size_t i = 0; i < merge->count; i++) {
        buf_release(&merge->modules[i].d);
        buf_release(&merge->modules[i].b);
    }
    free(merge->modules);
    *merge = (struct merge){0};
}
