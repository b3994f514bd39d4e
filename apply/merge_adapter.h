/*
 * Three-way merge of whole adapters, data in and data out: vectors in dW (apply/merge.h), biases
 * and whole modules element by element, adapter_config.json by its keys (apply/merge_config.h),
 * other files by their content.
 *
 * A module or a tensor that one side alone changed, added or removed is as that side has it.
 * adapter_model.safetensors has ours' layout: its header where the tensors are ours', theirs' where
 * they are theirs' only; else a new one with ours' metadata and order, in which new tensors stand
 * where safetensors' own writer would have put them. So where the merge is one side in everything,
 * it is that side's files, byte for byte.
 */
#ifndef APPLY_MERGE_ADAPTER_H
#define APPLY_MERGE_ADAPTER_H

#include "apply/merge.h"
#include "apply/three_way.h"

/* One of the three. All borrowed; `files` are whole, in byte order of path. */
struct merge_version {
    const struct loaded_adapter *loaded;
    const struct adapter_files *files;
};

/* How many inputs a module has in the base model. */
struct merge_inputs {
    const char *module;
    uint64_t in;
};

struct merge_request {
    struct merge_version base, ours, theirs;
    /* `ours` and `theirs`: that side is right wherever both changed something, and `options` are
       not looked at. */
    enum three_way_prefer prefer;
    struct merge_options options;
    /* The three stand on one basis and one base model. Where they do not: the whole of the side
       that is preferred; without one E_UNSUPPORTED where both changed the model file. */
    bool is_one_basis;
    /* Needed where merge_needs_basis() says so, else NULL and 0. */
    const struct basis *basis;
    const struct merge_inputs *inputs; /* in byte order of module */
    size_t input_count;
};

struct adapter_merge {
    struct adapter_files files; /* in byte order of path; empty where there are conflicts */
    char **names;               /* of the modules of all three, in byte order */
    struct merge modules;       /* as `names`; all but `taken` 0 unless they were `measured` */
    bool measured;              /* merge_modules() was asked */
    struct conflicts conflicts;
};

#define AUTO_ADAPTER_MERGE(name)                                                                   \
    __attribute__((cleanup(adapter_merge_release))) struct adapter_merge name = {0}

/* Did both sides change the model file, each in its own way? Only then it matters whether the three
   stand on one basis. */
bool merge_is_two_sided(const struct merge_request *request);

/* Is there a module that must be fitted, or are ranks asked for? */
MUST_CHECK int merge_needs_basis(bool *out, const struct merge_request *request);

/* Conflicts are no error: they are in `out`, and no files then. E_UNSUPPORTED, see is_one_basis;
   E_INVALID where a module has no line among `inputs`; merge_modules()'s and merge_elements()'s. */
MUST_CHECK int merge_adapter(struct adapter_merge *out, const struct merge_request *request);
void adapter_merge_release(struct adapter_merge *merge);

#endif
