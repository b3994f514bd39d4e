/* Any bytes as a bundle, its two digests made right, since no fuzzer would hit them: what is taken,
   written again, is what was taken; and nothing costs more memory than there are bytes. */
#include <stdlib.h>
#include <string.h>

#include "format/bundle.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

/* The header's fields are bytes 0 to 87 of the input, the body follows. */
static void seal(struct buf *out, const uint8_t *data, size_t size)
{
    struct digest digest;

    if (buf_resize(out, size + 64) < 0)
        abort();
    memcpy(out->data, data, 88);
    memcpy(out->data + 152, data + 88, size - 88);
    if (digest_of(&digest, (struct bytes){out->data + 152, size - 88}) < 0)
        abort();
    memcpy(out->data + 88, digest.bytes, DIGEST_SIZE);
    if (digest_of(&digest, (struct bytes){out->data, 120}) < 0)
        abort();
    memcpy(out->data + 120, digest.bytes, DIGEST_SIZE);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    AUTO_SNAPSHOT(snapshot);
    AUTO_BUF(bundle);
    AUTO_BUF(again);
    struct bundle_header header;

    if (size < 88 || bundle_decode(&snapshot, (struct bytes){data, size}, &bundle_room_any) == 0)
        return 0;
    seal(&bundle, data, size);
    if (bundle_decode(&snapshot, buf_bytes(&bundle), &bundle_room_any) < 0)
        return 0;
    if (bundle_header_decode(&header, buf_bytes(&bundle), &bundle_room_any) < 0 ||
        bundle_encode(&again, &snapshot, header.whole) < 0 ||
        !bytes_equal(buf_bytes(&again), buf_bytes(&bundle)))
        abort();
    return 0;
}
