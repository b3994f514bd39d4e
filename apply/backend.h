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
#define BACKEND_ABI 1

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

/* Rows [row_begin, row_end) of a W [out, in], row_begin first, to be rewritten in place: the
   arguments of kernel_merge(). */
struct backend_job {
    uint8_t *weights; /* in the lane's memory, or anywhere */
    enum dtype dtype;
    bool transposed;
    uint64_t out, in;
    uint64_t row_begin, row_end;
    const struct kernel_term *terms; /* a and b_matrix: those of a basis that was added */
    size_t term_count;
};

/* A and B where terms point to them: a [rank, in], b [out, rank]. */
struct backend_basis {
    const float *a, *b;
    uint64_t rank, in, out;
};

/* A lane's pieces of memory. */
enum lane_slot { LANE_BLOCK, LANE_CHANGE, LANE_SLOTS };

/* Functions that can fail return 0, or a code and fill in `fault`. Sessions and lanes are the
   backend's own. Different lanes may be used by different threads at once. */
struct backend {
    const char *name;       /* "cpu", "cuda" */
    const char *fast_bound; /* how far fast mode is off, one line; NULL: its fast mode is exact */
    size_t group_bytes;     /* small tensors of together so many bytes are one call; 0: one each */
    unsigned lanes_min;     /* so many lanes keep it busy */
    int (*open)(void **session, enum math_mode math, struct backend_fault *fault);
    void (*close)(void *session); /* after its lanes */
    int (*basis_add)(void *session, const struct backend_basis *basis, struct backend_fault *fault);
    /* What the person knows the device by; NULL: nothing to say. The session's. */
    const char *(*device_name)(void *session);
    int (*lane_open)(void **lane, void *session, unsigned threads, struct backend_fault *fault);
    void (*lane_close)(void *lane);
    int (*lane_memory
    )(uint8_t **out, void *lane, enum lane_slot slot, size_t bytes, struct backend_fault *fault);
    int (*merge
    )(void *lane, const struct backend_job *jobs, size_t count, struct backend_fault *fault);
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

/* E_DEVICE with a hint where `kind` is DEVICE_CUDA and there is none. */
MUST_CHECK int device_open(struct device *out, enum device_kind kind, enum math_mode math);
void device_release(struct device *device);

/* Have A and B at hand; they must outlive the device. E_DEVICE where its memory is too small. */
MUST_CHECK int device_add_basis(struct device *device, const struct backend_basis *basis);

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

/* Merge all of them in place, whatever floating-point state the caller has set. On a GPU that is
   one launch, unless its memory holds no more than a part. E_NOMEM, E_INTERRUPTED, E_DEVICE. */
MUST_CHECK int lane_merge(const struct lane *lane, const struct backend_job *jobs, size_t count);

#endif
