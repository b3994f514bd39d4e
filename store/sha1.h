/* SHA-1 of a stream, as git has it at the end of its packs and their indexes: against accidents, so
   by OpenSSL, several times as fast as libgit2, which also looks for forged collisions. */
#ifndef STORE_SHA1_H
#define STORE_SHA1_H

#include "format/buf.h"

#define SHA1_SIZE 20

struct sha1 {
    void *context; /* EVP_MD_CTX, owned */
};

#define AUTO_SHA1(name) __attribute__((cleanup(sha1_release))) struct sha1 name = {0}
MUST_CHECK int sha1_init(struct sha1 *hash);
MUST_CHECK int sha1_update(struct sha1 *hash, const void *data, size_t len);
MUST_CHECK int sha1_final(uint8_t out[SHA1_SIZE], struct sha1 *hash);
void sha1_release(struct sha1 *hash);

MUST_CHECK int sha1_of(uint8_t out[SHA1_SIZE], struct bytes data);

#endif
