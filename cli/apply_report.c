/* What the rounding kept of an adapter. See apply_report.h. */
#include "cli/apply_report.h"

#include <inttypes.h>
#include <math.h>

#include "cli/describe.h"

#define NUMBERS_WIDTH 44 /* of the columns before the module's name */
#define NAME_WIDTH    20 /* that a name has at least */

static void double_json(struct json_writer *writer, const char *key, double value)
{
    json_write_key(writer, key);
    json_write_double(writer, value);
}

static void module_json(struct json_writer *writer, const struct apply_report *report)
{
    json_write_object_begin(writer);
    json_write_key(writer, "module");
    json_write_text(writer, report->module);
    double_json(writer, "unchanged", report->unchanged);
    double_json(writer, "kept", report->kept);
    double_json(writer, "max_change", report->max_change);
    describe_uint_json(writer, "nonfinite", report->nonfinite);
    json_write_object_end(writer);
}

void apply_report_json(struct json_writer *writer, const struct apply_result *result)
{
    if (!result->report) {
        json_write_null(writer);
        return;
    }
    json_write_array_begin(writer);
    for (size_t i = 0; i < result->report_count; i++)
        module_json(writer, &result->report[i]);
    json_write_array_end(writer);
}

/* A share in percent, "-" where there was nothing to keep. */
struct percent {
    char text[32];
};

static struct percent percent(double share)
{
    struct percent result = {"-"};

    if (!isnan(share))
        snprintf(result.text, sizeof(result.text), "%.2f%%", 100 * share);
    return result;
}

static int line_say(struct cli *cli, const struct apply_report *report, const char *name)
{
    AUTO_BUF(fitted);
    size_t room = cli_room();

    room = room > NUMBERS_WIDTH + NAME_WIDTH ? room - NUMBERS_WIDTH : NAME_WIDTH;
    int err = cli_fit(&fitted, name, room);
    const char *text = err ? NULL : buf_text(&fitted);
    if (!text)
        return err ? err : E_NOMEM;
    cli_say(
        cli, "%9s  %8s  %8s  %11.3g  %s", percent(report->unchanged).text,
        percent(report->kept).text, percent(report->lost).text, report->max_change, text
    );
    return 0;
}

/* Where the sum says so, or most modules do: one that is large must not hide all others. */
static void swallowed_warn(const struct apply_result *result)
{
    const struct apply_report *total = &result->report_total;
    size_t swallowed = 0;

    for (size_t i = 0; i < result->report_count; i++)
        swallowed += report_is_swallowed(&result->report[i]);
    if (!report_is_swallowed(total) && 2 * swallowed <= result->report_count)
        return;
    cli_note(
        "vera: warning: rounding to the base model's dtype swallows most of the change: %s of the "
        "weights stay as they are, %s of the change is lost (most of it in %zu of %zu modules)",
        percent(total->unchanged).text, percent(total->lost).text, swallowed, result->report_count
    );
    cli_note("hint: a float32 copy of the base model keeps it, and so does serving the adapter "
             "unmerged");
}

int apply_report_say(struct cli *cli, const struct apply_result *result)
{
    char all[64];
    int err = 0;

    if (!result->report)
        return 0;
    cli_say(cli, "%9s  %8s  %8s  %11s  module", "unchanged", "kept", "lost", "max change");
    for (size_t i = 0; !err && i < result->report_count; i++)
        err = line_say(cli, &result->report[i], result->report[i].module);
    snprintf(all, sizeof(all), "all %zu together", result->report_count);
    if (!err && result->report_count > 1)
        err = line_say(cli, &result->report_total, all);
    if (err)
        return err;
    for (size_t i = 0; i < result->report_count; i++) {
        const struct apply_report *report = &result->report[i];
        if (report->nonfinite)
            cli_note(
                "vera: warning: %s: %" PRIu64 " weights are not finite", report->module,
                report->nonfinite
            );
    }
    swallowed_warn(result);
    return 0;
}
