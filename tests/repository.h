/*
 * For tests of store/: a repository in a directory of its own, plain commits made without an
 * adapter, and git itself as a second opinion. The person's git settings are kept out.
 */
#ifndef TESTS_REPOSITORY_H
#define TESTS_REPOSITORY_H

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#include "format/file.h"
#include "store/internal.h"

static char scratch[64];
static struct store *store; /* on the repository in `scratch` */

#define UNUSED __attribute__((unused))

/* libgit2 1.5 does not release what it matched a pattern with, where it did not match
   (git_regexp_match). The leak checker asks this. */
const char *__lsan_default_suppressions(void);
__attribute__((visibility("default"))) UNUSED const char *__lsan_default_suppressions(void)
{
    return "leak:libpcre2-8";
}

/* In memory where that is possible: these tests sync thousands of times. */
static UNUSED const char *scratch_root(void)
{
    return access("/dev/shm", W_OK) == 0 ? "/dev/shm" : "/tmp";
}

/* init makes and syncs 256 folders; once is enough for all tests of a program, and their copies
   come without. */
static char template[64];

static UNUSED int template_make(void **state)
{
    AUTO_FREE(char, path);

    (void)state;
    snprintf(template, sizeof(template), "%s/vera-test-template.XXXXXX", scratch_root());
    if (!mkdtemp(template) || setenv("HOME", template, 1) != 0 ||
        setenv("GIT_CONFIG_NOSYSTEM", "1", 1) != 0 || setenv("GIT_DIR", ".vera", 1) != 0 ||
        setenv("GIT_AUTHOR_NAME", "Ada", 1) != 0 || setenv("GIT_COMMITTER_NAME", "Ada", 1) != 0 ||
        setenv("GIT_AUTHOR_EMAIL", "ada@example.org", 1) != 0 ||
        setenv("GIT_COMMITTER_EMAIL", "ada@example.org", 1) != 0)
        return 1;
    return store_init(&path, template) == 0 && chdir(template) == 0 &&
                   system("rmdir .vera/objects/??") == 0
               ? 0
               : 1;
}

static UNUSED int template_remove(void **state)
{
    (void)state;
    return chdir("/") == 0 && tree_remove(template) == 0 ? 0 : 1;
}

/* A test's own repository; the current directory is the one that holds it. */
static UNUSED int repository_make(void **state)
{
    char command[256];

    (void)state;
    snprintf(scratch, sizeof(scratch), "%s/vera-test-store.XXXXXX", scratch_root());
    if (!mkdtemp(scratch) || chdir(scratch) != 0)
        return 1;
    snprintf(command, sizeof(command), "cp -r %s/.vera .", template);
    return system(command) == 0 && store_open(&store, scratch, NULL) == 0 ? 0 : 1;
}

static UNUSED int repository_remove(void **state)
{
    (void)state;
    interrupt_flag = 0;
    store_release(&store);
    return chdir("/") == 0 && tree_remove(scratch) == 0 ? 0 : 1;
}

/* A handle that has nothing in its caches. */
static UNUSED void repository_reopen(void)
{
    store_release(&store);
    assert_int_equal(store_open(&store, scratch, NULL), 0);
}

/* A shell command's exit status, and what it printed on stdout and stderr, without the last
   newline. */
static UNUSED int shell_status(struct buf *out, const char *command)
{
    char chunk[4096];
    size_t n;
    AUTO_BUF(line);

    assert_int_equal(buf_printf(&line, "{ %s\n} 2>&1", command), 0);
    FILE *pipe = popen((char *)line.data, "r");
    assert_non_null(pipe);
    while ((n = fread(chunk, 1, sizeof(chunk), pipe)) > 0)
        assert_int_equal(buf_append(out, chunk, n), 0);
    int status = pclose(pipe);
    if (out->len && out->data[out->len - 1] == '\n')
        out->len--;
    assert_non_null(buf_text(out));
    assert_true(WIFEXITED(status));
    return WEXITSTATUS(status);
}

static UNUSED void shell(const char *command)
{
    AUTO_BUF(out);

    if (shell_status(&out, command) != 0)
        fail_msg("%s\n%s", command, buf_text(&out));
}

static UNUSED void assert_shell(const char *command, const char *expected)
{
    AUTO_BUF(out);

    if (shell_status(&out, command) != 0)
        fail_msg("%s\n%s", command, buf_text(&out));
    assert_string_equal(buf_text(&out), expected);
}

static UNUSED git_oid object_put_text(git_object_t type, struct bytes data)
{
    AUTO_OBJECTS(objects);
    git_oid id;

    assert_int_equal(object_write(&id, &objects, store, type, data), 0);
    return id;
}

/* A tree that holds this text as its manifest: no version, but it looks like one to refs. */
static UNUSED git_oid plain_tree(const char *manifest)
{
    AUTO_BUF(tree);
    git_oid blob = object_put_text(GIT_OBJECT_BLOB, text_bytes(manifest));

    assert_int_equal(buf_append(&tree, "100644 manifest", 16), 0);
    assert_int_equal(buf_append(&tree, blob.id, sizeof(blob.id)), 0);
    return object_put_text(GIT_OBJECT_TREE, buf_bytes(&tree));
}

static UNUSED struct commit_id plain_commit(
    const git_oid *tree,
    const struct commit_id *parents,
    size_t parent_count,
    long time,
    const char *message
)
{
    AUTO_BUF(text);
    char hex[COMMIT_HEX_SIZE];

    git_oid_tostr(hex, sizeof(hex), tree);
    assert_int_equal(buf_printf(&text, "tree %s\n", hex), 0);
    for (size_t i = 0; i < parent_count; i++) {
        commit_hex(hex, &parents[i]);
        assert_int_equal(buf_printf(&text, "parent %s\n", hex), 0);
    }
    assert_int_equal(
        buf_printf(
            &text,
            "author Ada <ada@example.org> %ld +0100\ncommitter Ada <ada@example.org> %ld +0100\n"
            "\n%s\n",
            time, time, message
        ),
        0
    );
    git_oid id = object_put_text(GIT_OBJECT_COMMIT, buf_bytes(&text));
    return commit_id_of(&id);
}

/* Move a branch to a commit, making it where it is new. */
static UNUSED void branch_put(const char *branch, const struct commit_id *commit)
{
    AUTO_BUF(name);
    AUTO_GIT(git_reference, reference);

    assert_int_equal(buf_printf(&name, REF_HEADS "%s", branch), 0);
    struct ref_change change = {.name = (char *)name.data, .has_new = true, .new = git_id(commit)};
    if (git_reference_lookup(&reference, store->repo, change.name) == 0) {
        change.has_old = true;
        change.old = *git_reference_target(reference);
    }
    assert_int_equal(refs_move(store, &change, 1, "test"), 0);
}

/* `count` commits in a row on a branch, each a snapshot of its own, a second apart. commits[0] is
   the oldest. */
static UNUSED void
branch_grow(struct commit_id *commits, size_t count, const char *branch, long time)
{
    for (size_t i = 0; i < count; i++) {
        char text[64];
        snprintf(text, sizeof(text), "%s %zu", branch, i);
        git_oid tree = plain_tree(text);
        commits[i] = plain_commit(
            &tree, i ? &commits[i - 1] : NULL, i ? 1 : 0, time + (long)i, text
        );
    }
    branch_put(branch, &commits[count - 1]);
}

static UNUSED void assert_commit(struct commit_id actual, struct commit_id expected)
{
    char a[COMMIT_HEX_SIZE], b[COMMIT_HEX_SIZE];

    commit_hex(a, &actual);
    commit_hex(b, &expected);
    assert_string_equal(a, b);
}

/* The message of the last error holds this. */
static UNUSED void assert_message(const char *part)
{
    if (!strstr(error_message(), part))
        fail_msg("'%s' is not in: %s", part, error_message());
}

static UNUSED void assert_hint(const char *part)
{
    if (!error_hint_text() || !strstr(error_hint_text(), part))
        fail_msg("'%s' is not in: %s", part, error_hint_text() ? error_hint_text() : "no hint");
}

#endif
