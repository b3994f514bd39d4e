/*
 * The CUDA module's entry, and its device: A and B copied there once, for all lanes, and memory
 * that the program asks for. See apply/backend.h for the border, lane.cu for the work.
 *
 * The device is a session's, the current one the thread's: every entry makes its session's device
 * current while it works, and gives the thread's own back. Contexts are the primary ones, which
 * PyTorch and every other user of the runtime has, too: their pointers and streams are good here.
 */
#include "apply/cuda/module.h"

#include <assert.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "format/limits.h"

#define CPU_HINT "or compute on the processor (vera apply --device cpu)"

/* merge_fast.cu proves it. */
#define FAST_BOUND                                                                                 \
    "before it is rounded to its type, a weight w is off by at most (2.01 u + R 2^-22) S + "       \
    "2^-24 |w| + R 2^-125; u: 2^-8 for bf16 models, else 2^-11; S: its sum of |b B d A|; R: the "  \
    "ranks together"

/* Of compute capability: what the module is compiled for. */
#define MAJOR_MIN 8

int fault_set(struct backend_fault *fault, int code, const char *fmt, ...)
{
    va_list arguments;

    fault->code = code;
    fault->hint[0] = 0;
    va_start(arguments, fmt);
    vsnprintf(fault->message, sizeof(fault->message), fmt, arguments);
    va_end(arguments);
    return code;
}

int fault_hint(struct backend_fault *fault, const char *hint)
{
    snprintf(fault->hint, sizeof(fault->hint), "%s", hint);
    return fault->code;
}

/* The error is told here, so the runtime need not keep it. */
int fault_cuda(struct backend_fault *fault, const char *call, cudaError_t error)
{
    int name = (int)strcspn(call, "(");

    (void)cudaGetLastError();
    return fault_set(
        fault, E_DEVICE, "cuda: %.*s: %s (%s)", name, call, cudaGetErrorString(error),
        cudaGetErrorName(error)
    );
}

/* "512 bytes", "12.5 MB". */
struct size_text {
    char text[32];
};

static struct size_text size_of(uint64_t bytes)
{
    struct size_text out;

    if (bytes < 1000000)
        snprintf(out.text, sizeof(out.text), "%u bytes", (unsigned)bytes);
    else
        snprintf(out.text, sizeof(out.text), "%.1f MB", (double)bytes * 1e-6);
    return out;
}

int fault_memory(struct backend_fault *fault, const char *what, uint64_t bytes)
{
    size_t unused = 0, total = 0;

    (void)cudaGetLastError();
    TRY(fault, cudaMemGetInfo(&unused, &total));
    fault_set(
        fault, E_DEVICE, "cuda: the device's memory is too small: %s %s, and %s of %s are free",
        what, size_of(bytes).text, size_of(unused).text, size_of(total).text
    );
    return fault_hint(fault, "end what else uses the device, " CPU_HINT);
}

/* Why there are no devices: without a driver the count is not even touched. */
static int devices_fault(struct backend_fault *fault, cudaError_t error)
{
    int driver = 0, runtime = 0;

    (void)cudaGetLastError();
    if (error == cudaSuccess || error == cudaErrorNoDevice) {
        fault_set(fault, E_DEVICE, "cuda: there is a driver, and no device");
        return fault_hint(
            fault, "nvidia-smi -L lists devices, and CUDA_VISIBLE_DEVICES may hide them; " CPU_HINT
        );
    }
    if (error != cudaErrorInsufficientDriver)
        return fault_cuda(fault, "cudaGetDeviceCount", error);
    TRY(fault, cudaDriverGetVersion(&driver));
    TRY(fault, cudaRuntimeGetVersion(&runtime));
    if (driver == 0)
        fault_set(fault, E_DEVICE, "cuda: there is no driver for an NVIDIA device");
    else
        fault_set(
            fault, E_DEVICE, "cuda: the driver is for CUDA %d.%d, the module needs %d.%d",
            driver / 1000, driver % 1000 / 10, runtime / 1000, runtime % 1000 / 10
        );
    return fault_hint(fault, "install NVIDIA's driver (nvidia-smi shows it), " CPU_HINT);
}

device_scope::device_scope(int device)
    : previous(device), changed(false), relaxed(false), mode(cudaStreamCaptureModeRelaxed),
      call("cudaThreadExchangeStreamCaptureMode"), error(cudaThreadExchangeStreamCaptureMode(&mode))
{
    if (error != cudaSuccess)
        return;
    relaxed = true;
    call = "cudaGetDevice";
    if ((error = cudaGetDevice(&previous)) != cudaSuccess || previous == device)
        return;
    call = "cudaSetDevice";
    error = cudaSetDevice(device);
    changed = error == cudaSuccess;
}

/* Only the driver tells without making it. True where that cannot be asked. */
static bool has_context(int device)
{
    typedef int state_function(int device, unsigned *flags, int *is_active);
    void *function = nullptr;
    unsigned flags = 0;
    int is_active = 1;
    enum cudaDriverEntryPointQueryResult found = cudaDriverEntryPointSymbolNotFound;
    cudaError_t error = cudaGetDriverEntryPointByVersion(
        "cuDevicePrimaryCtxGetState", &function, 7000, cudaEnableDefault, &found
    );

    if (error == cudaSuccess && found == cudaDriverEntryPointSuccess)
        (void)((state_function *)function)(device, &flags, &is_active);
    return is_active != 0;
}

/* It was current a moment ago. */
device_scope::~device_scope()
{
    if (changed && has_context(previous))
        (void)cudaSetDevice(previous);
    if (relaxed)
        (void)cudaThreadExchangeStreamCaptureMode(&mode);
}

/* The one of that number, or the calling thread's. */
static int device_number(struct session *session, int number, struct backend_fault *fault)
{
    int count = 0;

    cudaError_t error = cudaGetDeviceCount(&count);
    if (error != cudaSuccess || count == 0)
        return devices_fault(fault, error);
    if (number == DEVICE_CURRENT) {
        TRY(fault, cudaGetDevice(&session->device));
        return 0;
    }
    if (number < 0 || number >= count) {
        fault_set(
            fault, E_DEVICE, "cuda: there is no device %d: they count from 0, and there %s %d",
            number, count == 1 ? "is" : "are", count
        );
        return fault_hint(
            fault, "nvidia-smi -L lists devices, and CUDA_VISIBLE_DEVICES may hide them"
        );
    }
    session->device = number;
    return 0;
}

static int device_choose(struct session *session, int number, struct backend_fault *fault)
{
    cudaDeviceProp properties;
    int err = device_number(session, number, fault);

    if (err < 0)
        return err;
    ON_DEVICE(fault, session->device);
    TRY(fault, cudaGetDeviceProperties(&properties, session->device));
    snprintf(session->name, sizeof(session->name), "%s", properties.name);
    if (properties.major < MAJOR_MIN) {
        fault_set(
            fault, E_DEVICE, "cuda: %s has compute capability %d.%d, and 8.0 is needed",
            session->name, properties.major, properties.minor
        );
        return fault_hint(fault, "use another device (CUDA_VISIBLE_DEVICES), " CPU_HINT);
    }
    /* The first call that needs it makes the context: whether the device can be had shows here. */
    TRY(fault, cudaFree(nullptr));
    return 0;
}

static int module_open(void **out, int number, enum math_mode math, struct backend_fault *fault)
{
    struct session *session = (struct session *)calloc(1, sizeof(*session));

    if (!session)
        return fault_set(fault, E_NOMEM, "cuda: out of memory");
    session->math = math;
    int err = device_choose(session, number, fault);
    if (err == 0)
        err = cuda_pool_open(session, fault);
    if (err < 0)
        free(session);
    else
        *out = session;
    return err;
}

/* What is freed at the end is no longer needed, so that an error there is nobody's. */
static void resident_release(struct resident *resident)
{
    (void)cudaFree(resident->a);
    (void)cudaFree(resident->b);
}

static void module_close(void *state)
{
    struct session *session = (struct session *)state;

    {
        struct device_scope scope(session->device);
        for (size_t i = 0; i < session->base_count; i++)
            resident_release(&session->bases[i]);
        for (size_t i = 0; i < session->memory_count; i++)
            (void)cudaFree(session->memories[i]);
        cuda_pool_close(session);
    }
    free(session->bases);
    free(session->memories);
    free(session);
}

static int matrix_queue(
    float **out,
    const float *from,
    uint64_t bytes,
    uint64_t bytes_together,
    cudaStream_t stream,
    struct backend_fault *fault
)
{
    cudaError_t error = cudaMalloc(out, bytes);

    if (error == cudaErrorMemoryAllocation)
        return fault_memory(fault, "A and B need", bytes_together);
    if (error != cudaSuccess)
        return fault_cuda(fault, "cudaMalloc", error);
    TRY(fault, cudaMemcpyAsync(*out, from, bytes, cudaMemcpyHostToDevice, stream));
    return 0;
}

/* On a stream of their own: cudaMemcpy() would wait for the default stream's work, which is the
   program's, and may return before lanes find what it copied. */
static int resident_fill(struct resident *resident, struct backend_fault *fault)
{
    const struct backend_basis *host = &resident->host;
    uint64_t a_bytes = host->rank * host->in * sizeof(float);
    uint64_t b_bytes = host->rank * host->out * sizeof(float);
    cudaStream_t stream;

    TRY(fault, cudaStreamCreateWithFlags(&stream, cudaStreamNonBlocking));
    int err = matrix_queue(&resident->a, host->a, a_bytes, a_bytes + b_bytes, stream, fault);
    if (err == 0)
        err = matrix_queue(&resident->b, host->b, b_bytes, a_bytes + b_bytes, stream, fault);
    cudaError_t error = cudaStreamSynchronize(stream);
    (void)cudaStreamDestroy(stream);
    if (err < 0 || error == cudaSuccess)
        return err;
    return fault_cuda(fault, "cudaStreamSynchronize", error);
}

static int
module_basis_add(void *state, const struct backend_basis *basis, struct backend_fault *fault)
{
    struct session *session = (struct session *)state;
    struct resident resident = {*basis, nullptr, nullptr};

    void *grown = realloc(session->bases, (session->base_count + 1) * sizeof(resident));
    if (!grown)
        return fault_set(fault, E_NOMEM, "cuda: out of memory");
    session->bases = (struct resident *)grown;
    ON_DEVICE(fault, session->device);
    int err = resident_fill(&resident, fault);
    if (err < 0)
        resident_release(&resident);
    else
        session->bases[session->base_count++] = resident;
    return err;
}

bool is_within(const float *at, const float *from, uint64_t count)
{
    uintptr_t first = (uintptr_t)from;

    return (uintptr_t)at >= first && (uintptr_t)at < first + count * sizeof(float);
}

const struct resident *resident_find(const struct session *session, const float *a)
{
    for (size_t i = 0; i < session->base_count; i++) {
        const struct backend_basis *host = &session->bases[i].host;
        if (is_within(a, host->a, host->rank * host->in))
            return &session->bases[i];
    }
    return nullptr;
}

static void module_basis_remove(void *state, const float *a)
{
    struct session *session = (struct session *)state;
    size_t at = 0;

    while (at < session->base_count && session->bases[at].host.a != a)
        at++;
    if (at == session->base_count)
        return;
    struct device_scope scope(session->device);
    resident_release(&session->bases[at]);
    session->bases[at] = session->bases[--session->base_count];
}

static int module_memory_new(uint8_t **out, void *state, size_t bytes, struct backend_fault *fault)
{
    struct session *session = (struct session *)state;
    uint8_t *memory = nullptr;

    void *grown = realloc(
        session->memories, (session->memory_count + 1) * sizeof(*session->memories)
    );
    if (!grown)
        return fault_set(fault, E_NOMEM, "cuda: out of memory");
    session->memories = (uint8_t **)grown;
    ON_DEVICE(fault, session->device);
    cudaError_t error = cudaMalloc(&memory, bytes ? bytes : 1);
    if (error == cudaErrorMemoryAllocation) {
        int err = fault_memory(fault, "what is kept there needs", bytes);
        fault_hint(fault, "end what else uses the device, or keep less on it");
        return err;
    }
    if (error != cudaSuccess)
        return fault_cuda(fault, "cudaMalloc", error);
    *out = session->memories[session->memory_count++] = memory;
    return 0;
}

static void module_memory_free(void *state, uint8_t *memory)
{
    struct session *session = (struct session *)state;
    size_t at = 0;

    while (at < session->memory_count && session->memories[at] != memory)
        at++;
    assert(at < session->memory_count);
    struct device_scope scope(session->device);
    (void)cudaFree(memory);
    session->memories[at] = session->memories[--session->memory_count];
}

/* Is what lies there the device's? An allocator may have put it together from many allocations of
   CUDA's, so that more cannot be asked than whose its first and its last byte are. */
static int
address_check(const struct session *session, const uint8_t *at, struct backend_fault *fault)
{
    cudaPointerAttributes attributes;

    TRY(fault, cudaPointerGetAttributes(&attributes, at));
    if (attributes.type != cudaMemoryTypeDevice && attributes.type != cudaMemoryTypeManaged)
        return fault_set(
            fault, E_INVALID, "what is at %p is not in a GPU's memory", (const void *)at
        );
    if (attributes.device != session->device)
        return fault_set(
            fault, E_INVALID, "what is at %p is in the memory of GPU %d, not in that of GPU %d",
            (const void *)at, attributes.device, session->device
        );
    return 0;
}

static int
module_memory_check(void *state, const void *at, size_t bytes, struct backend_fault *fault)
{
    const struct session *session = (const struct session *)state;
    const uint8_t *first = (const uint8_t *)at;
    uintptr_t end;

    if (bytes == 0)
        return 0;
    if (__builtin_add_overflow((uintptr_t)at, bytes, &end))
        return fault_set(fault, E_INVALID, "%zu bytes from %p on are beyond all memory", bytes, at);
    ON_DEVICE(fault, session->device);
    int err = address_check(session, first, fault);
    return err < 0 ? err : address_check(session, first + (bytes - 1), fault);
}

static int module_session_wait(void *state, struct backend_fault *fault)
{
    const struct session *session = (const struct session *)state;

    ON_DEVICE(fault, session->device);
    TRY(fault, cudaDeviceSynchronize());
    return 0;
}

static const char *module_device_name(void *session)
{
    return ((const struct session *)session)->name;
}

/* Copies of 4 MiB take a tenth of a millisecond each way, a launch a hundredth. */
static const struct backend backend_module = {
    "cuda", /* name */
    FAST_BOUND,
    4 * MIB, /* group_bytes */
    2,       /* lanes_min */
    module_open,
    module_close,
    module_basis_add,
    module_device_name,
    cuda_lane_open,
    cuda_lane_close,
    cuda_lane_memory,
    cuda_lane_merge,
    module_basis_remove,
    module_memory_new,
    module_memory_free,
    module_memory_check,
    module_session_wait,
    cuda_lane_prepare,
    cuda_lane_follow,
    cuda_batch,
};

extern "C" __attribute__((visibility("default"))) const struct backend *
vera_cuda_backend(unsigned *module_abi, unsigned abi);

extern "C" const struct backend *vera_cuda_backend(unsigned *module_abi, unsigned abi)
{
    *module_abi = BACKEND_ABI;
    return abi == BACKEND_ABI ? &backend_module : nullptr;
}
