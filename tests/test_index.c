/* Tests of the index and of what is asked of it (docs/format.md, I1-I7): whatever becomes of the
   file, answers are the same, and nothing but query ever needs it. */
#define _GNU_SOURCE
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "format/limits.h"
#include "store/index_db.h"
#include "tests/syscalls.h"
#include "tests/versions.h"

#define T0   1700000000
#define PATH ".vera/index.sqlite"

#define AUTO_QUERY(name) __attribute__((cleanup(query_release))) struct query *name = NULL

/* One version: its adapter, when, with which trailers. */
static struct commit_id
commit_at(const char *dir, long time, const char *branch, const char *message)
{
    AUTO_SNAPSHOT(snapshot);
    struct commit_result result = {0};
    char date[32];

    snapshot_read(&snapshot, dir);
    snprintf(date, sizeof(date), "%ld +0000", time);
    assert_int_equal(setenv("GIT_COMMITTER_DATE", date, 1), 0);
    struct commit_request request = {
        .snapshot = &snapshot, .branch = branch, .message = message, .allow_empty = true};
    if (store_commit(&result, store, &request) < 0)
        fail_msg("%s", error_message());
    free(result.branch);
    return result.commit;
}

/* Titles of the matching versions, in order, spaces between. */
static void answer(struct buf *out, const char *expression, const char *sort, size_t limit)
{
    AUTO_QUERY(query);
    AUTO_QUERY_RESULT(result);

    out->len = 0;
    if (query_parse(&query, expression, sort) < 0 || store_query(&result, store, query, limit) < 0)
        fail_msg("%s: %s", expression ? expression : "everything", error_message());
    assert_int_equal(result.unreadable, 0);
    for (size_t i = 0; i < result.count; i++) {
        AUTO_VERSION(version);
        assert_int_equal(store_version(&version, store, &result.commits[i]), 0);
        size_t len = strcspn(version.message, "\n");
        if (i)
            assert_int_equal(buf_append_byte(out, ' '), 0);
        assert_int_equal(buf_append(out, version.message, len), 0);
    }
    assert_non_null(buf_text(out));
}

static void
assert_answer(const char *expression, const char *sort, size_t limit, const char *titles)
{
    AUTO_BUF(actual);

    answer(&actual, expression, sort, limit);
    if (strcmp((char *)actual.data, titles) != 0)
        fail_msg(
            "%s: '%s', not '%s'", expression ? expression : "everything", (char *)actual.data,
            titles
        );
}

/* a, b, c on main, d on run/1 behind b, e a BERT of its own on other. */
static int versions_make(void **state)
{
    if (repository_make(state) != 0)
        return 1;
    commit_at("llama/step-000", T0, NULL, "a\n\nMetric-rte: 0.5\nMetric-loss: 3\n");
    commit_at("llama/step-010", T0 + 100, NULL, "b\n\nMetric-rte: 0.75\nMetric-rte: 0.25\n");
    shell("git branch run/1 main");
    commit_at("llama/step-020", T0 + 86400, NULL, "c");
    commit_at("llama/step-030", T0 + 300, "run/1", "d\n\nMetric-rte: 1e-3\nMetric-odd_Name.x: 7\n");
    shell("git switch -q --orphan other 2>/dev/null || git symbolic-ref HEAD refs/heads/other");
    repository_reopen();
    commit_at("bert/step-000", T0 + 400, NULL, "e\n\nMetric-rte: -2\n");
    shell("git symbolic-ref HEAD refs/heads/main");
    repository_reopen();
    return 0;
}

static int versions_remove(void **state)
{
    unsetenv("GIT_COMMITTER_DATE");
    syscalls.mode = FAULT_NONE;
    return repository_remove(state);
}

/* Questions that ask for everything that a row holds. */
static const struct question {
    const char *expression, *sort;
    size_t limit;
    const char *titles;
} questions[] = {
    {NULL, NULL, 0, "c e d b a"},
    {NULL, NULL, 2, "c e"},
    {"kind=vera", NULL, 0, "c e d b a"},
    {"kind!=vera", NULL, 0, ""},
    {"metric.rte>0.1", NULL, 0, "b a"},
    {"metric.rte=0.25", NULL, 0, "b"}, /* the last one of a name counts */
    {"metric.rte!=0.25", NULL, 0, "e d a"},
    {"not metric.rte=0.25", NULL, 0, "c e d a"}, /* where there is none, too */
    {"metric.rte<=0.001", NULL, 0, "e d"},
    {"metric.odd_Name.x>=7", NULL, 0, "d"},
    {"metric.rt>0", NULL, 0, ""},
    {NULL, "metric.rte", 0, "e d b a c"}, /* without it: last */
    {NULL, "-metric.rte", 0, "a b d e c"},
    {NULL, "-metric.rte", 2, "a b"},
    {NULL, "metric.none", 0, "c e d b a"},
    {NULL, "date", 0, "a b d e c"},
    {NULL, "-date", 0, "c e d b a"},
    {NULL, "branch", 0, "c b a e d"}, /* main, other, run/1 */
    {NULL, "-branch", 0, "d e c b a"},
    {"branch=main", NULL, 0, "c b a"},
    {"branch=run/1", NULL, 0, "d b a"},
    {"branch!=run/1", NULL, 0, "c e"},
    {"branch=main and branch=run/1", NULL, 0, "b a"},
    {"branch=none", NULL, 0, ""},
    {"branch=run", NULL, 0, ""},
    {"base='tiny/llama'", NULL, 0, "c d b a"},
    {"base!='tiny/llama'", NULL, 0, "e"},
    {"base=tiny", NULL, 0, ""},
    {"rank=32", "date", 1, "a"},
    {"rank<32 or rank>32", NULL, 0, "e"},
    {"seed=0", NULL, 0, "c d b a"},
    {"seed<0 or seed>=0.5", NULL, 0, "e"},
    {"d_initial=0.1", NULL, 0, "c e d b a"},
    {"targets=q_proj", NULL, 0, "c d b a"},
    {"targets=down_proj,gate_proj,k_proj,o_proj,q_proj,up_proj,v_proj", NULL, 0, "c d b a"},
    {"targets=q_pro or targets=proj", NULL, 0, ""},
    {"targets!=q_proj", NULL, 0, "e"},
    {"layers=2 and params=1664", NULL, 0, "c d b a"},
    {"date=2023-11-14T22:13:20Z", NULL, 0, "a"},
    {"date=2023-11-14T22:13Z", NULL, 0, "a"},
    {"date>2023-11-14T22:13Z and date<2023-11-15T00:00Z", NULL, 0, "e d b"},
    {"date<=2023-11-14T22:15:00Z", NULL, 0, "b a"},
    {"date<2023-11-14T22:15:00Z", NULL, 0, "a"},
    {"date>=2023-11-15T00:00Z", NULL, 0, "c"},
    {"(metric.rte>0 or layers=1) and not branch=main", NULL, 0, "e d"},
    {"branch='main\" or 1=1 --'", NULL, 0, ""},
    {"base=\"x'; drop table versions; --\"", NULL, 0, ""},
};

static void assert_every_answer(void)
{
    for (size_t i = 0; i < sizeof(questions) / sizeof(questions[0]); i++)
        assert_answer(
            questions[i].expression, questions[i].sort, questions[i].limit, questions[i].titles
        );
}

/* How many rows the index holds; -1 where it cannot be read. */
static int rows_count(void)
{
    AUTO_INDEX(index);
    AUTO_INDEX_ROWS(rows);

    if (index_open(&index, store, INDEX_LOOK) < 0 || index_load(&rows, &index) < 0)
        return -1;
    return (int)rows.ids.count;
}

static int ignore_bad(void *context, const struct commit_id *commit, const char *problem)
{
    struct buf *out = context;
    char hex[COMMIT_HEX_SIZE] = "file";

    if (commit)
        commit_hex(hex, commit);
    return buf_printf(out, "%s: %s\n", hex, problem);
}

static void assert_index_is_right(void)
{
    AUTO_BUF(bad);

    assert_int_equal(index_check(store, ignore_bad, &bad), 0);
    if (bad.len)
        fail_msg("%s", buf_text(&bad));
}

/* Tests */

static void test_a_commit_is_in_the_index_at_once(void **state)
{
    (void)state;
    assert_int_equal(rows_count(), 5);
    assert_index_is_right();
}

static void test_questions_are_answered(void **state)
{
    (void)state;
    assert_every_answer();
    assert_int_equal(rows_count(), 5);
}

static void test_without_an_index_answers_are_the_same_and_it_is_made(void **state)
{
    (void)state;
    assert_int_equal(path_remove(PATH), 0);
    assert_answer("metric.rte>0.1", NULL, 0, "b a");
    assert_int_equal(rows_count(), 5);
    assert_index_is_right();
    assert_every_answer();
}

static void test_values_are_shown_as_they_are_compared(void **state)
{
    static const struct {
        const char *key, *value;
    } cases[] = {
        {"rank", "32"},       {"kind", "vera"},      {"base", "tiny/llama"}, {"seed", "0"},
        {"branch", "main"},   {"d_initial", "0.1"},  {"layers", "2"},        {"params", "1664"},
        {"metric.loss", "3"}, {"metric.rte", "0.5"}, {"metric.none", ""},
    };
    AUTO_QUERY(query);
    AUTO_QUERY_RESULT(result);
    AUTO_BUF(text);

    (void)state;
    assert_int_equal(query_parse(&query, "metric.loss=3 and branch=main", NULL), 0);
    assert_string_equal(query_key_at(query, 0), "metric.loss");
    assert_string_equal(query_key_at(query, 1), "branch");
    assert_null(query_key_at(query, 2));
    assert_int_equal(store_query(&result, store, query, 0), 0);
    assert_int_equal(result.count, 1);
    for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
        text.len = 0;
        assert_int_equal(query_value(&text, &result, 0, cases[i].key), 0);
        assert_string_equal(buf_text(&text), cases[i].value);
    }
    assert_int_equal(query_value(&text, &result, 0, "nonsense"), E_INVALID);
}

static void test_a_key_to_sort_by_must_exist(void **state)
{
    static const char *const keys[] = {"rnak", "-rnak", "", "-", "metric.", "--rank", "rank "};
    AUTO_QUERY(query);

    (void)state;
    for (size_t i = 0; i < sizeof(keys) / sizeof(keys[0]); i++)
        assert_int_equal(query_parse(&query, NULL, keys[i]), E_INVALID);
    assert_int_equal(query_parse(&query, NULL, "rnak"), E_INVALID);
    assert_hint("did you mean 'rank'?");
}

static void test_refs_that_git_moves_are_followed(void **state)
{
    (void)state;
    assert_answer(NULL, NULL, 0, "c e d b a");
    shell("git update-ref -d refs/heads/run/1");
    assert_answer(NULL, NULL, 0, "c e b a");
    assert_answer("branch=run/1", NULL, 0, "");
    shell("git update-ref refs/heads/main main~1");
    assert_answer(NULL, NULL, 0, "e b a");
    shell("git tag kept \"$(git rev-parse other)\" && git update-ref -d refs/heads/other");
    assert_answer(NULL, NULL, 0, "e b a"); /* a tag reaches, but is no branch */
    assert_answer("branch=other", NULL, 0, "");
    shell("git tag -a -m annotated also \"$(git rev-parse kept)\" && git tag -d kept");
    assert_answer(NULL, NULL, 0, "e b a");
    shell("git update-ref refs/remotes/origin/x also^{commit} && git tag -d also");
    assert_answer("branch=origin/x", NULL, 0, "e");
}

static void test_commits_of_git_itself_are_walked_through_and_not_answered(void **state)
{
    (void)state;
    shell("c=$(git commit-tree -m plain -p main \"$(git mktree </dev/null)\") && "
          "d=$(GIT_COMMITTER_DATE='1800000000 +0000' git commit-tree -m above -p \"$c\" -p run/1 "
          "main^{tree}) && git update-ref refs/heads/main \"$d\"");
    assert_answer(NULL, NULL, 0, "above c e d b a");
    assert_answer("branch=main", NULL, 0, "above c d b a");
    assert_int_equal(rows_count(), 7);
    assert_index_is_right();
}

static void test_a_shallow_clone_is_answered_up_to_its_boundary(void **state)
{
    (void)state;
    shell("GIT_DIR= git clone -q --bare --depth 2 \"file://$PWD/.vera\" shallow/.vera 2>&1");
    store_release(&store);
    assert_int_equal(store_open(&store, "shallow", NULL), 0);
    assert_answer(NULL, NULL, 0, "c b");
    assert_answer("branch=main and metric.rte>0", NULL, 0, "b");
    shell("GIT_DIR=shallow/.vera git fetch -q --unshallow 2>&1");
    repository_reopen();
    store_release(&store);
    assert_int_equal(store_open(&store, "shallow", NULL), 0);
    assert_answer(NULL, NULL, 0, "c b a");
}

static void test_a_damaged_version_is_counted_and_hides_no_other(void **state)
{
    AUTO_QUERY(query);
    AUTO_QUERY_RESULT(result);

    (void)state;
    shell(
        "id=$(git rev-parse main~1:recipe) && p=.vera/objects/$(echo $id | cut -c1-2)/$(echo $id | "
        "cut -c3-) && rm -f $p && printf damaged > $p && rm " PATH
    );
    repository_reopen();
    assert_int_equal(query_parse(&query, NULL, NULL), 0);
    assert_int_equal(store_query(&result, store, query, 0), 0);
    assert_int_equal(result.unreadable, 1);
    assert_int_equal(result.count, 4);
}

/* Damage */

static void index_put(struct bytes data)
{
    assert_int_equal(path_remove(PATH), 0);
    assert_int_equal(file_write(PATH, data), 0);
}

/* Some questions that together need every column. */
static void assert_some_answers(void)
{
    assert_answer(NULL, "branch", 0, "c b a e d");
    assert_answer(
        "metric.rte>0.1 and base='tiny/llama' and seed=0 and layers=2 and params=1664 and "
        "targets=q_proj and d_initial=0.1 and rank=32 and date<2030-01-01",
        "date", 0, "a b"
    );
}

static void test_no_flipped_byte_changes_an_answer(void **state)
{
    AUTO_BUF(whole);
    size_t step;

    (void)state;
    assert_int_equal(file_read(&whole, PATH, MIB), 0);
    step = 37; /* prime, so that every place of a row comes up */
    for (size_t at = 0; at < whole.len; at += at < 200 ? 1 : step) {
        AUTO_BUF(copy);
        if (at >= 200 && whole.data[at] == 0 && at % 5)
            continue; /* mostly free space */
        assert_int_equal(buf_append(&copy, whole.data, whole.len), 0);
        copy.data[at] ^= (uint8_t)(0x10 | 1 << at % 8);
        index_put(buf_bytes(&copy));
        assert_some_answers();
    }
    assert_int_equal(rows_count(), 5);
    assert_index_is_right();
}

static void test_no_truncation_changes_an_answer(void **state)
{
    AUTO_BUF(whole);

    (void)state;
    assert_int_equal(file_read(&whole, PATH, MIB), 0);
    for (size_t len = 0; len < whole.len; len += len < 110 ? 7 : 911) {
        index_put((struct bytes){whole.data, len});
        assert_some_answers();
        assert_int_equal(rows_count(), 5);
    }
}

static void test_whatever_stands_there_instead_changes_no_answer(void **state)
{
    static const struct {
        const char *command;
        bool stays; /* it is no file: left alone, and the index done without */
    } cases[] = {
        {"printf 'no database at all' > " PATH, false},
        {": > " PATH, false},
        {"head -c 100000 /dev/urandom > " PATH, false},
        {"mkdir -p " PATH "/not/empty", true},
        {"mkfifo " PATH, true},
        {"ln -s HEAD " PATH, true},
        {"ln -s nowhere " PATH, true},
        {"git init -q x && printf garbage > " PATH "-wal", false},
        {"mkfifo " PATH "-wal", true},
        {"mkdir " PATH "-shm", true},
        {"printf garbage > " PATH "-journal", false},
    };

    (void)state;
    for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
        shell("rm -rf " PATH "*");
        shell(cases[i].command);
        assert_some_answers();
        commit_adapter("llama/step-040"); /* and a commit does not mind */
        shell("git update-ref refs/heads/main main~1");
        if (!cases[i].stays)
            assert_index_is_right();
        else
            shell("test -e " PATH " -o -L " PATH " -o -e " PATH "-wal -o -e " PATH "-shm");
        assert_some_answers();
        shell("test \"$(cat .vera/HEAD)\" = 'ref: refs/heads/main'");
    }
    shell("rm -rf " PATH "*");
}

/* Another schema: views and triggers that would do something. */
static void test_a_schema_that_is_not_ours_is_not_used(void **state)
{
    static const char *const changes[] = {
        "ALTER TABLE versions ADD COLUMN more",
        "CREATE TRIGGER evil AFTER INSERT ON versions BEGIN DELETE FROM versions; END",
        "CREATE VIEW extra AS SELECT 1",
        "DROP INDEX payloads",
        "DROP TABLE adapters",
        "DELETE FROM state",
        "DELETE FROM adapters",
        "DELETE FROM versions WHERE time = 1700000100",
        "UPDATE versions SET metrics = '{\"rte\":9}'",
        "UPDATE versions SET time = time + 1",
        "UPDATE versions SET checksum = checksum + 1",
        "UPDATE state SET versions = 4",
        "UPDATE adapters SET rank = 64",
        "UPDATE versions SET id = id + 1",
        "UPDATE versions SET adapter = adapter + 1",
        "UPDATE versions SET snapshot = NULL",
    };

    (void)state;
    for (size_t i = 0; i < sizeof(changes) / sizeof(changes[0]); i++) {
        sqlite3 *db = NULL;
        assert_int_equal(sqlite3_open(PATH, &db), SQLITE_OK);
        if (sqlite3_exec(db, changes[i], NULL, NULL, NULL) != SQLITE_OK)
            fail_msg("%s: %s", changes[i], sqlite3_errmsg(db));
        sqlite3_close(db);
        AUTO_BUF(bad);
        assert_int_equal(index_check(store, ignore_bad, &bad), 0);
        if (!bad.len)
            fail_msg("%s: nothing is wrong", changes[i]);
        assert_some_answers();
        assert_int_equal(rows_count(), 5);
        assert_index_is_right();
    }
}

/* Whoever knows how checksums are made can forge a row; fsck compares it with git. */
static void test_a_forged_row_is_found_by_the_check(void **state)
{
    AUTO_INDEX(index);
    AUTO_INDEX_ROWS(rows);
    AUTO_BUF(bad);
    char hex[COMMIT_HEX_SIZE];

    (void)state;
    assert_int_equal(index_open(&index, store, INDEX_UPDATE), 0);
    assert_int_equal(index_load(&rows, &index), 0);
    assert_int_equal(rows.ids.count, 5);
    rows.rows[2].time++;
    commit_hex(hex, &rows.rows[2].commit);
    rows.stored = 2;
    assert_int_equal(index_save(&index, &rows, NULL), 0);
    index_close(&index);
    assert_int_equal(rows_count(), 5);
    assert_int_equal(index_check(store, ignore_bad, &bad), 0);
    assert_memory_equal(buf_text(&bad), hex, strlen(hex));
    assert_null(strchr(strchr((char *)bad.data, '\n') + 1, '\n')); /* and no other */
}

/* Others */

static void test_another_writer_is_not_waited_for_long(void **state)
{
    AUTO_INDEX(index);

    (void)state;
    assert_int_equal(index_open(&index, store, INDEX_UPDATE), 0);
    assert_int_equal(db_run(index.db, "BEGIN IMMEDIATE"), 0);
    struct commit_id id = commit_at("llama/step-040", T0 + 500, NULL, "f");
    assert_commit(tip(), id);
    assert_answer("branch=main", NULL, 0, "c f b a");
    db_rollback(index.db);
    index_close(&index);
    assert_answer("branch=main", NULL, 0, "c f b a");
    assert_int_equal(rows_count(), 6);
}

static void test_who_replaces_it_waits_for_nobody_and_nobody_for_them(void **state)
{
    AUTO_INDEX(index);
    AUTO_INDEX(second);
    uint64_t versions, unreadable;

    (void)state;
    assert_int_equal(index_open(&index, store, INDEX_UPDATE), 0);
    assert_int_equal(index_open(&second, store, INDEX_RENEW), E_CONFLICT);
    assert_int_equal(store_reindex(&versions, &unreadable, store), E_CONFLICT);
    index_close(&index);
    bool got = false;
    assert_int_equal(lock_index(&got, &index.lock, store, true), 0);
    assert_true(got);
    assert_int_equal(index_open(&second, store, INDEX_UPDATE), E_CONFLICT);
    assert_some_answers();
    index_close(&index);
    assert_int_equal(store_reindex(&versions, &unreadable, store), 0);
    assert_int_equal(versions, 5);
    assert_int_equal(unreadable, 0);
}

/* Every call that writes fails, as on a disk that is read-only or full. */
static void test_where_nothing_can_be_written_answers_are_the_same(void **state)
{
    static const int errors[] = {EROFS, ENOSPC, EACCES, EIO};
    uint64_t versions, unreadable;

    (void)state;
    for (int missing = 0; missing < 2; missing++) {
        for (size_t i = 0; i < sizeof(errors) / sizeof(errors[0]); i++) {
            if (missing)
                assert_int_equal(path_remove(PATH), 0);
            syscalls.countdown = 0;
            syscalls.fired = false;
            syscalls.error = errors[i];
            syscalls.mode = FAULT_FOREVER;
            assert_some_answers();
            assert_true(syscalls.fired);
            assert_int_equal(store_reindex(&versions, &unreadable, store), E_IO);
            syscalls.mode = FAULT_NONE;
            assert_int_equal(path_exists(PATH), !missing);
        }
    }
}

/* One call that fails, at any place. */
static void test_no_failing_call_changes_an_answer(void **state)
{
    int rounds = 0;

    (void)state;
    for (bool fired = true; fired; rounds++) {
        shell("rm -f " PATH "*");
        syscalls.countdown = rounds;
        syscalls.fired = false;
        syscalls.error = EIO;
        syscalls.mode = FAULT_ONCE;
        assert_answer("metric.rte>0.1", "date", 0, "a b");
        fired = syscalls.fired;
        syscalls.mode = FAULT_NONE;
        assert_some_answers();
        assert_true(rounds < 500);
    }
    assert_true(rounds > 10);
    assert_index_is_right();
}

/* Killed at any call while the index is made or written. */
static void test_a_kill_leaves_an_index_that_is_right_or_made_anew(void **state)
{
    int rounds = 0, status = 0;

    (void)state;
    do {
        if (rounds % 2 == 0)
            shell("rm -f " PATH "*");
        pid_t child = fork();
        assert_true(child >= 0);
        if (child == 0) {
            AUTO_QUERY(query);
            AUTO_QUERY_RESULT(result);
            store_release(&store);
            if (store_open(&store, scratch, NULL) < 0 || query_parse(&query, NULL, NULL) < 0)
                _exit(9);
            syscalls.countdown = rounds / 2;
            syscalls.mode = FAULT_KILL;
            _exit(store_query(&result, store, query, 0) < 0 || result.count != 5 ? 9 : 0);
        }
        assert_int_equal(waitpid(child, &status, 0), child);
        assert_false(WIFEXITED(status) && WEXITSTATUS(status) == 9);
        assert_some_answers();
        assert_index_is_right();
        rounds++;
    } while (WIFSIGNALED(status) || rounds % 2);
    assert_true(rounds > 20);
}

static void test_equal_payloads_are_found_in_the_whole_repository(void **state)
{
    struct recipe recipe;
    git_oid layout, vectors, wanted, other = {{1}};
    bool found = false;

    (void)state;
    struct commit_id id = commit_at("llama/step-050", T0, "far/away", "away");
    assert_int_equal(version_recipe(&recipe, store, &id), 0);
    assert_int_equal(version_entry(&found, &layout, store, &id, "layout"), 0);
    assert_int_equal(version_entry(&found, &wanted, store, &id, "vectors"), 0);
    index_find_payload(&found, &vectors, store, &recipe.payload, &layout);
    assert_true(found);
    assert_true(git_oid_equal(&vectors, &wanted));
    index_find_payload(&found, &vectors, store, &recipe.payload, &other);
    assert_false(found);
    recipe.payload.bytes[0] ^= 1;
    index_find_payload(&found, &vectors, store, &recipe.payload, &layout);
    assert_false(found);
    recipe.payload.bytes[0] ^= 1;
    assert_int_equal(path_remove(PATH), 0);
    index_find_payload(&found, &vectors, store, &recipe.payload, &layout);
    assert_false(found);
    assert_false(path_exists(PATH));
}

#define EACH 12

static void work(int number)
{
    store_release(&store);
    if (store_open(&store, scratch, NULL) < 0)
        _exit(1);
    for (int i = 0; i < EACH; i++) {
        if (number < 2) {
            char branch[32];
            snprintf(branch, sizeof(branch), "w/%d", number);
            commit_at(i % 2 ? "llama/step-060" : "llama/step-070", T0 + i, branch, branch);
        } else {
            AUTO_BUF(text);
            answer(&text, "metric.rte>0.1", "date", 0);
            if (strcmp((char *)text.data, "a b") != 0)
                _exit(2);
        }
    }
    _exit(0);
}

static void test_two_may_commit_while_two_ask(void **state)
{
    pid_t children[4];
    int status;
    AUTO_QUERY(query);
    AUTO_QUERY_RESULT(result);

    (void)state;
    for (int i = 0; i < 4; i++) {
        children[i] = fork();
        assert_true(children[i] >= 0);
        if (children[i] == 0)
            work(i);
    }
    for (int i = 0; i < 4; i++) {
        assert_int_equal(waitpid(children[i], &status, 0), children[i]);
        if (!WIFEXITED(status) || WEXITSTATUS(status) != 0)
            fail_msg("worker %d: %x", i, (unsigned)status);
    }
    repository_reopen();
    assert_int_equal(query_parse(&query, NULL, NULL), 0);
    assert_int_equal(store_query(&result, store, query, 0), 0);
    assert_int_equal(result.count, 5 + 2 * EACH);
    assert_int_equal(rows_count(), 5 + 2 * EACH);
    assert_index_is_right();
}

static void test_versions_of_one_second_come_children_first(void **state)
{
    (void)state;
    for (int i = 0; i < 8; i++) {
        char title[16];
        snprintf(title, sizeof(title), "s%d", i);
        commit_at("llama/step-040", T0 + 200000, NULL, title);
    }
    assert_answer("date>=2023-11-17T00:00Z", NULL, 0, "s7 s6 s5 s4 s3 s2 s1 s0");
}

static void test_rows_that_nothing_reaches_do_not_pile_up(void **state)
{
    AUTO_INDEX(index);
    AUTO_INDEX_ROWS(rows);

    (void)state;
    assert_int_equal(index_open(&index, store, INDEX_UPDATE), 0);
    for (uint32_t i = 0; i < 1100; i++) {
        struct index_row row = {.time = i};
        memcpy(row.commit.bytes, &i, sizeof(i));
        row.commit.bytes[19] = 1;
        assert_int_equal(index_rows_add(&rows, &row, NULL), 0);
    }
    assert_int_equal(index_save(&index, &rows, NULL), 0);
    index_close(&index);
    assert_int_equal(rows_count(), 1105);
    assert_every_answer();
    assert_int_equal(rows_count(), 5);
}

#define CASE(test) cmocka_unit_test_setup_teardown(test, versions_make, versions_remove)

int main(void)
{
    const struct CMUnitTest tests[] = {
        CASE(test_a_commit_is_in_the_index_at_once),
        CASE(test_questions_are_answered),
        CASE(test_without_an_index_answers_are_the_same_and_it_is_made),
        CASE(test_values_are_shown_as_they_are_compared),
        CASE(test_a_key_to_sort_by_must_exist),
        CASE(test_refs_that_git_moves_are_followed),
        CASE(test_commits_of_git_itself_are_walked_through_and_not_answered),
        CASE(test_a_shallow_clone_is_answered_up_to_its_boundary),
        CASE(test_a_damaged_version_is_counted_and_hides_no_other),
        CASE(test_no_flipped_byte_changes_an_answer),
        CASE(test_no_truncation_changes_an_answer),
        CASE(test_whatever_stands_there_instead_changes_no_answer),
        CASE(test_a_schema_that_is_not_ours_is_not_used),
        CASE(test_a_forged_row_is_found_by_the_check),
        CASE(test_another_writer_is_not_waited_for_long),
        CASE(test_who_replaces_it_waits_for_nobody_and_nobody_for_them),
        CASE(test_where_nothing_can_be_written_answers_are_the_same),
        CASE(test_no_failing_call_changes_an_answer),
        CASE(test_a_kill_leaves_an_index_that_is_right_or_made_anew),
        CASE(test_equal_payloads_are_found_in_the_whole_repository),
        CASE(test_two_may_commit_while_two_ask),
        CASE(test_versions_of_one_second_come_children_first),
        CASE(test_rows_that_nothing_reaches_do_not_pile_up),
    };

    return cmocka_run_group_tests(tests, template_make, template_remove);
}
