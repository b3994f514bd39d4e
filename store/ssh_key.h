/*
 * What a private key is, before libssh2 tries it: libssh2 gives up the whole connection over a file
 * that it cannot read, and Debian 12's (1.10) signs with RSA only as ssh-rsa (SHA-1), which today's
 * servers refuse.
 */
#ifndef STORE_SSH_KEY_H
#define STORE_SSH_KEY_H

#include "format/buf.h"

struct ssh_key {
    bool is_usable; /* else `why` says why not */
    bool is_rsa, is_encrypted;
    const char *why;
};

/* *found false where there is no such file. */
MUST_CHECK int ssh_key_read(bool *found, struct ssh_key *out, const char *path);

/* The keys that an agent holds. */
struct ssh_agent {
    size_t keys, rsa_keys;
};
/* `path`: its socket. *found false where no agent answers there in ten seconds. */
void ssh_agent_ask(bool *found, struct ssh_agent *out, const char *path);

#endif
