/*
 * A block of CUDA threads on one CPU thread: a fiber each, which run one after the other from
 * barrier to barrier. Two fibers never run at once, so a race cannot show by itself; run a kernel
 * in several orders (emulated_fibers() of emulated.h) and compare. A barrier that not all threads
 * of a block (or warp) come to ends the process with a message.
 */
#ifndef TESTS_CUDA_FIBER_H
#define TESTS_CUDA_FIBER_H

#include <cuda_runtime.h>

/* Run every block of the grid, one after the other, from the last one if the order is reversed;
   `thread_main` is called once in each thread. */
void fiber_run_grid(dim3 grid, dim3 block, const std::function<void()> &thread_main);

void fiber_order(unsigned order);

#endif
