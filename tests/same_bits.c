/*
 * Predicts and codes the same values in every way that a frame can, and writes the raw results to
 * stdout: tests/test_same_bits.py builds this with several compilers, for several machines, and
 * compares. Without zstd, whose bytes may change and mean the same.
 *
 *   same_bits [X0 X1 X]    files of float32, three payloads in a row; without them, a table of
 * floats at the edges of the type, each against each other
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "format/cpu.h"
#include "format/delta_range.h"
#include "format/delta_tokens.h"
#include "format/predict.h"

#define VALUES_MAX 40000
#define HIGHEST    136 /* class: nothing here depends on it but what is far */

static const uint32_t edges[] = {
    0x00000000, 0x80000000, 0x00000001, 0x80000001, 0x007fffff, 0x807fffff, 0x00800000, 0x80800000,
    0x3f800000, 0xbf800000, 0x3f800001, 0x3f7fffff, 0x3dcccccd, 0xbdcccccd, 0x4b800000, 0x33800000,
    0x7f7fffff, 0xff7fffff, 0x7f800000, 0xff800000, 0x7fc00000, 0xffc00000, 0x7f800001, 0xffffffff,
};
#define EDGES (sizeof(edges) / sizeof(edges[0]))

static uint32_t wide[3][VALUES_MAX]; /* x0, x1, x */
static uint8_t payloads[3][VALUES_MAX * sizeof(uint32_t)];
static uint32_t predictions[VALUES_MAX], patterns[VALUES_MAX];
static uint8_t tokens[VALUES_MAX], exponents[VALUES_MAX];
static uint8_t bits[VALUES_MAX * sizeof(uint32_t) + BITS_SLACK];

static void put(const void *data, size_t size, size_t count)
{
    if (fwrite(data, size, count, stdout) != count)
        exit(2);
}

static size_t edges_fill(void)
{
    size_t n = 0;

    for (; n < EDGES * EDGES * EDGES; n++) {
        wide[0][n] = edges[n % EDGES];
        wide[1][n] = edges[n / EDGES % EDGES];
        wide[2][n] = edges[n / EDGES / EDGES];
    }
    return n;
}

static size_t file_read_all(uint32_t *out, const char *path)
{
    FILE *file = fopen(path, "rb");
    size_t n = file ? fread(out, sizeof(*out), VALUES_MAX, file) : 0;

    if (!file || fclose(file) != 0 || !n)
        exit(2);
    return n;
}

/* x is what is behind `shift`, p what it was predicted as. */
static void tokens_code(const struct pattern *pattern, size_t n)
{
    struct token_writer writer = {
        .highest = HIGHEST + pattern->scale,
        .token = tokens,
        .exponent = exponents,
        .bits.at = bits};

    tokens_put(&writer, pattern, patterns, predictions, n);
    put(tokens, 1, n);
    put(exponents, 1, (size_t)(writer.exponent - exponents));
    put(bits, 1, (size_t)(bits_write_end(&writer.bits) - bits));
}

static void range_code(const struct pattern *pattern, size_t n)
{
    static struct range_writer writer;
    AUTO_BUF(ranged);

    writer = (struct range_writer){.highest = HIGHEST + pattern->scale, .bits.at = bits};
    range_encoder_init(&writer.coder, &ranged);
    range_put(&writer, pattern, patterns, predictions, n);
    if (range_encoder_end(&writer.coder) < 0)
        exit(2);
    put(ranged.data, 1, ranged.len);
    put(bits, 1, (size_t)(bits_write_end(&writer.bits) - bits));
}

static void code(enum dtype dtype, unsigned shift, size_t n)
{
    static const int fits[] = {PREDICT_MIN, -3, 0, 1, 7, 16, 21, PREDICT_MAX};
    const struct segment segment = {.dtype = dtype, .shift = shift};
    const struct pattern pattern = pattern_of(&segment);
    size_t width = dtype_bits(dtype) / 8;

    for (size_t k = 0; k < 3; k++)
        dtype_narrow(payloads[k], (const float *)(const void *)wide[k], n, dtype);
    for (size_t k = 0; k < n; k++) {
        patterns[k] = 0;
        memcpy(&patterns[k], payloads[2] + k * width, width);
        patterns[k] >>= shift;
    }
    for (size_t i = 0; i < sizeof(fits) / sizeof(fits[0]); i++) {
        predict(predictions, payloads[1], payloads[0], fits[i], n, dtype, shift);
        put(predictions, sizeof(*predictions), n);
        tokens_code(&pattern, n);
        range_code(&pattern, n);
    }
}

int main(int argc, char **argv)
{
    size_t n = 0;

    if (argc != 1 && argc != 4)
        return 2;
    for (int i = 1; i < argc; i++)
        n = file_read_all(wide[i - 1], argv[i]);
    if (argc == 1)
        n = edges_fill();
    struct cpu_float saved = cpu_float_exact();
    code(DTYPE_F32, 0, n);
    code(DTYPE_F32, 13, n);
    code(DTYPE_F32, 16, n);
    code(DTYPE_BF16, 0, n);
    code(DTYPE_F16, 0, n);
    cpu_float_restore(saved);
    return fflush(stdout) == 0 ? 0 : 2;
}
