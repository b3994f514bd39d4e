/*
 * What the weights of a running model are without an adapter. See live_weights.h.
 *
 * With a base model its files are mapped and every part in memory is compared with them: an adapter
 * that is put onto other weights than these, or onto a slice of another place, would be nothing but
 * noise, and nobody would see it. Without one, what is in memory now is copied.
 */
#include <assert.h>
#include <stdlib.h>
#include <string.h>

#include "apply/live_weights.h"
#include "format/interrupt.h"
#include "format/limits.h"

#define TABLE_NAME "the live model"

static int tensor_compare(const void *a, const void *b)
{
    return strcmp(((const struct live_tensor *)a)->name, ((const struct live_tensor *)b)->name);
}

/* The tensors as a model */

/* Elements that lie one behind the other on a device are a row. */
static int
resident_read(uint8_t *data, const struct live_tensor *tensor, uint64_t offset, size_t len)
{
    const struct live_part *part = tensor->whole_resident;
    enum dtype dtype = tensor->tensor.dtype;
    size_t element = dtype_bits(dtype) / 8;
    int err = 0;

    assert(offset % element == 0 && len % element == 0);
    for (size_t at = 0; err == 0 && at < len; at += LIVE_BLOCK_BYTES) {
        size_t most = len - at < LIVE_BLOCK_BYTES ? len - at : LIVE_BLOCK_BYTES;
        struct backend_place place = {.data = part->resident + offset + at, .on_device = true};
        const uint8_t *block;
        err = live_device_fetch(&block, part->device, place, dtype, 1, most / element);
        if (err == 0)
            memcpy(data + at, block, most);
    }
    return err;
}

static int table_read(
    void *data,
    const struct model *model,
    const struct model_tensor *place,
    uint64_t offset,
    size_t len
)
{
    const struct live_weights *weights = model->reading;
    const struct live_tensor *tensor = &weights->tensors[place->shard];

    if (tensor->whole_resident)
        return resident_read(data, tensor, offset, len);
    if (!tensor->whole.data)
        return error_set(
            E_UNSUPPORTED, "%s: this process has no more than a part of it", tensor->name
        );
    memcpy(data, tensor->whole.data + offset, len);
    return 0;
}

static bool ends_with(const char *name, const char *end)
{
    size_t len = strlen(name), n = strlen(end);

    return len >= n && strcmp(name + len - n, end) == 0;
}

/* Sorts the tensors, which stay where they are from here on. */
static int table_make(struct live_weights *weights)
{
    struct model *table = &weights->table;
    bool output = false;

    qsort(weights->tensors, weights->count, sizeof(*weights->tensors), tensor_compare);
    if (!(table->dir = bytes_dup(text_bytes(TABLE_NAME))) ||
        !(table->tensors = array_new(weights->count, sizeof(*table->tensors))))
        return error_wrap(E_NOMEM, TABLE_NAME);
    for (size_t i = 0; i < weights->count; i++) {
        struct live_tensor *tensor = &weights->tensors[i];
        tensor->tensor.name = tensor->name;
        tensor->tensor.name_len = strlen(tensor->name);
        tensor->tensor.shape = tensor->shape;
        tensor->tensor.end = tensor_values(&tensor->tensor) * dtype_bits(tensor->tensor.dtype) / 8;
        table->tensors[i] = (struct model_tensor){&tensor->tensor, i, tensor->lies};
        output = output || ends_with(tensor->name, "lm_head.weight");
    }
    table->tensor_count = weights->count;
    table->tied_embeddings = !output;
    table->read = table_read;
    table->reading = weights;
    return 0;
}

/* Two parts that begin at one place, or plain ones that meet. */

#define HOST_MEMORY (-1)

struct range {
    int memory;           /* the device's number; HOST_MEMORY */
    uintptr_t begin, end; /* end: of what must not be anyone else's */
    const char *name;
};

static int range_compare(const void *a, const void *b)
{
    const struct range *x = a, *y = b;

    if (x->memory != y->memory)
        return (x->memory > y->memory) - (x->memory < y->memory);
    return (x->begin > y->begin) - (x->begin < y->begin);
}

/* Parts of a fused matrix lie between each other's rows, so of those only the beginnings are
   compared. */
static struct range range_of(const struct live_tensor *tensor, const struct live_part *part)
{
    size_t element = dtype_bits(tensor->tensor.dtype) / 8;
    size_t row = (size_t)part->columns * element;
    bool whole = live_part_is_plain(part, element) && part->row_stride == row;
    uintptr_t begin = (uintptr_t)part->data;

    return (struct range
    ){part->device ? part->device->number : HOST_MEMORY, begin,
      begin + (whole ? (size_t)part->rows * row : element), tensor->name};
}

static int overlaps_check(const struct live_weights *weights)
{
    AUTO_FREE(struct range, ranges);
    size_t count = 0;
    int err = 0;

    for (size_t i = 0; i < weights->count; i++)
        count += weights->tensors[i].part_count;
    if (!(ranges = array_new(count, sizeof(*ranges))))
        return error_wrap(E_NOMEM, TABLE_NAME);
    count = 0;
    for (size_t i = 0; i < weights->count; i++) {
        const struct live_tensor *tensor = &weights->tensors[i];
        for (size_t k = 0; k < tensor->part_count; k++)
            ranges[count++] = range_of(tensor, &tensor->parts[k]);
    }
    qsort(ranges, count, sizeof(*ranges), range_compare);
    for (size_t i = 1; i < count; i++) {
        if (ranges[i].memory != ranges[i - 1].memory || ranges[i].begin >= ranges[i - 1].end)
            continue;
        if (err == 0)
            err = error_hint(
                error_set(E_INVALID, "weights lie on each other"),
                "register a tensor that two names share under the one that its checkpoint has"
            );
        err = error_detail(err, "%s and %s", ranges[i - 1].name, ranges[i].name);
    }
    return err;
}

/* The base model */

/* How names there come from names here. */
struct renaming {
    const char *added; /* before them, with its dot; `added_len` bytes */
    size_t added_len;
    const char *removed; /* likewise */
    size_t removed_len;
    size_t found;
};

/* So many first components are tried at most, since a base may have as many as tensors. */
#define RENAMINGS_MAX 256

#define RENAMING_NONE ((struct renaming){"", 0, "", 0, 0})

/* No tensor where the base has none. */
static int base_find(
    struct model_tensor *out,
    struct buf *scratch,
    const struct model *base,
    const struct renaming *renaming,
    const char *name
)
{
    int err;

    *out = (struct model_tensor){0};
    if (strncmp(name, renaming->removed, renaming->removed_len) != 0)
        return 0;
    scratch->len = 0;
    if ((err = buf_append(scratch, renaming->added, renaming->added_len)) < 0 ||
        (err = buf_append_text(scratch, name + renaming->removed_len)) < 0)
        return err;
    if (!buf_text(scratch))
        return error_wrap(E_NOMEM, TABLE_NAME);
    if (!model_find(out, base, (const char *)scratch->data))
        *out = (struct model_tensor){0};
    return 0;
}

static int renaming_offer(
    struct renaming *best,
    struct renaming offered,
    struct buf *scratch,
    const struct live_weights *weights,
    const struct model *base
)
{
    struct model_tensor found;

    for (size_t i = 0; i < weights->count; i++) {
        int err = base_find(&found, scratch, base, &offered, weights->tensors[i].name);
        if (err < 0)
            return err;
        offered.found += found.tensor != NULL;
    }
    if (offered.found > best->found)
        *best = offered;
    return 0;
}

/* As they are; or, where that finds more of them, with a first component less or more. */
static int renaming_choose(
    struct renaming *best,
    struct buf *scratch,
    const struct live_weights *weights,
    const struct model *base
)
{
    const char *last = "";
    size_t last_len = 0, tried = 0;

    int err = renaming_offer(best, *best, scratch, weights, base);
    for (size_t i = 0; i < weights->count + base->tensor_count; i++) {
        if (err < 0 || best->found == weights->count || tried == RENAMINGS_MAX)
            break;
        bool ours = i < weights->count;
        const char *name = ours ? weights->tensors[i].name
                                : base->tensors[i - weights->count].tensor->name;
        const char *dot = strchr(name, '.');
        size_t len = dot ? (size_t)(dot + 1 - name) : 0;
        if (!len || (len == last_len && strncmp(name, last, len) == 0))
            continue;
        struct renaming offered = RENAMING_NONE;
        *(ours ? &offered.removed : &offered.added) = name;
        *(ours ? &offered.removed_len : &offered.added_len) = len;
        err = renaming_offer(best, offered, scratch, weights, base);
        last = name;
        last_len = len;
        tried++;
    }
    if (err < 0 || best->found)
        return err;
    err = error_set(E_INVALID, "%s: has none of the live model's tensors", base->dir);
    return error_hint(err, "give the model that was loaded, and its tensors' own names");
}

static int map_make(struct live_map *map, const struct shard *shard)
{
    uint64_t bytes;
    int err;

    map->fd = -1;
    if (!(map->path = bytes_dup(text_bytes(shard->path))))
        return error_wrap(E_NOMEM, "%s", shard->path);
    if ((err = file_open(&map->fd, &bytes, shard->path)) < 0 ||
        (err = fd_stamp(&map->stamp, map->fd, shard->path)) < 0)
        return err;
    if (!file_stamps_equal(&map->stamp, &shard->stamp))
        return error_set(E_CONFLICT, "%s: changed while it was read", shard->path);
    return file_map(&map->data, map->fd, shard->bytes, shard->path);
}

static int maps_make(struct live_weights *weights, const struct model *base)
{
    int err = 0;

    if (!(weights->maps = array_new(base->shard_count, sizeof(*weights->maps))))
        return error_wrap(E_NOMEM, "%s", base->dir);
    for (size_t i = 0; err == 0 && i < base->shard_count; i++)
        err = map_make(&weights->maps[weights->map_count++], &base->shards[i]);
    return err;
}

/* Links to it, and its name, may change; what it holds not. */
static int map_check(const struct live_map *map)
{
    struct file_stamp now;

    int err = fd_stamp(&now, map->fd, map->path);
    if (err < 0)
        return err;
    if (now.bytes == map->stamp.bytes && now.modified == map->stamp.modified)
        return 0;
    err = error_set(E_CONFLICT, "%s: was written to while the model lives", map->path);
    return error_hint(
        err, "the weights stay as they are; replace such files by renaming, which is safe"
    );
}

int live_weights_unchanged(const struct live_weights *weights)
{
    int err = 0;

    for (size_t i = 0; err == 0 && i < weights->map_count; i++)
        err = map_check(&weights->maps[i]);
    return err;
}

static bool part_equals(const struct live_part *part, size_t element)
{
    for (uint64_t i = 0; i < part->rows; i++) {
        const uint8_t *live = part->data + i * part->row_stride;
        const uint8_t *base = part->pristine + i * part->pristine_stride;
        if (live_part_is_plain(part, element)) {
            if (memcmp(live, base, (size_t)part->columns * element) != 0)
                return false;
            continue;
        }
        for (uint64_t k = 0; k < part->columns; k++) {
            if (memcmp(live + k * part->column_stride, base + k * element, element) != 0)
                return false;
        }
    }
    return true;
}

/* It comes here to be compared, block by block. */
static int device_part_equals(bool *out, const struct live_part *part, enum dtype dtype)
{
    size_t row = (size_t)part->columns * (dtype_bits(dtype) / 8);
    uint64_t step = live_device_rows(part->rows, row);
    int err = 0;

    *out = true;
    for (uint64_t at = 0; *out && at < part->rows; at += step) {
        uint64_t rows = part->rows - at < step ? part->rows - at : step;
        const uint8_t *live;
        err = live_device_fetch(
            &live, part->device, live_part_place(part, dtype, at), dtype, rows, part->columns
        );
        if (err < 0)
            return err;
        for (uint64_t i = 0; *out && i < rows; i++)
            *out = memcmp(live + i * row, part->pristine + (at + i) * part->pristine_stride, row) ==
                   0;
    }
    return 0;
}

/* *why: what is wrong with a tensor that the base has too; NULL: it is the base's. */
static int tensor_take(const char **why, struct live_tensor *tensor, const struct tensor *base)
{
    const struct tensor *ours = &tensor->tensor;
    size_t element = dtype_bits(ours->dtype) / 8;
    bool shape = ours->dims == base->dims && memcmp(ours->shape, base->shape, ours->dims * 8) == 0;

    *why = !shape                       ? "has another shape there"
           : ours->dtype != base->dtype ? "has another dtype there"
                                        : NULL;
    if (*why)
        return 0;
    for (size_t i = 0; i < tensor->part_count; i++) {
        struct live_part *part = &tensor->parts[i];
        part->pristine_stride = (size_t)tensor->shape[1] * element;
        part->pristine = tensor->whole.data + part->row * part->pristine_stride +
                         part->column * element;
        bool equal = true;
        int err = 0;
        if (part->device)
            err = device_part_equals(&equal, part, ours->dtype);
        else
            equal = part_equals(part, element);
        if (err < 0)
            return error_wrap(err, "%s", tensor->name);
        if (!equal) {
            *why = "has other values in memory";
            return 0;
        }
    }
    return 0;
}

static int base_take(struct live_weights *weights, const struct model *base)
{
    struct renaming renaming = RENAMING_NONE;
    AUTO_BUF(scratch);
    int err = renaming_choose(&renaming, &scratch, weights, base);

    if (err < 0 || (err = maps_make(weights, base)) < 0)
        return err;
    for (size_t i = 0; i < weights->count; i++) {
        struct live_tensor *tensor = &weights->tensors[i];
        struct model_tensor found;
        int failed = base_find(&found, &scratch, base, &renaming, tensor->name);
        if (failed < 0 || (failed = interrupt_check()) < 0)
            return failed;
        if (!found.tensor)
            continue;
        const struct shard *shard = &base->shards[found.shard];
        tensor->whole = (struct bytes
        ){weights->maps[found.shard].data.data + shard->table.header_bytes + found.tensor->begin,
          (size_t)tensor_bytes(found.tensor)};
        weights->from_base++;
        const char *why;
        if ((failed = tensor_take(&why, tensor, found.tensor)) < 0)
            return failed;
        if (!why)
            continue;
        if (err == 0) {
            err = error_set(E_CONFLICT, "%s: is not the model that is in memory", base->dir);
            err = error_hint(
                err,
                "give the checkpoint that was loaded, and as it was loaded; without one, a copy "
                "of the weights is kept"
            );
        }
        err = error_detail(err, "%s %s", tensor->name, why);
    }
    return err;
}

/* Copies */

static int part_keep(struct live_part *part, size_t element)
{
    size_t row = (size_t)part->columns * element, bytes;

    if (__builtin_mul_overflow((size_t)part->rows, row, &bytes) ||
        buf_resize(&part->kept, bytes) < 0)
        return error_set(E_NOMEM, "out of memory for a copy of the weights");
    for (uint64_t i = 0; i < part->rows; i++) {
        const uint8_t *from = part->data + i * part->row_stride;
        uint8_t *to = part->kept.data + i * row;
        if (live_part_is_plain(part, element)) {
            memcpy(to, from, row);
            continue;
        }
        for (uint64_t k = 0; k < part->columns; k++)
            memcpy(to + k * element, from + k * part->column_stride, element);
    }
    part->pristine = part->kept.data;
    part->pristine_stride = row;
    return 0;
}

/* Within the memory of its device. */
static int device_part_keep(struct live_part *part, enum dtype dtype)
{
    struct backend_place live = live_part_place(part, dtype, 0);
    struct backend_place to = {.on_device = true};
    size_t bytes;
    int err;

    if (__builtin_mul_overflow(
            (size_t)part->rows, (size_t)part->columns * (dtype_bits(dtype) / 8), &bytes
        ))
        return error_set(E_NOMEM, "out of memory for a copy of the weights");
    if ((err = device_memory_new(&part->resident, &part->device->device, bytes)) < 0)
        return err;
    to.data = part->resident;
    const struct backend_job job = live_copy_job(to, live, dtype, part->rows, part->columns);
    return lane_merge(&part->device->lane, &job, 1);
}

static int tensor_keep(struct live_tensor *tensor)
{
    size_t element = dtype_bits(tensor->tensor.dtype) / 8;

    for (size_t i = 0; i < tensor->part_count; i++) {
        struct live_part *part = &tensor->parts[i];
        int err = interrupt_check();
        if (err == 0)
            err = part->device ? device_part_keep(part, tensor->tensor.dtype)
                               : part_keep(part, element);
        if (err < 0)
            return error_wrap(err, "%s", tensor->name);
        if (part->rows != tensor->shape[0] || part->columns != tensor->shape[1])
            continue;
        if (part->device)
            tensor->whole_resident = part;
        else
            tensor->whole = buf_bytes(&part->kept);
    }
    return 0;
}

/* What config.json says of the layers, and the base's name for errors. */
static void base_describe(struct model *table, struct model *base)
{
    table->layers = base->layers;
    table->quantised = base->quantised;
    table->tied_embeddings = base->tied_embeddings;
    char *dir = table->dir;
    table->dir = base->dir;
    base->dir = dir;
}

int live_weights_seal(struct live_weights *weights, const char *base_dir)
{
    AUTO_MODEL(base);
    int err;

    if (weights->sealed)
        return error_set(E_INVALID, "the model is sealed already");
    if (weights->count == 0)
        return error_set(E_INVALID, "no weights were registered");
    weights->sealed = true; /* what fails from here on is of no more use */
    if ((err = table_make(weights)) < 0 || (err = overlaps_check(weights)) < 0)
        return err;
    for (size_t i = 0; i < weights->devices.count; i++) {
        if ((err = live_device_follow(weights->devices.all[i])) < 0)
            return err;
    }
    if (base_dir) {
        if ((err = model_open(&base, base_dir)) < 0 || (err = base_take(weights, &base)) < 0)
            return err;
        base_describe(&weights->table, &base);
    }
    for (size_t i = 0; err == 0 && i < weights->count; i++) {
        if (!weights->tensors[i].whole.data)
            err = tensor_keep(&weights->tensors[i]);
    }
    return err;
}
