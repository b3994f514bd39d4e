/* What one change writes in the memory of one GPU. See live_launch.h. */
#include "apply/live_launch.h"

#include <stdlib.h>

int live_launch_add(struct live_launch *launch, const struct live_job *job)
{
    int err = array_grow(&launch->parts, &launch->room, launch->count + 1, sizeof(*launch->parts));

    if (err == 0)
        launch->parts[launch->count++] = *job;
    return err;
}

void live_launch_release(struct live_launch *launch)
{
    free(launch->parts);
    free(launch->jobs);
    free(launch->terms);
    buf_release(&launch->values);
    *launch = (struct live_launch){0};
}

struct kernel_term live_job_term(const struct live_job *job, const struct basis *basis)
{
    const struct plan_target *target = job->target;
    struct kernel_term term = {
        .a = basis->a,
        .b_matrix = basis->b,
        .d = target->d,
        .b = target->b,
        .a_stride = basis->in,
        .rank = basis->rank,
        .weight = 1,
    };

    if (target->transposed) {
        term.b_matrix += job->part->column * basis->rank;
        term.b += job->part->column;
    } else {
        term.a += job->part->column;
    }
    return term;
}

static size_t part_bytes(const struct live_job *job)
{
    return (size_t)(job->part->rows * job->part->columns) *
           (dtype_bits(job->tensor->tensor.dtype) / 8);
}

/* Replacements */

static bool is_converted(const struct live_job *job)
{
    return job->from && job->from->dtype != job->tensor->tensor.dtype;
}

/* The part's first value in the adapter. */
static const uint8_t *replacing(const struct live_job *job, uint64_t row)
{
    uint64_t at = (job->part->row + row) * job->tensor->shape[1] + job->part->column;

    return job->data.data + at * (dtype_bits(job->from->dtype) / 8);
}

static void values_convert(uint8_t *to, const struct live_job *job)
{
    const struct live_part *part = job->part;
    enum dtype dtype = job->tensor->tensor.dtype;
    size_t element = dtype_bits(dtype) / 8, from_element = dtype_bits(job->from->dtype) / 8;
    bool row_by_row = part->columns != job->tensor->shape[1];
    uint64_t rows = row_by_row ? part->rows : 1;
    uint64_t columns = row_by_row ? part->columns : part->rows * part->columns;
    float wide[1024];

    for (uint64_t i = 0; i < rows; i++) {
        const uint8_t *from = replacing(job, i);
        for (uint64_t k = 0; k < columns; k += sizeof(wide) / sizeof(wide[0])) {
            uint64_t left = columns - k, most = sizeof(wide) / sizeof(wide[0]);
            size_t n = (size_t)(left < most ? left : most);
            dtype_widen(wide, from + k * from_element, n, job->from->dtype);
            dtype_narrow(to, wide, n, dtype);
            to += n * element;
        }
    }
}

static int values_make(struct live_launch *launch)
{
    size_t bytes = 0;

    for (size_t i = 0; i < launch->count; i++) {
        if (is_converted(&launch->parts[i]) &&
            __builtin_add_overflow(bytes, part_bytes(&launch->parts[i]), &bytes))
            return error_set(E_NOMEM, "out of memory for the swap");
    }
    int err = buf_resize(&launch->values, bytes);
    uint8_t *to = launch->values.data;
    for (size_t i = 0; err == 0 && i < launch->count; i++) {
        if (!is_converted(&launch->parts[i]))
            continue;
        values_convert(to, &launch->parts[i]);
        to += part_bytes(&launch->parts[i]);
    }
    return err;
}

/* Jobs */

static struct backend_job merge_job(const struct live_job *job, const struct kernel_term *term)
{
    const struct live_part *part = job->part;
    const struct plan_target *target = job->target;
    enum dtype dtype = job->tensor->tensor.dtype;

    return (struct backend_job){
        .to = live_part_place(part, dtype, 0),
        .from = live_part_pristine(part, dtype, 0),
        .dtype = dtype,
        .transposed = target->transposed,
        .out = target->transposed ? part->columns : target->out,
        .in = target->transposed ? target->in : part->columns,
        .row_begin = part->row,
        .row_end = part->row + part->rows,
        .terms = term,
        .term_count = 1,
    };
}

/* Converted values lie one after the other in `values`. */
static struct backend_job replace_job(const struct live_job *job, uint8_t **values)
{
    const struct live_part *part = job->part;
    enum dtype dtype = job->tensor->tensor.dtype;
    struct backend_place from = {
        .data = (uint8_t *)(uintptr_t)replacing(job, 0), .row_stride = job->tensor->shape[1]};

    if (is_converted(job)) {
        from = (struct backend_place){.data = *values};
        *values += part_bytes(job);
    }
    return live_copy_job(live_part_place(part, dtype, 0), from, dtype, part->rows, part->columns);
}

static void jobs_make(struct live_launch *launch, const struct basis *basis)
{
    uint8_t *values = launch->values.data;

    for (size_t i = 0; i < launch->count; i++) {
        const struct live_job *part = &launch->parts[i];
        enum dtype dtype = part->tensor->tensor.dtype;
        struct backend_job *job = &launch->jobs[i];
        if (part->target) {
            launch->terms[i] = live_job_term(part, basis);
            *job = merge_job(part, &launch->terms[i]);
        } else if (part->from) {
            *job = replace_job(part, &values);
        } else {
            *job = live_copy_job(
                live_part_place(part->part, dtype, 0), live_part_pristine(part->part, dtype, 0),
                dtype, part->part->rows, part->part->columns
            );
        }
    }
}

/* Copies of what the base's files hold */

static void copy_free(struct live_part *part, size_t bytes)
{
    device_memory_free(&part->device->device, part->resident);
    part->resident = NULL;
    part->device->kept_bytes -= bytes;
}

static void copies_free(struct live_weights *weights, const struct live_device *device)
{
    for (size_t i = 0; i < weights->count; i++) {
        const struct live_tensor *tensor = &weights->tensors[i];
        for (size_t k = 0; k < tensor->part_count; k++) {
            struct live_part *part = &tensor->parts[k];
            const struct live_job job = {.tensor = tensor, .part = part};
            if (part->device == device && part->resident && part->pristine)
                copy_free(part, part_bytes(&job));
        }
    }
}

/* What has no room stays where it is: it is brought from there when it is needed. */
static bool copy_begin(struct backend_job *out, struct live_job *job, uint64_t kept_most)
{
    struct live_part *part = job->part;
    struct live_device *device = part->device;
    enum dtype dtype = job->tensor->tensor.dtype;
    struct backend_place to = {.on_device = true};
    size_t bytes = part_bytes(job);

    if (job->from || part->resident || device->is_full || bytes > kept_most ||
        device->kept_bytes > kept_most - bytes ||
        device_memory_new(&to.data, &device->device, bytes) < 0)
        return false;
    *out = live_copy_job(to, live_part_pristine(part, dtype, 0), dtype, part->rows, part->columns);
    part->resident = to.data;
    device->kept_bytes += bytes;
    job->copied = true;
    return true;
}

/* What cannot be copied is brought from the base's files, as without a budget. The launch's jobs
   are others afterwards. */
static void copies_make(struct live_launch *launch, uint64_t kept_most)
{
    size_t made = 0;

    for (size_t i = 0; i < launch->count; i++)
        made += copy_begin(&launch->jobs[made], &launch->parts[i], kept_most);
    if (made == 0 || lane_merge(&launch->device->lane, launch->jobs, made) == 0)
        return;
    for (size_t i = 0; i < launch->count; i++) {
        const struct live_job *job = &launch->parts[i];
        if (job->copied)
            copy_free(job->part, part_bytes(job));
    }
}

/* Before writing */

static bool has_targets(const struct live_launch *launch)
{
    for (size_t i = 0; i < launch->count; i++) {
        if (launch->parts[i].target)
            return true;
    }
    return false;
}

static int memory_take(struct live_launch *launch, const struct basis *basis)
{
    int err = has_targets(launch) ? live_device_add(launch->device, basis) : 0;

    return err < 0 ? err : lane_prepare(&launch->device->lane, launch->jobs, launch->count);
}

/* What is there only to make swaps faster must not make one fail. */
static int
memory_make(struct live_launch *launch, struct live_weights *weights, const struct basis *basis)
{
    struct live_device *device = launch->device;
    int err = memory_take(launch, basis);

    if (err == E_DEVICE && device->basis_count) {
        live_device_clear(device);
        err = memory_take(launch, basis);
    }
    if (err == E_DEVICE && device->kept_bytes) {
        copies_free(weights, device);
        device->is_full = true;
        jobs_make(launch, basis);
        err = memory_take(launch, basis);
    }
    return err;
}

int live_launch_prepare(
    struct live_launch *launch,
    struct live_weights *weights,
    const struct basis *basis,
    uint64_t kept_most
)
{
    int err;

    if ((err = values_make(launch)) < 0)
        return err;
    launch->jobs = array_new(launch->count, sizeof(*launch->jobs));
    launch->terms = array_new(launch->count, sizeof(*launch->terms));
    if (!launch->jobs || !launch->terms)
        return error_wrap(E_NOMEM, "swap");
    jobs_make(launch, basis);
    if ((err = memory_make(launch, weights, basis)) < 0)
        return err;
    copies_make(launch, kept_most);
    jobs_make(launch, basis);
    return memory_make(launch, weights, basis);
}

/* Who is interrupted has written nothing. */
int live_launch_run(struct live_launch *launch)
{
    int err = lane_merge(&launch->device->lane, launch->jobs, launch->count);

    launch->written = err != E_INTERRUPTED;
    return err;
}
