/*
 * vera commit: a PEFT directory becomes a version of the current branch, or of --branch.
 *
 * Read the files, ask the base model where one is given, take the adapter apart (format/), write it
 * (store/). What is printed is what was stored, and in how many bytes.
 */
#include <inttypes.h>
#include <math.h>
#include <stddef.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "apply/plan.h"
#include "cli/describe.h"
#include "format/bundle.h"
#include "format/file.h"

struct commit_arguments {
    const char *message, *branch, *base, *author;
    struct cli_list metrics;
    bool all, if_changed, allow_empty, is_stdin;
};

/* Metrics: trailers "Metric-K: V" */

#define METRIC_KEY   "Metric-"
#define METRIC_BYTES 200 /* of a name and of a value */

struct metrics {
    struct trailer *trailers;
    char **texts; /* key and value of each, owned */
    size_t count;
};
#define AUTO_METRICS(name) __attribute__((cleanup(metrics_release))) struct metrics name = {0}

static void metrics_release(struct metrics *metrics)
{
    for (size_t i = 0; metrics->texts && i < 2 * metrics->count; i++)
        free(metrics->texts[i]);
    free(metrics->texts);
    free(metrics->trailers);
}

static bool is_number(const char *text)
{
    char *end = NULL;

    if (!*text || strlen(text) > METRIC_BYTES || strspn(text, "0123456789+-.eE") != strlen(text))
        return false;
    return isfinite(strtod(text, &end)) && !*end;
}

/* Letters, digits, '-', '_' and '.', beginning with a letter or digit. */
static bool is_metric_name(struct bytes name)
{
    static const char
        *const letters = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789-_.";

    if (!name.len || name.len > METRIC_BYTES || strchr("-_.", name.data[0]))
        return false;
    for (size_t i = 0; i < name.len; i++) {
        if (!name.data[i] || !strchr(letters, name.data[i]))
            return false;
    }
    return true;
}

/* `text`: "K=V". */
static int metric_add(struct metrics *metrics, const char *text)
{
    const char *equals = strchr(text, '=');

    if (!equals)
        return cli_usage_error("--metric '%s' is not NAME=NUMBER", text);
    struct bytes name = {(const uint8_t *)text, (size_t)(equals - text)};
    if (!is_metric_name(name))
        return cli_usage_error("--metric '%s': a name has letters, digits, '-', '_' and '.'", text);
    if (!is_number(equals + 1))
        return cli_usage_error("--metric '%s': '%s' is not a finite number", text, equals + 1);
    AUTO_BUF(key);
    int err = buf_append_text(&key, METRIC_KEY);
    if (err || (err = buf_append(&key, name.data, name.len)))
        return err;
    for (size_t i = 0; i < metrics->count; i++) {
        if (bytes_equal(text_bytes(metrics->texts[2 * i]), buf_bytes(&key)))
            return cli_usage_error("--metric '%s': this name was given before", text);
    }
    char **texts = &metrics->texts[2 * metrics->count];
    texts[0] = bytes_dup(buf_bytes(&key));
    texts[1] = bytes_dup(text_bytes(equals + 1));
    metrics->trailers[metrics->count++] = (struct trailer){texts[0], texts[1]};
    return texts[0] && texts[1] ? 0 : E_NOMEM;
}

static int metrics_parse(struct metrics *metrics, const struct cli_list *list)
{
    int err = 0;

    if (!(metrics->trailers = array_new(list->count, sizeof(*metrics->trailers))) ||
        !(metrics->texts = array_new(list->count, 2 * sizeof(*metrics->texts))))
        return E_NOMEM;
    for (size_t i = 0; !err && i < list->count; i++)
        err = metric_add(metrics, list->values[i]);
    return err;
}

#define STDIN_NAME "standard input"

static bool reads_bundle(const struct cli *cli)
{
    return cli->operand_count == 0 || strcmp(cli->operands[0], "-") == 0;
}

static const char *source_name(const struct cli *cli)
{
    return reads_bundle(cli) ? STDIN_NAME : cli->operands[0];
}

/* The base model's facts; nothing where the directory holds no adapter, which encoding will say. */
static int base_describe(
    struct base_facts *out, struct cli *cli, const struct adapter_files *files, const char *base
)
{
    const struct adapter_file *config = adapter_files_find(files, PEFT_CONFIG);
    const struct adapter_file *file = adapter_files_find(files, PEFT_MODEL);
    AUTO_ADAPTER(adapter);
    AUTO_MODEL(model);
    int err;

    if (!config || !file)
        return 0;
    struct bytes bytes = buf_bytes(&file->data);
    if ((err = adapter_decode(&adapter, buf_bytes(&config->data), bytes, bytes.len)))
        return error_wrap(err, "%s", source_name(cli));
    if ((err = model_open(&model, base)))
        return err;
    return model_describe(out, &model, &adapter, cli->progress);
}

/* The bundle as it is, after all its files were put together and compared; its files too. */
static int bundle_take(struct snapshot *out, struct adapter_files *files)
{
    AUTO_SNAPSHOT(snapshot);
    AUTO_BUF(bundle);
    int err;

    if ((err = bundle_read(&bundle, STDIN_FILENO, &bundle_room_any, STDIN_NAME)))
        return err;
    if ((err = bundle_decode(&snapshot, buf_bytes(&bundle), &bundle_room_any)) ||
        (err = snapshot_restore(files, &snapshot)))
        return error_wrap(err, "%s", STDIN_NAME);
    *out = snapshot;
    snapshot = (struct snapshot){0};
    return 0;
}

/* The directory taken apart; a bundle is that already, but for another base model's facts. */
static int commit_read(
    struct snapshot *out,
    struct adapter_files *files,
    struct cli *cli,
    const struct commit_arguments *arguments
)
{
    AUTO_SNAPSHOT(sent);
    AUTO_BASE_FACTS(base);
    int err = reads_bundle(cli)
                  ? bundle_take(&sent, files)
                  : adapter_files_read(files, cli->operands[0], arguments->all, cli->progress);

    if (err)
        return err;
    if (arguments->base && (err = base_describe(&base, cli, files, arguments->base)))
        return err;
    if (reads_bundle(cli) && !arguments->base) {
        *out = sent;
        sent = (struct snapshot){0};
        return 0;
    }
    err = snapshot_encode(out, files, arguments->base ? &base : NULL);
    return err ? error_wrap(err, "%s", source_name(cli)) : 0;
}

/* What is printed */

struct outcome {
    const struct commit_result *result;
    const struct snapshot *snapshot; /* as the commit has it */
    const struct loaded_adapter *loaded;
    const struct adapter_files *files;
    bool unchanged;
};

static uint64_t files_bytes(const struct snapshot *snapshot, const struct loaded_adapter *loaded)
{
    uint64_t bytes = snapshot->config.len + loaded->adapter.layout.header_bytes +
                     loaded->adapter.layout.data_bytes;

    for (size_t i = 0; i < snapshot->file_count; i++)
        bytes += snapshot->files[i].data.len;
    return bytes;
}

static int outcome_json(const struct outcome *outcome)
{
    const struct commit_result *result = outcome->result;
    struct description description = {
        .snapshot = outcome->snapshot,
        .loaded = outcome->loaded,
        .commit = &result->commit,
        .branch = result->branch,
        .frame = &result->frame,
        .stored_bytes = &result->stored_bytes,
        .left_out = outcome->files->left_out,
        .left_out_count = outcome->files->left_out_count,
        .has_left_out = true,
    };
    struct json_writer writer;
    AUTO_BUF(json);

    cli_json_begin(&writer, &json);
    describe_json(&writer, &description);
    return cli_json_end(&writer);
}

static int outcome_say(struct cli *cli, const struct outcome *outcome)
{
    const struct commit_result *result = outcome->result;
    const struct adapter *adapter = &outcome->loaded->adapter;
    const struct adapter_files *files = outcome->files;
    AUTO_BUF(lines);
    int err;

    cli_say(cli, "  %-8s %s", "snapshot", short_digest(&outcome->snapshot->id).text);
    if ((err = describe_adapter_say(cli, adapter)))
        return err;
    if ((err = describe_basis(&lines, &outcome->loaded->recipe)) ||
        (err = describe_say(cli, "basis", &lines)))
        return err;
    cli_say(
        cli, "  %-8s %s for a directory of %s", "stored", cli_size(result->stored_bytes),
        cli_size(files_bytes(outcome->snapshot, outcome->loaded))
    );
    lines.len = 0;
    err = describe_names(&lines, files->left_out, files->left_out_count);
    return err ? err : describe_say(cli, "left out", &lines);
}

static int outcome_print(struct cli *cli, const struct outcome *outcome)
{
    const struct commit_id *commit = &outcome->result->commit;
    AUTO_VERSION(version);
    int err = store_version(&version, cli->store, commit);

    if (err)
        return err;
    struct bytes title = message_title(version.message);
    cli_say(
        cli, "[%s %s] %s%.*s", outcome->result->branch, short_commit(commit).text,
        outcome->unchanged ? "unchanged since: " : "", (int)title.len, (const char *)title.data
    );
    if ((err = outcome_say(cli, outcome)))
        return err;
    if (!outcome->unchanged)
        describe_warnings(&outcome->loaded->recipe);
    return cli->json ? outcome_json(outcome) : 0;
}

/* --if-changed, and nothing did: the tip as it is. */
static int
outcome_of_tip(struct cli *cli, struct commit_result *result, const struct adapter_files *files)
{
    AUTO_SNAPSHOT(snapshot);
    AUTO_LOADED_ADAPTER(loaded);
    int err;

    if ((err = store_load(&snapshot, cli->store, &result->commit)) ||
        (err = store_frame(&result->frame, cli->store, &result->commit)) ||
        (err = adapter_load(&loaded, &snapshot)))
        return err;
    result->stored_bytes = 0;
    struct outcome outcome = {
        .result = result,
        .snapshot = &snapshot,
        .loaded = &loaded,
        .files = files,
        .unchanged = true,
    };
    return outcome_print(cli, &outcome);
}

static int commit_write(
    struct cli *cli,
    struct commit_result *result,
    const struct commit_arguments *arguments,
    const struct metrics *metrics
)
{
    AUTO_ADAPTER_FILES(files);
    AUTO_SNAPSHOT(snapshot);
    AUTO_LOADED_ADAPTER(loaded);
    int err = commit_read(&snapshot, &files, cli, arguments);

    if (err)
        return err;
    struct commit_request request = {
        .snapshot = &snapshot,
        .branch = arguments->branch,
        .message = arguments->message,
        .author = arguments->author,
        .trailers = metrics->trailers,
        .trailer_count = metrics->count,
        .allow_empty = arguments->allow_empty,
    };
    err = store_commit(result, cli->store, &request);
    if (err == E_EXISTS && arguments->if_changed)
        return outcome_of_tip(cli, result, &files);
    if (err == E_EXISTS)
        return error_hint(
            err, "--allow-empty records it once more; --if-changed makes this no error"
        );
    if (err || (err = adapter_load(&loaded, &snapshot)))
        return err;
    struct outcome outcome = {
        .result = result, .snapshot = &snapshot, .loaded = &loaded, .files = &files};
    return outcome_print(cli, &outcome);
}

static int commit_run(struct cli *cli, const void *arguments_of)
{
    const struct commit_arguments *arguments = arguments_of;
    struct commit_result result = {0};
    AUTO_METRICS(metrics);
    int err;

    if (arguments->is_stdin && cli->operand_count && !reads_bundle(cli))
        return cli_usage_error("--stdin and a directory exclude each other");
    if (!arguments->is_stdin && cli->operand_count == 0)
        return cli_usage_error("commit: DIR is missing");
    if (reads_bundle(cli) && arguments->all)
        return cli_usage_error("--all is for directories: a bundle has its files");
    if (arguments->allow_empty && arguments->if_changed)
        return cli_usage_error("--allow-empty and --if-changed exclude each other");
    if ((err = metrics_parse(&metrics, &arguments->metrics)))
        return err;
    err = commit_write(cli, &result, arguments, &metrics);
    free(result.branch);
    return err;
}

static const struct operand operands[] = {
    {"DIR", true, false, COMPLETE_DIRECTORY,
     "The directory that PEFT's save_pretrained() wrote; -: a bundle from standard input"},
    {0},
};

#define FIELD(name) offsetof(struct commit_arguments, name)
static const struct option options[] = {
    {"message", 'm', OPTION_TEXT, FIELD(message), "MSG", COMPLETE_NOTHING, "What this version is"},
    {"branch", 'b', OPTION_TEXT, FIELD(branch), "B", COMPLETE_BRANCH,
     "Commit to branch B (new: from HEAD) without switching to it"},
    {"base", 0, OPTION_TEXT, FIELD(base), "MODEL", COMPLETE_DIRECTORY,
     "The base model's directory: its weights' digests are recorded"},
    {"metric", 0, OPTION_LIST, FIELD(metrics), "NAME=NUMBER", COMPLETE_NOTHING,
     "Record a metric of this version, again for each"},
    {"author", 0, OPTION_TEXT, FIELD(author), "A", COMPLETE_NOTHING,
     "'Name <mail>' in place of yours"},
    {"all", 'a', OPTION_FLAG, FIELD(all), NULL, COMPLETE_NOTHING,
     "Take every file, optimizer state too"},
    {"if-changed", 0, OPTION_FLAG, FIELD(if_changed), NULL, COMPLETE_NOTHING,
     "Do nothing where the branch's tip is identical"},
    {"allow-empty", 0, OPTION_FLAG, FIELD(allow_empty), NULL, COMPLETE_NOTHING,
     "Commit even what the branch's tip has already"},
    {"stdin", 0, OPTION_FLAG, FIELD(is_stdin), NULL, COMPLETE_NOTHING,
     "Take a bundle from standard input, as - does"},
    {0},
};

const struct command command_commit = {
    .name = "commit",
    .run = commit_run,
    .needs = NEEDS_STORE,
    .summary = "Record an adapter as a new version",
    .details =
        "Takes the adapter's configuration, its tensors and small text files such as README.md and "
        "the tokenizer's; what it leaves out (optimizer state, hidden files) it names. Patterns in "
        "DIR/.veraignore, in the syntax of .gitignore, change the choice. What is committed comes "
        "back byte for byte.\n\n"
        "The random matrices A and B are dropped only where they were drawn again from the seed "
        "and compared bit for bit (proved); otherwise they are stored, once for all versions.\n\n"
        "An adapter that the branch's tip has already is refused, naming the tip.\n\n"
        "A bundle, as export --as bundle makes it, is taken with what is recorded in it of the "
        "base "
        "model, and gives the snapshot id that it had.",
    .examples = "vera commit out/checkpoint-100 -m 'lr 4e-3' --metric loss=2.31\n"
                "vera commit out/checkpoint-100 --base models/llama --branch sweep/7\n"
                "vera export main - --as bundle | vera -C elsewhere commit -",
    .operands = operands,
    .options = options,
    .arguments_size = sizeof(struct commit_arguments),
};
