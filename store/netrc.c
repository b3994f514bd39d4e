/* ~/.netrc. See netrc.h. */
#include "store/netrc.h"

#include <openssl/crypto.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>

#include "format/file.h"
#include "format/limits.h"

#define WORD_MAX 1024

struct reader {
    struct bytes rest;
    size_t line;
    char word[WORD_MAX];
};

struct entry {
    bool is_begun, fits; /* fits: it is for this host */
    struct login login;
};

static int bad(const struct reader *reader, const char *why)
{
    return error_set(E_INVALID, "line %zu: %s", reader->line, why);
}

static char next_byte(struct reader *reader)
{
    char byte = (char)*reader->rest.data++;

    reader->rest.len--;
    if (byte == '\n')
        reader->line++;
    return byte;
}

static void line_skip(struct reader *reader)
{
    while (reader->rest.len && next_byte(reader) != '\n')
        continue;
}

static bool is_space(uint8_t byte)
{
    return byte == ' ' || byte == '\t' || byte == '\n' || byte == '\r';
}

static void space_skip(struct reader *reader)
{
    while (reader->rest.len) {
        if (is_space(*reader->rest.data))
            next_byte(reader);
        else if (*reader->rest.data == '#')
            line_skip(reader);
        else
            return;
    }
}

static int escaped(char *out, struct reader *reader)
{
    static const char names[] = "nrt\"\\", meanings[] = "\n\r\t\"\\";
    const char *at;

    if (!reader->rest.len || !(at = strchr(names, *reader->rest.data)) || !*at)
        return bad(reader, "an unknown escape in a quoted word");
    next_byte(reader);
    *out = meanings[at - names];
    return 0;
}

/* The next byte of a word; *more false behind its last one. */
static int word_byte(char *out, bool *more, struct reader *reader, bool is_quoted)
{
    *more = reader->rest.len && (is_quoted || !is_space(*reader->rest.data));
    if (!*more)
        return is_quoted ? bad(reader, "a word that does not end") : 0;
    size_t line = reader->line;
    *out = next_byte(reader);
    *more = !is_quoted || *out != '"';
    if (is_quoted && *out == '\\')
        return escaped(out, reader);
    if (*out == '\0' || reader->line != line)
        return bad(reader, "a word that does not end");
    return 0;
}

/* The rest of a word, behind its opening quote or not. */
static int word_take(struct reader *reader, bool is_quoted)
{
    size_t len = 0;

    for (;;) {
        char byte = '\0';
        bool more = false;
        int err = word_byte(&byte, &more, reader, is_quoted);
        if (err < 0)
            return err;
        if (!more)
            break;
        if (len == WORD_MAX - 1)
            return bad(reader, "a word that is too long");
        reader->word[len++] = byte;
    }
    reader->word[len] = '\0';
    return 0;
}

/* *more false at the end of the text. */
static int word_next(bool *more, struct reader *reader)
{
    space_skip(reader);
    *more = reader->rest.len > 0;
    if (!*more)
        return 0;
    bool is_quoted = *reader->rest.data == '"';
    if (is_quoted)
        next_byte(reader);
    return word_take(reader, is_quoted);
}

static int value_next(struct reader *reader)
{
    bool more = false;
    int err = word_next(&more, reader);

    if (err == 0 && !more)
        return bad(reader, "the file ends where a value must follow");
    return err;
}

static void macro_skip(struct reader *reader)
{
    while (reader->rest.len) {
        bool is_empty = *reader->rest.data == '\n';
        line_skip(reader);
        if (is_empty)
            return;
    }
}

static int value_set(char **out, struct reader *reader)
{
    int err = value_next(reader);

    if (err < 0)
        return err;
    secret_free(*out);
    *out = bytes_dup(text_bytes(reader->word));
    return *out ? 0 : error_wrap(E_NOMEM, "netrc");
}

static bool is_wanted(const struct entry *entry, const char *user)
{
    const struct login *login = &entry->login;

    return entry->is_begun && entry->fits && login->password &&
           (!user || !login->user || strcmp(login->user, user) == 0);
}

/* A word of the file, but for those that begin an entry. */
static int word_apply(struct entry *entry, struct reader *reader)
{
    if (strcmp(reader->word, "macdef") == 0) {
        macro_skip(reader);
        return 0;
    }
    if (!entry->is_begun)
        return bad(reader, "it must begin with 'machine' or 'default'");
    if (strcmp(reader->word, "login") == 0)
        return value_set(&entry->login.user, reader);
    if (strcmp(reader->word, "password") == 0)
        return value_set(&entry->login.password, reader);
    if (strcmp(reader->word, "account") == 0)
        return value_next(reader);
    /* The word is not repeated: it may be half of a password with a space. */
    return bad(reader, "a word that is none of machine, default, login, password, account, macdef");
}

static int entry_begin(struct entry *entry, struct reader *reader, const char *host)
{
    bool is_default = strcmp(reader->word, "default") == 0;

    login_release(&entry->login);
    entry->is_begun = true;
    int err = is_default ? 0 : value_next(reader);
    entry->fits = is_default || strcasecmp(reader->word, host) == 0;
    return err;
}

static int find(struct entry *entry, struct reader *reader, const char *host, const char *user)
{
    bool more = true;
    int err;

    for (;;) {
        if ((err = word_next(&more, reader)) < 0 || !more)
            return err;
        bool begins = strcmp(reader->word, "machine") == 0 || strcmp(reader->word, "default") == 0;
        if (begins && is_wanted(entry, user))
            return 0;
        err = begins ? entry_begin(entry, reader, host) : word_apply(entry, reader);
        if (err < 0)
            return err;
    }
}

int netrc_parse(
    bool *found, struct login *out, struct bytes text, const char *host, const char *user
)
{
    struct reader reader = {.rest = text, .line = 1};
    struct entry entry = {0};

    *found = false;
    int err = find(&entry, &reader, host, user);
    if (err == 0 && is_wanted(&entry, user)) {
        const char *name = entry.login.user ? entry.login.user : user;
        err = login_set(out, name ? name : "", entry.login.password);
        *found = err == 0;
    }
    login_release(&entry.login);
    OPENSSL_cleanse(&reader, sizeof(reader));
    return err;
}

int netrc_find(bool *found, struct login *out, const char *host, const char *user)
{
    const char *home = getenv("HOME");
    AUTO_FREE(char, path);
    AUTO_BUF(text);
    int err;

    *found = false;
    if (!home || !*home)
        return 0;
    if ((err = path_join(&path, home, ".netrc")) < 0)
        return err;
    if (!path_exists(path))
        return 0;
    if (!path_is_private(path))
        return error_set(E_INVALID, "others may read it (chmod 600 %s)", path);
    if ((err = file_read(&text, path, LIMIT_NETRC)) < 0)
        return err;
    err = netrc_parse(found, out, buf_bytes(&text), host, user);
    OPENSSL_cleanse(text.data, text.len);
    return err;
}
