/* What branch, switch, tag and reset share. See refs.h. */
#include "cli/refs.h"

int ref_resolve(struct commit_id *out, struct cli *cli, const char *revision)
{
    return store_resolve(out, cli->store, revision ? revision : "HEAD");
}

int ref_json(
    const char *name,
    const struct commit_id *commit,
    const struct commit_id *previous,
    const char *previous_branch
)
{
    struct json_writer writer;
    AUTO_BUF(json);

    cli_json_begin(&writer, &json);
    json_write_key(&writer, "name");
    json_write_text(&writer, name);
    cli_json_commit(&writer, "commit", commit);
    if (previous_branch) {
        json_write_key(&writer, "previous");
        json_write_text(&writer, previous_branch);
    } else {
        cli_json_commit(&writer, "previous", previous);
    }
    return cli_json_end(&writer);
}

int ref_title(struct buf *out, struct cli *cli, const struct commit_id *commit)
{
    AUTO_FREE(char, message);
    int err = store_message(&message, cli->store, commit);

    if (err || (err = buf_printf(out, "%s ", short_commit(commit).text)))
        return err;
    struct bytes title = message_title(message);
    return buf_append(out, title.data, title.len);
}

const char *operand_at(const struct cli *cli, size_t index)
{
    return index < cli->operand_count ? cli->operands[index] : NULL;
}

int operands_at_most(const struct cli *cli, size_t max)
{
    if (cli->operand_count <= max)
        return 0;
    return cli_usage_error("'%s' is one too many", cli->operands[max]);
}
