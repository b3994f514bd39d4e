/*
 * Ctrl-C without half-written files: the signal handler (cli/) only sets the flag; every long loop
 * asks interrupt_check() and unwinds like any other failure, so what was begun is removed by its
 * owner's scope. And progress: who does long work reports it to whoever asked.
 */
#ifndef FORMAT_INTERRUPT_H
#define FORMAT_INTERRUPT_H

#include <pthread.h>
#include <signal.h>
#include <stdint.h>

#include "format/error.h"

extern volatile sig_atomic_t interrupt_flag;

/* 0, or E_INTERRUPTED once the flag is set. */
MUST_CHECK int interrupt_check(void);

/* Told how many of `total` bytes are done; called often, so it must be cheap. May be called from
   one thread at a time. Everywhere a `struct progress *` is taken, NULL means nobody watches. */
struct progress {
    void (*update)(struct progress *self, uint64_t done, uint64_t total);
};

void progress_update(struct progress *progress, uint64_t done, uint64_t total);

/* The progress of work that several threads share: each adds what it did. */
struct progress_sum {
    struct progress *progress;
    pthread_mutex_t mutex;
    uint64_t done, total;
};

/* progress_sum_release() ends it. */
void progress_sum_init(struct progress_sum *out, struct progress *progress, uint64_t total);
void progress_sum_release(struct progress_sum *sum);
void progress_add(struct progress_sum *sum, uint64_t bytes);

#endif
