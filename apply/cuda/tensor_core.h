/*
 * What fast mode asks of the hardware: products of small matrices by a warp's tensor cores, and
 * copies into shared memory that run beside the computation. Each is one PTX instruction on a
 * device (sm_80 on) and has a twin in plain C++ for the CPU, where the fragments pass through
 * memory of the warp. The twin rounds in its own order, as every device may.
 *
 * Lane l = 4 g + t holds of a product left [16, K] x right [K, 8] (PTX ISA, mma.m16n8k8 and
 * m16n8k16; K is 8 for tf32, 16 for bf16, where a register is two neighbours in k, the first one
 * low):
 *
 *   left[0..3]   rows g, g+8, g, g+8    k: t, t, t+4, t+4        (bf16: 2t.., 2t.., 2t+8.., 2t+8..)
 *   right[0..1]  column g               k: t, t+4                (bf16: 2t.., 2t+8..)
 *   sums[0..3]   rows g, g, g+8, g+8    columns 2t, 2t+1, 2t, 2t+1
 */
#ifndef APPLY_CUDA_TENSOR_CORE_H
#define APPLY_CUDA_TENSOR_CORE_H

#include <cuda_runtime.h>

#include <stdint.h>

#ifdef __CUDACC__

/* To nearest, ties away from zero; 10 bits of mantissa. */
__device__ inline uint32_t tf32_round(float value)
{
    uint32_t bits;

    asm("cvt.rna.tf32.f32 %0, %1;" : "=r"(bits) : "f"(value));
    return bits;
}

/* Both to nearest even. */
__device__ inline uint32_t bf16_round_pair(float low, float high)
{
    uint32_t bits;

    asm("cvt.rn.bf16x2.f32 %0, %1, %2;" : "=r"(bits) : "f"(high), "f"(low));
    return bits;
}

__device__ inline void
multiply_tf32(float (&sums)[4], const uint32_t (&left)[4], const uint32_t (&right)[2])
{
    asm("mma.sync.aligned.m16n8k8.row.col.f32.tf32.tf32.f32 "
        "{%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, {%0, %1, %2, %3};"
        : "+f"(sums[0]), "+f"(sums[1]), "+f"(sums[2]), "+f"(sums[3])
        : "r"(left[0]), "r"(left[1]), "r"(left[2]), "r"(left[3]), "r"(right[0]), "r"(right[1]));
}

__device__ inline void
multiply_bf16(float (&sums)[4], const uint32_t (&left)[4], const uint32_t (&right)[2])
{
    asm("mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 "
        "{%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, {%0, %1, %2, %3};"
        : "+f"(sums[0]), "+f"(sums[1]), "+f"(sums[2]), "+f"(sums[3])
        : "r"(left[0]), "r"(left[1]), "r"(left[2]), "r"(left[3]), "r"(right[0]), "r"(right[1]));
}

/* sums[m][n] += left[m] right[n], for all of a warp at once. */
template <bool BF16, unsigned M, unsigned N>
__device__ inline void
warp_multiply(float (&sums)[M][N][4], const uint32_t (&left)[M][4], const uint32_t (&right)[N][2])
{
#pragma unroll
    for (unsigned m = 0; m < M; m++) {
#pragma unroll
        for (unsigned n = 0; n < N; n++) {
            if constexpr (BF16)
                multiply_bf16(sums[m][n], left[m], right[n]);
            else
                multiply_tf32(sums[m][n], left[m], right[n]);
        }
    }
}

/* Copy the first `count` of four floats, and zeros for the rest, from global to shared memory, both
   aligned to 16 bytes. */
__device__ inline void copy_async_quad(float *to, const float *from, uint32_t count)
{
    asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;" ::"r"((uint32_t
                 )__cvta_generic_to_shared(to)),
                 "l"(from), "r"(4 * count)
                 : "memory");
}

/* Copy a float, or a zero if not `exists`. */
__device__ inline void copy_async_one(float *to, const float *from, bool exists)
{
    asm volatile("cp.async.ca.shared.global [%0], [%1], 4, %2;" ::"r"((uint32_t
                 )__cvta_generic_to_shared(to)),
                 "l"(from), "r"(exists ? 4 : 0)
                 : "memory");
}

/* The copies of this thread since the last one are a group. */
__device__ inline void copy_async_group()
{
    asm volatile("cp.async.commit_group;" ::: "memory");
}

/* Wait until at most the last GROUPS groups of this thread are on their way. Others see what it
   copied after a barrier. */
template <unsigned GROUPS> __device__ inline void copy_async_wait()
{
    asm volatile("cp.async.wait_group %0;" ::"n"(GROUPS) : "memory");
}

#else /* the twins */

inline uint32_t tf32_round(float value)
{
    return (__float_as_uint(value) + 0x1000) & 0xffffe000;
}

inline uint32_t bf16_round_pair(float low, float high)
{
    uint32_t bits[2] = {__float_as_uint(low), __float_as_uint(high)};

    for (uint32_t &value : bits)
        value = (value + 0x7fff + (value >> 16 & 1)) >> 16;
    return bits[0] | bits[1] << 16;
}

/* Number k of a row of left, or a column of right: the four lanes of `group` hold it, each in its
   register `first` for the first half of k and in `second` for the other. */
template <bool BF16, unsigned REGISTERS>
inline float fragment_value(
    const uint32_t *fragments, unsigned group, unsigned first, unsigned second, unsigned k
)
{
    const unsigned half = BF16 ? 8 : 4, lane = 4 * group + (BF16 ? k % 8 / 2 : k % 4);
    const uint32_t bits = fragments[lane * REGISTERS + (k < half ? first : second)];

    if (BF16)
        return __uint_as_float(k % 2 ? bits & 0xffff0000 : bits << 16);
    return __uint_as_float(bits & 0xffffe000);
}

template <bool BF16, unsigned M, unsigned N>
inline void
warp_multiply(float (&sums)[M][N][4], const uint32_t (&left)[M][4], const uint32_t (&right)[N][2])
{
    const unsigned lane = threadIdx.x % 32, g = lane / 4, t = lane % 4, depth = BF16 ? 16 : 8;
    uint32_t *lefts = static_cast<uint32_t *>(emulated_warp_memory((M * 4 + N * 2) * 32 * 4));
    uint32_t *rights = lefts + M * 4 * 32;

    for (unsigned m = 0; m < M; m++)
        memcpy(lefts + (m * 32 + lane) * 4, left[m], sizeof(left[m]));
    for (unsigned n = 0; n < N; n++)
        memcpy(rights + (n * 32 + lane) * 2, right[n], sizeof(right[n]));
    __syncwarp();
    for (unsigned m = 0; m < M; m++) {
        for (unsigned n = 0; n < N; n++) {
            for (unsigned i = 0; i < 4; i++) {
                for (unsigned k = 0; k < depth; k++) {
                    float a = fragment_value<BF16, 4>(lefts + m * 128, g, i / 2, i / 2 + 2, k);
                    float b = fragment_value<BF16, 2>(rights + n * 64, 2 * t + i % 2, 0, 1, k);
                    sums[m][n][i] = fmaf(a, b, sums[m][n][i]);
                }
            }
        }
    }
    __syncwarp();
}

inline void copy_async_quad(float *to, const float *from, uint32_t count)
{
    if (((uintptr_t)to | (uintptr_t)from) & 15)
        emulated_die("a copy of 16 bytes that are not aligned");
    emulated_copy_async(to, from, 16, 4 * count);
}

inline void copy_async_one(float *to, const float *from, bool exists)
{
    emulated_copy_async(to, from, 4, exists ? 4 : 0);
}

inline void copy_async_group()
{
    emulated_copy_group();
}

template <unsigned GROUPS> inline void copy_async_wait()
{
    emulated_copy_wait(GROUPS);
}

#endif

#endif
