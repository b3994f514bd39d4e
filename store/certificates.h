/*
 * libgit2 reads every certificate that the system trusts when it starts. Where it is built with
 * mbedTLS, as Debian's is, that takes 5 ms, more than all the rest of a small command, and most
 * commands open no connection. So this part stands in front of the function that libgit2 calls for
 * it and puts the file off. Whoever opens a TLS connection calls certificates_load() first; until
 * then no certificate is trusted, so that forgetting it refuses every server and accepts none.
 *
 * With another TLS library the function is never called, and nothing changes.
 */
#ifndef STORE_CERTIFICATES_H
#define STORE_CERTIFICATES_H

#include "format/error.h"

/* git_libgit2_init(), without the certificates. What it returns. Once in a process. */
MUST_CHECK int certificates_put_off(void);

/* Trust the certificates in this file, or, where `path` is NULL, read the file that was put off, if
   one was. E_IO. Any number of times. */
MUST_CHECK int certificates_load(const char *path);

#endif
