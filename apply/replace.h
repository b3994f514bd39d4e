/*
 * What an adapter brings besides vectors: biases and whole modules. They take the place of the
 * base's tensors or, where modules_to_save names their module, are added.
 *
 *   X.base_layer.bias   the bias of an adapted layer: takes the place of X.bias
 *   X.base_layer.weight the base's own weight, which PEFT saves along where lm_head is adapted:
 * must be what the base has X.bias, X.weight …  what a tensor of that name is
 *
 * PEFT knows a module to save by the end of its name (peft/utils/other.py, _set_trainable). Tensors
 * that PEFT does not use when it loads are left out: the copy of the original module, and names
 * under modules_to_save of which the tensor is there under its own name as well.
 *
 * Tied embeddings: where the base's output layer is its input embedding, a checkpoint holds one of
 * the two names, and whoever loads the merged model makes them one again, whatever the file says.
 * So an adapter must bring both, with the same bytes; then the one that the base has is replaced.
 * Everything else would be silently lost or would change the other one: E_UNSUPPORTED. An adapter
 * for a task without an output layer over the vocabulary (SEQ_CLS and the like) may bring the input
 * embedding alone.
 */
#ifndef APPLY_REPLACE_H
#define APPLY_REPLACE_H

#include "apply/match.h"
#include "apply/plan.h"

enum other_fault {
    OTHER_FITS,
    OTHER_DROPPED, /* no fault: PEFT does not use it, or another one stands for it */
    OTHER_PLACELESS,
    OTHER_TARGETED, /* the weight that the vectors change */
    OTHER_TWICE,    /* another tensor of the adapter has the same place */
    OTHER_SHAPE,
    OTHER_DTYPE,
    OTHER_TIED,
    OTHER_WEIGHT, /* base_layer.weight is not what the base has */
    OTHER_FAULTS
};

/* One tensor of the adapter that is no vector. */
struct other {
    const struct tensor *tensor;
    char *name;                /* in the base, or as added; NULL where it cannot be one */
    struct model_tensor place; /* none where it is added, or has no place */
    enum other_fault fault;
};

struct others {
    struct other *list;
    size_t count;
    size_t counts[OTHER_FAULTS];
};

#define AUTO_OTHERS(name) __attribute__((cleanup(others_release))) struct others name = {0}

/* Faults are no error here. Reads the base's weight where the adapter brings it too. */
MUST_CHECK int others_make(
    struct others *out,
    const struct loaded_adapter *loaded,
    const struct model *model,
    const struct match *match
);
void others_release(struct others *others);

/* As match_error() and match_details(). */
MUST_CHECK int others_error(const struct others *others, const struct model *model);
MUST_CHECK int others_details(int err, const struct others *others);

#endif
