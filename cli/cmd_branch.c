/* vera branch: list, create, delete and rename branches; list what deleted ones pointed to. */
#include <inttypes.h>
#include <stddef.h>
#include <string.h>

#include "cli/refs.h"

struct branch_arguments {
    bool delete, move, deleted;
};

/* One branch, one JSON object; a damaged version has no snapshot. */
static int branch_json(struct cli *cli, const struct ref *ref)
{
    char time[32];
    struct json_writer writer;
    AUTO_VERSION(version);
    AUTO_BUF(json);
    int err = store_version(&version, cli->store, &ref->commit);

    if (err && err != E_CORRUPT)
        return err;
    cli_json_begin(&writer, &json);
    json_write_key(&writer, "name");
    json_write_text(&writer, ref->name);
    cli_json_commit(&writer, "commit", &ref->commit);
    cli_json_digest(&writer, "snapshot", err ? NULL : &version.snapshot, true);
    json_write_key(&writer, "current");
    json_write_bool(&writer, ref->current);
    json_write_key(&writer, "upstream");
    json_write_text(&writer, ref->upstream);
    if (ref->kind == REF_DELETED) {
        cli_time(time, ref->time, 0, true);
        json_write_key(&writer, "deleted");
        json_write_text(&writer, time);
    }
    return cli_json_end(&writer);
}

static int name_width(const struct refs *refs)
{
    size_t width = 0;

    for (size_t i = 0; i < refs->count; i++) {
        size_t len = strlen(refs->refs[i].name);
        width = len > width ? len : width;
    }
    return width > 40 ? 40 : (int)width;
}

static int branch_say(struct cli *cli, const struct ref *ref, int width)
{
    char time[32];
    AUTO_BUF(title);
    const char *text;
    int err = ref_title(&title, cli, &ref->commit);

    /* One damaged version does not hide the other branches. */
    if (err == E_CORRUPT)
        err = buf_printf(&title, "%s (damaged: see vera fsck)", short_commit(&ref->commit).text);
    if (err)
        return err;
    if (!(text = buf_text(&title)))
        return E_NOMEM;
    if (ref->kind == REF_DELETED) {
        cli_time(time, ref->time, 0, false);
        cli_say(cli, "  %-*s %s (deleted %s)", width, ref->name, text, time);
    } else {
        cli_say(cli, "%c %-*s %s", ref->current ? '*' : ' ', width, ref->name, text);
    }
    return 0;
}

/* HEAD on a branch that has no version yet is a line of its own. */
static int unborn_say(struct cli *cli, bool deleted)
{
    AUTO_FREE(char, head);
    struct commit_id tip;
    bool has_tip;
    int err = store_head(&head, &tip, &has_tip, cli->store);

    if (!err && !deleted && head && !has_tip)
        cli_say(cli, "* %s (no version yet)", head);
    return err;
}

static int branch_list(struct cli *cli, bool deleted)
{
    AUTO_REFS(refs);
    int err = store_refs(&refs, cli->store, deleted ? REF_DELETED : REF_BRANCH);

    if (!err && !cli->json)
        err = unborn_say(cli, deleted);
    for (size_t i = 0; !err && i < refs.count; i++) {
        const struct ref *ref = &refs.refs[i];
        if (!(err = interrupt_check()))
            err = cli->json ? branch_json(cli, ref) : branch_say(cli, ref, name_width(&refs));
    }
    return err;
}

/* What a change left, as one JSON object. */
static int
branch_result(struct cli *cli, const char *name, const struct commit_id *commit, bool exists)
{
    AUTO_REFS(refs);
    AUTO_FREE(char, copy);
    int err;

    if (!cli->json)
        return 0;
    if ((err = store_refs(&refs, cli->store, REF_BRANCH)))
        return err;
    for (size_t i = 0; exists && i < refs.count; i++) {
        if (strcmp(refs.refs[i].name, name) == 0)
            return branch_json(cli, &refs.refs[i]);
    }
    if (!(copy = bytes_dup(text_bytes(name))))
        return E_NOMEM;
    struct ref gone = {.kind = REF_BRANCH, .name = copy, .commit = *commit};
    return branch_json(cli, &gone);
}

static int branch_create(struct cli *cli, const char *name, const char *revision)
{
    struct commit_id at;
    int err;

    if ((err = ref_resolve(&at, cli, revision)) ||
        (err = store_branch_create(cli->store, name, &at)))
        return err;
    cli_say(cli, "created branch '%s' at %s", name, short_commit(&at).text);
    return branch_result(cli, name, &at, true);
}

static int branch_delete(struct cli *cli, const char *name)
{
    struct commit_id was;
    int err = store_branch_delete(&was, cli->store, name);

    if (err)
        return err;
    struct short_id id = short_commit(&was);
    cli_say(cli, "deleted branch '%s' (was %s)", name, id.text);
    cli_note("hint: vera branch %s %s brings it back, for 90 days", name, id.text);
    return branch_result(cli, name, &was, false);
}

static int branch_rename(struct cli *cli, const char *old_name, const char *new_name)
{
    struct commit_id at;
    int err = store_branch_rename(&at, cli->store, old_name, new_name);

    if (err)
        return err;
    cli_say(cli, "renamed branch '%s' to '%s'", old_name, new_name);
    return branch_result(cli, new_name, &at, true);
}

static int branch_run(struct cli *cli, const void *arguments_of)
{
    const struct branch_arguments *arguments = arguments_of;
    const char *first = operand_at(cli, 0), *second = operand_at(cli, 1);
    int err;

    if (arguments->delete + arguments->move + arguments->deleted > 1)
        return cli_usage_error("-d, -m and --deleted exclude each other");
    if (arguments->delete &&!first)
        return cli_usage_error("-d needs the NAME of the branch to delete");
    if (arguments->move && !second)
        return cli_usage_error("-m needs two names: OLD NEW");
    if ((err = operands_at_most(cli, arguments->deleted ? 0 : arguments->delete ? 1 : 2)))
        return err;
    if (arguments->delete)
        return branch_delete(cli, first);
    if (arguments->move)
        return branch_rename(cli, first, second);
    return first ? branch_create(cli, first, second) : branch_list(cli, arguments->deleted);
}

static const struct operand operands[] = {
    {"NAME", true, false, COMPLETE_BRANCH, "The branch; without it: list"},
    {"REV", true, false, COMPLETE_REVISION,
     "Where a new branch begins (HEAD); with -m the new name"},
    {0},
};

#define FIELD(name) offsetof(struct branch_arguments, name)
static const struct option options[] = {
    {"delete", 'd', OPTION_FLAG, FIELD(delete), NULL, COMPLETE_NOTHING, "Delete the branch NAME"},
    {"move", 'm', OPTION_FLAG, FIELD(move), NULL, COMPLETE_NOTHING, "Rename: -m OLD NEW"},
    {"deleted", 0, OPTION_FLAG, FIELD(deleted), NULL, COMPLETE_NOTHING, "List deleted branches"},
    {0},
};

const struct command command_branch = {
    .name = "branch",
    .run = branch_run,
    .needs = NEEDS_STORE,
    .summary = "List, create, delete or rename branches",
    .details =
        "The current branch, the one that commit adds to, has a star. What a deleted branch "
        "pointed to is kept for 90 days: --deleted lists it, and vera branch NAME REV brings it "
        "back.",
    .examples = "vera branch\n"
                "vera branch sweep/7 main~2\n"
                "vera branch -d sweep/7\n"
                "vera branch -m sweep/7 best",
    .operands = operands,
    .options = options,
    .arguments_size = sizeof(struct branch_arguments),
};
