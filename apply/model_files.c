/* Which files of a base model's directory a merged model takes over. See model_files.h. */
#include "apply/model_files.h"

#include <fnmatch.h>
#include <stdlib.h>
#include <string.h>

#include "format/json.h"
#include "format/limits.h"
#include "format/manifest.h"

#define MODULES_FILE  "modules.json"
#define TEMPLATES_DIR "additional_chat_templates"

static const char *const taken[] = {"*.json",  "*.txt",   "*.jinja",    "*.py",  "LICENSE*",
                                    "NOTICE*", "*.model", "*.model.v*", "*.spm", "*.bpe",
                                    "*.vocab", "*.codes", "*.tiktoken", NULL};
static const char *const left_out[] = {
    "*.index.json", "adapter_config.json", "trainer_state.json", NULL};
static const char *const templates[] = {"*.jinja", NULL};
static const char *const everything[] = {"*", NULL};

/* A leading period is matched by no "*": hidden files are left out. */
static bool matches_any(const char *name, const char *const *patterns)
{
    for (; *patterns; patterns++) {
        if (fnmatch(*patterns, name, FNM_PERIOD) == 0)
            return true;
    }
    return false;
}

static char **paths_of(const struct buf *list)
{
    return (char **)(void *)list->data;
}

static size_t count_of(const struct buf *list)
{
    return list->len / sizeof(char *);
}

static void list_release(struct buf *list)
{
    for (size_t i = 0; i < count_of(list); i++)
        free(paths_of(list)[i]);
    buf_release(list);
}

static int list_add(struct buf *list, const char *folder, const char *name)
{
    AUTO_FREE(char, path);

    if (*folder) {
        int err = path_join(&path, folder, name);
        if (err < 0)
            return err;
    } else if (!(path = bytes_dup(text_bytes(name)))) {
        return error_wrap(E_NOMEM, "%s", name);
    }
    int err = buf_append(list, &path, sizeof(path));
    if (err == 0)
        path = NULL;
    return err;
}

/* Regular files, symlinks to them included; dir_has() would hide that memory is out. */
static int is_file(bool *out, const char *dir, const char *name)
{
    AUTO_FREE(char, path);
    AUTO_FD(fd);
    uint64_t bytes;

    int err = path_join(&path, dir, name);
    if (err < 0)
        return err;
    err = file_open(&fd, &bytes, path);
    *out = err == 0;
    return err == E_INVALID || err == E_NOTFOUND ? 0 : err;
}

/* The files of one folder ("" is the model's own) that match. A missing folder has none. */
static int
folder_add(struct buf *list, const char *dir, const char *folder, const char *const *patterns)
{
    AUTO_FREE(char, full);
    AUTO_BUF(names);
    int err;

    if ((err = path_join(&full, dir, folder)) < 0)
        return err;
    if ((err = dir_names(&names, full)) < 0)
        return err == E_NOTFOUND && *folder ? 0 : err;
    for (size_t at = 0; at < names.len; at += strlen((const char *)names.data + at) + 1) {
        const char *name = (const char *)names.data + at;
        bool taken_over = false;
        if (!matches_any(name, patterns) || (!*folder && matches_any(name, left_out)))
            continue;
        if ((err = is_file(&taken_over, full, name)) < 0 ||
            (taken_over && (err = list_add(list, folder, name)) < 0))
            return err;
    }
    return 0;
}

static int module_add(struct buf *list, const char *dir, struct bytes path)
{
    AUTO_FREE(char, folder);

    if (path.len == 0)
        return 0;
    if (memchr(path.data, 0, path.len))
        return error_set(E_INVALID, "a path holds a NUL");
    if (!(folder = bytes_dup(path)))
        return error_wrap(E_NOMEM, MODULES_FILE);
    int err = path_check(folder);
    if (err < 0)
        return err;
    if (folder[0] == '.' || strstr(folder, "/."))
        return error_set(E_INVALID, "'%s' is hidden", folder);
    return folder_add(list, dir, folder, everything);
}

/* [{"idx": 1, "name": "1", "path": "1_Pooling", "type": "..."}, ...]: sentence-transformers'. */
static int modules_read(struct buf *list, const char *dir, struct bytes text)
{
    AUTO_JSON(json);
    enum json_event event = JSON_NULL;
    int err;

    json_init(&json, text);
    if ((err = json_expect(&json, JSON_ARRAY_BEGIN)) < 0)
        return err;
    while ((err = json_next(&event, &json)) == 0 && event == JSON_OBJECT_BEGIN) {
        while ((err = json_next(&event, &json)) == 0 && event == JSON_KEY) {
            bool is_path = json_text_is(&json, "path");
            if ((err = json_next(&event, &json)) < 0)
                return err;
            err = is_path && event == JSON_STRING ? module_add(list, dir, json.text)
                                                  : json_skip(&json, event);
            if (err < 0)
                return err;
        }
        if (err < 0)
            return err;
    }
    if (err == 0 && event != JSON_ARRAY_END)
        return error_set(E_INVALID, "not a list of objects");
    return err < 0 ? err : json_expect(&json, JSON_END);
}

static int modules_add(struct buf *list, const char *dir)
{
    AUTO_FREE(char, path);
    AUTO_BUF(text);
    bool there = false;

    int err = is_file(&there, dir, MODULES_FILE);
    if (err < 0 || !there)
        return err;
    if ((err = path_join(&path, dir, MODULES_FILE)) < 0 ||
        (err = file_read(&text, path, LIMIT_CONFIG)) < 0)
        return err;
    err = modules_read(list, dir, buf_bytes(&text));
    return err < 0 ? error_wrap(err, "%s", path) : 0;
}

static int path_compare(const void *a, const void *b)
{
    return strcmp(*(char *const *)a, *(char *const *)b);
}

/* In byte order, each once: modules.json may name a folder twice. */
static void list_sort(struct buf *list)
{
    char **paths = paths_of(list);
    size_t kept = 0;

    if (list->len)
        qsort(paths, count_of(list), sizeof(*paths), path_compare);
    for (size_t i = 0; i < count_of(list); i++) {
        if (kept && strcmp(paths[kept - 1], paths[i]) == 0)
            free(paths[i]);
        else
            paths[kept++] = paths[i];
    }
    list->len = kept * sizeof(*paths);
}

int model_files_find(struct model_files *out, const char *dir)
{
    __attribute__((cleanup(list_release))) struct buf list = {0};
    int err;

    if ((err = folder_add(&list, dir, "", taken)) < 0 ||
        (err = folder_add(&list, dir, TEMPLATES_DIR, templates)) < 0 ||
        (err = modules_add(&list, dir)) < 0)
        return err;
    list_sort(&list);
    out->count = count_of(&list);
    out->paths = paths_of(&list);
    (void)buf_take(&list);
    return 0;
}

void model_files_release(struct model_files *files)
{
    for (size_t i = 0; i < files->count; i++)
        free(files->paths[i]);
    free(files->paths);
    *files = (struct model_files){0};
}
