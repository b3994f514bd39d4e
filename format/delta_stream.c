#include "format/delta_stream.h"

#include <string.h>

#include "format/bits.h"
#include "format/interrupt.h"
#include "format/predict.h"
#include "format/range_coder.h"

#define BLOCK        1024 /* values at once */
#define CLASS_MAX    320  /* bit length, exponent and scale together stay below it */
#define SPAN         62   /* classes below the highest that are coded as such */
#define FAR_SHARE    128  /* one value in so many may be above the highest class */
#define TOP_BITS     2    /* below the first one, that are modelled */
#define LENGTH_BYTES 4
#define HEAD         3 /* method, highest class */

enum token { TOKEN_EQUAL, TOKEN_FAR, TOKEN_NEAR };

/* A float's pattern, without the bits that are zero in the whole vector. */
struct pattern {
    unsigned bits, mantissa, exponent;
    unsigned scale; /* + exponent = the class of the last bit: of one size in all formats */
};

/* A value beside its prediction. */
struct residual {
    uint32_t size;       /* distance in the floats' order */
    unsigned length;     /* its bits; 0: equal */
    unsigned floor;      /* the class of the prediction's last bit; class = floor + length */
    bool below, crosses; /* the value is below; it has the other sign */
};

struct models {
    struct bit_model far[64], near[SPAN + 1], top[SPAN + 1][1 << TOP_BITS];
    struct bit_model crosses, exponent[256];
};

/* One stream in either direction. */
struct stream {
    unsigned highest; /* class that is coded as such */
    struct buf tokens, exponents, ranged, raw;
    const uint8_t *token, *exponent; /* the next ones to be read */
    struct range_encoder encoder;
    struct range_decoder decoder;
    struct bit_writer writer;
    struct bit_reader reader;
    struct models models;
};

static void stream_release(struct stream *stream)
{
    buf_release(&stream->tokens);
    buf_release(&stream->exponents);
    buf_release(&stream->ranged);
    buf_release(&stream->raw);
}
#define AUTO_STREAM(name) __attribute__((cleanup(stream_release))) struct stream name = {0}

static struct pattern pattern_of(const struct segment *segment)
{
    unsigned shift = segment->shift;

    if (segment->dtype == DTYPE_F16)
        return (struct pattern){.bits = 16, .mantissa = 10, .exponent = 5, .scale = 112 + 13};
    if (segment->dtype == DTYPE_BF16)
        shift = 16;
    return (struct pattern
    ){.bits = 32 - shift, .mantissa = 23 - shift, .exponent = 8, .scale = shift};
}

/* From patterns to integers in the floats' order, and back. */
static inline uint32_t to_order(const struct pattern *pattern, uint32_t x)
{
    uint32_t top = UINT32_C(1) << (pattern->bits - 1);

    return x & top ? ~x & (top | (top - 1)) : x | top;
}

static inline uint32_t from_order(const struct pattern *pattern, uint32_t order)
{
    uint32_t top = UINT32_C(1) << (pattern->bits - 1);

    return order & top ? order ^ top : ~order & (top | (top - 1));
}

static inline unsigned exponent_of(const struct pattern *pattern, uint32_t x)
{
    return x >> pattern->mantissa & ((1U << pattern->exponent) - 1);
}

static inline struct residual residual_of(const struct pattern *pattern, uint32_t x, uint32_t p)
{
    uint32_t a = to_order(pattern, x), b = to_order(pattern, p), size = a < b ? b - a : a - b;

    return (struct residual){
        .size = size,
        .length = size ? 32 - (unsigned)__builtin_clz(size) : 0,
        .floor = exponent_of(pattern, p) + pattern->scale,
        .below = a < b,
        .crosses = (x ^ p) >> (pattern->bits - 1) != 0,
    };
}

/* Is it coded as exponent and mantissa, not as a distance? */
static inline bool is_far(const struct residual *residual, unsigned highest)
{
    unsigned class = residual->floor + residual->length;

    return residual->length && (residual->crosses || class > highest || class + SPAN < highest);
}

static void patterns_read(uint32_t *out, const struct segment *segment, size_t at, size_t n)
{
    if (segment->dtype == DTYPE_F32) {
        memcpy(out, segment->x + at * 4, n * 4);
        for (size_t k = 0; segment->shift && k < n; k++)
            out[k] >>= segment->shift;
        return;
    }
    for (size_t k = 0; k < n; k++) {
        const uint8_t *x = segment->x + (at + k) * 2;
        out[k] = (uint32_t)(x[0] | x[1] << 8);
    }
}

static void patterns_write(const struct segment *segment, const uint32_t *x, size_t at, size_t n)
{
    for (size_t k = 0; segment->dtype == DTYPE_F32 && k < n; k++) {
        uint32_t bits = x[k] << segment->shift;
        memcpy(segment->x + (at + k) * 4, &bits, 4);
    }
    for (size_t k = 0; segment->dtype != DTYPE_F32 && k < n; k++) {
        segment->x[(at + k) * 2] = (uint8_t)x[k];
        segment->x[(at + k) * 2 + 1] = (uint8_t)(x[k] >> 8);
    }
}

static void predict_at(uint32_t *p, const struct segment *segment, size_t at, size_t n)
{
    size_t offset = at * (dtype_bits(segment->dtype) / 8);

    predict(
        p, segment->x1 + offset, segment->i ? segment->x0 + offset : NULL, segment->i, n,
        segment->dtype, segment->shift
    );
}

/* The bits below the first one: how many are modelled, and how many are noise. */
static inline unsigned top_bits(unsigned length)
{
    return length > TOP_BITS ? TOP_BITS : length - 1;
}

/* Tokens: one byte a value. A near one's is 2 + 4 * (highest - class) + its top bits. */

static void tokens_put(
    struct stream *stream,
    const struct pattern *pattern,
    const uint32_t *x,
    const uint32_t *p,
    size_t n
)
{
    uint8_t *token = stream->tokens.data + stream->tokens.len;
    uint8_t *exponents = stream->exponents.data;

    for (size_t k = 0; k < n; k++) {
        struct residual r = residual_of(pattern, x[k], p[k]);
        if (!r.length) {
            token[k] = TOKEN_EQUAL;
        } else if (is_far(&r, stream->highest)) {
            token[k] = TOKEN_FAR;
            exponents[stream->exponents.len++] = (uint8_t)exponent_of(pattern, x[k]);
            bits_write(&stream->writer, r.crosses, 1);
            bits_write(&stream->writer, x[k] & ((1U << pattern->mantissa) - 1), pattern->mantissa);
        } else {
            unsigned top = top_bits(r.length), low = r.length - 1 - top;
            unsigned bits = r.size >> low & ((1U << top) - 1);
            unsigned below = stream->highest - r.floor - r.length;
            token[k] = (uint8_t)(TOKEN_NEAR + 4 * below + bits);
            uint64_t noise = r.size & ((UINT32_C(1) << low) - 1);
            bits_write(&stream->writer, (uint32_t)(noise << 1 | r.below), low + 1);
        }
    }
    stream->tokens.len += n;
}

/* A value from its sign, exponent and mantissa, which is next in the raw bits. */
static inline uint32_t far_get(
    struct stream *stream,
    const struct pattern *pattern,
    uint32_t p,
    bool crosses,
    unsigned exponent
)
{
    uint32_t sign = (p >> (pattern->bits - 1)) ^ crosses;

    return sign << (pattern->bits - 1) | exponent << pattern->mantissa |
           bits_read(&stream->reader, pattern->mantissa);
}

/* A value from its distance: E_CORRUPT (false) where there is none so far. */
static inline bool near_get(
    uint32_t *x,
    struct stream *stream,
    const struct pattern *pattern,
    uint32_t p,
    unsigned length,
    unsigned bits
)
{
    unsigned top = top_bits(length), low = length - 1 - top;
    uint32_t noise = bits_read(&stream->reader, low + 1);
    uint32_t size = (1U << top | bits) << low | noise >> 1, order = to_order(pattern, p);
    uint32_t most = UINT32_MAX >> (32 - pattern->bits);

    if (noise & 1 ? size > order : size > most - order)
        return false;
    *x = from_order(pattern, noise & 1 ? order - size : order + size);
    return true;
}

static bool tokens_get(
    uint32_t *x, struct stream *stream, const struct pattern *pattern, const uint32_t *p, size_t n
)
{
    unsigned exponents = 1U << pattern->exponent;
    bool good = true;

    for (size_t k = 0; k < n && good; k++) {
        unsigned token = *stream->token++;
        if (token == TOKEN_EQUAL) {
            x[k] = p[k];
        } else if (token == TOKEN_FAR) {
            unsigned exponent = *stream->exponent++;
            bool crosses = bits_read(&stream->reader, 1);
            x[k] = far_get(stream, pattern, p[k], crosses, exponent & (exponents - 1));
            good = exponent < exponents;
        } else {
            unsigned below = (token - TOKEN_NEAR) / 4, bits = (token - TOKEN_NEAR) % 4;
            unsigned floor = exponent_of(pattern, p[k]) + pattern->scale;
            unsigned length = stream->highest - below - floor;
            good = stream->highest >= below + floor && length - 1 < pattern->bits &&
                   bits < 1U << top_bits(length) &&
                   near_get(&x[k], stream, pattern, p[k], length, bits);
        }
    }
    return good;
}

/* The range coder. A class is found from the highest downwards: at each one, is it this? Below the
   prediction's own last bit there is nothing but "equal". So all exponents share what is learnt. */

static inline unsigned far_context(const struct stream *stream, unsigned floor)
{
    unsigned below = stream->highest > floor ? stream->highest - floor : 0;

    return below < 63 ? below : 63;
}

static void far_put(struct stream *stream, const struct pattern *pattern, uint32_t x, bool crosses)
{
    struct models *models = &stream->models;
    unsigned exponent = exponent_of(pattern, x), node = 1;

    range_encode(&stream->encoder, &models->crosses, crosses);
    for (unsigned bit = pattern->exponent; bit-- > 0; node = node * 2 + (exponent >> bit & 1))
        range_encode(&stream->encoder, &models->exponent[node], exponent >> bit & 1);
    bits_write(&stream->writer, x & ((1U << pattern->mantissa) - 1), pattern->mantissa);
}

/* The highest class that a value at this floor may have, and the lowest. */
static inline void classes_at(
    unsigned *from,
    unsigned *to,
    const struct stream *stream,
    const struct pattern *pattern,
    unsigned floor
)
{
    unsigned most = floor + pattern->bits;

    *from = stream->highest < most ? stream->highest : most;
    *to = stream->highest > floor + SPAN ? stream->highest - SPAN : floor + 1;
}

static void near_put(struct stream *stream, const struct pattern *pattern, const struct residual *r)
{
    struct models *models = &stream->models;
    unsigned class = r->floor + r->length, from, to, node = 1;

    classes_at(&from, &to, stream, pattern, r->floor);
    for (unsigned at = from; at >= to; at--) {
        bool found = r->length && at == class;
        range_encode(&stream->encoder, &models->near[stream->highest - at], found);
        if (found)
            break;
    }
    if (!r->length)
        return;
    unsigned top = top_bits(r->length), low = r->length - 1 - top;
    for (unsigned bit = top; bit-- > 0; node = node * 2 + (r->size >> (low + bit) & 1))
        range_encode(
            &stream->encoder, &models->top[stream->highest - class][node],
            r->size >> (low + bit) & 1
        );
    uint64_t noise = r->size & ((UINT32_C(1) << low) - 1);
    bits_write(&stream->writer, (uint32_t)(noise << 1 | r->below), low + 1);
}

static void range_put(
    struct stream *stream,
    const struct pattern *pattern,
    const uint32_t *x,
    const uint32_t *p,
    size_t n
)
{
    for (size_t k = 0; k < n; k++) {
        struct residual r = residual_of(pattern, x[k], p[k]);
        bool far = is_far(&r, stream->highest);
        struct bit_model *model = &stream->models.far[far_context(stream, r.floor)];
        range_encode(&stream->encoder, model, far);
        if (far)
            far_put(stream, pattern, x[k], r.crosses);
        else
            near_put(stream, pattern, &r);
    }
}

static uint32_t far_range_get(struct stream *stream, const struct pattern *pattern, uint32_t p)
{
    struct models *models = &stream->models;
    unsigned node = 1;

    bool crosses = range_decode(&stream->decoder, &models->crosses);
    for (unsigned bit = pattern->exponent; bit-- > 0;)
        node = node * 2 + range_decode(&stream->decoder, &models->exponent[node]);
    return far_get(stream, pattern, p, crosses, node & ((1U << pattern->exponent) - 1));
}

static bool near_range_get(
    uint32_t *x, struct stream *stream, const struct pattern *pattern, uint32_t p, unsigned floor
)
{
    struct models *models = &stream->models;
    unsigned from, to, at, node = 1;

    classes_at(&from, &to, stream, pattern, floor);
    for (at = from; at >= to; at--) {
        if (range_decode(&stream->decoder, &models->near[stream->highest - at]))
            break;
    }
    *x = p;
    if (at < to)
        return true;
    unsigned length = at - floor, top = top_bits(length);
    for (unsigned bit = top; bit-- > 0;)
        node = node * 2 + range_decode(&stream->decoder, &models->top[stream->highest - at][node]);
    return near_get(x, stream, pattern, p, length, node - (1U << top));
}

static bool range_get(
    uint32_t *x, struct stream *stream, const struct pattern *pattern, const uint32_t *p, size_t n
)
{
    bool good = true;

    for (size_t k = 0; k < n && good; k++) {
        unsigned floor = exponent_of(pattern, p[k]) + pattern->scale;
        struct bit_model *model = &stream->models.far[far_context(stream, floor)];
        if (range_decode(&stream->decoder, model))
            x[k] = far_range_get(stream, pattern, p[k]);
        else
            good = near_range_get(&x[k], stream, pattern, p[k], floor);
    }
    return good;
}

/* Encoding */

/* The class that all but a few values stay at or below. */
static void
highest_find(struct stream *stream, const struct segment *segments, size_t count, uint64_t values)
{
    uint64_t histogram[CLASS_MAX] = {0}, above = 0;
    uint32_t x[BLOCK], p[BLOCK];

    for (size_t i = 0; i < count; i++) {
        const struct pattern pattern = pattern_of(&segments[i]);
        for (size_t at = 0; at < segments[i].values; at += BLOCK) {
            size_t n = segments[i].values - at < BLOCK ? segments[i].values - at : BLOCK;
            predict_at(p, &segments[i], at, n);
            patterns_read(x, &segments[i], at, n);
            for (size_t k = 0; k < n; k++) {
                struct residual r = residual_of(&pattern, x[k], p[k]);
                histogram[r.crosses ? 0 : r.floor + r.length]++;
            }
        }
    }
    for (stream->highest = CLASS_MAX - 1; stream->highest > 1; stream->highest--) {
        above += histogram[stream->highest];
        if (above * FAR_SHARE > values)
            break;
    }
}

static int values_encode(
    struct stream *stream, enum stream_method method, const struct segment *segments, size_t count
)
{
    uint32_t x[BLOCK], p[BLOCK];
    int err = 0;

    for (size_t i = 0; i < count; i++) {
        const struct pattern pattern = pattern_of(&segments[i]);
        for (size_t at = 0; at < segments[i].values; at += BLOCK) {
            size_t n = segments[i].values - at < BLOCK ? segments[i].values - at : BLOCK;
            predict_at(p, &segments[i], at, n);
            patterns_read(x, &segments[i], at, n);
            if (method == STREAM_RANGE)
                range_put(stream, &pattern, x, p, n);
            else
                tokens_put(stream, &pattern, x, p, n);
            if ((err = interrupt_check()) < 0)
                return err;
        }
    }
    return bits_write_end(&stream->writer);
}

static int with_length(struct buf *out, const struct buf *data)
{
    uint8_t length[LENGTH_BYTES];

    for (unsigned i = 0; i < sizeof(length); i++)
        length[i] = (uint8_t)(data->len >> (8 * i));
    int err = buf_append(out, length, sizeof(length));
    return err < 0 ? err : buf_append(out, data->data, data->len);
}

int stream_encode(
    struct buf *out,
    enum stream_method method,
    const struct segment *segments,
    size_t count,
    uint64_t values,
    struct plane_coder *planes
)
{
    AUTO_STREAM(stream);
    int err;

    highest_find(&stream, segments, count, values);
    stream.writer.out = &stream.raw;
    range_encoder_init(&stream.encoder, &stream.ranged);
    if (method == STREAM_TOKENS && ((err = buf_reserve(&stream.tokens, (size_t)values)) < 0 ||
                                    (err = buf_reserve(&stream.exponents, (size_t)values)) < 0))
        return err;
    const uint8_t head[HEAD] = {
        (uint8_t)method, (uint8_t)stream.highest, (uint8_t)(stream.highest >> 8)};
    if ((err = values_encode(&stream, method, segments, count)) < 0 ||
        (err = buf_append(out, head, sizeof(head))) < 0)
        return err;
    if (method == STREAM_RANGE) {
        if ((err = range_encoder_end(&stream.encoder)) < 0 ||
            (err = with_length(out, &stream.ranged)) < 0)
            return err;
    } else if ((err = plane_encode(out, planes, buf_bytes(&stream.tokens))) < 0 ||
               (err = plane_encode(out, planes, buf_bytes(&stream.exponents))) < 0) {
        return err;
    }
    return with_length(out, &stream.raw);
}

/* Decoding */

static int cut(struct bytes *out, struct bytes *rest, size_t n)
{
    if (n > rest->len)
        return error_set(E_CORRUPT, "frame: ends inside its body");
    *out = (struct bytes){rest->data, n};
    rest->data += n;
    rest->len -= n;
    return 0;
}

static int cut_with_length(struct bytes *out, struct bytes *rest)
{
    size_t n = 0;

    if (rest->len < LENGTH_BYTES)
        return error_set(E_CORRUPT, "frame: ends inside its body");
    for (unsigned i = 0; i < LENGTH_BYTES; i++)
        n |= (size_t)*rest->data++ << (8 * i);
    rest->len -= LENGTH_BYTES;
    return cut(out, rest, n);
}

static int
tokens_read(struct stream *stream, uint64_t values, struct plane_coder *planes, struct bytes *rest)
{
    size_t far = 0;
    int err;

    if ((err = buf_resize(&stream->tokens, (size_t)values)) < 0 ||
        (err = plane_decode(stream->tokens.data, (size_t)values, planes, rest)) < 0)
        return err;
    for (size_t k = 0; k < values; k++)
        far += stream->tokens.data[k] == TOKEN_FAR;
    if ((err = buf_resize(&stream->exponents, far)) < 0 ||
        (err = plane_decode(stream->exponents.data, far, planes, rest)) < 0)
        return err;
    stream->token = stream->tokens.data;
    stream->exponent = stream->exponents.data;
    return 0;
}

static int values_decode(
    struct stream *stream, enum stream_method method, const struct segment *segments, size_t count
)
{
    uint32_t x[BLOCK], p[BLOCK];

    for (size_t i = 0; i < count; i++) {
        const struct pattern pattern = pattern_of(&segments[i]);
        for (size_t at = 0; at < segments[i].values; at += BLOCK) {
            size_t n = segments[i].values - at < BLOCK ? segments[i].values - at : BLOCK;
            predict_at(p, &segments[i], at, n);
            if (!(method == STREAM_RANGE ? range_get(x, stream, &pattern, p, n)
                                         : tokens_get(x, stream, &pattern, p, n)))
                return error_set(E_CORRUPT, "frame: a value that no encoder writes");
            patterns_write(&segments[i], x, at, n);
            int err = interrupt_check();
            if (err < 0)
                return err;
        }
    }
    if (!bits_are_done(&stream->reader) ||
        (method == STREAM_RANGE && !range_decoder_is_done(&stream->decoder)))
        return error_set(E_CORRUPT, "frame: a stream of another length");
    return 0;
}

int stream_decode(
    const struct segment *segments,
    size_t count,
    uint64_t values,
    struct plane_coder *planes,
    struct bytes *rest
)
{
    AUTO_STREAM(stream);
    struct bytes ranged = {0}, raw = {0};
    int err;

    if (rest->len < HEAD)
        return error_set(E_CORRUPT, "frame: ends inside its body");
    enum stream_method method = rest->data[0];
    stream.highest = (unsigned)(rest->data[1] | rest->data[2] << 8);
    *rest = (struct bytes){rest->data + HEAD, rest->len - HEAD};
    if ((method != STREAM_TOKENS && method != STREAM_RANGE) || stream.highest >= CLASS_MAX)
        return error_set(E_CORRUPT, "frame: a stream of method %u", (unsigned)method);
    if (method == STREAM_RANGE)
        err = cut_with_length(&ranged, rest);
    else
        err = tokens_read(&stream, values, planes, rest);
    if (err < 0 || (err = cut_with_length(&raw, rest)) < 0)
        return err;
    if (method == STREAM_RANGE)
        range_decoder_init(&stream.decoder, ranged);
    bits_read_init(&stream.reader, raw);
    return values_decode(&stream, method, segments, count);
}
