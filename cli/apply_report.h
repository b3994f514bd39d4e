/* What the rounding kept of an adapter: apply's report. */
#ifndef CLI_APPLY_REPORT_H
#define CLI_APPLY_REPORT_H

#include "apply/materialize.h"
#include "cli/cli.h"

/* The list of report[], null where there is none. */
void apply_report_json(struct json_writer *writer, const struct apply_result *result);

/* A table with a line for each module and one for all; warnings where weights are not finite, and
   where most of the change was lost. Nothing where there is no report. */
MUST_CHECK int apply_report_say(struct cli *cli, const struct apply_result *result);

#endif
