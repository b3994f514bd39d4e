/*
 * Do three versions stand on one basis and one base model, and what of it is recorded?
 *
 * What the recipes and pins tell comes first: where they contradict each other, nothing can be
 * fitted, whatever else is known. Bases and sizes are loaded only where something must be fitted,
 * or where nothing else tells that the bases are one (adapters saved without A and B).
 */
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

#include "apply/plan.h"
#include "cli/acting.h"
#include "cli/describe.h"
#include "cli/merging.h"

/* In order: the last word counts. */
enum verdict { ONE_BASIS, UNKNOWN, DIFFERENT };

static enum verdict worse(enum verdict a, enum verdict b)
{
    return a > b ? a : b;
}

static bool seeds_equal(const struct recipe *a, const struct recipe *b)
{
    return a->has_seed == b->has_seed && (!a->has_seed || (a->seed.negative == b->seed.negative &&
                                                           a->seed.magnitude == b->seed.magnitude));
}

static enum verdict recipes_compare(const struct loaded_adapter *a, const struct loaded_adapter *b)
{
    const struct recipe *x = &a->recipe, *y = &b->recipe;

    if (a->adapter.config.rank != b->adapter.config.rank)
        return DIFFERENT;
    if (x->has_matrices && y->has_matrices)
        return digest_equal(&x->sha256_a, &y->sha256_a) && digest_equal(&x->sha256_b, &y->sha256_b)
                   ? ONE_BASIS
                   : DIFFERENT;
    return seeds_equal(x, y) ? UNKNOWN : DIFFERENT;
}

static bool lines_equal(const struct pin_module *a, const struct pin_module *b)
{
    return a->dtype == b->dtype && a->rows == b->rows && a->columns == b->columns &&
           digest_equal(&a->digest, &b->digest);
}

/* Do they pin a module in two ways? */
static bool pins_contradict(const struct pin *a, const struct pin *b)
{
    for (size_t i = 0; i < a->count; i++) {
        const struct pin_module *other = pin_find(b, a->modules[i].name);
        if (other && !lines_equal(&a->modules[i], other))
            return true;
    }
    return false;
}

static bool names_differ(const struct loaded_adapter *a, const struct loaded_adapter *b)
{
    const char *x = a->adapter.config.base_name, *y = b->adapter.config.base_name;

    return x && y && strcmp(x, y) != 0;
}

struct pins {
    struct pin pins[VERSIONS]; /* empty where none was recorded */
};

static void pins_release(struct pins *pins)
{
    for (size_t i = 0; i < VERSIONS; i++)
        pin_release(&pins->pins[i]);
}

#define AUTO_PINS(name) __attribute__((cleanup(pins_release))) struct pins name = {0}

static int pins_read(struct pins *out, const struct merging *merging)
{
    int err = 0;

    for (size_t i = 0; !err && i < VERSIONS; i++) {
        const struct buf *text = &merging->sources[i].snapshot.pin;
        if (text->len && (err = pin_decode(&out->pins[i], buf_bytes(text))))
            err = error_wrap(err, "%s", merging->task->names[i]);
    }
    return err;
}

/* Names tell only where there are no pins to tell, and no model at hand. */
static enum verdict
models_compare(const struct merging *merging, const struct pins *pins, size_t a, size_t b)
{
    const struct pin *x = &pins->pins[a], *y = &pins->pins[b];

    if (pins_contradict(x, y))
        return DIFFERENT;
    if ((x->count && y->count) || merging->task->arguments->base)
        return ONE_BASIS;
    return names_differ(&merging->sources[a].loaded, &merging->sources[b].loaded) ? DIFFERENT
                                                                                  : ONE_BASIS;
}

static int verdict_find(enum verdict *out, const struct merging *merging)
{
    AUTO_PINS(pins);

    int err = pins_read(&pins, merging);
    if (err)
        return err;
    *out = ONE_BASIS;
    for (size_t a = 0; a < VERSIONS; a++) {
        for (size_t b = a + 1; b < VERSIONS; b++) {
            *out = worse(
                *out, recipes_compare(&merging->sources[a].loaded, &merging->sources[b].loaded)
            );
            *out = worse(*out, models_compare(merging, &pins, a, b));
        }
    }
    return 0;
}

/* Bases and sizes */

struct given {
    struct company company;
    struct merge_inputs *inputs;
    size_t count;
};

static void given_release(struct given *given)
{
    company_release(&given->company);
    free(given->inputs);
}

static int input_compare(const void *a, const void *b)
{
    return strcmp(
        ((const struct merge_inputs *)a)->module, ((const struct merge_inputs *)b)->module
    );
}

/* Every module's inputs, once; the company agrees about them. */
static int inputs_list(struct given *given)
{
    size_t room = 0, count = 0;

    for (size_t i = 0; i < given->company.count; i++)
        room += given->company.members[i].source->loaded.adapter.module_count;
    if (!(given->inputs = array_new(room, sizeof(*given->inputs))))
        return error_wrap(E_NOMEM, "modules");
    for (size_t i = 0; i < given->company.count; i++) {
        const struct acting *acting = &given->company.members[i];
        const struct adapter *adapter = &acting->source->loaded.adapter;
        for (size_t k = 0; k < adapter->module_count; k++)
            given->inputs[count++] = (struct merge_inputs){adapter->modules[k].name, acting->in[k]};
    }
    if (count)
        qsort(given->inputs, count, sizeof(*given->inputs), input_compare);
    for (size_t i = 0; i < count; i++) {
        if (!given->count || input_compare(&given->inputs[given->count - 1], &given->inputs[i]))
            given->inputs[given->count++] = given->inputs[i];
    }
    return 0;
}

static int given_load(struct given *out, struct merging *merging)
{
    struct source *sources[VERSIONS];

    for (size_t i = 0; i < VERSIONS; i++)
        sources[i] = &merging->sources[i];
    int err = company_load(
        &out->company, sources, merging->task->names, VERSIONS, merging->task->arguments->base,
        merging->progress
    );
    return err ? err : inputs_list(out);
}

static bool company_is_one(const struct company *company)
{
    const struct basis *first = company->members[0].basis;

    for (size_t i = 1; i < company->count; i++) {
        const struct basis *other = company->members[i].basis;
        if (first->rank != other->rank || !digest_equal(&first->sha256_a, &other->sha256_a) ||
            !digest_equal(&first->sha256_b, &other->sha256_b))
            return false;
    }
    return !company->weights_differ;
}

/* Adapters without A and B draw them by seed, rank and sizes: of the same modules the same. */
static bool modules_are_equal(const struct merging *merging)
{
    const struct adapter *first = &merging->sources[0].loaded.adapter;

    for (size_t i = 1; i < VERSIONS; i++) {
        const struct adapter *other = &merging->sources[i].loaded.adapter;
        if (first->module_count != other->module_count)
            return false;
        for (size_t k = 0; k < first->module_count; k++) {
            if (strcmp(first->modules[k].name, other->modules[k].name) != 0 ||
                first->modules[k].out != other->modules[k].out)
                return false;
        }
    }
    return true;
}

/* Fill in what stands on bases and sizes. */
static int request_complete(
    struct merge_request *request,
    struct given *given,
    struct merging *merging,
    enum verdict verdict
)
{
    bool needs = false;

    int err = merge_needs_basis(&needs, request);
    if (err)
        return err;
    request->is_one_basis = true;
    if (!needs && verdict == ONE_BASIS)
        return 0;
    err = given_load(given, merging);
    if (err == E_INVALID && request->prefer != PREFER_NONE) {
        /* Nothing is computed for who takes sides: what tells the sizes may be missing. */
        request->is_one_basis = verdict == ONE_BASIS || modules_are_equal(merging);
        return 0;
    }
    if (err)
        return err;
    merging->is_base_checked = merging->task->arguments->base != NULL;
    request->is_one_basis = company_is_one(&given->company);
    request->basis = given->company.members[0].basis;
    request->inputs = given->inputs;
    request->input_count = given->count;
    return 0;
}

static struct merge_version version_of(const struct merging *merging, size_t i)
{
    return (struct merge_version){&merging->sources[i].loaded, &merging->files[i]};
}

/* What each version stands on. */
static int versions_detail(int err, const struct merging *merging)
{
    for (size_t i = 0; i < VERSIONS; i++) {
        const struct loaded_adapter *loaded = &merging->sources[i].loaded;
        const struct recipe *recipe = &loaded->recipe;
        const char *base = loaded->adapter.config.base_name;
        err = error_detail(
            err, "%s: rank %" PRIu64 ", seed %s, A %s, base model %s", merging->task->names[i],
            loaded->adapter.config.rank, seed_text(recipe).text,
            recipe->has_matrices ? short_digest(&recipe->sha256_a).text : "not known",
            base ? base : "not named"
        );
    }
    return err;
}

int merging_merge(struct merging *merging)
{
    __attribute__((cleanup(given_release))) struct given given = {0};
    enum verdict verdict = ONE_BASIS;
    struct merge_request request = {
        .base = version_of(merging, VERSION_BASE),
        .ours = version_of(merging, VERSION_OURS),
        .theirs = version_of(merging, VERSION_THEIRS),
        .prefer = merging->settings.prefer,
        .options = merging->settings.options,
    };
    int err = verdict_find(&verdict, merging);

    if (err)
        return err;
    if (verdict != DIFFERENT && (merge_is_two_sided(&request) || request.options.ranks) &&
        (err = request_complete(&request, &given, merging, verdict)))
        return err;
    if (!request.is_one_basis)
        request.options.ranks = false;
    err = merge_adapter(&merging->merge, &request);
    return err == E_UNSUPPORTED && !request.is_one_basis ? versions_detail(err, merging) : err;
}

/* The pin of the merge */

static int text_copy(char **out, const char *text)
{
    if (text && !(*out = bytes_dup(text_bytes(text))))
        return error_wrap(E_NOMEM, "pin");
    return 0;
}

/* What the sides have recorded of a module: both alike, or the one that has it; else NULL. */
static const struct pin_module *line_choose(const struct pins *pins, const char *name)
{
    const struct pin_module *ours = pin_find(&pins->pins[VERSION_OURS], name);
    const struct pin_module *theirs = pin_find(&pins->pins[VERSION_THEIRS], name);

    if (ours && theirs && !lines_equal(ours, theirs))
        return NULL;
    return ours ? ours : theirs;
}

static int line_add(struct base_facts *facts, const struct pin_module *line, uint64_t out)
{
    struct pin *pin = &facts->pin;
    uint64_t in = line->rows == out ? line->columns : line->rows;

    if (pin->count == 0)
        facts->dtype = line->dtype;
    else if (facts->dtype != line->dtype)
        facts->dtype = DTYPE_COUNT;
    facts->in_max = in > facts->in_max ? in : facts->in_max;
    facts->out_max = out > facts->out_max ? out : facts->out_max;
    pin->modules[pin->count] = *line;
    pin->modules[pin->count].name = NULL;
    return text_copy(&pin->modules[pin->count++].name, line->name);
}

/* Where the model file is one side's in the end, that side's pin counts alone. */
static bool pins_narrow(struct pins *pins, const struct merging *merging)
{
    const struct adapter_file *merged = adapter_files_find(&merging->merge.files, PEFT_MODEL);
    struct pin *ours = &pins->pins[VERSION_OURS], *theirs = &pins->pins[VERSION_THEIRS];
    bool is[VERSIONS];

    for (size_t i = 0; i < VERSIONS; i++) {
        const struct adapter_file *file = adapter_files_find(&merging->files[i], PEFT_MODEL);
        is[i] = bytes_equal(buf_bytes(&file->data), buf_bytes(&merged->data));
    }
    if (is[VERSION_OURS] && (ours->count || !is[VERSION_THEIRS])) {
        pin_release(theirs);
        *theirs = (struct pin){0};
    } else if (is[VERSION_THEIRS]) {
        pin_release(ours);
        *ours = (struct pin){0};
    }
    return is[VERSION_OURS] || is[VERSION_THEIRS];
}

static int facts_of_sides(
    struct base_facts *out, bool *has, const struct merging *merging, const struct adapter *adapter
)
{
    AUTO_PINS(pins);
    int err;

    if ((err = pins_read(&pins, merging)))
        return err;
    bool is_both = pins.pins[VERSION_OURS].count && pins.pins[VERSION_THEIRS].count;
    bool is_one_side = pins_narrow(&pins, merging);
    if (!is_both && !is_one_side)
        return 0;
    if (!(out->pin.modules = array_new(adapter->module_count, sizeof(*out->pin.modules))))
        return error_wrap(E_NOMEM, "pin");
    for (size_t i = 0; i < adapter->module_count; i++) {
        const struct pin_module *line = line_choose(&pins, adapter->modules[i].name);
        if (!line)
            return 0;
        if ((err = line_add(out, line, adapter->modules[i].out)))
            return err;
    }
    size_t side = pins.pins[VERSION_OURS].count ? VERSION_OURS : VERSION_THEIRS;
    const struct buf *config = &merging->sources[side].snapshot.model_config;
    *has = true;
    if ((err = text_copy(&out->pin.name, adapter->config.base_name)) ||
        (err = text_copy(&out->pin.revision, adapter->config.base_revision)))
        return err;
    return buf_append(&out->config, config->data, config->len);
}

/* A model at hand must be the one that was recorded. */
static int model_check(const struct merging *merging, const struct base_facts *facts)
{
    AUTO_PINS(pins);

    int err = pins_read(&pins, merging);
    if (!err)
        (void)pins_narrow(&pins, merging);
    for (size_t i = VERSION_OURS; !err && i < VERSIONS; i++) {
        if (!pins_contradict(&pins.pins[i], &facts->pin))
            continue;
        err = error_set(
            E_CONFLICT, "%s: not the base model that %s was committed with",
            merging->task->arguments->base, merging->task->names[i]
        );
        err = error_hint(err, "what was recorded is enough: leave --base out");
    }
    return err;
}

/* Hash the model at hand. */
static int
facts_of_model(struct base_facts *out, const struct merging *merging, const struct adapter *adapter)
{
    AUTO_MODEL(model);
    int err;

    if ((err = model_open(&model, merging->task->arguments->base)) ||
        (err = model_describe(out, &model, adapter, merging->progress)))
        return err;
    return model_check(merging, out);
}

int merging_facts(struct base_facts *out, bool *has, const struct merging *merging)
{
    const struct adapter_file *config = adapter_files_find(&merging->merge.files, PEFT_CONFIG);
    const struct adapter_file *file = adapter_files_find(&merging->merge.files, PEFT_MODEL);
    bool is_given = merging->task->arguments->base != NULL;
    AUTO_ADAPTER(adapter);
    int err;

    err = adapter_decode(
        &adapter, buf_bytes(&config->data), buf_bytes(&file->data), file->data.len
    );
    if (err)
        return error_wrap(err, "the merge");
    if (!is_given || merging->is_base_checked) {
        err = facts_of_sides(out, has, merging, &adapter);
        if (err || *has || !is_given)
            return err;
        base_facts_release(out);
    }
    *has = true;
    return facts_of_model(out, merging, &adapter);
}
