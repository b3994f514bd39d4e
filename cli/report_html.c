/* vera diff's page: its frame, the two versions, the totals. See report_html.h. */
#include "cli/report_html.h"

#include "cli/describe.h"
#include "cli/report_parts.h"

/* Made of cli/report.css and cli/report.js when the program is built. */
extern const char report_style[], report_script[];

static void name_of(struct html *html, const struct report *report)
{
    html_text(html, text_bytes(report->texts[0]));
    if (report_is_zero(report))
        return;
    html_markup(html, " → ");
    html_text(html, text_bytes(report->texts[1]));
}

/* Nothing may be loaded or sent; only this style and this script count. */
static void head_write(struct html *html, const struct report *report)
{
    html_markup(
        html, "<html lang=\"en\">\n<head>\n<meta charset=\"utf-8\">\n"
              "<meta http-equiv=\"Content-Security-Policy\" content=\"default-src 'none'; "
              "base-uri 'none'; form-action 'none'; style-src "
    );
    html_policy_source(html, report_style);
    html_markup(html, "; script-src ");
    html_policy_source(html, report_script);
    html_markup(
        html, "\">\n<meta name=\"viewport\" content=\"width=device-width, initial-scale=1\">\n"
              "<meta name=\"color-scheme\" content=\"light dark\">\n"
              "<meta name=\"referrer\" content=\"no-referrer\">\n<title>vera diff: "
    );
    name_of(html, report);
    html_markup(html, "</title>\n<style>");
    html_markup(html, report_style);
    html_markup(html, "</style>\n</head>\n");
}

/* The two versions */

static void fact_begin(struct html *html, const char *label)
{
    html_printf(html, "<dt>%s</dt><dd>", label);
}

static void fact(struct html *html, const char *label, const char *text)
{
    fact_begin(html, label);
    html_text(html, text_bytes(text));
    html_markup(html, "</dd>\n");
}

static void version_write(struct html *html, const struct version *version)
{
    struct bytes title = message_title(version->message);
    char date[32], hex[COMMIT_HEX_SIZE];

    commit_hex(hex, &version->id);
    cli_time(date, version->time, version->time_offset, false);
    if (title.len) {
        fact_begin(html, "message");
        html_text(html, title);
        html_markup(html, "</dd>\n");
    }
    fact(html, "date", date);
    fact(html, "author", version->author_name);
    fact(html, "commit", hex);
}

static int side_write(struct html *html, struct cli *cli, const struct report *report, size_t side)
{
    const struct source *source = report->sources[side];
    char hex[DIGEST_HEX_SIZE];
    AUTO_VERSION(version);
    int err;

    html_printf(html, "<div class=\"side\"><h2><span>%c</span> ", side ? 'b' : 'a');
    html_name(html, text_bytes(report->texts[side]));
    html_markup(html, "</h2>\n<dl>\n");
    if (source->is_version) {
        if ((err = store_version(&version, cli->store, &source->commit)))
            return err;
        version_write(html, &version);
    }
    digest_hex(hex, &source->snapshot.id);
    fact(html, "snapshot", hex);
    if (source->loaded.adapter.config.base_name)
        fact(html, "base model", source->loaded.adapter.config.base_name);
    html_printf(
        html, "<dt>rank</dt><dd>%llu</dd>\n</dl></div>\n",
        (unsigned long long)source->loaded.adapter.config.rank
    );
    return 0;
}

/* Totals */

static void total(struct html *html, const char *label, const char *text)
{
    html_printf(html, "<div><dt>%s</dt><dd>%s</dd></div>\n", label, text);
}

static void total_norm(struct html *html, const char *label, double norm)
{
    char text[24];

    snprintf(text, sizeof(text), "%.6g", norm);
    total(html, label, text);
}

static void total_changed(struct html *html, const struct difference *difference, bool is_zero)
{
    char text[48];
    size_t changed = 0;

    for (size_t i = 0; i < difference->module_count; i++)
        changed += module_is_changed(&difference->modules[i]);
    snprintf(text, sizeof(text), "%zu of %zu", changed, difference->module_count);
    total(html, is_zero ? "modules adapted" : "modules changed", text);
}

static void totals_write(struct html *html, const struct report *report)
{
    const struct difference *difference = report->difference;
    const struct comparison *effect = &difference->total;
    bool is_zero = report_is_zero(report);
    char text[24];

    html_markup(html, "<dl class=\"totals\">\n");
    total_norm(html, is_zero ? "‖ΔW‖" : "‖ΔW<sub>a</sub>‖", effect->norm_a);
    if (!is_zero) {
        total_norm(html, "‖ΔW<sub>b</sub>‖", effect->norm_b);
        total_norm(html, "‖ΔW<sub>a</sub> − ΔW<sub>b</sub>‖", effect->delta_norm);
        change_text(text, effect->relative);
        total(html, "change", effect->has_relative ? text : "–");
        snprintf(text, sizeof(text), "%.6f", effect->cosine);
        total(html, "cosine", effect->has_cosine ? text : "–");
    }
    total_changed(html, difference, is_zero);
    html_markup(html, "</dl>\n");
}

static int header_write(struct html *html, struct cli *cli, const struct report *report)
{
    bool is_zero = report_is_zero(report);
    int err;

    html_printf(html, "<header>\n<h1>%s</h1>\n", is_zero ? "What it does" : "What changed");
    html_markup(html, "<div class=\"sides\">\n");
    for (size_t side = 0; side < (is_zero ? 1 : 2); side++) {
        if ((err = side_write(html, cli, report, side)))
            return err;
    }
    html_markup(html, "</div>\n");
    if (report->difference->identical)
        html_markup(html, "<p class=\"note\">Identical: the same snapshot.</p>\n");
    if (report->difference->has_effects)
        totals_write(html, report);
    html_markup(html, "</header>\n");
    return 0;
}

static int effects_write(struct html *html, const struct report *report)
{
    int err;

    if (!report->difference->has_effects)
        return 0;
    if ((err = report_map(html, report)))
        return err;
    report_vectors(html, report);
    return report_modules(html, report);
}

int report_html(struct buf *out, struct cli *cli, const struct report *report)
{
    struct html html;
    int err;

    if (report->difference->module_count > REPORT_MODULES_MAX)
        return error_set(
            E_LIMIT, "page: %zu modules, and one shows at most %d",
            report->difference->module_count, REPORT_MODULES_MAX
        );
    html_init(&html, out);
    head_write(&html, report);
    html_markup(&html, "<body>\n<main>\n");
    if ((err = header_write(&html, cli, report)) || (err = effects_write(&html, report)))
        return err;
    if (!report_is_zero(report))
        report_rest(&html, report);
    html_markup(
        &html, "<footer><p>ΔW is what an adapter adds to a weight of the model; ‖·‖ is the "
               "Frobenius norm. Change is ‖ΔW<sub>a</sub>&nbsp;−&nbsp;ΔW<sub>b</sub>‖ beside "
               "‖ΔW<sub>a</sub>‖. Written by vera diff.</p></footer>\n</main>\n<script>"
    );
    html_markup(&html, report_script);
    html_markup(&html, "</script>\n</body>\n</html>\n");
    return html_end(&html);
}
