/*
 * Is a directory exactly what materialize() would write? See materialize.h.
 *
 * The tensors first, in byte order of name, so that a difference is called by the tensor's name
 * wherever it lies; then what is around them: shards, headers, index, and the files that are taken
 * over. Nothing is merged into memory as a whole: both sides are compared block by block. Where a
 * pin is to be checked, every targeted weight is read to its end even after a difference, since a
 * wrong base is the better answer.
 */
#include "apply/materialize.h"

#include <stdlib.h>
#include <string.h>

#include "apply/output.h"
#include "format/limits.h"

#define COMPARE_BYTES ((size_t)1 << 20)

/* A tensor that the output must have. */
struct wanted {
    const char *name;
    size_t name_len;
    const struct model_tensor *base; /* NULL for an added one */
    const struct addition *added;
    size_t number; /* in rewrites->tensors; SIZE_MAX where it stays as it is */
};

struct verify {
    struct rewrites rewrites;
    struct stream stream;
    struct stream_scratch scratch;
    struct output output;
    struct model actual;
    struct wanted *wanted; /* in byte order of name */
    size_t wanted_count;
    struct buf left, right; /* blocks */
    char *difference;       /* the first one found */
};

static void verify_release(struct verify *verify)
{
    stream_scratch_release(&verify->scratch);
    stream_release(&verify->stream);
    output_release(&verify->output);
    rewrites_release(&verify->rewrites);
    model_release(&verify->actual);
    free(verify->wanted);
    buf_release(&verify->left);
    buf_release(&verify->right);
    free(verify->difference);
}

static int differs(struct verify *verify, const char *name)
{
    if (!verify->difference && !(verify->difference = bytes_dup(text_bytes(name))))
        return error_wrap(E_NOMEM, "%s", name);
    return 0;
}

/* Names may hold NULs. */
static int name_compare(const char *a, size_t a_len, const char *b, size_t b_len)
{
    int order = memcmp(a, b, a_len < b_len ? a_len : b_len);

    return order ? order : (a_len > b_len) - (a_len < b_len);
}

static int wanted_compare(const void *left, const void *right)
{
    const struct wanted *a = left, *b = right;

    return name_compare(a->name, a->name_len, b->name, b->name_len);
}

/* Two open files */

static int ranges_equal(
    bool *out,
    struct verify *verify,
    int left,
    uint64_t left_offset,
    const char *left_path,
    int right,
    uint64_t right_offset,
    const char *right_path,
    uint64_t len
)
{
    bool equal = true;
    int err;

    if ((err = buf_resize(&verify->left, COMPARE_BYTES)) < 0 ||
        (err = buf_resize(&verify->right, COMPARE_BYTES)) < 0)
        return err;
    for (uint64_t done = 0; equal && done < len;) {
        size_t n = len - done < COMPARE_BYTES ? (size_t)(len - done) : COMPARE_BYTES;
        err = file_read_at(left, verify->left.data, n, left_offset + done, left_path);
        if (err < 0)
            return err;
        err = file_read_at(right, verify->right.data, n, right_offset + done, right_path);
        if (err < 0 || (err = interrupt_check()) < 0)
            return err;
        equal = memcmp(verify->left.data, verify->right.data, n) == 0;
        done += n;
    }
    *out = equal;
    return 0;
}

/* Tensors */

/* A tensor of the directory that is compared with blocks as they come. */
struct comparison {
    struct verify *verify;
    int fd;
    uint64_t begin; /* in the file */
    const char *path;
    bool equal;
};

static int block_compare(void *context, size_t number, struct bytes block, uint64_t offset)
{
    struct comparison *comparison = context;
    struct buf *data = &comparison->verify->right;

    (void)number;
    for (size_t done = 0; comparison->equal && done < block.len;) {
        size_t n = block.len - done < COMPARE_BYTES ? block.len - done : COMPARE_BYTES;
        int err = buf_resize(data, n);
        if (err < 0)
            return err;
        uint64_t at = comparison->begin + offset + done;
        if ((err = file_read_at(comparison->fd, data->data, n, at, comparison->path)) < 0)
            return err;
        comparison->equal = memcmp(block.data + done, data->data, n) == 0;
        done += n;
    }
    return 0;
}

static bool shapes_equal(const struct tensor *a, const struct tensor *b)
{
    return a->dtype == b->dtype && a->dims == b->dims &&
           (a->dims == 0 || memcmp(a->shape, b->shape, a->dims * sizeof(*a->shape)) == 0);
}

static uint64_t tensor_begin(const struct model *model, const struct model_tensor *tensor)
{
    return model->shards[tensor->shard].table.header_bytes + tensor->tensor->begin;
}

/* The values of a tensor whose name, dtype and shape are right. */
static int values_compare(
    struct verify *verify, const struct wanted *wanted, const struct model_tensor *actual
)
{
    const struct model *base = verify->rewrites.model;
    const char *path = verify->actual.shards[actual->shard].path;
    uint64_t begin = tensor_begin(&verify->actual, actual);
    struct comparison comparison = {verify, -1, begin, path, true};
    AUTO_FD(actual_owner);
    AUTO_FD(base_owner);
    int from = -1, err;

    err = model_shard_open(&comparison.fd, &actual_owner, &verify->actual, actual->shard);
    if (err < 0)
        return err;
    if (wanted->added) {
        err = block_compare(&comparison, SIZE_MAX, wanted->added->data, 0);
    } else {
        if ((err = model_shard_open(&from, &base_owner, base, wanted->base->shard)) < 0)
            return err;
        uint64_t bytes = tensor_bytes(wanted->base->tensor);
        if (wanted->number != SIZE_MAX)
            err = stream_tensors(
                &verify->stream, &verify->scratch, wanted->number, 1, from, block_compare,
                &comparison
            );
        else
            err = ranges_equal(
                &comparison.equal, verify, from, tensor_begin(base, wanted->base),
                base->shards[wanted->base->shard].path, comparison.fd, begin, path, bytes
            );
        if (wanted->number == SIZE_MAX)
            stream_advance(&verify->stream, bytes);
    }
    return err < 0 || comparison.equal ? err : differs(verify, wanted->name);
}

/* Nobody asks for its bytes any more, but its pin counts. */
static int pin_only(struct verify *verify, const struct wanted *wanted)
{
    AUTO_FD(owner);
    int fd = -1;

    if (wanted->number == SIZE_MAX)
        return 0;
    int err = model_shard_open(&fd, &owner, verify->rewrites.model, wanted->base->shard);
    return err < 0 ? err
                   : stream_tensors(
                         &verify->stream, &verify->scratch, wanted->number, 1, fd, NULL, NULL
                     );
}

static int tensor_compare(
    struct verify *verify, const struct wanted *wanted, const struct model_tensor *actual
)
{
    const struct tensor *shape = wanted->added ? wanted->added->tensor : wanted->base->tensor;

    if (!actual || !shapes_equal(shape, actual->tensor)) {
        int err = differs(verify, wanted->name);
        if (err < 0)
            return err;
    }
    return verify->difference ? pin_only(verify, wanted) : values_compare(verify, wanted, actual);
}

/* Both lists are in byte order of name. */
static int tensors_compare(struct verify *verify)
{
    const struct model *actual = &verify->actual;
    size_t at = 0;
    int err = 0;

    for (size_t i = 0; err == 0 && i < verify->wanted_count; i++) {
        const struct wanted *wanted = &verify->wanted[i];
        int order = 1;
        while (err == 0 && at < actual->tensor_count) {
            const struct tensor *tensor = actual->tensors[at].tensor;
            order = name_compare(tensor->name, tensor->name_len, wanted->name, wanted->name_len);
            if (order >= 0)
                break;
            err = differs(verify, tensor->name);
            at++;
        }
        bool found = at < actual->tensor_count && order == 0;
        if (err == 0)
            err = tensor_compare(verify, wanted, found ? &actual->tensors[at] : NULL);
        at += found;
    }
    if (err == 0 && at < actual->tensor_count)
        err = differs(verify, actual->tensors[at].tensor->name);
    return err;
}

static size_t rewrite_find(const struct rewrites *all, const struct model_tensor *tensor)
{
    size_t begin = 0, end = all->count;

    while (begin < end) {
        size_t middle = begin + (end - begin) / 2;
        const struct model_tensor *at = &all->tensors[middle].base;
        if (at->tensor == tensor->tensor)
            return middle;
        if (at->shard < tensor->shard ||
            (at->shard == tensor->shard && at->tensor < tensor->tensor))
            begin = middle + 1;
        else
            end = middle;
    }
    return SIZE_MAX;
}

static int wanted_make(struct verify *verify)
{
    const struct rewrites *all = &verify->rewrites;
    const struct model *base = all->model;
    size_t n = 0;

    verify->wanted_count = base->tensor_count + all->added_count;
    if (!(verify->wanted = array_new(verify->wanted_count, sizeof(*verify->wanted))))
        return error_wrap(E_NOMEM, "verify");
    for (size_t i = 0; i < base->tensor_count; i++) {
        const struct model_tensor *tensor = &base->tensors[i];
        verify->wanted[n++] = (struct wanted
        ){tensor->tensor->name, tensor->tensor->name_len, tensor, NULL, rewrite_find(all, tensor)};
    }
    for (size_t i = 0; i < all->added_count; i++) {
        const struct addition *added = &all->added[i];
        verify->wanted[n++] = (struct wanted
        ){added->name, strlen(added->name), NULL, added, SIZE_MAX};
    }
    qsort(verify->wanted, n, sizeof(*verify->wanted), wanted_compare);
    return 0;
}

/* What is around the tensors */

static const struct buf *header_wanted(const struct verify *verify, size_t number)
{
    const struct model *base = verify->rewrites.model;

    return number < base->shard_count ? &base->shards[number].header : &verify->output.header;
}

static size_t shard_find(const struct model *model, const char *file)
{
    size_t i = 0;

    while (i < model->shard_count && strcmp(model->shards[i].file, file) != 0)
        i++;
    return i;
}

static int shards_compare(struct verify *verify)
{
    const struct model *actual = &verify->actual;
    const struct output *output = &verify->output;
    int err = 0;

    for (size_t i = 0; err == 0 && i < output->shard_count; i++) {
        size_t at = shard_find(actual, output->shards[i]);
        if (at == actual->shard_count ||
            !bytes_equal(
                buf_bytes(header_wanted(verify, i)), buf_bytes(&actual->shards[at].header)
            ))
            err = differs(verify, output->shards[i]);
    }
    if (err == 0 && !bytes_equal(buf_bytes(&output->index), buf_bytes(&actual->index)))
        err = differs(verify, MODEL_INDEX);
    return err;
}

static int file_compare(struct verify *verify, const char *dir, const char *name)
{
    AUTO_FREE(char, left_path);
    AUTO_FREE(char, right_path);
    AUTO_FD(left);
    AUTO_FD(right);
    uint64_t left_bytes = 0, right_bytes = 0;
    bool equal = false;
    int err;

    if ((err = path_join(&left_path, verify->rewrites.model->dir, name)) < 0 ||
        (err = path_join(&right_path, dir, name)) < 0 ||
        (err = file_open(&left, &left_bytes, left_path)) < 0)
        return err;
    err = file_open(&right, &right_bytes, right_path);
    if (err == E_NOTFOUND || err == E_INVALID)
        return differs(verify, name);
    if (err == 0 && left_bytes == right_bytes)
        err = ranges_equal(&equal, verify, left, 0, left_path, right, 0, right_path, left_bytes);
    return err < 0 || equal ? err : differs(verify, name);
}

/* Transformers would load it onto the merged weights. */
static int adapter_compare(struct verify *verify, const char *dir)
{
    AUTO_FREE(char, path);
    AUTO_FD(fd);
    uint64_t bytes;

    int err = path_join(&path, dir, PEFT_CONFIG);
    if (err < 0)
        return err;
    err = file_open(&fd, &bytes, path);
    if (err == E_NOTFOUND || err == E_INVALID)
        return 0;
    return err < 0 ? err : differs(verify, PEFT_CONFIG);
}

/* Other files that the output would not have are no difference. */
static int files_compare(struct verify *verify, const char *dir)
{
    const struct model_files *files = &verify->output.files;
    int err = 0;

    for (size_t i = 0; err == 0 && !verify->difference && i < files->count; i++)
        err = file_compare(verify, dir, files->paths[i]);
    return err < 0 ? err : adapter_compare(verify, dir);
}

static int verify_run(struct verify *verify, const char *dir, const struct apply_options *options)
{
    const struct model *base = verify->rewrites.model;
    uint64_t total = 0;
    int err;

    for (size_t i = 0; i < base->tensor_count; i++)
        total += tensor_bytes(base->tensors[i].tensor);
    if ((err = output_plan(&verify->output, &verify->rewrites)) < 0 ||
        (err = stream_init(&verify->stream, &verify->rewrites, options, total)) < 0)
        return err;
    verify->scratch.threads = verify->stream.threads;
    if ((err = model_open(&verify->actual, dir)) < 0 || (err = wanted_make(verify)) < 0 ||
        (err = tensors_compare(verify)) < 0 || (err = stream_check_pins(&verify->stream)) < 0 ||
        (err = shards_compare(verify)) < 0)
        return err;
    return files_compare(verify, dir);
}

int materialize_verify(
    char **first_difference,
    const struct apply_input *inputs,
    size_t input_count,
    const struct model *model,
    const char *dir,
    const struct apply_options *options
)
{
    __attribute__((cleanup(verify_release))) struct verify verify = {.stream = STREAM_EMPTY};
    int err;

    if ((err = rewrites_init(&verify.rewrites, inputs, input_count, model)) < 0)
        return err;
    if ((err = verify_run(&verify, dir, options)) < 0)
        return model_explain(err, model);
    if ((err = model_check_unchanged(model)) < 0)
        return err;
    *first_difference = verify.difference;
    verify.difference = NULL;
    return 0;
}
