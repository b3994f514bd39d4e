/* vera push: branches and tags, and what they lead to, to another repository. */
#include <inttypes.h>
#include <stddef.h>
#include <string.h>

#include "cli/describe.h"
#include "cli/output.h"
#include "cli/transfer.h"
#include "store/push_remote.h"

struct arguments {
    bool force, tags, all, delete;
};

static int pushed_json(const struct pushed *pushed, int err)
{
    struct json_writer writer;
    AUTO_BUF(json);

    cli_json_begin(&writer, &json);
    json_write_key(&writer, "updated");
    json_write_array_begin(&writer);
    for (size_t i = 0; i < pushed->count; i++) {
        const struct push_ref *ref = &pushed->refs[i];
        transfer_ref_json(
            &writer, ref->name, ref->has_old ? &ref->old : NULL, ref->has_new ? &ref->new : NULL,
            ref->status
        );
    }
    json_write_array_end(&writer);
    describe_uint_json(&writer, "bytes", pushed->sent.bytes);
    describe_uint_json(&writer, "objects", pushed->sent.objects);
    cli_json_digest(&writer, "digest", pushed->sent.has_digest ? &pushed->sent.digest : NULL, true);
    if (err)
        output_error_json(&writer, err);
    return cli_json_end(&writer);
}

/* "refs/heads/main" as a person says it. */
static const char *short_name(const char *ref)
{
    const char *slash = strchr(ref + strlen("refs/"), '/');

    return strncmp(ref, "refs/", 5) == 0 && slash ? slash + 1 : ref;
}

static void ref_say(struct cli *cli, const struct push_ref *ref)
{
    char from[16] = "", to[16] = "";
    struct commit_id old = commit_id_of(&ref->old), new = commit_id_of(&ref->new);

    if (ref->has_old)
        snprintf(from, sizeof(from), "%s", short_commit(&old).text);
    if (ref->has_new)
        snprintf(to, sizeof(to), "%s", short_commit(&new).text);
    cli_say(
        cli, "  %-12s  %s  %s%s%s", push_status_name(ref->status), short_name(ref->name), from,
        *from && *to && strcmp(from, to) != 0 ? ".." : "", strcmp(from, to) != 0 ? to : ""
    );
}

static void pushed_say(struct cli *cli, const struct pushed *pushed)
{
    char digest[DIGEST_HEX_SIZE];

    cli_say(
        cli, "to %s: %" PRIu64 " object%s, %s", pushed->url, pushed->sent.objects,
        pushed->sent.objects == 1 ? "" : "s", cli_size(pushed->sent.bytes)
    );
    for (size_t i = 0; i < pushed->count; i++)
        ref_say(cli, &pushed->refs[i]);
    if (!pushed->sent.has_digest)
        return;
    digest_hex(digest, &pushed->sent.digest);
    cli_say(cli, "  digest        sha256:%s", digest);
}

static int push_run(struct cli *cli, const void *arguments_of)
{
    const struct arguments *arguments = arguments_of;
    struct push_wish wish = {
        .remote = cli->operand_count ? cli->operands[0] : NULL,
        .names = cli->operands + 1,
        .name_count = cli->operand_count ? cli->operand_count - 1 : 0,
        .branches = arguments->all,
        .tags = arguments->tags,
        .force = arguments->force,
        .is_deletion = arguments->delete,
        .progress = cli->progress,
    };
    AUTO_PUSHED(pushed);

    if (wish.is_deletion && (!wish.name_count || wish.branches || wish.tags))
        return cli_usage_error("--delete takes the names of what is to go there: vera push "
                               "REMOTE NAME --delete");
    int err = store_push(&pushed, cli->store, &wish);
    if (err == E_CONFLICT && pushed.count && cli->json) {
        output_error(err, false);
        int failed = pushed_json(&pushed, err);
        return failed ? failed : CLI_DIFFERENT;
    }
    if (err)
        return err;
    pushed_say(cli, &pushed);
    return cli->json ? pushed_json(&pushed, 0) : 0;
}

static const struct operand operands[] = {
    {"REMOTE", true, false, COMPLETE_NOTHING,
     "A remote's name, a URL or a path (where the branch comes from, else origin)"},
    {"REF", true, true, COMPLETE_REVISION, "Branches and tags (the current branch)"},
    {0},
};

static const struct option options[] = {
    {
        .name = "force",
        .kind = OPTION_FLAG,
        .target = offsetof(struct arguments, force),
        .help = "Replace what is there, also where that is not in ours",
    },
    {
        .name = "tags",
        .kind = OPTION_FLAG,
        .target = offsetof(struct arguments, tags),
        .help = "All tags",
    },
    {
        .name = "all",
        .kind = OPTION_FLAG,
        .target = offsetof(struct arguments, all),
        .help = "All branches",
    },
    {
        .name = "delete",
        .kind = OPTION_FLAG,
        .target = offsetof(struct arguments, delete),
        .help = "Delete these there",
    },
    {0},
};

const struct command command_push = {
    .name = "push",
    .run = push_run,
    .needs = NEEDS_STORE,
    .summary = "Send branches and tags to another repository",
    .details =
        "Sends what is missing there, then moves the branches there forward: all of them, or none. "
        "A branch that has versions which are not here is left alone and the push refused: pull "
        "first. Any git server takes it. In a vera repository on this machine everything is "
        "checked there before it counts, and what --force or --delete takes away stays in its "
        "trash.",
    .examples = "vera push\n"
                "vera push origin main side/7\n"
                "vera push backup --all --tags\n"
                "vera push origin old --delete",
    .operands = operands,
    .options = options,
    .arguments_size = sizeof(struct arguments),
};
