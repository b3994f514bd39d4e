/*
 * model.safetensors.index.json: which file each tensor of a sharded model is in.
 *
 * The index may be hostile: the number of tensors and files is bounded, and no name of a file leads
 * out of the model's directory (path_check).
 */
#ifndef APPLY_MODEL_INDEX_H
#define APPLY_MODEL_INDEX_H

#include "format/buf.h"

struct index_entry {
    size_t name;      /* in index.names, NUL-terminated */
    const char *file; /* one of index.files */
};

struct index {
    struct buf names;
    struct buf entries; /* struct index_entry each */
    struct buf files;   /* char * each, owned, in byte order, each once */
};

#define AUTO_INDEX(name) __attribute__((cleanup(index_release))) struct index name = {0}

/* E_INVALID (no JSON object with a weight_map of texts, a name that is no path inside the
   directory), E_LIMIT. */
MUST_CHECK int index_read(struct index *out, struct bytes text);
void index_release(struct index *index);

char **index_files(const struct index *index);
size_t index_file_count(const struct index *index);

/* The place of a file among the index' files, or where it would be. */
size_t index_place(bool *found, const struct index *index, const char *file);

#endif
