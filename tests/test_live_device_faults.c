/*
 * Tests of apply/live*.c on the emulated device, where something fails or memory is short: where a
 * device fails the weights are as they were, or the state says that they are not, and the next
 * change makes them right; nothing is left on a device, and nothing grows there.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <malloc.h>

#include "tests/fault.h"
#include "tests/live_twin.h"

static const char *const calls[] = {
    "cudaMalloc",
    "cudaHostAlloc",
    "cudaMemcpy",
    "cudaMemcpyAsync",
    "cudaMemcpy2DAsync",
    "cudaLaunchKernel",
    "cudaStreamSynchronize",
    "cudaStreamWaitEvent",
    "cudaEventRecord",
    "cudaSetDevice",
    "cudaGetDevice",
    "cudaFree",
};

struct fault_counts {
    unsigned failed, torn;
};

/* A change that fails: from one adapter, or none, to another, or none. */
struct fault_case {
    struct choir *choir;
    const struct twin *twin;
    struct live *live;
    const struct expected *from, *to;
};

static int change_to(struct live_state *out, const struct fault_case *fault)
{
    if (fault->to == &fault->choir->base)
        return live_detach(out, fault->live);
    return live_swap(out, fault->live, &fault->to->snapshot);
}

/* Nothing was written, and nothing is said to be; or the state says that it is a mixture. */
static void assert_failed(
    const struct fault_case *fault, const struct live_state *before, struct fault_counts *counts
)
{
    struct live_state after;

    live_status(&after, fault->live);
    counts->failed++;
    if (!after.torn) {
        assert_memory_equal(before, &after, sizeof(after));
        assert_twin(fault->twin, fault->from);
        return;
    }
    counts->torn++;
    assert_int_equal(after.epoch, before->epoch + 1);
    assert_false(after.attached);
    assert_int_equal(after.had_previous, before->attached);
    assert_true(digest_equal(&after.previous, &before->snapshot));
}

/* Where the n-th call of that name fails: false where so many are not made. Afterwards the same
   change again, or detaching, is not taken for what is there already. */
static bool fault_run(
    const struct fault_case *fault, const char *call, unsigned nth, struct fault_counts *counts
)
{
    struct live_state before, after;
    const struct expected *to = fault->to;

    if (fault->from != &fault->choir->base)
        must(live_swap(NULL, fault->live, &fault->from->snapshot));
    live_status(&before, fault->live);
    unsigned made = emulated.calls(call);
    emulated.fail_call(call, nth, nth % 2 ? CUDA_ERROR_MEMORY : CUDA_ERROR_ADDRESS);
    int err = change_to(&after, fault);
    emulated.fail_call(NULL, 0, 0);
    made = emulated.calls(call) - made;
    if (err < 0) {
        assert_int_equal(err, E_DEVICE);
        assert_failed(fault, &before, counts);
        to = nth % 2 ? &fault->choir->base : fault->to;
        must(nth % 2 ? live_detach(&after, fault->live) : change_to(&after, fault));
    }
    assert_false(after.torn);
    assert_twin(fault->twin, to);
    return made >= nth;
}

/* Each time with a model of its own: all memory is to be had anew. */
static void faults_of(int devices, bool from_base, uint64_t kept, struct fault_counts *counts)
{
    AUTO_CHOIR(choir);
    AUTO_TWIN(twin);
    const struct live_options options = {
        .base = from_base ? FIXTURES "/base/bert" : NULL, .threads = 1, .kept_max = kept};
    struct fault_case fault = {.choir = &choir, .twin = &twin};

    emulated.devices(devices);
    choir_open(&choir, FIXTURES "/base/bert", "bert", LAYOUTS, true);
    twin_make(&twin, &choir.memory, devices);
    const struct expected *const ways[][2] = {
        {&choir.base, &choir.adapters[4]},
        {&choir.adapters[1], &choir.adapters[4]},
        {&choir.adapters[1], &choir.base},
    };
    for (size_t i = 0; i < 3 * sizeof(calls) / sizeof(calls[0]); i++) {
        fault.from = ways[i % 3][0];
        fault.to = ways[i % 3][1];
        for (unsigned nth = 1, more = 1; more; nth++) {
            AUTO_LIVE(live);
            fault.live = live = live_of_twin(&twin, &options);
            more = fault_run(&fault, calls[i / 3], nth, counts);
            must(live_detach(NULL, live));
            assert_twin(&twin, &choir.base);
        }
    }
}

static void test_a_device_that_fails_leaves_every_byte_or_says_so(void **state)
{
    struct fault_counts counts = {0};

    (void)state;
    faults_of(1, true, 20000, &counts);
    faults_of(1, false, 0, &counts);
    faults_of(2, true, 0, &counts);
    assert_true(counts.torn > 50 && counts.failed > counts.torn + 50);
}

/* They are there only to make swaps faster. */
static void test_copies_that_fail_are_done_without(void **state)
{
    static const char *const names[] = {"cudaMemcpyAsync", "cudaMemcpy2DAsync", "cudaMalloc"};
    const struct live_options options = {
        .base = FIXTURES "/base/gpt2", .threads = 1, .kept_max = UINT64_MAX};
    AUTO_CHOIR(choir);
    AUTO_TWIN(twin);
    unsigned without[3] = {0};

    (void)state;
    choir_open(&choir, FIXTURES "/base/gpt2", "gpt2", LAYOUT_PLAIN, true);
    twin_make(&twin, &choir.memory, 1);
    for (size_t i = 0; i < 3; i++) {
        for (unsigned nth = 1, more = 1; more; nth++) {
            AUTO_LIVE(live);
            live = live_of_twin(&twin, &options);
            unsigned made = emulated.calls(names[i]);
            emulated.fail_call(names[i], nth, CUDA_ERROR_MEMORY);
            int err = live_swap(NULL, live, &choir.adapters[4].snapshot);
            emulated.fail_call(NULL, 0, 0);
            more = emulated.calls(names[i]) - made >= nth;
            if (err == 0)
                assert_twin(&twin, &choir.adapters[4]);
            without[i] += more && err == 0;
            swap_to(&choir, &twin, live, 3);
            must(live_detach(NULL, live));
            assert_twin(&twin, &choir.base);
        }
    }
    assert_true(without[0] + without[1] >= 8 && without[2] >= 8); /* one for each weight */
}

static void test_a_device_that_fails_in_sealing_is_an_error(void **state)
{
    AUTO_CHOIR(choir);
    AUTO_TWIN(twin);
    unsigned failed = 0;

    (void)state;
    choir_open(&choir, FIXTURES "/base/gpt2", "gpt2", LAYOUT_PLAIN, true);
    twin_make(&twin, &choir.memory, 1);
    for (size_t i = 0; i < 2 * sizeof(calls) / sizeof(calls[0]); i++) {
        const struct live_options options = {.base = i % 2 ? FIXTURES "/base/gpt2" : NULL};
        for (unsigned nth = 1, more = 1; more; nth += 1 + nth / 4) {
            AUTO_LIVE(live);
            must(live_new(&live, &options));
            twin_register(live, &twin);
            unsigned made = emulated.calls(calls[i / 2]);
            emulated.fail_call(calls[i / 2], nth, CUDA_ERROR_ADDRESS);
            int err = live_seal(live);
            emulated.fail_call(NULL, 0, 0);
            more = emulated.calls(calls[i / 2]) - made >= nth;
            failed += err < 0;
            assert_true(err == 0 || err == E_DEVICE);
            assert_twin(&twin, &choir.base);
        }
    }
    assert_true(failed > 20);
}

/* Memory */

static void test_every_failed_allocation_leaves_every_byte(void **state)
{
    const struct live_options options = {
        .base = FIXTURES "/base/bert", .threads = 1, .kept_max = UINT64_MAX};
    AUTO_CHOIR(choir);
    AUTO_TWIN(twin);
    struct live_state before, after;
    int faults = 0;

    (void)state;
    emulated.devices(2);
    choir_open(&choir, FIXTURES "/base/bert", "bert", LAYOUTS, true);
    twin_make(&twin, &choir.memory, 2);
    for (int err = -1; err < 0; faults++) {
        AUTO_LIVE(live);
        live = live_of_twin(&twin, &options);
        live_status(&before, live);
        fault_after = faults;
        err = live_swap(&after, live, &choir.adapters[4].snapshot);
        bool ran_through = fault_after >= 0;
        fault_after = -1;
        assert_true(err == E_NOMEM || (err == 0 && ran_through));
        if (err < 0) {
            live_status(&after, live);
            assert_memory_equal(&before, &after, sizeof(before));
        }
        assert_twin(&twin, err < 0 ? &choir.base : &choir.adapters[4]);
        must(live_detach(NULL, live));
    }
    assert_true(faults > 50);
}

static size_t device_bytes(void)
{
    size_t unused, total;

    assert_int_equal(cuda.memory(&unused, &total), 0);
    return total - unused;
}

/* A and B of one adapter at a time have room: what a device has of the other's must go with them,
   since the next ones may lie where they have lain. */
static void test_few_bases_are_kept(void **state)
{
    static const char *const llama = FIXTURES "/base/llama";
    const struct live_options options = {.threads = 1, .basis_max = 2 * 32 * 176 * 4};
    AUTO_CHOIR(choir);
    AUTO_TWIN(twin);
    AUTO_LIVE(live);
    size_t taken = 0;

    (void)state;
    choir_open(&choir, llama, "llama-c llama-vectors-only", LAYOUT_PLAIN, false);
    for (size_t i = 0; i < 3; i++) {
        struct expected *added = &choir.adapters[choir.count];
        char name[] = "basis-0";
        name[6] = (char)('0' + i);
        write_changed(choir.dirs[0], name, "base_model.vera_A", (float)(i + 1));
        expected_make(added, &choir.memory, llama, name, false);
        choir.count++;
    }
    twin_make(&twin, &choir.memory, 1);
    live = live_of_twin(&twin, &options);
    for (size_t i = 0; i < 40; i++) {
        swap_to(&choir, &twin, live, random_below(choir.count));
        if (i == 10)
            taken = device_bytes();
        assert_true(i <= 10 || device_bytes() == taken);
    }
    must(live_detach(NULL, live));
    assert_twin(&twin, &choir.base);
}

/* Copies that a change made, of all kinds. */
static unsigned copies(void)
{
    return emulated.calls("cudaMemcpyAsync") + emulated.calls("cudaMemcpy2DAsync");
}

static void test_copies_are_kept_up_to_their_budget(void **state)
{
    static const uint64_t budgets[] = {0, 1000, 20000, 60000, UINT64_MAX};
    AUTO_CHOIR(choir);
    AUTO_TWIN(twin);
    size_t changed = 0, without = 0;
    unsigned brought = 0;

    (void)state;
    choir_open(&choir, FIXTURES "/base/gpt2", "gpt2", LAYOUT_PLAIN, true);
    twin_make(&twin, &choir.memory, 1);
    for (size_t i = 0; i < choir.memory.count; i++) {
        const struct buf *base = &choir.base.tensors[i], *with = &choir.adapters[4].tensors[i];
        changed += bytes_equal(buf_bytes(base), buf_bytes(with)) ? 0 : base->len;
    }
    for (size_t i = 0; i < sizeof(budgets) / sizeof(budgets[0]); i++) {
        const struct live_options options = {
            .base = FIXTURES "/base/gpt2", .threads = 1, .kept_max = budgets[i]};
        AUTO_LIVE(live);
        live = live_of_twin(&twin, &options);
        swap_to(&choir, &twin, live, 4);
        size_t bytes = device_bytes();
        unsigned before = copies();
        must(live_swap(NULL, live, &choir.adapters[3].snapshot));
        unsigned made = copies() - before;
        assert_int_equal(device_bytes(), bytes);
        if (i == 0) {
            without = bytes;
            brought = made;
        }
        assert_true(bytes >= without && bytes - without <= budgets[i]);
        assert_true(budgets[i] < 20000 ? made == brought : made < brought);
        assert_true(budgets[i] < UINT64_MAX || bytes - without == changed);
        must(live_detach(NULL, live));
        assert_twin(&twin, &choir.base);
    }
}

/* What is kept to make swaps faster makes none fail: it goes where a swap needs its memory. */
static void test_a_device_without_room_for_copies_does_without(void **state)
{
    const struct live_options options = {
        .base = FIXTURES "/base/llama", .threads = 1, .kept_max = UINT64_MAX};
    AUTO_CHOIR(choir);
    AUTO_TWIN(twin);
    size_t least = 0;

    (void)state;
    choir_open(&choir, FIXTURES "/base/llama", "llama-c llama-vectors-only", LAYOUT_PLAIN, true);
    twin_make(&twin, &choir.memory, 1);
    size_t before = device_bytes();
    for (size_t room = 4096; room < 8u << 20; room += room / 8) {
        AUTO_LIVE(live);
        emulated.memory(before + room);
        live = live_of_twin(&twin, &options);
        int err = live_swap(NULL, live, &choir.adapters[0].snapshot);
        if (err < 0) {
            assert_int_equal(err, E_DEVICE);
            assert_twin(&twin, &choir.base);
            assert_int_equal(least, 0);
            continue;
        }
        least = least ? least : room;
        assert_twin(&twin, &choir.adapters[0]);
        for (size_t i = 0; i < 4; i++)
            swap_to(&choir, &twin, live, i % 2 ? 0 : choir.count - 1);
        must(live_detach(NULL, live));
    }
    assert_true(least > 0);
}

/* A model with one weight here: the others are another process'. */
static void test_no_memory_grows_with_the_swaps(void **state)
{
    const struct live_options options = {.base = FIXTURES "/base/gpt2", .kept_max = 8192};
    AUTO_CHOIR(choir);
    AUTO_TWIN(twin);
    AUTO_LIVE(live);
    size_t host = 0, device = 0;
    unsigned allocations = 0;

    (void)state;
    choir_open(&choir, FIXTURES "/base/gpt2", "gpt2", LAYOUT_PLAIN, false);
    twin_make(&twin, &choir.memory, 1);
    must(live_new(&live, &options));
    for (size_t i = 0; i < choir.memory.count; i++) {
        struct memory_tensor *tensor = &choir.memory.tensors[i];
        struct live_place place = twin_place(&twin, tensor, 0);
        if (!strstr(tensor->name, "h.1.attn.c_proj.weight")) {
            place.data = NULL;
            place.on_device = false;
            tensor->part_count = 0;
        }
        must(live_register(live, &place));
    }
    must(live_seal(live));
    for (size_t i = 0; i < 10000; i++) {
        must(live_swap(NULL, live, &choir.adapters[1 + i % 3].snapshot));
        if (i == 300) { /* what the emulated device counts is counted by then */
            device = device_bytes();
            allocations = emulated.calls("cudaMalloc");
        } else if (i == 600) {
            host = mallinfo2().uordblks;
        }
    }
    assert_int_equal(mallinfo2().uordblks, host);
    assert_int_equal(device_bytes(), device);
    assert_int_equal(emulated.calls("cudaMalloc"), allocations);
    assert_twin(&twin, &choir.adapters[1 + 9999 % 3]);
    for (size_t i = 0; i < choir.memory.count; i++)
        choir.memory.tensors[i].part_count = 1;
}

int main(void)
{
#define TEST(name) cmocka_unit_test_setup_teardown(name, twin_setup, twin_teardown)
    const struct CMUnitTest tests[] = {
        TEST(test_a_device_that_fails_leaves_every_byte_or_says_so),
        TEST(test_copies_that_fail_are_done_without),
        TEST(test_a_device_that_fails_in_sealing_is_an_error),
        TEST(test_every_failed_allocation_leaves_every_byte),
        TEST(test_few_bases_are_kept),
        TEST(test_copies_are_kept_up_to_their_budget),
        TEST(test_a_device_without_room_for_copies_does_without),
        TEST(test_no_memory_grows_with_the_swaps),
    };

    return cmocka_run_group_tests(tests, twin_load, NULL);
}
