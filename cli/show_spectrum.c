/* What `vera show --spectrum` adds. See show_spectrum.h. */
#include "cli/show_spectrum.h"

#include <stdlib.h>
#include <string.h>

#include "format/nearest.h"

#define BARS     20 /* singular values that are drawn at most */
#define NAME_MIN 12 /* columns of a name, however narrow the terminal is */

void shown_spectra_release(struct shown_spectra *shown)
{
    free(shown->modules);
    spectra_release(&shown->spectra);
    company_release(&shown->company);
    *shown = (struct shown_spectra){0};
}

/* The name, or what follows a dot in it. */
static bool is_meant(const char *name, const char *wanted)
{
    size_t length = strlen(name), end = strlen(wanted);

    if (end > length || strcmp(name + length - end, wanted) != 0)
        return false;
    return end == length || name[length - end - 1] == '.';
}

static bool has_module(const struct adapter *adapter, const char *name)
{
    for (size_t i = 0; i < adapter->module_count; i++) {
        if (strcmp(adapter->modules[i].name, name) == 0)
            return true;
    }
    return false;
}

static int module_missing(const struct adapter *adapter, const char *name)
{
    struct nearest nearest;
    int err = error_set(E_NOTFOUND, "no module is called '%s'", name);

    nearest_init(&nearest, name);
    for (size_t i = 0; i < adapter->module_count; i++)
        nearest_offer(&nearest, adapter->modules[i].name);
    return nearest.name ? error_hint(err, "did you mean '%s'?", nearest.name)
                        : error_hint(err, "without a name all modules are shown");
}

static int modules_choose(struct shown_spectra *shown, size_t *count, const char *wanted)
{
    const struct acting *acting = &shown->company.members[0];
    const struct adapter *adapter = &acting->source->loaded.adapter;
    bool whole = wanted && has_module(adapter, wanted);

    if (!(shown->modules = array_new(adapter->module_count, sizeof(*shown->modules))))
        return E_NOMEM;
    *count = 0;
    for (size_t i = 0; i < adapter->module_count; i++) {
        const struct adapter_module *module = &adapter->modules[i];
        if (whole ? strcmp(module->name, wanted) != 0 : wanted && !is_meant(module->name, wanted))
            continue;
        shown->modules[(*count)++] = (struct effect_pair){
            .name = module->name,
            .in = acting->in[i],
            .out = module->out,
            .a = acting->effects.modules[i],
        };
    }
    return *count ? 0 : module_missing(adapter, wanted);
}

int shown_spectra_make(
    struct shown_spectra *out,
    struct source *source,
    const char *text,
    const char *module,
    const char *base,
    struct progress *progress
)
{
    size_t count = 0;
    int err;

    if ((err = company_load(&out->company, &source, &text, 1, base, progress)) ||
        (err = modules_choose(out, &count, module)))
        return err;
    return spectra_make(&out->spectra, out->modules, count, 0, progress);
}

/* JSON */

static void
spectrum_json(struct json_writer *writer, const char *module, const struct spectrum *spectrum)
{
    json_write_object_begin(writer);
    json_write_key(writer, "module");
    json_write_text(writer, module);
    json_write_key(writer, "singular_values");
    json_write_array_begin(writer);
    for (size_t i = 0; i < spectrum->count; i++)
        json_write_double(writer, spectrum->values[i]);
    json_write_array_end(writer);
    json_write_key(writer, "energy");
    json_write_array_begin(writer);
    for (size_t i = 0; i < spectrum->count; i++)
        json_write_double(writer, spectrum_energy(spectrum, i + 1));
    json_write_array_end(writer);
    json_write_key(writer, "effective_rank");
    json_write_double(writer, spectrum->effective_rank);
    json_write_object_end(writer);
}

void shown_spectra_json(struct json_writer *writer, const struct shown_spectra *shown)
{
    json_write_key(writer, "spectrum");
    if (!shown) {
        json_write_null(writer);
        return;
    }
    json_write_array_begin(writer);
    for (size_t i = 0; i < shown->spectra.count; i++)
        spectrum_json(writer, shown->modules[i].name, &shown->spectra.modules[i]);
    json_write_array_end(writer);
}

/* Words */

/* How many directions hold this share of the energy. */
static size_t directions(const struct spectrum *spectrum, double share)
{
    size_t count = 0;

    while (count < spectrum->count && spectrum_energy(spectrum, count) < share)
        count++;
    return count;
}

static int line_say(struct cli *cli, struct buf *line)
{
    const char *text = buf_text(line);

    if (!text)
        return error_wrap(E_NOMEM, "spectrum");
    cli_say(cli, "%s", text);
    return 0;
}

/* One singular value; a bar beside it where there is room for one. */
static int value_say(struct cli *cli, const struct spectrum *spectrum, size_t number)
{
    double most = spectrum->values[0], value = spectrum->values[number];
    size_t width = cli_width() - 1, room, length;
    AUTO_BUF(line);

    int err = buf_printf(
        &line, "%6zu  %12.6g  %6.2f%%  ", number + 1, value,
        100 * spectrum_energy(spectrum, number + 1)
    );
    room = width > line.len ? width - line.len : 0;
    length = most > 0 ? (size_t)(value / most * (double)room + 0.5) : 0;
    for (size_t i = 0; !err && i < length; i++)
        err = buf_append_byte(&line, '#');
    return err ? err : line_say(cli, &line);
}

static int values_say(struct cli *cli, const struct spectrum *spectrum)
{
    size_t shown = spectrum->count < BARS ? spectrum->count : BARS;
    int err = 0;

    cli_say(cli, "%s", "");
    cli_say(cli, "%6s  %12s  %7s", "", "value", "energy");
    for (size_t i = 0; !err && i < shown; i++)
        err = value_say(cli, spectrum, i);
    if (!err && shown < spectrum->count)
        cli_say(
            cli, "%6s  and %zu more, down to %.3g", "", spectrum->count - shown,
            spectrum->values[spectrum->count - 1]
        );
    return err;
}

static int module_say(struct cli *cli, const struct spectrum *spectrum, const char *name)
{
    size_t room = cli_room();
    AUTO_BUF(line);

    int err = buf_printf(
        &line, "%10.4g  %9.1f  %4zu  %4zu  %5zu  ", spectrum->norm, spectrum->effective_rank,
        directions(spectrum, 0.9), directions(spectrum, 0.99), directions(spectrum, 0.999)
    );
    if (!err)
        err = cli_fit(&line, name, room > line.len + NAME_MIN ? room - line.len : NAME_MIN);
    return err ? err : line_say(cli, &line);
}

int shown_spectra_say(struct cli *cli, const struct shown_spectra *shown)
{
    int err = 0;

    cli_say(cli, "%s", "");
    cli_say(cli, "directions that hold 90, 99 and 99.9%% of a module's energy:");
    cli_say(cli, "%10s  %9s  %4s  %4s  %5s  module", "||dW||", "effective", "90%", "99%", "99.9%");
    for (size_t i = 0; !err && i < shown->spectra.count; i++)
        err = module_say(cli, &shown->spectra.modules[i], shown->modules[i].name);
    return err || shown->spectra.count != 1 ? err : values_say(cli, &shown->spectra.modules[0]);
}
