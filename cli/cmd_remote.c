/* vera remote: the other repositories that this one knows by name. */
#include <stddef.h>
#include <string.h>

#include "cli/refs.h"
#include "store/remote.h"
#include "store/url.h"

/* No secret that somebody wrote into the configuration is shown. */
static int remote_print(struct cli *cli, const char *what, const char *name, const char *url)
{
    struct json_writer writer;
    AUTO_FREE(char, shown);
    AUTO_BUF(json);

    int err = url_shown(&shown, url);
    if (err)
        return err;
    if (!cli->json || *what)
        cli_say(cli, "%s%s  %s", what, name, shown);
    if (!cli->json)
        return 0;
    cli_json_begin(&writer, &json);
    json_write_key(&writer, "name");
    json_write_text(&writer, name);
    json_write_key(&writer, "url");
    json_write_text(&writer, shown);
    return cli_json_end(&writer);
}

static int remote_list(struct cli *cli)
{
    AUTO_REMOTES(remotes);
    int err = store_remotes(&remotes, cli->store);

    for (size_t i = 0; !err && i < remotes.count; i++)
        err = remote_print(cli, "", remotes.list[i].name, remotes.list[i].url);
    return err;
}

static int remote_add(struct cli *cli, const char *name, const char *url)
{
    AUTO_REMOTE(remote);
    int err;

    if ((err = store_remote_add(cli->store, name, url)) ||
        (err = remote_find(&remote, cli->store, name)))
        return err;
    return remote_print(cli, "added ", name, remote.url);
}

static int remote_remove(struct cli *cli, const char *name)
{
    AUTO_FREE(char, url);
    int err = store_remote_remove(&url, cli->store, name);

    return err ? err : remote_print(cli, "removed ", name, url);
}

static int remote_run(struct cli *cli, const void *arguments)
{
    const char *what = operand_at(cli, 0), *name = operand_at(cli, 1), *url = operand_at(cli, 2);

    (void)arguments;
    if (!what)
        return remote_list(cli);
    if (strcmp(what, "add") == 0)
        return name && url ? remote_add(cli, name, url) : cli_usage_error("add needs NAME and URL");
    return name && !url ? remote_remove(cli, name) : cli_usage_error("remove needs a NAME");
}

static const struct operand operands[] = {
    {"add|remove", true, false, COMPLETE_WORDS, "What to do; without it: list"},
    {"NAME", true, false, COMPLETE_NOTHING, "What it is called here"},
    {"URL", true, false, COMPLETE_DIRECTORY, "Where it is"},
    {0},
};

const struct command command_remote = {
    .name = "remote",
    .run = remote_run,
    .needs = NEEDS_STORE,
    .summary = "List, add or remove the repositories that are fetched from and pushed to",
    .details =
        "A remote is a name for a place that holds a repository: a path (with .vera in it, or a "
        "bare repository), file://, git://, ssh:// or HOST:PATH, http:// or https://. What was "
        "seen there is NAME/BRANCH here. remove forgets that too; what the branches here hold "
        "stays.",
    .examples = "vera remote\n"
                "vera remote add origin ssh://host/srv/adapters\n"
                "vera remote remove origin",
    .operands = operands,
};
