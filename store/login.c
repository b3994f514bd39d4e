/* A user's name and secret for one server. See login.h. */
#include "store/login.h"

#include <openssl/crypto.h>
#include <stdlib.h>
#include <string.h>

void secret_free(char *text)
{
    if (text)
        OPENSSL_cleanse(text, strlen(text));
    free(text);
}

void login_release(struct login *login)
{
    secret_free(login->user);
    secret_free(login->password);
    *login = (struct login){0};
}

int login_set(struct login *out, const char *user, const char *password)
{
    struct login login = {bytes_dup(text_bytes(user)), bytes_dup(text_bytes(password))};

    if (!login.user || !login.password) {
        login_release(&login);
        return error_wrap(E_NOMEM, "credentials");
    }
    *out = login;
    return 0;
}

int token_find(bool *found, struct login *out, const struct url *url)
{
    const char *token = getenv(TOKEN_VARIABLE);

    *found = false;
    if (!token || !*token)
        return 0;
    for (const char *at = token; *at; at++) {
        if ((unsigned char)*at < 0x20 || *at == 0x7f)
            return error_set(E_INVALID, "it holds a control character");
    }
    if (strcmp(url->scheme, "http") == 0 && !url_is_loopback(url))
        return error_set(E_INVALID, "not sent over http, where others can read it");
    int err = login_set(out, url->user ? url->user : "x-access-token", token);
    *found = err == 0;
    return err;
}
