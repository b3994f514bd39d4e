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

#include "apply/materialize_steps.h"
#include "apply/shard_write.h"

double seconds_now(void)
{
    struct timespec now;

    clock_gettime(CLOCK_MONOTONIC, &now);
    return (double)now.tv_sec + (double)now.tv_nsec * 1e-9;
}

/* The output must not be written into the base, nor replace it. */
int place_check(const struct model *model, const char *target)
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

static int shard_make(
    struct outdir *dir,
    struct apply_result *result,
    struct stream *stream,
    const struct work *work,
    size_t begin,
    size_t end
)
{
    const struct model *model = work->rewrites->model;
    size_t number = work->pieces[begin].shard;
    const char *name = work->output->shards[number];
    AUTO_FREE(char, full);
    AUTO_FD(owner);
    AUTO_FD(to);
    int from = -1, err;

    if ((err = path_join(&full, dir->target, name)) < 0 ||
        (err = outdir_create(&to, dir, name)) < 0)
        return err;
    struct shard_file file = {.fd = to, .path = full};
    if (number < model->shard_count) {
        if ((err = model_shard_open(&from, &owner, model, number)) < 0)
            return err;
        file.shared = file_clone(from, to, model->shards[number].bytes);
    }
    return shard_write(result, stream, work, begin, end, &file);
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

    if ((err = path_join(&full, base, path)) < 0 ||
        (err = buf_printf(&both, "%s to %s/%s", full, dir->target, path)) < 0 ||
        (err = file_open(&from, &bytes, full)) < 0 || (err = outdir_create(&to, dir, path)) < 0)
        return err;
    err = file_copy_range(from, 0, to, 0, bytes, &cloned, (const char *)both.data);
    if (err < 0)
        return err;
    result->bytes_cloned += cloned;
    result->bytes_written += bytes - cloned;
    return 0;
}

int output_write_others(struct outdir *dir, struct apply_result *result, const struct work *work)
{
    const struct output *output = work->output;
    int err = 0;

    if (output->index.len) {
        result->bytes_written += output->index.len;
        err = outdir_write(dir, MODEL_INDEX, buf_bytes(&output->index));
    }
    for (size_t i = 0; err == 0 && i < output->files.count; i++)
        err = file_take_over(dir, result, work->rewrites->model->dir, output->files.paths[i]);
    return err;
}

static int output_write(
    struct outdir *dir, struct apply_result *result, struct stream *stream, const struct work *work
)
{
    int err = 0;

    for (size_t begin = 0, end = 0; err == 0 && begin < work->count; begin = end) {
        end = work_shard_end(work, begin, work->count);
        err = shard_make(dir, result, stream, work, begin, end);
    }
    if (err < 0)
        return model_explain(err, work->rewrites->model);
    if ((err = stream_check_pins(stream)) < 0 ||
        (err = model_check_unchanged(work->rewrites->model)) < 0)
        return err;
    return output_write_others(dir, result, work);
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
    AUTO_WORK(work);
    double begin = seconds_now();
    int err;

    if ((err = place_check(model, target)) < 0 ||
        (err = rewrites_init(&rewrites, inputs, input_count, model)) < 0 ||
        (err = output_plan(&output, &rewrites)) < 0 ||
        (err = work_init(&work, &rewrites, &output)) < 0 ||
        (err = stream_init(&stream, &rewrites, options, work_bytes(&work, 0, work.count))) < 0 ||
        (err = outdir_begin(&dir, target, options->force)) < 0 ||
        (err = output_write(&dir, &result, &stream, &work)) < 0 ||
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
    if (err < 0)
        return model_explain(err, model);
    if ((err = stream_check_pins(&stream)) < 0 || (err = model_check_unchanged(model)) < 0 ||
        (err = stream_report(&result, &stream)) < 0)
        return err;
    rewrites_count(&result, &rewrites);
    result.seconds = seconds_now() - begin;
    *out = result;
    result = (struct apply_result){0};
    return 0;
}
