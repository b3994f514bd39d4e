/* Finding versions by the digits that an id begins with. */
#include "store/find.h"

#include <stdlib.h>
#include <string.h>

#include "store/reached.h"

#define CANDIDATES_MAX 20

/* Commit ids */

struct candidates {
    git_odb *odb;
    const git_oid *prefix;
    size_t digits;
    git_oid ids[CANDIDATES_MAX];
    size_t count;
};

static int candidate_visit(const git_oid *id, void *context)
{
    struct candidates *candidates = context;
    git_object_t type;
    size_t bytes;

    if (git_oid_ncmp(id, candidates->prefix, candidates->digits) != 0 ||
        git_odb_read_header(&bytes, &type, candidates->odb, id) < 0 ||
        (type != GIT_OBJECT_COMMIT && type != GIT_OBJECT_TAG))
        return 0;
    for (size_t i = 0; i < candidates->count && i < CANDIDATES_MAX; i++) {
        if (git_oid_equal(&candidates->ids[i], id))
            return 0; /* loose and packed */
    }
    if (candidates->count < CANDIDATES_MAX)
        candidates->ids[candidates->count] = *id;
    candidates->count++;
    return 0;
}

/* Several objects begin so; there may be one commit among them. */
static int candidates_choose(
    bool *found, git_oid *out, struct store *store, const char *digits, const git_oid *prefix
)
{
    struct candidates candidates = {.odb = store->odb, .prefix = prefix, .digits = strlen(digits)};

    int err = git_odb_foreach(store->odb, candidate_visit, &candidates);
    if (err < 0)
        return git_failed(err, "'%s'", digits);
    if (candidates.count <= 1) {
        *found = candidates.count == 1;
        *out = candidates.ids[0];
        return 0;
    }
    err = error_set(E_INVALID, "'%s' is ambiguous", digits);
    for (size_t i = 0; i < candidates.count && i < CANDIDATES_MAX; i++) {
        char hex[GIT_OID_HEXSZ + 1];
        git_oid_tostr(hex, sizeof(hex), &candidates.ids[i]);
        err = error_detail(err, "%s", hex);
    }
    if (candidates.count > CANDIDATES_MAX)
        err = error_detail(err, "... and %zu more", candidates.count - CANDIDATES_MAX);
    return err;
}

bool is_hex(const char *text)
{
    return text[strspn(text, "0123456789abcdefABCDEF")] == '\0';
}

int id_find(bool *found, git_oid *out, struct store *store, const char *digits)
{
    size_t count = strlen(digits);
    git_oid prefix = {{0}}, id;

    *found = false;
    if (!is_hex(digits) || count < ID_DIGITS_MIN || count > GIT_OID_HEXSZ)
        return 0;
    int err = git_oid_fromstrn(&prefix, digits, count);
    if (err == 0)
        err = git_odb_exists_prefix(&id, store->odb, &prefix, count);
    if (err == GIT_EAMBIGUOUS)
        return candidates_choose(found, out, store, digits, &prefix);
    if (err == GIT_ENOTFOUND)
        return 0;
    if (err < 0)
        return git_failed(err, "'%s'", digits);
    *found = true;
    *out = id;
    return 0;
}

/* Snapshots */

struct snapshot_search {
    struct store *store;
    const char *digits;
    struct id_set manifests; /* that were read */
    struct digest *digests;  /* of these */
    size_t digest_capacity;
    struct digest found[CANDIDATES_MAX]; /* that begin so */
    size_t found_count, unreadable;
    struct commit_id newest;
};

static void snapshot_search_release(struct snapshot_search *search)
{
    id_set_release(&search->manifests);
    free(search->digests);
}

/* *out: the snapshot of a commit; *is_version false where it is none. */
static int snapshot_read(
    bool *is_version,
    struct digest *out,
    struct snapshot_search *search,
    const struct commit_id *commit
)
{
    git_oid manifest;
    size_t index;
    bool is_new;

    int err = version_entry(is_version, &manifest, search->store, commit, "manifest");
    if (err < 0 || !*is_version)
        return err;
    if ((err = id_set_add(&index, &is_new, &search->manifests, &manifest)) < 0 ||
        (err = array_grow(
             &search->digests, &search->digest_capacity, search->manifests.count,
             sizeof(*search->digests)
         )) < 0)
        return err;
    if (is_new && (err = version_snapshot(&search->digests[index], search->store, commit)) < 0)
        return err;
    *out = search->digests[index];
    return 0;
}

static void snapshot_match(
    struct snapshot_search *search, const struct digest *snapshot, const struct commit_id *commit
)
{
    char hex[DIGEST_HEX_SIZE];

    digest_hex(hex, snapshot);
    if (strncmp(hex, search->digits, strlen(search->digits)) != 0)
        return;
    for (size_t i = 0; i < search->found_count && i < CANDIDATES_MAX; i++) {
        if (digest_equal(&search->found[i], snapshot))
            return;
    }
    if (search->found_count == 0)
        search->newest = *commit;
    if (search->found_count < CANDIDATES_MAX)
        search->found[search->found_count] = *snapshot;
    search->found_count++;
}

/* By the index, which may be wrong: taken where it names one snapshot only, and its newest commit
   has it. All else is left to who reads every version. */
static int snapshot_look(bool *found, struct snapshot_search *search, const struct tips *tips)
{
    AUTO_REACHED(reached);
    struct digest snapshot;

    int err = reached_find(&reached, search->store, tips);
    for (size_t i = 0; err == 0 && i < reached.count; i++) {
        const struct index_row *row = &reached.rows.rows[reached.order[i]];
        if (row->is_version)
            snapshot_match(search, &row->snapshot, &row->commit);
    }
    if (err == 0 && search->found_count == 1)
        err = version_snapshot(&snapshot, search->store, &search->newest);
    *found = err == 0 && search->found_count == 1 && digest_equal(&snapshot, &search->found[0]);
    if (!*found)
        search->found_count = 0;
    return err == E_NOMEM || err == E_INTERRUPTED ? err : 0;
}

static int snapshot_search_run(struct snapshot_search *search, unsigned which)
{
    AUTO_TIPS(tips);
    AUTO_HISTORY(history);
    bool is_whole = strlen(search->digits) == DIGEST_HEX_SIZE - 1, found = false;

    int err = tips_read(&tips, search->store, which);
    if (err < 0 || !tips.count || (err = snapshot_look(&found, search, &tips)) < 0 || found)
        return err;
    err = store_history(&history, search->store, tips.commits, tips.count, 0);
    for (size_t i = 0; err == 0 && i < history.count; i++) {
        struct digest snapshot;
        bool is_version;
        if (is_whole && search->found_count)
            break;
        if ((err = interrupt_check()) < 0)
            break;
        err = snapshot_read(&is_version, &snapshot, search, &history.commits[i]);
        if (err == 0 && is_version)
            snapshot_match(search, &snapshot, &history.commits[i]);
        if (err == E_CORRUPT) { /* one damaged version does not hide another */
            search->unreadable++;
            err = 0;
        }
    }
    return err;
}

static int snapshot_choose(struct commit_id *out, const struct snapshot_search *search)
{
    if (search->found_count == 1) {
        *out = search->newest;
        return 0;
    }
    if (search->found_count == 0) {
        int err = error_set(
            E_NOTFOUND, "no version has a snapshot " SNAPSHOT_MARK "%s", search->digits
        );
        if (search->unreadable)
            err = error_hint(
                err, "%zu versions could not be read; 'vera fsck' names what is damaged",
                search->unreadable
            );
        return err;
    }
    int err = error_set(E_INVALID, "'" SNAPSHOT_MARK "%s' is ambiguous", search->digits);
    for (size_t i = 0; i < search->found_count && i < CANDIDATES_MAX; i++) {
        char hex[DIGEST_HEX_SIZE];
        digest_hex(hex, &search->found[i]);
        err = error_detail(err, SNAPSHOT_MARK "%s", hex);
    }
    return err;
}

int snapshot_find(git_oid *out, struct store *store, const char *digits)
{
    __attribute__((cleanup(snapshot_search_release))
    ) struct snapshot_search search = {.store = store, .digits = digits};
    size_t count = strlen(digits);
    struct commit_id commit;

    if (count < ID_DIGITS_MIN || count > DIGEST_HEX_SIZE - 1 ||
        digits[strspn(digits, "0123456789abcdef")] != '\0')
        return error_set(
            E_INVALID, "'" SNAPSHOT_MARK "%s': a snapshot's id is %d to %d digits of 0-9 and a-f",
            digits, ID_DIGITS_MIN, DIGEST_HEX_SIZE - 1
        );
    int err = snapshot_search_run(&search, TIPS_REFS | TIPS_HEAD);
    if (err == 0 && search.found_count == 0)
        err = snapshot_search_run(&search, TIPS_DELETED);
    if (err < 0 || (err = snapshot_choose(&commit, &search)) < 0)
        return err;
    *out = git_id(&commit);
    return 0;
}
