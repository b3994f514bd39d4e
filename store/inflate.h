/*
 * libgit2 up to 1.9 reads a loose object that ends too early for ever: inflate() makes no progress,
 * which is no error to it, and it asks again. So a program that links this calls inflate() through
 * a guard, which calls a stream that has no input left and no end what it is: damaged.
 */
#ifndef STORE_INFLATE_H
#define STORE_INFLATE_H

#include <stdbool.h>

/* Is it our inflate() that libraries call? Not where zlib was linked into one of them. */
bool inflate_is_guarded(void);

#endif
