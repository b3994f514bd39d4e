/*
 * Tests of where and how apply/materialize.c writes: never into or over the base; whole or not at
 * all, whichever call fails, whenever it is interrupted; in bounded memory.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <errno.h>
#include <fcntl.h>
#include <linux/fs.h>
#include <malloc.h>
#include <stdatomic.h>
#include <sys/stat.h>

#include "tests/adapters.h"

/* Calls until the one that fails; negative: none does. Several threads count. */
static atomic_int call_after = -1, memory_after = -1;
static atomic_ptrdiff_t memory_live, memory_peak; /* what the C library takes is not counted */

static bool due(atomic_int *after)
{
    return *after >= 0 && atomic_fetch_sub(after, 1) == 0;
}

#define WRAP(type, name, parameters, arguments)                                                    \
    type __real_##name parameters;                                                                 \
    type __wrap_##name parameters;                                                                 \
    type __wrap_##name parameters                                                                  \
    {                                                                                              \
        errno = ENOSPC;                                                                            \
        return due(&call_after) ? (type)-1 : __real_##name arguments;                              \
    }

WRAP(int, open64, (const char *path, int flags, mode_t mode), (path, flags, mode))
WRAP(int, openat64, (int at, const char *path, int flags, mode_t mode), (at, path, flags, mode))
WRAP(int, mkdir, (const char *path, mode_t mode), (path, mode))
WRAP(int, chmod, (const char *path, mode_t mode), (path, mode))
WRAP(int, fsync, (int fd), (fd))
WRAP(int, rename, (const char *from, const char *to), (from, to))
WRAP(ssize_t, write, (int fd, const void *data, size_t len), (fd, data, len))
WRAP(ssize_t, pread64, (int fd, void *data, size_t len, off_t at), (fd, data, len, at))
WRAP(ssize_t, pwrite64, (int fd, const void *data, size_t len, off_t at), (fd, data, len, at))

/* Copying in the kernel is tried first: where it fails the copy by hand goes on. */
ssize_t __real_copy_file_range(int, off_t *, int, off_t *, size_t, unsigned);
ssize_t __wrap_copy_file_range(int, off_t *, int, off_t *, size_t, unsigned);
ssize_t __wrap_copy_file_range(int from, off_t *a, int to, off_t *b, size_t len, unsigned flags)
{
    errno = ENOSPC;
    return due(&call_after) ? -1 : __real_copy_file_range(from, a, to, b, len, flags);
}

/* A file system that shares blocks where `shares_blocks` is set (it copies them), and one that does
   not, whatever the tests run on. */
static bool shares_blocks;

int __real_ioctl(int fd, unsigned long request, void *argument);
int __wrap_ioctl(int fd, unsigned long request, void *argument);
int __wrap_ioctl(int fd, unsigned long request, void *argument)
{
    const struct file_clone_range *range = argument;
    uint8_t block[4096];

    if (request != FICLONERANGE)
        return __real_ioctl(fd, request, argument);
    if (!shares_blocks) {
        errno = EOPNOTSUPP;
        return -1;
    }
    assert_int_equal(range->src_length % sizeof(block), 0);
    for (uint64_t at = 0; at < range->src_length; at += sizeof(block)) {
        off_t from = (off_t)(range->src_offset + at), to = (off_t)(range->dest_offset + at);
        assert_int_equal(pread((int)range->src_fd, block, sizeof(block), from), sizeof(block));
        assert_int_equal(pwrite(fd, block, sizeof(block), to), sizeof(block));
    }
    return 0;
}

static ptrdiff_t usable(void *p)
{
    return p ? (ptrdiff_t)malloc_usable_size(p) : 0;
}

static void *counted(void *p)
{
    ptrdiff_t size = usable(p), live = atomic_fetch_add(&memory_live, size) + size;
    ptrdiff_t peak = atomic_load(&memory_peak);

    while (live > peak && !atomic_compare_exchange_weak(&memory_peak, &peak, live))
        continue;
    return p;
}

void *__real_realloc(void *p, size_t n);
void *__wrap_realloc(void *p, size_t n);
void *__wrap_realloc(void *p, size_t n)
{
    if (due(&memory_after))
        return NULL;
    ptrdiff_t before = usable(p);
    void *grown = __real_realloc(p, n);
    if (grown)
        memory_live -= before;
    return counted(grown);
}

void *__real_calloc(size_t count, size_t size);
void *__wrap_calloc(size_t count, size_t size);
void *__wrap_calloc(size_t count, size_t size)
{
    return due(&memory_after) ? NULL : counted(__real_calloc(count, size));
}

void __real_free(void *p);
void __wrap_free(void *p);
void __wrap_free(void *p)
{
    memory_live -= usable(p);
    __real_free(p);
}

static const struct apply_options defaults = {.threads = 1};

static size_t entry_count(const char *path)
{
    AUTO_BUF(names);
    size_t count = 0;

    assert_int_equal(dir_names(&names, path), 0);
    for (size_t i = 0; i < names.len; i++)
        count += names.data[i] == 0;
    return count;
}

/* Where */

static void test_the_base_is_never_written_to(void **state)
{
    static const char *const cases[] = {
        "models/base", "models/base/", "models/base/out", "models/base/sub/out", "models",
        "link",        "link/out",     "models/base/sub", "models/x/../base/y",  ".",
        "blobs",
    };
    const struct apply_options force = {.threads = 1, .force = true};
    AUTO_MODEL(base);
    AUTO_SUBJECT(subject);
    AUTO_APPLY_RESULT(result);

    (void)state;
    copy_dir(FIXTURES "/base/gpt2", "models/base");
    assert_int_equal(dir_make("models/base/sub"), 0);
    assert_int_equal(dir_make("models/x"), 0);
    assert_int_equal(dir_make("blobs"), 0);
    assert_int_equal(rename("models/base/" MODEL_FILE, "blobs/0123"), 0);
    assert_int_equal(symlink("../../blobs/0123", "models/base/" MODEL_FILE), 0);
    assert_int_equal(symlink("models/base", "link"), 0);
    assert_int_equal(model_open(&base, "models/base"), 0);
    fixture_open(&subject, "gpt2/step-040", &base);
    const struct apply_input input = {&subject.loaded, 1};
    for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
        assert_int_equal(materialize(&result, &input, 1, &base, cases[i], &force), E_INVALID);
        assert_non_null(strstr(error_message(), cases[i]));
        assert_int_equal(entry_count("models/base"), 3);
        assert_int_equal(entry_count("models"), 2);
        assert_int_equal(entry_count("."), 3);
    }
    assert_int_equal(materialize(&result, &input, 1, &base, "models/out", &defaults), 0);
    assert_int_equal(entry_count("models/out"), 2);
    assert_int_equal(entry_count("models/base"), 3);
    AUTO_BUF(left);
    AUTO_BUF(right);
    assert_int_equal(file_read(&left, "models/base/" MODEL_FILE, GIB), 0);
    assert_int_equal(file_read(&right, FIXTURES "/base/gpt2/" MODEL_FILE, GIB), 0);
    assert_true(bytes_equal(buf_bytes(&left), buf_bytes(&right)));
}

static void test_a_directory_with_something_in_it_is_replaced_by_force_only(void **state)
{
    const struct apply_options force = {.threads = 1, .force = true};
    AUTO_MODEL(base);
    AUTO_SUBJECT(subject);
    AUTO_APPLY_RESULT(result);

    (void)state;
    assert_int_equal(model_open(&base, FIXTURES "/base/gpt2"), 0);
    fixture_open(&subject, "gpt2/step-040", NULL);
    const struct apply_input input = {&subject.loaded, 1};
    put("out/mine", "x");
    assert_int_equal(materialize(&result, &input, 1, &base, "out", &defaults), E_EXISTS);
    assert_non_null(error_hint_text());
    assert_int_equal(entry_count("out"), 1);
    assert_int_equal(materialize(&result, &input, 1, &base, "out", &force), 0);
    assert_false(dir_has("out", "mine"));
    assert_true(dir_has("out", MODEL_FILE));
    assert_int_equal(materialize(&result, &input, 1, &base, "missing/out", &defaults), E_NOTFOUND);
    put("file", "x");
    assert_int_equal(materialize(&result, &input, 1, &base, "file", &force), E_EXISTS);
    assert_int_equal(dir_make("empty"), 0);
    assert_int_equal(materialize(&result, &input, 1, &base, "empty", &defaults), 0);
    assert_int_equal(entry_count("."), 3);
}

/* Whole or not at all */

struct scene {
    struct model base;
    struct subject subject;
};

static void scene_release(struct scene *scene)
{
    model_release(&scene->base);
    subject_release(&scene->subject);
}

#define AUTO_SCENE(name) __attribute__((cleanup(scene_release))) struct scene name = {0}

/* Two shards, replaced and added tensors, an index, other files: every way of writing. */
static void scene_make(struct scene *out)
{
    write_bare_bert("base", true);
    put("base/tokenizer.json", "{}");
    assert_int_equal(model_open(&out->base, "base"), 0);
    fixture_open(&out->subject, "bert/step-040", &out->base);
}

static int scene_run(const struct scene *scene, const struct apply_options *options)
{
    AUTO_APPLY_RESULT(result);
    const struct apply_input input = {&scene->subject.loaded, 1};

    return materialize(&result, &input, 1, &scene->base, "out", options);
}

static void assert_out(const struct scene *scene, bool there)
{
    AUTO_FREE(char, difference);
    const struct apply_input input = {&scene->subject.loaded, 1};

    assert_int_equal(entry_count("."), 1 + there);
    if (!there)
        return;
    assert_int_equal(materialize_verify(&difference, &input, 1, &scene->base, "out", &defaults), 0);
    assert_null(difference);
    assert_int_equal(tree_remove("out"), 0);
}

/* Not by /proc, which a bare root file system lacks. */
static size_t descriptor_count(void)
{
    size_t count = 0;

    for (int fd = 0; fd < 1024; fd++)
        count += fcntl(fd, F_GETFD) >= 0;
    return count;
}

static void call_fails(const struct scene *scene, unsigned threads)
{
    const struct apply_options options = {.threads = threads};
    size_t failed = 0;
    bool whole = false;

    for (int n = 0; n < 1000 && !whole; n++) {
        size_t descriptors = descriptor_count();
        call_after = n;
        int err = scene_run(scene, &options);
        whole = call_after >= 0;
        call_after = -1;
        assert_int_equal(descriptor_count(), descriptors);
        assert_int_equal(err, err ? E_IO : 0);
        failed += err < 0;
        /* Only the last step, a sync after the rename, may fail with the output in its place. */
        assert_out(scene, access("out", F_OK) == 0);
        assert_true(err == 0 || !whole);
    }
    assert_true(whole);
    assert_true(failed > 40);
}

static void test_whichever_call_fails_nothing_is_left(void **state)
{
    AUTO_SCENE(scene);

    (void)state;
    scene_make(&scene);
    call_fails(&scene, 1);
    call_fails(&scene, 3);
}

static void test_a_full_disk_is_said_with_a_hint(void **state)
{
    AUTO_SCENE(scene);
    bool said = false;

    (void)state;
    scene_make(&scene);
    for (int n = 0; n < 200 && !said; n++) {
        call_after = n;
        int err = scene_run(&scene, &defaults);
        call_after = -1;
        said = err == E_IO && error_hint_text() && strstr(error_hint_text(), "free some space") &&
               strstr(error_message(), "out/model-00002-of-00003.safetensors");
        assert_int_equal(tree_remove("out"), 0);
    }
    assert_true(said);
}

static void test_whichever_allocation_fails_nothing_is_left(void **state)
{
    AUTO_SCENE(scene);

    (void)state;
    scene_make(&scene);
    for (unsigned threads = 1; threads < 4; threads += 2) {
        const struct apply_options options = {.threads = threads, .report = true};
        int err, n = 0;
        do {
            memory_after = n++;
            err = scene_run(&scene, &options);
            memory_after = -1;
            assert_int_equal(err, err ? E_NOMEM : 0);
            assert_out(&scene, err == 0);
        } while (err < 0);
        assert_true(n > 50);
    }
}

/* Sets the interrupt flag the n-th time that it is told. */
struct interrupter {
    struct progress progress;
    int left;
    uint64_t done, total;
};

static void interrupter_update(struct progress *progress, uint64_t done, uint64_t total)
{
    struct interrupter *self = (struct interrupter *)progress;

    assert_true(done >= self->done && done <= total);
    assert_true(self->total == 0 || total == self->total);
    self->done = done;
    self->total = total;
    if (self->left-- == 0)
        interrupt_flag = 1;
}

static void test_an_interrupt_leaves_nothing(void **state)
{
    AUTO_SCENE(scene);
    int err, n = 0;

    (void)state;
    scene_make(&scene);
    do {
        struct interrupter interrupter = {{interrupter_update}, n++, 0, 0};
        const struct apply_options options = {.threads = 2, .progress = &interrupter.progress};
        err = scene_run(&scene, &options);
        interrupt_flag = 0;
        if (err < 0)
            assert_int_equal(err, E_INTERRUPTED);
        else
            assert_int_equal(interrupter.done, interrupter.total);
        assert_out(&scene, err == 0);
    } while (err < 0);
    assert_true(n > 5);
}

static void test_where_blocks_can_be_shared_only_what_changes_is_written(void **state)
{
    AUTO_SCENE(scene);
    AUTO_APPLY_RESULT(shared);
    AUTO_APPLY_RESULT(copied);
    uint64_t changed = 0;

    (void)state;
    scene_make(&scene);
    const struct apply_input input = {&scene.subject.loaded, 1};
    assert_int_equal(materialize(&copied, &input, 1, &scene.base, "out", &defaults), 0);
    assert_int_equal(copied.bytes_cloned, 0);
    assert_out(&scene, true);
    shares_blocks = true;
    assert_int_equal(materialize(&shared, &input, 1, &scene.base, "out", &defaults), 0);
    shares_blocks = false;
    assert_out(&scene, true);
    assert_int_equal(shared.bytes_cloned + shared.bytes_written, copied.bytes_written);
    /* Two weights [32, 32] and two biases; the ends of two shards, the added one, index, files. */
    changed = 2 * 32 * 32 * 4 + 2 * 32 * 4;
    assert_in_range(shared.bytes_written, changed, changed + 2 * 4096 + 8192);
}

static void test_a_base_that_shrinks_meanwhile_is_an_error(void **state)
{
    AUTO_SCENE(scene);
    struct stat status;

    (void)state;
    scene_make(&scene);
    assert_int_equal(stat("base/a.safetensors", &status), 0);
    assert_int_equal(truncate("base/a.safetensors", status.st_size - 4096), 0);
    assert_int_equal(scene_run(&scene, &defaults), E_CONFLICT);
    assert_non_null(strstr(error_message(), "base/a.safetensors: changed while it was read"));
    assert_out(&scene, false);
}

/* Memory */

#define WIDE 2048

/* A base of 4 sparse weights of 64 MiB, three of them targeted. */
static void write_sparse(void)
{
    static const char *const names[] = {"a.weight", "b.weight", "c.weight", "d.weight"};
    const uint64_t shape[] = {8192, WIDE};
    const uint64_t weight = 64 * MIB;
    struct tensor tensors[4];
    AUTO_BUF(header);

    for (size_t i = 0; i < 4; i++)
        tensors[i] = (struct tensor
        ){.name = names[i],
          .name_len = 8,
          .dtype = DTYPE_F32,
          .dims = 2,
          .shape = shape,
          .begin = i * weight,
          .end = (i + 1) * weight};
    assert_int_equal(safetensors_encode(&header, tensors, 4), 0);
    put_bytes("base/" MODEL_FILE, buf_bytes(&header));
    assert_int_equal(truncate("base/" MODEL_FILE, (off_t)(header.len + 4 * weight)), 0);
}

static void write_sparse_adapter(void)
{
    static const char *const names[] = {
        PEFT_PREFIX "a.vera_lambda_b", PEFT_PREFIX "a.vera_lambda_d",
        PEFT_PREFIX "b.vera_lambda_b", PEFT_PREFIX "b.vera_lambda_d",
        PEFT_PREFIX "c.vera_lambda_b", PEFT_PREFIX "c.vera_lambda_d"};
    static const uint64_t shapes[][1] = {{8192}, {2}};
    static float values[8192];
    struct tensor tensors[6];
    struct bytes data[6];

    for (size_t i = 0; i < 8192; i++)
        values[i] = 1;
    for (size_t i = 0; i < 6; i++) {
        tensors[i] = (struct tensor
        ){.name = names[i], .dtype = DTYPE_F32, .dims = 1, .shape = shapes[i % 2]};
        data[i] = (struct bytes){(const uint8_t *)values, (size_t)shapes[i % 2][0] * sizeof(float)};
    }
    write_tensors("adapter/" PEFT_MODEL, tensors, data, 6);
    put("adapter/" PEFT_CONFIG, "{\"peft_type\": \"VERA\", \"r\": 2, \"save_projection\": false}");
}

static void test_memory_does_not_grow_with_the_model(void **state)
{
    const struct apply_options two = {.threads = 2};
    AUTO_SCENE(scene);
    AUTO_APPLY_RESULT(result);
    AUTO_FREE(char, difference);

    (void)state;
    write_sparse();
    write_sparse_adapter();
    assert_int_equal(model_open(&scene.base, "base"), 0);
    subject_open(&scene.subject, "adapter", NULL);
    const struct apply_input input = {&scene.subject.loaded, 1};
    ptrdiff_t before = memory_live;
    memory_peak = before;
    assert_int_equal(materialize(&result, &input, 1, &scene.base, "out", &two), 0);
    assert_in_range(memory_peak - before, 8 * MIB, 24 * MIB); /* A, B: 80 KiB */
    memory_peak = before;
    assert_int_equal(materialize_verify(&difference, &input, 1, &scene.base, "out", &defaults), 0);
    assert_null(difference);
    assert_in_range(memory_peak - before, 4 * MIB, 24 * MIB);
    assert_int_equal(result.tensors_rewritten, 3);
    assert_true(result.bytes_written >= 192 * MIB);
}

int main(void)
{
#define SCRATCH_TEST(name) cmocka_unit_test_setup_teardown(name, scratch_make, scratch_remove)
    const struct CMUnitTest tests[] = {
        SCRATCH_TEST(test_the_base_is_never_written_to),
        SCRATCH_TEST(test_a_directory_with_something_in_it_is_replaced_by_force_only),
        SCRATCH_TEST(test_whichever_call_fails_nothing_is_left),
        SCRATCH_TEST(test_a_full_disk_is_said_with_a_hint),
        SCRATCH_TEST(test_whichever_allocation_fails_nothing_is_left),
        SCRATCH_TEST(test_an_interrupt_leaves_nothing),
        SCRATCH_TEST(test_where_blocks_can_be_shared_only_what_changes_is_written),
        SCRATCH_TEST(test_a_base_that_shrinks_meanwhile_is_an_error),
        SCRATCH_TEST(test_memory_does_not_grow_with_the_model),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
