/* vera verify: is a directory exactly what apply would write? A difference is an answer, not an
   error: exit status 1. */
#include <stddef.h>

#include "cli/describe.h"
#include "cli/inputs.h"

struct verify_arguments {
    const char *base, *device;
    struct cli_list revisions;
    struct cli_count threads;
};

static int verify_json(const char *first_difference)
{
    struct json_writer writer;
    AUTO_BUF(json);

    cli_json_begin(&writer, &json);
    json_write_key(&writer, "ok");
    json_write_bool(&writer, !first_difference);
    json_write_key(&writer, "first_difference");
    json_write_text(&writer, first_difference);
    return cli_json_end(&writer);
}

static int verify_say(
    struct cli *cli, const struct inputs *inputs, const char *base, const char *first_difference
)
{
    const char *dir = cli->operands[0];
    AUTO_BUF(names);
    int err = inputs_describe(&names, inputs);
    const char *text = err ? NULL : buf_text(&names);

    if (!text)
        return err ? err : E_NOMEM;
    if (first_difference)
        cli_say(cli, "%s is not %s on %s: first difference: %s", dir, text, base, first_difference);
    else
        cli_say(cli, "%s is exactly %s on %s", dir, text, base);
    return 0;
}

static int verify_run(struct cli *cli, const void *arguments_of)
{
    const struct verify_arguments *arguments = arguments_of;
    struct apply_options options = {
        .device = inputs_device(arguments->device, DEVICE_CPU), .progress = cli->progress};
    const struct cli_list *revisions = &arguments->revisions;
    AUTO_INPUTS(in);
    AUTO_FREE(char, difference);
    int err;

    if (!revisions->count)
        return cli_usage_error("--rev REV is missing: the version that DIR should be");
    if (!arguments->base)
        return cli_usage_error("--base MODEL is missing: the directory of the base model");
    if ((err = inputs_threads(&options.threads, &arguments->threads)) ||
        (err = inputs_load(&in, cli, revisions->values, revisions->count, arguments->base)) ||
        (err = materialize_verify(
             &difference, in.inputs, in.count, &in.model, cli->operands[0], &options
         )) ||
        (err = verify_say(cli, &in, arguments->base, difference)) ||
        (cli->json && (err = verify_json(difference))))
        return err;
    return difference ? CLI_DIFFERENT : 0;
}

static const struct operand operands[] = {
    {"DIR", false, false, COMPLETE_DIRECTORY, "A model that apply wrote"},
    {0},
};

#define FIELD(name) offsetof(struct verify_arguments, name)
static const struct option options[] = {
    {"rev", 0, OPTION_LIST, FIELD(revisions), "REV[:W]", COMPLETE_REVISION,
     "The version; again for each that was applied"},
    {"base", 0, OPTION_TEXT, FIELD(base), "MODEL", COMPLETE_DIRECTORY,
     "The base model's directory"},
    {"device", 0, OPTION_TEXT, FIELD(device), "auto|cpu|cuda", COMPLETE_WORDS,
     "Where to compute (cpu)"},
    {"threads", 0, OPTION_COUNT, FIELD(threads), "N", COMPLETE_NOTHING,
     "Default: one for each core"},
    {0},
};

const struct command command_verify = {
    .name = "verify",
    .run = verify_run,
    .needs = MAY_USE_STORE,
    .summary = "Check that a directory is exactly an adapter on a base model",
    .details = "Computes the merged model again and compares every byte of every tensor with DIR, "
               "writing nothing. Names the first tensor that differs and exits with 1 where one "
               "does. What apply wrote with --math fast differs: this computes exactly.",
    .examples = "vera verify merged --rev main --base models/llama",
    .operands = operands,
    .options = options,
    .arguments_size = sizeof(struct verify_arguments),
};
