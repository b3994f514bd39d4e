/*
 * What is said over the socket of a running model: one request, one reply, and the connection ends.
 *
 *   request                                      reply
 *   OFFSET  SIZE  FIELD                          OFFSET  SIZE  FIELD
 *        0     4  magic "VSRQ"                        0     4  magic "VSRP"
 *        4     1  version, 1                          4     1  version, 1
 *        5     1  verb                                5     1  code, 0 where it was done
 *        6     2  zero                                6     1  flags
 *        8     8  length of the body                  7     1  zero
 *       16        body: for a swap a bare             8     8  epoch
 *                 bundle, else nothing               16    32  snapshot
 *                                                    48    32  previous
 *                                                    80     8  modules
 *                                                    88     8  seconds, in nanoseconds
 *                                                    96     8  stopped, in nanoseconds
 *                                                   104     4  length of the message
 *                                                   108     4  length of the hint
 *                                                   112        message, hint
 *
 * Who takes a request knows after its first 16 bytes what it is and after 168 how long, and
 * compares that with what it can take; memory grows with the bytes that have arrived, never ahead
 * of them.
 */
#ifndef FORMAT_CONTROL_H
#define FORMAT_CONTROL_H

#include "format/bundle.h"

#define CONTROL_REQUEST_BYTES 16
#define CONTROL_REPLY_BYTES   112
#define CONTROL_MESSAGE_MAX   65536
#define CONTROL_HINT_MAX      1024

enum control_verb { CONTROL_STATUS = 1, CONTROL_SWAP = 2, CONTROL_DETACH = 3 };

struct control_request {
    enum control_verb verb;
    uint64_t body_bytes;
};

void control_request_encode(
    uint8_t out[CONTROL_REQUEST_BYTES], const struct control_request *request
);

/* Of the first CONTROL_REQUEST_BYTES. E_CORRUPT; E_UNSUPPORTED for another version or verb. */
MUST_CHECK int control_request_decode(struct control_request *out, struct bytes head);

/* What the model computes with, as in apply/live.h. */
struct control_state {
    uint64_t epoch, modules;
    bool attached, had_previous, pinned, torn;
    struct digest snapshot, previous; /* zero where there is none */
    uint64_t nanoseconds, stopped_nanoseconds;
};

struct control_reply {
    int code; /* 0, or of enum error_code */
    struct control_state state;
    uint32_t message_bytes, hint_bytes; /* that follow */
};

/* Append a reply. With a negative code its texts are the thread's error. E_NOMEM. */
MUST_CHECK int control_reply_encode(struct buf *out, int code, const struct control_state *state);

/* Of the first CONTROL_REPLY_BYTES. E_CORRUPT; E_LIMIT above the limits of the texts;
   E_UNSUPPORTED. */
MUST_CHECK int control_reply_decode(struct control_reply *out, struct bytes head);

/* The other side's error becomes the thread's. `texts`: message and hint. Returns its code. */
MUST_CHECK int control_reply_error(const struct control_reply *reply, struct bytes texts);

/* A request that arrives piece by piece. All-zero at first. */
struct control_intake {
    uint8_t head[CONTROL_REQUEST_BYTES + BUNDLE_HEADER_BYTES];
    size_t head_len;
    struct control_request request; /* once CONTROL_REQUEST_BYTES are there */
    struct buf body;                /* the bundle, as far as it is there */
    bool complete;
};

/* Where the next bytes belong, at most `*len` of them; 0 where the request is complete. Errors:
   control_request_decode()'s, bundle_header_decode()'s for `room`; E_CORRUPT where the two do not
   agree on the length, or a bundle is whole; E_LIMIT where the body would come to more than
   `body_max` bytes; E_NOMEM. */
MUST_CHECK int control_intake_space(
    uint8_t **at,
    size_t *len,
    struct control_intake *intake,
    const struct bundle_room *room,
    uint64_t body_max
);

/* So many bytes were put there. */
void control_intake_add(struct control_intake *intake, size_t len);

/* Bytes that are there, and that the whole request has, as far as that is known. */
uint64_t control_intake_bytes(const struct control_intake *intake);
uint64_t control_intake_total(const struct control_intake *intake);

void control_intake_release(struct control_intake *intake);

#endif
