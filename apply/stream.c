/*
 * The base's tensors through memory, in blocks of rows, changed. See rewrite.h.
 *
 * A weight is read block by block, hashed where a pin wants it, merged in place and handed over. A
 * block is as large as a cache can use and never less than one row, which is no more than a row of
 * A. Blocks are cut by size alone, so the report's sums are the same with any number of threads and
 * on any device. Where a device has more work than is in a small weight, several share a block.
 */
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "apply/rewrite.h"
#include "format/crew.h"
#include "format/limits.h"

/* Each thread has a block, with a report three more of its size. */
#define BLOCK_BYTES (4 * MIB)

/* Of a tensor in a group: its rows are one block, whatever block_rows() leaves of one. */
#define GROUP_TENSOR_BYTES (BLOCK_BYTES / 2)
#define TILE_ROWS                                                                                  \
    12 /* what the kernel's tiles have at most, and a multiple of what others have                 \
        */

static size_t align_up(size_t n)
{
    return (n + BACKEND_ALIGN - 1) / BACKEND_ALIGN * BACKEND_ALIGN;
}

static int bases_add(struct device *device, const struct rewrites *rewrites)
{
    int err = 0;

    for (size_t i = 0; err == 0 && i < rewrites->input_count; i++) {
        const struct basis *basis = &rewrites->bases[i];
        const struct backend_basis matrices = {
            basis->a, basis->b, basis->rank, basis->in, basis->out};
        if (basis->a)
            err = device_add_basis(device, &matrices);
    }
    return err;
}

int stream_init(
    struct stream *out,
    const struct rewrites *rewrites,
    const struct apply_options *options,
    uint64_t total
)
{
    int err;

    out->rewrites = rewrites;
    out->threads = options->threads ? options->threads : crew_size(SIZE_MAX);
    out->report = options->report;
    out->progress = options->progress;
    out->total = total;
    if (out->report && !(out->sums = array_new(rewrites->count, sizeof(*out->sums))))
        return error_wrap(E_NOMEM, "report");
    err = device_open(&out->device, options->device, options->math);
    return err < 0 ? err : bases_add(&out->device, rewrites);
}

void stream_release(struct stream *stream)
{
    device_release(&stream->device);
    buf_release(&stream->differing);
    free(stream->sums);
    pthread_mutex_destroy(&stream->mutex);
}

void stream_scratch_release(struct stream_scratch *scratch)
{
    lane_release(&scratch->lane);
    buf_release(&scratch->values);
    buf_release(&scratch->before);
}

void stream_advance(struct stream *stream, uint64_t bytes)
{
    pthread_mutex_lock(&stream->mutex);
    stream->done += bytes;
    progress_update(stream->progress, stream->done, stream->total);
    pthread_mutex_unlock(&stream->mutex);
}

/* Replacements: the adapter's values in the base's dtype. */
static int replace(
    const struct stream *stream,
    struct stream_scratch *scratch,
    size_t number,
    block_fn take,
    void *context
)
{
    const struct rewrite *rewrite = &stream->rewrites->tensors[number];
    const struct rewrite_part *part = &rewrite->parts[0];
    const struct tensor *base = rewrite->base.tensor, *from = part->replacement->tensor;
    struct bytes data = loaded_tensor(stream->rewrites->inputs[part->input].adapter, from);
    size_t from_size = dtype_bits(from->dtype) / 8, size = dtype_bits(base->dtype) / 8;
    float values[4096];
    int err = 0;

    if (from->dtype == base->dtype)
        return take(context, number, data, 0);
    if (!dtype_is_applicable(from->dtype) || !dtype_is_applicable(base->dtype))
        return error_set(
            E_UNSUPPORTED, "%s: %s cannot be written as the base's %s", part->replacement->name,
            dtype_name(from->dtype), dtype_name(base->dtype)
        );
    uint64_t count = tensor_values(base);
    if ((err = buf_resize(&scratch->values, sizeof(values))) < 0)
        return err;
    for (uint64_t at = 0; err == 0 && at < count; at += 4096) {
        size_t n = count - at < 4096 ? (size_t)(count - at) : 4096;
        dtype_widen(values, data.data + at * from_size, n, from->dtype);
        dtype_narrow(scratch->values.data, values, n, base->dtype);
        err = take(context, number, (struct bytes){scratch->values.data, n * size}, at * size);
    }
    return err;
}

/* One weight as it is stored, and its rows in the block at hand. */
struct weight {
    const struct rewrite *rewrite;
    const struct plan_target *target; /* the first one's: shape and orientation are the tensor's */
    size_t number;                    /* in rewrites->tensors */
    enum dtype dtype;
    uint64_t rows, columns; /* as stored */
    struct kernel_term *terms;
    struct report_sums *sums; /* NULL where nobody wants them */
    bool pinned;
    struct hash hash; /* where it is pinned */
    uint64_t row, row_end;
    size_t at, change_at; /* where they are in the lane's memory */
};

/* The weights that one call streams. */
struct weights {
    struct stream *stream;
    struct stream_scratch *scratch;
    struct weight *list;
    size_t count;
    struct kernel_term *terms;
    struct backend_job *jobs; /* two for each: W, and the change alone where it is wanted */
    uint8_t *block, *change;  /* the lane's */
    int fd;
    block_fn take;
    void *context;
};

static void weights_release(struct weights *weights)
{
    for (size_t i = 0; weights->list && i < weights->count; i++)
        hash_release(&weights->list[i].hash);
    free(weights->list);
    free(weights->terms);
    free(weights->jobs);
}

static void
terms_fill(struct kernel_term *terms, const struct rewrite *rewrite, const struct rewrites *all)
{
    for (size_t i = 0; i < rewrite->part_count; i++) {
        const struct rewrite_part *part = &rewrite->parts[i];
        const struct basis *basis = all->basis[part->input];
        terms[i] = (struct kernel_term){
            .a = basis->a,
            .b_matrix = basis->b,
            .d = part->target->d,
            .b = part->target->b,
            .a_stride = basis->in,
            .rank = basis->rank,
            .weight = all->inputs[part->input].weight,
        };
    }
}

static uint64_t row_bytes(const struct weight *weight)
{
    return weight->columns * dtype_bits(weight->dtype) / 8;
}

/* Of its rows in the block. */
static size_t block_len(const struct weight *weight)
{
    return (size_t)((weight->row_end - weight->row) * row_bytes(weight));
}

/* As many as a block holds, in whole tiles where it holds one: at least one row. */
static uint64_t block_rows(uint64_t row_len)
{
    uint64_t rows = row_len && row_len < BLOCK_BYTES ? BLOCK_BYTES / row_len : 1;

    return rows > TILE_ROWS ? rows - rows % TILE_ROWS : rows;
}

/* The next rows of every weight, and where they go. */
static int block_begin(struct weights *weights)
{
    size_t len = 0, change_len = 0;
    int err;

    for (size_t i = 0; i < weights->count; i++) {
        struct weight *weight = &weights->list[i];
        uint64_t step = block_rows(row_bytes(weight));
        weight->row_end = weight->rows - weight->row > step ? weight->row + step : weight->rows;
        weight->at = len;
        weight->change_at = change_len;
        len = align_up(len + block_len(weight));
        size_t values = (size_t)((weight->row_end - weight->row) * weight->columns);
        change_len = align_up(change_len + values * sizeof(float));
    }
    err = lane_memory(&weights->block, &weights->scratch->lane, LANE_BLOCK, len);
    if (err == 0 && weights->list[0].sums)
        err = lane_memory(&weights->change, &weights->scratch->lane, LANE_CHANGE, change_len);
    return err;
}

static int block_read(struct weights *weights)
{
    int err = 0;

    for (size_t i = 0; err == 0 && i < weights->count; i++) {
        struct weight *weight = &weights->list[i];
        const struct model_tensor *base = &weight->rewrite->base;
        const struct shard *shard = &weights->stream->rewrites->model->shards[base->shard];
        uint64_t from = shard->table.header_bytes + base->tensor->begin +
                        weight->row * row_bytes(weight);
        uint8_t *to = weights->block + weight->at;
        err = file_read_at(weights->fd, to, block_len(weight), from, shard->path);
        if (err == 0 && weight->pinned)
            err = hash_update(&weight->hash, to, block_len(weight));
    }
    return err;
}

static struct backend_job job_make(const struct weight *weight, uint8_t *at, enum dtype dtype)
{
    return (struct backend_job){
        .to.data = at,
        .dtype = dtype,
        .transposed = weight->target->transposed,
        .out = weight->target->out,
        .in = weight->target->in,
        .row_begin = weight->row,
        .row_end = weight->row_end,
        .terms = weight->terms,
        .term_count = weight->rewrite->part_count,
    };
}

/* Merge the block. dW alone is the merge onto zeros. */
static int block_merge(struct weights *weights)
{
    struct buf *before = &weights->scratch->before;
    size_t jobs = 0;
    int err;

    before->len = 0;
    for (size_t i = 0; i < weights->count; i++) {
        const struct weight *weight = &weights->list[i];
        uint8_t *at = weights->block + weight->at;
        weights->jobs[jobs++] = job_make(weight, at, weight->dtype);
        if (!weight->sums)
            continue;
        size_t values = (size_t)((weight->row_end - weight->row) * weight->columns);
        memset(weights->change + weight->change_at, 0, values * sizeof(float));
        if ((err = buf_append(before, at, block_len(weight))) < 0)
            return err;
    }
    for (size_t i = 0; weights->list[0].sums && i < weights->count; i++) {
        const struct weight *weight = &weights->list[i];
        uint8_t *at = weights->change + weight->change_at;
        weights->jobs[jobs++] = job_make(weight, at, DTYPE_F32);
    }
    return lane_merge(&weights->scratch->lane, weights->jobs, jobs);
}

static void block_report(const struct weights *weights)
{
    const uint8_t *before = weights->scratch->before.data;

    for (size_t i = 0; i < weights->count; i++) {
        const struct weight *weight = &weights->list[i];
        const void *change = weights->change + weight->change_at;
        report_add(
            weight->sums, before, weights->block + weight->at, change,
            (size_t)((weight->row_end - weight->row) * weight->columns), weight->dtype
        );
        before += block_len(weight);
    }
}

static int block_end(struct weights *weights)
{
    int err = 0;

    for (size_t i = 0; err == 0 && i < weights->count; i++) {
        struct weight *weight = &weights->list[i];
        struct bytes data = {weights->block + weight->at, block_len(weight)};
        if (weights->take)
            err = weights->take(
                weights->context, weight->number, data, weight->row * row_bytes(weight)
            );
        stream_advance(weights->stream, data.len);
        weight->row = weight->row_end;
    }
    return err;
}

/* Those of a group are all through after one block. */
static int weights_run(struct weights *weights)
{
    const struct weight *first = &weights->list[0];
    int err = 0;

    while (err == 0 && first->row < first->rows) {
        if ((err = block_begin(weights)) < 0 || (err = block_read(weights)) < 0)
            return err;
        if ((weights->take || first->sums) && (err = block_merge(weights)) < 0)
            return err;
        if (first->sums)
            block_report(weights);
        err = block_end(weights);
    }
    return err;
}

/* Note every adapter's module whose pin has another digest, or none. */
static int
compare_pins(struct stream *stream, const struct rewrite *rewrite, const struct digest *digest)
{
    for (size_t i = 0; i < rewrite->part_count; i++) {
        const struct rewrite_part *part = &rewrite->parts[i];
        const struct plan *plan = &stream->rewrites->plans[part->input];
        if (!plan->pinned)
            continue;
        const struct pin_module *module = pin_find(&plan->pin, part->target->module);
        if (module && digest_equal(&module->digest, digest))
            continue;
        pthread_mutex_lock(&stream->mutex);
        int err = buf_append(&stream->differing, &part->target->module, sizeof(char *));
        pthread_mutex_unlock(&stream->mutex);
        if (err < 0)
            return err;
    }
    return 0;
}

static bool is_pinned(const struct stream *stream, const struct rewrite *rewrite)
{
    for (size_t i = 0; i < rewrite->part_count; i++) {
        if (stream->rewrites->plans[rewrite->parts[i].input].pinned)
            return true;
    }
    return false;
}

static int weights_make(struct weights *out, size_t begin)
{
    const struct rewrites *all = out->stream->rewrites;
    size_t terms = 0;

    for (size_t i = 0; i < out->count; i++)
        terms += all->tensors[begin + i].part_count;
    if (!(out->list = array_new(out->count, sizeof(*out->list))) ||
        !(out->terms = array_new(terms, sizeof(*out->terms))) ||
        !(out->jobs = array_new(2 * out->count, sizeof(*out->jobs))))
        return error_wrap(E_NOMEM, "%s", all->tensors[begin].parts[0].target->module);
    terms = 0;
    for (size_t i = 0; i < out->count; i++) {
        const struct rewrite *rewrite = &all->tensors[begin + i];
        const struct plan_target *target = rewrite->parts[0].target;
        struct weight *weight = &out->list[i];
        *weight = (struct weight){
            .rewrite = rewrite,
            .target = target,
            .number = begin + i,
            .dtype = rewrite->base.tensor->dtype,
            .rows = target->transposed ? target->in : target->out,
            .columns = target->transposed ? target->out : target->in,
            .terms = out->terms + terms,
            .sums = out->stream->report ? &out->stream->sums[begin + i] : NULL,
            .pinned = is_pinned(out->stream, rewrite),
        };
        terms_fill(weight->terms, rewrite, all);
        terms += rewrite->part_count;
        int err = weight->pinned ? hash_init(&weight->hash) : 0;
        if (err < 0)
            return err;
    }
    return 0;
}

static int weights_check_pins(struct weights *weights)
{
    struct digest digest;
    int err = 0;

    for (size_t i = 0; err == 0 && i < weights->count; i++) {
        struct weight *weight = &weights->list[i];
        if (weight->pinned && (err = hash_final(&digest, &weight->hash)) == 0)
            err = compare_pins(weights->stream, weight->rewrite, &digest);
    }
    return err;
}

static int stream_weights(
    struct stream *stream,
    struct stream_scratch *scratch,
    size_t begin,
    size_t count,
    int fd,
    block_fn take,
    void *context
)
{
    __attribute__((cleanup(weights_release))) struct weights weights = {
        .stream = stream,
        .scratch = scratch,
        .count = count,
        .fd = fd,
        .take = take,
        .context = context,
    };
    bool pinned = false;
    int err;

    for (size_t i = 0; i < count; i++)
        pinned = pinned || is_pinned(stream, &stream->rewrites->tensors[begin + i]);
    if (!take && !stream->report && !pinned)
        return 0;
    if (!scratch->lane.backend &&
        (err = lane_open(&scratch->lane, &stream->device, scratch->threads)) < 0)
        return err;
    if ((err = weights_make(&weights, begin)) < 0 || (err = weights_run(&weights)) < 0)
        return err;
    return weights_check_pins(&weights);
}

size_t stream_group(const struct stream *stream, size_t begin, size_t end)
{
    const struct rewrites *all = stream->rewrites;
    uint64_t room = stream->device.backend->group_bytes;
    size_t at = begin;

    for (; at < end && !all->tensors[at].parts[0].replacement; at++) {
        uint64_t bytes = align_up(tensor_bytes(all->tensors[at].base.tensor));
        if (bytes > room || bytes > GROUP_TENSOR_BYTES)
            break;
        room -= bytes;
    }
    return at > begin ? at - begin : 1;
}

int stream_tensors(
    struct stream *stream,
    struct stream_scratch *scratch,
    size_t begin,
    size_t count,
    int fd,
    block_fn take,
    void *context
)
{
    const struct rewrite *rewrite = &stream->rewrites->tensors[begin];
    int err;

    if (!rewrite->parts[0].replacement)
        return stream_weights(stream, scratch, begin, count, fd, take, context);
    if (take && (err = replace(stream, scratch, begin, take, context)) < 0)
        return err;
    stream_advance(stream, tensor_bytes(rewrite->base.tensor));
    return 0;
}

bool stream_differs(struct stream *stream)
{
    pthread_mutex_lock(&stream->mutex);
    bool differs = stream->differing.len > 0;
    pthread_mutex_unlock(&stream->mutex);
    return differs;
}

static int name_compare(const void *a, const void *b)
{
    return strcmp(*(const char *const *)a, *(const char *const *)b);
}

/* "NAME (revision R)" of the first pin that tells. */
static int pin_hint(int err, const struct rewrites *all)
{
    for (size_t i = 0; i < all->input_count; i++) {
        const struct pin *pin = &all->plans[i].pin;
        if (all->plans[i].pinned && pin->name)
            return error_hint(
                err, "give the base model that the version was committed with: %s%s%s", pin->name,
                pin->revision ? ", revision " : "", pin->revision ? pin->revision : ""
            );
    }
    return error_hint(err, "give the base model that the version was committed with");
}

int stream_check_pins(const struct stream *stream)
{
    const char *const *names = (const char *const *)(const void *)stream->differing.data;
    size_t count = stream->differing.len / sizeof(char *), pinned = 0;

    if (count == 0)
        return 0;
    for (size_t i = 0; i < stream->rewrites->input_count; i++) {
        const struct plan *plan = &stream->rewrites->plans[i];
        pinned += plan->pinned ? plan->target_count : 0;
    }
    qsort(stream->differing.data, count, sizeof(char *), name_compare);
    int err = error_set(
        E_CONFLICT, "%s: another base model than the one recorded: %zu of %zu modules differ",
        stream->rewrites->model->dir, count, pinned
    );
    for (size_t i = 0; i < count; i++)
        err = error_detail(err, "%s", names[i]);
    return pin_hint(err, stream->rewrites);
}

static int report_compare(const void *a, const void *b)
{
    return strcmp(
        ((const struct apply_report *)a)->module, ((const struct apply_report *)b)->module
    );
}

/* Of the modules that were streamed: those of a part, where it is one. */
static int reports_make(struct apply_result *out, const struct stream *stream)
{
    const struct rewrites *all = stream->rewrites;
    struct report_sums total = {0};
    int err = 0;

    if (!(out->report = array_new(all->count, sizeof(*out->report))))
        return error_wrap(E_NOMEM, "report");
    for (size_t i = 0; err == 0 && i < all->count; i++) {
        const struct plan_target *target = all->tensors[i].parts[0].target;
        if (!target || !stream->sums[i].count)
            continue;
        err = report_finish(&out->report[out->report_count], target->module, &stream->sums[i]);
        out->report_count += err == 0;
        report_join(&total, &stream->sums[i]);
    }
    qsort(out->report, out->report_count, sizeof(*out->report), report_compare);
    return err < 0 ? err : report_finish(&out->report_total, NULL, &total);
}

int stream_report(struct apply_result *out, const struct stream *stream)
{
    const struct device *device = &stream->device;
    const char *name = device->backend->device_name(device->session);

    out->device = device->backend->name;
    snprintf(out->device_name, sizeof(out->device_name), "%s", name ? name : "");
    out->math = device->math;
    out->fast_bound = device->math == MATH_FAST ? device->backend->fast_bound : NULL;
    return stream->report ? reports_make(out, stream) : 0;
}
