/* Remotes as the configuration has them. See remote.h. */
#include "store/remote.h"

#include <stdlib.h>
#include <string.h>

#include "format/file.h"
#include "format/nearest.h"
#include "format/text.h"
#include "store/arrival_child.h"
#include "store/branch_config.h"
#include "store/refs.h"
#include "store/url.h"

void remote_release(struct remote *remote)
{
    for (size_t i = 0; i < remote->spec_count; i++)
        free(remote->specs[i]);
    free(remote->specs);
    free(remote->name);
    free(remote->url);
    *remote = (struct remote){0};
}

void remotes_release(struct remotes *remotes)
{
    for (size_t i = 0; i < remotes->count; i++)
        remote_release(&remotes->list[i]);
    free(remotes->list);
    *remotes = (struct remotes){0};
}

/* Reading */

struct remote_visit {
    struct remotes *remotes;
    int err;
};

/* The remote of this name, made where there is none yet. */
static int remote_of(struct remote **out, struct remotes *remotes, struct bytes name)
{
    for (size_t i = 0; i < remotes->count; i++) {
        *out = &remotes->list[i];
        if (bytes_equal(text_bytes((*out)->name), name))
            return 0;
    }
    int err = array_grow(
        &remotes->list, &remotes->capacity, remotes->count + 1, sizeof(*remotes->list)
    );
    if (err < 0)
        return err;
    *out = &remotes->list[remotes->count];
    **out = (struct remote){.name = bytes_dup(name)};
    if (!(*out)->name)
        return error_wrap(E_NOMEM, "remotes");
    remotes->count++;
    return 0;
}

static int spec_add(struct remote *remote, const char *spec)
{
    size_t capacity = remote->spec_count; /* there are one or two */
    int err = array_grow(&remote->specs, &capacity, remote->spec_count + 1, sizeof(*remote->specs));

    if (err < 0)
        return err;
    if (!(remote->specs[remote->spec_count] = bytes_dup(text_bytes(spec))))
        return error_wrap(E_NOMEM, "remotes");
    remote->spec_count++;
    return 0;
}

/* "remote.<name>.url": the name may hold dots. */
static int remote_entry(struct remotes *remotes, const char *key, const char *value)
{
    static const char section[] = "remote.";
    const char *name = key + strlen(section), *end = strrchr(key, '.');
    struct remote *remote;

    if (strncmp(key, section, strlen(section)) != 0 || end <= name || !value)
        return 0;
    bool is_url = strcmp(end, ".url") == 0, is_tags = strcmp(end, ".tagopt") == 0;
    if (!is_url && !is_tags && strcmp(end, ".fetch") != 0)
        return 0;
    int err = remote_of(
        &remote, remotes, (struct bytes){(const uint8_t *)name, (size_t)(end - name)}
    );
    if (err == 0 && is_tags)
        remote->no_tags = strcmp(value, "--no-tags") == 0;
    if (err < 0 || !is_url)
        return err < 0 || is_tags ? err : spec_add(remote, value);
    if (!remote->url && !(remote->url = bytes_dup(text_bytes(value))))
        return error_wrap(E_NOMEM, "remotes");
    return 0;
}

static int remote_visit(const git_config_entry *entry, void *context)
{
    struct remote_visit *visit = context;

    visit->err = remote_entry(visit->remotes, entry->name, entry->value);
    return visit->err < 0 ? GIT_EUSER : 0;
}

static int remote_compare(const void *a, const void *b)
{
    return strcmp(((const struct remote *)a)->name, ((const struct remote *)b)->name);
}

/* What has refspecs only is no remote. */
static void urlless_drop(struct remotes *remotes)
{
    size_t kept = 0;

    for (size_t i = 0; i < remotes->count; i++) {
        if (remotes->list[i].url)
            remotes->list[kept++] = remotes->list[i];
        else
            remote_release(&remotes->list[i]);
    }
    remotes->count = kept;
}

int store_remotes(struct remotes *out, struct store *store)
{
    AUTO_GIT(git_config, config);
    AUTO_REMOTES(remotes);
    struct remote_visit visit = {.remotes = &remotes};

    int code = git_repository_config_snapshot(&config, store->repo);
    if (code == 0)
        code = git_config_foreach(config, remote_visit, &visit);
    if (visit.err < 0)
        return visit.err;
    if (code < 0)
        return git_failed(code, "config");
    urlless_drop(&remotes);
    if (remotes.count)
        qsort(remotes.list, remotes.count, sizeof(*remotes.list), remote_compare);
    *out = remotes;
    remotes = (struct remotes){0};
    return 0;
}

static int not_there(const struct remotes *remotes, const char *name)
{
    struct nearest nearest;

    nearest_init(&nearest, name);
    for (size_t i = 0; i < remotes->count; i++)
        nearest_offer(&nearest, remotes->list[i].name);
    /* An address may hold a secret. */
    if (strstr(name, "://"))
        return error_hint(
            error_set(E_NOTFOUND, "no remote has that name: it is an address"),
            "'vera remote add NAME URL' gives it one"
        );
    int err = error_set(E_NOTFOUND, "no remote '%s'", name);
    if (nearest.name)
        return error_hint(err, "did you mean '%s'?", nearest.name);
    return error_hint(err, "'vera remote add %s URL' adds it", name);
}

int remote_find(struct remote *out, struct store *store, const char *name)
{
    AUTO_REMOTES(remotes);

    int err = store_remotes(&remotes, store);
    if (err < 0)
        return err;
    for (size_t i = 0; i < remotes.count; i++) {
        if (strcmp(remotes.list[i].name, name) == 0) {
            *out = remotes.list[i];
            remotes.list[i] = (struct remote){0};
            return 0;
        }
    }
    return not_there(&remotes, name);
}

/* URLs */

/* A path that is not there yet is as good as one that is. */
static int path_absolute(char **out, const char *path)
{
    AUTO_FREE(char, here);

    if ((*out = realpath(path, NULL)))
        return 0;
    if (path[0] == '/')
        return (*out = bytes_dup(text_bytes(path))) ? 0 : error_wrap(E_NOMEM, "%s", path);
    if (!(here = realpath(".", NULL)))
        return file_error(".");
    return path_join(out, here, path);
}

static bool scheme_is_known(const char *url)
{
    static const char *const schemes[] = {"file", "git", "ssh", "http", "https", "oci"};

    size_t length = (size_t)(strstr(url, "://") - url);
    for (size_t i = 0; i < sizeof(schemes) / sizeof(schemes[0]); i++) {
        if (strlen(schemes[i]) == length && strncmp(url, schemes[i], length) == 0)
            return true;
    }
    return false;
}

int remote_url_make(char **out, const char *url)
{
    if (!*url || *url == '-' || !text_is_plain(text_bytes(url)))
        return error_set(E_INVALID, "'%s' is no URL, and no path", url);
    /* git would run a program of that name. */
    size_t word = strspn(url, "abcdefghijklmnopqrstuvwxyz0123456789-");
    if (strncmp(url + word, "::", 2) == 0)
        return error_set(
            E_UNSUPPORTED, "%.*s::: not a kind of URL that vera knows", (int)word, url
        );
    if (strstr(url, "://") && !scheme_is_known(url)) {
        int err = error_set(
            E_UNSUPPORTED, "%.*s://: not a kind of URL that vera knows",
            (int)(strstr(url, "://") - url), url
        );
        return error_hint(
            err, "file://, git://, ssh://, http://, https://, oci://, HOST:PATH or a path"
        );
    }
    if (url_is_path(url) && !strstr(url, "://"))
        return path_absolute(out, url);
    return (*out = bytes_dup(text_bytes(url))) ? 0 : error_wrap(E_NOMEM, "%s", url);
}

/* Changing */

static int section_name(struct buf *out, const char *name)
{
    return buf_printf(out, "remote.%s", name);
}

static int name_check(const char *name)
{
    int valid = 0;

    if (git_remote_name_is_valid(&valid, name) == 0 && valid && *name != '-' &&
        text_is_plain(text_bytes(name)) && branch_name_check(name) == 0)
        return 0;
    int err = error_set(E_INVALID, "'%s' cannot be a remote's name", name);
    return error_hint(err, "letters, digits, '-', '_', '.' and '/' between parts will do");
}

int store_remote_add(struct store *store, const char *name, const char *url)
{
    AUTO_FREE(char, whole);
    AUTO_FREE(char, shown);
    AUTO_LOCK(lock);
    AUTO_REMOTES(remotes);
    AUTO_BUF(section);
    AUTO_BUF(spec);
    int err;

    if ((err = name_check(name)) < 0 || (err = remote_url_make(&whole, url)) < 0 ||
        (err = url_shown(&shown, whole)) < 0 || (err = lock_write(&lock, store)) < 0 ||
        (err = store_remotes(&remotes, store)) < 0)
        return err;
    for (size_t i = 0; i < remotes.count; i++) {
        if (strcmp(remotes.list[i].name, name) == 0)
            return error_set(E_EXISTS, "remote '%s' exists: %s", name, remotes.list[i].url);
    }
    if ((err = section_name(&section, name)) < 0 ||
        (err = buf_printf(&spec, "+" REF_HEADS "*:" REF_REMOTES "%s/*", name)) < 0 ||
        (err = config_section_set(store, (const char *)section.data, "url", shown)) < 0)
        return err;
    return config_section_set(store, (const char *)section.data, "fetch", (const char *)spec.data);
}

int remote_narrow(struct store *store, const char *name, const char *branch)
{
    AUTO_BUF(section);
    AUTO_BUF(spec);
    int err;

    if ((err = section_name(&section, name)) < 0 ||
        (err = buf_printf(&spec, "+" REF_HEADS "%s:" REF_REMOTES "%s/%s", branch, name, branch)) <
            0 ||
        (err = config_section_set(
             store, (const char *)section.data, "fetch", (const char *)spec.data
         )) < 0)
        return err;
    return config_section_set(store, (const char *)section.data, "tagOpt", "--no-tags");
}

struct ref_collection {
    struct ref_change *changes;
    size_t count, capacity;
};

static void refs_collected_release(struct ref_collection *collection)
{
    for (size_t i = 0; i < collection->count; i++)
        free((void *)(uintptr_t)collection->changes[i].name);
    free(collection->changes);
}

static int ref_collect(void *context, const char *name, const git_oid *target)
{
    struct ref_collection *collection = context;
    int err = array_grow(
        &collection->changes, &collection->capacity, collection->count + 1,
        sizeof(*collection->changes)
    );

    if (err < 0)
        return err;
    struct ref_change change = {
        .name = bytes_dup(text_bytes(name)), .has_old = true, .old = *target};
    if (!change.name)
        return error_wrap(E_NOMEM, "refs");
    collection->changes[collection->count++] = change;
    return 0;
}

/* A clone that git made has a symbolic one, which leads nowhere once the others are gone. */
static int head_remove(struct store *store, const char *name)
{
    AUTO_BUF(path);

    int err = buf_printf(&path, "%s/" REF_REMOTES "%s/HEAD", store->path, name);
    return err < 0 ? err : path_remove((const char *)path.data);
}

static int seen_remove(struct store *store, const char *name)
{
    __attribute__((cleanup(refs_collected_release))) struct ref_collection seen = {0};
    AUTO_BUF(prefix);
    AUTO_BUF(why);
    int err;

    if ((err = buf_printf(&prefix, REF_REMOTES "%s/", name)) < 0 ||
        (err = buf_printf(&why, "remote remove %s", name)) < 0 ||
        (err = refs_each(store, (const char *)prefix.data, ref_collect, &seen)) < 0 ||
        (err = refs_move_many(store, seen.changes, seen.count, (const char *)why.data)) < 0)
        return err;
    return head_remove(store, name);
}

static int upstreams_remove(struct store *store, const char *name)
{
    AUTO_REFS(branches);

    int err = store_refs(&branches, store, REF_BRANCH);
    for (size_t i = 0; err == 0 && i < branches.count; i++) {
        AUTO_FREE(char, remote);
        AUTO_FREE(char, merge);
        if ((err = upstream_find(&remote, &merge, store, branches.refs[i].name)) == 0 && remote &&
            strcmp(remote, name) == 0)
            err = branch_config_delete(store, branches.refs[i].name);
    }
    return err;
}

int store_remote_remove(char **url, struct store *store, const char *name)
{
    AUTO_LOCK(lock);
    AUTO_REMOTE(remote);
    AUTO_BUF(section);
    int err;

    if ((err = lock_write(&lock, store)) < 0 || (err = remote_find(&remote, store, name)) < 0 ||
        (err = upstreams_remove(store, name)) < 0 || (err = seen_remove(store, name)) < 0 ||
        (err = section_name(&section, name)) < 0 ||
        (err = config_section_delete(store, (const char *)section.data)) < 0)
        return err;
    *url = remote.url;
    remote.url = NULL;
    return 0;
}

/* Upstreams */

/* *out stays NULL where the key is not set. */
static int branch_setting(char **out, git_config *config, const char *branch, const char *key)
{
    const char *value;
    AUTO_BUF(name);

    int err = buf_printf(&name, "branch.%s.%s", branch, key);
    if (err < 0)
        return err;
    int code = git_config_get_string(&value, config, (const char *)name.data);
    if (code == GIT_ENOTFOUND)
        return 0;
    if (code < 0)
        return git_failed(code, "config: %s", (const char *)name.data);
    return (*out = bytes_dup(text_bytes(value))) ? 0 : error_wrap(E_NOMEM, "config");
}

int upstream_find(char **remote, char **merge, struct store *store, const char *branch)
{
    AUTO_GIT(git_config, config);
    AUTO_FREE(char, from);
    AUTO_FREE(char, ref);
    int err;

    *remote = *merge = NULL;
    int code = git_repository_config_snapshot(&config, store->repo);
    if (code < 0)
        return git_failed(code, "config");
    if ((err = branch_setting(&from, config, branch, "remote")) < 0 ||
        (err = branch_setting(&ref, config, branch, "merge")) < 0)
        return err;
    if (!from || !ref || strncmp(ref, REF_HEADS, strlen(REF_HEADS)) != 0)
        return 0;
    if (!(*merge = bytes_dup(text_bytes(ref + strlen(REF_HEADS)))))
        return error_wrap(E_NOMEM, "config");
    *remote = from;
    from = NULL;
    return 0;
}

int upstream_set(struct store *store, const char *branch, const char *remote, const char *merge)
{
    AUTO_BUF(section);
    AUTO_BUF(ref);
    int err;

    if ((err = buf_printf(&section, "branch.%s", branch)) < 0 ||
        (err = buf_printf(&ref, REF_HEADS "%s", merge)) < 0 ||
        (err = config_section_set(store, (const char *)section.data, "remote", remote)) < 0)
        return err;
    return config_section_set(store, (const char *)section.data, "merge", (const char *)ref.data);
}
