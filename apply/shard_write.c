/* Write pieces of a shard. See shard_write.h. */
#include "apply/shard_write.h"

#include <stdlib.h>

#include "format/crew.h"

/* So many threads have blocks of their own, whatever the number of cores: memory stays bounded. The
   others help them with their blocks. With a report the blocks are four times as large. */
#define WRITERS_MAX           32
#define WRITERS_MAX_REPORTING 8

/* What one thread does at a time: a piece, or tensors that the device takes together. */
struct job {
    const struct piece *piece;
    size_t count; /* tensors, from the piece's on; 0: a piece that is none of the base's tensors */
};

/* A shard on its way. */
struct shard_copy {
    struct stream *stream;
    const struct work *work;
    struct job *jobs;
    size_t job_count;
    int from; /* -1 for the added tensors */
    const struct shard_file *to;
    struct writer *writers; /* one for each thread */
    size_t writer_count;
    const char *both; /* names of both files, for errors: either may be the one that failed */
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

    if (begin < copy->to->shared) {
        cloned = copy->to->shared - begin < len ? copy->to->shared - begin : len;
        begin += cloned;
    }
    int err = file_copy_range(
        copy->from, begin, copy->to->fd, begin, end - begin, &cloned, copy->both
    );
    if (err < 0)
        return err;
    writer->cloned += cloned;
    writer->written += len - cloned;
    stream_advance(copy->stream, len);
    return 0;
}

static int bytes_put(struct writer *writer, struct bytes data, uint64_t offset)
{
    const struct shard_file *to = writer->copy->to;

    writer->written += data.len;
    return file_write_at(to->fd, data.data, data.len, offset, to->path);
}

static int block_write(void *context, size_t number, struct bytes block, uint64_t offset)
{
    struct writer *writer = context;
    const struct rewrites *all = writer->copy->work->rewrites;
    const struct model_tensor *base = &all->tensors[number].base;
    uint64_t begin = all->model->shards[base->shard].header.len + base->tensor->begin;

    return bytes_put(writer, block, begin + offset);
}

/* What is in memory: a header (it is what the plan was made from), an added tensor. */
static int known_write(struct writer *writer, const struct piece *piece)
{
    const struct work *work = writer->copy->work;
    const struct model *model = work->rewrites->model;
    bool is_header = piece->number == PIECE_HEADER;
    struct bytes data;

    if (piece->shard < model->shard_count)
        data = buf_bytes(&model->shards[piece->shard].header);
    else if (is_header)
        data = buf_bytes(&work->output->header);
    else
        data = work->rewrites->added[piece->number].data;
    stream_advance(writer->copy->stream, data.len);
    return bytes_put(writer, data, piece->begin);
}

static int job_write(struct writer *writer, const struct job *job)
{
    const struct shard_copy *copy = writer->copy;
    const struct piece *piece = job->piece;
    bool wanted = !stream_differs(copy->stream);

    if (job->count)
        return stream_tensors(
            copy->stream, &writer->scratch, piece->number, job->count, copy->from,
            wanted ? block_write : NULL, writer
        );
    if (!wanted)
        return 0;
    bool is_shared = copy->from >= 0 && piece->end <= copy->to->shared;
    if (piece->number == PIECE_STAYS || (piece->number == PIECE_HEADER && is_shared))
        return range_copy(writer, piece->begin, piece->end);
    return known_write(writer, piece);
}

/* What job `number` will read, where it is there: then the disk reads while the cores compute. */
static void job_expect(const struct shard_copy *copy, size_t number)
{
    if (copy->from < 0 || number >= copy->job_count)
        return;
    const struct piece *piece = copy->jobs[number].piece;
    if (copy->jobs[number].count || piece->end > copy->to->shared)
        file_read_ahead(copy->from, piece->begin, piece->end - piece->begin);
}

/* Once a pin does not match, the output is lost: what is left is only hashed, to name the rest. The
   disk begins with a piece while the next ones are made: little is left to wait for at the end. */
static int job_run(void *context, unsigned member, size_t number)
{
    struct shard_copy *copy = context;
    int err;

    job_expect(copy, number + copy->writer_count);
    if ((err = interrupt_check()) < 0 ||
        (err = job_write(&copy->writers[member], &copy->jobs[number])) < 0)
        return err;
    fd_sync_begin(copy->to->fd);
    return 0;
}

/* In the order of the file; but what stays between the tensors of a group comes after it. */
static int jobs_make(struct shard_copy *copy, const struct piece *pieces, size_t count)
{
    size_t grouped = 0, tensors_end = 0; /* rewrites before these are done, or somebody else's */

    if (!(copy->jobs = array_new(count, sizeof(*copy->jobs))))
        return error_wrap(E_NOMEM, "%s", copy->to->path);
    for (size_t i = 0; i < count; i++)
        tensors_end = pieces[i].number < PIECE_HEADER ? pieces[i].number + 1 : tensors_end;
    for (size_t i = 0; i < count; i++) {
        const struct piece *piece = &pieces[i];
        struct job job = {.piece = piece};
        if (copy->from >= 0 && piece->number < PIECE_HEADER) {
            if (piece->number < grouped)
                continue;
            job.count = stream_group(copy->stream, piece->number, tensors_end);
            grouped = piece->number + job.count;
        }
        copy->jobs[copy->job_count++] = job;
    }
    return 0;
}

/* One thread for each core, or as many as keep the device busy. Where there are fewer tensors than
   that, some more for each block. */
static int writers_make(struct shard_copy *copy, unsigned *out_count)
{
    const struct stream *stream = copy->stream;
    unsigned threads = stream->threads, least = stream->device.backend->lanes_min;
    unsigned most = stream->report ? WRITERS_MAX_REPORTING : WRITERS_MAX;
    unsigned count = threads < most ? threads : most;
    size_t tensors = 0;

    for (size_t i = 0; i < copy->job_count; i++)
        tensors += copy->jobs[i].count;
    if (tensors > count)
        tensors = count;
    if (count < least)
        count = least;
    if (copy->job_count < count)
        count = (unsigned)copy->job_count;
    if (!(copy->writers = array_new(count, sizeof(*copy->writers))))
        return error_wrap(E_NOMEM, "%s", copy->to->path);
    for (unsigned i = 0; i < count; i++) {
        copy->writers[i].copy = copy;
        copy->writers[i].scratch.threads = tensors && tensors < threads
                                               ? (unsigned)(threads / tensors)
                                               : 1;
    }
    *out_count = count;
    return 0;
}

static int jobs_run(struct shard_copy *copy, struct apply_result *result)
{
    unsigned count = 0;

    int err = writers_make(copy, &count);
    if (err < 0)
        return err;
    copy->writer_count = count;
    for (size_t i = 0; i < count; i++)
        job_expect(copy, i);
    err = crew_run(job_run, copy, copy->job_count, count);
    for (unsigned i = 0; i < count; i++) {
        result->bytes_written += copy->writers[i].written;
        result->bytes_cloned += copy->writers[i].cloned;
        stream_scratch_release(&copy->writers[i].scratch);
    }
    free(copy->writers);
    return err;
}

int shard_write(
    struct apply_result *result,
    struct stream *stream,
    const struct work *work,
    size_t begin,
    size_t end,
    const struct shard_file *file
)
{
    const struct model *model = work->rewrites->model;
    struct shard_copy copy = {.stream = stream, .work = work, .from = -1, .to = file};
    AUTO_BUF(both);
    AUTO_FD(owner);
    int err;

    if (begin == end)
        return 0;
    size_t number = work->pieces[begin].shard;
    if (number < model->shard_count) {
        if ((err = buf_printf(&both, "%s to %s", model->shards[number].path, file->path)) < 0 ||
            (err = model_shard_open(&copy.from, &owner, model, number)) < 0)
            return err;
        copy.both = (const char *)both.data;
    }
    if ((err = jobs_make(&copy, work->pieces + begin, end - begin)) == 0)
        err = jobs_run(&copy, result);
    free(copy.jobs);
    return err;
}
