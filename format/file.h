/*
 * Every file system call of the program (but those that libgit2 and sqlite make): one place to
 * inject faults, to follow the rules (no symlink is followed on writing; what appears, appears
 * whole and synced) and to word errors: "<path>: <strerror>". ENOENT is E_NOTFOUND, EEXIST
 * E_EXISTS, the rest E_IO.
 */
#ifndef FORMAT_FILE_H
#define FORMAT_FILE_H

#include <dirent.h>

#include "format/interrupt.h"
#include "format/snapshot.h"

/* Word a failed call on `path` from errno, with a hint where the person can do something. */
MUST_CHECK int file_error(const char *path);

#define AUTO_FD(name) __attribute__((cleanup(fd_release))) int name = -1
void fd_release(int *fd);

/* Open what is closed of descriptors 0, 1 and 2, so that no file is taken for standard input or
   output; reading and writing there fail as they would have. */
void file_claim_standard(void);

/* A regular file (symlinks followed), open for reading, and its size. E_INVALID for anything else;
   never blocks on a FIFO. */
MUST_CHECK int file_open(int *out_fd, uint64_t *out_bytes, const char *path);

/* Which file it is, and when it was written to last. Nobody wrote to it between two looks that gave
   the same (but within one tick of the file system's clock). */
struct file_stamp {
    uint64_t device, inode, bytes;
    int64_t modified, changed; /* contents; contents, name or mode: nanoseconds since the epoch */
};
MUST_CHECK int fd_stamp(struct file_stamp *out, int fd, const char *path);
bool file_stamps_equal(const struct file_stamp *a, const struct file_stamp *b);

/* Exactly `len` bytes at `offset`, retried over EINTR; E_IO where the file is shorter. `path` words
 * the error. */
MUST_CHECK int file_read_at(int fd, void *data, size_t len, uint64_t offset, const char *path);
MUST_CHECK int
file_write_at(int fd, const void *data, size_t len, uint64_t offset, const char *path);

/* Have the system read it soon: a hint that cannot fail. */
void file_read_ahead(int fd, uint64_t offset, uint64_t len);

/* The first `len` bytes of an open file as memory that follows it: nothing is read before it is
   looked at. Who shortens the file meanwhile ends this process. file_unmap() gives it back; the
   descriptor may be closed before. */
MUST_CHECK int file_map(struct bytes *out, int fd, uint64_t len, const char *path);
void file_unmap(struct bytes *map);

/* A whole regular file; E_LIMIT above `limit` bytes (before memory is taken); E_IO where it changes
   size while it is read. */
MUST_CHECK int file_read(struct buf *out, const char *path, uint64_t limit);
/* The same for a file that others append to meanwhile: what it held when it was opened. */
MUST_CHECK int file_read_log(struct buf *out, const char *path, uint64_t limit);

/* To the end of `fd` (a pipe), at most `limit` bytes. */
MUST_CHECK int fd_read_all(struct buf *out, int fd, uint64_t limit, const char *path);
/* Append `len` bytes, or as many as there are before its end; memory grows with what arrives. */
MUST_CHECK int fd_read_more(struct buf *out, int fd, uint64_t len, const char *path);
MUST_CHECK int fd_write_all(int fd, const void *data, size_t len, const char *path);

/* Share the blocks of the first `len` bytes with an empty file, as far as they are whole. Returns
   how many bytes are shared: 0 where the file system cannot. */
uint64_t file_clone(int from, int to, uint64_t len);

/* Copy a range between two open files: reflink where both sides allow it, else in the kernel, else
   by hand. *cloned_bytes (may be NULL) grows by what was reflinked. */
MUST_CHECK int file_copy_range(
    int from,
    uint64_t from_offset,
    int to,
    uint64_t to_offset,
    uint64_t len,
    uint64_t *cloned_bytes,
    const char *path
);

/* Cut a file, or let it grow by zero bytes that take no space. */
MUST_CHECK int file_resize(int fd, uint64_t bytes, const char *path);

/* fsync a file or a directory by path. */
MUST_CHECK int path_sync(const char *path);
MUST_CHECK int fd_sync(int fd, const char *path);

/* Begin to write a file to the disk, without waiting: a sync that comes later waits for little. */
void fd_sync_begin(int fd);

/* Is there something, be it a symlink? Is there a directory? */
bool path_exists(const char *path);
bool path_is_directory(const char *path);
/* Is it ours (or root's), and may nobody else read it? Symlinks are followed. */
bool path_is_private(const char *path);
/* May nothing in this directory be looked at? */
bool path_is_forbidden(const char *path);
/* Is there a regular file? A symlink to one is none. */
bool path_is_file(const char *path);

/* Remove a file or symlink. Nothing there: 0. */
MUST_CHECK int path_remove(const char *path);

/* Give a file another name, or another's; not synced. */
MUST_CHECK int path_rename(const char *from, const char *to);

/* Replace or create `path` whole: temporary sibling, fsync, rename, fsync of the directory. */
MUST_CHECK int file_write(const char *path, struct bytes data);

/* file_write() as git does it: the temporary sibling is "<path>.lock", which the caller has claimed
   (file_claim) and, where this fails, removes. */
MUST_CHECK int file_write_locked(const char *path, struct bytes data);

/* Create an empty file: E_EXISTS where there is something. */
MUST_CHECK int file_claim(const char *path);

/* file_claim(), and it is open for writing; `mode` as for open(). */
MUST_CHECK int file_create(int *out_fd, const char *path, unsigned mode);

/* Create a file with these contents, not synced: E_EXISTS where there is something. */
MUST_CHECK int file_make(const char *path, struct bytes data);

/* Write behind the end of a file, which is created where it is missing; not synced. */
MUST_CHECK int file_append(const char *path, struct bytes data);

/* When a file's contents, or a directory's entries, changed last: in seconds since the epoch, and
   as exactly as the file system knows, in nanoseconds. */
MUST_CHECK int path_time(int64_t *out, const char *path);
MUST_CHECK int path_stamp(int64_t *out, const char *path);

/* Replace or create `path` whole, readable by all, writable by none, not synced: a sibling named
   `prefix` and six random letters, rename. */
MUST_CHECK int file_put(const char *path, const char *prefix, struct bytes data);

/* mkdir -p; every directory that was made and its parent is synced. */
MUST_CHECK int dir_make(const char *path);

/* "<dir>/<name>", owned by the caller. */
MUST_CHECK int path_join(char **out, const char *dir, const char *name);
/* What follows the last '/', and the directory that it is in ("." where there is none), owned by
   the caller. */
const char *path_name(const char *path);
MUST_CHECK int path_parent(char **out, const char *path);
/* The directory that holds the running program, symlinks resolved, owned by the caller. */
MUST_CHECK int program_directory(char **out);
/* "<dir>/<prefix>" and six random letters. */
MUST_CHECK int path_random(char **out, const char *dir, const char *prefix);
/* A hidden name in `dir` that nobody else has: ".<name>.vera-" and six random letters. */
MUST_CHECK int path_temporary(char **out, const char *dir, const char *name);

/* Is `path`, symlinks followed, the directory `dir` or inside it? Where nothing is at `path`: is
   what would be created there inside? False where its parent is missing too. */
MUST_CHECK int path_is_inside(bool *out, const char *path, const char *dir);

/* fsync many files and directories, several at once: the file system joins them, so that it takes
   little longer than one. `paths`: each ended by a NUL. What is not there is left out. */
MUST_CHECK int paths_sync(struct bytes paths);

/* fsync all files and directories of a tree that holds nothing else. */
MUST_CHECK int tree_sync(const char *path);

/* The next entry's name, but "." and "..": valid until the next call, NULL after the last. */
MUST_CHECK int dir_next(const char **out, DIR *dir, const char *path);

/* Append the names in a directory but "." and "..", NUL-terminated, one after the other, in no
   order. E_LIMIT above LIMIT_ENTRIES. */
MUST_CHECK int dir_names(struct buf *out, const char *path);

/* Something below a directory; a symlink is a file here. */
struct tree_file {
    const char *path; /* below that directory, '/' between, borrowed */
    bool is_directory;
    uint64_t bytes, allocated_bytes; /* of contents (0 for a directory); of blocks on the disk */
};
/* Visit everything below `path`, in no order, a directory before what is in it. What goes away
   meanwhile is left out. `visit` may end the walk with an error. */
MUST_CHECK int tree_each(
    const char *path, int (*visit)(void *context, const struct tree_file *file), void *context
);

/* Remove a directory; one that is not empty, or not there, stays as it is. */
MUST_CHECK int dir_remove_empty(const char *path);

/* Remove a tree, symlinks as links. Nothing there: 0. */
MUST_CHECK int tree_remove(const char *path);

/* True where `path` is a directory that holds `name` as a regular file. */
bool dir_has(const char *path, const char *name);

/*
 * Locks on single bytes of a file (format/lock.c). They belong to the open file, so they end when
 * it is closed, whatever ends its process.
 */
/* Open for reading and writing, created where it is missing; not through a symlink. */
MUST_CHECK int lock_file_open(int *out_fd, const char *path);
/* *got false: another holds it. */
MUST_CHECK int lock_byte(bool *got, int fd, uint64_t byte, bool exclusive, const char *path);
MUST_CHECK int unlock_byte(int fd, uint64_t byte, const char *path);
/* Let others see which process works here: lock_told() of another process gives its pid, 0 where
   nobody told. */
void lock_tell(int fd, uint64_t byte);
int lock_told(int fd, uint64_t byte);
/* Replace all that the file holds; not synced. */
MUST_CHECK int lock_file_write(int fd, struct bytes data, const char *path);
void lock_file_clear(int fd);
/* All that it holds, at most `limit` bytes. */
MUST_CHECK int lock_file_read(struct buf *out, int fd, uint64_t limit, const char *path);

/*
 * The files of an adapter directory: which are taken is peft_takes_file(), `all`, and the rules of
 * DIR/.veraignore (gitignore syntax; a rule that matches decides, "!" takes a file that would be
 * left out). Symlinks to regular files are followed, symlinked directories and loops are left out
 * and named. E_INVALID, listing all: devices, sockets and FIFOs, paths that path_check() refuses,
 * and with `all` empty directories. E_LIMIT, E_NOTFOUND, E_IO. The directory's own name is no part
 * of it.
 */
MUST_CHECK int
adapter_files_read(struct adapter_files *out, const char *dir, bool all, struct progress *progress);

/*
 * A directory that appears whole or not at all: files are written into a sibling of `target`,
 * synced, and renamed to it at the end. Released without outdir_commit(): removed, nothing was
 * there. The current directory and a mount point cannot be renamed over: there the staging
 * directory lies inside, and its entries are moved up at the end, one by one.
 */
struct outdir {
    char *target;
    char *staging; /* sibling of target, mode 0700 until the end */
    bool replace;
    bool in_place; /* staging lies inside target */
};

#define AUTO_OUTDIR(name) __attribute__((cleanup(outdir_release))) struct outdir name = {0}

/* E_EXISTS unless `target` is new or an empty directory; with `force` a directory that is there is
   replaced at the end, but for one that holds a repository or the current directory. A symlink to a
   directory stands for that directory. The parent must exist: E_NOTFOUND. */
MUST_CHECK int outdir_begin(struct outdir *out, const char *target, bool force);
/* The part of it that looks at the target and makes nothing: target, replace, in_place. The target
   is known after E_EXISTS too, where a directory is there. */
MUST_CHECK int outdir_place(struct outdir *out, const char *target, bool force);
/* Create a new file under the staging directory, and its folders. path_check() rules `path`. */
MUST_CHECK int outdir_create(int *out_fd, struct outdir *out, const char *path);
MUST_CHECK int outdir_write(struct outdir *out, const char *path, struct bytes data);
/* A directory under the staging directory, and those above it; 0 where it is there. */
MUST_CHECK int outdir_folder(struct outdir *out, const char *path);
/* Paths beside `target`, each ended by a NUL, in byte order, of what other runs that write it have
   there: unless they still go on, they were killed. None where its parent is not there. */
MUST_CHECK int outdir_leftovers(struct buf *out, const char *target);
/* Sync everything, rename, sync the parent. */
MUST_CHECK int outdir_commit(struct outdir *out);
void outdir_release(struct outdir *out);

#endif
