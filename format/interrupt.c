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
