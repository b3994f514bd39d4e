#include "format/delta_integers.h"

struct integers {
    enum frame_group group;
    unsigned width;
    size_t values;
};

static bool integers_hold(const struct integers *integers, const struct vector *vector)
{
    return vector->tag == TAG_INTEGER && vector->group == integers->group &&
           vector->width == integers->width;
}

/* Every (group, width): false behind the last one. */
static bool integers_at(struct integers *out, const struct delta *delta, unsigned index)
{
    *out = (struct integers
    ){.group = index < 4 ? FRAME_GROUP_D : FRAME_GROUP_OTHER, .width = 1U << index % 4};
    for (size_t i = 0; index < 8 && i < delta->count; i++)
        if (integers_hold(out, &delta->vectors[i]))
            out->values += delta->vectors[i].values;
    return index < 8;
}

static uint64_t load(const uint8_t *p, unsigned width)
{
    uint64_t value = 0;

    for (unsigned i = 0; i < width; i++)
        value |= (uint64_t)p[i] << (8 * i);
    return value;
}

/* The difference, modulo the width, its sign in the lowest bit. */
static uint64_t zigzag(uint64_t difference, unsigned width)
{
    unsigned top = 8 * width - 1;
    uint64_t mask = UINT64_MAX >> (63 - top), sign = difference >> top & 1;

    return (difference << 1 ^ (sign ? UINT64_MAX : 0)) & mask;
}

static uint64_t unzigzag(uint64_t code)
{
    return code >> 1 ^ (code & 1 ? UINT64_MAX : 0);
}

static void integers_gather(
    uint8_t *plane, const struct integers *integers, const struct delta *delta, unsigned position
)
{
    unsigned width = integers->width;

    for (size_t i = 0; i < delta->count; i++) {
        const struct vector *vector = &delta->vectors[i];
        if (!integers_hold(integers, vector))
            continue;
        for (size_t at = 0; at < vector->bytes; at += width) {
            uint64_t difference = load(vector->x + at, width) - load(vector->x1 + at, width);
            uint64_t mask = UINT64_MAX >> (64 - 8 * width);
            *plane++ = (uint8_t)(zigzag(difference & mask, width) >> (8 * position));
        }
    }
}

/* planes: [width, values]. */
static void
integers_put(const uint8_t *planes, const struct integers *integers, const struct delta *delta)
{
    unsigned width = integers->width;

    for (size_t i = 0; i < delta->count; i++) {
        const struct vector *vector = &delta->vectors[i];
        if (!integers_hold(integers, vector))
            continue;
        for (size_t at = 0; at < vector->bytes; at += width, planes++) {
            uint64_t code = 0;
            for (unsigned k = 0; k < width; k++)
                code |= (uint64_t)planes[k * integers->values] << (8 * k);
            uint64_t value = load(vector->x1 + at, width) + unzigzag(code);
            for (unsigned k = 0; k < width; k++)
                vector->x[at + k] = (uint8_t)(value >> (8 * k));
        }
    }
}

int integers_encode(struct buf *out, struct delta *delta)
{
    struct integers integers;
    int err = 0;

    for (unsigned i = 0; integers_at(&integers, delta, i) && err == 0; i++) {
        AUTO_BUF(plane);
        if ((err = buf_resize(&plane, integers.values)) < 0)
            return err;
        for (unsigned k = 0; integers.values && k < integers.width && err == 0; k++) {
            integers_gather(plane.data, &integers, delta, k);
            err = plane_encode(out, &delta->planes, buf_bytes(&plane));
        }
    }
    return err;
}

int integers_decode(struct delta *delta, struct bytes *rest)
{
    struct integers integers;
    int err = 0;

    for (unsigned i = 0; integers_at(&integers, delta, i) && err == 0; i++) {
        AUTO_BUF(planes);
        size_t n = integers.values;
        if (n && (err = buf_resize(&planes, n * integers.width)) < 0)
            return err;
        for (unsigned k = 0; n && k < integers.width && err == 0; k++)
            err = plane_decode(planes.data + k * n, n, &delta->planes, rest);
        if (n && err == 0)
            integers_put(planes.data, &integers, delta);
    }
    return err;
}
