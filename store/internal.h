/*
 * What the files of store/ share: the handle, libgit2's errors in our words, locks, objects, and
 * the one way in which a ref moves.
 *
 * Order of a write (P3): lock_write(), object_write() for everything, objects_sync(), then
 * refs_move(), which is the commit point. Nothing else in store/ writes to a repository.
 */
#ifndef STORE_INTERNAL_H
#define STORE_INTERNAL_H

#include <git2.h>

#include "format/frame.h"
#include "store/store.h"

struct store {
    git_repository *repo;
    git_odb *odb;
    git_odb_backend *loose; /* writes loose objects, without syncing them */
    char *path;             /* of .vera, absolute, without a slash at the end */
    int64_t packs_stamp;    /* of the folder of packs, when libgit2's handles were opened */
    unsigned wait_ms;       /* how long a lock is waited for */
    uint64_t part_bytes;    /* FRAME_PART_BYTES; less in a test */
    size_t loose_max;       /* LOOSE_MAX: when loose objects are packed; less in a test */
};

#define REF_HEADS "refs/heads/"
#define REF_TAGS  "refs/tags/"
#define REF_TRASH "refs/vera/trash/"

/* libgit2's handles, released when the scope is left: AUTO_GIT(git_tree, tree);
   AUTO_GIT(git_commit, ...), git_reference, git_object, git_odb_object, git_tag, git_reflog,
   git_signature, git_config, git_revwalk, git_reference_iterator, git_refdb,
   git_transaction. */
#define AUTO_GIT(type, name) __attribute__((cleanup(type##_release))) type *name = NULL
#define GIT_RELEASE(type)                                                                          \
    static inline void type##_release(type **handle)                                               \
    {                                                                                              \
        if (*handle)                                                                               \
            type##_free(*handle);                                                                  \
    }
GIT_RELEASE(git_tree)
GIT_RELEASE(git_commit)
GIT_RELEASE(git_reference)
GIT_RELEASE(git_object)
GIT_RELEASE(git_odb_object)
GIT_RELEASE(git_tag)
GIT_RELEASE(git_reflog)
GIT_RELEASE(git_signature)
GIT_RELEASE(git_config)
GIT_RELEASE(git_revwalk)
GIT_RELEASE(git_reference_iterator)
GIT_RELEASE(git_refdb)
GIT_RELEASE(git_transaction)

/* git.c: error_set() for a negative code of libgit2, "<text>: <libgit2's message>". E_NOTFOUND,
   E_EXISTS, E_INVALID (bad name, ambiguous), E_CONFLICT (locked, modified), E_CORRUPT (an object
   that does not have its id or cannot be parsed), E_NOMEM, else E_IO. */
MUST_CHECK int git_failed(int code, const char *fmt, ...) PRINTF_LIKE(2, 3);
git_oid git_id(const struct commit_id *id);
struct commit_id commit_id_of(const git_oid *id);

/* repository.c: open libgit2's handles anew where packs have come or gone since. What another has
   dropped is still there in an old handle: in its caches, and in packs that it holds open. Nothing
   of libgit2's may be held meanwhile. Who takes a lock for writing does so. */
MUST_CHECK int store_renew(struct store *store);

/* repository.c: store_init(), and before it appears, `fill` is called with where it is until then:
   what it makes there appears with it, and its error ends it. */
MUST_CHECK int store_init_filled(
    char **out_path, const char *dir, int (*fill)(void *context, const char *path), void *context
);

/* object.c: `type` is GIT_OBJECT_BLOB, _TREE, _COMMIT or _TAG. */

struct object_ids {
    git_oid *ids;
    size_t count, capacity;
};

/* What one operation has written so far. */
struct objects {
    struct object_ids written; /* or found, and not known to be synced */
    struct object_ids settled; /* synced already, in order of id */
    uint64_t bytes;            /* size on disk of those that were new */
};
#define AUTO_OBJECTS(name) __attribute__((cleanup(objects_release))) struct objects name = {0}
void objects_release(struct objects *objects);

/* The objects below this commit's tree need no sync: the commit is some ref's, and they were synced
   before that ref moved. Trees that cannot be read are left out. E_CORRUPT where the commit itself
   cannot. To be called before anything is written. */
MUST_CHECK int
objects_settle(struct objects *objects, struct store *store, const struct commit_id *commit);

/* Write as a loose object, or find it there: then it is read and compared, and a damaged loose one
   replaced. Not yet synced. */
MUST_CHECK int object_write(
    git_oid *out, struct objects *objects, struct store *store, git_object_t type, struct bytes data
);
/* Write a frame. It is compressed, and begins with a digest of its payload, so neither zlib nor
   libgit2's detection of SHA-1 collisions goes over it again. May be called from several threads;
   objects_add() afterwards. */
struct written {
    git_oid id;
    uint64_t bytes;  /* on disk, 0 where it was there */
    bool is_settled; /* needs no sync */
};
MUST_CHECK int frame_write(
    struct written *out, const struct objects *objects, struct store *store, struct bytes frame
);
MUST_CHECK int objects_add(struct objects *objects, const struct written *written);
/* An object that is there and was compared belongs to what is written: touch it, and sync it too.
 */
MUST_CHECK int objects_keep(struct objects *objects, struct store *store, const git_oid *id);
/* Does the fast deflate get nowhere with these bytes? Frames are such. Then it is only slow, 2 ms
   for 100 kB. The middle of them tells. */
bool object_is_noise(struct bytes data);
/* Sync every loose object of `objects`, and the folders that they lie in. */
MUST_CHECK int objects_sync(struct objects *objects, struct store *store);
/* Append the paths that objects_sync() would give to paths_sync(). */
MUST_CHECK int objects_paths(struct buf *out, struct objects *objects, struct store *store);

/* A commit or tree, parsed, its id verified; E_CORRUPT naming it where it is damaged or missing. */
MUST_CHECK int commit_read(git_commit **out, struct store *store, const git_oid *id);
MUST_CHECK int tree_read(git_tree **out, struct store *store, const git_oid *id);

/* The bytes of an object, its id verified. E_CORRUPT, naming the id and `what` it is, where it is
   damaged, missing, of another type or above `limit` bytes (E_LIMIT, seen before memory is taken).
 */
MUST_CHECK int object_read(
    struct buf *out,
    struct store *store,
    const git_oid *id,
    git_object_t type,
    uint64_t limit,
    const char *what
);

/* lock.c: docs/format.md, "Locks". Held until released; a process that ends releases them. None is
   taken while one of the same kind is held. */
struct store_lock {
    int fd;
};
#define AUTO_LOCK(name) __attribute__((cleanup(lock_release))) struct store_lock name = {.fd = -1}
/* Shared, for a writer's whole operation. A waiter says on behalf of whom after a moment (through
   the error's text only; libraries do not print); E_CONFLICT where it is not free in time; E_IO
   where the repository cannot be written. */
MUST_CHECK int lock_write(struct store_lock *out, struct store *store);
/* Exclusive, for who drops objects: nobody writes meanwhile, and writers that come later wait. */
MUST_CHECK int lock_drop(struct store_lock *out, struct store *store);
/* Exclusive, for who makes packs and removes what is in them: one at a time, beside writers. */
MUST_CHECK int lock_pack(struct store_lock *out, struct store *store);
/* The same, but *got false at once where another does so. */
MUST_CHECK int lock_pack_try(bool *got, struct store_lock *out, struct store *store);
/* Exclusive, while refs move. */
MUST_CHECK int lock_refs(struct store_lock *out, struct store *store);
/* Shared while the index is used, exclusive while it is replaced; the one becomes the other where
   `lock` is held already. Never waits: *got false where another is in the way. */
MUST_CHECK int lock_index(bool *got, struct store_lock *lock, struct store *store, bool exclusive);
/* After vera.lock was opened and closed elsewhere: a process's classic locks end with that. */
void lock_tell_again(const struct store_lock *lock);
void lock_release(struct store_lock *lock);

/* refs_move.c: all the changes or, where one of them is refused, none; by compare-and-swap, each
   with a reflog line of `message`, under the refs lock; lock files that a crash left are removed
   first. Synced when it returns. Needs lock_write(). E_CONFLICT where a ref is not at `old` (or
   exists where has_old is false). */
struct ref_change {
    const char *name; /* whole: "refs/heads/main" */
    bool has_old, has_new;
    git_oid old, new;      /* has_new false: delete, with its reflog */
    const char *reflog_of; /* a new ref goes on with a copy of this one's reflog; else NULL */
};
MUST_CHECK int
refs_move(struct store *store, const struct ref_change *changes, size_t count, const char *message);
/* refs_move(), so many at once as there may be files open: the first ones have moved where it fails
   later. */
MUST_CHECK int refs_move_many(
    struct store *store, const struct ref_change *changes, size_t count, const char *message
);
/* refs_move(), and before the first ref moves what `first` names is synced as by paths_sync(): at
   once with what refs_move() has to sync first. */
MUST_CHECK int refs_move_after(
    struct bytes first,
    struct store *store,
    const struct ref_change *changes,
    size_t count,
    const char *message
);
/* Take the refs lock, remove the lock files that a crash left, and note the names
   ("refs/heads/main", "packed-refs"), one a line, whose lock files are about to be made. Before the
   end these must be gone. */
MUST_CHECK int refs_moving_begin(struct store_lock *out, struct store *store, struct bytes names);
void refs_moving_end(struct store_lock *lock);
/* Point HEAD at a branch ("refs/heads/x"), which need not exist. */
MUST_CHECK int head_move(struct store *store, const char *ref, const char *message);

/* identity.c: who writes, and when, for a commit and for a reflog. `is_author`: GIT_AUTHOR_*, else
   GIT_COMMITTER_*; the time is that of the environment's GIT_*_DATE, else now. */
MUST_CHECK int signature_make(git_signature **out, const struct identity *identity, bool is_author);
/* The committer. */
MUST_CHECK int signature_now(git_signature **out, struct store *store);

/* "Name <mail> 1700000000 +0100", as commits and reflogs have it. */
MUST_CHECK int signature_append(struct buf *out, const git_signature *who);

/* target.c: E_INVALID for a name that a new branch cannot have: one that git refuses, that a
   revision could not name, or that no file system holds. */
MUST_CHECK int branch_name_check(const char *name);

/* trash.c: the name of a fresh trash ref for this branch or tag, owned by the caller:
   refs/vera/trash/<UTC time>/<name>. */
MUST_CHECK int trash_name(char **out, struct store *store, const char *name);

/* tree.c: an entry of a version's tree by path ("vectors/frame"). *found false where there is none.
   E_CORRUPT where a tree on the way is damaged. */
MUST_CHECK int version_entry(
    bool *found, git_oid *out, struct store *store, const struct commit_id *commit, const char *path
);
/* The version's snapshot id (SHA-256 of its manifest), and its recipe. */
MUST_CHECK int
version_snapshot(struct digest *out, struct store *store, const struct commit_id *commit);
MUST_CHECK int
version_recipe(struct recipe *out, struct store *store, const struct commit_id *commit);

/* tree_write.c: every object of a version but its commit. `parent`, or NULL: what the new frames
   may be differences from. */
MUST_CHECK int snapshot_write(
    git_oid *out,
    struct frame_summary *frame,
    struct objects *objects,
    struct store *store,
    const struct loaded_adapter *loaded,
    const struct commit_id *parent
);

/* message.c: `message` (NULL, or empty once it is clean: `fallback`) as git cleans it, with these
   trailers. E_INVALID for what cannot be a message or a trailer. */
MUST_CHECK int message_make(
    struct buf *out,
    const char *message,
    const char *fallback,
    const struct trailer *trailers,
    size_t count
);
/* Append the metrics among a message's trailers. */
MUST_CHECK int message_metrics(struct version *version, const char *message);

#endif
