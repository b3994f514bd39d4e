/*
 * A directory that appears whole or not at all. See file.h.
 *
 * The staging directory is a sibling of the target, so both are on one file system and rename(2) is
 * the commit point. Below it everything is created by openat() with O_EXCL and O_NOFOLLOW, folder
 * by folder, so nothing that somebody puts there can lead a write elsewhere. Where the target is
 * the current directory or a mount point, a rename over it fails or takes it away from who stands
 * in it: there staging lies inside, and its entries are moved up; what was moved goes back if one
 * of them cannot.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "format/file.h"
#include "format/manifest.h"

static int no_memory(void)
{
    return error_set(E_NOMEM, "out of memory for a path");
}

static int dir_is_empty(bool *out, const char *path)
{
    const char *entry = NULL;
    DIR *dir = opendir(path);

    if (!dir)
        return file_error(path);
    int err = dir_next(&entry, dir, path);
    if (err == 0)
        *out = entry == NULL;
    closedir(dir);
    return err;
}

/* Is `path` (real) the current directory or one of its parents? */
static bool holds_current_directory(const char *path)
{
    AUTO_FREE(char, current);
    size_t len = strlen(path);

    current = realpath(".", NULL);
    return current && strncmp(current, path, len) == 0 &&
           (current[len] == '/' || !current[len] || len == 1);
}

/* The kernel knows (since 5.8) even where a directory is mounted onto another of its file system;
   before, only another device gives it away. */
static bool is_mount_point(const char *path)
{
    AUTO_FREE(char, parent);
    struct stat here, above;
    struct statx status;

    if (statx(AT_FDCWD, path, 0, 0, &status) == 0 &&
        (status.stx_attributes_mask & STATX_ATTR_MOUNT_ROOT))
        return status.stx_attributes & STATX_ATTR_MOUNT_ROOT;
    return path_join(&parent, path, "..") == 0 && stat(path, &here) == 0 &&
           stat(parent, &above) == 0 &&
           (here.st_dev != above.st_dev || here.st_ino == above.st_ino);
}

/* May a directory with something in it be replaced? */
static int replace_check(const char *target, bool force)
{
    static const char *const repositories[] = {".vera", ".git"};

    if (!force) {
        int err = error_set(E_EXISTS, "%s: the directory is not empty", target);
        return error_hint(err, "give a new or an empty directory, or --force to replace this one");
    }
    if (holds_current_directory(target))
        return error_set(E_EXISTS, "%s: holds the current directory, not replaced", target);
    if (is_mount_point(target))
        return error_set(E_EXISTS, "%s: is a mount point, not replaced", target);
    for (size_t i = 0; i < 2; i++) {
        AUTO_FREE(char, inner);
        struct stat status;
        int err = path_join(&inner, target, repositories[i]);
        if (err < 0)
            return err;
        if (lstat(inner, &status) == 0)
            return error_set(
                E_EXISTS, "%s: holds a repository (%s), not replaced", target, repositories[i]
            );
    }
    return 0;
}

/* What is at the target: a directory that may be written or replaced. */
static int target_examine(struct outdir *out, const char *target, bool force)
{
    struct stat status;
    bool empty = false;

    out->target = realpath(target, NULL);
    if (!out->target && errno == ENOENT)
        return error_set(E_EXISTS, "%s: is a symbolic link that leads nowhere", target);
    if (!out->target || stat(out->target, &status) != 0)
        return file_error(target);
    if (!S_ISDIR(status.st_mode))
        return error_set(E_EXISTS, "%s: exists, and is not a directory", target);
    int err = dir_is_empty(&empty, out->target);
    if (err == 0 && !empty)
        err = replace_check(out->target, force);
    out->replace = !empty;
    out->in_place = empty && (holds_current_directory(out->target) || is_mount_point(out->target));
    return err;
}

static int parent_check(const char *parent)
{
    struct stat status;

    if (stat(parent, &status) != 0) {
        int err = file_error(parent);
        return err == E_NOTFOUND ? error_hint(err, "create it first: mkdir -p -- '%s'", parent)
                                 : err;
    }
    errno = ENOTDIR;
    return S_ISDIR(status.st_mode) ? 0 : file_error(parent);
}

static int staging_make(struct outdir *out)
{
    AUTO_FREE(char, parent);
    AUTO_FREE(char, staging);
    int err;

    if ((err = path_parent(&parent, out->target)) < 0 || (err = parent_check(parent)) < 0)
        return err;
    const char *dir = out->in_place ? out->target : parent;
    if ((err = path_temporary(&staging, dir, path_name(out->target))) < 0)
        return err;
    if (mkdir(staging, 0700) != 0)
        return file_error(dir);
    out->staging = staging;
    staging = NULL;
    return 0;
}

int outdir_place(struct outdir *out, const char *target, bool force)
{
    AUTO_FREE(char, trimmed);
    struct stat status;
    size_t len = strlen(target);

    if (!len)
        return error_set(E_INVALID, "an empty path is no directory");
    while (len > 1 && target[len - 1] == '/')
        len--;
    trimmed = bytes_dup((struct bytes){(const uint8_t *)target, len});
    if (!trimmed)
        return no_memory();
    if (lstat(trimmed, &status) == 0)
        return target_examine(out, trimmed, force);
    out->target = trimmed;
    trimmed = NULL;
    return 0;
}

int outdir_begin(struct outdir *out, const char *target, bool force)
{
    AUTO_OUTDIR(begun);
    int err;

    if ((err = outdir_place(&begun, target, force)) < 0 || (err = staging_make(&begun)) < 0)
        return err;
    *out = begun;
    begun = (struct outdir){0};
    return 0;
}

/* Step into folder `name` below *dir, made where it is missing. */
static int folder_enter(int *dir, const char *name, const char *path)
{
    if (mkdirat(*dir, name, 0777) != 0 && errno != EEXIST)
        return file_error(path);
    int fd = openat(*dir, name, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
    if (fd < 0)
        return file_error(path);
    fd_release(dir);
    *dir = fd;
    return 0;
}

/* Open the folder that `path` lies in, made where it is missing. *name: the path's last part, in
   `parts`, which the caller frees. */
static int
parent_enter(int *out_fd, char **parts, char **name, struct outdir *out, const char *path)
{
    AUTO_FD(dir);
    int err = path_check(path);

    if (err < 0)
        return err;
    if (!(*parts = bytes_dup(text_bytes(path))))
        return no_memory();
    dir = open(out->staging, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
    if (dir < 0)
        return file_error(out->staging);
    *name = *parts;
    for (char *slash; (slash = strchr(*name, '/')); *name = slash + 1) {
        *slash = '\0';
        if ((err = folder_enter(&dir, *name, path)) < 0)
            return error_wrap(err, "%s", out->target);
    }
    *out_fd = dir;
    dir = -1;
    return 0;
}

int outdir_create(int *out_fd, struct outdir *out, const char *path)
{
    AUTO_FREE(char, parts);
    AUTO_FD(dir);
    char *name = NULL;

    int err = parent_enter(&dir, &parts, &name, out, path);
    if (err < 0)
        return err;
    int fd = openat(dir, name, O_RDWR | O_CREAT | O_EXCL | O_NOFOLLOW | O_CLOEXEC, 0666);
    if (fd < 0) {
        err = file_error(path);
        return error_wrap(err, "%s", out->target);
    }
    *out_fd = fd;
    return 0;
}

int outdir_folder(struct outdir *out, const char *path)
{
    AUTO_FREE(char, parts);
    AUTO_FD(dir);
    char *name = NULL;

    int err = parent_enter(&dir, &parts, &name, out, path);
    if (err == 0 && (err = folder_enter(&dir, name, path)) < 0)
        err = error_wrap(err, "%s", out->target);
    return err;
}

int outdir_write(struct outdir *out, const char *path, struct bytes data)
{
    AUTO_FD(fd);

    int err = outdir_create(&fd, out, path);
    if (err < 0)
        return err;
    err = fd_write_all(fd, data.data, data.len, path);
    return err < 0 ? error_wrap(err, "%s", out->target) : 0;
}

/* The mode of the directory that is replaced, else what the umask gives (asked of the file system:
   umask(2) cannot be read without changing it for the other threads). */
static int staging_open_up(const struct outdir *out)
{
    AUTO_FREE(char, probe);
    struct stat status;

    if (stat(out->target, &status) != 0) {
        int err = path_join(&probe, out->staging, ".mode");
        if (err < 0)
            return err;
        if (mkdir(probe, 0777) != 0)
            return file_error(out->target);
        int asked = stat(probe, &status);
        if (rmdir(probe) != 0 || asked != 0)
            return file_error(out->target);
    }
    return chmod(out->staging, status.st_mode & 07777) == 0 ? 0 : file_error(out->target);
}

/* Put staging where the target is, and the target where staging was. */
static int target_exchange(struct outdir *out)
{
    AUTO_FREE(char, old);
    AUTO_FREE(char, parent);
    int err;

    if (renameat2(AT_FDCWD, out->staging, AT_FDCWD, out->target, RENAME_EXCHANGE) == 0)
        return 0;
    if (errno != EINVAL && errno != ENOSYS)
        return file_error(out->target);
    if ((err = path_parent(&parent, out->target)) < 0 ||
        (err = path_temporary(&old, parent, path_name(out->target))) < 0)
        return err;
    if (rename(out->target, old) != 0)
        return file_error(out->target);
    if (rename(out->staging, out->target) != 0) {
        err = file_error(out->target);
        if (rename(old, out->target) != 0)
            err = error_wrap(err, "%s: what was there is now %s", out->target, old);
        return err;
    }
    free(out->staging);
    out->staging = old;
    old = NULL;
    return 0;
}

static int staging_rename(struct outdir *out)
{
    AUTO_FREE(char, parent);
    bool exchanged = false;

    int err = path_parent(&parent, out->target);
    if (err < 0)
        return err;
    if (rename(out->staging, out->target) != 0) {
        exchanged = out->replace && (errno == ENOTEMPTY || errno == EEXIST);
        if (errno == ENOTEMPTY || errno == ENOTDIR)
            errno = EEXIST;
        err = exchanged ? target_exchange(out) : file_error(out->target);
        if (err < 0)
            return err;
    }
    err = path_sync(parent);
    if (exchanged && err == 0 && (err = tree_remove(out->staging)) < 0)
        return error_wrap(err, "%s is written; what it replaced cannot be removed", out->target);
    if (err == 0 || !exchanged) {
        free(out->staging);
        out->staging = NULL;
    }
    return err;
}

static int entry_move(const char *from_dir, const char *to_dir, const char *name)
{
    AUTO_FREE(char, from);
    AUTO_FREE(char, to);
    int err;

    if ((err = path_join(&from, from_dir, name)) < 0 || (err = path_join(&to, to_dir, name)) < 0)
        return err;
    if (renameat2(AT_FDCWD, from, AT_FDCWD, to, RENAME_NOREPLACE) == 0)
        return 0;
    if (errno != EINVAL && errno != ENOSYS)
        return file_error(to);
    if (access(to, F_OK) == 0)
        return error_set(E_EXISTS, "%s: exists", to);
    return rename(from, to) == 0 ? 0 : file_error(to);
}

static int entries_move_up(struct outdir *out)
{
    AUTO_BUF(names);
    size_t at = 0;

    int err = dir_names(&names, out->staging);
    while (err == 0 && at < names.len) {
        const char *name = (const char *)names.data + at;
        err = entry_move(out->staging, out->target, name);
        at += err == 0 ? strlen(name) + 1 : 0;
    }
    for (size_t back = 0; err < 0 && back < at;) {
        const char *name = (const char *)names.data + back;
        if (entry_move(out->target, out->staging, name) < 0)
            return error_wrap(E_IO, "%s: only a part is written, and stays", out->target);
        back += strlen(name) + 1;
    }
    if (err < 0)
        return err;
    if (rmdir(out->staging) != 0)
        return file_error(out->target);
    free(out->staging);
    out->staging = NULL;
    return path_sync(out->target);
}

int outdir_commit(struct outdir *out)
{
    int err = out->in_place ? 0 : staging_open_up(out);

    if (err < 0 || (err = tree_sync(out->staging)) < 0 || (err = interrupt_check()) < 0)
        return err;
    return out->in_place ? entries_move_up(out) : staging_rename(out);
}

static int text_compare(const void *a, const void *b)
{
    return strcmp(*(const char *const *)a, *(const char *const *)b);
}

/* ".<name>.vera-" of a staging directory and of parts, "..<name>.vera-" of parts that begin. */
static bool is_leftover(const char *name, const char *target)
{
    char own[256];

    snprintf(own, sizeof(own), ".%.200s.vera-", target);
    return strncmp(name, own, strlen(own)) == 0 ||
           (name[0] == '.' && strncmp(name + 1, own, strlen(own)) == 0);
}

static int leftovers_list(struct buf *out, char **names, size_t count, const char *parent)
{
    int err = 0;

    qsort(names, count, sizeof(*names), text_compare);
    for (size_t i = 0; err == 0 && i < count; i++) {
        AUTO_FREE(char, path);
        if ((err = path_join(&path, parent, names[i])) == 0)
            err = buf_append(out, path, strlen(path) + 1);
    }
    return err;
}

int outdir_leftovers(struct buf *out, const char *target)
{
    AUTO_OUTDIR(place);
    AUTO_FREE(char, parent);
    AUTO_FREE(char *, found);
    AUTO_BUF(names);
    size_t count = 0, room = 0;
    int err;

    if ((err = outdir_place(&place, target, true)) < 0 && !place.target)
        return err;
    if ((err = path_parent(&parent, place.target)) < 0 || (err = dir_names(&names, parent)) < 0)
        return err == E_NOTFOUND || err == E_LIMIT ? 0 : err;
    for (size_t i = 0; i < names.len; i++)
        room += names.data[i] == '\0';
    if (!(found = array_new(room, sizeof(*found))))
        return no_memory();
    for (size_t at = 0; at < names.len; at += strlen((char *)names.data + at) + 1) {
        if (is_leftover((char *)names.data + at, path_name(place.target)))
            found[count++] = (char *)names.data + at;
    }
    return leftovers_list(out, found, count, parent);
}

void outdir_release(struct outdir *out)
{
    if (out->staging)
        (void)!tree_remove(out->staging);
    free(out->staging);
    free(out->target);
    *out = (struct outdir){0};
}
