/*
 * The repository: a bare git repository in DIR/.vera, through libgit2.
 *
 * A version is a commit whose tree holds a snapshot's parts (docs/format.md). P3: every object is
 * written and synced first; moving the ref by compare-and-swap is the commit. P4: plain git,
 * everything reachable from a ref through trees. P5: what store_load() returns was hashed and
 * compared.
 *
 * One `struct store` per thread. Writers hold a shared lock on .vera/vera.lock for the time of one
 * operation; it dies with its process.
 */
#ifndef STORE_STORE_H
#define STORE_STORE_H

#include <time.h>

#include "format/interrupt.h"
#include "format/snapshot.h"

struct commit_id {
    uint8_t bytes[20];
};
#define COMMIT_HEX_SIZE 41
void commit_hex(char out[COMMIT_HEX_SIZE], const struct commit_id *id);
bool commit_equal(const struct commit_id *a, const struct commit_id *b);

struct store;
#define AUTO_STORE(name) __attribute__((cleanup(store_release))) struct store *name = NULL

/* Create DIR/.vera (DIR and its parents too): bare, branch main, core.logAllRefUpdates, core.fsync
   all 256 fan-out directories there and synced. It appears whole. E_EXISTS where there is one.
   *out_path: its absolute path, owned by the caller. */
MUST_CHECK int store_init(char **out_path, const char *dir);

/* The repository named by `vera_repo` (the value of $VERA_REPO, may be NULL or empty: then the
   nearest .vera/ from `dir` upwards). E_NOTFOUND with a hint (vera init); E_IO for another owner's
   (hint: safe.directory); E_CORRUPT for what is no repository. Reading needs no write permission
   anywhere. */
MUST_CHECK int store_open(struct store **out, const char *dir, const char *vera_repo);
void store_free(struct store *store);
void store_release(struct store **store);
const char *store_path(const struct store *store);

/* Who makes a commit: git's own configuration (user.name, user.email, GIT_AUTHOR_* and
   GIT_COMMITTER_* of the environment), else the login name and host; never a failure for want of a
   name. `author` overrides
   ("Name <mail>" or just a name), NULL for none: E_INVALID where it cannot be a git author. */
struct identity {
    char *name, *email;
};
MUST_CHECK int store_identity(struct identity *out, struct store *store, const char *author);
void identity_release(struct identity *identity);

/* A line "Key: value" at the end of the message, as git's trailers. */
struct trailer {
    const char *key, *value;
};

struct commit_request {
    const struct snapshot *snapshot;
    const char *branch;  /* NULL: the current one. New: starts at HEAD's tip */
    const char *message; /* NULL: none was given, a line is made of the snapshot */
    const char *author;  /* NULL: store_identity() */
    const struct trailer *trailers;
    size_t trailer_count;
    bool allow_empty; /* commit a snapshot that the tip has already */
    /* Of a merge, and of whatever else was computed from the tip. Both NULL for a plain commit. */
    const struct commit_id *onto; /* the tip that it was computed from: E_CONFLICT where it moved */
    const struct commit_id *merged; /* the second parent; needs `onto` */
    const char *action;             /* the reflog's word for it, NULL: "commit" */
};

struct commit_result {
    struct commit_id commit;
    uint64_t stored_bytes; /* size on disk of the git objects that are new */
    struct frame_summary { /* vectors/frame as committed */
        const char *codec;
        unsigned depth;
        uint64_t bytes;
    } frame;
    char *branch; /* owned by the caller */
};

/* E_EXISTS where the branch's tip has this snapshot id: out->commit and out->branch then name that
   tip (the one case in which `out` is written on failure). E_CONFLICT: another writer moved the
   branch, or a lock was not free in time. When it returns 0 the version survives a power cut. */
MUST_CHECK int
store_commit(struct commit_result *out, struct store *store, const struct commit_request *request);

/*
 * Merging: where two lines of history parted. Several commits may be the last ones that both have
 * (after merges across): the newest one is `base`, of those of one second the one with the smallest
 * id, so that exchanging the two gives the same.
 */
struct merge_base {
    struct commit_id commit; /* where count > 0 */
    size_t count;            /* how many there are; 0: the histories have nothing in common */
};
/* E_UNSUPPORTED, with a hint, in a shallow clone whose boundary hides the answer; E_CORRUPT. */
MUST_CHECK int store_merge_base(
    struct merge_base *out,
    struct store *store,
    const struct commit_id *a,
    const struct commit_id *b
);

/* Move the current branch forward from its tip (`from`, NULL: it is unborn) to a version that has
   it among its ancestors, as the caller knows. `what` is for the reflog: "merge side". E_CONFLICT
   where the tip is elsewhere by now. */
MUST_CHECK int store_fast_forward(
    struct store *store, const struct commit_id *from, const struct commit_id *to, const char *what
);

/* The one parent of a commit, so that the change between the two is the commit's own. E_INVALID,
   with a hint, for a merge, and for the first version of a history; E_UNSUPPORTED where this
   shallow clone lacks the parent. */
MUST_CHECK int
store_parent(struct commit_id *out, struct store *store, const struct commit_id *commit);

/* What a commit says of itself. */
struct version {
    struct commit_id id;
    struct digest snapshot;
    struct commit_id *parents;
    size_t parent_count;
    char *author_name, *author_email;
    time_t time;     /* committer's, seconds since the epoch */
    int time_offset; /* minutes east of UTC */
    char *message;   /* without trailing newline, trailers included */
    struct version_metric {
        char *name;
        double value;
    } * metrics; /* trailers "Metric-NAME: number", in order of appearance */
    size_t metric_count;
};
MUST_CHECK int store_version(struct version *out, struct store *store, const struct commit_id *id);
void version_release(struct version *version);
/* A commit's message, as in struct version, owned by the caller. Nothing else is read, so that many
   can be listed. */
MUST_CHECK int store_message(char **out, struct store *store, const struct commit_id *id);
#define AUTO_VERSION(name) __attribute__((cleanup(version_release))) struct version name = {0}

/* The snapshot of a commit, every byte hashed and compared (git's ids, the payload's and the basis'
   digests, the manifest's where a file is stored as it is). E_CORRUPT naming the object and what it
   was. */
MUST_CHECK int store_load(struct snapshot *out, struct store *store, const struct commit_id *id);

/* What a version's frame is and takes, without decoding it. */
MUST_CHECK int
store_frame(struct frame_summary *out, struct store *store, const struct commit_id *id);

/* Branch, tag, remote/branch, HEAD, commit id or a unique prefix of 6 digits or more, sha256: and 6
   to 64 digits (the newest commit that any ref reaches), each with ~n, ^, ^n, @{n} in any sequence.
   E_NOTFOUND, naming what was not found and the nearest branch or tag; E_INVALID for bad syntax or
   an ambiguous prefix (listing the candidates). */
MUST_CHECK int store_resolve(struct commit_id *out, struct store *store, const char *revision);

/* History: commits reachable from the starts, newest first (children before parents). */
struct history {
    struct commit_id *commits;
    size_t count;
    bool is_cut; /* one of them has parents that this shallow clone lacks */
};
#define AUTO_HISTORY(name) __attribute__((cleanup(history_release))) struct history name = {0}
/* `starts` NULL: every branch, tag and remote branch. `limit` 0: no limit. */
MUST_CHECK int store_history(
    struct history *out,
    struct store *store,
    const struct commit_id *starts,
    size_t start_count,
    size_t limit
);
void history_release(struct history *history);

/* Branches, tags, remote branches, deleted ones. */
enum ref_kind { REF_BRANCH, REF_TAG, REF_REMOTE, REF_DELETED };
struct ref {
    enum ref_kind kind;
    char *name;              /* "main", "run/1", "origin/main" */
    struct commit_id commit; /* a tag is peeled */
    bool current;            /* HEAD is on it */
    char *upstream;          /* branches: "origin/main" or NULL */
    char *message;           /* annotated tags: theirs; else NULL */
    time_t time;             /* deleted: when; else 0 */
};
struct refs {
    struct ref *refs; /* by name; deleted ones newest first */
    size_t count;
};
#define AUTO_REFS(name) __attribute__((cleanup(refs_release))) struct refs name = {0}
MUST_CHECK int store_refs(struct refs *out, struct store *store, enum ref_kind kind);
void refs_release(struct refs *refs);

/* The current branch's name (owned by the caller), and its tip; *has_tip false where it is unborn.
   A detached HEAD (made by git): name NULL. */
MUST_CHECK int
store_head(char **out_branch, struct commit_id *tip, bool *has_tip, struct store *store);

/* All of these: E_EXISTS, E_NOTFOUND, E_INVALID (a name that git refuses), E_CONFLICT (moved by
   another). The reflog gets a line. What a branch or tag pointed to before goes to
   refs/vera/trash/<time>/<name> where it would be lost. */
MUST_CHECK int
store_branch_create(struct store *store, const char *name, const struct commit_id *at);
MUST_CHECK int store_branch_delete(
    struct commit_id *was, struct store *store, const char *name
); /* E_INVALID: the current one */
MUST_CHECK int store_branch_rename(
    struct commit_id *at, struct store *store, const char *old_name, const char *new_name
);
MUST_CHECK int
store_switch(struct store *store, const char *branch); /* E_NOTFOUND where there is none */
MUST_CHECK int store_switch_unborn(
    struct store *store, const char *branch
); /* switch -c before the first commit */
MUST_CHECK int store_tag_create(
    struct store *store, const char *name, const struct commit_id *at, const char *message
);
MUST_CHECK int store_tag_delete(struct commit_id *was, struct store *store, const char *name);
MUST_CHECK int store_reset(
    struct commit_id *previous, struct store *store, const struct commit_id *to
); /* the current branch */

/* basis list: every basis that a commit reachable from any ref stands on. */
struct store_basis {
    struct recipe recipe;
    size_t versions; /* commits that use it */
};
struct store_bases {
    struct store_basis *bases; /* by state, then digest of A, then seed */
    size_t count;
};
MUST_CHECK int store_bases(struct store_bases *out, struct store *store);
void store_bases_release(struct store_bases *bases);

/*
 * Versions by what they are (docs/format.md, "Index"): those that branches, tags, remote branches
 * and a detached HEAD reach. Keys are rank, kind, base, seed, date, branch, d_initial, targets,
 * layers, params, metric.NAME; comparisons are joined by and, or, not, parentheses. What a version
 * does not have makes a comparison false. `branch` is every branch and remote branch whose history
 * holds the version, `targets` the last parts of its modules' names: = asks whether the text is one
 * of them (or all of the targets: "key,query").
 */
struct query;
/* `expression` NULL: all versions. `sort`: a key, a minus before it for the other order, newest
   first where it is equal; versions without it come last. NULL: newest first, children before
   parents. E_INVALID, E_LIMIT, with a mark below the place. */
MUST_CHECK int query_parse(struct query **out, const char *expression, const char *sort);
void query_free(struct query *query);
void query_release(struct query **query);
/* The keys that it names, in order, each once; NULL behind the last one. */
const char *query_key_at(const struct query *query, size_t i);

struct query_result {
    struct commit_id *commits;
    size_t count;
    struct refs branches, tags, remotes; /* as they were read for it */
    size_t unreadable;       /* damaged versions, of which nobody knows whether they belong here */
    struct query_rows *rows; /* private */
};
#define AUTO_QUERY_RESULT(name)                                                                    \
    __attribute__((cleanup(query_result_release))) struct query_result name = {0}
/* The first `limit` ones; 0: all. The index is brought up to date on the way; where it cannot be
   written, or not even read, the answer is the same and only takes longer. */
MUST_CHECK int
store_query(struct query_result *out, struct store *store, const struct query *query, size_t limit);
void query_result_release(struct query_result *result);
/* Append what the key is for one version of the result, as text; nothing where the version does not
   have it. Of branches the first by name, and that only where the query names the key. E_INVALID
   where there is no such key. */
MUST_CHECK int
query_value(struct buf *out, const struct query_result *result, size_t i, const char *key);

/* Make the index anew. *versions: how many are in it; *unreadable: damaged ones, which are not.
   E_IO, E_CONFLICT where it cannot be written now. */
MUST_CHECK int store_reindex(uint64_t *versions, uint64_t *unreadable, struct store *store);

/* Sizes. */
struct store_stats {
    uint64_t versions, snapshots;
    uint64_t raw_bytes;       /* the files of every version, as they were committed, added up */
    uint64_t stored_bytes;    /* sizes of all files under .vera */
    uint64_t allocated_bytes; /* their blocks on disk */
    struct stats_parts {      /* of stored_bytes, which they add up to */
        uint64_t vectors, bases, files; /* of versions; files: whatever is neither of the others */
        uint64_t trees, commits;        /* commits: tags, too */
        uint64_t unreached;             /* objects that no ref reaches */
        uint64_t index, refs;           /* refs: reflogs, too */
        uint64_t other;                 /* of git: indexes of packs, configuration */
    } parts;
    struct branch_stats {
        char *name;
        uint64_t versions, stored_bytes; /* commits and objects (size on disk) reachable from it */
    } * branches;
    size_t branch_count;
};
MUST_CHECK int store_stats(struct store_stats *out, struct store *store);
void store_stats_release(struct store_stats *stats);

/* Drop what nothing needs and pack the rest: one pack, one file of refs. Trash refs and lines of
   reflogs go after 90 days, objects that nothing reaches after 30 days, or after `expire`. No
   object's id changes. Others read and write meanwhile, but for the moment in which things go;
   killed anywhere, every version is whole. With dry_run nothing is written, not even a lock.
   E_CONFLICT where a writer does not end in time, or another gc runs; E_UNSUPPORTED in a shallow
   clone; E_CORRUPT where something that is needed is damaged: then nothing is dropped. */
struct gc_request {
    bool dry_run;
    bool has_expire;
    uint64_t expire; /* seconds */
    struct progress *progress;
};
struct gc_result {
    uint64_t before_bytes, after_bytes; /* sizes of all files under .vera; with dry_run as if
                                           nothing were packed anew */
    uint64_t dropped;                   /* objects */
};
MUST_CHECK int
store_gc(struct gc_result *out, struct store *store, const struct gc_request *request);

/* Thin one branch. What is thinned are its own versions, in a row, from the tip back to the first
   one that another branch, a tag or a detached HEAD reaches. Kept are the tip and what any rule
   keeps; the others leave the history. From the first gap on the kept ones become new commits: the
   same snapshots, authors, dates and messages, with frames that are differences from each other.
   The old tip goes to the trash; nothing else changes.

   Needs no gc, and frees nothing before one: what was dropped is kept as all trash is. E_NOTFOUND
   (no such branch; no version with that metric), E_INVALID (no rules), E_UNSUPPORTED where a merge
   is among its own versions or in a shallow clone, E_CONFLICT where the branch moved meanwhile:
   then nothing has changed. */
struct prune_rule {
    enum { PRUNE_LAST, PRUNE_EVERY, PRUNE_BEST } kind;
    uint64_t count; /* the newest so many; the first one, and each so many after it */
    const char
        *metric; /* PRUNE_BEST: the version whose value is the highest, the newest of those */
    bool lowest; /* the lowest */
};
struct prune_request {
    const char *branch;
    const struct prune_rule *rules;
    size_t rule_count;
    bool dry_run; /* write nothing: every version is as it was */
    struct progress *progress;
};
struct prune_result {
    struct prune_version {
        struct commit_id was, is; /* equal where it did not change; `is` is meant for kept ones */
        bool kept;
    } * versions; /* the branch's own, newest first */
    size_t count;
    struct commit_id previous, tip; /* of the branch */
};
MUST_CHECK int
store_prune(struct prune_result *out, struct store *store, const struct prune_request *request);
void prune_result_release(struct prune_result *result);

/* Read and re-hash everything that any ref (trash and reflog included) reaches. */
struct fsck_bad {
    char *object;               /* 40 hex, or a ref's name */
    char *problem;              /* one line: what it is and what is wrong */
    struct commit_id *versions; /* commits that it touches */
    size_t version_count;
    char **branches; /* branches and tags that reach one of these commits */
    size_t branch_count;
};
struct fsck_report {
    uint64_t objects, versions, snapshots, refs, bases; /* checked */
    uint64_t bytes;                                     /* hashed */
    struct fsck_bad *bad;
    size_t bad_count;
    struct commit_id *safe_versions; /* of those that were checked: no damage touches them */
    size_t safe_version_count;
    char **safe_branches; /* branches and tags that reach no version that damage touches */
    size_t safe_branch_count;
};
/* 0 also where damage was found: the report says so. Bases that are proved are regenerated once
 * each. */
MUST_CHECK int store_fsck(struct fsck_report *out, struct store *store, struct progress *progress);
void fsck_report_release(struct fsck_report *report);

/* Fetch whole what a report names as damaged or missing, from the repository at `remote` (a path,
   or the name of a remote that is one). What that has not either stays. Others' writing waits
   meanwhile. Objects behind a commit or tree that was missing can only be seen now: check again.
   E_NOTFOUND, E_UNSUPPORTED (a URL), E_IO, E_CONFLICT. */
struct repair_result {
    struct commit_id *ids; /* of objects of any type */
    size_t count;
};
MUST_CHECK int store_repair(
    struct repair_result *out,
    struct store *store,
    const char *remote,
    const struct fsck_report *report
);
void repair_result_release(struct repair_result *result);

#endif
