/*
 * 20,000 MiniLM adapters (36 modules, rank 256, b and d in float32) in one registry: how long it
 * takes to fill, the memory, and batches of 32 rows through all modules whose rows use 32 of them
 * at random, beside the same batches with one adapter for all rows. Adapters: those of the fixtures
 * with other numbers. Medians of the thread's processor time, in turns.
 *
 *   bench_batch FIXTURES [ADAPTERS [RUNS]]     at least 2000 adapters
 */
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <time.h>

#include "apply/registry.h"
#include "format/cpu.h"
#include "format/file.h"
#include "format/limits.h"

#define MODULES_MAX 64
#define ROWS        32
#define RUNS_MAX    1001

struct bench {
    struct adapter_files files; /* of one adapter */
    struct buf *tensors;        /* its adapter_model.safetensors */
    struct buf original;        /* as it was */
    uint64_t header_bytes;
    struct registry_module modules[MODULES_MAX];
    size_t module_count;
    uint64_t vector_bytes; /* b and d of one adapter */
    struct registry *registry;
    struct digest *ids;
    uint32_t adapters;
    float *x, *y;
};

static void check(int err)
{
    if (err == 0)
        return;
    fprintf(stderr, "bench_batch: %s\n", error_message());
    exit(1);
}

static void *memory(size_t count, size_t size)
{
    void *array = array_new(count, size);

    if (!array)
        check(E_NOMEM);
    return array;
}

static double seconds_now(clockid_t clock)
{
    struct timespec now;

    clock_gettime(clock, &now);
    return (double)now.tv_sec + 1e-9 * (double)now.tv_nsec;
}

static int double_compare(const void *a, const void *b)
{
    double x = *(const double *)a, y = *(const double *)b;

    return (x > y) - (x < y);
}

static double median(double *values, size_t count)
{
    qsort(values, count, sizeof(*values), double_compare);
    return values[count / 2];
}

/* The most memory that this process ever had. */
static uint64_t resident_bytes(void)
{
    struct rusage usage;

    getrusage(RUSAGE_SELF, &usage);
    return (uint64_t)usage.ru_maxrss * KIB;
}

/* The adapter with other numbers: as they are written, times 1 + at most a hundredth. */
static void numbers_change(struct bench *bench, uint32_t number)
{
    uint8_t *data = bench->tensors->data + bench->header_bytes;
    size_t count = (bench->tensors->len - (size_t)bench->header_bytes) / sizeof(float);

    srand(number);
    for (size_t i = 0; i < count; i += 16) {
        float value;
        memcpy(&value, bench->original.data + bench->header_bytes + 4 * i, sizeof(value));
        value *= 1 + 0.01f * (float)rand() / (float)RAND_MAX;
        memcpy(data + 4 * i, &value, sizeof(value));
    }
}

static void modules_make(struct bench *bench, const struct adapter *adapter)
{
    bench->module_count = adapter->module_count;
    for (size_t i = 0; i < adapter->module_count && i < MODULES_MAX; i++) {
        const struct adapter_module *module = &adapter->modules[i];
        bool narrows = strstr(module->name, "output.dense") &&
                       !strstr(module->name, "attention.output");
        char *name = bytes_dup(text_bytes(module->name));
        bench->modules[i] = (struct registry_module){name, narrows ? 1536 : 384, module->out};
        bench->vector_bytes += 4 * (adapter->config.rank + module->out);
    }
}

static void bench_open(struct bench *bench, const char *fixtures, uint32_t adapters)
{
    AUTO_SNAPSHOT(snapshot);
    AUTO_LOADED_ADAPTER(loaded);
    AUTO_BASIS(basis);
    char dir[512];

    snprintf(dir, sizeof(dir), "%s/adapter/minilm/step-320", fixtures);
    check(adapter_files_read(&bench->files, dir, false, NULL));
    for (size_t i = 0; i < bench->files.count; i++) {
        if (strcmp(bench->files.files[i].path, PEFT_MODEL) == 0)
            bench->tensors = &bench->files.files[i].data;
    }
    check(buf_append(&bench->original, bench->tensors->data, bench->tensors->len));
    check(snapshot_encode(&snapshot, &bench->files, NULL));
    check(adapter_load(&loaded, &snapshot));
    bench->header_bytes = loaded.adapter.layout.header_bytes;
    modules_make(bench, &loaded.adapter);
    check(basis_load(&basis, &loaded, 1536, 1536, DTYPE_F32));
    const struct registry_options options = {
        .modules = bench->modules,
        .module_count = bench->module_count,
        .basis = &basis,
        .base_dtype = DTYPE_F32,
        .vectors = DTYPE_F32,
        .budget_bytes = adapters * bench->vector_bytes * 105 / 100,
    };
    check(registry_new(&bench->registry, &options));
    bench->adapters = adapters;
    bench->ids = memory(adapters, sizeof(*bench->ids));
    bench->x = memory(ROWS * 1536, sizeof(*bench->x));
    bench->y = memory(ROWS * 1536, sizeof(*bench->y));
    for (size_t i = 0; i < ROWS * 1536; i++)
        bench->x[i] = (float)rand() / (float)RAND_MAX - 0.5f;
}

static void fill(struct bench *bench)
{
    struct registry_stats stats;
    uint64_t before = resident_bytes();
    double adding = 0;

    for (uint32_t n = 0; n < bench->adapters; n++) {
        AUTO_SNAPSHOT(snapshot);
        AUTO_LOADED_ADAPTER(loaded);
        numbers_change(bench, n + 1);
        check(snapshot_encode(&snapshot, &bench->files, NULL));
        check(adapter_load(&loaded, &snapshot));
        double begin = seconds_now(CLOCK_MONOTONIC);
        check(registry_add(NULL, bench->registry, &loaded, REGISTRY_VECTORS_ONLY));
        adding += seconds_now(CLOCK_MONOTONIC) - begin;
        bench->ids[n] = snapshot.id;
    }
    registry_stats(&stats, bench->registry);
    double vectors = (double)(bench->adapters * bench->vector_bytes);
    printf(
        "%" PRIu64 " adapters of %zu modules, none evicted of room for %" PRIu64
        ": added in %.1f s\n",
        stats.adapters, bench->module_count, stats.capacity, adding
    );
    printf(
        "  b and d %.3f GB; the registry %.3f GB (%.4f of it); the process grew by %.3f GB "
        "(%.4f)\n",
        vectors / 1e9, (double)stats.bytes / 1e9, (double)stats.bytes / vectors,
        (double)(resident_bytes() - before) / 1e9, (double)(resident_bytes() - before) / vectors
    );
    if (stats.adapters != bench->adapters || stats.evicted > 0)
        exit(1);
}

/* One batch through all modules: `kinds` different adapters. */
static double serve(struct bench *bench, uint32_t kinds, unsigned threads)
{
    int32_t slots[ROWS];

    for (uint32_t i = 0; i < ROWS; i++) {
        uint32_t number = (uint32_t)rand() % bench->adapters;
        if (i < kinds)
            check(registry_hold(&slots[i], bench->registry, &bench->ids[number]));
        else
            slots[i] = slots[i % kinds];
    }
    clockid_t clock = threads > 1 ? CLOCK_MONOTONIC : CLOCK_THREAD_CPUTIME_ID;
    double begin = seconds_now(clock);
    const struct registry_rows rows = {
        .count = ROWS,
        .slots = slots,
        .dtype = DTYPE_F32,
        .x = bench->x,
        .y = bench->y,
    };
    for (size_t i = 0; i < bench->module_count; i++)
        check(registry_forward(bench->registry, i, &rows, threads));
    double seconds = seconds_now(clock) - begin;
    for (uint32_t i = 0; i < kinds; i++)
        check(registry_drop(bench->registry, slots[i]));
    return seconds;
}

static void serve_all(struct bench *bench, size_t runs)
{
    static const uint32_t kinds[] = {1, ROWS};
    static double times[2][RUNS_MAX];

    for (unsigned threads = 1; threads <= 2; threads++) {
        for (size_t i = 0; i <= runs; i++) {
            for (size_t k = 0; k < 2; k++)
                times[k][i ? i - 1 : 0] = serve(bench, kinds[(k + i) % 2], threads);
            if (i % 2 == 1) { /* the other one came first */
                double swap = times[0][i - 1];
                times[0][i - 1] = times[1][i - 1];
                times[1][i - 1] = swap;
            }
        }
        double one = median(times[0], runs), many = median(times[1], runs);
        printf(
            "%u thread%s (%s): a batch of %d rows through %zu modules\n"
            "  one adapter %8.3f ms   %d adapters %8.3f ms   ratio %.3f  goal 1.3: %s\n",
            threads, threads > 1 ? "s" : "", threads > 1 ? "wall time" : "processor time", ROWS,
            bench->module_count, one * 1e3, ROWS, many * 1e3, many / one,
            many / one <= 1.3 ? "reached" : "MISSED"
        );
    }
}

int main(int argc, char **argv)
{
    static struct bench bench;
    uint32_t adapters = argc > 2 ? (uint32_t)strtoul(argv[2], NULL, 10) : 20000;
    size_t runs = argc > 3 ? (size_t)strtoul(argv[3], NULL, 10) : 101;

    if (argc < 2 || adapters < 2000 || runs < 1 || runs > RUNS_MAX) {
        fputs("usage: bench_batch FIXTURES [ADAPTERS [RUNS]]\n", stderr);
        return 2;
    }
    bench_open(&bench, argv[1], adapters);
    printf("level %s\n", cpu_level_name(cpu_level()));
    fill(&bench);
    serve_all(&bench, runs);
    registry_free(bench.registry);
    buf_release(&bench.original);
    adapter_files_release(&bench.files);
    return 0;
}
