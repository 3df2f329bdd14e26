/* Waiting by sleeping, and where the kernel cannot wait until a deadline. */
#include "../internal.h"
#include "sys.h"

#include <errno.h>

int64_t hf_now(void) {
    struct timespec now;
    hf__sys.clock_gettime(CLOCK_MONOTONIC, &now);
    return (int64_t)now.tv_sec * 1000000000 + now.tv_nsec;
}

int hf__wait_asleep(hf_waiter *waiter, int64_t nanoseconds) {
    struct timespec length = {.tv_sec = (time_t)(nanoseconds / 1000000000), .tv_nsec = (long)(nanoseconds % 1000000000)};
    int rc = hf__sys.nanosleep(&length, NULL);
    int interrupted = rc != 0 && errno == EINTR ? HF_INTERRUPTED : 0;
    int cancelled = hf__waiter_leave(waiter);
    return cancelled != 0 ? cancelled : interrupted;
}
