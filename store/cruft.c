#include "store/cruft.h"

#include <string.h>

#define HEADER 12u

static const uint8_t header[HEADER] = {'M', 'T', 'M', 'E', 0, 0, 0, 1, 0, 0, 0, 1};

int cruft_encode(
    struct buf *out, const uint32_t *times, size_t count, const uint8_t pack_sha1[SHA1_SIZE]
)
{
    AUTO_BUF(data);
    uint8_t sha1[SHA1_SIZE];
    int err = buf_append(&data, header, HEADER);

    for (size_t i = 0; err == 0 && i < count; i++)
        err = append_be32(&data, times[i]);
    if (err < 0 || (err = buf_append(&data, pack_sha1, SHA1_SIZE)) < 0 ||
        (err = sha1_of(sha1, buf_bytes(&data))) < 0 ||
        (err = buf_append(&data, sha1, SHA1_SIZE)) < 0)
        return err;
    *out = buf_take(&data);
    return 0;
}

int cruft_decode(uint32_t **out, size_t count, struct bytes data, const char *path)
{
    uint8_t sha1[SHA1_SIZE];
    size_t end = data.len - SHA1_SIZE;

    if (data.len < HEADER + 2 * SHA1_SIZE || (data.len - HEADER - 2 * SHA1_SIZE) / 4 != count ||
        data.len % 4 != 0 || memcmp(data.data, header, HEADER) != 0)
        return error_set(E_CORRUPT, "%s: does not tell the times of %zu objects", path, count);
    int err = sha1_of(sha1, (struct bytes){data.data, end});
    if (err < 0)
        return err;
    if (memcmp(sha1, data.data + end, SHA1_SIZE) != 0)
        return error_set(E_CORRUPT, "%s: is damaged: its SHA-1 is another", path);
    uint32_t *times = array_new(count, sizeof(*times));
    if (!times)
        return error_wrap(E_NOMEM, "%s", path);
    for (size_t i = 0; i < count; i++)
        times[i] = read_be32(data.data + HEADER + 4 * i);
    *out = times;
    return 0;
}
