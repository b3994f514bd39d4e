/*
 * What PEFT writes: adapter_config.json, and which tensors of adapter_model.safetensors are what.
 * Sources: peft/tuners/vera/{config,model,layer}.py, peft/utils/save_and_load.py.
 */
#ifndef FORMAT_PEFT_H
#define FORMAT_PEFT_H

#include "format/json.h"
#include "format/safetensors.h"

#define PEFT_CONFIG "adapter_config.json"
#define PEFT_MODEL  "adapter_model.safetensors"
#define PEFT_PREFIX "base_model.model."

struct peft_config {
    uint64_t rank;
    bool has_seed; /* projection_prng_key is an integer; PEFT's default 0 where the key is absent */
    struct json_int seed;
    bool save_projection;
    bool fan_in_fan_out;
    char *bias;          /* "none", "all", "vera_only" */
    char *base_name;     /* NULL where null */
    char *base_revision; /* NULL where null */
    char **modules_to_save;
    size_t modules_to_save_count;
    char *task_type; /* NULL where null */
};

/* Errors: E_INVALID (not JSON, not an object, a key of the wrong type, no or zero r), E_UNSUPPORTED
   for another peft_type (LORA, IA3, ...), with a hint; E_LIMIT. */
MUST_CHECK int peft_config_decode(struct peft_config *out, struct bytes json);
void peft_config_release(struct peft_config *config);

/* Is this key of adapter_config.json a set to PEFT, so that the order of its list means nothing?
   (peft/tuners/vera/config.py, peft/utils/other.py) */
bool peft_key_is_set(const char *key);

/* One adapted linear layer. */
struct adapter_module {
    char *name;             /* without PEFT_PREFIX: "model.layers.0.self_attn.q_proj" */
    const struct tensor *b; /* vera_lambda_b [out] */
    const struct tensor *d; /* vera_lambda_d [rank] */
    uint64_t out;
};

/* The names and shapes of an adapter; no values. Tensors point into `layout`. */
struct adapter {
    struct peft_config config;
    struct safetensors layout;
    struct adapter_module *modules; /* in byte order of name */
    size_t module_count;
    const struct tensor *a;       /* base_model.vera_A [rank, in_max]; NULL where not saved */
    const struct tensor *basis_b; /* base_model.vera_B [out_max, rank]; NULL where not saved */
    const struct tensor **others; /* biases, whole modules and whatever else, in file order */
    size_t other_count;
    uint64_t out_max;       /* largest out of the modules */
    uint64_t payload_bytes; /* all tensors but a and basis_b */
};

#define AUTO_ADAPTER(name) __attribute__((cleanup(adapter_release))) struct adapter name = {0}

/* `header`: first 8 + N bytes of adapter_model.safetensors, whose size is `file_bytes`.
   E_INVALID, listing every offence, where a module lacks one of its vectors, a vector has not one
   dimension, d has not `rank` values, A and B are not both there or do not fit rank and out, or
   there is no module at all. Dtypes are not judged here: what is stored need not be applicable. */
MUST_CHECK int
adapter_decode(struct adapter *out, struct bytes config, struct bytes header, uint64_t file_bytes);
void adapter_release(struct adapter *adapter);

/* Where a tensor's bytes lie in the payload (the bytes of all tensors in file order but A and B).
   The tensor must be one of adapter->layout and not A or B. */
uint64_t adapter_payload_offset(const struct adapter *adapter, const struct tensor *tensor);

/* Does `path` (relative, '/' between) belong to a version by default? See DESIGN "which files":
   config, model, and small text files; `bytes` is the file's size. */
bool peft_takes_file(const char *path, uint64_t bytes);

#endif
