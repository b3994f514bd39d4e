#include "apply/merge_config.h"

#include <stdlib.h>
#include <string.h>

#include "format/json_meaning.h"
#include "format/limits.h"
#include "format/peft.h"

/* One key of an object. */
struct member {
    char *key;
    struct bytes raw;   /* its value, as it stands in the file */
    struct buf meaning; /* empty: the key is not there */
};

struct members {
    struct member *items; /* in byte order of key */
    size_t count;
};

#define AUTO_MEMBERS(name) __attribute__((cleanup(members_release))) struct members name = {0}

static void members_release(struct members *members)
{
    for (size_t i = 0; i < members->count; i++) {
        free(members->items[i].key);
        buf_release(&members->items[i].meaning);
    }
    free(members->items);
}

static int member_compare(const void *a, const void *b)
{
    return strcmp(((const struct member *)a)->key, ((const struct member *)b)->key);
}

static int members_grow(struct members *members)
{
    if (members->count & (members->count - 1))
        return 0;
    size_t room = members->count ? members->count * 2 : 16;
    struct member *grown = realloc(members->items, room * sizeof(*grown));
    if (!grown)
        return error_set(E_NOMEM, "out of memory for %zu keys", room);
    members->items = grown;
    return 0;
}

/* The parser stands behind a key. */
static int member_add(struct members *members, struct json *json)
{
    enum json_event event;
    struct member *member;

    int err = members_grow(members);
    if (err < 0)
        return err;
    member = &members->items[members->count];
    *member = (struct member){0};
    if (strnlen((const char *)json->text.data, json->text.len) < json->text.len)
        return error_set(E_INVALID, "a key has a NUL in it");
    if (!(member->key = bytes_dup(json->text)))
        return error_wrap(E_NOMEM, "keys");
    members->count++;
    if ((err = json_next(&event, json)) < 0)
        return err;
    size_t begin = json->token;
    if ((err = json_skip(json, event)) < 0)
        return err;
    member->raw = (struct bytes){json->input.data + begin, json->at - begin};
    return json_meaning(&member->meaning, member->raw, peft_key_is_set(member->key));
}

static int members_read(struct members *out, struct bytes text)
{
    AUTO_JSON(json);
    enum json_event event;

    json_init(&json, text);
    int err = json_expect(&json, JSON_OBJECT_BEGIN);
    while (err == 0 && (err = json_next(&event, &json)) == 0 && event == JSON_KEY)
        err = member_add(out, &json);
    if (err == 0)
        err = json_expect(&json, JSON_END);
    if (err < 0)
        return error_wrap(err, "%s", PEFT_CONFIG);
    if (out->count)
        qsort(out->items, out->count, sizeof(*out->items), member_compare);
    return 0;
}

/* Sets */

/* The lines of a list's meaning, one for each element; false where it is no list of scalars. */
static bool is_flat_list(struct bytes meaning)
{
    for (size_t at = 0; at < meaning.len;) {
        struct bytes line = {meaning.data + at, meaning.len - at};
        line.len = (size_t)((const uint8_t *)memchr(line.data, '\n', line.len) - line.data) + 1;
        bool is_empty = line.len == 4 && memcmp(line.data, " []\n", 4) == 0;
        if (!is_empty && (line.len < 4 || memcmp(line.data, "[] ", 3) != 0))
            return false;
        at += line.len;
    }
    return meaning.len > 0;
}

/* The next line of a sorted list, and one step further; none at its end. */
static struct bytes line_at(const struct bytes *meaning, size_t at)
{
    struct bytes rest = {meaning->data + at, meaning->len - at};

    if (rest.len == 0)
        return rest;
    rest.len = (size_t)((const uint8_t *)memchr(rest.data, '\n', rest.len) - rest.data) + 1;
    return rest;
}

static int line_order(struct bytes a, struct bytes b)
{
    int order = memcmp(a.data, b.data, a.len < b.len ? a.len : b.len);

    return order ? order : (a.len > b.len) - (a.len < b.len);
}

/* An element is in the merge where ours and theirs have it, or one of them and not the base. */
static bool element_stays(bool in_base, bool in_ours, bool in_theirs)
{
    return in_ours && in_theirs ? true : in_base ? false : in_ours || in_theirs;
}

static int element_print(struct buf *out, struct bytes line, bool is_first)
{
    int err = is_first ? 0 : buf_append_byte(out, ',');

    if (err < 0 || (err = json_indent_line(out, 2)) < 0)
        return err;
    return buf_append(out, line.data + 3, line.len - 4); /* "[] VALUE\n" */
}

/* Append the merged list, laid out as a member of the whole file. */
static int sets_merge(struct buf *out, const struct bytes versions[3])
{
    size_t at[3] = {0}, count = 0;
    int err = buf_append_byte(out, '[');

    while (err == 0) {
        struct bytes first = {0};
        bool is_in[3] = {false};
        for (size_t i = 0; i < 3; i++) {
            struct bytes line = line_at(&versions[i], at[i]);
            if (line.len && (!first.len || line_order(line, first) < 0))
                first = line;
        }
        if (!first.len)
            break;
        for (size_t i = 0; i < 3; i++) {
            struct bytes line = line_at(&versions[i], at[i]);
            is_in[i] = line.len && line_order(line, first) == 0;
            at[i] += is_in[i] ? line.len : 0;
        }
        bool is_empty = first.data[0] == ' '; /* of a list without elements */
        if (!is_empty && element_stays(is_in[0], is_in[1], is_in[2]))
            err = element_print(out, first, count++ == 0);
    }
    if (err == 0 && count)
        err = json_indent_line(out, 1);
    return err < 0 ? err : buf_append_byte(out, ']');
}

/* Keys */

/* One key in the three versions, NULL where it is not there. */
struct trio {
    const char *key;
    const struct member *base, *ours, *theirs;
};

static struct content member_content(const struct member *member)
{
    return (struct content
    ){member != NULL, member ? buf_bytes(&member->meaning) : (struct bytes){0}};
}

/* What the merge has for one key, and what is left of each side's claim to its bytes. */
struct merging {
    struct buf text;
    size_t count; /* keys in `text` */
    bool is_ours, is_theirs;
    enum three_way_prefer prefer;
    struct conflicts *conflicts;
};

static int key_print(struct merging *merging, const char *key)
{
    struct json_writer writer;
    int err = merging->count++ ? buf_append_byte(&merging->text, ',') : 0;

    if (err < 0 || (err = json_indent_line(&merging->text, 1)) < 0)
        return err;
    json_write_init(&writer, &merging->text);
    json_write_text(&writer, key);
    if ((err = json_write_end(&writer)) < 0)
        return err;
    return buf_append_text(&merging->text, ": ");
}

/* The same meaning, written in two ways: the first in byte order. */
static struct bytes raw_choose(const struct member *a, const struct member *b)
{
    return line_order(a->raw, b->raw) <= 0 ? a->raw : b->raw;
}

static int trio_take(struct merging *merging, const struct trio *trio, enum three_way way)
{
    const struct member *taken = way == WAY_THEIRS ? trio->theirs : trio->ours;
    bool equal = way == WAY_BASE || way == WAY_BOTH;

    merging->is_ours &= equal || way == WAY_OURS;
    merging->is_theirs &= equal || way == WAY_THEIRS;
    if (!taken)
        return 0;
    struct bytes raw = equal ? raw_choose(trio->ours, trio->theirs) : taken->raw;
    int err = key_print(merging, trio->key);
    return err < 0 ? err : json_indent(&merging->text, raw, 1);
}

static int trio_conflict(struct merging *merging, const struct trio *trio)
{
    AUTO_BUF(name);

    int err = buf_printf(&name, "%s: %s", PEFT_CONFIG, trio->key);
    if (err < 0)
        return err;
    return conflicts_add(
        merging->conflicts, (const char *)name.data,
        !trio->ours     ? "we removed it, they changed it"
        : !trio->theirs ? "we changed it, they removed it"
                        : "both changed it, to different values"
    );
}

static bool trio_is_sets(const struct trio *trio)
{
    return peft_key_is_set(trio->key) && trio->base && trio->ours && trio->theirs &&
           is_flat_list(buf_bytes(&trio->base->meaning)) &&
           is_flat_list(buf_bytes(&trio->ours->meaning)) &&
           is_flat_list(buf_bytes(&trio->theirs->meaning));
}

static int trio_sets(struct merging *merging, const struct trio *trio)
{
    const struct bytes versions[] = {
        buf_bytes(&trio->base->meaning), buf_bytes(&trio->ours->meaning),
        buf_bytes(&trio->theirs->meaning)};
    AUTO_BUF(list);
    AUTO_BUF(meaning);
    int err;

    if ((err = sets_merge(&list, versions)) < 0 ||
        (err = json_meaning(&meaning, buf_bytes(&list), true)) < 0)
        return err;
    merging->is_ours &= bytes_equal(buf_bytes(&meaning), versions[1]);
    merging->is_theirs &= bytes_equal(buf_bytes(&meaning), versions[2]);
    if ((err = key_print(merging, trio->key)) < 0)
        return err;
    return buf_append(&merging->text, list.data, list.len);
}

static int trio_merge(struct merging *merging, const struct trio *trio)
{
    struct content base = member_content(trio->base), ours = member_content(trio->ours);
    struct content theirs = member_content(trio->theirs);

    enum three_way way = three_way_contents(&base, &ours, &theirs);
    if (way == WAY_CONFLICT && trio_is_sets(trio))
        return trio_sets(merging, trio);
    way = three_way_settle(way, merging->prefer);
    return way == WAY_CONFLICT ? trio_conflict(merging, trio) : trio_take(merging, trio, way);
}

static const char *key_first(const char *key, const struct members *members, size_t at)
{
    if (at == members->count)
        return key;
    const char *other = members->items[at].key;
    return !key || strcmp(other, key) < 0 ? other : key;
}

static const struct member *member_take(const struct members *members, size_t *at, const char *key)
{
    if (*at == members->count || strcmp(members->items[*at].key, key) != 0)
        return NULL;
    return &members->items[(*at)++];
}

static int members_merge(struct merging *merging, const struct members versions[3])
{
    size_t at[3] = {0};
    int err = buf_append_byte(&merging->text, '{');

    while (err == 0) {
        struct trio trio = {0};
        for (size_t i = 0; i < 3; i++)
            trio.key = key_first(trio.key, &versions[i], at[i]);
        if (!trio.key)
            break;
        trio.base = member_take(&versions[0], &at[0], trio.key);
        trio.ours = member_take(&versions[1], &at[1], trio.key);
        trio.theirs = member_take(&versions[2], &at[2], trio.key);
        err = trio_merge(merging, &trio);
    }
    if (err == 0 && merging->count)
        err = json_indent_line(&merging->text, 0);
    return err < 0 ? err : buf_append_byte(&merging->text, '}');
}

static struct bytes
bytes_choose(const struct merging *merging, struct bytes ours, struct bytes theirs)
{
    if (merging->is_ours && merging->is_theirs)
        return line_order(ours, theirs) <= 0 ? ours : theirs;
    if (merging->is_ours)
        return ours;
    return merging->is_theirs ? theirs : buf_bytes(&merging->text);
}

static int
keys_merge(struct merging *merging, struct bytes base, struct bytes ours, struct bytes theirs)
{
    struct members versions[3] = {{0}};
    const struct bytes texts[] = {base, ours, theirs};
    int err = 0;

    for (size_t i = 0; err == 0 && i < 3; i++)
        err = members_read(&versions[i], texts[i]);
    if (err == 0)
        err = members_merge(merging, versions);
    for (size_t i = 0; i < 3; i++)
        members_release(&versions[i]);
    return err;
}

int merge_config(
    struct buf *out,
    struct conflicts *conflicts,
    struct bytes base,
    struct bytes ours,
    struct bytes theirs,
    enum three_way_prefer prefer
)
{
    struct merging merging = {
        .is_ours = true, .is_theirs = true, .prefer = prefer, .conflicts = conflicts};
    const size_t before = conflicts->count;
    struct bytes taken = ours;
    int err = 0;

    enum three_way way = three_way(
        bytes_equal(ours, base), bytes_equal(theirs, base), bytes_equal(ours, theirs)
    );
    if (way == WAY_THEIRS)
        taken = theirs;
    if (way == WAY_CONFLICT && (err = keys_merge(&merging, base, ours, theirs)) == 0)
        taken = bytes_choose(&merging, ours, theirs);
    if (err == 0 && conflicts->count == before)
        err = buf_append(out, taken.data, taken.len);
    buf_release(&merging.text);
    return err;
}
