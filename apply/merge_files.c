#include "apply/merge_files.h"

#include <string.h>

/* One path in the three versions. */
struct trio {
    const char *path;
    struct content base, ours, theirs;
};

/* The file of this path at the head of the list `at` goes through, and one step further. */
static struct content file_take(const struct adapter_files *files, size_t *at, const char *path)
{
    if (*at == files->count || strcmp(files->files[*at].path, path) != 0)
        return (struct content){0};
    return (struct content){true, buf_bytes(&files->files[(*at)++].data)};
}

static const char *path_first(const char *path, const struct adapter_files *files, size_t at)
{
    if (at == files->count)
        return path;
    const char *other = files->files[at].path;
    return !path || strcmp(other, path) < 0 ? other : path;
}

static int file_add(struct adapter_files *out, const char *path, struct bytes data)
{
    AUTO_BUF(copy);

    int err = buf_append(&copy, data.data, data.len);
    return err < 0 ? err : adapter_files_add(out, path, &copy);
}

static int trio_merge(
    struct adapter_files *out,
    struct conflicts *conflicts,
    const struct trio *trio,
    enum three_way_prefer prefer
)
{
    enum three_way way = three_way_contents(&trio->base, &trio->ours, &trio->theirs);

    way = three_way_settle(way, prefer);
    if (way == WAY_CONFLICT)
        return conflicts_add(
            conflicts, trio->path,
            !trio->ours.there     ? "we removed it, they changed it"
            : !trio->theirs.there ? "we changed it, they removed it"
            : trio->base.there    ? "both changed it"
                                  : "both added it"
        );
    const struct content *taken = way == WAY_THEIRS ? &trio->theirs : &trio->ours;
    return taken->there ? file_add(out, trio->path, taken->bytes) : 0;
}

int merge_files(
    struct adapter_files *out,
    struct conflicts *conflicts,
    const struct adapter_files *base,
    const struct adapter_files *ours,
    const struct adapter_files *theirs,
    enum three_way_prefer prefer
)
{
    size_t at_base = 0, at_ours = 0, at_theirs = 0;
    int err = 0;

    while (err == 0) {
        const char *path = path_first(NULL, base, at_base);
        path = path_first(path, ours, at_ours);
        path = path_first(path, theirs, at_theirs);
        if (!path)
            break;
        struct trio trio = {.path = path};
        trio.base = file_take(base, &at_base, path);
        trio.ours = file_take(ours, &at_ours, path);
        trio.theirs = file_take(theirs, &at_theirs, path);
        if (strcmp(path, PEFT_CONFIG) != 0 && strcmp(path, PEFT_MODEL) != 0)
            err = trio_merge(out, conflicts, &trio, prefer);
    }
    return err;
}
