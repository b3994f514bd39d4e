/*
 * The base's tensors through memory, in blocks of rows, changed. See rewrite.h.
 *
 * A weight is read block by block, hashed where a pin wants it, merged in place and handed over. A
 * block is as large as a cache can use and never less than one row, which is no more than a row of
 * A. Blocks are cut by size alone, so the report's sums are the same with any number of threads.
 */
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "apply/kernel.h"
#include "apply/rewrite.h"
#include "format/crew.h"
#include "format/limits.h"

/* Each thread has a block, with a report three more of its size. */
#define BLOCK_BYTES (4 * MIB)
#define TILE_ROWS                                                                                  \
    12 /* what the kernel's tiles have at most, and a multiple of what others have                 \
        */

int stream_init(
    struct stream *out,
    const struct rewrites *rewrites,
    const struct apply_options *options,
    uint64_t total
)
{
    out->rewrites = rewrites;
    out->threads = options->threads ? options->threads : crew_size(SIZE_MAX);
    out->report = options->report;
    out->progress = options->progress;
    out->total = total;
    if (out->report && !(out->sums = array_new(rewrites->count, sizeof(*out->sums))))
        return error_wrap(E_NOMEM, "report");
    return 0;
}

void stream_release(struct stream *stream)
{
    buf_release(&stream->differing);
    free(stream->sums);
    pthread_mutex_destroy(&stream->mutex);
}

void stream_scratch_release(struct stream_scratch *scratch)
{
    buf_release(&scratch->block);
    buf_release(&scratch->before);
    buf_release(&scratch->change);
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
    const struct rewrite *rewrite,
    block_fn take,
    void *context
)
{
    const struct rewrite_part *part = &rewrite->parts[0];
    const struct tensor *base = rewrite->base.tensor, *from = part->replacement->tensor;
    struct bytes data = loaded_tensor(stream->rewrites->inputs[part->input].adapter, from);
    size_t from_size = dtype_bits(from->dtype) / 8, size = dtype_bits(base->dtype) / 8;
    float values[4096];
    int err = 0;

    if (from->dtype == base->dtype)
        return take(context, data, 0);
    if (!dtype_is_applicable(from->dtype) || !dtype_is_applicable(base->dtype))
        return error_set(
            E_UNSUPPORTED, "%s: %s cannot be written as the base's %s", part->replacement->name,
            dtype_name(from->dtype), dtype_name(base->dtype)
        );
    uint64_t count = tensor_values(base);
    if ((err = buf_resize(&scratch->block, sizeof(values))) < 0)
        return err;
    for (uint64_t at = 0; err == 0 && at < count; at += 4096) {
        size_t n = count - at < 4096 ? (size_t)(count - at) : 4096;
        dtype_widen(values, data.data + at * from_size, n, from->dtype);
        dtype_narrow(scratch->block.data, values, n, base->dtype);
        err = take(context, (struct bytes){scratch->block.data, n * size}, at * size);
    }
    return err;
}

/* One weight as it is stored, and the block at hand. */
struct weight {
    const struct rewrite *rewrite;
    const struct plan_target *target; /* the first one's: shape and orientation are the tensor's */
    enum dtype dtype;
    uint64_t rows, columns; /* as stored */
    struct kernel_term *terms;
    struct report_sums *sums; /* NULL where nobody wants them */
    struct stream_scratch *scratch;
    uint64_t row, row_end;
};

static void terms_fill(struct weight *weight, const struct rewrites *all)
{
    for (size_t i = 0; i < weight->rewrite->part_count; i++) {
        const struct rewrite_part *part = &weight->rewrite->parts[i];
        const struct basis *basis = all->basis[part->input];
        weight->terms[i] = (struct kernel_term){
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

static int merge_rows(const struct weight *weight, uint8_t *data, enum dtype dtype)
{
    const struct plan_target *target = weight->target;

    return kernel_merge(
        data, dtype, target->out, target->in, target->transposed, weight->row, weight->row_end,
        weight->terms, weight->rewrite->part_count, weight->scratch->threads
    );
}

/* Merge the block in the scratch. dW alone is the merge onto zeros. */
static int merge_block(const struct weight *weight)
{
    struct stream_scratch *scratch = weight->scratch;
    size_t count = (size_t)((weight->row_end - weight->row) * weight->columns);
    int err;

    if (!weight->sums)
        return merge_rows(weight, scratch->block.data, weight->dtype);
    scratch->before.len = scratch->change.len = 0;
    if ((err = buf_append(&scratch->before, scratch->block.data, scratch->block.len)) < 0 ||
        (err = buf_resize(&scratch->change, count * sizeof(float))) < 0 ||
        (err = merge_rows(weight, scratch->change.data, DTYPE_F32)) < 0 ||
        (err = merge_rows(weight, scratch->block.data, weight->dtype)) < 0)
        return err;
    report_add(
        weight->sums, scratch->before.data, scratch->block.data,
        (const float *)(const void *)scratch->change.data, count, weight->dtype
    );
    return 0;
}

/* As many as a block holds, in whole tiles where it holds one: at least one row. */
static uint64_t block_rows(uint64_t row_bytes)
{
    uint64_t rows = row_bytes && row_bytes < BLOCK_BYTES ? BLOCK_BYTES / row_bytes : 1;

    return rows > TILE_ROWS ? rows - rows % TILE_ROWS : rows;
}

/* Read and merge all blocks; `hash` NULL: no pin. */
static int merge_weight(
    struct stream *stream,
    struct weight *weight,
    int fd,
    struct hash *hash,
    block_fn take,
    void *context
)
{
    const struct tensor *tensor = weight->rewrite->base.tensor;
    const struct shard *shard = &stream->rewrites->model->shards[weight->rewrite->base.shard];
    uint64_t row_bytes = weight->columns * dtype_bits(weight->dtype) / 8;
    uint64_t step = block_rows(row_bytes);
    uint64_t begin = shard->table.header_bytes + tensor->begin;
    int err = 0;

    for (; err == 0 && weight->row < weight->rows; weight->row = weight->row_end) {
        weight->row_end = weight->rows - weight->row > step ? weight->row + step : weight->rows;
        uint64_t offset = weight->row * row_bytes;
        size_t len = (size_t)((weight->row_end - weight->row) * row_bytes);
        if ((err = buf_resize(&weight->scratch->block, len)) < 0 ||
            (err = file_read_at(fd, weight->scratch->block.data, len, begin + offset, shard->path)
            ) < 0 ||
            (hash && (err = hash_update(hash, weight->scratch->block.data, len)) < 0))
            return err;
        if ((take || weight->sums) && (err = merge_block(weight)) < 0)
            return err;
        if (take)
            err = take(context, buf_bytes(&weight->scratch->block), offset);
        stream_advance(stream, len);
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

static int merge_tensor(
    struct stream *stream,
    struct stream_scratch *scratch,
    const struct rewrite *rewrite,
    struct report_sums *sums,
    int fd,
    block_fn take,
    void *context
)
{
    AUTO_FREE(struct kernel_term, terms);
    AUTO_HASH(hash);
    const struct plan_target *target = rewrite->parts[0].target;
    bool pinned = is_pinned(stream, rewrite);
    struct digest digest;
    int err;

    if (!take && !pinned && !sums)
        return 0;
    if (!(terms = array_new(rewrite->part_count, sizeof(*terms))))
        return error_wrap(E_NOMEM, "%s", target->module);
    struct weight weight = {
        .rewrite = rewrite,
        .target = target,
        .dtype = rewrite->base.tensor->dtype,
        .rows = target->transposed ? target->in : target->out,
        .columns = target->transposed ? target->out : target->in,
        .terms = terms,
        .sums = sums,
        .scratch = scratch,
    };
    terms_fill(&weight, stream->rewrites);
    if (pinned && (err = hash_init(&hash)) < 0)
        return err;
    err = merge_weight(stream, &weight, fd, pinned ? &hash : NULL, take, context);
    if (err < 0 || !pinned)
        return err;
    err = hash_final(&digest, &hash);
    return err < 0 ? err : compare_pins(stream, rewrite, &digest);
}

int stream_tensor(
    struct stream *stream,
    struct stream_scratch *scratch,
    size_t number,
    int fd,
    block_fn take,
    void *context
)
{
    const struct rewrite *rewrite = &stream->rewrites->tensors[number];
    struct report_sums *sums = stream->report ? &stream->sums[number] : NULL;
    int err;

    if (!rewrite->parts[0].replacement)
        return merge_tensor(stream, scratch, rewrite, sums, fd, take, context);
    if (take && (err = replace(stream, scratch, rewrite, take, context)) < 0)
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

int stream_report(struct apply_result *out, const struct stream *stream)
{
    const struct rewrites *all = stream->rewrites;
    int err = 0;

    if (!stream->report)
        return 0;
    if (!(out->report = array_new(all->count, sizeof(*out->report))))
        return error_wrap(E_NOMEM, "report");
    for (size_t i = 0; err == 0 && i < all->count; i++) {
        const struct plan_target *target = all->tensors[i].parts[0].target;
        if (!target)
            continue;
        err = report_finish(&out->report[out->report_count], target->module, &stream->sums[i]);
        out->report_count += err == 0;
    }
    qsort(out->report, out->report_count, sizeof(*out->report), report_compare);
    return err;
}
