#include "tests/cuda/fiber.h"

#include <setjmp.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <ucontext.h>

#include <algorithm>
#include <vector>

#include "tests/cuda/emulated.h"

#if defined(__SANITIZE_ADDRESS__)
#define FIBER_ASAN 1
#elif defined(__has_feature)
#if __has_feature(address_sanitizer)
#define FIBER_ASAN 1
#endif
#endif
#ifdef FIBER_ASAN
#include <sanitizer/common_interface_defs.h>
#endif
#ifdef __SANITIZE_THREAD__
#include <sanitizer/tsan_interface.h>
/* What is never left must not be on TSan's own stack, which is the fiber's for good. */
#define ENTERED_UNSEEN __attribute__((no_sanitize("thread")))
#else
#define ENTERED_UNSEEN
#endif

uint3 threadIdx, blockIdx;
dim3 blockDim, gridDim;

namespace
{

constexpr size_t STACK_BYTES = 64 << 10, GUARD_BYTES = 64 << 10;
constexpr size_t WARP = 32, WARP_MEMORY = 64 << 10;

enum fiber_state {
    FIBER_NEW,
    FIBER_READY,
    FIBER_AT_BLOCK_BARRIER,
    FIBER_AT_WARP_BARRIER,
    FIBER_DONE,
};

struct copy {
    void *to;
    const void *from;
    size_t bytes, used;
};

struct fiber {
    ucontext_t context;
    jmp_buf jump;
    char *stack;
    fiber_state state;
    uint3 index;
    int predicate;
    std::vector<copy> copies;   /* on their way */
    std::vector<size_t> groups; /* where each group ends */
#ifdef __SANITIZE_THREAD__
    void *known; /* as what TSan knows it */
#endif
};

struct block {
    std::vector<fiber> fibers; /* grows, and keeps its stacks, as blocks come */
    std::vector<size_t> order;
    size_t count;
    fiber *running;
    ucontext_t scheduler;
    jmp_buf scheduler_jump;
    const std::function<void()> *thread_main;
    int predicate; /* of the last __syncthreads_or() */
    std::vector<std::vector<char>> warp_memory;
#ifdef FIBER_ASAN
    const void *scheduler_stack;
    size_t scheduler_stack_bytes;
    void *scheduler_fake;
#endif
#ifdef __SANITIZE_THREAD__
    void *scheduler_known;
#endif
};

block current;

/* Constants to begin with, so that the environment can be read before `current` is made. */
unsigned order_kind = EMULATED_FORWARD;
uint64_t order_random = 1;

/* With ASan or TSan a switch goes by swapcontext() and is announced. Without, by longjmp(), which
   makes no system call: five times faster. */
#ifdef FIBER_ASAN
void switch_to_fiber(fiber *next)
{
    __sanitizer_start_switch_fiber(&current.scheduler_fake, next->stack, STACK_BYTES);
    swapcontext(&current.scheduler, &next->context);
    __sanitizer_finish_switch_fiber(current.scheduler_fake, nullptr, nullptr);
}

void switch_to_scheduler(fiber *self)
{
    void *fake = nullptr;

    __sanitizer_start_switch_fiber(
        self->state == FIBER_DONE ? nullptr : &fake, current.scheduler_stack,
        current.scheduler_stack_bytes
    );
    swapcontext(&self->context, &current.scheduler);
    __sanitizer_finish_switch_fiber(fake, nullptr, nullptr);
}
#elif defined(__SANITIZE_THREAD__)
void switch_to_fiber(fiber *next)
{
    if (!next->known)
        next->known = __tsan_create_fiber(0);
    current.scheduler_known = __tsan_get_current_fiber();
    __tsan_switch_to_fiber(next->known, 0);
    swapcontext(&current.scheduler, &next->context);
}

ENTERED_UNSEEN void switch_to_scheduler(fiber *self)
{
    __tsan_switch_to_fiber(current.scheduler_known, 0);
    swapcontext(&self->context, &current.scheduler);
}
#else
void switch_to_fiber(fiber *next)
{
    if (_setjmp(current.scheduler_jump))
        return;
    if (next->state == FIBER_NEW)
        setcontext(&next->context);
    _longjmp(next->jump, 1);
}

void switch_to_scheduler(fiber *self)
{
    if (!_setjmp(self->jump))
        _longjmp(current.scheduler_jump, 1);
}
#endif

ENTERED_UNSEEN void fiber_main()
{
#ifdef FIBER_ASAN
    __sanitizer_finish_switch_fiber(
        nullptr, &current.scheduler_stack, &current.scheduler_stack_bytes
    );
#endif
    (*current.thread_main)();
    current.running->state = FIBER_DONE;
    switch_to_scheduler(current.running);
    abort(); /* never switched to again */
}

void barrier(fiber_state kind)
{
    fiber *self = current.running;

    self->state = kind;
    switch_to_scheduler(self);
}

char *stack_new()
{
    void *memory = mmap(
        nullptr, STACK_BYTES + GUARD_BYTES, PROT_READ | PROT_WRITE,
        MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0
    );

    if (memory == MAP_FAILED || mprotect(memory, GUARD_BYTES, PROT_NONE) != 0) {
        perror("emulated CUDA: a fiber's stack");
        abort();
    }
    return static_cast<char *>(memory) + GUARD_BYTES;
}

void fiber_prepare(fiber *fiber, size_t number)
{
    unsigned n = static_cast<unsigned>(number);

    if (!fiber->stack)
        fiber->stack = stack_new();
    fiber->state = FIBER_NEW;
    fiber->copies.clear();
    fiber->groups.clear();
    fiber->index = {n % blockDim.x, n / blockDim.x % blockDim.y, n / (blockDim.x * blockDim.y)};
    getcontext(&fiber->context);
    fiber->context.uc_stack.ss_sp = fiber->stack;
    fiber->context.uc_stack.ss_size = STACK_BYTES;
    fiber->context.uc_link = nullptr;
    makecontext(&fiber->context, fiber_main, 0);
}

void order_make()
{
    current.order.resize(current.count);
    for (size_t i = 0; i < current.count; i++)
        current.order[i] = order_kind == EMULATED_REVERSE ? current.count - 1 - i : i;
    if (order_kind <= EMULATED_REVERSE)
        return;
    for (size_t i = current.count - 1; i > 0; i--) {
        order_random = order_random * UINT64_C(6364136223846793005) + 1442695040888963407;
        std::swap(current.order[i], current.order[(order_random >> 33) % (i + 1)]);
    }
}

size_t count_state(size_t begin, size_t end, fiber_state state)
{
    size_t count = 0;

    for (size_t i = begin; i < end; i++)
        count += current.fibers[i].state == state;
    return count;
}

[[noreturn]] void divergent()
{
    fprintf(
        stderr,
        "emulated CUDA: divergent barrier in block %u: of %zu threads %zu wait for their block, "
        "%zu "
        "for their warp, %zu have ended\n",
        blockIdx.x, current.count, count_state(0, current.count, FIBER_AT_BLOCK_BARRIER),
        count_state(0, current.count, FIBER_AT_WARP_BARRIER),
        count_state(0, current.count, FIBER_DONE)
    );
    abort();
}

/* Let those go on who all wait at one barrier. False if nobody can. */
bool barriers_open()
{
    bool opened = false;

    if (count_state(0, current.count, FIBER_AT_BLOCK_BARRIER) == current.count) {
        current.predicate = 0;
        for (size_t i = 0; i < current.count; i++) {
            current.predicate |= current.fibers[i].predicate;
            current.fibers[i].state = FIBER_READY;
        }
        return true;
    }
    for (size_t begin = 0; begin < current.count; begin += WARP) {
        size_t end = std::min(begin + WARP, current.count);
        if (count_state(begin, end, FIBER_AT_WARP_BARRIER) != end - begin)
            continue;
        for (size_t i = begin; i < end; i++)
            current.fibers[i].state = FIBER_READY;
        opened = true;
    }
    return opened;
}

void run_ready()
{
    for (size_t number : current.order) {
        fiber *next = &current.fibers[number];
        if (next->state != FIBER_NEW && next->state != FIBER_READY)
            continue;
        current.running = next;
        threadIdx = next->index;
        switch_to_fiber(next);
    }
}

void run_block()
{
    for (size_t i = 0; i < current.count; i++)
        fiber_prepare(&current.fibers[i], i);
    do {
        order_make();
        run_ready();
        if (count_state(0, current.count, FIBER_DONE) == current.count)
            return;
    } while (barriers_open());
    divergent();
}

} // namespace

void fiber_order(unsigned order)
{
    order_kind = order;
    order_random = order;
}

void fiber_run_grid(dim3 grid, dim3 block, const std::function<void()> &thread_main)
{
    unsigned blocks = grid.x * grid.y * grid.z;

    gridDim = grid;
    blockDim = block;
    current.count = size_t{block.x} * block.y * block.z;
    current.thread_main = &thread_main;
    if (current.fibers.size() < current.count)
        current.fibers.resize(current.count);
    if (current.warp_memory.size() * WARP < current.count)
        current.warp_memory.resize((current.count + WARP - 1) / WARP);
    for (unsigned n = 0; n < blocks; n++) {
        unsigned at = order_kind == EMULATED_REVERSE ? blocks - 1 - n : n;
        blockIdx = {at % grid.x, at / grid.x % grid.y, at / (grid.x * grid.y)};
        run_block();
    }
}

void __syncthreads()
{
    current.running->predicate = 0;
    barrier(FIBER_AT_BLOCK_BARRIER);
}

int __syncthreads_or(int predicate)
{
    current.running->predicate = predicate != 0;
    barrier(FIBER_AT_BLOCK_BARRIER);
    return current.predicate;
}

void __syncwarp(unsigned mask)
{
    if (mask != 0xffffffffu) {
        fputs("emulated CUDA: __syncwarp() for part of a warp\n", stderr);
        abort();
    }
    barrier(FIBER_AT_WARP_BARRIER);
}

void *emulated_warp_memory(size_t bytes)
{
    size_t warp = static_cast<size_t>(current.running - current.fibers.data()) / WARP;
    std::vector<char> &memory = current.warp_memory[warp];

    if (bytes > WARP_MEMORY)
        abort();
    memory.resize(WARP_MEMORY);
    return memory.data();
}

void emulated_copy_async(void *to, const void *from, size_t bytes, size_t used)
{
    current.running->copies.push_back({to, from, bytes, used});
}

void emulated_copy_group()
{
    fiber *self = current.running;

    self->groups.push_back(self->copies.size());
}

void emulated_copy_wait(unsigned groups)
{
    fiber *self = current.running;

    if (self->groups.size() <= groups)
        return;
    size_t done = self->groups.size() - groups, end = self->groups[done - 1];
    for (size_t i = 0; i < end; i++) {
        const copy &copy = self->copies[i];
        memset(copy.to, 0, copy.bytes);
        memcpy(copy.to, copy.from, copy.used);
    }
    self->copies.erase(self->copies.begin(), self->copies.begin() + static_cast<ptrdiff_t>(end));
    self->groups.erase(self->groups.begin(), self->groups.begin() + static_cast<ptrdiff_t>(done));
    for (size_t &group : self->groups)
        group -= end;
}
