/*
 * One thread's share of the device: a stream, pinned memory for its blocks, and tiles on the
 * device. A merge copies blocks in, launches one grid over all of them, copies them out, and waits.
 *
 * It waits because its thread has nothing else to do with the block, and reading, hashing and
 * writing take many times as long as both copies and the kernel: those of one lane overlap with
 * everything of the others.
 *
 * Where the device's memory cannot hold a whole merge its rows go through a smaller tile, wave by
 * wave; the bits are the same.
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

/* Rows of a job that are on the device at a time. */
struct slice {
    const struct backend_job *job;
    uint64_t row, rows;
    size_t at; /* in the tile */
};

/* Slices that lie beside each other in the lane's memory and on the device: one copy. */
struct span {
    uint8_t *host;
    size_t at, bytes;
};

/* A piece of memory on both sides. */
struct mirror {
    uint8_t *host, *device;
    size_t bytes;
};

struct lane_state {
    const struct session *session;
    cudaStream_t stream;
    uint8_t *slots[LANE_SLOTS]; /* pinned */
    size_t slot_bytes[LANE_SLOTS];
    uint8_t *tile; /* on the device */
    size_t tile_bytes;
    size_t tile_most;         /* no more than this could be had */
    struct mirror parameters; /* of a launch: its tensors, their terms, d and w*b */
    struct slice *slices;     /* [room] */
    struct span *spans;       /* [room] */
    size_t room;
};

/* What is launched together, and how far a merge is. */
struct wave {
    const struct backend_job *jobs;
    size_t job_count;
    size_t job;   /* the first one that is not done, */
    uint64_t row; /* from here on */
    size_t slice_count, span_count, term_count;
    size_t bytes;  /* of the tile */
    size_t floats; /* of vectors */
};

static size_t round_up(size_t n, size_t step)
{
    return (n + step - 1) / step * step;
}

static size_t min_size(uint64_t a, uint64_t b)
{
    return (size_t)(a < b ? a : b);
}

static size_t row_bytes(const struct backend_job *job)
{
    uint64_t columns = job->transposed ? job->out : job->in;

    return (size_t)(columns * (job->dtype == DTYPE_F32 ? 4 : 2));
}

/* ---- The lane ---- */

int cuda_lane_open(void **out, void *session, unsigned threads, struct backend_fault *fault)
{
    struct lane_state *lane = (struct lane_state *)calloc(1, sizeof(*lane));
    cudaError_t error;

    (void)threads;
    if (!lane)
        return fault_set(fault, E_NOMEM, "cuda: out of memory");
    lane->session = (const struct session *)session;
    lane->tile_most = TILE_BYTES;
    const char *call = "cudaSetDevice";
    if ((error = cudaSetDevice(lane->session->device)) == cudaSuccess) {
        call = "cudaStreamCreateWithFlags";
        error = cudaStreamCreateWithFlags(&lane->stream, cudaStreamNonBlocking);
    }
    if (error != cudaSuccess) {
        free(lane);
        return fault_cuda(fault, call, error);
    }
    *out = lane;
    return 0;
}

/* Nothing is on its way: every merge waits for its end, however it ends. What is freed is no longer
   needed, so that an error there is nobody's. */
void cuda_lane_close(void *state)
{
    struct lane_state *lane = (struct lane_state *)state;

    for (size_t i = 0; i < LANE_SLOTS; i++)
        (void)cudaFreeHost(lane->slots[i]);
    (void)cudaFree(lane->tile);
    (void)cudaFree(lane->parameters.device);
    (void)cudaFreeHost(lane->parameters.host);
    (void)cudaStreamDestroy(lane->stream);
    free(lane->slices);
    free(lane->spans);
    free(lane);
}

int cuda_lane_memory(
    uint8_t **out, void *state, enum lane_slot slot, size_t bytes, struct backend_fault *fault
)
{
    struct lane_state *lane = (struct lane_state *)state;

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

/* Room for all jobs, or for as much of them as can be had. */
static int tile_reserve(
    struct lane_state *lane,
    const struct backend_job *jobs,
    size_t count,
    struct backend_fault *fault
)
{
    size_t least = 0, all = 0;

    for (size_t i = 0; i < count; i++) {
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
    lane->spans = (struct span *)calloc(count, sizeof(*lane->spans));
    if (!lane->slices || !lane->spans)
        return fault_set(fault, E_NOMEM, "cuda: out of memory");
    lane->room = count;
    return 0;
}

/* ---- A wave ---- */

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

/* Where in the tile the rows from `host` on go: beside the last ones where they are in memory. */
static bool span_continues(const struct lane_state *lane, const struct wave *wave, uint8_t *host)
{
    if (wave->span_count == 0)
        return false;
    const struct span *last = &lane->spans[wave->span_count - 1];
    uint8_t *end = last->host + last->bytes;
    size_t slot = slot_of(lane, host);

    return slot < LANE_SLOTS && slot == slot_of(lane, last->host) && host >= end &&
           host - end < BACKEND_ALIGN;
}

static size_t slice_place(const struct lane_state *lane, const struct wave *wave, uint8_t *host)
{
    if (!span_continues(lane, wave, host))
        return round_up(wave->bytes, BACKEND_ALIGN);
    const struct span *last = &lane->spans[wave->span_count - 1];
    return last->at + (size_t)(host - last->host);
}

static void slice_add(
    struct lane_state *lane,
    struct wave *wave,
    const struct backend_job *job,
    uint8_t *host,
    uint64_t rows
)
{
    size_t at = slice_place(lane, wave, host), bytes = (size_t)rows * row_bytes(job);

    if (span_continues(lane, wave, host)) {
        struct span *last = &lane->spans[wave->span_count - 1];
        last->bytes = at + bytes - last->at;
    } else {
        lane->spans[wave->span_count++] = span{host, at, bytes};
    }
    lane->slices[wave->slice_count++] = slice{job, wave->row, rows, at};
    wave->bytes = at + bytes;
    wave->term_count += job->term_count;
    wave->floats += slice_floats(job, rows);
}

/* As many rows of as many jobs as tile and parameters hold: at least one row. */
static void wave_fill(struct lane_state *lane, struct wave *wave)
{
    wave->slice_count = wave->span_count = wave->term_count = 0;
    wave->bytes = wave->floats = 0;
    while (wave->job < wave->job_count) {
        const struct backend_job *job = &wave->jobs[wave->job];
        size_t row_len = row_bytes(job);
        uint64_t left = row_len && job->term_count ? job->row_end - wave->row : 0;
        uint8_t *host = job->to.data + (wave->row - job->row_begin) * row_len;
        size_t at = slice_place(lane, wave, host);
        size_t room = at < lane->tile_bytes ? lane->tile_bytes - at : 0;
        uint64_t rows = left ? min_size(left, room / row_len) : 0;
        size_t parameters = parameter_bytes(
            wave->slice_count + 1, wave->term_count + job->term_count,
            wave->floats + slice_floats(job, rows)
        );
        if (left && (rows == 0 || (wave->slice_count && parameters > PARAMETER_BYTES)))
            return;
        if (rows)
            slice_add(lane, wave, job, host, rows);
        wave->row += rows;
        if (rows < left)
            return;
        if (++wave->job < wave->job_count)
            wave->row = wave->jobs[wave->job].row_begin;
    }
}

static enum merge_dtype merge_dtype_of(enum dtype dtype)
{
    return dtype == DTYPE_F32 ? MERGE_F32 : dtype == DTYPE_BF16 ? MERGE_BF16 : MERGE_F16;
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
    size_t rank = (size_t)term->rank, count = factor_count(job, slice->rows);
    const float *b = term->b + (job->transposed ? 0 : slice->row);

    assert(basis);
    memcpy(writer->floats, term->d, rank * sizeof(float));
    const float *d = floats_take(writer, rank);
    for (size_t i = 0; i < count; i++)
        writer->floats[i] = term->weight * b[i];
    const float *factor = floats_take(writer, count);
    writer->terms[writer->term_count++] = merge_term{basis->a, basis->b,       d,
                                                     factor,   term->a_stride, term->rank};
}

static void slice_write(
    struct parameter_writer *writer, const struct lane_state *lane, const struct slice *slice
)
{
    const struct backend_job *job = slice->job;
    uint64_t columns = job->transposed ? job->out : job->in;
    struct merge_tensor *tensor = &writer->tensors[writer->tensor_count++];

    *tensor = merge_tensor{};
    tensor->from = tensor->to = lane->tile + slice->at;
    tensor->rows = slice->rows;
    tensor->cols = tensor->from_stride = tensor->to_stride = columns;
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
    size_t terms_at = wave->slice_count * sizeof(struct merge_tensor);
    size_t floats_at = terms_at + wave->term_count * sizeof(struct merge_term);
    struct parameter_writer writer = {};

    writer.tensors = (struct merge_tensor *)parameters->host;
    writer.terms = (struct merge_term *)(parameters->host + terms_at);
    writer.floats = (float *)(parameters->host + floats_at);
    writer.floats_device = (const float *)(parameters->device + floats_at);
    for (size_t i = 0; i < wave->slice_count; i++)
        slice_write(&writer, lane, &lane->slices[i]);
    return writer;
}

static int
launch(const struct lane_state *lane, const struct wave *wave, struct backend_fault *fault)
{
    const struct mirror *parameters = &lane->parameters;
    struct parameter_writer writer = parameters_write(lane, wave);
    size_t bytes = parameter_bytes(wave->slice_count, wave->term_count, wave->floats);
    const struct merge_tensor *tensors = (const struct merge_tensor *)parameters->device;
    const struct merge_term *terms = (const struct merge_term *)(tensors + wave->slice_count);
    uint32_t count = (uint32_t)wave->slice_count;
    struct merge_grid grid;

    /* A tile has less than 2^31 elements. */
    bool cut = merge_grid_make(&grid, writer.tensors, count);
    assert(cut);
    (void)cut;
    TRY(fault, cudaMemcpyAsync(
                   parameters->device, parameters->host, bytes, cudaMemcpyHostToDevice, lane->stream
               ));
    cudaError_t error = lane->session->math == MATH_FAST
                            ? merge_fast_launch(&grid, tensors, count, terms, lane->stream)
                            : merge_exact_launch(&grid, tensors, count, terms, lane->stream);
    return error == cudaSuccess ? 0 : fault_cuda(fault, "cudaLaunchKernel", error);
}

static int
wave_queue(const struct lane_state *lane, const struct wave *wave, struct backend_fault *fault)
{
    int err;

    for (size_t i = 0; i < wave->span_count; i++) {
        const struct span *span = &lane->spans[i];
        TRY(fault,
            cudaMemcpyAsync(
                lane->tile + span->at, span->host, span->bytes, cudaMemcpyHostToDevice, lane->stream
            ));
    }
    if ((err = launch(lane, wave, fault)) < 0)
        return err;
    for (size_t i = 0; i < wave->span_count; i++) {
        const struct span *span = &lane->spans[i];
        TRY(fault,
            cudaMemcpyAsync(
                span->host, lane->tile + span->at, span->bytes, cudaMemcpyDeviceToHost, lane->stream
            ));
    }
    return 0;
}

/* Whether or not all could be queued: what was, uses the lane's memory until it is done. */
static int wave_run(struct lane_state *lane, const struct wave *wave, struct backend_fault *fault)
{
    int err = parameters_reserve(
        lane, parameter_bytes(wave->slice_count, wave->term_count, wave->floats), fault
    );
    if (err < 0)
        return err;
    err = wave_queue(lane, wave, fault);
    cudaError_t error = cudaStreamSynchronize(lane->stream);
    if (err < 0 || error == cudaSuccess)
        return err;
    return fault_cuda(fault, "cudaStreamSynchronize", error);
}

int cuda_lane_merge(
    void *state, const struct backend_job *jobs, size_t count, struct backend_fault *fault
)
{
    struct lane_state *lane = (struct lane_state *)state;
    struct wave wave = {};
    int err;

    if (count == 0)
        return 0;
    if ((err = slices_reserve(lane, count, fault)) < 0 ||
        (err = tile_reserve(lane, jobs, count, fault)) < 0)
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
