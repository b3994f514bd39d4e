/* vera show: what a version, or a PEFT directory, is: its shapes, its basis, its base model, its
   sizes. Everything that is shown was read and compared with its digests. */
#include <inttypes.h>
#include <stddef.h>
#include <string.h>

#include "cli/decorate.h"
#include "cli/describe.h"
#include "cli/refs.h"
#include "cli/show_spectrum.h"

struct arguments {
    bool spectrum;
    const char *base;
};

struct shown {
    const struct source *source;
    struct version version; /* a version's only */
    struct frame_summary frame;
    struct decorations decorations;
    struct manifest manifest;
    struct shown_spectra spectra;
    bool has_spectra;
};

static void shown_release(struct shown *shown)
{
    version_release(&shown->version);
    decorations_release(&shown->decorations);
    manifest_release(&shown->manifest);
    shown_spectra_release(&shown->spectra);
}
#define AUTO_SHOWN(name) __attribute__((cleanup(shown_release))) struct shown name = {0}

static int shown_read(struct shown *out, struct cli *cli, const struct source *source)
{
    int err = manifest_decode(&out->manifest, buf_bytes(&source->snapshot.manifest));

    out->source = source;
    if (err || !source->is_version)
        return err;
    if ((err = store_version(&out->version, cli->store, &source->commit)) ||
        (err = store_frame(&out->frame, cli->store, &source->commit)))
        return err;
    return decorations_read(&out->decorations, cli);
}

/* JSON */

static void base_json(struct json_writer *writer, const struct source *source)
{
    const struct peft_config *config = &source->loaded.adapter.config;

    json_write_key(writer, "base");
    json_write_object_begin(writer);
    json_write_key(writer, "name");
    json_write_text(writer, config->base_name);
    json_write_key(writer, "revision");
    json_write_text(writer, config->base_revision);
    json_write_key(writer, "pinned");
    json_write_bool(writer, source->snapshot.pin.len > 0);
    json_write_object_end(writer);
}

static int shown_json(const struct shown *shown)
{
    static const char *const of_versions[] = {"parents", "author", "time", "message", "metrics"};
    const struct source *source = shown->source;
    bool is_version = source->is_version;
    struct description description = {
        .snapshot = &source->snapshot,
        .loaded = &source->loaded,
        .commit = is_version ? &source->commit : NULL,
        .branch = is_version ? decorate_branch(&shown->decorations, &source->commit) : NULL,
        .frame = is_version ? &shown->frame : NULL,
        .left_out = source->files.left_out,
        .left_out_count = source->files.left_out_count,
        .has_left_out = !is_version,
    };
    struct json_writer writer;
    AUTO_BUF(json);

    cli_json_begin(&writer, &json);
    describe_json(&writer, &description);
    if (is_version) {
        describe_version_json(&writer, &shown->version);
        describe_metrics_json(&writer, &shown->version);
    }
    for (size_t i = 0; !is_version && i < sizeof(of_versions) / sizeof(*of_versions); i++) {
        json_write_key(&writer, of_versions[i]);
        json_write_null(&writer);
    }
    json_write_key(&writer, "rank");
    json_write_uint(&writer, source->loaded.adapter.config.rank);
    describe_files_json(&writer, &shown->manifest);
    base_json(&writer, source);
    shown_spectra_json(&writer, shown->has_spectra ? &shown->spectra : NULL);
    return cli_json_end(&writer);
}

/* Words */

static int version_say(struct cli *cli, const struct shown *shown)
{
    const struct version *version = &shown->version;
    char hex[COMMIT_HEX_SIZE], digest[DIGEST_HEX_SIZE], time[32];
    AUTO_BUF(names);
    AUTO_BUF(body);
    struct bytes rest, line;
    int err = decorate(&names, &shown->decorations, &version->id);

    if (err || (err = message_body(&body, version->message)))
        return err;
    const char *text = buf_text(&names);
    if (!text)
        return E_NOMEM;
    commit_hex(hex, &version->id);
    digest_hex(digest, &shown->source->snapshot.id);
    cli_time(time, version->time, version->time_offset, false);
    cli_say(cli, "commit %s%s", hex, text);
    cli_say(cli, "snapshot sha256:%s", digest);
    for (size_t i = 0; version->parent_count > 1 && i < version->parent_count; i++)
        cli_say(cli, "Parent:  %s", short_commit(&version->parents[i]).text);
    cli_say(cli, "Author:  %s <%s>", version->author_name, version->author_email);
    cli_say(cli, "Date:    %s", time);
    cli_say(cli, "%s", "");
    rest = buf_bytes(&body);
    while (text_next_line(&line, &rest))
        cli_say(cli, "%s%.*s", line.len ? "    " : "", (int)line.len, (const char *)line.data);
    cli_say(cli, "%s", "");
    return 0;
}

static int adapter_say(struct cli *cli, const struct source *source)
{
    const struct adapter *adapter = &source->loaded.adapter;
    const struct recipe *recipe = &source->loaded.recipe;
    AUTO_BUF(line);
    int err = describe_adapter_say(cli, adapter);

    if (err)
        return err;
    if ((err = describe_basis(&line, recipe)) || (err = describe_say(cli, "basis", &line)))
        return err;
    if (!recipe->has_matrices)
        return 0;
    cli_say(
        cli, "  %-8s A %s [%" PRIu64 ", %" PRIu64 "] %s, B %s [%" PRIu64 ", %" PRIu64 "] %s", "",
        dtype_name(recipe->dtype_a), recipe->rank, recipe->in, short_digest(&recipe->sha256_a).text,
        dtype_name(recipe->dtype_b), recipe->out, recipe->rank, short_digest(&recipe->sha256_b).text
    );
    return 0;
}

static void base_say(struct cli *cli, const struct source *source)
{
    const struct peft_config *config = &source->loaded.adapter.config;

    cli_say(
        cli, "  %-8s %s%s%s, %s", "base", config->base_name ? config->base_name : "not named",
        config->base_revision ? " at " : "", config->base_revision ? config->base_revision : "",
        source->snapshot.pin.len ? "its weights are recorded (pinned)"
                                 : "its weights are not recorded (unpinned)"
    );
}

static int files_say(struct cli *cli, const struct manifest *manifest)
{
    AUTO_BUF(line);
    struct word_list list = {.out = &line};
    uint64_t bytes = 0;
    int err;

    for (size_t i = 0; i < manifest->count; i++)
        bytes += manifest->files[i].bytes;
    err = buf_printf(&line, "%s: ", cli_size(bytes));
    for (size_t i = 0; !err && i < manifest->count; i++)
        err = word_list_add(&list, manifest->files[i].path);
    if (err || (err = word_list_end(&list)))
        return err;
    return describe_say(cli, "files", &line);
}

static int shown_say(struct cli *cli, const struct shown *shown)
{
    const struct source *source = shown->source;
    char digest[DIGEST_HEX_SIZE];
    AUTO_BUF(line);
    int err;

    digest_hex(digest, &source->snapshot.id);
    if (!source->is_version)
        cli_say(cli, "snapshot sha256:%s", digest);
    else if ((err = version_say(cli, shown)))
        return err;
    if ((err = adapter_say(cli, source)))
        return err;
    base_say(cli, source);
    err = buf_printf(&line, "%s", cli_size(source->loaded.recipe.payload_bytes));
    if (!err && source->is_version)
        err = buf_printf(
            &line, ", kept in %s%s", cli_size(shown->frame.bytes),
            shown->frame.depth ? " as a difference from an earlier version" : ""
        );
    if (err || (err = describe_say(cli, "vectors", &line)))
        return err;
    line.len = 0;
    if ((err = describe_metrics(&line, &shown->version)) ||
        (err = describe_say(cli, "metrics", &line)) || (err = files_say(cli, &shown->manifest)))
        return err;
    line.len = 0;
    err = describe_names(&line, source->files.left_out, source->files.left_out_count);
    return err ? err : describe_say(cli, "left out", &line);
}

/* A word that is no version may be the module: "show --spectrum q_proj". */
static int source_find(
    struct source *out, const char **rev, const char **module, struct cli *cli, bool spectrum
)
{
    const char *first = operand_at(cli, 0), *second = operand_at(cli, 1);

    *rev = first ? first : "HEAD";
    *module = second;
    if (second && !spectrum)
        return cli_usage_error("'%s': a module is only for --spectrum", second);
    int err = source_load(out, cli, *rev);
    if (err != E_NOTFOUND || !first || !spectrum)
        return err;
    AUTO_SOURCE(other);
    error_keep();
    if (source_load(&other, cli, second ? second : "HEAD"))
        return error_restore(err);
    source_release(&other);
    *rev = second ? second : "HEAD";
    *module = first;
    return source_load(out, cli, *rev);
}

static int show_run(struct cli *cli, const void *arguments_of)
{
    const struct arguments *arguments = arguments_of;
    const char *rev, *module;
    AUTO_SOURCE(source);
    AUTO_SHOWN(shown);
    int err = source_find(&source, &rev, &module, cli, arguments->spectrum);

    if (err || (err = shown_read(&shown, cli, &source)))
        return err;
    shown.has_spectra = arguments->spectrum;
    if (arguments->spectrum &&
        (err = shown_spectra_make(
             &shown.spectra, &source, rev, module, arguments->base, cli->progress
         )))
        return err;
    if (cli->json)
        return shown_json(&shown);
    if ((err = shown_say(cli, &shown)) || !arguments->spectrum)
        return err;
    return shown_spectra_say(cli, &shown.spectra);
}

static const struct operand operands[] = {
    {"REV", true, false, COMPLETE_REVISION, "A version (HEAD), or a PEFT directory"},
    {"MODULE", true, false, COMPLETE_NOTHING, "With --spectrum: a module, or how its name ends"},
    {0},
};

static const struct option options[] = {
    {
        .name = "spectrum",
        .kind = OPTION_FLAG,
        .target = offsetof(struct arguments, spectrum),
        .help = "Show how many directions each module really uses",
    },
    {
        .name = "base",
        .kind = OPTION_TEXT,
        .target = offsetof(struct arguments, base),
        .value = "MODEL",
        .complete = COMPLETE_DIRECTORY,
        .help = "The base model's directory, for --spectrum where no pin tells its sizes",
    },
    {0},
};

const struct command command_show = {
    .name = "show",
    .run = show_run,
    .needs = MAY_USE_STORE,
    .summary = "Show what a version is",
    .details =
        "Rank, modules, basis, base model, sizes, metrics. A PEFT directory is shown as it "
        "would be committed; ./NAME is always the directory.\n\n"
        "--spectrum adds the singular values of dW, module by module: its norm, the effective rank "
        "(exp of the entropy of the singular values), and how many directions hold 90, 99 and "
        "99.9% of its energy. Of one module the values are listed and drawn.",
    .examples = "vera show\n"
                "vera show main~1\n"
                "vera show ./out/checkpoint-100\n"
                "vera show main --spectrum\n"
                "vera show main --spectrum layers.0.self_attn.q_proj",
    .operands = operands,
    .options = options,
    .arguments_size = sizeof(struct arguments),
};
