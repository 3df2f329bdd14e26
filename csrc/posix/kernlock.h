#ifndef HOLDFAST_KERNLOCK_H
#define HOLDFAST_KERNLOCK_H

#include "../internal.h"

/* The locking call itself, waiting or not: 0, HF_BUSY, HF_INTERRUPTED, HF_NO_LOCKS, HF_READ_ONLY, -errno. */
int hf__lock_call(hf__file file, int how, int flags, bool wait);

#endif
