/* vera apply: write the base model with one or several adapters merged into it. */
#include <inttypes.h>
#include <math.h>
#include <stddef.h>
#include <string.h>

#include "cli/describe.h"
#include "cli/inputs.h"

struct apply_arguments {
    const char *base, *out, *device, *math;
    struct cli_count threads;
    bool dry_run, report, force;
};

static void double_json(struct json_writer *writer, const char *key, double value)
{
    json_write_key(writer, key);
    json_write_double(writer, value);
}

static void report_json(struct json_writer *writer, const struct apply_result *result)
{
    json_write_array_begin(writer);
    for (size_t i = 0; i < result->report_count; i++) {
        const struct apply_report *report = &result->report[i];
        json_write_object_begin(writer);
        json_write_key(writer, "module");
        json_write_text(writer, report->module);
        double_json(writer, "unchanged", report->unchanged);
        double_json(writer, "kept", report->kept);
        double_json(writer, "max_change", report->max_change);
        describe_uint_json(writer, "nonfinite", report->nonfinite);
        json_write_object_end(writer);
    }
    json_write_array_end(writer);
}

static int result_json(const struct apply_result *result, bool report)
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
    if (report)
        report_json(&writer, result);
    else
        json_write_null(&writer);
    return cli_json_end(&writer);
}

/* A line for each module: what the rounding to the model's dtype kept of its change. */
static void report_say(struct cli *cli, const struct apply_result *result)
{
    cli_say(cli, "%9s  %9s  %10s  module", "unchanged", "kept", "max change");
    for (size_t i = 0; i < result->report_count; i++) {
        const struct apply_report *report = &result->report[i];
        char kept[32] = "-"; /* nothing to keep */
        if (!isnan(report->kept))
            snprintf(kept, sizeof(kept), "%.4f%%", 100 * report->kept);
        cli_say(
            cli, "%8.3f%%  %9s  %10.3g  %s", 100 * report->unchanged, kept, report->max_change,
            report->module
        );
        if (report->nonfinite)
            cli_note(
                "vera: warning: %s: %" PRIu64 " weights are not finite", report->module,
                report->nonfinite
            );
    }
}

/* "applied 3f2a9c1 to models/llama: 14 of 14 modules, 2 tensors added". */
static int applied_say(
    struct cli *cli,
    const struct inputs *inputs,
    const struct apply_result *result,
    const struct apply_arguments *arguments
)
{
    AUTO_BUF(line);
    int err = buf_printf(&line, arguments->dry_run ? "could apply " : "applied ");

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
        cli_note("math: fast: %s", result->fast_bound);
    else if (arguments->math && strcmp(arguments->math, "fast") == 0)
        cli_note("math: exact: only a GPU computes in fast mode, and this was the processor");
}

static int result_say(
    struct cli *cli,
    const struct inputs *inputs,
    const struct apply_result *result,
    const struct apply_arguments *arguments
)
{
    int err;

    if (arguments->report)
        report_say(cli, result);
    if ((err = applied_say(cli, inputs, result, arguments)))
        return err;
    if (!arguments->dry_run)
        cli_say(
            cli, "wrote %s: %s in %.2f s%s%s%s%s%s", arguments->out,
            cli_size(result->bytes_written + result->bytes_cloned), result->seconds,
            result->device_name[0] ? " with " : "", result->device_name,
            result->bytes_cloned ? ", " : "",
            result->bytes_cloned ? cli_size(result->bytes_cloned) : "",
            result->bytes_cloned ? " of it shared with the base" : ""
        );
    math_note(result, arguments);
    if (!result->pinned)
        inputs_warn_unpinned(arguments->base);
    return 0;
}

static int arguments_check(struct apply_options *out, const struct apply_arguments *arguments)
{
    if (!arguments->base)
        return cli_usage_error("--base MODEL is missing: the directory of the base model");
    if (!arguments->out && !arguments->dry_run)
        return cli_usage_error("--out DIR is missing: where to write the merged model");
    out->device = inputs_device(arguments->device, DEVICE_AUTO);
    out->math = arguments->math && strcmp(arguments->math, "fast") == 0 ? MATH_FAST : MATH_EXACT;
    return inputs_threads(&out->threads, &arguments->threads);
}

static int apply_run(struct cli *cli, const void *arguments_of)
{
    const struct apply_arguments *arguments = arguments_of;
    struct apply_options options = {
        .force = arguments->force, .report = arguments->report, .progress = cli->progress};
    AUTO_INPUTS(in);
    AUTO_APPLY_RESULT(result);
    int err = arguments_check(&options, arguments);

    if (err || (err = inputs_load(&in, cli, cli->operands, cli->operand_count, arguments->base)))
        return err;
    if (arguments->dry_run)
        err = materialize_check(&result, in.inputs, in.count, &in.model, &options);
    else
        err = materialize(&result, in.inputs, in.count, &in.model, arguments->out, &options);
    if (err || (err = result_say(cli, &in, &result, arguments)))
        return err;
    return cli->json ? result_json(&result, arguments->report) : 0;
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
        "A GPU gives the same bits in exact mode. With --math fast its tensor cores multiply, in "
        "any order, and how far that is off is told; the processor always computes exactly. A "
        "GPU is taken by default where vera's module for CUDA, a driver and a device are there, "
        "however small the model is.",
    .examples = "vera apply main --base models/llama --out merged\n"
                "vera apply math:0.7 code:0.3 --base models/llama --out both\n"
                "vera apply ./checkpoint-100 --base models/llama --dry-run",
    .operands = operands,
    .options = options,
    .arguments_size = sizeof(struct apply_arguments),
};
