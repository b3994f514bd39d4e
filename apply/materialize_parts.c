/*
 * One merged model made by several processes. See materialize.h; what they tell each other is in
 * parts.h, where they meet in format/partdir.h.
 *
 * A tensor that changes is one process's, so each compares the pins of its own, and a record says
 * that they matched. The one whose record is the last that was missing finishes: any process that
 * sees all records may, so it does not matter which one dies.
 */
#include <stdlib.h>

#include "apply/materialize_steps.h"
#include "apply/parts.h"
#include "apply/shard_write.h"
#include "format/limits.h"
#include "format/partdir.h"

#define TRIES 100 /* each time another process was faster */

/* One process's view. */
struct parting {
    struct apply_options options;
    const struct apply_input *inputs;
    size_t input_count;
    const struct model *model;
    const char *target;
    uint64_t part, parts;
    struct rewrites rewrites;
    struct output output;
    struct work work;
    struct stream stream;
    struct buf plan; /* its own */
    struct parts_made made;
    struct partdir dir;
};

static void parting_release(struct parting *parting)
{
    stream_release(&parting->stream);
    work_release(&parting->work);
    output_release(&parting->output);
    rewrites_release(&parting->rewrites);
    buf_release(&parting->plan);
    parts_made_release(&parting->made);
    partdir_release(&parting->dir);
}

static int drop_hint(int err, const struct parting *parting)
{
    return error_hint(
        err, "where no such run goes on any more, drop what it left: rm -r -- '%s'",
        parting->dir.staging
    );
}

/* Where they meet */

/* A shard at its full size, the base's blocks where they can be shared. */
static int shard_begin(struct parting *parting, struct outdir *tree, size_t number)
{
    const struct model *model = parting->model;
    const char *name = parting->output.shards[number];
    const struct piece *last = &parting->work.pieces[parting->work.count - 1];
    AUTO_FREE(char, path);
    AUTO_FD(owner);
    AUTO_FD(to);
    int from = -1, err;

    if ((err = path_join(&path, tree->target, name)) < 0 ||
        (err = outdir_create(&to, tree, name)) < 0)
        return err;
    if (number == model->shard_count)
        return file_resize(to, last->end, path);
    if ((err = model_shard_open(&from, &owner, model, number)) < 0)
        return err;
    parting->made.shared[number] = file_clone(from, to, model->shards[number].bytes);
    return file_resize(to, model->shards[number].bytes, path);
}

static int tree_fill(void *context, struct buf *plan, struct outdir *tree)
{
    struct parting *parting = context;
    AUTO_APPLY_RESULT(others);
    size_t shards = parting->model->shard_count;
    int err = 0;

    parts_made_release(&parting->made);
    if (!(parting->made.shared = array_new(shards, sizeof(uint64_t))))
        return error_wrap(E_NOMEM, "%s", parting->target);
    for (size_t i = 0; err == 0 && i < parting->output.shard_count; i++)
        err = shard_begin(parting, tree, i);
    if (err < 0 || (err = output_write_others(tree, &others, &parting->work)) < 0)
        return err;
    parting->made.written = others.bytes_written;
    parting->made.cloned = others.bytes_cloned;
    err = buf_append(plan, parting->plan.data, parting->plan.len);
    return err < 0 ? err : parts_made_encode(plan, &parting->made, shards);
}

static int plan_compare(struct parting *parting)
{
    AUTO_BUF(plan);

    int err = partdir_plan(&plan, &parting->dir, LIMIT_TEXT);
    if (err < 0)
        return err;
    parts_made_release(&parting->made);
    err = parts_plan_decode(
        &parting->made, buf_bytes(&plan), buf_bytes(&parting->plan), parting->model->shard_count
    );
    if (err < 0)
        err = drop_hint(error_wrap(err, "%s", parting->dir.staging), parting);
    return err;
}

/* Find the others, or be the first. */
static int others_join(struct parting *parting)
{
    int err = 0;

    for (int i = 0; err == 0 && i < TRIES; i++) {
        partdir_release(&parting->dir);
        if ((err = partdir_open(&parting->dir, parting->target, parting->options.force)) < 0)
            return err;
        if (parting->dir.fd >= 0) {
            err = plan_compare(parting);
            if (err != E_NOTFOUND)
                return err;
            err = 0; /* finished and cleared away in this moment */
        }
        err = partdir_begin(&parting->dir, tree_fill, parting);
    }
    if (err == 0)
        err = error_set(E_CONFLICT, "%s: cannot be made", parting->dir.staging);
    return err;
}

/* Own part */

static int
shard_share(struct parting *parting, struct apply_result *result, size_t begin, size_t end)
{
    size_t number = parting->work.pieces[begin].shard;
    const char *name = parting->output.shards[number];
    AUTO_FREE(char, path);
    AUTO_FD(fd);
    int err;

    if ((err = path_join(&path, parting->dir.place.target, name)) < 0 ||
        (err = partdir_file(&fd, &parting->dir, name)) < 0)
        return err;
    struct shard_file file = {.fd = fd, .path = path};
    if (number < parting->model->shard_count)
        file.shared = parting->made.shared[number];
    err = shard_write(result, &parting->stream, &parting->work, begin, end, &file);
    return err < 0 ? err : fd_sync(fd, path);
}

static int share_write(struct parting *parting, struct apply_result *result)
{
    size_t begin, end, done;
    int err = 0;

    work_share(&done, &end, &parting->work, parting->part, parting->parts);
    work_count(result, &parting->work, done, end);
    for (begin = done; err == 0 && begin < end; begin = done) {
        done = work_shard_end(&parting->work, begin, end);
        err = shard_share(parting, result, begin, done);
    }
    if (err < 0)
        return model_explain(err, parting->model);
    if ((err = stream_check_pins(&parting->stream)) < 0)
        return err;
    return model_check_unchanged(parting->model);
}

static int part_make(struct parting *parting, struct apply_result *result, double begin)
{
    AUTO_BUF(record);

    int err = share_write(parting, result);
    if (err < 0)
        return err;
    result->seconds = seconds_now() - begin;
    err = parts_record_encode(&record, result, &parting->stream);
    return err < 0 ? err : partdir_mark(&parting->dir, parting->part, buf_bytes(&record));
}

/* What the part's record says, where it has one. One that is damaged is none. */
static int
record_add(bool *there, struct parting *parting, struct apply_result *result, uint64_t part)
{
    AUTO_BUF(record);

    int err = partdir_record(&record, &parting->dir, part, LIMIT_TEXT);
    if (err == 0)
        err = parts_record_decode(result, &parting->stream, buf_bytes(&record));
    *there = err == 0;
    return err == E_NOTFOUND || err == E_CORRUPT ? 0 : err;
}

/* All of them */

static int count_missing(uint64_t *out, bool **there, const struct parting *parting)
{
    if (!(*there = array_new((size_t)parting->parts, sizeof(bool))))
        return error_wrap(E_NOMEM, "%s", parting->target);
    int err = partdir_marked(*there, &parting->dir, parting->parts);
    *out = 0;
    for (uint64_t i = 0; i < parting->parts; i++)
        *out += !(*there)[i];
    return err;
}

/* "2, 5 to 7": the parts whose `there` is false. */
static int missing_list(struct buf *out, const bool *there, uint64_t parts)
{
    int err = 0;

    for (uint64_t i = 0, end; err == 0 && i < parts; i = end) {
        for (end = i + 1; end < parts && there[end] == there[i]; end++)
            continue;
        if (there[i])
            continue;
        err = buf_printf(out, "%s%ju", out->len ? ", " : "", (uintmax_t)i + 1);
        if (err == 0 && end > i + 1)
            err = buf_printf(out, "%s%ju", end > i + 2 ? " to " : ", ", (uintmax_t)end);
    }
    return err < 0 ? err : buf_append_byte(out, '\0');
}

/* Another process was faster: the bytes that are told are this one's. */
static int see_finished(struct parting *parting, struct apply_result *result)
{
    result->parts = result->parts_there = parting->parts ? parting->parts : 1;
    result->was_done = true;
    return stream_report(result, &parting->stream);
}

/* The other one may have died before it had cleared the parts away. */
static int help_clear(struct parting *parting, struct apply_result *result)
{
    int err = partdir_finish(&parting->dir, parting->options.force);

    return err < 0 ? err : see_finished(parting, result);
}

static int record_damaged(const struct parting *parting, uint64_t part)
{
    int err = error_set(
        E_CORRUPT, "%s: the record of part %ju is damaged", parting->dir.staging, (uintmax_t)part
    );
    return error_hint(err, "run this part again");
}

/* All records are there: put them together, and the tree in its place. */
static int all_finish(struct parting *parting, struct apply_result *out)
{
    AUTO_APPLY_RESULT(result);
    int err = 0;

    for (uint64_t part = 1; err == 0 && part <= parting->parts; part++) {
        bool there = false;
        err = record_add(&there, parting, &result, part);
        if (err == 0 && !there && partdir_is_finished(&parting->dir))
            return help_clear(parting, out);
        if (err == 0 && !there)
            err = record_damaged(parting, part);
    }
    enum math_mode math = result.math; /* of any part, not only of this process */
    if (err < 0 || (err = stream_report(&result, &parting->stream)) < 0 ||
        (err = partdir_finish(&parting->dir, parting->options.force)) < 0)
        return err;
    result.math = math;
    result.bytes_written += parting->made.written;
    result.bytes_cloned += parting->made.cloned;
    result.parts = result.parts_there = parting->parts;
    apply_result_release(out);
    *out = result;
    result = (struct apply_result){0};
    return 0;
}

static int finish_if_all(struct parting *parting, struct apply_result *result)
{
    AUTO_FREE(bool, there);
    uint64_t missing = 0;

    if (partdir_is_finished(&parting->dir))
        return help_clear(parting, result);
    int err = count_missing(&missing, &there, parting);
    if (err < 0)
        return err;
    if (missing == 0)
        return all_finish(parting, result);
    result->parts = parting->parts;
    result->parts_there = parting->parts - missing;
    return stream_report(result, &parting->stream);
}

/* Running a part */

/* A retry may come when all is done: what is there may be what it would make. The error that says
   that something is there is kept where it is not. */
static int already_there(struct parting *parting, struct apply_result *result)
{
    AUTO_FREE(char, difference);
    AUTO_OUTDIR(place);

    int err = materialize_verify(
        &difference, parting->inputs, parting->input_count, parting->model, parting->target,
        &parting->options
    );
    if (err == E_INTERRUPTED || err == E_NOMEM)
        return err;
    if (err < 0 || difference) {
        err = outdir_place(&place, parting->target, parting->options.force);
        return err < 0 ? err : error_set(E_CONFLICT, "%s: was removed", parting->target);
    }
    /* Parts that one began who did not see that all was done. */
    if (parting->dir.fd >= 0 && plan_compare(parting) == 0 &&
        (err = partdir_clear(&parting->dir)) < 0)
        return err;
    return see_finished(parting, result);
}

/* `part` 0: none. */
static int parting_begin(struct parting *parting, uint64_t part)
{
    size_t begin = 0, end = 0;
    int err;

    if ((err = rewrites_init(
             &parting->rewrites, parting->inputs, parting->input_count, parting->model
         )) < 0 ||
        (err = output_plan(&parting->output, &parting->rewrites)) < 0 ||
        (err = work_init(&parting->work, &parting->rewrites, &parting->output)) < 0 ||
        (err = parts_plan_encode(&parting->plan, &parting->work, &parting->options, parting->parts)
        ) < 0)
        return err;
    if (part)
        work_share(&begin, &end, &parting->work, part, parting->parts);
    return stream_init(
        &parting->stream, &parting->rewrites, &parting->options,
        work_bytes(&parting->work, begin, end)
    );
}

static int part_run(struct parting *parting, struct apply_result *result)
{
    double begin = seconds_now();
    bool there = false;
    int err;

    if ((err = place_check(parting->model, parting->target)) < 0 ||
        (err = parting_begin(parting, parting->part)) < 0)
        return err;
    err = others_join(parting);
    if (err == E_EXISTS && !parting->options.force)
        return already_there(parting, result);
    if (err < 0 || (err = record_add(&there, parting, result, parting->part)) < 0)
        return err;
    if (!there && (err = part_make(parting, result, begin)) == E_NOTFOUND &&
        !partdir_is_finished(&parting->dir))
        return error_set(E_CONFLICT, "%s: was removed meanwhile", parting->dir.staging);
    result->was_done = there;
    return err < 0 && err != E_NOTFOUND ? err : finish_if_all(parting, result);
}

/* Finishing by hand */

static int refuse_missing(const struct parting *parting, const bool *there, uint64_t missing)
{
    AUTO_BUF(list);

    int err = missing_list(&list, there, parting->parts);
    if (err < 0)
        return err;
    err = error_set(
        E_NOTFOUND, "%s: %ju of %ju parts missing: %s", parting->target, (uintmax_t)missing,
        (uintmax_t)parting->parts, (const char *)list.data
    );
    return error_hint(
        err, "run them with --part; or drop the others: rm -r -- '%s'", parting->dir.staging
    );
}

static int refuse_unbegun(const struct parting *parting)
{
    int err = error_set(E_NOTFOUND, "%s: no part of it is there", parting->target);

    return error_hint(err, "run every part first: --part 1/N to --part N/N");
}

/* How many parts there are, and whether they have a report, the plan says. */
static int plan_follow(struct parting *parting)
{
    AUTO_BUF(plan);

    int err = partdir_plan(&plan, &parting->dir, LIMIT_TEXT);
    if (err < 0)
        return err;
    err = parts_plan_peek(&parting->parts, &parting->options.report, buf_bytes(&plan));
    if (err == 0 && (parting->parts < 1 || parting->parts > PARTS_MAX))
        err = error_set(E_CORRUPT, "not a number of parts: %ju", (uintmax_t)parting->parts);
    return err < 0 ? drop_hint(error_wrap(err, "%s", parting->dir.staging), parting) : 0;
}

static int finish_run(struct parting *parting, struct apply_result *result)
{
    AUTO_FREE(bool, there);
    uint64_t missing = 0;

    int err = place_check(parting->model, parting->target);
    if (err < 0)
        return err;
    err = partdir_open(&parting->dir, parting->target, parting->options.force);
    bool exists = err == E_EXISTS && !parting->options.force;
    if (err == 0 && parting->dir.fd < 0)
        err = refuse_unbegun(parting);
    if ((err < 0 && !exists) || (parting->dir.fd >= 0 && (err = plan_follow(parting)) < 0) ||
        (err = parting_begin(parting, 0)) < 0)
        return err;
    if (exists)
        return already_there(parting, result);
    if ((err = plan_compare(parting)) < 0 || (err = count_missing(&missing, &there, parting)) < 0)
        return err;
    if (missing && !partdir_is_finished(&parting->dir))
        return refuse_missing(parting, there, missing);
    return all_finish(parting, result);
}

static int parting_run(
    struct apply_result *out,
    struct parting *parting,
    int (*run)(struct parting *parting, struct apply_result *result)
)
{
    AUTO_APPLY_RESULT(result);
    struct apply_result whole = {0};

    int err = run(parting, &result);
    if (err < 0)
        return err;
    rewrites_count(&whole, &parting->rewrites);
    if (result.parts_there == result.parts) {
        result.matched = whole.matched;
        result.tensors_rewritten = whole.tensors_rewritten;
        result.tensors_added = whole.tensors_added;
    }
    result.modules = whole.modules;
    result.pinned = whole.pinned;
    *out = result;
    result = (struct apply_result){0};
    return 0;
}

int materialize_part(
    struct apply_result *out,
    const struct apply_input *inputs,
    size_t input_count,
    const struct model *model,
    const char *target,
    const struct apply_options *options,
    uint64_t part,
    uint64_t parts
)
{
    __attribute__((cleanup(parting_release))) struct parting parting = {
        *options,
        inputs,
        input_count,
        model,
        target,
        part,
        parts,
        .stream = STREAM_EMPTY,
        .dir = PARTDIR_EMPTY};

    if (part < 1 || part > parts || parts > PARTS_MAX)
        return error_set(E_INVALID, "no part %ju of %ju", (uintmax_t)part, (uintmax_t)parts);
    return parting_run(out, &parting, part_run);
}

int materialize_finish(
    struct apply_result *out,
    const struct apply_input *inputs,
    size_t input_count,
    const struct model *model,
    const char *target,
    const struct apply_options *options
)
{
    __attribute__((cleanup(parting_release))) struct parting parting = {
        *options, inputs, input_count, model, target, .stream = STREAM_EMPTY, .dir = PARTDIR_EMPTY};

    return parting_run(out, &parting, finish_run);
}
