/*
 * Write the merged model, or check that it could be. See materialize.h.
 *
 * Neither dtype nor shape of a tensor changes, so every header and every offset stays: a shard is
 * the base's with some ranges rewritten. Where the file system shares blocks the whole shard is
 * shared first; where it does not, only what lies between the ranges is copied, so nothing is
 * written twice.
 */
#include "apply/materialize.h"

#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "apply/output.h"
#include "format/crew.h"
#include "format/limits.h"

#define COPY_BYTES (4 * MIB) /* of a range that one thread copies at a time */

static double seconds_now(void)
{
    struct timespec now;

    clock_gettime(CLOCK_MONOTONIC, &now);
    return (double)now.tv_sec + (double)now.tv_nsec * 1e-9;
}

/* The output must not be written into the base, nor replace it. */
static int check_place(const struct model *model, const char *target)
{
    bool inside = false;

    int err = path_is_inside(&inside, target, model->dir);
    if (err == 0 && inside)
        err = error_set(E_INVALID, "%s: lies in the base model's directory", target);
    if (err < 0)
        return err == E_INVALID ? error_hint(err, "give a directory beside the base model") : err;
    err = path_is_inside(&inside, model->dir, target);
    for (size_t i = 0; err == 0 && !inside && i < model->shard_count; i++)
        err = path_is_inside(&inside, model->shards[i].path, target);
    if (err == E_NOTFOUND)
        return 0; /* nothing is at the target, so nothing is in it */
    if (err == 0 && inside)
        return error_set(E_INVALID, "%s: holds the base model", target);
    return err;
}

/* Writing */

/* How a copy is named in an error: either side may be the one that failed. */
static int copy_name(struct buf *out, const char *from, const struct outdir *dir, const char *name)
{
    return buf_printf(out, "%s to %s/%s", from, dir->target, name);
}

/* What of a shard one thread does at a time: tensors that change, or a range that stays. */
struct piece {
    uint64_t begin, end; /* of the range, in the file */
    size_t number;       /* of the first one in rewrites->tensors */
    size_t count;        /* 0: a range that stays */
};

/* A shard on its way. */
struct shard_copy {
    struct stream *stream;
    int from, to;
    uint64_t shared; /* this many bytes are the base's already */
    struct piece *pieces;
    size_t piece_count;
    struct writer *writers; /* one for each thread */
    const char *name;
    const char *path; /* both files, for errors */
};

struct writer {
    struct shard_copy *copy;
    struct stream_scratch scratch;
    uint64_t written, cloned;
};

static int range_copy(struct writer *writer, uint64_t begin, uint64_t end)
{
    const struct shard_copy *copy = writer->copy;
    uint64_t len = end - begin, cloned = 0;

    if (begin < copy->shared) {
        cloned = copy->shared - begin < len ? copy->shared - begin : len;
        begin += cloned;
    }
    int err = file_copy_range(copy->from, begin, copy->to, begin, end - begin, &cloned, copy->path);
    if (err < 0)
        return err;
    writer->cloned += cloned;
    writer->written += len - cloned;
    stream_advance(copy->stream, len);
    return 0;
}

static int block_write(void *context, size_t number, struct bytes block, uint64_t offset)
{
    struct writer *writer = context;
    const struct shard_copy *copy = writer->copy;
    const struct rewrites *all = copy->stream->rewrites;
    const struct model_tensor *base = &all->tensors[number].base;
    uint64_t begin = all->model->shards[base->shard].header.len + base->tensor->begin;

    writer->written += block.len;
    return file_write_at(copy->to, block.data, block.len, begin + offset, copy->name);
}

/* Once a pin does not match, the output is lost: what is left is only hashed, to name the rest. The
   disk begins with a piece while the next ones are made: little is left to wait for at the end. */
static int piece_write(void *context, unsigned member, size_t number)
{
    struct shard_copy *copy = context;
    struct writer *writer = &copy->writers[member];
    const struct piece *piece = &copy->pieces[number];
    bool wanted = !stream_differs(copy->stream);
    int err;

    if ((err = interrupt_check()) < 0)
        return err;
    if (piece->count)
        err = stream_tensors(
            copy->stream, &writer->scratch, piece->number, piece->count, copy->from,
            wanted ? block_write : NULL, writer
        );
    else if (wanted)
        err = range_copy(writer, piece->begin, piece->end);
    if (err == 0)
        fd_sync_begin(copy->to);
    return err;
}

/* The header comes from memory: it is what the plan was made from. */
static int header_write(struct shard_copy *copy, const struct buf *header)
{
    struct writer *writer = &copy->writers[0];

    if (copy->shared >= header->len)
        return range_copy(writer, 0, header->len);
    writer->written += header->len;
    stream_advance(copy->stream, header->len);
    return file_write_at(copy->to, header->data, header->len, 0, copy->name);
}

/* A range that stays. */
static void ranges_add(struct shard_copy *copy, uint64_t begin, uint64_t end)
{
    for (uint64_t at = begin; at < end;) {
        uint64_t len = end - at < COPY_BYTES ? end - at : COPY_BYTES;
        copy->pieces[copy->piece_count++] = (struct piece){at, at + len, 0, 0};
        at += len;
    }
}

/* In the order of the file, which is kindest to the disk; but what stays between the tensors of a
   group comes before it. */
static int pieces_make(struct shard_copy *copy, size_t shard_number)
{
    const struct rewrites *all = copy->stream->rewrites;
    const struct shard *shard = &all->model->shards[shard_number];
    uint64_t done = shard->header.len;
    size_t begin, end;

    rewrites_of_shard(&begin, &end, all, shard_number);
    size_t room = 2 * (end - begin) + 1 + (size_t)(shard->bytes / COPY_BYTES);
    if (!(copy->pieces = array_new(room, sizeof(*copy->pieces))))
        return error_wrap(E_NOMEM, "%s", copy->name);
    while (begin < end) {
        size_t count = stream_group(copy->stream, begin, end);
        for (size_t i = begin; i < begin + count; i++) {
            const struct tensor *tensor = all->tensors[i].base.tensor;
            ranges_add(copy, done, shard->header.len + tensor->begin);
            done = shard->header.len + tensor->end;
        }
        copy->pieces[copy->piece_count++] = (struct piece){0, 0, begin, count};
        begin += count;
    }
    ranges_add(copy, done, shard->bytes);
    return 0;
}

/* One thread for each core, or as many as keep the device busy. Where there are fewer tensors than
   that, some more for each block. */
static int writers_make(struct shard_copy *copy, unsigned *out_count)
{
    unsigned threads = copy->stream->threads, count = threads;
    size_t tensors = 0;

    for (size_t i = 0; i < copy->piece_count; i++)
        tensors += copy->pieces[i].count;
    if (count < copy->stream->device.backend->lanes_min)
        count = copy->stream->device.backend->lanes_min;
    if (copy->piece_count < count)
        count = copy->piece_count ? (unsigned)copy->piece_count : 1;
    if (!(copy->writers = array_new(count, sizeof(*copy->writers))))
        return error_wrap(E_NOMEM, "%s", copy->name);
    for (unsigned i = 0; i < count; i++) {
        copy->writers[i].copy = copy;
        copy->writers[i].scratch.threads = tensors && tensors < threads
                                               ? (unsigned)(threads / tensors)
                                               : 1;
    }
    *out_count = count;
    return 0;
}

static int shard_stream(struct shard_copy *copy, struct apply_result *result, size_t number)
{
    const struct shard *shard = &copy->stream->rewrites->model->shards[number];
    unsigned count = 0;
    int err;

    if ((err = pieces_make(copy, number)) < 0 || (err = writers_make(copy, &count)) < 0)
        return err;
    if ((err = header_write(copy, &shard->header)) == 0)
        err = crew_run(piece_write, copy, copy->piece_count, count);
    for (unsigned i = 0; i < count; i++) {
        result->bytes_written += copy->writers[i].written;
        result->bytes_cloned += copy->writers[i].cloned;
        stream_scratch_release(&copy->writers[i].scratch);
    }
    return err;
}

static int shard_write(
    struct outdir *dir,
    struct apply_result *result,
    struct stream *stream,
    const char *name,
    size_t number
)
{
    const struct model *model = stream->rewrites->model;
    AUTO_FREE(char, full);
    AUTO_BUF(both);
    AUTO_FD(owner);
    AUTO_FD(to);
    int from = -1, err;

    if ((err = path_join(&full, dir->target, name)) < 0 ||
        (err = copy_name(&both, model->shards[number].path, dir, name)) < 0 ||
        (err = model_shard_open(&from, &owner, model, number)) < 0 ||
        (err = outdir_create(&to, dir, name)) < 0)
        return err;
    struct shard_copy copy = {
        .stream = stream,
        .from = from,
        .to = to,
        .name = full,
        .path = (const char *)both.data,
    };
    copy.shared = file_clone(from, to, model->shards[number].bytes);
    err = shard_stream(&copy, result, number);
    free(copy.pieces);
    free(copy.writers);
    return err;
}

static int added_write(
    struct outdir *dir,
    struct apply_result *result,
    struct stream *stream,
    const struct output *output
)
{
    const struct rewrites *all = stream->rewrites;
    AUTO_FD(fd);
    int err;

    if (all->added_count == 0)
        return 0;
    const char *name = output->shards[output->shard_count - 1];
    if ((err = outdir_create(&fd, dir, name)) < 0 ||
        (err = fd_write_all(fd, output->header.data, output->header.len, name)) < 0)
        return err;
    result->bytes_written += output->header.len;
    for (size_t i = 0; err == 0 && i < all->added_count; i++) {
        err = fd_write_all(fd, all->added[i].data.data, all->added[i].data.len, name);
        result->bytes_written += all->added[i].data.len;
    }
    return err;
}

static int
file_take_over(struct outdir *dir, struct apply_result *result, const char *base, const char *path)
{
    AUTO_FREE(char, full);
    AUTO_BUF(both);
    AUTO_FD(from);
    AUTO_FD(to);
    uint64_t bytes = 0, cloned = 0;
    int err;

    if ((err = path_join(&full, base, path)) < 0 || (err = copy_name(&both, full, dir, path)) < 0 ||
        (err = file_open(&from, &bytes, full)) < 0 || (err = outdir_create(&to, dir, path)) < 0)
        return err;
    err = file_copy_range(from, 0, to, 0, bytes, &cloned, (const char *)both.data);
    if (err < 0)
        return err;
    result->bytes_cloned += cloned;
    result->bytes_written += bytes - cloned;
    return 0;
}

static int output_write(
    struct outdir *dir,
    struct apply_result *result,
    struct stream *stream,
    const struct output *output
)
{
    const struct model *model = stream->rewrites->model;
    int err = 0;

    for (size_t i = 0; err == 0 && i < model->shard_count; i++)
        err = shard_write(dir, result, stream, output->shards[i], i);
    if (err < 0 || (err = stream_check_pins(stream)) < 0 ||
        (err = added_write(dir, result, stream, output)) < 0)
        return err;
    if (output->index.len) {
        result->bytes_written += output->index.len;
        err = outdir_write(dir, MODEL_INDEX, buf_bytes(&output->index));
    }
    for (size_t i = 0; err == 0 && i < output->files.count; i++)
        err = file_take_over(dir, result, model->dir, output->files.paths[i]);
    return err;
}

static uint64_t shard_bytes(const struct model *model)
{
    uint64_t bytes = 0;

    for (size_t i = 0; i < model->shard_count; i++)
        bytes += model->shards[i].bytes;
    return bytes;
}

int materialize(
    struct apply_result *out,
    const struct apply_input *inputs,
    size_t input_count,
    const struct model *model,
    const char *target,
    const struct apply_options *options
)
{
    AUTO_APPLY_RESULT(result);
    AUTO_REWRITES(rewrites);
    AUTO_STREAM(stream);
    AUTO_OUTPUT(output);
    AUTO_OUTDIR(dir);
    double begin = seconds_now();
    int err;

    if ((err = check_place(model, target)) < 0 ||
        (err = rewrites_init(&rewrites, inputs, input_count, model)) < 0 ||
        (err = output_plan(&output, &rewrites)) < 0 ||
        (err = stream_init(&stream, &rewrites, options, shard_bytes(model))) < 0 ||
        (err = outdir_begin(&dir, target, options->force)) < 0 ||
        (err = output_write(&dir, &result, &stream, &output)) < 0 ||
        (err = stream_report(&result, &stream)) < 0 || (err = outdir_commit(&dir)) < 0)
        return err;
    rewrites_count(&result, &rewrites);
    result.seconds = seconds_now() - begin;
    *out = result;
    result = (struct apply_result){0};
    return 0;
}

/* Checking */

static int shard_check(struct stream *stream, struct stream_scratch *scratch, size_t number)
{
    AUTO_FD(owner);
    size_t begin, end;
    int fd = -1, err;

    rewrites_of_shard(&begin, &end, stream->rewrites, number);
    if (begin == end)
        return 0;
    err = model_shard_open(&fd, &owner, stream->rewrites->model, number);
    for (size_t i = begin; err == 0 && i < end; i++)
        err = stream_tensors(stream, scratch, i, 1, fd, NULL, NULL);
    return err;
}

static uint64_t rewritten_bytes(const struct rewrites *rewrites)
{
    uint64_t bytes = 0;

    for (size_t i = 0; i < rewrites->count; i++)
        bytes += tensor_bytes(rewrites->tensors[i].base.tensor);
    return bytes;
}

int materialize_check(
    struct apply_result *out,
    const struct apply_input *inputs,
    size_t input_count,
    const struct model *model,
    const struct apply_options *options
)
{
    AUTO_APPLY_RESULT(result);
    AUTO_REWRITES(rewrites);
    AUTO_STREAM(stream);
    AUTO_STREAM_SCRATCH(scratch);
    AUTO_OUTPUT(output);
    double begin = seconds_now();
    int err;

    if ((err = rewrites_init(&rewrites, inputs, input_count, model)) < 0 ||
        (err = output_plan(&output, &rewrites)) < 0 ||
        (err = stream_init(&stream, &rewrites, options, rewritten_bytes(&rewrites))) < 0)
        return err;
    scratch.threads = stream.threads;
    for (size_t i = 0; err == 0 && i < model->shard_count; i++)
        err = shard_check(&stream, &scratch, i);
    if (err < 0 || (err = stream_check_pins(&stream)) < 0 ||
        (err = stream_report(&result, &stream)) < 0)
        return err;
    rewrites_count(&result, &rewrites);
    result.seconds = seconds_now() - begin;
    *out = result;
    result = (struct apply_result){0};
    return 0;
}
