/* What is recorded of a base model with an adapter: pin, shapes, configuration. See plan.h. */
#include <stdlib.h>
#include <string.h>

#include "apply/match.h"
#include "apply/plan.h"

/* One tensor's part of the whole work. */
struct part {
    struct progress progress;
    struct progress *whole;
    uint64_t before, total;
};

static void part_update(struct progress *self, uint64_t done, uint64_t total)
{
    const struct part *part = (const struct part *)(const void *)self;

    (void)total;
    progress_update(part->whole, part->before + done, part->total);
}

static int text_copy(char **out, const char *text)
{
    if (!text)
        return 0;
    *out = bytes_dup(text_bytes(text));
    return *out ? 0 : error_set(E_NOMEM, "out of memory for the base model's name");
}

static int pin_make(
    struct pin *pin,
    const struct match *match,
    const struct model *model,
    const struct adapter *adapter,
    struct progress *progress
)
{
    struct part part = {{part_update}, progress, 0, 0};

    if (!(pin->modules = array_new(adapter->module_count, sizeof(*pin->modules))))
        return error_set(E_NOMEM, "out of memory for %zu modules", adapter->module_count);
    for (size_t i = 0; i < adapter->module_count; i++)
        part.total += tensor_bytes(match->modules[i].weight.tensor);
    for (size_t i = 0; i < adapter->module_count; i++) {
        const struct model_tensor *weight = &match->modules[i].weight;
        struct pin_module *module = &pin->modules[pin->count++];
        int err = text_copy(&module->name, adapter->modules[i].name);
        if (err < 0 || (err = model_digest(&module->digest, model, weight, &part.progress)) < 0)
            return err;
        module->dtype = weight->tensor->dtype;
        module->rows = weight->tensor->shape[0];
        module->columns = weight->tensor->shape[1];
        part.before += tensor_bytes(weight->tensor);
    }
    return 0;
}

int model_describe(
    struct base_facts *out,
    const struct model *model,
    const struct adapter *adapter,
    struct progress *progress
)
{
    AUTO_BASE_FACTS(facts);
    AUTO_MATCH(match);
    int err;

    if ((err = match_make(&match, adapter, model)) < 0)
        return err;
    if ((err = match_error(&match, adapter, model, true)) < 0)
        return match_details(err, &match, adapter, true);
    if (adapter->a && (err = match_check_columns(&match, model, adapter->a->shape[1])) < 0)
        return err;
    if ((err = text_copy(&facts.pin.name, adapter->config.base_name)) < 0 ||
        (err = text_copy(&facts.pin.revision, adapter->config.base_revision)) < 0 ||
        (err = pin_make(&facts.pin, &match, model, adapter, progress)) < 0 ||
        (err = buf_append(&facts.config, model->config.data, model->config.len)) < 0)
        return err;
    facts.in_max = match.in_max;
    facts.out_max = match.out_max;
    facts.dtype = match.dtype;
    *out = facts;
    facts = (struct base_facts){0};
    return 0;
}
