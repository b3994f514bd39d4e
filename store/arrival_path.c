/*
 * Fetching from a repository on this machine. Its objects are borrowed for a moment, by a second
 * line of the quarantine's info/alternates, and packed there as gc packs. See arrival_child.h.
 */
#include <stdlib.h>
#include <string.h>

#include "format/file.h"
#include "store/ancestry.h"
#include "store/arrival_child.h"
#include "store/graph.h"
#include "store/pack.h"
#include "store/refs.h"

#define SCHEME "file://"

/* URLs */

/* "host:path" is ssh's, as git has it: a colon before any slash, unless there is such a path. */
bool url_is_path(const char *url)
{
    const char *colon = strchr(url, ':'), *slash = strchr(url, '/');

    if (strncmp(url, SCHEME, strlen(SCHEME)) == 0)
        return true;
    if (strstr(url, "://"))
        return false;
    return !colon || (slash && slash < colon) || path_exists(url);
}

static int hex_digit(char c)
{
    static const char digits[] = "0123456789abcdef";
    const char *at = c ? strchr(digits, c >= 'A' && c <= 'F' ? c + ('a' - 'A') : c) : NULL;

    return at ? (int)(at - digits) : -1;
}

/* The path of "file:///srv/a%20b", which RFC 3986 escapes; another machine's is none. */
int url_name(char **out, const char *url)
{
    if (!url_is_path(url))
        return url_shown(out, url);
    *out = bytes_dup(text_bytes(url));
    return *out ? 0 : error_wrap(E_NOMEM, "%s", url);
}

static int path_of_url(char **out, const char *url)
{
    const char *at = url + strlen(SCHEME);
    AUTO_BUF(path);
    int err = 0;

    if (strncmp(at, "localhost/", 10) == 0)
        at += 9;
    if (*at != '/')
        return error_set(E_INVALID, "%s: a file: URL names a whole path, file:///...", url);
    for (; err == 0 && *at; at++) {
        int high = *at == '%' ? hex_digit(at[1]) : -1;
        int low = high >= 0 ? hex_digit(at[2]) : -1;
        if (low >= 0)
            at += 2;
        err = buf_append_byte(&path, low >= 0 ? (uint8_t)(high * 16 + low) : (uint8_t)*at);
    }
    if (err == 0 && !(*out = bytes_dup(buf_bytes(&path))))
        err = error_wrap(E_NOMEM, "%s", url);
    return err;
}

int path_open(struct store **out, const char *url)
{
    AUTO_FREE(char, path);
    int err = 0;

    if (strncmp(url, SCHEME, strlen(SCHEME)) == 0)
        err = path_of_url(&path, url);
    else if (!(path = bytes_dup(text_bytes(url))))
        err = error_wrap(E_NOMEM, "%s", url);
    if (err < 0)
        return err;
    if (!path_is_directory(path))
        return error_set(E_NOTFOUND, "%s: there is no repository", url);
    return store_open(out, ".", path);
}

/* What is there */

struct listing {
    struct child *child;
    struct graph *graph;
};

/* Nothing behind the newest version is looked at. What leads to none is told later. */
static int end_add(struct listing *listing, const git_oid *tip)
{
    AUTO_GIT(git_commit, commit);
    struct store *theirs = listing->graph->store;
    git_oid id;
    size_t ignored;

    int err = commit_peel(&id, theirs, tip);
    if (err < 0)
        return err == E_INVALID ? 0 : err;
    if ((err = commit_read(&commit, theirs, &id)) < 0 || !git_commit_parentcount(commit))
        return err;
    return id_set_add(&ignored, NULL, &listing->graph->shallow, &id);
}

static int ref_visit(void *context, const char *name, const git_oid *target)
{
    struct listing *listing = context;
    struct child *child = listing->child;
    size_t before = child->tip_count, ignored;

    int err = child_ref(child, name, target);
    if (err < 0 || child->tip_count == before || git_odb_exists(listing->graph->without, target))
        return err;
    if (child->request->shallow && (err = end_add(listing, target)) < 0)
        return err;
    return graph_root(&ignored, listing->graph, target, GIT_OBJECT_ANY);
}

static int head_tell(struct child *child, struct store *theirs)
{
    AUTO_FREE(char, branch);
    AUTO_BUF(ref);
    struct commit_id tip;
    bool has_tip;

    int err = store_head(&branch, &tip, &has_tip, theirs);
    if (err < 0 || !branch)
        return err;
    if ((err = buf_printf(&ref, REF_HEADS "%s", branch)) < 0)
        return err;
    return child_head(child, (const char *)ref.data);
}

/* Packing */

/* The quarantine borrows from `objects` too, or, where that is NULL, no longer. */
static int borrow(struct child *child, const char *objects)
{
    AUTO_FREE(char, path);
    AUTO_BUF(text);
    int err;

    if ((err = path_join(&path, store_path(child->quarantined), "objects/info/alternates")) < 0 ||
        (err = buf_append_text(&text, "../../\n")) < 0 ||
        (objects && (err = buf_printf(&text, "%s\n", objects)) < 0))
        return err;
    return file_write(path, buf_bytes(&text));
}

static void objects_free(struct pack_objects *objects)
{
    id_set_release(&objects->ids);
    free(objects->names);
}

static int objects_list(struct pack_objects *out, const struct graph *graph)
{
    size_t at;
    int err = 0;

    if (!(out->names = array_new(graph->ids.count, sizeof(*out->names))))
        return error_wrap(E_NOMEM, "a pack");
    for (size_t node = 0; err == 0 && node < graph->ids.count; node++) {
        if ((err = id_set_add(&at, NULL, &out->ids, &graph->ids.ids[node])) == 0)
            out->names[at] = graph_name(graph, graph->nodes[node].name);
    }
    return err;
}

static int pack_bytes(uint64_t *out, struct store *store, const char *name)
{
    AUTO_FREE(char, folder);
    AUTO_BUF(path);
    AUTO_FD(fd);
    int err;

    if ((err = path_join(&folder, store_path(store), "objects/pack")) < 0 ||
        (err = buf_printf(&path, "%s/%s.pack", folder, name)) < 0)
        return err;
    return file_open(&fd, out, (const char *)path.data);
}

static int objects_pack(struct child *child, const struct graph *graph)
{
    __attribute__((cleanup(objects_free))) struct pack_objects objects = {0};
    const char *path = store_path(child->quarantined);
    AUTO_STORE(both);
    AUTO_FREE(char, name);
    uint64_t bytes = 0;
    int err;

    if ((err = objects_list(&objects, graph)) < 0 || (err = store_open(&both, path, path)) < 0 ||
        (err = pack_write(&name, both, &objects, NULL)) < 0 ||
        (err = pack_bytes(&bytes, both, name)) < 0)
        return err;
    child->counts.objects = objects.ids.count;
    return child_progress(child, bytes);
}

/* Of those commits that arrive. */
static int ends_tell(struct child *child, const struct graph *graph)
{
    AUTO_ID_SET(ends);
    size_t ignored;
    int err = 0;

    for (size_t i = 0; err == 0 && i < graph->shallow.count; i++) {
        if (id_set_find(&ignored, &graph->ids, &graph->shallow.ids[i]))
            err = id_set_add(&ignored, NULL, &ends, &graph->shallow.ids[i]);
    }
    return err < 0 ? err : child_ends(child, &ends);
}

int path_fetch(struct child *child)
{
    AUTO_STORE(theirs);
    AUTO_GRAPH(graph);
    AUTO_FREE(char, objects);
    struct listing listing = {child, &graph};
    int err;

    if ((err = path_open(&theirs, child->request->url)) < 0 ||
        (err = graph_init(&graph, theirs)) < 0)
        return err;
    graph.without = child->quarantined->odb;
    if ((err = head_tell(child, theirs)) < 0 ||
        (err = refs_each(theirs, "refs/", ref_visit, &listing)) < 0 ||
        (err = graph_walk(&graph, NULL, NULL)) < 0 || !graph.ids.count ||
        (err = path_join(&objects, store_path(theirs), "objects")) < 0 ||
        (err = borrow(child, objects)) < 0 || (err = objects_pack(child, &graph)) < 0 ||
        (err = ends_tell(child, &graph)) < 0)
        return err;
    return borrow(child, NULL);
}
