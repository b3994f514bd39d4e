/* Looking at every file of a tree. See file.h. */
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

#include "format/file.h"
#include "format/limits.h"

#define BLOCK     512 /* what st_blocks counts, POSIX leaves it open, Linux does not */
#define DEPTH_MAX 1000

struct scan {
    const char *root;
    int (*visit)(void *context, const struct tree_file *file);
    void *context;
    struct buf path; /* below root, NUL-terminated */
};

static int folder_scan(struct scan *scan, unsigned depth);

static int entry_scan(struct scan *scan, unsigned depth)
{
    AUTO_FREE(char, full);
    struct stat status;
    const char *path = (const char *)scan->path.data;

    int err = path_join(&full, scan->root, path);
    if (err < 0)
        return err;
    if (lstat(full, &status) != 0)
        return errno == ENOENT ? 0 : file_error(full); /* it went meanwhile */
    const struct tree_file file = {
        .path = path,
        .is_directory = S_ISDIR(status.st_mode),
        .bytes = S_ISDIR(status.st_mode) ? 0 : (uint64_t)status.st_size,
        .allocated_bytes = (uint64_t)status.st_blocks * BLOCK,
    };
    if ((err = interrupt_check()) < 0 || (err = scan->visit(scan->context, &file)) < 0)
        return err;
    return file.is_directory ? folder_scan(scan, depth + 1) : 0;
}

static int folder_scan(struct scan *scan, unsigned depth)
{
    AUTO_FREE(char, full);
    AUTO_BUF(names);
    size_t length = scan->path.len;

    int err = length ? path_join(&full, scan->root, (const char *)scan->path.data)
                     : path_join(&full, scan->root, ".");
    if (err < 0)
        return err;
    if (depth > DEPTH_MAX)
        return error_set(E_LIMIT, "%s: more than %d folders deep", full, DEPTH_MAX);
    err = dir_names(&names, full);
    if (err == E_NOTFOUND && depth)
        return 0;
    for (size_t at = 0; err == 0 && at < names.len;) {
        const char *name = (const char *)names.data + at;
        scan->path.len = length;
        err = buf_printf(&scan->path, "%s%s", length ? "/" : "", name);
        if (err == 0)
            err = entry_scan(scan, depth);
        at += strlen(name) + 1;
    }
    scan->path.len = length;
    return err;
}

int tree_each(
    const char *path, int (*visit)(void *context, const struct tree_file *file), void *context
)
{
    struct scan scan = {.root = path, .visit = visit, .context = context};

    int err = folder_scan(&scan, 0);
    buf_release(&scan.path);
    return err;
}
