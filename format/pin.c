#include "format/pin.h"

#include <stdlib.h>
#include <string.h>

#include "format/limits.h"
#include "format/text.h"

#define NOUN "pin"

static int compare_modules(const void *a, const void *b)
{
    const struct pin_module *x = a, *y = b;

    return strcmp(x->name, y->name);
}

const struct pin_module *pin_find(const struct pin *pin, const char *name)
{
    for (size_t low = 0, high = pin->count; low < high;) {
        size_t middle = low + (high - low) / 2;
        int order = strcmp(name, pin->modules[middle].name);
        if (order == 0)
            return &pin->modules[middle];
        if (order < 0)
            high = middle;
        else
            low = middle + 1;
    }
    return NULL;
}

static int check_count(size_t count)
{
    if (count > LIMIT_TENSORS)
        return error_set(E_LIMIT, NOUN ": %zu modules", count);
    return 0;
}

static int check_name(const char *name, int code)
{
    struct bytes bytes = text_bytes(name);
    char quoted[TEXT_QUOTE_SIZE];

    if (text_is_plain(bytes))
        return 0;
    text_quote(quoted, bytes);
    return error_set(code, NOUN ": '%s' is not UTF-8 without control characters", quoted);
}

/* What holds for the modules of every pin, sorted; `code` where it does not. */
static int check_modules(const struct pin *pin, int code)
{
    int err;

    for (size_t i = 0; i < pin->count; i++) {
        const struct pin_module *module = &pin->modules[i];
        if ((err = check_name(module->name, code)) < 0)
            return err;
        if (module->name[0] == '\0')
            return error_set(code, NOUN ": a module without a name");
        int order = i ? strcmp(pin->modules[i - 1].name, module->name) : -1;
        if (order == 0)
            return error_set(code, NOUN ": module '%s' appears twice", module->name);
        if (order > 0)
            return error_set(code, NOUN ": module '%s' is not in byte order", module->name);
        if (module->rows > LIMIT_FEATURES || module->columns > LIMIT_FEATURES)
            return error_set(
                E_LIMIT, NOUN ": module '%s' is %ju x %ju", module->name, (uintmax_t)module->rows,
                (uintmax_t)module->columns
            );
    }
    return 0;
}

static int print_modules(struct buf *out, const struct pin *pin)
{
    int err = 0;

    for (size_t i = 0; i < pin->count && !err; i++) {
        const struct pin_module *module = &pin->modules[i];
        char hex[DIGEST_HEX_SIZE];
        digest_hex(hex, &module->digest);
        err = buf_printf(
            out, "module %s %jux%ju %s %s\n", dtype_name(module->dtype), (uintmax_t)module->rows,
            (uintmax_t)module->columns, hex, module->name
        );
    }
    return err;
}

/* A line that is there only where there is a text. */
static int print_optional(struct buf *out, const char *key, const char *text)
{
    int err;

    if (!text)
        return 0;
    if ((err = check_name(text, E_INVALID)) < 0)
        return err;
    return buf_printf(out, "%s %s\n", key, text);
}

int pin_encode(struct buf *out, const struct pin *pin)
{
    AUTO_FREE(struct pin_module, modules);
    AUTO_BUF(text);
    int err;

    if ((err = check_count(pin->count)) < 0)
        return err;
    if (!(modules = array_new(pin->count, sizeof(*modules))))
        return error_wrap(E_NOMEM, NOUN);
    struct pin sorted = {.modules = modules, .count = pin->count};
    if (pin->count)
        memcpy(modules, pin->modules, pin->count * sizeof(*modules));
    qsort(modules, sorted.count, sizeof(*modules), compare_modules);
    if ((err = check_modules(&sorted, E_INVALID)) < 0 ||
        (err = buf_append_text(&text, "verastore " NOUN " 1\n")) < 0 ||
        (err = print_optional(&text, "name", pin->name)) < 0 ||
        (err = print_optional(&text, "revision", pin->revision)) < 0 ||
        (err = print_modules(&text, &sorted)) < 0)
        return err;
    *out = buf_take(&text);
    return 0;
}

static int parse_optional(char **out, struct text *text, const char *key)
{
    struct bytes value;
    int err;

    if (!text_next_is(text, key))
        return 0;
    if ((err = text_line(text, key)) < 0 || (err = text_rest(&value, text)) < 0)
        return err;
    *out = bytes_dup(value);
    return *out ? 0 : error_wrap(E_NOMEM, NOUN);
}

/* "<rows>x<columns>" */
static int parse_shape(struct pin_module *module, struct text *text)
{
    struct bytes word;
    int err = text_word(&word, text);

    if (err < 0)
        return err;
    const uint8_t *x = memchr(word.data, 'x', word.len);
    size_t n = x ? (size_t)(x - word.data) : 0;
    if (!x || !text_parse_uint64(&module->rows, (struct bytes){word.data, n}) ||
        !text_parse_uint64(&module->columns, (struct bytes){x + 1, word.len - n - 1}))
        return text_error(text, "is no shape '<rows>x<columns>'");
    return 0;
}

static int parse_module(struct pin_module *module, struct text *text)
{
    struct bytes word, name;
    int err;

    if ((err = text_line(text, "module")) < 0 || (err = text_word(&word, text)) < 0)
        return err;
    if (dtype_parse(&module->dtype, word) < 0)
        return text_error(text, "is no dtype of safetensors");
    if ((err = parse_shape(module, text)) < 0 || (err = text_digest(&module->digest, text)) < 0 ||
        (err = text_rest(&name, text)) < 0)
        return err;
    module->name = bytes_dup(name);
    return module->name ? 0 : error_wrap(E_NOMEM, NOUN);
}

int pin_decode(struct pin *out, struct bytes input)
{
    AUTO_PIN(pin);
    struct text text;
    int err;

    if ((err = text_init(&text, NOUN, input)) < 0 ||
        (err = parse_optional(&pin.name, &text, "name")) < 0 ||
        (err = parse_optional(&pin.revision, &text, "revision")) < 0)
        return err;
    size_t count = text_lines_left(&text);
    if ((err = check_count(count)) < 0)
        return err;
    if (!(pin.modules = array_new(count, sizeof(*pin.modules))))
        return error_wrap(E_NOMEM, NOUN);
    while (pin.count < count) {
        /* Counted first: what a half-read line has taken is released with the rest. */
        struct pin_module *module = &pin.modules[pin.count++];
        if ((err = parse_module(module, &text)) < 0)
            return err;
    }
    if ((err = check_modules(&pin, E_CORRUPT)) < 0)
        return err;
    *out = pin;
    pin = (struct pin){0};
    return 0;
}

void pin_release(struct pin *pin)
{
    for (size_t i = 0; i < pin->count; i++)
        free(pin->modules[i].name);
    free(pin->modules);
    free(pin->name);
    free(pin->revision);
    *pin = (struct pin){0};
}
