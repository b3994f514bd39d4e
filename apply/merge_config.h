/*
 * Three-way merge of adapter_config.json, key by key.
 *
 * Values are compared by what they mean (format/json_meaning.h), so how a side laid out its file is
 * no change. target_modules, modules_to_save and layers_to_transform are sets: their order means
 * nothing, and where all three versions have a list, what one side added is added and what one
 * removed is removed, so two sides that both changed it are no conflict.
 *
 * Whose bytes come out: where one side alone changed the file, that side's. Else those of the side
 * that means what the merge means; where both do, the ones that come first in byte order, so that
 * exchanging the sides gives the same. Else the file is written anew as PEFT writes it (keys
 * sorted, indented by two, no newline at the end), each value as it was written.
 */
#ifndef APPLY_MERGE_CONFIG_H
#define APPLY_MERGE_CONFIG_H

#include "apply/three_way.h"

/* Append the merged file to `out`, or nothing where there are conflicts, which are named
   "adapter_config.json: KEY". E_INVALID for what is no JSON object. */
MUST_CHECK int merge_config(
    struct buf *out,
    struct conflicts *conflicts,
    struct bytes base,
    struct bytes ours,
    struct bytes theirs,
    enum three_way_prefer prefer
);

#endif
