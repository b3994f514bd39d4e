/* vera clone: a repository of one's own with what another one has. */
#include <inttypes.h>
#include <stddef.h>
#include <string.h>

#include "cli/refs.h"
#include "cli/transfer.h"
#include "store/oci_name.h"

struct clone_arguments {
    struct cli_count depth, max_bytes;
};

static bool cut_suffix(struct bytes *text, const char *suffix)
{
    size_t length = strlen(suffix);

    if (text->len <= length || memcmp(text->data + text->len - length, suffix, length) != 0)
        return false;
    text->len -= length;
    return true;
}

/* "adapters" of "ssh://host/srv/adapters.git/", "host:adapters", "/srv/adapters/.vera". */
static int dir_of_url(char **out, const char *url)
{
    struct bytes text = text_bytes(url);
    AUTO_OCI_NAME(name_there);
    size_t at;
    int err;

    /* Without the tag or digest behind it. */
    if (oci_is_url(url)) {
        if ((err = oci_name_parse(&name_there, url)))
            return err;
        text = text_bytes(name_there.repository);
    }

    while (cut_suffix(&text, "/") || cut_suffix(&text, "/.vera"))
        continue;
    (void)cut_suffix(&text, ".git");
    for (at = text.len; at > 0 && text.data[at - 1] != '/' && text.data[at - 1] != ':';)
        at--;
    struct bytes name = {text.data + at, text.len - at};
    if (name.len == 0 || bytes_equal(name, text_bytes(".")) || bytes_equal(name, text_bytes("..")))
        return cli_usage_error("the URL tells no name for the new directory: give a DIR");
    return (*out = bytes_dup(name)) ? 0 : E_NOMEM;
}

static int clone_say(struct cli *cli, const struct clone_result *result, bool shallow)
{
    AUTO_BUF(title);
    AUTO_STORE(store);
    struct commit_id tip;
    int err;

    cli_say(
        cli, "cloned into %s: %" PRIu64 " version%s, %s", result->path, result->transfer.versions,
        result->transfer.versions == 1 ? "" : "s", cli_size(result->transfer.bytes)
    );
    if (shallow && !result->is_shallow)
        cli_note("vera: the whole history came: only the program git, which is not here, can "
                 "fetch one version from there");
    if (!result->branch) {
        cli_note("vera: no branch is current there, or it has no version yet");
        return 0;
    }
    if ((err = store_open(&store, ".", result->path)))
        return err;
    cli->store = store;
    if ((err = store_resolve(&tip, store, "HEAD")) == 0 &&
        (err = ref_title(&title, cli, &tip)) == 0)
        cli_say(
            cli, "on branch %s: %.*s", result->branch, (int)title.len, (const char *)title.data
        );
    cli->store = NULL;
    return err;
}

static int clone_json(struct cli *cli, const struct clone_result *result)
{
    struct json_writer writer;
    AUTO_BUF(json);

    if (!cli->json)
        return 0;
    cli_json_begin(&writer, &json);
    json_write_key(&writer, "repository");
    json_write_text(&writer, result->path);
    json_write_key(&writer, "branch");
    json_write_text(&writer, result->branch);
    json_write_key(&writer, "shallow");
    json_write_bool(&writer, result->is_shallow);
    transfer_json(&writer, &result->transfer);
    return cli_json_end(&writer);
}

static int clone_run(struct cli *cli, const void *arguments_of)
{
    const struct clone_arguments *arguments = arguments_of;
    struct clone_request request = {.url = cli->operands[0], .progress = cli->progress};
    AUTO_FREE(char, name);
    AUTO_CLONE(result);
    int err;

    if (arguments->depth.given && arguments->depth.value != 1)
        return cli_usage_error("--depth can only be 1: the newest version");
    request.shallow = arguments->depth.given;
    if ((err = transfer_limit(&request.max_bytes, &arguments->max_bytes)))
        return err;
    if (!(request.dir = operand_at(cli, 1))) {
        if ((err = dir_of_url(&name, request.url)))
            return err;
        request.dir = name;
    }
    if ((err = store_clone(&result, &request)) || (err = clone_say(cli, &result, request.shallow)))
        return err;
    return clone_json(cli, &result);
}

static const struct operand operands[] = {
    {"URL", false, false, COMPLETE_DIRECTORY, "What to clone"},
    {"DIR", true, false, COMPLETE_DIRECTORY, "Where to: new or empty (the URL's last part)"},
    {0},
};

#define FIELD(name) offsetof(struct clone_arguments, name)
static const struct option options[] = {
    {"depth", 0, OPTION_COUNT, FIELD(depth), "1", COMPLETE_NOTHING,
     "Only the newest version of the branch that is current there"},
    {"max-bytes", 0, OPTION_COUNT, FIELD(max_bytes), "N", COMPLETE_NOTHING, TRANSFER_LIMIT_HELP},
    {0},
};

const struct command command_clone = {
    .name = "clone",
    .run = clone_run,
    .needs = NEEDS_NOTHING,
    .summary = "Make a repository of one's own from another one",
    .details =
        "URL is a path (with .vera in it, or a bare repository), file://, git://, ssh:// or "
        "HOST:PATH, http:// or https://. DIR appears whole, with every version checked, or not at "
        "all; the other repository is the remote 'origin'.\n\n"
        "--depth 1 takes only what the newest version needs: enough to serve it, and to go on "
        "from it. Over a network this needs the program git.",
    .examples = "vera clone ssh://host/srv/adapters\n"
                "vera clone /srv/adapters mine\n"
                "vera clone --depth 1 https://host/adapters.git serving",
    .operands = operands,
    .options = options,
    .arguments_size = sizeof(struct clone_arguments),
};
