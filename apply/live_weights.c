/* Where the weights of a running model lie. See live_weights.h; what they are like without an
   adapter is in live_pristine.c. */
#include "apply/live_weights.h"

#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

#include "format/limits.h"
#include "format/text.h"

/* Handles of CUDA's that stand for streams: the default one, and each thread's own. */
#define STREAM_LEGACY     1
#define STREAM_PER_THREAD 2

static int place_error(const struct live_place *place, const char *why)
{
    char name[TEXT_QUOTE_SIZE];

    text_quote(name, text_bytes(place->name ? place->name : ""));
    return error_set(E_INVALID, "'%s': %s", name, why);
}

/* What a part is of its tensor, with its ends set. */
static int part_cut(struct live_part *out, const struct live_place *place)
{
    uint64_t columns = place->dims == 2 ? place->shape[1] : 1;

    if (place->row >= place->shape[0] || place->column >= columns)
        return place_error(place, "the part begins outside the tensor");
    out->row = place->row;
    out->rows = place->rows ? place->rows : place->shape[0] - place->row;
    out->column = place->column;
    out->columns = place->columns ? place->columns : columns - place->column;
    if (out->rows > place->shape[0] - place->row || out->columns > columns - place->column)
        return place_error(place, "the part ends outside the tensor");
    return 0;
}

/* Does a step pass over all of `count` elements that lie `stride` apart? */
static bool passes(uint64_t step, uint64_t count, uint64_t stride)
{
    return step > (count - 1) * stride;
}

/* Strides in bytes, such that no element lies on another one. */
static int part_stride(struct live_part *part, const struct live_place *place)
{
    uint64_t size = dtype_bits(place->dtype) / 8, rows = part->rows, columns = part->columns;
    uint64_t row = (uint64_t)place->row_stride, column = (uint64_t)place->column_stride;
    const uint64_t most = UINT64_MAX >> 3;

    if (place->row_stride < 0 || place->column_stride < 0)
        return place_error(place, "a stride is negative");
    if (columns == 1 || (!row && !column))
        column = 1;
    if (rows == 1 || (!place->row_stride && !place->column_stride))
        row = columns * column;
    if (row > most / rows / size || column > most / columns / size)
        return place_error(place, "a stride is too large");
    if (!row || !column || (!passes(row, columns, column) && !passes(column, rows, row)))
        return place_error(place, "with these strides elements lie on each other");
    part->row_stride = (size_t)(row * size);
    part->column_stride = (size_t)(column * size);
    uint64_t end = (rows - 1) * part->row_stride + columns * part->column_stride;
    if ((uintptr_t)place->data > UINTPTR_MAX - end)
        return place_error(place, "the part ends behind the end of memory");
    return 0;
}

static int place_check(const struct live_place *place)
{
    if (!place->name || !place->name[0] || strlen(place->name) > LIMIT_PATH ||
        !text_is_plain(text_bytes(place->name)))
        return place_error(place, "is no tensor's name");
    if (!dtype_is_applicable(place->dtype))
        return error_set(
            E_UNSUPPORTED, "'%s': weights are F32, BF16 or F16 where they are merged", place->name
        );
    if (place->dims < 1 || place->dims > 2)
        return place_error(place, "has not one or two dimensions");
    for (unsigned i = 0; i < place->dims; i++) {
        if (place->shape[i] == 0 || place->shape[i] > LIMIT_FEATURES)
            return place_error(place, "a dimension is 0 or above 2^31");
    }
    if ((uintptr_t)place->data % (dtype_bits(place->dtype) / 8))
        return place_error(place, "the pointer is not aligned");
    if (place->on_device && place->device < 0)
        return place_error(place, "the device's number is negative");
    if (place->on_device && (uintptr_t)place->stream == STREAM_PER_THREAD)
        return place_error(place, "cudaStreamPerThread is another stream in each thread");
    return 0;
}

/* The part's device, which must have all of its memory. */
static int part_find_device(
    struct live_part *part, struct live_weights *weights, const struct live_place *place
)
{
    size_t element = dtype_bits(place->dtype) / 8;
    size_t bytes = (size_t)(part->rows - 1) * part->row_stride +
                   (size_t)(part->columns - 1) * part->column_stride + element;
    bool legacy = (uintptr_t)place->stream == STREAM_LEGACY;
    struct live_device *device;
    int err;

    if ((err = live_device_of(&device, &weights->devices, place->device)) < 0)
        return error_wrap(err, "'%s' lies in a GPU's memory", place->name);
    if ((err = device_memory_check(&device->device, place->data, bytes)) < 0 ||
        (err = live_device_use(device, legacy ? NULL : place->stream)) < 0)
        return error_wrap(err, "'%s'", place->name);
    part->device = device;
    return 0;
}

static struct live_tensor *tensor_named(struct live_weights *weights, const char *name)
{
    /* Names come in the order of the model, so that parts of one mostly follow each other. */
    for (size_t i = weights->count; i-- > 0;) {
        if (strcmp(weights->tensors[i].name, name) == 0)
            return &weights->tensors[i];
    }
    return NULL;
}

static int
tensor_new(struct live_tensor **out, struct live_weights *weights, const struct live_place *place)
{
    int err;

    if (weights->count >= LIMIT_TENSORS)
        return error_set(E_LIMIT, "more than %" PRIu64 " tensors", LIMIT_TENSORS);
    err = array_grow(
        &weights->tensors, &weights->room, weights->count + 1, sizeof(*weights->tensors)
    );
    if (err < 0)
        return err;
    struct live_tensor *tensor = &weights->tensors[weights->count];
    *tensor = (struct live_tensor){.lies = place->lies, .shape = {place->shape[0], 1}};
    if (place->dims == 2)
        tensor->shape[1] = place->shape[1];
    tensor->tensor.dtype = place->dtype;
    tensor->tensor.dims = place->dims;
    if (!(tensor->name = bytes_dup(text_bytes(place->name))))
        return error_wrap(E_NOMEM, "%s", place->name);
    weights->count++;
    *out = tensor;
    return 0;
}

static bool is_same(const struct live_tensor *tensor, const struct live_place *place)
{
    return tensor->tensor.dtype == place->dtype && tensor->tensor.dims == place->dims &&
           tensor->lies == place->lies && tensor->shape[0] == place->shape[0] &&
           (place->dims == 1 || tensor->shape[1] == place->shape[1]);
}

int live_weights_add(struct live_weights *weights, const struct live_place *place)
{
    struct live_part part = {.data = place->data};
    int err;

    if (weights->sealed)
        return place_error(place, "the model is sealed: nothing can be added to it");
    if ((err = place_check(place)) < 0 || (err = part_cut(&part, place)) < 0 ||
        (place->data && (err = part_stride(&part, place)) < 0))
        return err;
    struct live_tensor *tensor = tensor_named(weights, place->name);
    if (tensor && !is_same(tensor, place))
        return place_error(place, "was registered with another shape, dtype or orientation");
    if (place->data && place->on_device && (err = part_find_device(&part, weights, place)) < 0)
        return err;
    if (!tensor && (err = tensor_new(&tensor, weights, place)) < 0)
        return err;
    if (!place->data)
        return 0;
    err = array_grow(
        &tensor->parts, &tensor->part_room, tensor->part_count + 1, sizeof(*tensor->parts)
    );
    if (err == 0)
        tensor->parts[tensor->part_count++] = part;
    return err;
}

static void map_release(struct live_map *map)
{
    file_unmap(&map->data);
    fd_release(&map->fd);
    free(map->path);
}

void live_weights_release(struct live_weights *weights)
{
    for (size_t i = 0; i < weights->count; i++) {
        struct live_tensor *tensor = &weights->tensors[i];
        for (size_t k = 0; k < tensor->part_count; k++) {
            struct live_part *part = &tensor->parts[k];
            if (part->device)
                device_memory_free(&part->device->device, part->resident);
            buf_release(&part->kept);
        }
        free(tensor->parts);
        free(tensor->name);
    }
    free(weights->tensors);
    live_devices_release(&weights->devices);
    for (size_t i = 0; i < weights->map_count; i++)
        map_release(&weights->maps[i]);
    free(weights->maps);
    model_release(&weights->table);
    *weights = (struct live_weights){0};
}

struct live_tensor *live_tensor_of(struct live_weights *weights, const struct model_tensor *place)
{
    return &weights->tensors[place->shard];
}

/* It comes here to be hashed, block by block. */
static int resident_digest(struct digest *out, const struct live_tensor *tensor)
{
    const struct live_part *part = tensor->whole_resident;
    size_t row = (size_t)part->columns * (dtype_bits(tensor->tensor.dtype) / 8);
    uint64_t step = live_device_rows(part->rows, row);
    AUTO_HASH(hash);
    int err = hash_init(&hash);

    for (uint64_t at = 0; err == 0 && at < part->rows; at += step) {
        uint64_t rows = part->rows - at < step ? part->rows - at : step;
        const uint8_t *data;
        err = live_device_fetch(
            &data, part->device, live_part_pristine(part, tensor->tensor.dtype, at),
            tensor->tensor.dtype, rows, part->columns
        );
        if (err == 0)
            err = hash_update(&hash, data, (size_t)rows * row);
    }
    return err < 0 ? error_wrap(err, "%s", tensor->name) : hash_final(out, &hash);
}

int live_tensor_digest(struct digest *out, bool *has, struct live_tensor *tensor)
{
    *has = tensor->whole.data || tensor->whole_resident;
    if (*has && !tensor->has_digest) {
        int err = tensor->whole.data ? digest_of(&tensor->digest, tensor->whole)
                                     : resident_digest(&tensor->digest, tensor);
        if (err < 0)
            return err;
        tensor->has_digest = true;
    }
    *out = tensor->digest;
    return 0;
}

bool live_part_is_plain(const struct live_part *part, size_t element)
{
    return part->column_stride == element;
}

void live_part_put(
    const struct live_part *part,
    size_t element,
    uint64_t row,
    uint64_t rows,
    const uint8_t *from,
    size_t stride
)
{
    for (uint64_t i = 0; i < rows; i++) {
        uint8_t *to = part->data + (row + i) * part->row_stride;
        const uint8_t *at = from + i * stride;
        if (live_part_is_plain(part, element)) {
            memcpy(to, at, (size_t)part->columns * element);
            continue;
        }
        for (uint64_t k = 0; k < part->columns; k++)
            memcpy(to + k * part->column_stride, at + k * element, element);
    }
}

/* Elements that lie side by side need no stride. */
struct backend_place live_part_place(const struct live_part *part, enum dtype dtype, uint64_t row)
{
    size_t element = dtype_bits(dtype) / 8;

    return (struct backend_place){
        .data = part->data + row * part->row_stride,
        .row_stride = part->row_stride / element,
        .column_stride = live_part_is_plain(part, element) ? 0 : part->column_stride / element,
        .on_device = true,
    };
}

struct backend_place
live_part_pristine(const struct live_part *part, enum dtype dtype, uint64_t row)
{
    size_t element = dtype_bits(dtype) / 8;

    if (part->resident)
        return (struct backend_place
        ){.data = part->resident + row * part->columns * element, .on_device = true};
    return (struct backend_place){
        .data = (uint8_t *)(uintptr_t)(part->pristine + row * part->pristine_stride),
        .row_stride = part->pristine_stride / element,
    };
}
