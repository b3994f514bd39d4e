#include "store/graph.h"

#include <stdlib.h>
#include <string.h>
#include <strings.h>

#include "format/limits.h"
#include "format/text.h"
#include "store/ancestry.h"

void graph_release(struct graph *graph)
{
    id_set_release(&graph->ids);
    id_set_release(&graph->shallow);
    free(graph->nodes);
    free(graph->edges);
    buf_release(&graph->names);
    *graph = (struct graph){0};
}

int graph_init(struct graph *out, struct store *store)
{
    AUTO_GRAPH(graph);
    int err;

    graph.store = store;
    if ((err = shallow_read(&graph.shallow, store)) < 0 ||
        (err = buf_append_byte(&graph.names, 0)) < 0) /* the name that is none */
        return err;
    *out = graph;
    graph = (struct graph){0};
    return 0;
}

const char *graph_name(const struct graph *graph, uint32_t name)
{
    return (const char *)graph->names.data + name;
}

static int
node_add(size_t *out, bool *is_new, struct graph *graph, const git_oid *id, git_object_t type)
{
    int err = id_set_add(out, is_new, &graph->ids, id);

    if (err < 0)
        return err;
    err = array_grow(&graph->nodes, &graph->node_capacity, graph->ids.count, sizeof(*graph->nodes));
    if (err == 0 && *is_new)
        graph->nodes[*out] = (struct graph_node){.type = type, .from = (uint32_t)*out};
    return err;
}

int graph_root(size_t *out_node, struct graph *graph, const git_oid *id, git_object_t type)
{
    bool is_new;

    return node_add(out_node, &is_new, graph, id, type);
}

static int name_add(uint32_t *out, struct graph *graph, const char *name)
{
    *out = 0;
    if (!*name)
        return 0;
    if (graph->names.len + strlen(name) >= UINT32_MAX)
        return error_set(E_LIMIT, "the names of all trees are longer than %u", UINT32_MAX);
    *out = (uint32_t)graph->names.len;
    return buf_append(&graph->names, name, strlen(name) + 1);
}

/* What lies outside: enough that it is there, as what it is called. */
static int other_check(const struct graph *graph, const git_oid *id, git_object_t type)
{
    git_object_t found;
    size_t bytes;

    int code = git_odb_read_header(&bytes, &found, graph->store->odb, id);
    if (code == GIT_ENOTFOUND)
        return error_set(E_CORRUPT, "object %s is missing", git_oid_tostr_s(id));
    if (code < 0)
        return git_failed(code, "object %s", git_oid_tostr_s(id));
    if (type != GIT_OBJECT_ANY && found != type)
        return error_set(
            E_CORRUPT, "object %s is a %s, not a %s", git_oid_tostr_s(id),
            git_object_type2string(found), git_object_type2string(type)
        );
    return 0;
}

/* The last edge of the node that is being read. */
static int
edge_add(struct graph *graph, size_t from, const git_oid *id, git_object_t type, const char *name)
{
    size_t to;
    bool is_new;
    uint32_t offset;

    if (graph->within && !id_set_find(&to, graph->within, id))
        return graph->others_exist ? other_check(graph, id, type) : 0;
    if (graph->without && git_odb_exists(graph->without, id))
        return 0;
    int err = node_add(&to, &is_new, graph, id, type);
    if (err < 0 || (err = name_add(&offset, graph, name)) < 0)
        return err;
    if (graph->edge_count >= UINT32_MAX)
        return error_set(E_LIMIT, "more than %u entries in all trees", UINT32_MAX);
    err = array_grow(
        &graph->edges, &graph->edge_capacity, graph->edge_count + 1, sizeof(*graph->edges)
    );
    if (err < 0)
        return err;
    graph->edges[graph->edge_count++] = (struct graph_edge){(uint32_t)to, offset};
    graph->nodes[from].edges_end = (uint32_t)graph->edge_count;
    struct graph_node *node = &graph->nodes[to];
    if (is_new) {
        node->from = (uint32_t)from;
        node->name = offset;
    }
    if (node->type == GIT_OBJECT_ANY)
        node->type = type;
    if (node->type != type && type != GIT_OBJECT_ANY)
        return error_set(
            E_CORRUPT, "%s %s is a %s elsewhere", git_object_type2string(type), git_oid_tostr_s(id),
            git_object_type2string(node->type)
        );
    return 0;
}

/* Reading */

static int commit_edges(struct graph *graph, size_t node)
{
    AUTO_GIT(git_commit, commit);
    const git_oid id = graph->ids.ids[node];
    size_t ignored;

    int err = commit_read(&commit, graph->store, &id);
    if (err == 0)
        err = edge_add(graph, node, git_commit_tree_id(commit), GIT_OBJECT_TREE, "");
    if (err < 0 || id_set_find(&ignored, &graph->shallow, &id))
        return err;
    for (unsigned i = 0; err == 0 && i < git_commit_parentcount(commit); i++)
        err = edge_add(graph, node, git_commit_parent_id(commit, i), GIT_OBJECT_COMMIT, "");
    return err;
}

static int tag_edges(struct graph *graph, size_t node)
{
    AUTO_GIT(git_tag, tag);
    const git_oid id = graph->ids.ids[node];

    int code = git_tag_lookup(&tag, graph->store->repo, &id);
    if (code < 0)
        return git_failed(code, "tag");
    return edge_add(graph, node, git_tag_target_id(tag), git_tag_target_type(tag), "");
}

struct tree_entry_text {
    unsigned mode;
    const char *name;
    git_oid id;
};

/* "<octal mode> <name>\0<20 bytes>" at *at, which moves on. */
static bool entry_read(struct tree_entry_text *out, size_t *at, struct bytes tree)
{
    const uint8_t *text = tree.data + *at;
    size_t left = tree.len - *at, i = 0;

    out->mode = 0;
    for (; i < left && i < 7 && text[i] >= '0' && text[i] <= '7'; i++)
        out->mode = out->mode * 8 + (text[i] - (unsigned)'0');
    if (i == 0 || i >= left || text[i] != ' ' || text[0] == '0')
        return false;
    const uint8_t *name = text + ++i, *end = memchr(name, 0, left - i);
    if (!end || end == name || left - (size_t)(end + 1 - text) < GIT_OID_RAWSZ)
        return false;
    out->name = (const char *)name;
    git_oid_fromraw(&out->id, end + 1);
    *at += (size_t)(end + 1 - text) + GIT_OID_RAWSZ;
    return true;
}

/* git's order: as bytes, a folder's name as if a '/' followed. */
static int names_compare(const struct tree_entry_text *a, const struct tree_entry_text *b)
{
    size_t length_a = strlen(a->name), length_b = strlen(b->name);
    size_t least = length_a < length_b ? length_a : length_b;
    int order = memcmp(a->name, b->name, least);
    char end_a = a->name[least], end_b = b->name[least];

    if (order != 0)
        return order;
    if (!end_a && a->mode == GIT_FILEMODE_TREE)
        end_a = '/';
    if (!end_b && b->mode == GIT_FILEMODE_TREE)
        end_b = '/';
    return (uint8_t)end_a - (uint8_t)end_b;
}

static int entry_problem(const char *name, const char *problem)
{
    char quoted[TEXT_QUOTE_SIZE];

    text_quote(quoted, text_bytes(name));
    return error_set(E_CORRUPT, "tree: '%s' %s", quoted, problem);
}

static int entry_check(const struct tree_entry_text *entry, const struct tree_entry_text *before)
{
    if (strchr(entry->name, '/') || strcmp(entry->name, ".") == 0 ||
        strcmp(entry->name, "..") == 0 || strcasecmp(entry->name, ".git") == 0)
        return entry_problem(entry->name, "cannot be a name");
    if (before && names_compare(before, entry) >= 0)
        return entry_problem(entry->name, "is out of order");
    if (entry->mode != GIT_FILEMODE_TREE && entry->mode != GIT_FILEMODE_BLOB &&
        entry->mode != GIT_FILEMODE_BLOB_EXECUTABLE && entry->mode != GIT_FILEMODE_LINK &&
        entry->mode != GIT_FILEMODE_COMMIT)
        return entry_problem(entry->name, "has a mode that git does not know");
    return 0;
}

/* Every entry is taken, whatever is wrong with others; the first problem is returned. */
static int tree_edges(struct graph *graph, size_t node, struct bytes tree)
{
    struct tree_entry_text entries[2], *entry = NULL, *before = NULL;
    AUTO_BUF(problem);
    int err = 0, first = 0;

    for (size_t at = 0, i = 0; at < tree.len; i++) {
        before = entry;
        entry = &entries[i % 2];
        if (!entry_read(entry, &at, tree))
            return error_set(E_CORRUPT, "tree: byte %zu begins no entry", at);
        if ((err = entry_check(entry, before)) == 0 && entry->mode == GIT_FILEMODE_COMMIT)
            continue; /* a submodule's commit is in another repository */
        git_object_t type = entry->mode == GIT_FILEMODE_TREE ? GIT_OBJECT_TREE : GIT_OBJECT_BLOB;
        if (err == 0)
            err = edge_add(graph, node, &entry->id, type, entry->name);
        if (err < 0 && err != E_CORRUPT)
            return err;
        if (err < 0 && first == 0) {
            first = err;
            if (buf_printf(&problem, "%s", error_message()) < 0)
                return error_wrap(E_NOMEM, "tree");
        }
    }
    return first < 0 ? error_set(first, "%s", (const char *)problem.data) : 0;
}

static int blob_look(struct graph *graph, size_t node)
{
    git_object_t type;
    size_t bytes = 0;

    /* Only for its size: whoever needs the blob reads it and is told. */
    if (git_odb_read_header(&bytes, &type, graph->store->odb, &graph->ids.ids[node]) == 0 &&
        type == GIT_OBJECT_BLOB)
        graph->nodes[node].bytes = bytes;
    return 0;
}

static int type_find(struct graph *graph, size_t node)
{
    const git_oid id = graph->ids.ids[node];
    size_t bytes;

    int code = git_odb_read_header(&bytes, &graph->nodes[node].type, graph->store->odb, &id);
    if (code == GIT_ENOTFOUND)
        return error_hint(
            error_set(E_CORRUPT, "object %s is missing", git_oid_tostr_s(&id)),
            "'vera fsck' tells what is damaged"
        );
    if (code < 0) {
        graph->nodes[node].type = GIT_OBJECT_ANY;
        return git_failed(code, "object %s", git_oid_tostr_s(&id));
    }
    return 0;
}

static int node_read(struct graph *graph, size_t node)
{
    AUTO_BUF(data);
    AUTO_BUF(path);
    const git_oid id = graph->ids.ids[node];
    int err = 0;

    graph->nodes[node].edges_begin = graph->nodes[node].edges_end = (uint32_t)graph->edge_count;
    if (graph->nodes[node].type == GIT_OBJECT_ANY && (err = type_find(graph, node)) < 0)
        return err;
    git_object_t type = graph->nodes[node].type;
    if (type == GIT_OBJECT_BLOB)
        return blob_look(graph, node);
    if ((err = graph_path(&path, graph, node)) < 0 ||
        (err = object_read(&data, graph->store, &id, type, LIMIT_TEXT, (const char *)path.data)) <
            0)
        return err;
    graph->nodes[node].bytes = data.len;
    if (type == GIT_OBJECT_TREE)
        return tree_edges(graph, node, buf_bytes(&data));
    return type == GIT_OBJECT_COMMIT ? commit_edges(graph, node) : tag_edges(graph, node);
}

int graph_walk(
    struct graph *graph,
    int (*bad)(void *context, struct graph *graph, size_t node, int err),
    void *context
)
{
    for (; graph->next < graph->ids.count; graph->next++) {
        int err = interrupt_check();
        if (err == 0)
            err = node_read(graph, graph->next);
        graph->nodes[graph->next].is_read = err == 0;
        if (err < 0 && (!bad || err == E_NOMEM || err == E_INTERRUPTED))
            return err;
        if (err < 0 && (err = bad(context, graph, graph->next, err)) < 0)
            return err;
    }
    return 0;
}

/* Paths */

int graph_path(struct buf *out, const struct graph *graph, size_t node)
{
    AUTO_BUF(path);
    size_t at = node;
    int err = 0;

    for (; graph->nodes[at].name; at = graph->nodes[at].from) {
        AUTO_BUF(longer);
        char quoted[TEXT_QUOTE_SIZE];
        text_quote(quoted, text_bytes(graph_name(graph, graph->nodes[at].name)));
        err = buf_printf(
            &longer, "%s%s%s", quoted, path.len ? "/" : "", path.len ? (char *)path.data : ""
        );
        if (err < 0)
            return err;
        buf_release(&path);
        path = buf_take(&longer);
    }
    if (path.len == 0) {
        git_object_t type = graph->nodes[node].type;
        err = buf_printf(
            &path, "%s", type == GIT_OBJECT_ANY ? "object" : git_object_type2string(type)
        );
    }
    if (err == 0)
        *out = buf_take(&path);
    return err;
}
