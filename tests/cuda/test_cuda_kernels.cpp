/*
 * Tests of the kernels of apply/cuda on the emulated device. Exact mode must give the bits of
 * kernel_merge() and of the three plain loops below, for any shape and in every order of a block's
 * threads; fast mode must stay within the bound that merge_fast.cu states, against float64.
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

#include "apply/cuda/kernels.h"
#include "apply/cuda/tensor_core.h"
#include "tests/cuda/emulated.h"

extern "C" {
#include "apply/kernel.h"
}

namespace
{

const unsigned SHAPES = 240;

uint64_t random_state = 20250601;

uint32_t random_u32()
{
    random_state = random_state * UINT64_C(6364136223846793005) + UINT64_C(1442695040888963407);
    return static_cast<uint32_t>(random_state >> 33) ^ static_cast<uint32_t>(random_state >> 13);
}

uint32_t random_below(uint32_t n)
{
    return random_u32() % n;
}

float float_of(uint32_t bits)
{
    float value;

    memcpy(&value, &bits, sizeof(value));
    return value;
}

uint32_t bits_of(float value)
{
    uint32_t bits;

    memcpy(&bits, &value, sizeof(bits));
    return bits;
}

float random_unit()
{
    return static_cast<float>(static_cast<int32_t>(random_u32())) * 0x1p-31f;
}

/* Finite: mostly about 1, sometimes a zero, a subnormal or very large. */
float random_finite(unsigned zeros_of_64)
{
    static const float extreme[] = {0x1p-149f,       -0x1.8p-130f, 0x1p-126f,
                                    0x1.fffffep127f, -0x1p100f,    0x1p-80f};
    uint32_t kind = random_below(64);

    if (kind < zeros_of_64)
        return kind % 2 ? 0.0f : -0.0f;
    return kind == 63 ? extreme[random_below(6)] : random_unit();
}

/* Any bits a weight may have. */
uint32_t random_weight_bits()
{
    static const uint32_t special[] = {0x80000000, 0,          0x7f800000, 0xff800000,
                                       0x7fc00000, 0xffc00001, 0x7f800001, 0xffabcdef,
                                       0x00000001, 0x807fffff, 0x7f7fffff};
    uint32_t kind = random_below(16);

    if (kind == 0)
        return special[random_below(sizeof(special) / sizeof(special[0]))];
    return kind == 1 ? random_u32() : bits_of(random_unit());
}

/* Device memory that holds a copy. */
struct device_copy {
    void *at = nullptr;

    device_copy(const void *from, size_t bytes)
    {
        assert_int_equal(cudaMalloc(&at, bytes), cudaSuccess);
        assert_int_equal(cudaMemcpy(at, from, bytes, cudaMemcpyHostToDevice), cudaSuccess);
    }
    device_copy(const device_copy &) = delete;
    device_copy(device_copy &&other) : at(other.at)
    {
        other.at = nullptr;
    }
    ~device_copy()
    {
        cudaFree(at);
    }
};

struct term {
    std::vector<float> a, b_matrix, d, b, factor;
    uint64_t a_stride, rank;
    float weight;
    size_t a_skip, b_skip; /* floats before A and B, so that they are not aligned */
};

struct module {
    enum dtype dtype;
    bool transposed;
    uint64_t out, in;            /* of the whole matrix */
    uint64_t row_begin, row_end; /* of the range */
    uint64_t from_stride, to_stride, from_skip, to_skip;
    uint32_t from_step, to_step; /* 1: the columns of a row are side by side */
    bool in_place;
    std::vector<uint8_t> whole; /* W, contiguous */
    std::vector<term> terms;

    size_t size() const
    {
        return dtype == DTYPE_F32 ? 4 : 2;
    }
    uint64_t cols() const
    {
        return transposed ? out : in;
    }
    uint64_t rows() const
    {
        return row_end - row_begin;
    }
};

struct shape {
    enum dtype dtype;
    bool transposed;
    uint64_t out, in, rank;
    unsigned terms;
    bool extreme; /* any bits in W, and extreme numbers */
};

std::vector<float> numbers(size_t count, unsigned zeros, bool extreme)
{
    std::vector<float> values(count);

    for (float &value : values)
        value = extreme ? random_finite(zeros) : random_below(64) < zeros ? 0 : random_unit();
    return values;
}

void weights_make(module *module, bool extreme)
{
    module->whole.resize(module->out * module->in * module->size());
    for (size_t i = 0; i < module->out * module->in; i++) {
        uint32_t bits = extreme ? random_weight_bits() : bits_of(random_unit());
        uint16_t half = static_cast<uint16_t>(bits >> 16);
        if (module->dtype == DTYPE_F16 && (!extreme || random_below(16)))
            half = f16_from_float(float_of(bits));
        if (module->dtype == DTYPE_F32)
            memcpy(&module->whole[4 * i], &bits, 4);
        else
            memcpy(&module->whole[2 * i], &half, 2);
    }
}

/* How a matrix lies in memory: rows after each other, or every n-th column of something wider, or
   columns after each other. */
void lie(uint64_t *stride, uint32_t *step, uint64_t *skip, const module &module)
{
    uint32_t kind = random_below(6);

    *skip = random_below(2) ? random_below(5) : 0;
    *step = kind == 0 ? 2 + random_below(3) : 1;
    *stride = module.cols() * *step + (random_below(2) ? random_below(7) : 0);
    if (kind == 1) {
        *stride = 1;
        *step = static_cast<uint32_t>(module.transposed ? module.in : module.out);
        *step += random_below(3);
    }
}

/* Rows of [1, whole] of it, strides and offsets that are aligned or not, in place or not. */
void range_make(module *module)
{
    uint64_t all = module->transposed ? module->in : module->out;

    module->row_begin = random_below(3) ? 0 : random_below(static_cast<uint32_t>(all));
    module->row_end = all;
    if (random_below(2))
        module->row_end -= random_below(static_cast<uint32_t>(all - module->row_begin));
    lie(&module->from_stride, &module->from_step, &module->from_skip, *module);
    lie(&module->to_stride, &module->to_step, &module->to_skip, *module);
    module->in_place = random_below(2) != 0;
    if (module->in_place) {
        module->to_stride = module->from_stride;
        module->to_step = module->from_step;
        module->to_skip = module->from_skip;
    }
}

module module_make(const shape &shape)
{
    static const float weights[] = {1, 1, 1, 0.5f, -0.3f, 1e-30f, 0};
    module module = {};

    module.dtype = shape.dtype;
    module.transposed = shape.transposed;
    module.out = shape.out;
    module.in = shape.in;
    weights_make(&module, shape.extreme);
    range_make(&module);
    for (unsigned s = 0; s < shape.terms; s++) {
        term term = {};
        term.rank = s ? 1 + random_below(static_cast<uint32_t>(shape.rank)) : shape.rank;
        term.a_stride = shape.in + (random_below(2) ? 0 : random_below(4));
        term.a_skip = random_below(2) ? 0 : random_below(4);
        term.b_skip = random_below(2) ? 0 : random_below(4);
        term.a = numbers(term.a_skip + term.rank * term.a_stride, 1, shape.extreme);
        term.b_matrix = numbers(
            term.b_skip + (shape.out + random_below(3)) * term.rank, 1, shape.extreme
        );
        term.d = numbers(term.rank, 4, shape.extreme);
        term.b = numbers(shape.out, s ? 30 : 12, shape.extreme);
        term.weight = shape.extreme ? weights[random_below(shape.terms == 1 ? 3 : 7)] : 1;
        for (float b : term.b) {
            volatile float rounded = term.weight * b;
            float factor = rounded;
            term.factor.push_back(factor);
        }
        module.terms.push_back(std::move(term));
    }
    return module;
}

/* ---- Merging on the device ---- */

enum merge_dtype device_dtype(enum dtype dtype)
{
    return dtype == DTYPE_F32 ? MERGE_F32 : dtype == DTYPE_BF16 ? MERGE_BF16 : MERGE_F16;
}

/* What lies between a matrix's elements, in memory. */
const uint8_t FILL = 0x77;

/* Memory that holds the range as it lies, in FILL: with `skip` elements before and behind it. */
std::vector<uint8_t>
strided(const module &module, uint64_t stride, uint32_t step, uint64_t skip, bool with_weights)
{
    size_t size = module.size();
    std::vector<uint8_t> bytes(
        (2 * skip + (module.rows() - 1) * stride + (module.cols() - 1) * step + 1) * size, FILL
    );

    for (uint64_t n = 0; n < module.rows() * module.cols() && with_weights; n++) {
        uint64_t i = n / module.cols(), j = n % module.cols();
        memcpy(
            &bytes[(skip + i * stride + j * step) * size],
            &module.whole[((module.row_begin + i) * module.cols() + j) * size], size
        );
    }
    return bytes;
}

/* The result, contiguous, out of memory in which nothing else was written. */
std::vector<uint8_t> gathered(const module &module, std::vector<uint8_t> bytes)
{
    size_t size = module.size();
    std::vector<uint8_t> rows(module.rows() * module.cols() * size);

    for (uint64_t n = 0; n < module.rows() * module.cols(); n++) {
        uint64_t i = n / module.cols(), j = n % module.cols();
        uint8_t *at = &bytes[(module.to_skip + i * module.to_stride + j * module.to_step) * size];
        memcpy(&rows[n * size], at, size);
        memset(at, FILL, size);
    }
    for (uint8_t byte : bytes)
        assert_int_equal(byte, FILL);
    return rows;
}

/* What a launch reads and writes, on the device. */
struct launch {
    std::vector<device_copy> copies;
    std::vector<merge_tensor> tensors;
    std::vector<merge_term> terms;
    std::vector<const uint8_t *> results; /* with what is before them */

    template <typename T> T *copy(const std::vector<T> &values)
    {
        copies.emplace_back(values.data(), values.size() * sizeof(T));
        return static_cast<T *>(copies.back().at);
    }
    void add(const module &module);
};

void launch::add(const module &module)
{
    merge_tensor tensor = {};
    size_t size = module.size();

    uint8_t *from = copy(
        strided(module, module.from_stride, module.from_step, module.from_skip, true)
    );
    uint8_t *to = from;
    if (!module.in_place)
        to = copy(strided(module, module.to_stride, module.to_step, module.to_skip, false));
    tensor.from = from + module.from_skip * size;
    tensor.to = to + module.to_skip * size;
    tensor.rows = module.rows();
    tensor.cols = module.cols();
    tensor.from_stride = module.from_stride;
    tensor.to_stride = module.to_stride;
    tensor.from_step = module.from_step;
    tensor.to_step = module.to_step;
    tensor.first_row = module.row_begin;
    tensor.dtype = device_dtype(module.dtype);
    tensor.transposed = module.transposed;
    tensor.term_begin = static_cast<uint32_t>(terms.size());
    tensor.term_count = static_cast<uint32_t>(module.terms.size());
    for (const term &term : module.terms) {
        uint64_t first = module.transposed ? 0 : module.row_begin;
        terms.push_back({
            copy(term.a) + term.a_skip,
            copy(term.b_matrix) + term.b_skip,
            copy(term.d),
            copy(term.factor) + first,
            term.a_stride,
            term.rank,
        });
    }
    results.push_back(to);
    tensors.push_back(tensor);
}

typedef cudaError_t launch_function(
    const merge_grid *, const merge_tensor *, uint32_t, const merge_term *, cudaStream_t
);

/* The range of each module after one launch for all, contiguous. */
std::vector<std::vector<uint8_t>>
merge(const std::vector<module> &modules, launch_function *function, uint32_t edge = 0)
{
    launch launch;
    merge_grid grid;
    cudaStream_t stream;
    std::vector<std::vector<uint8_t>> merged;

    for (const module &module : modules)
        launch.add(module);
    uint32_t count = static_cast<uint32_t>(modules.size());
    assert_true(merge_grid_make(&grid, launch.tensors.data(), count));
    if (edge == 128) { /* as a large launch has it */
        grid = {0, edge};
        for (merge_tensor &tensor : launch.tensors) {
            tensor.tile_begin = grid.tiles;
            grid.tiles += static_cast<uint32_t>(
                (tensor.rows + edge - 1) / edge * ((tensor.cols + edge - 1) / edge)
            );
        }
    }
    const merge_tensor *tensors = launch.copy(launch.tensors);
    if (launch.terms.empty())
        launch.terms.emplace_back();
    const merge_term *terms = launch.copy(launch.terms);
    assert_int_equal(cudaStreamCreate(&stream), cudaSuccess);
    assert_int_equal(function(&grid, tensors, count, terms, stream), cudaSuccess);
    assert_int_equal(cudaStreamSynchronize(stream), cudaSuccess);
    assert_int_equal(cudaStreamDestroy(stream), cudaSuccess);
    for (size_t i = 0; i < modules.size(); i++) {
        const module &module = modules[i];
        std::vector<uint8_t> bytes = strided(
            module, module.to_stride, module.to_step, module.to_skip, false
        );
        assert_int_equal(
            cudaMemcpy(bytes.data(), launch.results[i], bytes.size(), cudaMemcpyDeviceToHost),
            cudaSuccess
        );
        merged.push_back(gathered(module, std::move(bytes)));
    }
    return merged;
}

/* ---- What it must give ---- */

float load(const module &module, uint64_t index)
{
    float value;

    dtype_widen(&value, &module.whole[index * module.size()], 1, module.dtype);
    return value;
}

std::vector<uint8_t> plain_loops(const module &module)
{
    size_t size = module.size(), row = module.cols() * size;
    std::vector<uint8_t> expected(
        module.whole.begin() + static_cast<ptrdiff_t>(module.row_begin * row),
        module.whole.begin() + static_cast<ptrdiff_t>(module.row_end * row)
    );

    for (uint64_t n = 0; n < module.rows() * module.cols(); n++) {
        uint64_t row_at = module.row_begin + n / module.cols(), col = n % module.cols();
        uint64_t i = module.transposed ? col : row_at, j = module.transposed ? row_at : col;
        float y = load(module, row_at * module.cols() + col);
        bool touched = false;
        for (const term &term : module.terms) {
            float acc = 0;
            if (term.factor[i] == 0)
                continue;
            for (uint64_t k = 0; k < term.rank; k++) {
                volatile float t = term.d[k] * term.a[term.a_skip + k * term.a_stride + j];
                acc = fmaf(term.b_matrix[term.b_skip + i * term.rank + k], t, acc);
            }
            y = fmaf(term.factor[i], acc, y);
            touched = true;
        }
        uint32_t f32 = isnan(y) ? 0x7fc00000 : bits_of(y);
        uint16_t half = module.dtype == DTYPE_BF16 ? bf16_from_float(y) : f16_from_float(y);
        if (touched)
            memcpy(
                &expected[n * size], module.dtype == DTYPE_F32 ? static_cast<void *>(&f32) : &half,
                size
            );
    }
    return expected;
}

std::vector<uint8_t> on_cpu(const module &module)
{
    std::vector<uint8_t> bytes = strided(module, module.cols(), 1, 0, true);
    std::vector<kernel_term> terms;

    for (const term &term : module.terms)
        terms.push_back(
            {term.a.data() + term.a_skip, term.b_matrix.data() + term.b_skip, term.d.data(),
             term.b.data(), term.a_stride, term.rank, term.weight}
        );
    assert_int_equal(
        kernel_merge(
            bytes.data(), module.dtype, module.out, module.in, module.transposed, module.row_begin,
            module.row_end, terms.data(), terms.size(), 1
        ),
        0
    );
    return bytes;
}

void assert_bits(const std::vector<uint8_t> &got, const std::vector<uint8_t> &expected)
{
    assert_int_equal(got.size(), expected.size());
    assert_memory_equal(got.data(), expected.data(), got.size());
}

/* Shapes of all kinds: mostly small and odd, some above a tile. */
shape random_shape()
{
    static const uint64_t primes[] = {1, 2, 3, 5, 7, 13, 31, 61, 67, 127, 131, 257};
    static const enum dtype dtypes[] = {DTYPE_F32, DTYPE_BF16, DTYPE_F16};
    shape shape = {};

    shape.dtype = dtypes[random_below(3)];
    shape.transposed = random_below(2) != 0;
    shape.out = random_below(2) ? primes[random_below(12)] : 1 + random_below(96);
    shape.in = random_below(2) ? primes[random_below(12)] : 1 + random_below(96);
    shape.rank = random_below(4) ? 1 + random_below(20) : random_below(2) ? 1 : 33;
    shape.terms = random_below(3) ? 1 : 2 + random_below(2);
    shape.extreme = true;
    return shape;
}

const unsigned fiber_orders[] = {EMULATED_FORWARD, EMULATED_REVERSE, 77};

/* ---- The tests ---- */

void every_shape_has_the_cpus_bits(void **)
{
    for (unsigned n = 0; n < SHAPES; n++) {
        std::vector<module> modules;
        modules.push_back(module_make(random_shape()));
        std::vector<uint8_t> expected = plain_loops(modules[0]);
        assert_bits(on_cpu(modules[0]), expected);
        for (unsigned order : fiber_orders) {
            emulated_fibers(order);
            assert_bits(merge(modules, merge_exact_launch)[0], expected);
        }
    }
}

/* Whole tiles of both sizes, read 16 bytes at a time, and one element more. */
void tiles_and_their_edges_have_the_cpus_bits(void **)
{
    static const shape shapes[] = {
        {DTYPE_F32, false, 128, 128, 16, 1, true},  {DTYPE_BF16, false, 128, 128, 8, 1, true},
        {DTYPE_F32, true, 128, 256, 8, 2, true},    {DTYPE_F16, true, 128, 128, 24, 1, true},
        {DTYPE_BF16, false, 129, 130, 9, 2, true},  {DTYPE_F32, false, 64, 64, 256, 1, true},
        {DTYPE_BF16, true, 127, 129, 256, 1, true},
    };

    for (const shape &shape : shapes) {
        for (uint32_t edge : {64u, 128u}) {
            std::vector<module> modules;
            modules.push_back(module_make(shape));
            modules[0].row_begin = 0; /* all of it */
            modules[0].row_end = shape.transposed ? shape.in : shape.out;
            for (unsigned order : fiber_orders) {
                emulated_fibers(order);
                assert_bits(merge(modules, merge_exact_launch, edge)[0], plain_loops(modules[0]));
            }
        }
    }
}

void one_launch_merges_many_modules(void **)
{
    std::vector<module> modules;

    for (unsigned n = 0; n < 60; n++)
        modules.push_back(module_make(random_shape()));
    std::vector<std::vector<uint8_t>> merged = merge(modules, merge_exact_launch);
    assert_int_equal(emulated_calls("cudaLaunchKernel"), 1);
    for (size_t i = 0; i < modules.size(); i++)
        assert_bits(merged[i], plain_loops(modules[i]));
}

/* Without terms: every bit of any NaN, too. */
void without_terms_it_is_a_copy(void **)
{
    for (launch_function *function : {merge_exact_launch, merge_fast_launch}) {
        for (unsigned n = 0; n < 60; n++) {
            std::vector<module> modules;
            shape shape = random_shape();
            shape.terms = 0;
            modules.push_back(module_make(shape));
            for (uint8_t &byte : modules[0].whole)
                byte = static_cast<uint8_t>(random_u32());
            assert_bits(
                merge(modules, function, n % 2 ? 128 : 0)[0],
                strided(modules[0], modules[0].cols(), 1, 0, true)
            );
        }
    }
}

/* ---- Fast mode ---- */

double load_result(const module &module, const std::vector<uint8_t> &bytes, uint64_t index)
{
    float value;

    dtype_widen(&value, &bytes[index * module.size()], 1, module.dtype);
    return static_cast<double>(value);
}

/* Half a step of the weights' type at y: what rounding to it may cost. */
double half_step(const module &module, double y)
{
    int digits = module.dtype == DTYPE_F32 ? 24 : module.dtype == DTYPE_BF16 ? 8 : 11;
    int lowest = module.dtype == DTYPE_F16 ? -24 : module.dtype == DTYPE_BF16 ? -133 : -149;
    int exponent;

    frexp(fabs(y), &exponent);
    return ldexp(0.5, std::max(exponent - digits, lowest));
}

/* The element of the range in float64, and the bound of merge_fast.cu. */
void truth(double *y, double *bound, const module &module, uint64_t n)
{
    uint64_t row = module.row_begin + n / module.cols(), col = n % module.cols();
    uint64_t i = module.transposed ? col : row, j = module.transposed ? row : col;
    double u = module.dtype == DTYPE_BF16 ? 0x1p-8 : 0x1p-11, sum = 0, size = 0, ranks = 0;

    for (const term &term : module.terms) {
        ranks += static_cast<double>(term.rank);
        for (uint64_t k = 0; k < term.rank; k++) {
            double product = static_cast<double>(term.factor[i]) *
                             static_cast<double>(term.b_matrix[term.b_skip + i * term.rank + k]) *
                             static_cast<double>(term.d[k]) *
                             static_cast<double>(term.a[term.a_skip + k * term.a_stride + j]);
            sum += product;
            size += fabs(product);
        }
    }
    *y = static_cast<double>(load(module, row * module.cols() + col)) + sum;
    *bound = (2.01 * u + ranks * 0x1p-22) * size + 0x1p-24 * fabs(*y) + ranks * 0x1p-125;
}

void assert_within_bound(const module &module, const std::vector<uint8_t> &merged)
{
    for (uint64_t n = 0; n < module.rows() * module.cols(); n++) {
        double y, bound, got = load_result(module, merged, n);
        truth(&y, &bound, module, n);
        if (!(fabs(got - y) <= bound + half_step(module, fabs(y) + bound)))
            fail_msg(
                "element %zu: %.9g instead of %.9g +- %.3g", static_cast<size_t>(n), got, y, bound
            );
    }
}

void fast_mode_stays_within_its_bound(void **)
{
    for (unsigned n = 0; n < SHAPES; n++) {
        std::vector<module> modules;
        shape shape = random_shape();
        shape.extreme = false;
        modules.push_back(module_make(shape));
        std::vector<uint8_t> merged = merge(modules, merge_fast_launch)[0];
        assert_within_bound(modules[0], merged);
        emulated_fibers(fiber_orders[1 + n % 2]);
        assert_bits(merge(modules, merge_fast_launch)[0], merged);
        emulated_fibers(EMULATED_FORWARD);
    }
}

void fast_tiles_and_their_edges_stay_within_the_bound(void **)
{
    static const shape shapes[] = {
        {DTYPE_F32, false, 128, 128, 32, 1, false}, {DTYPE_BF16, false, 128, 128, 16, 1, false},
        {DTYPE_F32, true, 128, 128, 16, 2, false},  {DTYPE_BF16, true, 128, 256, 48, 1, false},
        {DTYPE_F16, true, 129, 130, 17, 2, false},  {DTYPE_BF16, false, 127, 129, 40, 2, false},
    };

    for (const shape &shape : shapes) {
        for (uint32_t edge : {64u, 128u}) {
            std::vector<module> modules;
            modules.push_back(module_make(shape));
            modules[0].row_begin = 0; /* all of it */
            modules[0].row_end = shape.transposed ? shape.in : shape.out;
            std::vector<uint8_t> merged = merge(modules, merge_fast_launch, edge)[0];
            assert_within_bound(modules[0], merged);
            emulated_fibers(EMULATED_REVERSE);
            assert_bits(merge(modules, merge_fast_launch, edge)[0], merged);
            emulated_fibers(EMULATED_FORWARD);
        }
    }
}

/* A bound of twice the narrow type's step is reached to a good part: it is not there for show. */
void fast_mode_is_not_exact_mode(void **)
{
    std::vector<module> modules;
    double worst = 0;

    modules.push_back(module_make({DTYPE_F32, false, 61, 67, 1, 1, false}));
    std::vector<uint8_t> merged = merge(modules, merge_fast_launch)[0];
    for (uint64_t n = 0; n < modules[0].rows() * modules[0].cols(); n++) {
        double y, bound;
        truth(&y, &bound, modules[0], n);
        worst = std::max(worst, fabs(load_result(modules[0], merged, n) - y) / bound);
    }
    assert_true(worst > 0.2 && worst < 1);
}

/* What is not touched keeps its bits, a NaN is the one of its type: in fast mode as in exact. */
void fast_mode_keeps_rows_and_nans(void **)
{
    static const enum dtype dtypes[] = {DTYPE_F32, DTYPE_BF16, DTYPE_F16};

    for (unsigned n = 0; n < 24; n++) {
        std::vector<module> modules;
        modules.push_back(module_make({dtypes[n % 3], n % 2 != 0, 67, 31, 5, n % 4 ? 1u : 2u, true})
        );
        module &module = modules[0];
        for (term &term : module.terms) /* extreme in W alone */
            for (auto *values : {&term.a, &term.b_matrix, &term.d})
                for (float &value : *values)
                    value = random_unit();
        for (term &term : module.terms)
            for (float &factor : term.factor)
                factor = fabsf(factor) > 1 ? 1 : factor;
        std::vector<uint8_t> merged = merge(modules, merge_fast_launch)[0];
        std::vector<uint8_t> exact = plain_loops(module);
        for (uint64_t at = 0; at < module.rows() * module.cols(); at++) {
            uint64_t row = module.row_begin + at / module.cols(), col = at % module.cols();
            bool touched = false;
            for (const term &term : module.terms)
                touched |= term.factor[module.transposed ? col : row] != 0;
            float w = load(module, row * module.cols() + col);
            if (!touched || !isfinite(w))
                assert_memory_equal(
                    &merged[at * module.size()], &exact[at * module.size()], module.size()
                );
        }
    }
}

/* ---- The twins of what tensor cores do ---- */

const unsigned PRODUCT_M = 2, PRODUCT_N = 3;

struct product {
    float left[16 * PRODUCT_M][16], right[16][8 * PRODUCT_N], sums[16 * PRODUCT_M][8 * PRODUCT_N];
};

/* One warp: fragments as the PTX manual lays them out, written down here once more. */
template <bool BF16> void product_kernel(product *product)
{
    const unsigned lane = threadIdx.x, g = lane / 4, t = lane % 4;
    uint32_t left[PRODUCT_M][4], right[PRODUCT_N][2];
    float sums[PRODUCT_M][PRODUCT_N][4];

    for (unsigned m = 0; m < PRODUCT_M; m++) {
        for (unsigned i = 0; i < 4; i++) {
            const float *row = product->left[16 * m + g + (i % 2 ? 8 : 0)];
            unsigned k = BF16 ? 2 * t + (i > 1 ? 8 : 0) : t + (i > 1 ? 4 : 0);
            left[m][i] = BF16 ? bf16_round_pair(row[k], row[k + 1]) : tf32_round(row[k]);
        }
    }
    for (unsigned n = 0; n < PRODUCT_N; n++) {
        for (unsigned i = 0; i < 2; i++) {
            unsigned col = 8 * n + g, k = BF16 ? 2 * t + 8 * i : t + 4 * i;
            right[n][i] = BF16 ? bf16_round_pair(product->right[k][col], product->right[k + 1][col])
                               : tf32_round(product->right[k][col]);
        }
    }
    for (unsigned i = 0; i < PRODUCT_M * PRODUCT_N * 4; i++) {
        unsigned m = i / 4 / PRODUCT_N, n = i / 4 % PRODUCT_N, c = i % 4;
        sums[m][n][c] = product->sums[16 * m + g + (c > 1 ? 8 : 0)][8 * n + 2 * t + c % 2];
    }
    warp_multiply<BF16>(sums, left, right);
    for (unsigned i = 0; i < PRODUCT_M * PRODUCT_N * 4; i++) {
        unsigned m = i / 4 / PRODUCT_N, n = i / 4 % PRODUCT_N, c = i % 4;
        product->sums[16 * m + g + (c > 1 ? 8 : 0)][8 * n + 2 * t + c % 2] = sums[m][n][c];
    }
}

/* Small integers: every product and sum is exact, so the order does not matter. */
template <bool BF16> void product_check()
{
    const unsigned depth = BF16 ? 16 : 8;
    product product, expected;
    cudaLaunchConfig_t config = {};

    for (float *value = product.left[0]; value < product.sums[0] + sizeof(product.sums) / 4;
         value++)
        *value = static_cast<float>(static_cast<int>(random_below(101)) - 50);
    expected = product;
    for (unsigned i = 0; i < 16 * PRODUCT_M; i++) {
        for (unsigned j = 0; j < 8 * PRODUCT_N; j++) {
            for (unsigned k = 0; k < depth; k++)
                expected.sums[i][j] += product.left[i][k] * product.right[k][j];
        }
    }
    device_copy copy(&product, sizeof(product));
    config.gridDim = dim3(1);
    config.blockDim = dim3(32);
    assert_int_equal(
        cudaLaunchKernelEx(&config, product_kernel<BF16>, static_cast<struct product *>(copy.at)),
        cudaSuccess
    );
    assert_int_equal(
        cudaMemcpy(&product, copy.at, sizeof(product), cudaMemcpyDeviceToHost), cudaSuccess
    );
    assert_memory_equal(product.sums, expected.sums, sizeof(product.sums));
}

void a_warps_product_is_a_plain_product(void **)
{
    for (unsigned order : fiber_orders) {
        emulated_fibers(order);
        product_check<false>();
        product_check<true>();
    }
}

void narrow_types_round_as_the_hardware_does(void **)
{
    static const struct {
        uint32_t bits, tf32;
        uint16_t bf16;
    } rows[] = {
        {0x3f800000, 0x3f800000, 0x3f80}, {0x3f800fff, 0x3f800000, 0x3f80},
        {0x3f801000, 0x3f802000, 0x3f80}, /* a tie: away, to even */
        {0x3f803000, 0x3f804000, 0x3f80}, {0xbf808000, 0xbf808000, 0xbf80},
        {0xbf818000, 0xbf818000, 0xbf82}, {0x3fffffff, 0x40000000, 0x4000},
        {0x80000000, 0x80000000, 0x8000}, {0x00001000, 0x00002000, 0x0000},
    };

    for (auto &row : rows) {
        assert_int_equal(tf32_round(float_of(row.bits)), row.tf32);
        assert_int_equal(bf16_round_pair(float_of(row.bits), 1.0f), 0x3f800000u | row.bf16);
        assert_int_equal(bf16_from_float(float_of(row.bits)), row.bf16);
    }
}

/* -0 as a sum must not become +0 where k is filled up to a slab. */
void a_sum_of_minus_zero_keeps_its_sign(void **)
{
    for (uint64_t rank = 1; rank <= 9; rank++) {
        std::vector<module> modules;
        modules.push_back(module_make({DTYPE_F32, false, 3, 5, rank, 1, false}));
        term &term = modules[0].terms[0];
        for (float &value : term.a)
            value = 0x1p-100f;
        for (float &value : term.b_matrix)
            value = -0x1p-100f; /* the product rounds to -0 */
        for (float &value : term.d)
            value = 1;
        for (float &value : term.factor)
            value = 1;
        for (size_t i = 0; i < modules[0].whole.size(); i += 4)
            memset(&modules[0].whole[i], 0, 3), modules[0].whole[i + 3] = 0x80;
        std::vector<uint8_t> merged = merge(modules, merge_exact_launch)[0];
        assert_bits(merged, plain_loops(modules[0]));
        assert_int_equal(merged[3], 0x80);
    }
}

void nothing_to_do_launches_nothing(void **)
{
    merge_grid grid;
    std::vector<merge_tensor> tensors(2);

    assert_true(merge_grid_make(&grid, tensors.data(), 0));
    assert_int_equal(grid.tiles, 0);
    tensors[0].rows = 5; /* no columns */
    assert_true(merge_grid_make(&grid, tensors.data(), 2));
    assert_int_equal(grid.tiles, 0);
    assert_int_equal(merge_exact_launch(&grid, nullptr, 0, nullptr, nullptr), cudaSuccess);
    assert_int_equal(emulated_calls("cudaLaunchKernel"), 0);
}

void too_many_tiles_for_a_launch_are_refused(void **)
{
    merge_grid grid = {7, 7};
    std::vector<merge_tensor> tensors(3);

    tensors[0].rows = tensors[0].cols = UINT64_C(128) * 46340;
    assert_true(merge_grid_make(&grid, tensors.data(), 1));
    assert_int_equal(grid.tiles, 46340 * 46340);
    assert_int_equal(grid.edge, 128);
    grid = {7, 7};
    tensors[1].rows = tensors[1].cols = UINT64_C(128) * 400;
    assert_false(merge_grid_make(&grid, tensors.data(), 2));
    tensors[0].rows = tensors[0].cols = UINT64_MAX;
    assert_false(merge_grid_make(&grid, tensors.data(), 1));
    assert_int_equal(grid.tiles, 7);
}

void a_launch_that_fails_says_so(void **)
{
    std::vector<merge_tensor> tensors(1);
    merge_grid grid;

    tensors[0].rows = tensors[0].cols = 1;
    assert_true(merge_grid_make(&grid, tensors.data(), 1));
    emulated_fail("cudaLaunchKernel", 1, cudaErrorNoKernelImageForDevice);
    assert_int_equal(
        merge_exact_launch(&grid, nullptr, 1, nullptr, nullptr), cudaErrorNoKernelImageForDevice
    );
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
        cmocka_unit_test_setup_teardown(every_shape_has_the_cpus_bits, setup, teardown),
        cmocka_unit_test_setup_teardown(tiles_and_their_edges_have_the_cpus_bits, setup, teardown),
        cmocka_unit_test_setup_teardown(one_launch_merges_many_modules, setup, teardown),
        cmocka_unit_test_setup_teardown(without_terms_it_is_a_copy, setup, teardown),
        cmocka_unit_test_setup_teardown(a_sum_of_minus_zero_keeps_its_sign, setup, teardown),
        cmocka_unit_test_setup_teardown(fast_mode_stays_within_its_bound, setup, teardown),
        cmocka_unit_test_setup_teardown(
            fast_tiles_and_their_edges_stay_within_the_bound, setup, teardown
        ),
        cmocka_unit_test_setup_teardown(fast_mode_is_not_exact_mode, setup, teardown),
        cmocka_unit_test_setup_teardown(fast_mode_keeps_rows_and_nans, setup, teardown),
        cmocka_unit_test_setup_teardown(a_warps_product_is_a_plain_product, setup, teardown),
        cmocka_unit_test_setup_teardown(narrow_types_round_as_the_hardware_does, setup, teardown),
        cmocka_unit_test_setup_teardown(nothing_to_do_launches_nothing, setup, teardown),
        cmocka_unit_test_setup_teardown(too_many_tiles_for_a_launch_are_refused, setup, teardown),
        cmocka_unit_test_setup_teardown(a_launch_that_fails_says_so, setup, teardown),
    };

    return cmocka_run_group_tests(tests, nullptr, nullptr);
}
