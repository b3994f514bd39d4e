/* The heat map of vera diff's page. See report_parts.h. */
#include <math.h>
#include <string.h>

#include "cli/heat_map.h"
#include "cli/report_parts.h"

#define STEPS 9 /* of the colour scale; step 0 is none at all */

struct scale {
    bool is_norm; /* with no adapter to compare with */
    double most;  /* the largest finite value */
    bool has_new; /* a module that did nothing before */
};

static double value_of(const struct scale *scale, const struct module_difference *module)
{
    return scale->is_norm ? module->effect.norm_a : module_change(module);
}

static struct scale scale_find(const struct report *report)
{
    struct scale scale = {.is_norm = report_is_zero(report)};

    for (size_t i = 0; i < report->difference->module_count; i++) {
        double value = value_of(&scale, &report->difference->modules[i]);
        if (isinf(value))
            scale.has_new = true;
        else if (value > scale.most)
            scale.most = value;
    }
    return scale;
}

/* What a cell has room for. */
static void short_text(char out[16], const struct scale *scale, double value)
{
    double percent = 100 * value;

    if (isinf(value))
        snprintf(out, 16, "new");
    else if (value == 0)
        snprintf(out, 16, "0");
    else if (scale->is_norm)
        snprintf(out, 16, "%.2g", value);
    else if (percent < 0.1)
        snprintf(out, 16, "<0.1");
    else if (percent < 9.95)
        snprintf(out, 16, "%.1f", percent);
    else
        snprintf(out, 16, percent < 99999.5 ? "%.0f" : "%.0e", percent);
}

static void step_class(char out[4], const struct scale *scale, double value)
{
    double step = ceil(value / scale->most * STEPS);

    if (isinf(value))
        snprintf(out, 4, "qn");
    else if (value == 0)
        snprintf(out, 4, "q0");
    else
        snprintf(out, 4, "q%d", step < 1 ? 1 : step > STEPS ? STEPS : (int)step);
}

static void title_write(struct html *html, const struct module_difference *module, bool is_norm)
{
    const struct comparison *effect = &module->effect;
    char change[24];

    html_text(html, text_bytes(module->name));
    if (is_norm) {
        html_printf(html, ": norm %.4g", effect->norm_a);
        return;
    }
    change_text(change, module_change(module));
    html_printf(html, ": %s, by %.4g", change, effect->delta_norm);
    if (effect->has_cosine)
        html_printf(html, ", cosine %.6f", effect->cosine);
}

/* A link to the module's row in the table. */
static void
link_write(struct html *html, const struct report *report, const struct scale *scale, size_t module)
{
    const struct module_difference *difference = &report->difference->modules[module];
    double value = value_of(scale, difference);
    char text[16], class[4];

    short_text(text, scale, value);
    step_class(class, scale, value);
    html_printf(html, "<a class=\"cell %s\" href=\"#m%zu\" title=\"", class, module);
    title_write(html, difference, scale->is_norm);
    html_markup(html, "\">");
    html_text(html, text_bytes(text));
    html_markup(html, "</a>");
}

static void gap_write(struct html *html, size_t columns)
{
    if (columns)
        html_printf(html, "<td class=\"gap\" colspan=\"%zu\"></td>", columns);
}

/* One row; where the next one begins. Empty places are joined: what is written grows with the
   modules only, not with rows x columns. */
static size_t row_write(
    struct html *html,
    const struct report *report,
    const struct scale *scale,
    const struct heat_map *map,
    size_t first
)
{
    size_t at = first, column = 0;

    html_markup(html, "<tr><th scope=\"row\">");
    html_text(html, map->cells[first].layer);
    html_markup(html, "</th>");
    for (; at < map->cell_count && heat_cell_same_row(&map->cells[first], &map->cells[at]); at++) {
        gap_write(html, map->cells[at].column - column);
        html_markup(html, "<td>");
        link_write(html, report, scale, map->cells[at].module);
        html_markup(html, "</td>");
        column = map->cells[at].column + 1;
    }
    gap_write(html, map->type_count - column);
    html_markup(html, "</tr>\n");
    return at;
}

static void stack_begin(struct html *html, const struct heat_map *map, size_t first)
{
    html_printf(
        html, "<tbody><tr class=\"stack\"><th scope=\"rowgroup\" colspan=\"%zu\"><span>",
        map->type_count + 1
    );
    if (map->cells[first].stack.len)
        html_text(html, map->cells[first].stack);
    else
        html_markup(html, "layers");
    html_markup(html, "</span></th></tr>\n");
}

static void grid_write(
    struct html *html,
    const struct report *report,
    const struct scale *scale,
    const struct heat_map *map
)
{
    html_markup(
        html,
        "<div class=\"scroll tall\" tabindex=\"0\" role=\"region\" aria-labelledby=\"map-title\">\n"
        "<table class=\"map\">\n<thead><tr><th scope=\"col\">layer</th>"
    );
    for (size_t i = 0; i < map->type_count; i++) {
        html_markup(html, "<th scope=\"col\"><span>");
        html_text(html, map->types[i]);
        html_markup(html, "</span></th>");
    }
    html_markup(html, "</tr></thead>\n");
    for (size_t at = 0; at < map->cell_count;) {
        bool is_next = at == 0 || !bytes_equal(map->cells[at].stack, map->cells[at - 1].stack);
        if (is_next && at)
            html_markup(html, "</tbody>\n");
        if (is_next)
            stack_begin(html, map, at);
        at = row_write(html, report, scale, map, at);
    }
    html_markup(html, "</tbody>\n</table>\n</div>\n");
}

static void others_write(
    struct html *html,
    const struct report *report,
    const struct scale *scale,
    const struct heat_map *map
)
{
    html_markup(html, "<h3>Modules without a layer</h3>\n<ul class=\"others\">\n");
    for (size_t i = 0; i < map->other_count; i++) {
        html_markup(html, "<li>");
        link_write(html, report, scale, map->others[i]);
        html_markup(html, " <span>");
        html_name(html, text_bytes(report->difference->modules[map->others[i]].name));
        html_markup(html, "</span></li>\n");
    }
    html_markup(html, "</ul>\n");
}

static void legend_write(struct html *html, const struct scale *scale)
{
    char most[24];

    if (scale->is_norm)
        snprintf(most, sizeof(most), "%.3g", scale->most);
    else
        change_text(most, scale->most);
    html_printf(
        html, "<p class=\"legend\"><span class=\"key q0\"></span> %s",
        scale->is_norm ? "nothing" : "no change"
    );
    if (scale->most > 0) {
        html_markup(html, " <span class=\"ramp\"><span>more than 0</span>");
        for (int i = 1; i <= STEPS; i++)
            html_printf(html, "<span class=\"key q%d\"></span>", i);
        html_printf(html, "<span>%s</span></span>", most);
    }
    if (scale->has_new)
        html_markup(html, " <span class=\"key qn\"></span> new: did nothing before");
    html_markup(html, "</p>\n");
}

int report_map(struct html *html, const struct report *report)
{
    size_t count = report->difference->module_count;
    struct scale scale = scale_find(report);
    AUTO_FREE(const char *, names);
    AUTO_HEAT_MAP(map);

    if (!(names = array_new(count, sizeof(*names))))
        return E_NOMEM;
    for (size_t i = 0; i < count; i++)
        names[i] = report->difference->modules[i].name;
    int err = heat_map_init(&map, names, count);
    if (err)
        return err;
    html_printf(
        html, "<section id=\"map\">\n<h2 id=\"map-title\">%s</h2>\n<p>%s</p>\n",
        scale.is_norm ? "Where it acts" : "Where it changed",
        scale.is_norm
            ? "‖ΔW‖ of each module. A cell leads to its module."
            : "Change of each module in percent: ‖ΔW<sub>a</sub>&nbsp;−&nbsp;ΔW<sub>b</sub>‖ ∕ "
              "‖ΔW<sub>a</sub>‖. A cell leads to its module."
    );
    legend_write(html, &scale);
    if (map.cell_count)
        grid_write(html, report, &scale, &map);
    if (map.other_count)
        others_write(html, report, &scale, &map);
    html_markup(html, "</section>\n");
    return 0;
}
