/*
 * vera diff --html: what two adapters do differently as one page that needs nothing else: its style
 * and its script are in it, nothing is loaded, and its Content-Security-Policy lets nothing be. It
 * is bounded by the number of modules, not of values: histograms have 40 bins each. The same input
 * gives the same bytes. Without scripts all is there but sorting, and the histograms of one module.
 */
#ifndef CLI_REPORT_HTML_H
#define CLI_REPORT_HTML_H

#include "cli/difference.h"

/* Modules in one page: what a browser still shows. */
#define REPORT_MODULES_MAX 65536

struct report {
    const struct difference *difference;
    const struct source *sources[2]; /* the second NULL: compared with no adapter */
    const char *const *texts;        /* how the two were named */
};

/* Append the page. E_LIMIT above REPORT_MODULES_MAX; store_version()'s errors. */
MUST_CHECK int report_html(struct buf *out, struct cli *cli, const struct report *report);

#endif
