/*
 * What frames cost and how fast they are, for tests/bench/bench_frames.py. Adapters' weights are
 * read from files; FORM is float32, or bfloat16: the float32 values rounded.
 *
 *   bench_frames price FORM FILE FILE FILE…      checkpoints of a run, in order. Bits a value,
 * means over the third one and those after it: the frame, every byte counted; the same by XOR with
 *       the checkpoint before, the sign rotated to the end, and a plane of zstd -3 for each byte;
 *       zstd -19 on the payload alone; and what a normal distribution of each vector's own width
 *       around the prediction costs, whoever codes it
 *   bench_frames speed FORM TIMES FILE FILE FILE  MB of raw payload, then MB/s of one core's time,
 * best of TIMES: residuals encoded, and decoded; a frame encoded with all that it takes (two
 *       digests, a decoding, a comparison), and decoded; the same for a whole frame
 */
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include <zstd.h>

#include "format/delta.h"
#include "format/file.h"
#include "format/frame.h"
#include "format/limits.h"
#include "format/predict.h"

#define GENERATIONS 3

struct checkpoint {
    struct buf bytes;
    struct frame_vector *vectors;
    size_t count, values;
};

/* A benchmark that cannot go on says why. */
static void must(int err)
{
    if (err < 0) {
        fprintf(stderr, "bench_frames: %s\n", error_message());
        exit(1);
    }
}

static void *need(void *memory)
{
    if (!memory)
        must(error_set(E_NOMEM, "out of memory"));
    return memory;
}

static void checkpoint_release(struct checkpoint *checkpoint)
{
    buf_release(&checkpoint->bytes);
    free(checkpoint->vectors);
    *checkpoint = (struct checkpoint){0};
}

/* float32 to bfloat16, in place. */
static void checkpoint_round(struct checkpoint *checkpoint)
{
    AUTO_BUF(narrow);

    must(buf_resize(&narrow, checkpoint->values * sizeof(uint16_t)));
    dtype_narrow(
        narrow.data, (const float *)(const void *)checkpoint->bytes.data, checkpoint->values,
        DTYPE_BF16
    );
    buf_release(&checkpoint->bytes);
    checkpoint->bytes = buf_take(&narrow);
    for (size_t i = 0; i < checkpoint->count; i++) {
        checkpoint->vectors[i].bytes /= 2;
        checkpoint->vectors[i].width = 2;
        checkpoint->vectors[i].dtype = DTYPE_BF16;
    }
}

static void checkpoint_read(struct checkpoint *out, const char *path, const char *form)
{
    AUTO_BUF(file);
    AUTO_SAFETENSORS(table);

    must(file_read(&file, path, LIMIT_FILE));
    must(safetensors_decode(&table, buf_bytes(&file), file.len));
    for (size_t i = 0; i < table.count; i++) {
        const struct tensor *tensor = &table.tensors[i];
        if (strcmp(tensor->name, "base_model.vera_A") == 0 ||
            strcmp(tensor->name, "base_model.vera_B") == 0)
            continue;
        if (tensor->dtype != DTYPE_F32)
            must(error_set(E_UNSUPPORTED, "%s: not all in float32", path));
        must(buf_append(
            &out->bytes, file.data + table.header_bytes + tensor->begin,
            (size_t)(tensor->end - tensor->begin)
        ));
    }
    must(frame_vectors(&out->vectors, &out->count, &table));
    out->values = out->bytes.len / sizeof(float);
    if (strcmp(form, "bfloat16") == 0)
        checkpoint_round(out);
}

static struct frame_bases bases_of(const struct checkpoint *x1, const struct checkpoint *x0)
{
    struct frame_bases bases = {
        .x1 = buf_bytes(&x1->bytes), .x0 = buf_bytes(&x0->bytes), .depth = 1};

    must(digest_of(&bases.digest1, bases.x1));
    must(digest_of(&bases.digest0, bases.x0));
    return bases;
}

static void frame_of(struct buf *out, const struct checkpoint *x, const struct frame_bases *bases)
{
    struct digest digest;

    must(digest_of(&digest, buf_bytes(&x->bytes)));
    must(frame_encode(out, buf_bytes(&x->bytes), &digest, x->vectors, x->count, bases));
}

/* Price */

static size_t zstd_size(const void *data, size_t len, int level)
{
    size_t bound = ZSTD_compressBound(len);
    AUTO_FREE(uint8_t, out);

    out = need(malloc(bound));
    size_t got = ZSTD_compress(out, bound, data, len, level);
    if (ZSTD_isError(got))
        must(error_set(E_INVALID, "zstd: %s", ZSTD_getErrorName(got)));
    return got;
}

static size_t xor_size(const struct checkpoint *x, const struct checkpoint *x1)
{
    size_t width = x->vectors[0].width, size = 0;
    unsigned top = 8 * (unsigned)width - 1;
    AUTO_FREE(uint8_t, plane);

    plane = need(malloc(x->values));
    for (size_t position = 0; position < width; position++) {
        for (size_t i = 0; i < x->values; i++) {
            uint32_t now = 0, last = 0;
            memcpy(&now, x->bytes.data + i * width, width);
            memcpy(&last, x1->bytes.data + i * width, width);
            uint32_t changed = now ^ last;
            plane[i] = (uint8_t)((changed << 1 | changed >> top) >> (8 * position));
        }
        size += zstd_size(plane, x->values, 3);
    }
    return size;
}

/* A vector's values, as float32: patterns that predict() gives in float32's or bfloat16's. */
static void widen_predictions(float *out, const uint32_t *patterns, size_t n, enum dtype dtype)
{
    for (size_t i = 0; i < n; i++) {
        uint32_t bits = dtype == DTYPE_BF16 ? patterns[i] << 16 : patterns[i];
        memcpy(&out[i], &bits, sizeof(bits));
    }
}

/* What is between x and the next value, above and below. */
static double spacing(float x, enum dtype dtype)
{
    int exponent;

    (void)frexp((double)x, &exponent);
    return ldexp(1, exponent - (dtype == DTYPE_BF16 ? 8 : 24));
}

/* Bits for one value: the normal distribution's share of what is rounded to it. */
static double normal_bits(double distance, double sigma, double step)
{
    if (step < 0.01 * sigma) {
        double z = distance / sigma;
        return (z * z / 2 + log(sqrt(2 * M_PI) * sigma / step)) / M_LN2;
    }
    double scale = 1 / (sigma * M_SQRT2), d = fabs(distance);
    double share = 0.5 * (erfc((d - step / 2) * scale) - erfc((d + step / 2) * scale));
    return -log2(share > 1e-30 ? share : 1e-30);
}

static double vector_bits(const float *x, const float *p, size_t n, enum dtype dtype)
{
    double square = 0, bits = 0;

    for (size_t i = 0; i < n; i++)
        square += ((double)x[i] - (double)p[i]) * ((double)x[i] - (double)p[i]);
    double sigma = sqrt(square / (double)n);
    if (sigma == 0)
        return 0;
    for (size_t i = 0; i < n; i++)
        bits += normal_bits((double)x[i] - (double)p[i], sigma, spacing(x[i], dtype));
    return bits;
}

static double
normal_size(const struct checkpoint *x, const struct checkpoint *x1, const struct checkpoint *x0)
{
    AUTO_FREE(uint32_t, patterns);
    AUTO_FREE(float, values);
    AUTO_FREE(float, predicted);
    double bits = 0;
    size_t at = 0;

    patterns = need(malloc(x->values * sizeof(*patterns)));
    values = need(malloc(x->values * sizeof(*values)));
    predicted = need(malloc(x->values * sizeof(*predicted)));
    for (size_t i = 0; i < x->count; at += x->vectors[i++].bytes) {
        const uint8_t *now = x->bytes.data + at, *last = x1->bytes.data + at;
        const uint8_t *before = x0->bytes.data + at;
        enum dtype dtype = x->vectors[i].dtype;
        size_t n = x->vectors[i].bytes / x->vectors[i].width;
        predict(patterns, last, before, predict_fit(now, last, before, n, dtype), n, dtype, 0);
        widen_predictions(predicted, patterns, n, dtype);
        dtype_widen(values, now, n, dtype);
        bits += vector_bits(values, predicted, n, dtype);
    }
    return bits / 8;
}

static void price(const char *form, char **paths, int count)
{
    struct checkpoint last[GENERATIONS] = {0};
    double frame_bytes = 0, xor_bytes = 0, raw_bytes = 0, normal_bytes = 0, values = 0;

    for (int i = 0; i < count; i++) {
        struct checkpoint *x = &last[i % 3], *x1 = &last[(i + 2) % 3], *x0 = &last[(i + 1) % 3];
        checkpoint_release(x);
        checkpoint_read(x, paths[i], form);
        if (i < GENERATIONS - 1)
            continue;
        AUTO_BUF(frame);
        const struct frame_bases bases = bases_of(x1, x0);
        frame_of(&frame, x, &bases);
        frame_bytes += (double)frame.len;
        xor_bytes += (double)xor_size(x, x1);
        raw_bytes += (double)zstd_size(x->bytes.data, x->bytes.len, 19);
        normal_bytes += normal_size(x, x1, x0);
        values += (double)x->values;
    }
    printf(
        "%.3f %.3f %.3f %.3f\n", 8 * frame_bytes / values, 8 * xor_bytes / values,
        8 * raw_bytes / values, 8 * normal_bytes / values
    );
    for (size_t i = 0; i < GENERATIONS; i++)
        checkpoint_release(&last[i]);
}

/* Speed */

static double seconds_now(void)
{
    struct timespec now;

    clock_gettime(CLOCK_THREAD_CPUTIME_ID, &now);
    return (double)now.tv_sec + 1e-9 * (double)now.tv_nsec;
}

static void keep_best(double *best, double begin)
{
    double took = seconds_now() - begin;

    if (*best == 0 || took < *best)
        *best = took;
}

/* Seconds of one turn each: residuals there and back. */
static void
residuals_run(double best[2], const struct checkpoint *x, const struct frame_bases *bases)
{
    const struct delta_bases from = {bases->x1.data, bases->x0.data};
    AUTO_BUF(body);
    AUTO_BUF(decoded);

    double begin = seconds_now();
    must(delta_encode(&body, buf_bytes(&x->bytes), &from, x->vectors, x->count));
    keep_best(&best[0], begin);
    must(buf_resize(&decoded, x->bytes.len));
    begin = seconds_now();
    must(delta_decode(decoded.data, buf_bytes(&body), &from, x->vectors, x->count));
    keep_best(&best[1], begin);
    if (!bytes_equal(buf_bytes(&decoded), buf_bytes(&x->bytes)))
        must(error_set(E_CORRUPT, "decoded to something else"));
}

static void frames_run(double best[2], const struct checkpoint *x, const struct frame_bases *bases)
{
    AUTO_BUF(frame);
    AUTO_BUF(decoded);

    double begin = seconds_now();
    frame_of(&frame, x, bases);
    keep_best(&best[0], begin);
    begin = seconds_now();
    must(frame_decode(&decoded, buf_bytes(&frame), x->vectors, x->count, bases));
    keep_best(&best[1], begin);
}

static void speed(const char *form, int times, char **paths)
{
    struct checkpoint run[GENERATIONS] = {0};
    double best[6] = {0};

    for (size_t i = 0; i < GENERATIONS; i++)
        checkpoint_read(&run[i], paths[i], form);
    const struct frame_bases bases = bases_of(&run[1], &run[0]);
    for (int i = 0; i < times; i++) {
        residuals_run(best, &run[2], &bases);
        frames_run(best + 2, &run[2], &bases);
        frames_run(best + 4, &run[2], NULL);
    }
    double megabytes = (double)run[2].bytes.len / 1e6;
    printf("%.1f", megabytes);
    for (size_t i = 0; i < sizeof(best) / sizeof(best[0]); i++)
        printf(" %.0f", megabytes / best[i]);
    puts("");
    for (size_t i = 0; i < GENERATIONS; i++)
        checkpoint_release(&run[i]);
}

int main(int argc, char **argv)
{
    if (argc >= 6 && strcmp(argv[1], "price") == 0) {
        price(argv[2], argv + 3, argc - 3);
    } else if (argc == 7 && strcmp(argv[1], "speed") == 0) {
        speed(argv[2], (int)strtol(argv[3], NULL, 10), argv + 4);
    } else {
        fputs("bench_frames: see the head of tests/bench/bench_frames.c\n", stderr);
        return 2;
    }
    return 0;
}
