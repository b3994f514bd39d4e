/*
 * A snapshot: a PEFT directory taken apart into what a version stores, and put together again.
 * In memory: no paths, no git. store/ writes these parts as a commit's tree (docs/format.md).
 */
#ifndef FORMAT_SNAPSHOT_H
#define FORMAT_SNAPSHOT_H

#include "format/manifest.h"
#include "format/peft.h"
#include "format/pin.h"
#include "format/recipe.h"

/* The files of an adapter directory, whole, in byte order of path. */
struct adapter_file {
    char *path;
    struct buf data;
};

struct adapter_files {
    struct adapter_file *files;
    size_t count;
    char **left_out; /* paths that were not taken, in byte order; folders end in '/' */
    size_t left_out_count;
};

#define AUTO_ADAPTER_FILES(name)                                                                   \
    __attribute__((cleanup(adapter_files_release))) struct adapter_files name = {0}

/* Append; takes `data` over. */
MUST_CHECK int adapter_files_add(struct adapter_files *files, const char *path, struct buf *data);
const struct adapter_file *adapter_files_find(const struct adapter_files *files, const char *path);
void adapter_files_release(struct adapter_files *files);

/* What --base gives at commit: the shapes that a declared basis needs, the pin, the model's config.
   Made by apply/ (model_describe), so that format/ reads no models. */
struct base_facts {
    struct pin pin;
    uint64_t in_max, out_max; /* over the adapter's modules */
    enum dtype dtype;  /* of the adapter's modules in the base; DTYPE_COUNT where they differ */
    struct buf config; /* the base's config.json, empty where it has none */
};

#define AUTO_BASE_FACTS(name)                                                                      \
    __attribute__((cleanup(base_facts_release))) struct base_facts name = {0}
void base_facts_release(struct base_facts *facts);

/* Record in a declared recipe what PEFT draws from the seed for this base model: variant, rounding,
   shapes and digests. E_UNSUPPORTED without a seed or one applicable dtype; E_CONFLICT where the
   base's modules are smaller than the adapter's; E_LIMIT. */
MUST_CHECK int recipe_set_base(
    struct recipe *recipe, const struct adapter *adapter, const struct base_facts *base
);

struct snapshot {
    struct digest id; /* SHA-256 of manifest */
    struct buf manifest;
    struct buf config; /* adapter_config.json */
    struct buf layout; /* first 8 + N bytes of adapter_model.safetensors */
    struct buf recipe;
    struct buf payload;
    struct buf a, b;            /* bytes of A and B where recipe's state is stored, else empty */
    struct adapter_file *files; /* every other file, in byte order of path */
    size_t file_count;
    struct buf pin;          /* empty where no base model was given */
    struct buf model_config; /* likewise */
};

#define AUTO_SNAPSHOT(name) __attribute__((cleanup(snapshot_release))) struct snapshot name = {0}
void snapshot_release(struct snapshot *snapshot);

/* Take the directory apart. `base` may be NULL. A and B are dropped only where they were
   regenerated and compared bit for bit (P2). Before it returns, the parts are put together again
   and compared (P1). Errors: E_INVALID (malformed adapter), E_UNSUPPORTED (LoRA, IA3,
   adapter_model.bin; with hints), E_NOTFOUND (no adapter_config.json), E_LIMIT. */
MUST_CHECK int snapshot_encode(
    struct snapshot *out, const struct adapter_files *files, const struct base_facts *base
);

/* All files, each one's SHA-256 equal to the manifest's; E_CORRUPT, naming the file, where one is
 * not. */
MUST_CHECK int snapshot_restore(struct adapter_files *out, const struct snapshot *snapshot);

/* adapter_model.safetensors alone, with the manifest's SHA-256; of a snapshot whose other files
   were left out, too. */
MUST_CHECK int snapshot_restore_model(struct buf *out, const struct snapshot *snapshot);

/* Manifest, recipe, pin, config and layout are canonical and fit each other and the payload; the
   payload's and the stored basis' digests are the recipe's. Everything fsck can say about one
   snapshot without regenerating. */
MUST_CHECK int snapshot_check(const struct snapshot *snapshot);

/* The same of a snapshot whose other files were left out: what is there is the manifest's. */
MUST_CHECK int snapshot_check_bare(const struct snapshot *snapshot);

/*
 * An adapter ready to be applied: names and shapes, values as bytes, the basis as far as it is
 * known. Holds pointers into the snapshot, which must outlive it.
 */
struct loaded_adapter {
    struct adapter adapter;
    struct recipe recipe;
    const struct snapshot *snapshot;
};

#define AUTO_LOADED_ADAPTER(name)                                                                  \
    __attribute__((cleanup(loaded_adapter_release))) struct loaded_adapter name = {0}
MUST_CHECK int adapter_load(struct loaded_adapter *out, const struct snapshot *snapshot);
void loaded_adapter_release(struct loaded_adapter *loaded);

/* The bytes of a tensor that is not A or B. */
struct bytes loaded_tensor(const struct loaded_adapter *loaded, const struct tensor *tensor);

/*
 * A [rank, in] and B [out, rank] as float32, owned by `out`. Proved: regenerated and checked
 * against the recorded SHA-256. Stored: widened from the stored bytes (E_UNSUPPORTED where they are
 * not F32, BF16 or F16). Declared: PEFT's own recipe on load, fma, for in_max/out_max and rounded
 * through `dtype`, all three of the base model at hand; checked against recorded digests where
 * there are any (E_CONFLICT: another base). in_max/out_max/dtype are used for declared only.
 */
struct basis {
    float *a, *b;
    uint64_t rank, in, out;
    struct digest sha256_a, sha256_b; /* of the bytes as PEFT holds them */
};

#define AUTO_BASIS(name) __attribute__((cleanup(basis_release))) struct basis name = {0}
MUST_CHECK int basis_load(
    struct basis *out,
    const struct loaded_adapter *loaded,
    uint64_t in_max,
    uint64_t out_max,
    enum dtype dtype
);
void basis_release(struct basis *basis);

#endif
