/* Any bytes as a request, in pieces of any size: it takes no more memory than has arrived, but for
   a bundle of up to a MiB; and as a reply. The first byte says how large the pieces are, the second
   whether the bundle's header gets a right digest, since no fuzzer would hit it. */
#include <stdlib.h>
#include <string.h>

#include "format/control.h"
#include "format/limits.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void intake_run(struct bytes data, size_t piece)
{
    struct control_intake intake = {0};
    struct bytes left = data;
    size_t len;
    uint8_t *at;

    while (control_intake_space(&at, &len, &intake, &bundle_room_any, UINT64_MAX) == 0 &&
           !intake.complete && left.len) {
        if (len == 0)
            abort();
        len = len < piece ? len : piece;
        len = len < left.len ? len : left.len;
        memcpy(at, left.data, len);
        control_intake_add(&intake, len);
        left.data += len;
        left.len -= len;
        if (intake.body.cap > MIB && intake.body.cap > 4 * intake.body.len + 256 * KIB)
            abort();
    }
    if (intake.complete && control_intake_bytes(&intake) != control_intake_total(&intake))
        abort();
    if (intake.complete && data.len - left.len != control_intake_total(&intake))
        abort();
    control_intake_release(&intake);
}

static void reply_run(struct bytes data)
{
    struct control_reply reply;

    if (control_reply_decode(&reply, data) < 0 || reply.code == 0 ||
        data.len - CONTROL_REPLY_BYTES < (size_t)reply.message_bytes + reply.hint_bytes)
        return;
    const struct bytes texts = {data.data + CONTROL_REPLY_BYTES, data.len - CONTROL_REPLY_BYTES};
    if (control_reply_error(&reply, texts) != reply.code)
        abort();
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    const size_t headed = CONTROL_REQUEST_BYTES + BUNDLE_HEADER_BYTES;
    struct digest digest;
    AUTO_BUF(request);

    if (size < 2)
        return 0;
    if (buf_append(&request, data + 2, size - 2) < 0)
        abort();
    if (data[1] & 1 && request.len >= headed) {
        if (digest_of(&digest, (struct bytes){request.data + CONTROL_REQUEST_BYTES, 120}) < 0)
            abort();
        memcpy(request.data + headed - DIGEST_SIZE, digest.bytes, DIGEST_SIZE);
    }
    intake_run(buf_bytes(&request), data[0] ? data[0] : SIZE_MAX);
    reply_run(buf_bytes(&request));
    return 0;
}
