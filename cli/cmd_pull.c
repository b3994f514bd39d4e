/* vera pull: fetch, and move the current branch forward to what came. */
#include <stddef.h>
#include <string.h>

#include "cli/refs.h"
#include "cli/transfer.h"

struct pull_arguments {
    struct cli_count max_bytes;
};

struct pulling {
    const char *branch; /* the current one */
    const char *remote, *theirs;
    bool has_tip;
    struct commit_id tip;
    struct transfer_result *result;
};

static int diverged(const struct pulling *pulling, bool is_related)
{
    int err = error_set(
        E_CONFLICT,
        is_related ? "%s and %s/%s have both gone on: %s was not moved"
                   : "%s and %s/%s have nothing in common: %s was not moved",
        pulling->branch, pulling->remote, pulling->theirs, pulling->branch
    );

    if (!is_related)
        return error_hint(
            err, "'vera branch NAME %s/%s' keeps it beside", pulling->remote, pulling->theirs
        );
    return error_hint(err, "vera merge %s/%s", pulling->remote, pulling->theirs);
}

static int forward(struct cli *cli, struct pulling *pulling, const struct commit_id *to)
{
    AUTO_BUF(action);
    AUTO_BUF(ref);
    int err;

    if ((err = buf_printf(&action, "pull %s %s", pulling->remote, pulling->theirs)) ||
        (err = buf_printf(&ref, REF_HEADS "%s", pulling->branch)) ||
        (err = store_fast_forward(
             cli->store, pulling->has_tip ? &pulling->tip : NULL, to, (const char *)action.data
         )))
        return err;
    const struct ref_change change = {
        .name = (const char *)ref.data,
        .has_old = pulling->has_tip,
        .has_new = true,
        .old = git_id(&pulling->tip),
        .new = git_id(to),
    };
    return transfer_add(
        pulling->result, &change, pulling->has_tip ? PUSH_MOVED : PUSH_CREATED, NULL
    );
}

/* The current branch to what was seen there. */
static int join(struct cli *cli, struct pulling *pulling)
{
    AUTO_BUF(ref);
    struct commit_id to;
    struct merge_base base;

    int err = buf_printf(&ref, "refs/remotes/%s/%s", pulling->remote, pulling->theirs);
    if (err)
        return err;
    if ((err = store_resolve(&to, cli->store, (const char *)ref.data)) == E_NOTFOUND) {
        err = error_set(E_NOTFOUND, "%s has no branch '%s'", pulling->remote, pulling->theirs);
        return error_hint(err, "vera pull %s BRANCH", pulling->remote);
    }
    if (err || !pulling->has_tip)
        return err ? err : forward(cli, pulling, &to);
    if (commit_equal(&pulling->tip, &to))
        return 0;
    if ((err = store_merge_base(&base, cli->store, &pulling->tip, &to)))
        return err;
    if (base.count == 0)
        return diverged(pulling, false);
    if (commit_equal(&base.commit, &to))
        return 0;
    return commit_equal(&base.commit, &pulling->tip) ? forward(cli, pulling, &to)
                                                     : diverged(pulling, true);
}

static int pull_run(struct cli *cli, const void *arguments_of)
{
    const struct pull_arguments *arguments = arguments_of;
    struct fetch_request request = {.progress = cli->progress};
    AUTO_FREE(char, branch);
    AUTO_FREE(char, remote);
    AUTO_FREE(char, theirs);
    AUTO_TRANSFER(result);
    struct pulling pulling = {.result = &result};
    int err;

    if ((err = transfer_limit(&request.max_bytes, &arguments->max_bytes)) ||
        (err = store_head(&branch, &pulling.tip, &pulling.has_tip, cli->store)))
        return err;
    if (!branch) {
        err = error_set(E_INVALID, "HEAD is on no branch");
        return error_hint(err, "'vera switch BRANCH' first");
    }
    if ((err = transfer_remote(&remote, &theirs, cli, operand_at(cli, 0))))
        return err;
    const char *given = operand_at(cli, 1);
    request.remote = pulling.remote = remote;
    pulling.branch = branch;
    pulling.theirs = given ? given : theirs ? theirs : branch;
    if ((err = store_fetch(&result, cli->store, &request)))
        return err;
    err = join(cli, &pulling);
    transfer_say(cli, remote, &result);
    if (err)
        return err;
    return transfer_print_json(cli, &result);
}

static const struct operand operands[] = {
    {"REMOTE", true, false, COMPLETE_NOTHING,
     "Where from (the current branch's upstream, else origin)"},
    {"BRANCH", true, false, COMPLETE_BRANCH, "The branch there (the upstream, else the same name)"},
    {0},
};

#define FIELD(name) offsetof(struct pull_arguments, name)
static const struct option options[] = {
    {"max-bytes", 0, OPTION_COUNT, FIELD(max_bytes), "N", COMPLETE_NOTHING, TRANSFER_LIMIT_HELP},
    {0},
};

const struct command command_pull = {
    .name = "pull",
    .run = pull_run,
    .needs = NEEDS_STORE,
    .summary = "Fetch, and move the current branch forward to what came",
    .details =
        "Where the current branch has versions of its own that are not there, it stays where it "
        "is and the pull fails, after fetching: vera merge REMOTE/BRANCH then joins the two.",
    .examples = "vera pull\n"
                "vera pull origin main",
    .operands = operands,
    .options = options,
    .arguments_size = sizeof(struct pull_arguments),
};
