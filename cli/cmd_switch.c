/* vera switch: make another branch the current one, which commit adds to. No files change. */
#include <stddef.h>
#include <string.h>

#include "cli/refs.h"

struct switch_arguments {
    bool create;
};

/* -c: the branch begins at `revision`, else at HEAD; before the first version it is unborn too. */
static int switch_create(
    struct commit_id *at, bool *has_tip, struct cli *cli, const char *name, const char *revision
)
{
    int err;

    if (!revision && !*has_tip)
        return store_switch_unborn(cli->store, name);
    if ((err = ref_resolve(at, cli, revision)) || (err = store_branch_create(cli->store, name, at)))
        return err;
    *has_tip = true;
    err = store_switch(cli->store, name);
    return err < 0 ? error_wrap(err, "branch '%s' was made, but not switched to", name) : 0;
}

static int switch_run(struct cli *cli, const void *arguments_of)
{
    const struct switch_arguments *arguments = arguments_of;
    const char *name = cli->operands[0], *revision = operand_at(cli, 1);
    AUTO_FREE(char, previous);
    AUTO_FREE(char, now);
    AUTO_BUF(title);
    struct commit_id tip;
    bool has_tip;
    int err;

    if (revision && !arguments->create)
        return cli_usage_error("a REV goes with -c, which makes a new branch there");
    if ((err = store_head(&previous, &tip, &has_tip, cli->store)))
        return err;
    if (arguments->create) {
        err = switch_create(&tip, &has_tip, cli, name, revision);
    } else if ((err = store_switch(cli->store, name)) == 0) {
        err = store_head(&now, &tip, &has_tip, cli->store);
    }
    if (err)
        return err;
    if (has_tip && (err = ref_title(&title, cli, &tip)))
        return err;
    const char *text = buf_text(&title);
    if (!text)
        return E_NOMEM;
    cli_say(
        cli, "%s '%s': %s", arguments->create ? "switched to the new branch" : "switched to branch",
        name, has_tip ? text : "no version yet"
    );
    return cli->json ? ref_json(name, has_tip ? &tip : NULL, NULL, previous) : 0;
}

static const struct operand operands[] = {
    {"NAME", false, false, COMPLETE_BRANCH, "The branch"},
    {"REV", true, false, COMPLETE_REVISION, "With -c: where the new branch begins (HEAD)"},
    {0},
};

#define FIELD(name) offsetof(struct switch_arguments, name)
static const struct option options[] = {
    {"create", 'c', OPTION_FLAG, FIELD(create), NULL, COMPLETE_NOTHING, "Make the branch first"},
    {0},
};

const struct command command_switch = {
    .name = "switch",
    .run = switch_run,
    .needs = NEEDS_STORE,
    .summary = "Make another branch the current one",
    .details = "The current branch is the one that commit adds to, and what HEAD means. No file "
               "outside the repository changes.",
    .examples = "vera switch main\n"
                "vera switch -c sweep/7 main~2",
    .operands = operands,
    .options = options,
    .arguments_size = sizeof(struct switch_arguments),
};
