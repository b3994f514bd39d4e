/* vera fsck: read and hash everything that any ref reaches; name what is damaged, and which
   versions and branches that touches. Damage is an answer, not an error: exit status 1. */
#include <inttypes.h>
#include <string.h>

#include "cli/describe.h"

#define AUTO_REPORT(name)                                                                          \
    __attribute__((cleanup(fsck_report_release))) struct fsck_report name = {0}

static void bad_json(struct json_writer *writer, const struct fsck_bad *bad)
{
    char hex[COMMIT_HEX_SIZE];

    json_write_object_begin(writer);
    json_write_key(writer, "object");
    json_write_text(writer, bad->object);
    json_write_key(writer, "problem");
    json_write_text(writer, bad->problem);
    json_write_key(writer, "versions");
    json_write_array_begin(writer);
    for (size_t i = 0; i < bad->version_count; i++) {
        commit_hex(hex, &bad->versions[i]);
        json_write_text(writer, hex);
    }
    json_write_array_end(writer);
    json_write_key(writer, "branches");
    json_write_array_begin(writer);
    for (size_t i = 0; i < bad->branch_count; i++)
        json_write_text(writer, bad->branches[i]);
    json_write_array_end(writer);
    json_write_object_end(writer);
}

static int report_json(const struct fsck_report *report)
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
    return cli_json_end(&writer);
}

static int bad_say(struct cli *cli, const struct fsck_bad *bad)
{
    AUTO_BUF(versions);
    AUTO_BUF(branches);
    struct word_list list = {.out = &versions};
    int err = 0;

    cli_say(cli, "damaged: %s: %s", bad->object, bad->problem);
    for (size_t i = 0; !err && i < bad->version_count; i++)
        err = word_list_add(&list, short_commit(&bad->versions[i]).text);
    if (err || (err = word_list_end(&list)) || (err = describe_say(cli, "versions", &versions)) ||
        (err = describe_names(&branches, bad->branches, bad->branch_count)))
        return err;
    return describe_say(cli, "branches", &branches);
}

static const char *plural(uint64_t count)
{
    return count == 1 ? "" : "s";
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
    if (err)
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

static int fsck_run(struct cli *cli, const void *arguments)
{
    AUTO_REPORT(report);
    int err = store_fsck(&report, cli->store, cli->progress);

    (void)arguments;
    if (err || (err = report_say(cli, &report)) || (cli->json && (err = report_json(&report))))
        return err;
    return report.bad_count ? CLI_DIFFERENT : 0;
}

const struct command command_fsck = {
    .name = "fsck",
    .run = fsck_run,
    .needs = NEEDS_STORE,
    .summary = "Read and check everything that is stored",
    .details =
        "Reads and hashes every object that a branch, a tag, the reflog or the trash reaches, puts "
        "every adapter together again, and draws each proved basis once more. Names what is "
        "damaged, and which versions and branches that touches; then it exits with 1.",
    .examples = "vera fsck",
};
