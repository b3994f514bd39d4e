#include "format/frame_planes.h"

#include "format/interrupt.h"
#include "format/plane.h"

/* What both directions work on. */
struct planes {
    const struct frame_vector *vectors;
    size_t count;
    uint8_t *scratch;      /* one plane */
    const uint8_t *source; /* the encoder's payload */
    uint8_t *target;       /* the decoder's payload */
    struct plane_coder coder;
};

struct stream {
    enum frame_group group;
    unsigned width;
    size_t values;
};

static bool is_in(const struct stream *stream, const struct frame_vector *vector)
{
    return vector->group == stream->group && vector->width == stream->width;
}

/* Every (group, width) in the body's order; false behind the last one. */
static bool
stream_at(struct stream *out, const struct frame_vector *vectors, size_t count, unsigned index)
{
    struct stream stream = {
        .group = index < 4 ? FRAME_GROUP_D : FRAME_GROUP_OTHER,
        .width = 1U << index % 4,
    };

    if (index >= 8)
        return false;
    for (size_t i = 0; i < count; i++)
        if (is_in(&stream, &vectors[i]))
            stream.values += (size_t)vectors[i].bytes / stream.width;
    *out = stream;
    return true;
}

static size_t most_values(const struct frame_vector *vectors, size_t count)
{
    struct stream stream;
    size_t most = 0;

    for (unsigned i = 0; stream_at(&stream, vectors, count, i); i++)
        if (stream.values > most)
            most = stream.values;
    return most;
}

/* plane[k] = byte `position` of the stream's k-th value. */
static void gather(const struct planes *planes, const struct stream *stream, unsigned position)
{
    const uint8_t *vector = planes->source;
    uint8_t *plane = planes->scratch;

    for (size_t i = 0; i < planes->count; i++) {
        size_t bytes = (size_t)planes->vectors[i].bytes;
        if (is_in(stream, &planes->vectors[i]))
            for (size_t at = position; at < bytes; at += stream->width)
                *plane++ = vector[at];
        vector += bytes;
    }
}

/* The inverse. */
static void scatter(const struct planes *planes, const struct stream *stream, unsigned position)
{
    const uint8_t *plane = planes->scratch;
    uint8_t *vector = planes->target;

    for (size_t i = 0; i < planes->count; i++) {
        size_t bytes = (size_t)planes->vectors[i].bytes;
        if (is_in(stream, &planes->vectors[i]))
            for (size_t at = position; at < bytes; at += stream->width)
                vector[at] = *plane++;
        vector += bytes;
    }
}

typedef int
plane_step(struct planes *planes, const struct stream *stream, unsigned position, void *context);

/* Every plane of every stream, in the body's order. */
static int planes_each(struct planes *planes, plane_step *step, void *context)
{
    AUTO_FREE(uint8_t, scratch);
    struct stream stream;
    int err = 0;

    if (!(scratch = array_new(most_values(planes->vectors, planes->count), 1)))
        return error_wrap(E_NOMEM, "frame");
    planes->scratch = scratch;
    for (unsigned i = 0; err == 0 && stream_at(&stream, planes->vectors, planes->count, i); i++)
        for (unsigned k = 0; err == 0 && stream.values && k < stream.width; k++)
            if ((err = interrupt_check()) == 0)
                err = step(planes, &stream, k, context);
    plane_coder_release(&planes->coder);
    return err;
}

static int
encode_step(struct planes *planes, const struct stream *stream, unsigned position, void *context)
{
    gather(planes, stream, position);
    return plane_encode(context, &planes->coder, (struct bytes){planes->scratch, stream->values});
}

int frame_planes_encode(
    struct buf *out, struct bytes payload, const struct frame_vector *vectors, size_t count
)
{
    struct planes planes = {.vectors = vectors, .count = count, .source = payload.data};

    return planes_each(&planes, encode_step, out);
}

static int
decode_step(struct planes *planes, const struct stream *stream, unsigned position, void *context)
{
    int err = plane_decode(planes->scratch, stream->values, &planes->coder, context);

    if (err == 0)
        scatter(planes, stream, position);
    return err;
}

int frame_planes_decode(
    struct buf *payload, struct bytes body, const struct frame_vector *vectors, size_t count
)
{
    struct planes planes = {.vectors = vectors, .count = count, .target = payload->data};
    int err = planes_each(&planes, decode_step, &body);

    if (err < 0)
        return err;
    if (body.len)
        return error_set(E_CORRUPT, "frame: %zu bytes behind its body", body.len);
    return 0;
}
