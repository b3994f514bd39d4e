/*
 * Making and opening a repository. See store.h.
 *
 * libgit2's own fsync is set once, when a handle's ref backend is made: refs are synced by it,
 * before and after their rename. Objects are not: a backend of our own writes them, and
 * objects_sync() syncs them together.
 */
#include <git2/sys/odb_backend.h>
#include <git2/sys/repository.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

#include "format/file.h"
#include "store/certificates.h"
#include "store/loose_backend.h"
#include "store/pack_loose.h"

#define WAIT_MS 5000

/* git_libgit2_init() counts its calls; ours is the only one, and it lasts as long as the process.
 */
static pthread_once_t started = PTHREAD_ONCE_INIT;
static int start_code;
static pthread_mutex_t options = PTHREAD_MUTEX_INITIALIZER;

/* git passes over the settings of a home that it may not look into; libgit2 stops there. */
static void settings_find(void)
{
    const char *home = getenv("HOME");

    if (!home || !*home || !path_is_forbidden(home))
        return;
    pthread_mutex_lock(&options);
    git_libgit2_opts(GIT_OPT_SET_SEARCH_PATH, GIT_CONFIG_LEVEL_GLOBAL, "");
    git_libgit2_opts(GIT_OPT_SET_SEARCH_PATH, GIT_CONFIG_LEVEL_XDG, "");
    pthread_mutex_unlock(&options);
}

static void start(void)
{
    start_code = certificates_put_off();
}

static int library_start(void)
{
    pthread_once(&started, start);
    if (start_code < 0)
        return git_failed(start_code, "libgit2 does not start");
    settings_find();
    return 0;
}

/* Making one */

static int config_write(git_repository *repo)
{
    AUTO_GIT(git_config, config);
    int code = git_repository_config(&config, repo);

    if (code == 0)
        code = git_config_set_bool(config, "core.logAllRefUpdates", true);
    if (code == 0)
        code = git_config_set_string(config, "core.fsync", "all");
    /* No difference between two frames is smaller than one of them, and to look for one takes a
       second for each megabyte when they are packed. */
    if (code == 0)
        code = git_config_set_string(config, "core.bigFileThreshold", "32k");
    return code < 0 ? git_failed(code, "the configuration cannot be written") : 0;
}

static int repository_make(const char *path)
{
    git_repository_init_options how = {
        .version = GIT_REPOSITORY_INIT_OPTIONS_VERSION,
        .flags = GIT_REPOSITORY_INIT_BARE | GIT_REPOSITORY_INIT_NO_DOTGIT_DIR,
        .mode = GIT_REPOSITORY_INIT_SHARED_UMASK,
        .initial_head = "main",
    };
    git_repository *repo = NULL;

    int code = git_repository_init_ext(&repo, path, &how);
    if (code < 0)
        return git_failed(code, "no repository can be made");
    int err = config_write(repo);
    git_repository_free(repo);
    return err;
}

/* What git would make later, when nobody syncs it. */
static int folders_make(struct outdir *out)
{
    int err = outdir_folder(out, "logs/refs/heads");

    for (unsigned i = 0; err == 0 && i < 256; i++) {
        char path[16];
        snprintf(path, sizeof(path), "objects/%02x", i);
        err = outdir_folder(out, path);
    }
    return err;
}

struct filling {
    int (*fill)(void *context, const char *path); /* or NULL */
    void *context;
};

static int init_at(char **out_path, const char *path, const struct filling *filling)
{
    AUTO_OUTDIR(out);
    int err;

    if (path_exists(path))
        return error_set(E_EXISTS, "%s: is there already", path);
    if ((err = outdir_begin(&out, path, false)) < 0 || (err = repository_make(out.staging)) < 0 ||
        (err = folders_make(&out)) < 0 ||
        (err = outdir_write(&out, "vera.lock", (struct bytes){0})) < 0 ||
        (filling->fill && (err = filling->fill(filling->context, out.staging)) < 0) ||
        (err = outdir_commit(&out)) < 0)
        return err;
    *out_path = out.target;
    out.target = NULL;
    return 0;
}

static int init_in(char **out_path, const char *dir, const struct filling *filling)
{
    AUTO_FREE(char, root);
    AUTO_FREE(char, path);

    int err = dir_make(dir);
    if (err < 0)
        return err;
    if (!(root = realpath(dir, NULL)))
        return file_error(dir);
    err = path_join(&path, root, ".vera");
    return err < 0 ? err : init_at(out_path, path, filling);
}

/* How much of a path is there: the length of its longest prefix that is. */
static size_t existing_length(const char *path)
{
    AUTO_FREE(char, prefix);
    size_t length = strlen(path);

    if (!(prefix = bytes_dup(text_bytes(path))))
        return length;
    while (length > 0 && !path_exists(prefix)) {
        while (length > 0 && prefix[length - 1] != '/')
            length--;
        while (length > 0 && prefix[length - 1] == '/')
            length--;
        prefix[length] = '\0';
    }
    return length;
}

/* The folders that were made for a repository that could not be, the innermost first. */
static void folders_unmake(const char *dir, size_t existed)
{
    AUTO_FREE(char, path);

    if (!(path = bytes_dup(text_bytes(dir))))
        return;
    for (size_t length = strlen(path); length > existed;) {
        path[length] = '\0';
        (void)!dir_remove_empty(path);
        while (length > existed && path[length - 1] != '/')
            length--;
        while (length > existed && path[length - 1] == '/')
            length--;
    }
}

int store_init_filled(
    char **out_path, const char *dir, int (*fill)(void *context, const char *path), void *context
)
{
    const struct filling filling = {fill, context};
    size_t existed = existing_length(dir);
    int err = library_start();

    if (err < 0 || (err = init_in(out_path, dir, &filling)) == 0)
        return err;
    error_keep();
    folders_unmake(dir, existed);
    return error_restore(err);
}

int store_init(char **out_path, const char *dir)
{
    return store_init_filled(out_path, dir, NULL, NULL);
}

/* Finding one */

/* VERA_REPO names the repository, or a directory that holds one. */
static int path_named(char **out, const char *name)
{
    AUTO_FREE(char, inner);
    AUTO_FREE(char, path);

    if (!(path = realpath(name, NULL))) {
        int err = file_error(name);
        return err == E_NOTFOUND ? error_hint(err, "VERA_REPO names no repository") : err;
    }
    int err = path_join(&inner, path, ".vera");
    if (err < 0)
        return err;
    char **found = path_exists(inner) ? &inner : &path;
    *out = *found;
    *found = NULL;
    return 0;
}

static int path_above(char **out, const char *dir)
{
    AUTO_FREE(char, at);

    if (!(at = realpath(dir, NULL)))
        return file_error(dir);
    for (;;) {
        AUTO_FREE(char, path);
        int err = path_join(&path, at, ".vera");
        if (err < 0)
            return err;
        if (path_exists(path)) {
            *out = path;
            path = NULL;
            return 0;
        }
        if (strcmp(at, "/") == 0)
            break;
        AUTO_FREE(char, parent);
        if ((err = path_parent(&parent, at)) < 0)
            return err;
        free(at);
        at = parent;
        parent = NULL;
    }
    int err = error_set(E_NOTFOUND, "%s: there is no repository here or above", dir);
    return error_hint(err, "vera init");
}

/* Opening it */

static int open_failed(int code, const char *path)
{
    const git_error *error = git_error_last();
    const char *why = error && error->message ? error->message : "";

    /* libgit2 1.5 takes the owner's exception that is not configured for something missing. */
    if (code == GIT_EOWNER || (code == GIT_ENOTFOUND && strstr(why, "safe.directory"))) {
        int err = error_set(E_IO, "%s: belongs to another user", path);
        return error_hint(
            err, "if you trust it: git config --global --add safe.directory '%s'", path
        );
    }
    if (code == GIT_ENOTFOUND)
        return error_set(E_CORRUPT, "%s: is no repository", path);
    if (error && error->klass == GIT_ERROR_REPOSITORY)
        return error_set(E_UNSUPPORTED, "%s: %s", path, why);
    return git_failed(code, "%s", path);
}

/* A handle's ref backend takes libgit2's setting over when it is made. */
static int refs_open(git_repository *repo)
{
    AUTO_GIT(git_refdb, refs);

    pthread_mutex_lock(&options);
    git_libgit2_opts(GIT_OPT_ENABLE_FSYNC_GITDIR, 1);
    int code = git_repository_refdb(&refs, repo);
    git_libgit2_opts(GIT_OPT_ENABLE_FSYNC_GITDIR, 0);
    pthread_mutex_unlock(&options);
    return code;
}

static int objects_open(struct store *store)
{
    AUTO_FREE(char, path);

    int err = path_join(&path, store->path, "objects");
    if (err < 0)
        return err;
    if ((err = odb_open(&store->odb, path)) < 0)
        return err;
    int code = git_repository_set_odb(store->repo, store->odb);
    if (code == 0)
        code = git_odb_backend_loose(&store->loose, path, -1, 0, 0, 0);
    return code < 0 ? git_failed(code, "%s", path) : 0;
}

static int packs_stamp(int64_t *out, struct store *store)
{
    AUTO_FREE(char, path);

    *out = 0;
    int err = path_join(&path, store->path, "objects/pack");
    if (err == 0 && (err = path_stamp(out, path)) == E_NOTFOUND)
        err = 0;
    return err;
}

static int elsewhere(int err)
{
    return error_hint(err, "'vera init' makes a repository; -C or VERA_REPO names another one");
}

/* What is stamped is older than what is opened then. */
static int store_open_at(struct store *store)
{
    AUTO_FREE(char, head);

    int err = packs_stamp(&store->packs_stamp, store);

    if (err < 0 && err != E_IO)
        return err;
    if (!path_is_directory(store->path))
        return elsewhere(error_set(E_CORRUPT, "%s: is no repository: not a directory", store->path)
        );
    if ((err = path_join(&head, store->path, "HEAD")) < 0)
        return err;
    if (!path_exists(head) || path_is_directory(head))
        return elsewhere(error_set(E_CORRUPT, "%s: is no repository: it has no HEAD", store->path));
    int code = git_repository_open_ext(
        &store->repo, store->path, GIT_REPOSITORY_OPEN_NO_SEARCH | GIT_REPOSITORY_OPEN_NO_DOTGIT,
        NULL
    );
    if (code < 0)
        return open_failed(code, store->path);
    if ((code = refs_open(store->repo)) < 0)
        return git_failed(code, "%s", store->path);
    return objects_open(store);
}

int store_open(struct store **out, const char *dir, const char *vera_repo)
{
    AUTO_STORE(store);
    int err;

    if ((err = library_start()) < 0)
        return err;
    store = array_new(1, sizeof(*store));
    if (!store)
        return error_wrap(E_NOMEM, "repository");
    store->wait_ms = WAIT_MS;
    store->part_bytes = FRAME_PART_BYTES;
    store->loose_max = LOOSE_MAX;
    err = vera_repo && *vera_repo ? path_named(&store->path, vera_repo)
                                  : path_above(&store->path, dir);
    if (err < 0 || (err = store_open_at(store)) < 0)
        return err;
    *out = store;
    store = NULL;
    return 0;
}

static void handles_close(struct store *store)
{
    if (store->loose)
        store->loose->free(store->loose);
    git_odb_free(store->odb);
    git_repository_free(store->repo);
    store->loose = NULL;
    store->odb = NULL;
    store->repo = NULL;
}

int store_renew(struct store *store)
{
    int64_t stamp;

    int err = packs_stamp(&stamp, store);
    if (err < 0 || stamp == store->packs_stamp)
        return err;
    handles_close(store);
    return store_open_at(store);
}

void store_free(struct store *store)
{
    if (!store)
        return;
    handles_close(store);
    free(store->path);
    free(store);
}

void store_release(struct store **store)
{
    store_free(*store);
    *store = NULL;
}

const char *store_path(const struct store *store)
{
    return store->path;
}
