/* macOS and the BSDs: wait for the kernel's word that the file was unlocked, then try again.
 *
 * The word may be missed (another kind of lock, a file system that does not send it), so no wait is longer than the
 * polling interval. Cancelling from another thread is an event of its own in the queue.
 */
#include "platform.h"

#ifdef HF__KQUEUE

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

static struct timespec shortest(int64_t left, int64_t poll) {
    int64_t length = left < poll ? left : poll;
    return (struct timespec){.tv_sec = (time_t)(length / SECOND), .tv_nsec = (long)(length % SECOND)};
}

/* Try whenever the queue says something, and at least at every polling interval. The first try comes after the file is
   watched: it may have been unlocked before. */
static int try_until(int queue, const hf__wait_order *order) {
    int rc;
    while ((rc = hf__lock_try(order->file, order->how, order->flags, false)) == HF_BUSY) {
        int64_t left = order->until - hf_now();
        if (left <= 0)
            return HF_BUSY;
        struct timespec limit = shortest(left, order->poll);
        struct kevent event;
        int events = hf__sys.kevent(queue, NULL, 0, &event, 1, &limit);
        if (events < 0)
            return errno == EINTR ? HF_INTERRUPTED : -ENOSYS;
        if (events > 0 && event.filter == EVFILT_USER)
            return HF_CANCELLED;
    }
    return rc;
}

static int watch(int queue, const hf__wait_order *order) {
    struct kevent changes[2];
    EV_SET(&changes[0], 0, EVFILT_USER, EV_ADD | EV_CLEAR, 0, 0, NULL);
    EV_SET(&changes[1], order->file, EVFILT_VNODE, EV_ADD | EV_CLEAR, NOTE_FUNLOCK | NOTE_DELETE, 0, NULL);
    if (hf__sys.kevent(queue, changes, 2, NULL, 0, NULL) != 0)
        return -ENOSYS;
    int rc = hf__waiter_enter(order->waiter, queue);
    if (rc != 0)
        return rc;
    rc = try_until(queue, order);
    (void)hf__waiter_leave(order->waiter);
    return rc;
}

int hf__wait_in_kernel(const hf__wait_order *order) {
    int queue = hf__sys.kqueue();
    if (queue < 0)
        return -ENOSYS;
    int rc = watch(queue, order);
    hf__sys.close(queue);
    return rc;
}

#endif
