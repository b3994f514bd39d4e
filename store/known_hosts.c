/* Which host keys are known. See known_hosts.h. */
#define _GNU_SOURCE
#include "store/known_hosts.h"

#include <ctype.h>
#include <dlfcn.h>
#include <openssl/evp.h>
#include <openssl/hmac.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>

#include "format/bits.h"
#include "format/file.h"
#include "format/limits.h"

#define NAME_MAX_BYTES 1024 /* of a host with its port */
#define HASH_BYTES     20
#define HASH_TEXT      28 /* in base64 */
#define KEY_TEXT_MAX   16384
#define DEFAULT_PORT   "22"

int known_host_name(char **out, const char *host, const char *port)
{
    AUTO_BUF(name);
    const bool is_usual = !port || strcmp(port, DEFAULT_PORT) == 0;
    int err = is_usual ? buf_append_text(&name, host) : buf_printf(&name, "[%s]:%s", host, port);

    if (err < 0)
        return err;
    if (name.len > NAME_MAX_BYTES)
        return error_set(E_LIMIT, "a host's name of %zu bytes", name.len);
    for (size_t i = 0; i < name.len; i++)
        name.data[i] = (uint8_t)tolower(name.data[i]);
    *out = bytes_dup(buf_bytes(&name));
    return *out ? 0 : error_wrap(E_NOMEM, "host");
}

/* Lines */

struct line {
    struct bytes marker, hosts, type, key; /* marker: empty or "@revoked" … */
    const char *file;
    size_t number;
};

static struct bytes word_take(struct bytes *rest)
{
    struct bytes word;

    while (rest->len && (*rest->data == ' ' || *rest->data == '\t')) {
        rest->data++;
        rest->len--;
    }
    word.data = rest->data;
    while (rest->len && *rest->data != ' ' && *rest->data != '\t' && *rest->data != '\r') {
        rest->data++;
        rest->len--;
    }
    word.len = (size_t)(rest->data - word.data);
    return word;
}

static bool line_parse(struct line *out, struct bytes text)
{
    out->marker = (struct bytes){0};
    out->hosts = word_take(&text);
    if (out->hosts.len && *out->hosts.data == '@') {
        out->marker = out->hosts;
        out->hosts = word_take(&text);
    }
    out->type = word_take(&text);
    out->key = word_take(&text);
    return out->key.len && *out->hosts.data != '#';
}

/* '*' and '?' only: brackets are part of a name. */
static bool pattern_fits(struct bytes pattern, const char *name)
{
    const char *after_star = NULL;
    size_t i = 0, star = 0;

    while (*name) {
        if (i < pattern.len && pattern.data[i] == '*') {
            star = ++i;
            after_star = name;
        } else if (i < pattern.len && (pattern.data[i] == '?' || tolower(pattern.data[i]) == (uint8_t)*name)) {
            i++;
            name++;
        } else if (after_star) {
            i = star;
            name = ++after_star;
        } else {
            return false;
        }
    }
    while (i < pattern.len && pattern.data[i] == '*')
        i++;
    return i == pattern.len;
}

/* "|1|salt|HMAC-SHA1(salt, name)", both in base64. */
static bool hash_fits(struct bytes hosts, const char *name)
{
    const size_t start = 3;
    uint8_t salt[HASH_TEXT], hash[EVP_MAX_MD_SIZE], text[HASH_TEXT + 1];

    if (hosts.len != start + 2 * HASH_TEXT + 1 || hosts.data[start + HASH_TEXT] != '|' ||
        EVP_DecodeBlock(salt, hosts.data + start, HASH_TEXT) < HASH_BYTES)
        return false;
    if (!HMAC(EVP_sha1(), salt, HASH_BYTES, (const uint8_t *)name, strlen(name), hash, NULL))
        return false;
    EVP_EncodeBlock(text, hash, HASH_BYTES);
    return memcmp(text, hosts.data + start + HASH_TEXT + 1, HASH_TEXT) == 0;
}

static bool hosts_fit(struct bytes hosts, const char *name)
{
    bool fits = false;

    if (hosts.len > 3 && memcmp(hosts.data, "|1|", 3) == 0)
        return hash_fits(hosts, name);
    while (hosts.len) {
        const uint8_t *comma = memchr(hosts.data, ',', hosts.len);
        struct bytes one = {hosts.data, comma ? (size_t)(comma - hosts.data) : hosts.len};
        size_t taken = one.len + (comma != NULL);
        bool is_not = one.len && *one.data == '!';
        if (pattern_fits((struct bytes){one.data + is_not, one.len - is_not}, name)) {
            if (is_not)
                return false;
            fits = true;
        }
        hosts.data += taken;
        hosts.len -= taken;
    }
    return fits;
}

/* `visit` returns true to go on. */
typedef bool line_visit(void *context, const struct line *line);

static bool
text_each(struct bytes text, const char *file, const char *name, line_visit *visit, void *context)
{
    struct line line = {.file = file};

    while (text.len) {
        const uint8_t *end = memchr(text.data, '\n', text.len);
        size_t len = end ? (size_t)(end - text.data) : text.len;
        line.number++;
        if (line_parse(&line, (struct bytes){text.data, len}) && hosts_fit(line.hosts, name) &&
            !visit(context, &line))
            return false;
        len += end != NULL;
        text.data += len;
        text.len -= len;
    }
    return true;
}

static int lines_each(struct bytes files, const char *name, line_visit *visit, void *context)
{
    const char *file = (const char *)files.data, *end = file + files.len;

    for (; file < end; file += strlen(file) + 1) {
        AUTO_BUF(text);
        int err = file_read(&text, file, LIMIT_KNOWN_HOSTS);
        if (err == E_NOTFOUND || err == E_INVALID)
            continue; /* nothing there, or /dev/null, which holds nobody */
        if (err < 0)
            return err;
        if (!text_each(buf_bytes(&text), file, name, visit, context))
            break;
    }
    return 0;
}

/* Comparing */

static bool bytes_are(struct bytes bytes, const char *text)
{
    return bytes_equal(bytes, text_bytes(text));
}

/* A key begins with its type: 4 bytes of length, the text. */
static int key_type(struct bytes *out, struct bytes key)
{
    uint32_t len = 0;

    if (key.len >= 4)
        len = (uint32_t)key.data[0] << 24 | (uint32_t)key.data[1] << 16 |
              (uint32_t)key.data[2] << 8 | key.data[3];
    if (key.len < 4 || len > key.len - 4 || key.len > KEY_TEXT_MAX / 2)
        return error_set(E_INVALID, "the host key is none");
    *out = (struct bytes){key.data + 4, len};
    return 0;
}

struct comparison {
    const char *key; /* in base64 */
    enum known_host result;
    struct buf *where;
    int err;
};

static bool compare(void *context, const struct line *line)
{
    struct comparison *comparison = context;
    bool is_equal = bytes_are(line->key, comparison->key);
    enum known_host result = HOST_CHANGED;

    if (bytes_are(line->marker, "@revoked") && is_equal)
        result = HOST_REVOKED;
    else if (line->marker.len)
        return true;
    else if (is_equal)
        result = HOST_MATCHES;
    /* A revocation counts wherever it stands, the first line that differs is the one to name. */
    if (result == HOST_CHANGED && comparison->result != HOST_UNKNOWN)
        return true;
    comparison->result = result;
    comparison->where->len = 0;
    comparison->err = buf_printf(comparison->where, "%s:%zu", line->file, line->number);
    return comparison->err == 0 && result != HOST_REVOKED;
}

static int key_encode(char out[KEY_TEXT_MAX], struct bytes key)
{
    struct bytes type;
    int err = key_type(&type, key);

    if (err == 0)
        EVP_EncodeBlock((uint8_t *)out, key.data, (int)key.len);
    return err;
}

int known_host_check(
    enum known_host *out, struct buf *where, struct bytes files, const char *name, struct bytes key
)
{
    char text[KEY_TEXT_MAX];
    struct comparison comparison = {text, HOST_UNKNOWN, where, 0};
    int err;

    if ((err = key_encode(text, key)) < 0 ||
        (err = lines_each(files, name, compare, &comparison)) < 0 || (err = comparison.err) < 0)
        return err;
    *out = comparison.result;
    return 0;
}

int known_host_line(struct buf *out, const char *name, struct bytes key)
{
    char text[KEY_TEXT_MAX];
    struct bytes type = {0};
    int err;

    if ((err = key_encode(text, key)) < 0 || (err = key_type(&type, key)) < 0)
        return err;
    return buf_printf(out, "%s %.*s %s", name, (int)type.len, (const char *)type.data, text);
}

/* What libgit2 is given */

/* libssh2.h */
#define KNOWNHOST_FILE_OPENSSH 1
typedef int read_file(void *hosts, const char *path, int type);
typedef int read_line(void *hosts, const char *line, size_t len, int type);
__attribute__((visibility("default"))) read_file libssh2_knownhost_readfile;

/* One connection at a time is opened in a process. */
static struct {
    bool is_set;
    char line[NAME_MAX_BYTES + KEY_TEXT_MAX];
} offered;

int libssh2_knownhost_readfile(void *hosts, const char *path, int type)
{
    const char *name = offered.is_set ? "libssh2_knownhost_readline" : "libssh2_knownhost_readfile";
    void *symbol = dlsym(RTLD_NEXT, name);
    read_file *file = NULL;
    read_line *line = NULL;

    if (!offered.is_set) {
        memcpy(&file, &symbol, sizeof(file));
        return file ? file(hosts, path, type) : 0;
    }
    memcpy(&line, &symbol, sizeof(line));
    if (!line || !*offered.line)
        return 0;
    return line(hosts, offered.line, strlen(offered.line), KNOWNHOST_FILE_OPENSSH);
}

/* What this libssh2 and today's servers have in common, the best first; RSA only to be told. */
static const char *const types[] = {
    "ssh-ed25519", "ecdsa-sha2-nistp256", "ecdsa-sha2-nistp384", "ecdsa-sha2-nistp521", "ssh-rsa"};
#define TYPES (sizeof(types) / sizeof(types[0]))

struct choice {
    const char *name;
    size_t type; /* TYPES: none yet */
};

static bool choose(void *context, const struct line *line)
{
    struct choice *choice = context;

    for (size_t i = 0; !line->marker.len && i < choice->type; i++) {
        size_t bytes = strlen(choice->name) + line->type.len + line->key.len + 4;
        if (!bytes_are(line->type, types[i]) || bytes > sizeof(offered.line))
            continue;
        char *at = stpcpy(stpcpy(offered.line, choice->name), " ");
        at = stpcpy(stpcpy(at, types[i]), " ");
        memcpy(at, line->key.data, line->key.len);
        at[line->key.len] = '\n';
        at[line->key.len + 1] = '\0';
        choice->type = i;
    }
    return true;
}

int known_host_offer(bool *is_rsa, struct bytes files, const char *name)
{
    struct choice choice = {name, TYPES};

    offered.is_set = true;
    *offered.line = '\0';
    int err = lines_each(files, name, choose, &choice);
    *is_rsa = choice.type == TYPES - 1;
    return err;
}
