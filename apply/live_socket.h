/*
 * A running model listens on a unix socket: "vera swap" changes its adapter (format/control.h says
 * how they talk).
 *
 * Two threads. One talks to all peers and never waits for any of them: each is a connection that
 * gives a request and takes a reply, both within their time, or is dropped. The other carries out
 * swaps, one at a time and in the order in which they have arrived, so that a status is answered
 * meanwhile. Only processes of the same user are listened to; nothing is read from others. What
 * peers send takes memory as it arrives, and never more than the largest bundle that fits the
 * model and LIVE_SOCKET_SLACK. A request that has arrived whole is carried out, even if its sender
 * goes.
 */
#ifndef APPLY_LIVE_SOCKET_H
#define APPLY_LIVE_SOCKET_H

#include "apply/live.h"
#include "format/socket.h"

struct live_socket;

/* Fields that are 0 mean the usual. */
struct live_socket_limits {
    unsigned peers;      /* at a time: 64. One more: the oldest that has not sent all is dropped */
    unsigned request_ms; /* from the connection to a request without a body: 10,000, */
    unsigned body_rate;  /* and so many bytes a second on the average for the rest: 1 MiB */
    unsigned reply_ms;   /* to take the reply: 10,000 */
};

#define LIVE_SOCKET_SLACK (64 * MIB)

/* Listen at a path (socket_listen()), or on a descriptor, which is taken over unless this fails.
   The model must be sealed, and outlive it: E_INVALID. `limits` may be NULL.
   socket_listen()'s and socket_adopt()'s errors; E_NOMEM, E_IO. */
MUST_CHECK int live_socket_open(
    struct live_socket **out,
    struct live *live,
    const char *path,
    const struct live_socket_limits *limits
);
MUST_CHECK int live_socket_open_fd(
    struct live_socket **out, struct live *live, int fd, const struct live_socket_limits *limits
);

/* Ends once the swap that runs has ended; those that wait are dropped. The file goes. */
void live_socket_close(struct live_socket *live_socket);

#endif
