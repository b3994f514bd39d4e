/* vera log: the history of a version, newest first, as git log shows it, with snapshots and
   metrics. */
#include <stddef.h>

#include "cli/describe.h"
#include "cli/drawing.h"
#include "cli/log_line.h"

struct log_arguments {
    struct cli_count max;
    bool oneline, graph, all;
};

struct log {
    struct cli *cli;
    const struct log_arguments *arguments;
    struct decorations decorations;
    struct drawing drawing;
    struct drawing_rows rows; /* of the commit at hand */
    struct bytes after;       /* those of rows.after that are still to be printed */
    size_t printed;
};

static void log_release(struct log *log)
{
    decorations_release(&log->decorations);
    drawing_release(&log->drawing);
    drawing_rows_release(&log->rows);
}
#define AUTO_LOG(name) __attribute__((cleanup(log_release))) struct log name = {0}

/* One line, with the graph's next row beside it. */
static int log_line(struct log *log, struct buf *text)
{
    struct bytes row = buf_bytes(&log->rows.rest);
    AUTO_BUF(line);
    int err = 0;

    if (log->arguments->graph) {
        text_next_line(&row, &log->after);
        if ((err = buf_printf(&line, "%.*s", (int)row.len, (const char *)row.data)))
            return err;
        if (text->len)
            err = buf_append_text(&line, " ");
    }
    if (err || (err = buf_append(&line, text->data, text->len)))
        return err;
    const char *whole = buf_text(&line);
    if (!whole)
        return E_NOMEM;
    cli_say(log->cli, "%s", whole);
    text->len = 0;
    return 0;
}

/* The rows of the graph above the commit, and those that its text begins beside. */
static int log_graph(struct log *log, const struct version *version)
{
    struct bytes before, row;
    AUTO_BUF(after);
    int err;

    if (!log->arguments->graph)
        return 0;
    if ((err = drawing_next(&log->rows, &log->drawing, version)))
        return err;
    before = buf_bytes(&log->rows.before);
    while (text_next_line(&row, &before))
        cli_say(log->cli, "%.*s", (int)row.len, (const char *)row.data);
    if ((err = buf_append(&after, log->rows.star.data, log->rows.star.len)) ||
        (err = buf_append_text(&after, "\n")) ||
        (err = buf_append(&after, log->rows.after.data, log->rows.after.len)))
        return err;
    buf_release(&log->rows.after);
    log->rows.after = buf_take(&after);
    log->after = buf_bytes(&log->rows.after);
    return 0;
}

/* Rows that no text was left for. */
static int log_graph_end(struct log *log)
{
    AUTO_BUF(nothing);
    int err = 0;

    while (!err && log->after.len)
        err = log_line(log, &nothing);
    return err;
}

static int version_oneline(struct log *log, const struct version *version)
{
    AUTO_BUF(text);
    int err = log_version_line(&text, &log->decorations, version);

    return err ? err : log_line(log, &text);
}

/* "commit ...", "snapshot ...", "Author: ..." */
static int version_head(struct log *log, const struct version *version)
{
    char hex[COMMIT_HEX_SIZE], time[32];
    AUTO_BUF(text);
    int err;

    commit_hex(hex, &version->id);
    if ((err = buf_printf(&text, "commit %s", hex)) ||
        (err = decorate(&text, &log->decorations, &version->id)) || (err = log_line(log, &text)))
        return err;
    if ((err = buf_printf(&text, "snapshot %s", short_digest(&version->snapshot).text)) ||
        (err = log_line(log, &text)))
        return err;
    if (version->parent_count > 1) {
        err = buf_append_text(&text, "Merge:   ");
        for (size_t i = 0; !err && i < version->parent_count; i++)
            err = buf_printf(&text, "%s%s", i ? " " : "", short_commit(&version->parents[i]).text);
        if (err || (err = log_line(log, &text)))
            return err;
    }
    err = buf_printf(&text, "Author:  %s <%s>", version->author_name, version->author_email);
    if (err || (err = log_line(log, &text)))
        return err;
    cli_time(time, version->time, version->time_offset, false);
    err = buf_printf(&text, "Date:    %s", time);
    return err ? err : log_line(log, &text);
}

static int version_whole(struct log *log, const struct version *version)
{
    AUTO_BUF(body);
    AUTO_BUF(text);
    struct bytes rest, line;
    int err;

    if ((err = version_head(log, version)) || (err = describe_metrics(&body, version)))
        return err;
    if (body.len &&
        ((err = buf_append_text(&text, "Metrics: ")) ||
         (err = buf_append(&text, body.data, body.len)) || (err = log_line(log, &text))))
        return err;
    body.len = 0;
    if ((err = log_line(log, &text)) || (err = message_body(&body, version->message)))
        return err;
    rest = buf_bytes(&body);
    while (!err && text_next_line(&line, &rest)) {
        if (line.len)
            err = buf_printf(&text, "    %.*s", (int)line.len, (const char *)line.data);
        if (!err)
            err = log_line(log, &text);
    }
    return err;
}

static int version_say(struct log *log, const struct version *version)
{
    AUTO_BUF(nothing);
    int err;

    if (log->arguments->oneline) {
        if ((err = log_graph(log, version)) || (err = version_oneline(log, version)))
            return err;
        return log_graph_end(log);
    }
    if (log->printed && (err = log_line(log, &nothing)))
        return err;
    if ((err = log_graph(log, version)) || (err = version_whole(log, version)))
        return err;
    return log_graph_end(log);
}

static int log_walk(struct log *log, const struct history *history)
{
    int err = 0;

    for (; !err && log->printed < history->count; log->printed++) {
        AUTO_VERSION(version);
        if ((err = interrupt_check()) ||
            (err = store_version(&version, log->cli->store, &history->commits[log->printed])))
            break;
        err = log->cli->json ? log_version_json(&log->decorations, &version)
                             : version_say(log, &version);
    }
    return err;
}

static int log_run(struct cli *cli, const void *arguments_of)
{
    const struct log_arguments *arguments = arguments_of;
    const char *revision = cli->operand_count ? cli->operands[0] : "HEAD";
    size_t limit = arguments->max.value < SIZE_MAX ? (size_t)arguments->max.value : SIZE_MAX;
    struct commit_id start;
    AUTO_HISTORY(history);
    AUTO_LOG(log);
    int err;

    if (arguments->all && cli->operand_count)
        return cli_usage_error("--all and a REV exclude each other");
    if (arguments->max.given && !limit)
        return 0;
    if (!arguments->all && (err = store_resolve(&start, cli->store, revision)))
        return err;
    log.cli = cli;
    log.arguments = arguments;
    if ((err = store_history(
             &history, cli->store, arguments->all ? NULL : &start, arguments->all ? 0 : 1, limit
         )) ||
        (err = decorations_read(&log.decorations, cli)) || (err = log_walk(&log, &history)))
        return err;
    if (history.is_cut) {
        cli_note("vera: this clone is shallow: what came before is not in it");
        cli_note("hint: git --git-dir=%s fetch --unshallow", store_path(cli->store));
    }
    return 0;
}

static const struct operand operands[] = {
    {"REV", true, false, COMPLETE_REVISION, "Where to begin (HEAD)"},
    {0},
};

#define FIELD(name) offsetof(struct log_arguments, name)
static const struct option options[] = {
    {"", 'n', OPTION_COUNT, FIELD(max), "N", COMPLETE_NOTHING, "The N newest only"},
    {"oneline", 0, OPTION_FLAG, FIELD(oneline), NULL, COMPLETE_NOTHING, "A line for each version"},
    {"graph", 0, OPTION_FLAG, FIELD(graph), NULL, COMPLETE_NOTHING, "Draw who came from whom"},
    {"all", 0, OPTION_FLAG, FIELD(all), NULL, COMPLETE_NOTHING, "Every branch and tag"},
    {0},
};

const struct command command_log = {
    .name = "log",
    .run = log_run,
    .needs = NEEDS_STORE,
    .summary = "Show the history of a version",
    .details =
        "Newest first. A line of --oneline has the commit, the snapshot, what stands there, the "
        "message's first line and the metrics. With --json `branches` are those whose tip the "
        "version is.",
    .examples = "vera log --oneline -n 5\n"
                "vera log --graph --oneline --all\n"
                "vera log --json | jq .metrics",
    .operands = operands,
    .options = options,
    .arguments_size = sizeof(struct log_arguments),
};
