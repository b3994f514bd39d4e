/*
 * Who commits, and when. See store.h.
 *
 * As git does it: the environment, then the configuration, then what the system knows; characters
 * that cannot stand in a commit are left out. Unlike git, something is always found.
 */
#define _DEFAULT_SOURCE
#include <inttypes.h>
#include <pwd.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "format/json.h"
#include "store/internal.h"

#define FALLBACK "unknown"
#define DATE_MAX INT64_C(253402300799) /* the end of the year 9999 */

struct role {
    const char *name_env, *email_env, *date_env;
    const char *name_key, *email_key;
};

static const struct role author_role = {
    "GIT_AUTHOR_NAME", "GIT_AUTHOR_EMAIL", "GIT_AUTHOR_DATE", "author.name", "author.email"};
static const struct role committer_role = {
    "GIT_COMMITTER_NAME", "GIT_COMMITTER_EMAIL", "GIT_COMMITTER_DATE", "committer.name",
    "committer.email"};

/* Characters that git takes off both ends of a name. */
static bool is_crud(uint8_t c)
{
    return c <= ' ' || c == 0x7f || strchr(".,:;<>\"\\'", c) != NULL;
}

/* What of a text can stand in a commit's header: UTF-8, no control characters, no brackets. */
static int text_clean(char **out, const char *text)
{
    AUTO_BUF(clean);
    size_t len = strlen(text), begin = 0;
    int err = 0;

    while (begin < len && is_crud((uint8_t)text[begin]))
        begin++;
    while (len > begin && is_crud((uint8_t)text[len - 1]))
        len--;
    for (size_t i = begin; err == 0 && i < len;) {
        const uint8_t *at = (const uint8_t *)text + i;
        size_t n = utf8_length((struct bytes){at, len - i});
        if (n == 0)
            err = buf_append_byte(&clean, '?');
        else if (n > 1 || (*at >= ' ' && *at != 0x7f && *at != '<' && *at != '>'))
            err = buf_append(&clean, at, n);
        i += n ? n : 1;
    }
    if (err < 0)
        return err;
    if (!(*out = bytes_dup(buf_bytes(&clean))))
        return error_wrap(E_NOMEM, "author");
    return 0;
}

/* Take `text` where nothing was found yet and it holds something. */
static int field_offer(char **field, const char *text)
{
    if (*field || !text)
        return 0;
    int err = text_clean(field, text);
    if (err == 0 && !**field) {
        free(*field);
        *field = NULL;
    }
    return err;
}

static int field_offer_config(char **field, git_config *config, const char *key)
{
    const char *value = NULL;

    if (*field || !config || git_config_get_string(&value, config, key) < 0)
        return 0;
    return field_offer(field, value);
}

/* The login's name, with what GECOS has before its first comma. */
static int name_offer_login(char **name)
{
    char scratch[4096], real[256];
    struct passwd entry, *found = NULL;

    if (*name || getpwuid_r(geteuid(), &entry, scratch, sizeof(scratch), &found) != 0 || !found)
        return 0;
    snprintf(real, sizeof(real), "%s", entry.pw_gecos ? entry.pw_gecos : "");
    real[strcspn(real, ",")] = '\0';
    int err = field_offer(name, real);
    return err < 0 ? err : field_offer(name, entry.pw_name);
}

static int email_offer_login(char **email)
{
    char scratch[4096], host[256] = "localhost", address[768];
    struct passwd entry, *found = NULL;
    const char *login = FALLBACK;

    if (*email)
        return 0;
    if (getpwuid_r(geteuid(), &entry, scratch, sizeof(scratch), &found) == 0 && found)
        login = entry.pw_name;
    if (gethostname(host, sizeof(host) - 1) != 0)
        snprintf(host, sizeof(host), "localhost");
    snprintf(address, sizeof(address), "%.256s@%.256s", login, host);
    return field_offer(email, address);
}

static int identity_find(struct identity *out, struct store *store, const struct role *role)
{
    AUTO_GIT(git_config, config);
    int err;

    if (git_repository_config_snapshot(&config, store->repo) < 0)
        config = NULL;
    if ((err = field_offer(&out->name, getenv(role->name_env))) < 0 ||
        (err = field_offer_config(&out->name, config, role->name_key)) < 0 ||
        (err = field_offer_config(&out->name, config, "user.name")) < 0 ||
        (err = name_offer_login(&out->name)) < 0 || (err = field_offer(&out->name, FALLBACK)) < 0)
        return err;
    if ((err = field_offer(&out->email, getenv(role->email_env))) < 0 ||
        (err = field_offer_config(&out->email, config, role->email_key)) < 0 ||
        (err = field_offer_config(&out->email, config, "user.email")) < 0 ||
        (err = field_offer(&out->email, getenv("EMAIL"))) < 0 ||
        (err = email_offer_login(&out->email)) < 0)
        return err;
    return field_offer(&out->email, FALLBACK);
}

static int author_error(const char *author)
{
    int err = error_set(E_INVALID, "'%s': not an author", author);

    return error_hint(err, "--author 'Name <mail@example.org>'");
}

/* "Name <mail>", or a name alone. */
static int author_parse(struct identity *out, const char *author)
{
    AUTO_FREE(char, name);
    AUTO_FREE(char, email);
    size_t open = strcspn(author, "<>"), close = open + strcspn(author + open, ">");
    bool has_email = author[open] != '\0';
    int err;

    if (!utf8_valid(text_bytes(author)) || strpbrk(author, "\r\n"))
        return author_error(author);
    if (has_email &&
        (author[open] != '<' || author[close] != '>' || strchr(author + open + 1, '<') ||
         author[close + 1 + strspn(author + close + 1, " ")]))
        return author_error(author);
    name = bytes_dup((struct bytes){(const uint8_t *)author, open});
    if (!name || (err = field_offer(&out->name, name)) < 0)
        return error_wrap(E_NOMEM, "author");
    if (has_email) {
        email = bytes_dup((struct bytes){(const uint8_t *)author + open + 1, close - open - 1});
        if (!email || (err = field_offer(&out->email, email)) < 0)
            return error_wrap(E_NOMEM, "author");
    }
    return out->name && (out->email || !has_email) ? 0 : author_error(author);
}

static int identity_make(
    struct identity *out, struct store *store, const struct role *role, const char *author
)
{
    __attribute__((cleanup(identity_release))) struct identity identity = {0};

    int err = author ? author_parse(&identity, author) : 0;
    if (err < 0 || (err = identity_find(&identity, store, role)) < 0)
        return err;
    *out = identity;
    identity = (struct identity){0};
    return 0;
}

int store_identity(struct identity *out, struct store *store, const char *author)
{
    return identity_make(out, store, &author_role, author);
}

void identity_release(struct identity *identity)
{
    free(identity->name);
    free(identity->email);
    *identity = (struct identity){0};
}

/* Dates */

static bool digits_read(int64_t *out, const char **at)
{
    char *end = NULL;

    if (**at < '0' || **at > '9' || strspn(*at, "0123456789") > 12)
        return false;
    *out = strtoll(*at, &end, 10);
    *at = end;
    return true;
}

/* "[@]<seconds>[ +hhmm]"; without a zone it is the local one. */
static bool date_parse_raw(int64_t *time, int *offset, const char *text)
{
    const char *at = text + (*text == '@');
    int64_t zone = 0;

    if (!digits_read(time, &at) || (*text != '@' && at - text < 9))
        return false;
    if (!*at) {
        time_t seconds = (time_t)*time;
        struct tm local = {0};
        tzset();
        *offset = localtime_r(&seconds, &local) ? (int)(local.tm_gmtoff / 60) : 0;
        return true;
    }
    bool west = at[1] == '-';
    if (*at != ' ' || (at[1] != '+' && !west) || strlen(at) != 6 ||
        (at += 2, !digits_read(&zone, &at)))
        return false;
    *offset = (int)(zone / 100 * 60 + zone % 100) * (west ? -1 : 1);
    return !*at && zone / 100 <= 14 && zone % 100 < 60;
}

/* ISO 8601, RFC 2822 and git's own; without a zone it is local time. */
static bool date_parse_text(int64_t *time, int *offset, const char *text)
{
    static const struct {
        const char *format;
        bool has_zone;
    } formats[] = {
        {"%Y-%m-%dT%H:%M:%S %z", true}, {"%Y-%m-%d %H:%M:%S %z", true},
        {"%Y-%m-%dT%H:%M:%S", false},   {"%Y-%m-%d %H:%M:%S", false},
        {"%a, %d %b %Y %T %z", true},   {"%d %b %Y %T %z", true},
        {"%a %b %d %T %Y %z", true},
    };

    for (size_t i = 0; i < sizeof(formats) / sizeof(formats[0]); i++) {
        struct tm tm = {.tm_isdst = -1};
        const char *end = strptime(text, formats[i].format, &tm);
        if (!end || *end)
            continue;
        long zone = tm.tm_gmtoff;
        *time = formats[i].has_zone ? (int64_t)timegm(&tm) - zone : (int64_t)mktime(&tm);
        *offset = (int)((formats[i].has_zone ? zone : tm.tm_gmtoff) / 60);
        return true;
    }
    return false;
}

int signature_make(git_signature **out, const struct identity *identity, bool is_author)
{
    const char *name = is_author ? author_role.date_env : committer_role.date_env;
    const char *date = getenv(name);
    int64_t time = 0;
    int offset = 0, code;

    if (date && *date) {
        bool parsed = date_parse_raw(&time, &offset, date) || date_parse_text(&time, &offset, date);
        if (!parsed || time < 0 || time > DATE_MAX) {
            int err = error_set(E_INVALID, "%s: '%s' is no date", name, date);
            return error_hint(err, "as in 2026-01-31T23:59:59+01:00");
        }
        code = git_signature_new(out, identity->name, identity->email, time, offset);
    } else {
        code = git_signature_now(out, identity->name, identity->email);
    }
    return code < 0 ? git_failed(code, "'%s <%s>'", identity->name, identity->email) : 0;
}

int signature_now(git_signature **out, struct store *store)
{
    __attribute__((cleanup(identity_release))) struct identity identity = {0};

    int err = identity_make(&identity, store, &committer_role, NULL);
    return err < 0 ? err : signature_make(out, &identity, false);
}

int signature_append(struct buf *out, const git_signature *who)
{
    int offset = who->when.offset, minutes = offset < 0 ? -offset : offset;

    return buf_printf(
        out, "%s <%s> %" PRId64 " %c%02d%02d", who->name, who->email, (int64_t)who->when.time,
        offset < 0 ? '-' : '+', minutes / 60, minutes % 60
    );
}
