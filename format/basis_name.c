#include "format/basis.h"

/* The words for variants and roundings, as recipes and --json have them. */
static const char *const variant_names[] = {"fma", "mul-add"};
static const char *const rounding_names[] = {"none", "bf16", "fp16"};

const char *basis_variant_name(enum basis_variant variant)
{
    return variant_names[variant];
}

const char *basis_rounding_name(enum basis_rounding rounding)
{
    return rounding_names[rounding];
}

int basis_variant_parse(enum basis_variant *out, struct bytes name)
{
    for (unsigned i = 0; i < sizeof(variant_names) / sizeof(variant_names[0]); i++)
        if (bytes_equal(name, text_bytes(variant_names[i]))) {
            *out = (enum basis_variant)i;
            return 0;
        }
    return error_set(E_INVALID, "unknown variant of the basis generator");
}

int basis_rounding_parse(enum basis_rounding *out, struct bytes name)
{
    for (unsigned i = 0; i < sizeof(rounding_names) / sizeof(rounding_names[0]); i++)
        if (bytes_equal(name, text_bytes(rounding_names[i]))) {
            *out = (enum basis_rounding)i;
            return 0;
        }
    return error_set(E_INVALID, "unknown rounding of the basis generator");
}
