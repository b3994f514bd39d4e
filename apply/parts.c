/* What the parts of one merged model tell each other. See parts.h. */
#include "apply/parts.h"

#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

#include "format/text.h"

#define PLAN_NOUN   "parts"
#define RECORD_NOUN "part"

/* What must be the same, in the order of the lines. */
static const char *const keys[] = {"parts",  "math",  "report", "adapter", "index",
                                   "config", "shard", "work",   NULL};

void parts_made_release(struct parts_made *made)
{
    free(made->shared);
    *made = (struct parts_made){0};
}

/* The plan */

static int digest_line(struct buf *out, const char *before, struct bytes data, const char *after)
{
    char hex[DIGEST_HEX_SIZE];
    struct digest digest;

    int err = digest_of(&digest, data);
    if (err < 0)
        return err;
    digest_hex(hex, &digest);
    return buf_printf(out, "%s%s%s", before, hex, after);
}

static int adapter_line(struct buf *out, const struct apply_input *input)
{
    const struct snapshot *snapshot = input->adapter->snapshot;
    char id[DIGEST_HEX_SIZE];

    digest_hex(id, &snapshot->id);
    int err = buf_printf(out, "adapter sha256:%s weight %.9g pin ", id, (double)input->weight);
    if (err < 0)
        return err;
    return snapshot->pin.len ? digest_line(out, "", buf_bytes(&snapshot->pin), "\n")
                             : buf_append_text(out, "none\n");
}

static int shard_line(struct buf *out, const struct shard *shard)
{
    char name[TEXT_QUOTE_SIZE];

    text_quote(name, text_bytes(shard->file));
    int err = buf_printf(
        out, "shard %" PRIu64 " %" PRIu64 " ", shard->bytes, (uint64_t)shard->stamp.modified
    );
    if (err < 0 || (err = digest_line(out, "", buf_bytes(&shard->header), " ")) < 0)
        return err;
    return buf_printf(out, "%s\n", name);
}

int parts_plan_encode(
    struct buf *out, const struct work *work, const struct apply_options *options, uint64_t parts
)
{
    const struct rewrites *all = work->rewrites;
    const struct model *model = all->model;
    char hex[DIGEST_HEX_SIZE];
    struct digest digest;

    int err = buf_printf(
        out, "verastore " PLAN_NOUN " 1\nparts %" PRIu64 "\nmath %s\nreport %s\n", parts,
        options->math == MATH_FAST ? "fast" : "exact", options->report ? "yes" : "no"
    );
    for (size_t i = 0; err == 0 && i < all->input_count; i++)
        err = adapter_line(out, &all->inputs[i]);
    if (err < 0 || (err = digest_line(out, "index ", buf_bytes(&model->index), "\n")) < 0 ||
        (err = digest_line(out, "config ", buf_bytes(&model->config), "\n")) < 0)
        return err;
    for (size_t i = 0; err == 0 && i < model->shard_count; i++)
        err = shard_line(out, &model->shards[i]);
    if (err < 0 || (err = work_digest(&digest, work, parts)) < 0)
        return err;
    digest_hex(hex, &digest);
    return buf_printf(out, "work %s\n", hex);
}

int parts_made_encode(struct buf *out, const struct parts_made *made, size_t shard_count)
{
    int err = 0;

    for (size_t i = 0; err == 0 && i < shard_count; i++)
        err = buf_printf(out, "shared %" PRIu64 "\n", made->shared[i]);
    if (err < 0)
        return err;
    return buf_printf(out, "others %" PRIu64 " %" PRIu64 "\n", made->written, made->cloned);
}

int parts_plan_peek(uint64_t *parts, bool *report, struct bytes plan)
{
    struct text text;
    struct bytes word;
    int err;

    if ((err = text_init(&text, PLAN_NOUN, plan)) < 0 || (err = text_line(&text, "parts")) < 0 ||
        (err = text_uint64(parts, &text)) < 0 || (err = text_line_end(&text)) < 0 ||
        (err = text_line(&text, "math")) < 0 || (err = text_rest(&word, &text)) < 0 ||
        (err = text_line(&text, "report")) < 0 || (err = text_rest(&word, &text)) < 0)
        return err;
    *report = bytes_equal(word, text_bytes("yes"));
    return 0;
}

/* The first key that the next line has, of those from `key` on. */
static size_t key_next(const struct text *text, size_t key)
{
    while (keys[key] && !text_next_is(text, keys[key]))
        key++;
    return key;
}

/* The rest of the next line, if it has this key. */
static int value_take(struct bytes *out, struct text *text, const char *key)
{
    *out = (struct bytes){0};
    if (!text_next_is(text, key))
        return 0;
    int err = text_line(text, key);
    return err < 0 ? err : text_rest(out, text);
}

static int value_differs(int err, const char *key, struct bytes theirs, struct bytes ours)
{
    char there[TEXT_QUOTE_SIZE], here[TEXT_QUOTE_SIZE];

    if (strcmp(key, "work") == 0) /* follows from what was told already, or from nothing else */
        return err ? err : error_set(E_CONFLICT, "these are parts of another version of vera");
    if (err == 0)
        err = error_set(E_CONFLICT, "these are parts of something else");
    text_quote(there, theirs.data ? theirs : text_bytes("none"));
    text_quote(here, ours.data ? ours : text_bytes("none"));
    return error_detail(err, "%s: %s there, %s here", key, there, here);
}

/* Line by line; where one of the two has more of a kind, those stand alone. */
static int values_compare(struct text *theirs, struct text *ours)
{
    int differs = 0;

    for (size_t key = 0; keys[key];) {
        struct bytes there, here;
        size_t a = key_next(theirs, key), b = key_next(ours, key);
        key = a < b ? a : b;
        if (!keys[key])
            break;
        int err = value_take(&there, theirs, keys[key]);
        if (err < 0 || (err = value_take(&here, ours, keys[key])) < 0)
            return err;
        if (!bytes_equal(there, here))
            differs = value_differs(differs, keys[key], there, here);
    }
    return differs;
}

int parts_plan_decode(
    struct parts_made *out, struct bytes plan, struct bytes own, size_t shard_count
)
{
    struct text theirs, ours;
    int err;

    if ((err = text_init(&ours, PLAN_NOUN, own)) < 0 ||
        (err = text_init(&theirs, PLAN_NOUN, plan)) < 0 ||
        (err = values_compare(&theirs, &ours)) < 0)
        return err;
    if (!(out->shared = array_new(shard_count, sizeof(*out->shared))))
        return error_wrap(E_NOMEM, PLAN_NOUN);
    for (size_t i = 0; i < shard_count; i++) {
        if ((err = text_line(&theirs, "shared")) < 0 ||
            (err = text_uint64(&out->shared[i], &theirs)) < 0 || (err = text_line_end(&theirs)) < 0)
            return err;
    }
    if ((err = text_line(&theirs, "others")) < 0 ||
        (err = text_uint64(&out->written, &theirs)) < 0 ||
        (err = text_uint64(&out->cloned, &theirs)) < 0 || (err = text_line_end(&theirs)) < 0)
        return err;
    return text_end(&theirs);
}

/* Records */

static uint64_t bits_of(double value)
{
    uint64_t bits;

    memcpy(&bits, &value, sizeof(bits));
    return bits;
}

static double double_of(uint64_t bits)
{
    double value;

    memcpy(&value, &bits, sizeof(value));
    return value;
}

static int sums_line(struct buf *out, size_t number, const struct report_sums *sums)
{
    return buf_printf(
        out,
        "sums %zu %" PRIu64 " %" PRIu64 " %" PRIu64 " %" PRIu64 " %" PRIu64 " %" PRIu64 " %" PRIu64
        "\n",
        number, sums->count, sums->unchanged, sums->nonfinite, bits_of(sums->changed),
        bits_of(sums->wanted), bits_of(sums->lost), bits_of(sums->max_change)
    );
}

int parts_record_encode(
    struct buf *out, const struct apply_result *result, const struct stream *stream
)
{
    int err = buf_printf(
        out,
        "verastore " RECORD_NOUN " 1\nmath %s\ncounts %" PRIu64 " %" PRIu64 " %" PRIu64 " %" PRIu64
        " %" PRIu64 " %" PRIu64 "\n",
        stream->device.math == MATH_FAST ? "fast" : "exact", result->matched,
        result->tensors_rewritten, result->tensors_added, result->bytes_written,
        result->bytes_cloned, (uint64_t)(result->seconds * 1e9)
    );

    for (size_t i = 0; err == 0 && stream->report && i < stream->rewrites->count; i++) {
        if (stream->sums[i].count)
            err = sums_line(out, i, &stream->sums[i]);
    }
    return err;
}

static int numbers_read(uint64_t *out, size_t count, struct text *text, const char *key)
{
    int err = text_line(text, key);

    for (size_t i = 0; err == 0 && i < count; i++)
        err = text_uint64(&out[i], text);
    return err < 0 ? err : text_line_end(text);
}

static int math_read(bool *fast, struct text *text)
{
    struct bytes word;
    int err;

    if ((err = text_line(text, "math")) < 0 || (err = text_rest(&word, text)) < 0)
        return err;
    *fast = bytes_equal(word, text_bytes("fast"));
    return *fast || bytes_equal(word, text_bytes("exact")) ? 0 : text_error(text, "is no math");
}

static int sums_read(struct stream *stream, struct text *text)
{
    uint64_t n[8] = {0};

    int err = numbers_read(n, 8, text, "sums");
    if (err < 0)
        return err;
    if (!stream->report || n[0] >= stream->rewrites->count)
        return text_error(text, "is of no tensor");
    stream->sums[n[0]] = (struct report_sums){
        .count = n[1],
        .unchanged = n[2],
        .nonfinite = n[3],
        .changed = double_of(n[4]),
        .wanted = double_of(n[5]),
        .lost = double_of(n[6]),
        .max_change = double_of(n[7]),
    };
    return 0;
}

int parts_record_decode(struct apply_result *result, struct stream *stream, struct bytes record)
{
    struct text text;
    uint64_t n[6] = {0};
    bool fast = false;
    int err;

    if ((err = text_init(&text, RECORD_NOUN, record)) < 0 || (err = math_read(&fast, &text)) < 0 ||
        (err = numbers_read(n, 6, &text, "counts")) < 0)
        return err;
    while (err == 0 && text_more(&text))
        err = sums_read(stream, &text);
    if (err < 0)
        return err;
    if (fast)
        result->math = MATH_FAST;
    result->matched += n[0];
    result->tensors_rewritten += n[1];
    result->tensors_added += n[2];
    result->bytes_written += n[3];
    result->bytes_cloned += n[4];
    result->seconds += (double)n[5] * 1e-9;
    return 0;
}
