/* One connection to a running model: a request that arrives, a reply that leaves. It never waits:
   each step does what can be done now. */
#ifndef APPLY_LIVE_PEER_H
#define APPLY_LIVE_PEER_H

#include "apply/live.h"
#include "format/control.h"

enum live_peer_state {
    PEER_ASKS,   /* its request arrives */
    PEER_WAITS,  /* for its turn, or for the end of its swap */
    PEER_LISTENS /* the reply leaves */
};

struct live_peer {
    int fd;
    enum live_peer_state state;
    uint64_t number;   /* of all connections so far */
    uint64_t since_ms; /* it is there */
    struct control_intake intake;
    struct buf reply;
    size_t sent;
    uint64_t reply_until_ms;
};

/* What a step needs to know of all. */
struct live_peer_rules {
    struct live *live;
    const struct bundle_room *room;
    uint64_t body_max; /* bytes that this peer's body may come to */
    uint64_t now_ms;
    unsigned request_ms, body_rate, reply_ms;
};

/* The peer may be read from. What is wrong with its request becomes its reply; a status is
   answered. False: it is to be dropped. */
MUST_CHECK bool live_peer_read(struct live_peer *peer, const struct live_peer_rules *rules);

/* Send more of the reply. False: it is to be dropped, all is sent or nobody takes it. */
MUST_CHECK bool live_peer_write(struct live_peer *peer);

/* `code`: 0 or this thread's error. `state`: NULL: the model's now. False where memory is short. */
MUST_CHECK bool live_peer_answer(
    struct live_peer *peer,
    int code,
    const struct live_state *state,
    const struct live_peer_rules *rules
);

/* When it has to be through with what it does; UINT64_MAX where it waits for us. */
uint64_t live_peer_until(const struct live_peer *peer, const struct live_peer_rules *rules);

/* Its time is over. False: it is to be dropped. */
MUST_CHECK bool live_peer_expire(struct live_peer *peer, const struct live_peer_rules *rules);

void live_peer_release(struct live_peer *peer);

#endif
