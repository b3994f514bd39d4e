/*
 * A snapshot ready to be used: names and shapes decoded, checked against each other and against the
 * parts' sizes, so that whoever reads a tensor's bytes afterwards stays inside the payload. And its
 * basis, wherever it comes from: regenerated, stored, or PEFT's recipe on load.
 *
 * What was stored and does not decode is E_CORRUPT, whatever the decoder called it.
 */
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

#include "format/limits.h"
#include "format/snapshot.h"

/* Stored bytes that are not acceptable are damaged. */
static int stored_error(int err)
{
    if (err == E_INVALID || err == E_UNSUPPORTED || err == E_NOTFOUND || err == E_EXISTS)
        return error_wrap(E_CORRUPT, "snapshot");
    return err;
}

/* Do the recipe's matrices have the shapes and dtypes of the layout's? */
static bool matrices_fit(const struct recipe *recipe, const struct adapter *adapter)
{
    const struct tensor *a = adapter->a, *b = adapter->basis_b;

    return recipe->rank == adapter->config.rank && recipe->in == a->shape[1] &&
           recipe->out == b->shape[0] && recipe->dtype_a == a->dtype && recipe->dtype_b == b->dtype;
}

static bool seeds_equal(const struct recipe *recipe, const struct peft_config *config)
{
    return recipe->has_seed == config->has_seed &&
           (!recipe->has_seed || (recipe->seed.negative == config->seed.negative &&
                                  recipe->seed.magnitude == config->seed.magnitude));
}

static int basis_fits(const struct loaded_adapter *loaded)
{
    const struct recipe *recipe = &loaded->recipe;
    const struct adapter *adapter = &loaded->adapter;
    const struct snapshot *snapshot = loaded->snapshot;
    uint64_t a = 0, b = 0;

    if ((adapter->a != NULL) != (recipe->state != BASIS_DECLARED))
        return error_set(
            E_CORRUPT, "snapshot: the basis is %s, and the layout has %s",
            basis_state_name(recipe->state), adapter->a ? "A and B" : "no A and B"
        );
    if (!seeds_equal(recipe, &adapter->config))
        return error_set(E_CORRUPT, "snapshot: recipe and %s name different seeds", PEFT_CONFIG);
    if (recipe->has_matrices && recipe->rank != adapter->config.rank)
        return error_set(E_CORRUPT, "snapshot: recipe and %s name different ranks", PEFT_CONFIG);
    if (adapter->a && !matrices_fit(recipe, adapter))
        return error_set(E_CORRUPT, "snapshot: recipe and layout give A and B different shapes");
    if (recipe->state == BASIS_STORED) {
        a = tensor_bytes(adapter->a);
        b = tensor_bytes(adapter->basis_b);
    }
    if (snapshot->a.len != a || snapshot->b.len != b)
        return error_set(E_CORRUPT, "snapshot: the stored basis has another size than its layout");
    return 0;
}

static int adapter_read(struct loaded_adapter *loaded)
{
    const struct snapshot *snapshot = loaded->snapshot;
    struct bytes layout = buf_bytes(&snapshot->layout);
    AUTO_MANIFEST(manifest);
    int err;

    if ((err = manifest_decode(&manifest, buf_bytes(&snapshot->manifest))) < 0 ||
        (err = recipe_decode(&loaded->recipe, buf_bytes(&snapshot->recipe))) < 0)
        return err;
    const struct manifest_file *model = manifest_find(&manifest, PEFT_MODEL);
    if (!model)
        return error_set(E_CORRUPT, "manifest: no %s", PEFT_MODEL);
    err = adapter_decode(&loaded->adapter, buf_bytes(&snapshot->config), layout, model->bytes);
    if (err < 0)
        return err;
    if (layout.len != loaded->adapter.layout.header_bytes)
        return error_set(E_CORRUPT, "layout: %zu bytes, it is longer than its header", layout.len);
    if (snapshot->payload.len != loaded->adapter.payload_bytes ||
        loaded->recipe.payload_bytes != loaded->adapter.payload_bytes)
        return error_set(
            E_CORRUPT, "snapshot: the payload has %zu bytes, the layout has %" PRIu64,
            snapshot->payload.len, loaded->adapter.payload_bytes
        );
    return basis_fits(loaded);
}

int adapter_load(struct loaded_adapter *out, const struct snapshot *snapshot)
{
    AUTO_LOADED_ADAPTER(loaded);

    loaded.snapshot = snapshot;
    int err = adapter_read(&loaded);
    if (err < 0)
        return stored_error(err);
    *out = loaded;
    loaded = (struct loaded_adapter){0};
    return 0;
}

void loaded_adapter_release(struct loaded_adapter *loaded)
{
    adapter_release(&loaded->adapter);
    *loaded = (struct loaded_adapter){0};
}

struct bytes loaded_tensor(const struct loaded_adapter *loaded, const struct tensor *tensor)
{
    uint64_t offset = adapter_payload_offset(&loaded->adapter, tensor);
    uint64_t len = tensor_bytes(tensor);
    const uint8_t *payload = loaded->snapshot->payload.data;

    return (struct bytes){payload ? payload + offset : NULL, (size_t)len};
}

/* The basis */

static int digest_check(
    struct bytes data, const struct digest *wanted, int code, const char *name, const char *why
)
{
    struct digest digest;

    int err = digest_of(&digest, data);
    if (err < 0 || digest_equal(&digest, wanted))
        return err;
    return error_set(code, "basis: %s is not the one that was recorded: %s", name, why);
}

static int matrices_check(
    const struct recipe *recipe, struct bytes a, struct bytes b, int code, const char *why
)
{
    int err = digest_check(a, &recipe->sha256_a, code, "A", why);

    return err < 0 ? err : digest_check(b, &recipe->sha256_b, code, "B", why);
}

static int matrix_widen(float **out, struct bytes data, enum dtype dtype)
{
    size_t count = data.len / (dtype_bits(dtype) / 8);

    float *values = array_new(count, sizeof(*values));
    if (!values)
        return error_wrap(E_NOMEM, "basis");
    dtype_widen(values, data.data, count, dtype);
    *out = values;
    return 0;
}

/* As floats; float32 bytes in this machine's order are floats already. */
static int matrix_take(float **out, struct buf *data, enum dtype dtype)
{
    if (dtype == DTYPE_F32 && __BYTE_ORDER__ == __ORDER_LITTLE_ENDIAN__) {
        *out = (float *)(void *)buf_take(data).data;
        return 0;
    }
    int err = matrix_widen(out, buf_bytes(data), dtype);
    if (err == 0)
        buf_release(data);
    return err;
}

/* Draw the recipe's matrices; where digests were recorded (`check`), they must be the recipe's. */
static int basis_draw(struct basis *basis, struct recipe *recipe, bool check, int code)
{
    struct basis_recipe drawn = recipe_basis(recipe);
    AUTO_BUF(a);
    AUTO_BUF(b);
    int err;

    if ((err = basis_encode(&a, &b, &drawn, recipe->dtype_a, recipe->dtype_b)) < 0)
        return err;
    if (check)
        err = matrices_check(
            recipe, buf_bytes(&a), buf_bytes(&b), code,
            code == E_CONFLICT ? "another base model" : "the recipe is damaged"
        );
    else if ((err = digest_of(&recipe->sha256_a, buf_bytes(&a))) == 0)
        err = digest_of(&recipe->sha256_b, buf_bytes(&b));
    if (err < 0 || (err = matrix_take(&basis->a, &a, recipe->dtype_a)) < 0)
        return err;
    return matrix_take(&basis->b, &b, recipe->dtype_b);
}

static int basis_widen(struct basis *basis, const struct loaded_adapter *loaded)
{
    const struct recipe *recipe = &loaded->recipe;
    struct bytes a = buf_bytes(&loaded->snapshot->a), b = buf_bytes(&loaded->snapshot->b);
    int err;

    if (!dtype_is_applicable(recipe->dtype_a) || !dtype_is_applicable(recipe->dtype_b))
        return error_set(
            E_UNSUPPORTED, "basis: A is stored as %s and B as %s; F32, BF16 and F16 can be applied",
            dtype_name(recipe->dtype_a), dtype_name(recipe->dtype_b)
        );
    if ((err = matrices_check(recipe, a, b, E_CORRUPT, "it is damaged")) < 0 ||
        (err = matrix_widen(&basis->a, a, recipe->dtype_a)) < 0)
        return err;
    return matrix_widen(&basis->b, b, recipe->dtype_b);
}

/* What PEFT does when it loads an adapter without A and B onto a base model of these shapes. */
static int recipe_declare(
    struct recipe *recipe,
    const struct adapter *adapter,
    uint64_t in_max,
    uint64_t out_max,
    enum dtype dtype
)
{
    uint64_t a, b;

    if (!recipe->has_seed)
        return error_set(
            E_UNSUPPORTED, "basis: the adapter has neither A and B nor a seed to draw them from"
        );
    if (!dtype_is_applicable(dtype))
        return error_set(
            E_UNSUPPORTED, "basis: it depends on one dtype of the base model: F32, BF16 or F16"
        );
    if (out_max < adapter->out_max)
        return error_set(
            E_CONFLICT,
            "basis: the base model's modules have %" PRIu64 " outputs, the adapter's %" PRIu64,
            out_max, adapter->out_max
        );
    int err = basis_values(&a, &b, adapter->config.rank, in_max, out_max);
    if (err < 0)
        return err;
    recipe->variant = BASIS_FMA;
    recipe->rounding = dtype == DTYPE_BF16  ? BASIS_ROUND_BF16
                       : dtype == DTYPE_F16 ? BASIS_ROUND_FP16
                                            : BASIS_ROUND_NONE;
    recipe->rank = adapter->config.rank;
    recipe->in = in_max;
    recipe->out = out_max;
    recipe->dtype_a = recipe->dtype_b = DTYPE_F32;
    recipe->has_variant = recipe->has_matrices = true;
    return 0;
}

static int basis_declare(
    struct basis *basis,
    struct recipe *recipe,
    const struct adapter *adapter,
    uint64_t in_max,
    uint64_t out_max,
    enum dtype dtype
)
{
    bool recorded = recipe->has_matrices;

    int err = recipe_declare(recipe, adapter, in_max, out_max, dtype);
    return err < 0 ? err : basis_draw(basis, recipe, recorded, E_CONFLICT);
}

int recipe_set_base(
    struct recipe *recipe, const struct adapter *adapter, const struct base_facts *base
)
{
    struct recipe declared = *recipe;

    int err = recipe_declare(&declared, adapter, base->in_max, base->out_max, base->dtype);
    if (err < 0)
        return err;
    struct basis_recipe drawn = recipe_basis(&declared);
    err = basis_digests(
        &declared.sha256_a, &declared.sha256_b, &drawn, declared.dtype_a, declared.dtype_b
    );
    if (err == 0)
        *recipe = declared;
    return err;
}

int basis_load(
    struct basis *out,
    const struct loaded_adapter *loaded,
    uint64_t in_max,
    uint64_t out_max,
    enum dtype dtype
)
{
    AUTO_BASIS(basis);
    struct recipe recipe = loaded->recipe;
    int err;

    if (recipe.state == BASIS_PROVED)
        err = basis_draw(&basis, &recipe, true, E_CORRUPT);
    else if (recipe.state == BASIS_STORED)
        err = basis_widen(&basis, loaded);
    else
        err = basis_declare(&basis, &recipe, &loaded->adapter, in_max, out_max, dtype);
    if (err < 0)
        return err;
    basis.rank = recipe.rank;
    basis.in = recipe.in;
    basis.out = recipe.out;
    basis.sha256_a = recipe.sha256_a;
    basis.sha256_b = recipe.sha256_b;
    *out = basis;
    basis = (struct basis){0};
    return 0;
}

void basis_release(struct basis *basis)
{
    free(basis->a);
    free(basis->b);
    *basis = (struct basis){0};
}
