#include "format/manifest.h"

#include <stdlib.h>
#include <string.h>
#include <strings.h>

#include "format/limits.h"
#include "format/text.h"

#define NOUN "manifest"

/* Byte order; paths hold no NUL, and strcmp() compares unsigned bytes. */
static int compare_files(const void *a, const void *b)
{
    const struct manifest_file *x = a, *y = b;

    return strcmp(x->path, y->path);
}

const struct manifest_file *manifest_find(const struct manifest *manifest, const char *path)
{
    for (size_t low = 0, high = manifest->count; low < high;) {
        size_t middle = low + (high - low) / 2;
        int order = strcmp(path, manifest->files[middle].path);
        if (order == 0)
            return &manifest->files[middle];
        if (order < 0)
            high = middle;
        else
            low = middle + 1;
    }
    return NULL;
}

/* Is a folder of `path` itself a file of the manifest? */
static int check_folders(const struct manifest *manifest, const char *path, int code)
{
    AUTO_FREE(char, folder);
    int err = 0;

    if (!strchr(path, '/'))
        return 0;
    if (!(folder = bytes_dup(text_bytes(path))))
        return error_wrap(E_NOMEM, NOUN);
    for (char *slash = strchr(folder, '/'); slash && !err; slash = strchr(slash + 1, '/')) {
        *slash = '\0';
        if (manifest_find(manifest, folder))
            err = error_set(code, "%s: '%s' is a file and a folder", NOUN, folder);
        *slash = '/';
    }
    return err;
}

/* What holds for the files of every manifest, sorted; `code` where it does not. */
static int check_files(const struct manifest *manifest, int code)
{
    int err;

    for (size_t i = 0; i < manifest->count; i++) {
        const struct manifest_file *file = &manifest->files[i];
        if ((err = path_check(file->path)) < 0)
            return error_wrap(code, NOUN);
        int order = i ? strcmp(manifest->files[i - 1].path, file->path) : -1;
        if (order == 0)
            return error_set(code, "%s: '%s' appears twice", NOUN, file->path);
        if (order > 0)
            return error_set(code, "%s: '%s' is not in byte order", NOUN, file->path);
        if (file->bytes > LIMIT_FILE)
            return error_set(E_LIMIT, "%s: '%s' is larger than 2 GiB", NOUN, file->path);
    }
    for (size_t i = 0; i < manifest->count; i++)
        if ((err = check_folders(manifest, manifest->files[i].path, code)) < 0)
            return err;
    return 0;
}

static int check_count(size_t count)
{
    if (count > LIMIT_FILES)
        return error_set(E_LIMIT, "%s: %zu files", NOUN, count);
    return 0;
}

static int print_files(struct buf *out, const struct manifest *manifest)
{
    int err = buf_append_text(out, "verastore " NOUN " 1\nkind vera\n");

    for (size_t i = 0; i < manifest->count && !err; i++) {
        const struct manifest_file *file = &manifest->files[i];
        char hex[DIGEST_HEX_SIZE];
        digest_hex(hex, &file->digest);
        err = buf_printf(out, "file %s %ju %s\n", hex, (uintmax_t)file->bytes, file->path);
    }
    return err;
}

int manifest_encode(struct buf *out, const struct manifest *manifest)
{
    AUTO_FREE(struct manifest_file, files);
    AUTO_BUF(text);
    int err;

    if ((err = check_count(manifest->count)) < 0)
        return err;
    if (!(files = array_new(manifest->count, sizeof(*files))))
        return error_wrap(E_NOMEM, NOUN);
    struct manifest sorted = {files, manifest->count};
    if (manifest->count)
        memcpy(files, manifest->files, manifest->count * sizeof(*files));
    qsort(files, sorted.count, sizeof(*files), compare_files);
    if ((err = check_files(&sorted, E_INVALID)) < 0 || (err = print_files(&text, &sorted)) < 0)
        return err;
    *out = buf_take(&text);
    return 0;
}

static int parse_file(struct manifest_file *out, struct text *text)
{
    struct bytes path;
    int err;

    if ((err = text_line(text, "file")) < 0 || (err = text_digest(&out->digest, text)) < 0 ||
        (err = text_uint64(&out->bytes, text)) < 0 || (err = text_rest(&path, text)) < 0)
        return err;
    out->path = bytes_dup(path);
    return out->path ? 0 : error_wrap(E_NOMEM, NOUN);
}

static int parse_kind(struct text *text)
{
    struct bytes kind;
    int err;

    if ((err = text_line(text, "kind")) < 0 || (err = text_rest(&kind, text)) < 0)
        return err;
    if (!bytes_equal(kind, text_bytes("vera")))
        return text_error(text, "is a kind that this program does not know");
    return 0;
}

int manifest_decode(struct manifest *out, struct bytes input)
{
    AUTO_MANIFEST(manifest);
    struct text text;
    int err;

    if ((err = text_init(&text, NOUN, input)) < 0 || (err = parse_kind(&text)) < 0)
        return err;
    size_t count = text_lines_left(&text);
    if ((err = check_count(count)) < 0)
        return err;
    if (!(manifest.files = array_new(count, sizeof(*manifest.files))))
        return error_wrap(E_NOMEM, NOUN);
    while (manifest.count < count) {
        /* Counted first: what a half-read line has taken is released with the rest. */
        struct manifest_file *file = &manifest.files[manifest.count++];
        if ((err = parse_file(file, &text)) < 0)
            return err;
    }
    if ((err = check_files(&manifest, E_CORRUPT)) < 0)
        return err;
    *out = manifest;
    manifest = (struct manifest){0};
    return 0;
}

void manifest_release(struct manifest *manifest)
{
    for (size_t i = 0; i < manifest->count; i++)
        free(manifest->files[i].path);
    free(manifest->files);
    *manifest = (struct manifest){0};
}

#define COMPONENT_MAX 255

/* Copy a component without the code points that HFS+ ignores when it compares names: U+200C..200F,
   202A..202E, 206A..206F, FEFF. The name is valid UTF-8. */
static void strip_ignorable(char out[COMPONENT_MAX + 1], struct bytes name)
{
    size_t n = 0;

    for (size_t i = 0; i < name.len; i++) {
        const uint8_t *p = name.data + i;
        bool three = name.len - i >= 3;
        if (three && p[0] == 0xe2 && p[1] == 0x80 &&
            ((p[2] >= 0x8c && p[2] <= 0x8f) || (p[2] >= 0xaa && p[2] <= 0xae)))
            i += 2;
        else if (three && p[0] == 0xe2 && p[1] == 0x81 && p[2] >= 0xaa && p[2] <= 0xaf)
            i += 2;
        else if (three && p[0] == 0xef && p[1] == 0xbb && p[2] == 0xbf)
            i += 2;
        else
            out[n++] = (char)*p;
    }
    out[n] = '\0';
}

/* NTFS drops dots and spaces at the end of a name; a colon begins the name of a stream in it. */
static bool is_ntfs_end(const char *rest)
{
    rest += strspn(rest, ". ");
    return *rest == '\0' || *rest == ':';
}

static bool begins_with(const char *name, const char *prefix)
{
    return strncasecmp(name, prefix, strlen(prefix)) == 0;
}

/* NTFS' fall-back short name: eight characters, a prefix of `hashed`, then '~' and a number. */
static bool is_hashed_short_name(const char *name, const char *hashed)
{
    size_t n = 0;

    if (strlen(name) < 8)
        return false;
    while (n < 6 && (name[n] | 0x20) == hashed[n])
        n++;
    if (name[n] != '~' || name[n + 1] < '1' || name[n + 1] > '9')
        return false;
    return n + 1 + strspn(name + n + 1, "0123456789") >= 8 && is_ntfs_end(name + 8);
}

/* What git may take, on any file system, for `name` with a dot before it. */
static bool is_dot_name(const char *component, const char *name, const char *hashed)
{
    size_t n = strlen(name);

    if (component[0] == '.' && begins_with(component + 1, name) && is_ntfs_end(component + 1 + n))
        return true;
    if (strncasecmp(component, name, 6) == 0 && component[6] == '~' && component[7] >= '1' &&
        component[7] <= '4' && is_ntfs_end(component + 8))
        return true;
    return is_hashed_short_name(component, hashed);
}

static bool is_git_name(const char *name)
{
    return (begins_with(name, ".git") && is_ntfs_end(name + 4)) ||
           (begins_with(name, "git~1") && is_ntfs_end(name + 5)) ||
           is_dot_name(name, "gitmodules", "gi7eba");
}

/* NULL, or why this cannot be a folder or file. The whole path is plain (text_is_plain). */
static const char *component_fault(struct bytes name)
{
    char stripped[COMPONENT_MAX + 1];

    if (name.len == 0)
        return "has an empty component";
    if (name.len > COMPONENT_MAX)
        return "has a component of more than 255 bytes";
    if (bytes_equal(name, text_bytes(".")) || bytes_equal(name, text_bytes("..")))
        return "has a component '.' or '..'";
    strip_ignorable(stripped, name);
    if (is_git_name(stripped))
        return "has a name that git keeps for itself";
    return NULL;
}

static const char *path_fault(struct bytes path)
{
    const uint8_t *at = path.data, *end = path.data + path.len;
    size_t folders = 0;

    if (path.len > LIMIT_PATH)
        return "has more than 4096 bytes";
    if (!text_is_plain(path))
        return "is not UTF-8 without control characters";
    if (memchr(at, '\\', path.len))
        return "has a backslash";
    for (;;) {
        const uint8_t *slash = memchr(at, '/', (size_t)(end - at));
        const char *why = component_fault((struct bytes){at, (size_t)((slash ? slash : end) - at)});
        if (why || !slash)
            return why;
        if (++folders > LIMIT_PATH_DEPTH)
            return "is more than 64 folders deep";
        at = slash + 1;
    }
}

int path_check(const char *path)
{
    struct bytes bytes = text_bytes(path);
    const char *why = path_fault(bytes);
    char quoted[TEXT_QUOTE_SIZE];

    if (!why)
        return 0;
    text_quote(quoted, bytes);
    return error_set(E_INVALID, "path '%s' %s", quoted, why);
}

/* git's own bounds on what it parses as attributes (attr.h). */
#define ATTRIBUTES_LINE_MAX  2047
#define ATTRIBUTES_BYTES_MAX (100 * MIB)

static bool has_long_line(struct bytes data, size_t max)
{
    const uint8_t *at = data.data, *end = data.data + data.len;

    while ((size_t)(end - at) > max) {
        const uint8_t *newline = memchr(at, '\n', max + 1);
        if (!newline)
            return true;
        at = newline + 1;
    }
    return false;
}

int content_check(const char *path, struct bytes data)
{
    char name[COMPONENT_MAX + 1];
    const char *slash = strrchr(path, '/');
    int err = path_check(path);

    if (err < 0)
        return err;
    strip_ignorable(name, text_bytes(slash ? slash + 1 : path));
    if (!is_dot_name(name, "gitattributes", "gi7d29"))
        return 0;
    if (data.len > ATTRIBUTES_BYTES_MAX)
        return error_set(E_INVALID, "'%s' is larger than git allows, 100 MiB", path);
    if (has_long_line(data, ATTRIBUTES_LINE_MAX))
        return error_set(
            E_INVALID, "'%s' has a line of more than 2047 bytes: git refuses it", path
        );
    return 0;
}
