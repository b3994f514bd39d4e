/*
 * A line for each damaged object, and whom it concerns. What an object is part of is found by going
 * the graph's edges backwards: through trees up to the commits that hold it (the versions), then
 * through their children up to the refs that reach these (the branches).
 */
#include "store/fsck_report.h"

#include <stdlib.h>
#include <string.h>

void fsck_report_release(struct fsck_report *report)
{
    for (size_t i = 0; i < report->bad_count; i++) {
        struct fsck_bad *bad = &report->bad[i];
        free(bad->object);
        free(bad->problem);
        free(bad->versions);
        for (size_t k = 0; k < bad->branch_count; k++)
            free(bad->branches[k]);
        free(bad->branches);
    }
    free(report->bad);
    for (size_t i = 0; i < report->safe_branch_count; i++)
        free(report->safe_branches[i]);
    free(report->safe_branches);
    free(report->safe_versions);
    *report = (struct fsck_report){0};
}

/* Lines */

/* The message on one line: what is wrong is listed after "; ". */
static int problem_make(char **out, const char *what, const char *message)
{
    AUTO_BUF(line);
    int err = buf_printf(&line, "%s%s", what, *what ? ": " : "");

    for (const char *at = message; err == 0 && *at;) {
        size_t length = strcspn(at, "\n");
        err = buf_append(&line, at, length);
        at += length;
        if (err == 0 && *at) {
            at += strspn(at, "\n ");
            err = buf_append_text(&line, "; ");
        }
    }
    if (err == 0 && !(*out = bytes_dup(buf_bytes(&line))))
        err = error_wrap(E_NOMEM, "fsck");
    return err;
}

static int
bad_add(struct fsck *fsck, const char *object, const char *what, const char *why, size_t node)
{
    struct fsck_report *report = fsck->report;
    size_t count = report->bad_count;
    int err;

    if ((err = array_grow(&report->bad, &fsck->bad_capacity, count + 1, sizeof(*report->bad))) <
            0 ||
        (err = array_grow(
             &fsck->bad_nodes, &fsck->bad_node_capacity, count + 1, sizeof(*fsck->bad_nodes)
         )) < 0)
        return err;
    struct fsck_bad *bad = &report->bad[report->bad_count++];
    *bad = (struct fsck_bad){0};
    fsck->bad_nodes[count] = node;
    if (!(bad->object = bytes_dup(text_bytes(object))))
        return error_wrap(E_NOMEM, "fsck");
    return problem_make(&bad->problem, what, why);
}

static bool ends_it(int err)
{
    return err == E_NOMEM || err == E_INTERRUPTED;
}

/* What follows "object <id>" or "object <id> (<what>)", which the line says already. */
static const char *reason_of(const char *message, const char *hex, const char *what)
{
    size_t what_length = strlen(what);

    if (strncmp(message, "object ", 7) != 0 || strncmp(message + 7, hex, GIT_OID_HEXSZ) != 0)
        return message;
    message += 7 + GIT_OID_HEXSZ;
    if (strncmp(message, " (", 2) == 0 && strncmp(message + 2, what, what_length) == 0 &&
        message[2 + what_length] == ')')
        message += 3 + what_length;
    return message + strspn(message, ": ");
}

int fsck_bad_node(struct fsck *fsck, size_t node, int err)
{
    AUTO_BUF(path);
    AUTO_BUF(message);
    char hex[GIT_OID_HEXSZ + 1];

    if (ends_it(err))
        return err;
    fsck->graph.nodes[node].is_bad = true;
    git_oid_tostr(hex, sizeof(hex), &fsck->graph.ids.ids[node]);
    if ((err = buf_printf(&message, "%s", error_message())) < 0 ||
        (err = graph_path(&path, &fsck->graph, node)) < 0)
        return err;
    const char *what = (const char *)path.data;
    return bad_add(fsck, hex, what, reason_of((const char *)message.data, hex, what), node);
}

int fsck_bad_ref(struct fsck *fsck, const char *ref, int err)
{
    AUTO_BUF(message);
    size_t length = strlen(ref);

    if (ends_it(err))
        return err;
    if ((err = buf_printf(&message, "%s", error_message())) < 0)
        return err;
    const char *why = (const char *)message.data;
    if (strncmp(why, ref, length) == 0 && strncmp(why + length, ": ", 2) == 0)
        why += length + 2;
    return bad_add(fsck, ref, "", why, SIZE_MAX);
}

/* Backwards */

/* Who leads to whom, by node: the sources of node n are list[begin[n]] to list[begin[n + 1] - 1].
 */
struct sources {
    uint32_t *begin, *list;
};

static void sources_release(struct sources *sources)
{
    free(sources->begin);
    free(sources->list);
}

static int sources_make(struct sources *out, const struct graph *graph)
{
    size_t count = graph->ids.count;
    uint32_t *begin = array_new(count + 2, sizeof(*begin));
    uint32_t *list = array_new(graph->edge_count, sizeof(*list));

    *out = (struct sources){begin, list};
    if (!begin || !list)
        return error_wrap(E_NOMEM, "fsck");
    /* Counted two places further, so that filling leaves each begin where it belongs. */
    for (size_t i = 0; i < graph->edge_count; i++)
        begin[graph->edges[i].to + 2]++;
    for (size_t i = 2; i < count + 2; i++)
        begin[i] += begin[i - 1];
    for (size_t from = 0; from < count; from++) {
        const struct graph_node *node = &graph->nodes[from];
        for (uint32_t i = node->edges_begin; i < node->edges_end; i++)
            list[begin[graph->edges[i].to + 1]++] = (uint32_t)from;
    }
    return 0;
}

/* Nodes in the order they were reached; marks tell which these are. */
struct reached {
    uint32_t *nodes;
    bool *marks;
    size_t count;
};

static void reached_release(struct reached *reached)
{
    free(reached->nodes);
    free(reached->marks);
}

static int reached_make(struct reached *out, size_t count)
{
    out->count = 0;
    if (!(out->nodes = array_new(count, sizeof(*out->nodes))) ||
        !(out->marks = array_new(count, sizeof(*out->marks))))
        return error_wrap(E_NOMEM, "fsck");
    return 0;
}

static void reached_add(struct reached *reached, size_t node)
{
    if (reached->marks[node])
        return;
    reached->marks[node] = true;
    reached->nodes[reached->count++] = (uint32_t)node;
}

static void reached_clear(struct reached *reached)
{
    while (reached->count > 0)
        reached->marks[reached->nodes[--reached->count]] = false;
}

static bool is_content(git_object_t type)
{
    return type == GIT_OBJECT_TREE || type == GIT_OBJECT_BLOB;
}

/* What holds this object: itself, trees, and commits, but not what follows these. */
static void holders_reach(
    struct reached *reached, const struct fsck *fsck, const struct sources *sources, size_t node
)
{
    reached_add(reached, node);
    for (size_t next = 0; next < reached->count; next++) {
        uint32_t at = reached->nodes[next];
        if (!is_content(fsck->graph.nodes[at].type))
            continue;
        for (uint32_t i = sources->begin[at]; i < sources->begin[at + 1]; i++)
            reached_add(reached, sources->list[i]);
    }
}

static int
versions_take(struct fsck_bad *bad, const struct fsck *fsck, const struct reached *reached)
{
    if (!(bad->versions = array_new(reached->count, sizeof(*bad->versions))))
        return error_wrap(E_NOMEM, "fsck");
    for (size_t i = 0; i < reached->count; i++) {
        uint32_t node = reached->nodes[i];
        if (fsck->graph.nodes[node].type == GIT_OBJECT_COMMIT)
            bad->versions[bad->version_count++] = commit_id_of(&fsck->graph.ids.ids[node]);
    }
    return 0;
}

/* The names of refs, without reflogs, whose node is marked, or is not. */
static int
names_take(char ***names, size_t *count, const struct fsck *fsck, const bool *marks, bool marked)
{
    size_t capacity = 0;
    int err = 0;

    for (size_t i = 0; err == 0 && i < fsck->root_count; i++) {
        const struct fsck_root *root = &fsck->roots[i];
        if (root->is_reflog || marks[root->node] != marked)
            continue;
        if ((err = array_grow(names, &capacity, *count + 1, sizeof(**names))) < 0)
            return err;
        if (!((*names)[*count] = bytes_dup(text_bytes(root->name))))
            return error_wrap(E_NOMEM, "fsck");
        (*count)++;
    }
    return err;
}

/* No ref leads there: say which reflog does. */
static int reflog_tell(struct fsck_bad *bad, const struct fsck *fsck, const struct reached *reached)
{
    AUTO_BUF(line);
    size_t i = 0;

    while (i < fsck->root_count && !reached->marks[fsck->roots[i].node])
        i++;
    if (bad->branch_count || i == fsck->root_count)
        return 0;
    int err = buf_printf(
        &line, "%s (only the reflog of %s leads there)", bad->problem, fsck->roots[i].ref
    );
    if (err < 0)
        return err;
    free(bad->problem);
    bad->problem = (char *)buf_take(&line).data;
    return 0;
}

/* What any line touches, by node. */
struct touched {
    bool *holders; /* it is a part of these */
    bool *all;     /* and what follows them */
};

static void touched_release(struct touched *touched)
{
    free(touched->holders);
    free(touched->all);
}

static int touched_make(struct touched *out, size_t count)
{
    if (!(out->holders = array_new(count, sizeof(*out->holders))) ||
        !(out->all = array_new(count, sizeof(*out->all))))
        return error_wrap(E_NOMEM, "fsck");
    return 0;
}

static void touched_add(bool *touched, const struct reached *reached)
{
    for (size_t i = 0; i < reached->count; i++)
        touched[reached->nodes[i]] = true;
}

static int node_touched(
    struct fsck_bad *bad,
    const struct fsck *fsck,
    const struct sources *sources,
    struct reached *reached,
    struct touched *touched,
    size_t node
)
{
    reached_clear(reached);
    holders_reach(reached, fsck, sources, node);
    touched_add(touched->holders, reached);
    int err = versions_take(bad, fsck, reached);
    if (err < 0)
        return err;
    for (size_t next = 0; next < reached->count; next++) {
        uint32_t at = reached->nodes[next];
        for (uint32_t i = sources->begin[at]; i < sources->begin[at + 1]; i++)
            reached_add(reached, sources->list[i]);
    }
    touched_add(touched->all, reached);
    if ((err = names_take(&bad->branches, &bad->branch_count, fsck, reached->marks, true)) == 0 &&
        (err = reflog_tell(bad, fsck, reached)) == 0)
        err = interrupt_check();
    return err;
}

static int each_touched(struct touched *touched, const struct fsck *fsck)
{
    __attribute__((cleanup(sources_release))) struct sources sources = {0};
    __attribute__((cleanup(reached_release))) struct reached reached = {0};
    int err;

    if ((err = sources_make(&sources, &fsck->graph)) < 0 ||
        (err = reached_make(&reached, fsck->graph.ids.count)) < 0)
        return err;
    for (size_t i = 0; err == 0 && i < fsck->report->bad_count; i++) {
        size_t node = fsck->bad_nodes[i];
        if (node != SIZE_MAX)
            err = node_touched(&fsck->report->bad[i], fsck, &sources, &reached, touched, node);
    }
    return err;
}

static int safe_take(const struct fsck *fsck, const struct touched *touched)
{
    struct fsck_report *report = fsck->report;
    const struct graph *graph = &fsck->graph;

    if (!(report->safe_versions = array_new(report->versions, sizeof(*report->safe_versions))))
        return error_wrap(E_NOMEM, "fsck");
    for (size_t node = 0; node < graph->ids.count; node++) {
        if (graph->nodes[node].type == GIT_OBJECT_COMMIT && !touched->holders[node])
            report->safe_versions[report->safe_version_count++] = commit_id_of(&graph->ids.ids[node]
            );
    }
    return names_take(
        &report->safe_branches, &report->safe_branch_count, fsck, touched->all, false
    );
}

int fsck_touched(struct fsck *fsck)
{
    __attribute__((cleanup(touched_release))) struct touched touched = {0};

    int err = touched_make(&touched, fsck->graph.ids.count);
    if (err == 0 && fsck->report->bad_count)
        err = each_touched(&touched, fsck);
    return err < 0 ? err : safe_take(fsck, &touched);
}
