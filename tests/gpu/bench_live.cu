/*
 * What swaps and batches take in a GPU's memory, through libvera_apply, beside what the device can
 * do (measured.h): layers of Llama-3-8B's q and v, bf16, rank 256, that are made here.
 *
 *   bench_live [SCALE [LAYERS]]
 *
 * SCALE divides all sizes, to see that it works where time is short.
 */
#include <time.h>
#include <unistd.h>

#include <random>

#include "tests/gpu/measured.h"
#include "tests/gpu/models.h"

#define ROWS 32

static std::mt19937 numbers(7);
static std::filesystem::path folder; /* all that is measured: "base", "0", "1", ... */

static void folder_remove(void)
{
    std::error_code ignored;

    std::filesystem::remove_all(folder, ignored);
}

/* The sizes of what is measured. */
struct sizes {
    uint64_t wide, narrow, rank, layers;
};

static double now(void)
{
    struct timespec time;

    clock_gettime(CLOCK_MONOTONIC, &time);
    return (double)time.tv_sec + 1e-9 * (double)time.tv_nsec;
}

static double median(std::vector<double> times)
{
    std::sort(times.begin(), times.end());
    return times[times.size() / 2];
}

/* ---- A model and its adapters ---- */

static weight
weight_make(const std::string &name, enum dtype dtype, std::vector<uint64_t> shape, float most)
{
    weight out = {name, dtype, shape, {}};
    std::vector<float> values(out.rows() * out.columns());

    for (float &value : values)
        value = ((float)(numbers() >> 8) / 8388608 - 1) * most;
    out.data.resize(values.size() * out.element());
    dtype_narrow(out.data.data(), values.data(), values.size(), dtype);
    return out;
}

static std::string module_name(uint64_t layer, const char *projection)
{
    return "model.layers." + std::to_string(layer) + ".self_attn." + projection;
}

static std::vector<weight> model_make(const sizes &sizes)
{
    std::vector<weight> out;

    for (uint64_t i = 0; i < sizes.layers; i++) {
        out.push_back(weight_make(
            module_name(i, "q_proj") + ".weight", DTYPE_BF16, {sizes.wide, sizes.wide}, 0.02f
        ));
        out.push_back(weight_make(
            module_name(i, "v_proj") + ".weight", DTYPE_BF16, {sizes.narrow, sizes.wide}, 0.02f
        ));
    }
    return out;
}

static void text_write(const std::filesystem::path &path, const std::string &text)
{
    std::ofstream file(path);

    file << text;
    if (!file.flush())
        exit(1);
}

/* As PEFT saves it without A and B. */
static void adapter_make(const std::filesystem::path &own, const sizes &sizes)
{
    std::vector<weight> vectors;

    for (uint64_t i = 0; i < sizes.layers; i++) {
        for (const char *projection : {"q_proj", "v_proj"}) {
            std::string name = "base_model.model." + module_name(i, projection);
            uint64_t out = *projection == 'q' ? sizes.wide : sizes.narrow;
            vectors.push_back(weight_make(name + ".vera_lambda_b", DTYPE_F32, {out}, 0.1f));
            vectors.push_back(weight_make(name + ".vera_lambda_d", DTYPE_F32, {sizes.rank}, 0.1f));
        }
    }
    std::filesystem::create_directory(own);
    weights_write(own / "adapter_model.safetensors", vectors);
    text_write(
        own / "adapter_config.json",
        "{\"peft_type\": \"VERA\", \"r\": " + std::to_string(sizes.rank) +
            ", \"projection_prng_key\": 0, \"save_projection\": false, \"target_modules\": "
            "[\"q_proj\", \"v_proj\"]}"
    );
}

static void files_make(const std::vector<weight> &weights, const sizes &sizes)
{
    const char *temporary = getenv("TMPDIR");
    std::string name = std::string(temporary ? temporary : "/var/tmp") + "/vera-live-XXXXXX";

    if (!mkdtemp(&name[0])) {
        perror("gpu: a temporary folder");
        exit(1);
    }
    folder = name;
    atexit(folder_remove);
    std::filesystem::create_directory(folder / "base");
    weights_write(folder / "base" / "model.safetensors", weights);
    text_write(folder / "base" / "config.json", "{\"model_type\": \"llama\"}");
    for (int i = 0; i < ROWS; i++)
        adapter_make(folder / std::to_string(i), sizes);
}

/* ---- Swaps ---- */

/* What one contestant takes: all of a swap from an adapter's folder, and of that the writing. */
static void swap_run(
    const char *name, const std::vector<weight> &weights, const vera_options *options, double least
)
{
    std::vector<double> whole, stopped;
    cudaStream_t stream;
    vera_state state = {};

    state.size = sizeof(state);
    MUST(cudaStreamCreateWithFlags(&stream, cudaStreamNonBlocking));
    device_weights on_device = weights_place(weights, LAYOUT_DENSE);
    struct vera_model *model = model_on_device(
        on_device, weights, options, VERA_LAYER_LINEAR, stream
    );
    for (int run = 0; run <= RUNS; run++) {
        double begin = now();
        VERA(vera_swap_directory(model, (folder / std::to_string(run % 2)).c_str(), &state));
        if (run > 0) {
            whole.push_back(now() - begin);
            stopped.push_back(state.stopped);
        }
    }
    printf(
        "  %-34s %9.3f ms %9.3f ms %9.3f ms %6.2fx\n", name, median(whole) * 1e3,
        median(stopped) * 1e3, least * 1e3, median(stopped) / least
    );
    vera_model_free(model);
    weights_free(&on_device);
    MUST(cudaStreamDestroy(stream));
}

static void
swaps_run(const std::vector<weight> &weights, const sizes &sizes, const struct limits *limits)
{
    const std::string base = (folder / "base").string();
    vera_options options = {};
    double elements = 0;

    for (const weight &one : weights)
        elements += (double)(one.rows() * one.columns());
    double fmas = elements * (double)sizes.rank, bytes = 2 * elements;
    double kept = std::max(2 * bytes / limits->memory, fmas / limits->fma);
    double brought = std::max(bytes / limits->to_device, kept);
    printf(
        "\nswap, %u layers of q_proj and v_proj: %.1f MB of weights, %.3g multiply-adds; medians "
        "of %d\n  %-34s %12s %12s %12s %7s\n",
        (unsigned)sizes.layers, bytes * 1e-6, fmas, RUNS, "weights without an adapter", "swap",
        "stopped", "least", "ratio"
    );
    options.size = sizeof(options);
    swap_run("a copy kept on the device", weights, &options, kept);
    options.base = base.c_str();
    swap_run("the base's files", weights, &options, brought);
    options.kept_bytes = UINT64_MAX;
    swap_run("the base's files, kept", weights, &options, kept);
}

/* ---- Batches ---- */

static struct vera_registry *registry_make(const sizes &sizes, std::vector<int32_t> *slots)
{
    std::vector<std::string> names;
    std::vector<const char *> pointers;
    std::vector<uint64_t> in, out;
    struct vera_registry *registry;
    vera_registry_options options = {};
    uint64_t vectors = 0;

    for (uint64_t i = 0; i < sizes.layers; i++) {
        for (const char *projection : {"q_proj", "v_proj"}) {
            names.push_back(module_name(i, projection));
            in.push_back(sizes.wide);
            out.push_back(*projection == 'q' ? sizes.wide : sizes.narrow);
            vectors += out.back() + sizes.rank;
        }
    }
    for (const std::string &name : names)
        pointers.push_back(name.c_str());
    std::string first = (folder / "0").string();
    options.size = sizeof(options);
    options.names = pointers.data();
    options.in = in.data();
    options.out = out.data();
    options.modules = names.size();
    options.directory = first.c_str();
    options.budget_bytes = 2 * sizeof(float) * (ROWS * vectors + 2 * sizes.wide * sizes.rank);
    options.base_dtype = VERA_BF16;
    options.memory = VERA_CUDA;
    VERA(vera_registry_new(&registry, &options));
    for (int i = 0; i < ROWS; i++) {
        int32_t slot;
        std::string path = (folder / std::to_string(i)).string();
        VERA(vera_registry_add_directory(registry, path.c_str(), 0, nullptr, &slot));
        slots->push_back(slot);
    }
    return registry;
}

/* ROWS rows through all modules, out of a graph: seconds for each module. */
static double batches_run(
    struct vera_registry *registry, const sizes &sizes, const int32_t *slots, uint8_t *x, uint8_t *y
)
{
    cudaGraphExec_t executable;
    cudaGraph_t graph;
    cudaStream_t stream;
    vera_batch batch = {};

    batch.size = sizeof(batch);
    batch.slots = slots;
    batch.slots_memory = VERA_CUDA;
    batch.x = x;
    batch.y = y;
    batch.rows = ROWS;
    batch.dtype = VERA_BF16;
    MUST(cudaStreamCreateWithFlags(&stream, cudaStreamNonBlocking));
    batch.stream = stream;
    VERA(vera_registry_forward(registry, 0, &batch)); /* loads the kernels */
    MUST(cudaStreamSynchronize(stream));
    MUST(cudaStreamBeginCapture(stream, cudaStreamCaptureModeGlobal));
    for (uint64_t i = 0; i < 2 * sizes.layers; i++)
        VERA(vera_registry_forward(registry, i, &batch));
    MUST(cudaStreamEndCapture(stream, &graph));
    MUST(cudaGraphInstantiate(&executable, graph, 0));
    double seconds = timed(stream, [&]() { MUST(cudaGraphLaunch(executable, stream)); });
    MUST(cudaGraphExecDestroy(executable));
    MUST(cudaGraphDestroy(graph));
    MUST(cudaStreamDestroy(stream));
    return seconds / (double)(2 * sizes.layers);
}

static void batches_measure(const sizes &sizes, const struct limits *limits)
{
    std::vector<int32_t> slots;
    struct vera_registry *registry = registry_make(sizes, &slots);
    const size_t bytes = ROWS * sizes.wide * 2;
    int32_t *mixed, *one;
    uint8_t *x, *y;

    MUST(cudaMalloc(&x, bytes));
    MUST(cudaMalloc(&y, bytes));
    MUST(cudaMalloc(&mixed, ROWS * sizeof(int32_t)));
    MUST(cudaMalloc(&one, ROWS * sizeof(int32_t)));
    MUST(cudaMemset(x, 0, bytes));
    MUST(cudaMemset(y, 0, bytes));
    MUST(cudaMemcpy(mixed, slots.data(), ROWS * sizeof(int32_t), cudaMemcpyHostToDevice));
    std::vector<int32_t> same(ROWS, slots[0]);
    MUST(cudaMemcpy(one, same.data(), ROWS * sizeof(int32_t), cudaMemcpyHostToDevice));
    MUST(cudaDeviceSynchronize());

    /* Of a module, in the mean: A and B, x, and y in and out. */
    double out = ((double)sizes.wide + (double)sizes.narrow) / 2;
    double matrices = (double)sizes.rank * ((double)sizes.wide + out);
    double moved = 4 * matrices + 2.0 * ROWS * ((double)sizes.wide + 2 * out);
    double least = std::max(moved / limits->memory, ROWS * matrices / limits->fma);
    double with_many = batches_run(registry, sizes, mixed, x, y);
    double with_one = batches_run(registry, sizes, one, x, y);
    printf(
        "\nbatches of %d rows, bf16, for each module, out of a graph; medians of %d\n"
        "  one adapter                        %9.1f us %9.1f us least\n"
        "  an adapter for each row            %9.1f us  %.2f of one adapter's\n",
        ROWS, RUNS, with_one * 1e6, least * 1e6, with_many * 1e6, with_many / with_one
    );
    for (int32_t slot : slots)
        VERA(vera_registry_drop(registry, slot));
    vera_registry_free(registry);
    for (void *memory : {(void *)x, (void *)y, (void *)mixed, (void *)one})
        MUST(cudaFree(memory));
}

int main(int argc, char **argv)
{
    uint64_t scale = argc > 1 ? strtoull(argv[1], NULL, 10) : 1;
    uint64_t layers = argc > 2 ? strtoull(argv[2], NULL, 10) : 4;
    cudaStream_t stream;

    if (scale < 1 || scale > 64 || layers < 1) {
        fprintf(stderr, "usage: bench_live [SCALE [LAYERS]]\n");
        return 2;
    }
    const sizes sizes = {4096 / scale, 1024 / scale, 256 / scale, layers};
    cudaDeviceProp properties = device_first();
    MUST(cudaStreamCreateWithFlags(&stream, cudaStreamNonBlocking));
    struct limits limits = limits_measure(&properties, stream, scale);
    MUST(cudaStreamDestroy(stream));
    limits_print(&properties, &limits);
    if (scale > 1)
        printf("  (sizes divided by %u: to see that it works, not to quote)\n", (unsigned)scale);
    std::vector<weight> weights = model_make(sizes);
    files_make(weights, sizes);
    swaps_run(weights, sizes, &limits);
    batches_measure(sizes, &limits);
    return 0;
}
