/* Element types of safetensors, and exact conversions of the three that vera computes with. */
#ifndef FORMAT_DTYPE_H
#define FORMAT_DTYPE_H

#include "format/buf.h"

/* In the order of the safetensors writer's rank (low to high), so that a file can be laid out as
   safetensors lays it out. Source: safetensors tensor.rs. */
enum dtype {
    DTYPE_BOOL,
    DTYPE_F4,
    DTYPE_F6_E2M3,
    DTYPE_F6_E3M2,
    DTYPE_U8,
    DTYPE_I8,
    DTYPE_F8_E5M2,
    DTYPE_F8_E4M3,
    DTYPE_F8_E8M0,
    DTYPE_F8_E4M3FNUZ,
    DTYPE_F8_E5M2FNUZ,
    DTYPE_I16,
    DTYPE_U16,
    DTYPE_F16,
    DTYPE_BF16,
    DTYPE_I32,
    DTYPE_U32,
    DTYPE_F32,
    DTYPE_C64,
    DTYPE_F64,
    DTYPE_I64,
    DTYPE_U64,
    DTYPE_COUNT
};

/* "BF16"; E_INVALID for a name that safetensors does not know. */
MUST_CHECK int dtype_parse(enum dtype *out, struct bytes name);
const char *dtype_name(enum dtype dtype);
unsigned dtype_bits(enum dtype dtype);

/* F32, BF16 or F16: what exact mode reads and writes. */
bool dtype_is_applicable(enum dtype dtype);

/* Round to nearest even, subnormals kept, in integer arithmetic; every NaN becomes 0x7fc0 / 0x7e00.
 */
uint16_t bf16_from_float(float value);
uint16_t f16_from_float(float value);

/* Exact. */
float bf16_to_float(uint16_t bits);
float f16_to_float(uint16_t bits);

/* `count` little-endian elements of an applicable dtype to float32, exactly; and back, rounded. */
void dtype_widen(float *out, const uint8_t *data, size_t count, enum dtype dtype);
void dtype_narrow(uint8_t *out, const float *values, size_t count, enum dtype dtype);

/* The same between doubles and F32, BF16, F16 or F64, rounded once. */
bool dtype_is_float(enum dtype dtype);
void dtype_widen_double(double *out, const uint8_t *data, size_t count, enum dtype dtype);
void dtype_narrow_double(uint8_t *out, const double *values, size_t count, enum dtype dtype);

#endif
