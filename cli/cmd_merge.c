/* vera merge: another line of history comes into the current branch, by moving it forward where
   that is enough, else by a three-way merge of what the adapters do. */
#include <stddef.h>
#include <stdlib.h>
#include <string.h>

#include "cli/merging.h"
#include "cli/refs.h"

/* "branch 'side'", "tag 'v1'", "remote-tracking branch 'origin/x'", "commit '3f2a9c1'": as git
   names what it merges. */
static int theirs_describe(struct buf *out, struct cli *cli, const char *revision)
{
    static const struct {
        enum ref_kind kind;
        const char *word;
    } kinds[] = {{REF_BRANCH, "branch"}, {REF_TAG, "tag"}, {REF_REMOTE, "remote-tracking branch"}};
    const char *word = "commit";

    for (size_t i = 0; i < sizeof(kinds) / sizeof(kinds[0]); i++) {
        AUTO_REFS(refs);
        int err = store_refs(&refs, cli->store, kinds[i].kind);
        if (err)
            return err;
        for (size_t k = 0; k < refs.count; k++) {
            if (strcmp(refs.refs[k].name, revision) == 0)
                return buf_printf(out, "%s '%s'", kinds[i].word, revision);
        }
    }
    return buf_printf(out, "%s '%s'", word, revision);
}

/* git leaves out where it goes for one branch only, by the name that once was the default. */
static int message_make(struct buf *out, struct cli *cli, const char *revision, const char *branch)
{
    int err = buf_append_text(out, "Merge ");

    if (err || (err = theirs_describe(out, cli, revision)))
        return err;
    return strcmp(branch, "master") == 0 ? 0 : buf_printf(out, " into %s", branch);
}

static int forward(
    struct cli *cli,
    const struct merging_arguments *arguments,
    const struct commit_id *from,
    const struct commit_id *to,
    const char *branch,
    const char *action
)
{
    AUTO_BUF(title);
    int err = arguments->dry_run ? 0 : store_fast_forward(cli->store, from, to, action);

    if (err || (err = ref_title(&title, cli, to)))
        return err;
    cli_say(
        cli, "%s %s forward to %.*s", branch, arguments->dry_run ? "would move" : "moved",
        (int)title.len, (const char *)title.data
    );
    return merging_print_none(cli, arguments->dry_run ? NULL : to, true);
}

static int unrelated(const char *revision)
{
    int err = error_set(
        E_INVALID, "'%s' has no version in common with the current branch", revision
    );

    return error_hint(
        err, "a merge needs one to tell what each side changed; 'vera apply A B' puts both onto a "
             "model, and as LoRA (vera export --as lora) PEFT can add them"
    );
}

/* Neither tip is behind the other one. */
static int merge_three_way(
    struct cli *cli, const struct merging_arguments *arguments, struct merging_task *task
)
{
    AUTO_BUF(message);

    int err = message_make(&message, cli, cli->operands[0], task->branch);
    if (err)
        return err;
    task->arguments = arguments;
    task->is_merge = true;
    task->names[VERSION_BASE] = "the merge base";
    task->names[VERSION_OURS] = "HEAD";
    task->names[VERSION_THEIRS] = cli->operands[0];
    if (!(task->message = buf_text(&message)))
        return error_wrap(E_NOMEM, "merge");
    return merging_run(cli, task);
}

static int merge_commits(
    struct cli *cli,
    const struct merging_arguments *arguments,
    const char *branch,
    const struct commit_id *tip,
    const struct commit_id *theirs
)
{
    const char *revision = cli->operands[0];
    struct merging_task task = {.branch = branch};
    struct merge_base base;
    AUTO_BUF(action);

    int err = buf_printf(&action, "merge %s", revision);
    if (err)
        return err;
    task.action = (const char *)action.data;
    if (!tip)
        return forward(cli, arguments, NULL, theirs, branch, task.action);
    if ((err = store_merge_base(&base, cli->store, tip, theirs)))
        return err;
    if (base.count == 0)
        return unrelated(revision);
    if (commit_equal(&base.commit, theirs)) {
        cli_say(cli, "Already up to date: %s has all of %s", branch, revision);
        return merging_print_none(cli, tip, false);
    }
    if (commit_equal(&base.commit, tip))
        return forward(cli, arguments, tip, theirs, branch, task.action);
    if (base.count > 1)
        cli_note(
            "vera: the two were merged with each other before: of %zu versions that both began "
            "from, the newest is the base, %s",
            base.count, short_commit(&base.commit).text
        );
    task.commits[VERSION_BASE] = base.commit;
    task.commits[VERSION_OURS] = *tip;
    task.commits[VERSION_THEIRS] = *theirs;
    return merge_three_way(cli, arguments, &task);
}

static int merge_run(struct cli *cli, const void *arguments_of)
{
    const struct merging_arguments *arguments = arguments_of;
    struct merging_settings settings;
    AUTO_FREE(char, branch);
    struct commit_id tip, theirs;
    bool has_tip;
    int err;

    if ((err = merging_settings(&settings, arguments)) ||
        (err = store_head(&branch, &tip, &has_tip, cli->store)))
        return err;
    if (!branch) {
        err = error_set(E_INVALID, "HEAD is on no branch");
        return error_hint(err, "'vera switch BRANCH' first");
    }
    if ((err = store_resolve(&theirs, cli->store, cli->operands[0])))
        return err;
    return merge_commits(cli, arguments, branch, has_tip ? &tip : NULL, &theirs);
}

static const struct operand operands[] = {
    {"REV", false, false, COMPLETE_REVISION, "What is merged into the current branch"},
    {0},
};

static const struct option options[] = {MERGING_OPTIONS, {0}};

const struct command command_merge = {
    .name = "merge",
    .run = merge_run,
    .needs = NEEDS_STORE,
    .summary = "Merge another version's changes into the current branch",
    .details =
        "Where the current branch has nothing of its own, it moves forward. Else the two are "
        "compared with the version that they have in common, module by module: what one side alone "
        "changed is taken bit by bit. What both changed gets the vectors whose effect on the "
        "weights comes nearest to what the strategy wants: task, both changes added (theirs times "
        "W); average, what lies between the two (W of theirs). ours and theirs take that side's, "
        "and settle every other conflict too.\n\n"
        "One adapter cannot hold every sum of two. What is lost is told as the residual: 0, all is "
        "there; 1, as much is lost as the larger of the two changes was. Above --max-residual "
        "nothing is changed.\n\n"
        "adapter_config.json is merged by its keys, other files as a whole; a key or a file that "
        "both changed differently is a conflict, and nothing is changed.",
    .examples = "vera merge side\n"
                "vera merge side --strategy average --dry-run --report\n"
                "vera merge tenant/7 --weight 0.5 -m 'half of what tenant 7 learnt'",
    .operands = operands,
    .options = options,
    .arguments_size = sizeof(struct merging_arguments),
};
