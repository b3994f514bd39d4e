/* A running model. See live.h. */
#define _GNU_SOURCE
#include "apply/live.h"

#include <pthread.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "apply/basis_cache.h"
#include "apply/live_write.h"
#include "format/cpu.h"
#include "format/crew.h"
#include "format/limits.h"

struct live {
    struct live_options options; /* base: owned */
    pthread_mutex_t changing;    /* one swap at a time; of all but `state` */
    pthread_rwlock_t reading;    /* written while weights are */
    pthread_mutex_t state_mutex;
    struct live_state state;
    struct live_weights weights;
    struct basis_cache bases;
    struct bundle_room room;
    bool ready;
};

static double seconds_now(void)
{
    struct timespec now;

    clock_gettime(CLOCK_MONOTONIC, &now);
    return (double)now.tv_sec + (double)now.tv_nsec * 1e-9;
}

int live_new(struct live **out, const struct live_options *options)
{
    struct live *live = array_new(1, sizeof(*live));
    pthread_rwlockattr_t attributes;

    if (!live)
        return error_wrap(E_NOMEM, "live model");
    live->options = *options;
    live->options.base = NULL;
    if (options->base && !(live->options.base = bytes_dup(text_bytes(options->base)))) {
        free(live);
        return error_wrap(E_NOMEM, "live model");
    }
    if (!live->options.threads)
        live->options.threads = crew_size(SIZE_MAX);
    live->bases.bytes_max = options->basis_max ? options->basis_max : LIVE_BASIS_MAX;
    live->bases.leaves = live_devices_forget;
    live->bases.context = &live->weights.devices;
    pthread_mutex_init(&live->changing, NULL);
    pthread_mutex_init(&live->state_mutex, NULL);
    /* Readers that come one after the other without a gap must not keep a swap waiting. */
    pthread_rwlockattr_init(&attributes);
    pthread_rwlockattr_setkind_np(&attributes, PTHREAD_RWLOCK_PREFER_WRITER_NONRECURSIVE_NP);
    pthread_rwlock_init(&live->reading, &attributes);
    pthread_rwlockattr_destroy(&attributes);
    *out = live;
    return 0;
}

void live_free(struct live *live)
{
    if (!live)
        return;
    live_weights_release(&live->weights);
    basis_cache_release(&live->bases);
    pthread_rwlock_destroy(&live->reading);
    pthread_mutex_destroy(&live->state_mutex);
    pthread_mutex_destroy(&live->changing);
    free((char *)(uintptr_t)live->options.base);
    free(live);
}

int live_register(struct live *live, const struct live_place *place)
{
    pthread_mutex_lock(&live->changing);
    int err = live_weights_add(&live->weights, place);
    pthread_mutex_unlock(&live->changing);
    return err;
}

/* What an adapter for these tensors may have: a vector is shorter than its weight, a whole module
   as large; a line or an entry for each. */
static void room_make(struct live *live)
{
    struct bundle_room room = bundle_room_any;
    uint64_t values = 0, names = 0;

    for (size_t i = 0; i < live->weights.count; i++) {
        const struct live_tensor *tensor = &live->weights.tensors[i];
        values += tensor_values(&tensor->tensor);
        names += 4 * (strlen(tensor->name) + 256);
    }
    uint64_t text = 256 * KIB + names, payload = values * sizeof(float);
    room.part_bytes[BUNDLE_MANIFEST] = MIB;
    room.part_bytes[BUNDLE_CONFIG] = room.part_bytes[BUNDLE_LAYOUT] = text;
    room.part_bytes[BUNDLE_PIN] = text;
    room.part_bytes[BUNDLE_RECIPE] = 4 * KIB;
    room.part_bytes[BUNDLE_PAYLOAD] = payload;
    room.part_bytes[BUNDLE_A] = room.part_bytes[BUNDLE_B] = live->bases.bytes_max;
    room.part_bytes[BUNDLE_MODEL_CONFIG] = room.part_bytes[BUNDLE_FILES] = 0;
    live->room = room;
}

int live_seal(struct live *live)
{
    pthread_mutex_lock(&live->changing);
    int err = live_weights_seal(&live->weights, live->options.base);
    if (err == 0) {
        room_make(live);
        live->ready = true;
    }
    pthread_mutex_unlock(&live->changing);
    return err;
}

void live_room(struct bundle_room *out, const struct live *live)
{
    *out = live->room;
}

void live_status(struct live_state *out, struct live *live)
{
    pthread_mutex_lock(&live->state_mutex);
    *out = live->state;
    pthread_mutex_unlock(&live->state_mutex);
}

void live_read_begin(struct live *live)
{
    pthread_rwlock_rdlock(&live->reading);
}

void live_read_end(struct live *live)
{
    pthread_rwlock_unlock(&live->reading);
}

/* Checks */

static int pin_compare(bool *out, struct live *live, const struct plan *plan)
{
    int err = 0;

    *out = plan->pinned;
    for (size_t i = 0; plan->pinned && i < plan->target_count; i++) {
        const struct plan_target *target = &plan->targets[i];
        const struct pin_module *module = pin_find(&plan->pin, target->module);
        struct digest digest;
        bool has = false;
        int failed = live_tensor_digest(
            &digest, &has, live_tensor_of(&live->weights, &target->weight)
        );
        if (failed < 0)
            return failed;
        if (!has) {
            *out = false;
            continue;
        }
        if (module && digest_equal(&module->digest, &digest))
            continue;
        if (err == 0)
            err = error_set(
                E_CONFLICT, "%s: not the base model that this version was committed with",
                live->weights.table.dir
            );
        err = error_detail(err, "%s", target->module);
    }
    return err;
}

/* The change itself */

static int pause_readers(struct live *live)
{
    if (live->options.pause && live->options.pause(live->options.context) != 0)
        return error_set(E_CONFLICT, "the program did not stop for the swap");
    pthread_rwlock_wrlock(&live->reading);
    return 0;
}

static void resume_readers(struct live *live)
{
    pthread_rwlock_unlock(&live->reading);
    if (live->options.resume)
        live->options.resume(live->options.context);
}

/* Write, and say so. `next`: the state afterwards; epoch, previous and times are set here. The
   state changes while nobody reads, so who reads sees the one that belongs to the weights. */
static int
change(struct live *live, struct live_write *write, struct live_state *next, double begin)
{
    int err = pause_readers(live);

    if (err < 0)
        return err;
    double stopped = seconds_now();
    if ((err = live_weights_unchanged(&live->weights)) == 0 &&
        (err = live_write_follow(write)) == 0)
        err = live_write_run(write);
    if (write->torn) {
        *next = (struct live_state){.torn = true};
        err = error_hint(
            err, "the weights are a mixture: swap again, or detach, to make them whole"
        );
    }
    if (err == 0 || write->torn) {
        next->epoch = live->state.epoch + 1;
        next->had_previous = live->state.attached;
        next->previous = live->state.snapshot;
        next->stopped = seconds_now() - stopped;
        next->seconds = seconds_now() - begin;
        pthread_mutex_lock(&live->state_mutex);
        live->state = *next;
        pthread_mutex_unlock(&live->state_mutex);
    }
    resume_readers(live);
    return err;
}

static struct live_write_options write_options(const struct live *live)
{
    return (struct live_write_options
    ){.threads = live->options.threads, .kept_most = live->options.kept_max};
}

static int swap_planned(struct live *live, const struct loaded_adapter *loaded, double begin)
{
    AUTO_PLAN(plan);
    AUTO_LIVE_WRITE(write);
    const struct live_write_options options = write_options(live);
    const struct basis *basis = NULL;
    struct live_state next = {
        .attached = true,
        .snapshot = loaded->snapshot->id,
        .modules = loaded->adapter.module_count,
    };
    int err;

    if ((err = live_weights_unchanged(&live->weights)) < 0 ||
        (err = plan_make(&plan, loaded, &live->weights.table)) < 0 ||
        (err = pin_compare(&next.pinned, live, &plan)) < 0 ||
        (err = basis_cache_get(&basis, &live->bases, &plan)) < 0 ||
        (err = live_write_init(&write, &live->weights, &plan, basis, &options)) < 0)
        return err;
    return change(live, &write, &next, begin);
}

static int swap_locked(struct live *live, const struct snapshot *snapshot, double begin)
{
    AUTO_LOADED_ADAPTER(loaded);

    if (!live->ready)
        return error_set(E_INVALID, "the live model is not sealed");
    if (live->state.attached && digest_equal(&live->state.snapshot, &snapshot->id))
        return 0;
    int err = adapter_load(&loaded, snapshot);
    return err < 0 ? err : swap_planned(live, &loaded, begin);
}

/* The caller's floating-point state must not reach the numbers. */
static int
swap_begun(struct live_state *out, struct live *live, const struct snapshot *snapshot, double begin)
{
    pthread_mutex_lock(&live->changing);
    struct cpu_float saved = cpu_float_exact();
    int err = swap_locked(live, snapshot, begin);
    cpu_float_restore(saved);
    if (err == 0 && out)
        *out = live->state;
    pthread_mutex_unlock(&live->changing);
    return err;
}

int live_swap(struct live_state *out, struct live *live, const struct snapshot *snapshot)
{
    return swap_begun(out, live, snapshot, seconds_now());
}

int live_swap_bundle(struct live_state *out, struct live *live, struct bytes bundle)
{
    AUTO_SNAPSHOT(snapshot);
    double begin = seconds_now();

    /* Its bytes are there already: what they hold besides costs no more than they do. */
    int err = bundle_decode(&snapshot, bundle, &bundle_room_any);
    return err < 0 ? err : swap_begun(out, live, &snapshot, begin);
}

int live_swap_directory(struct live_state *out, struct live *live, const char *dir)
{
    AUTO_ADAPTER_FILES(files);
    AUTO_SNAPSHOT(snapshot);
    double begin = seconds_now();
    int err = adapter_files_read(&files, dir, false, NULL);

    if (err < 0)
        return err;
    if ((err = snapshot_encode(&snapshot, &files, NULL)) < 0)
        return error_wrap(err, "%s", dir);
    return swap_begun(out, live, &snapshot, begin);
}

static int detach_locked(struct live *live, double begin)
{
    AUTO_LIVE_WRITE(write);
    const struct live_write_options options = write_options(live);
    struct live_state next = {0};
    int err;

    if (!live->ready)
        return error_set(E_INVALID, "the live model is not sealed");
    if (!live->state.attached && !live->state.torn)
        return 0;
    err = live_write_init(&write, &live->weights, NULL, NULL, &options);
    return err < 0 ? err : change(live, &write, &next, begin);
}

int live_detach(struct live_state *out, struct live *live)
{
    double begin = seconds_now();

    pthread_mutex_lock(&live->changing);
    int err = detach_locked(live, begin);
    if (err == 0 && out)
        *out = live->state;
    pthread_mutex_unlock(&live->changing);
    return err;
}
