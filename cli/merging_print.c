/* What merge, revert and cherry-pick say: conflicts, warnings, the result. */
#include <stdlib.h>
#include <string.h>

#include "cli/describe.h"
#include "cli/merging.h"
#include "cli/output.h"

#define WARN_RESIDUAL 0.5
#define WORST_MAX     8 /* modules that a person is told of */

static bool is_measured(const struct merging *merging)
{
    return merging->settings.prefer == PREFER_NONE;
}

/* Conflicts */

static int conflicts_error(const struct merging *merging)
{
    const struct conflicts *conflicts = &merging->merge.conflicts;

    int err = error_set(
        E_CONFLICT, "%zu conflict%s, nothing was changed", conflicts->count,
        conflicts->count == 1 ? "" : "s"
    );
    for (size_t i = 0; i < conflicts->count; i++)
        err = error_detail(err, "%s: %s", conflicts->items[i].name, conflicts->items[i].why);
    return error_hint(
        err, "--strategy ours or theirs takes one side's wherever both changed something"
    );
}

/* A module of which something was lost. */
struct loss {
    double residual;
    size_t module;
};

static int loss_compare(const void *a, const void *b)
{
    const struct loss *x = a, *y = b;

    if (x->residual != y->residual)
        return x->residual < y->residual ? 1 : -1;
    return (x->module > y->module) - (x->module < y->module);
}

/* The largest residual first. Owned by the caller. */
static int losses_find(struct loss **out, size_t *count, const struct merging *merging)
{
    const struct merge *merge = &merging->merge.modules;
    struct loss *losses = array_new(merge->count, sizeof(*losses));

    if (!losses)
        return error_wrap(E_NOMEM, "merge");
    *count = 0;
    for (size_t i = 0; i < merge->count; i++) {
        if (merge->modules[i].residual_norm > 0)
            losses[(*count)++] = (struct loss){merge->modules[i].residual, i};
    }
    qsort(losses, *count, sizeof(*losses), loss_compare);
    *out = losses;
    return 0;
}

static int residual_error(const struct merging *merging)
{
    const struct merge *merge = &merging->merge.modules;
    AUTO_FREE(struct loss, losses);
    size_t count = 0;

    int err = losses_find(&losses, &count, merging);
    if (err)
        return err;
    err = error_set(
        E_CONFLICT,
        "the two changes do not fit into one adapter: residual %.4g is above %.4g, nothing was "
        "changed",
        merge->residual, merging->settings.max_residual
    );
    for (size_t i = 0; i < count && i < WORST_MAX; i++)
        err = error_detail(
            err, "%s: residual %.4g", merging->merge.names[losses[i].module], losses[i].residual
        );
    if (count > WORST_MAX)
        err = error_detail(err, "and %zu modules more", count - WORST_MAX);
    return error_hint(
        err,
        "--strategy average keeps more, ours or theirs all of one side; --max-residual %.2g "
        "accepts it; --dry-run --report tells what LoRA would need",
        merge->residual + 0.01
    );
}

int merging_conflict(const struct merging *merging)
{
    if (merging->merge.conflicts.count)
        return conflicts_error(merging);
    if (is_measured(merging) && merging->merge.modules.residual > merging->settings.max_residual)
        return residual_error(merging);
    return 0;
}

/* JSON */

static void number_json(struct json_writer *writer, const char *key, double value, bool applies)
{
    json_write_key(writer, key);
    if (applies)
        json_write_double(writer, value);
    else
        json_write_null(writer);
}

static void modules_json(struct json_writer *writer, const struct merging *merging)
{
    const struct merge *merge = &merging->merge.modules;

    json_write_key(writer, "modules");
    json_write_array_begin(writer);
    for (size_t i = 0; i < merge->count; i++) {
        json_write_object_begin(writer);
        json_write_key(writer, "name");
        json_write_text(writer, merging->merge.names[i]);
        json_write_key(writer, "taken");
        json_write_text(writer, merge_taken_name(merge->modules[i].taken));
        number_json(writer, "residual", merge->modules[i].residual, is_measured(merging));
        json_write_object_end(writer);
    }
    json_write_array_end(writer);
}

/* What is in conflict by name; where the residual is too large, the modules that exceed it, or else
   the worst one. */
static int conflicts_json(struct json_writer *writer, const struct merging *merging, int err)
{
    const struct conflicts *conflicts = &merging->merge.conflicts;
    AUTO_FREE(struct loss, losses);
    size_t count = 0;

    int failed = err && !conflicts->count ? losses_find(&losses, &count, merging) : 0;
    if (failed)
        return failed;
    json_write_key(writer, "conflicts");
    json_write_array_begin(writer);
    for (size_t i = 0; i < conflicts->count; i++)
        json_write_text(writer, conflicts->items[i].name);
    for (size_t i = 0; i < count; i++) {
        if (i == 0 || losses[i].residual > merging->settings.max_residual)
            json_write_text(writer, merging->merge.names[losses[i].module]);
    }
    json_write_array_end(writer);
    return 0;
}

static void ranks_json(struct json_writer *writer, const struct merging *merging)
{
    const struct merge *merge = &merging->merge.modules;
    bool has = merging->settings.options.ranks && merging->merge.measured;

    json_write_key(writer, "lora_rank");
    if (!has) {
        json_write_null(writer);
        return;
    }
    json_write_object_begin(writer);
    describe_uint_json(writer, "0.9", merge->rank_90);
    describe_uint_json(writer, "0.99", merge->rank_99);
    describe_uint_json(writer, "0.999", merge->rank_999);
    json_write_object_end(writer);
}

static int merging_json(const struct merging *merging, int err)
{
    const struct merging_settings *settings = &merging->settings;
    const struct commit_id *commit = merging->is_committed ? &merging->result.commit : NULL;
    bool has_snapshot = merging->snapshot.manifest.len > 0;
    bool has_residual = is_measured(merging) && !merging->merge.conflicts.count;
    struct json_writer writer;
    AUTO_BUF(json);

    cli_json_begin(&writer, &json);
    cli_json_commit(&writer, "commit", commit);
    cli_json_digest(&writer, "snapshot", has_snapshot ? &merging->snapshot.id : NULL, true);
    json_write_key(&writer, "branch");
    json_write_text(&writer, merging->task->branch);
    cli_json_commit(&writer, "base", &merging->task->commits[VERSION_BASE]);
    json_write_key(&writer, "strategy");
    json_write_text(&writer, settings->strategy);
    number_json(&writer, "weight", settings->options.weight, is_measured(merging));
    json_write_key(&writer, "fast_forward");
    json_write_bool(&writer, false);
    number_json(&writer, "residual", merging->merge.modules.residual, has_residual);
    number_json(&writer, "lost", merging->merge.modules.lost, has_residual);
    modules_json(&writer, merging);
    int failed = conflicts_json(&writer, merging, err);
    if (failed)
        return failed;
    ranks_json(&writer, merging);
    if (err)
        output_error_json(&writer, err);
    return cli_json_end(&writer);
}

int merging_print_none(struct cli *cli, const struct commit_id *commit, bool fast_forward)
{
    static const char *const nulls[] = {"strategy", "weight"};
    static const char *const measures[] = {"residual", "lost"};
    struct json_writer writer;
    AUTO_BUF(json);

    if (!cli->json)
        return 0;
    cli_json_begin(&writer, &json);
    cli_json_commit(&writer, "commit", commit);
    for (size_t i = 0; i < sizeof(nulls) / sizeof(nulls[0]); i++) {
        json_write_key(&writer, nulls[i]);
        json_write_null(&writer);
    }
    json_write_key(&writer, "fast_forward");
    json_write_bool(&writer, fast_forward);
    for (size_t i = 0; i < sizeof(measures) / sizeof(measures[0]); i++) {
        json_write_key(&writer, measures[i]);
        json_write_null(&writer);
    }
    json_write_key(&writer, "modules");
    json_write_array_begin(&writer);
    json_write_array_end(&writer);
    json_write_key(&writer, "conflicts");
    json_write_array_begin(&writer);
    json_write_array_end(&writer);
    json_write_key(&writer, "lora_rank");
    json_write_null(&writer);
    return cli_json_end(&writer);
}

/* Words */

static int taken_say(struct cli *cli, const struct merging *merging)
{
    static const char *const words[] = {
        [MERGE_BASE] = "unchanged",     [MERGE_OURS] = "ours",     [MERGE_THEIRS] = "theirs",
        [MERGE_BOTH] = "changed alike", [MERGE_FITTED] = "fitted",
    };
    const struct merge *merge = &merging->merge.modules;
    size_t counts[sizeof(words) / sizeof(words[0])] = {0};
    AUTO_BUF(line);
    int err = 0;

    for (size_t i = 0; i < merge->count; i++)
        counts[merge->modules[i].taken]++;
    for (size_t i = 0; !err && i < sizeof(words) / sizeof(words[0]); i++) {
        if (counts[i])
            err = buf_printf(&line, "%s%zu %s", line.len ? ", " : "", counts[i], words[i]);
    }
    return err ? err : describe_say(cli, "modules", &line);
}

static int residual_say(struct cli *cli, const struct merging *merging)
{
    const struct merge *merge = &merging->merge.modules;
    AUTO_BUF(line);

    if (!is_measured(merging) || !merging->merge.measured)
        return 0;
    int err = buf_printf(
        &line, "%.4g of the larger change (%.3g%% of what was wanted is lost)", merge->residual,
        100 * merge->lost
    );
    return err ? err : describe_say(cli, "residual", &line);
}

static int report_say(struct cli *cli, const struct merging *merging)
{
    const struct merge *merge = &merging->merge.modules;

    if (!merging->task->arguments->report)
        return 0;
    for (size_t i = 0; i < merge->count; i++) {
        const struct merged_module *module = &merge->modules[i];
        char residual[16] = "";
        if (module->residual_norm > 0)
            snprintf(residual, sizeof(residual), "%.4f", module->residual);
        cli_say(
            cli, "  %8s  %-6s  %s", residual, merge_taken_name(module->taken),
            merging->merge.names[i]
        );
    }
    if (merging->settings.options.ranks && merging->merge.measured)
        cli_say(
            cli, "  %-8s rank %zu keeps 90%% of the wanted change, %zu 99%%, %zu 99.9%%", "as LoRA",
            merge->rank_90, merge->rank_99, merge->rank_999
        );
    return 0;
}

static void warnings_note(const struct merging *merging)
{
    const struct merge *merge = &merging->merge.modules;

    for (size_t i = 0; i < merge->count; i++) {
        if (merge->modules[i].residual > WARN_RESIDUAL)
            cli_note(
                "vera: warning: %s: residual %.4g, most of one side's change is lost there",
                merging->merge.names[i], merge->modules[i].residual
            );
    }
}

static int title_say(struct cli *cli, const struct merging *merging)
{
    const struct merging_task *task = merging->task;
    const char *message = task->arguments->message ? task->arguments->message : task->message;
    struct bytes title = message_title(message);

    if (!merging->is_committed) {
        cli_say(
            cli, "[%s, not written] %.*s", task->branch, (int)title.len, (const char *)title.data
        );
        return 0;
    }
    cli_say(
        cli, "[%s %s] %.*s", task->branch, short_commit(&merging->result.commit).text,
        (int)title.len, (const char *)title.data
    );
    return 0;
}

static int strategy_say(struct cli *cli, const struct merging *merging)
{
    const struct merging_settings *settings = &merging->settings;
    AUTO_BUF(line);

    int err = buf_append_text(&line, settings->strategy);
    if (!err && is_measured(merging))
        err = buf_printf(&line, ", weight %.4g", settings->options.weight);
    return err ? err : describe_say(cli, "strategy", &line);
}

int merging_print(struct cli *cli, const struct merging *merging, int err)
{
    int failed;

    if (err) {
        if (merging->task->arguments->report && !merging->merge.conflicts.count)
            (void)!report_say(cli, merging);
        if (cli->json && (failed = merging_json(merging, err)))
            return failed;
        output_error(err, false);
        return CLI_DIFFERENT;
    }
    if ((failed = title_say(cli, merging)) || (failed = strategy_say(cli, merging)) ||
        (failed = taken_say(cli, merging)) || (failed = residual_say(cli, merging)) ||
        (failed = report_say(cli, merging)))
        return failed;
    warnings_note(merging);
    return cli->json ? merging_json(merging, 0) : 0;
}
