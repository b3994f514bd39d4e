/*
 * Sizes. One walk over the object graph gives every commit, tree and blob once, with its size on
 * disk; what a branch reaches is then a walk over integers, so that thousands of versions on many
 * branches stay cheap. Manifests, which say how large the files were, are read once each.
 */
#include <stdlib.h>
#include <string.h>

#include "format/limits.h"
#include "format/manifest.h"
#include "store/graph.h"
#include "store/refs.h"
#include "store/sizes.h"

struct stats_walk {
    struct store *store;
    struct graph graph;
    struct sizes sizes;
    uint64_t *raw_bytes;  /* by node, of manifests that were read, plus 1 */
    uint32_t *marks;      /* by node: the last branch (plus 1) that reached it */
    uint64_t *disk_bytes; /* by node */
    uint32_t *stack;
    struct store_stats *stats;
    size_t branch_capacity;
};

static void stats_walk_release(struct stats_walk *walk)
{
    graph_release(&walk->graph);
    sizes_release(&walk->sizes);
    free(walk->raw_bytes);
    free(walk->marks);
    free(walk->stack);
    free(walk->disk_bytes);
}

/* Roots */

static int tag_visit(void *context, const char *name, const git_oid *target)
{
    struct stats_walk *walk = context;
    size_t node;

    (void)name;
    return graph_root(&node, &walk->graph, target, GIT_OBJECT_ANY);
}

static int graph_fill(struct stats_walk *walk)
{
    AUTO_TIPS(tips);
    size_t node;

    int err = graph_init(&walk->graph, walk->store);
    if (err == 0)
        err = tips_read(&tips, walk->store, TIPS_ALL);
    for (size_t i = 0; err == 0 && i < tips.count; i++) {
        git_oid id = git_id(&tips.commits[i]);
        err = graph_root(&node, &walk->graph, &id, GIT_OBJECT_COMMIT);
    }
    if (err == 0)
        err = refs_each(walk->store, REF_TAGS, tag_visit, walk);
    if (err == 0)
        err = graph_walk(&walk->graph, NULL, NULL);
    size_t count = walk->graph.ids.count;
    if (err == 0 && (!(walk->raw_bytes = array_new(count, sizeof(*walk->raw_bytes))) ||
                     !(walk->marks = array_new(count, sizeof(*walk->marks))) ||
                     !(walk->stack = array_new(count, sizeof(*walk->stack))) ||
                     !(walk->disk_bytes = array_new(count, sizeof(*walk->disk_bytes)))))
        err = error_wrap(E_NOMEM, "sizes");
    return err;
}

/* Versions */

/* The entry of this name in a commit's tree; *found false where there is none. */
static bool manifest_find_node(size_t *out, const struct graph *graph, size_t commit)
{
    const struct graph_node *tree = &graph
                                         ->nodes[graph->edges[graph->nodes[commit].edges_begin].to];

    for (uint32_t i = tree->edges_begin; i < tree->edges_end; i++) {
        *out = graph->edges[i].to;
        if (strcmp(graph_name(graph, graph->edges[i].name), "manifest") == 0 &&
            graph->nodes[*out].type == GIT_OBJECT_BLOB)
            return true;
    }
    return false;
}

static int manifest_measure(struct stats_walk *walk, size_t node)
{
    AUTO_BUF(text);
    AUTO_MANIFEST(manifest);
    uint64_t bytes = 0;
    int err;

    if ((err = object_read(
             &text, walk->store, &walk->graph.ids.ids[node], GIT_OBJECT_BLOB, LIMIT_TEXT, "manifest"
         )) < 0 ||
        (err = manifest_decode(&manifest, buf_bytes(&text))) < 0)
        return err;
    walk->stats->snapshots++; /* equal ones are one blob */
    for (size_t i = 0; i < manifest.count; i++)
        bytes += manifest.files[i].bytes;
    walk->raw_bytes[node] = bytes + 1;
    return 0;
}

static int versions_measure(struct stats_walk *walk)
{
    const struct graph *graph = &walk->graph;
    size_t manifest;
    int err = 0;

    for (size_t i = 0; err == 0 && i < graph->ids.count; i++) {
        if (graph->nodes[i].type != GIT_OBJECT_COMMIT)
            continue;
        walk->stats->versions++;
        if (!manifest_find_node(&manifest, graph, i)) /* git's, not ours: no snapshot */
            continue;
        if (!walk->raw_bytes[manifest])
            err = manifest_measure(walk, manifest);
        walk->stats->raw_bytes += walk->raw_bytes[manifest] ? walk->raw_bytes[manifest] - 1 : 0;
        if (err == 0)
            err = interrupt_check();
    }
    return err;
}

/* Branches */

static void
branch_measure(struct branch_stats *branch, struct stats_walk *walk, size_t tip, uint32_t mark)
{
    const struct graph *graph = &walk->graph;
    size_t depth = 0;

    walk->stack[depth++] = (uint32_t)tip;
    walk->marks[tip] = mark;
    while (depth > 0) {
        uint32_t at = walk->stack[--depth];
        const struct graph_node *node = &graph->nodes[at];
        branch->versions += node->type == GIT_OBJECT_COMMIT;
        branch->stored_bytes += walk->disk_bytes[at];
        for (uint32_t i = node->edges_begin; i < node->edges_end; i++) {
            uint32_t to = graph->edges[i].to;
            if (walk->marks[to] == mark)
                continue;
            walk->marks[to] = mark;
            walk->stack[depth++] = to; /* each once, so there is room */
        }
    }
}

static int branch_visit(void *context, const char *name, const git_oid *target)
{
    struct stats_walk *walk = context;
    struct store_stats *stats = walk->stats;
    size_t tip;

    int err = array_grow(
        &stats->branches, &walk->branch_capacity, stats->branch_count + 1, sizeof(*stats->branches)
    );
    if (err < 0)
        return err;
    if (!id_set_find(&tip, &walk->graph.ids, target))
        return 0; /* it moved since the walk began */
    struct branch_stats *branch = &stats->branches[stats->branch_count++];
    if (!(branch->name = bytes_dup(text_bytes(name + strlen(REF_HEADS)))))
        return error_wrap(E_NOMEM, "sizes");
    branch_measure(branch, walk, tip, (uint32_t)stats->branch_count);
    return interrupt_check();
}

/* Where the bytes are */

/* The name that a blob's way from its version begins with: "vectors", "basis", "manifest" ... */
static const char *part_name(const struct graph *graph, size_t node)
{
    uint32_t name = 0;

    while (graph->nodes[node].type != GIT_OBJECT_COMMIT && graph->nodes[node].from != node) {
        if (graph->nodes[node].name)
            name = graph->nodes[node].name;
        node = graph->nodes[node].from;
    }
    return graph_name(graph, name);
}

static uint64_t *part_of(struct stats_parts *parts, const struct graph *graph, size_t node)
{
    if (graph->nodes[node].type == GIT_OBJECT_TREE)
        return &parts->trees;
    if (graph->nodes[node].type != GIT_OBJECT_BLOB)
        return &parts->commits;
    const char *name = part_name(graph, node);
    if (strcmp(name, "vectors") == 0)
        return &parts->vectors;
    return strcmp(name, "basis") == 0 ? &parts->bases : &parts->files;
}

static void parts_measure(struct stats_walk *walk)
{
    struct stats_parts *parts = &walk->stats->parts;
    const struct sizes *sizes = &walk->sizes;
    uint64_t reached = 0;

    for (size_t i = 0; i < walk->graph.ids.count; i++) {
        walk->disk_bytes[i] = sizes_of(sizes, &walk->graph.ids.ids[i]);
        *part_of(parts, &walk->graph, i) += walk->disk_bytes[i];
        reached += walk->disk_bytes[i];
    }
    parts->unreached = sizes->objects_bytes - reached;
    parts->index = sizes->index_bytes;
    parts->refs = sizes->refs_bytes;
    parts->other = sizes->bytes - sizes->objects_bytes - parts->index - parts->refs;
}

static int stats_fill(struct stats_walk *walk)
{
    int err;

    if ((err = graph_fill(walk)) < 0 || (err = sizes_read(&walk->sizes, walk->store)) < 0 ||
        (err = versions_measure(walk)) < 0)
        return err;
    parts_measure(walk);
    walk->stats->stored_bytes = walk->sizes.bytes;
    walk->stats->allocated_bytes = walk->sizes.allocated_bytes;
    return refs_each(walk->store, REF_HEADS, branch_visit, walk);
}

int store_stats(struct store_stats *out, struct store *store)
{
    struct store_stats stats = {0};
    __attribute__((cleanup(stats_walk_release))
    ) struct stats_walk walk = {.store = store, .stats = &stats};

    int err = stats_fill(&walk);
    if (err < 0) {
        store_stats_release(&stats);
        return err;
    }
    *out = stats;
    return 0;
}

void store_stats_release(struct store_stats *stats)
{
    for (size_t i = 0; i < stats->branch_count; i++)
        free(stats->branches[i].name);
    free(stats->branches);
    *stats = (struct store_stats){0};
}
