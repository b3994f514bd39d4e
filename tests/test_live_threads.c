/*
 * Tests of apply/live.c with threads: whoever reads the weights while they are swapped sees those
 * of one adapter, the one that the state names, whether readers hold the model or are stopped by
 * the program's own functions. Also to be built with the thread sanitizer (tests/run.sh --threads).
 */
#define _GNU_SOURCE
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <pthread.h>
#include <stdatomic.h>

#include "tests/live.h"

#define READERS 8
#define SWAPS   120

struct scene {
    struct choir choir;
    struct live *live;
    bool own_lock;                  /* readers take `lock` in place of the model's */
    pthread_rwlock_t lock;          /* the program's */
    atomic_uint pauses, resumes;    /* calls */
    atomic_int refuse;              /* what pause() answers */
    atomic_bool end;                /* readers stop */
    atomic_uint reads[READERS];     /* how often each has looked */
    atomic_uint mixed, seen_states; /* looks that found a mixture; how many states were seen */
    atomic_bool seen[40];
};

static int scene_pause(void *context)
{
    struct scene *scene = context;

    scene->pauses++;
    if (scene->refuse)
        return scene->refuse;
    pthread_rwlock_wrlock(&scene->lock);
    return 0;
}

static void scene_resume(void *context)
{
    struct scene *scene = context;

    scene->resumes++;
    pthread_rwlock_unlock(&scene->lock);
}

static void scene_open(struct scene *scene, bool own_lock)
{
    const struct live_options options = {
        .threads = 2,
        .pause = own_lock ? scene_pause : NULL,
        .resume = own_lock ? scene_resume : NULL,
        .context = scene,
    };
    pthread_rwlockattr_t attributes;

    choir_open(&scene->choir, FIXTURES "/base/gpt2", "gpt2", LAYOUT_PLAIN, false);
    pthread_rwlockattr_init(&attributes);
    pthread_rwlockattr_setkind_np(&attributes, PTHREAD_RWLOCK_PREFER_WRITER_NONRECURSIVE_NP);
    pthread_rwlock_init(&scene->lock, &attributes);
    scene->own_lock = own_lock;
    must(live_new(&scene->live, &options));
    memory_register(scene->live, &scene->choir.memory);
    must(live_seal(scene->live));
}

static void scene_close(struct scene *scene)
{
    live_free(scene->live);
    pthread_rwlock_destroy(&scene->lock);
    choir_release(&scene->choir);
}

static void read_begin(struct scene *scene)
{
    if (scene->own_lock)
        pthread_rwlock_rdlock(&scene->lock);
    else
        live_read_begin(scene->live);
}

static void read_end(struct scene *scene)
{
    if (scene->own_lock)
        pthread_rwlock_unlock(&scene->lock);
    else
        live_read_end(scene->live);
}

/* The number of the adapter with this id; the count where it is none. */
static size_t number_of(const struct choir *choir, const struct live_state *state)
{
    size_t i = 0;

    while (i < choir->count &&
           !(state->attached && digest_equal(&state->snapshot, &choir->adapters[i].snapshot.id)))
        i++;
    return i;
}

struct reader {
    struct scene *scene;
    unsigned number;
    pthread_t thread;
};

static void *reader_main(void *argument)
{
    struct reader *reader = argument;
    struct scene *scene = reader->scene;
    const struct choir *choir = &scene->choir;

    while (!scene->end) {
        struct live_state state;
        read_begin(scene);
        live_status(&state, scene->live);
        size_t now = number_of(choir, &state);
        bool whole = memory_is(
            &choir->memory, now < choir->count ? &choir->adapters[now] : &choir->base
        );
        read_end(scene);
        if (!whole)
            scene->mixed++;
        if (!atomic_exchange(&scene->seen[now], true))
            scene->seen_states++;
        scene->reads[reader->number]++;
    }
    return NULL;
}

/* Until every reader has looked once more. */
static void wait_for_readers(struct scene *scene)
{
    unsigned before[READERS];

    for (unsigned i = 0; i < READERS; i++)
        before[i] = scene->reads[i];
    for (unsigned i = 0; i < READERS; i++) {
        while (scene->reads[i] == before[i])
            sched_yield();
    }
}

static void run_scene(bool own_lock)
{
    static struct scene scene;
    struct reader readers[READERS];

    memset(&scene, 0, sizeof(scene));
    scene_open(&scene, own_lock);
    for (unsigned i = 0; i < READERS; i++) {
        readers[i] = (struct reader){.scene = &scene, .number = i};
        assert_int_equal(pthread_create(&readers[i].thread, NULL, reader_main, &readers[i]), 0);
    }
    struct live_state state;
    for (unsigned i = 0; i < SWAPS; i++) {
        size_t next = random_below(scene.choir.count + 1);
        if (next == scene.choir.count)
            must(live_detach(&state, scene.live));
        else
            must(live_swap(&state, scene.live, &scene.choir.adapters[next].snapshot));
        if (i % 10 == 0)
            wait_for_readers(&scene);
    }
    scene.end = true;
    for (unsigned i = 0; i < READERS; i++)
        pthread_join(readers[i].thread, NULL);
    assert_int_equal(scene.mixed, 0);
    assert_true(scene.seen_states > 3);
    assert_true(state.epoch > SWAPS / 2);
    assert_int_equal(scene.pauses, own_lock ? state.epoch : 0);
    assert_int_equal(scene.pauses, scene.resumes);
    scene_close(&scene);
}

static void test_readers_that_hold_the_model_never_see_a_mixture(void **state)
{
    (void)state;
    run_scene(false);
}

static void test_readers_that_are_stopped_never_see_a_mixture(void **state)
{
    (void)state;
    run_scene(true);
}

static void test_a_program_that_does_not_stop_is_not_written_to(void **state)
{
    static struct scene scene;
    struct live_state before, after;

    (void)state;
    scene_open(&scene, true);
    must(live_swap(NULL, scene.live, &scene.choir.adapters[2].snapshot));
    live_status(&before, scene.live);
    scene.refuse = 1;
    int err = live_swap(NULL, scene.live, &scene.choir.adapters[3].snapshot);
    assert_int_equal(err, E_CONFLICT);
    assert_int_equal(live_detach(NULL, scene.live), E_CONFLICT);
    live_status(&after, scene.live);
    assert_memory_equal(&before, &after, sizeof(before));
    assert_memory(&scene.choir.memory, &scene.choir.adapters[2]);
    assert_int_equal(scene.pauses, 3);
    assert_int_equal(scene.resumes, 1);
    scene.refuse = 0;
    must(live_swap(NULL, scene.live, &scene.choir.adapters[3].snapshot));
    assert_memory(&scene.choir.memory, &scene.choir.adapters[3]);
    scene_close(&scene);
}

/* Several that swap at once: each swap is whole, one goes after the other. */

struct swapper {
    struct scene *scene;
    size_t number;
    pthread_t thread;
    unsigned failed;
};

static void *swapper_main(void *argument)
{
    struct swapper *swapper = argument;
    struct scene *scene = swapper->scene;

    for (unsigned i = 0; i < 20; i++) {
        struct live_state state;
        size_t number = (swapper->number + i) % scene->choir.count;
        swapper->failed += live_swap(
                               &state, scene->live, &scene->choir.adapters[number].snapshot
                           ) != 0;
        swapper->failed += number_of(&scene->choir, &state) != number;
    }
    return NULL;
}

static void test_swaps_at_once_go_one_after_the_other(void **state)
{
    static struct scene scene;
    struct swapper swappers[4];
    struct live_state last;

    (void)state;
    scene_open(&scene, false);
    for (size_t i = 0; i < 4; i++) {
        swappers[i] = (struct swapper){.scene = &scene, .number = i};
        assert_int_equal(pthread_create(&swappers[i].thread, NULL, swapper_main, &swappers[i]), 0);
    }
    for (size_t i = 0; i < 4; i++) {
        pthread_join(swappers[i].thread, NULL);
        assert_int_equal(swappers[i].failed, 0);
    }
    live_status(&last, scene.live);
    size_t number = number_of(&scene.choir, &last);
    assert_true(number < scene.choir.count);
    assert_memory(&scene.choir.memory, &scene.choir.adapters[number]);
    scene_close(&scene);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(
            test_readers_that_hold_the_model_never_see_a_mixture, scratch_make, scratch_remove
        ),
        cmocka_unit_test_setup_teardown(
            test_readers_that_are_stopped_never_see_a_mixture, scratch_make, scratch_remove
        ),
        cmocka_unit_test_setup_teardown(
            test_a_program_that_does_not_stop_is_not_written_to, scratch_make, scratch_remove
        ),
        cmocka_unit_test_setup_teardown(
            test_swaps_at_once_go_one_after_the_other, scratch_make, scratch_remove
        ),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
