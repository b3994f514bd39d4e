/* Tests of format/manifest.c and format/text.c: golden bytes, the canonical rule, paths. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "format/limits.h"
#include "format/manifest.h"
#include "tests/canonical.h"

#define HEX_0 "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855" /* of "" */
#define HEX_1 "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad" /* of "abc" */

#define GOLDEN                                                                                     \
    "verastore manifest 1\n"                                                                       \
    "kind vera\n"                                                                                  \
    "file " HEX_1 " 3 README.md\n"                                                                 \
    "file " HEX_0 " 0 adapter_config.json\n"                                                       \
    "file " HEX_1 " 2147483648 b/a file\n"                                                         \
    "file " HEX_1 " 3 b/\xc3\xa9\n"

static int recode(struct buf *out, struct bytes text)
{
    AUTO_MANIFEST(manifest);
    int err = manifest_decode(&manifest, text);

    return err < 0 ? err : manifest_encode(out, &manifest);
}

static struct manifest_file make_file(const char *path, const char *content, uint64_t bytes)
{
    struct manifest_file file = {.bytes = bytes, .path = strdup(path)};

    assert_non_null(file.path);
    assert_int_equal(digest_of(&file.digest, text_bytes(content)), 0);
    return file;
}

static struct manifest make_manifest(size_t count)
{
    struct manifest manifest = {calloc(count, sizeof(struct manifest_file)), count};

    assert_non_null(manifest.files);
    return manifest;
}

/* M1 */
static void test_files_in_any_order_give_the_golden_bytes(void **state)
{
    (void)state;
    AUTO_MANIFEST(manifest);
    AUTO_BUF(text);
    manifest = make_manifest(4);
    manifest.files[0] = make_file("b/\xc3\xa9", "abc", 3);
    manifest.files[1] = make_file("adapter_config.json", "", 0);
    manifest.files[2] = make_file("b/a file", "abc", LIMIT_FILE);
    manifest.files[3] = make_file("README.md", "abc", 3);
    assert_int_equal(manifest_encode(&text, &manifest), 0);
    assert_text_equal(buf_bytes(&text), GOLDEN);
}

static void test_decoding_finds_each_file(void **state)
{
    (void)state;
    AUTO_MANIFEST(manifest);
    assert_int_equal(manifest_decode(&manifest, text_bytes(GOLDEN)), 0);
    assert_int_equal(manifest.count, 4);
    for (size_t i = 0; i < manifest.count; i++)
        assert_ptr_equal(manifest_find(&manifest, manifest.files[i].path), &manifest.files[i]);
    assert_int_equal(manifest_find(&manifest, "b/a file")->bytes, LIMIT_FILE);
    assert_null(manifest_find(&manifest, "b"));
    assert_null(manifest_find(&manifest, "z"));
}

/* T1 - T6 */
static void test_only_canonical_text_is_taken(void **state)
{
    (void)state;
    assert_canonical(recode, GOLDEN);
    assert_true(is_taken(recode, text_bytes("verastore manifest 1\nkind vera\n")));
}

#define BODY(lines) "verastore manifest 1\nkind vera\n" lines
#define FILE_LINE   "file " HEX_0 " 0 "

static const struct {
    const char *name, *text;
    int err;
} refused[] = {
    {"empty", "", E_CORRUPT},
    {"a newline", "\n", E_CORRUPT},
    {"no kind", "verastore manifest 1\n", E_CORRUPT},
    {"another version", "verastore manifest 2\nkind vera\n", E_CORRUPT},
    {"another noun", "verastore recipe 1\nkind vera\n", E_CORRUPT},
    {"another kind", "verastore manifest 1\nkind lora\n", E_CORRUPT},
    {"last newline missing", BODY(FILE_LINE "a"), E_CORRUPT},
    {"no path", BODY("file " HEX_0 " 0\n"), E_CORRUPT},
    {"empty path", BODY(FILE_LINE "\n"), E_CORRUPT},
    {"carriage return", BODY(FILE_LINE "a\r\n"), E_CORRUPT},
    {"leading zero", BODY("file " HEX_0 " 00 a\n"), E_CORRUPT},
    {"a sign", BODY("file " HEX_0 " +0 a\n"), E_CORRUPT},
    {"two spaces", BODY("file  " HEX_0 " 0 a\n"), E_CORRUPT},
    {"above 2^64-1", BODY("file " HEX_0 " 18446744073709551616 a\n"), E_CORRUPT},
    {"ten times 2^64", BODY("file " HEX_0 " 184467440737095516160 a\n"), E_CORRUPT},
    {"above the file limit", BODY("file " HEX_0 " 2147483649 a\n"), E_LIMIT},
    {"a path twice", BODY(FILE_LINE "a\n" FILE_LINE "a\n"), E_CORRUPT},
    {"out of order", BODY(FILE_LINE "b\n" FILE_LINE "a\n"), E_CORRUPT},
    {"file and folder", BODY(FILE_LINE "a\n" FILE_LINE "a.b\n" FILE_LINE "a/b\n"), E_CORRUPT},
    {"leaves the folder", BODY(FILE_LINE "../a\n"), E_CORRUPT},
    {"git's own", BODY(FILE_LINE ".git/config\n"), E_CORRUPT},
};

static void test_every_malformed_text_is_refused(void **state)
{
    (void)state;
    for (size_t i = 0; i < sizeof(refused) / sizeof(refused[0]); i++) {
        struct manifest manifest = {0};
        int err = manifest_decode(&manifest, text_bytes(refused[i].text));
        if (err != refused[i].err)
            fail_msg("%s: %d", refused[i].name, err);
        assert_null(manifest.files);
    }
}

/* M2 */
static void test_a_file_that_is_also_a_folder_is_invalid(void **state)
{
    (void)state;
    static const struct {
        const char *a, *b;
        int err;
    } pairs[] = {
        {"a", "a/b", E_INVALID}, {"a/b/c", "a/b", E_INVALID},
        {"a", "a", E_INVALID},   {"a", "A", 0}, /* case-sensitive, as git is */
        {"a.b", "a/b", 0},       {"a", "ab/c", 0},
    };
    for (size_t i = 0; i < sizeof(pairs) / sizeof(pairs[0]); i++) {
        AUTO_MANIFEST(manifest);
        AUTO_BUF(text);
        manifest = make_manifest(2);
        manifest.files[0] = make_file(pairs[i].a, "", 0);
        manifest.files[1] = make_file(pairs[i].b, "", 0);
        if (manifest_encode(&text, &manifest) != pairs[i].err)
            fail_msg("%s, %s", pairs[i].a, pairs[i].b);
    }
}

/* M3 */
static void test_number_and_size_of_files_are_limited(void **state)
{
    (void)state;
    AUTO_MANIFEST(manifest);
    AUTO_BUF(text);
    AUTO_MANIFEST(decoded);
    manifest = make_manifest(LIMIT_FILES + 1);
    for (size_t i = 0; i < manifest.count; i++) {
        char path[32];
        snprintf(path, sizeof(path), "f%zu", i);
        manifest.files[i] = make_file(path, "", 0);
    }
    assert_int_equal(manifest_encode(&text, &manifest), E_LIMIT);
    free(manifest.files[--manifest.count].path);
    assert_int_equal(manifest_encode(&text, &manifest), 0);
    assert_int_equal(manifest_decode(&decoded, buf_bytes(&text)), 0);
    assert_int_equal(buf_append_text(&text, FILE_LINE "z\n"), 0);
    manifest_release(&decoded);
    assert_int_equal(manifest_decode(&decoded, buf_bytes(&text)), E_LIMIT);
    manifest.files[0].bytes = LIMIT_FILE + 1;
    AUTO_BUF(large);
    assert_int_equal(manifest_encode(&large, &manifest), E_LIMIT);
}

#define REPEAT_5(x)  x x x x x
#define REPEAT_50(x) REPEAT_5(x x x x x x x x x x)
#define NAME_250     REPEAT_50("abcde")
#define FOLDERS_64   REPEAT_5("a/a/a/a/a/a/a/a/a/a/a/a/") "a/a/a/a/"

static const struct {
    const char *path;
    int err;
} paths[] = {
    {"adapter_config.json", 0},
    {"a b/c", 0},
    {" ", 0},
    {"-", 0},
    {"a:b", 0},
    {"\xc3\xa9\xe2\x82\xac\xf0\x9f\x98\x80", 0},
    {"", E_INVALID},
    {"/", E_INVALID},
    {"/a", E_INVALID},
    {"a/", E_INVALID},
    {"a//b", E_INVALID},
    {".", E_INVALID},
    {"..", E_INVALID},
    {"a/../b", E_INVALID},
    {"a/.", E_INVALID},
    {"...", 0},
    {"..a", 0},
    {"a\\b", E_INVALID},
    {"\\", E_INVALID},
    {"a\nb", E_INVALID},
    {"a\x01", E_INVALID},
    {"a\x1f", E_INVALID},
    {"a\x7f", E_INVALID},
    {"a\xc2\x80", E_INVALID}, /* U+0080 */
    {"a\xc2\x9f", E_INVALID}, /* U+009F */
    {"a\xc2\xa0", 0},
    {"a\xff", E_INVALID},
    {"a\xc3", E_INVALID},
    {"\xc0\xaf", E_INVALID},     /* "/" in two bytes */
    {"\xed\xa0\x80", E_INVALID}, /* a surrogate */
    {".git", E_INVALID},
    {".GIT", E_INVALID},
    {".Git/config", E_INVALID},
    {"a/.git", E_INVALID},
    {".git.", E_INVALID},
    {".git ", E_INVALID},
    {".git . .", E_INVALID},
    {".git::$INDEX_ALLOCATION", E_INVALID},
    {".git:x", E_INVALID},
    {".git .:x", E_INVALID},
    {"git~1", E_INVALID},
    {"GIT~1", E_INVALID},
    {"git~1.", E_INVALID},
    {"git~1:x", E_INVALID},
    {"git~2", 0},
    {"git~10", 0},
    {"git", 0},
    {".gitx", 0},
    {".git.x", 0},
    {".git-x", 0},
    {"x.git", 0},
    {".g\xe2\x80\x8cit", E_INVALID},
    {".g\xe2\x80\x8fit", E_INVALID},
    {"\xe2\x80\xaa.git", E_INVALID},
    {".git\xe2\x80\xae", E_INVALID},
    {".gi\xe2\x81\xaat", E_INVALID},
    {".gi\xe2\x81\xaft", E_INVALID},
    {"\xef\xbb\xbf.git", E_INVALID},
    {".gitmod\xe2\x80\x8dules", E_INVALID},
    {".g\xe2\x80\x90it", 0}, /* U+2010: HFS+ keeps it */
    {".g\xe2\x80\xa9it", 0},
    {"a\xe2\x80\x8c", 0},
    {".gitmodules", E_INVALID},
    {".GitModules", E_INVALID},
    {"a/.gitmodules ", E_INVALID},
    {".gitmodules.", E_INVALID},
    {".gitmodules:x", E_INVALID},
    {".gitmodules.x", 0},
    {"gitmodules", 0},
    {"gitmod~1", E_INVALID},
    {"GITMOD~4", E_INVALID},
    {"gitmod~1 .", E_INVALID},
    {"gitmod~5", 0},
    {"gi7eba~1", E_INVALID},
    {"GI7EB~12", E_INVALID},
    {"gi7e~123", E_INVALID},
    {"gi7eba~0", 0},
    {"gi7eba~1x", 0},
    {"gi7eba~", 0},
    {"gi7eb~1", 0},
    {".gitattributes", 0},
    {".gitignore", 0},
    {".veraignore", 0},
    {"COM1", 0},
    {"con.txt", 0},
    {NAME_250 "12345", 0},
    {NAME_250 "123456", E_INVALID},
    {"a/" NAME_250 "123456", E_INVALID},
    {FOLDERS_64 "a", 0},
    {FOLDERS_64 "a/a", E_INVALID},
};

/* M6, M7 */
static void test_a_path_is_what_every_git_and_file_system_can_hold(void **state)
{
    (void)state;
    for (size_t i = 0; i < sizeof(paths) / sizeof(paths[0]); i++)
        if (path_check(paths[i].path) != paths[i].err)
            fail_msg("path %zu: '%s'", i, paths[i].path);
}

/* M8 */
static void test_attributes_that_git_refuses_are_invalid(void **state)
{
    (void)state;
    static const struct {
        const char *path;
        size_t line;
        int err;
    } cases[] = {
        {".gitattributes", 2047, 0},
        {".gitattributes", 2048, E_INVALID},
        {"a/.GitAttributes ", 2048, E_INVALID},
        {"gitatt~1", 2048, E_INVALID},
        {"gi7d29~1", 2048, E_INVALID},
        {".gitattribut\xe2\x80\x8c"
         "es",
         2048, E_INVALID},
        {".gitattributes/a", 2048, 0},
        {"gitattributes", 2048, 0},
        {".git", 1, E_INVALID},
    };
    for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++)
        for (size_t shape = 0; shape < 3; shape++) {
            AUTO_BUF(data);
            assert_int_equal(buf_append_text(&data, shape ? "a\n\n" : ""), 0);
            for (size_t n = 0; n < cases[i].line; n++)
                assert_int_equal(buf_append_byte(&data, 'x'), 0);
            assert_int_equal(buf_append_text(&data, shape == 2 ? "\nb\n" : ""), 0);
            if (content_check(cases[i].path, buf_bytes(&data)) != cases[i].err)
                fail_msg("'%s', shape %zu", cases[i].path, shape);
        }
    assert_int_equal(content_check(".gitattributes", (struct bytes){NULL, 0}), 0);
}

static void test_a_path_has_at_most_4096_bytes(void **state)
{
    (void)state;
    char path[LIMIT_PATH + 2];
    memset(path, 'a', sizeof(path));
    for (size_t i = 240; i < LIMIT_PATH; i += 241)
        path[i] = '/';
    path[LIMIT_PATH] = '\0';
    assert_int_equal(path_check(path), 0);
    path[LIMIT_PATH] = 'a';
    path[LIMIT_PATH + 1] = '\0';
    assert_int_equal(path_check(path), E_INVALID);
}

static void test_a_refused_path_is_named_without_controls(void **state)
{
    (void)state;
    assert_int_equal(path_check("a\x1b[2Jb"), E_INVALID);
    assert_non_null(strstr(error_message(), "'a\\x1b[2Jb'"));
    for (const char *c = error_message(); *c; c++)
        assert_true(*c >= 0x20 && *c < 0x7f);
}

/* M4: The id of adapter/llama/step-120: text and digest were made by sha256sum and printf. */
static void test_the_snapshot_id_of_a_fixture_is_known(void **state)
{
    (void)state;
    static const char text[] =
        "verastore manifest 1\n"
        "kind vera\n"
        "file 1e85c6319d73a6e4e06a7cf76ee117e1228f32c3ad0824f22a0c252cc20b62a3"
        " 5167 README.md\n"
        "file 1fd5be295860dabdb698ae6ddaf3ccdc8c12b0eee7a7dbbaec7d09ad89b70e14"
        " 587 adapter_config.json\n"
        "file 874f9626feab4570ce6f58c1eb85bd82502900942a547cb3336c5a13f2f3e014"
        " 55256 adapter_model.safetensors\n";
    struct digest id;
    char hex[DIGEST_HEX_SIZE];
    assert_true(is_taken(recode, text_bytes(text)));
    assert_int_equal(digest_of(&id, text_bytes(text)), 0);
    digest_hex(hex, &id);
    assert_string_equal(hex, "c40367d1d1cbfc01baa4218045a1ff9a3d3f300dbecf8ec35eda650fc5a6588c");
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_files_in_any_order_give_the_golden_bytes),
        cmocka_unit_test(test_decoding_finds_each_file),
        cmocka_unit_test(test_only_canonical_text_is_taken),
        cmocka_unit_test(test_every_malformed_text_is_refused),
        cmocka_unit_test(test_a_file_that_is_also_a_folder_is_invalid),
        cmocka_unit_test(test_number_and_size_of_files_are_limited),
        cmocka_unit_test(test_a_path_is_what_every_git_and_file_system_can_hold),
        cmocka_unit_test(test_attributes_that_git_refuses_are_invalid),
        cmocka_unit_test(test_a_path_has_at_most_4096_bytes),
        cmocka_unit_test(test_a_refused_path_is_named_without_controls),
        cmocka_unit_test(test_the_snapshot_id_of_a_fixture_is_known),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
