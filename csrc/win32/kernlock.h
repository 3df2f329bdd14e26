#ifndef HOLDFAST_KERNLOCK_H
#define HOLDFAST_KERNLOCK_H

#include "../internal.h"

/* Ask for the lock: at once or never, or as an operation that goes on and sets the event of `overlapped` when it ends.
   0, HF_BUSY, HF_NO_LOCKS, an error, or HF__PENDING while the operation goes on. */
#define HF__PENDING 1
int hf__lock_call(hf__file file, int how, int flags, bool wait, OVERLAPPED *overlapped);

/* Wait until an operation has ended. Its result, as above; -ECANCELED when it was cancelled. */
int hf__lock_result(hf__file file, OVERLAPPED *overlapped);

#endif
