/* VeRA's factors as LoRA's. See lora.h. */
#include "apply/lora.h"

#include <assert.h>
#include <inttypes.h>
#include <math.h>
#include <string.h>

#define BLOCK_VALUES ((size_t)1 << 16) /* of a block of rows, where one row is not more */

static const struct adapter_module *module_of(const struct lora *lora, size_t module)
{
    return &lora->loaded->adapter.modules[module];
}

uint64_t lora_rows(const struct lora *lora, size_t module, enum lora_factor factor)
{
    return factor == LORA_A ? lora->basis->rank : module_of(lora, module)->out;
}

uint64_t lora_columns(const struct lora *lora, size_t module, enum lora_factor factor)
{
    return factor == LORA_A ? lora->in[module] : lora->basis->rank;
}

uint64_t lora_bytes(const struct lora *lora, size_t module, enum lora_factor factor)
{
    /* effect_check() bounds both factors by LIMIT_BASIS_VALUES. */
    return lora_rows(lora, module, factor) * lora_columns(lora, module, factor) *
           (dtype_bits(lora->dtype) / 8);
}

static int vector_check(const struct tensor *tensor)
{
    if (dtype_is_applicable(tensor->dtype))
        return 0;
    return error_set(
        E_UNSUPPORTED, "tensor %s is %s: only F32, BF16 and F16 can be computed with", tensor->name,
        dtype_name(tensor->dtype)
    );
}

int lora_check(const struct lora *lora)
{
    const struct adapter *adapter = &lora->loaded->adapter;
    int err = 0;

    for (size_t i = 0; i < adapter->module_count; i++) {
        const struct adapter_module *module = &adapter->modules[i];
        if ((err = vector_check(module->d)) < 0 || (err = vector_check(module->b)) < 0)
            return err;
        err = effect_check(&lora->effects->modules[i], module->name, lora->in[i], module->out);
        if (err < 0)
            return err;
    }
    return err;
}

/* The row of PEFT's that llama.cpp has here. */
static uint64_t row_source(uint64_t row, uint64_t rows, uint64_t heads)
{
    if (!heads)
        return row;
    uint64_t size = rows / heads, at = row % size;

    return row - at + at % 2 * (size / 2) + at / 2;
}

static int value_refuse(
    const struct lora *lora, size_t module, enum lora_factor factor, uint64_t row, uint64_t column
)
{
    int err = error_set(
        E_INVALID, "module %s: lora_%c[%" PRIu64 ", %" PRIu64 "] is not finite as %s",
        module_of(lora, module)->name, factor == LORA_A ? 'A' : 'B', row, column,
        dtype_name(lora->dtype)
    );
    return lora->dtype == DTYPE_F16 ? error_hint(err, "--dtype bf16 or fp32 has room for it") : err;
}

/* One row: the matrix' row times its factor. `values` is room for it. */
static int row_make(
    uint8_t *out,
    float *values,
    const struct lora *lora,
    size_t module,
    enum lora_factor factor,
    uint64_t row
)
{
    const struct effect *effect = &lora->effects->modules[module];
    const struct basis *basis = lora->basis;
    size_t columns = (size_t)lora_columns(lora, module, factor);
    const float *from = factor == LORA_A ? basis->a + row * basis->in
                                         : basis->b + row * basis->rank;
    /* The vectors are F32 or narrower, so this is exact. */
    float scale = (float)(factor == LORA_A ? effect->d[row] : effect->b[row]);

    for (size_t i = 0; i < columns; i++)
        values[i] = scale * from[i];
    dtype_narrow(out, values, columns, lora->dtype);
    /* What was rounded to F16 or BF16 may have left its range. */
    dtype_widen(values, out, columns, lora->dtype);
    for (size_t i = 0; i < columns; i++) {
        if (!isfinite(values[i]))
            return value_refuse(lora, module, factor, row, i);
    }
    return 0;
}

int lora_write(
    struct sink *sink,
    const struct lora *lora,
    size_t module,
    enum lora_factor factor,
    uint64_t heads
)
{
    uint64_t rows = lora_rows(lora, module, factor), columns = lora_columns(lora, module, factor);
    size_t row_bytes = (size_t)columns * dtype_bits(lora->dtype) / 8;
    uint64_t block = columns < BLOCK_VALUES ? BLOCK_VALUES / columns : 1;
    AUTO_FREE(float, values);
    AUTO_FREE(uint8_t, bytes);
    int err = 0;

    assert(!heads || rows % (2 * heads) == 0);
    block = block < rows ? block : rows;
    if (!(values = array_new((size_t)columns, sizeof(*values))) ||
        !(bytes = array_new((size_t)block, row_bytes)))
        return error_wrap(E_NOMEM, "rows of a factor");
    for (uint64_t first = 0; err == 0 && first < rows; first += block) {
        uint64_t count = rows - first < block ? rows - first : block;
        for (uint64_t i = 0; err == 0 && i < count; i++) {
            uint64_t row = row_source(first + i, rows, heads);
            err = row_make(bytes + i * row_bytes, values, lora, module, factor, row);
        }
        if (err == 0)
            err = sink_write(sink, bytes, (size_t)count * row_bytes);
    }
    return err;
}

const char *lora_other_name(const struct tensor *tensor)
{
    size_t prefix = strlen(PEFT_PREFIX);

    return strncmp(tensor->name, PEFT_PREFIX, prefix) == 0 ? tensor->name + prefix : tensor->name;
}
