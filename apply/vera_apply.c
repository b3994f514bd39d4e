/* The public face of apply/live.h. Nothing is decided here: arguments become the project's own. */
#include "apply/vera_apply.h"

#include <assert.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>

#include "apply/live_socket.h"
#include "apply/unpacked.h"
#include "apply/vera_structure.h"

static_assert(VERA_NOTFOUND == (int)E_NOTFOUND && VERA_DEVICE == (int)E_DEVICE, "codes differ");
static_assert(VERA_BUNDLE_HEADER == BUNDLE_HEADER_BYTES, "headers differ");

struct vera_model {
    struct live *live;
    pthread_mutex_t mutex; /* of `socket` */
    struct live_socket *socket;
};

static struct live *live_of(const struct vera_model *model)
{
    return model->live;
}

const char *vera_error_message(void)
{
    return error_message();
}

const char *vera_error_hint(void)
{
    return error_hint_text();
}

const char *vera_error_name(int code)
{
    return error_name(code);
}

const char *vera_version(void)
{
    return VERA_VERSION;
}

int vera_model_new(struct vera_model **out, const struct vera_options *given)
{
    struct vera_options options = {0};
    AUTO_FREE(struct vera_model, model);
    const size_t least = offsetof(struct vera_options, kept_bytes);
    int err = given ? structure_take(&options, sizeof(options), given, least) : 0;

    if (err < 0)
        return err;
    if (options.reserved)
        return error_set(E_INVALID, "a reserved field is not zero");
    const struct live_options own = {
        .base = options.base,
        .threads = options.threads,
        .basis_max = options.basis_bytes,
        .kept_max = options.kept_bytes,
        .pause = options.pause,
        .resume = options.resume,
        .context = options.context,
    };
    if (!(model = array_new(1, sizeof(*model))))
        return error_wrap(E_NOMEM, "live model");
    if ((err = live_new(&model->live, &own)) < 0)
        return err;
    pthread_mutex_init(&model->mutex, NULL);
    *out = model;
    model = NULL;
    return 0;
}

void vera_model_free(struct vera_model *model)
{
    if (!model)
        return;
    live_socket_close(model->socket);
    live_free(model->live);
    pthread_mutex_destroy(&model->mutex);
    free(model);
}

static int place_make(struct live_place *out, const struct vera_tensor *tensor)
{
    static const enum dtype dtypes[] = {
        [VERA_F32] = DTYPE_F32, [VERA_BF16] = DTYPE_BF16, [VERA_F16] = DTYPE_F16};
    static const enum model_lies layers[] = {
        [VERA_LAYER_UNKNOWN] = MODEL_LIES_UNSAID,
        [VERA_LAYER_LINEAR] = MODEL_LIES_LINEAR,
        [VERA_LAYER_CONV1D] = MODEL_LIES_CONV1D};
    const char *name = tensor->name ? tensor->name : "";

    if (tensor->dtype < VERA_F32 || tensor->dtype > VERA_F16)
        return error_set(
            E_UNSUPPORTED, "'%s': dtype %d is none of vera_dtype", name, tensor->dtype
        );
    if (tensor->layer < 0 || tensor->layer > VERA_LAYER_CONV1D)
        return error_set(E_INVALID, "'%s': layer %d is none of vera_layer", name, tensor->layer);
    if (tensor->memory < 0 || tensor->memory > VERA_CUDA)
        return error_set(E_INVALID, "'%s': memory %d is none of vera_memory", name, tensor->memory);
    if (tensor->reserved[0] || tensor->reserved[1])
        return error_set(E_INVALID, "'%s': a reserved field is not zero", name);
    *out = (struct live_place){
        .name = tensor->name,
        .dtype = dtypes[tensor->dtype],
        .lies = layers[tensor->layer],
        .dims = tensor->columns ? 2 : 1,
        .shape = {tensor->rows, tensor->columns},
        .data = tensor->data,
        .row_stride = tensor->row_stride,
        .column_stride = tensor->column_stride,
        .row = tensor->row_begin,
        .rows = tensor->row_count,
        .column = tensor->column_begin,
        .columns = tensor->column_count,
        .on_device = tensor->memory == VERA_CUDA,
        .device = tensor->device,
        .stream = tensor->stream,
    };
    return 0;
}

int vera_model_register(struct vera_model *model, const struct vera_tensor *given)
{
    struct vera_tensor tensor;
    struct live_place place;
    int err;

    if ((err = structure_take(&tensor, sizeof(tensor), given, sizeof(tensor))) < 0 ||
        (err = place_make(&place, &tensor)) < 0)
        return err;
    return live_register(live_of(model), &place);
}

int vera_model_seal(struct vera_model *model)
{
    return live_seal(live_of(model));
}

/* As much of the state as the caller has room for. */
static int state_room(const struct vera_state *out)
{
    if (out && (out->size < sizeof(*out) || out->size > 4096))
        return error_set(E_INVALID, "vera_state: its field 'size' is not set");
    return 0;
}

static void state_give(struct vera_state *out, const struct live_state *state)
{
    if (!out)
        return;
    size_t size = out->size;
    memset(out, 0, size);
    *out = (struct vera_state){
        .size = size,
        .epoch = state->epoch,
        .modules = state->modules,
        .attached = state->attached,
        .pinned = state->pinned,
        .had_previous = state->had_previous,
        .torn = state->torn,
        .seconds = state->seconds,
        .stopped = state->stopped,
    };
    memcpy(out->snapshot, state->snapshot.bytes, sizeof(out->snapshot));
    memcpy(out->previous, state->previous.bytes, sizeof(out->previous));
}

int vera_swap_bundle(
    struct vera_model *model, const void *bundle, size_t bytes, struct vera_state *out
)
{
    struct live_state state;
    int err = state_room(out);

    if (err == 0)
        err = live_swap_bundle(&state, live_of(model), (struct bytes){bundle, bytes});
    if (err == 0)
        state_give(out, &state);
    return err;
}

int vera_swap_directory(struct vera_model *model, const char *directory, struct vera_state *out)
{
    struct live_state state;
    int err = state_room(out);

    if (err == 0 && (err = live_swap_directory(&state, live_of(model), directory)) == 0)
        state_give(out, &state);
    return err;
}

int vera_detach(struct vera_model *model, struct vera_state *out)
{
    struct live_state state;
    int err = state_room(out);

    if (err == 0 && (err = live_detach(&state, live_of(model))) == 0)
        state_give(out, &state);
    return err;
}

int vera_status(struct vera_model *model, struct vera_state *out)
{
    struct live_state state;
    int err = state_room(out);

    if (err < 0)
        return err;
    live_status(&state, live_of(model));
    state_give(out, &state);
    return 0;
}

void vera_read_begin(struct vera_model *model)
{
    live_read_begin(live_of(model));
}

void vera_read_end(struct vera_model *model)
{
    live_read_end(live_of(model));
}

int vera_bundle_bytes(
    uint64_t *out, const struct vera_model *model, const void *header, size_t bytes
)
{
    struct bundle_header decoded;
    struct bundle_room room;

    live_room(&room, live_of(model));
    room.part_bytes[BUNDLE_FILES] = bundle_room_any.part_bytes[BUNDLE_FILES];
    room.part_bytes[BUNDLE_MODEL_CONFIG] = bundle_room_any.part_bytes[BUNDLE_MODEL_CONFIG];
    int err = bundle_header_decode(&decoded, (struct bytes){header, bytes}, &room);
    if (err == 0)
        *out = decoded.total_bytes;
    return err;
}

/* Adapters to read */

struct vera_adapter {
    struct unpacked unpacked;
};

/* A NUL behind the texts, for C. */
static int adapter_give(struct vera_adapter **out, struct unpacked *unpacked)
{
    if (!buf_text(&unpacked->config) || !buf_text(&unpacked->recipe) || !buf_text(&unpacked->pin))
        return error_wrap(E_NOMEM, "adapter");
    struct vera_adapter *adapter = calloc(1, sizeof(*adapter));
    if (!adapter)
        return error_set(E_NOMEM, "out of memory for an adapter");
    adapter->unpacked = *unpacked;
    *unpacked = (struct unpacked){0};
    *out = adapter;
    return 0;
}

int vera_adapter_read_bundle(struct vera_adapter **out, const void *bundle, size_t bytes)
{
    AUTO_UNPACKED(unpacked);

    int err = unpacked_read_bundle(&unpacked, (struct bytes){bundle, bytes});
    return err < 0 ? err : adapter_give(out, &unpacked);
}

int vera_adapter_read_directory(struct vera_adapter **out, const char *directory)
{
    AUTO_UNPACKED(unpacked);

    int err = unpacked_read_directory(&unpacked, directory);
    return err < 0 ? err : adapter_give(out, &unpacked);
}

void vera_adapter_free(struct vera_adapter *adapter)
{
    if (!adapter)
        return;
    unpacked_release(&adapter->unpacked);
    free(adapter);
}

int vera_adapter_about(struct vera_adapter_about *out, const struct vera_adapter *adapter)
{
    const struct unpacked *unpacked = &adapter->unpacked;
    size_t size = out->size;

    if (size < sizeof(*out) || size > 4096)
        return error_set(E_INVALID, "vera_adapter_about: its field 'size' is not set");
    memset(out, 0, size);
    *out = (struct vera_adapter_about){
        .size = size,
        .config = (const char *)unpacked->config.data,
        .recipe = (const char *)unpacked->recipe.data,
        .pin = (const char *)unpacked->pin.data,
        .config_bytes = unpacked->config.len,
        .recipe_bytes = unpacked->recipe.len,
        .pin_bytes = unpacked->pin.len,
        .tensors = unpacked->table.count,
    };
    memcpy(out->snapshot, unpacked->id.bytes, sizeof(out->snapshot));
    return 0;
}

int vera_adapter_tensor(
    struct vera_adapter_tensor *out, const struct vera_adapter *adapter, uint64_t number
)
{
    const struct safetensors *table = &adapter->unpacked.table;
    size_t size = out->size;

    if (size < sizeof(*out) || size > 4096)
        return error_set(E_INVALID, "vera_adapter_tensor: its field 'size' is not set");
    if (number >= table->count)
        return error_set(E_NOTFOUND, "the adapter has %zu tensors", table->count);
    const struct tensor *tensor = &table->tensors[number];
    struct bytes data = unpacked_tensor(&adapter->unpacked, tensor);
    memset(out, 0, size);
    *out = (struct vera_adapter_tensor){
        .size = size,
        .name = tensor->name,
        .dtype = dtype_name(tensor->dtype),
        .shape = tensor->shape,
        .data = data.data,
        .bytes = data.len,
        .dims = tensor->dims,
    };
    return 0;
}

/* Listening */

/* Listen at `path`, or, where it is NULL, on `fd`. */
static int listen_at(struct vera_model *model, const char *path, int fd)
{
    int err;

    pthread_mutex_lock(&model->mutex);
    if (model->socket)
        err = error_set(E_EXISTS, "the live model listens already");
    else if (path)
        err = live_socket_open(&model->socket, model->live, path, NULL);
    else
        err = live_socket_open_fd(&model->socket, model->live, fd, NULL);
    pthread_mutex_unlock(&model->mutex);
    return err;
}

int vera_listen(struct vera_model *model, const char *path)
{
    return path ? listen_at(model, path, -1) : error_set(E_INVALID, "no path to listen at");
}

int vera_listen_fd(struct vera_model *model, int fd)
{
    return listen_at(model, NULL, fd);
}

int vera_inherited_fd(int *out, const char *name)
{
    return socket_inherited(out, name);
}

void vera_unlisten(struct vera_model *model)
{
    pthread_mutex_lock(&model->mutex);
    live_socket_close(model->socket);
    model->socket = NULL;
    pthread_mutex_unlock(&model->mutex);
}
