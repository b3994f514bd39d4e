/*
 * Cutting a merge into waves, and running one. See wave.h.
 *
 * Slices that lie beside each other in the lane's pinned memory are copied as one, so that hundreds
 * of small tensors are a copy in, a launch and a copy out.
 */
#include "apply/cuda/wave.h"

#include "apply/cuda/parameters.h"

/* ---- What is in it ---- */

/* Which of its pieces an address is in; LANE_SLOTS: none. */
static size_t slot_of(const struct lane_state *lane, const uint8_t *at)
{
    size_t slot = 0;

    while (slot < LANE_SLOTS &&
           (at < lane->slots[slot] || at >= lane->slots[slot] + lane->slot_bytes[slot]))
        slot++;
    return slot;
}

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

void wave_fill(struct lane_state *lane, struct wave *wave)
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

/* ---- Running it ---- */

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
    struct merge_tensor *tensors = parameters_write(
        lane, wave->slice_count, wave->tensors, wave->terms
    );
    size_t bytes = parameter_bytes(wave->tensors, wave->terms, wave->floats);
    uint32_t count = (uint32_t)wave->tensors;
    struct merge_grid grid;

    /* A tile has an element at least, and 2^31 of them are not launched: a job's have memory. */
    if (!merge_grid_make(&grid, tensors, count))
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

int wave_run(const struct lane_state *lane, const struct wave *wave, struct backend_fault *fault)
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

int kernels_load(struct lane_state *lane, struct backend_fault *fault)
{
    if (lane->is_loaded || lane->parameters.bytes == 0)
        return 0;
    int err = lane_wait(lane, kernels_queue(lane, fault), fault);
    lane->is_loaded = err == 0;
    return err;
}
