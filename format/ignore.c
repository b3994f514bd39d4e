/*
 * gitignore patterns. Source: gitignore(5), and what git does where the manual is silent (tests
 * compare with git check-ignore).
 *
 * A pattern becomes a list of tokens, and the tokens the states of a machine that is in many of
 * them at once: each byte of the path moves all of them one step. So matching takes (pattern x
 * path) steps at most, whatever stars there are; nothing is ever tried again.
 */
#include "format/ignore.h"

#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

#include "format/limits.h"

/* One line */

/* Without the spaces at the end that no backslash protects. */
static size_t trim(const uint8_t *line, size_t len)
{
    size_t kept = 0;

    for (size_t i = 0; i < len; i++) {
        if (line[i] == '\\' && i + 1 < len)
            i++;
        else if (line[i] == ' ')
            continue;
        kept = i + 1;
    }
    return kept;
}

static int rule_add(struct ignore *ignore, const uint8_t *line, size_t len)
{
    struct ignore_rule *rule = &ignore->rules[ignore->count];

    if (len && line[len - 1] == '\r')
        len--;
    if (len == 0 || line[0] == '#' || (len = trim(line, len)) == 0)
        return 0;
    if (line[0] == '!') {
        rule->negated = true;
        line++;
        len--;
    }
    if (len && line[len - 1] == '/') {
        rule->directory_only = true;
        len--;
    }
    rule->anchored = len && memchr(line, '/', len);
    if (len && line[0] == '/') {
        line++;
        len--;
    }
    if (len > LIMIT_PATH)
        return error_set(
            E_LIMIT, "a pattern of %zu bytes, at most %d are allowed", len, LIMIT_PATH
        );
    rule->pattern = bytes_dup((struct bytes){line, len});
    if (!rule->pattern)
        return error_wrap(E_NOMEM, "patterns");
    ignore->count++;
    return 0;
}

int ignore_decode(struct ignore *out, struct bytes text)
{
    static const uint8_t mark[3] = {0xef, 0xbb, 0xbf};
    AUTO_IGNORE(ignore);
    size_t lines = 1;

    if (text.len > LIMIT_IGNORE)
        return error_set(
            E_LIMIT, "%zu bytes of patterns, at most %" PRIu64 " are allowed", text.len,
            LIMIT_IGNORE
        );
    if (text.len && memchr(text.data, 0, text.len))
        return error_set(E_INVALID, "a pattern holds a NUL");
    if (text.len >= 3 && memcmp(text.data, mark, 3) == 0)
        text = (struct bytes){text.data + 3, text.len - 3};
    for (size_t i = 0; i < text.len; i++)
        lines += text.data[i] == '\n';
    ignore.rules = array_new(lines, sizeof(*ignore.rules));
    if (!ignore.rules)
        return error_wrap(E_NOMEM, "patterns");
    for (size_t at = 0; at < text.len;) {
        const uint8_t *line = text.data + at, *end = memchr(line, '\n', text.len - at);
        size_t len = end ? (size_t)(end - line) : text.len - at;
        int err = rule_add(&ignore, line, len);
        if (err < 0)
            return err;
        at += len + 1;
    }
    *out = ignore;
    ignore = (struct ignore){0};
    return 0;
}

void ignore_release(struct ignore *ignore)
{
    for (size_t i = 0; i < ignore->count; i++)
        free(ignore->rules[i].pattern);
    free(ignore->rules);
    *ignore = (struct ignore){0};
}

/* Classes: [a-z], [!x], [[:alpha:]] */

static bool in_named_class(uint8_t c, struct bytes name, bool *known)
{
    bool lower = c >= 'a' && c <= 'z', upper = c >= 'A' && c <= 'Z', digit = c >= '0' && c <= '9';
    bool graph = c > 0x20 && c < 0x7f, alnum = lower || upper || digit;
    bool blank = c == ' ' || c == '\t', space = blank || (c >= '\n' && c <= '\r');
    const struct {
        const char *name;
        bool holds;
    } classes[] = {
        {"alnum", alnum},
        {"alpha", lower || upper},
        {"blank", blank},
        {"cntrl", c < 0x20 || c == 0x7f},
        {"digit", digit},
        {"graph", graph},
        {"lower", lower},
        {"print", graph || c == ' '},
        {"punct", graph && !alnum},
        {"space", space},
        {"upper", upper},
        {"xdigit", digit || (c >= 'a' && c <= 'f') || (c >= 'A' && c <= 'F')},
    };

    for (size_t i = 0; i < sizeof(classes) / sizeof(classes[0]); i++) {
        if (bytes_equal(name, text_bytes(classes[i].name)))
            return classes[i].holds;
    }
    *known = false;
    return false;
}

/* The length of "[:name:]" at `p`, 0 where there is none; `p` begins with "[:". */
static size_t named_class_len(const uint8_t *p)
{
    const char *end = strchr((const char *)p + 2, ']');

    if (!end || end - (const char *)p < 3 || end[-1] != ':')
        return 0;
    return (size_t)(end - (const char *)p) + 1;
}

/* A class at its '[': does it hold `c`? *len is its length, 0 where it has no end or an unknown
   name: such a pattern matches nothing. */
static bool class_match(size_t *len, const uint8_t *p, uint8_t c)
{
    const uint8_t *at = p + 1;
    bool negated = *at == '!' || *at == '^', matched = false, known = true;
    uint8_t before = 0; /* what a range may begin with */

    *len = 0;
    at += negated;
    for (bool first = true; first || *at != ']'; first = false) {
        size_t named = at[0] == '[' && at[1] == ':' ? named_class_len(at) : 0;
        if (named) {
            struct bytes name = {at + 2, named - 4};
            matched |= in_named_class(c, name, &known);
            at += named;
            before = 0;
            continue;
        }
        bool range = *at == '-' && before && at[1] && at[1] != ']';
        at += range;
        at += *at == '\\';
        if (!*at || !known)
            return false;
        matched |= range ? c >= before && c <= *at : c == *at;
        before = range ? 0 : *at;
        at++;
    }
    *len = known ? (size_t)(at - p) + 1 : 0;
    return matched != negated && c != '/';
}

/* The machine */

enum token_kind {
    TOKEN_BYTE,  /* this very byte */
    TOKEN_ANY,   /* one byte but '/' */
    TOKEN_CLASS, /* one byte of the class that begins at `at` */
    TOKEN_STAR,  /* any number of bytes but '/' */
    TOKEN_SKIP,  /* of "**" and '/': nothing at all, or the next two tokens */
    TOKEN_ALL,   /* any number of bytes */
};

struct token {
    uint8_t kind;
    uint8_t byte;
    uint16_t at;
};

struct machine {
    const uint8_t *pattern;
    bool plain; /* nothing but plain bytes so far */
    size_t count;
    struct token tokens[LIMIT_PATH];
    uint8_t now[LIMIT_PATH + 4], next[LIMIT_PATH + 4];
};

static void token_add(struct machine *machine, enum token_kind kind, uint8_t byte, size_t at)
{
    machine->tokens[machine->count++] = (struct token){(uint8_t)kind, byte, (uint16_t)at};
}

/* A run of stars at `at`; returns where the pattern goes on. No more tokens than bytes are made.
   "**" stands for folders between slashes and at either end; git, which compares the plain bytes
   before the first special one by themselves, takes what follows them for a beginning too. */
static size_t stars_compile(struct machine *machine, size_t at)
{
    const uint8_t *p = machine->pattern;
    size_t end = at;

    while (p[end] == '*')
        end++;
    bool begins = at == 0 || p[at - 1] == '/' || machine->plain;
    bool whole = end - at >= 2 && begins &&
                 (!p[end] || p[end] == '/' || (p[end] == '\\' && p[end + 1] == '/'));
    if (whole && p[end] == '/') {
        token_add(machine, TOKEN_SKIP, 0, at);
        token_add(machine, TOKEN_ALL, 0, at);
        token_add(machine, TOKEN_BYTE, '/', at);
        return end + 1;
    }
    token_add(machine, whole ? TOKEN_ALL : TOKEN_STAR, 0, at);
    return end;
}

/* False for a pattern that matches nothing: a class without end, a backslash at the end. */
static bool machine_compile(struct machine *machine, const char *pattern)
{
    const uint8_t *p = (const uint8_t *)pattern;

    machine->pattern = p;
    machine->count = 0;
    machine->plain = true;
    for (size_t at = 0; p[at];) {
        size_t len = 1;
        if (p[at] == '*') {
            at = stars_compile(machine, at);
            machine->plain = false;
            continue;
        }
        if (p[at] == '[') {
            (void)class_match(&len, p + at, 0);
            token_add(machine, TOKEN_CLASS, 0, at);
        } else if (p[at] == '\\') {
            token_add(machine, TOKEN_BYTE, p[at + 1], at);
            len = p[at + 1] ? 2 : 0;
        } else {
            token_add(machine, p[at] == '?' ? TOKEN_ANY : TOKEN_BYTE, p[at], at);
        }
        if (!len)
            return false;
        machine->plain = machine->plain && machine->tokens[machine->count - 1].kind == TOKEN_BYTE &&
                         p[at] != '\\';
        at += len;
    }
    return true;
}

/* Also be in every state that is reached without a byte; states only lead forward. */
static void machine_spread(const struct machine *machine, uint8_t *states)
{
    for (size_t i = 0; i < machine->count; i++) {
        enum token_kind kind = (enum token_kind)machine->tokens[i].kind;
        if (states[i] && kind == TOKEN_SKIP)
            states[i + 1] = states[i + 3] = 1;
        if (states[i] && (kind == TOKEN_STAR || kind == TOKEN_ALL))
            states[i + 1] = 1;
    }
}

static void machine_step(struct machine *machine, uint8_t c)
{
    size_t len;

    memset(machine->next, 0, machine->count + 1);
    for (size_t i = 0; i < machine->count; i++) {
        const struct token *token = &machine->tokens[i];
        bool on = false, stay = false;
        if (!machine->now[i])
            continue;
        switch ((enum token_kind)token->kind) {
        case TOKEN_BYTE:
            on = c == token->byte;
            break;
        case TOKEN_ANY:
            on = c != '/';
            break;
        case TOKEN_CLASS:
            on = class_match(&len, machine->pattern + token->at, c);
            break;
        case TOKEN_STAR:
            stay = c != '/';
            break;
        case TOKEN_ALL:
            stay = true;
            break;
        case TOKEN_SKIP:
            break;
        }
        machine->next[i + 1] |= on;
        machine->next[i] |= stay;
    }
    memcpy(machine->now, machine->next, machine->count + 1);
}

static bool pattern_match(const char *pattern, const char *text)
{
    struct machine machine;

    if (!*pattern || !machine_compile(&machine, pattern))
        return false;
    memset(machine.now, 0, machine.count + 4);
    machine.now[0] = 1;
    machine_spread(&machine, machine.now);
    for (const char *c = text; *c; c++) {
        machine_step(&machine, (uint8_t)*c);
        machine_spread(&machine, machine.now);
    }
    return machine.now[machine.count];
}

enum ignore_verdict ignore_match(const struct ignore *ignore, const char *path, bool is_directory)
{
    const char *slash = strrchr(path, '/');
    const char *name = slash ? slash + 1 : path;

    for (size_t i = ignore->count; i-- > 0;) {
        const struct ignore_rule *rule = &ignore->rules[i];
        if (rule->directory_only && !is_directory)
            continue;
        if (pattern_match(rule->pattern, rule->anchored ? path : name))
            return rule->negated ? IGNORE_IN : IGNORE_OUT;
    }
    return IGNORE_SILENT;
}
