/* vera export: a version's files, byte for byte as they were committed, in a directory that appears
   whole or not at all; or all of it as one stream (format/bundle.h). */
#include <inttypes.h>
#include <stddef.h>
#include <string.h>

#include <unistd.h>

#include "cli/describe.h"
#include "format/bundle.h"
#include "format/file.h"
#include "store/fetch.h"

struct export_arguments {
    const char *as;
    bool force;
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
static int bundle_export(struct cli *cli, const struct export_arguments *arguments)
{
    const char *target = cli->operands[1];
    AUTO_SOURCE(source);
    AUTO_MANIFEST(manifest);
    AUTO_BUF(bundle);
    int err;

    if (cli->json && strcmp(target, "-") == 0)
        return cli_usage_error("standard output has the bundle: --json needs a FILE");
    if ((err = export_load(&source, cli, cli->operands[0])) ||
        (err = snapshot_check(&source.snapshot)) ||
        (err = manifest_decode(&manifest, buf_bytes(&source.snapshot.manifest))) ||
        (err = bundle_encode(&bundle, &source.snapshot, true)))
        return err;
    if (strcmp(target, "-") == 0)
        return fd_write_all(STDOUT_FILENO, bundle.data, bundle.len, "standard output");
    if (!arguments->force && path_exists(target))
        return error_hint(
            error_set(E_EXISTS, "%s: there is something already", target), "--force replaces it"
        );
    if ((err = file_write(target, buf_bytes(&bundle))))
        return err;
    export_say(cli, &source, target, "a bundle", bundle.len);
    return cli->json ? export_json(&manifest) : 0;
}

static int export_run(struct cli *cli, const void *arguments_of)
{
    const struct export_arguments *arguments = arguments_of;
    const char *revision = cli->operands[0], *target = cli->operands[1];
    AUTO_SOURCE(source);
    AUTO_ADAPTER_FILES(files);
    AUTO_MANIFEST(manifest);
    uint64_t bytes = 0;
    int err;

    if (arguments->as && strcmp(arguments->as, "bundle") == 0)
        return bundle_export(cli, arguments);
    if (strcmp(target, "-") == 0)
        return cli_usage_error("a PEFT directory cannot be written to standard output");
    if ((err = export_load(&source, cli, revision)) ||
        (err = manifest_decode(&manifest, buf_bytes(&source.snapshot.manifest))))
        return err;
    if ((err = snapshot_restore(&files, &source.snapshot)))
        return error_wrap(err, "%s", revision);
    if ((err = export_write(&files, target, arguments->force)))
        return err;
    for (size_t i = 0; i < manifest.count; i++)
        bytes += manifest.files[i].bytes;
    char what[32];
    snprintf(what, sizeof(what), "%zu files", manifest.count);
    export_say(cli, &source, target, what, bytes);
    return cli->json ? export_json(&manifest) : 0;
}

static const struct operand operands[] = {
    {"REV", false, false, COMPLETE_REVISION, "A version, or URL@REV: one of another repository"},
    {"DIR", false, false, COMPLETE_DIRECTORY,
     "Where to write it: new or empty; of a bundle a file, or - for standard output"},
    {0},
};

#define FIELD(name) offsetof(struct export_arguments, name)
static const struct option options[] = {
    {"as", 0, OPTION_TEXT, FIELD(as), "peft|bundle", COMPLETE_WORDS,
     "The form; peft: as it was committed; bundle: one stream that commit - takes"},
    {"force", 'f', OPTION_FLAG, FIELD(force), NULL, COMPLETE_NOTHING,
     "Replace DIR where it is there"},
    {0},
};

const struct command command_export = {
    .name = "export",
    .run = export_run,
    .needs = MAY_USE_STORE,
    .summary = "Write a version's files, byte for byte",
    .details =
        "Every file has the SHA-256 that was recorded when it was committed, or nothing is "
        "written. PEFT, Transformers and everything else that reads PEFT directories load DIR.\n\n"
        "URL@REV is a version of another repository (the last @ counts): a branch's, a tag's or "
        "HEAD's comes by itself, and nothing but DIR is kept of it. Over a network that needs the "
        "program git; without it the history comes along, and goes again.\n\n"
        "A bundle is all of it in one stream that checks itself: it gives the same snapshot id "
        "wherever commit takes it, and is what a running model is sent.",
    .examples = "vera export main out/adapter\n"
                "vera export sha256:2e6aef0a7578 out/adapter\n"
                "vera export https://host/adapters.git@main out/adapter\n"
                "vera export main - --as bundle | vera -C elsewhere commit -",
    .operands = operands,
    .options = options,
    .arguments_size = sizeof(struct export_arguments),
};
