/* vera query: the versions that an expression matches. */
#include <stddef.h>
#include <stdlib.h>
#include <string.h>

#include "cli/describe.h"
#include "cli/log_line.h"
#include "cli/table.h"

#define METRIC "metric."

struct query_arguments {
    const char *sort;
    struct cli_count max;
    bool table;
};

#define AUTO_QUERY(name) __attribute__((cleanup(query_release))) struct query *name = NULL

struct versions {
    struct version *versions;
    size_t count;
};
#define AUTO_VERSIONS(name) __attribute__((cleanup(versions_release))) struct versions name = {0}

static void versions_release(struct versions *list)
{
    for (size_t i = 0; i < list->count; i++)
        version_release(&list->versions[i]);
    free(list->versions);
}

static int versions_read(struct versions *out, struct cli *cli, const struct query_result *result)
{
    int err = 0;

    if (!(out->versions = array_new(result->count, sizeof(*out->versions))))
        return error_wrap(E_NOMEM, "query");
    for (; !err && out->count < result->count; out->count += !err) {
        if (!(err = interrupt_check()))
            err = store_version(
                &out->versions[out->count], cli->store, &result->commits[out->count]
            );
    }
    return err;
}

/* Lines */

static int lines_print(struct cli *cli, struct query_result *result)
{
    AUTO_DECORATIONS(decorations);
    int err = decorations_take(&decorations, &result->branches, &result->tags, &result->remotes);

    for (size_t i = 0; !err && i < result->count; i++) {
        AUTO_VERSION(version);
        AUTO_BUF(line);
        if ((err = interrupt_check()) ||
            (err = store_version(&version, cli->store, &result->commits[i])))
            break;
        if (cli->json) {
            err = log_version_json(&decorations, &version);
            continue;
        }
        if ((err = log_version_line(&line, &decorations, &version)))
            break;
        const char *text = buf_text(&line);
        if (!text)
            return E_NOMEM;
        cli_say(cli, "%s", text);
    }
    return err;
}

/* The table: commit, date, the keys that were asked for, rank, the other metrics, the message */

struct layout {
    char **metrics; /* those of the results, each once, that the query does not name */
    size_t metric_count, metric_capacity;
};

static void layout_release(struct layout *layout)
{
    free(layout->metrics);
}

static bool is_named(const struct query *query, const char *metric)
{
    for (size_t i = 0; query_key_at(query, i); i++) {
        const char *key = query_key_at(query, i);
        if (strncmp(key, METRIC, strlen(METRIC)) == 0 && strcmp(key + strlen(METRIC), metric) == 0)
            return true;
    }
    return false;
}

#define METRICS_MAX 16 /* more columns than a line has room for */

static int
metrics_collect(struct layout *layout, const struct query *query, const struct versions *list)
{
    if (!(layout->metrics = array_new(METRICS_MAX, sizeof(*layout->metrics))))
        return error_wrap(E_NOMEM, "query");
    for (size_t i = 0; i < list->count; i++) {
        for (size_t k = 0; k < list->versions[i].metric_count; k++) {
            char *name = list->versions[i].metrics[k].name;
            bool known = is_named(query, name);
            for (size_t m = 0; m < layout->metric_count && !known; m++)
                known = strcmp(layout->metrics[m], name) == 0;
            if (!known && layout->metric_count < METRICS_MAX)
                layout->metrics[layout->metric_count++] = name;
        }
    }
    return 0;
}

static int key_column(struct table *table, const struct query_result *result, const char *key)
{
    bool is_metric = strncmp(key, METRIC, strlen(METRIC)) == 0;
    size_t column = table->column_count;
    int err = table_add_column(table, is_metric ? key + strlen(METRIC) : key);

    for (size_t i = 0; !err && i < result->count; i++) {
        AUTO_BUF(text);
        if (!(err = query_value(&text, result, i, key)))
            err = table_set(table, i, column, buf_bytes(&text));
    }
    return err;
}

static int keys_fill(
    struct table *table,
    const struct query *query,
    const struct query_result *result,
    const struct layout *layout
)
{
    bool has_rank = false;
    int err = 0;

    for (size_t i = 0; !err && query_key_at(query, i); i++) {
        const char *key = query_key_at(query, i);
        has_rank |= strcmp(key, "rank") == 0;
        if (strcmp(key, "date") != 0)
            err = key_column(table, result, key);
    }
    if (!err && !has_rank)
        err = key_column(table, result, "rank");
    for (size_t i = 0; !err && i < layout->metric_count; i++) {
        AUTO_BUF(key);
        if ((err = buf_printf(&key, METRIC "%s", layout->metrics[i])))
            break;
        const char *text = buf_text(&key);
        err = text ? key_column(table, result, text) : E_NOMEM;
    }
    return err;
}

static int table_fill(struct table *table, const struct versions *list)
{
    int err;

    if ((err = table_add_column(table, "commit")) || (err = table_add_column(table, "date")))
        return err;
    for (size_t i = 0; !err && i < list->count; i++) {
        const struct version *version = &list->versions[i];
        char time[32];
        cli_time(time, version->time, version->time_offset, false);
        size_t len = strlen(time) < 16 ? strlen(time) : 16; /* to the minute */
        err = table_set(table, i, 0, text_bytes(short_commit(&version->id).text));
        if (!err)
            err = table_set(table, i, 1, (struct bytes){(const uint8_t *)time, len});
    }
    return err;
}

static int messages_fill(struct table *table, const struct versions *list)
{
    size_t column = table->column_count;
    int err = table_add_column(table, "message");

    for (size_t i = 0; !err && i < list->count; i++)
        err = table_set(table, i, column, message_title(list->versions[i].message));
    return err;
}

static int
table_print(struct cli *cli, const struct query *query, const struct query_result *result)
{
    AUTO_TABLE(table);
    AUTO_VERSIONS(list);
    __attribute__((cleanup(layout_release))) struct layout layout = {0};
    size_t columns = 4 + METRICS_MAX;
    int err;

    if (!result->count)
        return 0;
    for (size_t i = 0; query_key_at(query, i); i++)
        columns++;
    if ((err = versions_read(&list, cli, result)) ||
        (err = metrics_collect(&layout, query, &list)) ||
        (err = table_init(&table, columns, result->count)) || (err = table_fill(&table, &list)) ||
        (err = keys_fill(&table, query, result, &layout)) || (err = messages_fill(&table, &list)))
        return err;
    return table_say(cli, &table, 0);
}

/* The command */

static int query_run(struct cli *cli, const void *arguments_of)
{
    const struct query_arguments *arguments = arguments_of;
    const char *expression = cli->operand_count ? cli->operands[0] : NULL;
    size_t limit = arguments->max.value < SIZE_MAX ? (size_t)arguments->max.value : SIZE_MAX;
    AUTO_QUERY(query);
    AUTO_QUERY_RESULT(result);

    int err = query_parse(&query, expression, arguments->sort);
    if (err)
        return err == E_INVALID ? CLI_USAGE : err;
    if (arguments->max.given && !limit)
        return 0;
    if ((err = store_query(&result, cli->store, query, limit)))
        return err;
    if (arguments->table && !cli->json)
        err = table_print(cli, query, &result);
    else
        err = lines_print(cli, &result);
    if (!err && result.unreadable)
        cli_note(
            "vera: warning: %zu versions could not be read; 'vera fsck' names what is damaged",
            result.unreadable
        );
    return err;
}

static const struct operand operands[] = {
    {"EXPR", true, false, COMPLETE_NOTHING, "What is to be true of them (every version)"},
    {0},
};

#define FIELD(name) offsetof(struct query_arguments, name)
static const struct option options[] = {
    {"sort", 0, OPTION_TEXT, FIELD(sort), "KEY", COMPLETE_NOTHING,
     "Smallest first; with a minus, -KEY, largest first"},
    {"", 'n', OPTION_COUNT, FIELD(max), "N", COMPLETE_NOTHING, "The first N only"},
    {"table", 0, OPTION_FLAG, FIELD(table), NULL, COMPLETE_NOTHING,
     "In columns: what the query names, and the metrics"},
    {0},
};

const struct command command_query = {
    .name = "query",
    .run = query_run,
    .needs = NEEDS_STORE,
    .summary = "Find versions by what they are and by their metrics",
    .details =
        "Among all that branches, tags, remote branches and HEAD reach, newest first. Keys:\n\n"
        "rank, seed, d_initial, params (trained values), layers (how many are adapted), "
        "metric.NAME: numbers.\n\n"
        "kind, base (as in adapter_config.json): texts.\n\n"
        "targets: last parts of the modules' names; = asks whether one of them is the text, or all "
        "of them, as in \"key,query\".\n\n"
        "branch: any branch, or remote branch, whose history holds the version.\n\n"
        "date: 2026-11-01 is that day, 2026-11-01T12:00 that minute, in local time unless Z or "
        "+01:00 follows. = is within it, < before it, > behind it.\n\n"
        "Comparisons (=, !=, <, <=, >, >=; texts: = and !=) are joined by and, or, not and "
        "parentheses; not binds closest, then and. Texts with spaces or marks are put in quotes. "
        "What a version does not have makes a comparison false, != too; 'not metric.rte>0.8' is "
        "also true where there is no rte.\n\n"
        "Versions without the KEY of --sort come last.",
    .examples = "vera query 'rank<=256 and metric.rte>0.78' --sort -metric.rte -n 5\n"
                "vera query 'branch=main and date>=2026-11-01' --table\n"
                "vera query 'not (seed=0 or base=\"org/model\")' --json",
    .operands = operands,
    .options = options,
    .arguments_size = sizeof(struct query_arguments),
};
