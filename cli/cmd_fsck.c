/* vera fsck: read and hash everything that any ref reaches; name what is damaged, and which
   versions and branches that touches. Damage is an answer, not an error: exit status 1. */
#include <inttypes.h>
#include <string.h>

#include "cli/describe.h"
#include "store/url.h"

#define ROUNDS_MAX 1000 /* of repairing what the round before has brought to light */

struct arguments {
    const char *repair;
};

/* What was fetched whole, over all rounds. */
struct repaired {
    struct buf ids; /* struct commit_id, one after the other */
};

static void repaired_release(struct repaired *repaired)
{
    buf_release(&repaired->ids);
}

#define AUTO_REPORT(name)                                                                          \
    __attribute__((cleanup(fsck_report_release))) struct fsck_report name = {0}

static void touched_json(
    struct json_writer *writer,
    const struct commit_id *versions,
    size_t version_count,
    char *const *branches,
    size_t branch_count
)
{
    char hex[COMMIT_HEX_SIZE];

    json_write_key(writer, "versions");
    json_write_array_begin(writer);
    for (size_t i = 0; i < version_count; i++) {
        commit_hex(hex, &versions[i]);
        json_write_text(writer, hex);
    }
    json_write_array_end(writer);
    json_write_key(writer, "branches");
    json_write_array_begin(writer);
    for (size_t i = 0; i < branch_count; i++)
        json_write_text(writer, branches[i]);
    json_write_array_end(writer);
}

static void bad_json(struct json_writer *writer, const struct fsck_bad *bad)
{
    json_write_object_begin(writer);
    json_write_key(writer, "object");
    json_write_text(writer, bad->object);
    json_write_key(writer, "problem");
    json_write_text(writer, bad->problem);
    touched_json(writer, bad->versions, bad->version_count, bad->branches, bad->branch_count);
    json_write_object_end(writer);
}

static void repaired_json(struct json_writer *writer, const struct repaired *repaired)
{
    char hex[COMMIT_HEX_SIZE];

    json_write_key(writer, "repaired");
    json_write_array_begin(writer);
    for (size_t at = 0; at < repaired->ids.len; at += sizeof(struct commit_id)) {
        struct commit_id id;
        memcpy(&id, repaired->ids.data + at, sizeof(id));
        commit_hex(hex, &id);
        json_write_text(writer, hex);
    }
    json_write_array_end(writer);
}

static int report_json(const struct fsck_report *report, const struct repaired *repaired)
{
    struct json_writer writer;
    AUTO_BUF(json);

    cli_json_begin(&writer, &json);
    json_write_key(&writer, "checked");
    json_write_object_begin(&writer);
    describe_uint_json(&writer, "objects", report->objects);
    describe_uint_json(&writer, "versions", report->versions);
    describe_uint_json(&writer, "snapshots", report->snapshots);
    describe_uint_json(&writer, "refs", report->refs);
    describe_uint_json(&writer, "bases", report->bases);
    describe_uint_json(&writer, "bytes", report->bytes);
    json_write_object_end(&writer);
    json_write_key(&writer, "bad");
    json_write_array_begin(&writer);
    for (size_t i = 0; i < report->bad_count; i++)
        bad_json(&writer, &report->bad[i]);
    json_write_array_end(&writer);
    json_write_key(&writer, "safe");
    json_write_object_begin(&writer);
    touched_json(
        &writer, report->safe_versions, report->safe_version_count, report->safe_branches,
        report->safe_branch_count
    );
    json_write_object_end(&writer);
    repaired_json(&writer, repaired);
    return cli_json_end(&writer);
}

static const char *plural(uint64_t count)
{
    return count == 1 ? "" : "s";
}

static int touched_say(
    struct cli *cli,
    const struct commit_id *ids,
    size_t id_count,
    char *const *names,
    size_t name_count
)
{
    AUTO_BUF(versions);
    AUTO_BUF(branches);
    struct word_list list = {.out = &versions};
    int err = 0;

    for (size_t i = 0; !err && i < id_count; i++)
        err = word_list_add(&list, short_commit(&ids[i]).text);
    if (err || (err = word_list_end(&list)) || (err = describe_say(cli, "versions", &versions)) ||
        (err = describe_names(&branches, names, name_count)))
        return err;
    return describe_say(cli, "branches", &branches);
}

static int bad_say(struct cli *cli, const struct fsck_bad *bad)
{
    cli_say(cli, "damaged: %s: %s", bad->object, bad->problem);
    return touched_say(cli, bad->versions, bad->version_count, bad->branches, bad->branch_count);
}

/* Nobody needs a list of them where everything is. */
static int safe_say(struct cli *cli, const struct fsck_report *report)
{
    if (!report->bad_count)
        return 0;
    cli_say(
        cli, "safe: %zu of %" PRIu64 " version%s", report->safe_version_count, report->versions,
        plural(report->versions)
    );
    return touched_say(
        cli, report->safe_versions, report->safe_version_count, report->safe_branches,
        report->safe_branch_count
    );
}

/* Damage to a ref, or to the index, is mended in other ways. */
static bool touches_versions(const struct fsck_report *report)
{
    for (size_t i = 0; i < report->bad_count; i++) {
        if (report->bad[i].version_count)
            return true;
    }
    return false;
}

static int report_say(struct cli *cli, const struct fsck_report *report)
{
    int err = 0;

    for (size_t i = 0; !err && i < report->bad_count; i++)
        err = bad_say(cli, &report->bad[i]);
    if (err || (err = safe_say(cli, report)))
        return err;
    cli_say(
        cli,
        "checked %" PRIu64 " objects (%s): %" PRIu64 " version%s, %" PRIu64 " ref%s, %" PRIu64
        " bas%s: %s",
        report->objects, cli_size(report->bytes), report->versions, plural(report->versions),
        report->refs, plural(report->refs), report->bases, report->bases == 1 ? "is" : "es",
        report->bad_count ? "damaged" : "all whole"
    );
    if (touches_versions(report))
        cli_note("hint: commit the same adapter again (--allow-empty): that version will be whole");
    return 0;
}

static bool was_repaired(const struct repaired *repaired, const struct commit_id *id)
{
    for (size_t at = 0; at < repaired->ids.len; at += sizeof(*id))
        if (memcmp(repaired->ids.data + at, id, sizeof(*id)) == 0)
            return true;
    return false;
}

/* One round: *count is what could be fetched and was not before. */
static int repair_round(
    size_t *count,
    struct repaired *repaired,
    struct cli *cli,
    const char *remote,
    const struct fsck_report *report
)
{
    struct repair_result result;
    int err = store_repair(&result, cli->store, remote, report);

    if (err)
        return err;
    for (size_t i = 0; err == 0 && i < result.count; i++) {
        if (was_repaired(repaired, &result.ids[i]))
            continue;
        (*count)++;
        err = buf_append(&repaired->ids, &result.ids[i], sizeof(result.ids[i]));
    }
    repair_result_release(&result);
    return err;
}

/* Check, repair, check again, until nothing is damaged or nothing more can be fetched. */
static int check_and_repair(
    struct fsck_report *report, struct repaired *repaired, struct cli *cli, const char *remote
)
{
    for (unsigned round = 0;; round++) {
        size_t count = 0;
        int err = store_fsck(report, cli->store, cli->progress);
        if (err || !remote || !report->bad_count || round >= ROUNDS_MAX)
            return err;
        err = repair_round(&count, repaired, cli, remote, report);
        if (err || !count)
            return err;
        fsck_report_release(report);
        *report = (struct fsck_report){0};
    }
}

static int repaired_say(struct cli *cli, const struct repaired *repaired, const char *remote)
{
    AUTO_FREE(char, shown);

    /* An address may hold a secret. */
    int err = strstr(remote, "://") ? url_shown(&shown, remote) : 0;
    if (err == 0)
        cli_say(
            cli, "fetched %zu objects whole from %s", repaired->ids.len / sizeof(struct commit_id),
            shown ? shown : remote
        );
    return err;
}

static int fsck_run(struct cli *cli, const void *arguments_of)
{
    const struct arguments *arguments = arguments_of;
    __attribute__((cleanup(repaired_release))) struct repaired repaired = {0};
    AUTO_REPORT(report);

    int err = check_and_repair(&report, &repaired, cli, arguments->repair);
    if (err)
        return err;
    if (arguments->repair && (err = repaired_say(cli, &repaired, arguments->repair)))
        return err;
    if ((err = report_say(cli, &report)) || (cli->json && (err = report_json(&report, &repaired))))
        return err;
    return report.bad_count ? CLI_DIFFERENT : 0;
}

static const struct option options[] = {
    {
        .name = "repair",
        .kind = OPTION_TEXT,
        .target = offsetof(struct arguments, repair),
        .value = "REMOTE",
        .complete = COMPLETE_DIRECTORY,
        .help = "Fetch whole what is damaged, from this repository",
    },
    {0},
};

const struct command command_fsck = {
    .name = "fsck",
    .run = fsck_run,
    .needs = NEEDS_STORE,
    .summary = "Read and check everything that is stored",
    .details =
        "Reads and hashes every object that a branch, a tag, the reflog or the trash reaches, puts "
        "every adapter together again, and draws each proved basis once more. Names what is "
        "damaged, and which versions and branches that touches; then it exits with 1.\n\n"
        "With --repair every damaged or missing object is fetched from another repository that "
        "has it (a clone, a backup): a path, or a remote that is one. An object's id says what it "
        "must be, so nothing else can come in by this.",
    .examples = "vera fsck\n"
                "vera fsck --repair /backup/adapters.git",
    .options = options,
    .arguments_size = sizeof(struct arguments),
};
