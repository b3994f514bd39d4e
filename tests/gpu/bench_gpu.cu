/*
 * What the kernels of apply/cuda take on this device, beside what the device can do: its limits are
 * measured in the same run, by a copy, by multiply-adds that need no memory, and by copies from and
 * to pinned memory, so that a kernel's time can be compared with the least that it could be.
 *
 * Also how far fast mode is from exact mode, and whether both are right. An argument N scales
 * everything down by N, to see that it works where time is short.
 */
#include "tests/gpu/measured.h"

#include "apply/cuda/kernels.h"

/* Bits of `count` elements that are numbers below 1 in size. */
__global__ void fill(uint8_t *to, uint64_t count, uint32_t dtype, uint32_t seed)
{
    uint64_t step = (uint64_t)gridDim.x * blockDim.x;

    for (uint64_t i = (uint64_t)blockIdx.x * blockDim.x + threadIdx.x; i < count; i += step) {
        uint32_t x = (uint32_t)i * 2654435761u + seed;
        x = (x ^ x >> 15) * 2246822519u;
        x ^= x >> 13;
        float value = __fmaf_rn((float)(x >> 8), 1.0f / 8388608.0f, -1.0f);
        if (dtype == MERGE_F32)
            ((float *)(void *)to)[i] = value;
        else
            ((uint16_t *)(void *)to)[i] = (uint16_t)(__float_as_uint(value) >> 16);
    }
}

/* ---- The kernels ---- */

struct bench_case {
    const char *name;
    enum merge_dtype dtype;
    uint64_t out, in, rank;
    uint32_t count; /* of tensors in one launch */
};

/* A launch: its tensors one after the other in one piece of memory, one adapter. */
struct bench_launch {
    struct merge_grid grid;
    struct merge_tensor *tensors; /* on the device */
    struct merge_term *terms;
    uint8_t *weights;
    float *a, *b, *d, *factor;
    size_t bytes;
    uint32_t count;
};

static float *values(uint64_t count, uint32_t seed)
{
    cudaLaunchConfig_t config = shape(256, 256, nullptr);
    float *out;

    MUST(cudaMalloc(&out, count * sizeof(*out)));
    MUST(cudaLaunchKernelEx(&config, fill, (uint8_t *)(void *)out, count, (uint32_t)MERGE_F32, seed)
    );
    return out;
}

static void weights_fill(const struct bench_launch *launch, enum merge_dtype dtype, bool zero)
{
    cudaLaunchConfig_t config = shape(256, 256, nullptr);
    uint64_t count = launch->bytes / (dtype == MERGE_F32 ? 4 : 2);

    if (zero)
        MUST(cudaMemset(launch->weights, 0, launch->bytes));
    else
        MUST(cudaLaunchKernelEx(&config, fill, launch->weights, count, (uint32_t)dtype, 7u));
    MUST(cudaDeviceSynchronize());
}

static struct bench_launch launch_make(const struct bench_case *given)
{
    size_t each = (size_t)(given->out * given->in * (given->dtype == MERGE_F32 ? 4 : 2));
    std::vector<merge_tensor> tensors(given->count);
    struct bench_launch launch = {};

    launch.count = given->count;
    launch.bytes = each * given->count;
    launch.a = values(given->rank * given->in, 1);
    launch.b = values(given->out * given->rank, 2);
    launch.d = values(given->rank, 3);
    launch.factor = values(given->out, 4);
    MUST(cudaMalloc(&launch.weights, launch.bytes));
    for (uint32_t i = 0; i < given->count; i++) {
        struct merge_tensor *tensor = &tensors[i];
        *tensor = {};
        tensor->to = launch.weights + i * each;
        tensor->from = tensor->to;
        tensor->rows = given->out;
        tensor->cols = tensor->from_stride = tensor->to_stride = given->in;
        tensor->from_step = tensor->to_step = 1;
        tensor->dtype = given->dtype;
        tensor->term_count = 1;
    }
    struct merge_term term = {launch.a, launch.b, launch.d, launch.factor, given->in, given->rank};
    if (!merge_grid_make(&launch.grid, tensors.data(), given->count))
        exit(1);
    MUST(cudaMalloc(&launch.tensors, sizeof(tensors[0]) * given->count));
    MUST(cudaMalloc(&launch.terms, sizeof(term)));
    MUST(cudaMemcpy(
        launch.tensors, tensors.data(), sizeof(tensors[0]) * given->count, cudaMemcpyHostToDevice
    ));
    MUST(cudaMemcpy(launch.terms, &term, sizeof(term), cudaMemcpyHostToDevice));
    weights_fill(&launch, given->dtype, false);
    return launch;
}

static void launch_free(struct bench_launch *launch)
{
    void *const all[] = {launch->tensors, launch->terms, launch->weights, launch->a,
                         launch->b,       launch->d,     launch->factor};

    for (void *memory : all)
        MUST(cudaFree(memory));
}

static cudaError_t launch_run(const struct bench_launch *launch, bool fast, cudaStream_t stream)
{
    auto run = fast ? merge_fast_launch : merge_exact_launch;

    return run(&launch->grid, launch->tensors, launch->count, launch->terms, stream);
}

static void
case_run(const struct bench_case *given, const struct limits *limits, cudaStream_t stream)
{
    struct bench_launch launch = launch_make(given);
    double fmas = (double)given->out * (double)given->in * (double)given->rank * given->count;
    double bytes = 2.0 * (double)launch.bytes;

    for (bool fast : {false, true}) {
        double seconds = timed(stream, [&]() { MUST(launch_run(&launch, fast, stream)); });
        double least = bytes / limits->memory;
        if (!fast && fmas / limits->fma > least)
            least = fmas / limits->fma;
        printf(
            "  %-34s %-5s %9.1f us %8.2f TFMA/s %8.1f GB/s   %9.1f us %6.2fx\n", given->name,
            fast ? "fast" : "exact", seconds * 1e6, fmas / seconds * 1e-12, bytes / seconds * 1e-9,
            least * 1e6, seconds / least
        );
    }
    launch_free(&launch);
}

/* ---- Are they right ---- */

static std::vector<float> on_host(const float *from, uint64_t count)
{
    std::vector<float> out(count);

    MUST(cudaMemcpy(out.data(), from, count * sizeof(float), cudaMemcpyDeviceToHost));
    return out;
}

/* What a launch is made of, on the host. */
struct bench_numbers {
    std::vector<float> a, b, d, factor;
};

/* One element of the change: the chain of exact mode, its true value, the sum of its sizes. */
struct bench_element {
    float chain;
    double value, size;
};

static struct bench_element element_of(
    const struct bench_numbers *numbers, const struct bench_case *given, uint64_t row, uint64_t col
)
{
    struct bench_element out = {};
    float factor = numbers->factor[row];

    for (uint64_t k = 0; k < given->rank; k++) {
        float a = numbers->a[k * given->in + col], d = numbers->d[k];
        float b = numbers->b[row * given->rank + k], scaled = d * a;
        double term = (double)factor * (double)b * (double)d * (double)a;
        out.chain = fmaf(b, scaled, out.chain);
        out.value += term;
        out.size += term < 0 ? -term : term;
    }
    out.chain = fmaf(factor, out.chain, 0.0f);
    return out;
}

/* dW alone, onto zeros, of some elements: exact mode's bits, and fast mode within the bound that
   merge_fast.cu states for float32 weights. */
static bool case_check(const struct bench_case *given)
{
    struct bench_launch launch = launch_make(given);
    struct bench_numbers numbers = {
        on_host(launch.a, given->rank * given->in), on_host(launch.b, given->out * given->rank),
        on_host(launch.d, given->rank), on_host(launch.factor, given->out)};
    const double bound = 2.01 / 2048 + (double)given->rank / 4194304;
    unsigned wrong = 0;
    double most = 0;

    for (int fast = 0; fast < 2; fast++) {
        weights_fill(&launch, MERGE_F32, true);
        MUST(launch_run(&launch, fast, nullptr));
        MUST(cudaDeviceSynchronize());
        std::vector<float> made = on_host((float *)(void *)launch.weights, given->out * given->in);
        for (uint64_t i = 0; i < 4096; i++) {
            uint64_t at = i * 2654435761u % (given->out * given->in);
            struct bench_element want = element_of(&numbers, given, at / given->in, at % given->in);
            double off = (double)made[at] - want.value, value = (double)made[at];
            off = off < 0 ? -off : off;
            double most_off = bound * want.size + (value < 0 ? -value : value) / 16777216;
            if (fast) {
                wrong += !(off <= most_off);
                most = std::max(most, want.size > 0 ? off / want.size : 0);
            } else {
                wrong += memcmp(&made[at], &want.chain, sizeof(float)) != 0;
            }
        }
    }
    printf(
        "\n%s 4096 elements of %s: exact mode's bits; fast mode within %.3g S of the true value "
        "(bound: %.3g S)\n",
        wrong ? "WRONG" : "ok   ", given->name, most, bound
    );
    launch_free(&launch);
    return wrong == 0;
}

/* dW alone, by both: onto zeros. */
static void distance_print(const struct bench_case *given)
{
    struct bench_launch launch = launch_make(given);
    std::vector<float> both[2];
    double difference = 0, norm = 0, most = 0;

    for (int fast = 0; fast < 2; fast++) {
        both[fast].resize(launch.bytes / sizeof(float));
        weights_fill(&launch, MERGE_F32, true);
        MUST(launch_run(&launch, fast, nullptr));
        MUST(cudaDeviceSynchronize());
        MUST(cudaMemcpy(both[fast].data(), launch.weights, launch.bytes, cudaMemcpyDeviceToHost));
    }
    for (size_t i = 0; i < both[0].size(); i++) {
        double off = (double)both[1][i] - (double)both[0][i];
        difference += off * off;
        norm += (double)both[0][i] * (double)both[0][i];
        most = std::max(most, off < 0 ? -off : off);
    }
    printf(
        "\nfast beside exact, the change alone, %s: ||difference|| / ||change|| = %.3g, largest "
        "difference %.3g of a mean of %.3g\n",
        given->name, norm > 0 ? __builtin_sqrt(difference / norm) : 0.0, most,
        __builtin_sqrt(norm / (double)both[0].size())
    );
    launch_free(&launch);
}

int main(int argc, char **argv)
{
    uint64_t scale = argc > 1 ? strtoull(argv[1], NULL, 10) : 1;
    const uint64_t wide = 4096 / scale, narrow = 1024 / scale, rank = 256 / scale;
    const struct bench_case cases[] = {
        {"q_proj, bf16, rank 256", MERGE_BF16, wide, wide, rank, 1},
        {"v_proj, bf16, rank 256", MERGE_BF16, narrow, wide, rank, 1},
        {"8 q_proj in one launch, bf16", MERGE_BF16, wide, wide, rank, 8},
        {"a block of 4 MiB, bf16", MERGE_BF16, wide / 8, wide, rank, 1},
        {"q_proj, float32, rank 256", MERGE_F32, wide, wide, rank, 1},
        {"q_proj, bf16, rank 1024", MERGE_BF16, wide, wide, 4 * rank, 1},
        {"300 modules of 64 x 64, float32", MERGE_F32, 64, 64, 16, (uint32_t)(300 / scale)},
    };
    cudaStream_t stream;

    if (scale < 1 || scale > 64) {
        fprintf(stderr, "usage: bench_gpu [SCALE]\n");
        return 2;
    }
    cudaDeviceProp properties = device_first();
    MUST(cudaStreamCreateWithFlags(&stream, cudaStreamNonBlocking));
    struct limits limits = limits_measure(&properties, stream, scale);
    limits_print(&properties, &limits);
    printf(
        "\nmerging, on the device: median of %d; least: what the limits allow (fast: memory "
        "alone)\n  %-40s %12s %15s %13s   %12s %7s\n",
        RUNS, "", "time", "chains", "W in, W out", "least", "ratio"
    );
    if (scale > 1)
        printf("  (sizes divided by %u: to see that it works, not to quote)\n", (unsigned)scale);
    for (const struct bench_case &one : cases)
        case_run(&one, &limits, stream);
    distance_print(&cases[4]);
    bool right = case_check(&cases[4]);
    MUST(cudaStreamDestroy(stream));
    return right ? 0 : 1;
}
