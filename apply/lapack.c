/* LAPACK, loaded at run time. See lapack.h. */
#include "apply/lapack.h"

#include <assert.h>
#include <dlfcn.h>
#include <float.h>
#include <math.h>
#include <pthread.h>
#include <string.h>

#include "format/buf.h"
#include "format/crew.h"

/* Half of what Debian builds OpenBLAS for: each that calls it takes memory of a fixed list. */
#define THREADS_MAX 64

/* Fortran passes everything by reference, and the lengths of texts (here 1) at the end. */
typedef void gemm_fn(
    const char *,
    const char *,
    const int *,
    const int *,
    const int *,
    const double *,
    const double *,
    const int *,
    const double *,
    const int *,
    const double *,
    double *,
    const int *,
    size_t,
    size_t
);
typedef void trmm_fn(
    const char *,
    const char *,
    const char *,
    const char *,
    const int *,
    const int *,
    const double *,
    const double *,
    const int *,
    double *,
    const int *,
    size_t,
    size_t,
    size_t,
    size_t
);
typedef void syrk_fn(
    const char *,
    const char *,
    const int *,
    const int *,
    const double *,
    const double *,
    const int *,
    const double *,
    double *,
    const int *,
    size_t,
    size_t
);
typedef void gemv_fn(
    const char *,
    const int *,
    const int *,
    const double *,
    const double *,
    const int *,
    const double *,
    const int *,
    const double *,
    double *,
    const int *,
    size_t
);
typedef void
geqrf_fn(const int *, const int *, double *, const int *, double *, double *, const int *, int *);
typedef void gesvd_fn(
    const char *,
    const char *,
    const int *,
    const int *,
    double *,
    const int *,
    double *,
    double *,
    const int *,
    double *,
    const int *,
    double *,
    const int *,
    int *,
    size_t,
    size_t
);
typedef void potrf_fn(const char *, const int *, double *, const int *, int *, size_t);
typedef void potrs_fn(
    const char *,
    const int *,
    const int *,
    const double *,
    const int *,
    double *,
    const int *,
    int *,
    size_t
);
typedef void syev_fn(
    const char *,
    const char *,
    const int *,
    double *,
    const int *,
    double *,
    double *,
    const int *,
    int *,
    size_t,
    size_t
);

/* Which of them a system has is looked up once; never unloaded. */
static struct {
    pthread_once_t once;
    bool loaded;
    gemm_fn *gemm;
    trmm_fn *trmm;
    syrk_fn *syrk;
    gemv_fn *gemv;
    geqrf_fn *geqrf;
    gesvd_fn *gesvd;
    potrf_fn *potrf;
    potrs_fn *potrs;
    syev_fn *syev;
} lapack = {.once = PTHREAD_ONCE_INIT};

/* A function's address into a pointer to a function, which C allows bytewise only. */
static bool find(void *out, void *library, const char *name)
{
    void *symbol = dlsym(library, name);

    memcpy(out, &symbol, sizeof(symbol));
    return symbol != NULL;
}

static bool find_all(void *library)
{
    return find(&lapack.gemm, library, "dgemm_") && find(&lapack.trmm, library, "dtrmm_") &&
           find(&lapack.syrk, library, "dsyrk_") && find(&lapack.gemv, library, "dgemv_") &&
           find(&lapack.geqrf, library, "dgeqrf_") && find(&lapack.gesvd, library, "dgesvd_") &&
           find(&lapack.potrf, library, "dpotrf_") && find(&lapack.potrs, library, "dpotrs_") &&
           find(&lapack.syev, library, "dsyev_");
}

static void load_once(void)
{
    static const char *const names[] = {"libopenblas.so.0", "liblapack.so.3"};
    void (*set_threads)(int);

    for (size_t i = 0; i < sizeof(names) / sizeof(names[0]) && !lapack.loaded; i++) {
        void *library = dlopen(names[i], RTLD_NOW | RTLD_LOCAL);
        if (!library)
            continue;
        lapack.loaded = find_all(library);
        if (!lapack.loaded)
            dlclose(library);
        else if (find(&set_threads, library, "openblas_set_num_threads"))
            set_threads(1);
    }
}

int lapack_load(void)
{
    pthread_once(&lapack.once, load_once);
    if (lapack.loaded)
        return 0;
    int err = error_set(
        E_UNSUPPORTED, "linear algebra: neither libopenblas.so.0 nor liblapack.so.3 "
                       "can be loaded"
    );
    return error_hint(err, "Install OpenBLAS, which Debian has as libopenblas0.");
}

static int fortran(size_t n)
{
    assert(n <= INT32_MAX);
    return (int)n;
}

static char letter(enum lapack_form form)
{
    return (char)form;
}

void lapack_multiply(
    double *c,
    size_t ld_c,
    enum lapack_form form,
    const double *a,
    size_t ld_a,
    const double *b,
    size_t ld_b,
    size_t rows,
    size_t columns,
    size_t inner
)
{
    const int m = fortran(rows), n = fortran(columns), k = fortran(inner);
    const int lda = fortran(ld_a), ldb = fortran(ld_b), ldc = fortran(ld_c);
    const double one = 1, zero = 0;
    const char trans = letter(form);

    lapack.gemm(&trans, "N", &m, &n, &k, &one, a, &lda, b, &ldb, &zero, c, &ldc, 1, 1);
}

void lapack_multiply_upper(
    double *b,
    size_t ld_b,
    enum lapack_form form,
    const double *a,
    size_t ld_a,
    size_t rows,
    size_t columns
)
{
    const int m = fortran(rows), n = fortran(columns), lda = fortran(ld_a), ldb = fortran(ld_b);
    const double one = 1;
    const char trans = letter(form);

    lapack.trmm("L", "U", &trans, "N", &m, &n, &one, a, &lda, b, &ldb, 1, 1, 1, 1);
}

void lapack_add_square(
    double *c,
    size_t ld_c,
    enum lapack_form form,
    const double *a,
    size_t ld_a,
    size_t size,
    size_t inner
)
{
    const int n = fortran(size), k = fortran(inner), lda = fortran(ld_a), ldc = fortran(ld_c);
    const double one = 1;
    const char trans = letter(form);

    lapack.syrk("U", &trans, &n, &k, &one, a, &lda, &one, c, &ldc, 1, 1);
}

void lapack_apply(
    double *y,
    enum lapack_form form,
    const double *a,
    size_t ld_a,
    const double *x,
    size_t rows,
    size_t columns
)
{
    const int m = fortran(rows), n = fortran(columns), lda = fortran(ld_a), step = 1;
    const double one = 1, zero = 0;
    const char trans = letter(form);

    lapack.gemv(&trans, &m, &n, &one, a, &lda, x, &step, &zero, y, &step, 1);
}

unsigned lapack_crew(size_t pieces, unsigned threads)
{
    unsigned wanted = threads ? threads : crew_size(pieces);

    return wanted < THREADS_MAX ? wanted : THREADS_MAX;
}

int doubles_new(double **out, size_t rows, size_t columns)
{
    size_t count;

    if (__builtin_mul_overflow(rows, columns, &count) || !(*out = array_new(count, sizeof(**out))))
        return error_set(E_NOMEM, "out of memory for a matrix of %zu x %zu", rows, columns);
    return 0;
}

/* Scratch memory of the size that a routine asked for. */
static int work_new(double **out, int *count, double wanted)
{
    *count = wanted < 1 ? 1 : (int)wanted;
    return doubles_new(out, (size_t)*count, 1);
}

int lapack_triangle(double *a, size_t ld_a, size_t rows, size_t columns)
{
    const int m = fortran(rows), n = fortran(columns), lda = fortran(ld_a), ask = -1;
    AUTO_FREE(double, tau);
    AUTO_FREE(double, work);
    double wanted = 0;
    int info = 0, count = 0, err;

    if ((err = doubles_new(&tau, rows < columns ? rows : columns, 1)) < 0)
        return err;
    lapack.geqrf(&m, &n, a, &lda, tau, &wanted, &ask, &info);
    if ((err = work_new(&work, &count, wanted)) < 0)
        return err;
    lapack.geqrf(&m, &n, a, &lda, tau, work, &count, &info);
    assert(info == 0);
    return 0;
}

int lapack_singular(
    double *values, double *a, size_t ld_a, size_t rows, size_t columns, bool vectors
)
{
    const int m = fortran(rows), n = fortran(columns), lda = fortran(ld_a), ask = -1, one = 1;
    const char *left = vectors ? "O" : "N";
    AUTO_FREE(double, work);
    double wanted = 0, none = 0;
    int info = 0, count = 0, err;

    lapack.gesvd(
        left, "N", &m, &n, a, &lda, values, &none, &one, &none, &one, &wanted, &ask, &info, 1, 1
    );
    if ((err = work_new(&work, &count, wanted)) < 0)
        return err;
    lapack.gesvd(
        left, "N", &m, &n, a, &lda, values, &none, &one, &none, &one, work, &count, &info, 1, 1
    );
    assert(info >= 0);
    return info == 0 ? 0 : error_set(E_INVALID, "the singular values do not converge");
}

/* x = V (V^T x / values), over the values that are not 0; V [size, size]. */
static int solve_spectral(double *x, double *v, size_t size)
{
    const int n = fortran(size), ask = -1;
    AUTO_FREE(double, values);
    AUTO_FREE(double, work);
    double wanted = 0;
    int info = 0, count = 0, err;

    lapack.syev("V", "U", &n, v, &n, &wanted, &wanted, &ask, &info, 1, 1);
    if ((err = doubles_new(&values, 2, size)) < 0 || (err = work_new(&work, &count, wanted)) < 0)
        return err;
    lapack.syev("V", "U", &n, v, &n, values, work, &count, &info, 1, 1);
    assert(info >= 0);
    if (info > 0)
        return error_set(E_INVALID, "the eigenvalues do not converge");
    double *turned = values + size;
    double smallest = values[size - 1] * DBL_EPSILON * (double)size;
    lapack_apply(turned, LAPACK_TRANSPOSED, v, size, x, size, size);
    for (size_t k = 0; k < size; k++)
        turned[k] = values[k] > smallest ? turned[k] / values[k] : 0;
    lapack_apply(x, LAPACK_PLAIN, v, size, turned, size, size);
    return 0;
}

/* Is a Cholesky factor that of a matrix which rounding leaves regular? */
static bool is_regular(const double *factor, size_t size)
{
    double least = INFINITY, most = 0;

    for (size_t k = 0; k < size; k++) {
        double pivot = factor[k * size + k];
        least = fmin(least, pivot);
        most = fmax(most, pivot);
    }
    return least * least > most * most * DBL_EPSILON * 16 * (double)size;
}

int lapack_solve(double *x, double *s, double *spare, size_t size)
{
    const int n = fortran(size), one = 1;
    int info = 0;

    memcpy(spare, s, size * size * sizeof(*s));
    lapack.potrf("U", &n, s, &n, &info, 1);
    assert(info >= 0);
    if (info > 0 || !is_regular(s, size))
        return solve_spectral(x, spare, size);
    lapack.potrs("U", &n, &one, s, &n, x, &n, &info, 1);
    assert(info == 0);
    return 0;
}
