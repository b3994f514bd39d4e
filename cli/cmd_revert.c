/* vera revert and vera cherry-pick: one version's change taken back, or made again, in what the
   adapter does. */
#include <stddef.h>
#include <stdlib.h>
#include <string.h>

#include "cli/describe.h"
#include "cli/merging.h"

/* The current branch and its tip, which both commands need. */
static int tip_find(char **branch, struct commit_id *tip, struct cli *cli)
{
    bool has_tip;
    int err = store_head(branch, tip, &has_tip, cli->store);

    if (err || (*branch && has_tip))
        return err;
    if (!*branch) {
        err = error_set(E_INVALID, "HEAD is on no branch");
        return error_hint(err, "'vera switch BRANCH' first");
    }
    return error_set(E_INVALID, "branch '%s' has no version yet", *branch);
}

/* The change that is spoken of: from `parent` to `version`. */
struct change {
    char *branch;
    struct commit_id tip, version, parent;
    struct version told; /* what the version says of itself */
};

static void change_release(struct change *change)
{
    free(change->branch);
    version_release(&change->told);
}

#define AUTO_CHANGE(name) __attribute__((cleanup(change_release))) struct change name = {0}

static int change_find(struct change *out, struct cli *cli)
{
    int err;

    if ((err = tip_find(&out->branch, &out->tip, cli)) ||
        (err = store_resolve(&out->version, cli->store, cli->operands[0])) ||
        (err = store_parent(&out->parent, cli->store, &out->version)))
        return err;
    return store_version(&out->told, cli->store, &out->version);
}

static int revert_run(struct cli *cli, const void *arguments)
{
    AUTO_CHANGE(change);
    AUTO_BUF(message);
    char hex[COMMIT_HEX_SIZE];
    int err = change_find(&change, cli);

    if (err)
        return err;
    struct bytes title = message_title(change.told.message);
    commit_hex(hex, &change.version);
    err = buf_printf(
        &message, "Revert \"%.*s\"\n\nThis reverts commit %s.\n", (int)title.len,
        (const char *)title.data, hex
    );
    if (err)
        return err;
    const struct merging_task task = {
        .arguments = arguments,
        .commits = {change.version, change.tip, change.parent},
        .names = {cli->operands[0], "HEAD", "its parent"},
        .branch = change.branch,
        .message = (const char *)message.data,
        .action = "revert",
    };
    return merging_run(cli, &task);
}

/* "Name <mail>", or the name alone; nothing where that is empty: then it is who picks. */
static int author_append(struct buf *out, const struct version *version)
{
    if (!*version->author_name)
        return 0;
    if (!*version->author_email)
        return buf_append_text(out, version->author_name);
    return buf_printf(out, "%s <%s>", version->author_name, version->author_email);
}

/* Is this line a trailer of a merge, which the new version gets of its own? */
static bool is_merge_trailer(struct bytes line)
{
    static const char *const keys[] = {"Merge-Strategy: ", "Merge-Weight: ", "Merge-Residual: "};

    for (size_t i = 0; i < sizeof(keys) / sizeof(keys[0]); i++) {
        if (line.len > strlen(keys[i]) && memcmp(line.data, keys[i], strlen(keys[i])) == 0)
            return true;
    }
    return false;
}

/* The message without what does not hold for the new version: metrics, trailers of a merge. */
static int pick_message(struct buf *out, const char *message)
{
    AUTO_BUF(body);
    struct bytes rest, line;
    int err = message_body(&body, message);

    rest = buf_bytes(&body);
    while (!err && text_next_line(&line, &rest)) {
        if (!is_merge_trailer(line) && (err = buf_append(out, line.data, line.len)) == 0)
            err = buf_append_byte(out, '\n');
    }
    return err;
}

static int pick_run(struct cli *cli, const void *arguments)
{
    AUTO_CHANGE(change);
    AUTO_BUF(message);
    AUTO_BUF(author);
    int err;

    if ((err = change_find(&change, cli)) || (err = pick_message(&message, change.told.message)) ||
        (err = author_append(&author, &change.told)))
        return err;
    const struct merging_task task = {
        .arguments = arguments,
        .commits = {change.parent, change.tip, change.version},
        .names = {"its parent", "HEAD", cli->operands[0]},
        .branch = change.branch,
        .message = buf_text(&message),
        .author = author.len ? buf_text(&author) : NULL,
        .action = "cherry-pick",
    };
    return task.message ? merging_run(cli, &task) : error_wrap(E_NOMEM, "cherry-pick");
}

static const struct operand revert_operands[] = {
    {"REV", false, false, COMPLETE_REVISION, "The version whose change is taken back"},
    {0},
};
static const struct operand pick_operands[] = {
    {"REV", false, false, COMPLETE_REVISION, "The version whose change is made here too"},
    {0},
};

static const struct option options[] = {MERGING_OPTIONS, {0}};

const struct command command_revert = {
    .name = "revert",
    .run = revert_run,
    .needs = NEEDS_STORE,
    .summary = "Take a version's change back, by a new version",
    .details = "What REV changed against its parent is subtracted from what the current version "
               "does, module by module, as vera merge adds changes; its options mean the same. "
               "Modules that nothing has changed since get the bits that they had before REV.",
    .examples = "vera revert HEAD\n"
                "vera revert main~3 --dry-run --report",
    .operands = revert_operands,
    .options = options,
    .arguments_size = sizeof(struct merging_arguments),
};

const struct command command_cherry_pick = {
    .name = "cherry-pick",
    .run = pick_run,
    .needs = NEEDS_STORE,
    .summary = "Make a version's change on the current branch",
    .details =
        "What REV changed against its parent is added to what the current version does, "
        "module by module, as vera merge adds changes; its options mean the same. Author and "
        "message are REV's, without its metrics, which are those of another adapter.",
    .examples = "vera cherry-pick side\n"
                "vera cherry-pick side~2 --weight 0.5",
    .operands = pick_operands,
    .options = options,
    .arguments_size = sizeof(struct merging_arguments),
};
