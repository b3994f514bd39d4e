/*
 * Tests of format/crew.c: every piece is done once, by any number of threads and where none can be
 * had, and the first failure comes back as if it had happened in the calling thread.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include <errno.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdbool.h>

#include "format/crew.h"
#include "tests/fault.h"

#define PIECES  1000u
#define MEMBERS 5u

/* Threads beyond this many cannot be had. */
static unsigned threads_left = MEMBERS;

int __real_pthread_create(pthread_t *, const pthread_attr_t *, void *(*)(void *), void *);
int __wrap_pthread_create(pthread_t *, const pthread_attr_t *, void *(*)(void *), void *);

int __wrap_pthread_create(
    pthread_t *thread, const pthread_attr_t *attributes, void *(*start)(void *), void *argument
)
{
    if (threads_left == 0)
        return EAGAIN;
    threads_left--;
    return __real_pthread_create(thread, attributes, start, argument);
}

struct work {
    atomic_uint done[PIECES]; /* how often */
    atomic_bool busy[MEMBERS];
    atomic_uint begun, clashes;
    unsigned members;
    size_t fails; /* pieces from here on fail; PIECES: none */
};

static int do_piece(void *context, unsigned member, size_t piece)
{
    struct work *work = context;
    int err = 0;

    work->clashes += member >= work->members || atomic_exchange(&work->busy[member], true);
    work->begun++;
    work->done[piece]++;
    if (piece >= work->fails) {
        err = error_set(E_INVALID, "piece %zu", piece);
        err = error_detail(err, "of %u", PIECES);
        err = error_hint(err, "take another");
    }
    atomic_store(&work->busy[member], false);
    return err;
}

static void every_piece_is_done_once(void **state)
{
    (void)state;
    for (unsigned members = 1; members <= MEMBERS; members++) {
        for (unsigned threads = 0; threads < members; threads++) {
            struct work work = {.members = members, .fails = PIECES};
            threads_left = threads;
            assert_int_equal(crew_run(do_piece, &work, PIECES, members), 0);
            assert_int_equal(work.clashes, 0);
            for (size_t i = 0; i < PIECES; i++)
                assert_int_equal(work.done[i], 1);
        }
    }
}

static void no_piece_is_no_work(void **state)
{
    struct work work = {.members = MEMBERS, .fails = 0};

    (void)state;
    assert_int_equal(crew_run(do_piece, &work, 0, MEMBERS), 0);
    assert_int_equal(work.begun, 0);
}

static void the_first_failure_is_told_in_the_calling_thread(void **state)
{
    (void)state;
    for (unsigned members = 1; members <= MEMBERS; members++) {
        struct work work = {.members = members, .fails = 100};
        threads_left = MEMBERS;
        int err = error_set(E_IO, "another one");
        assert_int_equal(err, E_IO);
        assert_int_equal(crew_run(do_piece, &work, PIECES, members), E_INVALID);
        assert_string_equal(error_message(), "piece 100\n  of 1000");
        assert_string_equal(error_hint_text(), "take another");
        /* Each member may have one more in hand when the first fails. */
        assert_in_range(work.begun, 101, 100 + members);
    }
}

static void an_error_that_finds_no_memory_keeps_its_code(void **state)
{
    struct work failing = {.members = 1, .fails = 0}, idle = {.members = 1, .fails = PIECES};

    (void)state;
    fault_after = 1;
    assert_int_equal(crew_run(do_piece, &failing, PIECES, 1), E_INVALID);
    assert_string_equal(error_message(), "INVALID");
    fault_after = 0;
    assert_int_equal(crew_run(do_piece, &idle, PIECES, 1), E_NOMEM);
    fault_after = -1;
    assert_int_equal(idle.begun, 0);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(every_piece_is_done_once),
        cmocka_unit_test(no_piece_is_no_work),
        cmocka_unit_test(the_first_failure_is_told_in_the_calling_thread),
        cmocka_unit_test(an_error_that_finds_no_memory_keeps_its_code),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
