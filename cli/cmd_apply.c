/* vera apply: write the base model with one or several adapters merged into it. */
#include <inttypes.h>
#include <stddef.h>
#include <string.h>

#include "cli/apply_report.h"
#include "cli/describe.h"
#include "cli/inputs.h"
#include "format/file.h"
#include "format/partdir.h"
#include "format/text.h"

struct apply_arguments {
    const char *base, *out, *device, *math, *part;
    struct cli_count threads;
    bool dry_run, report, force, finish;
};

static void double_json(struct json_writer *writer, const char *key, double value)
{
    json_write_key(writer, key);
    json_write_double(writer, value);
}

/* Fields that only parts have. */
static void part_json(
    struct json_writer *writer,
    const struct apply_result *result,
    const struct apply_arguments *arguments
)
{
    json_write_key(writer, "part");
    json_write_text(writer, arguments->part);
    json_write_key(writer, "complete");
    json_write_bool(writer, result->parts == result->parts_there);
}

static int result_json(const struct apply_result *result, const struct apply_arguments *arguments)
{
    struct json_writer writer;
    AUTO_BUF(json);

    cli_json_begin(&writer, &json);
    describe_uint_json(&writer, "matched", result->matched);
    describe_uint_json(&writer, "modules", result->modules);
    describe_uint_json(&writer, "tensors_rewritten", result->tensors_rewritten);
    describe_uint_json(&writer, "tensors_added", result->tensors_added);
    describe_uint_json(&writer, "bytes_written", result->bytes_written);
    describe_uint_json(&writer, "bytes_cloned", result->bytes_cloned);
    json_write_key(&writer, "device");
    json_write_text(&writer, result->device);
    json_write_key(&writer, "math");
    json_write_text(&writer, result->math == MATH_FAST ? "fast" : "exact");
    json_write_key(&writer, "pinned");
    json_write_bool(&writer, result->pinned);
    double_json(&writer, "seconds", result->seconds);
    json_write_key(&writer, "report");
    apply_report_json(&writer, result);
    if (result->parts)
        part_json(&writer, result, arguments);
    return cli_json_end(&writer);
}

/* "applied 3f2a9c1 to models/llama: 14 of 14 modules, 2 tensors added"; a part says how many of the
   modules are its own. */
static int applied_say(
    struct cli *cli,
    const struct inputs *inputs,
    const struct apply_result *result,
    const struct apply_arguments *arguments
)
{
    AUTO_BUF(line);
    int err = buf_printf(
        &line, "%s ",
        arguments->dry_run ? "could apply"
        : result->was_done ? "was done:"
                           : "applied"
    );

    if (err || (err = inputs_describe(&line, inputs)))
        return err;
    err = buf_printf(
        &line, " to %s: %" PRIu64 " of %" PRIu64 " modules", arguments->base, result->matched,
        result->modules
    );
    if (!err && result->tensors_rewritten != result->matched)
        err = buf_printf(&line, ", %" PRIu64 " tensors rewritten", result->tensors_rewritten);
    if (!err && result->tensors_added)
        err = buf_printf(&line, ", %" PRIu64 " added", result->tensors_added);
    const char *text = err ? NULL : buf_text(&line);
    if (!text)
        return err ? err : E_NOMEM;
    cli_say(cli, "%s", text);
    return 0;
}

/* What the person may not expect: that fast mode is not exact, or that it was not taken. */
static void math_note(const struct apply_result *result, const struct apply_arguments *arguments)
{
    if (result->math == MATH_FAST)
        cli_note(
            "math: fast: %s", result->fast_bound
                                  ? result->fast_bound
                                  : "of some parts, which said how far they may be off"
        );
    else if (arguments->math && strcmp(arguments->math, "fast") == 0)
        cli_note("math: exact: only a GPU computes in fast mode, and this was the processor");
}

static void part_say(
    struct cli *cli, const struct apply_result *result, const struct apply_arguments *arguments
)
{
    cli_say(
        cli, "part %s: %s in %.2f s; %ju of %ju parts of %s are there", arguments->part,
        cli_size(result->bytes_written + result->bytes_cloned), result->seconds,
        (uintmax_t)result->parts_there, (uintmax_t)result->parts, arguments->out
    );
}

static void written_say(
    struct cli *cli, const struct apply_result *result, const struct apply_arguments *arguments
)
{
    if (result->parts && result->was_done) {
        cli_say(cli, "%s is complete", arguments->out);
        return;
    }
    cli_say(
        cli, "wrote %s: %s in %.2f s%s%s%s%s%s%s", arguments->out,
        cli_size(result->bytes_written + result->bytes_cloned), result->seconds,
        result->parts > 1 ? " of all parts" : "", result->device_name[0] ? " with " : "",
        result->device_name, result->bytes_cloned ? ", " : "",
        result->bytes_cloned ? cli_size(result->bytes_cloned) : "",
        result->bytes_cloned ? " of it shared with the base" : ""
    );
}

static int result_say(
    struct cli *cli,
    const struct inputs *inputs,
    const struct apply_result *result,
    const struct apply_arguments *arguments
)
{
    int err;

    if ((err = apply_report_say(cli, result)) ||
        (err = applied_say(cli, inputs, result, arguments)))
        return err;
    if (result->parts_there < result->parts)
        part_say(cli, result, arguments);
    else if (!arguments->dry_run)
        written_say(cli, result, arguments);
    if (arguments->report && !result->report)
        cli_note("vera: warning: no report: the parts were made without --report");
    math_note(result, arguments);
    if (!result->pinned)
        inputs_warn_unpinned(arguments->base);
    return 0;
}

/* "I/N", I from 1 to N. */
static int part_parse(uint64_t *part, uint64_t *parts, const char *text)
{
    const char *slash = strchr(text, '/');
    struct bytes first = {(const uint8_t *)text, slash ? (size_t)(slash - text) : 0};

    if (!slash || !text_parse_uint64(part, first) ||
        !text_parse_uint64(parts, text_bytes(slash + 1)) || *part < 1 || *part > *parts ||
        *parts > PARTS_MAX)
        return cli_usage_error("--part takes I/N, I from 1 to N, N at most %d", PARTS_MAX);
    return 0;
}

static int arguments_check(struct apply_options *out, const struct apply_arguments *arguments)
{
    if (!arguments->base)
        return cli_usage_error("--base MODEL is missing: the directory of the base model");
    if (!arguments->out && !arguments->dry_run)
        return cli_usage_error("--out DIR is missing: where to write the merged model");
    if (arguments->part && arguments->finish)
        return cli_usage_error("--part writes a part, --finish what is left to do: one of them");
    if (arguments->dry_run && (arguments->part || arguments->finish))
        return cli_usage_error("--dry-run checks the whole: without --part and --finish");
    out->device = inputs_device(arguments->device, DEVICE_AUTO);
    out->math = arguments->math && strcmp(arguments->math, "fast") == 0 ? MATH_FAST : MATH_EXACT;
    uint64_t part, parts;
    int err = arguments->part ? part_parse(&part, &parts, arguments->part) : 0;
    return err ? err : inputs_threads(&out->threads, &arguments->threads);
}

/* What runs that were killed left beside the output, or runs that still go on have there. */
static int leftovers_warn(const struct apply_arguments *arguments)
{
    AUTO_BUF(paths);

    int err = outdir_leftovers(&paths, arguments->out);
    for (size_t at = 0; !err && at < paths.len; at += strlen((const char *)paths.data + at) + 1) {
        const char *path = (const char *)paths.data + at;
        cli_note("vera: warning: %s: left by another run, unless it still goes on", path);
        cli_note("hint: rm -r -- '%s'", path);
    }
    return err;
}

static int apply_inputs(
    struct apply_result *out,
    const struct inputs *in,
    const struct apply_options *options,
    const struct apply_arguments *arguments
)
{
    uint64_t part = 0, parts = 0;

    if (arguments->dry_run)
        return materialize_check(out, in->inputs, in->count, &in->model, options);
    if (arguments->finish)
        return materialize_finish(out, in->inputs, in->count, &in->model, arguments->out, options);
    if (!arguments->part)
        return materialize(out, in->inputs, in->count, &in->model, arguments->out, options);
    int err = part_parse(&part, &parts, arguments->part);
    return err ? err
               : materialize_part(
                     out, in->inputs, in->count, &in->model, arguments->out, options, part, parts
                 );
}

static int apply_run(struct cli *cli, const void *arguments_of)
{
    const struct apply_arguments *arguments = arguments_of;
    struct apply_options options = {
        .force = arguments->force, .report = arguments->report, .progress = cli->progress};
    AUTO_INPUTS(in);
    AUTO_APPLY_RESULT(result);
    int err = arguments_check(&options, arguments);

    if (err || (err = inputs_load(&in, cli, cli->operands, cli->operand_count, arguments->base)) ||
        (err = apply_inputs(&result, &in, &options, arguments)) ||
        (err = result_say(cli, &in, &result, arguments)) ||
        (result.parts == result.parts_there && !result.was_done && !arguments->dry_run &&
         (err = leftovers_warn(arguments))))
        return err;
    return cli->json ? result_json(&result, arguments) : 0;
}

static const struct operand operands[] = {
    {"REV[:W]", false, true, COMPLETE_REVISION, "A version or PEFT directory; W: its weight (1)"},
    {0},
};

#define FIELD(name) offsetof(struct apply_arguments, name)
static const struct option options[] = {
    {"base", 0, OPTION_TEXT, FIELD(base), "MODEL", COMPLETE_DIRECTORY,
     "The base model's directory"},
    {"out", 'o', OPTION_TEXT, FIELD(out), "DIR", COMPLETE_DIRECTORY,
     "Where to write: new or empty"},
    {"force", 'f', OPTION_FLAG, FIELD(force), NULL, COMPLETE_NOTHING,
     "Replace DIR where it is there"},
    {"dry-run", 0, OPTION_FLAG, FIELD(dry_run), NULL, COMPLETE_NOTHING, "Check all, write nothing"},
    {"report", 0, OPTION_FLAG, FIELD(report), NULL, COMPLETE_NOTHING,
     "What rounding kept, per module"},
    {"part", 0, OPTION_TEXT, FIELD(part), "I/N", COMPLETE_NOTHING,
     "Write part I of N, I from 1 to N; the last one completes DIR"},
    {"finish", 0, OPTION_FLAG, FIELD(finish), NULL, COMPLETE_NOTHING,
     "Complete DIR of its parts, where the last one could not"},
    {"threads", 0, OPTION_COUNT, FIELD(threads), "N", COMPLETE_NOTHING,
     "Default: one for each core"},
    {"device", 0, OPTION_TEXT, FIELD(device), "auto|cpu|cuda", COMPLETE_WORDS,
     "Where to compute (auto: a GPU if there is one)"},
    {"math", 0, OPTION_TEXT, FIELD(math), "exact|fast", COMPLETE_WORDS,
     "Exact (the same bits everywhere) or, on a GPU, fast"},
    {0},
};

const struct command command_apply = {
    .name = "apply",
    .run = apply_run,
    .needs = MAY_USE_STORE,
    .summary = "Write a base model with adapters merged into it",
    .details =
        "W' = W + diag(b) B diag(d) A for every module of the adapter, in a fixed order of fused "
        "multiply-adds: the same bits on every machine and with any number of threads. All other "
        "tensors stay as they are. DIR appears whole or not at all, and loads in Transformers.\n\n"
        "Where the version was committed with --base, the model's weights are compared with those "
        "that were recorded; otherwise names, shapes and dtypes must fit (unpinned). An adapter "
        "that "
        "fits only in part is refused.\n\n"
        "Several adapters are merged together, each with its weight W, and rounded once.\n\n"
        "With --part, processes on any machines that share a file system write a part each, in any "
        "order and at any time, as tasks of a batch system do: all with the same REV, MODEL, DIR "
        "and N. DIR is not there until all parts are. What they have so far is in the directory "
        "beside it that is called '.DIR.vera-parts': a part that was killed is run again, one that "
        "is there already says so, and to give up, remove that directory. The bits are those of "
        "one run.\n\n"
        "A GPU gives the same bits in exact mode. With --math fast its tensor cores multiply, in "
        "any order, and how far that is off is told; the processor always computes exactly. A "
        "GPU is taken by default where vera's module for CUDA, a driver and a device are there, "
        "however small the model is.",
    .examples = "vera apply main --base models/llama --out merged\n"
                "vera apply math:0.7 code:0.3 --base models/llama --out both\n"
                "vera apply main --base models/llama --out merged --part 1/4\n"
                "vera apply ./checkpoint-100 --base models/llama --dry-run",
    .operands = operands,
    .options = options,
    .arguments_size = sizeof(struct apply_arguments),
};
