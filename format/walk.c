/*
 * Which files of a directory are an adapter, and reading them. See file.h, and W1 to W6 in
 * docs/format.md.
 *
 * First everything is looked at and every offence collected, so that the person sees all of them at
 * once; then the files that were taken are read in byte order of their paths. The directory may be
 * hostile (a download): entries, depth, names and bytes are bounded, and no link to a directory is
 * followed, so the walk ends.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

#include "format/file.h"
#include "format/ignore.h"
#include "format/limits.h"

#define IGNORE_FILE ".veraignore"
#define PICKLE      "adapter_model.bin"

struct walk {
    const char *dir;
    bool all;
    struct ignore ignore;
    struct buf taken;    /* char * each, relative paths, owned */
    struct buf left_out; /* likewise */
    struct buf offences; /* NUL-terminated lines, one after the other */
    uint64_t entries, bytes;
};

static char **list_of(const struct buf *buf)
{
    return (char **)(void *)buf->data;
}

static size_t count_of(const struct buf *buf)
{
    return buf->len / sizeof(char *);
}

static void list_release(struct buf *buf)
{
    for (size_t i = 0; i < count_of(buf); i++)
        free(list_of(buf)[i]);
    buf_release(buf);
}

static void walk_release(struct walk *walk)
{
    ignore_release(&walk->ignore);
    list_release(&walk->taken);
    list_release(&walk->left_out);
    buf_release(&walk->offences);
}

static int list_add(struct buf *buf, const char *path, const char *end)
{
    AUTO_BUF(text);

    int err = buf_printf(&text, "%s%s", path, end);
    char *copy = (char *)text.data;
    if (err < 0 || (err = buf_append(buf, &copy, sizeof(copy))) < 0)
        return err;
    (void)buf_take(&text);
    return 0;
}

static int path_compare(const void *a, const void *b)
{
    return strcmp(*(char *const *)a, *(char *const *)b);
}

static void list_sort(struct buf *buf)
{
    if (buf->len)
        qsort(buf->data, count_of(buf), sizeof(char *), path_compare);
}

/* Note what is wrong and go on. */
static int offence_add(struct walk *walk, const char *path, const char *why)
{
    int err = buf_printf(&walk->offences, "%s%s%s", path, *path ? ": " : "", why);

    return err < 0 ? err : buf_append_byte(&walk->offences, 0);
}

static int offences_say(struct walk *walk)
{
    const char *lines = (const char *)walk->offences.data;

    if (!walk->offences.len)
        return 0;
    int err = error_set(E_INVALID, "%s: not everything can be stored", walk->dir);
    for (size_t at = 0; at < walk->offences.len; at += strlen(lines + at) + 1)
        err = error_detail(err, "%s", lines + at);
    return error_hint(err, "a line in %s/%s leaves out what it names", walk->dir, IGNORE_FILE);
}

/* Looking */

static bool hidden(const char *path)
{
    return path[0] == '.' || strstr(path, "/.");
}

/* Would this file be taken, by the rules, --all, or what it is? */
static bool wanted(const struct walk *walk, const char *path, uint64_t bytes)
{
    enum ignore_verdict verdict = ignore_match(&walk->ignore, path, false);

    if (verdict != IGNORE_SILENT)
        return verdict == IGNORE_IN;
    return walk->all || peft_takes_file(path, bytes);
}

static int file_examine(struct walk *walk, const char *path, uint64_t bytes)
{
    if (!wanted(walk, path, bytes))
        return list_add(&walk->left_out, path, "");
    if (bytes > LIMIT_FILE || __builtin_add_overflow(walk->bytes, bytes, &walk->bytes) ||
        walk->bytes > LIMIT_DIRECTORY)
        return error_set(
            E_LIMIT, "%s/%s: %" PRIu64 " bytes are more than can be stored", walk->dir, path, bytes
        );
    if (count_of(&walk->taken) >= LIMIT_FILES)
        return error_set(E_LIMIT, "%s: more than %" PRIu64 " files", walk->dir, LIMIT_FILES);
    return list_add(&walk->taken, path, "");
}

static int dir_walk(struct walk *walk, const char *path, unsigned depth);

/* A folder: entered, unless a rule leaves it out or it is hidden and nothing asks for it. */
static int folder_examine(struct walk *walk, const char *path, unsigned depth)
{
    enum ignore_verdict verdict = ignore_match(&walk->ignore, path, true);

    bool out = verdict == IGNORE_SILENT ? !walk->all && hidden(path) : verdict == IGNORE_OUT;
    if (out)
        return list_add(&walk->left_out, path, "/");
    /* One line for .git/, not one for each file in it. */
    if ((walk->all || verdict == IGNORE_IN) && path_check(path) < 0)
        return offence_add(walk, "", error_message());
    if (depth >= LIMIT_PATH_DEPTH)
        return error_set(
            E_LIMIT, "%s/%.200s...: more than %d folders deep", walk->dir, path, LIMIT_PATH_DEPTH
        );
    return dir_walk(walk, path, depth + 1);
}

static const char *special_kind(mode_t mode)
{
    return S_ISFIFO(mode)   ? "a FIFO"
           : S_ISSOCK(mode) ? "a socket"
           : S_ISCHR(mode)  ? "a character device"
           : S_ISBLK(mode)  ? "a block device"
                            : "no regular file";
}

static int entry_examine(struct walk *walk, const char *path, unsigned depth)
{
    AUTO_FREE(char, full);
    struct stat status;

    int err = path_join(&full, walk->dir, path);
    if (err < 0)
        return err;
    if (lstat(full, &status) != 0)
        return file_error(full);
    bool link = S_ISLNK(status.st_mode);
    if (link && stat(full, &status) != 0) {
        if (errno != ENOENT && errno != ELOOP && errno != ENOTDIR)
            return file_error(full);
        if (!wanted(walk, path, 0))
            return list_add(&walk->left_out, path, "");
        return offence_add(walk, path, "a symbolic link that leads nowhere");
    }
    if (S_ISDIR(status.st_mode))
        return link ? list_add(&walk->left_out, path, "/") : folder_examine(walk, path, depth);
    if (S_ISREG(status.st_mode))
        return file_examine(walk, path, (uint64_t)status.st_size);
    if (ignore_match(&walk->ignore, path, false) == IGNORE_OUT)
        return list_add(&walk->left_out, path, "");
    return offence_add(walk, path, special_kind(status.st_mode));
}

/* The names in a directory, sorted, so that the walk says the same things on every machine. */
static int entries_read(struct walk *walk, struct buf *out, const char *path)
{
    AUTO_FREE(char, full);
    const char *name = NULL;

    int err = path_join(&full, walk->dir, path);
    if (err < 0)
        return err;
    DIR *dir = opendir(full);
    if (!dir)
        return file_error(full);
    while (err == 0 && (err = dir_next(&name, dir, full)) == 0 && name) {
        if (walk->entries++ >= LIMIT_ENTRIES)
            err = error_set(E_LIMIT, "%s: more than %" PRIu64 " entries", walk->dir, LIMIT_ENTRIES);
        else
            err = list_add(out, name, "");
    }
    closedir(dir);
    list_sort(out);
    return err;
}

static int dir_walk(struct walk *walk, const char *path, unsigned depth)
{
    __attribute__((cleanup(list_release))) struct buf names = {0};

    int err = entries_read(walk, &names, path);
    if (err == 0 && walk->all && *path && !names.len)
        err = offence_add(walk, path, "an empty folder");
    for (size_t i = 0; err == 0 && i < count_of(&names); i++) {
        AUTO_BUF(below);
        if ((err = interrupt_check()) < 0 ||
            (err = buf_printf(&below, "%s%s%s", path, *path ? "/" : "", list_of(&names)[i])) < 0)
            break;
        err = entry_examine(walk, (const char *)below.data, depth);
    }
    return err;
}

/* Names that no repository can hold; path_check() has its own words for them. */
static int names_check(struct walk *walk)
{
    int err = 0;

    for (size_t i = 0; err == 0 && i < count_of(&walk->taken); i++) {
        if (path_check(list_of(&walk->taken)[i]) < 0)
            err = offence_add(walk, "", error_message());
    }
    return err;
}

/* Before: what is no adapter at all is not walked through */

/* The folder of `dir` that holds a configuration, where there is exactly one: PEFT saves an adapter
   that is not called "default" into a folder of its name. */
static int config_missing(const char *dir)
{
    AUTO_FREE(char, found);
    const char *name = NULL;
    unsigned count = 0, seen = 0;
    DIR *entries = opendir(dir);

    while (entries && seen++ < 1000 && dir_next(&name, entries, dir) == 0 && name) {
        AUTO_FREE(char, inner);
        if (path_join(&inner, dir, name) < 0 || !dir_has(inner, PEFT_CONFIG) || count++)
            continue;
        found = inner;
        inner = NULL;
    }
    if (entries)
        closedir(entries);
    int err = error_set(E_NOTFOUND, "%s: no %s", dir, PEFT_CONFIG);
    if (count == 1)
        return error_hint(err, "%s has one: give that directory", found);
    return error_hint(err, "give the directory that PEFT's save_pretrained() wrote");
}

/* `text` for a shell: in single quotes. */
static int shell_quote(struct buf *out, const char *text)
{
    int err = buf_append_byte(out, '\'');

    for (; err == 0 && *text; text++)
        err = *text == '\'' ? buf_append_text(out, "'\\''") : buf_append_byte(out, (uint8_t)*text);
    return err < 0 ? err : buf_append_byte(out, '\'');
}

/* The line that the person can paste. A path that is too long for it becomes the current one. */
static int pickle_found(const char *dir)
{
    AUTO_FREE(char, real);
    AUTO_BUF(quoted);

    real = realpath(dir, NULL);
    int err = shell_quote(&quoted, real ? real : ".");
    if (err == 0 && quoted.len > 600) {
        quoted.len = 0;
        err = buf_append_byte(&quoted, '.');
    }
    if (err < 0)
        return err;
    const char *argument = buf_text(&quoted);
    if (!argument)
        return error_wrap(E_NOMEM, "%s", dir);
    err = error_set(E_UNSUPPORTED, "%s: %s is a pickle; %s is needed", dir, PICKLE, PEFT_MODEL);
    return error_hint(
        err,
        "convert it: python3 -c 'import sys, torch, safetensors.torch as s; d = sys.argv[1] + "
        "\"/adapter_model\"; s.save_file({k: v.clone().contiguous() for k, v in torch.load(d + "
        "\".bin\", map_location=\"cpu\", weights_only=True).items()}, d + \".safetensors\", "
        "metadata={\"format\": \"pt\"})' %s",
        argument
    );
}

static bool there(const char *dir, const char *name)
{
    AUTO_FREE(char, path);
    struct stat status;

    return path_join(&path, dir, name) == 0 && lstat(path, &status) == 0;
}

/* No model file: of another kind, a pickle, or nothing. */
static int model_missing(const char *dir)
{
    AUTO_FREE(char, path);
    AUTO_BUF(config);
    struct peft_config kind = {0};
    int err;

    if ((err = path_join(&path, dir, PEFT_CONFIG)) < 0 ||
        (err = file_read(&config, path, LIMIT_CONFIG)) < 0)
        return err;
    if ((err = peft_config_decode(&kind, buf_bytes(&config))) < 0)
        return error_wrap(err, "%s", dir);
    peft_config_release(&kind);
    if (there(dir, PICKLE))
        return pickle_found(dir);
    return error_set(E_NOTFOUND, "%s: no %s", dir, PEFT_MODEL);
}

static int adapter_look(const char *dir)
{
    struct stat status;

    if (stat(dir, &status) != 0)
        return file_error(dir);
    if (!S_ISDIR(status.st_mode)) {
        int err = error_set(E_INVALID, "%s: not a directory", dir);
        return error_hint(err, "give the directory that holds %s", PEFT_CONFIG);
    }
    if (!there(dir, PEFT_CONFIG))
        return config_missing(dir);
    return there(dir, PEFT_MODEL) ? 0 : model_missing(dir);
}

static int rules_read(struct walk *walk)
{
    AUTO_FREE(char, path);
    AUTO_BUF(text);

    if (!there(walk->dir, IGNORE_FILE))
        return 0;
    int err = path_join(&path, walk->dir, IGNORE_FILE);
    if (err < 0 || (err = file_read(&text, path, LIMIT_IGNORE)) < 0)
        return err;
    err = ignore_decode(&walk->ignore, buf_bytes(&text));
    return err < 0 ? error_wrap(err, "%s", path) : 0;
}

/* Reading */

static int files_read(struct adapter_files *out, const struct walk *walk, struct progress *progress)
{
    AUTO_ADAPTER_FILES(files);
    uint64_t done = 0;

    for (size_t i = 0; i < count_of(&walk->taken); i++) {
        const char *path = list_of(&walk->taken)[i];
        AUTO_FREE(char, full);
        AUTO_BUF(data);
        int err = path_join(&full, walk->dir, path);
        if (err < 0 || (err = file_read(&data, full, LIMIT_FILE)) < 0)
            return err;
        if ((done += data.len) > LIMIT_DIRECTORY)
            return error_set(E_LIMIT, "%s: grew while it was read", walk->dir);
        if ((err = adapter_files_add(&files, path, &data)) < 0 || (err = interrupt_check()) < 0)
            return err;
        progress_update(progress, done, walk->bytes);
    }
    *out = files;
    files = (struct adapter_files){0};
    return 0;
}

/* A rule may leave out what an adapter cannot be without. */
static int needed_check(const struct walk *walk)
{
    static const char *const needed[] = {PEFT_CONFIG, PEFT_MODEL};

    for (size_t i = 0; i < 2; i++) {
        const char *const *name = &needed[i];
        if (!walk->taken.len ||
            !bsearch(name, walk->taken.data, count_of(&walk->taken), sizeof(*name), path_compare))
            return error_set(
                E_INVALID, "%s: %s is no file, or %s leaves it out", walk->dir, *name, IGNORE_FILE
            );
    }
    return 0;
}

int adapter_files_read(
    struct adapter_files *out, const char *dir, bool all, struct progress *progress
)
{
    __attribute__((cleanup(walk_release))) struct walk walk = {.dir = dir, .all = all};
    struct adapter_files files = {0};
    int err;

    if ((err = adapter_look(dir)) < 0 || (err = rules_read(&walk)) < 0 ||
        (err = dir_walk(&walk, "", 0)) < 0)
        return err;
    list_sort(&walk.taken);
    list_sort(&walk.left_out);
    if ((err = names_check(&walk)) < 0 || (err = offences_say(&walk)) < 0 ||
        (err = needed_check(&walk)) < 0 || (err = files_read(&files, &walk, progress)) < 0)
        return err;
    files.left_out_count = count_of(&walk.left_out);
    files.left_out = list_of(&walk.left_out);
    walk.left_out = (struct buf){0};
    *out = files;
    return 0;
}
