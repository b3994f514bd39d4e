/* SHA-256 (OpenSSL EVP), the only digest of the format, and its hex form. */
#ifndef FORMAT_DIGEST_H
#define FORMAT_DIGEST_H

#include "format/buf.h"

#define DIGEST_SIZE     32
#define DIGEST_HEX_SIZE 65 /* with the NUL */

struct digest {
    uint8_t bytes[DIGEST_SIZE];
};

/* Start libcrypto as far as digests need it: without its configuration file, the tables of all
   algorithms by name, and tidying at exit. A millisecond, where a whole command takes a few. */
void digest_library_start(void);

/* A hash in progress. */
struct hash {
    void *context; /* EVP_MD_CTX, owned */
};

#define AUTO_HASH(name) __attribute__((cleanup(hash_release))) struct hash name = {0}

MUST_CHECK int digest_of(struct digest *out, struct bytes data);

/* digest_of() for many short texts: `hash`, all-zero at first, keeps what is costly to make. */
MUST_CHECK int digest_with(struct digest *out, struct hash *hash, struct bytes data);

MUST_CHECK int hash_init(struct hash *hash);
MUST_CHECK int hash_update(struct hash *hash, const void *data, size_t len);
MUST_CHECK int hash_final(struct digest *out, struct hash *hash);
void hash_release(struct hash *hash);

/* 64 lower-case hex digits and a NUL. */
void digest_hex(char out[DIGEST_HEX_SIZE], const struct digest *digest);

/* Exactly 64 lower-case hex digits, else E_INVALID. */
MUST_CHECK int digest_parse(struct digest *out, struct bytes hex);

bool digest_equal(const struct digest *a, const struct digest *b);

#endif
