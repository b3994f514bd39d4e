/*
 * What the benchmarks measure inside a process: it reads requests, one a line, runs each once, and
 * answers with the seconds that it took.
 *
 *   basis LEVEL   the values of A and B for rank 1024, 8192 in, 8192 out, into memory that is there
 *                 already; also answers with the SHA-256 of A
 *   store         the same memory, set to a byte: what the machine can write
 *   copy          the same memory, copied: what it can read and write
 *   level         the level of vector code that is used here (no time)
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "format/basis.h"
#include "format/cpu.h"

#define RANK     1024
#define FEATURES 8192
#define VALUES   ((size_t)RANK * FEATURES) /* of A, and of B */

static double seconds_now(void)
{
    struct timespec now;

    clock_gettime(CLOCK_MONOTONIC, &now);
    return (double)now.tv_sec + 1e-9 * (double)now.tv_nsec;
}

static int run_basis(float *values, const char *level)
{
    const struct basis_recipe recipe = {
        .variant = BASIS_FMA, .rank = RANK, .in = FEATURES, .out = FEATURES};
    struct digest digest;
    char hex[DIGEST_HEX_SIZE];

    cpu_level_set(CPU_SCALAR);
    for (int i = CPU_SCALAR; i <= CPU_AVX512; i++) {
        if (strcmp(cpu_level_name((enum cpu_level)i), level) == 0)
            cpu_level_set((enum cpu_level)i);
    }
    double begin = seconds_now();
    basis_generate(values, values + VALUES, &recipe);
    double took = seconds_now() - begin;
    int err = digest_of(&digest, (struct bytes){(const uint8_t *)values, VALUES * sizeof(*values)});
    if (err < 0)
        return err;
    digest_hex(hex, &digest);
    printf("%.9f %s\n", took, hex);
    return 0;
}

static void run_memory(float *values, bool copy)
{
    const size_t half = VALUES * sizeof(*values);
    double begin = seconds_now();

    if (copy)
        memcpy(values + VALUES, values, half);
    else
        memset(values, 1, 2 * half);
    printf("%.9f\n", seconds_now() - begin);
}

static int serve(float *values)
{
    char line[64];

    while (fgets(line, sizeof(line), stdin)) {
        line[strcspn(line, "\n")] = '\0';
        int err = 0;
        if (strncmp(line, "basis ", 6) == 0)
            err = run_basis(values, line + 6);
        else if (strcmp(line, "level") == 0)
            puts(cpu_level_name(cpu_level_machine()));
        else
            run_memory(values, strcmp(line, "copy") == 0);
        if (err < 0 || fflush(stdout) != 0)
            return 1;
    }
    return 0;
}

int main(void)
{
    float *values = malloc(2 * VALUES * sizeof(*values));

    if (!values) {
        fputs("bench_machine: no memory\n", stderr);
        return 1;
    }
    memset(values, 0, 2 * VALUES * sizeof(*values));
    int status = serve(values);
    free(values);
    return status;
}
