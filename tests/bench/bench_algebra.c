/*
 * How long the algebra of dW takes, at the sizes of MiniLM and of Llama-3-8B (q and v of 32 layers,
 * rank 256): bench_algebra [THREADS]. Random vectors on a random basis, the best of three runs.
 */
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <time.h>

#include "apply/compare.h"
#include "apply/merge.h"
#include "apply/spectrum.h"

struct shape {
    uint64_t in, out, count;
};

struct bench {
    const char *name;
    uint64_t rank;
    struct shape shapes[2];
    struct basis basis;
    struct effect_pair *pairs;
    struct merge_module *modules;
    size_t count;
};

static double now(void)
{
    struct timespec time;

    clock_gettime(CLOCK_MONOTONIC, &time);
    return (double)time.tv_sec + 1e-9 * (double)time.tv_nsec;
}

static void check(int err)
{
    if (err < 0) {
        fprintf(stderr, "bench_algebra: %s\n", error_message());
        exit(1);
    }
}

static void *memory(size_t count, size_t size)
{
    void *array = array_new(count, size);

    if (!array)
        check(E_NOMEM);
    return array;
}

static float random_float(void)
{
    return (float)rand() / (float)RAND_MAX - 0.5f;
}

static double *random_vector(uint64_t count)
{
    double *values = memory((size_t)count, sizeof(*values));

    for (uint64_t i = 0; i < count; i++)
        values[i] = (double)random_float();
    return values;
}

/* A version's vectors, `step` away from others of the same seed. */
static struct merge_side random_side(uint64_t rank, uint64_t out, unsigned seed, float step)
{
    float *values = memory((size_t)(rank + out), sizeof(*values));

    srand(seed);
    for (uint64_t i = 0; i < rank + out; i++)
        values[i] = random_float();
    srand((unsigned)(1000 * step));
    for (uint64_t i = 0; i < rank + out && step > 0; i++)
        values[i] += step * random_float();
    return (struct merge_side){
        .d = {(const uint8_t *)values, (size_t)rank * sizeof(*values)},
        .b = {(const uint8_t *)(values + rank), (size_t)out * sizeof(*values)},
        .dtype_d = DTYPE_F32,
        .dtype_b = DTYPE_F32,
    };
}

static void bench_fill(struct bench *bench)
{
    uint64_t in = 0, out = 0;

    for (size_t s = 0; s < 2; s++) {
        in = bench->shapes[s].in > in ? bench->shapes[s].in : in;
        out = bench->shapes[s].out > out ? bench->shapes[s].out : out;
        bench->count += (size_t)bench->shapes[s].count;
    }
    bench->basis = (struct basis){.rank = bench->rank, .in = in, .out = out};
    bench->basis.a = memory((size_t)(bench->rank * in), sizeof(float));
    bench->basis.b = memory((size_t)(bench->rank * out), sizeof(float));
    for (uint64_t i = 0; i < bench->rank * in; i++)
        bench->basis.a[i] = random_float();
    for (uint64_t i = 0; i < bench->rank * out; i++)
        bench->basis.b[i] = random_float();
    bench->pairs = memory(bench->count, sizeof(*bench->pairs));
    bench->modules = memory(bench->count, sizeof(*bench->modules));
    for (size_t i = 0; i < bench->count; i++) {
        const struct shape *shape = &bench->shapes[i >= bench->shapes[0].count];
        bench->pairs[i] = (struct effect_pair){
            .name = "module",
            .in = shape->in,
            .out = shape->out,
            .a = {&bench->basis, random_vector(bench->rank), random_vector(shape->out)},
            .b = {&bench->basis, random_vector(bench->rank), random_vector(shape->out)},
        };
        bench->modules[i] = (struct merge_module){
            .name = "module",
            .in = shape->in,
            .out = shape->out,
            .base = random_side(bench->rank, shape->out, (unsigned)i, 0),
            .ours = random_side(bench->rank, shape->out, (unsigned)i, 0.3f),
            .theirs = random_side(bench->rank, shape->out, (unsigned)i, 0.4f),
        };
    }
}

static void run_compare(const struct bench *bench, unsigned threads)
{
    AUTO_COMPARISONS(found);

    check(compare_effects(&found, bench->pairs, bench->count, threads, NULL));
}

static void run_spectrum(const struct bench *bench, unsigned threads)
{
    AUTO_SPECTRA(found);

    check(spectra_make(&found, bench->pairs, bench->count, threads, NULL));
}

static void run_merge(const struct bench *bench, unsigned threads)
{
    const struct merge_options options = {MERGE_TASK, 1, false, threads};
    AUTO_MERGE(found);

    check(merge_modules(&found, &bench->basis, bench->modules, bench->count, &options));
}

static void bench_run(
    const struct bench *bench,
    const char *what,
    void (*run)(const struct bench *, unsigned),
    unsigned threads
)
{
    double best = 1e9;

    for (int i = 0; i < 3; i++) {
        double begin = now();
        run(bench, threads);
        double took = now() - begin;
        best = took < best ? took : best;
    }
    struct rusage usage;
    getrusage(RUSAGE_SELF, &usage);
    printf(
        "%-10s %-10s %7.3f s, at most %ld MB\n", bench->name, what, best, usage.ru_maxrss / 1000
    );
}

int main(int argc, char **argv)
{
    struct bench benches[] = {
        {"minilm", 256, {{384, 384, 30}, {1536, 384, 6}}, {0}, NULL, NULL, 0},
        {"llama-8b", 256, {{4096, 4096, 32}, {4096, 1024, 32}}, {0}, NULL, NULL, 0},
    };
    unsigned threads = argc > 1 ? (unsigned)strtoul(argv[1], NULL, 10) : 0;

    for (size_t i = 0; i < sizeof(benches) / sizeof(benches[0]); i++) {
        bench_fill(&benches[i]);
        bench_run(&benches[i], "compare", run_compare, threads);
        bench_run(&benches[i], "spectrum", run_spectrum, threads);
        bench_run(&benches[i], "merge", run_merge, threads);
    }
    return 0;
}
