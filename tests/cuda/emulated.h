/*
 * A CUDA device that is none: tests/cuda/cuda_runtime.h stands in for NVIDIA's header, so the .cu
 * files of apply/cuda compile as C++, and their kernels run on the CPU, the threads of a block as
 * fibers. This is what a test can ask of it.
 *
 * Work on a stream is queued and runs only when something waits for it (or in another order that a
 * test chooses), so a missing synchronisation shows: on the default stream, too, which waits for
 * the blocking streams and they for it, and for no others. Device memory can be touched by queued
 * work only: a host that follows a device pointer dies of SIGSEGV, and a kernel that touches
 * another device's memory with a message. New memory holds no zeros. What a kernel writes beyond
 * its allocation is found (guard pages, ASan, and a check when it is freed).
 *
 * Memory that is taken and freed in a stream's order (cudaMallocAsync() and the like) can be
 * touched by work of that very stream between the two, and by nothing else. A capture records what
 * is queued on one stream; host memory that is not pinned, memory that it does not free, and work
 * of other streams in it end the process, and calls that CUDA forbids meanwhile make it void.
 *
 * A test in C finds all of this by dlsym() in the module that it has loaded, and what
 * cuda_runtime.h declares as extern "C" (cudaMalloc(), cudaMemcpy(), cudaSetDevice(), ...): there a
 * handle is a void *, cudaError_t and every other enumeration an int.
 *
 * The same can be asked of a process by the environment variable VERA_EMULATED, words with commas
 * between: fail=CALL:NTH:ERROR, memory=BYTES, devices=N, order=lazy|eager|others|SEED,
 * fibers=forward|reverse|SEED, leaks=fatal (abort at exit where something was not freed),
 * driver=none.
 */
#ifndef TESTS_CUDA_EMULATED_H
#define TESTS_CUDA_EMULATED_H

#include <stddef.h>

#ifdef __cplusplus
extern "C" {
#endif

/* A test finds them in the module that it has loaded. */
#pragma GCC visibility push(default)

/* Fail the n-th call (1 is the next) of that name with that cudaError_t, once. It does nothing
   else then. One call is armed at a time; NULL disarms. A kernel launch is "cudaLaunchKernel". */
void emulated_fail(const char *call, unsigned nth, int error);

/* Calls of that name since emulated_reset(). */
unsigned emulated_calls(const char *call);

/* Bytes that each device has; cudaErrorMemoryAllocation beyond. And of one device, if that is
   less. */
void emulated_memory(size_t bytes);
void emulated_memory_of(int device, size_t bytes);

/* How many devices there are; 0: cudaErrorNoDevice, -1: as without a driver,
   cudaErrorInsufficientDriver. */
void emulated_devices(int count);

/* From now on this process has no context on that device, until a thread of it chooses the device;
   and whether it has none. As if it had used all of them, otherwise. */
void emulated_idle(int device);
int emulated_is_idle(int device);

/* When queued work runs. Every order is one that a device may choose. */
#define EMULATED_LAZY  0 /* when someone waits for its stream, or for an event that it leads to */
#define EMULATED_EAGER 1 /* at once */
#define EMULATED_OTHERS                                                                            \
    2 /* lazily, but all other streams run before the one that is waited for                       \
       */
/* Any other number: a seed; some work of some streams runs at every call. */
void emulated_order(unsigned order);

/* In which order the threads of a block run between two barriers. */
#define EMULATED_FORWARD 0
#define EMULATED_REVERSE 1
/* Any other number: the seed of another permutation at every barrier. */
void emulated_fibers(unsigned order);

/* Things that were made and not freed: memory, pools of it, streams, events, graphs; each is named
   on stderr. */
unsigned emulated_leaks(void);

/* Asynchronous copies from or to host memory that is not pinned: right, but not asynchronous on a
   real device. Since emulated_reset(). */
unsigned emulated_pageable_copies(void);

/* The most memory of the calling thread's device that was taken at a time, since
   emulated_reset(). */
size_t emulated_memory_peak(void);

/* Forget counts, faults, limits, orders and loaded kernels; the calling thread's device is the
   first one again. What is allocated stays. */
void emulated_reset(void);

#pragma GCC visibility pop

#ifdef __cplusplus
}
#endif

#endif
