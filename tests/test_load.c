/*
 * Tests of store_load() on what is damaged or was never right: P5, P8, V1-V3 of docs/format.md.
 * Every object of a version is damaged in turn; trees are made by hand. And of store_commit() on
 * damage: what it writes again is whole again.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "format/limits.h"
#include "tests/versions.h"

static void object_file(char out[256], const git_oid *id)
{
    const char *hex = git_oid_tostr_s(id);

    snprintf(out, 256, "%s/objects/%.2s/%s", store_path(store), hex, hex + 2);
}

enum damage { FLIP_FIRST, FLIP_MIDDLE, CUT, EMPTY, GONE, ANOTHER, A_BOMB, DAMAGES };

/* A loose object that claims 2^40 bytes: "blob 1099511627776" and some zeros, deflated. */
static void bomb_write(const char *path)
{
    AUTO_BUF(command);

    assert_int_equal(
        buf_printf(
            &command,
            "python3 -c \"import zlib,sys; sys.stdout.buffer.write(zlib.compress("
            "b'blob 1099511627776\\0' + bytes(100000)))\" >%s",
            path
        ),
        0
    );
    shell((char *)command.data);
}

static void object_damage(const git_oid *id, const git_oid *other, enum damage damage)
{
    AUTO_BUF(data);
    char path[256], other_path[256];

    object_file(path, id);
    object_file(other_path, other);
    assert_int_equal(file_read(&data, damage == ANOTHER ? other_path : path, GIB), 0);
    assert_int_equal(path_remove(path), 0);
    if (damage == FLIP_FIRST)
        data.data[0] ^= 0x10;
    if (damage == FLIP_MIDDLE)
        data.data[data.len / 2] ^= 0x10;
    if (damage == CUT)
        data.len /= 2;
    if (damage == EMPTY)
        data.len = 0;
    if (damage == A_BOMB)
        bomb_write(path);
    else if (damage != GONE)
        assert_int_equal(file_write(path, buf_bytes(&data)), 0);
}

static void test_damage_is_named_and_mended_by_committing_again(void **state)
{
    AUTO_SNAPSHOT(snapshot);
    AUTO_BUF(ids);

    (void)state;
    snapshot_vary(&snapshot, "bert/step-040", "");
    struct commit_id first = commit_snapshot(&snapshot).commit;
    objects_below(&ids, &first);
    const git_oid *list = (const git_oid *)(void *)ids.data;
    size_t count = ids.len / sizeof(git_oid);
    git_oid commit_oid = git_id(&first);
    assert_in_range(count, 11, 13);
    shell("cp -r .vera/objects whole");
    for (size_t i = 0; i < count; i++) {
        for (enum damage damage = 0; damage < DAMAGES; damage++) {
            AUTO_SNAPSHOT(loaded);
            object_damage(&list[i], &list[(i + 1) % count], damage);
            repository_reopen();
            int err = store_load(&loaded, store, &first);
            assert_int_equal(err, damage == A_BOMB && err == E_LIMIT ? E_LIMIT : E_CORRUPT);
            assert_message(git_oid_tostr_s(&list[i]));
            assert_null(loaded.manifest.data);
            if (git_oid_equal(&list[i], &commit_oid)) {
                /* Nobody can write the same commit again: put it back by hand. */
                shell("cp -r whole/. .vera/objects/");
                continue;
            }
            struct commit_id again = commit_snapshot(&snapshot).commit;
            repository_reopen();
            assert_int_equal(store_load(&loaded, store, &first), 0);
            snapshot_release(&loaded);
            assert_int_equal(store_load(&loaded, store, &again), 0);
            shell("git fsck --strict --no-dangling");
        }
    }
}

/* The pack's copy goes before a loose one, so it cannot be mended in silence. */
static void test_damage_in_a_pack_is_said(void **state)
{
    AUTO_SNAPSHOT(snapshot);
    AUTO_SNAPSHOT(loaded);
    struct commit_result result = {0};

    (void)state;
    snapshot_read(&snapshot, "llama/step-120");
    struct commit_id id = commit_snapshot(&snapshot).commit;
    shell("git repack -q -a -d && chmod u+w .vera/objects/pack/*.pack");
    /* In the middle lies the frame: zlib's bytes, not a header. */
    shell("f=$(ls .vera/objects/pack/*.pack); n=$(($(stat -c %s $f) / 2)); "
          "dd if=/dev/zero of=$f bs=1 seek=$n count=64 conv=notrunc 2>/dev/null");
    repository_reopen();
    assert_int_equal(store_load(&loaded, store, &id), E_CORRUPT);
    assert_message("object ");
    struct commit_request request = {.snapshot = &snapshot, .allow_empty = true};
    int err = store_commit(&result, store, &request);
    free(result.branch);
    assert_int_equal(err, E_CORRUPT);
    assert_message("pack");
}

/* Trees by hand */

/* Commit the tree whose id `command` prints, and load it. `$t` is the good version's tree. */
static int load_crafted(const char *command)
{
    AUTO_BUF(line);
    AUTO_BUF(out);
    AUTO_SNAPSHOT(loaded);
    git_oid id;

    assert_int_equal(
        buf_printf(
            &line,
            "set -e; t=$(git rev-parse HEAD^{tree}); "
            "entry() { printf '%%s %%s\\0' \"$1\" \"$2\"; python3 -c 'import sys; "
            "sys.stdout.buffer.write(bytes.fromhex(sys.argv[1]))' $3; }; "
            "raw() { git hash-object -t tree -w --literally --stdin; }; "
            "without() { git ls-tree $1 | grep -v \"\t$2$\"; }; "
            "with() { { without $1 $4 || true; printf '%%s %%s\\t%%s\\n' \"$2\" \"$3\" \"$4\"; } | "
            "git mktree --missing; }; "
            "blob() { git hash-object -w --stdin; }; "
            "made=$( %s ); "
            "printf 'tree %%s\\nauthor a <b> 1 +0000\\ncommitter a <b> 1 +0000\\n\\nx\\n' $made | "
            "git hash-object -t commit -w --literally --stdin",
            command
        ),
        0
    );
    if (shell_status(&out, (char *)line.data) != 0)
        fail_msg("%s\n%s", command, (char *)out.data);
    assert_int_equal(git_oid_fromstr(&id, (char *)out.data), 0);
    repository_reopen();
    struct commit_id commit = commit_id_of(&id);
    int err = store_load(&loaded, store, &commit);
    if (err < 0)
        assert_null(loaded.manifest.data);
    return err;
}

static const struct crafted {
    const char *command;
    int err;
    const char *message;
} crafted[] = {
    {"echo $t", 0, ""},
    /* Entries that are missing, twice, too many, or something else. */
    {"without $t manifest | git mktree", E_CORRUPT, "'manifest' is missing"},
    {"without $t layout | git mktree", E_CORRUPT, "'layout' is missing"},
    {"without $t recipe | git mktree", E_CORRUPT, "'recipe' is missing"},
    {"without $t vectors | git mktree", E_CORRUPT, "'vectors' is missing"},
    {"without $t adapter_config.json | git mktree", E_CORRUPT, "'adapter_config.json' is missing"},
    {"without $t files | git mktree", E_CORRUPT, "files/README.md"},
    {"git mktree </dev/null", E_CORRUPT, "is missing"},
    {"with $t '100644 blob' $(git rev-parse $t:recipe) extra", E_CORRUPT,
     "'extra' does not belong"},
    {"with $t '100755 blob' $(git rev-parse $t:recipe) recipe", E_CORRUPT, "'recipe' has a mode"},
    {"with $t '120000 blob' $(git rev-parse $t:recipe) recipe", E_CORRUPT, "'recipe' has a mode"},
    {"with $t '160000 commit' $(git rev-parse HEAD) recipe", E_CORRUPT, "'recipe' has a mode"},
    {"with $t '160000 commit' $(git rev-parse HEAD) vectors", E_CORRUPT, "'vectors' has a mode"},
    {"with $t '100644 blob' $(git rev-parse $t:recipe) vectors", E_CORRUPT, "'vectors' has a mode"},
    {"with $t '040000 tree' $(git rev-parse $t:files) recipe", E_CORRUPT, "'recipe' has a mode"},
    {"{ git cat-file tree $t; entry 100644 recipe $(git rev-parse $t:recipe); } | raw", E_CORRUPT,
     "'recipe' is there twice"},
    {"{ entry 100644 manifest $(git rev-parse $t:manifest); git cat-file tree $t; } | raw",
     E_CORRUPT, "'manifest' is there twice"},
    /* Objects that are not there, or of another type. */
    {"with $t '100644 blob' 1234567890123456789012345678901234567890 recipe", E_CORRUPT,
     "1234567890123456789012345678901234567890 (recipe) is missing"},
    {"with $t '040000 tree' 1234567890123456789012345678901234567890 vectors", E_CORRUPT,
     "1234567890123456789012345678901234567890 (a tree) is missing"},
    {"{ git cat-file tree $(without $t recipe | git mktree); entry 100644 recipe $(git rev-parse "
     "$t:files); } | raw",
     E_CORRUPT, "(recipe) is a tree, not a blob"},
    {"git rev-parse $t:recipe", E_CORRUPT, "(a tree) is a blob, not a tree"},
    /* Contents that are not what they are called. */
    {"with $t '100644 blob' $(git rev-parse $t:recipe) manifest", E_CORRUPT, "manifest"},
    {"with $t '100644 blob' $(git rev-parse $t:recipe) layout", E_LIMIT, "the header claims"},
    {"with $t '100644 blob' $(git rev-parse $t:layout) recipe", E_CORRUPT, "recipe"},
    {"with $t '100644 blob' $(git rev-parse $t:layout) adapter_config.json", E_CORRUPT, ""},
    {"with $t '100644 blob' $(git cat-file blob $t:adapter_config.json | tr ' ' '\\n' | blob) "
     "adapter_config.json",
     E_CORRUPT, "adapter_config.json"},
    {"with $t '100644 blob' $(git cat-file blob $t:recipe | sed 's/seed 0/seed 1/' | blob) recipe",
     E_CORRUPT, "seed"},
    {"with $t '100644 blob' $(git cat-file blob $t:manifest | sed 's/ 587 / 588 /' | blob) "
     "manifest",
     E_CORRUPT, "adapter_config.json"},
    {"with $t '100644 blob' $(head -c 70000000 /dev/zero | blob) manifest", E_LIMIT, "(manifest)"},
    {"with $t '100644 blob' $(head -c 70000000 /dev/zero | blob) recipe", E_LIMIT, "(recipe)"},
    {"with $t '100644 blob' $(head -c 30000000 /dev/zero | blob) layout", E_LIMIT, "(layout)"},
    {"with $t '100644 blob' $(head -c 20000000 /dev/zero | blob) adapter_config.json", E_LIMIT, ""},
    /* vectors/ */
    {"with $t '040000 tree' $(git mktree </dev/null) vectors", E_CORRUPT, "'frame' is missing"},
    {"with $t '040000 tree' $(with $t:vectors '100644 blob' $(git rev-parse $t:vectors/frame) "
     "frame.1) vectors",
     E_CORRUPT, "'frame.1' does not belong"},
    {"with $t '040000 tree' $(with $t:vectors '040000 tree' $(git rev-parse $t:vectors) base) "
     "vectors",
     E_CORRUPT, "'base' does not belong"},
    {"with $t '040000 tree' $(git rev-parse HEAD^:vectors) vectors", E_CORRUPT, "payload"},
    {"f=$(git cat-file blob $t:vectors/frame | head -c 60 | blob); with $t '040000 tree' "
     "$(with $t:vectors '100644 blob' $f frame) vectors",
     E_CORRUPT, "frame"},
    {"f=$(head -c 50000000 /dev/zero | blob); with $t '040000 tree' $(with $t:vectors '100644 "
     "blob' "
     "$f frame) vectors",
     E_LIMIT, "(frame)"},
    /* files/ */
    {"with $t '040000 tree' $(git mktree </dev/null) files", E_CORRUPT, "files/README.md"},
    {"with $t '040000 tree' $(with $t:files '100644 blob' $(git rev-parse $t:recipe) README.md) "
     "files",
     E_CORRUPT, "README.md"},
    {"with $t '040000 tree' $(with $t:files '100644 blob' $(git rev-parse $t:recipe) zzz) files",
     E_CORRUPT, "files/zzz"},
    {"with $t '040000 tree' $(with $t:files '100644 blob' $(git rev-parse $t:recipe) AAA) files",
     E_CORRUPT, "files/AAA"},
    {"with $t '040000 tree' $(with $t:files '120000 blob' $(git rev-parse $t:files/README.md) "
     "README.md) files",
     E_CORRUPT, "'README.md' has a mode"},
    {"with $t '040000 tree' $(with $t:files '160000 commit' $(git rev-parse HEAD) README.md) files",
     E_CORRUPT, "'README.md' has a mode"},
    {"f=$(entry 100644 .. $(git rev-parse $t:recipe) | raw); with $t '040000 tree' $f files",
     E_CORRUPT, "files/.."},
    {"f=$({ git cat-file tree $t:files; git cat-file tree $t:files; } | raw); with $t '040000 "
     "tree' "
     "$f files",
     E_CORRUPT, "files/README.md"},
    {"f=$(git rev-parse $t:files); for i in $(seq 80); do f=$(printf '040000 tree %s\\ta\\n' $f | "
     "git mktree); done; with $t '040000 tree' $f files",
     E_CORRUPT, "too deep"},
    /* basis/ and model/ */
    {"with $t '040000 tree' $(git rev-parse $t:files) basis", E_CORRUPT, "basis"},
    {"with $t '100644 blob' $(git cat-file blob $t:recipe | sed 's/basis proved/basis stored/; "
     "/^variant/d; /^rounding/d' | blob) recipe",
     E_CORRUPT, "basis"},
    {"with $t '040000 tree' $(git rev-parse $t:files) model", E_CORRUPT, "'README.md' does not"},
    {"with $t '040000 tree' $(printf '100644 blob %s\\tconfig.json\\n' $(git rev-parse $t:recipe) "
     "| "
     "git mktree) model",
     E_CORRUPT, "'pin' is missing"},
    {"with $t '040000 tree' $(printf '100644 blob %s\\tpin\\n' $(git rev-parse $t:recipe) | git "
     "mktree) model",
     E_CORRUPT, "pin"},
};

static void test_a_tree_that_is_no_version_is_refused(void **state)
{
    (void)state;
    commit_adapter("llama/step-010");
    commit_adapter("llama/step-000");
    for (size_t i = 0; i < sizeof(crafted) / sizeof(crafted[0]); i++) {
        int err = load_crafted(crafted[i].command);
        if (err != crafted[i].err)
            fail_msg("%s: %d %s", crafted[i].command, err, err ? error_message() : "");
        if (err < 0)
            assert_message(crafted[i].message);
    }
}

static void test_what_is_no_commit_is_refused(void **state)
{
    static const char *const names[] = {"HEAD^{tree}", "HEAD:recipe"};
    AUTO_SNAPSHOT(loaded);
    struct frame_summary frame;
    struct commit_id nothing = {{1, 2, 3}};
    git_oid oid;

    (void)state;
    commit_adapter("llama/step-000");
    for (size_t i = 0; i < 2; i++) {
        AUTO_BUF(out);
        AUTO_BUF(command);
        assert_int_equal(buf_printf(&command, "git rev-parse '%s'", names[i]), 0);
        assert_int_equal(shell_status(&out, (char *)command.data), 0);
        assert_int_equal(git_oid_fromstr(&oid, (char *)out.data), 0);
        struct commit_id id = commit_id_of(&oid);
        assert_int_equal(store_load(&loaded, store, &id), E_CORRUPT);
        assert_message("not a commit");
        assert_int_equal(store_frame(&frame, store, &id), E_CORRUPT);
    }
    assert_int_equal(store_load(&loaded, store, &nothing), E_CORRUPT);
    assert_message("is missing");
}

static void test_an_interrupt_ends_a_load_and_a_commit(void **state)
{
    AUTO_SNAPSHOT(snapshot);
    AUTO_SNAPSHOT(loaded);
    struct commit_result result = {0};

    (void)state;
    struct commit_id before = commit_adapter("llama/step-000");
    snapshot_read(&snapshot, "llama/step-010");
    interrupt_flag = 1;
    struct commit_request request = {.snapshot = &snapshot};
    assert_int_equal(store_commit(&result, store, &request), E_INTERRUPTED);
    assert_int_equal(store_load(&loaded, store, &before), E_INTERRUPTED);
    interrupt_flag = 0;
    assert_commit(tip(), before);
    shell("test -z \"$(find .vera -name '*.lock' ! -path .vera/vera.lock)\"");
    commit_snapshot(&snapshot);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
#define TEST(name) cmocka_unit_test_setup_teardown(test_##name, repository_make, repository_remove)
        TEST(damage_is_named_and_mended_by_committing_again), TEST(damage_in_a_pack_is_said),
        TEST(a_tree_that_is_no_version_is_refused),           TEST(what_is_no_commit_is_refused),
        TEST(an_interrupt_ends_a_load_and_a_commit),
    };

    return cmocka_run_group_tests(tests, template_make, template_remove);
}
