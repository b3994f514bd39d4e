/* vera gc: drop what nothing needs, pack the rest. */
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

#include "cli/describe.h"

struct arguments {
    bool dry_run;
    const char *expire;
};

/* "30", "30d", "12h", "45m", "10s", "2w": in seconds. */
static int age_parse(uint64_t *out, const char *text)
{
    static const struct {
        char unit;
        uint64_t seconds;
    } units[] = {{0, 86400}, {'d', 86400}, {'w', 604800}, {'h', 3600}, {'m', 60}, {'s', 1}};
    size_t digits = strspn(text, "0123456789");
    uint64_t number;

    if (strcmp(text, "now") == 0) {
        *out = 0;
        return 0;
    }
    if (digits && digits < 10 && strlen(text) <= digits + 1) {
        number = strtoull(text, NULL, 10);
        for (size_t i = 0; i < sizeof(units) / sizeof(units[0]); i++) {
            if (text[digits] != units[i].unit)
                continue;
            *out = number * units[i].seconds;
            return 0;
        }
    }
    return cli_usage_error("--expire '%s': an age is 30d, 2w, 12h, 45m, 10s or now", text);
}

static int gc_json(const struct gc_result *result)
{
    struct json_writer writer;
    AUTO_BUF(json);

    cli_json_begin(&writer, &json);
    describe_uint_json(&writer, "before_bytes", result->before_bytes);
    describe_uint_json(&writer, "after_bytes", result->after_bytes);
    describe_uint_json(&writer, "dropped", result->dropped);
    return cli_json_end(&writer);
}

static int gc_run(struct cli *cli, const void *arguments_of)
{
    const struct arguments *arguments = arguments_of;
    struct gc_request request = {.dry_run = arguments->dry_run, .progress = cli->progress};
    struct gc_result result;
    int err;

    if (arguments->expire) {
        request.has_expire = true;
        if ((err = age_parse(&request.expire, arguments->expire)) < 0)
            return err;
    }
    if ((err = store_gc(&result, cli->store, &request)) < 0)
        return err;
    if (request.dry_run)
        cli_say(cli, "would drop %" PRIu64 " objects that nothing needs", result.dropped);
    else
        cli_say(
            cli,
            "%s before, %s now: dropped %" PRIu64 " objects that nothing needs, packed the rest",
            cli_size(result.before_bytes), cli_size(result.after_bytes), result.dropped
        );
    return cli->json ? gc_json(&result) : 0;
}

static const struct operand operands[] = {{0}};

static const struct option options[] = {
    {
        .name = "dry-run",
        .kind = OPTION_FLAG,
        .target = offsetof(struct arguments, dry_run),
        .help = "Say what would be dropped, drop nothing",
    },
    {
        .name = "expire",
        .kind = OPTION_TEXT,
        .target = offsetof(struct arguments, expire),
        .value = "AGE",
        .help = "Drop unreachable objects older than AGE (30d)",
    },
    {0},
};

const struct command command_gc = {
    .name = "gc",
    .run = gc_run,
    .needs = NEEDS_STORE,
    .summary = "Drop what nothing needs, pack the rest",
    .details = "Deleted branches and what a reset left are kept for 90 days, and objects that "
               "nothing reaches for 30; AGE (30d, 2w, 12h, 45m, 10s, now) changes the latter. "
               "What is needed goes into one pack, which is read back before anything is removed. "
               "No version and no id changes. Others' writing waits meanwhile.\n\n"
               "There is seldom a reason to run it: commits pack loose objects by themselves when "
               "there are many.",
    .examples = "vera gc --dry-run\n"
                "vera gc --expire 7d",
    .operands = operands,
    .options = options,
    .arguments_size = sizeof(struct arguments),
};
