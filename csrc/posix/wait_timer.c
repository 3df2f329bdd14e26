/* Linux: wait in the locking call itself, and have a timer interrupt it.
 *
 * The timer sends a signal to this very thread when the time is over. Its handler does nothing, and is installed without
 * SA_RESTART, so that the blocked call returns EINTR. A signal that arrives just before the call blocks would be lost:
 * hence the timer repeats until the wait is over. Cancelling from another thread is setting the timer to now.
 *
 * Where a program makes the file system (FUSE), the call waits for that program, which need not hear of signals.
 */
#ifdef __linux__

#include "../internal.h"
#include "kernlock.h"
#include "sys.h"

#include <errno.h>

#define SECOND 1000000000
#define REPEAT 1000000 /* nanoseconds between the signals of a timer that went off */

static void wake(int number) {
    (void)number;
}

/* A signal that is ours: one that has our handler, or that nobody handles and gets it now. 0 when there is none. Asked
   anew for each wait, because others may install handlers at any time. Never one of the last two: a program that QEMU
   runs for another processor may ask for their handlers, but cannot get them. */
static int wake_signal(void) {
    for (int number = SIGRTMAX - 2; number >= SIGRTMIN; number--) {
        struct sigaction current;
        if (hf__sys.sigaction(number, NULL, &current) != 0 || ((unsigned)current.sa_flags & SA_SIGINFO))
            continue;
        if (current.sa_handler == wake)
            return number;
        if (current.sa_handler == SIG_DFL) {
            struct sigaction ours = {.sa_handler = wake};
            if (hf__sys.sigaction(number, &ours, NULL) == 0)
                return number;
        }
    }
    return 0;
}

static int set_timer(timer_t timer, int flags, int64_t first) {
    struct itimerspec value = {
        .it_value = {.tv_sec = (time_t)(first / SECOND), .tv_nsec = (long)(first % SECOND)},
        .it_interval = {.tv_nsec = REPEAT},
    };
    return hf__sys.timer_settime(timer, flags, &value, NULL);
}

void hf__wait_end(const hf__wait_state *timer) {
    (void)set_timer(*timer, 0, 1);
}

/* Wait with a timer that is running. */
static int wait_with(timer_t timer, const hf__wait_order *order) {
    int rc = hf__waiter_enter(order->waiter, timer);
    if (rc != 0)
        return rc;
    rc = hf__lock_call(order->file, order->how, order->flags, true);
    int cancelled = hf__waiter_leave(order->waiter);
    if (rc != HF_INTERRUPTED)
        return rc;
    if (cancelled != 0)
        return cancelled;
    return hf_now() >= order->until ? HF_BUSY : HF_INTERRUPTED;
}

#define FUSE 0x65735546 /* the type of such file systems */

static bool is_made_by_a_program(int fd) {
    struct statfs status;
    return hf__sys.fstatfs(fd, &status) == 0 && status.f_type == FUSE;
}

int hf__wait_in_kernel(const hf__wait_order *order) {
    if (is_made_by_a_program(order->file))
        return -ENOSYS;
    int number = wake_signal();
    timer_t timer;
    if (number == 0 || hf__sys.thread_timer_create(number, &timer) != 0)
        return -ENOSYS;

    if (set_timer(timer, TIMER_ABSTIME, order->until) == 0) {
        sigset_t ours, before;
        sigemptyset(&ours);
        sigaddset(&ours, number);
        if (hf__sys.thread_sigmask(SIG_UNBLOCK, &ours, &before) == 0) {
            int rc = wait_with(timer, order);
            hf__sys.timer_delete(timer); /* before the signal is blocked again, or a last one would stay pending */
            if (sigismember(&before, number))
                hf__sys.thread_sigmask(SIG_SETMASK, &before, NULL);
            return rc;
        }
    }
    hf__sys.timer_delete(timer);
    return -ENOSYS;
}

#endif
