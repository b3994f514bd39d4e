/*
 * libvera_apply: put VeRA adapters onto the weights of a running model, and take them off again.
 *
 * A program says where its weights lie in memory (vera_model_register), seals the model, and swaps
 * adapters: in place, so pointers to the weights stay good; from the weights without an adapter
 * straight to those with one, so that after any number of swaps they are, bit for bit, what
 * "vera apply" writes, and after vera_detach() what they were at first. Whatever can fail fails
 * before the first byte is written, and leaves the weights as they were; but for a GPU that breaks
 * down while it writes, which the state tells.
 *
 * The library prints nothing, ends no process, and has threads of its own only while it writes or
 * listens. Any thread may call any function of a model but vera_model_free() at any time; messages
 * of errors are the thread's own. Interface for C, C++ and ctypes: handles are opaque, and
 * structures begin with their size, so that a program and a later library understand each other.
 *
 * vera_apply(3) is the manual, docs/examples/live.c a whole program.
 */
#ifndef VERA_APPLY_H
#define VERA_APPLY_H

#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

#if defined(__GNUC__)
#define VERA_PUBLIC __attribute__((visibility("default")))
#else
#define VERA_PUBLIC
#endif

/* What functions return that can fail: 0, or what the caller can do about it. */
enum vera_code {
    VERA_OK = 0,
    VERA_NOTFOUND = -1,    /* no such directory or file */
    VERA_EXISTS = -2,      /* something is there already */
    VERA_INVALID = -3,     /* an argument, or an adapter that does not fit these weights */
    VERA_CORRUPT = -4,     /* bytes that are damaged */
    VERA_CONFLICT = -5,    /* another base model; the program did not stop for the swap */
    VERA_LIMIT = -6,       /* too large */
    VERA_UNSUPPORTED = -7, /* nothing that this library does */
    VERA_IO = -8,          /* the system refused */
    VERA_NOMEM = -9,
    VERA_DEVICE = -10, /* a GPU that is not there, whose memory is too small, or that failed */
};

/* Of the calling thread's last failure, until its next one: what went wrong, further lines naming
   each thing that did, after a "\n  "; what can be done, or NULL. */
VERA_PUBLIC const char *vera_error_message(void);
VERA_PUBLIC const char *vera_error_hint(void);
/* "CORRUPT" for VERA_CORRUPT. */
VERA_PUBLIC const char *vera_error_name(int code);

/* Of the library, "0.1.0". */
VERA_PUBLIC const char *vera_version(void);

struct vera_model;

struct vera_options {
    size_t size; /* sizeof(struct vera_options) */
    /* The base model's directory (safetensors, config.json). Weights without an adapter are then
       read from its files, which must stay as they are while the model lives, and the weights in
       memory must be theirs, byte for byte. NULL: a copy of the weights is kept, where they are. */
    const char *base;
    /* Called around the writing, by the thread that swaps. `pause` returns when nobody reads the
       weights any more; what it returns, if not 0, ends the swap with VERA_CONFLICT, and `resume`
       is not called. Either may be NULL. They must not call functions of the model other than
       vera_status(). */
    int (*pause)(void *context);
    void (*resume)(void *context);
    void *context;
    uint64_t basis_bytes; /* of random matrices that are kept between swaps; 0: 1 GiB */
    uint32_t threads;     /* that a swap works with; 0: one for each core */
    uint32_t reserved;    /* 0 */
    /* With a base: so many bytes of each GPU's memory may keep weights without an adapter, so that
       a swap need not bring them there again; 0: none. */
    uint64_t kept_bytes;
};

/* A model without weights; `options` may be NULL. Free it with vera_model_free(). */
VERA_PUBLIC int vera_model_new(struct vera_model **out, const struct vera_options *options);

/* The weights stay as they are. NULL: nothing. */
VERA_PUBLIC void vera_model_free(struct vera_model *model);

enum vera_dtype { VERA_F32 = 1, VERA_BF16 = 2, VERA_F16 = 3 };
enum vera_memory { VERA_HOST = 1, VERA_CUDA = 2 };

/* How a layer's weight lies: [out, in], or [in, out] as in Transformers' Conv1D. Where nobody says,
   shapes and the base's config.json do. */
enum vera_layer { VERA_LAYER_UNKNOWN = 0, VERA_LAYER_LINEAR = 1, VERA_LAYER_CONV1D = 2 };

/* One part of one tensor in memory. Fields that are 0 mean the usual. */
struct vera_tensor {
    size_t size; /* sizeof(struct vera_tensor) */
    const char
        *name; /* as the model's checkpoint has it: "model.layers.0.self_attn.q_proj.weight" */
    /* The part's first element. NULL: another process has all of the tensor, and adapters may
       change it all the same. */
    void *data;
    /* The whole tensor as the checkpoint has it. `columns` 0: a vector of `rows` values. */
    uint64_t rows, columns;
    /* From one row, and from one column, to the next, in elements; both 0: rows are contiguous. */
    int64_t row_stride, column_stride;
    /* Which rows and columns of the tensor lie at `data`; a count of 0: all to the end. So the q, k
       and v of one fused matrix are three tensors with pointers into it, and a shard of a tensor
       that is spread over processes is the rows or columns that it has. */
    uint64_t row_begin, row_count, column_begin, column_count;
    /* VERA_CUDA: the CUstream (cudaStream_t) in which the weights are used; NULL: the default
       stream. A change comes after what the stream has been given before it, and is done when the
       function returns. */
    void *stream;
    int32_t dtype;        /* enum vera_dtype */
    int32_t layer;        /* enum vera_layer */
    int32_t memory;       /* enum vera_memory; 0: VERA_HOST */
    int32_t device;       /* VERA_CUDA: its number, as cudaSetDevice() takes it */
    uint32_t reserved[2]; /* 0 */
};

/* Before vera_model_seal(), once for each part. The memory must live as long as the model. Whatever
   an adapter may change is registered: weights, biases, the classifier. VERA_INVALID, naming the
   tensor; VERA_UNSUPPORTED for another dtype; VERA_DEVICE where there is no such GPU, or no module
   for it. */
VERA_PUBLIC int vera_model_register(struct vera_model *model, const struct vera_tensor *tensor);

/* All is registered, and what is in memory is the model without an adapter. Reads all weights once.
   VERA_CONFLICT, naming the tensors, where they are not the base's; VERA_INVALID where weights lie
   on each other. After a failure the model can only be freed. */
VERA_PUBLIC int vera_model_seal(struct vera_model *model);

/* What the weights are. */
struct vera_state {
    size_t size;          /* sizeof(struct vera_state), set by the caller before the call */
    uint64_t epoch;       /* grows by one with each change of the weights; 0 at first */
    uint64_t modules;     /* that the adapter changes */
    uint8_t snapshot[32]; /* its snapshot id; zeros where there is none */
    uint8_t previous[32]; /* of the adapter before the last change, likewise */
    int32_t attached;     /* 1: there is an adapter */
    int32_t pinned;       /* 1: the base's weights were compared with those that the adapter's
                             version recorded */
    int32_t had_previous; /* 1: there was an adapter before the last change */
    /* 1: a GPU failed while the last change was written: the weights are a mixture, until a swap
       or a detach succeeds. */
    int32_t torn;
    double seconds; /* that the last change took */
    double stopped; /* of these, while the weights could not be read */
};

/* Put the adapter in a bundle ("vera export REV - --as bundle") onto the weights, in place of the
   one that is there. `out` may be NULL. The adapter that is there already: nothing is written, and
   the epoch stays. The bundle may be freed afterwards. VERA_CORRUPT where it is damaged;
   VERA_INVALID where the adapter does not fit, naming every module, or is not finite;
   VERA_CONFLICT where it was made for other weights; VERA_UNSUPPORTED where it brings tensors that
   are not registered. On failure the adapter before it stays, whole; but for VERA_DEVICE where a
   GPU fails while it writes, which vera_state.torn tells. */
VERA_PUBLIC int vera_swap_bundle(
    struct vera_model *model, const void *bundle, size_t bytes, struct vera_state *out
);

/* The same of a PEFT directory. */
VERA_PUBLIC int
vera_swap_directory(struct vera_model *model, const char *directory, struct vera_state *out);

/* The weights as they were when the model was sealed. Without an adapter nothing is done. */
VERA_PUBLIC int vera_detach(struct vera_model *model, struct vera_state *out);

/* Does not wait for a swap that runs; between vera_read_begin() and vera_read_end() it is the state
   of the weights that are read. */
VERA_PUBLIC int vera_status(struct vera_model *model, struct vera_state *out);

/* Between the two no weight changes; a swap waits for those that have begun, and new ones wait for
   it. Both in one thread; not one inside another. A program that stops its readers by `pause` needs
   neither; one that wants no request to wait keeps two models and swaps the one that is idle. */
VERA_PUBLIC void vera_read_begin(struct vera_model *model);
VERA_PUBLIC void vera_read_end(struct vera_model *model);

/*
 * Let "vera swap REV --socket PATH" change the adapter. Two threads of the library's own answer, so
 * that `pause` and `resume` are called in one of them; the signals of the program stay away from
 * them. Nobody but processes of the user that this one belongs to (root's neither) is listened to,
 * and none of them can make the model wait, or take more memory than a bundle that fits it. The
 * model must be sealed. One socket a model: VERA_EXISTS.
 */

/* In a file that only this user may open. What a server that died left there is replaced;
   VERA_EXISTS where another one listens, or where there is anything else. The file is removed by
   vera_unlisten() and vera_model_free(). */
VERA_PUBLIC int vera_listen(struct vera_model *model, const char *path);

/* On a unix stream socket that listens already. It is the library's from here on, unless this
   fails: VERA_INVALID. */
VERA_PUBLIC int vera_listen_fd(struct vera_model *model, int fd);

/* The listening socket that this process was started with, as systemd hands it over (LISTEN_PID,
   LISTEN_FDS, LISTEN_FDNAMES): the one of that name, or with NULL the first. For vera_listen_fd();
   it is taken once. VERA_NOTFOUND: it was started with none. */
VERA_PUBLIC int vera_inherited_fd(int *out, const char *name);

/* Returns once the swap that runs has ended, so not between vera_read_begin() and vera_read_end().
   Who does not listen: nothing. */
VERA_PUBLIC void vera_unlisten(struct vera_model *model);

/* A bundle's first so many bytes tell how long it is. */
#define VERA_BUNDLE_HEADER 152

/* How many bytes a bundle has whose first VERA_BUNDLE_HEADER bytes these are: for who reads it from
   a pipe. VERA_CORRUPT; VERA_LIMIT where it is larger than one that fits this model. */
VERA_PUBLIC int
vera_bundle_bytes(uint64_t *out, const struct vera_model *model, const void *header, size_t bytes);

/* An adapter to read: for a program that builds it up by itself. */
struct vera_adapter;

struct vera_adapter_about {
    size_t size;          /* sizeof(struct vera_adapter_about), set by the caller before the call */
    uint8_t snapshot[32]; /* its snapshot id */
    /* Texts, each NUL-terminated. adapter_config.json as it was saved; what is known of A and B
       (docs/format.md, recipe), and of the base model (pin): empty where none was given. */
    const char *config, *recipe, *pin;
    uint64_t config_bytes, recipe_bytes, pin_bytes;
    uint64_t tensors;
};

/* One tensor as adapter_model.safetensors has it, bit for bit. */
struct vera_adapter_tensor {
    size_t size; /* sizeof(struct vera_adapter_tensor), set by the caller before the call */
    const char *name;
    const char *dtype;     /* "F32", "BF16", ... */
    const uint64_t *shape; /* [dims] */
    const void *data;      /* at any address */
    uint64_t bytes;
    uint32_t dims;
    uint32_t reserved;
};

/* Checked whole before it returns, with A and B, where they were saved, drawn again. The bundle may
   be freed afterwards; the adapter is freed with vera_adapter_free(). VERA_CORRUPT, VERA_INVALID,
   VERA_LIMIT, VERA_NOTFOUND, VERA_UNSUPPORTED. */
VERA_PUBLIC int
vera_adapter_read_bundle(struct vera_adapter **out, const void *bundle, size_t bytes);
/* The same of a PEFT directory. */
VERA_PUBLIC int vera_adapter_read_directory(struct vera_adapter **out, const char *directory);
/* NULL: nothing. */
VERA_PUBLIC void vera_adapter_free(struct vera_adapter *adapter);

/* What they point to lives as long as the adapter, which may be read by any number of threads.
   Tensors count from 0, in the file's order; VERA_NOTFOUND behind the last. */
VERA_PUBLIC int
vera_adapter_about(struct vera_adapter_about *out, const struct vera_adapter *adapter);
VERA_PUBLIC int vera_adapter_tensor(
    struct vera_adapter_tensor *out, const struct vera_adapter *adapter, uint64_t number
);

/*
 * Batches whose rows use different adapters: y += b o (B (d o (A x))), nothing merged. A registry
 * holds b and d of tens of thousands of adapters of one model and one basis (the random matrices A
 * and B, which all of them share). Any thread may call any function of a registry but
 * vera_registry_free() at any time.
 */
struct vera_registry;

struct vera_registry_options {
    size_t size; /* sizeof(struct vera_registry_options) */
    /* The layers that the adapters change, as they name them ("model.layers.0.self_attn.q_proj"),
       and their sizes: three arrays of `modules`, whose order numbers them. Copied. */
    const char *const *names;
    const uint64_t *in, *out;
    uint64_t modules;
    /* An adapter on whose basis all others are: a PEFT directory, or else a bundle. It is not
       added. */
    const char *directory;
    const void *bundle;
    size_t bundle_bytes;
    uint64_t budget_bytes; /* of all that the registry takes; on a GPU: of its memory */
    int32_t base_dtype;    /* enum vera_dtype, of the model's weights; 0: VERA_F32 */
    int32_t vector_dtype;  /* b and d are kept in it, rounded where that is less; 0: VERA_F32 */
    /* Where A, B, b and d are kept, and the batches are: enum vera_memory; 0: VERA_HOST. On a GPU
       all of the budget is taken at once, of its memory. */
    int32_t memory;
    int32_t device; /* VERA_CUDA: its number */
};

/* VERA_INVALID, naming it: a module that cannot be, an adapter without one of the modules, or of
   others; VERA_LIMIT where the budget does not hold one adapter; VERA_DEVICE where the GPU is not
   there, or has less memory left. */
VERA_PUBLIC int
vera_registry_new(struct vera_registry **out, const struct vera_registry_options *options);
/* Nobody uses it any more. NULL: nothing. */
VERA_PUBLIC void vera_registry_free(struct vera_registry *registry);

#define VERA_PIN          1u /* it stays until it is unpinned or removed */
#define VERA_VECTORS_ONLY 2u /* leave out biases and whole modules: the caller sees to them */

/* Add an adapter, or use it again where it is there. Where the budget is used up the adapter that
   was used longest ago goes, unless it is pinned or held. snapshot [32] (may be NULL): its id from
   now on. `held` (may be NULL): its slot, which the caller then holds. On failure nothing changes:
   VERA_INVALID, naming what does not fit; VERA_CONFLICT: another basis; VERA_LIMIT: all others are
   pinned or held; VERA_CORRUPT; VERA_NOTFOUND. But for VERA_DEVICE, where a GPU fails on the way:
   the adapter that made room may be gone. */
VERA_PUBLIC int vera_registry_add_directory(
    struct vera_registry *registry,
    const char *directory,
    uint32_t flags,
    uint8_t *snapshot,
    int32_t *held
);
VERA_PUBLIC int vera_registry_add_bundle(
    struct vera_registry *registry,
    const void *bundle,
    size_t bytes,
    uint32_t flags,
    uint8_t *snapshot,
    int32_t *held
);

/* Hold the adapter of that id: it neither changes nor goes until it is dropped, once for each hold.
   On a GPU it may be dropped as soon as the last batch that uses it is queued.
   VERA_NOTFOUND; vera_registry_drop(): VERA_INVALID where nobody holds the slot. */
VERA_PUBLIC int
vera_registry_hold(struct vera_registry *registry, const uint8_t *snapshot, int32_t *slot);
VERA_PUBLIC int vera_registry_drop(struct vera_registry *registry, int32_t slot);

/* VERA_NOTFOUND. A removed adapter that is held serves its holders, and goes when they drop it. */
VERA_PUBLIC int
vera_registry_pin(struct vera_registry *registry, const uint8_t *snapshot, int pinned);
VERA_PUBLIC int vera_registry_remove(struct vera_registry *registry, const uint8_t *snapshot);

struct vera_registry_state {
    size_t size;           /* sizeof(struct vera_registry_state), set by the caller */
    uint64_t adapters;     /* there now, */
    uint64_t capacity;     /* of so many that the budget holds */
    uint64_t pinned, held; /* held: also those that were removed since */
    uint64_t evicted;      /* that went for others, ever */
    uint64_t bytes;        /* taken, of so many: */
    uint64_t budget_bytes;
};

VERA_PUBLIC int
vera_registry_status(struct vera_registry *registry, struct vera_registry_state *out);

/* Rows of one module's input and output. */
struct vera_batch {
    size_t size;          /* sizeof(struct vera_batch) */
    const int32_t *slots; /* [rows]: each row's adapter, held by the caller; -1: none. Of a registry
                             on a GPU: in host memory, or its own (slots_memory) */
    const void *x;        /* [rows, in] */
    void *y;              /* [rows, out]; shares no memory with x */
    uint64_t rows;
    uint64_t x_stride, y_stride; /* from row to row, in elements; 0: in, out */
    int32_t dtype;               /* enum vera_dtype, of x and y */
    uint32_t threads;            /* to work with at most; 0: one for each core */
    /* Of a registry on a GPU, which has x and y too: the CUstream in which x is written and y is
       used; NULL: the default stream. The work is queued there, and not waited for. */
    void *stream;
    int32_t slots_memory; /* enum vera_memory; 0: VERA_HOST: read before the function returns */
    uint32_t reserved;    /* 0 */
};

/* y += b o (B (d o (A x))), each row with its adapter's b and d. Rows without an adapter keep their
   bits. Computed in float32 and rounded once; a row's bits do not depend on the rows beside it, nor
   on threads or processor, nor on whether that is a GPU. VERA_INVALID, with y untouched: no such
   module, a slot that nobody holds (slots in a GPU's memory are not looked at: rows whose slot is
   none of the registry's stay as they are). VERA_DEVICE. */
VERA_PUBLIC int vera_registry_forward(
    struct vera_registry *registry, uint64_t module, const struct vera_batch *batch
);

#ifdef __cplusplus
}
#endif

#endif
