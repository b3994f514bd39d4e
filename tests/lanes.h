/*
 * Weights in a GPU's own memory, for tests of apply/backend.h on the emulated device: jobs from and
 * to memory of all kinds, with whatever strides, slices of W by rows and by columns; what each is
 * to become, as kernel_merge() has it of the whole W; and no byte beside them changed.
 */
#ifndef TESTS_LANES_H
#define TESTS_LANES_H

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "apply/backend.h"
#include "format/limits.h"
#include "tests/emulated_device.h"

static inline int cuda_load(void **state)
{
    (void)state;
    return emulated_load(CUDA_MODULE) == 0 ? setenv("VERA_CUDA_MODULE", CUDA_MODULE, 1) : -1;
}

static inline int setup(void **state)
{
    (void)state;
    emulated.reset();
    return 0;
}

/* Whatever a test did, the device's memory is free again, and the thread's device is its own. */
static inline int teardown(void **state)
{
    int device = -1;

    (void)state;
    cuda.get_device(&device);
    return device == 0 && emulated.leaks() == 0 ? 0 : -1;
}

static inline void assert_message_has(const char *part)
{
    if (!strstr(error_message(), part))
        fail_msg("'%s' is not in: %s", part, error_message());
}

/* Random numbers */

static uint64_t random_state = 20261126;

static inline uint32_t random_u32(void)
{
    random_state = random_state * UINT64_C(6364136223846793005) + UINT64_C(1442695040888963407);
    return (uint32_t)(random_state >> 33) ^ (uint32_t)(random_state >> 13);
}

static inline uint32_t random_below(uint32_t n)
{
    return random_u32() % n;
}

static inline void random_floats(float *out, size_t count, uint32_t zeros_of_16)
{
    for (size_t i = 0; i < count; i++)
        out[i] = random_below(16) < zeros_of_16 ? 0 : (float)((int32_t)random_u32()) * 0x1p-31F;
}

/* Two bases, on the device */

#define BASIS_COUNT 2
#define RANK_MOST   12
#define SIZE_MOST   90 /* of A's and B's own sides */

struct bases {
    float a[BASIS_COUNT][RANK_MOST * SIZE_MOST], b[BASIS_COUNT][SIZE_MOST * RANK_MOST];
    struct backend_basis added[BASIS_COUNT];
};

static inline void bases_make(struct bases *bases)
{
    for (size_t i = 0; i < BASIS_COUNT; i++) {
        random_floats(bases->a[i], RANK_MOST * SIZE_MOST, 1);
        random_floats(bases->b[i], SIZE_MOST * RANK_MOST, 1);
        bases->added[i] = (struct backend_basis
        ){bases->a[i], bases->b[i], RANK_MOST - 5 * i, SIZE_MOST, SIZE_MOST};
    }
}

/* Memory of all kinds: what is in it, and what should be after the merge */

#define ARENA_BYTES (768 * KIB)

enum arena_kind {
    ARENA_BLOCK,  /* the lane's */
    ARENA_CHANGE, /* likewise */
    ARENA_PLAIN,
    ARENA_DEVICE,
    ARENAS,
};

struct arena {
    uint8_t *at; /* where jobs find it */
    uint8_t *image, *expected;
    size_t used;
};

#define TERMS_MOST 3
#define JOBS_MOST  12

struct job_terms {
    struct kernel_term terms[TERMS_MOST];
    float d[TERMS_MOST][RANK_MOST], b[TERMS_MOST][SIZE_MOST];
};

struct scene {
    struct device device;
    struct lane lane;
    struct bases bases;
    struct arena arenas[ARENAS];
    struct backend_job jobs[JOBS_MOST];
    struct job_terms terms[JOBS_MOST];
    size_t job_count;
};

static inline struct scene *scene_new(void)
{
    struct scene *scene = array_new(1, sizeof(*scene));

    assert_non_null(scene);
    bases_make(&scene->bases);
    for (size_t i = 0; i < ARENAS; i++) {
        scene->arenas[i].image = array_new(ARENA_BYTES, 1);
        scene->arenas[i].expected = array_new(ARENA_BYTES, 1);
        assert_non_null(scene->arenas[i].image);
        assert_non_null(scene->arenas[i].expected);
    }
    scene->arenas[ARENA_PLAIN].at = array_new(ARENA_BYTES, 1);
    assert_non_null(scene->arenas[ARENA_PLAIN].at);
    return scene;
}

static inline int scene_open(struct scene *scene, int number)
{
    int err = device_open_number(&scene->device, number, MATH_EXACT);

    for (size_t i = 0; err == 0 && i < BASIS_COUNT; i++)
        err = device_add_basis(&scene->device, &scene->bases.added[i]);
    if (err == 0)
        err = lane_open(&scene->lane, &scene->device, 1);
    if (err == 0)
        err = device_memory_new(&scene->arenas[ARENA_DEVICE].at, &scene->device, ARENA_BYTES);
    if (err == 0)
        err = lane_memory(&scene->arenas[ARENA_BLOCK].at, &scene->lane, LANE_BLOCK, ARENA_BYTES);
    if (err == 0)
        err = lane_memory(&scene->arenas[ARENA_CHANGE].at, &scene->lane, LANE_CHANGE, ARENA_BYTES);
    return err;
}

static inline void scene_close(struct scene *scene)
{
    lane_release(&scene->lane);
    device_release(&scene->device);
}

static inline void scene_free(struct scene **at)
{
    struct scene *scene = *at;

    scene_close(scene);
    free(scene->arenas[ARENA_PLAIN].at);
    for (size_t i = 0; i < ARENAS; i++) {
        free(scene->arenas[i].image);
        free(scene->arenas[i].expected);
    }
    free(scene);
}

#define AUTO_SCENE(name) __attribute__((cleanup(scene_free))) struct scene *name = scene_new()

/* Jobs */

/* A rectangle of a W as it is stored. */
struct part {
    enum dtype dtype;
    bool transposed;
    uint64_t out, in; /* of W */
    uint64_t row, rows, column, columns;
    bool is_dense; /* the columns of a row lie side by side */
};

static inline size_t element_bytes(enum dtype dtype)
{
    return dtype == DTYPE_F32 ? 4 : 2;
}

static inline uint64_t place_stride(const struct part *part, const struct backend_place *place)
{
    uint64_t step = place->column_stride ? place->column_stride : 1;

    return place->row_stride ? place->row_stride : part->columns * step;
}

/* Of an arena's memory, where an element of a part is that lies as `place` says. */
static inline size_t element_at(
    const struct part *part,
    const struct arena *arena,
    const struct backend_place *place,
    uint64_t row,
    uint64_t column
)
{
    uint64_t step = place->column_stride ? place->column_stride : 1;

    return (size_t)(place->data - arena->at) +
           (row * place_stride(part, place) + column * step) * element_bytes(part->dtype);
}

/* A place for the part in the arena: rows side by side or not; on the device also every other
   column of something wider, or columns after each other. */
static inline struct backend_place
place_take(struct arena *arena, const struct part *part, bool on_device)
{
    struct backend_place place = {.on_device = on_device};
    size_t size = element_bytes(part->dtype);

    switch (random_below(on_device && !part->is_dense ? 5 : 3)) {
    case 0:
        place.row_stride = part->columns;
        break;
    case 1:
        place.row_stride = part->columns + random_below(9);
        break;
    case 2:
        break; /* zeros */
    case 3:
        place.column_stride = 2 + random_below(2);
        place.row_stride = part->columns * place.column_stride + random_below(4);
        break;
    default:
        place.row_stride = 1;
        place.column_stride = part->rows + random_below(4);
    }
    /* In 16-byte steps sometimes, so that the kernel's wide paths are gone, too. */
    size_t gap = random_below(3) ? 16 * random_below(20) : size * random_below(40);
    arena->used = (arena->used + gap + size - 1) / size * size;
    place.data = arena->at + arena->used;
    arena->used = element_at(part, arena, &place, part->rows - 1, part->columns - 1) + size;
    assert_true(arena->used <= ARENA_BYTES);
    return place;
}

static inline void part_put(
    uint8_t *image,
    const struct part *part,
    const struct arena *arena,
    const struct backend_place *place,
    const uint8_t *whole
)
{
    size_t size = element_bytes(part->dtype);
    uint64_t width = part->transposed ? part->out : part->in;

    for (uint64_t i = 0; i < part->rows; i++) {
        for (uint64_t j = 0; j < part->columns; j++)
            memcpy(
                image + element_at(part, arena, place, i, j),
                whole + ((part->row + i) * width + part->column + j) * size, size
            );
    }
}

static inline struct part part_make(void)
{
    static const enum dtype dtypes[] = {DTYPE_F32, DTYPE_BF16, DTYPE_F16};
    struct part part = {.dtype = dtypes[random_below(3)], .transposed = random_below(2) != 0};

    part.out = 1 + random_below(SIZE_MOST);
    part.in = 1 + random_below(SIZE_MOST);
    uint64_t height = part.transposed ? part.in : part.out;
    uint64_t width = part.transposed ? part.out : part.in;
    part.row = random_below(2) ? 0 : random_below((uint32_t)height);
    part.rows = height - part.row;
    if (random_below(2))
        part.rows = 1 + random_below((uint32_t)part.rows);
    part.column = random_below(2) ? 0 : random_below((uint32_t)width);
    part.columns = width - part.column;
    if (random_below(2))
        part.columns = 1 + random_below((uint32_t)part.columns);
    return part;
}

/* Adapters for all of W. */
static inline void terms_make(struct job_terms *terms, size_t count, const struct bases *bases)
{
    for (size_t s = 0; s < count; s++) {
        const struct backend_basis *basis = &bases->added[random_below(BASIS_COUNT)];
        random_floats(terms->d[s], RANK_MOST, 2);
        random_floats(terms->b[s], SIZE_MOST, 5);
        terms->terms[s] = (struct kernel_term){
            .a = basis->a,
            .b_matrix = basis->b,
            .d = terms->d[s],
            .b = terms->b[s],
            .a_stride = basis->in,
            .rank = basis->rank,
            .weight = random_below(3) ? 1 : 0.7F,
        };
    }
}

/* From adapters for W to those for a part of it. Rows can be cut either way. */
static inline void
job_cut(struct backend_job *job, struct job_terms *terms, const struct part *part)
{
    bool shift_rows = random_below(2) != 0;

    job->out = part->transposed ? part->columns : part->out;
    job->in = part->transposed ? part->in : part->columns;
    job->row_begin = part->row;
    job->row_end = part->row + part->rows;
    if (shift_rows) {
        *(part->transposed ? &job->in : &job->out) = part->rows;
        job->row_begin = 0;
        job->row_end = part->rows;
    }
    for (size_t s = 0; s < job->term_count; s++) {
        struct kernel_term *term = &terms->terms[s];
        uint64_t row = shift_rows ? part->row : 0;
        uint64_t first_in = part->transposed ? row : part->column;
        uint64_t first_out = part->transposed ? part->column : row;
        term->a += first_in;
        term->b_matrix += first_out * term->rank;
        term->b += first_out;
    }
}

/* W of any bits, also NaNs, and what it becomes. */
static inline void whole_make(
    uint8_t *whole,
    uint8_t *merged,
    const struct part *part,
    const struct job_terms *terms,
    size_t count
)
{
    size_t bytes = (size_t)(part->out * part->in) * element_bytes(part->dtype);
    uint64_t height = part->transposed ? part->in : part->out;

    for (size_t i = 0; i < bytes; i++)
        whole[i] = (uint8_t)random_u32();
    memcpy(merged, whole, bytes);
    assert_int_equal(
        kernel_merge(
            merged, part->dtype, part->out, part->in, part->transposed, 0, height, terms->terms,
            count, 1
        ),
        0
    );
}

static inline void job_add(
    struct scene *scene,
    struct part part,
    size_t term_count,
    enum arena_kind from,
    enum arena_kind to
)
{
    static uint8_t whole[SIZE_MOST * SIZE_MOST * 4], merged[SIZE_MOST * SIZE_MOST * 4];
    struct backend_job *job = &scene->jobs[scene->job_count];
    struct job_terms *terms = &scene->terms[scene->job_count++];
    struct arena *source = &scene->arenas[from], *result = &scene->arenas[to];

    *job = (struct backend_job
    ){.dtype = part.dtype,
      .transposed = part.transposed,
      .terms = terms->terms,
      .term_count = term_count};
    terms_make(terms, term_count, &scene->bases);
    whole_make(whole, merged, &part, terms, term_count);
    job_cut(job, terms, &part);
    job->to = place_take(result, &part, to == ARENA_DEVICE);
    const struct backend_place *place = &job->to;
    if (from != to || random_below(2)) {
        job->from = place_take(source, &part, from == ARENA_DEVICE);
        place = &job->from;
    }
    part_put(source->image, &part, source, place, whole);
    part_put(source->expected, &part, source, place, whole);
    part_put(result->expected, &part, result, &job->to, merged);
}

/* What no job is to touch is of any bits, too. */
static inline void scene_begin(struct scene *scene)
{
    scene->job_count = 0;
    for (size_t i = 0; i < ARENAS; i++) {
        scene->arenas[i].used = 0;
        for (size_t k = 0; k < ARENA_BYTES; k++)
            scene->arenas[i].image[k] = (uint8_t)(k * 37 + i);
        memcpy(scene->arenas[i].expected, scene->arenas[i].image, ARENA_BYTES);
    }
}

static inline void scene_make(struct scene *scene, size_t jobs)
{
    scene_begin(scene);
    for (size_t i = 0; i < jobs; i++) {
        size_t terms = random_below(4) ? 1 + random_below(TERMS_MOST) : 0;
        enum arena_kind from = random_below(ARENAS), to = random_below(ARENAS);
        job_add(scene, part_make(), terms, from, random_below(3) ? to : from);
    }
}

/* 0, or what CUDA's own calls return. */
static inline int scene_put(struct scene *scene)
{
    for (size_t i = 0; i < ARENA_DEVICE; i++)
        memcpy(scene->arenas[i].at, scene->arenas[i].image, ARENA_BYTES);
    const struct arena *arena = &scene->arenas[ARENA_DEVICE];
    int error = cuda.copy(arena->at, arena->image, ARENA_BYTES, CUDA_HOST_TO_DEVICE);
    return error ? error : cuda.stream_wait(NULL);
}

/* Whether all memory is what it should be. */
static inline bool scene_is_right(struct scene *scene)
{
    struct arena *arena = &scene->arenas[ARENA_DEVICE];
    bool right = true;

    for (size_t i = 0; i < ARENA_DEVICE; i++)
        right &= memcmp(scene->arenas[i].at, scene->arenas[i].expected, ARENA_BYTES) == 0;
    assert_int_equal(cuda.copy(arena->image, arena->at, ARENA_BYTES, CUDA_DEVICE_TO_HOST), 0);
    return right && memcmp(arena->image, arena->expected, ARENA_BYTES) == 0;
}

#endif
