/*
 * Swap adapters in a running model: the weights of a small GPT-2 in this program's memory, adapters
 * as PEFT wrote them, or bundles ("vera export REV FILE --as bundle").
 *
 *   cc live.c $(pkg-config --cflags --libs vera_apply) -lm -o live
 *   ./live ADAPTER…
 *   ./live listen PATH     then "vera swap REV --socket PATH"; each line of its input is a request.
 *   ./live listen          the same on a socket that it inherits, as systemd starts it
 */
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <vera_apply.h>

/* Weights are [in, out], as in Transformers' Conv1D. A real program has read them from a file. */
static const struct {
    const char *module;
    size_t in, out;
} layers[] = {
    {"attn.c_attn", 48, 144},
    {"attn.c_proj", 48, 48},
    {"mlp.c_fc", 48, 192},
    {"mlp.c_proj", 192, 48},
};

#define BLOCKS  2
#define KINDS   (sizeof(layers) / sizeof(layers[0]))
#define WEIGHTS (BLOCKS * KINDS)

static float *weights[WEIGHTS];

static size_t values(size_t i)
{
    return layers[i % KINDS].in * layers[i % KINDS].out;
}

static void check(int code)
{
    if (code == VERA_OK)
        return;
    const char *hint = vera_error_hint();
    fprintf(stderr, "live: %s\n", vera_error_message());
    if (hint)
        fprintf(stderr, "hint: %s\n", hint);
    exit(1);
}

/* Say where each weight lies. The model keeps a copy of what is there now. */
static struct vera_model *model_make(void)
{
    struct vera_model *model = NULL;

    check(vera_model_new(&model, NULL));
    for (size_t i = 0; i < WEIGHTS; i++) {
        char name[64];
        if (!(weights[i] = calloc(values(i), sizeof(float))))
            exit(1);
        snprintf(
            name, sizeof(name), "transformer.h.%zu.%s.weight", i / KINDS, layers[i % KINDS].module
        );
        const struct vera_tensor tensor = {
            .size = sizeof(tensor),
            .name = name,
            .data = weights[i],
            .dtype = VERA_F32,
            .layer = VERA_LAYER_CONV1D,
            .rows = layers[i % KINDS].in,
            .columns = layers[i % KINDS].out,
        };
        check(vera_model_register(model, &tensor));
    }
    check(vera_model_seal(model));
    return model;
}

/* What a request does: no weight changes while it holds the model. */
static double answer(struct vera_model *model)
{
    double sum = 0;

    vera_read_begin(model);
    for (size_t i = 0; i < WEIGHTS; i++) {
        for (size_t k = 0; k < values(i); k++)
            sum += (double)weights[i][k] * (double)weights[i][k];
    }
    vera_read_end(model);
    return sqrt(sum);
}

static void say(struct vera_model *model, const struct vera_state *state)
{
    printf("epoch %llu: ", (unsigned long long)state->epoch);
    for (size_t i = 0; state->attached && i < 6; i++)
        printf("%02x", state->snapshot[i]);
    printf("%s, norm of the weights %.6f\n", state->attached ? "" : "no adapter", answer(model));
}

/* A bundle in a file, whole. */
static void *read_file(size_t *bytes, const char *path)
{
    FILE *file = fopen(path, "rb");
    char *data = NULL;
    size_t room = 0;

    *bytes = 0;
    while (file && !feof(file) && !ferror(file)) {
        if (*bytes == room && !(data = realloc(data, room += 1 << 20)))
            exit(1);
        *bytes += fread(data + *bytes, 1, room - *bytes, file);
    }
    if (!file || ferror(file)) {
        perror(path);
        exit(1);
    }
    fclose(file);
    return data;
}

static void swap(struct vera_model *model, const char *path, struct vera_state *state)
{
    const char *dot = strrchr(path, '.');

    if (!dot || strcmp(dot, ".bundle") != 0) {
        check(vera_swap_directory(model, path, state));
        return;
    }
    size_t bytes;
    void *bundle = read_file(&bytes, path);
    check(vera_swap_bundle(model, bundle, bytes, state));
    free(bundle);
}

/* Serve: whoever runs "vera swap" changes the adapter between two requests. */
static void serve(struct vera_model *model, const char *path, struct vera_state *state)
{
    char line[256];
    int fd;

    if (path) {
        check(vera_listen(model, path));
    } else {
        check(vera_inherited_fd(&fd, NULL));
        check(vera_listen_fd(model, fd));
    }
    while (fgets(line, sizeof(line), stdin)) {
        check(vera_status(model, state));
        say(model, state);
        fflush(stdout);
    }
    vera_unlisten(model);
}

int main(int argc, char **argv)
{
    struct vera_model *model = model_make();
    struct vera_state state = {.size = sizeof(state)};
    int listens = argc > 1 && strcmp(argv[1], "listen") == 0;

    check(vera_status(model, &state));
    say(model, &state);
    fflush(stdout);
    if (listens)
        serve(model, argv[2], &state);
    for (int i = 1; i < argc && !listens; i++) {
        swap(model, argv[i], &state);
        say(model, &state);
    }
    check(vera_detach(model, &state));
    say(model, &state);
    vera_model_free(model);
    for (size_t i = 0; i < WEIGHTS; i++)
        free(weights[i]);
    return 0;
}
