#include "format/interrupt.h"

volatile sig_atomic_t interrupt_flag;

int interrupt_check(void)
{
    if (interrupt_flag)
        return error_set(E_INTERRUPTED, "interrupted");
    return 0;
}

void progress_update(struct progress *progress, uint64_t done, uint64_t total)
{
    if (progress)
        progress->update(progress, done, total);
}

void progress_sum_init(struct progress_sum *out, struct progress *progress, uint64_t total)
{
    *out = (struct progress_sum){progress, PTHREAD_MUTEX_INITIALIZER, 0, total};
}

void progress_sum_release(struct progress_sum *sum)
{
    pthread_mutex_destroy(&sum->mutex);
}

void progress_add(struct progress_sum *sum, uint64_t bytes)
{
    pthread_mutex_lock(&sum->mutex);
    sum->done += bytes;
    progress_update(sum->progress, sum->done, sum->total);
    pthread_mutex_unlock(&sum->mutex);
}
