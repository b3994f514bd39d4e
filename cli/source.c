/*
 * What a command reads as a version: a revision, else a PEFT directory. See cli.h.
 *
 * A path that no revision can be ("./x", "/x", "../x", ".", "..") is a directory at once; any other
 * text is tried as a revision first.
 */
#include <string.h>

#include "cli/cli.h"
#include "format/file.h"

static bool is_path(const char *text)
{
    return text[0] == '/' || strcmp(text, ".") == 0 || strcmp(text, "..") == 0 ||
           strncmp(text, "./", 2) == 0 || strncmp(text, "../", 3) == 0;
}

static int source_load_directory(struct source *out, struct cli *cli, const char *dir)
{
    int err = adapter_files_read(&out->files, dir, false, cli->progress);

    if (err)
        return err;
    if ((err = snapshot_encode(&out->snapshot, &out->files, NULL)))
        return error_wrap(err, "%s", dir);
    for (size_t i = 0; i < out->files.count; i++)
        buf_release(&out->files.files[i].data);
    return 0;
}

static int source_load_version(struct source *out, struct cli *cli, const char *revision)
{
    int err = store_resolve(&out->commit, cli->store, revision);

    if (err)
        return err;
    out->is_version = true;
    err = store_load(&out->snapshot, cli->store, &out->commit);
    return err ? error_wrap(err, "%s", revision) : 0;
}

/* Fill `out`, which the caller releases where it fails. */
static int source_fill(struct source *out, struct cli *cli, const char *text)
{
    bool directory = dir_has(text, PEFT_CONFIG);

    if (is_path(text))
        return source_load_directory(out, cli, text);
    if (!cli->store) {
        if (directory)
            return source_load_directory(out, cli, text);
        int err = error_set(
            E_NOTFOUND,
            "'%s': no repository here that could have this revision, and no directory "
            "with " PEFT_CONFIG,
            text
        );
        return error_hint(err, "vera init makes a repository; vera -C DIR works in another one");
    }
    int err = source_load_version(out, cli, text);
    if ((err == E_NOTFOUND || err == E_INVALID) && !out->is_version) {
        if (directory)
            return source_load_directory(out, cli, text);
        return error_detail(err, "nor is it a directory with " PEFT_CONFIG);
    }
    return err;
}

int source_load(struct source *out, struct cli *cli, const char *text)
{
    AUTO_SOURCE(source);
    int err = source_fill(&source, cli, text);

    if (err)
        return err;
    *out = source;
    source = (struct source){0};
    /* Loaded last: it points into the snapshot where it will stay. */
    err = adapter_load(&out->loaded, &out->snapshot);
    if (err) {
        source_release(out);
        *out = (struct source){0};
        return error_wrap(err, "%s", text);
    }
    return 0;
}

void source_release(struct source *source)
{
    loaded_adapter_release(&source->loaded);
    snapshot_release(&source->snapshot);
    adapter_files_release(&source->files);
    *source = (struct source){0};
}
