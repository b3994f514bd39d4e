/*
 * Exact mode is a matrix product whose chains must keep their order and nothing else, so it is laid
 * out like any fast product: panels of the two factors, packed in the order in which a tile reads
 * them, tiles whose sums stay in registers, blocks that stay in the caches. k is cut at
 * BLOCK_DEPTH; between two cuts the sums wait in memory, as the float32 numbers that they are.
 *
 *   W [out, in]: left = B [rows, rank], right = diag(d) A [rank, cols], factor b by row
 *   W [in, out]: left = (diag(d) A)^T [rows, rank], right = B^T [rank, cols], factor b by column
 *
 * y lives in W itself; where W is 16-bit and several terms meet, in a block of float32 that is
 * widened before and narrowed after. What no factor touches is not written. A block goes along its
 * rows, so that W's lines are used whole: rows of W often lie a power of two apart, and many of
 * them at once would share a few places of the caches. Each thread has rows and scratch of its own.
 */
#include "apply/kernel.h"

#include <assert.h>
#include <pthread.h>
#include <string.h>

#include "apply/kernel_level.h"
#include "format/cpu.h"
#include "format/interrupt.h"

/* Multiples of every level's rows (4, 6, 12) and cols (16, 32). */
#define BLOCK_ROWS  ((size_t)192)
#define BLOCK_COLS  ((size_t)512)
#define BLOCK_DEPTH ((size_t)256)
#define CACHE_LINE  ((size_t)64)

/* Multiply-adds that are worth a thread: some hundred microseconds. */
#define THREAD_WORK UINT64_C(8000000)
#define THREADS_MAX 256

struct job {
    const struct kernel_level *level;
    uint8_t *weights;
    enum dtype dtype;
    bool widened; /* 16-bit W of several terms: in float32 from the first to the last */
    bool transposed;
    size_t rows, cols;     /* as stored; row 0 is where weights begins */
    size_t stride;         /* bytes from row to row of the weights */
    const uint8_t *source; /* W before it is merged, where that is not what the weights hold */
    size_t source_stride;
    bool steady;      /* is not interrupted */
    size_t first_row; /* of the whole matrix */
    const struct kernel_term *terms;
    size_t term_count;
    const float *factors;   /* w*b: [term_count, factor_count] */
    size_t factor_count;    /* of the rows (columns, if transposed) of this job */
    const uint8_t *touched; /* by row (column): a factor of any term is not 0 */
};

/* A thread: rows [begin, end) of the job, and scratch memory. */
struct worker {
    const struct job *job;
    size_t begin, end;
    float *left, *right; /* panels of one block */
    float *sums;    /* of the tiles of a block; of one tile where no rank is above BLOCK_DEPTH */
    float *y;       /* a block widened, where the job is */
    bool sums_wait; /* `sums` holds a block */
    pthread_t thread;
    bool started;
    int err;
};

/* The part of the matrix at hand. */
struct block {
    size_t row, col, rows, cols;
    uint8_t *y;      /* its first element: W itself, or W widened */
    size_t y_stride; /* bytes */
    size_t y_size;   /* of an element */
    kernel_update *update;
};

const struct kernel_level *kernel_level_chosen(void)
{
#if defined(__x86_64__)
    switch (cpu_level()) {
    case CPU_AVX512:
        return &kernel_level_avx512;
    case CPU_AVX2:
        return &kernel_level_avx2;
    case CPU_SCALAR:
    case CPU_NEON:
        break;
    }
#elif defined(__aarch64__)
    if (cpu_level() == CPU_NEON)
        return &kernel_level_neon;
#endif
    return &kernel_level_scalar;
}

const char *kernel_name(void)
{
    return cpu_level_name(cpu_level());
}

static size_t min_size(size_t a, size_t b)
{
    return a < b ? a : b;
}

static size_t round_up(size_t n, size_t step)
{
    return (n + step - 1) / step * step;
}

static bool any_touched(const uint8_t *touched, size_t count)
{
    return memchr(touched, 1, count) != NULL;
}

static bool any_factor(const float *factors, size_t count)
{
    for (size_t i = 0; i < count; i++) {
        if (factors[i] != 0)
            return true;
    }
    return false;
}

/* Vectors [begin, begin + count) of d*A or of B, k of [depth_begin, + depth), as panels. */
static void pack(
    float *panels,
    unsigned width,
    const struct kernel_level *level,
    const struct kernel_term *term,
    bool from_a,
    size_t begin,
    size_t count,
    size_t depth_begin,
    size_t depth
)
{
    for (size_t n = 0; n < count; n += width) {
        size_t lanes = min_size(width, count - n);
        if (from_a)
            level->pack_scaled(
                panels + n * depth, width, term->a + depth_begin * term->a_stride + begin + n,
                term->a_stride, term->d + depth_begin, lanes, depth
            );
        else
            level->pack_transposed(
                panels + n * depth, width, term->b_matrix + (begin + n) * term->rank + depth_begin,
                term->rank, lanes, depth
            );
    }
}

/* y = fma(factor, sum, y) for a tile whose chains are complete. row, col: inside the block. */
static void update_tile(
    const struct job *job,
    const struct block *block,
    const float *factors,
    const float *sums,
    size_t row,
    size_t col
)
{
    const struct kernel_level *level = job->level;
    size_t rows = min_size(level->rows, block->rows - row);
    size_t cols = min_size(level->cols, block->cols - col);

    for (size_t m = 0; m < rows; m++) {
        uint8_t *y = block->y + (row + m) * block->y_stride + col * block->y_size;
        const float *factor = factors + (job->transposed ? block->col + col : block->row + row + m);
        block->update(y, sums + m * level->cols, factor, job->transposed, cols);
    }
}

/* Ask for a tile's part of W while its sums are made: the rows lie far apart, and the processor
   does not guess them. */
static void prefetch_tile(const struct job *job, const struct block *block, size_t row, size_t col)
{
    size_t rows = min_size(job->level->rows, block->rows - row);
    size_t bytes = min_size(job->level->cols, block->cols - col) * block->y_size;

    for (size_t m = 0; m < rows; m++) {
        const uint8_t *y = block->y + (row + m) * block->y_stride + col * block->y_size;
        for (size_t at = 0; at < bytes; at += CACHE_LINE)
            __builtin_prefetch(y + at, 1, 2);
        __builtin_prefetch(y + bytes - 1, 1, 2);
    }
}

/* W before it is merged into the weights, rows [row, row + rows) of a block: what is merged next is
   in the cache then. */
static void fetch_rows(const struct job *job, const struct block *block, size_t row, size_t rows)
{
    size_t size = dtype_bits(job->dtype) / 8;

    for (size_t m = block->row + row; m < block->row + row + rows; m++)
        memcpy(
            job->weights + m * job->stride + block->col * size,
            job->source + m * job->source_stride + block->col * size, block->cols * size
        );
}

/* The tiles of a block for one cut of k. */
static void run_tiles(
    struct worker *worker,
    const struct block *block,
    const float *factors,
    size_t depth,
    bool first,
    bool last
)
{
    const struct job *job = worker->job;
    const struct kernel_level *level = job->level;
    float *sums = worker->sums;

    for (size_t row = 0; row < block->rows; row += level->rows) {
        if (last && job->source)
            fetch_rows(job, block, row, min_size(level->rows, block->rows - row));
        for (size_t col = 0; col < block->cols; col += level->cols) {
            if (last)
                prefetch_tile(job, block, row, col);
            level->tile(
                sums, worker->left + row * depth, worker->right + col * depth, depth, first
            );
            if (last)
                update_tile(job, block, factors, sums, row, col);
            if (worker->sums_wait)
                sums += level->rows * level->cols;
        }
    }
}

/* One adapter's share of a block. `packed`: the right panels are those of this term, columns and
   k already. */
static int run_term(struct worker *worker, const struct block *block, size_t number, bool packed)
{
    const struct job *job = worker->job;
    const struct kernel_level *level = job->level;
    const struct kernel_term *term = &job->terms[number];
    const float *factors = job->factors + number * job->factor_count;
    size_t rank = (size_t)term->rank;
    int err;

    for (size_t k = 0; k < rank; k += BLOCK_DEPTH) {
        size_t depth = min_size(BLOCK_DEPTH, rank - k);
        if (!job->steady && (err = interrupt_check()) < 0)
            return err;
        size_t row = job->first_row + block->row;
        if (!packed)
            pack(
                worker->right, level->cols, level, term, !job->transposed, block->col, block->cols,
                k, depth
            );
        pack(worker->left, level->rows, level, term, job->transposed, row, block->rows, k, depth);
        run_tiles(worker, block, factors, depth, k == 0, k + depth == rank);
    }
    return 0;
}

/* Widen the rows of a block that are touched, into worker->y. */
static void block_widen(const struct worker *worker, const struct block *block)
{
    const struct job *job = worker->job;

    for (size_t m = 0; m < block->rows; m++) {
        if (job->transposed || job->touched[block->row + m])
            dtype_widen(
                worker->y + m * BLOCK_COLS,
                job->weights + 2 * ((block->row + m) * job->cols + block->col), block->cols,
                job->dtype
            );
    }
}

/* Back again, what was touched. */
static void block_narrow(const struct worker *worker, const struct block *block)
{
    const struct job *job = worker->job;
    uint8_t narrow[2 * BLOCK_COLS];

    for (size_t m = 0; m < block->rows; m++) {
        uint8_t *to = job->weights + 2 * ((block->row + m) * job->cols + block->col);
        const float *y = worker->y + m * BLOCK_COLS;
        if (!job->transposed) {
            if (job->touched[block->row + m])
                dtype_narrow(to, y, block->cols, job->dtype);
            continue;
        }
        dtype_narrow(narrow, y, block->cols, job->dtype);
        for (size_t n = 0; n < block->cols; n++) {
            if (job->touched[block->col + n])
                memcpy(to + 2 * n, narrow + 2 * n, 2);
        }
    }
}

static kernel_update *update_chosen(const struct kernel_level *level, enum dtype dtype)
{
    if (dtype == DTYPE_F32)
        return level->update_f32;
    return dtype == DTYPE_BF16 ? level->update_bf16 : level->update_f16;
}

static int run_block(struct worker *worker, struct block *block, bool packed)
{
    const struct job *job = worker->job;
    size_t first = job->transposed ? block->col : block->row;
    size_t count = job->transposed ? block->cols : block->rows;
    int err;

    if (job->widened) {
        block_widen(worker, block);
        block->y = (uint8_t *)worker->y;
        block->y_stride = BLOCK_COLS * sizeof(float);
        block->y_size = sizeof(float);
        block->update = job->level->update_f32;
    } else {
        block->y_size = dtype_bits(job->dtype) / 8;
        block->y = job->weights + block->row * job->stride + block->col * block->y_size;
        block->y_stride = job->stride;
        block->update = update_chosen(job->level, job->dtype);
    }
    for (size_t s = 0; s < job->term_count; s++) {
        if (!any_factor(job->factors + s * job->factor_count + first, count))
            continue;
        if ((err = run_term(worker, block, s, packed)) < 0)
            return err;
    }
    if (job->widened)
        block_narrow(worker, block);
    return 0;
}

/* Columns outside, rows inside: with one term and one cut of k, the right panels serve all rows. */
static int run_rows(struct worker *worker)
{
    const struct job *job = worker->job;
    bool reusable = job->term_count == 1 && !worker->sums_wait;
    int err;

    for (size_t col = 0; col < job->cols; col += BLOCK_COLS) {
        size_t cols = min_size(BLOCK_COLS, job->cols - col);
        bool packed = false;
        for (size_t row = worker->begin; row < worker->end; row += BLOCK_ROWS) {
            struct block block = {
                .row = row,
                .col = col,
                .rows = min_size(BLOCK_ROWS, worker->end - row),
                .cols = cols,
            };
            size_t count = job->transposed ? cols : block.rows;
            if (!any_touched(job->touched + (job->transposed ? col : row), count)) {
                if (job->source)
                    fetch_rows(job, &block, 0, block.rows);
                continue;
            }
            if ((err = run_block(worker, &block, packed)) < 0)
                return err;
            packed = reusable;
        }
    }
    return 0;
}

static void *worker_main(void *argument)
{
    struct worker *worker = argument;
    struct cpu_float saved = cpu_float_exact();

    worker->err = run_rows(worker);
    cpu_float_restore(saved);
    return NULL;
}

/* Scratch memory of a worker in floats; placed from `at` on where that is not NULL. */
static size_t scratch_layout(struct worker *worker, float *at, uint64_t rank_max)
{
    const struct job *job = worker->job;
    const size_t line = 16; /* 64 bytes */
    size_t rows = round_up(min_size(BLOCK_ROWS, job->rows), job->level->rows);
    size_t cols = round_up(min_size(BLOCK_COLS, job->cols), job->level->cols);
    size_t depth = rank_max < BLOCK_DEPTH ? (size_t)rank_max : BLOCK_DEPTH;
    size_t left = round_up(rows * depth, line), right = round_up(cols * depth, line);
    size_t sums = rank_max > BLOCK_DEPTH ? round_up(rows * cols, line) : KERNEL_TILE_MAX;
    size_t y = job->widened ? rows * BLOCK_COLS : 0;

    if (at) {
        worker->left = at;
        worker->right = worker->left + left;
        worker->sums = worker->right + right;
        worker->y = worker->sums + sums;
        worker->sums_wait = rank_max > BLOCK_DEPTH;
    }
    return left + right + sums + y;
}

/* Run the workers, the first in this thread, and those for which no other could be had. */
static int run_workers(struct worker *workers, size_t count)
{
    int err = 0;

    for (size_t i = 1; i < count; i++)
        workers[i].started = pthread_create(&workers[i].thread, NULL, worker_main, &workers[i]) ==
                             0;
    worker_main(&workers[0]);
    for (size_t i = 1; i < count; i++) {
        if (workers[i].started)
            pthread_join(workers[i].thread, NULL);
        else
            worker_main(&workers[i]);
    }
    /* The message of another thread is not this thread's. */
    for (size_t i = 0; i < count && err == 0; i++) {
        if (workers[i].err < 0)
            err = error_set(workers[i].err, "interrupted");
    }
    return err;
}

/* How many threads the work is worth. */
static size_t worker_count(const struct job *job, uint64_t rank_sum, unsigned threads)
{
    uint64_t work, worth = UINT64_MAX;
    uint64_t elements = (uint64_t)job->rows * job->cols;

    if (!__builtin_mul_overflow(elements, rank_sum, &work))
        worth = work / THREAD_WORK + 1;
    size_t tiles = round_up(job->rows, job->level->rows) / job->level->rows;
    size_t count = min_size(threads > 0 ? threads : 1, min_size(tiles, THREADS_MAX));
    return worth < count ? (size_t)worth : count;
}

/* Cut the rows into ranges of whole tiles, give each worker its scratch memory, and run them. */
static int run_job(const struct job *job, unsigned threads)
{
    struct worker workers[THREADS_MAX];
    AUTO_BUF(scratch);
    uint64_t rank_max = 0, rank_sum = 0;
    int err;

    for (size_t s = 0; s < job->term_count; s++) {
        rank_max = rank_max > job->terms[s].rank ? rank_max : job->terms[s].rank;
        rank_sum += job->terms[s].rank;
    }
    size_t count = worker_count(job, rank_sum, threads);
    size_t share = round_up((job->rows + count - 1) / count, job->level->rows);
    for (size_t i = 0; i < count; i++) {
        size_t begin = min_size(i * share, job->rows), end = min_size(begin + share, job->rows);
        workers[i] = (struct worker){.job = job, .begin = begin, .end = end};
    }
    size_t floats = scratch_layout(&workers[0], NULL, rank_max);
    if ((err = buf_reserve(&scratch, count * floats * sizeof(float) + 64)) < 0)
        return err;
    float *at = (float *)(void *)(scratch.data + (64 - (uintptr_t)scratch.data % 64));
    for (size_t i = 0; i < count; i++)
        scratch_layout(&workers[i], at + i * floats, rank_max);
    return run_workers(workers, count);
}

/* w*b of every term for the job's rows (columns), and which of them any term touches. Not inlined:
   the products must stay behind cpu_float_exact(). */
static __attribute__((noinline)) void
make_factors(float *factors, uint8_t *touched, const struct job *job, size_t first)
{
    for (size_t s = 0; s < job->term_count; s++) {
        const struct kernel_term *term = &job->terms[s];
        for (size_t i = 0; i < job->factor_count; i++) {
            float factor = term->weight * term->b[first + i];
            factors[s * job->factor_count + i] = factor;
            touched[i] |= factor != 0;
        }
    }
}

int kernel_merge(
    uint8_t *weights,
    enum dtype dtype,
    uint64_t out,
    uint64_t in,
    bool transposed,
    uint64_t row_begin,
    uint64_t row_end,
    const struct kernel_term *terms,
    size_t term_count,
    unsigned threads
)
{
    AUTO_FREE(float, factors);
    AUTO_FREE(uint8_t, touched);

    assert(dtype_is_applicable(dtype) && row_begin <= row_end);
    assert(row_end <= (transposed ? in : out));
    if (row_begin == row_end || out == 0 || in == 0 || term_count == 0)
        return 0;
    struct job job = {
        .level = kernel_level_chosen(),
        .weights = weights,
        .dtype = dtype,
        .widened = dtype != DTYPE_F32 && term_count > 1,
        .transposed = transposed,
        .rows = (size_t)(row_end - row_begin),
        .cols = (size_t)(transposed ? out : in),
        .first_row = (size_t)row_begin,
        .terms = terms,
        .term_count = term_count,
    };
    job.stride = job.cols * dtype_bits(dtype) / 8;
    job.factor_count = transposed ? job.cols : job.rows;
    if (!(factors = array_new(job.factor_count, term_count * sizeof(*factors))) ||
        !(touched = array_new(job.factor_count, 1)))
        return error_wrap(E_NOMEM, "merging %zu rows", job.rows);
    struct cpu_float saved = cpu_float_exact();
    make_factors(factors, touched, &job, transposed ? 0 : job.first_row);
    job.factors = factors;
    job.touched = touched;
    int err = run_job(&job, threads);
    cpu_float_restore(saved);
    return err;
}

/* Floats for the panels of one worker, for its factors, and for what they touch. */
static size_t steady_floats(struct job *job, uint64_t rank)
{
    struct worker worker = {.job = job};
    size_t factors = job->rows > job->cols ? job->rows : job->cols;

    return scratch_layout(&worker, NULL, rank) + factors + factors / sizeof(float) + 1;
}

size_t kernel_memory(uint64_t rows, uint64_t columns, uint64_t rank)
{
    struct job job = {
        .level = kernel_level_chosen(), .rows = (size_t)rows, .cols = (size_t)columns};

    return steady_floats(&job, rank) * sizeof(float) + CACHE_LINE;
}

void kernel_merge_from(
    const struct kernel_place *place,
    enum dtype dtype,
    uint64_t out,
    uint64_t in,
    bool transposed,
    uint64_t row_begin,
    uint64_t row_end,
    const struct kernel_term *term,
    void *memory
)
{
    assert(dtype_is_applicable(dtype) && row_begin < row_end);
    assert(row_end <= (transposed ? in : out));
    struct job job = {
        .level = kernel_level_chosen(),
        .weights = place->weights,
        .dtype = dtype,
        .transposed = transposed,
        .rows = (size_t)(row_end - row_begin),
        .cols = (size_t)(transposed ? out : in),
        .first_row = (size_t)row_begin,
        .stride = place->stride,
        .source = place->source,
        .source_stride = place->source_stride,
        .steady = true,
        .terms = term,
        .term_count = 1,
    };
    uint8_t *at = memory;
    job.factor_count = transposed ? job.cols : job.rows;
    float *panels = (float *)(void *)(at + (CACHE_LINE - (uintptr_t)at % CACHE_LINE) % CACHE_LINE);
    struct worker worker = {.job = &job, .end = job.rows};
    float *factors = panels + scratch_layout(&worker, panels, term->rank);
    uint8_t *touched = (uint8_t *)(factors + job.factor_count);
    memset(touched, 0, job.factor_count);
    job.factors = factors;
    job.touched = touched;
    struct cpu_float saved = cpu_float_exact();
    make_factors(factors, touched, &job, transposed ? 0 : job.first_row);
    worker_main(&worker);
    cpu_float_restore(saved);
}
