/* Waiting by sleeping, and where the kernel cannot wait until a deadline. */
#include "../internal.h"
#include "sys.h"

#include <errno.h>

#define FIRST_TURN 200000000 /* nanoseconds */

int64_t hf_now(void) {
    struct timespec now;
    hf__sys.clock_gettime(CLOCK_MONOTONIC, &now);
    return (int64_t)now.tv_sec * 1000000000 + now.tv_nsec;
}

/* A signal interrupts a wait, unless it comes just before: see hf_wait(). Each turn costs the place in the kernel's
   queue, so they get longer. */
int64_t hf__wait_turn(int64_t waited) {
    return waited > FIRST_TURN ? waited : FIRST_TURN;
}

int hf__wait_asleep(hf_waiter *waiter, int64_t nanoseconds) {
    struct timespec length = {.tv_sec = (time_t)(nanoseconds / 1000000000),
                              .tv_nsec = (long)(nanoseconds % 1000000000)};
    int rc = hf__sys.nanosleep(&length, NULL);
    int interrupted = rc != 0 && errno == EINTR ? HF_INTERRUPTED : 0;
    int cancelled = hf__waiter_leave(waiter);
    return cancelled != 0 ? cancelled : interrupted;
}

#if !defined(__linux__) && !defined(HF__KQUEUE)

int hf__wait_in_kernel(const hf__wait_order *order) {
    (void)order;
    return -ENOSYS;
}

void hf__wait_end(const hf__wait_state *state) {
    (void)state;
}

#endif
