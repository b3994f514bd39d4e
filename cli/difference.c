/* What two adapters do differently. See difference.h. */
#include "cli/difference.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#define BLOCK 4096 /* values widened at a time */

const char *change_name(enum change change)
{
    static const char *const names[] = {"none", "added", "removed", "changed"};

    return names[change];
}

bool module_is_changed(const struct module_difference *module)
{
    return module->change != CHANGE_NONE || module->effect.delta_norm > 0;
}

double module_change(const struct module_difference *module)
{
    if (module->effect.has_relative)
        return module->effect.relative;
    return module->effect.delta_norm > 0 ? INFINITY : 0;
}

void change_text(char out[24], double change)
{
    if (isinf(change))
        snprintf(out, 24, "new");
    else if (change == 0 || change >= 1e-4)
        snprintf(out, 24, change < 1e6 ? "%.2f%%" : "%.3g%%", 100 * change);
    else
        snprintf(out, 24, "%.1e%%", 100 * change);
}

void difference_release(struct difference *difference)
{
    free(difference->modules);
    free(difference->tensors);
    free(difference->files);
    free(difference->config);
    free(difference->pairs);
    comparisons_release(&difference->comparisons);
    company_release(&difference->company);
    manifest_release(&difference->manifest_a);
    manifest_release(&difference->manifest_b);
    config_entries_release(&difference->config_a);
    config_entries_release(&difference->config_b);
    *difference = (struct difference){0};
}

/* Values */

static struct bytes bytes_of(const struct source *source, const struct tensor *tensor)
{
    return loaded_tensor(&source->loaded, tensor);
}

/* How many values are not the same: bits where the types are equal, else what they stand for. */
static uint64_t values_changed(
    const struct source *a, const struct tensor *x, const struct source *b, const struct tensor *y
)
{
    uint64_t count = tensor_values(x), other = tensor_values(y), changed;
    uint64_t common = count < other ? count : other;
    struct bytes left = bytes_of(a, x), right = bytes_of(b, y);
    size_t size = dtype_bits(x->dtype) / 8;

    changed = (count > other ? count : other) - common;
    if (x->dtype == y->dtype && size == 0) /* smaller than a byte */
        return bytes_equal(left, right) ? 0 : changed + common;
    if (x->dtype == y->dtype) {
        for (uint64_t i = 0; i < common; i++)
            changed += memcmp(left.data + i * size, right.data + i * size, size) != 0;
        return changed;
    }
    if (!dtype_is_float(x->dtype) || !dtype_is_float(y->dtype))
        return changed + common;
    size_t other_size = dtype_bits(y->dtype) / 8;
    for (uint64_t i = 0; i < common; i++) {
        double u, v;
        dtype_widen_double(&u, left.data + i * size, 1, x->dtype);
        dtype_widen_double(&v, right.data + i * other_size, 1, y->dtype);
        changed += memcmp(&u, &v, sizeof(u)) != 0;
    }
    return changed;
}

static bool tensors_equal(
    const struct source *a, const struct tensor *x, const struct source *b, const struct tensor *y
)
{
    return x->dtype == y->dtype && x->dims == y->dims &&
           memcmp(x->shape, y->shape, x->dims * sizeof(*x->shape)) == 0 &&
           bytes_equal(bytes_of(a, x), bytes_of(b, y));
}

/* Modules */

/* The next module of either adapter; NULL in the one that has not this name. */
struct module_cursor {
    const struct adapter *a, *b;
    size_t at_a, at_b;
};

static bool module_next(ptrdiff_t *out_a, ptrdiff_t *out_b, struct module_cursor *cursor)
{
    bool has_a = cursor->at_a < cursor->a->module_count;
    bool has_b = cursor->b && cursor->at_b < cursor->b->module_count;
    int order = 0;

    if (!has_a && !has_b)
        return false;
    if (has_a && has_b)
        order = strcmp(
            cursor->a->modules[cursor->at_a].name, cursor->b->modules[cursor->at_b].name
        );
    *out_a = has_a && (!has_b || order <= 0) ? (ptrdiff_t)cursor->at_a++ : -1;
    *out_b = has_b && (!has_a || order >= 0) ? (ptrdiff_t)cursor->at_b++ : -1;
    return true;
}

static void module_compare(
    struct module_difference *out,
    const struct source *a,
    const struct adapter_module *x,
    const struct source *b,
    const struct adapter_module *y
)
{
    const struct adapter_module *one = x ? x : y;

    out->name = one->name;
    if (x && y) {
        out->changed_d = values_changed(a, x->d, b, y->d);
        out->changed_b = values_changed(a, x->b, b, y->b);
        if (!tensors_equal(a, x->d, b, y->d) || !tensors_equal(a, x->b, b, y->b))
            out->change = CHANGE_CHANGED;
        return;
    }
    out->changed_d = tensor_values(one->d);
    out->changed_b = tensor_values(one->b);
    out->change = x ? CHANGE_REMOVED : CHANGE_ADDED;
}

static void
pair_set(struct effect_pair *pair, const struct company *company, ptrdiff_t at_a, ptrdiff_t at_b)
{
    const struct acting *a = &company->members[0], *b = &company->members[1];
    const struct acting *one = at_a >= 0 ? a : b;
    size_t at = (size_t)(at_a >= 0 ? at_a : at_b);
    const struct adapter_module *module = &one->source->loaded.adapter.modules[at];

    pair->name = module->name;
    pair->in = one->in[at];
    pair->out = module->out;
    if (at_a >= 0)
        pair->a = a->effects.modules[at_a];
    if (at_b >= 0)
        pair->b = b->effects.modules[at_b];
}

static int modules_compare(struct difference *difference, struct source *a, struct source *b)
{
    struct module_cursor cursor = {.a = &a->loaded.adapter, .b = b ? &b->loaded.adapter : NULL};
    size_t room = cursor.a->module_count + (b ? cursor.b->module_count : 0);
    ptrdiff_t at_a, at_b;

    if (!(difference->modules = array_new(room, sizeof(*difference->modules))) ||
        !(difference->pairs = array_new(room, sizeof(*difference->pairs))))
        return error_wrap(E_NOMEM, "modules");
    while (module_next(&at_a, &at_b, &cursor)) {
        size_t number = difference->module_count++;
        module_compare(
            &difference->modules[number], a, at_a >= 0 ? &cursor.a->modules[at_a] : NULL, b,
            at_b >= 0 ? &cursor.b->modules[at_b] : NULL
        );
        if (difference->has_effects)
            pair_set(&difference->pairs[number], &difference->company, at_a, at_b);
    }
    return 0;
}

static int effects_compare(struct difference *difference, struct progress *progress)
{
    int err = compare_effects(
        &difference->comparisons, difference->pairs, difference->module_count, 0, progress
    );

    if (err)
        return err;
    for (size_t i = 0; i < difference->module_count; i++)
        difference->modules[i].effect = difference->comparisons.modules[i];
    difference->total = difference->comparisons.total;
    return 0;
}

/* Biases and whole modules */

static const char *tensor_name(const struct tensor *tensor)
{
    size_t length = strlen(PEFT_PREFIX);

    return strncmp(tensor->name, PEFT_PREFIX, length) == 0 ? tensor->name + length : tensor->name;
}

/* sum += ||x - y||^2, of a block of values; y NULL: zeros. */
static void block_add(
    double *sum, const struct tensor *x, const uint8_t *left, const uint8_t *right, size_t count
)
{
    double u[BLOCK], v[BLOCK] = {0};

    dtype_widen_double(u, left, count, x->dtype);
    if (right)
        dtype_widen_double(v, right, count, x->dtype);
    for (size_t i = 0; i < count; i++)
        *sum += (u[i] - v[i]) * (u[i] - v[i]);
}

/* False where there is no such number. */
static bool tensors_norm(
    double *out,
    const struct source *a,
    const struct tensor *x,
    const struct source *b,
    const struct tensor *y
)
{
    struct bytes left = bytes_of(a, x), right = y ? bytes_of(b, y) : (struct bytes){0};
    uint64_t count = tensor_values(x);
    double sum = 0;

    if (!dtype_is_float(x->dtype) ||
        (y && (y->dtype != x->dtype || y->dims != x->dims ||
               memcmp(x->shape, y->shape, x->dims * sizeof(*x->shape)) != 0)))
        return false;
    size_t size = dtype_bits(x->dtype) / 8;
    for (uint64_t at = 0; at < count; at += BLOCK) {
        size_t n = count - at < BLOCK ? (size_t)(count - at) : BLOCK;
        block_add(&sum, x, left.data + at * size, y ? right.data + at * size : NULL, n);
    }
    *out = sqrt(sum);
    return isfinite(*out);
}

static int tensor_compare_names(const void *a, const void *b)
{
    const struct tensor_difference *left = a, *right = b;

    return strcmp(left->name, right->name);
}

/* What is no vector in one adapter is none in the other: its name tells. */
static const struct tensor *other_find(const struct source *source, const char *name)
{
    return safetensors_find(&source->loaded.adapter.layout, name);
}

static void tensor_add(
    struct difference *difference,
    enum change change,
    const struct source *a,
    const struct tensor *x,
    const struct source *b,
    const struct tensor *y
)
{
    struct tensor_difference *out = &difference->tensors[difference->tensor_count++];

    *out = (struct tensor_difference){.name = tensor_name(x), .change = change};
    out->has_norm = tensors_norm(&out->delta_norm, a, x, b, y);
}

static int
others_compare(struct difference *difference, const struct source *a, const struct source *b)
{
    const struct adapter *left = &a->loaded.adapter, *right = b ? &b->loaded.adapter : NULL;
    size_t room = left->other_count + (right ? right->other_count : 0);

    if (!(difference->tensors = array_new(room, sizeof(*difference->tensors))))
        return error_wrap(E_NOMEM, "tensors");
    for (size_t i = 0; i < left->other_count; i++) {
        const struct tensor *x = left->others[i], *y = b ? other_find(b, x->name) : NULL;
        if (!y)
            tensor_add(difference, CHANGE_REMOVED, a, x, NULL, NULL);
        else if (!tensors_equal(a, x, b, y))
            tensor_add(difference, CHANGE_CHANGED, a, x, b, y);
    }
    for (size_t i = 0; right && i < right->other_count; i++) {
        if (!other_find(a, right->others[i]->name))
            tensor_add(difference, CHANGE_ADDED, b, right->others[i], NULL, NULL);
    }
    if (difference->tensor_count)
        qsort(
            difference->tensors, difference->tensor_count, sizeof(*difference->tensors),
            tensor_compare_names
        );
    return 0;
}

/* Files and configuration */

static int files_compare(struct difference *difference)
{
    const struct manifest *a = &difference->manifest_a, *b = &difference->manifest_b;

    if (!(difference->files = array_new(a->count + b->count, sizeof(*difference->files))))
        return error_wrap(E_NOMEM, "files");
    for (size_t i = 0, k = 0; i < a->count || k < b->count;) {
        int order = i == a->count   ? 1
                    : k == b->count ? -1
                                    : strcmp(a->files[i].path, b->files[k].path);
        enum change change = order < 0 ? CHANGE_REMOVED : CHANGE_ADDED;
        if (order == 0)
            change = digest_equal(&a->files[i].digest, &b->files[k].digest) ? CHANGE_NONE
                                                                            : CHANGE_CHANGED;
        if (change != CHANGE_NONE)
            difference->files[difference->file_count++] = (struct file_difference
            ){order <= 0 ? a->files[i].path : b->files[k].path, change};
        i += order <= 0;
        k += order >= 0;
    }
    return 0;
}

static int config_compare(struct difference *difference)
{
    const struct config_entries *a = &difference->config_a, *b = &difference->config_b;

    if (!(difference->config = array_new(a->count + b->count, sizeof(*difference->config))))
        return error_wrap(E_NOMEM, "configuration");
    for (size_t i = 0, k = 0; i < a->count || k < b->count;) {
        int order = i == a->count   ? 1
                    : k == b->count ? -1
                                    : strcmp(a->entries[i].key, b->entries[k].key);
        const struct config_entry *left = order <= 0 ? &a->entries[i] : NULL;
        const struct config_entry *right = order >= 0 ? &b->entries[k] : NULL;
        if (!left || !right || !bytes_equal(buf_bytes(&left->meaning), buf_bytes(&right->meaning)))
            difference->config[difference->config_count++] = (struct config_difference){
                .key = order <= 0 ? a->entries[i].key : b->entries[k].key,
                .a = left ? &left->value : NULL,
                .b = right ? &right->value : NULL,
            };
        i += order <= 0;
        k += order >= 0;
    }
    return 0;
}

static int
rest_compare(struct difference *difference, const struct source *a, const struct source *b)
{
    int err;

    if ((err = manifest_decode(&difference->manifest_a, buf_bytes(&a->snapshot.manifest))) ||
        (err = manifest_decode(&difference->manifest_b, buf_bytes(&b->snapshot.manifest))) ||
        (err = config_entries_read(&difference->config_a, buf_bytes(&a->snapshot.config))) ||
        (err = config_entries_read(&difference->config_b, buf_bytes(&b->snapshot.config))) ||
        (err = files_compare(difference)))
        return err;
    return config_compare(difference);
}

int difference_find(
    struct difference *out,
    struct source *a,
    struct source *b,
    const char *const texts[2],
    const char *base,
    struct progress *progress
)
{
    struct source *sources[] = {a, b};
    int err;

    out->identical = b && digest_equal(&a->snapshot.id, &b->snapshot.id);
    err = company_load(&out->company, sources, texts, b ? 2 : 1, base, progress);
    out->has_effects = err == 0;
    if (err && (!out->identical || base || err != E_INVALID))
        return err;
    if (out->company.weights_differ && !out->identical) {
        err = error_set(
            E_INVALID, "%s and %s were committed with different base models", texts[0], texts[1]
        );
        return error_hint(err, "only what two adapters do to one model can be compared");
    }
    if ((err = modules_compare(out, a, b)) || (err = others_compare(out, a, b)) ||
        (b && (err = rest_compare(out, a, b))))
        return err;
    return out->has_effects ? effects_compare(out, progress) : 0;
}
