/* vera prune: thin one branch by rules. The only command that rewrites history, and it says so. */
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

#include "cli/refs.h"

#define METRIC    "metric."
#define COUNT_MAX UINT64_C(1000000000)

struct arguments {
    struct cli_list keep;
    bool dry_run;
};

/* Rules */

static int rule_bad(const char *text)
{
    return cli_usage_error(
        "--keep '%s': a rule is last=N, every=N, best=metric.NAME or best=-metric.NAME", text
    );
}

static bool count_read(uint64_t *out, const char *text)
{
    size_t digits = strspn(text, "0123456789");

    *out = digits && digits <= 10 && !text[digits] ? strtoull(text, NULL, 10) : 0;
    return *out > 0 && *out <= COUNT_MAX;
}

static int rule_parse(struct prune_rule *out, const char *text)
{
    struct prune_rule rule = {.kind = PRUNE_LAST};
    const char *value = strchr(text, '=');

    if (!value++)
        return rule_bad(text);
    if (strncmp(text, "best=", strlen("best=")) == 0) {
        rule.kind = PRUNE_BEST;
        rule.lowest = *value == '-';
        value += rule.lowest;
        if (strncmp(value, METRIC, strlen(METRIC)) != 0 || !value[strlen(METRIC)])
            return rule_bad(text);
        rule.metric = value + strlen(METRIC);
    } else if (strncmp(text, "every=", strlen("every=")) == 0) {
        rule.kind = PRUNE_EVERY;
    } else if (strncmp(text, "last=", strlen("last=")) != 0) {
        return rule_bad(text);
    }
    if (rule.kind != PRUNE_BEST && !count_read(&rule.count, value))
        return rule_bad(text);
    *out = rule;
    return 0;
}

/* Those of --keep, and those behind the branch: "--keep last=10 every=100" are two. */
static int rules_parse(
    struct prune_rule **out, size_t *out_count, const struct cli *cli, const struct cli_list *keep
)
{
    size_t more = cli->operand_count - 1, count = keep->count + more;
    AUTO_FREE(struct prune_rule, rules);
    int err = 0;

    if (!keep->count)
        return cli_usage_error("--keep says which versions stay: nothing goes without it");
    if (!(rules = array_new(count, sizeof(*rules))))
        return E_NOMEM;
    for (size_t i = 0; !err && i < count; i++)
        err = rule_parse(
            &rules[i], i < keep->count ? keep->values[i] : cli->operands[1 + i - keep->count]
        );
    if (err)
        return err;
    *out = rules;
    *out_count = count;
    rules = NULL;
    return 0;
}

/* What is printed */

static size_t count_kept(const struct prune_result *result)
{
    size_t kept = 0;

    for (size_t i = 0; i < result->count; i++)
        kept += result->versions[i].kept;
    return kept;
}

static void
ids_json(struct json_writer *writer, const char *key, const struct prune_result *result, bool kept)
{
    char hex[COMMIT_HEX_SIZE];

    json_write_key(writer, key);
    json_write_array_begin(writer);
    for (size_t i = 0; i < result->count; i++) {
        if (result->versions[i].kept != kept)
            continue;
        commit_hex(hex, &result->versions[i].is);
        json_write_text(writer, hex);
    }
    json_write_array_end(writer);
}

static int prune_json(const struct cli *cli, const struct prune_result *result)
{
    struct json_writer writer;
    AUTO_BUF(json);

    cli_json_begin(&writer, &json);
    json_write_key(&writer, "branch");
    json_write_text(&writer, cli->operands[0]);
    cli_json_commit(&writer, "commit", &result->tip);
    cli_json_commit(&writer, "previous", &result->previous);
    ids_json(&writer, "kept", result, true);
    ids_json(&writer, "dropped", result, false);
    json_write_key(&writer, "changed");
    json_write_array_begin(&writer);
    for (size_t i = 0; i < result->count; i++) {
        const struct prune_version *version = &result->versions[i];
        if (!version->kept || commit_equal(&version->was, &version->is))
            continue;
        json_write_object_begin(&writer);
        cli_json_commit(&writer, "old", &version->was);
        cli_json_commit(&writer, "new", &version->is);
        json_write_object_end(&writer);
    }
    json_write_array_end(&writer);
    return cli_json_end(&writer);
}

/* A line for each version that would go or stay, or whose id is another now. */
static int version_say(struct cli *cli, const struct prune_version *version, bool dry_run)
{
    AUTO_BUF(title);

    if (!dry_run && (!version->kept || commit_equal(&version->was, &version->is)))
        return 0;
    int err = ref_title(&title, cli, &version->is);
    if (err)
        return err;
    const char *text = buf_text(&title);
    if (!text)
        return E_NOMEM;
    if (dry_run)
        cli_say(cli, "  %s %s", version->kept ? "keep" : "drop", text);
    else
        cli_say(cli, "  %s is now %s", short_commit(&version->was).text, text);
    return 0;
}

/* A remote takes the branch as it is now only if it is told to. */
static int remote_note(struct cli *cli)
{
    AUTO_REFS(refs);
    int err = store_refs(&refs, cli->store, REF_REMOTE);

    for (size_t i = 0; !err && i < refs.count; i++) {
        const char *name = refs.refs[i].name, *slash = strchr(name, '/');
        if (slash && strcmp(slash + 1, cli->operands[0]) == 0)
            cli_note(
                "hint: %s has the history as it was, and keeps it in here too: vera push %.*s %s "
                "--force",
                name, (int)(slash - name), name, slash + 1
            );
    }
    return err;
}

static int prune_say(struct cli *cli, const struct prune_result *result, bool dry_run)
{
    size_t kept = count_kept(result);
    const char *branch = cli->operands[0];
    int err = 0;

    if (!result->count) {
        cli_say(cli, "nothing to drop: other branches or tags reach every version of '%s'", branch);
        return 0;
    }
    if (kept == result->count) {
        cli_say(cli, "nothing to drop: all %zu versions of '%s' alone are kept", kept, branch);
        return 0;
    }
    if (dry_run)
        cli_say(
            cli, "would keep %zu of the %zu versions of '%s' alone", kept, result->count, branch
        );
    else
        cli_say(
            cli, "history of '%s' rewritten: %zu of its %zu versions kept, %zu dropped", branch,
            kept, result->count, result->count - kept
        );
    for (size_t i = 0; !err && i < result->count; i++)
        err = version_say(cli, &result->versions[i], dry_run);
    if (err || dry_run)
        return err;
    cli_note(
        "hint: it was at %s, which is kept for 90 days (vera branch --deleted); vera gc frees it "
        "then",
        short_commit(&result->previous).text
    );
    return remote_note(cli);
}

static int prune_run(struct cli *cli, const void *arguments_of)
{
    const struct arguments *arguments = arguments_of;
    struct prune_request request = {
        .branch = cli->operands[0], .dry_run = arguments->dry_run, .progress = cli->progress};
    struct prune_result result = {0};
    AUTO_FREE(struct prune_rule, rules);
    int err = rules_parse(&rules, &request.rule_count, cli, &arguments->keep);

    if (err)
        return err;
    request.rules = rules;
    if ((err = store_prune(&result, cli->store, &request)))
        return err;
    err = prune_say(cli, &result, request.dry_run);
    if (!err && cli->json)
        err = prune_json(cli, &result);
    prune_result_release(&result);
    return err;
}

static const struct operand operands[] = {
    {"BRANCH", false, false, COMPLETE_BRANCH, "The branch to be thinned"},
    {"RULE", true, true, COMPLETE_NOTHING, "More rules, as of --keep"},
    {0},
};

static const struct option options[] = {
    {
        .name = "keep",
        .kind = OPTION_LIST,
        .target = offsetof(struct arguments, keep),
        .value = "RULE",
        .help = "What stays: last=N, every=N, best=[-]metric.NAME",
    },
    {
        .name = "dry-run",
        .kind = OPTION_FLAG,
        .target = offsetof(struct arguments, dry_run),
        .help = "Say what would stay and what would go, change nothing",
    },
    {0},
};

const struct command command_prune = {
    .name = "prune",
    .run = prune_run,
    .needs = NEEDS_STORE,
    .summary = "Thin one branch by rules",
    .details =
        "Keeps the newest N versions (last=N), the first one and each N-th after it (every=N), the "
        "one with the highest value of a metric (best=metric.NAME) or with the lowest "
        "(best=-metric.NAME), of equal ones the newest; what any rule keeps stays, and so does the "
        "tip. Versions that went are counted on, so the same rules drop nothing more a second "
        "time. Only the branch's own versions are thinned: what another branch or a tag reaches "
        "stays as it is.\n\n"
        "This is the only command that rewrites history. From the first version that goes, the "
        "ones that stay are new commits, with other ids: the same adapters, byte for byte, the "
        "same snapshot ids, authors, dates and messages. The old tip is kept for 90 days: vera "
        "branch --deleted lists it, vera branch NAME REV brings it back, and vera gc frees the "
        "space after that.",
    .examples = "vera prune main --keep last=10 every=100 --dry-run\n"
                "vera prune sweep/7 --keep best=-metric.loss",
    .operands = operands,
    .options = options,
    .arguments_size = sizeof(struct arguments),
};
