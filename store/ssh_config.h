/*
 * What OpenSSH would do for a host, as far as libssh2 can do it too: asked from OpenSSH itself
 * ("ssh -G", through GIT_SSH_COMMAND, core.sshCommand of the user's or the system's configuration,
 * or GIT_SSH, as git does), so ~/.ssh/config, -i, -p and -F count. Without an ssh that answers, its
 * defaults.
 */
#ifndef STORE_SSH_CONFIG_H
#define STORE_SSH_CONFIG_H

#include "store/url.h"

struct ssh_config {
    char *host, *port, *user; /* to connect to; port NULL: 22 */
    char *program;            /* the line for a shell that runs ssh, or NULL */
    char *alias;              /* HostKeyAlias: what the host is called in known_hosts, or NULL */
    char *agent;              /* IdentityAgent's socket, "none", or NULL: the environment's */
    char *command;            /* ProxyJump or ProxyCommand, which libssh2 has not, or NULL */
    struct buf named;         /* paths of keys that were named, each ended by a NUL */
    struct buf usual;         /* paths of those that OpenSSH tries by itself */
    struct buf known_hosts;   /* paths of files, the user's first */
    bool named_only;          /* IdentitiesOnly: of the agent's keys none */
};

#define AUTO_SSH_CONFIG(name)                                                                      \
    __attribute__((cleanup(ssh_config_release))) struct ssh_config name = {0}
void ssh_config_release(struct ssh_config *config);

/* `url` is one of ssh. E_NOMEM, E_IO. */
MUST_CHECK int ssh_config_read(struct ssh_config *out, const struct url *url);

#endif
