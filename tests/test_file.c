/*
 * Tests of format/file.c and format/outdir.c. System calls are wrapped by the linker, so that the
 * n-th of them can fail: whatever fails, the target is the old one or the new one, whole, nothing
 * else lies beside it, and no descriptor stays open.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

#include "format/file.h"

/* Calls until the one that fails; negative: none does. */
static atomic_int fault_after = -1;
static int fault_errno = ENOSPC;
static bool no_kernel_copy, no_exchange;

static bool fault(void)
{
    if (fault_after < 0 || fault_after-- > 0)
        return false;
    errno = fault_errno;
    return true;
}

#define WRAP(type, name, parameters, arguments)                                                    \
    type __real_##name parameters;                                                                 \
    type __wrap_##name parameters;                                                                 \
    type __wrap_##name parameters                                                                  \
    {                                                                                              \
        return fault() ? (type)-1 : __real_##name arguments;                                       \
    }

WRAP(int, open64, (const char *path, int flags, mode_t mode), (path, flags, mode))
WRAP(int, openat64, (int at, const char *path, int flags, mode_t mode), (at, path, flags, mode))
WRAP(int, mkdir, (const char *path, mode_t mode), (path, mode))
WRAP(int, mkdirat, (int at, const char *path, mode_t mode), (at, path, mode))
WRAP(int, rmdir, (const char *path), (path))
WRAP(int, chmod, (const char *path, mode_t mode), (path, mode))
static atomic_int syncs;
int __real_fsync(int fd);
int __wrap_fsync(int fd);
int __wrap_fsync(int fd)
{
    syncs++;
    return fault() ? -1 : __real_fsync(fd);
}

WRAP(int, rename, (const char *from, const char *to), (from, to))
WRAP(ssize_t, write, (int fd, const void *data, size_t len), (fd, data, len))
static const char *grows; /* a file that somebody appends to before the next read */
ssize_t __real_pread64(int fd, void *data, size_t len, off_t at);
ssize_t __wrap_pread64(int fd, void *data, size_t len, off_t at);
ssize_t __wrap_pread64(int fd, void *data, size_t len, off_t at)
{
    if (grows) {
        FILE *file = fopen(grows, "a");
        assert_non_null(file);
        fputs(" and more", file);
        fclose(file);
        grows = NULL;
    }
    return fault() ? -1 : __real_pread64(fd, data, len, at);
}
WRAP(ssize_t, pwrite64, (int fd, const void *data, size_t len, off_t at), (fd, data, len, at))

int __real_renameat2(int, const char *, int, const char *, unsigned);
int __wrap_renameat2(int, const char *, int, const char *, unsigned);
int __wrap_renameat2(int a, const char *from, int b, const char *to, unsigned flags)
{
    if (no_exchange) {
        errno = EINVAL;
        return -1;
    }
    return fault() ? -1 : __real_renameat2(a, from, b, to, flags);
}

ssize_t __real_copy_file_range(int, off_t *, int, off_t *, size_t, unsigned);
ssize_t __wrap_copy_file_range(int, off_t *, int, off_t *, size_t, unsigned);
ssize_t __wrap_copy_file_range(int from, off_t *a, int to, off_t *b, size_t len, unsigned flags)
{
    if (no_kernel_copy) {
        errno = EXDEV;
        return -1;
    }
    return __real_copy_file_range(from, a, to, b, len, flags);
}

/* Each test stands in an empty directory of its own, `scratch`. */
static char scratch[64];

static int scratch_make(void **state)
{
    (void)state;
    snprintf(scratch, sizeof(scratch), "/tmp/vera-test-file.XXXXXX");
    return mkdtemp(scratch) && chdir(scratch) == 0 ? 0 : 1;
}

static int scratch_remove(void **state)
{
    (void)state;
    fault_after = -1;
    interrupt_flag = 0;
    return chdir("/") == 0 && tree_remove(scratch) == 0 ? 0 : 1;
}

static void put(const char *path, const char *text)
{
    assert_int_equal(file_write(path, text_bytes(text)), 0);
}

static void assert_holds(const char *path, const char *text)
{
    AUTO_BUF(data);

    assert_int_equal(file_read(&data, path, 1000), 0);
    assert_true(bytes_equal(buf_bytes(&data), text_bytes(text)));
}

static size_t entry_count(const char *path)
{
    const char *name = NULL;
    size_t count = 0;
    DIR *dir = opendir(path);

    assert_non_null(dir);
    while (dir_next(&name, dir, path) == 0 && name)
        count++;
    closedir(dir);
    return count;
}

static void test_only_regular_files_are_opened(void **state)
{
    static const struct {
        const char *path;
        int err;
    } cases[] = {
        {"missing", E_NOTFOUND},
        {"dir", E_INVALID},
        {"fifo", E_INVALID},
        {"socket", E_INVALID},
        {"/dev/null", E_INVALID},
        {"loop", E_IO},
        {"dangling", E_NOTFOUND},
        {"file", 0},
        {"link", 0},
        {"file/x", E_IO},
    };
    struct sockaddr_un address = {.sun_family = AF_UNIX, .sun_path = "socket"};
    AUTO_FD(listener);

    (void)state;
    put("file", "four");
    assert_int_equal(mkdir("dir", 0777), 0);
    assert_int_equal(mkfifo("fifo", 0666), 0);
    assert_int_equal(symlink("file", "link"), 0);
    assert_int_equal(symlink("nothing", "dangling"), 0);
    assert_int_equal(symlink("loop", "loop"), 0);
    listener = socket(AF_UNIX, SOCK_STREAM, 0);
    assert_int_equal(bind(listener, (struct sockaddr *)&address, sizeof(address)), 0);
    for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
        AUTO_FD(fd);
        uint64_t size = 77;
        assert_int_equal(file_open(&fd, &size, cases[i].path), cases[i].err);
        assert_int_equal(size, cases[i].err ? 77 : 4);
        assert_int_equal(fd >= 0, cases[i].err == 0);
        if (cases[i].err)
            assert_non_null(strstr(error_message(), cases[i].path));
    }
}

static void test_a_file_that_grows_is_refused_and_a_log_is_read_up_to_there(void **state)
{
    AUTO_BUF(data);

    (void)state;
    put("log", "one\n");
    grows = "log";
    assert_int_equal(file_read(&data, "log", 100), E_IO);
    assert_null(data.data);
    put("log", "one\n");
    grows = "log";
    assert_int_equal(file_read_log(&data, "log", 100), 0);
    assert_true(bytes_equal(buf_bytes(&data), text_bytes("one\n")));
    assert_holds("log", "one\n and more");
    buf_release(&data);
    assert_int_equal(file_read_log(&data, "log", 12), E_LIMIT);
    assert_int_equal(file_read_log(&data, "none", 12), E_NOTFOUND);
}

static void test_a_file_is_read_up_to_its_limit(void **state)
{
    AUTO_BUF(data);
    AUTO_FD(fd);
    uint64_t size = 0;
    char five[5];

    (void)state;
    put("file", "four");
    put("empty", "");
    assert_int_equal(file_read(&data, "file", 3), E_LIMIT);
    assert_null(data.data);
    assert_int_equal(file_read(&data, "file", 4), 0);
    assert_int_equal(data.len, 4);
    buf_release(&data);
    assert_int_equal(file_read(&data, "empty", 0), 0);
    assert_int_equal(data.len, 0);
    assert_int_equal(file_open(&fd, &size, "file"), 0);
    assert_int_equal(file_read_at(fd, five, 4, 0, "file"), 0);
    assert_int_equal(file_read_at(fd, five, 5, 0, "file"), E_IO);
    assert_int_equal(file_read_at(fd, five, 1, UINT64_MAX, "file"), E_LIMIT);
    assert_int_equal(file_read_at(fd, five, 2, INT64_MAX, "file"), E_LIMIT);
}

static void test_a_pipe_is_read_up_to_its_limit(void **state)
{
    (void)state;
    for (uint64_t limit = 4; limit < 6; limit++) {
        AUTO_BUF(data);
        AUTO_FD(from);
        AUTO_FD(to);
        int ends[2];
        assert_int_equal(pipe(ends), 0);
        from = ends[0];
        to = ends[1];
        assert_int_equal(fd_write_all(to, "fives", 5, "pipe"), 0);
        fd_release(&to);
        assert_int_equal(fd_read_all(&data, from, limit, "pipe"), limit < 5 ? E_LIMIT : 0);
        assert_int_equal(data.len, limit < 5 ? 0 : 5);
    }
}

/* 3 MiB, so that the copy by hand goes round. */
#define COPY_BYTES ((size_t)3 << 20)

static void copy_case(uint64_t from_offset, uint64_t to_offset, uint64_t len)
{
    AUTO_BUF(before);
    AUTO_BUF(after);
    AUTO_FD(from);
    AUTO_FD(to);
    uint64_t cloned = 0, size = 0;

    assert_int_equal(file_read(&before, "from", COPY_BYTES), 0);
    assert_int_equal(file_open(&from, &size, "from"), 0);
    to = open("to", O_RDWR | O_CREAT | O_TRUNC, 0666);
    assert_int_equal(file_copy_range(from, from_offset, to, to_offset, len, &cloned, "from"), 0);
    assert_true(cloned <= len);
    assert_int_equal(file_read(&after, "to", 2 * COPY_BYTES), 0);
    assert_int_equal(after.len, len ? to_offset + len : 0);
    if (len)
        assert_memory_equal(after.data + to_offset, before.data + from_offset, len);
    assert_int_equal(
        file_copy_range(from, from_offset, to, to_offset, size + 1, NULL, "from"), E_IO
    );
}

static void test_ranges_are_copied_whichever_way(void **state)
{
    AUTO_BUF(data);

    (void)state;
    assert_int_equal(buf_resize(&data, COPY_BYTES), 0);
    for (size_t i = 0; i < data.len; i++)
        data.data[i] = (uint8_t)(i * 2654435761u >> 13);
    assert_int_equal(file_write("from", buf_bytes(&data)), 0);
    for (int by_hand = 0; by_hand < 2; by_hand++) {
        no_kernel_copy = by_hand;
        copy_case(0, 0, COPY_BYTES);
        copy_case(4096, 8192, COPY_BYTES - 4096);
        copy_case(4096, 0, 10000);
        copy_case(1, 3, COPY_BYTES - 1);
        copy_case(5, 0, 0);
    }
    no_kernel_copy = false;
}

static void test_writing_replaces_a_link_and_not_what_it_leads_to(void **state)
{
    char name[256];
    struct stat status;

    (void)state;
    put("file", "old");
    assert_int_equal(symlink("file", "link"), 0);
    put("link", "new");
    assert_holds("file", "old");
    assert_holds("link", "new");
    assert_int_equal(lstat("link", &status), 0);
    assert_true(S_ISREG(status.st_mode));
    assert_int_equal(file_write("missing/file", text_bytes("x")), E_NOTFOUND);
    assert_int_equal(entry_count("."), 2);
    memset(name, 'n', 255);
    name[255] = '\0';
    put(name, "the longest name");
    assert_holds(name, "the longest name");
}

/* Not by /proc, which a bare root file system lacks. */
static size_t descriptor_count(void)
{
    size_t count = 0;

    for (int fd = 0; fd < 1024; fd++)
        count += fcntl(fd, F_GETFD) >= 0;
    return count;
}

static void test_a_write_that_fails_leaves_the_old_file(void **state)
{
    int err, n = 0;

    (void)state;
    do {
        put("file", "old");
        size_t descriptors = descriptor_count();
        fault_after = n++;
        err = file_write("file", text_bytes("new"));
        fault_after = -1;
        assert_int_equal(err, err ? E_IO : 0);
        assert_int_equal(entry_count("."), 1);
        assert_int_equal(descriptor_count(), descriptors);
        AUTO_BUF(data);
        assert_int_equal(file_read(&data, "file", 10), 0);
        assert_true(
            bytes_equal(buf_bytes(&data), text_bytes("new")) ||
            (err && bytes_equal(buf_bytes(&data), text_bytes("old")))
        );
    } while (err);
    assert_true(n > 5);
}

static void test_a_full_disk_is_said_with_a_hint(void **state)
{
    (void)state;
    fault_after = 1; /* the write */
    assert_int_equal(file_write("file", text_bytes("new")), E_IO);
    assert_non_null(strstr(error_message(), ": No space left on device"));
    assert_non_null(error_hint_text());
}

static void test_directories_are_made_with_their_parents(void **state)
{
    (void)state;
    assert_int_equal(dir_make("a/b//c/"), 0);
    assert_int_equal(dir_make("a/b/c"), 0);
    assert_int_equal(dir_make("/"), 0);
    assert_int_equal(dir_make("."), 0);
    assert_int_equal(dir_make(""), E_INVALID);
    put("a/file", "x");
    assert_int_equal(dir_make("a/file"), E_IO);
    assert_int_equal(dir_make("a/file/b"), E_IO);
    assert_true(dir_has("a", "file"));
    assert_false(dir_has("a", "b"));
    assert_false(dir_has("a/file", "b"));
    assert_false(dir_has("missing", "file"));
}

static void test_what_is_inside_a_directory_is_seen_through_links(void **state)
{
    static const struct {
        const char *path;
        bool inside;
    } cases[] = {
        {"base", true},           {"base/", true},
        {"base/new", true},       {"base/new/", true},
        {"base/sub/new", true},   {"base/sub", true},
        {"link", true},           {"link/new", true},
        {"based", false},         {".", false},
        {"new", false},           {"/", false},
        {"base/../other", false}, {"out", false},
        {"missing/new", false},   {"base/sub/../..", false},
        {"base/file", true},
    };
    bool inside = false;

    (void)state;
    assert_int_equal(dir_make("base/sub"), 0);
    assert_int_equal(dir_make("based"), 0);
    put("base/file", "x");
    assert_int_equal(symlink("base/sub", "link"), 0);
    assert_int_equal(symlink("../based", "base/out"), 0);
    assert_int_equal(symlink("based", "out"), 0);
    for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
        assert_int_equal(path_is_inside(&inside, cases[i].path, "base"), 0);
        assert_int_equal(inside, cases[i].inside);
    }
    assert_int_equal(path_is_inside(&inside, "base/out/new", "base"), 0);
    assert_false(inside);
    assert_int_equal(path_is_inside(&inside, "base", "/"), 0);
    assert_true(inside);
    assert_int_equal(path_is_inside(&inside, "base", "missing"), E_NOTFOUND);
    assert_int_equal(path_is_inside(&inside, "base/file/new", "base"), E_IO);
}

static void test_removing_a_tree_follows_no_link(void **state)
{
    (void)state;
    assert_int_equal(dir_make("tree/inner"), 0);
    assert_int_equal(dir_make("outside"), 0);
    put("outside/file", "stays");
    put("tree/inner/file", "goes");
    assert_int_equal(symlink("../outside", "tree/link"), 0);
    assert_int_equal(tree_remove("tree"), 0);
    assert_int_equal(tree_remove("tree"), 0);
    assert_int_equal(entry_count("."), 1);
    assert_int_equal(symlink("outside", "link"), 0);
    assert_int_equal(tree_remove("link"), 0);
    assert_holds("outside/file", "stays");
}

/* Write the directory "new": two files, one in a folder. */
static int produce(const char *target, bool force)
{
    AUTO_OUTDIR(out);
    AUTO_FD(fd);
    int err;

    if ((err = outdir_begin(&out, target, force)) < 0 ||
        (err = outdir_write(&out, "one", text_bytes("1"))) < 0 ||
        (err = outdir_create(&fd, &out, "folder/inner/two")) < 0 ||
        (err = file_write_at(fd, "2", 1, 0, "two")) < 0)
        return err;
    return outdir_commit(&out);
}

static void assert_produced(const char *target)
{
    assert_int_equal(chdir(target), 0);
    assert_holds("one", "1");
    assert_holds("folder/inner/two", "2");
    assert_int_equal(entry_count("."), 2);
    assert_int_equal(entry_count("folder"), 1);
    assert_int_equal(chdir(scratch), 0);
}

static void make_targets(void)
{
    assert_int_equal(dir_make("empty"), 0);
    assert_int_equal(dir_make("full/old-folder"), 0);
    assert_int_equal(dir_make("store/.vera"), 0);
    put("full/old", "old");
    put("file", "f");
    assert_int_equal(symlink("empty", "to-empty"), 0);
    assert_int_equal(symlink("full", "to-full"), 0);
    assert_int_equal(symlink("nowhere", "dangling"), 0);
    assert_int_equal(symlink("file", "to-file"), 0);
}

static void test_targets_are_new_or_empty_or_replaced_by_force(void **state)
{
    static const struct {
        const char *target;
        int err, forced;
        const char *says;
    } cases[] = {
        {"new", 0, 0, ""},
        {"new//", 0, 0, ""},
        {"empty", 0, 0, ""},
        {"empty/.", 0, 0, ""},
        {"to-empty", 0, 0, ""},
        {"full/../new", 0, 0, ""},
        {"full", E_EXISTS, 0, "not empty"},
        {"to-full", E_EXISTS, 0, "not empty"},
        {"", E_INVALID, E_INVALID, "empty path"},
        {"file", E_EXISTS, E_EXISTS, "not a directory"},
        {"to-file", E_EXISTS, E_EXISTS, "not a directory"},
        {"dangling", E_EXISTS, E_EXISTS, "dangling"},
        {"missing/new", E_NOTFOUND, E_NOTFOUND, "missing: No such file"},
        {"file/new", E_IO, E_IO, "file: Not a directory"},
        {".", E_EXISTS, E_EXISTS, "not "},
        {"..", E_EXISTS, E_EXISTS, "not "},
        {"/", E_EXISTS, E_EXISTS, "not "},
        {"store", E_EXISTS, E_EXISTS, "not "},
    };

    for (size_t i = 0; i < 2 * sizeof(cases) / sizeof(cases[0]); i++) {
        bool force = i % 2;
        const char *target = cases[i / 2].target;
        int expected = force ? cases[i / 2].forced : cases[i / 2].err;
        make_targets();
        size_t before = entry_count(".");
        bool fresh = access(target, F_OK) != 0;
        assert_int_equal(produce(target, force), expected);
        if (expected == 0) {
            assert_produced(target);
        } else {
            assert_non_null(strstr(error_message(), cases[i / 2].says));
            assert_holds("full/old", "old");
        }
        assert_int_equal(entry_count("."), before + (expected == 0 && fresh));
        assert_int_equal(scratch_remove(state), 0);
        assert_int_equal(scratch_make(state), 0);
    }
}

static void test_an_empty_current_directory_is_filled(void **state)
{
    (void)state;
    assert_int_equal(dir_make("here"), 0);
    assert_int_equal(chdir("here"), 0);
    assert_int_equal(produce(".", false), 0);
    assert_int_equal(entry_count("."), 2); /* seen from who stands in it */
    assert_int_equal(chdir(scratch), 0);
    assert_produced("here");
}

static void test_what_cannot_be_moved_up_goes_back(void **state)
{
    AUTO_OUTDIR(out);

    (void)state;
    assert_int_equal(dir_make("here"), 0);
    assert_int_equal(chdir("here"), 0);
    assert_int_equal(outdir_begin(&out, ".", false), 0);
    assert_int_equal(outdir_write(&out, "one", text_bytes("1")), 0);
    assert_int_equal(outdir_write(&out, "two", text_bytes("2")), 0);
    put("two", "mine");
    assert_int_equal(outdir_commit(&out), E_EXISTS);
    outdir_release(&out);
    assert_holds("two", "mine");
    assert_int_equal(entry_count("."), 1);
    assert_int_equal(chdir(scratch), 0);
}

static void test_the_mode_is_the_umasks_or_that_of_the_replaced(void **state)
{
    struct stat status;

    (void)state;
    mode_t old = umask(027);
    assert_int_equal(produce("new", false), 0);
    umask(old);
    assert_int_equal(stat("new", &status), 0);
    assert_int_equal(status.st_mode & 07777, 0750);
    assert_int_equal(stat("new/one", &status), 0);
    assert_int_equal(status.st_mode & 07777, 0640);
    assert_int_equal(mkdir("private", 0700), 0);
    assert_int_equal(produce("private", false), 0);
    assert_int_equal(stat("private", &status), 0);
    assert_int_equal(status.st_mode & 07777, 0700);
}

static void test_nothing_leaves_the_staging_directory(void **state)
{
    static const char *const refused[] = {"../x", "/x", "a/../../x", "", ".git/config", "a//b"};
    AUTO_OUTDIR(out);
    AUTO_FREE(char, link);
    AUTO_FREE(char, link_to_file);
    AUTO_FD(fd);

    (void)state;
    assert_int_equal(dir_make("outside"), 0);
    assert_int_equal(outdir_begin(&out, "new", false), 0);
    for (size_t i = 0; i < sizeof(refused) / sizeof(refused[0]); i++)
        assert_int_equal(outdir_create(&fd, &out, refused[i]), E_INVALID);
    assert_int_equal(path_join(&link, out.staging, "folder"), 0);
    assert_int_equal(symlink("../outside", link), 0);
    assert_int_equal(path_join(&link_to_file, out.staging, "file"), 0);
    assert_int_equal(symlink("../outside/file", link_to_file), 0);
    assert_true(outdir_create(&fd, &out, "folder/x") < 0);
    assert_true(outdir_create(&fd, &out, "file") < 0);
    assert_int_equal(entry_count("outside"), 0);
    assert_int_equal(outdir_write(&out, "twice", text_bytes("1")), 0);
    assert_int_equal(outdir_write(&out, "twice", text_bytes("1")), E_EXISTS);
}

static void test_release_and_interrupt_leave_nothing(void **state)
{
    AUTO_OUTDIR(out);

    (void)state;
    assert_int_equal(outdir_begin(&out, "new", false), 0);
    assert_int_equal(outdir_write(&out, "folder/x", text_bytes("1")), 0);
    assert_int_equal(entry_count("."), 1);
    interrupt_flag = 1;
    assert_int_equal(outdir_commit(&out), E_INTERRUPTED);
    outdir_release(&out);
    interrupt_flag = 0;
    assert_int_equal(entry_count("."), 0);
}

static void test_a_target_taken_meanwhile_is_kept(void **state)
{
    static const char *const names[] = {"file", "dir/file"};

    (void)state;
    for (size_t i = 0; i < 2; i++) {
        AUTO_OUTDIR(out);
        const char *target = i ? "dir" : "file";
        assert_int_equal(outdir_begin(&out, target, false), 0);
        assert_int_equal(outdir_write(&out, "x", text_bytes("1")), 0);
        if (i)
            assert_int_equal(dir_make("dir"), 0);
        put(names[i], "mine");
        assert_int_equal(outdir_commit(&out), E_EXISTS);
        outdir_release(&out);
        assert_holds(names[i], "mine");
    }
    assert_int_equal(entry_count("."), 2);
}

/* "new", "old" or "none": a target that is whole. */
static const char *target_state(const char *target)
{
    AUTO_FREE(char, old);

    if (access(target, F_OK) != 0)
        return "none";
    assert_int_equal(path_join(&old, target, "old"), 0);
    if (access(old, F_OK) == 0) {
        assert_int_equal(entry_count(target), 2);
        return "old";
    }
    if (entry_count(target) == 0)
        return "empty";
    assert_produced(target);
    return "new";
}

static void fault_case(void **state, const char *target, const char *before, bool force)
{
    int err, n = 0;

    do {
        make_targets();
        bool fresh = access(target, F_OK) != 0;
        if (strcmp(before, "here") == 0)
            assert_int_equal(chdir(target), 0);
        size_t entries = entry_count(scratch), descriptors = descriptor_count();
        fault_after = n++;
        err = produce(strcmp(before, "here") == 0 ? "." : target, force);
        fault_after = -1;
        assert_int_equal(descriptor_count(), descriptors);
        assert_int_equal(chdir(scratch), 0);
        const char *after = target_state(target);
        if (err == 0)
            assert_string_equal(after, "new");
        else if (strcmp(after, "new") != 0)
            assert_string_equal(after, strcmp(before, "here") == 0 ? "empty" : before);
        bool made = fresh && strcmp(after, "new") == 0;
        assert_int_equal(entry_count("."), entries + made);
        assert_int_equal(scratch_remove(state), 0);
        assert_int_equal(scratch_make(state), 0);
    } while (err < 0);
    assert_true(n > 20);
}

static void test_whatever_call_fails_the_target_is_whole(void **state)
{
    fault_case(state, "new", "none", false);
    fault_case(state, "empty", "empty", false);
    fault_case(state, "empty", "here", false);
    fault_case(state, "full", "old", true);
    no_exchange = true;
    fault_case(state, "full", "old", true);
    no_exchange = false;
}

#define SCRATCH_TEST(name) cmocka_unit_test_setup_teardown(name, scratch_make, scratch_remove)

static void test_a_file_that_is_put_is_whole_and_replaces(void **state)
{
    struct stat status;
    int err = 0, n = 0;

    (void)state;
    assert_int_equal(dir_make("put"), 0);
    for (const char *text = "old"; text; text = strcmp(text, "old") == 0 ? "newer" : NULL) {
        AUTO_BUF(data);
        assert_int_equal(file_put("put/x", "tmp_obj_", text_bytes(text)), 0);
        assert_int_equal(file_read(&data, "put/x", 100), 0);
        assert_true(bytes_equal(buf_bytes(&data), text_bytes(text)));
    }
    assert_int_equal(stat("put/x", &status), 0);
    assert_int_equal(status.st_mode & 0777, 0444);
    do {
        AUTO_BUF(names);
        fault_after = n++;
        err = file_put("put/x", "tmp_obj_", text_bytes("other"));
        fault_after = -1;
        assert_int_equal(dir_names(&names, "put"), 0);
        assert_true(bytes_equal(buf_bytes(&names), (struct bytes){(const uint8_t *)"x", 2}));
    } while (err < 0);
    assert_true(n > 3);
    assert_int_equal(file_put("missing/x", "tmp_obj_", text_bytes("")), E_NOTFOUND);
    assert_int_equal(tree_remove("put"), 0);
}

static void test_many_paths_are_synced_and_missing_ones_left_out(void **state)
{
    AUTO_BUF(paths);

    (void)state;
    assert_int_equal(dir_make("many"), 0);
    assert_int_equal(paths_sync((struct bytes){0}), 0);
    for (int i = 0; i < 40; i++) {
        char path[32];
        int len = snprintf(path, sizeof(path), "many/%d", i);
        if (i % 3)
            assert_int_equal(file_write(path, text_bytes("x")), 0);
        assert_int_equal(buf_append(&paths, path, (size_t)len + 1), 0);
    }
    syncs = 0;
    assert_int_equal(paths_sync(buf_bytes(&paths)), 0);
    assert_int_equal(syncs, 26);
    for (int n = 0; n < 26; n++) {
        fault_after = n;
        fault_errno = EIO;
        assert_int_equal(paths_sync(buf_bytes(&paths)), E_IO);
        assert_true(fault_after < 0);
        assert_non_null(strstr(error_message(), "many/"));
    }
    fault_errno = ENOSPC;
    interrupt_flag = 1;
    assert_int_equal(paths_sync(buf_bytes(&paths)), E_INTERRUPTED);
    interrupt_flag = 0;
    assert_int_equal(tree_remove("many"), 0);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        SCRATCH_TEST(test_only_regular_files_are_opened),
        SCRATCH_TEST(test_a_file_is_read_up_to_its_limit),
        SCRATCH_TEST(test_a_file_that_grows_is_refused_and_a_log_is_read_up_to_there),
        SCRATCH_TEST(test_a_pipe_is_read_up_to_its_limit),
        SCRATCH_TEST(test_ranges_are_copied_whichever_way),
        SCRATCH_TEST(test_writing_replaces_a_link_and_not_what_it_leads_to),
        SCRATCH_TEST(test_a_write_that_fails_leaves_the_old_file),
        SCRATCH_TEST(test_a_full_disk_is_said_with_a_hint),
        SCRATCH_TEST(test_directories_are_made_with_their_parents),
        SCRATCH_TEST(test_what_is_inside_a_directory_is_seen_through_links),
        SCRATCH_TEST(test_removing_a_tree_follows_no_link),
        SCRATCH_TEST(test_targets_are_new_or_empty_or_replaced_by_force),
        SCRATCH_TEST(test_an_empty_current_directory_is_filled),
        SCRATCH_TEST(test_what_cannot_be_moved_up_goes_back),
        SCRATCH_TEST(test_the_mode_is_the_umasks_or_that_of_the_replaced),
        SCRATCH_TEST(test_nothing_leaves_the_staging_directory),
        SCRATCH_TEST(test_release_and_interrupt_leave_nothing),
        SCRATCH_TEST(test_a_target_taken_meanwhile_is_kept),
        SCRATCH_TEST(test_whatever_call_fails_the_target_is_whole),
        SCRATCH_TEST(test_a_file_that_is_put_is_whole_and_replaces),
        SCRATCH_TEST(test_many_paths_are_synced_and_missing_ones_left_out),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
