/* The histograms of vera diff's page. See report_parts.h. */
#include <inttypes.h>

#include "cli/histogram.h"
#include "cli/report_parts.h"

enum vector { VECTOR_D, VECTOR_B };

/* One vector of a module on one side; no values where that side has not the module. */
static const double *
values_of(uint64_t *count, const struct effect_pair *pair, enum vector vector, size_t side)
{
    const struct effect *effect = side ? &pair->b : &pair->a;

    *count = !effect->basis ? 0 : vector == VECTOR_D ? effect->basis->rank : pair->out;
    return vector == VECTOR_D ? effect->d : effect->b;
}

static void histogram_of(
    struct histogram *out, const struct effect_pair *pairs, size_t count, enum vector vector
)
{
    uint64_t values;

    *out = (struct histogram){0};
    for (size_t i = 0; i < 2 * count; i++) {
        const double *data = values_of(&values, &pairs[i / 2], vector, i % 2);
        histogram_span(out, data, values);
    }
    for (size_t i = 0; i < 2 * count; i++) {
        const double *data = values_of(&values, &pairs[i / 2], vector, i % 2);
        histogram_count(out, i % 2, data, values);
    }
}

/* Heights are shares of the highest bin, in a picture of 40 x 100 that is stretched. */
static void path_write(struct html *html, const struct histogram_side *side)
{
    uint64_t peak = histogram_peak(side);

    html_markup(html, "<path d=\"M0 100");
    for (size_t i = 0; i < HISTOGRAM_BINS; i++) {
        double height = peak ? 100 * (double)side->bins[i] / (double)peak : 0;
        html_printf(html, "V%.4gH%zu", 100 - height, i + 1);
    }
    html_markup(html, "V100Z\"/>");
}

static void panel_write(
    struct html *html,
    const struct histogram *histogram,
    const char *vector,
    size_t side,
    const char *label
)
{
    const struct histogram_side *values = &histogram->sides[side];

    html_printf(
        html,
        "<div class=\"panel\" data-side=\"%c\"><p><b>%s</b> <span class=\"count\">%" PRIu64
        " values, at most %" PRIu64 " in a bin</span></p>"
        "<svg viewBox=\"0 0 40 100\" preserveAspectRatio=\"none\" role=\"img\" "
        "aria-label=\"histogram of %s, %s\">",
        side ? 'b' : 'a', label, values->values, histogram_peak(values), vector, label
    );
    path_write(html, values);
    html_markup(html, "</svg></div>\n");
}

static void figure_write(
    struct html *html, const struct report *report, const struct histogram *histogram, bool is_d
)
{
    const char *vector = is_d ? "d" : "b";
    bool is_zero = report_is_zero(report);

    html_printf(
        html,
        "<figure class=\"histogram\" data-vector=\"%s\"><figcaption><var>%s</var>, "
        "%s</figcaption>\n",
        vector, vector, is_d ? "a value for each direction" : "a value for each output"
    );
    panel_write(html, histogram, vector, 0, is_zero ? "values" : "before");
    if (!is_zero)
        panel_write(html, histogram, vector, 1, "after");
    html_printf(
        html,
        "<p class=\"axis\"><span class=\"low\">%.3g</span><span class=\"high\">%.3g</span></p>"
        "</figure>\n",
        histogram->low, histogram->high
    );
}

/* JSON for the script; numbers only, so nothing in it can end the element that it stands in. */

static void side_json(struct json_writer *writer, const struct histogram_side *side)
{
    json_write_array_begin(writer);
    for (size_t i = 0; side->values && i < HISTOGRAM_BINS; i++)
        json_write_uint(writer, side->bins[i]);
    json_write_array_end(writer);
}

static void histogram_json(struct json_writer *writer, const struct histogram *histogram)
{
    json_write_array_begin(writer);
    json_write_double(writer, histogram->low);
    json_write_double(writer, histogram->high);
    side_json(writer, &histogram->sides[0]);
    side_json(writer, &histogram->sides[1]);
    json_write_array_end(writer);
}

/* [[d, b], ...] by module; each [low, high, bins before, bins after]. */
static void modules_json(struct html *html, const struct difference *difference)
{
    struct json_writer writer;
    struct histogram histogram;

    if (html->err)
        return;
    json_write_init(&writer, html->out);
    json_write_array_begin(&writer);
    for (size_t i = 0; i < difference->module_count; i++) {
        json_write_array_begin(&writer);
        histogram_of(&histogram, &difference->pairs[i], 1, VECTOR_D);
        histogram_json(&writer, &histogram);
        histogram_of(&histogram, &difference->pairs[i], 1, VECTOR_B);
        histogram_json(&writer, &histogram);
        json_write_array_end(&writer);
    }
    json_write_array_end(&writer);
    html->err = json_write_end(&writer);
}

void report_vectors(struct html *html, const struct report *report)
{
    const struct difference *difference = report->difference;
    struct histogram d, b;

    histogram_of(&d, difference->pairs, difference->module_count, VECTOR_D);
    histogram_of(&b, difference->pairs, difference->module_count, VECTOR_B);
    html_markup(
        html, "<section id=\"vectors\">\n<h2>Values of the vectors</h2>\n"
              "<p>Each panel is as high as its own highest bin; panels of one vector share their "
              "axis.</p>\n<h3>All modules</h3>\n<div class=\"figures\" id=\"all\">\n"
    );
    figure_write(html, report, &d, true);
    figure_write(html, report, &b, false);
    html_markup(
        html, "</div>\n<div id=\"one\" hidden><h3 aria-live=\"polite\"></h3>"
              "<div class=\"figures\"></div></div>\n"
              "<script type=\"application/json\" id=\"histograms\">"
    );
    modules_json(html, difference);
    html_markup(html, "</script>\n</section>\n");
}
