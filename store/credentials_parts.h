/* What the files of credentials share, and what another program is told of them (git_options.h).
   See credentials.h. */
#ifndef STORE_CREDENTIALS_PARTS_H
#define STORE_CREDENTIALS_PARTS_H

#include "store/credentials.h"
#include "store/login.h"
#include "store/ssh_config.h"

enum source { FROM_ADDRESS, FROM_TOKEN, FROM_NETRC, FROM_HELPER, FROM_AGENT, FROM_FILE };

struct attempt {
    enum source source;
    const char *path; /* FROM_FILE */
};

struct credentials {
    struct url url;
    struct ssh_config ssh;
    char *host_name; /* in known_hosts */
    struct buf shown, connected;
    struct attempt *attempts;
    size_t count, capacity, next;
    bool is_out, is_accepted; /* the attempt before `next` is with the server; was taken */
    struct login login;       /* the last that was tried */
    char *authority;          /* a file of certificates, or NULL */
    struct buf tried;         /* what came of each attempt, each ended by a NUL */
    bool refused, refused_rsa, known_rsa;
    const char *locked; /* a key with a passphrase */
    int err;            /* that a callback ended with; its message stays the thread's */
};

/* credentials_try.c, credentials_check.c: libgit2's callbacks. */
int credentials_callback(
    git_credential **out, const char *url, const char *user, unsigned allowed, void *payload
);
int certificate_callback(git_cert *cert, int valid, const char *host, void *payload);

/* The address, taken apart. */
const struct url *credentials_parts(const struct credentials *credentials);
/* What the server took last, over http; NULL where it wanted nothing. */
const struct login *credentials_login(const struct credentials *credentials);
/* The file of certificates that was named, or NULL: the system's. */
const char *credentials_authority(const struct credentials *credentials);
/* GIT_SSH_COMMAND or core.sshCommand, as it was found, or NULL. */
const char *credentials_ssh_command(const struct credentials *credentials);

#endif
