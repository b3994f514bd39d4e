/*
 * Merges pseudo-random adapters onto pseudo-random weights with one level of vector code and writes
 * all results to stdout: tests/test_same_bits.py builds this for several machines and compares.
 *
 *   same_bits_kernel LEVEL    exits with 3 where the machine has no such level
 *
 * Shapes of every remainder that a tile may leave, ranks on both sides of a block's depth, the
 * three types, both orientations, one and two terms; among the weights any bits, among the factors
 * zeros. And products by tiles of few rows, as mixed batches have them.
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "apply/kernel.h"
#include "apply/kernel_level.h"
#include "format/cpu.h"

#define SIDE_MAX 70
#define RANK_MAX 300

static uint64_t state = 20261125;

static uint32_t random_u32(void)
{
    state = state * UINT64_C(6364136223846793005) + UINT64_C(1442695040888963407);
    return (uint32_t)(state >> 33) ^ (uint32_t)(state >> 13);
}

static float a[2 * RANK_MAX * SIDE_MAX], b_matrix[2 * SIDE_MAX * RANK_MAX];
static float d[2 * RANK_MAX], b[2 * SIDE_MAX];
static uint8_t weights[4 * SIDE_MAX * SIDE_MAX];

/* `coarse`: multiples of 1/8, whose sums of products often lie halfway between two 16-bit numbers.
 */
static void fill(float *values, size_t count, bool zeros, bool coarse)
{
    for (size_t i = 0; i < count; i++) {
        uint32_t bits = random_u32();
        float value = coarse ? 0.125f * (float)((int)(bits >> 8 & 15) - 7)
                             : (float)(int32_t)bits * 0x1p-31f;
        values[i] = zeros && bits % 5 == 0 ? 0 : value;
    }
}

/* Half of them about 1, the others any bits: infinities, NaNs, subnormals. */
static void fill_weights(size_t count, enum dtype dtype)
{
    for (size_t i = 0; i < count; i++) {
        uint32_t bits = random_u32();
        float value = (float)(int32_t)random_u32() * 0x1p-31f;
        if (bits & 1)
            memcpy(&value, &bits, sizeof(value));
        uint16_t half = bits & 1              ? (uint16_t)(bits >> 16)
                        : dtype == DTYPE_BF16 ? bf16_from_float(value)
                                              : f16_from_float(value);
        if (dtype == DTYPE_F32)
            memcpy(weights + 4 * i, &value, 4);
        else
            memcpy(weights + 2 * i, &half, 2);
    }
}

static void run(size_t number)
{
    static const enum dtype dtypes[] = {DTYPE_F32, DTYPE_BF16, DTYPE_F16};
    enum dtype dtype = dtypes[number % 3];
    bool transposed = number / 3 % 2, coarse = number / 12 % 2;
    size_t terms = 1 + number / 6 % 2;
    size_t out = 1 + random_u32() % SIDE_MAX, in = 1 + random_u32() % SIDE_MAX;
    struct kernel_term term[2];

    for (size_t s = 0; s < 2; s++)
        term[s] = (struct kernel_term){
            .a = a + s * RANK_MAX * SIDE_MAX,
            .b_matrix = b_matrix + s * SIDE_MAX * RANK_MAX,
            .d = d + s * RANK_MAX,
            .b = b + s * SIDE_MAX,
            .a_stride = SIDE_MAX,
            .rank = 1 + random_u32() % RANK_MAX,
            .weight = s ? (coarse ? 0.5f : 0.7f) : 1,
        };
    fill(a, sizeof(a) / sizeof(*a), false, coarse);
    fill(b_matrix, sizeof(b_matrix) / sizeof(*b_matrix), false, coarse);
    fill(d, sizeof(d) / sizeof(*d), true, coarse);
    fill(b, sizeof(b) / sizeof(*b), true, coarse);
    fill_weights(out * in, dtype);
    uint64_t rows = transposed ? in : out;
    if (kernel_merge(weights, dtype, out, in, transposed, 0, rows, term, terms, 1) < 0 ||
        fwrite(weights, dtype_bits(dtype) / 8, out * in, stdout) != out * in)
        exit(1);
}

/* [ROWS, COLS] = a b_matrix^T, both with RANK_MAX numbers in a row, by tiles of few rows and in two
   cuts of the depth. */
#define ROWS 12
#define COLS 32
static void run_few(size_t depth)
{
    const struct kernel_level *level = kernel_level_chosen();
    static float left[ROWS * RANK_MAX], right[COLS * RANK_MAX], sums[KERNEL_TILE_MAX];
    static float product[ROWS][COLS];
    size_t few = level->rows_few, cut = depth / 2;

    for (size_t col = 0; col < COLS; col += level->cols) {
        level->pack_transposed(
            right, level->cols, b_matrix + col * RANK_MAX, RANK_MAX, level->cols, depth
        );
        for (size_t row = 0; row < ROWS; row += few) {
            level->pack_transposed(left, level->rows_few, a + row * RANK_MAX, RANK_MAX, few, depth);
            level->tile_few(sums, left, right, cut, true);
            level->tile_few(
                sums, left + cut * few, right + cut * level->cols, depth - cut, cut == 0
            );
            for (size_t m = 0; m < few; m++)
                memcpy(&product[row + m][col], sums + m * level->cols, level->cols * 4u);
        }
    }
    if (fwrite(product, sizeof(product), 1, stdout) != 1)
        exit(1);
}

int main(int argc, char **argv)
{
    enum cpu_level level = CPU_SCALAR;

    while (argc == 2 && level < CPU_AVX512 && strcmp(argv[1], cpu_level_name(level)) != 0)
        level++;
    if (argc != 2 || strcmp(argv[1], cpu_level_name(level)) != 0 || !cpu_level_is_here(level))
        return 3;
    cpu_level_set(level);
    for (size_t number = 0; number < 48; number++)
        run(number);
    for (size_t depth = 1; depth <= RANK_MAX; depth += 23)
        run_few(depth);
    return 0;
}
