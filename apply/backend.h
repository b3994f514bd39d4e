/*
 * Where weights are merged: on the processor's cores, or on a GPU. The one vtable of the project.
 *
 * A device is opened once for a run and holds the matrices A and B of the adapters. Each thread
 * that streams weights has a lane of its own: memory for the blocks that it reads and writes, and
 * on a GPU a stream of copies and kernels, so that those of two lanes overlap. In exact mode every
 * backend gives kernel_merge()'s bits.
 *
 * The CUDA backend is a module of its own, vera_cuda.so, loaded when it is asked for: from
 * $VERA_CUDA_MODULE, or beside the program, or from vera/ in the system's folder of libraries. The
 * vtable is its border: plain C, nothing but its own memory behind the pointers, and failures told
 * by value, since it has no part in the state of format/error.h.
 */
#ifndef APPLY_BACKEND_H
#define APPLY_BACKEND_H

#include "apply/kernel.h"

/* Another number whenever anything changes that crosses the border. */
#define BACKEND_ABI 2

/* The module's one symbol: a backend_entry. */
#define BACKEND_ENTRY "vera_cuda_backend"

/* Where the tensors of a group begin in the lane's memory: multiples of this. */
#define BACKEND_ALIGN 256

enum device_kind {
    DEVICE_CPU,
    DEVICE_CUDA, /* or E_DEVICE, saying what is missing */
    DEVICE_AUTO, /* a GPU where module, driver and device are there, else the processor */
};

enum math_mode {
    MATH_EXACT,
    MATH_FAST, /* a GPU's tensor cores, within backend.fast_bound; the processor's is exact */
};

struct backend_fault {
    int code;          /* enum error_code; 0: the thread's error is set already */
    char message[384]; /* "" where code is 0 */
    char hint[192];    /* or "" */
};

/* Rows of a matrix, of one dtype, in the processor's memory or in the device's. */
struct backend_place {
    uint8_t *data; /* the first row's first element */
    /* From one row, and from one element of a row, to the next, in elements; 0: they lie side by
       side. Rows do not overlap. Elements with others between them: in the device's memory only. */
    uint64_t row_stride, column_stride;
    bool on_device;
};

/* Rows [row_begin, row_end) of a W [out, in], or [in, out] if transposed: `to` becomes what `from`
   is, with the terms added; as in kernel_merge(). Without terms `from` is copied, bit for bit. */
struct backend_job {
    struct backend_place to;   /* rows from row_begin on */
    struct backend_place from; /* the same rows; shares no byte with `to`. data NULL: `to` itself */
    enum dtype dtype;
    bool transposed;
    uint64_t out, in;
    uint64_t row_begin, row_end;
    /* a and b_matrix point into a basis that was added: to the first column, or row, that is used
       of a slice of W. */
    const struct kernel_term *terms;
    size_t term_count;
};

/* Rows of one module's input and output, in the device's memory, and the adapters that they have:
   the arguments of apply/batch.h. */
struct backend_batch {
    const float *a, *b_matrix; /* of a basis that was added, where it was added from */
    uint64_t in, out;          /* of the module: at most the basis' */
    const uint8_t *vectors;    /* device: of slot s from s * vector_stride on: d [rank], b [out] */
    enum dtype vector_dtype;
    uint64_t vector_stride; /* elements */
    uint64_t slot_count;    /* rows whose slot is not below it are left as they are, like -1 */
    const int32_t *slots;   /* [rows] */
    bool slots_on_device;   /* else they are read before backend.batch returns */
    const void *x;          /* [rows, in] */
    void *y;                /* [rows, out] */
    enum dtype dtype;       /* of x and y */
    uint64_t rows, x_stride, y_stride; /* elements from row to row */
    void *stream;                      /* the CUstream in which x is written and y is used */
};

/* A and B where terms point to them: a [rank, in], b [out, rank]. */
struct backend_basis {
    const float *a, *b;
    uint64_t rank, in, out;
};

/* A lane's pieces of memory. */
enum lane_slot { LANE_BLOCK, LANE_CHANGE, LANE_SLOTS };

/* Functions that can fail return 0, or a code and fill in `fault`. Sessions and lanes are the
   backend's own. Different lanes may be used by different threads at once, and one lane by one
   thread after the other; the calling thread's current device stays what it is, if the process has
   ever used that. The functions from
   basis_remove on are NULL where weights have no memory but the processor's. */
struct backend {
    const char *name;       /* "cpu", "cuda" */
    const char *fast_bound; /* how far fast mode is off, one line; NULL: its fast mode is exact */
    size_t group_bytes;     /* small tensors of together so many bytes are one call; 0: one each */
    unsigned lanes_min;     /* so many lanes keep it busy */
    /* The device of that number; DEVICE_CURRENT: the one that the calling thread uses. */
    int (*open)(void **session, int number, enum math_mode math, struct backend_fault *fault);
    void (*close)(void *session); /* after its lanes; frees bases, and memory that was not */
    int (*basis_add)(void *session, const struct backend_basis *basis, struct backend_fault *fault);
    /* What the person knows the device by; NULL: nothing to say. The session's. */
    const char *(*device_name)(void *session);
    int (*lane_open)(void **lane, void *session, unsigned threads, struct backend_fault *fault);
    void (*lane_close)(void *lane);
    int (*lane_memory
    )(uint8_t **out, void *lane, enum lane_slot slot, size_t bytes, struct backend_fault *fault);
    int (*merge
    )(void *lane, const struct backend_job *jobs, size_t count, struct backend_fault *fault);

    void (*basis_remove)(void *session, const float *a);
    int (*memory_new)(uint8_t **out, void *session, size_t bytes, struct backend_fault *fault);
    void (*memory_free)(void *session, uint8_t *memory);
    int (*memory_check)(void *session, const void *at, size_t bytes, struct backend_fault *fault);
    int (*session_wait)(void *session, struct backend_fault *fault);
    int (*lane_prepare
    )(void *lane, const struct backend_job *jobs, size_t count, struct backend_fault *fault);
    int (*lane_follow)(void *lane, void *const *streams, size_t count, struct backend_fault *fault);
    int (*batch)(void *session, const struct backend_batch *batch, struct backend_fault *fault);
};

/* What a module exports: its vtable where its number is `abi`. *module_abi: its own, always. */
typedef const struct backend *backend_entry(unsigned *module_abi, unsigned abi);

extern const struct backend backend_cpu;

/* The CUDA module's, loaded once and never unloaded. E_DEVICE, naming the file, where there is
   none, or it is of another version. */
MUST_CHECK int backend_cuda(const struct backend **out);

/* Is it worth loading: is NVIDIA's driver here, or a module named in the environment? */
bool backend_cuda_may_work(void);

/* An open device. */
struct device {
    const struct backend *backend;
    void *session;
    enum math_mode math; /* what is computed: exact on the processor */
};

#define AUTO_DEVICE(name) __attribute__((cleanup(device_release))) struct device name = {0}

/* The device that the calling thread uses: the first one, unless it has chosen another. */
#define DEVICE_CURRENT (-1)

/* E_DEVICE with a hint where `kind` is DEVICE_CUDA and there is none. */
MUST_CHECK int device_open(struct device *out, enum device_kind kind, enum math_mode math);
/* CUDA's device of that number, as the calling process counts them. E_DEVICE. */
MUST_CHECK int device_open_number(struct device *out, int number, enum math_mode math);
void device_release(struct device *device);

/* Have A and B at hand; on the processor they must outlive the device. A GPU copies them, and knows
   the copy by the address of A until it is removed. E_DEVICE where its memory is too small. Neither
   while a lane merges with them. */
MUST_CHECK int device_add_basis(struct device *device, const struct backend_basis *basis);
/* What was added with that `a`; nothing where none was. Of a GPU. */
void device_remove_basis(struct device *device, const float *a);

/* Of a GPU: memory of its own, aligned to BACKEND_ALIGN, which nobody but a lane or a batch reads
   or writes. E_DEVICE, saying how much is free, where it is too small. */
MUST_CHECK int device_memory_new(uint8_t **out, const struct device *device, size_t bytes);
void device_memory_free(const struct device *device, uint8_t *memory); /* NULL: nothing */

/* Of a GPU: E_INVALID where so many bytes from `at` on are not memory of this device. */
MUST_CHECK int device_memory_check(const struct device *device, const void *at, size_t bytes);

/* Of a GPU: return once everything is done that was queued on it, by whomever. E_DEVICE. */
MUST_CHECK int device_wait(const struct device *device);

/* Of a GPU: queue y += b o (B (d o (A x))) on the batch's stream, and return. What it points to
   stays until the stream has come past it, the basis added. Bits: apply/batch.h's. Any thread, any
   number at once. Without rows nothing is queued, and all is loaded that batches need: once, before
   the first one is captured. E_DEVICE. */
MUST_CHECK int device_batch(const struct device *device, const struct backend_batch *batch);

/* What one thread works with. All-zero is one that is not open. */
struct lane {
    const struct backend *backend;
    void *state;
};

/* `threads`: how many may work for it on the processor: 1 or more. The device must outlive it. */
MUST_CHECK int lane_open(struct lane *out, const struct device *device, unsigned threads);
void lane_release(struct lane *lane);

/* At least `bytes` of memory from which the device copies fastest, valid until the slot is asked
   for more. What was in it may be lost. E_NOMEM, E_DEVICE. */
MUST_CHECK int
lane_memory(uint8_t **out, const struct lane *lane, enum lane_slot slot, size_t bytes);

/* Take all memory now that lane_merge() of these jobs needs, so that it takes none. E_NOMEM,
   E_DEVICE. */
MUST_CHECK int lane_prepare(const struct lane *lane, const struct backend_job *jobs, size_t count);

/* Of a GPU: what the lane does from now on comes after what these CUstreams have been given by now.
   E_DEVICE. */
MUST_CHECK int lane_follow(const struct lane *lane, void *const *streams, size_t count);

/* Merge all of them, and return when that is done, whatever floating-point state the caller has
   set. On a GPU that is one launch, unless its memory holds no more than a part. E_NOMEM,
   E_INTERRUPTED (before anything is written), E_DEVICE (some may be written). */
MUST_CHECK int lane_merge(const struct lane *lane, const struct backend_job *jobs, size_t count);

#endif
