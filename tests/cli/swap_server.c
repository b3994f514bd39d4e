/*
 * A program that has a model, for test_swap.py: swap_server BASE [path=PATH] [inherited=NAME]
 * [peers=N] [request_ms=N] [body_rate=N] [reply_ms=N]. It says "ready", or what is wrong, and then
 * does what it is told on standard input, a line each:
 *
 *   weights        the SHA-256 of every tensor, "NAME HEX" a line, then "end"
 *   read N         N threads look at all weights, again and again
 *   looked         they end: "SNAPSHOT HEX COUNT" for each state that they saw, then "end"
 *   hold, release  nobody swaps in between
 *   quit           (or the end of its input)
 */
#include <inttypes.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "apply/live_socket.h"
#include "format/file.h"
#include "format/text.h"

#define TENSORS_MAX 512
#define READERS_MAX 16
#define STATES_MAX  64

struct weight {
    char *name;
    uint8_t *data;
    size_t bytes;
};

/* What a look at the weights found: a state and the digest of all weights. */
struct look {
    struct digest snapshot, weights;
    uint64_t count;
};

struct server {
    struct live *live;
    struct live_socket *socket;
    struct weight weights[TENSORS_MAX];
    size_t count;
    pthread_t readers[READERS_MAX];
    size_t reader_count;
    atomic_bool end;
    bool held;
    pthread_mutex_t mutex; /* of looks */
    struct look looks[STATES_MAX];
    size_t look_count;
};

static void must(int err)
{
    if (err == 0)
        return;
    const char *hint = error_hint_text();
    printf("%s: %s%s%s\n", error_name(err), error_message(), hint ? "; " : "", hint ? hint : "");
    exit(1);
}

static void hex_print(const struct digest *digest)
{
    char hex[DIGEST_HEX_SIZE];

    digest_hex(hex, digest);
    fputs(hex, stdout);
}

static void weight_load(struct server *server, const struct model *model, size_t i)
{
    const struct model_tensor *from = &model->tensors[i];
    const struct shard *shard = &model->shards[from->shard];
    const struct tensor *tensor = from->tensor;
    struct weight *weight = &server->weights[server->count];
    AUTO_FD(owner);
    int fd;

    if (!dtype_is_applicable(tensor->dtype) || tensor->dims < 1 || tensor->dims > 2)
        return;
    if (server->count == TENSORS_MAX)
        must(error_set(E_LIMIT, "too many tensors"));
    weight->bytes = (size_t)tensor_bytes(tensor);
    weight->name = bytes_dup(text_bytes(tensor->name));
    weight->data = array_new(weight->bytes, 1);
    if (!weight->name || !weight->data)
        must(E_NOMEM);
    server->count++;
    must(model_shard_open(&fd, &owner, model, from->shard));
    must(file_read_at(
        fd, weight->data, weight->bytes, shard->table.header_bytes + tensor->begin, shard->path
    ));
    const struct live_place place = {
        .name = tensor->name,
        .dtype = tensor->dtype,
        .dims = tensor->dims,
        .shape = {tensor->shape[0], tensor->dims == 2 ? tensor->shape[1] : 0},
        .data = weight->data,
    };
    must(live_register(server->live, &place));
}

static void model_load(struct server *server, const char *dir)
{
    const struct live_options options = {.base = dir, .threads = 2};
    AUTO_MODEL(model);

    must(live_new(&server->live, &options));
    must(model_open(&model, dir));
    for (size_t i = 0; i < model.tensor_count; i++)
        weight_load(server, &model, i);
    must(live_seal(server->live));
}

/* Readers */

static void look_add(struct server *server, const struct look *look)
{
    size_t i = 0;

    pthread_mutex_lock(&server->mutex);
    while (i < server->look_count && !(digest_equal(&server->looks[i].snapshot, &look->snapshot) &&
                                       digest_equal(&server->looks[i].weights, &look->weights)))
        i++;
    if (i < STATES_MAX) {
        if (i == server->look_count)
            server->looks[server->look_count++] = *look;
        server->looks[i].count++;
    }
    pthread_mutex_unlock(&server->mutex);
}

/* What a request computes with: all weights, and which adapter they say that they have. */
static void look(struct server *server)
{
    struct live_state state;
    struct look look = {0};
    AUTO_HASH(hash);

    must(hash_init(&hash));
    live_read_begin(server->live);
    live_status(&state, server->live);
    for (size_t i = 0; i < server->count; i++)
        must(hash_update(&hash, server->weights[i].data, server->weights[i].bytes));
    live_read_end(server->live);
    must(hash_final(&look.weights, &hash));
    look.snapshot = state.snapshot;
    look_add(server, &look);
}

static void *reader_run(void *context)
{
    struct server *server = context;

    while (!server->end)
        look(server);
    return NULL;
}

static void readers_start(struct server *server, size_t count)
{
    server->end = false;
    server->look_count = 0;
    for (size_t i = 0; i < count && i < READERS_MAX; i++) {
        if (pthread_create(&server->readers[i], NULL, reader_run, server) != 0)
            must(error_set(E_NOMEM, "no thread"));
        server->reader_count++;
    }
}

static void readers_end(struct server *server)
{
    server->end = true;
    while (server->reader_count)
        pthread_join(server->readers[--server->reader_count], NULL);
    for (size_t i = 0; i < server->look_count; i++) {
        hex_print(&server->looks[i].snapshot);
        putchar(' ');
        hex_print(&server->looks[i].weights);
        printf(" %" PRIu64 "\n", server->looks[i].count);
        server->looks[i].count = 0;
    }
    puts("end");
}

/* What it is told */

static void weights_print(struct server *server)
{
    if (!server->held)
        live_read_begin(server->live);
    for (size_t i = 0; i < server->count; i++) {
        struct digest digest;
        must(digest_of(&digest, (struct bytes){server->weights[i].data, server->weights[i].bytes}));
        printf("%s ", server->weights[i].name);
        hex_print(&digest);
        putchar('\n');
    }
    if (!server->held)
        live_read_end(server->live);
    puts("end");
}

static void hold(struct server *server, bool held)
{
    if (held)
        live_read_begin(server->live);
    else if (server->held)
        live_read_end(server->live);
    server->held = held;
}

static bool obey(struct server *server, char *line)
{
    line[strcspn(line, "\n")] = '\0';
    if (strcmp(line, "quit") == 0)
        return false;
    if (strcmp(line, "weights") == 0)
        weights_print(server);
    else if (strncmp(line, "read ", 5) == 0)
        readers_start(server, strtoul(line + 5, NULL, 10));
    else if (strcmp(line, "looked") == 0)
        readers_end(server);
    else if (strcmp(line, "hold") == 0 || strcmp(line, "release") == 0)
        hold(server, *line == 'h');
    else
        must(error_set(E_INVALID, "'%s' is not known", line));
    puts("done");
    fflush(stdout);
    return true;
}

static void release(struct server *server)
{
    hold(server, false);
    live_socket_close(server->socket);
    live_free(server->live);
    for (size_t i = 0; i < server->count; i++) {
        free(server->weights[i].name);
        free(server->weights[i].data);
    }
}

/* Options */

static const char *value_of(char **argv, const char *name)
{
    size_t len = strlen(name);

    for (; *argv; argv++) {
        if (strncmp(*argv, name, len) == 0 && (*argv)[len] == '=')
            return *argv + len + 1;
    }
    return NULL;
}

static unsigned number_of(char **argv, const char *name)
{
    const char *value = value_of(argv, name);

    return value ? (unsigned)strtoul(value, NULL, 10) : 0;
}

static void begin_to_listen(struct server *server, char **argv)
{
    const char *path = value_of(argv, "path"), *inherited = value_of(argv, "inherited");
    const struct live_socket_limits limits = {
        .peers = number_of(argv, "peers"),
        .request_ms = number_of(argv, "request_ms"),
        .body_rate = number_of(argv, "body_rate"),
        .reply_ms = number_of(argv, "reply_ms"),
    };
    int fd;

    if (!inherited) {
        must(live_socket_open(&server->socket, server->live, path, &limits));
        return;
    }
    must(socket_inherited(&fd, *inherited ? inherited : NULL));
    must(live_socket_open_fd(&server->socket, server->live, fd, &limits));
}

int main(int argc, char **argv)
{
    static struct server server = {.mutex = PTHREAD_MUTEX_INITIALIZER};
    char line[256];

    if (argc < 3)
        return 2;
    model_load(&server, argv[1]);
    begin_to_listen(&server, argv + 2);
    puts("ready");
    fflush(stdout);
    while (fgets(line, sizeof(line), stdin) && obey(&server, line))
        ;
    release(&server);
    return 0;
}
