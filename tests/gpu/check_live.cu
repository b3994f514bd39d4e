/*
 * Weights and registries in a GPU's memory, through libvera_apply: are they, bit for bit, what the
 * same adapters make of the same weights in host memory?
 *
 *   check_live FIXTURES
 *
 * Every adapter of the fixtures is put onto their models in random order, in many layouts. What a
 * stream was given before a swap must see the weights before it; a captured graph must see those
 * after it. Batches run on several streams at once, and out of a captured graph that reads its
 * slots from the device's memory.
 */
#include <math.h>

#include <algorithm>
#include <random>

#include "tests/gpu/models.h"

static std::mt19937 numbers(7);
static unsigned wrong;

static size_t random_below(size_t count)
{
    return numbers() % count;
}

static void claim(const std::string &what, bool holds)
{
    printf("%s %s\n", holds ? "ok   " : "WRONG", what.c_str());
    fflush(stdout);
    wrong += !holds;
}

/* ---- A graph that uses weights ---- */

/* y = W @ x, each row one chain; x: [cols]. */
__global__ void product(
    float *y,
    const uint8_t *w,
    uint32_t wide,
    uint64_t row_stride,
    uint64_t column_stride,
    const float *x,
    uint32_t cols
)
{
    uint64_t row = threadIdx.x;
    float sum = 0;

    for (uint32_t i = 0; i < cols; i++) {
        uint64_t at = row * row_stride + i * column_stride;
        float value = wide ? ((const float *)(const void *)w)[at]
                           : __uint_as_float(
                                 (uint32_t)((const uint16_t *)(const void *)w)[at] << 16
                             );
        sum = __fmaf_rn(value, x[i], sum);
    }
    y[row] = sum;
}

struct product_graph {
    cudaGraphExec_t graph;
    placed part;
    float *x, *y; /* on the device */
    std::vector<float> x_host;
};

static product_graph
graph_make(const device_weights &on_device, const std::vector<weight> &weights, cudaStream_t stream)
{
    product_graph out = {};
    size_t i = 0;
    cudaGraph_t graph;

    while (weights[on_device.parts[i].weight].shape.size() != 2 ||
           on_device.parts[i].row_count > 512)
        i++;
    out.part = on_device.parts[i];
    const weight &one = weights[out.part.weight];
    for (uint64_t k = 0; k < one.columns(); k++)
        out.x_host.push_back((float)random_below(1000) / 500 - 1);
    MUST(cudaMalloc(&out.x, one.columns() * sizeof(float)));
    MUST(cudaMalloc(&out.y, out.part.row_count * sizeof(float)));
    MUST(cudaMemcpy(out.x, out.x_host.data(), one.columns() * sizeof(float), cudaMemcpyHostToDevice)
    );
    MUST(cudaDeviceSynchronize());
    cudaLaunchConfig_t config = shape(1, (unsigned)out.part.row_count, stream);
    auto queue = [&]() {
        MUST(cudaLaunchKernelEx(
            &config, product, out.y, on_device.blocks[out.part.block].data + out.part.offset,
            (uint32_t)(one.dtype == DTYPE_F32), out.part.row_stride, out.part.column_stride, out.x,
            (uint32_t)one.columns()
        ));
    };
    queue(); /* a kernel is loaded when it first runs, which a capture may not allow */
    MUST(cudaStreamSynchronize(stream));
    MUST(cudaStreamBeginCapture(stream, cudaStreamCaptureModeGlobal));
    queue();
    MUST(cudaStreamEndCapture(stream, &graph));
    MUST(cudaGraphInstantiate(&out.graph, graph, 0));
    MUST(cudaGraphDestroy(graph));
    return out;
}

/* Is what the graph's last launch left the product with these weights? */
static bool
graph_is(const product_graph &graph, const std::vector<weight> &weights, cudaStream_t stream)
{
    const weight &one = weights[graph.part.weight];
    std::vector<float> found(graph.part.row_count), row(one.columns());
    bool same = true;

    MUST(cudaStreamSynchronize(stream));
    MUST(cudaMemcpy(found.data(), graph.y, found.size() * sizeof(float), cudaMemcpyDeviceToHost));
    for (uint64_t i = 0; i < found.size(); i++) {
        float sum = 0;
        const uint8_t *at = &one.data[(graph.part.row_begin + i) * row.size() * one.element()];
        dtype_widen(row.data(), at, row.size(), one.dtype);
        for (size_t k = 0; k < row.size(); k++)
            sum = fmaf(row[k], graph.x_host[k], sum);
        same = same && memcmp(&sum, &found[i], sizeof(sum)) == 0;
    }
    return same;
}

static void graph_free(product_graph *graph)
{
    MUST(cudaGraphExecDestroy(graph->graph));
    MUST(cudaFree(graph->x));
    MUST(cudaFree(graph->y));
}

/* ---- Swaps ---- */

struct family {
    const char *base;
    int32_t layer;
    bool has_qkv;
    std::vector<std::string> adapters; /* folders of the fixtures */
};

static std::vector<std::string>
adapters_of(const std::filesystem::path &fixtures, const family &family)
{
    std::vector<std::string> found;

    for (const std::string &folder : family.adapters) {
        for (const auto &entry :
             std::filesystem::recursive_directory_iterator(fixtures / "adapter" / folder)) {
            if (entry.path().filename() == "adapter_config.json")
                found.push_back(entry.path().parent_path().string());
        }
    }
    std::sort(found.begin(), found.end());
    std::shuffle(found.begin(), found.end(), numbers);
    return found;
}

/* The device's model and its twin in host memory, whose weights are `weights`. */
struct twins {
    std::vector<weight> weights;
    device_weights on_device;
    struct vera_model *host, *gpu;
    cudaStream_t stream;
};

static twins twins_make(
    const std::filesystem::path &base,
    enum layout layout,
    const vera_options *options,
    int32_t layer
)
{
    twins out = {};

    MUST(cudaStreamCreateWithFlags(&out.stream, cudaStreamNonBlocking));
    out.weights = weights_read(base);
    out.on_device = weights_place(out.weights, layout);
    out.host = model_on_host(out.weights, layer);
    out.gpu = model_on_device(out.on_device, out.weights, options, layer, out.stream);
    return out;
}

static void twins_free(twins *twins)
{
    vera_model_free(twins->gpu);
    vera_model_free(twins->host);
    weights_free(&twins->on_device);
    MUST(cudaStreamDestroy(twins->stream));
}

/* One adapter onto both; `adapter` "": off both. The graph is launched before and after. */
static bool twins_swap(twins *twins, const product_graph &graph, const std::string &adapter)
{
    vera_state host = {}, gpu = {};
    std::vector<weight> before = twins->weights;

    host.size = gpu.size = sizeof(gpu);
    MUST(cudaGraphLaunch(graph.graph, twins->stream)); /* it is on its way as the swap begins */
    int err = adapter.empty() ? vera_detach(twins->gpu, &gpu)
                              : vera_swap_directory(twins->gpu, adapter.c_str(), &gpu);
    int host_err = adapter.empty() ? vera_detach(twins->host, &host)
                                   : vera_swap_directory(twins->host, adapter.c_str(), &host);
    if (err != VERA_OK || host_err != VERA_OK) {
        printf("      %s: %d, and in host memory %d\n", adapter.c_str(), err, host_err);
        return false;
    }
    bool same = graph_is(graph, before, twins->stream);
    MUST(cudaGraphLaunch(graph.graph, twins->stream));
    same = same && graph_is(graph, twins->weights, twins->stream);
    same = same && weights_are(twins->on_device, twins->weights);
    same = same && memcmp(host.snapshot, gpu.snapshot, sizeof(gpu.snapshot)) == 0;
    return same && host.epoch == gpu.epoch && host.modules == gpu.modules && !gpu.torn;
}

static void
family_check(const std::filesystem::path &fixtures, const family &family, enum layout layout)
{
    static const char *const sources[] = {
        "a copy kept there", "the base's files", "the base's files, kept there"};
    const std::string base = (fixtures / "base" / family.base).string();
    const unsigned source = (unsigned)layout % 3;
    vera_options options = {};
    size_t done = 0;

    options.size = sizeof(options);
    options.base = source == 0 ? nullptr : base.c_str();
    options.kept_bytes = source == 2 ? (uint64_t)1 << 30 : 0;
    twins twins = twins_make(base, layout, &options, family.layer);
    const std::vector<weight> first = twins.weights;
    product_graph graph = graph_make(twins.on_device, twins.weights, twins.stream);
    std::vector<std::string> adapters = adapters_of(fixtures, family);
    while (done < adapters.size() && twins_swap(&twins, graph, adapters[done]))
        done++;
    bool detached = twins_swap(&twins, graph, "") && weights_are(twins.on_device, first);
    claim(
        std::string(family.base) + ", " + layout_names[layout] + ", from " + sources[source] +
            ": " + std::to_string(done) + " of " + std::to_string(adapters.size()) +
            " swaps in random order, bit for bit; a captured graph sees each",
        done == adapters.size() && done > 0
    );
    claim(
        std::string(family.base) + ", " + layout_names[layout] + ": detached, the bits before it",
        detached
    );
    graph_free(&graph);
    twins_free(&twins);
}

/* ---- Registries ---- */

struct registry_twins {
    struct vera_registry *host, *gpu;
    std::vector<int32_t> host_slots, gpu_slots; /* of each adapter */
    std::vector<std::string> names;
    std::vector<uint64_t> in, out;
};

/* The modules that an adapter changes, from its tensors and the base's. */
static void
modules_find(registry_twins *twins, const std::string &adapter, const std::vector<weight> &weights)
{
    const std::string prefix = "base_model.model.", suffix = ".vera_lambda_b";
    struct vera_adapter *read;
    struct vera_adapter_tensor tensor = {};

    tensor.size = sizeof(tensor);
    VERA(vera_adapter_read_directory(&read, adapter.c_str()));
    for (uint64_t i = 0; vera_adapter_tensor(&tensor, read, i) == VERA_OK; i++) {
        std::string name = tensor.name;
        size_t end = name.size() - suffix.size();
        if (name.size() <= suffix.size() || name.compare(end, suffix.size(), suffix) != 0)
            continue;
        name = name.substr(prefix.size(), end - prefix.size());
        for (const weight &one : weights) {
            if (one.name != name + ".weight")
                continue;
            twins->names.push_back(name);
            twins->out.push_back(one.shape[0]);
            twins->in.push_back(one.shape[1]);
        }
    }
    vera_adapter_free(read);
}

static struct vera_registry *
registry_make(const registry_twins &twins, const std::string &like, int32_t vectors, int32_t memory)
{
    std::vector<const char *> names;
    struct vera_registry *registry;
    vera_registry_options options = {};

    for (const std::string &name : twins.names)
        names.push_back(name.c_str());
    options.size = sizeof(options);
    options.names = names.data();
    options.in = twins.in.data();
    options.out = twins.out.data();
    options.modules = names.size();
    options.directory = like.c_str();
    options.budget_bytes = 4 << 20;
    options.vector_dtype = vectors;
    options.memory = memory;
    MUST(cudaGetDevice(&options.device));
    VERA(vera_registry_new(&registry, &options));
    return registry;
}

static registry_twins registry_twins_make(
    const std::vector<std::string> &adapters, const std::vector<weight> &weights, int32_t vectors
)
{
    registry_twins twins = {};

    modules_find(&twins, adapters[0], weights);
    twins.host = registry_make(twins, adapters[0], vectors, VERA_HOST);
    twins.gpu = registry_make(twins, adapters[0], vectors, VERA_CUDA);
    for (const std::string &adapter : adapters) {
        int32_t slot;
        VERA(vera_registry_add_directory(twins.host, adapter.c_str(), 0, nullptr, &slot));
        twins.host_slots.push_back(slot);
        VERA(vera_registry_add_directory(twins.gpu, adapter.c_str(), 0, nullptr, &slot));
        twins.gpu_slots.push_back(slot);
    }
    return twins;
}

static void registry_twins_free(registry_twins *twins)
{
    for (size_t i = 0; i < twins->host_slots.size(); i++) {
        VERA(vera_registry_drop(twins->host, twins->host_slots[i]));
        VERA(vera_registry_drop(twins->gpu, twins->gpu_slots[i]));
    }
    vera_registry_free(twins->host);
    vera_registry_free(twins->gpu);
}

/* Rows of one module, on both sides. */
struct rows {
    uint64_t module, count;
    enum dtype dtype;
    std::vector<int32_t> host_slots, gpu_slots;
    std::vector<uint8_t> x, y; /* the host's */
    uint8_t *x_device, *y_device;
    int32_t *slots_device;
};

static void slots_fill(rows *rows, const registry_twins &twins)
{
    for (uint64_t i = 0; i < rows->count; i++) {
        size_t adapter = random_below(twins.host_slots.size() + 1);
        bool none = adapter == twins.host_slots.size();
        rows->host_slots[i] = none ? -1 : twins.host_slots[adapter];
        rows->gpu_slots[i] = none ? -1 : twins.gpu_slots[adapter];
    }
}

static std::vector<uint8_t> values_make(size_t count, enum dtype dtype)
{
    std::vector<float> values(count);
    std::vector<uint8_t> out(count * dtype_bits(dtype) / 8);

    for (float &value : values)
        value = (float)random_below(2000) / 1000 - 1;
    dtype_narrow(out.data(), values.data(), count, dtype);
    return out;
}

static uint8_t *to_device(const void *from, size_t bytes)
{
    uint8_t *out;

    MUST(cudaMalloc(&out, bytes));
    MUST(cudaMemcpy(out, from, bytes, cudaMemcpyHostToDevice));
    return out;
}

static rows rows_make(const registry_twins &twins, uint64_t count, enum dtype dtype)
{
    rows out = {};

    out.module = random_below(twins.names.size());
    out.count = count;
    out.dtype = dtype;
    out.host_slots.resize(count);
    out.gpu_slots.resize(count);
    slots_fill(&out, twins);
    out.x = values_make(count * twins.in[out.module], dtype);
    out.y = values_make(count * twins.out[out.module], dtype);
    out.x_device = to_device(out.x.data(), out.x.size());
    out.y_device = to_device(out.y.data(), out.y.size());
    out.slots_device = (int32_t *)(void *)to_device(out.gpu_slots.data(), count * sizeof(int32_t));
    MUST(cudaDeviceSynchronize());
    return out;
}

static void rows_free(const rows &rows)
{
    MUST(cudaFree(rows.x_device));
    MUST(cudaFree(rows.y_device));
    MUST(cudaFree(rows.slots_device));
}

static void rows_on_host(const registry_twins &twins, rows *rows)
{
    vera_batch batch = {};

    batch.size = sizeof(batch);
    batch.slots = rows->host_slots.data();
    batch.x = rows->x.data();
    batch.y = rows->y.data();
    batch.rows = rows->count;
    batch.dtype = vera_dtype_of(rows->dtype);
    VERA(vera_registry_forward(twins.host, rows->module, &batch));
}

static void
rows_queue(const registry_twins &twins, const rows &rows, bool slots_on_device, cudaStream_t stream)
{
    std::vector<int32_t> slots = rows.gpu_slots;
    vera_batch batch = {};

    batch.size = sizeof(batch);
    batch.slots = slots_on_device ? rows.slots_device : slots.data();
    batch.slots_memory = slots_on_device ? VERA_CUDA : VERA_HOST;
    batch.x = rows.x_device;
    batch.y = rows.y_device;
    batch.rows = rows.count;
    batch.dtype = vera_dtype_of(rows.dtype);
    batch.stream = stream;
    VERA(vera_registry_forward(twins.gpu, rows.module, &batch));
    std::fill(slots.begin(), slots.end(), INT32_MAX); /* they were read */
}

static bool rows_are_equal(const rows &rows)
{
    std::vector<uint8_t> found(rows.y.size());

    MUST(cudaMemcpy(found.data(), rows.y_device, found.size(), cudaMemcpyDeviceToHost));
    return found == rows.y;
}

/* Batches on all streams before any is waited for. */
static bool streams_check(const registry_twins &twins, enum dtype dtype)
{
    cudaStream_t streams[3];
    std::vector<rows> all;
    bool same = true;

    for (cudaStream_t &stream : streams)
        MUST(cudaStreamCreateWithFlags(&stream, cudaStreamNonBlocking));
    for (size_t i = 0; i < 12; i++)
        all.push_back(rows_make(twins, 1 + random_below(70), dtype));
    for (size_t i = 0; i < all.size(); i++)
        rows_queue(twins, all[i], i % 2, streams[i % 3]);
    for (cudaStream_t stream : streams) {
        MUST(cudaStreamSynchronize(stream));
        MUST(cudaStreamDestroy(stream));
    }
    for (rows &one : all) {
        rows_on_host(twins, &one);
        same = same && rows_are_equal(one);
        rows_free(one);
    }
    return same;
}

/* Two modules in one graph; each launch has other slots. */
static bool slots_in_a_graph_check(const registry_twins &twins, enum dtype dtype)
{
    rows both[2] = {rows_make(twins, 33, dtype), rows_make(twins, 5, dtype)};
    cudaGraphExec_t executable;
    cudaStream_t stream;
    cudaGraph_t graph;
    bool same = true;

    MUST(cudaStreamCreateWithFlags(&stream, cudaStreamNonBlocking));
    MUST(cudaStreamBeginCapture(stream, cudaStreamCaptureModeGlobal));
    for (const rows &one : both)
        rows_queue(twins, one, true, stream);
    MUST(cudaStreamEndCapture(stream, &graph));
    MUST(cudaGraphInstantiate(&executable, graph, 0));
    for (int launch = 0; launch < 3; launch++) {
        for (rows &one : both) {
            slots_fill(&one, twins);
            MUST(cudaMemcpy(
                one.slots_device, one.gpu_slots.data(), one.count * sizeof(int32_t),
                cudaMemcpyHostToDevice
            ));
        }
        MUST(cudaDeviceSynchronize());
        MUST(cudaGraphLaunch(executable, stream));
        MUST(cudaStreamSynchronize(stream));
        for (rows &one : both) {
            rows_on_host(twins, &one);
            same = same && rows_are_equal(one);
        }
    }
    MUST(cudaGraphExecDestroy(executable));
    MUST(cudaGraphDestroy(graph));
    MUST(cudaStreamDestroy(stream));
    for (const rows &one : both)
        rows_free(one);
    return same;
}

static void registry_check(const std::filesystem::path &fixtures, const family &family)
{
    std::vector<weight> weights = weights_read(fixtures / "base" / family.base);
    std::vector<std::string> adapters = adapters_of(fixtures, family);

    for (enum dtype vectors : {DTYPE_F32, DTYPE_BF16, DTYPE_F16}) {
        registry_twins twins = registry_twins_make(adapters, weights, vera_dtype_of(vectors));
        for (enum dtype dtype : {DTYPE_F32, DTYPE_BF16, DTYPE_F16}) {
            std::string what = std::string(family.base) + ", vectors " + dtype_name(vectors) +
                               ", rows " + dtype_name(dtype);
            claim(
                what + ": batches on three streams at once, bit for bit",
                streams_check(twins, dtype)
            );
            claim(
                what + ": out of a captured graph with its slots on the device",
                slots_in_a_graph_check(twins, dtype)
            );
        }
        registry_twins_free(&twins);
    }
}

int main(int argc, char **argv)
{
    const family families[] = {
        {"llama",
         VERA_LAYER_LINEAR,
         true,
         {"llama", "llama-c", "llama-perl", "llama-vectors-only"}},
        {"llama-half", VERA_LAYER_LINEAR, true, {"llama-half", "llama-half-vectors"}},
        {"gpt2", VERA_LAYER_CONV1D, false, {"gpt2"}},
        {"bert", VERA_LAYER_LINEAR, false, {"bert"}},
    };
    const family registries[] = {
        {"llama", VERA_LAYER_LINEAR, true, {"llama"}},
        {"llama-half", VERA_LAYER_LINEAR, true, {"llama-half"}},
    };

    if (argc != 2) {
        fprintf(stderr, "usage: check_live FIXTURES\n");
        return 2;
    }
    cudaDeviceProp properties = device_first();
    printf("%s\n", properties.name);
    for (const family &family : families) {
        int layouts = family.has_qkv ? LAYOUTS : LAYOUT_FUSED;
        for (int layout = 0; layout < layouts; layout++)
            family_check(argv[1], family, (enum layout)layout);
    }
    for (const family &family : registries)
        registry_check(argv[1], family);
    return wrong ? 1 : 0;
}
