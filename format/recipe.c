#include "format/recipe.h"

#include <assert.h>

#include "format/limits.h"
#include "format/text.h"

#define NOUN "recipe"

static const char *const state_names[] = {"proved", "stored", "declared"};
#define STATE_COUNT (sizeof(state_names) / sizeof(state_names[0]))

const char *basis_state_name(enum basis_state state)
{
    return (size_t)state < STATE_COUNT ? state_names[state] : "unknown";
}

static bool values_fit(uint64_t rows, uint64_t columns)
{
    uint64_t values;

    return !__builtin_mul_overflow(rows, columns, &values) && values <= LIMIT_BASIS_VALUES;
}

/* `code`, or E_LIMIT, where the matrices are none that an adapter can have. */
static int check_matrices(const struct recipe *recipe, int code)
{
    if (recipe->rank == 0 || recipe->in == 0 || recipe->out == 0)
        return error_set(code, NOUN ": A or B is empty");
    if (recipe->rank > LIMIT_RANK || !values_fit(recipe->rank, recipe->in) ||
        !values_fit(recipe->out, recipe->rank))
        return error_set(
            E_LIMIT, NOUN ": A is %ju x %ju and B %ju x %ju", (uintmax_t)recipe->rank,
            (uintmax_t)recipe->in, (uintmax_t)recipe->out, (uintmax_t)recipe->rank
        );
    return 0;
}

/* The state decides which lines there are; `code` where it does not allow the recipe's. */
static int check(const struct recipe *recipe, int code)
{
    const char *state = basis_state_name(recipe->state);

    if (recipe->payload_bytes > LIMIT_FILE)
        return error_set(E_LIMIT, NOUN ": the payload is larger than 2 GiB");
    switch (recipe->state) {
    case BASIS_PROVED:
        if (!recipe->has_seed || !recipe->has_variant || !recipe->has_matrices)
            return error_set(code, NOUN ": a %s basis has seed, variant and matrices", state);
        break;
    case BASIS_STORED:
        if (recipe->has_variant || !recipe->has_matrices)
            return error_set(code, NOUN ": a %s basis has matrices and no variant", state);
        break;
    case BASIS_DECLARED:
        if (recipe->has_variant != recipe->has_matrices ||
            (recipe->has_variant && !recipe->has_seed))
            return error_set(
                code, NOUN ": a %s basis has variant and matrices or neither, and a seed", state
            );
        break;
    default:
        return error_set(code, NOUN ": state %d", (int)recipe->state);
    }
    return recipe->has_matrices ? check_matrices(recipe, code) : 0;
}

/* json_int's range is -2^63 .. 2^64-1, and zero is never negative. */
static bool seed_is_valid(const struct json_int *seed)
{
    return !seed->negative || (seed->magnitude > 0 && seed->magnitude <= UINT64_C(1) << 63);
}

static int print_matrix(
    struct buf *out,
    const char *key,
    enum dtype dtype,
    uint64_t rows,
    uint64_t columns,
    const struct digest *digest
)
{
    char hex[DIGEST_HEX_SIZE];

    digest_hex(hex, digest);
    return buf_printf(
        out, "%s %s %ju %ju %s\n", key, dtype_name(dtype), (uintmax_t)rows, (uintmax_t)columns, hex
    );
}

static int print_lines(struct buf *out, const struct recipe *recipe)
{
    char hex[DIGEST_HEX_SIZE];
    int err;

    digest_hex(hex, &recipe->payload);
    err = buf_printf(
        out, "verastore " NOUN " 1\npayload %s %ju\nbasis %s\n", hex,
        (uintmax_t)recipe->payload_bytes, basis_state_name(recipe->state)
    );
    if (!err && recipe->has_seed)
        err = buf_printf(
            out, "generator " BASIS_GENERATOR "\nseed %s%ju\n", recipe->seed.negative ? "-" : "",
            (uintmax_t)recipe->seed.magnitude
        );
    if (!err && recipe->has_variant)
        err = buf_printf(
            out, "variant %s\nrounding %s\n", basis_variant_name(recipe->variant),
            basis_rounding_name(recipe->rounding)
        );
    if (err || !recipe->has_matrices)
        return err;
    err = print_matrix(out, "a", recipe->dtype_a, recipe->rank, recipe->in, &recipe->sha256_a);
    if (err)
        return err;
    return print_matrix(out, "b", recipe->dtype_b, recipe->out, recipe->rank, &recipe->sha256_b);
}

int recipe_encode(struct buf *out, const struct recipe *recipe)
{
    AUTO_BUF(text);
    int err;

    if ((err = check(recipe, E_INVALID)) < 0)
        return err;
    if (recipe->has_seed && !seed_is_valid(&recipe->seed))
        return error_set(E_INVALID, NOUN ": the seed is no integer of -2^63 .. 2^64-1");
    if ((err = print_lines(&text, recipe)) < 0)
        return err;
    *out = buf_take(&text);
    return 0;
}

static int parse_state(struct recipe *recipe, struct text *text)
{
    struct bytes word;
    int err;

    if ((err = text_line(text, "payload")) < 0 || (err = text_digest(&recipe->payload, text)) < 0 ||
        (err = text_uint64(&recipe->payload_bytes, text)) < 0 || (err = text_line_end(text)) < 0 ||
        (err = text_line(text, "basis")) < 0 || (err = text_rest(&word, text)) < 0)
        return err;
    for (size_t i = 0; i < STATE_COUNT; i++)
        if (bytes_equal(word, text_bytes(state_names[i]))) {
            recipe->state = (enum basis_state)i;
            return 0;
        }
    return text_error(text, "is no state of a basis");
}

static int parse_seed(struct recipe *recipe, struct text *text)
{
    struct bytes word;
    int err;

    if ((err = text_line(text, "generator")) < 0 || (err = text_rest(&word, text)) < 0)
        return err;
    if (!bytes_equal(word, text_bytes(BASIS_GENERATOR)))
        return text_error(text, "is a generator that this program does not know");
    if ((err = text_line(text, "seed")) < 0 || (err = text_rest(&word, text)) < 0)
        return err;
    recipe->seed.negative = word.len > 0 && word.data[0] == '-';
    if (recipe->seed.negative)
        word = (struct bytes){word.data + 1, word.len - 1};
    if (!text_parse_uint64(&recipe->seed.magnitude, word) || !seed_is_valid(&recipe->seed))
        return text_error(text, "is no integer of -2^63 .. 2^64-1");
    recipe->has_seed = true;
    return 0;
}

static int parse_variant(struct recipe *recipe, struct text *text)
{
    struct bytes word;
    int err;

    if ((err = text_line(text, "variant")) < 0 || (err = text_rest(&word, text)) < 0)
        return err;
    if (basis_variant_parse(&recipe->variant, word) < 0)
        return text_error(text, "is no variant of the generator");
    if ((err = text_line(text, "rounding")) < 0 || (err = text_rest(&word, text)) < 0)
        return err;
    if (basis_rounding_parse(&recipe->rounding, word) < 0)
        return text_error(text, "is no rounding of the generator");
    recipe->has_variant = true;
    return 0;
}

static int parse_matrix(
    enum dtype *dtype,
    uint64_t *rows,
    uint64_t *columns,
    struct digest *digest,
    struct text *text,
    const char *key
)
{
    struct bytes word;
    int err;

    if ((err = text_line(text, key)) < 0 || (err = text_word(&word, text)) < 0)
        return err;
    if (dtype_parse(dtype, word) < 0)
        return text_error(text, "is no dtype of safetensors");
    if ((err = text_uint64(rows, text)) < 0 || (err = text_uint64(columns, text)) < 0 ||
        (err = text_digest(digest, text)) < 0)
        return err;
    return text_line_end(text);
}

static int parse_matrices(struct recipe *r, struct text *text)
{
    uint64_t rank;
    int err;

    if ((err = parse_matrix(&r->dtype_a, &r->rank, &r->in, &r->sha256_a, text, "a")) < 0 ||
        (err = parse_matrix(&r->dtype_b, &r->out, &rank, &r->sha256_b, text, "b")) < 0)
        return err;
    if (rank != r->rank)
        return text_error(text, "has another rank than A");
    r->has_matrices = true;
    return 0;
}

int recipe_decode(struct recipe *out, struct bytes input)
{
    struct recipe recipe = {0};
    struct text text;
    int err;

    if ((err = text_init(&text, NOUN, input)) < 0 || (err = parse_state(&recipe, &text)) < 0)
        return err;
    if (text_next_is(&text, "generator") && (err = parse_seed(&recipe, &text)) < 0)
        return err;
    if (text_next_is(&text, "variant") && (err = parse_variant(&recipe, &text)) < 0)
        return err;
    if (text_next_is(&text, "a") && (err = parse_matrices(&recipe, &text)) < 0)
        return err;
    if ((err = text_end(&text)) < 0 || (err = check(&recipe, E_CORRUPT)) < 0)
        return err;
    *out = recipe;
    return 0;
}

struct basis_recipe recipe_basis(const struct recipe *recipe)
{
    uint64_t seed = recipe->seed.magnitude;

    assert(recipe->has_seed && recipe->has_variant && recipe->has_matrices);
    return (struct basis_recipe){
        .variant = recipe->variant,
        .rounding = recipe->rounding,
        .seed = recipe->seed.negative ? 0 - seed : seed,
        .rank = recipe->rank,
        .in = recipe->in,
        .out = recipe->out,
    };
}
