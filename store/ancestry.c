#include "store/ancestry.h"

#include <stdlib.h>

#include "format/file.h"
#include "format/limits.h"

void ancestry_release(struct ancestry *ancestry)
{
    id_set_release(&ancestry->ids);
    id_set_release(&ancestry->shallow);
    free(ancestry->commits);
    free(ancestry->parents);
    *ancestry = (struct ancestry){0};
}

/* Lines of 40 hex digits. */
static int shallow_decode(struct id_set *out, struct bytes text)
{
    const size_t line = GIT_OID_HEXSZ + 1;
    git_oid id;
    size_t index;
    int err = 0;

    for (size_t at = 0; err == 0 && at < text.len; at += line) {
        if (text.len - at < line || text.data[at + GIT_OID_HEXSZ] != '\n' ||
            git_oid_fromstrn(&id, (const char *)text.data + at, GIT_OID_HEXSZ) < 0)
            return error_set(E_CORRUPT, "shallow: line %zu is no commit id", at / line + 1);
        err = id_set_add(&index, NULL, out, &id);
    }
    return err;
}

int shallow_read(struct id_set *out, struct store *store)
{
    AUTO_FREE(char, path);
    AUTO_BUF(text);

    int err = path_join(&path, store_path(store), "shallow");
    if (err < 0)
        return err;
    err = file_read(&text, path, LIMIT_TEXT);
    if (err == E_NOTFOUND)
        return 0;
    return err < 0 ? err : shallow_decode(out, buf_bytes(&text));
}

int shallow_refuse(struct store *store)
{
    AUTO_ID_SET(shallow);

    int err = shallow_read(&shallow, store);
    if (err < 0 || !shallow.count)
        return err;
    err = error_set(E_UNSUPPORTED, "%s: a shallow clone, whose history is elsewhere", store->path);
    return error_hint(err, "git --git-dir=%s fetch --unshallow", store->path);
}

int ancestry_init(struct ancestry *out, struct store *store)
{
    AUTO_ANCESTRY(ancestry);

    ancestry.store = store;
    int err = shallow_read(&ancestry.shallow, store);
    if (err < 0)
        return err;
    *out = ancestry;
    ancestry = (struct ancestry){0};
    return 0;
}

static int commit_take(struct ancestry *ancestry, size_t index, const git_commit *commit)
{
    struct ancestor *ancestor = &ancestry->commits[index];
    size_t ignored, count = git_commit_parentcount(commit);

    ancestor->is_cut = id_set_find(&ignored, &ancestry->shallow, &ancestry->ids.ids[index]);
    if (ancestor->is_cut)
        count = 0;
    int err = array_grow(
        &ancestry->parents, &ancestry->parent_capacity, ancestry->parent_count + count,
        sizeof(*ancestry->parents)
    );
    if (err < 0)
        return err;
    ancestor->parents_begin = ancestry->parent_count;
    for (size_t i = 0; i < count; i++)
        ancestry->parents[ancestry->parent_count++] = *git_commit_parent_id(commit, (unsigned)i);
    ancestor->parents_end = ancestry->parent_count;
    ancestor->tree = *git_commit_tree_id(commit);
    ancestor->time = git_commit_time(commit);
    ancestor->is_read = true;
    return 0;
}

int ancestry_read(size_t *out_index, struct ancestry *ancestry, const git_oid *id)
{
    AUTO_GIT(git_commit, commit);
    size_t index;

    int err = id_set_add(&index, NULL, &ancestry->ids, id);
    if (err < 0)
        return err;
    err = array_grow(
        &ancestry->commits, &ancestry->commit_capacity, ancestry->ids.count,
        sizeof(*ancestry->commits)
    );
    if (err < 0)
        return err;
    if (!ancestry->commits[index].is_read && (err = commit_read(&commit, ancestry->store, id)) == 0)
        err = commit_take(ancestry, index, commit);
    if (err == 0)
        *out_index = index;
    return err;
}

int ancestry_reaches(
    bool *out,
    struct ancestry *ancestry,
    const struct commit_id *tips,
    size_t tip_count,
    const struct commit_id *old
)
{
    AUTO_ID_SET(seen);
    const git_oid wanted = git_id(old);
    size_t index;
    int err = 0;

    for (size_t i = 0; err == 0 && i < tip_count; i++) {
        git_oid tip = git_id(&tips[i]);
        err = id_set_add(&index, NULL, &seen, &tip);
    }
    for (size_t next = 0; err == 0 && next < seen.count; next++) {
        if (git_oid_equal(&seen.ids[next], &wanted)) {
            *out = true;
            return 0;
        }
        if ((err = interrupt_check()) < 0 ||
            (err = ancestry_read(&index, ancestry, &seen.ids[next])) < 0)
            return err;
        const struct ancestor *commit = &ancestry->commits[index];
        for (size_t p = commit->parents_begin; err == 0 && p < commit->parents_end; p++)
            err = id_set_add(&index, NULL, &seen, &ancestry->parents[p]);
    }
    if (err == 0)
        *out = false;
    return err;
}
