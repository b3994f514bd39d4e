/*
 * All objects that some roots reach, and which leads to which. Commits, trees and tags are read,
 * each once; blobs are known by name. So a walk over thousands of versions is one over integers.
 */
#ifndef STORE_GRAPH_H
#define STORE_GRAPH_H

#include "store/id_set.h"

struct graph_node {
    git_object_t type; /* GIT_OBJECT_ANY: a root that could not be read */
    bool is_read, is_bad;
    uint32_t edges_begin, edges_end; /* where it leads to */
    uint32_t from, name;             /* who led to it first (itself: a root), by which name */
    uint64_t bytes;                  /* contents; a blob's as its header says */
};

struct graph_edge {
    uint32_t to;
    uint32_t name; /* of a tree's entry, an offset in names; "" for all others */
};

struct graph {
    struct store *store;
    struct id_set ids;
    struct graph_node *nodes; /* by index in ids */
    size_t node_capacity;
    struct graph_edge *edges;
    size_t edge_count, edge_capacity;
    struct buf names; /* NUL-terminated, one after the other */
    struct id_set shallow;
    const struct id_set *within; /* others are not looked at; NULL: all are */
    bool others_exist;           /* but they must be there, and be what their referrer says */
    git_odb *without;            /* what is in there is not looked at; NULL: all is */
    size_t next;                 /* node to be read */
};

#define AUTO_GRAPH(name) __attribute__((cleanup(graph_release))) struct graph name = {0}
MUST_CHECK int graph_init(struct graph *out, struct store *store);
void graph_release(struct graph *graph);

/* A node to begin from; `type` may be GIT_OBJECT_ANY. */
MUST_CHECK int
graph_root(size_t *out_node, struct graph *graph, const git_oid *id, git_object_t type);

/* Read everything that can be reached and was not read. What cannot be read, or is not as git has
   it, is told to `bad` while the error is set, and the walk goes on where that returns 0; NULL: the
   error ends the walk. */
MUST_CHECK int graph_walk(
    struct graph *graph,
    int (*bad)(void *context, struct graph *graph, size_t node, int err),
    void *context
);

/* "vectors/frame": the way from the commit that led there first; "commit", "tree", "tag" where
   there is no name. */
MUST_CHECK int graph_path(struct buf *out, const struct graph *graph, size_t node);

const char *graph_name(const struct graph *graph, uint32_t name);

#endif
