#include "format/delta.h"

#include <stdlib.h>
#include <string.h>

#include "format/cpu.h"
#include "format/delta_integers.h"
#include "format/delta_stream.h"
#include "format/delta_vector.h"
#include "format/plane.h"
#include "format/predict.h"

#define BLOCK        1024 /* values that are looked at together */
#define SHIFT_MIN    8    /* fewer zero bits are not worth a byte */
#define SHIFT_MAX    16
#define SHIFT_NARROW 13         /* float32 that holds float16 or bfloat16 */
#define SMALL_BYTES  (16 * KIB) /* up to here the slow coder costs nothing */
#define SLOW_BYTES   (2 * MIB)  /* and up to here little: 16-bit values gain a quarter by it */

static void delta_release(struct delta *delta)
{
    free(delta->vectors);
    plane_coder_release(&delta->planes);
}
#define AUTO_DELTA(name) __attribute__((cleanup(delta_release))) struct delta name = {0}

static int delta_init(
    struct delta *delta,
    uint8_t *x,
    const struct delta_bases *bases,
    const struct frame_vector *vectors,
    size_t count
)
{
    if (!(delta->vectors = array_new(count, sizeof(*delta->vectors))))
        return error_wrap(E_NOMEM, "frame");
    delta->count = count;
    for (size_t i = 0; i < count; i++) {
        size_t bytes = (size_t)vectors[i].bytes;
        delta->vectors[i] = (struct vector){
            .x = x + delta->bytes,
            .x1 = bases->x1 + delta->bytes,
            .x0 = bases->x0 ? bases->x0 + delta->bytes : NULL,
            .bytes = bytes,
            .values = bytes / vectors[i].width,
            .width = vectors[i].width,
            .group = vectors[i].group,
            .dtype = vectors[i].dtype,
        };
        delta->bytes += bytes;
    }
    return 0;
}

/* The table: tags, then shifts, then constants; each a plane. */

/* How many lowest bits are zero in all of the vector's float32 values, as far as it is of use. */
static uint8_t zero_bits(const struct vector *vector)
{
    uint32_t all = UINT32_C(1) << SHIFT_MAX;

    if (vector->dtype != DTYPE_F32)
        return 0;
    for (size_t at = 0; at < vector->values && __builtin_ctz(all) >= SHIFT_MIN; at += BLOCK) {
        size_t n = vector->values - at < BLOCK ? vector->values - at : BLOCK;
        for (size_t i = at; i < at + n; i++) {
            uint32_t value;
            memcpy(&value, vector->x + i * sizeof(value), sizeof(value));
            all |= value;
        }
    }
    uint8_t bits = (uint8_t)__builtin_ctz(all);
    return bits < SHIFT_MIN ? 0 : bits;
}

static void vector_examine(struct vector *vector)
{
    size_t bytes = vector->bytes, width = vector->width;
    int i = 0;

    vector->tag = TAG_REFERENCE;
    if (!bytes || memcmp(vector->x, vector->x1, bytes) == 0)
        return;
    vector->tag = TAG_CONSTANT;
    if (memcmp(vector->x, vector->x + width, bytes - width) == 0)
        return;
    vector->tag = TAG_INTEGER;
    if (!dtype_is_applicable(vector->dtype))
        return;
    vector->shift = zero_bits(vector);
    if (vector->x0)
        i = predict_fit(vector->x, vector->x1, vector->x0, vector->values, vector->dtype);
    vector->tag = (uint8_t)(TAG_FITTED + i - PREDICT_MIN);
}

static int table_encode(struct buf *out, struct delta *delta)
{
    AUTO_BUF(tags);
    AUTO_BUF(shifts);
    AUTO_BUF(constants);
    int err = 0;

    for (size_t i = 0; i < delta->count && err == 0; i++) {
        struct vector *vector = &delta->vectors[i];
        vector_examine(vector);
        if ((err = buf_append_byte(&tags, vector->tag)) == 0 && vector->tag == TAG_CONSTANT)
            err = buf_append(&constants, vector->x, vector->width);
        if (err == 0 && vector->tag >= TAG_FITTED && vector->dtype == DTYPE_F32)
            err = buf_append_byte(&shifts, vector->shift);
    }
    if (err < 0 || (err = plane_encode(out, &delta->planes, buf_bytes(&tags))) < 0 ||
        (err = plane_encode(out, &delta->planes, buf_bytes(&shifts))) < 0)
        return err;
    return plane_encode(out, &delta->planes, buf_bytes(&constants));
}

static int tags_decode(size_t *shifts, size_t *constants, struct delta *delta, struct bytes *rest)
{
    AUTO_FREE(uint8_t, tags);
    int err;

    if (!(tags = array_new(delta->count, 1)))
        return error_wrap(E_NOMEM, "frame");
    if ((err = plane_decode(tags, delta->count, &delta->planes, rest)) < 0)
        return err;
    for (size_t i = 0; i < delta->count; i++) {
        struct vector *vector = &delta->vectors[i];
        bool fitted = tags[i] >= TAG_FITTED, extrapolated = tags[i] != TAG_FITTED - PREDICT_MIN;
        if (tags[i] > TAG_MAX || fitted != (fitted && dtype_is_applicable(vector->dtype)) ||
            (fitted && extrapolated && !vector->x0))
            return error_set(E_CORRUPT, "frame: vector %zu has tag %u", i, tags[i]);
        vector->tag = tags[i];
        *constants += tags[i] == TAG_CONSTANT ? vector->width : 0;
        *shifts += fitted && vector->dtype == DTYPE_F32;
    }
    return 0;
}

static int shifts_take(struct delta *delta, const uint8_t *shifts)
{
    for (size_t i = 0; i < delta->count; i++) {
        struct vector *vector = &delta->vectors[i];
        if (vector->tag < TAG_FITTED || vector->dtype != DTYPE_F32)
            continue;
        vector->shift = *shifts++;
        if (vector->shift && (vector->shift < SHIFT_MIN || vector->shift > SHIFT_MAX))
            return error_set(E_CORRUPT, "frame: vector %zu has shift %u", i, vector->shift);
    }
    return 0;
}

/* References and constants are in place when the table is. */
static void vector_fill(struct vector *vector, const uint8_t **constants)
{
    if (vector->tag == TAG_REFERENCE && vector->bytes)
        memcpy(vector->x, vector->x1, vector->bytes);
    if (vector->tag != TAG_CONSTANT)
        return;
    for (size_t at = 0; at < vector->bytes; at += vector->width)
        memcpy(vector->x + at, *constants, vector->width);
    *constants += vector->width;
}

static int table_decode(struct delta *delta, struct bytes *rest)
{
    AUTO_FREE(uint8_t, shifts);
    AUTO_FREE(uint8_t, constants);
    size_t shift_bytes = 0, constant_bytes = 0;
    int err = tags_decode(&shift_bytes, &constant_bytes, delta, rest);

    if (err < 0)
        return err;
    if (!(shifts = array_new(shift_bytes, 1)) || !(constants = array_new(constant_bytes, 1)))
        return error_wrap(E_NOMEM, "frame");
    if ((err = plane_decode(shifts, shift_bytes, &delta->planes, rest)) < 0 ||
        (err = plane_decode(constants, constant_bytes, &delta->planes, rest)) < 0 ||
        (err = shifts_take(delta, shifts)) < 0)
        return err;
    const uint8_t *constant = constants;
    for (size_t i = 0; i < delta->count; i++)
        vector_fill(&delta->vectors[i], &constant);
    return 0;
}

/* Floats: one stream a group. */

static int segments_make(
    struct segment **out,
    size_t *out_count,
    uint64_t *values,
    const struct delta *delta,
    enum frame_group group
)
{
    struct segment *segments = array_new(delta->count, sizeof(*segments));

    if (!segments)
        return error_wrap(E_NOMEM, "frame");
    *out = segments;
    *out_count = *values = 0;
    for (size_t i = 0; i < delta->count; i++) {
        const struct vector *vector = &delta->vectors[i];
        if (vector->tag < TAG_FITTED || vector->group != group)
            continue;
        segments[(*out_count)++] = (struct segment){
            .x = vector->x,
            .x1 = vector->x1,
            .x0 = vector->x0,
            .values = vector->values,
            .dtype = vector->dtype,
            .shift = vector->shift,
            .i = (int)vector->tag - TAG_FITTED + PREDICT_MIN,
        };
        *values += vector->values;
    }
    return 0;
}

/* float32 gains a hundredth by the range coder, and is decoded ten times slower. */
static enum stream_method
method_choose(const struct delta *delta, const struct segment *segments, size_t count)
{
    bool narrow = delta->bytes <= SLOW_BYTES;

    for (size_t i = 0; i < count; i++)
        narrow = narrow && (segments[i].dtype != DTYPE_F32 || segments[i].shift >= SHIFT_NARROW);
    return narrow || delta->bytes <= SMALL_BYTES ? STREAM_RANGE : STREAM_TOKENS;
}

static int floats_encode(struct buf *out, struct delta *delta)
{
    for (int group = FRAME_GROUP_D; group <= FRAME_GROUP_OTHER; group++) {
        AUTO_FREE(struct segment, segments);
        uint64_t values;
        size_t count;
        int err = segments_make(&segments, &count, &values, delta, (enum frame_group)group);
        if (err == 0 && values)
            err = stream_encode(
                out, method_choose(delta, segments, count), segments, count, values, &delta->planes
            );
        if (err < 0)
            return err;
    }
    return 0;
}

static int floats_decode(struct delta *delta, struct bytes *rest)
{
    for (int group = FRAME_GROUP_D; group <= FRAME_GROUP_OTHER; group++) {
        AUTO_FREE(struct segment, segments);
        uint64_t values;
        size_t count;
        int err = segments_make(&segments, &count, &values, delta, (enum frame_group)group);
        if (err == 0 && values)
            err = stream_decode(segments, count, values, &delta->planes, rest);
        if (err < 0)
            return err;
    }
    return 0;
}

static int body_encode(struct buf *out, struct delta *delta)
{
    int err = table_encode(out, delta);

    if (err < 0 || (err = integers_encode(out, delta)) < 0)
        return err;
    return floats_encode(out, delta);
}

int delta_encode(
    struct buf *out,
    struct bytes payload,
    const struct delta_bases *bases,
    const struct frame_vector *vectors,
    size_t count
)
{
    AUTO_DELTA(delta);
    int err = delta_init(&delta, (uint8_t *)(uintptr_t)payload.data, bases, vectors, count);

    if (err < 0)
        return err;
    struct cpu_float saved = cpu_float_exact();
    err = body_encode(out, &delta);
    cpu_float_restore(saved);
    return err;
}

static int body_decode(struct delta *delta, struct bytes body)
{
    int err = table_decode(delta, &body);

    if (err < 0 || (err = integers_decode(delta, &body)) < 0 ||
        (err = floats_decode(delta, &body)) < 0)
        return err;
    if (body.len)
        return error_set(E_CORRUPT, "frame: %zu bytes behind its body", body.len);
    return 0;
}

int delta_decode(
    uint8_t *payload,
    struct bytes body,
    const struct delta_bases *bases,
    const struct frame_vector *vectors,
    size_t count
)
{
    AUTO_DELTA(delta);
    int err = delta_init(&delta, payload, bases, vectors, count);

    if (err < 0)
        return err;
    struct cpu_float saved = cpu_float_exact();
    err = body_decode(&delta, body);
    cpu_float_restore(saved);
    return err;
}
