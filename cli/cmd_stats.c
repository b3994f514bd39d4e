/* vera stats: how many versions there are, what they would take as directories, and what they take
   here. */
#include <inttypes.h>
#include <string.h>

#include "cli/describe.h"

#define AUTO_STATS(name) __attribute__((cleanup(store_stats_release))) struct store_stats name = {0}

static double ratio(const struct store_stats *stats)
{
    return stats->stored_bytes ? (double)stats->raw_bytes / (double)stats->stored_bytes : 0;
}

/* A part of the stored bytes, for scripts and for people. */
struct part {
    const char *key, *label;
    uint64_t bytes;
};
#define PARTS 9

static void parts_list(struct part out[PARTS], const struct stats_parts *parts)
{
    const struct part list[PARTS] = {
        {"vectors", "vectors", parts->vectors},
        {"bases", "bases that no seed gives", parts->bases},
        {"files", "other files of versions", parts->files},
        {"trees", "trees", parts->trees},
        {"commits", "commits", parts->commits},
        {"unreached", "what no ref reaches", parts->unreached},
        {"index", "index, for queries", parts->index},
        {"refs", "branches, tags, reflogs", parts->refs},
        {"other", "git's own", parts->other},
    };

    memcpy(out, list, sizeof(list));
}

static int stats_json(const struct store_stats *stats)
{
    struct part parts[PARTS];
    struct json_writer writer;
    AUTO_BUF(json);

    cli_json_begin(&writer, &json);
    describe_uint_json(&writer, "versions", stats->versions);
    describe_uint_json(&writer, "snapshots", stats->snapshots);
    describe_uint_json(&writer, "raw_bytes", stats->raw_bytes);
    describe_uint_json(&writer, "stored_bytes", stats->stored_bytes);
    describe_uint_json(&writer, "allocated_bytes", stats->allocated_bytes);
    json_write_key(&writer, "ratio");
    json_write_double(&writer, ratio(stats));
    parts_list(parts, &stats->parts);
    json_write_key(&writer, "where");
    json_write_object_begin(&writer);
    for (size_t i = 0; i < PARTS; i++)
        describe_uint_json(&writer, parts[i].key, parts[i].bytes);
    json_write_object_end(&writer);
    json_write_key(&writer, "branches");
    json_write_array_begin(&writer);
    for (size_t i = 0; i < stats->branch_count; i++) {
        json_write_object_begin(&writer);
        json_write_key(&writer, "name");
        json_write_text(&writer, stats->branches[i].name);
        describe_uint_json(&writer, "versions", stats->branches[i].versions);
        describe_uint_json(&writer, "stored_bytes", stats->branches[i].stored_bytes);
        json_write_object_end(&writer);
    }
    json_write_array_end(&writer);
    return cli_json_end(&writer);
}

static void parts_say(struct cli *cli, const struct store_stats *stats)
{
    struct part parts[PARTS];

    parts_list(parts, &stats->parts);
    cli_say(cli, "%s", "");
    cli_say(cli, "%-30s  %8s  %10s", "where", "share", "stored");
    for (size_t i = 0; i < PARTS; i++) {
        if (parts[i].bytes)
            cli_say(
                cli, "%-30s  %7.1f%%  %10s", parts[i].label,
                100.0 * (double)parts[i].bytes / (double)stats->stored_bytes,
                cli_size(parts[i].bytes)
            );
    }
}

static void stats_say(struct cli *cli, const struct store_stats *stats)
{
    cli_say(
        cli, "versions   %8" PRIu64 "  (%" PRIu64 " different snapshots)", stats->versions,
        stats->snapshots
    );
    cli_say(cli, "committed  %8s  as directories", cli_size(stats->raw_bytes));
    cli_say(
        cli, "stored     %8s  in files (%s on disk): 1/%.1f", cli_size(stats->stored_bytes),
        cli_size(stats->allocated_bytes), ratio(stats)
    );
    parts_say(cli, stats);
    if (!stats->branch_count)
        return;
    cli_say(cli, "%s", "");
    cli_say(cli, "%-30s  %8s  %10s", "branch", "versions", "stored");
    for (size_t i = 0; i < stats->branch_count; i++)
        cli_say(
            cli, "%-30s  %8" PRIu64 "  %10s", stats->branches[i].name, stats->branches[i].versions,
            cli_size(stats->branches[i].stored_bytes)
        );
}

static int stats_run(struct cli *cli, const void *arguments)
{
    AUTO_STATS(stats);
    int err = store_stats(&stats, cli->store);

    (void)arguments;
    if (err)
        return err;
    if (cli->json)
        return stats_json(&stats);
    stats_say(cli, &stats);
    return 0;
}

const struct command command_stats = {
    .name = "stats",
    .run = stats_run,
    .needs = NEEDS_STORE,
    .summary = "Show sizes: what was committed, what it takes, where, per branch",
    .details = "What branches share is counted for each of them.",
    .examples = "vera stats",
};
