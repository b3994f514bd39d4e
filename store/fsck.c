/*
 * Reading and checking everything. See store.h.
 *
 * In four steps: refs and reflogs; the commits, trees and tags that they reach; every blob; then
 * each distinct version, loaded and put together again, as far as its objects are whole. Damage is
 * noted and the walk goes on. Behind a commit that cannot be read its ancestors cannot be seen:
 * then every commit that is in the repository is looked at.
 */
#include <stdlib.h>
#include <string.h>

#include "format/limits.h"
#include "store/bases.h"
#include "store/fsck_report.h"
#include "store/index.h"

static int graph_bad(void *context, struct graph *graph, size_t node, int err)
{
    (void)graph;
    return fsck_bad_node(context, node, err);
}

/* Commits that nothing leads to any more */

static int adrift_visit(const git_oid *id, void *context)
{
    struct fsck *fsck = context;
    git_object_t type;
    size_t bytes, node;

    if (id_set_find(&node, &fsck->graph.ids, id) ||
        git_odb_read_header(&bytes, &type, fsck->store->odb, id) < 0 || type != GIT_OBJECT_COMMIT)
        return 0;
    return graph_root(&node, &fsck->graph, id, GIT_OBJECT_COMMIT);
}

static int adrift_check(struct fsck *fsck)
{
    bool is_cut = false;

    for (size_t i = 0; i < fsck->report->bad_count && !is_cut; i++) {
        size_t node = fsck->bad_nodes[i];
        is_cut = node == SIZE_MAX || (fsck->graph.nodes[node].type != GIT_OBJECT_TREE &&
                                      fsck->graph.nodes[node].type != GIT_OBJECT_BLOB);
    }
    if (!is_cut)
        return 0;
    int err = git_odb_foreach(fsck->store->odb, adrift_visit, fsck);
    if (err == E_NOMEM || err == E_LIMIT)
        return err; /* our own, of the visit */
    if (err < 0)
        return git_failed(err, "objects");
    return graph_walk(&fsck->graph, graph_bad, fsck);
}

/* Blobs */

static void step(struct fsck *fsck, uint64_t bytes)
{
    fsck->done += bytes;
    progress_update(fsck->progress, fsck->done, fsck->total);
}

static int blob_check(struct fsck *fsck, size_t node)
{
    AUTO_BUF(path);
    AUTO_BUF(data);
    const git_oid id = fsck->graph.ids.ids[node];

    int err = graph_path(&path, &fsck->graph, node);
    if (err < 0)
        return err;
    err = object_read(
        &data, fsck->store, &id, GIT_OBJECT_BLOB, LIMIT_FILE, (const char *)path.data
    );
    fsck->report->bytes += data.len;
    step(fsck, fsck->graph.nodes[node].bytes);
    return err < 0 ? fsck_bad_node(fsck, node, err) : interrupt_check();
}

static int blobs_check(struct fsck *fsck)
{
    int err = 0;

    for (size_t i = 0; err == 0 && i < fsck->graph.ids.count; i++) {
        if (fsck->graph.nodes[i].type == GIT_OBJECT_BLOB)
            err = blob_check(fsck, i);
        else
            fsck->report->bytes += fsck->graph.nodes[i].bytes;
    }
    return err;
}

/* Versions */

struct checked_basis {
    struct recipe recipe;
    bool is_bad;
};

struct versions {
    struct fsck *fsck;
    uint32_t *trees, *commits; /* distinct ones, each with the first commit that has it */
    size_t count;
    uint32_t *marks, *stack; /* by node: the walk (number of the tree plus 1) that was there */
    uint32_t walks;
    struct id_set snapshots; /* the first 20 bytes of their ids */
    struct checked_basis *bases;
    size_t basis_count, basis_capacity;
};

static void versions_release(struct versions *versions)
{
    free(versions->trees);
    free(versions->commits);
    free(versions->marks);
    free(versions->stack);
    free(versions->bases);
    id_set_release(&versions->snapshots);
}

/* The tree; the commit itself where that has arrived without its tree, which was here. */
static uint32_t commit_tree(const struct graph *graph, uint32_t commit)
{
    const struct graph_node *node = &graph->nodes[commit];

    if (node->edges_begin == node->edges_end)
        return commit;
    uint32_t first = graph->edges[node->edges_begin].to;
    return graph->nodes[first].type == GIT_OBJECT_TREE ? first : commit;
}

static int versions_init(struct versions *versions, struct fsck *fsck)
{
    const struct graph *graph = &fsck->graph;
    size_t count = graph->ids.count;

    versions->fsck = fsck;
    if (!(versions->trees = array_new(count, sizeof(*versions->trees))) ||
        !(versions->commits = array_new(count, sizeof(*versions->commits))) ||
        !(versions->marks = array_new(count, sizeof(*versions->marks))) ||
        !(versions->stack = array_new(count, sizeof(*versions->stack))))
        return error_wrap(E_NOMEM, "fsck");
    for (size_t i = 0; i < count; i++) {
        const struct graph_node *node = &graph->nodes[i];
        if (node->type != GIT_OBJECT_COMMIT)
            continue;
        fsck->report->versions++;
        if (!node->is_read)
            continue;
        uint32_t tree = commit_tree(graph, (uint32_t)i);
        if (versions->marks[tree])
            continue;
        versions->marks[tree] = 1;
        versions->trees[versions->count] = tree;
        versions->commits[versions->count++] = (uint32_t)i;
    }
    versions->walks = 1;
    return 0;
}

/* All that a tree holds: how large its blobs are, and whether each object is whole. */
static bool tree_is_whole(uint64_t *out_bytes, struct versions *versions, uint32_t tree)
{
    const struct graph *graph = &versions->fsck->graph;
    uint32_t mark = ++versions->walks;
    size_t depth = 0;
    bool is_whole = true;

    *out_bytes = 0;
    if (graph->nodes[tree].type == GIT_OBJECT_COMMIT)
        return !graph->nodes[tree].is_bad;
    versions->marks[tree] = mark;
    versions->stack[depth++] = tree;
    while (depth > 0) {
        const struct graph_node *node = &graph->nodes[versions->stack[--depth]];
        is_whole = is_whole && !node->is_bad;
        if (node->type == GIT_OBJECT_BLOB)
            *out_bytes += node->bytes;
        for (uint32_t i = node->edges_begin; i < node->edges_end; i++) {
            uint32_t to = graph->edges[i].to;
            if (versions->marks[to] != mark) {
                versions->marks[to] = mark;
                versions->stack[depth++] = to;
            }
        }
    }
    return is_whole;
}

/* The entry of this name; the tree itself where there is none. */
static size_t entry_node(const struct graph *graph, uint32_t tree, const char *name)
{
    for (uint32_t i = graph->nodes[tree].edges_begin; i < graph->nodes[tree].edges_end; i++) {
        if (strcmp(graph_name(graph, graph->edges[i].name), name) == 0)
            return graph->edges[i].to;
    }
    return tree;
}

/* Draw the matrices that the recipe tells, where it does, and compare. */
static int basis_check(const struct recipe *recipe)
{
    struct digest a, b;

    if (!recipe->has_variant || !recipe->has_matrices)
        return 0;
    struct basis_recipe drawn = recipe_basis(recipe);
    int err = basis_digests(&a, &b, &drawn, recipe->dtype_a, recipe->dtype_b);
    if (err < 0)
        return err;
    if (!digest_equal(&a, &recipe->sha256_a) || !digest_equal(&b, &recipe->sha256_b))
        return error_set(E_CORRUPT, "the matrices that it tells have other digests");
    return 0;
}

/* Each basis is drawn once; a version that stands on a bad one is named all the same. */
static int
basis_find(struct checked_basis **out, struct versions *versions, const struct recipe *recipe)
{
    for (size_t i = 0; i < versions->basis_count; i++) {
        *out = &versions->bases[i];
        if (recipe_basis_compare(&versions->bases[i].recipe, recipe) == 0)
            return 0;
    }
    int err = array_grow(
        &versions->bases, &versions->basis_capacity, versions->basis_count + 1,
        sizeof(*versions->bases)
    );
    if (err < 0)
        return err;
    *out = &versions->bases[versions->basis_count++];
    **out = (struct checked_basis){.recipe = *recipe};
    versions->fsck->report->bases++;
    err = basis_check(recipe);
    (*out)->is_bad = err < 0;
    return err == E_NOMEM || err == E_INTERRUPTED ? err : 0;
}

static int snapshot_count(struct versions *versions, const struct digest *snapshot)
{
    size_t index;
    git_oid id;

    git_oid_fromraw(&id, snapshot->bytes);
    int err = id_set_add(&index, NULL, &versions->snapshots, &id);
    versions->fsck->report->snapshots = versions->snapshots.count;
    return err;
}

static int snapshot_prove(
    size_t *out_bad, struct versions *versions, const struct snapshot *snapshot, uint32_t tree
)
{
    AUTO_ADAPTER_FILES(files);
    struct checked_basis *basis;
    struct recipe recipe;

    int err = recipe_decode(&recipe, buf_bytes(&snapshot->recipe));
    if (err < 0 || (err = basis_find(&basis, versions, &recipe)) < 0)
        return err;
    if (basis->is_bad) {
        *out_bad = entry_node(&versions->fsck->graph, tree, "recipe");
        return error_set(E_CORRUPT, "the basis that it tells has other digests");
    }
    /* Loading it was snapshot_check(). */
    if ((err = snapshot_restore(&files, snapshot)) < 0)
        return err;
    return snapshot_count(versions, &snapshot->id);
}

static int version_check(struct versions *versions, uint32_t tree, uint32_t commit)
{
    struct fsck *fsck = versions->fsck;
    AUTO_SNAPSHOT(snapshot);
    struct commit_id id = commit_id_of(&fsck->graph.ids.ids[commit]);
    size_t bad = tree;
    uint64_t bytes;

    if (!tree_is_whole(&bytes, versions, tree))
        return 0; /* what is damaged is named already */
    int err = store_load(&snapshot, fsck->store, &id);
    if (err == 0)
        err = snapshot_prove(&bad, versions, &snapshot, tree);
    step(fsck, bytes);
    if (err < 0 && !fsck->graph.nodes[bad].is_bad)
        return fsck_bad_node(fsck, bad, err);
    return err == E_NOMEM || err == E_INTERRUPTED ? err : 0;
}

static int contents_check(struct fsck *fsck)
{
    __attribute__((cleanup(versions_release))) struct versions versions = {0};
    int err = versions_init(&versions, fsck);

    for (size_t i = 0; i < fsck->graph.ids.count; i++)
        fsck->total += fsck->graph.nodes[i].type == GIT_OBJECT_BLOB ? fsck->graph.nodes[i].bytes
                                                                    : 0;
    for (size_t i = 0; err == 0 && i < versions.count; i++) {
        uint64_t bytes;
        (void)tree_is_whole(&bytes, &versions, versions.trees[i]);
        fsck->total += bytes;
    }
    if (err == 0)
        err = blobs_check(fsck);
    for (size_t i = 0; err == 0 && i < versions.count; i++) {
        if ((err = version_check(&versions, versions.trees[i], versions.commits[i])) == 0)
            err = interrupt_check();
    }
    return err;
}

/* The index */

struct index_look {
    struct fsck *fsck;
    bool is_bad; /* and named: once, since all of it is made anew together */
};

static int index_bad(void *context, const struct commit_id *commit, const char *problem)
{
    struct index_look *look = context;
    char hex[COMMIT_HEX_SIZE] = "";

    if (look->is_bad)
        return 0;
    look->is_bad = true;
    if (commit)
        commit_hex(hex, commit);
    int err = error_set(
        E_CORRUPT, "%s%s%s; 'vera reindex' makes it anew", hex, commit ? ": " : "", problem
    );
    return fsck_bad_ref(look->fsck, INDEX_FILE, err);
}

static int everything_check(struct fsck *fsck)
{
    struct index_look look = {.fsck = fsck};
    int err;

    if ((err = graph_init(&fsck->graph, fsck->store)) < 0 || (err = fsck_refs(fsck)) < 0 ||
        (err = graph_walk(&fsck->graph, graph_bad, fsck)) < 0 || (err = adrift_check(fsck)) < 0 ||
        (err = contents_check(fsck)) < 0 || (err = index_check(fsck->store, index_bad, &look)) < 0)
        return err;
    fsck->report->objects = fsck->graph.ids.count;
    return fsck_touched(fsck);
}

static void fsck_release(struct fsck *fsck)
{
    for (size_t i = 0; i < fsck->root_count; i++) {
        free(fsck->roots[i].ref);
        free(fsck->roots[i].name);
    }
    free(fsck->roots);
    free(fsck->bad_nodes);
    graph_release(&fsck->graph);
    store_release(&fsck->store);
}

/* Every commit and tag, also one that no ref there leads to: once it is here, it is not looked at
   when a ref leads to it some day. */
static int arrived_roots(struct fsck *fsck, const struct id_set *arrived)
{
    int err = 0;

    for (size_t i = 0; err == 0 && i < arrived->count; i++) {
        git_object_t type;
        size_t bytes, ignored;
        const git_oid *id = &arrived->ids[i];
        int code = git_odb_read_header(&bytes, &type, fsck->store->odb, id);
        if (code < 0)
            return git_failed(code, "object %s", git_oid_tostr_s(id));
        if (type == GIT_OBJECT_COMMIT || type == GIT_OBJECT_TAG)
            err = graph_root(&ignored, &fsck->graph, id, type);
    }
    return err;
}

static int arrived_check(struct fsck *fsck, const struct id_set *arrived)
{
    struct graph *graph = &fsck->graph;

    int err = graph_init(graph, fsck->store);
    graph->within = arrived;
    graph->others_exist = true;
    if (err < 0 || (err = arrived_roots(fsck, arrived)) < 0 ||
        (err = graph_walk(graph, graph_bad, fsck)) < 0 || (err = contents_check(fsck)) < 0)
        return err;
    const struct fsck_bad *bad = fsck->report->bad;
    if (fsck->report->bad_count)
        return error_set(E_CORRUPT, "object %s: %s", bad->object, bad->problem);
    return 0;
}

int fsck_arrived(uint64_t *out_versions, struct store *quarantined, const struct id_set *arrived)
{
    struct fsck_report report = {0};
    __attribute__((cleanup(fsck_release))) struct fsck fsck = {.report = &report};

    int err = store_open(&fsck.store, store_path(quarantined), store_path(quarantined));
    if (err == 0)
        err = arrived_check(&fsck, arrived);
    if (err == 0)
        *out_versions = report.versions;
    fsck_report_release(&report);
    return err;
}

int store_fsck(struct fsck_report *out, struct store *store, struct progress *progress)
{
    struct fsck_report report = {0};
    __attribute__((cleanup(fsck_release))
    ) struct fsck fsck = {.report = &report, .progress = progress};

    int err = store_open(&fsck.store, store_path(store), store_path(store));
    if (err == 0)
        err = everything_check(&fsck);
    if (err < 0) {
        fsck_report_release(&report);
        return err;
    }
    *out = report;
    return 0;
}
