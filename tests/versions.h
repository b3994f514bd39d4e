/* For tests of store/: the adapters of tests/fixtures as snapshots, and versions made of them. */
#ifndef TESTS_VERSIONS_H
#define TESTS_VERSIONS_H

#include "tests/repository.h"

/* The files of an adapter directory of the fixtures. */
static UNUSED void adapter_read(struct adapter_files *out, const char *dir)
{
    AUTO_BUF(path);

    assert_int_equal(buf_printf(&path, "%s/adapter/%s", FIXTURES, dir), 0);
    if (adapter_files_read(out, (char *)path.data, true, NULL) < 0)
        fail_msg("%s", error_message());
}

static UNUSED void snapshot_read(struct snapshot *out, const char *dir)
{
    AUTO_ADAPTER_FILES(files);

    adapter_read(&files, dir);
    if (snapshot_encode(out, &files, NULL) < 0)
        fail_msg("%s", error_message());
}

/* A snapshot whose basis cannot be drawn, so that it is stored. */
static UNUSED void snapshot_read_stored(struct snapshot *out, const char *dir)
{
    AUTO_ADAPTER_FILES(files);

    adapter_read(&files, dir);
    for (size_t i = 0; i < files.count; i++) {
        if (strcmp(files.files[i].path, PEFT_MODEL) == 0)
            files.files[i].data.data[files.files[i].data.len / 2] ^= 1;
    }
    assert_int_equal(snapshot_encode(out, &files, NULL), 0);
    assert_true(out->a.len > 0);
}

/* The same with one file more, so that it is another snapshot with the same vectors. */
static UNUSED void snapshot_vary(struct snapshot *out, const char *dir, const char *note)
{
    AUTO_ADAPTER_FILES(files);
    AUTO_BUF(data);

    adapter_read(&files, dir);
    assert_int_equal(buf_append_text(&data, note), 0);
    assert_int_equal(adapter_files_add(&files, "note.txt", &data), 0);
    if (snapshot_encode(out, &files, NULL) < 0)
        fail_msg("%s", error_message());
}

static UNUSED void assert_snapshots_equal(const struct snapshot *a, const struct snapshot *b)
{
    const struct buf *of_a[] = {&a->manifest, &a->config, &a->layout, &a->recipe,      &a->payload,
                                &a->a,        &a->b,      &a->pin,    &a->model_config};
    const struct buf *of_b[] = {&b->manifest, &b->config, &b->layout, &b->recipe,      &b->payload,
                                &b->a,        &b->b,      &b->pin,    &b->model_config};

    for (size_t i = 0; i < sizeof(of_a) / sizeof(of_a[0]); i++)
        assert_true(bytes_equal(buf_bytes(of_a[i]), buf_bytes(of_b[i])));
    assert_true(digest_equal(&a->id, &b->id));
    assert_int_equal(a->file_count, b->file_count);
    for (size_t i = 0; i < a->file_count; i++) {
        assert_string_equal(a->files[i].path, b->files[i].path);
        assert_true(bytes_equal(buf_bytes(&a->files[i].data), buf_bytes(&b->files[i].data)));
    }
}

/* A version of it on the current branch. */
static UNUSED struct commit_result commit_snapshot(const struct snapshot *snapshot)
{
    struct commit_request request = {.snapshot = snapshot, .allow_empty = true};
    struct commit_result result = {0};

    if (store_commit(&result, store, &request) < 0)
        fail_msg("%s", error_message());
    free(result.branch);
    result.branch = NULL;
    return result;
}

static UNUSED struct commit_id commit_adapter(const char *dir)
{
    AUTO_SNAPSHOT(snapshot);

    snapshot_read(&snapshot, dir);
    return commit_snapshot(&snapshot).commit;
}

/* Call `visit` for every adapter of the fixtures, with its path below adapter/. Returns how many
   there are. */
static UNUSED size_t adapters_visit(void (*visit)(const char *dir))
{
    AUTO_BUF(list);
    size_t count = 0;

    assert_int_equal(
        shell_status(
            &list,
            "cd " FIXTURES "/adapter && find . -name adapter_config.json -printf '%h\\n' | sort"
        ),
        0
    );
    for (char *at = (char *)list.data, *end; *at; at = end, count++) {
        end = at + strcspn(at, "\n");
        if (*end)
            *end++ = '\0';
        visit(at + 2);
    }
    return count;
}

/* The current branch's tip. */
static UNUSED struct commit_id tip(void)
{
    git_oid id;

    assert_int_equal(git_reference_name_to_id(&id, store->repo, "HEAD"), 0);
    return commit_id_of(&id);
}

/* Every object that the commit's tree reaches, the tree and the commit included. */
static UNUSED void objects_below(struct buf *out_ids, const struct commit_id *commit)
{
    AUTO_BUF(command);
    AUTO_BUF(list);
    char hex[COMMIT_HEX_SIZE];

    commit_hex(hex, commit);
    assert_int_equal(
        buf_printf(&command, "git rev-list --objects --no-walk %s | cut -d' ' -f1", hex), 0
    );
    assert_int_equal(shell_status(&list, (char *)command.data), 0);
    for (char *line = strtok((char *)list.data, "\n"); line; line = strtok(NULL, "\n")) {
        git_oid id;
        assert_int_equal(git_oid_fromstr(&id, line), 0);
        assert_int_equal(buf_append(out_ids, &id, sizeof(id)), 0);
    }
}

#endif
