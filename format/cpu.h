/*
 * What this machine's processor can run, and the floating-point state that exact results need.
 *
 * Vector code is compiled in files of its own with the compiler's flags for it and entered only
 * where cpu_level() allows, so one program runs on every machine. VERA_CPU=scalar|avx2|avx512 in
 * the environment asks for less than the machine has; any other value is ignored. Every level gives
 * the same bits.
 */
#ifndef FORMAT_CPU_H
#define FORMAT_CPU_H

#include <stdint.h>

enum cpu_level {
    CPU_SCALAR,
    CPU_AVX2,   /* with FMA */
    CPU_AVX512, /* F, BW, DQ and VL */
};

/* The best that processor and system support, lowered by VERA_CPU; looked up once. */
enum cpu_level cpu_level(void);

/* The best that processor and system support. */
enum cpu_level cpu_level_machine(void);

/* The lower of cpu_level_machine() and the level of that name; NULL or an unknown name asks for
   nothing. */
enum cpu_level cpu_level_wanted(const char *name);

/* Make cpu_level() answer the lower of `level` and cpu_level_machine() from now on. For tests and
   benchmarks that compare levels. */
void cpu_level_set(enum cpu_level level);

/* "scalar", "avx2" or "avx512". */
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
