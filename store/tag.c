/* Tags: a ref to a commit, or, with a message, to a tag object that names the commit. */
#include "store/refs.h"
#include "store/target.h"

static int tag_encode(
    struct buf *out,
    struct store *store,
    const char *name,
    const struct commit_id *at,
    const char *message
)
{
    AUTO_GIT(git_signature, who);
    char hex[COMMIT_HEX_SIZE];

    int err = signature_now(&who, store);
    if (err < 0)
        return err;
    commit_hex(hex, at);
    int offset = who->when.offset, minutes = offset < 0 ? -offset : offset;
    return buf_printf(
        out, "object %s\ntype commit\ntag %s\ntagger %s <%s> %lld %c%02d%02d\n\n%s\n", hex, name,
        who->name, who->email, (long long)who->when.time, offset < 0 ? '-' : '+', minutes / 60,
        minutes % 60, message
    );
}

/* *out: the tag object, or the commit where there is no message. */
static int tag_target(
    git_oid *out,
    struct store *store,
    const char *name,
    const struct commit_id *at,
    const char *message
)
{
    AUTO_OBJECTS(objects);
    AUTO_BUF(tag);
    AUTO_GIT(git_commit, commit);
    git_oid id = git_id(at);

    int err = commit_read(&commit, store, &id);
    if (err == 0 && message) {
        if ((err = tag_encode(&tag, store, name, at, message)) < 0 ||
            (err = object_write(&id, &objects, store, GIT_OBJECT_TAG, buf_bytes(&tag))) < 0)
            return err;
        err = objects_sync(&objects, store);
    }
    if (err == 0)
        *out = id;
    return err;
}

int store_tag_create(
    struct store *store, const char *name, const struct commit_id *at, const char *message
)
{
    AUTO_LOCK(lock);
    AUTO_TARGET(target);
    git_oid id;
    int err;

    if ((err = lock_write(&lock, store)) < 0 ||
        (err = target_new(&target, store, "tag", name)) < 0 ||
        (err = tag_target(&id, store, name, at, message)) < 0)
        return err;
    return target_create(&target, store, &id, "tag: created");
}

int store_tag_delete(struct commit_id *was, struct store *store, const char *name)
{
    AUTO_LOCK(lock);
    AUTO_TARGET(target);
    git_oid commit;
    int err;

    if ((err = lock_write(&lock, store)) < 0 ||
        (err = target_find(&target, store, "tag", name)) < 0)
        return err;
    /* What cannot be read can be deleted; the trash keeps the ref as it was. */
    if ((err = commit_peel(&commit, store, &target.at)) == E_CORRUPT || err == E_INVALID)
        commit = target.at;
    else if (err < 0)
        return err;
    if ((err = target_leave(&target, store, NULL, "tag: deleted")) == 0)
        *was = commit_id_of(&commit);
    return err;
}
