#include "format/digest.h"

#include <assert.h>
#include <string.h>

#include <openssl/crypto.h>
#include <openssl/evp.h>

void digest_library_start(void)
{
    OPENSSL_init_crypto(
        OPENSSL_INIT_NO_LOAD_CONFIG | OPENSSL_INIT_NO_ADD_ALL_CIPHERS |
            OPENSSL_INIT_NO_ADD_ALL_DIGESTS | OPENSSL_INIT_NO_ATEXIT,
        NULL
    );
}

int hash_init(struct hash *hash)
{
    digest_library_start();
    hash_release(hash);
    EVP_MD_CTX *context = EVP_MD_CTX_new();
    if (!context || EVP_DigestInit_ex(context, EVP_sha256(), NULL) != 1) {
        EVP_MD_CTX_free(context);
        return error_set(E_NOMEM, "SHA-256 is not available");
    }
    hash->context = context;
    return 0;
}

int hash_update(struct hash *hash, const void *data, size_t len)
{
    assert(hash->context);
    if (len && EVP_DigestUpdate(hash->context, data, len) != 1)
        return error_set(E_NOMEM, "SHA-256 failed");
    return 0;
}

int hash_final(struct digest *out, struct hash *hash)
{
    struct digest digest;

    assert(hash->context);
    if (EVP_DigestFinal_ex(hash->context, digest.bytes, NULL) != 1)
        return error_set(E_NOMEM, "SHA-256 failed");
    hash_release(hash);
    *out = digest;
    return 0;
}

void hash_release(struct hash *hash)
{
    EVP_MD_CTX_free(hash->context);
    hash->context = NULL;
}

int digest_of(struct digest *out, struct bytes data)
{
    AUTO_HASH(hash);
    int err;

    if ((err = hash_init(&hash)) < 0 || (err = hash_update(&hash, data.data, data.len)) < 0)
        return err;
    return hash_final(out, &hash);
}

int digest_with(struct digest *out, struct hash *hash, struct bytes data)
{
    struct digest digest;
    int err;

    if (!hash->context)
        err = hash_init(hash);
    else /* the same algorithm again */
        err = EVP_DigestInit_ex(hash->context, NULL, NULL) == 1
                  ? 0
                  : error_set(E_NOMEM, "SHA-256 failed");
    if (err < 0 || (err = hash_update(hash, data.data, data.len)) < 0)
        return err;
    if (EVP_DigestFinal_ex(hash->context, digest.bytes, NULL) != 1)
        return error_set(E_NOMEM, "SHA-256 failed");
    *out = digest;
    return 0;
}

void digest_hex(char out[DIGEST_HEX_SIZE], const struct digest *digest)
{
    static const char digits[] = "0123456789abcdef";

    for (size_t i = 0; i < DIGEST_SIZE; i++) {
        out[2 * i] = digits[digest->bytes[i] >> 4];
        out[2 * i + 1] = digits[digest->bytes[i] & 15];
    }
    out[2 * DIGEST_SIZE] = '\0';
}

static int hex_value(uint8_t c)
{
    return c >= '0' && c <= '9' ? c - '0' : c >= 'a' && c <= 'f' ? c - 'a' + 10 : 16;
}

int digest_parse(struct digest *out, struct bytes hex)
{
    struct digest digest;

    if (hex.len != 2 * DIGEST_SIZE)
        return error_set(E_INVALID, "a SHA-256 has 64 hex digits, not %zu", hex.len);
    for (size_t i = 0; i < DIGEST_SIZE; i++) {
        int high = hex_value(hex.data[2 * i]), low = hex_value(hex.data[2 * i + 1]);
        if (high > 15 || low > 15)
            return error_set(E_INVALID, "a SHA-256 is written in lower-case hex digits");
        digest.bytes[i] = (uint8_t)(high << 4 | low);
    }
    *out = digest;
    return 0;
}

bool digest_equal(const struct digest *a, const struct digest *b)
{
    return memcmp(a->bytes, b->bytes, DIGEST_SIZE) == 0;
}
