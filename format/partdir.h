/*
 * A directory that several processes make together, on any machines that share its file system, and
 * that appears whole or not at all. They find each other by its name:
 *
 *     <parent>/.<name>.vera-parts/
 *         plan                     what is made and how it is divided: the caller's text
 *         inode                    tree's, by which it is known under any name
 *         tree/                    the directory, its files at their full size from the beginning
 *         part-<I>                 what who made part I tells, once all of the part is on the disk
 *         new-<6 letters>          a part-<I> on its way
 *         finishing-<6 letters>/   tree/, taken by who gives it its name
 *         replaced-<6 letters>/    what was at the target, where it could not be exchanged
 *
 * What the file system must give is that mkdir, open with O_EXCL and rename happen or do not, which
 * NFS gives: there are no locks, nothing is mapped, no clock is compared. Plan and tree are made
 * under another name and renamed, so whoever sees them sees all of them. Who makes a part writes
 * its own ranges only, so two that make the same one write the same bytes. All goes through open
 * directories: a process whose parts were removed cannot write into those that came later under
 * their name. Who dies, at any point, leaves what the next one goes on from.
 */
#ifndef FORMAT_PARTDIR_H
#define FORMAT_PARTDIR_H

#include "format/file.h"

#define PARTS_MAX 10000

struct partdir {
    struct outdir place; /* the target; nothing is written through it */
    char *staging;
    int fd;   /* of the staging directory, -1 where nobody has begun */
    int tree; /* of tree/, -1 where it has been taken */
};

#define PARTDIR_EMPTY                                                                              \
    {                                                                                              \
        .fd = -1, .tree = -1                                                                       \
    }
#define AUTO_PARTDIR(name)                                                                         \
    __attribute__((cleanup(partdir_release))) struct partdir name = PARTDIR_EMPTY
void partdir_release(struct partdir *dir);

/* Find what others have begun. What was finished, but not cleared away, is cleared away. E_EXISTS
   and others as outdir_begin(); E_INVALID for the current directory, a mount point and a name that
   is too long: parts cannot be told by those. Into an empty one. */
MUST_CHECK int partdir_open(struct partdir *out, const char *target, bool force);

/* Make plan and tree, where partdir_open() found nobody; then open again: who was faster counts.
   `fill` writes the tree's files, which `tree` takes as outdir_begin()'s does, and the plan. */
MUST_CHECK int partdir_begin(
    const struct partdir *dir,
    int (*fill)(void *context, struct buf *plan, struct outdir *tree),
    void *context
);

MUST_CHECK int partdir_plan(struct buf *out, const struct partdir *dir, uint64_t limit);

/* A file of the tree, to read and write. */
MUST_CHECK int partdir_file(int *out_fd, const struct partdir *dir, const char *name);

/* Part `part` is written and synced: tell so. E_NOTFOUND where all was removed meanwhile. */
MUST_CHECK int partdir_mark(const struct partdir *dir, uint64_t part, struct bytes record);

/* What was told of it; E_NOTFOUND where nothing was. */
MUST_CHECK int
partdir_record(struct buf *out, const struct partdir *dir, uint64_t part, uint64_t limit);

/* there[I - 1] for each part I of `parts`. */
MUST_CHECK int partdir_marked(bool *there, const struct partdir *dir, uint64_t parts);

/* Drop all parts. */
MUST_CHECK int partdir_clear(const struct partdir *dir);

/* Is the tree that was opened at the target now? */
bool partdir_is_finished(const struct partdir *dir);

/* Give the tree its name, which may be the old directory's where `force`, sync the parent, clear
   all else away. Any number may do it at once: one does it, the others see that it is done.
   E_EXISTS as outdir_begin(): then the parts stay. */
MUST_CHECK int partdir_finish(struct partdir *dir, bool force);

#endif
