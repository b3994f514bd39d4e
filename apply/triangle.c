/* The rows of A in coordinates of their own. See triangle.h. */
#include "apply/triangle.h"

#include <assert.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "apply/lapack.h"
#include "format/cpu.h"
#include "format/crew.h"
#include "format/interrupt.h"

static struct triangle *find(
    const struct triangles *triangles,
    const struct basis *first,
    const struct basis *second,
    uint64_t in
)
{
    for (size_t i = 0; i < triangles->count; i++) {
        struct triangle *triangle = &triangles->list[i];
        if (triangle->first == first && triangle->second == second && triangle->in == in)
            return triangle;
    }
    return NULL;
}

const struct triangle *triangles_find(
    const struct triangles *triangles,
    const struct basis *first,
    const struct basis *second,
    uint64_t in
)
{
    return find(triangles, first, second, in);
}

int triangles_want(
    struct triangles *triangles,
    const struct basis *first,
    const struct basis *second,
    uint64_t in,
    uint64_t out
)
{
    struct triangle *known = find(triangles, first, second, in);

    if (known) {
        known->out = known->out < out ? (size_t)out : known->out;
        return 0;
    }
    if (triangles->count == triangles->room) {
        size_t room = 2 * triangles->room + 4;
        struct triangle *list = realloc(triangles->list, room * sizeof(*list));
        if (!list)
            return error_set(E_NOMEM, "out of memory for the list of input sizes");
        triangles->list = list;
        triangles->room = room;
    }
    size_t rank = (size_t)(first->rank + (second ? second->rank : 0));
    triangles->list[triangles->count++] = (struct triangle){
        .first = first,
        .second = second,
        .in = (size_t)in,
        .out = (size_t)out,
        .rank = rank,
        .rows = rank < in ? rank : (size_t)in,
        .upper = in > rank,
    };
    return 0;
}

/* Columns of A^T: the rows of A, of which the first `in` values count. */
static int columns_set(double *columns, const struct basis *basis, size_t in)
{
    for (size_t k = 0; k < basis->rank; k++) {
        const float *row = basis->a + k * basis->in;
        for (size_t j = 0; j < in; j++) {
            if (!isfinite(row[j]))
                return error_set(
                    E_INVALID,
                    "the basis: A holds a value that is not finite (row %zu, column %zu)", k, j
                );
            columns[k * in + j] = (double)row[j];
        }
    }
    return 0;
}

static int check_rows(const struct basis *basis, size_t out)
{
    size_t rank = (size_t)basis->rank;

    for (size_t i = 0; i < out * rank; i++) {
        if (!isfinite(basis->b[i]))
            return error_set(
                E_INVALID, "the basis: B holds a value that is not finite (row %zu, column %zu)",
                i / rank, i % rank
            );
    }
    return 0;
}

static int check_both(const struct triangle *triangle)
{
    int err = check_rows(triangle->first, triangle->out);

    return err < 0 || !triangle->second ? err : check_rows(triangle->second, triangle->out);
}

static void upper_copy(double *r, const double *columns, size_t in, size_t rank)
{
    for (size_t k = 0; k < rank; k++)
        memcpy(r + k * rank, columns + k * in, (k + 1) * sizeof(*r));
}

static int triangle_make(struct triangle *triangle)
{
    size_t first = (size_t)triangle->first->rank, in = triangle->in;
    AUTO_FREE(double, columns);
    int err;

    if ((err = check_both(triangle)) < 0 || (err = doubles_new(&columns, triangle->rank, in)) < 0 ||
        (err = columns_set(columns, triangle->first, in)) < 0)
        return err;
    if (triangle->second && (err = columns_set(columns + first * in, triangle->second, in)) < 0)
        return err;
    if (!triangle->upper) {
        triangle->r = columns;
        columns = NULL;
        return 0;
    }
    if ((err = lapack_triangle(columns, in, in, triangle->rank)) < 0 ||
        (err = doubles_new(&triangle->r, triangle->rank, triangle->rank)) < 0)
        return err;
    upper_copy(triangle->r, columns, in, triangle->rank);
    return 0;
}

static int make_piece(void *context, unsigned member, size_t piece)
{
    struct triangles *triangles = context;
    int err = interrupt_check();

    (void)member;
    if (err < 0)
        return err;
    struct cpu_float saved = cpu_float_exact();
    err = triangle_make(&triangles->list[piece]);
    cpu_float_restore(saved);
    return err;
}

int triangles_make(struct triangles *triangles, unsigned threads)
{
    int err = lapack_load();

    return err < 0 ? err : crew_run(make_piece, triangles, triangles->count, threads);
}

void triangles_release(struct triangles *triangles)
{
    for (size_t i = 0; i < triangles->count; i++)
        free(triangles->list[i].r);
    free(triangles->list);
    *triangles = (struct triangles){0};
}

void triangle_apply(
    double *y, const struct triangle *triangle, bool second, const double *x, size_t count
)
{
    size_t rows = triangle->rows, first = (size_t)triangle->first->rank;
    size_t rank = second ? triangle->rank - first : first;

    if (!triangle->upper || rank != rows) {
        const double *r = triangle->r + (second ? first * rows : 0);
        lapack_multiply(y, rows, LAPACK_PLAIN, r, rows, x, rank, rows, count, rank);
        return;
    }
    memcpy(y, x, rows * count * sizeof(*y));
    lapack_multiply_upper(y, rows, LAPACK_PLAIN, triangle->r, rows, rows, count);
}

void triangle_apply_transposed(
    double *x, const struct triangle *triangle, const double *y, size_t count
)
{
    size_t rows = triangle->rows, rank = triangle->rank;

    assert(!triangle->second);
    if (!triangle->upper) {
        lapack_multiply(x, rank, LAPACK_TRANSPOSED, triangle->r, rows, y, rows, rank, count, rows);
        return;
    }
    memcpy(x, y, rank * count * sizeof(*x));
    lapack_multiply_upper(x, rank, LAPACK_TRANSPOSED, triangle->r, rows, rank, count);
}

void triangle_add_gram(double *gram, const struct triangle *triangle)
{
    assert(!triangle->second);
    lapack_add_square(
        gram, triangle->rank, LAPACK_TRANSPOSED, triangle->r, triangle->rows, triangle->rank,
        triangle->rows
    );
}
