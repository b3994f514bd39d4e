/* vera reset: point the current branch at another version. The old tip stays in the trash. */
#include "cli/refs.h"

static int reset_run(struct cli *cli, const void *arguments)
{
    AUTO_FREE(char, branch);
    AUTO_BUF(title);
    struct commit_id to, previous, tip;
    bool has_tip;
    int err;

    (void)arguments;
    if ((err = ref_resolve(&to, cli, cli->operands[0])) ||
        (err = store_reset(&previous, cli->store, &to)) ||
        (err = store_head(&branch, &tip, &has_tip, cli->store)) ||
        (err = ref_title(&title, cli, &to)))
        return err;
    const char *text = buf_text(&title);
    if (!text)
        return E_NOMEM;
    cli_say(cli, "%s is now at %s", branch ? branch : "HEAD", text);
    if (!commit_equal(&previous, &to))
        cli_note(
            "hint: it was at %s, which is kept for a while: vera branch --deleted",
            short_commit(&previous).text
        );
    return cli->json ? ref_json(branch, &to, &previous, NULL) : 0;
}

static const struct operand operands[] = {
    {"REV", false, false, COMPLETE_REVISION, "The version that becomes the branch's tip"},
    {0},
};

const struct command command_reset = {
    .name = "reset",
    .run = reset_run,
    .needs = NEEDS_STORE,
    .summary = "Point the current branch at another version",
    .details = "The old tip is kept for 90 days: vera branch --deleted lists it, and vera branch "
               "NAME REV brings it back.",
    .examples = "vera reset HEAD~1",
    .operands = operands,
};
