/* One version in one line, or as one JSON object. See log_line.h. */
#include "cli/log_line.h"

#include "cli/describe.h"

int log_version_json(const struct decorations *decorations, const struct version *version)
{
    struct json_writer writer;
    AUTO_BUF(json);

    cli_json_begin(&writer, &json);
    cli_json_commit(&writer, "commit", &version->id);
    cli_json_digest(&writer, "snapshot", &version->snapshot, true);
    describe_version_json(&writer, version);
    describe_metrics_json(&writer, version);
    json_write_key(&writer, "branches");
    decorate_json(&writer, decorations, &version->id);
    return cli_json_end(&writer);
}

int log_version_line(
    struct buf *out, const struct decorations *decorations, const struct version *version
)
{
    struct bytes title = message_title(version->message);
    AUTO_BUF(metrics);
    int err;

    if ((err = buf_printf(
             out, "%s %s", short_commit(&version->id).text, short_digest(&version->snapshot).text
         )) ||
        (err = decorate(out, decorations, &version->id)) ||
        (err = buf_printf(out, " %.*s", (int)title.len, (const char *)title.data)) ||
        (err = describe_metrics(&metrics, version)))
        return err;
    if (metrics.len &&
        ((err = buf_append_text(out, "  [")) ||
         (err = buf_append(out, metrics.data, metrics.len)) || (err = buf_append_text(out, "]"))))
        return err;
    return 0;
}
