/*
 * What two adapters do differently: in every module, in biases and whole modules, in the
 * configuration and in other files. Found here, shown by cmd_diff.c.
 */
#ifndef CLI_DIFFERENCE_H
#define CLI_DIFFERENCE_H

#include "apply/compare.h"
#include "cli/acting.h"
#include "cli/config_entries.h"

enum change { CHANGE_NONE, CHANGE_ADDED, CHANGE_REMOVED, CHANGE_CHANGED };
/* "added", "removed", "changed". */
const char *change_name(enum change change);

struct module_difference {
    const char *name;
    enum change change; /* of its vectors' bits */
    struct comparison effect;
    uint64_t changed_d, changed_b; /* values that are not the same bits; where one adapter has not
                                      the module, all of the other's */
};

/* Are its vectors others, or what it does? */
bool module_is_changed(const struct module_difference *module);
/* Relative to what it was; infinite where it did nothing before and does something now. */
double module_change(const struct module_difference *module);
/* "54.21%", "new" for an infinite one. */
void change_text(char out[24], double change);

struct tensor_difference {
    const char *name; /* without PEFT's prefix */
    enum change change;
    bool has_norm; /* not where shapes differ, or the values are no floating-point numbers */
    double delta_norm;
};

struct file_difference {
    const char *path;
    enum change change;
};

struct config_difference {
    const char *key;
    const struct buf *a, *b; /* JSON; NULL where it is missing */
};

struct difference {
    bool identical;   /* the same snapshot */
    bool has_effects; /* false only where they are identical and nothing tells the modules' sizes */
    struct comparison total;
    struct module_difference *modules; /* that either adapter has, in byte order of name */
    size_t module_count;
    struct tensor_difference *tensors; /* that differ, in byte order of name */
    size_t tensor_count;
    struct file_difference *files; /* likewise */
    size_t file_count;
    struct config_difference *config; /* likewise */
    size_t config_count;

    /* what the pointers above lead to */
    struct company company;
    struct effect_pair *pairs;
    struct comparisons comparisons;
    struct manifest manifest_a, manifest_b;
    struct config_entries config_a, config_b;
};

#define AUTO_DIFFERENCE(name)                                                                      \
    __attribute__((cleanup(difference_release))) struct difference name = {0}

/* `b` NULL: against no adapter, and then only modules and tensors are looked at. `texts`: how the
   two were named. `base`: a model's directory, or NULL. The sources must outlive `out`, which stays
   where it is. Errors: E_INVALID where their pins name
   different models; company_load()'s, compare_effects()'s. */
MUST_CHECK int difference_find(
    struct difference *out,
    struct source *a,
    struct source *b,
    const char *const texts[2],
    const char *base,
    struct progress *progress
);
void difference_release(struct difference *difference);

#endif
