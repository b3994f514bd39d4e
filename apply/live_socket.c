/* A running model listens on a unix socket. See live_socket.h. */
#define _GNU_SOURCE
#include "apply/live_socket.h"

#include <poll.h>
#include <pthread.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <time.h>
#include <unistd.h>

#include "apply/live_peer.h"
#include "format/limits.h"

#define ACCEPTS_AT_ONCE 16
#define TRY_AGAIN_MS    100 /* after the system had no descriptor for a new peer */

/* What the second thread does, handed over under the mutex. */
struct work {
    bool given, done;
    uint64_t number; /* of the peer */
    enum control_verb verb;
    struct buf bundle;
    int code;
    struct live_state state; /* where it is done */
    char *error;             /* error_pack() */
};

struct live_socket {
    struct live *live;
    struct live_socket_limits limits;
    struct bundle_room room;
    uint64_t body_most; /* of all peers together */
    uid_t user;
    int listener, wake; /* `wake`: an eventfd that ends a wait of the first thread */
    struct socket_file file;
    struct live_peer *peers; /* [limits.peers], by age */
    struct pollfd *polled;   /* [limits.peers + 2] */
    size_t count;
    uint64_t number;         /* of the next peer */
    uint64_t accept_from_ms; /* no descriptors until then */
    pthread_t talker, worker;
    pthread_mutex_t mutex; /* of what follows */
    pthread_cond_t changed;
    bool stopping;
    struct work work;
};

static uint64_t now_ms(void)
{
    struct timespec now;

    clock_gettime(CLOCK_MONOTONIC, &now);
    return (uint64_t)now.tv_sec * 1000 + (uint64_t)now.tv_nsec / 1000000;
}

static void wake(const struct live_socket *own)
{
    const uint64_t one = 1;

    (void)!write(own->wake, &one, sizeof(one));
}

/* The thread that swaps */

/* What was asked for, and the error of this thread where it fails. */
static int work_do(struct live_socket *own, struct work *work)
{
    if (work->verb == CONTROL_DETACH)
        return live_detach(&work->state, own->live);
    return live_swap_bundle(&work->state, own->live, buf_bytes(&work->bundle));
}

static void *worker_run(void *context)
{
    struct live_socket *own = context;

    pthread_mutex_lock(&own->mutex);
    while (!own->stopping) {
        if (!own->work.given || own->work.done) {
            pthread_cond_wait(&own->changed, &own->mutex);
            continue;
        }
        struct work work = own->work; /* nobody touches it before it is done */
        pthread_mutex_unlock(&own->mutex);
        work.code = work_do(own, &work);
        work.error = work.code < 0 ? error_pack() : NULL;
        buf_release(&work.bundle);
        work.done = true;
        pthread_mutex_lock(&own->mutex);
        own->work = work;
        wake(own);
    }
    pthread_mutex_unlock(&own->mutex);
    return NULL;
}

/* The thread that talks */

static struct live_peer_rules rules_now(const struct live_socket *own)
{
    return (struct live_peer_rules){
        .live = own->live,
        .room = &own->room,
        .now_ms = now_ms(),
        .request_ms = own->limits.request_ms,
        .body_rate = own->limits.body_rate,
        .reply_ms = own->limits.reply_ms,
    };
}

static void peer_drop(struct live_socket *own, size_t i)
{
    live_peer_release(&own->peers[i]);
    memmove(&own->peers[i], &own->peers[i + 1], (own->count - i - 1) * sizeof(*own->peers));
    own->count--;
}

/* How many bytes of bodies the others hold leaves so many to this one. */
static uint64_t body_max(const struct live_socket *own, const struct live_peer *peer)
{
    uint64_t others = 0;

    for (size_t i = 0; i < own->count; i++)
        others += &own->peers[i] == peer ? 0 : own->peers[i].intake.body.len;
    return others < own->body_most ? own->body_most - others : 0;
}

/* One step of a peer that can take it; false: it is gone. */
static bool peer_step(struct live_peer *peer, short events, struct live_peer_rules *rules)
{
    if (events && peer->state == PEER_ASKS && !live_peer_read(peer, rules))
        return false;
    if (peer->state == PEER_LISTENS && !live_peer_write(peer))
        return false;
    return live_peer_until(peer, rules) > rules->now_ms || live_peer_expire(peer, rules);
}

/* `polled`: what poll() said of the first `count` peers. */
static void peers_step(struct live_socket *own, size_t count)
{
    struct live_peer_rules rules = rules_now(own);

    for (size_t i = count; i-- > 0;) {
        rules.body_max = body_max(own, &own->peers[i]);
        if (!peer_step(&own->peers[i], own->polled[2 + i].revents, &rules))
            peer_drop(own, i);
    }
}

/* The swap that is done: its peer, if it is still there, is told. */
static void work_collect(struct live_socket *own)
{
    struct live_peer_rules rules = rules_now(own);
    struct work work = {0};

    pthread_mutex_lock(&own->mutex);
    if (own->work.done) {
        work = own->work;
        own->work = (struct work){0};
    }
    pthread_mutex_unlock(&own->mutex);
    if (!work.done)
        return;
    if (work.code < 0)
        work.code = error_unpack(work.code, work.error);
    for (size_t i = 0; i < own->count; i++) {
        if (own->peers[i].number != work.number)
            continue;
        if (!live_peer_answer(
                &own->peers[i], work.code, work.code < 0 ? NULL : &work.state, &rules
            ) ||
            !live_peer_write(&own->peers[i]))
            peer_drop(own, i);
        return;
    }
}

/* The next swap: of the peer that has waited longest. */
static void work_give(struct live_socket *own)
{
    pthread_mutex_lock(&own->mutex);
    for (size_t i = 0; i < own->count && !own->work.given; i++) {
        struct live_peer *peer = &own->peers[i];
        if (peer->state != PEER_WAITS)
            continue;
        own->work = (struct work){
            .given = true,
            .number = peer->number,
            .verb = peer->intake.request.verb,
            .bundle = buf_take(&peer->intake.body),
        };
        pthread_cond_signal(&own->changed);
    }
    pthread_mutex_unlock(&own->mutex);
}

/* The peer that is missed least: the oldest that has sent next to nothing, else the oldest whose
   body arrives, else the oldest that does not take its reply. SIZE_MAX: all wait for us. */
static size_t peer_least(const struct live_socket *own)
{
    size_t best = SIZE_MAX;
    unsigned best_class = 3;

    for (size_t i = 0; i < own->count; i++) {
        const struct live_peer *peer = &own->peers[i];
        unsigned class = peer->state == PEER_ASKS      ? (peer->intake.body.len != 0)
                         : peer->state == PEER_LISTENS ? 2
                                                       : 3;
        if (class < best_class) {
            best_class = class;
            best = i;
        }
    }
    return best;
}

/* Whoever is not of our user: told so, where that goes without waiting, and unread. */
static void stranger_refuse(const struct live_socket *own, int fd)
{
    static const struct control_state nothing; /* of our state they learn nothing */
    AUTO_BUF(reply);
    size_t sent;

    int err = error_set(
        E_IO, "the model belongs to user %ju, and only that user may ask it", (uintmax_t)own->user
    );
    err = error_hint(err, "run it as that user: sudo -u '#%ju' vera ...", (uintmax_t)own->user);
    if (control_reply_encode(&reply, err, &nothing) == 0)
        (void)!socket_send(&sent, fd, buf_bytes(&reply));
}

static void peer_add(struct live_socket *own, int fd)
{
    own->peers[own->count++] = (struct live_peer){
        .fd = fd,
        .state = PEER_ASKS,
        .number = own->number++,
        .since_ms = now_ms(),
    };
}

/* One who waits to be let in; false: nobody, or nobody can be now. */
static bool peer_accept(struct live_socket *own)
{
    size_t least = peer_least(own);
    AUTO_FD(fd);
    uid_t user;

    if (own->count == own->limits.peers && least == SIZE_MAX)
        return false;
    if (socket_accept(&fd, own->listener) < 0) {
        /* Most likely out of descriptors: one that is missed least has one. */
        own->accept_from_ms = now_ms() + TRY_AGAIN_MS;
        if (least != SIZE_MAX)
            peer_drop(own, least);
        return false;
    }
    if (fd < 0)
        return false;
    if (socket_peer(&user, fd) < 0 || user != own->user) {
        stranger_refuse(own, fd);
        return true;
    }
    if (own->count == own->limits.peers)
        peer_drop(own, least);
    peer_add(own, fd);
    fd = -1;
    return true;
}

static int milliseconds(uint64_t until, uint64_t now)
{
    uint64_t left = until > now ? until - now : 0;
    int for_ever = -1;

    return until == UINT64_MAX ? for_ever : left < 60000 ? (int)left : 60000;
}

/* What to wait for; returns how long at most, in milliseconds. */
static int wait_prepare(struct live_socket *own)
{
    struct live_peer_rules rules = rules_now(own);
    uint64_t until = UINT64_MAX;
    bool open = own->count < own->limits.peers || peer_least(own) != SIZE_MAX;

    if (open && own->accept_from_ms > rules.now_ms) {
        open = false;
        until = own->accept_from_ms;
    }
    own->polled[0] = (struct pollfd){.fd = own->wake, .events = POLLIN};
    own->polled[1] = (struct pollfd){.fd = open ? own->listener : -1, .events = POLLIN};
    for (size_t i = 0; i < own->count; i++) {
        const struct live_peer *peer = &own->peers[i];
        /* Who waits for us is not asked: a peer that is gone would say so all the time. */
        own->polled[2 + i] = (struct pollfd){
            .fd = peer->state == PEER_WAITS ? -1 : peer->fd,
            .events = peer->state == PEER_ASKS ? POLLIN : POLLOUT,
        };
        uint64_t own_until = live_peer_until(peer, &rules);
        until = own_until < until ? own_until : until;
    }
    return milliseconds(until, rules.now_ms);
}

static bool is_stopping(struct live_socket *own)
{
    pthread_mutex_lock(&own->mutex);
    bool stopping = own->stopping;
    pthread_mutex_unlock(&own->mutex);
    return stopping;
}

static void *talker_run(void *context)
{
    struct live_socket *own = context;
    uint64_t woken;

    while (!is_stopping(own)) {
        int timeout = wait_prepare(own);
        size_t count = own->count;
        if (poll(own->polled, count + 2, timeout) < 0) {
            /* Signals are not for this thread; short of memory, the kernel may have some later. */
            poll(NULL, 0, TRY_AGAIN_MS);
            continue;
        }
        if (own->polled[0].revents)
            (void)!read(own->wake, &woken, sizeof(woken));
        peers_step(own, count);
        work_collect(own);
        if (own->polled[1].revents) {
            for (unsigned i = 0; i < ACCEPTS_AT_ONCE && peer_accept(own); i++)
                ;
        }
        work_give(own);
    }
    return NULL;
}

/* From open to close */

static void limits_fill(struct live_socket_limits *out, const struct live_socket_limits *given)
{
    *out = given ? *given : (struct live_socket_limits){0};
    if (!out->peers)
        out->peers = 64;
    if (!out->request_ms)
        out->request_ms = 10000;
    if (!out->body_rate)
        out->body_rate = MIB;
    if (!out->reply_ms)
        out->reply_ms = 10000;
}

static void own_free(struct live_socket *own)
{
    for (size_t i = 0; own->peers && i < own->count; i++)
        live_peer_release(&own->peers[i]);
    free(own->peers);
    free(own->polled);
    buf_release(&own->work.bundle);
    free(own->work.error);
    /* The file goes first: who connects in between would wait for an answer. */
    socket_file_release(&own->file);
    fd_release(&own->listener);
    fd_release(&own->wake);
    pthread_cond_destroy(&own->changed);
    pthread_mutex_destroy(&own->mutex);
    free(own);
}

/* Everything but the listener and the threads. */
static int
own_new(struct live_socket **out, struct live *live, const struct live_socket_limits *limits)
{
    struct live_socket *own = array_new(1, sizeof(*own));

    if (!own)
        return error_wrap(E_NOMEM, "socket");
    own->live = live;
    own->user = geteuid();
    own->listener = own->wake = -1;
    limits_fill(&own->limits, limits);
    live_room(&own->room, live);
    own->body_most = LIVE_SOCKET_SLACK;
    for (unsigned i = 0; i < BUNDLE_PARTS; i++)
        own->body_most += own->room.part_bytes[i];
    pthread_mutex_init(&own->mutex, NULL);
    pthread_cond_init(&own->changed, NULL);
    *out = own;
    if (!own->room.part_bytes[BUNDLE_MANIFEST])
        return error_set(E_INVALID, "the live model is not sealed");
    own->peers = array_new(own->limits.peers, sizeof(*own->peers));
    own->polled = array_new(own->limits.peers + 2, sizeof(*own->polled));
    if (!own->peers || !own->polled)
        return error_wrap(E_NOMEM, "socket");
    own->wake = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
    return own->wake < 0 ? file_error("socket") : 0;
}

static int thread_start(pthread_t *out, void *(*run)(void *), struct live_socket *own)
{
    sigset_t all, before;

    /* The program's signals are for its own threads. */
    sigfillset(&all);
    pthread_sigmask(SIG_SETMASK, &all, &before);
    int problem = pthread_create(out, NULL, run, own);
    pthread_sigmask(SIG_SETMASK, &before, NULL);
    return problem ? error_set(E_NOMEM, "socket: no thread: %s", strerror(problem)) : 0;
}

static void stop(struct live_socket *own)
{
    pthread_mutex_lock(&own->mutex);
    own->stopping = true;
    pthread_cond_signal(&own->changed);
    wake(own);
    pthread_mutex_unlock(&own->mutex);
}

static int threads_start(struct live_socket *own)
{
    int err = thread_start(&own->worker, worker_run, own);

    if (err < 0 || (err = thread_start(&own->talker, talker_run, own)) == 0)
        return err;
    stop(own);
    pthread_join(own->worker, NULL);
    return err;
}

int live_socket_open(
    struct live_socket **out,
    struct live *live,
    const char *path,
    const struct live_socket_limits *limits
)
{
    struct live_socket *own = NULL;
    int err;

    if ((err = own_new(&own, live, limits)) == 0 &&
        (err = socket_listen(&own->listener, &own->file, path)) == 0 &&
        (err = threads_start(own)) == 0)
        *out = own;
    else if (own)
        own_free(own);
    return err;
}

int live_socket_open_fd(
    struct live_socket **out, struct live *live, int fd, const struct live_socket_limits *limits
)
{
    struct live_socket *own = NULL;
    int err;

    if ((err = own_new(&own, live, limits)) == 0 && (err = socket_adopt(fd)) == 0) {
        own->listener = fd;
        if ((err = threads_start(own)) == 0) {
            *out = own;
            return 0;
        }
        own->listener = -1;
    }
    if (own)
        own_free(own);
    return err;
}

void live_socket_close(struct live_socket *own)
{
    if (!own)
        return;
    stop(own);
    pthread_join(own->talker, NULL);
    pthread_join(own->worker, NULL);
    own_free(own);
}
