#include "format/cpu.h"

#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>

#if defined(__x86_64__)
#include <xmmintrin.h>
#elif !defined(__aarch64__)
#include <fenv.h>
#endif

static const char *const names[] = {"scalar", "avx2", "avx512"};

/* The level in use; -1 until it is first asked for. */
static atomic_int current = -1;

enum cpu_level cpu_level_machine(void)
{
#if defined(__x86_64__)
    /* These ask for the system's support of the registers too. */
    __builtin_cpu_init();
    if (!__builtin_cpu_supports("avx2") || !__builtin_cpu_supports("fma"))
        return CPU_SCALAR;
    if (__builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
        __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vl"))
        return CPU_AVX512;
    return CPU_AVX2;
#else
    return CPU_SCALAR;
#endif
}

enum cpu_level cpu_level_wanted(const char *name)
{
    enum cpu_level machine = cpu_level_machine();

    for (int level = CPU_SCALAR; name && level < (int)machine; level++) {
        if (strcmp(name, names[level]) == 0)
            return (enum cpu_level)level;
    }
    return machine;
}

enum cpu_level cpu_level(void)
{
    int level = atomic_load_explicit(&current, memory_order_relaxed);

    if (level < 0) {
        level = (int)cpu_level_wanted(getenv("VERA_CPU"));
        atomic_store_explicit(&current, level, memory_order_relaxed);
    }
    return (enum cpu_level)level;
}

void cpu_level_set(enum cpu_level level)
{
    enum cpu_level machine = cpu_level_machine();

    atomic_store_explicit(&current, (int)(level < machine ? level : machine), memory_order_relaxed);
}

const char *cpu_level_name(enum cpu_level level)
{
    return names[level];
}

#if defined(__x86_64__)

#define MXCSR_EXACT 0x1f80u /* all traps masked, round to nearest, FTZ and DAZ off */

struct cpu_float cpu_float_exact(void)
{
    struct cpu_float saved = {_mm_getcsr()};

    _mm_setcsr(MXCSR_EXACT);
    return saved;
}

void cpu_float_restore(struct cpu_float saved)
{
    _mm_setcsr((uint32_t)saved.control);
}

#elif defined(__aarch64__)

/* FPCR zero: round to nearest, FZ, FIZ and FZ16 off, no traps, no alternative half precision. */
struct cpu_float cpu_float_exact(void)
{
    struct cpu_float saved;

    __asm__ volatile("mrs %0, fpcr" : "=r"(saved.control) : : "memory");
    __asm__ volatile("msr fpcr, %0" : : "r"(UINT64_C(0)) : "memory");
    return saved;
}

void cpu_float_restore(struct cpu_float saved)
{
    __asm__ volatile("msr fpcr, %0" : : "r"(saved.control) : "memory");
}

#else

struct cpu_float cpu_float_exact(void)
{
    struct cpu_float saved = {(uint64_t)fegetround()};

    fesetround(FE_TONEAREST);
    return saved;
}

void cpu_float_restore(struct cpu_float saved)
{
    fesetround((int)saved.control);
}

#endif
