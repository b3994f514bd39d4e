/*
 * The element types by name and size, and conversions between float32 and the two 16-bit types.
 *
 * Exact mode needs the same bits whatever a program has set: so nothing here depends on the
 * rounding mode or on FTZ and DAZ. Rounding is integer arithmetic; the few float operations are
 * exact, and what they would flush is zero in the result anyway. The conversions have no branches,
 * so that gcc turns the loops over them into vector code without help.
 */
#include "format/dtype.h"

#include <assert.h>
#include <math.h>
#include <string.h>

_Static_assert(__BYTE_ORDER__ == __ORDER_LITTLE_ENDIAN__, "elements are little-endian in files");

static const struct {
    const char *name;
    unsigned bits;
} types[DTYPE_COUNT] = {
    [DTYPE_BOOL] = {"BOOL", 8},
    [DTYPE_F4] = {"F4", 4},
    [DTYPE_F6_E2M3] = {"F6_E2M3", 6},
    [DTYPE_F6_E3M2] = {"F6_E3M2", 6},
    [DTYPE_U8] = {"U8", 8},
    [DTYPE_I8] = {"I8", 8},
    [DTYPE_F8_E5M2] = {"F8_E5M2", 8},
    [DTYPE_F8_E4M3] = {"F8_E4M3", 8},
    [DTYPE_F8_E8M0] = {"F8_E8M0", 8},
    [DTYPE_F8_E4M3FNUZ] = {"F8_E4M3FNUZ", 8},
    [DTYPE_F8_E5M2FNUZ] = {"F8_E5M2FNUZ", 8},
    [DTYPE_I16] = {"I16", 16},
    [DTYPE_U16] = {"U16", 16},
    [DTYPE_F16] = {"F16", 16},
    [DTYPE_BF16] = {"BF16", 16},
    [DTYPE_I32] = {"I32", 32},
    [DTYPE_U32] = {"U32", 32},
    [DTYPE_F32] = {"F32", 32},
    [DTYPE_C64] = {"C64", 64},
    [DTYPE_F64] = {"F64", 64},
    [DTYPE_I64] = {"I64", 64},
    [DTYPE_U64] = {"U64", 64},
};

int dtype_parse(enum dtype *out, struct bytes name)
{
    for (unsigned i = 0; i < DTYPE_COUNT; i++) {
        if (bytes_equal(name, text_bytes(types[i].name))) {
            *out = (enum dtype)i;
            return 0;
        }
    }
    int shown = name.len < 32 ? (int)name.len : 32;
    return error_set(
        E_INVALID, "unknown dtype '%.*s'", shown, shown ? (const char *)name.data : ""
    );
}

const char *dtype_name(enum dtype dtype)
{
    assert(dtype < DTYPE_COUNT);
    return types[dtype].name;
}

unsigned dtype_bits(enum dtype dtype)
{
    assert(dtype < DTYPE_COUNT);
    return types[dtype].bits;
}

bool dtype_is_applicable(enum dtype dtype)
{
    return dtype == DTYPE_F32 || dtype == DTYPE_BF16 || dtype == DTYPE_F16;
}

static inline uint32_t float_bits(float value)
{
    uint32_t bits;

    memcpy(&bits, &value, sizeof(bits));
    return bits;
}

static inline float bits_float(uint32_t bits)
{
    float value;

    memcpy(&value, &bits, sizeof(value));
    return value;
}

/* A choice that gcc cannot turn into a branch over float operations (which would stop the vector
   code: they might trap). */
static inline int32_t choose(bool condition, int32_t yes, int32_t no)
{
    int32_t mask = -(int32_t)condition;

    return (yes & mask) | (no & ~mask);
}

static inline uint16_t bf16_round(float value)
{
    uint32_t bits = float_bits(value);
    uint32_t rounded = (bits + 0x7fff + (bits >> 16 & 1)) >> 16;

    return (uint16_t)((bits & 0x7fffffff) > 0x7f800000 ? 0x7fc0 : rounded);
}

static inline uint16_t f16_round(float value)
{
    uint32_t bits = float_bits(value), sign = bits >> 16 & 0x8000;
    int32_t abs = (int32_t)(bits & 0x7fffffff); /* signed: SSE2 compares nothing else */

    /* From 2^-14 on: exponent bias 127 -> 15, 13 mantissa bits rounded away. */
    int32_t normal = (abs - 0x38000000 + 0xfff + (abs >> 13 & 1)) >> 13;

    /* Below: a count of 2^-24. A product by a power of two, its whole part and the rest are exact.
     */
    float scaled = bits_float((uint32_t)choose(abs < 0x38800000, abs, 0)) * 0x1p24f;
    int32_t whole = (int32_t)scaled;
    float rest = scaled - (float)whole;
    int32_t up = (rest > 0.5f) | ((rest == 0.5f) & whole);

    int32_t result = choose(abs < 0x38800000, whole + up, normal);
    result = choose(abs >= 0x477ff000, 0x7c00, result); /* 65520 and above */
    return (uint16_t)choose(abs > 0x7f800000, 0x7e00, result | (int32_t)sign);
}

static inline float bf16_value(uint16_t bits)
{
    return bits_float((uint32_t)bits << 16);
}

static inline float f16_value(uint16_t bits)
{
    uint32_t sign = (uint32_t)(bits & 0x8000) << 16;
    int32_t abs = bits & 0x7fff, normal = (abs << 13) + 0x38000000;
    int32_t small = (int32_t)float_bits((float)(abs & 0x3ff) * 0x1p-24f);
    int32_t result = choose(abs < 0x400, small, normal);

    result = choose(abs >= 0x7c00, normal + 0x38000000, result); /* infinities, NaNs with payload */
    return bits_float((uint32_t)result | sign);
}

uint16_t bf16_from_float(float value)
{
    return bf16_round(value);
}

uint16_t f16_from_float(float value)
{
    return f16_round(value);
}

float bf16_to_float(uint16_t bits)
{
    return bf16_value(bits);
}

float f16_to_float(uint16_t bits)
{
    return f16_value(bits);
}

static void bf16_widen(float *restrict out, const uint8_t *restrict data, size_t count)
{
    for (size_t i = 0; i < count; i++) {
        uint16_t bits;
        memcpy(&bits, data + 2 * i, sizeof(bits));
        out[i] = bf16_value(bits);
    }
}

static void f16_widen(float *restrict out, const uint8_t *restrict data, size_t count)
{
    for (size_t i = 0; i < count; i++) {
        uint16_t bits;
        memcpy(&bits, data + 2 * i, sizeof(bits));
        out[i] = f16_value(bits);
    }
}

static void bf16_narrow(uint8_t *restrict out, const float *restrict values, size_t count)
{
    for (size_t i = 0; i < count; i++) {
        uint16_t bits = bf16_round(values[i]);
        memcpy(out + 2 * i, &bits, sizeof(bits));
    }
}

static void f16_narrow(uint8_t *restrict out, const float *restrict values, size_t count)
{
    for (size_t i = 0; i < count; i++) {
        uint16_t bits = f16_round(values[i]);
        memcpy(out + 2 * i, &bits, sizeof(bits));
    }
}

void dtype_widen(float *out, const uint8_t *data, size_t count, enum dtype dtype)
{
    assert(dtype_is_applicable(dtype));
    if (dtype == DTYPE_BF16)
        bf16_widen(out, data, count);
    else if (dtype == DTYPE_F16)
        f16_widen(out, data, count);
    else if (count)
        memcpy(out, data, count * sizeof(*out));
}

void dtype_narrow(uint8_t *out, const float *values, size_t count, enum dtype dtype)
{
    assert(dtype_is_applicable(dtype));
    if (dtype == DTYPE_BF16)
        bf16_narrow(out, values, count);
    else if (dtype == DTYPE_F16)
        f16_narrow(out, values, count);
    else if (count)
        memcpy(out, values, count * sizeof(*values));
}

bool dtype_is_float(enum dtype dtype)
{
    return dtype_is_applicable(dtype) || dtype == DTYPE_F64;
}

void dtype_widen_double(double *out, const uint8_t *data, size_t count, enum dtype dtype)
{
    assert(dtype_is_float(dtype));
    if (dtype == DTYPE_F64) {
        if (count)
            memcpy(out, data, count * sizeof(*out));
        return;
    }
    size_t size = dtype_bits(dtype) / 8;
    for (size_t i = 0; i < count; i++) {
        float value;
        dtype_widen(&value, data + i * size, 1, dtype);
        out[i] = (double)value;
    }
}

/* To float32 towards zero, with the last bit set where something was lost: rounded once more to a
   type of at most 22 bits of mantissa it gives what rounding once gives. */
static float float_to_odd(double value)
{
    float near = (float)value;
    double wide = (double)near;

    if (wide == value || isnan(value))
        return near;
    uint32_t bits = float_bits(near);
    bits -= fabs(wide) > fabs(value); /* an infinity becomes the largest number */
    return bits_float(bits | 1);
}

void dtype_narrow_double(uint8_t *out, const double *values, size_t count, enum dtype dtype)
{
    assert(dtype_is_float(dtype));
    if (dtype == DTYPE_F64) {
        if (count)
            memcpy(out, values, count * sizeof(*values));
        return;
    }
    size_t size = dtype_bits(dtype) / 8;
    for (size_t i = 0; i < count; i++) {
        float value = dtype == DTYPE_F32 ? (float)values[i] : float_to_odd(values[i]);
        dtype_narrow(out + i * size, &value, 1, dtype);
    }
}
