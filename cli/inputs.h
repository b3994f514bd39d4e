/* What apply and verify read: a base model, and one or several adapters, each REV or REV:W. */
#ifndef CLI_INPUTS_H
#define CLI_INPUTS_H

#include "apply/materialize.h"
#include "cli/cli.h"

struct inputs {
    struct source *sources;     /* [count] */
    struct apply_input *inputs; /* [count], of the sources */
    size_t count;
    struct model model;
};

#define AUTO_INPUTS(name) __attribute__((cleanup(inputs_release))) struct inputs name = {0}

/* `out` stays where it is: the inputs point into it. */
MUST_CHECK int inputs_load(
    struct inputs *out, struct cli *cli, const char *const *texts, size_t count, const char *base
);
void inputs_release(struct inputs *inputs);

/* "3f2a9c1", "3f2a9c1 and 2 more": the adapters, for a line. */
MUST_CHECK int inputs_describe(struct buf *out, const struct inputs *inputs);

/* --threads as the number that apply/ takes; E_INVALID (usage) above 1024. */
MUST_CHECK int inputs_threads(unsigned *out, const struct cli_count *count);

/* --device, one of auto, cpu and cuda; NULL: not given. */
enum device_kind inputs_device(const char *word, enum device_kind otherwise);

/* Warn where the result stands on names and shapes alone. */
void inputs_warn_unpinned(const char *base);

#endif
