/* The parts of vera diff's page, each a section: inside report_html.c and its kin only. */
#ifndef CLI_REPORT_PARTS_H
#define CLI_REPORT_PARTS_H

#include "cli/html.h"
#include "cli/report_html.h"

/* cli/report_map.c: layers x types of modules, coloured by how much they changed (with no adapter
   to compare with: by what they do), and its legend. E_NOMEM. */
MUST_CHECK int report_map(struct html *html, const struct report *report);

/* cli/report_vectors.c: histograms of all d and of all b, and those of each module as JSON for the
   script. */
void report_vectors(struct html *html, const struct report *report);

/* cli/report_tables.c: the modules, the largest change first (E_NOMEM); biases and whole modules;
   configuration; files. */
MUST_CHECK int report_modules(struct html *html, const struct report *report);
void report_rest(struct html *html, const struct report *report);

static inline bool report_is_zero(const struct report *report)
{
    return !report->sources[1];
}

#endif
