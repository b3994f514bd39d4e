#include "store/sha1.h"

#include <openssl/evp.h>

void sha1_release(struct sha1 *hash)
{
    EVP_MD_CTX_free(hash->context);
    hash->context = NULL;
}

int sha1_init(struct sha1 *hash)
{
    sha1_release(hash);
    hash->context = EVP_MD_CTX_new();
    if (!hash->context || EVP_DigestInit_ex(hash->context, EVP_sha1(), NULL) != 1)
        return error_set(E_NOMEM, "SHA-1 is not available");
    return 0;
}

int sha1_update(struct sha1 *hash, const void *data, size_t len)
{
    if (len && EVP_DigestUpdate(hash->context, data, len) != 1)
        return error_set(E_NOMEM, "SHA-1 failed");
    return 0;
}

int sha1_final(uint8_t out[SHA1_SIZE], struct sha1 *hash)
{
    if (EVP_DigestFinal_ex(hash->context, out, NULL) != 1)
        return error_set(E_NOMEM, "SHA-1 failed");
    sha1_release(hash);
    return 0;
}

int sha1_of(uint8_t out[SHA1_SIZE], struct bytes data)
{
    AUTO_SHA1(hash);
    int err;

    if ((err = sha1_init(&hash)) < 0 || (err = sha1_update(&hash, data.data, data.len)) < 0)
        return err;
    return sha1_final(out, &hash);
}
