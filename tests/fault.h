/*
 * Make the n-th allocation fail, and see how much was asked for. For tests that are linked with
 * -Wl,--wrap=calloc,--wrap=realloc (tests/meson.build): the project's code takes its memory through
 * these two.
 */
#ifndef TESTS_FAULT_H
#define TESTS_FAULT_H

#include <stdbool.h>
#include <stddef.h>

static int fault_after = -1;        /* this many succeed, then one fails; -1: none fails */
static size_t fault_largest;        /* allocation since it was set to 0 */
static void (*fault_instead)(void); /* is called where one would fail, and none does */

static bool fault_is_due(size_t bytes)
{
    if (bytes > fault_largest)
        fault_largest = bytes;
    if (fault_after < 0 || fault_after-- > 0)
        return false;
    if (fault_instead)
        fault_instead();
    return !fault_instead;
}

void *__real_realloc(void *p, size_t n);
void *__real_calloc(size_t count, size_t size);
void *__wrap_realloc(void *p, size_t n);
void *__wrap_calloc(size_t count, size_t size);

void *__wrap_realloc(void *p, size_t n)
{
    return fault_is_due(n) ? NULL : __real_realloc(p, n);
}

void *__wrap_calloc(size_t count, size_t size)
{
    return fault_is_due(count * size) ? NULL : __real_calloc(count, size);
}

#endif
