/* vera basis: the random matrices A and B that the repository's adapters stand on: list them, show
   one, draw them again and compare (P2). */
#include <inttypes.h>
#include <string.h>

#include "cli/refs.h"

#define AUTO_BASES(name) __attribute__((cleanup(store_bases_release))) struct store_bases name = {0}

/* What verify found of one basis. */
enum verdict {
    VERDICT_NONE, /* not asked for */
    VERDICT_SAME,
    VERDICT_DIFFERENT,
    VERDICT_NOT_DRAWN, /* it is stored, or no model has told its shapes: nothing to draw */
};

static void uint_or_null(struct json_writer *writer, const char *key, bool known, uint64_t value)
{
    json_write_key(writer, key);
    if (known)
        json_write_uint(writer, value);
    else
        json_write_null(writer);
}

static int basis_json(const struct store_basis *basis, enum verdict verdict)
{
    const struct recipe *recipe = &basis->recipe;
    struct json_writer writer;
    AUTO_BUF(json);

    cli_json_begin(&writer, &json);
    describe_recipe_json(&writer, recipe);
    uint_or_null(&writer, "rank", recipe->has_matrices, recipe->rank);
    uint_or_null(&writer, "in", recipe->has_matrices, recipe->in);
    uint_or_null(&writer, "out", recipe->has_matrices, recipe->out);
    json_write_key(&writer, "versions");
    json_write_uint(&writer, basis->versions);
    if (verdict != VERDICT_NONE) {
        json_write_key(&writer, "ok");
        if (verdict == VERDICT_NOT_DRAWN)
            json_write_null(&writer);
        else
            json_write_bool(&writer, verdict == VERDICT_SAME);
    }
    return cli_json_end(&writer);
}

static const char *verdict_words(enum verdict verdict)
{
    switch (verdict) {
    case VERDICT_NONE:
        return "";
    case VERDICT_SAME:
        return "same bits";
    case VERDICT_DIFFERENT:
        return "DIFFERENT";
    case VERDICT_NOT_DRAWN:
        return "not drawn";
    }
    return "";
}

static void basis_head_say(struct cli *cli, bool verify)
{
    cli_say(
        cli, "%-12s  %-8s  %9s  %6s  %5s  %6s  %6s  variant", "id", "state",
        verify ? "now" : "versions", "seed", "rank", "in", "out"
    );
}

/* One line of the table; what is not known is a dash. */
static void basis_say(struct cli *cli, const struct store_basis *basis, enum verdict verdict)
{
    const struct recipe *recipe = &basis->recipe;
    char numbers[48] = "    -       -       -", versions[24], variant[32] = "-";

    snprintf(versions, sizeof(versions), "%zu", basis->versions);
    if (recipe->has_matrices)
        snprintf(
            numbers, sizeof(numbers), "%5" PRIu64 "  %6" PRIu64 "  %6" PRIu64, recipe->rank,
            recipe->in, recipe->out
        );
    if (recipe->has_variant) {
        bool rounded = recipe->rounding != BASIS_ROUND_NONE;
        snprintf(
            variant, sizeof(variant), "%s%s%s", basis_variant_name(recipe->variant),
            rounded ? "/" : "", rounded ? basis_rounding_name(recipe->rounding) : ""
        );
    }
    cli_say(
        cli, "%-12s  %-8s  %9s  %6s  %s  %s",
        recipe->has_matrices ? short_digest(&recipe->sha256_a).text : "-",
        basis_state_name(recipe->state),
        verdict == VERDICT_NONE ? versions : verdict_words(verdict), seed_text(recipe).text,
        numbers, variant
    );
}

static int bases_list(struct cli *cli, const struct store_bases *bases)
{
    int err = 0;

    if (!cli->json && bases->count)
        basis_head_say(cli, false);
    for (size_t i = 0; !err && i < bases->count; i++) {
        if (cli->json)
            err = basis_json(&bases->bases[i], VERDICT_NONE);
        else
            basis_say(cli, &bases->bases[i], VERDICT_NONE);
    }
    return err;
}

/* The bases whose A has a digest that begins with `prefix`: several where one A has another B, seed
   or state. */
static bool basis_matches(const struct store_basis *basis, const char *prefix)
{
    char hex[DIGEST_HEX_SIZE];

    if (!basis->recipe.has_matrices)
        return false;
    digest_hex(hex, &basis->recipe.sha256_a);
    return strncmp(hex, prefix, strlen(prefix)) == 0;
}

static int prefix_check(const char *prefix)
{
    if (!*prefix || strspn(prefix, "0123456789abcdef") != strlen(prefix))
        return cli_usage_error("'%s' is not the beginning of a SHA-256 of an A", prefix);
    return 0;
}

static int basis_not_found(const char *prefix)
{
    int err = error_set(E_NOTFOUND, "no basis whose A has a SHA-256 that begins with '%s'", prefix);

    return error_hint(err, "vera basis list names them");
}

static int basis_details_say(struct cli *cli, const struct recipe *recipe)
{
    char hex[DIGEST_HEX_SIZE];
    AUTO_BUF(words);
    int err = describe_basis(&words, recipe);

    if (err)
        return err;
    digest_hex(hex, &recipe->sha256_a);
    cli_say(cli, "basis %s", hex);
    if ((err = describe_say(cli, "state", &words)))
        return err;
    cli_say(cli, "  %-9s %s", "generator", recipe->has_seed ? BASIS_GENERATOR : "-");
    cli_say(
        cli, "  %-9s %s [%" PRIu64 ", %" PRIu64 "]  sha256 %s", "A", dtype_name(recipe->dtype_a),
        recipe->rank, recipe->in, hex
    );
    digest_hex(hex, &recipe->sha256_b);
    cli_say(
        cli, "  %-9s %s [%" PRIu64 ", %" PRIu64 "]  sha256 %s", "B", dtype_name(recipe->dtype_b),
        recipe->out, recipe->rank, hex
    );
    return 0;
}

static int bases_show(struct cli *cli, const struct store_bases *bases, const char *prefix)
{
    size_t found = 0;
    int err = prefix_check(prefix);

    for (size_t i = 0; !err && i < bases->count; i++) {
        const struct store_basis *basis = &bases->bases[i];
        if (!basis_matches(basis, prefix))
            continue;
        found++;
        if (cli->json) {
            err = basis_json(basis, VERDICT_NONE);
        } else if ((err = basis_details_say(cli, &basis->recipe)) == 0) {
            cli_say(cli, "  %-9s %zu", "versions", basis->versions);
        }
    }
    return err || found ? err : basis_not_found(prefix);
}

static int basis_verify(enum verdict *out, const struct recipe *recipe)
{
    struct digest a, b;

    *out = VERDICT_NOT_DRAWN;
    if (!recipe->has_seed || !recipe->has_variant || !recipe->has_matrices)
        return 0;
    struct basis_recipe generator = recipe_basis(recipe);
    int err = basis_digests(&a, &b, &generator, recipe->dtype_a, recipe->dtype_b);
    if (err)
        return err;
    bool same = digest_equal(&a, &recipe->sha256_a) && digest_equal(&b, &recipe->sha256_b);
    *out = same ? VERDICT_SAME : VERDICT_DIFFERENT;
    return 0;
}

/* `prefix` NULL: all. */
static int bases_verify(struct cli *cli, const struct store_bases *bases, const char *prefix)
{
    size_t found = 0, different = 0;
    int err = prefix ? prefix_check(prefix) : 0;

    for (size_t i = 0; !err && i < bases->count; i++) {
        const struct store_basis *basis = &bases->bases[i];
        enum verdict verdict;
        if (prefix && !basis_matches(basis, prefix))
            continue;
        if ((err = interrupt_check()) || (err = basis_verify(&verdict, &basis->recipe)))
            break;
        if (!cli->json && found == 0)
            basis_head_say(cli, true);
        found++;
        different += verdict == VERDICT_DIFFERENT;
        progress_update(cli->progress, i + 1, bases->count);
        if (cli->json)
            err = basis_json(basis, verdict);
        else
            basis_say(cli, basis, verdict);
    }
    if (!err && prefix && !found)
        return basis_not_found(prefix);
    return err ? err : different ? CLI_DIFFERENT : 0;
}

static int basis_run(struct cli *cli, const void *arguments)
{
    const char *action = operand_at(cli, 0), *prefix = operand_at(cli, 1);
    bool list = !action || strcmp(action, "list") == 0, show = action && !strcmp(action, "show");
    AUTO_BASES(bases);
    int err;

    (void)arguments;
    if (!list && !show && strcmp(action, "verify") != 0)
        return cli_usage_error("'%s' is none of list, show and verify", action);
    if (list && prefix)
        return cli_usage_error("list takes no ID");
    if (show && !prefix)
        return cli_usage_error("show needs the ID of a basis: the first digits of A's SHA-256");
    if ((err = store_bases(&bases, cli->store)))
        return err;
    if (list)
        return bases_list(cli, &bases);
    return show ? bases_show(cli, &bases, prefix) : bases_verify(cli, &bases, prefix);
}

static const struct operand operands[] = {
    {"list|show|verify", true, false, COMPLETE_WORDS, "What to do (list)"},
    {"ID", true, false, COMPLETE_NOTHING, "The first digits of A's SHA-256, for show and verify"},
    {0},
};

const struct command command_basis = {
    .name = "basis",
    .run = basis_run,
    .needs = NEEDS_STORE,
    .summary = "List and verify the random bases of the adapters",
    .details =
        "A VeRA adapter stands on two random matrices, A and B. They are proved (drawn again from "
        "the seed and compared bit for bit; not stored), stored (the seed does not give them), or "
        "declared (the adapter came without them; drawn when it is applied).\n\n"
        "verify draws every basis that has a recipe again and compares; it exits with 1 where one "
        "differs.",
    .examples = "vera basis\n"
                "vera basis show 875bf8\n"
                "vera basis verify",
    .operands = operands,
};
