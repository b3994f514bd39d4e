#include "store/entries.h"

#include <stdlib.h>
#include <string.h>

#include "format/text.h"

int entry_error(const git_oid *tree, const char *name, const char *why)
{
    char quoted[TEXT_QUOTE_SIZE];

    text_quote(quoted, text_bytes(name));
    return error_set(E_CORRUPT, "tree %s: '%s' %s", git_oid_tostr_s(tree), quoted, why);
}

static int
entry_take(struct entry *entries, size_t count, const git_oid *tree, const git_tree_entry *found)
{
    const char *name = git_tree_entry_name(found);
    int mode = (int)git_tree_entry_filemode_raw(found);

    for (size_t i = 0; i < count; i++) {
        struct entry *entry = &entries[i];
        if (strcmp(entry->name, name) != 0)
            continue;
        if (entry->found)
            return entry_error(tree, name, "is there twice");
        if (mode != (entry->is_tree ? GIT_FILEMODE_TREE : GIT_FILEMODE_BLOB))
            return entry_error(tree, name, "has a mode that it cannot have");
        entry->found = true;
        entry->id = *git_tree_entry_id(found);
        return 0;
    }
    return entry_error(tree, name, "does not belong there");
}

int entries_read(struct entry *entries, size_t count, struct store *store, const git_oid *id)
{
    AUTO_GIT(git_tree, tree);

    int err = tree_read(&tree, store, id);
    for (size_t i = 0; err == 0 && i < git_tree_entrycount(tree); i++)
        err = entry_take(entries, count, id, git_tree_entry_byindex(tree, i));
    for (size_t i = 0; err == 0 && i < count; i++) {
        if (entries[i].required && !entries[i].found)
            err = entry_error(id, entries[i].name, "is missing");
    }
    return err;
}

int entry_read(struct buf *out, struct store *store, const struct entry *entry, uint64_t limit)
{
    return object_read(out, store, &entry->id, GIT_OBJECT_BLOB, limit, entry->name);
}

/* git's order: a tree's name counts as if it ended in a slash. */
static int entry_compare(const void *left, const void *right)
{
    const struct tree_entry *a = left, *b = right;
    size_t len_a = strlen(a->name), len_b = strlen(b->name), len = len_a < len_b ? len_a : len_b;
    int order = memcmp(a->name, b->name, len);
    int end_a = len_a > len ? (uint8_t)a->name[len] : a->is_tree ? '/' : 0;
    int end_b = len_b > len ? (uint8_t)b->name[len] : b->is_tree ? '/' : 0;

    return order ? order : end_a - end_b;
}

int tree_write(
    git_oid *out,
    struct objects *objects,
    struct store *store,
    struct tree_entry *entries,
    size_t count
)
{
    AUTO_BUF(text);
    int err = 0;

    qsort(entries, count, sizeof(*entries), entry_compare);
    for (size_t i = 0; err == 0 && i < count; i++) {
        const char *mode = entries[i].is_tree ? "40000" : "100644";
        if ((err = buf_printf(&text, "%s %s", mode, entries[i].name)) == 0 &&
            (err = buf_append_byte(&text, 0)) == 0)
            err = buf_append(&text, entries[i].id.id, sizeof(entries[i].id.id));
    }
    return err < 0 ? err : object_write(out, objects, store, GIT_OBJECT_TREE, buf_bytes(&text));
}
