/*
 * Addresses of other repositories, taken apart: "https://user:secret@host:8443/path", and ssh's
 * short form "user@host:path". Whatever has neither form is a path on this machine.
 *
 * A secret in an address is for one connection: what is shown or stored comes from url_shown().
 */
#ifndef STORE_URL_H
#define STORE_URL_H

#include "format/buf.h"

struct url {
    char *scheme;          /* "ssh", "https"; NULL: a path, and nothing else is set */
    char *user, *password; /* decoded; NULL where there is none */
    char *host;            /* without brackets; in a file:// empty */
    char *port;            /* NULL: the usual one */
    char *path;            /* as it stands: with its slash, or behind the short form's colon */
    bool is_short;
};

#define AUTO_URL(name) __attribute__((cleanup(url_release))) struct url name = {0}

/* E_INVALID: too long, control characters (also encoded ones, which would end a line of git's
   protocol with helpers), a host or user that begins with '-' (a program would take it for an
   option), a port that is none. The message does not repeat the text. */
MUST_CHECK int url_parse(struct url *out, const char *text);
/* Wipes the password. */
void url_release(struct url *url);

bool url_is_ssh(const struct url *url);
bool url_is_http(const struct url *url); /* https, too */
bool url_is_loopback(const struct url *url);

/* Append it without its password; the user only where the protocol needs it to reach the server
   (ssh). */
MUST_CHECK int url_append(struct buf *out, const struct url *url);

/* What may be shown or stored of an address, owned by the caller. A path stays as it is. */
MUST_CHECK int url_shown(char **out, const char *text);

#endif
