/* What another program is told of credentials (git_options.h). See credentials.h. */
#ifndef STORE_CREDENTIALS_PARTS_H
#define STORE_CREDENTIALS_PARTS_H

#include "store/credentials.h"
#include "store/login.h"

/* The address, taken apart. */
const struct url *credentials_parts(const struct credentials *credentials);
/* What the server took last, over http; NULL where it wanted nothing. */
const struct login *credentials_login(const struct credentials *credentials);
/* The file of certificates that was named, or NULL: the system's. */
const char *credentials_authority(const struct credentials *credentials);
/* GIT_SSH_COMMAND or core.sshCommand, as it was found, or NULL. */
const char *credentials_ssh_command(const struct credentials *credentials);

#endif
