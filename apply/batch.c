/*
 * Each piece of work is some rows: x is packed as the left factor of tiles with A, their sums are
 * scaled by d and packed as the left factor of tiles with B, and those are scaled by b into y.
 * Tiles are apply/kernel_level.h's, the right factors are packed once, when the basis is.
 *
 * A panel of the right factor goes past all rows of a piece while it is in the first cache; k is
 * cut at CUT for this, and between two cuts the sums wait in memory as the float32 numbers that
 * they are. The last rows of a piece go through tiles of few rows, so that a batch of any size, and
 * a thread's share of it, computes little that nobody asked for.
 */
#include "apply/batch.h"

#include <assert.h>
#include <stdlib.h>
#include <string.h>

#include "apply/kernel_level.h"
#include "format/cpu.h"
#include "format/crew.h"

#define CUT        ((size_t)256)
#define PIECE_ROWS ((size_t)48) /* a multiple of every level's rows (4, 6, 12) */
#define ALIGN      ((size_t)64)

/* Multiply-adds that are worth a thread: some hundred microseconds. */
#define THREAD_WORK 8e6

static size_t min_size(size_t a, size_t b)
{
    return a < b ? a : b;
}

static size_t round_up(size_t n, size_t step)
{
    return (n + step - 1) / step * step;
}

/* The first address in `memory` that is a cache line's. */
static float *line_of(const struct buf *memory)
{
    return (float *)(void *)(memory->data + (ALIGN - (uintptr_t)memory->data % ALIGN) % ALIGN);
}

/* ---- The basis ---- */

static int panel_values(
    uint64_t *a,
    uint64_t *b,
    const struct kernel_level *level,
    uint64_t rank,
    uint64_t in,
    uint64_t out
)
{
    int err = basis_values(a, b, rank, in, out);

    if (err < 0)
        return err;
    *a = round_up((size_t)rank, level->cols) * in;
    *b = round_up((size_t)out, level->cols) * rank;
    return 0;
}

int batch_basis_bytes(uint64_t *out, uint64_t rank, uint64_t in, uint64_t out_features)
{
    uint64_t a, b;

    int err = panel_values(&a, &b, kernel_level_chosen(), rank, in, out_features);
    if (err == 0)
        *out = (a + b) * sizeof(float) + ALIGN;
    return err;
}

/* Rows of a matrix [rows, depth] as panels. */
static void pack_panels(
    float *panels, const struct kernel_level *level, const float *matrix, size_t rows, size_t depth
)
{
    for (size_t n = 0; n < rows; n += level->cols)
        level->pack_transposed(
            panels + n * depth, level->cols, matrix + n * depth, depth,
            min_size(level->cols, rows - n), depth
        );
}

int batch_basis_pack(struct batch_basis *out, const struct basis *basis)
{
    struct batch_basis packed = {.level = kernel_level_chosen()};
    AUTO_BUF(memory);
    uint64_t a, b;
    int err;

    if ((err = panel_values(&a, &b, packed.level, basis->rank, basis->in, basis->out)) < 0 ||
        (err = buf_reserve(&memory, (size_t)(a + b) * sizeof(float) + ALIGN)) < 0)
        return err;
    packed.rank = (size_t)basis->rank;
    packed.in = (size_t)basis->in;
    packed.out = (size_t)basis->out;
    float *panels = line_of(&memory);
    pack_panels(panels, packed.level, basis->a, packed.rank, packed.in);
    pack_panels(panels + a, packed.level, basis->b, packed.out, packed.rank);
    packed.a = panels;
    packed.b = panels + a;
    packed.memory = buf_take(&memory);
    *out = packed;
    return 0;
}

void batch_basis_release(struct batch_basis *basis)
{
    buf_release(&basis->memory);
    *basis = (struct batch_basis){0};
}

/* ---- A piece of work ---- */

struct job {
    const struct batch *batch;
    size_t piece_rows;
    float *scratch; /* [members, scratch_floats] */
    size_t scratch_floats;
};

/* A member's memory, in floats. */
struct scratch {
    float *x;      /* left panels of x: [rows, in] */
    float *h;      /* left panels of d o (A x): [rows, rank] */
    float *sums;   /* a panel's tiles: [rows, cols] */
    float *wide;   /* rows of x, widened: [a tile's rows, in] */
    float *vector; /* some of d or b, widened: [cols] */
};

/* Rows of a piece that a tile works on. */
struct group {
    size_t row, lanes; /* lanes: the tile's height */
    size_t count;      /* of them, those that are rows */
};

/* The group at `row` of `rows`. */
static struct group group_at(const struct kernel_level *level, size_t row, size_t rows)
{
    size_t left = rows - row;
    size_t lanes = left > level->rows - level->rows_few ? level->rows : level->rows_few;

    return (struct group){row, lanes, min_size(lanes, left)};
}

static size_t piece_lanes(const struct job *job)
{
    return round_up(job->piece_rows, job->batch->basis->level->rows);
}

/* Its size; placed from `at` on where that is not NULL. */
static size_t scratch_layout(struct scratch *out, float *at, const struct job *job)
{
    const struct batch *batch = job->batch;
    const struct kernel_level *level = batch->basis->level;
    size_t lanes = piece_lanes(job), line = ALIGN / sizeof(float);
    size_t x = round_up(lanes * batch->in, line);
    size_t h = round_up(lanes * batch->basis->rank, line);
    size_t sums = round_up(lanes * level->cols, line);
    size_t wide = round_up(level->rows * batch->in, line);

    if (at)
        *out = (struct scratch
        ){at, at + x, at + x + h, at + x + h + sums, at + x + h + sums + wide};
    return x + h + sums + wide + round_up(level->cols, line);
}

/* `count` values of a vector from `first` on; where they are float32 already, where they are. */
static const float *vector_at(
    const struct batch *batch,
    const struct scratch *scratch,
    const uint8_t *vector,
    size_t first,
    size_t count
)
{
    if (batch->vectors == DTYPE_F32)
        return (const float *)(const void *)(vector + 4 * first);
    dtype_widen(scratch->vector, vector + 2 * first, count, batch->vectors);
    return scratch->vector;
}

static const uint8_t *x_row(const struct batch *batch, size_t row)
{
    return batch->x + row * batch->x_stride * (dtype_bits(batch->dtype) / 8);
}

/* Can the rows' values be read as floats where they are, one row a stride after the other? */
static bool is_strided(const struct batch *batch, const struct batch_row *rows, size_t count)
{
    if (batch->dtype != DTYPE_F32 || (uintptr_t)batch->x % sizeof(float))
        return false;
    for (size_t m = 1; m < count; m++) {
        if (rows[m].row != rows[0].row + m)
            return false;
    }
    return true;
}

/* x of the piece as left panels. */
static void pack_x(
    const struct batch *batch,
    const struct scratch *scratch,
    const struct batch_row *rows,
    size_t row_count
)
{
    const struct kernel_level *level = batch->basis->level;
    struct group group;

    for (size_t row = 0; row < row_count; row += group.count) {
        group = group_at(level, row, row_count);
        const float *from = scratch->wide;
        size_t stride = batch->in;
        if (is_strided(batch, rows + row, group.count)) {
            from = (const float *)(const void *)x_row(batch, rows[row].row);
            stride = batch->x_stride;
        } else {
            for (size_t m = 0; m < group.count; m++)
                dtype_widen(
                    scratch->wide + m * stride, x_row(batch, rows[row + m].row), stride,
                    batch->dtype
                );
        }
        level->pack_transposed(
            scratch->x + row * batch->in, (unsigned)group.lanes, from, stride, group.count,
            batch->in
        );
    }
}

/* scratch->sums = left x one right panel, for all rows of the piece. */
static void multiply(
    const struct kernel_level *level,
    const struct scratch *scratch,
    const float *left,
    const float *right,
    size_t depth,
    size_t row_count
)
{
    struct group group;

    for (size_t k = 0; k < depth; k += CUT) {
        size_t cut = min_size(CUT, depth - k);
        for (size_t row = 0; row < row_count; row += group.count) {
            group = group_at(level, row, row_count);
            float *sums = scratch->sums + row * level->cols;
            const float *factor = left + row * depth + k * group.lanes;
            if (group.lanes == level->rows)
                level->tile(sums, factor, right + k * level->cols, cut, k == 0);
            else
                level->tile_few(sums, factor, right + k * level->cols, cut, k == 0);
        }
    }
}

/* t = d o h for columns [col, col + cols) of a panel, as left panels for B. */
static void scale_by_d(
    const struct batch *batch,
    const struct scratch *scratch,
    const struct batch_row *rows,
    size_t row_count,
    size_t col
)
{
    const struct kernel_level *level = batch->basis->level;
    size_t rank = batch->basis->rank, cols = min_size(level->cols, rank - col);
    struct group group;

    for (size_t row = 0; row < row_count; row += group.count) {
        group = group_at(level, row, row_count);
        float *sums = scratch->sums + row * level->cols;
        for (size_t m = 0; m < group.count; m++) {
            const float *d = vector_at(batch, scratch, rows[row + m].vectors, col, cols);
            for (size_t n = 0; n < cols; n++)
                sums[m * level->cols + n] *= d[n];
        }
        level->pack_transposed(
            scratch->h + row * rank + col * group.lanes, (unsigned)group.lanes, sums, level->cols,
            group.count, cols
        );
    }
}

/* y += b o z for columns [col, col + cols) of a panel. */
static void add_to_y(
    const struct batch *batch,
    const struct scratch *scratch,
    const struct batch_row *rows,
    size_t row_count,
    size_t col
)
{
    const struct kernel_level *level = batch->basis->level;
    size_t cols = min_size(level->cols, batch->out - col), size = dtype_bits(batch->dtype) / 8;
    kernel_update *update = batch->dtype == DTYPE_F32    ? level->update_f32
                            : batch->dtype == DTYPE_BF16 ? level->update_bf16
                                                         : level->update_f16;

    for (size_t m = 0; m < row_count; m++) {
        const float *b = vector_at(batch, scratch, rows[m].vectors, batch->basis->rank + col, cols);
        uint8_t *y = batch->y + (rows[m].row * batch->y_stride + col) * size;
        update(y, scratch->sums + m * level->cols, b, true, cols);
    }
}

static int run_piece(void *context, unsigned member, size_t piece)
{
    const struct job *job = context;
    const struct batch *batch = job->batch;
    const struct batch_basis *basis = batch->basis;
    size_t begin = piece * job->piece_rows;
    size_t count = min_size(job->piece_rows, batch->row_count - begin);
    const struct batch_row *rows = batch->rows + begin;
    struct scratch scratch;

    scratch_layout(&scratch, job->scratch + member * job->scratch_floats, job);
    struct cpu_float saved = cpu_float_exact();
    pack_x(batch, &scratch, rows, count);
    for (size_t col = 0; col < basis->rank; col += basis->level->cols) {
        multiply(basis->level, &scratch, scratch.x, basis->a + col * basis->in, batch->in, count);
        scale_by_d(batch, &scratch, rows, count, col);
    }
    for (size_t col = 0; col < batch->out; col += basis->level->cols) {
        multiply(
            basis->level, &scratch, scratch.h, basis->b + col * basis->rank, basis->rank, count
        );
        add_to_y(batch, &scratch, rows, count, col);
    }
    cpu_float_restore(saved);
    return 0;
}

/* How many threads the work is worth. */
static unsigned member_count(const struct batch *batch, unsigned threads)
{
    double work = (double)batch->row_count * (double)batch->basis->rank *
                  ((double)batch->in + (double)batch->out);
    double worth = work / THREAD_WORK + 1;

    if (threads > batch->row_count)
        threads = (unsigned)batch->row_count;
    return worth < threads ? (unsigned)worth : threads;
}

int batch_run(const struct batch *batch, unsigned threads)
{
    const struct kernel_level *level = batch->basis->level;
    AUTO_BUF(memory);
    int err;

    assert(threads > 0 && batch->in <= batch->basis->in && batch->out <= batch->basis->out);
    assert(dtype_is_applicable(batch->dtype) && dtype_is_applicable(batch->vectors));
    if (batch->row_count == 0 || batch->out == 0)
        return 0;
    unsigned members = member_count(batch, threads);
    size_t share = round_up((batch->row_count + members - 1) / members, level->rows_few);
    struct job job = {.batch = batch, .piece_rows = min_size(PIECE_ROWS, share)};
    size_t pieces = (batch->row_count + job.piece_rows - 1) / job.piece_rows;
    job.scratch_floats = scratch_layout(NULL, NULL, &job);
    if ((err = buf_reserve(&memory, members * job.scratch_floats * sizeof(float) + ALIGN)) < 0)
        return error_wrap(err, "batch of %zu rows", batch->row_count);
    job.scratch = line_of(&memory);
    return crew_run(run_piece, &job, pieces, members);
}
