/* What is said over the socket of a running model. See control.h. */
#include "format/control.h"

#include <inttypes.h>
#include <string.h>

#define VERSION         1
#define FLAG_ATTACHED   1u
#define FLAG_PREVIOUS   2u
#define FLAG_PINNED     4u
#define FLAG_TORN       8u
#define FLAGS_ALL       15u
#define BODY_STEP       ((size_t)64 << 10)
#define BODY_PIECE_MAX  ((size_t)1 << 20)
#define HEAD_BYTES_MOST (CONTROL_REQUEST_BYTES + BUNDLE_HEADER_BYTES)

static const uint8_t request_magic[4] = {'V', 'S', 'R', 'Q'};
static const uint8_t reply_magic[4] = {'V', 'S', 'R', 'P'};

static uint64_t number_read(const uint8_t *at, unsigned size)
{
    uint64_t number = 0;

    for (unsigned i = 0; i < size; i++)
        number |= (uint64_t)at[i] << (8 * i);
    return number;
}

static void number_write(uint8_t *at, uint64_t number, unsigned size)
{
    for (unsigned i = 0; i < size; i++)
        at[i] = (uint8_t)(number >> (8 * i));
}

/* Requests */

void control_request_encode(
    uint8_t out[CONTROL_REQUEST_BYTES], const struct control_request *request
)
{
    memset(out, 0, CONTROL_REQUEST_BYTES);
    memcpy(out, request_magic, sizeof(request_magic));
    out[4] = VERSION;
    out[5] = (uint8_t)request->verb;
    number_write(out + 8, request->body_bytes, 8);
}

int control_request_decode(struct control_request *out, struct bytes head)
{
    const uint8_t *at = head.data;

    if (head.len < CONTROL_REQUEST_BYTES || memcmp(at, request_magic, sizeof(request_magic)) != 0)
        return error_set(E_CORRUPT, "request: these bytes are none");
    if (at[4] != VERSION)
        return error_set(
            E_UNSUPPORTED, "request: version %u, this program knows version %d", at[4], VERSION
        );
    if (at[5] < CONTROL_STATUS || at[5] > CONTROL_DETACH)
        return error_set(E_UNSUPPORTED, "request: verb %u is not known", at[5]);
    const struct control_request request = {
        .verb = (enum control_verb)at[5], .body_bytes = number_read(at + 8, 8)};
    if (at[6] || at[7] || (request.verb != CONTROL_SWAP && request.body_bytes))
        return error_set(E_CORRUPT, "request: it is not canonical");
    if (request.verb == CONTROL_SWAP && request.body_bytes < BUNDLE_HEADER_BYTES)
        return error_set(
            E_CORRUPT, "request: its body has %" PRIu64 " bytes, a bundle's header alone has %d",
            request.body_bytes, BUNDLE_HEADER_BYTES
        );
    *out = request;
    return 0;
}

static bool intake_has_body(const struct control_intake *intake)
{
    return intake->head_len >= CONTROL_REQUEST_BYTES && intake->request.verb == CONTROL_SWAP;
}

/* How many bytes the head has, as far as that is known. */
static size_t head_bytes(const struct control_intake *intake)
{
    return intake_has_body(intake) ? HEAD_BYTES_MOST : CONTROL_REQUEST_BYTES;
}

/* All of the head is there: how long the bundle says it is, and whether that can be taken. */
static int body_begin(struct control_intake *intake, const struct bundle_room *room)
{
    const struct bytes prefix = {intake->head + CONTROL_REQUEST_BYTES, BUNDLE_HEADER_BYTES};
    struct bundle_header header;
    int err = bundle_header_decode(&header, prefix, room);

    if (err < 0)
        return err;
    if (header.whole)
        return error_set(E_CORRUPT, "request: its bundle is a whole one");
    if (header.total_bytes != intake->request.body_bytes)
        return error_set(
            E_CORRUPT, "request: its body has %" PRIu64 " bytes, the bundle in it %" PRIu64,
            intake->request.body_bytes, header.total_bytes
        );
    if (header.total_bytes <= BODY_PIECE_MAX &&
        (err = buf_reserve(&intake->body, (size_t)header.total_bytes)) < 0)
        return err;
    return buf_append(&intake->body, prefix.data, prefix.len);
}

/* Where the body's next bytes belong. */
static int body_space(uint8_t **at, size_t *len, struct control_intake *intake, uint64_t body_max)
{
    struct buf *body = &intake->body;
    uint64_t left = intake->request.body_bytes - body->len;
    size_t piece = left < BODY_PIECE_MAX ? (size_t)left : BODY_PIECE_MAX;

    if (left == 0) {
        *len = 0;
        return 0;
    }
    if (body->len >= body_max)
        return error_set(
            E_LIMIT, "other requests are arriving: there is no room for one of %" PRIu64 " bytes",
            intake->request.body_bytes
        );
    if (body->cap == body->len) {
        int err = buf_reserve(body, piece < BODY_STEP ? piece : BODY_STEP);
        if (err < 0)
            return err;
    }
    *at = body->data + body->len;
    *len = body->cap - body->len < piece ? body->cap - body->len : piece;
    return 0;
}

/* The head, or the part of it that was still missing, is there: what does it say? */
static int head_take(struct control_intake *intake, const struct bundle_room *room)
{
    int err = 0;

    if (intake->head_len == CONTROL_REQUEST_BYTES)
        err = control_request_decode(
            &intake->request, (struct bytes){intake->head, CONTROL_REQUEST_BYTES}
        );
    else if (intake->head_len == HEAD_BYTES_MOST && intake->body.len == 0)
        err = body_begin(intake, room);
    return err;
}

int control_intake_space(
    uint8_t **at,
    size_t *len,
    struct control_intake *intake,
    const struct bundle_room *room,
    uint64_t body_max
)
{
    int err = head_take(intake, room);

    if (err < 0)
        return err;
    if (intake->head_len < head_bytes(intake)) {
        *at = intake->head + intake->head_len;
        *len = head_bytes(intake) - intake->head_len;
        return 0;
    }
    *len = 0;
    if (intake_has_body(intake) && (err = body_space(at, len, intake, body_max)) < 0)
        return err;
    intake->complete = *len == 0;
    return 0;
}

void control_intake_add(struct control_intake *intake, size_t len)
{
    if (intake->body.len)
        intake->body.len += len;
    else
        intake->head_len += len;
}

uint64_t control_intake_bytes(const struct control_intake *intake)
{
    return intake->body.len ? CONTROL_REQUEST_BYTES + (uint64_t)intake->body.len : intake->head_len;
}

uint64_t control_intake_total(const struct control_intake *intake)
{
    return CONTROL_REQUEST_BYTES + (intake_has_body(intake) ? intake->request.body_bytes : 0);
}

void control_intake_release(struct control_intake *intake)
{
    buf_release(&intake->body);
    *intake = (struct control_intake){0};
}

/* Replies */

int control_reply_encode(struct buf *out, int code, const struct control_state *state)
{
    const char *message = code < 0 ? error_message() : "", *hint = error_hint_text();
    uint8_t head[CONTROL_REPLY_BYTES] = {0};
    size_t message_bytes = strlen(message), hint_bytes = code < 0 && hint ? strlen(hint) : 0;

    if (message_bytes > CONTROL_MESSAGE_MAX)
        message_bytes = CONTROL_MESSAGE_MAX;
    if (hint_bytes > CONTROL_HINT_MAX)
        hint_bytes = CONTROL_HINT_MAX;
    /* Who was interrupted is not who asked. */
    if (code == E_INTERRUPTED)
        code = E_CONFLICT;
    memcpy(head, reply_magic, sizeof(reply_magic));
    head[4] = VERSION;
    head[5] = (uint8_t)-code;
    head[6] = (uint8_t
    )((state->attached ? FLAG_ATTACHED : 0) | (state->had_previous ? FLAG_PREVIOUS : 0) |
      (state->pinned ? FLAG_PINNED : 0) | (state->torn ? FLAG_TORN : 0));
    number_write(head + 8, state->epoch, 8);
    memcpy(head + 16, state->snapshot.bytes, DIGEST_SIZE);
    memcpy(head + 48, state->previous.bytes, DIGEST_SIZE);
    number_write(head + 80, state->modules, 8);
    number_write(head + 88, state->nanoseconds, 8);
    number_write(head + 96, state->stopped_nanoseconds, 8);
    number_write(head + 104, message_bytes, 4);
    number_write(head + 108, hint_bytes, 4);
    int err = buf_reserve(out, sizeof(head) + message_bytes + hint_bytes);
    if (err < 0 || (err = buf_append(out, head, sizeof(head))) < 0 ||
        (err = buf_append(out, message, message_bytes)) < 0)
        return err;
    return buf_append(out, hint, hint_bytes);
}

static bool digest_is_zero(const struct digest *digest)
{
    static const struct digest zero;

    return digest_equal(digest, &zero);
}

int control_reply_decode(struct control_reply *out, struct bytes head)
{
    const uint8_t *at = head.data;

    if (head.len < CONTROL_REPLY_BYTES || memcmp(at, reply_magic, sizeof(reply_magic)) != 0)
        return error_set(E_CORRUPT, "reply: these bytes are none");
    if (at[4] != VERSION)
        return error_set(
            E_UNSUPPORTED, "reply: version %u, this program knows version %d", at[4], VERSION
        );
    struct control_reply reply = {
        .code = -at[5],
        .state =
            {.epoch = number_read(at + 8, 8),
             .modules = number_read(at + 80, 8),
             .attached = at[6] & FLAG_ATTACHED,
             .had_previous = at[6] & FLAG_PREVIOUS,
             .pinned = at[6] & FLAG_PINNED,
             .torn = at[6] & FLAG_TORN,
             .nanoseconds = number_read(at + 88, 8),
             .stopped_nanoseconds = number_read(at + 96, 8)},
        .message_bytes = (uint32_t)number_read(at + 104, 4),
        .hint_bytes = (uint32_t)number_read(at + 108, 4),
    };
    memcpy(reply.state.snapshot.bytes, at + 16, DIGEST_SIZE);
    memcpy(reply.state.previous.bytes, at + 48, DIGEST_SIZE);
    if (reply.message_bytes > CONTROL_MESSAGE_MAX || reply.hint_bytes > CONTROL_HINT_MAX)
        return error_set(E_LIMIT, "reply: its texts are too long");
    if (reply.code < E_DEVICE || at[6] > FLAGS_ALL || at[7] ||
        (reply.code == 0) != (reply.message_bytes == 0) ||
        (reply.hint_bytes && !reply.message_bytes) ||
        reply.state.attached == digest_is_zero(&reply.state.snapshot) ||
        (reply.state.attached && reply.state.torn) ||
        (!reply.state.had_previous && !digest_is_zero(&reply.state.previous)))
        return error_set(E_CORRUPT, "reply: it is not canonical");
    *out = reply;
    return 0;
}

/* The end of the line that begins at `from`: details are lines of their own. */
static size_t line_end(struct bytes text, size_t from)
{
    const uint8_t *feed = memchr(text.data + from, '\n', text.len - from);

    return feed ? (size_t)(feed - text.data) : text.len;
}

int control_reply_error(const struct control_reply *reply, struct bytes texts)
{
    struct bytes message = {texts.data, reply->message_bytes};
    size_t end = line_end(message, 0);
    int code = error_set(reply->code, "%.*s", (int)end, (const char *)message.data);

    for (size_t at = end + 1; at < message.len; at = end + 1) {
        end = line_end(message, at);
        while (at < end && message.data[at] == ' ')
            at++;
        code = error_detail(code, "%.*s", (int)(end - at), (const char *)message.data + at);
    }
    if (reply->hint_bytes)
        code = error_hint(
            code, "%.*s", (int)reply->hint_bytes, (const char *)texts.data + reply->message_bytes
        );
    return code;
}
