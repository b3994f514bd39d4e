/* The name that a mistyped one was probably meant to be. */
#ifndef FORMAT_NEAREST_H
#define FORMAT_NEAREST_H

#include <stddef.h>

struct nearest {
    const char *text; /* as typed */
    const char *name; /* the best so far, NULL where none is near */
    size_t distance;
};

void nearest_init(struct nearest *nearest, const char *text);

/* Candidates of one distance: the first one stays. What is further away than half the letters of
   the longer of the two is not near; a name that begins with the text is. */
void nearest_offer(struct nearest *nearest, const char *name);

#endif
