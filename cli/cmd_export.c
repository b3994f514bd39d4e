/* vera export: a version's files, byte for byte as they were committed, or what another program
   takes in their place, in a directory that appears whole or not at all; or all of it as one stream
   (format/bundle.h). */
#include <inttypes.h>
#include <stddef.h>
#include <string.h>

#include <unistd.h>

#include "cli/describe.h"
#include "cli/exporting.h"
#include "format/bundle.h"
#include "format/file.h"
#include "store/fetch.h"

struct export_arguments {
    const char *as, *dtype, *base;
    bool drop, force;
};

static int export_write(const struct adapter_files *files, const char *target, bool force)
{
    AUTO_OUTDIR(out);
    int err = outdir_begin(&out, target, force);

    for (size_t i = 0; !err && i < files->count; i++) {
        if (!(err = interrupt_check()))
            err = outdir_write(&out, files->files[i].path, buf_bytes(&files->files[i].data));
    }
    return err ? err : outdir_commit(&out);
}

static int export_json(const struct manifest *manifest)
{
    struct json_writer writer;
    AUTO_BUF(json);

    cli_json_begin(&writer, &json);
    describe_files_json(&writer, manifest);
    return cli_json_end(&writer);
}

/* Where "URL@REV" parts: at the last @, behind what is no revision but names a place. NULL where it
   does not. */
static const char *url_end(const char *text)
{
    const char *at = strrchr(text, '@'), *colon = strchr(text, ':');
    AUTO_FREE(char, place);

    if (!at || at == text || !at[1] || at[1] == '{' ||
        !(place = bytes_dup((struct bytes){(const uint8_t *)text, (size_t)(at - text)})))
        return NULL;
    if (strstr(place, "://"))
        return at;
    if (strncmp(text, "sha256:", 7) == 0)
        return NULL;
    return (colon && colon < at) || path_is_directory(place) ? at : NULL;
}

/* Another repository's version, of which nothing is kept here. */
static int export_load_from(struct source *out, struct cli *cli, const char *text, const char *at)
{
    AUTO_FREE(char, url);

    if (!(url = bytes_dup((struct bytes){(const uint8_t *)text, (size_t)(at - text)})))
        return E_NOMEM;
    int err = store_load_from(&out->snapshot, &out->commit, url, at + 1, cli->progress);
    out->is_version = err == 0;
    return err;
}

static int export_load(struct source *out, struct cli *cli, const char *text)
{
    const char *at = url_end(text);

    return at ? export_load_from(out, cli, text, at) : source_load(out, cli, text);
}

/* What was written, in a line. */
static void export_say(
    struct cli *cli,
    const struct source *source,
    const char *target,
    const char *what,
    uint64_t bytes
)
{
    cli_say(
        cli, "exported %s (snapshot %s) to %s: %s, %s",
        source->is_version ? short_commit(&source->commit).text : cli->operands[0],
        short_digest(&source->snapshot.id).text, target, what, cli_size(bytes)
    );
}

/* --as bundle: to standard output, or into a file that appears whole. */
static int bundle_export(
    struct cli *cli, const struct export_arguments *arguments, const struct source *source
)
{
    const char *target = cli->operands[1];
    AUTO_MANIFEST(manifest);
    AUTO_BUF(bundle);
    int err;

    if ((err = snapshot_check(&source->snapshot)) ||
        (err = manifest_decode(&manifest, buf_bytes(&source->snapshot.manifest))) ||
        (err = bundle_encode(&bundle, &source->snapshot, true)))
        return err;
    if (strcmp(target, "-") == 0)
        return fd_write_all(STDOUT_FILENO, bundle.data, bundle.len, "standard output");
    if (!arguments->force && path_exists(target))
        return error_hint(
            error_set(E_EXISTS, "%s: there is something already", target), "--force replaces it"
        );
    if ((err = file_write(target, buf_bytes(&bundle))))
        return err;
    export_say(cli, source, target, "a bundle", bundle.len);
    return cli->json ? export_json(&manifest) : 0;
}

/* As it was committed */

static int
export_peft(struct cli *cli, const struct export_arguments *arguments, struct source *source)
{
    const char *revision = cli->operands[0], *target = cli->operands[1];
    AUTO_ADAPTER_FILES(files);
    AUTO_MANIFEST(manifest);
    char what[32];
    int err;

    if ((err = manifest_decode(&manifest, buf_bytes(&source->snapshot.manifest))))
        return err;
    if ((err = snapshot_restore(&files, &source->snapshot)))
        return error_wrap(err, "%s", revision);
    if ((err = export_write(&files, target, arguments->force)))
        return err;
    snprintf(what, sizeof(what), "%zu files", manifest.count);
    export_say(cli, source, target, what, exporting_bytes(&manifest));
    return cli->json ? export_json(&manifest) : 0;
}

/* As LoRA */

static bool is_form(const struct export_arguments *arguments, const char *form)
{
    return strcmp(arguments->as ? arguments->as : "peft", form) == 0;
}

static bool is_gguf(const struct export_arguments *arguments)
{
    return is_form(arguments, "gguf");
}

static int lora_write_all(
    struct exporting *exporting,
    const struct export_arguments *arguments,
    const char *target,
    const struct gguf_model *model,
    struct progress *progress
)
{
    const struct lora_peft_options options = {.bare = arguments->drop};
    AUTO_OUTDIR(out);

    int err = outdir_begin(&out, target, arguments->force);
    if (err)
        return err;
    err = is_gguf(arguments)
              ? lora_gguf_write(&exporting->files, &out, &exporting->lora, model, progress)
              : lora_peft_write(&exporting->files, &out, &exporting->lora, &options, progress);
    return err ? err : outdir_commit(&out);
}

static int lora_say(
    struct cli *cli, const struct exporting *exporting, const struct export_arguments *arguments
)
{
    const struct loaded_adapter *loaded = exporting->lora.loaded;
    struct json_writer writer;
    AUTO_BUF(json);
    char what[64];

    snprintf(
        what, sizeof(what), "%s of rank %" PRIu64, is_gguf(arguments) ? "GGUF" : "LoRA",
        loaded->adapter.config.rank
    );
    export_say(
        cli, exporting->company.members[0].source, cli->operands[1], what,
        exporting_bytes(&exporting->files)
    );
    int err = exporting_say_left(cli, exporting);
    if (!err && !is_gguf(arguments) && !arguments->drop && loaded->adapter.other_count)
        cli_note(
            "hint: PEFT loads its biases and whole modules; vLLM takes at most a classifier of "
            "them, SGLang nothing, and --drop leaves them out"
        );
    if (err || !cli->json)
        return err;
    cli_json_begin(&writer, &json);
    exporting_json(&writer, exporting);
    return cli_json_end(&writer);
}

static int
export_lora(struct cli *cli, const struct export_arguments *arguments, struct source *source)
{
    const char *revision = cli->operands[0];
    AUTO_EXPORTING(exporting);
    struct gguf_model model = {0};
    int err;

    if ((err = exporting_load(
             &exporting, source, revision, arguments->base, arguments->dtype, cli->progress
         )))
        return err;
    if (is_gguf(arguments)) {
        if ((err = exporting_model(&model, &exporting, arguments->base)) ||
            (err = lora_gguf_left(&exporting.left, &source->loaded, &model)) ||
            (err = exporting_check_left(&exporting, "GGUF for llama.cpp", arguments->drop)))
            return error_wrap(err, "%s", revision);
    } else if (arguments->drop && (err = exporting_leave_others(&exporting))) {
        return err;
    }
    if ((err = lora_write_all(&exporting, arguments, cli->operands[1], &model, cli->progress)))
        return err;
    return lora_say(cli, &exporting, arguments);
}

static int arguments_check(const struct cli *cli, const struct export_arguments *arguments)
{
    bool lora = is_form(arguments, "lora") || is_gguf(arguments);

    if (strcmp(cli->operands[1], "-") == 0 && !is_form(arguments, "bundle"))
        return cli_usage_error("a directory cannot be written to standard output");
    if (cli->json && strcmp(cli->operands[1], "-") == 0)
        return cli_usage_error("standard output has the bundle: --json needs a FILE");
    if (!lora && (arguments->dtype || arguments->drop || arguments->base))
        return cli_usage_error(
            "--%s goes with --as lora and --as gguf: the other forms are as it was committed",
            arguments->dtype  ? "dtype"
            : arguments->drop ? "drop"
                              : "base"
        );
    return 0;
}

static int export_run(struct cli *cli, const void *arguments_of)
{
    const struct export_arguments *arguments = arguments_of;
    AUTO_SOURCE(source);
    int err;

    if ((err = arguments_check(cli, arguments)) ||
        (err = export_load(&source, cli, cli->operands[0])))
        return err;
    if (is_form(arguments, "peft"))
        return export_peft(cli, arguments, &source);
    if (is_form(arguments, "bundle"))
        return bundle_export(cli, arguments, &source);
    return export_lora(cli, arguments, &source);
}

static const struct operand operands[] = {
    {"REV", false, false, COMPLETE_REVISION, "A version, or URL@REV: one of another repository"},
    {"DIR", false, false, COMPLETE_DIRECTORY,
     "Where to write it: new or empty; of a bundle a file, or - for standard output"},
    {0},
};

#define FIELD(name) offsetof(struct export_arguments, name)
static const struct option options[] = {
    {"as", 0, OPTION_TEXT, FIELD(as), "peft|lora|gguf|bundle", COMPLETE_WORDS,
     "The form; peft: as it was committed; bundle: one stream that commit - takes"},
    {"dtype", 0, OPTION_TEXT, FIELD(dtype), EXPORTING_DTYPES, COMPLETE_WORDS,
     "LoRA's and GGUF's values, else fp32"},
    {"drop", 0, OPTION_FLAG, FIELD(drop), NULL, COMPLETE_NOTHING,
     "Leave out what engines for LoRA cannot hold"},
    {"base", 0, OPTION_TEXT, FIELD(base), "MODEL", COMPLETE_DIRECTORY,
     "The base model's directory, where no pin tells its sizes"},
    {"force", 'f', OPTION_FLAG, FIELD(force), NULL, COMPLETE_NOTHING,
     "Replace DIR where it is there"},
    {0},
};

const struct command command_export = {
    .name = "export",
    .run = export_run,
    .needs = MAY_USE_STORE,
    .summary = "Write a version's files, or what other programs take",
    .details =
        "Every file has the SHA-256 that was recorded when it was committed, or nothing is "
        "written. PEFT, Transformers and everything else that reads PEFT directories load DIR.\n\n"
        "--as lora writes the same adapter as a LoRA of its rank, for PEFT, vLLM, SGLang and "
        "others: dW = (diag(b) B) (diag(d) A), each value rounded once. --as gguf writes "
        "DIR/adapter.gguf for llama.cpp (llama, mistral, qwen2, qwen3, gpt2 and bert). Biases and "
        "whole modules fit into PEFT's LoRA, but not into GGUF, nor into what vLLM and SGLang "
        "load: GGUF is refused without --drop. How many inputs a module has is known where a "
        "version was committed with --base; else --base MODEL tells it here.\n\n"
        "URL@REV is a version of another repository (the last @ counts): a branch's, a tag's or "
        "HEAD's comes by itself, and nothing but DIR is kept of it. Over a network that needs the "
        "program git; without it the history comes along, and goes again.\n\n"
        "A bundle is all of it in one stream that checks itself: it gives the same snapshot id "
        "wherever commit takes it, and is what a running model is sent.",
    .examples = "vera export main out/adapter\n"
                "vera export sha256:2e6aef0a7578 out/adapter\n"
                "vera export https://host/adapters.git@main out/adapter\n"
                "vera export main out/lora --as lora --dtype bf16\n"
                "vera export main out/gguf --as gguf\n"
                "vera export main - --as bundle | vera -C elsewhere commit -",
    .operands = operands,
    .options = options,
    .arguments_size = sizeof(struct export_arguments),
};
