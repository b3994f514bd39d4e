/* vera tag: list, create and delete tags: names of versions that stay where they are. */
#include <stddef.h>
#include <string.h>

#include "cli/refs.h"

struct tag_arguments {
    bool delete;
    const char *message;
};

static int tag_say(struct cli *cli, const struct ref *ref, int width)
{
    AUTO_BUF(title);
    const char *text;
    int err = ref_title(&title, cli, &ref->commit);

    if (err)
        return err;
    if (!(text = buf_text(&title)))
        return E_NOMEM;
    if (ref->message) {
        struct bytes line = message_title(ref->message);
        cli_say(
            cli, "%-*s %s: %.*s", width, ref->name, short_commit(&ref->commit).text, (int)line.len,
            (const char *)line.data
        );
    } else {
        cli_say(cli, "%-*s %s", width, ref->name, text);
    }
    return 0;
}

static int tag_list(struct cli *cli)
{
    AUTO_REFS(refs);
    int err = store_refs(&refs, cli->store, REF_TAG);
    size_t width = 0;

    for (size_t i = 0; !err && i < refs.count; i++) {
        size_t len = strlen(refs.refs[i].name);
        width = len > width && len <= 40 ? len : width;
    }
    for (size_t i = 0; !err && i < refs.count; i++) {
        const struct ref *ref = &refs.refs[i];
        if (!(err = interrupt_check()))
            err = cli->json ? ref_json(ref->name, &ref->commit, NULL, NULL)
                            : tag_say(cli, ref, (int)width);
    }
    return err;
}

static int tag_create(struct cli *cli, const char *name, const char *revision, const char *message)
{
    struct commit_id at;
    int err;

    if ((err = ref_resolve(&at, cli, revision)) ||
        (err = store_tag_create(cli->store, name, &at, message)))
        return err;
    cli_say(cli, "tagged %s as '%s'", short_commit(&at).text, name);
    return cli->json ? ref_json(name, &at, NULL, NULL) : 0;
}

static int tag_delete(struct cli *cli, const char *name)
{
    struct commit_id was;
    int err = store_tag_delete(&was, cli->store, name);

    if (err)
        return err;
    cli_say(cli, "deleted tag '%s' (was %s)", name, short_commit(&was).text);
    return cli->json ? ref_json(name, NULL, &was, NULL) : 0;
}

static int tag_run(struct cli *cli, const void *arguments_of)
{
    const struct tag_arguments *arguments = arguments_of;
    const char *name = operand_at(cli, 0);
    int err;

    if (arguments->delete &&(!name || arguments->message))
        return cli_usage_error("-d needs the NAME of a tag, and nothing else");
    if (arguments->message && !name)
        return cli_usage_error("-m needs the NAME of a new tag");
    if ((err = operands_at_most(cli, arguments->delete ? 1 : 2)))
        return err;
    if (arguments->delete)
        return tag_delete(cli, name);
    return name ? tag_create(cli, name, operand_at(cli, 1), arguments->message) : tag_list(cli);
}

static const struct operand operands[] = {
    {"NAME", true, false, COMPLETE_TAG, "The tag; without it: list"},
    {"REV", true, false, COMPLETE_REVISION, "The version to tag (HEAD)"},
    {0},
};

#define FIELD(name) offsetof(struct tag_arguments, name)
static const struct option options[] = {
    {"delete", 'd', OPTION_FLAG, FIELD(delete), NULL, COMPLETE_NOTHING, "Delete the tag NAME"},
    {"message", 'm', OPTION_TEXT, FIELD(message), "MSG", COMPLETE_NOTHING, "What the tag says"},
    {0},
};

const struct command command_tag = {
    .name = "tag",
    .run = tag_run,
    .needs = NEEDS_STORE,
    .summary = "List, create or delete tags",
    .details = "A tag names a version for good: unlike a branch it does not move.",
    .examples = "vera tag v1 -m 'the one that we serve'\n"
                "vera tag before-sweep main~3\n"
                "vera tag -d v1",
    .operands = operands,
    .options = options,
    .arguments_size = sizeof(struct tag_arguments),
};
