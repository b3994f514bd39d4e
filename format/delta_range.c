#include "format/delta_range.h"

static unsigned far_context(unsigned highest, unsigned floor)
{
    unsigned below = highest > floor ? highest - floor : 0;

    return below < FAR_CONTEXTS ? below : FAR_CONTEXTS - 1;
}

/* The classes that a near value at this floor may have: none where from < to. */
static void classes_at(
    unsigned *from, unsigned *to, const struct pattern *pattern, unsigned highest, unsigned floor
)
{
    unsigned most = floor + pattern->sign;

    *from = highest < most ? highest : most;
    *to = highest > floor + SPAN ? highest - SPAN : floor + 1;
}

static void
far_put(struct range_writer *writer, const struct pattern *pattern, uint32_t x, bool crosses)
{
    struct range_models *models = &writer->models;
    unsigned exponent = exponent_of(pattern, x), node = 1;

    range_encode(&writer->coder, &models->crosses, crosses);
    for (unsigned bit = pattern->exponent; bit-- > 0; node = node * 2 + (exponent >> bit & 1))
        range_encode(&writer->coder, &models->exponent[node], exponent >> bit & 1);
    bits_write(&writer->bits, mantissa_of(pattern, x), pattern->mantissa);
}

static void
near_put(struct range_writer *writer, const struct pattern *pattern, const struct residual *r)
{
    unsigned class = r->floor + r->length, from, to, node = 1, highest = writer->highest;
    unsigned top = top_of(r->distance, r->length);

    classes_at(&from, &to, pattern, highest, r->floor);
    for (unsigned at = from; at >= to; at--) {
        bool found = r->length && at == class;
        range_encode(&writer->coder, &writer->models.near[highest - at], found);
        if (found)
            break;
    }
    if (!r->length)
        return;
    for (unsigned k = 1; k <= TOP_BITS && k < r->length; k++) {
        bool bit = top >> (TOP_BITS - k) & 1;
        range_encode(&writer->coder, &writer->models.top[highest - class][node], bit);
        node = node * 2 + bit;
    }
    bits_write(&writer->bits, noise_of(r), noise_bits(r->length) + 1);
}

void range_put(
    struct range_writer *writer,
    const struct pattern *pattern,
    const uint32_t *x,
    const uint32_t *p,
    size_t n
)
{
    for (size_t k = 0; k < n; k++) {
        struct residual r = residual_of(pattern, x[k], p[k]);
        bool far = x[k] != p[k] && classes_below(&r, writer->highest) > SPAN;
        unsigned context = far_context(writer->highest, r.floor);
        range_encode(&writer->coder, &writer->models.far[context], far);
        if (far)
            far_put(writer, pattern, x[k], r.crosses);
        else
            near_put(writer, pattern, &r);
    }
}

static uint32_t far_get(struct range_reader *reader, const struct pattern *pattern, uint32_t p)
{
    struct range_models *models = &reader->models;
    uint32_t sign = p >> pattern->sign ^ range_decode(&reader->coder, &models->crosses);
    unsigned node = 1;

    for (unsigned bit = pattern->exponent; bit-- > 0;)
        node = node * 2 + range_decode(&reader->coder, &models->exponent[node]);
    return far_value(
        pattern, sign, node - (1U << pattern->exponent), bits_read(&reader->bits, pattern->mantissa)
    );
}

static uint32_t
near_get(uint32_t *odd, struct range_reader *reader, const struct pattern *pattern, uint32_t p)
{
    unsigned floor = floor_of(pattern, p), from, to, at, top = 0, node = 1, more;

    classes_at(&from, &to, pattern, reader->highest, floor);
    for (at = from; at >= to; at--) {
        if (range_decode(&reader->coder, &reader->models.near[reader->highest - at]))
            break;
    }
    if (at < to)
        return p;
    for (unsigned k = 1; k <= TOP_BITS && k < at - floor; k++) {
        bool bit = range_decode(&reader->coder, &reader->models.top[reader->highest - at][node]);
        node = node * 2 + bit;
        top |= (unsigned)bit << (TOP_BITS - k);
    }
    uint32_t noise = bits_read(&reader->bits, noise_bits(at - floor) + 1);
    return near_value(pattern, p, distance_of(at - floor, top, &more), noise, odd);
}

bool range_get(
    uint32_t *x,
    struct range_reader *reader,
    const struct pattern *pattern,
    const uint32_t *p,
    size_t n
)
{
    uint32_t odd = 0;

    for (size_t k = 0; k < n; k++) {
        unsigned context = far_context(reader->highest, floor_of(pattern, p[k]));
        x[k] = range_decode(&reader->coder, &reader->models.far[context])
                   ? far_get(reader, pattern, p[k])
                   : near_get(&odd, reader, pattern, p[k]);
    }
    return odd == 0;
}
