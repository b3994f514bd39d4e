/*
 * Which files of a base model's directory a merged model takes over as they are: what Transformers,
 * sentence-transformers and the engines read beside the weights, and the terms of use.
 *
 * At the top: *.json, *.txt, *.jinja, *.py, LICENSE*, NOTICE* and the tokenizers' files (*.model,
 * *.model.v*, *.spm, *.tiktoken, *.bpe, *.vocab, *.codes). Not among them: *.index.json (the
 * weights'), adapter_config.json (Transformers would load an adapter of that name), trainer_state
 * .json. Of folders: additional_chat_templates/ (*.jinja), and those that modules.json names
 * (sentence-transformers: 1_Pooling/, 2_Dense/), weights included. Never: hidden files, weights in
 * any other format, optimizer states, README.md (it describes the base).
 */
#ifndef APPLY_MODEL_FILES_H
#define APPLY_MODEL_FILES_H

#include "format/file.h"

struct model_files {
    char **paths; /* relative to the model's directory, in byte order, owned */
    size_t count;
};

#define AUTO_MODEL_FILES(name)                                                                     \
    __attribute__((cleanup(model_files_release))) struct model_files name = {0}

/* E_INVALID where modules.json is no JSON or names a folder outside; E_LIMIT, E_IO. */
MUST_CHECK int model_files_find(struct model_files *out, const char *dir);
void model_files_release(struct model_files *files);

#endif
