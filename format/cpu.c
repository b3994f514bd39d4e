#include "format/cpu.h"

#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>

#if defined(__x86_64__)
#include <cpuid.h>
#include <xmmintrin.h>
#elif !defined(__aarch64__)
#include <fenv.h>
#endif

static const char *const names[] = {"scalar", "neon", "avx2", "avx512"};

/* The level in use; -1 until it is first asked for. */
static atomic_int current = -1;

#if defined(__x86_64__)
/* The compilers' own question does not know it everywhere. */
static bool has_f16c(void)
{
    unsigned a, b, c, d;

    return __get_cpuid(1, &a, &b, &c, &d) && (c & bit_F16C);
}
#endif

enum cpu_level cpu_level_machine(void)
{
#if defined(__x86_64__)
    /* These ask for the system's support of the registers too. */
    __builtin_cpu_init();
    if (!__builtin_cpu_supports("avx2") || !__builtin_cpu_supports("fma") || !has_f16c())
        return CPU_SCALAR;
    if (__builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
        __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vl"))
        return CPU_AVX512;
    return CPU_AVX2;
#elif defined(__aarch64__)
    return CPU_NEON;
#else
    return CPU_SCALAR;
#endif
}

bool cpu_level_is_here(enum cpu_level level)
{
    enum cpu_level machine = cpu_level_machine();

    return level == CPU_SCALAR ||
           (level <= machine && (level == CPU_NEON) == (machine == CPU_NEON));
}

enum cpu_level cpu_level_wanted(const char *name)
{
    for (int level = CPU_SCALAR; name && level <= CPU_AVX512; level++) {
        if (strcmp(name, names[level]) == 0 && cpu_level_is_here((enum cpu_level)level))
            return (enum cpu_level)level;
    }
    return cpu_level_machine();
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
    while (!cpu_level_is_here(level))
        level--;
    atomic_store_explicit(&current, (int)level, memory_order_relaxed);
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
