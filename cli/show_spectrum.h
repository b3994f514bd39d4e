/* What `vera show --spectrum` adds: how many directions each module really uses. */
#ifndef CLI_SHOW_SPECTRUM_H
#define CLI_SHOW_SPECTRUM_H

#include "apply/spectrum.h"
#include "cli/acting.h"

struct shown_spectra {
    struct company company;
    struct effect_pair *modules; /* those that are shown */
    struct spectra spectra;      /* of each of them */
};

#define AUTO_SHOWN_SPECTRA(name)                                                                   \
    __attribute__((cleanup(shown_spectra_release))) struct shown_spectra name = {0}

/* `module`: one module's name, or the end of some modules' names ("q_proj"); NULL: all. `text`: how
   the source was named. E_NOTFOUND where it has no such module; company_load()'s errors. */
MUST_CHECK int shown_spectra_make(
    struct shown_spectra *out,
    struct source *source,
    const char *text,
    const char *module,
    const char *base,
    struct progress *progress
);
void shown_spectra_release(struct shown_spectra *shown);

/* Key "spectrum". NULL: null. */
void shown_spectra_json(struct json_writer *writer, const struct shown_spectra *shown);
/* A line for each module; where it is one, its singular values too. */
MUST_CHECK int shown_spectra_say(struct cli *cli, const struct shown_spectra *shown);

#endif
