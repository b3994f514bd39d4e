/*
 * The recipe: how the bytes of adapter_model.safetensors are rebuilt. No part of a snapshot's
 * identity.
 *
 *   verastore recipe 1\n
 *   payload <sha256> <size>\n
 *   basis proved|stored|declared\n
 *   generator torch-mt19937-kaiming-uniform\n   but where there is no seed
 *   seed <decimal>\n                            likewise; as adapter_config.json has it
 *   variant fma|mul-add\n                       proved; declared where the base model was given
 *   rounding none|bf16|fp16\n                   likewise
 *   a <dtype> <rank> <in> <sha256>\n            but for declared without base model
 *   b <dtype> <out> <rank> <sha256>\n           likewise
 *
 * Lines in this order, each at most once, canonical as the manifest is.
 */
#ifndef FORMAT_RECIPE_H
#define FORMAT_RECIPE_H

#include "format/basis.h"
#include "format/json.h"

enum basis_state {
    BASIS_PROVED,   /* regenerated at commit and compared bit for bit */
    BASIS_STORED,   /* could not be regenerated: A and B are kept as they are */
    BASIS_DECLARED, /* the adapter came without A and B: only its config names a seed */
};
const char *basis_state_name(enum basis_state state);

struct recipe {
    struct digest payload;
    uint64_t payload_bytes;
    enum basis_state state;
    bool has_seed;
    struct json_int seed;
    bool has_variant; /* variant and rounding are known */
    enum basis_variant variant;
    enum basis_rounding rounding;
    bool has_matrices; /* shapes, dtypes and digests of A and B are known */
    uint64_t rank, in, out;
    enum dtype dtype_a, dtype_b;
    struct digest sha256_a, sha256_b;
};

/* The state decides which lines there are; E_INVALID where the struct contradicts it. */
MUST_CHECK int recipe_encode(struct buf *out, const struct recipe *recipe);
/* E_CORRUPT; E_LIMIT for shapes above the limits. */
MUST_CHECK int recipe_decode(struct recipe *out, struct bytes text);

/* The generator's arguments (seed as two's complement). The recipe must have seed, variant and
 * shapes. */
struct basis_recipe recipe_basis(const struct recipe *recipe);

#endif
