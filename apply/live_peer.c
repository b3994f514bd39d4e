/* One connection to a running model. See live_peer.h. */
#include "apply/live_peer.h"

#include <inttypes.h>

#include "format/socket.h"

/* One peer that sends fast does not keep the others waiting. */
#define READS_AT_ONCE 16

static void state_tell(struct control_state *out, const struct live_state *state)
{
    *out = (struct control_state){
        .epoch = state->epoch,
        .modules = state->modules,
        .attached = state->attached,
        .had_previous = state->had_previous,
        .pinned = state->pinned,
        .torn = state->torn,
        .snapshot = state->snapshot,
        .previous = state->previous,
        .nanoseconds = (uint64_t)(state->seconds * 1e9),
        .stopped_nanoseconds = (uint64_t)(state->stopped * 1e9),
    };
}

bool live_peer_answer(
    struct live_peer *peer,
    int code,
    const struct live_state *state,
    const struct live_peer_rules *rules
)
{
    struct live_state now;
    struct control_state told;

    live_status(&now, rules->live);
    state_tell(&told, state ? state : &now);
    buf_release(&peer->intake.body);
    peer->reply_until_ms = rules->now_ms + rules->reply_ms;
    peer->state = PEER_LISTENS;
    return control_reply_encode(&peer->reply, code, &told) == 0;
}

/* The whole request is there. */
static bool request_take(struct live_peer *peer, const struct live_peer_rules *rules)
{
    if (peer->intake.request.verb == CONTROL_STATUS)
        return live_peer_answer(peer, 0, NULL, rules);
    peer->state = PEER_WAITS;
    return true;
}

static bool request_ends(struct live_peer *peer, const struct live_peer_rules *rules)
{
    uint64_t there = control_intake_bytes(&peer->intake);

    /* Somebody looked whether anybody listens. */
    if (there == 0)
        return false;
    int err = error_set(
        E_CORRUPT, "request: it ends after %" PRIu64 " bytes of %" PRIu64, there,
        control_intake_total(&peer->intake)
    );
    return live_peer_answer(peer, err, NULL, rules);
}

bool live_peer_read(struct live_peer *peer, const struct live_peer_rules *rules)
{
    struct control_intake *intake = &peer->intake;
    size_t len, got = 1;
    bool ended = false;
    uint8_t *at;

    for (unsigned i = 0; i < READS_AT_ONCE && got && !ended; i++) {
        int err = control_intake_space(&at, &len, intake, rules->room, rules->body_max);
        if (err < 0)
            return live_peer_answer(peer, err, NULL, rules);
        if (intake->complete)
            return request_take(peer, rules);
        if (socket_receive(&got, &ended, peer->fd, at, len) < 0)
            return false;
        control_intake_add(intake, got);
    }
    return ended ? request_ends(peer, rules) : true;
}

bool live_peer_write(struct live_peer *peer)
{
    struct bytes left = {peer->reply.data + peer->sent, peer->reply.len - peer->sent};
    size_t sent;

    if (socket_send(&sent, peer->fd, left) < 0)
        return false;
    peer->sent += sent;
    return peer->sent < peer->reply.len;
}

uint64_t live_peer_until(const struct live_peer *peer, const struct live_peer_rules *rules)
{
    if (peer->state == PEER_WAITS)
        return UINT64_MAX;
    if (peer->state == PEER_LISTENS)
        return peer->reply_until_ms;
    /* What it says of its length counts once its bundle says so, too, and that can be taken. */
    uint64_t bytes = peer->intake.body.len ? control_intake_total(&peer->intake) : 0;
    return peer->since_ms + rules->request_ms + bytes * 1000 / rules->body_rate;
}

bool live_peer_expire(struct live_peer *peer, const struct live_peer_rules *rules)
{
    if (peer->state != PEER_ASKS)
        return false;
    int err = error_set(
        E_CONFLICT, "request: after %.1f s there are %" PRIu64 " bytes of %" PRIu64,
        (double)(rules->now_ms - peer->since_ms) / 1000, control_intake_bytes(&peer->intake),
        control_intake_total(&peer->intake)
    );
    return live_peer_answer(peer, err, NULL, rules);
}

void live_peer_release(struct live_peer *peer)
{
    fd_release(&peer->fd);
    control_intake_release(&peer->intake);
    buf_release(&peer->reply);
}
