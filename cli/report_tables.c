/* The tables of vera diff's page. See report_parts.h. */
#include <inttypes.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "cli/report_parts.h"

#define SCROLL_BEGIN                                                                               \
    "<div class=\"scroll\" tabindex=\"0\" role=\"region\" aria-labelledby=\"%s-title\">\n"

/* A module and its place in byte order of name, by which the rest of the page knows it. */
struct row {
    const struct module_difference *module;
    size_t number;
    double size;
};

static int row_order(const void *a, const void *b)
{
    const struct row *left = a, *right = b;

    if (left->size != right->size)
        return left->size < right->size ? 1 : -1;
    double x = left->module->effect.delta_norm, y = right->module->effect.delta_norm;
    return x != y ? (x < y ? 1 : -1)
                  : (left->number > right->number) - (left->number < right->number);
}

/* A cell: the number as people read it, and whole for sorting; empty where there is none. */
static void number_cell(struct html *html, const char *text, double value, bool has_value)
{
    if (has_value && isinf(value))
        html_printf(html, "<td data-v=\"Infinity\">%s</td>", text);
    else if (has_value)
        html_printf(html, "<td data-v=\"%.17g\">%s</td>", value, text);
    else
        html_markup(html, "<td data-v=\"\">–</td>");
}

static void norm_cell(struct html *html, double value)
{
    char text[24];

    snprintf(text, sizeof(text), "%.4g", value);
    number_cell(html, text, value, true);
}

static void count_cell(struct html *html, uint64_t value)
{
    html_printf(html, "<td data-v=\"%" PRIu64 "\">%" PRIu64 "</td>", value, value);
}

static void row_write(struct html *html, const struct row *row, bool is_zero)
{
    const struct comparison *effect = &row->module->effect;
    char change[24], cosine[24];

    html_printf(html, "<tr id=\"m%zu\"><th scope=\"row\">", row->number);
    html_name(html, text_bytes(row->module->name));
    html_markup(html, "</th>");
    if (is_zero) {
        norm_cell(html, effect->norm_a);
        html_markup(html, "</tr>\n");
        return;
    }
    change_text(change, row->size);
    number_cell(html, change, row->size, true);
    norm_cell(html, effect->norm_a);
    norm_cell(html, effect->norm_b);
    norm_cell(html, effect->delta_norm);
    snprintf(cosine, sizeof(cosine), "%.6f", effect->cosine);
    number_cell(html, cosine, effect->cosine, effect->has_cosine);
    count_cell(html, row->module->changed_d);
    count_cell(html, row->module->changed_b);
    html_markup(html, "</tr>\n");
}

static void head_write(struct html *html, bool is_zero)
{
    static const char *const titles[] = {
        "change",
        "‖ΔW<sub>a</sub>‖",
        "‖ΔW<sub>b</sub>‖",
        "‖ΔW<sub>a</sub> − ΔW<sub>b</sub>‖",
        "cosine",
        "<var>d</var> changed",
        "<var>b</var> changed",
    };
    size_t count = is_zero ? 1 : sizeof(titles) / sizeof(titles[0]);

    html_markup(html, "<thead><tr><th scope=\"col\" data-kind=\"text\">module</th>");
    for (size_t i = 0; i < count; i++)
        html_printf(
            html, "<th scope=\"col\" data-kind=\"number\"%s>%s</th>",
            i ? "" : " aria-sort=\"descending\"", is_zero ? "‖ΔW‖" : titles[i]
        );
    html_markup(html, "</tr></thead>\n");
}

int report_modules(struct html *html, const struct report *report)
{
    size_t count = report->difference->module_count;
    bool is_zero = report_is_zero(report);
    AUTO_FREE(struct row, rows);

    if (!(rows = array_new(count, sizeof(*rows))))
        return E_NOMEM;
    for (size_t i = 0; i < count; i++) {
        const struct module_difference *module = &report->difference->modules[i];
        rows[i] = (struct row){module, i, is_zero ? module->effect.norm_a : module_change(module)};
    }
    if (count)
        qsort(rows, count, sizeof(*rows), row_order);
    html_markup(html, "<section>\n<h2 id=\"modules-title\">Modules</h2>\n");
    html_printf(html, SCROLL_BEGIN, "modules");
    html_markup(html, "<table class=\"list\" id=\"modules\">\n");
    head_write(html, is_zero);
    html_markup(html, "<tbody>\n");
    for (size_t i = 0; i < count; i++)
        row_write(html, &rows[i], is_zero);
    html_markup(html, "</tbody>\n</table>\n</div>\n</section>\n");
    return 0;
}

/* What is listed apart */

/* False, with a word instead of a table, where the list is empty. */
static bool
list_begin(struct html *html, const char *id, const char *title, const char *head, size_t count)
{
    html_printf(html, "<section>\n<h2 id=\"%s-title\">%s</h2>\n", id, title);
    if (!count) {
        html_markup(html, "<p class=\"none\">No difference.</p>\n</section>\n");
        return false;
    }
    html_printf(html, SCROLL_BEGIN, id);
    html_printf(html, "<table class=\"list\" id=\"%s\">\n<thead><tr>%s</tr></thead>\n", id, head);
    html_markup(html, "<tbody>\n");
    return true;
}

static void list_end(struct html *html)
{
    html_markup(html, "</tbody>\n</table>\n</div>\n</section>\n");
}

static void name_write(struct html *html, const char *name)
{
    html_markup(html, "<tr><th scope=\"row\">");
    html_name(html, text_bytes(name));
    html_markup(html, "</th>");
}

static void tensors_write(struct html *html, const struct difference *difference)
{
    if (!list_begin(
            html, "tensors", "Biases and whole modules",
            "<th scope=\"col\">tensor</th><th scope=\"col\">change</th>"
            "<th scope=\"col\">by (norm)</th>",
            difference->tensor_count
        ))
        return;
    for (size_t i = 0; i < difference->tensor_count; i++) {
        const struct tensor_difference *tensor = &difference->tensors[i];
        name_write(html, tensor->name);
        html_printf(html, "<td>%s</td>", change_name(tensor->change));
        if (tensor->has_norm)
            html_printf(html, "<td>%.4g</td></tr>\n", tensor->delta_norm);
        else
            html_markup(html, "<td>–</td></tr>\n");
    }
    list_end(html);
}

static void value_write(struct html *html, const struct buf *value)
{
    html_markup(html, "<td class=\"text\">");
    if (value) {
        html_markup(html, "<code>");
        html_text(html, buf_bytes(value));
        html_markup(html, "</code>");
    } else {
        html_markup(html, "–");
    }
    html_markup(html, "</td>");
}

static void config_write(struct html *html, const struct difference *difference)
{
    if (!list_begin(
            html, "config", "Configuration",
            "<th scope=\"col\">key</th><th scope=\"col\" class=\"text\">before</th>"
            "<th scope=\"col\" class=\"text\">after</th>",
            difference->config_count
        ))
        return;
    for (size_t i = 0; i < difference->config_count; i++) {
        const struct config_difference *entry = &difference->config[i];
        name_write(html, entry->key);
        value_write(html, entry->a);
        value_write(html, entry->b);
        html_markup(html, "</tr>\n");
    }
    list_end(html);
}

static void files_write(struct html *html, const struct difference *difference)
{
    if (!list_begin(
            html, "files", "Files", "<th scope=\"col\">file</th><th scope=\"col\">change</th>",
            difference->file_count
        ))
        return;
    for (size_t i = 0; i < difference->file_count; i++) {
        name_write(html, difference->files[i].path);
        html_printf(html, "<td>%s</td></tr>\n", change_name(difference->files[i].change));
    }
    list_end(html);
}

void report_rest(struct html *html, const struct report *report)
{
    tensors_write(html, report->difference);
    config_write(html, report->difference);
    files_write(html, report->difference);
}
