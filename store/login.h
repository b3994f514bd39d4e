/*
 * A user's name and secret for one server, and where they come from besides the address: the
 * variable VERA_TOKEN, the file ~/.netrc (netrc.h), git's credential helpers (credential_helper.h).
 * Secrets are never in an argument, a message or a growing buffer, and are wiped when released.
 */
#ifndef STORE_LOGIN_H
#define STORE_LOGIN_H

#include "store/url.h"

struct login {
    char *user, *password; /* owned */
};

#define AUTO_LOGIN(name) __attribute__((cleanup(login_release))) struct login name = {0}
/* Wipes both. */
void login_release(struct login *login);

/* Copies. */
MUST_CHECK int login_set(struct login *out, const char *user, const char *password);

/* Wipe and free a text; NULL is nothing. */
void secret_free(char *text);

#define TOKEN_VARIABLE "VERA_TOKEN"
/* VERA_TOKEN as a password, the address's user or "x-access-token" as the user, which every host
   that has tokens takes. *found false where it is not set. A token is not sent in the clear: over
   http to another machine it is E_INVALID. */
MUST_CHECK int token_find(bool *found, struct login *out, const struct url *url);

#endif
