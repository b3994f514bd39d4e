/* A directory that several processes make together. See partdir.h. */
#define _GNU_SOURCE
#include "format/partdir.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "format/text.h"

#define TRIES           100 /* each time another process was faster */
#define TARGET_NAME_MAX 200 /* of the target: its staging directory's name is longer */

#define PLAN      "plan"
#define INODE     "inode"
#define TREE      "tree"
#define PART      "part-"
#define FINISHING "finishing-"

void partdir_release(struct partdir *dir)
{
    outdir_release(&dir->place);
    free(dir->staging);
    fd_release(&dir->fd);
    fd_release(&dir->tree);
    *dir = (struct partdir)PARTDIR_EMPTY;
}

/* Finding */

static int staging_name(char **out, const char *target)
{
    AUTO_FREE(char, parent);
    AUTO_BUF(name);
    int err;

    if ((err = path_parent(&parent, target)) < 0 ||
        (err = buf_printf(&name, ".%s.vera-parts", path_name(target))) < 0)
        return err;
    return path_join(out, parent, (const char *)name.data);
}

static int place_check(const struct partdir *dir)
{
    int err = 0;

    if (dir->place.in_place)
        err = error_set(
            E_INVALID, "%s: the current directory or a mount point cannot be written in parts",
            dir->place.target
        );
    else if (strlen(path_name(dir->place.target)) > TARGET_NAME_MAX)
        err = error_set(
            E_INVALID, "%s: the name is too long to be written in parts", dir->place.target
        );
    return err < 0 ? error_hint(err, "give a new directory of another name") : 0;
}

/* *out -1 where there is none. */
static int folder_open(int *out, int at, const char *name, const char *path)
{
    int fd = openat(at, name, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);

    if (fd < 0 && errno != ENOENT)
        return file_error(path);
    fd_release(out);
    *out = fd;
    return 0;
}

static int
file_read_below(struct buf *out, const struct partdir *dir, const char *name, uint64_t limit)
{
    AUTO_FREE(char, path);
    AUTO_FD(fd);

    int err = path_join(&path, dir->staging, name);
    if (err < 0)
        return err;
    fd = openat(dir->fd, name, O_RDONLY | O_NOFOLLOW | O_NONBLOCK | O_CLOEXEC);
    return fd < 0 ? file_error(path) : fd_read_all(out, fd, limit, path);
}

static int inode_read(uint64_t *out, const struct partdir *dir)
{
    AUTO_BUF(text);

    int err = file_read_below(&text, dir, INODE, 32);
    if (err == 0 && !text_parse_uint64(out, buf_bytes(&text)))
        err = error_set(E_CORRUPT, "%s: what it says of the tree is damaged", dir->staging);
    return err;
}

/* What is at the target. Opened, not only looked up: NFS asks the server then. */
static bool target_status(struct stat *out, const struct partdir *dir)
{
    AUTO_FD(fd);

    fd = open(dir->place.target, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    return fd >= 0 && fstat(fd, out) == 0;
}

/* Was the tree given its name, by one who then died? */
static int is_left_over(bool *out, const struct partdir *dir)
{
    uint64_t inode = 0;
    struct stat there;

    int err = inode_read(&inode, dir);
    *out = err == 0 && target_status(&there, dir) && there.st_ino == inode;
    return err == E_NOTFOUND ? 0 : err;
}

/* Under another name first: who comes now begins anew, and does not meet half of it. */
int partdir_clear(const struct partdir *dir)
{
    AUTO_FREE(char, parent);
    AUTO_FREE(char, away);
    int err;

    if ((err = path_parent(&parent, dir->staging)) < 0 ||
        (err = path_temporary(&away, parent, path_name(dir->place.target))) < 0)
        return err;
    if (rename(dir->staging, away) != 0)
        return errno == ENOENT ? 0 : file_error(dir->staging);
    err = tree_remove(away);
    for (int i = 0; err == E_IO && i < TRIES; i++)
        err = tree_remove(away); /* one that came too late has put its record there */
    return err;
}

/* A directory without a plan is not begun: somebody is clearing it away. */
static int staging_open(struct partdir *dir)
{
    struct stat status;
    bool left_over = false;
    int err;

    if ((err = folder_open(&dir->fd, AT_FDCWD, dir->staging, dir->staging)) < 0 || dir->fd < 0)
        return err;
    if (fstatat(dir->fd, PLAN, &status, AT_SYMLINK_NOFOLLOW) != 0) {
        fd_release(&dir->fd);
        return 0;
    }
    if ((err = folder_open(&dir->tree, dir->fd, TREE, dir->staging)) < 0 || dir->tree >= 0 ||
        (err = is_left_over(&left_over, dir)) < 0 || !left_over)
        return err;
    fd_release(&dir->fd);
    return partdir_clear(dir);
}

int partdir_open(struct partdir *out, const char *target, bool force)
{
    int placed = outdir_place(&out->place, target, force), err;

    if (placed < 0 && !out->place.target)
        return placed;
    if ((err = place_check(out)) < 0 ||
        (err = staging_name(&out->staging, out->place.target)) < 0 ||
        (err = staging_open(out)) < 0 || placed == 0)
        return err;
    outdir_release(&out->place);
    return outdir_place(&out->place, target, force); /* for its error */
}

/* Beginning */

static int inode_write(struct outdir *made, const struct outdir *tree)
{
    struct stat status;
    char text[32];

    if (stat(tree->staging, &status) != 0)
        return file_error(tree->staging);
    snprintf(text, sizeof(text), "%ju", (uintmax_t)status.st_ino);
    return outdir_write(made, INODE, text_bytes(text));
}

int partdir_begin(
    const struct partdir *dir,
    int (*fill)(void *context, struct buf *plan, struct outdir *tree),
    void *context
)
{
    AUTO_OUTDIR(made);
    AUTO_FREE(char, path);
    AUTO_BUF(plan);
    int err;

    if ((err = outdir_begin(&made, dir->staging, false)) < 0)
        return err == E_EXISTS ? 0 : err;
    if ((err = outdir_folder(&made, TREE)) < 0 || (err = path_join(&path, made.staging, TREE)) < 0)
        return err;
    struct outdir tree = {.target = dir->place.target, .staging = path};
    if ((err = fill(context, &plan, &tree)) < 0 || (err = inode_write(&made, &tree)) < 0 ||
        (err = outdir_write(&made, PLAN, buf_bytes(&plan))) < 0)
        return err;
    err = outdir_commit(&made);
    return err == E_EXISTS ? 0 : err;
}

/* Parts */

int partdir_plan(struct buf *out, const struct partdir *dir, uint64_t limit)
{
    return file_read_below(out, dir, PLAN, limit);
}

int partdir_file(int *out_fd, const struct partdir *dir, const char *name)
{
    AUTO_FREE(char, path);

    int err = path_join(&path, dir->place.target, name);
    if (err < 0)
        return err;
    int fd = openat(dir->tree, name, O_RDWR | O_NOFOLLOW | O_NONBLOCK | O_CLOEXEC);
    if (fd < 0)
        return file_error(path);
    *out_fd = fd;
    return 0;
}

/* Of an entry of the staging directory. */
static int name_random(char **out, const char *prefix)
{
    return path_random(out, ".", prefix);
}

int partdir_mark(const struct partdir *dir, uint64_t part, struct bytes record)
{
    AUTO_FREE(char, temporary);
    AUTO_FD(fd);
    char name[32];

    snprintf(name, sizeof(name), PART "%" PRIu64, part);
    int err = name_random(&temporary, "new-");
    if (err < 0)
        return err;
    fd = openat(dir->fd, temporary, O_WRONLY | O_CREAT | O_EXCL | O_NOFOLLOW | O_CLOEXEC, 0666);
    if (fd < 0)
        return file_error(dir->staging);
    if ((err = fd_write_all(fd, record.data, record.len, dir->staging)) == 0 &&
        (err = fd_sync(fd, dir->staging)) == 0 && renameat(dir->fd, temporary, dir->fd, name) != 0)
        err = file_error(dir->staging);
    if (err < 0) {
        unlinkat(dir->fd, temporary, 0);
        return err;
    }
    return fd_sync(dir->fd, dir->staging);
}

int partdir_record(struct buf *out, const struct partdir *dir, uint64_t part, uint64_t limit)
{
    char name[32];

    snprintf(name, sizeof(name), PART "%" PRIu64, part);
    return file_read_below(out, dir, name, limit);
}

/* The entries of the staging directory, each with a NUL; none where it was removed. */
static int names_read(struct buf *out, const struct partdir *dir)
{
    const char *entry = NULL;
    int fd = openat(dir->fd, ".", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    DIR *list = fd < 0 ? NULL : fdopendir(fd);
    int err = 0;

    if (!list && errno == ENOENT)
        return 0;
    if (!list) {
        err = file_error(dir->staging);
        fd_release(&fd);
        return err;
    }
    while (err == 0 && (err = dir_next(&entry, list, dir->staging)) == 0 && entry)
        err = buf_append(out, entry, strlen(entry) + 1);
    closedir(list);
    return err;
}

int partdir_marked(bool *there, const struct partdir *dir, uint64_t parts)
{
    AUTO_BUF(names);

    int err = names_read(&names, dir);
    memset(there, 0, parts * sizeof(*there));
    for (size_t at = 0; at < names.len; at += strlen((const char *)names.data + at) + 1) {
        const char *name = (const char *)names.data + at;
        uint64_t part = 0;
        if (strncmp(name, PART, strlen(PART)) == 0 &&
            text_parse_uint64(&part, text_bytes(name + strlen(PART))) && part && part <= parts)
            there[part - 1] = true;
    }
    return err;
}

bool partdir_is_finished(const struct partdir *dir)
{
    struct stat tree, there;

    return dir->tree >= 0 && fstat(dir->tree, &tree) == 0 && target_status(&there, dir) &&
           tree.st_dev == there.st_dev && tree.st_ino == there.st_ino;
}

/* Finishing */

/* Take the tree, from where it lies or from who took it before and may be dead: *own is its name
   now. E_NOTFOUND where it is not there any more. */
static int tree_take(char **own, const struct partdir *dir)
{
    AUTO_BUF(names);

    int err = names_read(&names, dir);
    if (err < 0 || (err = name_random(own, FINISHING)) < 0)
        return err;
    for (size_t at = 0; at < names.len; at += strlen((const char *)names.data + at) + 1) {
        const char *name = (const char *)names.data + at;
        if (strcmp(name, TREE) != 0 && strncmp(name, FINISHING, strlen(FINISHING)) != 0)
            continue;
        if (renameat(dir->fd, name, dir->fd, *own) == 0)
            return 0;
        if (errno != ENOENT)
            return file_error(dir->staging);
    }
    return error_set(E_NOTFOUND, "%s: the tree is not there any more", dir->staging);
}

/* Both have names, so what was at the target is moved first; for a moment nothing is there. */
static int replace_in_two_steps(const struct partdir *dir, const char *own)
{
    AUTO_FREE(char, old);

    int err = name_random(&old, "replaced-");
    if (err < 0)
        return err;
    if (renameat(AT_FDCWD, dir->place.target, dir->fd, old) != 0 && errno != ENOENT)
        return file_error(dir->place.target);
    if (renameat(dir->fd, own, AT_FDCWD, dir->place.target) == 0)
        return 0;
    bool taken = errno == ENOENT;
    err = file_error(dir->place.target);
    if (!taken && renameat(dir->fd, old, AT_FDCWD, dir->place.target) != 0)
        err = error_wrap(
            err, "%s: what was there is now %s/%s", dir->place.target, dir->staging, old
        );
    return err;
}

/* E_NOTFOUND: another one has taken the tree. */
static int tree_place(const struct partdir *dir, const char *own, bool replace)
{
    const char *target = dir->place.target;
    struct stat status;

    if (replace && stat(target, &status) == 0 &&
        fchmodat(dir->fd, own, status.st_mode & 07777, 0) != 0)
        return file_error(target);
    if (renameat(dir->fd, own, AT_FDCWD, target) == 0)
        return 0;
    if (replace && (errno == ENOTEMPTY || errno == EEXIST)) {
        if (renameat2(dir->fd, own, AT_FDCWD, target, RENAME_EXCHANGE) == 0)
            return 0;
        if (errno == EINVAL || errno == ENOSYS)
            return replace_in_two_steps(dir, own);
    }
    if (errno == ENOTEMPTY || errno == ENOTDIR)
        errno = EEXIST;
    return file_error(target);
}

/* Once: *done where the tree is in its place, whoever put it there. */
static int finish_once(bool *done, const struct partdir *dir, uint64_t inode, bool force)
{
    AUTO_OUTDIR(place);
    AUTO_FREE(char, own);
    struct stat status;

    if (target_status(&status, dir) && status.st_ino == inode) {
        *done = true;
        return 0;
    }
    int err = outdir_place(&place, dir->place.target, force);
    if (err < 0 || (err = tree_take(&own, dir)) < 0)
        return err == E_NOTFOUND ? 0 : err;
    if (fstatat(dir->fd, own, &status, AT_SYMLINK_NOFOLLOW) != 0 || status.st_ino != inode)
        return 0; /* taken again; or what the tree was exchanged for, which the next look tells */
    err = tree_place(dir, own, place.replace);
    *done = err == 0;
    return err == E_NOTFOUND ? 0 : err;
}

int partdir_finish(struct partdir *dir, bool force)
{
    AUTO_FREE(char, parent);
    uint64_t inode = 0;
    bool done = false;

    int err = inode_read(&inode, dir);
    if (err < 0)
        return err == E_NOTFOUND && partdir_is_finished(dir) ? 0 : err;
    if ((err = path_parent(&parent, dir->place.target)) < 0)
        return err;
    for (int i = 0; err == 0 && !done && i < TRIES; i++)
        err = finish_once(&done, dir, inode, force);
    if (err == 0 && !done)
        err = error_set(E_CONFLICT, "%s: the parts' files were removed", dir->staging);
    if (err < 0 || (err = path_sync(parent)) < 0)
        return err;
    err = partdir_clear(dir);
    return err < 0 ? error_wrap(err, "%s is written; its parts remain", dir->place.target) : 0;
}
