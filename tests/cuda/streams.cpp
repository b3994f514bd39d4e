/*
 * Streams and events. Streams are queues of functions; what the order (emulated.h) lets wait is run
 * by cudaStreamSynchronize() and the like, and before memory is freed, as CUDA does.
 *
 * The default stream of a device is one of them. Its work comes after everything that the device's
 * blocking streams were given before, and theirs after it: what else must have been done is noted
 * with each piece of work. It and the streams that do not block know nothing of each other.
 */
#include "tests/cuda/runtime.h"

#include <fenv.h>
#include <signal.h>
#include <sys/mman.h>
#include <time.h>

namespace emulator
{

static void stream_step(cudaStream_t stream);

static thread_local const stream_work *running;
static struct sigaction segv_before;

[[noreturn]] static void touch_die(const char *who, const char *what)
{
    emulated_die((std::string(who) + " touched " + what).c_str());
}

/* Say what a kernel, or a copy, did wrong; a host's own fault goes its way. */
static void segv_tell(int, siginfo_t *info, void *)
{
    if (!running) {
        sigaction(SIGSEGV, &segv_before, nullptr);
        return;
    }
    const char *why = memory_refusal(info->si_addr, *running);
    touch_die(
        running->kind == WORK_KERNEL ? "a kernel" : "a copy",
        why ? why : "what is next to its memory"
    );
}

/* The host's rounding mode, FTZ and DAZ are not the device's. */
void run_on_device(const stream_work &work)
{
    struct sigaction tell = {};
    fenv_t host;

    if (work.kind == WORK_NOTE || work.kind == WORK_GRAPH) {
        work.run();
        return;
    }
    fegetenv(&host);
    fesetenv(FE_DFL_ENV);
    tell.sa_sigaction = segv_tell;
    tell.sa_flags = SA_SIGINFO;
    sigaction(SIGSEGV, &tell, &segv_before);
    running = &work;
    work_protect(work, PROT_READ | PROT_WRITE);
    work.run();
    work_protect(work, PROT_NONE);
    running = nullptr;
    sigaction(SIGSEGV, &segv_before, nullptr);
    fesetenv(&host);
}

static void stream_reach(cudaStream_t stream, uint64_t done)
{
    while (stream->done < done)
        stream_step(stream);
}

static bool event_is_done(const CUevent_st *event)
{
    return !event->stream || event->stream->done >= event->done;
}

static void stream_step(cudaStream_t stream)
{
    if (!state.streams.count(stream) || stream->queue.empty())
        emulated_die("work waits for work that no stream has");
    stream_work work = std::move(stream->queue.front());
    stream->queue.pop_front();
    for (auto &[other, done] : work.after)
        stream_reach(other, done);
    run_on_device(work);
    stream->done++;
}

void stream_drain(cudaStream_t stream)
{
    while (!stream->queue.empty())
        stream_step(stream);
}

void drain_device(int device)
{
    for (cudaStream_t stream : state.streams) {
        if (stream->device == device)
            stream_drain(stream);
    }
}

void drain_all()
{
    for (cudaStream_t stream : state.streams)
        stream_drain(stream);
}

/* All but that one, of all devices: where the order wants it. */
static void drain_others(cudaStream_t stream)
{
    if (state.order != EMULATED_OTHERS)
        return;
    for (cudaStream_t other : state.streams) {
        if (other != stream)
            stream_drain(other);
    }
}

static unsigned random_below(size_t count)
{
    state.random = state.random * UINT64_C(6364136223846793005) + 1442695040888963407;
    return static_cast<unsigned>((state.random >> 33) % count);
}

static void progress(cudaStream_t stream)
{
    if (state.order == EMULATED_EAGER)
        stream_drain(stream);
    if (state.order <= EMULATED_OTHERS)
        return;
    for (unsigned steps = random_below(4); steps > 0; steps--) {
        auto chosen = state.streams.begin();
        std::advance(chosen, random_below(state.streams.size()));
        if (!(*chosen)->queue.empty())
            stream_step(*chosen);
    }
}

static cudaStream_t stream_once(std::unique_ptr<CUstream_st> &stream)
{
    if (!stream) {
        stream.reset(new CUstream_st{current_device, true, false});
        state.streams.insert(stream.get());
    }
    return stream.get();
}

cudaStream_t stream_of(cudaStream_t handle)
{
    if (!handle || handle == cudaStreamLegacy)
        return stream_once(state.devices[current_device].legacy);
    if (handle == cudaStreamPerThread)
        return stream_once(state.thread_streams[{thread_number(), current_device}]);
    return state.streams.count(handle) ? handle : nullptr;
}

static bool is_legacy(cudaStream_t stream)
{
    return state.devices[stream->device].legacy.get() == stream;
}

/* The default stream and another one, which wait for each other. */
static bool wait_for_each_other(cudaStream_t one, cudaStream_t other)
{
    return one != other && one->device == other->device && one->blocking && other->blocking &&
           (is_legacy(one) || is_legacy(other));
}

cudaError_t enqueue(cudaStream_t stream, stream_work work)
{
    if (stream->capture)
        return capture_record(stream, std::move(work));
    for (cudaStream_t other : state.streams) {
        if (!wait_for_each_other(stream, other))
            continue;
        if (other->capture && is_legacy(stream))
            return capture_void(other, cudaErrorStreamCaptureImplicit);
        if (other->done < other->queued)
            work.after.push_back({other, other->queued});
    }
    work.device = stream->device;
    work.owner = stream;
    stream->queue.push_back(std::move(work));
    stream->queued++;
    progress(stream);
    return cudaSuccess;
}

/* Nothing waits for it any more; it is empty. */
static void stream_forget(cudaStream_t stream)
{
    for (cudaStream_t other : state.streams) {
        for (stream_work &work : other->queue) {
            for (auto &before : work.after) {
                if (before.first == stream)
                    before = {other, 0};
            }
        }
    }
    for (auto &[handle, event] : state.events) {
        if (event->stream == stream)
            event->stream = nullptr;
    }
    for (cudaGraphExec_t executable : state.executables) {
        if (executable->graph->last.first == stream)
            executable->graph->last = {nullptr, 0};
    }
}

} // namespace emulator

using namespace emulator;

/* Within a kernel, so its caller has the mutex. */
void emulated_device_check(const void *pointer)
{
    if (is_pinned(pointer))
        return;
    if (!memory_find(pointer))
        emulated_die("a kernel was given a pointer that is not the device's");
    const char *why = running ? memory_refusal(pointer, *running) : nullptr;
    if (why)
        touch_die("a kernel", why);
}

static cudaError_t stream_new(const char *call, cudaStream_t *stream, bool blocking)
{
    ENTER(call);
    *stream = new CUstream_st{current_device, blocking, true};
    state.streams.insert(*stream);
    return cudaSuccess;
}

cudaError_t cudaStreamCreate(cudaStream_t *stream)
{
    return stream_new("cudaStreamCreate", stream, true);
}

cudaError_t cudaStreamCreateWithFlags(cudaStream_t *stream, unsigned flags)
{
    return stream_new("cudaStreamCreateWithFlags", stream, !(flags & cudaStreamNonBlocking));
}

/* CUDA lets the work end; so does this. */
cudaError_t cudaStreamDestroy(cudaStream_t stream)
{
    ENTER("cudaStreamDestroy");
    if (!state.streams.count(stream) || !stream->made)
        return answer(cudaErrorInvalidResourceHandle);
    stream_drain(stream);
    stream_forget(stream);
    state.streams.erase(stream);
    delete stream;
    return cudaSuccess;
}

cudaError_t cudaStreamSynchronize(cudaStream_t handle)
{
    ENTER("cudaStreamSynchronize");
    cudaStream_t stream = stream_of(handle);
    if (!stream)
        return answer(cudaErrorInvalidResourceHandle);
    if (stream->capture)
        return capture_void(stream, cudaErrorStreamCaptureUnsupported);
    drain_others(stream);
    for (cudaStream_t other : state.streams) {
        if (!is_legacy(stream) || !wait_for_each_other(stream, other))
            continue;
        if (other->capture)
            return capture_void(other, cudaErrorStreamCaptureImplicit);
        stream_drain(other);
    }
    stream_drain(stream);
    return cudaSuccess;
}

/* One step for every question, so that asking in a loop ends. */
cudaError_t cudaStreamQuery(cudaStream_t handle)
{
    ENTER("cudaStreamQuery");
    cudaStream_t stream = stream_of(handle);
    if (!stream)
        return answer(cudaErrorInvalidResourceHandle);
    if (stream->capture)
        return capture_void(stream, cudaErrorStreamCaptureUnsupported);
    if (stream->queue.empty())
        return cudaSuccess;
    stream_step(stream);
    return cudaErrorNotReady;
}

/* What a capture waits for must be in it. */
static cudaError_t captured_wait(cudaStream_t stream, const CUevent_st *event)
{
    if (event->captured && !event->captured->open)
        return answer(cudaErrorCapturedEvent);
    if (event->captured && stream->capture && stream->capture->graph == event->captured)
        return cudaSuccess;
    if (event->captured)
        emulated_die("a capture goes on in another stream, which is not emulated");
    return event->recorded ? capture_void(stream, cudaErrorStreamCaptureIsolation) : cudaSuccess;
}

cudaError_t cudaStreamWaitEvent(cudaStream_t handle, cudaEvent_t event, unsigned)
{
    ENTER("cudaStreamWaitEvent");
    cudaStream_t stream = stream_of(handle);
    if (!stream || !state.events.count(event))
        return answer(cudaErrorInvalidResourceHandle);
    if (stream->capture || event->captured)
        return captured_wait(stream, event);
    if (event_is_done(event))
        return cudaSuccess;
    stream_work work = {WORK_NOTE, []() {}};
    work.after.push_back({event->stream, event->done});
    return enqueue(stream, std::move(work));
}

static cudaError_t event_new(const char *call, cudaEvent_t *event)
{
    ENTER(call);
    *event = new CUevent_st{current_device};
    state.events[*event].reset(*event);
    return cudaSuccess;
}

cudaError_t cudaEventCreate(cudaEvent_t *event)
{
    return event_new("cudaEventCreate", event);
}

cudaError_t cudaEventCreateWithFlags(cudaEvent_t *event, unsigned)
{
    return event_new("cudaEventCreateWithFlags", event);
}

/* What waits for its record goes on to do so. */
cudaError_t cudaEventDestroy(cudaEvent_t event)
{
    ENTER("cudaEventDestroy");
    return state.events.erase(event) ? cudaSuccess : answer(cudaErrorInvalidResourceHandle);
}

static double now()
{
    struct timespec time;

    clock_gettime(CLOCK_MONOTONIC, &time);
    return static_cast<double>(time.tv_sec) + 1e-9 * static_cast<double>(time.tv_nsec);
}

cudaError_t cudaEventRecord(cudaEvent_t event, cudaStream_t handle)
{
    ENTER("cudaEventRecord");
    cudaStream_t stream = stream_of(handle);
    if (!stream || !state.events.count(event) || stream->device != event->device)
        return answer(cudaErrorInvalidResourceHandle);
    if (stream->capture) {
        event->captured = stream->capture->graph;
        return cudaSuccess;
    }
    uint64_t done = stream->queued + 1;
    event->recorded = true;
    event->stream = stream;
    event->done = done;
    event->captured = nullptr;
    auto run = [stream, done, kept = state.events[event]]() {
        if (kept->stream == stream && kept->done == done)
            kept->time = now();
    };
    return enqueue(stream, {WORK_NOTE, run});
}

cudaError_t cudaEventSynchronize(cudaEvent_t event)
{
    ENTER_UNSAFE("cudaEventSynchronize");
    if (!state.events.count(event))
        return answer(cudaErrorInvalidResourceHandle);
    if (event->captured)
        return answer(cudaErrorCapturedEvent);
    drain_others(event->stream);
    if (event->stream)
        stream_reach(event->stream, event->done);
    return cudaSuccess;
}

cudaError_t cudaEventQuery(cudaEvent_t event)
{
    ENTER_UNSAFE("cudaEventQuery");
    if (!state.events.count(event))
        return answer(cudaErrorInvalidResourceHandle);
    if (event->captured)
        return answer(cudaErrorCapturedEvent);
    if (event_is_done(event))
        return cudaSuccess;
    stream_step(event->stream);
    return cudaErrorNotReady;
}

cudaError_t cudaEventElapsedTime(float *milliseconds, cudaEvent_t begin, cudaEvent_t end)
{
    ENTER("cudaEventElapsedTime");
    if (!state.events.count(begin) || !state.events.count(end) || !begin->recorded ||
        !end->recorded || begin->device != end->device)
        return answer(cudaErrorInvalidResourceHandle);
    if (!event_is_done(begin) || !event_is_done(end))
        return cudaErrorNotReady;
    *milliseconds = static_cast<float>((end->time - begin->time) * 1e3);
    return cudaSuccess;
}
