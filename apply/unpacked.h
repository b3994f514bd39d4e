/*
 * An adapter taken out of a bundle or a PEFT directory for a program that builds it up by itself:
 * its configuration and all its tensors, A and B too where it came with them, each bit as PEFT
 * saved it.
 */
#ifndef APPLY_UNPACKED_H
#define APPLY_UNPACKED_H

#include "format/snapshot.h"

struct unpacked {
    struct digest id;
    struct buf config; /* adapter_config.json */
    struct buf recipe; /* what is known of A and B */
    struct buf pin;    /* empty where no base model was given */
    struct buf model;  /* adapter_model.safetensors */
    struct safetensors table;
};

#define AUTO_UNPACKED(name) __attribute__((cleanup(unpacked_release))) struct unpacked name = {0}
void unpacked_release(struct unpacked *unpacked);

/* Errors: bundle_decode()'s, with the limits alone; what is drawn again is compared with the digest
   of the file that PEFT wrote: E_CORRUPT. */
MUST_CHECK int unpacked_read_bundle(struct unpacked *out, struct bytes bundle);

/* adapter_files_read()'s, and those of a malformed adapter. */
MUST_CHECK int unpacked_read_directory(struct unpacked *out, const char *dir);

/* The bytes of a tensor of the table. */
struct bytes unpacked_tensor(const struct unpacked *unpacked, const struct tensor *tensor);

#endif
