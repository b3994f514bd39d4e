/* Every bound on what a file may claim, checked before memory is taken. Above it: E_LIMIT. */
#ifndef FORMAT_LIMITS_H
#define FORMAT_LIMITS_H

#define KIB (UINT64_C(1) << 10)
#define MIB (UINT64_C(1) << 20)
#define GIB (UINT64_C(1) << 30)

#define LIMIT_SAFETENSORS_HEADER UINT64_C(25000000) /* bytes of JSON; the Hub's own limit */
#define LIMIT_TENSORS            UINT64_C(1000000)  /* in one safetensors file */
#define LIMIT_JSON_DEPTH         128                /* serde_json's */
#define LIMIT_JSON_KEYS          UINT64_C(4000000)  /* of all objects that are open at once */
#define LIMIT_CONFIG             (16 * MIB)         /* adapter_config.json, config.json */
#define LIMIT_INDEX              (64 * MIB)         /* model.safetensors.index.json */
#define LIMIT_TEXT               (64 * MIB)         /* manifest, recipe, pin */
#define LIMIT_SMALL_FILE         (64 * MIB)         /* other files; larger ones need --all */
#define LIMIT_FILE               (2 * GIB)          /* any file that is stored, adapter included */
#define LIMIT_FILES              UINT64_C(10000)    /* in one adapter directory */
#define LIMIT_PATH               4096               /* bytes of a path inside an adapter */
#define LIMIT_PATH_DEPTH         64                 /* folders */
#define LIMIT_DIRECTORY          (4 * GIB)          /* all files of one adapter directory */
#define LIMIT_ENTRIES            UINT64_C(100000)   /* looked at in one adapter directory */
#define LIMIT_IGNORE             (64 * KIB)         /* .veraignore */
#define LIMIT_RANK               UINT64_C(1048576)
#define LIMIT_DENSE_RANK         UINT64_C(8192)      /* of matrices [rank, rank] of doubles */
#define LIMIT_FEATURES           (UINT64_C(1) << 31) /* in or out of one module */
#define LIMIT_BASIS_VALUES       (UINT64_C(1) << 28) /* values of A, and of B */
#define LIMIT_SHARDS             UINT64_C(10000)
#define LIMIT_SAVED_MODULES      UINT64_C(1024) /* names in modules_to_save, at apply */
#define LIMIT_ARRIVING           (16 * GIB) /* bytes of one transfer, unless --max-bytes says other */
#define LIMIT_ARRIVING_MEMORY    (4 * GIB)        /* of the process that takes it, */
#define LIMIT_RECEIVING_MEMORY   GIB              /* and as long as the other side talks */
#define LIMIT_ARRIVING_REFS      UINT64_C(200000) /* that a remote names */
#define LIMIT_FRAME_DEPTH        64               /* a reader's; the writer stops at 32 */
#define LIMIT_INDEX_ROW          1048576          /* bytes of a column in index.sqlite */
#define LIMIT_QUERY              (64 * KIB)       /* bytes of a query's expression */
#define LIMIT_QUERY_DEPTH        100              /* parentheses and nots in one another */

#define LIMIT_OCI_DOCUMENT (4 * MIB)       /* a manifest or index; registries take no more */
#define LIMIT_OCI_ITEMS    UINT64_C(40000) /* parts of one */
#define LIMIT_OCI_TAGS     (16 * MIB)      /* a registry's list of tags */

/* Header bytes of all shards of a base model together. */
#define LIMIT_MODEL_HEADERS (256 * MIB)

/* Of what says who somebody is. */
#define LIMIT_URL         2048 /* bytes */
#define LIMIT_NETRC       (64 * KIB)
#define LIMIT_SSH_KEY     (64 * KIB)
#define LIMIT_SSH_AGENT   (256 * KIB) /* of its answer */
#define LIMIT_KNOWN_HOSTS (16 * MIB)

#endif
