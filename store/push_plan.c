/* What a push will do with each ref. See push_plan.h. */
#include "store/push_plan.h"

#include <stdlib.h>
#include <string.h>

#include "store/refs.h"

int push_why(struct push_ref *ref, const char *why)
{
    free(ref->why);
    ref->status = PUSH_REFUSED;
    ref->why = bytes_dup(text_bytes(why));
    return ref->why ? 0 : error_wrap(E_NOMEM, "push");
}

int push_ours(struct store *store, struct push_ref *refs, size_t count)
{
    int err = 0;

    for (size_t i = 0; err == 0 && i < count; i++) {
        struct push_ref *ref = &refs[i];
        bool found = false;
        ref->has_new = !ref->is_deletion;
        if (ref->is_deletion)
            continue;
        if ((err = ref_read(&found, &ref->new, store, ref->name)) == 0 && !found)
            return error_set(E_NOTFOUND, "there is no %s here", ref->name);
    }
    return err;
}

/* Does ours contain theirs? Not where theirs is something that we have never seen. */
static int contains(bool *out, struct ancestry *ancestry, const struct push_ref *ref)
{
    const struct commit_id ours = commit_id_of(&ref->new), theirs = commit_id_of(&ref->old);

    *out = false;
    if (!git_odb_exists(ancestry->store->odb, &ref->old))
        return 0;
    return ancestry_reaches(out, ancestry, &ours, 1, &theirs);
}

static int ref_judge(struct push_ref *ref, struct ancestry *ancestry)
{
    bool is_branch = strncmp(ref->name, REF_HEADS, strlen(REF_HEADS)) == 0, newer = false;

    if (ref->is_deletion && !ref->has_old)
        return push_why(ref, "it is not there");
    if (ref->is_deletion) {
        ref->status = PUSH_DELETED;
        return 0;
    }
    if (!ref->has_old) {
        ref->status = PUSH_CREATED;
        return 0;
    }
    if (git_oid_equal(&ref->old, &ref->new)) {
        ref->status = PUSH_UP_TO_DATE;
        return 0;
    }
    int err = is_branch ? contains(&newer, ancestry, ref) : 0;
    if (err < 0)
        return err;
    ref->status = newer ? PUSH_MOVED : PUSH_FORCED;
    if (newer || ref->force)
        return 0;
    return push_why(
        ref, is_branch ? "it has versions that are not here: pull first"
                       : "it is there already, and is another one"
    );
}

int push_judge(size_t *refused, struct store *store, struct push_ref *refs, size_t count)
{
    AUTO_ANCESTRY(ancestry);

    int err = ancestry_init(&ancestry, store);
    for (size_t i = 0; err == 0 && i < count; i++) {
        err = ref_judge(&refs[i], &ancestry);
        *refused += refs[i].status == PUSH_REFUSED;
    }
    return err;
}

static const char *short_name(const char *ref)
{
    if (strncmp(ref, REF_HEADS, strlen(REF_HEADS)) == 0)
        return ref + strlen(REF_HEADS);
    return strncmp(ref, REF_TAGS, strlen(REF_TAGS)) == 0 ? ref + strlen(REF_TAGS) : ref;
}

int push_refused(const char *url, const struct push_ref *refs, size_t count)
{
    int err = error_set(E_CONFLICT, "%s: the push was refused", url);

    for (size_t i = 0; i < count; i++) {
        if (refs[i].status == PUSH_REFUSED)
            err = error_detail(err, "%s: %s", short_name(refs[i].name), refs[i].why);
    }
    return error_hint(err, "vera pull takes over what is there; --force replaces it");
}
