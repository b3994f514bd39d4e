/* The guard around zlib's inflate(). See inflate.h. */
#define _GNU_SOURCE
#include "store/inflate.h"

#include <dlfcn.h>
#include <string.h>
#include <zlib.h>

/* Found by libraries before zlib's own, since a program comes before its libraries. */
__attribute__((visibility("default"))) int inflate(z_streamp stream, int flush);

int inflate(z_streamp stream, int flush)
{
    int (*real)(z_streamp, int) = NULL;
    void *symbol = dlsym(RTLD_NEXT, "inflate");
    bool has_input = stream->avail_in > 0;

    memcpy(&real, &symbol, sizeof(real));
    if (!real)
        return Z_STREAM_ERROR;
    uInt room = stream->avail_out;
    int code = real(stream, flush);
    /* Z_FINISH: the caller has no more input than it has given. */
    bool stuck = code == Z_BUF_ERROR && flush == Z_FINISH && !has_input && room > 0 &&
                 stream->avail_out == room;
    return stuck ? Z_DATA_ERROR : code;
}

bool inflate_is_guarded(void)
{
    int (*ours)(z_streamp, int) = inflate;
    void *found = dlsym(RTLD_DEFAULT, "inflate");

    return memcmp(&ours, &found, sizeof(found)) == 0;
}
