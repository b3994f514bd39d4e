/* WWW-Authenticate. See oci_auth.h. */
#include <stdlib.h>
#include <string.h>
#include <strings.h>

#include "store/oci_auth.h"

void challenge_release(struct challenge *challenge)
{
    free(challenge->realm);
    free(challenge->service);
    free(challenge->scope);
    *challenge = (struct challenge){0};
}

struct scan {
    const uint8_t *data;
    size_t at, len;
};

static bool is_space(uint8_t c)
{
    return c == ' ' || c == '\t';
}

static void skip(struct scan *scan, const char *what)
{
    while (scan->at < scan->len && scan->data[scan->at] && strchr(what, scan->data[scan->at]))
        scan->at++;
}

static struct bytes token(struct scan *scan)
{
    size_t from = scan->at;

    while (scan->at < scan->len && scan->data[scan->at] > ' ' && scan->data[scan->at] < 0x7f &&
           !strchr("\"(),/:;<=>?@[\\]{}", scan->data[scan->at]))
        scan->at++;
    return (struct bytes){scan->data + from, scan->at - from};
}

static int invalid(void)
{
    return error_set(E_INVALID, "the server asks for credentials in a way that is none");
}

/* "text with \" in it", or a token; control characters are refused. */
static int value(struct buf *out, struct scan *scan)
{
    int err = 0;

    if (scan->at == scan->len || scan->data[scan->at] != '"') {
        struct bytes word = token(scan);
        return word.len ? buf_append(out, word.data, word.len) : invalid();
    }
    for (scan->at++; err == 0 && scan->at < scan->len && scan->data[scan->at] != '"'; scan->at++) {
        if (scan->data[scan->at] == '\\' && scan->at + 1 < scan->len)
            scan->at++;
        if (scan->data[scan->at] < ' ' || scan->data[scan->at] == 0x7f)
            return invalid();
        err = buf_append_byte(out, scan->data[scan->at]);
    }
    if (err == 0 && scan->at++ == scan->len)
        return invalid();
    return err;
}

static bool is_word(struct bytes text, const char *word)
{
    return text.len == strlen(word) && strncasecmp((const char *)text.data, word, text.len) == 0;
}

static int parameter_keep(struct challenge *challenge, struct bytes name, struct buf *text)
{
    char **field = is_word(name, "realm")     ? &challenge->realm
                   : is_word(name, "service") ? &challenge->service
                   : is_word(name, "scope")   ? &challenge->scope
                                              : NULL;

    if (!field)
        return 0;
    if (*field)
        return invalid();
    if (!buf_text(text))
        return error_wrap(E_NOMEM, "credentials");
    *field = (char *)buf_take(text).data;
    return 0;
}

/* Parameters up to the next challenge's name, where the scan stands then. */
static int parameters(struct challenge *challenge, struct scan *scan)
{
    int err = 0;

    for (;;) {
        AUTO_BUF(text);
        skip(scan, " \t,");
        size_t before = scan->at;
        struct bytes name = token(scan);
        skip(scan, " \t");
        if (!name.len || scan->at == scan->len || scan->data[scan->at] != '=') {
            scan->at = before;
            return 0;
        }
        scan->at++;
        skip(scan, " \t");
        if ((err = value(&text, scan)) < 0 || (err = parameter_keep(challenge, name, &text)) < 0)
            return err;
        if (scan->at < scan->len && scan->data[scan->at] != ',' && !is_space(scan->data[scan->at]))
            return invalid();
    }
}

int challenge_parse(struct challenge *out, struct bytes header)
{
    struct scan scan = {header.data, 0, header.len};
    AUTO_CHALLENGE(best);

    for (skip(&scan, " \t,"); scan.at < scan.len; skip(&scan, " \t,")) {
        AUTO_CHALLENGE(challenge);
        struct bytes scheme = token(&scan);
        if (!scheme.len ||
            (scan.at < scan.len && !is_space(scan.data[scan.at]) && scan.data[scan.at] != ','))
            return invalid();
        challenge.kind = is_word(scheme, "bearer")  ? CHALLENGE_BEARER
                         : is_word(scheme, "basic") ? CHALLENGE_BASIC
                                                    : CHALLENGE_NONE;
        int err = parameters(&challenge, &scan);
        if (err < 0)
            return err;
        if (challenge.kind == CHALLENGE_BEARER && !challenge.realm)
            return invalid();
        if (challenge.kind > best.kind) {
            struct challenge other = best;
            best = challenge;
            challenge = other;
        }
    }
    *out = best;
    best = (struct challenge){0};
    return 0;
}
