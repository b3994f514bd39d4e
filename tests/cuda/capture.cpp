/*
 * Captures of one stream's work, and graphs, which do it again in the order in which it was
 * captured. Forks to other streams are not emulated.
 */
#include "tests/cuda/runtime.h"

namespace emulator
{

static thread_local cudaStreamCaptureMode thread_mode = cudaStreamCaptureModeGlobal;

static bool forbids(const capture &capture)
{
    if (thread_mode == cudaStreamCaptureModeRelaxed)
        return false;
    if (capture.thread == thread_number())
        return capture.mode != cudaStreamCaptureModeRelaxed;
    return thread_mode == cudaStreamCaptureModeGlobal &&
           capture.mode == cudaStreamCaptureModeGlobal;
}

cudaError_t capture_forbids()
{
    cudaError_t error = cudaSuccess;

    for (cudaStream_t stream : state.streams) {
        if (stream->capture && forbids(*stream->capture))
            error = capture_void(stream, cudaErrorStreamCaptureUnsupported);
    }
    return error;
}

cudaError_t capture_void(cudaStream_t stream, cudaError_t error)
{
    if (stream->capture)
        stream->capture->invalid = true;
    return answer(error);
}

cudaError_t capture_record(cudaStream_t stream, stream_work work)
{
    capture &capture = *stream->capture;

    if (capture.invalid)
        return answer(cudaErrorStreamCaptureInvalidated);
    if (work.kind == WORK_GRAPH)
        emulated_die("a graph is launched in a capture, which is not emulated");
    work.device = stream->device;
    work.owner = capture.graph.get();
    capture.graph->nodes.push_back(std::move(work));
    return cudaSuccess;
}

static void check_memory(const recording &graph)
{
    for (uintptr_t address : graph.memories) {
        if (!state.memories[address].freed)
            emulated_die("memory that a capture takes is not freed in it");
    }
}

} // namespace emulator

using namespace emulator;

cudaError_t cudaStreamBeginCapture(cudaStream_t handle, cudaStreamCaptureMode mode)
{
    ENTER("cudaStreamBeginCapture");
    cudaStream_t stream = stream_of(handle);

    if (!stream)
        return answer(cudaErrorInvalidResourceHandle);
    if (stream == state.devices[stream->device].legacy.get())
        return answer(cudaErrorStreamCaptureUnsupported);
    if (stream->capture)
        return answer(cudaErrorIllegalState);
    auto graph = std::make_shared<recording>();
    graph->device = stream->device;
    stream->capture.reset(new capture{std::move(graph), mode, thread_number()});
    return cudaSuccess;
}

cudaError_t cudaStreamEndCapture(cudaStream_t handle, cudaGraph_t *graph)
{
    ENTER("cudaStreamEndCapture");
    cudaStream_t stream = stream_of(handle);

    if (!stream || !graph)
        return answer(stream ? cudaErrorInvalidValue : cudaErrorInvalidResourceHandle);
    if (!stream->capture)
        return answer(cudaErrorIllegalState);
    if (stream->capture->thread != thread_number() &&
        stream->capture->mode != cudaStreamCaptureModeRelaxed)
        return capture_void(stream, cudaErrorStreamCaptureWrongThread);
    auto ended = std::move(stream->capture);
    ended->graph->open = false;
    *graph = nullptr;
    if (ended->invalid)
        return answer(cudaErrorStreamCaptureInvalidated);
    check_memory(*ended->graph);
    *graph = new CUgraph_st{std::move(ended->graph)};
    state.graphs.insert(*graph);
    return cudaSuccess;
}

cudaError_t cudaStreamIsCapturing(cudaStream_t handle, cudaStreamCaptureStatus *status)
{
    ENTER("cudaStreamIsCapturing");
    cudaStream_t stream = stream_of(handle);

    if (!stream)
        return answer(cudaErrorInvalidResourceHandle);
    *status = !stream->capture           ? cudaStreamCaptureStatusNone
              : stream->capture->invalid ? cudaStreamCaptureStatusInvalidated
                                         : cudaStreamCaptureStatusActive;
    return cudaSuccess;
}

cudaError_t cudaThreadExchangeStreamCaptureMode(cudaStreamCaptureMode *mode)
{
    ENTER("cudaThreadExchangeStreamCaptureMode");
    std::swap(*mode, thread_mode);
    return cudaSuccess;
}

cudaError_t cudaGraphInstantiate(cudaGraphExec_t *out, cudaGraph_t graph, unsigned long long)
{
    ENTER("cudaGraphInstantiate");
    if (!state.graphs.count(graph))
        return answer(cudaErrorInvalidValue);
    *out = new CUgraphExec_st{graph->graph};
    state.executables.insert(*out);
    return cudaSuccess;
}

cudaError_t cudaGraphLaunch(cudaGraphExec_t executable, cudaStream_t handle)
{
    ENTER("cudaGraphLaunch");
    cudaStream_t stream = stream_of(handle);

    if (!stream)
        return answer(cudaErrorInvalidResourceHandle);
    if (!state.executables.count(executable))
        return answer(cudaErrorInvalidValue);
    auto run = [graph = executable->graph]() {
        for (const stream_work &node : graph->nodes)
            run_on_device(node);
    };
    stream_work work = {WORK_GRAPH, run};
    auto &last = executable->graph->last;
    if (last.first)
        work.after.push_back(last);
    uint64_t done = stream->queued + 1;
    cudaError_t error = enqueue(stream, std::move(work));
    if (error == cudaSuccess)
        last = {stream, done};
    return error;
}

cudaError_t cudaGraphDestroy(cudaGraph_t graph)
{
    ENTER("cudaGraphDestroy");
    if (!state.graphs.erase(graph))
        return answer(cudaErrorInvalidValue);
    delete graph;
    return cudaSuccess;
}

/* What was launched of it goes on. */
cudaError_t cudaGraphExecDestroy(cudaGraphExec_t executable)
{
    ENTER("cudaGraphExecDestroy");
    if (!state.executables.erase(executable))
        return answer(cudaErrorInvalidValue);
    delete executable;
    return cudaSuccess;
}
