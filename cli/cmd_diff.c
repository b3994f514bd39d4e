/* vera diff: how far two adapters are apart in what they do, and everything else that differs. */
#include <inttypes.h>
#include <math.h>
#include <stddef.h>
#include <stdlib.h>
#include <string.h>

#include "cli/describe.h"
#include "cli/difference.h"
#include "cli/html.h"
#include "cli/refs.h"
#include "cli/report_html.h"

struct arguments {
    const char *base, *html;
    bool zero, stat, exit_code;
};

/* A module, and how far the words and bars say that it changed: beside what it was, or, against no
   adapter, what it does. */
struct row {
    const struct module_difference *module;
    double size; /* infinite where there was nothing before */
    bool is_norm;
};

/* JSON */

static void double_json(struct json_writer *writer, const char *key, double value, bool has_value)
{
    json_write_key(writer, key);
    if (has_value)
        json_write_double(writer, value);
    else
        json_write_null(writer);
}

static void effect_json(struct json_writer *writer, const struct comparison *effect)
{
    double_json(writer, "norm_a", effect->norm_a, true);
    double_json(writer, "norm_b", effect->norm_b, true);
    double_json(writer, "delta_norm", effect->delta_norm, true);
    double_json(writer, "relative", effect->relative, effect->has_relative);
    double_json(writer, "cosine", effect->cosine, effect->has_cosine);
}

static void modules_json(struct json_writer *writer, const struct difference *difference)
{
    json_write_key(writer, "total");
    if (difference->has_effects) {
        json_write_object_begin(writer);
        effect_json(writer, &difference->total);
        json_write_object_end(writer);
    } else {
        json_write_null(writer);
    }
    json_write_key(writer, "modules");
    json_write_array_begin(writer);
    for (size_t i = 0; difference->has_effects && i < difference->module_count; i++) {
        const struct module_difference *module = &difference->modules[i];
        json_write_object_begin(writer);
        json_write_key(writer, "name");
        json_write_text(writer, module->name);
        effect_json(writer, &module->effect);
        describe_uint_json(writer, "changed_d", module->changed_d);
        describe_uint_json(writer, "changed_b", module->changed_b);
        json_write_object_end(writer);
    }
    json_write_array_end(writer);
}

static void tensors_json(struct json_writer *writer, const struct difference *difference)
{
    json_write_key(writer, "tensors");
    json_write_array_begin(writer);
    for (size_t i = 0; i < difference->tensor_count; i++) {
        const struct tensor_difference *tensor = &difference->tensors[i];
        json_write_object_begin(writer);
        json_write_key(writer, "name");
        json_write_text(writer, tensor->name);
        json_write_key(writer, "change");
        json_write_text(writer, change_name(tensor->change));
        double_json(writer, "delta_norm", tensor->delta_norm, tensor->has_norm);
        json_write_object_end(writer);
    }
    json_write_array_end(writer);
}

static void files_json(struct json_writer *writer, const struct difference *difference)
{
    json_write_key(writer, "files");
    json_write_array_begin(writer);
    for (size_t i = 0; i < difference->file_count; i++) {
        json_write_object_begin(writer);
        json_write_key(writer, "path");
        json_write_text(writer, difference->files[i].path);
        json_write_key(writer, "change");
        json_write_text(writer, change_name(difference->files[i].change));
        json_write_object_end(writer);
    }
    json_write_array_end(writer);
}

static void config_value_json(struct json_writer *writer, const char *key, const struct buf *value)
{
    json_write_key(writer, key);
    if (value)
        json_write_raw(writer, buf_bytes(value));
    else
        json_write_null(writer);
}

static void config_json(struct json_writer *writer, const struct difference *difference)
{
    json_write_key(writer, "config");
    json_write_array_begin(writer);
    for (size_t i = 0; i < difference->config_count; i++) {
        const struct config_difference *entry = &difference->config[i];
        json_write_object_begin(writer);
        json_write_key(writer, "key");
        json_write_text(writer, entry->key);
        config_value_json(writer, "a", entry->a);
        config_value_json(writer, "b", entry->b);
        json_write_object_end(writer);
    }
    json_write_array_end(writer);
}

static int difference_json(const struct difference *difference)
{
    struct json_writer writer;
    AUTO_BUF(json);

    cli_json_begin(&writer, &json);
    json_write_key(&writer, "identical");
    json_write_bool(&writer, difference->identical);
    modules_json(&writer, difference);
    tensors_json(&writer, difference);
    files_json(&writer, difference);
    config_json(&writer, difference);
    return cli_json_end(&writer);
}

/* Words */

static int row_order(const void *a, const void *b)
{
    const struct row *left = a, *right = b;

    if (left->size != right->size)
        return left->size < right->size ? 1 : -1;
    double x = left->module->effect.delta_norm, y = right->module->effect.delta_norm;
    return x != y ? (x < y ? 1 : -1) : strcmp(left->module->name, right->module->name);
}

/* The modules that changed, the largest first. */
static int
rows_make(struct row **out, size_t *count, const struct difference *difference, bool zero)
{
    struct row *rows = array_new(difference->module_count, sizeof(*rows));

    if (!rows)
        return E_NOMEM;
    *count = 0;
    for (size_t i = 0; i < difference->module_count; i++) {
        const struct module_difference *module = &difference->modules[i];
        double size = zero ? module->effect.norm_a : module_change(module);
        if (module_is_changed(module))
            rows[(*count)++] = (struct row){module, size, zero};
    }
    if (*count)
        qsort(rows, *count, sizeof(*rows), row_order);
    *out = rows;
    return 0;
}

static void size_text(char out[24], const struct row *row)
{
    if (row->is_norm)
        snprintf(out, 24, "%.4g", row->size);
    else
        change_text(out, row->size);
}

static void cosine_text(char out[24], const struct comparison *effect)
{
    if (effect->has_cosine)
        snprintf(out, 24, "%.6f", effect->cosine);
    else
        snprintf(out, 24, "-");
}

#define NAME_MIN 12 /* columns of a name, however narrow the terminal is */

/* The name in what a line has beside its other columns. */
static int name_append(struct buf *line, const char *name, size_t used)
{
    size_t room = cli_room();

    return cli_fit(line, name, room > used + NAME_MIN ? room - used : NAME_MIN);
}

static int line_say(struct cli *cli, struct buf *line)
{
    const char *text = buf_text(line);

    if (!text)
        return error_wrap(E_NOMEM, "diff");
    cli_say(cli, "%s", text);
    return 0;
}

static int module_say(struct cli *cli, const struct row *row)
{
    const struct comparison *effect = &row->module->effect;
    char size[24], cosine[24];
    AUTO_BUF(line);
    int err;

    size_text(size, row);
    cosine_text(cosine, effect);
    if (row->is_norm)
        err = buf_printf(&line, "%10s  ", size);
    else
        err = buf_printf(
            &line, "%9s  %10.4g  %10.4g  %9s  ", size, effect->norm_a, effect->norm_b, cosine
        );
    if (err || (err = name_append(&line, row->module->name, line.len)))
        return err;
    return line_say(cli, &line);
}

static int table_of_modules_say(struct cli *cli, const struct row *rows, size_t count)
{
    int err = 0;

    if (rows->is_norm)
        cli_say(cli, "%10s  module", "||dW||");
    else
        cli_say(cli, "%9s  %10s  %10s  %9s  module", "change", "||dW a||", "||dW b||", "cosine");
    for (size_t i = 0; !err && i < count; i++)
        err = module_say(cli, &rows[i]);
    return err;
}

#define BARS_OVERHEAD 11 /* a space, nine columns for the size, a space */

static int
bar_say(struct cli *cli, const struct row *row, size_t name_width, size_t room, double most)
{
    double share = isinf(row->size) ? 1 : most > 0 ? row->size / most : 0;
    size_t length = (size_t)(share * (double)room + 0.5);
    AUTO_BUF(line);
    char size[24];
    int err = cli_fit(&line, row->module->name, name_width);

    size_text(size, row);
    if (!err)
        err = buf_printf(
            &line, "%*s %9s ", (int)(name_width - cli_columns(buf_bytes(&line))), "", size
        );
    for (size_t i = 0; !err && i < length; i++)
        err = buf_append_byte(&line, '#');
    return err ? err : line_say(cli, &line);
}

/* A bar for each module, the longest as wide as the terminal lets it be. */
static int bars_say(struct cli *cli, const struct row *rows, size_t count)
{
    size_t width = cli_width() - 1, name_width = NAME_MIN;
    double most = 0;
    int err = 0;

    for (size_t i = 0; i < count; i++) {
        size_t length = cli_columns(text_bytes(rows[i].module->name));
        name_width = length > name_width ? length : name_width;
        if (!isinf(rows[i].size) && rows[i].size > most)
            most = rows[i].size;
    }
    if (name_width > (width - BARS_OVERHEAD) / 2)
        name_width = (width - BARS_OVERHEAD) / 2;
    for (size_t i = 0; !err && i < count; i++)
        err = bar_say(cli, &rows[i], name_width, width - name_width - BARS_OVERHEAD, most);
    return err;
}

static int
modules_say(struct cli *cli, const struct difference *difference, const struct arguments *arguments)
{
    AUTO_FREE(struct row, rows);
    size_t count;
    int err = rows_make(&rows, &count, difference, arguments->zero);

    if (err)
        return err;
    cli_say(
        cli, "modules  %zu of %zu %s", count, difference->module_count,
        arguments->zero ? "adapted" : "changed"
    );
    if (!count)
        return 0;
    cli_say(cli, "%s", "");
    if (arguments->stat)
        return bars_say(cli, rows, count);
    return table_of_modules_say(cli, rows, count);
}

static void total_say(struct cli *cli, const struct difference *difference, bool zero)
{
    const struct comparison *total = &difference->total;
    char relative[40] = "", cosine[40] = "";

    if (zero) {
        cli_say(cli, "||dW||   %.6g", total->norm_a);
        return;
    }
    if (total->has_relative)
        snprintf(relative, sizeof(relative), ", %.4g%% of it", 100 * total->relative);
    if (total->has_cosine)
        snprintf(cosine, sizeof(cosine), ", cosine %.6f", total->cosine);
    cli_say(
        cli, "||dW||   %.6g, then %.6g: change %.6g%s%s", total->norm_a, total->norm_b,
        total->delta_norm, relative, cosine
    );
}

static int tensor_say(struct cli *cli, const struct tensor_difference *tensor)
{
    char norm[40] = "";
    AUTO_BUF(line);
    int err;

    if (tensor->has_norm)
        snprintf(norm, sizeof(norm), ", by %.4g", tensor->delta_norm);
    if ((err = buf_printf(&line, "  %-7s  ", change_name(tensor->change))) ||
        (err = name_append(&line, tensor->name, line.len + strlen(norm))) ||
        (err = buf_append_text(&line, norm)))
        return err;
    return line_say(cli, &line);
}

static int tensors_say(struct cli *cli, const struct difference *difference)
{
    int err = 0;

    if (!difference->tensor_count)
        return 0;
    cli_say(cli, "%s", "");
    cli_say(cli, "biases and whole modules");
    for (size_t i = 0; !err && i < difference->tensor_count; i++)
        err = tensor_say(cli, &difference->tensors[i]);
    return err;
}

static void config_say(struct cli *cli, const struct difference *difference)
{
    if (!difference->config_count)
        return;
    cli_say(cli, "%s", "");
    cli_say(cli, "configuration");
    for (size_t i = 0; i < difference->config_count; i++) {
        const struct config_difference *entry = &difference->config[i];
        cli_say(
            cli, "  %s: %.*s -> %.*s", entry->key, entry->a ? (int)entry->a->len : 1,
            entry->a ? (const char *)entry->a->data : "-", entry->b ? (int)entry->b->len : 1,
            entry->b ? (const char *)entry->b->data : "-"
        );
    }
}

/* The adapter's own two files are told of above, part by part, where anything in them matters. */
static bool is_told(const struct difference *difference, const char *path)
{
    if (strcmp(path, PEFT_CONFIG) == 0)
        return difference->config_count > 0;
    if (strcmp(path, PEFT_MODEL) != 0)
        return false;
    for (size_t i = 0; i < difference->module_count; i++) {
        if (module_is_changed(&difference->modules[i]))
            return true;
    }
    return difference->tensor_count > 0;
}

static void files_say(struct cli *cli, const struct difference *difference)
{
    bool begun = false;

    for (size_t i = 0; i < difference->file_count; i++) {
        const struct file_difference *file = &difference->files[i];
        if (is_told(difference, file->path))
            continue;
        if (!begun) {
            cli_say(cli, "%s", "");
            cli_say(cli, "files");
        }
        begun = true;
        cli_say(cli, "  %-7s  %s", change_name(file->change), file->path);
    }
}

static int
side_say(struct cli *cli, const char *label, const struct source *source, const char *text)
{
    AUTO_BUF(title);
    int err;

    if (source->is_version)
        err = ref_title(&title, cli, &source->commit);
    else
        err = buf_printf(&title, "%s, snapshot %s", text, short_digest(&source->snapshot.id).text);
    const char *line = err ? NULL : buf_text(&title);
    if (!line)
        return err ? err : E_NOMEM;
    cli_say(cli, "%-8s %s", label, line);
    return 0;
}

static int difference_say(
    struct cli *cli,
    const struct difference *difference,
    const struct source *a,
    const struct source *b,
    const char *const texts[2],
    const struct arguments *arguments
)
{
    int err = side_say(cli, "a", a, texts[0]);

    if (!err && b)
        err = side_say(cli, "b", b, texts[1]);
    else if (!err)
        cli_say(cli, "%-8s no adapter", "b");
    if (err)
        return err;
    if (difference->identical) {
        cli_say(cli, "identical: the same snapshot");
        return 0;
    }
    total_say(cli, difference, arguments->zero);
    if ((err = modules_say(cli, difference, arguments)))
        return err;
    if (arguments->zero)
        return 0;
    if ((err = tensors_say(cli, difference)))
        return err;
    config_say(cli, difference);
    files_say(cli, difference);
    return 0;
}

/* The page, before anything is said: where it cannot be written, nothing is. */
static int page_write(struct cli *cli, const struct report *report, const char *path)
{
    AUTO_BUF(page);
    int err = report_html(&page, cli, report);

    return err ? err : html_write(path, buf_bytes(&page));
}

static int arguments_check(struct cli *cli, const struct arguments *arguments)
{
    const char *second = operand_at(cli, 1);

    if (arguments->zero && second)
        return cli_usage_error(
            "--zero compares one version with no adapter, and %s is a second one", second
        );
    if (!arguments->html)
        return 0;
    if (strcmp(arguments->html, "-") == 0) {
        if (cli->json)
            return cli_usage_error("--html - and --json both want standard output");
        cli->human = stderr;
    }
    return html_check_target(arguments->html);
}

static int diff_run(struct cli *cli, const void *arguments_of)
{
    const struct arguments *arguments = arguments_of;
    const char *second = operand_at(cli, 1);
    const char *const texts[] = {cli->operands[0], second ? second : "HEAD"};
    AUTO_SOURCE(a);
    AUTO_SOURCE(b);
    AUTO_DIFFERENCE(difference);
    struct source *other = arguments->zero ? NULL : &b;
    const struct report report = {&difference, {&a, other}, texts};
    int err;

    if ((err = arguments_check(cli, arguments)) || (err = source_load(&a, cli, texts[0])) ||
        (other && (err = source_load(other, cli, texts[1]))) ||
        (err = difference_find(&difference, &a, other, texts, arguments->base, cli->progress)) ||
        (arguments->html && (err = page_write(cli, &report, arguments->html))) ||
        (err = difference_say(cli, &difference, &a, other, texts, arguments)) ||
        (cli->json && (err = difference_json(&difference))))
        return err;
    return arguments->exit_code && !difference.identical ? CLI_DIFFERENT : 0;
}

static const struct operand operands[] = {
    {"A", false, false, COMPLETE_REVISION, "A version, or a PEFT directory"},
    {"B", true, false, COMPLETE_REVISION, "Another one (HEAD)"},
    {0},
};

static const struct option options[] = {
    {
        .name = "zero",
        .kind = OPTION_FLAG,
        .target = offsetof(struct arguments, zero),
        .help = "Compare A with no adapter: where it acts",
    },
    {
        .name = "stat",
        .kind = OPTION_FLAG,
        .target = offsetof(struct arguments, stat),
        .help = "Draw a bar for each module",
    },
    {
        .name = "exit-code",
        .kind = OPTION_FLAG,
        .target = offsetof(struct arguments, exit_code),
        .help = "Exit status 1 where the two are not the same snapshot",
    },
    {
        .name = "html",
        .kind = OPTION_TEXT,
        .target = offsetof(struct arguments, html),
        .value = "FILE",
        .complete = COMPLETE_FILE,
        .help = "Write a page to look at in a browser; '-' is standard output",
    },
    {
        .name = "base",
        .kind = OPTION_TEXT,
        .target = offsetof(struct arguments, base),
        .value = "MODEL",
        .complete = COMPLETE_DIRECTORY,
        .help = "The base model's directory, where no pin tells its sizes",
    },
    {0},
};

const struct command command_diff = {
    .name = "diff",
    .run = diff_run,
    .needs = MAY_USE_STORE,
    .summary = "Show what changed between two versions, in effect",
    .details =
        "Compares what two adapters do to the base model's weights: for each module the norm of dW "
        "in both, the norm of the difference relative to the first, and the cosine between them. "
        "Bytes that differ and do the same are no change. Other ranks, seeds and target modules "
        "are compared as well, as long as the base model is one. Biases and whole modules, the "
        "configuration and other files are listed apart.\n\n"
        "How many inputs a module has is known where a version was committed with --base; else "
        "--base MODEL tells it here.\n\n"
        "--html FILE writes one page that loads nothing: a map of layers and types of modules, "
        "histograms of d and b, and all tables, which sort there. An older page in FILE is "
        "replaced; anything else that is there stays, and is an error. With --html - the words go "
        "to standard error.",
    .examples = "vera diff main~1\n"
                "vera diff main~5 main --stat\n"
                "vera diff main ./out/checkpoint-100 --base models/llama\n"
                "vera diff main --zero\n"
                "vera diff main~5 main --html changes.html",
    .operands = operands,
    .options = options,
    .arguments_size = sizeof(struct arguments),
};
