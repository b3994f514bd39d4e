/* vera publish: a version as LoRA under a name of its own, in the directory where an engine looks
   adapters up. Engines cache by name, so a name never stands for two adapters. */
#include <stddef.h>
#include <stdlib.h>
#include <string.h>

#include "cli/describe.h"
#include "cli/engines.h"
#include "cli/exporting.h"
#include "format/text.h"

struct publish_arguments {
    const char *name, *dtype, *base, *base_name;
    bool drop, force;
};

/* One that is being published: DIR, and DIR/N@<12 hex>. */
struct place {
    const char *dir;
    char *name, *path;
    bool made; /* DIR was made for it */
};

static void place_release(struct place *place)
{
    free(place->name);
    free(place->path);
}

/* Names */

static int name_check(const char *name)
{
    if (!name[0] || name[0] == '.' || strchr(name, '/') || !text_is_plain(text_bytes(name)) ||
        path_check(name))
        return cli_usage_error("'%s' cannot be the name of a directory", name);
    return 0;
}

/* The branch that REV is, owned by the caller; NULL where it is none. */
static int branch_find(char **out, struct cli *cli, const char *revision)
{
    AUTO_REFS(branches);
    int err = store_refs(&branches, cli->store, REF_BRANCH);

    for (size_t i = 0; !err && i < branches.count; i++) {
        const struct ref *branch = &branches.refs[i];
        bool meant = strcmp(revision, branch->name) == 0 ||
                     (branch->current && strcmp(revision, "HEAD") == 0);
        if (meant && !(*out = bytes_dup(text_bytes(branch->name))))
            return E_NOMEM;
        if (meant)
            return 0;
    }
    return err;
}

static int name_choose(
    char **out,
    struct cli *cli,
    const struct source *source,
    const struct publish_arguments *arguments
)
{
    const char *revision = cli->operands[0];
    AUTO_FREE(char, branch);
    int err = 0;

    if (arguments->name)
        return (*out = bytes_dup(text_bytes(arguments->name))) ? 0 : E_NOMEM;
    if (source->is_version && cli->store && (err = branch_find(&branch, cli, revision)))
        return err;
    if (!branch)
        return cli_usage_error(
            "--name NAME is missing: '%s' is no branch to be named after", revision
        );
    for (char *slash; (slash = strchr(branch, '/'));)
        *slash = '-';
    *out = branch;
    branch = NULL;
    return 0;
}

static int place_find(
    struct place *place,
    struct cli *cli,
    const struct source *source,
    const struct publish_arguments *arguments
)
{
    AUTO_FREE(char, base);
    AUTO_BUF(name);
    int err;

    place->dir = cli->operands[1];
    if ((err = name_choose(&base, cli, source, arguments)) || (err = name_check(base)) ||
        (err = buf_printf(&name, "%s@%s", base, short_digest(&source->snapshot.id).text)))
        return err;
    if (!(place->name = bytes_dup(buf_bytes(&name))))
        return E_NOMEM;
    if ((err = path_check(place->name)))
        return err;
    return path_join(&place->path, place->dir, place->name);
}

/* Writing */

/* DIR itself may be new; what it lies in is there. */
static int dir_prepare(struct place *place)
{
    AUTO_FREE(char, parent);
    int err;

    if (path_exists(place->dir))
        return 0;
    if ((err = path_parent(&parent, place->dir)))
        return err;
    if (!path_is_directory(parent)) {
        err = error_set(E_NOTFOUND, "%s: no such directory", parent);
        return error_hint(err, "create it first: mkdir -p -- '%s'", place->dir);
    }
    place->made = true;
    return dir_make(place->dir);
}

/* What is there: the very same (done already), or in the way. */
static int there_check(struct exporting *exporting, const struct place *place)
{
    bool equal = false;
    int err = exporting_is_there(&equal, &exporting->files, place->path);

    if (err || equal)
        return err;
    err = error_set(E_EXISTS, "%s: is there, and has other files", place->path);
    return error_hint(
        err, "other options give other files under this name, and engines keep what they loaded: "
             "--force replaces it"
    );
}

static int place_write(
    struct exporting *exporting,
    const struct place *place,
    const struct lora_peft_options *options,
    bool force,
    struct progress *progress
)
{
    AUTO_OUTDIR(out);
    int err;

    if ((err = outdir_begin(&out, place->path, force)) ||
        (err = lora_peft_write(&exporting->files, &out, &exporting->lora, options, progress)))
        return err;
    return outdir_commit(&out);
}

/* *done_already: nothing had to be written. */
static int place_fill(
    bool *done_already,
    struct exporting *exporting,
    struct place *place,
    const struct lora_peft_options *options,
    bool force,
    struct progress *progress
)
{
    int err;

    *done_already = !force && path_exists(place->path);
    if (*done_already) {
        err = lora_peft_write(&exporting->files, NULL, &exporting->lora, options, progress);
        return err ? err : there_check(exporting, place);
    }
    if ((err = dir_prepare(place)))
        return err;
    err = place_write(exporting, place, options, force, progress);
    if (err == E_EXISTS && !force && exporting->files.count) {
        /* Another one was faster. */
        *done_already = true;
        return there_check(exporting, place);
    }
    if (err && place->made) {
        error_keep();
        (void)!dir_remove_empty(place->dir);
        err = error_restore(err);
    }
    return err;
}

static int publish_say(
    struct cli *cli, const struct exporting *exporting, const struct place *place, bool done_already
)
{
    struct json_writer writer;
    AUTO_BUF(json);

    engines_warn(&exporting->lora.loaded->adapter);
    if (done_already)
        cli_say(cli, "%s is there already", place->path);
    else
        cli_say(cli, "published %s: %s", place->path, cli_size(exporting_bytes(&exporting->files)));
    int err = exporting_say_left(cli, exporting);
    if (err || !cli->json)
        return err;
    cli_json_begin(&writer, &json);
    json_write_key(&writer, "path");
    json_write_text(&writer, place->path);
    json_write_key(&writer, "name");
    json_write_text(&writer, place->name);
    exporting_json(&writer, exporting);
    return cli_json_end(&writer);
}

static int
publish_check(const struct exporting *exporting, const struct publish_arguments *arguments)
{
    int err = exporting_check_left(exporting, "LoRA for vLLM and SGLang", arguments->drop);

    if (err || arguments->base_name || exporting->lora.loaded->adapter.config.base_name)
        return err;
    err = error_set(E_INVALID, "it does not say which base model it is for, and engines ask");
    return error_hint(err, "--base-name NAME: the model's name as the engine serves it");
}

static int publish_run(struct cli *cli, const void *arguments_of)
{
    const struct publish_arguments *arguments = arguments_of;
    const struct lora_peft_options options = {.bare = true, .base_name = arguments->base_name};
    __attribute__((cleanup(place_release))) struct place place = {0};
    AUTO_SOURCE(source);
    AUTO_EXPORTING(exporting);
    const char *revision = cli->operands[0];
    bool done_already = false;
    int err;

    if ((err = source_load(&source, cli, revision)) ||
        (err = place_find(&place, cli, &source, arguments)) ||
        (err = exporting_load(
             &exporting, &source, revision, arguments->base, arguments->dtype, cli->progress
         )) ||
        (err = exporting_leave_others(&exporting)))
        return err;
    if ((err = publish_check(&exporting, arguments)))
        return error_wrap(err, "%s", revision);
    err = place_fill(&done_already, &exporting, &place, &options, arguments->force, cli->progress);
    return err ? err : publish_say(cli, &exporting, &place, done_already);
}

static const struct operand operands[] = {
    {"REV", false, false, COMPLETE_REVISION, "A version, or a PEFT directory"},
    {"DIR", false, false, COMPLETE_DIRECTORY, "Where the engine looks adapters up"},
    {0},
};

#define FIELD(name) offsetof(struct publish_arguments, name)
static const struct option options[] = {
    {"name", 0, OPTION_TEXT, FIELD(name), "N", COMPLETE_NOTHING,
     "What comes before the @, else the branch"},
    {"base-name", 0, OPTION_TEXT, FIELD(base_name), "NAME", COMPLETE_NOTHING,
     "The base model, exactly as the engine calls it"},
    {"dtype", 0, OPTION_TEXT, FIELD(dtype), EXPORTING_DTYPES, COMPLETE_WORDS,
     "The type of its values, else fp32"},
    {"drop", 0, OPTION_FLAG, FIELD(drop), NULL, COMPLETE_NOTHING,
     "Leave out biases and whole modules"},
    {"base", 0, OPTION_TEXT, FIELD(base), "MODEL", COMPLETE_DIRECTORY,
     "The base model's directory, where no pin tells its sizes"},
    {"force", 'f', OPTION_FLAG, FIELD(force), NULL, COMPLETE_NOTHING,
     "Replace what is there under this name"},
    {0},
};

const struct command command_publish = {
    .name = "publish",
    .run = publish_run,
    .needs = MAY_USE_STORE,
    .summary = "Write a version where an engine for LoRA looks adapters up",
    .details =
        "Writes DIR/N@<12 hex>/, a LoRA that is exactly this adapter, under a name that no other "
        "one "
        "will have: the digits are the snapshot's, since engines keep by name what they loaded. It "
        "appears whole or not at all; publishing it again finds it there and is done.\n\n"
        "vLLM's filesystem resolver loads it when a request asks for the model N@<12 hex>, if "
        "base_model_name_or_path is the served model's name to the letter: --base-name says it "
        "where "
        "it was trained under another one. N is the branch, with - for /.\n\n"
        "Engines hold no biases and no whole modules: an adapter that has any is refused, unless "
        "--drop leaves them out.",
    .examples = "vera publish main /srv/adapters\n"
                "vera publish v1.2 /srv/adapters --name help --base-name org/llama",
    .operands = operands,
    .options = options,
    .arguments_size = sizeof(struct publish_arguments),
};
