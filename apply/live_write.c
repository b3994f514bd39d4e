/* One change of a running model's weights. See live_write.h. */
#include "apply/live_write.h"

#include <stdlib.h>
#include <string.h>

#include "apply/kernel.h"
#include "format/crew.h"
#include "format/text.h"

/* A job is large enough that packing the basis is little beside it, and small enough that threads
   end at about the same time. A multiple of what the kernel's blocks have. */
#define JOB_ROWS UINT64_C(768)

/* Making the list */

static int host_part_add(struct live_write *write, const struct live_job *whole)
{
    for (uint64_t row = 0; row < whole->rows; row += JOB_ROWS) {
        int err = array_grow(&write->jobs, &write->room, write->count + 1, sizeof(*write->jobs));
        if (err < 0)
            return err;
        struct live_job *job = &write->jobs[write->count++];
        *job = *whole;
        job->row = row;
        job->rows = whole->rows - row < JOB_ROWS ? whole->rows - row : JOB_ROWS;
    }
    return 0;
}

/* The launches are as many as there are devices, until all is added. */
static int device_part_add(struct live_write *write, const struct live_job *whole)
{
    size_t i = 0;

    while (write->launches[i].device != whole->part->device)
        i++;
    return live_launch_add(&write->launches[i], whole);
}

static int jobs_add(struct live_write *write, const struct live_job *all)
{
    int err = 0;

    for (size_t i = 0; err == 0 && i < all->tensor->part_count; i++) {
        struct live_job job = *all;
        job.part = &all->tensor->parts[i];
        job.rows = job.part->rows;
        err = job.part->device ? device_part_add(write, &job) : host_part_add(write, &job);
    }
    return err;
}

static int launches_begin(struct live_write *write)
{
    const struct live_devices *devices = &write->weights->devices;

    if (!(write->launches = array_new(devices->count, sizeof(*write->launches))))
        return error_wrap(E_NOMEM, "swap");
    for (size_t i = 0; i < devices->count; i++)
        write->launches[i].device = devices->all[i];
    write->launch_count = devices->count;
    return 0;
}

/* Those that have something to write. */
static int launches_prepare(struct live_write *write, uint64_t kept_most)
{
    size_t count = 0;
    int err = 0;

    for (size_t i = 0; i < write->launch_count; i++) {
        if (!write->launches[i].count)
            continue;
        const struct live_launch launch = write->launches[i];
        write->launches[i] = (struct live_launch){0};
        write->launches[count++] = launch;
    }
    write->launch_count = count;
    for (size_t i = 0; err == 0 && i < count; i++)
        err = live_launch_prepare(&write->launches[i], write->weights, write->basis, kept_most);
    return err;
}

static int targets_add(struct live_write *write, const struct plan *plan)
{
    int err = 0;

    for (size_t i = 0; err == 0 && i < plan->target_count; i++) {
        const struct plan_target *target = &plan->targets[i];
        struct live_job job = {
            .tensor = live_tensor_of(write->weights, &target->weight), .target = target};
        write->changes[target->weight.shard] = true;
        err = jobs_add(write, &job);
    }
    return err;
}

/* Tensors that the model lacks: the caller cannot have registered them. */
static int added_error(const struct plan *plan)
{
    int err = error_set(
        E_UNSUPPORTED, "the adapter brings %zu tensors that the live model does not have",
        plan->added_count
    );

    err = error_hint(err, "register them: what the model computes with has a place in memory");
    for (size_t i = 0; i < plan->replacement_count; i++) {
        if (!plan->replacements[i].weight.tensor)
            err = error_detail(err, "%s", plan->replacements[i].name);
    }
    return err;
}

static int replacements_add(struct live_write *write, const struct plan *plan)
{
    int err = plan->added_count ? added_error(plan) : 0;

    for (size_t i = 0; err == 0 && i < plan->replacement_count; i++) {
        const struct plan_replacement *replacement = &plan->replacements[i];
        struct live_job job = {
            .tensor = live_tensor_of(write->weights, &replacement->weight),
            .from = replacement->tensor,
            .data = loaded_tensor(plan->adapter, replacement->tensor),
        };
        write->changes[replacement->weight.shard] = true;
        err = jobs_add(write, &job);
    }
    return err;
}

/* What the adapter before has changed and this one leaves alone. */
static int restores_add(struct live_write *write)
{
    int err = 0;

    for (size_t i = 0; err == 0 && i < write->weights->count; i++) {
        struct live_job job = {.tensor = &write->weights->tensors[i]};
        if (job.tensor->changed && !write->changes[i])
            err = jobs_add(write, &job);
    }
    return err;
}

/* Memory of one thread */

static size_t size_of(const struct live_tensor *tensor)
{
    return dtype_bits(tensor->tensor.dtype) / 8;
}

/* A block of rows in between, where the columns of the part do not lie side by side. */
static size_t block_bytes(const struct live_job *job)
{
    size_t element = size_of(job->tensor);

    if (live_part_is_plain(job->part, element))
        return 0;
    return (size_t)(job->rows * job->part->columns) * element;
}

static size_t align(size_t bytes)
{
    return (bytes + 63) / 64 * 64;
}

static int memory_take(struct live_write *write)
{
    size_t total;

    for (size_t i = 0; i < write->count; i++) {
        const struct live_job *job = &write->jobs[i];
        size_t bytes = 0;
        if (job->target)
            bytes = align(block_bytes(job)) +
                    kernel_memory(job->rows, job->part->columns, write->basis->rank);
        else if (job->from)
            bytes = (size_t)job->part->columns * (sizeof(float) + size_of(job->tensor));
        if (bytes > write->share)
            write->share = bytes;
    }
    write->share = align(write->share);
    if (__builtin_mul_overflow(write->share, (size_t)write->threads, &total))
        return error_set(E_NOMEM, "out of memory for the swap");
    return buf_reserve(&write->memory, total);
}

int live_write_init(
    struct live_write *out,
    struct live_weights *weights,
    const struct plan *plan,
    const struct basis *basis,
    const struct live_write_options *options
)
{
    AUTO_LIVE_WRITE(write);
    int err;

    write.weights = weights;
    write.basis = basis;
    if (!(write.changes = array_new(weights->count, sizeof(*write.changes))))
        return error_wrap(E_NOMEM, "swap");
    if ((err = launches_begin(&write)) < 0 ||
        (plan &&
         ((err = targets_add(&write, plan)) < 0 || (err = replacements_add(&write, plan)) < 0)) ||
        (err = restores_add(&write)) < 0 ||
        (err = launches_prepare(&write, options->kept_most)) < 0)
        return err;
    write.threads = write.count < options->threads ? (unsigned)write.count : options->threads;
    write.threads += (unsigned)write.launch_count;
    if (write.threads == 0)
        write.threads = 1;
    if ((err = memory_take(&write)) < 0)
        return err;
    *out = write;
    write = (struct live_write){0};
    return 0;
}

void live_write_release(struct live_write *write)
{
    for (size_t i = 0; i < write->launch_count; i++)
        live_launch_release(&write->launches[i]);
    free(write->launches);
    free(write->jobs);
    free(write->changes);
    buf_release(&write->memory);
    *write = (struct live_write){0};
}

/* Writing */

static const uint8_t *pristine_row(const struct live_job *job)
{
    return job->part->pristine + job->row * job->part->pristine_stride;
}

static void job_merge(const struct live_write *write, const struct live_job *job, uint8_t *memory)
{
    const struct plan_target *target = job->target;
    const struct live_part *part = job->part;
    const struct kernel_term term = live_job_term(job, write->basis);
    size_t element = size_of(job->tensor), row = (size_t)part->columns * element;
    bool plain = live_part_is_plain(part, element);
    struct kernel_place place = {
        .weights = plain ? part->data + job->row * part->row_stride : memory,
        .stride = plain ? part->row_stride : row,
        .source = pristine_row(job),
        .source_stride = part->pristine_stride,
    };
    uint64_t begin = part->row + job->row, end = begin + job->rows;

    kernel_merge_from(
        &place, job->tensor->tensor.dtype, target->transposed ? part->columns : target->out,
        target->transposed ? target->in : part->columns, target->transposed, begin, end, &term,
        memory + align(block_bytes(job))
    );
    if (!plain)
        live_part_put(part, element, job->row, job->rows, memory, row);
}

/* The adapter's values in the weight's dtype, a row at a time. */
static void job_replace(const struct live_job *job, uint8_t *memory)
{
    const struct live_part *part = job->part;
    enum dtype from = job->from->dtype, to = job->tensor->tensor.dtype;
    size_t from_size = dtype_bits(from) / 8, to_size = dtype_bits(to) / 8;
    float *values = (float *)(void *)memory;
    uint8_t *narrow = memory + part->columns * sizeof(float);

    for (uint64_t i = 0; i < job->rows; i++) {
        uint64_t at = (part->row + job->row + i) * job->tensor->shape[1] + part->column;
        const uint8_t *row = job->data.data + at * from_size;
        if (from != to) {
            dtype_widen(values, row, (size_t)part->columns, from);
            dtype_narrow(narrow, values, (size_t)part->columns, to);
            row = narrow;
        }
        live_part_put(part, to_size, job->row + i, 1, row, 0);
    }
}

static int job_run(struct live_write *write, unsigned member, const struct live_job *job)
{
    uint8_t *memory = write->memory.data + member * write->share;

    if (job->target)
        job_merge(write, job, memory);
    else if (job->from)
        job_replace(job, memory);
    else
        live_part_put(
            job->part, size_of(job->tensor), job->row, job->rows, pristine_row(job),
            job->part->pristine_stride
        );
    return 0;
}

/* The devices come first, so that they work while the host's parts are written. */
static int piece_run(void *context, unsigned member, size_t number)
{
    struct live_write *write = context;

    if (number < write->launch_count)
        return live_launch_run(&write->launches[number]);
    atomic_store(&write->host_written, true);
    return job_run(write, member, &write->jobs[number - write->launch_count]);
}

int live_write_follow(const struct live_write *write)
{
    int err = 0;

    for (size_t i = 0; err == 0 && i < write->launch_count; i++)
        err = live_device_follow(write->launches[i].device);
    return err;
}

static bool is_written(const struct live_write *write)
{
    bool written = atomic_load(&write->host_written);

    for (size_t i = 0; i < write->launch_count; i++)
        written = written || write->launches[i].written;
    return written;
}

int live_write_run(struct live_write *write)
{
    int err = crew_run(piece_run, write, write->launch_count + write->count, write->threads);

    write->torn = err < 0 && is_written(write);
    for (size_t i = 0; i < write->weights->count; i++) {
        struct live_tensor *tensor = &write->weights->tensors[i];
        if (err == 0)
            tensor->changed = write->changes[i];
        else if (write->torn)
            tensor->changed = tensor->changed || write->changes[i];
    }
    return err;
}
