/* Ask a running model over its socket. See asking.h. */
#include "cli/asking.h"

#include <errno.h>
#include <inttypes.h>
#include <poll.h>
#include <string.h>
#include <time.h>

#include "format/socket.h"

#define TRY_AGAIN_MS 20                  /* after a server had too many to answer */
#define PIECE        ((size_t)256 << 10) /* sent between two reports of progress */

struct talk {
    const struct asking *asking;
    int fd;
    uint64_t until_ms;
    bool sent; /* all of the request */
};

static uint64_t now_ms(void)
{
    struct timespec now;

    clock_gettime(CLOCK_MONOTONIC, &now);
    return (uint64_t)now.tv_sec * 1000 + (uint64_t)now.tv_nsec / 1000000;
}

static int no_answer(const struct talk *talk, const char *why)
{
    int err = error_set(E_CONFLICT, "%s: %s", talk->asking->path, why);

    if (talk->sent && talk->asking->verb != CONTROL_STATUS)
        err = error_hint(
            err, "it may still be done: vera swap --status --socket %s tells", talk->asking->path
        );
    return err;
}

/* Until the socket can be read or written, or `at_most_ms` is over. `fd` may be -1. */
static int wait_for(const struct talk *talk, short events, uint64_t at_most_ms)
{
    struct pollfd polled = {.fd = talk->fd, .events = events};
    uint64_t now = now_ms(), left = talk->until_ms > now ? talk->until_ms - now : 0;
    int err = interrupt_check();

    if (err < 0)
        return err;
    if (left == 0)
        return no_answer(talk, "no answer in time");
    if (left > at_most_ms)
        left = at_most_ms;
    if (poll(&polled, 1, (int)left) < 0 && errno != EINTR)
        return file_error(talk->asking->path);
    return 0;
}

static int talk_connect(struct talk *talk)
{
    int err;

    while ((err = socket_connect(&talk->fd, talk->asking->path)) == 0 && talk->fd < 0) {
        if ((err = wait_for(talk, 0, TRY_AGAIN_MS)) < 0)
            return err;
    }
    if (err == E_NOTFOUND)
        err = error_hint(err, "start the program that has the model, and let it listen there");
    return err;
}

/* Send; a server that has answered already, and gone, ends it without an error. */
static int talk_send(struct talk *talk, struct bytes data, uint64_t before, uint64_t total)
{
    for (size_t done = 0, sent; done < data.len; done += sent) {
        struct bytes piece = {data.data + done, data.len - done};
        if (piece.len > PIECE)
            piece.len = PIECE;
        int err = wait_for(talk, POLLOUT, 1000);
        if (err < 0)
            return err;
        if (socket_send(&sent, talk->fd, piece) < 0)
            return 0;
        progress_update(talk->asking->progress, before + done + sent, total);
    }
    return 0;
}

static int request_send(struct talk *talk)
{
    const struct asking *asking = talk->asking;
    const struct control_request request = {.verb = asking->verb, .body_bytes = asking->bundle.len};
    uint64_t total = CONTROL_REQUEST_BYTES + asking->bundle.len;
    uint8_t head[CONTROL_REQUEST_BYTES];
    int err;

    control_request_encode(head, &request);
    if ((err = talk_send(talk, (struct bytes){head, sizeof(head)}, 0, total)) < 0)
        return err;
    err = talk_send(talk, asking->bundle, sizeof(head), total);
    talk->sent = err == 0;
    return err;
}

/* Exactly so many bytes more. */
static int talk_receive(struct talk *talk, struct buf *out, size_t len)
{
    size_t begin = out->len, got;
    bool ended;
    int err = buf_resize(out, begin + len);

    for (size_t done = 0; err == 0 && done < len; done += got) {
        if ((err = wait_for(talk, POLLIN, 1000)) < 0)
            return err;
        if (socket_receive(&got, &ended, talk->fd, out->data + begin + done, len - done) < 0 ||
            ended)
            return no_answer(talk, "the connection ended without an answer");
    }
    return err;
}

static int reply_receive(struct control_state *out, struct talk *talk)
{
    struct control_reply reply;
    AUTO_BUF(head);
    AUTO_BUF(texts);
    int err;

    if ((err = talk_receive(talk, &head, CONTROL_REPLY_BYTES)) < 0)
        return err;
    if ((err = control_reply_decode(&reply, buf_bytes(&head))) < 0)
        return error_wrap(err, "%s", talk->asking->path);
    if ((err = talk_receive(talk, &texts, reply.message_bytes + reply.hint_bytes)) < 0)
        return err;
    if (reply.code < 0)
        return control_reply_error(&reply, buf_bytes(&texts));
    *out = reply.state;
    return 0;
}

int ask(struct control_state *out, const struct asking *asking)
{
    struct talk talk = {.asking = asking, .fd = -1, .until_ms = now_ms() + asking->timeout * 1000};
    int err;

    if ((err = talk_connect(&talk)) == 0 && (err = request_send(&talk)) == 0)
        err = reply_receive(out, &talk);
    fd_release(&talk.fd);
    return err;
}
