/* Tests of apply/merge_config.c, merge_files.c and three_way.c: tables of cases, each read in both
   directions. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "apply/merge_config.h"
#include "apply/merge_files.h"
#include "tests/fault.h"

static void test_the_rule(void **state)
{
    (void)state;
    assert_int_equal(three_way(true, true, true), WAY_BASE);
    assert_int_equal(three_way(false, true, false), WAY_OURS);
    assert_int_equal(three_way(true, false, false), WAY_THEIRS);
    assert_int_equal(three_way(false, false, true), WAY_BOTH);
    assert_int_equal(three_way(false, false, false), WAY_CONFLICT);
    for (int way = WAY_BASE; way <= WAY_CONFLICT; way++) {
        enum three_way given = (enum three_way)way;
        assert_int_equal(three_way_settle(given, PREFER_NONE), given);
        assert_int_equal(
            three_way_settle(given, PREFER_OURS), way == WAY_CONFLICT ? WAY_OURS : given
        );
        assert_int_equal(
            three_way_settle(given, PREFER_THEIRS), way == WAY_CONFLICT ? WAY_THEIRS : given
        );
    }
}

/* Contents that are equal, though one is empty and the other one is not there? No. */
static void test_what_is_not_there_is_not_empty(void **state)
{
    const struct content empty = {.there = true}, none = {0};

    (void)state;
    assert_false(content_equal(&empty, &none));
    assert_true(content_equal(&empty, &empty));
    assert_true(content_equal(&none, &none));
}

/* The configuration. `merged`: what comes out; `conflict`: the key that is named instead. */
static const struct config_case {
    const char *base, *ours, *theirs, *merged, *conflict;
} configs[] = {
    /* one side alone: its bytes, whatever they look like */
    {"{\"r\":1}", "{\"r\":2}", "{\"r\":1}", "{\"r\":2}", NULL},
    {"{\"r\":1}", "{ \"r\" : 1 }", "{\"r\":1}", "{ \"r\" : 1 }", NULL},
    /* the same change */
    {"{\"r\":1}", "{\"r\":2}", "{\"r\":2}", "{\"r\":2}", NULL},
    {"{\"r\":1}", "{\"r\": 2}", "{\"r\":2}", "{\"r\": 2}", NULL},
    /* a layout and a change: the side that says what is meant */
    {"{\"r\":1}", "{ \"r\":1}", "{\"r\":2}", "{\"r\":2}", NULL},
    {"{\"a\":1,\"b\":2}", "{\"b\":2,\"a\":1}", "{\"a\":1, \"b\":3}", "{\"a\":1, \"b\":3}", NULL},
    /* two layouts: the first in byte order */
    {"{\"a\":1,\"b\":2}", "{\"b\":2,\"a\":1}", "{\"a\":1, \"b\":2}", "{\"a\":1, \"b\":2}", NULL},
    {"{\"target_modules\":[\"q\",\"v\",\"o\"]}", "{\"target_modules\":[\"v\",\"q\",\"o\"]}",
     "{\"target_modules\":[\"o\",\"v\",\"q\"]}", "{\"target_modules\":[\"o\",\"v\",\"q\"]}", NULL},
    /* a change on each side: written anew, keys in order */
    {"{\"b\":1,\"a\":2}", "{\"b\":5,\"a\":2}", "{\"b\":1,\"a\":7.50}",
     "{\n  \"a\": 7.50,\n  \"b\": 5\n}", NULL},
    {"{\"a\":1,\"b\":1}", "{\"a\":1,\"b\":2}", "{\"b\":1}", "{\n  \"b\": 2\n}", NULL},
    {"{\"a\":1}", "{\"a\":1,\"x\":[1,{\"y\":2}]}", "{\"a\":3}",
     "{\n  \"a\": 3,\n  \"x\": [\n    1,\n    {\n      \"y\": 2\n    }\n  ]\n}", NULL},
    {"{\"a\":1,\"b\":2}", "{\"a\":1}", "{\"b\":2}", "{}", NULL},
    {"{\"a\":1,\"b\":2}", "{\"b\":2}", "{ }", "{ }", NULL},
    /* sets: what was added is there, what was removed is not */
    {"{\"target_modules\":[\"q\",\"v\"]}", "{\"target_modules\":[\"q\",\"k\",\"v\"]}",
     "{\"target_modules\":[\"v\",\"q\",\"o\"]}",
     "{\n  \"target_modules\": [\n    \"k\",\n    \"o\",\n    \"q\",\n    \"v\"\n  ]\n}", NULL},
    {"{\"target_modules\":[\"q\",\"v\"]}", "{\"target_modules\":[\"v\"]}",
     "{\"target_modules\":[\"q\"]}", "{\n  \"target_modules\": []\n}", NULL},
    {"{\"layers_to_transform\":[0]}", "{\"layers_to_transform\":[0,1]}",
     "{\"layers_to_transform\":[2,0,1]}", "{\"layers_to_transform\":[2,0,1]}", NULL},
    {"{\"modules_to_save\":[]}", "{\"modules_to_save\":[\"a\"]}", "{\"modules_to_save\":[\"b\"]}",
     "{\n  \"modules_to_save\": [\n    \"a\",\n    \"b\"\n  ]\n}", NULL},
    /* conflicts */
    {"{\"r\":1,\"s\":1}", "{\"r\":2,\"s\":1}", "{\"r\":3,\"s\":4}", NULL, "r"},
    {"{\"s\":1}", "{\"r\":2,\"s\":1}", "{\"r\":3,\"s\":1}", NULL, "r"},
    {"{\"r\":1}", "{}", "{\"r\":2}", NULL, "r"},
    {"{\"target_modules\":\"x\"}", "{\"target_modules\":[\"q\"]}", "{\"target_modules\":[\"v\"]}",
     NULL, "target_modules"},
    {"{\"target_modules\":[\"q\"]}", "{\"target_modules\":[[\"q\"]]}",
     "{\"target_modules\":[\"v\"]}", NULL, "target_modules"},
    {"{\"rank_pattern\":[1]}", "{\"rank_pattern\":[1,2]}", "{\"rank_pattern\":[1,3]}", NULL,
     "rank_pattern"},
};

static void config_try(
    const struct config_case *given,
    const char *ours,
    const char *theirs,
    enum three_way_prefer prefer,
    const char *merged,
    const char *conflict
)
{
    AUTO_CONFLICTS(conflicts);
    AUTO_BUF(out);
    char name[128];

    if (merge_config(
            &out, &conflicts, text_bytes(given->base), text_bytes(ours), text_bytes(theirs), prefer
        ) < 0)
        fail_msg("%s %s %s: %s", given->base, ours, theirs, error_message());
    if (merged && (conflicts.count || strcmp(buf_text(&out), merged) != 0))
        fail_msg("%s %s %s: %s", given->base, ours, theirs, buf_text(&out));
    if (!conflict)
        return;
    snprintf(name, sizeof(name), "adapter_config.json: %s", conflict);
    assert_int_equal(conflicts.count, 1);
    assert_string_equal(conflicts.items[0].name, name);
    assert_int_equal(out.len, 0);
}

static void test_configurations_merge_key_by_key(void **state)
{
    (void)state;
    for (size_t i = 0; i < sizeof(configs) / sizeof(configs[0]); i++) {
        const struct config_case *given = &configs[i];
        config_try(given, given->ours, given->theirs, PREFER_NONE, given->merged, given->conflict);
        config_try(given, given->theirs, given->ours, PREFER_NONE, given->merged, given->conflict);
    }
}

static void test_who_is_preferred_wins_conflicts_and_nothing_else(void **state)
{
    static const struct config_case given = {.base = "{\"a\":1,\"b\":1,\"c\":1}"};
    static const char ours[] = "{\"a\":2,\"b\":2,\"c\":1}", theirs[] = "{\"a\":3,\"b\":1,\"c\":3}";

    (void)state;
    config_try(
        &given, ours, theirs, PREFER_OURS, "{\n  \"a\": 2,\n  \"b\": 2,\n  \"c\": 3\n}", NULL
    );
    config_try(
        &given, ours, theirs, PREFER_THEIRS, "{\n  \"a\": 3,\n  \"b\": 2,\n  \"c\": 3\n}", NULL
    );
}

static void test_every_conflict_is_named(void **state)
{
    AUTO_CONFLICTS(conflicts);
    AUTO_BUF(out);

    (void)state;
    assert_int_equal(
        merge_config(
            &out, &conflicts, text_bytes("{\"a\":1,\"b\":1}"), text_bytes("{\"a\":2,\"b\":2}"),
            text_bytes("{\"a\":3,\"b\":3}"), PREFER_NONE
        ),
        0
    );
    assert_int_equal(conflicts.count, 2);
    assert_string_equal(conflicts.items[0].name, "adapter_config.json: a");
    assert_string_equal(conflicts.items[1].name, "adapter_config.json: b");
}

static void test_what_is_no_object_is_refused(void **state)
{
    static const char *const cases[] = {"[]", "", "{\"a\":}", "{\"a\\u0000b\":1}"};

    (void)state;
    for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
        AUTO_CONFLICTS(conflicts);
        AUTO_BUF(out);
        assert_int_equal(
            merge_config(
                &out, &conflicts, text_bytes("{}"), text_bytes("{\"a\":1}"), text_bytes(cases[i]),
                PREFER_NONE
            ),
            E_INVALID
        );
        assert_non_null(strstr(error_message(), "adapter_config.json"));
    }
}

/* Files. A text of NULL: the version does not have it. */
static const struct file_case {
    const char *base, *ours, *theirs, *merged, *conflict;
} file_cases[] = {
    {"a", "a", "a", "a", NULL},
    {"a", "b", "a", "b", NULL},
    {"a", "b", "b", "b", NULL},
    {NULL, "b", NULL, "b", NULL},
    {NULL, "b", "b", "b", NULL},
    {"a", NULL, "a", NULL, NULL},
    {"a", NULL, NULL, NULL, NULL},
    {NULL, "", NULL, "", NULL},
    {"a", "b", "c", NULL, "both changed"},
    {NULL, "b", "c", NULL, "both added"},
    {NULL, "", "c", NULL, "both added"},
    {"a", NULL, "c", NULL, "removed"},
};

static void file_put(struct adapter_files *files, const char *path, const char *text)
{
    AUTO_BUF(data);

    if (!text)
        return;
    assert_int_equal(buf_append_text(&data, text), 0);
    assert_int_equal(adapter_files_add(files, path, &data), 0);
}

static void file_try(
    const char *base,
    const char *ours,
    const char *theirs,
    enum three_way_prefer prefer,
    const char *merged,
    const char *conflict
)
{
    AUTO_ADAPTER_FILES(out);
    struct adapter_files versions[3] = {{0}};
    const char *const texts[] = {base, ours, theirs};
    AUTO_CONFLICTS(conflicts);

    for (size_t i = 0; i < 3; i++) {
        file_put(&versions[i], "a.txt", "the same");
        file_put(&versions[i], PEFT_CONFIG, i ? "x" : "y");
        file_put(&versions[i], "note.txt", texts[i]);
        file_put(&versions[i], i == 1 ? "only/ours" : "z", i == 1 ? "ours" : NULL);
    }
    assert_int_equal(
        merge_files(&out, &conflicts, &versions[0], &versions[1], &versions[2], prefer), 0
    );
    assert_int_equal(conflicts.count, conflict ? 1 : 0);
    if (conflict) {
        assert_string_equal(conflicts.items[0].name, "note.txt");
        assert_non_null(strstr(conflicts.items[0].why, conflict));
    }
    const struct adapter_file *file = adapter_files_find(&out, "note.txt");
    assert_int_equal(out.count, file ? 3 : 2);
    assert_int_equal(file != NULL, merged != NULL);
    if (merged)
        assert_true(bytes_equal(buf_bytes(&file->data), text_bytes(merged)));
    assert_non_null(adapter_files_find(&out, "only/ours"));
    for (size_t i = 0; i < 3; i++)
        adapter_files_release(&versions[i]);
}

static void test_files_merge_by_their_content(void **state)
{
    (void)state;
    for (size_t i = 0; i < sizeof(file_cases) / sizeof(file_cases[0]); i++) {
        const struct file_case *given = &file_cases[i];
        const char *ours = given->ours, *theirs = given->theirs;
        file_try(given->base, ours, theirs, PREFER_NONE, given->merged, given->conflict);
        file_try(given->base, theirs, ours, PREFER_NONE, given->merged, given->conflict);
        file_try(
            given->base, ours, theirs, PREFER_OURS, given->conflict ? ours : given->merged, NULL
        );
        file_try(
            given->base, ours, theirs, PREFER_THEIRS, given->conflict ? theirs : given->merged, NULL
        );
    }
}

static void test_memory_that_ends_is_an_error(void **state)
{
    (void)state;
    for (int n = 0;; n++) {
        AUTO_CONFLICTS(conflicts);
        AUTO_BUF(out);
        fault_after = n;
        int err = merge_config(
            &out, &conflicts, text_bytes("{\"a\":1,\"target_modules\":[\"q\"]}"),
            text_bytes("{\"a\":2,\"b\":{},\"target_modules\":[\"q\",\"k\"]}"),
            text_bytes("{\"a\":3,\"target_modules\":[\"q\",\"v\"]}"), PREFER_NONE
        );
        bool is_through = fault_after >= 0;
        fault_after = -1;
        if (is_through) {
            assert_int_equal(err, 0);
            assert_int_equal(conflicts.count, 1);
            assert_true(n > 10);
            return;
        }
        assert_int_equal(err, E_NOMEM);
        assert_int_equal(out.len, 0);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_the_rule),
        cmocka_unit_test(test_what_is_not_there_is_not_empty),
        cmocka_unit_test(test_configurations_merge_key_by_key),
        cmocka_unit_test(test_who_is_preferred_wins_conflicts_and_nothing_else),
        cmocka_unit_test(test_every_conflict_is_named),
        cmocka_unit_test(test_what_is_no_object_is_refused),
        cmocka_unit_test(test_files_merge_by_their_content),
        cmocka_unit_test(test_memory_that_ends_is_an_error),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
