/* macOS and the BSDs: wait for the kernel's word that the file was unlocked, then try again.
 *
 * The word may be missed (another kind of lock, a file system that does not send it), so no wait is longer than the
 * polling interval. Cancelling from another thread is an event of its own in the queue.
 */
#ifndef __linux__

#include "../internal.h"
#include "kernlock.h"
#include "sys.h"

#include <errno.h>

#ifndef NOTE_FUNLOCK
#define NOTE_FUNLOCK 0 /* only macOS has it; elsewhere the interval alone ends a turn */
#endif

#define SECOND 1000000000

void hf__wait_end(const hf__wait_state *queue) {
    struct kevent now;
    EV_SET(&now, 0, EVFILT_USER, 0, NOTE_TRIGGER, 0, NULL);
    (void)hf__sys.kevent(*queue, &now, 1, NULL, 0, NULL);
}

/* Watch the file until it is unlocked, the time is up or the wait is cancelled. */
static int watch(int queue, const hf__wait_order *order, int64_t length) {
    struct kevent changes[2], event;
    EV_SET(&changes[0], 0, EVFILT_USER, EV_ADD | EV_CLEAR, 0, 0, NULL);
    EV_SET(&changes[1], order->file, EVFILT_VNODE, EV_ADD | EV_CLEAR, NOTE_FUNLOCK | NOTE_DELETE, 0, NULL);
    if (hf__sys.kevent(queue, changes, 2, NULL, 0, NULL) != 0)
        return -ENOSYS;
    int rc = hf__waiter_enter(order->waiter, queue);
    if (rc != 0)
        return rc;
    /* It may have been unlocked before it was watched. */
    rc = hf__lock_try(order->file, order->how, order->ofd);
    if (rc == HF_BUSY) {
        struct timespec limit = {.tv_sec = (time_t)(length / SECOND), .tv_nsec = (long)(length % SECOND)};
        if (hf__sys.kevent(queue, NULL, 0, &event, 1, &limit) < 0 && errno == EINTR)
            rc = HF_INTERRUPTED;
    }
    int cancelled = hf__waiter_leave(order->waiter);
    return rc != 0 && cancelled != 0 ? cancelled : rc;
}

int hf__wait_in_kernel(const hf__wait_order *order) {
    int queue = hf__sys.kqueue();
    if (queue < 0)
        return -ENOSYS;
    int64_t left = order->until - hf_now();
    int64_t length = left < order->poll ? left : order->poll;
    int rc = watch(queue, order, length > 0 ? length : 0);
    hf__sys.close(queue);
    return rc;
}

#endif
