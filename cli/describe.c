/* What several commands say of a version. See describe.h. */
#include "cli/describe.h"

#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

struct short_id short_commit(const struct commit_id *id)
{
    char hex[COMMIT_HEX_SIZE];
    struct short_id out = {{0}};

    commit_hex(hex, id);
    memcpy(out.text, hex, 7);
    return out;
}

struct short_id short_digest(const struct digest *digest)
{
    char hex[DIGEST_HEX_SIZE];
    struct short_id out = {{0}};

    digest_hex(hex, digest);
    memcpy(out.text, hex, 12);
    return out;
}

struct seed_text seed_text(const struct recipe *recipe)
{
    struct seed_text out = {"-"};

    if (recipe->has_seed)
        snprintf(
            out.text, sizeof(out.text), "%s%" PRIu64, recipe->seed.negative ? "-" : "",
            recipe->seed.magnitude
        );
    return out;
}

/* JSON */

void describe_uint_json(struct json_writer *writer, const char *key, uint64_t value)
{
    json_write_key(writer, key);
    json_write_uint(writer, value);
}

void describe_recipe_json(struct json_writer *writer, const struct recipe *recipe)
{
    json_write_key(writer, "generator");
    json_write_text(writer, recipe->has_seed ? BASIS_GENERATOR : NULL);
    json_write_key(writer, "variant");
    json_write_text(writer, recipe->has_variant ? basis_variant_name(recipe->variant) : NULL);
    json_write_key(writer, "rounding");
    json_write_text(writer, recipe->has_variant ? basis_rounding_name(recipe->rounding) : NULL);
    json_write_key(writer, "seed");
    if (recipe->has_seed)
        json_write_int(writer, recipe->seed);
    else
        json_write_null(writer);
    json_write_key(writer, "state");
    json_write_text(writer, basis_state_name(recipe->state));
    cli_json_digest(writer, "sha256_a", recipe->has_matrices ? &recipe->sha256_a : NULL, false);
    cli_json_digest(writer, "sha256_b", recipe->has_matrices ? &recipe->sha256_b : NULL, false);
}

static void frame_json(struct json_writer *writer, const struct frame_summary *frame)
{
    json_write_key(writer, "frame");
    if (!frame) {
        json_write_null(writer);
        return;
    }
    json_write_object_begin(writer);
    json_write_key(writer, "codec");
    json_write_text(writer, frame->codec);
    json_write_key(writer, "depth");
    json_write_uint(writer, frame->depth);
    json_write_key(writer, "bytes");
    json_write_uint(writer, frame->bytes);
    json_write_object_end(writer);
}

static void left_out_json(struct json_writer *writer, const struct description *description)
{
    json_write_key(writer, "left_out");
    if (!description->has_left_out) {
        json_write_null(writer);
        return;
    }
    json_write_array_begin(writer);
    for (size_t i = 0; i < description->left_out_count; i++)
        json_write_text(writer, description->left_out[i]);
    json_write_array_end(writer);
}

void describe_json(struct json_writer *writer, const struct description *description)
{
    const struct recipe *recipe = &description->loaded->recipe;

    cli_json_commit(writer, "commit", description->commit);
    cli_json_digest(writer, "snapshot", &description->snapshot->id, true);
    json_write_key(writer, "branch");
    json_write_text(writer, description->branch);
    json_write_key(writer, "kind");
    json_write_text(writer, "vera");
    json_write_key(writer, "modules");
    json_write_uint(writer, description->loaded->adapter.module_count);
    json_write_key(writer, "basis");
    json_write_object_begin(writer);
    describe_recipe_json(writer, recipe);
    json_write_object_end(writer);
    json_write_key(writer, "payload_bytes");
    json_write_uint(writer, recipe->payload_bytes);
    json_write_key(writer, "stored_bytes");
    if (description->stored_bytes)
        json_write_uint(writer, *description->stored_bytes);
    else
        json_write_null(writer);
    frame_json(writer, description->frame);
    left_out_json(writer, description);
}

void describe_files_json(struct json_writer *writer, const struct manifest *manifest)
{
    json_write_key(writer, "files");
    json_write_array_begin(writer);
    for (size_t i = 0; i < manifest->count; i++) {
        const struct manifest_file *file = &manifest->files[i];
        json_write_object_begin(writer);
        json_write_key(writer, "path");
        json_write_text(writer, file->path);
        cli_json_digest(writer, "sha256", &file->digest, false);
        json_write_key(writer, "bytes");
        json_write_uint(writer, file->bytes);
        json_write_object_end(writer);
    }
    json_write_array_end(writer);
}

/* A name that comes again later is skipped: the last value counts. */
static bool metric_counts(const struct version *version, size_t index)
{
    for (size_t i = index + 1; i < version->metric_count; i++) {
        if (strcmp(version->metrics[i].name, version->metrics[index].name) == 0)
            return false;
    }
    return true;
}

void describe_metrics_json(struct json_writer *writer, const struct version *version)
{
    json_write_key(writer, "metrics");
    json_write_object_begin(writer);
    for (size_t i = 0; i < version->metric_count; i++) {
        if (!metric_counts(version, i))
            continue;
        json_write_key(writer, version->metrics[i].name);
        json_write_double(writer, version->metrics[i].value);
    }
    json_write_object_end(writer);
}

void describe_version_json(struct json_writer *writer, const struct version *version)
{
    char time[32];
    AUTO_BUF(author);

    json_write_key(writer, "parents");
    json_write_array_begin(writer);
    for (size_t i = 0; i < version->parent_count; i++) {
        char hex[COMMIT_HEX_SIZE];
        commit_hex(hex, &version->parents[i]);
        json_write_text(writer, hex);
    }
    json_write_array_end(writer);
    json_write_key(writer, "author");
    int err = buf_printf(&author, "%s <%s>", version->author_name, version->author_email);
    if (err && !writer->err)
        writer->err = err;
    json_write_bytes(writer, buf_bytes(&author));
    cli_time(time, version->time, version->time_offset, true);
    json_write_key(writer, "time");
    json_write_text(writer, time);
    json_write_key(writer, "message");
    json_write_text(writer, version->message);
}

/* Words */

int describe_basis(struct buf *out, const struct recipe *recipe)
{
    struct seed_text seed = seed_text(recipe);

    switch (recipe->state) {
    case BASIS_PROVED:
        return buf_printf(
            out, "proved: seed %s gives A and B, bit for bit (%s%s%s); not stored", seed.text,
            basis_variant_name(recipe->variant), recipe->rounding == BASIS_ROUND_NONE ? "" : ", ",
            recipe->rounding == BASIS_ROUND_NONE ? "" : basis_rounding_name(recipe->rounding)
        );
    case BASIS_STORED:
        if (!recipe->has_seed)
            return buf_append_text(out, "stored: the adapter names no seed, so A and B are kept");
        return buf_printf(
            out, "stored: seed %s does not give A and B bit for bit, so they are kept", seed.text
        );
    case BASIS_DECLARED:
        if (!recipe->has_seed)
            return buf_append_text(out, "declared: A and B were not saved, and no seed is named");
        return buf_printf(
            out, "declared: A and B were not saved; seed %s draws them%s", seed.text,
            recipe->has_matrices ? " (digests recorded)" : ""
        );
    }
    return 0;
}

#define WORDS_MAX 69 /* bytes of a list of words, so that its line has 80 columns */
#define AND_MORE  15 /* " and 12345 more" */

int word_list_add(struct word_list *list, const char *word)
{
    if (list->skipped || (list->words && list->out->len + 2 + strlen(word) > WORDS_MAX)) {
        list->skipped++;
        return 0;
    }
    int err = buf_printf(list->out, "%s%s", list->words++ ? ", " : "", word);
    if (list->words == 1 || list->out->len + AND_MORE <= WORDS_MAX) {
        list->cut = list->out->len;
        list->cut_words = list->words;
    }
    return err;
}

int word_list_end(struct word_list *list)
{
    if (!list->skipped)
        return 0;
    list->out->len = list->cut;
    return buf_printf(list->out, " and %zu more", list->skipped + list->words - list->cut_words);
}

int describe_names(struct buf *out, char *const *names, size_t count)
{
    struct word_list list = {.out = out};
    int err = 0;

    for (size_t i = 0; !err && i < count; i++)
        err = word_list_add(&list, names[i]);
    return err ? err : word_list_end(&list);
}

/* The last component of a module's name, "q_proj", and how many have it. */
struct role {
    const char *name;
    size_t count;
};

static int role_compare(const void *a, const void *b)
{
    return strcmp(((const struct role *)a)->name, ((const struct role *)b)->name);
}

/* Sorted by name, each once. */
static int roles_of(struct role **out, size_t *out_count, const struct adapter *adapter)
{
    size_t count = 0, modules = adapter->module_count;
    struct role *roles = array_new(modules, sizeof(*roles));

    if (!roles)
        return E_NOMEM;
    for (size_t i = 0; i < modules; i++) {
        const char *name = adapter->modules[i].name, *dot = strrchr(name, '.');
        roles[i] = (struct role){dot ? dot + 1 : name, 1};
    }
    qsort(roles, modules, sizeof(*roles), role_compare);
    for (size_t i = 0; i < modules; i++) {
        if (count && strcmp(roles[count - 1].name, roles[i].name) == 0)
            roles[count - 1].count++;
        else
            roles[count++] = roles[i];
    }
    *out = roles;
    *out_count = count;
    return 0;
}

static int roles_say(struct cli *cli, const struct role *roles, size_t count)
{
    AUTO_BUF(line);
    struct word_list list = {.out = &line};
    bool equal = true;
    int err = 0;

    for (size_t i = 1; i < count; i++)
        equal = equal && roles[i].count == roles[0].count;
    for (size_t i = 0; !err && i < count; i++) {
        AUTO_BUF(word);
        err = equal ? buf_append_text(&word, roles[i].name)
                    : buf_printf(&word, "%s %zu", roles[i].name, roles[i].count);
        const char *text = err ? NULL : buf_text(&word);
        if (!text)
            return err ? err : E_NOMEM;
        err = word_list_add(&list, text);
    }
    if (err || (err = word_list_end(&list)))
        return err;
    return describe_say(cli, "modules", &line);
}

int describe_adapter_say(struct cli *cli, const struct adapter *adapter)
{
    AUTO_FREE(struct role, roles);
    size_t count;
    int err = roles_of(&roles, &count, adapter);

    if (err)
        return err;
    cli_say(
        cli, "  %-8s VeRA, rank %" PRIu64 ", %zu module%s", "adapter", adapter->config.rank,
        adapter->module_count, adapter->module_count == 1 ? "" : "s"
    );
    return roles_say(cli, roles, count);
}

int describe_metrics(struct buf *out, const struct version *version)
{
    int err = 0;

    for (size_t i = 0; !err && i < version->metric_count; i++) {
        if (!metric_counts(version, i))
            continue;
        err = buf_printf(
            out, "%s%s %.6g", out->len ? ", " : "", version->metrics[i].name,
            version->metrics[i].value
        );
    }
    return err;
}

int describe_say(struct cli *cli, const char *label, struct buf *text)
{
    if (!text->len)
        return 0;
    const char *line = buf_text(text);
    if (!line)
        return E_NOMEM;
    cli_say(cli, "  %-8s %s", label, line);
    return 0;
}

/* Messages */

struct bytes message_title(const char *message)
{
    return (struct bytes){(const uint8_t *)message, strcspn(message, "\n")};
}

bool text_next_line(struct bytes *line, struct bytes *text)
{
    if (!text->len)
        return false;
    const uint8_t *end = memchr(text->data, '\n', text->len);
    line->data = text->data;
    line->len = end ? (size_t)(end - text->data) : text->len;
    size_t used = line->len + (end ? 1 : 0);
    text->data += used;
    text->len -= used;
    return true;
}

#define METRIC_TRAILER "Metric-"

static bool is_metric(struct bytes line)
{
    size_t len = strlen(METRIC_TRAILER);

    return line.len > len && memcmp(line.data, METRIC_TRAILER, len) == 0;
}

int message_body(struct buf *out, const char *message)
{
    struct bytes text = text_bytes(message), line;
    size_t trailers = 0; /* where the last paragraph begins in `out` */
    int err = 0;

    while (!err && text_next_line(&line, &text)) {
        if ((err = buf_append(out, line.data, line.len)) || (err = buf_append_text(out, "\n")))
            return err;
        if (!line.len)
            trailers = out->len;
    }
    /* Its lines that are no metrics move up. */
    text = (struct bytes){out->data + trailers, out->len - trailers};
    out->len = trailers;
    while (text_next_line(&line, &text)) {
        if (!trailers || !is_metric(line)) { /* a title is no trailer */
            memmove(out->data + out->len, line.data, line.len + 1);
            out->len += line.len + 1;
        }
    }
    while (out->len && out->data[out->len - 1] == '\n')
        out->len--;
    return err;
}

void describe_warnings(const struct recipe *recipe)
{
    if (recipe->state == BASIS_STORED) {
        cli_note(
            "vera: warning: A and B are stored: %s",
            recipe->has_seed ? "no way of drawing them from the adapter's seed gives these bits"
                             : "adapter_config.json names no seed to draw them from"
        );
    } else if (recipe->state == BASIS_DECLARED && !recipe->has_matrices) {
        cli_note("vera: warning: the adapter came without A and B: nothing proves its seed");
        cli_note("hint: --base MODEL records which A and B the seed gives for that model");
    }
}
