/*
 * One thread's share of the device: a stream, pinned memory for its blocks, and a tile on the
 * device. What lies in the device's memory is read and written there; what lies in the processor's
 * is copied into the tile, or out of it. One grid goes over all of them, and a merge waits for it.
 *
 * It waits because its thread has nothing else to do with the block, and reading, hashing and
 * writing take many times as long as both copies and the kernel: those of one lane overlap with
 * everything of the others.
 *
 * Where the device's memory cannot hold a whole merge its rows go through a smaller tile, wave by
 * wave; the bits are the same. All memory is taken before the first wave, so that one that begins
 * does not end for lack of it.
 */
#include "apply/cuda/module.h"

#include <assert.h>
#include <stdlib.h>
#include <string.h>

#include "apply/cuda/kernels.h"
#include "format/limits.h"

/* Of blocks on the device at a time, and the least that is tried: it holds a row at any rate. */
#define TILE_BYTES     (32 * MIB)
#define TILE_BYTES_MIN (16 * KIB)

/* Of vectors and descriptions of one launch, unless one block has more. */
#define PARAMETER_BYTES (8 * MIB)

/* Pinning memory is slow: all blocks but those of very wide rows fit the first piece. */
#define SLOT_STEP (4 * MIB)

/* How the rows of a job become what they are to be. */
enum route {
    ROUTE_NONE, /* they are it already */
    ROUTE_COPY, /* a copy from or to the processor's memory, which a copy engine can do */
    ROUTE_TILE, /* the kernel; what is in the processor's memory goes through the tile */
    ROUTE_HERE, /* the kernel, and both sides are in the device's memory */
    ROUTE_OVER, /* a copy to where the device wants them, and the kernel in place */
};

/* Rows of a job that are worked on at a time. */
struct slice {
    const struct backend_job *job;
    enum route route;
    uint64_t row, rows;
    size_t at; /* in the tile, where it is on that route */
};

/* Rows in the processor's memory and, side by side, in the tile. Those of several slices are one
   span where they lie beside each other in both: one copy. */
struct span {
    uint8_t *host;
    size_t pitch;         /* on the host, from row to row */
    size_t at, row, rows; /* in the tile, and bytes of a row */
    bool up, down;        /* copied to the device, before the kernel; and back, after it */
};

/* A piece of memory on both sides. */
struct mirror {
    uint8_t *host, *device;
    size_t bytes;
};

struct lane_state {
    const struct session *session;
    cudaStream_t stream;
    cudaEvent_t followed;       /* what a stream has been given by now: one after the other */
    uint8_t *slots[LANE_SLOTS]; /* pinned */
    size_t slot_bytes[LANE_SLOTS];
    uint8_t *tile; /* on the device */
    size_t tile_bytes;
    size_t tile_most;         /* no more than this could be had */
    struct mirror parameters; /* of a launch: its tensors, their terms, d and w*b */
    struct slice *slices;     /* [room] */
    struct span *spans;       /* [2 room] */
    size_t room;
    bool is_loaded; /* have the kernels run on the device? */
};

/* What is launched together, and how far a merge is. */
struct wave {
    const struct backend_job *jobs;
    size_t job_count;
    size_t job;   /* the first one that is not done, */
    uint64_t row; /* from here on */
    size_t slice_count, span_count;
    size_t bytes;                  /* of the tile */
    size_t tensors, terms, floats; /* of the launch; floats: of vectors */
};

static size_t round_up(size_t n, size_t step)
{
    return (n + step - 1) / step * step;
}

static size_t min_size(uint64_t a, uint64_t b)
{
    return (size_t)(a < b ? a : b);
}

/* ---- Jobs ---- */

static uint64_t column_count(const struct backend_job *job)
{
    return job->transposed ? job->out : job->in;
}

static size_t element_bytes(const struct backend_job *job)
{
    return job->dtype == DTYPE_F32 ? 4 : 2;
}

static size_t row_bytes(const struct backend_job *job)
{
    return (size_t)column_count(job) * element_bytes(job);
}

/* Where W comes from. */
static const struct backend_place *place_from(const struct backend_job *job)
{
    return job->from.data ? &job->from : &job->to;
}

static uint64_t place_step(const struct backend_place *place)
{
    return place->column_stride ? place->column_stride : 1;
}

/* In elements. */
static uint64_t place_stride(const struct backend_job *job, const struct backend_place *place)
{
    return place->row_stride ? place->row_stride : column_count(job) * place_step(place);
}

static size_t place_pitch(const struct backend_job *job, const struct backend_place *place)
{
    return (size_t)place_stride(job, place) * element_bytes(job);
}

static uint8_t *
place_row(const struct backend_job *job, const struct backend_place *place, uint64_t row)
{
    return place->data + (row - job->row_begin) * place_pitch(job, place);
}

static enum route route_of(const struct backend_job *job)
{
    const struct backend_place *from = place_from(job), *to = &job->to;
    bool on_device = from->on_device && to->on_device;

    if (job->row_begin == job->row_end || column_count(job) == 0)
        return ROUTE_NONE;
    if (job->term_count == 0 && !job->from.data)
        return ROUTE_NONE;
    if (on_device)
        return ROUTE_HERE; /* also copies: hundreds of them are one launch */
    if (place_step(from) != 1 || place_step(to) != 1)
        return ROUTE_TILE;
    if (job->term_count == 0)
        return ROUTE_COPY;
    return to->on_device ? ROUTE_OVER : ROUTE_TILE;
}

static bool has_kernel(enum route route)
{
    return route != ROUTE_NONE && route != ROUTE_COPY;
}

static bool has_copy(enum route route)
{
    return route == ROUTE_COPY || route == ROUTE_OVER;
}

static int place_check(
    const struct backend_job *job, const struct backend_place *place, struct backend_fault *fault
)
{
    uint64_t step = place_step(place);

    assert(place->on_device || step == 1);
    if (step > UINT32_MAX)
        return fault_set(
            fault, E_LIMIT, "cuda: elements of a row lie %llu apart, and at most 2^32 - 1 can be",
            (unsigned long long)step
        );
    if (place->on_device && (uintptr_t)place->data % element_bytes(job))
        return fault_set(
            fault, E_INVALID, "cuda: weights at %p are not aligned to their type",
            (const void *)place->data
        );
    return 0;
}

static int jobs_check(const struct backend_job *jobs, size_t count, struct backend_fault *fault)
{
    int err = 0;

    for (size_t i = 0; err == 0 && i < count; i++) {
        if ((err = place_check(&jobs[i], &jobs[i].to, fault)) == 0)
            err = place_check(&jobs[i], place_from(&jobs[i]), fault);
    }
    return err;
}

/* ---- The lane ---- */

static int lane_begin(struct lane_state *lane, struct backend_fault *fault)
{
    ON_DEVICE(fault, lane->session->device);
    TRY(fault, cudaStreamCreateWithFlags(&lane->stream, cudaStreamNonBlocking));
    cudaError_t error = cudaEventCreateWithFlags(&lane->followed, cudaEventDisableTiming);
    if (error == cudaSuccess)
        return 0;
    (void)cudaStreamDestroy(lane->stream);
    return fault_cuda(fault, "cudaEventCreateWithFlags", error);
}

int cuda_lane_open(void **out, void *session, unsigned threads, struct backend_fault *fault)
{
    struct lane_state *lane = (struct lane_state *)calloc(1, sizeof(*lane));

    (void)threads;
    if (!lane)
        return fault_set(fault, E_NOMEM, "cuda: out of memory");
    lane->session = (const struct session *)session;
    lane->tile_most = TILE_BYTES;
    int err = lane_begin(lane, fault);
    if (err < 0)
        free(lane);
    else
        *out = lane;
    return err;
}

/* Nothing is on its way: every merge waits for its end, however it ends. What is freed is no longer
   needed, so that an error there is nobody's. */
void cuda_lane_close(void *state)
{
    struct lane_state *lane = (struct lane_state *)state;

    {
        struct device_scope scope(lane->session->device);
        for (size_t i = 0; i < LANE_SLOTS; i++)
            (void)cudaFreeHost(lane->slots[i]);
        (void)cudaFree(lane->tile);
        (void)cudaFree(lane->parameters.device);
        (void)cudaFreeHost(lane->parameters.host);
        (void)cudaEventDestroy(lane->followed);
        (void)cudaStreamDestroy(lane->stream);
    }
    free(lane->slices);
    free(lane->spans);
    free(lane);
}

int cuda_lane_memory(
    uint8_t **out, void *state, enum lane_slot slot, size_t bytes, struct backend_fault *fault
)
{
    struct lane_state *lane = (struct lane_state *)state;

    ON_DEVICE(fault, lane->session->device);
    if (bytes > lane->slot_bytes[slot] || !lane->slots[slot]) {
        uint8_t *old = lane->slots[slot];
        lane->slots[slot] = nullptr;
        lane->slot_bytes[slot] = 0;
        TRY(fault, cudaFreeHost(old));
        size_t wanted = round_up(bytes ? bytes : 1, SLOT_STEP);
        TRY(fault, cudaHostAlloc(&lane->slots[slot], wanted, cudaHostAllocDefault));
        lane->slot_bytes[slot] = wanted;
    }
    *out = lane->slots[slot];
    return 0;
}

/* To wait for a stream that is captured would make the lane's work part of the graph. */
static int captures_check(void *const *streams, size_t count, struct backend_fault *fault)
{
    for (size_t i = 0; i < count; i++) {
        cudaStreamCaptureStatus status = cudaStreamCaptureStatusNone;
        TRY(fault, cudaStreamIsCapturing((cudaStream_t)streams[i], &status));
        if (status == cudaStreamCaptureStatusNone)
            continue;
        fault_set(fault, E_DEVICE, "cuda: a stream in which weights are used is being captured");
        return fault_hint(fault, "end the capture first, then swap");
    }
    return 0;
}

/* One event does for all: a stream that waits for it waits for what it recorded by then. */
int cuda_lane_follow(void *state, void *const *streams, size_t count, struct backend_fault *fault)
{
    struct lane_state *lane = (struct lane_state *)state;
    int err;

    ON_DEVICE(fault, lane->session->device);
    if ((err = captures_check(streams, count, fault)) < 0)
        return err;
    for (size_t i = 0; i < count; i++) {
        TRY(fault, cudaEventRecord(lane->followed, (cudaStream_t)streams[i]));
        TRY(fault, cudaStreamWaitEvent(lane->stream, lane->followed, 0));
    }
    return 0;
}

/* Which of its pieces an address is in; LANE_SLOTS: none. */
static size_t slot_of(const struct lane_state *lane, const uint8_t *at)
{
    size_t slot = 0;

    while (slot < LANE_SLOTS &&
           (at < lane->slots[slot] || at >= lane->slots[slot] + lane->slot_bytes[slot]))
        slot++;
    return slot;
}

/* ---- Memory of a merge ---- */

/* Half of it, and half of that, until it can be had or holds no row. */
static int
tile_take(struct lane_state *lane, size_t wanted, size_t least, struct backend_fault *fault)
{
    uint8_t *old = lane->tile;

    lane->tile = nullptr;
    lane->tile_bytes = 0;
    TRY(fault, cudaFree(old));
    for (size_t bytes = wanted;; bytes = bytes / 2 > least ? bytes / 2 : least) {
        cudaError_t error = cudaMalloc(&lane->tile, bytes);
        if (error == cudaSuccess) {
            lane->tile_bytes = bytes;
            return 0;
        }
        lane->tile = nullptr;
        if (error != cudaErrorMemoryAllocation)
            return fault_cuda(fault, "cudaMalloc", error);
        if (bytes == least)
            return fault_memory(fault, "rows need at least", bytes);
        (void)cudaGetLastError();
        lane->tile_most = bytes / 2 > least ? bytes / 2 : least;
    }
}

/* Room for all jobs that need it, or for as much of them as can be had. */
static int tile_reserve(
    struct lane_state *lane,
    const struct backend_job *jobs,
    size_t count,
    struct backend_fault *fault
)
{
    size_t least = 0, all = 0;

    for (size_t i = 0; i < count; i++) {
        if (route_of(&jobs[i]) != ROUTE_TILE)
            continue;
        size_t row = row_bytes(&jobs[i]);
        uint64_t bytes = (jobs[i].row_end - jobs[i].row_begin) * row;
        all += round_up(min_size(bytes, TILE_BYTES), BACKEND_ALIGN);
        all = min_size(all, TILE_BYTES);
        least = row > least ? row : least;
    }
    size_t wanted = min_size(all, lane->tile_most);
    if (wanted < least)
        wanted = least;
    if (wanted <= lane->tile_bytes)
        return 0;
    if (least < min_size(wanted, TILE_BYTES_MIN))
        least = min_size(wanted, TILE_BYTES_MIN);
    return tile_take(lane, wanted, least, fault);
}

/* Factors of one of a slice's terms: of its rows, or of all columns. */
static size_t factor_count(const struct backend_job *job, uint64_t rows)
{
    return (size_t)(job->transposed ? job->out : rows);
}

static size_t slice_floats(const struct backend_job *job, uint64_t rows)
{
    size_t floats = 0;

    for (size_t i = 0; i < job->term_count; i++)
        floats += (size_t)job->terms[i].rank + factor_count(job, rows);
    return floats;
}

static size_t parameter_bytes(size_t slices, size_t terms, size_t floats)
{
    return slices * sizeof(struct merge_tensor) + terms * sizeof(struct merge_term) +
           floats * sizeof(float);
}

/* What no launch of these jobs exceeds, however they are cut. */
static size_t parameters_most(const struct backend_job *jobs, size_t count)
{
    size_t all = 0, most = PARAMETER_BYTES;

    for (size_t i = 0; i < count; i++) {
        if (!has_kernel(route_of(&jobs[i])))
            continue;
        uint64_t rows = jobs[i].row_end - jobs[i].row_begin;
        size_t bytes = parameter_bytes(1, jobs[i].term_count, slice_floats(&jobs[i], rows));
        all += bytes;
        most = bytes > most ? bytes : most;
    }
    return min_size(all, most);
}

static int parameters_reserve(struct lane_state *lane, size_t bytes, struct backend_fault *fault)
{
    struct mirror *parameters = &lane->parameters;
    struct mirror old = *parameters;

    if (bytes <= old.bytes)
        return 0;
    *parameters = mirror{};
    cudaError_t error = cudaFree(old.device);
    TRY(fault, cudaFreeHost(old.host));
    if (error != cudaSuccess)
        return fault_cuda(fault, "cudaFree", error);
    size_t wanted = round_up(bytes, 4 * KIB);
    error = cudaMalloc(&parameters->device, wanted);
    if (error == cudaErrorMemoryAllocation)
        return fault_memory(fault, "vectors need", wanted);
    if (error != cudaSuccess)
        return fault_cuda(fault, "cudaMalloc", error);
    TRY(fault, cudaHostAlloc(&parameters->host, wanted, cudaHostAllocDefault));
    parameters->bytes = wanted;
    return 0;
}

static int slices_reserve(struct lane_state *lane, size_t count, struct backend_fault *fault)
{
    if (count <= lane->room)
        return 0;
    free(lane->slices);
    free(lane->spans);
    lane->room = 0;
    lane->slices = (struct slice *)calloc(count, sizeof(*lane->slices));
    lane->spans = (struct span *)calloc(count, 2 * sizeof(*lane->spans));
    if (!lane->slices || !lane->spans)
        return fault_set(fault, E_NOMEM, "cuda: out of memory");
    lane->room = count;
    return 0;
}

/* Everything that merging these jobs, all or some of them, takes. The tile comes last: it can be
   smaller. */
static int memory_reserve(
    struct lane_state *lane,
    const struct backend_job *jobs,
    size_t count,
    struct backend_fault *fault
)
{
    int err;

    if ((err = slices_reserve(lane, count, fault)) < 0 ||
        (err = parameters_reserve(lane, parameters_most(jobs, count), fault)) < 0)
        return err;
    return tile_reserve(lane, jobs, count, fault);
}

/* ---- A wave ---- */

/* Whether a span can go on with another one: flat, and the gap between them in memory of the
   lane's, of which nothing is lost. */
static bool
span_continues(const struct lane_state *lane, const struct wave *wave, const struct span *next)
{
    if (wave->span_count == 0)
        return false;
    const struct span *last = &lane->spans[wave->span_count - 1];
    uint8_t *end = last->host + last->row;
    size_t slot = slot_of(lane, next->host);

    return last->rows == 1 && next->rows == 1 && last->up == next->up && last->down == next->down &&
           slot < LANE_SLOTS && slot == slot_of(lane, last->host) && next->host >= end &&
           next->host - end < (last->up ? BACKEND_ALIGN : 1);
}

/* Where in the tile a span goes: beside the last one where it is in memory. */
static size_t span_place(
    const struct lane_state *lane,
    const struct wave *wave,
    const struct backend_job *job,
    const struct span *span
)
{
    if (span_continues(lane, wave, span)) {
        const struct span *last = &lane->spans[wave->span_count - 1];
        size_t at = last->at + (size_t)(span->host - last->host);
        if (at % element_bytes(job) == 0)
            return at;
    }
    return round_up(wave->bytes, BACKEND_ALIGN);
}

/* The job's first `rows` rows that are not done, of its side in the processor's memory. */
static struct span span_of(
    const struct backend_job *job, const struct backend_place *place, uint64_t row, uint64_t rows
)
{
    struct span span = {};

    span.host = place_row(job, place, row);
    span.pitch = place_pitch(job, place);
    span.row = row_bytes(job);
    span.rows = (size_t)rows;
    if (rows == 1 || span.pitch == span.row) {
        span.row *= span.rows;
        span.pitch = span.row;
        span.rows = 1;
    }
    span.up = place == place_from(job);
    span.down = place == &job->to;
    return span;
}

static void span_add(struct lane_state *lane, struct wave *wave, struct span span, size_t at)
{
    struct span *last = wave->span_count ? &lane->spans[wave->span_count - 1] : nullptr;

    if (last && span_continues(lane, wave, &span) &&
        at - last->at == (size_t)(span.host - last->host)) {
        last->row = last->pitch = at - last->at + span.row;
        return;
    }
    span.at = at;
    lane->spans[wave->span_count++] = span;
}

/* The sides of a job that go through the tile: one where it is in place. */
static size_t tile_sides(const struct backend_place **sides, const struct backend_job *job)
{
    const struct backend_place *from = place_from(job), *to = &job->to;
    size_t count = 0;

    if (!from->on_device)
        sides[count++] = from;
    if (!to->on_device && from != to)
        sides[count++] = to;
    return count;
}

/* How many of the `left` rows that are not done go into this wave; *at: where in the tile. */
static uint64_t slice_rows(
    size_t *at,
    const struct lane_state *lane,
    const struct wave *wave,
    const struct backend_job *job,
    uint64_t left
)
{
    const struct backend_place *sides[2];
    enum route route = route_of(job);

    *at = wave->bytes;
    if (route == ROUTE_COPY)
        return left;
    if (route == ROUTE_TILE) {
        tile_sides(sides, job);
        const struct span span = span_of(job, sides[0], wave->row, left);
        *at = span_place(lane, wave, job, &span);
        left = min_size(
            left, (lane->tile_bytes - min_size(*at, lane->tile_bytes)) / row_bytes(job)
        );
    }
    size_t parameters = parameter_bytes(
        wave->tensors + 1, wave->terms + job->term_count, wave->floats + slice_floats(job, left)
    );
    return wave->tensors && parameters > PARAMETER_BYTES ? 0 : left;
}

static void slice_add(
    struct lane_state *lane,
    struct wave *wave,
    const struct backend_job *job,
    uint64_t rows,
    size_t at
)
{
    const struct backend_place *sides[2];
    enum route route = route_of(job);

    lane->slices[wave->slice_count++] = slice{job, route, wave->row, rows, at};
    if (route == ROUTE_TILE) {
        size_t count = tile_sides(sides, job);
        for (size_t i = 0; i < count; i++)
            span_add(lane, wave, span_of(job, sides[i], wave->row, rows), at);
        wave->bytes = at + (size_t)rows * row_bytes(job);
    }
    if (!has_kernel(route))
        return;
    wave->tensors++;
    wave->terms += job->term_count;
    wave->floats += slice_floats(job, rows);
}

/* As many rows of as many jobs as tile and parameters hold: at least one row. */
static void wave_fill(struct lane_state *lane, struct wave *wave)
{
    wave->slice_count = wave->span_count = 0;
    wave->bytes = wave->tensors = wave->terms = wave->floats = 0;
    while (wave->job < wave->job_count) {
        const struct backend_job *job = &wave->jobs[wave->job];
        uint64_t left = route_of(job) == ROUTE_NONE ? 0 : job->row_end - wave->row;
        size_t at = 0;
        uint64_t rows = left ? slice_rows(&at, lane, wave, job, left) : 0;
        if (rows)
            slice_add(lane, wave, job, rows, at);
        wave->row += rows;
        if (rows < left)
            return;
        if (++wave->job < wave->job_count)
            wave->row = wave->jobs[wave->job].row_begin;
    }
}

/* Where the next ones go in the parameters: the same place on the host and on the device. */
struct parameter_writer {
    struct merge_tensor *tensors;
    struct merge_term *terms;
    size_t tensor_count, term_count;
    float *floats;
    const float *floats_device;
};

/* The `count` floats that follow, as the device will find them. */
static const float *floats_take(struct parameter_writer *writer, size_t count)
{
    const float *taken = writer->floats_device;

    writer->floats += count;
    writer->floats_device += count;
    return taken;
}

static void term_write(
    struct parameter_writer *writer,
    const struct session *session,
    const struct slice *slice,
    const struct kernel_term *term
)
{
    const struct backend_job *job = slice->job;
    const struct resident *basis = resident_find(session, term->a);
    const struct backend_basis *host = &basis->host;
    size_t rank = (size_t)term->rank, count = factor_count(job, slice->rows);
    const float *b = term->b + (job->transposed ? 0 : slice->row);

    assert(basis && is_within(term->b_matrix, host->b, host->out * host->rank));
    memcpy(writer->floats, term->d, rank * sizeof(float));
    const float *d = floats_take(writer, rank);
    for (size_t i = 0; i < count; i++)
        writer->floats[i] = term->weight * b[i];
    const float *factor = floats_take(writer, count);
    struct merge_term *written = &writer->terms[writer->term_count++];
    *written = merge_term{};
    written->a = basis->a + (term->a - host->a);
    written->b_matrix = basis->b + (term->b_matrix - host->b);
    written->d = d;
    written->factor = factor;
    written->a_stride = term->a_stride;
    written->rank = term->rank;
}

static void slice_write(
    struct parameter_writer *writer, const struct lane_state *lane, const struct slice *slice
)
{
    const struct backend_job *job = slice->job;
    const struct backend_place *to = &job->to;
    const struct backend_place *from = slice->route == ROUTE_OVER ? to : place_from(job);
    uint64_t columns = column_count(job);
    struct merge_tensor *tensor = &writer->tensors[writer->tensor_count++];

    *tensor = merge_tensor{};
    tensor->from = tensor->to = lane->tile + slice->at;
    tensor->rows = slice->rows;
    tensor->cols = tensor->from_stride = tensor->to_stride = columns;
    tensor->from_step = tensor->to_step = 1;
    if (from->on_device) {
        tensor->from = place_row(job, from, slice->row);
        tensor->from_stride = place_stride(job, from);
        tensor->from_step = (uint32_t)place_step(from);
    }
    if (to->on_device) {
        tensor->to = place_row(job, to, slice->row);
        tensor->to_stride = place_stride(job, to);
        tensor->to_step = (uint32_t)place_step(to);
    }
    tensor->first_row = slice->row;
    tensor->dtype = merge_dtype_of(job->dtype);
    tensor->transposed = job->transposed;
    tensor->term_begin = (uint32_t)writer->term_count;
    tensor->term_count = (uint32_t)job->term_count;
    for (size_t i = 0; i < job->term_count; i++)
        term_write(writer, lane->session, slice, &job->terms[i]);
}

/* Everything that a launch reads beside the weights, on the host's side. */
static struct parameter_writer
parameters_write(const struct lane_state *lane, const struct wave *wave)
{
    const struct mirror *parameters = &lane->parameters;
    size_t terms_at = wave->tensors * sizeof(struct merge_tensor);
    size_t floats_at = terms_at + wave->terms * sizeof(struct merge_term);
    struct parameter_writer writer = {};

    writer.tensors = (struct merge_tensor *)parameters->host;
    writer.terms = (struct merge_term *)(parameters->host + terms_at);
    writer.floats = (float *)(parameters->host + floats_at);
    writer.floats_device = (const float *)(parameters->device + floats_at);
    for (size_t i = 0; i < wave->slice_count; i++) {
        if (has_kernel(lane->slices[i].route))
            slice_write(&writer, lane, &lane->slices[i]);
    }
    return writer;
}

/* Of the `count` tensors that the parameters on the device begin with; their terms follow. */
static int grid_launch(
    const struct lane_state *lane,
    const struct merge_grid *grid,
    uint32_t count,
    struct backend_fault *fault
)
{
    const struct merge_tensor *tensors = (const struct merge_tensor *)lane->parameters.device;
    const struct merge_term *terms = (const struct merge_term *)(tensors + count);
    auto launch = lane->session->math == MATH_FAST ? merge_fast_launch : merge_exact_launch;
    cudaError_t error = launch(grid, tensors, count, terms, lane->stream);

    return error == cudaSuccess ? 0 : fault_cuda(fault, "cudaLaunchKernel", error);
}

static int
launch(const struct lane_state *lane, const struct wave *wave, struct backend_fault *fault)
{
    const struct mirror *parameters = &lane->parameters;
    struct parameter_writer writer = parameters_write(lane, wave);
    size_t bytes = parameter_bytes(wave->tensors, wave->terms, wave->floats);
    uint32_t count = (uint32_t)wave->tensors;
    struct merge_grid grid;

    /* A tile has an element at least, and 2^31 of them are not launched: a job's have memory. */
    if (!merge_grid_make(&grid, writer.tensors, count))
        return fault_set(fault, E_LIMIT, "cuda: one launch cannot hold so many weights");
    TRY(fault, cudaMemcpyAsync(
                   parameters->device, parameters->host, bytes, cudaMemcpyHostToDevice, lane->stream
               ));
    return grid_launch(lane, &grid, count, fault);
}

/* `rows` of so many bytes, at their pitches. */
struct copy {
    uint8_t *to;
    const uint8_t *from;
    size_t to_pitch, from_pitch, row, rows;
    enum cudaMemcpyKind kind;
};

static int
copy_queue(const struct lane_state *lane, const struct copy *copy, struct backend_fault *fault)
{
    bool flat = copy->to_pitch == copy->row && copy->from_pitch == copy->row;

    if (flat || copy->rows == 1) {
        TRY(fault,
            cudaMemcpyAsync(copy->to, copy->from, copy->row * copy->rows, copy->kind, lane->stream)
        );
        return 0;
    }
    TRY(fault, cudaMemcpy2DAsync(
                   copy->to, copy->to_pitch, copy->from, copy->from_pitch, copy->row, copy->rows,
                   copy->kind, lane->stream
               ));
    return 0;
}

/* Straight from one place to the other. */
static int
slice_copy(const struct lane_state *lane, const struct slice *slice, struct backend_fault *fault)
{
    const struct backend_job *job = slice->job;
    const struct backend_place *from = place_from(job), *to = &job->to;
    struct copy copy = {};

    copy.to = place_row(job, to, slice->row);
    copy.from = place_row(job, from, slice->row);
    copy.to_pitch = place_pitch(job, to);
    copy.from_pitch = place_pitch(job, from);
    copy.row = row_bytes(job);
    copy.rows = (size_t)slice->rows;
    copy.kind = to->on_device     ? cudaMemcpyHostToDevice
                : from->on_device ? cudaMemcpyDeviceToHost
                                  : cudaMemcpyHostToHost;
    return copy_queue(lane, &copy, fault);
}

/* Between the processor's memory and the tile. */
static int span_copy(
    const struct lane_state *lane, const struct span *span, bool up, struct backend_fault *fault
)
{
    uint8_t *tile = lane->tile + span->at;
    struct copy copy = {span->host, tile,       span->pitch,           span->row,
                        span->row,  span->rows, cudaMemcpyDeviceToHost};

    if (up)
        copy = {tile,
                span->host,
                span->row,
                span->pitch,
                span->row,
                span->rows,
                cudaMemcpyHostToDevice};
    return copy_queue(lane, &copy, fault);
}

static int
wave_queue(const struct lane_state *lane, const struct wave *wave, struct backend_fault *fault)
{
    int err = 0;

    for (size_t i = 0; err == 0 && i < wave->slice_count; i++) {
        if (has_copy(lane->slices[i].route))
            err = slice_copy(lane, &lane->slices[i], fault);
    }
    for (size_t i = 0; err == 0 && i < wave->span_count; i++) {
        if (lane->spans[i].up)
            err = span_copy(lane, &lane->spans[i], true, fault);
    }
    if (err == 0 && wave->tensors)
        err = launch(lane, wave, fault);
    for (size_t i = 0; err == 0 && i < wave->span_count; i++) {
        if (lane->spans[i].down)
            err = span_copy(lane, &lane->spans[i], false, fault);
    }
    return err;
}

/* Wait; whether or not all could be queued: what was, uses the lane's memory until it is done. */
static int lane_wait(const struct lane_state *lane, int err, struct backend_fault *fault)
{
    cudaError_t error = cudaStreamSynchronize(lane->stream);

    if (err < 0 || error == cudaSuccess)
        return err;
    return fault_cuda(fault, "cudaStreamSynchronize", error);
}

static int wave_run(struct lane_state *lane, const struct wave *wave, struct backend_fault *fault)
{
    return lane_wait(lane, wave_queue(lane, wave, fault), fault);
}

static int kernels_queue(const struct lane_state *lane, struct backend_fault *fault)
{
    static const struct merge_grid grids[] = {{1, 64}, {1, 128}};
    const struct mirror *parameters = &lane->parameters;
    struct merge_tensor *tensor = (struct merge_tensor *)parameters->host;
    int err = 0;

    *tensor = merge_tensor{};
    tensor->from = tensor->to = parameters->device;
    tensor->cols = tensor->from_step = tensor->to_step = 1;
    TRY(fault, cudaMemcpyAsync(
                   parameters->device, tensor, sizeof(*tensor), cudaMemcpyHostToDevice, lane->stream
               ));
    for (size_t i = 0; err == 0 && i < sizeof(grids) / sizeof(grids[0]); i++)
        err = grid_launch(lane, &grids[i], 1, fault);
    return err;
}

/* A kernel's code, and local memory for its threads, come to the device when it runs first: let
   each run on a matrix of no rows. */
static int kernels_load(struct lane_state *lane, struct backend_fault *fault)
{
    if (lane->is_loaded || lane->parameters.bytes == 0)
        return 0;
    int err = lane_wait(lane, kernels_queue(lane, fault), fault);
    lane->is_loaded = err == 0;
    return err;
}

int cuda_lane_prepare(
    void *state, const struct backend_job *jobs, size_t count, struct backend_fault *fault
)
{
    struct lane_state *lane = (struct lane_state *)state;
    int err = jobs_check(jobs, count, fault);

    if (err < 0)
        return err;
    ON_DEVICE(fault, lane->session->device);
    if ((err = memory_reserve(lane, jobs, count, fault)) < 0)
        return err;
    return kernels_load(lane, fault);
}

int cuda_lane_merge(
    void *state, const struct backend_job *jobs, size_t count, struct backend_fault *fault
)
{
    struct lane_state *lane = (struct lane_state *)state;
    struct wave wave = {};
    int err = jobs_check(jobs, count, fault);

    if (err < 0 || count == 0)
        return err;
    ON_DEVICE(fault, lane->session->device);
    if ((err = memory_reserve(lane, jobs, count, fault)) < 0)
        return err;
    wave.jobs = jobs;
    wave.job_count = count;
    wave.row = jobs[0].row_begin;
    while (wave.job < count) {
        wave_fill(lane, &wave);
        if (wave.slice_count && (err = wave_run(lane, &wave, fault)) < 0)
            return err;
    }
    return 0;
}
