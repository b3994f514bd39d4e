/* What apply and verify read. See inputs.h. */
#include "cli/inputs.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "cli/describe.h"
#include "format/file.h"

#define THREADS_MAX 1024

/* A finite number, the whole text: what may follow the last colon. */
static bool weight_parse(float *out, const char *text)
{
    char *end = NULL;

    if (!*text || strspn(text, "0123456789+-.eE") != strlen(text))
        return false;
    *out = strtof(text, &end);
    return !*end && isfinite(*out);
}

/* Split "REV:W" at its last colon; "sha256:" belongs to REV. */
static int input_split(char **out_revision, float *out_weight, const char *text)
{
    const char *colon = strrchr(text, ':');
    struct bytes revision = text_bytes(text);

    *out_weight = 1;
    if (colon && (size_t)(colon - text) != strlen("sha256"))
        revision.len = (size_t)(colon - text);
    else if (colon && strncmp(text, "sha256", strlen("sha256")) != 0)
        revision.len = (size_t)(colon - text);
    if (colon && revision.len < strlen(text) && !weight_parse(out_weight, colon + 1)) {
        if (!dir_has(text, PEFT_CONFIG))
            return cli_usage_error("'%s': '%s' is not a weight", text, colon + 1);
        revision = text_bytes(text);
    }
    *out_revision = bytes_dup(revision);
    return *out_revision ? 0 : E_NOMEM;
}

static int input_load(struct inputs *inputs, struct cli *cli, const char *text)
{
    struct source *source = &inputs->sources[inputs->count];
    AUTO_FREE(char, revision);
    float weight;
    int err;

    if ((err = input_split(&revision, &weight, text)) || (err = source_load(source, cli, revision)))
        return err;
    inputs->inputs[inputs->count++] = (struct apply_input
    ){.adapter = &source->loaded, .weight = weight};
    return 0;
}

int inputs_load(
    struct inputs *out, struct cli *cli, const char *const *texts, size_t count, const char *base
)
{
    int err = 0;

    if (!(out->sources = array_new(count, sizeof(*out->sources))) ||
        !(out->inputs = array_new(count, sizeof(*out->inputs))))
        return E_NOMEM;
    for (size_t i = 0; !err && i < count; i++)
        err = input_load(out, cli, texts[i]);
    return err ? err : model_open(&out->model, base);
}

void inputs_release(struct inputs *inputs)
{
    for (size_t i = 0; i < inputs->count; i++)
        source_release(&inputs->sources[i]);
    free(inputs->sources);
    free(inputs->inputs);
    model_release(&inputs->model);
}

int inputs_describe(struct buf *out, const struct inputs *inputs)
{
    const struct source *first = &inputs->sources[0];
    int err;

    if (first->is_version)
        err = buf_append_text(out, short_commit(&first->commit).text);
    else
        err = buf_printf(out, "snapshot %s", short_digest(&first->snapshot.id).text);
    if (!err && inputs->count > 1)
        err = buf_printf(out, " and %zu more", inputs->count - 1);
    return err;
}

int inputs_threads(unsigned *out, const struct cli_count *count)
{
    if (count->given && (count->value < 1 || count->value > THREADS_MAX))
        return cli_usage_error("--threads takes a number from 1 to %d", THREADS_MAX);
    *out = count->given ? (unsigned)count->value : 0;
    return 0;
}

enum device_kind inputs_device(const char *word, enum device_kind otherwise)
{
    if (!word)
        return otherwise;
    if (strcmp(word, "cuda") == 0)
        return DEVICE_CUDA;
    return strcmp(word, "cpu") == 0 ? DEVICE_CPU : DEVICE_AUTO;
}

void inputs_warn_unpinned(const char *base)
{
    cli_note("vera: warning: unpinned: names, shapes and dtypes fit, the weights were not compared"
    );
    cli_note("hint: vera commit --base %s records the base model's weights with a version", base);
}
