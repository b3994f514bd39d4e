/*
 * Tests of apply/cuda/batch.cu on the emulated device: the bits of batch_run() for any shape, type
 * and mix of adapters, in every order of a block's threads.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

extern "C" {
#include <cmocka.h>
}

#include <math.h>

#include <algorithm>
#include <vector>

#include "apply/cuda/batch.h"
#include "tests/cuda/emulated.h"

extern "C" {
#include "apply/batch.h"
}

namespace
{

const unsigned SHAPES = 180;

uint64_t random_state = 7;

uint32_t random_below(uint32_t n)
{
    random_state = random_state * UINT64_C(6364136223846793005) + UINT64_C(1442695040888963407);
    return static_cast<uint32_t>(random_state >> 33) % n;
}

/* Mostly about 1; now and then a zero, a subnormal, something large, or no number at all. */
float random_value(bool finite)
{
    static const float special[] = {0.0f,    -0.0f,    0x1p-149f, -0x1p-130f,
                                    0x1p60f, -0x1p70f, INFINITY,  NAN};
    uint32_t kind = random_below(40);

    if (kind < (finite ? 4u : 8u))
        return special[finite ? kind : kind % 8];
    return static_cast<float>(random_below(1u << 24)) * 0x1p-23f - 1;
}

std::vector<float> random_values(size_t count, bool finite)
{
    std::vector<float> values(count);

    for (float &value : values)
        value = random_value(finite);
    return values;
}

size_t size_of(enum dtype dtype)
{
    return dtype == DTYPE_F32 ? 4 : 2;
}

std::vector<uint8_t> elements_of(const std::vector<float> &values, enum dtype dtype)
{
    std::vector<uint8_t> bytes(values.size() * size_of(dtype) + 1);

    dtype_narrow(bytes.data(), values.data(), values.size(), dtype);
    return bytes;
}

std::vector<uint8_t> random_elements(size_t count, enum dtype dtype)
{
    return elements_of(random_values(count, false), dtype);
}

enum merge_dtype merge_dtype_of(enum dtype dtype)
{
    return dtype == DTYPE_F32 ? MERGE_F32 : dtype == DTYPE_BF16 ? MERGE_BF16 : MERGE_F16;
}

struct trial {
    size_t rank, in, out, in_max, adapters, rows, x_stride, y_stride, skip, at_a_time;
    enum dtype dtype, kept;
    std::vector<float> a, b_matrix;
    std::vector<int32_t> slots;
    std::vector<uint8_t> x, y, vectors; /* vectors: [adapters, rank + out + skip] */

    size_t vector_stride() const
    {
        return rank + out + skip;
    }

    bool has_adapter(size_t row) const
    {
        return slots[row] >= 0 && static_cast<size_t>(slots[row]) < adapters;
    }
};

size_t random_size()
{
    static const uint32_t sizes[] = {1, 2, 3, 15, 16, 17, 31, 32, 33, 63, 64, 65, 100, 130};

    return sizes[random_below(14)];
}

/* Mostly one of the adapters; else a number that is none's. */
int32_t random_slot(size_t adapters)
{
    const int32_t none[] = {-1, -1, INT32_MIN, INT32_MAX, static_cast<int32_t>(adapters)};

    if (random_below(4) == 0)
        return none[random_below(5)];
    return static_cast<int32_t>(random_below(static_cast<uint32_t>(adapters)));
}

trial trial_make(size_t rows, size_t rank, size_t in, size_t out)
{
    static const enum dtype dtypes[] = {DTYPE_F32, DTYPE_BF16, DTYPE_F16};
    trial t = {};

    t.rows = rows;
    t.rank = rank;
    t.in = in;
    t.out = out;
    t.in_max = in + random_below(2) * random_below(5);
    t.adapters = 1 + random_below(9);
    t.x_stride = in + random_below(2) * random_below(5);
    t.y_stride = out + random_below(2) * random_below(5);
    t.skip = random_below(2) * random_below(5);
    t.at_a_time = random_below(3) ? rows + random_below(3) + 1 : 1 + random_below(40);
    t.dtype = dtypes[random_below(3)];
    t.kept = dtypes[random_below(3)];
    t.a = random_values(rank * t.in_max, true);
    t.b_matrix = random_values(out * rank, true);
    t.vectors = elements_of(random_values(t.adapters * t.vector_stride(), true), t.kept);
    t.x = random_elements(rows * t.x_stride, t.dtype);
    t.y = random_elements(rows * t.y_stride, t.dtype);
    for (size_t i = 0; i < rows; i++)
        t.slots.push_back(random_slot(t.adapters));
    return t;
}

std::vector<uint8_t> on_cpu(const trial &t)
{
    std::vector<uint8_t> y = t.y;
    std::vector<float> a = t.a, b_matrix = t.b_matrix;
    std::vector<batch_row> rows;
    batch_basis packed = {};
    struct basis basis = {};

    basis.a = a.data();
    basis.b = b_matrix.data();
    basis.rank = t.rank;
    basis.in = t.in_max;
    basis.out = t.out;
    assert_int_equal(batch_basis_pack(&packed, &basis), 0);
    for (size_t i = 0; i < t.rows; i++) {
        size_t at = static_cast<size_t>(t.slots[i]) * t.vector_stride() * size_of(t.kept);
        if (t.has_adapter(i))
            rows.push_back({i, t.vectors.data() + at});
    }
    struct batch batch = {};
    batch.basis = &packed;
    batch.in = t.in;
    batch.out = t.out;
    batch.vectors = t.kept;
    batch.rows = rows.data();
    batch.row_count = rows.size();
    batch.dtype = t.dtype;
    batch.x = t.x.data();
    batch.x_stride = t.x_stride;
    batch.y = y.data();
    batch.y_stride = t.y_stride;
    assert_int_equal(batch_run(&batch, 1), 0);
    batch_basis_release(&packed);
    return y;
}

/* Device memory that holds a copy. */
template <typename T> struct device_copy {
    T *at = nullptr;

    explicit device_copy(const std::vector<T> &from)
    {
        size_t bytes = from.size() * sizeof(T);
        assert_int_equal(cudaMalloc(&at, bytes ? bytes : 1), cudaSuccess);
        assert_int_equal(cudaMemcpy(at, from.data(), bytes, cudaMemcpyHostToDevice), cudaSuccess);
    }
    device_copy(const device_copy &) = delete;
    ~device_copy()
    {
        cudaFree(at);
    }
};

std::vector<uint8_t> on_device(const trial &t)
{
    device_copy<float> a(t.a), b_matrix(t.b_matrix);
    device_copy<float> scaled(std::vector<float>(std::min(t.rows, t.at_a_time) * t.rank, NAN));
    device_copy<int32_t> slots(std::vector<int32_t>(t.rows, 12345));
    device_copy<uint8_t> x(t.x), y(t.y), vectors(t.vectors);
    std::vector<int32_t> own_slots = t.slots;
    std::vector<uint8_t> result(t.y.size());
    batch_job job = {};
    cudaStream_t stream;

    job.a = a.at;
    job.b_matrix = b_matrix.at;
    job.vectors = vectors.at;
    job.slots = slots.at;
    job.x = x.at;
    job.y = y.at;
    job.scaled = scaled.at;
    job.a_stride = t.in_max;
    job.vector_stride = t.vector_stride();
    job.x_stride = t.x_stride;
    job.y_stride = t.y_stride;
    job.rows = t.rows;
    job.in = t.in;
    job.out = t.out;
    job.rank = t.rank;
    job.slot_count = t.adapters;
    job.scaled_rows = t.at_a_time;
    job.dtype = merge_dtype_of(t.dtype);
    job.vectors_dtype = merge_dtype_of(t.kept);
    assert_int_equal(cudaStreamCreate(&stream), cudaSuccess);
    assert_int_equal(batch_slots_launch(slots.at, own_slots.data(), t.rows, stream), cudaSuccess);
    own_slots.assign(t.rows, -7); /* they were read */
    assert_int_equal(batch_exact_launch(&job, stream), cudaSuccess);
    assert_int_equal(cudaStreamSynchronize(stream), cudaSuccess);
    assert_int_equal(cudaStreamDestroy(stream), cudaSuccess);
    assert_int_equal(
        cudaMemcpy(result.data(), y.at, result.size(), cudaMemcpyDeviceToHost), cudaSuccess
    );
    return result;
}

void check_orders(const trial &t)
{
    static const unsigned orders[] = {EMULATED_FORWARD, EMULATED_REVERSE, 77};
    std::vector<uint8_t> wanted = on_cpu(t);

    for (unsigned order : orders) {
        emulated_fibers(order);
        assert_true(on_device(t) == wanted);
    }
}

void every_shape_has_the_cpus_bits(void **)
{
    for (unsigned n = 0; n < SHAPES; n++) {
        size_t rows = random_below(3) ? 1 + random_below(12) : random_size();
        size_t rank = random_size(), in = random_size();
        check_orders(trial_make(rows, rank, in, random_size()));
    }
}

/* Whole tiles, read 16 bytes at a time. */
void whole_tiles_have_the_cpus_bits(void **)
{
    for (unsigned n = 0; n < 6; n++) {
        trial t = trial_make(64, 128, 96, 128);
        t.in_max = t.x_stride = 96;
        t.y_stride = 128;
        t.a.resize(t.rank * t.in_max);
        t.x.resize(t.rows * t.x_stride * size_of(t.dtype));
        t.y.resize(t.rows * t.y_stride * size_of(t.dtype));
        check_orders(t);
    }
}

void rows_without_an_adapter_keep_their_bits(void **)
{
    trial t = trial_make(40, 20, 30, 70);

    for (int32_t none : {-1, INT32_MIN, INT32_MAX, static_cast<int32_t>(t.adapters)}) {
        t.slots.assign(t.rows, none);
        assert_true(on_device(t) == t.y);
    }
}

/* So many columns that the blocks are wide, whatever lies at their edges. */
void wide_blocks_have_the_cpus_bits(void **)
{
    const size_t many = 64 * 131 + 5;

    for (unsigned n = 0; n < 2; n++) {
        check_orders(trial_make(33 + random_below(40), random_size(), 2, many + n));
        check_orders(trial_make(33 + random_below(40), many + n, random_size(), 2));
        trial t = trial_make(64, 16, 12, many + 3);
        t.in_max = t.x_stride = 12;
        t.y_stride = many + 3;
        t.a.resize(t.rank * t.in_max);
        t.x.resize(t.rows * t.x_stride * size_of(t.dtype));
        t.y.resize(t.rows * t.y_stride * size_of(t.dtype));
        check_orders(t);
    }
}

/* More slots than one kernel's arguments. */
void many_rows_have_the_cpus_bits(void **)
{
    for (size_t rows : {999u, 1000u, 1001u, 2345u}) {
        trial t = trial_make(rows, 3, 2, 5);
        emulated_fibers(EMULATED_FORWARD);
        assert_true(on_device(t) == on_cpu(t));
    }
}

void what_cannot_be_launched_is_said(void **)
{
    batch_job job = {};

    assert_int_equal(batch_exact_launch(&job, nullptr), cudaSuccess);
    assert_int_equal(emulated_calls("cudaLaunchKernel"), 0);
    job.rows = job.out = job.rank = job.scaled_rows = 1;
    emulated_fail("cudaLaunchKernel", 1, cudaErrorNoKernelImageForDevice);
    assert_int_equal(batch_exact_launch(&job, nullptr), cudaErrorNoKernelImageForDevice);
    assert_int_equal(emulated_calls("cudaLaunchKernel"), 1);
    const int32_t slots[2000] = {};
    emulated_fail("cudaLaunchKernel", 2, cudaErrorNoKernelImageForDevice);
    device_copy<int32_t> to(std::vector<int32_t>(2000, 0));
    assert_int_equal(
        batch_slots_launch(to.at, slots, 2000, nullptr), cudaErrorNoKernelImageForDevice
    );
    assert_int_equal(emulated_calls("cudaLaunchKernel"), 3);
}

/* Tiles of one launch stay below 2^31. */
void a_launch_takes_as_many_rows_as_it_has_tiles_for(void **)
{
    const uint64_t most = INT32_MAX;
    const struct {
        uint64_t rank, out, rows;
    } cases[] = {
        {1, 1, 32 * most},         {64, 64, 32 * most},
        {64, 65, 32 * (most / 2)}, {4096, 64, 32 * (most / 64)},
        {64, 64 * most, 32},       {64, 64 * most + 1, 0},
        {64, UINT64_MAX, 0},
    };

    for (const auto &wanted : cases) {
        batch_job job = {};
        job.rank = wanted.rank;
        job.out = wanted.out;
        assert_true(batch_launch_rows(&job) == wanted.rows);
        job.rows = job.scaled_rows = 1;
        if (wanted.rows == 0)
            assert_int_equal(batch_exact_launch(&job, nullptr), cudaErrorInvalidConfiguration);
    }
    assert_int_equal(emulated_calls("cudaLaunchKernel"), 0);
}

int setup(void **)
{
    emulated_reset();
    return 0;
}

int teardown(void **)
{
    return static_cast<int>(emulated_leaks());
}

} // namespace

int main()
{
    const CMUnitTest tests[] = {
        {"every_shape_has_the_cpus_bits", every_shape_has_the_cpus_bits, setup, teardown, nullptr},
        {"whole_tiles_have_the_cpus_bits", whole_tiles_have_the_cpus_bits, setup, teardown,
         nullptr},
        {"rows_without_an_adapter_keep_their_bits", rows_without_an_adapter_keep_their_bits, setup,
         teardown, nullptr},
        {"wide_blocks_have_the_cpus_bits", wide_blocks_have_the_cpus_bits, setup, teardown,
         nullptr},
        {"many_rows_have_the_cpus_bits", many_rows_have_the_cpus_bits, setup, teardown, nullptr},
        {"a_launch_takes_as_many_rows_as_it_has_tiles_for",
         a_launch_takes_as_many_rows_as_it_has_tiles_for, setup, teardown, nullptr},
        {"what_cannot_be_launched_is_said", what_cannot_be_launched_is_said, setup, teardown,
         nullptr},
    };

    return cmocka_run_group_tests(tests, nullptr, nullptr);
}
