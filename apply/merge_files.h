/*
 * Three-way merge of an adapter's other files (README.md, the tokenizer's), each by its content as
 * a whole: lines are not merged.
 */
#ifndef APPLY_MERGE_FILES_H
#define APPLY_MERGE_FILES_H

#include "apply/three_way.h"
#include "format/snapshot.h"

/* Append to `out` what the merge has; adapter_config.json and adapter_model.safetensors are left
   out. A file that both sides changed differently, or one changed and the other one removed, is
   that of the side that is preferred, else a conflict and not in `out`. */
MUST_CHECK int merge_files(
    struct adapter_files *out,
    struct conflicts *conflicts,
    const struct adapter_files *base,
    const struct adapter_files *ours,
    const struct adapter_files *theirs,
    enum three_way_prefer prefer
);

#endif
