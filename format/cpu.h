/*
 * What this machine's processor can run, and the floating-point state that exact results need.
 *
 * Vector code is compiled in files of its own with the compiler's flags for it and entered only
 * where cpu_level() allows, so one program runs on every machine. VERA_CPU=scalar|neon|avx2|avx512
 * in the environment asks for less than the machine has; any other value is ignored. Every level
 * gives the same bits.
 */
#ifndef FORMAT_CPU_H
#define FORMAT_CPU_H

#include <stdbool.h>
#include <stdint.h>

enum cpu_level {
    CPU_SCALAR,
    CPU_NEON,   /* every arm64 */
    CPU_AVX2,   /* with FMA and F16C */
    CPU_AVX512, /* F, BW, DQ and VL */
};

/* The best that processor and system support, lowered by VERA_CPU; looked up once. */
enum cpu_level cpu_level(void);

/* The best that processor and system support. */
enum cpu_level cpu_level_machine(void);

/* Is it one of this machine's levels? No machine has all of them. */
bool cpu_level_is_here(enum cpu_level level);

/* The level of that name; cpu_level_machine() for NULL and names of no level that is here. */
enum cpu_level cpu_level_wanted(const char *name);

/* Make cpu_level() answer `level` from now on, or the next lower one that is here. For tests and
   benchmarks that compare levels. */
void cpu_level_set(enum cpu_level level);

/* "scalar", "neon", "avx2" or "avx512". */
const char *cpu_level_name(enum cpu_level level);

/* The floating-point control state of a thread, as the machine keeps it. */
struct cpu_float {
    uint64_t control;
};

/* In this thread: round to nearest, subnormals kept on input and output, no traps. Returns what was
   set before, for cpu_float_restore(). */
struct cpu_float cpu_float_exact(void);
void cpu_float_restore(struct cpu_float saved);

#endif
