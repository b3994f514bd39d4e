/* What a commit says of itself. See store.h. A commit may be anyone's: what is not UTF-8 in it is
   shown as U+FFFD. */
#include <stdlib.h>
#include <string.h>

#include "format/json.h"
#include "format/limits.h"
#include "store/internal.h"

static int text_read(char **out, const char *text)
{
    AUTO_BUF(clean);
    size_t len = text ? strlen(text) : 0;
    int err = 0;

    for (size_t i = 0; err == 0 && i < len;) {
        const uint8_t *at = (const uint8_t *)text + i;
        size_t n = utf8_length((struct bytes){at, len - i});
        err = n ? buf_append(&clean, at, n) : buf_append_text(&clean, "\xef\xbf\xbd");
        i += n ? n : 1;
    }
    while (clean.len && clean.data[clean.len - 1] == '\n')
        clean.len--;
    if (err == 0 && !(*out = bytes_dup(buf_bytes(&clean))))
        err = error_wrap(E_NOMEM, "commit");
    return err;
}

static int parents_read(struct version *version, const git_commit *commit)
{
    unsigned count = git_commit_parentcount(commit);

    if (!(version->parents = array_new(count, sizeof(*version->parents))))
        return error_wrap(E_NOMEM, "commit");
    for (unsigned i = 0; i < count; i++)
        version->parents[i] = commit_id_of(git_commit_parent_id(commit, i));
    version->parent_count = count;
    return 0;
}

static int commit_describe(struct version *version, const git_commit *commit)
{
    const git_signature *author = git_commit_author(commit);
    int err;

    version->time = (time_t)git_commit_time(commit);
    version->time_offset = git_commit_time_offset(commit);
    if ((err = parents_read(version, commit)) < 0 ||
        (err = text_read(&version->author_name, author ? author->name : "")) < 0 ||
        (err = text_read(&version->author_email, author ? author->email : "")) < 0 ||
        (err = text_read(&version->message, git_commit_message(commit))) < 0)
        return err;
    return message_metrics(version, version->message);
}

int store_message(char **out, struct store *store, const struct commit_id *id)
{
    AUTO_BUF(commit);
    git_oid oid = git_id(id);

    int err = object_read(&commit, store, &oid, GIT_OBJECT_COMMIT, LIMIT_TEXT, "a commit");
    if (err < 0)
        return err;
    const char *text = buf_text(&commit);
    if (!text)
        return error_wrap(E_NOMEM, "commit");
    const char *end = strstr(text, "\n\n");
    return text_read(out, end ? end + 1 + strspn(end + 1, "\n") : "");
}

int store_version(struct version *out, struct store *store, const struct commit_id *id)
{
    AUTO_GIT(git_commit, commit);
    AUTO_VERSION(version);
    git_oid oid = git_id(id);
    int err;

    version.id = *id;
    if ((err = commit_read(&commit, store, &oid)) < 0 ||
        (err = commit_describe(&version, commit)) < 0 ||
        (err = version_snapshot(&version.snapshot, store, id)) < 0)
        return err;
    *out = version;
    version = (struct version){0};
    return 0;
}

void version_release(struct version *version)
{
    for (size_t i = 0; i < version->metric_count; i++)
        free(version->metrics[i].name);
    free(version->metrics);
    free(version->parents);
    free(version->author_name);
    free(version->author_email);
    free(version->message);
    *version = (struct version){0};
}
