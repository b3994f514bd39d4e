#include "store/target.h"

#include <stdlib.h>
#include <string.h>

#include "format/nearest.h"
#include "format/text.h"
#include "store/refs.h"

#define COMPONENT_MAX 250 /* a file's name has 255 bytes, and git adds ".lock" */
#define LENGTH_MAX    900 /* libgit2 takes refs of 1,023, and the trash puts 40 before a name */

/* Names */

static bool name_fits(const char *name)
{
    size_t length = strlen(name);

    for (size_t at = 0, part; at < length; at += part + 1) {
        part = strcspn(name + at, "/");
        if (part > COMPONENT_MAX)
            return false;
    }
    return length <= LENGTH_MAX;
}

/* A whole id would go before it, '@' is HEAD. */
static bool name_is_taken(const char *name)
{
    return strcmp(name, "HEAD") == 0 || strcmp(name, "@") == 0 ||
           (strlen(name) == GIT_OID_HEXSZ && name[strspn(name, "0123456789abcdefABCDEF")] == '\0');
}

static int name_check(const char *what, const char *name, int (*is_valid)(int *, const char *))
{
    int valid = 0;

    if (is_valid(&valid, name) < 0 || !valid || name_is_taken(name) || !name_fits(name) ||
        !text_is_plain(text_bytes(name))) {
        int err = error_set(E_INVALID, "'%s' cannot be a %s's name", name, what);
        return error_hint(err, "letters, digits, '-', '_', '.' and '/' between parts will do");
    }
    return 0;
}

int branch_name_check(const char *name)
{
    return name_check("branch", name, git_branch_name_is_valid);
}

void target_release(struct target *target)
{
    free(target->ref);
}

static int target_init(struct target *out, struct store *store, const char *what, const char *name)
{
    AUTO_BUF(ref);

    int err = buf_printf(&ref, "%s%s", strcmp(what, "tag") == 0 ? REF_TAGS : REF_HEADS, name);
    if (err < 0)
        return err;
    out->what = what;
    out->name = name;
    out->ref = (char *)buf_take(&ref).data;
    return ref_read(&out->found, &out->at, store, out->ref);
}

int target_new(struct target *out, struct store *store, const char *what, const char *name)
{
    bool is_tag = strcmp(what, "tag") == 0;

    int err = is_tag ? name_check(what, name, git_tag_name_is_valid) : branch_name_check(name);
    if (err < 0 || (err = target_init(out, store, what, name)) < 0 || !out->found)
        return err;
    return error_set(E_EXISTS, "%s '%s' exists", what, name);
}

static int not_there(struct store *store, const char *what, const char *name)
{
    AUTO_REFS(refs);
    struct nearest nearest;

    int err = store_refs(&refs, store, strcmp(what, "tag") == 0 ? REF_TAG : REF_BRANCH);
    if (err < 0)
        return err;
    nearest_init(&nearest, name);
    for (size_t i = 0; i < refs.count; i++)
        nearest_offer(&nearest, refs.refs[i].name);
    err = error_set(E_NOTFOUND, "no %s '%s'", what, name);
    return nearest.name ? error_hint(err, "did you mean '%s'?", nearest.name) : err;
}

int target_find(struct target *out, struct store *store, const char *what, const char *name)
{
    int err = target_init(out, store, what, name);

    return err < 0 || out->found ? err : not_there(store, what, name);
}

/* Moves */

int target_create(
    const struct target *target, struct store *store, const git_oid *at, const char *why
)
{
    const struct ref_change change = {.name = target->ref, .has_new = true, .new = *at};

    return refs_move(store, &change, 1, why);
}

int target_leave(
    const struct target *target, struct store *store, const struct commit_id *to, const char *why
)
{
    AUTO_FREE(char, trash);

    int err = trash_name(&trash, store, target->name);
    if (err < 0)
        return err;
    struct ref_change changes[] = {
        {.name = trash, .has_new = true, .new = target->at},
        {.name = target->ref, .has_old = true, .old = target->at, .has_new = to != NULL},
    };
    if (to)
        changes[1].new = git_id(to);
    return refs_move(store, changes, 2, why);
}
