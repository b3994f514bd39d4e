/* Names in registries. See oci_name.h. */
#include "store/oci_name.h"

#include <stdlib.h>
#include <string.h>

#include "store/http.h"

#define NAME_MAX_BYTES 255
#define VERSION_DIGITS 12

void oci_name_release(struct oci_name *name)
{
    free(name->origin);
    free(name->host);
    free(name->repository);
    free(name->reference);
    *name = (struct oci_name){0};
}

static const struct scheme {
    const char *prefix, *http;
} schemes[] = {{"oci://", NULL}, {"oci+http://", "http://"}, {"oci+https://", "https://"}};

static const struct scheme *scheme_of(const char *url)
{
    for (size_t i = 0; i < sizeof(schemes) / sizeof(schemes[0]); i++) {
        if (strncmp(url, schemes[i].prefix, strlen(schemes[i].prefix)) == 0)
            return &schemes[i];
    }
    return NULL;
}

bool oci_is_url(const char *url)
{
    return scheme_of(url) != NULL;
}

static bool is_lower(char c)
{
    return c >= 'a' && c <= 'z';
}

static bool is_digit(char c)
{
    return c >= '0' && c <= '9';
}

static bool is_word(char c)
{
    return is_lower(c) || is_digit(c) || c == '_' || (c >= 'A' && c <= 'Z');
}

/* "host", "host:5000", "[::1]:5000" */
static bool is_host(const char *text, size_t len)
{
    const char *inside = "";
    size_t at = 0;

    if (len && text[0] == '[') {
        for (at = 1; at < len && (is_word(text[at]) || text[at] == ':' || text[at] == '.');)
            at++;
        if (at == len || text[at++] != ']')
            return false;
    } else {
        for (inside = ".-"; at < len && (is_word(text[at]) || strchr(inside, text[at]));)
            at++;
        if (at == 0 || text[0] == '-' || text[0] == '.')
            return false;
    }
    if (at == len)
        return true;
    if (text[at] != ':' || len - at < 2 || len - at > 6)
        return false;
    for (at++; at < len; at++) {
        if (!is_digit(text[at]))
            return false;
    }
    return true;
}

/* Parts between slashes: lower-case letters and digits, joined by ".", "_", "__" or dashes. */
static bool is_repository(const char *text, size_t len)
{
    bool begins = true;

    for (size_t i = 0; i < len; i++) {
        if (text[i] == '/') {
            if (begins || !(is_lower(text[i - 1]) || is_digit(text[i - 1])))
                return false;
            begins = true;
        } else if (is_lower(text[i]) || is_digit(text[i]))
            begins = false;
        else if (begins || !strchr("._-", text[i]) || (text[i] == '.' && text[i - 1] != '_' && !is_lower(text[i - 1]) && !is_digit(text[i - 1])))
            return false;
    }
    return len && len <= NAME_MAX_BYTES && !begins &&
           (is_lower(text[len - 1]) || is_digit(text[len - 1]));
}

static bool is_tag(const char *text)
{
    size_t len = strlen(text);

    if (!is_word(text[0]) || len > OCI_TAG_MAX)
        return false;
    for (size_t i = 0; i < len; i++) {
        if (!is_word(text[i]) && text[i] != '.' && text[i] != '-')
            return false;
    }
    return true;
}

bool oci_is_digest(const char *reference)
{
    struct digest ignored;

    return strncmp(reference, "sha256:", 7) == 0 &&
           digest_parse(&ignored, text_bytes(reference + 7)) == 0;
}

static int take(char **out, const char *text, size_t len)
{
    *out = bytes_dup((struct bytes){(const uint8_t *)text, len});
    return *out ? 0 : error_wrap(E_NOMEM, "URL");
}

static size_t host_end(const char *host, size_t len)
{
    size_t at = len;

    while (at && is_digit(host[at - 1]))
        at--;
    return at && host[at - 1] == ':' && (host[0] != '[' || host[at - 2] == ']') ? at - 1 : len;
}

static int origin_make(struct oci_name *out, const struct scheme *scheme)
{
    size_t end = host_end(out->host, strlen(out->host));
    bool is_near = http_is_loopback((struct bytes){(const uint8_t *)out->host, end});
    const char *http = scheme->http ? scheme->http : is_near ? "http://" : "https://";
    AUTO_BUF(origin);

    int err = buf_printf(&origin, "%s%s", http, out->host);
    if (err < 0)
        return err;
    out->is_secret = is_near || strcmp(http, "https://") == 0;
    out->origin = (char *)buf_take(&origin).data;
    return 0;
}

static int invalid(const char *what)
{
    int err = error_set(E_INVALID, "%s", what);

    return error_hint(
        err, "oci://HOST[:PORT]/NAME[:TAG], NAME in lower case: oci://localhost:5000/team/adapters"
    );
}

static int reference_parse(struct oci_name *out, const char *rest)
{
    const char *at = strchr(rest, '@'), *colon = strchr(rest, ':');
    const char *reference = at ? at : colon;
    size_t len = reference ? (size_t)(reference - rest) : strlen(rest);

    /* name:tag@digest is pinned by the digest. */
    if (at && colon && colon < at)
        len = (size_t)(colon - rest);
    if (!is_repository(rest, len))
        return invalid("the repository's name in this URL of a registry is none");
    if (reference && !(at ? oci_is_digest(at + 1) : is_tag(colon + 1)))
        return invalid("the tag or digest in this URL of a registry is none");
    int err = take(&out->repository, rest, len);
    return err < 0 || !reference ? err
                                 : take(&out->reference, reference + 1, strlen(reference + 1));
}

int oci_name_parse(struct oci_name *out, const char *url)
{
    const struct scheme *scheme = scheme_of(url);
    AUTO_OCI_NAME(name);
    int err;

    if (!scheme)
        return invalid("no URL of a registry");
    const char *host = url + strlen(scheme->prefix);
    const char *slash = strchr(host, '/');
    const char *user = strchr(host, '@');
    if (user && slash && user < slash)
        return invalid("a URL of a registry holds no user or password: docker login keeps them");
    if (!slash || !is_host(host, (size_t)(slash - host)))
        return invalid("the host in this URL of a registry is none");
    if ((err = take(&name.host, host, (size_t)(slash - host))) < 0 ||
        (err = origin_make(&name, scheme)) < 0 || (err = reference_parse(&name, slash + 1)) < 0)
        return err;
    *out = name;
    name = (struct oci_name){0};
    return 0;
}

/* Tags */

static bool is_hex(uint8_t c)
{
    return is_digit((char)c) || (c >= 'a' && c <= 'f');
}

/* Does it end in a dash and twelve hex digits, as the tag of a version does? */
static bool ends_as_version(struct bytes text)
{
    if (text.len < VERSION_DIGITS + 2)
        return false;
    for (size_t i = text.len - VERSION_DIGITS; i < text.len; i++) {
        if (!is_hex(text.data[i]))
            return false;
    }
    return text.data[text.len - VERSION_DIGITS - 1] == '-';
}

int oci_tag_encode(struct buf *out, const char *ref, const struct digest *snapshot)
{
    struct bytes text = text_bytes(ref);
    size_t before = out->len;
    size_t dash = ends_as_version(text) ? text.len - VERSION_DIGITS - 1 : text.len;
    char hex[DIGEST_HEX_SIZE];
    int err = 0;

    for (size_t i = 0; err == 0 && i < text.len; i++) {
        char c = (char)text.data[i];
        bool plain = c != '_' && i != dash && (is_word(c) || (i > 0 && (c == '.' || c == '-')));
        err = plain ? buf_append_byte(out, text.data[i]) : buf_printf(out, "_%02x", text.data[i]);
    }
    if (err == 0 && snapshot) {
        digest_hex(hex, snapshot);
        err = buf_printf(out, "-%.*s", VERSION_DIGITS, hex);
    }
    if (err == 0 && out->len - before > OCI_TAG_MAX)
        return error_set(
            E_LIMIT, "'%.200s': too long for a tag of a registry, which has at most %d characters",
            ref, OCI_TAG_MAX
        );
    return err;
}

static unsigned nibble(uint8_t c)
{
    return c <= '9' ? c - (unsigned)'0' : c - (unsigned)'a' + 10;
}

int oci_tag_decode(struct buf *out, struct bytes tag)
{
    int err = 0;

    for (size_t i = 0; err == 0 && i < tag.len; i++) {
        if (tag.data[i] != '_') {
            err = buf_append_byte(out, tag.data[i]);
            continue;
        }
        if (tag.len - i < 3 || !is_hex(tag.data[i + 1]) || !is_hex(tag.data[i + 2]))
            return error_set(E_INVALID, "no tag that was made here");
        err = buf_append_byte(
            out, (uint8_t)(nibble(tag.data[i + 1]) << 4 | nibble(tag.data[i + 2]))
        );
        i += 2;
    }
    return err;
}

enum oci_tag_kind oci_tag_kind(struct bytes tag)
{
    AUTO_BUF(name);
    AUTO_BUF(again);

    if (tag.len > 2 && memcmp(tag.data, "__", 2) == 0)
        return OCI_TAG_CLAIM;
    if (oci_tag_decode(&name, tag) < 0)
        return OCI_TAG_FOREIGN;
    if (ends_as_version(tag))
        return OCI_TAG_VERSION;
    const char *text = buf_text(&name);
    if (!text || strlen(text) != name.len || oci_tag_encode(&again, text, NULL) < 0)
        return OCI_TAG_FOREIGN;
    return bytes_equal(buf_bytes(&again), tag) ? OCI_TAG_REF : OCI_TAG_FOREIGN;
}
