#include "cli/merging.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#define MAX_RESIDUAL 0.25

void merging_release(struct merging *merging)
{
    for (size_t i = 0; i < VERSIONS; i++) {
        source_release(&merging->sources[i]);
        adapter_files_release(&merging->files[i]);
    }
    adapter_merge_release(&merging->merge);
    snapshot_release(&merging->snapshot);
    free(merging->result.branch);
}

/* Settings */

/* A finite number of at least `least`. */
static int number_parse(double *out, const char *option, const char *text, double least)
{
    char *end = NULL;

    if (!text)
        return 0;
    double value = strtod(text, &end);
    if (!*text || strspn(text, "0123456789+-.eE") != strlen(text) || *end || !isfinite(value) ||
        value < least)
        return cli_usage_error(
            "--%s '%s' is not a finite number%s", option, text, least == 0 ? " of 0 or more" : ""
        );
    *out = value;
    return 0;
}

int merging_settings(struct merging_settings *out, const struct merging_arguments *arguments)
{
    const char *strategy = arguments->strategy ? arguments->strategy : "task";
    bool is_average = strcmp(strategy, "average") == 0;
    struct merging_settings settings = {
        .strategy = strategy,
        .prefer = strcmp(strategy, "ours") == 0     ? PREFER_OURS
                  : strcmp(strategy, "theirs") == 0 ? PREFER_THEIRS
                                                    : PREFER_NONE,
        .options =
            {
                .strategy = is_average ? MERGE_AVERAGE : MERGE_TASK,
                .weight = is_average ? MERGE_WEIGHT_AVERAGE : MERGE_WEIGHT_TASK,
            },
        .max_residual = MAX_RESIDUAL,
    };
    int err;

    if (settings.prefer != PREFER_NONE && (arguments->weight || arguments->max_residual))
        return cli_usage_error(
            "--strategy %s takes sides: it has no %s", strategy,
            arguments->weight ? "weight" : "residual"
        );
    settings.options.ranks = arguments->report && settings.prefer == PREFER_NONE;
    if ((err = number_parse(&settings.options.weight, "weight", arguments->weight, -INFINITY)) ||
        (err = number_parse(&settings.max_residual, "max-residual", arguments->max_residual, 0)))
        return err;
    *out = settings;
    return 0;
}

/* Reading */

static int versions_load(struct merging *merging, struct cli *cli)
{
    char hex[COMMIT_HEX_SIZE];
    int err = 0;

    for (size_t i = 0; !err && i < VERSIONS; i++) {
        commit_hex(hex, &merging->task->commits[i]);
        if ((err = source_load(&merging->sources[i], cli, hex)) == 0)
            err = snapshot_restore(&merging->files[i], &merging->sources[i].snapshot);
        if (err)
            err = error_wrap(err, "%s", merging->task->names[i]);
    }
    return err;
}

/* Writing */

/* The merged files as a snapshot, whole and checked, whether it is committed or not. */
static int snapshot_make(struct merging *merging)
{
    AUTO_BASE_FACTS(facts);
    bool has = false;

    int err = merging_facts(&facts, &has, merging);
    if (err)
        return err;
    err = snapshot_encode(&merging->snapshot, &merging->merge.files, has ? &facts : NULL);
    return err ? error_wrap(err, "the merge") : 0;
}

/* A revert or a pick that leaves everything as it is is none. */
static int change_check(const struct merging *merging)
{
    const struct merging_task *task = merging->task;
    const struct digest *tip = &merging->sources[VERSION_OURS].snapshot.id;

    if (task->is_merge || !digest_equal(tip, &merging->snapshot.id))
        return 0;
    return error_set(
        E_EXISTS, "nothing would change: the tip of %s has this already", task->branch
    );
}

static int request_commit(struct merging *merging, struct cli *cli)
{
    const struct merging_task *task = merging->task;
    const struct merging_settings *settings = &merging->settings;
    bool is_fit = settings->prefer == PREFER_NONE;
    char weight[32], residual[32];
    const struct trailer trailers[] = {
        {"Merge-Strategy", settings->strategy},
        {"Merge-Weight", weight},
        {"Merge-Residual", residual},
    };
    const struct commit_request request = {
        .snapshot = &merging->snapshot,
        .branch = task->branch,
        .message = task->arguments->message ? task->arguments->message : task->message,
        .author = task->author,
        .trailers = trailers,
        .trailer_count = is_fit ? 3 : 1,
        .allow_empty = task->is_merge,
        .onto = &task->commits[VERSION_OURS],
        .merged = task->is_merge ? &task->commits[VERSION_THEIRS] : NULL,
        .action = task->action,
    };

    snprintf(weight, sizeof(weight), "%.9g", settings->options.weight);
    snprintf(residual, sizeof(residual), "%.6g", merging->merge.modules.residual);
    int err = store_commit(&merging->result, cli->store, &request);
    merging->is_committed = err == 0;
    return err;
}

int merging_run(struct cli *cli, const struct merging_task *task)
{
    AUTO_MERGING(merging);
    int err;

    merging.task = task;
    merging.progress = cli->progress;
    if ((err = merging_settings(&merging.settings, task->arguments)) ||
        (err = versions_load(&merging, cli)) || (err = merging_merge(&merging)))
        return err;
    if ((err = merging_conflict(&merging)))
        return err == E_CONFLICT ? merging_print(cli, &merging, err) : err;
    if ((err = snapshot_make(&merging)) || (err = change_check(&merging)))
        return err;
    if (!task->arguments->dry_run && (err = request_commit(&merging, cli)))
        return err;
    return merging_print(cli, &merging, 0);
}
