/*
 * Swaps of real MiniLM adapters (36 modules, rank 256) in a running model on the processor, beside
 * the exact kernel alone on the same weights: medians of wall time, in turns, with one thread and
 * with one for each core. Then memory: the most that the process ever had, after the first hundred
 * swaps and after the last. The weights are random, of the shapes that the adapters were made for.
 *
 *   bench_swap FIXTURES [RUNS [SWAPS]]
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <time.h>

#include "apply/kernel.h"
#include "apply/live.h"
#include "format/crew.h"
#include "format/file.h"

#define ADAPTERS    2
#define MODULES_MAX 64
#define RUNS_MAX    501
#define WARM_UP     100

static const char *const names[ADAPTERS] = {"minilm/step-320", "minilm/step-160"};

struct weight {
    char name[160];
    uint64_t out, in;
    float *live, *copy;
};

struct bench {
    struct snapshot snapshots[ADAPTERS];
    struct buf bundles[ADAPTERS];
    struct loaded_adapter loaded;
    struct basis basis;
    struct weight weights[MODULES_MAX];
    size_t count;
    float classifier[3 * 384], bias[3];
    float *numbers; /* any d and b */
};

static void check(int err)
{
    if (err == 0)
        return;
    fprintf(stderr, "bench_swap: %s\n", error_message());
    exit(1);
}

static double seconds_now(void)
{
    struct timespec now;

    clock_gettime(CLOCK_MONOTONIC, &now);
    return (double)now.tv_sec + 1e-9 * (double)now.tv_nsec;
}

static float *random_values(size_t count)
{
    float *values = malloc(count * sizeof(*values));

    if (!values)
        exit(1);
    for (size_t i = 0; i < count; i++)
        values[i] = (float)rand() / (float)RAND_MAX - 0.5f;
    return values;
}

static void adapters_open(struct bench *bench, const char *fixtures)
{
    for (size_t i = 0; i < ADAPTERS; i++) {
        AUTO_ADAPTER_FILES(files);
        char dir[512];
        snprintf(dir, sizeof(dir), "%s/adapter/%s", fixtures, names[i]);
        check(adapter_files_read(&files, dir, false, NULL));
        check(snapshot_encode(&bench->snapshots[i], &files, NULL));
        check(bundle_encode(&bench->bundles[i], &bench->snapshots[i], false));
    }
    check(adapter_load(&bench->loaded, &bench->snapshots[0]));
}

/* MiniLM: 384 features, 1536 between the two dense layers of a block. */
static void weights_make(struct bench *bench)
{
    const struct adapter *adapter = &bench->loaded.adapter;

    for (size_t i = 0; i < adapter->module_count && i < MODULES_MAX; i++) {
        struct weight *weight = &bench->weights[bench->count++];
        const char *name = adapter->modules[i].name;
        bool narrows = strstr(name, "output.dense") && !strstr(name, "attention.output");
        snprintf(weight->name, sizeof(weight->name), "%s.weight", name);
        weight->out = adapter->modules[i].out;
        weight->in = narrows ? 1536 : 384;
        weight->live = random_values((size_t)(weight->out * weight->in));
        weight->copy = random_values((size_t)(weight->out * weight->in));
    }
    check(basis_load(&bench->basis, &bench->loaded, 1536, 1536, DTYPE_F32));
    bench->numbers = random_values(4096);
}

static void weight_register(
    struct live *live, const char *name, unsigned dims, uint64_t rows, uint64_t columns, float *data
)
{
    const struct live_place place = {
        .name = name,
        .dtype = DTYPE_F32,
        .lies = dims == 2 ? MODEL_LIES_LINEAR : MODEL_LIES_UNSAID,
        .dims = dims,
        .shape = {rows, columns},
        .data = data,
    };

    check(live_register(live, &place));
}

static struct live *model_make(struct bench *bench, unsigned threads)
{
    const struct live_options options = {.threads = threads};
    struct live *live = NULL;

    check(live_new(&live, &options));
    for (size_t i = 0; i < bench->count; i++) {
        struct weight *weight = &bench->weights[i];
        weight_register(live, weight->name, 2, weight->out, weight->in, weight->live);
    }
    weight_register(live, "classifier.weight", 2, 3, 384, bench->classifier);
    weight_register(live, "classifier.bias", 1, 3, 0, bench->bias);
    check(live_seal(live));
    return live;
}

static double kernel_run(const struct bench *bench, unsigned threads)
{
    double begin = seconds_now();

    for (size_t i = 0; i < bench->count; i++) {
        const struct weight *weight = &bench->weights[i];
        const struct kernel_term term = {
            .a = bench->basis.a,
            .b_matrix = bench->basis.b,
            .d = bench->numbers,
            .b = bench->numbers + 1024,
            .a_stride = bench->basis.in,
            .rank = bench->basis.rank,
            .weight = 1,
        };
        check(kernel_merge(
            (uint8_t *)weight->copy, DTYPE_F32, weight->out, weight->in, false, 0, weight->out,
            &term, 1, threads
        ));
    }
    return seconds_now() - begin;
}

static double swap_run(struct bench *bench, struct live *live, size_t number, double *stopped)
{
    struct live_state state;
    double begin = seconds_now();

    check(live_swap_bundle(&state, live, buf_bytes(&bench->bundles[number % ADAPTERS])));
    *stopped = state.stopped;
    return seconds_now() - begin;
}

static int compare(const void *a, const void *b)
{
    const double *x = a, *y = b;

    return (*x > *y) - (*x < *y);
}

static double median(double *values, int count)
{
    qsort(values, (size_t)count, sizeof(*values), compare);
    return values[count / 2];
}

static void times(struct bench *bench, unsigned threads, int runs)
{
    static double kernel[RUNS_MAX], swap[RUNS_MAX], stopped[RUNS_MAX];
    struct live *live = model_make(bench, threads);
    double first, nothing = 0;

    first = swap_run(bench, live, 1, &nothing);
    for (int i = 0; i < runs; i++) {
        kernel[i] = kernel_run(bench, threads);
        swap[i] = swap_run(bench, live, (size_t)i, &stopped[i]);
    }
    double alone = median(kernel, runs), whole = median(swap, runs);
    printf(
        "%u thread%s: kernel alone %.1f ms, swap %.1f ms (%.2f times), of these the weights are "
        "held for %.1f ms; the first swap, with A and B drawn, %.1f ms\n",
        threads, threads == 1 ? "" : "s", 1e3 * alone, 1e3 * whole, whole / alone,
        1e3 * median(stopped, runs), 1e3 * first
    );
    check(live_detach(NULL, live));
    live_free(live);
}

static long peak_kib(void)
{
    struct rusage usage;

    getrusage(RUSAGE_SELF, &usage);
    return usage.ru_maxrss;
}

static void memory(struct bench *bench, long swaps)
{
    struct live *live = model_make(bench, crew_size(SIZE_MAX));
    long warm = 0;
    double stopped, begin = seconds_now();

    for (long i = 0; i < swaps; i++) {
        swap_run(bench, live, (size_t)i, &stopped);
        if (i == WARM_UP)
            warm = peak_kib();
    }
    printf(
        "%ld swaps in %.0f s: the most memory after %d of them %ld KiB, after all %ld KiB\n", swaps,
        seconds_now() - begin, WARM_UP, warm, peak_kib()
    );
    live_free(live);
}

int main(int argc, char **argv)
{
    static struct bench bench;
    int runs = argc > 2 ? (int)strtol(argv[2], NULL, 10) : 21;
    long swaps = argc > 3 ? strtol(argv[3], NULL, 10) : 10000;

    if (argc < 2 || runs < 1 || runs > RUNS_MAX || swaps <= WARM_UP) {
        fputs("usage: bench_swap FIXTURES [RUNS [SWAPS]]\n", stderr);
        return 2;
    }
    adapters_open(&bench, argv[1]);
    weights_make(&bench);
    printf(
        "%zu modules, %s, bundles of %zu bytes\n", bench.count, kernel_name(), bench.bundles[0].len
    );
    times(&bench, 1, runs);
    if (crew_size(SIZE_MAX) > 1)
        times(&bench, crew_size(SIZE_MAX), runs);
    memory(&bench, swaps);
    return 0;
}
