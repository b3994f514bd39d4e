/*
 * A ref is a file below refs/ (40 hex digits and a newline, or "ref: " and another's name), or a
 * line of packed-refs ("<40 hex> <name>"; "#" begins a comment, "^" what the tag before leads to).
 * The file goes before the line. Whoever packs refs writes packed-refs first and removes the files
 * then, so files are read first here: at no moment a ref is missed.
 */
#include "store/ref_list.h"

#include <stdlib.h>
#include <string.h>

#include "format/file.h"
#include "format/limits.h"
#include "store/id_set.h"

#define PACKED_REFS    "packed-refs"
#define REF_BYTES_MAX  4096 /* of a ref's file */
#define SYMBOLIC_BEGIN "ref:"

void ref_list_release(struct ref_list *list)
{
    for (size_t i = 0; i < list->count; i++)
        free(list->refs[i].name);
    free(list->refs);
    *list = (struct ref_list){0};
}

struct reading {
    struct store *store;
    const char *prefix;
    struct ref_list *list;
};

static bool name_is_valid(const char *name)
{
    int valid = 0;

    return git_reference_name_is_valid(&valid, name) == 0 && valid;
}

static int entry_add(struct ref_list *list, struct bytes name, const struct ref_entry *entry)
{
    AUTO_FREE(char, copy);
    int err = array_grow(&list->refs, &list->capacity, list->count + 1, sizeof(*list->refs));

    if (err < 0)
        return err;
    if (!(copy = bytes_dup(name)))
        return error_wrap(E_NOMEM, "refs");
    if (!name_is_valid(copy))
        return 0;
    list->refs[list->count] = *entry;
    list->refs[list->count++].name = copy;
    copy = NULL;
    return 0;
}

/* Files */

static bool id_parse(git_oid *out, struct bytes text)
{
    return text.len >= GIT_OID_HEXSZ &&
           git_oid_fromstrn(out, (const char *)text.data, GIT_OID_HEXSZ) == 0;
}

static bool contents_parse(struct ref_entry *out, struct bytes text)
{
    const size_t begin = strlen(SYMBOLIC_BEGIN);

    if (text.len > begin && memcmp(text.data, SYMBOLIC_BEGIN, begin) == 0) {
        out->is_symbolic = true;
        return true;
    }
    return id_parse(&out->target, text) &&
           (text.len == GIT_OID_HEXSZ || strchr(" \t\v\f\r\n", text.data[GIT_OID_HEXSZ]));
}

static int file_visit(void *context, const struct tree_file *file)
{
    struct reading *reading = context;
    struct ref_entry entry = {0};
    AUTO_BUF(path);
    AUTO_BUF(text);
    int err;

    if (file->is_directory)
        return 0;
    err = buf_printf(&path, "%s/%s%s", reading->store->path, reading->prefix, file->path);
    if (err < 0)
        return err;
    err = file_read(&text, (const char *)path.data, REF_BYTES_MAX);
    if (err == E_NOTFOUND || err == E_INVALID || err == E_LIMIT)
        return 0; /* it went, or was packed, meanwhile; or is nothing that git reads */
    if (err < 0 || !contents_parse(&entry, buf_bytes(&text)))
        return err;
    return entry_add(
        reading->list, text_bytes((const char *)path.data + strlen(reading->store->path) + 1),
        &entry
    );
}

static int files_read(struct reading *reading)
{
    AUTO_FREE(char, path);

    int err = path_join(&path, reading->store->path, reading->prefix);
    if (err < 0)
        return err;
    err = tree_each(path, file_visit, reading);
    return err == E_NOTFOUND ? 0 : err;
}

/* packed-refs */

static int line_read(struct reading *reading, struct bytes line, size_t number)
{
    struct ref_entry entry = {.is_packed = true};
    size_t prefix_len = strlen(reading->prefix);

    if (line.len && (line.data[0] == '#' || line.data[0] == '^'))
        return 0;
    if (!id_parse(&entry.target, line) || line.len < GIT_OID_HEXSZ + 2 ||
        line.data[GIT_OID_HEXSZ] != ' ')
        return error_set(E_CORRUPT, PACKED_REFS ": line %zu is no ref", number);
    struct bytes name = {line.data + GIT_OID_HEXSZ + 1, line.len - GIT_OID_HEXSZ - 1};
    if (name.data[name.len - 1] == '\r')
        name.len--;
    if (name.len <= prefix_len || memcmp(name.data, reading->prefix, prefix_len) != 0)
        return 0;
    return entry_add(reading->list, name, &entry);
}

static int packed_read(struct reading *reading)
{
    AUTO_FREE(char, path);
    AUTO_BUF(text);
    struct bytes rest, line;

    int err = path_join(&path, reading->store->path, PACKED_REFS);
    if (err < 0)
        return err;
    err = file_read(&text, path, LIMIT_TEXT);
    if (err < 0)
        return err == E_NOTFOUND ? 0 : err;
    rest = buf_bytes(&text);
    for (size_t number = 1; err == 0 && rest.len; number++) {
        const uint8_t *end = memchr(rest.data, '\n', rest.len);
        if (!end)
            return error_set(E_CORRUPT, PACKED_REFS ": line %zu has no end", number);
        line = (struct bytes){rest.data, (size_t)(end - rest.data)};
        rest = (struct bytes){end + 1, rest.len - line.len - 1};
        err = line_read(reading, line, number);
    }
    return err;
}

/* Both */

static int entry_compare(const void *left, const void *right)
{
    const struct ref_entry *a = left, *b = right;
    int order = strcmp(a->name, b->name);

    return order ? order : a->is_packed - b->is_packed;
}

static void list_sort(struct ref_list *list)
{
    size_t count = 0;

    if (list->count)
        qsort(list->refs, list->count, sizeof(*list->refs), entry_compare);
    for (size_t i = 0; i < list->count; i++) {
        if (count && strcmp(list->refs[i].name, list->refs[count - 1].name) == 0)
            free(list->refs[i].name);
        else
            list->refs[count++] = list->refs[i];
    }
    list->count = count;
}

int ref_list_read(struct ref_list *out, struct store *store, const char *prefix)
{
    AUTO_REF_LIST(list);
    struct reading reading = {store, prefix, &list};
    int err;

    if ((err = files_read(&reading)) < 0 || (err = packed_read(&reading)) < 0)
        return err;
    list_sort(&list);
    *out = list;
    list = (struct ref_list){0};
    return 0;
}
