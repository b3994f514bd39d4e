/*
 * The exact kernel beside what one core can do at most: rank 256 onto a weight of 4096 x 4096, one
 * thread, packing and the reading and writing of W included; and how many fused multiply-adds a
 * second the core does on registers alone, measured in the same turns. Medians of 7 (bench_kernel
 * RUNS for another number) of the thread's processor time, for each level of vector code that the
 * machine has.
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#if defined(__x86_64__)
#include <immintrin.h>
#elif defined(__aarch64__)
#include <arm_neon.h>
#endif

#include "apply/kernel.h"
#include "format/cpu.h"
#include "format/limits.h"

#define FEATURES   4096
#define RANK       256
#define RUNS_MAX   101
#define PEAK_STEPS 20000000

static double seconds_now(void)
{
    struct timespec now;

    clock_gettime(CLOCK_THREAD_CPUTIME_ID, &now);
    return (double)now.tv_sec + 1e-9 * (double)now.tv_nsec;
}

/* Fused multiply-adds a second on registers: 12 chains, enough to hide each one's latency. The
   results are stored, so that the compiler must make them. */
#define CHAINS 12
#define PEAK(lanes, vector, set, fma, store)                                                       \
    {                                                                                              \
        vector sums[CHAINS], factor = set(0.5f), addend = set(0.25f);                              \
        float out[16];                                                                             \
        for (int i = 0; i < CHAINS; i++)                                                           \
            sums[i] = set((float)i);                                                               \
        double begin = seconds_now();                                                              \
        for (long step = 0; step < PEAK_STEPS; step++) {                                           \
            _Pragma("GCC unroll 12") for (int i = 0; i < CHAINS; i++)                              \
                sums[i] = fma(sums[i], factor, addend);                                            \
            __asm__ volatile("");                                                                  \
        }                                                                                          \
        double seconds = seconds_now() - begin;                                                    \
        for (int i = 0; i < CHAINS; i++) {                                                         \
            store(out, sums[i]);                                                                   \
            *sink += out[0];                                                                       \
        }                                                                                          \
        return (double)PEAK_STEPS * CHAINS * (lanes) / seconds;                                    \
    }

#if defined(__x86_64__)
__attribute__((target("avx2,fma"))) static double peak_avx2(float *sink)
    PEAK(8, __m256, _mm256_set1_ps, _mm256_fmadd_ps, _mm256_storeu_ps)

        __attribute__((target("avx512f"))) static double peak_avx512(float *sink)
            PEAK(16, __m512, _mm512_set1_ps, _mm512_fmadd_ps, _mm512_storeu_ps)
#elif defined(__aarch64__)
#define neon_fma(sum, factor, addend) vfmaq_f32(addend, sum, factor)
static double peak_neon(float *sink) PEAK(4, float32x4_t, vdupq_n_f32, neon_fma, vst1q_f32)
#endif

                static double peak(enum cpu_level level, float *sink)
{
#if defined(__x86_64__)
    return level == CPU_AVX512 ? peak_avx512(sink) : peak_avx2(sink);
#elif defined(__aarch64__)
    (void)level;
    return peak_neon(sink);
#else
    (void)level;
    (void)sink;
    return 0;
#endif
}

struct weight {
    const char *name;
    enum dtype dtype;
    bool transposed;
    double times[RUNS_MAX];
};

struct bench {
    float *a, *b_matrix, *d, *b;
    uint8_t *w;
    double peaks[RUNS_MAX];
    int runs;
};

static void *memory(size_t bytes)
{
    void *data = aligned_alloc(64, bytes);

    if (!data) {
        fputs("bench_kernel: no memory\n", stderr);
        exit(1);
    }
    return data;
}

static float *random_values(size_t count)
{
    float *values = memory(count * sizeof(*values));

    for (size_t i = 0; i < count; i++)
        values[i] = (float)rand() / (float)RAND_MAX - 0.5f;
    return values;
}

static double run(const struct bench *bench, const struct weight *weight)
{
    const struct kernel_term term = {
        .a = bench->a,
        .b_matrix = bench->b_matrix,
        .d = bench->d,
        .b = bench->b,
        .a_stride = FEATURES,
        .rank = RANK,
        .weight = 1,
    };
    double begin = seconds_now();
    int err = kernel_merge(
        bench->w, weight->dtype, FEATURES, FEATURES, weight->transposed, 0, FEATURES, &term, 1, 1
    );

    if (err < 0) {
        fprintf(stderr, "bench_kernel: %s\n", error_message());
        exit(1);
    }
    return seconds_now() - begin;
}

static int double_compare(const void *a, const void *b)
{
    double x = *(const double *)a, y = *(const double *)b;

    return (x > y) - (x < y);
}

static double median(double *values, int count)
{
    qsort(values, (size_t)count, sizeof(*values), double_compare);
    return values[count / 2];
}

static void bench_level(struct bench *bench, enum cpu_level level)
{
    struct weight weights[] = {
        {.name = "float32", .dtype = DTYPE_F32},
        {.name = "bfloat16", .dtype = DTYPE_BF16},
        {.name = "float16", .dtype = DTYPE_F16},
        {.name = "float32, Conv1D", .dtype = DTYPE_F32, .transposed = true},
        {.name = "bfloat16, Conv1D", .dtype = DTYPE_BF16, .transposed = true},
    };
    const size_t count = sizeof(weights) / sizeof(weights[0]);
    const double work = (double)FEATURES * FEATURES * RANK;
    float sink = 0;

    cpu_level_set(level);
    for (int i = -1; i < bench->runs; i++) {
        double most = peak(level, &sink);
        if (i >= 0)
            bench->peaks[i] = most;
        for (size_t n = 0; n < count; n++) {
            double seconds = run(bench, &weights[n]);
            if (i >= 0)
                weights[n].times[i] = seconds;
        }
    }
    double most = median(bench->peaks, bench->runs);
    printf("\n%s: %.1f billion fused multiply-adds a second at most\n", kernel_name(), most / 1e9);
    printf("  %-20s%12s%16s%10s\n", "W", "median", "multiply-adds", "of peak");
    for (size_t n = 0; n < count; n++) {
        double seconds = median(weights[n].times, bench->runs);
        double rate = work / seconds;
        printf(
            "  %-20s%9.1f ms%11.1f G/s%10.3f%s\n", weights[n].name, seconds * 1e3, rate / 1e9,
            rate / most,
            n == 0 ? (rate / most >= 0.8 ? "  goal 0.8: reached" : "  goal 0.8: MISSED") : ""
        );
    }
    if (sink > 1e30f)
        puts("");
}

int main(int argc, char **argv)
{
    struct bench bench = {.runs = argc > 1 ? atoi(argv[1]) : 7};

    if (bench.runs < 1 || bench.runs > RUNS_MAX)
        return 2;
    bench.a = random_values((size_t)RANK * FEATURES);
    bench.b_matrix = random_values((size_t)RANK * FEATURES);
    bench.d = random_values(RANK);
    bench.b = random_values(FEATURES);
    bench.w = memory(sizeof(float) * FEATURES * FEATURES);
    memset(bench.w, 0, sizeof(float) * FEATURES * FEATURES);
    printf("rank %d onto %d x %d, one thread, %d runs\n", RANK, FEATURES, FEATURES, bench.runs);
    for (int level = CPU_SCALAR + 1; level <= (int)cpu_level_machine(); level++) {
        if (cpu_level_is_here((enum cpu_level)level))
            bench_level(&bench, (enum cpu_level)level);
    }
    return 0;
}
