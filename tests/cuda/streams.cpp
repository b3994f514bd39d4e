/*
 * Streams and events. Streams are queues of functions; what the order (emulated.h) lets wait is run
 * by cudaStreamSynchronize() and the like, and before memory is freed, as CUDA does.
 */
#include "tests/cuda/runtime.h"

#include <fenv.h>
#include <sys/mman.h>
#include <time.h>

namespace emulator
{

static void stream_step(cudaStream_t stream);

/* The host's rounding mode, FTZ and DAZ are not the device's. */
static void run_on_device(const stream_work &work)
{
    fenv_t host;

    fegetenv(&host);
    fesetenv(FE_DFL_ENV);
    work_protect(work, PROT_READ | PROT_WRITE);
    work.run();
    work_protect(work, PROT_NONE);
    fesetenv(&host);
}

static void event_reach(cudaEvent_t event, uint64_t record)
{
    while (event->completed < record)
        stream_step(event->stream);
}

static void stream_step(cudaStream_t stream)
{
    if (!state.streams.count(stream) || stream->queue.empty())
        emulated_die("work waits for an event that no stream will record");
    stream_work work = std::move(stream->queue.front());
    stream->queue.pop_front();
    if (work.run)
        run_on_device(work);
    else
        event_reach(work.awaited, work.record);
}

void stream_drain(cudaStream_t stream)
{
    while (!stream->queue.empty())
        stream_step(stream);
}

void drain_all()
{
    for (cudaStream_t stream : state.streams)
        stream_drain(stream);
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

cudaError_t enqueue(cudaStream_t stream, stream_work work)
{
    if (!stream) {
        drain_all();
        run_on_device(work);
        return cudaSuccess;
    }
    if (!state.streams.count(stream))
        return answer(cudaErrorInvalidResourceHandle);
    stream->queue.push_back(std::move(work));
    progress(stream);
    return cudaSuccess;
}

} // namespace emulator

using namespace emulator;

static cudaError_t stream_new(const char *call, cudaStream_t *stream)
{
    ENTER(call);
    *stream = new CUstream_st;
    state.streams.insert(*stream);
    return cudaSuccess;
}

cudaError_t cudaStreamCreate(cudaStream_t *stream)
{
    return stream_new("cudaStreamCreate", stream);
}

cudaError_t cudaStreamCreateWithFlags(cudaStream_t *stream, unsigned)
{
    return stream_new("cudaStreamCreateWithFlags", stream);
}

/* CUDA lets the work end; so does this. */
cudaError_t cudaStreamDestroy(cudaStream_t stream)
{
    ENTER("cudaStreamDestroy");
    if (!state.streams.count(stream))
        return answer(cudaErrorInvalidResourceHandle);
    stream_drain(stream);
    for (cudaEvent_t event : state.events) {
        if (event->stream == stream)
            event->stream = nullptr;
    }
    state.streams.erase(stream);
    delete stream;
    return cudaSuccess;
}

cudaError_t cudaStreamSynchronize(cudaStream_t stream)
{
    ENTER("cudaStreamSynchronize");
    if (!stream || state.order == EMULATED_OTHERS) {
        for (cudaStream_t other : state.streams) {
            if (other != stream)
                stream_drain(other);
        }
    }
    if (!stream)
        return cudaSuccess;
    if (!state.streams.count(stream))
        return answer(cudaErrorInvalidResourceHandle);
    stream_drain(stream);
    return cudaSuccess;
}

/* One step for every question, so that asking in a loop ends. */
cudaError_t cudaStreamQuery(cudaStream_t stream)
{
    ENTER("cudaStreamQuery");
    if (!state.streams.count(stream))
        return answer(cudaErrorInvalidResourceHandle);
    if (stream->queue.empty())
        return cudaSuccess;
    stream_step(stream);
    return cudaErrorNotReady;
}

cudaError_t cudaStreamWaitEvent(cudaStream_t stream, cudaEvent_t event, unsigned)
{
    ENTER("cudaStreamWaitEvent");
    if (!state.events.count(event))
        return answer(cudaErrorInvalidResourceHandle);
    if (event->completed == event->recorded)
        return cudaSuccess;
    if (!stream) {
        event_reach(event, event->recorded);
        return cudaSuccess;
    }
    return enqueue(stream, {nullptr, false, nullptr, nullptr, event, event->recorded});
}

static cudaError_t event_new(const char *call, cudaEvent_t *event)
{
    ENTER(call);
    *event = new CUevent_st{0, 0, nullptr, 0};
    state.events.insert(*event);
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

/* Those who wait for it wait no longer than CUDA would let them: its work is done first. */
cudaError_t cudaEventDestroy(cudaEvent_t event)
{
    ENTER("cudaEventDestroy");
    if (!state.events.count(event))
        return answer(cudaErrorInvalidResourceHandle);
    drain_all();
    state.events.erase(event);
    delete event;
    return cudaSuccess;
}

static double now()
{
    struct timespec time;

    clock_gettime(CLOCK_MONOTONIC, &time);
    return static_cast<double>(time.tv_sec) + 1e-9 * static_cast<double>(time.tv_nsec);
}

cudaError_t cudaEventRecord(cudaEvent_t event, cudaStream_t stream)
{
    ENTER("cudaEventRecord");
    if (!state.events.count(event) || (stream && !state.streams.count(stream)))
        return answer(cudaErrorInvalidResourceHandle);
    /* A record replaces the one before, which may be in another stream. */
    event_reach(event, event->recorded);
    uint64_t record = ++event->recorded;
    event->stream = stream;
    auto run = [=]() {
        event->completed = record;
        event->time = now();
    };
    return enqueue(stream, {run, false, nullptr, nullptr, nullptr, 0});
}

cudaError_t cudaEventSynchronize(cudaEvent_t event)
{
    ENTER("cudaEventSynchronize");
    if (!state.events.count(event))
        return answer(cudaErrorInvalidResourceHandle);
    if (state.order == EMULATED_OTHERS) {
        for (cudaStream_t stream : state.streams) {
            if (stream != event->stream)
                stream_drain(stream);
        }
    }
    event_reach(event, event->recorded);
    return cudaSuccess;
}

cudaError_t cudaEventQuery(cudaEvent_t event)
{
    ENTER("cudaEventQuery");
    if (!state.events.count(event))
        return answer(cudaErrorInvalidResourceHandle);
    if (event->completed == event->recorded)
        return cudaSuccess;
    stream_step(event->stream);
    return cudaErrorNotReady;
}

cudaError_t cudaEventElapsedTime(float *milliseconds, cudaEvent_t begin, cudaEvent_t end)
{
    ENTER("cudaEventElapsedTime");
    if (!state.events.count(begin) || !state.events.count(end) || !begin->recorded ||
        !end->recorded)
        return answer(cudaErrorInvalidResourceHandle);
    if (begin->completed < begin->recorded || end->completed < end->recorded)
        return cudaErrorNotReady;
    *milliseconds = static_cast<float>((end->time - begin->time) * 1e3);
    return cudaSuccess;
}
