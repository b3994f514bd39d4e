/* Threads that work off a list. See crew.h. */
#define _GNU_SOURCE
#include "format/crew.h"

#include <assert.h>
#include <pthread.h>
#include <sched.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdlib.h>
#include <unistd.h>

#include "format/buf.h"

struct crew {
    crew_work *work;
    void *context;
    size_t count;
    pthread_mutex_t mutex;
    size_t next;   /* the first piece that nobody has taken */
    size_t failed; /* the first piece that failed; SIZE_MAX */
    int err;
    char *packed; /* its error */
};

struct member {
    struct crew *crew;
    unsigned number;
    pthread_t thread;
    bool started;
};

static bool piece_take(size_t *out, struct crew *crew)
{
    pthread_mutex_lock(&crew->mutex);
    bool taken = crew->failed == SIZE_MAX && crew->next < crew->count;
    if (taken)
        *out = crew->next++;
    pthread_mutex_unlock(&crew->mutex);
    return taken;
}

static void piece_fail(struct crew *crew, size_t piece, int err)
{
    pthread_mutex_lock(&crew->mutex);
    if (piece < crew->failed) {
        free(crew->packed);
        crew->failed = piece;
        crew->err = err;
        crew->packed = error_pack();
    }
    pthread_mutex_unlock(&crew->mutex);
}

static void *member_main(void *argument)
{
    struct member *member = argument;
    struct crew *crew = member->crew;
    size_t piece;

    while (piece_take(&piece, crew)) {
        int err = crew->work(crew->context, member->number, piece);
        if (err < 0)
            piece_fail(crew, piece, err);
    }
    return NULL;
}

int crew_run(crew_work *work, void *context, size_t count, unsigned members)
{
    struct crew crew = {
        .work = work,
        .context = context,
        .count = count,
        .mutex = PTHREAD_MUTEX_INITIALIZER,
        .failed = SIZE_MAX,
    };
    AUTO_FREE(struct member, crowd);

    assert(members > 0);
    if (!(crowd = array_new(members, sizeof(*crowd))))
        return error_wrap(E_NOMEM, "%u threads", members);
    for (unsigned i = 0; i < members; i++)
        crowd[i] = (struct member){.crew = &crew, .number = i};
    for (unsigned i = 1; i < members && i < count; i++)
        crowd[i].started = pthread_create(&crowd[i].thread, NULL, member_main, &crowd[i]) == 0;
    member_main(&crowd[0]);
    for (unsigned i = 1; i < members; i++) {
        if (crowd[i].started)
            pthread_join(crowd[i].thread, NULL);
    }
    pthread_mutex_destroy(&crew.mutex);
    return crew.failed == SIZE_MAX ? 0 : error_unpack(crew.err, crew.packed);
}

/* Cores that this process may use. */
static size_t core_count(void)
{
    cpu_set_t set;

    if (sched_getaffinity(0, sizeof(set), &set) == 0 && CPU_COUNT(&set) > 0)
        return (size_t)CPU_COUNT(&set);
    long online = sysconf(_SC_NPROCESSORS_ONLN);
    return online > 0 ? (size_t)online : 1;
}

unsigned crew_size(size_t count)
{
    size_t cores = core_count();

    return count < 2 ? 1 : (unsigned)(count < cores ? count : cores);
}
