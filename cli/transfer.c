/* What moved. See transfer.h. */
#include "cli/transfer.h"

#include <inttypes.h>
#include <string.h>

#include "cli/describe.h"
#include "cli/refs.h"

/* "origin/main" of "refs/remotes/origin/main", as log and branch name it. */
static const char *ref_shown(const char *name)
{
    static const char *const prefixes[] = {REF_HEADS, REF_TAGS, "refs/remotes/"};

    for (size_t i = 0; i < sizeof(prefixes) / sizeof(prefixes[0]); i++) {
        if (strncmp(name, prefixes[i], strlen(prefixes[i])) == 0)
            return name + strlen(prefixes[i]);
    }
    return name;
}

static struct short_id id_shown(const git_oid *id)
{
    const struct commit_id commit = commit_id_of(id);

    return short_commit(&commit);
}

static void ref_say(struct cli *cli, const struct moved_ref *ref, int width)
{
    const char *name = ref_shown(ref->name), *status = push_status_name(ref->status);
    struct short_id old = id_shown(&ref->old), new = id_shown(&ref->new);

    if (ref->status == PUSH_REFUSED)
        cli_note("vera: warning: %s stays: %s", ref->name, ref->why);
    else if (ref->has_old && ref->has_new)
        cli_say(cli, "  %-*s %s -> %s (%s)", width, name, old.text, new.text, status);
    else
        cli_say(cli, "  %-*s %s (%s)", width, name, ref->has_new ? new.text : old.text, status);
}

void transfer_say(struct cli *cli, const char *from, const struct transfer_result *result)
{
    int width = 0;

    if (result->count == 0)
        cli_say(cli, "nothing new from %s", from);
    else
        cli_say(
            cli, "from %s: %" PRIu64 " version%s, %s", from, result->versions,
            result->versions == 1 ? "" : "s", cli_size(result->bytes)
        );
    for (size_t i = 0; i < result->count; i++) {
        size_t length = strlen(ref_shown(result->refs[i].name));
        width = (int)length > width && length <= 40 ? (int)length : width;
    }
    for (size_t i = 0; i < result->count; i++)
        ref_say(cli, &result->refs[i], width);
}

static void id_json(struct json_writer *writer, const char *key, const git_oid *id)
{
    struct commit_id commit;

    if (id)
        commit = commit_id_of(id);
    cli_json_commit(writer, key, id ? &commit : NULL);
}

void transfer_ref_json(
    struct json_writer *writer,
    const char *name,
    const git_oid *old,
    const git_oid *new,
    enum push_status status
)
{
    json_write_object_begin(writer);
    json_write_key(writer, "ref");
    json_write_text(writer, name);
    id_json(writer, "old", old);
    id_json(writer, "new", new);
    json_write_key(writer, "status");
    json_write_text(writer, push_status_name(status));
    json_write_object_end(writer);
}

void transfer_json(struct json_writer *writer, const struct transfer_result *result)
{
    json_write_key(writer, "updated");
    json_write_array_begin(writer);
    for (size_t i = 0; i < result->count; i++) {
        const struct moved_ref *ref = &result->refs[i];
        transfer_ref_json(
            writer, ref->name, ref->has_old ? &ref->old : NULL, ref->has_new ? &ref->new : NULL,
            ref->status
        );
    }
    json_write_array_end(writer);
    json_write_key(writer, "bytes");
    json_write_uint(writer, result->bytes);
    json_write_key(writer, "objects");
    json_write_uint(writer, result->objects);
    json_write_key(writer, "digest");
    json_write_null(writer);
}

int transfer_print_json(struct cli *cli, const struct transfer_result *result)
{
    struct json_writer writer;
    AUTO_BUF(json);

    if (!cli->json)
        return 0;
    cli_json_begin(&writer, &json);
    transfer_json(&writer, result);
    return cli_json_end(&writer);
}

int transfer_remote(char **out, char **merge, struct cli *cli, const char *given)
{
    AUTO_FREE(char, branch);
    AUTO_FREE(char, remote);
    AUTO_FREE(char, theirs);
    struct commit_id tip;
    bool has_tip;

    int err = store_head(&branch, &tip, &has_tip, cli->store);
    if (err || (branch && (err = upstream_find(&remote, &theirs, cli->store, branch))))
        return err;
    if (merge && remote && (!given || strcmp(given, remote) == 0)) {
        *merge = theirs;
        theirs = NULL;
    }
    const char *name = given ? given : remote ? remote : REMOTE_DEFAULT;
    return (*out = bytes_dup(text_bytes(name))) ? 0 : E_NOMEM;
}

int transfer_limit(uint64_t *out, const struct cli_count *given)
{
    *out = 0;
    if (!given->given)
        return 0;
    if (given->value == 0)
        return cli_usage_error("--max-bytes needs a number above 0");
    *out = given->value;
    return 0;
}
