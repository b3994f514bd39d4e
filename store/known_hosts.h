/*
 * Which host keys are known: OpenSSH's known_hosts files, read as sshd(8) describes them: names,
 * patterns, hashed names, @revoked. Host certificates (@cert-authority) are none of libssh2's.
 *
 * libgit2 reads only ~/.ssh/known_hosts, asks the server for the kind of key of the first line that
 * it finds there, often one that libssh2 and the server have no common algorithm for, and takes a
 * line for any port. So this part stands in front of the function that reads that file
 * (libssh2_knownhost_readfile) and gives one line of the best kind; what the server then shows is
 * compared here. Where libssh2 is linked another way the function is never called, and the
 * comparison still decides.
 */
#ifndef STORE_KNOWN_HOSTS_H
#define STORE_KNOWN_HOSTS_H

#include "format/buf.h"

enum known_host { HOST_MATCHES, HOST_UNKNOWN, HOST_CHANGED, HOST_REVOKED };

/* The name under which a host is listed, "host" or "[host]:port", in lower case; owned by the
   caller. `port` NULL: 22. */
MUST_CHECK int known_host_name(char **out, const char *host, const char *port);

/* `files`: paths, each ended by a NUL; what is missing, or no
   regular file, is empty. `key`: as the server sends it.
 *where: "file:line" of what decided, empty for HOST_UNKNOWN. */
MUST_CHECK int known_host_check(
    enum known_host *out, struct buf *where, struct bytes files, const char *name, struct bytes key
);

/* The line "name type base64" of a server's key. E_INVALID where it is none. */
MUST_CHECK int known_host_line(struct buf *out, const char *name, struct bytes key);

/* From now on libgit2 is given the best known key of this host, and no other line; *is_rsa: that is
   an RSA key, so that no other is known. Nothing known: none. */
MUST_CHECK int known_host_offer(bool *is_rsa, struct bytes files, const char *name);

#endif
