/* What a launch reads beside the weights. See parameters.h. */
#include "apply/cuda/parameters.h"

#include <assert.h>
#include <string.h>

/* Factors of one of a slice's terms: of its rows, or of all columns. */
static size_t factor_count(const struct backend_job *job, uint64_t rows)
{
    return (size_t)(job->transposed ? job->out : rows);
}

size_t slice_floats(const struct backend_job *job, uint64_t rows)
{
    size_t floats = 0;

    for (size_t i = 0; i < job->term_count; i++)
        floats += (size_t)job->terms[i].rank + factor_count(job, rows);
    return floats;
}

size_t parameter_bytes(size_t tensors, size_t terms, size_t floats)
{
    return tensors * sizeof(struct merge_tensor) + terms * sizeof(struct merge_term) +
           floats * sizeof(float);
}

size_t parameters_most(const struct backend_job *jobs, size_t count)
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

struct merge_tensor *
parameters_write(const struct lane_state *lane, size_t count, size_t tensors, size_t terms)
{
    const struct mirror *parameters = &lane->parameters;
    size_t terms_at = tensors * sizeof(struct merge_tensor);
    size_t floats_at = terms_at + terms * sizeof(struct merge_term);
    struct parameter_writer writer = {};

    writer.tensors = (struct merge_tensor *)parameters->host;
    writer.terms = (struct merge_term *)(parameters->host + terms_at);
    writer.floats = (float *)(parameters->host + floats_at);
    writer.floats_device = (const float *)(parameters->device + floats_at);
    for (size_t i = 0; i < count; i++) {
        if (has_kernel(lane->slices[i].route))
            slice_write(&writer, lane, &lane->slices[i]);
    }
    return writer.tensors;
}
